/*
 * cuda.cuh: what the files of the CUDA backend share: its state, the plan of a pass, the launchers.
 *
 * Types. Activations (pp_act) are bf16, the residual stream, norm weights, biases and logits are
 * float; every sum is float. Weights are bf16.
 *
 * KV pages. One allocation, layer after layer; a layer is [page][K, V][kv head][slot][d_head] bf16
 * with PP_CUDA_PAGE slots: the 64 × d_head keys of a head in a page are one dense block, which is a
 * tile for cp.async, a box for the bulk copy engine and an operand for wgmma. An encoder's keys and
 * values have no pages: [T, n_kv_heads, d_head] each, in scratch.
 *
 * A pass is planned once on the host (plan.cu) and uploaded in one copy; kernels of all layers read
 * the same plan. Whatever changes from pass to pass stands in it, in device memory, so that the
 * launches of a pass can be captured in a graph and replayed for another one: grids are sized by
 * the bounds in pp_cuda_plan, and kernels read the real counts from the device.
 *
 * Errors. A launch is followed by cuda_check; the first failure sticks in pp_cuda.failed and every
 * later op returns PP_E_DEVICE. Nothing here exits or prints. One thread drives a backend.
 */
#ifndef PP_CUDA_CUH
#define PP_CUDA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels.h"

#define PP_CUDA_PAGE   64u  /* KV slots of a page */
#define PP_CUDA_D_HEAD 256u /* the largest head */
#define PP_CUDA_NONE   UINT32_MAX

typedef __nv_bfloat16 bf16;

struct pp_cuda;

/* One segment on the device. */
struct cuda_seg
{
	uint32_t first_token;
	uint32_t n_new;
	uint32_t n_past;
	uint32_t page0;   /* its first page is cuda_plan.pages[page0]; slot s is in page0 + s / 64 */
	uint32_t parent0; /* its parents begin at cuda_plan.parents[parent0]; PP_CUDA_NONE: a chain */
};

/*
 * One piece of attention, for every head: queries [q0, q0 + n_q) of a segment over the keys
 * [k0, k1) of it. The lists are made by the planners of the attention kernels.
 */
struct cuda_item
{
	uint32_t seg;
	uint32_t q0;
	uint32_t n_q;
	uint32_t k0;
	uint32_t k1;
	uint32_t partial; /* where its partial result goes when the keys are split, or PP_CUDA_NONE */
};

/* The real counts of a pass, at the start of its plan: kernels read them, grids do not. */
struct cuda_counts
{
	uint32_t n_tokens;
	uint32_t n_segs;
	uint32_t n_rows;    /* rows asked for */
	uint32_t n_prefill; /* items of the three lists */
	uint32_t n_decode;
	uint32_t n_simple;
	uint32_t n_merge; /* queries whose keys were split */
};

/* The plan of a pass: device pointers, and the bounds that grids are sized by. */
struct cuda_plan
{
	const cuda_counts *counts;
	const int32_t *tokens;     /* [T] */
	const uint32_t *pos;       /* [T] */
	const uint32_t *token_seg; /* [T] segment of each token; PP_CUDA_NONE behind the last */
	const uint32_t *token_kv;  /* [T] page · 64 + slot where the token's k and v go (causal) */
	const uint32_t *rows;      /* [n_rows] */
	const cuda_seg *segs;
	const uint32_t *pages;
	const int32_t *parents;
	const cuda_item *prefill; /* chains, by attention_prefill.cu */
	const cuda_item *decode;  /* chains of few tokens, by attention_decode.cu */
	const cuda_item *simple;  /* trees and odd head sizes, by attention_simple.cu */
	const cuda_item *merge;   /* one for each split query block: k0, k1 = its range of partials */
	uint32_t max_tokens;      /* bounds: at least the counts; those of the bucket in a graph */
	uint32_t max_prefill;
	uint32_t max_decode;
	uint32_t max_simple;
	uint32_t max_merge;
};

/* What an attention launcher gets: one layer. */
struct cuda_attention
{
	bf16 *out;        /* [T, n_heads, d_head] */
	const bf16 *q;    /* [T, n_heads, d_head], rotated, not scaled */
	const bf16 *kv;   /* causal: the layer's pages; else NULL */
	uint32_t n_pages; /* of the pool, for tensor maps */
	const bf16 *k;    /* not causal: [T, n_kv_heads, d_head]; else NULL */
	const bf16 *v;
	pp_attn attn;   /* n_heads, n_kv_heads, d_head, scale, softcap, window, causal */
	float *partial; /* scratch for split keys: see cuda_attention_partial_floats */
};

/* --- attention: the launchers, each reads its own list of the plan ----------------------- */

/* Whether a kernel takes this shape on this card; the planners ask before they use a list. */
bool cuda_prefill_takes(const pp_cuda *cu, const pp_attn *attn);
bool cuda_decode_takes(const pp_cuda *cu, const pp_attn *attn);

/*
 * Host: appends the items of one segment to a list with room for max; returns how many it wrote.
 * Called once a pass and segment with the shape of layer 0; the items must serve every layer that
 * differs in window, softcap and head counts alone. What an item holds for a segment may depend on
 * that segment only. Order by falling cost is the caller's.
 */
uint32_t cuda_prefill_plan(cuda_item *items, uint32_t max, uint32_t seg, const pp_segment *s,
                           bool causal);
uint32_t cuda_decode_plan(cuda_item *items, uint32_t max, uint32_t seg, const pp_segment *s);
/* The most items that n_tokens new tokens in n_segs segments of at most n_ctx slots can make. */
uint32_t cuda_prefill_items_max(uint32_t n_tokens, uint32_t n_segs);
uint32_t cuda_decode_items_max(uint32_t n_segs, uint32_t n_ctx);
/* Floats of cuda_attention.partial that n_items decode items need, for any head. */
size_t cuda_decode_partial_floats(uint32_t n_items, uint32_t n_heads, uint32_t d_head);

/*
 * Segments of up to so many new tokens (chains) go to the decode list. Which list a query came by
 * must not show in its bits: both kernels walk the keys in the same steps.
 */
#define PP_CUDA_DECODE_MAX 8u

/* Launch on cu->stream; return what cudaGetLastError said. Grids by the plan's bounds. */
cudaError_t cuda_attention_prefill(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);
cudaError_t cuda_attention_decode(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);
cudaError_t cuda_attention_simple(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);

/* --- the state ---------------------------------------------------------------------------- */

struct pp_cuda
{
	pp_backend base; /* first: ops get a pointer to it */
	int device;
	int n_sms;
	int arch; /* 10 · major + minor: 80, 89, 90, 100 */
	cudaStream_t stream;
};

/* Elements between a page and the next, and from K to V in it, of a layer with this shape. */
static inline __host__ __device__ size_t
cuda_page_elems(uint32_t n_kv_heads, uint32_t d_head)
{
	return (size_t) 2 * n_kv_heads * PP_CUDA_PAGE * d_head;
}

/* The dense [64, d_head] block of keys (v = 0) or values (v = 1) of a head in a page. */
static inline __host__ __device__ size_t
cuda_kv_at(const uint32_t n_kv_heads, uint32_t d_head, uint32_t page, uint32_t v, uint32_t head)
{
	return (((size_t) page * 2 + v) * n_kv_heads + head) * PP_CUDA_PAGE * d_head;
}

#endif /* PP_CUDA_CUH */
