/*
 * top_ref.c: the highest logits of a row, by taking the best that is left again and again.
 */
#include <math.h>

#include "ref.h"

/* Whether logit i of a row comes before logit j. */
static bool
before(const float *x, size_t i, size_t j)
{
	return x[i] > x[j] || (x[i] == x[j] && i < j);
}

/* ids[k]: the best of a row in order; returns how many there are. *sum as top() has it. */
size_t
top_ref(int32_t *ids, double *sum, const float *x, size_t n, size_t k, double scale)
{
	size_t n_found = 0;

	*sum = 0.0;
	for (; n_found < k; n_found++)
	{
		size_t best = n;

		for (size_t i = 0; i < n; i++)
			if (x[i] > -INFINITY && (n_found == 0 || before(x, (size_t) ids[n_found - 1], i)) &&
			    (best == n || before(x, i, best)))
				best = i;
		if (best == n)
			break;
		ids[n_found] = (int32_t) best;
	}
	for (size_t i = 0; n_found > 0 && i < n; i++)
		if (x[i] > -INFINITY)
			*sum += exp(((double) x[i] - x[ids[0]]) * scale);
	return n_found;
}
