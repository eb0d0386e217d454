/*
 * attention_hopper.cu: attention_prefill.cu for cards with sm_90a and heads of 64 or 128: the same
 * items, the same sums, by wgmma and the bulk copy engine (FlashAttention-3, arXiv 2407.08608).
 *
 * A block works on tiles of 128 rows. Two groups of four warps compute, 64 rows each; a third one
 * fetches: one thread sends for boxes of keys and values (64 slots × 64 elements: a page's block is
 * Dh / 64 of them), three warps gather the rows of q, which the heads of a group interleave. Rings
 * of two steps of keys and of values connect them, so that the fetcher is a tile ahead at the end
 * of one. The block lives as long as the list, which the fetchers walk; the grid is one block a
 * multiprocessor.
 *
 * A computing group has the scores of the next step under way while the weights of this one are
 * multiplied with values, and the two groups take turns: one has the tensor cores while the other
 * computes exponentials.
 *
 * Finished parts of long sequences wait in shared memory (attn_fold).
 *
 * Shared memory, from an address aligned to 1024: q, keys, values, parts, then barriers.
 */
#include "attention_wgmma.cuh"

#define ROWS    128
#define STEP    128
#define RING    2
#define THREADS 384
#define LOADERS 96 /* threads that gather q */

#define BAR_TURN 1 /* named barriers: two for turns, two for a computing group each */
#define BAR_OWN  3

/* A block's shared memory. */
template <int D> struct hopper_shared
{
	bf16 q[ROWS * D];
	bf16 k[RING][STEP * D];
	bf16 v[RING][STEP * D];
	float4 aside[D / 8][256];
	uint64_t q_full, q_empty;
	uint64_t k_full[RING], k_empty[RING];
	uint64_t v_full[RING], v_empty[RING];
	attn_tile tile; /* that of q; n_rows = 0: the list has ended */
};

/* Keys and values as the copy engine sees them: [Dh, slot, head, page] or [Dh, token, head, 1]. */
struct hopper_maps
{
	CUtensorMap k, v;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* A place in a ring. */
struct ring_at
{
	uint32_t i;
	uint32_t parity;
};

/* The next place. */
static __device__ __forceinline__ void
ring_next(ring_at *r)
{
	r->i++;
	if (r->i == RING)
	{
		r->i = 0;
		r->parity ^= 1;
	}
}

/* Sends for one step of keys or values. */
template <int D>
static __device__ __forceinline__ void
fetch_step(bf16 *to, const CUtensorMap *map, uint64_t *bar, const cuda_plan &plan,
           const pp_attn &attn, const attn_tile &t, uint32_t s0, uint32_t v)
{
	const uint32_t last = (t.key1 - 1) / PP_CUDA_PAGE;

	barrier_expect(bar, STEP * D * 2);
	for (uint32_t half = 0; half < 2; half++)
	{
		/* a step may reach beyond the last page: that one comes twice, and is masked */
		uint32_t p = s0 / PP_CUDA_PAGE + half;
		uint32_t page = attn.causal ? plan.words[t.page0 + (p < last ? p : last)] : 0;
		uint32_t row = attn.causal ? 0 : t.first_token + s0 + half * 64;
		uint32_t head = t.kv_head + (attn.causal && v ? attn.n_kv_heads : 0);

		for (uint32_t c = 0; c < D / 64; c++)
			bulk_box4(to + c * STEP * 64 + half * 64 * 64, map, bar, c * 64, row, head, page);
	}
}

/* One thread: keys and values of all tiles of the block. */
template <int D>
static __device__ __forceinline__ void
fetch_tile(hopper_shared<D> *sh, const hopper_maps *maps, const cuda_plan &plan,
           const pp_attn &attn, const attn_tile &t, ring_at *at)
{
	for (uint32_t s0 = t.key0 / STEP * STEP; s0 < t.key1; s0 += STEP)
	{
		barrier_wait(&sh->k_empty[at->i], at->parity ^ 1);
		fetch_step<D>(sh->k[at->i], &maps->k, &sh->k_full[at->i], plan, attn, t, s0, 0);
		barrier_wait(&sh->v_empty[at->i], at->parity ^ 1);
		fetch_step<D>(sh->v[at->i], &maps->v, &sh->v_full[at->i], plan, attn, t, s0, 1);
		ring_next(at);
	}
}

/*
 * Three warps: the tile's rows of q, swizzled as the copy engine would; zeros behind them. A thread
 * has one chunk of every PER-th row, and steps from row to row without dividing.
 */
template <int D>
static __device__ __forceinline__ void
gather_queries(hopper_shared<D> *sh, const cuda_attention &a, const attn_tile &t)
{
	constexpr uint32_t CHUNKS = D / 8;
	constexpr uint32_t PER = LOADERS / CHUNKS;
	const uint32_t group = a.attn.n_heads / a.attn.n_kv_heads;
	const uint32_t c = (threadIdx.x - 32) % CHUNKS;
	const uint32_t first = (threadIdx.x - 32) / CHUNKS;
	const bf16 *from =
	    a.q + ((size_t) (t.first_token + t.q0) * a.attn.n_heads + (size_t) t.kv_head * group) * D +
	    c * 8;
	bf16 *to = sh->q + c / 8 * ROWS * 64;
	uint32_t query = (t.row0 + first) / group;
	uint32_t head = (t.row0 + first) % group;

	for (uint32_t r = first; r < ROWS; r += PER)
	{
		const bool valid = r < t.n_rows;

		asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
		                 (uint32_t) __cvta_generic_to_shared(to + r * 64 + (c % 8 ^ r % 8) * 8)),
		             "l"(from + (valid ? (size_t) query * a.attn.n_heads + head : 0) * D),
		             "r"(valid ? 16 : 0)
		             : "memory");
		head += PER % group;
		query += PER / group;
		if (head >= group)
		{
			head -= group;
			query++;
		}
	}
	asm volatile("cp.async.wait_all;" ::: "memory");
}

/* The fetching group: warp 0 keys and values, the others q; each walks the list for itself. */
template <int D>
static __device__ __forceinline__ void
fetch(hopper_shared<D> *sh, const hopper_maps *maps, const cuda_plan &plan, const cuda_attention &a)
{
	const uint32_t n_items = plan.counts->n_prefill;
	const uint32_t group = a.attn.n_heads / a.attn.n_kv_heads;
	attn_walk walk = {0, 0};
	ring_at at = {0, 0};

	for (uint32_t i = 0;; i++)
	{
		const uint32_t n = attn_turn(i);
		uint32_t item, tile;
		attn_tile t;

		t.n_rows = 0;
		if (attn_walk_to(&walk, plan.prefill, n_items, group, ROWS, n / a.attn.n_kv_heads, &item,
		                 &tile))
			attn_tile_set(&t, plan, a.attn, plan.prefill[item], n % a.attn.n_kv_heads, tile * ROWS,
			              ROWS);
		if (threadIdx.x >= 32)
		{
			barrier_wait(&sh->q_empty, i % 2 ^ 1);
			if (threadIdx.x == 32)
				sh->tile = t;
			if (t.n_rows > 0)
				gather_queries<D>(sh, a, t);
			fence_shared();
			barrier_arrive(&sh->q_full);
		}
		if (t.n_rows == 0)
			return;
		if (threadIdx.x == 0)
			fetch_tile<D>(sh, maps, plan, a.attn, t, &at);
		__syncwarp();
	}
}

/* What a computing group holds. */
template <int D> struct hopper_rows
{
	float s[STEP / 8][4];
	float o[D / 8][4];
	uint32_t p[STEP / 16][4];
	attn_state state;
	attn_total total;
	attn_range see[2];
	uint32_t row;   /* of this thread, in the tile; the other one is 8 below */
	bool aside;     /* whether there are parts aside */
	uint32_t group; /* 0 or 1 */
};

/* Sends off the scores of a step. */
template <int D>
static __device__ __forceinline__ void
score_step(hopper_rows<D> &x, uint32_t q, uint32_t k)
{
	hold(x.s);
	wgmma_fence();
#pragma unroll
	for (int n = 0; n < D / 16; n++)
	{
		const uint32_t at = n / 4 * STEP * 128 + n % 4 * 32;

		wgmma_128_scores(x.s, wgmma_operand(q + at, 16), wgmma_operand(k + at, 16), n > 0);
	}
	wgmma_commit();
	hold(x.s);
}

/* Sends off the product of the weights with the values of a step. */
template <int D>
static __device__ __forceinline__ void
sum_step(hopper_rows<D> &x, uint32_t v)
{
	hold(x.o);
	wgmma_fence();
#pragma unroll
	for (int n = 0; n < STEP / 16; n++)
		wgmma_values(x.o, x.p[n], wgmma_operand(v + n * 2048, STEP * 128));
	wgmma_commit();
	hold(x.o);
}

/* Lane 0 of each computing warp tells that a place is free. */
static __device__ __forceinline__ void
give_back(uint64_t *bar)
{
	__syncwarp();
	if (threadIdx.x % 32 == 0)
		barrier_arrive(bar);
}

/* Folds the part that ends behind those aside; last: the result stays in o. */
template <int D>
static __device__ __forceinline__ void
fold_part(hopper_shared<D> *sh, hopper_rows<D> &x, const float (&max)[2], const float (&sum)[2],
          float factor, bool last)
{
	float keep[2], add[2];

#pragma unroll
	for (int h = 0; h < 2; h++)
		attn_fold(&x.total.max[h], &x.total.sum[h], max[h], sum[h], factor, &keep[h], &add[h]);
	if (last && !x.aside)
		return;
#pragma unroll
	for (int b = 0; b < D / 8; b++)
	{
		float4 *at = &sh->aside[b][threadIdx.x - 128];
		float4 before = x.aside ? *at : make_float4(0, 0, 0, 0);
		float4 y = make_float4(attn_fold_x(before.x, x.o[b][0], keep[0], add[0]),
		                       attn_fold_x(before.y, x.o[b][1], keep[0], add[0]),
		                       attn_fold_x(before.z, x.o[b][2], keep[1], add[1]),
		                       attn_fold_x(before.w, x.o[b][3], keep[1], add[1]));

		if (!last)
			*at = y;
		x.o[b][0] = last ? y.x : 0.0f;
		x.o[b][1] = last ? y.y : 0.0f;
		x.o[b][2] = last ? y.z : 0.0f;
		x.o[b][3] = last ? y.w : 0.0f;
	}
	x.aside = true;
}

/* From scores to weights. */
template <int D>
static __device__ __forceinline__ void
weigh_step(hopper_rows<D> &x, const cuda_plan &plan, const cuda_attention &a, const attn_tile &t,
           uint32_t s0, const attn_scale &scale, float (&shrink)[2])
{
	float max[2];
	bool inside = true;

	if (scale.inner != 0.0f)
		attn_cap<STEP / 8>(x.s, scale.inner);
#pragma unroll
	for (int h = 0; h < 2; h++)
		inside = inside && x.see[h].lo <= s0 && s0 + STEP <= x.see[h].hi;
	if (!inside && t.tree)
		attn_mask_tree<STEP / 8>(x.s, x.see, plan, a.attn, t, t.row0 + x.row,
		                         s0 + 2 * (threadIdx.x % 4));
	else if (!inside)
		attn_mask<STEP / 8>(x.s, x.see, s0 + 2 * (threadIdx.x % 4));
	attn_row_max<STEP / 8>(x.s, max);
	attn_weights<STEP / 8, false>(x.s, x.state, max, shrink, scale.factor);
}

/* Weights as operands. */
template <int D>
static __device__ __forceinline__ void
pack_step(hopper_rows<D> &x)
{
#pragma unroll
	for (int n = 0; n < STEP / 16; n++)
		attn_operand(x.p[n], x.s[2 * n], x.s[2 * n + 1]);
}

/*
 * Behind an encoder's last token its neighbour's values stand in the tile: zeros, for a weight of
 * zero does not silence an infinity.
 */
template <int D>
static __device__ __forceinline__ void
clear_behind(bf16 *v, uint32_t n, uint32_t group)
{
	for (uint32_t i = n * 8 + threadIdx.x % 128; i < STEP * 8; i += 128)
		for (uint32_t c = 0; c < D / 64; c++)
			*(uint4 *) (v + c * STEP * 64 + i * 8) = make_uint4(0, 0, 0, 0);
	fence_shared();
	named_sync(BAR_OWN + (int) group, 128);
}

/* Waits for the values of step s0 and sends off their product. */
template <int D>
static __device__ __forceinline__ void
take_values(hopper_shared<D> *sh, hopper_rows<D> &x, const attn_tile &t, bool causal,
            const ring_at &at, uint32_t s0)
{
	barrier_wait(&sh->v_full[at.i], at.parity);
	if (!causal && s0 + STEP > t.key1)
		clear_behind<D>(sh->v[at.i], t.key1 - s0, x.group);
	sum_step<D>(x, (uint32_t) __cvta_generic_to_shared(sh->v[at.i]));
}

/* All steps of a tile but the last product's end. */
template <int D>
static __device__ __forceinline__ void
walk_keys(hopper_shared<D> *sh, hopper_rows<D> &x, const attn_tile &t, const cuda_plan &plan,
          const cuda_attention &a, ring_at *at)
{
	const attn_scale scale = attn_scale_of(a.attn);
	const uint32_t q = (uint32_t) __cvta_generic_to_shared(sh->q + x.group * 64 * 64);
	const uint32_t start = t.key0 / STEP * STEP;
	float shrink[2];
	ring_at before;

	barrier_wait(&sh->k_full[at->i], at->parity);
	named_sync(BAR_TURN + (int) x.group, 256);
	score_step<D>(x, q, (uint32_t) __cvta_generic_to_shared(sh->k[at->i]));
	named_arrive(BAR_TURN + 1 - (int) x.group, 256);
	wgmma_wait<0>();
	hold(x.s);
	give_back(&sh->k_empty[at->i]);
	weigh_step<D>(x, plan, a, t, start, scale, shrink);
	pack_step<D>(x);
	before = *at;
	ring_next(at);
	for (uint32_t s0 = start + STEP; s0 < t.key1; s0 += STEP)
	{
		const bool begins = s0 % ATTN_SPLIT == 0;
		float max[2], sum[2];

		barrier_wait(&sh->k_full[at->i], at->parity);
		named_sync(BAR_TURN + (int) x.group, 256);
		score_step<D>(x, q, (uint32_t) __cvta_generic_to_shared(sh->k[at->i]));
		take_values<D>(sh, x, t, a.attn.causal, before, s0 - STEP);
		named_arrive(BAR_TURN + 1 - (int) x.group, 256);
		wgmma_wait<1>();
		hold(x.s);
		give_back(&sh->k_empty[at->i]);
		if (begins)
		{
#pragma unroll
			for (int h = 0; h < 2; h++)
			{
				max[h] = x.state.max[h];
				sum[h] = attn_row_sum(x.state, h);
			}
			attn_begin(x.state);
		}
		weigh_step<D>(x, plan, a, t, s0, scale, shrink);
		wgmma_wait<0>();
		hold(x.o);
		give_back(&sh->v_empty[before.i]);
		if (begins)
			fold_part<D>(sh, x, max, sum, scale.factor, false);
		else
#pragma unroll
			for (int b = 0; b < D / 8; b++)
#pragma unroll
				for (int c = 0; c < 4; c++)
					x.o[b][c] *= shrink[c / 2];
		pack_step<D>(x);
		before = *at;
		ring_next(at);
	}
	give_back(&sh->q_empty);
	take_values<D>(sh, x, t, a.attn.causal, before, (t.key1 - 1) / STEP * STEP);
	wgmma_wait<0>();
	hold(x.o);
	give_back(&sh->v_empty[before.i]);
}

/* Prepares for a tile. */
template <int D>
static __device__ __forceinline__ void
begin_rows(hopper_rows<D> &x, const cuda_plan &plan, const pp_attn &attn, const attn_tile &t)
{
	attn_begin(x.state);
	x.aside = false;
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		x.total.max[h] = -INFINITY;
		x.total.sum[h] = 0.0f;
		x.see[h] = attn_row_range(plan, attn, t, t.row0 + x.row + 8 * h);
	}
#pragma unroll
	for (int b = 0; b < D / 8; b++)
#pragma unroll
		for (int c = 0; c < 4; c++)
			x.o[b][c] = 0.0f;
}

/* A computing group: tile after tile. */
template <int D>
static __device__ __forceinline__ void
compute(hopper_shared<D> *sh, const cuda_plan &plan, const cuda_attention &a)
{
	const float factor = attn_scale_of(a.attn).factor;
	hopper_rows<D> x;
	ring_at at = {0, 0};

	x.group = threadIdx.x / 128 - 1;
	x.row = x.group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
	if (x.group == 1)
		named_arrive(BAR_TURN, 256);
	for (uint32_t i = 0;; i++)
	{
		float sum[2], inv[2];
		size_t to[2];

		barrier_wait(&sh->q_full, i % 2);
		const attn_tile t = sh->tile;

		if (t.n_rows == 0)
			break;
		begin_rows<D>(x, plan, a.attn, t);
		walk_keys<D>(sh, x, t, plan, a, &at);
#pragma unroll
		for (int h = 0; h < 2; h++)
			sum[h] = attn_row_sum(x.state, h);
		fold_part<D>(sh, x, x.state.max, sum, factor, true);
#pragma unroll
		for (int h = 0; h < 2; h++)
		{
			uint32_t r = x.row + 8 * h;

			inv[h] = 1.0f / x.total.sum[h];
			to[h] = r < t.n_rows ? attn_row_at(a.attn, t, t.row0 + r) : SIZE_MAX;
		}
		attn_write<D / 8>(a.out, x.o, inv, to);
	}
	if (x.group == 0)
		named_sync(BAR_TURN, 256); /* takes the last turn, which nobody wants */
}

#endif /* __CUDA_ARCH_FEAT_SM90_ALL */

/* See above. */
template <int D>
static __global__ void
__launch_bounds__(THREADS, 1)
    hopper_kernel(const __grid_constant__ hopper_maps maps, const __grid_constant__ cuda_plan plan,
                  const __grid_constant__ cuda_attention a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
	extern __shared__ uint8_t hopper_memory[];
	hopper_shared<D> *sh =
	    (hopper_shared<D> *) (hopper_memory +
	                          (1024 - (uint32_t) __cvta_generic_to_shared(hopper_memory) % 1024) %
	                              1024);

	if (threadIdx.x == 0)
	{
		barrier_init(&sh->q_full, LOADERS);
		barrier_init(&sh->q_empty, 8);
		for (int i = 0; i < RING; i++)
		{
			barrier_init(&sh->k_full[i], 1);
			barrier_init(&sh->v_full[i], 1);
			barrier_init(&sh->k_empty[i], 8);
			barrier_init(&sh->v_empty[i], 8);
		}
		fence_shared();
	}
	__syncthreads();
	if (threadIdx.x < 128)
	{
		asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
		fetch<D>(sh, &maps, plan, a);
	}
	else
	{
		asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
		compute<D>(sh, plan, a);
	}
#endif
}

/* Describes keys or values: rows of a head, heads, pages; strides in elements. */
static bool
encode(CUtensorMap *map, const bf16 *data, uint32_t dh, const uint64_t (&n)[3],
       const uint64_t (&stride)[3])
{
	const cuuint64_t dims[4] = {dh, n[0], n[1], n[2]};
	const cuuint64_t bytes[3] = {stride[0] * 2, stride[1] * 2, stride[2] * 2};
	const cuuint32_t box[4] = {64, 64, 1, 1};

	return bulk_encode(map, data, 4, dims, bytes, box);
}

/* The maps of a layer. */
static bool
encode_layer(hopper_maps *maps, const cuda_plan *plan, const cuda_attention *a)
{
	const uint64_t dh = a->attn.d_head;
	const uint64_t n_kv = a->attn.n_kv_heads;

	if (a->attn.causal)
	{
		const uint64_t n[3] = {PP_CUDA_PAGE, 2 * n_kv, a->n_pages};
		const uint64_t stride[3] = {dh, PP_CUDA_PAGE * dh, 2 * n_kv * PP_CUDA_PAGE * dh};

		if (!encode(&maps->k, a->kv, a->attn.d_head, n, stride))
			return false;
		maps->v = maps->k;
		return true;
	}
	const uint64_t n[3] = {plan->max_tokens, n_kv, 1};
	const uint64_t stride[3] = {n_kv * dh, dh, plan->max_tokens * n_kv * dh};

	return encode(&maps->k, a->k, a->attn.d_head, n, stride) &&
	       encode(&maps->v, a->v, a->attn.d_head, n, stride);
}

/* Launches the kernel for a head size. */
template <int D>
static cudaError_t
launch(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	const int bytes = (int) sizeof(hopper_shared<D>) + 1024;
	const uint32_t group = a->attn.n_heads / a->attn.n_kv_heads;
	size_t tiles = (size_t) plan->max_prefill * a->attn.n_kv_heads *
	               ((ATTN_Q_BLOCK * group + ROWS - 1) / ROWS);
	hopper_maps maps;
	cudaError_t error =
	    cudaFuncSetAttribute(hopper_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);

	if (error != cudaSuccess || tiles == 0)
		return error;
	if (!encode_layer(&maps, plan, a))
		return cudaErrorInvalidValue;
	if (tiles > (size_t) cu->n_sms)
		tiles = (size_t) cu->n_sms;
	return attn_launch(cu, hopper_kernel<D>, (int) tiles, THREADS, bytes, maps, *plan, *a);
}

/* Whether this file has a kernel for the shape on this card. */
bool
cuda_hopper_takes(const pp_cuda *cu, const pp_attn *attn)
{
	return cu->arch == 90 && (attn->d_head == 64 || attn->d_head == 128);
}

/* As cuda_attention_prefill. */
cudaError_t
cuda_attention_hopper(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	return a->attn.d_head == 64 ? launch<64>(cu, plan, a) : launch<128>(cu, plan, a);
}
