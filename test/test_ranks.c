/*
 * test_ranks.c: several ranks that share a model give what one device gives (llm_ranks.h).
 *
 * Ranks are CPU backends here: they share one memory, or exchange through a link that copies, as
 * cards would. Every small model, with its fused tensors, biases, norms and heads, must give its
 * reference on one, two and four ranks, a token's bits must not depend on its company, and what
 * cannot be shared must be refused. A rank or a link that fails fails the model.
 */
#include "llm_ranks.h"
#include "model_fixture.h"

#define MODELS  "test/data/models/"
#define TOKENS  64u
#define NMSE_OK 1e-8 /* float sums in another order */

static const char *const models[] = {
    "llama",       "llama-bias",  "mistral",     "qwen2",
    "qwen2-yarn",  "qwen3",       "gemma2",      "gemma3",
    "phi3",        "bert",        "bert-rerank", "xlmr",
    "xlmr-rerank", "qwen3-embed", "modernbert",  "modernbert-rerank"};

#define N_MODELS (sizeof(models) / sizeof(models[0]))

/* A link between CPU backends. */
typedef struct fake_link
{
	pp_link base;
	uint32_t n;
	uint32_t n_gathers;
	uint32_t n_waits;
	uint32_t fails_at; /* this gather fails; 0: none does */
	bool *destroyed;
} fake_link;

/* Copies every rank's own to all. */
static pp_result
fake_gather(pp_link *link, const void *const *dev_own, void *const *dev_all, size_t bytes)
{
	fake_link *fake = (fake_link *) (void *) link;

	if (++fake->n_gathers == fake->fails_at)
	{
		snprintf(link->message, sizeof(link->message), "the cable is out");
		return PP_E_DEVICE;
	}
	for (uint32_t to = 0; to < fake->n; to++)
		for (uint32_t from = 0; from < fake->n; from++)
			memcpy((uint8_t *) dev_all[to] + from * bytes, dev_own[from], bytes);
	return PP_OK;
}

/* The CPU is synchronous: only notes that it was asked. */
static pp_result
fake_wait(pp_link *link)
{
	((fake_link *) (void *) link)->n_waits++;
	return PP_OK;
}

/* Frees it, and notes that it was asked to. */
static void
fake_destroy(pp_link *link)
{
	fake_link *fake = (fake_link *) (void *) link;

	if (fake->destroyed != NULL)
		*fake->destroyed = true;
	free(fake);
}

/* A link between n ranks. */
static fake_link *
fake_create(uint32_t n)
{
	fake_link *fake = calloc(1, sizeof(*fake));

	if (fake != NULL)
		*fake =
		    (fake_link){.base = {.gather = fake_gather, .wait = fake_wait, .destroy = fake_destroy},
		                .n = n};
	return fake;
}

/* A backend of n CPU ranks; the last one's table is replaced where ops is not NULL. */
static pp_backend *
ranks_open(uint32_t n, fake_link *link, const pp_ops *ops)
{
	pp_backend *ranks[PP_RANKS_MAX] = {NULL};
	pp_backend *be = NULL;
	llm_error err = {0};

	for (uint32_t r = 0; r < n; r++)
		ranks[r] = pp_cpu_create(2);
	if (ops != NULL)
		ranks[n - 1]->ops = ops;
	CHECK_MSG(llm_ranks_create(ranks, n, link != NULL ? &link->base : NULL, "ranks", &be, &err) ==
	              LLM_OK,
	          "%s", err.message);
	return be;
}

/* Loads a model of the test data onto n ranks. */
static bool
open_model(fixture *f, const char *name, uint32_t n, fake_link *link, pp_precision precision,
           llm_error *err)
{
	char path[128];

	memset(f, 0, sizeof(*f));
	snprintf(path, sizeof(path), MODELS "%s", name);
	f->be = ranks_open(n, link, NULL);
	return f->be != NULL && fixture_load(f, path, precision, 0, 2, TOKENS, TOKENS, err);
}

/* One sequence's results, of the reference's size. */
static llm_status
run_sequence(fixture *f, const reference_seq *seq, float *out, llm_error *err)
{
	if (f->m->arch.decoder)
		return fixture_decode(f, 0, 0, seq->tokens, seq->n, out, err);
	return fixture_encode(f, seq->tokens, seq->types, seq->n, out, err);
}

/* Floats of a sequence's result. */
static size_t
size_of(const fixture *f, const reference *ref, const reference_seq *seq)
{
	bool rows = f->m->arch.decoder && f->m->arch.kind != LLM_KIND_EMBED;

	return (size_t) ref->n_out * (rows ? seq->n : 1);
}

/* Every sequence of a reference, on an open model. */
static void
check_reference(fixture *f, const reference *ref, const char *name, uint32_t n_ranks)
{
	llm_error err = {0};

	for (uint32_t s = 0; s < ref->n_seqs; s++)
	{
		const reference_seq *seq = &ref->seqs[s];
		const size_t n = size_of(f, ref, seq);
		float *out = calloc((size_t) ref->n_out * seq->n + 1, sizeof(float));
		if (out != NULL && seq->n <= TOKENS)
		{
			CHECK_MSG(run_sequence(f, seq, out, &err) == LLM_OK, "%s", err.message);
			CHECK_MSG(fixture_nmse(out, seq->out, n) < NMSE_OK, "%s on %u ranks, sequence %u: %g",
			          name, n_ranks, s, fixture_nmse(out, seq->out, n));
		}
		free(out);
	}
}

/* Whether every layer's heads divide. */
static bool
divides(const char *name, uint32_t n)
{
	return n <= 2 || strstr(name, "bert") != NULL || strstr(name, "xlmr") != NULL;
}

/* One model on n ranks: its reference, or a refusal that says why. */
static void
check_model(const char *name, uint32_t n, bool linked)
{
	char path[128];
	llm_error err = {0};
	reference ref = {0};
	bool decoder;
	fixture f;

	snprintf(path, sizeof(path), MODELS "%s", name);
	if (!divides(name, n))
	{
		CHECK(!open_model(&f, name, n, linked ? fake_create(n) : NULL, PP_PREC_F32, &err));
		CHECK_MSG(err.code == LLM_E_UNSUPPORTED && strstr(err.message, "cannot share") != NULL,
		          "%s", err.message);
	}
	else if (!open_model(&f, name, n, linked ? fake_create(n) : NULL, PP_PREC_F32, &err))
		CHECK_MSG(false, "%s on %u ranks: %s", name, n, err.message);
	else
	{
		/* an embedder's reference is one row a sequence, as an encoder's */
		decoder = f.m->arch.decoder && f.m->arch.kind != LLM_KIND_EMBED;
		if (reference_read(path, decoder, &ref))
			check_reference(&f, &ref, name, n);
		else
			CHECK_MSG(false, "%s has no reference", path);
		free(ref.bytes);
	}
	fixture_close(&f);
}

static void
test_reference(void)
{
	for (size_t i = 0; i < N_MODELS; i++)
		for (uint32_t n = 1; n <= 4; n *= 2)
			check_model(models[i], n, false);
}

static void
test_reference_linked(void)
{
	for (size_t i = 0; i < N_MODELS; i++)
		check_model(models[i], 2, true);
}

/* Logits of two sequences that run in one pass; of the second alone where first is 0 tokens. */
static bool
run_pair(fixture *f, const int32_t *tokens, uint32_t first, uint32_t second, float *out)
{
	uint32_t pos[TOKENS];
	uint32_t rows[TOKENS];
	pp_segment segs[2] = {{.n_new = first, .pages = f->pages},
	                      {.first_token = first,
	                       .n_new = second,
	                       .pages = f->pages + f->pages_per_seq}};
	llm_batch batch = {.n_tokens = first + second,
	                   .tokens = tokens,
	                   .pos = pos,
	                   .n_segs = first > 0 ? 2 : 1,
	                   .segs = first > 0 ? segs : &segs[1],
	                   .n_rows = second,
	                   .rows = rows};
	llm_error err = {0};

	for (uint32_t i = 0; i < first + second; i++)
		pos[i] = i < first ? i : i - first;
	for (uint32_t i = 0; i < second; i++)
		rows[i] = first + i;
	if (llm_forward_decode(f->ws, &batch, &err) != LLM_OK ||
	    llm_forward_logits(f->ws, 0, second, out, &err) != LLM_OK)
	{
		CHECK_MSG(false, "%s", err.message);
		return false;
	}
	return true;
}

/* A sequence's bits alone, behind company of every length, and by a link. */
static void
check_bits(pp_precision precision)
{
	enum
	{
		SECOND = 17,
		VOCAB = 112
	};
	static float alone[SECOND * VOCAB];
	static float packed[SECOND * VOCAB];
	int32_t tokens[TOKENS];
	llm_error err = {0};
	fixture shared;
	fixture linked;
	bool ok = open_model(&shared, "qwen2", 2, NULL, precision, &err);

	ok = open_model(&linked, "qwen2", 2, fake_create(2), precision, &err) && ok;
	CHECK_MSG(ok, "%s", err.message);
	for (uint32_t i = 0; i < TOKENS; i++)
		tokens[i] = (int32_t) (i * 37 % VOCAB);
	ok = ok && run_pair(&shared, tokens + 40, 0, SECOND, alone);
	for (uint32_t first = 1; ok && first <= 40; first++)
	{
		int32_t both[TOKENS];

		memcpy(both, tokens, first * sizeof(*both));
		memcpy(both + first, tokens + 40, SECOND * sizeof(*both));
		ok = run_pair(&shared, both, first, SECOND, packed);
		CHECK(memcmp(alone, packed, sizeof(alone)) == 0);
		ok = ok && run_pair(&linked, both, first, SECOND, packed);
		CHECK(memcmp(alone, packed, sizeof(alone)) == 0);
	}
	fixture_close(&shared);
	fixture_close(&linked);
}

static void
test_bits_do_not_depend_on_company(void)
{
	check_bits(PP_PREC_F32);
	check_bits(PP_PREC_INT8);
}

/* int8 of two ranks rounds otherwise than int8 of one, and no worse. */
static void
test_int8(void)
{
	for (uint32_t n = 1; n <= 2; n++)
	{
		llm_error err = {0};
		reference ref = {0};
		fixture f;
		bool ok = open_model(&f, "llama", n, NULL, PP_PREC_INT8, &err);

		CHECK_MSG(ok, "%s", err.message);
		if (ok && reference_read(MODELS "llama", true, &ref))
		{
			const reference_seq *seq = &ref.seqs[0];
			float *out = calloc((size_t) ref.n_out * seq->n, sizeof(float));

			CHECK(out != NULL && run_sequence(&f, seq, out, &err) == LLM_OK);
			CHECK_MSG(fixture_nmse(out, seq->out, (size_t) ref.n_out * seq->n) < 1e-3, "%g",
			          fixture_nmse(out, seq->out, (size_t) ref.n_out * seq->n));
			free(out);
		}
		else
			CHECK(!ok);
		free(ref.bytes);
		fixture_close(&f);
	}
}

/* Real weights in blocks, on the three ranks that share SmolLM2's three heads of keys. */
static void
test_smollm2(void)
{
	const char *path = fixture_model("smollm2-135m.gguf");
	const int32_t tokens[] = {504, 3575, 282, 4649, 314, 260, 2240, 28};
	enum
	{
		N = sizeof(tokens) / sizeof(tokens[0])
	};
	llm_error err = {0};
	float *out[2] = {NULL, NULL};
	size_t n_values = 0;

	if (path == NULL)
		SKIP("no SmolLM2 weights (scripts/fetch-model smollm2-135m)");
	for (uint32_t i = 0; i < 2; i++)
	{
		fixture f = {.be = i == 0 ? pp_cpu_create(0) : ranks_open(3, NULL, NULL)};
		bool ok = fixture_load(&f, path, PP_PREC_F32, 256, 1, TOKENS, TOKENS, &err);

		CHECK_MSG(ok, "%s", err.message);
		if (ok)
		{
			n_values = (size_t) N * f.m->arch.n_vocab;
			out[i] = calloc(n_values, sizeof(float));
			CHECK_MSG(fixture_decode(&f, 0, 0, tokens, N, out[i], &err) == LLM_OK, "%s",
			          err.message);
		}
		fixture_close(&f);
	}
	if (out[0] != NULL && out[1] != NULL)
		CHECK_MSG(fixture_nmse(out[1], out[0], n_values) < NMSE_OK, "%g",
		          fixture_nmse(out[1], out[0], n_values));
	free(out[0]);
	free(out[1]);
}

/* Whether a matrix of zeros can be split; word is in the reason that it cannot. */
static bool
can_split(pp_dtype dtype, uint32_t n_rows, uint32_t n_cols, pp_split split, const char *word)
{
	static const uint8_t zeros[1 << 16];
	pp_backend *be = ranks_open(2, NULL, NULL);
	pp_matrix_part part = {.data = zeros, .dtype = dtype, .n_rows = n_rows, .split = split};
	pp_matrix *m;

	CHECK(llm_dtype_bytes(dtype, n_cols, &part.row_bytes));
	m = be->ops->matrix_create(be, &part, 1, n_cols, PP_PREC_F32);
	if (m != NULL)
		be->ops->matrix_destroy(be, m);
	else
		CHECK_MSG(strstr(be->message, word) != NULL, "%s", be->message);
	be->ops->destroy(be);
	return m != NULL;
}

static void
test_splits(void)
{
	llm_error err = {0};
	fixture f;

	CHECK(can_split(PP_Q8_0, 8, 128, PP_SPLIT_COLS, ""));
	CHECK(can_split(PP_Q4_K, 8, 512, PP_SPLIT_COLS, ""));
	CHECK(can_split(PP_Q4_K, 8, 256, PP_SPLIT_ROWS, ""));
	CHECK(!can_split(PP_Q8_0, 8, 96, PP_SPLIT_COLS, "96 columns of Q8_0"));
	CHECK(!can_split(PP_Q4_K, 8, 256, PP_SPLIT_COLS, "whole blocks for 2 ranks"));
	CHECK(!can_split(PP_F32, 8, 33, PP_SPLIT_COLS, "33 columns"));
	CHECK(!can_split(PP_F32, 7, 32, PP_SPLIT_ROWS, "7 rows"));
	CHECK(!open_model(&f, "llama", 3, NULL, PP_PREC_F32, &err));
	CHECK_MSG(strstr(err.message, "4 heads, 2 of keys and values") != NULL, "%s", err.message);
	fixture_close(&f);
}

static const pp_ops *cpu_ops;
static uint32_t until_failure;

/* The CPU's attention, until the device is lost. */
static pp_result
lost_attention(pp_backend *be, pp_act *dev_out, const pp_act *dev_q, const pp_segment *segs,
               uint32_t n_segs, uint32_t n_tokens, uint32_t layer, const pp_attn *attn)
{
	if (until_failure > 0 && --until_failure > 0)
		return cpu_ops->attention(be, dev_out, dev_q, segs, n_segs, n_tokens, layer, attn);
	snprintf(be->message, sizeof(be->message), "fell off the bus");
	return PP_E_DEVICE;
}

/* One pass that must fail for good, with a word of the reason. */
static void
check_lost(fixture *f, const char *word)
{
	const int32_t tokens[] = {5, 17, 3};
	float out[3 * 112];
	llm_error err = {0};

	for (uint32_t i = 0; i < 2; i++)
	{
		CHECK(fixture_decode(f, 0, 0, tokens, 3, out, &err) == LLM_E_DEVICE);
		CHECK_MSG(strstr(err.message, word) != NULL, "%s", err.message);
	}
}

/* A rank is lost in its second layer, with a link, which is asked to call the others off, or
 * without one. */
static void
check_rank_lost(fake_link *link)
{
	const int32_t tokens[] = {5, 17, 3};
	float out[3 * 112];
	llm_error err = {0};
	pp_ops ops;
	fixture f = {0};
	pp_backend *cpu = pp_cpu_create(1);
	uint32_t n_waits;

	REQUIRE(cpu != NULL);
	cpu_ops = cpu->ops;
	cpu->ops->destroy(cpu);
	ops = *cpu_ops;
	ops.attention = lost_attention;
	f.be = ranks_open(2, link, &ops);
	CHECK_MSG(fixture_load(&f, MODELS "llama", PP_PREC_F32, 0, 1, TOKENS, TOKENS, &err), "%s",
	          err.message);
	until_failure = 1000;
	CHECK(fixture_decode(&f, 0, 0, tokens, 3, out, &err) == LLM_OK);
	until_failure = 2;
	n_waits = link != NULL ? link->n_waits : 0;
	check_lost(&f, "rank 1 (cpu): fell off the bus");
	CHECK(link == NULL || link->n_waits == n_waits + 1);
	fixture_close(&f);
}

static void
test_rank_lost(void)
{
	check_rank_lost(NULL);
	check_rank_lost(fake_create(2));
}

static void
test_link_lost(void)
{
	llm_error err = {0};
	fake_link *link = fake_create(2);
	bool destroyed = false;
	fixture f;

	REQUIRE(link != NULL);
	link->fails_at = 3;
	link->destroyed = &destroyed;
	CHECK_MSG(open_model(&f, "llama", 2, link, PP_PREC_F32, &err), "%s", err.message);
	check_lost(&f, "the cable is out");
	fixture_close(&f);
	CHECK(destroyed);
}

/* Too many ranks: they end all the same. */
static void
test_too_many(void)
{
	pp_backend *ranks[PP_RANKS_MAX + 1];
	pp_backend *be = NULL;
	llm_error err = {0};

	for (uint32_t r = 0; r <= PP_RANKS_MAX; r++)
		ranks[r] = pp_cpu_create(1);
	CHECK(llm_ranks_create(ranks, PP_RANKS_MAX + 1, NULL, "many", &be, &err) == LLM_E_RANGE);
	CHECK(be == NULL);
}

/* Memory ends at every allocation of a load in turn. */
static void
test_out_of_memory(void)
{
	bool ok = false;

	for (uint64_t i = 1; !ok && i < 4000; i += 3)
	{
		llm_error err = {0};
		fixture f = {.be = ranks_open(2, NULL, NULL)};

		REQUIRE(f.be != NULL);
		llm_alloc_fail_after(i, true);
		ok = fixture_load(&f, MODELS "qwen2", PP_PREC_F32, 0, 1, TOKENS, TOKENS, &err);
		llm_alloc_fail_after(0, false);
		CHECK_MSG(ok || !f.has_kv, "allocation %u", (unsigned) i);
		fixture_close(&f);
	}
	CHECK(ok);
}

int
main(void)
{
	RUN(reference);
	RUN(reference_linked);
	RUN(bits_do_not_depend_on_company);
	RUN(int8);
	RUN(smollm2);
	RUN(splits);
	RUN(rank_lost);
	RUN(link_lost);
	RUN(too_many);
	RUN(out_of_memory);
	return test_summary("ranks");
}
