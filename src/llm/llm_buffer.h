/*
 * llm_buffer.h: a byte string that grows.
 *
 * For texts that are put together piece by piece: prompts, request bodies, answers. Running out of
 * memory sticks, so that a writer of many pieces checks once at the end. A buffer begins as zeroes
 * ({0}). Not NUL-terminated. One thread at a time.
 */
#ifndef LLM_BUFFER_H
#define LLM_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct llm_buffer
{
	char *bytes; /* NULL while it is empty; may be taken over, llm_free() frees it */
	size_t n;
	size_t capacity;
	bool failed; /* memory ran out: what was put before is still there, nothing comes after it */
} llm_buffer;

/* Appends n bytes; NULL is fine for none. */
void llm_buffer_put(llm_buffer *b, const void *bytes, size_t n);
/* Appends a C string, without its NUL. */
void llm_buffer_put_str(llm_buffer *b, const char *s);
/* Frees the memory; the buffer is empty then, and may be used anew. */
void llm_buffer_free(llm_buffer *b);

#endif /* LLM_BUFFER_H */
