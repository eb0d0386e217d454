/*
 * llm_cli_pack.c: prepack-engine bench --work pack: how full passes of a fixed shape would be.
 *
 * Where shapes are fixed, every slot of a shape is computed, whether a token is in it or not. Four
 * ways to fill them with the texts of a file are compared by the share of slots that hold tokens:
 * padding to the longest of a group, in the order of arrival and sorted by length, and bins of a
 * fixed capacity filled by first-fit decreasing and by worst-fit decreasing. The engine's own
 * passes are ragged and always 100 %: this says what that saves.
 */
#include <stdio.h>
#include <stdlib.h>

#include "llm_alloc.h"
#include "llm_cli.h"
#include "llm_pack.h"
#include "llm_tokenizer.h"
#include "llm_weights.h"

#define CAPACITY  2048u /* slots of a bin: more than any text of the benchmark has */
#define PAD_GROUP 32u   /* rows of a padded group */

/* Counts the tokens of each text; one longer than a bin counts as a bin. */
static llm_status
count_tokens(const llm_tokenizer *t, const llm_text *texts, uint32_t n, uint32_t *lengths,
             llm_error *err)
{
	llm_tokens tokens = {0};
	llm_status status = LLM_OK;

	for (uint32_t i = 0; status == LLM_OK && i < n; i++)
	{
		tokens.n = 0;
		status = llm_tokenize(t, texts[i].bytes, texts[i].n, 0, &tokens, err);
		lengths[i] = tokens.n < CAPACITY ? (uint32_t) tokens.n : CAPACITY;
	}
	llm_tokens_free(&tokens);
	return status;
}

/* Slots that groups take when each row is padded to its group's longest. */
static uint64_t
padded_slots(const uint32_t *lengths, uint32_t n)
{
	uint64_t slots = 0;

	for (uint32_t first = 0; first < n; first += PAD_GROUP)
	{
		const uint32_t end = n - first < PAD_GROUP ? n : first + PAD_GROUP;
		uint32_t longest = 0;

		for (uint32_t i = first; i < end; i++)
			longest = lengths[i] > longest ? lengths[i] : longest;
		slots += (uint64_t) longest * (end - first);
	}
	return slots;
}

/* Orders lengths. */
static int
by_length(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *) a;
	const uint32_t y = *(const uint32_t *) b;

	return (x > y) - (x < y);
}

/* Prints the share of slots that hold tokens. */
static void
print_fill(const char *name, uint64_t n_tokens, uint64_t n_slots)
{
	printf("pack/%s\t%.4g\t%%\n", name,
	       n_slots > 0 ? 100.0 * (double) n_tokens / (double) n_slots : 100.0);
}

/* Packs with one method and prints how full the bins are, and how many there are. */
static llm_status
measure_bins(const char *name, llm_pack_method method, const uint32_t *lengths, uint32_t n,
             uint64_t n_tokens, llm_error *err)
{
	uint32_t *bin = llm_malloc_array(n, sizeof(*bin));
	uint32_t n_bins = 0;
	llm_status status;

	if (bin == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for %u texts", n);
	status = llm_pack_bins(lengths, n, CAPACITY, method, bin, &n_bins, err);
	llm_free(bin);
	if (status != LLM_OK)
		return status;
	print_fill(name, n_tokens, (uint64_t) n_bins * CAPACITY);
	printf("pack/%s/bins\t%u\tbins\n", name, n_bins);
	return LLM_OK;
}

/* All four ways. Sorting comes last, since it changes the order of arrival. */
static llm_status
measure_all(uint32_t *lengths, uint32_t n, llm_error *err)
{
	uint64_t n_tokens = 0;
	llm_status status;

	for (uint32_t i = 0; i < n; i++)
		n_tokens += lengths[i];
	print_fill("padded", n_tokens, padded_slots(lengths, n));
	status = measure_bins("first-fit", LLM_PACK_FIRST_FIT, lengths, n, n_tokens, err);
	if (status == LLM_OK)
		status = measure_bins("worst-fit", LLM_PACK_WORST_FIT, lengths, n, n_tokens, err);
	qsort(lengths, n, sizeof(*lengths), by_length);
	print_fill("sorted", n_tokens, padded_slots(lengths, n));
	return status;
}

/* Tokenises the lines of a file by the model's tokenizer and packs them; see the banner. */
llm_status
llm_cli_pack(const char *model, const char *file, llm_error *err)
{
	char path[4096];
	char *bytes = NULL;
	llm_text *texts = NULL;
	uint32_t n = 0;
	uint32_t *lengths = NULL;
	llm_weights *w = NULL;
	llm_tokenizer *t = NULL;
	llm_status status = llm_cli_model_path(model, path, sizeof(path), err);

	if (status == LLM_OK)
		status = llm_weights_open(path, &w, err);
	if (status == LLM_OK)
		status = llm_tokenizer_load(w, &t, err);
	if (status == LLM_OK)
		status = llm_cli_read_lines(file, &bytes, &texts, &n, err);
	if (status == LLM_OK && (lengths = llm_malloc_array(n, sizeof(*lengths))) == NULL)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory for %u texts", n);
	if (status == LLM_OK)
		status = count_tokens(t, texts, n, lengths, err);
	if (status == LLM_OK)
		status = measure_all(lengths, n, err);
	llm_free(lengths);
	llm_free(texts);
	llm_free(bytes);
	llm_tokenizer_free(t);
	llm_weights_close(w);
	return status;
}
