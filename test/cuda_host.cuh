/*
 * cuda_host.cuh: just enough of CUDA to run the attention kernels, and the products of few tokens,
 * on a machine without a card: the words of the language, and the instructions of
 * attention_asm.cuh and bulk_copy.cuh as the PTX manual defines them.
 *
 * A kernel's source is compiled by the host's compiler with this file included first. The threads
 * of a block are coroutines that change at barriers and at what a warp does together, warps in
 * random order; blocks run one after the other. Whatever cp.async brings stays poisoned until the
 * copy is waited for, and what the bulk copy engine brings until it has brought it, which takes a
 * while. So this finds errors of logic, missing barriers and missing waits; it says nothing of what
 * nvcc makes of the source, of the memory of a real card, or of speed.
 */
#ifndef CUDA_HOST_CUH
#define CUDA_HOST_CUH

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#undef __device__
#undef __forceinline__
#undef __global__
#undef __grid_constant__
#undef __host__
#undef __launch_bounds__
#undef __shared__
#define __device__
#define __forceinline__ inline
#define __global__
#define __grid_constant__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static

/* Of the running thread. */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

/* The dynamic shared memory of the running block. */
void *host_shared();
/* Waits for all threads of the block, of the warp. */
void __syncthreads();
void __syncwarp();
/* What each lane of the running warp has put out for the others. */
struct host_word
{
	uint32_t w[6];
};
host_word *host_warp();
/* Runs a kernel's blocks. */
void host_run(dim3 grid, int threads, int bytes, void (*kernel)(const void *), const void *args);
/* cp.async and its groups. */
void host_copy(void *to, const void *from, size_t n, bool valid);
void host_commit();
void host_wait(int n);

/* The word of another lane. */
template <typename T>
static inline T
host_exchange(T value, uint32_t lane)
{
	host_word *all = host_warp();

	memcpy(all[threadIdx.x % 32].w, &value, sizeof(value));
	__syncwarp();
	memcpy(&value, all[lane % 32].w, sizeof(value));
	__syncwarp();
	return value;
}

/* The shuffles, votes and functions of the language that the kernels use. */
template <typename T>
static inline T
__shfl_sync(uint32_t, T value, int lane)
{
	return host_exchange(value, (uint32_t) lane);
}
/* The word of the lane whose number differs in the bits of mask. */
template <typename T>
static inline T
__shfl_xor_sync(uint32_t, T value, int mask)
{
	return host_exchange(value, threadIdx.x ^ (uint32_t) mask);
}
/* The word of a lane before. */
template <typename T>
static inline T
__shfl_up_sync(uint32_t, T value, int by)
{
	uint32_t lane = threadIdx.x % 32;

	return host_exchange(value, lane < (uint32_t) by ? lane : lane - (uint32_t) by);
}
/* A bit for every lane. */
static inline uint32_t
__ballot_sync(uint32_t, bool vote)
{
	uint32_t votes = 0;

	for (uint32_t lane = 0; lane < 32; lane++)
		votes |= host_exchange((uint32_t) vote, lane) << lane;
	return votes;
}
/* Whether all lanes vote for it. */
static inline bool
__all_sync(uint32_t mask, bool vote)
{
	return __ballot_sync(mask, vote) == mask;
}
/* The number of the lowest bit, from 1 on. */
static inline int
__ffs(int x)
{
	return __builtin_ffs(x);
}
/* A product that no addition is fused with. */
static inline float
__fmul_rn(float x, float y)
{
	return x * y;
}
/* Four of the eight bytes of x and y: those that the nibbles of by name. */
static inline uint32_t
__byte_perm(uint32_t x, uint32_t y, uint32_t by)
{
	const uint64_t bytes = (uint64_t) y << 32 | x;
	uint32_t out = 0;

	for (uint32_t i = 0; i < 4; i++)
		out |= (uint32_t) (bytes >> (by >> 4 * i & 7) * 8 & 0xff) << 8 * i;
	return out;
}
/* A float by its bits. */
static inline float
__uint_as_float(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}
/* The bits of a float. */
static inline uint32_t
__float_as_uint(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return bits;
}
/* Adds, and gives what was there: one thread runs at a time. */
static inline uint32_t
atomicAdd(uint32_t *at, uint32_t n)
{
	uint32_t before = *at;

	*at += n;
	return before;
}
/* The smaller one. */
static inline uint32_t
min(uint32_t x, uint32_t y)
{
	return x < y ? x : y;
}
/* A quotient. */
static inline float
__fdividef(float x, float y)
{
	return x / y;
}

/* e^x: the C library has a function of its own under the name. */
#define __expf expf

/* What the launchers ask of the runtime with a kernel for an argument. */
template <typename T>
static inline cudaError_t
cudaFuncSetAttribute(T *, cudaFuncAttribute, int)
{
	return cudaSuccess;
}
/* Two blocks are enough to tell them apart. */
template <typename T>
static inline cudaError_t
cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, T *, int, size_t)
{
	*n = 2;
	return cudaSuccess;
}

/* --- what attention_asm.cuh has for a card ------------------------------------------------- */

#define PP_ATTENTION_ASM_CUH

#define PP_CUDA_LAUNCH

#include "cuda.cuh"

/* Runs a kernel with its arguments, converted to its parameters. */
template <typename... Params, typename... Args>
static inline cudaError_t
cuda_launch(const pp_cuda *, void (*kernel)(Params...), dim3 grid, uint32_t threads, size_t bytes,
            Args... args)
{
	auto call = [=] { kernel(static_cast<Params>(args)...); };

	host_run(
	    grid, (int) threads, (int) bytes, [](const void *c) { (*(decltype(call) *) c)(); }, &call);
	return cudaSuccess;
}

#define ATTN_SHARED(name) bf16 *name = (bf16 *) host_shared()

/* Runs a kernel with its arguments. */
template <typename... Params, typename... Args>
static inline cudaError_t
attn_launch(const pp_cuda *, void (*kernel)(Params...), dim3 grid, int threads, int bytes,
            Args... args)
{
	auto call = [=] { kernel(args...); };

	host_run(
	    grid, threads, bytes, [](const void *c) { (*(decltype(call) *) c)(); }, &call);
	return cudaSuccess;
}

/* The same: nothing runs before its time. */
template <typename... Params, typename... Args>
static inline cudaError_t
attn_launch_early(const pp_cuda *cu, void (*kernel)(Params...), dim3 grid, int threads, int bytes,
                  Args... args)
{
	return attn_launch(cu, kernel, grid, threads, bytes, args...);
}

/* 2^x. */
static inline float
attn_exp2(float x)
{
	return exp2f(x);
}

extern char host_anchor[];

/* An address of 32 bits: the distance from something static, as all shared memory here is. */
static inline uint32_t
attn_shared(const void *p)
{
	return (uint32_t) ((const char *) p - host_anchor);
}
/* The way back. */
static inline void *
host_address(uint32_t shared)
{
	return host_anchor + (int32_t) shared;
}

/* cp.async of 16 bytes, or zeros. */
static inline void
attn_copy16(uint32_t to, const void *from, bool valid)
{
	host_copy(host_address(to), from, 16, valid);
}
/* cp.async of 8 bytes. */
static inline void
attn_copy8(uint32_t to, const void *from)
{
	host_copy(host_address(to), from, 8, true);
}
/* Ends a group of copies. */
static inline void
attn_commit()
{
	host_commit();
}
/* Waits until at most N groups are under way. */
template <int N>
static inline void
attn_wait()
{
	host_wait(N);
}

/* Row i of matrix m begins at the address of lane 8 m + i; transposed: its column. */
static inline void
host_ldmatrix(uint32_t (&r)[4], uint32_t at, bool transposed)
{
	const uint32_t lane = threadIdx.x % 32;
	host_word *all = host_warp();

	all[lane].w[0] = at;
	__syncwarp();
	for (uint32_t m = 0; m < 4; m++)
	{
		r[m] = 0;
		for (uint32_t j = 0; j < 2; j++)
		{
			uint32_t row = transposed ? lane % 4 * 2 + j : lane / 4;
			uint32_t column = transposed ? lane / 4 : lane % 4 * 2 + j;
			const uint16_t *from = (const uint16_t *) host_address(all[m * 8 + row].w[0]);

			r[m] |= (uint32_t) from[column] << (16 * j);
		}
	}
	__syncwarp();
}
/* Four matrices. */
static inline void
attn_ldmatrix(uint32_t (&r)[4], uint32_t at)
{
	host_ldmatrix(r, at, false);
}
/* Four matrices, transposed. */
static inline void
attn_ldmatrix_t(uint32_t (&r)[4], uint32_t at)
{
	host_ldmatrix(r, at, true);
}

/* Element i of a pair of bf16. */
static inline double
host_half(uint32_t pair, uint32_t i)
{
	uint32_t bits = pair >> (16 * i) << 16;
	float x;

	memcpy(&x, &bits, sizeof(x));
	return (double) x;
}

/* d += a b for m16n8k16: who has what is in the manual's figures of its fragments. */
static inline void
attn_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	const uint32_t lane = threadIdx.x % 32;
	host_word *all = host_warp();

	all[lane] = host_word{{a[0], a[1], a[2], a[3], b0, b1}};
	__syncwarp();
	for (uint32_t c = 0; c < 4; c++)
	{
		const uint32_t row = lane / 4 + c / 2 * 8;
		const uint32_t column = lane % 4 * 2 + c % 2;
		double sum = (double) d[c];

		for (uint32_t k = 0; k < 16; k++)
		{
			uint32_t x = all[row % 8 * 4 + k % 8 / 2].w[row / 8 + k / 8 * 2];
			uint32_t y = all[column * 4 + k % 8 / 2].w[4 + k / 8];

			sum += host_half(x, k % 2) * host_half(y, k % 2);
		}
		d[c] = (float) sum;
	}
	__syncwarp();
}

/* --- what bulk_copy.cuh has for a card ------------------------------------------------------- */

#define PP_BULK_COPY_CUH
#define PP_BULK_COPY 1
#define BULK_ALIGN   1024u

/* See bulk_copy.cuh. */
void barrier_init(uint64_t *b, uint32_t n);
void barrier_arrive(uint64_t *b);
void barrier_expect(uint64_t *b, uint32_t bytes);
void barrier_wait(uint64_t *b, uint32_t parity);
void bulk_box(void *to, const CUtensorMap *map, uint32_t col, uint32_t row, uint64_t *full);
void bulk_bytes(void *to, const void *from, uint32_t bytes, uint64_t *full);
bool bulk_describe(CUtensorMap *map, const bf16 *data, uint32_t n_rows, uint32_t n_cols,
                   uint32_t box_rows);
/* No engine takes boxes of four dimensions here: attention_hopper.cu runs on cards only. */
static inline bool
bulk_encode(CUtensorMap *, const bf16 *, uint32_t, const cuuint64_t *, const cuuint64_t *,
            const cuuint32_t *)
{
	return false;
}
/* What is written is seen. */
static inline void
barrier_publish()
{
}
/* As the tests say. */
static inline bool
bulk_takes(const pp_cuda *cu)
{
	return cu->arch >= 90;
}

#endif /* CUDA_HOST_CUH */
