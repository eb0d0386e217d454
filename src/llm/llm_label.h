/*
 * llm_label.h: labels of any number of tokens as one trie behind a row's prompt.
 *
 * All labels of a job are tokenised and merged into a trie. The trie's inner nodes (every proper
 * prefix of a label that other tokens follow) run as a tree segment right behind the row's last
 * prompt token, in the same forward pass; siblings share a position. The score of a label is Σ ln
 * p(token | prompt, tokens before), its end marked by the model's end-of-turn token where one label
 * is a prefix of another (and only then needed; asked for all labels alike, so that scores
 * compare). Where every label is one token long and none ends the other, only the label columns of
 * the head are computed: the common normaliser cancels in the softmax over labels.
 */
#ifndef LLM_LABEL_H
#define LLM_LABEL_H

#include <stdbool.h>
#include <stdint.h>

#include "llm_status.h"
#include "llm_tokenizer.h"

typedef struct llm_label_set
{
	uint32_t n_labels;
	uint32_t n_nodes;     /* trie nodes that run, the root (the last prompt token) not counted */
	int32_t *tokens;      /* [n_nodes] */
	int32_t *parent;      /* [n_nodes] index of the parent node, −1 = the root; parents first */
	uint32_t *depth;      /* [n_nodes] 1 for children of the root */
	uint32_t n_cols;      /* distinct vocabulary columns used */
	uint32_t *cols;       /* [n_cols] ascending */
	bool needs_lse;       /* some node's normaliser does not cancel */
	uint32_t *n_terms;    /* [n_labels] tokens scored of label i */
	uint32_t *first_term; /* [n_labels] index into term_* */
	int32_t *term_node;   /* node whose logits are read, −1 = root */
	uint32_t *term_col;   /* index into cols */
} llm_label_set;

/*
 * Labels are tokenised as they would follow the prompt: at the start of a line, without the space
 * that some tokenizers put before a text. n >= 2, none empty, no two equal; LLM_E_RANGE otherwise.
 * Labels that give the same tokens are refused too. end_token may be −1; LLM_E_UNSUPPORTED when it
 * is needed then.
 */
llm_status llm_label_set_create(const llm_tokenizer *t, const char *const *labels,
                                const size_t *bytes, uint32_t n, int32_t end_token,
                                llm_label_set **out, llm_error *err);
/* The same from tokens: label i is tokens[first[i], first[i + 1]), first[0] = 0. */
llm_status llm_label_set_from_tokens(const int32_t *tokens, const uint32_t *first, uint32_t n,
                                     int32_t end_token, llm_label_set **out, llm_error *err);
void llm_label_set_free(llm_label_set *set);

/*
 * logprob[n_labels] from logits[(1 + n_nodes), n_cols] (row 0 = root) and lse[1 + n_nodes] (may be
 * NULL when not needed: the root's is then taken as 0). prob[n_labels]: softmax over the labels of
 * logprob − bias[i] (bias may be NULL).
 */
void llm_label_scores(const llm_label_set *set, const float *logits, const float *lse,
                      const double *bias, double *logprob, float *prob);

/* prob[n]: softmax of score[n] − bias[n]; bias may be NULL. */
void llm_label_probs(const double *score, const double *bias, uint32_t n, float *prob);

#endif /* LLM_LABEL_H */
