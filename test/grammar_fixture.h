/*
 * grammar_fixture.h: a vocabulary whose tokens cross every kind of boundary, and random walks under
 * a grammar with it, for the tests of grammars.
 *
 * make_vocab() comes first; vocab is the caller's to free.
 */
#ifndef GRAMMAR_FIXTURE_H
#define GRAMMAR_FIXTURE_H

#include "llm_grammar_internal.h"
#include "llm_vocab_trie.h"
#include "test.h"

#define N_EXTRA    1700
#define N_VOCAB    (257 + N_EXTRA) /* 256 bytes, the end token, and longer ones */
#define END_TOKEN  256
#define WORDS      ((N_VOCAB + 31) / 32)
#define OUTPUT_MAX 8192

static llm_vocab_trie *vocab;

/* All bytes, one end token, and longer tokens that cross every kind of boundary. */
static void
make_vocab(void)
{
	static const char *const parts[] = {"\"",   "{",        "}",  "[",    "]",   ",",    ":",
	                                    " ",    "a",        "b",  "name", "age", "true", "nu",
	                                    "ll",   "fal",      "se", "-",    "1",   "23",   "0",
	                                    ".",    "e",        "\\", "u",    "00",  "é",    "\xe2\x82",
	                                    "\xac", "\xf0\x9f", "n",  "x"};
	static char text[N_VOCAB][32];
	const char *pointers[N_VOCAB];
	size_t bytes[N_VOCAB];
	bool ends[N_VOCAB] = {false};
	uint64_t seed = 5;

	for (int i = 0; i < N_VOCAB; i++)
	{
		int n = 0;

		if (i < 256)
			text[i][n++] = (char) i;
		for (uint64_t k = i <= 256 ? 0 : 2 + test_random(&seed) % 3; k > 0; k--)
		{
			const char *part = parts[test_random(&seed) % 32];

			memcpy(text[i] + n, part, strlen(part));
			n += (int) strlen(part);
		}
		pointers[i] = text[i];
		bytes[i] = (size_t) n;
	}
	ends[END_TOKEN] = true;
	if (llm_vocab_trie_from_arrays(pointers, bytes, ends, N_VOCAB, &vocab, NULL) != LLM_OK)
		exit(1);
}

/* Picks a random allowed token; prefers longer ones now and then. −1: none. */
static int32_t
pick(const uint32_t *mask, uint64_t *seed)
{
	int32_t allowed[N_VOCAB];
	uint32_t n = 0;

	for (int32_t i = 0; i < N_VOCAB; i++)
		if (mask[i / 32] >> (i % 32) & 1)
			allowed[n++] = i;
	return n == 0 ? -1 : allowed[test_random(seed) % n];
}

/* Walks at random within a budget. Returns whether the output was complete; bytes go to out. */
static bool
random_walk(const llm_grammar *g, uint32_t budget, uint64_t *seed, char *out, size_t *n)
{
	llm_grammar_state *s;
	uint32_t mask[WORDS];
	bool complete;

	*n = 0;
	if (llm_grammar_start(g, &s, NULL) != LLM_OK)
		return false;
	for (; budget > 0; budget--)
	{
		int32_t token;
		uint32_t bytes;

		CHECK(llm_grammar_mask(s, vocab, budget, mask, NULL) == LLM_OK);
		token = pick(mask, seed);
		CHECK_MSG(token >= 0, "dead end after %.*s", (int) *n, out);
		if (token < 0 || token == END_TOKEN)
			break;
		bytes = vocab->offsets[token + 1] - vocab->offsets[token];
		if (*n + bytes > OUTPUT_MAX)
			break;
		memcpy(out + *n, vocab->bytes + vocab->offsets[token], bytes);
		*n += bytes;
		CHECK(llm_grammar_accept(s, vocab, token, NULL) == LLM_OK);
	}
	complete = llm_grammar_complete(s);
	llm_grammar_state_free(s);
	return complete;
}

#endif /* GRAMMAR_FIXTURE_H */
