/*
 * llm_tok_normalise.c: normalisers, in the order that the file gives.
 *
 * Each step reads one buffer and writes the other; the last one written is the result. Unicode
 * forms come from utf8proc. SentencePiece's precompiled map is a double-array trie (Darts) from
 * byte strings to replacements; every index read from it is checked, since it comes from a file.
 */
#include "llm_tok_internal.h"

#include <string.h>

#include "llm_check.h"

/* Appends bytes to a growing buffer. */
llm_status
tok_put(tok_buffer *b, const char *bytes, size_t n, llm_error *err)
{
	if (n > b->capacity - b->n)
	{
		uint64_t need;
		char *grown;

		if (!pp_add_ok(b->n, n, &need) || need > SIZE_MAX / 2 ||
		    (grown = llm_realloc_array(b->bytes, (size_t) need * 2, 1)) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory while normalising text");
		b->bytes = grown;
		b->capacity = (size_t) need * 2;
	}
	if (n > 0)
		memcpy(b->bytes + b->n, bytes, n);
	b->n += n;
	return LLM_OK;
}

/* Appends one character. */
static llm_status
put_char(tok_buffer *b, uint32_t cp, llm_error *err)
{
	char utf8[4];

	return tok_put(b, utf8, llm_utf8_encode(cp, utf8), err);
}

/* A Unicode normalisation form. */
static llm_status
to_form(const char *s, size_t n, int form, tok_buffer *out, llm_error *err)
{
	char *mapped;
	size_t n_mapped;
	llm_status status;
	bool ascii = true;

	for (size_t i = 0; ascii && i < n; i++)
		ascii = (unsigned char) s[i] < 0x80;
	if (ascii)
		return tok_put(out, s, n, err);
	if ((status = llm_unicode_map(s, n, form, &mapped, &n_mapped, err)) != LLM_OK)
		return status;
	status = tok_put(out, mapped, n_mapped, err);
	llm_free(mapped);
	return status;
}

/*
 * Lower case, character by character; U+0130 becomes two characters, as Unicode's full mapping
 * says.
 */
static llm_status
to_lower(const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		if ((length = llm_utf8_decode(s + i, n - i, &cp)) == 0)
			return llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
		if (cp == 0x130)
			status = tok_put(out, "i\xcc\x87", 3, err);
		else
			status = put_char(out, llm_lower(cp), err);
	}
	return status;
}

/* Drops the characters that a predicate names. */
static llm_status
drop_class(const char *s, size_t n, bool (*in)(uint32_t cp), tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		if ((length = llm_utf8_decode(s + i, n - i, &cp)) == 0)
			return llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
		if (!in(cp))
			status = tok_put(out, s + i, length, err);
	}
	return status;
}

/* BERT's clean_text and handle_chinese_chars. */
static llm_status
bert_clean(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		if ((length = llm_utf8_decode(s + i, n - i, &cp)) == 0)
			return llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
		if (norm->clean)
		{
			bool blank = cp == '\t' || cp == '\n' || cp == '\r' || llm_is_space(cp);

			if (cp == 0 || cp == 0xfffd || (!blank && llm_is_control(cp)))
				continue;
			if (blank)
			{
				status = tok_put(out, " ", 1, err);
				continue;
			}
		}
		if (norm->cjk && llm_is_cjk(cp))
		{
			status = tok_put(out, " ", 1, err);
			if (status == LLM_OK)
				status = tok_put(out, s + i, length, err);
			if (status == LLM_OK)
				status = tok_put(out, " ", 1, err);
			continue;
		}
		status = tok_put(out, s + i, length, err);
	}
	return status;
}

/* The whole of BertNormalizer: clean, strip accents (NFD, drop Mn), lower case. */
static llm_status
bert(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	tok_buffer a = {0};
	tok_buffer b = {0};
	llm_status status = bert_clean(norm, s, n, &a, err);

	if (status == LLM_OK && norm->strip_accents)
	{
		status = to_form(a.bytes, a.n, LLM_UNI_NFD, &b, err);
		a.n = 0;
		if (status == LLM_OK)
			status = drop_class(b.bytes, b.n, llm_is_nonspacing, &a, err);
	}
	if (status == LLM_OK && norm->lower)
		status = to_lower(a.bytes, a.n, out, err);
	else if (status == LLM_OK)
		status = tok_put(out, a.bytes, a.n, err);
	llm_free(a.bytes);
	llm_free(b.bytes);
	return status;
}

/* Replaces every occurrence of a string. */
static llm_status
replace(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;

	for (size_t i = 0; status == LLM_OK && i < n;)
		if (n - i >= norm->bytes_from && memcmp(s + i, norm->from, norm->bytes_from) == 0)
		{
			status = tok_put(out, norm->to, norm->bytes_to, err);
			i += norm->bytes_from;
		}
		else
			status = tok_put(out, s + i++, 1, err);
	return status;
}

/* Turns runs of spaces into one (the Replace of " {2,}" in SentencePiece conversions). */
static llm_status
squeeze(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;

	for (size_t i = 0; status == LLM_OK && i < n;)
	{
		size_t run = 0;

		while (i + run < n && s[i + run] == ' ')
			run++;
		if (run >= 2)
			status = tok_put(out, norm->to, norm->bytes_to, err);
		else
			status = tok_put(out, s + i, 1, err);
		i += run >= 2 ? run : 1;
	}
	return status;
}

/* Drops white space at the ends. */
static llm_status
strip(int sides, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	uint32_t cp;
	size_t length;

	while ((sides & 1) && (length = llm_utf8_decode(s, n, &cp)) > 0 && llm_is_space(cp))
	{
		s += length;
		n -= length;
	}
	while ((sides & 2) && n > 0)
	{
		size_t at = n - 1;

		while (at > 0 && ((unsigned char) s[at] & 0xc0) == 0x80)
			at--;
		if (llm_utf8_decode(s + at, n - at, &cp) == 0 || !llm_is_space(cp))
			break;
		n = at;
	}
	return tok_put(out, s, n, err);
}

/* A 32-bit unit of the double array; false outside. */
static bool
darts_unit(const tok_norm *norm, uint32_t i, uint32_t n_units, uint32_t *unit)
{
	if (i >= n_units)
		return false;
	memcpy(unit, norm->from + 4 + (size_t) i * 4, 4);
	return true;
}

/*
 * Finds the longest key at the front of s; its replacement in *to, its bytes in *length.
 * Darts-clone's layout.
 */
static bool
charsmap_match(const tok_norm *norm, const char *s, size_t n, size_t *length, const char **to)
{
	uint32_t bytes_trie;
	uint32_t n_units;
	uint32_t unit;
	uint32_t at = 0;
	bool found = false;

	memcpy(&bytes_trie, norm->from, 4);
	n_units = bytes_trie / 4;
	if (!darts_unit(norm, 0, n_units, &unit))
		return false;
	at ^= (unit >> 10) << ((unit & (1u << 9)) >> 6);
	for (size_t i = 0; i < n && s[i] != '\0'; i++)
	{
		at ^= (unsigned char) s[i];
		if (!darts_unit(norm, at, n_units, &unit) ||
		    (unit & ((1u << 31) | 0xff)) != (unsigned char) s[i])
			break;
		at ^= (unit >> 10) << ((unit & (1u << 9)) >> 6);
		if ((unit >> 8) & 1)
		{
			uint32_t leaf;
			size_t offset;

			if (!darts_unit(norm, at, n_units, &leaf))
				break;
			offset = 4 + (size_t) bytes_trie + (leaf & 0x7fffffffu);
			if (offset >= norm->bytes_from)
				break;
			*to = norm->from + offset;
			*length = i + 1;
			found = true;
		}
	}
	return found;
}

/*
 * SentencePiece's map. The reference applies it to grapheme clusters of up to 5 bytes first, then
 * to single characters; longest match at each position gives the same for the maps that are
 * published (nmt_nfkc and its kin hold no key that crosses a cluster it does not cover).
 */
static llm_status
charsmap(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t cp;
	size_t length;
	const char *to;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
		if (charsmap_match(norm, s + i, n - i, &length, &to))
			status =
			    tok_put(out, to, strnlen(to, (size_t) (norm->from + norm->bytes_from - to)), err);
		else
		{
			if ((length = llm_utf8_decode(s + i, n - i, &cp)) == 0)
				length = 1;
			status = tok_put(out, s + i, length, err);
		}
	return status;
}

/* Runs one step. */
static llm_status
apply(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;

	switch (norm->kind)
	{
		case TOK_NORM_FORM:
			return to_form(s, n, norm->arg, out, err);
		case TOK_NORM_LOWER:
			return to_lower(s, n, out, err);
		case TOK_NORM_STRIP_ACCENTS:
			return drop_class(s, n, llm_is_mark, out, err);
		case TOK_NORM_BERT:
			return bert(norm, s, n, out, err);
		case TOK_NORM_REPLACE:
			return replace(norm, s, n, out, err);
		case TOK_NORM_PREPEND:
			if (n > 0 && !(norm->arg == 1 && n >= norm->bytes_to &&
			               memcmp(s, norm->to, norm->bytes_to) == 0))
				status = tok_put(out, norm->to, norm->bytes_to, err);
			return status == LLM_OK ? tok_put(out, s, n, err) : status;
		case TOK_NORM_STRIP:
			return strip(norm->arg, s, n, out, err);
		case TOK_NORM_SQUEEZE:
			return squeeze(norm, s, n, out, err);
		default:
			return charsmap(norm, s, n, out, err);
	}
}

/* Runs all steps, writing two buffers in turn. */
llm_status
tok_normalise(const llm_tokenizer *t, const char *text, size_t n, tok_buffer *out, llm_error *err)
{
	tok_buffer other = {0};
	llm_status status = LLM_OK;
	const char *s = text;

	for (uint32_t i = 0; status == LLM_OK && i < t->n_norms; i++)
	{
		tok_buffer swap = other;

		other = *out;
		*out = swap;
		out->n = 0;
		status = apply(&t->norms[i], s, n, out, err);
		s = out->bytes;
		n = out->n;
	}
	llm_free(other.bytes);
	return status;
}
