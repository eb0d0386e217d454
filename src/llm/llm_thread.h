/*
 * llm_thread.h: a fixed pool of threads that runs one parallel region at a time.
 *
 * The CPU backend splits its ops over the pool; the caller's thread takes part as thread 0. Workers
 * spin for some microseconds after a region, since the next one follows at once within a forward
 * pass, and then sleep. No op's result may depend on how many threads there are or on which of them
 * takes an item: that is the duty of the code in the regions.
 *
 * One thread drives a pool; the pool owns its workers and joins them in llm_pool_free.
 */
#ifndef LLM_THREAD_H
#define LLM_THREAD_H

#include <stdint.h>

typedef struct llm_pool llm_pool;

/* Work on items [begin, end) by the given thread, 0 … n_threads − 1. */
typedef void (*llm_pool_fn)(void *arg, uint32_t begin, uint32_t end, uint32_t thread);

/* n_threads = 0: one for each core that the process may run on. NULL when it cannot be made. */
llm_pool *llm_pool_create(uint32_t n_threads);
void llm_pool_free(llm_pool *pool); /* NULL is fine */
uint32_t llm_pool_n_threads(const llm_pool *pool);

/*
 * Calls fn until all of [0, n_items) is done, grain items (at least 1) at a time, each item by one
 * call. Returns when every call has returned; it does not wait for workers that have not begun.
 * Without more than one grain of items it is a plain call.
 */
void llm_pool_for(llm_pool *pool, uint32_t n_items, uint32_t grain, llm_pool_fn fn, void *arg);

#endif /* LLM_THREAD_H */
