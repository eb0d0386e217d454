/*
 * test_sched.c: the scheduler's rules one by one, with exact passes. Fairness, scarce pages and
 * cost are in test_sched_load.c; what holds under any mixture of events is tested in test_sim.c.
 */
#include "sched_bench.h"

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

/* While a pass is under way there is no other, and what it works on stays as it is. */
static void
test_one_pass_at_a_time(void)
{
	bench t = bench_create(100, 10);
	const llm_work *work;
	const llm_kv_fixup *fixups;
	uint32_t n_fixups = 1;
	uint64_t a = submit(&t, request(10));
	uint64_t b = submit(&t, request(10));

	CHECK(next(&t) == 1);
	CHECK(llm_sched_next(t.sched, &work, &fixups, &n_fixups) == 0 && n_fixups == 0);
	check_piece(&t, 0, a, 0, 10, true);
	done(&t, false);
	CHECK(next(&t) == 1);
	check_piece(&t, 0, b, 0, 10, true);
	done(&t, false);
	CHECK(next(&t) == 0);
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

int
main(void)
{
	RUN(one_prompt);
	RUN(submit_refuses);
	RUN(chunks_are_equal);
	RUN(one_pass_at_a_time);
	RUN(prompts_fill_the_pass);
	RUN(decode_comes_first);
	RUN(interactive_overtakes);
	RUN(atomic_tails);
	RUN(wide_tails);
	RUN(prefix_is_computed_once);
	RUN(followers_wait_for_long_prefixes);
	RUN(leader_is_replaced);
	RUN(cancelled_leader_leaves_its_prefix);
	RUN(what_is_not_shared);
	RUN(drafts);
	RUN(cancel);
	RUN(abandon);
	return test_summary("sched");
}
