/*
 * speql_grammar.h: what a model may write behind an unfinished query, as rules for the engine.
 */
#ifndef SPEQL_GRAMMAR_H
#define SPEQL_GRAMMAR_H

#include "postgres.h"

typedef struct SpeqlGrammar
{
	const char *rules; /* JSON; see src/llm/llm_grammar.h */
	int n_prompt;      /* bytes of the statement that the model reads before it writes */
	const char *lead;  /* what it writes first: the rest of the statement, or a blank */
} SpeqlGrammar;

/*
 * The rules for what may come behind a statement: every name is in scope there, every operator has
 * operands of its types, brackets are closed, and the query is whole at the end, but for what the
 * repair adds behind it (brackets around it, GROUP BY). False where the place is none that rules
 * are known for. In a transaction, as the typing role; no SPI connection may be open.
 */
extern bool speql_grammar(const char *statement, SpeqlGrammar *grammar);

#endif /* SPEQL_GRAMMAR_H */
