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
#include "cuda.cuh"

#define ROWS      16u /* of W, a warp */
#define DEPTH     64u /* columns of a piece */
#define MAX_STAGE 32u

struct skinny_args
{
	void *out;
	const bf16 *x;
	const bf16 *w;
	const float *bias;
	const bf16 *bias16;
	const uint32_t *cols;
	uint32_t n_tokens;
	uint32_t n_rows; /* of W, or of the list */
	uint32_t n_cols;
	uint32_t n_stages;
};

/* The place in a piece of 8 columns (chunk 0 … 7) of a row. */
static __device__ uint32_t
swizzled(uint32_t row, uint32_t chunk)
{
	return row * DEPTH + (chunk ^ (row % 8)) * 8;
}

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
		copy_chunk(to + swizzled(i * step + threadIdx.x / 8, chunk), rows[i], k + chunk * 8,
		           a.n_cols);
}

/* Starts the copy of a piece of x; tokens that are not there keep what the ring held. */
static __device__ void
load_x(const skinny_args &a, bf16 *to, uint32_t k)
{
	for (uint32_t i = threadIdx.x; i < a.n_tokens * 8; i += blockDim.x)
		copy_chunk(to + swizzled(i / 8, i % 8), a.x + (size_t) (i / 8) * a.n_cols, k + i % 8 * 8,
		           a.n_cols);
}

/* Four 8 × 8 matrices from shared memory. */
static __device__ void
load_matrices(uint32_t r[4], const bf16 *at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"((uint32_t) __cvta_generic_to_shared(at)));
}

/* The operands of a piece in registers. */
template <uint32_t TILES> struct operands
{
	uint32_t a[DEPTH / 16][4];
	uint32_t b[TILES][DEPTH / 32][4];
};

/* Reads the operands of a warp. */
template <uint32_t TILES>
static __device__ void
read_operands(operands<TILES> &o, const bf16 *w, const bf16 *x)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t k = 0; k < DEPTH / 16; k++)
		load_matrices(o.a[k], w + swizzled(threadIdx.x / 32 * ROWS + lane % 16, k * 2 + lane / 16));
#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
		for (uint32_t k = 0; k < DEPTH / 32; k++)
			load_matrices(o.b[t][k], x + swizzled(t * 8 + lane % 8, k * 4 + lane / 8));
}

/* Waits until all but the n_stages − 2 youngest copies of this thread are there. */
static __device__ void
wait_piece(uint32_t n_stages)
{
	if (n_stages == 4)
		asm volatile("cp.async.wait_group 2;");
	else if (n_stages == 8)
		asm volatile("cp.async.wait_group 6;");
	else if (n_stages == 16)
		asm volatile("cp.async.wait_group 14;");
	else
		asm volatile("cp.async.wait_group 30;");
}

/* Waits for the other threads of the block. */
template <uint32_t WARPS>
static __device__ void
wait_block()
{
	if (WARPS == 1)
		__syncwarp();
	else
		__syncthreads();
}

/* c += A B. */
static __device__ void
mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
	             "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	             : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Writes one value. */
static __device__ void
put(float *out, size_t at, float value)
{
	out[at] = value;
}

/* Writes one value, narrowed. */
static __device__ void
put(bf16 *out, size_t at, float value)
{
	out[at] = __float2bfloat16_rn(value);
}

/* All products of a piece. */
template <uint32_t TILES>
static __device__ void
multiply(float c[TILES][4], const operands<TILES> &o)
{
#pragma unroll
	for (uint32_t k = 0; k < DEPTH / 16; k++)
#pragma unroll
		for (uint32_t t = 0; t < TILES; t++)
			mma(c[t], o.a[k], o.b[t][k / 2][k % 2 * 2], o.b[t][k / 2][k % 2 * 2 + 1]);
}

/* The bias of a row, in either type. */
static __device__ float
bias_at(const skinny_args &a, uint32_t row)
{
	if (a.bias16 != NULL)
		return __bfloat162float(a.bias16[row]);
	return a.bias != NULL ? a.bias[row] : 0.0f;
}

/* Writes the sums of a warp, whose first row of W is row0. */
template <typename T, uint32_t TILES>
static __device__ void
write_sums(const skinny_args &a, const float c[TILES][4], uint32_t row0)
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
				put((T *) a.out, (size_t) token * a.n_rows + row, c[t][j] + bias_at(a, row));
		}
}

/* 16 rows of W a warp, TILES · 8 tokens. */
template <typename T, uint32_t TILES, uint32_t WARPS>
static __global__ void __launch_bounds__(32 * WARPS) skinny_kernel(skinny_args a)
{
	constexpr uint32_t piece_w = WARPS * ROWS * DEPTH;
	constexpr uint32_t stage = piece_w + TILES * 8 * DEPTH;
	extern __shared__ uint4 ring_raw[];
	bf16 *ring = (bf16 *) ring_raw;
	const uint32_t row0 = blockIdx.x * ROWS * WARPS;
	const uint32_t n_pieces = (a.n_cols + DEPTH - 1) / DEPTH;
	const bf16 *rows[4];
	float c[TILES][4] = {};
	operands<TILES> even;
	operands<TILES> odd = {};

	/* rows beyond the last read the last one and are not written */
	for (uint32_t i = 0; i < 4; i++)
	{
		uint32_t row = min(row0 + i * 4 * WARPS + threadIdx.x / 8, a.n_rows - 1);

		rows[i] = a.w + (size_t) (a.cols != NULL ? a.cols[row] : row) * a.n_cols;
	}
	for (uint32_t p = 0; p + 1 < a.n_stages && p < n_pieces; p++)
		load_w(a, ring + p * stage, rows, p * DEPTH);
	cuda_begin();
	for (uint32_t p = 0; p + 1 < a.n_stages; p++)
	{
		if (p < n_pieces)
			load_x(a, ring + p * stage + piece_w, p * DEPTH);
		asm volatile("cp.async.commit_group;");
	}
	/* a step reads one piece to registers and multiplies the one before; at first that is zeros */
	uint32_t at = 0;
	uint32_t to = a.n_stages - 1;
	auto step = [&](uint32_t p, operands<TILES> &read, const operands<TILES> &before)
	{
		const uint32_t next = p + a.n_stages - 1;

		wait_piece(a.n_stages);
		wait_block<WARPS>(); /* piece p is there for all; piece p − 1 has been read by all */
		read_operands<TILES>(read, ring + at * stage, ring + at * stage + piece_w);
		if (next < n_pieces)
		{
			load_w(a, ring + to * stage, rows, next * DEPTH);
			load_x(a, ring + to * stage + piece_w, next * DEPTH);
		}
		asm volatile("cp.async.commit_group;");
		at = at + 1 < a.n_stages ? at + 1 : 0;
		to = to + 1 < a.n_stages ? to + 1 : 0;
		multiply<TILES>(c, before);
	};

	for (uint32_t p = 0; p < n_pieces; p += 2)
	{
		step(p, even, odd);
		if (p + 1 < n_pieces)
			step(p + 1, odd, even);
	}
	if (n_pieces % 2 == 1)
		multiply<TILES>(c, even);
	else
		multiply<TILES>(c, odd);
	write_sums<T, TILES>(a, c, row0 + threadIdx.x / 32 * ROWS);
}

/* Whether the shape fits: 16-byte pieces. */
bool
cuda_skinny_takes(const pp_matrix *w)
{
	return w->n_cols % 8 == 0 && w->n_cols > 0;
}

/* Depth of the ring: as deep as the blocks that share a multiprocessor leave room for. */
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

/* Launches for up to TILES · 8 tokens. */
template <typename T, uint32_t TILES, uint32_t WARPS>
static cudaError_t
launch(pp_cuda *cu, skinny_args *a)
{
	const uint32_t n_blocks = (a->n_rows + ROWS * WARPS - 1) / (ROWS * WARPS);
	const size_t bytes_stage = (WARPS * ROWS + TILES * 8) * DEPTH * sizeof(bf16);
	auto kernel = skinny_kernel<T, TILES, WARPS>;
	size_t bytes;

	a->n_stages = stages_of(cu, n_blocks, bytes_stage);
	bytes = a->n_stages * bytes_stage;
	if (bytes > 48 * 1024)
		cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes);
	return cuda_launch(cu, kernel, n_blocks, 32 * WARPS, bytes, *a);
}

/* Picks the warps of a block: blocks for all multiprocessors first, then fewer readings of x. */
template <typename T, uint32_t TILES>
static cudaError_t
launch_warps(pp_cuda *cu, skinny_args *a)
{
	const uint32_t n_groups = (a->n_rows + ROWS - 1) / ROWS;
	const uint32_t least = (uint32_t) cu->n_sms * (TILES >= 4 ? 1 : 6) / 2;

	if (n_groups / 4 >= least)
		return launch<T, TILES, 4>(cu, a);
	return n_groups / 2 >= least ? launch<T, TILES, 2>(cu, a) : launch<T, TILES, 1>(cu, a);
}

/* Picks the number of tiles. */
template <typename T>
static cudaError_t
dispatch(pp_cuda *cu, skinny_args *a)
{
	if (a->n_tokens <= 8)
		return launch_warps<T, 1>(cu, a);
	if (a->n_tokens <= 16)
		return launch_warps<T, 2>(cu, a);
	if (a->n_tokens <= 32)
		return launch_warps<T, 4>(cu, a);
	return launch_warps<T, 8>(cu, a);
}

/* bf16 out. */
cudaError_t
cuda_skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, const bf16 *bias16,
            uint32_t n_tokens)
{
	if (cuda_stream_takes(cu))
		return cuda_stream(cu, out, x, w, bias16, n_tokens);
	skinny_args a = {out, x, w->data, NULL, bias16, NULL, n_tokens, w->n_rows, w->n_cols, 0};

	return dispatch<bf16>(cu, &a);
}

/* Float out, rows of W by list unless NULL. */
cudaError_t
cuda_skinny_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w, const float *bias,
                  const uint32_t *cols, uint32_t n_cols, uint32_t n_tokens)
{
	if (cols == NULL && cuda_stream_takes(cu))
		return cuda_stream_float(cu, out, x, w, bias, n_tokens);
	skinny_args a = {out, x, w->data, bias, NULL, cols, n_tokens, n_cols, w->n_cols, 0};

	return dispatch<float>(cu, &a);
}
