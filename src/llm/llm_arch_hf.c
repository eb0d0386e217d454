/*
 * llm_arch_hf.c: reads config.json of a Hugging Face folder into an llm_arch.
 *
 * Old and new spellings are both read: rope_theta and rope_scaling beside rope_parameters,
 * sliding_window_pattern beside layer_types. Where a key is absent the default is the one of the
 * family's own configuration class, since that is what the weights were trained under. Keys that
 * are not understood are refused (llm_arch_keys.c).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "llm_arch_internal.h"

/* Does text end so? */
static bool
ends_with(const char *text, const char *end)
{
	size_t n = strlen(text);
	size_t m = strlen(end);

	return n >= m && strcmp(text + n - m, end) == 0;
}

/*
 * The rows of a tensor; 0 when there is none. The number of classes is taken from the weights:
 * id2label is often left out, and num_labels is not written by newer versions.
 */
static uint32_t
tensor_rows(const arch_reader *r, const char *name)
{
	const llm_tensor *t = llm_weights_find(r->w, name);

	return t != NULL && t->n_dims >= 1 && t->dims[0] <= UINT32_MAX ? (uint32_t) t->dims[0] : 0;
}

/* The activation after the classifier: sentence-transformers' rule, sigmoid for one class unless
 * told otherwise. */
static void
read_score_activation(arch_reader *r)
{
	const llm_json *st = llm_json_member(r->root, "sentence_transformers");
	const llm_json *fn = llm_json_member(st, "activation_fn");
	const char *name;
	size_t bytes;

	if (fn == NULL)
		fn = llm_json_member(r->root, "sbert_ce_default_activation_function");
	r->arch->score_sigmoid = r->arch->n_classes == 1;
	if (fn == NULL || !llm_json_string(fn, &name, &bytes))
		return;
	r->arch->score_sigmoid = ends_with(name, ".Sigmoid");
	if (!r->arch->score_sigmoid && !ends_with(name, ".Identity"))
		arch_fail(r, LLM_E_UNSUPPORTED, "config.json: the activation \"%s\" is not implemented",
		          name);
}

/* The head of a sequence classifier. */
static void
read_classifier(arch_reader *r)
{
	llm_arch *arch = r->arch;
	const char *pooling;

	arch->kind = LLM_KIND_RERANK;
	arch->n_classes = tensor_rows(r, arch->family == LLM_FAMILY_XLMR ? "classifier.out_proj.weight"
	                                                                 : "classifier.weight");
	if (arch->n_classes == 0)
		arch_fail(r, LLM_E_FORMAT, "the weights of the classifier are missing");
	read_score_activation(r);
	arch->cls_dense_bias = true;
	arch->classifier = arch->family == LLM_FAMILY_XLMR ? LLM_CLS_ROBERTA : LLM_CLS_BERT;
	if (arch->family != LLM_FAMILY_MODERNBERT)
		return;
	arch->classifier = LLM_CLS_MODERNBERT;
	arch->cls_dense_bias = arch_get_bool(r, "classifier_bias", false);
	pooling = arch_get_string(r, "classifier_pooling", "cls");
	arch->pooling = strcmp(pooling, "mean") == 0 ? PP_POOL_MEAN : PP_POOL_CLS;
	if (strcmp(pooling, "mean") != 0 && strcmp(pooling, "cls") != 0)
		arch_fail(r, LLM_E_UNSUPPORTED, "config.json: classifier_pooling \"%s\" is not implemented",
		          pooling);
	if (!arch_act_of_name(arch_get_string(r, "classifier_activation", "gelu"), &arch->cls_act))
		arch_fail(r, LLM_E_UNSUPPORTED, "config.json: classifier_activation is not implemented");
}

/* What the model is for, by its class. */
static void
read_kind(arch_reader *r)
{
	const char *name = "";
	size_t bytes;

	llm_json_string(llm_json_item(llm_json_member(r->root, "architectures"), 0), &name, &bytes);
	if (r->arch->decoder)
	{
		arch_read_hf_embedder(r);
		if (r->arch->kind == LLM_KIND_EMBED && ends_with(name, "Model"))
			return;
		if (name[0] != '\0' && !ends_with(name, "ForCausalLM"))
			arch_fail(r, LLM_E_UNSUPPORTED, "config.json: architecture \"%s\" is not implemented",
			          name);
	}
	else if (ends_with(name, "ForSequenceClassification"))
		read_classifier(r);
	else if (name[0] != '\0' && !ends_with(name, "Model") && !ends_with(name, "ForMaskedLM"))
		arch_fail(r, LLM_E_UNSUPPORTED, "config.json: architecture \"%s\" is not implemented",
		          name);
	else
		arch_read_hf_pooling(r);
}

/* Sizes of embeddings, layers and positions. */
static void
read_sizes(arch_reader *r)
{
	llm_arch *arch = r->arch;

	arch->d_model = arch_need_u32(r, "hidden_size", UINT32_MAX);
	arch->d_ff = arch_need_u32(r, "intermediate_size", UINT32_MAX);
	arch->n_vocab = arch_need_u32(r, "vocab_size", UINT32_MAX);
	arch->n_ctx = arch_need_u32(r, "max_position_embeddings", UINT32_MAX);
	if (arch->family & ARCH_BERTS)
		arch->n_token_types = arch_get_u32(r, "type_vocab_size", 2);
	if (arch->family != LLM_FAMILY_XLMR)
		return;
	arch->pos_offset = arch_get_u32(r, "pad_token_id", 1) + 1;
	if (arch->pos_offset == 0 || arch->n_ctx <= arch->pos_offset)
		arch_fail(r, LLM_E_FORMAT, "config.json: max_position_embeddings leaves no room");
	else
		arch->n_ctx -= arch->pos_offset;
}

/*
 * Query and key heads and their size. head_dim is a key of its own, as n_heads · head_dim need not
 * be hidden_size (Qwen3 0.6B: 16 · 128 against 1024).
 */
static void
read_heads(arch_reader *r)
{
	llm_family family = r->arch->family;
	uint32_t n_heads = arch_need_u32(r, "num_attention_heads", UINT32_MAX);
	uint32_t n_kv = n_heads;
	uint32_t d_head = 0;

	if (family & (LLM_FAMILY_LLAMA | LLM_FAMILY_PHI3))
		n_kv = arch_get_u32(r, "num_key_value_heads", n_heads);
	else if (r->arch->decoder) /* their classes' defaults fit one size of model only */
		n_kv = arch_need_u32(r, "num_key_value_heads", UINT32_MAX);
	if (r->arch->decoder && family != LLM_FAMILY_PHI3)
		d_head = arch_get_u32(r, "head_dim",
		                      family & ARCH_GEMMAS         ? 256
		                      : family == LLM_FAMILY_QWEN3 ? 128
		                                                   : 0);
	if (d_head == 0)
	{
		if (r->arch->d_model % n_heads != 0)
			arch_fail(r, LLM_E_FORMAT, "config.json: hidden_size is no multiple of the heads");
		d_head = r->arch->d_model / n_heads;
	}
	arch_set_heads(r, n_heads, n_kv, d_head);
}

/*
 * Activations, norms and biases. attention_bias means all four projections here; Qwen2's bias on q,
 * k and v alone is not in its configuration at all, but in the family's row.
 */
static void
read_maths(arch_reader *r)
{
	llm_arch *arch = r->arch;
	bool newer = (arch->family & (ARCH_GEMMAS | LLM_FAMILY_MODERNBERT)) != 0;
	const char *key = newer ? "hidden_activation" : "hidden_act";
	const char *act = arch_get_string(r, key, NULL);

	if (act != NULL && !arch_act_of_name(act, &arch->act))
		arch_fail(r, LLM_E_UNSUPPORTED, "config.json: %s \"%s\" is not implemented", key, act);
	key = arch->decoder                           ? "rms_norm_eps"
	      : arch->family == LLM_FAMILY_MODERNBERT ? "norm_eps"
	                                              : "layer_norm_eps";
	arch->norm_eps = (float) arch_get_double(r, key, arch->norm_eps);
	if (arch->family & (LLM_FAMILY_LLAMA | LLM_FAMILY_QWEN3 | ARCH_GEMMAS | LLM_FAMILY_MODERNBERT))
		arch->qkv_bias = arch->attn_out_bias = arch_get_bool(r, "attention_bias", false);
	if (arch->family & (LLM_FAMILY_LLAMA | LLM_FAMILY_MODERNBERT))
		arch->ffn_bias = arch_get_bool(r, "mlp_bias", false);
	if (arch->family == LLM_FAMILY_MODERNBERT)
		arch->norm_bias = arch_get_bool(r, "norm_bias", false);
	if (arch->decoder)
		arch->tied = arch_get_bool(r, "tie_word_embeddings", (arch->family & ARCH_GEMMAS) != 0);
}

/*
 * What only Gemma has. Its scale is that of query_pre_attn_scalar, not of the head; an absent
 * softcap is not the same as null, which switches it off. The embedding's factor is not rounded to
 * bfloat16 as the reference's is when it runs in that type: prepack computes in float.
 */
static void
read_gemma(arch_reader *r)
{
	llm_arch *arch = r->arch;
	bool two = arch->family == LLM_FAMILY_GEMMA2;
	double scalar = arch_get_double(r, "query_pre_attn_scalar", 256.0);
	double cap = arch_get_double(r, "attn_logit_softcapping", 0.0);

	if (two && llm_json_member(r->root, "attn_logit_softcapping") == NULL)
		cap = 50.0;
	arch->norm_plus_one = true;
	arch->embed_scale = sqrtf((float) arch->d_model);
	arch->final_softcap = (float) arch_get_double(r, "final_logit_softcapping", 0.0);
	if (two && llm_json_member(r->root, "final_logit_softcapping") == NULL)
		arch->final_softcap = 30.0f;
	if (!(scalar > 0.0) || cap < 0.0 || arch->final_softcap < 0.0f)
		arch_fail(r, LLM_E_FORMAT, "config.json: a softcap or query_pre_attn_scalar is negative");
	for (uint32_t i = 0; r->status == LLM_OK && i < arch->n_layers; i++)
	{
		arch->attn[i].scale = (float) (1.0 / sqrt(scalar));
		arch->attn[i].softcap = (float) cap;
	}
}

/* Is layer i a sliding one where no layer_types say? */
static bool
slides_by_default(arch_reader *r, uint32_t i)
{
	switch (r->arch->family)
	{
		case LLM_FAMILY_GEMMA2:
			return i % 2 == 0;
		case LLM_FAMILY_GEMMA3:
		{
			uint32_t every = arch_get_u32(r, "sliding_window_pattern",
			                              arch_get_u32(r, "_sliding_window_pattern", 6));

			return every > 0 && (i + 1) % every != 0;
		}
		case LLM_FAMILY_MODERNBERT:
		{
			uint32_t every = arch_get_u32(r, "global_attn_every_n_layers", 3);

			return every > 0 && i % every != 0;
		}
		case LLM_FAMILY_QWEN2:
		case LLM_FAMILY_QWEN3:
			return i >= arch_get_u32(r, "max_window_layers", 28);
		default:
			return true;
	}
}

/*
 * The window of sliding layers; 0 when there are none. Qwen writes sliding_window even where
 * use_sliding_window is false. ModernBERT's is the whole width, half of it to each side.
 */
static uint32_t
read_window(arch_reader *r)
{
	llm_family family = r->arch->family;
	uint32_t absent = 4096; /* Mistral's and Gemma's classes, when the key itself is absent */

	if (family == LLM_FAMILY_MODERNBERT)
		return arch_get_u32(r, "local_attention", 128);
	if (family & (LLM_FAMILY_QWEN2 | LLM_FAMILY_QWEN3))
		return arch_get_bool(r, "use_sliding_window", false)
		           ? arch_get_u32(r, "sliding_window", absent)
		           : 0;
	if (!(family & (LLM_FAMILY_MISTRAL | ARCH_GEMMAS | LLM_FAMILY_PHI3)))
		return 0;
	if (family == LLM_FAMILY_PHI3 || llm_json_member(r->root, "sliding_window") != NULL)
		absent = 0;
	return arch_get_u32(r, "sliding_window", absent);
}

/* Which layers slide, kept in attn[].window. */
static void
read_windows(arch_reader *r)
{
	const llm_json *types = llm_json_member(r->root, "layer_types");
	uint32_t window = read_window(r);

	if (llm_json_get_kind(types) == LLM_JSON_ARRAY && llm_json_size(types) != r->arch->n_layers)
		arch_fail(r, LLM_E_FORMAT, "config.json: layer_types does not name every layer");
	for (uint32_t i = 0; r->status == LLM_OK && i < r->arch->n_layers; i++)
	{
		const llm_json *type = llm_json_item(types, i);
		bool slides = llm_json_is(type, "sliding_attention");

		if (llm_json_get_kind(types) != LLM_JSON_ARRAY)
			slides = slides_by_default(r, i);
		else if (!slides && !llm_json_is(type, "full_attention"))
			arch_fail(r, LLM_E_UNSUPPORTED, "config.json: a layer type is not implemented");
		r->arch->attn[i].window = slides ? window : 0;
	}
}

/* The kind of scaling by name. */
static arch_scaling
scaling_of_name(arch_reader *r, const char *name)
{
	static const struct
	{
		const char *name;
		arch_scaling scaling;
	} names[] = {{"default", ARCH_SCALING_NONE},  {"none", ARCH_SCALING_NONE},
	             {"linear", ARCH_SCALING_LINEAR}, {"llama3", ARCH_SCALING_LLAMA3},
	             {"yarn", ARCH_SCALING_YARN},     {"longrope", ARCH_SCALING_LONGROPE},
	             {"su", ARCH_SCALING_LONGROPE}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(names[i].name, name) == 0)
			return names[i].scaling;
	arch_fail(r, LLM_E_UNSUPPORTED, "config.json: rope scaling \"%s\" is not implemented", name);
	return ARCH_SCALING_NONE;
}

/* LongRoPE's list of factors. */
static void
read_factors(arch_reader *r, arch_rope *rope)
{
	const char *key = arch_rope_is_long(r, rope) ? "long_factor" : "short_factor";
	const llm_json *list = llm_json_member(r->root, key);
	uint32_t n = rope->n_dims / 2;

	if (llm_json_size(list) != n)
	{
		arch_fail(r, LLM_E_FORMAT, "config.json: %s does not have %u items", key, n);
		return;
	}
	if ((rope->divisors = llm_arena_alloc(r->arch->arena, n, sizeof(float))) == NULL)
		arch_fail(r, LLM_E_NOMEM, "out of memory");
	for (uint32_t i = 0; r->status == LLM_OK && i < n; i++)
	{
		double value;

		if (!llm_json_double(llm_json_item(list, i), &value) || !(value > 0.0))
			arch_fail(r, LLM_E_FORMAT, "config.json: %s is out of range", key);
		else
			rope->divisors[i] = (float) value;
	}
}

/*
 * Reads one object of rope parameters, the reader standing on it (r->root). Without "factor" it is
 * the ratio of the two context lengths, as Phi-3 files leave it.
 */
static void
read_rope_object(arch_reader *r, arch_rope *rope, double n_ctx_max)
{
	const char *type = arch_get_string(r, "rope_type", arch_get_string(r, "type", "default"));

	rope->scaling = scaling_of_name(r, type);
	rope->theta = arch_get_double(r, "rope_theta", rope->theta);
	if (rope->scaling == ARCH_SCALING_NONE)
		return;
	rope->n_ctx_orig = arch_get_double(r, "original_max_position_embeddings", rope->n_ctx_orig);
	rope->factor = arch_get_double(r, "factor", n_ctx_max / rope->n_ctx_orig);
	rope->low_freq = arch_get_double(r, "low_freq_factor", rope->low_freq);
	rope->high_freq = arch_get_double(r, "high_freq_factor", rope->high_freq);
	rope->beta_fast = arch_get_double(r, "beta_fast", rope->beta_fast);
	rope->beta_slow = arch_get_double(r, "beta_slow", rope->beta_slow);
	rope->mscale = arch_get_double(r, "mscale", 0.0);
	rope->mscale_all_dim = arch_get_double(r, "mscale_all_dim", 0.0);
	rope->attention_factor = arch_get_double(r, "attention_factor", 0.0);
	rope->truncate = arch_get_bool(r, "truncate", true);
	if (rope->scaling == ARCH_SCALING_LONGROPE)
		read_factors(r, rope);
}

/* The scaling object of full or of sliding layers; NULL when there is none for them. */
static const llm_json *
rope_object(const arch_reader *r, bool sliding)
{
	const llm_json *object = llm_json_member(r->root, "rope_parameters");
	const llm_json *inner =
	    llm_json_member(object, sliding ? "sliding_attention" : "full_attention");

	if (llm_json_get_kind(inner) == LLM_JSON_OBJECT)
		return inner;
	if (llm_json_get_kind(object) == LLM_JSON_OBJECT)
		return llm_json_member(object, "full_attention") == NULL ? object : NULL;
	/* the old form scaled Gemma 3's full layers only */
	if (sliding && r->arch->family == LLM_FAMILY_GEMMA3)
		return NULL;
	object = llm_json_member(r->root, "rope_scaling");
	return llm_json_get_kind(object) == LLM_JSON_OBJECT ? object : NULL;
}

/* The base where no rope_parameters give it. */
static double
rope_theta(arch_reader *r, bool sliding)
{
	if (r->arch->family == LLM_FAMILY_GEMMA3 && sliding)
		return arch_get_double(r, "rope_local_base_freq", 1e4);
	if (r->arch->family == LLM_FAMILY_MODERNBERT)
		return arch_get_double(r, sliding ? "local_rope_theta" : "global_rope_theta",
		                       sliding ? 1e4 : 1.6e5);
	return arch_get_double(r, "rope_theta", r->family->theta);
}

/* Builds the rotary embedding of the full or the sliding layers. */
static void
read_rope(arch_reader *r, bool sliding, pp_rope *out)
{
	const llm_json *root = r->root;
	const llm_json *object = rope_object(r, sliding);
	double n_ctx_max = r->arch->n_ctx; /* before LongRoPE cuts it: the factor is a ratio to it */
	double partial = arch_get_double(r, "partial_rotary_factor", 1.0);
	arch_rope rope;

	if (r->status != LLM_OK)
		return;
	arch_rope_init(&rope, rope_theta(r, sliding), 0);
	rope.n_ctx_orig = arch_get_double(r, "original_max_position_embeddings", n_ctx_max);
	if (object != NULL)
	{
		r->root = object;
		partial = arch_get_double(r, "partial_rotary_factor", partial);
	}
	if (!(partial > 0.0 && partial <= 1.0))
		arch_fail(r, LLM_E_FORMAT, "config.json: partial_rotary_factor is out of range");
	else
		rope.n_dims = (uint32_t) (r->arch->attn[0].d_head * partial);
	if (object != NULL && r->status == LLM_OK)
		read_rope_object(r, &rope, n_ctx_max);
	r->root = root;
	arch_rope_build(r, &rope, false, out);
	if (rope.scaling == ARCH_SCALING_LONGROPE && rope.n_ctx_orig < n_ctx_max &&
	    !arch_rope_is_long(r, &rope))
		r->arch->n_ctx = (uint32_t) rope.n_ctx_orig; /* beyond it the long factors would apply */
}

/* The rotary embeddings of all layers. */
static void
read_ropes(arch_reader *r)
{
	pp_rope full = {0};
	pp_rope sliding = {0};

	if (r->arch->pos_learned)
		return;
	read_rope(r, false, &full);
	if (r->arch->family & (LLM_FAMILY_GEMMA3 | LLM_FAMILY_MODERNBERT))
		read_rope(r, true, &sliding);
	else
		sliding = full;
	for (uint32_t i = 0; r->status == LLM_OK && i < r->arch->n_layers; i++)
		r->arch->rope[i] = r->arch->attn[i].window > 0 ? sliding : full;
}

/* Reads config.json. */
void
arch_read_hf(arch_reader *r)
{
	const llm_json *root;
	const char *type;
	size_t bytes;

	r->status = llm_weights_json(r->w, "config.json", &root, r->err);
	if (r->status != LLM_OK)
		return;
	if (!llm_json_string(llm_json_member(root, "model_type"), &type, &bytes))
		arch_fail(r, LLM_E_FORMAT, "config.json: \"model_type\" is missing");
	else if ((r->family = arch_family_of_hf(type)) == NULL)
		arch_fail(r, LLM_E_UNSUPPORTED, "config.json: model_type \"%s\" is not implemented", type);
	if (r->status != LLM_OK)
		return;
	r->root = root;
	/* first of all: a value that is not understood must not be reported as some later consequence
	 */
	arch_check_hf_keys(r);
	arch_begin(r);
	read_sizes(r);
	read_heads(r);
	read_maths(r);
	if (r->arch->family & ARCH_GEMMAS)
		read_gemma(r);
	if (r->status == LLM_OK)
		read_windows(r);
	if (r->status == LLM_OK)
		read_ropes(r);
	if (r->status == LLM_OK)
		read_kind(r);
}
