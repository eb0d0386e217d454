/*
 * llm_tok_unigram.c: Unigram: the segmentation with the highest sum of log-probabilities (Kudo,
 * arXiv 1804.10959), by Viterbi over the word's bytes.
 *
 * best[i] is the best score of a segmentation of the first i bytes; from each character boundary
 * the trie of pieces is walked as far as it goes. Where no piece is exactly the next character, an
 * unknown token bridges it. Ties keep the segmentation found first, and sums are added in the
 * reference's order and precision, so that ties are the same ones: tokenizers has doubles,
 * SentencePiece floats.
 */
#include "llm_tok_internal.h"

#define NOT_REACHED (-2)
#define UNKNOWN     (-1)

/* A place in the word. */
typedef struct place
{
	double best;
	uint32_t from; /* where the last piece begins */
	int32_t id;    /* the last piece */
} place;

/* Offers a piece between two places. */
static void
offer(const llm_tokenizer *t, place *places, size_t from, size_t to, double score, int32_t id)
{
	double best = score + places[from].best;

	if (t->single_sums)
		best = (float) best;
	if (places[to].id == NOT_REACHED || best > places[to].best)
		places[to] = (place){.best = best, .from = (uint32_t) from, .id = id};
}

/* Tries every piece that begins at a place; returns where the next character begins. */
static size_t
offer_all(const llm_tokenizer *t, const char *word, size_t n, size_t from, place *places)
{
	uint32_t cp;
	size_t length = llm_utf8_peek(word + from, n - from, &cp);
	uint32_t node = 0;
	bool single = false;

	for (size_t i = from; i < n && tok_trie_step(&t->pieces, &node, (unsigned char) word[i]); i++)
	{
		int32_t id = t->pieces.nodes[node].id;

		if (id < 0)
			continue;
		offer(t, places, from, i + 1, t->scores[id], id);
		single = single || i + 1 - from == length;
	}
	if (!single)
		offer(t, places, from, from + length, t->unk_score, UNKNOWN);
	return from + length;
}

/* Appends an unknown stretch: byte tokens where the model has them, else one unknown token. */
static llm_status
put_unknown(const llm_tokenizer *t, const char *bytes, size_t n, llm_tokens *out, llm_error *err)
{
	bool all = t->byte_fallback;

	for (size_t i = 0; all && i < n; i++)
		all = t->byte_id[(unsigned char) bytes[i]] >= 0;
	if (!all)
		return t->unk >= 0 ? llm_tokens_push(out, t->unk, err) : LLM_OK;
	for (size_t i = 0; i < n; i++)
		if (llm_tokens_push(out, t->byte_id[(unsigned char) bytes[i]], err) != LLM_OK)
			return LLM_E_NOMEM;
	return LLM_OK;
}

/* Turns the links around, so that the pieces can be read from the front. Returns the first end. */
static size_t
reverse(place *places, size_t n)
{
	size_t end = n;
	size_t next = 0;

	while (end > 0)
	{
		size_t from = places[end].from;

		places[end].from = (uint32_t) next; /* now: the end of the piece behind this one */
		next = end;
		end = from;
	}
	return next;
}

/* Appends the ids along the best path; a row of unknown characters is one stretch. */
static llm_status
put_path(const llm_tokenizer *t, const char *word, size_t n, place *places, llm_tokens *out,
         llm_error *err)
{
	llm_status status = LLM_OK;
	size_t begin = 0;

	for (size_t end = reverse(places, n); status == LLM_OK && end != 0; end = places[end].from)
	{
		size_t next = places[end].from;

		if (places[end].id >= 0)
			status = llm_tokens_push(out, places[end].id, err);
		else if (next == 0 || places[next].id >= 0)
			status = put_unknown(t, word + begin, end - begin, out, err);
		else
			continue; /* the unknown stretch goes on */
		begin = end;
	}
	return status;
}

/* Appends the ids of one word. */
llm_status
tok_unigram(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
            llm_tokens *out, llm_error *err)
{
	place *places;

	if (n == 0)
		return LLM_OK;
	if (n >= UINT32_MAX / 4)
		return llm_fail(err, LLM_E_TOO_LONG, "a text of %zu bytes is too long", n);
	places = tok_scratch_array(&scratch->lattice, &scratch->n_lattice, n + 1, sizeof(place));
	if (places == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a word of %zu bytes", n);
	for (size_t i = 0; i <= n; i++)
		places[i].id = NOT_REACHED;
	places[0] = (place){.id = UNKNOWN};
	for (size_t i = 0; i < n;)
		i = offer_all(t, word, n, i, places);
	return put_path(t, word, n, places, out, err);
}
