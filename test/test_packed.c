/*
 * test_packed.c: a token's logits have the same bits alone, packed, chunked, in a tree or behind a
 * shared prefix.
 *
 * Each sequence is first run alone in one pass. Then the same tokens run in random company: every
 * order, chunk size and batch size, several sequences a pass, label trees, pages shared between
 * sequences. All logits must be the same bits, in float and in int8, for every decoder, and so must
 * the vectors of every encoder (a branching tree equals its paths up to rounding only, but itself,
 * in any company, to the bit). The last tests break the segment mask and the positions on purpose,
 * through a wrapper of the op table, and require that the comparison notices: otherwise it would
 * prove nothing.
 */
#include "model_fixture.h"

#define SEQS_MAX   1000
#define LEN_MAX    60
#define TOKENS_MAX 1000
#define TREE_MAX   24

static const char *const decoders[] = {"llama",  "mistral", "qwen2", "qwen3",
                                       "gemma2", "gemma3",  "phi3"};
static const char *const encoders[] = {"bert", "xlmr-rerank", "modernbert"};

#define N_OF(list) (sizeof(list) / sizeof((list)[0]))

/* A set of sequences and what each gives alone. */
typedef struct corpus
{
	fixture f;
	uint32_t width; /* floats a result */
	uint32_t n_seqs;
	uint32_t len[SEQS_MAX];
	uint32_t done[SEQS_MAX]; /* tokens already in the pages */
	int32_t *tokens;         /* [n_seqs, LEN_MAX] */
	float *alone;            /* decoders [n_seqs, LEN_MAX, width], encoders [n_seqs, width] */
	float *got;              /* [TOKENS_MAX, width] */
	uint64_t random;
} corpus;

/* A number below n. */
static uint32_t
below(corpus *c, uint32_t n)
{
	return (uint32_t) (test_random(&c->random) % n);
}

/* Does a result differ in any bit? */
static bool
differs(const corpus *c, const float *a, const float *b)
{
	return memcmp(a, b, c->width * sizeof(float)) != 0;
}

/* Where token i of sequence s is kept. */
static size_t
at(uint32_t s, uint32_t i)
{
	return (size_t) s * LEN_MAX + i;
}

/* Opens a fixture of up to n_seqs sequences. */
static bool
corpus_open(corpus *c, const char *name, pp_precision precision, uint32_t n_seqs)
{
	char path[128];
	llm_error err = {0};
	const llm_arch *arch;

	memset(c, 0, sizeof(*c));
	c->random = 42;
	snprintf(path, sizeof(path), "test/data/models/%s", name);
	if (!fixture_open(&c->f, path, precision, n_seqs, LEN_MAX + TREE_MAX, TOKENS_MAX, &err))
	{
		CHECK_MSG(false, "%s: %s", path, err.message);
		return false;
	}
	arch = &c->f.m->arch;
	c->width = arch->decoder         ? arch->n_vocab
	           : arch->n_classes > 0 ? arch->n_classes
	                                 : arch->d_model;
	c->tokens = malloc((size_t) n_seqs * LEN_MAX * sizeof(int32_t));
	c->alone = malloc((size_t) n_seqs * LEN_MAX * c->width * sizeof(float));
	c->got = malloc((size_t) TOKENS_MAX * c->width * sizeof(float));
	return c->tokens != NULL && c->alone != NULL && c->got != NULL;
}

/* Frees all of it. */
static void
corpus_close(corpus *c)
{
	free(c->tokens);
	free(c->alone);
	free(c->got);
	fixture_close(&c->f);
}

/* Draws sequences of the given lengths and runs each alone, in one pass. */
static void
corpus_draw(corpus *c, const uint32_t *len, uint32_t n_seqs)
{
	llm_error err = {0};

	c->n_seqs = n_seqs;
	for (uint32_t s = 0; s < n_seqs; s++)
	{
		llm_status status;

		c->len[s] = len[s];
		c->done[s] = 0;
		for (uint32_t i = 0; i < len[s]; i++)
			c->tokens[at(s, i)] = (int32_t) below(c, c->f.m->arch.n_vocab);
		if (c->f.m->arch.decoder)
			status = fixture_decode(&c->f, s, 0, c->tokens + at(s, 0), len[s],
			                        c->alone + at(s, 0) * c->width, &err);
		else
			status = fixture_encode(&c->f, c->tokens + at(s, 0), NULL, len[s],
			                        c->alone + (size_t) s * c->width, &err);
		CHECK_MSG(status == LLM_OK, "%s", err.message);
	}
}

/* Draws random lengths that add up to n_tokens at most LEN_MAX each (below the model's context). */
static void
corpus_draw_tokens(corpus *c, uint32_t n_tokens)
{
	uint32_t len[SEQS_MAX];
	uint32_t n = 0;
	uint32_t max = c->f.m->arch.n_ctx < LEN_MAX ? c->f.m->arch.n_ctx : LEN_MAX;

	while (n_tokens > 0)
	{
		len[n] = 1 + below(c, below(c, 4) == 0 ? 2 : max);
		len[n] = len[n] < n_tokens ? len[n] : n_tokens;
		n_tokens -= len[n++];
	}
	corpus_draw(c, len, n);
}

/* Shuffles 0 … n − 1. */
static void
shuffle(corpus *c, uint32_t *order, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
	{
		uint32_t j = below(c, i + 1);

		order[i] = order[j];
		order[j] = i;
	}
}

/* A pass in the making. */
typedef struct pass
{
	uint32_t n_tokens;
	uint32_t n_segs;
	int32_t tokens[TOKENS_MAX];
	uint32_t pos[TOKENS_MAX];
	uint32_t rows[TOKENS_MAX];
	uint32_t seq_of[SEQS_MAX];
	pp_segment segs[SEQS_MAX];
} pass;

/* Appends the next n tokens of sequence s. */
static void
pass_add(pass *p, corpus *c, uint32_t s, uint32_t n)
{
	p->segs[p->n_segs] = (pp_segment){.first_token = p->n_tokens,
	                                  .n_new = n,
	                                  .n_past = c->done[s],
	                                  .pages = c->f.pages + s * c->f.pages_per_seq};
	p->seq_of[p->n_segs++] = s;
	for (uint32_t i = 0; i < n; i++)
	{
		p->tokens[p->n_tokens] = c->tokens[at(s, c->done[s] + i)];
		p->pos[p->n_tokens++] = c->done[s] + i;
	}
}

/* Runs a pass; the number of results whose bits are not those of the sequence alone. */
static uint32_t
pass_run(pass *p, corpus *c)
{
	bool decoder = c->f.m->arch.decoder;
	llm_batch batch = {.n_tokens = p->n_tokens,
	                   .tokens = p->tokens,
	                   .pos = p->pos,
	                   .n_segs = p->n_segs,
	                   .segs = p->segs,
	                   .n_rows = decoder ? p->n_tokens : 0,
	                   .rows = p->rows};
	llm_error err = {0};
	llm_status status;
	uint32_t n_bad = 0;

	for (uint32_t i = 0; i < p->n_tokens; i++)
		p->rows[i] = i;
	status = decoder ? llm_forward_decode(c->f.ws, &batch, &err)
	                 : llm_forward_encode(c->f.ws, &batch, c->got, &err);
	if (status == LLM_OK && decoder)
		status = llm_forward_logits(c->f.ws, 0, p->n_tokens, c->got, &err);
	CHECK_MSG(status == LLM_OK, "%s", err.message);
	for (uint32_t k = 0; status == LLM_OK && k < p->n_segs; k++)
	{
		uint32_t s = p->seq_of[k];
		uint32_t n = decoder ? p->segs[k].n_new : 1;

		for (uint32_t i = 0; i < n; i++)
		{
			size_t row = decoder ? p->segs[k].first_token + i : k;
			size_t want = decoder ? at(s, c->done[s] + i) : s;

			n_bad += differs(c, c->got + row * c->width, c->alone + want * c->width);
		}
		c->done[s] += p->segs[k].n_new;
	}
	return n_bad;
}

/*
 * Runs all sequences in passes of chunks: at most chunk tokens of a sequence a pass (0: random,
 * SEQS_MAX: all of it), sequences in a new random order in each pass. Returns the number of results
 * that differ.
 */
static uint32_t
play(corpus *c, uint32_t chunk, bool ordered)
{
	static pass p;
	uint32_t order[SEQS_MAX];
	uint32_t n_bad = 0;

	memset(c->done, 0, sizeof(c->done));
	do
	{
		p.n_tokens = p.n_segs = 0;
		shuffle(c, order, c->n_seqs);
		for (uint32_t k = 0; k < c->n_seqs; k++)
		{
			uint32_t s = ordered ? k : order[k];
			uint32_t n = c->len[s] - c->done[s];
			uint32_t most = chunk > 0 ? chunk : 1 + below(c, 9);

			n = n < most ? n : most;
			if (n > 0 && n <= TOKENS_MAX - p.n_tokens)
				pass_add(&p, c, s, n);
		}
		if (p.n_tokens > 0)
			n_bad += pass_run(&p, c);
	} while (p.n_tokens > 0);
	return n_bad;
}

/* One pass of n tokens in all, for many n. */
static void
check_sizes(const char *name, pp_precision precision)
{
	static const uint32_t sizes[] = {1,  2,  3,  15,  16,  17,  31,  32,  33, 47,
	                                 63, 64, 65, 127, 128, 129, 255, 511, 997};
	static corpus c;

	if (corpus_open(&c, name, precision, SEQS_MAX))
	{
		for (size_t i = 0; i < N_OF(sizes); i++)
		{
			corpus_draw_tokens(&c, sizes[i]);
			CHECK_MSG(play(&c, SEQS_MAX, true) == 0, "%s, %u tokens", name, sizes[i]);
			CHECK_MSG(play(&c, SEQS_MAX, false) == 0, "%s, %u tokens shuffled", name, sizes[i]);
		}
	}
	corpus_close(&c);
}

/* The same sequences in chunks of every size. */
static void
check_chunks(const char *name, pp_precision precision)
{
	static corpus c;
	uint32_t len[] = {1, 1, 2, 17, 17, 31, 32, 30, 5, 23, 16, 15};

	if (corpus_open(&c, name, precision, N_OF(len)))
	{
		corpus_draw(&c, len, N_OF(len));
		for (uint32_t chunk = 0; chunk <= 33; chunk++)
			CHECK_MSG(play(&c, chunk, false) == 0, "%s, chunks of %u", name, chunk);
	}
	corpus_close(&c);
}

/* A random tree behind a prefix: node i hangs off parent[i], or off the prefix. */
typedef struct tree
{
	uint32_t n_prefix;
	uint32_t n_nodes;
	int32_t prefix[LEN_MAX];
	int32_t nodes[TREE_MAX];
	int32_t parent[TREE_MAX];
	uint32_t depth[TREE_MAX];
} tree;

/* Draws a tree. */
static void
tree_draw(corpus *c, tree *t)
{
	t->n_prefix = below(c, 9);
	t->n_nodes = 1 + below(c, TREE_MAX);
	for (uint32_t i = 0; i < t->n_prefix; i++)
		t->prefix[i] = (int32_t) below(c, c->f.m->arch.n_vocab);
	for (uint32_t i = 0; i < t->n_nodes; i++)
	{
		t->nodes[i] = (int32_t) below(c, c->f.m->arch.n_vocab);
		t->parent[i] = (int32_t) below(c, i + 1) - 1;
		t->depth[i] = t->parent[i] < 0 ? 0 : t->depth[t->parent[i]] + 1;
	}
}

/* The logits of one node's path as a sequence of its own. */
static void
tree_alone(corpus *c, const tree *t, uint32_t node, float *out)
{
	int32_t path[LEN_MAX];
	uint32_t n = t->n_prefix + t->depth[node] + 1;
	llm_error err = {0};

	memcpy(path, t->prefix, t->n_prefix * sizeof(int32_t));
	for (int32_t i = (int32_t) node; i >= 0; i = t->parent[i])
		path[t->n_prefix + t->depth[i]] = t->nodes[i];
	CHECK_MSG(fixture_decode(&c->f, 0, 0, path, n, c->alone, &err) == LLM_OK, "%s", err.message);
	memcpy(out, c->alone + (size_t) (n - 1) * c->width, c->width * sizeof(float));
}

/* Puts trees, each behind its prefix, in one pass; logits of all nodes in order into c->got. */
static uint32_t
trees_run(corpus *c, const tree *const *trees, uint32_t n_trees)
{
	static pass p;
	llm_batch batch = {
	    .tokens = p.tokens, .pos = p.pos, .segs = p.segs, .rows = p.rows, .n_segs = n_trees};
	llm_error err = {0};

	p.n_tokens = 0;
	for (uint32_t k = 0; k < n_trees; k++)
	{
		const tree *t = trees[k];

		if (t->n_prefix > 0)
			CHECK(fixture_decode(&c->f, k + 1, 0, t->prefix, t->n_prefix, NULL, &err) == LLM_OK);
		p.segs[k] = (pp_segment){.first_token = p.n_tokens,
		                         .n_new = t->n_nodes,
		                         .n_past = t->n_prefix,
		                         .pages = c->f.pages + (k + 1) * c->f.pages_per_seq,
		                         .parent = t->parent};
		for (uint32_t i = 0; i < t->n_nodes; i++, p.n_tokens++)
		{
			p.tokens[p.n_tokens] = t->nodes[i];
			p.pos[p.n_tokens] = t->n_prefix + t->depth[i];
			p.rows[p.n_tokens] = p.n_tokens;
		}
	}
	batch.n_tokens = batch.n_rows = p.n_tokens;
	CHECK(llm_forward_decode(c->f.ws, &batch, &err) == LLM_OK);
	CHECK(llm_forward_logits(c->f.ws, 0, p.n_tokens, c->got, &err) == LLM_OK);
	return p.n_tokens;
}

/*
 * Trees against their paths run as sequences of their own. A node's ancestors lie in other slots
 * than the path's tokens would, so sums run in another order: equal up to rounding, and in int8 up
 * to the steps it may tip. A tree that is a chain has the very slots, hence the bits.
 */
static void
check_paths(corpus *c, const tree *t, const char *name, pp_precision precision)
{
	float want[112];
	bool chain = true;

	REQUIRE(c->width == 112);
	for (uint32_t i = 0; i < t->n_nodes; i++)
		chain = chain && t->parent[i] == (int32_t) i - 1;
	trees_run(c, &t, 1);
	for (uint32_t i = 0; i < t->n_nodes; i++)
	{
		const float *got = c->got + (size_t) i * c->width;
		double nmse;

		tree_alone(c, t, i, want);
		nmse = fixture_nmse(got, want, c->width);
		CHECK_MSG(nmse < (precision == PP_PREC_F32 ? 1e-10 : 1e-2), "%s, node %u: NMSE %g", name, i,
		          nmse);
		CHECK_MSG(!chain || !differs(c, got, want), "%s: a chain as a tree", name);
	}
}

/* Each tree by itself, then all in one pass: the same bits. */
static void
check_trees(const char *name, pp_precision precision)
{
	static corpus c;
	static tree trees[8];
	const tree *all[8];
	float *want = NULL;
	uint32_t n = 0;

	if (corpus_open(&c, name, precision, 9) &&
	    (want = malloc((size_t) 8 * TREE_MAX * c.width * sizeof(float))) != NULL)
	{
		for (uint32_t k = 0; k < 8; k++)
		{
			all[k] = &trees[k];
			tree_draw(&c, &trees[k]);
			for (uint32_t i = 0; k == 7 && i < trees[k].n_nodes; i++)
			{
				trees[k].parent[i] = (int32_t) i - 1;
				trees[k].depth[i] = i;
			}
			check_paths(&c, &trees[k], name, precision);
			trees_run(&c, &all[k], 1);
			memcpy(want + (size_t) n * c.width, c.got,
			       (size_t) trees[k].n_nodes * c.width * sizeof(float));
			n += trees[k].n_nodes;
		}
		CHECK(trees_run(&c, all, 8) == n);
		CHECK_MSG(memcmp(want, c.got, (size_t) n * c.width * sizeof(float)) == 0, "%s", name);
	}
	free(want);
	corpus_close(&c);
}

/*
 * Sequences that begin alike share the page of their beginning: the prefix runs once, in the same
 * pass as the rests of all of them.
 */
static void
check_shared(const char *name, pp_precision precision)
{
	static corpus c;
	static pass p;
	uint32_t pages[8][4];
	uint32_t len[8];
	uint32_t n_page;
	llm_error err;

	if (!corpus_open(&c, name, precision, 9))
	{
		corpus_close(&c);
		return;
	}
	n_page = c.f.be->ops->kv_page_tokens(c.f.be);
	REQUIRE(c.f.pages_per_seq <= 4);
	if (n_page >= LEN_MAX - 8)
	{
		corpus_close(&c);
		SKIP("a page of this device holds more than the fixtures' context");
	}
	for (uint32_t s = 0; s < 8; s++)
		len[s] = n_page + s;
	if (n_page + 8 <= c.f.m->arch.n_ctx)
	{
		corpus_draw(&c, len, 8);
		for (uint32_t s = 1; s < 8; s++)
		{
			memcpy(c.tokens + at(s, 0), c.tokens, n_page * sizeof(int32_t));
			CHECK(fixture_decode(&c.f, s, 0, c.tokens + at(s, 0), len[s],
			                     c.alone + at(s, 0) * c.width, &err) == LLM_OK);
		}
		p.n_tokens = p.n_segs = 0;
		for (uint32_t s = 0; s < 8; s++)
		{
			c.done[s] = s > 0 ? n_page : 0;
			pass_add(&p, &c, s, len[s] - c.done[s]);
			memcpy(pages[s], p.segs[s].pages, c.f.pages_per_seq * sizeof(uint32_t));
			pages[s][0] = c.f.pages[8 * c.f.pages_per_seq]; /* one that holds nothing yet */
			p.segs[s].pages = pages[s];
		}
		CHECK_MSG(pass_run(&p, &c) == 0, "%s", name);
	}
	corpus_close(&c);
}

/* Chosen columns are the logits' bits; the log-sum-exp is that of the whole row. */
static void
check_columns(const char *name, pp_precision precision)
{
	static corpus c;
	uint32_t len = 30;
	uint32_t rows[40];
	uint32_t cols[7] = {0, 5, 99, 17, 16, 5, 111};
	float out[40 * 7];
	float lse[40];
	llm_error err;

	if (corpus_open(&c, name, precision, 1))
	{
		corpus_draw(&c, &len, 1);
		for (uint32_t i = 0; i < 40; i++)
			rows[i] = (i * 7) % len;
		CHECK(llm_forward_columns(c.f.ws, rows, 40, cols, 7, out, lse, &err) == LLM_OK);
		for (uint32_t i = 0; i < 40; i++)
		{
			const float *row = c.alone + (size_t) rows[i] * c.width;
			double z = 0.0;

			for (uint32_t v = 0; v < c.width; v++)
				z += exp((double) row[v]);
			CHECK(fabs(log(z) - lse[i]) < 1e-4);
			for (uint32_t k = 0; k < 7; k++)
				CHECK(memcmp(&out[i * 7 + k], &row[cols[k]], sizeof(float)) == 0);
		}
	}
	corpus_close(&c);
}

/* Runs a check on all decoders, in both precisions. */
static void
all_decoders(void (*check)(const char *name, pp_precision precision))
{
	for (size_t i = 0; i < N_OF(decoders); i++)
	{
		check(decoders[i], PP_PREC_F32);
		check(decoders[i], PP_PREC_INT8);
	}
}

static void
test_sizes(void)
{
	all_decoders(check_sizes);
}

static void
test_chunks(void)
{
	all_decoders(check_chunks);
}

static void
test_trees(void)
{
	all_decoders(check_trees);
}

static void
test_shared_prefixes(void)
{
	all_decoders(check_shared);
}

static void
test_columns(void)
{
	all_decoders(check_columns);
}

static void
test_encoders(void)
{
	for (size_t i = 0; i < N_OF(encoders); i++)
	{
		check_sizes(encoders[i], PP_PREC_F32);
		check_sizes(encoders[i], PP_PREC_INT8);
	}
}

/* The real table behind the broken ones. */
static const pp_ops *real_ops;

/* The broken arrays; a device gets them when the pass begins, the CPU with each op. */
static uint32_t running[TOKENS_MAX];
static pp_segment merged;
/* The pages of all segments as those of one. */
static const uint32_t *all_pages;

/* Begins a pass of running positions. */
static pp_result
begin_running_on(pp_backend *be, const pp_pass *given, bool *replayed)
{
	pp_pass broken = *given;

	for (uint32_t i = 0; i < given->n_tokens; i++)
		running[i] = i;
	broken.pos = running;
	broken.owner = NULL;
	return real_ops->pass_begin(be, &broken, replayed);
}

/* Positions that go on over the whole batch instead of beginning anew in each sequence. */
static pp_result
prepare_running_on(pp_backend *be, float *q, const float *qkv, const uint32_t *pos,
                   const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
                   const pp_attn *attn, const pp_rope *rope, const float *q_norm,
                   const float *k_norm, float eps, bool plus_one)
{
	(void) pos;
	return real_ops->qkv_prepare(be, q, qkv, running, segs, n_segs, n_tokens, layer, attn, rope,
	                             q_norm, k_norm, eps, plus_one);
}

/* No mask between segments: begins a pass of one long sequence. */
static pp_result
begin_merged(pp_backend *be, const pp_pass *given, bool *replayed)
{
	pp_pass broken = *given;

	merged = (pp_segment){.n_new = given->n_tokens, .pages = all_pages};
	broken.segs = &merged;
	broken.n_segs = 1;
	broken.owner = NULL;
	return real_ops->pass_begin(be, &broken, replayed);
}

/* Both halves of attention over the merged segment. */
static pp_result
prepare_merged(pp_backend *be, float *q, const float *qkv, const uint32_t *pos,
               const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
               const pp_attn *attn, const pp_rope *rope, const float *q_norm, const float *k_norm,
               float eps, bool plus_one)
{
	(void) segs;
	(void) n_segs;
	return real_ops->qkv_prepare(be, q, qkv, pos, &merged, 1, n_tokens, layer, attn, rope, q_norm,
	                             k_norm, eps, plus_one);
}

/* The second half. */
static pp_result
attention_merged(pp_backend *be, float *out, const float *q, const pp_segment *segs,
                 uint32_t n_segs, uint32_t n_tokens, uint32_t layer, const pp_attn *attn)
{
	(void) segs;
	(void) n_segs;
	return real_ops->attention(be, out, q, &merged, 1, n_tokens, layer, attn);
}

/* The learned positions of encoders, running on. */
static pp_result
add_rows_running_on(pp_backend *be, float *x, const float *table, const uint32_t *index,
                    uint32_t n_tokens, uint32_t d)
{
	uint32_t index_on[TOKENS_MAX];
	bool is_pos = false;

	for (uint32_t i = 0; i < n_tokens; i++)
		is_pos = is_pos || index[i] > 2;
	for (uint32_t i = 0; i < n_tokens; i++)
		index_on[i] = is_pos ? index[0] + i : index[i];
	return real_ops->add_rows(be, x, table, index_on, n_tokens, d);
}

/* Packs a few sequences with a broken table; the comparison must find a difference, and none when
 * it is whole. */
static void
check_mutation(const char *name, const pp_ops *changes, bool positions)
{
	static corpus c;
	uint32_t len[] = {5, 9, 1, 12};
	pp_ops broken;

	if (corpus_open(&c, name, PP_PREC_F32, N_OF(len)))
	{
		real_ops = c.f.be->ops;
		all_pages = c.f.pages;
		broken = *real_ops;
		if (positions)
		{
			broken.pass_begin = begin_running_on;
			broken.qkv_prepare = prepare_running_on;
			broken.add_rows = add_rows_running_on;
		}
		else
		{
			broken.pass_begin = begin_merged;
			broken.qkv_prepare = changes->qkv_prepare;
			broken.attention = changes->attention;
		}
		corpus_draw(&c, len, N_OF(len));
		CHECK_MSG(play(&c, SEQS_MAX, true) == 0, "%s", name);
		c.f.be->ops = &broken;
		CHECK_MSG(play(&c, SEQS_MAX, true) > 0, "%s: the broken table was not noticed", name);
		c.f.be->ops = real_ops;
	}
	corpus_close(&c);
}

static void
test_mutation_no_mask(void)
{
	const pp_ops changes = {.qkv_prepare = prepare_merged, .attention = attention_merged};

	for (size_t i = 0; i < N_OF(decoders); i++)
		check_mutation(decoders[i], &changes, false);
	for (size_t i = 0; i < N_OF(encoders); i++)
		check_mutation(encoders[i], &changes, false);
}

static void
test_mutation_no_restart(void)
{
	for (size_t i = 0; i < N_OF(decoders); i++)
		check_mutation(decoders[i], NULL, true);
	for (size_t i = 0; i < N_OF(encoders); i++)
		check_mutation(encoders[i], NULL, true);
}

int
main(void)
{
	RUN(sizes);
	RUN(chunks);
	RUN(trees);
	RUN(shared_prefixes);
	RUN(columns);
	RUN(encoders);
	RUN(mutation_no_mask);
	RUN(mutation_no_restart);
	return test_summary("packed");
}
