/*
 * llm_vocab_trie.h: the byte strings of a vocabulary as a trie, laid out for one forward walk.
 *
 * Nodes stand in preorder; each knows its depth, its byte and where its subtree ends. A walk is a
 * loop over an array: take the byte, or jump to skip when the automaton refuses it.
 *
 * Most tokens are nothing but characters that may stand inside a JSON string. There they all behave
 * alike, so they are kept as sets of bits by their number of characters, and only the rest, in a
 * trie of its own, has to be walked. Immutable, so any number of threads may read it.
 */
#ifndef LLM_VOCAB_TRIE_H
#define LLM_VOCAB_TRIE_H

#include "llm_grammar.h"

/* Longer tokens are never allowed under a grammar; it bounds the stack of a walk. */
#define LLM_VOCAB_TOKEN_MAX 64

typedef struct llm_trie_node
{
	uint32_t skip;     /* the first node behind this subtree */
	uint32_t token;    /* place in order[] of the tokens that end here … */
	uint16_t n_tokens; /* … and how many they are */
	uint8_t depth;     /* 1 = first byte */
	uint8_t byte;
} llm_trie_node;

/* A trie of some of the tokens. */
typedef struct llm_trie
{
	llm_trie_node *nodes;
	uint32_t n_nodes;
	uint32_t n_order;
	int32_t *order; /* the tokens, sorted by their bytes */
} llm_trie;

struct llm_vocab_trie
{
	uint32_t n_vocab;
	uint32_t n_ends;
	llm_trie all;
	llm_trie rest;     /* tokens that are not wholly characters of a JSON string */
	uint32_t n_inside; /* the most characters of a token that is */
	uint32_t *inside; /* [n_inside, ⌈n_vocab / 32⌉] row i: such tokens of up to i + 1 characters */
	int32_t *ends;    /* tokens that end a generation */
	uint32_t *offsets; /* n_vocab + 1, into bytes */
	unsigned char *bytes;
	bool single[256]; /* the byte is a token of its own */
};

/* From arrays: bytes and lengths of n_vocab tokens (length 0: never produced), and which end. */
llm_status llm_vocab_trie_from_arrays(const char *const *text, const size_t *n_bytes,
                                      const bool *is_end, uint32_t n_vocab, llm_vocab_trie **out,
                                      llm_error *err);

#endif /* LLM_VOCAB_TRIE_H */
