/*
 * gpu_model.h: models of random weights for bench_gpu.c: shapes, forms of the weights, and how a
 * model is made of both without a file.
 *
 * Every matrix is made from one block of random numbers, so that a shape of 8 billion parameters is
 * there in seconds. What fails ends the program: a benchmark has nothing to go on with.
 */
#ifndef GPU_MODEL_H
#define GPU_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llm_alloc.h"
#include "llm_device.h"
#include "llm_forward.h"

#define MAX_TOKENS 65536u
#define MAX_ROWS   1024u
#define MAX_SEGS   1024u

typedef struct shape
{
	const char *name;
	uint32_t d, n_layers, n_heads, n_kv, d_head, d_ff, n_vocab;
	bool tied, qk_norm, qkv_bias, encoder;
} shape;

static const shape shapes[] = {
    {"llama-8b", 4096, 32, 32, 8, 128, 14336, 128256, false, false, false, false},
    {"qwen2.5-1.5b", 1536, 28, 12, 2, 128, 8960, 151936, true, false, true, false},
    {"llama-1.3b", 2048, 24, 16, 16, 128, 5504, 32000, false, false, false, false},
    {"qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151936, true, true, false, false},
    {"minilm-l6", 384, 6, 12, 12, 32, 1536, 30522, false, false, true, true},
};

/* How weights are held: as what they are handed over, and how prepared. */
typedef struct form
{
	const char *name;
	pp_dtype type;
	pp_precision precision;
	uint32_t weights; /* of a block */
	uint32_t bytes;
	uint32_t n_halves;   /* scales at its start */
	double bytes_matrix; /* of a weight on the device */
	double bytes_table;  /* the same of embeddings and heads */
} form;

static const form forms[] = {
    {"bf16", PP_BF16, PP_PREC_BF16, 1, 2, 0, 2.0, 2.0},
    {"q8_0", PP_Q8_0, PP_PREC_NATIVE, 32, 34, 1, 1.125, 1.125},
    {"q4_0", PP_Q4_0, PP_PREC_NATIVE, 32, 18, 1, 0.625, 0.625},
    {"q4_k", PP_Q4_K, PP_PREC_NATIVE, 256, 144, 2, 0.625, 0.625},
    {"fp8", PP_BF16, PP_PREC_FP8, 1, 2, 0, 1.0, 2.0},
};

typedef struct bench
{
	pp_backend *be;
	const form *form;
	uint16_t *block; /* random bf16 */
	size_t n_block;
	uint8_t *quants; /* random blocks of the form, of n_block weights, or NULL */
	llm_model *m;
	llm_workspace *ws;
	uint32_t n_pages;
	uint32_t page_tokens;
	uint32_t next_page;
	int32_t tokens[MAX_TOKENS];
	uint32_t pos[MAX_TOKENS];
	uint32_t rows[MAX_ROWS];
	pp_segment segs[MAX_SEGS];
	uint32_t pages[MAX_TOKENS];
	uint32_t n_page_list;
	llm_batch batch;
	float *out;
	float *lse;
	llm_error err;
} bench;

/* Seconds since some point. */
static inline double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* Ends the program: the bench has nothing to clean up that the system does not. */
static inline void
fail(const char *what, const char *why)
{
	fprintf(stderr, "bench_gpu: %s: %s\n", what, why);
	exit(1);
}

/* A small random number generator. */
static inline uint32_t
random_u32(void)
{
	static uint64_t state = 88172645463325252u;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t) (state >> 16);
}

/* Makes random blocks of the form: quants of any bits, scales of moderate size. */
static inline void
make_quants(bench *b)
{
	const form *f = b->form;
	const size_t n = b->n_block / f->weights;

	free(b->quants);
	b->quants = NULL;
	if (f->weights == 1)
		return;
	if ((b->quants = malloc(n * f->bytes)) == NULL)
		fail(f->name, "out of memory");
	for (size_t i = 0; i < n * f->bytes; i++)
		b->quants[i] = (uint8_t) random_u32();
	for (size_t i = 0; i < n; i++)
		for (uint32_t h = 0; h < f->n_halves; h++)
		{
			b->quants[i * f->bytes + 2 * h] = (uint8_t) i;
			b->quants[i * f->bytes + 2 * h + 1] = f->weights == 256 ? 0x04 : 0x0c; /* 2^-14, -12 */
		}
}

/* A matrix out of the block of random numbers, in the form asked for. */
static inline pp_matrix *
make_matrix(bench *b, uint32_t n_rows, uint32_t n_cols, pp_precision precision)
{
	const form *f = b->form;

	uint32_t rows_block = (uint32_t) (b->n_block / n_cols);
	pp_matrix_part parts[64];
	uint32_t n_parts = 0;
	pp_matrix *m;

	for (uint32_t done = 0; done < n_rows; n_parts++)
	{
		uint32_t n = n_rows - done < rows_block ? n_rows - done : rows_block;

		parts[n_parts] = (pp_matrix_part){b->block, f->type, n,
		                                  (uint64_t) n_cols / f->weights * f->bytes, PP_SPLIT_NONE};
		if (b->quants != NULL)
			parts[n_parts].data = b->quants;
		done += n;
	}
	m = b->be->ops->matrix_create(b->be, parts, n_parts, n_cols, precision);
	if (m == NULL)
		fail("matrix", b->be->message);
	return m;
}

/* A vector of n equal values. */
static inline float *
make_vector(bench *b, uint32_t n, float value)
{
	float *host = malloc(n * sizeof(*host));
	float *dev = b->be->ops->alloc(b->be, n * sizeof(*dev));

	if (host == NULL || dev == NULL)
		fail("vector", b->be->message);
	for (uint32_t i = 0; i < n; i++)
		host[i] = value;
	b->be->ops->upload(b->be, dev, host, n * sizeof(*host));
	b->be->ops->sync(b->be);
	free(host);
	return dev;
}

/* Describes a shape as the loader would. */
static inline void
make_arch(llm_arch *a, const shape *s, const form *f)
{
	float *inv_freq;

	snprintf(a->name, sizeof(a->name), "%s%s%s", s->name, f == forms ? "" : ".",
	         f == forms ? "" : f->name);
	a->arena = llm_arena_create();
	a->attn = llm_arena_alloc(a->arena, s->n_layers, sizeof(pp_attn));
	a->rope = llm_arena_alloc(a->arena, s->n_layers, sizeof(pp_rope));
	inv_freq = llm_arena_alloc(a->arena, s->d_head / 2, sizeof(float));
	for (uint32_t i = 0; i < s->d_head / 2; i++)
		inv_freq[i] = powf(500000.0f, -2.0f * (float) i / (float) s->d_head);
	for (uint32_t i = 0; i < s->n_layers; i++)
	{
		a->attn[i] = (pp_attn){.n_heads = s->n_heads,
		                       .n_kv_heads = s->n_kv,
		                       .d_head = s->d_head,
		                       .scale = 1.0f / sqrtf((float) s->d_head),
		                       .causal = !s->encoder};
		a->rope[i] = (pp_rope){.enabled = !s->encoder,
		                       .n_dims = s->d_head,
		                       .inv_freq = inv_freq,
		                       .mscale = 1.0f};
	}
	a->kind = s->encoder ? LLM_KIND_EMBED : LLM_KIND_GENERATE;
	a->decoder = !s->encoder;
	a->n_layers = s->n_layers;
	a->d_model = s->d;
	a->d_ff = s->d_ff;
	a->n_vocab = s->n_vocab;
	a->n_ctx = 8192;
	a->norm_kind = s->encoder ? PP_NORM_LAYER : PP_NORM_RMS;
	a->norm_place = s->encoder ? LLM_NORM_POST : LLM_NORM_PRE;
	a->norm_eps = 1e-5f;
	a->qk_norm = s->qk_norm;
	a->act = s->encoder ? PP_ACT_GELU_ERF : PP_ACT_SILU;
	a->mlp_gated = !s->encoder;
	a->embed_scale = 1.0f;
	a->tied = s->tied;
	a->final_norm = !s->encoder;
	a->pooling = PP_POOL_MEAN;
	a->l2_normalise = s->encoder;
}

/* The weights of one layer. */
static inline void
make_layer(bench *b, const shape *s, llm_layer *l)
{
	uint32_t n_qkv = (s->n_heads + 2 * s->n_kv) * s->d_head;

	l->attn_norm = make_vector(b, s->d, 1.0f);
	l->ffn_norm = make_vector(b, s->d, 1.0f);
	l->qkv = make_matrix(b, n_qkv, s->d, b->form->precision);
	l->attn_out = make_matrix(b, s->d, s->n_heads * s->d_head, b->form->precision);
	l->ffn_in = make_matrix(b, s->d_ff * (s->encoder ? 1 : 2), s->d, b->form->precision);
	l->ffn_out = make_matrix(b, s->d, s->d_ff, b->form->precision);
	if (s->qk_norm)
	{
		l->q_norm = make_vector(b, s->d_head, 1.0f);
		l->k_norm = make_vector(b, s->d_head, 1.0f);
	}
	if (s->qkv_bias)
		l->qkv_bias = make_vector(b, n_qkv, 0.01f);
	if (!s->encoder)
		return;
	l->attn_norm_b = make_vector(b, s->d, 0.0f);
	l->ffn_norm_b = make_vector(b, s->d, 0.0f);
	l->attn_out_bias = make_vector(b, s->d, 0.01f);
	l->ffn_in_bias = make_vector(b, s->d_ff, 0.01f);
	l->ffn_out_bias = make_vector(b, s->d, 0.01f);
}

/* A model of a shape, its workspace and pages. */
static inline void
open_model(bench *b, const shape *s)
{
	llm_model *m = llm_calloc(1, sizeof(*m));
	double start = now();

	if (m == NULL)
		fail(s->name, "out of memory");
	b->m = m;
	m->be = b->be;
	m->precision = b->form->precision;
	make_arch(&m->arch, s, b->form);
	m->layers = llm_calloc(s->n_layers, sizeof(*m->layers));
	m->embed = make_matrix(b, s->n_vocab, s->d, PP_PREC_NATIVE);
	if (!s->encoder)
		m->head = s->tied ? m->embed : make_matrix(b, s->n_vocab, s->d, PP_PREC_NATIVE);
	for (uint32_t i = 0; m->layers != NULL && i < s->n_layers; i++)
		make_layer(b, s, &m->layers[i]);
	m->final_norm_w = make_vector(b, s->d, 1.0f);
	if (s->encoder)
		m->final_norm_b = make_vector(b, s->d, 0.0f);
	b->be->ops->sync(b->be);
	fprintf(stderr, "%s: made in %.1f s\n", s->name, now() - start);
	if (llm_workspace_create(m, MAX_TOKENS, MAX_ROWS, &b->ws, &b->err) != LLM_OK)
		fail(s->name, b->err.message);
	b->page_tokens = b->be->ops->kv_page_tokens(b->be);
	b->n_pages = 81920 / b->page_tokens;
	if (!s->encoder && b->be->ops->kv_create(b->be, m->arch.attn, s->n_layers, b->n_pages,
	                                         PP_PREC_NATIVE) != PP_OK)
		fail(s->name, b->be->message);
}

/* Frees what open_model made. */
static inline void
close_model(bench *b)
{
	llm_workspace_free(b->ws);
	b->be->ops->kv_destroy(b->be);
	llm_model_free(b->m);
	b->ws = NULL;
	b->m = NULL;
}

#endif /* GPU_MODEL_H */
