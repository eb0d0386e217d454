/*
 * llm_vocab_trie.c: builds the trie of a vocabulary. See llm_vocab_trie.h.
 *
 * Tokens are sorted by their bytes; then the nodes in preorder are what each token adds to the one
 * before it, and a node's subtree ends where a later token shares less. The trie copies all bytes.
 * The second trie is built the same way from those tokens that no set of bits holds.
 */
#include "llm_vocab_trie.h"

#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_unicode.h"

/* Bytes of a token. */
static uint32_t
token_length(const llm_vocab_trie *v, int32_t id)
{
	return v->offsets[id + 1] - v->offsets[id];
}

/* Orders tokens by bytes, equal ones by id. */
static int
compare_tokens(const void *a, const void *b, void *trie)
{
	const llm_vocab_trie *v = trie;
	int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;
	uint32_t n_x = token_length(v, x), n_y = token_length(v, y);
	int order = memcmp(v->bytes + v->offsets[x], v->bytes + v->offsets[y], n_x < n_y ? n_x : n_y);

	if (order != 0)
		return order;
	return n_x != n_y ? (n_x < n_y ? -1 : 1) : (x < y ? -1 : 1);
}

/* Says that memory is out. */
static llm_status
no_memory(llm_error *err)
{
	return llm_fail(err, LLM_E_NOMEM, "out of memory for the trie of the vocabulary");
}

/* Copies the bytes of all tokens and lists those that end. */
static llm_status
copy_tokens(llm_vocab_trie *v, const char *const *text, const size_t *n_bytes, const bool *is_end,
            llm_error *err)
{
	size_t total = 0;

	for (uint32_t i = 0; i < v->n_vocab; i++)
		total += n_bytes[i] <= LLM_VOCAB_TOKEN_MAX && !is_end[i] ? n_bytes[i] : 0;
	if (total >= UINT32_MAX)
		return llm_fail(err, LLM_E_TOO_LONG, "the vocabulary is too large for a grammar");
	v->bytes = llm_malloc(total + 1);
	v->all.order = llm_calloc((size_t) v->n_vocab + 1, sizeof(*v->all.order));
	v->rest.order = llm_calloc((size_t) v->n_vocab + 1, sizeof(*v->rest.order));
	v->offsets = llm_calloc((size_t) v->n_vocab + 1, sizeof(*v->offsets));
	v->ends = llm_calloc((size_t) v->n_vocab + 1, sizeof(*v->ends));
	if (v->bytes == NULL || v->offsets == NULL || v->all.order == NULL || v->rest.order == NULL ||
	    v->ends == NULL)
		return no_memory(err);
	for (uint32_t i = 0; i < v->n_vocab; i++)
	{
		uint32_t n = n_bytes[i] <= LLM_VOCAB_TOKEN_MAX && !is_end[i] ? (uint32_t) n_bytes[i] : 0;

		if (n > 0)
			memcpy(v->bytes + v->offsets[i], text[i], n);
		v->offsets[i + 1] = v->offsets[i] + n;
		if (is_end[i])
			v->ends[v->n_ends++] = (int32_t) i;
		else if (n > 0)
			v->all.order[v->all.n_order++] = (int32_t) i;
		if (n == 1)
			v->single[(unsigned char) text[i][0]] = true;
	}
	return LLM_OK;
}

/* Lays the sorted tokens of a trie out as nodes. */
static llm_status
build_nodes(const llm_vocab_trie *v, llm_trie *trie, llm_error *err)
{
	uint32_t path[LLM_VOCAB_TOKEN_MAX]; /* the open node of each depth */
	uint32_t depth = 0;
	size_t total = 1;

	for (uint32_t k = 0; k < trie->n_order; k++)
		total += token_length(v, trie->order[k]);
	if ((trie->nodes = llm_calloc(total, sizeof(*trie->nodes))) == NULL)
		return no_memory(err);
	for (uint32_t k = 0; k < trie->n_order; k++)
	{
		const unsigned char *bytes = v->bytes + v->offsets[trie->order[k]];
		uint32_t n = token_length(v, trie->order[k]);
		uint32_t shared = 0;

		while (shared < depth && shared < n && trie->nodes[path[shared]].byte == bytes[shared])
			shared++;
		while (depth > shared)
			trie->nodes[path[--depth]].skip = trie->n_nodes;
		for (; depth < n; depth++)
		{
			path[depth] = trie->n_nodes;
			trie->nodes[trie->n_nodes++] =
			    (llm_trie_node){.token = k, .depth = (uint8_t) (depth + 1), .byte = bytes[depth]};
		}
		trie->nodes[path[n - 1]].n_tokens++;
	}
	while (depth > 0)
		trie->nodes[path[--depth]].skip = trie->n_nodes;
	return LLM_OK;
}

/* The characters of a token that is wholly characters of a JSON string as they stand; 0: it is not.
 */
static uint32_t
count_inside(const unsigned char *bytes, uint32_t n)
{
	uint32_t n_characters = 0;

	if (n == 0 || !llm_utf8_valid((const char *) bytes, n))
		return 0;
	for (uint32_t i = 0; i < n; i++)
	{
		if (bytes[i] < 0x20 || bytes[i] == '"' || bytes[i] == '\\')
			return 0;
		n_characters += (bytes[i] & 0xc0) != 0x80;
	}
	return n_characters;
}

/* Parts the sorted tokens into the sets of bits and the rest. */
static llm_status
part_tokens(llm_vocab_trie *v, llm_error *err)
{
	size_t n_words = ((size_t) v->n_vocab + 31) / 32;
	uint32_t *row;

	for (uint32_t k = 0; k < v->all.n_order; k++)
	{
		int32_t id = v->all.order[k];
		uint32_t n = count_inside(v->bytes + v->offsets[id], token_length(v, id));

		v->n_inside = n > v->n_inside ? n : v->n_inside;
		if (n == 0)
			v->rest.order[v->rest.n_order++] = id;
	}
	if ((v->inside = llm_calloc(v->n_inside * n_words + 1, sizeof(*v->inside))) == NULL)
		return no_memory(err);
	for (uint32_t k = 0; k < v->all.n_order; k++)
	{
		int32_t id = v->all.order[k];
		uint32_t n = count_inside(v->bytes + v->offsets[id], token_length(v, id));

		if (n > 0)
			v->inside[(n - 1) * n_words + (uint32_t) id / 32] |= UINT32_C(1) << (id % 32);
	}
	for (uint32_t n = 1; n < v->n_inside; n++)
	{
		row = v->inside + n * n_words;
		for (size_t i = 0; i < n_words; i++)
			row[i] |= row[i - n_words];
	}
	return LLM_OK;
}

/* Builds a trie from arrays. */
llm_status
llm_vocab_trie_from_arrays(const char *const *text, const size_t *n_bytes, const bool *is_end,
                           uint32_t n_vocab, llm_vocab_trie **out, llm_error *err)
{
	llm_vocab_trie *v = llm_calloc(1, sizeof(*v));
	llm_status status;

	*out = NULL;
	if (v == NULL)
		return no_memory(err);
	v->n_vocab = n_vocab;
	status = copy_tokens(v, text, n_bytes, is_end, err);
	if (status == LLM_OK)
	{
		qsort_r(v->all.order, v->all.n_order, sizeof(*v->all.order), compare_tokens, v);
		status = part_tokens(v, err);
	}
	if (status == LLM_OK && (status = build_nodes(v, &v->all, err)) == LLM_OK)
		status = build_nodes(v, &v->rest, err);
	if (status != LLM_OK)
	{
		llm_vocab_trie_free(v);
		return status;
	}
	*out = v;
	return LLM_OK;
}

/* Builds the trie of a tokenizer; special tokens have no bytes and are never produced. */
llm_status
llm_vocab_trie_create(const llm_tokenizer *t, llm_vocab_trie **out, llm_error *err)
{
	uint32_t n = llm_tokenizer_n_vocab(t);
	const char **text = llm_malloc_array((size_t) n + 1, sizeof(*text));
	size_t *n_bytes = llm_malloc_array((size_t) n + 1, sizeof(*n_bytes));
	bool *is_end = llm_malloc_array((size_t) n + 1, sizeof(*is_end));
	llm_status status;

	*out = NULL;
	if (text == NULL || n_bytes == NULL || is_end == NULL)
		status = no_memory(err);
	else
	{
		for (uint32_t i = 0; i < n; i++)
		{
			text[i] = llm_token_bytes(t, (int32_t) i, false, &n_bytes[i]);
			is_end[i] = llm_tokenizer_is_end(t, (int32_t) i);
			if (llm_tokenizer_is_special(t, (int32_t) i))
				n_bytes[i] = 0;
		}
		status = llm_vocab_trie_from_arrays(text, n_bytes, is_end, n, out, err);
	}
	llm_free(text);
	llm_free(n_bytes);
	llm_free(is_end);
	return status;
}

/* Frees a trie; NULL is fine. */
void
llm_vocab_trie_free(llm_vocab_trie *v)
{
	if (v == NULL)
		return;
	llm_free(v->all.nodes);
	llm_free(v->all.order);
	llm_free(v->rest.nodes);
	llm_free(v->rest.order);
	llm_free(v->inside);
	llm_free(v->ends);
	llm_free(v->offsets);
	llm_free(v->bytes);
	llm_free(v);
}
