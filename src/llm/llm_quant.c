/*
 * llm_quant.c: element and block types of stored weights, and their dequantisation.
 *
 * The layouts are GGUF's (ggml: src/ggml-common.h); a file is little-endian, as is every machine
 * this runs on. Values must have the very bits of ggml's C reference, which fixes the order of the
 * float operations: a block's scale is multiplied first, then the weight, and no multiply and add
 * may fuse (the Makefile passes -ffp-contract=off). Each function turns n_blocks blocks into
 * floats. Sources may be unaligned. Pure functions: thread-safe.
 */
#include <string.h>

#include "llm_check.h"
#include "llm_weights.h"

/* Reads the 16 bits at p. */
static inline uint16_t
load16(const uint8_t *p)
{
	uint16_t bits;

	memcpy(&bits, p, sizeof(bits));
	return bits;
}

/* Makes a float of its bits. */
static inline float
float_of(uint32_t bits)
{
	float value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/*
 * Widens the IEEE half at p. Exponent and mantissa move into place and the exponent is rebased by
 * an exact multiplication, which also makes subnormals right; infinities and NaNs get all bits.
 */
static inline float
half(const uint8_t *p)
{
	uint32_t h = load16(p);
	uint32_t magnitude = (h & 0x7fff) << 13;
	float value = float_of(magnitude) * 0x1p112f;

	if (magnitude >= (uint32_t) 0x7c00 << 13)
		value = float_of(magnitude | 0x7f800000);
	memcpy(&magnitude, &value, sizeof(magnitude));
	return float_of(magnitude | (h & 0x8000) << 16);
}

/* F32: a copy. */
static void
blocks_f32(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	memcpy(dst, src, n_blocks * sizeof(float));
}

/* F16. */
static void
blocks_f16(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++)
		dst[i] = half(src + 2 * i);
}

/* BF16: the upper half of a float. */
static void
blocks_bf16(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++)
		dst[i] = float_of((uint32_t) load16(src + 2 * i) << 16);
}

/* Q4_0: d, 16 bytes; y[j] = (low nibble - 8) d, y[j + 16] = (high - 8) d. */
static void
blocks_q4_0(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 18, dst += 32)
	{
		float d = half(src);

		for (int j = 0; j < 16; j++)
		{
			dst[j] = (float) ((src[2 + j] & 15) - 8) * d;
			dst[j + 16] = (float) ((src[2 + j] >> 4) - 8) * d;
		}
	}
}

/* Q4_1: d, m, 16 bytes; y = q d + m. */
static void
blocks_q4_1(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 20, dst += 32)
	{
		float d = half(src);
		float m = half(src + 2);

		for (int j = 0; j < 16; j++)
		{
			dst[j] = (float) (src[4 + j] & 15) * d + m;
			dst[j + 16] = (float) (src[4 + j] >> 4) * d + m;
		}
	}
}

/* Reads the fifth bits of a Q5 block. */
static inline uint32_t
load_qh(const uint8_t *p)
{
	return load16(p) | (uint32_t) load16(p + 2) << 16;
}

/* Q5_0: d, 32 fifth bits, 16 bytes; y = (q - 16) d. */
static void
blocks_q5_0(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 22, dst += 32)
	{
		float d = half(src);
		uint32_t qh = load_qh(src + 2);

		for (int j = 0; j < 16; j++)
		{
			int low = (src[6 + j] & 15) | (int) (qh >> j & 1) << 4;
			int high = (src[6 + j] >> 4) | (int) (qh >> (j + 16) & 1) << 4;

			dst[j] = (float) (low - 16) * d;
			dst[j + 16] = (float) (high - 16) * d;
		}
	}
}

/* Q5_1: d, m, 32 fifth bits, 16 bytes; y = q d + m. */
static void
blocks_q5_1(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 24, dst += 32)
	{
		float d = half(src);
		float m = half(src + 2);
		uint32_t qh = load_qh(src + 4);

		for (int j = 0; j < 16; j++)
		{
			int low = (src[8 + j] & 15) | (int) (qh >> j & 1) << 4;
			int high = (src[8 + j] >> 4) | (int) (qh >> (j + 16) & 1) << 4;

			dst[j] = (float) low * d + m;
			dst[j + 16] = (float) high * d + m;
		}
	}
}

/* Q8_0: d, 32 signed bytes. */
static void
blocks_q8_0(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 34, dst += 32)
	{
		float d = half(src);

		for (int j = 0; j < 32; j++)
			dst[j] = (float) (int8_t) src[2 + j] * d;
	}
}

/* IQ4_NL: d, 16 bytes; nibbles are places in a table denser near zero. */
static void
blocks_iq4_nl(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	static const float values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
	                                 1,    13,   25,  38,  53,  69,  89,  113};

	for (uint64_t i = 0; i < n_blocks; i++, src += 18, dst += 32)
	{
		float d = half(src);

		for (int j = 0; j < 16; j++)
		{
			dst[j] = d * values[src[2 + j] & 15];
			dst[j + 16] = d * values[src[2 + j] >> 4];
		}
	}
}

/* Unpacks 6-bit scale and minimum of sub-block j (0 … 7) of Q4_K and Q5_K from their 12 bytes. */
static inline void
scale_and_min(const uint8_t *s, int j, float d, float dmin, float *scale, float *min)
{
	int sc = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
	int mn = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;

	*scale = d * (float) sc;
	*min = dmin * (float) mn;
}

/* Q4_K: d, dmin, 12 bytes of scales, 128 bytes; each 32 bytes hold a sub-block in their low nibbles
 * and the next one in their high nibbles. */
static void
blocks_q4_k(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 144)
	{
		float d = half(src);
		float dmin = half(src + 2);

		for (int j = 0; j < 4; j++, dst += 64)
		{
			const uint8_t *q = src + 16 + 32 * j;
			float d1, m1, d2, m2;

			scale_and_min(src + 4, 2 * j, d, dmin, &d1, &m1);
			scale_and_min(src + 4, 2 * j + 1, d, dmin, &d2, &m2);
			for (int l = 0; l < 32; l++)
			{
				dst[l] = d1 * (float) (q[l] & 15) - m1;
				dst[l + 32] = d2 * (float) (q[l] >> 4) - m2;
			}
		}
	}
}

/* Q5_K: as Q4_K, with 32 bytes of fifth bits before the nibbles: bit s of byte l is for weight l of
 * sub-block s. */
static void
blocks_q5_k(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 176)
	{
		const uint8_t *qh = src + 16;
		float d = half(src);
		float dmin = half(src + 2);

		for (int j = 0; j < 4; j++, dst += 64)
		{
			const uint8_t *q = src + 48 + 32 * j;
			float d1, m1, d2, m2;

			scale_and_min(src + 4, 2 * j, d, dmin, &d1, &m1);
			scale_and_min(src + 4, 2 * j + 1, d, dmin, &d2, &m2);
			for (int l = 0; l < 32; l++)
			{
				int low = (q[l] & 15) | (qh[l] >> (2 * j) & 1) << 4;
				int high = q[l] >> 4 | (qh[l] >> (2 * j + 1) & 1) << 4;

				dst[l] = d1 * (float) low - m1;
				dst[l + 32] = d2 * (float) high - m2;
			}
		}
	}
}

/* Half a Q6_K block, 128 weights: 64 bytes of low nibbles, 32 of two upper bits, 8 scales. */
static void
half_q6_k(const uint8_t *ql, const uint8_t *qh, const int8_t *scales, float d, float *dst)
{
	for (int l = 0; l < 32; l++)
	{
		const int8_t *sc = scales + l / 16;
		int q1 = ((ql[l] & 15) | (qh[l] & 3) << 4) - 32;
		int q2 = ((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32;
		int q3 = (ql[l] >> 4 | (qh[l] >> 4 & 3) << 4) - 32;
		int q4 = (ql[l + 32] >> 4 | (qh[l] >> 6) << 4) - 32;

		dst[l] = d * (float) sc[0] * (float) q1;
		dst[l + 32] = d * (float) sc[2] * (float) q2;
		dst[l + 64] = d * (float) sc[4] * (float) q3;
		dst[l + 96] = d * (float) sc[6] * (float) q4;
	}
}

/* Q6_K: 128 bytes of low nibbles, 64 of upper bits, 16 signed scales, d. */
static void
blocks_q6_k(const uint8_t *src, float *dst, uint64_t n_blocks)
{
	for (uint64_t i = 0; i < n_blocks; i++, src += 210, dst += 256)
	{
		const int8_t *scales = (const int8_t *) (src + 192);
		float d = half(src + 208);

		half_q6_k(src, src + 128, scales, d, dst);
		half_q6_k(src + 64, src + 160, scales + 8, d, dst + 128);
	}
}

typedef struct quant_type
{
	pp_dtype dtype;
	uint32_t n_block;     /* weights in a block */
	uint32_t bytes_block; /* its bytes */
	const char *name;
	void (*blocks)(const uint8_t *src, float *dst, uint64_t n_blocks);
} quant_type;

static const quant_type quant_types[] = {
    {PP_F32, 1, 4, "F32", blocks_f32},        {PP_F16, 1, 2, "F16", blocks_f16},
    {PP_BF16, 1, 2, "BF16", blocks_bf16},     {PP_Q4_0, 32, 18, "Q4_0", blocks_q4_0},
    {PP_Q4_1, 32, 20, "Q4_1", blocks_q4_1},   {PP_Q5_0, 32, 22, "Q5_0", blocks_q5_0},
    {PP_Q5_1, 32, 24, "Q5_1", blocks_q5_1},   {PP_Q8_0, 32, 34, "Q8_0", blocks_q8_0},
    {PP_Q4_K, 256, 144, "Q4_K", blocks_q4_k}, {PP_Q5_K, 256, 176, "Q5_K", blocks_q5_k},
    {PP_Q6_K, 256, 210, "Q6_K", blocks_q6_k}, {PP_IQ4_NL, 32, 18, "IQ4_NL", blocks_iq4_nl}};

/* Finds a type; NULL for numbers that are none of ours. */
static const quant_type *
find_type(pp_dtype dtype)
{
	for (size_t i = 0; i < sizeof(quant_types) / sizeof(quant_types[0]); i++)
		if (quant_types[i].dtype == dtype)
			return &quant_types[i];
	return NULL;
}

/* Computes the size of n elements. */
bool
llm_dtype_bytes(pp_dtype dtype, uint64_t n, uint64_t *bytes)
{
	const quant_type *type = find_type(dtype);

	return type != NULL && n % type->n_block == 0 &&
	       pp_mul_ok(n / type->n_block, type->bytes_block, bytes);
}

/* Names a type. */
const char *
llm_dtype_name(pp_dtype dtype)
{
	const quant_type *type = find_type(dtype);

	return type == NULL ? "unknown" : type->name;
}

/* Turns n stored elements into floats. */
llm_status
llm_dequantise(pp_dtype dtype, const void *src, float *dst, uint64_t n, llm_error *err)
{
	const quant_type *type = find_type(dtype);

	if (type == NULL)
		return llm_fail(err, LLM_E_UNSUPPORTED, "weights of type %d are not supported",
		                (int) dtype);
	if (n % type->n_block != 0)
		return llm_fail(err, LLM_E_RANGE, "%llu weights are no whole number of %s blocks",
		                (unsigned long long) n, type->name);
	type->blocks(src, dst, n / type->n_block);
	return LLM_OK;
}
