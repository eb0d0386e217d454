/*
 * llm_arch_gguf.c: reads GGUF metadata into an llm_arch.
 *
 * What the converters did to the weights decides the arithmetic: "llama" files have the rows of q
 * and k reordered so that rotated pairs are adjacent, Gemma's norm weights already hold w + 1,
 * Llama 3's frequency scaling is a tensor of divisors (rope_freqs.weight), XLM-RoBERTa comes as
 * "bert" with its position table cut to start at 0. Biases are told by the presence of their
 * tensors, a tied head by the absence of output.weight. Keys under
 * "<architecture>." that are not understood are refused (llm_arch_keys.c).
 */
#include <math.h>
#include <string.h>

#include "llm_arch_internal.h"

/* Pooling types of the format. */
#define GGUF_POOL_NONE 0
#define GGUF_POOL_MEAN 1
#define GGUF_POOL_CLS  2
#define GGUF_POOL_LAST 3
#define GGUF_POOL_RANK 4

/* The rows of a tensor; 0 when it is not there. */
static uint32_t
rows_of(const arch_reader *r, const char *name)
{
	const llm_tensor *t = llm_weights_find(r->w, name);

	return t != NULL && t->n_dims >= 1 && t->dims[0] <= UINT32_MAX ? (uint32_t) t->dims[0] : 0;
}

/* Sizes of embeddings, layers and positions. */
static void
read_sizes(arch_reader *r)
{
	llm_arch *arch = r->arch;
	uint32_t n_positions = rows_of(r, "position_embd.weight");

	arch->d_model = arch_need_u32(r, "embedding_length", UINT32_MAX);
	arch->d_ff = arch_need_u32(r, "feed_forward_length", UINT32_MAX);
	arch->n_ctx = arch_need_u32(r, "context_length", UINT32_MAX);
	arch->n_vocab = rows_of(r, "token_embd.weight");
	arch->n_token_types = arch->decoder ? 0 : rows_of(r, "token_types.weight");
	if (!arch->decoder && n_positions < arch->n_ctx)
		arch->n_ctx = n_positions;
	arch->norm_eps = (float) arch_get_double(r,
	                                         arch->decoder ? "attention.layer_norm_rms_epsilon"
	                                                       : "attention.layer_norm_epsilon",
	                                         arch->norm_eps);
}

/* Query and key heads and their size; keys and values must agree. */
static void
read_heads(arch_reader *r)
{
	uint32_t n_heads = arch_need_u32(r, "attention.head_count", UINT32_MAX);
	uint32_t n_kv = arch_get_u32(r, "attention.head_count_kv", n_heads);
	uint32_t d_head = arch_get_u32(r, "attention.key_length", r->arch->d_model / n_heads);

	if (arch_get_u32(r, "attention.value_length", d_head) != d_head)
		arch_fail(r, LLM_E_UNSUPPORTED, "heads whose keys and values differ are not implemented");
	if (arch_get_bool(r, "attention.causal", r->arch->decoder) != r->arch->decoder)
		arch_fail(r, LLM_E_UNSUPPORTED, "this value of \"attention.causal\" is not implemented");
	arch_set_heads(r, n_heads, n_kv, d_head);
}

/*
 * Biases and the head, by the tensors there are: the format has no keys for them. All layers must
 * then agree with the first, which the loader checks by asking for each one's tensor and by
 * refusing tensors left over.
 */
static void
read_tensors(arch_reader *r)
{
	llm_arch *arch = r->arch;

	arch->qkv_bias = rows_of(r, "blk.0.attn_q.bias") > 0 || rows_of(r, "blk.0.attn_qkv.bias") > 0;
	arch->attn_out_bias = rows_of(r, "blk.0.attn_output.bias") > 0;
	arch->ffn_bias = rows_of(r, "blk.0.ffn_down.bias") > 0;
	arch->tied = arch->decoder && rows_of(r, "output.weight") == 0;
}

/* Gemma's scale and softcaps. The format has no query_pre_attn_scalar: the largest models differ,
 * by size. */
static void
read_gemma(arch_reader *r)
{
	llm_arch *arch = r->arch;
	bool two = arch->family == LLM_FAMILY_GEMMA2;
	bool largest = arch->n_layers == (two ? 46u : 62u);
	double cap = arch_get_double(r, "attn_logit_softcapping", two ? 50.0 : 0.0);

	arch->embed_scale = sqrtf((float) arch->d_model);
	arch->final_softcap = (float) arch_get_double(r, "final_logit_softcapping", two ? 30.0 : 0.0);
	if (cap < 0.0 || arch->final_softcap < 0.0f)
		arch_fail(r, LLM_E_FORMAT, "a softcap is negative");
	for (uint32_t i = 0; r->status == LLM_OK && i < arch->n_layers; i++)
	{
		if (largest)
			arch->attn[i].scale =
			    1.0f / sqrtf((float) arch->d_model / (float) arch->attn[i].n_heads);
		arch->attn[i].softcap = (float) cap;
	}
}

/*
 * Which layers slide, kept in attn[].window. The pattern is the architecture's, not the file's:
 * every second layer of Gemma 2, all but every sixth of Gemma 3. Phi-3's window is applied, as in
 * the reference.
 */
static void
read_windows(arch_reader *r)
{
	llm_family family = r->arch->family;
	uint32_t window =
	    arch_get_u32(r, "attention.sliding_window", family == LLM_FAMILY_GEMMA2 ? 4096 : 0);
	uint32_t every = arch_get_u32(r, "attention.sliding_window_pattern",
	                              family == LLM_FAMILY_GEMMA2   ? 2
	                              : family == LLM_FAMILY_GEMMA3 ? 6
	                                                            : 0);

	if (window > 0 && !(family & (LLM_FAMILY_LLAMA | LLM_FAMILY_PHI3 | ARCH_GEMMAS)))
		arch_fail(r, LLM_E_UNSUPPORTED, "a sliding window is not implemented for %s",
		          r->family->gguf);
	for (uint32_t i = 0; r->status == LLM_OK && i < r->arch->n_layers; i++)
		if (every == 0 || (i + 1) % every != 0)
			r->arch->attn[i].window = window;
}

/* Takes a tensor of per-dimension divisors. The mapping may be unaligned for floats, hence the
 * copy. */
static void
read_divisors(arch_reader *r, const llm_tensor *t, arch_rope *rope)
{
	uint32_t n = rope->n_dims / 2;

	if (t->dtype != PP_F32 || t->n_dims != 1 || t->dims[0] != n)
	{
		arch_fail(r, LLM_E_FORMAT, "tensor \"%.60s\" does not have %u factors", t->name, n);
		return;
	}
	if ((rope->divisors = llm_arena_alloc(r->arch->arena, n, sizeof(float))) == NULL)
	{
		arch_fail(r, LLM_E_NOMEM, "out of memory");
		return;
	}
	memcpy(rope->divisors, t->data, n * sizeof(float));
	for (uint32_t i = 0; i < n; i++)
		if (!(rope->divisors[i] > 0.0f))
			arch_fail(r, LLM_E_FORMAT, "tensor \"%.60s\" is out of range", t->name);
}

/* The scaling the metadata names. */
static void
read_scaling(arch_reader *r, arch_rope *rope)
{
	const char *type = arch_get_string(r, "rope.scaling.type", "none");
	double attn_factor = arch_get_double(r, "rope.scaling.attn_factor", 1.0);

	rope->n_ctx_orig =
	    arch_get_double(r, "rope.scaling.original_context_length", (double) r->arch->n_ctx);
	rope->factor = arch_get_double(r, "rope.scaling.factor", 1.0);
	rope->beta_fast = arch_get_double(r, "rope.scaling.yarn_beta_fast", rope->beta_fast);
	rope->beta_slow = arch_get_double(r, "rope.scaling.yarn_beta_slow", rope->beta_slow);
	if (strcmp(type, "linear") == 0)
		rope->scaling = ARCH_SCALING_LINEAR;
	else if (strcmp(type, "yarn") == 0)
	{
		rope->scaling = ARCH_SCALING_YARN;
		/* the format's factor multiplies the temperature of the paper */
		if (rope->factor > 1.0)
			rope->attention_factor = attn_factor * (0.1 * log(rope->factor) + 1.0);
	}
	else if (strcmp(type, "longrope") == 0)
		rope->scaling = ARCH_SCALING_LONGROPE;
	else if (strcmp(type, "none") != 0)
		arch_fail(r, LLM_E_UNSUPPORTED, "rope scaling \"%.60s\" is not implemented", type);
}

/* LongRoPE: the factors and their context. Files carry no scaling type for it, only the tensors. */
static void
read_longrope(arch_reader *r, arch_rope *rope)
{
	bool is_long = arch_rope_is_long(r, rope);
	const llm_tensor *factors =
	    llm_weights_find(r->w, is_long ? "rope_factors_long.weight" : "rope_factors_short.weight");

	if (factors == NULL)
		return;
	rope->scaling = ARCH_SCALING_LONGROPE;
	rope->attention_factor = arch_get_double(r, "rope.scaling.attn_factor", 0.0);
	if (rope->n_ctx_orig > 0.0)
		rope->factor = r->arch->n_ctx / rope->n_ctx_orig;
	read_divisors(r, factors, rope);
	if (rope->n_ctx_orig >= 1.0 && rope->n_ctx_orig < r->arch->n_ctx && !is_long)
		r->arch->n_ctx = (uint32_t) rope->n_ctx_orig; /* beyond it the long factors would apply */
}

/* The rotary embeddings of all layers. Gemma 3's sliding layers have a base of their own and no
 * scaling. */
static void
read_ropes(arch_reader *r)
{
	uint32_t n_dims = arch_get_u32(r, "rope.dimension_count", r->arch->attn[0].d_head);
	const llm_tensor *freqs = llm_weights_find(r->w, "rope_freqs.weight");
	pp_rope full = {0};
	pp_rope sliding = {0};
	arch_rope rope;

	arch_rope_init(&rope, arch_get_double(r, "rope.freq_base", r->family->theta), n_dims);
	read_scaling(r, &rope);
	read_longrope(r, &rope);
	if (freqs != NULL && rope.scaling == ARCH_SCALING_NONE)
		read_divisors(r, freqs, &rope);
	else if (freqs != NULL)
		arch_fail(r, LLM_E_UNSUPPORTED, "rope_freqs.weight beside a rope scaling");
	arch_rope_build(r, &rope, r->family->gguf_interleaved, &full);
	sliding = full;
	if (r->arch->family == LLM_FAMILY_GEMMA3)
	{
		arch_rope_init(&rope, arch_get_double(r, "rope.freq_base_swa", 1e4), n_dims);
		arch_rope_build(r, &rope, false, &sliding);
	}
	for (uint32_t i = 0; r->status == LLM_OK && i < r->arch->n_layers; i++)
		r->arch->rope[i] = r->arch->attn[i].window > 0 ? sliding : full;
}

/* Pooling or classifier of an encoder. Embeddings are normalised, as the format's own runtime does.
 */
static void
read_pooling(arch_reader *r)
{
	llm_arch *arch = r->arch;
	uint32_t type = arch_get_u32(r, "pooling_type", GGUF_POOL_MEAN);

	arch->pooling = type == GGUF_POOL_CLS || type == GGUF_POOL_RANK ? PP_POOL_CLS
	                : type == GGUF_POOL_LAST                        ? PP_POOL_LAST
	                                                                : PP_POOL_MEAN;
	arch->l2_normalise = type != GGUF_POOL_RANK;
	if (type == GGUF_POOL_NONE || type > GGUF_POOL_RANK)
		arch_fail(r, LLM_E_UNSUPPORTED, "pooling type %u is not implemented", type);
	if (type != GGUF_POOL_RANK)
		return;
	arch->kind = LLM_KIND_RERANK;
	arch->classifier = LLM_CLS_BERT;
	arch->cls_dense_bias = true;
	arch->n_classes = rows_of(r, "cls.output.weight");
	arch->score_sigmoid = arch->n_classes == 1;
	if (arch->n_classes == 0)
		arch_fail(r, LLM_E_FORMAT, "the weights of the classifier are missing");
}

/* A decoder with a pooling type embeds. Only the last token's state, which has seen all others, is
 * implemented. */
static void
read_decoder_pooling(arch_reader *r)
{
	uint32_t type = arch_get_u32(r, "pooling_type", GGUF_POOL_NONE);

	if (type == GGUF_POOL_NONE)
		return;
	if (type != GGUF_POOL_LAST)
		arch_fail(r, LLM_E_UNSUPPORTED, "pooling type %u of a decoder is not implemented", type);
	r->arch->kind = LLM_KIND_EMBED;
	r->arch->pooling = PP_POOL_LAST;
	r->arch->l2_normalise = true;
}

/* Reads the metadata. */
void
arch_read_gguf(arch_reader *r)
{
	const llm_meta *meta = llm_weights_meta(r->w, "general.architecture");
	const char *text;
	uint64_t n;
	char name[32] = "";

	if (meta == NULL || meta->kind != LLM_META_STRING || !llm_meta_string(meta, 0, &text, &n))
		arch_fail(r, LLM_E_FORMAT, "\"general.architecture\" is missing");
	else if (n < sizeof(name))
		memcpy(name, text, (size_t) n);
	if (r->status == LLM_OK && (r->family = arch_family_of_gguf(name)) == NULL)
		arch_fail(r, LLM_E_UNSUPPORTED, "architecture \"%s\" is not implemented", name);
	if (r->status != LLM_OK)
		return;
	arch_check_gguf_keys(r);
	arch_begin(r);
	read_sizes(r);
	read_heads(r);
	if (r->status != LLM_OK)
		return;
	read_tensors(r);
	if (r->arch->family & ARCH_GEMMAS)
		read_gemma(r);
	if (r->arch->decoder)
	{
		read_windows(r);
		read_ropes(r);
		read_decoder_pooling(r);
	}
	else
		read_pooling(r);
}
