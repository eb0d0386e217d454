/*
 * llm_forward.h: the one ragged forward pass.
 *
 * A batch is T tokens of any number of segments laid end to end, each with its own KV history:
 * prompts, chunks of prompts, single decode steps, draft chains to verify and label tries are all
 * the same call. No pad token exists. What comes out is asked for per token: only those rows reach
 * the head, and only against the columns asked for.
 */
#ifndef LLM_FORWARD_H
#define LLM_FORWARD_H

#include "llm_model.h"

/* Scratch of forward passes, sized once for max_tokens tokens and max_rows output rows. One thread
 * at a time. */
typedef struct llm_workspace llm_workspace;

llm_status llm_workspace_create(const llm_model *m, uint32_t max_tokens, uint32_t max_rows,
                                llm_workspace **out, llm_error *err);
void llm_workspace_free(llm_workspace *ws);
/* The bytes a workspace of these sizes takes, for memory planning. */
uint64_t llm_workspace_bytes(const llm_model *m, uint32_t max_tokens, uint32_t max_rows);

typedef struct llm_batch
{
	uint32_t n_tokens;     /* T <= max_tokens */
	const int32_t *tokens; /* [T], each < n_vocab */
	const uint32_t *pos;   /* [T] position of each token in its own sequence */
	const uint32_t *types; /* [T] token types (bert), NULL = all 0 */
	uint32_t n_segs;
	const pp_segment *segs; /* in flat order, covering all T tokens */

	/* Decoders: rows whose logits are wanted, as flat indices, ascending. */
	uint32_t n_rows;
	const uint32_t *rows;
} llm_batch;

/*
 * Decoder: runs all layers, then the final norm on the asked rows; logits are fetched with the
 * calls below, any number of times until the next pass. row is an index into batch->rows.
 */
llm_status llm_forward_decode(llm_workspace *ws, const llm_batch *batch, llm_error *err);
/* out[n_rows, n_vocab] of rows [first_row, first_row + n_rows), final softcap applied. Host memory.
 */
llm_status llm_forward_logits(llm_workspace *ws, uint32_t first_row, uint32_t n_rows, float *out,
                              llm_error *err);
/* out[n_rows]: the k highest logits of these rows instead of all: top() of kernels.h. */
llm_status llm_forward_top(llm_workspace *ws, uint32_t first_row, uint32_t n_rows, uint32_t k,
                           float scale, pp_top *out, llm_error *err);
/*
 * out[n_rows, n_cols]: the logits at the given vocabulary columns of the listed rows (indices into
 * batch->rows); lse[n_rows], when not NULL, gets the log-sum-exp over the whole vocabulary, so that
 * logit − lse is ln p.
 */
llm_status llm_forward_columns(llm_workspace *ws, const uint32_t *rows, uint32_t n_rows,
                               const uint32_t *cols, uint32_t n_cols, float *out, float *lse,
                               llm_error *err);

/*
 * Decoder of kind EMBED: out[n_rows, d_model], the normed states of the listed rows (indices into
 * batch->rows), at unit length where the model asks for that. Host memory.
 */
llm_status llm_forward_states(llm_workspace *ws, const uint32_t *rows, uint32_t n_rows, float *out,
                              llm_error *err);

/*
 * Encoder: out[n_segs, d_model] pooled (kind EMBED), or out[n_segs, n_classes] classifier logits
 * (kind RERANK). Host memory. Segments have n_past = 0.
 */
llm_status llm_forward_encode(llm_workspace *ws, const llm_batch *batch, float *out,
                              llm_error *err);

/* Test access: copies the hidden state after layer i (−1: embeddings) of all T tokens at the next
 * pass. */
void llm_workspace_tap(llm_workspace *ws, int layer, float *out);

#endif /* LLM_FORWARD_H */
