/*
 * attention_decode.cu: attention of a few new tokens over a long history in pages.
 *
 *	out[t, h] = Σ_s p_s v_s,  p = softmax over the slots s that token t sees of scale · q·k_s
 *
 * Bound by the bytes of the history, so that the point is to have many of them under way: keys are
 * split into parts of ATTN_SPLIT slots (an item each; fixed, whatever the batch), and blocks are
 * small, so that a multiprocessor holds several of them. A block takes one part, one KV head and 16
 * (query, head of the group) rows; more rows are more blocks, which find the pages in L2.
 *
 * The four warps share one tile of rows: in a step each computes the scores of its quarter of the
 * columns, they agree on the maximum, put their weights into shared memory, and then each sums its
 * own columns of the values. Every element thus goes through the same instructions in the same
 * order as in attention_prefill.cu, and gets the same bits.
 *
 * Keys and values come through a ring of pieces of 64 slots: step by step the pieces of the keys,
 * then those of the values. Its length hangs on how many blocks there are; bits do not hang on it.
 *
 * A segment of more than one part leaves sums in a.partial; a second kernel folds them in order.
 *
 * Grid: (max_decode, KV heads, groups of 16 rows), 128 threads. Shared memory: the ring.
 */
#include "attention_mma.cuh"

#define THREADS 128
#define ROWS    16

/* The ring: short where many blocks share a multiprocessor, long where few blocks must fill it. */
template <int D> struct decode_shape
{
	static constexpr int HALVES = ATTN_STEP(D) / 64;
	static constexpr int PIECE = 64 * ATTN_PITCH(D);
	static constexpr int SHORT = D > 128 ? 2 : 3;
	static constexpr int LONG = D > 128 ? 4 : 8;
};

/* What the warps of a block tell each other. */
template <int D> struct decode_shared
{
	uint32_t weights[ROWS][ATTN_STEP(D) / 2 + 4]; /* pairs of bf16; padded as the tiles are */
	float max[4][ROWS];
	float sum[4][ROWS];
	uint32_t pages[ATTN_SPLIT / PP_CUDA_PAGE];
};

/* The slots of a block, and where their pages are. */
struct decode_part
{
	uint32_t start, end; /* start is a step's first slot */
	uint32_t n_pieces;
	const bf16 *keys, *values; /* of the head, in page 0 */
	size_t block;              /* elements from page to page */
};

/* What a warp holds: columns of o in pairs of blocks warp, warp + 4, … */
template <int D> struct decode_rows
{
	static constexpr int PAIRS = (D / 16 + 3) / 4;
	float o[PAIRS][2][4];
	attn_state state; /* sum[h][0] alone: the warp's quarter */
	attn_range see[2];
};

/* Where the partial sums of a query and head are. */
static __device__ __forceinline__ float *
partial_at(const cuda_attention &a, uint32_t partial, uint32_t query, uint32_t head)
{
	return a.partial + (((size_t) partial * PP_CUDA_DECODE_MAX + query) * a.attn.n_heads + head) *
	                       (a.attn.d_head + 2);
}

/* Reads the rows of q as operands, straight from memory; rows beyond the tile are zeros. */
template <int D>
static __device__ __forceinline__ void
read_queries(uint32_t (&q)[D / 16][4], const cuda_attention &a, const attn_tile &t)
{
	const uint32_t lane = threadIdx.x % 32;

#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		uint32_t r = lane / 4 + 8 * h;
		bool valid = r < t.n_rows;
		const bf16 *row = a.q + attn_row_at(a.attn, t, t.row0 + (valid ? r : 0)) + lane % 4 * 2;

#pragma unroll
		for (int k = 0; k < D / 16; k++)
		{
			q[k][h] = valid ? *(const uint32_t *) (row + k * 16) : 0;
			q[k][2 + h] = valid ? *(const uint32_t *) (row + k * 16 + 8) : 0;
		}
	}
}

/* Sends for piece number n of the part, if there is one; a group either way. */
template <int D>
static __device__ __forceinline__ void
load_piece(bf16 *ring, uint32_t n_ring, uint32_t n, const decode_part &part, const uint32_t *pages)
{
	constexpr uint32_t HALVES = decode_shape<D>::HALVES;

	if (n < part.n_pieces)
	{
		uint32_t piece = n % (2 * HALVES);
		uint32_t page = n / (2 * HALVES) * HALVES + piece % HALVES;

		attn_load64<D, THREADS>(ring + n % n_ring * decode_shape<D>::PIECE,
		                        (piece < HALVES ? part.keys : part.values) +
		                            pages[page] * part.block,
		                        D, (int) (part.end - part.start - page * 64));
	}
	attn_commit();
}

/* Hides what the rows do not see among the warp's quarter of the columns. */
template <int D>
static __device__ __forceinline__ void
hide(float (&s)[2 * decode_shape<D>::HALVES][4], const decode_rows<D> &x, const cuda_plan &plan,
     const cuda_attention &a, const attn_tile &t, uint32_t s0)
{
	constexpr int N = 4 * decode_shape<D>::HALVES; /* columns of a lane */
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t slot = s0 + threadIdx.x / 32 * 16 + lane % 4 * 2;
	const bool tree = t.tree && s0 + ATTN_STEP(D) > t.n_past;

#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		uint32_t kin = 0; /* a bit a column, by a rolled loop: few tiles have trees */

		if (tree)
		{
			const attn_kin k = attn_row_kin(plan, a.attn, t, t.row0 + lane / 4 + 8 * h);

#pragma unroll 1
			for (uint32_t i = 0; i < N; i++)
				kin |= (uint32_t) attn_is_kin(k, slot + i / 4 * 64 + i / 2 % 2 * 8 + i % 2) << i;
		}
#pragma unroll
		for (int i = 0; i < N; i++)
		{
			uint32_t key = slot + i / 4 * 64 + i / 2 % 2 * 8 + i % 2;

			if ((key < x.see[h].lo || key >= x.see[h].hi) && (kin >> i & 1) == 0)
				s[i / 2][2 * h + i % 2] = -INFINITY;
		}
	}
}

/* From the scores of the warp's quarter to weights in shared memory. */
template <int D>
static __device__ __forceinline__ void
weigh(float (&s)[2 * decode_shape<D>::HALVES][4], decode_rows<D> &x, decode_shared<D> *sh,
      const cuda_plan &plan, const cuda_attention &a, const attn_tile &t, uint32_t s0,
      const attn_scale &scale)
{
	constexpr int NB = 2 * decode_shape<D>::HALVES;
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t warp = threadIdx.x / 32;
	float max[2], shrink[2];

	if (scale.inner != 0.0f)
		attn_cap<NB>(s, scale.inner);
	hide<D>(s, x, plan, a, t, s0);
	attn_row_max<NB>(s, max);
	if (lane % 4 == 0)
		for (int h = 0; h < 2; h++)
			sh->max[warp][lane / 4 + 8 * h] = max[h];
	__syncthreads(); /* all maxima are there, and nobody reads the weights before */
#pragma unroll
	for (int h = 0; h < 2; h++)
		for (int w = 0; w < 4; w++)
			max[h] = fmaxf(max[h], sh->max[w][lane / 4 + 8 * h]);
	attn_weights<NB, true>(s, x.state, max, shrink, scale.factor);
#pragma unroll
	for (int b = 0; b < NB; b++)
#pragma unroll
		for (int h = 0; h < 2; h++)
			sh->weights[lane / 4 + 8 * h][b / 2 * 32 + warp * 8 + b % 2 * 4 + lane % 4] =
			    attn_pack(s[b][2 * h], s[b][2 * h + 1]);
#pragma unroll
	for (int i = 0; i < decode_rows<D>::PAIRS; i++)
#pragma unroll
		for (int c = 0; c < 8; c++)
			x.o[i][c / 4][c % 4] *= shrink[c % 4 / 2];
}

/* Adds 64 weighted values to the warp's columns. */
template <int D>
static __device__ __forceinline__ void
sum_piece(decode_rows<D> &x, const decode_shared<D> *sh, const bf16 *values, int half)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t warp = threadIdx.x / 32;

#pragma unroll
	for (int b = 0; b < 4; b++)
	{
		uint32_t p[4];

		attn_ldmatrix(p, attn_shared(&sh->weights[lane % 16][half * 32 + b * 8 + lane / 16 * 4]));
#pragma unroll
		for (int i = 0; i < decode_rows<D>::PAIRS; i++)
			if (D / 16 % 4 == 0 || warp + 4 * i < D / 16)
				attn_values16<D>(x.o[i][0], x.o[i][1], p, values, 16 * b, 16 * (warp + 4 * i));
	}
}

/* Finds the slots of a block and reads their page numbers. */
template <int D>
static __device__ __forceinline__ decode_part
find_part(const cuda_plan &plan, const cuda_attention &a, const attn_tile &t, const cuda_item &item,
          uint32_t *pages)
{
	const attn_source k = attn_source_of(plan, a, t, 0);
	const uint32_t low = item.k0 > t.key0 ? item.k0 : t.key0;
	decode_part part;

	part.start = low / ATTN_STEP(D) * ATTN_STEP(D);
	part.end = item.k1 < t.key1 ? item.k1 : t.key1;
	part.n_pieces = low < part.end ? (part.end - part.start + ATTN_STEP(D) - 1) / ATTN_STEP(D) *
	                                     (ATTN_STEP(D) / 32)
	                               : 0;
	part.keys = k.base;
	part.values = attn_source_of(plan, a, t, 1).base;
	part.block = k.block;
	if (part.n_pieces > 0 && k.block > 0 && threadIdx.x < ATTN_SPLIT / PP_CUDA_PAGE)
	{
		uint32_t page = part.start / PP_CUDA_PAGE + threadIdx.x;
		uint32_t last = (part.end - 1) / PP_CUDA_PAGE;

		pages[threadIdx.x] = k.pages[page < last ? page : last];
	}
	__syncthreads();
	return part;
}

/* Walks the steps of a part through the ring. */
template <int D, int RING>
static __device__ __forceinline__ void
walk_part(const cuda_plan &plan, const cuda_attention &a, const attn_tile &t,
          const decode_part &part, bf16 *ring, decode_rows<D> &x, decode_shared<D> *sh)
{
	constexpr int HALVES = decode_shape<D>::HALVES;
	const attn_scale scale = attn_scale_of(a.attn);
	uint32_t q[D / 16][4];

	for (uint32_t n = 0; n < RING - 1; n++)
		load_piece<D>(ring, RING, n, part, sh->pages);
	read_queries<D>(q, a, t);
	for (uint32_t n0 = 0; n0 < part.n_pieces; n0 += 2 * HALVES)
	{
		float s[2 * HALVES][4];

#pragma unroll
		for (int piece = 0; piece < 2 * HALVES; piece++)
		{
			const uint32_t n = n0 + piece;
			const bf16 *tile = ring + n % RING * decode_shape<D>::PIECE;

			attn_wait<RING - 2>();
			__syncthreads(); /* piece n is here, nobody reads piece n − 1 */
			load_piece<D>(ring, RING, n + RING - 1, part, sh->pages);
			if (piece < HALVES)
				attn_scores16<D>(s[2 * piece], s[2 * piece + 1], q, tile,
				                 (int) (threadIdx.x / 32 * 16));
			else
				sum_piece<D>(x, sh, tile, piece - HALVES);
			if (piece == HALVES - 1)
				weigh<D>(s, x, sh, plan, a, t, part.start + n0 / (2 * HALVES) * ATTN_STEP(D),
				         scale);
		}
	}
	attn_wait<0>();
}

/* Writes the rows of a block: divided to out, or as they are to a.partial. */
template <int D>
static __device__ __forceinline__ void
write_rows(const cuda_attention &a, const attn_tile &t, uint32_t partial, decode_rows<D> &x,
           decode_shared<D> *sh)
{
	const uint32_t group = a.attn.n_heads / a.attn.n_kv_heads;
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t warp = threadIdx.x / 32;

#pragma unroll
	for (int h = 0; h < 2; h++)
		sh->sum[warp][lane / 4 + 8 * h] = attn_quad_sum(x.state.sum[h][0]);
	__syncthreads();
#pragma unroll
	for (int h = 0; h < 2; h++)
	{
		const uint32_t i = lane / 4 + 8 * h;
		const uint32_t r = t.row0 + i;
		const float sum = ((sh->sum[0][i] + sh->sum[1][i]) + sh->sum[2][i]) + sh->sum[3][i];
		const float inv = 1.0f / sum;

		if (i >= t.n_rows)
			continue;
		float *part = partial_at(a, partial, t.q0 + r / group, t.kv_head * group + r % group);
		bf16 *out = a.out + attn_row_at(a.attn, t, r);

		if (partial != PP_CUDA_NONE && warp == 0 && lane % 4 == 0)
			*(float2 *) (part + D) = make_float2(x.state.max[h], sum);
#pragma unroll
		for (int c = 0; c < 2 * decode_rows<D>::PAIRS; c++)
		{
			const uint32_t column = (warp + c / 2 * 4) * 16 + c % 2 * 8 + lane % 4 * 2;
			const float left = x.o[c / 2][c % 2][2 * h];
			const float right = x.o[c / 2][c % 2][2 * h + 1];

			if (column >= D)
				continue;
			if (partial != PP_CUDA_NONE)
				*(float2 *) (part + column) = make_float2(left, right);
			else
				*(uint32_t *) (out + column) = attn_pack(left * inv, right * inv);
		}
	}
}

/* One part of one segment, one KV head, 16 rows. */
template <int D, int RING>
static __global__ void
__launch_bounds__(THREADS, D > 128 || RING == decode_shape<D>::LONG ? 2 : 4)
    decode_kernel(cuda_plan plan, cuda_attention a)
{
	ATTN_SHARED(decode_ring);
	__shared__ decode_shared<D> shared;
	const uint32_t group = a.attn.n_heads / a.attn.n_kv_heads;
	const uint32_t row0 = blockIdx.z * ROWS;
	decode_rows<D> x;
	attn_tile t;

	if (blockIdx.x >= plan.counts->n_decode)
		return;
	const cuda_item item = plan.decode[blockIdx.x];

	if (row0 >= item.n_q * group)
		return;
	attn_tile_set(&t, plan, a.attn, item, blockIdx.y, row0, ROWS);
	const decode_part part = find_part<D>(plan, a, t, item, shared.pages);

	attn_begin(x.state);
#pragma unroll
	for (int h = 0; h < 2; h++)
		x.see[h] = attn_row_range(plan, a.attn, t, row0 + threadIdx.x % 32 / 4 + 8 * h);
#pragma unroll
	for (int i = 0; i < decode_rows<D>::PAIRS; i++)
#pragma unroll
		for (int c = 0; c < 8; c++)
			x.o[i][c / 4][c % 4] = 0.0f;
	walk_part<D, RING>(plan, a, t, part, decode_ring, x, &shared);
	write_rows<D>(a, t, item.partial, x, &shared);
}

/* Folds the parts of a split segment, a warp a query and head. */
static __global__ void __launch_bounds__(32 * PP_CUDA_DECODE_MAX)
    merge_kernel(cuda_plan plan, cuda_attention a)
{
	const uint32_t d = a.attn.d_head;
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t query = threadIdx.x / 32;
	const uint32_t head = blockIdx.y;
	const float factor = attn_scale_of(a.attn).factor;
	float max = -INFINITY;
	float sum = 0.0f;
	float o[PP_CUDA_D_HEAD / 32] = {0.0f};

	if (blockIdx.x >= plan.counts->n_merge)
		return;
	const cuda_item item = plan.merge[blockIdx.x];

	if (query >= item.n_q)
		return;
	for (uint32_t p = item.k0; p < item.k1; p++)
	{
		const float *part = partial_at(a, p, query, head);
		float keep, add;

		attn_fold(&max, &sum, part[d], part[d + 1], factor, &keep, &add);
#pragma unroll
		for (uint32_t c = 0; c < PP_CUDA_D_HEAD / 32; c++)
			if (c * 32 + lane < d)
				o[c] = attn_fold_x(o[c], part[c * 32 + lane], keep, add);
	}
	const float inv = 1.0f / sum;
	const size_t token = plan.segs[item.seg].first_token + item.q0 + query;
	bf16 *out = a.out + (token * a.attn.n_heads + head) * d;

#pragma unroll
	for (uint32_t c = 0; c < PP_CUDA_D_HEAD / 32; c++)
		if (c * 32 + lane < d)
			out[c * 32 + lane] = __float2bfloat16_rn(o[c] * inv);
}

/* Launches with a ring of a length. */
template <int D, int RING>
static cudaError_t
launch_ring(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a, dim3 grid)
{
	const int bytes = RING * decode_shape<D>::PIECE * 2;
	cudaError_t error = cudaFuncSetAttribute(decode_kernel<D, RING>,
	                                         cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);

	if (error != cudaSuccess)
		return error;
	return attn_launch(cu, decode_kernel<D, RING>, grid, THREADS, bytes, *plan, *a);
}

/* Launches the parts, then the folding if there can be more parts than segments. */
template <int D>
static cudaError_t
launch(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	const uint32_t group = a->attn.n_heads / a->attn.n_kv_heads;
	const dim3 grid(plan->max_decode, a->attn.n_kv_heads,
	                (PP_CUDA_DECODE_MAX * group + ROWS - 1) / ROWS);
	const bool few = (size_t) grid.x * grid.y <= (size_t) cu->n_sms;
	const bool roomy = cu->arch == 80 || cu->arch == 90 || cu->arch >= 100;
	cudaError_t error = few && roomy ? launch_ring<D, decode_shape<D>::LONG>(cu, plan, a, grid)
	                                 : launch_ring<D, decode_shape<D>::SHORT>(cu, plan, a, grid);

	if (error != cudaSuccess || plan->max_decode <= plan->max_merge)
		return error;
	return attn_launch(cu, merge_kernel, dim3(plan->max_merge, a->attn.n_heads),
	                   32 * PP_CUDA_DECODE_MAX, 0, *plan, *a);
}

/* The heads that the prefill kernel has. */
bool
cuda_decode_takes(const pp_cuda *cu, const pp_attn *attn)
{
	return attn->causal && cuda_prefill_takes(cu, attn);
}

/* A part for every ATTN_SPLIT slots. */
uint32_t
cuda_decode_plan(cuda_item *items, uint32_t max, uint32_t seg, const pp_segment *s)
{
	const uint32_t end = s->n_past + s->n_new;
	uint32_t n = 0;

	for (uint32_t k0 = 0; k0 < end && n < max; k0 += ATTN_SPLIT)
	{
		uint32_t k1 = end - k0 < ATTN_SPLIT ? end : k0 + ATTN_SPLIT;

		items[n++] = cuda_item{seg, 0, s->n_new, k0, k1, PP_CUDA_NONE};
	}
	return n;
}

/* See cuda.cuh. */
uint32_t
cuda_decode_items_max(uint32_t n_segs, uint32_t n_ctx)
{
	return n_segs * ((n_ctx + ATTN_SPLIT - 1) / ATTN_SPLIT);
}

/* For each item, query and head: its columns, maximum and sum. */
size_t
cuda_decode_partial_floats(uint32_t n_items, uint32_t n_heads, uint32_t d_head)
{
	return (size_t) n_items * PP_CUDA_DECODE_MAX * n_heads * (d_head + 2);
}

/* See cuda.cuh. */
cudaError_t
cuda_attention_decode(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a)
{
	if (plan->max_decode == 0)
		return cudaSuccess;
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
