/*
 * fuzz_remote.c: fuzz target of the replies of remote endpoints.
 *
 * The first byte says what was asked for, and whether the reply is a stream (which then comes in
 * pieces of every length); the rest is the reply's body. Whatever it is, every row that is given as
 * good must be what its kind of job promises.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_remote_impl.h"
#include "llm_unicode.h"

#define ROWS 3u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const llm_text rows[ROWS] = {{"a", 1}, {"b", 1}, {"c", 1}};
static const llm_text labels[3] = {{"bug", 3}, {"feature request", 15}, {"feature praise", 14}};
static const char schema[] =
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"integer\",\"null\"]},"
    "\"b\":{\"type\":\"array\",\"items\":{\"enum\":[\"x\",1,null]}},"
    "\"c\":{\"anyOf\":[{\"const\":{\"d\":[]}},{\"minLength\":2}]}}}";

/* What may be asked for. */
static const llm_job jobs[] = {
    {.kind = LLM_JOB_GENERATE, .flags = LLM_JOB_STREAM},
    {.kind = LLM_JOB_GENERATE, .schema = {schema, sizeof(schema) - 1}},
    {.kind = LLM_JOB_CLASSIFY, .labels = labels, .n_labels = 3},
    {.kind = LLM_JOB_CLASSIFY, .flags = LLM_JOB_MULTI, .labels = labels, .n_labels = 3},
    {.kind = LLM_JOB_JUDGE},
    {.kind = LLM_JOB_EMBED},
    {.kind = LLM_JOB_RELEVANCE, .rows2 = rows, .n_rows2 = 1},
    {.kind = LLM_JOB_RELEVANCE, .rows2 = rows, .n_rows2 = ROWS}};

/* Checks a row. */
static void
on_row(void *user, const llm_row_result *result)
{
	const llm_job *job = user;
	double sum = 0;

	if (result->row >= ROWS || result->n_shared > result->n_tokens)
		abort();
	if (result->status != LLM_OK)
		return;
	for (uint32_t i = 0; i < result->n_values; i++)
	{
		if (!isfinite(result->values[i]))
			abort();
		sum += result->values[i];
	}
	if (job->kind == LLM_JOB_CLASSIFY && !(job->flags & LLM_JOB_MULTI) && fabs(sum - 1) > 1e-3)
		abort();
	if (job->kind == LLM_JOB_JUDGE && !(sum >= 0 && sum <= 1.001))
		abort();
	if (result->text.n > 0 && (memchr(result->text.bytes, '\0', result->text.n) != NULL ||
	                           !llm_utf8_valid(result->text.bytes, result->text.n)))
		abort();
}

/* Takes a piece. */
static void
on_piece(void *user, uint32_t row, llm_text piece)
{
	(void) user;
	if (row >= ROWS || piece.bytes == NULL || !llm_utf8_valid(piece.bytes, piece.n))
		abort();
}

/* Hands the reply to the reader, whole or as a stream. */
static void
give_reply(remote_call *call, const char *bytes, size_t n, bool stream)
{
	size_t piece = 1;

	call->stream.on = stream && remote_streams(call->job);
	if (!call->stream.on)
	{
		llm_buffer_put(&call->reply, bytes, n);
		return;
	}
	for (; n > 0; piece = piece % 7 + 1)
	{
		size_t now = piece < n ? piece : n;

		if (!remote_stream_take(call, bytes, now))
		{
			if (call->stream.error.code == LLM_OK && !call->stream.ended)
				abort();
			return;
		}
		bytes += now;
		n -= now;
	}
}

/* Reads one reply. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const llm_endpoint decoder = {.name = "far"};
	static const llm_endpoint embedder = {.name = "far", .embeds = true};
	bool done[ROWS] = {false};
	float values[3];
	remote_held held[2 * ROWS] = {{0}};
	llm_job job;
	remote_job rj = {.job = &job, .done = done, .held = held, .values = values};
	remote_call call = {.job = &rj, .n = 1};
	char word[64];
	llm_error err;

	if (bytes == 0)
		return 0;
	job = jobs[(data[0] & 0x3f) % (sizeof(jobs) / sizeof(jobs[0]))];
	job.user = &job;
	job.on_row = on_row;
	job.on_piece = on_piece;
	job.rows = rows;
	job.n_rows = ROWS;
	rj.endpoint = data[0] & 0x80 || job.kind == LLM_JOB_EMBED ? &embedder : &decoder;
	if (remote_is_texts(&rj))
		call.n = remote_is_cosine(&rj) ? ROWS + job.n_rows2 : ROWS;
	if (job.schema.bytes != NULL &&
	    llm_json_parse(job.schema.bytes, job.schema.n, &rj.schema, &err) != LLM_OK)
		abort();
	give_reply(&call, (const char *) data + 1, bytes - 1, data[0] & 0x40);
	remote_read_error(&call, word, sizeof(word));
	if (remote_read_reply(&call, &err) != LLM_OK)
		remote_units_failed(&call, &err);
	for (uint32_t i = 0; i < 2 * ROWS; i++)
		llm_free(held[i].values);
	llm_json_free(rj.schema);
	llm_buffer_free(&call.reply);
	remote_stream_reset(&call);
	return 0;
}
