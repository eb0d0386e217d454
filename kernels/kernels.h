/*
 * kernels.h: the op table. Everything a model computes goes through it; a device is one
 * implementation.
 *
 * The CPU implements it in src/llm/llm_cpu*.c, CUDA in kernels/<op>.cu; kernels/ref holds plain C
 * references with the same contracts, in double, that tests compare both against.
 *
 * Conventions
 *	- Arrays are row-major; x[T, D] has D contiguous floats a row. "T" is the number of tokens of
 * the ragged batch: tokens of any number of segments laid end to end, with no padding anywhere
 * (prepacking, arXiv 2404.09529).
 *	- The residual stream, norm weights, biases and logits are float everywhere. What lies between
 * ops is pp_act: float on the CPU, act_bytes each on a device that holds it in a type of its own
 * (CUDA: bf16). Pointers named dev_* are device memory got from alloc(); all others are host
 * memory.
 *	- Ops run in order on the backend's one stream; only download() and sync() wait. The CPU is
 * synchronous.
 *	- Sizes may be 0: an op with nothing to do returns PP_OK. Buffers never overlap unless the op
 * says so.
 *	- Batch invariance: what an op writes for a token depends on that token's own inputs (and its
 * segment's history) only, bit for bit: never on T, on the neighbours, on the number of threads or
 * on the chunking.
 *	- An op returns PP_OK or a pp_result; pp_backend.message then says why (one line, valid until
 * the next call).
 *	- One thread drives a backend at a time.
 */
#ifndef PP_KERNELS_H
#define PP_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pp_result
{
	PP_OK = 0,
	PP_E_NOMEM = 1,       /* device or host memory is exhausted */
	PP_E_UNSUPPORTED = 2, /* this shape, type or option is not implemented by this backend */
	PP_E_DEVICE = 3       /* the device failed; a sticky error: the process must end */
} pp_result;

/* Element and block types of stored weights: the type ids of GGUF, so that a file's number is the
 * enum's. */
typedef enum pp_dtype
{
	PP_F32 = 0,
	PP_F16 = 1,
	PP_Q4_0 = 2,
	PP_Q4_1 = 3,
	PP_Q5_0 = 6,
	PP_Q5_1 = 7,
	PP_Q8_0 = 8,
	PP_Q4_K = 12,
	PP_Q5_K = 13,
	PP_Q6_K = 14,
	PP_IQ4_NL = 20,
	PP_BF16 = 30
} pp_dtype;

/*
 * How matrix products are computed.
 *
 * INT8 rotates first: each block of 64 columns (or the largest smaller power of two that divides
 * n_cols) of the weights and of the activations is multiplied by a Hadamard matrix (QuaRot, arXiv
 * 2404.00456). Without it outlier channels cost SmolLM2 3 % of perplexity, with it 0.5 %.
 *
 * On the CPU a matrix created NATIVE is a lookup table: nothing is copied, the parts' data must
 * outlive the matrix, and only embed() takes it.
 */
typedef enum pp_precision
{
	PP_PREC_F32 = 0,    /* float weights and activations: the oracle */
	PP_PREC_INT8 = 1,   /* int8 weights (a scale per row), activations quantised per token row */
	PP_PREC_NATIVE = 2, /* weights as stored: blocks stay blocks */
	PP_PREC_BF16 = 3,   /* CUDA: blocks are expanded to bf16 at load; the same bits */
	PP_PREC_FP8 = 4     /* CUDA: e4m3 weights and activations, a scale a row of either */
} pp_precision;

/*
 * How a backend of several ranks (llm_ranks.h) divides the part of a matrix; others do not look.
 * Every rank gets its share of the rows of each part, or its share of the columns of all of them.
 */
typedef enum pp_split
{
	PP_SPLIT_NONE = 0, /* every rank has all of it */
	PP_SPLIT_ROWS,     /* a rank computes its outputs: of x, which all have */
	PP_SPLIT_COLS      /* a rank's outputs are a summand of all: of its own part of x */
} pp_split;

/*
 * A weight matrix as the loader hands it over: n_rows output features, n_cols inputs, y = x Wᵀ.
 * data points into the mapped file, n_rows rows of row_bytes each, of the given block type; several
 * parts are stacked row-wise into one matrix (fused QKV, fused gate and up). Where dtype is PP_F32
 * data may be an own buffer.
 */
typedef struct pp_matrix_part
{
	const void *data;
	pp_dtype dtype;
	uint32_t n_rows;
	uint64_t row_bytes;
	pp_split split; /* the same for all parts of a matrix */
} pp_matrix_part;

typedef struct pp_matrix pp_matrix; /* opaque: a prepared weight matrix on the device */

/* An activation. Only ops look behind a pointer to it; elements are be->act_bytes apart. */
typedef float pp_act;

/* Normalisations. */
typedef enum pp_norm_kind
{
	PP_NORM_RMS = 0,  /* x / sqrt(mean(x²) + eps) · w          (arXiv 1910.07467) */
	PP_NORM_LAYER = 1 /* (x − mean) / sqrt(var + eps) · w + b  (arXiv 1607.06450) */
} pp_norm_kind;

/* Activations. The gated ones take gate[T, F] and up[T, F] side by side in one row of 2F: act(gate)
 * · up. */
typedef enum pp_act_kind
{
	PP_ACT_SILU = 0,
	PP_ACT_GELU_TANH = 1,
	PP_ACT_GELU_ERF = 2,
	PP_ACT_RELU = 3,
	PP_ACT_TANH = 4
} pp_act_kind;

/*
 * One segment of the ragged batch: n_new tokens at flat index first_token, whose sequence already
 * has n_past tokens in the KV pages. Token i of the segment goes to KV slot n_past + i; slot s
 * lives in page pages[s / page_tokens] at offset s % page_tokens.
 *
 * parent == NULL: a chain; token i sees slots 0 … n_past + i (all of the segment when the call is
 * not causal). parent != NULL: a tree (label tries, draft trees): parent[i] < i is the segment
 * index of token i's parent, or −1 when it hangs off the history; token i sees slots 0 … n_past −
 * 1, its ancestors in the segment, and itself. Its position is given in pos[], so that siblings
 * share one.
 *
 * History may be written by an earlier segment of the same pass: kv_write of all tokens precedes
 * attention.
 */
typedef struct pp_segment
{
	uint32_t first_token;
	uint32_t n_new;
	uint32_t n_past;
	const uint32_t *pages;
	const int32_t *parent;
} pp_segment;

/* The attention variant of one layer. */
typedef struct pp_attn
{
	uint32_t n_heads;    /* query heads */
	uint32_t n_kv_heads; /* key/value heads; divides n_heads (GQA, arXiv 2305.13245) */
	uint32_t d_head;     /* 8 … 256, a multiple of 8 */
	float scale;         /* multiplies q·k */
	float softcap;       /* 0 = none, else s = cap · tanh(s / cap)  (Gemma 2) */
	uint32_t window;     /* 0 = unlimited; causal: sees the last window slots, itself included;
	                      * not causal: sees |distance| <= window / 2  (ModernBERT) */
	bool causal;         /* false: bidirectional within the segment; then n_past = 0 and no pages */
} pp_attn;

/* Rotary embedding (arXiv 2104.09864) of q and k. */
typedef struct pp_rope
{
	bool enabled;
	bool interleaved; /* pairs (2i, 2i+1), as llama GGUF files store q and k; else (i, i + n_dims/2)
	                   */
	uint32_t n_dims;  /* rotated dims of each head, from its start; even, <= d_head */
	const float *inv_freq; /* [n_dims / 2] host, scaling already applied */
	float mscale;          /* multiplies cos and sin (yarn, longrope); 1 otherwise */
} pp_rope;

/*
 * What the ops between pass_begin and pass_end work on; the arrays stay until pass_end. The layers
 * are all causal (keys and values go to pages) or none is. owner tells passes over different
 * buffers apart; NULL: the pass is watched from outside (downloads between its ops), so it is not
 * to be recorded.
 */
typedef struct pp_pass
{
	const void *owner;
	uint32_t
	    max_tokens; /* what the owner's buffers hold: a recording may compute more than asked */
	uint32_t max_rows;
	const pp_attn *attn; /* [n_layers] */
	uint32_t n_layers;
	uint32_t n_tokens;
	uint32_t n_segs;
	uint32_t n_rows;
	const int32_t *tokens;
	const uint32_t *pos;
	const pp_segment *segs;
	const uint32_t *rows;
} pp_pass;

/* The highest logits of a row: see top(). */
#define PP_TOP_MAX 64u
typedef struct pp_top
{
	uint32_t n;
	float sum;
	float logit[PP_TOP_MAX];
	int32_t id[PP_TOP_MAX];
} pp_top;

typedef struct pp_memory_info
{
	uint64_t bytes_weights;
	uint64_t bytes_kv;
	uint64_t bytes_scratch;
	uint64_t bytes_free; /* of the device, 0 when unknown */
} pp_memory_info;

typedef struct pp_backend pp_backend;

/* A feed-forward block: W_out · act(W_in · x + b_in) + b_out. */
typedef struct pp_mlp
{
	const pp_matrix *in;      /* [f or 2f, d]: gate, then up, when gated */
	const pp_matrix *out;     /* [d, f] */
	const float *dev_in_bias; /* or NULL */
	const float *dev_out_bias;
	pp_act *dev_wide;   /* scratch [T, f or 2f] */
	pp_act *dev_hidden; /* scratch [T, f] */
	uint32_t f;
	pp_act_kind act;
	bool gated;
} pp_mlp;

/*
 * Memory. alloc returns NULL when exhausted; release takes what it gave. upload and download copy
 * bytes, and the caller keeps within the allocation.
 */
typedef void *(*pp_alloc_fn)(pp_backend *be, size_t bytes);
typedef void (*pp_release_fn)(pp_backend *be, void *dev);
typedef pp_result (*pp_upload_fn)(pp_backend *be, void *dev_dst, const void *src, size_t bytes);
typedef pp_result (*pp_download_fn)(pp_backend *be, void *dst, const void *dev_src, size_t bytes);
typedef pp_result (*pp_sync_fn)(pp_backend *be);
typedef void (*pp_memory_info_fn)(pp_backend *be, pp_memory_info *info);
/* Frees the backend; matrices and memory must have been freed before. */
typedef void (*pp_destroy_fn)(pp_backend *be);
/* dst[n] = activations as floats. */
typedef pp_result (*pp_download_act_fn)(pp_backend *be, float *dst, const pp_act *dev_src,
                                        size_t n);
/* out[n] = x[n] as activations. */
typedef pp_result (*pp_narrow_fn)(pp_backend *be, pp_act *dev_out, const float *dev_x, size_t n);

/*
 * A pass: the ops of one walk over the layers, which get these very arrays as arguments. A device
 * uploads them once, may record the ops at their first call, and set *replayed at a later pass of
 * the same shape: it has then run the recording, and the caller skips the ops.
 */
typedef pp_result (*pp_pass_begin_fn)(pp_backend *be, const pp_pass *pass, bool *replayed);
typedef pp_result (*pp_pass_end_fn)(pp_backend *be);

/* Prepares stacked parts as one [Σ n_rows, n_cols] matrix; NULL with be->message when it cannot. */
typedef pp_matrix *(*pp_matrix_create_fn)(pp_backend *be, const pp_matrix_part *parts,
                                          uint32_t n_parts, uint32_t n_cols,
                                          pp_precision precision);
typedef void (*pp_matrix_destroy_fn)(pp_backend *be, pp_matrix *m);

/*
 * out[T, d] = table row ids[t] · scale. ids are valid. A table made with PP_PREC_NATIVE reads its
 * parts' memory, which must stay mapped.
 */
typedef pp_result (*pp_embed_fn)(pp_backend *be, float *dev_out, const pp_matrix *table,
                                 const int32_t *ids, uint32_t n_tokens, float scale);
/* x[T, d] += table[idx[t], d]; a float table on the device (learned positions, token types). */
typedef pp_result (*pp_add_rows_fn)(pp_backend *be, float *dev_x, const float *dev_table,
                                    const uint32_t *idx, uint32_t n_tokens, uint32_t d);

/*
 * out[T, d] = norm(x) · w (+ b). When add != NULL, first x += add, written back to x (fused
 * residual). x may be NULL: out = norm(add), which may be out. w, b: device float [d], b may be
 * NULL. plus_one: the weight is stored as w − 1 (Gemma in safetensors). norm_post is the same, and
 * the norm takes the place of x: the stream of models with norms behind blocks.
 */
typedef pp_result (*pp_norm_fn)(pp_backend *be, pp_act *dev_out, float *dev_x,
                                const pp_act *dev_add, const float *dev_w, const float *dev_b,
                                uint32_t n_tokens, uint32_t d, float eps, pp_norm_kind kind,
                                bool plus_one);
/*
 * out[r] = norm(x[rows[r]] + add[rows[r]]): the rows that are wanted, in ascending order. What x
 * then holds in them is undefined.
 */
typedef pp_result (*pp_norm_rows_fn)(pp_backend *be, pp_act *dev_out, float *dev_x,
                                     const pp_act *dev_add, const float *dev_w, const float *dev_b,
                                     const uint32_t *rows, uint32_t n_rows, uint32_t d, float eps,
                                     pp_norm_kind kind, bool plus_one);
/* x[T, d] += y[T, d]. */
typedef pp_result (*pp_add_fn)(pp_backend *be, float *dev_x, const pp_act *dev_y, uint32_t n_tokens,
                               uint32_t d);

/* out[T, n_rows(W)] = x[T, n_cols(W)] Wᵀ (+ bias[n_rows] when not NULL). */
typedef pp_result (*pp_matmul_fn)(pp_backend *be, pp_act *dev_out, const pp_act *dev_x,
                                  const pp_matrix *w, const float *dev_bias, uint32_t n_tokens);
/* The same in float: what leaves the model (logits). */
typedef pp_result (*pp_matmul_float_fn)(pp_backend *be, float *dev_out, const pp_act *dev_x,
                                        const pp_matrix *w, const float *dev_bias,
                                        uint32_t n_tokens);
/*
 * Label columns: out[r, c] = x[r] · W[cols[c]] for the n_cols rows of W listed in cols; the values
 * have the very bits that matmul_float gives at those columns.
 */
typedef pp_result (*pp_matmul_columns_fn)(pp_backend *be, float *dev_out, const pp_act *dev_x,
                                          const pp_matrix *w, const uint32_t *cols, uint32_t n_cols,
                                          uint32_t n_rows);
/* out[r, d] = x[rows[r], d]. */
typedef pp_result (*pp_gather_fn)(pp_backend *be, pp_act *dev_out, const pp_act *dev_x,
                                  const uint32_t *rows, uint32_t n_rows, uint32_t d);

/*
 * out[T, F] = act(x[T, 0:F]) · x[T, F:2F] when gated, else act(x[T, F]); out may be x when not
 * gated.
 */
typedef pp_result (*pp_activate_fn)(pp_backend *be, pp_act *dev_out, const pp_act *dev_x,
                                    uint32_t n_tokens, uint32_t f, pp_act_kind act, bool gated);
/*
 * matmul, activate and matmul in one, with their very bits, for backends that gain by it; NULL in
 * others.
 */
typedef pp_result (*pp_mlp_fn)(pp_backend *be, pp_act *dev_out, const pp_act *dev_x,
                               const pp_mlp *mlp, uint32_t n_tokens);
/* x[n] = cap · tanh(x / cap). */
typedef pp_result (*pp_softcap_fn)(pp_backend *be, float *dev_x, size_t n, float cap);

/*
 * Splits qkv[T, (H + 2 Hkv) · Dh] and prepares attention: optional RMSNorm of each q and k head
 * (q_norm, k_norm: device [Dh] or NULL, eps, plus_one; Qwen3, Gemma 3), RoPE at pos[t], then q →
 * q[T, H · Dh], k and v → KV slots of their segments in the given layer (causal), or → k[T,
 * Hkv·Dh], v[T, Hkv·Dh] in scratch (not causal).
 */
typedef pp_result (*pp_qkv_prepare_fn)(pp_backend *be, pp_act *dev_q, const pp_act *dev_qkv,
                                       const uint32_t *pos, const pp_segment *segs, uint32_t n_segs,
                                       uint32_t n_tokens, uint32_t layer, const pp_attn *attn,
                                       const pp_rope *rope, const float *dev_q_norm,
                                       const float *dev_k_norm, float eps, bool plus_one);
/*
 * out[T, H · Dh] = softmax(scale · q Kᵀ, masked by segment) V; segments as above. Same call after
 * qkv_prepare.
 */
typedef pp_result (*pp_attention_fn)(pp_backend *be, pp_act *dev_out, const pp_act *dev_q,
                                     const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens,
                                     uint32_t layer, const pp_attn *attn);

/*
 * KV pages. kv_create makes one pool for a model: n_pages pages of page_tokens tokens for every
 * layer (layers may differ in shape: attn[n_layers]). PP_PREC_F32 keeps keys and values in float,
 * the others in bf16; encoders, which have no pool, go by the precision of their matrices. kv_copy
 * copies the first n_slots of page src to page dst in all layers (copy on write of a shared tail).
 * kv_move copies one slot of a sequence, whose pages are given, over another. kv_clear zeroes a
 * page before another role may own it.
 */
typedef uint32_t (*pp_kv_page_tokens_fn)(pp_backend *be);
typedef uint64_t (*pp_kv_page_bytes_fn)(pp_backend *be, const pp_attn *attn, uint32_t n_layers,
                                        pp_precision precision);
typedef pp_result (*pp_kv_create_fn)(pp_backend *be, const pp_attn *attn, uint32_t n_layers,
                                     uint32_t n_pages, pp_precision precision);
typedef void (*pp_kv_destroy_fn)(pp_backend *be);
typedef pp_result (*pp_kv_copy_fn)(pp_backend *be, uint32_t dst_page, uint32_t src_page,
                                   uint32_t n_slots);
typedef pp_result (*pp_kv_move_fn)(pp_backend *be, const uint32_t *pages, uint32_t dst_slot,
                                   uint32_t src_slot);
typedef pp_result (*pp_kv_clear_fn)(pp_backend *be, uint32_t page);

/*
 * Pooling of encoders: out[s, d] from x[T, d] of segment s: its first token, the mean of its tokens
 * in order, or its last token; l2 divides by max(‖·‖₂, 1e-12).
 */
typedef pp_result (*pp_pool_fn)(pp_backend *be, float *dev_out, const float *dev_x,
                                const pp_segment *segs, uint32_t n_segs, uint32_t d, int pooling,
                                bool l2);
/* lse[r] = ln Σ_v exp(logits[r, v]), in a fixed order. */
typedef pp_result (*pp_logsumexp_fn)(pp_backend *be, float *dev_lse, const float *dev_logits,
                                     uint32_t n_rows, uint32_t n_vocab);
/*
 * out[r] = the k (1 … PP_TOP_MAX) highest of logits[r, n_vocab], falling, the lowest id first among
 * equals. −∞ and NaN never count: n < k says that there are no more. Where scale > 0, sum = Σ
 * exp((logit − highest) · scale) over the whole row, to 3e-5 of itself; else 0.
 */
typedef pp_result (*pp_top_fn)(pp_backend *be, pp_top *dev_out, const float *dev_logits,
                               uint32_t n_rows, uint32_t n_vocab, uint32_t k, float scale);

/*
 * out[T, d] = parts[0] + parts[1] + … (+ bias[d] when not NULL), each [T, d], added in this order
 * in float: what ranks computed of one product.
 */
typedef pp_result (*pp_sum_fn)(pp_backend *be, pp_act *dev_out, const pp_act *const *dev_parts,
                               uint32_t n_parts, const float *dev_bias, uint32_t n_tokens,
                               uint32_t d);

/* The table: the ops above, in their order. Every entry but mlp is present in every backend. */
typedef struct pp_ops
{
	pp_alloc_fn alloc;
	pp_release_fn release;
	pp_upload_fn upload;
	pp_download_fn download;
	pp_sync_fn sync;
	pp_memory_info_fn memory_info;
	pp_destroy_fn destroy;
	pp_download_act_fn download_act;
	pp_narrow_fn narrow;

	pp_pass_begin_fn pass_begin;
	pp_pass_end_fn pass_end;

	pp_matrix_create_fn matrix_create;
	pp_matrix_destroy_fn matrix_destroy;
	pp_embed_fn embed;
	pp_add_rows_fn add_rows;

	pp_norm_fn norm;
	pp_norm_fn norm_post;
	pp_norm_rows_fn norm_rows;
	pp_add_fn add;

	pp_matmul_fn matmul;
	pp_matmul_float_fn matmul_float;
	pp_matmul_columns_fn matmul_columns;
	pp_gather_fn gather;

	pp_activate_fn activate;
	pp_mlp_fn mlp;
	pp_softcap_fn softcap;

	pp_qkv_prepare_fn qkv_prepare;
	pp_attention_fn attention;

	pp_kv_page_tokens_fn kv_page_tokens;
	pp_kv_page_bytes_fn kv_page_bytes;
	pp_kv_create_fn kv_create;
	pp_kv_destroy_fn kv_destroy;
	pp_kv_copy_fn kv_copy;
	pp_kv_move_fn kv_move;
	pp_kv_clear_fn kv_clear;

	pp_pool_fn pool;
	pp_logsumexp_fn logsumexp;
	pp_top_fn top;
	pp_sum_fn sum;
} pp_ops;

#define PP_RANKS_MAX 8u /* of a model */

/* Pooling kinds of pool(). */
#define PP_POOL_CLS  0
#define PP_POOL_MEAN 1
#define PP_POOL_LAST 2

struct pp_backend
{
	const pp_ops *ops;
	const char *name; /* "cpu", "cuda:0" */
	size_t act_bytes; /* of a pp_act */
	/* Beyond so many tokens a pass is not faster a token, on the fastest of these devices. */
	uint32_t pass_tokens_max;
	uint32_t n_ranks;  /* 0: one device; else so many, that share every layer (llm_ranks.h) */
	char message[256]; /* why the last call failed */
	bool any_bits;     /* set before the first op: bits may depend on the batch, for speed */
	                   /* the implementation's own state follows */
};

/*
 * A device backend is a shared object (prepack_cuda.so) with these two functions. The first returns
 * PP_ABI, by which a loader refuses one that was built for another table or other functions; the
 * second makes a backend on a device, or else says why in message: PP_E_NOMEM when the device is
 * full.
 */
#define PP_ABI (2u << 16 | (uint32_t) (sizeof(pp_ops) + sizeof(pp_backend)))
typedef uint32_t (*pp_device_abi_fn)(void);
typedef pp_result (*pp_device_create_fn)(uint32_t device, pp_backend **out, char *message,
                                         size_t bytes);

/*
 * How ranks on several cards exchange what they computed: made by pp_cuda_link of the same object,
 * over backends of it. gather: of each rank's own[bytes], all[n_ranks, bytes] on every rank, in
 * order with the ops of each. wait: until every rank has done
 * what it was asked; when one cannot, none goes on waiting for it, and that is PP_E_DEVICE.
 */
typedef struct pp_link pp_link;
struct pp_link
{
	pp_result (*gather)(pp_link *link, const void *const *dev_own, void *const *dev_all,
	                    size_t bytes);
	pp_result (*wait)(pp_link *link);
	void (*destroy)(pp_link *link); /* before the backends */
	char message[256];
};
typedef pp_result (*pp_device_link_fn)(pp_backend *const *ranks, uint32_t n_ranks, pp_link **out,
                                       char *message, size_t bytes);

/* The CPU backend with n_threads threads (0 = all cores). NULL when memory is exhausted. One KV
 * pool each. */
pp_backend *pp_cpu_create(uint32_t n_threads);
void pp_cpu_destroy(pp_backend *be);

#endif /* PP_KERNELS_H */
