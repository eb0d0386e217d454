/*
 * llm_cli_selftest.c: prepack-engine selftest: does this build compute rightly on this machine?
 *
 * Three questions, each answered by lines "ok" or "FAILED". Do the matrix products of every
 * instruction set that the processor has agree with the plain reference in double? Does a model
 * give a row the same bits alone and packed with others, which is what the engine promises? Are its
 * results sane: probabilities that sum to 1, vectors of length 1 of which the closest means the
 * same? Without MODEL all models of the model folder are tried; without any the first question
 * alone is asked.
 *
 * With --quantisation fp8 it also tells what that costs: the perplexity of a text, beside that of
 * the same weights as the file has them.
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "../../kernels/ref/ref.h"
#include "llm_alloc.h"
#include "llm_cli.h"
#include "llm_cpu.h"

#define ROW_BYTES 32768u /* of a row's result: vectors of up to 8,192 numbers */
#define N_TEXTS   6u
#define LONG_TEXT 3u /* index of the text that is repeated until it is long */
#define N_REPEATS 60u

/* The product that is checked: odd sizes, so that edges of blocks count. */
#define M_TOKENS 19u
#define M_ROWS   112u
#define M_COLS   192u

/* What has been found so far. */
typedef struct selftest
{
	uint32_t n_ok;
	uint32_t n_failed;
	llm_engine *e;
	llm_model_info info;
	uint64_t n_runs;
	llm_text texts[N_TEXTS];
	const char *device;
	const char *quantisation;
	uint32_t n_threads;
} selftest;

/* The results of a job's rows as bytes. */
typedef struct results
{
	uint8_t *bytes; /* [n_rows, ROW_BYTES] */
	size_t n[N_TEXTS];
	uint32_t offset; /* row of the first result */
} results;

static const char *const texts[N_TEXTS] = {
    "A cat sleeps on the sofa.",
    "The kitten is napping on the couch.",
    "Interest rates were raised by the central bank.",
    "Each time the parcel arrived the box was open and something had been taken out. ",
    "",
    "Ünïcödé, emoji \xf0\x9f\x98\x80 and 数字 12345 are text as well.",
};

/* Counts and prints the outcome of one check. */
static void check(selftest *t, bool ok, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Prints the line at once, so that a crash shows where it was. */
static void
check(selftest *t, bool ok, const char *fmt, ...)
{
	va_list ap;

	if (ok)
		t->n_ok++;
	else
		t->n_failed++;
	printf("%-8s ", ok ? "ok" : "FAILED");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	fflush(stdout);
}

/* A number in [-1, 1) that looks random. */
static float
mixed(uint32_t i)
{
	uint32_t x = (i + 1) * 2654435761u;

	x ^= x >> 15;
	x *= 2246822519u;
	x ^= x >> 13;
	return (float) x / 2147483648.0f - 1.0f;
}

/* The root of the mean square of a − b over that of b. */
static double
relative_error(const float *a, const double *b, size_t n)
{
	double error = 0;
	double norm = 0;

	for (size_t i = 0; i < n; i++)
	{
		error += (a[i] - b[i]) * (a[i] - b[i]);
		norm += b[i] * b[i];
	}
	return sqrt(error / norm);
}

/*
 * One product on one instruction set: its distance from the reference, and whether its last row is
 * the same bits when computed alone.
 */
static void
check_product(selftest *t, llm_cpu_isa isa, pp_precision precision, const float *x, const float *w)
{
	static const char *const names[] = {"base", "AVX2", "AVX-512", "VNNI", "AMX"};
	static double expected[M_TOKENS * M_ROWS];
	static float out[M_TOKENS * M_ROWS];
	float alone[M_ROWS];
	pp_matrix_part part = {.data = w,
	                       .dtype = PP_F32,
	                       .n_rows = M_ROWS,
	                       .row_bytes = M_COLS * sizeof(float)};
	pp_backend *be = llm_cpu_create_isa(0, isa);
	pp_matrix *m = be != NULL ? be->ops->matrix_create(be, &part, 1, M_COLS, precision) : NULL;
	double limit = precision == PP_PREC_F32 ? 1e-5 : 2e-2;
	const char *kind = precision == PP_PREC_F32 ? "float" : "int8";
	double error;

	matmul_ref(expected, x, w, NULL, M_TOKENS, M_ROWS, M_COLS);
	if (m == NULL || be->ops->matmul(be, out, x, m, NULL, M_TOKENS) != PP_OK ||
	    be->ops->matmul(be, alone, x + (M_TOKENS - 1) * M_COLS, m, NULL, 1) != PP_OK)
		check(t, false, "%s products on %s: %s", kind, names[isa],
		      be != NULL ? be->message : "out of memory");
	else
	{
		error = relative_error(out, expected, M_TOKENS * M_ROWS);
		check(t, error < limit, "%s products on %s: relative error %.1e", kind, names[isa], error);
		check(t, memcmp(alone, out + (M_TOKENS - 1) * M_ROWS, sizeof(alone)) == 0,
		      "%s products on %s: a row alone has the same bits", kind, names[isa]);
	}
	if (m != NULL)
		be->ops->matrix_destroy(be, m);
	if (be != NULL)
		pp_cpu_destroy(be);
}

/* Checks products on every instruction set of this processor. */
static void
check_device(selftest *t)
{
	static float x[M_TOKENS * M_COLS];
	static float w[M_ROWS * M_COLS];

	printf("device   cpu, %s\n", llm_cli_isa());
	for (uint32_t i = 0; i < M_TOKENS * M_COLS; i++)
		x[i] = mixed(i);
	for (uint32_t i = 0; i < M_ROWS * M_COLS; i++)
		w[i] = mixed(i + 1000000);
	for (int isa = LLM_ISA_BASE; isa <= (int) llm_cpu_detect(); isa++)
	{
		check_product(t, (llm_cpu_isa) isa, PP_PREC_F32, x, w);
		check_product(t, (llm_cpu_isa) isa, PP_PREC_INT8, x, w);
	}
}

/* Keeps a row's result as bytes. */
static void
on_row(void *user, const llm_row_result *result)
{
	results *r = user;
	uint32_t row = r->offset + result->row;
	const void *from = &result->logprob;
	size_t n = sizeof(result->logprob);

	if (result->text.bytes != NULL)
	{
		from = result->text.bytes;
		n = result->text.n;
	}
	else if (result->n_values > 0)
	{
		from = result->values;
		n = result->n_values * sizeof(float);
	}
	if (n > ROW_BYTES)
		n = ROW_BYTES;
	memcpy(r->bytes + (size_t) row * ROW_BYTES, from, n);
	r->n[row] = n;
}

/* Runs a job under a salt of its own, so that it finds no other run's prefixes. */
static llm_status
run_job(selftest *t, llm_job *job, results *r, llm_error *err)
{
	t->n_runs++;
	memcpy(job->salt.bytes, &t->n_runs, sizeof(t->n_runs));
	job->model = LLM_CLI_MODEL;
	job->user = r;
	job->on_row = on_row;
	return llm_cli_run(t->e, job, NULL, err);
}

/* Runs the job's rows together, then each alone. False with a failed check when a run failed. */
static bool
run_both(selftest *t, const char *what, const llm_job *job, results *packed, results *alone)
{
	llm_error err;
	llm_job one = *job;
	llm_job all = *job;
	llm_status status = run_job(t, &all, packed, &err);

	for (uint32_t i = 0; status == LLM_OK && i < job->n_rows; i++)
	{
		one.n_rows = 1;
		one.sample.seed = job->sample.seed + i; /* row i of a job draws so */
		one.rows = job->rows + i;
		one.rows2 = job->n_rows2 > 1 ? job->rows2 + i : job->rows2;
		one.n_rows2 = job->n_rows2 > 1 ? 1 : job->n_rows2;
		alone->offset = i;
		status = run_job(t, &one, alone, &err);
	}
	if (status != LLM_OK)
		check(t, false, "%s: %s", what, err.message);
	return status == LLM_OK;
}

/*
 * Checks that every row has the same bits packed and alone; sane, when given, looks at the packed
 * results.
 */
static void
check_job(selftest *t, const char *what, const llm_job *job,
          void (*sane)(selftest *t, const results *r))
{
	results packed = {.bytes = llm_calloc(N_TEXTS, ROW_BYTES)};
	results alone = {.bytes = llm_calloc(N_TEXTS, ROW_BYTES)};
	uint32_t n_same = 0;

	if (packed.bytes == NULL || alone.bytes == NULL)
		check(t, false, "%s: out of memory", what);
	else if (run_both(t, what, job, &packed, &alone))
	{
		for (uint32_t i = 0; i < job->n_rows; i++)
			n_same += packed.n[i] > 0 && packed.n[i] == alone.n[i] &&
			          memcmp(packed.bytes + (size_t) i * ROW_BYTES,
			                 alone.bytes + (size_t) i * ROW_BYTES, packed.n[i]) == 0;
		check(t, n_same == job->n_rows, "%s: %u of %u rows have the same bits packed and alone",
		      what, n_same, job->n_rows);
		if (sane != NULL)
			sane(t, &packed);
	}
	llm_free(packed.bytes);
	llm_free(alone.bytes);
}

/* The numbers of a row. */
static const float *
row_values(const results *r, uint32_t row)
{
	return (const float *) (const void *) (r->bytes + (size_t) row * ROW_BYTES);
}

/* Checks that each row's probabilities sum to 1. */
static void
sane_probabilities(selftest *t, const results *r)
{
	double worst = 0;

	for (uint32_t i = 0; i < N_TEXTS; i++)
	{
		double sum = 0;

		for (size_t k = 0; k < r->n[i] / sizeof(float); k++)
			sum += row_values(r, i)[k];
		worst = fmax(worst, isnan(sum) ? INFINITY : fabs(sum - 1));
	}
	check(t, worst < 1e-5, "classify: probabilities sum to 1 within %.0e", worst);
}

/* Checks that what is logged is a probability. */
static void
sane_loglik(selftest *t, const results *r)
{
	bool ok = true;

	for (uint32_t i = 0; i < N_TEXTS; i++)
	{
		double logprob;

		memcpy(&logprob, r->bytes + (size_t) i * ROW_BYTES, sizeof(logprob));
		ok = ok && isfinite(logprob) && logprob < 0;
	}
	check(t, ok, "log_likelihood: all are finite and below 0");
}

/* Checks that an answer out of a list is one of the list. */
static void
sane_allowed(selftest *t, const results *r)
{
	bool ok = true;

	for (uint32_t i = 0; i < N_TEXTS; i++)
	{
		const void *text = r->bytes + (size_t) i * ROW_BYTES;

		ok = ok && ((r->n[i] == 3 && memcmp(text, "yes", 3) == 0) ||
		            (r->n[i] == 2 && memcmp(text, "no", 2) == 0));
	}
	check(t, ok, "generate out of a list: every answer is in the list");
}

/* The product of two rows' vectors. */
static double
dot(const results *r, uint32_t a, uint32_t b)
{
	double sum = 0;

	for (size_t i = 0; i < r->n[a] / sizeof(float); i++)
		sum += (double) row_values(r, a)[i] * row_values(r, b)[i];
	return sum;
}

/* The cosine of two rows' vectors. */
static double
cosine(const results *r, uint32_t a, uint32_t b)
{
	return dot(r, a, b) / sqrt(dot(r, a, a) * dot(r, b, b));
}

/* Checks that the first two texts, which mean the same, are closer than the third. */
static void
sane_vectors(selftest *t, const results *r)
{
	double near = cosine(r, 0, 1);
	double far = fmax(cosine(r, 0, 2), cosine(r, 1, 2));

	check(t, near > far, "embed: cosine of two texts that mean the same is %.2f, of others %.2f",
	      near, far);
}

/* Checks that the first text's own words are more relevant to it than the third text. */
static void
sane_relevance(selftest *t, const results *r)
{
	float near = row_values(r, 1)[0];
	float far = row_values(r, 2)[0];

	check(t, near > far, "relevance: of a text that means the same %.2f, of another %.2f",
	      (double) near, (double) far);
}

/* The jobs that a decoder takes. */
static void
check_decoder(selftest *t)
{
	static const llm_text labels[] = {LLM_TEXT("animals"), LLM_TEXT("money"), LLM_TEXT("post")};
	static const llm_text allowed[] = {LLM_TEXT("yes"), LLM_TEXT("no")};
	llm_text completions[N_TEXTS];
	llm_job job = {.rows = t->texts, .n_rows = N_TEXTS, .max_tokens = 8};

	job.kind = LLM_JOB_GENERATE;
	job.instruction = LLM_TEXT("Say what this text is about.");
	check_job(t, "generate", &job, NULL);
	job.sample = (llm_sample_params){.temperature = 1, .seed = 7};
	check_job(t, "generate with a seed", &job, NULL);
	job.allowed = allowed;
	job.n_allowed = 2;
	check_job(t, "generate out of a list", &job, sane_allowed);
	job = (llm_job){.kind = LLM_JOB_CLASSIFY,
	                .rows = t->texts,
	                .n_rows = N_TEXTS,
	                .labels = labels,
	                .n_labels = 3};
	check_job(t, "classify", &job, sane_probabilities);
	for (uint32_t i = 0; i < N_TEXTS; i++)
		completions[i] = LLM_TEXT(" And that is all.");
	job = (llm_job){.kind = LLM_JOB_LOGLIK,
	                .rows = t->texts,
	                .n_rows = N_TEXTS,
	                .rows2 = completions,
	                .n_rows2 = N_TEXTS};
	check_job(t, "log_likelihood", &job, sane_loglik);
}

/* The job that an encoder takes. */
static void
check_encoder(selftest *t)
{
	llm_text query = t->texts[0];
	llm_job job = {.kind = LLM_JOB_EMBED,
	               .flags = LLM_JOB_TRUNCATE,
	               .rows = t->texts,
	               .n_rows = N_TEXTS};

	if (t->info.kind == LLM_KIND_EMBED)
	{
		check_job(t, "embed", &job, sane_vectors);
		return;
	}
	job.kind = LLM_JOB_RELEVANCE;
	job.rows2 = &query;
	job.n_rows2 = 1;
	check_job(t, "relevance", &job, sane_relevance);
}

/* The text whose perplexity is taken: 96 words that no model has by heart. */
static const char cost_text[] =
    " of the harbour wrote down every boat that came in before noon. On Tuesday there were eleven, "
    "and two of them carried nothing but salt. He asked the captain of the smaller one why anyone "
    "would bring salt to a town that has the sea at its door. The captain laughed and said that "
    "the "
    "sea was there for everyone, but dry salt only for those who had waited through a summer. So "
    "the "
    "clerk bought a sack, stored it under the stairs, and in February, when the roads were ice, "
    "the "
    "whole street came to knock.";

/* Keeps the mean of a row's tokens. */
static void
keep_nll(void *user, const llm_row_result *result)
{
	if (result->status == LLM_OK && result->n_tokens > 0)
		*(double *) user = -result->logprob / result->n_tokens;
}

/* Mean −ln p of a token of the text in a form of the weights; NAN: err says why. */
static double
mean_nll(const selftest *t, const char *model, const char *quantisation, llm_error *err)
{
	const llm_engine_params params = {.device = t->device,
	                                  .quantisation = quantisation,
	                                  .n_threads = t->n_threads,
	                                  .precision = PP_PREC_INT8};
	llm_text prompt = LLM_TEXT("The clerk");
	llm_text text = LLM_TEXT(cost_text);
	double nll = NAN;
	llm_engine *e;
	llm_job job = {.kind = LLM_JOB_LOGLIK,
	               .model = LLM_CLI_MODEL,
	               .rows = &prompt,
	               .n_rows = 1,
	               .rows2 = &text,
	               .n_rows2 = 1,
	               .user = &nll,
	               .on_row = keep_nll};

	if (llm_cli_open(model, &params, &e, NULL, err) != LLM_OK)
		return NAN;
	if (llm_cli_run(e, &job, NULL, err) != LLM_OK)
		nll = NAN;
	llm_engine_destroy(e);
	return nll;
}

/* What fp8 costs a decoder. */
static void
check_cost(selftest *t, const char *model)
{
	llm_error err = {0};
	double fp8 = mean_nll(t, model, "fp8", &err);
	double native = mean_nll(t, model, "auto", &err);

	if (!isfinite(fp8) || !isfinite(native))
		check(t, false, "fp8: %s", err.message);
	else
		check(t, exp(fp8 - native) < 1.1, "fp8: perplexity %.3f, %+.2f %% against %.3f", exp(fp8),
		      100 * (exp(fp8 - native) - 1), exp(native));
}

/* Loads one model and checks it. */
static void
check_model(selftest *t, const char *model)
{
	const llm_engine_params params = {.device = t->device,
	                                  .quantisation = t->quantisation,
	                                  .n_threads = t->n_threads,
	                                  .precision = PP_PREC_INT8};
	llm_engine_stats stats;
	llm_error err;

	printf("model    %s\n", model);
	if (llm_cli_open(model, &params, &t->e, &t->info, &err) != LLM_OK)
	{
		check(t, false, "load: %s", err.message);
		return;
	}
	llm_engine_get_stats(t->e, &stats);
	check(t, true, "load: %s, %.1f million parameters, on %s, %u tokens a pass", t->info.arch,
	      (double) t->info.n_params / 1e6, stats.device, t->info.budget_tokens);
	if (t->info.kind == LLM_KIND_GENERATE)
		check_decoder(t);
	else
		check_encoder(t);
	llm_engine_destroy(t->e);
	if (t->info.kind == LLM_KIND_GENERATE && t->quantisation != NULL &&
	    strcmp(t->quantisation, "fp8") == 0)
		check_cost(t, model);
}

/* Checks the named model, or all of the model folder. */
static llm_status
check_models(selftest *t, const char *model, llm_error *err)
{
	char **paths;
	uint32_t n;

	if (model != NULL)
	{
		check_model(t, model);
		return LLM_OK;
	}
	if (llm_cli_model_list(&paths, &n, err) != LLM_OK)
		return err->code;
	for (uint32_t i = 0; i < n; i++)
		check_model(t, paths[i]);
	if (n == 0)
		printf("model    none in the model folder, so none is checked\n");
	llm_cli_model_list_free(paths, n);
	return LLM_OK;
}

/* Makes the texts, one of them long, and asks all questions. */
static llm_status
run(selftest *t, const char *model, llm_error *err)
{
	size_t n = strlen(texts[LONG_TEXT]);
	char *repeated = llm_malloc(n * N_REPEATS + 1);
	llm_status status;

	if (repeated == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a text");
	for (uint32_t i = 0; i < N_REPEATS; i++)
		memcpy(repeated + i * n, texts[LONG_TEXT], n);
	for (uint32_t i = 0; i < N_TEXTS; i++)
		t->texts[i] = (llm_text){texts[i], strlen(texts[i])};
	t->texts[LONG_TEXT] = (llm_text){repeated, n * N_REPEATS};
	check_device(t);
	status = check_models(t, model, err);
	llm_free(repeated);
	return status;
}

/* prepack-engine selftest */
int
llm_cli_selftest(int argc, char **argv)
{
	selftest t = {0};
	const llm_cli_option options[] = {{"--threads", "N", LLM_CLI_COUNT, &t.n_threads,
	                                   "threads (all cores)"},
	                                  {"--device", "DEVICE", LLM_CLI_TEXT, &t.device,
	                                   "auto, cpu or cuda:N (auto)"},
	                                  {"--quantisation", "FORM", LLM_CLI_TEXT, &t.quantisation,
	                                   "weights on a card: auto, bf16 or fp8 (auto)"}};
	const llm_cli_command command = {
	    .name = "selftest",
	    .arguments = "[MODEL]",
	    .what = "Checks that this machine computes rightly with MODEL, or with every model of the\n"
	            "model folder.",
	    .n_args_max = 1,
	    .options = options,
	    .n_options = 3};
	const char *args[1];
	llm_error err = {0};
	int status = llm_cli_parse(&command, argc, argv, args);

	if (status != LLM_CLI_RUN)
		return status;
	if (run(&t, args[0], &err) != LLM_OK)
		return llm_cli_fail(&err);
	printf("selftest: %u ok, %u failed\n", t.n_ok, t.n_failed);
	return t.n_failed == 0 ? LLM_CLI_OK : LLM_CLI_FAILED;
}
