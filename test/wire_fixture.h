/*
 * wire_fixture.h: the client's side of llm_wire.h for the tests: frames out of llm_job, and back.
 *
 * Written against the description of the format, not against src/client_wire.c, so that the two
 * sides and this one must agree.
 */
#ifndef WIRE_FIXTURE_H
#define WIRE_FIXTURE_H

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_wire_job.h"

/* An empty writer over memory that grows. */
static inline llm_wire_writer
fixture_writer(void)
{
	return (llm_wire_writer){.grow = llm_wire_grow};
}

/* A frame with nothing in it. */
static inline void
fixture_put_empty(llm_wire_writer *w, llm_wire_type type, uint64_t id)
{
	llm_wire_begin(w, type, id);
	llm_wire_end(w);
}

/* A frame that holds one text: LOAD, UNLOAD, FAULT. */
static inline void
fixture_put_named(llm_wire_writer *w, llm_wire_type type, uint64_t id, const char *text)
{
	llm_wire_begin(w, type, id);
	llm_wire_put_text(w, text, strlen(text));
	llm_wire_end(w);
}

/* HELLO, of any magic and version. */
static inline void
fixture_put_hello(llm_wire_writer *w, uint64_t id, uint32_t magic, uint32_t version)
{
	llm_wire_begin(w, LLM_WIRE_HELLO, id);
	llm_wire_put_u32(w, magic);
	llm_wire_put_u32(w, version);
	llm_wire_put_u32(w, 4711);
	llm_wire_end(w);
}

/* A list of texts. */
static inline void
fixture_put_texts(llm_wire_writer *w, uint32_t n, const llm_text *texts)
{
	llm_wire_put_u32(w, n);
	for (uint32_t i = 0; i < n; i++)
		llm_wire_put_text(w, texts[i].bytes, texts[i].n);
}

/* The payload of a JOB frame, for any values of a job, good or bad. */
static inline void
fixture_put_job_fields(llm_wire_writer *w, const llm_job *job, const char *function)
{
	llm_wire_put_u8(w, (uint8_t) job->kind);
	llm_wire_put_u8(w, (uint8_t) job->class_);
	llm_wire_put_u32(w, job->flags);
	llm_wire_put(w, job->salt.bytes, sizeof(job->salt.bytes));
	llm_wire_put_u32(w, 10);
	llm_wire_put_text(w, function, function != NULL ? strlen(function) : 0);
	llm_wire_put_text(w, job->model, job->model != NULL ? strlen(job->model) : 0);
	llm_wire_put_text(w, job->system.bytes, job->system.n);
	llm_wire_put_text(w, job->instruction.bytes, job->instruction.n);
	llm_wire_put_text(w, job->schema.bytes, job->schema.n);
	fixture_put_texts(w, job->n_labels, job->labels);
	fixture_put_texts(w, job->descriptions != NULL ? job->n_labels : 0, job->descriptions);
	fixture_put_texts(w, job->n_stops, job->stops);
	fixture_put_texts(w, job->n_allowed, job->allowed);
	llm_wire_put_u32(w, job->max_tokens);
	llm_wire_put_f32(w, job->sample.temperature);
	llm_wire_put_u32(w, job->sample.top_k);
	llm_wire_put_f32(w, job->sample.top_p);
	llm_wire_put_f32(w, job->sample.min_p);
	llm_wire_put_u64(w, job->sample.seed);
	llm_wire_put_u32(w, job->n_rows);
	llm_wire_put_u32(w, job->n_rows2);
}

/* The payload of a ROWS frame. */
static inline void
fixture_put_rows_fields(llm_wire_writer *w, bool second, uint32_t first, uint32_t n,
                        const llm_text *texts)
{
	llm_wire_put_u8(w, second);
	llm_wire_put_u32(w, first);
	fixture_put_texts(w, n, texts);
}

/* A JOB frame and its rows, without RUN. */
static inline void
fixture_put_job(llm_wire_writer *w, uint64_t id, const llm_job *job)
{
	llm_wire_begin(w, LLM_WIRE_JOB, id);
	fixture_put_job_fields(w, job, "prepack.test");
	llm_wire_end(w);
	llm_wire_begin(w, LLM_WIRE_ROWS, id);
	fixture_put_rows_fields(w, false, 0, job->n_rows, job->rows);
	llm_wire_end(w);
	if (job->n_rows2 == 0)
		return;
	llm_wire_begin(w, LLM_WIRE_ROWS, id);
	fixture_put_rows_fields(w, true, 0, job->n_rows2, job->rows2);
	llm_wire_end(w);
}

/* A row of a RESULTS frame; its texts and values point into the frame. */
typedef struct fixture_row
{
	uint32_t row;
	uint8_t status;
	uint8_t finish;
	llm_text message;
	llm_text text;
	uint32_t n_values;
	const uint8_t *values;
	double logprob;
	uint32_t n_tokens;
	uint32_t n_shared;
	uint32_t n_output;
} fixture_row;

/* Reads a text. */
static inline llm_text
fixture_get_text(llm_wire_reader *r)
{
	llm_text text;

	text.bytes = llm_wire_get_text(r, &text.n);
	return text;
}

/* Reads a row. */
static inline fixture_row
fixture_get_row(llm_wire_reader *r)
{
	fixture_row row = {.row = llm_wire_get_u32(r)};

	row.status = llm_wire_get_u8(r);
	row.finish = llm_wire_get_u8(r);
	row.message = fixture_get_text(r);
	row.text = fixture_get_text(r);
	row.n_values = llm_wire_get_count(r, LLM_WIRE_PAYLOAD_MAX, sizeof(float));
	row.values = r->at;
	for (uint32_t i = 0; i < row.n_values; i++)
		(void) llm_wire_get_f32(r);
	row.logprob = llm_wire_get_f64(r);
	row.n_tokens = llm_wire_get_u32(r);
	row.n_shared = llm_wire_get_u32(r);
	row.n_output = llm_wire_get_u32(r);
	return row;
}

/* Value i of a row. */
static inline float
fixture_row_value(const fixture_row *row, uint32_t i)
{
	llm_wire_reader r = {row->values + sizeof(float) * i, sizeof(float), false};

	return llm_wire_get_f32(&r);
}

/* Reads the numbers of a DONE frame. */
static inline llm_job_stats
fixture_get_stats(llm_wire_reader *r)
{
	llm_job_stats s = {.n_rows = llm_wire_get_u32(r)};

	s.n_errors = llm_wire_get_u32(r);
	s.n_prompt_tokens = llm_wire_get_u64(r);
	s.n_shared_tokens = llm_wire_get_u64(r);
	s.n_padding_avoided = llm_wire_get_u64(r);
	s.n_output_tokens = llm_wire_get_u64(r);
	s.n_draft_tokens = llm_wire_get_u64(r);
	s.n_accepted_tokens = llm_wire_get_u64(r);
	s.queue_ms = llm_wire_get_f64(r);
	s.prefill_ms = llm_wire_get_f64(r);
	s.decode_ms = llm_wire_get_f64(r);
	return s;
}

#endif /* WIRE_FIXTURE_H */
