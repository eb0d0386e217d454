/*
 * qkv.cu: between the fused projection and attention: head norms, RoPE, KV writes.
 *
 *	in    qkv[T, (H + 2 Hkv) · Dh] bf16
 *	q     → q[T, H · Dh], normed (RMS, q_norm) and rotated (arXiv 2104.09864)
 *	k, v  → KV pages at plan.token_kv (causal), or k[T, Hkv · Dh], v[T, Hkv · Dh]; k as q, v as it
 *	is
 *
 * Two kernels, chosen by the shape alone. qkv_wide, for heads of 32, 64, 128 and 256: a block takes
 * one token, four where that fills the card, or some heads of one where tokens are few; eight
 * elements a thread, so a head is 4 to 32 lanes and pairs that turn together change lanes by
 * shuffles. qkv_kernel, for any head: a block of 8 warps a token, a warp a head, the head in shared
 * memory as float. Both have the cosines of a token's position in shared memory before the kernel
 * in front ends. The angle is the float product of position and inverse frequency, as in the
 * reference. Tokens with nowhere to go (beyond the real ones of a recorded pass) write q alone.
 */
#include <string.h>

#include "cuda.cuh"

#define WARPS   8
#define THREADS 256u /* of qkv_wide */
#define TOKENS  4u   /* of a block of it, at most */
#define WIDE    8u   /* elements a thread */

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
	uint32_t n_tokens;
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
	cuda_let_next();
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
	cuda_wait_before();
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

/* Eight elements of a head, as floats. */
struct octet
{
	float v[WIDE];
};

/* Loads eight bf16 at once. */
static __device__ octet
load_octet(const bf16 *p)
{
	const uint4 raw = *(const uint4 *) p;
	const __nv_bfloat162 *pairs = (const __nv_bfloat162 *) &raw;
	octet x;

#pragma unroll
	for (uint32_t i = 0; i < WIDE / 2; i++)
	{
		float2 two = __bfloat1622float2(pairs[i]);

		x.v[2 * i] = two.x;
		x.v[2 * i + 1] = two.y;
	}
	return x;
}

/* Stores eight bf16 at once. */
static __device__ void
store_octet(bf16 *p, const octet &x)
{
	uint4 raw;
	__nv_bfloat162 *pairs = (__nv_bfloat162 *) &raw;

#pragma unroll
	for (uint32_t i = 0; i < WIDE / 2; i++)
		pairs[i] = __floats2bfloat162_rn(x.v[2 * i], x.v[2 * i + 1]);
	*(uint4 *) p = raw;
}

/* The norm of a head that LANES threads hold. */
template <uint32_t LANES>
static __device__ void
norm_octet(const qkv_args &a, octet *x, const float *w, uint32_t part, uint32_t mask)
{
	float squares = 0.0f;

#pragma unroll
	for (uint32_t i = 0; i < WIDE; i++)
		squares += x->v[i] * x->v[i];
#pragma unroll
	for (uint32_t step = LANES / 2; step > 0; step /= 2)
		squares += __shfl_xor_sync(mask, squares, step);
	squares = rsqrtf(squares / (float) a.d + a.eps);
#pragma unroll
	for (uint32_t i = 0; i < WIDE; i++)
		x->v[i] *= squares * (w[part * WIDE + i] + a.offset);
}

/* Turns the pairs of a head; the other half of a pair is in this thread or some lanes away. */
static __device__ void
turn_octet(const qkv_args &a, octet *x, const float *cosines, uint32_t part, uint32_t mask)
{
	const uint32_t half = a.n_dims / 2;
	const uint32_t first = part * WIDE;
	const float *sines = cosines + PP_CUDA_D_HEAD / 2;

	if (a.interleaved)
	{
#pragma unroll
		for (uint32_t i = 0; i < WIDE; i += 2)
			if (first + i < a.n_dims)
			{
				float c = cosines[(first + i) / 2];
				float s = sines[(first + i) / 2];
				float x0 = x->v[i];

				x->v[i] = x0 * c - x->v[i + 1] * s;
				x->v[i + 1] = x->v[i + 1] * c + x0 * s;
			}
		return;
	}
	const bool low = first < half;
	const uint32_t at = low ? first : first - half; /* beyond n_dims it is not read */
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t other = first >= a.n_dims ? lane : low ? lane + half / WIDE : lane - half / WIDE;

#pragma unroll
	for (uint32_t i = 0; i < WIDE; i++)
	{
		float y = __shfl_sync(mask, x->v[i], other);

		if (first < a.n_dims)
			x->v[i] = low ? x->v[i] * cosines[at + i] - y * sines[at + i]
			              : x->v[i] * cosines[at + i] + y * sines[at + i];
	}
}

/* Up to TOKENS tokens; LANES threads a head. */
template <uint32_t LANES>
static __global__ void
__launch_bounds__(THREADS) qkv_wide(qkv_args a, uint32_t n_block)
{
	cuda_let_next();
	__shared__ float cosines[TOKENS][PP_CUDA_D_HEAD]; /* cos, then sin */
	const uint32_t t0 = blockIdx.x * n_block;
	const uint32_t n_tokens = min(n_block, a.n_tokens - t0);
	const uint32_t n = a.n_heads + 2 * a.n_kv_heads;
	const uint32_t half = a.n_dims / 2;
	const uint32_t part = threadIdx.x % LANES;
	const uint32_t mask =
	    LANES == 32 ? 0xffffffffu : ((1u << LANES % 32) - 1) << threadIdx.x % 32 / LANES * LANES;

	for (uint32_t i = threadIdx.x; a.inv_freq != NULL && i < n_tokens * half; i += THREADS)
	{
		float angle = (float) a.pos[t0 + i / half] * a.inv_freq[i % half];

		cosines[i / half][i % half] = cosf(angle) * a.mscale;
		cosines[i / half][PP_CUDA_D_HEAD / 2 + i % half] = sinf(angle) * a.mscale;
	}
	cuda_wait_before();
	__syncthreads();
	for (uint32_t g = (blockIdx.y * THREADS + threadIdx.x) / LANES; g < n_tokens * n;
	     g += gridDim.y * THREADS / LANES)
	{
		const uint32_t t = t0 + g / n;
		const uint32_t h = g % n;
		const bool is_q = h < a.n_heads;
		const uint32_t is_v = h >= a.n_heads + a.n_kv_heads;
		const float *w = is_q ? a.q_norm : a.k_norm;
		octet x = load_octet(a.qkv + ((size_t) t * n + h) * a.d + part * WIDE);
		bf16 *to = is_q ? a.q + ((size_t) t * a.n_heads + h) * a.d
		                : kv_place(a, t, (h - a.n_heads) % a.n_kv_heads, is_v);

		if (!is_v && w != NULL)
			norm_octet<LANES>(a, &x, w, part, mask);
		if (!is_v && a.inv_freq != NULL)
			turn_octet(a, &x, cosines[g / n], part, mask);
		if (to != NULL)
			store_octet(to + part * WIDE, x);
	}
}

/* Whether qkv_wide takes a shape: by nothing that depends on the tokens. */
static bool
is_wide(const qkv_args *a)
{
	const uint32_t turned = a->interleaved ? a->n_dims : a->n_dims / 2;

	return (a->d == 32 || a->d == 64 || a->d == 128 || a->d == 256) &&
	       (a->inv_freq == NULL || turned % WIDE == 0);
}

/* Launches qkv_wide: as many blocks as fill the card once. */
template <uint32_t LANES>
static void
launch_wide(pp_cuda *cu, const qkv_args *a)
{
	const uint32_t n_sms = (uint32_t) cu->n_sms;
	const uint32_t n_block = a->n_tokens > 4 * n_sms ? TOKENS : 1;
	const uint32_t n_blocks = (a->n_tokens + n_block - 1) / n_block;
	const uint32_t n_heads = a->n_heads + 2 * a->n_kv_heads;
	const uint32_t n_parts = (n_heads * LANES + THREADS - 1) / THREADS;

	cuda_launch(cu, qkv_wide<LANES>, dim3(n_blocks, n_blocks * n_parts <= n_sms ? n_parts : 1),
	            THREADS, 0, *a, n_block);
}

/* Launches the kernel of the shape. */
static void
launch(pp_cuda *cu, const qkv_args *a)
{
	if (!is_wide(a))
		cuda_launch(cu, qkv_kernel, a->n_tokens, 32 * WARPS, 0, *a);
	else if (a->d == 32)
		launch_wide<4>(cu, a);
	else if (a->d == 64)
		launch_wide<8>(cu, a);
	else if (a->d == 128)
		launch_wide<16>(cu, a);
	else
		launch_wide<32>(cu, a);
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
	a.n_tokens = cuda_bound_tokens(cu, n_tokens);
	a.n_heads = attn->n_heads;
	a.n_kv_heads = attn->n_kv_heads;
	a.d = attn->d_head;
	a.n_dims = rope->n_dims;
	a.mscale = rope->mscale;
	a.eps = eps;
	a.offset = plus_one ? 1.0f : 0.0f;
	a.interleaved = rope->interleaved;
	launch(cu, &a);
	return cuda_launched(cu, "qkv");
}
