/*
 * test_quant_host.cu: weights in tiles on the CPU (cuda_host.cuh): quant.cu, matmul_quant.cu and
 * matmul_quant_stream.cu against the reference, with the barriers and copies that the card would
 * see.
 *
 * Weights must be those of the reference to the bit; a product may have twice the error of plain
 * code, whose sums are float and whose result is rounded once; and a row must have the same bits
 * alone, in a batch, listed, and with the same weights in bf16 (matmul_stream.cu). test_kernels
 * asks the same of a card.
 */
#include <math.h>
#include <stdlib.h>
#include <vector>

#include <cuda_fp8.h>

#include "activate.cuh"
#include "matmul_few.cuh"
#include "test.h"

extern "C"
{
#include "ref/ref.h"
}

static pp_cuda cu;
static uint64_t seed = 1;

static const pp_dtype types[] = {PP_Q8_0, PP_Q4_0, PP_Q4_1, PP_Q5_0,  PP_Q5_1,
                                 PP_Q4_K, PP_Q5_K, PP_Q6_K, PP_IQ4_NL};

/* A matrix of random blocks and its weights. */
struct sample
{
	pp_matrix m;
	std::vector<uint8_t> blocks;
	std::vector<double> w; /* in bf16 */
	pp_dtype type;
};

/* Weights and bytes of a block, and the bits of a tile's quants. */
static void
shape_of(pp_dtype type, uint32_t *weights, uint32_t *bits)
{
	*weights = type == PP_Q4_K || type == PP_Q5_K || type == PP_Q6_K ? 256 : 32;
	*bits = type == PP_Q4_0 || type == PP_Q4_1 || type == PP_Q4_K ? 4 : 8;
}

/* Device memory of zeros. */
template <typename T>
static T *
zeros(size_t n)
{
	T *p = NULL;

	if (cudaMalloc((void **) &p, n * sizeof(T) + 16) != cudaSuccess)
		abort();
	memset(p, 0, n * sizeof(T) + 16);
	return p;
}

/* Adds n_rows of random blocks of a type at a row, and their weights in bf16. */
static void
add_rows(sample *s, pp_dtype type, uint32_t row, uint32_t n_rows)
{
	const uint32_t n_cols = s->m.n_cols;
	std::vector<double> w(n_cols);
	std::vector<uint8_t> blocks(n_rows * n_cols * 2);
	size_t row_bytes = quant_ref(w.data(), blocks.data(), type, n_cols);

	/* bytes below 0x3c make halves of moderate size; every fourth block has a negative one */
	for (uint8_t &b : blocks)
		b = (uint8_t) (test_random(&seed) % 0x3c);
	for (size_t i = 1; i < blocks.size(); i += 72)
		blocks[i] |= 0x80;
	for (uint32_t r = 0; r < n_rows; r++)
	{
		quant_ref(w.data(), &blocks[r * row_bytes], type, n_cols);
		for (double x : w)
			s->w.push_back(bf16_ref((float) x));
	}
	REQUIRE(cuda_quant_pack(&cu, &s->m, row, blocks.data(), type, n_rows, row_bytes) ==
	        cudaSuccess);
	blocks.resize(n_rows * row_bytes);
	s->blocks.insert(s->blocks.end(), blocks.begin(), blocks.end());
	s->type = type;
}

/* Room for a matrix. */
static sample
make_sample(uint32_t n_rows, uint32_t n_cols, uint32_t bits)
{
	sample s = {};

	s.m.n_rows = n_rows;
	s.m.n_cols = n_cols;
	s.m.bits = bits;
	s.m.tiles = zeros<uint8_t>(cuda_quant_bytes(n_rows, n_cols, bits));
	s.m.forms = zeros<uint8_t>(n_rows);
	return s;
}

/* Frees it. */
static void
drop_sample(sample *s)
{
	cudaFree(s->m.tiles);
	cudaFree(s->m.forms);
}

/* Expanded and looked up, the weights are the reference's. */
static void
check_weights(const sample &s, const char *what)
{
	const uint32_t n_cols = s.m.n_cols;
	std::vector<bf16> out((size_t) s.m.n_rows * n_cols + 64, __float2bfloat16(-7.0f));
	std::vector<float> rows(3 * (size_t) n_cols);
	const int32_t ids[3] = {(int32_t) s.m.n_rows - 1, 0, (int32_t) s.m.n_rows / 2};
	uint32_t n_different = 0;

	REQUIRE(cuda_quant_expand(&cu, out.data(), &s.m) == cudaSuccess);
	REQUIRE(cuda_quant_embed(&cu, rows.data(), &s.m, ids, 3, 2.0f) == cudaSuccess);
	for (size_t i = 0; i < s.w.size(); i++)
		n_different += (double) __bfloat162float(out[i]) != s.w[i];
	for (size_t i = 0; i < rows.size(); i++)
		n_different +=
		    (double) rows[i] != 2.0 * s.w[(size_t) ids[i / n_cols] * n_cols + i % n_cols];
	for (size_t i = s.w.size(); i < out.size(); i++)
		n_different += __bfloat162float(out[i]) != -7.0f;
	CHECK_MSG(n_different == 0, "%s %d, %u x %u: %u weights differ", what, (int) s.type, s.m.n_rows,
	          n_cols, n_different);
}

/* Random activations. */
static std::vector<bf16>
random_acts(size_t n)
{
	std::vector<bf16> x;

	for (size_t i = 0; i < n + 8; i++)
		x.push_back(__float2bfloat16((float) (test_random(&seed) >> 40) / (1 << 23) - 1.0f));
	return x;
}

/* The excess of x over what plain code may be off: round · (|ref| + Σ |terms| · 2^-24 √K). */
static double
excess(double x, double ref, double terms, double round)
{
	return isfinite(x) ? fabs(x - ref) / (2 * (round * fabs(ref) + 1e-7 * terms) + 1e-30) : 1e30;
}

/* A product of t tokens in both output types, against double. */
static void
check_product(const sample &s, uint32_t t)
{
	const uint32_t n = s.m.n_rows;
	const uint32_t k = s.m.n_cols;
	std::vector<bf16> x = random_acts((size_t) t * k);
	std::vector<bf16> out((size_t) t * n + 64, __float2bfloat16(-7.0f));
	std::vector<float> wide((size_t) t * n + 64, -7.0f);
	std::vector<float> bias;
	std::vector<bf16> bias16 = random_acts(n);
	double worst = 0.0;

	for (uint32_t i = 0; i < n; i++)
		bias.push_back(__bfloat162float(bias16[i]));
	REQUIRE(cuda_quant_skinny(&cu, out.data(), x.data(), &s.m, bias16.data(), t) == cudaSuccess);
	REQUIRE(cuda_quant_skinny_float(&cu, wide.data(), x.data(), &s.m, bias.data(), NULL, n, t) ==
	        cudaSuccess);
	for (size_t i = 0; i < (size_t) t * n; i++)
	{
		double sum = bias[i % n];
		double terms = fabs(sum);

		for (uint32_t c = 0; c < k; c++)
		{
			double term = s.w[i % n * k + c] * (double) __bfloat162float(x[i / n * k + c]);

			sum += term;
			terms += fabs(term);
		}
		worst = fmax(worst, excess(__bfloat162float(out[i]), sum, terms, 1.0 / 512));
		worst = fmax(worst, excess(wide[i], sum, terms, 6e-8));
	}
	for (size_t i = (size_t) t * n; i < out.size(); i++)
		worst = __bfloat162float(out[i]) == -7.0f && wide[i] == -7.0f ? worst : 1e30;
	CHECK_MSG(worst <= 1.0, "type %d, %u x %u x %u: %g times the bound", (int) s.type, t, n, k,
	          worst);
}

/* How many of the sums differ from those of the weights in bf16. */
static uint32_t
other_than_bf16(const sample &s, const std::vector<bf16> &x, const std::vector<float> &all,
                uint32_t t)
{
	bf16 *wide = zeros<bf16>((size_t) s.m.n_rows * s.m.n_cols);
	std::vector<float> out(all.size());
	const few_args few = {out.data(), NULL, NULL, NULL, t, s.m.n_rows, s.m.n_cols};
	pp_matrix m = s.m;
	uint32_t n_different = 0;

	m.data = wide;
	cuda_quant_expand(&cu, wide, &s.m);
	CHECK(cuda_stream(&cu, &few, x.data(), &m) == cudaSuccess);
	for (size_t i = 0; i < all.size(); i++)
		n_different += memcmp(&out[i], &all[i], sizeof(float)) != 0;
	cudaFree(wide);
	return n_different;
}

/* Row by row, by a list of rows of W in any order, and in bf16: the bits of the batch. */
static void
check_bits(const sample &s, uint32_t t)
{
	const uint32_t n = s.m.n_rows;
	const uint32_t k = s.m.n_cols;
	const uint32_t cols[5] = {n - 1, 0, n / 2, n - 1, n / 3};
	std::vector<bf16> x = random_acts((size_t) t * k);
	std::vector<float> all((size_t) t * n), one(n), some(5 * (size_t) t);
	uint32_t n_different = 0;

	cuda_quant_skinny_float(&cu, all.data(), x.data(), &s.m, NULL, NULL, n, t);
	cuda_quant_skinny_float(&cu, some.data(), x.data(), &s.m, NULL, cols, 5, t);
	for (uint32_t r = 0; r < t; r++)
	{
		cuda_quant_skinny_float(&cu, one.data(), &x[(size_t) r * k], &s.m, NULL, NULL, n, 1);
		n_different += memcmp(one.data(), &all[(size_t) r * n], n * sizeof(float)) != 0;
		for (uint32_t c = 0; c < 5; c++)
			n_different += memcmp(&some[r * 5 + c], &all[(size_t) r * n + cols[c]], 4) != 0;
	}
	n_different += other_than_bf16(s, x, all, t);
	CHECK_MSG(n_different == 0, "type %d: %u rows differ", (int) s.type, n_different);
}

static void
test_weights()
{
	const uint32_t n_rows[] = {1, 15, 16, 17, 37};

	for (pp_dtype type : types)
		for (uint32_t i = 0; i < 5; i++)
		{
			uint32_t weights;
			uint32_t bits;
			sample s;

			shape_of(type, &weights, &bits);
			s = make_sample(n_rows[i], weights * (1 + i), bits);
			add_rows(&s, type, 0, n_rows[i]);
			check_weights(s, "type");
			drop_sample(&s);
		}
}

static void
test_products()
{
	const uint32_t tokens[] = {1, 2, 3, 5, 7, 8, 9, 15, 16};
	const uint32_t more[] = {1, 17, 8, 31, 9, 33, 16, 63, 64}; /* where copies come in bulk */
	const uint32_t n_rows[] = {1, 15, 17, 31, 16, 33, 100, 48, 7};

	for (uint32_t i = 0; i < 9; i++)
		for (uint32_t j = 0; j < 3; j++)
		{
			uint32_t weights;
			uint32_t bits;
			sample s;

			shape_of(types[i], &weights, &bits);
			s = make_sample(n_rows[(i + j) % 9], weights * (1 + (i + 3 * j) % 5), bits);
			add_rows(&s, types[i], 0, s.m.n_rows);
			check_product(s, (cu.arch >= 90 ? more : tokens)[(i + 4 * j) % 9]);
			drop_sample(&s);
		}
}

/* Deep rings go around; few and many warps that unpack. */
static void
test_deep()
{
	sample s = make_sample(130, 2112, 8);

	add_rows(&s, PP_Q8_0, 0, 130);
	check_product(s, 3);
	check_bits(s, 9);
	drop_sample(&s);
	s = make_sample(130, 2304, 4);
	add_rows(&s, PP_Q4_K, 0, 130);
	check_product(s, 13);
	check_bits(s, 2);
	drop_sample(&s);
}

/*
 * Parts of several types in one matrix: q and k of four bits with v of six, as Q4_K_M files have.
 */
static void
test_mixed()
{
	sample s = make_sample(61, 512, 8);

	add_rows(&s, PP_Q4_K, 0, 19);
	add_rows(&s, PP_Q4_0, 19, 11);
	add_rows(&s, PP_Q6_K, 30, 31);
	check_weights(s, "mixed");
	check_product(s, 5);
	check_bits(s, 3);
	drop_sample(&s);
	s = make_sample(40, 256, 4);
	add_rows(&s, PP_Q4_0, 0, 9);
	add_rows(&s, PP_Q4_K, 9, 13);
	add_rows(&s, PP_Q4_1, 22, 18);
	check_weights(s, "mixed");
	check_product(s, 5);
	drop_sample(&s);
}

/* Rows to e4m3: quants and scales are the reference's to the bit. */
static void
check_fp8(uint32_t n_rows, uint32_t n_cols, float size)
{
	std::vector<bf16> x = random_acts((size_t) n_rows * n_cols);
	std::vector<float> wide;
	std::vector<uint8_t> q((size_t) n_rows * n_cols + 8, 0x55);
	std::vector<float> scale(n_rows + 1, -7.0f);
	std::vector<float> want((size_t) n_rows * n_cols);
	std::vector<float> want_scale(n_rows);
	uint32_t n_different = 0;

	for (bf16 &e : x)
	{
		e = __float2bfloat16(__bfloat162float(e) * size);
		wide.push_back(__bfloat162float(e));
	}
	fp8_rows_ref(want.data(), want_scale.data(), wide.data(), n_rows, n_cols);
	REQUIRE(cuda_fp8_rows(&cu, q.data(), scale.data(), x.data(), n_rows, n_cols) == cudaSuccess);
	for (uint32_t r = 0; r < n_rows; r++)
	{
		n_different += scale[r] != want_scale[r];
		for (uint32_t i = 0; i < n_cols; i++)
		{
			__nv_fp8_e4m3 got;

			got.__x = q[(size_t) r * n_cols + i];
			n_different += (float) got != want[(size_t) r * n_cols + i];
		}
	}
	for (size_t i = (size_t) n_rows * n_cols; i < q.size(); i++)
		n_different += q[i] != 0x55;
	n_different += scale[n_rows] != -7.0f;
	CHECK_MSG(n_different == 0, "fp8 of %u x %u: %u differ", n_rows, n_cols, n_different);
}

static void
test_fp8()
{
	const uint32_t n_cols[] = {8, 16, 1016, 1024, 1032, 4096};

	for (uint32_t i = 0; i < 6; i++)
		for (uint32_t n_rows = 0; n_rows < 4; n_rows++)
			check_fp8(n_rows, n_cols[i], i % 3 == 0 ? 0.0f : i % 3 == 1 ? 1.0f : 1e5f);
}

/* A product that gates what it writes has the bits of the product and the gate. */
static void
check_gated(uint32_t t, uint32_t f, uint32_t k, pp_act_kind act)
{
	std::vector<bf16> w = random_acts(2 * (size_t) f * k);
	std::vector<bf16> x = random_acts((size_t) t * k);
	std::vector<bf16> wide(2 * (size_t) t * f);
	std::vector<bf16> out((size_t) t * f + 8, __float2bfloat16(-7.0f));
	const few_args few = {NULL, wide.data(), NULL, NULL, t, 2 * f, k};
	pp_matrix m = {};
	uint32_t n_different = 0;

	m.n_rows = 2 * f;
	m.n_cols = k;
	m.data = w.data();
	REQUIRE(cuda_stream(&cu, &few, x.data(), &m) == cudaSuccess);
	REQUIRE(cuda_stream_gated(&cu, out.data(), x.data(), &m, act, t) == cudaSuccess);
	for (size_t i = 0; i < (size_t) t * f; i++)
	{
		const bf16 *from = &wide[i / f * 2 * f + i % f];
		const bf16 want = activation_gated(from[0], from[f], act);

		n_different += memcmp(&out[i], &want, sizeof(want)) != 0;
	}
	for (size_t i = (size_t) t * f; i < out.size(); i++)
		n_different += __bfloat162float(out[i]) != -7.0f;
	CHECK_MSG(n_different == 0, "gated %u x %u x %u: %u differ", t, f, k, n_different);
}

static void
test_gated()
{
	check_gated(1, 8, 64, PP_ACT_SILU);
	check_gated(3, 1, 8, PP_ACT_SILU);
	check_gated(8, 13, 200, PP_ACT_GELU_TANH);
	check_gated(17, 48, 576, PP_ACT_SILU);
	check_gated(64, 100, 264, PP_ACT_GELU_ERF);
}

/* The reference of the product agrees with what the tests above sum up themselves. */
static void
test_reference()
{
	sample s = make_sample(5, 256, 4);
	std::vector<bf16> x = random_acts(2 * 256);
	std::vector<float> wide(2 * 256);
	std::vector<double> ref(10);

	add_rows(&s, PP_Q4_1, 0, 5);
	for (size_t i = 0; i < wide.size(); i++)
		wide[i] = __bfloat162float(x[i]);
	CHECK(matmul_quant_ref(ref.data(), wide.data(), s.blocks.data(), PP_Q4_1, 2, 5, 256));
	for (size_t i = 0; i < 10; i++)
	{
		double sum = 0.0;

		for (size_t k = 0; k < 256; k++)
			sum += s.w[i % 5 * 256 + k] * wide[i / 5 * 256 + k];
		CHECK(fabs(sum - ref[i]) <= 1e-9 * (1.0 + fabs(sum)));
	}
	CHECK(!matmul_quant_ref(ref.data(), wide.data(), s.blocks.data(), PP_F32, 2, 5, 256));
	drop_sample(&s);
}

int
main()
{
	cu.n_sms = 2;
	cu.arch = 80;
	RUN(weights);
	RUN(reference);
	RUN(products);
	RUN(mixed);
	RUN(fp8);
	RUN(deep);
	printf("with a bulk copy engine:\n");
	cu.arch = 90;
	RUN(products);
	RUN(mixed);
	RUN(deep);
	RUN(gated);
	return test_summary("quant_host");
}
