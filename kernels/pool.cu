/*
 * pool.cu: pooling of encoders, and the log-sum-exp of rows of logits.
 *
 *	pool       out[s, d] = first, mean or last token of segment s, perhaps of length 1   float
 *	logsumexp  lse[r] = ln Σ_v exp(logits[r, v])                                         float
 *
 * A block a segment or a row. A column's mean is summed token by token; a row's maximum and sum are
 * taken by 1,024 threads, each over every 1,024th value, then in the order of threads: nothing
 * depends on what else is in the batch.
 */
#include "cuda.cuh"

#define POOL_THREADS 256
#define LSE_THREADS  1024

/* One segment; an empty one gives zeros. */
static __global__ void
__launch_bounds__(POOL_THREADS)
    pool_kernel(float *out, const float *x, const uint32_t *list, uint32_t d, int pooling, bool l2)
{
	cuda_begin();
	__shared__ float sums[33];
	const uint32_t n_tokens = list[2 * blockIdx.x + 1];
	const float *first = x + (size_t) list[2 * blockIdx.x] * d;
	float *to = out + (size_t) blockIdx.x * d;
	float squares = 0.0f;

	if (pooling == PP_POOL_LAST && n_tokens > 0)
		first += (size_t) (n_tokens - 1) * d;
	for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
	{
		uint32_t n = pooling == PP_POOL_MEAN ? n_tokens : n_tokens > 0;
		float sum = 0.0f;

		for (uint32_t t = 0; t < n; t++)
			sum += first[(size_t) t * d + i];
		sum = n > 1 ? sum / (float) n : sum;
		squares += sum * sum;
		to[i] = sum;
	}
	if (!l2)
		return;
	float norm = fmaxf(sqrtf(cuda_block_sum(squares, sums)), 1e-12f);

	for (uint32_t i = threadIdx.x; i < d; i += blockDim.x)
		to[i] /= norm;
}

/* One row. */
static __global__ void
__launch_bounds__(LSE_THREADS) logsumexp_kernel(float *lse, const float *logits, uint32_t n_vocab)
{
	cuda_begin();
	__shared__ float sums[33];
	const float *row = logits + (size_t) blockIdx.x * n_vocab;
	float max = -INFINITY;
	float sum = 0.0f;

#pragma unroll 8 /* loads on their way at once: a row is read by one multiprocessor */
	for (uint32_t i = threadIdx.x; i < n_vocab; i += LSE_THREADS)
		max = fmaxf(max, row[i]);
	for (int step = 16; step > 0; step /= 2)
		max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, step));
	if (threadIdx.x % 32 == 0)
		sums[threadIdx.x / 32] = max;
	__syncthreads();
	for (uint32_t i = 0; i < LSE_THREADS / 32; i++)
		max = fmaxf(max, sums[i]);
#pragma unroll 8
	for (uint32_t i = threadIdx.x; i < n_vocab; i += LSE_THREADS)
		sum += expf(row[i] - max);
	sum = cuda_block_sum(sum, sums);
	if (threadIdx.x == 0)
		lse[blockIdx.x] = n_vocab > 0 ? max + logf(sum) : -INFINITY;
}

/* Pooling; the list of segments goes with the call. */
pp_result
cuda_pool(pp_backend *be, float *dev_out, const float *dev_x, const pp_segment *segs,
          uint32_t n_segs, uint32_t d, int pooling, bool l2)
{
	pp_cuda *cu = cuda_of(be);
	uint32_t *list;
	const uint32_t *dev_list;

	if (n_segs == 0 || d == 0)
		return PP_OK;
	if ((list = new (std::nothrow) uint32_t[2 * (size_t) n_segs]) == NULL)
		return cuda_fail(cu, PP_E_NOMEM, "out of memory");
	for (uint32_t s = 0; s < n_segs; s++)
	{
		list[2 * s] = segs[s].first_token;
		list[2 * s + 1] = segs[s].n_new;
	}
	dev_list = cuda_index(cu, list, 2 * n_segs);
	delete[] list;
	if (dev_list == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
	cuda_launch(cu, pool_kernel, n_segs, POOL_THREADS, 0, dev_out, dev_x, dev_list, d, pooling, l2);
	return cuda_launched(cu, "pool");
}

/* ln Σ e^x of each row. */
pp_result
cuda_logsumexp(pp_backend *be, float *dev_lse, const float *dev_logits, uint32_t n_rows,
               uint32_t n_vocab)
{
	pp_cuda *cu = cuda_of(be);

	if (n_rows == 0)
		return PP_OK;
	cuda_launch(cu, logsumexp_kernel, n_rows, LSE_THREADS, 0, dev_lse, dev_logits, n_vocab);
	return cuda_launched(cu, "logsumexp");
}
