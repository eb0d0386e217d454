/*
 * matmul_stream.cu: products of few tokens on Hopper and later, by the bulk copy engine.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias,  T <= 64, K a multiple of 8; bf16 in, float sums
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
 * Operands go to registers half a piece ahead of the products. W does not depend on the kernel
 * before, so the first pieces of it are asked for while that one still runs.
 */
#include <cuda.h>
#include <cudaTypedefs.h>

#include "matmul_few.cuh"

#define MAX_WARPS 7u /* that multiply; with the copying one two for each scheduler */
#define MAX_STAGE 48u
#define RING      (200u << 10) /* bytes of shared memory */
#define ALIGN     1024u        /* of swizzled shared memory */

struct stream_args : few_args
{
	uint32_t n_warps; /* that multiply */
	uint32_t n_turns; /* of all blocks */
	uint32_t n_stages;
};

#if __CUDA_ARCH__ >= 900

/* Prepares a barrier for n arrivals. */
static __device__ void
barrier_init(uint64_t *b, uint32_t n)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(attn_shared(b)), "r"(n));
}

/* Arrives, and announces the bytes that the copy engine will bring. */
static __device__ void
barrier_expect(uint64_t *b, uint32_t bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(attn_shared(b)),
	             "r"(bytes)
	             : "memory");
}

/* Arrives. */
static __device__ void
barrier_arrive(uint64_t *b)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(attn_shared(b)) : "memory");
}

/* Waits for the phase of this parity to end. */
static __device__ void
barrier_wait(uint64_t *b, uint32_t parity)
{
	asm volatile("{\n"
	             ".reg .pred done;\n"
	             "again:\n"
	             "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
	             "@!done bra again;\n"
	             "}" ::"r"(attn_shared(b)),
	             "r"(parity)
	             : "memory");
}

/* Asks for a box of a matrix; columns and rows behind its end come as zeros. */
static __device__ void
copy_box(bf16 *to, const CUtensorMap *map, uint32_t col, uint32_t row, uint64_t *full)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
	             "[%0], [%1, {%2, %3}], [%4];" ::"r"(attn_shared(to)),
	             "l"(map), "r"(col), "r"(row), "r"(attn_shared(full))
	             : "memory");
}

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

/* The place in the ring; parity: of the turn around it. */
struct ring_at
{
	uint32_t i;
	uint32_t parity;
};

/* To the next stage. */
static __device__ void
ring_next(const stream_args &a, ring_at *at)
{
	if (++at->i == a.n_stages)
		*at = ring_at{0, at->parity ^ 1};
}

/* Asks for piece p of the rows of a turn. */
static __device__ void
fetch_w(const ring &r, const CUtensorMap *map, uint32_t stage, uint32_t row0, uint32_t p)
{
	bf16 *to = r.data + stage * r.stage;

	barrier_expect(&r.full[stage], r.stage * (uint32_t) sizeof(bf16));
	copy_box(to, map, p * 2 * FEW_COLS, row0, &r.full[stage]);
	copy_box(to + r.half_w, map, p * 2 * FEW_COLS + FEW_COLS, row0, &r.full[stage]);
}

/* The warp that copies: one lane of it. W of the first stages comes before x may be read. */
static __device__ void
produce(const stream_args &a, const ring &r, const CUtensorMap *w_map, const CUtensorMap *x_map)
{
	const uint32_t n_pieces = (a.n_cols + 2 * FEW_COLS - 1) / (2 * FEW_COLS);
	const uint32_t n_first = min(a.n_stages, n_pieces);
	ring_at at = {0, 1}; /* nobody has to empty the ring for the first time */

	for (uint32_t p = 0; p < n_first; p++)
		fetch_w(r, w_map, p, blockIdx.x * a.n_warps * FEW_ROWS, p);
	cuda_wait_before();
	for (uint32_t turn = blockIdx.x; turn < a.n_turns; turn += gridDim.x)
		for (uint32_t p = 0; p < n_pieces; p++)
		{
			bf16 *to = r.data + at.i * r.stage + 2 * r.half_w;

			if (turn != blockIdx.x || p >= n_first)
			{
				barrier_wait(&r.empty[at.i], at.parity);
				fetch_w(r, w_map, at.i, turn * a.n_warps * FEW_ROWS, p);
			}
			copy_box(to, x_map, p * 2 * FEW_COLS, 0, &r.full[at.i]);
			copy_box(to + r.half_x, x_map, p * 2 * FEW_COLS + FEW_COLS, 0, &r.full[at.i]);
			ring_next(a, &at);
		}
}

/* A warp that multiplies 16 rows in each turn. */
template <uint32_t TILES>
static __device__ void
consume(const stream_args &a, const ring &r, uint32_t warp)
{
	const uint32_t n_pieces = (a.n_cols + 2 * FEW_COLS - 1) / (2 * FEW_COLS);
	ring_at at = {0, 0};

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
			few_read<TILES>(even, w, x, warp);
			few_multiply<TILES>(c, odd);
			few_read<TILES>(odd, w + r.half_w, x + r.half_x, warp);
			__syncwarp();
			if (threadIdx.x % 32 == 0)
				barrier_arrive(&r.empty[at.i]);
			few_multiply<TILES>(c, even);
			ring_next(a, &at);
		}
		few_multiply<TILES>(c, odd);
		if (turn == blockIdx.x)
			cuda_wait_before(); /* out may be what the kernel before still reads */
		few_write_sums<TILES>(a, c, (turn * a.n_warps + warp) * FEW_ROWS);
	}
}

#endif /* __CUDA_ARCH__ >= 900 */

/* Up to TILES · 8 tokens; one warp more than those that multiply. */
template <uint32_t TILES>
static __global__ void __launch_bounds__(32 * (MAX_WARPS + 1), 1)
    stream_kernel(const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap x_map, const stream_args a)
{
#if __CUDA_ARCH__ >= 900
	extern __shared__ uint8_t raw[];
	__shared__ uint64_t full[MAX_STAGE];
	__shared__ uint64_t empty[MAX_STAGE];
	const uint32_t warp = threadIdx.x / 32;
	ring r;

	r.data = (bf16 *) (raw + (ALIGN - attn_shared(raw) % ALIGN) % ALIGN);
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
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	cuda_let_next();
	if (warp < a.n_warps)
		consume<TILES>(a, r, warp);
	else if (threadIdx.x % 32 == 0)
		produce(a, r, &w_map, &x_map);
#endif
}

/* The driver's encoder of tensor maps; NULL when it has none. */
static PFN_cuTensorMapEncodeTiled_v12000
encoder()
{
	static PFN_cuTensorMapEncodeTiled_v12000 encode = []
	{
		void *at = NULL;
		cudaDriverEntryPointQueryResult status;

		if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at, 12000,
		                                     cudaEnableDefault, &status) != cudaSuccess ||
		    status != cudaDriverEntryPointSuccess)
			at = NULL;
		return (PFN_cuTensorMapEncodeTiled_v12000) at;
	}();

	return encode;
}

/* Describes a matrix [n_rows, n_cols] in boxes of box_rows × 64. */
static bool
describe(CUtensorMap *map, const bf16 *data, uint32_t n_rows, uint32_t n_cols, uint32_t box_rows)
{
	const cuuint64_t dims[2] = {n_cols, n_rows};
	const cuuint64_t strides[1] = {(cuuint64_t) n_cols * sizeof(bf16)};
	const cuuint32_t box[2] = {FEW_COLS, box_rows};
	const cuuint32_t steps[2] = {1, 1};

	return encoder() != NULL &&
	       encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *) data, dims, strides, box,
	                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
	                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
	                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* How many warps of a block give its multiprocessor the fewest rows; more warps where that ties. */
static uint32_t
warps_of(const stream_args *a, uint32_t n_sms)
{
	const uint32_t n_groups = (a->n_rows + FEW_ROWS - 1) / FEW_ROWS;
	uint32_t best = 1;
	uint32_t least = UINT32_MAX;

	for (uint32_t n = 1; n <= MAX_WARPS; n++)
	{
		uint32_t n_turns = (n_groups + n - 1) / n;
		uint32_t rows = (n_turns + n_sms - 1) / n_sms * n;

		if (rows <= least)
		{
			least = rows;
			best = n;
		}
	}
	return best;
}

/* Launches for up to TILES · 8 tokens. */
template <uint32_t TILES>
static cudaError_t
launch(pp_cuda *cu, stream_args *a, const bf16 *x, const bf16 *w)
{
	auto kernel = stream_kernel<TILES>;
	const uint32_t n_sms = (uint32_t) cu->n_sms;
	CUtensorMap w_map;
	CUtensorMap x_map;
	uint32_t stage;

	a->n_warps = warps_of(a, n_sms);
	a->n_turns = (a->n_rows + a->n_warps * FEW_ROWS - 1) / (a->n_warps * FEW_ROWS);
	stage = 2 * (a->n_warps * FEW_ROWS + TILES * 8) * FEW_COLS * (uint32_t) sizeof(bf16);
	a->n_stages = min(MAX_STAGE, (RING - ALIGN) / stage);
	if (!describe(&w_map, w, a->n_rows, a->n_cols, a->n_warps * FEW_ROWS) ||
	    !describe(&x_map, x, a->n_tokens, a->n_cols, TILES * 8))
		return cudaErrorNotSupported;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) RING);
	return cuda_launch(cu, kernel, min(a->n_turns, n_sms), 32 * (a->n_warps + 1), RING, w_map,
	                   x_map, *a);
}

/* See cuda.cuh. */
cudaError_t
cuda_stream(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w)
{
	return few_dispatch(few->n_tokens,
	                    [=](auto tiles)
	                    {
		                    stream_args a = {*few, 0, 0, 0};

		                    return launch<decltype(tiles)::value>(cu, &a, x, w->data);
	                    });
}

/* Whether this card and driver have what it takes. */
bool
cuda_stream_takes(const pp_cuda *cu)
{
	return cu->arch >= 90 && encoder() != NULL;
}
