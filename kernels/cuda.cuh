/*
 * cuda.cuh: what the files of the CUDA backend share: its state, the plan of a pass, the launchers.
 *
 * Types. Activations (pp_act) are bf16, the residual stream, norm weights, biases and logits are
 * float; every sum is float. Weights are multiplied in bf16; those of quantised files stay in tiles
 * of 4 or 8 bits (quant.cuh).
 *
 * KV pages. One allocation, layer after layer; a layer is [page][K, V][kv head][slot][d_head] bf16
 * with PP_CUDA_PAGE slots: the 64 × d_head keys of a head in a page are one dense block, which is a
 * tile for cp.async, a box for the bulk copy engine and an operand for wgmma. An encoder's keys and
 * values have no pages: [T, n_kv_heads, d_head] each, in scratch.
 *
 * A pass is planned once on the host (plan.cu) and uploaded in one copy; kernels of all layers read
 * the same plan. Whatever changes from pass to pass stands in it, in device memory, so that the
 * launches of a pass can be captured in a graph and replayed for another one: grids are sized by
 * the bounds in pp_cuda_plan, and kernels read the real counts from the device.
 *
 * Errors. A launch is followed by cuda_check; the first failure sticks in pp_cuda.failed and every
 * later op returns PP_E_DEVICE. Nothing here exits or prints. One thread drives a backend.
 */
#ifndef PP_CUDA_CUH
#define PP_CUDA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdarg.h>
#include <new>

#include "kernels.h"

#define PP_CUDA_PAGE     64u   /* KV slots of a page */
#define PP_CUDA_D_HEAD   256u  /* the largest head */
#define PP_CUDA_TREE_MAX 4096u /* tokens of the largest tree */
#define PP_CUDA_NONE     UINT32_MAX

typedef __nv_bfloat16 bf16;

struct pp_cuda;

/*
 * One segment on the device: tokens of a chain, then those of a tree that hangs off its end. Most
 * have one of the two alone; the plan joins a prompt and its label trie for attention. Token i of
 * the tree sees the history, the chain, and of the tree the tokens j of which bit j is set in row i
 * of its kin: itself and its ancestors.
 */
struct cuda_seg
{
	uint32_t first_token;
	uint32_t n_new;
	uint32_t n_past;
	uint32_t page0;   /* its first page is cuda_plan.words[page0]; slot s is in page0 + s / 64 */
	uint32_t n_chain; /* tokens before the tree; n_new: no tree */
	uint32_t kin0;    /* row 0 of the kin, at cuda_plan.words[kin0]; cuda_kin_words(tree) a row */
};

/* Words of 32 bits that say who of n tokens of a tree is kin to one of them. */
static inline __host__ __device__ uint32_t
cuda_kin_words(uint32_t n)
{
	return (n + 31) / 32;
}

/* Fills the kin of a tree: n rows; parents stand before their children. */
static inline void
cuda_kin_fill(uint32_t *kin, const int32_t *parent, uint32_t n)
{
	const uint32_t n_words = cuda_kin_words(n);

	for (uint32_t i = 0; i < n; i++)
	{
		uint32_t *row = kin + (size_t) i * n_words;
		const uint32_t *up = kin + (size_t) (parent[i] >= 0 ? parent[i] : 0) * n_words;

		for (uint32_t w = 0; w < n_words; w++)
			row[w] = parent[i] >= 0 ? up[w] : 0;
		row[i / 32] |= 1u << (i % 32);
	}
}

/*
 * One piece of attention, for every head: queries [q0, q0 + n_q) of a segment over the keys
 * [k0, k1) of it. The lists are made by the planners of the attention kernels.
 */
struct cuda_item
{
	uint32_t seg;
	uint32_t q0;
	uint32_t n_q;
	uint32_t k0;
	uint32_t k1;
	uint32_t partial; /* where its partial result goes when the keys are split, or PP_CUDA_NONE */
};

/* The real counts of a pass, at the start of its plan: kernels read them, grids do not. */
struct cuda_counts
{
	uint32_t n_tokens;
	uint32_t n_segs;
	uint32_t n_rows;    /* rows asked for */
	uint32_t n_prefill; /* items of the three lists */
	uint32_t n_decode;
	uint32_t n_simple;
	uint32_t n_merge; /* queries whose keys were split */
};

/* The plan of a pass: device pointers, and the bounds that grids are sized by. */
struct cuda_plan
{
	const cuda_counts *counts;
	const int32_t *tokens;     /* [T] */
	const uint32_t *pos;       /* [T] */
	const uint32_t *token_seg; /* [T] segment of each token; PP_CUDA_NONE behind the last */
	const uint32_t *token_kv;  /* [T] page · 64 + slot where the token's k and v go (causal) */
	const uint32_t *rows;      /* [n_rows] */
	const cuda_seg *segs;
	const uint32_t *words;    /* pages and kin of all segments */
	const cuda_item *prefill; /* by attention_prefill.cu */
	const cuda_item *decode;  /* few tokens, by attention_decode.cu */
	const cuda_item *simple;  /* odd head sizes, by attention_simple.cu */
	const cuda_item *merge;   /* one for each split query block: k0, k1 = its range of partials */
	uint32_t max_tokens;      /* bounds: at least the counts; those of the bucket in a graph */
	uint32_t max_rows;
	uint32_t max_prefill;
	uint32_t max_decode;
	uint32_t max_simple;
	uint32_t max_merge;
};

/* What an attention launcher gets: one layer. */
struct cuda_attention
{
	bf16 *out;        /* [T, n_heads, d_head] */
	const bf16 *q;    /* [T, n_heads, d_head], rotated, not scaled */
	const bf16 *kv;   /* causal: the layer's pages; else NULL */
	uint32_t n_pages; /* of the pool, for tensor maps */
	const bf16 *k;    /* not causal: [T, n_kv_heads, d_head]; else NULL */
	const bf16 *v;
	pp_attn attn;   /* n_heads, n_kv_heads, d_head, scale, softcap, window, causal */
	float *partial; /* scratch for split keys: see cuda_attention_partial_floats */
};

/* --- attention: the launchers, each reads its own list of the plan ----------------------- */

/* Whether a kernel takes this shape on this card; the planners ask before they use a list. */
bool cuda_prefill_takes(const pp_cuda *cu, const pp_attn *attn);
bool cuda_decode_takes(const pp_cuda *cu, const pp_attn *attn);

/*
 * Whether the tensor core kernels take a tree in a layer: they know who is kin, not how far away;
 * so no window may end inside the tree.
 */
static inline bool
cuda_tree_takes(const pp_attn *attn, uint32_t n_nodes)
{
	return attn->causal && (attn->window == 0 || attn->window >= n_nodes);
}
/*
 * Whether a tree behind a chain is best computed in the tiles of the chain: in those of the
 * largest kernel it must not cost one more.
 */
bool cuda_prefill_joins(const pp_attn *attn, uint32_t n_chain, uint32_t n_tree);

/*
 * Host: appends the items of one segment to a list with room for max; returns how many it wrote.
 * Called once a pass and segment with the shape of layer 0; the items must serve every layer that
 * differs in window, softcap and head counts alone. What an item holds for a segment may depend on
 * that segment only. Order by falling cost is the caller's.
 */
uint32_t cuda_prefill_plan(cuda_item *items, uint32_t max, uint32_t seg, const pp_segment *s,
                           bool causal);
uint32_t cuda_decode_plan(cuda_item *items, uint32_t max, uint32_t seg, const pp_segment *s);
/* The most items that n_tokens new tokens in n_segs segments of at most n_ctx slots can make. */
uint32_t cuda_prefill_items_max(uint32_t n_tokens, uint32_t n_segs);
uint32_t cuda_decode_items_max(uint32_t n_segs, uint32_t n_ctx);
/* Floats of cuda_attention.partial that the prefill list needs, whatever its length. */
size_t cuda_prefill_partial_floats(const pp_cuda *cu, const pp_attn *attn);
/* Floats of cuda_attention.partial that n_items decode items need, for any head. */
size_t cuda_decode_partial_floats(uint32_t n_items, uint32_t n_heads, uint32_t d_head);

/*
 * Segments of up to so many new tokens go to the decode list. Which list a query came by
 * must not show in its bits: both kernels walk the keys in the same steps.
 */
#define PP_CUDA_DECODE_MAX 8u

/* Launch on cu->stream; return what cudaGetLastError said. Grids by the plan's bounds. */
cudaError_t cuda_attention_prefill(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);
cudaError_t cuda_attention_decode(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);
cudaError_t cuda_attention_simple(pp_cuda *cu, const cuda_plan *plan, const cuda_attention *a);

/* --- the state ---------------------------------------------------------------------------- */

/* Scratch that grows to the largest pass and then stays. Growing drops all recordings. */
enum cuda_slot
{
	CUDA_SCRATCH_PLAN,    /* the plan of the pass */
	CUDA_SCRATCH_KV,      /* keys and values of an encoder pass */
	CUDA_SCRATCH_PARTIAL, /* partial results of split keys */
	CUDA_SCRATCH_INDEX,   /* index lists that come with an op */
	CUDA_SCRATCH_BLAS,    /* what cuBLASLt works in */
	CUDA_SCRATCH_EXPAND,  /* a quantised matrix in bf16, for the product that comes next */
	CUDA_SCRATCH_FP8, /* activations in e4m3 and their scales, for the product that comes next */
	CUDA_N_SCRATCH
};

struct cuda_buffer
{
	void *data;
	size_t bytes;
};

/* A layer of the pool for kernels, in elements. */
struct cuda_kv_layer
{
	size_t offset;
	size_t page;
	uint32_t n_kv_heads;
	uint32_t d_head;
};

/* The KV pool: element offset of each layer. */
struct cuda_kv
{
	cuda_kv_layer *layers; /* on the device */
	uint32_t max_heads;
	bf16 *data;
	size_t *offset;
	pp_attn *attn;
	uint32_t n_layers;
	uint32_t n_pages;
	uint64_t bytes;
};

/* Frequencies of a rotary embedding on the device; values is the key. */
struct cuda_rope
{
	float values[PP_CUDA_D_HEAD / 2];
	float *dev;
	uint32_t n;
};

#define CUDA_N_ROPES  8u
#define CUDA_N_GRAPHS 128u

/* What two passes must have in common to share a recording: the owner and all bounds. */
struct cuda_graph_key
{
	const void *owner;
	uint32_t max_tokens;
	uint32_t max_rows;
	uint32_t max_segs;
	uint32_t max_prefill;
	uint32_t max_decode;
	uint32_t max_simple;
	uint32_t max_merge;
};

struct cuda_graph
{
	cuda_graph_key key;
	bool seen;            /* run once: to be recorded when it comes again */
	cudaGraphExec_t exec; /* NULL until it is recorded */
};

struct cuda_blas; /* matmul.cu: handle and chosen algorithms */

struct pp_cuda
{
	pp_backend base; /* first: ops get a pointer to it */
	char name[32];
	int device;
	int n_sms;
	int arch;    /* 10 · major + minor: 80, 89, 90, 100 */
	bool failed; /* a sticky error: the process must end */
	cudaStream_t stream;
	cuda_buffer scratch[CUDA_N_SCRATCH];
	cuda_buffer pinned;         /* host: the plan as it is built */
	cudaEvent_t planned;        /* the last copy out of pinned */
	cuda_buffer pinned_out;     /* host: small downloads */
	cuda_buffer pinned_load[2]; /* host: pieces of weights on their way */
	cudaEvent_t load_sent[2];   /* the last copy out of each */
	uint32_t i_load;            /* whose turn it is */
	cuda_blas *blas;
	cuda_kv kv;
	cuda_rope ropes[CUDA_N_ROPES];
	uint32_t n_ropes;
	uint64_t bytes_weights;
	uint64_t bytes_alloc;
	/* the pass */
	pp_pass pass;
	cuda_plan plan;
	bool in_pass;
	bool recording;
	bool record_failed; /* an op of the recorded pass failed: the recording is worth nothing */
	bool no_graphs;     /* for tests and benchmarks */
	cuda_graph graphs[CUDA_N_GRAPHS];
	uint32_t n_graphs;
	uint32_t i_graph; /* of the pass that is recorded */
};

/*
 * The backend of a table entry's first argument, and its card as that of this thread: one thread
 * may drive several cards by turns, and launches go to the one that is set.
 */
static inline pp_cuda *
cuda_of(pp_backend *be)
{
	pp_cuda *cu = (pp_cuda *) be;

	cudaSetDevice(cu->device);
	return cu;
}

/* Keeps the message of a failure and returns its result. */
pp_result cuda_fail(pp_cuda *cu, pp_result result, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* PP_OK, or the failure that a call of the runtime reported; what is sticky stays. */
pp_result cuda_check(pp_cuda *cu, cudaError_t error, const char *what);
/* The same of the launches since the last check. */
pp_result cuda_launched(pp_cuda *cu, const char *what);
/* A buffer of at least that many bytes, content lost. NULL with a message. */
void *cuda_scratch(pp_cuda *cu, cuda_slot slot, size_t bytes);
/* The same in pinned host memory; only grows. */
bool cuda_pinned(pp_cuda *cu, cuda_buffer *b, size_t bytes);
/* Copies an index list of an op to the device; what stands in the plan already is not copied. */
const uint32_t *cuda_index(pp_cuda *cu, const uint32_t *index, uint32_t n);
/* Rows to launch for an op on n tokens or n rows of the pass: the bound while recording. */
uint32_t cuda_bound_tokens(const pp_cuda *cu, uint32_t n);
uint32_t cuda_bound_rows(const pp_cuda *cu, uint32_t n);

/* An activation pointer as what it is here. */
static inline bf16 *
cuda_act(pp_act *x)
{
	return (bf16 *) x;
}

/* The same of one that is only read. */
static inline const bf16 *
cuda_act(const pp_act *x)
{
	return (const bf16 *) x;
}

/* --- ops, by file -------------------------------------------------------------------------- */

/* plan.cu */
pp_result cuda_pass_begin(pp_backend *be, const pp_pass *pass, bool *replayed);
pp_result cuda_pass_end(pp_backend *be);
void cuda_graphs_drop(pp_cuda *cu);

/* weights.cu */
struct pp_matrix
{
	uint32_t n_rows;
	uint32_t n_cols;
	uint32_t bits;  /* of a weight: 16 in data; 4 or 8 in tiles; 8 in fp8 */
	bf16 *data;     /* [n_rows, n_cols], or NULL */
	uint8_t *tiles; /* quant.cuh, or NULL */
	uint8_t *forms; /* of the scales of each row */
	uint8_t *fp8;   /* [n_rows, n_cols] e4m3, or NULL */
	float *scale;   /* of each row of fp8 */
	size_t bytes;
	const float *bias; /* whose copy in bf16 is: */
	bf16 *bias16;
};
pp_matrix *cuda_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts,
                              uint32_t n_cols, pp_precision precision);
void cuda_matrix_destroy(pp_backend *be, pp_matrix *m);

/* matmul.cu, matmul_skinny.cu */
#define CUDA_SKINNY_MAX 64u /* tokens of one skinny product */
pp_result cuda_blas_create(pp_cuda *cu);
void cuda_blas_destroy(pp_cuda *cu);
/* Whether cuBLASLt multiplies this matrix, which is known before its weights are there. */
pp_result cuda_matmul_takes(pp_cuda *cu, const pp_matrix *w);
pp_result cuda_mlp(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const pp_mlp *mlp,
                   uint32_t n_tokens);
pp_result cuda_matmul(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const pp_matrix *w,
                      const float *dev_bias, uint32_t n_tokens);
pp_result cuda_matmul_float(pp_backend *be, float *dev_out, const pp_act *dev_x, const pp_matrix *w,
                            const float *dev_bias, uint32_t n_tokens);
pp_result cuda_matmul_columns(pp_backend *be, float *dev_out, const pp_act *dev_x,
                              const pp_matrix *w, const uint32_t *cols, uint32_t n_cols,
                              uint32_t n_rows);
/* out[T, n_rows] = x Wᵀ + bias for at most CUDA_SKINNY_MAX tokens; rows of W by list unless NULL.
 */
cudaError_t cuda_skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w,
                        const bf16 *bias16, uint32_t n_tokens);
cudaError_t cuda_skinny_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w,
                              const float *bias, const uint32_t *cols, uint32_t n_cols,
                              uint32_t n_tokens);
/* Whether the shape fits: columns in whole 16-byte pieces. */
bool cuda_skinny_takes(const pp_matrix *w);

/* matmul_stream.cu: the same bits, faster where there is a bulk copy engine */
bool cuda_stream_takes(const pp_cuda *cu);
struct few_args; /* matmul_few.cuh */
cudaError_t cuda_stream(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w);
/* out[T, F] = act(x W[0:F]ᵀ) · x W[F:2F]ᵀ, with the bits of the product and activate.cu. */
cudaError_t cuda_stream_gated(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w,
                              pp_act_kind act, uint32_t n_tokens);

/* quant.cu: src is on the device, rows of blocks row_bytes apart */
size_t cuda_quant_bytes(uint32_t n_rows, uint32_t n_cols, uint32_t bits);
cudaError_t cuda_quant_pack(pp_cuda *cu, pp_matrix *m, uint32_t row0, const uint8_t *src,
                            pp_dtype type, uint32_t n_rows, size_t row_bytes);
cudaError_t cuda_quant_expand(pp_cuda *cu, bf16 *out, const pp_matrix *m);
cudaError_t cuda_quant_embed(pp_cuda *cu, float *out, const pp_matrix *m, const int32_t *ids,
                             uint32_t n_tokens, float scale);

/* fp8.cu: x[n_rows, n_cols] as e4m3 with a scale a row */
cudaError_t cuda_fp8_rows(pp_cuda *cu, uint8_t *out, float *scale, const bf16 *x, uint32_t n_rows,
                          uint32_t n_cols);

/*
 * matmul_quant.cu: as cuda_skinny, with its bits; the most tokens of a product, of all rows or
 * listed
 */
uint32_t cuda_quant_max(const pp_cuda *cu, bool listed);
cudaError_t cuda_quant_skinny(pp_cuda *cu, bf16 *out, const bf16 *x, const pp_matrix *w,
                              const bf16 *bias16, uint32_t n_tokens);
cudaError_t cuda_quant_skinny_float(pp_cuda *cu, float *out, const bf16 *x, const pp_matrix *w,
                                    const float *bias, const uint32_t *cols, uint32_t n_cols,
                                    uint32_t n_tokens);

/* matmul_quant_stream.cu: all rows, where bulk_takes (bulk_copy.cuh) */
cudaError_t cuda_quant_stream(pp_cuda *cu, const few_args *few, const bf16 *x, const pp_matrix *w);

/* rows.cu */
pp_result cuda_embed(pp_backend *be, float *dev_out, const pp_matrix *table, const int32_t *ids,
                     uint32_t n_tokens, float scale);
pp_result cuda_add_rows(pp_backend *be, float *dev_x, const float *dev_table, const uint32_t *idx,
                        uint32_t n_tokens, uint32_t d);
pp_result cuda_add(pp_backend *be, float *dev_x, const pp_act *dev_y, uint32_t n_tokens,
                   uint32_t d);
pp_result cuda_narrow(pp_backend *be, pp_act *dev_out, const float *dev_x, size_t n);
pp_result cuda_gather(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const uint32_t *rows,
                      uint32_t n_rows, uint32_t d);
pp_result cuda_sum(pp_backend *be, pp_act *dev_out, const pp_act *const *dev_parts,
                   uint32_t n_parts, const float *dev_bias, uint32_t n_tokens, uint32_t d);

/* norm.cu */
pp_result cuda_norm(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
                    const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d,
                    float eps, pp_norm_kind kind, bool plus_one);
pp_result cuda_norm_post(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
                         const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d,
                         float eps, pp_norm_kind kind, bool plus_one);
pp_result cuda_norm_rows(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
                         const float *dev_w, const float *dev_b, const uint32_t *rows,
                         uint32_t n_rows, uint32_t d, float eps, pp_norm_kind kind, bool plus_one);

/* activate.cu */
pp_result cuda_activate(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, uint32_t n_tokens,
                        uint32_t f, pp_act_kind act, bool gated);
pp_result cuda_softcap(pp_backend *be, float *dev_x, size_t n, float cap);

/* qkv.cu, attention.cu */
pp_result cuda_qkv_prepare(pp_backend *be, pp_act *dev_q, const pp_act *dev_qkv,
                           const uint32_t *pos, const pp_segment *segs, uint32_t n_segs,
                           uint32_t n_tokens, uint32_t layer, const pp_attn *attn,
                           const pp_rope *rope, const float *dev_q_norm, const float *dev_k_norm,
                           float eps, bool plus_one);
pp_result cuda_attention_op(pp_backend *be, pp_act *dev_out, const pp_act *dev_q,
                            const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens,
                            uint32_t layer, const pp_attn *attn);
/* Where the keys and values of a layer are in this pass; a failure has its message. */
pp_result cuda_kv_of(pp_cuda *cu, uint32_t layer, const pp_attn *attn, uint32_t n_tokens,
                     cuda_attention *a);
/* Heads that the kernels take. */
pp_result cuda_attn_supported(pp_cuda *cu, const pp_attn *attn);

/* kv.cu */
uint32_t cuda_kv_page_tokens(pp_backend *be);
uint64_t cuda_kv_page_bytes(pp_backend *be, const pp_attn *attn, uint32_t n_layers,
                            pp_precision precision);
pp_result cuda_kv_create(pp_backend *be, const pp_attn *attn, uint32_t n_layers, uint32_t n_pages,
                         pp_precision precision);
void cuda_kv_destroy(pp_backend *be);
pp_result cuda_kv_copy(pp_backend *be, uint32_t dst_page, uint32_t src_page, uint32_t n_slots);
pp_result cuda_kv_move(pp_backend *be, const uint32_t *pages, uint32_t dst_slot, uint32_t src_slot);
pp_result cuda_kv_clear(pp_backend *be, uint32_t page);

/* pool.cu */
pp_result cuda_pool(pp_backend *be, float *dev_out, const float *dev_x, const pp_segment *segs,
                    uint32_t n_segs, uint32_t d, int pooling, bool l2);
pp_result cuda_logsumexp(pp_backend *be, float *dev_lse, const float *dev_logits, uint32_t n_rows,
                         uint32_t n_vocab);

/* top.cu */
pp_result cuda_top(pp_backend *be, pp_top *dev_out, const float *dev_logits, uint32_t n_rows,
                   uint32_t n_vocab, uint32_t k, float scale);

/* --- launching -------------------------------------------------------------------------------- */

/*
 * A kernel that is launched by cuda_launch comes onto the card while the one before it still runs.
 * On Hopper and later this hides the gap between two kernels; before, these are nothing, and
 * neither are they after a plain launch. cuda_let_next: the next one may come. cuda_wait_before:
 * the one before has ended, and its writes are seen; nothing it wrote may be read, and nothing it
 * read may be written, before.
 */
static inline __device__ void
cuda_let_next()
{
#if __CUDA_ARCH__ >= 900
	cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* See above. */
static inline __device__ void
cuda_wait_before()
{
#if __CUDA_ARCH__ >= 900
	cudaGridDependencySynchronize();
#endif
}

/* What most kernels begin with. */
static inline __device__ void
cuda_begin()
{
	cuda_let_next();
	cuda_wait_before();
}

#ifndef PP_CUDA_LAUNCH /* kernels compiled for the CPU bring their own */
/* Launches a kernel that calls cuda_begin, overlapping the end of the one before. */
template <typename... Params, typename... Args>
static inline cudaError_t
cuda_launch(const pp_cuda *cu, void (*kernel)(Params...), dim3 grid, uint32_t threads,
            size_t bytes_shared, Args... args)
{
	cudaLaunchConfig_t config = {};
	cudaLaunchAttribute attribute = {};

	config.gridDim = grid;
	config.blockDim = threads;
	config.dynamicSmemBytes = bytes_shared;
	config.stream = cu->stream;
	attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attribute.val.programmaticStreamSerializationAllowed = 1;
	config.attrs = &attribute;
	config.numAttrs = cu->arch >= 90 ? 1 : 0;
	return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}
#endif

/* --- small device functions that several kernels share ---------------------------------------- */

/* The sum over a block of n_warps warps, in a fixed order, for every thread. shared: [33]. */
static inline __device__ float
cuda_block_sum(float value, float *shared)
{
	const uint32_t lane = threadIdx.x % 32;
	const uint32_t n_warps = (blockDim.x + 31) / 32;
	float sum = 0.0f;

	for (int step = 16; step > 0; step /= 2)
		value += __shfl_xor_sync(0xffffffffu, value, step);
	__syncthreads(); /* what the last sum left in shared has been read */
	if (lane == 0)
		shared[threadIdx.x / 32] = value;
	__syncthreads();
	for (uint32_t i = 0; i < n_warps; i++)
		sum += shared[i];
	return sum;
}

/* Elements between a page and the next, and from K to V in it, of a layer with this shape. */
static inline __host__ __device__ size_t
cuda_page_elems(uint32_t n_kv_heads, uint32_t d_head)
{
	return (size_t) 2 * n_kv_heads * PP_CUDA_PAGE * d_head;
}

/* The dense [64, d_head] block of keys (v = 0) or values (v = 1) of a head in a page. */
static inline __host__ __device__ size_t
cuda_kv_at(const uint32_t n_kv_heads, uint32_t d_head, uint32_t page, uint32_t v, uint32_t head)
{
	return (((size_t) page * 2 + v) * n_kv_heads + head) * PP_CUDA_PAGE * d_head;
}

#endif /* PP_CUDA_CUH */
