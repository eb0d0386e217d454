/*
 * test_copies.c: several copies of a model side by side give what one gives, and share the work.
 *
 * The copies stand for the cards of a host: each has a CPU backend of its own here, so that what is
 * tested is how rows are spread over schedulers and brought together again. Cards are never better
 * than this at being told apart: see test_device.c for two of them.
 */
#include "llm_engine_impl.h"
#include "llm_kv.h"
#include "llm_sched.h"
#include "test.h"

#define MODEL  "test/data/models/llama"
#define N_ROWS 24u

/* What a job gave. */
typedef struct given
{
	uint32_t n_done;
	llm_status status;
	uint32_t n_rows;
	char text[N_ROWS][128];
	float values[N_ROWS][4];
} given;

/* Keeps a row. */
static void
on_row(void *user, const llm_row_result *row)
{
	given *g = user;

	REQUIRE(row->row < N_ROWS && row->n_values <= 4);
	CHECK_MSG(row->status == LLM_OK, "row %u: %s", row->row, row->message);
	g->n_rows++;
	snprintf(g->text[row->row], sizeof(g->text[0]), "%.*s", (int) row->text.n,
	         row->text.bytes != NULL ? row->text.bytes : "");
	if (row->n_values > 0)
		memcpy(g->values[row->row], row->values, row->n_values * sizeof(float));
}

/* Notes the end. */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	given *g = user;

	(void) message;
	(void) stats;
	g->n_done++;
	g->status = status;
}

/* An engine with so many copies of the model. */
static llm_engine *
open_engine(uint32_t n_copies)
{
	const llm_engine_params params = {.device = "cpu",
	                                  .n_threads = 1,
	                                  .n_copies = n_copies,
	                                  .budget_tokens = 128};
	const llm_load_options options = {.kv_bytes = (uint64_t) 16 << 20};
	llm_engine *e = NULL;
	llm_error err = {0};

	if (llm_engine_create(&params, &e, &err) == LLM_OK &&
	    llm_engine_load(e, "m", MODEL, &options, &err) != LLM_OK)
	{
		llm_engine_destroy(e);
		e = NULL;
	}
	CHECK_MSG(e != NULL, "%s", err.message);
	return e;
}

/* Fills a job of n rows: generation, or classification with calibrated labels. */
static void
make_job(llm_job *job, given *g, llm_text *rows, llm_text *labels, uint32_t n, bool classify)
{
	static const char *const words[] = {"a b c", "b a", "c c c c c c a", "a a b b c c a b"};

	for (uint32_t i = 0; i < n; i++)
		rows[i] = (llm_text){words[i % 4], strlen(words[i % 4]) - i / 4 % 2};
	labels[0] = LLM_TEXT("a");
	labels[1] = LLM_TEXT("b c");
	labels[2] = LLM_TEXT("c a b");
	*g = (given){0};
	*job = (llm_job){.kind = classify ? LLM_JOB_CLASSIFY : LLM_JOB_GENERATE,
	                 .model = "m",
	                 .flags = LLM_JOB_RAW | (classify ? LLM_JOB_TRUNCATE : 0), /* 64 tokens */
	                 .instruction = classify ? LLM_TEXT("a") : LLM_TEXT("a b c a b c"),
	                 .rows = rows,
	                 .n_rows = n,
	                 .labels = labels,
	                 .n_labels = classify ? 3 : 0,
	                 .max_tokens = classify ? 0 : 12,
	                 .user = g,
	                 .on_row = on_row,
	                 .on_done = on_done};
	if (!classify)
		job->sample = (llm_sample_params){.temperature = 1, .top_p = 0.9f, .seed = 3};
}

/* Runs a job to its end. */
static void
run_job(llm_engine *e, given *g, uint32_t n, bool classify)
{
	llm_text rows[N_ROWS], labels[3];
	llm_job job;
	llm_error err = {0};
	uint64_t id;

	make_job(&job, g, rows, labels, n, classify);
	CHECK_MSG(llm_engine_submit(e, &job, &id, &err) == LLM_OK, "%s", err.message);
	while (llm_engine_step(e))
		;
	CHECK_MSG(g->n_done == 1 && g->status == LLM_OK && g->n_rows == n,
	          "%u ends, status %d, %u rows", g->n_done, (int) g->status, g->n_rows);
}

/* Passes that each copy has run. */
static uint32_t
passes(const llm_engine *e, uint64_t *n)
{
	uint32_t n_copies = 0;

	for (const llm_slot *copy = e->slots[0]; copy != NULL; copy = copy->next_copy)
	{
		llm_sched_stats stats;

		llm_sched_get_stats(copy->sched, &stats);
		n[n_copies++] = stats.n_passes;
	}
	return n_copies;
}

static void
test_same_rows(void)
{
	static given want, got;
	llm_engine *one = open_engine(1);

	REQUIRE(one != NULL);
	for (uint32_t n_copies = 2; n_copies <= 3; n_copies++)
		for (int classify = 0; classify < 2; classify++)
		{
			llm_engine *e = open_engine(n_copies);
			uint64_t n[LLM_COPIES_MAX];

			REQUIRE(e != NULL);
			run_job(one, &want, N_ROWS, classify);
			run_job(e, &got, N_ROWS, classify);
			CHECK_MSG(memcmp(&want, &got, sizeof(want)) == 0, "%u copies, classify %d", n_copies,
			          classify);
			CHECK(passes(e, n) == n_copies);
			for (uint32_t i = 0; i < n_copies; i++)
				CHECK_MSG(n[i] > 0, "copy %u of %u has done nothing", i, n_copies);
			llm_engine_destroy(e);
		}
	llm_engine_destroy(one);
}

/* A small job stays together; two of them go to two copies. */
static void
test_small_jobs(void)
{
	static given first, second;
	llm_text rows[2], labels[3];
	llm_job job;
	llm_engine *e = open_engine(2);
	llm_error err = {0};
	uint64_t n[LLM_COPIES_MAX], id;

	REQUIRE(e != NULL);
	run_job(e, &first, 2, false);
	CHECK(passes(e, n) == 2 && n[0] > 0 && n[1] == 0);
	make_job(&job, &first, rows, labels, 2, false);
	CHECK(llm_engine_submit(e, &job, &id, &err) == LLM_OK);
	CHECK(llm_engine_step(e));
	job.user = &second;
	second = (given){0};
	CHECK(llm_engine_submit(e, &job, &id, &err) == LLM_OK);
	while (llm_engine_step(e))
		;
	CHECK(passes(e, n) == 2 && n[1] > 0 && first.n_done == 1 && second.n_done == 1);
	CHECK(memcmp(first.text, second.text, sizeof(first.text)) == 0);
	llm_engine_destroy(e);
}

/* A job that is cancelled halfway ends once, on all copies; the next one is not hurt. */
static void
test_cancelled(void)
{
	static given g, want, got;
	llm_text rows[N_ROWS], labels[3];
	llm_engine *e = open_engine(2);
	llm_error err = {0};

	REQUIRE(e != NULL);
	run_job(e, &want, N_ROWS, false);
	for (uint32_t n_steps = 1; n_steps < 12; n_steps++)
	{
		llm_job job;
		uint64_t id;

		make_job(&job, &g, rows, labels, N_ROWS, false);
		CHECK(llm_engine_submit(e, &job, &id, &err) == LLM_OK);
		for (uint32_t i = 0; i < n_steps; i++)
			(void) llm_engine_step(e);
		llm_engine_cancel(e, id);
		while (llm_engine_step(e))
			;
		CHECK_MSG(g.n_done == 1, "%u ends after %u steps", g.n_done, n_steps);
	}
	run_job(e, &got, N_ROWS, false);
	CHECK(memcmp(&want, &got, sizeof(want)) == 0);
	llm_engine_destroy(e);
}

/* What is said of a model counts all copies; and there is a limit. */
static void
test_described(void)
{
	llm_engine *one = open_engine(1), *three = open_engine(3);
	llm_engine_params params = {.device = "cpu", .n_copies = LLM_COPIES_MAX + 1};
	llm_engine *none = NULL;
	llm_model_info a, b;
	llm_error err = {0};

	REQUIRE(one != NULL && three != NULL);
	CHECK(llm_engine_models(one, &a, 1) == 1 && llm_engine_models(three, &b, 1) == 1);
	CHECK(b.bytes_weights == 3 * a.bytes_weights && b.bytes_kv == 3 * a.bytes_kv);
	CHECK(a.n_ctx == b.n_ctx && llm_engine_unload(three, "m", &err) == LLM_OK);
	CHECK(llm_engine_create(&params, &none, &err) == LLM_E_RANGE);
	llm_engine_destroy(one);
	llm_engine_destroy(three);
}

int
main(void)
{
	RUN(same_rows);
	RUN(small_jobs);
	RUN(cancelled);
	RUN(described);
	return test_summary("copies");
}
