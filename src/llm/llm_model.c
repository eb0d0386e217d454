/*
 * llm_model.c: see llm_model.h.
 *
 * Loading walks the slots of a model twice with the same code. The first walk only checks: every
 * tensor the architecture needs is there, has the shape it implies and a type that can be read, and
 * no tensor is left over that would have changed the result (a bias nobody adds, an expert nobody
 * asks). The second one creates device weights. So a bad file costs no memory.
 *
 * The embedding table is a lookup straight into the mapped file in every precision, so a tied head
 * does not make a second float copy of it. Classifier heads stay in float: they are small and end
 * in one number.
 */
#include "llm_model.h"

#include <string.h>

#include "llm_check.h"
#include "llm_model_internal.h"
#include "llm_ranks.h"

/* A walk over the slots. The first failure sticks. */
typedef struct loader
{
	llm_model *m;
	const model_names *names;
	const char *prefix;
	bool dry;   /* check only */
	bool *used; /* by index of the tensor */
	llm_status status;
	llm_error *err;
} loader;

/*
 * One tensor of several that are stacked by rows, or some rows of it: a fused tensor is taken
 * apart, since ranks have their share of each part.
 */
typedef struct part
{
	model_slot slot;
	uint32_t n_rows;
	pp_split split;
	uint32_t first; /* of the tensor's n_whole rows; 0 of n_rows when n_whole is 0 */
	uint32_t n_whole;
} part;

/* The rows that a part's tensor has. */
static uint32_t
rows_of_tensor(const part *p)
{
	return p->n_whole > 0 ? p->n_whole : p->n_rows;
}

/* Finds a slot's tensor and notes its use; NULL when the file has none. */
static const llm_tensor *
find_tensor(loader *ld, model_slot slot, uint32_t layer, const char *suffix)
{
	const llm_weights *w = ld->m->weights;
	const llm_tensor *t;
	char name[MODEL_NAME_MAX];

	if (!model_name(ld->names, ld->prefix, slot, layer, suffix, name) ||
	    (t = llm_weights_find(w, name)) == NULL)
		return NULL;
	for (uint32_t i = 0; i < llm_weights_n_tensors(w); i++)
		if (llm_weights_tensor_at(w, i) == t)
			ld->used[i] = true;
	return t;
}

/* Records a failure on a slot, by the name its tensor should have. */
static void
fail_slot(loader *ld, llm_status code, model_slot slot, uint32_t layer, const char *suffix,
          const char *why)
{
	char name[MODEL_NAME_MAX];

	if (ld->status != LLM_OK)
		return;
	if (!model_name(ld->names, ld->prefix, slot, layer, suffix, name))
		ld->status = llm_fail(ld->err, LLM_E_INTERNAL, "a slot of the model has no name");
	else
		ld->status = llm_fail(ld->err, code, "tensor \"%s\" %s", name, why);
}

/* Finds a tensor that must be there with n_dims dims: rows (or more, when at_least) times n_cols.
 */
static const llm_tensor *
need_tensor(loader *ld, const part *p, uint32_t layer, const char *suffix, uint32_t n_dims,
            uint64_t n_cols, bool at_least)
{
	const llm_tensor *t = find_tensor(ld, p->slot, layer, suffix);
	const uint32_t n_rows = rows_of_tensor(p);
	uint64_t bytes;

	if (t == NULL)
		fail_slot(ld, LLM_E_FORMAT, p->slot, layer, suffix, "is missing");
	else if (t->n_dims != n_dims || (at_least ? t->dims[0] < n_rows : t->dims[0] != n_rows) ||
	         (n_dims == 2 && t->dims[1] != n_cols))
		fail_slot(ld, LLM_E_FORMAT, p->slot, layer, suffix, "has not the shape the model implies");
	else if (!llm_dtype_bytes(t->dtype, n_dims == 2 ? n_cols : n_rows, &bytes))
		fail_slot(ld, LLM_E_FORMAT, p->slot, layer, suffix, "is of a type its rows do not fit");
	else
		return ld->status == LLM_OK ? t : NULL;
	return NULL;
}

/* Copies n floats to the device. */
static float *
upload_floats(loader *ld, const float *values, uint64_t n)
{
	pp_backend *be = ld->m->be;
	float *dev = be->ops->alloc(be, (size_t) n * sizeof(float));

	if (dev == NULL)
		ld->status = llm_fail(ld->err, LLM_E_NOMEM, "no memory for weights on %s", be->name);
	else if (be->ops->upload(be, dev, values, (size_t) n * sizeof(float)) != PP_OK)
	{
		be->ops->release(be, dev);
		dev = NULL;
		ld->status = llm_fail(ld->err, LLM_E_DEVICE, "%.200s", be->message);
	}
	return dev;
}

/* n values of a part's tensor from the first on, in float. */
static void
read_floats(loader *ld, const part *p, uint32_t layer, const char *suffix, const llm_tensor *t,
            uint64_t first, uint64_t n, float *out)
{
	uint64_t skipped;
	uint64_t bytes;

	if (!llm_dtype_bytes(t->dtype, first, &skipped) || !llm_dtype_bytes(t->dtype, n, &bytes))
		fail_slot(ld, LLM_E_UNSUPPORTED, p->slot, layer, suffix,
		          "is of a type that does not split into whole blocks");
	else
		ld->status = llm_dequantise(t->dtype, (const uint8_t *) t->data + skipped, out, n, ld->err);
}

/*
 * Loads parts one after another as floats: vectors (n_cols 0), or tables of n_cols columns whose
 * tensors may have more rows than asked for. What belongs to rows that ranks share is in the order
 * of the ranks: each rank's share of every part, then the next one's. NULL in a dry walk and on
 * failure.
 */
static float *
load_floats(loader *ld, const part *parts, uint32_t n_parts, uint32_t layer, const char *suffix,
            uint32_t n_cols)
{
	const uint32_t n_ranks = ld->m->be->n_ranks;
	const uint32_t n_shares = parts[0].split == PP_SPLIT_ROWS && n_ranks > 0 ? n_ranks : 1;
	uint64_t width = n_cols > 0 ? n_cols : 1;
	uint64_t n = 0;
	uint64_t used = 0;
	float *host = NULL;
	float *dev = NULL;

	for (uint32_t i = 0; i < n_parts; i++)
		n += parts[i].n_rows * width;
	if (ld->status == LLM_OK && !ld->dry &&
	    (host = llm_malloc_array((size_t) n, sizeof(float))) == NULL)
		ld->status = llm_fail(ld->err, LLM_E_NOMEM, "out of memory");
	for (uint32_t i = 0; ld->status == LLM_OK && i < n_shares * n_parts; i++)
	{
		const part *p = &parts[i % n_parts];
		const uint32_t n_rows = p->n_rows / n_shares;
		const llm_tensor *t =
		    need_tensor(ld, p, layer, suffix, n_cols > 0 ? 2 : 1, n_cols, n_cols > 0);

		if (t != NULL && host != NULL)
			read_floats(ld, p, layer, suffix, t, (p->first + i / n_parts * n_rows) * width,
			            n_rows * width, host + used);
		used += n_rows * width;
	}
	if (ld->status == LLM_OK && host != NULL)
		dev = upload_floats(ld, host, n);
	llm_free(host);
	return dev;
}

/* One vector. */
static float *
load_vector(loader *ld, model_slot slot, uint32_t layer, const char *suffix, uint32_t n)
{
	return load_floats(ld, &(part){.slot = slot, .n_rows = n}, 1, layer, suffix, 0);
}

/*
 * Stacks parts into one matrix. NULL in a dry walk and on failure. The parts keep their own block
 * types: "Q4_K_M" files store v in another than q and k.
 */
static pp_matrix *
load_matrix(loader *ld, const part *parts, uint32_t n_parts, uint32_t layer, uint32_t n_cols,
            pp_precision precision)
{
	pp_backend *be = ld->m->be;
	pp_matrix_part stack[3];
	pp_matrix *matrix;

	for (uint32_t i = 0; ld->status == LLM_OK && i < n_parts; i++)
	{
		const llm_tensor *t = need_tensor(ld, &parts[i], layer, ".weight", 2, n_cols, false);

		if (t == NULL)
			return NULL;
		stack[i] =
		    (pp_matrix_part){.dtype = t->dtype, .n_rows = parts[i].n_rows, .split = parts[i].split};
		llm_dtype_bytes(t->dtype, n_cols, &stack[i].row_bytes);
		stack[i].data = (const uint8_t *) t->data + parts[i].first * stack[i].row_bytes;
	}
	if (ld->status != LLM_OK || ld->dry)
		return NULL;
	if ((matrix = be->ops->matrix_create(be, stack, n_parts, n_cols, precision)) == NULL)
		ld->status =
		    llm_fail(ld->err, LLM_E_NOMEM, "could not prepare weights: %.200s", be->message);
	/* a converted tensor is not read again: without this, file and matrices lie side by side */
	llm_weights_advise_cold(ld->m->weights);
	return matrix;
}

/* A norm's weight and, where norms have one, its bias. */
static void
load_norm(loader *ld, model_slot slot, uint32_t layer, float **weight, float **bias)
{
	const llm_arch *arch = &ld->m->arch;

	*weight = load_vector(ld, slot, layer, ".weight", arch->d_model);
	if (bias != NULL && arch->norm_bias)
		*bias = load_vector(ld, slot, layer, ".bias", arch->d_model);
}

/*
 * Attention's matrices: three tensors, or one that holds all rows (Phi-3, ModernBERT): q, then k,
 * then v, which is the order of the fused op too.
 */
static void
load_attention(loader *ld, uint32_t i, llm_layer *layer)
{
	const llm_arch *arch = &ld->m->arch;
	const pp_attn *attn = &arch->attn[i];
	uint32_t n_q = attn->n_heads * attn->d_head;
	uint32_t n_kv = attn->n_kv_heads * attn->d_head;
	uint32_t n_all = n_q + 2 * n_kv;
	const part apart[3] = {{SLOT_Q, n_q, PP_SPLIT_ROWS, 0, 0},
	                       {SLOT_K, n_kv, PP_SPLIT_ROWS, 0, 0},
	                       {SLOT_V, n_kv, PP_SPLIT_ROWS, 0, 0}};
	const part fused[3] = {{SLOT_QKV, n_q, PP_SPLIT_ROWS, 0, n_all},
	                       {SLOT_QKV, n_kv, PP_SPLIT_ROWS, n_q, n_all},
	                       {SLOT_QKV, n_kv, PP_SPLIT_ROWS, n_q + n_kv, n_all}};
	bool is_fused = find_tensor(ld, SLOT_QKV, i, ".weight") != NULL;
	const part *parts = is_fused ? fused : apart;
	const part out = {.slot = SLOT_ATTN_OUT, .n_rows = arch->d_model, .split = PP_SPLIT_COLS};

	layer->qkv = load_matrix(ld, parts, 3, i, arch->d_model, ld->m->precision);
	if (arch->qkv_bias)
		layer->qkv_bias = load_floats(ld, parts, 3, i, ".bias", 0);
	if (arch->qk_norm)
	{
		layer->q_norm = load_vector(ld, SLOT_Q_NORM, i, ".weight", attn->d_head);
		layer->k_norm = load_vector(ld, SLOT_K_NORM, i, ".weight", attn->d_head);
	}
	layer->attn_out = load_matrix(ld, &out, 1, i, n_q, ld->m->precision);
	if (arch->attn_out_bias)
		layer->attn_out_bias = load_vector(ld, SLOT_ATTN_OUT, i, ".bias", arch->d_model);
}

/*
 * The MLP's matrices: gate and up apart, both in one tensor, or up alone. In the fused forms the
 * activated half comes first, in ModernBERT's Wi as in Phi-3's gate_up_proj.
 */
static void
load_mlp(loader *ld, uint32_t i, llm_layer *layer)
{
	const llm_arch *arch = &ld->m->arch;
	uint32_t f = arch->d_ff;
	const part apart[2] = {{SLOT_GATE, f, PP_SPLIT_ROWS, 0, 0}, {SLOT_UP, f, PP_SPLIT_ROWS, 0, 0}};
	const part fused[2] = {{SLOT_GATE_UP, f, PP_SPLIT_ROWS, 0, 2 * f},
	                       {SLOT_GATE_UP, f, PP_SPLIT_ROWS, f, 2 * f}};
	bool is_apart = find_tensor(ld, SLOT_GATE, i, ".weight") != NULL;
	const part *parts = !arch->mlp_gated ? &apart[1] : is_apart ? apart : fused;
	uint32_t n_parts = arch->mlp_gated ? 2 : 1;
	const part out = {.slot = SLOT_FFN_OUT, .n_rows = arch->d_model, .split = PP_SPLIT_COLS};

	layer->ffn_in = load_matrix(ld, parts, n_parts, i, arch->d_model, ld->m->precision);
	layer->ffn_out = load_matrix(ld, &out, 1, i, f, ld->m->precision);
	if (arch->ffn_bias)
	{
		layer->ffn_in_bias = load_floats(ld, parts, n_parts, i, ".bias", 0);
		layer->ffn_out_bias = load_vector(ld, SLOT_FFN_OUT, i, ".bias", arch->d_model);
	}
}

/* One layer. */
static void
load_layer(loader *ld, uint32_t i, llm_layer *layer)
{
	const llm_arch *arch = &ld->m->arch;

	if (i > 0 || !arch->attn_norm_first_absent)
		load_norm(ld, SLOT_ATTN_NORM, i, &layer->attn_norm, &layer->attn_norm_b);
	load_norm(ld, SLOT_FFN_NORM, i, &layer->ffn_norm, &layer->ffn_norm_b);
	if (arch->norm_place == LLM_NORM_SANDWICH)
	{
		load_norm(ld, SLOT_ATTN_POST_NORM, i, &layer->attn_post_norm, NULL);
		load_norm(ld, SLOT_FFN_POST_NORM, i, &layer->ffn_post_norm, NULL);
	}
	load_attention(ld, i, layer);
	load_mlp(ld, i, layer);
}

/*
 * Of the matrices around the layers, which stay out of fp8: a table is looked up as it is stored,
 * and logits need more than three bits of fraction.
 */
static pp_precision
table_precision(const llm_model *m)
{
	return m->precision == PP_PREC_BF16 ? PP_PREC_BF16 : PP_PREC_NATIVE;
}

/* Tables in front of the layers. */
static void
load_embeddings(loader *ld)
{
	llm_model *m = ld->m;
	const llm_arch *arch = &m->arch;

	m->embed = load_matrix(ld, &(part){.slot = SLOT_EMBED, .n_rows = arch->n_vocab}, 1, 0,
	                       arch->d_model, table_precision(m));
	if (arch->pos_learned)
		m->pos_table =
		    load_floats(ld, &(part){.slot = SLOT_POS, .n_rows = arch->n_ctx + arch->pos_offset}, 1,
		                0, ".weight", arch->d_model);
	if (arch->n_token_types > 0)
		m->type_table = load_floats(ld, &(part){.slot = SLOT_TYPES, .n_rows = arch->n_token_types},
		                            1, 0, ".weight", arch->d_model);
	if (arch->embed_norm)
		load_norm(ld, SLOT_EMBED_NORM, 0, &m->embed_norm_w, &m->embed_norm_b);
}

/*
 * What stands behind the layers: final norm, language model head or classifier. A native table can
 * be looked up and multiplied by alike, so a tied head is then the table itself.
 */
static void
load_heads(loader *ld)
{
	llm_model *m = ld->m;
	const llm_arch *arch = &m->arch;
	bool native = m->precision >= PP_PREC_NATIVE;
	pp_precision small = native ? table_precision(m) : PP_PREC_F32;

	if (arch->final_norm)
		load_norm(ld, SLOT_FINAL_NORM, 0, &m->final_norm_w, &m->final_norm_b);
	if (arch->kind == LLM_KIND_EMBED)
		return; /* a decoder's vector is its last state: the head, if it is there, goes unread */
	if (arch->decoder && arch->tied && native)
		m->head = m->embed;
	else if (arch->decoder)
		m->head = load_matrix(ld,
		                      &(part){.slot = arch->tied ? SLOT_EMBED : SLOT_HEAD,
		                              .n_rows = arch->n_vocab},
		                      1, 0, arch->d_model, native ? table_precision(m) : m->precision);
	if (arch->classifier == LLM_CLS_NONE)
		return;
	m->cls_dense = load_matrix(ld, &(part){.slot = SLOT_CLS_DENSE, .n_rows = arch->d_model}, 1, 0,
	                           arch->d_model, small);
	if (arch->cls_dense_bias)
		m->cls_dense_b = load_vector(ld, SLOT_CLS_DENSE, 0, ".bias", arch->d_model);
	if (arch->classifier == LLM_CLS_MODERNBERT)
		load_norm(ld, SLOT_CLS_NORM, 0, &m->cls_norm_w, &m->cls_norm_b);
	m->cls_out = load_matrix(ld, &(part){.slot = SLOT_CLS_OUT, .n_rows = arch->n_classes}, 1, 0,
	                         arch->d_model, small);
	m->cls_out_b = load_vector(ld, SLOT_CLS_OUT, 0, ".bias", arch->n_classes);
}

/* Walks all slots. */
static void
load_slots(loader *ld)
{
	load_embeddings(ld);
	for (uint32_t i = 0; ld->status == LLM_OK && i < ld->m->arch.n_layers; i++)
		load_layer(ld, i, &ld->m->layers[i]);
	load_heads(ld);
}

/* Refuses tensors that nothing reads, counts the parameters of those that are. */
static void
check_leftovers(loader *ld)
{
	const llm_weights *w = ld->m->weights;

	for (uint32_t i = 0; ld->status == LLM_OK && i < llm_weights_n_tensors(w); i++)
	{
		const llm_tensor *t = llm_weights_tensor_at(w, i);
		uint64_t n = 1;

		for (uint32_t d = 0; d < t->n_dims; d++)
			n *= t->dims[d];
		if (ld->used[i])
			ld->m->n_params += n;
		else if (!model_name_is_inert(&ld->m->arch, t->name))
			ld->status = llm_fail(ld->err, LLM_E_UNSUPPORTED,
			                      "tensor \"%.120s\" belongs to nothing that %s implements",
			                      t->name, ld->m->arch.name);
	}
}

/*
 * Checks, then loads the weights. What has been created when a later step fails is in m, and
 * llm_model_free takes it from there.
 */
static llm_status
load_weights(llm_model *m, llm_error *err)
{
	pp_memory_info before;
	pp_memory_info after;
	loader ld = {.m = m, .dry = true, .status = LLM_OK, .err = err};

	if ((ld.names = model_names_of(m->weights, &m->arch, &ld.prefix)) == NULL)
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s has no tensor names in this format",
		                m->arch.name);
	m->layers = llm_calloc(m->arch.n_layers, sizeof(llm_layer));
	ld.used = llm_calloc(llm_weights_n_tensors(m->weights), sizeof(bool));
	if (m->layers == NULL || ld.used == NULL)
		ld.status = llm_fail(err, LLM_E_NOMEM, "out of memory");
	else
	{
		load_slots(&ld);
		check_leftovers(&ld);
	}
	if (ld.status == LLM_OK)
	{
		ld.dry = false;
		m->be->ops->memory_info(m->be, &before);
		load_slots(&ld);
		m->be->ops->memory_info(m->be, &after);
		m->bytes = after.bytes_weights - before.bytes_weights;
		llm_weights_advise_cold(m->weights);
	}
	llm_free(ld.used);
	return ld.status;
}

/* Tokenizer and chat family; the table must have a row for every token. */
static llm_status
load_tokens(llm_model *m, llm_error *err)
{
	char *text;
	size_t bytes;
	llm_status status;

	if ((status = llm_tokenizer_load(m->weights, &m->tokenizer, err)) != LLM_OK)
		return status;
	if (llm_tokenizer_n_vocab(m->tokenizer) > m->arch.n_vocab)
		return llm_fail(err, LLM_E_FORMAT,
		                "the tokenizer has %u tokens, the embedding table %u rows",
		                llm_tokenizer_n_vocab(m->tokenizer), m->arch.n_vocab);
	if ((status = model_chat_template(m->weights, &text, &bytes, err)) != LLM_OK)
		return status;
	m->chat = llm_chat_detect(text, bytes, m->tokenizer);
	llm_free(text);
	return LLM_OK;
}

/* Opens, describes, checks, then loads; on failure nothing stays. */
llm_status
llm_model_load(const char *path, pp_backend *be, pp_precision precision, uint32_t n_ctx,
               llm_model **out, llm_error *err)
{
	llm_model *m = llm_calloc(1, sizeof(*m));
	llm_status status;

	*out = NULL;
	if (m == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory");
	m->be = be;
	m->precision = precision;
	if ((status = llm_weights_open(path, &m->weights, err)) == LLM_OK &&
	    (status = llm_arch_read(m->weights, n_ctx, &m->arch, err)) == LLM_OK &&
	    (be->n_ranks == 0 || (status = llm_ranks_check(&m->arch, be->n_ranks, err)) == LLM_OK) &&
	    (status = load_tokens(m, err)) == LLM_OK)
		status = load_weights(m, err);
	if (status != LLM_OK)
	{
		llm_model_free(m);
		return status;
	}
	*out = m;
	return LLM_OK;
}

/* Frees a device vector, if there is one. */
static void
free_vector(pp_backend *be, float *dev)
{
	if (dev != NULL)
		be->ops->release(be, dev);
}

/* Frees a matrix, if there is one. */
static void
free_matrix(pp_backend *be, pp_matrix *matrix)
{
	if (matrix != NULL)
		be->ops->matrix_destroy(be, matrix);
}

/* Frees the weights of one layer. */
static void
free_layer(pp_backend *be, llm_layer *layer)
{
	float *vectors[] = {layer->attn_norm,   layer->attn_norm_b,   layer->attn_post_norm,
	                    layer->ffn_norm,    layer->ffn_norm_b,    layer->ffn_post_norm,
	                    layer->qkv_bias,    layer->q_norm,        layer->k_norm,
	                    layer->ffn_in_bias, layer->attn_out_bias, layer->ffn_out_bias};

	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
		free_vector(be, vectors[i]);
	free_matrix(be, layer->qkv);
	free_matrix(be, layer->attn_out);
	free_matrix(be, layer->ffn_in);
	free_matrix(be, layer->ffn_out);
}

/* NULL is fine, and so is a model that failed halfway. */
void
llm_model_free(llm_model *m)
{
	if (m == NULL)
		return;
	float *vectors[] = {m->pos_table,    m->type_table,   m->embed_norm_w, m->embed_norm_b,
	                    m->final_norm_w, m->final_norm_b, m->cls_dense_b,  m->cls_out_b,
	                    m->cls_norm_w,   m->cls_norm_b};

	for (uint32_t i = 0; m->layers != NULL && i < m->arch.n_layers; i++)
		free_layer(m->be, &m->layers[i]);
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
		free_vector(m->be, vectors[i]);
	free_matrix(m->be, m->cls_dense);
	free_matrix(m->be, m->cls_out);
	if (m->head != m->embed)
		free_matrix(m->be, m->head);
	free_matrix(m->be, m->embed);
	llm_free(m->layers);
	llm_tokenizer_free(m->tokenizer);
	llm_arch_free(&m->arch);
	llm_weights_close(m->weights);
	llm_free(m);
}
