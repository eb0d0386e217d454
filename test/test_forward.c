/*
 * test_forward.c: every architecture against the reference, layer by layer.
 *
 * The fixtures are tiny random models with references computed by transformers in double
 * (scripts/make-model-fixtures.py). A wrong permutation of q and k, a norm in the wrong place or a
 * window one slot too wide shows here in the first layer it touches, where texts of a real model
 * would still read well. Real weights, where they are there, then must continue prompts with the
 * tokens that transformers gives, embed as sentence-transformers does, and keep their perplexity in
 * int8.
 */
#include "model_fixture.h"

/* Of float code; on a device of bf16, whose roundings are 2^16 times as large. */
#define NMSE_MAX      1e-9
#define NMSE_MAX_BF16 2e-3

/* What this run may differ by. */
static double
nmse_max(void)
{
	return fixture_device() != NULL ? NMSE_MAX_BF16 : NMSE_MAX;
}

/* One weight file of one fixture, loaded for a context (0: its own), against its references. */
static void
check_file(const char *folder, const char *path, uint32_t context)
{
	llm_error err = {0};
	reference ref;
	fixture f;
	float *out = malloc(1u << 20);
	float *hidden = malloc(1u << 20);

	if (!fixture_open_for(&f, path, PP_PREC_F32, context, 1, 64, 64, &err) ||
	    !reference_read(folder, f.m->arch.kind == LLM_KIND_GENERATE, &ref))
	{
		CHECK_MSG(false, "%s: %s", path, err.message);
		fixture_close(&f);
		free(out);
		free(hidden);
		return;
	}
	for (uint32_t s = 0; s < ref.n_seqs; s++)
	{
		const reference_seq *seq = &ref.seqs[s];
		bool decoder = f.m->arch.decoder;
		bool generates = f.m->arch.kind == LLM_KIND_GENERATE;
		size_t n_out = (size_t) (generates ? seq->n : 1) * ref.n_out;
		size_t n_hidden = (size_t) seq->n * ref.d;

		for (int layer = -1; layer < (int) ref.n_layers; layer++)
		{
			double nmse;
			llm_status status;

			llm_workspace_tap(f.ws, layer, hidden);
			status = decoder ? fixture_decode(&f, 0, 0, seq->tokens, seq->n, out, &err)
			                 : fixture_encode(&f, seq->tokens, seq->types, seq->n, out, &err);
			CHECK_MSG(status == LLM_OK, "%s: %s", path, err.message);
			nmse = fixture_nmse(hidden, seq->hidden + n_hidden * (size_t) (layer + 1), n_hidden);
			CHECK_MSG(nmse < nmse_max(), "%s: %u tokens, after layer %d: NMSE %g", path, seq->n,
			          layer, nmse);
		}
		CHECK_MSG(fixture_nmse(out, seq->out, n_out) < nmse_max(), "%s: %u tokens, output: NMSE %g",
		          path, seq->n, fixture_nmse(out, seq->out, n_out));
		for (uint32_t i = 0; generates && i < seq->n && fixture_device() == NULL; i++)
			CHECK(fixture_argmax(out + i * ref.n_out, ref.n_out) ==
			      fixture_argmax(seq->out + i * ref.n_out, ref.n_out));
	}
	free(ref.bytes);
	fixture_close(&f);
	free(out);
	free(hidden);
}

/* Folder and twin. */
static void
check_model(const char *name, bool has_folder, bool has_gguf)
{
	char folder[128];
	char path[160];

	snprintf(folder, sizeof(folder), "test/data/models/%s", name);
	snprintf(path, sizeof(path), "%s/model.gguf", folder);
	if (has_folder)
		check_file(folder, folder, 0);
	if (has_gguf)
		check_file(folder, path, 0);
}

static void
test_llama(void)
{
	check_model("llama", true, true);
	check_model("llama-bias", true, true);
	check_model("mistral", true, false);
}

static void
test_qwen(void)
{
	check_model("qwen2", true, false);
	check_model("qwen2-yarn", true, true);
	check_model("qwen3", true, true);
	check_model("qwen3-embed", true, true);
}

static void
test_gemma(void)
{
	check_model("gemma2", true, false);
	check_model("gemma2-gguf", true, true);
	check_model("gemma3", true, true);
}

static void
test_phi3(void)
{
	check_model("phi3", true, true);
}

/* Loaded for more than its first context, LongRoPE turns by its long factors, at every length. */
static void
test_longrope(void)
{
	static const char *const paths[] = {"test/data/models/phi3-long",
	                                    "test/data/models/phi3-long/model.gguf"};
	llm_error err = {0};

	for (int i = 0; i < 2; i++)
	{
		fixture f;

		check_file(paths[0], paths[i], 64);
		REQUIRE(fixture_open_for(&f, paths[i], PP_PREC_F32, 16, 1, 64, 64, &err));
		CHECK(f.m->arch.n_ctx == 16); /* the short factors end there */
		fixture_close(&f);
	}
}

static void
test_bert(void)
{
	check_model("bert", true, true);
	check_model("bert-rerank", true, true);
}

static void
test_xlmr(void)
{
	check_model("xlmr", true, false);
	check_model("xlmr-rerank", true, false);
}

static void
test_modernbert(void)
{
	check_model("modernbert", true, false);
	check_model("modernbert-rerank", true, false);
}

int
main(void)
{
	RUN(llama);
	RUN(qwen);
	RUN(gemma);
	RUN(phi3);
	RUN(longrope);
	RUN(bert);
	RUN(xlmr);
	RUN(modernbert);
	return test_summary("forward");
}
