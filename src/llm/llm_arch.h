/*
 * llm_arch.h: architectures as data.
 *
 * One struct describes every supported transformer; one forward for decoders and one for encoders
 * read it (llm_forward.c). It is filled from config.json or from GGUF metadata. A key whose value
 * changes the maths and is not implemented is refused by name, never ignored.
 *
 * Families: llama (Llama 2/3, Mistral, SmolLM2), qwen2, qwen3, gemma2, gemma3 (text), phi3; bert
 * (MiniLM, bge, e5, cross-encoders), xlm-roberta, modernbert. The table in design notes D4 gives
 * each one's order of operations.
 */
#ifndef LLM_ARCH_H
#define LLM_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "../../kernels/kernels.h"
#include "llm_alloc.h"
#include "llm_status.h"
#include "llm_weights.h"

#define LLM_LAYERS_MAX 512

/* The families; a bit each, so that tables of keys and names can name several. */
typedef enum llm_family
{
	LLM_FAMILY_LLAMA = 1 << 0, /* Llama 2 and 3, SmolLM2 */
	LLM_FAMILY_MISTRAL = 1 << 1,
	LLM_FAMILY_QWEN2 = 1 << 2,
	LLM_FAMILY_QWEN3 = 1 << 3,
	LLM_FAMILY_GEMMA2 = 1 << 4,
	LLM_FAMILY_GEMMA3 = 1 << 5, /* the text models */
	LLM_FAMILY_PHI3 = 1 << 6,
	LLM_FAMILY_BERT = 1 << 7,
	LLM_FAMILY_XLMR = 1 << 8,
	LLM_FAMILY_MODERNBERT = 1 << 9
} llm_family;

/* Where the norms of a layer stand. */
typedef enum llm_norm_place
{
	LLM_NORM_PRE,     /* x += f(norm(x)): llama, qwen, phi3, modernbert */
	LLM_NORM_POST,    /* x = norm(x + f(x)): bert, xlm-roberta */
	LLM_NORM_SANDWICH /* x += norm(f(norm(x))): gemma 2, 3 */
} llm_norm_place;

/* What a model is for; it follows from the architecture and the heads found in the file. */
typedef enum llm_model_kind
{
	LLM_KIND_GENERATE, /* a decoder with a language model head */
	LLM_KIND_EMBED, /* an encoder whose hidden states are pooled, or a decoder whose last is it */
	LLM_KIND_RERANK /* an encoder with a sequence classification head */
} llm_model_kind;

/* The head of a sequence classifier. */
typedef enum llm_classifier
{
	LLM_CLS_NONE,
	LLM_CLS_BERT,      /* tanh(W_pool h_cls + b) → W h + b */
	LLM_CLS_ROBERTA,   /* tanh(W_dense h_<s> + b) → W h + b */
	LLM_CLS_MODERNBERT /* norm(act(W_dense pool(h))) → W h + b */
} llm_classifier;

typedef struct llm_arch
{
	char name[32]; /* "llama", "qwen3", "bert", … */
	llm_family family;
	llm_model_kind kind;
	bool decoder;

	uint32_t n_layers;
	uint32_t d_model;
	uint32_t d_ff;
	uint32_t n_vocab; /* rows of the embedding table */
	uint32_t n_ctx;   /* longest sequence */

	/* Per layer, since windows and RoPE bases may alternate. [n_layers], in the arch's arena. */
	pp_attn *attn;
	pp_rope *rope;               /* inv_freq arrays live in the arena too */
	bool attn_norm_first_absent; /* modernbert: the attention norm of layer 0 is the identity */

	pp_norm_kind norm_kind;
	llm_norm_place norm_place;
	float norm_eps;
	bool norm_plus_one; /* gemma in safetensors: weights stored as w − 1 */
	bool qk_norm;       /* RMSNorm of each q and k head before RoPE */
	pp_act_kind act;
	bool mlp_gated;
	bool norm_bias; /* of every norm: LayerNorm with b */
	bool qkv_bias;
	bool attn_out_bias;
	bool ffn_bias; /* both matrices of the MLP */

	float embed_scale;   /* √d_model for gemma, else 1 */
	bool tied;           /* the head is the embedding table */
	float final_softcap; /* 0 = none */

	bool pos_learned;       /* a table of absolute positions is added */
	uint32_t pos_offset;    /* xlm-roberta: positions start at pad_id + 1 */
	uint32_t n_token_types; /* 0 = no such table */
	bool embed_norm;        /* a norm right after the embeddings */
	bool final_norm;

	int pooling; /* PP_POOL_… */
	bool l2_normalise;
	llm_classifier classifier;
	pp_act_kind cls_act; /* of LLM_CLS_MODERNBERT's dense layer */
	bool cls_dense_bias;
	uint32_t n_classes;
	bool score_sigmoid; /* relevance = sigmoid(logit) rather than the logit */

	llm_arena *arena; /* owns the arrays above */
} llm_arch;

/*
 * Reads the description. n_ctx is the context that is asked for, 0 = none: where the rotary
 * embedding has another form for long contexts (LongRoPE), the choice is made here, once. On
 * failure nothing is left behind. llm_arch_free is safe on a zeroed struct.
 */
llm_status llm_arch_read(llm_weights *w, uint32_t n_ctx, llm_arch *arch, llm_error *err);
void llm_arch_free(llm_arch *arch);

#endif /* LLM_ARCH_H */
