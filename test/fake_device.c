/*
 * fake_device.c: a device backend without a device, for test_device.c.
 *
 * Built twice: as prepack_cuda.so, with the two functions that kernels.h asks for, and with
 * FAKE_DRIVER as libcuda.so.1, with the two that llm_device.c asks the driver. The backend hands
 * every op to a CPU backend in float, and checks what a real device relies on: ops of a walk come
 * between pass_begin and pass_end with the very arrays that the pass announced, and nothing is
 * asked of a device that has failed. The environment makes it misbehave:
 *
 *	FAKE_DEVICES=N   how many devices the driver has
 *	FAKE_ABI=1       the object says it was built for another table
 *	FAKE_CREATE=1    no backend can be made: no device; 2: the device is full
 *	FAKE_FAIL=N      the Nth op fails for good, as after an illegal address
 *	FAKE_LINK=1      devices cannot be linked; N > 1: the Nth exchange of a link fails
 *	FAKE_SLOW=N      a pass takes N ms more, the first of its size 20 N
 *	FAKE_REPLAY=1    a second pass of the same owner is answered from a recording: nothing is run
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../kernels/kernels.h"

/* The object has no header: what calls it finds its functions by name. */
uint32_t pp_cuda_abi(void);
pp_result pp_cuda_create(uint32_t device, pp_backend **out, char *message, size_t bytes);
pp_result pp_cuda_link(pp_backend *const *ranks, uint32_t n_ranks, pp_link **out, char *message,
                       size_t bytes);
int cuInit(unsigned int flags);
int cuDeviceGetCount(int *n);

/* A number from the environment. */
static long
setting(const char *name)
{
	const char *value = getenv(name);

	return value != NULL ? strtol(value, NULL, 10) : 0;
}

#ifdef FAKE_DRIVER

/* Starts the driver. */
int
cuInit(unsigned int flags)
{
	return (int) flags;
}

/* Counts its devices. */
int
cuDeviceGetCount(int *n)
{
	*n = (int) setting("FAKE_DEVICES");
	return 0;
}

#else

/* The backend: the CPU's and what the checks remember. */
typedef struct fake
{
	pp_backend base;
	pp_backend *cpu;
	pp_ops ops;
	pp_pass pass;
	const void *last_owner;
	uint32_t largest; /* pass so far, in tokens */
	bool in_pass;
	bool failed;
	long until_failure;
} fake;

/* A matrix in both forms: to look rows up, and to multiply. */
struct pp_matrix
{
	pp_matrix *table;
	pp_matrix *product;
};

/* The fake behind a backend. */
static fake *
fake_of(pp_backend *be)
{
	return (fake *) (void *) be;
}

/* Fails for good, with a message. */
static pp_result
fail(fake *f, const char *why)
{
	f->failed = true;
	snprintf(f->base.message, sizeof(f->base.message), "%s", why);
	return PP_E_DEVICE;
}

/* What every op begins with: PP_OK when it may run. */
static pp_result
enter(fake *f, bool of_pass)
{
	if (f->failed)
		return fail(f, "an op of a device that has failed");
	if (of_pass && !f->in_pass)
		return fail(f, "an op of a pass outside of one");
	if (f->until_failure > 0 && --f->until_failure == 0)
		return fail(f, "an illegal memory access was encountered");
	return PP_OK;
}

/* Takes the CPU's message over. */
static pp_result
leave(fake *f, pp_result result)
{
	if (result != PP_OK)
		memcpy(f->base.message, f->cpu->message, sizeof(f->base.message));
	return result;
}

/* An op that is handed on as it is: its name, whether it belongs to a pass, parameters, arguments.
 */
#define HAND_ON(name, of_pass, params, args) \
	static pp_result fake_##name params \
	{ \
		fake *f = fake_of(be); \
		pp_result result = enter(f, of_pass); \
\
		be = f->cpu; \
		return result == PP_OK ? leave(f, f->cpu->ops->name args) : result; \
	}

HAND_ON(upload, false, (pp_backend * be, void *to, const void *from, size_t n), (be, to, from, n))
HAND_ON(download, false, (pp_backend * be, void *to, const void *from, size_t n), (be, to, from, n))
HAND_ON(sync, false, (pp_backend * be), (be))
HAND_ON(download_act, false, (pp_backend * be, float *to, const pp_act *from, size_t n),
        (be, to, from, n))
HAND_ON(narrow, false, (pp_backend * be, pp_act *to, const float *from, size_t n),
        (be, to, from, n))
HAND_ON(add_rows, true,
        (pp_backend * be, float *x, const float *table, const uint32_t *idx, uint32_t n,
         uint32_t d),
        (be, x, table, idx, n, d))
HAND_ON(norm, false,
        (pp_backend * be, pp_act *out, float *x, const pp_act *add, const float *w, const float *b,
         uint32_t n, uint32_t d, float eps, pp_norm_kind kind, bool plus_one),
        (be, out, x, add, w, b, n, d, eps, kind, plus_one))
HAND_ON(norm_post, true,
        (pp_backend * be, pp_act *out, float *x, const pp_act *add, const float *w, const float *b,
         uint32_t n, uint32_t d, float eps, pp_norm_kind kind, bool plus_one),
        (be, out, x, add, w, b, n, d, eps, kind, plus_one))
HAND_ON(add, false, (pp_backend * be, float *x, const pp_act *y, uint32_t n, uint32_t d),
        (be, x, y, n, d))
HAND_ON(gather, false,
        (pp_backend * be, pp_act *out, const pp_act *x, const uint32_t *rows, uint32_t n,
         uint32_t d),
        (be, out, x, rows, n, d))
HAND_ON(activate, false,
        (pp_backend * be, pp_act *out, const pp_act *x, uint32_t n, uint32_t width, pp_act_kind act,
         bool gated),
        (be, out, x, n, width, act, gated))
HAND_ON(softcap, false, (pp_backend * be, float *x, size_t n, float cap), (be, x, n, cap))
HAND_ON(sum, true,
        (pp_backend * be, pp_act *out, const pp_act *const *parts, uint32_t n_parts,
         const float *bias, uint32_t n, uint32_t d),
        (be, out, parts, n_parts, bias, n, d))
HAND_ON(kv_copy, false, (pp_backend * be, uint32_t to, uint32_t from, uint32_t n),
        (be, to, from, n))
HAND_ON(kv_move, false, (pp_backend * be, const uint32_t *pages, uint32_t to, uint32_t from),
        (be, pages, to, from))
HAND_ON(kv_clear, false, (pp_backend * be, uint32_t page), (be, page))
HAND_ON(pool, true,
        (pp_backend * be, float *out, const float *x, const pp_segment *segs, uint32_t n,
         uint32_t d, int pooling, bool l2),
        (be, out, x, segs, n, d, pooling, l2))
HAND_ON(logsumexp, false,
        (pp_backend * be, float *lse, const float *logits, uint32_t n, uint32_t n_vocab),
        (be, lse, logits, n, n_vocab))
HAND_ON(top, false,
        (pp_backend * be, pp_top *out, const float *logits, uint32_t n, uint32_t n_vocab,
         uint32_t k, float scale),
        (be, out, logits, n, n_vocab, k, scale))
HAND_ON(matmul, false,
        (pp_backend * be, pp_act *out, const pp_act *x, const pp_matrix *w, const float *bias,
         uint32_t n),
        (be, out, x, w->product, bias, n))
HAND_ON(matmul_float, false,
        (pp_backend * be, float *out, const pp_act *x, const pp_matrix *w, const float *bias,
         uint32_t n),
        (be, out, x, w->product, bias, n))
HAND_ON(matmul_columns, false,
        (pp_backend * be, float *out, const pp_act *x, const pp_matrix *w, const uint32_t *cols,
         uint32_t n_cols, uint32_t n),
        (be, out, x, w->product, cols, n_cols, n))

/* Takes the time that the environment asks for. */
static void
slow_down(fake *f)
{
	long ms = setting("FAKE_SLOW") * (f->pass.n_tokens > f->largest ? 20 : 1);
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};

	if (f->pass.n_tokens > f->largest)
		f->largest = f->pass.n_tokens;
	if (ms > 0)
		nanosleep(&time, NULL);
}

/* The tokens must be the pass's. */
static pp_result
fake_embed(pp_backend *be, float *out, const pp_matrix *table, const int32_t *ids, uint32_t n,
           float scale)
{
	fake *f = fake_of(be);
	pp_result result = enter(f, true);

	if (result == PP_OK && (ids != f->pass.tokens || n != f->pass.n_tokens))
		return fail(f, "tokens that are not the pass's");
	return result == PP_OK ? leave(f, f->cpu->ops->embed(f->cpu, out, table->table, ids, n, scale))
	                       : result;
}

/* The rows must be the pass's. */
static pp_result
fake_norm_rows(pp_backend *be, pp_act *out, float *x, const pp_act *add, const float *w,
               const float *b, const uint32_t *rows, uint32_t n, uint32_t d, float eps,
               pp_norm_kind kind, bool plus_one)
{
	fake *f = fake_of(be);
	pp_result result = enter(f, true);

	if (result == PP_OK && (rows != f->pass.rows || n != f->pass.n_rows))
		return fail(f, "rows that are not the pass's");
	return result == PP_OK ? leave(f, f->cpu->ops->norm_rows(f->cpu, out, x, add, w, b, rows, n, d,
	                                                         eps, kind, plus_one))
	                       : result;
}

/* Whether segments and layer are the pass's. */
static pp_result
enter_layer(fake *f, const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
            const pp_attn *attn)
{
	pp_result result = enter(f, true);

	if (result == PP_OK &&
	    (segs != f->pass.segs || n_segs != f->pass.n_segs || n_tokens != f->pass.n_tokens ||
	     layer >= f->pass.n_layers || attn != &f->pass.attn[layer]))
		return fail(f, "segments or layers that are not the pass's");
	return result;
}

/* Positions and segments must be the pass's. */
static pp_result
fake_qkv_prepare(pp_backend *be, pp_act *q, const pp_act *qkv, const uint32_t *pos,
                 const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
                 const pp_attn *attn, const pp_rope *rope, const float *q_norm, const float *k_norm,
                 float eps, bool plus_one)
{
	fake *f = fake_of(be);
	pp_result result = enter_layer(f, segs, n_segs, n_tokens, layer, attn);

	if (result == PP_OK && pos != f->pass.pos)
		return fail(f, "positions that are not the pass's");
	return result == PP_OK ? leave(f, f->cpu->ops->qkv_prepare(f->cpu, q, qkv, pos, segs, n_segs,
	                                                           n_tokens, layer, attn, rope, q_norm,
	                                                           k_norm, eps, plus_one))
	                       : result;
}

/* Segments must be the pass's. */
static pp_result
fake_attention(pp_backend *be, pp_act *out, const pp_act *q, const pp_segment *segs,
               uint32_t n_segs, uint32_t n_tokens, uint32_t layer, const pp_attn *attn)
{
	fake *f = fake_of(be);
	pp_result result = enter_layer(f, segs, n_segs, n_tokens, layer, attn);

	return result == PP_OK ? leave(f, f->cpu->ops->attention(f->cpu, out, q, segs, n_segs, n_tokens,
	                                                         layer, attn))
	                       : result;
}

/* Begins a pass; passes do not nest. */
static pp_result
fake_pass_begin(pp_backend *be, const pp_pass *pass, bool *replayed)
{
	fake *f = fake_of(be);
	pp_result result = enter(f, false);

	*replayed = false;
	if (result != PP_OK)
		return result;
	if (f->in_pass)
		return fail(f, "a pass within a pass");
	if (pass->n_tokens > pass->max_tokens || pass->n_rows > pass->max_rows)
		return fail(f, "a pass beyond the buffers of its owner");
	f->pass = *pass;
	f->in_pass = true;
	slow_down(f);
	*replayed = setting("FAKE_REPLAY") != 0 && pass->owner != NULL && pass->owner == f->last_owner;
	f->last_owner = pass->owner;
	return PP_OK;
}

/* Ends a pass, also one that failed. */
static pp_result
fake_pass_end(pp_backend *be)
{
	fake *f = fake_of(be);

	if (!f->in_pass)
		return fail(f, "the end of no pass");
	f->in_pass = false;
	return f->failed ? PP_E_DEVICE : PP_OK;
}

/* Takes memory. */
static void *
fake_alloc(pp_backend *be, size_t bytes)
{
	return fake_of(be)->cpu->ops->alloc(fake_of(be)->cpu, bytes);
}

/* Frees memory. */
static void
fake_release(pp_backend *be, void *dev)
{
	fake_of(be)->cpu->ops->release(fake_of(be)->cpu, dev);
}

/* A device of 4 GiB. */
static void
fake_memory_info(pp_backend *be, pp_memory_info *info)
{
	fake_of(be)->cpu->ops->memory_info(fake_of(be)->cpu, info);
	info->bytes_free = (uint64_t) 4 << 30;
}

/* Frees the backend. */
static void
fake_destroy(pp_backend *be)
{
	fake *f = fake_of(be);

	f->cpu->ops->destroy(f->cpu);
	free(f);
}

/* Makes both forms of a matrix; a device has a precision of its own and takes no other. */
static pp_matrix *
fake_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
                   pp_precision precision)
{
	fake *f = fake_of(be);
	const pp_ops *ops = f->cpu->ops;
	pp_matrix *m = calloc(1, sizeof(*m));

	if (m == NULL || precision != PP_PREC_NATIVE)
	{
		fail(f, "a matrix of another precision");
		free(m);
		return NULL;
	}
	m->table = ops->matrix_create(f->cpu, parts, n_parts, n_cols, PP_PREC_NATIVE);
	m->product = ops->matrix_create(f->cpu, parts, n_parts, n_cols, PP_PREC_F32);
	return m;
}

/* Frees both forms. */
static void
fake_matrix_destroy(pp_backend *be, pp_matrix *m)
{
	const pp_ops *ops = fake_of(be)->cpu->ops;

	if (m->table != NULL)
		ops->matrix_destroy(fake_of(be)->cpu, m->table);
	if (m->product != NULL)
		ops->matrix_destroy(fake_of(be)->cpu, m->product);
	free(m);
}

/* Slots of a page. */
static uint32_t
fake_kv_page_tokens(pp_backend *be)
{
	return fake_of(be)->cpu->ops->kv_page_tokens(fake_of(be)->cpu);
}

/* Bytes of a page, in float. */
static uint64_t
fake_kv_page_bytes(pp_backend *be, const pp_attn *attn, uint32_t n_layers, pp_precision precision)
{
	(void) precision;
	return fake_of(be)->cpu->ops->kv_page_bytes(fake_of(be)->cpu, attn, n_layers, PP_PREC_F32);
}

/* A pool in float. */
static pp_result
fake_kv_create(pp_backend *be, const pp_attn *attn, uint32_t n_layers, uint32_t n_pages,
               pp_precision precision)
{
	(void) precision;
	return fake_of(be)->cpu->ops->kv_create(fake_of(be)->cpu, attn, n_layers, n_pages, PP_PREC_F32);
}

/* Frees the pool. */
static void
fake_kv_destroy(pp_backend *be)
{
	fake_of(be)->cpu->ops->kv_destroy(fake_of(be)->cpu);
}

static const pp_ops fake_ops = {.alloc = fake_alloc,
                                .release = fake_release,
                                .upload = fake_upload,
                                .download = fake_download,
                                .sync = fake_sync,
                                .memory_info = fake_memory_info,
                                .destroy = fake_destroy,
                                .download_act = fake_download_act,
                                .narrow = fake_narrow,
                                .pass_begin = fake_pass_begin,
                                .pass_end = fake_pass_end,
                                .matrix_create = fake_matrix_create,
                                .matrix_destroy = fake_matrix_destroy,
                                .embed = fake_embed,
                                .add_rows = fake_add_rows,
                                .norm = fake_norm,
                                .norm_post = fake_norm_post,
                                .norm_rows = fake_norm_rows,
                                .add = fake_add,
                                .matmul = fake_matmul,
                                .matmul_float = fake_matmul_float,
                                .matmul_columns = fake_matmul_columns,
                                .gather = fake_gather,
                                .activate = fake_activate,
                                .softcap = fake_softcap,
                                .qkv_prepare = fake_qkv_prepare,
                                .attention = fake_attention,
                                .kv_page_tokens = fake_kv_page_tokens,
                                .kv_page_bytes = fake_kv_page_bytes,
                                .kv_create = fake_kv_create,
                                .kv_destroy = fake_kv_destroy,
                                .kv_copy = fake_kv_copy,
                                .kv_move = fake_kv_move,
                                .kv_clear = fake_kv_clear,
                                .pool = fake_pool,
                                .logsumexp = fake_logsumexp,
                                .top = fake_top,
                                .sum = fake_sum};

/* The table that it was built for. */
uint32_t
pp_cuda_abi(void)
{
	return PP_ABI + (setting("FAKE_ABI") != 0);
}

/* Makes a backend. */
pp_result
pp_cuda_create(uint32_t device, pp_backend **out, char *message, size_t bytes)
{
	const bool full = setting("FAKE_CREATE") == 2;
	fake *f = calloc(1, sizeof(*f));

	(void) device;
	*out = NULL;
	if (f == NULL || setting("FAKE_CREATE") != 0 || (f->cpu = pp_cpu_create(2)) == NULL)
	{
		snprintf(message, bytes, full ? "no memory left" : "no CUDA-capable device is detected");
		free(f);
		return full ? PP_E_NOMEM : PP_E_DEVICE;
	}
	f->base.ops = &fake_ops;
	f->base.name = "cuda:0";
	f->base.act_bytes = f->cpu->act_bytes;
	f->base.pass_tokens_max = f->cpu->pass_tokens_max;
	f->until_failure = setting("FAKE_FAIL");
	*out = &f->base;
	return PP_OK;
}

/* A link between fakes, whose memories are one. */
typedef struct fake_link
{
	pp_link base;
	fake *rank[PP_RANKS_MAX];
	uint32_t n;
	long until_failure;
} fake_link;

/* Copies what each rank has to all. */
static pp_result
link_gather(pp_link *link, const void *const *dev_own, void *const *dev_all, size_t bytes)
{
	fake_link *l = (fake_link *) (void *) link;

	if (l->until_failure > 0 && --l->until_failure == 0)
	{
		snprintf(link->message, sizeof(link->message), "unhandled system error");
		return PP_E_DEVICE;
	}
	for (uint32_t to = 0; to < l->n; to++)
		for (uint32_t from = 0; from < l->n; from++)
			memcpy((uint8_t *) dev_all[to] + from * bytes, dev_own[from], bytes);
	return PP_OK;
}

/* Waits for every rank. */
static pp_result
link_wait(pp_link *link)
{
	fake_link *l = (fake_link *) (void *) link;
	pp_result result = PP_OK;

	for (uint32_t r = 0; result == PP_OK && r < l->n; r++)
		if ((result = l->rank[r]->base.ops->sync(&l->rank[r]->base)) != PP_OK)
			memcpy(link->message, l->rank[r]->base.message, sizeof(link->message));
	return result;
}

/* Frees the link. */
static void
link_destroy(pp_link *link)
{
	free(link);
}

/* Links devices. */
pp_result
pp_cuda_link(pp_backend *const *ranks, uint32_t n_ranks, pp_link **out, char *message, size_t bytes)
{
	fake_link *l = calloc(1, sizeof(*l));

	*out = NULL;
	if (l == NULL || setting("FAKE_LINK") == 1)
	{
		snprintf(message, bytes, "a model on several cards needs NCCL");
		free(l);
		return PP_E_UNSUPPORTED;
	}
	l->base = (pp_link){.gather = link_gather, .wait = link_wait, .destroy = link_destroy};
	l->n = n_ranks;
	l->until_failure = setting("FAKE_LINK");
	for (uint32_t r = 0; r < n_ranks; r++)
		l->rank[r] = fake_of(ranks[r]);
	*out = &l->base;
	return PP_OK;
}

#endif
