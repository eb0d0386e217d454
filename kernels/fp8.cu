/*
 * fp8.cu: rows of bf16 to e4m3 with a scale each.
 *
 *	scale[r] = max |x[r, :]| / 448 (1 for a row of zeros)
 *	out[r, k] = e4m3(x[r, k] · (448 / max)), nearest even; x ≈ out · scale
 *	x [R, K] bf16, K a multiple of 8; out [R, K] e4m3 (4 bits of exponent, 3 of fraction, to ± 448)
 *	grid      a block a row, which reads its row twice, the second time from the cache
 *	shared    a float a warp
 *	source    Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433
 *
 * Weights go through it once, at load; activations before each product, so their scales follow what
 * is there. A row depends on nothing but itself.
 */
#include <cuda_fp8.h>

#include "attention_asm.cuh"

#define THREADS  128
#define E4M3_MAX 448.0f

/* The largest of a block, for every thread. */
static __device__ float
block_max(float value)
{
	__shared__ float shared[THREADS / 32];
	float largest = 0.0f;

	for (int step = 16; step > 0; step /= 2)
		value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = value;
	__syncthreads();
	for (int i = 0; i < THREADS / 32; i++)
		largest = fmaxf(largest, shared[i]);
	return largest;
}

/* Element i of four pairs of bf16. */
static __device__ __forceinline__ float
element(const uint4 &v, int i)
{
	const uint32_t pair = i < 2 ? v.x : i < 4 ? v.y : i < 6 ? v.z : v.w;

	return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}

/* One row. */
static __global__ void
__launch_bounds__(THREADS) quantise_rows(uint8_t *out, float *scale, const bf16 *x, uint32_t n_cols)
{
	cuda_begin();
	const uint4 *from = (const uint4 *) (x + (size_t) blockIdx.x * n_cols);
	uint2 *to = (uint2 *) (out + (size_t) blockIdx.x * n_cols);
	float largest = 0.0f;

	for (uint32_t i = threadIdx.x; i < n_cols / 8; i += THREADS)
	{
		const uint4 v = from[i];

#pragma unroll
		for (int j = 0; j < 8; j++)
			largest = fmaxf(largest, fabsf(element(v, j)));
	}
	largest = block_max(largest);
	if (threadIdx.x == 0)
		scale[blockIdx.x] = largest > 0.0f ? largest / E4M3_MAX : 1.0f;
	const float factor = largest > 0.0f ? E4M3_MAX / largest : 1.0f;

	for (uint32_t i = threadIdx.x; i < n_cols / 8; i += THREADS)
	{
		const uint4 v = from[i];
		uint32_t q[2] = {};

#pragma unroll
		for (int j = 0; j < 8; j++)
			q[j / 4] |=
			    (uint32_t) __nv_cvt_float_to_fp8(element(v, j) * factor, __NV_SATFINITE, __NV_E4M3)
			    << j % 4 * 8;
		to[i] = make_uint2(q[0], q[1]);
	}
}

/* Rows of weights or activations. */
cudaError_t
cuda_fp8_rows(pp_cuda *cu, uint8_t *out, float *scale, const bf16 *x, uint32_t n_rows,
              uint32_t n_cols)
{
	if (n_rows == 0)
		return cudaSuccess;
	return attn_launch_early(cu, quantise_rows, dim3(n_rows), THREADS, 0, out, scale, x, n_cols);
}
