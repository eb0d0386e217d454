/*
 * llm_unicode.h: what tokenizers need of Unicode, over utf8proc's tables.
 *
 * Text is UTF-8. Nothing here keeps state; all functions are thread-safe, and linear in their
 * input: utf8proc's own normaliser sorts long runs of combining marks in quadratic time, so its
 * tables are used and the sorting is done here.
 */
#ifndef LLM_UNICODE_H
#define LLM_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm_status.h"

/* Decodes one character; 0 when the bytes are not valid UTF-8 (RFC 3629), else its length 1 … 4. */
size_t llm_utf8_decode(const char *s, size_t n, uint32_t *cp);
/* Writes a character's bytes into out[4]; returns their number. */
size_t llm_utf8_encode(uint32_t cp, char out[4]);
/* True when all n bytes are valid UTF-8. */
bool llm_utf8_valid(const char *s, size_t n);

/* The character at the front of valid text: its length, 0 at the end. A stray byte is U+FFFD. */
static inline size_t
llm_utf8_peek(const char *s, size_t n, uint32_t *cp)
{
	size_t length;

	*cp = 0;
	if (n == 0)
		return 0;
	if ((unsigned char) s[0] < 0x80)
	{
		*cp = (unsigned char) s[0];
		return 1;
	}
	if ((length = llm_utf8_decode(s, n, cp)) > 0)
		return length;
	*cp = 0xfffd;
	return 1;
}

/* Where the last character of s[0, n) begins; n > 0. */
size_t llm_utf8_last(const char *s, size_t n);
/* Bytes of the grapheme cluster (UAX #29, extended) at the front of s; 0 when n is 0. */
size_t llm_utf8_grapheme(const char *s, size_t n);

bool llm_is_letter(uint32_t cp);      /* \p{L} */
bool llm_is_number(uint32_t cp);      /* \p{N} */
bool llm_is_mark(uint32_t cp);        /* \p{M} */
bool llm_is_nonspacing(uint32_t cp);  /* \p{Mn} */
bool llm_is_punctuation(uint32_t cp); /* \p{P} */
bool llm_is_space(uint32_t cp);       /* White_Space, what \s matches */
bool llm_is_word(uint32_t cp);        /* what \w matches (UTS #18) */
bool llm_is_control(uint32_t cp);     /* Cc, Cf, Co; not the unassigned ones */
bool llm_is_upper_like(uint32_t cp);  /* [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] */
bool llm_is_lower_like(uint32_t cp);  /* [\p{Ll}\p{Lm}\p{Lo}\p{M}] */
bool llm_is_cjk(uint32_t cp);         /* the ideograph blocks that BERT splits */

/* Lower case of a character by Unicode's full mapping without context: one or two characters. */
size_t llm_lower(uint32_t cp, uint32_t out[2]);

typedef enum llm_unicode_form
{
	LLM_NFC = 1,
	LLM_NFD = 2,
	LLM_NFKC = 3,
	LLM_NFKD = 4
} llm_unicode_form;

/* Normalises valid UTF-8; *out is freed with llm_free. */
llm_status llm_unicode_normalise(const char *s, size_t n, llm_unicode_form form, char **out,
                                 size_t *n_out, llm_error *err);

#endif /* LLM_UNICODE_H */
