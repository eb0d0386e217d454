/*
 * llm_cosine.h: how alike two embeddings are.
 */
#ifndef LLM_COSINE_H
#define LLM_COSINE_H

#include <stdint.h>

/* The cosine of a[n] and b[n], summed in double; 0 when one of them has no direction. */
float llm_cosine(const float *a, const float *b, uint32_t n);

#endif /* LLM_COSINE_H */
