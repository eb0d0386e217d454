/*
 * llm_draft.c: the index of prompt lookup. See llm_draft.h.
 *
 * Every position whose token and the one before it hash alike hangs in one chain, the latest first,
 * so one index of pairs serves n-grams of all lengths: the chain of the last pair is walked, and
 * the place that agrees longest with the end of the sequence (up to NGRAM_MAX tokens) wins, the
 * latest among equals. The walk is bounded, so a proposal costs O(1) however often a pair recurs.
 * Memory is three 32-bit words a token, doubled at most.
 *
 * One thread; the tokens are copied.
 */
#include "llm_draft.h"

#include <string.h>

#include "llm_alloc.h"

#define NGRAM_MIN    2
#define NGRAM_MAX    4
#define WALK_MAX     32
#define CAPACITY_MIN 64
#define LENGTH_START 4
#define PAUSE_MAX    64
#define NO_POSITION  UINT32_MAX

struct llm_draft
{
	int32_t *tokens;
	uint32_t *previous; /* of a position: the one before it in its chain */
	uint32_t *heads;    /* of a hash: the latest position; capacity of them */
	uint32_t n;
	uint32_t capacity; /* a power of two */
	uint32_t length;   /* how many tokens to propose at most */
	uint32_t pause;    /* tokens to wait until proposals resume */
	uint32_t backoff;  /* the next pause */
};

/* The chain of the pair that ends at a position. */
static uint32_t
chain_of(const llm_draft *d, uint32_t position)
{
	uint64_t pair =
	    (uint64_t) (uint32_t) d->tokens[position - 1] << 32 | (uint32_t) d->tokens[position];

	pair = (pair ^ (pair >> 29)) * 0xbf58476d1ce4e5b9u;
	return (uint32_t) (pair >> 32) & (d->capacity - 1);
}

/* Puts a position at the head of its chain. */
static void
link_position(llm_draft *d, uint32_t position)
{
	uint32_t *head = &d->heads[chain_of(d, position)];

	d->previous[position] = *head;
	*head = position;
}

/* Makes room for n tokens and rebuilds the chains; on failure nothing is changed. */
static llm_status
reserve(llm_draft *d, uint32_t n, llm_error *err)
{
	uint32_t capacity = d->capacity > 0 ? d->capacity : CAPACITY_MIN;
	int32_t *tokens;
	uint32_t *links;

	if (n <= d->capacity)
		return LLM_OK;
	if (n > UINT32_MAX / 4)
		return llm_fail(err, LLM_E_TOO_LONG, "a sequence of %u tokens is too long to index", n);
	while (capacity < n)
		capacity *= 2;
	links = llm_malloc_array((size_t) capacity * 2, sizeof(*links));
	tokens = links == NULL ? NULL : llm_realloc_array(d->tokens, capacity, sizeof(*tokens));
	if (tokens == NULL)
	{
		llm_free(links);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a draft index");
	}
	llm_free(d->previous);
	d->tokens = tokens;
	d->previous = links;
	d->heads = links + capacity;
	d->capacity = capacity;
	memset(d->heads, 0xff, capacity * sizeof(*d->heads));
	for (uint32_t i = 1; i < d->n; i++)
		link_position(d, i);
	return LLM_OK;
}

/* Indexes a prompt. */
llm_status
llm_draft_create(const int32_t *tokens, uint32_t n, llm_draft **out, llm_error *err)
{
	llm_draft *d = llm_calloc(1, sizeof(*d));
	llm_status status;

	*out = NULL;
	if (d == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a draft index");
	d->length = LENGTH_START;
	d->backoff = 1;
	status = reserve(d, n > 0 ? n : 1, err);
	if (status != LLM_OK)
	{
		llm_draft_free(d);
		return status;
	}
	if (n > 0)
		memcpy(d->tokens, tokens, n * sizeof(*tokens));
	d->n = n;
	for (uint32_t i = 1; i < n; i++)
		link_position(d, i);
	*out = d;
	return LLM_OK;
}

/* Frees the index; NULL is fine. */
void
llm_draft_free(llm_draft *d)
{
	if (d == NULL)
		return;
	llm_free(d->tokens);
	llm_free(d->previous);
	llm_free(d);
}

/* Adds the token that came next. */
llm_status
llm_draft_append(llm_draft *d, int32_t token, llm_error *err)
{
	llm_status status = d->n == d->capacity ? reserve(d, d->n + 1, err) : LLM_OK;

	if (status != LLM_OK)
		return status;
	d->tokens[d->n++] = token;
	if (d->n >= 2)
		link_position(d, d->n - 1);
	if (d->pause > 0)
		d->pause--;
	return LLM_OK;
}

/* How many tokens up to a position agree with the end of the sequence, at most NGRAM_MAX. */
static uint32_t
agreement(const llm_draft *d, uint32_t position)
{
	uint32_t n = 0;

	while (n < NGRAM_MAX && n <= position && d->tokens[position - n] == d->tokens[d->n - 1 - n])
		n++;
	return n;
}

/* Where the longest n-gram at the end of the sequence stood before; NO_POSITION when nowhere. */
static uint32_t
find_match(const llm_draft *d)
{
	uint32_t best = NO_POSITION;
	uint32_t longest = NGRAM_MIN - 1;
	uint32_t at = d->previous[d->n - 1];

	for (uint32_t step = 0; at != NO_POSITION && step < WALK_MAX; step++, at = d->previous[at])
	{
		uint32_t n = agreement(d, at);

		if (n > longest)
		{
			longest = n;
			best = at;
		}
		if (longest == NGRAM_MAX)
			break;
	}
	return best;
}

/* Proposes what followed the match. Past the end of the sequence the proposal goes on with itself,
 * so that a run that repeats is proposed as far as asked. */
uint32_t
llm_draft_propose(const llm_draft *d, int32_t *out, uint32_t max)
{
	uint32_t n = max < d->length ? max : d->length;
	uint32_t at;

	if (d->n < NGRAM_MIN + 1 || d->pause > 0 || (at = find_match(d)) == NO_POSITION)
		return 0;
	for (uint32_t i = 0; i < n; i++)
	{
		uint32_t from = at + 1 + i;

		out[i] = from < d->n ? d->tokens[from] : out[from - d->n];
	}
	return n;
}

/* Adapts: an accepted draft doubles the length; a cut one sets it to what passed and one more; one
 * refused outright halves it, and at one token makes proposals pause, twice as long each time. */
void
llm_draft_feedback(llm_draft *d, uint32_t n_proposed, uint32_t n_accepted)
{
	if (n_proposed == 0)
		return;
	if (n_accepted > 0)
		d->backoff = 1;
	if (n_accepted >= n_proposed)
		d->length = d->length * 2 < LLM_DRAFT_MAX ? d->length * 2 : LLM_DRAFT_MAX;
	else if (n_accepted > 0)
		d->length = n_accepted + 1 < LLM_DRAFT_MAX ? n_accepted + 1 : LLM_DRAFT_MAX;
	else if (d->length > 1)
		d->length /= 2;
	else
	{
		d->pause = d->backoff;
		d->backoff = d->backoff * 2 < PAUSE_MAX ? d->backoff * 2 : PAUSE_MAX;
	}
}
