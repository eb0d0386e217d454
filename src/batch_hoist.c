/*
 * batch_hoist.c: takes calls out of expressions.
 *
 * A call that stands under CASE, COALESCE, AND, OR or an aggregate's FILTER is reached only on some
 * rows, and must neither cost anything nor fail on the others. So each hoisted call carries a
 * guard: the conjunction of the conditions on its path. A guard must be safe to evaluate twice
 * (once as a guard, once in its own place): with a volatile function in it, the call stays where it
 * is and runs row by row, which is always right.
 *
 * The expressions come from a finished plan (after set_plan_references).
 */
#include "batch.h"

#include "access/htup_details.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#define PP_SCHEMA "prepack"

/* Which functions are ours; forgotten whenever pg_proc changes. */
typedef struct FunctionEntry
{
	Oid oid;                /* hash key */
	const PpCallType *type; /* NULL: not ours */
} FunctionEntry;

static HTAB *functions = NULL;

/* Forgets what was looked up. */
static void
forget_functions(Datum arg, int cache_id, uint32 hash)
{
	if (functions != NULL)
		hash_destroy(functions);
	functions = NULL;
}

/* Makes the lookup table; the callback is registered once in the backend's life. */
static void
make_functions(void)
{
	static bool registered = false;
	HASHCTL ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(FunctionEntry)};

	functions = hash_create("prepack functions", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	if (!registered)
		CacheRegisterSyscacheCallback(PROCOID, forget_functions, (Datum) 0);
	registered = true;
}

/*
 * Looks a function up in pg_proc: C language, our schema, one of our symbols, and not the array
 * twin.
 */
static const PpCallType *
look_up(Oid oid)
{
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	Form_pg_proc form;
	const PpCallType *type = NULL;
	char *schema;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	form = (Form_pg_proc) GETSTRUCT(tuple);
	schema = form->prolang == ClanguageId ? get_namespace_name(form->pronamespace) : NULL;
	if (schema != NULL && strcmp(schema, PP_SCHEMA) == 0)
	{
		bool isnull;
		Datum symbol = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);

		if (!isnull)
			type = pp_call_type(TextDatumGetCString(symbol));
	}
	ReleaseSysCache(tuple);
	return type;
}

/* Finds a function's call type through the cache. */
const PpCallType *
pp_batch_call_type(const FuncExpr *func)
{
	FunctionEntry *entry;
	const PpCallType *type;
	bool found;

	if (func->funcid < FirstNormalObjectId)
		return NULL;
	if (functions == NULL)
		make_functions();
	entry = hash_search(functions, &func->funcid, HASH_FIND, &found);
	if (found)
		return entry->type;
	type = look_up(func->funcid);
	if (functions == NULL)
		make_functions(); /* the lookup itself may have caused an invalidation */
	entry = hash_search(functions, &func->funcid, HASH_ENTER, &found);
	entry->type = type;
	return type;
}

/* Walker: is there a call? */
static bool
call_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncExpr) && pp_batch_call_type((FuncExpr *) node) != NULL)
		return true;
	return expression_tree_walker(node, call_walker, context);
}

/* True when an expression holds a call anywhere. */
bool
pp_batch_contains_call(Node *node)
{
	return call_walker(node, NULL);
}

/* State of one walk through an expression. */
typedef struct HoistContext
{
	PpHoist *hoist;
	bool in_aggregates; /* what to look for */
	bool inside;        /* whether the walk is inside an aggregate now */
	List *conditions;   /* boolean expressions that hold where the walk is */
	bool hopeless;      /* a condition on the path cannot be evaluated ahead */
} HoistContext;

static Node *hoist_mutator(Node *node, HoistContext *context);

/* True when all of a call's surroundings may be evaluated ahead of time. */
static bool
can_hoist(const FuncExpr *func, const HoistContext *context)
{
	if (context->hopeless || context->inside != context->in_aggregates)
		return false;
	if (pp_batch_contains_call((Node *) func->args) ||
	    pp_batch_contains_call((Node *) context->conditions))
		return false;
	return !contain_volatile_functions((Node *) context->conditions);
}

/* Replaces a call by the Var of its column; equal calls under equal guards share one. */
static Node *
hoist_call(FuncExpr *func, HoistContext *context)
{
	PpHoist *hoist = context->hoist;
	Node *guard = NULL;
	ListCell *c;
	ListCell *g;
	int i = 0;

	if (context->conditions != NIL)
		guard = (Node *) make_ands_explicit(copyObject(context->conditions));
	forboth(c, hoist->calls, g, hoist->guards)
	{
		if (equal(lfirst(c), func) && equal(lfirst(g), guard) &&
		    !contain_volatile_functions((Node *) func))
			break;
		i++;
	}
	if (i == list_length(hoist->calls))
	{
		hoist->calls = lappend(hoist->calls, copyObject(func));
		hoist->guards = lappend(hoist->guards, guard);
	}
	return (Node *) makeVar(OUTER_VAR, hoist->first_column + i, func->funcresulttype, -1,
	                        func->funccollid, 0);
}

/* Walks a part of an expression that is reached only under one more condition. */
static Node *
under(Node *node, Node *condition, HoistContext *context)
{
	List *outer = context->conditions;
	Node *result;

	context->conditions = lappend(list_copy(outer), condition);
	result = hoist_mutator(node, context);
	context->conditions = outer;
	return result;
}

/* expr IS [NOT] TRUE / FALSE. */
Node *
pp_batch_test_bool(Node *expr, BoolTestType kind)
{
	BooleanTest *test = makeNode(BooleanTest);

	test->arg = (Expr *) copyObject(expr);
	test->booltesttype = kind;
	test->location = -1;
	return (Node *) test;
}

/* expr IS NULL, of a scalar. */
static Node *
test_null(Node *expr)
{
	NullTest *test = makeNode(NullTest);

	test->arg = (Expr *) copyObject(expr);
	test->nulltesttype = IS_NULL;
	test->argisrow = false;
	test->location = -1;
	return (Node *) test;
}

/* expr has not decided the AND that it stands in. */
static Node *
test_not_false(Node *expr)
{
	return pp_batch_test_bool(expr, IS_NOT_FALSE);
}

/* The same of an OR. */
static Node *
test_not_true(Node *expr)
{
	return pp_batch_test_bool(expr, IS_NOT_TRUE);
}

/* Arguments of which each is reached when those before it left the matter open. */
static List *
hoist_in_turn(List *exprs, Node *(*is_open)(Node *before), HoistContext *context)
{
	List *outer = context->conditions;
	List *args = NIL;
	ListCell *lc;

	foreach (lc, exprs)
	{
		args = lappend(args, hoist_mutator(lfirst(lc), context));
		context->conditions = lappend(list_copy(context->conditions), is_open(lfirst(lc)));
	}
	context->conditions = outer;
	return args;
}

/* AND and OR: each argument is reached when those before it have not decided. */
static Node *
hoist_bool(BoolExpr *expr, HoistContext *context)
{
	BoolExpr *copy = makeNode(BoolExpr);

	*copy = *expr;
	copy->args = hoist_in_turn(expr->args,
	                           expr->boolop == AND_EXPR ? test_not_false : test_not_true, context);
	return (Node *) copy;
}

/* COALESCE: each argument is reached when those before it are NULL. */
static Node *
hoist_coalesce(CoalesceExpr *expr, HoistContext *context)
{
	CoalesceExpr *copy = makeNode(CoalesceExpr);

	*copy = *expr;
	copy->args = hoist_in_turn(expr->args, test_null, context);
	return (Node *) copy;
}

/*
 * Searched CASE: a condition is reached when those before it are not true, a result when its own
 * is.
 */
static Node *
hoist_case(CaseExpr *expr, HoistContext *context)
{
	CaseExpr *copy = makeNode(CaseExpr);
	List *outer = context->conditions;
	List *arms = NIL;
	ListCell *lc;

	*copy = *expr;
	foreach (lc, expr->args)
	{
		CaseWhen *when = lfirst_node(CaseWhen, lc);
		CaseWhen *arm = makeNode(CaseWhen);

		*arm = *when;
		arm->expr = (Expr *) hoist_mutator((Node *) when->expr, context);
		arm->result = (Expr *) under((Node *) when->result,
		                             pp_batch_test_bool((Node *) when->expr, IS_TRUE), context);
		arms = lappend(arms, arm);
		context->conditions = lappend(list_copy(context->conditions),
		                              pp_batch_test_bool((Node *) when->expr, IS_NOT_TRUE));
	}
	copy->args = arms;
	copy->defresult = (Expr *) hoist_mutator((Node *) expr->defresult, context);
	context->conditions = outer;
	return (Node *) copy;
}

/*
 * CASE x WHEN …: x is always reached; the arms' conditions hold a placeholder, so calls there stay.
 */
static Node *
hoist_simple_case(CaseExpr *expr, HoistContext *context)
{
	CaseExpr *copy = makeNode(CaseExpr);

	*copy = *expr;
	copy->arg = (Expr *) hoist_mutator((Node *) expr->arg, context);
	return (Node *) copy;
}

/* An aggregate or window function: its arguments count as inside, under its FILTER. */
static Node *
hoist_aggregate(Node *node, Expr *filter, HoistContext *context)
{
	bool inside = context->inside;
	List *outer = context->conditions;
	Node *result;

	context->inside = true;
	if (filter != NULL)
		context->conditions =
		    lappend(list_copy(outer), pp_batch_test_bool((Node *) filter, IS_TRUE));

	/* A call in the FILTER itself is reached always, but then stands in its own guard: it stays. */
	result = expression_tree_mutator(node, hoist_mutator, context);
	context->conditions = outer;
	context->inside = inside;
	return result;
}

/* Mutator: copies an expression with its calls hoisted. */
static Node *
hoist_mutator(Node *node, HoistContext *context)
{
	if (node == NULL)
		return NULL;
	switch (nodeTag(node))
	{
		case T_FuncExpr:
			if (pp_batch_call_type((FuncExpr *) node) != NULL &&
			    can_hoist((FuncExpr *) node, context))
				return hoist_call((FuncExpr *) node, context);
			break;
		case T_BoolExpr:
			if (((BoolExpr *) node)->boolop != NOT_EXPR)
				return hoist_bool((BoolExpr *) node, context);
			break;
		case T_CoalesceExpr:
			return hoist_coalesce((CoalesceExpr *) node, context);
		case T_CaseExpr:
			if (((CaseExpr *) node)->arg == NULL)
				return hoist_case((CaseExpr *) node, context);
			return hoist_simple_case((CaseExpr *) node, context);
		case T_Aggref:
			return hoist_aggregate(node, ((Aggref *) node)->aggfilter, context);
		case T_WindowFunc:
			return hoist_aggregate(node, ((WindowFunc *) node)->aggfilter, context);
		default:
			break;
	}
	return expression_tree_mutator(node, hoist_mutator, context);
}

/* Takes the calls of one level out of an expression. */
Node *
pp_batch_hoist(Node *expr, PpHoist *hoist, bool in_aggregates)
{
	HoistContext context = {.hoist = hoist, .in_aggregates = in_aggregates};

	return hoist_mutator(expr, &context);
}
