/*
 * speql_build.h: builds speculative tables, in a worker or in the session that asks for it.
 */
#ifndef SPEQL_BUILD_H
#define SPEQL_BUILD_H

#include "postgres.h"

#include "nodes/plannodes.h"
#include "tcop/dest.h"
#include "utils/snapshot.h"

#include "speql_match.h"
#include "speql_shared.h"

/* What is about to be built, after planning and before running. */
typedef struct SpeqlEstimate
{
	double rows;
	double bytes;
	double cost; /* of the plan */
} SpeqlEstimate;

/*
 * A SELECT, analysed and rewritten as the current role, ready for speql_form() and speql_define().
 * Raises an error when it is no such statement; its locks are held until the transaction ends.
 */
extern Query *speql_analyse(const char *sql);

/*
 * Runs a plan into a receiver as the current role, read-only and under restricted operation,
 * without the executor hooks of other extensions. Raises the query's errors.
 */
extern void speql_run(PlannedStmt *plan, const char *sql, Snapshot snapshot,
                      DestReceiver *receiver);

/* The plan's estimate for a definition. */
extern SpeqlEstimate speql_estimate(Query *definition);

/*
 * Builds a table for a definition in the current (top-level) transaction, as the current role, and
 * returns its id; 0 when the registry, the tracking or the quota has no room, with *problem. It can
 * be used once the transaction commits. compared: columns (Vars of the definition) that later
 * queries will compare with constants; a large table gets indexes on the first of them. Errors of
 * the definition itself (a division by zero, a cancel) are raised: the transaction's abort forgets
 * the table.
 */
extern uint64 speql_build(Query *definition, SpeqlTableKind kind, List *compared, uint64 env,
                          const char **problem);

/* The owner of the extension, and so of all tables; *extension: its OID. */
extern Oid speql_extension_owner(Oid *extension);

#endif /* SPEQL_BUILD_H */
