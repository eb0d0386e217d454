/*
 * llm_cpu_matmul.c: matrix products: how they are cut into blocks and spread over threads.
 *
 * int8: a row x of activations is rotated as the weights are (llm_cpu_weights.c says why), becomes
 * u8 with one scale, is multiplied with the int8 rows of W in
 * exact integers, and the sums are scaled back; so a result depends on nothing but its own row, and
 * all instruction sets agree. float: sums run over k in order for every output.
 *
 * Many rows are cut by rows, since a piece then quantises its own rows only. Few rows (decoding)
 * are cut by columns: what counts there is that each core reads its own half of the weights.
 */
#include "llm_cpu.h"
#include "llm_cpu_matrix.h"

typedef struct matmul_args
{
	const llm_cpu *cpu;
	const pp_matrix *w;
	float *out;
	const float *x;
	const float *bias;
	uint8_t *q;     /* [n_rows padded to 16][bytes_row] */
	float *q_scale; /* [n_rows] */
	float *rotated; /* [n_threads][n_cols] */
	uint32_t n_rows;
	const uint32_t *cols; /* of matmul_columns */
	uint32_t n_cols;
} matmul_args;

/* The int8 block of columns [col, col + n_cols) of a matrix; see the header. */
void
llm_cpu_product_i8(const llm_cpu *cpu, const pp_matrix *w, const llm_cpu_quantised *x,
                   uint32_t n_rows, uint32_t col, uint32_t n_cols, const float *bias, float *out,
                   size_t ld_out)
{
	cpu->matmul_i8(&(llm_i8_block){.out = out,
	                               .ld_out = ld_out,
	                               .q = x->q,
	                               .q_scale = x->scale,
	                               .w = w->panels_i8 + col * w->bytes_row,
	                               .w_scale = w->scale + col,
	                               .w_sum128 = w->sum128 + col,
	                               .bias = bias != NULL ? bias + col : NULL,
	                               .bytes_row = w->bytes_row,
	                               .n_rows = n_rows,
	                               .n_cols = n_cols});
}

/* Rotates and quantises n_rows rows of x for a product with w. */
void
llm_cpu_quantise_rows(const llm_cpu *cpu, const pp_matrix *w, const float *x, uint32_t n_rows,
                      const llm_cpu_quantised *out)
{
	for (uint32_t r = 0; r < n_rows; r++)
	{
		cpu->kernels->hadamard(out->rotated, x + (size_t) r * w->n_cols, w->n_cols, w->block);
		out->scale[r] = cpu->kernels->quantise(out->q + r * w->bytes_row, out->rotated, w->n_cols,
		                                       w->bytes_row);
	}
}

/* The quantised rows from row on, with the float row of a thread. */
static llm_cpu_quantised
quantised_at(const matmul_args *a, uint32_t row, uint32_t thread)
{
	return (llm_cpu_quantised){.q = a->q + row * a->w->bytes_row,
	                           .scale = a->q_scale + row,
	                           .rotated = a->rotated + (size_t) thread * a->w->n_cols};
}

/* Multiplies rows [row, row + n_rows) with panels [panel, panel + n_panels). */
static void
multiply(const matmul_args *a, uint32_t row, uint32_t n_rows, uint32_t panel, uint32_t n_panels)
{
	const pp_matrix *w = a->w;
	const size_t col = (size_t) panel * LLM_PANEL;
	const uint32_t n_left = w->n_rows - (uint32_t) col;
	const uint32_t n_cols = n_panels * LLM_PANEL < n_left ? n_panels * LLM_PANEL : n_left;
	const llm_cpu_quantised x = quantised_at(a, row, 0);
	float *out = a->out + (size_t) row * w->n_rows + col;

	if (w->precision == PP_PREC_F32)
		a->cpu->kernels->matmul_f32(&(llm_f32_block){.out = out,
		                                             .ld_out = w->n_rows,
		                                             .x = a->x + (size_t) row * w->n_cols,
		                                             .k = w->n_cols,
		                                             .w = w->panels + col * w->n_cols,
		                                             .bias = a->bias != NULL ? a->bias + col : NULL,
		                                             .n_rows = n_rows,
		                                             .n_cols = n_cols});
	else
		llm_cpu_product_i8(a->cpu, w, &x, n_rows, (uint32_t) col, n_cols, a->bias, out, w->n_rows);
}

/* Rotates and quantises rows [begin, end) where the matrix is int8. */
static void
quantise_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const matmul_args *a = arg;
	const llm_cpu_quantised out = quantised_at(a, begin, thread);

	if (a->w->precision != PP_PREC_F32)
		llm_cpu_quantise_rows(a->cpu, a->w, a->x + (size_t) begin * a->w->n_cols, end - begin,
		                      &out);
}

/* Pieces of rows by all columns. */
static void
multiply_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const matmul_args *a = arg;

	quantise_rows(arg, begin, end, thread);
	multiply(a, begin, end - begin, 0, (a->w->n_rows + LLM_PANEL - 1) / LLM_PANEL);
}

/* All rows by pieces of columns. */
static void
multiply_panels(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const matmul_args *a = arg;

	(void) thread;
	multiply(a, 0, a->n_rows, begin, end - begin);
}

/* Reserves the quantised rows, where there are any. */
static pp_result
reserve(llm_cpu *cpu, matmul_args *a)
{
	/* tiles are read in blocks of 32 rows, also where the last of them do not exist */
	const uint64_t n_padded = ((uint64_t) a->n_rows + 31) / 32 * 32;

	if (a->w->precision == PP_PREC_F32)
		return PP_OK;
	if (a->w->precision != PP_PREC_INT8)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "a product with a table made for look-ups");
	/* the float row of each thread takes no more than four rows of bytes */
	a->q = llm_cpu_scratch(cpu, SCRATCH_QUANT, n_padded + 4ull * llm_pool_n_threads(cpu->pool),
	                       a->w->bytes_row + sizeof(float));
	if (a->q == NULL)
		return PP_E_NOMEM;
	a->q_scale = (float *) (void *) (a->q + n_padded * a->w->bytes_row);
	a->rotated = a->q_scale + n_padded;
	return PP_OK;
}

/* Rows of a piece; see the header. */
uint32_t
llm_cpu_rows_block(const llm_cpu *cpu, uint32_t n_tokens)
{
	const uint32_t rows = (n_tokens / llm_pool_n_threads(cpu->pool) + 31) / 32 * 32;

	return rows < LLM_CPU_ROWS_BLOCK ? rows : LLM_CPU_ROWS_BLOCK;
}

/* out = x Wᵀ + bias. */
pp_result
llm_cpu_matmul(pp_backend *be, float *dev_out, const float *dev_x, const pp_matrix *w,
               const float *dev_bias, uint32_t n_tokens)
{
	llm_cpu *cpu = llm_cpu_of(be);
	const uint32_t n_threads = llm_pool_n_threads(cpu->pool);
	const uint32_t n_panels = (w->n_rows + LLM_PANEL - 1) / LLM_PANEL;
	matmul_args a = {.cpu = cpu, .w = w, .out = dev_out, .x = dev_x, .bias = dev_bias};
	pp_result result;
	uint32_t grain;

	a.n_rows = n_tokens;
	result = reserve(cpu, &a);
	if (result != PP_OK || n_tokens == 0 || w->n_rows == 0)
		return result;
	if (n_tokens > LLM_CPU_ROWS_FEW * n_threads)
	{
		llm_pool_for(cpu->pool, n_tokens, llm_cpu_rows_block(cpu, n_tokens), multiply_rows, &a);
		return PP_OK;
	}
	quantise_rows(&a, 0, n_tokens, 0);
	grain = (n_panels / n_threads / 4 + 3) / 4 * 4; /* 4 panels are read side by side */
	llm_pool_for(cpu->pool, n_panels, grain, multiply_panels, &a);
	return PP_OK;
}

/* One float output, by the very operations of a panel's lane. */
static float
dot_f32(const matmul_args *a, const float *x, uint32_t col)
{
	const float *w =
	    a->w->panels + (size_t) (col / LLM_PANEL) * LLM_PANEL * a->w->n_cols + col % LLM_PANEL;
	float sum = 0.0f;

	for (size_t k = 0; k < a->w->n_cols; k++)
	{
		float product = x[k] * w[k * LLM_PANEL];

		sum += product;
	}
	return sum;
}

/* One int8 output. */
static float
dot_i8(const matmul_args *a, uint32_t row, uint32_t col)
{
	const pp_matrix *m = a->w;
	const size_t panel = (size_t) (col / LLM_PANEL) * LLM_PANEL;
	const int8_t *w = m->panels_i8 + panel * m->bytes_row + col % LLM_PANEL * 4;
	const uint8_t *q = a->q + row * m->bytes_row;
	const llm_i8_block b = {.q_scale = a->q_scale, .w_scale = m->scale, .w_sum128 = m->sum128};
	int32_t sum = 0;

	for (size_t k = 0; k < m->bytes_row; k += 4, w += 64)
		sum += q[k] * w[0] + q[k + 1] * w[1] + q[k + 2] * w[2] + q[k + 3] * w[3];
	return llm_i8_value(&b, sum, row, col);
}

/* The listed columns of rows [begin, end). */
static void
columns_rows(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	const matmul_args *a = arg;

	quantise_rows(arg, begin, end, thread);
	for (uint32_t r = begin; r < end; r++)
		for (uint32_t c = 0; c < a->n_cols; c++)
			a->out[(size_t) r * a->n_cols + c] =
			    a->w->precision == PP_PREC_F32
			        ? dot_f32(a, a->x + (size_t) r * a->w->n_cols, a->cols[c])
			        : dot_i8(a, r, a->cols[c]);
}

/* Label columns; the bits of matmul. */
pp_result
llm_cpu_matmul_columns(pp_backend *be, float *dev_out, const float *dev_x, const pp_matrix *w,
                       const uint32_t *cols, uint32_t n_cols, uint32_t n_rows)
{
	llm_cpu *cpu = llm_cpu_of(be);
	matmul_args a = {.cpu = cpu, .w = w, .out = dev_out, .x = dev_x, .n_rows = n_rows};
	pp_result result;

	a.cols = cols;
	a.n_cols = n_cols;
	result = reserve(cpu, &a);
	if (result == PP_OK)
		llm_pool_for(cpu->pool, n_rows, 8, columns_rows, &a);
	return result;
}
