/*
 * speql_index.c: see speql_index.h.
 *
 * A table is built before its reader's ORDER BY is typed, so the index for that comes later, on a
 * table that may be in use. Creating it needs no more than a lock against writers, of which there
 * are none. Which order is wanted, the plan over the table says best: it has a Sort there.
 */
#include "speql_index.h"

#include "access/genam.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "speql_build.h"
#include "speql_plantree.h"
#include "speql_registry.h"
#include "speql_scan.h"

#define COMPARED_MAX      2     /* indexes of one table for conditions */
#define COMPARED_MIN_ROWS 20000 /* of a table that gets any */
#define ORDER_MIN_ROWS    500   /* of a table that gets one for an order */
#define ORDER_KEYS_MAX    8
#define ENTRY_BYTES       20 /* of an index, with its share of pages; values come on top */

/* ---- one index --------------------------------------------------------------------------- */

/* One key of an index: a column of a speculative table, and its order. */
static IndexElem *
index_key(int column, bool descending, bool nulls_first)
{
	IndexElem *elem = makeNode(IndexElem);

	elem->name = psprintf("c%d", column);
	elem->ordering = descending ? SORTBY_DESC : SORTBY_ASC;
	elem->nulls_ordering = nulls_first ? SORTBY_NULLS_FIRST : SORTBY_NULLS_LAST;
	return elem;
}

/* The CREATE INDEX of some keys. */
static IndexStmt *
index_statement(const char *table, const char *name, List *keys)
{
	IndexStmt *stmt = makeNode(IndexStmt);

	stmt->idxname = pstrdup(name);
	stmt->relation = makeRangeVar("prepack", pstrdup(table), -1);
	stmt->accessMethod = "btree";
	stmt->indexParams = keys;
	return stmt;
}

/* Makes an index, as the owner. */
static Oid
define_index(Oid relid, IndexStmt *stmt)
{
	Oid extension, owner = speql_extension_owner(&extension), user;
	int sec_context;
	ObjectAddress address;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	address = PP_DEFINE_INDEX(relid, stmt);
	SetUserIdAndSecContext(user, sec_context);
	return address.objectId;
}

/* Makes an index if there is room for the bytes that it may take; false when there is not. */
static bool
create_index(SpeqlTable *table, IndexStmt *stmt, int64 bytes)
{
	Relation index;

	if (!speql_registry_charge(table, bytes))
		return false;
	PG_TRY();
	{
		index = index_open(define_index(table->relid, stmt), AccessShareLock);
		(void) speql_registry_charge(table,
		                             (int64) RelationGetNumberOfBlocks(index) * BLCKSZ - bytes);
		index_close(index, AccessShareLock);
	}
	PG_CATCH();
	{
		(void) speql_registry_charge(table, -bytes);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return true;
}

/* ---- for conditions ---------------------------------------------------------------------- */

/* True when a column can be indexed, and its values are short. */
static bool
indexable(Node *expr)
{
	Oid type = exprType(expr);

	return OidIsValid(GetDefaultOpClass(type, BTREE_AM_OID)) &&
	       (get_typlen(type) > 0 || type == NUMERICOID);
}

/* Indexes the columns that edits will compare. */
void
speql_index_compared(SpeqlTable *table, const char *name, const Query *definition, List *compared)
{
	int n = 0;
	ListCell *lc, *entry;

	if (table->rows < COMPARED_MIN_ROWS)
		return;
	foreach (lc, compared)
		foreach (entry, definition->targetList)
		{
			TargetEntry *tle = lfirst_node(TargetEntry, entry);
			char *index = psprintf("%s_c%d", name, tle->resno);
			List *keys = list_make1(index_key(tle->resno, false, false));

			if (n < COMPARED_MAX && indexable(lfirst(lc)) && equal(tle->expr, lfirst(lc)))
				n += create_index(table, index_statement(name, index, keys),
				                  (int64) (table->rows * (ENTRY_BYTES + 8)));
		}
}

/* ---- for an order ------------------------------------------------------------------------ */

/* The order in which a plan wants the rows of a speculative table. */
typedef struct Order
{
	const PlannedStmt *stmt;
	List *tables; /* OIDs of those that the statement reads */
	Oid relid;
	List *keys;   /* of IndexElem */
	int column;   /* the first key */
	double bytes; /* of an entry */
} Order;

/* Adds a key of a sort; false when no index of the table has this order. */
static bool
add_key(Order *o, const Sort *sort, int i)
{
	TargetEntry *tle = get_tle_by_resno(outerPlan(sort)->targetlist, sort->sortColIdx[i]);
	Var *var = tle != NULL && IsA(tle->expr, Var) ? (Var *) tle->expr : NULL;
	Oid opclass, op = sort->sortOperators[i];
	bool descending;

	if (var == NULL || var->varattno <= 0 || var->varcollid != sort->collations[i] ||
	    !OidIsValid(get_equality_op_for_ordering_op(op, &descending)))
		return false;
	opclass = GetDefaultOpClass(var->vartype, BTREE_AM_OID);
	if (!OidIsValid(opclass) || !op_in_opfamily(op, get_opclass_family(opclass)))
		return false;
	if (o->keys == NIL)
		o->column = var->varattno;
	o->keys = lappend(o->keys, index_key(var->varattno, descending, sort->nullsFirst[i]));
	o->bytes += get_typavgwidth(var->vartype, var->vartypmod);
	return true;
}

/* Stops at a Sort of rows that are read from a table. */
static bool
find_sort(const Plan *plan, void *arg)
{
	Order *o = arg;
	const Sort *sort = (const Sort *) plan;
	int n = 0;

	if (!IsA(plan, Sort) || !IsA(outerPlan(plan), SeqScan) || sort->numCols > ORDER_KEYS_MAX)
		return false;
	o->relid = rt_fetch(((Scan *) outerPlan(plan))->scanrelid, o->stmt->rtable)->relid;
	o->keys = NIL;
	o->bytes = ENTRY_BYTES;
	if (!list_member_oid(o->tables, o->relid))
		return false;
	while (n < sort->numCols && add_key(o, sort, n))
		n++;
	return n == sort->numCols;
}

/* Gives the table the index; its lock keeps the row of the registry where it is. */
static bool
index_table(const Order *o)
{
	char *name, *index;
	SpeqlTable *table;

	LockRelationOid(o->relid, ShareLock);
	table = speql_registry_locked(o->relid);
	if (table == NULL || table->rows < ORDER_MIN_ROWS)
		return false;
	name = speql_table_name(table->id);
	index = psprintf("%s_o%d", name, o->column);
	/* If the planner does not want the one that is there, it will not want another. */
	if (OidIsValid(get_relname_relid(index, get_namespace_oid("prepack", false))))
		return false;
	return create_index(table, index_statement(name, index, o->keys),
	                    (int64) (table->rows * o->bytes));
}

/* Indexes a table in the order that a plan sorts it. */
bool
speql_index_order(const PlannedStmt *stmt)
{
	Order o = {.stmt = speql_scan_statement(stmt), .tables = speql_scan_tables(stmt)};

	return o.stmt != NULL && speql_visit_plans(o.stmt, find_sort, &o) && index_table(&o);
}
