/*
 * llm_grammar_internal.h: the automaton that the files of llm_grammar_*.c share.
 *
 * A grammar is an array of nodes, children behind their parents. Where an output stands is a set of
 * threads (an alternative that is still open each), and a thread is a stack of frames, one for each
 * open value, the innermost last; an empty stack is a finished output. A frame says how far its
 * value is. Frames hold no pointers and no padding, so states are copied and compared as bytes.
 */
#ifndef LLM_GRAMMAR_INTERNAL_H
#define LLM_GRAMMAR_INTERNAL_H

#include "llm_alloc.h"
#include "llm_grammar.h"
#include "llm_vocab_trie.h"

#define GRAMMAR_DEPTH_MAX      32
#define GRAMMAR_PROPERTIES_MAX 256
#define GRAMMAR_TEXTS_MAX      4096
#define GRAMMAR_NODES_MAX      4096
#define GRAMMAR_THREADS_MAX    32
#define GRAMMAR_TEXT_MAX       65536 /* bytes of one literal */
#define GRAMMAR_STRING_MAX     4096  /* characters of a string without maxLength */
#define GRAMMAR_ITEMS_MAX      4096  /* items of an array without maxItems */
#define GRAMMAR_COST_MAX       (UINT32_C(1) << 30)
#define GRAMMAR_NO_NODE        UINT32_MAX /* ends a sequence of symbols */

typedef enum grammar_kind
{
	G_LITERAL, /* one of texts, as it stands */
	G_STRING,
	G_NUMBER,
	G_INTEGER,
	G_OBJECT,
	G_ARRAY,
	G_UNION,
	G_RULE, /* one of several sequences of nodes, which may hold the rule itself */
	G_CHARS /* min to max bytes of a set */
} grammar_kind;

typedef struct grammar_text
{
	const char *bytes;
	uint32_t n;
} grammar_text;

typedef struct grammar_property
{
	grammar_text key; /* with quotes and escapes */
	uint32_t node;
	bool required;
	uint32_t rest; /* least bytes of all required ones from here on, a comma before each */
} grammar_property;

/* A part of a sequence. */
typedef struct grammar_symbol
{
	uint32_t node; /* GRAMMAR_NO_NODE behind the last one */
	uint32_t rest; /* least bytes from here to the end of the sequence */
} grammar_symbol;

typedef struct grammar_node
{
	grammar_kind kind;
	uint32_t min,
	    max;        /* characters of a string, items of an array, bytes of G_CHARS, max: symbols */
	uint32_t n;     /* texts, properties or alternatives */
	uint32_t item;  /* of an array */
	uint32_t cost;  /* least bytes of the whole value */
	bool exclusive; /* a union of oneOf: alternatives must not overlap */
	grammar_text *texts;          /* sorted by bytes, no two equal */
	grammar_property *properties; /* n, and one more whose rest is 0 */
	uint32_t *alternatives;       /* of a rule: where each begins in symbols */
	grammar_symbol *symbols;      /* of a rule: its sequences, end to end */
	uint32_t *heights;            /* of a rule: frames that its alternatives' cheapest need */
	uint32_t height;              /* frames that the cheapest completion needs */
	const bool *set;              /* of G_CHARS: [256] */
} grammar_node;

/* How far a frame is. START comes first in every kind. */
enum
{
	P_START,
	P_CHARS,  /* string: between two characters */
	P_ESCAPE, /* after a backslash */
	P_HEX,    /* in \u: a = digits seen, b = their value */
	P_UTF8,   /* in a character: a = bytes to come, b = bounds of the next one */
	P_MINUS,  /* number: after the sign */
	P_ZERO,   /* after a leading 0 */
	P_DIGITS, /* count digits of the integer part */
	P_POINT,  /* after the point */
	P_FRACTION,
	P_E,      /* after e */
	P_E_SIGN, /* after the sign of the exponent */
	P_EXPONENT,
	P_OPEN,   /* container: after the opening bracket */
	P_KEY,    /* object: count bytes into a key; a = first key not ruled out, b = first in reach */
	P_COLON,  /* a = the property */
	P_VALUE,  /* a value must come, a space may; for an object a = the property */
	P_SPACED, /* the same, after the space */
	P_AFTER,  /* a value is complete; object: a = the next property; array: count items */
	P_COMMA,  /* after a comma, a space may come; object: a = the next property */
	P_TEXT    /* literal: count bytes into texts a … b − 1 */
};

typedef struct grammar_frame
{
	uint16_t node;
	uint16_t phase;
	uint32_t a, b, count;
} grammar_frame;

typedef struct grammar_thread
{
	uint32_t depth;
	grammar_frame frames[GRAMMAR_DEPTH_MAX + 1];
} grammar_thread;

/* Room for as many threads as the grammar can have. */
typedef struct grammar_set
{
	uint32_t n;
	uint32_t n_lead; /* bytes of the lead that were taken */
	grammar_thread *threads;
} grammar_set;

struct llm_grammar
{
	llm_arena *arena;
	grammar_node *nodes;
	uint32_t n_nodes;
	uint32_t root;
	uint32_t n_threads_max;      /* 1 without unions and rules */
	bool has_rules;              /* then all nodes are G_RULE, G_LITERAL or G_CHARS */
	grammar_text lead;           /* an output begins with it */
	grammar_set *start;          /* where outputs begin; NULL: before the first byte of node 0 */
	bool needed[256];            /* bytes that the cheapest completions are made of */
	struct grammar_cache *cache; /* what changes: masks computed so far, behind its own lock */
};

struct llm_grammar_state
{
	const llm_grammar *grammar;
	grammar_set set;
	grammar_set *scratch; /* two */
};

/* llm_grammar_step.c */
/* Moves every thread of from on by a byte into to; false when none could. */
bool grammar_step(const llm_grammar *g, const grammar_set *from, unsigned char byte,
                  grammar_set *to);
bool grammar_may_end(const llm_grammar *g, const grammar_set *set);
/* Least bytes to a complete output. */
uint32_t grammar_cost(const llm_grammar *g, const grammar_set *set);
void grammar_thread_copy(grammar_thread *to, const grammar_thread *from);
void grammar_set_copy(grammar_set *to, const grammar_set *from);

/* llm_grammar.c */
llm_status grammar_create(llm_grammar **out, llm_error *err);
/* Sorts texts, drops equal ones and makes node a literal of them. */
void grammar_set_literal(grammar_node *node, grammar_text *texts, uint32_t n);
/* Notes bytes that completions may need one by one. */
void grammar_note_bytes(llm_grammar *g, const char *bytes, uint32_t n);
/* Costs, flat unions, needed bytes, the cache: when all nodes are there. */
llm_status grammar_finish(llm_grammar *g, llm_error *err);
/* Gives n sets room for the threads of a grammar; one block, freed with llm_free(sets). */
grammar_set *grammar_sets_create(const llm_grammar *g, uint32_t n);

/* llm_grammar_mask.c */
struct grammar_cache *grammar_cache_create(const llm_grammar *g);
void grammar_cache_free(struct grammar_cache *c);

#endif /* LLM_GRAMMAR_INTERNAL_H */
