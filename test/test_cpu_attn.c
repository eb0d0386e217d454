/*
 * test_cpu_attn.c: keys and values in pages and attention over them, in float and in bf16, on every
 * level, against the reference: shapes, chains, trees, windows, encoders; and the bits of a token
 * against those it gets in other company.
 */
#include "cpu_fixture.h"
#include "llm_alloc.h"

#define N_PAGES 24u

/* A sequence under test: its qkv rows, and pages in a shuffled order. */
typedef struct sequence
{
	pp_attn attn;
	uint32_t n; /* tokens in all */
	float *qkv; /* [n][(H + 2 Hkv) Dh] */
	uint32_t pages[N_PAGES];
	const int32_t *parent; /* of the last tokens, a tree */
	uint32_t n_tree;
} sequence;

static const pp_rope no_rope;

/* Floats of a token's row of qkv. */
static size_t
row_of(const pp_attn *a)
{
	return (a->n_heads + 2 * (size_t) a->n_kv_heads) * a->d_head;
}

/*
 * Makes a sequence of n random tokens whose pages begin at first_page, in steps that shuffle them.
 */
static sequence
make_sequence(const pp_attn *attn, uint32_t n, uint32_t first_page, uint64_t seed)
{
	sequence s = {.attn = *attn, .n = n, .qkv = random_floats(n * row_of(attn), seed)};

	for (uint32_t i = 0; i < N_PAGES; i++)
		s.pages[i] = (first_page + i * 5) % N_PAGES;
	return s;
}

/* Runs tokens [first, first + n_new) of a sequence through the backend, as chain or as its tree. */
static pp_result
run_part(pp_backend *be, const sequence *s, uint32_t first, uint32_t n_new, float *out)
{
	const size_t d_out = s->attn.n_heads * (size_t) s->attn.d_head;
	pp_segment seg = {.n_new = n_new, .n_past = first, .pages = s->attn.causal ? s->pages : NULL};
	float *q = guarded(n_new * d_out);
	uint32_t pos[1024];
	pp_result result;

	seg.parent = s->parent != NULL && first + n_new > s->n - s->n_tree ? s->parent : NULL;
	for (uint32_t i = 0; i < n_new; i++)
		pos[i] = first + i;
	result = be->ops->qkv_prepare(be, q, s->qkv + first * row_of(&s->attn), pos, &seg, 1, n_new, 0,
	                              &s->attn, &no_rope, NULL, NULL, 0, false);
	if (result == PP_OK)
		result = be->ops->attention(be, out, q, &seg, 1, n_new, 0, &s->attn);
	CHECK(unguard(q, n_new * d_out));
	return result;
}

/* The reference for tokens [first, n) over the whole sequence. */
static void
run_reference(const sequence *s, uint32_t first, double *out)
{
	const pp_attn *a = &s->attn;
	const size_t n_q = a->n_heads * (size_t) a->d_head;
	const size_t n_kv = a->n_kv_heads * (size_t) a->d_head;
	float *q = malloc(s->n * n_q * sizeof(*q));
	float *k = malloc(s->n * n_kv * sizeof(*k));
	float *v = malloc(s->n * n_kv * sizeof(*v));

	if (q == NULL || k == NULL || v == NULL)
		abort();
	for (uint32_t t = 0; t < s->n; t++)
	{
		const float *row = s->qkv + t * row_of(a);

		memcpy(q + t * n_q, row, n_q * sizeof(*q));
		memcpy(k + t * n_kv, row + n_q, n_kv * sizeof(*k));
		memcpy(v + t * n_kv, row + n_q + n_kv, n_kv * sizeof(*v));
	}
	attention_ref(out, q + first * n_q, k, v, s->n - first, first, s->parent, a);
	free(q);
	free(k);
	free(v);
}

/* What bf16 may cost: scores of |q| |k| scale carry two roundings, weights and values one each. */
static double
attention_bound(const pp_attn *a, pp_precision precision)
{
	double score = a->d_head * (double) fabsf(a->scale) / 3;

	return precision == PP_PREC_F32 ? 4e-6 * (1 + score) : BF16_ROUND * (2 + score);
}

/* One shape on one backend: history, then the rest in one piece; error and bands. */
static void
check_shape(pp_backend *be, const sequence *s, uint32_t n_past, pp_precision precision)
{
	const size_t n_out = (s->n - n_past) * s->attn.n_heads * (size_t) s->attn.d_head;
	float *out = guarded(s->n * s->attn.n_heads * (size_t) s->attn.d_head);
	double *ref = calloc(n_out + 1, sizeof(*ref));

	CHECK(be->ops->kv_create(be, &s->attn, 1, N_PAGES, precision) == PP_OK);
	if (n_past > 0)
		CHECK(run_part(be, s, 0, n_past, out) == PP_OK);
	CHECK(run_part(be, s, n_past, s->n - n_past, out) == PP_OK);
	run_reference(s, n_past, ref);
	CHECK_MSG(max_error(out, ref, n_out) <= attention_bound(&s->attn, precision),
	          "heads %u/%u d %u n %u past %u precision %d: %g", s->attn.n_heads, s->attn.n_kv_heads,
	          s->attn.d_head, s->n, n_past, precision, max_error(out, ref, n_out));
	CHECK(unguard(out, s->n * s->attn.n_heads * (size_t) s->attn.d_head));
	free(ref);
}

/* A shape in both precisions on the levels that have code of their own. */
static void
check_everywhere(const pp_attn *attn, uint32_t n, uint32_t n_past)
{
	const llm_cpu_isa levels[] = {LLM_ISA_BASE, LLM_ISA_AVX2, LLM_ISA_AVX512, LLM_ISA_AMX};
	sequence s = make_sequence(attn, n, 3, n * 31 + n_past);

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
	{
		pp_backend *be = llm_cpu_create_isa(1 + (uint32_t) i % 2, levels[i]);

		check_shape(be, &s, n_past, PP_PREC_F32);
		check_shape(be, &s, n_past, PP_PREC_INT8);
		pp_cpu_destroy(be);
	}
	CHECK(unguard(s.qkv, n * row_of(attn)));
}

/* Head sizes 8 to 256, group sizes 1 to 9. */
static void
test_shapes(void)
{
	const uint32_t d[] = {8, 16, 24, 40, 64, 96, 128, 256};
	const uint32_t heads[][2] = {{1, 1}, {9, 3}, {8, 1}, {9, 1}, {4, 4}, {71, 1}, {6, 2}, {2, 1}};

	for (size_t i = 0; i < sizeof(d) / sizeof(d[0]); i++)
	{
		pp_attn a = {.n_heads = heads[i][0],
		             .n_kv_heads = heads[i][1],
		             .d_head = d[i],
		             .scale = 1.0f / sqrtf((float) d[i]),
		             .causal = true};

		check_everywhere(&a, 41, 0);
		check_everywhere(&a, 35, 34);
	}
}

/* Lengths around the page and the step, with history on either side. */
static void
test_lengths(void)
{
	const uint32_t n[] = {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 131, 257};
	const pp_attn a = {.n_heads = 4, .n_kv_heads = 2, .d_head = 32, .scale = 0.3f, .causal = true};

	for (size_t i = 0; i < sizeof(n) / sizeof(n[0]); i++)
	{
		check_everywhere(&a, n[i], 0);
		check_everywhere(&a, n[i], n[i] - 1);
		check_everywhere(&a, n[i], n[i] / 2);
	}
}

/* Windows, softcaps, encoders. */
static void
test_variants(void)
{
	const uint32_t windows[] = {1, 5, 32, 33, 100, 1000};
	pp_attn a = {.n_heads = 4, .n_kv_heads = 2, .d_head = 32, .scale = 0.3f};

	for (int causal = 0; causal < 2; causal++)
		for (size_t w = 0; w < sizeof(windows) / sizeof(windows[0]); w++)
		{
			a.causal = causal;
			a.window = windows[w];
			a.softcap = w % 2 == 0 ? 2.0f : 0.0f;
			check_everywhere(&a, 170, 0);
			check_everywhere(&a, 170, causal ? 140 : 0);
		}
	a.window = 0;
	a.causal = false;
	check_everywhere(&a, 1, 0);
	check_everywhere(&a, 97, 0);
}

/* A random tree of 70 tokens behind 45 of history, with and without a window. */
static void
test_trees(void)
{
	pp_attn a = {.n_heads = 6, .n_kv_heads = 2, .d_head = 16, .scale = 0.5f, .causal = true};
	int32_t parent[70];
	uint64_t seed = 77;

	for (int32_t i = 0; i < 70; i++)
		parent[i] = (int32_t) (test_random(&seed) % (uint64_t) (i + 1)) - 1;
	for (int variant = 0; variant < 2; variant++)
		for (int level = LLM_ISA_AVX512; level <= LLM_ISA_AMX; level += 2)
		{
			pp_backend *be = llm_cpu_create_isa(2, (llm_cpu_isa) level);
			sequence s;

			a.window = variant == 0 ? 0 : 3;
			s = make_sequence(&a, 115, 1, 5);
			s.parent = parent;
			s.n_tree = 70;
			check_shape(be, &s, 45, PP_PREC_F32);
			check_shape(be, &s, 45, PP_PREC_INT8);
			CHECK(unguard(s.qkv, 115 * row_of(&a)));
			pp_cpu_destroy(be);
		}
}

/* A sequence in chunks, and one token at a time, has the bits of one piece; on any threads. */
static void
test_chunking(void)
{
	const pp_attn a = {
	    .n_heads = 9, .n_kv_heads = 3, .d_head = 64, .scale = 0.125f, .causal = true};
	const size_t d = 9 * 64;
	const uint32_t chunks[] = {1, 7, 32, 45, 128};
	const uint32_t n = 300;
	sequence s = make_sequence(&a, n, 2, 99);
	float *whole = guarded(n * d);
	float *part = guarded(n * d);

	for (int p = PP_PREC_F32; p <= PP_PREC_INT8; p++)
		for (uint32_t threads = 1; threads <= 3; threads++)
			for (size_t c = 0; c < 5; c++)
			{
				pp_backend *be = pp_cpu_create(threads);

				CHECK(be->ops->kv_create(be, &a, 1, N_PAGES, (pp_precision) p) == PP_OK);
				if (threads == 1 && c == 0)
					CHECK(run_part(be, &s, 0, n, whole) == PP_OK);
				for (uint32_t t = 0; t < n; t += chunks[c])
				{
					uint32_t n_new = n - t < chunks[c] ? n - t : chunks[c];

					CHECK(run_part(be, &s, t, n_new, part) == PP_OK);
					CHECK_MSG(same_bits(part, whole + t * d, n_new * d),
					          "precision %d, chunks of %u, token %u", p, chunks[c], t);
				}
				pp_cpu_destroy(be);
			}
	CHECK(unguard(whole, n * d) && unguard(part, n * d) && unguard(s.qkv, n * row_of(&a)));
}

/* Three segments in one call have the bits they have alone, and stale NaN in pages does no harm. */
static void
check_packed(pp_backend *be, const pp_attn *a, pp_precision precision)
{
	const uint32_t n[] = {33, 1, 70};
	const size_t d = a->n_heads * (size_t) a->d_head;
	float *qkv = random_floats(104 * row_of(a), 123);
	float *q = guarded(104 * d);
	float *all = guarded(104 * d);
	float *alone = guarded(104 * d);
	const uint32_t pages[] = {0, 1, 2, 3, 4, 5, 6};
	pp_segment segs[3];
	uint32_t pos[104];

	for (uint32_t i = 0; i < 104; i++)
		pos[i] = i < 33 ? i : i < 34 ? 0 : i - 34;
	segs[0] = (pp_segment){.first_token = 0, .n_new = n[0], .pages = a->causal ? pages : NULL};
	segs[1] = (pp_segment){.first_token = 33, .n_new = n[1], .pages = a->causal ? pages + 2 : NULL};
	segs[2] = (pp_segment){.first_token = 34, .n_new = n[2], .pages = a->causal ? pages + 3 : NULL};
	CHECK(be->ops->kv_create(be, a, 1, 7, precision) == PP_OK);
	if (a->causal)
		memset(llm_cpu_of(be)->kv.data, 0xff, llm_cpu_of(be)->kv.bytes);
	CHECK(be->ops->qkv_prepare(be, q, qkv, pos, segs, 3, 104, 0, a, &no_rope, NULL, NULL, 0,
	                           false) == PP_OK);
	CHECK(be->ops->attention(be, all, q, segs, 3, 104, 0, a) == PP_OK);
	for (uint32_t s = 0; s < 3; s++)
	{
		pp_segment seg = segs[s];

		seg.first_token = 0;
		CHECK(be->ops->qkv_prepare(be, q, qkv + segs[s].first_token * row_of(a), pos, &seg, 1, n[s],
		                           0, a, &no_rope, NULL, NULL, 0, false) == PP_OK);
		CHECK(be->ops->attention(be, alone, q, &seg, 1, n[s], 0, a) == PP_OK);
		CHECK(same_bits(alone, all + segs[s].first_token * d, n[s] * d));
		for (size_t i = 0; i < n[s] * d; i++)
			CHECK(isfinite(alone[i]));
	}
	CHECK(unguard(qkv, 104 * row_of(a)) && unguard(q, 104 * d) && unguard(all, 104 * d));
	CHECK(unguard(alone, 104 * d));
}

/* Packed against alone: causal and not, both precisions. */
static void
test_packed(void)
{
	pp_backend *be = pp_cpu_create(2);
	pp_attn a = {.n_heads = 6, .n_kv_heads = 2, .d_head = 64, .scale = 0.125f};

	for (int causal = 0; causal < 2; causal++)
	{
		a.causal = causal;
		check_packed(be, &a, PP_PREC_F32);
		check_packed(be, &a, PP_PREC_INT8);
	}
	pp_cpu_destroy(be);
}

/* RoPE in both layouts and partial, with norms of the heads, against the reference. */
static void
test_prepare(void)
{
	const uint32_t d = 80;
	const float inv_freq[40] = {1.0f, 0.7f, 0.3f, 0.01f, 1e-4f};
	const pp_segment seg = {.n_new = 3};
	const uint32_t pos[] = {0, 17, 4095};
	pp_attn a = {.n_heads = 2, .n_kv_heads = 1, .d_head = d, .scale = 1};
	pp_backend *be = pp_cpu_create(1);
	float *qkv = random_floats(3 * 4 * d, 41);
	float *w = random_floats(d, 42);
	float *q = guarded(3 * 2 * d);
	double ref[80];

	for (int variant = 0; variant < 8; variant++)
	{
		pp_rope rope = {.enabled = true, .interleaved = variant & 1, .inv_freq = inv_freq};

		rope.n_dims = variant & 2 ? 80 : 20;
		rope.mscale = variant & 2 ? 1.0f : 1.2f;
		CHECK(be->ops->qkv_prepare(be, q, qkv, pos, &seg, 1, 3, 0, &a, &rope,
		                           variant & 4 ? w : NULL, variant & 4 ? w : NULL, 1e-6f,
		                           true) == PP_OK);
		for (uint32_t i = 0; i < 6; i++)
		{
			for (uint32_t j = 0; j < d; j++)
				ref[j] = qkv[i / 2 * 4 * d + i % 2 * d + j];
			if (variant & 4)
				norm_ref(ref, qkv + i / 2 * 4 * d + i % 2 * d, NULL, w, NULL, 1, d, 1e-6,
				         PP_NORM_RMS, true);
			rope_ref(ref, &rope, pos[i / 2]);
			CHECK(max_error(q + i * d, ref, d) <= 3e-6);
		}
	}
	CHECK(unguard(qkv, 3 * 4 * d) && unguard(w, d) && unguard(q, 3 * 2 * d));
	pp_cpu_destroy(be);
}

/* The output of one query over whatever pages hold, to compare pages by what attention sees. */
static void
look(pp_backend *be, const pp_attn *a, const uint32_t *pages, uint32_t n_past, float *out)
{
	float *q = random_floats(a->n_heads * (size_t) a->d_head, 8);
	const pp_segment seg = {.n_new = 1, .n_past = n_past, .pages = pages};

	CHECK(be->ops->attention(be, out, q, &seg, 1, 1, 0, a) == PP_OK);
	CHECK(unguard(q, a->n_heads * (size_t) a->d_head));
}

/* Copies, moves and clears show the same keys and values under other numbers. */
static void
test_pages(void)
{
	const pp_attn a = {.n_heads = 2, .n_kv_heads = 2, .d_head = 40, .scale = 0.2f, .causal = true};
	const uint32_t copied[] = {9, 10};
	const uint32_t n = 45;
	float *out = guarded(n * 80);
	float *other = guarded(80);

	for (int p = PP_PREC_F32; p <= PP_PREC_INT8; p++)
	{
		pp_backend *be = pp_cpu_create(1);
		sequence s = make_sequence(&a, n, 0, 7);

		CHECK(be->ops->kv_create(be, &a, 1, N_PAGES, (pp_precision) p) == PP_OK);
		CHECK(be->ops->kv_page_tokens(be) == 32);
		CHECK(be->ops->kv_page_bytes(be, &a, 1, (pp_precision) p) * N_PAGES ==
		      llm_cpu_of(be)->kv.bytes);
		CHECK(run_part(be, &s, 0, n, out) == PP_OK);
		CHECK(be->ops->kv_copy(be, copied[0], s.pages[0], 32) == PP_OK);
		CHECK(be->ops->kv_copy(be, copied[1], s.pages[1], 13) == PP_OK);
		look(be, &a, s.pages, n - 1, out);
		look(be, &a, copied, n - 1, other);
		CHECK(same_bits(out, other, 80));
		CHECK(be->ops->kv_move(be, copied, 44, 3) == PP_OK);
		look(be, &a, copied, n - 1, other);
		CHECK(!same_bits(out, other, 80));
		CHECK(be->ops->kv_move(be, s.pages, 44, 3) == PP_OK);
		look(be, &a, s.pages, n - 1, out);
		CHECK(same_bits(out, other, 80));
		CHECK(be->ops->kv_clear(be, copied[0]) == PP_OK &&
		      be->ops->kv_clear(be, copied[1]) == PP_OK);
		look(be, &a, copied, n - 1, other);
		for (uint32_t i = 0; i < 80; i++)
			CHECK(other[i] == 0.0f);
		CHECK(unguard(s.qkv, n * row_of(&a)));
		pp_cpu_destroy(be);
	}
	CHECK(unguard(out, n * 80) && unguard(other, 80));
}

/* What cannot be done is refused with a message; failing allocations are reported. */
static void
test_refusals(void)
{
	pp_backend *be = pp_cpu_create(1);
	pp_attn a = {.n_heads = 3, .n_kv_heads = 2, .d_head = 16, .causal = true};
	pp_attn encoder = {.n_heads = 1, .n_kv_heads = 1, .d_head = 16};
	const pp_segment seg = {.n_new = 1};
	float q[16] = {0};

	CHECK(be->ops->attention(be, q, q, &seg, 1, 1, 0, &a) == PP_E_UNSUPPORTED);
	a.n_kv_heads = 3;
	a.d_head = 12;
	CHECK(be->ops->attention(be, q, q, &seg, 1, 1, 0, &a) == PP_E_UNSUPPORTED);
	a.d_head = 16;
	CHECK(be->ops->attention(be, q, q, &seg, 1, 1, 0, &a) == PP_E_UNSUPPORTED);
	CHECK(strstr(be->message, "KV pages") != NULL);
	be->ops->kv_destroy(be);
	for (uint64_t n = 1; n <= 4; n++)
	{
		pp_result result;

		llm_alloc_fail_after(n, true);
		result = be->ops->attention(be, q, q, &seg, 1, 1, 0, &encoder);
		llm_alloc_fail_after(0, false);
		CHECK(n > 4 || result == PP_E_NOMEM || result == PP_OK);
		if (n == 1)
			CHECK(result == PP_E_NOMEM);
	}
	llm_alloc_fail_after(1, true);
	CHECK(be->ops->kv_create(be, &a, 1, 4, PP_PREC_INT8) == PP_E_NOMEM);
	llm_alloc_fail_after(0, false);
	pp_cpu_destroy(be);
}

int
main(void)
{
	RUN(shapes);
	RUN(lengths);
	RUN(variants);
	RUN(trees);
	RUN(chunking);
	RUN(packed);
	RUN(prepare);
	RUN(pages);
	RUN(refusals);
	return test_summary("cpu_attn");
}
