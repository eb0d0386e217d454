/*
 * llm_forward_internal.h: the workspace, and the layers that decoders and encoders share.
 */
#ifndef LLM_FORWARD_INTERNAL_H
#define LLM_FORWARD_INTERNAL_H

#include "llm_forward.h"

/*
 * Scratch on the device. The residual stream is x; what the last block computed and has not been
 * added yet is delta: the addition is fused into the norm that follows. wide and wide2 hold in turn
 * qkv and the MLP's input, queries and the MLP's activation.
 */
struct llm_workspace
{
	const llm_model *m;
	uint32_t max_tokens;
	uint32_t max_rows;
	uint32_t max_logit_rows; /* rows whose logits fit in logits at once */

	float *x;      /* [max_tokens, d] */
	float *normed; /* [max_tokens, d] */
	float *delta;  /* [max_tokens, d] */
	float *wide;   /* [max_tokens, max((H + 2 Hkv) Dh, MLP input)] */
	float *wide2;  /* [max_tokens, max(H Dh, F)] */
	float *rows;   /* [max_rows, d] normed rows (decoder), pooled segments (encoder) */
	float *rows2;  /* [max_rows, d] */
	float *logits; /* [max_logit_rows, n_vocab] (decoder), [max_rows, n_classes] (classifier) */
	float *lse;    /* [max_logit_rows] */

	uint32_t *index;  /* host [max_tokens]: positions with their offset, token types, rows */
	uint32_t n_rows;  /* rows of the last pass */
	pp_segment *segs; /* host [max_rows], encoders: the batch's, without pages */

	float *tap; /* where the next pass copies the hidden state to; NULL: nowhere */
	int tap_layer;
};

/* Turns a backend's result into a status, with its message. */
llm_status forward_check(const llm_workspace *ws, pp_result result, llm_error *err);
/* Checks a batch against the model and the workspace. */
llm_status forward_check_batch(const llm_workspace *ws, const llm_batch *batch, llm_error *err);
/* Embeddings and all layers; the hidden state is then x, plus delta when *pending. */
llm_status forward_body(llm_workspace *ws, const llm_batch *batch, bool *pending, llm_error *err);
/* out[n, d] = final norm of the n hidden states at x (+ delta, when it is not NULL). */
pp_result forward_final_norm(const llm_workspace *ws, float *out, float *x, const float *delta,
                             uint32_t n);

#endif /* LLM_FORWARD_INTERNAL_H */
