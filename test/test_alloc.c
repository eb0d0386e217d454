/*
 * test_alloc.c: allocator, arena, growing buffer, fault counter, checked arithmetic, error records.
 */
#include "test.h"

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_buffer.h"
#include "../src/llm/llm_check.h"
#include "../src/llm/llm_status.h"
#include "../src/llm/llm_unicode.h"

/* Sizes that wrap are refused; zero bytes are a valid object. */
static void
test_sizes(void)
{
	void *p;

	CHECK(llm_malloc_array(SIZE_MAX / 2, 3) == NULL);
	CHECK(llm_realloc_array(NULL, SIZE_MAX, 2) == NULL);
	CHECK(llm_strndup("x", SIZE_MAX) == NULL);
	CHECK((p = llm_malloc(0)) != NULL);
	llm_free(p);
	CHECK((p = llm_calloc(0, 0)) != NULL);
	llm_free(p);
}

/* calloc zeroes, aligned memory is aligned, copies end in NUL. */
static void
test_contents(void)
{
	unsigned char *zeroed = llm_calloc(100, 3);
	void *aligned = llm_malloc_aligned(100, 64);
	char *copy = llm_strndup("abcdef", 3);

	REQUIRE(zeroed != NULL && aligned != NULL && copy != NULL);
	for (int i = 0; i < 300; i++)
		CHECK(zeroed[i] == 0);
	CHECK((uintptr_t) aligned % 64 == 0);
	CHECK(strcmp(copy, "abc") == 0);
	llm_free(zeroed);
	llm_free(aligned);
	llm_free(copy);
}

/* Exactly the N-th allocation fails, or the N-th and all after it. */
static void
test_fault_counter(void)
{
	for (int persistent = 0; persistent < 2; persistent++)
	{
		bool failed[5];

		llm_alloc_fail_after(3, persistent);
		for (int i = 0; i < 5; i++)
		{
			void *p = llm_malloc(8);

			failed[i] = p == NULL;
			llm_free(p);
		}
		llm_alloc_fail_after(0, false);
		CHECK(!failed[0] && !failed[1] && failed[2]);
		CHECK(failed[3] == persistent && failed[4] == persistent);
	}
	{
		uint64_t before = llm_alloc_count();
		void *p = llm_malloc(1);

		CHECK(p != NULL && llm_alloc_count() == before + 1);
		llm_free(p);
	}
}

/* Arena memory is zeroed, aligned, disjoint and survives growth; big requests get their own block.
 */
static void
test_arena(void)
{
	llm_arena *arena = llm_arena_create();
	unsigned char *blocks[2000];

	REQUIRE(arena != NULL);
	for (int i = 0; i < 2000; i++)
	{
		size_t n = (size_t) (i % 97) + 1;

		blocks[i] = llm_arena_alloc(arena, n, 1);
		REQUIRE(blocks[i] != NULL);
		CHECK((uintptr_t) blocks[i] % 16 == 0);
		for (size_t j = 0; j < n; j++)
			CHECK(blocks[i][j] == 0);
		memset(blocks[i], i % 251 + 1, n);
	}
	for (int i = 0; i < 2000; i++)
		for (int j = 0; j < i % 97 + 1; j++)
			CHECK(blocks[i][j] == i % 251 + 1);
	CHECK(llm_arena_alloc(arena, 1 << 20, 1) != NULL);
	CHECK(llm_arena_alloc(arena, SIZE_MAX, 2) == NULL);
	CHECK(strcmp(llm_arena_strndup(arena, "hello!", 5), "hello") == 0);
	llm_arena_destroy(arena);
	llm_arena_destroy(NULL);
}

/* A failing arena leaves what it gave before intact, and nothing leaks (LeakSanitizer watches). */
static void
test_arena_faults(void)
{
	for (uint64_t n = 1; n < 6; n++)
	{
		llm_arena *arena;

		llm_alloc_fail_after(n, true);
		arena = llm_arena_create();
		for (int i = 0; arena != NULL && i < 4; i++)
			if (llm_arena_alloc(arena, 60000, 1) == NULL)
				break;
		llm_alloc_fail_after(0, false);
		llm_arena_destroy(arena);
	}
}

/* An arena refuses what wraps, by product, by rounding or with its header, and goes on after it. */
static void
test_arena_limits(void)
{
	llm_arena *arena = llm_arena_create();
	unsigned char *before;
	unsigned char *after;

	REQUIRE(arena != NULL);
	before = llm_arena_alloc(arena, 1, 1);
	CHECK(llm_arena_alloc(arena, SIZE_MAX / 2 + 1, 2) == NULL);
	CHECK(llm_arena_alloc(arena, 1, SIZE_MAX) == NULL);
	CHECK(llm_arena_alloc(arena, 1, SIZE_MAX - 16) == NULL);
	CHECK(llm_arena_alloc(arena, 1, SIZE_MAX - 40) == NULL);
	CHECK(llm_arena_strndup(arena, "x", SIZE_MAX) == NULL);
	after = llm_arena_alloc(arena, 1, 1);
	CHECK(before != NULL && after == before + 16);
	CHECK(llm_arena_alloc(arena, 0, 8) != NULL);
	CHECK(strcmp(llm_arena_strndup(arena, "x", 0), "") == 0);
	llm_arena_destroy(arena);
}

/* A buffer of pieces of every size is their concatenation, and grows a few times only. */
static void
test_buffer(void)
{
	llm_buffer b = {0};
	uint64_t before = llm_alloc_count();
	size_t n = 0;

	llm_buffer_put(&b, NULL, 0);
	CHECK(b.bytes == NULL && b.n == 0 && !b.failed);
	for (size_t i = 0; i < 3000; i++)
	{
		unsigned char piece[7];

		memset(piece, (int) (i % 251), sizeof(piece));
		llm_buffer_put(&b, piece, i % 8);
		n += i % 8;
	}
	REQUIRE(b.n == n && !b.failed);
	for (size_t i = 0, at = 0; i < 3000; at += i % 8, i++)
		for (size_t k = 0; k < i % 8; k++)
			CHECK((unsigned char) b.bytes[at + k] == i % 251);
	CHECK_MSG(llm_alloc_count() - before < 16, "%llu times",
	          (unsigned long long) (llm_alloc_count() - before));
	llm_buffer_free(&b);
	CHECK(b.bytes == NULL && b.n == 0 && b.capacity == 0);
	llm_buffer_put_str(&b, "anew");
	CHECK(b.n == 4 && memcmp(b.bytes, "anew", 4) == 0);
	llm_buffer_free(&b);
}

/* What a buffer held when memory ran out stays, and nothing comes after it: no text with a hole. */
static void
test_buffer_faults(void)
{
	llm_buffer b = {0};
	char big[1000] = {0};

	llm_buffer_put_str(&b, "first");
	llm_alloc_fail_after(1, false);
	llm_buffer_put(&b, big, sizeof(big));
	llm_buffer_put_str(&b, "later");
	llm_alloc_fail_after(0, false);
	CHECK(b.failed && b.n == 5 && memcmp(b.bytes, "first", 5) == 0);
	llm_buffer_free(&b);
	CHECK(!b.failed);
	llm_buffer_put_str(&b, "x");
	llm_buffer_put(&b, big, SIZE_MAX); /* wraps */
	CHECK(b.failed && b.n == 1);
	b.failed = false;
	llm_buffer_put(&b, big, SIZE_MAX / 2); /* fits, but not twice */
	CHECK(b.failed && b.n == 1);
	llm_buffer_free(&b);
}

/* Checked arithmetic at its borders. */
static void
test_checked(void)
{
	uint64_t out = 7;

	CHECK(pp_add_ok(UINT64_MAX - 1, 1, &out) && out == UINT64_MAX);
	CHECK(!pp_add_ok(UINT64_MAX, 1, &out));
	CHECK(pp_mul_ok(1ull << 32, (1ull << 32) - 1, &out) && out == 0xffffffff00000000u);
	CHECK(!pp_mul_ok(1ull << 32, 1ull << 32, &out));
	CHECK(pp_range_ok(10, 0, 10) && pp_range_ok(0, 10, 10));
	CHECK(!pp_range_ok(11, 0, 10) && !pp_range_ok(5, 6, 10));
	CHECK(!pp_range_ok(5, UINT64_MAX - 2, 10));
}

/* Messages are cut, never overrun; every code has a name. */
static void
test_error(void)
{
	llm_error err;
	char big[1000];

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	CHECK(llm_fail(&err, LLM_E_RANGE, "%s", big) == LLM_E_RANGE);
	CHECK(err.code == LLM_E_RANGE && strlen(err.message) == LLM_MESSAGE_MAX - 1);
	CHECK(llm_fail(NULL, LLM_E_IO, "nobody listens") == LLM_E_IO);
	for (int i = 0; i <= LLM_E_PROTOCOL; i++)
		CHECK(strcmp(llm_status_name((llm_status) i), "unknown") != 0);
	CHECK(strcmp(llm_status_name((llm_status) 99), "unknown") == 0);
	CHECK(strcmp(llm_status_name((llm_status) -1), "unknown") == 0);
}

/* Whatever a message quotes, and wherever it is cut, it is one line of valid UTF-8. */
static void
test_error_line(void)
{
	static const struct
	{
		const char *quoted;
		const char *message;
	} cases[] = {
	    {"", "key \"\""},
	    {"plain", "key \"plain\""},
	    {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "key \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
	    {"12345678901\xc3\xa9", "key \"12345678901?\""},
	    {"1234567890\xc3\xa9", "key \"1234567890\xc3\xa9\""},
	    {"1234567890\xe2\x82\xac", "key \"1234567890??\""},
	    {"123456789\xf0\x9f\x98\x80", "key \"123456789???\""},
	    {"\xff\xc0\x80", "key \"???\""},
	    {"\xed\xa0\x80", "key \"???\""},
	    {"a\nb\r\tc\x1b[0m", "key \"a b  c [0m\""},
	    {"\x7f\xc2\x80", "key \" \xc2\x80\""},
	};
	llm_error err;
	char big[LLM_MESSAGE_MAX + 8];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		llm_fail(&err, LLM_E_FORMAT, "key \"%.12s\"", cases[i].quoted);
		CHECK_MSG(strcmp(err.message, cases[i].message) == 0, "%zu: %s", i, err.message);
	}
	for (size_t before = LLM_MESSAGE_MAX - 6; before < LLM_MESSAGE_MAX; before++)
	{
		memset(big, 'x', before);
		memcpy(big + before, "\xf0\x9f\x98\x80", 5);
		llm_fail(&err, LLM_E_FORMAT, "%s", big);
		CHECK(llm_utf8_valid(err.message, strlen(err.message)));
		CHECK(strlen(err.message) ==
		      (before + 4 < LLM_MESSAGE_MAX ? before + 4 : LLM_MESSAGE_MAX - 1));
	}
}

int
main(void)
{
	RUN(sizes);
	RUN(contents);
	RUN(fault_counter);
	RUN(arena);
	RUN(arena_faults);
	RUN(arena_limits);
	RUN(buffer);
	RUN(buffer_faults);
	RUN(checked);
	RUN(error);
	RUN(error_line);
	return test_summary("alloc");
}
