/*
 * llm_grammar.h: constrained decoding: one of a list of strings, JSON that fits a schema, or a text
 * of a language that the caller describes by rules.
 *
 * A grammar is compiled once per request into a bounded automaton over bytes (a stack machine, a
 * set of threads where alternatives are open); per step it yields a mask over the vocabulary: a
 * token is allowed when all its bytes can be taken from the current state. The vocabulary is a byte
 * trie built once per tokenizer and walked together with the automaton, so that dead branches are
 * never visited; masks are kept per request. No user regular expression is ever run, nothing
 * recurses, and everything is bounded: schema depth 32, 4096 parts, 256 properties, 4096 enum
 * values, 32 alternatives in one place, strings and arrays of up to 4096 characters and items,
 * numbers of 18 digits before the point, 15 behind it and 2 of exponent.
 *
 * Schema support (JSON Schema subset): type (object, array, string, number, integer, boolean, null,
 * or a list of them), properties, required, additionalProperties (false or absent, taken as false),
 * items, minItems, maxItems, enum, const, anyOf, oneOf (where alternatives cannot overlap),
 * minLength, maxLength; description, title, $schema, $id, $comment, default and examples are
 * ignored. Any other key is refused by name. Properties come in the schema's order; optional ones
 * may be left out. Output is compact JSON with one optional space after ':' and ','.
 *
 * Rules are a context-free grammar, as JSON:
 *
 *	{"rules": [[["select ", 1], ["table ", 1]], {"texts": ["a", "b"]}], "typed": "sel", "lead": "e"}
 *
 * A rule is an array of alternatives, each an array of symbols: a text, or the number of a rule; an
 * alternative may be empty. It may also be an object: {"texts": […]}, one of many names, or
 * {"chars": "0123456789", "min": 1, "max": 9}, a run of ASCII characters out of these. The output
 * continues typed (if given) to a text of rule 0, and begins with lead (if given: the end of a
 * prompt that was left out of it, so that it is not cut inside a token). Alternatives
 * are followed at once, up to 32 of them (alternatives that begin alike are better written as one
 * that branches later); rules may use each other and themselves, but for left recursion, which is
 * refused; what is nested deeper than 32 open rules is never written. Where typed and lead begin no
 * text of the language, no token is allowed.
 *
 * A grammar must outlive its states. States are of one thread each; the rest is shared freely.
 */
#ifndef LLM_GRAMMAR_H
#define LLM_GRAMMAR_H

#include <stdbool.h>
#include <stdint.h>

#include "llm_json.h"
#include "llm_status.h"
#include "llm_tokenizer.h"

typedef struct llm_vocab_trie llm_vocab_trie; /* per tokenizer, immutable */
typedef struct llm_grammar llm_grammar; /* compiled, immutable, shared by all rows of a request */
typedef struct llm_grammar_state llm_grammar_state; /* where one row's output stands */

llm_status llm_vocab_trie_create(const llm_tokenizer *t, llm_vocab_trie **out, llm_error *err);
void llm_vocab_trie_free(llm_vocab_trie *v);

llm_status llm_grammar_from_schema(const llm_json *schema, llm_grammar **out, llm_error *err);
llm_status llm_grammar_from_strings(const char *const *strings, const size_t *bytes, uint32_t n,
                                    llm_grammar **out, llm_error *err);
llm_status llm_grammar_from_rules(const llm_json *rules, llm_grammar **out, llm_error *err);
void llm_grammar_free(llm_grammar *g);

llm_status llm_grammar_start(const llm_grammar *g, llm_grammar_state **out, llm_error *err);
llm_grammar_state *llm_grammar_copy(const llm_grammar_state *s); /* NULL: no memory */
void llm_grammar_state_free(llm_grammar_state *s);

/*
 * mask: n_vocab bits in ⌈n_vocab / 32⌉ words. End tokens are allowed exactly where the output may
 * end. budget is the number of tokens left, this one included: when it gets short, only what closes
 * the open structures in time stays allowed, so that the output is complete whenever the budget
 * admits any completion. Never empty then.
 */
llm_status llm_grammar_mask(const llm_grammar_state *s, const llm_vocab_trie *v, uint32_t budget,
                            uint32_t *mask, llm_error *err);
/*
 * Moves on by one allowed token; LLM_E_INTERNAL when it was not allowed. End tokens change nothing.
 */
llm_status llm_grammar_accept(llm_grammar_state *s, const llm_vocab_trie *v, int32_t token,
                              llm_error *err);
bool llm_grammar_complete(const llm_grammar_state *s); /* may end here */
/*
 * When exactly one continuation of at least one byte is possible, its forced bytes (for
 * jump-ahead); 0 if none.
 */
size_t llm_grammar_forced(const llm_grammar_state *s, char *out, size_t capacity);

#endif /* LLM_GRAMMAR_H */
