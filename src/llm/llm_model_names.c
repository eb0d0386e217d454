/*
 * llm_model_names.c: tables of tensor names, Hugging Face and GGUF.
 *
 * A name that begins with * stands after the prefix under which a checkpoint keeps its body
 * ("model.", "bert.", none): which one it is follows from where the token embeddings are. %u is the
 * layer. ".weight" and ".bias" are added by the caller.
 */
#include <stdio.h>
#include <string.h>

#include "llm_arch_internal.h"
#include "llm_model_internal.h"

struct model_names
{
	llm_weights_format format;
	uint32_t families;
	const char *prefixes[3]; /* tried in order; unused ones are NULL */
	const char *names[SLOT_COUNT];
};

/*
 * The schemes. Two names mean different things in different families, which is why Gemma has a
 * table of its own: post_attention_layernorm is the norm before the MLP in Llama's line, and the
 * one after attention in Gemma's. In BERT files "LayerNorm" of attention.output and of output stand
 * after their blocks.
 */
static const model_names schemes[] = {
    {LLM_FORMAT_HF,
     ARCH_DECODERS & ~ARCH_GEMMAS,
     {"model.", ""},
     {[SLOT_EMBED] = "*embed_tokens",
      [SLOT_FINAL_NORM] = "*norm",
      [SLOT_HEAD] = "lm_head",
      [SLOT_ATTN_NORM] = "*layers.%u.input_layernorm",
      [SLOT_FFN_NORM] = "*layers.%u.post_attention_layernorm",
      [SLOT_Q] = "*layers.%u.self_attn.q_proj",
      [SLOT_K] = "*layers.%u.self_attn.k_proj",
      [SLOT_V] = "*layers.%u.self_attn.v_proj",
      [SLOT_QKV] = "*layers.%u.self_attn.qkv_proj",
      [SLOT_Q_NORM] = "*layers.%u.self_attn.q_norm",
      [SLOT_K_NORM] = "*layers.%u.self_attn.k_norm",
      [SLOT_ATTN_OUT] = "*layers.%u.self_attn.o_proj",
      [SLOT_GATE] = "*layers.%u.mlp.gate_proj",
      [SLOT_UP] = "*layers.%u.mlp.up_proj",
      [SLOT_GATE_UP] = "*layers.%u.mlp.gate_up_proj",
      [SLOT_FFN_OUT] = "*layers.%u.mlp.down_proj"}},
    {LLM_FORMAT_HF,
     ARCH_GEMMAS,
     {"model.", ""},
     {[SLOT_EMBED] = "*embed_tokens",
      [SLOT_FINAL_NORM] = "*norm",
      [SLOT_HEAD] = "lm_head",
      [SLOT_ATTN_NORM] = "*layers.%u.input_layernorm",
      [SLOT_ATTN_POST_NORM] = "*layers.%u.post_attention_layernorm",
      [SLOT_FFN_NORM] = "*layers.%u.pre_feedforward_layernorm",
      [SLOT_FFN_POST_NORM] = "*layers.%u.post_feedforward_layernorm",
      [SLOT_Q] = "*layers.%u.self_attn.q_proj",
      [SLOT_K] = "*layers.%u.self_attn.k_proj",
      [SLOT_V] = "*layers.%u.self_attn.v_proj",
      [SLOT_Q_NORM] = "*layers.%u.self_attn.q_norm",
      [SLOT_K_NORM] = "*layers.%u.self_attn.k_norm",
      [SLOT_ATTN_OUT] = "*layers.%u.self_attn.o_proj",
      [SLOT_GATE] = "*layers.%u.mlp.gate_proj",
      [SLOT_UP] = "*layers.%u.mlp.up_proj",
      [SLOT_FFN_OUT] = "*layers.%u.mlp.down_proj"}},
    {LLM_FORMAT_HF,
     ARCH_BERTS,
     {"bert.", "roberta.", ""},
     {[SLOT_EMBED] = "*embeddings.word_embeddings",
      [SLOT_POS] = "*embeddings.position_embeddings",
      [SLOT_TYPES] = "*embeddings.token_type_embeddings",
      [SLOT_EMBED_NORM] = "*embeddings.LayerNorm",
      [SLOT_ATTN_NORM] = "*encoder.layer.%u.attention.output.LayerNorm",
      [SLOT_FFN_NORM] = "*encoder.layer.%u.output.LayerNorm",
      [SLOT_Q] = "*encoder.layer.%u.attention.self.query",
      [SLOT_K] = "*encoder.layer.%u.attention.self.key",
      [SLOT_V] = "*encoder.layer.%u.attention.self.value",
      [SLOT_ATTN_OUT] = "*encoder.layer.%u.attention.output.dense",
      [SLOT_UP] = "*encoder.layer.%u.intermediate.dense",
      [SLOT_FFN_OUT] = "*encoder.layer.%u.output.dense"}},
    {LLM_FORMAT_HF,
     LLM_FAMILY_MODERNBERT,
     {"model.", ""},
     {[SLOT_EMBED] = "*embeddings.tok_embeddings",
      [SLOT_EMBED_NORM] = "*embeddings.norm",
      [SLOT_FINAL_NORM] = "*final_norm",
      [SLOT_CLS_DENSE] = "head.dense",
      [SLOT_CLS_NORM] = "head.norm",
      [SLOT_CLS_OUT] = "classifier",
      [SLOT_ATTN_NORM] = "*layers.%u.attn_norm",
      [SLOT_FFN_NORM] = "*layers.%u.mlp_norm",
      [SLOT_QKV] = "*layers.%u.attn.Wqkv",
      [SLOT_ATTN_OUT] = "*layers.%u.attn.Wo",
      [SLOT_GATE_UP] = "*layers.%u.mlp.Wi",
      [SLOT_FFN_OUT] = "*layers.%u.mlp.Wo"}},
    {LLM_FORMAT_GGUF,
     ARCH_DECODERS,
     {""},
     {[SLOT_EMBED] = "token_embd",
      [SLOT_FINAL_NORM] = "output_norm",
      [SLOT_HEAD] = "output",
      [SLOT_ATTN_NORM] = "blk.%u.attn_norm",
      [SLOT_ATTN_POST_NORM] = "blk.%u.post_attention_norm",
      [SLOT_FFN_NORM] = "blk.%u.ffn_norm",
      [SLOT_FFN_POST_NORM] = "blk.%u.post_ffw_norm",
      [SLOT_Q] = "blk.%u.attn_q",
      [SLOT_K] = "blk.%u.attn_k",
      [SLOT_V] = "blk.%u.attn_v",
      [SLOT_QKV] = "blk.%u.attn_qkv",
      [SLOT_Q_NORM] = "blk.%u.attn_q_norm",
      [SLOT_K_NORM] = "blk.%u.attn_k_norm",
      [SLOT_ATTN_OUT] = "blk.%u.attn_output",
      [SLOT_GATE] = "blk.%u.ffn_gate",
      [SLOT_UP] = "blk.%u.ffn_up",
      [SLOT_GATE_UP] = "blk.%u.ffn_up", /* phi3: both halves under one name */
      [SLOT_FFN_OUT] = "blk.%u.ffn_down"}},
    {LLM_FORMAT_GGUF,
     LLM_FAMILY_BERT,
     {""},
     {[SLOT_EMBED] = "token_embd",
      [SLOT_POS] = "position_embd",
      [SLOT_TYPES] = "token_types",
      [SLOT_EMBED_NORM] = "token_embd_norm",
      [SLOT_CLS_DENSE] = "cls",
      [SLOT_CLS_OUT] = "cls.output",
      [SLOT_ATTN_NORM] = "blk.%u.attn_output_norm",
      [SLOT_FFN_NORM] = "blk.%u.layer_output_norm",
      [SLOT_Q] = "blk.%u.attn_q",
      [SLOT_K] = "blk.%u.attn_k",
      [SLOT_V] = "blk.%u.attn_v",
      [SLOT_QKV] = "blk.%u.attn_qkv",
      [SLOT_ATTN_OUT] = "blk.%u.attn_output",
      [SLOT_UP] = "blk.%u.ffn_up",
      [SLOT_FFN_OUT] = "blk.%u.ffn_down"}},
};

/* Classifier heads of the two BERTs in Hugging Face folders, which share all other names. */
static const char *
bert_head_name(const model_names *names, const char *prefix, model_slot slot)
{
	bool roberta = strcmp(prefix, "roberta.") == 0;

	if (names->format != LLM_FORMAT_HF || (names->families & ARCH_BERTS) == 0)
		return NULL;
	if (slot == SLOT_CLS_DENSE)
		return roberta ? "classifier.dense" : "*pooler.dense";
	if (slot == SLOT_CLS_OUT)
		return roberta ? "classifier.out_proj" : "classifier";
	return NULL;
}

/* Puts prefix, name, layer and suffix together. */
bool
model_name(const model_names *names, const char *prefix, model_slot slot, uint32_t layer,
           const char *suffix, char out[MODEL_NAME_MAX])
{
	const char *name = names->names[slot];
	const char *layer_mark;
	int n;

	if (name == NULL && (name = bert_head_name(names, prefix, slot)) == NULL)
		return false;
	if (name[0] == '*')
		name++;
	else
		prefix = "";
	layer_mark = strstr(name, "%u");
	if (layer_mark == NULL)
		n = snprintf(out, MODEL_NAME_MAX, "%s%s%s", prefix, name, suffix);
	else
		n = snprintf(out, MODEL_NAME_MAX, "%s%.*s%u%s%s", prefix, (int) (layer_mark - name), name,
		             layer, layer_mark + 2, suffix);
	return n > 0 && n < MODEL_NAME_MAX;
}

/*
 * The first scheme that fits. The prefix is where the embeddings are: checkpoints of a bare body
 * have none, those with a head put the body under a name.
 */
const model_names *
model_names_of(const llm_weights *w, const llm_arch *arch, const char **prefix)
{
	char name[MODEL_NAME_MAX];

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++)
	{
		const model_names *scheme = &schemes[i];

		if (scheme->format != llm_weights_get_format(w) || (scheme->families & arch->family) == 0)
			continue;
		for (size_t p = 0; p < 3 && scheme->prefixes[p] != NULL; p++)
		{
			*prefix = scheme->prefixes[p];
			if (model_name(scheme, *prefix, SLOT_EMBED, 0, ".weight", name) &&
			    llm_weights_find(w, name) != NULL)
				return scheme;
		}
		*prefix = scheme->prefixes[0]; /* the loader will name the missing table */
		return scheme;
	}
	return NULL;
}

/*
 * Tensors that other tasks or the readers of the metadata use. Anything else that no slot asked for
 * is refused by the loader, as a bias or an adapter that goes unread would give plausible nonsense.
 */
bool
model_name_is_inert(const llm_arch *arch, const char *name)
{
	bool classifier = arch->classifier != LLM_CLS_NONE;

	if (strstr(name, "rotary_emb.inv_freq") != NULL || strstr(name, ".position_ids") != NULL)
		return true;
	if (strncmp(name, "rope_f", 6) == 0) /* rope_freqs, rope_factors: read with the metadata */
		return true;
	if (strcmp(name, "lm_head.weight") == 0)
		return arch->tied || arch->kind != LLM_KIND_GENERATE;
	if (strcmp(name, "output.weight") == 0)
		return arch->decoder && arch->kind == LLM_KIND_EMBED;
	/* heads of other tasks on an encoder's body */
	if (arch->decoder)
		return false;
	return strncmp(name, "cls.predictions.", 16) == 0 ||
	       strncmp(name, "cls.seq_relationship.", 21) == 0 || strncmp(name, "lm_head.", 8) == 0 ||
	       strncmp(name, "decoder.", 8) == 0 || (!classifier && strstr(name, "pooler.") != NULL) ||
	       (!classifier && strncmp(name, "head.", 5) == 0);
}
