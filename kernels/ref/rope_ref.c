/*
 * rope_ref.c: rotary embedding (arXiv 2104.09864) of one head. The angle is the float product of
 * position and inverse frequency, as the reference models compute it.
 */
#include <math.h>

#include "ref.h"

/* Rotates the first n_dims of head. */
void
rope_ref(double *head, const pp_rope *rope, uint32_t pos)
{
	const uint32_t half = rope->n_dims / 2;

	for (uint32_t i = 0; rope->enabled && i < half; i++)
	{
		double angle = (double) ((float) pos * rope->inv_freq[i]);
		double *a = &head[rope->interleaved ? 2 * i : i];
		double *b = &head[rope->interleaved ? 2 * i + 1 : i + half];
		double x = (*a * cos(angle) - *b * sin(angle)) * rope->mscale;
		double y = (*b * cos(angle) + *a * sin(angle)) * rope->mscale;

		*a = x;
		*b = y;
	}
}
