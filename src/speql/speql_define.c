/*
 * speql_define.c: what a table should hold so that it answers a block, and edits of it.
 *
 * A plain block is stored as the columns that it reads, so that its expressions can change; a
 * grouped one as its groups and aggregates, so that expressions over them can. A superset leaves
 * conditions out: a plain one keeps their columns, a grouped one groups by them, too, and has the
 * aggregates in parts that can be added up. Only columns that the block itself reads are used: the
 * role may read those.
 *
 * Nothing that depends on more than the rows goes into a table: a condition with now() is left out
 * and tested on top, a block whose result cannot do without is refused.
 */
#include "speql_match.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "parser/parse_oper.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "speql_calls.h"

/* ---- collecting -------------------------------------------------------------------------- */

typedef struct Collect
{
	List *aggregates;
	List *columns; /* Vars */
	int depth;
} Collect;

/* Collects aggregates of the block itself and its columns, those in subqueries included. */
static bool
collect_walker(Node *node, void *arg)
{
	Collect *c = arg;
	bool result;

	if (node == NULL)
		return false;
	if (IsA(node, Var) && (int) castNode(Var, node)->varlevelsup == c->depth)
	{
		Var *var = copyObject(castNode(Var, node));

		var->varlevelsup = 0;
		c->columns = list_append_unique(c->columns, var);
		return false;
	}
	if (IsA(node, Aggref) && c->depth == 0)
		c->aggregates = list_append_unique(c->aggregates, node);
	if (!IsA(node, Query))
		return expression_tree_walker(node, collect_walker, arg);
	c->depth++;
	result = query_tree_walker(castNode(Query, node), collect_walker, arg, 0);
	c->depth--;
	return result;
}

/* The columns that an expression reads. */
static List *
columns_of(Node *node)
{
	Collect c = {NIL, NIL, 0};

	(void) collect_walker(node, &c);
	return c.columns;
}

/* The aggregates of the result, HAVING and the order. */
static List *
aggregates_of(const Query *q)
{
	Collect c = {NIL, NIL, 0};

	(void) collect_walker((Node *) q->targetList, &c);
	(void) collect_walker(q->havingQual, &c);
	return c.aggregates;
}

/* Adds expressions to a list that has none of them twice. */
static List *
add_all(List *list, List *more)
{
	ListCell *lc;

	foreach (lc, more)
		list = list_append_unique(list, lfirst(lc));
	return list;
}

/* ---- outputs ----------------------------------------------------------------------------- */

/* True when an expression has a subquery in it. */
static bool
subquery_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, SubLink) || expression_tree_walker(node, subquery_walker, context);
}

/* The outputs of a plain block: the columns of result and conditions, and what is costly. */
static List *
plain_outputs(const SpeqlForm *form)
{
	List *outputs = NIL;
	ListCell *lc;

	foreach (lc, form->query->targetList)
	{
		Node *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;

		if (subquery_walker(expr, NULL) && !contain_mutable_functions(expr))
			outputs = list_append_unique(outputs, expr);
		else
			outputs = add_all(outputs, columns_of(expr));
	}
	/* For conditions that get tighter, and joins that come later. */
	outputs = add_all(outputs, columns_of((Node *) form->conjuncts));
	if (outputs == NIL)
		outputs = list_make1(
		    makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(1), false, true));
	return outputs;
}

/* A target list of expressions. */
static List *
make_target_list(List *outputs)
{
	List *entries = NIL;
	ListCell *lc;

	foreach (lc, outputs)
	{
		int i = foreach_current_index(lc) + 1;

		entries = lappend(entries, makeTargetEntry(lfirst(lc), i, psprintf("c%d", i), false));
	}
	return entries;
}

/* Groups a query by the first n of its outputs; false when one of them has no order or hash. */
static bool
group_by(Query *v, int n)
{
	v->groupClause = v->groupingSets = NIL;
	v->groupDistinct = false;
	for (int i = 0; i < n; i++)
	{
		TargetEntry *tle = list_nth_node(TargetEntry, v->targetList, i);
		SortGroupClause *clause = makeNode(SortGroupClause);
		Oid type = exprType((Node *) tle->expr);

		get_sort_group_operators(type, false, true, false, &clause->sortop, &clause->eqop, NULL,
		                         &clause->hashable);
		if (!OidIsValid(clause->sortop))
			return false;
		clause->tleSortGroupRef = tle->ressortgroupref = i + 1;
		v->groupClause = lappend(v->groupClause, clause);
	}
	return true;
}

/* The arguments of aggregates over distinct values, which finer groups must keep apart. */
static List *
distinct_arguments(List *aggregates)
{
	List *arguments = NIL;
	ListCell *lc;

	foreach (lc, aggregates)
		if (lfirst_node(Aggref, lc)->aggdistinct)
			arguments = add_all(arguments, columns_of((Node *) lfirst_node(Aggref, lc)->args));
	return arguments;
}

/* The parts of all aggregates; false when one cannot be added up. */
static bool
parts_of(List *aggregates, List **parts)
{
	ListCell *lc;

	*parts = list_make1(speql_count_star());
	foreach (lc, aggregates)
	{
		List *of_one = speql_rollup_parts(lfirst(lc));

		if (of_one == NIL && !lfirst_node(Aggref, lc)->aggdistinct)
			return false;
		*parts = add_all(*parts, of_one);
	}
	return true;
}

/* Makes a grouped definition: as the block groups, or finer. */
static SpeqlReason
define_grouped(Query *v, const SpeqlForm *form, List *dropped)
{
	List *aggregates = aggregates_of(form->query);
	List *groups = form->groups, *outputs = aggregates;

	if (dropped != NIL)
	{
		groups = add_all(list_copy(groups), columns_of((Node *) dropped));
		groups = add_all(groups, distinct_arguments(aggregates));
		if (!parts_of(aggregates, &outputs))
			return SPEQL_R_AGGREGATE;
		v->havingQual = NULL;
	}
	v->targetList = make_target_list(list_concat_copy(groups, outputs));
	v->hasAggs = outputs != NIL;
	/* A block that groups by nothing has one row; a superset of it has groups. */
	return group_by(v, list_length(groups)) ? SPEQL_OK_EXACT : SPEQL_R_GROUPING;
}

/* Makes the definition of a block that is only good as it is: its result columns. */
static SpeqlReason
define_itself(Query *v, List *dropped)
{
	ListCell *lc;

	if (dropped != NIL)
		return v->hasWindowFuncs ? SPEQL_R_WINDOW : SPEQL_R_DISTINCT;
	if (v->hasDistinctOn)
		return SPEQL_R_DISTINCT; /* which row it keeps depends on the order */
	foreach (lc, v->targetList)
		lfirst_node(TargetEntry, lc)->resjunk = false;
	return SPEQL_OK_EXACT;
}

/* ---- what does not belong into a table --------------------------------------------------- */

/* True for a LIMIT below the top, whose rows depend on more than the data. */
static bool
limit_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, limit_walker, context);
	if (castNode(Query, node)->limitCount || castNode(Query, node)->limitOffset ||
	    castNode(Query, node)->hasDistinctOn)
		return true;
	return query_tree_walker(castNode(Query, node), limit_walker, context, 0);
}

/* True for an external parameter. */
static bool
param_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
		return castNode(Param, node)->paramkind == PARAM_EXTERN;
	if (IsA(node, Query))
		return query_tree_walker(castNode(Query, node), param_walker, context, 0);
	return expression_tree_walker(node, param_walker, context);
}

/* True when every column has a type that a table can have. */
static bool
storable(const Query *v)
{
	ListCell *lc;

	foreach (lc, v->targetList)
	{
		Oid type = exprType((Node *) lfirst_node(TargetEntry, lc)->expr);

		if (get_typtype(type) == TYPTYPE_PSEUDO)
			return false;
	}
	return list_length(v->targetList) <= MaxHeapAttributeNumber / 2;
}

/* The last look at a finished definition. */
static SpeqlReason
check_definition(const Query *v)
{
	Node *node = (Node *) unconstify(Query *, v);

	if (contain_mutable_functions(node) || speql_calls_volatile(node))
		return SPEQL_R_VOLATILE;
	if (limit_walker(node, NULL))
		return SPEQL_R_SUBQUERY;
	if (param_walker(node, NULL))
		return SPEQL_R_RANGE;
	return storable(v) ? SPEQL_OK_EXACT : SPEQL_R_COLUMN;
}

/* ---- definitions ------------------------------------------------------------------------- */

/* The conjuncts that cannot be in a table. */
static List *
mutable_conjuncts(List *conjuncts)
{
	List *mutable = NIL;
	ListCell *lc;

	foreach (lc, conjuncts)
		if (contain_mutable_functions(lfirst(lc)))
			mutable = lappend(mutable, lfirst(lc));
	return mutable;
}

/* True for a condition on one column and constants, no subquery. */
static bool
is_constant_conjunct(Node *node)
{
	return !subquery_walker(node, NULL) && list_length(columns_of(node)) == 1;
}

/* The conditions that people edit: of one column with constants. */
static List *
constant_conjuncts(const SpeqlForm *form)
{
	List *constant = NIL;
	ListCell *lc;

	foreach (lc, form->conjuncts)
		if (is_constant_conjunct(lfirst(lc)))
			constant = lappend(constant, lfirst(lc));
	return constant;
}

/* The columns that conditions compare, those of the last condition first. */
List *
speql_compared_columns(List *conditions)
{
	List *columns = NIL;

	for (int i = list_length(conditions) - 1; i >= 0; i--)
		columns = list_append_unique(columns, linitial(columns_of(list_nth(conditions, i))));
	return columns;
}

/* The conditions that the n-th superset leaves out. */
List *
speql_superset_conjuncts(const SpeqlForm *form, int n)
{
	List *constant = constant_conjuncts(form), *of_column = NIL, *columns;
	ListCell *lc;

	if (n <= 1 || constant == NIL)
		return n == 0 ? NIL : constant;
	columns = speql_compared_columns(constant);
	/* With one column only, the first was that already. */
	if (list_length(columns) < 2 || n - 2 >= list_length(columns))
		return NIL;
	foreach (lc, constant)
		if (equal(linitial(columns_of(lfirst(lc))), list_nth(columns, n - 2)))
			of_column = lappend(of_column, lfirst(lc));
	return of_column;
}

/* Makes a definition. */
Query *
speql_define(const SpeqlForm *form, List *dropped, SpeqlReason *reason)
{
	Query *v = copyObject(form->query);
	List *kept;

	v->sortClause = NIL;
	v->limitCount = v->limitOffset = NULL;
	v->limitOption = LIMIT_OPTION_COUNT;
	if (v->setOperations)
		*reason = define_itself(v, dropped);
	else
	{
		dropped = add_all(list_copy(dropped), mutable_conjuncts(form->conjuncts));
		kept = list_difference(form->conjuncts, dropped);
		v->jointree = makeFromExpr(copyObject(form->items),
		                           (Node *) (kept ? make_ands_explicit(copyObject(kept)) : NULL));
		if (v->hasWindowFuncs || v->hasTargetSRFs || v->distinctClause ||
		    (v->groupingSets && dropped == NIL))
			*reason = define_itself(v, dropped);
		else if (form->aggregated)
			*reason = define_grouped(v, form, dropped);
		else
		{
			v->targetList = make_target_list(plain_outputs(form));
			*reason = SPEQL_OK_EXACT;
		}
	}
	if (*reason == SPEQL_OK_EXACT)
		*reason = check_definition(v);
	return *reason == SPEQL_OK_EXACT ? v : NULL;
}
