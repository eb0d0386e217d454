/*
 * llm_prefix.h: internal to llm_kv*.c: the radix tree of cached prefixes (as SGLang's
 * RadixAttention, arXiv 2312.07104).
 *
 * One root per salt. A node stands for the tokens [start, end) behind its parent and holds every
 * page that these slots touch. Where start lies inside a page, the node's first page also holds the
 * slots before start, as its own sequence computed or copied them: so the page for slot i of a path
 * is always that of the node that owns slot i, and prefixes may branch at any token, not only
 * between pages.
 *
 * Children are found through one hash table over (parent, first token); the tokens themselves are
 * compared on every hit. Unlocked nodes form a list from the least to the most recently used in
 * which every node is older than its parent: so its oldest node is always a leaf, and one sweep
 * evicts in the right order.
 *
 * Ownership: the tree owns its nodes and holds one tree reference per node on each page of the
 * node.
 */
#ifndef LLM_PREFIX_H
#define LLM_PREFIX_H

#include "llm_kv_page.h"

typedef struct llm_prefix_node
{
	struct llm_prefix_node *parent; /* NULL: a root */
	struct llm_prefix_node *chain;  /* next in the hash bucket */
	struct llm_prefix_node *older;  /* the eviction list; NULL at its end, and off it */
	struct llm_prefix_node *newer;
	int32_t *tokens; /* [end - start], inside the node's allocation */
	uint32_t *pages; /* pages start / page_tokens … (end - 1) / page_tokens */
	uint32_t start;
	uint32_t end;
	uint32_t n_children;
	uint32_t n_locks; /* pinned nodes at or below this one */
	bool entry;       /* an insert ended here; false: a mere fork in the path */
	bool pinned;
	uint64_t serial; /* hashed in place of the address, so that runs repeat exactly */
	uint64_t hits;
	uint64_t last_used;
	llm_salt salt;
} llm_prefix_node;

typedef struct llm_prefix_tree
{
	llm_page_pool *pool;
	llm_prefix_node **buckets; /* [n_buckets], a power of two */
	uint32_t n_buckets;
	uint32_t n_nodes;
	llm_prefix_node *oldest;
	llm_prefix_node *newest;
	uint64_t clock;
	uint64_t serial;
} llm_prefix_tree;

/*
 * Where a walk ended: n tokens matched, the last of them inside node (a root when n = 0, or NULL).
 */
typedef struct llm_prefix_match
{
	llm_prefix_node *node;
	uint32_t n;
} llm_prefix_match;

llm_status llm_prefix_init(llm_prefix_tree *tree, llm_page_pool *pool, llm_error *err);
void llm_prefix_deinit(llm_prefix_tree *tree);
llm_prefix_match llm_prefix_find(const llm_prefix_tree *tree, const llm_salt *salt,
                                 const int32_t *tokens, uint32_t n);
/* Writes the pages of a match's n slots. */
void llm_prefix_pages(const llm_prefix_tree *tree, llm_prefix_match match, uint32_t *pages);
/* Makes the path of a match the most recently used; hit: counts a use. */
void llm_prefix_touch(llm_prefix_tree *tree, llm_prefix_node *node, bool hit);
llm_status llm_prefix_insert(llm_prefix_tree *tree, const uint32_t *pages, const llm_salt *salt,
                             const int32_t *tokens, uint32_t n, llm_error *err);
void llm_prefix_pin(llm_prefix_tree *tree, llm_prefix_node *node, bool pin);
void llm_prefix_unpin_all(llm_prefix_tree *tree);
/* Evicts, oldest first, until n_free pages are free or nothing that could be freed is left. */
void llm_prefix_evict(llm_prefix_tree *tree, uint32_t n_free);
/* Evicts, oldest first, until no node holds page (which no locked node does). */
void llm_prefix_evict_page(llm_prefix_tree *tree, uint32_t page);
void llm_prefix_drop(llm_prefix_tree *tree, bool pinned);

#endif /* LLM_PREFIX_H */
