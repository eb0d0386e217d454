/*
 * llm_kv_page.c: see llm_kv_page.h.
 *
 * The free list is a stack: the page given back last is taken first, while its lines may still be
 * in a cache. Not thread-safe: the pool belongs to one llm_kv.
 */
#include "llm_kv_page.h"

#include "llm_alloc.h"

/* Makes a pool whose pages are all free and clean; page 0 is taken first. */
llm_status
llm_page_pool_init(llm_page_pool *pool, uint32_t n_pages, uint32_t page_tokens, llm_error *err)
{
	pool->pages = llm_calloc(n_pages, sizeof(*pool->pages));
	pool->free = llm_malloc_array(n_pages, sizeof(*pool->free));
	if (pool->pages == NULL || pool->free == NULL)
	{
		llm_page_pool_deinit(pool);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the table of %u pages", n_pages);
	}
	pool->n_pages = pool->n_free = n_pages;
	pool->page_tokens = page_tokens;
	for (uint32_t i = 0; i < n_pages; i++)
		pool->free[i] = n_pages - 1 - i;
	return LLM_OK;
}

/* Frees the arrays. */
void
llm_page_pool_deinit(llm_page_pool *pool)
{
	llm_free(pool->pages);
	llm_free(pool->free);
	*pool = (llm_page_pool){0};
}

/* Counts a page in (sign 1) or out (sign -1) of the derived totals. */
static void
page_account(llm_page_pool *pool, const llm_page *p, uint32_t sign)
{
	if (p->locked_refs > 0)
		pool->n_pinned += sign;
	else if (p->table_refs == 0 && p->tree_refs > 0)
		pool->n_evictable += sign;
}

/* Applies the three deltas between two calls of page_account. */
void
llm_page_shift(llm_page_pool *pool, uint32_t page, int table, int tree, int locked)
{
	llm_page *p = &pool->pages[page];

	page_account(pool, p, UINT32_MAX);
	p->table_refs += (uint32_t) table;
	p->tree_refs += (uint32_t) tree;
	p->locked_refs += (uint32_t) locked;
	page_account(pool, p, 1);
	if (p->table_refs == 0 && p->tree_refs == 0)
		pool->free[pool->n_free++] = page;
}

/* Pops the stack and notes the new owner's salt. */
uint32_t
llm_page_take(llm_page_pool *pool, const llm_salt *salt, bool *dirty)
{
	uint32_t page = pool->free[--pool->n_free];
	llm_page *p = &pool->pages[page];

	*dirty = p->used && !llm_salt_equal(&p->salt, salt);
	p->used = true;
	p->salt = *salt;
	p->table_refs = 1;
	return page;
}
