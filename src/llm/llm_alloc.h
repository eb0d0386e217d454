/*
 * llm_alloc.h: the engine's allocator: malloc with checked sizes and a fault counter, and an arena.
 *
 * All memory of the engine goes through here, so that a test can let the N-th allocation fail (and
 * all after it, with llm_alloc_fail_after(n, true)) and see that nothing crashes or leaks.
 * Thread-safe.
 */
#ifndef LLM_ALLOC_H
#define LLM_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NULL when there is no memory or when n * size does not fit; zeroed where the name says so. */
void *llm_malloc(size_t bytes);
void *llm_malloc_array(size_t n, size_t size);
void *llm_calloc(size_t n, size_t size);
void *llm_realloc_array(void *ptr, size_t n, size_t size); /* ptr stays valid on failure */
void *llm_malloc_aligned(size_t bytes,
                         size_t align); /* align: a power of two; free with llm_free */
char *llm_strdup(const char *s);
char *llm_strndup(const char *s, size_t bytes); /* always NUL-terminated */
void llm_free(void *ptr);

/*
 * Test hook: the n-th allocation from now (1 = the next) fails; with persistent also all later
 * ones. n = 0 switches it off. llm_alloc_count() is the number of allocations made since the start
 * of the process.
 */
void llm_alloc_fail_after(uint64_t n, bool persistent);
uint64_t llm_alloc_count(void);

/*
 * An arena: many small allocations freed at once. Not thread-safe. llm_arena_alloc returns zeroed
 * memory aligned to 16 bytes, or NULL.
 */
typedef struct llm_arena llm_arena;

llm_arena *llm_arena_create(void);
void *llm_arena_alloc(llm_arena *arena, size_t n, size_t size);
char *llm_arena_strndup(llm_arena *arena, const char *s, size_t bytes);
void llm_arena_destroy(llm_arena *arena); /* NULL is fine */

#endif /* LLM_ALLOC_H */
