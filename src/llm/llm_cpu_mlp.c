/*
 * llm_cpu_mlp.c: a feed-forward block in one region.
 *
 * The hidden layer is the widest of a model: for 512 tokens of a small one it takes three times the
 * second cache, and writing it, activating it and reading it again costs as much as a third of its
 * products. Here a thread takes some rows through the whole block: the first product gives a few
 * columns of gate and up at a time, which are activated while they are in cache, and the hidden
 * rows are quantised for the second product where they lie. Each value is computed by the
 * operations of matmul and activate, so the bits are theirs.
 */
#include "llm_cpu.h"
#include "llm_cpu_matrix.h"

#define COLUMNS 64u /* of the hidden layer at a time: gate and up of all rows stay in cache */

/* One call. */
typedef struct mlp_args
{
	const llm_cpu *cpu;
	const pp_mlp *mlp;
	float *out;
	const float *x;
	uint8_t *buffers;
	size_t bytes_thread;
} mlp_args;

/* The buffers of a thread, for LLM_CPU_ROWS_BLOCK rows. */
typedef struct mlp_buffers
{
	llm_cpu_quantised rows; /* of x, then of hidden */
	float *wide;            /* [rows][COLUMNS, twice when gated] */
	float *hidden;          /* [rows][f] */
} mlp_buffers;

/* The longer one of a block's two kinds of rows. */
static size_t
longest_row(const pp_mlp *mlp)
{
	return mlp->in->bytes_row > mlp->out->bytes_row ? mlp->in->bytes_row : mlp->out->bytes_row;
}

/* Bytes of a thread's buffers: every row's, and the rotated one. All sizes are multiples of 64. */
static uint64_t
bytes_of_thread(const pp_mlp *mlp)
{
	const uint64_t bytes_row = longest_row(mlp) + (mlp->f + 15) / 16 * 64 + 2 * COLUMNS * 4 + 4;

	return LLM_CPU_ROWS_BLOCK * bytes_row + longest_row(mlp) * sizeof(float);
}

/* The buffers of a thread in its piece of scratch. */
static mlp_buffers
buffers_of(const mlp_args *a, uint32_t thread)
{
	const size_t n = LLM_CPU_ROWS_BLOCK;
	mlp_buffers b;

	b.rows.q = a->buffers + thread * a->bytes_thread;
	b.rows.scale = (float *) (void *) (b.rows.q + n * longest_row(a->mlp));
	b.rows.rotated = b.rows.scale + n;
	b.wide = b.rows.rotated + longest_row(a->mlp);
	b.hidden = b.wide + n * 2 * COLUMNS;
	return b;
}

/* hidden[n_rows, f] of the quantised rows, some columns at a time. */
static void
fill_hidden(const mlp_args *a, const mlp_buffers *b, uint32_t n_rows)
{
	const pp_mlp *mlp = a->mlp;

	for (uint32_t col = 0; col < mlp->f; col += COLUMNS)
	{
		const uint32_t n = mlp->f - col < COLUMNS ? mlp->f - col : COLUMNS;

		llm_cpu_product_i8(a->cpu, mlp->in, &b->rows, n_rows, col, n, mlp->dev_in_bias, b->wide,
		                   2 * COLUMNS);
		if (mlp->gated)
			llm_cpu_product_i8(a->cpu, mlp->in, &b->rows, n_rows, mlp->f + col, n, mlp->dev_in_bias,
			                   b->wide + COLUMNS, 2 * COLUMNS);
		for (size_t r = 0; r < n_rows; r++)
		{
			const float *x = b->wide + r * 2 * COLUMNS;

			a->cpu->kernels->activate(b->hidden + r * mlp->f + col, x,
			                          mlp->gated ? x + COLUMNS : NULL, n, mlp->act);
		}
	}
}

/* Rows [begin, end) through the block. */
static void
mlp_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const mlp_args *a = arg;
	const mlp_buffers b = buffers_of(a, thread);
	const uint32_t d = a->mlp->out->n_rows;

	llm_cpu_quantise_rows(a->cpu, a->mlp->in, a->x + (size_t) begin * a->mlp->in->n_cols,
	                      end - begin, &b.rows);
	fill_hidden(a, &b, end - begin);
	llm_cpu_quantise_rows(a->cpu, a->mlp->out, b.hidden, end - begin, &b.rows);
	llm_cpu_product_i8(a->cpu, a->mlp->out, &b.rows, end - begin, 0, d, a->mlp->dev_out_bias,
	                   a->out + (size_t) begin * d, d);
}

/* The three ops one after the other, over all rows. */
static pp_result
mlp_apart(pp_backend *be, float *out, const float *x, const pp_mlp *mlp, uint32_t n_tokens)
{
	pp_result result = llm_cpu_matmul(be, mlp->dev_wide, x, mlp->in, mlp->dev_in_bias, n_tokens);

	if (result == PP_OK)
		result = llm_cpu_activate(be, mlp->dev_hidden, mlp->dev_wide, n_tokens, mlp->f, mlp->act,
		                          mlp->gated);
	if (result == PP_OK)
		result = llm_cpu_matmul(be, out, mlp->dev_hidden, mlp->out, mlp->dev_out_bias, n_tokens);
	return result;
}

/*
 * See kernels.h. Few rows go op by op, since their columns are shared out; so does float, and a
 * hidden layer whose second half does not begin a panel.
 */
pp_result
llm_cpu_mlp(pp_backend *be, float *dev_out, const float *dev_x, const pp_mlp *mlp,
            uint32_t n_tokens)
{
	llm_cpu *cpu = llm_cpu_of(be);
	const uint32_t n_threads = llm_pool_n_threads(cpu->pool);
	mlp_args a = {.cpu = cpu, .mlp = mlp, .out = dev_out, .x = dev_x};

	if (mlp->in->precision != PP_PREC_INT8 || mlp->out->precision != PP_PREC_INT8 ||
	    n_tokens <= LLM_CPU_ROWS_FEW * n_threads || mlp->f % LLM_PANEL != 0)
		return mlp_apart(be, dev_out, dev_x, mlp, n_tokens);
	a.bytes_thread = bytes_of_thread(mlp);
	a.buffers = llm_cpu_scratch(cpu, SCRATCH_MLP, n_threads, a.bytes_thread);
	if (a.buffers == NULL)
		return PP_E_NOMEM;
	llm_pool_for(cpu->pool, n_tokens, llm_cpu_rows_block(cpu, n_tokens), mlp_rows, &a);
	return PP_OK;
}
