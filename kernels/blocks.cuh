/*
 * blocks.cuh: the block types of GGUF as quants and scales.
 *
 * Each type's weight is fl(fl(q · a) + b) with q an integer; block_quant gives q, block_scales the
 * scales of 64 columns of a row in a form of quant.cuh, from which quant_scale makes a and b. The
 * values are those of the reference to the bit.
 */
#ifndef PP_BLOCKS_CUH
#define PP_BLOCKS_CUH

#include "quant.cuh"

/* A stored type: weights and bytes of a block; of a block of quants, how it becomes a tile. */
struct block_type
{
	pp_dtype type;
	uint32_t weights; /* 1: a plain number */
	uint32_t bytes;
	uint32_t bits; /* of a quant in a tile */
	uint32_t form;
};

/* Types that are stored; NULL: no such type. */
static inline const block_type *
block_find(pp_dtype type)
{
	static const block_type types[] = {
	    {PP_F32, 1, 4, 0, 0},
	    {PP_F16, 1, 2, 0, 0},
	    {PP_BF16, 1, 2, 0, 0},
	    {PP_Q4_0, 32, 18, 4, QUANT_PLAIN},
	    {PP_Q4_1, 32, 20, 4, QUANT_AFFINE},
	    {PP_Q5_0, 32, 22, 8, QUANT_PLAIN},
	    {PP_Q5_1, 32, 24, 8, QUANT_AFFINE},
	    {PP_Q8_0, 32, 34, 8, QUANT_PLAIN},
	    {PP_Q4_K, 256, 144, 4, QUANT_K},
	    {PP_Q5_K, 256, 176, 8, QUANT_K},
	    {PP_Q6_K, 256, 210, 8, QUANT_K6},
	    {PP_IQ4_NL, 32, 18, 8, QUANT_PLAIN},
	};

	for (const block_type &t : types)
		if (t.type == type)
			return &t;
	return NULL;
}

/* Two bytes as a number. */
static __device__ __forceinline__ uint32_t
block_u16(const uint8_t *p)
{
	return (uint32_t) p[0] | (uint32_t) p[1] << 8;
}

/* Nibble j (0 … 31) of 16 bytes: low nibbles first. */
static __device__ __forceinline__ int
block_nibble(const uint8_t *q, uint32_t j)
{
	return j < 16 ? q[j] & 15 : q[j - 16] >> 4;
}

/* Bit j of four bytes, as the fifth bit of a nibble. */
static __device__ __forceinline__ int
block_fifth(const uint8_t *qh, uint32_t j)
{
	return (qh[j / 8] >> (j % 8) & 1) << 4;
}

/* Quant j of a block of 256. */
static __device__ __forceinline__ int
block_quant_k(const uint8_t *b, pp_dtype type, uint32_t j)
{
	const uint32_t l = j % 32;
	uint32_t quarter;
	uint8_t low;

	if (type == PP_Q6_K) /* halves of 128, quarters of 32 in them */
	{
		quarter = j % 128 / 32;
		low = b[j / 128 * 64 + l + quarter % 2 * 32];
		return ((quarter < 2 ? low & 15 : low >> 4) |
		        (b[128 + j / 128 * 32 + l] >> (2 * quarter) & 3) << 4) -
		       32;
	}
	low = b[(type == PP_Q5_K ? 48 : 16) + j / 64 * 32 + l];
	return (j / 32 % 2 == 0 ? low & 15 : low >> 4) |
	       (type == PP_Q5_K ? (b[16 + l] >> j / 32 & 1) << 4 : 0);
}

/* Quant j of a block. */
static __device__ __forceinline__ int
block_quant(const uint8_t *b, pp_dtype type, uint32_t j)
{
	const int8_t table[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
	                          1,    13,   25,  38,  53,  69,  89,  113};

	switch (type)
	{
		case PP_Q4_0:
			return block_nibble(b + 2, j) - 8;
		case PP_Q4_1:
			return block_nibble(b + 4, j);
		case PP_Q5_0:
			return (block_nibble(b + 6, j) | block_fifth(b + 2, j)) - 16;
		case PP_Q5_1:
			return block_nibble(b + 8, j) | block_fifth(b + 4, j);
		case PP_Q8_0:
			return (int8_t) b[2 + j];
		case PP_IQ4_NL:
			return table[block_nibble(b + 2, j)];
		default:
			return block_quant_k(b, type, j);
	}
}

/* Scale and minimum, 6 bits each, of sub-block s of a Q4_K or Q5_K block, in 16 bits. */
static __device__ __forceinline__ uint32_t
block_scale_k(const uint8_t *b, uint32_t s)
{
	const uint8_t *at = b + 4;
	uint32_t scale = s < 4 ? at[s] & 63 : (at[s + 4] & 15) | (at[s - 4] >> 6) << 4;
	uint32_t minimum = s < 4 ? at[s + 4] & 63 : at[s + 4] >> 4 | (at[s] >> 6) << 4;

	return scale | minimum << 8;
}

/* Scales of the 64 columns from col on of a row in blocks of 32; zeros behind the last column. */
static __device__ __forceinline__ uint32_t
block_scale_32(const uint8_t *row, const block_type &t, uint32_t n_cols, uint32_t col)
{
	const uint8_t *b = row + (size_t) (col / 32) * t.bytes;

	if (col >= n_cols)
		return 0;
	return block_u16(b) | (t.form == QUANT_AFFINE ? block_u16(b + 2) << 16 : 0);
}

/* Scales of the 64 columns from col on of a row, in the type's form. */
static __device__ __forceinline__ uint2
block_scales(const uint8_t *row, const block_type &t, uint32_t n_cols, uint32_t col)
{
	const uint8_t *b = row + (size_t) (col / 256) * t.bytes;
	const uint32_t s = col % 256 / 32;

	if (t.weights == 32)
		return make_uint2(block_scale_32(row, t, n_cols, col),
		                  block_scale_32(row, t, n_cols, col + 32));
	if (t.form == QUANT_K)
		return make_uint2(block_u16(b) | block_u16(b + 2) << 16,
		                  block_scale_k(b, s) | block_scale_k(b, s + 1) << 16);
	b += 192 + col % 256 / 16; /* Q6_K: d is behind the scales */
	return make_uint2(block_u16(row + (size_t) (col / 256) * t.bytes + 208),
	                  block_u16(b) | block_u16(b + 2) << 16);
}

#endif /* PP_BLOCKS_CUH */
