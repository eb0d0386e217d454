/*
 * bench_grammar.c: what a mask of constrained decoding costs over a real vocabulary.
 *
 *     bench_grammar [MODEL [ROWS]]
 *
 * MODEL is a GGUF file or a folder; only its tokenizer is read. For each schema, rows are written
 * under one grammar by drawing allowed tokens at random, as the engine does for the rows of a job,
 * so kept masks count as they do there. Printed: the mean cost of a mask (the goal is 50 µs), the
 * median, the dearest one, and the first mask of each row of the first job, where nothing is kept.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llm_alloc.h"
#include "llm_grammar.h"
#include "llm_json.h"
#include "llm_vocab_trie.h"
#include "llm_weights.h"

#define BUDGET      96u
#define MASKS_MAX   200000u
#define MODEL       "models/smollm2-135m.gguf"
#define MEAN_GOAL   50.0
#define N_SCHEMAS   (sizeof(schemas) / sizeof(schemas[0]))
#define STRING      "{\"type\":\"string\"}"
#define SHORT(n)    "{\"type\":\"string\",\"maxLength\":" #n "}"
#define OBJECT(all) "{\"type\":\"object\",\"properties\":{" all "}}"

static const struct
{
	const char *name;
	const char *schema;
} schemas[] = {
    {"free string", STRING},
    {"short string", SHORT(40)},
    {"long string", "{\"type\":\"string\",\"minLength\":60,\"maxLength\":90}"},
    {"ticket",
     "{\"type\":\"object\",\"required\":[\"summary\",\"topic\",\"urgent\"],\"properties\":{"
     "\"summary\":" SHORT(
         80) ",\"topic\":{\"enum\":[\"billing\",\"delivery\",\"other\"]},"
             "\"urgent\":{\"type\":\"boolean\"},\"amount\":{\"type\":\"number\"}}}"},
    {"records",
     "{\"type\":\"array\",\"minItems\":1,\"items\":" OBJECT(
         "\"name\":" STRING ",\"age\":{\"type\":[\"integer\",\"null\"]},\"tags\":{\"type\":"
         "\"array\",\"items\":" SHORT(12) "}") "}"},
    {"either", "{\"anyOf\":[" STRING "," OBJECT(
                   "\"note\":" STRING) ",{\"type\":\"array\",\"items\":{"
                                       "\"anyOf\":[" SHORT(
                                           30) ",{\"type\":\"number\"},{\"const\":\"none\"}]}}]}"},
};

/* Microseconds since some point. */
static double
now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return 1e6 * (double) t.tv_sec + 1e-3 * (double) t.tv_nsec;
}

/* A number that follows from the one before (splitmix64). */
static uint64_t
next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* Draws an allowed token; −1 when there is none. */
static int32_t
draw(const uint32_t *mask, uint32_t n_vocab, uint64_t *seed)
{
	uint32_t n = 0;
	uint32_t k;

	for (uint32_t i = 0; i < (n_vocab + 31) / 32; i++)
		n += (uint32_t) __builtin_popcount(mask[i]);
	if (n == 0)
		return -1;
	k = (uint32_t) (next_random(seed) % n);
	for (uint32_t i = 0; i < n_vocab; i++)
		if ((mask[i / 32] >> (i % 32) & 1) && k-- == 0)
			return (int32_t) i;
	return -1;
}

/* Writes one row; notes what its masks cost. Returns their number. */
static uint32_t
write_row(const llm_grammar *g, const llm_vocab_trie *v, uint32_t *mask, uint64_t *seed,
          double *cost)
{
	llm_grammar_state *s;
	uint32_t n = 0;

	if (llm_grammar_start(g, &s, NULL) != LLM_OK)
		return 0;
	for (uint32_t budget = BUDGET; budget > 0; budget--)
	{
		double start = now_us();
		int32_t token;

		if (llm_grammar_mask(s, v, budget, mask, NULL) != LLM_OK)
			break;
		cost[n++] = now_us() - start;
		token = draw(mask, v->n_vocab, seed);
		if (token < 0 || llm_grammar_accept(s, v, token, NULL) != LLM_OK ||
		    (llm_grammar_complete(s) && next_random(seed) % 2 == 0))
			break;
	}
	llm_grammar_state_free(s);
	return n;
}

/* Orders costs. */
static int
compare(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Writes rows under one schema and prints a line. */
static void
bench_schema(const llm_vocab_trie *v, size_t i, uint32_t n_rows, double *cost)
{
	uint32_t *mask = llm_calloc(v->n_vocab / 32 + 1, sizeof(*mask));
	llm_json_doc *doc = NULL;
	llm_grammar *g = NULL;
	llm_error err = {LLM_OK, ""};
	uint64_t seed = 1;
	uint32_t n = 0;
	uint32_t n_first;
	double sum = 0, first = 0;

	if (mask == NULL ||
	    llm_json_parse(schemas[i].schema, strlen(schemas[i].schema), &doc, &err) != LLM_OK ||
	    llm_grammar_from_schema(llm_json_root(doc), &g, &err) != LLM_OK)
	{
		printf("%s: %s\n", schemas[i].name, err.message);
		exit(1);
	}
	n = n_first = write_row(g, v, mask, &seed, cost);
	for (uint32_t k = 0; k < n; k++)
		first += cost[k];
	for (uint32_t row = 1; row < n_rows && n + BUDGET <= MASKS_MAX; row++)
		n += write_row(g, v, mask, &seed, cost + n);
	for (uint32_t k = 0; k < n; k++)
		sum += cost[k];
	qsort(cost, n, sizeof(*cost), compare);
	printf("%-13s %7u %9.1f %9.1f %9.1f %9.1f  %s\n", schemas[i].name, n, sum / n, cost[n / 2],
	       cost[n - 1], first / n_first, sum / n <= MEAN_GOAL ? "reached" : "missed");
	llm_grammar_free(g);
	llm_json_free(doc);
	llm_free(mask);
}

/* Reads the arguments, opens the vocabulary, runs every schema. */
int
main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : MODEL;
	uint32_t n_rows = argc > 2 ? (uint32_t) strtoul(argv[2], NULL, 10) : 200;
	double *cost = llm_malloc_array(MASKS_MAX, sizeof(*cost));
	llm_weights *w = NULL;
	llm_tokenizer *t = NULL;
	llm_vocab_trie *v = NULL;
	llm_error err = {LLM_OK, ""};
	double start;

	if (cost == NULL || llm_weights_open(path, &w, &err) != LLM_OK ||
	    llm_tokenizer_load(w, &t, &err) != LLM_OK)
	{
		printf("%s: %s\n", path, err.message);
		return 1;
	}
	start = now_us();
	if (llm_vocab_trie_create(t, &v, &err) != LLM_OK)
		return 1;
	printf("%u tokens, %u nodes, built in %.1f ms; times in µs, goal %.0f\n", v->n_vocab,
	       v->all.n_nodes, 1e-3 * (now_us() - start), MEAN_GOAL);
	printf("%-13s %7s %9s %9s %9s %9s\n", "schema", "masks", "mean", "median", "dearest",
	       "first row");
	for (size_t i = 0; i < N_SCHEMAS; i++)
		bench_schema(v, i, n_rows, cost);
	llm_vocab_trie_free(v);
	llm_tokenizer_free(t);
	llm_weights_close(w);
	llm_free(cost);
	return 0;
}
