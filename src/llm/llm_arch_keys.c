/*
 * llm_arch_keys.c: which configuration keys are understood, so that every other one is refused by
 * name.
 *
 * A key nobody knows may change the maths (a new scaling, a gate, a mixture of experts), and a
 * model computed without it gives plausible nonsense. So the rule is an allow-list: a key is read
 * somewhere, or known to be inert (training, generation defaults, bookkeeping), or else its value
 * must be null, false or empty, which is how configurations spell "not used". The price is that a
 * harmless new key stops a load until the list has it; the message names the key, and deleting it
 * from config.json is the way around.
 */
#include <string.h>

#include "llm_arch_internal.h"

typedef struct known_key
{
	const char *key;
	uint32_t families;
} known_key;

/*
 * Keys that llm_arch_hf.c and llm_arch_pool.c read, with the families whose classes look at them. A
 * key of another family is not read, hence refused: "sliding_window" in a llama file would have no
 * effect in the reference either, but whoever wrote it meant something by it.
 */
static const known_key hf_read[] = {
    {"model_type", ARCH_ALL},
    {"architectures", ARCH_ALL},
    {"hidden_size", ARCH_ALL},
    {"intermediate_size", ARCH_ALL},
    {"vocab_size", ARCH_ALL},
    {"max_position_embeddings", ARCH_ALL},
    {"num_hidden_layers", ARCH_ALL},
    {"num_attention_heads", ARCH_ALL},
    {"num_key_value_heads", ARCH_DECODERS},
    {"head_dim", ARCH_DECODERS & ~LLM_FAMILY_PHI3},
    {"hidden_act", (ARCH_DECODERS & ~ARCH_GEMMAS) | ARCH_BERTS},
    {"hidden_activation", ARCH_GEMMAS | LLM_FAMILY_MODERNBERT},
    {"rms_norm_eps", ARCH_DECODERS},
    {"layer_norm_eps", ARCH_BERTS},
    {"norm_eps", LLM_FAMILY_MODERNBERT},
    {"norm_bias", LLM_FAMILY_MODERNBERT},
    {"tie_word_embeddings", ARCH_ALL},
    {"attention_bias", LLM_FAMILY_LLAMA | LLM_FAMILY_QWEN3 | ARCH_GEMMAS | LLM_FAMILY_MODERNBERT},
    {"mlp_bias", LLM_FAMILY_LLAMA | LLM_FAMILY_MODERNBERT},
    {"rope_theta", ARCH_DECODERS},
    {"rope_scaling", ARCH_DECODERS},
    {"rope_parameters", ARCH_DECODERS | LLM_FAMILY_MODERNBERT},
    {"rope_local_base_freq", LLM_FAMILY_GEMMA3},
    {"global_rope_theta", LLM_FAMILY_MODERNBERT},
    {"local_rope_theta", LLM_FAMILY_MODERNBERT},
    {"original_max_position_embeddings", LLM_FAMILY_PHI3},
    {"partial_rotary_factor", LLM_FAMILY_PHI3},
    {"sliding_window", LLM_FAMILY_MISTRAL | LLM_FAMILY_QWEN2 | LLM_FAMILY_QWEN3 | ARCH_GEMMAS |
                           LLM_FAMILY_PHI3 | LLM_FAMILY_MODERNBERT},
    {"use_sliding_window", LLM_FAMILY_QWEN2 | LLM_FAMILY_QWEN3},
    {"max_window_layers", LLM_FAMILY_QWEN2 | LLM_FAMILY_QWEN3},
    {"layer_types", LLM_FAMILY_QWEN2 | LLM_FAMILY_QWEN3 | ARCH_GEMMAS | LLM_FAMILY_MODERNBERT},
    {"sliding_window_pattern", LLM_FAMILY_GEMMA3},
    {"_sliding_window_pattern", LLM_FAMILY_GEMMA3},
    {"local_attention", LLM_FAMILY_MODERNBERT},
    {"global_attn_every_n_layers", LLM_FAMILY_MODERNBERT},
    {"query_pre_attn_scalar", ARCH_GEMMAS},
    {"attn_logit_softcapping", ARCH_GEMMAS},
    {"final_logit_softcapping", ARCH_GEMMAS},
    {"pad_token_id", ARCH_ALL},
    {"type_vocab_size", ARCH_BERTS},
    {"classifier_bias", LLM_FAMILY_MODERNBERT},
    {"classifier_pooling", LLM_FAMILY_MODERNBERT},
    {"classifier_activation", LLM_FAMILY_MODERNBERT},
    {"sentence_transformers", ARCH_ENCODERS},
    {"sbert_ce_default_activation_function", ARCH_ENCODERS},
};

/* Keys that leave inference alone: training, generation defaults, bookkeeping, tokens (the
 * tokenizer's matter). */
static const char *const hf_inert[] = {
    "attention_dropout",
    "attention_probs_dropout_prob",
    "auto_map",
    "begin_suppress_tokens",
    "boi_token_index",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cls_token_id",
    "decoder_bias",
    "deterministic_flash_attn",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "embedding_dropout",
    "encoder_no_repeat_ngram_size",
    "eoi_token_index",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "initializer_cutoff_factor",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "mlp_dropout",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_past",
    "pretraining_tp",
    "problem_type",
    "repad_logits_with_grad",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "sep_token_id",
    "sparse_pred_ignore_index",
    "summary_activation",
    "summary_type",
    "task_specific_params",
    "temperature",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "vocab_size_or_config_json_file",
};

/* Keys inside rope_parameters and rope_scaling. */
static const char *const hf_rope[] = {
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "factor",
    "finetuned",
    "full_attention",
    "high_freq_factor",
    "long_factor",
    "low_freq_factor",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "rope_theta",
    "rope_type",
    "short_factor",
    "sliding_attention",
    "truncate",
    "type",
};

/* Keys under "<architecture>." of GGUF: those llm_arch_gguf.c reads and inert ones. */
static const char *const gguf_known[] = {
    "attention.causal",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.value_length",
    "attn_logit_softcapping",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "final_logit_softcapping",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
    "token_type_count",
    "vocab_size",
};

/* Is the key in a list of names? */
static bool
listed(const char *key, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i], key) == 0)
			return true;
	return false;
}

#define LISTED(key, list) listed(key, list, sizeof(list) / sizeof((list)[0]))

/* Is the key read for this family? */
static bool
is_read(const char *key, llm_family family)
{
	for (size_t i = 0; i < sizeof(hf_read) / sizeof(hf_read[0]); i++)
		if (strcmp(hf_read[i].key, key) == 0)
			return (hf_read[i].families & family) != 0;
	return false;
}

/* Gemma's classes carry a hidden_act that they do not look at; ModernBERT the name of positions it
 * has not. */
static bool
is_inert(const char *key, llm_family family)
{
	if (strcmp(key, "hidden_act") == 0)
		return (family & ARCH_GEMMAS) != 0;
	if (strcmp(key, "layer_norm_eps") == 0)
		return family == LLM_FAMILY_MODERNBERT;
	return LISTED(key, hf_inert);
}

/* null, false, {} and [] say that a feature is not used. */
static bool
is_off(const llm_json *value)
{
	bool on;

	switch (llm_json_get_kind(value))
	{
		case LLM_JSON_NULL:
			return true;
		case LLM_JSON_BOOL:
			return llm_json_bool(value, &on) && !on;
		case LLM_JSON_ARRAY:
		case LLM_JSON_OBJECT:
			return llm_json_size(value) == 0;
		default:
			return false;
	}
}

/* May this member of config.json stand? */
static bool
hf_key_allowed(const arch_reader *r, const char *key, const llm_json *value)
{
	bool decoder = (r->family->family & ARCH_DECODERS) != 0;
	bool on;

	/* off, this one says that a decoder's tokens see those behind them */
	if (strcmp(key, "is_causal") == 0 && decoder)
		return llm_json_get_kind(value) == LLM_JSON_NULL || (llm_json_bool(value, &on) && on);
	if (is_read(key, r->family->family) || is_inert(key, r->family->family) || is_off(value))
		return true;
	if (strcmp(key, "position_embedding_type") == 0)
		return llm_json_is(value, "absolute");
	/* private attributes of the writer, but for Gemma 3's pattern, which is read above */
	return key[0] == '_' && strcmp(key, "_sliding_window_pattern") != 0;
}

/* The same inside an object of rope parameters, and inside those of its two kinds of layers. */
static void
check_rope_keys(arch_reader *r, const llm_json *object)
{
	for (uint64_t i = 0; i < llm_json_size(object); i++)
	{
		const char *key;
		size_t bytes;
		const llm_json *value = llm_json_member_at(object, i, &key, &bytes);

		if (!is_off(value) && !LISTED(key, hf_rope))
			arch_fail(r, LLM_E_UNSUPPORTED, "config.json: rope key \"%.60s\" is not implemented",
			          key);
		for (uint64_t j = 0; j < llm_json_size(value); j++)
		{
			const char *inner = "";

			if (llm_json_get_kind(value) == LLM_JSON_OBJECT &&
			    !is_off(llm_json_member_at(value, j, &inner, &bytes)) && !LISTED(inner, hf_rope))
				arch_fail(r, LLM_E_UNSUPPORTED,
				          "config.json: rope key \"%.60s\" is not implemented", inner);
		}
	}
}

/* Goes over all members of config.json. */
void
arch_check_hf_keys(arch_reader *r)
{
	for (uint64_t i = 0; i < llm_json_size(r->root); i++)
	{
		const char *key;
		size_t bytes;
		const llm_json *value = llm_json_member_at(r->root, i, &key, &bytes);

		if (!hf_key_allowed(r, key, value))
			arch_fail(r, LLM_E_UNSUPPORTED,
			          "config.json: key \"%.80s\" is set, and it is not implemented for %s", key,
			          r->family->hf_type);
	}
	check_rope_keys(r, llm_json_member(r->root, "rope_parameters"));
	check_rope_keys(r, llm_json_member(r->root, "rope_scaling"));
}

/* Goes over all metadata of the architecture. */
void
arch_check_gguf_keys(arch_reader *r)
{
	size_t n = strlen(r->family->gguf);

	for (uint32_t i = 0; i < llm_weights_n_meta(r->w); i++)
	{
		const llm_meta *meta = llm_weights_meta_at(r->w, i);

		if (strncmp(meta->key, r->family->gguf, n) != 0 || meta->key[n] != '.')
			continue;
		if (!LISTED(meta->key + n + 1, gguf_known))
			arch_fail(r, LLM_E_UNSUPPORTED, "the metadata key \"%.100s\" is not implemented",
			          meta->key);
	}
}
