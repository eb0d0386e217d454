/*
 * llm_server_job.c: jobs of connections: assembled by the I/O thread, run by the engine thread.
 */
#include <stdio.h>

#include "llm_alloc.h"
#include "llm_dummy.h"
#include "llm_server_internal.h"

/* Finds a job of a connection that is not over. */
static server_job *
find_job(conn *c, uint64_t id)
{
	server_job *job;

	pthread_mutex_lock(&c->server->mutex);
	for (job = c->jobs; job != NULL; job = job->next)
		if (job->id == id && !job->done)
			break;
	pthread_mutex_unlock(&c->server->mutex);
	return job;
}

/* Takes a job off its list and frees it. */
static void
drop_job(conn *c, server_job *job)
{
	server_job **link = &c->jobs;

	pthread_mutex_lock(&c->server->mutex);
	while (*link != NULL && *link != job)
		link = &(*link)->next;
	if (*link == job)
		*link = job->next;
	pthread_mutex_unlock(&c->server->mutex);
	c->input_bytes -= job->counted;
	c->server->input_bytes -= job->counted;
	if (job->endpoint != NULL)
		llm_endpoint_forget(job->endpoint);
	llm_free(job->endpoint);
	llm_wire_job_free(&job->wire);
	llm_free(job);
}

/*
 * Counts what a job has grown by. False: it is more than the server keeps of inputs, and the job is
 * gone.
 */
static bool
count_input(conn *c, server_job *job)
{
	server *s = c->server;
	uint64_t more = job->wire.bytes - job->counted;
	uint64_t limit = s->params.input_limit;
	char text[160];

	job->counted += more;
	c->input_bytes += more;
	s->input_bytes += more;
	if (s->input_bytes <= limit && c->input_bytes <= limit / 2)
		return true;
	snprintf(
	    text, sizeof(text),
	    "requests hold %llu bytes of input, %llu of them of this connection; the limit is %llu",
	    (unsigned long long) s->input_bytes, (unsigned long long) c->input_bytes,
	    (unsigned long long) limit);
	conn_error(c, job->id, LLM_E_BUSY, text);
	drop_job(c, job);
	return false;
}

/* Begins a job. A bad job fails alone; its rows are then unknown and ignored. */
bool
server_job_begin(conn *c, uint64_t id, llm_wire_reader *r)
{
	server_job *job;
	llm_error err;
	uint32_t n = 0;

	server_jobs_sweep(c);
	for (job = c->jobs; job != NULL; job = job->next)
		n++;
	if (n >= SERVER_JOBS_MAX)
	{
		conn_error(c, id, LLM_E_BUSY, "too many requests on one connection");
		return true;
	}
	if (id == 0 || find_job(c, id) != NULL)
	{
		conn_error(c, 0, LLM_E_FORMAT, "request id is 0 or in use");
		return false;
	}
	if ((job = llm_calloc(1, sizeof(*job))) == NULL)
	{
		conn_error(c, id, LLM_E_NOMEM, "out of memory for a request");
		return true;
	}
	job->conn = c;
	job->id = id;
	job->received_ms = server_now_ms();
	if (llm_wire_job_begin(r, &job->wire, &err) != LLM_OK)
	{
		conn_error(c, id, err.code, err.message);
		llm_wire_job_free(&job->wire);
		llm_free(job);
		return err.code != LLM_E_FORMAT;
	}
	pthread_mutex_lock(&c->server->mutex);
	job->next = c->jobs;
	c->jobs = job;
	pthread_mutex_unlock(&c->server->mutex);
	(void) count_input(c, job);
	return true;
}

/* Takes rows of a job. */
bool
server_job_rows(conn *c, uint64_t id, llm_wire_reader *r)
{
	server_job *job = find_job(c, id);
	llm_error err;

	if (job == NULL || job->running)
		return true; /* of a request that has failed already */
	if (llm_wire_job_rows(r, &job->wire, &err) == LLM_OK)
	{
		(void) count_input(c, job);
		return true;
	}
	conn_error(c, id, err.code, err.message);
	drop_job(c, job);
	return err.code != LLM_E_FORMAT;
}

/* Copies a text of a frame into a job's arena, closed by NUL; false: no memory. */
static bool
keep_text(server_job *job, const char *bytes, size_t n, llm_text *out)
{
	*out = (llm_text){llm_arena_strndup(job->wire.arena, bytes, n), n};
	job->wire.bytes += n;
	return out->bytes != NULL;
}

/* Notes the endpoint of a job. What it says is read when the job starts: that opens a file. */
bool
server_job_endpoint(conn *c, uint64_t id, llm_wire_reader *r)
{
	server_job *job = find_job(c, id);
	size_t n_url;
	size_t n_options;
	const char *url = llm_wire_get_text(r, &n_url);
	const char *options = llm_wire_get_text(r, &n_options);

	if (!llm_wire_complete(r) || url == NULL || options == NULL ||
	    (job != NULL && job->url.bytes != NULL))
	{
		conn_error(c, 0, LLM_E_FORMAT, "malformed ENDPOINT");
		return false;
	}
	if (job == NULL || job->running)
		return true; /* of a request that has failed already */
	if (keep_text(job, url, n_url, &job->url) && keep_text(job, options, n_options, &job->options))
	{
		(void) count_input(c, job);
		return true;
	}
	conn_error(c, id, LLM_E_NOMEM, "out of memory for a request");
	drop_job(c, job);
	return true;
}

/*
 * Unlocks the output after a result. The engine wakes the I/O loop after its pass; an endpoint's
 * results come one by one.
 */
static void
unlock_results(server_job *job)
{
	if (job->endpoint != NULL)
		conn_unlock_output(job->conn);
	else
		conn_unlock_results(job->conn);
}

/* Engine callback: one row's result. */
static void
on_row(void *user, const llm_row_result *result)
{
	server_job *job = user;
	llm_wire_writer *w = conn_lock_output(job->conn);

	if (w != NULL)
	{
		llm_wire_put_result(w, job->conn->n_sent, job->id, result);
		unlock_results(job);
	}
	pthread_mutex_lock(&job->conn->server->mutex);
	job->n_rows_done++;
	job->n_tokens += result->n_tokens + result->n_output;
	pthread_mutex_unlock(&job->conn->server->mutex);
}

/* Engine callback: a streamed piece. */
static void
on_piece(void *user, uint32_t row, llm_text piece)
{
	server_job *job = user;
	llm_wire_writer *w = conn_lock_output(job->conn);

	if (w == NULL)
		return;
	llm_wire_put_piece(w, job->id, row, piece);
	unlock_results(job);
}

/*
 * Engine callback: the job is over. After the flag is set the I/O thread may free it at any moment.
 * The frame and the flag come under one lock: a client that has read the end may use the id again
 * at once, and must not find it in use.
 */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	server_job *job = user;
	conn *c = job->conn;
	server *s = c->server;
	llm_wire_writer *w;

	pthread_mutex_lock(&s->mutex);
	if ((w = conn_lock_output(c)) != NULL)
	{
		llm_wire_put_done(w, job->id, status, message, stats);
		conn_unlock_output(c);
	}
	job->done = true;
	pthread_mutex_unlock(&s->mutex);
	server_wake(s);
}

/* Ends a job that could not start; as on_done. */
static void
fail_start(server_job *job, llm_status status, const char *message)
{
	server *s = job->conn->server;

	pthread_mutex_lock(&s->mutex);
	conn_error(job->conn, job->id, status, message);
	job->done = true;
	pthread_mutex_unlock(&s->mutex);
	server_wake(s);
}

/* Gives a job to its endpoint. */
static llm_status
submit_remote(server *s, server_job *job, uint64_t *id, llm_error *err)
{
	llm_endpoint *endpoint;
	llm_status status;

	if (s->remote == NULL)
		return llm_fail(err, LLM_E_UNSUPPORTED, "remote endpoints are not served here");
	if ((endpoint = llm_calloc(1, sizeof(*endpoint))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a request");
	job->endpoint = endpoint;
	status = llm_endpoint_read(job->wire.model, job->url, job->options, s->params.key_directory,
	                           endpoint, err);
	return status == LLM_OK ? llm_remote_submit(s->remote, endpoint, &job->wire.job, id, err)
	                        : status;
}

/* Cancels what runs, wherever it does. */
static void
cancel_running(server *s, const server_job *job, uint64_t engine_id)
{
	if (job->url.bytes != NULL)
		llm_remote_cancel(s->remote, engine_id);
	else
		llm_engine_cancel(s->engine, engine_id);
}

/*
 * Gives a job to the engine. It may be over when submit returns, but is not freed: see next_start.
 */
static void
start_job(server *s, server_job *job)
{
	uint64_t engine_id = 0;
	bool cancelled;
	llm_error err;
	double ms;
	bool remote = job->url.bytes != NULL;
	llm_status status = remote ? submit_remote(s, job, &engine_id, &err)
	                           : llm_engine_submit(s->engine, &job->wire.job, &engine_id, &err);

	if (status == LLM_OK)
	{
		pthread_mutex_lock(&s->mutex);
		job->engine_id = engine_id;
		cancelled = job->cancelled;
		pthread_mutex_unlock(&s->mutex);
		if (cancelled)
			cancel_running(s, job, engine_id);
		return;
	}
	if (!remote && status == LLM_E_NOT_FOUND && server_is_loading(s, job->wire.model, &ms))
		status = llm_fail(&err, LLM_E_LOADING, "model \"%.150s\" is still loading (%.1f s so far)",
		                  job->wire.model, ms / 1000);
	fail_start(job, status, err.message);
}

/* Starts one job. */
static void
start_one(server *s, server_job *job)
{
	bool cancelled;

	pthread_mutex_lock(&s->mutex);
	cancelled = job->cancelled;
	pthread_mutex_unlock(&s->mutex);
	if (cancelled)
		fail_start(job, LLM_E_CANCELLED, "cancelled by the caller");
	else if (job->url.bytes == NULL && strcmp(job->wire.model, LLM_DUMMY_NAME) == 0)
		llm_dummy_run(&job->wire.job);
	else
		start_job(s, job);
}

/*
 * Starts the job that has waited longest; false: none waits. Only now is it off the list: until
 * then the I/O thread does not free it.
 */
bool
server_start_next(server *s)
{
	server_job *job;

	pthread_mutex_lock(&s->start_mutex);
	job = s->start_first;
	pthread_mutex_unlock(&s->start_mutex);
	if (job == NULL)
		return false;
	start_one(s, job);
	pthread_mutex_lock(&s->start_mutex);
	s->start_first = job->next_start;
	if (s->start_first == NULL)
		s->start_last = NULL;
	pthread_mutex_unlock(&s->start_mutex);
	return true;
}

/* Starts jobs in the order of their RUN frames. */
void *
server_start_main(void *arg)
{
	server *s = arg;
	bool stop = false;

	while (!stop)
	{
		(void) server_start_next(s);
		pthread_mutex_lock(&s->start_mutex);
		while (s->start_first == NULL && !s->start_stop)
			pthread_cond_wait(&s->start_cond, &s->start_mutex);
		stop = s->start_stop;
		pthread_mutex_unlock(&s->start_mutex);
	}
	return NULL;
}

/* Hands a job to the start thread. */
static void
queue_start(server *s, server_job *job)
{
	pthread_mutex_lock(&s->start_mutex);
	job->next_start = NULL;
	if (s->start_last != NULL)
		s->start_last->next_start = job;
	else
		s->start_first = job;
	s->start_last = job;
	pthread_cond_signal(&s->start_cond);
	pthread_mutex_unlock(&s->start_mutex);
}

/* True while the start thread may still touch a job. */
static bool
is_starting(server *s, const server_job *job)
{
	bool found = false;

	pthread_mutex_lock(&s->start_mutex);
	for (const server_job *j = s->start_first; j != NULL && !found; j = j->next_start)
		found = j == job;
	pthread_mutex_unlock(&s->start_mutex);
	return found;
}

/* Frees the jobs that have ended. */
void
server_jobs_sweep(conn *c)
{
	server_job *job = c->jobs;

	while (job != NULL)
	{
		server_job *next = job->next;
		bool done;

		pthread_mutex_lock(&c->server->mutex);
		done = job->done;
		pthread_mutex_unlock(&c->server->mutex);
		if (done && !is_starting(c->server, job))
			drop_job(c, job);
		job = next;
	}
}

/* Runs an assembled job. */
bool
server_job_run(conn *c, uint64_t id)
{
	server_job *job = find_job(c, id);
	llm_job *j;

	if (job == NULL || job->running)
		return true;
	if (!llm_wire_job_ready(&job->wire))
	{
		conn_error(c, id, LLM_E_FORMAT, "rows of the job are missing");
		drop_job(c, job);
		return false;
	}
	j = &job->wire.job;
	j->caller = c->caller;
	j->user = job;
	j->on_row = on_row;
	j->on_piece = on_piece;
	j->on_done = on_done;
	pthread_mutex_lock(&c->server->mutex);
	job->running = true;
	job->started_ms = server_now_ms();
	pthread_mutex_unlock(&c->server->mutex);
	queue_start(c->server, job);
	return true;
}

/* Cancels a job, whether it runs, waits for its start, or is still being received. */
void
server_job_cancel(conn *c, uint64_t id)
{
	server_job *job = find_job(c, id);
	uint64_t engine_id;

	if (job == NULL)
		return;
	if (!job->running)
	{
		conn_error(c, id, LLM_E_CANCELLED, "cancelled by the caller");
		drop_job(c, job);
		return;
	}
	pthread_mutex_lock(&c->server->mutex);
	job->cancelled = true;
	engine_id = job->engine_id;
	pthread_mutex_unlock(&c->server->mutex);
	if (engine_id != 0)
		cancel_running(c->server, job, engine_id);
}
