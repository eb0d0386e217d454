/*
 * llm_ranks.c: see llm_ranks.h. Life, memory, matrices and the KV pool of a shared backend.
 *
 * One thread drives all ranks, op by op: cards run behind their streams, so a rank that is asked
 * later is not slower, and no rank can wait for a thread of another that has failed.
 *
 * Weights come straight from the mapped file. Rows of a matrix lie one after the other there, so a
 * rank's are pointed at; its columns are gathered first, a matrix at a time. Quantised weights
 * split between blocks only.
 */
#include "llm_ranks_internal.h"

#include <stdio.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"
#include "llm_weights.h"

#define PARTS_MAX 8u /* of a matrix */

/*
 * See the header. When a rank is lost others may stand in an exchange that it never joins, and
 * freeing their memory would wait for them: the link finds the failure too, and calls them off.
 */
pp_result
ranks_seen(llm_ranks *rs, uint32_t r, pp_result result)
{
	const bool lost = result == PP_E_DEVICE && !rs->failed;

	if (result == PP_OK)
		return PP_OK;
	snprintf(rs->base.message, sizeof(rs->base.message), "rank %u (%.20s): %.200s", r,
	         rs->rank[r]->name, rs->rank[r]->message);
	rs->failed = rs->failed || lost;
	if (lost && rs->link != NULL)
		rs->link->wait(rs->link);
	return result;
}

/* The number of blocks that begin at or before an address of rank 0. */
static uint32_t
blocks_before(const llm_ranks *rs, const uint8_t *dev)
{
	uint32_t low = 0;
	uint32_t high = rs->n_blocks;

	while (low < high)
	{
		uint32_t mid = low + (high - low) / 2;

		if (rs->blocks[mid].dev[0] <= dev)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Finds the block by halving; see the header. */
void *
ranks_at(const llm_ranks *rs, uint32_t r, const void *dev)
{
	uint32_t i;

	if (dev == NULL)
		return NULL;
	i = blocks_before(rs, dev) - 1; /* what the op table is given comes from alloc */
	return rs->blocks[i].dev[r] + ((const uint8_t *) dev - rs->blocks[i].dev[0]);
}

/* Frees a block on every rank that has it. */
static void
free_block(llm_ranks *rs, const rank_block *block)
{
	for (uint32_t r = 0; r < rs->n; r++)
		if (block->dev[r] != NULL)
			rs->rank[r]->ops->release(rs->rank[r], block->dev[r]);
}

/* Makes room for one more block; false when memory is exhausted. */
static bool
reserve_block(llm_ranks *rs)
{
	uint32_t cap = rs->cap_blocks > 0 ? 2 * rs->cap_blocks : 64;
	rank_block *grown;

	if (rs->n_blocks < rs->cap_blocks)
		return true;
	if ((grown = llm_realloc_array(rs->blocks, cap, sizeof(*grown))) == NULL)
		return false;
	rs->blocks = grown;
	rs->cap_blocks = cap;
	return true;
}

/* The same bytes on every rank. */
static void *
ranks_alloc(pp_backend *be, size_t bytes)
{
	llm_ranks *rs = ranks_of(be);
	rank_block block = {.bytes = bytes};
	uint32_t i;

	if (!reserve_block(rs))
		return NULL;
	for (uint32_t r = 0; r < rs->n; r++)
		if ((block.dev[r] = rs->rank[r]->ops->alloc(rs->rank[r], bytes)) == NULL)
		{
			ranks_seen(rs, r, PP_E_NOMEM);
			free_block(rs, &block);
			return NULL;
		}
	i = blocks_before(rs, block.dev[0]);
	memmove(rs->blocks + i + 1, rs->blocks + i, (rs->n_blocks - i) * sizeof(block));
	rs->blocks[i] = block;
	rs->n_blocks++;
	return block.dev[0];
}

/* Frees what alloc gave; NULL is fine. */
static void
ranks_release(pp_backend *be, void *dev)
{
	llm_ranks *rs = ranks_of(be);
	uint32_t i;

	if (dev == NULL)
		return;
	i = blocks_before(rs, dev) - 1;
	free_block(rs, &rs->blocks[i]);
	rs->n_blocks--;
	memmove(rs->blocks + i, rs->blocks + i + 1, (rs->n_blocks - i) * sizeof(*rs->blocks));
}

/* Host to every rank. */
static pp_result
ranks_upload(pp_backend *be, void *dev_dst, const void *src, size_t bytes)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = rs->failed ? PP_E_DEVICE : PP_OK;

	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result =
		    ranks_seen(rs, r,
		               rs->rank[r]->ops->upload(rs->rank[r], ranks_at(rs, r, dev_dst), src, bytes));
	return result;
}

/* Waits by the link, which knows when a rank will never come, or else for one after the other. */
pp_result
ranks_wait(llm_ranks *rs)
{
	pp_result result = rs->failed ? PP_E_DEVICE : PP_OK;

	if (result == PP_OK && rs->link != NULL)
	{
		if ((result = rs->link->wait(rs->link)) != PP_OK)
		{
			rs->failed = true;
			snprintf(rs->base.message, sizeof(rs->base.message), "%.250s", rs->link->message);
		}
		return result;
	}
	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result = ranks_seen(rs, r, rs->rank[r]->ops->sync(rs->rank[r]));
	return result;
}

/* Waits for all. */
static pp_result
ranks_sync(pp_backend *be)
{
	return ranks_wait(ranks_of(be));
}

/* Rank 0 to host. The others are waited for too: a failure of theirs is one of the model. */
static pp_result
ranks_download(pp_backend *be, void *dst, const void *dev_src, size_t bytes)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = ranks_wait(rs);

	if (result == PP_OK)
		result = ranks_seen(rs, 0, rs->rank[0]->ops->download(rs->rank[0], dst, dev_src, bytes));
	return result;
}

/* The same of activations. */
static pp_result
ranks_download_act(pp_backend *be, float *dst, const pp_act *dev_src, size_t n)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = ranks_wait(rs);

	if (result == PP_OK)
		result = ranks_seen(rs, 0, rs->rank[0]->ops->download_act(rs->rank[0], dst, dev_src, n));
	return result;
}

/* The larger of two. */
static uint64_t
max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* What the fullest card has, and the least that is free; of ranks in one memory the sum. */
static void
ranks_memory_info(pp_backend *be, pp_memory_info *info)
{
	llm_ranks *rs = ranks_of(be);
	pp_memory_info one;

	rs->rank[0]->ops->memory_info(rs->rank[0], info);
	for (uint32_t r = 1; r < rs->n; r++)
	{
		rs->rank[r]->ops->memory_info(rs->rank[r], &one);
		if (one.bytes_free < info->bytes_free)
			info->bytes_free = one.bytes_free;
		if (rs->link == NULL)
		{
			info->bytes_weights += one.bytes_weights;
			info->bytes_kv += one.bytes_kv;
			info->bytes_scratch += one.bytes_scratch;
			continue;
		}
		info->bytes_weights = max_u64(info->bytes_weights, one.bytes_weights);
		info->bytes_kv = max_u64(info->bytes_kv, one.bytes_kv);
		info->bytes_scratch = max_u64(info->bytes_scratch, one.bytes_scratch);
	}
}

/* Frees the buffers of summands. */
static void
free_summands(llm_ranks *rs)
{
	for (uint32_t r = 0; r < rs->n; r++)
	{
		if (rs->own[r] != NULL)
			rs->rank[r]->ops->release(rs->rank[r], rs->own[r]);
		if (rs->all[r] != NULL)
			rs->rank[r]->ops->release(rs->rank[r], rs->all[r]);
		rs->own[r] = rs->all[r] = NULL;
	}
	rs->bytes_own = 0;
}

/* Takes them anew when they are too small: at the first passes, which calibrate. */
pp_result
ranks_reserve(llm_ranks *rs, uint32_t n_tokens)
{
	const size_t bytes = (size_t) n_tokens * rs->d_summed * rs->base.act_bytes;
	pp_result result;

	if (bytes <= rs->bytes_own)
		return PP_OK;
	if ((result = ranks_wait(rs)) != PP_OK)
		return result;
	free_summands(rs);
	for (uint32_t r = 0; r < rs->n; r++)
	{
		pp_backend *be = rs->rank[r];

		rs->own[r] = be->ops->alloc(be, bytes);
		if (rs->link != NULL)
			rs->all[r] = be->ops->alloc(be, rs->n * bytes);
		if (rs->own[r] == NULL || (rs->link != NULL && rs->all[r] == NULL))
		{
			free_summands(rs);
			return ranks_seen(rs, r, PP_E_NOMEM);
		}
	}
	rs->bytes_own = bytes;
	return PP_OK;
}

/* Ends the ranks. */
static void
ranks_destroy(pp_backend *be)
{
	llm_ranks *rs = ranks_of(be);

	if (rs->link != NULL)
		rs->link->destroy(rs->link);
	free_summands(rs);
	for (uint32_t r = 0; r < rs->n; r++)
		rs->rank[r]->ops->destroy(rs->rank[r]);
	llm_free(rs->blocks);
	llm_free(rs->attn);
	llm_free(rs);
}

/* Says why a matrix cannot be split. */
static bool
split_fails(llm_ranks *rs, uint32_t n, const char *what, pp_dtype dtype)
{
	snprintf(rs->base.message, sizeof(rs->base.message),
	         "%u %s of %s weights do not split into whole blocks for %u ranks", n, what,
	         llm_dtype_name(dtype), rs->n);
	return false;
}

/* Rank r's rows of the parts; false with a message. */
static bool
split_rows(llm_ranks *rs, uint32_t r, pp_matrix_part *parts, uint32_t n_parts)
{
	for (uint32_t p = 0; p < n_parts; p++)
	{
		const uint32_t n = parts[p].n_rows / rs->n;

		if (n * rs->n != parts[p].n_rows)
			return split_fails(rs, parts[p].n_rows, "rows", parts[p].dtype);
		parts[p].data = (const uint8_t *) parts[p].data + r * n * parts[p].row_bytes;
		parts[p].n_rows = n;
	}
	return true;
}

/* Rank r's columns of the parts, copied to *copy, which the caller frees; false with a message. */
static bool
split_columns(llm_ranks *rs, uint32_t r, pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
              uint8_t **copy)
{
	uint64_t bytes[PARTS_MAX];
	uint64_t total = 0;
	uint8_t *to;

	for (uint32_t p = 0; p < n_parts; p++)
	{
		if (n_cols % rs->n != 0 || !llm_dtype_bytes(parts[p].dtype, n_cols / rs->n, &bytes[p]))
			return split_fails(rs, n_cols, "columns", parts[p].dtype);
		total += parts[p].n_rows * bytes[p];
	}
	if ((to = *copy = llm_malloc_array((size_t) total, 1)) == NULL)
	{
		snprintf(rs->base.message, sizeof(rs->base.message), "out of memory");
		return false;
	}
	for (uint32_t p = 0; p < n_parts; p++)
	{
		const uint8_t *from = (const uint8_t *) parts[p].data + r * bytes[p];

		parts[p].data = to;
		for (uint32_t row = 0; row < parts[p].n_rows; row++, to += bytes[p])
			memcpy(to, from + row * parts[p].row_bytes, bytes[p]);
		parts[p].row_bytes = bytes[p];
	}
	return true;
}

/* Rank r's part of a matrix; NULL with a message. */
static pp_matrix *
create_on(llm_ranks *rs, uint32_t r, const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
          pp_precision precision)
{
	const pp_split split = n_parts > 0 ? parts[0].split : PP_SPLIT_NONE;
	pp_backend *be = rs->rank[r];
	pp_matrix_part mine[PARTS_MAX];
	uint8_t *copy = NULL;
	pp_matrix *m;
	bool ok = true;

	memcpy(mine, parts, n_parts * sizeof(*parts));
	if (split == PP_SPLIT_ROWS)
		ok = split_rows(rs, r, mine, n_parts);
	else if (split == PP_SPLIT_COLS)
		ok = split_columns(rs, r, mine, n_parts, n_cols, &copy);
	if (!ok)
		return NULL;
	be->any_bits = rs->base.any_bits;
	m = be->ops->matrix_create(be, mine, n_parts, split == PP_SPLIT_COLS ? n_cols / rs->n : n_cols,
	                           precision);
	llm_free(copy);
	if (m == NULL)
		ranks_seen(rs, r, PP_E_UNSUPPORTED);
	return m;
}

/* Frees a matrix on the ranks that have it. */
static void
ranks_matrix_destroy(pp_backend *be, pp_matrix *m)
{
	llm_ranks *rs = ranks_of(be);
	rank_matrix *rm = (rank_matrix *) (void *) m;

	for (uint32_t r = 0; rm != NULL && r < rs->n; r++)
		if (rm->on[r] != NULL)
			rs->rank[r]->ops->matrix_destroy(rs->rank[r], rm->on[r]);
	llm_free(rm);
}

/* Prepares every rank's part of a matrix. */
static pp_matrix *
ranks_matrix_create(pp_backend *be, const pp_matrix_part *parts, uint32_t n_parts, uint32_t n_cols,
                    pp_precision precision)
{
	llm_ranks *rs = ranks_of(be);
	rank_matrix *rm = llm_calloc(1, sizeof(*rm));

	if (rm == NULL || n_parts > PARTS_MAX)
	{
		snprintf(be->message, sizeof(be->message), "a matrix of %u parts: no memory", n_parts);
		llm_free(rm);
		return NULL;
	}
	rm->split = n_parts > 0 ? parts[0].split : PP_SPLIT_NONE;
	for (uint32_t p = 0; p < n_parts; p++)
		rm->n_rows += parts[p].n_rows;
	for (uint32_t r = 0; r < rs->n; r++)
		if ((rm->on[r] = create_on(rs, r, parts, n_parts, n_cols, precision)) == NULL)
		{
			ranks_matrix_destroy(be, (pp_matrix *) (void *) rm);
			return NULL;
		}
	if (rm->split == PP_SPLIT_COLS && rm->n_rows > rs->d_summed)
		rs->d_summed = rm->n_rows;
	return (pp_matrix *) (void *) rm;
}

/* A rank's heads; which divide was checked by llm_ranks_check. */
void
ranks_attn(const llm_ranks *rs, const pp_attn *attn, uint32_t n_layers, pp_attn *out)
{
	for (uint32_t i = 0; i < n_layers; i++)
	{
		out[i] = attn[i];
		out[i].n_heads /= rs->n;
		out[i].n_kv_heads /= rs->n;
	}
}

/* Slots of a page, which all ranks agree in. */
static uint32_t
ranks_kv_page_tokens(pp_backend *be)
{
	llm_ranks *rs = ranks_of(be);

	return rs->rank[0]->ops->kv_page_tokens(rs->rank[0]);
}

/* Bytes of a page on a card; of ranks in one memory, all of theirs. 0 without memory. */
static uint64_t
ranks_kv_page_bytes(pp_backend *be, const pp_attn *attn, uint32_t n_layers, pp_precision precision)
{
	llm_ranks *rs = ranks_of(be);
	uint64_t bytes = 0;
	pp_attn one;

	for (uint32_t i = 0; i < n_layers; i++)
	{
		ranks_attn(rs, attn + i, 1, &one);
		bytes += rs->rank[0]->ops->kv_page_bytes(rs->rank[0], &one, 1, precision);
	}
	return rs->link == NULL ? rs->n * bytes : bytes;
}

/* Frees every rank's pool. */
static void
ranks_kv_destroy(pp_backend *be)
{
	llm_ranks *rs = ranks_of(be);

	for (uint32_t r = 0; r < rs->n; r++)
		rs->rank[r]->ops->kv_destroy(rs->rank[r]);
}

/* A pool on every rank, for its own heads. */
static pp_result
ranks_kv_create(pp_backend *be, const pp_attn *attn, uint32_t n_layers, uint32_t n_pages,
                pp_precision precision)
{
	llm_ranks *rs = ranks_of(be);
	pp_attn *mine = llm_malloc_array(n_layers, sizeof(*mine));
	pp_result result = PP_OK;

	if (mine == NULL)
	{
		snprintf(be->message, sizeof(be->message), "out of memory");
		return PP_E_NOMEM;
	}
	ranks_attn(rs, attn, n_layers, mine);
	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
	{
		result = ranks_seen(rs, r,
		                    rs->rank[r]->ops->kv_create(rs->rank[r], mine, n_layers, n_pages,
		                                                precision));
		for (uint32_t done = 0; result != PP_OK && done < r; done++)
			rs->rank[done]->ops->kv_destroy(rs->rank[done]);
	}
	llm_free(mine);
	return result;
}

/* Copies slots of a page. */
static pp_result
ranks_kv_copy(pp_backend *be, uint32_t dst_page, uint32_t src_page, uint32_t n_slots)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = PP_OK;

	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result =
		    ranks_seen(rs, r, rs->rank[r]->ops->kv_copy(rs->rank[r], dst_page, src_page, n_slots));
	return result;
}

/* Moves a slot of a sequence. */
static pp_result
ranks_kv_move(pp_backend *be, const uint32_t *pages, uint32_t dst_slot, uint32_t src_slot)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = PP_OK;

	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result =
		    ranks_seen(rs, r, rs->rank[r]->ops->kv_move(rs->rank[r], pages, dst_slot, src_slot));
	return result;
}

/* Zeroes a page. */
static pp_result
ranks_kv_clear(pp_backend *be, uint32_t page)
{
	llm_ranks *rs = ranks_of(be);
	pp_result result = PP_OK;

	for (uint32_t r = 0; result == PP_OK && r < rs->n; r++)
		result = ranks_seen(rs, r, rs->rank[r]->ops->kv_clear(rs->rank[r], page));
	return result;
}

/* The table but for the ops of a pass. */
static const pp_ops memory_ops = {
    .alloc = ranks_alloc,
    .release = ranks_release,
    .upload = ranks_upload,
    .download = ranks_download,
    .sync = ranks_sync,
    .memory_info = ranks_memory_info,
    .destroy = ranks_destroy,
    .download_act = ranks_download_act,
    .matrix_create = ranks_matrix_create,
    .matrix_destroy = ranks_matrix_destroy,
    .kv_page_tokens = ranks_kv_page_tokens,
    .kv_page_bytes = ranks_kv_page_bytes,
    .kv_create = ranks_kv_create,
    .kv_destroy = ranks_kv_destroy,
    .kv_copy = ranks_kv_copy,
    .kv_move = ranks_kv_move,
    .kv_clear = ranks_kv_clear,
};

/* Every layer must give each rank whole heads, and the same part of the hidden layer. */
llm_status
llm_ranks_check(const llm_arch *arch, uint32_t n_ranks, llm_error *err)
{
	for (uint32_t i = 0; i < arch->n_layers; i++)
	{
		const pp_attn *attn = &arch->attn[i];

		if (attn->n_heads % n_ranks != 0 || attn->n_kv_heads % n_ranks != 0)
			return llm_fail(err, LLM_E_UNSUPPORTED,
			                "%u devices cannot share layer %u of the model: it has %u heads, %u of "
			                "keys and values",
			                n_ranks, i, attn->n_heads, attn->n_kv_heads);
	}
	if (arch->d_ff % n_ranks != 0)
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "%u devices cannot share the model: its hidden layer has %u columns",
		                n_ranks, arch->d_ff);
	return LLM_OK;
}

/* Makes one backend of several; see the header. */
llm_status
llm_ranks_create(pp_backend *const *ranks, uint32_t n_ranks, pp_link *link, const char *name,
                 pp_backend **out, llm_error *err)
{
	llm_ranks *rs = llm_calloc(1, sizeof(*rs));

	*out = NULL;
	if (rs == NULL || n_ranks == 0 || n_ranks > PP_RANKS_MAX)
	{
		if (link != NULL)
			link->destroy(link);
		for (uint32_t r = 0; r < n_ranks; r++)
			ranks[r]->ops->destroy(ranks[r]);
		llm_free(rs);
		return rs == NULL ? llm_fail(err, LLM_E_NOMEM, "out of memory")
		                  : llm_fail(err, LLM_E_RANGE, "a model is shared by 1 to %u devices",
		                             PP_RANKS_MAX);
	}
	memcpy(rs->rank, ranks, n_ranks * sizeof(*ranks));
	rs->n = n_ranks;
	rs->link = link;
	snprintf(rs->name, sizeof(rs->name), "%s", name);
	rs->base = (pp_backend){.ops = &rs->ops,
	                        .name = rs->name,
	                        .act_bytes = ranks[0]->act_bytes,
	                        .pass_tokens_max = ranks[0]->pass_tokens_max,
	                        .n_ranks = n_ranks};
	rs->ops = memory_ops;
	ranks_pass_ops(&rs->ops);
	*out = &rs->base;
	return LLM_OK;
}
