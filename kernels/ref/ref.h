/*
 * ref.h: plain references of the ops in double, one a file; what tests hold backends against.
 *
 * The contracts are those of kernels.h, on host memory in float; everything between is double, in
 * the plainest order. Attention takes keys and values of whole sequences instead of pages.
 */
#ifndef REF_H
#define REF_H

#include "../kernels.h"

void matmul_ref(double *out, const float *x, const float *w, const float *bias, size_t n_tokens,
                size_t n_rows, size_t n_cols);
/* Weights of a row of blocks, as floats have them; returns the bytes read, 0: no blocks. */
size_t quant_ref(double *out, const void *blocks, pp_dtype type, size_t n_weights);
double bf16_ref(double x);
bool matmul_quant_ref(double *out, const float *x, const void *blocks, pp_dtype type,
                      size_t n_tokens, size_t n_rows, size_t n_cols);
double e4m3_ref(double x);
/* Rows in e4m3 as floats, and what each is to be multiplied by. */
void fp8_rows_ref(float *q, float *scale, const float *x, size_t n_rows, size_t n_cols);
void matmul_fp8_ref(double *out, const float *x, const float *x_scale, const float *w,
                    const float *w_scale, size_t n_tokens, size_t n_rows, size_t n_cols);
void norm_ref(double *out, const float *x, const float *add, const float *w, const float *b,
              size_t n_tokens, size_t d, double eps, pp_norm_kind kind, bool plus_one);
void activate_ref(double *out, const float *x, size_t n_tokens, size_t f, pp_act_kind act,
                  bool gated);
double softcap_ref(double x, double cap);
/* One head[d] at a position, in place. */
void rope_ref(double *head, const pp_rope *rope, uint32_t pos);
/*
 * One segment: q[n_new, H, Dh]; k and v [n_past + n_new, Hkv, Dh] of all slots; parent as in
 * pp_segment; out[n_new, H, Dh].
 */
void attention_ref(double *out, const float *q, const float *k, const float *v, uint32_t n_new,
                   uint32_t n_past, const int32_t *parent, const pp_attn *attn);
void pool_ref(double *out, const float *x, size_t n_tokens, size_t d, int pooling, bool l2);
double logsumexp_ref(const float *x, size_t n);
size_t top_ref(int32_t *ids, double *sum, const float *x, size_t n, size_t k, double scale);

#endif /* REF_H */
