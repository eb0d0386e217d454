/*
 * test_sample.c: sampling follows the law it states, and verification of drafts does not change it.
 *
 * Laws are checked by Pearson's chi-square at fixed seeds, with thresholds at a tail of about 1e-6:
 * a right sampler fails for one seed in a million, and the test shows that a wrong one (which
 * accepts every draft) fails. The expected probabilities come from a full sort in double.
 */
#include "llm_alloc.h"
#include "llm_sample.h"
#include "test.h"

#include <math.h>

#define N_DRAWS 60000

/* Upper bound of chi-square at a tail near 1e-6 (Wilson and Hilferty 1931). */
static double
chi_square_limit(int degrees)
{
	double c = 2.0 / (9.0 * degrees);

	return degrees * pow(1 - c + 4.753 * sqrt(c), 3);
}

/* Chi-square of counts against probabilities; cells of little weight are pooled. */
static bool
fits(const uint32_t *counts, const double *p, int n, double total)
{
	double sum = 0, rest_p = 0, rest_n = 0;
	int degrees = -1;

	for (int i = 0; i < n; i++)
	{
		if (p[i] == 0 && counts[i] > 0)
			return false;
		if (p[i] * total < 10)
		{
			rest_p += p[i];
			rest_n += counts[i];
			continue;
		}
		sum += (counts[i] - p[i] * total) * (counts[i] - p[i] * total) / (p[i] * total);
		degrees++;
	}
	if (rest_p * total >= 1)
	{
		sum += (rest_n - rest_p * total) * (rest_n - rest_p * total) / (rest_p * total);
		degrees++;
	}
	return degrees < 1 || sum < chi_square_limit(degrees);
}

/* The law by definition: sort, cut, renormalise. */
static void
expected_law(const float *logits, const uint32_t *mask, const llm_sample_params *p, int n,
             double *out)
{
	int order[64], kept = 0;
	double sum = 0, seen = 0, top;

	for (int i = 0; i < n; i++)
	{
		int k = kept;

		out[i] = 0;
		if (!(logits[i] > -INFINITY) || (mask != NULL && !(mask[i / 32] >> (i % 32) & 1)))
			continue;
		for (; k > 0 && logits[order[k - 1]] < logits[i]; k--)
			order[k] = order[k - 1];
		order[k] = i;
		kept++;
	}
	if (p->top_k > 0 && kept > (int) p->top_k)
		kept = (int) p->top_k;
	top = logits[order[0]];
	for (int k = 0; k < kept; k++)
		sum += exp((logits[order[k]] - top) / p->temperature);
	for (int k = 0; k < kept; k++)
	{
		double w = exp((logits[order[k]] - top) / p->temperature);

		if ((p->top_p > 0 && k > 0 && seen >= p->top_p * sum) || w < p->min_p)
			break;
		seen += w;
		out[order[k]] = w;
	}
	for (int i = 0; i < n; i++)
		out[i] /= seen;
}

/* Draws follow the stated law for every combination of cuts. */
static void
test_law(void)
{
	static const llm_sample_params settings[] = {{1, 0, 1, 0, 1},       {0.7f, 0, 1, 0, 2},
	                                             {2, 5, 1, 0, 3},       {1, 0, 0.6f, 0, 4},
	                                             {1, 0, 1, 0.2f, 5},    {1.3f, 12, 0.8f, 0, 6},
	                                             {1, 0, 0.9f, 0.1f, 7}, {1.5f, 20, 0.95f, 0.05f, 8},
	                                             {1, 1, 1, 0, 9},       {1, 0, 0, 0, 10},
	                                             {1.2f, 4, 0, 0, 11}};
	uint64_t seed = 1;
	float logits[40];
	uint32_t mask[2] = {0xf0ffff7f, 0x5a};
	llm_sampler *s;

	for (int i = 0; i < 40; i++)
		logits[i] = (float) (test_random(&seed) % 1000) / 150;
	logits[3] = logits[9] = logits[17]; /* ties */
	logits[11] = -INFINITY;
	logits[12] = NAN;
	REQUIRE(llm_sampler_create(40, &s, NULL) == LLM_OK);
	for (size_t k = 0; k < 2 * sizeof(settings) / sizeof(settings[0]); k++)
	{
		const llm_sample_params *p = &settings[k / 2];
		const uint32_t *m = k % 2 ? mask : NULL;
		uint32_t counts[40] = {0};
		double law[40];

		expected_law(logits, m, p, 40, law);
		for (uint64_t i = 0; i < N_DRAWS; i++)
		{
			int32_t token = llm_sample(s, logits, m, p, i, NULL);

			REQUIRE(token >= 0 && token < 40);
			counts[token]++;
		}
		CHECK_MSG(fits(counts, law, 40, N_DRAWS), "setting %zu", k);
	}
	llm_sampler_free(s);
}

/* A toy Markov model of 4 tokens. */
static const float markov[5][4] = {
    {0.5f, 1.5f, 0, -1}, {2, 0, 0.3f, 0.1f}, {0, 1, 1, 0}, {-1, 0, 2, 1}, {1, 0.2f, 0.4f, 0.6f}};

/* Generates three tokens with drafts of the most frequent successor, or of a bad one. always:
 * accepts every draft, as a broken verification would. */
static int
speculate(llm_sampler *s, const llm_sample_params *p, bool draft_well, bool always)
{
	int code = 0, state = 4;

	for (uint64_t i = 0; i < 3; i++)
	{
		static const int32_t good[5] = {1, 0, 2, 2, 0}, bad[5] = {3, 2, 3, 0, 1};
		int32_t draft = draft_well ? good[state] : bad[state];
		bool accepted;
		int32_t token = llm_sample_verify(s, markov[state], NULL, p, i, draft, &accepted);

		if (always)
			token = draft;
		else if (accepted != (token == draft))
			return -1;
		code = code * 4 + token;
		state = token;
	}
	return code;
}

/* The joint law of three tokens with drafts is that of the model; accepting always is caught. */
static void
test_speculation(void)
{
	llm_sampler *s;
	double law[64], step[5][4];
	llm_sample_params p = {.temperature = 0.9f, .top_p = 1};

	REQUIRE(llm_sampler_create(4, &s, NULL) == LLM_OK);
	for (int i = 0; i < 5; i++)
		expected_law(markov[i], NULL, &p, 4, step[i]);
	for (int i = 0; i < 64; i++)
		law[i] = step[4][i / 16] * step[i / 16][i / 4 % 4] * step[i / 4 % 4][i % 4];
	for (int variant = 0; variant < 3; variant++)
	{
		uint32_t counts[64] = {0};

		for (int i = 0; i < N_DRAWS; i++)
		{
			int code;

			p.seed = (uint64_t) i;
			code = speculate(s, &p, variant == 0, variant == 2);
			REQUIRE(code >= 0);
			counts[code]++;
		}
		CHECK_MSG(fits(counts, law, 64, N_DRAWS) == (variant != 2), "variant %d", variant);
	}
	llm_sampler_free(s);
}

/* The text with drafts is the text without. */
static void
test_same_text(void)
{
	llm_sampler *s;
	llm_sample_params p = {.temperature = 1.2f, .top_k = 3, .top_p = 0.9f, .seed = 11};

	REQUIRE(llm_sampler_create(4, &s, NULL) == LLM_OK);
	for (uint64_t i = 0; i < 2000; i++)
	{
		bool accepted;
		int32_t plain = llm_sample(s, markov[i % 5], NULL, &p, i, NULL);

		for (int32_t draft = 0; draft < 4; draft++)
			CHECK(llm_sample_verify(s, markov[i % 5], NULL, &p, i, draft, &accepted) == plain &&
			      accepted == (draft == plain));
	}
	llm_sampler_free(s);
}

/* Neighbouring indexes and seeds are independent. */
static void
test_independence(void)
{
	static const float flat[8] = {0};
	llm_sampler *s;
	uint32_t by_index[64] = {0}, by_seed[64] = {0};
	double law[64];

	for (int i = 0; i < 64; i++)
		law[i] = 1.0 / 64;
	REQUIRE(llm_sampler_create(8, &s, NULL) == LLM_OK);
	for (uint64_t i = 0; i < N_DRAWS; i++)
	{
		llm_sample_params p = {.temperature = 1, .seed = 42}, q = {.temperature = 1, .seed = i},
		                  r = q;

		r.seed++;
		by_index[8 * llm_sample(s, flat, NULL, &p, 2 * i, NULL) +
		         llm_sample(s, flat, NULL, &p, 2 * i + 1, NULL)]++;
		by_seed[8 * llm_sample(s, flat, NULL, &q, 7, NULL) +
		        llm_sample(s, flat, NULL, &r, 7, NULL)]++;
	}
	CHECK(fits(by_index, law, 64, N_DRAWS));
	CHECK(fits(by_seed, law, 64, N_DRAWS));
	llm_sampler_free(s);
}

/* Random parameters of every kind: with top-k, top-p, min-p, some of them, none; greedy. */
static llm_sample_params
random_params(uint64_t *seed)
{
	const uint32_t ks[] = {0, 0, 0, 1, 3, 40, PP_TOP_MAX, PP_TOP_MAX + 1};
	const float ps[] = {0, 1, 0.1f, 0.5f, 0.9f, 0.95f, 0.999f};
	const float mins[] = {0, 0, 0.02f, 0.3f, 0.9f};
	const float temperatures[] = {0, 0.3f, 0.7f, 1, 1.5f, 1e-30f};

	return (llm_sample_params){.temperature = temperatures[test_random(seed) % 6],
	                           .top_k = ks[test_random(seed) % 8],
	                           .top_p = ps[test_random(seed) % 7],
	                           .min_p = mins[test_random(seed) % 5],
	                           .seed = test_random(seed)};
}

/* Logits of some steepness, some with ties, at times with odd values. */
static void
random_logits(float *logits, uint32_t n, uint64_t *seed)
{
	float steep = (float) (1 + test_random(seed) % 12);
	uint32_t step = test_random(seed) % 4 == 0 ? 1u << 21 : 1;
	uint64_t odd = test_random(seed);

	for (uint32_t j = 0; j < n; j++)
	{
		uint32_t x = (uint32_t) (test_random(seed) >> 40);

		logits[j] = (float) (x - x % step) / (float) (1 << 24) * steep;
	}
	logits[test_random(seed) % n] = odd % 7 == 0 ? NAN : -INFINITY;
	logits[test_random(seed) % n] = odd % 50 == 0 ? INFINITY : steep;
}

/*
 * The highest logits give the token of the whole row, or say that they cannot, whatever error the
 * sum has within its promise; and they can in most cases.
 */
static void
test_highest(void)
{
	static float logits[2000];
	const uint32_t n = sizeof(logits) / sizeof(logits[0]);
	const llm_sample_params half = {.temperature = 1, .top_p = 0.5f};
	pp_backend *be = pp_cpu_create(1);
	uint64_t seed = 77;
	uint32_t n_asked = 0, n_sure = 0;
	llm_sampler *s;
	pp_top top;
	bool sure;

	REQUIRE(llm_sampler_create(n, &s, NULL) == LLM_OK);
	for (int i = 0; i < 3000; i++)
	{
		llm_sample_params p = random_params(&seed);
		float scale;
		uint32_t k = llm_sample_wants(&p, &scale);
		int32_t token;

		random_logits(logits, n, &seed);
		if (k == 0)
			continue;
		CHECK(be->ops->top(be, &top, logits, 1, n, k, scale) == PP_OK);
		top.sum *= 1.0f + 3e-5f * (float) (i % 3 - 1);
		token = llm_sample_top(s, &top, &p, (uint64_t) i, &sure);
		n_asked++;
		n_sure += sure;
		CHECK_MSG(!sure || token == llm_sample(s, logits, NULL, &p, (uint64_t) i, NULL),
		          "draw %d: temperature %g, top_k %u, top_p %g, min_p %g", i,
		          (double) p.temperature, p.top_k, (double) p.top_p, (double) p.min_p);
	}
	CHECK_MSG(n_sure > n_asked / 2, "%u of %u draws were decided", n_sure, n_asked);
	for (uint32_t j = 0; j < n; j++)
		logits[j] = j == 7 || j == 9 ? 1.0f : -INFINITY;
	CHECK(be->ops->top(be, &top, logits, 1, n, PP_TOP_MAX, 1.0f) == PP_OK && top.n == 2);
	(void) llm_sample_top(s, &top, &half, 0, &sure);
	CHECK(!sure); /* one of two equals is half of all: the sum's error decides */
	llm_sampler_free(s);
	pp_cpu_destroy(be);
}

/* Ties, NaN, infinities, empty masks, log-probabilities. */
static void
test_edges(void)
{
	const float logits[6] = {NAN, 1, 3, 3, -INFINITY, 0};
	const float infinite[3] = {1, INFINITY, INFINITY};
	const float none[2] = {NAN, -INFINITY};
	const uint32_t empty = 0, only_dead = 0x11, first = 0x28;
	llm_sample_params greedy = {0}, hot = {.temperature = 1e30f, .top_p = 1},
	                  cold = {.temperature = 1e-38f, .top_p = 0.5f};
	llm_sampler *s;
	float logprob;

	REQUIRE(llm_sampler_create(6, &s, NULL) == LLM_OK);
	CHECK(llm_sample(s, logits, NULL, &greedy, 0, &logprob) == 2);
	CHECK(fabs(logprob - (3 - log(2 * exp(3) + exp(1) + 1))) < 1e-5);
	CHECK(llm_sample(s, logits, &first, &greedy, 0, NULL) == 3);
	CHECK(llm_sample(s, logits, &empty, &greedy, 0, &logprob) == -1 && isinf(logprob));
	CHECK(llm_sample(s, logits, &only_dead, &hot, 0, NULL) == -1);
	for (uint64_t i = 0; i < 200; i++)
	{
		int32_t token = llm_sample(s, logits, NULL, &hot, i, NULL);

		CHECK(token == 1 || token == 2 || token == 3 || token == 5);
		CHECK(llm_sample(s, logits, NULL, &cold, i, NULL) == 2);
	}
	llm_sampler_free(s);
	REQUIRE(llm_sampler_create(3, &s, NULL) == LLM_OK);
	for (uint64_t i = 0; i < 50; i++)
		CHECK(llm_sample(s, infinite, NULL, &hot, i, &logprob) > 0 && isfinite(logprob));
	llm_sampler_free(s);
	REQUIRE(llm_sampler_create(2, &s, NULL) == LLM_OK);
	CHECK(llm_sample(s, none, NULL, &hot, 0, NULL) == -1);
	llm_sampler_free(s);
}

/* Parameters out of range, NaN among them, are refused; so is memory that is not there. */
static void
test_refused(void)
{
	static const llm_sample_params bad[] = {{-1, 0, 1, 0, 0},       {NAN, 0, 1, 0, 0},
	                                        {INFINITY, 0, 1, 0, 0}, {1, 0, 1.5f, 0, 0},
	                                        {1, 0, -0.1f, 0, 0},    {1, 0, NAN, 0, 0},
	                                        {1, 0, 1, 1, 0},        {1, 0, 1, NAN, 0},
	                                        {1, 0, 1, -1, 0}};
	static const llm_sample_params zero = {0};
	llm_sampler *s;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		CHECK(llm_sample_check(&bad[i], NULL) == LLM_E_RANGE);
	CHECK(llm_sample_check(&zero, NULL) == LLM_OK);
	CHECK(llm_sampler_create(0, &s, NULL) == LLM_E_RANGE && s == NULL);
	for (uint64_t n = 1; n <= 2; n++)
	{
		llm_alloc_fail_after(n, true);
		CHECK(llm_sampler_create(5, &s, NULL) == LLM_E_NOMEM && s == NULL);
		llm_alloc_fail_after(0, false);
	}
}

int
main(void)
{
	RUN(law);
	RUN(speculation);
	RUN(same_text);
	RUN(independence);
	RUN(highest);
	RUN(edges);
	RUN(refused);
	return test_summary("sample");
}
