/*
 * llm_unicode.c: see llm_unicode.h. ASCII is answered without a table.
 *
 * Normalisation follows UAX #15: decompose each character, sort runs of combining marks by class,
 * compose. Text is cut before ASCII characters, which take part in no mark's order and begin every
 * composition that they are in, so a mostly ASCII text is mostly copied.
 */
#include "llm_unicode.h"

#include <string.h>
#include <utf8proc.h>

#include "llm_alloc.h"

/* Characters of the longest decomposition (U+FDFA has 18), with room to spare. */
#define DECOMPOSED_MAX 32
/* Runs of marks up to this long are sorted by insertion. */
#define SHORT_RUN 16

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

/* Scans all characters, ASCII eight at a time. */
bool
llm_utf8_valid(const char *s, size_t n)
{
	uint32_t cp;
	uint64_t word;
	size_t length;

	for (size_t i = 0; i < n; i += length)
	{
		length = 8;
		if (n - i >= 8)
		{
			memcpy(&word, s + i, 8);
			if ((word & 0x8080808080808080u) == 0)
				continue;
		}
		if ((length = llm_utf8_decode(s + i, n - i, &cp)) == 0)
			return false;
	}
	return true;
}

/* Goes back over continuation bytes. */
size_t
llm_utf8_last(const char *s, size_t n)
{
	size_t at = n - 1;

	while (at > 0 && ((unsigned char) s[at] & 0xc0) == 0x80)
		at--;
	return at;
}

/* Adds characters until there may be a boundary. */
size_t
llm_utf8_grapheme(const char *s, size_t n)
{
	utf8proc_int32_t state = 0;
	uint32_t last;
	uint32_t next;
	size_t at = llm_utf8_peek(s, n, &last);
	size_t length;

	if (at == 0)
		return 0;
	while (
	    (length = llm_utf8_peek(s + at, n - at, &next)) > 0 &&
	    !utf8proc_grapheme_break_stateful((utf8proc_int32_t) last, (utf8proc_int32_t) next, &state))
	{
		at += length;
		last = next;
	}
	return at;
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

/* Sets of general categories, as bits. */
#define SET(category) (1u << UTF8PROC_CATEGORY_##category)
#define SET_MARK      (SET(MN) | SET(MC) | SET(ME))

/*
 * Alphabetic, marks, decimal digits, connectors, joiners (UTS #18, annex C). Of the alphabetic
 * characters only the circled and squared Latin letters are neither letters, marks nor Nl.
 */
bool
llm_is_word(uint32_t cp)
{
	if (cp < 0x80)
		return llm_is_letter(cp) || llm_is_number(cp) || cp == '_';
	if ((1u << category(cp)) &
	    (SET(LU) | SET(LL) | SET(LT) | SET(LM) | SET(LO) | SET_MARK | SET(ND) | SET(NL) | SET(PC)))
		return true;
	return cp == 0x200c || cp == 0x200d || (cp >= 0x24b6 && cp <= 0x24e9) ||
	       (cp >= 0x1f130 && cp <= 0x1f149) || (cp >= 0x1f150 && cp <= 0x1f169) ||
	       (cp >= 0x1f170 && cp <= 0x1f189);
}

/* Upper and title case letters, those without case, marks. */
bool
llm_is_upper_like(uint32_t cp)
{
	return (1u << category(cp)) & (SET(LU) | SET(LT) | SET(LM) | SET(LO) | SET_MARK);
}

/* Lower case letters, those without case, marks. */
bool
llm_is_lower_like(uint32_t cp)
{
	return (1u << category(cp)) & (SET(LL) | SET(LM) | SET(LO) | SET_MARK);
}

/* The simple mapping, but for the one character that becomes two. */
size_t
llm_lower(uint32_t cp, uint32_t out[2])
{
	if (cp < 0x80)
		out[0] = cp >= 'A' && cp <= 'Z' ? cp + 32 : cp;
	else if (cp == 0x130)
	{
		out[0] = 'i';
		out[1] = 0x307;
		return 2;
	}
	else
		out[0] = (uint32_t) utf8proc_tolower((utf8proc_int32_t) cp);
	return 1;
}

/* A stretch of characters under normalisation, and what has come out. */
typedef struct normaliser
{
	bool compose;
	utf8proc_option_t options; /* of the decomposition */
	utf8proc_int32_t *chars;
	size_t n_chars;
	size_t cap_chars;
	utf8proc_int32_t *sorted; /* room for a long run */
	size_t cap_sorted;
	char *out;
	size_t n_out;
	size_t cap_out;
} normaliser;

/* Makes room for more items in an array. */
static bool
grow(void **array, size_t n, size_t more, size_t *capacity, size_t size)
{
	void *grown;
	size_t need;

	if (more <= *capacity - n)
		return true;
	if (n > SIZE_MAX / 4 || more > SIZE_MAX / 4)
		return false;
	need = (n + more) * 2;
	if ((grown = llm_realloc_array(*array, need, size)) == NULL)
		return false;
	*array = grown;
	*capacity = need;
	return true;
}

/* The canonical combining class. */
static unsigned
combining_class(utf8proc_int32_t c)
{
	return c < 0x300 ? 0 : (unsigned) utf8proc_get_property(c)->combining_class;
}

/* Sorts a short run of combining marks by class, stably (UAX #15, D109). */
static void
sort_short(utf8proc_int32_t *chars, size_t n)
{
	for (size_t i = 1; i < n; i++)
	{
		utf8proc_int32_t c = chars[i];
		size_t k = i;

		for (; k > 0 && combining_class(chars[k - 1]) > combining_class(c); k--)
			chars[k] = chars[k - 1];
		chars[k] = c;
	}
}

/* Sorts a long run by counting: there are 256 classes at most. False when there is no memory. */
static bool
sort_long(normaliser *z, utf8proc_int32_t *chars, size_t n)
{
	size_t start[257] = {0};

	if (!grow((void **) &z->sorted, 0, n, &z->cap_sorted, sizeof(*z->sorted)))
		return false;
	for (size_t i = 0; i < n; i++)
		start[combining_class(chars[i]) + 1]++;
	for (int c = 0; c < 256; c++)
		start[c + 1] += start[c];
	for (size_t i = 0; i < n; i++)
		z->sorted[start[combining_class(chars[i])]++] = chars[i];
	memcpy(chars, z->sorted, n * sizeof(*chars));
	return true;
}

/* Sorts all runs of a stretch. */
static bool
sort_stretch(normaliser *z)
{
	size_t begin = 0;
	bool good = true;

	for (size_t i = 0; good && i <= z->n_chars; i++)
		if (i == z->n_chars || combining_class(z->chars[i]) == 0)
		{
			if (i - begin > SHORT_RUN)
				good = sort_long(z, z->chars + begin, i - begin);
			else
				sort_short(z->chars + begin, i - begin);
			begin = i + 1;
		}
	return good;
}

/* Decomposes a stretch; false when there is no memory. */
static bool
decompose(normaliser *z, const char *s, size_t n)
{
	int bound = UTF8PROC_BOUNDCLASS_START;
	uint32_t cp;
	size_t length;

	z->n_chars = 0;
	for (size_t i = 0; i < n; i += length)
	{
		length = llm_utf8_peek(s + i, n - i, &cp);
		if (!grow((void **) &z->chars, z->n_chars, DECOMPOSED_MAX, &z->cap_chars,
		          sizeof(*z->chars)))
			return false;
		z->n_chars += (size_t) utf8proc_decompose_char((utf8proc_int32_t) cp, z->chars + z->n_chars,
		                                               DECOMPOSED_MAX, z->options, &bound);
	}
	return true;
}

/* Normalises a stretch and appends it. */
static bool
put_stretch(normaliser *z, const char *s, size_t n)
{
	if (!decompose(z, s, n) || !sort_stretch(z))
		return false;
	if (z->compose)
		z->n_chars = (size_t) utf8proc_normalize_utf32(z->chars, (utf8proc_ssize_t) z->n_chars,
		                                               UTF8PROC_COMPOSE | UTF8PROC_STABLE);
	if (!grow((void **) &z->out, z->n_out, 4 * z->n_chars, &z->cap_out, 1))
		return false;
	for (size_t i = 0; i < z->n_chars; i++)
		z->n_out += llm_utf8_encode((uint32_t) z->chars[i], z->out + z->n_out);
	return true;
}

/* Copies ASCII; normalises each stretch of other characters with the ASCII one before it. */
llm_status
llm_unicode_normalise(const char *s, size_t n, llm_unicode_form form, char **out, size_t *n_out,
                      llm_error *err)
{
	normaliser z = {.compose = form == LLM_NFC || form == LLM_NFKC};
	bool good = grow((void **) &z.out, 0, n + 1, &z.cap_out, 1);

	z.options = UTF8PROC_DECOMPOSE | UTF8PROC_STABLE;
	if (form == LLM_NFKC || form == LLM_NFKD)
		z.options |= UTF8PROC_COMPAT;
	for (size_t i = 0; good && i < n;)
	{
		size_t begin = i;
		size_t ascii;

		while (i < n && (unsigned char) s[i] < 0x80)
			i++;
		ascii = i - begin - (i < n && i > begin ? 1 : 0);
		if ((good = grow((void **) &z.out, z.n_out, ascii, &z.cap_out, 1)) && ascii > 0)
			memcpy(z.out + z.n_out, s + begin, ascii);
		z.n_out += ascii;
		while (i < n && (unsigned char) s[i] >= 0x80)
			i++;
		if (good && begin + ascii < i)
			good = put_stretch(&z, s + begin + ascii, i - begin - ascii);
	}
	llm_free(z.chars);
	llm_free(z.sorted);
	if (!good)
	{
		llm_free(z.out);
		return llm_fail(err, LLM_E_NOMEM, "out of memory while normalising text");
	}
	*out = z.out;
	*n_out = z.n_out;
	return LLM_OK;
}
