/*
 * llm_forward.c: see llm_forward.h. The workspace, the layers, the decoder's head.
 *
 * One walk over the layers serves every family: where the norms stand (before a block, after it, or
 * both) is the only difference in structure, the rest is in the op's arguments. Additions to the
 * residual stream are fused into the norm that follows them. Only the rows asked for reach the
 * final norm and the head, and the head runs in blocks of rows, so that its output never takes more
 * than a few rows times the vocabulary.
 *
 * Ownership: device scratch belongs to the workspace; the logits of the last pass are made on
 * demand from the normed rows that it keeps. One thread at a time.
 */
#include "llm_forward.h"

#include <math.h>
#include <string.h>

#include "llm_check.h"
#include "llm_forward_internal.h"

/* The head reads its whole matrix once a block of rows: enough of them to make that cheap. */
#define LOGIT_ROWS_MAX 64u

/* Widths of the scratch, in elements a token or a row. */
typedef struct scratch_sizes
{
	uint64_t d;
	uint64_t wide;
	uint64_t wide2;
	uint64_t logits; /* of the whole logits buffer */
	uint32_t logit_rows;
} scratch_sizes;

/* The larger of two. */
static uint64_t
max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* What the model's layers need. */
static scratch_sizes
sizes_of(const llm_model *m, uint32_t max_rows)
{
	const llm_arch *arch = &m->arch;
	scratch_sizes s = {.d = arch->d_model};

	s.wide = (uint64_t) arch->d_ff * (arch->mlp_gated ? 2 : 1);
	s.wide2 = arch->d_ff;
	/* heads may differ from layer to layer: the widest counts */
	for (uint32_t i = 0; i < arch->n_layers; i++)
	{
		uint64_t q = (uint64_t) arch->attn[i].n_heads * arch->attn[i].d_head;

		s.wide = max_u64(s.wide, q + 2ull * arch->attn[i].n_kv_heads * arch->attn[i].d_head);
		s.wide2 = max_u64(s.wide2, q);
	}
	s.logit_rows = max_rows < LOGIT_ROWS_MAX ? max_rows : LOGIT_ROWS_MAX;
	if (arch->kind == LLM_KIND_GENERATE)
		s.logits = (uint64_t) s.logit_rows * arch->n_vocab;
	else
		s.logits = (uint64_t) max_rows * arch->n_classes;
	return s;
}

/* What llm_workspace_create will take. */
uint64_t
llm_workspace_bytes(const llm_model *m, uint32_t max_tokens, uint32_t max_rows)
{
	scratch_sizes s = sizes_of(m, max_rows);

	return (max_tokens * (2 * s.d + s.wide + s.wide2) + 2 * max_rows * s.d) * m->be->act_bytes +
	       (max_tokens * s.d + (m->arch.decoder ? 0 : max_rows * s.d) + s.logits + s.logit_rows) *
	           sizeof(float) +
	       s.logit_rows * sizeof(pp_top) + max_tokens * sizeof(uint32_t) +
	       (m->arch.decoder ? 0 : max_rows * sizeof(pp_segment));
}

/* Takes n * width elements on the device; NULL when there is no memory. */
static void *
take(const llm_workspace *ws, uint64_t n, uint64_t width, size_t element)
{
	uint64_t bytes;

	if (!pp_mul_ok(n, width, &bytes) || !pp_mul_ok(bytes, element, &bytes) || bytes > SIZE_MAX)
		return NULL;
	return ws->m->be->ops->alloc(ws->m->be, bytes > 0 ? (size_t) bytes : sizeof(float));
}

/* Takes all scratch at once, so that no pass can run out of memory. */
llm_status
llm_workspace_create(const llm_model *m, uint32_t max_tokens, uint32_t max_rows,
                     llm_workspace **out, llm_error *err)
{
	scratch_sizes s = sizes_of(m, max_rows);
	llm_workspace *ws;

	*out = NULL;
	if (max_tokens == 0 || max_rows == 0)
		return llm_fail(err, LLM_E_RANGE, "a workspace needs at least one token and one row");
	if ((ws = llm_calloc(1, sizeof(*ws))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory");
	ws->m = m;
	ws->max_tokens = max_tokens;
	ws->max_rows = max_rows;
	ws->max_logit_rows = s.logit_rows;
	ws->x = take(ws, max_tokens, s.d, sizeof(float));
	ws->normed = take(ws, max_tokens, s.d, m->be->act_bytes);
	ws->delta = take(ws, max_tokens, s.d, m->be->act_bytes);
	ws->wide = take(ws, max_tokens, s.wide, m->be->act_bytes);
	ws->wide2 = take(ws, max_tokens, s.wide2, m->be->act_bytes);
	ws->rows = take(ws, max_rows, s.d, m->be->act_bytes);
	ws->rows2 = take(ws, max_rows, s.d, m->be->act_bytes);
	ws->pooled = take(ws, m->arch.decoder ? 0 : max_rows, s.d, sizeof(float));
	ws->logits = take(ws, s.logits, 1, sizeof(float));
	ws->lse = take(ws, s.logit_rows, 1, sizeof(float));
	ws->top = take(ws, s.logit_rows, 1, sizeof(pp_top));
	ws->index = llm_malloc_array(max_tokens, sizeof(uint32_t));
	ws->segs = llm_malloc_array(m->arch.decoder ? 0 : max_rows, sizeof(pp_segment));
	if (ws->x == NULL || ws->normed == NULL || ws->delta == NULL || ws->wide == NULL ||
	    ws->wide2 == NULL || ws->rows == NULL || ws->rows2 == NULL || ws->pooled == NULL ||
	    ws->logits == NULL || ws->lse == NULL || ws->top == NULL || ws->index == NULL ||
	    ws->segs == NULL)
	{
		llm_workspace_free(ws);
		return llm_fail(err, LLM_E_NOMEM, "no memory for the scratch of %u tokens", max_tokens);
	}
	*out = ws;
	return LLM_OK;
}

/* NULL is fine. */
void
llm_workspace_free(llm_workspace *ws)
{
	if (ws == NULL)
		return;
	void *buffers[] = {ws->x,     ws->normed, ws->delta,  ws->wide, ws->wide2, ws->rows,
	                   ws->rows2, ws->pooled, ws->logits, ws->lse,  ws->top};

	for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
		if (buffers[i] != NULL)
			ws->m->be->ops->release(ws->m->be, buffers[i]);
	llm_free(ws->index);
	llm_free(ws->segs);
	llm_free(ws);
}

/* Arms the copy; it happens once. */
void
llm_workspace_tap(llm_workspace *ws, int layer, float *out)
{
	ws->tap_layer = layer;
	ws->tap = out;
}

/* Turns a backend's result into a status, with its message. */
llm_status
forward_check(const llm_workspace *ws, pp_result result, llm_error *err)
{
	switch (result)
	{
		case PP_OK:
			return LLM_OK;
		case PP_E_NOMEM:
			return llm_fail(err, LLM_E_NOMEM, "%.200s", ws->m->be->message);
		case PP_E_UNSUPPORTED:
			return llm_fail(err, LLM_E_UNSUPPORTED, "%.200s", ws->m->be->message);
		default:
			return llm_fail(err, LLM_E_DEVICE, "%.200s", ws->m->be->message);
	}
}

/* The segments must cover the tokens in order, with nothing between them. */
static llm_status
check_segments(const llm_batch *batch, llm_error *err)
{
	uint64_t next = 0;

	for (uint32_t s = 0; s < batch->n_segs; s++)
	{
		if (batch->segs[s].first_token != next)
			return llm_fail(err, LLM_E_RANGE, "segment %u does not follow the one before", s);
		next += batch->segs[s].n_new;
	}
	if (next != batch->n_tokens)
		return llm_fail(err, LLM_E_RANGE, "the segments do not cover the batch");
	return LLM_OK;
}

/*
 * Checks a batch against the model and the workspace. Ids and positions index tables on the device,
 * which checks nothing itself.
 */
llm_status
forward_check_batch(const llm_workspace *ws, const llm_batch *batch, llm_error *err)
{
	const llm_arch *arch = &ws->m->arch;

	if (batch->n_tokens > ws->max_tokens)
		return llm_fail(err, LLM_E_RANGE, "%u tokens are more than the workspace's %u",
		                batch->n_tokens, ws->max_tokens);
	for (uint32_t t = 0; t < batch->n_tokens; t++)
	{
		if (batch->tokens[t] < 0 || (uint32_t) batch->tokens[t] >= arch->n_vocab)
			return llm_fail(err, LLM_E_RANGE, "token %d is not in the vocabulary",
			                batch->tokens[t]);
		if (batch->pos[t] >= arch->n_ctx)
			return llm_fail(err, LLM_E_TOO_LONG, "position %u is beyond the model's context of %u",
			                batch->pos[t], arch->n_ctx);
		if (batch->types != NULL && arch->n_token_types > 0 &&
		    batch->types[t] >= arch->n_token_types)
			return llm_fail(err, LLM_E_RANGE, "token type %u is not in the table", batch->types[t]);
	}
	return check_segments(batch, err);
}

/* out = norm(x += add), with the model's kind of norm; without x the norm of add. */
static pp_result
layer_norm(const llm_workspace *ws, pp_act *out, float *x, const pp_act *add, const float *w,
           const float *b, uint32_t n)
{
	const llm_arch *arch = &ws->m->arch;

	return ws->m->be->ops->norm(ws->m->be, out, x, add, w, b, n, arch->d_model, arch->norm_eps,
	                            arch->norm_kind, arch->norm_plus_one);
}

/* out = x = norm(x + add). */
static pp_result
layer_norm_post(const llm_workspace *ws, pp_act *out, const pp_act *add, const float *w,
                const float *b, uint32_t n)
{
	const llm_arch *arch = &ws->m->arch;

	return ws->m->be->ops->norm_post(ws->m->be, out, ws->x, add, w, b, n, arch->d_model,
	                                 arch->norm_eps, arch->norm_kind, arch->norm_plus_one);
}

/* Whether the first block reads the embeddings themselves. */
static bool
needs_input(const llm_model *m)
{
	return m->arch.norm_place == LLM_NORM_POST ||
	       (m->arch.n_layers > 0 && m->layers[0].attn_norm == NULL);
}

/*
 * x = embeddings of the tokens, with positions, token types and a norm where the model has them.
 * Without types all tokens are of type 0, whose row is still added: it is a bias the model was
 * trained with. Where no norm stands in front of the first block, normed is its input.
 */
static pp_result
embed_tokens(llm_workspace *ws, const llm_batch *batch)
{
	const llm_model *m = ws->m;
	const llm_arch *arch = &m->arch;
	const pp_ops *ops = m->be->ops;
	uint32_t n = batch->n_tokens;
	pp_result result = ops->embed(m->be, ws->x, m->embed, batch->tokens, n, arch->embed_scale);

	if (result == PP_OK && m->type_table != NULL)
	{
		for (uint32_t t = 0; t < n; t++)
			ws->index[t] = batch->types != NULL ? batch->types[t] : 0;
		result = ops->add_rows(m->be, ws->x, m->type_table, ws->index, n, arch->d_model);
	}
	if (result == PP_OK && m->pos_table != NULL)
	{
		for (uint32_t t = 0; t < n; t++)
			ws->index[t] = batch->pos[t] + arch->pos_offset;
		result = ops->add_rows(m->be, ws->x, m->pos_table, ws->index, n, arch->d_model);
	}
	if (result == PP_OK && arch->embed_norm)
		result = layer_norm_post(ws, ws->normed, NULL, m->embed_norm_w, m->embed_norm_b, n);
	else if (result == PP_OK && needs_input(m))
		result = ops->narrow(m->be, ws->normed, ws->x, (size_t) n * arch->d_model);
	return result;
}

/* delta = attention block of normed. wide holds qkv until it is split, then attention's result. */
static pp_result
run_attention(llm_workspace *ws, const llm_batch *batch, uint32_t i)
{
	const llm_model *m = ws->m;
	const llm_arch *arch = &m->arch;
	const llm_layer *layer = &m->layers[i];
	const pp_ops *ops = m->be->ops;
	uint32_t n = batch->n_tokens;
	pp_result result = ops->matmul(m->be, ws->wide, ws->normed, layer->qkv, layer->qkv_bias, n);

	if (result == PP_OK)
		result =
		    ops->qkv_prepare(m->be, ws->wide2, ws->wide, batch->pos, batch->segs, batch->n_segs, n,
		                     i, &arch->attn[i], &arch->rope[i], layer->q_norm, layer->k_norm,
		                     arch->norm_eps, arch->norm_plus_one);
	if (result == PP_OK)
		result = ops->attention(m->be, ws->wide, ws->wide2, batch->segs, batch->n_segs, n, i,
		                        &arch->attn[i]);
	if (result == PP_OK)
		result = ops->matmul(m->be, ws->delta, ws->wide, layer->attn_out, layer->attn_out_bias, n);
	if (result == PP_OK && layer->attn_post_norm != NULL)
		result = layer_norm(ws, ws->delta, NULL, ws->delta, layer->attn_post_norm, NULL, n);
	return result;
}

/* out = feed-forward block of x in three ops, for backends that have none for it. */
static pp_result
mlp_apart(pp_backend *be, pp_act *out, const pp_act *x, const pp_mlp *mlp, uint32_t n)
{
	pp_result result = be->ops->matmul(be, mlp->dev_wide, x, mlp->in, mlp->dev_in_bias, n);

	if (result == PP_OK)
		result =
		    be->ops->activate(be, mlp->dev_hidden, mlp->dev_wide, n, mlp->f, mlp->act, mlp->gated);
	if (result == PP_OK)
		result = be->ops->matmul(be, out, mlp->dev_hidden, mlp->out, mlp->dev_out_bias, n);
	return result;
}

/* delta = MLP block of normed. */
static pp_result
run_mlp(llm_workspace *ws, uint32_t n, uint32_t i)
{
	const llm_model *m = ws->m;
	const llm_arch *arch = &m->arch;
	const llm_layer *layer = &m->layers[i];
	const pp_mlp mlp = {.in = layer->ffn_in,
	                    .out = layer->ffn_out,
	                    .dev_in_bias = layer->ffn_in_bias,
	                    .dev_out_bias = layer->ffn_out_bias,
	                    .dev_wide = ws->wide,
	                    .dev_hidden = ws->wide2,
	                    .f = arch->d_ff,
	                    .act = arch->act,
	                    .gated = arch->mlp_gated};
	pp_result result = (m->be->ops->mlp != NULL ? m->be->ops->mlp : mlp_apart)(m->be, ws->delta,
	                                                                           ws->normed, &mlp, n);

	if (result == PP_OK && layer->ffn_post_norm != NULL)
		result = layer_norm(ws, ws->delta, NULL, ws->delta, layer->ffn_post_norm, NULL, n);
	return result;
}

/* One layer with norms before its blocks (and perhaps after, inside run_*): delta is left pending.
 */
static pp_result
run_layer_pre(llm_workspace *ws, const llm_batch *batch, uint32_t i)
{
	const llm_layer *layer = &ws->m->layers[i];
	uint32_t n = batch->n_tokens;
	pp_result result = PP_OK;

	if (layer->attn_norm != NULL)
		result = layer_norm(ws, ws->normed, ws->x, i > 0 ? ws->delta : NULL, layer->attn_norm,
		                    layer->attn_norm_b, n);
	if (result == PP_OK)
		result = run_attention(ws, batch, i);
	if (result == PP_OK)
		result =
		    layer_norm(ws, ws->normed, ws->x, ws->delta, layer->ffn_norm, layer->ffn_norm_b, n);
	if (result == PP_OK)
		result = run_mlp(ws, n, i);
	return result;
}

/* One layer with norms after its blocks: x is complete, and normed is x. */
static pp_result
run_layer_post(llm_workspace *ws, const llm_batch *batch, uint32_t i)
{
	const llm_layer *layer = &ws->m->layers[i];
	uint32_t n = batch->n_tokens;
	pp_result result = run_attention(ws, batch, i);

	if (result == PP_OK)
		result =
		    layer_norm_post(ws, ws->normed, ws->delta, layer->attn_norm, layer->attn_norm_b, n);
	if (result == PP_OK)
		result = run_mlp(ws, n, i);
	if (result == PP_OK)
		result = layer_norm_post(ws, ws->normed, ws->delta, layer->ffn_norm, layer->ffn_norm_b, n);
	return result;
}

/* Copies the hidden state out, when this is the layer asked for. */
static pp_result
tap_state(llm_workspace *ws, uint32_t n, int layer, bool pending)
{
	pp_backend *be = ws->m->be;
	size_t n_values = (size_t) n * ws->m->arch.d_model;
	float *delta;
	pp_result result;

	if (ws->tap == NULL || ws->tap_layer != layer)
		return PP_OK;
	result = be->ops->download(be, ws->tap, ws->x, n_values * sizeof(float));
	if (result == PP_OK && pending)
	{
		if ((delta = llm_malloc_array(n_values, sizeof(float))) == NULL)
			return PP_E_NOMEM;
		result = be->ops->download_act(be, delta, ws->delta, n_values);
		for (size_t i = 0; result == PP_OK && i < n_values; i++)
			ws->tap[i] += delta[i];
		llm_free(delta);
	}
	ws->tap = NULL;
	return result;
}

/* Embeddings and all layers; the hidden state is then x, plus delta when *pending. */
llm_status
forward_body(llm_workspace *ws, const llm_batch *batch, bool *pending, llm_error *err)
{
	const llm_arch *arch = &ws->m->arch;
	bool post = arch->norm_place == LLM_NORM_POST;
	pp_result result = embed_tokens(ws, batch);

	*pending = !post;
	if (result == PP_OK)
		result = tap_state(ws, batch->n_tokens, -1, false);
	for (uint32_t i = 0; result == PP_OK && i < arch->n_layers; i++)
	{
		result = post ? run_layer_post(ws, batch, i) : run_layer_pre(ws, batch, i);
		if (result == PP_OK)
			result = tap_state(ws, batch->n_tokens, (int) i, *pending);
	}
	return forward_check(ws, result, err);
}

/* Tells the device what the pass works on. A pass that is tapped is not to be recorded, nor one
 * with index lists of its own. */
llm_status
forward_begin(llm_workspace *ws, const llm_batch *batch, bool *replayed, llm_error *err)
{
	const llm_model *m = ws->m;
	pp_backend *be = m->be;
	bool plain = ws->tap == NULL && m->type_table == NULL && m->pos_table == NULL;
	const pp_pass pass = {.owner = plain ? ws : NULL,
	                      .max_tokens = ws->max_tokens,
	                      .max_rows = ws->max_rows,
	                      .attn = m->arch.attn,
	                      .n_layers = m->arch.n_layers,
	                      .n_tokens = batch->n_tokens,
	                      .n_segs = batch->n_segs,
	                      .n_rows = batch->n_rows,
	                      .tokens = batch->tokens,
	                      .pos = batch->pos,
	                      .segs = batch->segs,
	                      .rows = batch->rows};

	return forward_check(ws, be->ops->pass_begin(be, &pass, replayed), err);
}

/* The layers, then the norm of the wanted rows: it touches a row alone, so which others were asked
 * for changes no bit. */
static llm_status
decode_body(llm_workspace *ws, const llm_batch *batch, llm_error *err)
{
	const llm_model *m = ws->m;
	const llm_arch *arch = &m->arch;
	bool pending;
	llm_status status = forward_body(ws, batch, &pending, err);

	if (status != LLM_OK)
		return status;
	return forward_check(ws,
	                     m->be->ops->norm_rows(m->be, ws->rows, ws->x, pending ? ws->delta : NULL,
	                                           m->final_norm_w, m->final_norm_b, batch->rows,
	                                           batch->n_rows, arch->d_model, arch->norm_eps,
	                                           arch->norm_kind, arch->norm_plus_one),
	                     err);
}

/* Runs the layers, keeps the normed rows that were asked for. */
llm_status
llm_forward_decode(llm_workspace *ws, const llm_batch *batch, llm_error *err)
{
	const llm_arch *arch = &ws->m->arch;
	pp_backend *be = ws->m->be;
	llm_status status;
	pp_result result;
	bool replayed;

	ws->n_rows = 0;
	if (!arch->decoder)
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s is not a decoder", arch->name);
	if ((status = forward_check_batch(ws, batch, err)) != LLM_OK)
		return status;
	if (batch->n_rows > ws->max_rows)
		return llm_fail(err, LLM_E_RANGE, "%u rows are more than the workspace's %u", batch->n_rows,
		                ws->max_rows);
	for (uint32_t i = 0; i < batch->n_rows; i++)
		if (batch->rows[i] >= batch->n_tokens || (i > 0 && batch->rows[i] <= batch->rows[i - 1]))
			return llm_fail(err, LLM_E_RANGE, "the wanted rows are not ascending in the batch");
	if ((status = forward_begin(ws, batch, &replayed, err)) != LLM_OK)
		return status;
	if (!replayed)
		status = decode_body(ws, batch, err);
	result = be->ops->pass_end(be);
	if (status == LLM_OK)
		status = forward_check(ws, result, err);
	if (status == LLM_OK)
		ws->n_rows = batch->n_rows;
	return status;
}

/* Row i of activations of the model's width. */
static const pp_act *
act_at(const llm_workspace *ws, const pp_act *x, size_t i)
{
	return (const pp_act *) (const void *) ((const uint8_t *) x +
	                                        i * ws->m->arch.d_model * ws->m->be->act_bytes);
}

/* logits[n, n_vocab] of n rows at x, n <= max_logit_rows, final softcap applied. */
static pp_result
head_logits(llm_workspace *ws, const pp_act *x, uint32_t n)
{
	const llm_model *m = ws->m;
	pp_result result = m->be->ops->matmul_float(m->be, ws->logits, x, m->head, NULL, n);

	if (result == PP_OK && m->arch.final_softcap > 0.0f)
		result = m->be->ops->softcap(m->be, ws->logits, (size_t) n * m->arch.n_vocab,
		                             m->arch.final_softcap);
	return result;
}

/* Fetches states, and scales them to unit length where the model says so. */
llm_status
llm_forward_states(llm_workspace *ws, const uint32_t *rows, uint32_t n_rows, float *out,
                   llm_error *err)
{
	const llm_arch *arch = &ws->m->arch;
	pp_backend *be = ws->m->be;
	pp_result result = PP_OK;

	for (uint32_t i = 0; result == PP_OK && i < n_rows; i++)
	{
		float *state = out + (size_t) i * arch->d_model;
		double sum = 0.0;

		if (rows[i] >= ws->n_rows)
			return llm_fail(err, LLM_E_RANGE, "row %u was not computed", rows[i]);
		result = be->ops->download_act(be, state, act_at(ws, ws->rows, rows[i]), arch->d_model);
		for (uint32_t k = 0; arch->l2_normalise && k < arch->d_model; k++)
			sum += (double) state[k] * state[k];
		for (uint32_t k = 0; sum > 0.0 && k < arch->d_model; k++)
			state[k] = (float) (state[k] / sqrt(sum));
	}
	return forward_check(ws, result, err);
}

/* What is wanted of the head's rows: out[n_rows, n_vocab], or else of every row its top k. */
typedef struct head_wanted
{
	float *out; /* NULL: top */
	pp_top *top;
	uint32_t k;
	float scale;
} head_wanted;

/* Fetches what is wanted of n rows whose logits were just made; i of the call's rows came before.
 */
static pp_result
fetch_wanted(llm_workspace *ws, const head_wanted *want, uint32_t i, uint32_t n)
{
	pp_backend *be = ws->m->be;
	uint32_t n_vocab = ws->m->arch.n_vocab;
	pp_result result;

	if (want->out != NULL)
		return be->ops->download(be, want->out + (size_t) i * n_vocab, ws->logits,
		                         (size_t) n * n_vocab * sizeof(float));
	result = be->ops->top(be, ws->top, ws->logits, n, n_vocab, want->k, want->scale);
	if (result == PP_OK)
		result = be->ops->download(be, want->top + i, ws->top, n * sizeof(*ws->top));
	return result;
}

/* Runs the head over rows that follow each other, a block at a time. */
static llm_status
head_rows(llm_workspace *ws, uint32_t first_row, uint32_t n_rows, const head_wanted *want,
          llm_error *err)
{
	pp_result result = PP_OK;

	if (ws->m->head == NULL)
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s generates nothing", ws->m->arch.name);
	if (!pp_range_ok(first_row, n_rows, ws->n_rows))
		return llm_fail(err, LLM_E_RANGE, "rows %u to %u were not computed", first_row,
		                first_row + n_rows);
	for (uint32_t i = 0; result == PP_OK && i < n_rows; i += ws->max_logit_rows)
	{
		uint32_t n = n_rows - i < ws->max_logit_rows ? n_rows - i : ws->max_logit_rows;

		result = head_logits(ws, act_at(ws, ws->rows, first_row + i), n);
		if (result == PP_OK)
			result = fetch_wanted(ws, want, i, n);
	}
	return forward_check(ws, result, err);
}

/* Fetches whole rows of logits. */
llm_status
llm_forward_logits(llm_workspace *ws, uint32_t first_row, uint32_t n_rows, float *out,
                   llm_error *err)
{
	const head_wanted want = {.out = out};

	return head_rows(ws, first_row, n_rows, &want, err);
}

/* The k highest logits of rows, and their sums of weights; see the header. */
llm_status
llm_forward_top(llm_workspace *ws, uint32_t first_row, uint32_t n_rows, uint32_t k, float scale,
                pp_top *out, llm_error *err)
{
	const head_wanted want = {.top = out, .k = k, .scale = scale};

	return head_rows(ws, first_row, n_rows, &want, err);
}

/* One block of rows, already gathered in rows2: chosen columns, and the log-sum-exp when asked for.
 */
static pp_result
block_columns(llm_workspace *ws, uint32_t n, const uint32_t *cols, uint32_t n_cols, float *out,
              float *lse)
{
	const llm_model *m = ws->m;
	const pp_ops *ops = m->be->ops;
	pp_result result = PP_OK;

	if (lse != NULL)
	{
		result = head_logits(ws, ws->rows2, n);
		if (result == PP_OK)
			result = ops->logsumexp(m->be, ws->lse, ws->logits, n, m->arch.n_vocab);
		if (result == PP_OK)
			result = ops->download(m->be, lse, ws->lse, n * sizeof(float));
	}
	if (result == PP_OK)
		result = ops->matmul_columns(m->be, ws->logits, ws->rows2, m->head, cols, n_cols, n);
	if (result == PP_OK && m->arch.final_softcap > 0.0f)
		result = ops->softcap(m->be, ws->logits, (size_t) n * n_cols, m->arch.final_softcap);
	if (result == PP_OK)
		result = ops->download(m->be, out, ws->logits, (size_t) n * n_cols * sizeof(float));
	return result;
}

/* Fetches chosen columns of chosen rows, a block at a time. */
llm_status
llm_forward_columns(llm_workspace *ws, const uint32_t *rows, uint32_t n_rows, const uint32_t *cols,
                    uint32_t n_cols, float *out, float *lse, llm_error *err)
{
	const llm_arch *arch = &ws->m->arch;
	pp_result result = PP_OK;

	if (ws->m->head == NULL)
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s generates nothing", arch->name);
	if (n_cols > arch->n_vocab)
		return llm_fail(err, LLM_E_RANGE, "%u columns are more than the vocabulary", n_cols);
	for (uint32_t c = 0; c < n_cols; c++)
		if (cols[c] >= arch->n_vocab)
			return llm_fail(err, LLM_E_RANGE, "column %u is not in the vocabulary", cols[c]);
	for (uint32_t i = 0; i < n_rows; i++)
		if (rows[i] >= ws->n_rows)
			return llm_fail(err, LLM_E_RANGE, "row %u was not computed", rows[i]);
	for (uint32_t i = 0; result == PP_OK && i < n_rows; i += ws->max_logit_rows)
	{
		uint32_t n = n_rows - i < ws->max_logit_rows ? n_rows - i : ws->max_logit_rows;

		result = ws->m->be->ops->gather(ws->m->be, ws->rows2, ws->rows, rows + i, n, arch->d_model);
		if (result == PP_OK)
			result = block_columns(ws, n, cols, n_cols, out + (size_t) i * n_cols,
			                       lse != NULL ? lse + i : NULL);
	}
	return forward_check(ws, result, err);
}
