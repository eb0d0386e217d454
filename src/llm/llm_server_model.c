/*
 * llm_server_model.c: requests about models that take their time: loading, unloading, reading what
 * a file is, listing prefixes.
 *
 * A load runs in a thread of its own, so that jobs of other models go on; all who ask for the same
 * model meanwhile wait for the one load. The other requests are errands: one thread does them in
 * turn, since each may have to wait for the running pass or for the disk, which the I/O thread must
 * not. Models are named by their path in the model directory, and nothing outside of it is opened.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "llm_alloc.h"
#include "llm_arch.h"
#include "llm_server_internal.h"
#include "llm_weights.h"

#define PREFIXES_LISTED_MAX 256
#define ERRANDS_MAX         1024u

/*
 * Resolves a model's path; refuses whatever lies outside the model directory, also through links.
 * The directory itself is looked up each time: it may be made, or moved, while the server runs.
 */
static llm_status
resolve(server *s, const char *path, char out[PATH_MAX], llm_error *err)
{
	char root[PATH_MAX];
	char joined[PATH_MAX];
	size_t n;

	if (s->params.model_directory == NULL || realpath(s->params.model_directory, root) == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "model directory does not exist");
	n = strlen(root);
	if (path[0] == '\0' || path[0] == '/' ||
	    snprintf(joined, sizeof(joined), "%s/%s", root, path) >= (int) sizeof(joined))
		return llm_fail(err, LLM_E_RANGE, "invalid model path");
	if (realpath(joined, out) == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "model file \"%.150s\" does not exist", path);
	if (strncmp(out, root, n) != 0 || out[n] != '/')
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

/* Finds a loaded model; false when it is not loaded. */
static bool
find_model(server *s, const char *name, llm_model_info *info)
{
	llm_model_info models[SERVER_MODELS_LISTED];
	uint32_t n = llm_engine_models(s->engine, models, SERVER_MODELS_LISTED);

	for (uint32_t i = 0; i < n && i < SERVER_MODELS_LISTED; i++)
		if (strcmp(models[i].name, name) == 0)
		{
			*info = models[i];
			return true;
		}
	return false;
}

/* Writes the answer to a LOAD, UNLOAD or INSPECT that succeeded. */
static void
put_ok(llm_wire_writer *w, uint64_t id, uint64_t value)
{
	llm_wire_begin(w, LLM_WIRE_OK, id);
	llm_wire_put_u64(w, value);
	llm_wire_end(w);
}

/* Writes how a request ended that answers with a number. */
static void
put_outcome(llm_wire_writer *w, uint64_t id, llm_status status, const llm_error *err,
            uint64_t value)
{
	if (status == LLM_OK)
		put_ok(w, id, value);
	else
		llm_wire_put_error(w, id, status, err->message);
}

/* Hands a frame to a caller; one that has gone is simply not there. Under server.mutex. */
static void
deliver(server *s, uint64_t caller, const llm_wire_writer *frame)
{
	for (conn *c = s->conns; c != NULL; c = c->next)
		if (c->caller == caller)
		{
			conn_send(c, frame);
			return;
		}
}

/* ---- loads --------------------------------------------------------------------------------- */

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
	llm_wire_writer w = {.grow = llm_wire_grow};
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
	for (uint32_t i = 0; i < load->n_waiters; i++)
	{
		w.n = 0;
		put_outcome(&w, load->waiters[i].id, status, &err, info.bytes_weights);
		deliver(s, load->waiters[i].caller, &w);
	}
	pthread_mutex_unlock(&s->mutex);
	llm_free(w.bytes);
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

/* Reads a frame that is one text without NUL. */
bool
server_get_name(llm_wire_reader *r, char *path, size_t size)
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
	llm_wire_writer w = {.grow = llm_wire_grow};
	server_load *load;
	llm_model_info info = {0};
	llm_error err;
	char path[LLM_NAME_MAX];
	llm_status status = LLM_OK;
	bool loaded;

	if (!server_get_name(r, path, sizeof(path)))
	{
		conn_error(c, 0, LLM_E_FORMAT, "malformed LOAD");
		return false;
	}
	loaded = find_model(s, path, &info);
	pthread_mutex_lock(&s->mutex);
	load = find_load(s, path);
	if (!loaded && load == NULL)
		status = start_load(s, path, &load, &err);
	if (!loaded && status == LLM_OK &&
	    load->n_waiters == sizeof(load->waiters) / sizeof(load->waiters[0]))
		status = llm_fail(&err, LLM_E_LOADING, "model \"%.150s\" is still loading", path);
	if (!loaded && status == LLM_OK)
	{
		load->waiters[load->n_waiters].caller = c->caller;
		load->waiters[load->n_waiters++].id = id;
	}
	pthread_mutex_unlock(&s->mutex);
	if (!loaded && status == LLM_OK)
		return true;
	put_outcome(&w, id, status, &err, info.bytes_weights);
	conn_send(c, &w);
	llm_free(w.bytes);
	return true;
}

/* ---- errands ------------------------------------------------------------------------------- */

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

/* Writes the prefixes of one salt that a model keeps; returns their number. */
static uint32_t
put_prefixes(server *s, const char *model, const llm_salt *salt, llm_prefix_info *info,
             llm_wire_writer *w)
{
	uint32_t n_info = llm_engine_prefixes(s->engine, model, info, PREFIXES_LISTED_MAX);
	uint32_t n = 0;

	for (uint32_t k = 0; k < n_info && k < PREFIXES_LISTED_MAX; k++)
		if (memcmp(info[k].salt.bytes, salt->bytes, sizeof(salt->bytes)) == 0)
		{
			server_put_string(w, model);
			llm_wire_put_u32(w, info[k].n_tokens);
			llm_wire_put_u64(w, info[k].hits);
			llm_wire_put_u64(w, info[k].last_used);
			llm_wire_put_u8(w, info[k].pinned);
			n++;
		}
	return n;
}

/* PREFIXES: those of one salt, of every decoder. */
static void
list_prefixes(server *s, const server_errand *errand, llm_wire_writer *w)
{
	llm_model_info models[SERVER_MODELS_LISTED];
	llm_prefix_info *info = llm_malloc_array(PREFIXES_LISTED_MAX, sizeof(*info));
	llm_wire_writer list = {.grow = llm_wire_grow};
	uint32_t n_models = llm_engine_models(s->engine, models, SERVER_MODELS_LISTED);
	uint32_t n = 0;

	for (uint32_t i = 0; info != NULL && i < n_models && i < SERVER_MODELS_LISTED; i++)
		n += put_prefixes(s, models[i].name, &errand->salt, info, &list);
	if (info == NULL || list.failed)
		llm_wire_put_error(w, errand->id, LLM_E_NOMEM, "out of memory for the list of prefixes");
	else
	{
		llm_wire_begin(w, LLM_WIRE_PREFIXES_REPLY, errand->id);
		llm_wire_put_u32(w, n);
		llm_wire_put(w, list.bytes, list.n);
		llm_wire_end(w);
	}
	llm_free(list.bytes);
	llm_free(info);
}

/* Does one errand and writes its answer. */
static void
do_errand(server *s, const server_errand *errand, llm_wire_writer *w)
{
	llm_error err = {0};
	llm_model_kind kind = LLM_KIND_GENERATE;
	llm_status status;

	if (errand->type == LLM_WIRE_PREFIXES)
	{
		list_prefixes(s, errand, w);
		return;
	}
	/* An unload's memory is free when it is answered. */
	if (errand->type == LLM_WIRE_UNLOAD)
		status = llm_engine_unload(s->engine, errand->path, &err);
	else
		status = kind_of_file(s, errand->path, &kind, &err);
	put_outcome(w, errand->id, status, &err, errand->type == LLM_WIRE_UNLOAD ? 0 : (uint64_t) kind);
}

/* Does the errand that has waited longest; false: none waits. */
bool
server_errand_next(server *s)
{
	llm_wire_writer w = {.grow = llm_wire_grow};
	server_errand *errand;

	pthread_mutex_lock(&s->mutex);
	if ((errand = s->errands) != NULL)
	{
		s->errands = errand->next;
		s->n_errands--;
	}
	pthread_mutex_unlock(&s->mutex);
	if (errand == NULL)
		return false;
	do_errand(s, errand, &w);
	pthread_mutex_lock(&s->mutex);
	deliver(s, errand->caller, &w);
	pthread_mutex_unlock(&s->mutex);
	llm_free(w.bytes);
	llm_free(errand);
	return true;
}

/* The errand thread. */
void *
server_errand_main(void *arg)
{
	server *s = arg;
	bool stop = false;

	while (!stop)
	{
		(void) server_errand_next(s);
		pthread_mutex_lock(&s->mutex);
		while (s->errands == NULL && !s->errand_stop)
			pthread_cond_wait(&s->errand_cond, &s->mutex);
		stop = s->errand_stop;
		pthread_mutex_unlock(&s->mutex);
	}
	return NULL;
}

/* Takes an UNLOAD, INSPECT or PREFIXES frame for the errand thread. */
bool
server_send_errand(conn *c, const llm_wire_header *h, llm_wire_reader *r)
{
	server *s = c->server;
	server_errand **link = &s->errands;
	server_errand *errand = llm_calloc(1, sizeof(*errand));
	bool good = errand != NULL;

	if (errand == NULL)
	{
		conn_error(c, h->id, LLM_E_NOMEM, "out of memory for a request");
		return true;
	}
	errand->caller = c->caller;
	errand->id = h->id;
	errand->type = (llm_wire_type) h->type;
	if (errand->type == LLM_WIRE_PREFIXES)
	{
		llm_wire_get(r, errand->salt.bytes, sizeof(errand->salt.bytes));
		good = llm_wire_complete(r);
	}
	else
		good = server_get_name(r, errand->path, sizeof(errand->path));
	pthread_mutex_lock(&s->mutex);
	while (good && *link != NULL)
		link = &(*link)->next;
	if (good && s->n_errands < ERRANDS_MAX)
	{
		*link = errand;
		s->n_errands++;
		errand = NULL;
		pthread_cond_signal(&s->errand_cond);
	}
	pthread_mutex_unlock(&s->mutex);
	if (errand != NULL && good)
		conn_error(c, h->id, LLM_E_BUSY, "too many requests about models wait");
	else if (errand != NULL)
		conn_error(c, 0, LLM_E_FORMAT, "malformed request about a model");
	llm_free(errand);
	return good;
}
