/*
 * llm_cpu_matrix.h: a weight matrix as the CPU backend keeps it.
 *
 * Matrices for products are cut into panels of 16 output features. In float a panel is [k][16]; in
 * int8 it is [k / 4][16][4] with k padded to a multiple of 64, which is at once what AMX loads as a
 * tile (16 rows of 64 bytes), what one VNNI instruction multiplies (64 bytes), and a plain array
 * for everything else: one copy of the weights serves all levels and any number of rows. A matrix
 * made with PP_PREC_NATIVE keeps no copy: it is the list of parts in the mapped file, for look-ups.
 */
#ifndef LLM_CPU_MATRIX_H
#define LLM_CPU_MATRIX_H

#include "llm_cpu.h"

#define LLM_CPU_ROWS_BLOCK 256u /* rows of a piece: what is quantised and multiplied at once */
#define LLM_CPU_ROWS_FEW   32u  /* up to so many rows for each thread the columns are cut */

struct pp_matrix
{
	pp_precision precision;
	uint32_t n_rows;
	uint32_t n_cols;
	uint32_t block;        /* int8: size of the Hadamard blocks of a row */
	size_t bytes_row;      /* int8: n_cols padded to a multiple of 64 */
	uint64_t bytes;        /* of all that is owned, or looked up in the mapped file */
	float *panels;         /* PP_PREC_F32 */
	int8_t *panels_i8;     /* PP_PREC_INT8 */
	float *scale;          /* [n_rows, padded to a panel] */
	int32_t *sum128;       /* [the same] 128 · Σ_k w */
	pp_matrix_part *parts; /* PP_PREC_NATIVE */
	uint32_t n_parts;
};

/* Rows of activations as an int8 product takes them. */
typedef struct llm_cpu_quantised
{
	uint8_t *q;     /* [rows, padded to 16][bytes_row of the matrix] */
	float *scale;   /* [rows] */
	float *rotated; /* [n_cols of the matrix] of the thread */
} llm_cpu_quantised;

/* Rotates and quantises rows x[n_rows, n_cols(w)] for a product with w. */
void llm_cpu_quantise_rows(const llm_cpu *cpu, const pp_matrix *w, const float *x, uint32_t n_rows,
                           const llm_cpu_quantised *out);
/*
 * out[n_rows, n_cols] = x times columns [col, col + n_cols) of an int8 matrix; col is a multiple of
 * LLM_PANEL. bias is that of column 0, or NULL.
 */
void llm_cpu_product_i8(const llm_cpu *cpu, const pp_matrix *w, const llm_cpu_quantised *x,
                        uint32_t n_rows, uint32_t col, uint32_t n_cols, const float *bias,
                        float *out, size_t ld_out);
/* Into pieces of how many rows n_tokens are cut. */
uint32_t llm_cpu_rows_block(const llm_cpu *cpu, uint32_t n_tokens);

/* Row i of any matrix in float, out[n_cols]. */
void llm_cpu_matrix_row(const llm_cpu_kernels *kernels, const pp_matrix *m, uint32_t i, float *out);

#endif /* LLM_CPU_MATRIX_H */
