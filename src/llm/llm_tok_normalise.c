/*
 * llm_tok_normalise.c: normalisers, in the order that the file gives.
 *
 * Each step reads one buffer and writes the other; the last one written is the result. ASCII runs
 * take short cuts where a step leaves them alone. Texts are valid UTF-8 here, and every step keeps
 * them so.
 */
#include "llm_tok_internal.h"

#include "llm_check.h"

/* Makes room for n more bytes, doubling. */
llm_status
tok_grow(tok_buffer *b, size_t n, llm_error *err)
{
	uint64_t need;
	char *grown = NULL;

	if (pp_add_ok(b->n, n, &need) && need <= SIZE_MAX / 2)
		grown = llm_realloc_array(b->bytes, (size_t) need, 2);
	if (grown == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for text");
	b->bytes = grown;
	b->capacity = (size_t) need * 2;
	return LLM_OK;
}

/* Appends one character. */
static llm_status
put_char(tok_buffer *b, uint32_t cp, llm_error *err)
{
	char utf8[4];

	return tok_put(b, utf8, llm_utf8_encode(cp, utf8), err);
}

/* The length of the ASCII run at the front of s. */
static size_t
ascii_run(const char *s, size_t n)
{
	size_t at = 0;

	while (at < n && (unsigned char) s[at] < 0x80)
		at++;
	return at;
}

/* A Unicode normalisation form, which leaves ASCII alone. */
static llm_status
to_form(llm_unicode_form form, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	char *mapped;
	size_t n_mapped;
	llm_status status;

	if (ascii_run(s, n) == n)
		return tok_put(out, s, n, err);
	if ((status = llm_unicode_normalise(s, n, form, &mapped, &n_mapped, err)) != LLM_OK)
		return status;
	status = tok_put(out, mapped, n_mapped, err);
	llm_free(mapped);
	return status;
}

/* Lower case of ASCII, in place. */
static void
lower_ascii(char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		s[i] = (char) (s[i] + (s[i] >= 'A' && s[i] <= 'Z' ? 'a' - 'A' : 0));
}

/* Lower case, character by character. */
static llm_status
to_lower(const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t lower[2];
	uint32_t cp;
	size_t length;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		size_t n_lower;

		if ((length = ascii_run(s + i, n - i)) > 0)
		{
			if ((status = tok_put(out, s + i, length, err)) == LLM_OK)
				lower_ascii(out->bytes + out->n - length, length);
			continue;
		}
		length = llm_utf8_peek(s + i, n - i, &cp);
		n_lower = llm_lower(cp, lower);
		for (size_t k = 0; status == LLM_OK && k < n_lower; k++)
			status = put_char(out, lower[k], err);
	}
	return status;
}

/* Drops the characters of a class, which holds no ASCII. */
static llm_status
drop_class(const char *s, size_t n, bool (*in)(uint32_t cp), tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		if ((length = ascii_run(s + i, n - i)) == 0)
		{
			length = llm_utf8_peek(s + i, n - i, &cp);
			if (in(cp))
				continue;
		}
		status = tok_put(out, s + i, length, err);
	}
	return status;
}

/* The length of the run of printable ASCII at the front of s. */
static size_t
printable_run(const char *s, size_t n)
{
	size_t at = 0;

	while (at < n && s[at] >= ' ' && s[at] < 0x7f)
		at++;
	return at;
}

/*
 * BERT's clean_text, which drops NUL, U+FFFD and control characters (\t, \n, \r are white space to
 * it) and makes all white space spaces; then handle_chinese_chars, which puts ideographs alone.
 */
static llm_status
bert_clean(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; status == LLM_OK && i < n; i += length)
	{
		bool blank;

		if ((length = printable_run(s + i, n - i)) > 0)
		{
			status = tok_put(out, s + i, length, err);
			continue;
		}
		length = llm_utf8_peek(s + i, n - i, &cp);
		blank = cp == '\t' || cp == '\n' || cp == '\r';
		if (norm->clean && !blank && (cp == 0 || cp == 0xfffd || llm_is_control(cp)))
			continue;
		if (norm->clean && (blank || llm_is_space(cp)))
			status = tok_put(out, " ", 1, err);
		else if (norm->cjk && llm_is_cjk(cp))
		{
			if ((status = tok_put(out, " ", 1, err)) == LLM_OK &&
			    (status = tok_put(out, s + i, length, err)) == LLM_OK)
				status = tok_put(out, " ", 1, err);
		}
		else
			status = tok_put(out, s + i, length, err);
	}
	return status;
}

/* The whole of BertNormalizer: clean, strip accents (decompose, drop Mn), lower case. */
static llm_status
bert(const tok_norm *norm, const char *s, size_t n, tok_scratch *scratch, tok_buffer *out,
     llm_error *err)
{
	tok_buffer *a = &scratch->step[0];
	tok_buffer *b = &scratch->step[1];
	llm_status status;

	a->n = b->n = 0;
	status = bert_clean(norm, s, n, a, err);
	if (status == LLM_OK && norm->strip_accents && ascii_run(a->bytes, a->n) < a->n)
	{
		status = to_form(LLM_NFD, a->bytes, a->n, b, err);
		a->n = 0;
		if (status == LLM_OK)
			status = drop_class(b->bytes, b->n, llm_is_nonspacing, a, err);
	}
	if (status != LLM_OK)
		return status;
	return norm->lower ? to_lower(a->bytes, a->n, out, err) : tok_put(out, a->bytes, a->n, err);
}

/* Replaces every occurrence of a string. */
static llm_status
replace(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;
	size_t begin = 0;
	size_t i = 0;

	while (status == LLM_OK && n - i >= norm->bytes_from)
	{
		if (s[i] != norm->from[0] || memcmp(s + i, norm->from, norm->bytes_from) != 0)
		{
			i++;
			continue;
		}
		if ((status = tok_put(out, s + begin, i - begin, err)) == LLM_OK)
			status = tok_put(out, norm->to, norm->bytes_to, err);
		begin = i += norm->bytes_from;
	}
	return status == LLM_OK ? tok_put(out, s + begin, n - begin, err) : status;
}

/* Replaces runs of two and more spaces. */
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

/* Drops every copy of a string at the ends. */
static llm_status
strip_copies(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	size_t n_copy = norm->bytes_from;

	while (norm->left && n >= n_copy && memcmp(s, norm->from, n_copy) == 0)
	{
		s += n_copy;
		n -= n_copy;
	}
	while (norm->right && n >= n_copy && memcmp(s + n - n_copy, norm->from, n_copy) == 0)
		n -= n_copy;
	return tok_put(out, s, n, err);
}

/* Drops white space at the ends. */
static llm_status
strip(const tok_norm *norm, const char *s, size_t n, tok_buffer *out, llm_error *err)
{
	uint32_t cp;
	size_t length;

	while (norm->left && (length = llm_utf8_peek(s, n, &cp)) > 0 && llm_is_space(cp))
	{
		s += length;
		n -= length;
	}
	while (norm->right && n > 0)
	{
		size_t at = llm_utf8_last(s, n);

		if (llm_utf8_peek(s + at, n - at, &cp) == 0 || !llm_is_space(cp))
			break;
		n = at;
	}
	return tok_put(out, s, n, err);
}

/* Runs one step; a text that continues another one gets nothing in front. */
static llm_status
apply(const tok_norm *norm, const char *s, size_t n, bool continues, tok_scratch *scratch,
      tok_buffer *out, llm_error *err)
{
	llm_status status = LLM_OK;

	switch (norm->kind)
	{
		case TOK_NORM_FORM:
			return to_form(norm->form, s, n, out, err);
		case TOK_NORM_LOWER:
			return to_lower(s, n, out, err);
		case TOK_NORM_STRIP_ACCENTS:
			return drop_class(s, n, llm_is_mark, out, err);
		case TOK_NORM_BERT:
			return bert(norm, s, n, scratch, out, err);
		case TOK_NORM_REPLACE:
			return replace(norm, s, n, out, err);
		case TOK_NORM_PREPEND:
			if (n > 0 && !continues)
				status = tok_put(out, norm->to, norm->bytes_to, err);
			return status == LLM_OK ? tok_put(out, s, n, err) : status;
		case TOK_NORM_STRIP:
			return norm->from != NULL ? strip_copies(norm, s, n, out, err)
			                          : strip(norm, s, n, out, err);
		case TOK_NORM_SQUEEZE:
			return squeeze(norm, s, n, out, err);
		default:
			return tok_charsmap_apply(norm, s, n, out, err);
	}
}

/* Runs all steps, writing two buffers in turn. */
llm_status
tok_normalise(const llm_tokenizer *t, const char *text, size_t n, bool continues,
              tok_scratch *scratch, const char **out, size_t *n_out, llm_error *err)
{
	llm_status status = LLM_OK;

	*out = text;
	*n_out = n;
	for (uint32_t i = 0; status == LLM_OK && i < t->n_norms; i++)
	{
		tok_buffer *b = &scratch->normal[i % 2];

		b->n = 0;
		status = apply(&t->norms[i], *out, *n_out, continues, scratch, b, err);
		*out = b->bytes != NULL ? b->bytes : "";
		*n_out = b->n;
	}
	return status;
}
