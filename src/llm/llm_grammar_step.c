/*
 * llm_grammar_step.c: one byte through the automaton, and the price of a completion.
 *
 * A value that may end without a closing byte (a number, a literal that another one continues)
 * stays on the stack until a byte comes that it cannot take; then it is popped and the byte goes to
 * the value around it. Everything else is popped with its last byte. Only a union makes more than
 * one thread: objects compare a key with all properties in reach at once, literals narrow a sorted
 * range. Strings follow RFC 8259 and table 3-7 of Unicode 15; \u escapes of surrogates and of NUL
 * are left out, as jsonb cannot hold them.
 */
#include <string.h>

#include "llm_grammar_internal.h"

#define INTEGER_DIGITS_MAX  18 /* fits 64 bits */
#define FRACTION_DIGITS_MAX 15
#define EXPONENT_DIGITS_MAX 2
#define THREADS_LATER_MAX   64 /* alternatives of rules that one byte may find open */

static uint32_t frame_cost(const llm_grammar *g, const grammar_frame *f);

/* What became of a byte. */
typedef enum verdict
{
	DEAD,
	TAKEN,
	CLOSED, /* taken, and the value is complete */
	PASSED, /* the value was complete before it; the byte is for the one around */
	OPENED  /* not taken: a value was pushed and must take it */
} verdict;

/* The innermost frame. */
static grammar_frame *
top(grammar_thread *t)
{
	return &t->frames[t->depth - 1];
}

/* Opens a value. */
static void
push(grammar_thread *t, uint32_t node)
{
	t->frames[t->depth++] = (grammar_frame){.node = (uint16_t) node, .phase = P_START};
}

/* Sets the phase and says that the byte was taken. */
static verdict
go(grammar_frame *f, uint16_t phase)
{
	f->phase = phase;
	return TAKEN;
}

/* The first text of [lo, hi), which agree in count bytes, whose next byte is at least byte. */
static uint32_t
lower_bound(const grammar_text *texts, uint32_t lo, uint32_t hi, uint32_t count, int byte)
{
	while (lo < hi)
	{
		uint32_t mid = lo + (hi - lo) / 2;
		int here = texts[mid].n > count ? (unsigned char) texts[mid].bytes[count] : -1;

		if (here < byte)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* A literal narrows the range of texts that agree so far. */
static verdict
step_literal(const grammar_node *node, grammar_frame *f, unsigned char byte)
{
	uint32_t lo, hi;

	if (f->phase == P_START)
		*f = (grammar_frame){.node = f->node, .phase = P_TEXT, .b = node->n};
	lo = lower_bound(node->texts, f->a, f->b, f->count, byte);
	hi = lower_bound(node->texts, lo, f->b, f->count, byte + 1);
	if (lo == hi)
		return node->texts[f->a].n == f->count ? PASSED : DEAD;
	f->a = lo;
	f->b = hi;
	f->count++;
	return hi - lo == 1 && node->texts[lo].n == f->count ? CLOSED : TAKEN;
}

/* A character of a string is complete. */
static verdict
end_character(grammar_frame *f)
{
	f->count++;
	f->a = f->b = 0;
	return go(f, P_CHARS);
}

/* The first byte of a character of more than one: how many follow, and bounds of the second. */
static verdict
step_lead(grammar_frame *f, unsigned char byte)
{
	uint32_t low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
	uint32_t high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;

	if (byte < 0xc2 || byte > 0xf4)
		return DEAD;
	f->a = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
	f->b = low << 8 | high;
	return go(f, P_UTF8);
}

/* A hexadecimal digit's value; 16 for any other byte. */
static uint32_t
hex_value(unsigned char byte)
{
	unsigned char lower = byte | 0x20;

	if (byte >= '0' && byte <= '9')
		return byte - '0';
	return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10u : 16;
}

/* A digit of \uXXXX. */
static verdict
step_hex(grammar_frame *f, unsigned char byte)
{
	uint32_t digit = hex_value(byte);
	uint32_t value = f->b << 4 | digit;

	if (digit > 15 || (f->a == 1 && value >= 0xd8 && value <= 0xdf) || (f->a == 3 && value == 0))
		return DEAD;
	f->b = value;
	return ++f->a == 4 ? end_character(f) : TAKEN;
}

/* Inside a string. */
static verdict
step_string(const grammar_node *node, grammar_frame *f, unsigned char byte)
{
	switch (f->phase)
	{
		case P_START:
			return byte == '"' ? go(f, P_CHARS) : DEAD;
		case P_ESCAPE:
			if (byte == 'u')
				return go(f, P_HEX);
			return byte != 0 && strchr("\"\\/bfnrt", byte) != NULL ? end_character(f) : DEAD;
		case P_HEX:
			return step_hex(f, byte);
		case P_UTF8:
			if (byte < f->b >> 8 || byte > (f->b & 0xff))
				return DEAD;
			f->b = 0x80 << 8 | 0xbf;
			return --f->a == 0 ? end_character(f) : TAKEN;
		default:
			if (byte == '"')
				return f->count >= node->min ? CLOSED : DEAD;
			if (f->count >= node->max || byte < 0x20)
				return DEAD;
			if (byte == '\\')
				return go(f, P_ESCAPE);
			return byte < 0x80 ? end_character(f) : step_lead(f, byte);
	}
}

/* True where a number may end. */
static bool
number_may_end(uint16_t phase)
{
	return phase == P_ZERO || phase == P_DIGITS || phase == P_FRACTION || phase == P_EXPONENT;
}

/* A digit of a number whose parts are bounded. */
static verdict
step_digit(grammar_frame *f, unsigned char byte)
{
	static const struct
	{
		uint8_t next, max;
	} rules[] = {[P_START] = {P_DIGITS, 1},
	             [P_MINUS] = {P_DIGITS, 1},
	             [P_DIGITS] = {P_DIGITS, INTEGER_DIGITS_MAX},
	             [P_POINT] = {P_FRACTION, 1},
	             [P_FRACTION] = {P_FRACTION, FRACTION_DIGITS_MAX},
	             [P_E] = {P_EXPONENT, 1},
	             [P_E_SIGN] = {P_EXPONENT, 1},
	             [P_EXPONENT] = {P_EXPONENT, EXPONENT_DIGITS_MAX}};

	if (f->phase == P_ZERO || f->count >= rules[f->phase].max)
		return DEAD;
	if (byte == '0' && rules[f->phase].next == P_DIGITS && f->phase != P_DIGITS)
		return go(f, P_ZERO);
	f->count++;
	return go(f, rules[f->phase].next);
}

/* Inside a number. */
static verdict
step_number(const grammar_node *node, grammar_frame *f, unsigned char byte)
{
	bool fraction_may_come = node->kind == G_NUMBER && (f->phase == P_ZERO || f->phase == P_DIGITS);
	bool exponent_may_come =
	    node->kind == G_NUMBER && number_may_end(f->phase) && f->phase != P_EXPONENT;

	if (byte >= '0' && byte <= '9')
		return step_digit(f, byte);
	if (byte == '-' && f->phase == P_START)
		return go(f, P_MINUS);
	if ((byte == '-' || byte == '+') && f->phase == P_E)
		return go(f, P_E_SIGN);
	if ((byte == '.' && fraction_may_come) || ((byte | 0x20) == 'e' && exponent_may_come))
	{
		f->count = 0;
		return go(f, byte == '.' ? P_POINT : P_E);
	}
	return number_may_end(f->phase) ? PASSED : DEAD;
}

/* The properties that may come next are from first to the next required one; returns the end. */
static uint32_t
reach(const grammar_node *node, uint32_t first)
{
	while (first < node->n && !node->properties[first].required)
		first++;
	return first < node->n ? first + 1 : node->n;
}

/* True when property k's key agrees with that of a in the first count bytes. */
static bool
same_beginning(const grammar_node *node, uint32_t k, uint32_t a, uint32_t count)
{
	const grammar_text *x = &node->properties[k].key, *y = &node->properties[a].key;

	return x->n >= count && memcmp(x->bytes, y->bytes, count) == 0;
}

/* A byte of a key: all keys in reach are compared at once. They end with a quote, so that none is
 * the beginning of another. */
static verdict
step_key(const grammar_node *node, grammar_frame *f, unsigned char byte)
{
	uint32_t end = reach(node, f->b);

	for (uint32_t k = f->a; k < end; k++)
	{
		const grammar_text *key = &node->properties[k].key;

		if (!same_beginning(node, k, f->a, f->count) || key->n == f->count ||
		    (unsigned char) key->bytes[f->count] != byte)
			continue;
		f->a = k;
		if (++f->count < key->n)
			return TAKEN;
		f->b = f->count = 0;
		return go(f, P_COLON);
	}
	return DEAD;
}

/* Goes to the beginning of the keys from property first on. */
static void
start_key(grammar_frame *f, uint32_t first)
{
	f->phase = P_KEY;
	f->a = f->b = first;
	f->count = 0;
}

/* Inside an object. */
static verdict
step_object(const grammar_node *node, grammar_thread *t, unsigned char byte)
{
	grammar_frame *f = top(t);
	uint32_t value;

	switch (f->phase)
	{
		case P_START:
			return byte == '{' ? go(f, P_OPEN) : DEAD;
		case P_OPEN:
			if (byte == '}')
				return node->properties[0].rest == 0 ? CLOSED : DEAD;
			start_key(f, 0);
			return step_key(node, f, byte);
		case P_KEY:
			return step_key(node, f, byte);
		case P_COLON:
			return byte == ':' ? go(f, P_VALUE) : DEAD;
		case P_VALUE:
		case P_SPACED:
			if (byte == ' ')
				return f->phase == P_VALUE ? go(f, P_SPACED) : DEAD;
			value = node->properties[f->a].node;
			f->phase = P_AFTER;
			f->a++;
			push(t, value);
			return OPENED;
		case P_AFTER:
			if (byte == '}')
				return node->properties[f->a].rest == 0 ? CLOSED : DEAD;
			return byte == ',' && f->a < node->n ? go(f, P_COMMA) : DEAD;
		default:
			start_key(f, f->a);
			return byte == ' ' ? TAKEN : step_key(node, f, byte);
	}
}

/* Inside an array. */
static verdict
step_array(const grammar_node *node, grammar_thread *t, unsigned char byte)
{
	grammar_frame *f = top(t);

	switch (f->phase)
	{
		case P_START:
			return byte == '[' ? go(f, P_OPEN) : DEAD;
		case P_OPEN:
		case P_AFTER:
			if (byte == ']')
				return f->count >= node->min ? CLOSED : DEAD;
			if (f->count >= node->max)
				return DEAD;
			if (f->phase == P_AFTER)
				return byte == ',' ? go(f, P_VALUE) : DEAD;
			break;
		default:
			if (byte == ' ')
				return f->phase == P_VALUE ? go(f, P_SPACED) : DEAD;
	}
	f->phase = P_AFTER;
	f->count++;
	push(t, node->item);
	return OPENED;
}

/* A run of characters out of a set. */
static verdict
step_chars(const grammar_node *node, grammar_frame *f, unsigned char byte)
{
	if (f->count >= node->max || !node->set[byte])
		return f->count >= node->min ? PASSED : DEAD;
	f->count++;
	return go(f, P_CHARS);
}

/* Gives a byte to the innermost value. */
static verdict
step_top(const llm_grammar *g, grammar_thread *t, unsigned char byte)
{
	const grammar_node *node = &g->nodes[top(t)->node];

	switch (node->kind)
	{
		case G_LITERAL:
			return step_literal(node, top(t), byte);
		case G_STRING:
			return step_string(node, top(t), byte);
		case G_NUMBER:
		case G_INTEGER:
			return step_number(node, top(t), byte);
		case G_OBJECT:
			return step_object(node, t, byte);
		case G_ARRAY:
			return step_array(node, t, byte);
		case G_CHARS:
			return step_chars(node, top(t), byte);
		default:
			return DEAD; /* unions and rules are replaced where they are opened */
	}
}

/* Least bytes to the end of one thread: the sum over open values. */
static uint64_t
thread_cost(const llm_grammar *g, const grammar_thread *t)
{
	uint64_t cost = 0;

	for (uint32_t k = 0; k < t->depth; k++)
		cost += frame_cost(g, &t->frames[k]);
	return cost;
}

/* The dearest thread of a set; n when the other one is not cheaper than all. */
static uint32_t
dearest(const llm_grammar *g, const grammar_set *set, const grammar_thread *other)
{
	uint64_t most = thread_cost(g, other);
	uint32_t at = set->n;

	for (uint32_t i = 0; i < set->n; i++)
		if (thread_cost(g, &set->threads[i]) > most)
		{
			most = thread_cost(g, &set->threads[i]);
			at = i;
		}
	return at;
}

/*
 * Adds a thread, unless an equal one is there. In a full set the cheapest stay, which loses only
 * alternatives, never the shortest way to the end.
 */
static void
add_thread(const llm_grammar *g, grammar_set *set, const grammar_thread *t)
{
	size_t bytes = t->depth * sizeof(grammar_frame);
	uint32_t at = set->n;

	for (uint32_t i = 0; i < set->n; i++)
		if (set->threads[i].depth == t->depth &&
		    memcmp(set->threads[i].frames, t->frames, bytes) == 0)
			return;
	if (set->n == g->n_threads_max && (at = dearest(g, set, t)) == set->n)
		return;
	set->n += at == set->n;
	grammar_thread_copy(&set->threads[at], t);
}

/* Moves one thread on by a byte and adds what becomes of it. A union on top splits it; the
 * alternatives stand flat in their union, so one level of splitting is enough. */
static void
step_thread(const llm_grammar *g, grammar_thread *t, unsigned char byte, grammar_set *to)
{
	verdict v = OPENED;

	while (t->depth > 0)
	{
		const grammar_node *node = &g->nodes[top(t)->node];

		if (node->kind == G_UNION)
		{
			uint32_t depth = t->depth;

			for (uint32_t i = 0; i < node->n; i++)
			{
				t->depth = depth;
				*top(t) = (grammar_frame){.node = (uint16_t) node->alternatives[i]};
				v = step_top(g, t, byte);
				t->depth -= v == CLOSED;
				if (v == TAKEN || v == CLOSED)
					add_thread(g, to, t);
			}
			return;
		}
		v = step_top(g, t, byte);
		t->depth -= v == PASSED || v == CLOSED;
		if (v == TAKEN || v == CLOSED)
			add_thread(g, to, t);
		if (v != PASSED && v != OPENED)
			return;
	}
}

/* Keeps a thread for later; a full list loses it, as a full set does. */
static void
defer(grammar_thread *later, uint32_t *n, const grammar_thread *t)
{
	if (*n < THREADS_LATER_MAX)
		grammar_thread_copy(&later[(*n)++], t);
}

/*
 * Opens the rule on top, or goes on to its next symbol. Other alternatives are kept for later. The
 * last symbol takes the rule's place, so that lists do not nest.
 */
static void
step_rule(const grammar_node *node, grammar_thread *t, grammar_thread *later, uint32_t *n)
{
	grammar_frame *f = top(t);
	const grammar_symbol *symbol;

	if (f->phase == P_START)
	{
		uint32_t i = node->n;

		f->phase = P_VALUE;
		while (i-- > 0)
			if (t->depth + node->heights[i] <= GRAMMAR_DEPTH_MAX + 1)
			{
				f->a = node->alternatives[i];
				defer(later, n, t);
			}
		t->depth = 0;
		return;
	}
	symbol = &node->symbols[f->a];
	if (symbol->node == GRAMMAR_NO_NODE)
	{
		t->depth--;
		return;
	}
	f->a++;
	if (symbol[1].node == GRAMMAR_NO_NODE)
		t->depth--;
	push(t, symbol->node);
}

/* True where a literal or a run of characters may end, whatever comes next. */
static bool
terminal_may_end(const grammar_node *node, const grammar_frame *f)
{
	if (node->kind == G_CHARS)
		return f->count >= node->min;
	return node->texts[f->phase == P_START ? 0 : f->a].n == f->count;
}

/*
 * Moves one thread of a grammar of rules on by a byte. Unlike a JSON value, a literal that may end
 * both ends and goes on.
 */
static void
step_rules(const llm_grammar *g, const grammar_thread *from, unsigned char byte, grammar_set *to)
{
	grammar_thread later[THREADS_LATER_MAX];
	grammar_thread t;
	uint32_t n = 0;
	verdict v;

	for (defer(later, &n, from); n > 0;)
	{
		grammar_thread_copy(&t, &later[--n]);
		while (t.depth > 0 && g->nodes[top(&t)->node].kind == G_RULE)
			step_rule(&g->nodes[top(&t)->node], &t, later, &n);
		if (t.depth == 0)
			continue;
		if (terminal_may_end(&g->nodes[top(&t)->node], top(&t)))
		{
			t.depth--;
			defer(later, &n, &t);
			t.depth++;
		}
		v = step_top(g, &t, byte);
		t.depth -= v == CLOSED;
		if (v == TAKEN || v == CLOSED)
			add_thread(g, to, &t);
	}
}

/* Moves a set on by a byte. */
bool
grammar_step(const llm_grammar *g, const grammar_set *from, unsigned char byte, grammar_set *to)
{
	grammar_thread t;

	to->n = 0;
	to->n_lead = from->n_lead + (from->n_lead < g->lead.n);
	if (from->n_lead < g->lead.n && byte != (unsigned char) g->lead.bytes[from->n_lead])
		return false;
	for (uint32_t i = 0; i < from->n; i++)
	{
		if (g->has_rules)
		{
			step_rules(g, &from->threads[i], byte, to);
			continue;
		}
		grammar_thread_copy(&t, &from->threads[i]);
		step_thread(g, &t, byte, to);
	}
	return to->n > 0;
}

/* Copies a thread. */
void
grammar_thread_copy(grammar_thread *to, const grammar_thread *from)
{
	to->depth = from->depth;
	memcpy(to->frames, from->frames, from->depth * sizeof(grammar_frame));
}

/* Copies a set into another of the same grammar. */
void
grammar_set_copy(grammar_set *to, const grammar_set *from)
{
	to->n = from->n;
	to->n_lead = from->n_lead;
	for (uint32_t i = 0; i < from->n; i++)
		grammar_thread_copy(&to->threads[i], &from->threads[i]);
}

/* Least bytes to the end of a string. A cut \u is finished by 1s, a cut character by any byte. */
static uint32_t
string_cost(const grammar_node *node, const grammar_frame *f)
{
	bool inside = f->phase == P_ESCAPE || f->phase == P_HEX || f->phase == P_UTF8;
	uint32_t count = f->count + inside;
	uint32_t cost = (count < node->min ? node->min - count : 0) + 1 + (f->phase == P_START);

	if (f->phase == P_UTF8)
		return cost + f->a;
	return cost + (f->phase == P_HEX ? 4 - f->a : f->phase == P_ESCAPE);
}

/* Least bytes to the end of a literal. */
static uint32_t
literal_cost(const grammar_node *node, const grammar_frame *f)
{
	uint32_t best = UINT32_MAX;

	if (f->phase == P_START)
		return node->cost;
	for (uint32_t k = f->a; k < f->b; k++)
		best = node->texts[k].n - f->count < best ? node->texts[k].n - f->count : best;
	return best;
}

/* Least bytes from within the keys to the end of an object. */
static uint32_t
key_cost(const llm_grammar *g, const grammar_node *node, const grammar_frame *f)
{
	uint32_t first = f->phase == P_KEY ? f->b : f->a;
	uint32_t best = UINT32_MAX;

	for (uint32_t k = f->a; k < reach(node, first); k++)
	{
		const grammar_property *p = &node->properties[k];
		uint32_t cost = p->key.n - f->count + 1 + g->nodes[p->node].cost + p[1].rest + 1;

		if (same_beginning(node, k, f->a, f->count) && cost < best)
			best = cost;
	}
	return best;
}

/* Least bytes to the end of an object, less what its open value costs. */
static uint32_t
object_cost(const llm_grammar *g, const grammar_node *node, const grammar_frame *f)
{
	const grammar_property *p = &node->properties[f->a];

	switch (f->phase)
	{
		case P_START:
			return node->cost;
		case P_OPEN:
			return node->cost - 1;
		case P_COLON:
			return 1 + g->nodes[p->node].cost + p[1].rest + 1;
		case P_VALUE:
		case P_SPACED:
			return g->nodes[p->node].cost + p[1].rest + 1;
		case P_AFTER:
			return p->rest + 1;
		default:
			return key_cost(g, node, f);
	}
}

/* Least bytes to the end of an array, less what its open item costs. */
static uint32_t
array_cost(const llm_grammar *g, const grammar_node *node, const grammar_frame *f)
{
	uint32_t item = g->nodes[node->item].cost;
	uint32_t missing = f->count < node->min ? node->min - f->count : 0;

	if (f->phase == P_START)
		return node->cost;
	if (f->phase == P_OPEN)
		return node->cost - 1;
	if (f->phase == P_AFTER)
		return missing * (item + 1) + 1;
	return item + (missing > 1 ? missing - 1 : 0) * (item + 1) + 1;
}

/* Least bytes to the end of one value. */
static uint32_t
frame_cost(const llm_grammar *g, const grammar_frame *f)
{
	const grammar_node *node = &g->nodes[f->node];

	switch (node->kind)
	{
		case G_LITERAL:
			return literal_cost(node, f);
		case G_STRING:
			return string_cost(node, f);
		case G_NUMBER:
		case G_INTEGER:
			return number_may_end(f->phase) ? 0 : 1;
		case G_OBJECT:
			return object_cost(g, node, f);
		case G_ARRAY:
			return array_cost(g, node, f);
		case G_RULE:
			return f->phase == P_START ? node->cost : node->symbols[f->a].rest;
		case G_CHARS:
			return f->count < node->min ? node->min - f->count : 0;
		default:
			return node->cost;
	}
}

/* Least bytes to a complete output, over threads; the lead comes before. */
uint32_t
grammar_cost(const llm_grammar *g, const grammar_set *set)
{
	uint32_t best = UINT32_MAX, lead = g->lead.n - set->n_lead;

	for (uint32_t i = 0; i < set->n; i++)
	{
		uint64_t cost = thread_cost(g, &set->threads[i]);

		if (cost < best)
			best = (uint32_t) cost;
	}
	return best > lead ? best : lead;
}

/* True when the output may end: nothing more has to come. An empty literal may end before its first
 * byte. */
bool
grammar_may_end(const llm_grammar *g, const grammar_set *set)
{
	return set->n > 0 && grammar_cost(g, set) == 0;
}
