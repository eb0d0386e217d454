/*
 * llm_cpu_i8.c: int8 products with AVX2, with AVX-512 VNNI and with AMX tiles.
 *
 * All read the same panels as the plain loop (llm_cpu_matrix.h) and add up exact integers, so they
 * agree bit for bit; the scaling back repeats llm_i8_value's operations in vectors and is
 * done while the sums are in registers or the first cache, which is why there is code of our own
 * here: a library call would write 4 bytes a sum to memory and read them back.
 */
#include "llm_cpu_i8.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define AMX \
	__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8")))
#define INLINE static inline __attribute__((always_inline))

/*
 * Adds q · w of 4 values of k to 8 pairs of sums: a column's two pairs of products stand side by
 * side.
 */
INLINE AVX2 __m256i
avx2_add(__m256i sum, __m256i q, const int8_t *w)
{
	__m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *) (const void *) w));

	return _mm256_add_epi32(sum, _mm256_madd_epi16(q, wide));
}

/* n_rows rows by one panel, n_rows a constant in every caller. */
INLINE AVX2 void
avx2_block(const llm_i8_block *b, uint32_t row, uint32_t col, uint32_t n_rows)
{
	const size_t k_end = b->bytes_row;
	const uint8_t *q = b->q + row * k_end;
	const int8_t *w = b->w + col * k_end;
	const uint32_t n_cols = b->n_cols - col < LLM_PANEL ? b->n_cols - col : LLM_PANEL;
	__m256i acc[2][4];
	int32_t pairs[2 * LLM_PANEL];

#pragma GCC unroll 2
	for (uint32_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
		for (uint32_t p = 0; p < 4; p++)
			acc[r][p] = _mm256_setzero_si256();
	for (size_t k = 0; k < k_end; k += 4, w += 64)
	{
#pragma GCC unroll 2
		for (uint32_t r = 0; r < n_rows; r++)
		{
			int32_t group;
			__m256i qk;

			__builtin_memcpy(&group, q + r * k_end + k, sizeof(group));
			qk = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(group)));
#pragma GCC unroll 4
			for (uint32_t p = 0; p < 4; p++)
				acc[r][p] = avx2_add(acc[r][p], qk, w + 16 * p);
		}
	}
#pragma GCC unroll 2
	for (uint32_t r = 0; r < n_rows; r++)
	{
#pragma GCC unroll 4
		for (uint32_t p = 0; p < 4; p++)
			_mm256_storeu_si256((__m256i *) (void *) (pairs + 8 * p), acc[r][p]);
		for (uint32_t i = 0; i < n_cols; i++)
			b->out[(row + r) * b->ld_out + col + i] =
			    llm_i8_value(b, pairs[2 * i] + pairs[2 * i + 1], row + r, col + i);
	}
}

/*
 * An int8 product with AVX2: 16 bit products, whose pair sums are exact in 32 bits (the 8 bit
 * instruction would saturate).
 */
AVX2 void
llm_cpu_i8_avx2(const llm_i8_block *b)
{
	for (uint32_t col = 0; col < b->n_cols; col += LLM_PANEL)
	{
		uint32_t row = 0;

		for (; row + 2 <= b->n_rows; row += 2)
			avx2_block(b, row, col, 2);
		for (; row < b->n_rows; row++)
			avx2_block(b, row, col, 1);
	}
}

/* What 16 columns of sums are scaled back with. */
typedef struct columns
{
	__m512i offset;
	__m512 scale;
	__m512 bias;
	float *out;
	__mmask16 mask; /* of columns that exist */
} columns;

/* Loads the constants of columns col … col + 15. */
INLINE VNNI columns
columns_at(const llm_i8_block *b, uint32_t col)
{
	const uint32_t n = b->n_cols - col;
	const __mmask16 mask = n >= 16 ? 0xffff : (__mmask16) ((1u << n) - 1);

	return (columns){
	    .offset = _mm512_maskz_loadu_epi32(mask, b->w_sum128 + col),
	    .scale = _mm512_maskz_loadu_ps(mask, b->w_scale + col),
	    .bias = b->bias != NULL ? _mm512_maskz_loadu_ps(mask, b->bias + col) : _mm512_setzero_ps(),
	    .out = b->out + col,
	    .mask = mask,
	};
}

/* Scales 16 sums of one row back and writes those of real columns. */
INLINE VNNI void
store_sums(const columns *c, __m512i sum, float q_scale, size_t offset_row)
{
	__m512 y = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, c->offset));

	y = _mm512_mul_ps(y, _mm512_mul_ps(_mm512_set1_ps(q_scale), c->scale));
	_mm512_mask_storeu_ps(c->out + offset_row, c->mask, _mm512_add_ps(y, c->bias));
}

/* n_rows x n_panels sums in registers; both are constants in every caller. */
INLINE VNNI void
vnni_block(const llm_i8_block *b, uint32_t row, uint32_t col, uint32_t n_rows, uint32_t n_panels)
{
	const size_t k_end = b->bytes_row;
	const uint8_t *q = b->q + row * k_end;
	const int8_t *w = b->w + col * k_end;
	__m512i acc[4][4];

#pragma GCC unroll 4
	for (uint32_t r = 0; r < n_rows; r++)
#pragma GCC unroll 4
		for (uint32_t p = 0; p < n_panels; p++)
			acc[r][p] = _mm512_setzero_si512();
	for (size_t k = 0; k < k_end; k += 4)
	{
		__m512i wk[4];

#pragma GCC unroll 4
		for (uint32_t p = 0; p < n_panels; p++)
			wk[p] = _mm512_loadu_si512(w + LLM_PANEL * (p * k_end + k));
#pragma GCC unroll 4
		for (uint32_t r = 0; r < n_rows; r++)
		{
			int32_t group;
			__m512i qk;

			__builtin_memcpy(&group, q + r * k_end + k, sizeof(group));
			qk = _mm512_set1_epi32(group);
#pragma GCC unroll 4
			for (uint32_t p = 0; p < n_panels; p++)
				acc[r][p] = _mm512_dpbusd_epi32(acc[r][p], qk, wk[p]);
		}
	}
#pragma GCC unroll 4
	for (uint32_t p = 0; p < n_panels; p++)
	{
		const columns c = columns_at(b, col + p * LLM_PANEL);

#pragma GCC unroll 4
		for (uint32_t r = 0; r < n_rows; r++)
			store_sums(&c, acc[r][p], b->q_scale[row + r], (row + r) * b->ld_out);
	}
}

/* An int8 product with dot-product instructions: 4 rows by 4 panels at a time. */
VNNI void
llm_cpu_i8_vnni(const llm_i8_block *b)
{
	for (uint32_t col = 0; col < b->n_cols;)
	{
		const bool wide = b->n_cols - col > 3 * LLM_PANEL;
		uint32_t row = 0;

		for (; row + 4 <= b->n_rows; row += 4)
			if (wide)
				vnni_block(b, row, col, 4, 4);
			else
				vnni_block(b, row, col, 4, 1);
		for (; row < b->n_rows; row++)
			if (wide)
				vnni_block(b, row, col, 1, 4);
			else
				vnni_block(b, row, col, 1, 1);
		col += wide ? 4 * LLM_PANEL : LLM_PANEL;
	}
}

/* The palette: 8 tiles of 16 rows of 64 bytes. */
typedef struct tile_config
{
	uint8_t palette;
	uint8_t start_row;
	uint8_t reserved[14];
	uint16_t bytes_row[16];
	uint8_t n_rows[16];
} tile_config;

static const tile_config all_tiles = {
    .palette = 1,
    .bytes_row = {64, 64, 64, 64, 64, 64, 64, 64},
    .n_rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/*
 * A block of sums that was stored and waits to be scaled back. That is done a few rows at a time
 * between the tile instructions of the block after it: those keep the tile unit busy, this the
 * vector units, and the core runs both at once.
 */
typedef struct pending
{
	const int32_t *sums; /* [rows][width] */
	columns columns[4];
	const float *q_scale;
	size_t width; /* of the block: 16 columns for each of its panels */
	size_t ld_out;
	uint32_t next; /* rows [next, n_rows) are left */
	uint32_t n_rows;
} pending;

/* Scales up to n rows of a block back; n_panels is a constant in every caller. */
INLINE AMX void
drain(pending *p, uint32_t n, const uint32_t n_panels)
{
	const uint32_t end = n < p->n_rows - p->next ? p->next + n : p->n_rows;

	for (uint32_t r = p->next; r < end; r++)
#pragma GCC unroll 4
		for (uint32_t i = 0; i < n_panels; i++)
			store_sums(&p->columns[i], _mm512_load_si512(p->sums + r * p->width + 16 * i),
			           p->q_scale[r], r * p->ld_out);
	p->next = end;
}

/* Weights that are wanted soon: a part of the next two panels for each step of a block. */
typedef struct ahead
{
	const int8_t *w;
	size_t bytes_step;
} ahead;

/* Fetches the part of one step into the second cache. */
INLINE AMX void
fetch_ahead(ahead *a)
{
	const int8_t *end = a->w + a->bytes_step;

	for (; a->w < end; a->w += 64)
		_mm_prefetch((const char *) a->w, _MM_HINT_T1);
}

/*
 * 32 rows by 2 panels: tiles 0 … 3 are the sums, 4 and 5 the activations, 6 and 7 the weights. Rows
 * and columns that do not exist are computed and not written: q is padded to whole tiles.
 */
INLINE AMX void
amx_sums_2x2(const uint8_t *q, const int8_t *w, size_t k_end, int32_t *sums, pending *before,
             ahead *next)
{
	const uint8_t *q1 = q + 16 * k_end;
	const int8_t *w1 = w + LLM_PANEL * k_end;
	const uint32_t n_drain = (uint32_t) (32 * 64 / k_end) + 1;

	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (size_t k = 0; k < k_end; k += 64)
	{
		_tile_loadd(6, w + LLM_PANEL * k, 64);
		_tile_loadd(4, q + k, k_end);
		_tile_dpbusd(0, 4, 6);
		_tile_loadd(7, w1 + LLM_PANEL * k, 64);
		_tile_dpbusd(1, 4, 7);
		_tile_loadd(5, q1 + k, k_end);
		_tile_dpbusd(2, 5, 6);
		_tile_dpbusd(3, 5, 7);
		fetch_ahead(next);
		drain(before, n_drain, 2);
	}
	_tile_stored(0, sums, 128);
	_tile_stored(1, sums + 16, 128);
	_tile_stored(2, sums + 16 * 32, 128);
	_tile_stored(3, sums + 16 * 32 + 16, 128);
}

/* 16 rows by 4 panels, for few rows: four independent chains hide the latency of the tiles. */
INLINE AMX void
amx_sums_1x4(const uint8_t *q, const int8_t *w, size_t k_end, int32_t *sums, pending *before)
{
	const size_t panel = LLM_PANEL * k_end;
	const uint32_t n_drain = (uint32_t) (16 * 64 / k_end) + 1;

	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (size_t k = 0; k < k_end; k += 64)
	{
		_tile_loadd(4, q + k, k_end);
		_tile_loadd(5, w + LLM_PANEL * k, 64);
		_tile_dpbusd(0, 4, 5);
		_tile_loadd(6, w + panel + LLM_PANEL * k, 64);
		_tile_dpbusd(1, 4, 6);
		_tile_loadd(7, w + 2 * panel + LLM_PANEL * k, 64);
		_tile_dpbusd(2, 4, 7);
		_tile_loadd(5, w + 3 * panel + LLM_PANEL * k, 64);
		_tile_dpbusd(3, 4, 5);
		drain(before, n_drain, 4);
	}
	_tile_stored(0, sums, 256);
	_tile_stored(1, sums + 16, 256);
	_tile_stored(2, sums + 32, 256);
	_tile_stored(3, sums + 48, 256);
}

/* 16 rows by 1 panel: what is left over. */
INLINE AMX void
amx_sums_1x1(const uint8_t *q, const int8_t *w, size_t k_end, int32_t *sums)
{
	_tile_zero(0);
	for (size_t k = 0; k < k_end; k += 64)
	{
		_tile_loadd(4, q + k, k_end);
		_tile_loadd(5, w + LLM_PANEL * k, 64);
		_tile_dpbusd(0, 4, 5);
	}
	_tile_stored(0, sums, 64);
}

/* Takes n_rows rows from row and n_panels panels from col over to be scaled back. */
INLINE AMX void
suspend(const llm_i8_block *b, pending *p, const int32_t *sums, uint32_t row, uint32_t n_rows,
        uint32_t col, const uint32_t n_panels)
{
	p->sums = sums;
	p->width = n_panels * 16;
	p->q_scale = b->q_scale + row;
	p->ld_out = b->ld_out;
	p->next = 0;
	p->n_rows = b->n_rows - row < n_rows ? b->n_rows - row : n_rows;
#pragma GCC unroll 4
	for (uint32_t i = 0; i < n_panels; i++)
	{
		p->columns[i] = columns_at(b, col + i * LLM_PANEL);
		p->columns[i].out += row * b->ld_out;
	}
}

/* Pairs of panels by 32 rows, as many as there are; returns the first column that is left. */
AMX static uint32_t
amx_pairs(const llm_i8_block *b, int32_t sums[2][1024])
{
	const size_t k_end = b->bytes_row;
	/* panels of 64 lines a step, spread over the blocks of rows, which all take the same steps */
	const uint32_t n_blocks = (b->n_rows + 31) / 32;
	const size_t bytes_step = (2 * LLM_PANEL + n_blocks - 1) / n_blocks * 64;
	pending before = {0};
	uint32_t turn = 0;
	uint32_t col = 0;

	for (; col + LLM_PANEL < b->n_cols; col += 2 * LLM_PANEL)
	{
		ahead next = {b->w + (col + 2 * LLM_PANEL) * k_end, bytes_step};

		for (uint32_t row = 0; row < b->n_rows; row += 32, turn ^= 1)
		{
			amx_sums_2x2(b->q + row * k_end, b->w + col * k_end, k_end, sums[turn], &before, &next);
			drain(&before, 32, 2);
			suspend(b, &before, sums[turn], row, 32, col, 2);
		}
	}
	drain(&before, 32, 2);
	return col;
}

/* The same for 16 rows and four panels at a time. */
AMX static uint32_t
amx_quads(const llm_i8_block *b, int32_t sums[2][1024])
{
	const size_t k_end = b->bytes_row;
	pending before = {0};
	uint32_t turn = 0;
	uint32_t col = 0;

	for (; col + 3 * LLM_PANEL < b->n_cols; col += 4 * LLM_PANEL, turn ^= 1)
	{
		amx_sums_1x4(b->q, b->w + col * k_end, k_end, sums[turn], &before);
		drain(&before, 16, 4);
		suspend(b, &before, sums[turn], 0, 16, col, 4);
	}
	drain(&before, 16, 4);
	return col;
}

/*
 * An int8 product on tiles; for one row, reading the weights is all, and that goes faster plainly.
 */
AMX void
llm_cpu_i8_amx(const llm_i8_block *b)
{
	_Alignas(64) int32_t sums[2][1024];
	uint32_t col;

	if (b->n_rows == 1)
	{
		llm_cpu_i8_vnni(b);
		return;
	}
	_tile_loadconfig(&all_tiles);
	col = b->n_rows > 16 ? amx_pairs(b, sums) : amx_quads(b, sums);
	for (; col < b->n_cols; col += LLM_PANEL)
		for (uint32_t row = 0; row < b->n_rows; row += 16)
		{
			pending last;

			amx_sums_1x1(b->q + row * b->bytes_row, b->w + col * b->bytes_row, b->bytes_row,
			             sums[0]);
			suspend(b, &last, sums[0], row, 16, col, 1);
			drain(&last, 16, 1);
		}
	_tile_release();
}
#endif
