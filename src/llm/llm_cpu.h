/*
 * llm_cpu.h: what the files of the CPU backend share: the backend's state, its scratch memory and
 * the ops of each file.
 *
 * The backend owns its pool of threads, the KV pool, the scratch buffers and the tables of cosines;
 * matrices belong to whoever made them. Everything runs on the thread that drives the backend and,
 * inside a region, on the pool's threads.
 */
#ifndef LLM_CPU_H
#define LLM_CPU_H

#include "llm_cpu_kernels.h"
#include "llm_thread.h"

#define LLM_CPU_PAGE     32u /* KV slots of a page: the depth of a bf16 tile */
#define LLM_CPU_N_TABLES 4u  /* different RoPE frequencies of a model */

/* Buffers that grow and stay. */
typedef enum llm_cpu_slot
{
	SCRATCH_QUANT, /* quantised activations and their scales */
	SCRATCH_KV,    /* keys and values of an encoder pass, in pages */
	SCRATCH_TREE,  /* ancestor masks of the segments of a pass */
	SCRATCH_ITEMS, /* work items of attention */
	SCRATCH_ROWS,  /* per thread buffers of attention and of the embedding */
	SCRATCH_MLP,   /* per thread buffers of a feed-forward block */
	N_SCRATCH
} llm_cpu_slot;

typedef struct llm_cpu_buffer
{
	void *data;
	size_t bytes;
} llm_cpu_buffer;

/* The shape of one layer's KV: bytes of a page, of one head in it, and where the layer starts. */
typedef struct llm_cpu_kv_layer
{
	uint32_t n_kv_heads;
	uint32_t d_pad; /* d_head, up to a multiple of 32 */
	size_t bytes_head;
	size_t bytes_page;
	size_t offset;
} llm_cpu_kv_layer;

/*
 * Pages: [layer][page][kv head][K | V]. In float K is [d][32 slots] and V is [32 slots][d]; in bf16
 * K is [d / 2][32 slots][2] and V is [16 slot pairs][d][2], so that both load as tiles.
 */
typedef struct llm_cpu_kv
{
	/* as allocated: zeroed by the kernel page by page, so unused ones cost nothing */
	void *block;
	uint8_t *data; /* in it, aligned to 64 */
	llm_cpu_kv_layer *layers;
	uint32_t n_layers;
	uint32_t n_pages;
	uint64_t bytes;
	bool bf16;
} llm_cpu_kv;

/* cos and sin of pos · inv_freq[i], [n_pos][n_half] each. */
typedef struct llm_cpu_rope_table
{
	float *inv_freq; /* a copy: the key */
	float *cos;
	float *sin;
	uint32_t n_half;
	uint32_t n_pos;
	float mscale;
} llm_cpu_rope_table;

typedef struct llm_cpu
{
	pp_backend base; /* first: ops get a pointer to it */
	llm_pool *pool;
	const llm_cpu_kernels *kernels;
	void (*matmul_i8)(const llm_i8_block *b); /* the fastest of this machine */
	llm_cpu_isa isa;
	llm_cpu_kv kv;
	llm_cpu_buffer scratch[N_SCRATCH];
	llm_cpu_rope_table tables[LLM_CPU_N_TABLES];
	uint32_t n_tables;
	uint32_t n_int8; /* matrices of that precision: without a pool, they make passes bf16 */
	uint64_t bytes_weights;
	uint64_t bytes_alloc;
} llm_cpu;

/* The backend of a table entry's first argument. */
static inline llm_cpu *
llm_cpu_of(pp_backend *be)
{
	return (llm_cpu *) (void *) be;
}

/* As pp_cpu_create, with the instruction set held at or below isa: for tests. */
pp_backend *llm_cpu_create_isa(uint32_t n_threads, llm_cpu_isa isa);
/* The best level of this machine. */
llm_cpu_isa llm_cpu_detect(void);

/* Keeps the message of a failure and returns its result. */
pp_result llm_cpu_fail(llm_cpu *cpu, pp_result result, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* A buffer of at least n · size bytes, aligned to 64; its content is lost. NULL with a message. */
void *llm_cpu_scratch(llm_cpu *cpu, llm_cpu_slot slot, uint64_t n, uint64_t size);
/* Runs fn over rows with a grain that makes a few pieces for every thread. */
void llm_cpu_rows(llm_cpu *cpu, uint32_t n_rows, size_t bytes_row, llm_pool_fn fn, void *arg);

/* llm_cpu_matmul.c, llm_cpu_weights.c */
pp_matrix *llm_cpu_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts,
                                 uint32_t n_cols, pp_precision precision);
void llm_cpu_matrix_destroy(pp_backend *be, pp_matrix *m);
pp_result llm_cpu_matmul(pp_backend *be, float *dev_out, const float *dev_x, const pp_matrix *w,
                         const float *dev_bias, uint32_t n_tokens);
pp_result llm_cpu_matmul_columns(pp_backend *be, float *dev_out, const float *dev_x,
                                 const pp_matrix *w, const uint32_t *cols, uint32_t n_cols,
                                 uint32_t n_rows);

/* llm_cpu_mlp.c */
pp_result llm_cpu_mlp(pp_backend *be, float *dev_out, const float *dev_x, const pp_mlp *mlp,
                      uint32_t n_tokens);

/* llm_cpu_rows.c: embedding, norms, activations, pooling */
pp_result llm_cpu_embed(pp_backend *be, float *dev_out, const pp_matrix *table, const int32_t *ids,
                        uint32_t n_tokens, float scale);
pp_result llm_cpu_add_rows(pp_backend *be, float *dev_x, const float *dev_table,
                           const uint32_t *idx, uint32_t n_tokens, uint32_t d);
pp_result llm_cpu_norm(pp_backend *be, float *dev_out, float *dev_x, const float *dev_add,
                       const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d,
                       float eps, pp_norm_kind kind, bool plus_one);
pp_result llm_cpu_norm_post(pp_backend *be, float *dev_out, float *dev_x, const float *dev_add,
                            const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d,
                            float eps, pp_norm_kind kind, bool plus_one);
pp_result llm_cpu_norm_rows(pp_backend *be, float *dev_out, float *dev_x, const float *dev_add,
                            const float *dev_w, const float *dev_b, const uint32_t *rows,
                            uint32_t n_rows, uint32_t d, float eps, pp_norm_kind kind,
                            bool plus_one);
pp_result llm_cpu_add(pp_backend *be, float *dev_x, const float *dev_y, uint32_t n_tokens,
                      uint32_t d);
pp_result llm_cpu_sum(pp_backend *be, float *dev_out, const float *const *dev_parts,
                      uint32_t n_parts, const float *dev_bias, uint32_t n_tokens, uint32_t d);
pp_result llm_cpu_gather(pp_backend *be, float *dev_out, const float *dev_x, const uint32_t *rows,
                         uint32_t n_rows, uint32_t d);
pp_result llm_cpu_activate(pp_backend *be, float *dev_out, const float *dev_x, uint32_t n_tokens,
                           uint32_t f, pp_act_kind act, bool gated);
pp_result llm_cpu_softcap(pp_backend *be, float *dev_x, size_t n, float cap);
pp_result llm_cpu_pool(pp_backend *be, float *dev_out, const float *dev_x, const pp_segment *segs,
                       uint32_t n_segs, uint32_t d, int pooling, bool l2);
pp_result llm_cpu_logsumexp(pp_backend *be, float *dev_lse, const float *dev_logits,
                            uint32_t n_rows, uint32_t n_vocab);

/* llm_cpu_top.c */
pp_result llm_cpu_top(pp_backend *be, pp_top *dev_out, const float *dev_logits, uint32_t n_rows,
                      uint32_t n_vocab, uint32_t k, float scale);

/* llm_cpu_kv.c */
void llm_cpu_kv_shape(const pp_attn *attn, bool bf16, llm_cpu_kv_layer *layer);
uint32_t llm_cpu_kv_page_tokens(pp_backend *be);
uint64_t llm_cpu_kv_page_bytes(pp_backend *be, const pp_attn *attn, uint32_t n_layers,
                               pp_precision precision);
pp_result llm_cpu_kv_create(pp_backend *be, const pp_attn *attn, uint32_t n_layers,
                            uint32_t n_pages, pp_precision precision);
void llm_cpu_kv_destroy(pp_backend *be);
pp_result llm_cpu_kv_copy(pp_backend *be, uint32_t dst_page, uint32_t src_page, uint32_t n_slots);
pp_result llm_cpu_kv_move(pp_backend *be, const uint32_t *pages, uint32_t dst_slot,
                          uint32_t src_slot);
pp_result llm_cpu_kv_clear(pp_backend *be, uint32_t page);

/* llm_cpu_rope.c: the table with at least n_pos positions; NULL with a message. */
const llm_cpu_rope_table *llm_cpu_rope(llm_cpu *cpu, const pp_rope *rope, uint32_t n_pos);
void llm_cpu_rope_free(llm_cpu *cpu);

/* llm_cpu_qkv.c, llm_cpu_attn.c */
pp_result llm_cpu_qkv_prepare(pp_backend *be, float *dev_q, const float *dev_qkv,
                              const uint32_t *pos, const pp_segment *segs, uint32_t n_segs,
                              uint32_t n_tokens, uint32_t layer, const pp_attn *attn,
                              const pp_rope *rope, const float *dev_q_norm, const float *dev_k_norm,
                              float eps, bool plus_one);
pp_result llm_cpu_attention(pp_backend *be, float *dev_out, const float *dev_q,
                            const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens,
                            uint32_t layer, const pp_attn *attn);

/*
 * Where the pages of a pass lie: those of the pool, or for an encoder those of the scratch buffer,
 * where each segment begins a page of its own.
 */
typedef struct llm_cpu_pages
{
	uint8_t *data; /* of the layer */
	llm_cpu_kv_layer shape;
	bool bf16;
} llm_cpu_pages;

/* Checks the shape and finds the pages of a layer. */
pp_result llm_cpu_pages_of(llm_cpu *cpu, uint32_t layer, const pp_attn *attn,
                           const pp_segment *segs, uint32_t n_segs, llm_cpu_pages *out);

/* The K part of a head in a page; V follows after bytes_head / 2. */
static inline uint8_t *
llm_cpu_page(const llm_cpu_pages *p, uint32_t page, uint32_t head)
{
	return p->data + page * p->shape.bytes_page + head * p->shape.bytes_head;
}

#endif /* LLM_CPU_H */
