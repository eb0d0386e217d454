/*
 * llm_thread.c: the pool: an epoch that the driver raises, a counter that hands items out, a
 * counter of workers still busy.
 *
 * Why not OpenMP: its workers spin for milliseconds (or sleep at once), it makes a pool for every
 * thread that calls it, and the engine is a guest on a database server.
 *
 * Protocol. The driver fills fn, arg, n_items and grain, sets n_busy, and then raises epoch
 * (release); a worker that sees a new epoch (acquire) may read them until it lowers n_busy
 * (release). The driver touches them again only when n_busy is 0 (acquire). Sleeping is guarded by
 * the mutex: a sleeper counts itself, and looks at what it waits for once more, before it waits;
 * who changes it looks at the count afterwards. All four accesses are sequentially consistent, so
 * one of the two always sees the other.
 */
#include "llm_thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "llm_alloc.h"

#define N_SPINS 4000 /* about 50 µs: longer than the serial gaps between the ops of a pass */
#define N_MAX   1024

typedef struct llm_worker
{
	llm_pool *pool;
	pthread_t thread;
	uint32_t index;
} llm_worker;

struct llm_pool
{
	llm_pool_fn fn;
	void *arg;
	uint32_t n_items;
	uint32_t grain;
	uint32_t n_threads; /* the driver's included */
	uint32_t n_started; /* workers that must be joined */
	llm_worker *workers;
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* a worker waits for epoch, the driver for n_busy */
	_Atomic bool stop;
	_Alignas(64) _Atomic uint32_t epoch;
	_Atomic uint32_t n_sleeping;
	_Alignas(64) _Atomic uint64_t next; /* first item not handed out; 64 bits: no wrap-around */
	_Alignas(64) _Atomic uint32_t n_busy;
};

/* Tells the core that this is a spin loop. */
static inline void
spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* Spins, then sleeps, while *value is equal to (or, with equal = false, other than) what. */
static void
wait_while(llm_pool *pool, _Atomic uint32_t *value, uint32_t what, bool equal)
{
	for (uint32_t i = 0; i < N_SPINS; i++)
	{
		if ((atomic_load_explicit(value, memory_order_acquire) == what) != equal)
			return;
		spin_pause();
	}
	pthread_mutex_lock(&pool->mutex);
	atomic_fetch_add(&pool->n_sleeping, 1);
	while ((atomic_load(value) == what) == equal)
		pthread_cond_wait(&pool->changed, &pool->mutex);
	atomic_fetch_sub(&pool->n_sleeping, 1);
	pthread_mutex_unlock(&pool->mutex);
}

/* Wakes whoever sleeps; to be called after the change that they wait for. */
static void
wake(llm_pool *pool)
{
	if (atomic_load(&pool->n_sleeping) == 0)
		return;
	pthread_mutex_lock(&pool->mutex);
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->mutex);
}

/* Takes items and works on them until there are none. */
static void
take_items(llm_pool *pool, uint32_t thread)
{
	const uint32_t grain = pool->grain;

	for (;;)
	{
		uint64_t begin = atomic_fetch_add_explicit(&pool->next, grain, memory_order_relaxed);
		uint64_t end = begin + grain;

		if (begin >= pool->n_items)
			return;
		if (end > pool->n_items)
			end = pool->n_items;
		pool->fn(pool->arg, (uint32_t) begin, (uint32_t) end, thread);
	}
}

/* The life of a worker: a region for every new epoch. */
static void *
worker_main(void *arg)
{
	llm_worker *w = arg;
	llm_pool *pool = w->pool;

	for (uint32_t epoch = 0;; epoch++)
	{
		wait_while(pool, &pool->epoch, epoch, true);
		if (atomic_load(&pool->stop))
			return NULL;
		take_items(pool, w->index);
		if (atomic_fetch_sub(&pool->n_busy, 1) == 1)
			wake(pool);
	}
}

/* The number of cores that the process may use. */
static uint32_t
count_cores(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return 1;
	return (uint32_t) CPU_COUNT(&set);
}

/* Starts the workers; false when the system refuses one. */
static bool
start_workers(llm_pool *pool)
{
	for (uint32_t i = 0; i + 1 < pool->n_threads; i++)
	{
		llm_worker *w = &pool->workers[i];

		w->pool = pool;
		w->index = i + 1;
		if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
			return false;
		pool->n_started++;
	}
	return true;
}

/* Makes a pool; see the header. */
llm_pool *
llm_pool_create(uint32_t n_threads)
{
	llm_pool *pool = llm_malloc_aligned(sizeof(*pool), 64);

	if (pool == NULL)
		return NULL;
	*pool = (llm_pool){.n_threads = n_threads != 0 ? n_threads : count_cores()};
	if (pool->n_threads > N_MAX)
		pool->n_threads = N_MAX;
	pthread_mutex_init(&pool->mutex, NULL);
	pthread_cond_init(&pool->changed, NULL);
	pool->workers = llm_calloc(pool->n_threads, sizeof(*pool->workers));
	if (pool->workers == NULL || !start_workers(pool))
	{
		llm_pool_free(pool);
		return NULL;
	}
	return pool;
}

/* Ends and joins the workers. */
void
llm_pool_free(llm_pool *pool)
{
	if (pool == NULL)
		return;
	atomic_store(&pool->stop, true);
	atomic_fetch_add(&pool->epoch, 1);
	wake(pool);
	for (uint32_t i = 0; i < pool->n_started; i++)
		pthread_join(pool->workers[i].thread, NULL);
	pthread_cond_destroy(&pool->changed);
	pthread_mutex_destroy(&pool->mutex);
	llm_free(pool->workers);
	llm_free(pool);
}

/* The number of threads, the driver's included. */
uint32_t
llm_pool_n_threads(const llm_pool *pool)
{
	return pool->n_threads;
}

/* Runs one region; see the header. */
void
llm_pool_for(llm_pool *pool, uint32_t n_items, uint32_t grain, llm_pool_fn fn, void *arg)
{
	if (n_items == 0)
		return;
	if (grain == 0)
		grain = 1;
	if (pool->n_threads == 1 || n_items <= grain)
	{
		for (uint32_t i = 0; i < n_items; i += grain)
		{
			fn(arg, i, n_items - i < grain ? n_items : i + grain, 0);
			if (n_items - i <= grain)
				return;
		}
	}
	pool->fn = fn;
	pool->arg = arg;
	pool->n_items = n_items;
	pool->grain = grain;
	atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
	atomic_store_explicit(&pool->n_busy, pool->n_threads - 1, memory_order_relaxed);
	atomic_fetch_add(&pool->epoch, 1);
	wake(pool);
	take_items(pool, 0);
	for (uint32_t busy; (busy = atomic_load_explicit(&pool->n_busy, memory_order_acquire)) != 0;)
		wait_while(pool, &pool->n_busy, busy, true);
}
