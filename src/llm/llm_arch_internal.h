/*
 * llm_arch_internal.h: what the readers of config.json and of GGUF metadata share.
 *
 * Both formats are read through one arch_reader, whose getters look a key up in whichever source it
 * has. The first failure sticks: later getters return harmless defaults, so that a reader is a
 * straight list of assignments and the status is looked at once, at its end.
 */
#ifndef LLM_ARCH_INTERNAL_H
#define LLM_ARCH_INTERNAL_H

#include "llm_arch.h"

#define ARCH_DECODERS \
	(LLM_FAMILY_LLAMA | LLM_FAMILY_MISTRAL | LLM_FAMILY_QWEN2 | LLM_FAMILY_QWEN3 | \
	 LLM_FAMILY_GEMMA2 | LLM_FAMILY_GEMMA3 | LLM_FAMILY_PHI3)
#define ARCH_GEMMAS   (LLM_FAMILY_GEMMA2 | LLM_FAMILY_GEMMA3)
#define ARCH_BERTS    (LLM_FAMILY_BERT | LLM_FAMILY_XLMR)
#define ARCH_ENCODERS (ARCH_BERTS | LLM_FAMILY_MODERNBERT)
#define ARCH_ALL      (ARCH_DECODERS | ARCH_ENCODERS)

/* What a family has whatever its configuration says. */
typedef struct arch_family
{
	llm_family family;
	const char *hf_type; /* model_type of config.json */
	const char *gguf;    /* general.architecture; NULL: no such files */
	pp_norm_kind norm_kind;
	llm_norm_place norm_place;
	pp_act_kind act; /* where the configuration names none */
	double theta;    /* RoPE base where the configuration names none */
	double norm_eps; /* the same for the norms' epsilon */
	bool mlp_gated;
	bool qk_norm;
	bool qkv_bias;
	bool gguf_interleaved; /* the converter reorders q and k into adjacent pairs */
} arch_family;

const arch_family *arch_family_of_hf(const char *model_type);
const arch_family *arch_family_of_gguf(const char *architecture);

typedef struct arch_reader
{
	llm_weights *w;
	const arch_family *family;
	const llm_json *root; /* of config.json; NULL for GGUF */
	uint32_t n_ctx;       /* the context asked for; 0 = the model's own */
	llm_arch *arch;
	llm_error *err;
	llm_status status; /* the first failure */
} arch_reader;

/* Records a failure unless there is one already. */
void arch_fail(arch_reader *r, llm_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * The getters. A key of GGUF is given without its "<architecture>." prefix. Absent (or JSON null):
 * the default; of another kind or out of range: a failure. arch_need_u32 wants the key there and 1
 * … max.
 */
bool arch_has(const arch_reader *r, const char *key);
uint32_t arch_need_u32(arch_reader *r, const char *key, uint32_t max);
uint32_t arch_get_u32(arch_reader *r, const char *key, uint32_t absent);
double arch_get_double(arch_reader *r, const char *key, double absent);
bool arch_get_bool(arch_reader *r, const char *key, bool absent);
const char *arch_get_string(arch_reader *r, const char *key, const char *absent);

/* RoPE scaling, as the papers and the reference implementations know it. */
typedef enum arch_scaling
{
	ARCH_SCALING_NONE,
	ARCH_SCALING_LINEAR,  /* positions divided by factor (arXiv 2306.15595) */
	ARCH_SCALING_LLAMA3,  /* low frequencies divided, high ones kept, a ramp between */
	ARCH_SCALING_YARN,    /* "NTK by parts" and a temperature (arXiv 2309.00071) */
	ARCH_SCALING_LONGROPE /* a divisor per dimension (arXiv 2402.13753) */
} arch_scaling;

typedef struct arch_rope
{
	arch_scaling scaling;
	double theta;
	uint32_t n_dims;
	double factor;
	double n_ctx_orig;             /* context of the pretraining */
	double low_freq, high_freq;    /* llama3 */
	double beta_fast, beta_slow;   /* yarn */
	double mscale, mscale_all_dim; /* yarn; 0 = not given */
	double attention_factor;       /* yarn, longrope; 0 = derive it */
	bool truncate;                 /* yarn: the ramp's ends are whole numbers */
	float *divisors;               /* [n_dims / 2] or NULL: longrope's factors, rope_freqs */
} arch_rope;

/* Neutral values for a head of n_dims rotated dims. */
void arch_rope_init(arch_rope *rope, double theta, uint32_t n_dims);
/*
 * LongRoPE: are the long factors the ones? They are when the context asked for is beyond the one of
 * the pretraining; otherwise the context ends there.
 */
bool arch_rope_is_long(const arch_reader *r, const arch_rope *rope);
/* Computes the frequencies into the arch's arena. Fails through r. */
void arch_rope_build(arch_reader *r, const arch_rope *rope, bool interleaved, pp_rope *out);

/* Fills in what the family fixes; allocates the per-layer arrays once n_layers is known. */
void arch_begin(arch_reader *r);
/* Sets every layer to one attention shape, then checks what all formats must obey. */
void arch_set_heads(arch_reader *r, uint32_t n_heads, uint32_t n_kv_heads, uint32_t d_head);
void arch_check(arch_reader *r);

/* The readers: everything but the pooling of sentence-transformers folders, which arch_read_pooling
 * adds. */
void arch_read_hf(arch_reader *r);
void arch_read_hf_pooling(arch_reader *r);
/* Makes a decoder whose folder has modules.json an embedder. */
void arch_read_hf_embedder(arch_reader *r);
void arch_read_gguf(arch_reader *r);
/* Refuses keys of config.json that are neither read nor known to leave the maths alone. */
void arch_check_hf_keys(arch_reader *r);
/* The same for GGUF metadata under "<architecture>.". */
void arch_check_gguf_keys(arch_reader *r);

/* The activation of a Hugging Face name. */
bool arch_act_of_name(const char *name, pp_act_kind *out);

#endif /* LLM_ARCH_INTERNAL_H */
