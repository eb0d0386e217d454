/*
 * llm_server_admin.c: the requests that the I/O thread answers at once: statistics, the loaded
 * models, the queue, provoked faults. None of them waits for a pass.
 */
#include <signal.h>
#include <unistd.h>

#include "llm_alloc.h"
#include "llm_server_internal.h"

/* A string as a text. */
void
server_put_string(llm_wire_writer *w, const char *s)
{
	llm_wire_put_text(w, s, strlen(s));
}

/* STATS: what the engine published last, and how long the running pass has made no progress. */
void
server_reply_stats(conn *c, uint64_t id)
{
	llm_engine_stats stats;
	double since = atomic_load(&c->server->pass_since_ms);
	llm_wire_writer *w;

	llm_engine_get_stats(c->server->engine, &stats);
	if ((w = conn_lock_output(c)) == NULL)
		return;
	llm_wire_begin(w, LLM_WIRE_STATS_REPLY, id);
	llm_wire_put_u32(w, (uint32_t) getpid());
	llm_wire_put_u8(w, (uint8_t) stats.state);
	llm_wire_put_u32(w, stats.n_jobs);
	llm_wire_put_u32(w, stats.n_waiting);
	llm_wire_put_u32(w, stats.n_running);
	llm_wire_put_u64(w, stats.n_passes);
	llm_wire_put_u64(w, stats.n_tokens);
	llm_wire_put_u64(w, stats.n_shared_tokens);
	llm_wire_put_u64(w, stats.bytes_weights);
	llm_wire_put_u64(w, stats.bytes_kv);
	llm_wire_put_u64(w, stats.bytes_kv_used);
	llm_wire_put_u64(w, stats.bytes_scratch);
	llm_wire_put_u64(w, stats.memory_limit);
	llm_wire_put_f64(w, stats.busy_ms);
	llm_wire_put_u32(w, since > 0 ? (uint32_t) (server_now_ms() - since) : 0);
	server_put_string(w, stats.device);
	server_put_string(w, stats.last_error);
	llm_wire_end(w);
	conn_unlock_output(c);
}

/* MODELS: the loaded ones. */
void
server_reply_models(conn *c, uint64_t id)
{
	llm_model_info models[SERVER_MODELS_LISTED];
	uint32_t n = llm_engine_models(c->server->engine, models, SERVER_MODELS_LISTED);
	llm_wire_writer *w = conn_lock_output(c);

	if (w == NULL)
		return;
	n = n < SERVER_MODELS_LISTED ? n : SERVER_MODELS_LISTED;
	llm_wire_begin(w, LLM_WIRE_MODELS_REPLY, id);
	llm_wire_put_u32(w, n);
	for (uint32_t i = 0; i < n; i++)
	{
		const llm_model_info *m = &models[i];

		server_put_string(w, m->name);
		server_put_string(w, m->arch);
		server_put_string(w, m->quantisation);
		server_put_string(w, m->digest);
		server_put_string(w, m->chat);
		llm_wire_put_u8(w, (uint8_t) m->kind);
		llm_wire_put_u64(w, m->n_params);
		llm_wire_put_u64(w, m->bytes_weights);
		llm_wire_put_u64(w, m->bytes_kv);
		llm_wire_put_u64(w, m->bytes_kv_used);
		llm_wire_put_u32(w, m->n_ctx);
		llm_wire_put_u32(w, m->n_vocab);
		llm_wire_put_u32(w, m->d_model);
		llm_wire_put_u32(w, m->budget_tokens);
	}
	llm_wire_end(w);
	conn_unlock_output(c);
}

/* One request of the queue. */
static void
put_job(llm_wire_writer *w, const server_job *job, double now)
{
	llm_wire_put_u32(w, job->conn->pid);
	llm_wire_put_u32(w, job->wire.user);
	server_put_string(w, job->wire.function);
	server_put_string(w, job->wire.model);
	llm_wire_put_u8(w, job->running ? 1 : 0);
	llm_wire_put_u32(w, job->wire.job.n_rows);
	llm_wire_put_u32(w, job->n_rows_done);
	llm_wire_put_u64(w, job->n_tokens);
	llm_wire_put_f64(w, (job->running ? job->started_ms : now) - job->received_ms);
	llm_wire_put_f64(w, job->running ? now - job->started_ms : 0);
}

/* QUEUE: requests of all connections; who may see which is the client's business. */
void
server_reply_queue(conn *c, uint64_t id)
{
	server *s = c->server;
	llm_wire_writer w = {.grow = llm_wire_grow};
	llm_wire_writer *out;
	double now = server_now_ms();
	uint32_t n = 0;

	pthread_mutex_lock(&s->mutex);
	for (conn *other = s->conns; other != NULL; other = other->next)
		for (server_job *job = other->jobs; job != NULL; job = job->next)
			if (!job->done)
			{
				put_job(&w, job, now);
				n++;
			}
	pthread_mutex_unlock(&s->mutex);
	if (!w.failed && (out = conn_lock_output(c)) != NULL)
	{
		llm_wire_begin(out, LLM_WIRE_QUEUE_REPLY, id);
		llm_wire_put_u32(out, n);
		llm_wire_put(out, w.bytes, w.n);
		llm_wire_end(out);
		conn_unlock_output(c);
	}
	llm_free(w.bytes);
}

/*
 * FAULT: for tests of the supervisor and of clients; refused unless the server was started to allow
 * it.
 */
bool
server_fault(conn *c, uint64_t id, llm_wire_reader *r)
{
	char what[32];

	if (!server_get_name(r, what, sizeof(what)))
	{
		conn_error(c, 0, LLM_E_FORMAT, "malformed FAULT");
		return false;
	}
	if (!c->server->params.allow_faults)
		conn_error(c, id, LLM_E_UNSUPPORTED, "faults are not allowed here");
	else if (strcmp(what, "crash") == 0)
	{
		signal(SIGSEGV, SIG_DFL); /* whatever a sanitizer would make of it */
		raise(SIGSEGV);
	}
	else if (strcmp(what, "hang") == 0)
		server_hang(c->server);
	else
		conn_error(c, id, LLM_E_RANGE, "unknown fault");
	return true;
}
