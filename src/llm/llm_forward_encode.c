/*
 * llm_forward_encode.c: what stands behind an encoder's layers: pooling, and the heads of
 * classifiers.
 *
 * All segments of the batch are pooled in one call; a classifier's dense layers then see one row a
 * segment.
 */
#include "llm_forward_internal.h"

/* logits = W out + b of the classifier on the pooled rows. */
static pp_result
run_classifier(llm_workspace *ws, uint32_t n)
{
	const llm_model *m = ws->m;
	const llm_arch *arch = &m->arch;
	const pp_ops *ops = m->be->ops;
	pp_act_kind act = arch->classifier == LLM_CLS_MODERNBERT ? arch->cls_act : PP_ACT_TANH;
	pp_result result = ops->narrow(m->be, ws->rows, ws->pooled, (size_t) n * arch->d_model);

	if (result == PP_OK)
		result = ops->matmul(m->be, ws->rows2, ws->rows, m->cls_dense, m->cls_dense_b, n);
	if (result == PP_OK)
		result = ops->activate(m->be, ws->rows2, ws->rows2, n, arch->d_model, act, false);
	if (result == PP_OK && arch->classifier == LLM_CLS_MODERNBERT)
		result = ops->norm(m->be, ws->rows2, NULL, ws->rows2, m->cls_norm_w, m->cls_norm_b, n,
		                   arch->d_model, arch->norm_eps, arch->norm_kind, arch->norm_plus_one);
	if (result == PP_OK)
		result = ops->matmul_float(m->be, ws->logits, ws->rows2, m->cls_out, m->cls_out_b, n);
	return result;
}

/* Final norm, pooling, classifier; the result is at *out, *width floats a segment. */
static pp_result
run_heads(llm_workspace *ws, const llm_batch *batch, bool pending, float **out, uint32_t *width)
{
	const llm_model *m = ws->m;
	const llm_arch *arch = &m->arch;
	const pp_ops *ops = m->be->ops;
	const pp_act *delta = pending ? ws->delta : NULL;
	pp_result result = PP_OK;

	if (arch->final_norm)
		result = ops->norm_post(m->be, ws->normed, ws->x, delta, m->final_norm_w, m->final_norm_b,
		                        batch->n_tokens, arch->d_model, arch->norm_eps, arch->norm_kind,
		                        arch->norm_plus_one);
	else if (pending)
		result = ops->add(m->be, ws->x, delta, batch->n_tokens, arch->d_model);
	if (result == PP_OK)
		result = ops->pool(m->be, ws->pooled, ws->x, batch->segs, batch->n_segs, arch->d_model,
		                   arch->pooling, arch->l2_normalise);
	*out = ws->pooled;
	*width = arch->d_model;
	if (result != PP_OK || arch->classifier == LLM_CLS_NONE)
		return result;
	*out = ws->logits;
	*width = arch->n_classes;
	return run_classifier(ws, batch->n_segs);
}

/* Copies the segments, less the pages and parents that only decoders have. */
static llm_status
copy_segments(llm_workspace *ws, const llm_batch *batch, llm_error *err)
{
	if (batch->n_segs > ws->max_rows)
		return llm_fail(err, LLM_E_RANGE, "%u segments are more than the workspace's %u rows",
		                batch->n_segs, ws->max_rows);
	for (uint32_t s = 0; s < batch->n_segs; s++)
	{
		const pp_segment *seg = &batch->segs[s];

		if (seg->n_new == 0 || seg->n_past != 0)
			return llm_fail(err, LLM_E_RANGE, "segment %u of an encoder is empty or has a past", s);
		ws->segs[s] = (pp_segment){.first_token = seg->first_token, .n_new = seg->n_new};
	}
	return LLM_OK;
}

/* Runs the layers and the heads, fetches one result a segment. */
llm_status
llm_forward_encode(llm_workspace *ws, const llm_batch *batch, float *out, llm_error *err)
{
	const llm_arch *arch = &ws->m->arch;
	pp_backend *be = ws->m->be;
	llm_batch own = *batch;
	llm_status status;
	pp_result result;
	float *dev = NULL;
	uint32_t width = 0;
	bool pending;
	bool replayed;

	if (arch->decoder)
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s is not an encoder", arch->name);
	if ((status = forward_check_batch(ws, batch, err)) != LLM_OK ||
	    (status = copy_segments(ws, batch, err)) != LLM_OK)
		return status;
	own.segs = ws->segs;
	own.n_rows = 0;
	if ((status = forward_begin(ws, &own, &replayed, err)) != LLM_OK)
		return status;
	if ((status = forward_body(ws, &own, &pending, err)) == LLM_OK)
		status = forward_check(ws, run_heads(ws, &own, pending, &dev, &width), err);
	result = be->ops->pass_end(be);
	if (status == LLM_OK && result == PP_OK)
		result = be->ops->download(be, out, dev, (size_t) batch->n_segs * width * sizeof(float));
	return status == LLM_OK ? forward_check(ws, result, err) : status;
}
