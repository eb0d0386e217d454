/*
 * speql_rollup.c: an aggregate over coarse groups from aggregates over finer ones.
 *
 *		count(*), count(x)	→ coalesce(sum(n), 0)			bigint
 *		sum(x)				→ sum(sum(x)), cast back to sum's type
 *		avg(x)				→ sum(sum(x)) / sum(count(x))	numeric division, as avg does it
 *		min max bool_and bool_or every bit_and bit_or → the same again
 *
 * Not for float: its sums depend on the order. FILTER must be that of the parts. An aggregate over
 * what the groups are made of needs no parts when duplicates do not matter to it (min, max and the
 * like), and count(x) is then a count(*) of the groups where x is not null.
 */
#include "speql_match.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

/* The aggregates that the algebra knows. */
typedef enum AggKind
{
	AGG_OTHER,
	AGG_COUNT_STAR,
	AGG_COUNT,
	AGG_SUM,
	AGG_AVG,
	AGG_AGAIN /* applied again to its own results */
} AggKind;

/* An aggregate of pg_catalog by name. */
static Oid
aggregate_oid(const char *name, Oid type)
{
	List *qualified = list_make2(makeString("pg_catalog"), makeString(pstrdup(name)));

	return LookupFuncName(qualified, 1, &type, true);
}

/* True for the types whose sums are exact and whose average is a numeric division. */
static bool
exact_type(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID || type == NUMERICOID;
}

/* What kind of aggregate it is; AGG_OTHER when nothing can be derived. */
static AggKind
kind_of(const Aggref *agg)
{
	static const char *const again[] = {"min",   "max",     "bool_and", "bool_or",
	                                    "every", "bit_and", "bit_or"};
	const char *name = get_func_name(agg->aggfnoid);
	Oid type;

	if (agg->aggfnoid >= FirstNormalObjectId || name == NULL || agg->aggdistinct || agg->aggorder ||
	    agg->aggdirectargs || agg->agglevelsup != 0 || agg->aggvariadic)
		return AGG_OTHER;
	if (agg->aggstar)
		return AGG_COUNT_STAR;
	if (list_length(agg->args) != 1)
		return AGG_OTHER;
	type = exprType((Node *) linitial_node(TargetEntry, agg->args)->expr);
	if (strcmp(name, "count") == 0)
		return AGG_COUNT;
	if (strcmp(name, "sum") == 0 && exact_type(type))
		return AGG_SUM;
	if (strcmp(name, "avg") == 0 && exact_type(type))
		return AGG_AVG;
	for (int i = 0; i < lengthof(again); i++)
		if (strcmp(name, again[i]) == 0)
			return AGG_AGAIN;
	return AGG_OTHER;
}

/* An aggregate call as the analysis makes it. */
static Aggref *
make_aggregate(Oid function, Expr *arg, Expr *filter)
{
	Aggref *agg = makeNode(Aggref);
	Oid type = exprType((Node *) arg);

	agg->aggfnoid = function;
	agg->aggtype = get_func_rettype(function);
	if (agg->aggtype == ANYARRAYOID || agg->aggtype == ANYENUMOID || agg->aggtype == ANYELEMENTOID)
		agg->aggtype = type; /* min and max of arrays and enums */
	agg->inputcollid = exprCollation((Node *) arg);
	agg->aggcollid = type_is_collatable(agg->aggtype) ? agg->inputcollid : InvalidOid;
	agg->aggargtypes = list_make1_oid(type);
	agg->args = list_make1(makeTargetEntry(arg, 1, NULL, false));
	agg->aggfilter = filter;
	agg->aggkind = 'n';
	agg->aggsplit = AGGSPLIT_SIMPLE;
	agg->aggno = agg->aggtransno = -1;
	agg->location = -1;
	return agg;
}

/* The same aggregate under another name, with the same input and FILTER. */
static Aggref *
sibling(const Aggref *agg, const char *name)
{
	Aggref *other = copyObject(unconstify(Aggref *, agg));
	Expr *arg = linitial_node(TargetEntry, agg->args)->expr;
	Oid type = exprType((Node *) arg);

	other->aggfnoid =
	    strcmp(name, "count") == 0 ? aggregate_oid(name, ANYOID) : aggregate_oid(name, type);
	other->aggtype = get_func_rettype(other->aggfnoid);
	other->aggcollid = InvalidOid;
	return other;
}

/* count(*) */
Aggref *
speql_count_star(void)
{
	Aggref *agg = makeNode(Aggref);
	List *name = list_make2(makeString("pg_catalog"), makeString("count"));

	agg->aggfnoid = LookupFuncName(name, 0, NULL, false);
	agg->aggtype = INT8OID;
	agg->aggstar = true;
	agg->aggkind = 'n';
	agg->aggsplit = AGGSPLIT_SIMPLE;
	agg->aggno = agg->aggtransno = -1;
	agg->location = -1;
	return agg;
}

/* The parts that finer groups must have. */
List *
speql_rollup_parts(Aggref *agg)
{
	switch (kind_of(agg))
	{
		case AGG_COUNT_STAR:
		case AGG_COUNT:
		case AGG_SUM:
		case AGG_AGAIN:
			return list_make1(agg);
		case AGG_AVG:
			return list_make2(sibling(agg, "sum"), sibling(agg, "count"));
		default:
			return NIL;
	}
}

/* sum(column), in numeric. */
static Expr *
sum_of(Expr *column, Expr *filter)
{
	Oid type = exprType((Node *) column);

	return (Expr *) make_aggregate(aggregate_oid("sum", type), column, filter);
}

/* A cast between numbers. */
static Expr *
cast_number(Expr *value, Oid function, Oid type)
{
	return (Expr *) makeFuncExpr(function, type, list_make1(value), InvalidOid, InvalidOid,
	                             COERCE_EXPLICIT_CALL);
}

/* coalesce(sum(column)::bigint, 0) */
static Expr *
count_of(Expr *column, Expr *filter)
{
	CoalesceExpr *coalesce = makeNode(CoalesceExpr);
	Expr *sum = cast_number(sum_of(column, filter), F_INT8_NUMERIC, INT8OID);

	coalesce->coalescetype = INT8OID;
	coalesce->args = list_make2(sum, makeConst(INT8OID, -1, InvalidOid, sizeof(int64),
	                                           Int64GetDatum(0), false, FLOAT8PASSBYVAL));
	coalesce->location = -1;
	return (Expr *) coalesce;
}

/* sum(column) in the type that the aggregate gives: bigint or numeric. */
static Expr *
sum_as(Expr *column, Oid type)
{
	Expr *sum = sum_of(column, NULL);

	/* sum(bigint) is numeric. */
	return type == INT8OID ? cast_number(sum, F_INT8_NUMERIC, INT8OID) : sum;
}

/* A value as numeric. */
static Expr *
as_numeric(Expr *value)
{
	return exprType((Node *) value) == NUMERICOID ? value
	                                              : cast_number(value, F_NUMERIC_INT8, NUMERICOID);
}

/* sum(sums) / sum(counts) */
static Expr *
average_of(Expr *sums, Expr *counts)
{
	Expr *sum = as_numeric(sum_of(sums, NULL)), *count = as_numeric(sum_of(counts, NULL));

	return (Expr *) makeFuncExpr(F_NUMERIC_DIV, NUMERICOID, list_make2(sum, count), InvalidOid,
	                             InvalidOid, COERCE_EXPLICIT_CALL);
}

/* count(x), or min(x) and its like, where x is what groups are made of. */
static Expr *
over_group(Aggref *agg, AggKind kind, const SpeqlMapping *m, Expr *(*column)(int, void *),
           void *arg)
{
	Expr *x = linitial_node(TargetEntry, agg->args)->expr;
	int of_x = speql_output_column(m, (Node *) x, m->q->classes);
	int of_count = speql_output_column(m, (Node *) speql_count_star(), NIL);
	NullTest *test;

	if (of_x == 0 || agg->aggfilter || !list_member(m->groups, x))
		return NULL;
	if (kind == AGG_AGAIN)
		return (Expr *) make_aggregate(agg->aggfnoid, column(of_x, arg), NULL);
	if (kind != AGG_COUNT || of_count == 0)
		return NULL;
	test = makeNode(NullTest);
	test->arg = column(of_x, arg);
	test->nulltesttype = IS_NOT_NULL;
	test->argisrow = false;
	test->location = -1;
	return count_of(column(of_count, arg), (Expr *) test);
}

/* True for a column that is null in no row: declared so, and its table is below no outer join. */
static bool
never_null(const SpeqlForm *q, Node *expr)
{
	Var *var = (Var *) expr;
	RangeTblEntry *rte;
	ListCell *lc;

	if (!IsA(expr, Var) || var->varlevelsup != 0)
		return false;
	rte = rt_fetch(var->varno, q->query->rtable);
	foreach (lc, q->items)
		if (IsA(lfirst(lc), RangeTblRef) && lfirst_node(RangeTblRef, lc)->rtindex == var->varno &&
		    rte->rtekind == RTE_RELATION)
			return speql_keys_never_null(rte->relid, var->varattno);
	return false;
}

/* The column of a part: of a count of what is never null, any count of the rows will do. */
static int
part_column(const SpeqlMapping *m, Aggref *part)
{
	int column = speql_output_column(m, (Node *) part, m->q->classes);

	if (column == 0 && kind_of(part) == AGG_COUNT && part->aggfilter == NULL &&
	    never_null(m->q, (Node *) linitial_node(TargetEntry, part->args)->expr))
		column = speql_output_column(m, (Node *) speql_count_star(), NIL);
	return column;
}

/* Rolls an aggregate up. */
Expr *
speql_rollup(Aggref *agg, const SpeqlMapping *m, Expr *(*column)(int, void *), void *arg)
{
	AggKind kind = kind_of(agg);
	List *parts = speql_rollup_parts(agg);
	int columns[2] = {0, 0};
	ListCell *lc;

	foreach (lc, parts)
	{
		int i = foreach_current_index(lc);

		columns[i] = part_column(m, lfirst(lc));
		if (columns[i] == 0)
			return kind == AGG_COUNT_STAR ? NULL : over_group(agg, kind, m, column, arg);
	}
	switch (kind)
	{
		case AGG_COUNT_STAR:
		case AGG_COUNT:
			return count_of(column(columns[0], arg), NULL);
		case AGG_SUM:
			return sum_as(column(columns[0], arg), agg->aggtype);
		case AGG_AVG:
			return average_of(column(columns[0], arg), column(columns[1], arg));
		case AGG_AGAIN:
			return (Expr *) make_aggregate(agg->aggfnoid, column(columns[0], arg), NULL);
		default:
			return NULL;
	}
}
