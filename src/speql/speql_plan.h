/*
 * speql_plan.h: the planner hook of speculation.
 */
#ifndef SPEQL_PLAN_H
#define SPEQL_PLAN_H

#include "speql_match.h"

/* Installs the hook; when the library is loaded, after the hook of the Batch node. */
extern void speql_plan_install(void);

/*
 * True where what speculation has prepared may be used at all: by the client's own role and
 * statements, on a primary, outside of serializable transactions.
 */
extern bool speql_may_use(void);

/* Told of each table: m->query NULL or a reason beyond SPEQL_OK_… means that it cannot be used. */
typedef void (*SpeqlMatchReport)(const SpeqlCandidate *c, const SpeqlMatch *m, void *arg);

/* Tries every table of the current role on the outermost block of an analysed query. */
extern void speql_explain_match(Query *query, SpeqlMatchReport report, void *arg);

/* True when some table of the current role holds just the rows of an analysed query. */
extern bool speql_held_exactly(Query *query);

#endif /* SPEQL_PLAN_H */
