/*
 * test_sched_load.c: the scheduler under load: callers and sequences that take turns, too few
 * pages, failing allocations, and what large jobs cost.
 */
#include "sched_bench.h"

#include <time.h>

/* The tokens of the pass that belong to sequences with this user pointer. */
static uint32_t
tokens_of(const bench *t, const void *user)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->n; i++)
		n += t->work[i].user == user ? t->work[i].n_tokens : 0;
	return n;
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

/* A prompt that holds the others back and is then cancelled lets them go on at once. */
static void
test_cancelled_holder_lets_go(void)
{
	bench t = bench_create(20, 100);
	llm_sched_request r = request(40);
	uint64_t large, small;

	r.max_new = 40;
	submit(&t, r);
	next(&t);
	done(&t, true);
	r = request(60);
	r.job = 2;
	large = submit(&t, r); /* 15 pages, 9 are free */
	for (uint32_t pass = 0; pass < 8; pass++)
	{
		next(&t);
		done(&t, true);
	}
	r = request(4);
	r.job = 3;
	small = submit(&t, r);
	next(&t);
	CHECK(find(&t, large) == t.n && find(&t, small) == t.n);
	done(&t, true);
	llm_sched_cancel(t.sched, large);
	next(&t);
	CHECK(find(&t, small) < t.n);
	done(&t, false);
	bench_free(&t);
}

/* Of three that run, the last that came is put back for the first, and then the second. */
static void
test_order_of_putting_back(void)
{
	bench t = bench_create(7, 100);
	llm_sched_request r = request(7);
	uint64_t ids[3];
	uint32_t left[3] = {0}; /* the pass that went on without it */

	r.max_new = 20;
	for (int i = 0; i < 3; i++)
		ids[i] = submit(&t, r);
	for (uint32_t pass = 1; pass <= 20; pass++)
	{
		next(&t); /* 2 pages each to begin with, of 7 */
		for (int i = 0; i < 3; i++)
			if (left[i] == 0 && find(&t, ids[i]) == t.n)
				left[i] = pass;
		done(&t, true);
	}
	CHECK_MSG(left[0] == 0 && left[2] > 0 && left[2] < left[1], "%u %u %u", left[0], left[1],
	          left[2]);
	bench_free(&t);
}

/* A sequence that is put back loses the drafts that no pass has verified, and nothing else. */
static void
test_put_back_drops_drafts(void)
{
	bench t = bench_create(6, 100);
	llm_sched_request r = request(13);
	const int32_t tokens[] = {50, 51, 52, 53, 54, 55, 56, 57};
	llm_sched_stats stats;
	uint64_t a, b;

	r.max_new = 11;
	a = submit(&t, r);
	r = request(1);
	r.max_new = 4;
	b = submit(&t, r);
	CHECK(next(&t) == 2);
	CHECK(llm_sched_append(t.sched, a, 0, tokens, 7, 6, NULL) == LLM_OK);
	CHECK(llm_sched_append(t.sched, b, 0, tokens, 1, 0, NULL) == LLM_OK);
	llm_sched_done(t.sched);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 13, 7, true); /* the sixth page */
	check_piece(&t, 1, b, 1, 1, true);
	CHECK(llm_sched_append(t.sched, a, 6, tokens + 5, 3, 2, NULL) == LLM_OK);
	CHECK(llm_sched_append(t.sched, b, 0, tokens + 1, 3, 2, NULL) == LLM_OK);
	llm_sched_done(t.sched);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, a, 20, 1, true); /* its own drafts are the first to go */
	CHECK(t.work[0].n_draft == 0);
	llm_sched_get_stats(t.sched, &stats);
	CHECK(stats.n_preempted == 1 && stats.n_waiting_tokens == 3);
	llm_sched_finish(t.sched, a);
	llm_sched_done(t.sched);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, b, 0, 3, true);
	CHECK(t.work[0].n_draft == 0 && t.work[0].tokens[1] == 50 && t.work[0].tokens[2] == 51);
	done(&t, false);
	bench_free(&t);
}

/* A scheduler that has served 20,000 sequences is no larger than one that served a few. */
static void
test_places_are_used_again(void)
{
	bench t = bench_create(100, 100);
	uint64_t before = 0;
	uint64_t first = 0;
	uint64_t last = 0;

	for (uint32_t i = 0; i < 20000; i++)
	{
		if (i == 10000)
			before = llm_alloc_count();
		last = submit(&t, request(4));
		if (i == 0)
			first = last;
		CHECK(next(&t) == 1);
		done(&t, false);
		CHECK(i == 0 || last != first);
	}
	/* sequence, caller and group of each, and no room for more of them */
	CHECK(llm_alloc_count() - before == 3 * 10000);
	llm_sched_cancel(t.sched, first); /* an id of long ago means nobody */
	CHECK(n_live(&t) == 0);
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

/*
 * A sequence that went without pages is first at the next pass, and then has younger ones to put
 * back.
 */
static void
test_refused_comes_first(void)
{
	bench t = bench_create(9, 20);
	llm_sched_request r = request(2);
	uint64_t a, b;

	a = submit(&t, request(36));
	r.max_new = 30;
	b = submit(&t, r);
	CHECK(next(&t) == 2);
	check_piece(&t, 0, a, 0, 18, false);
	check_piece(&t, 1, b, 0, 2, true);
	done(&t, true);
	CHECK(next(&t) == 1); /* 3 pages are free, a needs 4, and b is in the pass before it */
	check_piece(&t, 0, b, 2, 1, true);
	done(&t, true);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, a, 18, 18, true);
	done(&t, true);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, b, 0, 4, true);
	done(&t, true);
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

/* Ends a completed piece one time in 16, else goes on until max_new is reached; counts the ends. */
static void
go_on_or_end(bench *t, const llm_work *w, uint64_t *rng)
{
	uint32_t *n_ends = w->user;

	if (!w->completes)
		return;
	if (test_random(rng) % 16 == 0)
	{
		llm_sched_finish(t->sched, w->id);
		(*n_ends)++;
	}
	else if (llm_sched_append(t->sched, w->id, 0, text, 1, 0, NULL) != LLM_OK)
		(*n_ends)++; /* done ends it */
}

/* 500 mixed requests in 64 pages: none fails, each ends once, some are put back on the way. */
static void
test_small_pool_serves_all(void)
{
	bench t = bench_create(64, 48);
	uint32_t n_ends[500] = {0};
	uint64_t rng = 5;
	llm_sched_stats stats;
	uint32_t n_passes = 0;

	for (uint32_t i = 0; i < 500; i++)
	{
		llm_sched_request r = request(1 + (uint32_t) (test_random(&rng) % 120));

		r.class_ = i % 5 == 0 ? LLM_CLASS_INTERACTIVE : LLM_CLASS_BATCH;
		r.caller = i % 7;
		r.n_shared = r.n_tokens / 2;
		r.max_new = (uint32_t) (test_random(&rng) % 100);
		r.user = &n_ends[i];
		submit(&t, r);
	}
	for (; n_live(&t) > 0 && n_passes < 100000; n_passes++)
	{
		CHECK(next(&t) > 0);
		for (uint32_t i = 0; i < t.n; i++)
			go_on_or_end(&t, &t.work[i], &rng);
		llm_sched_done(t.sched);
	}
	for (uint32_t i = 0; i < 500; i++)
		CHECK_MSG(n_ends[i] == 1, "request %u ended %u times", i, n_ends[i]);
	llm_sched_get_stats(t.sched, &stats);
	CHECK(stats.n_preempted > 0 && stats.n_passes == n_passes && stats.n_shared_tokens > 0);
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
	RUN(callers_take_turns);
	RUN(small_callers_do_not_wait);
	RUN(decode_before_new_prompts);
	RUN(decode_takes_turns);
	RUN(no_head_of_line_blocking);
	RUN(cancelled_holder_lets_go);
	RUN(order_of_putting_back);
	RUN(put_back_drops_drafts);
	RUN(places_are_used_again);
	RUN(youngest_is_put_back);
	RUN(refused_comes_first);
	RUN(interactive_takes_pages);
	RUN(pins_give_way);
	RUN(small_pool_serves_all);
	RUN(allocation_failures);
	RUN(cost);
	RUN(waiting_is_cheap);
	return test_summary("sched_load");
}
