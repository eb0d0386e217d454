/*
 * norm_ref.c: RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450) with the residual added
 * first; add and b may be NULL. The sum of the residual is rounded to float, as a backend stores
 * it.
 */
#include <math.h>

#include "ref.h"

/* One row. */
static void
norm_row(double *out, const float *x, const float *add, const float *w, const float *b, size_t d,
         double eps, pp_norm_kind kind, bool plus_one)
{
	double mean = 0.0;
	double variance = 0.0;

	for (size_t i = 0; i < d; i++)
	{
		out[i] = add != NULL ? (double) (x[i] + add[i]) : (double) x[i];
		mean += kind == PP_NORM_LAYER ? out[i] / (double) d : 0.0;
	}
	for (size_t i = 0; i < d; i++)
		variance += (out[i] - mean) * (out[i] - mean) / (double) d;
	for (size_t i = 0; i < d; i++)
		out[i] = (out[i] - mean) / sqrt(variance + eps) * (w[i] + (plus_one ? 1.0 : 0.0)) +
		         (b != NULL ? b[i] : 0.0);
}

/* All rows. */
void
norm_ref(double *out, const float *x, const float *add, const float *w, const float *b,
         size_t n_tokens, size_t d, double eps, pp_norm_kind kind, bool plus_one)
{
	for (size_t t = 0; t < n_tokens; t++)
		norm_row(out + t * d, x + t * d, add != NULL ? add + t * d : NULL, w, b, d, eps, kind,
		         plus_one);
}
