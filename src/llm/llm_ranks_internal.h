/*
 * llm_ranks_internal.h: what the files of the shared backend have in common.
 *
 *	llm_ranks.c         life, memory, matrices, KV pool
 *	llm_ranks_ops.c     the ops of a pass
 *
 * Memory is addressed by rank 0's pointers, so that callers may add to them; blocks says which
 * block of every other rank belongs to one of rank 0.
 */
#ifndef LLM_RANKS_INTERNAL_H
#define LLM_RANKS_INTERNAL_H

#include "llm_ranks.h"

/* One allocation. */
typedef struct rank_block
{
	uint8_t *dev[PP_RANKS_MAX];
	size_t bytes;
} rank_block;

/* A matrix: the op table's pp_matrix is opaque, and so is this one to it. */
typedef struct rank_matrix
{
	pp_matrix *on[PP_RANKS_MAX];
	pp_split split;
	uint32_t n_rows; /* whole, not a rank's */
} rank_matrix;

typedef struct llm_ranks
{
	pp_backend base;
	pp_ops ops;
	pp_backend *rank[PP_RANKS_MAX];
	uint32_t n;
	pp_link *link;
	char name[64];
	bool failed; /* for good */

	rank_block *blocks; /* [n_blocks] by the address of rank 0 */
	uint32_t n_blocks;
	uint32_t cap_blocks;

	pp_attn *attn; /* [n_layers] of the pass: a rank's heads */
	uint32_t n_layers;
	uint32_t d_summed; /* the widest result that is summed */

	pp_act *own[PP_RANKS_MAX]; /* a rank's summand; bytes_own each */
	pp_act *all[PP_RANKS_MAX]; /* with a link: everybody's */
	size_t bytes_own;
} llm_ranks;

/* The ranks behind a backend. */
static inline llm_ranks *
ranks_of(pp_backend *be)
{
	return (llm_ranks *) (void *) be;
}

/* A matrix behind the op table's pointer. */
static inline const rank_matrix *
rank_matrix_of(const pp_matrix *m)
{
	return (const rank_matrix *) (const void *) m;
}

/* Keeps the message of rank r when its op failed; what is sticky stays. Returns result. */
pp_result ranks_seen(llm_ranks *rs, uint32_t r, pp_result result);
/* Rank r's memory at a pointer of rank 0's; NULL for NULL. */
void *ranks_at(const llm_ranks *rs, uint32_t r, const void *dev);
/* Room for summands of so many tokens. */
pp_result ranks_reserve(llm_ranks *rs, uint32_t n_tokens);
/* Until every rank has done what it was asked. */
pp_result ranks_wait(llm_ranks *rs);
/* Adds the ops of a pass to the table. */
void ranks_pass_ops(pp_ops *ops);
/* attn[n_layers] of a rank. */
void ranks_attn(const llm_ranks *rs, const pp_attn *attn, uint32_t n_layers, pp_attn *out);

#endif /* LLM_RANKS_INTERNAL_H */
