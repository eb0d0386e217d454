/*
 * llm_tok_bpe.c: byte pair encoding by merge rank (GPT-2, Llama-3, Qwen) and by the score of the
 * merged token (SentencePiece, as GGUF files of Llama-2 models carry it).
 *
 * A word's symbols are a doubly linked list over an array; candidate merges lie in a binary heap
 * ordered by (rank, position). Symbols only grow, so a candidate of which one has changed is known
 * by its length. O(n log n) for any word, also for a million equal letters. No recursion.
 *
 * Two short cuts that change no result: a word that is a token which BPE makes of its own text
 * (TOK_WHOLE, found out at load) is looked up once; and where no token of the vocabulary has a ▁
 * behind another character, no merge can cross such a place, so texts are cut there first.
 */
#include "llm_tok_internal.h"

#include <stdlib.h>

#include "llm_check.h"

/* A symbol: a run of the word's bytes that is one token so far. */
typedef struct symbol
{
	int32_t prev;
	int32_t next;
	int32_t id;  /* −1: not in the vocabulary (TOK_SPM only) */
	uint32_t at; /* first byte */
	uint32_t n;  /* bytes; 0 = merged into its left neighbour */
} symbol;

/* A candidate: the symbol at left and its right neighbour would make id. */
typedef struct candidate
{
	uint32_t rank; /* lower merges first */
	int32_t left;
	int32_t id;
	uint32_t n; /* bytes of both together */
} candidate;

/* Children of a place in the heap: four lie side by side in one or two cache lines. */
#define HEAP_ARITY 4

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

/* Grows an array of the scratch by half, so that growing words do not reallocate each time. */
void *
tok_scratch_array(void **array, size_t *n_have, size_t n, size_t size)
{
	if (n > *n_have)
	{
		llm_free(*array);
		*n_have = 0;
		if ((*array = llm_malloc_array(n + n / 2, size)) == NULL)
			return NULL;
		*n_have = n + n / 2;
	}
	return *array;
}

/* Frees the scratch of a call. */
void
tok_scratch_free(tok_scratch *scratch)
{
	llm_free(scratch->symbols);
	llm_free(scratch->heap);
	llm_free(scratch->lattice);
	for (int i = 0; i < 2; i++)
	{
		llm_free(scratch->normal[i].bytes);
		llm_free(scratch->step[i].bytes);
	}
	for (int i = 0; i < TOK_STEPS_MAX; i++)
		llm_free(scratch->level[i].bytes);
	*scratch = (tok_scratch){0};
}

/* True when a goes before b: lower rank, then further left. */
static bool
before(const candidate *a, const candidate *b)
{
	return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

/* Puts a candidate into the heap. */
static void
heap_push(work *w, candidate c)
{
	size_t i = w->n_heap++;

	while (i > 0 && before(&c, &w->heap[(i - 1) / HEAP_ARITY]))
	{
		w->heap[i] = w->heap[(i - 1) / HEAP_ARITY];
		i = (i - 1) / HEAP_ARITY;
	}
	w->heap[i] = c;
}

/* The best of the children of a place; 0 when it has none. */
static size_t
best_child(const work *w, size_t i)
{
	size_t best = HEAP_ARITY * i + 1;
	size_t end = best + HEAP_ARITY < w->n_heap ? best + HEAP_ARITY : w->n_heap;

	for (size_t k = best + 1; k < end; k++)
		if (before(&w->heap[k], &w->heap[best]))
			best = k;
	return best < end ? best : 0;
}

/* Takes the best candidate out. */
static candidate
heap_pop(work *w)
{
	candidate top = w->heap[0];
	candidate last = w->heap[--w->n_heap];
	size_t i = 0;
	size_t child;

	while ((child = best_child(w, i)) > 0 && before(&w->heap[child], &last))
	{
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

	if (left < 0 || w->symbols[left].next < 0)
		return;
	a = &w->symbols[left];
	b = &w->symbols[a->next];
	c.n = a->n + b->n;
	if (w->t->model == TOK_SPM)
	{
		if ((c.id = tok_find_piece(w->t, w->word + a->at, c.n)) < 0)
			return;
		c.rank = w->t->rank[c.id];
	}
	else if (!tok_merge_find(w->t, a->id, b->id, &c.rank, &c.id))
		return;
	heap_push(w, c);
}

/* Appends a first symbol. */
static void
add_symbol(work *w, int32_t id, size_t at, size_t n)
{
	w->symbols[w->n_symbols] = (symbol){.prev = (int32_t) w->n_symbols - 1,
	                                    .next = (int32_t) w->n_symbols + 1,
	                                    .id = id,
	                                    .at = (uint32_t) at,
	                                    .n = (uint32_t) n};
	w->n_symbols++;
}

/* True when the model has a byte token for each byte. */
static bool
bytes_known(const llm_tokenizer *t, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (t->byte_id[(unsigned char) s[i]] < 0)
			return false;
	return true;
}

/*
 * Cuts the word into its first symbols. As in the reference an unknown character becomes byte
 * tokens, or the unknown token (one for a row of them where the model says so), or nothing at all,
 * so that its neighbours become each other's.
 */
static void
first_symbols(work *w, size_t n)
{
	const llm_tokenizer *t = w->t;
	bool after_unk = false;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; i < n; i += length)
	{
		bool fuse = after_unk && t->fuse_unk;
		int32_t id;

		length = t->byte_level ? 1 : llm_utf8_peek(w->word + i, n - i, &cp);
		id = t->byte_level ? t->byte_id[(unsigned char) w->word[i]]
		                   : tok_find_piece(t, w->word + i, length);
		after_unk = false;
		if (id >= 0 || t->model == TOK_SPM)
			add_symbol(w, id, i, length);
		else if (!t->byte_level && t->byte_fallback && bytes_known(t, w->word + i, length))
		{
			for (size_t k = i; k < i + length; k++)
				add_symbol(w, t->byte_id[(unsigned char) w->word[k]], k, 1);
		}
		else if (t->unk >= 0)
		{
			after_unk = true;
			if (fuse)
				w->symbols[w->n_symbols - 1].n += (uint32_t) length;
			else
				add_symbol(w, t->unk, i, length);
		}
	}
	if (w->n_symbols > 0)
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

/* Appends what stands for a symbol that is no token: byte tokens, or the unknown one. */
static llm_status
put_unknown(const work *w, const symbol *s, llm_tokens *out, llm_error *err)
{
	const llm_tokenizer *t = w->t;

	if (!t->byte_fallback || !bytes_known(t, w->word + s->at, s->n))
		return t->unk >= 0 ? llm_tokens_push(out, t->unk, err) : LLM_OK;
	for (uint32_t i = s->at; i < s->at + s->n; i++)
		if (llm_tokens_push(out, t->byte_id[(unsigned char) w->word[i]], err) != LLM_OK)
			return LLM_E_NOMEM;
	return LLM_OK;
}

/* Merges a word and appends its ids. */
static llm_status
merge_word(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
           llm_tokens *out, llm_error *err)
{
	work w = {.t = t, .word = word};
	llm_status status = LLM_OK;

	if (n > INT32_MAX / 4)
		return llm_fail(err, LLM_E_TOO_LONG, "a text of %zu bytes is too long", n);
	w.symbols = tok_scratch_array(&scratch->symbols, &scratch->n_symbols, n, sizeof(symbol));
	/* At most n − 1 candidates to begin with; a merge takes one out and puts two in. */
	w.heap = tok_scratch_array(&scratch->heap, &scratch->n_heap, 2 * n, sizeof(candidate));
	if (w.symbols == NULL || w.heap == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a word of %zu bytes", n);
	first_symbols(&w, n);
	merge_all(&w);
	for (int32_t i = w.n_symbols > 0 ? 0 : -1; status == LLM_OK && i >= 0; i = w.symbols[i].next)
		if (w.symbols[i].id >= 0)
			status = llm_tokens_push(out, w.symbols[i].id, err);
		else
			status = put_unknown(&w, &w.symbols[i], out, err);
	return status;
}

/* Looks the word up as a whole; merges it when that does not settle it. */
llm_status
tok_bpe(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch, llm_tokens *out,
        llm_error *err)
{
	int32_t id = tok_find_piece(t, word, n);

	if (n == 0)
		return LLM_OK;
	if (id >= 0 && (t->ignore_merges || (t->entries[id].flags & TOK_WHOLE)))
		return llm_tokens_push(out, id, err);
	return merge_word(t, word, n, scratch, out, err);
}

/* Orders ids by falling score. */
static int
compare_scores(const void *a, const void *b, void *scores)
{
	double x = ((const double *) scores)[*(const uint32_t *) a];
	double y = ((const double *) scores)[*(const uint32_t *) b];

	return x > y ? -1 : x < y;
}

/* Turns scores into ranks; equal scores get the same one, so that the place decides. */
static llm_status
rank_scores(llm_tokenizer *t, llm_error *err)
{
	uint32_t *order = llm_malloc_array(t->n_vocab, sizeof(uint32_t));
	uint32_t rank = 0;

	if (order == NULL || (t->rank = llm_malloc_array(t->n_vocab, sizeof(uint32_t))) == NULL)
	{
		llm_free(order);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	}
	for (uint32_t i = 0; i < t->n_vocab; i++)
		order[i] = i;
	qsort_r(order, t->n_vocab, sizeof(uint32_t), compare_scores, t->scores);
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		if (i > 0 && t->scores[order[i]] != t->scores[order[i - 1]])
			rank++;
		t->rank[order[i]] = rank;
	}
	llm_free(order);
	return LLM_OK;
}

/* True when a ▁ stands behind another character in a text. */
static bool
crosses_space(const char *text, size_t n)
{
	bool other = false;
	bool metaspace;

	for (size_t i = 0; i < n; i += metaspace ? 3 : 1)
	{
		metaspace = n - i >= 3 && memcmp(text + i, TOK_METASPACE, 3) == 0;
		if (metaspace && other)
			return true;
		other = other || !metaspace;
	}
	return false;
}

/* Adds the cut before runs of ▁ where no token is in its way. */
static void
add_safe_split(llm_tokenizer *t)
{
	if (t->byte_level || t->n_splits == TOK_STEPS_MAX ||
	    tok_find_piece(t, TOK_METASPACE, strlen(TOK_METASPACE)) < 0)
		return;
	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (t->entries[i].text != NULL && !(t->entries[i].flags & TOK_SPECIAL) &&
		    crosses_space(t->entries[i].text, t->entries[i].bytes))
			return;
	t->splits[t->n_splits++] = (tok_split){.kind = TOK_SPLIT_BEFORE_RUN};
}

/* Ranks scores, finds the tokens that BPE makes of their own text, adds the safe split. */
llm_status
tok_bpe_index(llm_tokenizer *t, llm_error *err)
{
	tok_scratch scratch = {0};
	llm_tokens ids = {0};
	llm_status status = t->model == TOK_SPM ? rank_scores(t, err) : LLM_OK;

	for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
	{
		tok_entry *e = &t->entries[i];
		const char *piece = t->byte_level ? e->plain : e->text;
		size_t n = t->byte_level ? e->bytes_plain : e->bytes;

		if (e->text == NULL || n == 0 || tok_find_piece(t, piece, n) != (int32_t) i)
			continue;
		ids.n = 0;
		status = merge_word(t, piece, n, &scratch, &ids, err);
		if (status == LLM_OK && ids.n == 1 && ids.ids[0] == (int32_t) i)
			e->flags |= TOK_WHOLE;
	}
	llm_tokens_free(&ids);
	tok_scratch_free(&scratch);
	if (status == LLM_OK)
		add_safe_split(t);
	return status;
}
