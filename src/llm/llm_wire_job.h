/*
 * llm_wire_job.h: jobs and results on the wire, the engine's side: frames ↔ llm_job,
 * llm_row_result.
 *
 * A job arrives in pieces. llm_wire_job collects them in one arena, so that the llm_job it gives
 * points into memory that lives as long as it does.
 */
#ifndef LLM_WIRE_JOB_H
#define LLM_WIRE_JOB_H

#include "llm.h"
#include "llm_wire.h"

/* A job being received. */
typedef struct llm_wire_job
{
	llm_arena *arena;
	llm_job job;    /* points into arena */
	char *function; /* SQL name, for the queue view */
	char *model;
	uint32_t user;  /* the client's user id, for the queue view */
	uint32_t n_got; /* rows received, of both lists */
	uint64_t bytes; /* that its texts take */
} llm_wire_job;

/*
 * Reads a JOB frame. Every number is range-checked. Free with llm_wire_job_free, also after a
 * failure.
 */
llm_status llm_wire_job_begin(llm_wire_reader *r, llm_wire_job *out, llm_error *err);
/* Takes a ROWS frame's texts. */
llm_status llm_wire_job_rows(llm_wire_reader *r, llm_wire_job *job, llm_error *err);
/* True when all announced rows have come. */
bool llm_wire_job_ready(const llm_wire_job *job);
void llm_wire_job_free(llm_wire_job *job);

/*
 * Writes frames. A result joins the frame before it when that holds results of the same job, has
 * room, and none of it was sent: rows that end in one pass travel together. n_sent: how much of w
 * has gone.
 */
void llm_wire_put_result(llm_wire_writer *w, size_t n_sent, uint64_t id,
                         const llm_row_result *result);
void llm_wire_put_piece(llm_wire_writer *w, uint64_t id, uint32_t row, llm_text piece);
void llm_wire_put_done(llm_wire_writer *w, uint64_t id, llm_status status, const char *message,
                       const llm_job_stats *stats);
void llm_wire_put_error(llm_wire_writer *w, uint64_t id, llm_status status, const char *message);

/* A writer over malloc'd memory; free bytes with llm_free. */
bool llm_wire_grow(llm_wire_writer *w, size_t need);

#endif /* LLM_WIRE_JOB_H */
