/*
 * fuzz_grammar.c: any schema or rules, then a random walk under the grammar.
 *
 * Input: 8 bytes of seed, then the text. Whatever compiles must give, with the tightest budget that
 * it names itself, a complete output, without ever an empty mask; under a schema the strict JSON
 * reader must take it.
 */
#include <stdlib.h>
#include <string.h>

#include "llm_grammar_internal.h"

#define N_VOCAB    257
#define OUTPUT_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* The vocabulary of all bytes and an end token. */
static llm_vocab_trie *
byte_vocab(void)
{
	static char text[N_VOCAB];
	const char *pointers[N_VOCAB];
	size_t n_bytes[N_VOCAB];
	bool ends[N_VOCAB] = {false};
	llm_vocab_trie *v;

	for (int i = 0; i < N_VOCAB; i++)
	{
		text[i] = (char) i;
		pointers[i] = &text[i];
		n_bytes[i] = 1;
	}
	ends[N_VOCAB - 1] = true;
	if (llm_vocab_trie_from_arrays(pointers, n_bytes, ends, N_VOCAB, &v, NULL) != LLM_OK)
		abort();
	return v;
}

/* Walks to the end of the budget; every step must have a token, the end a whole text (of JSON). */
static void
walk(const llm_grammar *g, const llm_vocab_trie *v, uint64_t seed, bool json)
{
	char out[OUTPUT_MAX];
	uint32_t mask[(N_VOCAB + 31) / 32], n = 0;
	llm_grammar_state *s;
	llm_json_doc *doc;
	uint64_t budget;

	if (llm_grammar_start(g, &s, NULL) != LLM_OK)
		return;
	/* A lead that no text begins with ends nowhere. */
	budget =
	    g->lead.n > 0 || s->set.n == 0 ? OUTPUT_MAX + 1u : grammar_cost(g, &s->set) + seed % 64;
	if (budget > OUTPUT_MAX)
	{
		llm_grammar_state_free(s);
		return;
	}
	for (; budget > 0; budget--)
	{
		int32_t token = (int32_t) (seed >> 33) % N_VOCAB;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		if (llm_grammar_mask(s, v, (uint32_t) budget, mask, NULL) != LLM_OK)
			abort();
		for (int tried = 0; !(mask[token / 32] >> (token % 32) & 1); tried++)
		{
			if (tried == N_VOCAB)
				abort();
			token = (token + 1) % N_VOCAB;
		}
		if (token == N_VOCAB - 1)
			break;
		if (llm_grammar_accept(s, v, token, NULL) != LLM_OK)
			abort();
		out[n++] = (char) token;
	}
	if (!llm_grammar_complete(s) || (json && llm_json_parse(out, n, &doc, NULL) != LLM_OK))
		abort();
	if (json)
		llm_json_free(doc);
	llm_grammar_state_free(s);
}

/* Compiles the schema or rules and walks under them. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static llm_vocab_trie *v;
	llm_json_doc *schema;
	llm_grammar *g;
	llm_status status;
	uint64_t seed;
	bool json;

	if (v == NULL)
		v = byte_vocab();
	if (bytes < sizeof(seed))
		return 0;
	memcpy(&seed, data, sizeof(seed));
	if (llm_json_parse((const char *) data + sizeof(seed), bytes - sizeof(seed), &schema, NULL) !=
	    LLM_OK)
		return 0;
	json = llm_json_member(llm_json_root(schema), "rules") == NULL;
	status = json ? llm_grammar_from_schema(llm_json_root(schema), &g, NULL)
	              : llm_grammar_from_rules(llm_json_root(schema), &g, NULL);
	if (status == LLM_OK)
	{
		for (uint64_t i = 0; i < 4; i++)
			walk(g, v, seed + i * 0x9e3779b97f4a7c15u, json);
		llm_grammar_free(g);
	}
	llm_json_free(schema);
	return 0;
}
