/*
 * llm_tok_trie.c: tries of byte strings.
 *
 * Built once from sorted keys, breadth first: the keys below a node are a range, its children are
 * the parts of that range with the same next byte, and they get a row of nodes. A node costs 12
 * bytes, and a step is a binary search in its row; the root's row is a table.
 */
#include "llm_tok_internal.h"

#include <stdlib.h>

/* Orders keys by bytes, equal ones by id. */
static int
compare_keys(const void *a, const void *b)
{
	const tok_key *x = a;
	const tok_key *y = b;
	int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);

	if (order != 0)
		return order;
	if (x->bytes != y->bytes)
		return x->bytes < y->bytes ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* The number of nodes: the root, and what each key adds to the one before it. */
static uint64_t
count_nodes(const tok_key *keys, size_t n)
{
	uint64_t nodes = 1;

	for (size_t i = 0; i < n; i++)
	{
		uint32_t same = 0;

		while (i > 0 && same < keys[i].bytes && same < keys[i - 1].bytes &&
		       keys[i].text[same] == keys[i - 1].text[same])
			same++;
		nodes += keys[i].bytes - same;
	}
	return nodes;
}

/* The keys below a node that is being built. */
typedef struct range
{
	uint32_t from;
	uint32_t to;
	uint32_t depth;
} range;

/* Gives a node its id and its row of children, whose ranges go to the end of the list. */
static void
expand(tok_trie *trie, range *ranges, uint32_t node, const tok_key *keys)
{
	tok_node *v = &trie->nodes[node];
	range r = ranges[node];
	uint32_t i = r.from;

	v->id = -1;
	v->first = trie->n_nodes;
	v->n = 0;
	/* Keys that end here come first in the order. */
	for (; i < r.to && keys[i].bytes == r.depth; i++)
		if (v->id < 0 && r.depth > 0)
			v->id = keys[i].id;
	while (i < r.to)
	{
		uint32_t from = i;
		uint8_t byte = (uint8_t) keys[i].text[r.depth];

		while (i < r.to && (uint8_t) keys[i].text[r.depth] == byte)
			i++;
		trie->nodes[trie->n_nodes].byte = byte;
		ranges[trie->n_nodes++] = (range){from, i, r.depth + 1};
		v->n++;
	}
}

/* Sorts the keys and builds the nodes, the list of nodes being the queue. */
llm_status
tok_trie_build(tok_trie *trie, tok_key *keys, size_t n, llm_error *err)
{
	uint64_t n_nodes;
	range *ranges = NULL;

	*trie = (tok_trie){0};
	if (n > 1)
		qsort(keys, n, sizeof(*keys), compare_keys);
	n_nodes = count_nodes(keys, n);
	if (n_nodes < UINT32_MAX)
	{
		trie->nodes = llm_calloc((size_t) n_nodes, sizeof(tok_node));
		ranges = llm_malloc_array((size_t) n_nodes, sizeof(range));
	}
	if (trie->nodes == NULL || ranges == NULL)
	{
		llm_free(ranges);
		tok_trie_free(trie);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a trie of tokens");
	}
	ranges[0] = (range){0, (uint32_t) n, 0};
	trie->n_nodes = 1;
	for (uint32_t i = 0; i < trie->n_nodes; i++)
		expand(trie, ranges, i, keys);
	for (uint32_t i = 0; i < trie->nodes[0].n; i++)
		trie->root[trie->nodes[trie->nodes[0].first + i].byte] = trie->nodes[0].first + i;
	llm_free(ranges);
	return LLM_OK;
}

/* Frees the nodes. */
void
tok_trie_free(tok_trie *trie)
{
	llm_free(trie->nodes);
	*trie = (tok_trie){0};
}

/* Searches a node's row. */
bool
tok_trie_step(const tok_trie *trie, uint32_t *node, unsigned char byte)
{
	const tok_node *v;
	uint32_t from;
	uint32_t n;

	if (*node == 0)
	{
		*node = trie->root[byte];
		return *node != 0;
	}
	v = &trie->nodes[*node];
	from = v->first;
	for (n = v->n; n > 1; n -= n / 2)
		if (trie->nodes[from + n / 2].byte <= byte)
			from += n / 2;
	if (n == 0 || trie->nodes[from].byte != byte)
		return false;
	*node = from;
	return true;
}
