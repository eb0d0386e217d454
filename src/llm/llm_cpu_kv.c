/*
 * llm_cpu_kv.c: the pool of KV pages: shapes, and the copies that its owner asks for.
 *
 * All of a model's layers lie in one allocation, layer after layer, each an array of pages, so that
 * a page number is all that a sequence has to remember. Padding of the head dimension and slots
 * never written are zero.
 */
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"
#include "llm_cpu.h"

/* The shape of a layer's pages; offset is left to the caller. */
void
llm_cpu_kv_shape(const pp_attn *attn, bool bf16, llm_cpu_kv_layer *layer)
{
	layer->n_kv_heads = attn->n_kv_heads;
	layer->d_pad = (attn->d_head + 31) / 32 * 32;
	layer->bytes_head = (size_t) 2 * LLM_CPU_PAGE * layer->d_pad * (bf16 ? 2 : 4);
	layer->bytes_page = layer->bytes_head * layer->n_kv_heads;
	layer->offset = 0;
}

/* Slots of a page. */
uint32_t
llm_cpu_kv_page_tokens(pp_backend *be)
{
	(void) be;
	return LLM_CPU_PAGE;
}

/* Bytes of a page in all layers. */
uint64_t
llm_cpu_kv_page_bytes(pp_backend *be, const pp_attn *attn, uint32_t n_layers,
                      pp_precision precision)
{
	uint64_t bytes = 0;

	(void) be;
	for (uint32_t i = 0; i < n_layers; i++)
	{
		llm_cpu_kv_layer layer;

		llm_cpu_kv_shape(&attn[i], precision != PP_PREC_F32, &layer);
		bytes += layer.bytes_page;
	}
	return bytes;
}

/* Makes the pool; an old one is dropped. */
pp_result
llm_cpu_kv_create(pp_backend *be, const pp_attn *attn, uint32_t n_layers, uint32_t n_pages,
                  pp_precision precision)
{
	llm_cpu *cpu = llm_cpu_of(be);
	llm_cpu_kv *kv = &cpu->kv;
	uint64_t bytes;
	size_t offset = 0;

	llm_cpu_kv_destroy(be);
	if (!pp_mul_ok(llm_cpu_kv_page_bytes(be, attn, n_layers, precision), n_pages, &bytes) ||
	    bytes > SIZE_MAX / 2)
		return llm_cpu_fail(cpu, PP_E_NOMEM, "a KV pool of %u pages is too large", n_pages);
	kv->layers = llm_calloc(n_layers, sizeof(*kv->layers));
	kv->block = llm_calloc((size_t) bytes + 128, 1);
	if ((kv->layers == NULL && n_layers > 0) || kv->block == NULL)
	{
		llm_cpu_kv_destroy(be);
		return llm_cpu_fail(cpu, PP_E_NOMEM, "out of memory for a KV pool of %u pages", n_pages);
	}
	kv->data = (uint8_t *) kv->block + (64 - (uintptr_t) kv->block % 64) % 64;
	kv->bf16 = precision != PP_PREC_F32;
	kv->n_layers = n_layers;
	kv->n_pages = n_pages;
	kv->bytes = bytes;
	for (uint32_t i = 0; i < n_layers; i++)
	{
		llm_cpu_kv_shape(&attn[i], kv->bf16, &kv->layers[i]);
		kv->layers[i].offset = offset;
		offset += kv->layers[i].bytes_page * n_pages;
	}
	return PP_OK;
}

/* Frees the pool, if there is one. */
void
llm_cpu_kv_destroy(pp_backend *be)
{
	llm_cpu_kv *kv = &llm_cpu_of(be)->kv;

	llm_free(kv->block);
	llm_free(kv->layers);
	*kv = (llm_cpu_kv){0};
}

/* A head's K or V in a page of a layer. */
static uint8_t *
part_of(const llm_cpu_kv *kv, const llm_cpu_kv_layer *l, uint32_t page, uint32_t head, bool v)
{
	return kv->data + l->offset + page * l->bytes_page + head * l->bytes_head +
	       (v ? l->bytes_head / 2 : 0);
}

/* Copies one slot of a head's K and V: K has a step of one slot's elements for every group of d. */
static void
copy_slot(const llm_cpu_kv *kv, const llm_cpu_kv_layer *l, uint8_t *dst, uint32_t dst_slot,
          const uint8_t *src, uint32_t src_slot)
{
	const size_t n_groups = kv->bf16 ? l->d_pad / 2 : l->d_pad; /* a group has 4 bytes a slot */
	const size_t half = l->bytes_head / 2;

	for (size_t g = 0; g < n_groups; g++)
		memcpy(dst + (g * LLM_CPU_PAGE + dst_slot) * 4, src + (g * LLM_CPU_PAGE + src_slot) * 4, 4);
	if (!kv->bf16)
	{
		memcpy(dst + half + dst_slot * l->d_pad * 4, src + half + src_slot * l->d_pad * 4,
		       l->d_pad * 4);
		return;
	}
	for (size_t i = 0; i < l->d_pad; i++)
		memcpy(dst + half + ((dst_slot / 2 * l->d_pad + i) * 2 + dst_slot % 2) * 2,
		       src + half + ((src_slot / 2 * l->d_pad + i) * 2 + src_slot % 2) * 2, 2);
}

/* Copies one slot in all layers and heads. */
static void
copy_slots(const llm_cpu_kv *kv, uint32_t dst_page, uint32_t dst_slot, uint32_t src_page,
           uint32_t src_slot)
{
	for (uint32_t i = 0; i < kv->n_layers; i++)
		for (uint32_t h = 0; h < kv->layers[i].n_kv_heads; h++)
			copy_slot(kv, &kv->layers[i], part_of(kv, &kv->layers[i], dst_page, h, false), dst_slot,
			          part_of(kv, &kv->layers[i], src_page, h, false), src_slot);
}

/* Copies the first slots of a page. */
pp_result
llm_cpu_kv_copy(pp_backend *be, uint32_t dst_page, uint32_t src_page, uint32_t n_slots)
{
	const llm_cpu_kv *kv = &llm_cpu_of(be)->kv;

	if (dst_page == src_page)
		return PP_OK;
	for (uint32_t s = 0; s < n_slots && s < LLM_CPU_PAGE; s++)
		copy_slots(kv, dst_page, s, src_page, s);
	return PP_OK;
}

/* Moves the content of a slot of a sequence to another one. */
pp_result
llm_cpu_kv_move(pp_backend *be, const uint32_t *pages, uint32_t dst_slot, uint32_t src_slot)
{
	if (dst_slot != src_slot)
		copy_slots(&llm_cpu_of(be)->kv, pages[dst_slot / LLM_CPU_PAGE], dst_slot % LLM_CPU_PAGE,
		           pages[src_slot / LLM_CPU_PAGE], src_slot % LLM_CPU_PAGE);
	return PP_OK;
}

/* Zeroes a page in all layers. */
pp_result
llm_cpu_kv_clear(pp_backend *be, uint32_t page)
{
	const llm_cpu_kv *kv = &llm_cpu_of(be)->kv;

	for (uint32_t i = 0; i < kv->n_layers; i++)
		memset(part_of(kv, &kv->layers[i], page, 0, false), 0, kv->layers[i].bytes_page);
	return PP_OK;
}
