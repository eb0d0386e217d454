/*
 * batch_lift.c: calls in the index conditions of a nested loop's inner side.
 *
 *	SELECT … FROM ticket t JOIN category c ON c.name = prepack.classify(t.body, …)
 *
 * With an index on c.name the planner looks each answer up: for every row of the outer side the
 * inner side is scanned anew, and the condition's operand, the call, is a parameter's expression
 * that is evaluated on the way, one call at a time. But it depends on the outer row alone, and
 * every outer row needs it: so a Batch node on the outer side computes it ahead, in a column that
 * the join hands on as one more parameter.
 *
 *	Nested Loop
 *	  Prepack Batch			the operand, for rows in batches
 *	    Seq Scan on t
 *	  Memoize				its key is the parameter now
 *	    Index Scan on c		name = parameter
 *
 * The operand is lifted as a whole, so that calls in it stand under the conditions that they stood
 * under before.
 */
#include "batch_plan.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"

/* One operand on its way up. */
typedef struct Lift
{
	const NestLoop *join;
	Node *operand; /* over the join's parameters; NULL: none found */
	Param *param;  /* what takes its place */
} Lift;

/* The column of the outer side that a parameter of the join stands for, or NULL. */
static Var *
column_of_param(const NestLoop *join, const Param *param)
{
	ListCell *lc;

	foreach (lc, join->nestParams)
	{
		const NestLoopParam *p = lfirst(lc);

		if (param->paramkind == PARAM_EXEC && p->paramno == param->paramid)
			return p->paramval;
	}
	return NULL;
}

/* Walker: is there anything that the outer side does not know? */
static bool
is_foreign(Node *node, const NestLoop *join)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
		return ((Param *) node)->paramkind != PARAM_EXTERN &&
		       column_of_param(join, (Param *) node) == NULL;
	if (IsA(node, Var) || IsA(node, SubPlan) || IsA(node, AlternativeSubPlan))
		return true;
	return expression_tree_walker(node, is_foreign, (void *) join);
}

/* Looks through index conditions for an operand to lift. */
static void
find_operand(List *quals, Lift *lift)
{
	ListCell *lc;

	foreach (lc, quals)
	{
		Node *qual = lfirst(lc);
		List *args = IsA(qual, OpExpr)              ? ((OpExpr *) qual)->args
		             : IsA(qual, ScalarArrayOpExpr) ? ((ScalarArrayOpExpr *) qual)->args
		                                            : NIL;

		if (lift->operand == NULL && list_length(args) == 2 &&
		    pp_batch_contains_call(lsecond(args)) && !is_foreign(lsecond(args), lift->join) &&
		    !contain_volatile_functions(lsecond(args)))
			lift->operand = lsecond(args);
	}
}

/* Mutator: puts the parameter in the operand's place. */
static Node *
replace_mutator(Node *node, Lift *lift)
{
	if (node == NULL)
		return NULL;
	if (equal(node, lift->operand))
		return (Node *) copyObject(lift->param);
	return expression_tree_mutator(node, replace_mutator, lift);
}

/* Does so in a list, if there is a parameter yet; else looks for an operand. */
static List *
lift_from(List *quals, Lift *lift)
{
	if (lift->param != NULL)
		return (List *) replace_mutator((Node *) quals, lift);
	find_operand(quals, lift);
	return quals;
}

/* A plan of a bitmap's indexes. */
static void
lift_from_bitmap(Plan *plan, Lift *lift)
{
	List *plans = IsA(plan, BitmapAnd)  ? ((BitmapAnd *) plan)->bitmapplans
	              : IsA(plan, BitmapOr) ? ((BitmapOr *) plan)->bitmapplans
	                                    : NIL;
	ListCell *lc;

	foreach (lc, plans)
		lift_from_bitmap(lfirst(lc), lift);
	if (IsA(plan, BitmapIndexScan))
	{
		BitmapIndexScan *scan = (BitmapIndexScan *) plan;

		scan->indexqual = lift_from(scan->indexqual, lift);
		if (lift->param != NULL)
			scan->indexqualorig = lift_from(scan->indexqualorig, lift);
	}
}

/*
 * Goes down the inner side to its scan, past nodes that read all of what is below at once or row by
 * row, and so ask for every key that the scan has. First to find an operand, then to put the
 * parameter in its place; the nodes on the way learn that they depend on it.
 */
static void
lift_from_inner(Plan *plan, Lift *lift)
{
	if (plan == NULL)
		return;
	switch (nodeTag(plan))
	{
		case T_Memoize:
		case T_Material:
		case T_Sort:
		case T_IncrementalSort:
		case T_Unique:
		case T_Group:
		case T_Agg:
		case T_WindowAgg:
		case T_Limit:
		case T_CustomScan:
			lift_from_inner(plan->lefttree, lift);
			break;
		case T_SubqueryScan:
			lift_from_inner(((SubqueryScan *) plan)->subplan, lift);
			break;
		case T_IndexScan:
		{
			IndexScan *scan = (IndexScan *) plan;

			scan->indexqual = lift_from(scan->indexqual, lift);
			if (lift->param != NULL)
				scan->indexqualorig = lift_from(scan->indexqualorig, lift);
			break;
		}
		case T_IndexOnlyScan:
		{
			IndexOnlyScan *scan = (IndexOnlyScan *) plan;

			scan->indexqual = lift_from(scan->indexqual, lift);
			if (lift->param != NULL)
				scan->recheckqual = lift_from(scan->recheckqual, lift);
			break;
		}
		case T_BitmapHeapScan:
			lift_from_bitmap(plan->lefttree, lift);
			if (lift->param != NULL)
				((BitmapHeapScan *) plan)->bitmapqualorig =
				    lift_from(((BitmapHeapScan *) plan)->bitmapqualorig, lift);
			break;
		default:
			return;
	}
	if (lift->param == NULL)
		return;
	plan->extParam = bms_add_member(plan->extParam, lift->param->paramid);
	plan->allParam = bms_add_member(plan->allParam, lift->param->paramid);
	if (IsA(plan, Memoize))
	{
		Memoize *memoize = (Memoize *) plan;

		/* What the operand was made of stays among them: its change alone empties no cache. */
		memoize->param_exprs = lift_from(memoize->param_exprs, lift);
		memoize->keyparamids = bms_add_member(memoize->keyparamids, lift->param->paramid);
	}
}

/* Mutator: the operand over the columns of the outer side. */
static Node *
columns_mutator(Node *node, NestLoop *join)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXEC)
		return (Node *) copyObject(column_of_param(join, (Param *) node));
	return expression_tree_mutator(node, columns_mutator, join);
}

/* Adds a column with an expression to the outer side; false: nothing in it can be batched. */
static bool
add_column(NestLoop *join, Node *expr, Var **column, PpPlanContext *context)
{
	Plan **outer = &join->join.plan.lefttree;
	TargetEntry *tle;
	List *tlist;

	if (!pp_plan_stack_calls(outer, &expr, false, context))
		return false;
	if (IsA(expr, Var))
	{
		*column = (Var *) expr;
		return true;
	}
	tlist = pp_plan_pass_through((*outer)->targetlist, OUTER_VAR);
	tle = makeTargetEntry((Expr *) expr, list_length(tlist) + 1, NULL, false);
	*outer = pp_plan_make_projection(*outer, lappend(tlist, tle), context);
	*column =
	    makeVar(OUTER_VAR, tle->resno, exprType(expr), exprTypmod(expr), exprCollation(expr), 0);
	return true;
}

/* Makes a parameter of an operand's type. */
static Param *
make_param(Node *operand, PpPlanContext *context)
{
	Param *param = makeNode(Param);

	param->paramkind = PARAM_EXEC;
	param->paramid = list_length(context->stmt->paramExecTypes);
	param->paramtype = exprType(operand);
	param->paramtypmod = exprTypmod(operand);
	param->paramcollid = exprCollation(operand);
	param->location = -1;
	context->stmt->paramExecTypes = lappend_oid(context->stmt->paramExecTypes, param->paramtype);
	return param;
}

/* Lifts the operands with calls out of a nested loop's inner side, one after the other. */
void
pp_plan_lift_operands(NestLoop *join, PpPlanContext *context)
{
	for (;;)
	{
		Lift lift = {.join = join};
		NestLoopParam *handed;
		Var *column;

		lift_from_inner(join->join.plan.righttree, &lift);
		if (lift.operand == NULL ||
		    !add_column(join, columns_mutator(lift.operand, join), &column, context))
			return;
		lift.param = make_param(lift.operand, context);
		handed = makeNode(NestLoopParam);
		handed->paramno = lift.param->paramid;
		handed->paramval = column;
		join->nestParams = lappend(join->nestParams, handed);
		lift_from_inner(join->join.plan.righttree, &lift);
	}
}
