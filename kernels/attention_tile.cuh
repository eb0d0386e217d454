/*
 * attention_tile.cuh: what the attention kernels share: who sees whom, the order of the sums, one
 * step of the softmax.
 *
 * The order of the sums is what makes a query's bits independent of its company. It is relative to
 * slot 0 of the sequence, and the same in attention_prefill.cu, attention_hopper.cu and
 * attention_decode.cu:
 *
 *	- keys are taken in steps of ATTN_STEP(Dh) slots; a step takes the maximum of its scores, then
 *	  scales what was summed before (online softmax, arXiv 1805.02867, 2205.14135);
 *	- after ATTN_SPLIT slots the sums begin anew; the parts are folded together in order
 *	  (attn_fold), so that decoding may compute them side by side;
 *	- a step's columns have four owners: columns 16w … 16w + 15 of each 64 belong to quarter w. The
 *	  sum of the weights of a row is kept for each lane and quarter, and added up at the end of a
 *	  part: lanes by butterflies, then quarters 0 … 3;
 *	- products run over 16 slots or 16 elements of a head a time, upwards.
 *
 * A step in which a row sees nothing leaves its sums as they were, bit for bit: so it matters not
 * which steps a tile takes for the sake of its other rows.
 *
 * Rows. The heads of a group share their keys, so a tile's rows are (query, head of the group)
 * pairs, query-major: row r of an item is query q0 + r / G, head r % G (PackGQA of FlashAttention).
 *
 * Fragments are those of mma.m16n8k16, which the accumulators of wgmma repeat: s[b][2h + e] is row
 * lane / 4 + 8h, column 8b + 2 (lane % 4) + e.
 */
#ifndef PP_ATTENTION_TILE_CUH
#define PP_ATTENTION_TILE_CUH

#include <string.h>

#include "attention_asm.cuh"

#define ATTN_SPLIT    1024u /* slots of a part */
#define ATTN_STEP(dh) ((dh) > 128 ? 64 : 128)
#define ATTN_Q_BLOCK  128u /* queries of a prefill item */
#define ATTN_LOG2E    1.4426950408889634f

/* attention_hopper.cu: the prefill list by wgmma, for shapes that it takes. */
bool cuda_hopper_takes(const pp_cuda *cu, const pp_attn *attn);
cudaError_t cuda_attention_hopper(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);

/* A tile of rows of one head group, as a kernel works on it. */
struct attn_tile
{
	uint32_t seg;
	uint32_t q0;   /* first query of its item */
	uint32_t row0; /* first row, counted from there */
	uint32_t n_rows;
	uint32_t kv_head;
	uint32_t first_token; /* of the segment */
	uint32_t n_past;
	uint32_t page0;
	uint32_t key0, key1; /* the slots that some row sees */
	bool tree;           /* some query stands in the segment's tree */
};

/* The slots [lo, hi) that a row sees. */
struct attn_range
{
	uint32_t lo, hi;
};

/* Who of a tree a row sees, beside its range: slot first + j by bit j. */
struct attn_kin
{
	const uint32_t *bits;
	uint32_t first;
	uint32_t n; /* 0: the row is not of a tree */
};

/* What is kept of two rows (lane / 4 and the one 8 below) between steps. */
struct attn_state
{
	float max[2];    /* raw scores; -inf: nothing seen yet */
	float sum[2][4]; /* of this lane's columns, by quarter */
};

/* The finished parts before, of two rows: scalars; the columns are the kernel's. */
struct attn_total
{
	float max[2];
	float sum[2];
};

/* How scores become exponents of 2. */
struct attn_scale
{
	float factor; /* of the score, or of the capped score */
	float inner;  /* softcap: tanh(inner / 2 · score · …), see attn_cap; 0: none */
};

/* The slots that query i of a segment sees. */
static __device__ __forceinline__ attn_range
attn_visible(const pp_attn &a, uint32_t n_past, uint32_t n_new, uint32_t i)
{
	const uint32_t at = n_past + i;
	attn_range r;

	if (a.causal)
	{
		r.lo = a.window > 0 && at >= a.window ? at - a.window + 1 : 0;
		r.hi = at + 1;
		return r;
	}
	r.lo = a.window > 0 && at > a.window / 2 ? at - a.window / 2 : 0;
	r.hi = a.window > 0 && a.window / 2 < n_new - at ? at + a.window / 2 + 1 : n_new;
	return r;
}

/* Scores are scaled before the exponential; a softcap takes the scale in. */
static __device__ __forceinline__ attn_scale
attn_scale_of(const pp_attn &a)
{
	attn_scale s;

	s.factor = a.softcap > 0.0f ? a.softcap * ATTN_LOG2E : a.scale * ATTN_LOG2E;
	s.inner = a.softcap > 0.0f ? 2.0f * ATTN_LOG2E * a.scale / a.softcap : 0.0f;
	return s;
}

/* tanh(s · scale / cap) of all scores: 1 − 2 / (e^2x + 1), good to 1e-6 wherever x is. */
template <int NB>
static __device__ __forceinline__ void
attn_cap(float (&s)[NB][4], float inner)
{
#pragma unroll
	for (int b = 0; b < NB; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			s[b][c] = 1.0f - __fdividef(2.0f, attn_exp2(fminf(s[b][c] * inner, 80.0f)) + 1.0f);
}

/* Hides what the rows do not see; slot is that of column 0 of the lane. */
template <int NB>
static __device__ __forceinline__ void
attn_mask(float (&s)[NB][4], const attn_range (&see)[2], uint32_t slot)
{
#pragma unroll
	for (int b = 0; b < NB; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
		{
			uint32_t key = slot + 8 * b + c % 2;

			if (key < see[c / 2].lo || key >= see[c / 2].hi)
				s[b][c] = -INFINITY;
		}
}

/* Whether a slot is kin to a row. */
static __device__ __forceinline__ bool
attn_is_kin(const attn_kin &kin, uint32_t slot)
{
	const uint32_t j = slot - kin.first;

	return j < kin.n && (kin.bits[j / 32] >> (j % 32) & 1) != 0;
}

/* The largest score of each row in the lane's quad. */
template <int NB>
static __device__ __forceinline__ void
attn_row_max(const float (&s)[NB][4], float (&max)[2])
{
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		max[h] = fmaxf(s[0][2 * h], s[0][2 * h + 1]);
#pragma unroll
		for (int b = 1; b < NB; b++)
			max[h] = fmaxf(max[h], fmaxf(s[b][2 * h], s[b][2 * h + 1]));
		max[h] = fmaxf(max[h], __shfl_xor_sync(0xffffffffu, max[h], 1));
		max[h] = fmaxf(max[h], __shfl_xor_sync(0xffffffffu, max[h], 2));
	}
}

/* Which quarter block b of a step belongs to. */
static __device__ __forceinline__ constexpr int
attn_quarter(int b)
{
	return b / 2 % 4;
}

/*
 * Turns scores into weights, given the maximum of the step, and takes them into the sums. shrink is
 * what the columns summed before must be multiplied by: exactly 1 when the maximum stays.
 * ONE: all blocks are of one quarter, whose sum is kept first.
 */
template <int NB, bool ONE>
static __device__ __forceinline__ void
attn_weights(float (&s)[NB][4], attn_state &st, const float (&step_max)[2], float (&shrink)[2],
             float factor)
{
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		float max = fmaxf(st.max[h], step_max[h]);
		float finite = max == -INFINITY ? 0.0f : max;
		float base = finite * factor;
		float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};

		shrink[h] = attn_exp2((st.max[h] - finite) * factor);
		st.max[h] = max;
#pragma unroll
		for (int b = 0; b < NB; b++)
		{
			s[b][2 * h] = attn_exp2(fmaf(s[b][2 * h], factor, -base));
			s[b][2 * h + 1] = attn_exp2(fmaf(s[b][2 * h + 1], factor, -base));
			sum[ONE ? 0 : attn_quarter(b)] += s[b][2 * h];
			sum[ONE ? 0 : attn_quarter(b)] += s[b][2 * h + 1];
		}
#pragma unroll
		for (int w = 0; w < (ONE ? 1 : 4); w++)
			st.sum[h][w] = fmaf(st.sum[h][w], shrink[h], sum[w]);
	}
}

/* Begins a part. */
static __device__ __forceinline__ void
attn_begin(attn_state &st)
{
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		st.max[h] = -INFINITY;
#pragma unroll
		for (int w = 0; w < 4; w++)
			st.sum[h][w] = 0.0f;
	}
}

/* The sum over a quad of lanes, for each of them. */
static __device__ __forceinline__ float
attn_quad_sum(float x)
{
	x += __shfl_xor_sync(0xffffffffu, x, 1);
	x += __shfl_xor_sync(0xffffffffu, x, 2);
	return x;
}

/* The sum of weights of row h in a part. */
static __device__ __forceinline__ float
attn_row_sum(const attn_state &st, int h)
{
	float sum = attn_quad_sum(st.sum[h][0]);

#pragma unroll
	for (int w = 1; w < 4; w++)
		sum += attn_quad_sum(st.sum[h][w]);
	return sum;
}

/*
 * Folds a part (max, sum) behind a total: new columns are total · keep + part · add (attn_fold_x).
 * A part, or a total, in which nothing was seen leaves the other as it is.
 */
static __device__ __forceinline__ void
attn_fold(float *total_max, float *total_sum, float max, float sum, float factor, float *keep,
          float *add)
{
	float both = fmaxf(*total_max, max);
	float finite = both == -INFINITY ? 0.0f : both;

	*keep = attn_exp2((*total_max - finite) * factor);
	*add = attn_exp2((max - finite) * factor);
	*total_max = both;
	*total_sum = fmaf(*total_sum, *keep, __fmul_rn(sum, *add));
}

/* A column of attn_fold. */
static __device__ __forceinline__ float
attn_fold_x(float total, float part, float keep, float add)
{
	return fmaf(total, keep, __fmul_rn(part, add));
}

/* Two floats as a pair of bf16, the first in the low half. */
static __device__ __forceinline__ uint32_t
attn_pack(float x, float y)
{
	__nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
	uint32_t bits;

	memcpy(&bits, &pair, sizeof(bits));
	return bits;
}

/* Weights of 16 columns as the A operand of the product with values. */
static __device__ __forceinline__ void
attn_operand(uint32_t (&p)[4], const float (&left)[4], const float (&right)[4])
{
	p[0] = attn_pack(left[0], left[1]);
	p[1] = attn_pack(left[2], left[3]);
	p[2] = attn_pack(right[0], right[1]);
	p[3] = attn_pack(right[2], right[3]);
}

/* Where row r of an item is in q and out: [T, H, Dh]. */
static __device__ __forceinline__ size_t
attn_row_at(const pp_attn &a, const attn_tile &t, uint32_t r)
{
	const uint32_t group = a.n_heads / a.n_kv_heads;
	const uint32_t token = t.first_token + t.q0 + r / group;

	return ((size_t) token * a.n_heads + t.kv_head * group + r % group) * a.d_head;
}

/*
 * What row r of an item sees; nothing when it is beyond the tile. A query of a tree sees a range
 * that ends where the tree begins, and its kin.
 */
static __device__ __forceinline__ attn_range
attn_row_range(const cuda_plan &plan, const pp_attn &a, const attn_tile &t, uint32_t r)
{
	const cuda_seg seg = plan.segs[t.seg];
	const uint32_t i = t.q0 + r / (a.n_heads / a.n_kv_heads);
	attn_range see;

	see.lo = see.hi = 0;
	if (r >= t.row0 + t.n_rows)
		return see;
	if (i < seg.n_chain)
		return attn_visible(a, t.n_past, seg.n_new, i);
	const uint32_t at = plan.pos[t.first_token + i]; /* tokens of a tree share positions */

	see.lo = a.window > 0 && at >= a.window ? at - a.window + 1 : 0;
	see.hi = t.n_past + seg.n_chain;
	return see;
}

/* The kin of row r of an item. */
static __device__ __forceinline__ attn_kin
attn_row_kin(const cuda_plan &plan, const pp_attn &a, const attn_tile &t, uint32_t r)
{
	const cuda_seg seg = plan.segs[t.seg];
	const uint32_t i = t.q0 + r / (a.n_heads / a.n_kv_heads);
	attn_kin kin;

	kin.first = t.n_past + seg.n_chain;
	kin.n = 0;
	kin.bits = plan.words;
	if (r >= t.row0 + t.n_rows || i < seg.n_chain)
		return kin;
	kin.n = i - seg.n_chain + 1;
	kin.bits += seg.kin0 + (size_t) (i - seg.n_chain) * cuda_kin_words(seg.n_new - seg.n_chain);
	return kin;
}

/* attn_mask for tiles with queries of a tree; the lane's rows are r and r + 8 of the item. */
template <int NB>
static __device__ __forceinline__ void
attn_mask_tree(float (&s)[NB][4], const attn_range (&see)[2], const cuda_plan &plan,
               const pp_attn &a, const attn_tile &t, uint32_t r, uint32_t slot)
{
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		const attn_kin kin = attn_row_kin(plan, a, t, r + 8 * h);
		uint32_t seen = 0; /* a bit a column: registers are scarce here, so the loop is rolled */

#pragma unroll 1
		for (uint32_t i = 0; i < 2 * NB; i++)
		{
			uint32_t key = slot + i / 2 * 8 + i % 2;

			if ((key >= see[h].lo && key < see[h].hi) || attn_is_kin(kin, key))
				seen |= 1u << i;
		}
#pragma unroll
		for (int i = 0; i < 2 * NB; i++)
			if ((seen >> i & 1) == 0)
				s[i / 2][2 * h + i % 2] = -INFINITY;
	}
}

/* Fills a tile: rows [row0, row0 + max) of an item. */
static __device__ __forceinline__ void
attn_tile_set(attn_tile *t, const cuda_plan &plan, const pp_attn &a, const cuda_item &item,
              uint32_t kv_head, uint32_t row0, uint32_t max)
{
	const uint32_t group = a.n_heads / a.n_kv_heads;
	const cuda_seg seg = plan.segs[item.seg];
	const uint32_t left = item.n_q * group - row0;
	const uint32_t n = left < max ? left : max;
	const uint32_t first = item.q0 + row0 / group;
	const uint32_t last = item.q0 + (row0 + n - 1) / group;

	t->seg = item.seg;
	t->q0 = item.q0;
	t->row0 = row0;
	t->n_rows = n;
	t->kv_head = kv_head;
	t->first_token = seg.first_token;
	t->n_past = seg.n_past;
	t->page0 = seg.page0;
	t->tree = last >= seg.n_chain;
	/* no query of a tree sees further back than its root, nor a slot behind its own */
	t->key0 = attn_visible(a, seg.n_past, seg.n_new, first < seg.n_chain ? first : seg.n_chain).lo;
	t->key1 = attn_visible(a, seg.n_past, seg.n_new, last).hi;
}

/*
 * A walk over the tiles of an item list by one warp. Items differ in how many tiles of max rows
 * they have, which hangs on the group of the layer; so the tile of a number is found by summing up
 * from where the walk last stood. Numbers must not fall by more than a round of the grid.
 */
struct attn_walk
{
	uint32_t item0; /* first of the 32 items looked at */
	uint32_t tile0; /* tiles of all items before it */
};

/* Finds tile number n (all lanes alike); false: there are fewer. */
static __device__ __forceinline__ bool
attn_walk_to(attn_walk *w, const cuda_item *items, uint32_t n_items, uint32_t group, uint32_t rows,
             uint32_t n, uint32_t *item, uint32_t *tile)
{
	const uint32_t lane = threadIdx.x % 32;

	if (n < w->tile0)
		w->item0 = w->tile0 = 0;
	for (; w->item0 < n_items; w->item0 += 32)
	{
		uint32_t i = w->item0 + lane;
		uint32_t own = i < n_items ? (items[i].n_q * group + rows - 1) / rows : 0;
		uint32_t end = own;

		for (int step = 1; step < 32; step *= 2)
		{
			uint32_t before = __shfl_up_sync(0xffffffffu, end, step);

			end += lane >= (uint32_t) step ? before : 0;
		}
		uint32_t all = __shfl_sync(0xffffffffu, end, 31);

		if (n - w->tile0 < all)
		{
			int at = __ffs((int) __ballot_sync(0xffffffffu, n - w->tile0 < end)) - 1;

			*item = w->item0 + (uint32_t) at;
			*tile = n - w->tile0 - __shfl_sync(0xffffffffu, end - own, at);
			return true;
		}
		w->tile0 += all;
	}
	return false;
}

/*
 * The number of the i-th tile of a block: rounds of the grid, every other one backwards, for lists
 * are sorted by falling cost.
 */
static __device__ __forceinline__ uint32_t
attn_turn(uint32_t i)
{
	return i * gridDim.x + (i % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
}

/*
 * Writes two rows of NB blocks: a quad of lanes turns four blocks about among itself, so that each
 * lane has 16 bytes of one block. at: where the rows are in out, or SIZE_MAX.
 */
template <int NB>
static __device__ __forceinline__ void
attn_write(bf16 *out, const float (&o)[NB][4], const float (&inv)[2], const size_t (&at)[2])
{
	const uint32_t t = threadIdx.x % 4;

#pragma unroll
	for (int h = 0; h < 2; h++)
#pragma unroll
		for (int b = 0; b < NB; b += 4)
		{
			uint32_t w[4];

#pragma unroll
			for (int j = 0; j < 4; j++)
				w[j] = b + j < NB ? attn_pack(o[b + j < NB ? b + j : 0][2 * h] * inv[h],
				                              o[b + j < NB ? b + j : 0][2 * h + 1] * inv[h])
				                  : 0;
				/* w[j] of lane t becomes w[t] of lane j: the halves, then the pairs */
#pragma unroll
			for (int j = 0; j < 2; j++)
			{
				uint32_t give = t & 2 ? w[j] : w[j + 2];
				uint32_t got = __shfl_xor_sync(0xffffffffu, give, 2);

				w[j] = t & 2 ? got : w[j];
				w[j + 2] = t & 2 ? w[j + 2] : got;
			}
#pragma unroll
			for (int j = 0; j < 4; j += 2)
			{
				uint32_t give = t & 1 ? w[j] : w[j + 1];
				uint32_t got = __shfl_xor_sync(0xffffffffu, give, 1);

				w[j] = t & 1 ? got : w[j];
				w[j + 1] = t & 1 ? w[j + 1] : got;
			}
			if (at[h] != SIZE_MAX && b + (int) t < NB)
				*(uint4 *) (out + at[h] + 8 * (b + t)) = make_uint4(w[0], w[1], w[2], w[3]);
		}
}

#endif /* PP_ATTENTION_TILE_CUH */
