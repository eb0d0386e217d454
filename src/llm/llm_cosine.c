/*
 * llm_cosine.c: see llm_cosine.h. One for embeddings made here and for those of an endpoint, so
 * that both give the same value for the same vectors.
 */
#include "llm_cosine.h"

#include <math.h>

/* The cosine of two vectors. */
float
llm_cosine(const float *a, const float *b, uint32_t n)
{
	double ab = 0;
	double aa = 0;
	double bb = 0;

	for (uint32_t i = 0; i < n; i++)
	{
		ab += (double) a[i] * b[i];
		aa += (double) a[i] * a[i];
		bb += (double) b[i] * b[i];
	}
	return aa > 0 && bb > 0 ? (float) (ab / sqrt(aa * bb)) : 0;
}
