/*
 * speql_plantree.c: see speql_plantree.h.
 */
#include "speql_plantree.h"

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/nodes.h"
#include "parser/parsetree.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

/* ---- the walk ---------------------------------------------------------------------------- */

/* The plans below a node, other than its left and right tree. */
static List *
other_children(const Plan *plan)
{
	switch (nodeTag(plan))
	{
		case T_Append:
			return ((const Append *) plan)->appendplans;
		case T_MergeAppend:
			return ((const MergeAppend *) plan)->mergeplans;
		case T_BitmapAnd:
			return ((const BitmapAnd *) plan)->bitmapplans;
		case T_BitmapOr:
			return ((const BitmapOr *) plan)->bitmapplans;
		case T_SubqueryScan:
			return list_make1(((const SubqueryScan *) plan)->subplan);
		case T_CustomScan:
			return ((const CustomScan *) plan)->custom_plans;
		default:
			return NIL;
	}
}

/* Visits a node and what is below it. */
static bool
visit_tree(const Plan *plan, SpeqlPlanVisitor visit, void *arg)
{
	ListCell *lc;

	if (plan == NULL)
		return false;
	check_stack_depth();
	if (visit(plan, arg) || visit_tree(plan->lefttree, visit, arg) ||
	    visit_tree(plan->righttree, visit, arg))
		return true;
	foreach (lc, other_children(plan))
		if (visit_tree(lfirst(lc), visit, arg))
			return true;
	return false;
}

/* Visits a statement. */
bool
speql_visit_plans(const PlannedStmt *stmt, SpeqlPlanVisitor visit, void *arg)
{
	ListCell *lc;

	if (visit_tree(stmt->planTree, visit, arg))
		return true;
	foreach (lc, stmt->subplans)
		if (visit_tree(lfirst(lc), visit, arg))
			return true;
	return false;
}

/* ---- prefetching ------------------------------------------------------------------------- */

typedef struct Prefetch
{
	const PlannedStmt *stmt;
	List *relids; /* what the plan reads, indexes too, in its order */
} Prefetch;

/* Notes the heap or the index that a node reads. */
static bool
note_relation(const Plan *plan, void *arg)
{
	Prefetch *p = arg;
	Oid relid = InvalidOid;

	switch (nodeTag(plan))
	{
		case T_SeqScan:
		case T_SampleScan:
		case T_BitmapHeapScan:
			relid = rt_fetch(((const Scan *) plan)->scanrelid, p->stmt->rtable)->relid;
			break;
		case T_IndexScan:
			relid = ((const IndexScan *) plan)->indexid;
			break;
		case T_IndexOnlyScan:
			relid = ((const IndexOnlyScan *) plan)->indexid;
			break;
		case T_BitmapIndexScan:
			relid = ((const BitmapIndexScan *) plan)->indexid;
			break;
		default:
			break;
	}
	if (OidIsValid(relid))
		p->relids = list_append_unique_oid(p->relids, relid);
	return false;
}

/* Asks for the first pages of what is read. */
void
speql_prefetch(const PlannedStmt *stmt, int pages)
{
	Prefetch p = {.stmt = stmt};
	ListCell *lc;

	(void) speql_visit_plans(stmt, note_relation, &p);
	foreach (lc, p.relids)
	{
		/* Planning locked it, or the table that it is an index of. */
		Relation rel = try_relation_open(lfirst_oid(lc), AccessShareLock);
		BlockNumber n = rel != NULL && RELKIND_HAS_STORAGE(rel->rd_rel->relkind)
		                    ? Min(RelationGetNumberOfBlocks(rel), (BlockNumber) pages)
		                    : 0;

		for (BlockNumber i = 0; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			(void) PrefetchBuffer(rel, MAIN_FORKNUM, i);
		}
		pages -= (int) n;
		if (rel != NULL)
			relation_close(rel, AccessShareLock);
	}
}
