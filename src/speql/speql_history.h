/*
 * speql_history.h: the statements that roles ran, to complete the next one from.
 *
 * In shared memory only, bounded, each role sees its own; a restart forgets them, and so does
 * prepack.reset_speculation().
 */
#ifndef SPEQL_HISTORY_H
#define SPEQL_HISTORY_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* A statement of the current role that begins as a text does. Allocated in the current context. */
typedef struct SpeqlPast
{
	char *text;
	int at;        /* byte offset where it goes on */
	int n_runs;    /* how often it ran */
	int n_changed; /* constants in which the text differs */
	uint64 last;   /* larger: later */
} SpeqlPast;

/* Keeps a SELECT that the current role submitted, if the role types in this database at all. */
extern void speql_history_add(const char *text, int len);

/* The statements that begin with the tokens of a text; constants may differ. List of SpeqlPast. */
extern List *speql_history_find(const char *text);

/* Forgets the current role's statements. */
extern void speql_history_clear(void);

#endif /* SPEQL_HISTORY_H */
