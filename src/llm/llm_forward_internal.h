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

	float *x;       /* [max_tokens, d] */
	pp_act *normed; /* [max_tokens, d] what the next block reads */
	pp_act *delta;  /* [max_tokens, d] */
	pp_act *wide;   /* [max_tokens, max((H + 2 Hkv) Dh, MLP input)] */
	pp_act *wide2;  /* [max_tokens, max(H Dh, F)] */
	pp_act *rows;   /* [max_rows, d] normed rows (decoder), pooled segments (classifier) */
	pp_act *rows2;  /* [max_rows, d] */
	float *pooled;  /* [max_rows, d] (encoder) */
	float *logits;  /* [max_logit_rows, n_vocab] (decoder), [max_rows, n_classes] (classifier) */
	float *lse;     /* [max_logit_rows] */
	pp_top *top;    /* [max_logit_rows] */

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
/* Tells the device what the pass works on; pass_end must follow when it succeeds. */
llm_status forward_begin(llm_workspace *ws, const llm_batch *batch, bool *replayed, llm_error *err);
/* Embeddings and all layers; the hidden state is then x, plus delta when *pending. */
llm_status forward_body(llm_workspace *ws, const llm_batch *batch, bool *pending, llm_error *err);

#endif /* LLM_FORWARD_INTERNAL_H */
