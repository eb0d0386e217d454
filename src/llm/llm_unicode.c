/*
 * llm_unicode.c: see llm_unicode.h. ASCII is answered without a table.
 */
#include "llm_unicode.h"

#include <utf8proc.h>

#include "llm_alloc.h"

/* Reads a continuation byte's six bits; false when it is none. */
static bool
continuation(unsigned char c, uint32_t *cp)
{
	*cp = (*cp << 6) | (c & 0x3fu);
	return (c & 0xc0) == 0x80;
}

/* Decodes strictly: no overlong forms, no surrogates, nothing above U+10FFFF. */
size_t
llm_utf8_decode(const char *s, size_t n, uint32_t *cp)
{
	static const uint32_t min[5] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *p = (const unsigned char *) s;
	size_t length;

	if (n == 0)
		return 0;
	if (p[0] < 0x80)
	{
		*cp = p[0];
		return 1;
	}
	length = (p[0] & 0xe0) == 0xc0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : (p[0] & 0xf8) == 0xf0 ? 4 : 0;
	if (length == 0 || length > n)
		return 0;
	*cp = p[0] & (0xffu >> (length + 1));
	for (size_t i = 1; i < length; i++)
		if (!continuation(p[i], cp))
			return 0;
	if (*cp < min[length] || *cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000))
		return 0;
	return length;
}

/* Encodes a valid code point. */
size_t
llm_utf8_encode(uint32_t cp, char out[4])
{
	return (size_t) utf8proc_encode_char((utf8proc_int32_t) cp, (utf8proc_uint8_t *) out);
}

/* Scans all characters. */
bool
llm_utf8_valid(const char *s, size_t n)
{
	uint32_t cp;
	size_t length;

	for (size_t i = 0; i < n; i += length)
		if ((length = llm_utf8_decode(s + i, n - i, &cp)) == 0)
			return false;
	return true;
}

/* The general category of a code point. */
static utf8proc_category_t
category(uint32_t cp)
{
	return utf8proc_category((utf8proc_int32_t) cp);
}

/* Lu, Ll, Lt, Lm, Lo. */
bool
llm_is_letter(uint32_t cp)
{
	utf8proc_category_t c;

	if (cp < 0x80)
		return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
	c = category(cp);
	return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

/* Nd, Nl, No. */
bool
llm_is_number(uint32_t cp)
{
	utf8proc_category_t c;

	if (cp < 0x80)
		return cp >= '0' && cp <= '9';
	c = category(cp);
	return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

/* Mn, Mc, Me. */
bool
llm_is_mark(uint32_t cp)
{
	utf8proc_category_t c = cp < 0x80 ? UTF8PROC_CATEGORY_CN : category(cp);

	return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

/* Mn alone: accents, once a text is decomposed. */
bool
llm_is_nonspacing(uint32_t cp)
{
	return cp >= 0x80 && category(cp) == UTF8PROC_CATEGORY_MN;
}

/* Pc, Pd, Ps, Pe, Pi, Pf, Po. */
bool
llm_is_punctuation(uint32_t cp)
{
	utf8proc_category_t c = category(cp);

	return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

/* The White_Space property is closed: these are all of it. */
bool
llm_is_space(uint32_t cp)
{
	if (cp < 0x80)
		return cp == ' ' || (cp >= 9 && cp <= 13);
	return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
	       cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

/* Cc, Cf, Cs, Co; unassigned characters are not control characters to the reference. */
bool
llm_is_control(uint32_t cp)
{
	utf8proc_category_t c;

	if (cp < 0x80)
		return cp < 0x20 || cp == 0x7f;
	c = category(cp);
	return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CS ||
	       c == UTF8PROC_CATEGORY_CO;
}

/* The blocks listed in BERT's own tokenizer, and no others. */
bool
llm_is_cjk(uint32_t cp)
{
	return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) ||
	       (cp >= 0x20000 && cp <= 0x2a6df) || (cp >= 0x2a700 && cp <= 0x2b73f) ||
	       (cp >= 0x2b740 && cp <= 0x2b81f) || (cp >= 0x2b920 && cp <= 0x2ceaf) ||
	       (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x2f800 && cp <= 0x2fa1f);
}

/* Lower case by the simple mapping. */
uint32_t
llm_lower(uint32_t cp)
{
	if (cp < 0x80)
		return cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
	return (uint32_t) utf8proc_tolower((utf8proc_int32_t) cp);
}

/*
 * Normalises with the library: decomposed into code points, which are then composed and encoded in
 * place (a code point takes at least as much room as its bytes).
 */
llm_status
llm_unicode_map(const char *s, size_t n, int form, char **out, size_t *n_out, llm_error *err)
{
	static const int options[] = {0, UTF8PROC_STABLE | UTF8PROC_COMPOSE,
	                              UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
	                              UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
	                              UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
	const utf8proc_uint8_t *text = (const utf8proc_uint8_t *) s;
	utf8proc_option_t how = (utf8proc_option_t) options[form];
	utf8proc_ssize_t length = utf8proc_decompose(text, (utf8proc_ssize_t) n, NULL, 0, how);
	utf8proc_int32_t *cps;

	if (length < 0)
		return llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
	if ((cps = llm_malloc_array((size_t) length + 1, sizeof(*cps))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while normalising text");
	length = utf8proc_decompose(text, (utf8proc_ssize_t) n, cps, length, how);
	if (length >= 0)
		length = utf8proc_reencode(cps, length, how);
	if (length < 0)
	{
		llm_free(cps);
		return llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
	}
	*out = (char *) cps;
	*n_out = (size_t) length;
	return LLM_OK;
}
