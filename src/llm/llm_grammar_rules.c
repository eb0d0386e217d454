/*
 * llm_grammar_rules.c: compiles rules, a context-free grammar in JSON, to an automaton. See
 * llm_grammar.h.
 *
 * Rule i becomes node i; the texts inside of alternatives get nodes behind them. Rules refer to
 * each other in any direction, so that costs and heights are least fixed points, found by going
 * over all rules until nothing changes. Costs say which rules can be empty, and these, where a rule
 * can begin with which other one; a circle there would open rules for ever without a byte, and is
 * refused.
 *
 * The height of a rule is how many frames its cheapest completion puts on the stack. An alternative
 * is open only where there is room for the heights of its symbols, so that whatever was begun can
 * be ended.
 */
#include <string.h>

#include "llm_grammar_internal.h"

#define SYMBOLS_MAX 65536 /* of all rules */

typedef struct compiler
{
	llm_grammar *g;
	uint32_t n_rules;
	uint32_t n_symbols;
	llm_error *err;
} compiler;

/* Says that memory is out. */
static llm_status
no_memory(const compiler *c)
{
	return llm_fail(c->err, LLM_E_NOMEM, "out of memory for a grammar");
}

/* Copies a text into the grammar. */
static llm_status
copy_text(const compiler *c, const llm_json *node, grammar_text *out)
{
	const char *bytes;
	size_t n;

	if (!llm_json_string(node, &bytes, &n) || n > GRAMMAR_TEXT_MAX)
		return llm_fail(c->err, LLM_E_UNSUPPORTED,
		                "a text of a rule must be a string of up to %d bytes", GRAMMAR_TEXT_MAX);
	out->n = (uint32_t) n;
	out->bytes = llm_arena_strndup(c->g->arena, bytes, n);
	return out->bytes != NULL ? LLM_OK : no_memory(c);
}

/* Makes a node a literal of the texts of a list, or of one. */
static llm_status
compile_texts(const compiler *c, const llm_json *list, grammar_node *node)
{
	bool many = llm_json_get_kind(list) == LLM_JSON_ARRAY;
	uint64_t n = many ? llm_json_size(list) : 1;
	grammar_text *texts;

	if (n == 0 || n > GRAMMAR_TEXTS_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "a rule must have 1 to %d texts", GRAMMAR_TEXTS_MAX);
	if ((texts = llm_arena_alloc(c->g->arena, n, sizeof(*texts))) == NULL)
		return no_memory(c);
	for (uint64_t i = 0; i < n; i++)
		if (copy_text(c, many ? llm_json_item(list, i) : list, &texts[i]) != LLM_OK)
			return c->err->code;
	grammar_set_literal(node, texts, (uint32_t) n);
	for (uint32_t i = 0; i < node->n; i++)
		grammar_note_bytes(c->g, node->texts[i].bytes, node->texts[i].n);
	return LLM_OK;
}

/* Makes a node a run of characters. */
static llm_status
compile_chars(const compiler *c, const llm_json *rule, grammar_node *node)
{
	uint64_t min = 0, max = GRAMMAR_STRING_MAX;
	const llm_json *least = llm_json_member(rule, "min"), *most = llm_json_member(rule, "max");
	grammar_text text = {0};
	bool *set = llm_arena_alloc(c->g->arena, 256, sizeof(*set));

	if (set == NULL || copy_text(c, llm_json_member(rule, "chars"), &text) != LLM_OK)
		return set == NULL ? no_memory(c) : c->err->code;
	if ((least != NULL && !llm_json_u64(least, &min)) ||
	    (most != NULL && !llm_json_u64(most, &max)) || min > max || max > GRAMMAR_STRING_MAX ||
	    text.n == 0)
		return llm_fail(c->err, LLM_E_RANGE, "a run of characters must have 0 to %d of them",
		                GRAMMAR_STRING_MAX);
	memset(set, 0, 256 * sizeof(*set));
	for (uint32_t i = 0; i < text.n; i++)
	{
		if ((unsigned char) text.bytes[i] >= 0x80)
			return llm_fail(c->err, LLM_E_UNSUPPORTED, "the characters of a run must be ASCII");
		set[(unsigned char) text.bytes[i]] = true;
	}
	*node =
	    (grammar_node){.kind = G_CHARS, .min = (uint32_t) min, .max = (uint32_t) max, .set = set};
	grammar_note_bytes(c->g, text.bytes, 1);
	return LLM_OK;
}

/* The node of a symbol: a rule, or a text that gets a node of its own. */
static llm_status
compile_symbol(compiler *c, const llm_json *symbol, grammar_symbol *out)
{
	uint64_t rule;

	if (llm_json_u64(symbol, &rule))
	{
		if (rule >= c->n_rules)
			return llm_fail(c->err, LLM_E_RANGE, "there is no rule %llu",
			                (unsigned long long) rule);
		out->node = (uint32_t) rule;
		return LLM_OK;
	}
	if (c->g->n_nodes == GRAMMAR_NODES_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "rules have more than %d parts", GRAMMAR_NODES_MAX);
	out->node = c->g->n_nodes++;
	if (llm_json_get_kind(symbol) != LLM_JSON_STRING)
		return llm_fail(c->err, LLM_E_UNSUPPORTED,
		                "a symbol must be a text or the number of a rule");
	return compile_texts(c, symbol, &c->g->nodes[out->node]);
}

/* Symbols of all alternatives of a rule, with an end behind each. */
static uint64_t
count_symbols(const llm_json *rule)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < llm_json_size(rule); i++)
		n += llm_json_size(llm_json_item(rule, i)) + 1;
	return n;
}

/* Makes a node a rule of several alternatives. */
static llm_status
compile_alternatives(compiler *c, const llm_json *rule, grammar_node *node)
{
	uint64_t n = llm_json_size(rule), n_symbols = count_symbols(rule), at = 0;

	if (n == 0 || n > GRAMMAR_THREADS_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "a rule must have 1 to %d alternatives",
		                GRAMMAR_THREADS_MAX);
	if (n_symbols > SYMBOLS_MAX - c->n_symbols)
		return llm_fail(c->err, LLM_E_RANGE, "rules have more than %d symbols", SYMBOLS_MAX);
	c->n_symbols += (uint32_t) n_symbols;
	node->kind = G_RULE;
	node->n = (uint32_t) n;
	node->max = (uint32_t) n_symbols;
	node->alternatives = llm_arena_alloc(c->g->arena, n, sizeof(*node->alternatives));
	node->heights = llm_arena_alloc(c->g->arena, n, sizeof(*node->heights));
	node->symbols = llm_arena_alloc(c->g->arena, n_symbols, sizeof(*node->symbols));
	if (node->alternatives == NULL || node->heights == NULL || node->symbols == NULL)
		return no_memory(c);
	for (uint64_t i = 0; i < n; i++)
	{
		const llm_json *alternative = llm_json_item(rule, i);

		if (llm_json_get_kind(alternative) != LLM_JSON_ARRAY)
			return llm_fail(c->err, LLM_E_UNSUPPORTED, "an alternative must be an array");
		node->alternatives[i] = (uint32_t) at;
		for (uint64_t k = 0; k < llm_json_size(alternative); k++)
			if (compile_symbol(c, llm_json_item(alternative, k), &node->symbols[at++]) != LLM_OK)
				return c->err->code;
		node->symbols[at++] = (grammar_symbol){.node = GRAMMAR_NO_NODE};
	}
	return LLM_OK;
}

/* Fills in the node of a rule. */
static llm_status
compile_rule(compiler *c, const llm_json *rule, grammar_node *node)
{
	const llm_json *texts = llm_json_member(rule, "texts");

	if (llm_json_get_kind(rule) == LLM_JSON_ARRAY)
		return compile_alternatives(c, rule, node);
	if (texts != NULL)
		return compile_texts(c, texts, node);
	if (llm_json_member(rule, "chars") != NULL)
		return compile_chars(c, rule, node);
	return llm_fail(c->err, LLM_E_UNSUPPORTED,
	                "a rule must be an array of alternatives, or have texts or chars");
}

/* Adds up what the symbols of a rule's alternatives cost; the least of it. */
static uint32_t
cost_rule(const llm_grammar *g, grammar_node *node)
{
	uint64_t rest = 0;
	uint32_t best = GRAMMAR_COST_MAX;

	for (uint32_t at = node->max; at-- > 0;)
	{
		grammar_symbol *s = &node->symbols[at];

		rest = s->node == GRAMMAR_NO_NODE ? 0 : rest + g->nodes[s->node].cost;
		s->rest = rest < GRAMMAR_COST_MAX ? (uint32_t) rest : GRAMMAR_COST_MAX;
	}
	for (uint32_t i = 0; i < node->n; i++)
		if (node->symbols[node->alternatives[i]].rest < best)
			best = node->symbols[node->alternatives[i]].rest;
	return best;
}

/* The heights of a rule's alternatives; one more than the least of those that cost least. */
static uint32_t
height_rule(const llm_grammar *g, grammar_node *node)
{
	uint32_t best = GRAMMAR_COST_MAX;

	for (uint32_t i = 0; i < node->n; i++)
	{
		const grammar_symbol *s = &node->symbols[node->alternatives[i]];
		uint32_t cost = s->rest, height = 0;

		for (; s->node != GRAMMAR_NO_NODE; s++)
			height = g->nodes[s->node].height > height ? g->nodes[s->node].height : height;
		node->heights[i] = height;
		if (cost == node->cost && height < best)
			best = height + 1;
	}
	return best;
}

/* One more than the most that lies before a rule: how deep its first symbols can open rules. */
static uint32_t
depth_rule(const llm_grammar *g, const grammar_node *node, const uint32_t *depths)
{
	uint32_t most = 0;

	for (uint32_t i = 0; i < node->n; i++)
		for (const grammar_symbol *s = &node->symbols[node->alternatives[i]];
		     s->node != GRAMMAR_NO_NODE; s++)
		{
			if (g->nodes[s->node].kind == G_RULE && depths[s->node] + 1 > most)
				most = depths[s->node] + 1;
			if (g->nodes[s->node].cost > 0)
				break;
		}
	return most;
}

/* Sets costs, then heights, of all rules. */
static void
settle(const compiler *c)
{
	grammar_node *nodes = c->g->nodes;
	bool changed = true;

	for (uint32_t i = 0; i < c->g->n_nodes; i++)
	{
		nodes[i].height = nodes[i].kind == G_RULE ? GRAMMAR_COST_MAX : 1;
		nodes[i].cost = nodes[i].kind == G_RULE ? GRAMMAR_COST_MAX : nodes[i].min;
		for (uint32_t k = 0; nodes[i].kind == G_LITERAL && k < nodes[i].n; k++)
			if (k == 0 || nodes[i].texts[k].n < nodes[i].cost)
				nodes[i].cost = nodes[i].texts[k].n;
	}
	for (bool heights = false; changed || !heights;)
	{
		heights = heights || !changed;
		changed = false;
		for (uint32_t i = c->n_rules; i-- > 0;)
		{
			uint32_t *value = heights ? &nodes[i].height : &nodes[i].cost, before = *value;

			if (nodes[i].kind != G_RULE)
				continue;
			*value = heights ? height_rule(c->g, &nodes[i]) : cost_rule(c->g, &nodes[i]);
			changed = changed || *value != before;
		}
	}
}

/* Refuses rules that end never, need too many frames, or can begin with themselves. */
static llm_status
check_rules(const compiler *c)
{
	const grammar_node *nodes = c->g->nodes;
	uint32_t *depths = llm_arena_alloc(c->g->arena, c->n_rules, sizeof(*depths));
	bool changed = true;

	if (depths == NULL)
		return no_memory(c);
	memset(depths, 0, c->n_rules * sizeof(*depths));
	for (uint32_t i = 0; i < c->n_rules; i++)
		if (nodes[i].cost >= GRAMMAR_COST_MAX / GRAMMAR_DEPTH_MAX ||
		    nodes[i].height > GRAMMAR_DEPTH_MAX)
			return llm_fail(c->err, LLM_E_RANGE, "rule %u has no end within %d open rules", i,
			                GRAMMAR_DEPTH_MAX);
	for (uint32_t round = 0; changed; round++)
	{
		if (round > c->n_rules)
			return llm_fail(c->err, LLM_E_UNSUPPORTED, "a rule can begin with itself");
		changed = false;
		for (uint32_t i = c->n_rules; i-- > 0;)
		{
			uint32_t depth = nodes[i].kind == G_RULE ? depth_rule(c->g, &nodes[i], depths) : 0;

			changed = changed || depth != depths[i];
			depths[i] = depth;
		}
	}
	return LLM_OK;
}

/* Takes the typed bytes; where they begin no text, no thread is left. */
static llm_status
take_typed(const compiler *c, const llm_json *rules)
{
	llm_grammar *g = c->g;
	const llm_json *typed = llm_json_member(rules, "typed"), *lead = llm_json_member(rules, "lead");
	grammar_text text = {0};
	grammar_set *sets = grammar_sets_create(g, 2);
	uint32_t now = 0;

	if ((g->start = sets) == NULL)
		return no_memory(c);
	sets[0].n = 1;
	sets[0].threads[0] = (grammar_thread){.depth = 1};
	if (typed != NULL && copy_text(c, typed, &text) != LLM_OK)
		return c->err->code;
	for (uint32_t i = 0; i < text.n; i++, now = 1 - now)
		grammar_step(g, &sets[now], (unsigned char) text.bytes[i], &sets[1 - now]);
	if (now == 1)
		grammar_set_copy(&sets[0], &sets[1]);
	if (lead != NULL && copy_text(c, lead, &g->lead) != LLM_OK)
		return c->err->code;
	grammar_note_bytes(g, g->lead.bytes, g->lead.n);
	return LLM_OK;
}

/* Compiles all rules. */
static llm_status
compile(compiler *c, const llm_json *rules)
{
	const llm_json *list = llm_json_member(rules, "rules");
	uint64_t n = llm_json_get_kind(list) == LLM_JSON_ARRAY ? llm_json_size(list) : 0;
	llm_status status;

	if (n == 0 || n > GRAMMAR_NODES_MAX)
		return llm_fail(c->err, LLM_E_RANGE, "a grammar must have 1 to %d rules",
		                GRAMMAR_NODES_MAX);
	c->g->n_nodes = c->n_rules = (uint32_t) n;
	c->g->has_rules = true;
	c->g->n_threads_max = GRAMMAR_THREADS_MAX;
	for (uint32_t i = 0; i < c->n_rules; i++)
		if (compile_rule(c, llm_json_item(list, i), &c->g->nodes[i]) != LLM_OK)
			return c->err->code;
	settle(c);
	if ((status = check_rules(c)) != LLM_OK || (status = take_typed(c, rules)) != LLM_OK)
		return status;
	c->g->cache = grammar_cache_create(c->g);
	return c->g->cache != NULL ? LLM_OK : no_memory(c);
}

/* Compiles rules. */
llm_status
llm_grammar_from_rules(const llm_json *rules, llm_grammar **out, llm_error *err)
{
	llm_error ignored;
	compiler c = {.err = err != NULL ? err : &ignored};
	llm_status status = grammar_create(out, c.err);

	if (status != LLM_OK)
		return status;
	c.g = *out;
	status = compile(&c, rules);
	if (status != LLM_OK)
	{
		llm_grammar_free(*out);
		*out = NULL;
	}
	return status;
}
