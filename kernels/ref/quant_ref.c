/*
 * quant_ref.c: out[i] = weight i of a row of blocks, by the definition of each block type; and
 * out[T, N] = x[T, K] bf16(W)ᵀ with W in such blocks.
 *
 * A block of 32 has a half d, some a half m, some a fifth bit in four bytes, then nibbles (weights
 * 0 … 15 in the low ones) or bytes. A block of 256 has scales of 6 or 8 bits for its sub-blocks.
 */
#include <math.h>

#include "ref.h"

/* The value of a half. */
static double
half(const uint8_t *p)
{
	unsigned bits = p[0] | (unsigned) p[1] << 8;
	int exponent = bits >> 10 & 31;
	double fraction = bits & 1023;
	double x = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

	return bits >> 15 ? -x : x;
}

/* Q4_0, Q4_1, Q5_0, Q5_1: nibbles behind 2 or 4 bytes of scales and perhaps four of fifth bits. */
static void
nibbles(double *out, const uint8_t *b, int has_min, int has_fifth)
{
	const uint8_t *fifth = b + 2 + 2 * has_min;
	const uint8_t *q = fifth + 4 * has_fifth;

	for (int i = 0; i < 32; i++)
	{
		int x = i < 16 ? q[i] & 15 : q[i - 16] >> 4;

		if (has_fifth)
			x += (fifth[i / 8] >> i % 8 & 1) * 16;
		out[i] = has_min ? x * half(b) + half(b + 2) : (x - (has_fifth ? 16 : 8)) * half(b);
	}
}

/* Q4_K, Q5_K: eight sub-blocks of 32 with a scale and a minimum of 6 bits each. */
static void
k45(double *out, const uint8_t *b, int has_fifth)
{
	const uint8_t *s = b + 4;
	const uint8_t *q = b + 16 + 32 * has_fifth;

	for (int i = 0; i < 256; i++)
	{
		int sub = i / 32;
		int scale = s[sub % 4] & 63;
		int minimum = s[4 + sub % 4] & 63;
		int x = q[sub / 2 * 32 + i % 32] >> sub % 2 * 4 & 15;

		if (sub >= 4)
		{
			scale = (s[4 + sub] & 15) + (s[sub - 4] >> 6) * 16;
			minimum = (s[4 + sub] >> 4) + (s[sub] >> 6) * 16;
		}
		if (has_fifth)
			x += (b[16 + i % 32] >> sub & 1) * 16;
		out[i] = (float) (half(b) * scale * x - half(b + 2) * minimum);
	}
}

/* Q6_K: 128 bytes of nibbles, 64 of upper pairs of bits, 16 signed scales, d. */
static void
k6(double *out, const uint8_t *b)
{
	const int8_t *scales = (const int8_t *) b + 192;

	for (int i = 0; i < 256; i++)
	{
		int n = i % 128;
		int low = b[i / 128 * 64 + n % 64] >> n / 64 * 4 & 15;
		int high = b[128 + i / 128 * 32 + n % 32] >> n / 32 * 2 & 3;

		out[i] = (float) (half(b + 208) * scales[i / 16] * (low + 16 * high - 32));
	}
}

/* Q8_0, IQ4_NL: bytes, or places in a table. */
static void
bytes(double *out, const uint8_t *b, int by_table)
{
	static const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
	                                 1,    13,   25,  38,  53,  69,  89,  113};

	for (int i = 0; i < 32; i++)
		out[i] = half(b) *
		         (by_table ? table[i < 16 ? b[2 + i] & 15 : b[i - 14] >> 4] : (int8_t) b[2 + i]);
}

/* One block; its bytes, or 0 for a type without blocks. */
static size_t
one_block(double *out, const uint8_t *b, pp_dtype type)
{
	if (type == PP_Q8_0 || type == PP_IQ4_NL)
		bytes(out, b, type == PP_IQ4_NL);
	else if (type == PP_Q4_0 || type == PP_Q4_1)
		nibbles(out, b, type == PP_Q4_1, 0);
	else if (type == PP_Q5_0 || type == PP_Q5_1)
		nibbles(out, b, type == PP_Q5_1, 1);
	else if (type == PP_Q6_K)
		k6(out, b);
	else if (type == PP_Q4_K || type == PP_Q5_K)
		k45(out, b, type == PP_Q5_K);
	switch (type)
	{
		case PP_Q4_0:
		case PP_IQ4_NL:
			return 18;
		case PP_Q4_1:
			return 20;
		case PP_Q5_0:
			return 22;
		case PP_Q5_1:
			return 24;
		case PP_Q8_0:
			return 34;
		case PP_Q4_K:
			return 144;
		case PP_Q5_K:
			return 176;
		case PP_Q6_K:
			return 210;
		default:
			return 0;
	}
}

/* Weights of n_weights / 32 or / 256 blocks; the bytes read, 0 for a type without blocks. */
size_t
quant_ref(double *out, const void *blocks, pp_dtype type, size_t n_weights)
{
	const bool large = type == PP_Q4_K || type == PP_Q5_K || type == PP_Q6_K;
	size_t at = 0;

	for (size_t i = 0; i < n_weights; i += large ? 256 : 32)
		at += one_block(out + i, (const uint8_t *) blocks + at, type);
	return at;
}

/* The nearest bf16, ties to even. */
double
bf16_ref(double x)
{
	int exponent;
	double unit;

	if (x == 0.0 || !isfinite(x))
		return x;
	frexp(x, &exponent);
	unit = ldexp(1.0, exponent - 8);
	return nearbyint(x / unit) * unit;
}

/*
 * The product in double with weights rounded to float and then to bf16, as the kernels make them:
 * by both roundings at once a few weights in a million differ. False: no such type.
 */
bool
matmul_quant_ref(double *out, const float *x, const void *blocks, pp_dtype type, size_t n_tokens,
                 size_t n_rows, size_t n_cols)
{
	const size_t n_block = type == PP_Q4_K || type == PP_Q5_K || type == PP_Q6_K ? 256 : 32;
	const uint8_t *at = blocks;
	double w[256];

	for (size_t i = 0; i < n_tokens * n_rows; i++)
		out[i] = 0.0;
	for (size_t i = 0; i < n_rows * n_cols / n_block; i++)
	{
		const size_t n = i * n_block / n_cols;
		const size_t first = i * n_block % n_cols;
		const size_t n_bytes = quant_ref(w, at, type, n_block);

		if (n_bytes == 0)
			return false;
		at += n_bytes;
		for (size_t k = 0; k < n_block; k++)
			w[k] = bf16_ref((float) w[k]);
		for (size_t t = 0; t < n_tokens; t++)
			for (size_t k = 0; k < n_block; k++)
				out[t * n_rows + n] += x[t * n_cols + first + k] * w[k];
	}
	return true;
}
