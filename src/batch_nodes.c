/*
 * batch_nodes.c: the nodes that are put into finished plans, and the expressions between them.
 *
 * A plan that the planner hook gets is in its final form: the Vars of a node name columns of its
 * outer plan (OUTER_VAR), its inner plan (INNER_VAR) or its own scan tuple (INDEX_VAR). Whoever
 * moves an expression renumbers its Vars. New nodes take estimates and parameters from the plan
 * that they are put on.
 */
#include "batch_plan.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/tlist.h"

/* planner's cost of one batched call, in units of cpu_operator_cost * 100 */
#define PP_CALL_COST 100.0

/* Target list entries that pass the first n columns of a plan through, as Vars of varno. */
List *
pp_plan_pass_through(List *tlist, int varno)
{
	List *result = NIL;
	ListCell *lc;

	foreach (lc, tlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		Expr *var =
		    (Expr *) makeVar(varno, tle->resno, exprType((Node *) tle->expr),
		                     exprTypmod((Node *) tle->expr), exprCollation((Node *) tle->expr), 0);

		result = lappend(result, makeTargetEntry(var, tle->resno, tle->resname, tle->resjunk));
	}
	return result;
}

/* Which Vars become which: of the outer plan, the inner plan, or the node's own scan tuple. */
typedef struct Renumber
{
	int from;
	int to;
} Renumber;

/* Mutator: Vars of one side become those of another. */
static Node *
renumber_mutator(Node *node, Renumber *renumber)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && (int) ((Var *) node)->varno == renumber->from)
	{
		Var *var = copyObject((Var *) node);

		var->varno = renumber->to;
		return (Node *) var;
	}
	return expression_tree_mutator(node, renumber_mutator, renumber);
}

/* An expression with the Vars of one side as those of another. */
Node *
pp_plan_renumber(Node *node, int from, int to)
{
	Renumber sides = {from, to};

	return renumber_mutator(node, &sides);
}

/* Adds the calls' cost and copies the rest of the estimates from the outer plan. */
void
pp_plan_set_costs(Plan *plan, const Plan *outer, int n_calls)
{
	plan->startup_cost = outer->startup_cost;
	plan->total_cost =
	    outer->total_cost + outer->plan_rows * n_calls * PP_CALL_COST * cpu_operator_cost;
	plan->plan_rows = outer->plan_rows;
	plan->plan_width = outer->plan_width;
	plan->parallel_aware = false;
	plan->parallel_safe = false;
	plan->extParam = bms_copy(outer->extParam);
	plan->allParam = bms_copy(outer->allParam);
}

/* Makes a Batch node over outer that adds a column for each call. */
CustomScan *
pp_plan_make_batch(Plan *outer, const PpHoist *hoist, PpPlanContext *context)
{
	CustomScan *node = makeNode(CustomScan);
	AttrNumber column = list_length(outer->targetlist);
	ListCell *lc;

	node->custom_scan_tlist = pp_plan_pass_through(outer->targetlist, OUTER_VAR);
	foreach (lc, hoist->calls)
		node->custom_scan_tlist =
		    lappend(node->custom_scan_tlist,
		            makeTargetEntry(copyObject(lfirst(lc)), ++column, NULL, false));
	node->scan.plan.targetlist = pp_plan_pass_through(node->custom_scan_tlist, INDEX_VAR);
	node->scan.plan.lefttree = outer;
	node->scan.plan.plan_node_id = context->next_id++;
	node->scan.scanrelid = 0;
	node->custom_exprs = hoist->calls;
	node->custom_private = list_make2(makeInteger(list_length(outer->targetlist)), hoist->guards);
	node->methods = &pp_batch_scan_methods;
	pp_plan_set_costs(&node->scan.plan, outer, list_length(hoist->calls));
	context->call_cost +=
	    outer->plan_rows * list_length(hoist->calls) * PP_CALL_COST_ALONE * cpu_operator_cost;
	context->changed = true;
	return node;
}

/*
 * Stacks the Batch nodes that the calls of one expression need. *expr is over OUTER_VAR of *plan,
 * and is again when the function returns. Returns false when nothing could be hoisted.
 */
bool
pp_plan_stack_calls(Plan **plan, Node **expr, bool in_aggregates, PpPlanContext *context)
{
	bool any = false;

	for (;;)
	{
		PpHoist hoist = {.first_column = list_length((*plan)->targetlist) + 1};
		Node *rest = pp_batch_hoist(*expr, &hoist, in_aggregates);

		if (hoist.calls == NIL)
			return any;
		*plan = (Plan *) pp_plan_make_batch(*plan, &hoist, context);
		*expr = rest;
		any = true;
	}
}

/* A plain Result node that projects, for the case that the last word is not a Batch node's. */
Plan *
pp_plan_make_projection(Plan *outer, List *tlist, PpPlanContext *context)
{
	Result *node = makeNode(Result);

	node->plan.targetlist = tlist;
	node->plan.lefttree = outer;
	node->plan.plan_node_id = context->next_id++;
	pp_plan_set_costs(&node->plan, outer, 0);
	return (Plan *) node;
}

/*
 * A node that cannot be marked and restored, or read backwards, is materialised where that is
 * needed.
 */
Plan *
pp_plan_materialise(Plan *outer, PpPlanContext *context)
{
	Material *node = makeNode(Material);

	node->plan.targetlist = pp_plan_pass_through(outer->targetlist, OUTER_VAR);
	node->plan.lefttree = outer;
	node->plan.plan_node_id = context->next_id++;
	pp_plan_set_costs(&node->plan, outer, 0);
	return (Plan *) node;
}

/* Mutator: replaces leaves by Vars of the lower node's new columns. */
static Node *
leaf_mutator(Node *node, PpLeaves *context)
{
	TargetEntry *tle = NULL;

	if (node == NULL)
		return NULL;
	if (!IsA(node, Var) && !IsA(node, Aggref) && !IsA(node, WindowFunc) && !IsA(node, GroupingFunc))
		return expression_tree_mutator(node, leaf_mutator, context);
	if (context->distinct)
		tle = tlist_member((Expr *) node, context->leaves);
	if (tle == NULL)
	{
		tle = makeTargetEntry(copyObject((Expr *) node), list_length(context->leaves) + 1, NULL,
		                      false);
		context->leaves = lappend(context->leaves, tle);
	}
	return (Node *) makeVar(OUTER_VAR, tle->resno, exprType(node), exprTypmod(node),
	                        exprCollation(node), 0);
}

/* An expression over the columns of a lower node that returns its leaves. */
Node *
pp_plan_leaves(Node *node, PpLeaves *leaves)
{
	return leaf_mutator(node, leaves);
}

/*
 * Takes the call quals out of a qual list, and all that stand behind the first of them. The planner
 * has ordered the list by security level, then by cost: a user's condition must not see rows that a
 * policy with a call in it has yet to judge.
 */
List *
pp_plan_take_call_quals(List **quals)
{
	List *taken = NIL;
	List *kept = NIL;
	ListCell *lc;

	foreach (lc, *quals)
	{
		if (taken != NIL || pp_batch_contains_call(lfirst(lc)))
			taken = lappend(taken, lfirst(lc));
		else
			kept = lappend(kept, lfirst(lc));
	}
	*quals = kept;
	return taken;
}
