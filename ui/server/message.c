/*
 * message.c: see message.h.
 *
 * The bytes come from a browser that has not shown its token yet, so this is fuzzed
 * (test/fuzz_studio.c). The reader of JSON is the engine's; it bounds depth and refuses bad UTF-8.
 */
#include "message.h"

#include <string.h>

#include "llm_alloc.h"
#include "llm_json.h"
#include "text.h"

/* What the fields of a message of each kind must be; "t" names the kind. */
static const struct
{
	const char *name;
	bool has_id;
	const char *text; /* the member that text is, required */
	bool has_login, has_args;
} forms[] = {
    [STUDIO_HELLO] = {"hello", false, "token", false, false},
    [STUDIO_OPEN] = {"open", false, NULL, true, false},
    [STUDIO_ASK] = {"ask", true, "sql", false, true},
    [STUDIO_RUN] = {"run", true, "sql", false, false},
    [STUDIO_CANCEL] = {"cancel", false, NULL, false, false},
    [STUDIO_TICKET] = {"ticket", false, NULL, false, false},
};

/* Copies a string; absent and null give NULL. False when it is something else. */
static bool
copy_string(const llm_json *node, char **out)
{
	const char *text;
	size_t bytes;

	*out = NULL;
	if (llm_json_get_kind(node) == LLM_JSON_NULL)
		return true;
	if (!llm_json_string(node, &text, &bytes) || memchr(text, '\0', bytes) != NULL)
		return false;
	*out = llm_strndup(text, bytes);
	return *out != NULL;
}

/* Reads the arguments of a question. */
static bool
read_args(const llm_json *args, StudioMessage *out)
{
	uint64_t n = llm_json_size(args);

	if (llm_json_get_kind(args) != LLM_JSON_NULL && llm_json_get_kind(args) != LLM_JSON_ARRAY)
		return false;
	if (n > STUDIO_ARGS_MAX)
		return false;
	for (uint64_t i = 0; i < n; i++)
	{
		if (!copy_string(llm_json_item(args, i), &out->args[i]))
			return false;
		out->n_args++;
	}
	return true;
}

/* Reads the fields that the kind of a message has; the reason when one is wrong, else NULL. */
static const char *
read_fields(const llm_json *root, StudioMessage *out)
{
	const char *text = forms[out->kind].text;

	if (forms[out->kind].has_id && !llm_json_i64(llm_json_member(root, "id"), &out->id))
		return "id must be an integer";
	if (text != NULL &&
	    (!copy_string(llm_json_member(root, text), &out->text) || out->text == NULL))
		return "a text is missing or holds a NUL byte";
	if (forms[out->kind].has_login &&
	    (!copy_string(llm_json_member(root, "user"), &out->user) ||
	     !copy_string(llm_json_member(root, "password"), &out->password) ||
	     !copy_string(llm_json_member(root, "database"), &out->database)))
		return "user, password and database must be strings";
	if (forms[out->kind].has_args && !read_args(llm_json_member(root, "args"), out))
		return "args must be at most eight strings or nulls";
	return NULL;
}

/* Finds the kind of a message; false when there is none such. */
static bool
read_kind(const llm_json *root, StudioMessage *out)
{
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if (llm_json_is(llm_json_member(root, "t"), forms[i].name))
		{
			out->kind = (StudioKind) i;
			return true;
		}
	return false;
}

/* Reads one message. */
bool
message_read(const char *data, size_t bytes, StudioMessage *out, const char **reason)
{
	llm_json_doc *doc = NULL;
	llm_error err;

	*out = (StudioMessage){0};
	*reason = NULL;
	if (llm_json_parse(data, bytes, &doc, &err) != LLM_OK)
		*reason = "not JSON";
	else if (!read_kind(llm_json_root(doc), out))
		*reason = "a message of no known kind";
	else
		*reason = read_fields(llm_json_root(doc), out);
	llm_json_free(doc);
	if (*reason != NULL)
		message_free(out);
	return *reason == NULL;
}

/* Frees a message. */
void
message_free(StudioMessage *message)
{
	if (message->password != NULL)
		text_wipe(message->password, strlen(message->password));
	llm_free(message->text);
	llm_free(message->user);
	llm_free(message->password);
	llm_free(message->database);
	for (int i = 0; i < message->n_args; i++)
		llm_free(message->args[i]);
	*message = (StudioMessage){0};
}
