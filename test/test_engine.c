/*
 * test_engine.c: the engine through its public header, on the real small models.
 *
 * What a user must be able to rely on: a row's result is the same bits alone and in any company,
 * errors stay with their row, every accepted job ends exactly once, limits hold, one role's
 * prefixes are invisible to another.
 */
#include "test.h"

#include <math.h>
#include <sys/stat.h>

#include "../src/llm/llm.h"
#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_json.h"

#define ROWS_MAX   1000
#define VALUES_MAX 400

/* What a job gave. */
typedef struct outcome
{
	uint32_t n_rows;
	uint32_t n_done;
	llm_status status;
	llm_job_stats stats;
	llm_status row_status[ROWS_MAX];
	float values[ROWS_MAX][8];
	uint32_t n_values[ROWS_MAX];
	double logprob[ROWS_MAX];
	uint32_t n_tokens[ROWS_MAX];
	uint32_t n_shared[ROWS_MAX];
	uint32_t n_output[ROWS_MAX];
	llm_finish finish[ROWS_MAX];
	char text[ROWS_MAX][256];
	char pieces[4096];
	size_t n_pieces;
	float vector[VALUES_MAX];
	char message[LLM_MESSAGE_MAX];
} outcome;

static char smol_path[512];
static char minilm_path[512];
static outcome *got, *other;

/* Copies a row's result. */
static void
on_row(void *user, const llm_row_result *r)
{
	outcome *o = user;

	o->n_rows++;
	if (r->row >= ROWS_MAX)
		return;
	o->row_status[r->row] = r->status;
	o->n_values[r->row] = r->n_values;
	o->logprob[r->row] = r->logprob;
	o->n_tokens[r->row] = r->n_tokens;
	o->n_shared[r->row] = r->n_shared;
	o->n_output[r->row] = r->n_output;
	o->finish[r->row] = r->finish;
	for (uint32_t i = 0; i < r->n_values && i < 8; i++)
		o->values[r->row][i] = r->values[i];
	for (uint32_t i = 0; i < r->n_values && i < VALUES_MAX; i++)
		o->vector[i] = r->values[i];
	if (r->text.bytes != NULL)
		snprintf(o->text[r->row], sizeof(o->text[0]), "%.*s", (int) r->text.n, r->text.bytes);
	if (r->status != LLM_OK)
		snprintf(o->message, sizeof(o->message), "%s", r->message);
}

/* Collects streamed pieces. */
static void
on_piece(void *user, uint32_t row, llm_text piece)
{
	outcome *o = user;

	(void) row;
	if (piece.n < sizeof(o->pieces) - o->n_pieces)
	{
		memcpy(o->pieces + o->n_pieces, piece.bytes, piece.n);
		o->n_pieces += piece.n;
	}
}

/* Counts the ends of a job; there must be one. */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	outcome *o = user;

	o->n_done++;
	o->status = status;
	o->stats = *stats;
	if (status != LLM_OK)
		snprintf(o->message, sizeof(o->message), "%s", message);
}

/* Finds the models, or says that they are missing. */
static bool
find_models(void)
{
	const char *dir = getenv("PREPACK_MODELS");
	struct stat st;

	snprintf(smol_path, sizeof(smol_path), "%s/smollm2-135m.gguf", dir != NULL ? dir : "models");
	snprintf(minilm_path, sizeof(minilm_path), "%s/minilm-l6", dir != NULL ? dir : "models");
	return stat(smol_path, &st) == 0 && stat(minilm_path, &st) == 0;
}

/* An engine with a model under the name "m". */
static llm_engine *
open_engine(llm_engine_params params, const char *path)
{
	llm_engine *e = NULL;
	llm_error err = {0};

	params.n_threads = 2;
	if (llm_engine_create(&params, &e, &err) != LLM_OK ||
	    llm_engine_load(e, "m", path, NULL, &err) != LLM_OK)
	{
		printf("cannot open %s: %s\n", path, err.message);
		llm_engine_destroy(e);
		return NULL;
	}
	return e;
}

/* Fills in what every job of these tests has. */
static llm_job
job_of(llm_job_kind kind, const llm_text *rows, uint32_t n_rows, outcome *o)
{
	memset(o, 0, sizeof(*o));
	return (llm_job){.kind = kind,
	                 .model = "m",
	                 .class_ = LLM_CLASS_BATCH,
	                 .rows = rows,
	                 .n_rows = n_rows,
	                 .user = o,
	                 .on_row = on_row,
	                 .on_piece = on_piece,
	                 .on_done = on_done};
}

/* Submits and steps to the end. */
static llm_status
run(llm_engine *e, const llm_job *job, llm_error *err)
{
	uint64_t id;
	llm_status status = llm_engine_submit(e, job, &id, err);

	while (status == LLM_OK && llm_engine_step(e))
		;
	return status;
}

static const llm_text topics[4] = {{"sports", 6},
                                   {"science", 7},
                                   {"cooking recipes", 15},
                                   {"sports betting", 14}};

/* Texts of very different lengths about changing things. */
static const char *const words[] = {"ball", "game", "atom", "star", "soup",
                                    "salt", "goal", "cell", "oven", "team"};
static char text_store[ROWS_MAX][2000];
static llm_text texts[ROWS_MAX];

/* Fills texts[], the same in every run. */
static void
make_texts(void)
{
	uint64_t seed = 7;

	for (uint32_t i = 0; i < ROWS_MAX; i++)
	{
		uint32_t n = 1 + (uint32_t) (test_random(&seed) % (i % 10 == 0 ? 300 : 20));
		size_t at = 0;

		for (uint32_t k = 0; k < n && at + 8 < sizeof(text_store[0]); k++)
			at += (size_t) snprintf(text_store[i] + at, sizeof(text_store[0]) - at, "%s ",
			                        words[test_random(&seed) % 10]);
		texts[i] = (llm_text){text_store[i], at};
	}
}

/* A classification over n of the texts from first on. */
static llm_job
classify_job(uint32_t first, uint32_t n, outcome *o)
{
	llm_job job = job_of(LLM_JOB_CLASSIFY, texts + first, n, o);

	job.labels = topics;
	job.n_labels = 4;
	return job;
}

/*
 * The same rows alone, in company, in another order, shared or not, padded or not: the same bits.
 */
static void
test_same_row_same_answer(void)
{
	static const llm_engine_params variants[] = {{0},
	                                             {.no_prefix_sharing = true},
	                                             {.budget_tokens = 70},
	                                             {.pad_group = 8},
	                                             {.pad_group = 8, .pad_sorted = true}};
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_error err;
	uint32_t n_rows = 40;
	llm_job job;

	REQUIRE(e != NULL);
	job = classify_job(0, n_rows, got);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == n_rows && got->n_done == 1 && got->status == LLM_OK);
	for (uint32_t i = 0; i < n_rows; i++)
	{
		float sum = 0;

		for (uint32_t c = 0; c < 4; c++)
			sum += got->values[i][c];
		CHECK(got->row_status[i] == LLM_OK && got->n_values[i] == 4 && fabsf(sum - 1) < 1e-5f);
	}
	for (uint32_t i = 0; i < 7; i++)
	{
		job = classify_job(i, 1, other);
		REQUIRE(run(e, &job, &err) == LLM_OK);
		CHECK(memcmp(other->values[0], got->values[i], 4 * sizeof(float)) == 0);
	}
	llm_engine_destroy(e);
	for (size_t v = 0; v < sizeof(variants) / sizeof(variants[0]); v++)
	{
		llm_engine_params params = variants[v];

		params.precision = PP_PREC_INT8;
		REQUIRE((e = open_engine(params, smol_path)) != NULL);
		job = classify_job(0, n_rows, other);
		REQUIRE(run(e, &job, &err) == LLM_OK);
		CHECK(other->stats.n_errors == 0);
		for (uint32_t i = 0; i < n_rows; i++)
			CHECK_MSG(memcmp(other->values[i], got->values[i], 4 * sizeof(float)) == 0,
			          "variant %zu row %u", v, i);
		llm_engine_destroy(e);
	}
}

/* Two jobs at once, one of them generating, give what each gives alone. */
static void
test_company(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_text inputs[3] = {LLM_TEXT("the sea"), LLM_TEXT("a mountain in winter"), LLM_TEXT("bread")};
	llm_job gen, cls;
	llm_error err;
	uint64_t id;
	char alone[3][256];

	REQUIRE(e != NULL);
	gen = job_of(LLM_JOB_GENERATE, inputs, 3, got);
	gen.instruction = LLM_TEXT("Write one sentence about this.");
	gen.max_tokens = 24;
	REQUIRE(run(e, &gen, &err) == LLM_OK);
	for (int i = 0; i < 3; i++)
	{
		CHECK(got->text[i][0] != '\0' && got->n_output[i] > 0 && got->n_output[i] <= 24);
		snprintf(alone[i], sizeof(alone[i]), "%s", got->text[i]);
	}
	gen = job_of(LLM_JOB_GENERATE, inputs, 3, got);
	gen.instruction = LLM_TEXT("Write one sentence about this.");
	gen.max_tokens = 24;
	cls = classify_job(0, 60, other);
	REQUIRE(llm_engine_submit(e, &cls, &id, &err) == LLM_OK);
	REQUIRE(run(e, &gen, &err) == LLM_OK);
	for (int i = 0; i < 3; i++)
		CHECK_MSG(strcmp(alone[i], got->text[i]) == 0, "%s | %s", alone[i], got->text[i]);
	CHECK(other->n_rows == 60 && other->n_done == 1);
	llm_engine_destroy(e);
}

/* Streamed pieces are the text; stop strings cut it; the limit holds. */
static void
test_generate_options(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_text stop = LLM_TEXT("3");
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL);
	job = job_of(LLM_JOB_GENERATE, NULL, 1, got);
	job.instruction = LLM_TEXT("Count from 1 to 9, separated by commas.");
	job.max_tokens = 40;
	job.flags = LLM_JOB_STREAM;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	got->pieces[got->n_pieces] = '\0';
	CHECK_MSG(strncmp(got->pieces, got->text[0], 255) == 0, "%s | %s", got->pieces, got->text[0]);
	job = job_of(LLM_JOB_GENERATE, NULL, 1, other);
	job.instruction = LLM_TEXT("Count from 1 to 9, separated by commas.");
	job.max_tokens = 40;
	job.stops = &stop;
	job.n_stops = 1;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(strchr(other->text[0], '3') == NULL);
	if (strchr(got->text[0], '3') != NULL)
		CHECK(other->finish[0] == LLM_FINISH_STOP &&
		      strncmp(got->text[0], other->text[0], strlen(other->text[0])) == 0);
	job = job_of(LLM_JOB_GENERATE, NULL, 1, other);
	job.instruction = LLM_TEXT("Write a long story.");
	job.max_tokens = 5;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(other->n_output[0] == 5 && other->finish[0] == LLM_FINISH_LENGTH);
	llm_engine_destroy(e);
}

/*
 * A schema gives JSON that parses; a list gives one of its strings; sampling with a seed repeats.
 */
static void
test_constrained(void)
{
	static const char schema[] =
	    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},"
	    "\"age\":{\"type\":\"integer\"},\"tags\":{\"type\":\"array\",\"items\":{\"enum\":"
	    "[\"x\",\"y\"]},\"maxItems\":3}},\"required\":[\"name\",\"age\",\"tags\"]}";
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_text rows[3] = {LLM_TEXT("Ann is 41."), LLM_TEXT("Bob, 7 years"), LLM_TEXT("")};
	llm_json_doc *doc;
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL);
	for (int round = 0; round < 2; round++)
	{
		job = job_of(LLM_JOB_GENERATE, rows, 3, round == 0 ? got : other);
		job.instruction = LLM_TEXT("Extract the person.");
		job.schema = (llm_text){schema, sizeof(schema) - 1};
		job.max_tokens = 60;
		job.sample = (llm_sample_params){.temperature = 1.2f, .top_p = 0.95f, .seed = 5};
		REQUIRE(run(e, &job, &err) == LLM_OK);
	}
	for (int i = 0; i < 3; i++)
	{
		uint64_t age;

		CHECK(strcmp(got->text[i], other->text[i]) == 0);
		REQUIRE(llm_json_parse(got->text[i], strlen(got->text[i]), &doc, &err) == LLM_OK);
		CHECK(llm_json_size(llm_json_root(doc)) == 3);
		(void) llm_json_u64(llm_json_member(llm_json_root(doc), "age"), &age);
		CHECK(llm_json_get_kind(llm_json_member(llm_json_root(doc), "age")) == LLM_JSON_NUMBER);
		llm_json_free(doc);
	}
	job = job_of(LLM_JOB_GENERATE, rows, 3, got);
	job.instruction = LLM_TEXT("Say something.");
	job.allowed = topics;
	job.n_allowed = 4;
	job.max_tokens = 20;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	for (int i = 0; i < 3; i++)
	{
		bool known = false;

		for (int k = 0; k < 4; k++)
			known |= strcmp(got->text[i], topics[k].bytes) == 0;
		CHECK_MSG(known, "%s", got->text[i]);
	}
	llm_engine_destroy(e);
}

/*
 * The log-likelihood of a text is the same in one pass and in chunks, and adds up over its parts.
 */
static void
test_loglik(void)
{
	llm_text prompt[2] = {LLM_TEXT("The capital of France is"),
	                      LLM_TEXT("The capital of France is")};
	llm_text completion[2] = {LLM_TEXT(" Paris"), LLM_TEXT(" Oxygen")};
	llm_text empty = LLM_TEXT("");
	double sums[2];
	llm_job job;
	llm_error err;

	for (int v = 0; v < 2; v++)
	{
		llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8,
		                                                .budget_tokens = v == 0 ? 512 : 64},
		                            smol_path);

		REQUIRE(e != NULL);
		job = job_of(LLM_JOB_LOGLIK, prompt, 2, got);
		job.rows2 = completion;
		job.n_rows2 = 2;
		REQUIRE(run(e, &job, &err) == LLM_OK);
		CHECK_MSG(got->logprob[0] > got->logprob[1] + 2, "%f %f", got->logprob[0], got->logprob[1]);
		job = job_of(LLM_JOB_LOGLIK, prompt, 1, other);
		job.rows2 = &texts[0];
		job.n_rows2 = 1;
		REQUIRE(run(e, &job, &err) == LLM_OK);
		CHECK(other->logprob[0] < 0 && isfinite(other->logprob[0]));
		sums[v] = other->logprob[0];
		job = job_of(LLM_JOB_LOGLIK, prompt, 1, other);
		job.rows2 = &empty;
		job.n_rows2 = 1;
		REQUIRE(run(e, &job, &err) == LLM_OK);
		CHECK(other->n_rows == 1 && other->logprob[0] == 0);
		llm_engine_destroy(e);
	}
	CHECK(sums[0] == sums[1]);
}

/* Judging, relevance by a decoder, calibrated and multi-label classification. */
static void
test_scores(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_text query = LLM_TEXT("How do I boil an egg?");
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL);
	job = job_of(LLM_JOB_JUDGE, texts, 9, got);
	job.instruction = LLM_TEXT("The text is about food.");
	REQUIRE(run(e, &job, &err) == LLM_OK);
	for (int i = 0; i < 9; i++)
		CHECK(got->n_values[i] == 1 && got->values[i][0] > 0 && got->values[i][0] < 1);
	job = job_of(LLM_JOB_RELEVANCE, texts, 9, got);
	job.rows2 = &query;
	job.n_rows2 = 1;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == 9 && isfinite(got->values[8][0]));
	job = classify_job(0, 9, got);
	job.flags = LLM_JOB_CALIBRATE;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == 9 && got->n_done == 1);
	job = classify_job(0, 9, other);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(memcmp(got->values[3], other->values[3], 4 * sizeof(float)) != 0);
	job = classify_job(0, 5, got);
	job.flags = LLM_JOB_MULTI;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == 5 && got->n_values[4] == 4);
	llm_engine_destroy(e);
}

/* Prefixes are found again under the same salt and never under another; prewarm pins them. */
static void
test_salts(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_salt ann = {{1}};
	llm_salt bob = {{2}};
	llm_prefix_info info[8];
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL);
	for (int round = 0; round < 3; round++)
	{
		job = classify_job(0, 1, got);
		job.salt = round == 2 ? bob : ann;
		REQUIRE(run(e, &job, &err) == LLM_OK);
		CHECK((got->n_shared[0] > 0) == (round == 1));
	}
	job = classify_job(0, 0, got);
	job.kind = LLM_JOB_PREWARM;
	job.instruction = LLM_TEXT("A quite different instruction that is long enough to matter.");
	job.labels = NULL;
	job.n_labels = 0;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_done == 1 && got->status == LLM_OK);
	{
		uint32_t n = llm_engine_prefixes(e, "m", info, 8);
		bool pinned = false;

		for (uint32_t i = 0; i < n && i < 8; i++)
			pinned |= info[i].pinned;
		CHECK(n >= 3 && pinned);
	}
	llm_engine_destroy(e);
}

/* Embeddings have unit length, near texts are near, batches change nothing. */
static void
test_embed(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, minilm_path);
	llm_text docs[3] = {LLM_TEXT("A cat sleeps on the sofa."),
	                    LLM_TEXT("Interest rates rose again."), LLM_TEXT("")};
	llm_text query = LLM_TEXT("a sleeping kitten");
	float first[VALUES_MAX];
	double norm = 0;
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL);
	job = job_of(LLM_JOB_EMBED, texts, 1, got);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_values[0] == 384);
	memcpy(first, got->vector, sizeof(first));
	for (int i = 0; i < 384; i++)
		norm += (double) first[i] * first[i];
	CHECK(fabs(norm - 1) < 1e-3);
	job = job_of(LLM_JOB_EMBED, texts, 100, other);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(other->n_rows == 100 && memcmp(other->values[0], first, 8 * sizeof(float)) == 0);
	job = job_of(LLM_JOB_RELEVANCE, docs, 3, got);
	job.rows2 = &query;
	job.n_rows2 = 1;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK_MSG(got->values[0][0] > got->values[1][0] + 0.2f, "%f %f", got->values[0][0],
	          got->values[1][0]);
	job = job_of(LLM_JOB_GENERATE, docs, 1, got);
	CHECK(run(e, &job, &err) == LLM_E_UNSUPPORTED);
	llm_engine_destroy(e);
}

/* A decoder with a pooling embeds by its last token's state; batches and chunks change nothing. */
static void
test_embed_decoder(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_F32, .budget_tokens = 8},
	                            "test/data/models/qwen3-embed");
	llm_text rows[5] = {LLM_TEXT("the rain in the other plain on and on"), LLM_TEXT("a"),
	                    LLM_TEXT("the rain in the other plain on and off"), LLM_TEXT("inner"),
	                    LLM_TEXT("")};
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL);
	job = job_of(LLM_JOB_EMBED, rows, 5, got);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == 5 && got->n_values[0] == 32 && got->row_status[4] == LLM_E_RANGE);
	for (uint32_t i = 0; i < 4; i++)
	{
		double norm = 0;

		job = job_of(LLM_JOB_EMBED, rows + i, 1, other);
		REQUIRE(run(e, &job, &err) == LLM_OK);
		for (int k = 0; k < 32; k++)
			norm += (double) other->vector[k] * other->vector[k];
		CHECK(fabs(norm - 1) < 1e-5);
		CHECK(memcmp(other->values[0], got->values[i], sizeof(got->values[i])) == 0);
	}
	job = job_of(LLM_JOB_RELEVANCE, rows, 4, got);
	job.rows2 = rows;
	job.n_rows2 = 1;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(fabsf(got->values[0][0] - 1) < 1e-5f && got->values[1][0] < 0.999f);
	job = job_of(LLM_JOB_GENERATE, rows, 1, got);
	CHECK(run(e, &job, &err) == LLM_E_UNSUPPORTED && strstr(err.message, "embedder") != NULL);
	job = classify_job(0, 1, got);
	CHECK(run(e, &job, &err) == LLM_E_UNSUPPORTED);
	llm_engine_destroy(e);
}

/*
 * A row's error stays with the row; an argument's error refuses the job; nothing is half accepted.
 */
static void
test_bad_input(void)
{
	llm_engine *e =
	    open_engine((llm_engine_params){.precision = PP_PREC_INT8, .max_queued = 100}, smol_path);
	size_t n_huge = 6000000;
	char *huge = malloc(n_huge);
	llm_text rows[4] = {LLM_TEXT("fine"),
	                    {huge, n_huge},
	                    LLM_TEXT("bad \xff utf8"),
	                    LLM_TEXT("nul \0 inside")};
	llm_text same[2] = {LLM_TEXT("x"), LLM_TEXT("x")};
	llm_text prefixes[3] = {LLM_TEXT("a"), LLM_TEXT("a b"), LLM_TEXT("a b c")};
	llm_job job;
	llm_error err;

	REQUIRE(e != NULL && huge != NULL);
	for (size_t i = 0; i < n_huge; i++)
		huge[i] = i % 6 == 5 ? ' ' : (char) ('a' + i % 23);
	job = job_of(LLM_JOB_GENERATE, rows, 4, got);
	job.max_tokens = 3;
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == 4 && got->n_done == 1 && got->stats.n_errors == 2);
	CHECK(got->row_status[0] == LLM_OK && got->row_status[1] == LLM_E_TOO_LONG);
	CHECK(got->row_status[2] == LLM_E_FORMAT && got->row_status[3] == LLM_OK);
	job = job_of(LLM_JOB_CLASSIFY, rows, 1, got);
	job.labels = same;
	job.n_labels = 2;
	CHECK(run(e, &job, &err) == LLM_E_RANGE);
	job.n_labels = 1;
	CHECK(run(e, &job, &err) == LLM_E_RANGE);
	job.labels = prefixes;
	job.n_labels = 3;
	CHECK(run(e, &job, &err) == LLM_OK && got->n_rows == 1);
	job.model = "nobody";
	CHECK(run(e, &job, &err) == LLM_E_NOT_FOUND);
	job = classify_job(0, 200, got);
	CHECK(run(e, &job, &err) == LLM_E_BUSY && got->n_done == 0);
	job = job_of(LLM_JOB_GENERATE, rows, 1, got);
	job.sample.temperature = NAN;
	CHECK(run(e, &job, &err) == LLM_E_RANGE);
	job = job_of(LLM_JOB_EMBED, rows, 1, got);
	CHECK(run(e, &job, &err) == LLM_E_UNSUPPORTED);
	CHECK(llm_engine_load(e, "m", smol_path, NULL, &err) == LLM_E_RANGE);
	CHECK(llm_engine_load(e, "n", "/nonexistent", NULL, &err) != LLM_OK);
	CHECK(llm_engine_load(e, "", smol_path, NULL, &err) == LLM_E_RANGE);
	CHECK(llm_engine_unload(e, "nobody", &err) == LLM_E_NOT_FOUND);
	free(huge);
	llm_engine_destroy(e);
}

/* Cancel, unload and destroy in the middle: every accepted job ends exactly once, others go on. */
static void
test_ends_once(void)
{
	llm_engine *e = open_engine((llm_engine_params){.precision = PP_PREC_INT8}, smol_path);
	llm_job job, job2;
	llm_error err;
	uint64_t id, id2;
	llm_engine_stats stats;

	REQUIRE(e != NULL);
	job = classify_job(0, 300, got);
	job2 = classify_job(300, 20, other);
	job2.caller = 9;
	REQUIRE(llm_engine_submit(e, &job, &id, &err) == LLM_OK);
	REQUIRE(llm_engine_submit(e, &job2, &id2, &err) == LLM_OK);
	CHECK(llm_engine_step(e));
	llm_engine_cancel(e, id);
	llm_engine_step(e);
	CHECK(got->n_done == 1 && got->status == LLM_E_CANCELLED && got->n_rows < 300);
	while (llm_engine_step(e))
		;
	CHECK(other->n_done == 1 && other->status == LLM_OK && other->n_rows == 20);
	job2 = classify_job(0, 300, other);
	job2.caller = 9;
	REQUIRE(llm_engine_submit(e, &job2, &id2, &err) == LLM_OK);
	llm_engine_step(e);
	llm_engine_cancel_caller(e, 9);
	llm_engine_step(e);
	CHECK(other->n_done == 1 && other->status == LLM_E_CANCELLED);
	job = classify_job(0, 300, got);
	REQUIRE(llm_engine_submit(e, &job, &id, &err) == LLM_OK);
	llm_engine_step(e);
	CHECK(llm_engine_unload(e, "m", &err) == LLM_OK);
	CHECK(got->n_done == 1 && got->status == LLM_E_CANCELLED);
	CHECK(run(e, &job, &err) == LLM_E_NOT_FOUND);
	REQUIRE(llm_engine_load(e, "m", smol_path, NULL, &err) == LLM_OK);
	job = classify_job(0, 30, got);
	REQUIRE(llm_engine_submit(e, &job, &id, &err) == LLM_OK);
	llm_engine_step(e);
	llm_engine_get_stats(e, &stats);
	CHECK(stats.bytes_weights > 0 && stats.n_passes > 0);
	llm_engine_destroy(e);
	CHECK(got->n_done == 1);
}

/*
 * A limit that does not hold weights and a page refuses the load; one that does is never exceeded.
 */
static void
test_memory_limit(void)
{
	llm_engine_params params = {.precision = PP_PREC_INT8,
	                            .memory_limit = 50 << 20,
	                            .n_threads = 1};
	llm_engine *e;
	llm_error err;
	llm_engine_stats stats;
	llm_job job;

	REQUIRE(llm_engine_create(&params, &e, &err) == LLM_OK);
	CHECK(llm_engine_load(e, "m", smol_path, NULL, &err) == LLM_E_LIMIT);
	llm_engine_destroy(e);
	params.memory_limit = 400 << 20;
	REQUIRE(llm_engine_create(&params, &e, &err) == LLM_OK);
	REQUIRE(llm_engine_load(e, "m", smol_path, NULL, &err) == LLM_OK);
	job = classify_job(0, 200, got);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(got->n_rows == 200 && got->stats.n_errors == 0);
	llm_engine_get_stats(e, &stats);
	CHECK(stats.bytes_weights + stats.bytes_kv + stats.bytes_scratch <= params.memory_limit);
	llm_engine_destroy(e);
}

/* The CPU has no choice of how weights are held, and says so. */
static void
test_quantisation(void)
{
	const char *const names[] = {"bf16", "fp8", "q8", NULL, "auto"};
	llm_engine_params params = {.precision = PP_PREC_INT8, .device = "cpu", .n_threads = 1};

	for (int i = 0; i < 5; i++)
	{
		llm_engine *e = NULL;
		llm_error err = {0};
		llm_status status;

		params.quantisation = names[i];
		status = llm_engine_create(&params, &e, &err);
		CHECK(status == (i < 3 ? LLM_E_UNSUPPORTED : LLM_OK));
		CHECK(i >= 3 || strstr(err.message, names[i]) != NULL);
		if (status == LLM_OK)
			llm_engine_destroy(e);
	}
}

/*
 * The N-th allocation fails, for every N of a job: a status, no crash, no leak, and the engine goes
 * on.
 */
static void
test_allocation_faults(void)
{
	llm_engine *e =
	    open_engine((llm_engine_params){.precision = PP_PREC_INT8, .budget_tokens = 64}, smol_path);
	llm_job job;
	llm_error err;
	uint64_t used;

	REQUIRE(e != NULL);
	job = classify_job(1, 2, got);
	used = llm_alloc_count();
	REQUIRE(run(e, &job, &err) == LLM_OK);
	used = llm_alloc_count() - used;
	CHECK(used > 10);
	for (uint64_t n = 1; n <= used + 2; n += 1 + n / 40)
	{
		llm_status status;

		job = classify_job(1, 2, other);
		llm_alloc_fail_after(n, false);
		status = run(e, &job, &err);
		llm_alloc_fail_after(0, false);
		while (llm_engine_step(e))
			;
		if (status != LLM_OK)
			CHECK(other->n_done == 0);
		else
			CHECK_MSG(other->n_done == 1, "allocation %llu", (unsigned long long) n);
	}
	job = classify_job(1, 2, other);
	REQUIRE(run(e, &job, &err) == LLM_OK);
	CHECK(memcmp(other->values, got->values, sizeof(got->values[0]) * 2) == 0);
	llm_engine_destroy(e);
}

int
main(void)
{
	if (!find_models())
	{
		printf("SKIP: models/smollm2-135m.gguf and models/minilm-l6 are absent (make models)\n");
		return test_summary("engine");
	}
	got = calloc(1, sizeof(*got));
	other = calloc(1, sizeof(*other));
	make_texts();
	RUN(same_row_same_answer);
	RUN(company);
	RUN(generate_options);
	RUN(constrained);
	RUN(loglik);
	RUN(scores);
	RUN(salts);
	RUN(embed);
	RUN(embed_decoder);
	RUN(bad_input);
	RUN(ends_once);
	RUN(memory_limit);
	RUN(quantisation);
	RUN(allocation_faults);
	free(got);
	free(other);
	return test_summary("engine");
}
