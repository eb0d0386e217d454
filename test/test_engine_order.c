/*
 * test_engine_order.c: who is served when, and the edges of the context, through the engine's
 * public header on a tiny model. What the scheduler's own tests promise must hold for jobs as well:
 * the engine has to tell it who asks, and of which class.
 */
#include "test.h"

#include "../src/llm/llm.h"

#define MODEL    "test/data/models/qwen2"
#define ENCODER  "test/data/models/bert"
#define ROWS_MAX 80
#define N_CTX    48 /* in the test of its edge */

/* How far a job has come. */
typedef struct progress
{
	uint32_t n_rows;
	uint32_t n_done;
	llm_status row_status[ROWS_MAX];
	uint32_t n_tokens[ROWS_MAX];
	uint32_t n_output[ROWS_MAX];
	llm_finish finish[ROWS_MAX];
	uint32_t n_values[ROWS_MAX];
	float values[ROWS_MAX][64];
} progress;

/* Notes a row. */
static void
on_row(void *user, const llm_row_result *r)
{
	progress *p = user;

	p->row_status[r->row] = r->status;
	p->n_tokens[r->row] = r->n_tokens;
	p->n_output[r->row] = r->n_output;
	p->finish[r->row] = r->finish;
	p->n_values[r->row] = r->n_values;
	for (uint32_t i = 0; i < r->n_values && i < 64; i++)
		p->values[r->row][i] = r->values[i];
	p->n_rows++;
}

/* Notes the end. */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	progress *p = user;

	(void) message, (void) stats;
	CHECK(status == LLM_OK);
	p->n_done++;
}

/* An engine with a tiny model, whose passes take 64 tokens. */
static llm_engine *
open_engine(const char *path, uint32_t n_ctx)
{
	llm_engine_params params = {.device = "cpu",
	                            .precision = PP_PREC_F32,
	                            .n_threads = 1,
	                            .n_ctx = n_ctx,
	                            .budget_tokens = 64};
	llm_engine *e = NULL;
	llm_error err = {0};

	if (llm_engine_create(&params, &e, &err) == LLM_OK &&
	    llm_engine_load(e, "m", path, NULL, &err) == LLM_OK)
		return e;
	printf("%s\n", err.message);
	llm_engine_destroy(e);
	return NULL;
}

static char store[ROWS_MAX][400];
static llm_text rows[ROWS_MAX];

/* Rows of their own texts, which share no prefix. */
static void
make_rows(void)
{
	for (uint32_t i = 0; i < ROWS_MAX; i++)
	{
		int n = snprintf(store[i], sizeof(store[i]), "%u the river and the stone at number %u", i,
		                 i * 7919);

		rows[i] = (llm_text){store[i], (size_t) n};
	}
}

/* One token for each of n rows from first on. */
static llm_job
short_job(uint32_t first, uint32_t n, llm_class class_, uint64_t caller, progress *p)
{
	memset(p, 0, sizeof(*p));
	return (llm_job){.kind = LLM_JOB_GENERATE,
	                 .model = "m",
	                 .flags = LLM_JOB_RAW,
	                 .class_ = class_,
	                 .caller = caller,
	                 .rows = rows + first,
	                 .n_rows = n,
	                 .max_tokens = 1,
	                 .user = p,
	                 .on_row = on_row,
	                 .on_done = on_done};
}

/*
 * Submits a job of 60 rows of caller 1, lets it run for a pass, submits one of 2 rows, and steps to
 * its end; returns how many of the 60 rows were done by then.
 */
static uint32_t
rows_before(llm_class class_, uint64_t caller)
{
	llm_engine *e = open_engine(MODEL, 0);
	progress crowd;
	progress few;
	llm_job large = short_job(0, 60, LLM_CLASS_BATCH, 1, &crowd);
	llm_job small = short_job(60, 2, class_, caller, &few);
	uint32_t n_before;
	uint64_t id;

	if (e == NULL)
	{
		CHECK(e != NULL);
		return UINT32_MAX;
	}
	CHECK(llm_engine_submit(e, &large, &id, NULL) == LLM_OK && llm_engine_step(e));
	CHECK(llm_engine_submit(e, &small, &id, NULL) == LLM_OK);
	while (few.n_done == 0 && llm_engine_step(e))
		;
	n_before = crowd.n_rows;
	while (llm_engine_step(e))
		;
	CHECK(few.n_rows == 2 && few.n_done == 1 && crowd.n_rows == 60 && crowd.n_done == 1);
	llm_engine_destroy(e);
	return n_before;
}

/* Another caller's few rows take turns with a job that came before, of the same class. */
static void
test_callers_take_turns(void)
{
	uint32_t own = rows_before(LLM_CLASS_BATCH, 1);
	uint32_t turns = rows_before(LLM_CLASS_BATCH, 2);

	CHECK_MSG(own >= 55, "%u rows of the same caller were first", own);
	CHECK_MSG(turns <= 20, "%u rows of the other caller were first", turns);
}

/* Interactive work goes before batch work, also of the same caller. */
static void
test_interactive_first(void)
{
	uint32_t n = rows_before(LLM_CLASS_INTERACTIVE, 1);

	CHECK_MSG(n <= 10, "%u rows of the batch were first", n);
}

/* A prompt and what follows it never exceed the context; a prompt without room is told so. */
static void
test_context_edge(void)
{
	llm_engine *e = open_engine(MODEL, N_CTX);
	progress p;
	llm_job job;
	uint64_t id;
	uint32_t n_cut = 0;
	uint32_t n_long = 0;

	REQUIRE(e != NULL);
	for (uint32_t i = 0; i < ROWS_MAX; i++)
	{
		for (uint32_t k = 0; k < i; k++)
			memcpy(store[i] + 2 * k, " a", 2);
		rows[i] = (llm_text){store[i], 2 * (size_t) i};
	}
	job = short_job(0, ROWS_MAX, LLM_CLASS_BATCH, 1, &p);
	job.max_tokens = 6;
	REQUIRE(llm_engine_submit(e, &job, &id, NULL) == LLM_OK);
	while (llm_engine_step(e))
		;
	CHECK(p.n_done == 1 && p.n_rows == ROWS_MAX);
	for (uint32_t i = 1; i < ROWS_MAX; i++)
	{
		n_long += p.row_status[i] == LLM_E_TOO_LONG;
		if (p.row_status[i] != LLM_OK)
			continue;
		CHECK_MSG(n_long == 0 && p.n_tokens[i] < N_CTX && p.n_tokens[i] + p.n_output[i] <= N_CTX,
		          "row %u: %u and %u tokens", i, p.n_tokens[i], p.n_output[i]);
		if (p.n_tokens[i] + p.n_output[i] == N_CTX && p.n_output[i] < 6)
		{
			CHECK(p.finish[i] == LLM_FINISH_LENGTH);
			n_cut++;
		}
	}
	CHECK_MSG(n_cut >= 3 && n_long > 10, "%u cut, %u too long", n_cut, n_long);
	/* more than all pages would hold is asked for: it ends with the context all the same */
	job = short_job(1, 1, LLM_CLASS_BATCH, 1, &p);
	job.max_tokens = 1000000;
	REQUIRE(llm_engine_submit(e, &job, &id, NULL) == LLM_OK);
	while (llm_engine_step(e))
		;
	CHECK(p.n_done == 1 && p.row_status[0] == LLM_OK);
	CHECK(p.finish[0] == LLM_FINISH_END || p.n_tokens[0] + p.n_output[0] == N_CTX);
	llm_engine_destroy(e);
	make_rows();
}

/*
 * The queue is bounded over all jobs: one too many is refused whole, and taken when there is room.
 */
static void
test_queue_is_bounded(void)
{
	llm_engine_params params = {.device = "cpu",
	                            .precision = PP_PREC_F32,
	                            .n_threads = 1,
	                            .max_queued = 70};
	llm_engine *e = NULL;
	progress a;
	progress b;
	llm_job first = short_job(0, 60, LLM_CLASS_BATCH, 1, &a);
	llm_job second = short_job(60, 20, LLM_CLASS_BATCH, 2, &b);
	llm_error err = {0};
	uint64_t id;

	REQUIRE(llm_engine_create(&params, &e, &err) == LLM_OK);
	CHECK(llm_engine_load(e, "m", MODEL, NULL, &err) == LLM_OK);
	CHECK(llm_engine_submit(e, &first, &id, &err) == LLM_OK);
	CHECK(llm_engine_submit(e, &second, &id, &err) == LLM_E_BUSY && b.n_rows == 0);
	while (llm_engine_step(e))
		;
	CHECK(a.n_rows == 60 && b.n_rows == 0 && b.n_done == 0);
	CHECK(llm_engine_submit(e, &second, &id, &err) == LLM_OK);
	while (llm_engine_step(e))
		;
	CHECK(b.n_rows == 20 && b.n_done == 1);
	llm_engine_destroy(e);
}

/*
 * An encoder sees a text in one pass or not at all: texts that fill passes unevenly, as if alone.
 */
static void
test_encoders_see_whole_texts(void)
{
	llm_engine *e = open_engine(ENCODER, 0);
	progress together;
	progress alone;
	llm_job job = short_job(0, 20, LLM_CLASS_BATCH, 1, &together);
	uint64_t id;

	REQUIRE(e != NULL);
	job.kind = LLM_JOB_EMBED;
	job.flags = 0;
	REQUIRE(llm_engine_submit(e, &job, &id, NULL) == LLM_OK);
	while (llm_engine_step(e))
		;
	CHECK(together.n_rows == 20);
	job.n_rows = 1;
	job.user = &alone;
	for (uint32_t i = 0; i < 20; i++)
	{
		uint32_t n = together.n_values[i];

		alone = (progress){0};
		job.rows = rows + i;
		REQUIRE(llm_engine_submit(e, &job, &id, NULL) == LLM_OK);
		while (llm_engine_step(e))
			;
		CHECK(together.n_tokens[i] > 5 && 64 % together.n_tokens[i] != 0);
		CHECK(alone.row_status[0] == LLM_OK && n > 0 && n <= 64 && alone.n_values[0] == n);
		CHECK_MSG(memcmp(alone.values[0], together.values[i], n * sizeof(float)) == 0, "row %u", i);
	}
	llm_engine_destroy(e);
}

int
main(void)
{
	make_rows();
	RUN(callers_take_turns);
	RUN(interactive_first);
	RUN(queue_is_bounded);
	RUN(context_edge);
	RUN(encoders_see_whole_texts);
	return test_summary("engine_order");
}
