/*
 * llm_kv_internal.h: internal to llm_kv.c and llm_kv_verify.c: what an llm_kv is made of.
 */
#ifndef LLM_KV_INTERNAL_H
#define LLM_KV_INTERNAL_H

#include "llm_kv_page.h"
#include "llm_prefix.h"

struct llm_kv
{
	llm_page_pool pool;
	llm_prefix_tree tree;
	uint64_t n_hit_tokens;
	uint64_t n_miss_tokens;
};

#endif /* LLM_KV_INTERNAL_H */
