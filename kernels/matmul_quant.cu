/*
 * matmul_quant.cu: products of few tokens with weights that are read as they are quantised.
 *
 *	out[T, N] = x[T, K] bf16(W[N, K])ᵀ + bias,  T <= 64; x bf16, W in tiles of quant.cuh, sums float
 *	grid      a block a group of WARPS · 16 rows of W; a warp walks the whole of K for its 16 rows
 *	shared    a ring of n_stages pieces: WARPS tiles of W and TILES · 8 tokens of x, 64 columns
 *	source    the tiles are an own layout after Marlin (arXiv 2408.11743): quants in operand order
 *
 * The bits are those of matmul_skinny.cu on the same weights in bf16: every weight is rounded to
 * bf16 before it is multiplied, and mma.m16n8k16 walks K in steps of 16 into one float sum. Rows of
 * a list (label columns) have the same bits.
 *
 * The gain is the reading: 9 or 5 bits a weight instead of 16. Each lane copies the words that it
 * alone will use and steps its pointer by one tile; only x and the scales are shared, so a warp
 * waits for no other where a block has but one. Two sets of operands: while a piece is multiplied,
 * the next comes out of shared memory.
 *
 * On Hopper the launch overlaps the end of the kernel before it: weights are asked for before
 * cuda_begin.
 */
#include "matmul_few.cuh"
#include "quant.cuh"

struct quant_args : few_args
{
	const bf16 *x;
	const uint8_t *tiles;
	const uint8_t *forms; /* [n_rows of W] */
	const uint32_t *cols; /* rows of W to multiply, or NULL: all */
	uint32_t n_stages;
};

/* What a lane needs of a piece. */
template <uint32_t BITS, uint32_t TILES> struct operands
{
	uint32_t q[2][BITS / 2]; /* the chunks of its two rows */
	uint32_t s[2][2];        /* their scales */
	uint32_t b[TILES][2][4]; /* x */
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
	for (uint32_t i = threadIdx.x; i < a.n_tokens * 8; i += blockDim.x)
	{
		uint32_t col = piece * QUANT_COLS + i % 8 * 8;
		bool in = col < a.n_cols;

		attn_copy16(to + few_swizzled(i / 8, i % 8) * (uint32_t) sizeof(bf16),
		            a.x + (size_t) (i / 8) * a.n_cols + (in ? col : 0), in);
	}
}

/* Reads the operands of a lane: w the warp's tile, x the piece of all. */
template <uint32_t BITS, uint32_t TILES>
static __device__ __forceinline__ void
read_operands(operands<BITS, TILES> &o, const uint8_t *w, uint32_t x)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t h = 0; h < 2; h++)
	{
		const uint2 *from = (const uint2 *) (w + quant_chunk(BITS, lane / 4 + h * 8, lane));
		const uint2 s = *(const uint2 *) (w + quant_bytes(BITS) + (lane / 4 + h * 8) * QUANT_SCALE);

#pragma unroll
		for (uint32_t i = 0; i < BITS / 4; i++)
		{
			o.q[h][2 * i] = from[i].x;
			o.q[h][2 * i + 1] = from[i].y;
		}
		o.s[h][0] = s.x;
		o.s[h][1] = s.y;
	}
	few_read_tokens<TILES>(o.b, x);
}

/* All products of a piece. */
template <uint32_t BITS, uint32_t TILES>
static __device__ __forceinline__ void
multiply(float (&c)[TILES][4], const operands<BITS, TILES> &o, const lane_rows &r)
{
	float scale[2][4];
	float shift[2][4];
	float zero[2];
	uint32_t w[4];

#pragma unroll
	for (uint32_t h = 0; h < 2; h++)
	{
		zero[h] = quant_zero(BITS, r.form[h]);
#pragma unroll
		for (uint32_t k = 0; k < 4; k++)
			quant_scale(r.form[h], o.s[h][0], o.s[h][1], k, &scale[h][k], &shift[h][k]);
	}
#pragma unroll
	for (uint32_t k = 0; k < 4; k++)
	{
#pragma unroll
		for (uint32_t i = 0; i < 4; i++)
			w[i] = quant_pair(quant_step<BITS>(o.q[i % 2], k), i / 2 * 2, zero[i % 2],
			                  scale[i % 2][k], shift[i % 2][k]);
#pragma unroll
		for (uint32_t t = 0; t < TILES; t++)
			attn_mma(c[t], w, o.b[t][k / 2][k % 2 * 2], o.b[t][k / 2][k % 2 * 2 + 1]);
	}
}

/* 16 rows of W a warp, TILES · 8 tokens. */
template <uint32_t BITS, uint32_t TILES, uint32_t WARPS>
static __global__ void __launch_bounds__(32 * WARPS) quant_kernel(quant_args a)
{
	const uint32_t bytes_w = quant_tile_bytes(BITS);
	const uint32_t stage = WARPS * bytes_w + TILES * 8 * QUANT_COLS * (uint32_t) sizeof(bf16);
	const uint32_t warp = threadIdx.x / 32;
	const uint32_t row0 = (blockIdx.x * WARPS + warp) * QUANT_ROWS;
	const uint32_t n_pieces = quant_tiles(a.n_cols);
	ATTN_SHARED(ring);
	const uint32_t shared = attn_shared(ring);
	lane_rows rows;
	float c[TILES][4] = {};
	operands<BITS, TILES> even;
	operands<BITS, TILES> odd = {};

	find_rows<BITS>(a, rows, row0);
	for (uint32_t p = 0; p + 1 < a.n_stages && p < n_pieces; p++)
		load_w<BITS>(rows, shared + p * stage + warp * bytes_w, p);
	cuda_begin();
	for (uint32_t p = 0; p + 1 < a.n_stages; p++)
	{
		if (p < n_pieces)
			load_x(a, shared + p * stage + WARPS * bytes_w, p);
		attn_commit();
	}
	/* a step reads one piece to registers and multiplies the one before */
	uint32_t at = 0;
	uint32_t to = a.n_stages - 1;
	auto step = [&](uint32_t p, operands<BITS, TILES> &read, const operands<BITS, TILES> &before)
	{
		const uint32_t next = p + a.n_stages - 1;

		few_wait(a.n_stages);
		few_wait_block<WARPS>(); /* piece p is there for all; piece p − 1 has been read by all */
		read_operands<BITS, TILES>(read, (const uint8_t *) ring + at * stage + warp * bytes_w,
		                           shared + at * stage + WARPS * bytes_w);
		if (next < n_pieces)
		{
			load_w<BITS>(rows, shared + to * stage + warp * bytes_w, next);
			load_x(a, shared + to * stage + WARPS * bytes_w, next);
		}
		attn_commit();
		at = at + 1 < a.n_stages ? at + 1 : 0;
		to = to + 1 < a.n_stages ? to + 1 : 0;
		if (p > 0)
			multiply<BITS, TILES>(c, before, rows);
	};

	for (uint32_t p = 0; p < n_pieces; p += 2)
	{
		step(p, even, odd);
		if (p + 1 < n_pieces)
			step(p + 1, odd, even);
	}
	if (n_pieces % 2 == 1)
		multiply<BITS, TILES>(c, even, rows);
	else
		multiply<BITS, TILES>(c, odd, rows);
	few_write_sums<TILES>(a, c, row0);
}

/* Launches for up to TILES · 8 tokens. */
template <uint32_t BITS, uint32_t TILES, uint32_t WARPS>
static cudaError_t
launch(pp_cuda *cu, quant_args *a)
{
	const uint32_t n_blocks = (a->n_rows + QUANT_ROWS * WARPS - 1) / (QUANT_ROWS * WARPS);
	const size_t bytes_stage =
	    WARPS * quant_tile_bytes(BITS) + TILES * 8 * QUANT_COLS * sizeof(bf16);
	auto kernel = quant_kernel<BITS, TILES, WARPS>;
	size_t bytes;

	a->n_stages = few_stages(cu, n_blocks, bytes_stage);
	bytes = a->n_stages * bytes_stage;
	if (bytes > 48 * 1024)
		cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes);
	return attn_launch_early(cu, kernel, dim3(n_blocks), 32 * (int) WARPS, (int) bytes, *a);
}

/* Picks the warps of a block: blocks for all multiprocessors first, then fewer readings of x. */
template <uint32_t BITS>
static cudaError_t
dispatch(pp_cuda *cu, quant_args *a)
{
	return few_dispatch(a->n_tokens,
	                    [=](auto tiles)
	                    {
		                    constexpr uint32_t TILES = decltype(tiles)::value;

		                    return few_fills(cu, a->n_rows, TILES, 4)
		                               ? launch<BITS, TILES, 4>(cu, a)
		                               : launch<BITS, TILES, 1>(cu, a);
	                    });
}

/* The kernel of the weights' bits. */
static cudaError_t
run(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w, const uint32_t *cols)
{
	quant_args a = {*few, x, w->tiles, w->forms, cols, 0};

	return w->bits == 8 ? dispatch<8>(cu, &a) : dispatch<4>(cu, &a);
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
