/*
 * matmul_quant.cu: products of few tokens with weights that are read as they are quantised, on
 * every card; matmul_quant_stream.cu is for those that have a bulk copy engine.
 *
 *	out[T, N] = x[T, K] bf16(W[N, K])ᵀ + bias,  T <= 16; x bf16, W in tiles of quant.cuh, sums float
 *	grid      a block 16 rows of W and the whole of K, in rounds of UNPACKERS pieces of 64 columns
 *	shared    a ring of STAGES rounds: the tiles of W and the pieces of x; two rounds of operands
 *	source    the tiles are an own layout after Marlin (arXiv 2408.11743): quants in operand order
 *
 * The bits are those of matmul_skinny.cu on the same weights in bf16: every weight is rounded to
 * bf16 before it is multiplied, and mma.m16n8k16 walks K in steps of 16 into one float sum. Rows of
 * a list (label columns) have the same bits.
 *
 * That sum is one chain, which one warp must follow; but making bf16 of quants is most of the work,
 * and does not depend on it. So UNPACKERS warps make a piece each, in the order of the operands,
 * and a warp of its own multiplies the pieces of the round before. A lane that unpacks copies the
 * words that it alone will use; scales and tokens are shared in a warp.
 *
 * The gain is the reading: 9 or 5 bits a weight instead of 16. On Hopper the launch overlaps the
 * end of the kernel before it: weights are asked for before cuda_begin.
 */
#include "bulk_copy.cuh"
#include "matmul_quant.cuh"

#define STAGES 4u /* rounds on their way, but for the one that is unpacked */

struct quant_args : few_args
{
	const bf16 *x;
	const uint8_t *tiles;
	const uint8_t *forms; /* [n_rows of W] */
	const uint32_t *cols; /* rows of W to multiply, or NULL: all */
};

/* Where a lane reads W: chunks of two rows, the scales of one (lanes 0 … 15); a tile a step. */
struct lane_rows
{
	const uint8_t *chunk[2];
	const uint8_t *scale;
	uint32_t form[2];
};

/* Eight bytes or sixteen of W. */
static __device__ __forceinline__ void
copy_w(uint32_t to, const uint8_t *from, uint32_t n)
{
	if (n == 16)
		attn_copy16(to, (const bf16 *) from, true);
	else
		attn_copy8(to, from);
}

/* Rows beyond the last read the last one and are not written. */
template <uint32_t BITS>
static __device__ void
find_rows(const quant_args &a, lane_rows &r, uint32_t row0)
{
	const uint32_t lane = threadIdx.x % 32;
	const size_t row_bytes = (size_t) quant_tiles(a.n_cols) * quant_tile_bytes(BITS);

	for (uint32_t h = 0; h < 2; h++)
	{
		uint32_t row = min(row0 + h * 8 + lane / 4, a.n_rows - 1);

		row = a.cols != NULL ? a.cols[row] : row;
		r.form[h] = a.forms[row];
		r.chunk[h] = a.tiles + row / QUANT_ROWS * row_bytes + quant_chunk(BITS, row, lane);
	}
	uint32_t row = min(row0 + lane % 16, a.n_rows - 1);

	row = a.cols != NULL ? a.cols[row] : row;
	r.scale =
	    a.tiles + row / QUANT_ROWS * row_bytes + quant_bytes(BITS) + row % QUANT_ROWS * QUANT_SCALE;
}

/* Starts the copy of a warp's tile. */
template <uint32_t BITS>
static __device__ __forceinline__ void
load_w(const lane_rows &r, uint32_t to, uint32_t piece)
{
	const uint32_t lane = threadIdx.x % 32;
	const size_t at = (size_t) piece * quant_tile_bytes(BITS);

#pragma unroll
	for (uint32_t h = 0; h < 2; h++)
		copy_w(to + quant_chunk(BITS, lane / 4 + h * 8, lane), r.chunk[h] + at, BITS * 2);
	if (lane < 16)
		copy_w(to + quant_bytes(BITS) + lane * QUANT_SCALE, r.scale + at, QUANT_SCALE);
}

/* Starts the copy of a piece of x; tokens that are not there keep what the ring held. */
static __device__ __forceinline__ void
load_x(const quant_args &a, uint32_t to, uint32_t piece)
{
	for (uint32_t i = threadIdx.x % 32; i < a.n_tokens * 8; i += 32)
	{
		uint32_t col = piece * QUANT_COLS + i % 8 * 8;
		bool in = col < a.n_cols;

		attn_copy16(to + few_swizzled(i / 8, i % 8) * (uint32_t) sizeof(bf16),
		            a.x + (size_t) (i / 8) * a.n_cols + (in ? col : 0), in);
	}
}

/* Where what lies in shared memory, in bytes. */
template <uint32_t BITS, uint32_t TILES, uint32_t UNPACKERS> struct quant_shape
{
	static constexpr uint32_t tile = quant_tile<BITS>::bytes;
	static constexpr uint32_t x = TILES * 8 * QUANT_COLS * (uint32_t) sizeof(bf16);
	static constexpr uint32_t stage = UNPACKERS * (tile + x);
	static constexpr uint32_t operands = UNPACKERS * QUANT_OPERANDS;
	static constexpr uint32_t threads = 32 * (UNPACKERS + 1);
};

/* 16 rows of W, TILES · 8 tokens. */
template <uint32_t BITS, uint32_t TILES, uint32_t UNPACKERS>
static __global__ void
__launch_bounds__(quant_shape<BITS, TILES, UNPACKERS>::threads) quant_kernel(quant_args a)
{
	typedef quant_shape<BITS, TILES, UNPACKERS> S;
	const uint32_t warp = threadIdx.x / 32;
	const bool multiplies = warp == UNPACKERS;
	const uint32_t row0 = blockIdx.x * QUANT_ROWS;
	const uint32_t n_pieces = quant_tiles(a.n_cols);
	const uint32_t n_rounds = (n_pieces + UNPACKERS - 1) / UNPACKERS;
	ATTN_SHARED(shared);
	uint4 *operands = (uint4 *) shared; /* of even and of odd rounds */
	const uint8_t *ring = (const uint8_t *) shared + 2 * S::operands;
	lane_rows rows;
	float c[TILES][4] = {};

	/* asks for this warp's share of a round */
	auto load = [&](uint32_t round, uint32_t stage)
	{
		const uint32_t to = attn_shared(ring + stage * S::stage);

		if (!multiplies && round * UNPACKERS + warp < n_pieces)
			load_w<BITS>(rows, to + warp * S::tile, round * UNPACKERS + warp);
		for (uint32_t p = 0; multiplies && p < UNPACKERS; p++)
			if (round * UNPACKERS + p < n_pieces)
				load_x(a, to + UNPACKERS * S::tile + p * S::x, round * UNPACKERS + p);
		attn_commit();
	};

	if (!multiplies)
		find_rows<BITS>(a, rows, row0);
	if (multiplies)
		cuda_begin(); /* W does not depend on the kernel before */
	for (uint32_t r = 0; r + 1 < STAGES; r++)
		load(r, r);
	if (!multiplies)
		cuda_begin();
	/* In round r the others unpack it while one warp multiplies round r − 1. */
	for (uint32_t r = 0; r <= n_rounds; r++)
	{
		attn_wait<STAGES - 2>();
		__syncwarp();
		if (!multiplies && r * UNPACKERS + warp < n_pieces)
		{
			uint4 w[4];

			quant_unpack<BITS>(w, rows.form, ring + r % STAGES * S::stage + warp * S::tile);
			quant_put(operands + (r % 2 * S::operands + warp * QUANT_OPERANDS) / 16, w);
		}
		for (uint32_t p = 0; multiplies && r > 0 && p < UNPACKERS; p++)
			if ((r - 1) * UNPACKERS + p < n_pieces)
				quant_multiply<TILES>(c,
				                      operands +
				                          ((r - 1) % 2 * S::operands + p * QUANT_OPERANDS) / 16,
				                      attn_shared(ring + (r - 1) % STAGES * S::stage +
				                                  UNPACKERS * S::tile + p * S::x));
		__syncwarp(); /* all lanes have read what is overwritten now */
		load(r + STAGES - 1, (r + STAGES - 1) % STAGES);
		__syncthreads();
	}
	if (multiplies)
		few_write_sums<TILES>(a, c, row0);
}

/* Launches for up to TILES · 8 tokens. */
template <uint32_t BITS, uint32_t TILES, uint32_t UNPACKERS>
static cudaError_t
launch(pp_cuda *cu, quant_args *a)
{
	typedef quant_shape<BITS, TILES, UNPACKERS> S;
	const uint32_t n_blocks = (a->n_rows + QUANT_ROWS - 1) / QUANT_ROWS;
	auto kernel = quant_kernel<BITS, TILES, UNPACKERS>;
	const uint32_t bytes = 2 * S::operands + STAGES * S::stage;

	if (bytes > 48 * 1024)
		cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes);
	return attn_launch_early(cu, kernel, dim3(n_blocks), (int) S::threads, (int) bytes, *a);
}

/* Picks the tiles, and more warps for a block where there are few blocks. */
template <uint32_t BITS>
static cudaError_t
dispatch(pp_cuda *cu, quant_args *a)
{
	if (a->n_tokens > 8)
		return launch<BITS, 2, 4>(cu, a);
	return a->n_rows <= QUANT_ROWS * 2 * (uint32_t) cu->n_sms ? launch<BITS, 1, 8>(cu, a)
	                                                          : launch<BITS, 1, 4>(cu, a);
}

/* The kernel of the weights' bits, and of the card where all rows are wanted. */
static cudaError_t
run(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w, const uint32_t *cols)
{
	if (cols == NULL && bulk_takes(cu))
		return cuda_quant_stream(cu, few, x, w);
	quant_args a = {*few, x, w->tiles, w->forms, cols};

	return w->bits == 8 ? dispatch<8>(cu, &a) : dispatch<4>(cu, &a);
}

/* See cuda.cuh. */
uint32_t
cuda_quant_max(const pp_cuda *cu, bool listed)
{
	return !listed && bulk_takes(cu) ? CUDA_SKINNY_MAX : 16;
}

/* bf16 out. */
cudaError_t
cuda_quant_skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, const bf16 *bias16,
                  uint32_t n_tokens)
{
	const few_args few = {NULL, out, NULL, bias16, n_tokens, w->n_rows, w->n_cols};

	return run(cu, &few, x, w, NULL);
}

/* Float out, rows of W by list unless NULL. */
cudaError_t
cuda_quant_skinny_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w,
                        const float *bias, const uint32_t *cols, uint32_t n_cols, uint32_t n_tokens)
{
	const few_args few = {out, NULL, bias, NULL, n_tokens, n_cols, w->n_cols};

	return run(cu, &few, x, w, cols);
}
