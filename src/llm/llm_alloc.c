/*
 * llm_alloc.c: see llm_alloc.h.
 *
 * The fault counter is one atomic: the number of allocations still allowed, or LLONG_MAX when the
 * hook is off. The arena is a list of blocks, each at least 64 kB; a request larger than that gets
 * a block of its own.
 */
#include "llm_alloc.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "llm_check.h"

#define ARENA_BLOCK_BYTES ((size_t) 65536)
#define ARENA_ALIGN       ((size_t) 16)

static _Atomic long long fail_countdown = LLONG_MAX;
static _Atomic bool fail_persistent = false;
static _Atomic uint64_t n_allocations = 0;

/* Decides whether this allocation is one that the test hook lets fail. */
static bool
fault_due(void)
{
	long long left;

	atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
	if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) == LLONG_MAX)
		return false;
	left = atomic_fetch_sub(&fail_countdown, 1);
	return left == 1 || (left < 1 && atomic_load(&fail_persistent));
}

/* Allocates; a request for nothing still gives an object of its own. */
void *
llm_malloc(size_t bytes)
{
	if (fault_due())
		return NULL;
	return malloc(bytes > 0 ? bytes : 1);
}

/* Allocates n objects; a size that wraps counts as no memory. */
void *
llm_malloc_array(size_t n, size_t size)
{
	uint64_t bytes;

	if (!pp_mul_ok(n, size, &bytes))
		return NULL;
	return llm_malloc((size_t) bytes);
}

/* Allocates n zeroed objects. */
void *
llm_calloc(size_t n, size_t size)
{
	if (fault_due())
		return NULL;
	return calloc(n > 0 ? n : 1, size > 0 ? size : 1);
}

/* Resizes to n objects. */
void *
llm_realloc_array(void *ptr, size_t n, size_t size)
{
	uint64_t bytes;

	if (!pp_mul_ok(n, size, &bytes) || fault_due())
		return NULL;
	return realloc(ptr, bytes > 0 ? (size_t) bytes : 1);
}

/* Allocates at a multiple of align. */
void *
llm_malloc_aligned(size_t bytes, size_t align)
{
	void *ptr;

	if (fault_due() || posix_memalign(&ptr, align, bytes > 0 ? bytes : 1) != 0)
		return NULL;
	return ptr;
}

/* Copies bytes and closes them with NUL. */
char *
llm_strndup(const char *s, size_t bytes)
{
	char *copy;

	if (bytes == SIZE_MAX || (copy = llm_malloc(bytes + 1)) == NULL)
		return NULL;
	memcpy(copy, s, bytes);
	copy[bytes] = '\0';
	return copy;
}

/* Copies a string. */
char *
llm_strdup(const char *s)
{
	return llm_strndup(s, strlen(s));
}

/* Frees what any of the above gave. */
void
llm_free(void *ptr)
{
	free(ptr);
}

/* Arms or disarms the fault counter. */
void
llm_alloc_fail_after(uint64_t n, bool persistent)
{
	atomic_store(&fail_persistent, persistent);
	atomic_store(&fail_countdown, n == 0 || n > LLONG_MAX ? LLONG_MAX : (long long) n);
}

/* Counts allocations, so that a test knows how many faults to try. */
uint64_t
llm_alloc_count(void)
{
	return atomic_load(&n_allocations);
}

typedef struct arena_block
{
	struct arena_block *next;
	size_t bytes; /* capacity behind this header */
	size_t used;
} arena_block;

struct llm_arena
{
	arena_block *blocks; /* the newest first; only it is filled further */
};

#define ARENA_HEADER ((sizeof(arena_block) + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN)

/* Starts an arena without blocks. */
llm_arena *
llm_arena_create(void)
{
	return llm_calloc(1, sizeof(llm_arena));
}

/* Puts a fresh zeroed block of at least bytes in front. */
static arena_block *
arena_grow(llm_arena *arena, size_t bytes)
{
	size_t capacity = bytes > ARENA_BLOCK_BYTES ? bytes : ARENA_BLOCK_BYTES;
	arena_block *block;

	if (capacity > SIZE_MAX - ARENA_HEADER ||
	    (block = llm_calloc(1, ARENA_HEADER + capacity)) == NULL)
		return NULL;
	block->bytes = capacity;
	block->next = arena->blocks;
	arena->blocks = block;
	return block;
}

/* Takes zeroed memory from the newest block, or from a fresh one. */
void *
llm_arena_alloc(llm_arena *arena, size_t n, size_t size)
{
	uint64_t bytes;
	arena_block *block = arena->blocks;
	char *ptr;

	if (!pp_mul_ok(n, size, &bytes) || bytes > SIZE_MAX - ARENA_ALIGN)
		return NULL;
	bytes = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
	if (block == NULL || bytes > block->bytes - block->used)
		if ((block = arena_grow(arena, (size_t) bytes)) == NULL)
			return NULL;
	ptr = (char *) block + ARENA_HEADER + block->used;
	block->used += (size_t) bytes;
	return ptr;
}

/* Copies bytes into the arena; the zeroed block closes them with NUL. */
char *
llm_arena_strndup(llm_arena *arena, const char *s, size_t bytes)
{
	char *copy;

	if (bytes == SIZE_MAX || (copy = llm_arena_alloc(arena, bytes + 1, 1)) == NULL)
		return NULL;
	memcpy(copy, s, bytes);
	return copy;
}

/* Frees all blocks. */
void
llm_arena_destroy(llm_arena *arena)
{
	arena_block *block;

	if (arena == NULL)
		return;
	while ((block = arena->blocks) != NULL)
	{
		arena->blocks = block->next;
		llm_free(block);
	}
	llm_free(arena);
}
