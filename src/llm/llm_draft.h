/*
 * llm_draft.h: prompt-lookup drafting (n-gram speculation).
 *
 * The continuation of the longest recent n-gram (4 down to 2 tokens) that occurred earlier in
 * prompt or output is proposed as a draft; verification (llm_sample_verify) makes it lossless. An
 * incremental index over the sequence's own tokens: O(1) a token. The draft length adapts to the
 * acceptance seen.
 */
#ifndef LLM_DRAFT_H
#define LLM_DRAFT_H

#include <stdint.h>

#include "llm_status.h"

typedef struct llm_draft llm_draft;

#define LLM_DRAFT_MAX 8

llm_status llm_draft_create(const int32_t *tokens, uint32_t n, llm_draft **out, llm_error *err);
void llm_draft_free(llm_draft *d);
llm_status llm_draft_append(llm_draft *d, int32_t token, llm_error *err);
/* Up to max (<= LLM_DRAFT_MAX) proposed tokens after the last one; 0 when nothing matches or it
 * does not pay. */
uint32_t llm_draft_propose(const llm_draft *d, int32_t *out, uint32_t max);
void llm_draft_feedback(llm_draft *d, uint32_t n_proposed, uint32_t n_accepted);

#endif /* LLM_DRAFT_H */
