/*
 * attention_wgmma.cuh: the instructions of sm_90a that attention_hopper.cu is made of: wgmma,
 * barriers that copies complete, the bulk copy engine.
 *
 * Operands in shared memory are boxes of the copy engine with 128-byte swizzle: rows of 64 elements
 * (128 bytes), of which row r has its 16-byte chunk c at c ^ (r % 8); 8 rows are 1024 bytes, which
 * is also how they must be aligned.
 *
 * An accumulator may not be touched between wgmma and its wait; hold() says so to the compiler.
 */
#ifndef PP_ATTENTION_WGMMA_CUH
#define PP_ATTENTION_WGMMA_CUH

#include "attention_tile.cuh"
#include "bulk_copy.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* The descriptor of an operand: swizzle of 128 bytes; bytes to the next 64 columns; 8 rows. */
static __device__ __forceinline__ uint64_t
wgmma_operand(uint32_t shared, uint32_t columns)
{
	return (uint64_t) ((shared & 0x3ffff) >> 4) | (uint64_t) (columns >> 4) << 16 |
	       (uint64_t) (1024 >> 4) << 32 | (uint64_t) 1 << 62;
}

/* Registers and shared memory written before are seen by the wgmma that follow. */
static __device__ __forceinline__ void
wgmma_fence()
{
	asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* Ends a group. */
static __device__ __forceinline__ void
wgmma_commit()
{
	asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N groups are under way. */
template <int N>
static __device__ __forceinline__ void
wgmma_wait()
{
	asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Pins an accumulator: no access is moved over this. */
template <int NB>
static __device__ __forceinline__ void
hold(float (&d)[NB][4])
{
#pragma unroll
	for (int b = 0; b < NB; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			asm volatile("" : "+f"(d[b][c])::"memory");
}

/* d = a bᵀ, or added to d: 64 × 128 of 16 elements of the head; both row by row. */
static __device__ __forceinline__ void
wgmma_128_scores(float (&d)[16][4], uint64_t a, uint64_t b, int add)
{
	asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
	             "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
	             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
	             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
	             "%64, %65, p, 1, 1, 0, 0;\n}"
	             : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]),
	               "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]),
	               "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]),
	               "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
	               "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]),
	               "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
	               "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]),
	               "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]),
	               "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]),
	               "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]),
	               "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]),
	               "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]),
	               "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3])
	             : "l"(a), "l"(b), "r"(add));
}

/* d += a b: 64 × 128 columns of 16 slots, whose values lie slot by slot. */
static __device__ __forceinline__ void
wgmma_128_values(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b)
{
	asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
	             "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
	             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
	             "{%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
	             : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]),
	               "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]),
	               "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]),
	               "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
	               "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]),
	               "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
	               "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]),
	               "+f"(d[8][3]), "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]),
	               "+f"(d[10][0]), "+f"(d[10][1]), "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]),
	               "+f"(d[11][1]), "+f"(d[11][2]), "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]),
	               "+f"(d[12][2]), "+f"(d[12][3]), "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]),
	               "+f"(d[13][3]), "+f"(d[14][0]), "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]),
	               "+f"(d[15][0]), "+f"(d[15][1]), "+f"(d[15][2]), "+f"(d[15][3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* The same for 64 columns. */
static __device__ __forceinline__ void
wgmma_64_values(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b)
{
	asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
	             "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
	             "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
	             "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
	             : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]),
	               "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]),
	               "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]),
	               "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]),
	               "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]),
	               "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
	               "+f"(d[7][2]), "+f"(d[7][3])
	             : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* The product with values for either size of head. */
static __device__ __forceinline__ void
wgmma_values(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b)
{
	wgmma_128_values(d, a, b);
}
/* The same. */
static __device__ __forceinline__ void
wgmma_values(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b)
{
	wgmma_64_values(d, a, b);
}

/* What this thread wrote to shared memory is seen by wgmma and the copy engine. */
static __device__ __forceinline__ void
fence_shared()
{
	asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Barrier number id of so many threads. */
static __device__ __forceinline__ void
named_sync(int id, int threads)
{
	asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Arrives there without waiting. */
static __device__ __forceinline__ void
named_arrive(int id, int threads)
{
	asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#endif /* __CUDA_ARCH_FEAT_SM90_ALL */

#endif /* PP_ATTENTION_WGMMA_CUH */
