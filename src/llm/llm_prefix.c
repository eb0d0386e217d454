/*
 * llm_prefix.c: see llm_prefix.h.
 *
 * A node is one allocation: the struct, its tokens, its pages. A split allocates the upper part and
 * lets the lower one advance its two pointers, so that children keep their parent and nothing else
 * moves. No recursion: paths are walked by parent links.
 */
#include "llm_prefix.h"

#include <string.h>

#include "llm_alloc.h"
#include "llm_hash.h"

#define BUCKETS_MIN 64

/* Prepares an empty tree over pool. */
llm_status
llm_prefix_init(llm_prefix_tree *tree, llm_page_pool *pool, llm_error *err)
{
	*tree = (llm_prefix_tree){.pool = pool};
	tree->buckets = llm_calloc(BUCKETS_MIN, sizeof(*tree->buckets));
	if (tree->buckets == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the prefix tree");
	tree->n_buckets = BUCKETS_MIN;
	return LLM_OK;
}

/* Frees all nodes; the pool goes with them, so the counts are left alone. */
void
llm_prefix_deinit(llm_prefix_tree *tree)
{
	for (uint32_t i = 0; i < tree->n_buckets; i++)
	{
		llm_prefix_node *node;

		while ((node = tree->buckets[i]) != NULL)
		{
			tree->buckets[i] = node->chain;
			llm_free(node);
		}
	}
	llm_free(tree->buckets);
	*tree = (llm_prefix_tree){0};
}

/* The hash of a child's key; roots are keyed by their salt. */
static uint64_t
key_hash(const llm_prefix_node *parent, const llm_salt *salt, int32_t token)
{
	uint64_t words[2];

	if (parent != NULL)
		return llm_mix64(parent->serial + llm_mix64((uint32_t) token + 1u));
	memcpy(words, salt->bytes, sizeof(words));
	return llm_mix64(words[0] + llm_mix64(words[1]));
}

/* The hash of a node that is in the tree. */
static uint64_t
node_hash(const llm_prefix_node *node)
{
	return key_hash(node->parent, &node->salt, node->parent != NULL ? node->tokens[0] : 0);
}

/* The child of parent that starts with token, or the root of salt when parent is NULL. */
static llm_prefix_node *
child_find(const llm_prefix_tree *tree, const llm_prefix_node *parent, const llm_salt *salt,
           int32_t token)
{
	uint64_t hash = key_hash(parent, salt, token);
	llm_prefix_node *node = tree->buckets[hash & (tree->n_buckets - 1)];

	for (; node != NULL; node = node->chain)
		if (node->parent == parent &&
		    (parent != NULL ? node->tokens[0] == token : llm_salt_equal(&node->salt, salt)))
			break;
	return node;
}

/* Doubles the hash table. Without memory the chains just stay longer. */
static void
buckets_grow(llm_prefix_tree *tree)
{
	uint32_t n_buckets = tree->n_buckets * 2;
	llm_prefix_node **buckets = llm_calloc(n_buckets, sizeof(*buckets));

	if (buckets == NULL)
		return;
	for (uint32_t i = 0; i < tree->n_buckets; i++)
	{
		llm_prefix_node *node;

		while ((node = tree->buckets[i]) != NULL)
		{
			llm_prefix_node **head = &buckets[node_hash(node) & (n_buckets - 1)];

			tree->buckets[i] = node->chain;
			node->chain = *head;
			*head = node;
		}
	}
	llm_free(tree->buckets);
	tree->buckets = buckets;
	tree->n_buckets = n_buckets;
}

/* Enters a node into the hash table. */
static void
hash_add(llm_prefix_tree *tree, llm_prefix_node *node)
{
	llm_prefix_node **head;

	if (tree->n_nodes >= tree->n_buckets && tree->n_buckets <= UINT32_MAX / 4)
		buckets_grow(tree);
	head = &tree->buckets[node_hash(node) & (tree->n_buckets - 1)];
	node->chain = *head;
	*head = node;
	tree->n_nodes++;
}

/* Takes a node out of the hash table; its key must not have changed yet. */
static void
hash_remove(llm_prefix_tree *tree, llm_prefix_node *node)
{
	llm_prefix_node **link = &tree->buckets[node_hash(node) & (tree->n_buckets - 1)];

	while (*link != node)
		link = &(*link)->chain;
	*link = node->chain;
	tree->n_nodes--;
}

/* Puts a node into the eviction list behind older (NULL: as the oldest). */
static void
list_insert(llm_prefix_tree *tree, llm_prefix_node *node, llm_prefix_node *older)
{
	node->older = older;
	node->newer = older != NULL ? older->newer : tree->oldest;
	*(node->older != NULL ? &node->older->newer : &tree->oldest) = node;
	*(node->newer != NULL ? &node->newer->older : &tree->newest) = node;
}

/* Takes a node out of the eviction list. */
static void
list_remove(llm_prefix_tree *tree, llm_prefix_node *node)
{
	*(node->older != NULL ? &node->older->newer : &tree->oldest) = node->newer;
	*(node->newer != NULL ? &node->newer->older : &tree->newest) = node->older;
	node->older = node->newer = NULL;
}

/* Deepest node first, so that every node stays older than its parent. */
void
llm_prefix_touch(llm_prefix_tree *tree, llm_prefix_node *node, bool hit)
{
	tree->clock++;
	for (; node != NULL && node->parent != NULL; node = node->parent)
	{
		node->last_used = tree->clock;
		node->hits += hit;
		if (node->n_locks > 0)
			continue;
		list_remove(tree, node);
		list_insert(tree, node, tree->newest);
	}
}

/* How many leading tokens a and b have in common. */
static uint32_t
common_length(const int32_t *a, const int32_t *b, uint32_t n)
{
	uint32_t i = 0;

	/* Whole edges match nearly always, and memcmp is many times faster than the loop. */
	if (memcmp(a, b, n * sizeof(*a)) == 0)
		return n;
	while (a[i] == b[i])
		i++;
	return i;
}

/* Walks down from the salt's root as far as the tokens agree. */
llm_prefix_match
llm_prefix_find(const llm_prefix_tree *tree, const llm_salt *salt, const int32_t *tokens,
                uint32_t n)
{
	llm_prefix_match m = {.node = child_find(tree, NULL, salt, 0), .n = 0};

	while (m.node != NULL && m.n == m.node->end && m.n < n)
	{
		llm_prefix_node *child = child_find(tree, m.node, salt, tokens[m.n]);
		uint32_t length;

		if (child == NULL)
			break;
		length = child->end - child->start;
		length = length < n - m.n ? length : n - m.n;
		m.n += common_length(child->tokens, tokens + m.n, length);
		m.node = child;
	}
	return m;
}

/* From the last page upwards: the page of the node that owns the page's last matched slot. */
void
llm_prefix_pages(const llm_prefix_tree *tree, llm_prefix_match match, uint32_t *pages)
{
	uint32_t page_tokens = tree->pool->page_tokens;
	uint32_t i = llm_page_count(tree->pool, match.n);
	const llm_prefix_node *node = match.node;

	while (i-- > 0)
	{
		uint32_t behind = match.n - i * page_tokens;
		uint32_t slot = i * page_tokens + (behind < page_tokens ? behind : page_tokens) - 1;

		while (node->start > slot)
			node = node->parent;
		pages[i] = node->pages[i - node->start / page_tokens];
	}
}

/*
 * Makes a node for tokens [start, end) with room for its pages; not yet in the tree. NULL without
 * memory.
 */
static llm_prefix_node *
node_create(llm_prefix_tree *tree, llm_prefix_node *parent, const llm_salt *salt, uint32_t start,
            uint32_t end)
{
	size_t n_pages =
	    end > start ? llm_page_count(tree->pool, end) - start / tree->pool->page_tokens : 0;
	size_t n_words = (size_t) (end - start) + n_pages;
	llm_prefix_node *node = llm_malloc(sizeof(*node) + n_words * sizeof(int32_t));

	if (node == NULL)
		return NULL;
	*node = (llm_prefix_node){.parent = parent, .start = start, .end = end, .salt = *salt};
	node->serial = ++tree->serial;
	node->tokens = (int32_t *) (node + 1);
	node->pages = (uint32_t *) (node->tokens + (end - start));
	return node;
}

/* The number of pages a node holds. */
static uint32_t
node_n_pages(const llm_prefix_tree *tree, const llm_prefix_node *node)
{
	if (node->parent == NULL)
		return 0;
	return llm_page_count(tree->pool, node->end) - node->start / tree->pool->page_tokens;
}

/* Adds to the tree and lock counts of all pages of a node. */
static void
node_shift(llm_prefix_tree *tree, const llm_prefix_node *node, int held, int locked)
{
	uint32_t n_pages = node_n_pages(tree, node);

	for (uint32_t i = 0; i < n_pages; i++)
		llm_page_shift(tree->pool, node->pages[i], 0, held, locked);
}

/* Cuts a node at slot at (start < at < end); returns the new upper part, NULL without memory. */
static llm_prefix_node *
node_split(llm_prefix_tree *tree, llm_prefix_node *node, uint32_t at)
{
	uint32_t n_whole = at / tree->pool->page_tokens - node->start / tree->pool->page_tokens;
	uint32_t n_upper = at - node->start;
	llm_prefix_node *upper = node_create(tree, node->parent, &node->salt, node->start, at);

	if (upper == NULL)
		return NULL;
	memcpy(upper->tokens, node->tokens, n_upper * sizeof(*upper->tokens));
	memcpy(upper->pages, node->pages, node_n_pages(tree, upper) * sizeof(*upper->pages));
	upper->hits = node->hits;
	upper->last_used = node->last_used;
	upper->n_locks = node->n_locks;
	upper->n_children = 1;
	/*
	 * Pages before the cut change hands, a page cut in two is held by both parts: count up first.
	 */
	node_shift(tree, upper, 1, upper->n_locks > 0);
	for (uint32_t i = 0; i < n_whole; i++)
		llm_page_shift(tree->pool, node->pages[i], 0, -1, -(node->n_locks > 0));
	hash_remove(tree, node);
	node->pages += n_whole;
	node->tokens += n_upper;
	node->start = at;
	node->parent = upper;
	hash_add(tree, upper);
	hash_add(tree, node);
	if (upper->n_locks == 0)
		list_insert(tree, upper, node);
	return upper;
}

/* Hangs a leaf with tokens [start, n) under parent; NULL without memory. */
static llm_prefix_node *
leaf_add(llm_prefix_tree *tree, llm_prefix_node *parent, const uint32_t *pages,
         const int32_t *tokens, uint32_t n)
{
	uint32_t start = parent->end;
	llm_prefix_node *leaf = node_create(tree, parent, &parent->salt, start, n);

	if (leaf == NULL)
		return NULL;
	memcpy(leaf->tokens, tokens + start, (n - start) * sizeof(*tokens));
	memcpy(leaf->pages, pages + start / tree->pool->page_tokens,
	       node_n_pages(tree, leaf) * sizeof(*pages));
	node_shift(tree, leaf, 1, 0);
	hash_add(tree, leaf);
	list_insert(tree, leaf, tree->newest);
	parent->n_children++;
	return leaf;
}

/* A root without children is not kept. */
static void
root_tidy(llm_prefix_tree *tree, llm_prefix_node *node)
{
	if (node != NULL && node->parent == NULL && node->n_children == 0)
	{
		hash_remove(tree, node);
		llm_free(node);
	}
}

/* Removes an unlocked leaf, and the root with its last child. */
static void
leaf_remove(llm_prefix_tree *tree, llm_prefix_node *leaf)
{
	llm_prefix_node *parent = leaf->parent;

	node_shift(tree, leaf, -1, 0);
	hash_remove(tree, leaf);
	list_remove(tree, leaf);
	llm_free(leaf);
	parent->n_children--;
	root_tidy(tree, parent);
}

/* The root of salt, made if need be; NULL without memory. */
static llm_prefix_node *
root_get(llm_prefix_tree *tree, const llm_salt *salt)
{
	llm_prefix_node *root = child_find(tree, NULL, salt, 0);

	if (root == NULL && (root = node_create(tree, NULL, salt, 0, 0)) != NULL)
		hash_add(tree, root);
	return root;
}

/*
 * Splits where the path ends inside an edge, hangs the rest below, and marks the end as an entry.
 */
llm_status
llm_prefix_insert(llm_prefix_tree *tree, const uint32_t *pages, const llm_salt *salt,
                  const int32_t *tokens, uint32_t n, llm_error *err)
{
	llm_prefix_match m = llm_prefix_find(tree, salt, tokens, n);
	llm_prefix_node *top = NULL;

	if (n == 0)
		return LLM_OK;
	if (m.node == NULL)
		m.node = top = root_get(tree, salt);
	else if (m.n < m.node->end)
		m.node = node_split(tree, m.node, m.n);
	if (m.node != NULL && m.n < n)
		m.node = leaf_add(tree, m.node, pages, tokens, n);
	if (m.node == NULL)
	{
		root_tidy(tree, top);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a prefix tree node");
	}
	m.node->entry = true;
	llm_prefix_touch(tree, m.node, false);
	return LLM_OK;
}

/* Locks or unlocks the whole path, deepest node first as the eviction order wants. */
void
llm_prefix_pin(llm_prefix_tree *tree, llm_prefix_node *node, bool pin)
{
	if (node->pinned == pin)
		return;
	node->pinned = pin;
	for (; node->parent != NULL; node = node->parent)
	{
		if (pin && node->n_locks++ == 0)
		{
			node_shift(tree, node, 0, 1);
			list_remove(tree, node);
		}
		else if (!pin && --node->n_locks == 0)
		{
			node_shift(tree, node, 0, -1);
			list_insert(tree, node, tree->newest);
		}
	}
}

/* Says whether dropping a leaf brings a page nearer to being free. */
static bool
leaf_frees(const llm_prefix_tree *tree, const llm_prefix_node *leaf)
{
	uint32_t n_pages = node_n_pages(tree, leaf);

	for (uint32_t i = 0; i < n_pages; i++)
		if (tree->pool->pages[leaf->pages[i]].table_refs == 0)
			return true;
	return false;
}

/*
 * The first sweep spares leaves whose pages sequences still use: dropping them frees nothing. The
 * second takes those too, for what lies above them. A parent is newer than its children, so one
 * sweep meets it after them.
 */
void
llm_prefix_evict(llm_prefix_tree *tree, uint32_t n_free)
{
	for (int sweep = 0; sweep < 2; sweep++)
	{
		llm_prefix_node *node = tree->oldest;

		while (node != NULL && tree->pool->n_free < n_free && tree->pool->n_evictable > 0)
		{
			llm_prefix_node *newer = node->newer;

			if (node->n_children == 0 && (sweep > 0 || leaf_frees(tree, node)))
				leaf_remove(tree, node);
			node = newer;
		}
	}
}

/* The oldest node is a leaf, and every holder of the page comes up in the end. */
void
llm_prefix_evict_page(llm_prefix_tree *tree, uint32_t page)
{
	while (tree->oldest != NULL && tree->pool->pages[page].tree_refs > 0)
		leaf_remove(tree, tree->oldest);
}

/* Walks the hash table, which holds every node. */
void
llm_prefix_unpin_all(llm_prefix_tree *tree)
{
	for (uint32_t i = 0; i < tree->n_buckets; i++)
		for (llm_prefix_node *node = tree->buckets[i]; node != NULL; node = node->chain)
			llm_prefix_pin(tree, node, false);
}

/* Unpins everything if asked to, then empties the eviction list from its old end. */
void
llm_prefix_drop(llm_prefix_tree *tree, bool pinned)
{
	if (pinned)
		llm_prefix_unpin_all(tree);
	while (tree->oldest != NULL)
		leaf_remove(tree, tree->oldest);
}
