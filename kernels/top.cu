/*
 * top.cu: the highest logits of rows, so that sampling fetches a few numbers instead of rows.
 *
 *	top	out[r] = the k best of logits[r, V], falling; lowest id first among equals; and, where a
 *		scale is given, Σ exp((logit − best) · scale)                                   float
 *
 * A logit and its id make a key of 64 bits whose order is the order asked for; no two are equal, so
 * the k best are one set whatever the threads do. One best is a maximum. More are found by radix
 * selection from the top digit down (as in Alabi et al., JEA 17, 2012): count the keys of each
 * value of the digit among those that agree so far, and go on in the one that holds the k-th. Then
 * all keys at least that one are collected and put in order by their ranks. The sum is taken by
 * 1,024 threads, each over every 1,024th value, then in the order of threads.
 *
 * A block of 1,024 threads a row; V floats are read once a digit, out of L2: with V = 128,256 that
 * is two to nine times, by as many multiprocessors as there are rows. Shared memory: 256 counts and
 * 64 keys. Reference: ref/top_ref.c.
 */
#include "cuda.cuh"

#define THREADS 1024

typedef unsigned long long top_key;

/* The key of a logit; 0 for what never counts: −∞ and NaN. Zeros of either sign are equal. */
static __device__ __forceinline__ top_key
key_of(float x, uint32_t id)
{
	uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x);

	bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
	return x > -INFINITY ? (top_key) bits << 32 | (uint32_t) ~id : 0;
}

/* The largest key of a row, for thread 0. */
static __device__ top_key
best_of(const float *row, uint32_t n_vocab, top_key *shared)
{
	top_key best = 0;

#pragma unroll 8 /* loads on their way at once: a row is read by one multiprocessor */
	for (uint32_t i = threadIdx.x; i < n_vocab; i += THREADS)
	{
		top_key key = key_of(row[i], i);

		best = key > best ? key : best;
	}
	for (int step = 16; step > 0; step /= 2)
	{
		top_key other = __shfl_xor_sync(0xffffffffu, best, step);

		best = other > best ? other : best;
	}
	if (threadIdx.x % 32 == 0)
		shared[threadIdx.x / 32] = best;
	__syncthreads();
	for (uint32_t i = 0; threadIdx.x == 0 && i < THREADS / 32; i++)
		best = shared[i] > best ? shared[i] : best;
	return best;
}

/*
 * One digit: *floor gets the value of it that holds the key still needed; *need becomes how many
 * are needed of that value. False: every key at least *floor is wanted.
 */
static __device__ bool
select_digit(const float *row, uint32_t n_vocab, uint32_t shift, top_key *floor, uint32_t *need,
             uint32_t *counts)
{
	const top_key known = shift < 56 ? ~0ull << (shift + 8) : 0;
	uint32_t digit = 256;
	uint32_t left = *need;

	__syncthreads();
	if (threadIdx.x < 256)
		counts[threadIdx.x] = 0;
	__syncthreads();
	for (uint32_t i = threadIdx.x; i < n_vocab; i += THREADS)
	{
		top_key key = key_of(row[i], i);

		if (key != 0 && (key & known) == *floor)
			atomicAdd(&counts[key >> shift & 255], 1);
	}
	__syncthreads();
	while (digit > 0 && counts[digit - 1] < left)
		left -= counts[--digit];
	if (digit == 0)
		return false; /* there are not so many */
	digit--;
	*floor |= (top_key) digit << shift;
	*need = left;
	return counts[digit] != left;
}

/* The sum of weights, for every thread. */
static __device__ float
weigh(const float *row, uint32_t n_vocab, float best, float scale, float *shared)
{
	float sum = 0.0f;

	for (uint32_t i = threadIdx.x; i < n_vocab; i += THREADS)
		if (row[i] > -INFINITY)
			sum += expf((row[i] - best) * scale);
	return cuda_block_sum(sum, shared);
}

/* One row. */
static __global__ void
__launch_bounds__(THREADS)
    top_kernel(pp_top *out, const float *logits, uint32_t n_vocab, uint32_t k, float scale)
{
	cuda_begin();
	__shared__ top_key keys[PP_TOP_MAX];
	__shared__ uint32_t counts[256];
	__shared__ uint32_t n;
	__shared__ float sums[33];
	const float *row = logits + (size_t) blockIdx.x * n_vocab;
	pp_top *to = &out[blockIdx.x];
	top_key floor = 0;
	uint32_t need = k;

	if (threadIdx.x == 0)
		n = 0;
	if (k == 1)
	{
		top_key best = best_of(row, n_vocab, keys);

		__syncthreads();
		if (threadIdx.x == 0 && best != 0)
			keys[n++] = best;
	}
	else
	{
		for (int shift = 56; shift >= 0; shift -= 8)
			if (!select_digit(row, n_vocab, (uint32_t) shift, &floor, &need, counts))
				break;
		for (uint32_t i = threadIdx.x; i < n_vocab; i += THREADS)
		{
			top_key key = key_of(row[i], i);

			if (key != 0 && key >= floor)
				keys[atomicAdd(&n, 1)] = key;
		}
	}
	__syncthreads();
	if (threadIdx.x < n)
	{
		uint32_t rank = 0;
		uint32_t id = ~(uint32_t) keys[threadIdx.x];

		for (uint32_t i = 0; i < n; i++)
			rank += keys[i] > keys[threadIdx.x];
		to->logit[rank] = row[id];
		to->id[rank] = (int32_t) id;
		if (rank == 0)
			sums[32] = row[id];
	}
	__syncthreads();
	const float best = sums[32];
	const float sum = scale > 0.0f && n > 0 ? weigh(row, n_vocab, best, scale, sums) : 0.0f;

	if (threadIdx.x == 0)
	{
		to->n = n;
		to->sum = sum;
	}
}

/* The best logits of each row; see kernels.h. */
pp_result
cuda_top(pp_backend *be, pp_top *dev_out, const float *dev_logits, uint32_t n_rows,
         uint32_t n_vocab, uint32_t k, float scale)
{
	pp_cuda *cu = cuda_of(be);

	if (k == 0 || k > PP_TOP_MAX)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "the %u highest logits", k);
	if (n_rows == 0)
		return PP_OK;
	cuda_launch(cu, top_kernel, n_rows, THREADS, 0, dev_out, dev_logits, n_vocab, k, scale);
	return cuda_launched(cu, "top");
}
