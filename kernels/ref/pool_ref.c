/*
 * pool_ref.c: pooling of one segment, and the log-sum-exp of a row.
 */
#include <math.h>

#include "ref.h"

/* First, mean or last token, perhaps of length 1. */
void
pool_ref(double *out, const float *x, size_t n_tokens, size_t d, int pooling, bool l2)
{
	double norm = 0.0;

	for (size_t i = 0; i < d; i++)
	{
		double sum = 0.0;

		for (size_t t = 0; t < n_tokens; t++)
			if (pooling == PP_POOL_MEAN || t == (pooling == PP_POOL_LAST ? n_tokens - 1 : 0))
				sum += x[t * d + i];
		out[i] = pooling == PP_POOL_MEAN && n_tokens > 0 ? sum / (double) n_tokens : sum;
		norm += out[i] * out[i];
	}
	for (size_t i = 0; l2 && i < d; i++)
		out[i] /= fmax(sqrt(norm), 1e-12);
}

/* ln Σ e^x. */
double
logsumexp_ref(const float *x, size_t n)
{
	double max = -INFINITY;
	double sum = 0.0;

	for (size_t i = 0; i < n; i++)
		max = x[i] > max ? x[i] : max;
	for (size_t i = 0; i < n; i++)
		sum += exp(x[i] - max);
	return n > 0 ? max + log(sum) : -INFINITY;
}
