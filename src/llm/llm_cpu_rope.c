/*
 * llm_cpu_rope.c: tables of cos and sin for rotary embeddings (arXiv 2104.09864).
 *
 * The angle is the float product pos · inv_freq, as the reference models compute it, and its cosine
 * is then exact to float; computed once for each position, since all layers and tokens share it. A
 * model has one or two sets of frequencies; a table is found by its content.
 */
#include "llm_cpu.h"

#include <math.h>
#include <string.h>

#include "llm_alloc.h"

/* Frees what a table owns. */
static void
table_free(llm_cpu_rope_table *t)
{
	llm_free(t->inv_freq);
	llm_free(t->cos);
	llm_free(t->sin);
	*t = (llm_cpu_rope_table){0};
}

/* Computes the positions from the old end to n_pos. */
static void
table_fill(llm_cpu_rope_table *t, uint32_t n_pos)
{
	for (uint32_t pos = t->n_pos; pos < n_pos; pos++)
		for (uint32_t i = 0; i < t->n_half; i++)
		{
			size_t at = (size_t) pos * t->n_half + i;
			double angle = (double) ((float) pos * t->inv_freq[i]);

			t->cos[at] = (float) cos(angle) * t->mscale;
			t->sin[at] = (float) sin(angle) * t->mscale;
		}
	t->n_pos = n_pos;
}

/* Grows a table to at least n_pos positions. */
static bool
table_grow(llm_cpu_rope_table *t, uint32_t n_pos)
{
	uint64_t want = t->n_pos != 0 ? t->n_pos : 256;
	float *cos;
	float *sin;

	while (want < n_pos)
		want *= 2;
	if (want > UINT32_MAX)
		want = n_pos;
	cos = llm_realloc_array(t->cos, want, t->n_half * sizeof(float));
	if (cos != NULL)
		t->cos = cos;
	sin = llm_realloc_array(t->sin, want, t->n_half * sizeof(float));
	if (sin != NULL)
		t->sin = sin;
	if (cos == NULL || sin == NULL)
		return false;
	table_fill(t, (uint32_t) want);
	return true;
}

/* Finds the table of these frequencies, or starts one in place of the oldest. */
static llm_cpu_rope_table *
table_find(llm_cpu *cpu, const pp_rope *rope)
{
	const uint32_t n_half = rope->n_dims / 2;
	const size_t bytes = n_half * sizeof(float);
	llm_cpu_rope_table *t;

	for (uint32_t i = 0; i < LLM_CPU_N_TABLES; i++)
	{
		t = &cpu->tables[i];
		if (t->n_half == n_half && t->mscale == rope->mscale &&
		    memcmp(t->inv_freq, rope->inv_freq, bytes) == 0)
			return t;
	}
	t = &cpu->tables[cpu->n_tables % LLM_CPU_N_TABLES];
	table_free(t);
	t->inv_freq = llm_malloc_array(n_half, sizeof(float));
	if (t->inv_freq == NULL)
		return NULL;
	memcpy(t->inv_freq, rope->inv_freq, bytes);
	t->n_half = n_half;
	t->mscale = rope->mscale;
	cpu->n_tables++;
	return t;
}

/* The table; see the header. */
const llm_cpu_rope_table *
llm_cpu_rope(llm_cpu *cpu, const pp_rope *rope, uint32_t n_pos)
{
	llm_cpu_rope_table *t = table_find(cpu, rope);

	if (t == NULL || (n_pos > t->n_pos && !table_grow(t, n_pos)))
	{
		llm_cpu_fail(cpu, PP_E_NOMEM, "out of memory for rotary embeddings");
		return NULL;
	}
	return t;
}

/* Frees all tables. */
void
llm_cpu_rope_free(llm_cpu *cpu)
{
	for (uint32_t i = 0; i < LLM_CPU_N_TABLES; i++)
		table_free(&cpu->tables[i]);
}
