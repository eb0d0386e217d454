/*
 * test_sched.c: the scheduler's rules one by one, with exact passes; fairness and starvation under
 * steady load; cost of large jobs. What holds under any mixture of events is tested in test_sim.c.
 */
#include "test.h"

#include <time.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_sched.h"

#define PAGE 4

/* A scheduler over a pool of its own, and the pass it formed last. */
typedef struct bench
{
	llm_kv *kv;
	llm_sched *sched;
	const llm_work *work;
	const llm_kv_fixup *fixups;
	uint32_t n;
	uint32_t n_fixups;
} bench;

static int32_t text[20000]; /* 0 1 2 …: the tokens of all prompts */

/* A scheduler with one budget for both classes. */
static bench
bench_create(uint32_t n_pages, uint32_t budget)
{
	llm_sched_params params = {.budget_tokens = budget, .max_segments = 64, .max_queued = 4096};
	bench t = {0};

	for (int32_t i = 0; i < 20000; i++)
		text[i] = i;
	CHECK(llm_kv_create(n_pages, PAGE, &t.kv, NULL) == LLM_OK);
	CHECK(llm_sched_create(t.kv, &params, &t.sched, NULL) == LLM_OK);
	return t;
}

/* Runs the self-check, ends everything, and sees that no page is lost. */
static void
bench_free(bench *t)
{
	const char *wrong = llm_sched_verify(t->sched);
	llm_kv_stats stats;

	CHECK_MSG(wrong == NULL, "%s", wrong);
	llm_sched_free(t->sched);
	llm_kv_drop_cache(t->kv, true);
	llm_kv_get_stats(t->kv, &stats);
	CHECK(stats.n_free == stats.n_pages);
	llm_kv_free(t->kv);
}

/* A batch request of n tokens of caller 1; tests change what they are about. */
static llm_sched_request
request(uint32_t n)
{
	return (llm_sched_request){
	    .class_ = LLM_CLASS_BATCH, .caller = 1, .job = 1, .tokens = text, .n_tokens = n};
}

/* Submits one request, which must be taken. */
static uint64_t
submit(bench *t, llm_sched_request r)
{
	uint64_t id = 0;
	llm_error err = {0};

	CHECK_MSG(llm_sched_submit(t->sched, &r, 1, &id, &err) == LLM_OK, "%s", err.message);
	return id;
}

/* Forms the next pass. */
static uint32_t
next(bench *t)
{
	t->n = llm_sched_next(t->sched, &t->work, &t->fixups, &t->n_fixups);
	return t->n;
}

/* Checks piece i of the pass. */
static void
check_piece(const bench *t, uint32_t i, uint64_t id, uint32_t start, uint32_t n, bool completes)
{
	REQUIRE(i < t->n);
	CHECK_MSG(t->work[i].id == id && t->work[i].start == start && t->work[i].n_tokens == n &&
	              t->work[i].completes == completes,
	          "piece %u: id %llx (not %llx) start %u n %u%s", i, (unsigned long long) t->work[i].id,
	          (unsigned long long) id, t->work[i].start, t->work[i].n_tokens,
	          t->work[i].completes ? " completes" : "");
}

/* Ends the pass: every completed piece gets one more token if go_on, else it finishes. */
static void
done(bench *t, bool go_on)
{
	const int32_t token = 7;

	for (uint32_t i = 0; i < t->n && go_on; i++)
		if (t->work[i].completes)
			(void) llm_sched_append(t->sched, t->work[i].id, 0, &token, 1, 0, NULL);
	llm_sched_done(t->sched);
}

/* The tokens of the pass that belong to sequences with this user pointer. */
static uint32_t
tokens_of(const bench *t, const void *user)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->n; i++)
		n += t->work[i].user == user ? t->work[i].n_tokens : 0;
	return n;
}

/* The position of id in the pass, or n. */
static uint32_t
find(const bench *t, uint64_t id)
{
	uint32_t i = 0;

	while (i < t->n && t->work[i].id != id)
		i++;
	return i;
}

/* Sequences that wait or run. */
static uint32_t
n_live(const bench *t)
{
	llm_sched_stats stats;

	llm_sched_get_stats(t->sched, &stats);
	return stats.n_waiting + stats.n_running;
}

/* One prompt, one pass; nothing appended: it ends by itself. */
static void
test_one_prompt(void)
{
	bench t = bench_create(8, 100);
	llm_sched_request r = request(10);
	llm_sched_stats stats;
	uint64_t id;

	CHECK(next(&t) == 0);
	r.user = &t;
	id = submit(&t, r);
	CHECK(id != 0 && next(&t) == 1 && t.n_fixups == 0);
	check_piece(&t, 0, id, 0, 10, true);
	CHECK(t.work[0].user == &t && memcmp(t.work[0].tokens, text, 40) == 0);
	CHECK(next(&t) == 0); /* the pass is not done */
	done(&t, false);
	llm_sched_get_stats(t.sched, &stats);
	CHECK(stats.n_passes == 1 && stats.n_tokens == 10 && stats.n_waiting + stats.n_running == 0);
	CHECK(next(&t) == 0);
	bench_free(&t);
}

/* What cannot be right or can never run is refused at submit, with all of its job. */
static void
test_submit_refuses(void)
{
	bench t = bench_create(8, 20);
	llm_sched_params params = {.budget_tokens = 20, .max_segments = 4, .max_queued = 3};
	llm_sched_request r[3] = {request(5), request(33), request(5)};
	uint64_t ids[3];
	llm_error err;

	CHECK(llm_sched_submit(t.sched, r, 3, ids, &err) == LLM_E_LIMIT);
	CHECK(strcmp(err.message,
	             "a sequence of 33 tokens does not fit the KV cache of 8 pages of 4") == 0);
	r[1] = request(30);
	r[1].max_new = 3;
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_LIMIT);
	r[1].max_new = UINT32_MAX;
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_LIMIT);
	r[1] = request(0);
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_RANGE);
	r[1] = request(5);
	r[1].n_shared = 6;
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_RANGE);
	r[1] = request(30);
	r[1].n_atomic = 21;
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_LIMIT);
	r[1] = request(5);
	r[1].class_ = (llm_class) 2;
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_RANGE);
	CHECK(n_live(&t) == 0);
	llm_sched_set_params(t.sched, &params);
	submit(&t, request(32));
	r[1] = request(5);
	CHECK(llm_sched_submit(t.sched, r, 3, ids, NULL) == LLM_E_BUSY && n_live(&t) == 1);
	CHECK(llm_sched_submit(t.sched, r, 2, ids, NULL) == LLM_OK && n_live(&t) == 3);
	bench_free(&t);
}

/* 250 tokens over passes of 100 run as 84, 83, 83, not as 100, 100, 50. */
static void
test_chunks_are_equal(void)
{
	bench t = bench_create(100, 100);
	uint64_t id = submit(&t, request(250));

	next(&t);
	check_piece(&t, 0, id, 0, 84, false);
	done(&t, false);
	next(&t);
	check_piece(&t, 0, id, 84, 83, false);
	done(&t, false);
	next(&t);
	check_piece(&t, 0, id, 167, 83, true);
	done(&t, false);
	CHECK(n_live(&t) == 0);
	bench_free(&t);
}

/* Prompts fill a pass to the token: the last is cut, and goes on first. */
static void
test_prompts_fill_the_pass(void)
{
	bench t = bench_create(100, 100);
	uint64_t a = submit(&t, request(60));
	uint64_t b = submit(&t, request(60));
	uint64_t c = submit(&t, request(60));

	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 0, 60, true);
	check_piece(&t, 1, b, 0, 40, false);
	done(&t, false);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, b, 40, 20, true);
	check_piece(&t, 1, c, 0, 60, true);
	done(&t, false);
	bench_free(&t);
}

/* A running sequence gets its token before any prompt gets what is left. */
static void
test_decode_comes_first(void)
{
	bench t = bench_create(100, 50);
	llm_sched_request r = request(10);
	uint64_t a, b;

	r.max_new = 5;
	a = submit(&t, r);
	next(&t);
	done(&t, true);
	b = submit(&t, request(100));
	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 10, 1, true);
	check_piece(&t, 1, b, 0, 49, false);
	CHECK(t.work[0].tokens[0] == 7);
	done(&t, true);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 11, 1, true);
	check_piece(&t, 1, b, 49, 26, false); /* 51 left in two passes: 26 + 25 */
	done(&t, true);
	bench_free(&t);
}

/* The interactive class comes first and lowers the budget; batch work gets what is left of it. */
static void
test_interactive_overtakes(void)
{
	bench t = bench_create(100, 100);
	llm_sched_params params = {.budget_tokens = 100,
	                           .budget_interactive = 40,
	                           .max_segments = 64,
	                           .max_queued = 64};
	llm_sched_request r = request(30);
	uint64_t a, b;

	llm_sched_set_params(t.sched, &params);
	a = submit(&t, request(90));
	r.class_ = LLM_CLASS_INTERACTIVE;
	b = submit(&t, r);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, b, 0, 30, true);
	check_piece(&t, 1, a, 0, 10, false);
	done(&t, false);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, a, 10, 80, true);
	done(&t, false);
	bench_free(&t);
}

/* Atomic tails are never cut: what stands before them is, and a tail that does not fit waits. */
static void
test_atomic_tails(void)
{
	bench t = bench_create(100, 25);
	llm_sched_request r = request(12);
	uint64_t a, b, c;

	a = submit(&t, request(20));
	r.n_atomic = 10;
	b = submit(&t, r);
	r = request(8);
	r.n_atomic = 8;
	c = submit(&t, r);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 0, 20, true);
	check_piece(&t, 1, b, 0, 2, false); /* 5 would fit, but 3 of them are of the tail */
	done(&t, false);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, b, 2, 10, true);
	check_piece(&t, 1, c, 0, 8, true);
	done(&t, false);
	bench_free(&t);
}

/*
 * A tail beyond the interactive budget may use the whole one; one beyond that has a pass to itself.
 */
static void
test_wide_tails(void)
{
	bench t = bench_create(100, 50);
	llm_sched_params params = {.budget_tokens = 50,
	                           .budget_interactive = 10,
	                           .max_segments = 64,
	                           .max_queued = 64};
	llm_sched_request r = request(4);
	uint64_t a, b;

	llm_sched_set_params(t.sched, &params);
	r.class_ = LLM_CLASS_INTERACTIVE;
	a = submit(&t, r);
	r = request(40);
	r.n_atomic = 40;
	b = submit(&t, r);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 0, 4, true);
	check_piece(&t, 1, b, 0, 40, true);
	done(&t, false);
	b = submit(&t, r);
	params.budget_tokens = 20;
	llm_sched_set_params(t.sched, &params);
	submit(&t, request(10));
	CHECK(next(&t) == 1);
	check_piece(&t, 0, b, 0, 40, true);
	done(&t, false);
	bench_free(&t);
}

/*
 * Two callers with 100 prompts each get the same number of tokens, pass by pass, whatever the
 * prompts' sizes.
 */
static void
test_callers_take_turns(void)
{
	bench t = bench_create(4000, 160);
	uint64_t served[2] = {0};
	int users[2];

	for (uint32_t i = 0; i < 100; i++)
		for (uint32_t c = 0; c < 2; c++)
		{
			llm_sched_request r = request(c == 0 ? 10 : 35);

			r.caller = c;
			r.user = &users[c];
			submit(&t, r);
		}
	for (uint32_t pass = 0; pass < 12; pass++)
	{
		next(&t);
		for (uint32_t c = 0; c < 2; c++)
			served[c] += tokens_of(&t, &users[c]);
		if (served[0] == 1000)
			break;
		CHECK_MSG(served[0] + 70 > served[1] && served[1] + 70 > served[0], "%llu and %llu",
		          (unsigned long long) served[0], (unsigned long long) served[1]);
		done(&t, false);
	}
	CHECK(served[0] + served[1] >= 12 * 150);
	bench_free(&t);
}

/* A caller with 3 rows does not wait behind a job of 1,000. */
static void
test_small_callers_do_not_wait(void)
{
	bench t = bench_create(4000, 160);
	int small;

	for (uint32_t i = 0; i < 1000; i++)
		submit(&t, request(10));
	for (uint32_t i = 0; i < 3; i++)
	{
		llm_sched_request r = request(20);

		r.caller = 2;
		r.user = &small;
		submit(&t, r);
	}
	next(&t);
	CHECK(tokens_of(&t, &small) == 60);
	done(&t, false);
	bench_free(&t);
}

/* While running sequences fill the pass no new one starts; what fits beside them does. */
static void
test_decode_before_new_prompts(void)
{
	bench t = bench_create(100, 4);
	llm_sched_request r = request(1);
	uint64_t ids[10];
	uint32_t n_steps[10] = {0};

	r.max_new = 10;
	for (uint32_t i = 0; i < 10; i++)
		ids[i] = submit(&t, r);
	for (uint32_t pass = 0; pass < 20; pass++)
	{
		CHECK(next(&t) == 4);
		for (uint32_t i = 0; i < 10; i++)
			n_steps[i] += find(&t, ids[i]) < t.n;
		done(&t, true);
	}
	/* The first 4 have had their 11 steps, then the next 4 had 9. */
	CHECK(n_steps[0] == 11 && n_steps[3] == 11 && n_steps[4] == 9 && n_steps[8] == 0);
	bench_free(&t);
}

/* More running sequences than a pass has room for: they take turns, also within a caller. */
static void
test_decode_takes_turns(void)
{
	bench t = bench_create(100, 9);
	llm_sched_request r = request(1);
	uint64_t ids[9];
	uint32_t n_steps[9] = {0};

	r.max_new = 10;
	for (uint32_t i = 0; i < 9; i++)
	{
		r.caller = i < 6;
		ids[i] = submit(&t, r);
	}
	CHECK(next(&t) == 9);
	done(&t, true);
	llm_sched_set_params(t.sched, &(llm_sched_params){.budget_tokens = 3,
	                                                  .max_segments = 9,
	                                                  .max_queued = 9});
	for (uint32_t pass = 0; pass < 6; pass++)
	{
		CHECK(next(&t) == 3);
		for (uint32_t i = 0; i < 9; i++)
			n_steps[i] += find(&t, ids[i]) < t.n;
		done(&t, true);
	}
	/* 18 tokens: 9 for each caller, of 6 and of 3 sequences. */
	for (uint32_t i = 0; i < 9; i++)
		CHECK_MSG(i < 6 ? n_steps[i] == 1 || n_steps[i] == 2 : n_steps[i] == 3, "%u: %u", i,
		          n_steps[i]);
	bench_free(&t);
}

/* Submits rows of one job that share n_shared tokens; token n_shared of row i is -i. */
static void
submit_rows(bench *t, uint32_t n_rows, uint32_t n_shared, uint32_t n_own, uint64_t *ids)
{
	int32_t rows[16][64];
	llm_sched_request reqs[16];

	for (uint32_t i = 0; i < n_rows; i++)
	{
		memcpy(rows[i], text, sizeof(rows[i]));
		rows[i][n_shared] = -(int32_t) i;
		reqs[i] = request(n_shared + n_own);
		reqs[i].tokens = rows[i];
		reqs[i].n_shared = n_shared;
	}
	CHECK(llm_sched_submit(t->sched, reqs, n_rows, ids, NULL) == LLM_OK);
}

/*
 * In the pass that computes the prefix, followers share its whole pages; later ones all of it, with
 * a copy.
 */
static void
test_prefix_is_computed_once(void)
{
	bench t = bench_create(100, 40);
	uint64_t ids[8];
	llm_sched_stats stats;

	submit_rows(&t, 8, 10, 3, ids);
	CHECK(next(&t) == 7 && t.n_fixups == 0);
	check_piece(&t, 0, ids[0], 0, 13, true);
	for (uint32_t i = 1; i < 6; i++)
	{
		check_piece(&t, i, ids[i], 8, 5, true);
		CHECK(memcmp(t.work[i].pages, t.work[0].pages, 2 * sizeof(uint32_t)) == 0);
		CHECK(t.work[i].pages[2] != t.work[0].pages[2]);
	}
	check_piece(&t, 6, ids[6], 8, 2, false);
	done(&t, false);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, ids[6], 10, 3, true);
	check_piece(&t, 1, ids[7], 10, 3, true);
	REQUIRE(t.n_fixups == 1);
	CHECK(t.fixups[0].kind == LLM_KV_COPY && t.fixups[0].n_slots == 2);
	CHECK(t.fixups[0].dst_page == t.work[1].pages[2]);
	CHECK(llm_sched_shared_tokens(t.sched, ids[6]) == 8);
	CHECK(llm_sched_shared_tokens(t.sched, ids[7]) == 10);
	done(&t, false);
	llm_sched_get_stats(t.sched, &stats);
	CHECK(stats.n_shared_tokens == 6 * 8 + 10 && stats.n_tokens == 8 * 13 - stats.n_shared_tokens);
	CHECK(llm_sched_shared_tokens(t.sched, ids[7]) == 0); /* gone */
	bench_free(&t);
}

/* Followers of a prefix that is longer than a pass wait; other work does not. */
static void
test_followers_wait_for_long_prefixes(void)
{
	bench t = bench_create(100, 20);
	uint64_t ids[3];
	uint64_t other;

	submit_rows(&t, 3, 30, 2, ids);
	other = submit(&t, request(5));
	CHECK(next(&t) == 2);
	check_piece(&t, 0, ids[0], 0, 16, false);
	check_piece(&t, 1, other, 0, 4, false);
	done(&t, false);
	CHECK(next(&t) == 3);
	check_piece(&t, 0, ids[0], 16, 16, true);
	check_piece(&t, 1, other, 4, 1, true);
	check_piece(&t, 2, ids[1], 28, 3, false);
	done(&t, false);
	bench_free(&t);
}

/* A leader that is cancelled half way leaves its role to the next. */
static void
test_leader_is_replaced(void)
{
	bench t = bench_create(100, 20);
	uint64_t ids[3];

	submit_rows(&t, 3, 30, 2, ids);
	CHECK(next(&t) == 1);
	llm_sched_cancel(t.sched, ids[0]);
	done(&t, false);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, ids[1], 0, 16, false);
	done(&t, false);
	llm_sched_cancel(t.sched, ids[1]);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, ids[2], 0, 16, false);
	done(&t, false);
	bench_free(&t);
}

/* A leader cancelled in the pass that completes the prefix still leaves it to the tree. */
static void
test_cancelled_leader_leaves_its_prefix(void)
{
	bench t = bench_create(100, 13);
	uint64_t ids[2];

	submit_rows(&t, 2, 10, 3, ids);
	CHECK(next(&t) == 1);
	llm_sched_cancel(t.sched, ids[0]);
	done(&t, false);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, ids[1], 10, 3, true);
	done(&t, false);
	bench_free(&t);
}

/* n_shared = 0 neither asks nor fills the tree; another salt finds nothing. */
static void
test_what_is_not_shared(void)
{
	bench t = bench_create(100, 100);
	llm_sched_request r = request(12);
	uint64_t id;

	r.n_shared = 12;
	submit(&t, r);
	next(&t);
	done(&t, false);
	id = submit(&t, request(12));
	next(&t);
	check_piece(&t, 0, id, 0, 12, true);
	done(&t, false);
	r.salt.bytes[3] = 1;
	id = submit(&t, r);
	next(&t);
	check_piece(&t, 0, id, 0, 12, true);
	done(&t, false);
	r.salt.bytes[3] = 0;
	id = submit(&t, r);
	next(&t);
	check_piece(&t, 0, id, 11, 1, true); /* the last token is computed for its logits */
	done(&t, false);
	bench_free(&t);
}

/* A long prompt that finds no pages for its chunk lets a short one pass, but not for ever. */
static void
test_no_head_of_line_blocking(void)
{
	bench t = bench_create(20, 100);
	llm_sched_request r = request(40);
	uint64_t runner, large, small;
	uint32_t n_passed = 0;

	r.max_new = 40;
	runner = submit(&t, r);
	next(&t);
	done(&t, true);
	r = request(60);
	r.job = 2;
	large = submit(&t, r); /* 15 pages, 9 are free */
	r = request(4);
	for (uint32_t pass = 0; pass < 60; pass++)
	{
		r.job = 3 + pass;
		small = submit(&t, r);
		next(&t);
		if (find(&t, large) < t.n)
			break;
		n_passed += find(&t, small) < t.n;
		CHECK(pass > 0 || find(&t, small) < t.n);
		CHECK(find(&t, runner) < t.n || pass >= 40);
		done(&t, true);
	}
	CHECK(find(&t, large) < t.n); /* when the runner has ended */
	CHECK(n_passed == 7);         /* the eighth refusal holds the others back */
	bench_free(&t);
}

/*
 * Out of pages: the youngest batch sequence goes back, and is recomputed with what it had
 * generated.
 */
static void
test_youngest_is_put_back(void)
{
	bench t = bench_create(5, 100);
	llm_sched_request r = request(7);
	uint64_t a, b;
	llm_sched_stats stats;

	r.max_new = 9;
	a = submit(&t, r);
	b = submit(&t, r);
	CHECK(next(&t) == 2); /* 2 pages each, 1 left for the first to grow */
	done(&t, true);
	CHECK(next(&t) == 2);
	done(&t, true);
	CHECK(next(&t) == 1); /* slot 9 of both: a takes the last page, b finds none and waits */
	check_piece(&t, 0, a, 8, 1, true);
	done(&t, true);
	for (uint32_t i = 9; i < 12; i++)
	{
		CHECK(next(&t) == 1);
		check_piece(&t, 0, a, i, 1, true);
		done(&t, true);
	}
	CHECK(next(&t) == 1); /* slot 13: a needs a fourth page, and b's are given back */
	check_piece(&t, 0, a, 12, 1, true);
	llm_sched_get_stats(t.sched, &stats);
	CHECK(stats.n_preempted == 1 && stats.n_waiting == 1 && stats.n_waiting_tokens == 9);
	llm_sched_finish(t.sched, a);
	done(&t, false);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, b, 0, 9, true);
	CHECK(t.work[0].tokens[6] == 6 && t.work[0].tokens[7] == 7 && t.work[0].tokens[8] == 7);
	done(&t, false);
	bench_free(&t);
}

/* An interactive prompt takes the pages of batch work at once, not the other way round. */
static void
test_interactive_takes_pages(void)
{
	bench t = bench_create(4, 100);
	llm_sched_request r = request(12);
	uint64_t a, b;

	r.max_new = 4;
	a = submit(&t, r);
	next(&t);
	done(&t, true);
	r.class_ = LLM_CLASS_INTERACTIVE;
	b = submit(&t, r);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, b, 0, 12, true);
	done(&t, true);
	CHECK(next(&t) == 1 && t.work[0].id == b);
	llm_sched_finish(t.sched, b);
	done(&t, false);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, a, 0, 13, true);
	done(&t, true);
	bench_free(&t);
}

/* Drafts run with their token; what is accepted keeps its slots, the rest is overwritten. */
static void
test_drafts(void)
{
	bench t = bench_create(20, 8);
	llm_sched_request r = request(6);
	const int32_t tokens[] = {100, 101, 102, 103};
	uint64_t id;

	r.max_new = 8;
	id = submit(&t, r);
	next(&t);
	CHECK(llm_sched_append(t.sched, id, 1, tokens, 4, 3, NULL) == LLM_E_RANGE);
	CHECK(llm_sched_append(t.sched, id, 0, tokens, 4, 4, NULL) == LLM_E_RANGE);
	CHECK(llm_sched_append(t.sched, id, 0, tokens, 0, 0, NULL) == LLM_E_RANGE);
	CHECK(llm_sched_append(t.sched, id, 0, tokens, 4, 3, NULL) == LLM_OK);
	CHECK(llm_sched_append(t.sched, id, 0, tokens, 1, 0, NULL) == LLM_E_NOT_FOUND);
	llm_sched_done(t.sched);
	next(&t);
	check_piece(&t, 0, id, 6, 4, true);
	CHECK(t.work[0].n_draft == 3 && memcmp(t.work[0].tokens, tokens, sizeof(tokens)) == 0);
	CHECK(llm_sched_append(t.sched, id, 1, tokens + 3, 1, 0, NULL) == LLM_OK);
	llm_sched_done(t.sched);
	next(&t);
	check_piece(&t, 0, id, 8, 1, true);
	CHECK(t.work[0].n_draft == 0 && t.work[0].tokens[0] == 103);
	/* 9 of 14 tokens known: 5 may follow, of which a pass of 3 tokens runs 2 drafts. */
	CHECK(llm_sched_append(t.sched, id, 0, text, 6, 5, NULL) == LLM_E_RANGE);
	CHECK(llm_sched_append(t.sched, id, 0, text, 5, 4, NULL) == LLM_OK);
	llm_sched_done(t.sched);
	llm_sched_set_params(t.sched, &(llm_sched_params){.budget_tokens = 3,
	                                                  .max_segments = 4,
	                                                  .max_queued = 4});
	next(&t);
	check_piece(&t, 0, id, 9, 3, true);
	CHECK(t.work[0].n_draft == 2);
	llm_sched_done(t.sched);
	bench_free(&t);
}

/* Cancel acts at once outside a pass, at its end inside; finished and unknown ids are ignored. */
static void
test_cancel(void)
{
	bench t = bench_create(20, 100);
	llm_sched_request r = request(6);
	const int32_t token = 1;
	uint64_t a, b;

	r.max_new = 8;
	a = submit(&t, r);
	b = submit(&t, r);
	llm_sched_cancel(t.sched, a);
	CHECK(n_live(&t) == 1 && next(&t) == 1 && t.work[0].id == b);
	llm_sched_cancel(t.sched, b);
	CHECK(n_live(&t) == 1);
	CHECK(llm_sched_append(t.sched, b, 0, &token, 1, 0, NULL) == LLM_E_CANCELLED);
	done(&t, true);
	CHECK(n_live(&t) == 0 && next(&t) == 0);
	llm_sched_cancel(t.sched, b);
	llm_sched_cancel(t.sched, 0);
	llm_sched_finish(t.sched, UINT64_MAX);
	a = submit(&t, r); /* takes b's place, not its id */
	llm_sched_cancel(t.sched, b);
	CHECK(a != b && n_live(&t) == 1);
	llm_sched_finish(t.sched, a);
	CHECK(n_live(&t) == 0);
	bench_free(&t);
}

/* After a pass that failed everything starts again, and no prefix of it is believed. */
static void
test_abandon(void)
{
	bench t = bench_create(100, 40);
	uint64_t ids[3];

	submit_rows(&t, 3, 10, 3, ids);
	CHECK(next(&t) == 3);
	llm_sched_cancel(t.sched, ids[1]);
	llm_sched_abandon(t.sched);
	CHECK(n_live(&t) == 2 && next(&t) == 2);
	check_piece(&t, 0, ids[0], 0, 13, true);
	check_piece(&t, 1, ids[2], 8, 5, true);
	done(&t, false);
	bench_free(&t);
}

/* A pinned prefix does not stop a sequence that needs its pages. */
static void
test_pins_give_way(void)
{
	bench t = bench_create(5, 100);
	const llm_salt salt = {{0}};
	llm_sched_request r = request(12);
	uint64_t id;

	r.n_shared = 12;
	submit(&t, r);
	next(&t);
	done(&t, false);
	CHECK(llm_kv_pin(t.kv, &salt, text, 12, true, NULL) == LLM_OK);
	id = submit(&t, request(20));
	CHECK(next(&t) == 1);
	check_piece(&t, 0, id, 0, 20, true);
	done(&t, false);
	bench_free(&t);
}

/*
 * Every allocation of create and submit may fail: nothing is queued, nothing leaks, the next try
 * succeeds.
 */
static void
test_allocation_failures(void)
{
	llm_sched_params params = {.budget_tokens = 8, .max_segments = 4, .max_queued = 100};
	llm_status status;
	uint64_t ids[16];

	for (uint64_t nth = 1;; nth++)
	{
		bench t = {0};

		CHECK(llm_kv_create(20, PAGE, &t.kv, NULL) == LLM_OK);
		llm_alloc_fail_after(nth, true);
		status = llm_sched_create(t.kv, &params, &t.sched, NULL);
		llm_alloc_fail_after(0, false);
		if (status == LLM_OK)
		{
			bench_free(&t);
			CHECK(nth == 6);
			break;
		}
		CHECK(status == LLM_E_NOMEM && t.sched == NULL);
		llm_kv_free(t.kv);
	}
	for (uint64_t nth = 1; nth < 30; nth++)
	{
		bench t = bench_create(100, 40);
		llm_sched_request reqs[6];

		for (uint32_t i = 0; i < 6; i++)
		{
			reqs[i] = request(5);
			reqs[i].n_shared = i % 3;
			reqs[i].caller = i % 2;
		}
		llm_alloc_fail_after(nth, nth % 2);
		status = llm_sched_submit(t.sched, reqs, 6, ids, NULL);
		llm_alloc_fail_after(0, false);
		/* The slots, 6 sequences, 2 callers, 6 groups. */
		CHECK(status == (nth <= 15 ? LLM_E_NOMEM : LLM_OK));
		CHECK(n_live(&t) == (status == LLM_OK ? 6 : 0));
		CHECK(llm_sched_submit(t.sched, reqs, 6, ids, NULL) == LLM_OK);
		bench_free(&t);
	}
}

/* Processor time in ms since start. */
static double
ms_since(clock_t start)
{
	return (double) (clock() - start) * 1000 / CLOCKS_PER_SEC;
}

/* A job of 10,000 rows, passes of 4,096 pieces, 1,000 waiting behind a full pool: all cheap. */
static void
test_cost(void)
{
	llm_sched_params params = {.budget_tokens = 1u << 20,
	                           .max_segments = 4096,
	                           .max_queued = 20000};
	uint32_t n = 10000;
	llm_sched_request *reqs = llm_calloc(n, sizeof(*reqs));
	uint64_t *ids = llm_calloc(n, sizeof(*ids));
	int32_t *rows = llm_calloc(n, 300 * sizeof(*rows));
	bench t = {0};
	clock_t start;

	REQUIRE(reqs != NULL && ids != NULL && rows != NULL);
	REQUIRE(llm_kv_create(100000, 16, &t.kv, NULL) == LLM_OK);
	REQUIRE(llm_sched_create(t.kv, &params, &t.sched, NULL) == LLM_OK);
	for (uint32_t i = 0; i < n; i++)
	{
		memcpy(rows + i * 300, text, 300 * sizeof(*rows));
		rows[i * 300 + 250] = (int32_t) i;
		reqs[i] = request(300);
		reqs[i].tokens = rows + i * 300;
		reqs[i].n_shared = 250;
		reqs[i].max_new = 10;
	}
	start = clock();
	CHECK(llm_sched_submit(t.sched, reqs, n, ids, NULL) == LLM_OK);
	CHECK_MSG(ms_since(start) < 500, "submit took %.1f ms", ms_since(start));
	start = clock();
	CHECK(next(&t) == 4096);
	CHECK_MSG(ms_since(start) < 100, "the first pass took %.1f ms", ms_since(start));
	done(&t, true);
	start = clock();
	for (uint32_t pass = 0; pass < 5; pass++)
	{
		CHECK(next(&t) == 4096);
		done(&t, true);
	}
	CHECK_MSG(ms_since(start) < 250, "5 decode passes took %.1f ms", ms_since(start));
	bench_free(&t);
	llm_free(reqs);
	llm_free(ids);
	llm_free(rows);
}

/*
 * 1,000 sequences in as many groups wait behind one that fills the pool: forming a pass stays under
 * 1 ms.
 */
static void
test_waiting_is_cheap(void)
{
	bench t = bench_create(64, 300);
	llm_sched_request r = request(250);
	clock_t start;

	r.max_new = 6;
	submit(&t, r);
	next(&t);
	done(&t, true);
	for (uint32_t i = 0; i < 1000; i++)
	{
		r = request(100);
		r.job = i;
		r.caller = i % 10;
		r.n_shared = 50;
		submit(&t, r);
	}
	start = clock();
	for (uint32_t pass = 0; pass < 5; pass++)
	{
		CHECK(next(&t) == 1);
		done(&t, true);
	}
	CHECK_MSG(ms_since(start) < 5 * 4, "5 passes took %.2f ms", ms_since(start));
	bench_free(&t);
}

int
main(void)
{
	RUN(one_prompt);
	RUN(submit_refuses);
	RUN(chunks_are_equal);
	RUN(prompts_fill_the_pass);
	RUN(decode_comes_first);
	RUN(interactive_overtakes);
	RUN(atomic_tails);
	RUN(wide_tails);
	RUN(callers_take_turns);
	RUN(small_callers_do_not_wait);
	RUN(decode_before_new_prompts);
	RUN(decode_takes_turns);
	RUN(prefix_is_computed_once);
	RUN(followers_wait_for_long_prefixes);
	RUN(leader_is_replaced);
	RUN(cancelled_leader_leaves_its_prefix);
	RUN(what_is_not_shared);
	RUN(no_head_of_line_blocking);
	RUN(youngest_is_put_back);
	RUN(interactive_takes_pages);
	RUN(drafts);
	RUN(cancel);
	RUN(abandon);
	RUN(pins_give_way);
	RUN(allocation_failures);
	RUN(cost);
	RUN(waiting_is_cheap);
	return test_summary("sched");
}
