/*
 * batch_plan.c: puts Prepack Batch nodes into finished plans.
 *
 * The planner hook runs after set_plan_references: Vars of a node above a scan or join are
 * OUTER_VAR already, and what we add is made in that final form. Two operations do everything:
 *
 * Split above: a node whose target list or movable quals hold calls gives up both. It returns the
 * leaves they need (Vars, aggregates, …), and Batch nodes stacked on it make the calls, filter and
 * project.
 *
 * Insert below: calls in the arguments of aggregates, window functions and set-returning functions
 * get their columns from Batch nodes between the node and its outer plan.
 *
 * Each call qual gets a Batch node of its own, in the planner's order (cheapest first), so that
 * later ones see survivors only. Nested calls take one node a level. Conditions of outer, semi and
 * anti joins have shapes of their own (batch_join.c), and so have index conditions under nested
 * loops (batch_lift.c). What is not recognised stays as it is and runs row by row: slower, never
 * wrong.
 *
 * The tree comes fresh from the planner: it is changed in place before anybody else sees it.
 */
#include "batch_plan.h"

#include "jit/jit.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "optimizer/tlist.h"

CustomScanMethods pp_batch_scan_methods = {
    .CustomName = "Prepack Batch",
    .CreateCustomScanState = pp_batch_create_state,
};

static planner_hook_type prev_planner_hook = NULL;

static Plan *walk_plan(Plan *plan, PpPlanContext *context);

/* ---- split above ------------------------------------------------------------------------- */

/*
 * Puts one qual on top of a plan, with the Batch nodes that it needs. qual is over OUTER_VAR of
 * plan.
 */
static Plan *
stack_qual(Plan *plan, Node *qual, PpPlanContext *context)
{
	PpHoist nothing = {0};

	if (!pp_plan_stack_calls(&plan, &qual, false, context))
		/* filters row by row, in the planner's order */
		plan = (Plan *) pp_plan_make_batch(plan, &nothing, context);
	/*
	 * The topmost node has the columns that qual names: as its own scan tuple they are INDEX_VAR.
	 */
	plan->qual = lappend(plan->qual, pp_plan_renumber(qual, OUTER_VAR, INDEX_VAR));
	return plan;
}

/*
 * Splits a node: returns the top of the stack that now computes what the node did. quals were taken
 * from it and are, like its target list, in its own terms.
 */
static Plan *
split_above(Plan *node, List *quals, PpPlanContext *context)
{
	PpLeaves leaves = {.distinct = true};
	List *tlist = (List *) pp_plan_leaves((Node *) node->targetlist, &leaves);
	List *upper_quals = (List *) pp_plan_leaves((Node *) quals, &leaves);
	Plan *plan = node;
	int n_leaves;
	ListCell *lc;

	node->targetlist = leaves.leaves;
	n_leaves = list_length(leaves.leaves);
	foreach (lc, upper_quals)
		plan = stack_qual(plan, lfirst(lc), context);
	(void) pp_plan_stack_calls(&plan, (Node **) &tlist, false, context);
	if (plan != node && IsA(plan, CustomScan) && list_length(plan->targetlist) >= n_leaves)
	{
		plan->targetlist = (List *) pp_plan_renumber((Node *) tlist, OUTER_VAR, INDEX_VAR);
		return plan;
	}
	return pp_plan_make_projection(plan, tlist, context);
}

/* ---- insert below ------------------------------------------------------------------------ */

/* Gives the calls in a node's expression list their columns from below. */
static void
insert_below(Plan *node, List **exprs, bool in_aggregates, PpPlanContext *context)
{
	(void) pp_plan_stack_calls(&node->lefttree, (Node **) exprs, in_aggregates, context);
}

/* ---- the walk ---------------------------------------------------------------------------- */

/* Walks a list of plans. */
static void
walk_plans(List *plans, PpPlanContext *context)
{
	ListCell *lc;

	foreach (lc, plans)
		lfirst(lc) = walk_plan(lfirst(lc), context);
}

/* Walks the children of a node, wherever its kind keeps them. */
static void
walk_children(Plan *plan, PpPlanContext *context)
{
	plan->lefttree = walk_plan(plan->lefttree, context);
	plan->righttree = walk_plan(plan->righttree, context);
	switch (nodeTag(plan))
	{
		case T_Append:
			walk_plans(((Append *) plan)->appendplans, context);
			break;
		case T_MergeAppend:
			walk_plans(((MergeAppend *) plan)->mergeplans, context);
			break;
		case T_SubqueryScan:
			((SubqueryScan *) plan)->subplan = walk_plan(((SubqueryScan *) plan)->subplan, context);
			break;
		case T_CustomScan:
			walk_plans(((CustomScan *) plan)->custom_plans, context);
			break;
		default:
			break;
	}
}

/*
 * The call quals that may move above the node: its filter, and the conditions of an inner join. The
 * planner may have proved by one of these that an outer row has one partner at most; without it the
 * first candidate is not the only one.
 */
static List *
movable_quals(Plan *plan)
{
	List *quals = NIL;

	if ((IsA(plan, NestLoop) || IsA(plan, HashJoin) || IsA(plan, MergeJoin)) &&
	    ((Join *) plan)->jointype == JOIN_INNER)
	{
		quals = pp_plan_take_call_quals(&((Join *) plan)->joinqual);
		if (quals != NIL)
			((Join *) plan)->inner_unique = false;
	}
	return list_concat(quals, pp_plan_take_call_quals(&plan->qual));
}

/* Splits a node if it has calls to give. */
static Plan *
split_if_calls(Plan *plan, PpPlanContext *context)
{
	List *quals = movable_quals(plan);

	if (quals == NIL && !pp_batch_contains_call((Node *) plan->targetlist))
		return plan;
	return split_above(plan, quals, context);
}

/*
 * Aggregates and window functions: their arguments get columns from below, what they give goes
 * above.
 */
static Plan *
walk_grouping(Plan *plan, PpPlanContext *context)
{
	List *exprs = list_make2(plan->targetlist, plan->qual);

	insert_below(plan, &exprs, true, context);
	plan->targetlist = linitial(exprs);
	plan->qual = lsecond(exprs);
	return split_if_calls(plan, context);
}

/* The operands of hash clauses on one side of a join: the first are the outer plan's. */
static List *
hash_operands(const HashJoin *join, int side)
{
	List *operands = NIL;
	ListCell *lc;

	foreach (lc, join->hashclauses)
		operands = lappend(operands, list_nth(lfirst_node(OpExpr, lc)->args, side));
	return operands;
}

/* Puts them back. */
static void
set_hash_operands(HashJoin *join, int side, List *operands)
{
	ListCell *clause, *operand;

	forboth(clause, join->hashclauses, operand, operands)
	    lfirst(list_nth_cell(lfirst_node(OpExpr, clause)->args, side)) = lfirst(operand);
}

/*
 * Hash joins: every row of either side needs its key, so calls in keys get columns from below, on
 * the inner side from below the Hash node, which passes them on.
 */
static void
walk_hash_keys(HashJoin *join, PpPlanContext *context)
{
	Hash *hash = (Hash *) join->join.plan.righttree;
	List *outer = list_make2(hash_operands(join, 0), join->hashkeys);
	List *inner =
	    list_make2(pp_plan_renumber((Node *) hash_operands(join, 1), INNER_VAR, OUTER_VAR),
	               hash->hashkeys);

	if (pp_plan_stack_calls(&join->join.plan.lefttree, (Node **) &outer, false, context))
	{
		set_hash_operands(join, 0, linitial(outer));
		join->hashkeys = lsecond(outer);
	}
	if (pp_plan_stack_calls(&hash->plan.lefttree, (Node **) &inner, false, context))
	{
		set_hash_operands(join, 1,
		                  (List *) pp_plan_renumber(linitial(inner), OUTER_VAR, INNER_VAR));
		hash->hashkeys = lsecond(inner);
		hash->plan.targetlist = pp_plan_pass_through(hash->plan.lefttree->targetlist, OUTER_VAR);
	}
}

/* Joins: all but an inner one leave the calls of their conditions to nodes of their own above. */
static Plan *
walk_join(Plan *plan, PpPlanContext *context)
{
	return split_if_calls(pp_plan_split_join(plan, context), context);
}

/* True for nodes of ours, none of which can be marked and restored. */
static bool
is_ours(const Plan *plan)
{
	const CustomScanMethods *methods;

	if (!IsA(plan, CustomScan))
		return false;
	methods = ((const CustomScan *) plan)->methods;
	return methods == &pp_batch_scan_methods || methods == &pp_settle_scan_methods ||
	       methods == &pp_semi_scan_methods;
}

/*
 * Set-returning functions: only calls in their arguments, and beside them, can be hoisted: all from
 * below.
 */
static Plan *
walk_project_set(Plan *plan, PpPlanContext *context)
{
	if (pp_batch_contains_call((Node *) plan->targetlist))
		insert_below(plan, &plan->targetlist, false, context);
	return plan;
}

/* RETURNING lists: the node returns the leaves, the calls are made above it. */
static Plan *
walk_modify_table(ModifyTable *node, PpPlanContext *context)
{
	List *lists = NIL;
	List *tlist = NIL;
	Plan *plan = &node->plan;
	ListCell *lc;

	if (!pp_batch_contains_call((Node *) node->returningLists))
		return plan;

	/*
	 * Each target relation has its own list; leaves are kept in order and not shared, so that they
	 * line up.
	 */
	foreach (lc, node->returningLists)
	{
		PpLeaves leaves = {.distinct = false};
		List *upper = (List *) pp_plan_leaves(lfirst(lc), &leaves);

		if (tlist == NIL)
			tlist = upper;
		lists = lappend(lists, leaves.leaves);
	}
	node->returningLists = lists;
	node->plan.targetlist = linitial(lists);
	(void) pp_plan_stack_calls(&plan, (Node **) &tlist, false, context);
	if (plan == &node->plan)
		return pp_plan_make_projection(plan, tlist, context);
	plan->targetlist = (List *) pp_plan_renumber((Node *) tlist, OUTER_VAR, INDEX_VAR);
	return plan;
}

/* Rewrites a plan tree bottom up. */
static Plan *
walk_plan(Plan *plan, PpPlanContext *context)
{
	if (plan == NULL)
		return NULL;
	check_stack_depth();
	walk_children(plan, context);
	switch (nodeTag(plan))
	{
		case T_Agg:
		case T_Group:
		case T_WindowAgg:
			return walk_grouping(plan, context);
		case T_ProjectSet:
			return walk_project_set(plan, context);
		case T_ModifyTable:
			return walk_modify_table((ModifyTable *) plan, context);
		case T_NestLoop:
			pp_plan_lift_operands((NestLoop *) plan, context);
			return walk_join(plan, context);
		case T_MergeJoin:
			if (is_ours(plan->righttree))
				plan->righttree = pp_plan_materialise(plan->righttree, context);
			return walk_join(plan, context);
		case T_HashJoin:
			if (pp_batch_contains_call((Node *) ((HashJoin *) plan)->hashclauses))
				walk_hash_keys((HashJoin *) plan, context);
			return walk_join(plan, context);
		case T_Result:
			/* Without an outer plan there is one row and nothing to batch. */
			return plan->lefttree != NULL ? split_if_calls(plan, context) : plan;
		case T_SeqScan:
		case T_SampleScan:
		case T_IndexScan:
		case T_IndexOnlyScan:
		case T_BitmapHeapScan:
		case T_TidScan:
		case T_TidRangeScan:
		case T_SubqueryScan:
		case T_FunctionScan:
		case T_ValuesScan:
		case T_TableFuncScan:
		case T_CteScan:
		case T_NamedTuplestoreScan:
		case T_WorkTableScan:
		case T_ForeignScan:
		case T_Gather:
		case T_GatherMerge:
			return split_if_calls(plan, context);
		default:
			return plan;
	}
}

/* The highest plan_node_id in a tree. */
static int
max_node_id(const Plan *plan)
{
	int max;
	List *others = NIL;
	ListCell *lc;

	if (plan == NULL)
		return 0;
	max = Max(plan->plan_node_id, Max(max_node_id(plan->lefttree), max_node_id(plan->righttree)));
	if (IsA(plan, Append))
		others = ((Append *) plan)->appendplans;
	else if (IsA(plan, MergeAppend))
		others = ((MergeAppend *) plan)->mergeplans;
	else if (IsA(plan, SubqueryScan))
		others = list_make1(((SubqueryScan *) plan)->subplan);
	else if (IsA(plan, CustomScan))
		others = ((CustomScan *) plan)->custom_plans;
	foreach (lc, others)
		max = Max(max, max_node_id(lfirst(lc)));
	return max;
}

/*
 * True when the query uses one of our functions at all: the cheap test that most statements end
 * with.
 */
static bool query_has_calls(Query *query);

/* Walker over queries and expressions. */
static bool
query_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
		return query_has_calls((Query *) node);
	if (IsA(node, FuncExpr) && pp_batch_call_type((FuncExpr *) node) != NULL)
		return true;
	return expression_tree_walker(node, query_walker, context);
}

/* Looks through a query and all its subqueries. */
static bool
query_has_calls(Query *query)
{
	return query_tree_walker(query, query_walker, NULL, 0);
}

/*
 * Takes back just-in-time compilation that the plan owes to the calls alone: they make it look
 * expensive, but their time passes in the engine, and compiling costs a tenth of a second and some
 * 10 MB.
 */
static void
reconsider_jit(PlannedStmt *stmt, Cost cost)
{
	if (cost <= jit_above_cost)
		stmt->jitFlags = PGJIT_NONE;
	if (cost <= jit_optimize_above_cost)
		stmt->jitFlags &= ~PGJIT_OPT3;
	if (cost <= jit_inline_above_cost)
		stmt->jitFlags &= ~PGJIT_INLINE;
}

/* Adds Batch nodes to a finished plan. */
static void
add_batches(PlannedStmt *stmt, int cursor_options)
{
	PpPlanContext context = {.stmt = stmt};
	Cost cost = stmt->planTree->total_cost;
	ListCell *lc;

	context.next_id = max_node_id(stmt->planTree) + 1;
	foreach (lc, stmt->subplans)
		context.next_id = Max(context.next_id, max_node_id(lfirst(lc)) + 1);
	stmt->planTree = walk_plan(stmt->planTree, &context);
	foreach (lc, stmt->subplans)
		lfirst(lc) = walk_plan(lfirst(lc), &context);
	reconsider_jit(stmt, cost - context.call_cost);
	if (context.changed && (cursor_options & CURSOR_OPT_SCROLL) &&
	    !ExecSupportsBackwardScan(stmt->planTree))
		stmt->planTree = pp_plan_materialise(stmt->planTree, &context);
}

/* Plans a statement, then adds Batch nodes if it has calls. */
static PlannedStmt *
batch_planner(Query *parse, const char *query_string, int cursor_options, ParamListInfo params)
{
	bool has_calls = pp_enabled && query_has_calls(parse);
	PlannedStmt *stmt;

	if (prev_planner_hook)
		stmt = prev_planner_hook(parse, query_string, cursor_options, params);
	else
		stmt = standard_planner(parse, query_string, cursor_options, params);
	if (has_calls)
		add_batches(stmt, cursor_options);
	return stmt;
}

/* Installs the hook, and registers the node for copies of plans. */
void
pp_batch_install(void)
{
	RegisterCustomScanMethods(&pp_batch_scan_methods);
	RegisterCustomScanMethods(&pp_number_scan_methods);
	RegisterCustomScanMethods(&pp_settle_scan_methods);
	RegisterCustomScanMethods(&pp_rounds_scan_methods);
	RegisterCustomScanMethods(&pp_semi_scan_methods);
	prev_planner_hook = planner_hook;
	planner_hook = batch_planner;
}
