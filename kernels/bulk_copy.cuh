/*
 * bulk_copy.cuh: the bulk copy engine of Hopper and later, and the barriers that its copies end at.
 *
 * A barrier (mbarrier) counts arrivals and bytes that copies are still to bring; a phase ends when
 * neither is missing, and the next begins with the same number of arrivals. Who waits names the
 * parity of the phase: 0 for the first one. A wait for parity 1 on a new barrier returns at once,
 * so that a ring may be filled before anybody has emptied it.
 *
 * Boxes are of 64 columns of bf16 (128 bytes), swizzled by 128 bytes: row r has its 16-byte chunk c
 * at c ^ (r % 8). They and the swizzle's eight rows must begin at multiples of BULK_ALIGN.
 *
 * PP_BULK_COPY is defined where code for these instructions is being made. test/cuda_host.cuh
 * stands in for this file on a machine without a card.
 */
#ifndef PP_BULK_COPY_CUH
#define PP_BULK_COPY_CUH

#include <cuda.h>
#include <cudaTypedefs.h>

#include "attention_asm.cuh"

#define BULK_ALIGN 1024u

#if __CUDA_ARCH__ >= 900
#define PP_BULK_COPY 1

/* Prepares a barrier for n arrivals. */
static __device__ __forceinline__ void
barrier_init(uint64_t *b, uint32_t n)
{
	asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(attn_shared(b)), "r"(n)
	             : "memory");
}

/* The copy engine sees what barrier_init wrote; before the block's __syncthreads. */
static __device__ __forceinline__ void
barrier_publish()
{
	asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives. */
static __device__ __forceinline__ void
barrier_arrive(uint64_t *b)
{
	asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(attn_shared(b)) : "memory");
}

/* Arrives, and announces the bytes that copies will bring. */
static __device__ __forceinline__ void
barrier_expect(uint64_t *b, uint32_t bytes)
{
	asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(attn_shared(b)),
	             "r"(bytes)
	             : "memory");
}

/* Waits for the end of the phase of this parity. */
static __device__ __forceinline__ void
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
static __device__ __forceinline__ void
bulk_box(void *to, const CUtensorMap *map, uint32_t col, uint32_t row, uint64_t *full)
{
	asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
	             "[%0], [%1, {%2, %3}], [%4];" ::"r"(attn_shared(to)),
	             "l"(map), "r"(col), "r"(row), "r"(attn_shared(full))
	             : "memory");
}

/* A box of four dimensions: columns, rows of a head, heads, pages. */
static __device__ __forceinline__ void
bulk_box4(void *to, const CUtensorMap *map, uint64_t *full, uint32_t c0, uint32_t c1, uint32_t c2,
          uint32_t c3)
{
	asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
	             "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(attn_shared(to)),
	             "l"(map), "r"(attn_shared(full)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
	             : "memory");
}

/* Asks for bytes as they lie; both addresses and the size are multiples of 16. */
static __device__ __forceinline__ void
bulk_bytes(void *to, const void *from, uint32_t bytes, uint64_t *full)
{
	asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
	             "[%0], [%1], %2, [%3];" ::"r"(attn_shared(to)),
	             "l"(from), "r"(bytes), "r"(attn_shared(full))
	             : "memory");
}
#endif /* __CUDA_ARCH__ >= 900 */

/* The driver's encoder of maps, found at run time: nothing here links the driver. NULL: none. */
static inline PFN_cuTensorMapEncodeTiled_v12000
bulk_encoder()
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

/* Describes n dimensions of bf16 (bytes: strides of all but the first) in swizzled boxes. */
static inline bool
bulk_encode(CUtensorMap *map, const bf16 *data, uint32_t n, const cuuint64_t *dims,
            const cuuint64_t *bytes, const cuuint32_t *box)
{
	const cuuint32_t steps[4] = {1, 1, 1, 1};

	return bulk_encoder() != NULL &&
	       bulk_encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, n, (void *) data, dims, bytes, box,
	                      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
	                      CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
	                      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Describes a matrix [n_rows, n_cols] in boxes of box_rows × 64. */
static inline bool
bulk_describe(CUtensorMap *map, const bf16 *data, uint32_t n_rows, uint32_t n_cols,
              uint32_t box_rows)
{
	const cuuint64_t dims[2] = {n_cols, n_rows};
	const cuuint64_t bytes[1] = {(cuuint64_t) n_cols * sizeof(bf16)};
	const cuuint32_t box[2] = {64, box_rows};

	return bulk_encode(map, data, 2, dims, bytes, box);
}

/* Whether card and driver have what it takes. */
static inline bool
bulk_takes(const pp_cuda *cu)
{
	return cu->arch >= 90 && bulk_encoder() != NULL;
}

#endif /* PP_BULK_COPY_CUH */
