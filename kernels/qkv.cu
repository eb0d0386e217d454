/*
 * qkv.cu: between the fused projection and attention: head norms, RoPE, KV writes.
 *
 *	in    qkv[T, (H + 2 Hkv) · Dh] bf16
 *	q     → q[T, H · Dh], normed (RMS, q_norm) and rotated (arXiv 2104.09864)
 *	k, v  → KV pages at plan.token_kv (causal), or k[T, Hkv · Dh], v[T, Hkv · Dh]; k as q, v as it
 *	is
 *
 * Grid: a block of 8 warps a token; cosines of the token's position once into shared memory, then a
 * warp a head, the head in shared memory as float. The angle is the float product of position and
 * inverse frequency, as in the reference. Tokens with nowhere to go (beyond the real ones of a
 * recorded pass) write q alone.
 */
#include <string.h>

#include "cuda.cuh"

#define WARPS 8

struct qkv_args
{
	bf16 *q;
	bf16 *k; /* pages of the layer, or [T, Hkv, Dh] */
	bf16 *v; /* NULL with pages */
	const bf16 *qkv;
	const uint32_t *pos;
	const uint32_t *token_kv;
	const float *inv_freq; /* [n_dims / 2], NULL: no rotation */
	const float *q_norm;
	const float *k_norm;
	uint32_t n_heads;
	uint32_t n_kv_heads;
	uint32_t d;
	uint32_t n_dims;
	float mscale;
	float eps;
	float offset;
	bool interleaved;
};

/* One head in shared memory: norm, then rotation. A warp. */
static __device__ void
prepare_head(const qkv_args &a, float *head, const float *w, const float *cosines)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t half = a.n_dims / 2;
	float squares = 0.0f;

	if (w != NULL)
	{
		for (uint32_t i = lane; i < a.d; i += 32)
			squares += head[i] * head[i];
		for (int step = 16; step > 0; step /= 2)
			squares += __shfl_xor_sync(0xffffffffu, squares, step);
		squares = rsqrtf(squares / (float) a.d + a.eps);
		for (uint32_t i = lane; i < a.d; i += 32)
			head[i] *= squares * (w[i] + a.offset);
		__syncwarp();
	}
	for (uint32_t i = lane; a.inv_freq != NULL && i < half; i += 32)
	{
		float *x = head + (a.interleaved ? 2 * i : i);
		float *y = head + (a.interleaved ? 2 * i + 1 : i + half);
		float c = cosines[i];
		float s = cosines[PP_CUDA_D_HEAD / 2 + i];
		float x0 = *x;

		*x = x0 * c - *y * s;
		*y = *y * c + x0 * s;
	}
	__syncwarp();
}

/* Where head h of k (v = 0) or v (v = 1) of a token goes; NULL: nowhere. */
static __device__ bf16 *
kv_place(const qkv_args &a, uint32_t t, uint32_t h, uint32_t v)
{
	uint32_t at;

	if (a.v != NULL)
		return (v ? a.v : a.k) + ((size_t) t * a.n_kv_heads + h) * a.d;
	at = a.token_kv[t];
	if (at == PP_CUDA_NONE)
		return NULL;
	return a.k + cuda_kv_at(a.n_kv_heads, a.d, at / PP_CUDA_PAGE, v, h) +
	       (size_t) (at % PP_CUDA_PAGE) * a.d;
}

/* One token. */
static __global__ void __launch_bounds__(32 * WARPS) qkv_kernel(qkv_args a)
{
	cuda_begin();
	__shared__ float cosines[PP_CUDA_D_HEAD]; /* cos, then sin */
	__shared__ float heads[WARPS][PP_CUDA_D_HEAD];
	const uint32_t t = blockIdx.x;
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t n = a.n_heads + 2 * a.n_kv_heads;
	float *head = heads[threadIdx.x / 32];

	for (uint32_t i = threadIdx.x; a.inv_freq != NULL && i < a.n_dims / 2; i += blockDim.x)
	{
		float angle = (float) a.pos[t] * a.inv_freq[i];

		cosines[i] = cosf(angle) * a.mscale;
		cosines[PP_CUDA_D_HEAD / 2 + i] = sinf(angle) * a.mscale;
	}
	__syncthreads();
	for (uint32_t h = threadIdx.x / 32; h < n; h += WARPS)
	{
		const __nv_bfloat162 *from = (const __nv_bfloat162 *) (a.qkv + ((size_t) t * n + h) * a.d);
		bool is_q = h < a.n_heads;
		uint32_t h_kv = (h - a.n_heads) % a.n_kv_heads;
		uint32_t is_v = h >= a.n_heads + a.n_kv_heads;
		bf16 *to = is_q ? a.q + ((size_t) t * a.n_heads + h) * a.d : kv_place(a, t, h_kv, is_v);

		for (uint32_t i = lane; i < a.d / 2; i += 32)
			*(float2 *) (head + 2 * i) = __bfloat1622float2(from[i]);
		__syncwarp();
		if (!is_v)
			prepare_head(a, head, is_q ? a.q_norm : a.k_norm, cosines);
		for (uint32_t i = lane; to != NULL && i < a.d / 2; i += 32)
			*(__nv_bfloat162 *) (to + 2 * i) = __floats2bfloat162_rn(head[2 * i], head[2 * i + 1]);
		__syncwarp();
	}
}

/* The device's copy of the frequencies, by content. NULL with a message. */
static const float *
rope_of(pp_cuda *cu, const pp_rope *rope)
{
	uint32_t n = rope->n_dims / 2;
	cuda_rope *r;

	for (uint32_t i = 0; i < cu->n_ropes; i++)
		if (cu->ropes[i].n == n &&
		    memcmp(cu->ropes[i].values, rope->inv_freq, n * sizeof(float)) == 0)
			return cu->ropes[i].dev;
	if (cu->n_ropes == CUDA_N_ROPES || cu->recording)
	{
		cuda_fail(cu, PP_E_UNSUPPORTED, "more than %u rotary embeddings", CUDA_N_ROPES);
		return NULL;
	}
	r = &cu->ropes[cu->n_ropes];
	if (cuda_check(cu, cudaMalloc((void **) &r->dev, n * sizeof(float)), "rope") != PP_OK ||
	    cuda_check(cu,
	               cudaMemcpy(r->dev, rope->inv_freq, n * sizeof(float), cudaMemcpyHostToDevice),
	               "rope") != PP_OK)
		return NULL;
	memcpy(r->values, rope->inv_freq, n * sizeof(float));
	r->n = n;
	cu->n_ropes++;
	return r->dev;
}

/* Splits qkv; see kernels.h. */
pp_result
cuda_qkv_prepare(pp_backend *be, pp_act *dev_q, const pp_act *dev_qkv, const uint32_t *pos,
                 const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
                 const pp_attn *attn, const pp_rope *rope, const float *dev_q_norm,
                 const float *dev_k_norm, float eps, bool plus_one)
{
	pp_cuda *cu = cuda_of(be);
	cuda_attention at = cuda_attention();
	qkv_args a = qkv_args();
	pp_result result;

	if (n_tokens == 0)
		return PP_OK;
	if (!cu->in_pass || segs != cu->pass.segs || n_segs != cu->pass.n_segs || pos != cu->pass.pos)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "tokens that are not the pass's");
	if ((result = cuda_kv_of(cu, layer, attn, n_tokens, &at)) != PP_OK)
		return result;
	if (rope->enabled && rope->n_dims > attn->d_head)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "rotary embedding wider than a head");
	if (rope->enabled && rope->n_dims >= 2 && (a.inv_freq = rope_of(cu, rope)) == NULL)
		return cu->failed ? PP_E_DEVICE : PP_E_UNSUPPORTED;
	a.q = cuda_act(dev_q);
	a.k = (bf16 *) (attn->causal ? at.kv : at.k);
	a.v = (bf16 *) (attn->causal ? NULL : at.v);
	a.qkv = cuda_act(dev_qkv);
	a.pos = cu->plan.pos;
	a.token_kv = cu->plan.token_kv;
	a.q_norm = dev_q_norm;
	a.k_norm = dev_k_norm;
	a.n_heads = attn->n_heads;
	a.n_kv_heads = attn->n_kv_heads;
	a.d = attn->d_head;
	a.n_dims = rope->n_dims;
	a.mscale = rope->mscale;
	a.eps = eps;
	a.offset = plus_one ? 1.0f : 0.0f;
	a.interleaved = rope->interleaved;
	cuda_launch(cu, qkv_kernel, cuda_bound_tokens(cu, n_tokens), 32 * WARPS, 0, a);
	return cuda_launched(cu, "qkv");
}
