/*
 * llm_server_admin.c: models, statistics, the queue, provoked faults.
 *
 * A load runs in a thread of its own, so that jobs of other models go on; all who ask for the same
 * model meanwhile wait for the one load. Models are named by their path in the model directory, and
 * nothing outside of it is ever opened.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "llm_alloc.h"
#include "llm_arch.h"
#include "llm_server_internal.h"
#include "llm_weights.h"

#define MODELS_LISTED_MAX   64
#define PREFIXES_LISTED_MAX 256

/*
 * Resolves a model's path; refuses whatever lies outside the model directory, also through links.
 */
static llm_status
resolve(server *s, const char *path, char out[PATH_MAX], llm_error *err)
{
	char joined[PATH_MAX];
	size_t n = strlen(s->model_root);

	if (path[0] == '\0' || path[0] == '/' ||
	    snprintf(joined, sizeof(joined), "%s/%s", s->model_root, path) >= (int) sizeof(joined))
		return llm_fail(err, LLM_E_RANGE, "invalid model path");
	if (realpath(joined, out) == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "model file \"%.150s\" does not exist", path);
	if (strncmp(out, s->model_root, n) != 0 || out[n] != '/')
		return llm_fail(err, LLM_E_RANGE, "model path \"%.150s\" is outside the model directory",
		                path);
	return LLM_OK;
}

/* Finds a load in progress; under server.mutex. */
static server_load *
find_load(server *s, const char *path)
{
	for (server_load *load = s->loads; load != NULL; load = load->next)
		if (strcmp(load->path, path) == 0)
			return load;
	return NULL;
}

/* Tells whether a path is being loaded. */
bool
server_is_loading(server *s, const char *path, double *ms)
{
	server_load *load;

	pthread_mutex_lock(&s->mutex);
	load = find_load(s, path);
	*ms = load != NULL ? server_now_ms() - load->started_ms : 0;
	pthread_mutex_unlock(&s->mutex);
	return load != NULL;
}

/* Answers a LOAD, UNLOAD or INSPECT that succeeded. */
static void
reply_ok(conn *c, uint64_t id, uint64_t value)
{
	llm_wire_writer *w = conn_lock_output(c);

	if (w == NULL)
		return;
	llm_wire_begin(w, LLM_WIRE_OK, id);
	llm_wire_put_u64(w, value);
	llm_wire_end(w);
	conn_unlock_output(c);
}

/* Finds a loaded model; false when it is not loaded. */
static bool
find_model(server *s, const char *name, llm_model_info *info)
{
	llm_model_info models[MODELS_LISTED_MAX];
	uint32_t n = llm_engine_models(s->engine, models, MODELS_LISTED_MAX);

	for (uint32_t i = 0; i < n && i < MODELS_LISTED_MAX; i++)
		if (strcmp(models[i].name, name) == 0)
		{
			*info = models[i];
			return true;
		}
	return false;
}

/* Says in the log how a load ended. */
static void
log_load(const server_load *load, llm_status status, const llm_error *err)
{
	char line[sizeof(load->path) + LLM_MESSAGE_MAX + 32];

	if (load->server->params.log == NULL)
		return;
	if (status == LLM_OK)
		snprintf(line, sizeof(line), "loaded model \"%s\"", load->path);
	else
		snprintf(line, sizeof(line), "could not load model \"%s\": %s", load->path, err->message);
	load->server->params.log(line);
}

/* The loader thread: loads, then answers all who wait. */
static void *
load_main(void *arg)
{
	server_load *load = arg;
	server *s = load->server;
	server_load **link = &s->loads;
	char path[PATH_MAX];
	llm_error err = {0};
	llm_model_info info = {0};
	llm_status status = resolve(s, load->path, path, &err);

	if (status == LLM_OK)
		status = llm_engine_load(s->engine, load->path, path, NULL, &err);
	if (status == LLM_OK)
		(void) find_model(s, load->path, &info);
	log_load(load, status, &err);
	pthread_mutex_lock(&s->mutex);
	while (*link != load)
		link = &(*link)->next;
	*link = load->next;
	/* Connections are found by their caller number: one that has gone is simply not there. */
	for (uint32_t i = 0; i < load->n_waiters; i++)
		for (conn *c = s->conns; c != NULL; c = c->next)
			if (c->caller == load->waiters[i].caller)
			{
				if (status == LLM_OK)
					reply_ok(c, load->waiters[i].id, info.bytes_weights);
				else
					conn_error(c, load->waiters[i].id, status, err.message);
			}
	pthread_mutex_unlock(&s->mutex);
	llm_free(load);
	return NULL;
}

/* Starts a loader thread; under server.mutex. */
static llm_status
start_load(server *s, const char *path, server_load **out, llm_error *err)
{
	server_load *load = llm_calloc(1, sizeof(*load));
	pthread_t thread;
	pthread_attr_t attr;
	int failed;

	if (load == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a load");
	load->server = s;
	load->started_ms = server_now_ms();
	snprintf(load->path, sizeof(load->path), "%s", path);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	failed = pthread_create(&thread, &attr, load_main, load);
	pthread_attr_destroy(&attr);
	if (failed)
	{
		llm_free(load);
		return llm_fail(err, LLM_E_NOMEM, "could not start a thread to load the model");
	}
	load->next = s->loads;
	s->loads = load;
	*out = load;
	return LLM_OK;
}

/* Reads the path of a LOAD or UNLOAD. */
static bool
get_path(llm_wire_reader *r, char *path, size_t size)
{
	size_t n;
	const char *text = llm_wire_get_text(r, &n);

	if (!llm_wire_complete(r) || text == NULL || n >= size || memchr(text, '\0', n) != NULL)
		return false;
	memcpy(path, text, n);
	path[n] = '\0';
	return true;
}

/* LOAD: at once when it is loaded, else when the load is finished. */
bool
server_load_model(conn *c, uint64_t id, llm_wire_reader *r)
{
	server *s = c->server;
	server_load *load;
	llm_model_info info;
	llm_error err;
	char path[512];
	llm_status status = LLM_OK;

	if (!get_path(r, path, sizeof(path)))
	{
		conn_error(c, 0, LLM_E_FORMAT, "malformed LOAD");
		return false;
	}
	if (find_model(s, path, &info))
	{
		reply_ok(c, id, info.bytes_weights);
		return true;
	}
	pthread_mutex_lock(&s->mutex);
	if ((load = find_load(s, path)) == NULL)
		status = start_load(s, path, &load, &err);
	if (status == LLM_OK && load->n_waiters == sizeof(load->waiters) / sizeof(load->waiters[0]))
		status = llm_fail(&err, LLM_E_LOADING, "model \"%.150s\" is still loading", path);
	if (status == LLM_OK)
	{
		load->waiters[load->n_waiters].caller = c->caller;
		load->waiters[load->n_waiters++].id = id;
	}
	pthread_mutex_unlock(&s->mutex);
	if (status != LLM_OK)
		conn_error(c, id, status, err.message);
	return true;
}

/* UNLOAD: the memory is free when it is answered. */
bool
server_unload_model(conn *c, uint64_t id, llm_wire_reader *r)
{
	llm_error err;
	char path[512];

	if (!get_path(r, path, sizeof(path)))
	{
		conn_error(c, 0, LLM_E_FORMAT, "malformed UNLOAD");
		return false;
	}
	if (llm_engine_unload(c->server->engine, path, &err) == LLM_OK)
		reply_ok(c, id, 0);
	else
		conn_error(c, id, err.code, err.message);
	return true;
}

/* Reads what a file says it is: its header and its configuration, no weights. */
static llm_status
kind_of_file(server *s, const char *name, llm_model_kind *kind, llm_error *err)
{
	char path[PATH_MAX];
	llm_weights *w = NULL;
	llm_arch arch;
	llm_status status = resolve(s, name, path, err);

	if (status == LLM_OK)
		status = llm_weights_open(path, &w, err);
	if (status == LLM_OK && (status = llm_arch_read(w, 0, &arch, err)) == LLM_OK)
	{
		*kind = arch.kind;
		llm_arch_free(&arch);
	}
	llm_weights_close(w);
	return status;
}

/* INSPECT: the kind of a model that need not be loaded. */
bool
server_inspect_model(conn *c, uint64_t id, llm_wire_reader *r)
{
	llm_error err = {0};
	llm_model_kind kind = LLM_KIND_GENERATE;
	char path[512];

	if (!get_path(r, path, sizeof(path)))
	{
		conn_error(c, 0, LLM_E_FORMAT, "malformed INSPECT");
		return false;
	}
	if (kind_of_file(c->server, path, &kind, &err) == LLM_OK)
		reply_ok(c, id, (uint64_t) kind);
	else
		conn_error(c, id, err.code, err.message);
	return true;
}

/* A string as a text. */
static void
put_string(llm_wire_writer *w, const char *s)
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
	put_string(w, stats.device);
	put_string(w, stats.last_error);
	llm_wire_end(w);
	conn_unlock_output(c);
}

/* MODELS: the loaded ones. */
void
server_reply_models(conn *c, uint64_t id)
{
	llm_model_info models[MODELS_LISTED_MAX];
	uint32_t n = llm_engine_models(c->server->engine, models, MODELS_LISTED_MAX);
	llm_wire_writer *w = conn_lock_output(c);

	if (w == NULL)
		return;
	n = n < MODELS_LISTED_MAX ? n : MODELS_LISTED_MAX;
	llm_wire_begin(w, LLM_WIRE_MODELS_REPLY, id);
	llm_wire_put_u32(w, n);
	for (uint32_t i = 0; i < n; i++)
	{
		const llm_model_info *m = &models[i];

		put_string(w, m->name);
		put_string(w, m->arch);
		put_string(w, m->quantisation);
		put_string(w, m->digest);
		put_string(w, m->chat);
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
	put_string(w, job->wire.function);
	put_string(w, job->wire.model);
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

/* PREFIXES: those of one salt, of every decoder. */
bool
server_reply_prefixes(conn *c, uint64_t id, llm_wire_reader *r)
{
	llm_model_info models[MODELS_LISTED_MAX];
	llm_prefix_info *info = llm_malloc_array(PREFIXES_LISTED_MAX, sizeof(*info));
	llm_wire_writer w = {.grow = llm_wire_grow};
	llm_wire_writer *out;
	llm_salt salt;
	uint32_t n_models = llm_engine_models(c->server->engine, models, MODELS_LISTED_MAX);
	uint32_t n = 0;

	llm_wire_get(r, salt.bytes, sizeof(salt.bytes));
	for (uint32_t i = 0; info != NULL && i < n_models && i < MODELS_LISTED_MAX; i++)
	{
		uint32_t n_info =
		    llm_engine_prefixes(c->server->engine, models[i].name, info, PREFIXES_LISTED_MAX);

		for (uint32_t k = 0; k < n_info && k < PREFIXES_LISTED_MAX; k++)
			if (memcmp(info[k].salt.bytes, salt.bytes, sizeof(salt.bytes)) == 0)
			{
				put_string(&w, models[i].name);
				llm_wire_put_u32(&w, info[k].n_tokens);
				llm_wire_put_u64(&w, info[k].hits);
				llm_wire_put_u64(&w, info[k].last_used);
				llm_wire_put_u8(&w, info[k].pinned);
				n++;
			}
	}
	if (!w.failed && (out = conn_lock_output(c)) != NULL)
	{
		llm_wire_begin(out, LLM_WIRE_PREFIXES_REPLY, id);
		llm_wire_put_u32(out, n);
		llm_wire_put(out, w.bytes, w.n);
		llm_wire_end(out);
		conn_unlock_output(c);
	}
	llm_free(w.bytes);
	llm_free(info);
	return llm_wire_complete(r);
}

/*
 * FAULT: for tests of the supervisor and of clients; refused unless the server was started to allow
 * it.
 */
bool
server_fault(conn *c, uint64_t id, llm_wire_reader *r)
{
	char what[32];

	if (!get_path(r, what, sizeof(what)))
		return false;
	if (!c->server->params.allow_faults)
		conn_error(c, id, LLM_E_UNSUPPORTED, "faults are not allowed here");
	else if (strcmp(what, "crash") == 0)
		raise(SIGSEGV);
	else if (strcmp(what, "hang") == 0)
		for (;;)
			pause();
	else
		conn_error(c, id, LLM_E_RANGE, "unknown fault");
	return true;
}
