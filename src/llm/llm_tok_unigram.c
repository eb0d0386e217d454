/*
 * llm_tok_unigram.c: Unigram: the segmentation with the highest sum of log-probabilities (Kudo,
 * arXiv 1804.10959), by Viterbi over the word's bytes.
 *
 * best[i] is the best score of a segmentation of the first i bytes; from each character boundary
 * the trie of pieces is walked as far as it goes. Where no single character fits, an unknown token
 * bridges it at the lowest score of the vocabulary less 10. Ties keep the segmentation found first,
 * as the reference does.
 */
#include "llm_tok_internal.h"

#include <string.h>

/* A position in the word. */
typedef struct node
{
	double best;
	uint32_t from; /* where the last piece begins */
	int32_t id;    /* the last piece, −1: unknown; −2: not reached */
} node;

/* Offers a piece to a position. */
static void
offer(node *nodes, size_t from, size_t to, double score, int32_t id)
{
	double best = nodes[from].best + score;

	if (nodes[to].id == -2 || best > nodes[to].best)
		nodes[to] = (node){.best = best, .from = (uint32_t) from, .id = id};
}

/* Tries every piece that begins at from. */
static void
offer_all(const llm_tokenizer *t, const char *word, size_t n, size_t from, node *nodes)
{
	uint32_t cp;
	size_t length = llm_utf8_decode(word + from, n - from, &cp);
	uint32_t at = 0;
	bool single = false;

	for (size_t i = from; i < n && tok_trie_step(&t->pieces, &at, (unsigned char) word[i]); i++)
	{
		int32_t id = t->pieces.id[at];

		if (id < 0)
			continue;
		offer(nodes, from, i + 1, t->entries[id].score, id);
		single = single || i + 1 - from == length;
	}
	if (!single)
		offer(nodes, from, from + (length > 0 ? length : 1), t->unk_score, -1);
}

/* Appends an unknown stretch: byte tokens where the model has them, else one unknown token. */
static llm_status
put_unknown(const llm_tokenizer *t, const char *bytes, size_t n, llm_tokens *out, llm_error *err)
{
	bool all = t->byte_fallback;

	for (size_t i = 0; all && i < n; i++)
		all = t->byte_id[(unsigned char) bytes[i]] >= 0;
	if (!all)
		return t->unk >= 0 ? llm_tokens_push(out, t->unk, err) : LLM_OK;
	for (size_t i = 0; i < n; i++)
		if (llm_tokens_push(out, t->byte_id[(unsigned char) bytes[i]], err) != LLM_OK)
			return LLM_E_NOMEM;
	return LLM_OK;
}

/* Turns the links around, so that the pieces can be read from the front. Returns the first end. */
static size_t
reverse(node *nodes, size_t n)
{
	size_t end = n;
	size_t next = 0;

	while (end > 0)
	{
		size_t from = nodes[end].from;

		nodes[end].from = (uint32_t) next; /* now: the end of the piece behind this one */
		next = end;
		end = from;
	}
	return next;
}

/* Appends the ids of one word; consecutive unknown characters are one stretch. */
llm_status
tok_unigram(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
            llm_tokens *out, llm_error *err)
{
	node *nodes;
	size_t begin = 0;
	uint32_t cp;

	if (n == 0)
		return LLM_OK;
	if (n >= UINT32_MAX / 2)
		return llm_fail(err, LLM_E_TOO_LONG, "text of %zu bytes is too long", n);
	if (n + 1 > scratch->n_lattice)
	{
		llm_free(scratch->lattice);
		scratch->n_lattice = 0;
		if ((scratch->lattice = llm_malloc_array(n + 1, sizeof(node))) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for a word of %zu bytes", n);
		scratch->n_lattice = n + 1;
	}
	nodes = scratch->lattice;
	for (size_t i = 0; i <= n; i++)
		nodes[i].id = -2;
	nodes[0] = (node){.best = 0, .id = -1};
	for (size_t i = 0; i < n;)
	{
		size_t length = llm_utf8_decode(word + i, n - i, &cp);

		if (nodes[i].id != -2)
			offer_all(t, word, n, i, nodes);
		i += length > 0 ? length : 1;
	}
	for (size_t end = reverse(nodes, n); end != 0; end = nodes[end].from)
	{
		size_t next = nodes[end].from;
		llm_status status = LLM_OK;

		if (nodes[end].id >= 0)
			status = llm_tokens_push(out, nodes[end].id, err);
		else if (next == 0 || nodes[next].id >= 0)
			status = put_unknown(t, word + begin, end - begin, out, err);
		else
			continue; /* the unknown stretch goes on */
		if (status != LLM_OK)
			return status;
		begin = end;
	}
	return LLM_OK;
}
