/*
 * fp8_ref.c: rows in e4m3 with a scale each, and the product of two such matrices:
 * out[T, N] = Σ_k q(x[t, k]) q(w[n, k]) · scale(x[t]) · scale(w[n]).
 */
#include <math.h>

#include "ref.h"

/* The nearest e4m3, ties to even: four bits from 2^-6 up, steps of 2^-9 below, at most 448. */
double
e4m3_ref(double x)
{
	int exponent;
	double unit;

	frexp(x, &exponent);
	unit = ldexp(1.0, exponent - 4 > -9 ? exponent - 4 : -9);
	x = nearbyint(x / unit) * unit;
	return fmax(-448.0, fmin(448.0, x));
}

/* The largest magnitude of a row. */
static float
largest(const float *x, size_t n)
{
	float most = 0.0f;

	for (size_t i = 0; i < n; i++)
		most = fmaxf(most, fabsf(x[i]));
	return most;
}

/* What multiplies a row before it is rounded; what gives it back is its scale. */
float
fp8_factor_ref(const float *x, size_t n, float *scale)
{
	float most = largest(x, n);

	*scale = most > 0.0f ? most / 448.0f : 1.0f;
	return most > 0.0f ? 448.0f / most : 1.0f;
}

/* The product in double. */
void
matmul_fp8_ref(double *out, const float *x, const float *w, size_t n_tokens, size_t n_rows,
               size_t n_cols)
{
	for (size_t n = 0; n < n_rows; n++)
	{
		float w_scale;
		float w_factor = fp8_factor_ref(w + n * n_cols, n_cols, &w_scale);

		for (size_t t = 0; t < n_tokens; t++)
		{
			float x_scale;
			float x_factor = fp8_factor_ref(x + t * n_cols, n_cols, &x_scale);
			double sum = 0.0;

			for (size_t k = 0; k < n_cols; k++)
				sum +=
				    e4m3_ref(x[t * n_cols + k] * x_factor) * e4m3_ref(w[n * n_cols + k] * w_factor);
			out[t * n_rows + n] = sum * x_scale * w_scale;
		}
	}
}
