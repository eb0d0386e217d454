/*
 * matmul_stream.cu: products of few tokens on Hopper and later, by the bulk copy engine.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias,  T <= 64, K a multiple of 8; bf16 in, float sums
 *	gated     out[T, F] = act(x W[0:F]ᵀ) · x W[F:2F]ᵀ, both sums rounded to bf16 before
 *
 * The same sums in the same order as matmul_skinny.cu, to the bit: a warp takes 16 rows of W over
 * the whole of K, in steps of mma.m16n8k16. There every lane copies its share of a piece, and the
 * instructions that this takes are what a warp waits for; here a warp of its own asks the bulk copy
 * engine for whole pieces (128 columns of the rows of a turn, and of x, swizzled by 128 bytes) and
 * the others only read operands and multiply. A stage of the ring is full when its bytes have come,
 * empty when every warp has read it.
 *
 * A block a multiprocessor walks the rows in turns of 16 for each of its warps, and the copying
 * warp is a ring ahead, over the end of a turn too. The warps are chosen so that the busiest block
 * has as few rows as can be; no sum depends on them.
 *
 * Gated, the 16 rows of a warp are 8 of the gate and the same 8 of what it gates, fetched by boxes
 * of their own; the lane that has the one sum has the other. The bits are those of the product and
 * activate.cu.
 *
 * Operands go to registers half a piece ahead of the products. W does not depend on the kernel
 * before, so the first pieces of it are asked for while that one still runs.
 */
#include "activate.cuh"
#include "bulk_copy.cuh"
#include "matmul_few.cuh"

#define MAX_WARPS 7u /* that multiply; with the copying one two for each scheduler */
#define MAX_STAGE 48u
#define TURN      1u           /* groups: what a turn costs beside its own (few_groups) */
#define RING      (200u << 10) /* bytes of shared memory */

/* Gated, n_rows is F. */
struct stream_args : few_args
{
	bool gated;
	pp_act_kind act;
	uint32_t n_warps; /* that multiply */
	uint32_t n_turns; /* of all blocks */
	uint32_t n_stages;
};

/* Columns of out that a warp makes in a turn. */
static __host__ __device__ inline uint32_t
columns_of(const stream_args &a)
{
	return a.gated ? FEW_ROWS / 2 : FEW_ROWS;
}

#ifdef PP_BULK_COPY

/* The stages and their barriers; sizes in elements. */
struct ring
{
	bf16 *data;
	uint64_t *full;
	uint64_t *empty;
	uint32_t half_w; /* 64 columns of the rows of a turn */
	uint32_t half_x;
	uint32_t stage;
};

/* Asks for piece p of the rows of a turn; gated, those of the gate first. */
static __device__ void
fetch_w(const stream_args &a, const ring &r, const CUtensorMap *map, uint32_t stage, uint32_t turn,
        uint32_t p)
{
	const uint32_t row = turn * a.n_warps * columns_of(a);
	bf16 *to = r.data + stage * r.stage;

	barrier_expect(&r.full[stage], r.stage * (uint32_t) sizeof(bf16));
	for (uint32_t half = 0; half < 2; half++)
	{
		const uint32_t col = (p * 2 + half) * FEW_COLS;

		bulk_box(to + half * r.half_w, map, col, row, &r.full[stage]);
		if (a.gated)
			bulk_box(to + half * r.half_w + r.half_w / 2, map, col, a.n_rows + row, &r.full[stage]);
	}
}

/* The warp that copies: one lane of it. W of the first stages comes before x may be read. */
static __device__ void
produce(const stream_args &a, const ring &r, const CUtensorMap *w_map, const CUtensorMap *x_map)
{
	const uint32_t n_pieces = (a.n_cols + 2 * FEW_COLS - 1) / (2 * FEW_COLS);
	const uint32_t n_first = min(a.n_stages, n_pieces);
	few_place at = {0, 1}; /* nobody has to empty the ring for the first time */

	for (uint32_t p = 0; p < n_first; p++)
		fetch_w(a, r, w_map, p, blockIdx.x, p);
	cuda_wait_before();
	for (uint32_t turn = blockIdx.x; turn < a.n_turns; turn += gridDim.x)
		for (uint32_t p = 0; p < n_pieces; p++)
		{
			bf16 *to = r.data + at.i * r.stage + 2 * r.half_w;

			if (turn != blockIdx.x || p >= n_first)
			{
				barrier_wait(&r.empty[at.i], at.parity);
				fetch_w(a, r, w_map, at.i, turn, p);
			}
			bulk_box(to, x_map, p * 2 * FEW_COLS, 0, &r.full[at.i]);
			bulk_box(to + r.half_x, x_map, p * 2 * FEW_COLS + FEW_COLS, 0, &r.full[at.i]);
			few_next(&at, a.n_stages);
		}
}

/* The row of a piece whose operands a lane reads. */
static __device__ uint32_t
row_of(const stream_args &a, uint32_t warp)
{
	const uint32_t row = threadIdx.x % 16;

	if (!a.gated)
		return warp * FEW_ROWS + row;
	return (row / 8 * a.n_warps + warp) * 8 + row % 8;
}

/* Writes what the gate lets through: the sums c[t][0 … 1] are its, c[t][2 … 3] what it gates. */
template <uint32_t TILES>
static __device__ void
write_gated(const stream_args &a, const float (&c)[TILES][4], uint32_t col0)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t col = col0 + lane / 4;

#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
		for (uint32_t j = 0; j < 2; j++)
		{
			uint32_t token = t * 8 + lane % 4 * 2 + j;

			if (token < a.n_tokens && col < a.n_rows)
				a.out16[(size_t) token * a.n_rows + col] =
				    activation_gated(__float2bfloat16_rn(c[t][j]), __float2bfloat16_rn(c[t][j + 2]),
				                     a.act);
		}
}

/* A warp that multiplies 16 rows in each turn. */
template <uint32_t TILES>
static __device__ void
consume(const stream_args &a, const ring &r, uint32_t warp)
{
	const uint32_t n_pieces = (a.n_cols + 2 * FEW_COLS - 1) / (2 * FEW_COLS);
	const uint32_t row = row_of(a, warp);
	few_place at = {0, 0};

	for (uint32_t turn = blockIdx.x; turn < a.n_turns; turn += gridDim.x)
	{
		float c[TILES][4] = {};
		few_operands<TILES> even;
		few_operands<TILES> odd = {}; /* the half before the first: zeros */

		for (uint32_t p = 0; p < n_pieces; p++)
		{
			const bf16 *w = r.data + at.i * r.stage;
			const bf16 *x = w + 2 * r.half_w;

			barrier_wait(&r.full[at.i], at.parity);
			few_read<TILES>(even, w, x, row);
			few_multiply<TILES>(c, odd);
			few_read<TILES>(odd, w + r.half_w, x + r.half_x, row);
			__syncwarp();
			if (threadIdx.x % 32 == 0)
				barrier_arrive(&r.empty[at.i]);
			few_multiply<TILES>(c, even);
			few_next(&at, a.n_stages);
		}
		few_multiply<TILES>(c, odd);
		if (turn == blockIdx.x)
			cuda_wait_before(); /* out may be what the kernel before still reads */
		if (a.gated)
			write_gated<TILES>(a, c, (turn * a.n_warps + warp) * columns_of(a));
		else
			few_write_sums<TILES>(a, c, (turn * a.n_warps + warp) * columns_of(a));
	}
}

#endif /* PP_BULK_COPY */

/* Up to TILES · 8 tokens; one warp more than those that multiply. */
template <uint32_t TILES>
static __global__ void __launch_bounds__(32 * (MAX_WARPS + 1), 1)
    stream_kernel(const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap x_map, const stream_args a)
{
#ifdef PP_BULK_COPY
	ATTN_SHARED(raw);
	__shared__ uint64_t full[MAX_STAGE];
	__shared__ uint64_t empty[MAX_STAGE];
	const uint32_t warp = threadIdx.x / 32;
	ring r;

	r.data = (bf16 *) ((uint8_t *) raw + (BULK_ALIGN - attn_shared(raw) % BULK_ALIGN) % BULK_ALIGN);
	r.full = full;
	r.empty = empty;
	r.half_w = a.n_warps * FEW_ROWS * FEW_COLS;
	r.half_x = TILES * 8 * FEW_COLS;
	r.stage = 2 * (r.half_w + r.half_x);
	if (threadIdx.x == 0)
	{
		for (uint32_t i = 0; i < a.n_stages; i++)
		{
			barrier_init(&full[i], 1);
			barrier_init(&empty[i], a.n_warps);
		}
		barrier_publish();
	}
	__syncthreads();
	cuda_let_next();
	if (warp < a.n_warps)
		consume<TILES>(a, r, warp);
	else if (threadIdx.x % 32 == 0)
		produce(a, r, &w_map, &x_map);
#endif
}

/* Launches for up to TILES · 8 tokens. */
template <uint32_t TILES>
static cudaError_t
launch(pp_cuda *cu, stream_args *a, const bf16 *x, const pp_matrix *w)
{
	auto kernel = stream_kernel<TILES>;
	const uint32_t n_sms = (uint32_t) cu->n_sms;
	CUtensorMap w_map;
	CUtensorMap x_map;
	uint32_t stage;

	const uint32_t n_groups = (a->n_rows + columns_of(*a) - 1) / columns_of(*a);

	a->n_warps = few_groups(n_groups, n_sms, MAX_WARPS, TURN);
	a->n_turns = (n_groups + a->n_warps - 1) / a->n_warps;
	stage = 2 * (a->n_warps * FEW_ROWS + TILES * 8) * FEW_COLS * (uint32_t) sizeof(bf16);
	a->n_stages = min(MAX_STAGE, (RING - BULK_ALIGN) / stage);
	if (!bulk_describe(&w_map, w->data, w->n_rows, w->n_cols, a->n_warps * columns_of(*a)) ||
	    !bulk_describe(&x_map, x, a->n_tokens, a->n_cols, TILES * 8))
		return cudaErrorNotSupported;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) RING);
	return cuda_launch(cu, kernel, min(a->n_turns, n_sms), 32 * (a->n_warps + 1), RING, w_map,
	                   x_map, *a);
}

/* Picks the tiles. */
static cudaError_t
dispatch(pp_cuda *cu, const stream_args *args, const bf16 *x, const pp_matrix *w)
{
	return few_dispatch(args->n_tokens,
	                    [=](auto tiles)
	                    {
		                    stream_args a = *args;

		                    return launch<decltype(tiles)::value>(cu, &a, x, w);
	                    });
}

/* See cuda.cuh. */
cudaError_t
cuda_stream(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w)
{
	const stream_args a = {*few, false, PP_ACT_SILU, 0, 0, 0};

	return dispatch(cu, &a, x, w);
}

/* See cuda.cuh. */
cudaError_t
cuda_stream_gated(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, pp_act_kind act,
                  uint32_t n_tokens)
{
	const stream_args a = {
	    {NULL, out, NULL, NULL, n_tokens, w->n_rows / 2, w->n_cols}, true, act, 0, 0, 0};

	return dispatch(cu, &a, x, w);
}

/* Whether this card and driver have what it takes. */
bool
cuda_stream_takes(const pp_cuda *cu)
{
	return bulk_takes(cu);
}
