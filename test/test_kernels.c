/*
 * test_kernels.c: every op of a device against the references in double.
 *
 * PREPACK_TEST_DEVICE names the device ("cuda:0"); without it the tests are skipped, since the CPU
 * has test_cpu_*.c. Inputs are bf16 values, so that only what the op itself rounds counts: an error
 * may be twice that of plain code of the same precision, whose result is rounded once to bf16 (or
 * float) and whose sums are float. Every output stands between guard bands of NaN and is itself
 * poisoned, so that what was not written shows. Sizes are 0, 1, and those around the blocks of the
 * kernels.
 */
#include <math.h>

#include "../kernels/ref/ref.h"
#include "llm_alloc.h"
#include "llm_device.h"
#include "llm_weights.h"
#include "test.h"
#include "top_fixture.h"

#define GUARD      64u         /* elements: keeps 128-byte alignment */
#define POISON     0xffu       /* bytes: a NaN in bf16 and in float */
#define ROUND_BF16 (1.0 / 256) /* half a unit in the last place, twice */
#define ROUND_F32  1e-6

static pp_backend *be;
static uint64_t seed = 1;

/* A device buffer with bands. */
typedef struct buffer
{
	uint8_t *raw;
	void *at;
	size_t n;
	size_t element;
} buffer;

/* A poisoned buffer of n elements. */
static buffer
make_buffer(size_t n, size_t element)
{
	size_t bytes = (n + 2 * (size_t) GUARD) * element;
	buffer b = {.n = n, .element = element};
	uint8_t *poison = malloc(bytes);

	b.raw = be->ops->alloc(be, bytes);
	if (poison == NULL || b.raw == NULL)
		abort();
	memset(poison, POISON, bytes);
	CHECK(be->ops->upload(be, b.raw, poison, bytes) == PP_OK);
	free(poison);
	b.at = b.raw + GUARD * element;
	return b;
}

/* Whether the bands are whole; frees the buffer. */
static bool
drop_buffer(buffer *b)
{
	size_t bytes = (b->n + 2 * (size_t) GUARD) * b->element;
	uint8_t *host = malloc(bytes);
	bool sound = host != NULL && be->ops->download(be, host, b->raw, bytes) == PP_OK;

	for (size_t i = 0; sound && i < GUARD * b->element; i++)
		sound = host[i] == POISON && host[bytes - 1 - i] == POISON;
	free(host);
	be->ops->release(be, b->raw);
	return sound;
}

/* The nearest bf16 as a float. */
static float
to_bf16(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
	memcpy(&x, &bits, sizeof(x));
	return x;
}

/* n random bf16 values in −1 … 1. */
static float *
random_values(size_t n)
{
	float *x = malloc((n + 1) * sizeof(*x));

	if (x == NULL)
		abort();
	for (size_t i = 0; i < n; i++)
		x[i] = to_bf16((float) ((double) (test_random(&seed) >> 40) / (1 << 23) - 1.0));
	return x;
}

/* Floats on the device. */
static buffer
put_floats(const float *x, size_t n)
{
	buffer b = make_buffer(n, sizeof(float));

	CHECK(be->ops->upload(be, b.at, x, n * sizeof(float)) == PP_OK);
	return b;
}

/* Activations on the device. */
static buffer
put_acts(const float *x, size_t n)
{
	buffer from = put_floats(x, n);
	buffer b = make_buffer(n, be->act_bytes);

	CHECK(be->ops->narrow(be, b.at, from.at, n) == PP_OK);
	CHECK(drop_buffer(&from));
	return b;
}

/* A device buffer's content as floats, for free(). */
static float *
get(const buffer *b)
{
	float *x = malloc((b->n + 1) * sizeof(*x));
	bool is_float = b->element == sizeof(float);

	if (x == NULL)
		abort();
	CHECK((is_float ? be->ops->download(be, x, b->at, b->n * sizeof(float))
	                : be->ops->download_act(be, x, b->at, b->n)) == PP_OK);
	return x;
}

/* The largest excess of |x − ref| over round · (|ref| + floor); NaN counts as infinite. */
static double
excess(const float *x, const double *ref, size_t n, double round, double floor)
{
	double worst = 0.0;

	for (size_t i = 0; i < n; i++)
	{
		double e = fabs((double) x[i] - ref[i]) / (round * (fabs(ref[i]) + floor));

		worst = isfinite(x[i]) ? fmax(worst, e) : (double) INFINITY;
	}
	return worst;
}

/* Compares an output with its reference and frees both; floor is the size of what cancels in sums.
 */
static void
compare(const char *what, size_t a, size_t b, buffer *out, double *ref, double floor)
{
	float *x = get(out);
	double round = out->element == sizeof(float) ? ROUND_F32 : ROUND_BF16;
	double e = excess(x, ref, out->n, round, floor);

	CHECK_MSG(e <= 1.0, "%s %zu x %zu: %g times the bound", what, a, b, e);
	CHECK_MSG(drop_buffer(out), "%s %zu x %zu: a guard band was written", what, a, b);
	free(x);
	free(ref);
}

/* Room for a reference. */
static double *
doubles(size_t n)
{
	double *x = calloc(n + 1, sizeof(*x));

	if (x == NULL)
		abort();
	return x;
}

static const uint32_t sizes[] = {0, 1, 2, 7, 8, 9, 31, 33, 63, 64, 65, 127, 129, 257};
#define N_SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* A matrix of floats. */
static pp_matrix *
make_matrix(const float *w, uint32_t n_rows, uint32_t n_cols)
{
	pp_matrix_part part = {w, PP_F32, n_rows, n_cols * sizeof(float), PP_SPLIT_NONE};

	return be->ops->matrix_create(be, &part, 1, n_cols, PP_PREC_NATIVE);
}

/* One product in both output types. */
static void
check_product(uint32_t t, uint32_t n, uint32_t k, bool with_bias)
{
	float *w = random_values((size_t) n * k);
	float *x = random_values((size_t) t * k);
	float *bias = random_values(n);
	buffer dev_x = put_acts(x, (size_t) t * k);
	buffer dev_bias = put_floats(bias, n);
	pp_matrix *m = make_matrix(w, n, k);

	for (int is_float = 0; m != NULL && is_float < 2; is_float++)
	{
		buffer out = make_buffer((size_t) t * n, is_float ? sizeof(float) : be->act_bytes);
		double *ref = doubles((size_t) t * n);
		const float *b = with_bias ? dev_bias.at : NULL;

		CHECK_MSG((is_float ? be->ops->matmul_float : be->ops->matmul)(be, out.at, dev_x.at, m, b,
		                                                               t) == PP_OK,
		          "%s", be->message);
		matmul_ref(ref, x, w, with_bias ? bias : NULL, t, n, k);
		compare(is_float ? "matmul_float" : "matmul", t, (size_t) n * 10000 + k, &out, ref,
		        is_float ? 4.0 * sqrt(k) : 0.01);
	}
	CHECK_MSG(m != NULL, "%s", be->message);
	if (m != NULL)
		be->ops->matrix_destroy(be, m);
	CHECK(drop_buffer(&dev_x) && drop_buffer(&dev_bias));
	free(w);
	free(x);
	free(bias);
}

static void
test_matmul(void)
{
	const uint32_t n[] = {1, 8, 15, 16, 17, 64, 200, 576};
	const uint32_t k[] = {8, 16, 24, 64, 72, 192, 576, 1000};

	for (size_t s = 0; s < N_SIZES * 2; s++)
		check_product(sizes[s % N_SIZES], n[s * 3 % 8] / 8 * 8 + 8, k[s * 5 % 8], s % 3 == 0);
	check_product(3, 5, 64, false);
	check_product(70, 1, 384, true);
}

/* Rows alone, in small and in large batches, and listed columns: the same bits. */
static void
check_invariance(uint32_t n, uint32_t k)
{
	const uint32_t t = 300;
	const uint32_t batches[] = {1, 2, 8, 9, 16, 17, 33, 64, 65, 128, 129, 257};
	uint32_t cols[] = {0, n - 1, 16, 15, n / 2, 0};
	float *w = random_values((size_t) n * k);
	float *x = random_values((size_t) t * k);
	buffer dev_x = put_acts(x, (size_t) t * k);
	buffer out = make_buffer((size_t) t * n, be->act_bytes);
	buffer wide = make_buffer((size_t) t * n, sizeof(float));
	buffer listed = make_buffer((size_t) 6 * t, sizeof(float));
	pp_matrix *m = make_matrix(w, n, k);
	float *all;
	float *some;
	uint32_t n_different = 0;

	REQUIRE(m != NULL);
	CHECK(be->ops->matmul(be, out.at, dev_x.at, m, NULL, t) == PP_OK);
	all = get(&out);
	for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++)
	{
		uint32_t first = b * 7 % 40 / 8 * 8;

		CHECK(be->ops->matmul(be, out.at,
		                      (const void *) ((uint8_t *) dev_x.at + first * k * be->act_bytes), m,
		                      NULL, batches[b]) == PP_OK);
		some = get(&out);
		n_different +=
		    memcmp(all + (size_t) first * n, some, (size_t) batches[b] * n * sizeof(float)) != 0;
		free(some);
	}
	CHECK_MSG(n_different == 0, "%u x %u: %u of 12 batches differ", n, k, n_different);
	free(all);
	CHECK(be->ops->matmul_float(be, wide.at, dev_x.at, m, NULL, t) == PP_OK);
	CHECK(be->ops->matmul_columns(be, listed.at, dev_x.at, m, cols, 6, t) == PP_OK);
	all = get(&wide);
	some = get(&listed);
	for (uint32_t r = 0; r < t; r++)
		for (uint32_t c = 0; c < 6; c++)
			n_different += memcmp(&all[(size_t) r * n + cols[c]], &some[r * 6 + c], 4) != 0;
	CHECK_MSG(n_different == 0, "%u x %u: %u listed columns differ", n, k, n_different);
	free(all);
	free(some);
	be->ops->matrix_destroy(be, m);
	CHECK(drop_buffer(&dev_x) && drop_buffer(&out) && drop_buffer(&wide) && drop_buffer(&listed));
	free(w);
	free(x);
}

static void
test_invariance(void)
{
	check_invariance(64, 64);
	check_invariance(576, 576);
	check_invariance(1000, 1536);
	check_invariance(4096, 4096);
	check_invariance(1024, 3072);
}

/* All forms of the norm on one shape. */
static void
check_norm(uint32_t t, uint32_t d, pp_norm_kind kind, bool plus_one)
{
	float *x = random_values((size_t) t * d);
	float *add = random_values((size_t) t * d);
	float *w = random_values(d);
	float *b = random_values(d);
	const float *bias = kind == PP_NORM_LAYER ? b : NULL;
	buffer dev_w = put_floats(w, d);
	buffer dev_b = put_floats(b, d);
	buffer dev_add = put_acts(add, (size_t) t * d);
	const float *dev_bias = kind == PP_NORM_LAYER ? dev_b.at : NULL;
	uint32_t row = t > 0 ? t - 1 : 0;

	for (int form = 0; form < 4; form++)
	{
		buffer dev_x = put_floats(x, (size_t) t * d);
		buffer out = make_buffer((size_t) (form == 3 && t > 0 ? 1 : t) * d, be->act_bytes);
		double *ref = doubles((size_t) t * d);
		pp_result result;

		norm_ref(ref, form == 2 ? add : x, form == 2 ? NULL : add, w, bias, t, d, 1e-5, kind,
		         plus_one);
		if (form == 3)
		{
			memmove(ref, ref + (size_t) row * d, (t > 0 ? d : 0) * sizeof(*ref));
			result = be->ops->norm_rows(be, out.at, dev_x.at, dev_add.at, dev_w.at, dev_bias, &row,
			                            t > 0, d, 1e-5f, kind, plus_one);
		}
		else
			result =
			    (form == 1 ? be->ops->norm_post
			               : be->ops->norm)(be, out.at, form == 2 ? NULL : dev_x.at, dev_add.at,
			                                dev_w.at, dev_bias, t, d, 1e-5f, kind, plus_one);
		CHECK_MSG(result == PP_OK, "%s", be->message);
		if (form == 1)
		{
			double *same = doubles((size_t) t * d);

			memcpy(same, ref, (size_t) t * d * sizeof(*same));
			compare("norm_post, stream", t, d, &dev_x, same, 4.0);
		}
		else
			CHECK(drop_buffer(&dev_x));
		compare("norm", t * 10 + (unsigned) form, d, &out, ref, 1e-3);
	}
	CHECK(drop_buffer(&dev_w) && drop_buffer(&dev_b) && drop_buffer(&dev_add));
	free(x);
	free(add);
	free(w);
	free(b);
}

static void
test_norm(void)
{
	const uint32_t d[] = {1, 3, 4, 63, 64, 255, 256, 257, 576, 1023, 1024, 1028, 4096, 8192};

	for (size_t i = 0; i < sizeof(d) / sizeof(d[0]); i++)
		for (uint32_t t = 0; t < 4; t++)
			check_norm(t * t, d[i], t % 2 ? PP_NORM_RMS : PP_NORM_LAYER, i % 2 == 0);
}

static void
test_activate(void)
{
	for (size_t s = 0; s < N_SIZES; s++)
		for (int act = PP_ACT_SILU; act <= PP_ACT_TANH; act++)
			for (int gated = 0; gated < 2; gated++)
			{
				uint32_t t = sizes[(s + (unsigned) act) % N_SIZES];
				uint32_t f = sizes[s] + (sizes[s] == 0);
				size_t n = (size_t) t * f * (gated ? 2 : 1);
				float *x = random_values(n);
				double *ref = doubles((size_t) t * f);
				buffer dev_x = put_acts(x, n);
				buffer out = make_buffer((size_t) t * f, be->act_bytes);

				CHECK(be->ops->activate(be, out.at, dev_x.at, t, f, (pp_act_kind) act,
				                        gated != 0) == PP_OK);
				activate_ref(ref, x, t, f, (pp_act_kind) act, gated != 0);
				compare("activate", t, f, &out, ref, 1e-4);
				CHECK(drop_buffer(&dev_x));
				free(x);
			}
}

/* A block in one call has the bits of its three ops. */
static void
check_mlp(uint32_t t, uint32_t f, uint32_t d, pp_act_kind act, bool gated)
{
	const uint32_t wide = gated ? 2 * f : f;
	float *x = random_values((size_t) t * d);
	float *w_in = random_values((size_t) wide * d);
	float *w_out = random_values((size_t) d * f);
	buffer dev_x = put_acts(x, (size_t) t * d);
	buffer dev_wide = make_buffer((size_t) t * wide, be->act_bytes);
	buffer hidden = make_buffer((size_t) t * f, be->act_bytes);
	buffer out[2] = {make_buffer((size_t) t * d, be->act_bytes),
	                 make_buffer((size_t) t * d, be->act_bytes)};
	const pp_mlp mlp = {.in = make_matrix(w_in, wide, d),
	                    .out = make_matrix(w_out, d, f),
	                    .dev_wide = dev_wide.at,
	                    .dev_hidden = hidden.at,
	                    .f = f,
	                    .act = act,
	                    .gated = gated};
	float *whole;
	float *apart;

	REQUIRE(mlp.in != NULL && mlp.out != NULL);
	CHECK(be->ops->mlp(be, out[0].at, dev_x.at, &mlp, t) == PP_OK);
	CHECK(be->ops->matmul(be, dev_wide.at, dev_x.at, mlp.in, NULL, t) == PP_OK);
	CHECK(be->ops->activate(be, hidden.at, dev_wide.at, t, f, act, gated) == PP_OK);
	CHECK(be->ops->matmul(be, out[1].at, hidden.at, mlp.out, NULL, t) == PP_OK);
	whole = get(&out[0]);
	apart = get(&out[1]);
	CHECK_MSG(memcmp(whole, apart, (size_t) t * d * sizeof(float)) == 0, "mlp %u x %u x %u", t, f,
	          d);
	be->ops->matrix_destroy(be, (pp_matrix *) mlp.in);
	be->ops->matrix_destroy(be, (pp_matrix *) mlp.out);
	CHECK(drop_buffer(&dev_x) && drop_buffer(&dev_wide) && drop_buffer(&hidden) &&
	      drop_buffer(&out[0]) && drop_buffer(&out[1]));
	free(x);
	free(w_in);
	free(w_out);
	free(whole);
	free(apart);
}

static void
test_mlp(void)
{
	const uint32_t tokens[] = {1, 7, 8, 9, 31, 64, 65, 130};

	if (be->ops->mlp == NULL)
		return;
	for (uint32_t i = 0; i < 8; i++)
		check_mlp(tokens[i], 8 * (1 + 37 * i), 64 + 8 * i, (pp_act_kind) (i % 4), i != 3);
}

/* The ops on float rows. */
static void
test_float_rows(void)
{
	for (size_t s = 1; s < N_SIZES; s++)
	{
		uint32_t t = 5;
		uint32_t d = sizes[s] * 5;
		float *x = random_values((size_t) t * d);
		float *y = random_values((size_t) t * d);
		uint32_t idx[5] = {4, 0, 3, 3, 1};
		buffer dev_y = put_floats(y, (size_t) t * d);
		buffer act_y = put_acts(y, (size_t) t * d);
		buffer capped = put_floats(x, (size_t) t * d);
		buffer lse = make_buffer(t, sizeof(float));
		buffer summed = put_floats(x, (size_t) t * d);
		buffer looked = put_floats(x, (size_t) t * d);
		buffer taken = make_buffer((size_t) t * d, be->act_bytes);
		double *ref[5];

		for (int i = 0; i < 5; i++)
			ref[i] = doubles((size_t) t * d);
		CHECK(be->ops->logsumexp(be, lse.at, capped.at, t, d) == PP_OK);
		CHECK(be->ops->softcap(be, capped.at, (size_t) t * d, 0.5f) == PP_OK);
		CHECK(be->ops->add(be, summed.at, act_y.at, t, d) == PP_OK);
		CHECK(be->ops->add_rows(be, looked.at, dev_y.at, idx, t, d) == PP_OK);
		CHECK(be->ops->gather(be, taken.at, act_y.at, idx, t, d) == PP_OK);
		for (uint32_t i = 0; i < t * d; i++)
		{
			ref[0][i] = softcap_ref(x[i], 0.5);
			ref[1][i] = (double) x[i] + y[i];
			ref[2][i] = (double) x[i] + y[idx[i / d] * d + i % d];
			ref[3][i] = y[idx[i / d] * d + i % d];
		}
		for (uint32_t r = 0; r < t; r++)
			ref[4][r] = logsumexp_ref(x + (size_t) r * d, d);
		compare("softcap", t, d, &capped, ref[0], 0.5);
		compare("add", t, d, &summed, ref[1], 1.0);
		compare("add_rows", t, d, &looked, ref[2], 1.0);
		compare("gather", t, d, &taken, ref[3], 1e-6);
		compare("logsumexp", t, d, &lse, ref[4], 1.0);
		CHECK(drop_buffer(&dev_y) && drop_buffer(&act_y));
		free(x);
		free(y);
	}
}

static void
test_top(void)
{
	top_check(be, &seed);
}

static void
test_pool(void)
{
	const pp_segment segs[] = {{.first_token = 0, .n_new = 1},
	                           {.first_token = 1, .n_new = 0},
	                           {.first_token = 1, .n_new = 33},
	                           {.first_token = 34, .n_new = 7}};

	for (size_t s = 1; s < N_SIZES; s++)
		for (int pooling = PP_POOL_CLS; pooling <= PP_POOL_LAST; pooling++)
			for (int l2 = 0; l2 < 2; l2++)
			{
				uint32_t d = sizes[s] * 3;
				float *x = random_values((size_t) 41 * d);
				double *ref = doubles((size_t) 4 * d);
				buffer dev_x = put_floats(x, (size_t) 41 * d);
				buffer out = make_buffer((size_t) 4 * d, sizeof(float));

				CHECK(be->ops->pool(be, out.at, dev_x.at, segs, 4, d, pooling, l2 != 0) == PP_OK);
				for (int i = 0; i < 4; i++)
					if (segs[i].n_new > 0)
						pool_ref(ref + (size_t) i * d, x + (size_t) segs[i].first_token * d,
						         segs[i].n_new, d, pooling, l2 != 0);
				compare("pool", (size_t) pooling, d, &out, ref, 1.0);
				CHECK(drop_buffer(&dev_x));
				free(x);
			}
}

/* Rows of a quantised table equal the CPU's values, rounded to bf16, to the bit. */
static void
check_blocks(pp_dtype type)
{
	const uint32_t n_rows = 37;
	const uint32_t n_cols = 512;
	const int32_t ids[] = {36, 0, 17};
	uint64_t row_bytes;
	uint8_t *blocks;
	float *want = malloc(n_rows * n_cols * sizeof(*want));
	float got[3 * 512];
	buffer out = make_buffer(3 * n_cols, sizeof(float));
	pp_matrix_part part = {.dtype = type, .n_rows = n_rows};
	pp_matrix *m;
	llm_error err;
	uint32_t n_different = 0;

	REQUIRE(want != NULL && llm_dtype_bytes(type, n_cols, &row_bytes));
	REQUIRE((blocks = malloc(n_rows * row_bytes)) != NULL);
	/* bytes below 0x3c make halves and floats of moderate size */
	for (uint64_t i = 0; i < n_rows * row_bytes; i++)
		blocks[i] = (uint8_t) (test_random(&seed) % 0x3c);
	part.data = blocks;
	part.row_bytes = row_bytes;
	CHECK(llm_dequantise(type, blocks, want, (uint64_t) n_rows * n_cols, &err) == LLM_OK);
	REQUIRE((m = be->ops->matrix_create(be, &part, 1, n_cols, PP_PREC_NATIVE)) != NULL);
	CHECK(be->ops->embed(be, out.at, m, ids, 3, 1.0f) == PP_OK);
	CHECK(be->ops->download(be, got, out.at, sizeof(got)) == PP_OK);
	for (uint32_t i = 0; i < 3 * n_cols; i++)
		n_different += got[i] != to_bf16(want[(uint32_t) ids[i / n_cols] * n_cols + i % n_cols]);
	CHECK_MSG(n_different == 0, "type %d: %u of %u weights differ", (int) type, n_different,
	          3 * n_cols);
	be->ops->matrix_destroy(be, m);
	CHECK(drop_buffer(&out));
	free(blocks);
	free(want);
}

static void
test_block_types(void)
{
	const pp_dtype types[] = {PP_F32,  PP_F16,  PP_BF16, PP_Q4_0, PP_Q4_1, PP_Q5_0,
	                          PP_Q5_1, PP_Q8_0, PP_Q4_K, PP_Q5_K, PP_Q6_K, PP_IQ4_NL};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		check_blocks(types[i]);
}

/* A matrix of random blocks, for free() and matrix_destroy. */
static pp_matrix *
make_blocks(pp_dtype type, uint32_t n_rows, uint32_t n_cols, pp_precision precision,
            uint8_t **blocks)
{
	pp_matrix_part part = {.dtype = type, .n_rows = n_rows};

	if (!llm_dtype_bytes(type, n_cols, &part.row_bytes))
		return NULL;
	if (*blocks == NULL)
	{
		if ((*blocks = malloc(n_rows * part.row_bytes)) == NULL)
			abort();
		/* bytes below 0x3c make halves of moderate size */
		for (uint64_t i = 0; i < n_rows * part.row_bytes; i++)
			(*blocks)[i] = (uint8_t) (test_random(&seed) % 0x3c);
	}
	part.data = *blocks;
	return be->ops->matrix_create(be, &part, 1, n_cols, precision);
}

/* Elements of the product by the blocks that differ from those by bf16, in any bit. */
static uint32_t
count_unequal(const pp_matrix *m[2], const buffer *x, const float *dev_bias, uint32_t t, uint32_t n)
{
	const uint32_t cols[3] = {n - 1, 0, n / 2};
	uint32_t n_different = 0;

	for (int kind = 0; kind < 3; kind++)
	{
		uint32_t width = kind == 2 ? 3 : n;
		float *got[2];

		for (int i = 0; i < 2; i++)
		{
			buffer out = make_buffer((size_t) t * width, kind > 0 ? sizeof(float) : be->act_bytes);
			pp_result result = kind == 0 ? be->ops->matmul(be, out.at, x->at, m[i], dev_bias, t)
			                   : kind == 1
			                       ? be->ops->matmul_float(be, out.at, x->at, m[i], dev_bias, t)
			                       : be->ops->matmul_columns(be, out.at, x->at, m[i], cols, 3, t);

			CHECK_MSG(result == PP_OK, "%s", be->message);
			got[i] = get(&out);
			CHECK_MSG(drop_buffer(&out), "%u x %u: a guard band was written", t, n);
		}
		for (size_t i = 0; i < (size_t) t * width; i++)
			n_different += memcmp(&got[0][i], &got[1][i], sizeof(float)) != 0;
		free(got[0]);
		free(got[1]);
	}
	return n_different;
}

/* One type and shape: within the bound of the reference, and the bits of the same weights in bf16.
 */
static void
check_quant(pp_dtype type, uint32_t n, uint32_t k)
{
	uint8_t *blocks = NULL;
	pp_matrix *m[2];
	const size_t step = n > 1000 ? 3 : 1; /* the reference takes its time */
	float *bias = random_values(n);
	buffer dev_bias = put_floats(bias, n);

	m[0] = make_blocks(type, n, k, PP_PREC_NATIVE, &blocks);
	m[1] = make_blocks(type, n, k, PP_PREC_BF16, &blocks);
	for (size_t s = 0; m[0] != NULL && m[1] != NULL && s < N_SIZES; s += step)
	{
		const uint32_t t = sizes[s];
		float *x = random_values((size_t) t * k);
		buffer dev_x = put_acts(x, (size_t) t * k);
		buffer out = make_buffer((size_t) t * n, be->act_bytes);
		double *ref = doubles((size_t) t * n);
		double largest = 1e-30;
		uint32_t n_different =
		    count_unequal((const pp_matrix *[2]){m[0], m[1]}, &dev_x, dev_bias.at, t, n);

		CHECK_MSG(n_different == 0, "type %d, %u x %u x %u: %u bits unlike bf16", (int) type, t, n,
		          k, n_different);
		CHECK(be->ops->matmul(be, out.at, dev_x.at, m[0], NULL, t) == PP_OK);
		CHECK(matmul_quant_ref(ref, x, blocks, type, t, n, k));
		for (size_t i = 0; i < (size_t) t * n; i++)
			largest = fmax(largest, fabs(ref[i]));
		compare("matmul of blocks", t, (size_t) n * 10000 + k, &out, ref, 0.005 * largest);
		CHECK(drop_buffer(&dev_x));
		free(x);
	}
	for (int i = 0; i < 2; i++)
	{
		CHECK_MSG(m[i] != NULL, "%s", be->message);
		if (m[i] != NULL)
			be->ops->matrix_destroy(be, m[i]);
	}
	CHECK(drop_buffer(&dev_bias));
	free(blocks);
	free(bias);
}

static void
test_quant(void)
{
	const pp_dtype types[] = {PP_Q8_0, PP_Q4_0, PP_Q4_1, PP_Q5_0,  PP_Q5_1,
	                          PP_Q4_K, PP_Q5_K, PP_Q6_K, PP_IQ4_NL};
	const uint32_t n[] = {8, 16, 24, 64, 200, 576, 1000};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
	{
		check_quant(types[i], n[i % 7], 256 * (1 + (uint32_t) i % 3));
		check_quant(types[i], n[(i + 3) % 7], i < 5 || types[i] == PP_IQ4_NL ? 576 : 1536);
		check_quant(types[i], i % 2 ? 2048 : 2816, 2048);
	}
}

/*
 * One shape in fp8 against the reference, whose quants are the same: what is left is the sum, which
 * tensor cores keep to some 14 bits between promotions, and its rounding. Then rows alone.
 */
static void
check_fp8(pp_matrix *m, const float *w, uint32_t n, uint32_t k)
{
	float *w8 = random_values((size_t) n * k);
	float *w_scale = random_values(n);

	fp8_rows_ref(w8, w_scale, w, n, k);
	for (size_t s = 0; s < N_SIZES; s++)
	{
		const uint32_t t = sizes[s];
		float *x = random_values((size_t) t * k);
		float *x8 = random_values((size_t) t * k);
		float *x_scale = random_values(t);
		buffer dev_x = put_acts(x, (size_t) t * k);
		buffer out = make_buffer((size_t) t * n, be->act_bytes);
		double *ref = doubles((size_t) t * n);
		double largest = 1e-30;
		float *all;
		uint32_t n_different = 0;

		CHECK_MSG(be->ops->matmul(be, out.at, dev_x.at, m, NULL, t) == PP_OK, "%s", be->message);
		all = get(&out);
		fp8_rows_ref(x8, x_scale, x, t, k);
		matmul_fp8_ref(ref, x8, x_scale, w8, w_scale, t, n, k);
		for (size_t i = 0; i < (size_t) t * n; i++)
			largest = fmax(largest, fabs(ref[i]));
		compare("matmul in fp8", t, (size_t) n * 10000 + k, &out, ref, 0.05 * largest);
		for (uint32_t r = 0; r < t; r += 1 + t / 7)
		{
			buffer one = make_buffer(n, be->act_bytes);
			float *got;

			CHECK(be->ops->matmul(be, one.at,
			                      (const void *) ((uint8_t *) dev_x.at + r * k * be->act_bytes), m,
			                      NULL, 1) == PP_OK);
			got = get(&one);
			n_different += memcmp(got, all + (size_t) r * n, n * sizeof(*got)) != 0;
			CHECK(drop_buffer(&one));
			free(got);
		}
		CHECK_MSG(n_different == 0, "fp8, %u x %u x %u: %u rows unlike alone", t, n, k,
		          n_different);
		CHECK(drop_buffer(&dev_x));
		free(all);
		free(x);
		free(x8);
		free(x_scale);
	}
	free(w8);
	free(w_scale);
}

static void
test_fp8(void)
{
	const uint32_t shapes[][2] = {{64, 64}, {16, 16}, {576, 576}, {1008, 1536}, {1024, 3072}};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
	{
		const uint32_t n = shapes[i][0];
		const uint32_t k = shapes[i][1];
		float *w = random_values((size_t) n * k);
		pp_matrix_part part = {w, PP_F32, n, k * sizeof(float), PP_SPLIT_NONE};
		pp_matrix *m = be->ops->matrix_create(be, &part, 1, k, PP_PREC_FP8);
		bool refused = i == 0 && m == NULL && strstr(be->message, "compute capability") != NULL;

		CHECK_MSG(m != NULL || refused, "%s", be->message);
		if (m != NULL)
		{
			check_fp8(m, w, n, k);
			be->ops->matrix_destroy(be, m);
		}
		free(w);
		if (refused)
			SKIP(be->message);
	}
}

int
main(void)
{
	const char *device = getenv("PREPACK_TEST_DEVICE");
	llm_error err = {0};

	if (device == NULL || llm_device_open(device, 0, &be, &err) != LLM_OK)
	{
		printf("SKIP: %s\n", device == NULL ? "PREPACK_TEST_DEVICE names no device" : err.message);
		printf("kernels: 0 passed, %d failed, 1 skipped\n", device != NULL);
		return device != NULL;
	}
	RUN(matmul);
	RUN(invariance);
	RUN(norm);
	RUN(activate);
	RUN(mlp);
	RUN(float_rows);
	RUN(top);
	RUN(pool);
	RUN(block_types);
	RUN(quant);
	RUN(fp8);
	be->ops->destroy(be);
	return test_summary("kernels");
}
