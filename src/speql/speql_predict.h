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

/*
 * Writes completions of a text at a cursor, the most probable first: for each probability, then
 * source, insert and full as strings ended by a zero byte. repaired: what the statement runs as, if
 * valid. In a transaction, as the typing role.
 */
extern void speql_predict(const char *text, int cursor, const char *repaired, bool valid,
                          StringInfo out);

/* Reads the next one; false at the end. Strings point into the data. */
extern bool speql_next_completion(const char **data, const char *end, SpeqlCompletion *c);

#endif /* SPEQL_PREDICT_H */
