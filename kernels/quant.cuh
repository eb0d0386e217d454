/*
 * quant.cuh: weights that stay quantised on the device: how they lie there, and their values.
 *
 * Tiles. 16 rows by 64 columns of the matrix are one tile, rows and columns padded with zeros; the
 * tiles of 16 rows lie one behind the other. A tile is what a warp multiplies at a time, so it has
 * the order of the operands of mma.m16n8k16: a lane finds the 2 × 16 weights that it needs in
 * whole words, reads them by one or two copies that the warp's other lanes continue, and shares
 * nothing with them.
 *
 *	chunk     of a row and a lane: its columns 16 s + 2 (lane % 4) + {0, 1, 8, 9}, s = 0 … 3
 *	8 bits    byte 4 s + e of 16 is the quant + 128; chunks of rows 0 … 7, then of rows 8 … 15
 *	4 bits    byte 4 (s / 2) + e of 8, its low nibble for even s; chunks of rows r and r + 8
 *	together
 *	scales    8 bytes a row behind the quants: the scales of its 64 columns, in one of the forms
 *	          below
 *
 * A weight is fl(fl(q · a) + b). Where b is not zero the product is exact (at most 22 bits), so one
 * fused operation gives the very value of the block formats' reference, which has two. All block
 * types have such a form; what has more than four bits is held in eight, 9 bits a weight with its
 * scales against 5.
 */
#ifndef PP_QUANT_CUH
#define PP_QUANT_CUH

#include <cuda_fp16.h>

#include "attention_asm.cuh"

#define QUANT_ROWS  16u
#define QUANT_COLS  64u
#define QUANT_SCALE 8u /* bytes of the scales of a row in a tile */

/* The forms of scales; a matrix may have rows of several. */
enum quant_form
{
	QUANT_PLAIN,  /* half d, 0, half d, 0: each 32 columns; nibbles are q + 8 */
	QUANT_AFFINE, /* half d, half m, half d, half m */
	QUANT_K,      /* half d, half dmin, then bytes: scale, minimum, scale, minimum */
	QUANT_K6      /* half d, 0, then four signed scales, each of 16 columns */
};

/* Bytes of a tile's quants, and of a tile. */
static __host__ __device__ inline uint32_t
quant_bytes(uint32_t bits)
{
	return QUANT_ROWS * QUANT_COLS * bits / 8;
}

/* See above. */
static __host__ __device__ inline uint32_t
quant_tile_bytes(uint32_t bits)
{
	return quant_bytes(bits) + QUANT_ROWS * QUANT_SCALE;
}

/* Tiles side by side. */
static __host__ __device__ inline uint32_t
quant_tiles(uint32_t n_cols)
{
	return (n_cols + QUANT_COLS - 1) / QUANT_COLS;
}

/* Where the chunk of a row and a lane begins in its tile; only lane % 4 counts. */
static __host__ __device__ inline uint32_t
quant_chunk(uint32_t bits, uint32_t row, uint32_t lane)
{
	const uint32_t at = row % 8 * 4 + lane % 4;

	return bits == 8 ? row / 8 % 2 * 512 + at * 16 : at * 16 + row / 8 % 2 * 8;
}

/* A half by its bits. */
static __device__ __forceinline__ float
quant_half(uint32_t bits)
{
	return __half2float(__ushort_as_half((unsigned short) bits));
}

/* Factor a and summand b of step s (16 columns) by the scales x, y of a row in a tile. */
static __device__ __forceinline__ void
quant_scale(uint32_t form, uint32_t x, uint32_t y, uint32_t s, float *a, float *b)
{
	const float d = quant_half(x & 0xffff);

	if (form <= QUANT_AFFINE)
	{
		*a = s < 2 ? d : quant_half(y & 0xffff);
		*b = quant_half((s < 2 ? x : y) >> 16);
	}
	else if (form == QUANT_K)
	{
		*a = d * (float) (y >> s / 2 * 16 & 0xff);
		*b = -(quant_half(x >> 16) * (float) (y >> (s / 2 * 16 + 8) & 0xff));
	}
	else
	{
		*a = d * (float) (int8_t) (y >> s * 8 & 0xff);
		*b = 0.0f;
	}
}

/* What a stored quant is above the true one, and 2^23 by which bytes become floats. */
static __device__ __forceinline__ float
quant_zero(uint32_t bits, uint32_t form)
{
	return 8388608.0f + (bits == 8 ? 128.0f : form == QUANT_PLAIN ? 8.0f : 0.0f);
}

/* Byte e of four as a weight: 0x4b0000qq is 2^23 + q. */
static __device__ __forceinline__ float
quant_weight(uint32_t bytes, uint32_t e, float zero, float a, float b)
{
	const float q = __uint_as_float(__byte_perm(bytes, 0x4b000000u, 0x7650u + e)) - zero;

	return fmaf(q, a, b);
}

/* Weight (row, col) of a matrix in tiles; for what reads few of them. */
static __device__ __forceinline__ float
quant_at(const uint8_t *tiles, uint32_t bits, uint32_t form, uint32_t n_cols, uint32_t row,
         uint32_t col)
{
	const uint8_t *tile =
	    tiles + ((size_t) (row / QUANT_ROWS) * quant_tiles(n_cols) + col / QUANT_COLS) *
	                quant_tile_bytes(bits);
	const uint32_t s = col % QUANT_COLS / 16;
	const uint32_t e = col % 2 + col % 16 / 8 * 2;
	const uint8_t *chunk = tile + quant_chunk(bits, row, col % 8 / 2);
	const uint2 scale =
	    *(const uint2 *) (tile + quant_bytes(bits) + row % QUANT_ROWS * QUANT_SCALE);
	const uint32_t q = bits == 8 ? chunk[4 * s + e] : chunk[s / 2 * 4 + e] >> s % 2 * 4 & 15;
	float a;
	float b;

	quant_scale(form, scale.x, scale.y, s, &a, &b);
	return quant_weight(q, 0, quant_zero(bits, form), a, b);
}

/* Two weights as a pair of bf16. */
static __device__ __forceinline__ uint32_t
quant_pair(uint32_t bytes, uint32_t e, float zero, float a, float b)
{
	const __nv_bfloat162 pair = __floats2bfloat162_rn(quant_weight(bytes, e, zero, a, b),
	                                                  quant_weight(bytes, e + 1, zero, a, b));

	return (uint32_t) __bfloat16_as_ushort(pair.x) | (uint32_t) __bfloat16_as_ushort(pair.y) << 16;
}

/*
 * The same for QUANT_PLAIN, where a is a half and b zero, in fewer operations. 0x4300qq00 is
 * 128 + q / 256, and fma(128 + q / 256, 256 a, -(2^15 + zero) a) = (q - zero) a has no rounding but
 * its last, which has nothing to round: the summand has 11 + 13 bits at most.
 */
static __device__ __forceinline__ uint32_t
quant_plain_pair(uint32_t bytes, uint32_t e, float a256, float minus)
{
	const float q0 = __uint_as_float(__byte_perm(bytes, 0x43000000u, 0x7604u + e * 0x10));
	const float q1 = __uint_as_float(__byte_perm(bytes, 0x43000000u, 0x7604u + (e + 1) * 0x10));
	const __nv_bfloat162 pair = __floats2bfloat162_rn(fmaf(q0, a256, minus), fmaf(q1, a256, minus));

	return (uint32_t) __bfloat16_as_ushort(pair.x) | (uint32_t) __bfloat16_as_ushort(pair.y) << 16;
}

/* The four quants of a step in a chunk. */
template <uint32_t BITS>
static __device__ __forceinline__ uint32_t
quant_step(const uint32_t *chunk, uint32_t s)
{
	return BITS == 8 ? chunk[s] : chunk[s / 2] >> s % 2 * 4 & 0x0f0f0f0fu;
}

#endif /* PP_QUANT_CUH */
