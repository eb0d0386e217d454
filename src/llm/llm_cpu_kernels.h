/*
 * llm_cpu_kernels.h: the inner loops of the CPU backend, one table for each instruction set.
 *
 * llm_cpu_simd.h is compiled once for each level with GCC's vector types of 16 floats, so all
 * levels run the same operations in the same order and give the same bits; a level only changes how
 * many instructions a vector takes. The matrix products have code of their own where the machine
 * has integer products or tiles (llm_cpu_i8.c): integer sums are exact, so
 * those agree bit for bit as well. Only bf16 attention has an arithmetic of its own on tiles.
 */
#ifndef LLM_CPU_KERNELS_H
#define LLM_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kernels/kernels.h"

/* What a machine can do; each level includes those before it. */
typedef enum llm_cpu_isa
{
	LLM_ISA_BASE, /* what the compiler assumes */
	LLM_ISA_AVX2,
	LLM_ISA_AVX512, /* F, BW, DQ, VL */
	LLM_ISA_VNNI,   /* AVX-512 VNNI */
	LLM_ISA_AMX     /* AMX int8 and bf16, AVX-512 bf16 */
} llm_cpu_isa;

#define LLM_PANEL 16 /* output features side by side in a packed matrix: one vector */

/*
 * A block of an int8 product: rows x columns of out. q [n_rows, bytes_row] are activations as
 * u8 = s8 + 128, padded to whole 64 byte groups with 128; w the panels of the first column, each
 * [bytes_row / 4][16][4].
 */
typedef struct llm_i8_block
{
	float *out; /* of the first row and column */
	size_t ld_out;
	const uint8_t *q;
	const float *q_scale; /* [n_rows] */
	const int8_t *w;
	const float *w_scale;    /* [columns] */
	const int32_t *w_sum128; /* [columns] 128 · Σ_k w: what the offset of q adds */
	const float *bias;       /* [columns] or NULL */
	size_t bytes_row;
	uint32_t n_rows;
	uint32_t n_cols;
} llm_i8_block;

/* The same for float: w is panels of [k][16]. */
typedef struct llm_f32_block
{
	float *out;
	size_t ld_out;
	const float *x;
	size_t k; /* also the distance of rows of x */
	const float *w;
	const float *bias;
	uint32_t n_rows;
	uint32_t n_cols;
} llm_f32_block;

/* Parameters of a norm over one row of d. */
typedef struct llm_norm_row
{
	const float *w;
	const float *b;
	size_t d;
	float eps;
	float offset; /* added to w: 1 where the file stores w − 1 */
	pp_norm_kind kind;
} llm_norm_row;

/*
 * One step of attention of a row over the 32 slots of a page, in float: k is [d][32], v is [32][d].
 * visible has a bit for each slot. The running maximum, sum and output of the row are updated
 * (online softmax, arXiv 1805.02867).
 */
typedef struct llm_attn_step
{
	const float *q; /* [d] */
	const float *k;
	const float *v;
	float *out; /* [d], not yet divided by sum */
	float *max;
	float *sum;
	size_t d; /* a multiple of 16 */
	float scale;
	float softcap;
	uint32_t visible;
} llm_attn_step;

typedef struct llm_cpu_kernels
{
	void (*add)(float *x, const float *y, size_t n);
	/* x += add where add is not NULL; out = norm(x); out may be x */
	void (*norm)(float *out, float *x, const float *add, const llm_norm_row *p);
	/* out = act(x), or act(x) · up where up is not NULL */
	void (*activate)(float *out, const float *x, const float *up, size_t n, pp_act_kind act);
	void (*softcap)(float *x, size_t n, float cap);
	/* x = x · scale, and the inverse of the norm of x */
	void (*scale)(float *x, size_t n, float scale);
	float (*sum_squares)(const float *x, size_t n);
	float (*logsumexp)(const float *x, size_t n);
	/*
	 * Multiplies each block of x[n] with the Hadamard matrix of that size, without the factor
	 * 1 / √block. block is a power of two, at most 64, that divides n; out may be x.
	 */
	void (*hadamard)(float *out, const float *x, size_t n, uint32_t block);
	/* q[bytes_row] = u8 of x[n] with the scale returned; the tail is 128 */
	float (*quantise)(uint8_t *q, const float *x, size_t n, size_t bytes_row);
	/* the nearest bf16, ties to even; NaN stays NaN; n is a multiple of 16 */
	void (*narrow)(uint16_t *out, const float *x, size_t n);
	/* head[d] = head rotated: pairs (i, i + n/2) or (2i, 2i+1); cos and sin are [n / 2] */
	void (*rotate)(float *head, const float *cos, const float *sin, size_t n_dims,
	               bool interleaved);
	void (*matmul_f32)(const llm_f32_block *b);
	void (*matmul_i8)(const llm_i8_block *b);
	void (*attn_step)(const llm_attn_step *s);
} llm_cpu_kernels;

const llm_cpu_kernels *llm_cpu_kernels_of(llm_cpu_isa isa);

/* One value of an int8 product from its integer sum: the one place that says in which order. */
static inline float
llm_i8_value(const llm_i8_block *b, int32_t sum, uint32_t row, uint32_t col)
{
	float y = (float) (sum - b->w_sum128[col]) * (b->q_scale[row] * b->w_scale[col]);

	return b->bias != NULL ? y + b->bias[col] : y;
}

#endif /* LLM_CPU_KERNELS_H */
