/*
 * llm_sample.c: the transform of logits and the draw. See llm_sample.h.
 *
 * All three truncations keep a prefix of the candidates in the order (logit falling, id rising), so
 * the shortest of the three prefixes is the result, and temperature, which keeps the order, may be
 * applied first. Candidates sit in a binary heap and come out one by one until the prefix ends:
 * O(V + m log V) for a prefix of m, with no sort of the vocabulary. Without top-k and top-p no heap
 * is built: the draw walks the vocabulary in id order.
 *
 * A device hands over the highest logits alone where that is enough: for the best one, for top-k,
 * and for as long as top-p or min-p end among them. top-p compares with a sum over the vocabulary,
 * which the device rounds otherwise; so a comparison within SLACK of it is left to the whole row,
 * and the token is the same, always.
 */
#include "llm_sample.h"

#include <float.h>
#include <math.h>

#include "llm_alloc.h"
#include "llm_hash.h"

#define SLACK 1e-4 /* of a sum of weights: three times what top() promises */

typedef struct candidate
{
	float logit;
	float weight; /* exp((logit - max) / temperature); the best has 1 */
	int32_t id;
} candidate;

struct llm_sampler
{
	uint32_t n_vocab;
	uint32_t n; /* candidates of this draw */
	candidate *items;
};

/* Refuses parameters outside their ranges; every comparison is written so that NaN fails it. */
llm_status
llm_sample_check(const llm_sample_params *p, llm_error *err)
{
	if (!(p->temperature >= 0 && p->temperature <= FLT_MAX))
		return llm_fail(err, LLM_E_RANGE, "temperature must be a finite number of at least 0");
	if (!(p->top_p >= 0 && p->top_p <= 1))
		return llm_fail(err, LLM_E_RANGE, "top_p must be between 0 and 1");
	if (!(p->min_p >= 0 && p->min_p < 1))
		return llm_fail(err, LLM_E_RANGE, "min_p must be at least 0 and below 1");
	return LLM_OK;
}

/* Makes the scratch for one vocabulary. */
llm_status
llm_sampler_create(uint32_t n_vocab, llm_sampler **out, llm_error *err)
{
	llm_sampler *s = llm_calloc(1, sizeof(*s));

	*out = NULL;
	if (n_vocab == 0 || n_vocab > INT32_MAX)
	{
		llm_free(s);
		return llm_fail(err, LLM_E_RANGE, "a vocabulary of %u tokens cannot be sampled", n_vocab);
	}
	if (s == NULL || (s->items = llm_malloc_array(n_vocab, sizeof(*s->items))) == NULL)
	{
		llm_free(s);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a sampler");
	}
	s->n_vocab = n_vocab;
	*out = s;
	return LLM_OK;
}

/* Frees the scratch; NULL is fine. */
void
llm_sampler_free(llm_sampler *s)
{
	if (s == NULL)
		return;
	llm_free(s->items);
	llm_free(s);
}

/* Output number counter of the splitmix64 generator (Steele et al., OOPSLA 2014) of a seed, which
 * can be computed without those before it; as a number in [0, 1) with 53 bits. */
static double
uniform(uint64_t seed, uint64_t counter)
{
	/* The seed is mixed once on its own, or neighbouring seeds would share shifted sequences. */
	uint64_t z = llm_mix64(llm_mix64(seed) + (counter + 1) * 0x9e3779b97f4a7c15u);

	return (double) (z >> 11) * 0x1p-53;
}

/* True when the mask, if there is one, admits a token. */
static inline bool
admitted(const uint32_t *mask, uint32_t id)
{
	return mask == NULL || (mask[id / 32] >> (id % 32) & 1) != 0;
}

/* +∞ counts as the largest finite logit, so that differences stay numbers. */
static inline float
bounded(float logit)
{
	return logit > FLT_MAX ? FLT_MAX : logit;
}

/* The order of candidates: higher logit first, then lower id. */
static inline bool
before(const candidate *a, const candidate *b)
{
	return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* The admitted token with the highest logit, the lowest id among equals; −1 when there is none.
 * NaN and −∞ never win a comparison. */
static int32_t
argmax(const llm_sampler *s, const float *logits, const uint32_t *mask)
{
	int32_t best = -1;
	float top = -INFINITY;

	for (uint32_t i = 0; i < s->n_vocab; i++)
		if (logits[i] > top && admitted(mask, i))
		{
			top = logits[i];
			best = (int32_t) i;
		}
	return best;
}

/* Collects the candidates whose weight is not lost already to min-p or to underflow. Returns the
 * sum of all weights, those below min_p included: top-p counts them. */
static double
gather(llm_sampler *s, const float *logits, const uint32_t *mask, const llm_sample_params *p,
       float top, bool keep_all)
{
	double sum = 0;

	s->n = 0;
	for (uint32_t i = 0; i < s->n_vocab; i++)
	{
		float logit, weight;

		if (!(logits[i] > -INFINITY) || !admitted(mask, i))
			continue;
		logit = bounded(logits[i]);
		weight = expf((float) (((double) logit - top) / p->temperature));
		sum += weight;
		if (weight > 0 && (keep_all || weight >= p->min_p))
			s->items[s->n++] = (candidate){logit, weight, (int32_t) i};
	}
	return sum;
}

/* Restores the heap below one place. */
static void
sift_down(candidate *heap, uint32_t n, uint32_t i)
{
	candidate moved = heap[i];

	for (uint64_t child; (child = 2 * (uint64_t) i + 1) < n; i = (uint32_t) child)
	{
		if (child + 1 < n && before(&heap[child + 1], &heap[child]))
			child++;
		if (!before(&heap[child], &moved))
			break;
		heap[i] = heap[child];
	}
	heap[i] = moved;
}

/* Takes up to limit candidates off the heap, best first, until their weights reach enough. They end
 * up at the end of the array, so the best is the last; returns how many they are. */
static uint32_t
pop_best(llm_sampler *s, uint32_t limit, double enough)
{
	uint32_t n = s->n;
	double sum = 0;

	for (uint32_t i = n / 2; i-- > 0;)
		sift_down(s->items, n, i);
	while (n > 0 && s->n - n < limit && sum < enough)
	{
		candidate best = s->items[0];

		s->items[0] = s->items[--n];
		sift_down(s->items, n, 0);
		s->items[n] = best;
		sum += best.weight;
	}
	return s->n - n;
}

/* Cuts the candidates to top-k, then top-p, then min-p. Afterwards the first s->n are what is left,
 * in an order that depends on nothing but the logits. */
static void
truncate_candidates(llm_sampler *s, const llm_sample_params *p, double sum)
{
	bool nucleus = p->top_p > 0 && p->top_p < 1;
	uint32_t limit = p->top_k > 0 ? p->top_k : UINT32_MAX;
	uint32_t n, n_kept = 0;
	candidate *sorted;
	double kept = 0;

	/* With both on, top-p is a share of what top-k left, so that sum must be known first. */
	n = pop_best(s, limit, nucleus && p->top_k == 0 ? p->top_p * sum : INFINITY);
	sorted = s->items + s->n - n;
	if (nucleus && p->top_k > 0)
	{
		sum = 0;
		for (uint32_t i = 0; i < n; i++)
			sum += sorted[i].weight;
	}
	while (n_kept < n && (!nucleus || n_kept == 0 || kept < p->top_p * sum) &&
	       (n_kept == 0 || sorted[n - 1 - n_kept].weight >= p->min_p))
		kept += sorted[n - 1 - n_kept++].weight;
	for (uint32_t i = 0; i < n_kept; i++)
		s->items[i] = sorted[n - n_kept + i];
	s->n = n_kept;
}

/* Draws from the candidates in proportion to their weights, by inversion of the distribution. */
static int32_t
pick(const llm_sampler *s, double u)
{
	double sum = 0;
	double target;
	uint32_t i = 0;

	for (uint32_t k = 0; k < s->n; k++)
		sum += s->items[k].weight;
	target = u * sum;
	/* Rounding may leave a last sliver to nobody; the last candidate takes it. */
	for (double seen = s->items[0].weight; seen <= target && i + 1 < s->n;)
		seen += s->items[++i].weight;
	return s->items[i].id;
}

/* ln of a token's share under softmax of the bare logits. */
static float
log_probability(const llm_sampler *s, const float *logits, int32_t token)
{
	int32_t best = argmax(s, logits, NULL);
	double top = bounded(logits[best]);
	double sum = 0;

	for (uint32_t i = 0; i < s->n_vocab; i++)
		if (logits[i] > -INFINITY)
			sum += exp(bounded(logits[i]) - top);
	return (float) (bounded(logits[token]) - top - log(sum));
}

/* Draws one token; see the header. */
int32_t
llm_sample(llm_sampler *s, const float *logits, const uint32_t *mask, const llm_sample_params *p,
           uint64_t index, float *logprob)
{
	int32_t token = argmax(s, logits, mask);

	if (token >= 0 && p->temperature > 0)
	{
		bool ordered = p->top_k > 0 || (p->top_p > 0 && p->top_p < 1);
		double sum = gather(s, logits, mask, p, bounded(logits[token]), ordered);

		if (ordered)
			truncate_candidates(s, p, sum);
		token = pick(s, uniform(p->seed, index));
	}
	if (logprob != NULL)
		*logprob = token < 0 ? -INFINITY : log_probability(s, logits, token);
	return token;
}

/* How many of the highest logits decide a draw; see the header. */
uint32_t
llm_sample_wants(const llm_sample_params *p, float *scale)
{
	bool nucleus = p->top_p > 0 && p->top_p < 1;

	*scale = 0;
	if (!(p->temperature > 0))
		return 1;
	if (p->top_k > 0)
		return p->top_k <= PP_TOP_MAX ? p->top_k : 0;
	if (nucleus)
		*scale = 1 / p->temperature;
	return nucleus ? (*scale > 0 && *scale <= FLT_MAX ? PP_TOP_MAX : 0)
	               : (p->min_p > 0 ? PP_TOP_MAX : 0);
}

/* Whether top-p, then min-p, cut candidates in falling order at the same place whatever the exact
 * sum is. all: there are no others. */
static bool
nucleus_is_certain(const llm_sampler *s, const llm_sample_params *p, double sum, bool all)
{
	double target = p->top_p * sum;
	double kept = 0;

	for (uint32_t i = 0; i < s->n; i++)
	{
		if (i > 0 && (s->items[i].weight < p->min_p || kept > target + SLACK * sum))
			return true;
		if (i > 0 && kept >= target - SLACK * sum)
			return false;
		kept += s->items[i].weight;
	}
	return all || kept > target + SLACK * sum;
}

/* Puts few candidates in the order of their ids. */
static void
sort_by_id(llm_sampler *s)
{
	for (uint32_t i = 1; i < s->n; i++)
		for (uint32_t j = i; j > 0 && s->items[j].id < s->items[j - 1].id; j--)
		{
			candidate moved = s->items[j];

			s->items[j] = s->items[j - 1];
			s->items[j - 1] = moved;
		}
}

/* The candidates among the highest logits, in falling order; false: others may belong to them. */
static bool
gather_top(llm_sampler *s, const pp_top *top, const llm_sample_params *p)
{
	bool nucleus = p->top_p > 0 && p->top_p < 1;
	bool ordered = p->top_k > 0 || nucleus;
	uint32_t wanted = p->top_k > 0 ? p->top_k : PP_TOP_MAX;
	bool all = top->n < wanted;

	s->n = 0;
	for (uint32_t i = 0; i < top->n; i++)
	{
		float weight = expf((float) (((double) top->logit[i] - top->logit[0]) / p->temperature));

		/* what comes behind weighs no more */
		if (!(weight > 0) || (!ordered && weight < p->min_p))
		{
			all = true;
			break;
		}
		s->items[s->n++] = (candidate){top->logit[i], weight, top->id[i]};
	}
	if (p->top_k > 0)
		return true;
	return nucleus ? nucleus_is_certain(s, p, top->sum, all) : all;
}

/* Draws from the highest logits; see the header. */
int32_t
llm_sample_top(llm_sampler *s, const pp_top *top, const llm_sample_params *p, uint64_t index,
               bool *sure)
{
	bool ordered = p->top_k > 0 || (p->top_p > 0 && p->top_p < 1);

	*sure = true;
	if (top->n == 0)
		return -1;
	if (!(p->temperature > 0))
		return top->id[0];
	/* an infinite logit is as good as the largest finite one: their order is not that of ids */
	*sure = top->logit[0] < FLT_MAX && gather_top(s, top, p);
	if (!*sure)
		return -1;
	if (ordered)
		truncate_candidates(s, p, top->sum);
	else
		sort_by_id(s);
	return pick(s, uniform(p->seed, index));
}

/*
 * Draws from p with the generator of this index, and accepts when the draw is the draft. That is
 * the rule of Leviathan et al. (2211.17192, algorithm 1) for a draft that is certain (q = 1): the
 * draft passes with probability p(draft), and given that it does not, the token follows p without
 * the draft, renormalised. The coupling gives more than the law: the text itself is what it would
 * be without drafts.
 */
int32_t
llm_sample_verify(llm_sampler *s, const float *logits, const uint32_t *mask,
                  const llm_sample_params *p, uint64_t index, int32_t draft, bool *accepted)
{
	int32_t token = llm_sample(s, logits, mask, p, index, NULL);

	*accepted = token >= 0 && token == draft;
	return token;
}
