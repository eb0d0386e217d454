/*
 * remote_fixture.h: jobs of the remote executor run to their end, and what they gave.
 */
#ifndef REMOTE_FIXTURE_H
#define REMOTE_FIXTURE_H

#include <math.h>

#include "http_fixture.h"
#include "llm_remote.h"

#define ROWS_MAX 64

/* What a job gave. */
typedef struct outcome
{
	pthread_mutex_t mutex;
	pthread_cond_t cond;
	bool done;
	llm_status status;
	llm_job_stats stats;
	int n_rows;
	llm_status row_status[ROWS_MAX];
	char message[ROWS_MAX][LLM_MESSAGE_MAX];
	char text[ROWS_MAX][256];
	float values[ROWS_MAX][8];
	uint32_t n_values[ROWS_MAX];
	_Atomic int n_pieces;
	llm_finish finish[ROWS_MAX];
	char pieces[256]; /* all of them, one after another */
} outcome;

static llm_remote *remote;

/* Callback: keeps a row. */
static inline void
on_row(void *user, const llm_row_result *result)
{
	outcome *o = user;

	o->n_rows++;
	o->row_status[result->row] = result->status;
	if (result->message != NULL)
		snprintf(o->message[result->row], LLM_MESSAGE_MAX, "%s", result->message);
	snprintf(o->text[result->row], sizeof(o->text[0]), "%.*s", (int) result->text.n,
	         result->text.n > 0 ? result->text.bytes : "");
	o->finish[result->row] = result->finish;
	o->n_values[result->row] = result->n_values;
	for (uint32_t i = 0; i < result->n_values && i < 8; i++)
		o->values[result->row][i] = result->values[i];
}

/* Callback: counts and keeps pieces. */
static inline void
on_piece(void *user, uint32_t row, llm_text piece)
{
	outcome *o = user;
	size_t n = strlen(o->pieces);

	(void) row;
	snprintf(o->pieces + n, sizeof(o->pieces) - n, "%.*s", (int) piece.n, piece.bytes);
	o->n_pieces++;
}

/* Callback: the job is over. */
static inline void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	outcome *o = user;

	(void) message;
	pthread_mutex_lock(&o->mutex);
	o->done = true;
	o->status = status;
	o->stats = *stats;
	pthread_cond_signal(&o->cond);
	pthread_mutex_unlock(&o->mutex);
}

/* Waits for a job. */
static inline void
wait_for(outcome *o)
{
	pthread_mutex_lock(&o->mutex);
	while (!o->done)
		pthread_cond_wait(&o->cond, &o->mutex);
	pthread_mutex_unlock(&o->mutex);
}

/* An endpoint at the fixture, with short pauses. */
static inline llm_endpoint
endpoint_at(const http_fixture *f)
{
	llm_endpoint endpoint = {.name = "far",
	                         .model = "m",
	                         .concurrency = 4,
	                         .retries = 2,
	                         .timeout_ms = 20000,
	                         .backoff_ms = 5};

	snprintf(endpoint.url, sizeof(endpoint.url), "http://127.0.0.1:%d/v1", f->port);
	return endpoint;
}

/* Has an outcome take what a job gives. */
static inline void
prepare(llm_job *job, outcome *o)
{
	memset(o, 0, sizeof(*o));
	pthread_mutex_init(&o->mutex, NULL);
	pthread_cond_init(&o->cond, NULL);
	job->user = o;
	job->on_row = on_row;
	job->on_done = on_done;
	job->on_piece = on_piece;
}

/* Runs a job to its end. */
static inline llm_status
run(const llm_endpoint *endpoint, llm_job *job, outcome *o, llm_error *err)
{
	uint64_t id;

	prepare(job, o);
	if (llm_remote_submit(remote, endpoint, job, &id, err) != LLM_OK)
		return err->code;
	wait_for(o);
	return LLM_OK;
}

/* The JSON that answer_body gives. */
static const char *reply_body;

/* Answers every request with reply_body. */
static inline void
answer_body(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 200, "", reply_body);
}

#endif /* REMOTE_FIXTURE_H */
