/*
 * speql_scan.c: see speql_scan.h.
 *
 * The plan over the tables is a statement of its own (its own range table, its own parameters), so
 * that it runs in an executor of its own, started here without the hooks of other extensions: for
 * them there is one statement, the user's. The user's permissions are checked on the original's
 * range table, as always.
 */
#include "speql_scan.h"

#include "access/xact.h"
#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "prepack.h"
#include "speql_env.h"
#include "speql_registry.h"
#include "speql_track.h"

typedef struct SpeculationState
{
	CustomScanState css;
	QueryDesc *over_tables; /* NULL: the original runs */
	SpeqlReason reason;     /* SPEQL_OK_EXACT: all tables are fresh */
	uint64 refused_id;      /* the table that was not */
	List *uses;
	double age_s;    /* of the oldest table */
	double saved_ms; /* estimated */
	int n_columns;
} SpeculationState;

/* ---- the facts in custom_private --------------------------------------------------------- */

/* A table's facts as a list of nodes that can be copied, written as text and read back. */
static List *
use_to_list(const SpeqlUse *use)
{
	return list_make3(makeString(psprintf(UINT64_FORMAT, use->id)), makeInteger((int) use->relid),
	                  makeInteger(use->kind));
}

/* And back. */
static SpeqlUse *
use_from_list(List *facts)
{
	SpeqlUse *use = palloc(sizeof(*use));

	use->id = strtou64(strVal(linitial(facts)), NULL, 10);
	use->relid = (Oid) intVal(lsecond(facts));
	use->kind = (SpeqlReason) intVal(lthird(facts));
	return use;
}

/* ---- the verdict ------------------------------------------------------------------------- */

/* May this table be read now? Takes a lock on it first, so that it cannot go away. */
static SpeqlReason
verdict_on(const SpeqlUse *use, Snapshot snapshot, SpeqlTicket *ticket)
{
	LockRelationOid(use->relid, AccessShareLock);
	if (!speql_registry_ticket(use->id, ticket) || ticket->relid != use->relid)
		return SPEQL_R_GONE;
	/* A plan that was kept may run as another role or under other settings than it was made. */
	if (ticket->roleid != GetUserId() || ticket->env != speql_env_current())
		return SPEQL_R_ENVIRONMENT;
	return speql_track_verdict(ticket->deps, ticket->n_deps, ticket->snapshot, snapshot);
}

/* Decides for the tables or for the original. */
static void
decide(SpeculationState *state, Snapshot snapshot, double cost_saved)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell *lc;

	state->reason = pp_enabled && pp_use_speculation ? SPEQL_OK_EXACT : SPEQL_R_ENVIRONMENT;
	foreach (lc, state->uses)
	{
		SpeqlUse *use = lfirst(lc);
		SpeqlTicket *ticket = palloc(sizeof(*ticket));

		if (state->reason != SPEQL_OK_EXACT)
			break;
		state->reason = verdict_on(use, snapshot, ticket);
		state->refused_id = use->id;
		if (state->reason != SPEQL_OK_EXACT)
			break;
		state->age_s = Max(state->age_s, (now - ticket->built_at) / 1e6);
		/* What a unit of cost takes here, as the build of the table showed. */
		state->saved_ms =
		    Max(state->saved_ms, cost_saved * ticket->build_ms / Max(ticket->cost, 1.0));
	}
}

/* ---- the node ---------------------------------------------------------------------------- */

/* Starts the plan over the tables. */
static void
start_over_tables(SpeculationState *state, PlannedStmt *plan, EState *estate, int eflags)
{
	state->over_tables =
	    CreateQueryDesc(plan, estate->es_sourceText, estate->es_snapshot,
	                    estate->es_crosscheck_snapshot, None_Receiver, estate->es_param_list_info,
	                    estate->es_queryEnv, estate->es_instrument);
	standard_ExecutorStart(state->over_tables,
	                       (eflags & EXEC_FLAG_EXPLAIN_ONLY) | EXEC_FLAG_SKIP_TRIGGERS);
}

/* Decides, and starts one of the two. */
static void
scan_begin(CustomScanState *node, EState *estate, int eflags)
{
	SpeculationState *state = (SpeculationState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	PlannedStmt *over_tables = linitial_node(PlannedStmt, scan->custom_private);
	Plan *original = outerPlan(scan);
	ListCell *lc;

	foreach (lc, (List *) lsecond(scan->custom_private))
		state->uses = lappend(state->uses, use_from_list(lfirst(lc)));
	state->n_columns = list_length(scan->custom_scan_tlist);
	decide(state, estate->es_snapshot, original->total_cost - over_tables->planTree->total_cost);
	if (state->reason == SPEQL_OK_EXACT)
		start_over_tables(state, over_tables, estate, eflags);
	else
		outerPlanState(node) = ExecInitNode(original, estate, eflags);
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	if (state->reason != SPEQL_OK_EXACT)
	{
		speql_count(state->reason);
		return;
	}
	foreach (lc, state->uses)
	{
		speql_count(((SpeqlUse *) lfirst(lc))->kind);
		speql_registry_hit(((SpeqlUse *) lfirst(lc))->id, state->saved_ms);
		state->saved_ms = 0;
	}
}

/* The next row of the tables' plan. */
static TupleTableSlot *
next_over_tables(SpeculationState *state)
{
	EState *estate = state->over_tables->estate;
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	TupleTableSlot *slot;

	ResetPerTupleExprContext(estate);
	slot = ExecProcNode(state->over_tables->planstate);
	MemoryContextSwitchTo(old);
	return slot;
}

/* The next row, without columns that only sorting needed (they come last). */
static TupleTableSlot *
scan_exec(CustomScanState *node)
{
	SpeculationState *state = (SpeculationState *) node;
	TupleTableSlot *in =
	    state->over_tables ? next_over_tables(state) : ExecProcNode(outerPlanState(node));
	TupleTableSlot *out = node->ss.ss_ScanTupleSlot;

	ExecClearTuple(out);
	if (TupIsNull(in))
		return NULL;
	slot_getsomeattrs(in, state->n_columns);
	memcpy(out->tts_values, in->tts_values, sizeof(Datum) * state->n_columns);
	memcpy(out->tts_isnull, in->tts_isnull, sizeof(bool) * state->n_columns);
	return ExecStoreVirtualTuple(out);
}

/* Ends what was started. */
static void
scan_end(CustomScanState *node)
{
	SpeculationState *state = (SpeculationState *) node;

	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	if (state->over_tables)
	{
		/* A plan that is only shown has run nothing that could be finished. */
		if (!(state->over_tables->estate->es_top_eflags & EXEC_FLAG_EXPLAIN_ONLY))
			standard_ExecutorFinish(state->over_tables);
		standard_ExecutorEnd(state->over_tables);
		FreeQueryDesc(state->over_tables);
		state->over_tables = NULL;
	}
	else
		ExecEndNode(outerPlanState(node));
}

/* Starts over. The snapshot is the same, so the verdict is. */
static void
scan_rescan(CustomScanState *node)
{
	SpeculationState *state = (SpeculationState *) node;

	if (state->over_tables)
		ExecReScan(state->over_tables->planstate);
	else if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

/* Shows the tables, the verdict, and the plan over them. */
static void
scan_explain(CustomScanState *node, List *ancestors, ExplainState *es)
{
	SpeculationState *state = (SpeculationState *) node;
	List *names = NIL;
	ListCell *lc;

	foreach (lc, state->uses)
	{
		SpeqlUse *use = lfirst(lc);

		names =
		    lappend(names, psprintf(UINT64_FORMAT " (%s)", use->id, speql_reason_name(use->kind)));
	}
	ExplainPropertyList(state->over_tables ? "Tables" : "Tables Not Used", names, es);
	if (state->over_tables == NULL)
	{
		ExplainPropertyText("Reason", speql_reason_name(state->reason), es);
		return;
	}
	if (es->costs)
		ExplainPropertyFloat("Age", "s", state->age_s, 1, es);
	if (es->format == EXPLAIN_FORMAT_TEXT)
	{
		ExplainState nested = *es;

		/* It would print the settings and the query's number again. */
		nested.settings = nested.verbose = false;
		ExplainPrintPlan(&nested, state->over_tables);
		return;
	}
	ExplainPrintPlan(es, state->over_tables);
}

static CustomExecMethods scan_exec_methods = {
    .CustomName = "Prepack Speculation",
    .BeginCustomScan = scan_begin,
    .ExecCustomScan = scan_exec,
    .EndCustomScan = scan_end,
    .ReScanCustomScan = scan_rescan,
    .ExplainCustomScan = scan_explain,
};

/* Makes the node's state. */
static Node *
scan_create_state(CustomScan *scan)
{
	SpeculationState *state =
	    (SpeculationState *) newNode(sizeof(SpeculationState), T_CustomScanState);

	state->css.methods = &scan_exec_methods;
	return (Node *) state;
}

static CustomScanMethods scan_methods = {
    .CustomName = "Prepack Speculation",
    .CreateCustomScanState = scan_create_state,
};

/* Registers the node. */
void
speql_scan_install(void)
{
	RegisterCustomScanMethods(&scan_methods);
}

/* ---- planning ---------------------------------------------------------------------------- */

/* Puts the node on top. */
void
speql_scan_wrap(PlannedStmt *original, PlannedStmt *over_tables, List *uses)
{
	CustomScan *scan = makeNode(CustomScan);
	Plan *below = original->planTree, *other = over_tables->planTree;
	List *facts = NIL;
	ListCell *lc;

	foreach (lc, below->targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);
		int i = list_length(scan->custom_scan_tlist) + 1;
		Var *from, *to;

		if (tle->resjunk)
			break; /* the rest is junk, too */
		from = makeVarFromTargetEntry(OUTER_VAR, tle);
		to = makeVarFromTargetEntry(INDEX_VAR, tle);
		to->varattno = i;
		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
		                                  makeTargetEntry((Expr *) from, i, tle->resname, false));
		tle = flatCopyTargetEntry(tle);
		tle->expr = (Expr *) to;
		scan->scan.plan.targetlist = lappend(scan->scan.plan.targetlist, tle);
	}
	foreach (lc, uses)
		facts = lappend(facts, use_to_list(lfirst(lc)));
	scan->scan.plan.startup_cost = other->startup_cost;
	scan->scan.plan.total_cost = other->total_cost;
	scan->scan.plan.plan_rows = other->plan_rows;
	scan->scan.plan.plan_width = other->plan_width;
	scan->scan.plan.lefttree = below;
	scan->scan.plan.plan_node_id = below->plan_node_id; /* nothing in parallel is above it */
	scan->custom_private = list_make2(over_tables, facts);
	scan->methods = &scan_methods;
	original->planTree = &scan->scan.plan;
	original->relationOids = list_concat(original->relationOids, over_tables->relationOids);
	original->invalItems = list_concat(original->invalItems, over_tables->invalItems);
}

/* ---- looking at plans -------------------------------------------------------------------- */

/* True for the node. */
bool
speql_scan_is_ours(const Plan *plan)
{
	return IsA(plan, CustomScan) && ((const CustomScan *) plan)->methods == &scan_methods;
}

/* The statement over tables. */
PlannedStmt *
speql_scan_statement(const PlannedStmt *stmt)
{
	if (!speql_scan_is_ours(stmt->planTree))
		return NULL;
	return linitial_node(PlannedStmt, ((CustomScan *) stmt->planTree)->custom_private);
}

/* The tables that it reads. */
List *
speql_scan_tables(const PlannedStmt *stmt)
{
	List *relids = NIL;
	ListCell *lc;

	if (speql_scan_is_ours(stmt->planTree))
		foreach (lc, (List *) lsecond(((CustomScan *) stmt->planTree)->custom_private))
			relids = lappend_oid(relids, use_from_list(lfirst(lc))->relid);
	return relids;
}

/* The cost of the plan below the node. */
double
speql_original_cost(const PlannedStmt *stmt)
{
	const Plan *top = stmt->planTree;

	return speql_scan_is_ours(top) ? outerPlan(top)->total_cost : top->total_cost;
}
