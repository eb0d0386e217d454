/*
 * attention_prefill.cu: attention of chains of any length, and of trees behind them, on tensor
 * cores, for every card from sm_80 on.
 *
 *	out[t, h] = Σ_s p_s v_s,  p = softmax over the slots s that token t sees of scale · q·k_s
 *
 * FlashAttention-2 (arXiv 2307.08691) over a list of items: tokens of any segments, new ones behind
 * a history in pages, causal or not, with a window, with capped scores. The scores of a step stay
 * in registers; the order of all sums is that of attention_tile.cuh.
 *
 * Heads of 32, 64, 80, 96, 128 or 256; any group. A block of 4 warps takes tiles of 64 rows, a warp
 * 16 of them, from a walk over the list until it ends; the grid is what the card holds at once.
 * Shared memory: a step of keys, one of values, and q's tile where registers do not hold it. While
 * scores are computed values come, while values are summed the next keys come.
 *
 * Sequences longer than ATTN_SPLIT keep their finished parts in a.partial: a tile of floats for
 * each block of the grid, each thread its own.
 *
 * A label trie (arXiv 2305.09781 has trees of drafts) is a few rows more of its prompt's tiles:
 * they read the prompt's keys once for both, and the bits of cuda_seg hide from a row what is not
 * kin.
 *
 * On cards with sm_90a heads of 64 and 128 go to attention_hopper.cu, with the same bits.
 */
#include "attention_mma.cuh"

#define ROWS    64
#define THREADS 128

#define BLOCKS_MAX 4 /* of a multiprocessor; registers allow three at most */

/* Elements of shared memory; q shares the place of the keys where it is kept in registers. */
template <int D> struct prefill_shape
{
	static constexpr int STEP = ATTN_STEP(D);
	static constexpr bool Q_SHARED = D > 128;
	static constexpr int TILE = STEP * ATTN_PITCH(D);
	static constexpr int BYTES = (2 * TILE + (Q_SHARED ? ROWS * ATTN_PITCH(D) : 0)) * 2;
};

/* What a warp holds while it works on its 16 rows. */
template <int D> struct prefill_rows
{
	float o[D / 8][4];
	attn_state state;
	attn_total total;
	attn_range see[2];
};

/* Copies the tile's rows of q to shared memory; rows beyond it read as zeros. */
template <int D>
static __device__ __forceinline__ void
load_queries(bf16 *to, const cuda_attention &a, const attn_tile &t)
{
	constexpr int CHUNKS = D / 8;

#pragma unroll
	for (int n = 0; n < ROWS * CHUNKS / THREADS; n++)
	{
		uint32_t i = n * THREADS + threadIdx.x;
		uint32_t r = i / CHUNKS;
		uint32_t c = i % CHUNKS;
		bool valid = r < t.n_rows;

		attn_copy16(attn_shared(to + r * ATTN_PITCH(D) + c * 8),
		            a.q + attn_row_at(a.attn, t, t.row0 + (valid ? r : 0)) + c * 8, valid);
	}
	attn_commit();
}

/* Copies a step of keys or values. */
template <int D>
static __device__ __forceinline__ void
load_step(bf16 *to, const attn_source &src, uint32_t s0)
{
	for (int half = 0; half < ATTN_STEP(D) / 64; half++)
		attn_load64<D, THREADS>(to + half * 64 * ATTN_PITCH(D), attn_source_at(src, s0 + half * 64),
		                        src.row, (int) (src.end - s0) - half * 64);
	attn_commit();
}

/* The queries of the warp as operands. */
template <int D>
static __device__ __forceinline__ void
read_queries(uint32_t (&q)[D / 16][4], const bf16 *tile)
{
	const uint32_t at = attn_a_at<D>(tile + threadIdx.x / 32 * 16 * ATTN_PITCH(D));

#pragma unroll
	for (int k = 0; k < D / 16; k++)
		attn_ldmatrix(q[k], at + k * 32);
}

/* Scores of a step: n_cols of its columns are seen by some row of the tile. */
template <int D>
static __device__ __forceinline__ void
score_step(float (&s)[ATTN_STEP(D) / 8][4], const uint32_t (&q)[D / 16][4], const bf16 *keys,
           uint32_t n_cols)
{
#pragma unroll
	for (int b = 0; b < ATTN_STEP(D) / 8; b += 2)
		if (8 * b < (int) n_cols)
			attn_scores16<D>(s[b], s[b + 1], q, keys, 8 * b);
		else
#pragma unroll
			for (int c = 0; c < 4; c++)
				s[b][c] = s[b + 1][c] = -INFINITY;
}

/* The same with queries in shared memory: one operand at a time is in registers. */
template <int D>
static __device__ __forceinline__ void
score_step_shared(float (&s)[ATTN_STEP(D) / 8][4], const bf16 *queries, const bf16 *keys)
{
	const uint32_t q_at = attn_a_at<D>(queries + threadIdx.x / 32 * 16 * ATTN_PITCH(D));
	const uint32_t k_at = attn_k_at<D>(keys);

#pragma unroll
	for (int b = 0; b < ATTN_STEP(D) / 8; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			s[b][c] = 0.0f;
#pragma unroll 1
	for (int k = 0; k < D / 16; k++)
	{
		uint32_t q[4], key[4];

		attn_ldmatrix(q, q_at + k * 32);
#pragma unroll
		for (int b = 0; b < ATTN_STEP(D) / 8; b += 2)
		{
			attn_ldmatrix(key, k_at + 8 * b * ATTN_PITCH(D) * 2 + k * 32);
			attn_mma(s[b], q, key[0], key[1]);
			attn_mma(s[b + 1], q, key[2], key[3]);
		}
	}
}

/* Puts the part that ends aside, behind those before, and begins the next. */
template <int D>
static __device__ __forceinline__ void
end_part(prefill_rows<D> &x, float4 *aside, bool first, float factor)
{
	float keep[2], add[2];

#pragma unroll
	for (int h = 0; h < 2; h++)
		attn_fold(&x.total.max[h], &x.total.sum[h], x.state.max[h], attn_row_sum(x.state, h),
		          factor, &keep[h], &add[h]);
#pragma unroll
	for (int b = 0; b < D / 8; b++)
	{
		float4 before = first ? make_float4(0, 0, 0, 0) : aside[b * THREADS];

		aside[b * THREADS] = make_float4(attn_fold_x(before.x, x.o[b][0], keep[0], add[0]),
		                                 attn_fold_x(before.y, x.o[b][1], keep[0], add[0]),
		                                 attn_fold_x(before.z, x.o[b][2], keep[1], add[1]),
		                                 attn_fold_x(before.w, x.o[b][3], keep[1], add[1]));
#pragma unroll
		for (int c = 0; c < 4; c++)
			x.o[b][c] = 0.0f;
	}
	attn_begin(x.state);
}

/* Ends the last part: divides and writes. */
template <int D>
static __device__ __forceinline__ void
write_rows(const cuda_attention &a, const attn_tile &t, prefill_rows<D> &x, const float4 *aside,
           bool first, float factor)
{
	float inv[2], keep[2], add[2];
	size_t at[2];

#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		uint32_t r = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * h;

		attn_fold(&x.total.max[h], &x.total.sum[h], x.state.max[h], attn_row_sum(x.state, h),
		          factor, &keep[h], &add[h]);
		inv[h] = 1.0f / x.total.sum[h];
		at[h] = r < t.n_rows ? attn_row_at(a.attn, t, t.row0 + r) : SIZE_MAX;
	}
	if (!first)
#pragma unroll
		for (int b = 0; b < D / 8; b++)
		{
			float4 before = aside[b * THREADS];

			x.o[b][0] = attn_fold_x(before.x, x.o[b][0], keep[0], add[0]);
			x.o[b][1] = attn_fold_x(before.y, x.o[b][1], keep[0], add[0]);
			x.o[b][2] = attn_fold_x(before.z, x.o[b][2], keep[1], add[1]);
			x.o[b][3] = attn_fold_x(before.w, x.o[b][3], keep[1], add[1]);
		}
	attn_write<D / 8>(a.out, x.o, inv, at);
}

/* Scores to weights, and what was summed before to the new maximum. */
template <int D>
static __device__ __forceinline__ void
weigh_step(float (&s)[ATTN_STEP(D) / 8][4], prefill_rows<D> &x, const cuda_plan &plan,
           const cuda_attention &a, const attn_tile &t, uint32_t s0, const attn_scale &scale)
{
	constexpr int NB = ATTN_STEP(D) / 8;
	const uint32_t slot = s0 + 2 * (threadIdx.x % 4);
	float max[2], shrink[2];
	bool inside = true;

	if (scale.inner != 0.0f)
		attn_cap<NB>(s, scale.inner);
#pragma unroll
	for (int h = 0; h < 2; h++)
		inside = inside && x.see[h].lo <= s0 && s0 + ATTN_STEP(D) <= x.see[h].hi;
	if (!__all_sync(0xffffffffu, inside))
	{
		if (t.tree)
			attn_mask_tree<NB>(s, x.see, plan, a.attn, t,
			                   t.row0 + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, slot);
		else
			attn_mask<NB>(s, x.see, slot);
	}
	attn_row_max<NB>(s, max);
	attn_weights<NB, false>(s, x.state, max, shrink, scale.factor);
#pragma unroll
	for (int b = 0; b < D / 8; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			x.o[b][c] *= shrink[c / 2];
}

/* Adds the weighted values of a step. */
template <int D>
static __device__ __forceinline__ void
sum_step(prefill_rows<D> &x, const float (&s)[ATTN_STEP(D) / 8][4], const bf16 *values,
         uint32_t n_cols)
{
#pragma unroll
	for (int b = 0; b < ATTN_STEP(D) / 8; b += 2)
		if (8 * b < (int) n_cols)
		{
			uint32_t p[4];

			attn_operand(p, s[b], s[b + 1]);
#pragma unroll
			for (int c = 0; c < D / 8; c += 2)
				attn_values16<D>(x.o[c], x.o[c + 1], p, values, 8 * b, 8 * c);
		}
}

/* Clears what a warp holds and finds what its rows see. */
template <int D>
static __device__ __forceinline__ void
begin_rows(prefill_rows<D> &x, const cuda_plan &plan, const cuda_attention &a, const attn_tile &t)
{
	attn_begin(x.state);
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		uint32_t r = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * h;

		x.total.max[h] = -INFINITY;
		x.total.sum[h] = 0.0f;
		x.see[h] = attn_row_range(plan, a.attn, t, t.row0 + r);
	}
#pragma unroll
	for (int b = 0; b < D / 8; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			x.o[b][c] = 0.0f;
}

/* One tile, from its first key step to its last. */
template <int D>
static __device__ __forceinline__ void
do_tile(const cuda_plan &plan, const cuda_attention &a, const attn_tile &t, bf16 *shared,
        float4 *aside)
{
	using shape = prefill_shape<D>;
	bf16 *keys = shared;
	bf16 *values = shared + shape::TILE;
	bf16 *queries = shape::Q_SHARED ? values + shape::TILE : keys;
	const attn_source k = attn_source_of(plan, a, t, 0);
	const attn_source v = attn_source_of(plan, a, t, 1);
	const attn_scale scale = attn_scale_of(a.attn);
	const uint32_t start = t.key0 / shape::STEP * shape::STEP;
	prefill_rows<D> x;
	uint32_t q[shape::Q_SHARED ? 1 : D / 16][4];
	bool first = true;

	load_queries<D>(queries, a, t);
	begin_rows<D>(x, plan, a, t);
	attn_wait<0>();
	__syncthreads();
	if constexpr (!shape::Q_SHARED)
	{
		read_queries<D>(q, queries);
		__syncthreads();
	}
	load_step<D>(keys, k, start);
	for (uint32_t s0 = start; s0 < t.key1; s0 += shape::STEP)
	{
		float s[shape::STEP / 8][4];

		attn_wait<0>();
		__syncthreads(); /* keys are here; nobody reads values */
		load_step<D>(values, v, s0);
		if (s0 > start && s0 % ATTN_SPLIT == 0)
		{
			end_part<D>(x, aside, first, scale.factor);
			first = false;
		}
		if constexpr (shape::Q_SHARED)
			score_step_shared<D>(s, queries, keys);
		else
			score_step<D>(s, q, keys, t.key1 - s0);
		__syncthreads(); /* nobody reads keys */
		if (s0 + shape::STEP < t.key1)
			load_step<D>(keys, k, s0 + shape::STEP);
		else
			attn_commit();
		weigh_step<D>(s, x, plan, a, t, s0, scale);
		attn_wait<1>();
		__syncthreads(); /* values are here */
		sum_step<D>(x, s, values, t.key1 - s0);
	}
	write_rows<D>(a, t, x, aside, first, scale.factor);
}

/* Takes tiles from the list until it ends. */
template <int D>
static __global__ void
__launch_bounds__(THREADS) prefill_kernel(cuda_plan plan, cuda_attention a)
{
	ATTN_SHARED(prefill_shared);
	__shared__ attn_tile tile;
	__shared__ bool any;
	const uint32_t group = a.attn.n_heads / a.attn.n_kv_heads;
	float4 *aside = (float4 *) a.partial + (size_t) blockIdx.x * (D / 8) * THREADS + threadIdx.x;
	attn_walk walk = {0, 0};

	for (uint32_t i = 0;; i++)
	{
		__syncthreads(); /* the tile before is done with all that is shared */
		if (threadIdx.x < 32)
		{
			uint32_t n = attn_turn(i);
			uint32_t item, row;
			bool found = attn_walk_to(&walk, plan.prefill, plan.counts->n_prefill, group, ROWS,
			                          n / a.attn.n_kv_heads, &item, &row);

			if (threadIdx.x == 0 && (any = found))
				attn_tile_set(&tile, plan, a.attn, plan.prefill[item], n % a.attn.n_kv_heads,
				              row * ROWS, ROWS);
		}
		__syncthreads();
		if (!any)
			return;
		const attn_tile t = tile;

		do_tile<D>(plan, a, t, prefill_shared, aside);
	}
}

/* Blocks of the grid: what the card holds at once. */
template <int D>
static cudaError_t
grid_of(const pp_cuda *cu, int *n_blocks)
{
	cudaError_t error =
	    cudaFuncSetAttribute(prefill_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
	                         prefill_shape<D>::BYTES);

	if (error == cudaSuccess)
		error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(n_blocks, prefill_kernel<D>, THREADS,
		                                                      prefill_shape<D>::BYTES);
	*n_blocks = (*n_blocks < 1 ? 1 : *n_blocks < BLOCKS_MAX ? *n_blocks : BLOCKS_MAX) * cu->n_sms;
	return error;
}

/* Launches the kernel for a head size. */
template <int D>
static cudaError_t
launch(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	const uint32_t group = a->attn.n_heads / a->attn.n_kv_heads;
	size_t tiles = (size_t) plan->max_prefill * a->attn.n_kv_heads *
	               ((ATTN_Q_BLOCK * group + ROWS - 1) / ROWS);
	int n_blocks;
	cudaError_t error = grid_of<D>(cu, &n_blocks);

	if (error != cudaSuccess || tiles == 0)
		return error;
	if (tiles < (size_t) n_blocks)
		n_blocks = (int) tiles;
	return attn_launch(cu, prefill_kernel<D>, n_blocks, THREADS, prefill_shape<D>::BYTES, *plan,
	                   *a);
}

/* See cuda.cuh. */
bool
cuda_prefill_takes(const pp_cuda *cu, const pp_attn *attn)
{
	const uint32_t d = attn->d_head;

	if (attn->n_kv_heads == 0 || attn->n_heads % attn->n_kv_heads != 0)
		return false;
	return cuda_hopper_takes(cu, attn) ||
	       (cu->arch >= 80 && (d == 32 || d == 64 || d == 80 || d == 96 || d == 128 || d == 256));
}

/* See cuda.cuh: tiles of attention_hopper.cu have 128 rows. */
bool
cuda_prefill_joins(const pp_attn *attn, uint32_t n_chain, uint32_t n_tree)
{
	const uint32_t group = attn->n_heads / attn->n_kv_heads;
	const uint32_t queries = n_chain % ATTN_Q_BLOCK;
	const uint32_t room = (128 - queries * group % 128) % 128;

	return queries + n_tree <= ATTN_Q_BLOCK && n_tree * group <= room;
}

/* Blocks of ATTN_Q_BLOCK queries. */
uint32_t
cuda_prefill_plan(cuda_item *items, uint32_t max, uint32_t seg, const pp_segment *s, bool causal)
{
	uint32_t n = 0;

	for (uint32_t q0 = 0; q0 < s->n_new && n < max; q0 += ATTN_Q_BLOCK)
	{
		uint32_t left = s->n_new - q0;
		uint32_t n_q = left < ATTN_Q_BLOCK ? left : ATTN_Q_BLOCK;
		uint32_t k1 = causal ? s->n_past + q0 + n_q : s->n_new;

		items[n++] = cuda_item{seg, q0, n_q, 0, k1, PP_CUDA_NONE};
	}
	return n;
}

/* Every segment may end in a block that is not full. */
uint32_t
cuda_prefill_items_max(uint32_t n_tokens, uint32_t n_segs)
{
	return n_tokens / ATTN_Q_BLOCK + n_segs;
}

/* A tile for each block of the grid; the kernel of attention_hopper.cu keeps parts to itself. */
size_t
cuda_prefill_partial_floats(const pp_cuda *cu, const pp_attn *attn)
{
	return cuda_hopper_takes(cu, attn) ? 0 : (size_t) cu->n_sms * BLOCKS_MAX * ROWS * attn->d_head;
}

/* See cuda.cuh. */
cudaError_t
cuda_attention_prefill(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	if (cuda_hopper_takes(cu, &a->attn))
		return cuda_attention_hopper(cu, plan, a);
	switch (a->attn.d_head)
	{
		case 32:
			return launch<32>(cu, plan, a);
		case 64:
			return launch<64>(cu, plan, a);
		case 80:
			return launch<80>(cu, plan, a);
		case 96:
			return launch<96>(cu, plan, a);
		case 128:
			return launch<128>(cu, plan, a);
		case 256:
			return launch<256>(cu, plan, a);
		default:
			return cudaErrorInvalidValue;
	}
}
