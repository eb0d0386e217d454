/*
 * speql_scan.h: the plan node that reads speculative tables, or runs the query as it was planned.
 *
 * The node is the top of a statement's plan. Its outer plan is the untouched original.
 * custom_private is (PlannedStmt over the tables, List of table facts): the decision falls when the
 * executor starts, under the very snapshot that the query reads with.
 */
#ifndef SPEQL_SCAN_H
#define SPEQL_SCAN_H

#include "postgres.h"

#include "nodes/plannodes.h"

#include "speql_shared.h"

/* Registers the node; called when the library is loaded. */
extern void speql_scan_install(void);

/* One table that a plan reads. */
typedef struct SpeqlUse
{
	uint64 id;
	Oid relid;
	SpeqlReason kind; /* SPEQL_OK_… */
} SpeqlUse;

/* Puts the node on top of a planned statement. uses: List of SpeqlUse. */
extern void speql_scan_wrap(PlannedStmt *original, PlannedStmt *over_tables, List *uses);

/* What a statement would cost without tables, whether its plan reads some or not. */
extern double speql_original_cost(const PlannedStmt *stmt);

/* True for the node. */
extern bool speql_scan_is_ours(const Plan *plan);

/* The statement over tables in a statement's plan, or NULL. */
extern PlannedStmt *speql_scan_statement(const PlannedStmt *stmt);

/* The OIDs of the speculative tables that a statement's plan reads. */
extern List *speql_scan_tables(const PlannedStmt *stmt);

#endif /* SPEQL_SCAN_H */
