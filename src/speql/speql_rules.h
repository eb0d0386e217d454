/*
 * speql_rules.h: writes the rules that the engine holds a model to (src/llm/llm_grammar.h).
 *
 * Rules are written in the order of their numbers:
 *
 *		speql_rule(w, N);
 *		speql_alt(w, "sum(%r) as %g", AMOUNT, NAME);
 *		speql_rule_end(w);
 */
#ifndef SPEQL_RULES_H
#define SPEQL_RULES_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

typedef struct SpeqlRules
{
	StringInfoData out;
	const char *partial; /* the last word as it is typed, "" if it cannot go on */
	bool upper;          /* keywords in capitals */
	int n;               /* rules written */
	int base;            /* number of the scope's first rule */
	bool first;          /* no alternative of the open rule is written yet */
} SpeqlRules;

#define SPEQL_RULE_GAP 1 /* the rule of what stands between two words */

/* A word as it is to be written: it begins as it was typed. */
extern const char *speql_as_typed(const SpeqlRules *w, const char *word);

/* A word as the person writes keywords, if it is one; functions and types stay small. */
extern const char *speql_keywords(const SpeqlRules *w, const char *word);

extern void speql_rule(SpeqlRules *w, int rule);

/* Ends a rule. One without alternatives, which nothing may refer to, gets some text. */
extern void speql_rule_end(SpeqlRules *w);

/*
 * Writes an alternative of the open rule. A word in small letters is a keyword or the name of a
 * function, with the punctuation around it; %s is a text as it is, %g a shared rule, %r a rule of
 * the scope, and a blank a gap.
 */
extern void speql_alt(SpeqlRules *w, const char *format, ...);

/* A rule that is one of a list of texts, looked up at once, however long; never an empty list. */
extern void speql_rule_texts(SpeqlRules *w, int rule, bool as_keywords, List *list);

/* A rule that is a run of characters. */
extern void speql_rule_chars(SpeqlRules *w, int rule, const char *chars, int min, int max);

#endif /* SPEQL_RULES_H */
