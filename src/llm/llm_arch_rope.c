/*
 * llm_arch_rope.c: the frequencies of rotary embeddings, scaling included.
 *
 * Frequencies are fixed at load: dimension pair i of n turns by pos · inv_freq[i], inv_freq[i] =
 * θ^(−2i/n) before scaling (arXiv 2104.09864). A scaling whose frequencies depend on the length of
 * the sequence (dynamic NTK) would make keys that are shared between sequences of different lengths
 * wrong, so it is refused by the readers. For the same reason LongRoPE's factors are chosen once a
 * load, by the context: the long ones when it is beyond that of the pretraining, as the reference
 * does for texts of that length; else the short ones, and the context ends where they do. Computed
 * in double and rounded once.
 */
#include <math.h>

#include "llm_arch_internal.h"

#define TWO_PI 6.283185307179586

/* No scaling; the defaults of the reference implementations. */
void
arch_rope_init(arch_rope *rope, double theta, uint32_t n_dims)
{
	*rope = (arch_rope){.scaling = ARCH_SCALING_NONE,
	                    .theta = theta,
	                    .n_dims = n_dims,
	                    .factor = 1.0,
	                    .low_freq = 1.0,
	                    .high_freq = 4.0,
	                    .beta_fast = 32.0,
	                    .beta_slow = 1.0,
	                    .truncate = true};
}

/* Chooses LongRoPE's factors. */
bool
arch_rope_is_long(const arch_reader *r, const arch_rope *rope)
{
	return r->n_ctx > rope->n_ctx_orig && r->arch->n_ctx > rope->n_ctx_orig;
}

/* Llama 3: by wavelength, long waves are stretched by factor, short ones kept, a linear ramp
 * between. */
static double
scale_llama3(const arch_rope *rope, double freq)
{
	double wavelength = TWO_PI / freq;
	double smooth;

	if (wavelength > rope->n_ctx_orig / rope->low_freq)
		return freq / rope->factor;
	if (wavelength < rope->n_ctx_orig / rope->high_freq)
		return freq;
	smooth = (rope->n_ctx_orig / wavelength - rope->low_freq) / (rope->high_freq - rope->low_freq);
	return (1.0 - smooth) * freq / rope->factor + smooth * freq;
}

/* The dimension that turns r times over the original context (YaRN, the text before eq. 18). */
static double
yarn_dimension(const arch_rope *rope, double r)
{
	return rope->n_dims * log(rope->n_ctx_orig / (r * TWO_PI)) / (2.0 * log(rope->theta));
}

/* YaRN's "NTK by parts" (eq. 18–20): interpolate slow dimensions, keep fast ones, a ramp between.
 */
static double
scale_yarn(const arch_rope *rope, double freq, uint32_t i)
{
	double low = yarn_dimension(rope, rope->beta_fast);
	double high = yarn_dimension(rope, rope->beta_slow);
	double ramp;

	if (rope->truncate)
	{
		low = floor(low);
		high = ceil(high);
	}
	low = fmax(low, 0.0);
	high = fmin(high, rope->n_dims - 1.0);
	ramp = (i - low) / (high == low ? 0.001 : high - low);
	ramp = fmin(fmax(ramp, 0.0), 1.0);
	return freq / rope->factor * ramp + freq * (1.0 - ramp);
}

/* One frequency, scaled. */
static double
scaled_frequency(const arch_rope *rope, uint32_t i)
{
	double freq = pow(rope->theta, -2.0 * i / rope->n_dims);

	if (rope->divisors != NULL)
		freq /= rope->divisors[i];
	switch (rope->scaling)
	{
		case ARCH_SCALING_LINEAR:
			return freq / rope->factor;
		case ARCH_SCALING_LLAMA3:
			return scale_llama3(rope, freq);
		case ARCH_SCALING_YARN:
			return scale_yarn(rope, freq, i);
		default:
			return freq;
	}
}

/* YaRN's temperature for a scale (eq. 22). */
static double
yarn_mscale(double factor, double mscale)
{
	return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* What cos and sin are multiplied by. */
static double
rope_mscale(const arch_rope *rope)
{
	if (rope->scaling != ARCH_SCALING_YARN && rope->scaling != ARCH_SCALING_LONGROPE)
		return 1.0;
	if (rope->attention_factor > 0.0)
		return rope->attention_factor;
	if (rope->scaling == ARCH_SCALING_LONGROPE)
		return rope->factor <= 1.0 ? 1.0 : sqrt(1.0 + log(rope->factor) / log(rope->n_ctx_orig));
	if (rope->mscale > 0.0 && rope->mscale_all_dim > 0.0)
		return yarn_mscale(rope->factor, rope->mscale) /
		       yarn_mscale(rope->factor, rope->mscale_all_dim);
	return yarn_mscale(rope->factor, 1.0);
}

/* Are the parameters such that every formula above is finite? */
static bool
rope_valid(const arch_rope *rope, uint32_t d_head)
{
	if (rope->n_dims == 0 || rope->n_dims % 2 != 0 || rope->n_dims > d_head ||
	    !(rope->theta > 1.0) || !(rope->factor > 0.0))
		return false;
	if (rope->scaling == ARCH_SCALING_LLAMA3)
		return rope->n_ctx_orig > 0.0 && rope->low_freq > 0.0 && rope->high_freq > rope->low_freq;
	if (rope->scaling == ARCH_SCALING_YARN)
		return rope->n_ctx_orig > 0.0 && rope->beta_fast > 0.0 && rope->beta_slow > 0.0;
	if (rope->scaling == ARCH_SCALING_LONGROPE)
		return rope->n_ctx_orig > 1.0 && rope->divisors != NULL;
	return true;
}

/* Computes and checks the frequencies; they live in the arch's arena. */
void
arch_rope_build(arch_reader *r, const arch_rope *rope, bool interleaved, pp_rope *out)
{
	float *inv_freq;

	if (r->status != LLM_OK)
		return;
	if (!rope_valid(rope, r->arch->attn[0].d_head))
	{
		arch_fail(r, LLM_E_FORMAT, "the parameters of the rotary embedding are out of range");
		return;
	}
	if ((inv_freq = llm_arena_alloc(r->arch->arena, rope->n_dims / 2, sizeof(float))) == NULL)
	{
		arch_fail(r, LLM_E_NOMEM, "out of memory");
		return;
	}
	for (uint32_t i = 0; i < rope->n_dims / 2; i++)
	{
		inv_freq[i] = (float) scaled_frequency(rope, i);
		if (!isfinite(inv_freq[i]))
			arch_fail(r, LLM_E_FORMAT, "a frequency of the rotary embedding is not finite");
	}
	*out = (pp_rope){.enabled = true,
	                 .interleaved = interleaved,
	                 .n_dims = rope->n_dims,
	                 .inv_freq = inv_freq,
	                 .mscale = (float) rope_mscale(rope)};
}
