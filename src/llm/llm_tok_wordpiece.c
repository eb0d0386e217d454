/*
 * llm_tok_wordpiece.c: WordPiece: greedy longest match (Devlin et al., arXiv 1810.04805, as the
 * reference implements it).
 *
 * A word of more than word_chars_max characters, or one that does not come out whole, is one
 * unknown token. At every step the trie of pieces is walked once as far as it goes.
 */
#include "llm_tok_internal.h"

/* True when a word has more characters than max. */
static bool
longer_than(const char *s, size_t n, uint32_t max)
{
	uint32_t chars = 0;

	if (n <= max)
		return false;
	for (size_t i = 0; i < n && chars <= max; i++)
		chars += ((unsigned char) s[i] & 0xc0) != 0x80;
	return chars > max;
}

/* Finds the longest piece below node at the front of s; *length gets its bytes. −1: none. */
static int32_t
longest_piece(const tok_trie *pieces, uint32_t node, const char *s, size_t n, size_t *length)
{
	int32_t id = -1;

	for (size_t i = 0; i < n && tok_trie_step(pieces, &node, (unsigned char) s[i]); i++)
		if (pieces->nodes[node].id >= 0)
		{
			id = pieces->nodes[node].id;
			*length = i + 1;
		}
	return id;
}

/* Appends the ids of one word. */
llm_status
tok_wordpiece(const llm_tokenizer *t, const char *word, size_t n, llm_tokens *out, llm_error *err)
{
	size_t n_before = out->n;
	bool unknown = longer_than(word, n, t->word_chars_max);
	size_t length = 0;

	for (size_t i = 0; i < n && !unknown; i += length)
	{
		uint32_t node = i > 0 ? t->inside : 0;
		int32_t id =
		    node != UINT32_MAX ? longest_piece(&t->pieces, node, word + i, n - i, &length) : -1;

		unknown = id < 0;
		if (!unknown && llm_tokens_push(out, id, err) != LLM_OK)
			return LLM_E_NOMEM;
	}
	if (!unknown)
		return LLM_OK;
	out->n = n_before;
	return t->unk >= 0 ? llm_tokens_push(out, t->unk, err) : LLM_OK;
}
