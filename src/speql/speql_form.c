/*
 * speql_form.c: the canonical form of a query block.
 *
 * Two texts that mean the same should give forms that compare by equal(): names are blanked, WITH
 * items put where they are read, join aliases and grouping columns resolved, constants folded,
 * inner joins and WHERE made one list of conditions. What could make a table built from one
 * execution differ from another is refused here, once for definitions and queries alike.
 */
#include "speql_match.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pathnodes.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"

#define MAX_INLINED 64 /* WITH items put in place in one block */

/* ---- names ------------------------------------------------------------------------------- */

/* A list of as many equal names. */
static List *
blank_names(const List *names)
{
	List *blank = NIL;

	for (int i = 0; i < list_length(names); i++)
		blank = lappend(blank, makeString("c"));
	return blank;
}

/* Blanks the names of one range table entry, and who may read it (checked in the original). */
static void
blank_entry(RangeTblEntry *rte)
{
	rte->alias = NULL;
	rte->eref = makeAlias("t", rte->eref ? blank_names(rte->eref->colnames) : NIL);
	PP_CLEAR_PERMISSIONS(rte);
}

/* Blanks names in place, in all queries of a tree. */
static bool
blank_walker(Node *node, void *context)
{
	ListCell *lc;

	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query *query = castNode(Query, node);

		foreach (lc, query->rtable)
			blank_entry(lfirst_node(RangeTblEntry, lc));
		query->queryId = 0;
		query->stmt_location = query->stmt_len = 0;
		query->canSetTag = true;
		return query_tree_walker(query, blank_walker, context, 0);
	}
	if (IsA(node, TargetEntry))
	{
		TargetEntry *tle = castNode(TargetEntry, node);

		if (tle->resname != NULL)
			tle->resname = pstrdup("c"); /* the planner copies names of subqueries */
		tle->resorigtbl = InvalidOid;
		tle->resorigcol = 0;
	}
	else if (IsA(node, JoinExpr))
		castNode(JoinExpr, node)->alias = NULL;
	return expression_tree_walker(node, blank_walker, context);
}

/* A copy of a query in which nothing hangs on names: aliases, result names, positions. */
static Query *
blank_copy(const Query *query)
{
	Query *copy = copyObject(unconstify(Query *, query));

	(void) blank_walker((Node *) copy, NULL);
	return copy;
}

/* ---- WITH items put in place ------------------------------------------------------------- */

typedef struct InlineContext
{
	List *queries; /* around the node, innermost first */
	int n_inlined;
	bool failed;
} InlineContext;

/* The WITH item that an entry reads, or NULL for a recursive one. */
static CommonTableExpr *
find_cte(const RangeTblEntry *rte, const InlineContext *context)
{
	ListCell *lc;

	if ((int) rte->ctelevelsup >= list_length(context->queries))
		return NULL;
	foreach (lc, ((Query *) list_nth(context->queries, rte->ctelevelsup))->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (strcmp(cte->ctename, rte->ctename) == 0)
			return cte->cterecursive ? NULL : cte;
	}
	return NULL;
}

/* Makes an entry that reads a WITH item a subquery. */
static void
inline_entry(RangeTblEntry *rte, InlineContext *context)
{
	CommonTableExpr *cte = find_cte(rte, context);

	if (cte == NULL || !IsA(cte->ctequery, Query) || ++context->n_inlined > MAX_INLINED)
	{
		context->failed = true;
		return;
	}
	rte->subquery = copyObject(castNode(Query, cte->ctequery));
	IncrementVarSublevelsUp((Node *) rte->subquery, rte->ctelevelsup, 1);
	rte->rtekind = RTE_SUBQUERY;
	rte->ctename = NULL;
	rte->ctelevelsup = 0;
	rte->coltypes = rte->coltypmods = rte->colcollations = NIL;
}

/* Walks a tree, the queries around each node at hand. */
static bool
inline_walker(Node *node, void *arg)
{
	InlineContext *context = arg;
	ListCell *lc;
	bool result;

	if (node == NULL || context->failed)
		return context->failed;
	if (!IsA(node, Query))
		return expression_tree_walker(node, inline_walker, arg);
	check_stack_depth();
	context->queries = lcons(node, context->queries);
	foreach (lc, castNode(Query, node)->rtable)
		if (lfirst_node(RangeTblEntry, lc)->rtekind == RTE_CTE)
			inline_entry(lfirst(lc), context);
	result = context->failed || query_tree_walker(castNode(Query, node), inline_walker, arg,
	                                              QTW_IGNORE_CTE_SUBQUERIES);
	context->queries = list_delete_first(context->queries);
	castNode(Query, node)->cteList = NIL;
	return result;
}

/* ---- what is refused --------------------------------------------------------------------- */

/* True for a Var of a system column or of a whole row. */
static bool
odd_column_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
		return castNode(Var, node)->varattno <= 0;
	if (IsA(node, Query))
		return query_tree_walker(castNode(Query, node), odd_column_walker, context, 0);
	return expression_tree_walker(node, odd_column_walker, context);
}

/* True when a relation's rows are what its writers' locks tell about. */
bool
speql_relation_allowed(Oid relid)
{
	HeapTuple tuple;
	Form_pg_class class;
	bool allowed;

	if (relid < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	allowed = class->relpersistence != RELPERSISTENCE_TEMP &&
	          ((class->relkind == RELKIND_PARTITIONED_TABLE) ||
	           ((class->relkind == RELKIND_RELATION || class->relkind == RELKIND_MATVIEW) &&
	            class->relam == HEAP_TABLE_AM_OID));
	ReleaseSysCache(tuple);
	return allowed;
}

typedef struct RelationContext
{
	List *relids;
	SpeqlReason reason;
} RelationContext;

/* Collects relations; stops at an entry that no table may be built from. */
static bool
relation_walker(Node *node, void *arg)
{
	RelationContext *context = arg;
	ListCell *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, relation_walker, arg);
	if (castNode(Query, node)->hasRowSecurity)
		context->reason = SPEQL_R_ROW_SECURITY;
	if (castNode(Query, node)->commandType != CMD_SELECT || castNode(Query, node)->rowMarks ||
	    castNode(Query, node)->hasModifyingCTE)
		context->reason = SPEQL_R_NOT_READ_ONLY;
	foreach (lc, castNode(Query, node)->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->security_barrier || rte->securityQuals)
			context->reason = SPEQL_R_ROW_SECURITY;
		if (rte->rtekind == RTE_RELATION && rte->relkind != RELKIND_VIEW)
		{
			if (rte->tablesample != NULL || !speql_relation_allowed(rte->relid))
				context->reason = SPEQL_R_TABLES;
			context->relids = list_append_unique_oid(context->relids, rte->relid);
		}
		else if (rte->rtekind == RTE_TABLEFUNC || rte->rtekind == RTE_NAMEDTUPLESTORE)
			context->reason = SPEQL_R_TABLES;
	}
	if (context->reason != SPEQL_OK_EXACT)
		return true;
	return query_tree_walker(castNode(Query, node), relation_walker, arg, 0);
}

/* The relations of a query. */
List *
speql_relations(const Query *query, SpeqlReason *reason)
{
	RelationContext context = {NIL, SPEQL_OK_EXACT};

	(void) relation_walker((Node *) unconstify(Query *, query), &context);
	*reason = context.reason;
	return context.reason == SPEQL_OK_EXACT ? context.relids : NIL;
}

/* ---- conditions -------------------------------------------------------------------------- */

/* Folds constants, external parameters with known values among them. */
static Node *
fold(Node *expr, ParamListInfo params)
{
	PlannerInfo root = {.type = T_PlannerInfo};
	PlannerGlobal global = {.type = T_PlannerGlobal, .boundParams = params};
	Query parse = {.type = T_Query};

	root.glob = &global;
	root.parse = &parse;
	return eval_const_expressions(&root, expr);
}

/* Adds the conditions of one qual. */
static void
add_conjuncts(SpeqlForm *form, Node *quals, ParamListInfo params)
{
	Expr *expr;

	if (quals == NULL)
		return;
	expr = canonicalize_qual((Expr *) fold(quals, params), false);
	form->conjuncts = list_concat(form->conjuncts, make_ands_implicit(expr));
}

/* Folds the conditions of an outer join and of what is below it, which stay where they are. */
static void
fold_join(Node *node, ParamListInfo params)
{
	if (!IsA(node, JoinExpr))
		return;
	fold_join(castNode(JoinExpr, node)->larg, params);
	fold_join(castNode(JoinExpr, node)->rarg, params);
	if (castNode(JoinExpr, node)->quals)
		castNode(JoinExpr, node)->quals =
		    (Node *) canonicalize_qual((Expr *) fold(castNode(JoinExpr, node)->quals, params),
		                               false);
}

/* Takes a FROM tree apart, as far as inner joins go. */
static void
add_items(SpeqlForm *form, Node *node, ParamListInfo params)
{
	ListCell *lc;

	if (IsA(node, FromExpr))
	{
		foreach (lc, castNode(FromExpr, node)->fromlist)
			add_items(form, lfirst(lc), params);
		add_conjuncts(form, castNode(FromExpr, node)->quals, params);
	}
	else if (IsA(node, JoinExpr) && castNode(JoinExpr, node)->jointype == JOIN_INNER)
	{
		add_items(form, castNode(JoinExpr, node)->larg, params);
		add_items(form, castNode(JoinExpr, node)->rarg, params);
		add_conjuncts(form, castNode(JoinExpr, node)->quals, params);
	}
	else
	{
		fold_join(node, params);
		form->items = lappend(form->items, node);
	}
}

/* ---- classes ----------------------------------------------------------------------------- */

/* True when values that are equal are also identical, so that one may be shown for the other. */
bool
speql_equal_is_identical(Oid type, Oid collation)
{
	Oid opclass = GetDefaultOpClass(type, BTREE_AM_OID);
	Oid opfamily, opcintype, proc;

	/* char(3) equals char(5) but for the blanks that it ends with. */
	if (!OidIsValid(opclass) || type == BPCHAROID)
		return false;
	opfamily = get_opclass_family(opclass);
	opcintype = get_opclass_input_type(opclass);
	proc = get_opfamily_proc(opfamily, opcintype, opcintype, BTEQUALIMAGE_PROC);
	return OidIsValid(proc) &&
	       DatumGetBool(OidFunctionCall1Coll(proc, collation, ObjectIdGetDatum(opcintype)));
}

/* True for column = column of one type whose equality is identity. */
static bool
is_identity(Node *node, Var **a, Var **b)
{
	OpExpr *op = (OpExpr *) node;

	if (!IsA(node, OpExpr) || list_length(op->args) != 2 || !IsA(linitial(op->args), Var) ||
	    !IsA(lsecond(op->args), Var))
		return false;
	*a = linitial(op->args);
	*b = lsecond(op->args);
	return (*a)->varlevelsup == 0 && (*b)->varlevelsup == 0 && (*a)->vartype == (*b)->vartype &&
	       (*a)->varcollid == (*b)->varcollid && op_mergejoinable(op->opno, (*a)->vartype) &&
	       speql_equal_is_identical((*a)->vartype, op->inputcollid);
}

/* The class that holds a column, or NULL. */
static List *
class_of(List *classes, const Var *var)
{
	ListCell *lc;

	foreach (lc, classes)
		if (list_member(lfirst(lc), var))
			return lfirst(lc);
	return NULL;
}

/* Makes two columns one class. */
static List *
merge_classes(List *classes, Var *a, Var *b)
{
	List *of_a = class_of(classes, a), *of_b = class_of(classes, b);
	List *merged;

	if (of_a != NULL && of_a == of_b)
		return classes;
	classes = list_delete_ptr(list_delete_ptr(classes, of_a), of_b);
	merged = list_concat(of_a ? list_copy(of_a) : list_make1(a), of_b ? of_b : list_make1(b));
	return lappend(classes, merged);
}

/* The classes of a list of conditions. */
static List *
make_classes(List *conjuncts)
{
	List *classes = NIL;
	ListCell *lc;
	Var *a, *b;

	foreach (lc, conjuncts)
		if (is_identity(lfirst(lc), &a, &b))
			classes = merge_classes(classes, a, b);
	return classes;
}

/* ---- the form ---------------------------------------------------------------------------- */

/* Resolves join aliases in what stands in FROM and reads what is beside it. */
static void
resolve_lateral(Query *q)
{
	ListCell *lc;

	foreach (lc, q->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_SUBQUERY && rte->lateral)
			rte->subquery = (Query *) PP_FLATTEN_JOIN_ALIASES(q, (Node *) rte->subquery);
		else if (rte->rtekind == RTE_FUNCTION)
			rte->functions = (List *) PP_FLATTEN_JOIN_ALIASES(q, (Node *) rte->functions);
		else if (rte->rtekind == RTE_VALUES)
			rte->values_lists = (List *) PP_FLATTEN_JOIN_ALIASES(q, (Node *) rte->values_lists);
	}
}

/*
 * Lets columns be named by the tables that they are of, not by the join that they were read from.
 */
static bool
unalias_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		castNode(Var, node)->varnosyn = 0;
		castNode(Var, node)->varattnosyn = 0;
		return false;
	}
	if (IsA(node, Query))
		return query_tree_walker(castNode(Query, node), unalias_walker, context, 0);
	return expression_tree_walker(node, unalias_walker, context);
}

/* Resolves join aliases and grouping columns, folds constants: everything but FROM and WHERE. */
static void
resolve_columns(Query *q, ParamListInfo params)
{
	bool groups = PP_HAS_GROUP_RTE(q);

	if (groups)
	{
		q->targetList = (List *) PP_FLATTEN_GROUPS(q, (Node *) q->targetList);
		q->havingQual = PP_FLATTEN_GROUPS(q, q->havingQual);
		PP_CLEAR_GROUP_RTE(q);
	}
	q->targetList = (List *) fold(PP_FLATTEN_JOIN_ALIASES(q, (Node *) q->targetList), params);
	q->havingQual = fold(PP_FLATTEN_JOIN_ALIASES(q, q->havingQual), params);
	q->windowClause = (List *) PP_FLATTEN_JOIN_ALIASES(q, (Node *) q->windowClause);
	q->jointree = (FromExpr *) PP_FLATTEN_JOIN_ALIASES(q, (Node *) q->jointree);
	resolve_lateral(q);
	(void) unalias_walker((Node *) q, NULL);
	if (!q->hasWindowFuncs)
		q->windowClause = NIL;
}

/* The entries of outer joins, which stay in FROM. */
static Bitmapset *
join_indexes(Node *node)
{
	ListCell *lc;
	Bitmapset *indexes = NULL;

	if (node == NULL || IsA(node, RangeTblRef))
		return NULL;
	if (IsA(node, List))
	{
		foreach (lc, (List *) node)
			indexes = bms_add_members(indexes, join_indexes(lfirst(lc)));
		return indexes;
	}
	indexes = bms_union(join_indexes(castNode(JoinExpr, node)->larg),
	                    join_indexes(castNode(JoinExpr, node)->rarg));
	return bms_add_member(indexes, castNode(JoinExpr, node)->rtindex);
}

/* Empties the entries that nothing refers to any more: of joins and groups that were resolved. */
static void
empty_unused_entries(SpeqlForm *form)
{
	Bitmapset *used = join_indexes((Node *) form->items);
	ListCell *lc;

	foreach (lc, form->query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc), *empty;

		if (!(rte->rtekind == RTE_JOIN && !bms_is_member(foreach_current_index(lc) + 1, used)) &&
		    !PP_IS_GROUP_RTE(rte))
			continue;
		empty = makeNode(RangeTblEntry);
		empty->rtekind = RTE_RESULT;
		empty->eref = makeAlias("*RESULT*", NIL);
		lfirst(lc) = empty;
	}
}

/* True for a block whose rows no table can hold. */
static SpeqlReason
refuse(const Query *q)
{
	SpeqlReason reason;

	(void) speql_relations(q, &reason);
	if (reason != SPEQL_OK_EXACT)
		return reason;
	if (odd_column_walker((Node *) unconstify(Query *, q), NULL))
		return SPEQL_R_COLUMN;
	return SPEQL_OK_EXACT;
}

/* Makes the form of a copy of a block. */
static SpeqlForm *
form_of(const Query *block, Query *q, List *ancestors, ParamListInfo params, SpeqlReason *reason)
{
	SpeqlForm *form = palloc0(sizeof(*form));
	InlineContext inlining = {.queries = list_copy(ancestors)};
	ListCell *lc;

	form->source = block;
	form->query = q;
	(void) inline_walker((Node *) q, &inlining);
	*reason = inlining.failed ? SPEQL_R_SUBQUERY : refuse(q);
	if (*reason != SPEQL_OK_EXACT)
		return NULL;
	if (q->setOperations != NULL)
		return form;
	resolve_columns(q, params);
	add_items(form, (Node *) q->jointree, params);
	empty_unused_entries(form);
	form->classes = make_classes(form->conjuncts);
	foreach (lc, q->groupClause)
		form->groups =
		    list_append_unique(form->groups, get_sortgroupclause_expr(lfirst(lc), q->targetList));
	form->aggregated = q->hasAggs || q->groupClause || q->groupingSets || q->havingQual;
	return form;
}

/* The form that is compared. */
SpeqlForm *
speql_form(const Query *block, List *ancestors, ParamListInfo params, SpeqlReason *reason)
{
	return form_of(block, blank_copy(block), ancestors, params, reason);
}

/* The form that is run. */
SpeqlForm *
speql_named_form(const Query *block, SpeqlReason *reason)
{
	return form_of(block, copyObject(unconstify(Query *, block)), NIL, NULL, reason);
}
