/*
 * speql_calls.c: see speql_calls.h.
 */
#include "speql_calls.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"

/* ---- effects ----------------------------------------------------------------------------- */

/* True for a function that is declared volatile; none is not. */
static bool
is_volatile(Oid function)
{
	return OidIsValid(function) && func_volatile(function) == PROVOLATILE_VOLATILE;
}

/* True when what runs an aggregate is volatile: that itself is declared immutable always. */
static bool
aggregate_is_volatile(Oid aggregate)
{
	HeapTuple tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	Form_pg_aggregate form;
	bool found;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	found = is_volatile(form->aggtransfn) || is_volatile(form->aggfinalfn) ||
	        is_volatile(form->aggcombinefn) || is_volatile(form->aggserialfn) ||
	        is_volatile(form->aggdeserialfn) || is_volatile(form->aggmtransfn) ||
	        is_volatile(form->aggminvtransfn) || is_volatile(form->aggmfinalfn);
	ReleaseSysCache(tuple);
	return found;
}

/* True when a check of a domain is volatile. */
static bool
domain_is_volatile(Oid type)
{
	/* The reference is given back when the context that it lives in is reset. */
	DomainConstraintRef *ref = palloc(sizeof(*ref));
	ListCell *lc;
	bool found = false;

	InitDomainConstraintRef(type, ref, CurrentMemoryContext, false);
	foreach (lc, ref->constraints)
	{
		const DomainConstraintState *check = lfirst(lc);

		found = found || speql_calls_volatile((Node *) check->check_expr);
	}
	return found;
}

/* True for functions that are declared stable, but give the transaction a number of its own. */
static bool
takes_transaction_id(Oid function, void *context)
{
	return function == F_TXID_CURRENT || function == F_PG_CURRENT_XACT_ID;
}

/* Looks for the calls that contain_volatile_functions() does not see. */
static bool
hidden_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, takes_transaction_id, NULL))
		return true;
	switch (nodeTag(node))
	{
		case T_Aggref:
			if (aggregate_is_volatile(castNode(Aggref, node)->aggfnoid))
				return true;
			break;
		case T_WindowFunc:
			if (aggregate_is_volatile(castNode(WindowFunc, node)->winfnoid))
				return true;
			break;
		case T_CoerceToDomain:
			if (domain_is_volatile(castNode(CoerceToDomain, node)->resulttype))
				return true;
			break;
		case T_CoerceViaIO:
			if (get_typtype(castNode(CoerceViaIO, node)->resulttype) == TYPTYPE_DOMAIN &&
			    domain_is_volatile(castNode(CoerceViaIO, node)->resulttype))
				return true;
			break;
		case T_Query:
			return query_tree_walker(castNode(Query, node), hidden_walker, context, 0);
		default:
			break;
	}
	return expression_tree_walker(node, hidden_walker, context);
}

/* Looks at what is called openly and what is not. */
bool
speql_calls_volatile(Node *node)
{
	return contain_volatile_functions(node) || hidden_walker(node, NULL);
}

/* ---- who may call ------------------------------------------------------------------------ */

/* Stops at a function that the role may not execute. */
static bool
forbidden_function(Oid function, void *context)
{
	return PP_FUNCTION_ACLCHECK(function, GetUserId()) != ACLCHECK_OK;
}

/* Walker over queries and expressions. */
static bool
forbidden_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, forbidden_function, context))
		return true;
	if (IsA(node, Query))
		return query_tree_walker(castNode(Query, node), forbidden_walker, context, 0);
	return expression_tree_walker(node, forbidden_walker, context);
}

/* Checks what the executor would check if it called the functions. */
bool
speql_calls_allowed(const Query *query)
{
	return !forbidden_walker((Node *) unconstify(Query *, query), NULL);
}

/* ---- versions ---------------------------------------------------------------------------- */

typedef struct Users
{
	List *functions; /* that users made */
	bool domains;    /* there are casts to domains */
} Users;

/* Collects functions that users made. */
static bool
users_function(Oid function, void *context)
{
	Users *users = context;

	if (function >= FirstNormalObjectId)
		users->functions = list_append_unique_oid(users->functions, function);
	return false;
}

/* Walker over queries and expressions. */
static bool
users_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, users_function, context);
	if (IsA(node, CoerceToDomain))
		((Users *) context)->domains = true;
	if (IsA(node, Query))
		return query_tree_walker(castNode(Query, node), users_walker, context, 0);
	return expression_tree_walker(node, users_walker, context);
}

/* Notes versions. */
bool
speql_calls_note(SpeqlTable *table, const Query *definition, bool *any)
{
	Users users = {NIL, false};
	ListCell *lc;

	(void) users_walker((Node *) unconstify(Query *, definition), &users);
	*any = users.functions != NIL || users.domains;
	if (list_length(users.functions) > SPEQL_FUNCS_MAX)
		return false;
	foreach (lc, users.functions)
	{
		HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(lfirst_oid(lc)));
		SpeqlFuncDep *dep = &table->funcs[table->n_funcs++];

		if (!HeapTupleIsValid(tuple))
			return false;
		dep->oid = lfirst_oid(lc);
		dep->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
		dep->tid = tuple->t_self;
		ReleaseSysCache(tuple);
	}
	return true;
}

/* Compares them. */
bool
speql_calls_unchanged(const SpeqlTable *table)
{
	for (int i = 0; i < table->n_funcs; i++)
	{
		HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(table->funcs[i].oid));
		bool same;

		if (!HeapTupleIsValid(tuple))
			return false;
		same = HeapTupleHeaderGetRawXmin(tuple->t_data) == table->funcs[i].xmin &&
		       ItemPointerEquals(&tuple->t_self, (ItemPointer) &table->funcs[i].tid);
		ReleaseSysCache(tuple);
		if (!same)
			return false;
	}
	return true;
}
