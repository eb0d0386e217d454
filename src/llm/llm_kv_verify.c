/*
 * llm_kv_verify.c: the self-check of the KV bookkeeping: everything that is counted is counted
 * again.
 *
 * Used by tests after every step. It believes nothing but the tables it is given and the nodes it
 * reaches through the hash table; each message names the broken rule. Returns the first one found.
 */
#include <string.h>

#include "llm_alloc.h"
#include "llm_kv_internal.h"

/* Recounted references of one page. */
typedef struct recount
{
	uint32_t table_refs;
	uint32_t tree_refs;
	uint32_t locked_refs;
	uint32_t n_free;
} recount;

/* Counts the tables' pages. */
static const char *
recount_tables(const llm_kv *kv, const llm_kv_table *const *tables, uint32_t n_tables, recount *r)
{
	for (uint32_t i = 0; i < n_tables; i++)
	{
		const llm_kv_table *t = tables[i];

		if (t->n_pages != llm_page_count(&kv->pool, t->n_slots) || t->n_pages > t->capacity)
			return "a table has not the pages its slots fill";
		for (uint32_t k = 0; k < t->n_pages; k++)
		{
			if (t->pages[k] >= kv->pool.n_pages)
				return "a table holds a page outside the pool";
			r[t->pages[k]].table_refs++;
		}
	}
	return NULL;
}

/* Checks one node against its parent. */
static const char *
check_node(const llm_prefix_node *node)
{
	const llm_prefix_node *parent = node->parent;

	if (parent == NULL)
		return node->start != 0 || node->end != 0 || node->n_children == 0 || node->entry
		           ? "a root is not empty, or has no children"
		           : NULL;
	if (node->start != parent->end || node->end <= node->start)
		return "a node does not start where its parent ends";
	if (!llm_salt_equal(&node->salt, &parent->salt))
		return "a node's salt is not its root's";
	if (node->n_locks < (uint32_t) node->pinned ||
	    (parent->parent != NULL && parent->n_locks < node->n_locks))
		return "a pin is not counted on its whole path";
	if (node->pinned && !node->entry)
		return "a node is pinned that is no entry";
	return NULL;
}

/*
 * Counts the nodes' pages and checks the nodes; *n_unlocked and *n_links are for the list and child
 * counts.
 */
static const char *
recount_tree(const llm_kv *kv, recount *r, uint32_t *n_unlocked, uint64_t *n_links)
{
	uint32_t n_nodes = 0;

	for (uint32_t b = 0; b < kv->tree.n_buckets; b++)
		for (const llm_prefix_node *node = kv->tree.buckets[b]; node != NULL; node = node->chain)
		{
			const char *wrong = check_node(node);
			uint32_t first = node->start / kv->pool.page_tokens;
			uint32_t n = node->parent != NULL ? llm_page_count(&kv->pool, node->end) - first : 0;

			if (wrong != NULL)
				return wrong;
			for (uint32_t i = 0; i < n; i++)
			{
				const llm_page *page = &kv->pool.pages[node->pages[i]];

				if (!llm_salt_equal(&page->salt, &node->salt))
					return "a node holds a page that was taken for another salt";
				r[node->pages[i]].tree_refs++;
				r[node->pages[i]].locked_refs += node->n_locks > 0;
			}
			*n_unlocked += node->parent != NULL && node->n_locks == 0;
			*n_links += (uint64_t) node->n_children - (node->parent != NULL);
			n_nodes++;
		}
	return n_nodes == kv->tree.n_nodes ? NULL : "the number of tree nodes is wrong";
}

/* Checks the eviction list: links, and that every parent comes after its children (quadratic). */
static const char *
check_list(const llm_prefix_tree *tree, uint32_t n_unlocked)
{
	const llm_prefix_node *last = NULL;
	uint32_t n = 0;

	for (const llm_prefix_node *node = tree->oldest; node != NULL; node = node->newer, n++)
	{
		uint32_t n_above = 0;

		if (node->older != last || node->n_locks > 0 || n > n_unlocked)
			return "the eviction list is broken";
		for (const llm_prefix_node *up = node->newer; up != NULL; up = up->newer)
			n_above += up == node->parent;
		if (node->parent->parent != NULL && node->parent->n_locks == 0 && n_above == 0)
			return "a parent is evicted before its child";
		last = node;
	}
	if (last != tree->newest || n != n_unlocked)
		return "the eviction list misses a node";
	return tree->oldest == NULL || tree->oldest->n_children == 0 ? NULL
	                                                             : "the oldest node is not a leaf";
}

/* Compares one page with its recount. */
static const char *
check_page(const llm_page *page, const recount *r)
{
	if (page->table_refs != r->table_refs)
		return r->table_refs < page->table_refs ? "a page leaked: counted by no table"
		                                        : "a page is in a table that does not own it";
	if (page->tree_refs != r->tree_refs || page->locked_refs != r->locked_refs)
		return "a page's tree references are wrong";
	if (r->n_free != (page->table_refs == 0 && page->tree_refs == 0))
		return "a page is free and in use, or neither";
	return NULL;
}

/* Compares all pages and the totals. */
static const char *
check_pool(const llm_page_pool *pool, recount *r)
{
	uint32_t n_evictable = 0;
	uint32_t n_pinned = 0;

	for (uint32_t i = 0; i < pool->n_free; i++)
		r[pool->free[i]].n_free++;
	for (uint32_t i = 0; i < pool->n_pages; i++)
	{
		const char *wrong = check_page(&pool->pages[i], &r[i]);

		if (wrong != NULL)
			return wrong;
		n_pinned += r[i].locked_refs > 0;
		n_evictable += r[i].locked_refs == 0 && r[i].table_refs == 0 && r[i].tree_refs > 0;
	}
	if (n_pinned != pool->n_pinned || n_evictable != pool->n_evictable)
		return "the number of pinned or evictable pages is wrong";
	return NULL;
}

/* Runs all checks; tables must be all that hold pages. */
const char *
llm_kv_verify(const llm_kv *kv, const llm_kv_table *const *tables, uint32_t n_tables)
{
	recount *r = llm_calloc(kv->pool.n_pages, sizeof(*r));
	uint32_t n_unlocked = 0;
	uint64_t n_links = 0; /* children counted, less non-root nodes: 0 when sound */
	const char *wrong;

	if (r == NULL)
		return "out of memory";
	wrong = recount_tables(kv, tables, n_tables, r);
	if (wrong == NULL)
		wrong = recount_tree(kv, r, &n_unlocked, &n_links);
	if (wrong == NULL && n_links != 0)
		wrong = "child counts are wrong";
	if (wrong == NULL)
		wrong = check_list(&kv->tree, n_unlocked);
	if (wrong == NULL)
		wrong = check_pool(&kv->pool, r);
	llm_free(r);
	return wrong;
}
