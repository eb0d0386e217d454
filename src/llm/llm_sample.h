/*
 * llm_sample.h: from logits to the next token.
 *
 * Order of the transform: constraint mask, temperature, top-k, top-p, min-p, softmax, draw.
 * temperature 0 is greedy (argmax, lowest id on ties). The generator is counter based: draw number
 * i of a request with seed s is a pure function of (s, i), so that a row's text does not depend on
 * what else runs, nor on speculation. A NaN logit counts as −∞.
 */
#ifndef LLM_SAMPLE_H
#define LLM_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels.h"
#include "llm_status.h"

typedef struct llm_sample_params
{
	float temperature; /* >= 0; 0 = greedy */
	uint32_t top_k;    /* 0 = off */
	float top_p;       /* in (0, 1]; 1 = off, and so is 0 */
	float min_p;       /* in [0, 1); 0 = off */
	uint64_t seed;
} llm_sample_params;

typedef struct llm_sampler llm_sampler; /* scratch for one vocabulary; one thread */

llm_status llm_sample_check(const llm_sample_params *p,
                            llm_error *err); /* LLM_E_RANGE on a bad or NaN value */
llm_status llm_sampler_create(uint32_t n_vocab, llm_sampler **out, llm_error *err);
void llm_sampler_free(llm_sampler *s);

/*
 * Draws token number index of a request. logits[n_vocab] is not changed. mask (a bit per token,
 * NULL = all allowed) restricts the choice; with no token left the result is −1. *logprob, when not
 * NULL, gets ln p of the token under the untransformed distribution.
 */
int32_t llm_sample(llm_sampler *s, const float *logits, const uint32_t *mask,
                   const llm_sample_params *p, uint64_t index, float *logprob);

/*
 * How many of a row's highest logits llm_sample_top asks for, and *scale, what they are to be asked
 * with (top() of kernels.h); 0: it must have the whole row.
 */
uint32_t llm_sample_wants(const llm_sample_params *p, float *scale);
/*
 * The token that llm_sample gives without a mask, from the highest logits alone. *sure = false:
 * they do not decide it, and the result means nothing.
 */
int32_t llm_sample_top(llm_sampler *s, const pp_top *top, const llm_sample_params *p,
                       uint64_t index, bool *sure);

/*
 * One step of lossless speculative sampling with a certain draft (prompt lookup; Leviathan et al.
 * 2211.17192 with q = 1). Returns exactly the token that llm_sample gives for this index, so drafts
 * change neither the law nor the text; *accepted says whether it is the draft, which has
 * probability p(draft).
 */
int32_t llm_sample_verify(llm_sampler *s, const float *logits, const uint32_t *mask,
                          const llm_sample_params *p, uint64_t index, int32_t draft,
                          bool *accepted);

#endif /* LLM_SAMPLE_H */
