/*
 * llm_thread.c: the pool: a gate that workers pass while a region is open, and a counter that hands
 * its items out.
 *
 * Why not OpenMP: its workers spin for milliseconds (or sleep at once), it makes a pool for every
 * thread that calls it, and a region waits for every worker. The engine is a guest on a database
 * server, where a core may be busy with something else: here the driver waits only for workers that
 * have begun, so one that does not get a core in time costs nothing, and the others do its share.
 *
 * Protocol. The gate is one word: the region's number, whether it is open, and how many workers are
 * inside. The driver fills fn, arg, n_items and grain while nobody is inside and opens the gate
 * with the next number (release). A worker enters by counting itself with a compare-and-swap that
 * succeeds only while the gate is open (acquire), at most once a region. When the items are gone
 * the driver closes the gate and waits until nobody is inside (acquire), so the fields are never
 * written under a reader. Sleeping is guarded by the mutex: a sleeper counts itself, and looks at
 * the gate once more, before it waits; who changes the gate looks at the count afterwards. Those
 * accesses are sequentially consistent, so one of the two always sees the other.
 */
#include "llm_thread.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "llm_alloc.h"

#define N_SPINS 4000 /* about 50 µs: longer than the serial gaps between the ops of a pass */
#define N_MAX   1024

#define GATE_OPEN   ((uint64_t) 1 << 31)
#define GATE_INSIDE (GATE_OPEN - 1) /* the number of workers inside */
#define GATE_REGION ((uint64_t) 1 << 32)

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
	pthread_cond_t changed; /* the gate */
	_Atomic bool stop;
	_Alignas(64) _Atomic uint64_t gate;
	_Atomic uint32_t n_sleeping;
	_Alignas(64) _Atomic uint64_t next; /* first item not handed out; 64 bits: no wrap-around */
};

/* Tells the core that this is a spin loop. */
static inline void
spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

/* Spins, then sleeps, until the gate differs from seen; returns what it is then. */
static uint64_t
wait_change(llm_pool *pool, uint64_t seen)
{
	uint64_t now = seen;

	for (uint32_t i = 0; i < N_SPINS; i++)
	{
		now = atomic_load_explicit(&pool->gate, memory_order_acquire);
		if (now != seen)
			return now;
		spin_pause();
	}
	pthread_mutex_lock(&pool->mutex);
	atomic_fetch_add(&pool->n_sleeping, 1);
	while ((now = atomic_load(&pool->gate)) == seen)
		pthread_cond_wait(&pool->changed, &pool->mutex);
	atomic_fetch_sub(&pool->n_sleeping, 1);
	pthread_mutex_unlock(&pool->mutex);
	return now;
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

/* The life of a worker: every region whose gate it finds open. */
static void *
worker_main(void *arg)
{
	llm_worker *w = arg;
	llm_pool *pool = w->pool;
	uint64_t gate = atomic_load(&pool->gate);
	uint64_t done = 0; /* the last region it was in; the first has number 1 */

	while (!atomic_load(&pool->stop))
	{
		if ((gate & GATE_OPEN) == 0 || gate / GATE_REGION == done)
			gate = wait_change(pool, gate);
		else if (atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1))
		{
			take_items(pool, w->index);
			done = gate / GATE_REGION;
			gate = atomic_fetch_sub(&pool->gate, 1) - 1;
			if ((gate & (GATE_OPEN | GATE_INSIDE)) == 0)
				wake(pool);
		}
	}
	return NULL;
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
	atomic_fetch_add(&pool->gate, GATE_REGION);
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

/* A region without help. */
static void
run_alone(uint32_t n_items, uint32_t grain, llm_pool_fn fn, void *arg)
{
	for (uint64_t begin = 0; begin < n_items; begin += grain)
	{
		uint64_t end = begin + grain < n_items ? begin + grain : n_items;

		fn(arg, (uint32_t) begin, (uint32_t) end, 0);
	}
}

/* Runs one region; see the header. */
void
llm_pool_for(llm_pool *pool, uint32_t n_items, uint32_t grain, llm_pool_fn fn, void *arg)
{
	uint64_t gate;

	if (grain == 0)
		grain = 1;
	if (pool->n_threads == 1 || n_items <= grain)
	{
		run_alone(n_items, grain, fn, arg);
		return;
	}
	pool->fn = fn;
	pool->arg = arg;
	pool->n_items = n_items;
	pool->grain = grain;
	atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
	atomic_fetch_add(&pool->gate, GATE_REGION | GATE_OPEN);
	wake(pool);
	take_items(pool, 0);
	gate = atomic_fetch_sub(&pool->gate, GATE_OPEN) - GATE_OPEN;
	while ((gate & GATE_INSIDE) != 0)
		gate = wait_change(pool, gate);
}
