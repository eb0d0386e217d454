/*
 * llm_cpu_rows.c: the ops that treat each row by itself: embedding, norms, activations, pooling.
 *
 * A row is computed by one thread with one order of operations, whatever else is in the batch.
 */
#include "llm_cpu.h"

#include <math.h>
#include <string.h>

#include "llm_cpu_matrix.h"

/* Arguments of one region; each op fills what its rows need. */
typedef struct rows_args
{
	const llm_cpu_kernels *k;
	float *out;
	float *x;
	const float *in;
	const float *const *parts;
	uint32_t n_parts;
	const float *table;
	const uint32_t *index;
	const int32_t *ids;
	const pp_matrix *matrix;
	size_t d;
	float scale;
	llm_norm_row norm;
	pp_act_kind act;
	bool gated;
	bool post; /* the norm replaces x */
} rows_args;

/* Rows of an embedding table; ids are checked by the caller, types by matrix_create. */
static void
embed_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;

	(void) thread;
	for (uint32_t t = begin; t < end; t++)
	{
		float *out = a->out + t * a->d;

		llm_cpu_matrix_row(a->k, a->matrix, (uint32_t) a->ids[t], out);
		if (a->scale != 1.0f)
			a->k->scale(out, a->d, a->scale);
	}
}

/* out[t] = table row ids[t] · scale. */
pp_result
llm_cpu_embed(pp_backend *be, float *dev_out, const pp_matrix *table, const int32_t *ids,
              uint32_t n_tokens, float scale)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .out = dev_out, .matrix = table, .ids = ids, .scale = scale};

	a.d = table->n_cols;
	llm_cpu_rows(cpu, n_tokens, a.d * sizeof(float), embed_rows, &a);
	return PP_OK;
}

/* x[t] += table[idx[t]]. */
static void
add_table_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;

	(void) thread;
	for (uint32_t t = begin; t < end; t++)
		a->k->add(a->x + t * a->d, a->table + a->index[t] * a->d, a->d);
}

/* Adds rows of a float table. */
pp_result
llm_cpu_add_rows(pp_backend *be, float *dev_x, const float *dev_table, const uint32_t *idx,
                 uint32_t n_tokens, uint32_t d)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .x = dev_x, .table = dev_table, .index = idx, .d = d};

	llm_cpu_rows(cpu, n_tokens, d * sizeof(float), add_table_rows, &a);
	return PP_OK;
}

/* Rows of a norm; without a stream it is what would be added that is normed. */
static void
norm_some(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;

	(void) thread;
	for (uint32_t t = begin; t < end; t++)
	{
		size_t at = (a->index != NULL ? a->index[t] : t) * a->d;
		float *out = a->out + t * a->d;

		if (a->x == NULL && out != a->in + at)
			memcpy(out, a->in + at, a->d * sizeof(float));
		if (a->x == NULL)
			a->k->norm(out, out, NULL, &a->norm);
		else
			a->k->norm(out, a->x + at, a->in != NULL ? a->in + at : NULL, &a->norm);
		if (a->post)
			memcpy(a->x + at, out, a->d * sizeof(float));
	}
}

/* Norm with the residual added first. */
pp_result
llm_cpu_norm(pp_backend *be, float *dev_out, float *dev_x, const float *dev_add, const float *dev_w,
             const float *dev_b, uint32_t n_tokens, uint32_t d, float eps, pp_norm_kind kind,
             bool plus_one)
{
	return llm_cpu_norm_rows(be, dev_out, dev_x, dev_add, dev_w, dev_b, NULL, n_tokens, d, eps,
	                         kind, plus_one);
}

/* The same of the listed rows, or of all when rows is NULL. */
pp_result
llm_cpu_norm_rows(pp_backend *be, float *dev_out, float *dev_x, const float *dev_add,
                  const float *dev_w, const float *dev_b, const uint32_t *rows, uint32_t n_rows,
                  uint32_t d, float eps, pp_norm_kind kind, bool plus_one)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .out = dev_out, .x = dev_x, .in = dev_add, .d = d};

	a.index = rows;
	a.norm = (llm_norm_row){.w = dev_w, .b = dev_b, .d = d, .eps = eps, .kind = kind};
	a.norm.offset = plus_one ? 1.0f : 0.0f;
	llm_cpu_rows(cpu, n_rows, 3 * d * sizeof(float), norm_some, &a);
	return PP_OK;
}

/* The same, and the norm replaces the stream. */
pp_result
llm_cpu_norm_post(pp_backend *be, float *dev_out, float *dev_x, const float *dev_add,
                  const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d, float eps,
                  pp_norm_kind kind, bool plus_one)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .out = dev_out, .x = dev_x, .in = dev_add, .d = d};

	a.post = true;
	a.norm = (llm_norm_row){.w = dev_w, .b = dev_b, .d = d, .eps = eps, .kind = kind};
	a.norm.offset = plus_one ? 1.0f : 0.0f;
	llm_cpu_rows(cpu, n_tokens, 4 * d * sizeof(float), norm_some, &a);
	return PP_OK;
}

/* Rows of a sum. */
static void
sum_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;

	(void) thread;
	a->k->add(a->x + begin * a->d, a->in + begin * a->d, (end - begin) * a->d);
}

/* x += y. */
pp_result
llm_cpu_add(pp_backend *be, float *dev_x, const float *dev_y, uint32_t n_tokens, uint32_t d)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .x = dev_x, .in = dev_y, .d = d};

	llm_cpu_rows(cpu, n_tokens, 2 * d * sizeof(float), sum_rows, &a);
	return PP_OK;
}

/* Rows of a sum; the first part is copied, so that one part alone keeps its bits. */
static void
sum_parts(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;

	(void) thread;
	for (size_t t = begin; t < end; t++)
	{
		float *out = a->out + t * a->d;

		memcpy(out, a->parts[0] + t * a->d, a->d * sizeof(float));
		for (uint32_t i = 1; i < a->n_parts; i++)
			a->k->add(out, a->parts[i] + t * a->d, a->d);
		if (a->in != NULL)
			a->k->add(out, a->in, a->d);
	}
}

/* out = the sum of parts, and a bias. */
pp_result
llm_cpu_sum(pp_backend *be, float *dev_out, const float *const *dev_parts, uint32_t n_parts,
            const float *dev_bias, uint32_t n_tokens, uint32_t d)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels,
	               .out = dev_out,
	               .parts = dev_parts,
	               .n_parts = n_parts,
	               .in = dev_bias,
	               .d = d};

	llm_cpu_rows(cpu, n_tokens, (n_parts + 1) * d * sizeof(float), sum_parts, &a);
	return PP_OK;
}

/* out[r] = x[rows[r]]. */
pp_result
llm_cpu_gather(pp_backend *be, float *dev_out, const float *dev_x, const uint32_t *rows,
               uint32_t n_rows, uint32_t d)
{
	(void) be;
	for (uint32_t r = 0; r < n_rows && d > 0; r++)
		memcpy(dev_out + (size_t) r * d, dev_x + (size_t) rows[r] * d, d * sizeof(float));
	return PP_OK;
}

/* Rows of an activation. */
static void
activate_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;
	const size_t stride = a->gated ? 2 * a->d : a->d;

	(void) thread;
	for (uint32_t t = begin; t < end; t++)
	{
		const float *x = a->in + t * stride;

		a->k->activate(a->out + t * a->d, x, a->gated ? x + a->d : NULL, a->d, a->act);
	}
}

/* Activation, gated or not. */
pp_result
llm_cpu_activate(pp_backend *be, float *dev_out, const float *dev_x, uint32_t n_tokens, uint32_t f,
                 pp_act_kind act, bool gated)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .out = dev_out, .in = dev_x, .d = f, .act = act};

	a.gated = gated;
	llm_cpu_rows(cpu, n_tokens, (gated ? 3 : 2) * f * sizeof(float), activate_rows, &a);
	return PP_OK;
}

#define SOFTCAP_CHUNK 4096 /* elements of one item */

/* Chunks of a softcap; d is the number of elements. */
static void
softcap_chunks(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;
	size_t first = (size_t) begin * SOFTCAP_CHUNK;
	size_t last = (size_t) end * SOFTCAP_CHUNK;

	(void) thread;
	a->k->softcap(a->x + first, (last < a->d ? last : a->d) - first, a->scale);
}

/* x = cap · tanh(x / cap). */
pp_result
llm_cpu_softcap(pp_backend *be, float *dev_x, size_t n, float cap)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .x = dev_x, .d = n, .scale = cap};

	if (n > (size_t) UINT32_MAX * SOFTCAP_CHUNK)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "softcap of %zu values", n);
	llm_pool_for(cpu->pool, (uint32_t) ((n + SOFTCAP_CHUNK - 1) / SOFTCAP_CHUNK), 4, softcap_chunks,
	             &a);
	return PP_OK;
}

/* One pooled vector. */
static void
pool_segment(const llm_cpu_kernels *k, float *out, const float *x, const pp_segment *seg, size_t d,
             int pooling)
{
	const float *first = x + seg->first_token * d;

	if (pooling == PP_POOL_LAST)
		first += (seg->n_new - 1) * d;
	memcpy(out, first, d * sizeof(float));
	if (pooling != PP_POOL_MEAN)
		return;
	for (uint32_t t = 1; t < seg->n_new; t++)
		k->add(out, first + t * d, d);
	k->scale(out, d, 1.0f / (float) seg->n_new);
}

/* Pooling; a segment without tokens gives zeros. */
pp_result
llm_cpu_pool(pp_backend *be, float *dev_out, const float *dev_x, const pp_segment *segs,
             uint32_t n_segs, uint32_t d, int pooling, bool l2)
{
	const llm_cpu_kernels *k = llm_cpu_of(be)->kernels;

	for (uint32_t s = 0; s < n_segs && d > 0; s++)
	{
		float *out = dev_out + (size_t) s * d;
		float norm;

		if (segs[s].n_new == 0)
		{
			memset(out, 0, d * sizeof(float));
			continue;
		}
		pool_segment(k, out, dev_x, &segs[s], d, pooling);
		norm = l2 ? sqrtf(k->sum_squares(out, d)) : 1.0f;
		if (l2)
			k->scale(out, d, 1.0f / (norm > 1e-12f ? norm : 1e-12f));
	}
	return PP_OK;
}

/* Rows of a log-sum-exp. */
static void
logsumexp_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const rows_args *a = arg;

	(void) thread;
	for (uint32_t r = begin; r < end; r++)
		a->out[r] = a->k->logsumexp(a->in + r * a->d, a->d);
}

/* ln Σ e^x of each row. */
pp_result
llm_cpu_logsumexp(pp_backend *be, float *dev_lse, const float *dev_logits, uint32_t n_rows,
                  uint32_t n_vocab)
{
	llm_cpu *cpu = llm_cpu_of(be);
	rows_args a = {.k = cpu->kernels, .out = dev_lse, .in = dev_logits, .d = n_vocab};

	llm_cpu_rows(cpu, n_rows, n_vocab * sizeof(float), logsumexp_rows, &a);
	return PP_OK;
}
