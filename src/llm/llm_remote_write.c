/*
 * llm_remote_write.c: request bodies.
 *
 * The words of a prompt are those of llm_prompt.c, as for local models: prefix, row and suffix make
 * the user's message. Server-side prefix caches profit from the same order.
 */
#include <stdio.h>
#include <string.h>

#include "llm_prompt.h"
#include "llm_remote_impl.h"
#include "llm_unicode.h"

#define ANSWER_TOKENS_MIN 4u /* a short answer and what some models put before it */
#define ANSWER_TOKENS_MAX 64u

/* Appends the inside of a JSON string. */
static void
put_escaped(llm_buffer *b, const char *bytes, size_t n)
{
	size_t from = 0;
	char hex[8];

	for (size_t i = 0; i < n; i++)
	{
		unsigned char c = (unsigned char) bytes[i];

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		llm_buffer_put(b, bytes + from, i - from);
		snprintf(hex, sizeof(hex), "\\u%04x", c);
		llm_buffer_put_str(b, hex);
		from = i + 1;
	}
	if (n > from)
		llm_buffer_put(b, bytes + from, n - from);
}

/* Appends a JSON string. */
static void
put_string(llm_buffer *b, const char *bytes, size_t n)
{
	llm_buffer_put_str(b, "\"");
	put_escaped(b, bytes, n);
	llm_buffer_put_str(b, "\"");
}

/* Appends ,"key":number. */
static void
put_number(llm_buffer *b, const char *key, double value)
{
	char text[96];

	snprintf(text, sizeof(text), ",\"%s\":%.9g", key, value);
	llm_buffer_put_str(b, text);
}

/* Whether the units of a job are texts to embed. */
bool
remote_is_texts(const remote_job *job)
{
	return job->job->kind == LLM_JOB_EMBED || remote_is_cosine(job);
}

/* Whether a job's answer are probabilities of labels. */
bool
remote_is_labels(const remote_job *job)
{
	return job->job->kind == LLM_JOB_CLASSIFY || job->job->kind == LLM_JOB_JUDGE ||
	       job->job->kind == LLM_JOB_RELEVANCE;
}

/* Whether a job asks for cosines of embeddings. */
bool
remote_is_cosine(const remote_job *job)
{
	return job->job->kind == LLM_JOB_RELEVANCE && job->endpoint->embeds;
}

/* Whether a job judges each label by itself. */
bool
remote_is_multi(const remote_job *job)
{
	return job->job->kind == LLM_JOB_CLASSIFY && (job->job->flags & LLM_JOB_MULTI);
}

/* The text that a unit is about; of cosines the queries come first. */
llm_text
remote_unit_text(const remote_job *job, uint32_t unit)
{
	const llm_job *j = job->job;
	llm_text text;

	if (remote_is_cosine(job))
		text = unit < j->n_rows2 ? j->rows2[unit] : j->rows[unit - j->n_rows2];
	else if (remote_is_multi(job))
		text = j->rows[unit / j->n_labels];
	else
		text = j->rows[unit];
	return text.bytes != NULL ? text : (llm_text){"", 0};
}

/* Appends one message of a chat. */
static void
put_system(llm_buffer *b, llm_text system)
{
	if (system.bytes == NULL || system.n == 0)
		return;
	llm_buffer_put_str(b, "{\"role\":\"system\",\"content\":");
	put_string(b, system.bytes, system.n);
	llm_buffer_put_str(b, "},");
}

/* The most tokens that an answer may have. */
static uint32_t
max_tokens(const remote_job *job)
{
	const llm_job *j = job->job;
	size_t longest = 0;

	if (j->kind == LLM_JOB_GENERATE)
		return j->max_tokens > 0 ? j->max_tokens : 256;
	for (uint32_t i = 0; j->kind == LLM_JOB_CLASSIFY && i < j->n_labels; i++)
		longest = j->labels[i].n > longest ? j->labels[i].n : longest;
	longest += ANSWER_TOKENS_MIN; /* a token has a byte at least */
	return longest < ANSWER_TOKENS_MAX ? (uint32_t) longest : ANSWER_TOKENS_MAX;
}

/* Appends how to sample; greedy unless the job says otherwise. */
static void
put_sampling(llm_buffer *b, const remote_job *job)
{
	const llm_job *j = job->job;
	char seed[48];

	put_number(b, "max_tokens", max_tokens(job));
	put_number(b, "temperature", j->sample.temperature);
	if (j->sample.temperature > 0)
	{
		if (j->sample.top_p > 0 && j->sample.top_p < 1)
			put_number(b, "top_p", j->sample.top_p);
		/* Servers take a signed 64-bit number; some only 63 bits of it. */
		snprintf(seed, sizeof(seed), ",\"seed\":%lld", (long long) (j->sample.seed & INT32_MAX));
		llm_buffer_put_str(b, seed);
	}
	if (j->n_stops == 0)
		return;
	llm_buffer_put_str(b, ",\"stop\":[");
	for (uint32_t i = 0; i < j->n_stops; i++)
	{
		llm_buffer_put_str(b, i > 0 ? "," : "");
		put_string(b, j->stops[i].bytes, j->stops[i].n);
	}
	llm_buffer_put_str(b, "]");
}

/* Appends the extras that not all servers know; what is plain gets the schema in words. */
static void
put_extras(llm_buffer *b, const remote_call *call)
{
	const llm_job *j = call->job->job;

	if (call->level == REMOTE_PLAIN)
		return;
	if (remote_is_labels(call->job))
	{
		llm_buffer_put_str(b, ",\"logprobs\":true");
		put_number(b, "top_logprobs", REMOTE_TOP_LOGPROBS);
	}
	if (remote_streams(call->job))
		llm_buffer_put_str(b, call->level == REMOTE_FULL
		                          ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"
		                          : ",\"stream\":true");
	if (j->schema.bytes == NULL)
		return;
	llm_buffer_put_str(b, call->level == REMOTE_FULL
	                          ? ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":"
	                            "{\"name\":\"answer\",\"strict\":true,\"schema\":"
	                          : ",\"response_format\":{\"type\":\"json_object\",\"schema\":");
	llm_buffer_put(b, j->schema.bytes, j->schema.n);
	llm_buffer_put_str(b, call->level == REMOTE_FULL ? "}}" : "}");
}

/* Appends the words for a schema that the server is not told otherwise. */
static void
put_schema_words(llm_buffer *b, const remote_call *call)
{
	const llm_job *j = call->job->job;

	if (call->level != REMOTE_PLAIN || j->schema.bytes == NULL)
		return;
	llm_buffer_put_str(b, "\\n\\nAnswer with JSON alone, which fits this JSON schema: ");
	put_escaped(b, j->schema.bytes, j->schema.n);
}

/* Writes a request for a chat's next message, or for a raw completion. */
static llm_status
write_chat(remote_call *call, bool raw, llm_error *err)
{
	const remote_job *job = call->job;
	const llm_job *j = job->job;
	bool multi = remote_is_multi(job);
	llm_text row = remote_unit_text(job, call->first);
	llm_buffer *b = &call->body;
	llm_prompt p = {0};
	llm_status status =
	    llm_prompt_build(j, multi ? &j->labels[call->first % j->n_labels] : NULL,
	                     j->n_rows2 > 0 ? &j->rows2[j->n_rows2 > 1 ? call->first : 0] : NULL, &p,
	                     err);

	if (status != LLM_OK)
		return status;
	llm_buffer_put_str(b, "{\"model\":");
	put_string(b, job->endpoint->model, strlen(job->endpoint->model));
	llm_buffer_put_str(b, raw ? ",\"prompt\":\"" : ",\"messages\":[");
	if (!raw)
	{
		put_system(b, j->system);
		llm_buffer_put_str(b, "{\"role\":\"user\",\"content\":\"");
	}
	put_escaped(b, p.prefix, p.bytes_prefix);
	put_escaped(b, row.bytes, row.n);
	put_escaped(b, p.suffix, p.bytes_suffix);
	put_schema_words(b, call);
	llm_buffer_put_str(b, raw ? "\"" : "\"}]");
	put_sampling(b, job);
	put_extras(b, call);
	llm_buffer_put_str(b, "}");
	llm_prompt_free(&p);
	return LLM_OK;
}

/* Writes a request for the vectors of a call's texts. */
static void
write_texts(remote_call *call)
{
	const remote_job *job = call->job;
	llm_text head = job->job->kind == LLM_JOB_EMBED ? job->job->instruction : (llm_text){0};
	llm_buffer *b = &call->body;

	llm_buffer_put_str(b, "{\"model\":");
	put_string(b, job->endpoint->model, strlen(job->endpoint->model));
	llm_buffer_put_str(b, ",\"encoding_format\":\"float\",\"input\":[");
	for (uint32_t i = 0; i < call->n; i++)
	{
		llm_text text = remote_unit_text(job, call->first + i);

		llm_buffer_put_str(b, i > 0 ? ",\"" : "\"");
		put_escaped(b, head.bytes, head.n);
		put_escaped(b, text.bytes, text.n);
		llm_buffer_put_str(b, "\"");
	}
	llm_buffer_put_str(b, "]}");
}

/* Writes the body of a request. */
llm_status
remote_write_body(remote_call *call, const char **path, llm_error *err)
{
	bool raw = call->job->job->flags & LLM_JOB_RAW;
	llm_status status = LLM_OK;

	*path = remote_is_texts(call->job) ? "/embeddings" : raw ? "/completions" : "/chat/completions";
	if (remote_is_texts(call->job))
		write_texts(call);
	else
		status = write_chat(call, raw, err);
	if (status == LLM_OK && call->body.failed)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory for a request to an endpoint");
	if (status == LLM_OK && !llm_utf8_valid(call->body.bytes, call->body.n))
		status = llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
	return status;
}
