/*
 * speql_equal.c: what may be asked of a value that stands for several equal ones.
 *
 * Equality is not identity for every type: the numerics 1.0 and 1.00, the floats 0 and -0, the
 * intervals '1 day' and '24 hours', texts under a nondeterministic collation. A grouped table, or
 * one of distinct rows, shows one of them for all. So a block over it may group by such a value as
 * the table does, may compare it by operators of the family whose equality made the groups, and may
 * aggregate it; but a group by its text, or a condition on its scale, must see every row.
 */
#include "speql_match.h"

#include "access/nbtree.h"
#include "catalog/pg_am.h"
#include "commands/defrem.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"

/* ---- an equality that changed ------------------------------------------------------------- */

/* True when rows were made distinct by another equality than the one that their types have now. */
static bool
regrouped(List *clauses, List *target_list)
{
	ListCell *lc;

	foreach (lc, clauses)
	{
		const SortGroupClause *clause = lfirst(lc);
		Oid type = exprType(get_sortgroupclause_expr(lfirst(lc), target_list));

		if (clause->eqop != lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr)
			return true;
	}
	return false;
}

/* Walker over a definition: groups, rows and aggregates' arguments that are distinct. */
static bool
regrouped_walker(Node *node, void *context)
{
	Query *query = (Query *) node;

	if (node == NULL)
		return false;
	if (IsA(node, Aggref))
		if (regrouped(castNode(Aggref, node)->aggdistinct, castNode(Aggref, node)->args))
			return true;
	if (!IsA(node, Query))
		return expression_tree_walker(node, regrouped_walker, context);
	return regrouped(query->groupClause, query->targetList) ||
	       regrouped(query->distinctClause, query->targetList) ||
	       query_tree_walker(query, regrouped_walker, context, 0);
}

/* A type may get an operator class later, whose equality GROUP BY and DISTINCT then mean. */
bool
speql_equality_changed(const Query *definition)
{
	return regrouped_walker((Node *) unconstify(Query *, definition), NULL);
}

/* ---- what may be asked ---------------------------------------------------------------------- */

typedef struct Asking
{
	const SpeqlMapping *m;
	List *blurred; /* expressions whose values stand for others, in q's numbering */
	int depth;     /* of subqueries */
} Asking;

/* The outputs of the table, among what makes its rows differ, that may stand for others. */
static List *
blurred_outputs(const SpeqlMapping *m)
{
	List *candidates = m->v->aggregated              ? m->groups
	                   : m->v->query->distinctClause ? m->outputs
	                                                 : NIL;
	List *blurred = NIL;
	ListCell *lc;

	foreach (lc, candidates)
		if (!speql_equal_is_identical(exprType(lfirst(lc)), exprCollation(lfirst(lc))))
			blurred = lappend(blurred, lfirst(lc));
	return blurred;
}

/* The blurred expression that a node is, or NULL. */
static Node *
blurred_as(const Asking *a, Node *node)
{
	Node *own = node;

	if (a->depth > 0)
	{
		if (!IsA(node, Var) || (int) castNode(Var, node)->varlevelsup != a->depth)
			return NULL;
		own = copyObject(node);
		castNode(Var, own)->varlevelsup = 0;
	}
	return list_member(a->blurred, own) ? own : NULL;
}

/* True for an operator that cannot tell equal values of an operand apart. */
static bool
respects_equality(Oid operator, Oid collation, Node *operand)
{
	Oid opclass = GetDefaultOpClass(exprType(operand), BTREE_AM_OID), family, negator;

	if (!OidIsValid(opclass) || collation != exprCollation(operand))
		return false;
	family = get_opclass_family(opclass);
	negator = get_negator(operator); /* <> is in no family, its negator is */
	return op_in_opfamily(operator, family) ||
	       (OidIsValid(negator) && op_in_opfamily(negator, family));
}

static bool asks(Node *node, void *arg);

/* The same of the operands of an operator: those that it treats by their equality are no matter. */
static bool
operator_asks(Asking *a, Oid operator, Oid collation, List *operands)
{
	ListCell *lc;

	foreach (lc, operands)
	{
		Node *operand = blurred_as(a, lfirst(lc));

		if (operand ? !respects_equality(operator, collation, operand) : asks(lfirst(lc), a))
			return true;
	}
	return false;
}

/* True when an aggregate is in the table, or made of parts that are. */
static bool
is_derived(const SpeqlMapping *m, Aggref *agg)
{
	List *parts = speql_rollup_parts(agg);
	ListCell *lc;

	if (speql_output_column(m, (Node *) agg, m->q->classes) != 0)
		return true;
	foreach (lc, parts)
		if (speql_output_column(m, lfirst(lc), m->q->classes) == 0)
			return false;
	return parts != NIL;
}

/* True when an expression asks more of a blurred value than equality tells. A walker. */
static bool
asks(Node *node, void *arg)
{
	Asking *a = arg;
	bool found;

	if (node == NULL)
		return false;
	if (blurred_as(a, node))
		return true;
	switch (nodeTag(node))
	{
		case T_OpExpr:
		case T_DistinctExpr:
			return operator_asks(a, ((OpExpr *) node)->opno, ((OpExpr *) node)->inputcollid,
			                     ((OpExpr *) node)->args);
		case T_ScalarArrayOpExpr:
			return operator_asks(a, castNode(ScalarArrayOpExpr, node)->opno,
			                     castNode(ScalarArrayOpExpr, node)->inputcollid,
			                     castNode(ScalarArrayOpExpr, node)->args);
		case T_NullTest:
			return !blurred_as(a, (Node *) castNode(NullTest, node)->arg) &&
			       asks((Node *) castNode(NullTest, node)->arg, arg);
		case T_Query:
			a->depth++;
			found = query_tree_walker(castNode(Query, node), asks, arg, 0);
			a->depth--;
			return found;
		default:
			return expression_tree_walker(node, asks, arg);
	}
}

/* The same of aggregates' arguments only, of those that run over the table's groups. */
static bool
aggregate_asks(Node *node, void *arg)
{
	Asking *a = arg;
	ListCell *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Aggref))
		return expression_tree_walker(node, aggregate_asks, arg);
	if (is_derived(a->m, castNode(Aggref, node)))
		return false;
	foreach (lc, castNode(Aggref, node)->args)
	{
		Node *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		if (!blurred_as(a, expr) && asks(expr, arg))
			return true;
	}
	return asks((Node *) castNode(Aggref, node)->aggfilter, arg);
}

/* True when one of several expressions is neither a blurred one nor without any. */
static bool
any_asks(Asking *a, List *exprs)
{
	ListCell *lc;

	foreach (lc, exprs)
		if (!blurred_as(a, lfirst(lc)) && asks(lfirst(lc), a))
			return true;
	return false;
}

/* The expressions of a target list. */
static List *
expressions_of(List *target_list)
{
	List *exprs = NIL;
	ListCell *lc;

	foreach (lc, target_list)
		exprs = lappend(exprs, lfirst_node(TargetEntry, lc)->expr);
	return exprs;
}

/* Looks at conditions, groups, aggregates, and at the result of a block of distinct rows. */
bool
speql_asks_beyond_equality(const SpeqlMapping *m)
{
	Asking a = {.m = m, .blurred = blurred_outputs(m)};
	const Query *q = m->q->query;

	if (a.blurred == NIL)
		return false;
	if (asks((Node *) m->compensation, &a))
		return true;
	if (!m->v->aggregated)
		return any_asks(&a, expressions_of(q->targetList));
	return any_asks(&a, m->q->groups) || aggregate_asks((Node *) q->targetList, &a) ||
	       aggregate_asks(q->havingQual, &a);
}
