/*
 * attention_asm.cuh: the instructions that the attention kernels are made of on every card from
 * sm_80, and how they are launched: all that test/cuda_host.h has to stand in for, so that the
 * kernels can be run on a machine without a card.
 */
#ifndef PP_ATTENTION_ASM_CUH
#define PP_ATTENTION_ASM_CUH

#include "cuda.cuh"

/* A block's dynamic shared memory under a name; one name a kernel. */
#define ATTN_SHARED(name) extern __shared__ __align__(16) bf16 name[]

/* Launches a kernel behind all that the stream has. */
template <typename... Params, typename... Args>
static inline cudaError_t
attn_launch(const pp_cuda *cu, void (*kernel)(Params...), dim3 grid, int threads, int bytes,
            Args... args)
{
	kernel<<<grid, threads, (size_t) bytes, cu->stream>>>(args...);
	return cudaGetLastError();
}

/* The same for a kernel that calls cuda_begin: it comes onto the card early. */
template <typename... Params, typename... Args>
static inline cudaError_t
attn_launch_early(const pp_cuda *cu, void (*kernel)(Params...), dim3 grid, int threads, int bytes,
                  Args... args)
{
	return cuda_launch(cu, kernel, grid, (uint32_t) threads, (size_t) bytes, args...);
}

/* 2^x; -inf gives 0. */
static __device__ __forceinline__ float
attn_exp2(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* Address of shared memory as the instructions take it. */
static __device__ __forceinline__ uint32_t
attn_shared(const void *p)
{
	return (uint32_t) __cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, or zeros. */
static __device__ __forceinline__ void
attn_copy16(uint32_t to, const bf16 *from, bool valid)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
	             "r"(valid ? 16 : 0)
	             : "memory");
}

/* 8 bytes. */
static __device__ __forceinline__ void
attn_copy8(uint32_t to, const void *from)
{
	asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}

/* Ends a group of copies. */
static __device__ __forceinline__ void
attn_commit()
{
	asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N groups of this thread are under way. */
template <int N>
static __device__ __forceinline__ void
attn_wait()
{
	asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8 × 8 matrices of bf16 whose rows begin at the lanes' addresses. */
static __device__ __forceinline__ void
attn_ldmatrix(uint32_t (&r)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(at)
	             : "memory");
}

/* The same, transposed. */
static __device__ __forceinline__ void
attn_ldmatrix_t(uint32_t (&r)[4], uint32_t at)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
	             : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
	             : "r"(at)
	             : "memory");
}

/* d += a · b: 16 × 8 from 16 × 16 and 16 × 8. Volatile: all lanes must come to it together. */
static __device__ __forceinline__ void
attn_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
	asm volatile(
	    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
	    "{%8, %9}, {%0, %1, %2, %3};"
	    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif /* PP_ATTENTION_ASM_CUH */
