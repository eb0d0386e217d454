/*
 * speql_plantree.h: visits the nodes of a plan, which the server has no walker for.
 */
#ifndef SPEQL_PLANTREE_H
#define SPEQL_PLANTREE_H

#include "postgres.h"

#include "nodes/plannodes.h"

/* Sees one node; true ends the walk. */
typedef bool (*SpeqlPlanVisitor)(const Plan *plan, void *arg);

/* Visits all nodes of a statement's plan, subplans included; true as soon as a visit was true. */
extern bool speql_visit_plans(const PlannedStmt *stmt, SpeqlPlanVisitor visit, void *arg);

/* Reads the first pages of what a plan reads into the caches, `pages` at most. May be cancelled. */
extern void speql_prefetch(const PlannedStmt *stmt, int pages);

#endif /* SPEQL_PLANTREE_H */
