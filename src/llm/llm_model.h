/*
 * llm_model.h: a loaded model: architecture, prepared weights on a backend, tokenizer, chat family.
 *
 * Loading checks that every tensor the architecture needs is there with the shape it implies,
 * before anything is allocated for it. Immutable after load; freed by llm_model_free, which really
 * returns the memory.
 */
#ifndef LLM_MODEL_H
#define LLM_MODEL_H

#include "llm_arch.h"
#include "llm_chat.h"
#include "llm_tokenizer.h"
#include "llm_weights.h"

/* Device weights of one layer. Absent ones are NULL. Vectors are device float arrays. */
typedef struct llm_layer
{
	float *attn_norm, *attn_norm_b; /* before attention (pre, sandwich) or after it (post) */
	float *attn_post_norm;          /* sandwich only */
	float *ffn_norm, *ffn_norm_b;
	float *ffn_post_norm;
	pp_matrix *qkv; /* [(H + 2 Hkv) Dh, d] fused */
	float *qkv_bias;
	float *q_norm, *k_norm; /* [Dh] */
	pp_matrix *attn_out;    /* [d, H Dh] */
	float *attn_out_bias;
	pp_matrix *ffn_in; /* [2 F, d] gate then up when gated, else [F, d] */
	float *ffn_in_bias;
	pp_matrix *ffn_out; /* [d, F] */
	float *ffn_out_bias;
} llm_layer;

typedef struct llm_model
{
	llm_arch arch;
	llm_weights *weights;     /* owned; stays mapped */
	llm_tokenizer *tokenizer; /* owned */
	const llm_chat_family *chat;
	pp_backend *be; /* borrowed */
	pp_precision precision;

	pp_matrix *embed; /* [n_vocab, d] lookup table */
	pp_matrix *head; /* [n_vocab, d]; may be the same object as embed; NULL: nothing is generated */
	float *pos_table;  /* [n_ctx + offset, d] */
	float *type_table; /* [n_token_types, d] */
	float *embed_norm_w, *embed_norm_b;
	float *final_norm_w, *final_norm_b;
	pp_matrix *cls_dense, *cls_out;
	float *cls_dense_b, *cls_out_b, *cls_norm_w, *cls_norm_b;
	llm_layer *layers; /* [n_layers] */
	uint64_t bytes;    /* device bytes of the weights */
	uint64_t n_params;
} llm_model;

/* n_ctx: the longest context that will be used, 0 = the model's own (see llm_arch_read). */
llm_status llm_model_load(const char *path, pp_backend *be, pp_precision precision, uint32_t n_ctx,
                          llm_model **out, llm_error *err);
void llm_model_free(llm_model *m);

#endif /* LLM_MODEL_H */
