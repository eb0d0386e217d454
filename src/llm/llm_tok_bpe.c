/*
 * llm_tok_bpe.c: byte pair encoding by merge rank (GPT-2, Llama-3, Qwen) and by the score of the
 * merged token (SentencePiece, as GGUF files of Llama-2 models carry it).
 *
 * The word's symbols are a doubly linked list over an array; candidate merges lie in a binary heap
 * ordered by (priority, position). A candidate whose symbols have changed since is recognised by
 * its lengths and dropped. O(n log n) for any word, also for a million equal letters. No recursion.
 */
#include "llm_tok_internal.h"

#include <string.h>

#include "llm_check.h"

/* A symbol: a run of the word's bytes that is one token so far. */
typedef struct symbol
{
	int32_t prev;
	int32_t next;
	int32_t id;  /* −1: not in the vocabulary */
	uint32_t at; /* first byte */
	uint32_t n;  /* bytes; 0 = merged into its left neighbour */
} symbol;

/* A candidate: the symbol at left and its right neighbour would make id. */
typedef struct candidate
{
	double priority; /* lower merges first */
	int32_t left;
	int32_t id;
	uint32_t n; /* bytes of both together when it was made */
} candidate;

/* One word's work. */
typedef struct work
{
	const llm_tokenizer *t;
	const char *word;
	symbol *symbols;
	uint32_t n_symbols;
	candidate *heap;
	size_t n_heap;
} work;

/* Grows an array of the scratch; its old content may go. */
static void *
scratch_array(void **array, size_t *n_have, size_t n, size_t size)
{
	if (n > *n_have)
	{
		llm_free(*array);
		*n_have = 0;
		if ((*array = llm_malloc_array(n, size)) == NULL)
			return NULL;
		*n_have = n;
	}
	return *array;
}

/* True when a goes before b: lower priority value, then further left. */
static bool
before(const candidate *a, const candidate *b)
{
	return a->priority < b->priority || (a->priority == b->priority && a->left < b->left);
}

/* Puts a candidate into the heap. */
static void
heap_push(work *w, candidate c)
{
	size_t i = w->n_heap++;

	while (i > 0 && before(&c, &w->heap[(i - 1) / 2]))
	{
		w->heap[i] = w->heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	w->heap[i] = c;
}

/* Takes the best candidate out. */
static candidate
heap_pop(work *w)
{
	candidate top = w->heap[0];
	candidate last = w->heap[--w->n_heap];
	size_t i = 0;

	for (;;)
	{
		size_t child = 2 * i + 1;

		if (child >= w->n_heap)
			break;
		if (child + 1 < w->n_heap && before(&w->heap[child + 1], &w->heap[child]))
			child++;
		if (!before(&w->heap[child], &last))
			break;
		w->heap[i] = w->heap[child];
		i = child;
	}
	w->heap[i] = last;
	return top;
}

/* Proposes to merge the symbol at left with its right neighbour, if they make a token. */
static void
propose(work *w, int32_t left)
{
	const symbol *a;
	const symbol *b;
	candidate c = {.left = left};
	uint32_t rank;

	if (left < 0 || w->symbols[left].next < 0)
		return;
	a = &w->symbols[left];
	b = &w->symbols[a->next];
	c.n = a->n + b->n;
	if (w->t->model == TOK_SPM)
	{
		if ((c.id = tok_find(w->t, w->word + a->at, c.n)) < 0)
			return;
		c.priority = -(double) w->t->entries[c.id].score;
	}
	else
	{
		if (a->id < 0 || b->id < 0 || !tok_pairs_find(w->t, a->id, b->id, &rank, &c.id))
			return;
		c.priority = rank;
	}
	heap_push(w, c);
}

/* Cuts the word into its first symbols: bytes of the byte alphabet, or characters. */
static void
first_symbols(work *w, size_t n)
{
	uint32_t cp;
	size_t length;

	for (size_t i = 0; i < n; i += length)
	{
		symbol *s = &w->symbols[w->n_symbols];

		length = w->t->byte_level ? 1 : llm_utf8_decode(w->word + i, n - i, &cp);
		if (length == 0)
			length = 1;
		*s = (symbol){.prev = (int32_t) w->n_symbols - 1,
		              .next = (int32_t) w->n_symbols + 1,
		              .at = (uint32_t) i,
		              .n = (uint32_t) length};
		s->id = w->t->byte_level ? w->t->byte_id[(unsigned char) w->word[i]]
		                         : tok_find(w->t, w->word + i, length);
		w->n_symbols++;
	}
	w->symbols[w->n_symbols - 1].next = -1;
}

/* Carries out the merges, best first. */
static void
merge_all(work *w)
{
	for (uint32_t i = 0; i + 1 < w->n_symbols; i++)
		propose(w, (int32_t) i);
	while (w->n_heap > 0)
	{
		candidate c = heap_pop(w);
		symbol *a = &w->symbols[c.left];
		symbol *b = a->n > 0 && a->next >= 0 ? &w->symbols[a->next] : NULL;

		if (b == NULL || a->n + b->n != c.n)
			continue; /* one of the two has been merged since */
		a->n = c.n;
		a->id = c.id;
		b->n = 0;
		a->next = b->next;
		if (a->next >= 0)
			w->symbols[a->next].prev = c.left;
		propose(w, a->prev);
		propose(w, c.left);
	}
}

/* Appends a symbol's id, or what stands for text that is not in the vocabulary. */
static llm_status
put_symbol(const work *w, const symbol *s, bool *after_unk, llm_tokens *out, llm_error *err)
{
	bool fused = *after_unk && w->t->fuse_unk;

	*after_unk = false;
	if (s->id >= 0)
		return llm_tokens_push(out, s->id, err);
	if (w->t->byte_fallback)
	{
		bool all = true;

		for (uint32_t i = 0; i < s->n; i++)
			all = all && w->t->byte_id[(unsigned char) w->word[s->at + i]] >= 0;
		for (uint32_t i = 0; all && i < s->n; i++)
			if (llm_tokens_push(out, w->t->byte_id[(unsigned char) w->word[s->at + i]], err) !=
			    LLM_OK)
				return LLM_E_NOMEM;
		if (all)
			return LLM_OK;
	}
	*after_unk = true;
	if (w->t->unk < 0 || fused)
		return LLM_OK;
	return llm_tokens_push(out, w->t->unk, err);
}

/* A word that is in the vocabulary as a whole (Llama-3's ignore_merges). */
static int32_t
whole_word(const llm_tokenizer *t, const char *word, size_t n)
{
	char text[512];
	size_t at = 0;

	if (!t->byte_level)
		return tok_find(t, word, n);
	if (n > sizeof(text) / 4)
		return -1;
	for (size_t i = 0; i < n; i++)
		at += llm_utf8_encode(tok_char_of((unsigned char) word[i]), text + at);
	return tok_find(t, text, at);
}

/* Appends the ids of one word. */
llm_status
tok_bpe(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch, llm_tokens *out,
        llm_error *err)
{
	work w = {.t = t, .word = word};
	bool after_unk = false;
	int32_t whole;

	if (n == 0)
		return LLM_OK;
	if (n > INT32_MAX / 4)
		return llm_fail(err, LLM_E_TOO_LONG, "text of %zu bytes is too long", n);
	if (t->ignore_merges && (whole = whole_word(t, word, n)) >= 0)
		return llm_tokens_push(out, whole, err);
	w.symbols = scratch_array(&scratch->symbols, &scratch->n_symbols, n, sizeof(symbol));
	/* Every merge adds at most two candidates: 3 n in all. */
	w.heap = scratch_array(&scratch->heap, &scratch->n_heap, 3 * n + 1, sizeof(candidate));
	if (w.symbols == NULL || w.heap == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a word of %zu bytes", n);
	first_symbols(&w, n);
	merge_all(&w);
	for (int32_t i = 0; i >= 0; i = w.symbols[i].next)
		if (put_symbol(&w, &w.symbols[i], &after_unk, out, err) != LLM_OK)
			return LLM_E_NOMEM;
	return LLM_OK;
}

/* Frees the scratch of a call. */
void
tok_scratch_free(tok_scratch *scratch)
{
	llm_free(scratch->symbols);
	llm_free(scratch->heap);
	llm_free(scratch->lattice);
}
