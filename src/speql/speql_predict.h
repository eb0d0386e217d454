/*
 * speql_predict.h: what may be typed next.
 */
#ifndef SPEQL_PREDICT_H
#define SPEQL_PREDICT_H

#include "postgres.h"

#include "lib/stringinfo.h"

/* One completion. */
typedef struct SpeqlCompletion
{
	float4 probability;
	const char *source; /* repair, history, catalog, model */
	const char *insert; /* to be put in at the cursor */
	const char *full;   /* the whole text with it */
} SpeqlCompletion;

#define SPEQL_MAX_COMPLETIONS 10

/* The completions of a text; probabilities are weights until they are written. */
typedef struct SpeqlCompletions
{
	int n;
	SpeqlCompletion item[SPEQL_MAX_COMPLETIONS]; /* the heaviest first */
} SpeqlCompletions;

/*
 * Finds completions of a text at a cursor from repair, history and catalog. repaired: what the
 * statement runs as, if valid. In a transaction, as the typing role. Strings: the current context.
 */
extern void speql_predict(const char *text, int cursor, const char *repaired, bool valid,
                          SpeqlCompletions *found);

/* Adds one unless it is there; a blank is put before it where the text needs one. */
extern void speql_add_completion(SpeqlCompletions *c, const char *text, const char *source,
                                 const char *insert, float4 weight);

/*
 * Writes them, the heaviest first, weights scaled to sum to at most 1: for each the probability,
 * then source, insert and full as strings ended by a zero byte.
 */
extern void speql_write_completions(SpeqlCompletions *c, StringInfo out);

/* Reads the next one; false at the end. Strings point into the data. */
extern bool speql_next_completion(const char **data, const char *end, SpeqlCompletion *c);

#endif /* SPEQL_PREDICT_H */
