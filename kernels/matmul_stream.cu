/*
 * matmul_stream.cu: products of few tokens on Hopper and later, by the bulk copy engine.
 *
 *	out[T, N] = x[T, K] W[N, K]ᵀ + bias,  T <= 64, K a multiple of 8; bf16 in, float sums
 *
 * The same sums in the same order as matmul_skinny.cu, to the bit: a warp takes 16 rows of W over
 * the whole of K, in steps of mma.m16n8k16. There every lane copies its share of a piece, and the
 * instructions that this takes are what a warp waits for; here a warp of its own asks the bulk copy
 * engine for whole pieces (128 columns of all rows of the block, and of x, swizzled by 128 bytes)
 * and the others only read operands and multiply. A stage of the ring is full when its bytes have
 * come, empty when every warp has read it.
 *
 * Operands go to registers half a piece ahead of the products. W does not depend on the kernel
 * before, so the first pieces of it are asked for while that one still runs.
 */
#include <cuda.h>
#include <cudaTypedefs.h>

#include "cuda.cuh"

#define ROWS      16u /* of W, a warp */
#define HALF      64u /* columns of half a piece: 128 bytes, one swizzle */
#define MAX_STAGE 24u
#define ALIGN     1024u /* of swizzled shared memory */

struct stream_args
{
	void *out;
	const float *bias;
	const bf16 *bias16;
	uint32_t n_tokens;
	uint32_t n_rows;
	uint32_t n_cols;
	uint32_t n_stages;
};

#if __CUDA_ARCH__ >= 900

/* Shared memory as the instructions name it. */
static __device__ uint32_t
shared_at(const void *p)
{
	return (uint32_t) __cvta_generic_to_shared(p);
}

/* Prepares a barrier for n arrivals. */
static __device__ void
barrier_init(uint64_t *b, uint32_t n)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(n));
}

/* Arrives, and announces the bytes that the copy engine will bring. */
static __device__ void
barrier_expect(uint64_t *b, uint32_t bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(b)),
	             "r"(bytes)
	             : "memory");
}

/* Arrives. */
static __device__ void
barrier_arrive(uint64_t *b)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(b)) : "memory");
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
	             "}" ::"r"(shared_at(b)),
	             "r"(parity)
	             : "memory");
}

/* Asks for a box of a matrix; columns and rows behind its end come as zeros. */
static __device__ void
copy_box(bf16 *to, const CUtensorMap *map, uint32_t col, uint32_t row, uint64_t *full)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
	             "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_at(to)),
	             "l"(map), "r"(col), "r"(row), "r"(shared_at(full))
	             : "memory");
}

/* The place in half a piece of 8 columns (chunk 0 … 7) of a row. */
static __device__ uint32_t
swizzled(uint32_t row, uint32_t chunk)
{
	return row * HALF + (chunk ^ (row % 8)) * 8;
}

/* Four 8 × 8 matrices from shared memory. */
static __device__ void
load_matrices(uint32_t r[4], const bf16 *at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(shared_at(at)));
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

/* The operands of half a piece in registers. */
template <uint32_t TILES> struct operands
{
	uint32_t a[HALF / 16][4];
	uint32_t b[TILES][HALF / 32][4];
};

/* Reads the operands of a warp. */
template <uint32_t TILES>
static __device__ void
read_operands(operands<TILES> &o, const bf16 *w, const bf16 *x, uint32_t warp)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (uint32_t k = 0; k < HALF / 16; k++)
		load_matrices(o.a[k], w + swizzled(warp * ROWS + lane % 16, k * 2 + lane / 16));
#pragma unroll
	for (uint32_t t = 0; t < TILES; t++)
#pragma unroll
		for (uint32_t k = 0; k < HALF / 32; k++)
			load_matrices(o.b[t][k], x + swizzled(t * 8 + lane % 8, k * 4 + lane / 8));
}

/* All products of half a piece. */
template <uint32_t TILES>
static __device__ void
multiply(float c[TILES][4], const operands<TILES> &o)
{
#pragma unroll
	for (uint32_t k = 0; k < HALF / 16; k++)
#pragma unroll
		for (uint32_t t = 0; t < TILES; t++)
			mma(c[t], o.a[k], o.b[t][k / 2][k % 2 * 2], o.b[t][k / 2][k % 2 * 2 + 1]);
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

/* The bias of a row, in either type. */
static __device__ float
bias_at(const stream_args &a, uint32_t row)
{
	if (a.bias16 != NULL)
		return __bfloat162float(a.bias16[row]);
	return a.bias != NULL ? a.bias[row] : 0.0f;
}

/* Writes the sums of a warp. */
template <typename T, uint32_t TILES>
static __device__ void
write_sums(const stream_args &a, const float c[TILES][4], uint32_t row0)
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

#endif /* __CUDA_ARCH__ >= 900 */

/* The places of a stage and its two barriers. */
template <uint32_t TILES, uint32_t WARPS> struct ring
{
	static constexpr uint32_t half_w = WARPS * ROWS * HALF;
	static constexpr uint32_t half_x = TILES * 8 * HALF;
	static constexpr uint32_t stage = 2 * (half_w + half_x);
	static constexpr uint32_t bytes = stage * sizeof(bf16);

	bf16 *data;
	uint64_t *full;
	uint64_t *empty;
};

#if __CUDA_ARCH__ >= 900

/* The warp that copies: one lane of it. */
template <uint32_t TILES, uint32_t WARPS>
static __device__ void
produce(const stream_args &a, const ring<TILES, WARPS> &r, const CUtensorMap *w_map,
        const CUtensorMap *x_map)
{
	typedef ring<TILES, WARPS> R;
	const uint32_t row0 = blockIdx.x * ROWS * WARPS;
	const uint32_t n_pieces = (a.n_cols + 2 * HALF - 1) / (2 * HALF);
	const uint32_t n_first = min(a.n_stages, n_pieces);

	for (uint32_t p = 0; p < n_first; p++)
	{
		bf16 *to = r.data + p * R::stage;

		barrier_expect(&r.full[p], R::bytes);
		copy_box(to, w_map, p * 2 * HALF, row0, &r.full[p]);
		copy_box(to + R::half_w, w_map, p * 2 * HALF + HALF, row0, &r.full[p]);
	}
	cuda_wait_before();
	for (uint32_t p = 0; p < n_pieces; p++)
	{
		uint32_t at = p % a.n_stages;
		bf16 *to = r.data + at * R::stage;

		if (p >= n_first)
		{
			barrier_wait(&r.empty[at], (p / a.n_stages + 1) % 2);
			barrier_expect(&r.full[at], R::bytes);
			copy_box(to, w_map, p * 2 * HALF, row0, &r.full[at]);
			copy_box(to + R::half_w, w_map, p * 2 * HALF + HALF, row0, &r.full[at]);
		}
		copy_box(to + 2 * R::half_w, x_map, p * 2 * HALF, 0, &r.full[at]);
		copy_box(to + 2 * R::half_w + R::half_x, x_map, p * 2 * HALF + HALF, 0, &r.full[at]);
	}
}

/* A warp that multiplies its 16 rows. */
template <typename T, uint32_t TILES, uint32_t WARPS>
static __device__ void
consume(const stream_args &a, const ring<TILES, WARPS> &r, uint32_t warp)
{
	typedef ring<TILES, WARPS> R;
	const uint32_t n_pieces = (a.n_cols + 2 * HALF - 1) / (2 * HALF);
	float c[TILES][4] = {};
	operands<TILES> even;
	operands<TILES> odd = {}; /* the half before the first: zeros */
	uint32_t at = 0;
	uint32_t parity = 0;

	for (uint32_t p = 0; p < n_pieces; p++)
	{
		const bf16 *from = r.data + at * R::stage;

		barrier_wait(&r.full[at], parity);
		read_operands<TILES>(even, from, from + 2 * R::half_w, warp);
		multiply<TILES>(c, odd);
		read_operands<TILES>(odd, from + R::half_w, from + 2 * R::half_w + R::half_x, warp);
		__syncwarp();
		if (threadIdx.x % 32 == 0)
			barrier_arrive(&r.empty[at]);
		multiply<TILES>(c, even);
		at = at + 1 < a.n_stages ? at + 1 : 0;
		parity ^= at == 0;
	}
	multiply<TILES>(c, odd);
	cuda_wait_before(); /* out may be what the kernel before still reads */
	write_sums<T, TILES>(a, c, (blockIdx.x * WARPS + warp) * ROWS);
}

#endif /* __CUDA_ARCH__ >= 900 */

/* WARPS · 16 rows of W, TILES · 8 tokens. */
template <typename T, uint32_t TILES, uint32_t WARPS>
static __global__ void __launch_bounds__(32 * (WARPS + 1))
    stream_kernel(const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap x_map, const stream_args a)
{
#if __CUDA_ARCH__ >= 900
	extern __shared__ uint8_t raw[];
	__shared__ uint64_t full[MAX_STAGE];
	__shared__ uint64_t empty[MAX_STAGE];
	const uint32_t warp = threadIdx.x / 32;
	ring<TILES, WARPS> r;

	r.data = (bf16 *) (raw + (ALIGN - shared_at(raw) % ALIGN) % ALIGN);
	r.full = full;
	r.empty = empty;
	if (threadIdx.x == 0)
	{
		for (uint32_t i = 0; i < a.n_stages; i++)
		{
			barrier_init(&full[i], 1);
			barrier_init(&empty[i], WARPS);
		}
		asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
	}
	__syncthreads();
	cuda_let_next();
	if (warp < WARPS)
		consume<T, TILES, WARPS>(a, r, warp);
	else if (threadIdx.x % 32 == 0)
		produce<TILES, WARPS>(a, r, &w_map, &x_map);
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
	const cuuint32_t box[2] = {HALF, box_rows};
	const cuuint32_t steps[2] = {1, 1};

	return encoder() != NULL &&
	       encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *) data, dims, strides, box,
	                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
	                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
	                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Launches for up to TILES · 8 tokens. */
template <typename T, uint32_t TILES, uint32_t WARPS>
static cudaError_t
launch(pp_cuda *cu, stream_args *a, const bf16 *x, const bf16 *w)
{
	typedef ring<TILES, WARPS> R;
	const uint32_t n_blocks = (a->n_rows + ROWS * WARPS - 1) / (ROWS * WARPS);
	const uint32_t n_share = (n_blocks + (uint32_t) cu->n_sms - 1) / (uint32_t) cu->n_sms;
	const uint32_t budget = 216u << 10; /* bytes of shared memory that a multiprocessor gives */
	auto kernel = stream_kernel<T, TILES, WARPS>;
	CUtensorMap w_map;
	CUtensorMap x_map;
	size_t bytes;

	a->n_stages = 2;
	while (a->n_stages < MAX_STAGE && (a->n_stages + 1) * R::bytes + ALIGN <= 200u << 10 &&
	       ((a->n_stages + 1) * R::bytes + 2 * ALIGN) * n_share <= budget)
		a->n_stages++;
	bytes = (size_t) a->n_stages * R::bytes + ALIGN;
	if (!describe(&w_map, w, a->n_rows, a->n_cols, WARPS * ROWS) ||
	    !describe(&x_map, x, a->n_tokens, a->n_cols, TILES * 8))
		return cudaErrorNotSupported;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) bytes);
	return cuda_launch(cu, kernel, n_blocks, 32 * (WARPS + 1), bytes, w_map, x_map, *a);
}

/* Picks the warps of a block: blocks for all multiprocessors first, then fewer readings of x. */
template <typename T, uint32_t TILES>
static cudaError_t
launch_warps(pp_cuda *cu, stream_args *a, const bf16 *x, const bf16 *w)
{
	const uint32_t n_groups = (a->n_rows + ROWS - 1) / ROWS;
	const uint32_t n_sms = (uint32_t) cu->n_sms;

	if (n_groups >= n_sms * (TILES >= 4 ? 2 : 12))
		return launch<T, TILES, 4>(cu, a, x, w);
	return n_groups >= n_sms * (TILES >= 4 ? 1 : 6) ? launch<T, TILES, 2>(cu, a, x, w)
	                                                : launch<T, TILES, 1>(cu, a, x, w);
}

/* Picks the number of tiles. */
template <typename T>
static cudaError_t
dispatch(pp_cuda *cu, stream_args *a, const bf16 *x, const bf16 *w)
{
	if (a->n_tokens <= 8)
		return launch_warps<T, 1>(cu, a, x, w);
	if (a->n_tokens <= 16)
		return launch_warps<T, 2>(cu, a, x, w);
	if (a->n_tokens <= 32)
		return launch_warps<T, 4>(cu, a, x, w);
	return launch_warps<T, 8>(cu, a, x, w);
}

/* bf16 out. */
cudaError_t
cuda_stream(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w, const bf16 *bias16,
            uint32_t n_tokens)
{
	stream_args a = {out, NULL, bias16, n_tokens, w->n_rows, w->n_cols, 0};

	return dispatch<bf16>(cu, &a, x, w->data);
}

/* Float out. */
cudaError_t
cuda_stream_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w, const float *bias,
                  uint32_t n_tokens)
{
	stream_args a = {out, bias, NULL, n_tokens, w->n_rows, w->n_cols, 0};

	return dispatch<float>(cu, &a, x, w->data);
}

/* Whether this card and driver have what it takes. */
bool
cuda_stream_takes(const pp_cuda *cu)
{
	return cu->arch >= 90 && encoder() != NULL;
}
