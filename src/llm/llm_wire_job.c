/*
 * llm_wire_job.c: see llm_wire_job.h. The order of fields here is the format; src/client_wire.c
 * writes and reads the same order.
 */
#include "llm_wire_job.h"

#include <math.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

#define TEXT_MIN 4u /* bytes of an empty text */

/*
 * Copies a text of the frame into the arena, closed by NUL; bytes == NULL: it is absent, or the
 * frame is malformed (the reader knows). Counts what it takes, NUL included.
 */
static llm_text
copy_text(llm_wire_job *job, llm_wire_reader *r, bool *no_memory)
{
	size_t n;
	const char *bytes = llm_wire_get_text(r, &n);
	char *copy;

	if (bytes == NULL)
		return (llm_text){NULL, 0};
	if ((copy = llm_arena_strndup(job->arena, bytes, n)) == NULL)
		*no_memory = true;
	job->bytes += n + 1;
	return (llm_text){copy, n};
}

/*
 * Reads a list of texts; *n gets their number, at most max and at most as many as the rest of the
 * frame could hold, so that a count that lies allocates nothing.
 */
static const llm_text *
copy_texts(llm_wire_job *job, llm_wire_reader *r, uint32_t max, uint32_t *n, bool *no_memory)
{
	llm_text *texts;

	*n = llm_wire_get_count(r, max, TEXT_MIN);
	if (*n == 0)
		return NULL;
	if ((texts = llm_arena_alloc(job->arena, *n, sizeof(llm_text))) == NULL)
	{
		*no_memory = true;
		*n = 0;
		return NULL;
	}
	job->bytes += *n * sizeof(llm_text);
	for (uint32_t i = 0; i < *n; i++)
		texts[i] = copy_text(job, r, no_memory);
	return texts;
}

/* Reads the sampling parameters. */
static void
get_sampling(llm_wire_reader *r, llm_job *job)
{
	job->max_tokens = llm_wire_get_u32(r);
	job->sample.temperature = llm_wire_get_f32(r);
	job->sample.top_k = llm_wire_get_u32(r);
	job->sample.top_p = llm_wire_get_f32(r);
	job->sample.min_p = llm_wire_get_f32(r);
	job->sample.seed = llm_wire_get_u64(r);
}

/*
 * Makes room for the announced rows of both lists; rows2 is absent, one for all, or one a row. A
 * place costs 16 bytes, which are counted: an announcement alone is no way past the server's limit.
 */
static llm_status
make_rows(llm_wire_job *out, uint32_t n_rows, uint32_t n_rows2, llm_error *err)
{
	llm_job *job = &out->job;

	if (n_rows > LLM_WIRE_ROWS_MAX || (n_rows2 != 0 && n_rows2 != 1 && n_rows2 != n_rows))
		return llm_fail(err, LLM_E_RANGE, "a job cannot have %u and %u rows", n_rows, n_rows2);
	job->n_rows = n_rows;
	job->n_rows2 = n_rows2;
	out->bytes += ((uint64_t) n_rows + n_rows2) * sizeof(llm_text);
	job->rows = llm_arena_alloc(out->arena, n_rows > 0 ? n_rows : 1, sizeof(llm_text));
	job->rows2 = llm_arena_alloc(out->arena, n_rows2 > 0 ? n_rows2 : 1, sizeof(llm_text));
	if (job->rows == NULL || job->rows2 == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job of %u rows", n_rows);
	return LLM_OK;
}

/*
 * Reads all of a job but its rows, and makes room for these. First the frame's form (LLM_E_FORMAT:
 * the connection is at fault), then its numbers (LLM_E_RANGE: the job fails alone).
 */
llm_status
llm_wire_job_begin(llm_wire_reader *r, llm_wire_job *out, llm_error *err)
{
	llm_job *job = &out->job;
	bool no_memory = false;
	uint32_t n;
	uint32_t n_rows;
	uint32_t n_rows2;
	uint8_t kind;
	uint8_t class_;

	*out = (llm_wire_job){0};
	if ((out->arena = llm_arena_create()) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job");
	kind = llm_wire_get_u8(r);
	class_ = llm_wire_get_u8(r);
	job->flags = llm_wire_get_u32(r);
	llm_wire_get(r, job->salt.bytes, sizeof(job->salt.bytes));
	out->user = llm_wire_get_u32(r);
	out->function = (char *) copy_text(out, r, &no_memory).bytes;
	out->model = (char *) copy_text(out, r, &no_memory).bytes;
	job->system = copy_text(out, r, &no_memory);
	job->instruction = copy_text(out, r, &no_memory);
	job->schema = copy_text(out, r, &no_memory);
	job->labels = copy_texts(out, r, LLM_WIRE_LABELS_MAX, &job->n_labels, &no_memory);
	job->descriptions = copy_texts(out, r, LLM_WIRE_LABELS_MAX, &n, &no_memory);
	job->stops = copy_texts(out, r, LLM_WIRE_STOPS_MAX, &job->n_stops, &no_memory);
	job->allowed = copy_texts(out, r, LLM_WIRE_LABELS_MAX, &job->n_allowed, &no_memory);
	get_sampling(r, job);
	n_rows = llm_wire_get_u32(r);
	n_rows2 = llm_wire_get_u32(r);
	if (no_memory)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job");
	if (!llm_wire_complete(r) || out->model == NULL || out->function == NULL)
		return llm_fail(err, LLM_E_FORMAT, "malformed job");
	if (kind < LLM_JOB_GENERATE || kind > LLM_JOB_PREWARM || class_ > LLM_CLASS_BATCH ||
	    job->flags >= LLM_JOB_FLAGS)
		return llm_fail(err, LLM_E_RANGE, "unknown kind, class or flags of a job");
	if (n != 0 && n != job->n_labels)
		return llm_fail(err, LLM_E_RANGE, "%u labels do not go with %u descriptions", job->n_labels,
		                n);
	for (uint32_t i = 0; i < job->n_labels; i++)
		if (job->labels[i].n == 0)
			return llm_fail(err, LLM_E_RANGE, "label %u is empty", i);
	if (llm_sample_check(&job->sample, err) != LLM_OK)
		return err->code;
	job->kind = (llm_job_kind) kind;
	job->class_ = (llm_class) class_;
	job->model = out->model;
	return make_rows(out, n_rows, n_rows2, err);
}

/* Copies texts into the places that the frame names; each place once. */
llm_status
llm_wire_job_rows(llm_wire_reader *r, llm_wire_job *job, llm_error *err)
{
	bool second = llm_wire_get_u8(r) != 0;
	uint32_t first = llm_wire_get_u32(r);
	uint32_t have = second ? job->job.n_rows2 : job->job.n_rows;
	llm_text *rows = (llm_text *) (second ? job->job.rows2 : job->job.rows);
	uint32_t n = llm_wire_get_count(r, LLM_WIRE_ROWS_MAX, TEXT_MIN);
	bool no_memory = false;

	if (r->bad || first > have || n > have - first)
		return llm_fail(err, LLM_E_FORMAT, "malformed rows");
	for (uint32_t i = 0; i < n; i++)
	{
		if (rows[first + i].bytes != NULL)
			return llm_fail(err, LLM_E_FORMAT, "row %u was sent twice", first + i);
		rows[first + i] = copy_text(job, r, &no_memory);
		if (rows[first + i].bytes == NULL && !no_memory)
			rows[first + i] = (llm_text){"", 0};
	}
	if (no_memory)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the rows of a job");
	if (!llm_wire_complete(r))
		return llm_fail(err, LLM_E_FORMAT, "malformed rows");
	job->n_got += n;
	return LLM_OK;
}

/* Compares what came with what was announced. */
bool
llm_wire_job_ready(const llm_wire_job *job)
{
	return job->n_got == job->job.n_rows + job->job.n_rows2;
}

/* Frees the job with everything in it. */
void
llm_wire_job_free(llm_wire_job *job)
{
	llm_arena_destroy(job->arena);
	*job = (llm_wire_job){0};
}

/* A message, or an absent text. */
static void
put_string(llm_wire_writer *w, const char *s)
{
	llm_wire_put_text(w, s, s != NULL ? strlen(s) : 0);
}

/* Writes one row. */
static void
put_row(llm_wire_writer *w, const llm_row_result *result)
{
	llm_wire_put_u32(w, result->row);
	llm_wire_put_u8(w, (uint8_t) result->status);
	llm_wire_put_u8(w, (uint8_t) result->finish);
	put_string(w, result->status != LLM_OK ? result->message : NULL);
	llm_wire_put_text(w, result->text.bytes, result->text.n);
	llm_wire_put_u32(w, result->n_values);
	for (uint32_t i = 0; i < result->n_values; i++)
		llm_wire_put_f32(w, result->values[i]);
	llm_wire_put_f64(w, result->logprob);
	llm_wire_put_u32(w, result->n_tokens);
	llm_wire_put_u32(w, result->n_shared);
	llm_wire_put_u32(w, result->n_output);
}

/*
 * Finds the RESULTS frame that a row may join: the last thing written, and nothing of it sent.
 * w->frame may be out of date (SIZE_MAX when what it named has gone), so the header there is read
 * again. A frame over LLM_WIRE_CHUNK is left alone: the client must not wait for rows it could
 * have.
 */
static bool
can_join(const llm_wire_writer *w, size_t n_sent, uint64_t id)
{
	llm_wire_header h;

	return !w->failed && w->frame >= n_sent && w->frame < w->n &&
	       w->n - w->frame >= LLM_WIRE_HEADER + 4 && llm_wire_get_header(w->bytes + w->frame, &h) &&
	       h.type == LLM_WIRE_RESULTS && h.id == id &&
	       h.length == w->n - w->frame - LLM_WIRE_HEADER && h.length < LLM_WIRE_CHUNK;
}

/* Writes one row into the last frame, or into one of its own. */
void
llm_wire_put_result(llm_wire_writer *w, size_t n_sent, uint64_t id, const llm_row_result *result)
{
	llm_wire_reader r;
	uint32_t n;

	if (!can_join(w, n_sent, id))
	{
		llm_wire_begin(w, LLM_WIRE_RESULTS, id);
		llm_wire_put_u32(w, 0);
	}
	put_row(w, result);
	llm_wire_end(w);
	if (w->failed)
		return;
	r = (llm_wire_reader){w->bytes + w->frame + LLM_WIRE_HEADER, 4, false};
	n = llm_wire_get_u32(&r) + 1;
	for (int i = 0; i < 4; i++)
		w->bytes[w->frame + LLM_WIRE_HEADER + (size_t) i] = (uint8_t) (n >> (8 * i));
}

/* Writes a PIECE frame. */
void
llm_wire_put_piece(llm_wire_writer *w, uint64_t id, uint32_t row, llm_text piece)
{
	llm_wire_begin(w, LLM_WIRE_PIECE, id);
	llm_wire_put_u32(w, row);
	llm_wire_put_text(w, piece.bytes, piece.n);
	llm_wire_end(w);
}

/* Writes a DONE frame. */
void
llm_wire_put_done(llm_wire_writer *w, uint64_t id, llm_status status, const char *message,
                  const llm_job_stats *stats)
{
	llm_wire_begin(w, LLM_WIRE_DONE, id);
	llm_wire_put_u8(w, (uint8_t) status);
	put_string(w, message);
	llm_wire_put_u32(w, stats->n_rows);
	llm_wire_put_u32(w, stats->n_errors);
	llm_wire_put_u64(w, stats->n_prompt_tokens);
	llm_wire_put_u64(w, stats->n_shared_tokens);
	llm_wire_put_u64(w, stats->n_padding_avoided);
	llm_wire_put_u64(w, stats->n_output_tokens);
	llm_wire_put_u64(w, stats->n_draft_tokens);
	llm_wire_put_u64(w, stats->n_accepted_tokens);
	llm_wire_put_f64(w, stats->queue_ms);
	llm_wire_put_f64(w, stats->prefill_ms);
	llm_wire_put_f64(w, stats->decode_ms);
	llm_wire_end(w);
}

/* Writes an ERROR frame. */
void
llm_wire_put_error(llm_wire_writer *w, uint64_t id, llm_status status, const char *message)
{
	llm_wire_begin(w, LLM_WIRE_ERROR, id);
	llm_wire_put_u8(w, (uint8_t) status);
	put_string(w, message);
	llm_wire_end(w);
}

/* Doubles the buffer, or more; on failure it is as before. 4 kB at least, most replies fit. */
bool
llm_wire_grow(llm_wire_writer *w, size_t need)
{
	uint64_t want;
	uint8_t *grown;

	if (!pp_add_ok(w->n, need, &want) || want > SIZE_MAX / 2)
		return false;
	want = want * 2 < 4096 ? 4096 : want * 2;
	if ((grown = llm_realloc_array(w->bytes, (size_t) want, 1)) == NULL)
		return false;
	w->bytes = grown;
	w->capacity = (size_t) want;
	return true;
}
