/*
 * llm_engine.c: the engine object: create, destroy, step, cancel, statistics.
 *
 * The engine is a set of slots (a loaded model with its KV pool and scheduler) and a list of tasks
 * (jobs). One thread steps it; each step takes what has come in, then lets one slot run one forward
 * pass, slots in turn. See llm_engine_impl.h for the files and the locks.
 */
#include "llm_engine_impl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "llm_alloc.h"

#define DEFAULT_MAX_QUEUED 65536u
#define YIELD_US           20
#define YIELDS_MAX         100

/* Monotonic milliseconds. */
double
llm_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec * 1e3 + (double) ts.tv_nsec * 1e-6;
}

/* 80 % of the memory that a device has left; 0 when it does not say. */
static llm_status
device_memory_limit(const char *device, uint64_t *limit, llm_error *err)
{
	pp_memory_info info;
	pp_backend *be;
	llm_status status = llm_device_open(device, 1, &be, err);

	if (status != LLM_OK)
		return status;
	be->ops->memory_info(be, &info);
	be->ops->destroy(be);
	*limit = info.bytes_free / 10 * 8;
	return LLM_OK;
}

/* 80 % of the host's memory. */
static uint64_t
host_memory_limit(void)
{
	long pages = sysconf(_SC_PHYS_PAGES);
	long bytes = sysconf(_SC_PAGESIZE);

	if (pages <= 0 || bytes <= 0)
		return (uint64_t) 1 << 32;
	return (uint64_t) pages * (uint64_t) bytes / 10 * 8;
}

/* What a device holds weights as, by the parameter; the CPU has no choice. */
static llm_status
choose_quantisation(llm_engine *e, const char *quantisation, llm_error *err)
{
	static const struct
	{
		const char *name;
		pp_precision precision;
	} names[] = {{"auto", PP_PREC_NATIVE}, {"bf16", PP_PREC_BF16}, {"fp8", PP_PREC_FP8}};
	const char *name = quantisation != NULL ? quantisation : "auto";

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i].name) == 0)
		{
			if (strcmp(e->device, "cpu") != 0)
				e->params.precision = names[i].precision;
			else if (i > 0)
				return llm_fail(
				    err, LLM_E_UNSUPPORTED,
				    "quantisation \"%s\" needs a CUDA device, and models run on the CPU", name);
			return LLM_OK;
		}
	return llm_fail(err, LLM_E_UNSUPPORTED, "quantisation \"%.40s\" is not auto, bf16 or fp8",
	                name);
}

/*
 * Finds the device and its memory. A device that the setting "auto" found and that does not start
 * leaves the CPU. Devices compute in their own precision.
 */
static llm_status
choose_device(llm_engine *e, const llm_engine_params *params, llm_error *err)
{
	bool named = params->device != NULL && strcmp(params->device, "auto") != 0;
	llm_status status = llm_device_find(params->device, e->device, err);

	e->memory_limit = params->memory_limit;
	if (status != LLM_OK)
		return status;
	e->n_copies = params->n_copies > 0 ? params->n_copies : llm_device_count(params->device);
	if (e->n_copies > LLM_COPIES_MAX)
		return llm_fail(err, LLM_E_RANGE, "%u copies of a model are more than the limit of %u",
		                e->n_copies, LLM_COPIES_MAX);
	if (strcmp(e->device, "cpu") != 0)
	{
		uint64_t limit = 0;

		status = device_memory_limit(e->device, &limit, err);
		if (status != LLM_OK && named)
			return status;
		if (status != LLM_OK)
			snprintf(e->device, sizeof(e->device), "cpu");
		else if (e->memory_limit == 0)
			e->memory_limit = limit;
	}
	if (e->memory_limit == 0)
		e->memory_limit = host_memory_limit();
	return choose_quantisation(e, params->quantisation, err);
}

/* Checks the parameters and creates an engine without models. */
llm_status
llm_engine_create(const llm_engine_params *params, llm_engine **out, llm_error *err)
{
	llm_engine *e;

	if (params->n_threads > 1024)
		return llm_fail(err, LLM_E_RANGE, "%u threads are more than the limit of 1024",
		                params->n_threads);
	if ((e = llm_calloc(1, sizeof(*e))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while creating the engine");
	e->params = *params;
	e->params.device = NULL;
	e->params.quantisation = NULL;
	if (choose_device(e, params, err) != LLM_OK)
	{
		llm_free(e);
		return err->code;
	}
	if (e->params.max_queued == 0)
		e->params.max_queued = DEFAULT_MAX_QUEUED;
	e->next_id = 1;
	snprintf(e->stats.device, sizeof(e->stats.device), "%s", e->device);
	if (e->n_copies > 1 && strcmp(e->device, "cpu") != 0)
		snprintf(e->stats.device, sizeof(e->stats.device), "%.16s-%u", e->device, e->n_copies - 1);
	e->stats.memory_limit = e->memory_limit;
	pthread_mutex_init(&e->step_mutex, NULL);
	pthread_mutex_init(&e->inbox_mutex, NULL);
	pthread_rwlock_init(&e->models_lock, NULL);
	*out = e;
	return LLM_OK;
}

/* Moves the inbox to the task list, oldest first, and hands the sequences to the schedulers. */
void
llm_engine_take_inbox(llm_engine *e)
{
	llm_task *newest;
	llm_task *oldest = NULL;

	pthread_mutex_lock(&e->inbox_mutex);
	newest = e->inbox;
	e->inbox = NULL;
	pthread_mutex_unlock(&e->inbox_mutex);
	while (newest != NULL)
	{
		llm_task *next = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (oldest != NULL)
	{
		llm_task *task = oldest;

		oldest = task->next;
		task->next = e->tasks;
		e->tasks = task;
		llm_task_start(e, task);
	}
}

/* True when id (or its caller) is on the lists of what to cancel. */
static bool
is_cancelled(const llm_task *task, const uint64_t *ids, uint32_t n_ids, const uint64_t *callers,
             uint32_t n_callers)
{
	for (uint32_t i = 0; i < n_ids; i++)
		if (ids[i] == task->id)
			return true;
	for (uint32_t i = 0; i < n_callers; i++)
		if (callers[i] == task->job.caller)
			return true;
	return false;
}

/* Carries out the cancels that came in since the last pass. */
static void
take_cancels(llm_engine *e)
{
	uint64_t *ids;
	uint64_t *callers;
	uint32_t n_ids;
	uint32_t n_callers;

	pthread_mutex_lock(&e->inbox_mutex);
	ids = e->cancels;
	n_ids = e->n_cancels;
	callers = e->cancel_callers;
	n_callers = e->n_cancel_callers;
	e->cancels = e->cancel_callers = NULL;
	e->n_cancels = e->n_cancel_callers = 0;
	e->cap_cancels = e->cap_cancel_callers = 0;
	pthread_mutex_unlock(&e->inbox_mutex);
	if (n_ids + n_callers > 0)
		for (llm_task *task = e->tasks; task != NULL; task = task->next)
			if (is_cancelled(task, ids, n_ids, callers, n_callers))
				llm_task_cancel(e, task, LLM_E_CANCELLED, "cancelled by the caller");
	llm_free(ids);
	llm_free(callers);
}

/* Gives on_done of the tasks that are finished and forgets them. Returns how many there were. */
uint32_t
llm_engine_reap(llm_engine *e)
{
	llm_task **link = &e->tasks;
	uint32_t n = 0;

	while (*link != NULL)
	{
		llm_task *task = *link;

		if (task->n_open == 0 && (task->n_rows_open == 0 || task->cancelled))
		{
			*link = task->next;
			llm_task_reap(e, task);
			n++;
		}
		else
			link = &task->next;
	}
	return n;
}

/* Publishes what the statistics call shows. */
static void
publish_stats(llm_engine *e, double busy_ms)
{
	llm_engine_stats s = {0};
	llm_sched_stats sched;
	llm_kv_stats kv;
	pp_memory_info memory;

	for (llm_task *task = e->tasks; task != NULL; task = task->next)
		s.n_jobs++;
	for (uint32_t i = 0; i < e->n_slots; i++)
		for (llm_slot *slot = e->slots[i]; slot != NULL; slot = slot->next_copy)
		{
			uint64_t used;

			llm_sched_get_stats(slot->sched, &sched);
			llm_kv_get_stats(slot->kv, &kv);
			slot->be->ops->memory_info(slot->be, &memory);
			s.n_waiting += sched.n_waiting;
			s.n_running += sched.n_running;
			s.bytes_weights += slot->model->bytes;
			s.bytes_kv += slot->bytes_kv;
			used = slot->bytes_kv / (kv.n_pages > 0 ? kv.n_pages : 1) * (kv.n_pages - kv.n_free);
			atomic_store(&slot->bytes_kv_used, used);
			s.bytes_kv_used += used;
			s.bytes_scratch += memory.bytes_scratch;
		}
	pthread_mutex_lock(&e->inbox_mutex);
	s.n_passes = e->stats.n_passes + (busy_ms > 0 ? 1 : 0);
	s.n_tokens = e->stats.n_tokens;
	s.n_shared_tokens = e->stats.n_shared_tokens;
	s.busy_ms = e->stats.busy_ms + busy_ms;
	s.state = e->stats.state;
	s.memory_limit = e->memory_limit;
	memcpy(s.device, e->stats.device, sizeof(s.device));
	memcpy(s.last_error, e->stats.last_error, sizeof(s.last_error));
	e->stats = s;
	pthread_mutex_unlock(&e->inbox_mutex);
}

/* Takes step_mutex with precedence over the stepping thread. */
void
llm_engine_lock_step(llm_engine *e)
{
	atomic_fetch_add(&e->n_step_waiters, 1);
	pthread_mutex_lock(&e->step_mutex);
	atomic_fetch_sub(&e->n_step_waiters, 1);
}

/*
 * Lets those who wait for step_mutex have it: a mutex is not fair, and the stepping thread would
 * take it again before they wake. Bounded, so that a waiter that is not scheduled costs little.
 */
static void
yield_to_waiters(llm_engine *e)
{
	for (int i = 0; i < YIELDS_MAX && atomic_load(&e->n_step_waiters) > 0; i++)
		usleep(YIELD_US);
}

/* Runs a pass of each copy that has work: all are under way before the first is waited for. */
static bool
step_copies(llm_engine *e, llm_slot *slot)
{
	bool worked = false;

	for (llm_slot *copy = slot; copy != NULL; copy = copy->next_copy)
		worked = llm_slot_begin(copy) || worked;
	for (llm_slot *copy = slot; copy != NULL; copy = copy->next_copy)
		llm_slot_end(e, slot, copy);
	return worked;
}

/* Takes what came in, then lets the next slot that has work run one pass. */
bool
llm_engine_step(llm_engine *e)
{
	bool worked = false;
	double start;

	yield_to_waiters(e);
	pthread_mutex_lock(&e->step_mutex);
	llm_engine_take_inbox(e);
	take_cancels(e);
	worked = llm_engine_reap(e) > 0;
	start = llm_now_ms();
	for (uint32_t i = 0; i < e->n_slots; i++)
	{
		llm_slot *slot = e->slots[(e->i_slot + i) % e->n_slots];

		if (!step_copies(e, slot))
			continue;
		e->i_slot = (e->i_slot + i + 1) % e->n_slots;
		publish_stats(e, llm_now_ms() - start);
		llm_engine_reap(e);
		worked = true;
		break;
	}
	if (!worked)
		publish_stats(e, 0);
	pthread_mutex_unlock(&e->step_mutex);
	return worked;
}

/* Calls the owner's wake-up, if there is one. */
static void
wake(llm_engine *e)
{
	if (e->wakeup != NULL)
		e->wakeup(e->wakeup_arg);
}

/* Appends an id to a growing list. Without memory the id is lost: the job then runs to its end. */
static void
push_id(uint64_t **ids, uint32_t *n, uint32_t *capacity, uint64_t id)
{
	if (*n == *capacity)
	{
		uint32_t grown = *capacity > 0 ? *capacity * 2 : 16;
		uint64_t *bigger = llm_realloc_array(*ids, grown, sizeof(uint64_t));

		if (bigger == NULL)
			return;
		*ids = bigger;
		*capacity = grown;
	}
	(*ids)[(*n)++] = id;
}

/* Notes a cancel; the step thread carries it out. */
void
llm_engine_cancel(llm_engine *e, uint64_t id)
{
	pthread_mutex_lock(&e->inbox_mutex);
	push_id(&e->cancels, &e->n_cancels, &e->cap_cancels, id);
	pthread_mutex_unlock(&e->inbox_mutex);
	wake(e);
}

/* Notes that a caller has gone. */
void
llm_engine_cancel_caller(llm_engine *e, uint64_t caller)
{
	pthread_mutex_lock(&e->inbox_mutex);
	push_id(&e->cancel_callers, &e->n_cancel_callers, &e->cap_cancel_callers, caller);
	pthread_mutex_unlock(&e->inbox_mutex);
	wake(e);
}

/* Remembers whom to wake; called before the first submit. */
void
llm_engine_set_wakeup(llm_engine *e, void (*wakeup)(void *arg), void *arg)
{
	e->wakeup = wakeup;
	e->wakeup_arg = arg;
}

/* Puts a task into the inbox, within the bound on queued sequences. */
static llm_status
queue_task(llm_engine *e, llm_task *task, uint64_t *id, llm_error *err)
{
	llm_status status = LLM_OK;

	pthread_mutex_lock(&e->inbox_mutex);
	if (task->n_seqs > e->params.max_queued - e->n_queued)
		status = llm_fail(err, LLM_E_BUSY, "the queue is full: %u of %u sequences wait",
		                  e->n_queued, e->params.max_queued);
	else
	{
		e->n_queued += task->n_seqs;
		*id = task->id = e->next_id++;
		task->submitted_ms = llm_now_ms();
		task->next = e->inbox;
		e->inbox = task;
	}
	pthread_mutex_unlock(&e->inbox_mutex);
	return status;
}

/* models_lock is held until the task is in the inbox, so that unload finds it there. */
llm_status
llm_engine_submit(llm_engine *e, const llm_job *job, uint64_t *id, llm_error *err)
{
	llm_task *task = NULL;
	llm_slot *slot;
	llm_status status;

	pthread_rwlock_rdlock(&e->models_lock);
	slot = job->model != NULL ? llm_slot_find(e, job->model) : NULL;
	if (slot == NULL)
		status = llm_fail(err, LLM_E_NOT_FOUND, "model \"%.150s\" is not loaded",
		                  job->model != NULL ? job->model : "");
	else if ((status = llm_task_create(e, job, slot, &task, err)) == LLM_OK &&
	         (status = queue_task(e, task, id, err)) != LLM_OK)
		llm_task_free(task);
	pthread_rwlock_unlock(&e->models_lock);
	if (status == LLM_OK)
		wake(e);
	return status;
}

/* Copies what the last step published. */
void
llm_engine_get_stats(llm_engine *e, llm_engine_stats *stats)
{
	pthread_mutex_lock(&e->inbox_mutex);
	*stats = e->stats;
	pthread_mutex_unlock(&e->inbox_mutex);
}

/* Lists the prefix tree of a decoder. */
uint32_t
llm_engine_prefixes(llm_engine *e, const char *model, llm_prefix_info *out, uint32_t max)
{
	llm_slot *slot;
	uint32_t n = 0;

	llm_engine_lock_step(e);
	if ((slot = llm_slot_find(e, model)) != NULL && slot->model->arch.decoder)
		n = llm_kv_list(slot->kv, out, max);
	pthread_mutex_unlock(&e->step_mutex);
	return n;
}

/* Ends every job, then frees models and locks. No other call may run or follow. */
void
llm_engine_destroy(llm_engine *e)
{
	if (e == NULL)
		return;
	llm_engine_lock_step(e);
	llm_engine_take_inbox(e);
	for (llm_task *task = e->tasks; task != NULL; task = task->next)
		llm_task_cancel(e, task, LLM_E_CANCELLED, "the engine is stopping");
	llm_engine_reap(e);
	pthread_mutex_unlock(&e->step_mutex);
	for (uint32_t i = 0; i < e->n_slots; i++)
		llm_slot_free(e->slots[i]);
	llm_free(e->cancels);
	llm_free(e->cancel_callers);
	pthread_mutex_destroy(&e->step_mutex);
	pthread_mutex_destroy(&e->inbox_mutex);
	pthread_rwlock_destroy(&e->models_lock);
	llm_free(e);
}
