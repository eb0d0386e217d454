/*
 * llm_tok_charsmap.c: SentencePiece's precompiled map of characters.
 *
 * The map is a double-array trie (Darts-clone: 32-bit units, a byte of the key in the low bits) of
 * byte strings, then the NUL-terminated replacements; u32 size of the trie first. It comes from a
 * file, so every index that is read from it is checked.
 */
#include "llm_tok_internal.h"

/* Graphemes up to this long are looked up as a whole (the reference: fewer than 6 bytes). */
#define GRAPHEME_BYTES_MAX 5

/* The bytes of the trie. */
static uint32_t
trie_bytes(const char *map)
{
	uint32_t n;

	memcpy(&n, map, 4);
	return n;
}

/* Refuses a map whose parts do not fit into it, or whose last replacement has no end. */
llm_status
tok_charsmap_check(const char *map, size_t n, llm_error *err)
{
	if (n < 5 || trie_bytes(map) % 4 != 0 || trie_bytes(map) > n - 5 || map[n - 1] != '\0')
		return llm_fail(err, LLM_E_FORMAT, "the tokenizer's precompiled_charsmap is damaged");
	return LLM_OK;
}

/* A unit of the double array; false outside. */
static bool
unit_at(const tok_norm *norm, uint32_t i, uint32_t *unit)
{
	if (i >= trie_bytes(norm->from) / 4)
		return false;
	memcpy(unit, norm->from + 4 + (size_t) i * 4, 4);
	return true;
}

/* Where a unit's children lie, relative to it. */
static uint32_t
offset_of(uint32_t unit)
{
	return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

/*
 * The replacement of a key at the front of s, and the key's length: the longest one where the map
 * asks for it, else the shortest. NULL when there is none.
 */
static const char *
look_up(const tok_norm *norm, const char *s, size_t n, size_t *length)
{
	size_t offset = 4 + (size_t) trie_bytes(norm->from);
	const char *found = NULL;
	uint32_t unit;
	uint32_t at = 0;

	if (!unit_at(norm, 0, &unit))
		return NULL;
	at ^= offset_of(unit);
	for (size_t i = 0; i < n && s[i] != '\0'; i++)
	{
		at ^= (unsigned char) s[i];
		if (!unit_at(norm, at, &unit) || (unit & ((1u << 31) | 0xff)) != (unsigned char) s[i])
			break;
		at ^= offset_of(unit);
		if ((unit >> 8) & 1)
		{
			uint32_t value;

			if (!unit_at(norm, at, &value) || (value & 0x7fffffffu) >= norm->bytes_from - offset)
				break;
			found = norm->from + offset + (value & 0x7fffffffu);
			*length = i + 1;
			if (!norm->longest)
				break;
		}
	}
	return found;
}

/* As SentencePiece itself: the longest key at each place, else the character as it is. */
static llm_status
apply_longest(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	size_t length;
	uint32_t cp;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		const char *to = look_up(norm, s + i, n - i, &length);

		if (to == NULL)
			length = llm_utf8_peek(s + i, n - i, &cp);
		status = tok_put(out, to != NULL ? to : s + i, to != NULL ? strlen(to) : length, err);
	}
	return status;
}

/*
 * Or as tokenizers (spm_precompiled): short graphemes are looked up as a whole, and the shortest
 * key at their front replaces all of them; other graphemes character by character.
 */
llm_status
tok_charsmap_apply(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	size_t n_key;
	size_t grapheme;

	if (norm->longest)
		return apply_longest(norm, s, n, out, err);

	for (size_t i = 0; status == LLM_OK && i < n; i += grapheme)
	{
		const char *to = NULL;
		size_t length;
		uint32_t cp;

		grapheme = llm_utf8_grapheme(s + i, n - i);
		if (grapheme <= GRAPHEME_BYTES_MAX && (to = look_up(norm, s + i, grapheme, &n_key)) != NULL)
			status = tok_put(out, to, strlen(to), err);
		for (size_t k = i; to == NULL && status == LLM_OK && k < i + grapheme; k += length)
		{
			const char *single;

			length = llm_utf8_peek(s + k, n - k, &cp);
			if ((single = look_up(norm, s + k, length, &n_key)) != NULL)
				status = tok_put(out, single, strlen(single), err);
			else
				status = tok_put(out, s + k, length, err);
		}
	}
	return status;
}
