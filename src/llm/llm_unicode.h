/*
 * llm_unicode.h: what tokenizers need of Unicode, over utf8proc's tables.
 *
 * Nothing here allocates but llm_unicode_map. All functions are thread-safe.
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

bool llm_is_letter(uint32_t cp);      /* \p{L} */
bool llm_is_number(uint32_t cp);      /* \p{N} */
bool llm_is_mark(uint32_t cp);        /* \p{M} */
bool llm_is_nonspacing(uint32_t cp);  /* \p{Mn} */
bool llm_is_punctuation(uint32_t cp); /* \p{P} */
bool llm_is_space(uint32_t cp);       /* White_Space, what \s matches */
bool llm_is_control(uint32_t cp);     /* Cc, Cf, Co, Cs */
bool llm_is_cjk(uint32_t cp);         /* the ideograph blocks that BERT splits */

/* Normalisation forms and lower case; map ORs of these in one call. */
#define LLM_UNI_NFC  1
#define LLM_UNI_NFD  2
#define LLM_UNI_NFKC 3
#define LLM_UNI_NFKD 4

/* Maps valid UTF-8 into a form; the caller frees *out with llm_free. */
llm_status llm_unicode_map(const char *s, size_t n, int form, char **out, size_t *n_out,
                           llm_error *err);
/* Simple lower case of one character; special is set for the one that becomes two (U+0130). */
uint32_t llm_lower(uint32_t cp);

#endif /* LLM_UNICODE_H */
