/*
 * attention_simple.cu: attention of single queries by plain loads: head sizes that the tensor core
 * kernels do not have, and trees deeper than a layer's window.
 *
 *	out[t, h] = Σ_s p_s v_s,  p = softmax over the slots s that token t sees of scale · q·k_s
 *
 * One item is one query token. A warp takes one head of it: each lane computes the scores of every
 * 32nd slot, with the query in shared memory; the softmax is taken block by block of 32 slots
 * (online, arXiv 1805.02867), and each lane sums its own columns of v. A token of a tree sees the
 * history and its kin (cuda_seg).
 *
 * Grid: (items, n_heads / 8), 8 warps; shared: 8 · Dh floats.
 */
#include "cuda.cuh"

#define WARPS 8

/* What a query needs to find its keys. */
struct simple_query
{
	cuda_seg seg;
	uint32_t i;          /* index in the segment */
	uint32_t first, end; /* slots that may be seen */
	int64_t pos;         /* position: depth in a tree */
	const uint32_t *kin; /* of a tree */
};

/* Whether the query sees slot s. */
static __device__ bool
sees(const simple_query &x, const pp_attn &attn, const uint32_t *pos, uint32_t s)
{
	uint32_t j = s - x.seg.n_past;
	int64_t other = s;

	if (!attn.causal)
		return attn.window == 0 ||
		       llabs((int64_t) s - (int64_t) x.i) <= (int64_t) (attn.window / 2);
	if (s >= x.seg.n_past && x.kin != NULL)
	{
		if ((x.kin[j / 32] >> (j % 32) & 1) == 0)
			return false;
		other = pos[x.seg.first_token + j]; /* siblings share a position */
	}
	return attn.window == 0 || other > x.pos - (int64_t) attn.window;
}

/* The dense row of k or v of slot s. */
static __device__ const bf16 *
row_of(const cuda_attention &a, const cuda_plan &plan, const simple_query &x, uint32_t head,
       uint32_t s, uint32_t v)
{
	const uint32_t d = a.attn.d_head;

	if (a.attn.causal)
		return a.kv +
		       cuda_kv_at(a.attn.n_kv_heads, d, plan.words[x.seg.page0 + s / PP_CUDA_PAGE], v,
		                  head) +
		       (size_t) (s % PP_CUDA_PAGE) * d;
	return (v ? a.v : a.k) + ((size_t) (x.seg.first_token + s) * a.attn.n_kv_heads + head) * d;
}

/* q · k, eight elements a step. */
static __device__ float
dot(const float *q, const bf16 *k, uint32_t d)
{
	float sum = 0.0f;

	for (uint32_t i = 0; i < d; i += 8)
	{
		uint4 raw = *(const uint4 *) (k + i);
		const __nv_bfloat162 *pairs = (const __nv_bfloat162 *) &raw;

		for (int j = 0; j < 4; j++)
		{
			float2 y = __bfloat1622float2(pairs[j]);

			sum = fmaf(q[i + 2 * j], y.x, sum);
			sum = fmaf(q[i + 2 * j + 1], y.y, sum);
		}
	}
	return sum;
}

/* Softmax and sum of one head; a warp. acc has the columns lane, lane + 32, … of the head. */
static __device__ void
attend(const cuda_attention &a, const cuda_plan &plan, const simple_query &x, const float *q,
       uint32_t head, float *acc, float *total)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t d = a.attn.d_head;
	float max = -INFINITY;

	*total = 0.0f;
	for (uint32_t s0 = x.first; s0 < x.end; s0 += 32)
	{
		uint32_t s = s0 + lane;
		float score = -INFINITY;
		float block_max, p, shrink;

		if (s < x.end && sees(x, a.attn, plan.pos, s))
		{
			score = dot(q, row_of(a, plan, x, head, s, 0), d) * a.attn.scale;
			if (a.attn.softcap > 0.0f)
				score = a.attn.softcap * tanhf(score / a.attn.softcap);
		}
		block_max = score;
		for (int step = 16; step > 0; step /= 2)
			block_max = fmaxf(block_max, __shfl_xor_sync(0xffffffffu, block_max, step));
		if (block_max == -INFINITY)
			continue;
		block_max = fmaxf(max, block_max);
		shrink = expf(max - block_max);
		max = block_max;
		p = expf(score - max);
		*total = *total * shrink + p;
		for (uint32_t c = 0; c < PP_CUDA_D_HEAD / 32; c++)
			acc[c] *= shrink;
		for (uint32_t j = 0; j < 32 && s0 + j < x.end; j++)
		{
			float weight = __shfl_sync(0xffffffffu, p, (int) j);
			const bf16 *v = row_of(a, plan, x, head, s0 + j, 1);

			if (weight == 0.0f)
				continue;
#pragma unroll
			for (uint32_t c = 0; c < PP_CUDA_D_HEAD / 32; c++)
				if (c * 32 + lane < d)
					acc[c] = fmaf(weight, __bfloat162float(v[c * 32 + lane]), acc[c]);
		}
	}
	for (int step = 16; step > 0; step /= 2)
		*total += __shfl_xor_sync(0xffffffffu, *total, step);
}

/* One item, eight heads. */
static __global__ void __launch_bounds__(32 * WARPS) simple_kernel(cuda_plan plan, cuda_attention a)
{
	__shared__ float queries[WARPS][PP_CUDA_D_HEAD];
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t h = blockIdx.y * WARPS + threadIdx.x / 32;
	const uint32_t d = a.attn.d_head;
	float *q = queries[threadIdx.x / 32];
	float acc[PP_CUDA_D_HEAD / 32] = {0.0f};
	float total;
	simple_query x;

	if (blockIdx.x >= plan.counts->n_simple)
		return;
	const cuda_item item = plan.simple[blockIdx.x];

	x.seg = plan.segs[item.seg];
	x.i = item.q0;
	x.kin = x.seg.n_chain == 0 ? plan.words + x.seg.kin0 + x.i * cuda_kin_words(x.seg.n_new) : NULL;
	x.pos =
	    x.kin == NULL ? (int64_t) x.seg.n_past + x.i : (int64_t) plan.pos[x.seg.first_token + x.i];
	x.first = 0;
	x.end = a.attn.causal ? x.seg.n_past + x.i + 1 : x.seg.n_new;
	if (a.attn.causal && a.attn.window > 0 && x.pos >= (int64_t) a.attn.window && x.kin == NULL)
		x.first = (uint32_t) (x.pos - a.attn.window + 1);
	if (h >= a.attn.n_heads)
		return;
	const size_t at = ((size_t) (x.seg.first_token + x.i) * a.attn.n_heads + h) * d;

	for (uint32_t i = lane; i < d; i += 32)
		q[i] = __bfloat162float(a.q[at + i]);
	__syncwarp();
	attend(a, plan, x, q, h / (a.attn.n_heads / a.attn.n_kv_heads), acc, &total);
#pragma unroll
	for (uint32_t c = 0; c < PP_CUDA_D_HEAD / 32; c++)
		if (c * 32 + lane < d)
			a.out[at + c * 32 + lane] = __float2bfloat16_rn(acc[c] / total);
}

/* Launches an item and eight heads a block. */
cudaError_t
cuda_attention_simple(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	dim3 grid(plan->max_simple, (a->attn.n_heads + WARPS - 1) / WARPS);

	simple_kernel<<<grid, 32 * WARPS, 0, cu->stream>>>(*plan, *a);
	return cudaGetLastError();
}
