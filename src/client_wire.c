/*
 * client_wire.c: encoding of jobs, decoding of results. The order of fields is that of
 * src/llm/llm_wire_job.c.
 */
#include "client_wire.h"

#include "miscadmin.h"
#include "utils/memutils.h"

/*
 * Grows by malloc: the connection's buffer must survive any error, and growing must not raise one.
 */
bool
pp_wire_grow(llm_wire_writer *w, size_t need)
{
	size_t capacity = w->capacity > 0 ? w->capacity : 8192;
	uint8 *grown;

	while (capacity - w->n < need)
	{
		if (capacity > SIZE_MAX / 4)
			return false;
		capacity *= 2;
	}
	grown = realloc(w->bytes, capacity);
	if (grown == NULL)
		return false;
	w->bytes = grown;
	w->capacity = capacity;
	return true;
}

/* Of a fixed buffer: there is no more. */
bool
pp_wire_refuse(llm_wire_writer *w, size_t need)
{
	return false;
}

/* A text. */
static void
put_text(llm_wire_writer *w, PpText text)
{
	llm_wire_put_text(w, text.bytes, text.n);
}

/* A list of texts; NULL bytes are absent ones. */
static void
put_texts(llm_wire_writer *w, int n, const PpText *texts)
{
	llm_wire_put_u32(w, texts != NULL ? n : 0);
	for (int i = 0; texts != NULL && i < n; i++)
		put_text(w, texts[i]);
}

/* The bytes of a list of texts. */
static Size
texts_bytes(int n, const PpText *texts)
{
	Size bytes = 0;

	for (int i = 0; texts != NULL && i < n; i++)
		bytes += texts[i].n + sizeof(uint32);
	return bytes;
}

/* What a job's texts take, but for its rows. */
Size
pp_wire_job_bytes(const PpJob *job)
{
	return job->system.n + job->instruction.n + job->schema.n +
	       texts_bytes(job->n_labels, job->labels) + texts_bytes(job->n_labels, job->descriptions) +
	       texts_bytes(job->n_stops, job->stops) + texts_bytes(job->n_allowed, job->allowed);
}

/* Writes the JOB frame, and where else than in the engine the job runs. */
void
pp_wire_put_job(llm_wire_writer *w, uint64 id, const PpJob *job, const uint8 salt[16], int n_rows,
                int n_rows2)
{
	const char *model = job->endpoint != NULL  ? job->model
	                    : job->path[0] != '\0' ? job->path
	                                           : "dummy";

	llm_wire_begin(w, LLM_WIRE_JOB, id);
	llm_wire_put_u8(w, (uint8) job->kind);
	llm_wire_put_u8(w, job->interactive ? 0 : 1);
	llm_wire_put_u32(w, job->flags);
	llm_wire_put(w, salt, 16);
	llm_wire_put_u32(w, GetUserId());
	llm_wire_put_text(w, job->function, strlen(job->function));
	llm_wire_put_text(w, model, strlen(model));
	put_text(w, job->system);
	put_text(w, job->instruction);
	put_text(w, job->schema);
	put_texts(w, job->n_labels, job->labels);
	put_texts(w, job->n_labels, job->descriptions);
	put_texts(w, job->n_stops, job->stops);
	put_texts(w, job->n_allowed, job->allowed);
	llm_wire_put_u32(w, (uint32) job->max_tokens);
	llm_wire_put_f32(w, job->temperature);
	llm_wire_put_u32(w, 0); /* top_k: off */
	llm_wire_put_f32(w, job->top_p);
	llm_wire_put_f32(w, 0); /* min_p: off */
	llm_wire_put_u64(w, job->seed);
	llm_wire_put_u32(w, (uint32) n_rows);
	llm_wire_put_u32(w, (uint32) n_rows2);
	llm_wire_end(w);
	if (job->endpoint == NULL)
		return;
	llm_wire_begin(w, LLM_WIRE_ENDPOINT, id);
	llm_wire_put_text(w, job->path, strlen(job->path));
	llm_wire_put_text(w, job->endpoint, strlen(job->endpoint));
	llm_wire_end(w);
}

/* Writes a ROWS frame of about LLM_WIRE_CHUNK bytes, at least one row. */
int
pp_wire_put_rows(llm_wire_writer *w, uint64 id, bool second, const PpText *rows, int first,
                 int n_rows)
{
	Size bytes = 0;
	int end = first;

	while (end < n_rows && (end == first || bytes + rows[end].n < LLM_WIRE_CHUNK))
		bytes += rows[end++].n + 4;
	/* A text that is too long was refused before; an empty one keeps its place. */
	llm_wire_begin(w, LLM_WIRE_ROWS, id);
	llm_wire_put_u8(w, second ? 1 : 0);
	llm_wire_put_u32(w, (uint32) first);
	llm_wire_put_u32(w, (uint32) (end - first));
	for (int i = first; i < end; i++)
		put_text(w, rows[i].n <= PP_TEXT_MAX ? rows[i] : (PpText){"", 0});
	llm_wire_end(w);
	return end;
}

/* Copies a text of a frame into the request's memory, closed by NUL. */
static PpText
take_text(PpRequest *req, llm_wire_reader *r)
{
	size_t n;
	const char *bytes = llm_wire_get_text(r, &n);
	char *copy;

	if (bytes == NULL)
		return (PpText){NULL, 0};
	copy = MemoryContextAllocHuge(req->context, n + 1);
	memcpy(copy, bytes, n);
	copy[n] = '\0';
	return (PpText){copy, n};
}

/* Takes one row's result. */
static bool
take_row(PpRequest *req, llm_wire_reader *r, void (*count)(const PpRow *row))
{
	uint32 i = llm_wire_get_u32(r);
	PpRow dropped = {0};
	PpRow *row;
	float4 *values;

	if (r->bad || i >= (uint32) req->n_rows || (req->rows[i].done && !req->rows[i].refused))
		return false;
	row = req->rows[i].refused ? &dropped : &req->rows[i];
	row->status = llm_wire_get_u8(r);
	row->finish = llm_wire_get_u8(r);
	row->message = take_text(req, r).bytes;
	row->text = take_text(req, r);
	row->n_values = (int) llm_wire_get_count(r, LLM_WIRE_PAYLOAD_MAX, sizeof(float4));
	values = MemoryContextAllocHuge(req->context, Max(row->n_values, 1) * sizeof(float4));
	for (int k = 0; k < row->n_values; k++)
		values[k] = llm_wire_get_f32(r);
	row->values = values;
	row->logprob = llm_wire_get_f64(r);
	row->n_tokens = llm_wire_get_u32(r);
	row->n_shared = llm_wire_get_u32(r);
	row->n_output = llm_wire_get_u32(r);
	if (r->bad)
		return false;
	row->done = true;
	count(row);
	return true;
}

/* Takes the end of a job. */
static bool
take_done(PpRequest *req, llm_wire_reader *r)
{
	PpJobStats *s = &req->stats;

	req->status = llm_wire_get_u8(r);
	req->message = (char *) take_text(req, r).bytes;
	(void) llm_wire_get_u32(r); /* rows: known */
	s->n_errors = llm_wire_get_u32(r);
	s->n_prompt_tokens = llm_wire_get_u64(r);
	s->n_shared_tokens = llm_wire_get_u64(r);
	s->n_padding_avoided = llm_wire_get_u64(r);
	s->n_output_tokens = llm_wire_get_u64(r);
	(void) llm_wire_get_u64(r); /* drafts: proposed, accepted */
	(void) llm_wire_get_u64(r);
	s->queue_ms = llm_wire_get_f64(r);
	s->prefill_ms = llm_wire_get_f64(r);
	s->decode_ms = llm_wire_get_f64(r);
	req->done = true;
	return llm_wire_complete(r);
}

/* Takes a streamed piece. */
static bool
take_piece(PpRequest *req, llm_wire_reader *r)
{
	MemoryContext old = MemoryContextSwitchTo(req->context);

	(void) llm_wire_get_u32(r); /* row: streams have one */
	if (req->n_pieces == req->cap_pieces)
	{
		req->cap_pieces = Max(req->cap_pieces * 2, 16);
		req->pieces = req->pieces != NULL ? repalloc(req->pieces, req->cap_pieces * sizeof(PpText))
		                                  : palloc(req->cap_pieces * sizeof(PpText));
	}
	MemoryContextSwitchTo(old);
	req->pieces[req->n_pieces++] = take_text(req, r);
	return llm_wire_complete(r);
}

/* Takes one frame. */
bool
pp_wire_take(PpRequest *req, const llm_wire_header *h, const uint8 *payload,
             void (*count)(const PpRow *row))
{
	llm_wire_reader r = {payload, h->length, false};

	switch (h->type)
	{
		case LLM_WIRE_RESULTS:
			for (uint32 n = llm_wire_get_u32(&r); n > 0; n--)
				if (!take_row(req, &r, count))
					return false;
			return llm_wire_complete(&r);
		case LLM_WIRE_PIECE:
			return take_piece(req, &r);
		case LLM_WIRE_DONE:
			return take_done(req, &r);
		case LLM_WIRE_ERROR:
			req->status = llm_wire_get_u8(&r);
			req->message = (char *) take_text(req, &r).bytes;
			req->done = true;
			return llm_wire_complete(&r) && req->status != 0 && req->message != NULL;
		default:
			req->reply = MemoryContextAllocHuge(req->context, Max(h->length, 1));
			memcpy(req->reply, payload, h->length);
			req->n_reply = h->length;
			req->done = true;
			return true;
	}
}

/* Reads the engine's statistics. */
bool
pp_wire_get_stats(const uint8 *payload, Size n, PpEngineInfo *info)
{
	llm_wire_reader r = {payload, n, false};
	uint64 weights;
	uint64 used;
	uint64 scratch;
	size_t n_device;
	const char *device;

	(void) llm_wire_get_u32(&r); /* pid */
	(void) llm_wire_get_u8(&r);  /* state */
	(void) llm_wire_get_u32(&r); /* jobs */
	info->queue_depth = (int) llm_wire_get_u32(&r);
	info->queue_depth += (int) llm_wire_get_u32(&r);
	for (int i = 0; i < 3; i++)
		(void) llm_wire_get_u64(&r); /* passes, tokens, shared tokens */
	weights = llm_wire_get_u64(&r);
	(void) llm_wire_get_u64(&r); /* the whole KV pool */
	used = llm_wire_get_u64(&r);
	scratch = llm_wire_get_u64(&r);
	info->memory_used = (int64) (weights + used + scratch);
	info->memory_limit = (int64) llm_wire_get_u64(&r);
	(void) llm_wire_get_f64(&r); /* busy time */
	info->stalled_ms = (int) llm_wire_get_u32(&r);
	device = llm_wire_get_text(&r, &n_device);
	if (device != NULL)
		snprintf(info->device, sizeof(info->device), "%.*s", (int) n_device, device);
	(void) llm_wire_get_text(&r, &n_device); /* last error: the supervisor's is shown */
	return llm_wire_complete(&r);
}
