/*
 * llm_ranks_ops.c: the ops of a pass on a shared backend; see llm_ranks.h.
 *
 * What works on the residual stream is done by every rank alike. Matrices split by rows, attention
 * and the activation work on a rank's own part. Matrices split by columns end in a sum over the
 * ranks. Logits are made by rank 0 alone, and nothing else reads them.
 *
 * Nothing is recorded: a pass is sent op by op to every rank.
 */
#include "llm_ranks_internal.h"

#include <stdio.h>

#include "llm_alloc.h"

/* The arguments that stand in front of every op: rank r's backend. */
#define RANK(rs, r) ((rs)->rank[r])
/* One op of rank r. Its message is kept when it fails. */
#define ON_RANK(rs, r, op, ...) ranks_seen(rs, r, RANK(rs, r)->ops->op(RANK(rs, r), __VA_ARGS__))
/* Rank r's memory at what the caller names. */
#define AT(p) ranks_at(rs, r, p)
/* One op of every rank until one fails; r is the rank in its arguments. */
#define ON_ALL(be, op, ...) \
	do \
	{ \
		llm_ranks *rs = ranks_of(be); \
		pp_result result = rs->failed ? PP_E_DEVICE : PP_OK; \
\
		for (uint32_t r = 0; result == PP_OK && r < rs->n; r++) \
			result = ON_RANK(rs, r, op, __VA_ARGS__); \
		return result; \
	} while (0)
/* One op of rank 0, whose pointers are the caller's own. */
#define ON_FIRST(be, op, ...) \
	do \
	{ \
		llm_ranks *rs = ranks_of(be); \
\
		return rs->failed ? PP_E_DEVICE : ON_RANK(rs, 0, op, __VA_ARGS__); \
	} while (0)

/* Activations of floats. */
static pp_result
ranks_narrow(pp_backend *be, pp_act *dev_out, const float *dev_x, size_t n)
{
	ON_ALL(be, narrow, AT(dev_out), AT(dev_x), n);
}

/* A rank's heads of every layer, kept until the next pass of another model's. */
static pp_result
keep_attn(llm_ranks *rs, const pp_pass *pass)
{
	if (rs->n_layers != pass->n_layers)
	{
		llm_free(rs->attn);
		rs->n_layers = 0;
		rs->attn = llm_malloc_array(pass->n_layers, sizeof(*rs->attn));
	}
	if (rs->attn == NULL)
	{
		snprintf(rs->base.message, sizeof(rs->base.message), "out of memory");
		return PP_E_NOMEM;
	}
	rs->n_layers = pass->n_layers;
	ranks_attn(rs, pass->attn, pass->n_layers, rs->attn);
	return PP_OK;
}

/* The pass as a rank sees it: without an owner, so that nobody records it. */
static pp_result
ranks_pass_begin(pp_backend *be, const pp_pass *pass, bool *replayed)
{
	llm_ranks *rs = ranks_of(be);
	pp_pass mine = *pass;
	pp_result result = rs->failed ? PP_E_DEVICE : keep_attn(rs, pass);

	if (result == PP_OK)
		result = ranks_reserve(rs, pass->max_tokens);
	mine.owner = NULL;
	mine.attn = rs->attn;
	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
	{
		rs->rank[r]->any_bits = be->any_bits;
		result = ON_RANK(rs, r, pass_begin, &mine, replayed);
		for (uint32_t begun = 0; result != PP_OK && begun < r; begun++)
			rs->rank[begun]->ops->pass_end(rs->rank[begun]);
	}
	*replayed = false;
	return result;
}

/* Ends it on every rank, also behind a failure. */
static pp_result
ranks_pass_end(pp_backend *be)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = rs->failed ? PP_E_DEVICE : PP_OK;

	for (uint32_t r = 0; r < rs->n; r++)
	{
		pp_result one = rs->rank[r]->ops->pass_end(rs->rank[r]);

		if (result == PP_OK)
			result = ranks_seen(rs, r, one);
	}
	return result;
}

/* Rows of the table. */
static pp_result
ranks_embed(pp_backend *be, float *dev_out, const pp_matrix *table, const int32_t *ids,
            uint32_t n_tokens, float scale)
{
	ON_ALL(be, embed, AT(dev_out), rank_matrix_of(table)->on[r], ids, n_tokens, scale);
}

/* Rows added. */
static pp_result
ranks_add_rows(pp_backend *be, float *dev_x, const float *dev_table, const uint32_t *idx,
               uint32_t n_tokens, uint32_t d)
{
	ON_ALL(be, add_rows, AT(dev_x), AT(dev_table), idx, n_tokens, d);
}

/* A norm. */
static pp_result
ranks_norm(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add, const float *dev_w,
           const float *dev_b, uint32_t n_tokens, uint32_t d, float eps, pp_norm_kind kind,
           bool plus_one)
{
	ON_ALL(be, norm, AT(dev_out), AT(dev_x), AT(dev_add), AT(dev_w), AT(dev_b), n_tokens, d, eps,
	       kind, plus_one);
}

/* A norm that takes the place of the stream. */
static pp_result
ranks_norm_post(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
                const float *dev_w, const float *dev_b, uint32_t n_tokens, uint32_t d, float eps,
                pp_norm_kind kind, bool plus_one)
{
	ON_ALL(be, norm_post, AT(dev_out), AT(dev_x), AT(dev_add), AT(dev_w), AT(dev_b), n_tokens, d,
	       eps, kind, plus_one);
}

/* A norm of listed rows. */
static pp_result
ranks_norm_rows(pp_backend *be, pp_act *dev_out, float *dev_x, const pp_act *dev_add,
                const float *dev_w, const float *dev_b, const uint32_t *rows, uint32_t n_rows,
                uint32_t d, float eps, pp_norm_kind kind, bool plus_one)
{
	ON_ALL(be, norm_rows, AT(dev_out), AT(dev_x), AT(dev_add), AT(dev_w), AT(dev_b), rows, n_rows,
	       d, eps, kind, plus_one);
}

/* The stream grows. */
static pp_result
ranks_add(pp_backend *be, float *dev_x, const pp_act *dev_y, uint32_t n_tokens, uint32_t d)
{
	ON_ALL(be, add, AT(dev_x), AT(dev_y), n_tokens, d);
}

/* Rank r's part of a bias, which lies in the order of the ranks (llm_model.c). */
static const float *
bias_of(const llm_ranks *rs, uint32_t r, const rank_matrix *w, const float *dev_bias)
{
	const float *bias = ranks_at(rs, r, dev_bias);

	return bias != NULL && w->split == PP_SPLIT_ROWS ? bias + r * (w->n_rows / rs->n) : bias;
}

/* out = the sum of what every rank has in own. */
static pp_result
sum_ranks(llm_ranks *rs, pp_act *dev_out, const float *dev_bias, uint32_t n_tokens, uint32_t d)
{
	const size_t bytes = (size_t) n_tokens * d * rs->base.act_bytes;
	const void *own[PP_RANKS_MAX];
	void *all[PP_RANKS_MAX];
	const pp_act *parts[PP_RANKS_MAX];
	pp_result result;

	for (uint32_t r = 0; r < rs->n; r++)
	{
		own[r] = rs->own[r];
		all[r] = rs->all[r];
	}
	if (rs->link == NULL)
		result = ranks_wait(rs);
	else if ((result = rs->link->gather(rs->link, own, all, bytes)) != PP_OK)
	{
		rs->failed = true;
		snprintf(rs->base.message, sizeof(rs->base.message), "%.250s", rs->link->message);
	}
	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
	{
		for (uint32_t i = 0; i < rs->n; i++)
			parts[i] = rs->link == NULL
			               ? rs->own[i]
			               : (const pp_act *) (const void *) ((uint8_t *) rs->all[r] + i * bytes);
		result = ON_RANK(rs, r, sum, AT(dev_out), parts, rs->n, AT(dev_bias), n_tokens, d);
	}
	/* with a link, what comes next in a rank's order finds its own summand sent */
	return result == PP_OK && rs->link == NULL ? ranks_wait(rs) : result;
}

/* A product: of a rank's own, or summed up. */
static pp_result
ranks_matmul(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const pp_matrix *w,
             const float *dev_bias, uint32_t n_tokens)
{
	llm_ranks *rs = ranks_of(be);
	const rank_matrix *m = rank_matrix_of(w);
	const bool summed = m->split == PP_SPLIT_COLS;
	pp_result result = rs->failed ? PP_E_DEVICE : PP_OK;

	if (result == PP_OK && summed)
		result = ranks_reserve(rs, n_tokens);
	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result = ON_RANK(rs, r, matmul, summed ? rs->own[r] : AT(dev_out), AT(dev_x), m->on[r],
		                 summed ? NULL : bias_of(rs, r, m, dev_bias), n_tokens);
	return result == PP_OK && summed ? sum_ranks(rs, dev_out, dev_bias, n_tokens, m->n_rows)
	                                 : result;
}

/* Logits. */
static pp_result
ranks_matmul_float(pp_backend *be, float *dev_out, const pp_act *dev_x, const pp_matrix *w,
                   const float *dev_bias, uint32_t n_tokens)
{
	ON_FIRST(be, matmul_float, dev_out, dev_x, rank_matrix_of(w)->on[0], dev_bias, n_tokens);
}

/* Some of them. */
static pp_result
ranks_matmul_columns(pp_backend *be, float *dev_out, const pp_act *dev_x, const pp_matrix *w,
                     const uint32_t *cols, uint32_t n_cols, uint32_t n_rows)
{
	ON_FIRST(be, matmul_columns, dev_out, dev_x, rank_matrix_of(w)->on[0], cols, n_cols, n_rows);
}

/* Rows for the head. */
static pp_result
ranks_gather(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const uint32_t *rows,
             uint32_t n_rows, uint32_t d)
{
	ON_ALL(be, gather, AT(dev_out), AT(dev_x), rows, n_rows, d);
}

/* An activation of the whole row: classifiers. */
static pp_result
ranks_activate(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, uint32_t n_tokens, uint32_t f,
               pp_act_kind act, bool gated)
{
	ON_ALL(be, activate, AT(dev_out), AT(dev_x), n_tokens, f, act, gated);
}

/* A rank's part of a feed-forward block: its summand goes to own. */
static pp_result
mlp_on(llm_ranks *rs, uint32_t r, const pp_act *dev_x, const pp_mlp *mlp, uint32_t n_tokens)
{
	const rank_matrix *in = rank_matrix_of(mlp->in);
	pp_mlp mine = *mlp;
	pp_result result;

	mine.in = in->on[r];
	mine.out = rank_matrix_of(mlp->out)->on[r];
	mine.dev_in_bias = bias_of(rs, r, in, mlp->dev_in_bias);
	mine.dev_out_bias = NULL;
	mine.dev_wide = AT(mlp->dev_wide);
	mine.dev_hidden = AT(mlp->dev_hidden);
	mine.f = mlp->f / rs->n;
	if (RANK(rs, r)->ops->mlp != NULL)
		return ON_RANK(rs, r, mlp, rs->own[r], AT(dev_x), &mine, n_tokens);
	result = ON_RANK(rs, r, matmul, mine.dev_wide, AT(dev_x), mine.in, mine.dev_in_bias, n_tokens);
	if (result == PP_OK)
		result = ON_RANK(rs, r, activate, mine.dev_hidden, mine.dev_wide, n_tokens, mine.f,
		                 mine.act, mine.gated);
	if (result == PP_OK)
		result = ON_RANK(rs, r, matmul, rs->own[r], mine.dev_hidden, mine.out, NULL, n_tokens);
	return result;
}

/* A feed-forward block, whose matrices are split by rows and by columns. */
static pp_result
ranks_mlp(pp_backend *be, pp_act *dev_out, const pp_act *dev_x, const pp_mlp *mlp,
          uint32_t n_tokens)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = rs->failed ? PP_E_DEVICE : ranks_reserve(rs, n_tokens);

	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result = mlp_on(rs, r, dev_x, mlp, n_tokens);
	return result == PP_OK ? sum_ranks(rs, dev_out, mlp->dev_out_bias, n_tokens,
	                                   rank_matrix_of(mlp->out)->n_rows)
	                       : result;
}

/* A cap on logits. */
static pp_result
ranks_softcap(pp_backend *be, float *dev_x, size_t n, float cap)
{
	ON_FIRST(be, softcap, dev_x, n, cap);
}

/* A rank's own heads. */
static pp_result
ranks_qkv_prepare(pp_backend *be, pp_act *dev_q, const pp_act *dev_qkv, const uint32_t *pos,
                  const pp_segment *segs, uint32_t n_segs, uint32_t n_tokens, uint32_t layer,
                  const pp_attn *attn, const pp_rope *rope, const float *dev_q_norm,
                  const float *dev_k_norm, float eps, bool plus_one)
{
	pp_attn *mine = &ranks_of(be)->attn[layer];

	(void) attn; /* the pass announced it */
	ON_ALL(be, qkv_prepare, AT(dev_q), AT(dev_qkv), pos, segs, n_segs, n_tokens, layer, mine, rope,
	       AT(dev_q_norm), AT(dev_k_norm), eps, plus_one);
}

/* Attention of a rank's own heads. */
static pp_result
ranks_attention(pp_backend *be, pp_act *dev_out, const pp_act *dev_q, const pp_segment *segs,
                uint32_t n_segs, uint32_t n_tokens, uint32_t layer, const pp_attn *attn)
{
	pp_attn *mine = &ranks_of(be)->attn[layer];

	(void) attn;
	ON_ALL(be, attention, AT(dev_out), AT(dev_q), segs, n_segs, n_tokens, layer, mine);
}

/* Pooled segments. */
static pp_result
ranks_pool(pp_backend *be, float *dev_out, const float *dev_x, const pp_segment *segs,
           uint32_t n_segs, uint32_t d, int pooling, bool l2)
{
	ON_ALL(be, pool, AT(dev_out), AT(dev_x), segs, n_segs, d, pooling, l2);
}

/* Over the vocabulary. */
static pp_result
ranks_logsumexp(pp_backend *be, float *dev_lse, const float *dev_logits, uint32_t n_rows,
                uint32_t n_vocab)
{
	ON_FIRST(be, logsumexp, dev_lse, dev_logits, n_rows, n_vocab);
}

/* The highest logits. */
static pp_result
ranks_top(pp_backend *be, pp_top *dev_out, const float *dev_logits, uint32_t n_rows,
          uint32_t n_vocab, uint32_t k, float scale)
{
	ON_FIRST(be, top, dev_out, dev_logits, n_rows, n_vocab, k, scale);
}

/* A sum over what the caller has on every rank. */
static pp_result
ranks_sum(pp_backend *be, pp_act *dev_out, const pp_act *const *dev_parts, uint32_t n_parts,
          const float *dev_bias, uint32_t n_tokens, uint32_t d)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = rs->failed ? PP_E_DEVICE : PP_OK;
	const pp_act *parts[PP_RANKS_MAX];

	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
	{
		for (uint32_t i = 0; i < n_parts; i++)
			parts[i] = AT(dev_parts[i]);
		result = ON_RANK(rs, r, sum, AT(dev_out), parts, n_parts, AT(dev_bias), n_tokens, d);
	}
	return result;
}

/* See the header. */
void
ranks_pass_ops(pp_ops *ops)
{
	ops->narrow = ranks_narrow;
	ops->pass_begin = ranks_pass_begin;
	ops->pass_end = ranks_pass_end;
	ops->embed = ranks_embed;
	ops->add_rows = ranks_add_rows;
	ops->norm = ranks_norm;
	ops->norm_post = ranks_norm_post;
	ops->norm_rows = ranks_norm_rows;
	ops->add = ranks_add;
	ops->matmul = ranks_matmul;
	ops->matmul_float = ranks_matmul_float;
	ops->matmul_columns = ranks_matmul_columns;
	ops->gather = ranks_gather;
	ops->activate = ranks_activate;
	ops->mlp = ranks_mlp;
	ops->softcap = ranks_softcap;
	ops->qkv_prepare = ranks_qkv_prepare;
	ops->attention = ranks_attention;
	ops->pool = ranks_pool;
	ops->logsumexp = ranks_logsumexp;
	ops->top = ranks_top;
	ops->sum = ranks_sum;
}
