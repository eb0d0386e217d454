/*
 * llm_ranks.h: several backends that share every layer of a model behave as one (tensor parallel,
 * Megatron-LM, arXiv 1909.08053).
 *
 * A rank has its part of the heads, with their keys and values, and of the hidden layer of every
 * feed-forward block: matrices into them are split by rows, matrices out of them by columns. Behind
 * the latter each rank has a summand of the result; they are exchanged and added in the order of
 * the ranks, on every rank, so that the residual stream is the same everywhere and a row's bits do
 * not depend on its batch. Tables, norms and the head are on every rank.
 *
 * It stands in the op table like any device: neither the loader nor the passes know how many ranks
 * there are, but for naming the split of a matrix and the order of its bias (llm_model.c).
 */
#ifndef LLM_RANKS_H
#define LLM_RANKS_H

#include "../../kernels/kernels.h"
#include "llm_arch.h"

/*
 * Takes the ranks over: they end with the backend, and also when this fails. They are of one kind;
 * rank i is ranks[i]. link exchanges between their memories (owned likewise); NULL: every rank can
 * read every other's, as on the CPU or on one card, and waits for it. name is copied.
 */
llm_status llm_ranks_create(pp_backend *const *ranks, uint32_t n_ranks, pp_link *link,
                            const char *name, pp_backend **out, llm_error *err);

/* Whether so many ranks can share a model: a message names what does not divide. */
llm_status llm_ranks_check(const llm_arch *arch, uint32_t n_ranks, llm_error *err);

#endif /* LLM_RANKS_H */
