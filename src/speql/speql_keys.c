/*
 * speql_keys.c: what keys say about the rows of a definition.
 *
 * A table of the definition that the query does not read may be left out of account when joining it
 * neither drops nor multiplies rows: it is joined along a validated foreign key whose columns are
 * never null, all of the key and nothing else (Goldstein and Larson, section 3.2); neither are they
 * where an outer join finds no partner. Such tables are taken off one after the other.
 *
 * That a foreign key is valid does not prove that it holds: superusers can write without triggers,
 * logical replication does, triggers can suppress a cascade. So the build of a table looks for
 * orphans under the table's own snapshot; whatever is written later makes the table stale.
 */
#include "speql_match.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "nodes/bitmapset.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "compat.h"

/* True for a constraint that the server checks at every moment, or that is checked here. */
static bool
constraint_holds(Oid constraint)
{
	HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	bool holds = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_constraint c = (Form_pg_constraint) GETSTRUCT(tuple);

		holds = c->convalidated && !c->condeferrable && PP_CONSTRAINT_ENFORCED(c);
		ReleaseSysCache(tuple);
	}
	return holds;
}

/* True when a column can never be null. */
static bool
never_null(Relation rel, AttrNumber column)
{
	return TupleDescAttr(RelationGetDescr(rel), column - 1)->attnotnull;
}

/* True when the conditions are column = column, key column for key column, of a foreign key. */
static bool
conditions_follow_key(List *conditions, const ForeignKeyCacheInfo *key, int from, int to)
{
	if (list_length(conditions) != key->nkeys)
		return false;
	for (int i = 0; i < key->nkeys; i++)
	{
		bool found = false;
		ListCell *lc;

		foreach (lc, conditions)
		{
			OpExpr *op = lfirst(lc);
			Var *a = linitial(op->args), *b = lsecond(op->args);

			if (a->varno == to)
			{
				Var *swap = a;

				a = b;
				b = swap;
			}
			found = found || (a->varno == from && b->varno == to && a->varattno == key->conkey[i] &&
			                  b->varattno == key->confkey[i]);
		}
		if (!found)
			return false;
	}
	return true;
}

/* True when the constraints of a relation speak of all rows that are read by its name. */
static bool
keys_cover_all(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE || !has_subclass(relid);
}

/* True when every row of one relation has exactly one partner in another by these conditions. */
static bool
joined_along_key(const SpeqlForm *v, List *conditions, int from, int to)
{
	Oid from_relid = rt_fetch(from, v->query->rtable)->relid;
	Oid to_relid = rt_fetch(to, v->query->rtable)->relid;
	Relation rel;
	bool found = false;
	ListCell *lc;

	if (!keys_cover_all(from_relid) || !keys_cover_all(to_relid))
		return false;
	rel = table_open(from_relid, AccessShareLock);
	foreach (lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *key = lfirst(lc);
		bool all_set = key->confrelid == to_relid;

		for (int i = 0; i < key->nkeys && all_set; i++)
			all_set = never_null(rel, key->conkey[i]);
		if (all_set && constraint_holds(key->conoid) &&
		    conditions_follow_key(conditions, key, from, to))
			found = true;
	}
	table_close(rel, NoLock);
	return found;
}

/* True for column = column by an operator that foreign keys use, too. */
static bool
is_column_equality(Node *node)
{
	OpExpr *op = (OpExpr *) node;

	return IsA(node, OpExpr) && list_length(op->args) == 2 && IsA(linitial(op->args), Var) &&
	       IsA(lsecond(op->args), Var) && op_mergejoinable(op->opno, exprType(linitial(op->args)));
}

/* True when a relation below an item of FROM gives its own rows there, none of nulls instead. */
static bool
rows_are_own(Node *item, int index)
{
	JoinExpr *join = (JoinExpr *) item;

	if (IsA(item, RangeTblRef))
		return ((RangeTblRef *) item)->rtindex == index;
	if (!IsA(item, JoinExpr))
		return false;
	return ((join->jointype == JOIN_INNER || join->jointype == JOIN_LEFT) &&
	        rows_are_own(join->larg, index)) ||
	       ((join->jointype == JOIN_INNER || join->jointype == JOIN_RIGHT) &&
	        rows_are_own(join->rarg, index));
}

/* True for a relation that no outer join of the definition fills with nulls. */
static bool
never_filled(const SpeqlForm *v, int index)
{
	ListCell *lc;

	foreach (lc, v->items)
		if (rows_are_own(lfirst(lc), index))
			return true;
	return false;
}

/* Tries to take one relation off; the conditions that go with it are added to *implied. */
static bool
take_off(const SpeqlForm *v, int index, List *left, List **implied)
{
	RangeTblEntry *rte = rt_fetch(index, v->query->rtable);
	List *conditions = NIL;
	int partner = 0;
	ListCell *lc;

	if (rte->rtekind != RTE_RELATION || !rte->inh)
		return false;
	foreach (lc, left)
	{
		Bitmapset *read = pull_varnos(NULL, lfirst(lc));
		int other;

		if (!bms_is_member(index, read))
			continue;
		read = bms_del_member(read, index);
		if (!is_column_equality(lfirst(lc)) || !bms_get_singleton_member(read, &other) ||
		    (partner != 0 && partner != other))
			return false;
		partner = other;
		conditions = lappend(conditions, lfirst(lc));
	}
	if (partner == 0 || rt_fetch(partner, v->query->rtable)->rtekind != RTE_RELATION ||
	    !never_filled(v, partner) || !joined_along_key(v, conditions, partner, index))
		return false;
	*implied = list_concat(*implied, conditions);
	return true;
}

/* Takes tables off, whatever their order. */
bool
speql_keys_take_off(const SpeqlForm *v, List *items, List **implied)
{
	List *left = v->conjuncts;
	bool progress = true;

	items = list_copy(items);
	*implied = NIL;
	while (items != NIL && progress)
	{
		ListCell *lc;

		progress = false;
		foreach (lc, items)
		{
			if (!IsA(lfirst(lc), RangeTblRef) ||
			    !take_off(v, lfirst_node(RangeTblRef, lc)->rtindex, left, implied))
				continue;
			left = list_difference_ptr(left, *implied);
			items = foreach_delete_current(items, lc);
			progress = true;
		}
	}
	return items == NIL;
}

/* ---- do they hold? ----------------------------------------------------------------------- */

/* A block that reads one relation without asking who may, as "SELECT 1 FROM … WHERE …". */
static Query *
read_one(const RangeTblEntry *rte, Expr *condition)
{
	Query *query = makeNode(Query);
	RangeTblRef *ref = makeNode(RangeTblRef);
	RangeTblEntry *own = copyObject(unconstify(RangeTblEntry *, rte));
	Const *one = makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(1), false, true);

	PP_UNCHECKED(query, own);
	ref->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = list_make1(own);
	query->jointree = makeFromExpr(list_make1(ref), (Node *) condition);
	query->targetList = list_make1(makeTargetEntry((Expr *) one, 1, "c", false));
	return query;
}

/* Rows of one relation that have no partner in another. */
static Query *
orphans_of(const SpeqlForm *v, List *conditions, int from, int to)
{
	SubLink *exists = makeNode(SubLink);
	Query *query;
	ListCell *lc, *arg;

	conditions = copyObject(conditions);
	foreach (lc, conditions)
		foreach (arg, lfirst_node(OpExpr, lc)->args)
		{
			Var *var = lfirst_node(Var, arg);

			var->varlevelsup = var->varno == from;
			var->varno = var->varnosyn = 1;
		}
	exists->subLinkType = EXISTS_SUBLINK;
	exists->subselect =
	    (Node *) read_one(rt_fetch(to, v->query->rtable), make_ands_explicit(conditions));
	exists->location = -1;
	query =
	    read_one(rt_fetch(from, v->query->rtable), makeBoolExpr(NOT_EXPR, list_make1(exists), -1));
	query->hasSubLinks = true;
	query->limitCount = (Node *) makeConst(INT8OID, -1, InvalidOid, sizeof(int64), Int64GetDatum(1),
	                                       false, FLOAT8PASSBYVAL);
	return query;
}

/* The conditions between two relations and nothing else, if all of them equate columns. */
static List *
conditions_between(const SpeqlForm *v, int from, int to)
{
	Bitmapset *both = bms_add_member(bms_make_singleton(from), to);
	List *conditions = NIL;
	ListCell *lc;

	foreach (lc, v->conjuncts)
	{
		if (!bms_equal(pull_varnos(NULL, lfirst(lc)), both))
			continue;
		if (!is_column_equality(lfirst(lc)))
			return NIL;
		conditions = lappend(conditions, lfirst(lc));
	}
	return conditions;
}

/* True for an item of FROM that is a relation by itself. */
static bool
is_relation(const SpeqlForm *v, Node *item)
{
	return IsA(item, RangeTblRef) &&
	       rt_fetch(castNode(RangeTblRef, item)->rtindex, v->query->rtable)->rtekind ==
	           RTE_RELATION;
}

/* True when nothing is asked of a relation but to be joined: only then is it ever taken off. */
static bool
is_only_joined(const SpeqlForm *v, int index)
{
	ListCell *lc;

	foreach (lc, v->conjuncts)
	{
		Bitmapset *read = pull_varnos(NULL, lfirst(lc));

		if (bms_is_member(index, read) &&
		    (bms_num_members(read) != 2 || !is_column_equality(lfirst(lc))))
			return false;
	}
	return true;
}

/* Looks at all pairs. */
List *
speql_keys_orphans(const SpeqlForm *v)
{
	List *queries = NIL;
	ListCell *a, *b;

	foreach (a, v->items)
		foreach (b, v->items)
		{
			int from, to;
			List *conditions;

			if (a == b || !is_relation(v, lfirst(a)) || !is_relation(v, lfirst(b)))
				continue;
			from = lfirst_node(RangeTblRef, a)->rtindex;
			to = lfirst_node(RangeTblRef, b)->rtindex;
			conditions = conditions_between(v, from, to);
			if (conditions != NIL && is_only_joined(v, to) &&
			    joined_along_key(v, conditions, from, to))
				queries = lappend(queries, orphans_of(v, conditions, from, to));
		}
	return queries;
}

/* ---- keys that the server guards itself -------------------------------------------------- */

/* True when a column is never null. */
bool
speql_keys_never_null(Oid relid, AttrNumber column)
{
	HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(column));
	bool declared = false;

	if (HeapTupleIsValid(tuple))
	{
		declared = ((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;
		ReleaseSysCache(tuple);
	}
	return declared && keys_cover_all(relid);
}

/* The columns of a relation's primary key; NIL when it has none. */
List *
speql_keys_primary(Oid relid)
{
	Oid constraint;
	Bitmapset *columns = get_primary_key_attnos(relid, false, &constraint);
	List *numbers = NIL;
	int i = -1;

	while ((i = bms_next_member(columns, i)) >= 0)
		numbers = lappend_int(numbers, i + FirstLowInvalidHeapAttributeNumber);
	return numbers;
}
