/*
 * test_thread.c: the pool gives every item out once, whatever the sizes, and survives a failed
 * start.
 */
#include <stdatomic.h>
#include <time.h>

#include "llm_alloc.h"
#include "llm_thread.h"
#include "test.h"

#define N_MAX 10007

typedef struct region
{
	_Atomic uint32_t times[N_MAX];
	_Atomic uint32_t bad; /* calls that break the contract */
	uint32_t grain;
	uint32_t n_threads;
} region;

/* Counts each item. */
static void
count_items(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	region *r = arg;

	if (begin >= end || end - begin > r->grain || thread >= r->n_threads)
		atomic_fetch_add(&r->bad, 1);
	for (uint32_t i = begin; i < end; i++)
		atomic_fetch_add(&r->times[i], 1);
}

/* Runs one region and says whether each of n items was done once. */
static bool
covers(llm_pool *pool, region *r, uint32_t n, uint32_t grain)
{
	bool sound = true;

	memset(r->times, 0, sizeof(r->times));
	r->bad = 0;
	r->grain = grain;
	r->n_threads = llm_pool_n_threads(pool);
	llm_pool_for(pool, n, grain, count_items, r);
	for (uint32_t i = 0; i < N_MAX; i++)
		sound = sound && r->times[i] == (i < n);
	return sound && r->bad == 0;
}

/* Sizes around the grain, primes, one thread and many. */
static void
test_covers_items(void)
{
	static region r;
	const uint32_t sizes[] = {0, 1, 2, 7, 8, 9, 63, 64, 65, 997, N_MAX};
	const uint32_t grains[] = {1, 2, 8, 64, 100000};

	for (uint32_t n_threads = 1; n_threads <= 5; n_threads++)
	{
		llm_pool *pool = llm_pool_create(n_threads);

		REQUIRE(pool != NULL);
		CHECK(llm_pool_n_threads(pool) == n_threads);
		for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
			for (size_t g = 0; g < sizeof(grains) / sizeof(grains[0]); g++)
				CHECK_MSG(covers(pool, &r, sizes[s], grains[g]), "%u items by %u", sizes[s],
				          grains[g]);
		llm_pool_free(pool);
	}
}

/* Adds the items into one sum. */
static void
add_items(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	_Atomic uint64_t *sum = arg;

	(void) thread;
	for (uint32_t i = begin; i < end; i++)
		atomic_fetch_add(sum, i);
}

/* Many short regions after one another, with pauses long enough to fall asleep in. */
static void
test_many_regions(void)
{
	llm_pool *pool = llm_pool_create(3);
	_Atomic uint64_t sum = 0;

	REQUIRE(pool != NULL);
	for (uint32_t i = 0; i < 20000; i++)
	{
		llm_pool_for(pool, 5, 1, add_items, &sum);
		if (i % 2000 == 0)
			nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	CHECK(sum == 20000 * 10);
	llm_pool_free(pool);
}

/* All cores by default. */
static void
test_default_threads(void)
{
	llm_pool *pool = llm_pool_create(0);

	REQUIRE(pool != NULL);
	CHECK(llm_pool_n_threads(pool) >= 1);
	llm_pool_free(pool);
	llm_pool_free(NULL);
}

/* Each allocation failing once. */
static void
test_no_memory(void)
{
	for (uint64_t n = 1; n <= 2; n++)
	{
		llm_alloc_fail_after(n, false);
		CHECK(llm_pool_create(2) == NULL);
	}
	llm_alloc_fail_after(0, false);
}

int
main(void)
{
	RUN(covers_items);
	RUN(many_regions);
	RUN(default_threads);
	RUN(no_memory);
	return test_summary("thread");
}
