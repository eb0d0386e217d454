/*
 * sched_bench.h: what test_sched.c and test_sched_load.c share: a scheduler over a pool of its own,
 * and looks at the pass it has formed. The prompts are all the beginnings of one text; tests that
 * need others make them.
 */
#ifndef SCHED_BENCH_H
#define SCHED_BENCH_H

#include "test.h"

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
static inline bench
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
static inline void
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
static inline llm_sched_request
request(uint32_t n)
{
	return (llm_sched_request){
	    .class_ = LLM_CLASS_BATCH, .caller = 1, .job = 1, .tokens = text, .n_tokens = n};
}

/* Submits one request, which must be taken. */
static inline uint64_t
submit(bench *t, llm_sched_request r)
{
	uint64_t id = 0;
	llm_error err = {0};

	CHECK_MSG(llm_sched_submit(t->sched, &r, 1, &id, &err) == LLM_OK, "%s", err.message);
	return id;
}

/* Forms the next pass. */
static inline uint32_t
next(bench *t)
{
	t->n = llm_sched_next(t->sched, &t->work, &t->fixups, &t->n_fixups);
	return t->n;
}

/* Checks piece i of the pass. */
static inline void
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
static inline void
done(bench *t, bool go_on)
{
	const int32_t token = 7;

	for (uint32_t i = 0; i < t->n && go_on; i++)
		if (t->work[i].completes)
			(void) llm_sched_append(t->sched, t->work[i].id, 0, &token, 1, 0, NULL);
	llm_sched_done(t->sched);
}

/* The position of id in the pass, or n. */
static inline uint32_t
find(const bench *t, uint64_t id)
{
	uint32_t i = 0;

	while (i < t->n && t->work[i].id != id)
		i++;
	return i;
}

/* Sequences that wait or run. */
static inline uint32_t
n_live(const bench *t)
{
	llm_sched_stats stats;

	llm_sched_get_stats(t->sched, &stats);
	return stats.n_waiting + stats.n_running;
}

#endif /* SCHED_BENCH_H */
