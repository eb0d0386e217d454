/*
 * llm_cpu_attn.c: attention of a ragged batch: items, masks, and the page walk in float.
 *
 * The float walk is online softmax (arXiv 1805.02867) one page of 32 slots at a time; pages in bf16
 * are widened to float first. It is the oracle, and the way of machines without tiles; those with
 * tiles use llm_cpu_attn_amx.c for bf16 pages.
 *
 * Segments lie end to end in the batch and never see each other: an item belongs to one segment,
 * walks that segment's pages only, and llm_attn_visible says slot by slot what a token sees in
 * them. There is no mask of T × T anywhere: all that prepacking (arXiv 2404.09529) needs
 * of one is in these two rules, and test_packed.c, which breaks them on purpose, must notice.
 *
 * The pass's tables and the threads' rows are scratch of the backend, lost with the next op.
 */
#include "llm_cpu_attn.h"

#include <math.h>
#include <string.h>

/* Bits [from, to) of 32; both may lie outside, on either side. */
static uint32_t
bit_range(int64_t from, int64_t to)
{
	from = from < 0 ? 0 : from;
	to = to > 32 ? 32 : to;
	if (from >= to)
		return 0;
	return (uint32_t) ((((uint64_t) 1 << (to - from)) - 1) << from);
}

/* 32 bits of a row of masks from bit first on, which may be negative. */
static uint32_t
mask_bits(const uint64_t *row, uint32_t words, int64_t first)
{
	uint64_t bits = 0;

	if (first <= -32)
		return 0;
	if (first < 0)
		return (uint32_t) row[0] << -first;
	if (first / 64 < words)
		bits = row[first / 64] >> (first % 64);
	if (first % 64 > 32 && first / 64 + 1 < words)
		bits |= row[first / 64 + 1] << (64 - first % 64);
	return (uint32_t) bits;
}

/* The slots of a page that token i sees; see the header. */
uint32_t
llm_attn_visible(const llm_attn_pass *pass, const llm_attn_seg *s, uint32_t i, uint32_t page)
{
	const pp_segment *seg = s->seg;
	const int64_t window = pass->attn->window;
	const int64_t base = (int64_t) page * LLM_CPU_PAGE;
	int64_t self = (int64_t) seg->n_past + i;
	int64_t first = 0;
	int64_t end = self + 1;

	if (!pass->attn->causal)
	{
		/* an encoder's window is centred (ModernBERT): window / 2 to each side, itself between */
		first = window != 0 ? self - window / 2 : 0;
		end =
		    window != 0 && self + window / 2 + 1 < seg->n_new ? self + window / 2 + 1 : seg->n_new;
		return bit_range(first - base, end - base);
	}
	if (s->masks != NULL)
	{
		/* The history is seen as a chain; of the tree only its own ancestors, by the masks. Slots
		 * go by order of arrival, windows by position, which is the depth. */
		self = (int64_t) seg->n_past + s->depth[i];
		end = seg->n_past;
	}
	/* a causal window counts the token itself */
	if (window != 0)
		first = self - window + 1;
	if (s->masks == NULL)
		return bit_range(first - base, end - base);
	return bit_range(first - base, end - base) |
	       mask_bits(s->masks + (size_t) i * s->words, s->words, base - (int64_t) seg->n_past);
}

/*
 * The pages that tokens see; see the header. A superset will do, as a page that a row does not see
 * changes nothing: in a tree the window is taken from its root's position, the least of all.
 */
void
llm_attn_range(const llm_attn_pass *pass, const llm_attn_seg *s, uint32_t i, uint32_t last,
               uint32_t *first, uint32_t *end)
{
	const pp_attn *a = pass->attn;
	const int64_t reach = a->causal ? (int64_t) a->window - 1 : a->window / 2;
	int64_t low = (int64_t) s->seg->n_past + (s->masks != NULL ? 0 : i) - reach;
	int64_t high = (int64_t) s->seg->n_past + last;

	if (!a->causal)
		high = a->window != 0 && last + reach < s->seg->n_new ? last + reach
		                                                      : (int64_t) s->seg->n_new - 1;
	*first = a->window != 0 && low > 0 ? (uint32_t) (low / LLM_CPU_PAGE) : 0;
	*end = (uint32_t) (high / LLM_CPU_PAGE) + 1;
}

/*
 * Fills the masks [n_new][words] and depths [n_new] of a tree: a token sees itself and its
 * ancestors within the window. Parents stand before their children, so one sweep is enough. O(n ·
 * depth).
 */
static void
tree_masks(const pp_segment *seg, uint32_t window, uint32_t words, uint64_t *masks, uint32_t *depth)
{
	memset(masks, 0, (size_t) seg->n_new * words * sizeof(*masks));
	for (uint32_t i = 0; i < seg->n_new; i++)
	{
		uint64_t *row = masks + (size_t) i * words;

		depth[i] = seg->parent[i] < 0 ? 0 : depth[seg->parent[i]] + 1;
		for (int64_t j = i; j >= 0 && (window == 0 || depth[i] - depth[j] < window);
		     j = seg->parent[j])
			row[j / 64] |= (uint64_t) 1 << (j % 64);
	}
}

/*
 * Sets up the segments: first pages for encoders, masks for trees. One piece of scratch: the
 * segments, then for each tree its masks and, in as many words as it has tokens, its depths.
 */
static pp_result
prepare_segments(llm_attn_pass *pass, const pp_segment *segs, uint32_t n_segs)
{
	uint64_t n_words = 0;
	uint32_t page = 0;
	uint64_t *words;

	for (uint32_t s = 0; s < n_segs; s++)
		if (segs[s].parent != NULL)
			n_words += (uint64_t) segs[s].n_new * ((segs[s].n_new + 63u) / 64u + 1u);
	pass->segs = llm_cpu_scratch(pass->cpu, SCRATCH_TREE,
	                             n_words + n_segs * (sizeof(llm_attn_seg) / sizeof(uint64_t) + 1),
	                             sizeof(uint64_t));
	if (pass->segs == NULL)
		return PP_E_NOMEM;
	words = (uint64_t *) (void *) (pass->segs + n_segs);
	for (uint32_t s = 0; s < n_segs; s++)
	{
		llm_attn_seg *g = &pass->segs[s];

		*g = (llm_attn_seg){.seg = &segs[s], .first_page = page};
		page += (segs[s].n_new + LLM_CPU_PAGE - 1) / LLM_CPU_PAGE;
		if (segs[s].parent == NULL || !pass->attn->causal)
			continue;
		g->words = (segs[s].n_new + 63) / 64;
		g->masks = words;
		g->depth = (uint32_t *) (void *) (words + (size_t) segs[s].n_new * g->words);
		tree_masks(&segs[s], pass->attn->window, g->words, words,
		           (uint32_t *) (void *) (words + (size_t) segs[s].n_new * g->words));
		words += (size_t) segs[s].n_new * (g->words + 1);
	}
	return PP_OK;
}

/*
 * Lists the items, all KV heads of up to LLM_ATTN_ROWS rows each. The last rows of a segment come
 * first: they see most, and a long item at the end would leave the other threads waiting.
 */
static pp_result
prepare_items(llm_attn_pass *pass, uint32_t n_segs)
{
	const pp_attn *a = pass->attn;
	const uint32_t group = a->n_heads / a->n_kv_heads;
	uint64_t n_items = 0;

	for (uint32_t s = 0; s < n_segs; s++)
		n_items += ((uint64_t) pass->segs[s].seg->n_new * group + LLM_ATTN_ROWS - 1) /
		           LLM_ATTN_ROWS * a->n_kv_heads;
	if (n_items > UINT32_MAX)
		return llm_cpu_fail(pass->cpu, PP_E_UNSUPPORTED, "attention over too many rows");
	pass->items = llm_cpu_scratch(pass->cpu, SCRATCH_ITEMS, n_items, sizeof(*pass->items));
	if (pass->items == NULL)
		return PP_E_NOMEM;
	for (uint32_t s = 0; s < n_segs; s++)
	{
		uint32_t n_rows = pass->segs[s].seg->n_new * group;
		uint32_t n_blocks = (n_rows + LLM_ATTN_ROWS - 1) / LLM_ATTN_ROWS;

		for (uint32_t b = n_blocks; b-- > 0;)
			for (uint32_t h = 0; h < a->n_kv_heads; h++)
			{
				uint32_t row = b * LLM_ATTN_ROWS;

				pass->items[pass->n_items++] =
				    (llm_attn_item){.seg = s,
				                    .kv_head = h,
				                    .first_row = row,
				                    .n_rows = n_rows - row < LLM_ATTN_ROWS ? n_rows - row
				                                                           : LLM_ATTN_ROWS};
			}
	}
	return PP_OK;
}

/* out = softmax(scale · q Kᵀ) V; see kernels.h. */
pp_result
llm_cpu_attention(pp_backend *be, float *dev_out, const float *dev_q, const pp_segment *segs,
                  uint32_t n_segs, uint32_t n_tokens, uint32_t layer, const pp_attn *attn)
{
	llm_cpu *cpu = llm_cpu_of(be);
	llm_attn_pass pass = {.cpu = cpu, .attn = attn, .out = dev_out, .q = dev_q};
	llm_pool_fn run = llm_attn_float;
	pp_result result;

	result = llm_cpu_pages_of(cpu, layer, attn, segs, n_segs, &pass.pages);
	if (result != PP_OK || n_tokens == 0)
		return result;
	result = prepare_segments(&pass, segs, n_segs);
	if (result == PP_OK)
		result = prepare_items(&pass, n_segs);
	if (result != PP_OK)
		return result;
	pass.bytes_rows = llm_attn_float_bytes(&pass);
#if defined(__x86_64__)
	if (pass.pages.bf16 && cpu->isa >= LLM_ISA_AMX)
	{
		run = llm_attn_amx;
		pass.bytes_rows = llm_attn_amx_bytes(&pass);
	}
#endif
	pass.rows = llm_cpu_scratch(cpu, SCRATCH_ROWS, llm_pool_n_threads(cpu->pool), pass.bytes_rows);
	if (pass.rows == NULL)
		return PP_E_NOMEM;
	llm_pool_for(cpu->pool, pass.n_items, 1, run, &pass);
	return PP_OK;
}

/* The float buffers of a thread, in its part of the pass's scratch. */
typedef struct float_rows
{
	float *q;                 /* [ROWS][d_pad] */
	float *out;               /* [ROWS][d_pad] */
	float *k;                 /* [d_pad][32] a widened page */
	float *v;                 /* [32][d_pad] */
	float max[LLM_ATTN_ROWS]; /* the highest score so far, and */
	float sum[LLM_ATTN_ROWS]; /* Σ exp(score − max): arXiv 1805.02867, algorithm 3 */
} float_rows;

/* Bytes of q, out, k and v: a page has as many slots as an item has rows. */
size_t
llm_attn_float_bytes(const llm_attn_pass *pass)
{
	return 4 * (size_t) LLM_ATTN_ROWS * pass->pages.shape.d_pad * sizeof(float);
}

/* A bf16 number in float. */
static inline float
widen(uint16_t b)
{
	uint32_t bits = (uint32_t) b << 16;
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

/* Widens a bf16 page: K [d / 2][32][2] to [d][32], V [16][d][2] to [32][d]. */
static void
widen_page(const uint16_t *k, size_t d, float_rows *rows)
{
	const uint16_t *v = k + LLM_CPU_PAGE * d;

	for (size_t i = 0; i < d; i++)
		for (size_t t = 0; t < LLM_CPU_PAGE; t++)
		{
			rows->k[i * LLM_CPU_PAGE + t] = widen(k[(i / 2 * LLM_CPU_PAGE + t) * 2 + i % 2]);
			rows->v[t * d + i] = widen(v[(t / 2 * d + i) * 2 + t % 2]);
		}
}

/* Copies the queries of an item, zero-padded, and clears the state of its rows. */
static void
start_rows(const llm_attn_pass *pass, const llm_attn_item *item, float_rows *rows)
{
	const size_t d = pass->pages.shape.d_pad;

	memset(rows->q, 0, item->n_rows * d * sizeof(float));
	memset(rows->out, 0, item->n_rows * d * sizeof(float));
	for (uint32_t r = 0; r < item->n_rows; r++)
	{
		rows->max[r] = -INFINITY;
		rows->sum[r] = 0.0f;
		memcpy(rows->q + r * d, pass->q + llm_attn_row(pass, item, r),
		       pass->attn->d_head * sizeof(float));
	}
}

/*
 * One page for all rows of an item. The page is widened once for all of them; a row that sees none
 * of its slots passes with visible = 0 and keeps its bits.
 */
static void
step_rows(const llm_attn_pass *pass, const llm_attn_item *item, uint32_t page, float_rows *rows)
{
	const pp_attn *a = pass->attn;
	const llm_attn_seg *s = &pass->segs[item->seg];
	const uint8_t *data = llm_attn_page(pass, s, page, item->kv_head);
	const size_t d = pass->pages.shape.d_pad;
	llm_attn_step step = {.d = d, .scale = a->scale, .softcap = a->softcap};

	step.k = (const float *) (const void *) data;
	step.v = step.k + LLM_CPU_PAGE * d;
	if (pass->pages.bf16)
	{
		widen_page((const uint16_t *) (const void *) data, d, rows);
		step.k = rows->k;
		step.v = rows->v;
	}
	for (uint32_t r = 0; r < item->n_rows; r++)
	{
		step.visible =
		    llm_attn_visible(pass, s, (item->first_row + r) / (a->n_heads / a->n_kv_heads), page);
		step.q = rows->q + r * d;
		step.out = rows->out + r * d;
		step.max = &rows->max[r];
		step.sum = &rows->sum[r];
		pass->cpu->kernels->attn_step(&step);
	}
}

/*
 * Items [begin, end) in float. Every row sees at least itself, so its sum is positive at the end.
 */
void
llm_attn_float(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const llm_attn_pass *pass = arg;
	const uint32_t group = pass->attn->n_heads / pass->attn->n_kv_heads;
	const size_t d = pass->pages.shape.d_pad;
	const size_t n = LLM_ATTN_ROWS * d;
	float_rows rows;

	rows.q = (float *) (void *) (pass->rows + thread * pass->bytes_rows);
	rows.out = rows.q + n;
	rows.k = rows.out + n;
	rows.v = rows.k + n;
	for (uint32_t i = begin; i < end; i++)
	{
		const llm_attn_item *item = &pass->items[i];
		uint32_t page;
		uint32_t page_end;

		start_rows(pass, item, &rows);
		llm_attn_range(pass, &pass->segs[item->seg], item->first_row / group,
		               (item->first_row + item->n_rows - 1) / group, &page, &page_end);
		for (; page < page_end; page++)
			step_rows(pass, item, page, &rows);
		for (uint32_t r = 0; r < item->n_rows; r++)
		{
			float *out = pass->out + llm_attn_row(pass, item, r);

			memcpy(out, rows.out + r * d, pass->attn->d_head * sizeof(float));
			pass->cpu->kernels->scale(out, pass->attn->d_head, 1.0f / rows.sum[r]);
		}
	}
}
