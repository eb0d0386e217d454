/*
 * matmul_quant_stream.cu: products of few tokens with quantised weights, by the bulk copy engine.
 *
 *	out[T, N] = x[T, K] bf16(W[N, K])ᵀ + bias,  T <= 64, K a multiple of 8
 *	          x bf16, W in tiles of quant.cuh, float sums in the order of matmul_few.cuh
 *	grid      a block a multiprocessor, which walks the rows in turns of 16 for each of its groups
 *	warps     of a group UNPACKERS that make operands of tiles and one that multiplies them; one for
 *	          all that asks for copies
 *	shared    a ring of rounds (x and the groups' tiles, UNPACKERS pieces of 64 columns of each),
 *	and
 *	          for each group the operands of two rounds
 *
 * The same bits as matmul_quant.cu and, on the same weights, matmul_stream.cu. What those weigh
 * against each other is different here: bytes are few, instructions many. So nobody computes an
 * address to copy from: the tiles of 16 rows lie one behind the other, and the copy engine brings
 * those of a round in one piece. A warp unpacks one tile a round, and waits for nothing but the
 * tile and a free place; the chain of products runs beside it.
 *
 * Barriers. full: a round's bytes have come; empty: all warps have read it. made: a group's
 * operands are there; used: they have been multiplied. Every one of them counts warps, by their
 * first lane.
 */
#include "bulk_copy.cuh"
#include "matmul_quant.cuh"

#define MAX_GROUPS 7u
#define MAX_STAGES 32u
#define TURN       3u           /* groups: what beginning and ending a turn costs (few_groups) */
#define SHARED     (220u << 10) /* bytes */

struct quant_stream_args : few_args
{
	const uint8_t *tiles;
	const uint8_t *forms; /* [n_rows] */
	uint32_t n_groups;    /* of a block */
	uint32_t n_turns;     /* of all blocks */
	uint32_t n_stages;
};

/* What a round is: UNPACKERS warps of a group unpack EACH pieces; sizes in bytes. */
template <uint32_t BITS, uint32_t TILES, uint32_t UNPACKERS, uint32_t EACH> struct quant_round
{
	static constexpr uint32_t bits = BITS;
	static constexpr uint32_t tokens = TILES; /* tiles of 8 */
	static constexpr uint32_t unpackers = UNPACKERS;
	static constexpr uint32_t each = EACH;
	static constexpr uint32_t pieces = UNPACKERS * EACH;
	static constexpr uint32_t max_warps = TILES <= 2 ? 22 : 16; /* 88 or 128 registers a thread */
	static constexpr uint32_t max_groups = (max_warps - 1) / (UNPACKERS + 1);
	static constexpr uint32_t tile = quant_tile<BITS>::bytes;
	static constexpr uint32_t x = TILES * 8 * QUANT_COLS * (uint32_t) sizeof(bf16);
	static constexpr uint32_t operands = pieces * QUANT_OPERANDS;

	/* x of a round, then the tiles of group after group */
	static __host__ __device__ uint32_t
	stage(uint32_t n_groups)
	{
		const uint32_t bytes = pieces * (x + n_groups * tile);

		return (bytes + BULK_ALIGN - 1) / BULK_ALIGN * BULK_ALIGN;
	}
};

#ifdef PP_BULK_COPY

/* What a block shares. */
struct quant_ring
{
	uint8_t *stages;
	uint32_t stage; /* bytes */
	uint8_t *operands;
	uint64_t *full;  /* [n_stages] */
	uint64_t *empty; /* [n_stages] */
	uint64_t *made;  /* [n_groups][2] */
	uint64_t *used;  /* [n_groups][2] */
};

/* All of a warp have done what the barrier waits for. */
static __device__ __forceinline__ void
warp_arrive(uint64_t *b)
{
	__syncwarp();
	if (threadIdx.x % 32 == 0)
		barrier_arrive(b);
}

/* Rounds of a row. */
template <typename R>
static __device__ __forceinline__ uint32_t
rounds_of(const quant_stream_args &a)
{
	return (quant_tiles(a.n_cols) + R::pieces - 1) / R::pieces;
}

/* Pieces of a round: the last one may have fewer. */
template <typename R>
static __device__ __forceinline__ uint32_t
pieces_of(const quant_stream_args &a, uint32_t round)
{
	const uint32_t most = R::pieces;

	return min(most, quant_tiles(a.n_cols) - round * most);
}

/*
 * Asks for the tiles of a round, a lane a group: an engine that takes orders from one lane after
 * the other is what would bound the kernel. Groups behind the last one get its tiles, and write
 * nothing.
 */
template <typename R>
static __device__ void
fetch_w(const quant_stream_args &a, const quant_ring &r, uint32_t stage, uint32_t turn,
        uint32_t round)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t n = pieces_of<R>(a, round);
	const uint32_t group = min(turn * a.n_groups + lane, (a.n_rows - 1) / QUANT_ROWS);
	const size_t at = (size_t) group * quant_tiles(a.n_cols) + round * R::pieces;

	if (lane == 0)
		barrier_expect(&r.full[stage], n * (R::x + a.n_groups * R::tile));
	__syncwarp();
	if (lane < a.n_groups)
		bulk_bytes(r.stages + stage * r.stage + R::pieces * (R::x + lane * R::tile),
		           a.tiles + at * R::tile, n * R::tile, &r.full[stage]);
}

/* The warp that asks for everything; W of the first rounds before x may be read. */
template <typename R>
static __device__ void
fetch(const quant_stream_args &a, const quant_ring &r, const CUtensorMap *x_map)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t n_rounds = rounds_of<R>(a);
	const uint32_t n_first = min(a.n_stages, n_rounds);
	few_place at = {0, 1}; /* nobody has to empty the ring for the first time */

	for (uint32_t round = 0; round < n_first; round++)
		fetch_w<R>(a, r, round, blockIdx.x, round);
	cuda_wait_before();
	for (uint32_t turn = blockIdx.x; turn < a.n_turns; turn += gridDim.x)
		for (uint32_t round = 0; round < n_rounds; round++)
		{
			if (turn != blockIdx.x || round >= n_first)
			{
				barrier_wait(&r.empty[at.i], at.parity);
				fetch_w<R>(a, r, at.i, turn, round);
			}
			if (lane < pieces_of<R>(a, round))
				bulk_box(r.stages + at.i * r.stage + lane * R::x, x_map,
				         (round * R::pieces + lane) * QUANT_COLS, 0, &r.full[at.i]);
			few_next(&at, a.n_stages);
		}
}

/* A warp that makes operands: pieces maker · EACH and on of every round of a group. */
template <typename R>
static __device__ void
make(const quant_stream_args &a, const quant_ring &r, uint32_t group, uint32_t maker)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t n_rounds = rounds_of<R>(a);
	const uint32_t piece = maker * R::each;
	const uint8_t *tiles = r.stages + R::pieces * R::x + (group * R::pieces + piece) * R::tile;
	uint8_t *operands = r.operands + 2 * group * R::operands + piece * QUANT_OPERANDS;
	few_place at = {0, 0};
	few_place place = {0, 1};

	for (uint32_t turn = blockIdx.x; turn < a.n_turns; turn += gridDim.x)
	{
		const uint32_t row = (turn * a.n_groups + group) * QUANT_ROWS + lane / 4;
		const uint32_t form[2] = {a.forms[min(row, a.n_rows - 1)],
		                          a.forms[min(row + 8, a.n_rows - 1)]};

		for (uint32_t round = 0; round < n_rounds; round++)
		{
			const uint32_t n = pieces_of<R>(a, round);
			uint4 w[R::each][4];

			barrier_wait(&r.full[at.i], at.parity);
#pragma unroll
			for (uint32_t i = 0; i < R::each; i++)
				if (piece + i < n)
					quant_unpack<R::bits>(w[i], form, tiles + at.i * r.stage + i * R::tile);
			warp_arrive(&r.empty[at.i]);
			barrier_wait(&r.used[2 * group + place.i], place.parity);
#pragma unroll
			for (uint32_t i = 0; i < R::each; i++)
				if (piece + i < n)
					quant_put((uint4 *) (operands + place.i * R::operands + i * QUANT_OPERANDS),
					          w[i]);
			warp_arrive(&r.made[2 * group + place.i]);
			few_next(&at, a.n_stages);
			few_next(&place, 2);
		}
	}
}

/* A warp that multiplies: the 16 rows of a group in each turn. */
template <typename R>
static __device__ void
multiply(const quant_stream_args &a, const quant_ring &r, uint32_t group)
{
	const uint32_t n_rounds = rounds_of<R>(a);
	few_place at = {0, 0};
	few_place place = {0, 0};

	for (uint32_t turn = blockIdx.x; turn < a.n_turns; turn += gridDim.x)
	{
		float c[R::tokens][4] = {};

		for (uint32_t round = 0; round < n_rounds; round++)
		{
			const uint32_t n = pieces_of<R>(a, round);
			const uint32_t x = attn_shared(r.stages + at.i * r.stage);
			const uint8_t *w = r.operands + (2 * group + place.i) * R::operands;

			barrier_wait(&r.full[at.i], at.parity);
			barrier_wait(&r.made[2 * group + place.i], place.parity);
			if (n == R::pieces) /* without a branch a piece is read while one is multiplied */
#pragma unroll
				for (uint32_t p = 0; p < R::pieces; p++)
					quant_multiply<R::tokens>(c, (const uint4 *) (w + p * QUANT_OPERANDS),
					                          x + p * R::x);
			else
				for (uint32_t p = 0; p < n; p++)
					quant_multiply<R::tokens>(c, (const uint4 *) (w + p * QUANT_OPERANDS),
					                          x + p * R::x);
			warp_arrive(&r.used[2 * group + place.i]);
			if (threadIdx.x % 32 == 0)
				barrier_arrive(&r.empty[at.i]);
			few_next(&at, a.n_stages);
			few_next(&place, 2);
		}
		if (turn == blockIdx.x)
			cuda_wait_before(); /* out may be what the kernel before still reads */
		few_write_sums<R::tokens>(a, c, (turn * a.n_groups + group) * QUANT_ROWS);
	}
}

/* Makes the barriers ready, by one thread. */
template <typename R>
static __device__ void
init_barriers(const quant_stream_args &a, const quant_ring &r)
{
	for (uint32_t i = 0; i < a.n_stages; i++)
	{
		barrier_init(&r.full[i], 1);
		barrier_init(&r.empty[i], a.n_groups * (R::unpackers + 1));
	}
	for (uint32_t i = 0; i < 2 * a.n_groups; i++)
	{
		barrier_init(&r.made[i], R::unpackers);
		barrier_init(&r.used[i], 1);
	}
	barrier_publish();
}

#endif /* PP_BULK_COPY */

/* Up to R::tokens · 8 tokens. */
template <typename R>
static __global__ void __launch_bounds__(32 * R::max_warps, 1)
    quant_stream_kernel(const __grid_constant__ CUtensorMap x_map, const quant_stream_args a)
{
#ifdef PP_BULK_COPY
	ATTN_SHARED(raw);
	__shared__ uint64_t barriers[2 * MAX_STAGES + 4 * MAX_GROUPS];
	const uint32_t warp = threadIdx.x / 32;
	const uint32_t n_makers = a.n_groups * R::unpackers;
	quant_ring r;

	r.stages = (uint8_t *) raw + (BULK_ALIGN - attn_shared(raw) % BULK_ALIGN) % BULK_ALIGN;
	r.stage = R::stage(a.n_groups);
	r.operands = r.stages + a.n_stages * r.stage;
	r.full = barriers;
	r.empty = r.full + MAX_STAGES;
	r.made = r.empty + MAX_STAGES;
	r.used = r.made + 2 * MAX_GROUPS;
	if (threadIdx.x == 0)
		init_barriers<R>(a, r);
	__syncthreads();
	cuda_let_next();
	if (warp < n_makers)
		make<R>(a, r, warp / R::unpackers, warp % R::unpackers);
	else if (warp < n_makers + a.n_groups)
		multiply<R>(a, r, warp - n_makers);
	else
		fetch<R>(a, r, &x_map);
#endif
}

/* Launches for up to R::tokens · 8 tokens. */
template <typename R>
static cudaError_t
launch(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w)
{
	auto kernel = quant_stream_kernel<R>;
	const uint32_t n_tiles = (few->n_rows + QUANT_ROWS - 1) / QUANT_ROWS;
	const uint32_t n_sms = (uint32_t) cu->n_sms;
	const uint32_t n_groups = few_groups(n_tiles, n_sms, R::max_groups, TURN);
	const uint32_t operands = 2 * n_groups * R::operands;
	quant_stream_args a = {*few, w->tiles, w->forms, n_groups, 0, 0};
	CUtensorMap x_map;

	a.n_turns = (n_tiles + n_groups - 1) / n_groups;
	a.n_stages = min(MAX_STAGES, (SHARED - BULK_ALIGN - operands) / R::stage(n_groups));
	if (!bulk_describe(&x_map, x, few->n_tokens, few->n_cols, R::tokens * 8))
		return cudaErrorNotSupported;
	cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int) SHARED);
	return cuda_launch(cu, kernel, min(a.n_turns, n_sms), 32 * (n_groups * (R::unpackers + 1) + 1),
	                   SHARED, x_map, a);
}

/*
 * Where a multiprocessor has few groups of rows their chains are what takes time: more warps each.
 * Many tokens leave room for shorter rounds only.
 */
template <uint32_t BITS, uint32_t TILES>
static cudaError_t
dispatch(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w)
{
	typedef quant_round<BITS, TILES, 6, 1> few_rows;

	if constexpr (TILES > 2)
		return launch<quant_round<BITS, TILES, 2, 1>>(cu, few, x, w);
	else if (few->n_rows <= few_rows::max_groups * QUANT_ROWS * (uint32_t) cu->n_sms)
		return launch<few_rows>(cu, few, x, w);
	else
		return launch<quant_round<BITS, TILES, 2, 2>>(cu, few, x, w);
}

/* See cuda.cuh. */
cudaError_t
cuda_quant_stream(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w)
{
	return few_dispatch(few->n_tokens,
	                    [=](auto tiles)
	                    {
		                    constexpr uint32_t n = decltype(tiles)::value;

		                    return w->bits == 8 ? dispatch<8, n>(cu, few, x, w)
		                                        : dispatch<4, n>(cu, few, x, w);
	                    });
}
