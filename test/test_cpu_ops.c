/*
 * test_cpu_ops.c: the ops that treat rows by themselves and the matrix products, on every
 * instruction set of this machine, against the references in double: errors, guard bands, and bits
 * that depend on nothing but the row.
 */
#include "cpu_fixture.h"
#include "llm_alloc.h"
#include "top_fixture.h"

static const uint32_t sizes[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 67, 130, 257};
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* A float matrix of a backend from plain memory. */
static pp_matrix *
make_matrix(pp_backend *be, const float *w, uint32_t n_rows, uint32_t n_cols,
            pp_precision precision)
{
	pp_matrix_part part = {w, PP_F32, n_rows, n_cols * sizeof(float), PP_SPLIT_NONE};

	return be->ops->matrix_create(be, &part, 1, n_cols, precision);
}

/* x rounded to int8 with the scale of its row. */
static void
round_i8(double *out, const float *x, uint32_t k)
{
	float max = 0.0f;

	for (uint32_t i = 0; i < k; i++)
		max = fmaxf(max, fabsf(x[i]));
	for (uint32_t i = 0; i < k; i++)
		out[i] = max > 0.0f ? rint(x[i] * 127.0 / max) * max / 127.0 : 0.0;
}

/* The largest error of the plainest int8 product: both factors rounded, the rest exact. */
static double
plain_i8_error(const float *x, const float *w, uint32_t t, uint32_t n, uint32_t k)
{
	double *row = calloc(2 * k, sizeof(*row));
	double worst = 0.0;

	if (row == NULL)
		abort();
	for (uint32_t i = 0; i < t * n; i++)
	{
		double e = 0.0;

		round_i8(row, x + i / n * k, k);
		round_i8(row + k, w + i % n * k, k);
		for (uint32_t j = 0; j < k; j++)
			e += row[j] * row[k + j] - (double) x[i / n * k + j] * w[i % n * k + j];
		worst = fmax(worst, fabs(e));
	}
	free(row);
	return worst;
}

/*
 * The error that a product may have: of float sums, or twice that of plain int8 code. Even noise is
 * what rotation cannot help: its sums reach 4 deviations where it reached √3, so 2.3 times the
 * step.
 */
static double
product_bound(pp_precision precision, const float *x, const float *w, uint32_t t, uint32_t n,
              uint32_t k)
{
	if (precision == PP_PREC_F32)
		return 2 * FLOAT_ROUND * k;
	return 2 * 2.3 * plain_i8_error(x, w, t, n, k) + 0.01;
}

/* One product on one backend, out returned; checks error and bands. */
static float *
product(pp_backend *be, pp_precision precision, uint32_t t, uint32_t n, uint32_t k)
{
	float *w = random_floats((size_t) n * k, 1);
	float *x = random_floats((size_t) t * k, 2);
	float *bias = random_floats(n, 3);
	float *out = guarded((size_t) t * n);
	double *ref = calloc((size_t) t * n + 1, sizeof(*ref));
	pp_matrix *m = make_matrix(be, w, n, k, precision);

	CHECK(m != NULL && ref != NULL);
	CHECK(be->ops->matmul(be, out, x, m, bias, t) == PP_OK);
	matmul_ref(ref, x, w, bias, t, n, k);
	CHECK_MSG(max_error(out, ref, (size_t) t * n) <= product_bound(precision, x, w, t, n, k),
	          "precision %d, %u x %u x %u: %g", precision, t, n, k,
	          max_error(out, ref, (size_t) t * n));
	be->ops->matrix_destroy(be, m);
	free(ref);
	CHECK(unguard(w, (size_t) n * k) && unguard(x, (size_t) t * k) && unguard(bias, n));
	return out;
}

/* All levels, sizes around the blocks, and 1 to 3 threads give the same bits. */
static void
test_matmul(void)
{
	pp_backend *be[N_ISA + 1];

	for (int i = 0; i <= N_ISA; i++)
		be[i] = llm_cpu_create_isa(i == N_ISA ? 3 : 1 + (uint32_t) i % 2, (llm_cpu_isa) i);
	for (size_t s = 0; s < N_SIZES * 3; s++)
	{
		uint32_t t = sizes[s % N_SIZES];
		uint32_t n = sizes[(s * 5 + 3) % N_SIZES];
		uint32_t k = sizes[(s * 7 + 6) % N_SIZES];

		for (int p = PP_PREC_F32; p <= PP_PREC_INT8; p++)
		{
			float *first = product(be[0], (pp_precision) p, t, n, k);

			for (int i = 1; i <= N_ISA; i++)
			{
				float *out = product(be[i], (pp_precision) p, t, n, k);

				CHECK_MSG(same_bits(first, out, (size_t) t * n), "level %d, %u x %u x %u", i, t, n,
				          k);
				CHECK(unguard(out, (size_t) t * n));
			}
			CHECK(unguard(first, (size_t) t * n));
		}
	}
	for (int i = 0; i <= N_ISA; i++)
		pp_cpu_destroy(be[i]);
}

/* A row alone, in any batch, and its listed columns: the same bits. */
static void
test_matmul_invariance(void)
{
	const uint32_t t = 150;
	const uint32_t n = 83;
	const uint32_t k = 192;
	const uint32_t cols[] = {0, 82, 16, 15, 41, 0};
	pp_backend *be = pp_cpu_create(2);
	float *w = random_floats(n * k, 5);
	float *x = random_floats(t * k, 6);
	float *all = guarded(t * n);
	float *some = guarded(t * n);

	for (int p = PP_PREC_F32; p <= PP_PREC_INT8; p++)
	{
		pp_matrix *m = make_matrix(be, w, n, k, (pp_precision) p);

		REQUIRE(m != NULL);
		CHECK(be->ops->matmul(be, all, x, m, NULL, t) == PP_OK);
		for (uint32_t n_rows = 1; n_rows < t; n_rows += 1 + n_rows / 3)
			for (uint32_t row = 0; row + n_rows <= t; row += 37)
			{
				CHECK(be->ops->matmul(be, some, x + row * k, m, NULL, n_rows) == PP_OK);
				CHECK(same_bits(some, all + row * n, (size_t) n_rows * n));
			}
		CHECK(be->ops->matmul_columns(be, some, x, m, cols, 6, t) == PP_OK);
		for (uint32_t r = 0; r < t; r++)
			for (uint32_t c = 0; c < 6; c++)
				CHECK(same_bits(&some[r * 6 + c], &all[r * n + cols[c]], 1));
		CHECK(be->ops->matmul(be, some, x, m, NULL, 0) == PP_OK);
		be->ops->matrix_destroy(be, m);
	}
	CHECK(unguard(w, n * k) && unguard(x, t * k) && unguard(all, t * n) && unguard(some, t * n));
	pp_cpu_destroy(be);
}

/*
 * One column a hundred times the others: rotation keeps the others' digits, plain int8 loses them.
 */
static void
test_matmul_outlier(void)
{
	const uint32_t k = 576;
	pp_backend *be = pp_cpu_create(1);
	float *w = random_floats(16 * k, 31);
	float *x = random_floats(8 * k, 32);
	float *out = guarded(8 * 16);
	double ref[8 * 16];
	pp_matrix *m;

	for (uint32_t t = 0; t < 8; t++)
		x[t * k + 77] = 100.0f;
	for (uint32_t n = 0; n < 16; n++)
		w[n * k + 77] *= 0.01f;
	m = make_matrix(be, w, 16, k, PP_PREC_INT8);
	REQUIRE(m != NULL);
	CHECK(be->ops->matmul(be, out, x, m, NULL, 8) == PP_OK);
	matmul_ref(ref, x, w, NULL, 8, 16, k);
	CHECK(max_error(out, ref, 8 * 16) < plain_i8_error(x, w, 8, 16, k) / 3);
	be->ops->matrix_destroy(be, m);
	CHECK(unguard(w, 16 * k) && unguard(x, 8 * k) && unguard(out, 8 * 16));
	pp_cpu_destroy(be);
}

/* A NaN or an infinity makes its own row not finite and touches no other. */
static void
test_matmul_nan(void)
{
	const uint32_t k = 70;
	pp_backend *be = pp_cpu_create(1);
	float *w = random_floats(20 * k, 7);
	float *x = random_floats(3 * k, 8);
	float *out = guarded(3 * 20);
	pp_matrix *m = make_matrix(be, w, 20, k, PP_PREC_INT8);

	REQUIRE(m != NULL);
	x[k + 5] = NAN;
	x[2 * k + 69] = INFINITY;
	CHECK(be->ops->matmul(be, out, x, m, NULL, 3) == PP_OK);
	for (uint32_t i = 0; i < 20; i++)
		CHECK(isfinite(out[i]) && !isfinite(out[20 + i]) && !isfinite(out[40 + i]));
	memset(x, 0, k * sizeof(*x));
	CHECK(be->ops->matmul(be, out, x, m, NULL, 1) == PP_OK);
	for (uint32_t i = 0; i < 20; i++)
		CHECK(out[i] == 0.0f);
	be->ops->matrix_destroy(be, m);
	CHECK(unguard(w, 20 * k) && unguard(x, 3 * k) && unguard(out, 60));
	pp_cpu_destroy(be);
}

/* Stacked parts, look-ups in every precision, tables made for look-ups only. */
static void
test_embed(void)
{
	pp_backend *be = pp_cpu_create(1);
	float *w = random_floats(37 * 48, 9);
	float *out = guarded(3 * 48);
	const int32_t ids[] = {36, 0, 20};
	const pp_matrix_part parts[] = {{w, PP_F32, 17, 48 * 4, PP_SPLIT_NONE},
	                                {w + 17 * 48, PP_F32, 20, 48 * 4, PP_SPLIT_NONE}};

	for (int p = PP_PREC_F32; p <= PP_PREC_NATIVE; p++)
	{
		pp_matrix *m = be->ops->matrix_create(be, parts, 2, 48, (pp_precision) p);

		REQUIRE(m != NULL);
		CHECK(be->ops->embed(be, out, m, ids, 3, 3.0f) == PP_OK);
		for (uint32_t i = 0; i < 3 * 48; i++)
			CHECK(fabsf(out[i] - 3.0f * w[ids[i / 48] * 48 + (int) i % 48]) <=
			      (p == PP_PREC_INT8 ? 0.05f : 0.0f));
		if (p == PP_PREC_NATIVE)
			CHECK(be->ops->matmul(be, out, w, m, NULL, 1) == PP_E_UNSUPPORTED);
		be->ops->matrix_destroy(be, m);
	}
	CHECK(unguard(w, 37 * 48) && unguard(out, 3 * 48));
	pp_cpu_destroy(be);
}

/* One norm on one backend against the reference. */
static void
check_norm(pp_backend *be, uint32_t d, pp_norm_kind kind, bool residual, bool bias)
{
	const uint32_t t = 5;
	float *x = random_floats(t * d, 11);
	float *add = random_floats(t * d, 12);
	float *w = random_floats(d, 13);
	float *b = random_floats(d, 14);
	float *out = guarded(t * d);
	double *ref = calloc(t * d, sizeof(*ref));

	norm_ref(ref, x, residual ? add : NULL, w, bias ? b : NULL, t, d, 1e-5f, kind, residual);
	CHECK(be->ops->norm(be, out, x, residual ? add : NULL, w, bias ? b : NULL, t, d, 1e-5f, kind,
	                    residual) == PP_OK);
	/* at d = 1 LayerNorm divides a rounding error of the mean by √eps */
	CHECK_MSG(max_error(out, ref, t * d) <= 2e-5, "d %u: %g", d, max_error(out, ref, t * d));
	CHECK(be->ops->norm(be, x, x, NULL, w, NULL, t, d, 1e-5f, kind, false) == PP_OK);
	CHECK(unguard(x, t * d) && unguard(add, t * d) && unguard(w, d) && unguard(b, d));
	CHECK(unguard(out, t * d));
	free(ref);
}

/* All forms, sizes and levels. */
static void
test_norm(void)
{
	for (int isa = 0; isa < 3; isa++)
	{
		pp_backend *be = llm_cpu_create_isa(2, (llm_cpu_isa) isa);

		for (size_t s = 0; s < N_SIZES; s++)
			for (int form = 0; form < 8; form++)
				check_norm(be, sizes[s], form & 1 ? PP_NORM_LAYER : PP_NORM_RMS, form & 2,
				           form & 4);
		pp_cpu_destroy(be);
	}
}

/* Activations over the whole range, gated and not, on all levels with the same bits. */
static void
test_activate(void)
{
	const uint32_t f = 2003;
	pp_backend *base = llm_cpu_create_isa(1, LLM_ISA_BASE);
	pp_backend *best = pp_cpu_create(2);
	float *x = random_floats(4 * f, 15);
	double *ref = calloc(2 * f, sizeof(*ref));

	for (uint32_t i = 0; i < 4 * f; i++)
		x[i] *= i % 3 == 0 ? 1.0f : i % 3 == 1 ? 12.0f : 120.0f;
	for (int act = PP_ACT_SILU; act <= PP_ACT_TANH; act++)
		for (int gated = 0; gated < 2; gated++)
		{
			float *out = guarded(2 * f);
			float *other = guarded(2 * f);

			CHECK(best->ops->activate(best, out, x, 2, f, (pp_act_kind) act, gated) == PP_OK);
			CHECK(base->ops->activate(base, other, x, 2, f, (pp_act_kind) act, gated) == PP_OK);
			CHECK(same_bits(out, other, 2 * f));
			activate_ref(ref, x, 2, f, (pp_act_kind) act, gated);
			for (uint32_t i = 0; i < 2 * f; i++)
				CHECK_MSG(fabs(out[i] - ref[i]) <= 8 * FLOAT_ROUND * fabs(ref[i]) + 2e-6,
				          "act %d: %g for %g", act, (double) out[i], ref[i]);
			CHECK(unguard(out, 2 * f) && unguard(other, 2 * f));
		}
	free(ref);
	CHECK(unguard(x, 4 * f));
	pp_cpu_destroy(base);
	pp_cpu_destroy(best);
}

/* Values at the ends of the range stay sane. */
static void
test_activate_edges(void)
{
	const float in[] = {INFINITY, -INFINITY, NAN, 0.0f, 3e38f, -3e38f, 1e-40f, -88.0f};
	pp_backend *be = pp_cpu_create(1);
	float *x = guarded(8);
	float *out = guarded(8);

	for (int act = PP_ACT_SILU; act <= PP_ACT_TANH; act++)
	{
		memcpy(x, in, sizeof(in));
		CHECK(be->ops->activate(be, out, x, 1, 8, (pp_act_kind) act, false) == PP_OK);
		CHECK(act == PP_ACT_TANH ? out[0] == 1.0f : isinf(out[0]));
		CHECK(isnan(out[2]) && out[3] == 0.0f);
		CHECK(act == PP_ACT_TANH ? out[4] == 1.0f && out[5] == -1.0f
		                         : !isfinite(out[4]) || out[4] > 1e38f);
		CHECK(fabsf(out[6]) < 1e-30f);
	}
	CHECK(unguard(x, 8) && unguard(out, 8));
	pp_cpu_destroy(be);
}

/* Rounding to bf16 against the rule in plain integers, NaN, infinity and halves among the bits. */
static void
test_narrow(void)
{
	static const uint32_t special[16] = {0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff,
	                                     0x7f800000, 0xff800000, 0x7f800001, 0xff812345,
	                                     0x7fffffff, 0x7f7fffff, 0x00000000, 0x80000000,
	                                     0x00000001, 0x00018000, 0x807fffff, 0xbf7fffff};

	for (int isa = 0; isa < N_ISA; isa++)
		for (uint32_t round = 0; round < 100; round++)
		{
			float x[16];
			uint16_t out[16];

			for (uint32_t i = 0; i < 16; i++)
			{
				uint32_t bits = special[i] + round * 2654435761u * (round > 0);

				memcpy(&x[i], &bits, sizeof(bits));
			}
			llm_cpu_kernels_of((llm_cpu_isa) isa)->narrow(out, x, 16);
			for (uint32_t i = 0; i < 16; i++)
			{
				uint32_t bits;
				uint32_t up;

				memcpy(&bits, &x[i], sizeof(bits));
				up = (bits & 0xffff) > 0x8000 || ((bits & 0xffff) == 0x8000 && (bits >> 16 & 1));
				CHECK(isnan(x[i]) ? out[i] == (bits >> 16 | 0x40) : out[i] == (bits >> 16) + up);
			}
		}
}

/* One feed-forward block as one op and as three: the same bits. */
static void
compare_mlp(pp_backend *be, pp_precision precision, uint32_t t, uint32_t f, bool gated)
{
	const uint32_t d = 70;
	const uint32_t f_in = gated ? 2 * f : f;
	float *w_in = random_floats((size_t) f_in * d, 1);
	float *w_out = random_floats((size_t) d * f, 2);
	float *bias = random_floats(f_in + d, 3);
	float *x = random_floats((size_t) t * d, 4);
	float *wide = guarded((size_t) t * f_in);
	float *hidden = guarded((size_t) t * f);
	float *apart = guarded((size_t) t * d);
	float *whole = guarded((size_t) t * d);
	pp_mlp mlp = {.in = make_matrix(be, w_in, f_in, d, precision),
	              .out = make_matrix(be, w_out, d, f, precision),
	              .dev_in_bias = bias,
	              .dev_out_bias = bias + f_in,
	              .dev_wide = wide,
	              .dev_hidden = hidden,
	              .f = f,
	              .act = gated ? PP_ACT_SILU : PP_ACT_GELU_ERF,
	              .gated = gated};

	REQUIRE(mlp.in != NULL && mlp.out != NULL);
	CHECK(be->ops->matmul(be, wide, x, mlp.in, bias, t) == PP_OK);
	CHECK(be->ops->activate(be, hidden, wide, t, f, mlp.act, gated) == PP_OK);
	CHECK(be->ops->matmul(be, apart, hidden, mlp.out, bias + f_in, t) == PP_OK);
	CHECK(be->ops->mlp(be, whole, x, &mlp, t) == PP_OK);
	CHECK_MSG(same_bits(apart, whole, (size_t) t * d), "%u tokens, %u wide", t, f);
	be->ops->matrix_destroy(be, (pp_matrix *) mlp.in);
	be->ops->matrix_destroy(be, (pp_matrix *) mlp.out);
	CHECK(unguard(w_in, (size_t) f_in * d) && unguard(w_out, (size_t) d * f));
	CHECK(unguard(bias, f_in + d) && unguard(x, (size_t) t * d));
	CHECK(unguard(wide, (size_t) t * f_in) && unguard(hidden, (size_t) t * f));
	CHECK(unguard(apart, (size_t) t * d) && unguard(whole, (size_t) t * d));
}

/* Feed-forward blocks at every level: few rows and many, whole panels and not. */
static void
test_mlp(void)
{
	const uint32_t tokens[] = {1, 33, 65, 300};
	const uint32_t widths[] = {16, 64, 72, 208};

	for (int isa = 0; isa < N_ISA; isa++)
	{
		pp_backend *be = llm_cpu_create_isa(1 + (uint32_t) isa % 2, (llm_cpu_isa) isa);

		for (size_t i = 0; i < 4; i++)
			for (size_t j = 0; j < 4; j++)
			{
				compare_mlp(be, PP_PREC_INT8, tokens[i], widths[j], true);
				compare_mlp(be, PP_PREC_INT8, tokens[i], widths[j], false);
			}
		compare_mlp(be, PP_PREC_F32, 65, 64, true);
		pp_cpu_destroy(be);
	}
}

/* Softcap, log-sum-exp, sums, gathers at sizes around the vectors. */
static void
test_small_ops(void)
{
	pp_backend *be = pp_cpu_create(2);

	for (size_t s = 0; s < N_SIZES; s++)
	{
		const uint32_t n = sizes[s] * 37;
		float *x = random_floats(3 * n, 17);
		float *y = random_floats(3 * n, 18);
		float *out = guarded(3 * n);
		float *lse = guarded(3);
		const uint32_t rows[] = {2, 0};

		CHECK(be->ops->logsumexp(be, lse, x, 3, n) == PP_OK);
		for (uint32_t r = 0; r < 3; r++)
			CHECK(fabs(lse[r] - logsumexp_ref(x + r * n, n)) <= 2e-6);
		CHECK(be->ops->gather(be, out, x, rows, 2, n) == PP_OK);
		CHECK(same_bits(out, x + 2 * n, n) && same_bits(out + n, x, n));
		memcpy(out, x, 3 * n * sizeof(*x));
		CHECK(be->ops->add(be, out, y, 3, n) == PP_OK);
		CHECK(be->ops->add_rows(be, out, y, rows, 2, n) == PP_OK);
		for (uint32_t i = 0; i < n; i++)
			CHECK(out[i] == x[i] + y[i] + y[2 * n + i] &&
			      out[2 * n + i] == x[2 * n + i] + y[2 * n + i]);
		CHECK(be->ops->softcap(be, y, 3 * n, 0.3f) == PP_OK);
		randomise(out, 3 * n, 18);
		for (uint32_t i = 0; i < 3 * n; i++)
			CHECK(fabs(y[i] - softcap_ref(out[i], 0.3f)) <= 8 * FLOAT_ROUND);
		CHECK(unguard(x, 3 * n) && unguard(y, 3 * n) && unguard(out, 3 * n) && unguard(lse, 3));
	}
	pp_cpu_destroy(be);
}

static void
test_top(void)
{
	pp_backend *be = pp_cpu_create(2);
	uint64_t seed = 5;

	top_check(be, &seed);
	pp_cpu_destroy(be);
}

/* All poolings of ragged segments. */
static void
test_pool(void)
{
	const uint32_t d = 67;
	pp_backend *be = pp_cpu_create(1);
	float *x = random_floats(12 * d, 19);
	float *out = guarded(3 * d);
	double ref[67];
	const pp_segment segs[] = {{.first_token = 0, .n_new = 1},
	                           {.first_token = 1, .n_new = 11},
	                           {.first_token = 12, .n_new = 0}};

	for (int pooling = PP_POOL_CLS; pooling <= PP_POOL_LAST; pooling++)
		for (int l2 = 0; l2 < 2; l2++)
		{
			CHECK(be->ops->pool(be, out, x, segs, 3, d, pooling, l2) == PP_OK);
			for (uint32_t s = 0; s < 3; s++)
			{
				pool_ref(ref, x + segs[s].first_token * d, segs[s].n_new, d, pooling, l2);
				CHECK(max_error(out + s * d, ref, d) <= 1e-6);
			}
		}
	CHECK(unguard(x, 12 * d) && unguard(out, 3 * d));
	pp_cpu_destroy(be);
}

/* Every failing allocation is reported and leaks nothing. */
static void
test_no_memory(void)
{
	float *w = random_floats(40 * 40, 21);
	float *out = guarded(40);

	for (uint64_t n = 1; n < 12; n++)
	{
		pp_backend *be;
		pp_matrix *m;

		llm_alloc_fail_after(n, true);
		be = pp_cpu_create(2);
		m = be != NULL ? make_matrix(be, w, 40, 40, PP_PREC_INT8) : NULL;
		if (m != NULL && be->ops->matmul(be, out, w, m, NULL, 1) != PP_OK)
			CHECK(be->message[0] != '\0');
		llm_alloc_fail_after(0, false);
		if (be != NULL)
			be->ops->matrix_destroy(be, m);
		pp_cpu_destroy(be);
	}
	CHECK(unguard(w, 40 * 40) && unguard(out, 40));
}

/* Memory counts go up and down again. */
static void
test_memory(void)
{
	pp_backend *be = pp_cpu_create(1);
	float *w = random_floats(64 * 64, 22);
	pp_matrix *m = make_matrix(be, w, 64, 64, PP_PREC_INT8);
	void *dev = be->ops->alloc(be, 1000);
	char back[5] = "";
	pp_memory_info info;

	REQUIRE(m != NULL && dev != NULL);
	be->ops->memory_info(be, &info);
	CHECK(info.bytes_weights == 64 * 64 + 64 * 8 && info.bytes_scratch >= 1000);
	CHECK(be->ops->upload(be, dev, "four", 5) == PP_OK && be->ops->sync(be) == PP_OK);
	CHECK(be->ops->download(be, back, dev, 5) == PP_OK && strcmp(back, "four") == 0);
	be->ops->release(be, dev);
	be->ops->release(be, NULL);
	be->ops->matrix_destroy(be, m);
	be->ops->memory_info(be, &info);
	CHECK(info.bytes_weights == 0 && info.bytes_scratch < 1000);
	CHECK(be->ops->alloc(be, SIZE_MAX) == NULL);
	CHECK(unguard(w, 64 * 64));
	pp_cpu_destroy(be);
}

int
main(void)
{
	RUN(matmul);
	RUN(matmul_invariance);
	RUN(matmul_outlier);
	RUN(matmul_nan);
	RUN(embed);
	RUN(norm);
	RUN(activate);
	RUN(activate_edges);
	RUN(mlp);
	RUN(narrow);
	RUN(small_ops);
	RUN(top);
	RUN(pool);
	RUN(no_memory);
	RUN(memory);
	return test_summary("cpu_ops");
}
