/*
 * llm_cpu_qkv.c: between the fused projection and attention: head norms, RoPE, and the writing of K
 * and V into pages.
 *
 * A row of qkv is [H · Dh queries | Hkv · Dh keys | Hkv · Dh values]. Queries stay in order of
 * tokens; keys and values go where attention reads them, transposed and paired there once, so that
 * the many walks over a page find whole vectors of slots. Padding beyond Dh is written as zeros
 * with every token: scores and outputs then need no case of their own.
 *
 * Every token is prepared by one thread from its own row and position alone. Neighbouring slots of
 * a bf16 page share words of V, but no byte, so threads need no lock where their ranges meet.
 */
#include <string.h>

#include "llm_cpu.h"

#define D_HEAD_MAX 256 /* of the largest family (Gemma); bounds the buffers on the stack */

/* One call of the op, shared by its threads, which only read it. */
typedef struct qkv_args
{
	const llm_cpu *cpu;
	const pp_attn *attn;
	const pp_rope *rope;
	const llm_cpu_rope_table *table; /* NULL: no rotation */
	llm_cpu_pages pages;
	float *q;            /* [T][H][Dh] */
	const float *qkv;    /* [T][(H + 2 Hkv)][Dh] */
	const uint32_t *pos; /* [T] of rotation: restarts in every segment, unlike the flat index */
	const pp_segment *segs;
	uint32_t n_segs;
	llm_norm_row q_norm; /* over one head; w NULL: none */
	llm_norm_row k_norm;
} qkv_args;

/*
 * Pages that the segments of an encoder pass take in scratch. Each segment begins one of its own,
 * as in a pool, so that attention knows one layout.
 */
static uint64_t
count_pages(const pp_segment *segs, uint32_t n_segs)
{
	uint64_t n = 0;

	for (uint32_t s = 0; s < n_segs; s++)
		n += (segs[s].n_new + LLM_CPU_PAGE - 1) / LLM_CPU_PAGE;
	return n;
}

/* The pages of a layer; see the header. */
pp_result
llm_cpu_pages_of(llm_cpu *cpu, uint32_t layer, const pp_attn *attn, const pp_segment *segs,
                 uint32_t n_segs, llm_cpu_pages *out)
{
	const llm_cpu_kv *kv = &cpu->kv;

	if (attn->d_head == 0 || attn->d_head > D_HEAD_MAX || attn->d_head % 8 != 0 ||
	    attn->n_kv_heads == 0 || attn->n_heads % attn->n_kv_heads != 0)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "attention with %u heads of %u over %u KV heads",
		                    attn->n_heads, attn->d_head, attn->n_kv_heads);
	/* an encoder has no pool to say so: it goes by the precision of its matrices */
	out->bf16 = kv->layers != NULL ? kv->bf16 : cpu->n_int8 > 0;
	llm_cpu_kv_shape(attn, out->bf16, &out->shape);
	if (attn->causal)
	{
		if (layer >= kv->n_layers || kv->layers[layer].bytes_page != out->shape.bytes_page)
			return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "layer %u has no such KV pages", layer);
		out->data = kv->data + kv->layers[layer].offset;
		return PP_OK;
	}
	out->data = llm_cpu_scratch(cpu, SCRATCH_KV, count_pages(segs, n_segs), out->shape.bytes_page);
	return out->data != NULL ? PP_OK : PP_E_NOMEM;
}

/* Normalises (Qwen3, Gemma 3: before the rotation), then rotates one head [Dh] in place. */
static void
prepare_head(const qkv_args *a, float *head, const llm_norm_row *norm, uint32_t pos)
{
	if (norm->w != NULL)
		a->cpu->kernels->norm(head, head, NULL, norm);
	if (a->table != NULL)
		a->cpu->kernels->rotate(head, a->table->cos + (size_t) pos * a->table->n_half,
		                        a->table->sin + (size_t) pos * a->table->n_half, a->rope->n_dims,
		                        a->rope->interleaved);
}

/*
 * Writes k and v of one head, padded with zeros, into a slot of a float page: K [d_pad][32 slots],
 * so that one load brings a dimension of all slots, V [32 slots][d_pad].
 */
static void
write_float(const llm_cpu_kernels *kernels, uint8_t *page, uint32_t slot, const float *k,
            const float *v, uint32_t d_pad)
{
	float *k32 = (float *) (void *) page;
	float *v32 = k32 + LLM_CPU_PAGE * d_pad;

	(void) kernels;
	for (uint32_t i = 0; i < d_pad; i++)
		k32[i * LLM_CPU_PAGE + slot] = k[i];
	memcpy(v32 + slot * d_pad, v, d_pad * sizeof(float));
}

/*
 * The same for a bf16 page, where K's pairs of d stand together and V's pairs of slots: K [d_pad /
 * 2][32 slots][2], V [16][d_pad][2]. That is the operand B of AMX's TDPBF16PS, whose dot products
 * run over pairs: a tile is loaded as it lies.
 */
static void
write_bf16(const llm_cpu_kernels *kernels, uint8_t *page, uint32_t slot, const float *k,
           const float *v, uint32_t d_pad)
{
	uint32_t *k_pair = (uint32_t *) (void *) page + slot;
	uint16_t *v16 = (uint16_t *) (void *) page + LLM_CPU_PAGE * d_pad;
	uint16_t narrow_k[D_HEAD_MAX];
	uint16_t narrow_v[D_HEAD_MAX];

	kernels->narrow(narrow_k, k, d_pad);
	kernels->narrow(narrow_v, v, d_pad);
	v16 += slot / 2 * d_pad * 2 + slot % 2;
	for (uint32_t i = 0; i < d_pad; i += 2, k_pair += LLM_CPU_PAGE)
	{
		memcpy(k_pair, narrow_k + i, sizeof(*k_pair));
		v16[2 * i] = narrow_v[i];
		v16[2 * i + 2] = narrow_v[i + 1];
	}
}

/*
 * One token t of the batch: its queries into q, its keys and values into a slot of a page. Values
 * are neither normed nor rotated. d_head may be less than d_pad: the rest of k and v stays 0.
 */
static void
prepare_token(const qkv_args *a, uint32_t t, uint32_t page, uint32_t slot)
{
	const pp_attn *attn = a->attn;
	const size_t d = attn->d_head;
	const float *row = a->qkv + t * (attn->n_heads + 2 * (size_t) attn->n_kv_heads) * d;
	float *q = a->q + t * attn->n_heads * d;
	float k[D_HEAD_MAX] = {0};
	float v[D_HEAD_MAX] = {0};

	memcpy(q, row, attn->n_heads * d * sizeof(float));
	for (uint32_t h = 0; h < attn->n_heads; h++)
		prepare_head(a, q + h * d, &a->q_norm, a->pos[t]);
	row += attn->n_heads * d;
	for (uint32_t h = 0; h < attn->n_kv_heads; h++)
	{
		memcpy(k, row + h * d, d * sizeof(float));
		prepare_head(a, k, &a->k_norm, a->pos[t]);
		memcpy(v, row + (attn->n_kv_heads + h) * d, d * sizeof(float));
		(a->pages.bf16 ? write_bf16 : write_float)(a->cpu->kernels,
		                                           llm_cpu_page(&a->pages, page, h), slot, k, v,
		                                           a->pages.shape.d_pad);
	}
}

/*
 * Tokens [begin, end), which may reach over several segments. A token's slot counts from the start
 * of its sequence (n_past were there before), so that chunks of one prompt fill pages seamlessly.
 */
static void
prepare_tokens(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const qkv_args *a = arg;
	uint32_t first_page = 0;

	(void) thread;
	for (uint32_t s = 0; s < a->n_segs && a->segs[s].first_token < end; s++)
	{
		const pp_segment *seg = &a->segs[s];
		uint32_t last = seg->first_token + seg->n_new;

		for (uint32_t t = begin > seg->first_token ? begin : seg->first_token; t < end && t < last;
		     t++)
		{
			uint32_t slot = seg->n_past + (t - seg->first_token);
			uint32_t page = slot / LLM_CPU_PAGE;

			prepare_token(a, t, a->attn->causal ? seg->pages[page] : first_page + page,
			              slot % LLM_CPU_PAGE);
		}
		first_page += (seg->n_new + LLM_CPU_PAGE - 1) / LLM_CPU_PAGE;
	}
}

/*
 * Finds the table of cosines for these positions; it is grown by the calling thread before the
 * others start, so they read it without a lock.
 */
static pp_result
prepare_rope(llm_cpu *cpu, qkv_args *a, uint32_t n_tokens)
{
	uint32_t max = 0;

	if (!a->rope->enabled || a->rope->n_dims < 2)
		return PP_OK;
	if (a->rope->n_dims > a->attn->d_head)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "rotary embedding wider than a head");
	for (uint32_t t = 0; t < n_tokens; t++)
		max = a->pos[t] > max ? a->pos[t] : max;
	if (max == UINT32_MAX)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "a position of %u", max);
	a->table = llm_cpu_rope(cpu, a->rope, max + 1);
	return a->table != NULL ? PP_OK : PP_E_NOMEM;
}

/* Splits qkv; see kernels.h. */
pp_result
llm_cpu_qkv_prepare(pp_backend *be, float *dev_q, const float *dev_qkv, const uint32_t *pos,
                    const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
                    const pp_attn *attn, const pp_rope *rope, const float *dev_q_norm,
                    const float *dev_k_norm, float eps, bool plus_one)
{
	llm_cpu *cpu = llm_cpu_of(be);
	const size_t bytes_row = (attn->n_heads + 2 * (size_t) attn->n_kv_heads) * attn->d_head * 4;
	qkv_args a = {.cpu = cpu, .attn = attn, .rope = rope, .q = dev_q, .qkv = dev_qkv, .pos = pos};
	pp_result result;

	a.segs = segs;
	a.n_segs = n_segs;
	a.q_norm = (llm_norm_row){.w = dev_q_norm,
	                          .d = attn->d_head,
	                          .eps = eps,
	                          .offset = plus_one ? 1.0f : 0.0f,
	                          .kind = PP_NORM_RMS};
	a.k_norm = a.q_norm;
	a.k_norm.w = dev_k_norm;
	result = llm_cpu_pages_of(cpu, layer, attn, segs, n_segs, &a.pages);
	if (result == PP_OK && n_tokens > 0)
		result = prepare_rope(cpu, &a, n_tokens);
	if (result == PP_OK)
		llm_cpu_rows(cpu, n_tokens, 2 * bytes_row, prepare_tokens, &a);
	return result;
}
