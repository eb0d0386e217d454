/*
 * llm_model_chat.c: finds the chat template that a model's files carry.
 *
 * GGUF keeps it in its metadata. In folders it stands in chat_template.jinja (newer ones) or in
 * tokenizer_config.json, as a string or as a list of named ones of which "default" counts. Only its
 * text is wanted, to recognise the family by (llm_chat.h); it is never run.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "llm_model_internal.h"

#define TEMPLATE_BYTES_MAX ((size_t) 1 << 20)

/* Copies text into *out. */
static llm_status
copy_text(const char *source, size_t n, char **out, size_t *bytes, llm_error *err)
{
	if ((*out = llm_strndup(source, n)) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory");
	*bytes = n;
	return LLM_OK;
}

/* Reads an open template file. */
static llm_status
read_file(FILE *file, const char *path, char **text, size_t *bytes, llm_error *err)
{
	char *buffer = llm_malloc(TEMPLATE_BYTES_MAX);
	llm_status status;
	size_t n;

	if (buffer == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory");
	n = fread(buffer, 1, TEMPLATE_BYTES_MAX, file);
	if (ferror(file))
		status = llm_fail(err, LLM_E_IO, "could not read \"%.180s\"", path);
	else if (n == TEMPLATE_BYTES_MAX)
		status = llm_fail(err, LLM_E_FORMAT, "\"%.180s\" is too long", path);
	else
		status = copy_text(buffer, n, text, bytes, err);
	llm_free(buffer);
	return status;
}

/* Reads chat_template.jinja beside the weights; no such file is no failure. */
static llm_status
template_of_file(llm_weights *w, char **text, size_t *bytes, llm_error *err)
{
	char path[4096];
	llm_status status;
	FILE *file;

	if (snprintf(path, sizeof(path), "%s/chat_template.jinja", llm_weights_path(w)) >=
	    (int) sizeof(path))
		return llm_fail(err, LLM_E_RANGE, "the path of the model is too long");
	if ((file = fopen(path, "rbe")) == NULL)
		return errno == ENOENT ? LLM_OK
		                       : llm_fail(err, LLM_E_IO, "could not open \"%.180s\": %s", path,
		                                  strerror(errno));
	status = read_file(file, path, text, bytes, err);
	fclose(file);
	return status;
}

/* The template in tokenizer_config.json. */
static llm_status
template_of_config(llm_weights *w, char **text, size_t *bytes, llm_error *err)
{
	const llm_json *config;
	const llm_json *node;
	const char *source;
	size_t n;
	llm_status status;

	if ((status = llm_weights_json(w, "tokenizer_config.json", &config, err)) != LLM_OK)
		return status;
	node = llm_json_member(config, "chat_template");
	for (uint64_t i = 0; llm_json_get_kind(node) == LLM_JSON_ARRAY && i < llm_json_size(node); i++)
		if (llm_json_is(llm_json_member(llm_json_item(node, i), "name"), "default"))
			node = llm_json_member(llm_json_item(node, i), "template");
	if (!llm_json_string(node, &source, &n))
		return LLM_OK;
	return copy_text(source, n, text, bytes, err);
}

/* Looks where the format keeps it. */
llm_status
model_chat_template(llm_weights *w, char **text, size_t *bytes, llm_error *err)
{
	const llm_meta *meta;
	const char *source;
	uint64_t n;
	llm_status status;

	*text = NULL;
	*bytes = 0;
	if (llm_weights_get_format(w) == LLM_FORMAT_GGUF)
	{
		meta = llm_weights_meta(w, "tokenizer.chat_template");
		if (meta == NULL || meta->kind != LLM_META_STRING || !llm_meta_string(meta, 0, &source, &n))
			return LLM_OK;
		return copy_text(source, (size_t) n, text, bytes, err);
	}
	status = template_of_file(w, text, bytes, err);
	if (status == LLM_OK && *text == NULL)
		status = template_of_config(w, text, bytes, err);
	return status;
}
