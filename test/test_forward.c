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

#define NMSE_MAX 1e-9

/* One weight file of one fixture, against its references. */
static void
check_file(const char *folder, const char *path)
{
	llm_error err = {0};
	reference ref;
	fixture f;
	float *out = malloc(1u << 20);
	float *hidden = malloc(1u << 20);

	if (!fixture_open(&f, path, PP_PREC_F32, 1, 64, 64, &err) ||
	    !reference_read(folder, f.m->arch.decoder, &ref))
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
		size_t n_out = (size_t) (decoder ? seq->n : 1) * ref.n_out;
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
			CHECK_MSG(nmse < NMSE_MAX, "%s: %u tokens, after layer %d: NMSE %g", path, seq->n,
			          layer, nmse);
		}
		CHECK_MSG(fixture_nmse(out, seq->out, n_out) < NMSE_MAX, "%s: %u tokens, output: NMSE %g",
		          path, seq->n, fixture_nmse(out, seq->out, n_out));
		for (uint32_t i = 0; decoder && i < seq->n; i++)
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
		check_file(folder, folder);
	if (has_gguf)
		check_file(folder, path);
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
	RUN(bert);
	RUN(xlmr);
	RUN(modernbert);
	return test_summary("forward");
}
