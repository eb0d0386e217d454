/*
 * matmul_ref.c: out[T, N] = x[T, K] W[N, K]ᵀ + bias[N], bias may be NULL.
 */
#include "ref.h"

/* The product in double. */
void
matmul_ref(double *out, const float *x, const float *w, const float *bias, size_t n_tokens,
           size_t n_rows, size_t n_cols)
{
	for (size_t t = 0; t < n_tokens; t++)
		for (size_t n = 0; n < n_rows; n++)
		{
			double sum = bias != NULL ? bias[n] : 0.0;

			for (size_t k = 0; k < n_cols; k++)
				sum += (double) x[t * n_cols + k] * w[n * n_cols + k];
			out[t * n_rows + n] = sum;
		}
}
