/*
 * llm_pack.h: bin packing of segments into fixed capacities, for the places where shapes are fixed:
 * blocks of the matrix library on the CPU, CUDA-graph buckets, and the padded baselines of the
 * benchmark.
 *
 * Two algorithms: first-fit decreasing (at most 11/9 OPT + 6/9 bins), and the worst-fit decreasing
 * that the prepacking paper's code uses (arXiv 2404.09529, to_constant_volume: each item into the
 * emptiest bin it fits). Both run in O(n log n). Items longer than the capacity are refused.
 */
#ifndef LLM_PACK_H
#define LLM_PACK_H

#include <stdint.h>

#include "llm_status.h"

typedef enum llm_pack_method
{
	LLM_PACK_FIRST_FIT,
	LLM_PACK_WORST_FIT
} llm_pack_method;

/* bin[i] gets the bin of item i (lengths[i] <= capacity, 0 allowed); *n_bins how many there are.
 * Deterministic. */
llm_status llm_pack_bins(const uint32_t *lengths, uint32_t n, uint32_t capacity,
                         llm_pack_method method, uint32_t *bin, uint32_t *n_bins, llm_error *err);

#endif /* LLM_PACK_H */
