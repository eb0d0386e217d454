/*
 * speql_calls.h: the functions that a query calls: what they may do, who may call them, and whether
 * they are what they were.
 *
 * More is called than stands in an expression: an aggregate runs its transition functions, a cast
 * to a domain its checks. Functions in turn call others, which nobody can see; so a table whose
 * definition calls anything that users made depends on all definitions of functions at once, as
 * speql_track.h tells (SPEQL_FUNCTIONS).
 */
#ifndef SPEQL_CALLS_H
#define SPEQL_CALLS_H

#include "postgres.h"

#include "nodes/parsenodes.h"

#include "speql_shared.h"

/* True when running a query or an expression may have effects, or is different every time. */
extern bool speql_calls_volatile(Node *node);

/* True when the current role may execute what a query calls. */
extern bool speql_calls_allowed(const Query *query);

/*
 * Notes the versions of the users' functions that a definition calls; *any: it calls some. False
 * when there are too many.
 */
extern bool speql_calls_note(SpeqlTable *table, const Query *definition, bool *any);

/* True when each of them is still the version that the table was built with. */
extern bool speql_calls_unchanged(const SpeqlTable *table);

#endif /* SPEQL_CALLS_H */
