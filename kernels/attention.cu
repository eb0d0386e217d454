/*
 * attention.cu: the attention op: finds keys and values, hands each work list to its kernel.
 *
 * The lists were made when the pass began (plan.cu): more than a few tokens go to
 * attention_prefill.cu, few to attention_decode.cu, chains and trees alike; what neither has goes
 * to attention_simple.cu. All three may be in one pass.
 */
#include "cuda.cuh"

/* Heads that the kernels take; see the header. */
pp_result
cuda_attn_supported(pp_cuda *cu, const pp_attn *attn)
{
	if (attn->d_head == 0 || attn->d_head > PP_CUDA_D_HEAD || attn->d_head % 8 != 0 ||
	    attn->n_kv_heads == 0 || attn->n_heads % attn->n_kv_heads != 0)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "attention with %u heads of %u over %u KV heads",
		                 attn->n_heads, attn->d_head, attn->n_kv_heads);
	return PP_OK;
}

/* The keys and values of a layer; an encoder's lie in scratch. */
pp_result
cuda_kv_of(pp_cuda *cu, uint32_t layer, const pp_attn *attn, uint32_t n_tokens, cuda_attention *a)
{
	const cuda_kv *kv = &cu->kv;
	size_t n = (size_t) n_tokens * attn->n_kv_heads * attn->d_head;
	pp_result result = cuda_attn_supported(cu, attn);

	if (result != PP_OK)
		return result;
	if (attn->causal)
	{
		if (layer >= kv->n_layers || kv->attn[layer].n_kv_heads != attn->n_kv_heads ||
		    kv->attn[layer].d_head != attn->d_head)
			return cuda_fail(cu, PP_E_UNSUPPORTED, "layer %u has no such KV pages", layer);
		a->kv = kv->data + kv->offset[layer];
		a->n_pages = kv->n_pages;
		return PP_OK;
	}
	a->k = (const bf16 *) cuda_scratch(cu, CUDA_SCRATCH_KV, 2 * n * sizeof(bf16));
	a->v = a->k + n;
	return a->k != NULL ? PP_OK : PP_E_NOMEM;
}

/* Scratch for split keys, as much as either list needs: they run one after the other. */
static pp_result
find_partial(pp_cuda *cu, cuda_attention *a)
{
	const cuda_plan *plan = &cu->plan;
	size_t n = 0;
	size_t prefill = 0;

	if (plan->max_decode > 0)
		n = cuda_decode_partial_floats(plan->max_decode, a->attn.n_heads, a->attn.d_head);
	if (plan->max_prefill > 0)
		prefill = cuda_prefill_partial_floats(cu, &a->attn);
	n = n > prefill ? n : prefill;
	if (n == 0)
		return PP_OK;
	a->partial = (float *) cuda_scratch(cu, CUDA_SCRATCH_PARTIAL, n * sizeof(float));
	if (a->partial != NULL)
		return PP_OK;
	return cu->failed ? PP_E_DEVICE : PP_E_NOMEM;
}

/* Attention of all segments of the pass; see kernels.h. */
pp_result
cuda_attention_op(pp_backend *be, pp_act *dev_out, const pp_act *dev_q, const pp_segment *segs,
                  uint32_t n_segs, uint32_t n_tokens, uint32_t layer, const pp_attn *attn)
{
	pp_cuda *cu = cuda_of(be);
	const cuda_plan *plan = &cu->plan;
	cuda_attention a = cuda_attention();
	pp_result result = PP_OK;

	if (n_tokens == 0)
		return PP_OK;
	if (!cu->in_pass || segs != cu->pass.segs || n_segs != cu->pass.n_segs)
		return cuda_fail(cu, PP_E_UNSUPPORTED, "segments that are not the pass's");
	if ((result = cuda_kv_of(cu, layer, attn, n_tokens, &a)) != PP_OK)
		return result;
	a.out = cuda_act(dev_out);
	a.q = cuda_act(dev_q);
	a.attn = *attn;
	if ((result = find_partial(cu, &a)) != PP_OK)
		return result;
	if (plan->max_decode > 0)
		result = cuda_check(cu, cuda_attention_decode(cu, plan, &a), "attention");
	if (result == PP_OK && plan->max_prefill > 0)
		result = cuda_check(cu, cuda_attention_prefill(cu, plan, &a), "attention");
	if (result == PP_OK && plan->max_simple > 0)
		result = cuda_check(cu, cuda_attention_simple(cu, plan, &a), "attention");
	return result;
}
