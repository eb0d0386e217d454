/*
 * attention_mma.cuh: tiles in shared memory, and products of them by cp.async, ldmatrix and
 * mma.sync m16n8k16.
 *
 * A tile's rows are padded to an odd number of 16-byte chunks: so the eight rows that one phase of
 * ldmatrix reads lie in different banks, whatever the size of the head.
 */
#ifndef PP_ATTENTION_MMA_CUH
#define PP_ATTENTION_MMA_CUH

#include "attention_tile.cuh"

/* Elements from row to row of a tile in shared memory. */
#define ATTN_PITCH(dh) (((dh) / 8 | 1) * 8)

/* The keys or values of one head: where slot s is. */
struct attn_source
{
	const bf16 *base; /* the layer's pages, or the encoder's [T, Hkv, Dh] at the segment's head */
	const uint32_t *pages;
	size_t block; /* elements from page to page; 0: no pages */
	size_t row;   /* elements from slot to slot */
	uint32_t end; /* slots at and behind it read as zeros */
};

/* The keys (v = 0) or values (v = 1) of a tile's head. */
static __device__ __forceinline__ attn_source
attn_source_of(const cuda_plan &plan, const cuda_attention &a, const attn_tile &t, uint32_t v)
{
	const uint32_t n_kv = a.attn.n_kv_heads;
	const uint32_t dh = a.attn.d_head;
	attn_source s;

	s.end = t.key1;
	s.pages = plan.words + t.page0;
	if (a.attn.causal)
	{
		s.base = a.kv + cuda_kv_at(n_kv, dh, 0, v, t.kv_head);
		s.block = (size_t) 2 * n_kv * PP_CUDA_PAGE * dh;
		s.row = dh;
		return s;
	}
	s.base = (v ? a.v : a.k) + ((size_t) t.first_token * n_kv + t.kv_head) * dh;
	s.block = 0;
	s.row = (size_t) n_kv * dh;
	return s;
}

/* The row of slot s0, the first of 64. */
static __device__ __forceinline__ const bf16 *
attn_source_at(const attn_source &s, uint32_t s0)
{
	if (s.block == 0)
		return s.base + s0 * s.row;
	return s.base + (s0 < s.end ? s.pages[s0 / PP_CUDA_PAGE] : s.pages[0]) * s.block;
}

/*
 * Copies 64 slots, of which the first is at from and n are there (the others read as zeros), to a
 * tile. A thread has one chunk of every PER-th row: so all it keeps is a pointer.
 */
template <int D, int THREADS>
static __device__ __forceinline__ void
attn_load64(bf16 *to, const bf16 *from, size_t stride, int n)
{
	constexpr int CHUNKS = D / 8;
	constexpr int PER = THREADS / CHUNKS;
	const int row = (int) threadIdx.x / CHUNKS;
	const int c = (int) threadIdx.x % CHUNKS;
	const uint32_t at = attn_shared(to + row * ATTN_PITCH(D) + c * 8);
	const bf16 *p = from + row * stride + c * 8;

	if (THREADS % CHUNKS != 0 && row >= PER)
		return;
#pragma unroll
	for (int i = 0; i < (64 + PER - 1) / PER; i++)
	{
		bool valid = row + i * PER < n;

		if (64 % PER == 0 || row + i * PER < 64)
			attn_copy16(at + i * PER * ATTN_PITCH(D) * 2, valid ? p : from, valid);
		p += PER * stride;
	}
}

/* Where this lane's row of an A operand (16 rows) begins. */
template <int D>
static __device__ __forceinline__ uint32_t
attn_a_at(const bf16 *tile)
{
	const uint32_t lane = threadIdx.x % 32;

	return attn_shared(tile + lane % 16 * ATTN_PITCH(D) + lane / 16 * 8);
}

/* Where this lane's row of a B operand begins: two blocks of 8 keys, 16 elements of the head. */
template <int D>
static __device__ __forceinline__ uint32_t
attn_k_at(const bf16 *tile)
{
	const uint32_t lane = threadIdx.x % 32;

	return attn_shared(tile + (lane / 16 * 8 + lane % 8) * ATTN_PITCH(D) + lane / 8 % 2 * 8);
}

/* Scores of 16 rows (operand q) with 16 keys from row n of a tile on. */
template <int D>
static __device__ __forceinline__ void
attn_scores16(float (&left)[4], float (&right)[4], const uint32_t (&q)[D / 16][4], const bf16 *keys,
              int n)
{
	const uint32_t at = attn_k_at<D>(keys + n * ATTN_PITCH(D));

#pragma unroll
	for (int c = 0; c < 4; c++)
		left[c] = right[c] = 0.0f;
#pragma unroll
	for (int k = 0; k < D / 16; k++)
	{
		uint32_t b[4];

		attn_ldmatrix(b, at + k * 32);
		attn_mma(left, q[k], b[0], b[1]);
		attn_mma(right, q[k], b[2], b[3]);
	}
}

/* Adds weights (operand p) of 16 slots, row n of a tile, to 16 columns from column c on. */
template <int D>
static __device__ __forceinline__ void
attn_values16(float (&left)[4], float (&right)[4], const uint32_t (&p)[4], const bf16 *values,
              int n, int c)
{
	uint32_t b[4];

	attn_ldmatrix_t(b, attn_a_at<D>(values + n * ATTN_PITCH(D) + c));
	attn_mma(left, p, b[0], b[1]);
	attn_mma(right, p, b[2], b[3]);
}

#endif /* PP_ATTENTION_MMA_CUH */
