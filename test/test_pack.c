/*
 * test_pack.c: the two bin packings against exact expectations and against quadratic versions
 * written from the text of the algorithms.
 */
#include "test.h"

#include <time.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_pack.h"

#define N_MAX 200

/* Packs and compares with what is expected of each item. */
static void
check_bins(const uint32_t *lengths, uint32_t n, uint32_t capacity, llm_pack_method method,
           const uint32_t *expected, uint32_t n_expected)
{
	uint32_t bin[N_MAX];
	uint32_t n_bins;

	REQUIRE(llm_pack_bins(lengths, n, capacity, method, bin, &n_bins, NULL) == LLM_OK);
	CHECK(n_bins == n_expected);
	for (uint32_t i = 0; i < n; i++)
		CHECK_MSG(bin[i] == expected[i], "item %u in bin %u, not %u", i, bin[i], expected[i]);
}

/*
 * 7 6 5 4 3 2 into 10: first fit 7+3, 6+4, 5+2; worst fit puts 4 beside 5, then 3 and 2 go to 6 and
 * 7.
 */
static void
test_known_packings(void)
{
	const uint32_t lengths[] = {2, 3, 4, 5, 6, 7};
	const uint32_t first[] = {2, 0, 1, 2, 1, 0};
	const uint32_t worst[] = {0, 1, 2, 2, 1, 0};

	check_bins(lengths, 6, 10, LLM_PACK_FIRST_FIT, first, 3);
	check_bins(lengths, 6, 10, LLM_PACK_WORST_FIT, worst, 3);
}

/* Nothing, one item, items of no length, items as long as a bin. */
static void
test_edges(void)
{
	const uint32_t zero[] = {0, 0, 0};
	const uint32_t full[] = {5, 5, 0, 5};
	const uint32_t same_bin[] = {0, 0, 0};
	const uint32_t full_first[] = {0, 1, 0, 2};

	check_bins(NULL, 0, 5, LLM_PACK_FIRST_FIT, NULL, 0);
	check_bins(NULL, 0, 5, LLM_PACK_WORST_FIT, NULL, 0);
	check_bins(full, 1, 5, LLM_PACK_FIRST_FIT, same_bin, 1);
	check_bins(zero, 3, 0, LLM_PACK_FIRST_FIT, same_bin, 1);
	check_bins(zero, 3, 0, LLM_PACK_WORST_FIT, same_bin, 1);
	check_bins(full, 4, 5, LLM_PACK_FIRST_FIT, full_first, 3);
	check_bins(full, 4, 5, LLM_PACK_WORST_FIT, full_first, 3);
}

/* An item longer than a bin is refused by name. */
static void
test_too_long(void)
{
	const uint32_t lengths[] = {3, 11};
	uint32_t bin[2];
	uint32_t n_bins;
	llm_error err;

	CHECK(llm_pack_bins(lengths, 2, 10, LLM_PACK_FIRST_FIT, bin, &n_bins, &err) == LLM_E_RANGE);
	CHECK(strcmp(err.message, "item 1 of 11 tokens exceeds a bin of 10") == 0);
}

/* The definition: sorted items one by one, every open bin looked at. */
static uint32_t
pack_slowly(const uint32_t *lengths, uint32_t n, uint32_t capacity, llm_pack_method method,
            uint32_t *bin)
{
	uint32_t room[N_MAX];
	bool packed[N_MAX] = {false};
	uint32_t n_bins = 0;

	for (uint32_t k = 0; k < n; k++)
	{
		uint32_t longest = n;
		uint32_t best = UINT32_MAX;

		for (uint32_t i = 0; i < n; i++)
			if (!packed[i] && (longest == n || lengths[i] > lengths[longest]))
				longest = i;
		for (uint32_t b = 0; b < n_bins; b++)
			if (room[b] >= lengths[longest] &&
			    (best == UINT32_MAX || (method == LLM_PACK_WORST_FIT && room[b] > room[best])))
				best = b;
		if (best == UINT32_MAX)
			room[best = n_bins++] = capacity;
		room[best] -= lengths[longest];
		packed[longest] = true;
		bin[longest] = best;
	}
	return n_bins;
}

/* Random items: the same bins as the definition, in both methods. */
static void
test_random_equals_definition(void)
{
	uint64_t rng = 7;

	for (uint32_t round = 0; round < 400; round++)
	{
		uint32_t n = (uint32_t) (test_random(&rng) % N_MAX);
		uint32_t capacity = 1 + (uint32_t) (test_random(&rng) % 50);
		uint32_t lengths[N_MAX];
		uint32_t expected[N_MAX];

		for (uint32_t i = 0; i < n; i++)
			lengths[i] = (uint32_t) (test_random(&rng) % (capacity + 1));
		for (int method = LLM_PACK_FIRST_FIT; method <= LLM_PACK_WORST_FIT; method++)
		{
			uint32_t n_bins = pack_slowly(lengths, n, capacity, (llm_pack_method) method, expected);

			check_bins(lengths, n, capacity, (llm_pack_method) method, expected, n_bins);
		}
	}
}

/*
 * The bound of first fit on a case whose optimum is known: 6 bins of 1/2+ε, 1/4+2ε, 1/4+ε, 1/4-2ε
 * pieces.
 */
static void
test_first_fit_bound(void)
{
	uint32_t lengths[30];
	uint32_t bin[30];
	uint32_t n_bins;

	for (uint32_t i = 0; i < 6; i++)
	{
		lengths[i] = 51;
		lengths[6 + i] = 27;
		lengths[12 + i] = 26;
		lengths[18 + 2 * i] = lengths[19 + 2 * i] = 23;
	}
	/*
	 * Optimum 9: six of 51 + 26 + 23, three of 27 + 27 + 23 + 23. First fit decreasing needs 11 =
	 * 11/9 of it.
	 */
	REQUIRE(llm_pack_bins(lengths, 30, 100, LLM_PACK_FIRST_FIT, bin, &n_bins, NULL) == LLM_OK);
	CHECK(n_bins == 11);
}

/* 200,000 items take a fraction of a second; a quadratic packing would take minutes. */
static void
test_large(void)
{
	uint32_t n = 200000;
	uint32_t *lengths = llm_malloc_array(n, sizeof(*lengths));
	uint32_t *bin = llm_malloc_array(n, sizeof(*bin));
	uint64_t rng = 3;
	clock_t start = clock();

	for (uint32_t i = 0; i < n; i++)
		lengths[i] = 1 + (uint32_t) (test_random(&rng) % 4096);
	for (int method = LLM_PACK_FIRST_FIT; method <= LLM_PACK_WORST_FIT; method++)
	{
		uint32_t n_bins = 0;

		CHECK(llm_pack_bins(lengths, n, 4096, (llm_pack_method) method, bin, &n_bins, NULL) ==
		      LLM_OK);
		CHECK(n_bins >= n / 2 && n_bins < n * 2 / 3);
	}
	CHECK((double) (clock() - start) / CLOCKS_PER_SEC < 5);
	llm_free(lengths);
	llm_free(bin);
}

/* Each failing allocation is reported, and nothing leaks. */
static void
test_allocation_failures(void)
{
	const uint32_t lengths[] = {3, 2, 1};
	uint32_t bin[3];
	uint32_t n_bins;
	uint64_t nth = 0;
	llm_status status;

	do
	{
		llm_alloc_fail_after(++nth, false);
		status = llm_pack_bins(lengths, 3, 4, LLM_PACK_FIRST_FIT, bin, &n_bins, NULL);
		llm_alloc_fail_after(0, false);
		CHECK(status == LLM_OK || status == LLM_E_NOMEM);
	} while (status != LLM_OK && nth < 10);
	CHECK(nth == 3);
}

int
main(void)
{
	RUN(known_packings);
	RUN(edges);
	RUN(too_long);
	RUN(random_equals_definition);
	RUN(first_fit_bound);
	RUN(large);
	RUN(allocation_failures);
	return test_summary("pack");
}
