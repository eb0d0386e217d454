/*
 * llm_cpu_top.c: the highest logits of rows. See top() in kernels.h.
 *
 * The best so far stand in order; a logit that is not above the last of k is passed over at once,
 * so a row costs little more than reading it. Rows are spread over the threads.
 */
#include "llm_cpu.h"

#include <math.h>

typedef struct top_args
{
	pp_top *out;
	const float *logits;
	uint32_t n_vocab;
	uint32_t k;
	float scale;
} top_args;

/* Puts a logit in its place behind those that are not below it; the last of k falls out. */
static void
insert(pp_top *top, uint32_t k, float logit, int32_t id)
{
	uint32_t i = top->n < k ? top->n++ : k - 1;

	for (; i > 0 && logit > top->logit[i - 1]; i--)
	{
		top->logit[i] = top->logit[i - 1];
		top->id[i] = top->id[i - 1];
	}
	top->logit[i] = logit;
	top->id[i] = id;
}

/* A range of rows. */
static void
top_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const top_args *a = arg;

	(void) thread;
	for (uint32_t r = begin; r < end; r++)
	{
		const float *row = a->logits + (size_t) r * a->n_vocab;
		pp_top *top = &a->out[r];
		float least = -INFINITY; /* what a logit must be above */
		double sum = 0;

		top->n = 0;
		for (uint32_t i = 0; i < a->n_vocab; i++)
			if (row[i] > least)
			{
				insert(top, a->k, row[i], (int32_t) i);
				least = top->n == a->k ? top->logit[a->k - 1] : -INFINITY;
			}
		for (uint32_t i = 0; a->scale > 0 && top->n > 0 && i < a->n_vocab; i++)
			if (row[i] > -INFINITY)
				sum += expf((row[i] - top->logit[0]) * a->scale);
		top->sum = (float) sum;
	}
}

/* The best logits of each row. */
pp_result
llm_cpu_top(pp_backend *be, pp_top *dev_out, const float *dev_logits, uint32_t n_rows,
            uint32_t n_vocab, uint32_t k, float scale)
{
	llm_cpu *cpu = llm_cpu_of(be);
	top_args a = {.out = dev_out, .logits = dev_logits, .n_vocab = n_vocab, .k = k, .scale = scale};

	if (k == 0 || k > PP_TOP_MAX)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "the %u highest logits", k);
	llm_cpu_rows(cpu, n_rows, n_vocab * sizeof(float), top_rows, &a);
	return PP_OK;
}
