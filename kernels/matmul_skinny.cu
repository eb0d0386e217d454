/*
 * matmul_skinny.cu: products of few tokens, bound by the reading of the weights.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias,  T <= 64, K a multiple of 8; bf16 in, float sums
 *
 * A warp takes 16 rows of W over the whole of K (no split: the order of a sum depends on nothing)
 * and the tokens as columns of mma.m16n8k16. Pieces of 64 columns of W and of x come through a ring
 * in shared memory, filled by cp.async and read by ldmatrix; the ring is as deep as the blocks that
 * share a multiprocessor leave room for, since only bytes in flight keep the memory busy. While a
 * piece is multiplied the operands of the next one are on their way to registers, so that the chain
 * of dependent products, K / 16 long, is all that a warp ever waits for.
 *
 * Few tokens: a block is one warp, for as many blocks as there can be. Many tokens, or many rows:
 * up to four warps share the pieces of x. Pieces are swizzled by the row, so that the eight rows
 * that ldmatrix reads lie in different banks. cols lists the rows of W to multiply (label columns);
 * the sums are the same.
 *
 * On Hopper the launch overlaps the end of the kernel before it: weights do not depend on it, so
 * they are asked for before cuda_begin.
 */
#include "matmul_few.cuh"

#define MAX_STAGE 32u

struct skinny_args : few_args
{
	const bf16 *x;
	const bf16 *w;
	const uint32_t *cols; /* rows of W to multiply, or NULL: all */
	uint32_t n_stages;
};

/* Starts the copy of 16 bytes; columns behind the last are zeros. */
static __device__ void
copy_chunk(bf16 *to, const bf16 *row, uint32_t col, uint32_t n_cols)
{
	uint32_t at = (uint32_t) __cvta_generic_to_shared(to);
	bool in = col < n_cols;
	uint32_t n = in ? 16 : 0;

	asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(at),
	             "l"(row + (in ? col : 0)), "r"(n));
}

/* Starts the copy of a piece of W: every thread has four chunks, of four rows. */
static __device__ void
load_w(const skinny_args &a, bf16 *to, const bf16 *const rows[4], uint32_t k)
{
	const uint32_t step = blockDim.x / 8; /* rows that all threads copy at once */
	const uint32_t chunk = threadIdx.x % 8;

#pragma unroll
	for (uint32_t i = 0; i < 4; i++)
		copy_chunk(to + few_swizzled(i * step + threadIdx.x / 8, chunk), rows[i], k + chunk * 8,
		           a.n_cols);
}

/* Starts the copy of a piece of x; tokens that are not there keep what the ring held. */
static __device__ void
load_x(const skinny_args &a, bf16 *to, uint32_t k)
{
	for (uint32_t i = threadIdx.x; i < a.n_tokens * 8; i += blockDim.x)
		copy_chunk(to + few_swizzled(i / 8, i % 8), a.x + (size_t) (i / 8) * a.n_cols,
		           k + i % 8 * 8, a.n_cols);
}

/* Waits until all but the n_stages − 2 youngest groups of copies of this thread are there. */
static __device__ __forceinline__ void
wait_piece(uint32_t n_stages)
{
	if (n_stages == 4)
		attn_wait<2>();
	else if (n_stages == 8)
		attn_wait<6>();
	else if (n_stages == 16)
		attn_wait<14>();
	else
		attn_wait<30>();
}

/* Waits for the other threads of a block of so many warps. */
template <uint32_t WARPS>
static __device__ __forceinline__ void
wait_block()
{
	if (WARPS == 1)
		__syncwarp();
	else
		__syncthreads();
}

/* 16 rows of W a warp, TILES · 8 tokens. */
template <uint32_t TILES, uint32_t WARPS>
static __global__ void __launch_bounds__(32 * WARPS) skinny_kernel(skinny_args a)
{
	constexpr uint32_t piece_w = WARPS * FEW_ROWS * FEW_COLS;
	constexpr uint32_t stage = piece_w + TILES * 8 * FEW_COLS;
	extern __shared__ uint4 ring_raw[];
	bf16 *ring = (bf16 *) ring_raw;
	const uint32_t row0 = blockIdx.x * FEW_ROWS * WARPS;
	const uint32_t n_pieces = (a.n_cols + FEW_COLS - 1) / FEW_COLS;
	const uint32_t row =
	    threadIdx.x / 32 * FEW_ROWS + threadIdx.x % 16; /* whose operands it reads */
	const bf16 *rows[4];
	float c[TILES][4] = {};
	few_operands<TILES> even;
	few_operands<TILES> odd = {};

	/* rows beyond the last read the last one and are not written */
	for (uint32_t i = 0; i < 4; i++)
	{
		uint32_t from = min(row0 + i * 4 * WARPS + threadIdx.x / 8, a.n_rows - 1);

		rows[i] = a.w + (size_t) (a.cols != NULL ? a.cols[from] : from) * a.n_cols;
	}
	for (uint32_t p = 0; p + 1 < a.n_stages && p < n_pieces; p++)
		load_w(a, ring + p * stage, rows, p * FEW_COLS);
	cuda_begin();
	for (uint32_t p = 0; p + 1 < a.n_stages; p++)
	{
		if (p < n_pieces)
			load_x(a, ring + p * stage + piece_w, p * FEW_COLS);
		attn_commit();
	}
	/* a step reads one piece to registers and multiplies the one before; at first that is zeros */
	uint32_t at = 0;
	uint32_t to = a.n_stages - 1;
	auto step = [&](uint32_t p, few_operands<TILES> &read, const few_operands<TILES> &before)
	{
		const uint32_t next = p + a.n_stages - 1;

		wait_piece(a.n_stages);
		wait_block<WARPS>(); /* piece p is there for all; piece p − 1 has been read by all */
		few_read<TILES>(read, ring + at * stage, ring + at * stage + piece_w, row);
		if (next < n_pieces)
		{
			load_w(a, ring + to * stage, rows, next * FEW_COLS);
			load_x(a, ring + to * stage + piece_w, next * FEW_COLS);
		}
		attn_commit();
		at = at + 1 < a.n_stages ? at + 1 : 0;
		to = to + 1 < a.n_stages ? to + 1 : 0;
		few_multiply<TILES>(c, before);
	};

	for (uint32_t p = 0; p < n_pieces; p += 2)
	{
		step(p, even, odd);
		if (p + 1 < n_pieces)
			step(p + 1, odd, even);
	}
	if (n_pieces % 2 == 1)
		few_multiply<TILES>(c, even);
	else
		few_multiply<TILES>(c, odd);
	few_write_sums<TILES>(a, c, row0 + threadIdx.x / 32 * FEW_ROWS);
}

/* Whether the shape fits: 16-byte pieces. */
bool
cuda_skinny_takes(const pp_matrix *w)
{
	return w->n_cols % 8 == 0 && w->n_cols > 0;
}

/* Depth of a ring: as deep as the blocks that share a multiprocessor leave room for. */
static uint32_t
stages_of(const pp_cuda *cu, uint32_t n_blocks, size_t bytes_stage)
{
	uint32_t blocks = (n_blocks + (uint32_t) cu->n_sms - 1) / (uint32_t) cu->n_sms;
	size_t budget = (size_t) (cu->arch == 89 ? 96 : cu->arch == 80 ? 160 : 208) << 10;
	uint32_t n = MAX_STAGE;

	while (n > 4 && (n * bytes_stage + 1024) * blocks > budget)
		n /= 2;
	return n;
}

/* Whether blocks of so many warps are enough for all multiprocessors. */
static bool
fills(const pp_cuda *cu, uint32_t n_rows, uint32_t tiles, uint32_t warps)
{
	const uint32_t n_groups = (n_rows + FEW_ROWS - 1) / FEW_ROWS;

	return n_groups / warps >= (uint32_t) cu->n_sms * (tiles >= 4 ? 1 : 6) / 2;
}

/* Launches for up to TILES · 8 tokens. */
template <uint32_t TILES, uint32_t WARPS>
static cudaError_t
launch(pp_cuda *cu, skinny_args *a)
{
	const uint32_t n_blocks = (a->n_rows + FEW_ROWS * WARPS - 1) / (FEW_ROWS * WARPS);
	const size_t bytes_stage = (WARPS * FEW_ROWS + TILES * 8) * FEW_COLS * sizeof(bf16);
	auto kernel = skinny_kernel<TILES, WARPS>;
	size_t bytes;

	a->n_stages = stages_of(cu, n_blocks, bytes_stage);
	bytes = a->n_stages * bytes_stage;
	if (bytes > 48 * 1024)
		cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes);
	return cuda_launch(cu, kernel, n_blocks, 32 * WARPS, bytes, *a);
}

/* Picks the warps of a block: blocks for all multiprocessors first, then fewer readings of x. */
static cudaError_t
dispatch(pp_cuda *cu, skinny_args *a)
{
	return few_dispatch(a->n_tokens,
	                    [=](auto tiles)
	                    {
		                    constexpr uint32_t TILES = decltype(tiles)::value;

		                    if (fills(cu, a->n_rows, TILES, 4))
			                    return launch<TILES, 4>(cu, a);
		                    return fills(cu, a->n_rows, TILES, 2) ? launch<TILES, 2>(cu, a)
		                                                          : launch<TILES, 1>(cu, a);
	                    });
}

/* bf16 out. */
cudaError_t
cuda_skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, const bf16 *bias16,
            uint32_t n_tokens)
{
	skinny_args a = {
	    {NULL, out, NULL, bias16, n_tokens, w->n_rows, w->n_cols}, x, w->data, NULL, 0};

	return cuda_stream_takes(cu) ? cuda_stream(cu, &a, x, w) : dispatch(cu, &a);
}

/* Float out, rows of W by list unless NULL. */
cudaError_t
cuda_skinny_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w, const float *bias,
                  const uint32_t *cols, uint32_t n_cols, uint32_t n_tokens)
{
	skinny_args a = {{out, NULL, bias, NULL, n_tokens, n_cols, w->n_cols}, x, w->data, cols, 0};

	return cols == NULL && cuda_stream_takes(cu) ? cuda_stream(cu, &a, x, w) : dispatch(cu, &a);
}
