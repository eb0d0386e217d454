/*
 * llm_remote_read.c: from reply bodies to results of rows.
 *
 * Nothing in a reply is believed: it must be JSON of the expected shape, its numbers finite and in
 * range, its texts without NUL bytes, its vectors of one length, each index once. What breaks this
 * is LLM_E_PROTOCOL, in words that do not repeat the reply.
 */
#include <math.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_cosine.h"
#include "llm_prompt.h"
#include "llm_remote_impl.h"

#define TOKENS_MAX 100000000u /* of one request: more is a lie */

/* Says that a reply breaks the protocol. */
static llm_status
broken(const remote_call *call, const char *what, llm_error *err)
{
	return llm_fail(err, LLM_E_PROTOCOL, "endpoint \"%s\" sent a malformed reply: %s",
	                call->job->endpoint->name, what);
}

/* Reads a count of tokens; absent ones are 0. */
static bool
read_tokens(const llm_json *node, uint32_t *out)
{
	uint64_t v = 0;

	if (llm_json_get_kind(node) != LLM_JSON_NULL && (!llm_json_u64(node, &v) || v > TOKENS_MAX))
		return false;
	*out = (uint32_t) v;
	return true;
}

/* Reads what the request used. */
llm_status
remote_read_usage(const remote_call *call, const llm_json *root, llm_row_result *used,
                  llm_error *err)
{
	const llm_json *usage = llm_json_member(root, "usage");
	const llm_json *details = llm_json_member(usage, "prompt_tokens_details");

	if (!read_tokens(llm_json_member(usage, "prompt_tokens"), &used->n_tokens) ||
	    !read_tokens(llm_json_member(usage, "completion_tokens"), &used->n_output) ||
	    !read_tokens(llm_json_member(details, "cached_tokens"), &used->n_shared) ||
	    used->n_shared > used->n_tokens)
		return broken(call, "impossible token counts", err);
	return LLM_OK;
}

/* Parses the body of a reply; an empty one has no memory. */
static llm_status
parse_reply(const remote_call *call, llm_json_doc **doc)
{
	llm_error ignored;

	return llm_json_parse(call->reply.n > 0 ? call->reply.bytes : "", call->reply.n, doc, &ignored);
}

/* The error word of a reply: OpenAI's {"error": {"code" or "type": …}}. Words only, no prose: that
 * may repeat the prompt. */
void
remote_read_error(const remote_call *call, char *word, size_t size)
{
	llm_json_doc *doc = NULL;
	const llm_json *error;
	const char *text;
	size_t n;

	word[0] = '\0';
	if (parse_reply(call, &doc) != LLM_OK)
		return;
	error = llm_json_member(llm_json_root(doc), "error");
	if ((llm_json_string(llm_json_member(error, "code"), &text, &n) ||
	     llm_json_string(llm_json_member(error, "type"), &text, &n)) &&
	    n > 0 && n < size && strspn(text, "abcdefghijklmnopqrstuvwxyz_0123456789") == n)
		memcpy(word, text, n + 1);
	llm_json_free(doc);
}

/* Fails all rows that wait for a call. */
void
remote_units_failed(remote_call *call, const llm_error *why)
{
	remote_job *job = call->job;
	uint32_t n_rows2 = job->job->n_rows2;

	for (uint32_t u = call->first; u < call->first + call->n; u++)
	{
		if (!remote_is_cosine(job))
			remote_row_failed(job, remote_is_multi(job) ? u / job->job->n_labels : u, why);
		else if (u >= n_rows2)
			remote_row_failed(job, u - n_rows2, why);
		else if (n_rows2 > 1)
			remote_row_failed(job, u, why);
		else
			for (uint32_t i = 0; i < job->job->n_rows; i++)
				remote_row_failed(job, i, why);
	}
}

/* ---- texts --------------------------------------------------------------------------------- */

/* Finds the text of a choice: of a chat's message, or of a completion. */
static llm_status
read_text(const remote_call *call, const llm_json *choice, llm_text *out, llm_error *err)
{
	const llm_json *message = llm_json_member(choice, "message");
	const llm_json *text =
	    message != NULL ? llm_json_member(message, "content") : llm_json_member(choice, "text");

	if (!llm_json_string(text, &out->bytes, &out->n))
		return broken(call, "it has no text", err);
	if (memchr(out->bytes, '\0', out->n) != NULL)
		return broken(call, "its text has NUL bytes", err);
	return LLM_OK;
}

/* Cuts white space, and the fence that chat models like to put around JSON, off a text. */
static llm_text
bare_json(llm_text t)
{
	static const char space[] = " \t\r\n";
	const char *line;

	while (t.n > 0 && strchr(space, t.bytes[t.n - 1]) != NULL)
		t.n--;
	while (t.n > 0 && strchr(space, t.bytes[0]) != NULL)
		t = (llm_text){t.bytes + 1, t.n - 1};
	if (t.n < 6 || memcmp(t.bytes, "```", 3) != 0 || memcmp(t.bytes + t.n - 3, "```", 3) != 0 ||
	    (line = memchr(t.bytes, '\n', t.n)) == NULL)
		return t;
	return (llm_text){line + 1, (size_t) (t.bytes + t.n - 3 - (line + 1))};
}

/* Holds an answer to its schema. */
static llm_status
check_schema(const remote_call *call, llm_text *text, llm_error *err)
{
	const remote_job *job = call->job;
	llm_json_doc *doc = NULL;
	llm_status status = LLM_OK;
	llm_error ignored;

	*text = bare_json(*text);
	if (llm_json_parse(text->bytes, text->n, &doc, &ignored) != LLM_OK ||
	    !remote_fits_schema(llm_json_root(job->schema), llm_json_root(doc)))
		status = llm_fail(err, LLM_E_PROTOCOL,
		                  "the answer of endpoint \"%s\" does not fit the JSON schema",
		                  job->endpoint->name);
	llm_json_free(doc);
	return status;
}

/* Gives a generated text. */
static llm_status
read_generated(const remote_call *call, const llm_json *choice, llm_row_result *result,
               llm_error *err)
{
	remote_job *job = call->job;
	bool cut = llm_json_is(llm_json_member(choice, "finish_reason"), "length");
	llm_status status = read_text(call, choice, &result->text, err);

	/* A JSON text that the token limit has cut off is for the caller to report, as it does for
	 * local models. */
	if (status == LLM_OK && job->schema != NULL && !cut)
		status = check_schema(call, &result->text, err);
	if (status != LLM_OK)
		return status;
	result->finish = cut ? LLM_FINISH_LENGTH : LLM_FINISH_END;
	if ((job->job->flags & LLM_JOB_STREAM) && job->job->on_piece != NULL)
		job->job->on_piece(job->job->user, call->first, result->text);
	remote_row_done(job, result);
	return LLM_OK;
}

/* ---- labels -------------------------------------------------------------------------------- */

/* Takes one label's probability of a row that has several of them. */
static llm_status
take_part(const remote_call *call, float p, const llm_row_result *used, llm_error *err)
{
	remote_job *job = call->job;
	uint32_t n_labels = job->job->n_labels;
	uint32_t row = call->first / n_labels;
	remote_held *held = &job->held[row];
	llm_row_result result = {.row = row, .n_values = n_labels};

	if (held->values == NULL)
	{
		if ((held->values = llm_malloc_array(n_labels, sizeof(float))) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for an endpoint's results");
		held->n_missing = n_labels;
	}
	held->values[call->first % n_labels] = p;
	held->n_tokens += used->n_tokens;
	held->n_output += used->n_output;
	if (--held->n_missing > 0)
		return LLM_OK;
	result.values = held->values;
	result.n_tokens = held->n_tokens;
	result.n_output = held->n_output;
	remote_row_done(job, &result);
	llm_free(held->values);
	held->values = NULL;
	return LLM_OK;
}

/* Gives the probabilities of labels: the job's own, or of yes. */
static llm_status
read_labels(const remote_call *call, const llm_json *choice, llm_row_result *result, llm_error *err)
{
	const llm_job *job = call->job->job;
	bool multi = remote_is_multi(call->job);
	bool own = job->kind == LLM_JOB_CLASSIFY && !multi;
	llm_text yes_no[2] = {{llm_prompt_yes_no[0], strlen(llm_prompt_yes_no[0])},
	                      {llm_prompt_yes_no[1], strlen(llm_prompt_yes_no[1])}};
	float p[2];
	float *values = own ? call->job->values : p;

	if (!remote_score_labels(choice, own ? job->labels : yes_no, own ? job->n_labels : 2, values))
		return llm_fail(err, LLM_E_PROTOCOL, "endpoint \"%s\" answered none of the labels",
		                call->job->endpoint->name);
	if (multi)
		return take_part(call, values[0], result, err);
	result->values = values;
	result->n_values = own ? job->n_labels : 1;
	remote_row_done(call->job, result);
	return LLM_OK;
}

/* ---- vectors ------------------------------------------------------------------------------- */

/* Reads a vector into new memory. */
static llm_status
read_vector(const remote_call *call, const llm_json *node, float **out, llm_error *err)
{
	remote_job *job = call->job;
	uint64_t n = llm_json_size(node);

	if (llm_json_get_kind(node) != LLM_JSON_ARRAY || n == 0 || n > REMOTE_VALUES_MAX)
		return broken(call, "it has no vector of a possible length", err);
	if (job->n_values == 0)
		job->n_values = (uint32_t) n;
	if (n != job->n_values)
		return broken(call, "its vectors are of different lengths", err);
	if ((*out = llm_malloc_array((size_t) n, sizeof(float))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for an endpoint's results");
	for (uint64_t i = 0; i < n; i++)
	{
		double v;

		if (!llm_json_double(llm_json_item(node, i), &v) || !isfinite((float) v))
		{
			llm_free(*out);
			return broken(call, "a vector holds what is no number", err);
		}
		(*out)[i] = (float) v;
	}
	return LLM_OK;
}

/* Gives the cosine of a row and its query, if both are there; a row's vector is not kept. */
static void
give_cosine(remote_job *job, uint32_t row)
{
	uint32_t n_rows2 = job->job->n_rows2;
	remote_held *text = &job->held[n_rows2 + row];
	remote_held *query = &job->held[n_rows2 > 1 ? row : 0];
	llm_row_result result = {.row = row, .n_values = 1};
	float value;

	if (text->values == NULL || query->values == NULL)
		return;
	value = llm_cosine(text->values, query->values, job->n_values);
	result.values = &value;
	result.n_tokens = text->n_tokens + (n_rows2 > 1 || row == 0 ? query->n_tokens : 0);
	remote_row_done(job, &result);
	llm_free(text->values);
	text->values = NULL;
	if (n_rows2 > 1)
	{
		llm_free(query->values);
		query->values = NULL;
	}
}

/* Takes the vector of one unit; passes the memory on. */
static void
take_vector(remote_job *job, uint32_t unit, float *vector, uint32_t n_tokens)
{
	uint32_t n_rows2 = job->job->n_rows2;
	llm_row_result result = {.row = unit,
	                         .values = vector,
	                         .n_values = job->n_values,
	                         .n_tokens = n_tokens};

	if (!remote_is_cosine(job))
	{
		remote_row_done(job, &result);
		llm_free(vector);
		return;
	}
	llm_free(job->held[unit].values);
	job->held[unit].values = vector;
	job->held[unit].n_tokens = n_tokens;
	if (unit >= n_rows2)
		give_cosine(job, unit - n_rows2);
	else
		for (uint32_t i = n_rows2 > 1 ? unit : 0; i < (n_rows2 > 1 ? unit + 1 : job->job->n_rows);
		     i++)
			give_cosine(job, i);
}

/* Takes the vectors of a call: each index once. */
static llm_status
read_vectors(const remote_call *call, const llm_json *root, const llm_row_result *used,
             llm_error *err)
{
	const llm_json *data = llm_json_member(root, "data");
	uint64_t seen = 0; /* a bit a text: there are at most REMOTE_EMBED_TEXTS */

	if (llm_json_get_kind(data) != LLM_JSON_ARRAY || llm_json_size(data) != call->n)
		return broken(call, "it has not as many vectors as there are texts", err);
	for (uint64_t i = 0; i < call->n; i++)
	{
		const llm_json *item = llm_json_item(data, i);
		uint64_t index = i;
		float *vector = NULL;

		if (llm_json_member(item, "index") != NULL &&
		    (!llm_json_u64(llm_json_member(item, "index"), &index) || index >= call->n))
			return broken(call, "a vector is of no text", err);
		if (seen >> index & 1)
			return broken(call, "two vectors are of one text", err);
		seen |= (uint64_t) 1 << index;
		if (read_vector(call, llm_json_member(item, "embedding"), &vector, err) != LLM_OK)
			return err->code;
		/* Servers count the tokens of a request; its texts get equal parts, the first the rest. */
		take_vector(call->job, call->first + (uint32_t) index, vector,
		            used->n_tokens / call->n + (index == 0 ? used->n_tokens % call->n : 0));
	}
	return LLM_OK;
}

/* Reads a reply. */
llm_status
remote_read_reply(remote_call *call, llm_error *err)
{
	llm_row_result result = {.row = call->first};
	llm_json_doc *doc = NULL;
	const llm_json *root;
	const llm_json *choice;
	llm_status status;

	if (call->stream.on)
		return remote_stream_finish(call, err);
	if (parse_reply(call, &doc) != LLM_OK)
		return broken(call, "it is not JSON", err);
	root = llm_json_root(doc);
	choice = llm_json_item(llm_json_member(root, "choices"), 0);
	status = remote_read_usage(call, root, &result, err);
	if (status == LLM_OK && remote_is_texts(call->job))
		status = read_vectors(call, root, &result, err);
	else if (status == LLM_OK && remote_is_labels(call->job))
		status = read_labels(call, choice, &result, err);
	else if (status == LLM_OK)
		status = read_generated(call, choice, &result, err);
	llm_json_free(doc);
	return status;
}
