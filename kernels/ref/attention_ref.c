/*
 * attention_ref.c: attention of one segment with everything written out: who sees whom by walking
 * parents, two passes of softmax. Slow on purpose.
 */
#include <math.h>
#include <stdlib.h>

#include "ref.h"

/* The position of token i of a segment. */
static int64_t
position(const int32_t *parent, uint32_t n_past, uint32_t i)
{
	int64_t pos = n_past;

	if (parent == NULL)
		return (int64_t) n_past + i;
	for (int32_t p = parent[i]; p >= 0; p = parent[p])
		pos++;
	return pos;
}

/* Whether token i sees slot s. */
static bool
sees(const int32_t *parent, uint32_t n_past, uint32_t n_new, const pp_attn *a, uint32_t i,
     uint32_t s)
{
	int64_t self = position(parent, n_past, i);
	int64_t other = s < n_past ? (int64_t) s : position(parent, n_past, s - n_past);
	bool related = s < n_past;

	if (s >= n_past + n_new)
		return false;
	if (!a->causal)
		return a->window == 0 || llabs(self - other) <= a->window / 2;
	if (parent == NULL)
		related = other <= self;
	for (int32_t p = (int32_t) i; parent != NULL && !related && p >= 0; p = parent[p])
		related = (uint32_t) p + n_past == s;
	return related && (a->window == 0 || other > self - (int64_t) a->window);
}

/* One head of one token. */
static void
attend(double *out, const float *q, const float *k, const float *v, uint32_t i, uint32_t head,
       uint32_t n_new, uint32_t n_past, const int32_t *parent, const pp_attn *a)
{
	const size_t d = a->d_head;
	const size_t stride = a->n_kv_heads * d;
	const size_t at = head / (a->n_heads / a->n_kv_heads) * d;
	double max = -INFINITY;
	double sum = 0.0;

	for (size_t j = 0; j < d; j++)
		out[j] = 0.0;
	for (int pass = 0; pass < 2; pass++)
		for (uint32_t s = 0; s < n_past + n_new; s++)
		{
			double score = 0.0;

			if (!sees(parent, n_past, n_new, a, i, s))
				continue;
			for (size_t j = 0; j < d; j++)
				score += (double) q[j] * k[s * stride + at + j] * a->scale;
			if (a->softcap > 0.0f)
				score = softcap_ref(score, a->softcap);
			max = pass == 0 && score > max ? score : max;
			sum += pass == 1 ? exp(score - max) : 0.0;
			for (size_t j = 0; pass == 1 && j < d; j++)
				out[j] += exp(score - max) * v[s * stride + at + j];
		}
	for (size_t j = 0; j < d; j++)
		out[j] /= sum;
}

/* All tokens and heads of a segment. */
void
attention_ref(double *out, const float *q, const float *k, const float *v, uint32_t n_new,
              uint32_t n_past, const int32_t *parent, const pp_attn *attn)
{
	for (uint32_t i = 0; i < n_new; i++)
		for (uint32_t h = 0; h < attn->n_heads; h++)
		{
			size_t at = ((size_t) i * attn->n_heads + h) * attn->d_head;

			attend(out + at, q + at, k, v, i, h, n_new, n_past, parent, attn);
		}
}
