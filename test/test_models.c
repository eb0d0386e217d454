/*
 * test_models.c: real weights against recorded references; skipped where the weights are not there.
 *
 * SmolLM2-135M (GGUF, Q4_1) must continue twenty prompts with the very tokens that transformers
 * gives on the dequantised weights, give English the same perplexity, and lose at most one percent
 * of it in int8. MiniLM (a folder) must embed as sentence-transformers does. The references are
 * made by scripts/make-model-fixtures.py.
 */
#include "../src/llm/llm_json.h"
#include "model_fixture.h"

#define DATA "test/data/models/"

/*
 * Float matrix products are slow under AddressSanitizer: two prompts run the same code as twenty.
 */
#ifdef __SANITIZE_ADDRESS__
#define PROMPTS 2
#else
#define PROMPTS 20
#endif
#define SMOLLM2     "smollm2-135m.gguf"
#define MINILM      "minilm-l6/config.json"
#define CHUNK       64u
#define MARGIN_TINY 2e-3
#define MARGIN_BF16 0.15f /* the same in bf16, whose logits are good to a percent */

/* Parses one of the reference files; NULL on failure. */
static llm_json_doc *
open_json(const char *path)
{
	llm_error err;
	llm_json_doc *doc = NULL;
	size_t bytes;
	char *text = fixture_read_file(path, &bytes);

	if (text != NULL)
		llm_json_parse(text, bytes, &doc, &err);
	free(text);
	return doc;
}

/* Copies an array of ids. */
static uint32_t
read_ids(const llm_json *array, int32_t *ids, uint32_t max)
{
	uint32_t n = 0;
	int64_t id;

	while (n < max && llm_json_i64(llm_json_item(array, n), &id))
		ids[n++] = (int32_t) id;
	return n;
}

/*
 * Continues one prompt greedily. Returns the number of leading tokens that agree; *margin gets the
 * lead of the best token over the reference's where they part.
 */
static uint32_t
continue_prompt(fixture *f, const llm_json *row, float *logits, float *margin)
{
	int32_t ids[512];
	int32_t want[64];
	uint32_t n = read_ids(llm_json_member(row, "ids"), ids, 512);
	uint32_t n_want = read_ids(llm_json_member(row, "tokens"), want, 64);
	uint32_t n_vocab = f->m->arch.n_vocab;
	uint32_t past = 0;
	llm_error err;

	for (uint32_t i = 0; i < n_want; i++)
	{
		uint32_t best;

		if (fixture_decode(f, 0, past, ids, n, logits, &err) != LLM_OK)
			return i;
		past += n;
		best = fixture_argmax(logits + (size_t) (n - 1) * n_vocab, n_vocab);
		*margin = logits[(size_t) (n - 1) * n_vocab + best] -
		          logits[(size_t) (n - 1) * n_vocab + (uint32_t) want[i]];
		if ((int32_t) best != want[i])
			return i;
		ids[0] = want[i];
		n = 1;
	}
	return n_want;
}

static void
test_smollm2_greedy(void)
{
	const char *path = fixture_model(SMOLLM2);
	llm_json_doc *doc;
	const llm_json *root;
	llm_error err = {0};
	fixture f;
	float *logits;

	if (path == NULL)
		SKIP("no SmolLM2 weights (scripts/fetch-model smollm2-135m)");
	REQUIRE((doc = open_json(DATA "smollm2-greedy.json")) != NULL);
	root = llm_json_root(doc);
	if (!fixture_open(&f, path, PP_PREC_F32, 1, 256, 128, &err))
	{
		CHECK_MSG(false, "%s", err.message);
		llm_json_free(doc);
		return;
	}
	logits = malloc((size_t) 128 * f.m->arch.n_vocab * sizeof(float));
	CHECK(llm_json_size(root) == 20);
	for (uint64_t i = 0; logits != NULL && i < llm_json_size(root) && i < PROMPTS; i++)
	{
		const llm_json *row = llm_json_item(root, i);
		float margin = 0.0f;
		uint32_t n = continue_prompt(&f, row, logits, &margin);

		/* two sums in another order may flip a choice only where it was a tie to begin with */
		CHECK_MSG(n == 64 || margin < (fixture_device() != NULL ? MARGIN_BF16 : MARGIN_TINY),
		          "prompt %u parts at token %u by %g", (unsigned) i, n, (double) margin);
	}
	free(logits);
	fixture_close(&f);
	llm_json_free(doc);
}

/* Mean negative log-likelihood of the ids, read in chunks that share one sequence. */
static double
mean_nll(fixture *f, const int32_t *ids, uint32_t n, float *logits)
{
	uint32_t n_vocab = f->m->arch.n_vocab;
	double sum = 0.0;
	llm_error err;

	for (uint32_t at = 0; at + 1 < n; at += CHUNK)
	{
		uint32_t n_new = n - 1 - at < CHUNK ? n - 1 - at : CHUNK;

		if (fixture_decode(f, 0, at, ids + at, n_new, logits, &err) != LLM_OK)
			return INFINITY;
		for (uint32_t i = 0; i < n_new; i++)
		{
			const float *row = logits + (size_t) i * n_vocab;
			float top = row[fixture_argmax(row, n_vocab)];
			double z = 0.0;

			for (uint32_t v = 0; v < n_vocab; v++)
				z += exp((double) row[v] - top);
			sum += log(z) + top - row[ids[at + i + 1]];
		}
	}
	return sum / (n - 1);
}

/* Loads SmolLM2 in a precision and measures english.txt. */
static double
smollm2_nll(const char *path, pp_precision precision, const int32_t *ids, uint32_t n)
{
	llm_error err = {0};
	fixture f;
	double nll = INFINITY;
	float *logits;

	if (!fixture_open(&f, path, precision, 1, n, CHUNK, &err))
		CHECK_MSG(false, "%s", err.message);
	else if ((logits = malloc((size_t) CHUNK * f.m->arch.n_vocab * sizeof(float))) != NULL)
	{
		nll = mean_nll(&f, ids, n, logits);
		free(logits);
	}
	fixture_close(&f);
	return nll;
}

/*
 * What other forms of the weights cost on a device. Expanded to bf16 they are the same numbers, so
 * nothing; fp8 may cost 5 %, or the device refuses it.
 */
static void
check_device_forms(const char *path, double native, const int32_t *ids, uint32_t n)
{
	double bf16 = smollm2_nll(path, PP_PREC_BF16, ids, n);
	llm_error err = {0};
	fixture f;
	double fp8;

	CHECK_MSG(bf16 == native, "%.9f expanded, %.9f in blocks", bf16, native);
	if (!fixture_open(&f, path, PP_PREC_FP8, 1, 64, 64, &err))
	{
		printf("fp8: %s\n", err.message);
		CHECK_MSG(strstr(err.message, "compute capability") != NULL, "%s", err.message);
		fixture_close(&f);
		return;
	}
	fixture_close(&f);
	fp8 = smollm2_nll(path, PP_PREC_FP8, ids, n);
	printf("perplexity of %u tokens: fp8 %.4f (%+.2f %% against %.4f)\n", n, exp(fp8),
	       100.0 * (exp(fp8 - native) - 1.0), exp(native));
	CHECK(exp(fp8 - native) < 1.05);
}

static void
test_smollm2_perplexity(void)
{
#ifdef __SANITIZE_ADDRESS__
	SKIP("perplexity is measured by the plain build: no new code runs in it, and it takes minutes "
	     "here");
#endif
	const char *path = fixture_model(SMOLLM2);
	int32_t ids[4096];
	llm_json_doc *doc;
	double want = 0.0;
	double f32;
	double int8;
	uint32_t n;

	if (path == NULL)
		SKIP("no SmolLM2 weights (scripts/fetch-model smollm2-135m)");
	REQUIRE((doc = open_json(DATA "smollm2-english.json")) != NULL);
	n = read_ids(llm_json_member(llm_json_root(doc), "ids"), ids, 4096);
	CHECK(n > 1500 && llm_json_double(llm_json_member(llm_json_root(doc), "nll"), &want));
	f32 = smollm2_nll(path, PP_PREC_F32, ids, n);
	int8 = smollm2_nll(path, PP_PREC_INT8, ids, n);
	printf("perplexity of %u tokens: reference %.4f, f32 %.4f, int8 %.4f (%+.2f %%)\n", n,
	       exp(want), exp(f32), exp(int8), 100.0 * (exp(int8 - f32) - 1.0));
	CHECK_MSG(fabs(f32 - want) < (fixture_device() != NULL ? 5e-3 : 1e-5), "%.7f against %.7f", f32,
	          want);
	CHECK(exp(int8 - f32) < 1.01);
	if (fixture_device() != NULL)
		check_device_forms(path, f32, ids, n);
	llm_json_free(doc);
}

/* Embeds one text of the references; the cosine of the two vectors. */
static double
cosine_of_row(fixture *f, const llm_json *row, float *out)
{
	const llm_json *want = llm_json_member(row, "embedding");
	uint32_t d = f->m->arch.d_model;
	int32_t ids[512];
	uint32_t n = read_ids(llm_json_member(row, "ids"), ids, 512);
	double dot = 0.0;
	double norm_got = 0.0;
	double norm_want = 0.0;
	llm_error err;

	if (llm_json_size(want) != d || fixture_encode(f, ids, NULL, n, out, &err) != LLM_OK)
		return 0.0;
	for (uint32_t i = 0; i < d; i++)
	{
		double x = 0.0;

		llm_json_double(llm_json_item(want, i), &x);
		dot += x * out[i];
		norm_got += (double) out[i] * out[i];
		norm_want += x * x;
	}
	return dot / sqrt(norm_got * norm_want);
}

/* All references in one precision; every cosine must reach least. */
static void
check_minilm(const char *folder, pp_precision precision, double least)
{
	llm_json_doc *doc = open_json(DATA "minilm-embeddings.json");
	double lowest = 1.0;
	float out[384];
	llm_error err = {0};
	fixture f;

	REQUIRE(doc != NULL);
	if (!fixture_open(&f, folder, precision, 1, 256, 256, &err))
		CHECK_MSG(false, "%s", err.message);
	else
	{
		CHECK(f.m->arch.d_model == 384 && f.m->arch.n_ctx == 256);
		CHECK(llm_json_size(llm_json_root(doc)) == 6);
		for (uint64_t i = 0; i < llm_json_size(llm_json_root(doc)); i++)
			lowest = fmin(lowest, cosine_of_row(&f, llm_json_item(llm_json_root(doc), i), out));
		printf("lowest cosine: %.8f\n", lowest);
		CHECK(lowest >= least);
	}
	fixture_close(&f);
	llm_json_free(doc);
}

static void
test_minilm(void)
{
	const char *path = fixture_model(MINILM);
	char folder[512];

	if (path == NULL)
		SKIP("no MiniLM weights (scripts/fetch-model minilm-l6)");
	snprintf(folder, sizeof(folder), "%.*s", (int) (strlen(path) - strlen("/config.json")), path);
	check_minilm(folder, PP_PREC_F32, fixture_device() != NULL ? 0.9995 : 0.99999);
	check_minilm(folder, PP_PREC_INT8, 0.999);
}

int
main(void)
{
	RUN(smollm2_greedy);
	RUN(smollm2_perplexity);
	RUN(minilm);
	return test_summary("models");
}
