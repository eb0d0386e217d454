/*
 * activate_ref.c: the activations, gated (act(x[0:F]) · x[F:2F]) or not, and the softcap.
 */
#include <math.h>

#include "ref.h"

/* One value. */
static double
act_ref(double x, pp_act_kind act)
{
	switch (act)
	{
		case PP_ACT_SILU:
			return x / (1.0 + exp(-x));
		case PP_ACT_GELU_TANH:
			return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
		case PP_ACT_GELU_ERF:
			return 0.5 * x * erfc(-x / sqrt(2.0));
		case PP_ACT_RELU:
			return x < 0.0 ? 0.0 : x;
		case PP_ACT_TANH:
			return tanh(x);
	}
	return NAN;
}

/* All rows. */
void
activate_ref(double *out, const float *x, size_t n_tokens, size_t f, pp_act_kind act, bool gated)
{
	const size_t stride = gated ? 2 * f : f;

	for (size_t t = 0; t < n_tokens; t++)
		for (size_t i = 0; i < f; i++)
			out[t * f + i] =
			    act_ref(x[t * stride + i], act) * (gated ? x[t * stride + f + i] : 1.0);
}

/* cap · tanh(x / cap). */
double
softcap_ref(double x, double cap)
{
	return cap * tanh(x / cap);
}
