/*
 * llm_grammar.c: life of grammars and their states, and lists of allowed strings. See
 * llm_grammar.h.
 *
 * A grammar owns one arena with all its nodes and texts, and the cache of masks. States own their
 * sets of threads. Costs are computed once, children before parents, which stand behind them.
 */
#include <stdlib.h>
#include <string.h>

#include "llm_grammar_internal.h"

/* Makes a grammar without nodes. */
llm_status
grammar_create(llm_grammar **out, llm_error *err)
{
	llm_grammar *g = llm_calloc(1, sizeof(*g));

	*out = g;
	if (g == NULL || (g->arena = llm_arena_create()) == NULL ||
	    (g->nodes = llm_arena_alloc(g->arena, GRAMMAR_NODES_MAX, sizeof(*g->nodes))) == NULL)
	{
		llm_grammar_free(g);
		*out = NULL;
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a grammar");
	}
	return LLM_OK;
}

/* Frees a grammar; NULL is fine. */
void
llm_grammar_free(llm_grammar *g)
{
	if (g == NULL)
		return;
	grammar_cache_free(g->cache);
	llm_free(g->start);
	llm_arena_destroy(g->arena);
	llm_free(g);
}

/* Orders texts by bytes, the shorter first. */
static int
compare_texts(const void *a, const void *b)
{
	const grammar_text *x = a, *y = b;
	int order = memcmp(x->bytes, y->bytes, x->n < y->n ? x->n : y->n);

	return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

/* Makes a node the literal of some texts. */
void
grammar_set_literal(grammar_node *node, grammar_text *texts, uint32_t n)
{
	node->kind = G_LITERAL;
	node->texts = texts;
	qsort(texts, n, sizeof(*texts), compare_texts);
	for (uint32_t i = 0; i < n; i++)
		if (i == 0 || compare_texts(&texts[node->n - 1], &texts[i]) != 0)
			texts[node->n++] = texts[i];
}

/* Costs of an object: the suffix sums over required properties, then the whole. */
static uint64_t
cost_object(const llm_grammar *g, grammar_node *node)
{
	uint64_t rest = 0;

	for (uint32_t i = node->n; i-- > 0;)
	{
		grammar_property *p = &node->properties[i];

		if (p->required)
			rest += (uint64_t) p->key.n + 2 + g->nodes[p->node].cost;
		p->rest = rest < GRAMMAR_COST_MAX ? (uint32_t) rest : GRAMMAR_COST_MAX;
	}
	return 2 + rest - (rest > 0);
}

/* Least bytes of a value, from those of its children. */
static uint64_t
cost_node(const llm_grammar *g, grammar_node *node)
{
	uint64_t best = UINT64_MAX;

	switch (node->kind)
	{
		case G_LITERAL:
			for (uint32_t i = 0; i < node->n; i++)
				best = node->texts[i].n < best ? node->texts[i].n : best;
			return best;
		case G_STRING:
			return 2 + (uint64_t) node->min;
		case G_OBJECT:
			return cost_object(g, node);
		case G_ARRAY:
			return 2 + node->min * ((uint64_t) g->nodes[node->item].cost + 1) - (node->min > 0);
		case G_UNION:
			for (uint32_t i = 0; i < node->n; i++)
				if (g->nodes[node->alternatives[i]].cost < best)
					best = g->nodes[node->alternatives[i]].cost;
			return best;
		default:
			return 1;
	}
}

/* Notes the bytes that completions of a node may need one by one. */
void
grammar_note_bytes(llm_grammar *g, const char *bytes, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		g->needed[(unsigned char) bytes[i]] = true;
}

/* The same for all that a node spells. */
static void
note_node(llm_grammar *g, const grammar_node *node)
{
	static const char *const of_kind[] = {
	    [G_STRING] = "\"an1", [G_NUMBER] = "1",  [G_INTEGER] = "1",
	    [G_OBJECT] = "{:,}",  [G_ARRAY] = "[,]", [G_UNION] = "",
	    [G_LITERAL] = "",     [G_RULE] = "",     [G_CHARS] = ""};

	grammar_note_bytes(g, of_kind[node->kind], (uint32_t) strlen(of_kind[node->kind]));
	for (uint32_t i = 0; node->kind == G_LITERAL && i < node->n; i++)
		grammar_note_bytes(g, node->texts[i].bytes, node->texts[i].n);
	for (uint32_t i = 0; node->kind == G_OBJECT && i < node->n; i++)
		grammar_note_bytes(g, node->properties[i].key.bytes, node->properties[i].key.n);
}

/* Puts the alternatives of unions inside a union in their place; children are flat already. */
static llm_status
flatten(llm_grammar *g, grammar_node *node, llm_error *err)
{
	uint32_t flat[GRAMMAR_THREADS_MAX];
	uint32_t n = 0;

	for (uint32_t i = 0; i < node->n; i++)
	{
		const grammar_node *child = &g->nodes[node->alternatives[i]];
		bool is_union = child->kind == G_UNION;

		for (uint32_t k = 0; k < (is_union ? child->n : 1); k++)
		{
			if (n == GRAMMAR_THREADS_MAX)
				return llm_fail(err, LLM_E_RANGE,
				                "schema has more than %d alternatives in one place",
				                GRAMMAR_THREADS_MAX);
			flat[n++] = is_union ? child->alternatives[k] : node->alternatives[i];
		}
	}
	node->n = n;
	node->alternatives = llm_arena_alloc(g->arena, n, sizeof(*flat));
	if (node->alternatives == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a grammar");
	memcpy(node->alternatives, flat, n * sizeof(*flat));
	g->n_threads_max = GRAMMAR_THREADS_MAX;
	return LLM_OK;
}

/* A class of values by their first byte; two values of different classes are never equal. */
static char
class_of(const grammar_node *node, uint32_t i)
{
	static const char of_kind[] = {[G_STRING] = '"', [G_NUMBER] = '0', [G_INTEGER] = '0',
	                               [G_OBJECT] = '{', [G_ARRAY] = '[',  [G_LITERAL] = 0};
	char first = node->kind == G_LITERAL ? node->texts[i].bytes[0] : of_kind[node->kind];

	return first == '-' || (first >= '0' && first <= '9') ? '0' : first;
}

/* True when no value can fit both nodes, as far as first bytes and string literals tell. */
static bool
disjoint(const grammar_node *a, const grammar_node *b)
{
	uint32_t n_a = a->kind == G_LITERAL ? a->n : 1, n_b = b->kind == G_LITERAL ? b->n : 1;

	for (uint32_t i = 0; i < n_a; i++)
		for (uint32_t k = 0; k < n_b; k++)
		{
			bool texts = a->kind == G_LITERAL && b->kind == G_LITERAL && class_of(a, i) == '"';

			if (class_of(a, i) == class_of(b, k) &&
			    !(texts && compare_texts(&a->texts[i], &b->texts[k]) != 0))
				return false;
		}
	return true;
}

/* Refuses a oneOf whose alternatives may overlap: what is written could then fit two of them. */
static llm_status
check_exclusive(const llm_grammar *g, const grammar_node *node, llm_error *err)
{
	for (uint32_t i = 0; node->exclusive && i < node->n; i++)
		for (uint32_t k = i + 1; k < node->n; k++)
			if (!disjoint(&g->nodes[node->alternatives[i]], &g->nodes[node->alternatives[k]]))
				return llm_fail(err, LLM_E_UNSUPPORTED,
				                "schema has oneOf with alternatives that may overlap; use anyOf");
	return LLM_OK;
}

/* Computes what follows from the nodes. */
llm_status
grammar_finish(llm_grammar *g, llm_error *err)
{
	llm_status status = LLM_OK;

	g->n_threads_max = 1;
	for (uint32_t i = g->n_nodes; status == LLM_OK && i-- > 0;)
	{
		grammar_node *node = &g->nodes[i];
		uint64_t cost;

		if (node->kind == G_UNION && (status = flatten(g, node, err)) == LLM_OK)
			status = check_exclusive(g, node, err);
		if (status != LLM_OK)
			return status;
		cost = cost_node(g, node);
		if (cost >= GRAMMAR_COST_MAX / GRAMMAR_DEPTH_MAX)
			return llm_fail(err, LLM_E_RANGE, "schema asks for values that are too long");
		node->cost = (uint32_t) cost;
		note_node(g, node);
	}
	g->cache = grammar_cache_create(g);
	if (g->cache == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a grammar");
	return LLM_OK;
}

/* Copies the strings into a literal. */
static llm_status
fill_strings(llm_grammar *g, const char *const *strings, const size_t *bytes, uint32_t n,
             llm_error *err)
{
	grammar_text *texts;

	if (n == 0 || n > GRAMMAR_TEXTS_MAX)
		return llm_fail(err, LLM_E_RANGE, "a list of allowed strings must have 1 to %d items",
		                GRAMMAR_TEXTS_MAX);
	if ((texts = llm_arena_alloc(g->arena, n, sizeof(*texts))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for allowed strings");
	for (uint32_t i = 0; i < n; i++)
	{
		if (bytes[i] > GRAMMAR_TEXT_MAX)
			return llm_fail(err, LLM_E_RANGE, "an allowed string is longer than %d bytes",
			                GRAMMAR_TEXT_MAX);
		texts[i].n = (uint32_t) bytes[i];
		texts[i].bytes = llm_arena_strndup(g->arena, strings[i], bytes[i]);
		if (texts[i].bytes == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for allowed strings");
	}
	g->n_nodes = 1;
	grammar_set_literal(&g->nodes[0], texts, n);
	return grammar_finish(g, err);
}

/* Compiles a list of allowed strings. */
llm_status
llm_grammar_from_strings(const char *const *strings, const size_t *bytes, uint32_t n,
                         llm_grammar **out, llm_error *err)
{
	llm_status status = grammar_create(out, err);

	if (status != LLM_OK)
		return status;
	status = fill_strings(*out, strings, bytes, n, err);
	if (status != LLM_OK)
	{
		llm_grammar_free(*out);
		*out = NULL;
	}
	return status;
}

/* Makes n empty sets with room, in one block. */
grammar_set *
grammar_sets_create(const llm_grammar *g, uint32_t n)
{
	size_t bytes_head = (n * sizeof(grammar_set) + 15) / 16 * 16;
	size_t bytes_set = g->n_threads_max * sizeof(grammar_thread);
	grammar_set *sets = llm_calloc(1, bytes_head + n * bytes_set);

	for (uint32_t i = 0; sets != NULL && i < n; i++)
		sets[i].threads = (grammar_thread *) ((char *) sets + bytes_head + i * bytes_set);
	return sets;
}

/* Puts a row at the beginning. The state's own set is the last of three that live in one block. */
llm_status
llm_grammar_start(const llm_grammar *g, llm_grammar_state **out, llm_error *err)
{
	llm_grammar_state *s = llm_calloc(1, sizeof(*s));

	*out = NULL;
	if (s == NULL || (s->scratch = grammar_sets_create(g, 3)) == NULL)
	{
		llm_free(s);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a grammar state");
	}
	s->grammar = g;
	s->set = s->scratch[2];
	s->set.n = 1;
	s->set.threads[0].depth = 1;
	s->set.threads[0].frames[0] = (grammar_frame){.node = 0, .phase = P_START};
	if (g->start != NULL)
		grammar_set_copy(&s->set, g->start);
	*out = s;
	return LLM_OK;
}

/* Copies a state. */
llm_grammar_state *
llm_grammar_copy(const llm_grammar_state *s)
{
	llm_grammar_state *copy;

	if (llm_grammar_start(s->grammar, &copy, NULL) == LLM_OK)
		grammar_set_copy(&copy->set, &s->set);
	return copy;
}

/* Frees a state; NULL is fine. */
void
llm_grammar_state_free(llm_grammar_state *s)
{
	if (s == NULL)
		return;
	llm_free(s->scratch);
	llm_free(s);
}

/* Moves a row on by a token; a token that is not allowed leaves it where it was. */
llm_status
llm_grammar_accept(llm_grammar_state *s, const llm_vocab_trie *v, int32_t token, llm_error *err)
{
	grammar_set *from = &s->scratch[0], *to = &s->scratch[1];

	if (token < 0 || (uint32_t) token >= v->n_vocab)
		return llm_fail(err, LLM_E_INTERNAL, "token %d is not in the vocabulary", token);
	for (uint32_t i = 0; i < v->n_ends; i++)
		if (v->ends[i] == token)
			return LLM_OK;
	grammar_set_copy(from, &s->set);
	for (uint32_t i = v->offsets[token]; i < v->offsets[token + 1]; i++)
	{
		grammar_set *swap = from;

		if (!grammar_step(s->grammar, from, v->bytes[i], to))
			return llm_fail(err, LLM_E_INTERNAL, "token %d breaks the grammar", token);
		from = to;
		to = swap;
	}
	if (v->offsets[token] == v->offsets[token + 1])
		return llm_fail(err, LLM_E_INTERNAL, "token %d has no text", token);
	grammar_set_copy(&s->set, from);
	return LLM_OK;
}

/* True when the output may end here. */
bool
llm_grammar_complete(const llm_grammar_state *s)
{
	return grammar_may_end(s->grammar, &s->set);
}

/* The one byte that can come next in from, which is put through into to; −1 when there are more or
 * none. */
static int
only_byte(const llm_grammar *g, const grammar_set *from, grammar_set *to)
{
	int only = -1;

	for (int byte = 0; byte < 256; byte++)
		if (grammar_step(g, from, (unsigned char) byte, to))
		{
			if (only >= 0)
				return -1;
			only = byte;
		}
	if (only >= 0)
		grammar_step(g, from, (unsigned char) only, to);
	return only;
}

/* The forced bytes, cut behind the last whole character. */
size_t
llm_grammar_forced(const llm_grammar_state *s, char *out, size_t capacity)
{
	grammar_set *from = &s->scratch[0], *to = &s->scratch[1];
	size_t n = 0, n_whole = 0, need = 0;
	int byte;

	grammar_set_copy(from, &s->set);
	while (n < capacity && !grammar_may_end(s->grammar, from) &&
	       (byte = only_byte(s->grammar, from, to)) >= 0)
	{
		grammar_set *swap = from;

		from = to;
		to = swap;
		out[n++] = (char) byte;
		if (byte < 0x80 || byte >= 0xc0)
			need = byte < 0x80 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
		else if (need > 0)
			need--;
		n_whole = need == 0 ? n : n_whole;
	}
	return n_whole;
}
