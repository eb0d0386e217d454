/*
 * test_draft.c: prompt lookup finds the longest recent match, incrementally as in one piece.
 *
 * A search by definition over the whole sequence says what the proposal must be.
 */
#include "llm_alloc.h"
#include "llm_draft.h"
#include "test.h"

/* The latest place that agrees longest (4 down to 2 tokens) with the end; −1: none. */
static int
search(const int32_t *t, int n)
{
	for (int length = 4; length >= 2; length--)
		for (int at = n - 2; at >= length - 1; at--)
			if (memcmp(t + at - length + 1, t + n - length, (size_t) length * sizeof(*t)) == 0)
				return at;
	return -1;
}

/* Proposals equal the search at every length, whether tokens come at once or one by one. */
static void
test_matches(void)
{
	int32_t t[24];
	uint64_t seed = 1;

	for (int round = 0; round < 3000; round++)
	{
		llm_draft *d, *whole;
		int n_start = (int) (test_random(&seed) % 12), kinds = 1 + (int) (test_random(&seed) % 5);

		for (int i = 0; i < 24; i++)
			t[i] = (int32_t) (test_random(&seed) % (uint64_t) kinds) - 1;
		REQUIRE(llm_draft_create(t, (uint32_t) n_start, &d, NULL) == LLM_OK);
		for (int n = n_start; n <= 24; n++)
		{
			int32_t out[8], again[8];
			uint32_t n_out = llm_draft_propose(d, out, 4);
			int at = search(t, n);

			CHECK((n_out == 4) == (at >= 0) && (n_out == 0) == (at < 0));
			for (int i = 0; i < (int) n_out; i++)
				CHECK(out[i] == (at + 1 + i < n ? t[at + 1 + i] : out[at + 1 + i - n]));
			REQUIRE(llm_draft_create(t, (uint32_t) n, &whole, NULL) == LLM_OK);
			CHECK(llm_draft_propose(whole, again, 4) == n_out &&
			      memcmp(out, again, n_out * sizeof(*out)) == 0);
			llm_draft_free(whole);
			if (n < 24)
				CHECK(llm_draft_append(d, t[n], NULL) == LLM_OK);
		}
		llm_draft_free(d);
	}
}

/* The length grows with acceptance, shrinks and pauses without, and comes back. */
static void
test_adapts(void)
{
	static const int32_t run[] = {1, 2, 1, 2, 1, 2};
	int32_t out[LLM_DRAFT_MAX], next = 1;
	llm_draft *d;

	REQUIRE(llm_draft_create(run, 6, &d, NULL) == LLM_OK);
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 4);
	llm_draft_feedback(d, 4, 4);
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 8);
	CHECK(out[0] == 1 && out[1] == 2 && out[6] == 1 && out[7] == 2);
	CHECK(llm_draft_propose(d, out, 3) == 3);
	CHECK(llm_draft_propose(d, out, 0) == 0);
	llm_draft_feedback(d, 8, 2);
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 3);
	llm_draft_feedback(d, 3, 0);
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 1);
	for (int n_pause = 1; n_pause <= 4; n_pause *= 2)
	{
		llm_draft_feedback(d, 1, 0);
		for (int i = 0; i < n_pause; i++)
		{
			CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 0);
			CHECK(llm_draft_append(d, next, NULL) == LLM_OK);
			next = 3 - next;
		}
		CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 1);
	}
	llm_draft_free(d);
}

/*
 * From the start refusals make it pause, never beyond 64 tokens; one that passes ends the pauses.
 */
static void
test_pauses(void)
{
	static const int32_t run[] = {1, 1, 1, 1};
	static const uint32_t pauses[] = {1, 2, 4, 8, 16, 32, 64, 64, 64};
	int32_t out[LLM_DRAFT_MAX];
	llm_draft *d;

	REQUIRE(llm_draft_create(run, 4, &d, NULL) == LLM_OK);
	llm_draft_feedback(d, 0, 0); /* nothing was proposed: nothing was refused */
	for (uint32_t length = 4; length > 0; length /= 2)
	{
		CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == length);
		if (length > 1)
			llm_draft_feedback(d, length, 0);
	}
	for (size_t i = 0; i < sizeof(pauses) / sizeof(pauses[0]); i++)
	{
		uint32_t n = 0;

		llm_draft_feedback(d, 1, 0);
		for (; llm_draft_propose(d, out, LLM_DRAFT_MAX) == 0 && n < 1000; n++)
			CHECK(llm_draft_append(d, 1, NULL) == LLM_OK);
		CHECK_MSG(n == pauses[i], "pause %zu: %u", i, n);
	}
	llm_draft_feedback(d, 1, 1);
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 2);
	llm_draft_feedback(d, 2, 0);
	llm_draft_feedback(d, 1, 0); /* pauses begin anew, at one token */
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 0);
	CHECK(llm_draft_append(d, 1, NULL) == LLM_OK);
	CHECK(llm_draft_propose(d, out, LLM_DRAFT_MAX) == 1);
	llm_draft_free(d);
}

/* Acceptance doubles the length up to the limit, never beyond what a caller's array holds. */
static void
test_longest(void)
{
	static const int32_t run[] = {1, 1, 1, 1};
	int32_t out[LLM_DRAFT_MAX + 1] = {0};
	llm_draft *d;

	REQUIRE(llm_draft_create(run, 4, &d, NULL) == LLM_OK);
	for (uint32_t i = 0; i < 10; i++)
	{
		uint32_t n = llm_draft_propose(d, out, UINT32_MAX);

		CHECK(n <= LLM_DRAFT_MAX && out[LLM_DRAFT_MAX] == 0);
		llm_draft_feedback(d, n, n);
	}
	CHECK(llm_draft_propose(d, out, UINT32_MAX) == LLM_DRAFT_MAX);
	llm_draft_feedback(d, LLM_DRAFT_MAX, LLM_DRAFT_MAX - 1);
	CHECK(llm_draft_propose(d, out, UINT32_MAX) == LLM_DRAFT_MAX);
	llm_draft_free(d);
}

/* Growing far keeps what was indexed; memory that is not there is told and changes nothing. */
static void
test_grows(void)
{
	int32_t out[LLM_DRAFT_MAX];
	llm_draft *d;

	llm_alloc_fail_after(1, true);
	CHECK(llm_draft_create(NULL, 0, &d, NULL) == LLM_E_NOMEM && d == NULL);
	llm_alloc_fail_after(2, true);
	CHECK(llm_draft_create(NULL, 0, &d, NULL) == LLM_E_NOMEM && d == NULL);
	llm_alloc_fail_after(0, false);
	REQUIRE(llm_draft_create(NULL, 0, &d, NULL) == LLM_OK);
	for (int32_t i = 0; i < 5000; i++)
	{
		llm_status status;

		llm_alloc_fail_after(1 + (uint64_t) (i & 1), false);
		status = llm_draft_append(d, i, NULL);
		llm_alloc_fail_after(0, false);
		if (status != LLM_OK)
			CHECK(status == LLM_E_NOMEM && llm_draft_append(d, i, NULL) == LLM_OK);
		CHECK(llm_draft_propose(d, out, 2) == 0);
	}
	CHECK(llm_draft_append(d, 7, NULL) == LLM_OK && llm_draft_append(d, 8, NULL) == LLM_OK);
	CHECK(llm_draft_propose(d, out, 2) == 2 && out[0] == 9 && out[1] == 10);
	llm_draft_free(d);
}

int
main(void)
{
	RUN(matches);
	RUN(adapts);
	RUN(pauses);
	RUN(longest);
	RUN(grows);
	return test_summary("draft");
}
