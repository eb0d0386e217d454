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

/* By what a row is multiplied before it is rounded, and the scale that undoes it. */
static float
row_factor(const float *x, size_t n, float *scale)
{
	float most = 0.0f;

	for (size_t i = 0; i < n; i++)
		most = fmaxf(most, fabsf(x[i]));
	*scale = most > 0.0f ? most / 448.0f : 1.0f;
	return most > 0.0f ? 448.0f / most : 1.0f;
}

/* Rows in e4m3 and their scales. */
void
fp8_rows_ref(float *q, float *scale, const float *x, size_t n_rows, size_t n_cols)
{
	for (size_t r = 0; r < n_rows; r++)
	{
		float factor = row_factor(x + r * n_cols, n_cols, &scale[r]);

		for (size_t i = 0; i < n_cols; i++)
			q[r * n_cols + i] = (float) e4m3_ref(x[r * n_cols + i] * factor);
	}
}

/* The product in double of what fp8_rows_ref made. */
void
matmul_fp8_ref(double *out, const float *x, const float *x_scale, const float *w,
               const float *w_scale, size_t n_tokens, size_t n_rows, size_t n_cols)
{
	matmul_ref(out, x, w, NULL, n_tokens, n_rows, n_cols);
	for (size_t i = 0; i < n_tokens * n_rows; i++)
		out[i] *= (double) x_scale[i / n_rows] * w_scale[i % n_rows];
}
