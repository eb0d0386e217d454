/*
 * batch_join.c: outer, semi and anti joins whose condition has calls.
 *
 * Such a condition cannot move above the join as an inner join's does: a row that the condition
 * leaves without a partner must still come once, with NULLs. So the join keeps its kind but gives
 * up the calls, and returns candidates: pairs that the rest of the condition accepts, and rows that
 * find not even a candidate. Batch nodes above make the candidates' calls, and the Outer Join node
 * on top (batch_settle.c) returns the accepted pairs and extends rows that have none by NULLs:
 *
 *	Prepack Outer Join		what was the join's: target list, filter, and this part of ON
 *	  Prepack Batch			the calls, guarded: candidates only, earlier conditions true
 *	    Hash Left Join		the rest of ON
 *	      Prepack Row Number	… over each side: tells rows of equal values apart
 *
 * The calls are those that the join would have made, no more, each candidate's being needed.
 *
 * Semi and anti joins (EXISTS, IN, NOT EXISTS) stop at the first match, and so do not need every
 * candidate's calls. Their candidates pass through a node that hands them on in rounds
 * (batch_rounds.c), the next of each outer row that is still undecided:
 *
 *	Prepack Semi Join		judges, drives the rounds, returns outer rows
 *	  Prepack Batch			the calls of a round
 *	    Prepack Rounds		buffers candidates of many outer rows
 *	      Hash Join			the rest of the condition; a left join for an anti join
 *
 * Their right-handed kinds, for which the rows of the hash table are the outer ones, find the
 * candidates of a row at any time. They stay as they are.
 */
#include "batch_plan.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"

/* True for joins that stop at an outer row's first partner. */
static bool
stops_early(JoinType type)
{
	return type == JOIN_SEMI || type == JOIN_ANTI;
}

/* Puts a node on a plan that passes its columns through, and may add some. */
static Plan *
make_above(Plan *outer, List *added, const CustomScanMethods *methods, PpPlanContext *context)
{
	CustomScan *node = makeNode(CustomScan);

	node->custom_scan_tlist =
	    list_concat(pp_plan_pass_through(outer->targetlist, OUTER_VAR), added);
	node->scan.plan.targetlist = pp_plan_pass_through(node->custom_scan_tlist, INDEX_VAR);
	node->scan.plan.lefttree = outer;
	node->scan.plan.plan_node_id = context->next_id++;
	node->methods = methods;
	pp_plan_set_costs(&node->scan.plan, outer, 0);
	return (Plan *) node;
}

/* Puts a node on a plan that adds one column, the number of the row. */
static Plan *
number_rows(Plan *outer, PpPlanContext *context)
{
	Const *number =
	    makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(0), false, FLOAT8PASSBYVAL);
	AttrNumber column = list_length(outer->targetlist) + 1;

	return make_above(outer, list_make1(makeTargetEntry((Expr *) number, column, NULL, true)),
	                  &pp_number_scan_methods, context);
}

/*
 * Numbers the rows of both sides of a join; the inner side is read in the way that its kind asks.
 */
static void
number_sides(Plan *join, PpPlanContext *context)
{
	join->lefttree = number_rows(join->lefttree, context);
	if (IsA(join, HashJoin))
	{
		Plan *hash = join->righttree;

		hash->lefttree = number_rows(hash->lefttree, context);
		hash->targetlist = pp_plan_pass_through(hash->lefttree->targetlist, OUTER_VAR);
		return;
	}
	join->righttree = number_rows(join->righttree, context);
	if (IsA(join, MergeJoin))
		join->righttree = pp_plan_materialise(join->righttree, context);
}

/* The number's column on one side of a join. */
static Expr *
number_column(const Plan *side, int varno)
{
	return (Expr *) makeVar(varno, list_length(side->targetlist), INT8OID, -1, InvalidOid, 0);
}

/* number IS NOT NULL: the row is a candidate as far as this side goes. */
static Node *
is_there(Expr *number)
{
	NullTest *test = makeNode(NullTest);

	test->arg = number;
	test->nulltesttype = IS_NOT_NULL;
	test->argisrow = false;
	test->location = -1;
	return (Node *) test;
}

/* Conditions as a list that hoisting takes for one AND: each stands behind those before it. */
static List *
all_true(List *quals)
{
	List *tests = NIL;
	ListCell *lc;

	foreach (lc, quals)
		tests = lappend(tests, pp_batch_test_bool(lfirst(lc), IS_TRUE));
	return tests;
}

/* True when at least one call in the conditions can be batched. */
static bool
can_batch(List *quals)
{
	PpHoist hoist = {.first_column = 1};

	(void) pp_batch_hoist((Node *) make_ands_explicit(all_true(quals)), &hoist, false);
	return hoist.calls != NIL;
}

/* Which side of the join each of the columns comes from. */
static List *
sides_of(List *leaves)
{
	List *sides = NIL;
	ListCell *lc;

	foreach (lc, leaves)
	{
		Var *var = (Var *) lfirst_node(TargetEntry, lc)->expr;

		Assert(IsA(var, Var) && (var->varno == OUTER_VAR || var->varno == INNER_VAR));
		sides = lappend_int(sides, var->varno == OUTER_VAR ? PP_SIDE_OUTER : PP_SIDE_INNER);
	}
	return sides;
}

/* The conditions themselves, out of the tests that the calls were hoisted from. */
static List *
conditions_of(Node *tests, int n_before)
{
	List *conditions = NIL;
	ListCell *lc;

	for_each_from(lc, castNode(BoolExpr, tests)->args, n_before) conditions =
	    lappend(conditions, lfirst_node(BooleanTest, lc)->arg);
	return conditions;
}

/* Makes the Outer or Semi Join node; everything is over OUTER_VAR of the plan below it. */
static Plan *
make_settle(Plan *outer, JoinType type, List *conditions, List *sides, List *tlist, List *quals,
            PpPlanContext *context)
{
	CustomScan *node = makeNode(CustomScan);

	node->custom_scan_tlist = pp_plan_pass_through(outer->targetlist, OUTER_VAR);
	node->scan.plan.targetlist = (List *) pp_plan_renumber((Node *) tlist, OUTER_VAR, INDEX_VAR);
	node->scan.plan.qual = (List *) pp_plan_renumber((Node *) quals, OUTER_VAR, INDEX_VAR);
	node->scan.plan.lefttree = outer;
	node->scan.plan.plan_node_id = context->next_id++;
	node->custom_exprs = conditions;
	node->custom_private = list_make2(makeInteger(type), sides);
	node->methods = stops_early(type) ? &pp_semi_scan_methods : &pp_settle_scan_methods;
	pp_plan_set_costs(&node->scan.plan, outer, 0);
	return (Plan *) node;
}

/* True for joins that know how to leave their conditions to nodes above. */
static bool
can_split(JoinType type)
{
	return type == JOIN_LEFT || type == JOIN_RIGHT || type == JOIN_FULL || stops_early(type);
}

/* Splits a join into one that finds candidates and the nodes that judge them. */
Plan *
pp_plan_split_join(Plan *plan, PpPlanContext *context)
{
	Join *join = (Join *) plan;
	JoinType type = join->jointype;
	List *kept = join->joinqual;
	List *taken = pp_plan_take_call_quals(&kept);
	PpLeaves leaves = {.distinct = true};
	List *numbers;
	List *tlist;
	List *quals;
	Node *tests;
	Plan *top = plan;

	if (!can_split(type) || taken == NIL || !can_batch(taken))
		return plan;
	number_sides(plan, context);
	numbers = list_make2(number_column(outerPlan(plan), OUTER_VAR),
	                     number_column(innerPlan(plan), INNER_VAR));
	/*
	 * Columns of the join: the numbers, PP_OUTER_NUMBER and PP_INNER_NUMBER, then what is needed.
	 */
	numbers = (List *) pp_plan_leaves((Node *) numbers, &leaves);
	tlist = (List *) pp_plan_leaves((Node *) plan->targetlist, &leaves);
	quals = (List *) pp_plan_leaves((Node *) plan->qual, &leaves);
	taken = (List *) pp_plan_leaves((Node *) taken, &leaves);
	plan->targetlist = leaves.leaves;
	plan->qual = NIL;
	join->joinqual = kept;
	join->inner_unique = false; /* the conditions taken may have been what made it so */

	if (stops_early(type))
	{
		join->jointype = type == JOIN_SEMI ? JOIN_INNER : JOIN_LEFT;
		top = make_above(plan, NIL, &pp_rounds_scan_methods, context);
	}
	tests = (Node *) make_ands_explicit(
	    list_concat(list_make2(is_there(linitial(numbers)), is_there(lsecond(numbers))),
	                all_true(taken)));
	(void) pp_plan_stack_calls(&top, &tests, false, context);
	return make_settle(top, type, conditions_of(tests, list_length(numbers)),
	                   sides_of(leaves.leaves), tlist, quals, context);
}
