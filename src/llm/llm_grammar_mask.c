/*
 * llm_grammar_mask.c: which tokens a state allows.
 *
 * One walk over the trie of the vocabulary together with the automaton, which leaves out every
 * subtree whose byte is refused. Masks are kept by state, for all rows of a request, with how
 * expensive the dearest completion behind one of their tokens is: while the budget covers that, the
 * kept mask is exact. Counters of strings and arrays that no single token can bring to a bound are
 * left out of the key, or no two states within a string would be equal. Inside a string, the tokens
 * that are nothing but its characters come as a set that was made with the trie, and only the
 * others are walked.
 *
 * Budget: b more bytes always fit b tokens, as every byte that a completion needs is checked to be
 * a token of its own. So a token is allowed when the least bytes behind it are at most the tokens
 * left after it, and by that rule a state that fits its budget never runs into a dead end.
 */
#include <pthread.h>
#include <string.h>

#include "llm_grammar_internal.h"
#include "llm_hash.h"

#define MASKS_MAX       512
#define BYTES_MASKS_MAX (16u << 20)

typedef struct kept_mask
{
	grammar_set key;
	uint64_t hash;
	uint32_t *bits;
	uint32_t cost_max;
} kept_mask;

typedef struct grammar_cache
{
	pthread_mutex_t lock; /* over all below; masks are computed under it too */
	const llm_vocab_trie *trie;
	grammar_set *walk; /* the state at each depth of the trie; the last: the key */
	llm_arena *arena;  /* of the masks; thrown away as a whole when full */
	size_t bytes;
	uint32_t n;
	kept_mask masks[MASKS_MAX];
} grammar_cache;

/* What a walk found. */
typedef struct walk_result
{
	bool empty;
	uint32_t cost_min; /* over all tokens that the automaton takes */
	uint32_t cost_max; /* over those within the limit */
} walk_result;

/* Makes an empty cache. */
grammar_cache *
grammar_cache_create(const llm_grammar *g)
{
	grammar_cache *c = llm_calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->walk = grammar_sets_create(g, LLM_VOCAB_TOKEN_MAX + 2);
	if (c->walk == NULL || pthread_mutex_init(&c->lock, NULL) != 0)
	{
		llm_free(c->walk);
		llm_free(c);
		return NULL;
	}
	return c;
}

/* Frees a cache; NULL is fine. */
void
grammar_cache_free(grammar_cache *c)
{
	if (c == NULL)
		return;
	pthread_mutex_destroy(&c->lock);
	llm_arena_destroy(c->arena);
	llm_free(c->walk);
	llm_free(c);
}

/* Takes the counter out of a frame when no token can bring it to one of its bounds. */
static void
make_key_frame(const llm_grammar *g, grammar_frame *f)
{
	const grammar_node *node = &g->nodes[f->node];

	if ((node->kind == G_STRING || node->kind == G_ARRAY || node->kind == G_CHARS) &&
	    f->phase != P_START && f->count >= node->min && node->max - f->count > LLM_VOCAB_TOKEN_MAX)
		f->count = node->min;
}

/* Makes the key of a state, in c->walk's last set, and its hash. */
static uint64_t
make_key(const llm_grammar *g, grammar_cache *c, const grammar_set *set)
{
	grammar_set *key = &c->walk[LLM_VOCAB_TOKEN_MAX + 1];
	uint64_t hash = set->n ^ (uint64_t) set->n_lead << 32;

	grammar_set_copy(key, set);
	for (uint32_t i = 0; i < key->n; i++)
	{
		grammar_thread *t = &key->threads[i];

		for (uint32_t k = 0; k < t->depth; k++)
			make_key_frame(g, &t->frames[k]);
		hash = hash * 0x9e3779b97f4a7c15u ^ llm_hash(t->frames, t->depth * sizeof(t->frames[0]));
	}
	return hash;
}

/* True when two sets are equal. */
static bool
equal_sets(const grammar_set *a, const grammar_set *b)
{
	if (a->n != b->n || a->n_lead != b->n_lead)
		return false;
	for (uint32_t i = 0; i < a->n; i++)
		if (a->threads[i].depth != b->threads[i].depth ||
		    memcmp(a->threads[i].frames, b->threads[i].frames,
		           a->threads[i].depth * sizeof(grammar_frame)) != 0)
			return false;
	return true;
}

/* Finds the kept mask of the key; NULL when there is none. */
static const kept_mask *
find_mask(const grammar_cache *c, uint64_t hash)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (c->masks[i].hash == hash &&
		    equal_sets(&c->masks[i].key, &c->walk[LLM_VOCAB_TOKEN_MAX + 1]))
			return &c->masks[i];
	return NULL;
}

/* True when the output stops inside a character that the vocabulary cannot finish byte by byte. */
static bool
cuts_character(const llm_grammar *g, const llm_vocab_trie *v, const grammar_set *set)
{
	const grammar_thread *t = &set->threads[0];
	const grammar_frame *f = &t->frames[t->depth > 0 ? t->depth - 1 : 0];

	if (t->depth == 0 || g->nodes[f->node].kind != G_STRING || f->phase != P_UTF8)
		return false;
	for (uint32_t byte = 0x80; byte < 0xc0; byte++)
		if (!v->single[byte])
			return true;
	return false;
}

/* Walks a trie from c->walk[0] and adds the bits of tokens whose cost is within the limit. */
static void
walk_trie(const llm_grammar *g, grammar_cache *c, const llm_trie *trie, uint32_t limit,
          uint32_t *bits, walk_result *r)
{
	for (uint32_t i = 0; i < trie->n_nodes;)
	{
		const llm_trie_node *node = &trie->nodes[i];
		grammar_set *here = &c->walk[node->depth];
		uint32_t cost;

		if (!grammar_step(g, here - 1, node->byte, here))
		{
			i = node->skip;
			continue;
		}
		i++;
		if (node->n_tokens == 0 || cuts_character(g, c->trie, here))
			continue;
		cost = grammar_cost(g, here);
		r->cost_min = cost < r->cost_min ? cost : r->cost_min;
		if (cost > limit)
			continue;
		r->cost_max = cost > r->cost_max ? cost : r->cost_max;
		for (uint32_t k = 0; k < node->n_tokens; k++)
		{
			int32_t token = trie->order[node->token + k];

			bits[token / 32] |= UINT32_C(1) << (token % 32);
		}
	}
}

/* What plain characters can do for a thread. */
typedef enum plain_use
{
	PLAIN_WALK, /* they must be tried one by one */
	PLAIN_SET,  /* as many as there is room for; they never raise the cost of the completion */
	PLAIN_NONE  /* none within the limit: they only put the closing quote off */
} plain_use;

/* Tells a thread that stands between two characters of a string from others. */
static plain_use
use_of_plain(const llm_grammar *g, const grammar_set *set, uint32_t i, uint32_t limit,
             uint32_t *cost)
{
	const grammar_thread *t = &set->threads[i];
	const grammar_frame *f = &t->frames[t->depth > 0 ? t->depth - 1 : 0];
	const grammar_set alone = {.n = 1, .threads = &set->threads[i]};

	if (t->depth == 0 || g->nodes[f->node].kind != G_STRING || f->phase != P_CHARS)
		return PLAIN_WALK;
	*cost = grammar_cost(g, &alone);
	if (*cost <= limit)
		return PLAIN_SET;
	return f->count >= g->nodes[f->node].min ? PLAIN_NONE : PLAIN_WALK;
}

/* Adds the tokens of plain characters for which a string has room. */
static void
add_plain(const llm_vocab_trie *v, uint32_t room, uint32_t *bits)
{
	size_t n_words = ((size_t) v->n_vocab + 31) / 32;
	const uint32_t *row;

	room = room < v->n_inside ? room : v->n_inside;
	if (room == 0)
		return;
	row = v->inside + (room - 1) * n_words;
	for (size_t i = 0; i < n_words; i++)
		bits[i] |= row[i];
}

/*
 * Adds the tokens of plain characters, if a thread stands in a string; all others then stand in
 * strings, keys or literals too, where such a token never splits a thread, so what a set of threads
 * takes is what each of them takes. False, and nothing done: there is no such thread.
 */
static bool
plain_mask(const llm_grammar *g, grammar_cache *c, const grammar_set *set, uint32_t limit,
           uint32_t *bits, walk_result *r)
{
	const llm_vocab_trie *v = c->trie;
	size_t n_words = ((size_t) v->n_vocab + 31) / 32;
	grammar_set *walked = &c->walk[0];
	uint32_t cost;

	walked->n = 0;
	walked->n_lead = set->n_lead;
	for (uint32_t i = 0; i < set->n; i++)
		if (use_of_plain(g, set, i, limit, &cost) == PLAIN_WALK)
			grammar_thread_copy(&walked->threads[walked->n++], &set->threads[i]);
	if (walked->n == set->n)
		return false;
	if (walked->n > 0)
		walk_trie(g, c, &v->all, limit, bits, r);
	for (size_t i = 0; i < n_words; i++)
		bits[i] &= v->n_inside > 0 ? v->inside[(v->n_inside - 1) * n_words + i] : 0;
	for (uint32_t i = 0; i < set->n; i++)
	{
		const grammar_frame *f = &set->threads[i].frames[set->threads[i].depth - 1];
		plain_use use = use_of_plain(g, set, i, limit, &cost);

		if (use == PLAIN_WALK)
			continue;
		r->cost_min = cost < r->cost_min ? cost : r->cost_min;
		if (use == PLAIN_NONE)
			continue;
		r->cost_max = cost > r->cost_max ? cost : r->cost_max;
		add_plain(v, g->nodes[f->node].max - f->count, bits);
	}
	return true;
}

/* Makes the mask of a state: tokens whose cost is within the limit. */
static walk_result
make_mask(const llm_grammar *g, grammar_cache *c, const grammar_set *set, uint32_t limit,
          uint32_t *bits)
{
	const llm_vocab_trie *v = c->trie;
	size_t n_words = ((size_t) v->n_vocab + 31) / 32;
	walk_result r = {.empty = true, .cost_min = UINT32_MAX};
	bool plain;

	memset(bits, 0, n_words * sizeof(*bits));
	plain = plain_mask(g, c, set, limit, bits, &r);
	grammar_set_copy(&c->walk[0], set);
	walk_trie(g, c, plain ? &v->rest : &v->all, limit, bits, &r);
	for (size_t i = 0; r.empty && i < n_words; i++)
		r.empty = bits[i] == 0;
	return r;
}

/* Refuses a vocabulary that lacks a byte which a completion may need, and starts a new cache for
 * it. */
static llm_status
set_trie(const llm_grammar *g, grammar_cache *c, const llm_vocab_trie *v, llm_error *err)
{
	for (uint32_t byte = 0; byte < 256; byte++)
		if (g->needed[byte] && !v->single[byte])
			return llm_fail(err, LLM_E_UNSUPPORTED,
			                "the vocabulary has no token for byte 0x%02x, which the output needs",
			                byte);
	c->trie = v;
	c->n = 0;
	llm_arena_destroy(c->arena);
	c->arena = NULL;
	c->bytes = 0;
	return LLM_OK;
}

/* Keeps a mask. Memory that is not there only means that it is not kept. */
static void
keep_mask(grammar_cache *c, uint64_t hash, const uint32_t *bits, uint32_t cost_max)
{
	const grammar_set *key = &c->walk[LLM_VOCAB_TOKEN_MAX + 1];
	size_t bytes_bits = ((size_t) c->trie->n_vocab + 31) / 32 * sizeof(*bits);
	size_t bytes = bytes_bits + key->n * sizeof(grammar_thread);
	kept_mask *m;

	if (c->n == MASKS_MAX || c->bytes + bytes > BYTES_MASKS_MAX)
	{
		llm_arena_destroy(c->arena);
		c->arena = NULL;
		c->n = 0;
		c->bytes = 0;
	}
	if (c->arena == NULL && (c->arena = llm_arena_create()) == NULL)
		return;
	m = &c->masks[c->n];
	m->hash = hash;
	m->cost_max = cost_max;
	m->bits = llm_arena_alloc(c->arena, 1, bytes_bits);
	m->key.threads = llm_arena_alloc(c->arena, key->n, sizeof(grammar_thread));
	if (m->bits == NULL || m->key.threads == NULL)
		return;
	memcpy(m->bits, bits, bytes_bits);
	grammar_set_copy(&m->key, key);
	c->bytes += bytes;
	c->n++;
}

/* Sets the bits of the tokens that a state takes within a budget. */
static void
fill_mask(const llm_grammar *g, grammar_cache *c, const grammar_set *set, uint32_t limit,
          uint32_t *bits)
{
	const llm_vocab_trie *v = c->trie;
	uint64_t hash = make_key(g, c, set);
	const kept_mask *kept = find_mask(c, hash);
	walk_result r;

	if (kept != NULL && kept->cost_max <= limit)
	{
		memcpy(bits, kept->bits, ((size_t) v->n_vocab + 31) / 32 * sizeof(*bits));
		return;
	}
	if (kept == NULL)
	{
		r = make_mask(g, c, set, UINT32_MAX, bits);
		keep_mask(c, hash, bits, r.cost_max);
		if (r.cost_max <= limit)
			return;
	}
	r = make_mask(g, c, set, limit, bits);
	/* A budget that was too small from the start: the shortest way to the end. */
	if (r.empty && r.cost_min < UINT32_MAX && !grammar_may_end(g, set))
		make_mask(g, c, set, r.cost_min, bits);
}

/* Computes the mask of a state; see the header. */
llm_status
llm_grammar_mask(const llm_grammar_state *s, const llm_vocab_trie *v, uint32_t budget,
                 uint32_t *mask, llm_error *err)
{
	grammar_cache *c = s->grammar->cache;
	llm_status status = LLM_OK;

	pthread_mutex_lock(&c->lock);
	if (c->trie != v)
		status = set_trie(s->grammar, c, v, err);
	if (status == LLM_OK)
		fill_mask(s->grammar, c, &s->set, budget > 0 ? budget - 1 : 0, mask);
	pthread_mutex_unlock(&c->lock);
	if (status != LLM_OK || !grammar_may_end(s->grammar, &s->set))
		return status;
	for (uint32_t i = 0; i < v->n_ends; i++)
		mask[v->ends[i] / 32] |= UINT32_C(1) << (v->ends[i] % 32);
	return LLM_OK;
}
