/*
 * llm_arch.c: see llm_arch.h. The families' fixed part, the getters both readers use, the final
 * checks.
 *
 * A description is filled from the family's row below, then from the file (llm_arch_hf.c,
 * llm_arch_gguf.c); at the end arch_check looks at the whole, so that no later code meets a shape
 * it cannot compute.
 *
 * Ownership: the per-layer arrays and the frequencies live in the arch's arena.
 */
#include "llm_arch.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "llm_arch_internal.h"

#define D_MODEL_MAX 65536u
#define D_HEAD_MAX  256u
#define N_CTX_MAX   (1u << 24)

/*
 * The families. Columns: family, model_type, general.architecture, norm and where it stands,
 *activation, RoPE base and epsilon of its own configuration class, gated MLP, norms on q and k,
 *bias on q, k and v, adjacent RoPE pairs in GGUF.
 *
 * Details that have caused bugs elsewhere:
 *	- Mistral has no architecture of its own in GGUF: it comes as "llama", with q and k reordered
 *like it.
 *	- Only "llama" files are reordered; all other GGUF decoders rotate (i, i + n/2), as Hugging Face
 *does.
 *	- Gemma 3's base is 1e6 in its full layers and 1e4 in its sliding ones.
 *	- BERT's epsilon is 1e-12; XLM-RoBERTa's files say 1e-5, and its class 1e-12.
 *	- The erf form of GELU is BERT's and ModernBERT's, the tanh form Gemma's.
 */
static const arch_family families[] = {
    {LLM_FAMILY_LLAMA, "llama", "llama", PP_NORM_RMS, LLM_NORM_PRE, PP_ACT_SILU, 1e4, 1e-6, true,
     false, false, true},
    {LLM_FAMILY_MISTRAL, "mistral", NULL, PP_NORM_RMS, LLM_NORM_PRE, PP_ACT_SILU, 1e4, 1e-6, true,
     false, false, true},
    {LLM_FAMILY_QWEN2, "qwen2", "qwen2", PP_NORM_RMS, LLM_NORM_PRE, PP_ACT_SILU, 1e4, 1e-6, true,
     false, true, false},
    {LLM_FAMILY_QWEN3, "qwen3", "qwen3", PP_NORM_RMS, LLM_NORM_PRE, PP_ACT_SILU, 1e4, 1e-6, true,
     true, false, false},
    {LLM_FAMILY_GEMMA2, "gemma2", "gemma2", PP_NORM_RMS, LLM_NORM_SANDWICH, PP_ACT_GELU_TANH, 1e4,
     1e-6, true, false, false, false},
    {LLM_FAMILY_GEMMA3, "gemma3_text", "gemma3", PP_NORM_RMS, LLM_NORM_SANDWICH, PP_ACT_GELU_TANH,
     1e6, 1e-6, true, true, false, false},
    {LLM_FAMILY_PHI3, "phi3", "phi3", PP_NORM_RMS, LLM_NORM_PRE, PP_ACT_SILU, 1e4, 1e-5, true,
     false, false, false},
    {LLM_FAMILY_BERT, "bert", "bert", PP_NORM_LAYER, LLM_NORM_POST, PP_ACT_GELU_ERF, 1e4, 1e-12,
     false, false, true, false},
    {LLM_FAMILY_XLMR, "xlm-roberta", NULL, PP_NORM_LAYER, LLM_NORM_POST, PP_ACT_GELU_ERF, 1e4,
     1e-12, false, false, true, false},
    {LLM_FAMILY_MODERNBERT, "modernbert", NULL, PP_NORM_LAYER, LLM_NORM_PRE, PP_ACT_GELU_ERF, 1.6e5,
     1e-5, true, false, false, false},
};

/* Finds a family by model_type. */
const arch_family *
arch_family_of_hf(const char *model_type)
{
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
		if (strcmp(families[i].hf_type, model_type) == 0)
			return &families[i];
	return NULL;
}

/* Finds a family by general.architecture. */
const arch_family *
arch_family_of_gguf(const char *architecture)
{
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
		if (families[i].gguf != NULL && strcmp(families[i].gguf, architecture) == 0)
			return &families[i];
	return NULL;
}

/* Records the first failure. */
void
arch_fail(arch_reader *r, llm_status code, const char *fmt, ...)
{
	char message[LLM_MESSAGE_MAX];
	va_list args;

	if (r->status != LLM_OK)
		return;
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	r->status = llm_fail(r->err, code, "%s", message);
}

/* The metadata entry of a key given without its architecture prefix. */
static const llm_meta *
find_meta(const arch_reader *r, const char *key)
{
	char full[128];

	snprintf(full, sizeof(full), "%s.%s", r->family->gguf, key);
	return llm_weights_meta(r->w, full);
}

/* Is the key there, and not null? */
bool
arch_has(const arch_reader *r, const char *key)
{
	if (r->root != NULL)
		return llm_json_get_kind(llm_json_member(r->root, key)) != LLM_JSON_NULL;
	return find_meta(r, key) != NULL;
}

/* Says that a key holds what it cannot. */
static void
fail_value(arch_reader *r, const char *key)
{
	arch_fail(r, LLM_E_FORMAT, "the value of \"%s\" is of the wrong kind or out of range", key);
}

/* A whole number of at most 32 bits; absent when the key is not there. */
uint32_t
arch_get_u32(arch_reader *r, const char *key, uint32_t absent)
{
	const llm_meta *meta;
	uint64_t value;
	bool ok;

	if (!arch_has(r, key))
		return absent;
	if (r->root != NULL)
		ok = llm_json_u64(llm_json_member(r->root, key), &value);
	else
		ok = (meta = find_meta(r, key))->kind != LLM_META_ARRAY && llm_meta_uint(meta, 0, &value);
	if (ok && value <= UINT32_MAX)
		return (uint32_t) value;
	fail_value(r, key);
	return absent;
}

/* A size that must be there. */
uint32_t
arch_need_u32(arch_reader *r, const char *key, uint32_t max)
{
	uint32_t value = arch_get_u32(r, key, 0);

	if (value >= 1 && value <= max)
		return value;
	if (!arch_has(r, key))
		arch_fail(r, LLM_E_FORMAT, "\"%s\" is missing", key);
	fail_value(r, key);
	return 1;
}

/* A number of GGUF metadata; whole ones count. */
static bool
meta_number(const llm_meta *meta, double *out)
{
	int64_t whole;

	if (meta->kind == LLM_META_ARRAY)
		return false;
	if (llm_meta_float(meta, 0, out))
		return true;
	if (!llm_meta_int(meta, 0, &whole))
		return false;
	*out = (double) whole;
	return true;
}

/* A finite number. */
double
arch_get_double(arch_reader *r, const char *key, double absent)
{
	double value;
	bool ok;

	if (!arch_has(r, key))
		return absent;
	if (r->root != NULL)
		ok = llm_json_double(llm_json_member(r->root, key), &value);
	else
		ok = meta_number(find_meta(r, key), &value);
	if (ok && isfinite(value))
		return value;
	fail_value(r, key);
	return absent;
}

/* A truth value. */
bool
arch_get_bool(arch_reader *r, const char *key, bool absent)
{
	const llm_meta *meta;
	bool value;
	bool ok;

	if (!arch_has(r, key))
		return absent;
	if (r->root != NULL)
		ok = llm_json_bool(llm_json_member(r->root, key), &value);
	else
		ok = (meta = find_meta(r, key))->kind != LLM_META_ARRAY && llm_meta_bool(meta, 0, &value);
	if (ok)
		return value;
	fail_value(r, key);
	return absent;
}

/* A string, NUL-terminated; it lives as long as the weights or, for GGUF, the arch's arena. */
const char *
arch_get_string(arch_reader *r, const char *key, const char *absent)
{
	const llm_meta *meta;
	const char *text;
	uint64_t n;
	size_t bytes;

	if (!arch_has(r, key))
		return absent;
	if (r->root != NULL && llm_json_string(llm_json_member(r->root, key), &text, &bytes))
		return text;
	if (r->root == NULL && (meta = find_meta(r, key))->kind == LLM_META_STRING &&
	    llm_meta_string(meta, 0, &text, &n))
	{
		if ((text = llm_arena_strndup(r->arch->arena, text, (size_t) n)) != NULL)
			return text;
		arch_fail(r, LLM_E_NOMEM, "out of memory");
		return absent;
	}
	fail_value(r, key);
	return absent;
}

/* Activation names of Hugging Face configurations. */
bool
arch_act_of_name(const char *name, pp_act_kind *out)
{
	static const struct
	{
		const char *name;
		pp_act_kind act;
	} names[] = {{"silu", PP_ACT_SILU},
	             {"swish", PP_ACT_SILU},
	             {"gelu", PP_ACT_GELU_ERF},
	             {"gelu_new", PP_ACT_GELU_TANH},
	             {"gelu_pytorch_tanh", PP_ACT_GELU_TANH},
	             {"relu", PP_ACT_RELU},
	             {"tanh", PP_ACT_TANH}};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		if (strcmp(names[i].name, name) == 0)
		{
			*out = names[i].act;
			return true;
		}
	}
	return false;
}

/* Fills in the family's row and makes room for the layers. */
void
arch_begin(arch_reader *r)
{
	llm_arch *arch = r->arch;
	const arch_family *f = r->family;

	snprintf(arch->name, sizeof(arch->name), "%s", f->hf_type);
	arch->family = f->family;
	arch->decoder = (f->family & ARCH_DECODERS) != 0;
	arch->kind = arch->decoder ? LLM_KIND_GENERATE : LLM_KIND_EMBED;
	arch->norm_kind = f->norm_kind;
	arch->norm_place = f->norm_place;
	arch->norm_eps = (float) f->norm_eps;
	arch->act = f->act;
	arch->mlp_gated = f->mlp_gated;
	arch->qk_norm = f->qk_norm;
	arch->qkv_bias = f->qkv_bias;
	arch->norm_bias = arch->attn_out_bias = arch->ffn_bias = (f->family & ARCH_BERTS) != 0;
	arch->embed_scale = 1.0f;
	arch->pos_learned = (f->family & ARCH_BERTS) != 0;
	arch->embed_norm = !arch->decoder;
	/* a norm after each block leaves nothing to normalise at the end */
	arch->final_norm = f->norm_place != LLM_NORM_POST;
	arch->attn_norm_first_absent = f->family == LLM_FAMILY_MODERNBERT;
	arch->pooling = PP_POOL_CLS;
	arch->n_layers =
	    arch_need_u32(r, r->root != NULL ? "num_hidden_layers" : "block_count", LLM_LAYERS_MAX);
	/* n_layers is bounded by now: a header cannot ask for more than its share of memory */
	arch->attn = llm_arena_alloc(arch->arena, arch->n_layers, sizeof(pp_attn));
	arch->rope = llm_arena_alloc(arch->arena, arch->n_layers, sizeof(pp_rope));
	if (arch->attn == NULL || arch->rope == NULL)
		arch_fail(r, LLM_E_NOMEM, "out of memory");
}

/* The same heads in every layer; windows and scales are adjusted after. */
void
arch_set_heads(arch_reader *r, uint32_t n_heads, uint32_t n_kv_heads, uint32_t d_head)
{
	if (r->status != LLM_OK)
		return;
	if (n_kv_heads == 0 || n_heads % n_kv_heads != 0)
		arch_fail(r, LLM_E_FORMAT, "%u query heads are not a multiple of %u key heads", n_heads,
		          n_kv_heads);
	if (d_head < 8 || d_head > D_HEAD_MAX || d_head % 8 != 0)
		arch_fail(r, LLM_E_UNSUPPORTED, "a head of %u dimensions is not implemented", d_head);
	for (uint32_t i = 0; r->status == LLM_OK && i < r->arch->n_layers; i++)
		r->arch->attn[i] = (pp_attn){.n_heads = n_heads,
		                             .n_kv_heads = n_kv_heads,
		                             .d_head = d_head,
		                             .scale = 1.0f / sqrtf((float) d_head),
		                             .causal = r->arch->decoder};
}

/* What must hold whatever the source. */
void
arch_check(arch_reader *r)
{
	const llm_arch *arch = r->arch;

	if (r->status != LLM_OK)
		return;
	if (arch->d_model > D_MODEL_MAX ||
	    (uint64_t) arch->attn[0].n_heads * arch->attn[0].d_head > D_MODEL_MAX * (uint64_t) 4)
		arch_fail(r, LLM_E_UNSUPPORTED, "a model width of %u is not implemented", arch->d_model);
	if (arch->d_ff == 0 || arch->d_ff > 16 * D_MODEL_MAX)
		arch_fail(r, LLM_E_UNSUPPORTED, "a feed-forward width of %u is not implemented",
		          arch->d_ff);
	if (arch->n_vocab == 0 || arch->n_vocab > (1u << 24))
		arch_fail(r, LLM_E_FORMAT, "a vocabulary of %u tokens is out of range", arch->n_vocab);
	if (arch->n_ctx == 0 || arch->n_ctx > N_CTX_MAX)
		arch_fail(r, LLM_E_FORMAT, "a context of %u tokens is out of range", arch->n_ctx);
	if (!(arch->norm_eps > 0.0f && arch->norm_eps < 1.0f))
		arch_fail(r, LLM_E_FORMAT, "the epsilon of the norms is out of range");
}

/* Reads everything through r. */
static void
read_all(arch_reader *r)
{
	if (llm_weights_get_format(r->w) == LLM_FORMAT_GGUF)
		arch_read_gguf(r);
	else
		arch_read_hf(r);
	arch_check(r);
}

/* Reads the description of an open model. */
llm_status
llm_arch_read(llm_weights *w, uint32_t n_ctx, llm_arch *arch, llm_error *err)
{
	arch_reader r = {.w = w, .arch = arch, .n_ctx = n_ctx, .err = err, .status = LLM_OK};

	memset(arch, 0, sizeof(*arch));
	if ((arch->arena = llm_arena_create()) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory");
	read_all(&r);
	if (r.status != LLM_OK)
		llm_arch_free(arch);
	return r.status;
}

/* Frees the arrays; the struct is zeroed again. */
void
llm_arch_free(llm_arch *arch)
{
	llm_arena_destroy(arch->arena);
	memset(arch, 0, sizeof(*arch));
}
