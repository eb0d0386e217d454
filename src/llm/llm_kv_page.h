/*
 * llm_kv_page.h: internal to llm_kv*.c and llm_prefix.c: the pool of pages and their reference
 * counts.
 *
 * A page is held by tables (sequences) and by nodes of the prefix tree; a node under a pin counts
 * as a lock as well. The three counts are changed in one place, llm_page_shift, which keeps the
 * derived totals: free, pinned, and evictable (held by unlocked nodes only, so that dropping them
 * frees the page).
 *
 * The salt of the last owner stays with a free page: taking it for another salt reports it dirty.
 */
#ifndef LLM_KV_PAGE_H
#define LLM_KV_PAGE_H

#include "llm_kv.h"

typedef struct llm_page
{
	uint32_t table_refs;
	uint32_t tree_refs;
	uint32_t locked_refs; /* the part of tree_refs that is pinned or above a pin */
	bool used;            /* has been handed out: may hold data of salt */
	llm_salt salt;
} llm_page;

typedef struct llm_page_pool
{
	llm_page *pages; /* [n_pages] */
	uint32_t n_pages;
	uint32_t page_tokens;
	uint32_t *free; /* [n_free] stack */
	uint32_t n_free;
	uint32_t n_evictable;
	uint32_t n_pinned;
} llm_page_pool;

llm_status llm_page_pool_init(llm_page_pool *pool, uint32_t n_pages, uint32_t page_tokens,
                              llm_error *err);
void llm_page_pool_deinit(llm_page_pool *pool);
/* Adds to the three counts of a page in use; it becomes free when nobody holds it. */
void llm_page_shift(llm_page_pool *pool, uint32_t page, int table, int tree, int locked);
/* Takes a free page (n_free > 0) for a table; *dirty: it held another salt's data. */
uint32_t llm_page_take(llm_page_pool *pool, const llm_salt *salt, bool *dirty);

/* Says whether two salts are the same. */
static inline bool
llm_salt_equal(const llm_salt *a, const llm_salt *b)
{
	return __builtin_memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

/* The pages that n slots fill, the last one perhaps in part. */
static inline uint32_t
llm_page_count(const llm_page_pool *pool, uint32_t n_slots)
{
	return n_slots / pool->page_tokens + (n_slots % pool->page_tokens != 0);
}

#endif /* LLM_KV_PAGE_H */
