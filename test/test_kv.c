/*
 * test_kv.c: page ownership, copy on write, the prefix tree, salts, eviction, pins: each rule by
 * itself with exact expectations, then random operations with the full self-check after each, then
 * failing allocations.
 */
#include "test.h"

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_kv_internal.h"

#define PAGE 4

static const llm_salt ALICE = {.bytes = {1}};
static const llm_salt BOB = {.bytes = {2}};

/* A pool with one table and room for its fix-ups: what most tests need. */
typedef struct bench
{
	llm_kv *kv;
	llm_kv_table a, b;
	llm_kv_fixup fixups[64];
	uint32_t n_fixups;
} bench;

/* Makes a pool of n_pages pages of PAGE tokens. */
static bench
bench_create(uint32_t n_pages)
{
	bench t = {0};

	CHECK(llm_kv_create(n_pages, PAGE, &t.kv, NULL) == LLM_OK);
	return t;
}

/* Extends a table and returns the status; fix-ups start anew. */
static llm_status
extend(bench *t, llm_kv_table *table, const llm_salt *salt, uint32_t n)
{
	t->n_fixups = 0;
	return llm_kv_extend(t->kv, table, salt, n, t->fixups, &t->n_fixups, NULL);
}

/* Runs the self-check over both tables. */
static void
verify(const bench *t)
{
	const llm_kv_table *tables[] = {&t->a, &t->b};
	const char *wrong = llm_kv_verify(t->kv, tables, 2);

	CHECK_MSG(wrong == NULL, "%s", wrong);
}

/* Checks, releases both tables, drops the cache: every page must be free. */
static void
bench_free(bench *t)
{
	llm_kv_stats stats;

	verify(t);
	llm_kv_release(t->kv, &t->a);
	llm_kv_release(t->kv, &t->b);
	llm_kv_drop_cache(t->kv, true);
	verify(t);
	llm_kv_get_stats(t->kv, &stats);
	CHECK(stats.n_free == stats.n_pages && stats.n_cached == 0 && stats.n_pinned == 0);
	llm_kv_free(t->kv);
}

/* Pages free and evictable, in one look. */
static void
check_pages(const bench *t, uint32_t n_free, uint32_t n_cached, uint32_t n_pinned)
{
	llm_kv_stats s;

	llm_kv_get_stats(t->kv, &s);
	CHECK_MSG(s.n_free == n_free && s.n_cached == n_cached && s.n_pinned == n_pinned,
	          "free %u cached %u pinned %u", s.n_free, s.n_cached, s.n_pinned);
}

/* Computes tokens[0, n) for salt in a table of its own and leaves them in the tree. */
static void
cache(bench *t, const llm_salt *salt, const int32_t *tokens, uint32_t n)
{
	llm_kv_table table = {0};

	llm_kv_attach(t->kv, &table, salt, tokens, n, n);
	CHECK(extend(t, &table, salt, n - table.n_slots) == LLM_OK);
	CHECK(llm_kv_insert(t->kv, &table, salt, tokens, n, NULL) == LLM_OK);
	llm_kv_release(t->kv, &table);
}

/* Nothing from nothing. */
static void
test_create_refuses_empty_pools(void)
{
	llm_kv *kv;

	CHECK(llm_kv_create(0, 16, &kv, NULL) == LLM_E_RANGE && kv == NULL);
	CHECK(llm_kv_create(16, 0, &kv, NULL) == LLM_E_RANGE && kv == NULL);
	llm_kv_free(NULL);
}

/* A page is taken when its first slot is, and given back with its last. */
static void
test_extend_and_truncate(void)
{
	bench t = bench_create(4);

	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_OK && t.a.n_pages == 1 && t.n_fixups == 0);
	CHECK(extend(&t, &t.a, &ALICE, 3) == LLM_OK && t.a.n_pages == 1);
	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_OK && t.a.n_pages == 2);
	CHECK(extend(&t, &t.a, &ALICE, 0) == LLM_OK && t.a.n_slots == 5);
	llm_kv_truncate(t.kv, &t.a, 9);
	CHECK(t.a.n_slots == 5);
	llm_kv_truncate(t.kv, &t.a, 4);
	CHECK(t.a.n_pages == 1 && t.a.n_slots == 4);
	check_pages(&t, 3, 0, 0);
	llm_kv_truncate(t.kv, &t.a, 0);
	CHECK(t.a.n_pages == 0 && t.a.pages != NULL);
	bench_free(&t);
}

/* Too many tokens: refused, and nothing has changed. */
static void
test_extend_beyond_the_pool(void)
{
	bench t = bench_create(3);
	llm_error err;

	CHECK(extend(&t, &t.a, &ALICE, 5) == LLM_OK);
	CHECK(llm_kv_extend(t.kv, &t.a, &ALICE, 8, t.fixups, &t.n_fixups, &err) == LLM_E_LIMIT);
	CHECK(strcmp(err.message, "no KV pages are free") == 0);
	CHECK(t.a.n_slots == 5 && t.a.n_pages == 2 && t.n_fixups == 0);
	CHECK(extend(&t, &t.a, &ALICE, UINT32_MAX) == LLM_E_LIMIT);
	CHECK(extend(&t, &t.a, &ALICE, 7) == LLM_OK && t.a.n_pages == 3);
	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_E_LIMIT);
	bench_free(&t);
}

/*
 * A fork shares all pages; the one that writes into a shared tail copies it, the last holder does
 * not.
 */
static void
test_fork_copies_on_write(void)
{
	bench t = bench_create(4);
	uint32_t tail;

	CHECK(extend(&t, &t.a, &ALICE, 6) == LLM_OK);
	tail = t.a.pages[1];
	CHECK(llm_kv_fork(t.kv, &t.a, 7, &t.b, NULL) == LLM_E_RANGE);
	CHECK(llm_kv_fork(t.kv, &t.a, 6, &t.b, NULL) == LLM_OK);
	CHECK(llm_kv_fork(t.kv, &t.a, 4, &t.b, NULL) == LLM_E_RANGE);
	CHECK(t.b.pages[0] == t.a.pages[0] && t.b.pages[1] == tail);
	check_pages(&t, 2, 0, 0);
	CHECK(extend(&t, &t.b, &ALICE, 1) == LLM_OK);
	REQUIRE(t.n_fixups == 1);
	CHECK(t.fixups[0].kind == LLM_KV_COPY && t.fixups[0].src_page == tail);
	CHECK(t.fixups[0].dst_page == t.b.pages[1] && t.fixups[0].n_slots == 2);
	CHECK(t.b.pages[1] != tail && t.b.pages[0] == t.a.pages[0]);
	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_OK && t.n_fixups == 0 && t.a.pages[1] == tail);
	bench_free(&t);
}

/* Whole pages are shared without any copy. */
static void
test_fork_of_whole_pages(void)
{
	bench t = bench_create(4);

	CHECK(extend(&t, &t.a, &ALICE, 8) == LLM_OK);
	CHECK(llm_kv_fork(t.kv, &t.a, 8, &t.b, NULL) == LLM_OK);
	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_OK && t.n_fixups == 0);
	CHECK(extend(&t, &t.b, &ALICE, 4) == LLM_OK && t.n_fixups == 0);
	CHECK(t.a.pages[2] != t.b.pages[2]);
	bench_free(&t);
}

/* A copy that finds no page leaves the table as it was. */
static void
test_copy_without_pages(void)
{
	bench t = bench_create(2);

	CHECK(extend(&t, &t.a, &ALICE, 6) == LLM_OK);
	CHECK(llm_kv_fork(t.kv, &t.a, 6, &t.b, NULL) == LLM_OK);
	CHECK(extend(&t, &t.b, &ALICE, 1) == LLM_E_LIMIT);
	CHECK(t.b.n_slots == 6 && t.b.pages[1] == t.a.pages[1] && t.n_fixups == 0);
	bench_free(&t);
}

/* The longest prefix is found to the token, in and between edges, up to n_max. */
static void
test_attach_finds_the_longest_prefix(void)
{
	bench t = bench_create(16);
	const int32_t x[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
	const int32_t y[] = {1, 2, 3, 4, 5, 6, 70, 80, 90};
	const int32_t z[] = {1, 2, 9};

	cache(&t, &ALICE, x, 10);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 10) == 10 && llm_kv_probe(t.kv, &ALICE, x, 5) == 5);
	CHECK(llm_kv_probe(t.kv, &ALICE, y, 9) == 6 && llm_kv_probe(t.kv, &ALICE, z, 3) == 2);
	CHECK(llm_kv_probe(t.kv, &ALICE, x + 1, 9) == 0 && llm_kv_probe(t.kv, &ALICE, x, 0) == 0);
	cache(&t, &ALICE, y, 9);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 10) == 10 && llm_kv_probe(t.kv, &ALICE, y, 9) == 9);
	CHECK(llm_kv_attach(t.kv, &t.a, &ALICE, x, 10, 9) == 9 && t.a.n_pages == 3);
	CHECK(llm_kv_attach(t.kv, &t.b, &ALICE, y, 9, 100) == 9 && t.b.n_pages == 3);
	CHECK(t.a.pages[0] == t.b.pages[0] && t.a.pages[1] != t.b.pages[1]);
	bench_free(&t);
}

/*
 * A partly used last page is shared until it is written, then copied: x's page lives on in the
 * tree.
 */
static void
test_attach_then_extend_copies(void)
{
	bench t = bench_create(8);
	const int32_t x[] = {1, 2, 3, 4, 5, 6};

	cache(&t, &ALICE, x, 6);
	check_pages(&t, 6, 2, 0);
	CHECK(llm_kv_attach(t.kv, &t.a, &ALICE, x, 6, 5) == 5);
	check_pages(&t, 6, 0, 0);
	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_OK);
	REQUIRE(t.n_fixups == 1);
	CHECK(t.fixups[0].kind == LLM_KV_COPY && t.fixups[0].n_slots == 1);
	check_pages(&t, 5, 1, 0);
	bench_free(&t);
}

/* Hits are counted on every entry of the path, tokens in the totals. */
static void
test_hits_are_counted(void)
{
	bench t = bench_create(16);
	const int32_t x[] = {1, 2, 3, 4, 5, 6, 7, 8};
	llm_prefix_info info[4];
	llm_kv_stats stats;

	cache(&t, &ALICE, x, 3);
	cache(&t, &ALICE, x, 8);
	CHECK(llm_kv_attach(t.kv, &t.a, &ALICE, x, 8, 2) == 2);
	llm_kv_release(t.kv, &t.a);
	REQUIRE(llm_kv_list(t.kv, info, 4) == 2);
	if (info[0].n_tokens != 3)
	{
		llm_prefix_info swap = info[0];

		info[0] = info[1];
		info[1] = swap;
	}
	CHECK(info[0].n_tokens == 3 && info[0].hits == 2 && info[1].n_tokens == 8);
	CHECK(info[1].hits == 0 && info[0].last_used > info[1].last_used);
	CHECK(memcmp(&info[0].salt, &ALICE, sizeof(ALICE)) == 0 && !info[0].pinned);
	CHECK(llm_kv_list(t.kv, info, 0) == 2);
	llm_kv_get_stats(t.kv, &stats);
	CHECK(stats.n_hit_tokens == 3 + 2 && stats.n_miss_tokens == 3 + 5 + 6);
	bench_free(&t);
}

/*
 * One salt never sees what another has cached, at any length; its own it does (or the test could
 * not fail).
 */
static void
test_salts_are_apart(void)
{
	bench t = bench_create(64);
	int32_t x[200];

	for (int32_t i = 0; i < 200; i++)
		x[i] = i % 7;
	cache(&t, &ALICE, x, 200);
	for (uint32_t n = 1; n <= 200; n++)
	{
		CHECK(llm_kv_probe(t.kv, &ALICE, x, n) == n);
		CHECK(llm_kv_probe(t.kv, &BOB, x, n) == 0);
	}
	CHECK(llm_kv_attach(t.kv, &t.a, &BOB, x, 200, 200) == 0 && t.a.n_pages == 0);
	CHECK(llm_kv_pin(t.kv, &BOB, x, 200, true, NULL) == LLM_E_NOT_FOUND);
	cache(&t, &BOB, x, 20);
	CHECK(llm_kv_probe(t.kv, &BOB, x, 200) == 20);
	bench_free(&t);
}

/*
 * A page is cleared before another salt gets it, not for the same one, and before it is copied to.
 */
static void
test_pages_are_cleared_between_salts(void)
{
	bench t = bench_create(3);

	CHECK(extend(&t, &t.a, &ALICE, 9) == LLM_OK && t.n_fixups == 0);
	llm_kv_truncate(t.kv, &t.a, 0);
	CHECK(extend(&t, &t.a, &ALICE, 5) == LLM_OK && t.n_fixups == 0);
	llm_kv_truncate(t.kv, &t.a, 0);
	CHECK(extend(&t, &t.b, &BOB, 5) == LLM_OK && t.n_fixups == 2);
	for (uint32_t i = 0; i < 2; i++)
		CHECK(t.fixups[i].kind == LLM_KV_CLEAR && t.fixups[i].dst_page == t.b.pages[i]);
	CHECK(llm_kv_fork(t.kv, &t.b, 5, &t.a, NULL) == LLM_OK);
	CHECK(extend(&t, &t.a, &BOB, 1) == LLM_OK);
	REQUIRE(t.n_fixups == 2);
	CHECK(t.fixups[0].kind == LLM_KV_CLEAR && t.fixups[1].kind == LLM_KV_COPY);
	CHECK(t.fixups[0].dst_page == t.fixups[1].dst_page);
	bench_free(&t);
}

/*
 * Pages run out: the least recently used entry goes, the pages in use stay, and no more goes than
 * is needed.
 */
static void
test_eviction_is_least_recently_used(void)
{
	bench t = bench_create(6);
	const int32_t x[] = {1, 1, 1, 1};
	const int32_t y[] = {2, 2, 2, 2};
	const int32_t z[] = {3, 3, 3, 3};

	cache(&t, &ALICE, x, 4);
	cache(&t, &ALICE, y, 4);
	cache(&t, &ALICE, z, 4);
	CHECK(llm_kv_attach(t.kv, &t.b, &ALICE, x, 4, 4) == 4);
	llm_kv_release(t.kv, &t.b);
	CHECK(extend(&t, &t.a, &ALICE, 16) == LLM_OK);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 4) == 4 && llm_kv_probe(t.kv, &ALICE, y, 4) == 0);
	CHECK(llm_kv_probe(t.kv, &ALICE, z, 4) == 4);
	CHECK(llm_kv_attach(t.kv, &t.b, &ALICE, z, 4, 4) == 4);
	CHECK(extend(&t, &t.a, &ALICE, 4) == LLM_OK);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 4) == 0 && llm_kv_probe(t.kv, &ALICE, z, 4) == 4);
	CHECK(extend(&t, &t.a, &ALICE, 1) == LLM_E_LIMIT);
	CHECK(llm_kv_probe(t.kv, &ALICE, z, 4) == 4);
	bench_free(&t);
}

/* Leaves go before what they hang on; what could not be freed anyway is spared. */
static void
test_eviction_takes_leaves_first(void)
{
	bench t = bench_create(6);
	const int32_t x[] = {1, 1, 1, 1, 2, 2, 2, 2};
	const int32_t y[] = {1, 1, 1, 1, 3, 3, 3, 3};

	cache(&t, &ALICE, x, 8);
	cache(&t, &ALICE, y, 8);
	check_pages(&t, 3, 3, 0);
	CHECK(extend(&t, &t.a, &ALICE, 16) == LLM_OK);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 8) == 4 && llm_kv_probe(t.kv, &ALICE, y, 8) == 8);
	CHECK(extend(&t, &t.a, &ALICE, 12) == LLM_E_LIMIT);
	CHECK(llm_kv_probe(t.kv, &ALICE, y, 8) == 8);
	CHECK(extend(&t, &t.a, &ALICE, 8) == LLM_OK && llm_kv_probe(t.kv, &ALICE, y, 8) == 0);
	bench_free(&t);
}

/* A pinned entry outlives any pressure, with its path, until it is unpinned. */
static void
test_pins(void)
{
	bench t = bench_create(4);
	const int32_t x[] = {1, 2, 3, 4, 5, 6, 7, 8};
	llm_error err;

	cache(&t, &ALICE, x, 3);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 2, true, &err) == LLM_E_NOT_FOUND);
	CHECK(strcmp(err.message, "no cached prefix of exactly these 2 tokens") == 0);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 0, true, NULL) == LLM_E_NOT_FOUND);
	cache(&t, &ALICE, x, 8);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 8, true, NULL) == LLM_OK);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 8, true, NULL) == LLM_OK);
	check_pages(&t, 1, 0, 3); /* x's first page twice: as it was at 3 tokens, and the copy */
	CHECK(extend(&t, &t.a, &ALICE, 5) == LLM_E_LIMIT);
	CHECK(llm_kv_drop_cache(t.kv, false) == 0 && llm_kv_probe(t.kv, &ALICE, x, 8) == 8);
	cache(&t, &ALICE, x, 6); /* cuts the pinned edge: both halves stay pinned */
	check_pages(&t, 1, 0, 3);
	verify(&t);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 8, false, NULL) == LLM_OK);
	check_pages(&t, 1, 3, 0);
	CHECK(extend(&t, &t.a, &ALICE, 16) == LLM_OK && llm_kv_probe(t.kv, &ALICE, x, 8) == 0);
	bench_free(&t);
}

/* Pins give way to a table that could not have its pages even alone, and to no other. */
static void
test_pins_give_way(void)
{
	bench t = bench_create(4);
	const int32_t x[] = {1, 2, 3, 4, 5, 6, 7, 8};

	cache(&t, &ALICE, x, 8);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 8, true, NULL) == LLM_OK);
	CHECK(!llm_kv_unpin_for(t.kv, &t.a, 8));
	CHECK(llm_kv_attach(t.kv, &t.b, &ALICE, x, 8, 8) == 8 && !llm_kv_unpin_for(t.kv, &t.b, 8));
	llm_kv_release(t.kv, &t.b);
	CHECK(llm_kv_unpin_for(t.kv, &t.a, 9) && !llm_kv_unpin_for(t.kv, &t.a, 9));
	CHECK(extend(&t, &t.a, &ALICE, 9) == LLM_OK);
	bench_free(&t);
}

/*
 * A sequence that fills the pool and shares its tail with the tree only still gets on: the tree
 * gives way.
 */
static void
test_lone_sequence_gets_its_tail(void)
{
	bench t = bench_create(2);
	const int32_t x[] = {1, 2, 3, 4, 5, 6};

	CHECK(extend(&t, &t.a, &ALICE, 6) == LLM_OK);
	CHECK(llm_kv_insert(t.kv, &t.a, &ALICE, x, 7, NULL) == LLM_E_RANGE);
	CHECK(llm_kv_insert(t.kv, &t.a, &ALICE, x, 6, NULL) == LLM_OK);
	CHECK(extend(&t, &t.a, &ALICE, 2) == LLM_OK && t.n_fixups == 0);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 6) == 0);
	bench_free(&t);
}

/* Dropping the cache frees what only the tree held; a sequence keeps its pages. */
static void
test_drop_cache(void)
{
	bench t = bench_create(8);
	const int32_t x[] = {1, 2, 3, 4, 5};

	cache(&t, &ALICE, x, 5);
	cache(&t, &BOB, x, 5);
	CHECK(llm_kv_attach(t.kv, &t.a, &ALICE, x, 5, 4) == 4);
	CHECK(llm_kv_drop_cache(t.kv, false) == 3);
	check_pages(&t, 7, 0, 0);
	CHECK(llm_kv_list(t.kv, NULL, 0) == 0);
	bench_free(&t);
}

/* What is pinned stays when the cache is dropped, unless pins are to go as well. */
static void
test_drop_pinned(void)
{
	bench t = bench_create(8);
	const int32_t x[] = {1, 2, 3, 4, 5};

	cache(&t, &ALICE, x, 5);
	cache(&t, &BOB, x, 5);
	CHECK(llm_kv_pin(t.kv, &ALICE, x, 5, true, NULL) == LLM_OK);
	CHECK(llm_kv_drop_cache(t.kv, false) == 2);
	check_pages(&t, 6, 0, 2);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 5) == 5 && llm_kv_probe(t.kv, &BOB, x, 5) == 0);
	CHECK(llm_kv_drop_cache(t.kv, true) == 2);
	check_pages(&t, 8, 0, 0);
	CHECK(llm_kv_probe(t.kv, &ALICE, x, 5) == 0);
	bench_free(&t);
}

/*
 * 20,000 entries behind one prefix: each insert and lookup stays cheap (a list of children would
 * take minutes).
 */
static void
test_many_children(void)
{
	bench t = {0};
	int32_t x[4] = {1, 2, 0, 0};

	REQUIRE(llm_kv_create(40000, 2, &t.kv, NULL) == LLM_OK);
	for (int32_t i = 0; i < 20000; i++)
	{
		x[2] = i;
		cache(&t, &ALICE, x, 4);
	}
	for (int32_t i = 0; i < 20000; i++)
	{
		x[2] = i;
		CHECK(llm_kv_probe(t.kv, &ALICE, x, 4) == 4);
	}
	check_pages(&t, 19999, 20001, 0);
	CHECK(llm_kv_drop_cache(t.kv, false) == 20001);
	llm_kv_free(t.kv);
}

#define N_TABLES 6

/* One random operation on one of the tables. */
static void
random_step(llm_kv *kv, llm_kv_table *tables, uint32_t *owner, uint64_t *rng)
{
	uint32_t i = (uint32_t) (test_random(rng) % N_TABLES);
	uint32_t k = (uint32_t) (test_random(rng) % N_TABLES);
	uint32_t n = (uint32_t) (test_random(rng) % 20);
	const llm_salt *salt = owner[i] == 0 ? &ALICE : &BOB;
	llm_kv_fixup fixups[64];
	uint32_t n_fixups = 0;
	int32_t x[400];

	for (uint32_t at = 0; at < 400; at++) /* few different texts, so that paths branch and meet */
		x[at] = (int32_t) (at < 6 ? 0 : test_random(rng) % 2);
	switch (test_random(rng) % 8)
	{
		case 0:
			llm_kv_truncate(kv, &tables[i], 0);
			owner[i] = (uint32_t) (test_random(rng) % 2);
			llm_kv_attach(kv, &tables[i], owner[i] == 0 ? &ALICE : &BOB, x, 20, n);
			break;
		case 1:
			llm_kv_truncate(kv, &tables[i], n);
			break;
		case 2:
			if (i == k)
				break;
			llm_kv_release(kv, &tables[k]);
			owner[k] = owner[i];
			(void) llm_kv_fork(kv, &tables[i], n < tables[i].n_slots ? n : tables[i].n_slots,
			                   &tables[k], NULL);
			break;
		case 3:
			(void) llm_kv_insert(kv, &tables[i], salt, x, n, NULL);
			break;
		case 4:
			(void) llm_kv_pin(kv, salt, x, n, test_random(rng) % 2, NULL);
			break;
		case 5:
			if (test_random(rng) % 16 == 0)
				llm_kv_drop_cache(kv, test_random(rng) % 2);
			break;
		default:
			(void) llm_kv_extend(kv, &tables[i], salt, n, fixups, &n_fixups, NULL);
	}
}

/* Any order of operations keeps every count; some allocations fail on the way. */
static void
test_random_operations(void)
{
	for (uint64_t seed = 1; seed <= 300; seed++)
	{
		llm_kv_table tables[N_TABLES] = {{0}};
		const llm_kv_table *all[N_TABLES];
		uint32_t owner[N_TABLES] = {0};
		uint64_t rng = seed;
		const char *wrong = NULL;
		llm_kv *kv;

		REQUIRE(llm_kv_create(4 + (uint32_t) (seed % 20), 1 + (uint32_t) (seed % 7), &kv, NULL) ==
		        LLM_OK);
		for (uint32_t i = 0; i < N_TABLES; i++)
			all[i] = &tables[i];
		for (uint32_t step = 0; step < 300 && wrong == NULL; step++)
		{
			if (test_random(&rng) % 10 == 0)
				llm_alloc_fail_after(1 + test_random(&rng) % 3, false);
			random_step(kv, tables, owner, &rng);
			llm_alloc_fail_after(0, false);
			wrong = llm_kv_verify(kv, all, N_TABLES);
			CHECK_MSG(wrong == NULL, "seed %llu: %s", (unsigned long long) seed, wrong);
		}
		for (uint32_t i = 0; i < N_TABLES; i++)
			llm_kv_release(kv, &tables[i]);
		llm_kv_free(kv);
	}
}

/*
 * Create, extend, insert, attach, fork, with the n-th allocation failing, for every n, once and
 * from then on.
 */
static void
test_allocation_failures(void)
{
	const int32_t x[] = {1, 2, 3, 4, 5, 6};

	for (uint64_t nth = 1; nth <= 40; nth++)
	{
		bench t = {0};
		llm_status status;

		llm_alloc_fail_after(nth / 2 + 1, nth % 2);
		status = llm_kv_create(8, PAGE, &t.kv, NULL);
		CHECK(status == LLM_OK || (status == LLM_E_NOMEM && t.kv == NULL));
		if (status == LLM_OK && extend(&t, &t.a, &ALICE, 6) == LLM_OK)
		{
			status = llm_kv_insert(t.kv, &t.a, &ALICE, x, 6, NULL);
			CHECK(status == LLM_OK || status == LLM_E_NOMEM);
			(void) llm_kv_insert(t.kv, &t.a, &ALICE, x, 3, NULL);
			llm_kv_attach(t.kv, &t.b, &ALICE, x, 6, 5);
			llm_kv_truncate(t.kv, &t.b, 0);
			status = llm_kv_fork(t.kv, &t.a, 5, &t.b, NULL);
			CHECK(status == LLM_OK || (status == LLM_E_NOMEM && t.b.n_pages == 0));
		}
		llm_alloc_fail_after(0, false);
		if (t.kv != NULL)
			bench_free(&t);
	}
}

/* The self-check must find what is broken on purpose. */
static void
test_verify_notices(void)
{
	bench t = bench_create(4);
	const int32_t x[] = {1, 2, 3, 4, 5};
	const llm_kv_table *both[] = {&t.a, &t.b};

	cache(&t, &ALICE, x, 5);
	CHECK(llm_kv_attach(t.kv, &t.a, &ALICE, x, 5, 5) == 5);
	verify(&t);
	CHECK(llm_kv_verify(t.kv, both, 0) != NULL); /* a table is missing: its pages have leaked */
	t.kv->pool.pages[t.a.pages[0]].tree_refs++;
	CHECK(llm_kv_verify(t.kv, both, 2) != NULL);
	t.kv->pool.pages[t.a.pages[0]].tree_refs--;
	t.kv->pool.pages[t.a.pages[0]].salt = BOB;
	CHECK(llm_kv_verify(t.kv, both, 2) != NULL);
	t.kv->pool.pages[t.a.pages[0]].salt = ALICE;
	t.a.n_slots = 4;
	CHECK(llm_kv_verify(t.kv, both, 2) != NULL);
	t.a.n_slots = 5;
	t.kv->tree.oldest->n_locks = 1;
	CHECK(llm_kv_verify(t.kv, both, 2) != NULL);
	t.kv->tree.oldest->n_locks = 0;
	bench_free(&t);
}

int
main(void)
{
	RUN(create_refuses_empty_pools);
	RUN(extend_and_truncate);
	RUN(extend_beyond_the_pool);
	RUN(fork_copies_on_write);
	RUN(fork_of_whole_pages);
	RUN(copy_without_pages);
	RUN(attach_finds_the_longest_prefix);
	RUN(attach_then_extend_copies);
	RUN(hits_are_counted);
	RUN(salts_are_apart);
	RUN(pages_are_cleared_between_salts);
	RUN(eviction_is_least_recently_used);
	RUN(eviction_takes_leaves_first);
	RUN(pins);
	RUN(pins_give_way);
	RUN(lone_sequence_gets_its_tail);
	RUN(drop_cache);
	RUN(drop_pinned);
	RUN(many_children);
	RUN(random_operations);
	RUN(allocation_failures);
	RUN(verify_notices);
	return test_summary("kv");
}
