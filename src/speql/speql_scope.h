/*
 * speql_scope.h: where an unfinished query ends, and which names may come next.
 *
 * A place is the clause that the end of a text stands in, with what was typed of the item that is
 * not finished; its scopes are the FROM clauses that are possible there: the one that was written,
 * analysed by the server, or, while there is none, each table (or two along a foreign key) that has
 * all columns named so far. Only what the current role may read is in a scope.
 */
#ifndef SPEQL_SCOPE_H
#define SPEQL_SCOPE_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "speql_lex.h"

/* What may be done with a column. */
typedef enum SpeqlClass
{
	SPEQL_NUMBER,
	SPEQL_STRING,
	SPEQL_DATE,
	SPEQL_BOOL,
	SPEQL_OTHER,
	SPEQL_N_CLASSES
} SpeqlClass;

/* A column by one of its names: c, or t.c, quoted as needed. */
typedef struct SpeqlColumn
{
	const char *name;
	SpeqlClass class;
} SpeqlColumn;

/* A FROM clause and what may be read from it. */
typedef struct SpeqlScope
{
	const char *from; /* what is to be written first: a table, with its ON; NULL: nothing */
	List *columns;    /* SpeqlColumn */
	List *on;         /* char *: join conditions for the table that was joined last */
	List *joins;      /* char *: a table with its ON, that a foreign key leads to */
} SpeqlScope;

typedef struct SpeqlPlace
{
	SpeqlKeyword clause; /* SELECT, FROM, JOIN, ON, WHERE, GROUP, HAVING, ORDER, LIMIT; NONE: a FROM
	                      * item is complete */
	bool comma;          /* clause FROM: after a comma, so that WHERE has to join */
	bool needs_on;       /* clause ON: the word itself is to come */
	int from, to;        /* tokens of the item that is not finished */
	bool upper;          /* keywords are typed in capitals */
	bool grouped;        /* the select list has an aggregate */
	bool distinct;
	List *plain;   /* char *: plain columns of the select list */
	List *outputs; /* char *: its names */
	List *scopes;  /* SpeqlScope */
} SpeqlPlace;

#define SPEQL_MAX_SCOPES 8

/*
 * The place at the end of a statement; false where nothing is known to come. glued: its last token
 * is a word that may go on. In a transaction, as the typing role; no SPI connection may be open.
 */
extern bool speql_place(const SpeqlTokens *t, bool glued, SpeqlPlace *place);

#endif /* SPEQL_SCOPE_H */
