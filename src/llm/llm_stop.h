/*
 * llm_stop.h: stop strings in streamed bytes, and pieces of whole characters.
 *
 * Tokens are not characters: a stop string may begin in one token and end in another, and a token
 * may end inside a character. A row's bytes pass through a llm_stop_state, which gives back what is
 * safe to show: no byte that may still belong to a stop string, and only whole characters. What
 * comes out is always valid UTF-8: bytes that cannot be are replaced by U+FFFD, one for each
 * maximal part (Unicode 15, §3.9), and a character that the end of the text cuts is left out.
 *
 *   llm_stop_create(strings, bytes, n, &stops, err);   once a request; immutable, any threads
 *   llm_stop_state_create(stops, &state, err);         once a row; one thread
 *   llm_stop_feed(state, bytes, n, &safe, &n_safe, &stopped, err);  … until stopped
 *   llm_stop_flush(state, &rest, &n_rest);             at the end, when it did not stop
 *
 * The first stop string to be complete stops; of several that end at one byte the longest counts.
 * It is not part of the text. The state must not outlive the stops.
 */
#ifndef LLM_STOP_H
#define LLM_STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm_status.h"

#define LLM_STOP_STRINGS_MAX 64
#define LLM_STOP_BYTES_MAX   1024

typedef struct llm_stop llm_stop;
typedef struct llm_stop_state llm_stop_state;

/* LLM_E_RANGE for too many, an empty, or a too long string. */
llm_status llm_stop_create(const char *const *strings, const size_t *bytes, uint32_t n,
                           llm_stop **out, llm_error *err);
void llm_stop_free(llm_stop *stop);

/* stop may be NULL: no stop strings, whole characters only. */
llm_status llm_stop_state_create(const llm_stop *stop, llm_stop_state **out, llm_error *err);
void llm_stop_state_free(llm_stop_state *s);

/* *safe holds until the next call with s. After *stopped nothing more comes out. */
llm_status llm_stop_feed(llm_stop_state *s, const char *bytes, size_t n, const char **safe,
                         size_t *n_safe, bool *stopped, llm_error *err);
/* What was held back, as no stop string came after all. */
void llm_stop_flush(llm_stop_state *s, const char **rest, size_t *n_rest);

#endif /* LLM_STOP_H */
