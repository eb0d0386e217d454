/*
 * bench_ops.c: speed of the CPU backend's ops at the shapes of SmolLM2-135M.
 *
 *     bench_ops [threads [tokens …]]
 *
 * Prints for every op the time of one call, the rate, and what the op costs in a whole pass of 30
 * layers. Each op runs for 0.3 s after one call that fills caches and scratch; the shortest call
 * counts, and its time is the CPU's in the calling thread, since the machine may be shared.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llm_cpu.h"

#define SECONDS  0.3
#define D        576u
#define N_HEADS  9u
#define N_KV     3u
#define D_HEAD   64u
#define D_FF     1536u
#define N_VOCAB  49152u
#define N_LAYERS 30u
#define N_QKV    ((N_HEADS + 2 * N_KV) * D_HEAD)

typedef struct bench
{
	pp_backend *be;
	uint32_t n_tokens;
	uint32_t layer; /* changes from call to call, as in a pass: weights are not in cache */
	pp_matrix *w_qkv[N_LAYERS];
	pp_matrix *w_o[N_LAYERS];
	pp_matrix *w_up[N_LAYERS];
	pp_matrix *w_down[N_LAYERS];
	pp_matrix *w_head;
	float *x;
	float *y;
	float *z;
	float *norm;
	uint32_t *pos;
	uint32_t *pages;
	pp_segment seg;
	pp_attn attn;
	pp_rope rope;
	float inv_freq[D_HEAD / 2];
} bench;

/* Seconds of CPU that this thread has had. */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

/* One op each. */
static pp_result
run_qkv(bench *b)
{
	return b->be->ops->matmul(b->be, b->y, b->x, b->w_qkv[b->layer], NULL, b->n_tokens);
}

/* The attention output projection. */
static pp_result
run_o(bench *b)
{
	return b->be->ops->matmul(b->be, b->y, b->x, b->w_o[b->layer], NULL, b->n_tokens);
}

/* Gate and up. */
static pp_result
run_up(bench *b)
{
	return b->be->ops->matmul(b->be, b->y, b->x, b->w_up[b->layer], NULL, b->n_tokens);
}

/* Down. */
static pp_result
run_down(bench *b)
{
	return b->be->ops->matmul(b->be, b->y, b->z, b->w_down[b->layer], NULL, b->n_tokens);
}

/* The head for one row. */
static pp_result
run_head(bench *b)
{
	return b->be->ops->matmul(b->be, b->y, b->x, b->w_head, NULL, 1);
}

/* RMSNorm with the residual. */
static pp_result
run_norm(bench *b)
{
	return b->be->ops->norm(b->be, b->y, b->x, b->z, b->norm, NULL, b->n_tokens, D, 1e-5f,
	                        PP_NORM_RMS, false);
}

/* SwiGLU. */
static pp_result
run_act(bench *b)
{
	return b->be->ops->activate(b->be, b->y, b->z, b->n_tokens, D_FF, PP_ACT_SILU, true);
}

/* Gate, up, SwiGLU and down in one. */
static pp_result
run_mlp(bench *b)
{
	const pp_mlp mlp = {.in = b->w_up[b->layer],
	                    .out = b->w_down[b->layer],
	                    .dev_wide = b->z,
	                    .dev_hidden = b->y + (size_t) b->n_tokens * D,
	                    .f = D_FF,
	                    .act = PP_ACT_SILU,
	                    .gated = true};

	return b->be->ops->mlp(b->be, b->y, b->x, &mlp, b->n_tokens);
}

/* RoPE and the writing of pages. */
static pp_result
run_prepare(bench *b)
{
	return b->be->ops->qkv_prepare(b->be, b->y, b->z, b->pos, &b->seg, 1, b->n_tokens, 0, &b->attn,
	                               &b->rope, NULL, NULL, 0.0f, false);
}

/* Attention. */
static pp_result
run_attention(bench *b)
{
	return b->be->ops->attention(b->be, b->y, b->z, &b->seg, 1, b->n_tokens, 0, &b->attn);
}

/* Times one op; returns the seconds it takes in a pass. */
static double
time_op(bench *b, const char *name, pp_result (*run)(bench *), double ops, double per_pass)
{
	double best = 1e9;

	if (run(b) != PP_OK)
	{
		printf("%-10s %s\n", name, b->be->message);
		return 0.0;
	}
	for (double first = now(), start = first; start < first + SECONDS;)
	{
		double end;

		b->layer = (b->layer + 1) % N_LAYERS;
		run(b);
		end = now();
		best = end - start < best ? end - start : best;
		start = end;
	}
	printf("%-10s %10.1f us %8.2f Gop/s %9.2f ms a pass\n", name, 1e6 * best, 1e-9 * ops / best,
	       1e3 * best * per_pass);
	return best * per_pass;
}

/* A matrix of random weights. */
static pp_matrix *
make_matrix(bench *b, uint32_t n_rows, uint32_t n_cols)
{
	float *w = malloc((size_t) n_rows * n_cols * sizeof(float));
	pp_matrix_part part = {w, PP_F32, n_rows, n_cols * sizeof(float), PP_SPLIT_NONE};
	pp_matrix *m;

	if (w == NULL)
		exit(1);
	for (size_t i = 0; i < (size_t) n_rows * n_cols; i++)
		w[i] = (float) (i * 2654435761u % 65536) / 65536.0f - 0.5f;
	m = b->be->ops->matrix_create(b->be, &part, 1, n_cols, PP_PREC_INT8);
	free(w);
	if (m == NULL)
		exit(1);
	return m;
}

/* n random floats. */
static float *
make_floats(size_t n)
{
	float *x = malloc(n * sizeof(float));

	if (x == NULL)
		exit(1);
	for (size_t i = 0; i < n; i++)
		x[i] = (float) rand() / (float) RAND_MAX - 0.5f;
	return x;
}

/* Buffers, weights and one sequence of max tokens. */
static void
set_up(bench *b, uint32_t max)
{
	const uint32_t n_pages = (max + 31) / 32 + 16;

	for (uint32_t i = 0; i < N_LAYERS; i++)
	{
		b->w_qkv[i] = make_matrix(b, N_QKV, D);
		b->w_o[i] = make_matrix(b, D, D);
		b->w_up[i] = make_matrix(b, 2 * D_FF, D);
		b->w_down[i] = make_matrix(b, D, D_FF);
	}
	b->w_head = make_matrix(b, N_VOCAB, D);
	b->x = make_floats((size_t) max * D + N_VOCAB);
	b->y = make_floats((size_t) max * 2 * D_FF + N_VOCAB);
	b->z = make_floats((size_t) max * 2 * D_FF + N_VOCAB);
	b->norm = make_floats(D);
	b->pos = malloc(max * sizeof(uint32_t));
	b->pages = malloc(n_pages * sizeof(uint32_t));
	if (b->pos == NULL || b->pages == NULL)
		exit(1);
	for (uint32_t i = 0; i < n_pages; i++)
		b->pages[i] = i;
	for (uint32_t i = 0; i < D_HEAD / 2; i++)
		b->inv_freq[i] = 1.0f / (float) (i + 1);
	b->attn = (pp_attn){.n_heads = N_HEADS, .n_kv_heads = N_KV, .d_head = D_HEAD, .causal = true};
	b->attn.scale = 0.125f;
	b->rope = (pp_rope){.enabled = true, .n_dims = D_HEAD, .inv_freq = b->inv_freq, .mscale = 1};
	if (b->be->ops->kv_create(b->be, &b->attn, 1, n_pages, PP_PREC_INT8) != PP_OK)
		exit(1);
}

/* All ops at one number of tokens; a single token has a history of 256. */
static void
bench_tokens(bench *b, uint32_t n)
{
	const double t = n;
	const uint32_t past = n == 1 ? 256 : 0;
	double sum = 0.0;

	b->n_tokens = n;
	b->seg = (pp_segment){.n_new = n, .n_past = past, .pages = b->pages};
	for (uint32_t i = 0; i < n; i++)
		b->pos[i] = past + i;
	printf("%u tokens\n", n);
	sum += time_op(b, "norm", run_norm, 4 * t * D, 2 * N_LAYERS);
	sum += time_op(b, "qkv", run_qkv, 2 * t * D * N_QKV, N_LAYERS);
	sum += time_op(b, "prepare", run_prepare, t * N_QKV, N_LAYERS);
	sum += time_op(b, "attention", run_attention, 4 * t * (past + (t + 1) / 2) * N_HEADS * D_HEAD,
	               N_LAYERS);
	sum += time_op(b, "output", run_o, 2 * t * D * D, N_LAYERS);
	time_op(b, "gate, up", run_up, 4 * t * D * D_FF, N_LAYERS);
	time_op(b, "swiglu", run_act, t * D_FF, N_LAYERS);
	time_op(b, "down", run_down, 2 * t * D * D_FF, N_LAYERS);
	sum += time_op(b, "all three", run_mlp, 6 * t * D * D_FF, N_LAYERS);
	sum += time_op(b, "head", run_head, 2.0 * D * N_VOCAB, 1);
	printf("%-10s %.2f ms a pass, %.0f tokens/s\n\n", "sum", 1e3 * sum, t / sum);
}

/* Reads the arguments. */
int
main(int argc, char **argv)
{
	bench b = {.be = NULL};
	uint32_t max = 512;

	b.be = pp_cpu_create(argc > 1 ? (uint32_t) strtoul(argv[1], NULL, 10) : 0);
	if (b.be == NULL)
		return 1;
	for (int i = 2; i < argc; i++)
		if (strtoul(argv[i], NULL, 10) > max)
			max = (uint32_t) strtoul(argv[i], NULL, 10);
	set_up(&b, max);
	if (argc <= 2)
	{
		bench_tokens(&b, 512);
		bench_tokens(&b, 1);
	}
	for (int i = 2; i < argc; i++)
		bench_tokens(&b, (uint32_t) strtoul(argv[i], NULL, 10));
	return 0;
}
