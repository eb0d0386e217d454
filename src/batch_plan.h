/*
 * batch_plan.h: what the planner's files of the Prepack Batch node share.
 *
 *	batch_plan.c	the hook and the walk over plans
 *	batch_join.c	conditions of outer, semi and anti joins
 *	batch_lift.c	index conditions of nested loops
 *	batch_nodes.c	the nodes put in, and the expressions between them
 */
#ifndef PP_BATCH_PLAN_H
#define PP_BATCH_PLAN_H

#include "batch.h"

/* One run of the hook. */
typedef struct PpPlanContext
{
	PlannedStmt *stmt;
	int next_id;    /* plan_node_id of the next new node */
	Cost call_cost; /* what the planner thought that the hoisted calls cost */
	bool changed;
} PpPlanContext;

/* Leaves collected so far: expressions that a lower node returns. */
typedef struct PpLeaves
{
	List *leaves;  /* TargetEntries */
	bool distinct; /* equal leaves share a column */
} PpLeaves;

/* ---- batch_nodes.c ----------------------------------------------------------------------- */

extern List *pp_plan_pass_through(List *tlist, int varno);
extern Node *pp_plan_renumber(Node *node, int from, int to);
extern void pp_plan_set_costs(Plan *plan, const Plan *outer, int n_calls);
extern CustomScan *pp_plan_make_batch(Plan *outer, const PpHoist *hoist, PpPlanContext *context);
extern bool pp_plan_stack_calls(Plan **plan, Node **expr, bool in_aggregates,
                                PpPlanContext *context);
extern Plan *pp_plan_make_projection(Plan *outer, List *tlist, PpPlanContext *context);
extern Plan *pp_plan_materialise(Plan *outer, PpPlanContext *context);
extern Node *pp_plan_leaves(Node *node, PpLeaves *leaves);
extern List *pp_plan_take_call_quals(List **quals);

/* ---- batch_join.c ------------------------------------------------------------------------ */

/*
 * Lets an outer, semi or anti join whose condition has calls leave the condition to nodes above it;
 * returns the topmost of them, or the join itself where nothing can be batched.
 */
extern Plan *pp_plan_split_join(Plan *plan, PpPlanContext *context);

/* ---- batch_lift.c ------------------------------------------------------------------------ */

/* Has calls in index conditions of a nested loop's inner side made on its outer side. */
extern void pp_plan_lift_operands(NestLoop *join, PpPlanContext *context);

#endif /* PP_BATCH_PLAN_H */
