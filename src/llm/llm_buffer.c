/*
 * llm_buffer.c: see llm_buffer.h. Capacity at least doubles, so that n bytes cost O(n) copies
 * however small the pieces are.
 */
#include "llm_buffer.h"

#include <stdint.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

#define BYTES_MIN 64u

/* Makes room for need bytes in all. */
static bool
reserve(llm_buffer *b, uint64_t need)
{
	size_t capacity;
	char *grown;

	if (need <= b->capacity)
		return true;
	if (need > SIZE_MAX / 2)
		return false;
	capacity = need > BYTES_MIN ? (size_t) need * 2 : BYTES_MIN;
	if ((grown = llm_realloc_array(b->bytes, capacity, 1)) == NULL)
		return false;
	b->bytes = grown;
	b->capacity = capacity;
	return true;
}

/* Appends bytes. */
void
llm_buffer_put(llm_buffer *b, const void *bytes, size_t n)
{
	uint64_t need;

	if (b->failed || n == 0)
		return;
	if (!pp_add_ok(b->n, n, &need) || !reserve(b, need))
	{
		b->failed = true;
		return;
	}
	memcpy(b->bytes + b->n, bytes, n);
	b->n = (size_t) need;
}

/* Appends a C string. */
void
llm_buffer_put_str(llm_buffer *b, const char *s)
{
	llm_buffer_put(b, s, strlen(s));
}

/* Frees the memory. */
void
llm_buffer_free(llm_buffer *b)
{
	llm_free(b->bytes);
	*b = (llm_buffer){0};
}
