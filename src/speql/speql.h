/*
 * speql.h: speculation over unfinished SQL, what its files share.
 *
 * Repair, in the order of the work:
 *
 *		SpeqlTokens *t = speql_lex(text, len);                 speql_lex.c
 *		SpeqlBlocks *b = speql_blocks(t, cursor);              speql_block.c
 *		SpeqlRepair r  = speql_repair(speql_block_text(b, i)); speql_repair.c
 *			speql_check()      does it analyse? where is the error?  speql_check.c
 *			speql_delete_item() and its like: one change of a text   speql_edit.c
 *			speql_resolve()    names, tables, foreign keys           speql_catalog.c
 *			speql_correct_call() the function that a call means      speql_callee.c
 *			speql_distance()   words that are nearly right           speql_spell.c
 *
 * Nothing here executes, plans or locks for longer than one analysis. Memory: the current context.
 */
#ifndef SPEQL_H
#define SPEQL_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"

#include "speql_lex.h"

/* ---- blocks (speql_block.c) -------------------------------------------------------------- */

typedef enum SpeqlBlockKind
{
	SPEQL_MAIN,    /* the statement */
	SPEQL_CTE,     /* the body of a WITH item */
	SPEQL_SUBQUERY /* a SELECT in brackets */
} SpeqlBlockKind;

typedef struct SpeqlBlock
{
	SpeqlBlockKind kind;
	char *name; /* "main", the CTE's name, "subquery 1"; an arm adds " arm 2" */
	int parent; /* index of the block around it, or −1 */
	int first;  /* token range [first, last) */
	int last;
	int with;       /* token of the WITH whose items it may read, or −1 */
	int with_to;    /* items of that WITH up to this token are visible */
	bool recursive; /* that WITH is RECURSIVE */
	bool arm;       /* an operand of a set operation */
} SpeqlBlock;

#define SPEQL_MAX_BLOCKS 100 /* of a statement; the others are part of what is around them */

/* Bytes that one keystroke may have analysed: about 60 times a text of 30 kB. */
#define SPEQL_REPAIR_BUDGET (2 * 1024 * 1024)

typedef struct SpeqlBlocks
{
	const SpeqlTokens *tokens;
	int n;
	int capacity;
	int cursor; /* index of the innermost block under the cursor, or −1 */
	SpeqlBlock *block;
} SpeqlBlocks;

/* The blocks of the statement under a cursor (byte offset), the outermost first. */
extern SpeqlBlocks *speql_blocks(const SpeqlTokens *t, int cursor);

/*
 * The statement under a cursor (byte offset): what stands between two semicolons outside of quotes.
 */
extern void speql_statement_at(const char *text, int cursor, int *start, int *len);

/* The text of a block, with the WITH items that it may read before it. */
extern char *speql_block_text(const SpeqlBlocks *b, int i);

/* ---- analysis (speql_check.c) ------------------------------------------------------------ */

typedef struct SpeqlCheck
{
	bool parses;   /* the grammar accepts it */
	bool analyses; /* every name and type is right: it could be planned */
	bool cross;    /* a FROM list has tables that nothing joins */
	int sqlstate;  /* of the error, 0 if none */
	int position;  /* byte offset of the error, −1 if unknown */
	Query *query;  /* when it analyses; its locks are released */
} SpeqlCheck;

/* Parses and analyses one text as the current role, catching every error but a cancel. */
extern void speql_check(const char *text, SpeqlCheck *check);

/* ---- edits (speql_edit.c): each returns a new text, or NULL when it has nothing to change  */

/* What closes the open brackets of a text and, if wanted, a WITH that nothing reads yet. */
extern char *speql_closers(const SpeqlTokens *t, bool end_with);

/* The text without its last token and what dangles before it. */
extern char *speql_drop_tail(const SpeqlTokens *t, int n_tokens);

/* The text without what dangles before a token, or else without the token. */
extern char *speql_drop_before(const SpeqlTokens *t, int k);

/* The text without the list item, condition or join around a token. */
extern char *speql_delete_item(const SpeqlTokens *t, int k);

/* The text with the column reference at a token added to the GROUP BY of its level. */
extern char *speql_group_by(const SpeqlTokens *t, int k);

/* The text with an alias for the subquery that a token opens. */
extern char *speql_add_alias(const SpeqlTokens *t, int k);

/* The text with a piece put in at an offset, and n bytes there left out. */
extern char *speql_splice(const SpeqlTokens *t, int at, int n, const char *piece);

/* The opener of the query that a token stands in, or −1 for the statement itself. */
extern int speql_level(const SpeqlTokens *t, int k);

/* The first token of a clause of the query opened by `opener`, or −1. */
extern int speql_clause(const SpeqlTokens *t, int opener, SpeqlKeyword keyword, int near);

/* The token after the last one of an operand of a set operation or of a query. */
extern int speql_level_end(const SpeqlTokens *t, int opener, int from);

/* True when a token cannot end a query. */
extern bool speql_dangles(const SpeqlTokens *t, int k);

/* ---- names (speql_catalog.c) ------------------------------------------------------------- */

/* The text with a name completed or corrected, or with its table joined along a foreign key. */
extern char *speql_resolve(const SpeqlTokens *t, int k, int sqlstate, SpeqlBlockKind kind,
                           char **change);

/* ---- calls (speql_callee.c) -------------------------------------------------------------- */

/* The text with the name of a misspelt call corrected. typed: bytes of the text that were typed. */
extern char *speql_correct_call(const SpeqlTokens *t, int k, int typed, char **change);

/* ---- slips of the finger (speql_spell.c) ------------------------------------------------- */

/* How many slips a word of some length is allowed. */
extern int speql_slips(int len);

/* The slips between two words: letters left out, put in, mistaken or swapped; never digits. */
extern int speql_distance(const char *a, const char *b);

/* The next keyword after `last` that is a slip away from the word at a token; KW_NONE: no more. */
extern SpeqlKeyword speql_near_keyword(const SpeqlTokens *t, int k, SpeqlKeyword last);

/* ---- repair (speql_repair.c) ------------------------------------------------------------- */

typedef struct SpeqlRepair
{
	char *sql; /* the text, repaired as far as it went; NULL: it was blank */
	bool valid;
	bool cross;          /* its FROM list has tables that nothing joins: not to be run */
	StringInfoData note; /* what was changed, for people; empty: nothing */
	int n_checks;
} SpeqlRepair;

/* Repairs the text of a block of some kind. budget: bytes that may be analysed; is drawn from. */
extern void speql_repair(const char *text, SpeqlBlockKind kind, int64 *budget, SpeqlRepair *repair);

#endif /* SPEQL_H */
