/*
 * matmul_skinny.cu: products of few tokens, bound by the reading of the weights.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias,  T <= 64, K a multiple of 8; bf16 in, float sums
 *
 * A warp takes 16 rows of W over the whole of K (no split: the order of a sum depends on nothing)
 * and up to 64 tokens as columns of mma.m16n8k16. Its rows come through a ring of its own in shared
 * memory, STAGES pieces of 64 columns deep, filled by cp.async and read by ldmatrix: enough bytes
 * in flight to keep the memory busy with one or two warps a multiprocessor. x is small and read
 * from cache. Warps do not talk to each other, so a block is one warp and needs no barrier.
 *
 * Pieces of a row in shared memory are swizzled by the row: eight rows of a matrix that ldmatrix
 * reads lie in different banks. cols lists the rows of W to multiply (label columns); the sums are
 * the same.
 *
 * On Hopper the launch overlaps the end of the kernel before it: weights do not depend on it, so
 * the ring is filled before cudaGridDependencySynchronize.
 */
#include "cuda.cuh"

#define ROWS      16u /* of W, a warp */
#define DEPTH     64u /* columns of a piece */
#define PIECE     (ROWS * DEPTH)
#define MAX_STAGE 32u

struct skinny_args
{
	void *out;
	const bf16 *x;
	const bf16 *w;
	const float *bias;
	const uint32_t *cols;
	uint32_t n_tokens;
	uint32_t n_rows; /* of W, or of the list */
	uint32_t n_cols;
	uint32_t n_stages;
};

/* The place in shared memory of 8 columns (chunk 0 … 7) of a row of a piece. */
static __device__ uint32_t
swizzled(uint32_t row, uint32_t chunk)
{
	return row * DEPTH + (chunk ^ (row % 8)) * 8;
}

/* Starts the copy of one piece. Each lane copies four times 16 bytes. */
static __device__ void
load_piece(const skinny_args &a, bf16 *to, const bf16 *const rows[4], uint32_t k)
{
	const uint32_t lane = threadIdx.x % 32;

	for (uint32_t i = 0; i < 4; i++)
	{
		uint32_t row = i * 4 + lane / 8;
		uint32_t chunk = lane % 8;
		uint32_t at = (uint32_t) __cvta_generic_to_shared(to + swizzled(row, chunk));
		bool in = k + chunk * 8 < a.n_cols;
		uint32_t n = in ? 16 : 0; /* behind the last column: zeros */

		asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(at),
		             "l"(rows[i] + (in ? k + chunk * 8 : 0)), "r"(n));
	}
}

/* A 16 × 16 tile of W as the A operand. */
static __device__ void
load_a(uint32_t a[4], const bf16 *piece, uint32_t k16)
{
	const uint32_t lane = threadIdx.x % 32;
	uint32_t at =
	    (uint32_t) __cvta_generic_to_shared(piece + swizzled(lane % 16, k16 * 2 + lane / 16));

	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
	             : "r"(at));
}

/* The B operand of a piece: x of the tokens, zero behind the last column. */
template <uint32_t TILES>
static __device__ void
load_b(const skinny_args &a, uint32_t b[TILES][DEPTH / 16][2], uint32_t k0)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
	{
		uint32_t token = min(t * 8 + lane / 4, a.n_tokens - 1);
		const bf16 *x = a.x + (size_t) token * a.n_cols;

#pragma unroll
		for (uint32_t k = 0; k < DEPTH / 16; k++)
#pragma unroll
			for (uint32_t half = 0; half < 2; half++)
			{
				uint32_t col = k0 + k * 16 + half * 8 + lane % 4 * 2;

				b[t][k][half] = col < a.n_cols ? *(const uint32_t *) (x + col) : 0;
			}
	}
}

/* Waits until all but the n_stages − 1 youngest copies of this thread are there. */
static __device__ void
wait_piece(uint32_t n_stages)
{
	if (n_stages == 4)
		asm volatile("cp.async.wait_group 3;");
	else if (n_stages == 8)
		asm volatile("cp.async.wait_group 7;");
	else if (n_stages == 16)
		asm volatile("cp.async.wait_group 15;");
	else
		asm volatile("cp.async.wait_group 31;");
	__syncwarp();
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

/* 16 rows of W, TILES · 8 tokens. */
template <typename T, uint32_t TILES>
static __global__ void __launch_bounds__(32) skinny_kernel(skinny_args a)
{
	extern __shared__ uint4 ring_raw[];
	bf16 *ring = (bf16 *) ring_raw;
	const uint32_t lane = threadIdx.x;
	const uint32_t row0 = blockIdx.x * ROWS;
	const uint32_t n_pieces = (a.n_cols + DEPTH - 1) / DEPTH;
	const bf16 *rows[4];
	float c[TILES][4] = {};
	uint32_t b[2][TILES][DEPTH / 16][2];

	/* rows beyond the last read the last one and are not written */
	for (uint32_t i = 0; i < 4; i++)
	{
		uint32_t row = min(row0 + i * 4 + lane / 8, a.n_rows - 1);

		rows[i] = a.w + (size_t) (a.cols != NULL ? a.cols[row] : row) * a.n_cols;
	}
	for (uint32_t p = 0; p + 1 < a.n_stages; p++)
	{
		if (p < n_pieces)
			load_piece(a, ring + p * PIECE, rows, p * DEPTH);
		asm volatile("cp.async.commit_group;");
	}
#if __CUDA_ARCH__ >= 900
	cudaGridDependencySynchronize();
#endif
	load_b<TILES>(a, b[0], 0);
#pragma unroll 2
	for (uint32_t p = 0; p < n_pieces; p++)
	{
		const uint32_t next = p + a.n_stages - 1;
		const bf16 *piece = ring + p % a.n_stages * PIECE;

		__syncwarp(); /* the piece that is overwritten next has been read by all lanes */
		if (next < n_pieces)
			load_piece(a, ring + next % a.n_stages * PIECE, rows, next * DEPTH);
		asm volatile("cp.async.commit_group;");
		/* x of the next piece: its loads run while the weights are waited for */
		load_b<TILES>(a, b[(p + 1) % 2], (p + 1) * DEPTH);
		wait_piece(a.n_stages);
#pragma unroll
		for (uint32_t k = 0; k < DEPTH / 16; k++)
		{
			uint32_t tile[4];

			load_a(tile, piece, k);
#pragma unroll
			for (uint32_t t = 0; t < TILES; t++)
				mma(c[t], tile, b[p % 2][t][k][0], b[p % 2][t][k][1]);
		}
	}
#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
		for (uint32_t j = 0; j < 4; j++)
		{
			uint32_t token = t * 8 + lane % 4 * 2 + j % 2;
			uint32_t row = row0 + lane / 4 + j / 2 * 8;

			if (token < a.n_tokens && row < a.n_rows)
				put((T *) a.out, (size_t) token * a.n_rows + row,
				    c[t][j] + (a.bias != NULL ? a.bias[row] : 0.0f));
		}
}

/* Whether the shape fits: 16-byte pieces. */
bool
cuda_skinny_takes(const pp_matrix *w)
{
	return w->n_cols % 8 == 0 && w->n_cols > 0;
}

/* Depth of the ring: as deep as the warps that share a multiprocessor leave room for. */
static uint32_t
stages_of(const pp_cuda *cu, uint32_t n_blocks)
{
	uint32_t warps = (n_blocks + (uint32_t) cu->n_sms - 1) / (uint32_t) cu->n_sms;
	uint32_t budget = cu->arch == 89 ? 96u : 160u; /* KiB a multiprocessor */
	uint32_t n = MAX_STAGE;

	while (n > 4 && n * PIECE * sizeof(bf16) / 1024 * warps > budget)
		n /= 2;
	return n;
}

/* Launches for up to TILES · 8 tokens. */
template <typename T, uint32_t TILES>
static cudaError_t
launch(pp_cuda *cu, skinny_args *a)
{
	const uint32_t n_blocks = (a->n_rows + ROWS - 1) / ROWS;
	cudaLaunchConfig_t config = {};
	cudaLaunchAttribute attribute = {};

	a->n_stages = stages_of(cu, n_blocks);
	config.gridDim = n_blocks;
	config.blockDim = 32;
	config.dynamicSmemBytes = a->n_stages * PIECE * sizeof(bf16);
	config.stream = cu->stream;
	attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attribute.val.programmaticStreamSerializationAllowed = 1;
	config.attrs = &attribute;
	config.numAttrs = cu->arch >= 90 ? 1 : 0;
	if (config.dynamicSmemBytes > 48 * 1024)
		cudaFuncSetAttribute(skinny_kernel<T, TILES>, cudaFuncAttributeMaxDynamicSharedMemorySize,
		                     (int) (MAX_STAGE * PIECE * sizeof(bf16)));
	return cudaLaunchKernelEx(&config, skinny_kernel<T, TILES>, *a);
}

/* Picks the number of tiles. */
template <typename T>
static cudaError_t
dispatch(pp_cuda *cu, skinny_args *a)
{
	if (a->n_tokens <= 8)
		return launch<T, 1>(cu, a);
	if (a->n_tokens <= 16)
		return launch<T, 2>(cu, a);
	if (a->n_tokens <= 32)
		return launch<T, 4>(cu, a);
	return launch<T, 8>(cu, a);
}

/* bf16 out. */
cudaError_t
cuda_skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, const float *bias,
            uint32_t n_tokens)
{
	skinny_args a = {out, x, w->data, bias, NULL, n_tokens, w->n_rows, w->n_cols, 0};

	return dispatch<bf16>(cu, &a);
}

/* Float out, rows of W by list unless NULL. */
cudaError_t
cuda_skinny_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w, const float *bias,
                  const uint32_t *cols, uint32_t n_cols, uint32_t n_tokens)
{
	skinny_args a = {out,       x, w->data, bias, cols, n_tokens, cols != NULL ? n_cols : w->n_rows,
	                 w->n_cols, 0};

	return dispatch<float>(cu, &a);
}
