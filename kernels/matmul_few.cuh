/*
 * matmul_few.cuh: what the products of few tokens share (matmul_skinny.cu, matmul_stream.cu,
 * matmul_quant.cu, matmul_quant_stream.cu): how x lies in shared memory, how sums leave a warp, and
 * the choice of a kernel.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias,  T <= 64
 *
 * In all of them a warp takes 16 rows of W over the whole of K and the tokens as columns of
 * mma.m16n8k16, in steps of 16 into one float sum. That order is what makes their bits equal.
 */
#ifndef PP_MATMUL_FEW_CUH
#define PP_MATMUL_FEW_CUH

#include <type_traits>

#include "attention_asm.cuh"

#define FEW_ROWS 16u /* of W, a warp */
#define FEW_COLS 64u /* of a piece: 128 bytes, one swizzle */

/* What every kernel needs; one of the outputs and at most one bias is there. */
struct few_args
{
	float *out;
	bf16 *out16;
	const float *bias;
	const bf16 *bias16;
	uint32_t n_tokens;
	uint32_t n_rows; /* of W, or of the list of rows to multiply */
	uint32_t n_cols;
};

/* A place in a ring; parity: of the turn around it, as barriers count (bulk_copy.cuh). */
struct few_place
{
	uint32_t i;
	uint32_t parity;
};

/* To the next of n places. */
static __device__ __forceinline__ void
few_next(few_place *at, uint32_t n)
{
	if (++at->i == n)
		*at = few_place{0, at->parity ^ 1};
}

/* The place in a piece of 8 columns (chunk 0 … 7) of a row: eight rows lie in different banks. */
static __device__ __forceinline__ uint32_t
few_swizzled(uint32_t row, uint32_t chunk)
{
	return row * FEW_COLS + (chunk ^ (row % 8)) * 8;
}

/* What a warp multiplies of a piece, in registers. */
template <uint32_t TILES> struct few_operands
{
	uint32_t a[FEW_COLS / 16][4];
	uint32_t b[TILES][FEW_COLS / 32][4];
};

/* Reads the tokens of a piece, x in shared memory. */
template <uint32_t TILES>
static __device__ __forceinline__ void
few_read_tokens(uint32_t (&b)[TILES][FEW_COLS / 32][4], uint32_t x)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
		for (uint32_t k = 0; k < FEW_COLS / 32; k++)
			attn_ldmatrix(b[t][k], x + few_swizzled(t * 8 + lane % 8, k * 4 + lane / 8) *
			                               (uint32_t) sizeof(bf16));
}

/* Reads the operands of a warp: its lane's row of those at w, all tokens at x. */
template <uint32_t TILES>
static __device__ __forceinline__ void
few_read(few_operands<TILES> &o, const bf16 *w, const bf16 *x, uint32_t row)
{
#pragma unroll
	for (uint32_t k = 0; k < FEW_COLS / 16; k++)
		attn_ldmatrix(o.a[k], attn_shared(w + few_swizzled(row, k * 2 + threadIdx.x % 32 / 16)));
	few_read_tokens<TILES>(o.b, attn_shared(x));
}

/* All products of a piece. */
template <uint32_t TILES>
static __device__ __forceinline__ void
few_multiply(float (&c)[TILES][4], const few_operands<TILES> &o)
{
#pragma unroll
	for (uint32_t k = 0; k < FEW_COLS / 16; k++)
#pragma unroll
		for (uint32_t t = 0; t < TILES; t++)
			attn_mma(c[t], o.a[k], o.b[t][k / 2][k % 2 * 2], o.b[t][k / 2][k % 2 * 2 + 1]);
}

/* Writes one sum. */
static __device__ __forceinline__ void
few_write(const few_args &a, uint32_t token, uint32_t row, float sum)
{
	const size_t at = (size_t) token * a.n_rows + row;

	if (a.bias16 != NULL)
		sum += __bfloat162float(a.bias16[row]);
	else if (a.bias != NULL)
		sum += a.bias[row];
	if (a.out16 != NULL)
		a.out16[at] = __float2bfloat16_rn(sum);
	else
		a.out[at] = sum;
}

/* Writes the sums of a warp, whose first row of W is row0. */
template <uint32_t TILES>
static __device__ __forceinline__ void
few_write_sums(const few_args &a, const float (&c)[TILES][4], uint32_t row0)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
		for (uint32_t j = 0; j < 4; j++)
		{
			uint32_t token = t * 8 + lane % 4 * 2 + j % 2;
			uint32_t row = row0 + lane / 4 + j / 2 * 8;

			if (token < a.n_tokens && row < a.n_rows)
				few_write(a, token, row, c[t][j]);
		}
}

/*
 * How many groups of 16 rows, of n_groups in all, a block should take in a turn, at most max: what
 * gives the busiest multiprocessor the least to do, and more where that ties. A turn costs as much
 * as `turn` groups beside its own: nothing where bytes are what takes time, some where waiting is.
 */
static inline uint32_t
few_groups(uint32_t n_groups, uint32_t n_sms, uint32_t max, uint32_t turn)
{
	uint32_t best = 1;
	uint32_t least = UINT32_MAX;

	for (uint32_t n = 1; n <= max; n++)
	{
		uint32_t n_turns = (n_groups + n - 1) / n;
		uint32_t busiest = (n_turns + n_sms - 1) / n_sms * (n + turn);

		if (busiest <= least)
		{
			least = busiest;
			best = n;
		}
	}
	return best;
}

/* Calls launch with the number of tiles of 8 tokens as a constant. */
template <typename Launch>
static inline cudaError_t
few_dispatch(uint32_t n_tokens, Launch launch)
{
	if (n_tokens <= 8)
		return launch(std::integral_constant<uint32_t, 1>());
	if (n_tokens <= 16)
		return launch(std::integral_constant<uint32_t, 2>());
	if (n_tokens <= 32)
		return launch(std::integral_constant<uint32_t, 4>());
	return launch(std::integral_constant<uint32_t, 8>());
}

#endif /* PP_MATMUL_FEW_CUH */
