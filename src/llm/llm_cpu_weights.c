/*
 * llm_cpu_weights.c: makes the panels of a weight matrix from the blocks of a model file.
 *
 * Rows are dequantised one at a time into a buffer of the thread and packed at once, so loading
 * needs one row a thread beyond what is kept. int8 rows are symmetric with a scale of their row.
 *
 * Before a row becomes int8, each block of 64 columns is multiplied with the Hadamard matrix H, and
 * so is each row of activations: (Hx) · (Hw) = 64 x · w, and outliers of single columns, which a
 * scale a row cannot carry, are spread over their block (QuaRot, arXiv 2404.00456). With it the
 * perplexity of SmolLM2-135M is that of int8 weights with float activations; without it, 3 %
 * higher.
 */
#include <math.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"
#include "llm_cpu.h"
#include "llm_cpu_matrix.h"
#include "llm_weights.h"

#define I8_GROUP    64u    /* bytes of k that one tile row holds */
#define I8_COLS_MAX 65536u /* 255 · 127 · k must fit an int32 */

typedef struct pack_args
{
	const llm_cpu_kernels *kernels;
	pp_matrix *m;
	const pp_matrix_part *parts;
	uint32_t n_parts;
	float *rows; /* [n_threads][n_cols] */
} pack_args;

/* Row i of stacked parts in float. Types and sizes were checked when the matrix was made. */
static void
read_row(const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols, uint32_t i, float *out)
{
	for (uint32_t p = 0; p < n_parts; p++)
	{
		if (i < parts[p].n_rows)
		{
			const uint8_t *src = (const uint8_t *) parts[p].data + i * parts[p].row_bytes;

			llm_dequantise(parts[p].dtype, src, out, n_cols, NULL);
			return;
		}
		i -= parts[p].n_rows;
	}
}

/* Puts a row into its float panel. */
static void
pack_row_f32(pp_matrix *m, uint32_t i, const float *row)
{
	float *panel = m->panels + (size_t) (i / LLM_PANEL) * LLM_PANEL * m->n_cols + i % LLM_PANEL;

	for (uint32_t k = 0; k < m->n_cols; k++)
		panel[(size_t) k * LLM_PANEL] = row[k];
}

/* Rotates and quantises a row and puts it into its int8 panel, whose padding is zero already. */
static void
pack_row_i8(const llm_cpu_kernels *kernels, pp_matrix *m, uint32_t i, float *row)
{
	int8_t *panel = m->panels_i8 + (size_t) (i / LLM_PANEL) * LLM_PANEL * m->bytes_row;
	int32_t sum = 0;
	float max = 0.0f;
	float inv;

	kernels->hadamard(row, row, m->n_cols, m->block);
	for (uint32_t k = 0; k < m->n_cols; k++)
		max = fabsf(row[k]) > max || isnan(row[k]) ? fabsf(row[k]) : max;
	m->scale[i] = max / 127.0f / (float) m->block; /* exact: a power of two */
	inv = 127.0f / max;
	if (!isfinite(inv) || !isfinite(max))
	{
		m->scale[i] = isfinite(max) ? 0.0f : NAN; /* too small to matter, or broken */
		return;
	}
	for (uint32_t k = 0; k < m->n_cols; k++)
	{
		int32_t q = (int32_t) lrintf(row[k] * inv);

		sum += q;
		panel[(size_t) (k / 4) * 64 + (i % LLM_PANEL) * 4 + k % 4] = (int8_t) q;
	}
	m->sum128[i] = 128 * sum;
}

/* Packs whole panels, so that no two threads write one cache line. */
static void
pack_panels(void *arg, uint32_t begin, uint32_t end, uint32_t thread)
{
	pack_args *a = arg;
	pp_matrix *m = a->m;
	float *row = a->rows + (size_t) thread * m->n_cols;
	uint32_t last = m->n_rows / LLM_PANEL < end ? m->n_rows : end * LLM_PANEL;

	for (uint32_t i = begin * LLM_PANEL; i < last; i++)
	{
		read_row(a->parts, a->n_parts, m->n_cols, i, row);
		if (m->precision == PP_PREC_F32)
			pack_row_f32(m, i, row);
		else
			pack_row_i8(a->kernels, m, i, row);
	}
}

/* Checks the parts and adds up their rows. */
static pp_result
check_parts(llm_cpu *cpu, const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
            uint32_t *n_rows)
{
	uint64_t rows = 0;
	uint64_t bytes;

	for (uint32_t p = 0; p < n_parts; p++)
	{
		if (!llm_dtype_bytes(parts[p].dtype, n_cols, &bytes) || bytes > parts[p].row_bytes)
			return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "rows of %u weights of type %d", n_cols,
			                    (int) parts[p].dtype);
		rows += parts[p].n_rows;
	}
	if (rows > UINT32_MAX - LLM_PANEL)
		return llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "a matrix of %llu rows",
		                    (unsigned long long) rows);
	*n_rows = (uint32_t) rows;
	return PP_OK;
}

/* n · size zeroed bytes aligned to a cache line, added to what the matrix owns. */
static void *
matrix_alloc(pp_matrix *m, uint64_t n, uint64_t size)
{
	uint64_t bytes;
	void *data;

	if (!pp_mul_ok(n, size, &bytes) || bytes > SIZE_MAX / 2)
		return NULL;
	data = llm_malloc_aligned((size_t) bytes + 64, 64);
	if (data == NULL)
		return NULL;
	memset(data, 0, (size_t) bytes + 64);
	m->bytes += bytes;
	return data;
}

/* Allocates what the precision needs; false when memory is exhausted. */
static bool
matrix_reserve(pp_matrix *m, const pp_matrix_part *parts, uint32_t n_parts)
{
	const uint64_t n_padded = ((uint64_t) m->n_rows + LLM_PANEL - 1) / LLM_PANEL * LLM_PANEL;

	switch (m->precision)
	{
		case PP_PREC_F32:
			m->panels = matrix_alloc(m, n_padded * m->n_cols, sizeof(float));
			return m->panels != NULL;
		case PP_PREC_INT8:
			m->panels_i8 = matrix_alloc(m, n_padded, m->bytes_row);
			m->scale = matrix_alloc(m, n_padded, sizeof(float));
			m->sum128 = matrix_alloc(m, n_padded, sizeof(int32_t));
			return m->panels_i8 != NULL && m->scale != NULL && m->sum128 != NULL;
		case PP_PREC_NATIVE:
			m->parts = matrix_alloc(m, n_parts, sizeof(*parts));
			if (m->parts != NULL && n_parts > 0)
				memcpy(m->parts, parts, n_parts * sizeof(*parts));
			for (uint32_t i = 0; i < n_parts; i++) /* the file's own, but in use as long */
				m->bytes += parts[i].n_rows * parts[i].row_bytes;
			m->n_parts = n_parts;
			return m->parts != NULL;
		case PP_PREC_BF16:
		case PP_PREC_FP8:
			break; /* refused by matrix_create */
	}
	return false;
}

/* Fills the panels with all threads; false when memory is exhausted. */
static bool
matrix_pack(llm_cpu *cpu, pp_matrix *m, const pp_matrix_part *parts, uint32_t n_parts)
{
	pack_args args = {.kernels = cpu->kernels, .m = m, .parts = parts, .n_parts = n_parts};
	uint32_t n_threads = llm_pool_n_threads(cpu->pool);

	if (m->precision == PP_PREC_NATIVE)
		return true;
	args.rows = llm_malloc_array((size_t) n_threads * sizeof(float), m->n_cols + 1);
	if (args.rows == NULL)
		return false;
	llm_pool_for(cpu->pool, (m->n_rows + LLM_PANEL - 1) / LLM_PANEL, 4, pack_panels, &args);
	llm_free(args.rows);
	return true;
}

/* The largest power of two that divides n, at most 64. */
static uint32_t
hadamard_block(uint32_t n)
{
	uint32_t block = n & (~n + 1);

	return block == 0 || block > 64 ? 64 : block;
}

/* Frees what a matrix owns and the matrix. */
static void
matrix_free(pp_matrix *m)
{
	llm_free(m->panels);
	llm_free(m->panels_i8);
	llm_free(m->scale);
	llm_free(m->sum128);
	llm_free(m->parts);
	llm_free(m);
}

/* Prepares a matrix; see kernels.h. */
pp_matrix *
llm_cpu_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts,
                      uint32_t n_cols, pp_precision precision)
{
	llm_cpu *cpu = llm_cpu_of(be);
	uint32_t n_rows = 0;
	pp_matrix *m;

	if (check_parts(cpu, parts, n_parts, n_cols, &n_rows) != PP_OK)
		return NULL;
	if (precision > PP_PREC_NATIVE)
	{
		llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "the CPU multiplies in float and int8 only");
		return NULL;
	}
	if (precision == PP_PREC_INT8 && n_cols > I8_COLS_MAX)
	{
		llm_cpu_fail(cpu, PP_E_UNSUPPORTED, "an int8 matrix of %u columns", n_cols);
		return NULL;
	}
	m = llm_calloc(1, sizeof(*m));
	if (m != NULL)
	{
		*m = (pp_matrix){.precision = precision, .n_rows = n_rows, .n_cols = n_cols};
		m->block = hadamard_block(n_cols);
		m->bytes_row = ((size_t) n_cols + I8_GROUP - 1) / I8_GROUP * I8_GROUP;
		if (matrix_reserve(m, parts, n_parts) && matrix_pack(cpu, m, parts, n_parts))
		{
			cpu->bytes_weights += m->bytes;
			cpu->n_int8 += precision == PP_PREC_INT8;
			return m;
		}
		matrix_free(m);
	}
	llm_cpu_fail(cpu, PP_E_NOMEM, "out of memory for a matrix of %u rows and %u columns", n_rows,
	             n_cols);
	return NULL;
}

/* Frees a matrix; NULL is fine. */
void
llm_cpu_matrix_destroy(pp_backend *be, pp_matrix *m)
{
	llm_cpu *cpu = llm_cpu_of(be);

	if (m == NULL)
		return;
	cpu->bytes_weights -= m->bytes;
	cpu->n_int8 -= m->precision == PP_PREC_INT8;
	matrix_free(m);
}

/* Row i in float, whatever the matrix keeps. */
void
llm_cpu_matrix_row(const llm_cpu_kernels *kernels, const pp_matrix *m, uint32_t i, float *out)
{
	const size_t panel = (size_t) (i / LLM_PANEL) * LLM_PANEL;
	const uint32_t lane = i % LLM_PANEL;

	if (m->precision == PP_PREC_NATIVE)
	{
		read_row(m->parts, m->n_parts, m->n_cols, i, out);
		return;
	}
	for (size_t k = 0; k < m->n_cols; k++)
		if (m->precision == PP_PREC_F32)
			out[k] = m->panels[panel * m->n_cols + k * LLM_PANEL + lane];
		else
			out[k] = (float) m->panels_i8[panel * m->bytes_row + k / 4 * 64 + lane * 4 + k % 4] *
			         m->scale[i];
	if (m->precision == PP_PREC_INT8)
		kernels->hadamard(out, out, m->n_cols, m->block); /* its own inverse but for the factor */
}
