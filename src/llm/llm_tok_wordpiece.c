/*
 * llm_tok_wordpiece.c: WordPiece: greedy longest match (Devlin et al., arXiv 1810.04805, as the
 * reference implements it).
 *
 * A word of more than word_chars_max characters, or one that does not come out whole, is one
 * unknown token. Linear but for the bounded length of a token.
 */
#include "llm_tok_internal.h"

#include <string.h>

#define PIECE_BYTES_MAX 512

/* Counts characters. */
static size_t
count_chars(const char *s, size_t n)
{
	size_t chars = 0;

	for (size_t i = 0; i < n; i++)
		chars += ((unsigned char) s[i] & 0xc0) != 0x80;
	return chars;
}

/* Finds the longest piece at the front of rest; *length gets its bytes. −1: none. */
static int32_t
longest_piece(const llm_tokenizer *t, const char *rest, size_t n, bool inside, size_t *length)
{
	char piece[PIECE_BYTES_MAX];
	size_t head = inside ? t->bytes_prefix : 0;
	size_t max = n < t->bytes_token_max ? n : t->bytes_token_max;

	if (max > sizeof(piece) - head)
		max = sizeof(piece) - head;
	memcpy(piece, t->prefix, head);
	memcpy(piece + head, rest, max);
	for (*length = max; *length > 0; (*length)--)
	{
		int32_t id;

		if (*length < n && ((unsigned char) rest[*length] & 0xc0) == 0x80)
			continue; /* in the middle of a character */
		if ((id = tok_find(t, piece, head + *length)) >= 0)
			return id;
	}
	return -1;
}

/* Appends the ids of one word. */
llm_status
tok_wordpiece(const llm_tokenizer *t, const char *word, size_t n, llm_tokens *out, llm_error *err)
{
	size_t n_before = out->n;
	size_t length;

	if (count_chars(word, n) > t->word_chars_max)
		return t->unk >= 0 ? llm_tokens_push(out, t->unk, err) : LLM_OK;
	for (size_t i = 0; i < n; i += length)
	{
		int32_t id = longest_piece(t, word + i, n - i, i > 0, &length);

		if (id < 0)
		{
			out->n = n_before;
			return t->unk >= 0 ? llm_tokens_push(out, t->unk, err) : LLM_OK;
		}
		if (llm_tokens_push(out, id, err) != LLM_OK)
			return LLM_E_NOMEM;
	}
	return LLM_OK;
}
