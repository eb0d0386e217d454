/*
 * llm_cpu_attn.h: how a pass's attention is cut into items, and which slots a token sees.
 *
 * An item is up to 32 rows of one segment and one KV head; row r of a segment is query head r % G
 * of its token r / G, G query heads sharing the KV head. All rows walk the pages in order of
 * absolute slot, and a page that a row does not see changes none of its bits, so the output of a
 * row is the same however the segment is cut into items, passes and chunks.
 */
#ifndef LLM_CPU_ATTN_H
#define LLM_CPU_ATTN_H

#include "llm_cpu.h"

#define LLM_ATTN_ROWS 32u /* of an item: two tiles */

/* What the pass knows of a segment beyond its pp_segment. */
typedef struct llm_attn_seg
{
	const pp_segment *seg;
	uint32_t first_page;   /* of an encoder's segment in scratch */
	uint32_t words;        /* of a row of masks */
	const uint64_t *masks; /* trees: [n_new][words], bit j of row i: i sees j; else NULL */
	const uint32_t *depth; /* trees: [n_new] */
} llm_attn_seg;

typedef struct llm_attn_item
{
	uint32_t seg;
	uint32_t kv_head;
	uint32_t first_row;
	uint32_t n_rows;
} llm_attn_item;

/* A whole call. */
typedef struct llm_attn_pass
{
	llm_cpu *cpu;
	const pp_attn *attn;
	llm_cpu_pages pages;
	llm_attn_seg *segs;
	llm_attn_item *items;
	uint32_t n_items;
	float *out;
	const float *q;
	uint8_t *rows;     /* scratch of the threads */
	size_t bytes_rows; /* of each thread */
} llm_attn_pass;

/* The slots of a page that token i of a segment sees, a bit each. */
uint32_t llm_attn_visible(const llm_attn_pass *pass, const llm_attn_seg *s, uint32_t i,
                          uint32_t page);
/* The pages [*first, *end) that tokens [i, last] of a segment may see. */
void llm_attn_range(const llm_attn_pass *pass, const llm_attn_seg *s, uint32_t i, uint32_t last,
                    uint32_t *first, uint32_t *end);

/* The K part of the item's head in page number page of its segment. */
static inline const uint8_t *
llm_attn_page(const llm_attn_pass *pass, const llm_attn_seg *s, uint32_t page, uint32_t head)
{
	uint32_t id = s->seg->pages != NULL ? s->seg->pages[page] : s->first_page + page;

	return llm_cpu_page(&pass->pages, id, head);
}

/* The query of row r of an item, and where its output goes: an offset into q and out. */
static inline size_t
llm_attn_row(const llm_attn_pass *pass, const llm_attn_item *item, uint32_t r)
{
	const pp_attn *a = pass->attn;
	const uint32_t group = a->n_heads / a->n_kv_heads;
	const uint32_t row = item->first_row + r;
	const size_t token = pass->segs[item->seg].seg->first_token + row / group;

	return (token * a->n_heads + item->kv_head * group + row % group) * a->d_head;
}

/* Scratch of one thread for these shapes, and the work on items: in float, and on tiles. */
size_t llm_attn_float_bytes(const llm_attn_pass *pass);
void llm_attn_float(void *arg, uint32_t begin, uint32_t end, uint32_t thread);
size_t llm_attn_amx_bytes(const llm_attn_pass *pass);
void llm_attn_amx(void *arg, uint32_t begin, uint32_t end, uint32_t thread);

#endif /* LLM_CPU_ATTN_H */
