/*
 * matmul_quant.cuh: how tiles of quant.cuh become operands and are multiplied: what matmul_quant.cu
 * and matmul_quant_stream.cu share.
 *
 * A piece is a tile of W (16 rows, 64 columns) and the same columns of x. One warp makes bf16 of
 * its quants in the order of the operands of mma.m16n8k16, 16 bytes a lane and step of 16 columns,
 * and another one multiplies: the sum over K is one chain that only one warp can follow, and making
 * the weights, which is most of the work, does not depend on it.
 */
#ifndef PP_MATMUL_QUANT_CUH
#define PP_MATMUL_QUANT_CUH

#include "matmul_few.cuh"
#include "quant.cuh"

#define QUANT_OPERANDS (QUANT_ROWS * QUANT_COLS * (uint32_t) sizeof(bf16)) /* bytes of a piece */

/* A tile's bytes as a constant; quant_tile_bytes is the same for the host. */
template <uint32_t BITS> struct quant_tile
{
	static constexpr uint32_t bytes = QUANT_ROWS * QUANT_COLS * BITS / 8 + QUANT_ROWS * QUANT_SCALE;
};

/* The quants of a lane's two rows in a tile. */
template <uint32_t BITS>
static __device__ __forceinline__ void
quant_read(uint32_t (&q)[2][BITS / 2], const uint8_t *tile)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t h = 0; h < 2; h++)
	{
		const uint2 *from = (const uint2 *) (tile + quant_chunk(BITS, lane / 4 + h * 8, lane));

#pragma unroll
		for (uint32_t i = 0; i < BITS / 4; i++)
		{
			q[h][2 * i] = from[i].x;
			q[h][2 * i + 1] = from[i].y;
		}
	}
}

/* Factors and summands of a lane's two rows in a tile, for its four steps. */
template <uint32_t BITS>
static __device__ __forceinline__ void
quant_read_scales(float (&scale)[2][4], float (&shift)[2][4], const uint32_t (&form)[2],
                  const uint8_t *tile)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t h = 0; h < 2; h++)
	{
		const uint2 s =
		    *(const uint2 *) (tile + quant_bytes(BITS) + (lane / 4 + h * 8) * QUANT_SCALE);

		/* steps 0 and 1 have the same halves, so have 2 and 3 */
		if (form[h] <= QUANT_AFFINE)
#pragma unroll
			for (uint32_t k = 0; k < 4; k++)
			{
				scale[h][k] = quant_half((k < 2 ? s.x : s.y) & 0xffff);
				shift[h][k] = quant_half((k < 2 ? s.x : s.y) >> 16);
			}
		else
#pragma unroll
			for (uint32_t k = 0; k < 4; k++)
				quant_scale(form[h], s.x, s.y, k, &scale[h][k], &shift[h][k]);
	}
}

/* The same where both rows are QUANT_PLAIN: one scale for 32 columns, in two shapes. */
template <uint32_t BITS>
static __device__ __forceinline__ void
quant_read_plain(float (&a256)[2][2], float (&minus)[2][2], const uint8_t *tile)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t h = 0; h < 2; h++)
	{
		const uint2 s =
		    *(const uint2 *) (tile + quant_bytes(BITS) + (lane / 4 + h * 8) * QUANT_SCALE);

#pragma unroll
		for (uint32_t i = 0; i < 2; i++)
		{
			const float a = quant_half((i == 0 ? s.x : s.y) & 0xffff);

			a256[h][i] = 256.0f * a;
			minus[h][i] = -(32768.0f + (BITS == 8 ? 128.0f : 8.0f)) * a;
		}
	}
}

/* A tile as operands, of step k in w[k]; form: of the lane's rows lane / 4 and lane / 4 + 8. */
template <uint32_t BITS>
static __device__ __forceinline__ void
quant_unpack(uint4 (&w)[4], const uint32_t (&form)[2], const uint8_t *tile)
{
	uint32_t q[2][BITS / 2];
	uint32_t v[4][4];

	quant_read<BITS>(q, tile);
	if (form[0] == QUANT_PLAIN && form[1] == QUANT_PLAIN)
	{
		float a256[2][2];
		float minus[2][2];

		quant_read_plain<BITS>(a256, minus, tile);
#pragma unroll
		for (uint32_t i = 0; i < 16; i++)
			v[i / 4][i % 4] = quant_plain_pair(quant_step<BITS>(q[i % 2], i / 4), i % 4 / 2 * 2,
			                                   a256[i % 2][i / 8], minus[i % 2][i / 8]);
	}
	else
	{
		const float zero[2] = {quant_zero(BITS, form[0]), quant_zero(BITS, form[1])};
		float scale[2][4];
		float shift[2][4];

		quant_read_scales<BITS>(scale, shift, form, tile);
#pragma unroll
		for (uint32_t i = 0; i < 16; i++)
			v[i / 4][i % 4] = quant_pair(quant_step<BITS>(q[i % 2], i / 4), i % 4 / 2 * 2,
			                             zero[i % 2], scale[i % 2][i / 4], shift[i % 2][i / 4]);
	}
#pragma unroll
	for (uint32_t k = 0; k < 4; k++)
		w[k] = make_uint4(v[k][0], v[k][1], v[k][2], v[k][3]);
}

/* Puts them where quant_multiply finds them: QUANT_OPERANDS bytes. */
static __device__ __forceinline__ void
quant_put(uint4 *to, const uint4 (&w)[4])
{
#pragma unroll
	for (uint32_t k = 0; k < 4; k++)
		to[32 * k + threadIdx.x % 32] = w[k];
}

/* All products of a piece; x: its tokens as matmul_few.cuh has them. */
template <uint32_t TILES>
static __device__ __forceinline__ void
quant_multiply(float (&c)[TILES][4], const uint4 *w, uint32_t x)
{
	uint32_t b[TILES][FEW_COLS / 32][4];

	few_read_tokens<TILES>(b, x);
#pragma unroll
	for (uint32_t k = 0; k < 4; k++)
	{
		const uint4 v = w[32 * k + threadIdx.x % 32];
		const uint32_t operand[4] = {v.x, v.y, v.z, v.w};

#pragma unroll
		for (uint32_t t = 0; t < TILES; t++)
			attn_mma(c[t], operand, b[t][k / 2][k % 2 * 2], b[t][k / 2][k % 2 * 2 + 1]);
	}
}

#endif /* PP_MATMUL_QUANT_CUH */
