/*
 * llm_cpu_attn_amx.c: attention over bf16 pages on AMX tiles.
 *
 * An item walks its pages in steps of four (128 slots, aligned to slot 0): scores of 32 rows by 128
 * slots on tiles, one round of online softmax (arXiv 1805.02867) in AVX-512, then the weighted sum
 * of V on tiles. K and V pages are stored so that they load as tiles as they are. Within a tile
 * every row is computed by itself, steps stand at absolute slots, and slots that a row does not see
 * weigh exactly 0: so a row's bits do not depend on the rows beside it, and a single decoding row
 * runs the same instructions as a row of a long prompt.
 */
#include "llm_cpu_attn.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define STEP_PAGES 4u
#define STEP       (STEP_PAGES * LLM_CPU_PAGE)
#define N_VECTORS  (STEP / 16)
#define D_MAX      256u
#define LOG2_E     1.44269504088896f

#define AMX \
	__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,amx-tile,amx-bf16")))
#define INLINE static inline __attribute__((always_inline)) AMX

/* The buffers of a thread. Rows beyond the item's stay zero, so tiles never see garbage. */
typedef struct amx_rows
{
	_Alignas(64) uint16_t q[LLM_ATTN_ROWS * D_MAX]; /* [ROWS][d_pad] bf16 */
	uint16_t weight[LLM_ATTN_ROWS * STEP];          /* [ROWS][STEP] bf16 */
	float score[LLM_ATTN_ROWS * STEP];
	float out[LLM_ATTN_ROWS * D_MAX];    /* [ROWS][d_pad], not yet divided by sum */
	float sum[LLM_ATTN_ROWS * 16];       /* 16 lanes a row */
	float max[LLM_ATTN_ROWS];            /* of score · log2 e */
	uint16_t tail[LLM_CPU_PAGE * D_MAX]; /* V of a page with slots past the end */
} amx_rows;

/* One step: its pages, NULL where no row sees any. */
typedef struct amx_step
{
	const uint16_t *k[STEP_PAGES];
	const uint16_t *v[STEP_PAGES];
	bool all_visible[STEP_PAGES];
	uint32_t first_page;
	uint32_t n_pages; /* up to the last one that is not NULL */
} amx_step;

/* The palette: 8 tiles of 16 rows of 64 bytes. */
static const struct
{
	uint8_t palette;
	uint8_t start_row;
	uint8_t reserved[14];
	uint16_t bytes_row[16];
	uint8_t n_rows[16];
} all_tiles = {
    .palette = 1,
    .bytes_row = {64, 64, 64, 64, 64, 64, 64, 64},
    .n_rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* Bytes of scratch of a thread. */
size_t
llm_attn_amx_bytes(const llm_attn_pass *pass)
{
	(void) pass;
	return sizeof(amx_rows);
}

/*
 * 2^x: a polynomial of degree 5 on |r| <= 1/2 (minimax, 1.5e-7), exactly 1 at 0. x is held above
 * −125, since a result that underflows costs the processor some hundred cycles.
 */
INLINE __m512
exp2_lanes(__m512 x)
{
	__m512 n;
	__m512 r;
	__m512 p = _mm512_set1_ps(1.32765e-3f);

	x = _mm512_max_ps(_mm512_set1_ps(-125.0f), x); /* keeps NaN, which stands second */
	n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	r = _mm512_sub_ps(x, n);
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.67554e-3f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550713e-2f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402212e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.9314697e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
	return _mm512_scalef_ps(p, n);
}

/* cap · tanh(s / cap), tanh(y) = 1 − 2 / (e^2y + 1). */
INLINE __m512
softcap_lanes(__m512 s, float cap)
{
	const __m512 one = _mm512_set1_ps(1.0f);
	__m512 e = exp2_lanes(_mm512_mul_ps(s, _mm512_set1_ps(2.0f * LOG2_E / cap)));
	__m512 t = _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one));

	return _mm512_mul_ps(_mm512_set1_ps(cap), _mm512_sub_ps(one, t));
}

/* Scores of n_tiles · 16 rows against one page: [rows][d] · [d / 2][32][2]. */
INLINE void
score_page(amx_rows *rows, const uint16_t *k, size_t d, uint32_t n_tiles, float *score)
{
	const size_t stride_k = LLM_CPU_PAGE * 2 * sizeof(*k);
	const size_t stride_q = d * sizeof(*rows->q);
	const size_t stride_s = STEP * sizeof(*score);

	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	for (size_t i = 0; i < d; i += 32)
	{
		const uint16_t *ki = k + i * LLM_CPU_PAGE;

		_tile_loadd(4, rows->q + i, stride_q);
		_tile_loadd(6, ki, stride_k);
		_tile_dpbf16ps(0, 4, 6);
		_tile_loadd(7, ki + LLM_CPU_PAGE, stride_k);
		_tile_dpbf16ps(1, 4, 7);
		if (n_tiles == 1)
			continue;
		_tile_loadd(5, rows->q + 16 * d + i, stride_q);
		_tile_dpbf16ps(2, 5, 6);
		_tile_dpbf16ps(3, 5, 7);
	}
	_tile_stored(0, score, stride_s);
	_tile_stored(1, score + 16, stride_s);
	if (n_tiles == 1)
		return;
	_tile_stored(2, score + 16 * STEP, stride_s);
	_tile_stored(3, score + 16 * STEP + 16, stride_s);
}

/* out += weight · V of a step, 16 columns of V at a time. */
INLINE void
weigh_step(amx_rows *rows, const amx_step *step, size_t d, uint32_t n_tiles)
{
	const size_t stride_o = d * sizeof(*rows->out);
	const size_t stride_w = STEP * sizeof(*rows->weight);
	const size_t stride_v = d * 2 * sizeof(uint16_t);

	for (size_t i = 0; i < d; i += 32)
	{
		float *out = rows->out + i;
		float *out1 = out + 16 * d;

		_tile_loadd(0, out, stride_o);
		_tile_loadd(1, out + 16, stride_o);
		if (n_tiles == 2)
		{
			_tile_loadd(2, out1, stride_o);
			_tile_loadd(3, out1 + 16, stride_o);
		}
		for (uint32_t j = 0; j < STEP_PAGES; j++)
		{
			if (step->v[j] == NULL)
				continue;
			_tile_loadd(4, rows->weight + j * LLM_CPU_PAGE, stride_w);
			_tile_loadd(6, step->v[j] + 2 * i, stride_v);
			_tile_dpbf16ps(0, 4, 6);
			_tile_loadd(7, step->v[j] + 2 * i + 32, stride_v);
			_tile_dpbf16ps(1, 4, 7);
			if (n_tiles == 1)
				continue;
			_tile_loadd(5, rows->weight + 16 * STEP + j * LLM_CPU_PAGE, stride_w);
			_tile_dpbf16ps(2, 5, 6);
			_tile_dpbf16ps(3, 5, 7);
		}
		_tile_stored(0, out, stride_o);
		_tile_stored(1, out + 16, stride_o);
		if (n_tiles == 2)
		{
			_tile_stored(2, out1, stride_o);
			_tile_stored(3, out1 + 16, stride_o);
		}
	}
}

/* The scores of a row in the domain of 2^x, those not visible −infinity. */
INLINE __m512
read_scores(const pp_attn *attn, const float *score, __mmask16 visible)
{
	const __m512 low = _mm512_set1_ps(-INFINITY);
	__m512 s = _mm512_load_ps(score);

	if (attn->softcap <= 0.0f)
		return _mm512_mask_mul_ps(low, visible, s, _mm512_set1_ps(attn->scale * LOG2_E));
	s = softcap_lanes(_mm512_mul_ps(s, _mm512_set1_ps(attn->scale)), attn->softcap);
	return _mm512_mask_mul_ps(low, visible, s, _mm512_set1_ps(LOG2_E));
}

/* Scales what a row has so far to its new maximum. */
INLINE void
raise_max(amx_rows *rows, uint32_t r, size_t d, float max)
{
	const __m512 alpha = exp2_lanes(_mm512_set1_ps(rows->max[r] - max));

	rows->max[r] = max;
	for (size_t i = 0; i < d; i += 16)
		_mm512_store_ps(rows->out + r * d + i,
		                _mm512_mul_ps(alpha, _mm512_load_ps(rows->out + r * d + i)));
	_mm512_store_ps(rows->sum + 16 * r, _mm512_mul_ps(alpha, _mm512_load_ps(rows->sum + 16 * r)));
}

/*
 * The softmax round of one row over the first n_vectors of a step, a constant in every caller so
 * that the scores stay in registers: weights, sum, and the old output scaled to the new maximum.
 * Vectors beyond would add zeros.
 */
INLINE void
soften_row(const llm_attn_pass *pass, amx_rows *rows, uint32_t r, const uint32_t *visible,
           const uint32_t n_vectors)
{
	const float *score = rows->score + r * STEP;
	uint16_t *weight = rows->weight + r * STEP;
	__m512 sum = _mm512_load_ps(rows->sum + 16 * r);
	__m512 s[N_VECTORS];
	__m512 top = _mm512_set1_ps(-INFINITY);
	float max;

#pragma GCC unroll 8
	for (uint32_t i = 0; i < n_vectors; i++)
	{
		s[i] =
		    read_scores(pass->attn, score + 16 * i, (__mmask16) (visible[i / 2] >> (16 * (i % 2))));
		top = _mm512_max_ps(top, s[i]);
	}
	max = _mm512_reduce_max_ps(top);
	if (max > rows->max[r])
	{
		raise_max(rows, r, pass->pages.shape.d_pad, max);
		sum = _mm512_load_ps(rows->sum + 16 * r);
	}
	max = rows->max[r];
#pragma GCC unroll 8
	for (uint32_t i = 0; i < n_vectors; i++)
	{
		__m512 p = exp2_lanes(_mm512_sub_ps(s[i], _mm512_set1_ps(max)));

		p = _mm512_maskz_mov_ps((__mmask16) (visible[i / 2] >> (16 * (i % 2))), p);
		sum = _mm512_add_ps(sum, p);
		_mm256_store_si256((__m256i *) (void *) (weight + 16 * i), (__m256i) _mm512_cvtneps_pbh(p));
	}
	_mm512_store_ps(rows->sum + 16 * r, sum);
}

/* The same for as many pages as the step has. */
INLINE void
soften_pages(const llm_attn_pass *pass, amx_rows *rows, uint32_t r, const uint32_t *visible,
             uint32_t n_pages)
{
	switch (n_pages)
	{
		case 1:
			soften_row(pass, rows, r, visible, 2);
			break;
		case 2:
			soften_row(pass, rows, r, visible, 4);
			break;
		case 3:
			soften_row(pass, rows, r, visible, 6);
			break;
		default:
			soften_row(pass, rows, r, visible, 8);
			break;
	}
}

/* The softmax round of all rows of an item. */
INLINE void
soften_step(const llm_attn_pass *pass, const llm_attn_item *item, const amx_step *step,
            amx_rows *rows)
{
	const uint32_t group = pass->attn->n_heads / pass->attn->n_kv_heads;
	const llm_attn_seg *s = &pass->segs[item->seg];
	uint32_t visible[STEP_PAGES];
	uint32_t seen = 0;

	for (uint32_t r = 0; r < item->n_rows; r++)
	{
		const uint32_t token = (item->first_row + r) / group;

		if (r == 0 || token != (item->first_row + r - 1) / group)
		{
			seen = 0;
			for (uint32_t j = 0; j < STEP_PAGES; j++)
			{
				visible[j] = step->all_visible[j] ? ~0u : 0;
				if (step->k[j] != NULL && !step->all_visible[j])
					visible[j] = llm_attn_visible(pass, s, token, step->first_page + j);
				seen |= visible[j];
			}
		}
		if (seen != 0)
			soften_pages(pass, rows, r, visible, step->n_pages);
		else
			memset(rows->weight + r * STEP, 0, STEP * sizeof(*rows->weight));
	}
}

/*
 * V of a page with the slots from n_slots on zero: what they held may be NaN, and 0 · NaN is NaN.
 */
static const uint16_t *
trim_page(amx_rows *rows, const uint16_t *v, size_t d, uint32_t n_slots)
{
	memset(rows->tail, 0, LLM_CPU_PAGE * d * sizeof(*v));
	memcpy(rows->tail, v, n_slots / 2 * 2 * d * sizeof(*v));
	for (size_t i = 0; n_slots % 2 != 0 && i < d; i++)
		rows->tail[(n_slots / 2 * d + i) * 2] = v[(n_slots / 2 * d + i) * 2];
	return rows->tail;
}

/* Finds the pages of a step that lie in [first, end), and which of them every row sees whole. */
static void
find_pages(const llm_attn_pass *pass, const llm_attn_item *item, uint32_t first, uint32_t end,
           amx_rows *rows, amx_step *step)
{
	const uint32_t group = pass->attn->n_heads / pass->attn->n_kv_heads;
	const llm_attn_seg *s = &pass->segs[item->seg];
	const uint32_t token = item->first_row / group;
	const uint32_t last = (item->first_row + item->n_rows - 1) / group;
	const uint64_t n_slots = (uint64_t) s->seg->n_past + s->seg->n_new;
	const size_t d = pass->pages.shape.d_pad;

	step->n_pages = 0;
	for (uint32_t j = 0; j < STEP_PAGES; j++)
	{
		const uint32_t page = step->first_page + j;
		const uint64_t base = (uint64_t) page * LLM_CPU_PAGE;

		step->k[j] = step->v[j] = NULL;
		step->all_visible[j] = false;
		if (page < first || page >= end)
			continue;
		step->n_pages = j + 1;
		step->k[j] = (const uint16_t *) (const void *) llm_attn_page(pass, s, page, item->kv_head);
		step->v[j] = step->k[j] + LLM_CPU_PAGE * d;
		if (base + LLM_CPU_PAGE > n_slots)
			step->v[j] = trim_page(rows, step->v[j], d, (uint32_t) (n_slots - base));
		/* a chain's tokens see intervals whose ends only grow: the first and the last bound all */
		if (s->masks == NULL)
			step->all_visible[j] = (llm_attn_visible(pass, s, token, page) &
			                        llm_attn_visible(pass, s, last, page)) == ~0u;
	}
}

/* Queries in bf16, zero-padded to whole tiles; cleared state. */
INLINE void
start_rows(const llm_attn_pass *pass, const llm_attn_item *item, amx_rows *rows, uint32_t n_tiles)
{
	const size_t d = pass->pages.shape.d_pad;
	const uint32_t d_head = pass->attn->d_head;

	memset(rows->q, 0, 16 * n_tiles * d * sizeof(*rows->q));
	memset(rows->out, 0, 16 * n_tiles * d * sizeof(*rows->out));
	memset(rows->weight + item->n_rows * STEP, 0,
	       (16 * n_tiles - item->n_rows) * STEP * sizeof(*rows->weight));
	memset(rows->sum, 0, sizeof(rows->sum));
	for (uint32_t r = 0; r < item->n_rows; r++)
	{
		const float *q = pass->q + llm_attn_row(pass, item, r);

		rows->max[r] = -INFINITY;
		for (uint32_t i = 0; i < d_head; i += 16)
		{
			const __mmask16 mask = d_head - i >= 16 ? 0xffff : 0xff; /* d_head is a multiple of 8 */
			__m512 x = _mm512_maskz_loadu_ps(mask, q + i);

			_mm256_storeu_si256((__m256i *) (void *) (rows->q + r * d + i),
			                    (__m256i) _mm512_cvtneps_pbh(x));
		}
	}
}

/* out / sum of each row. */
INLINE void
finish_rows(const llm_attn_pass *pass, const llm_attn_item *item, const amx_rows *rows)
{
	const size_t d = pass->pages.shape.d_pad;
	const uint32_t d_head = pass->attn->d_head;

	for (uint32_t r = 0; r < item->n_rows; r++)
	{
		const float sum = _mm512_reduce_add_ps(_mm512_load_ps(rows->sum + 16 * r));
		const __m512 inv = _mm512_set1_ps(1.0f / sum);
		float *out = pass->out + llm_attn_row(pass, item, r);

		for (uint32_t i = 0; i < d_head; i += 16)
		{
			const __mmask16 mask = d_head - i >= 16 ? 0xffff : 0xff;
			__m512 o = _mm512_mul_ps(inv, _mm512_load_ps(rows->out + r * d + i));

			_mm512_mask_storeu_ps(out + i, mask, o);
		}
	}
}

/* One item. */
INLINE void
run_item(const llm_attn_pass *pass, const llm_attn_item *item, amx_rows *rows)
{
	const uint32_t group = pass->attn->n_heads / pass->attn->n_kv_heads;
	const uint32_t n_tiles = item->n_rows > 16 ? 2 : 1;
	const size_t d = pass->pages.shape.d_pad;
	amx_step step;
	uint32_t first;
	uint32_t end;

	start_rows(pass, item, rows, n_tiles);
	llm_attn_range(pass, &pass->segs[item->seg], item->first_row / group,
	               (item->first_row + item->n_rows - 1) / group, &first, &end);
	for (step.first_page = first / STEP_PAGES * STEP_PAGES; step.first_page < end;
	     step.first_page += STEP_PAGES)
	{
		find_pages(pass, item, first, end, rows, &step);
		for (uint32_t j = 0; j < STEP_PAGES; j++)
			if (step.k[j] != NULL)
				score_page(rows, step.k[j], d, n_tiles, rows->score + j * LLM_CPU_PAGE);
		soften_step(pass, item, &step, rows);
		weigh_step(rows, &step, d, n_tiles);
	}
	finish_rows(pass, item, rows);
}

/* Items on tiles. */
AMX void
llm_attn_amx(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const llm_attn_pass *pass = arg;
	amx_rows *rows = (amx_rows *) (void *) (pass->rows + thread * pass->bytes_rows);

	_tile_loadconfig(&all_tiles);
	for (uint32_t i = begin; i < end; i++)
		run_item(pass, &pass->items[i], rows);
	_tile_release();
}
#endif
