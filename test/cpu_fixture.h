/*
 * cpu_fixture.h: what the tests of the CPU backend share: guarded buffers, random floats, and the
 * rule for errors.
 *
 * A buffer stands between two bands of a poison that no op may touch, and is itself poisoned with
 * NaN, so that reading what was never written shows. An op's error against the double reference may
 * be twice that of plain code of the same precision: callers state that as a number of roundings.
 */
#ifndef CPU_FIXTURE_H
#define CPU_FIXTURE_H

#include <math.h>

#include "../kernels/ref/ref.h"
#include "llm_cpu.h"
#include "test.h"

#define GUARD       64
#define POISON      0x7fc0dead /* a NaN */
#define N_ISA       5
#define FLOAT_ROUND 6e-8 /* half a unit in the last place of 1 */
#define BF16_ROUND  4e-3 /* the same of bf16 */

/* n poisoned floats between guard bands. */
static inline float *
guarded(size_t n)
{
	uint32_t *p = malloc((n + 2 * GUARD) * sizeof(*p));

	if (p == NULL)
		abort();
	for (size_t i = 0; i < n + 2 * GUARD; i++)
		p[i] = POISON;
	return (float *) (void *) (p + GUARD);
}

/* Checks the bands and frees; false when one was touched. */
static inline bool
unguard(float *x, size_t n)
{
	uint32_t *p = (uint32_t *) (void *) x - GUARD;
	bool sound = true;

	for (size_t i = 0; i < GUARD; i++)
		sound = sound && p[i] == POISON && p[GUARD + n + i] == POISON;
	free(p);
	return sound;
}

/* Fills x with floats in −1 … 1. */
static inline void
randomise(float *x, size_t n, uint64_t seed)
{
	for (size_t i = 0; i < n; i++)
		x[i] = (float) ((double) (test_random(&seed) >> 40) / (1 << 23) - 1.0);
}

/* n random floats between guard bands. */
static inline float *
random_floats(size_t n, uint64_t seed)
{
	float *x = guarded(n);

	randomise(x, n, seed);
	return x;
}

/* The largest |x − ref|; infinity when one is not finite. */
static inline double
max_error(const float *x, const double *ref, size_t n)
{
	double e = 0.0;

	for (size_t i = 0; i < n; i++)
		e = isfinite(x[i]) ? fmax(e, fabs((double) x[i] - ref[i])) : (double) INFINITY;
	return e;
}

/* Whether two arrays have the same bits. */
static inline bool
same_bits(const float *a, const float *b, size_t n)
{
	return n == 0 || memcmp(a, b, n * sizeof(*a)) == 0;
}

#endif /* CPU_FIXTURE_H */
