/*
 * batch_settle.c: the executor's part of outer joins with calls in their conditions.
 *
 * Two nodes (batch_join.c tells how they stand in a plan):
 *
 *	Prepack Row Number	adds a column, 1, 2, …, which is NULL above the join for a missing partner
 *	Prepack Outer Join	reads candidates and rows without any; returns what the join should have
 *
 * Outer rows: a join returns the candidates of an outer row one after the other, so the first
 * rejected one is kept until another is accepted or the next outer row begins; that keeps the order
 * that the plan above may count on. Inner rows (right and full joins) meet their candidates at any
 * time: the first rejected one of each is put aside, on disk if need be, and those that no later
 * one saved come at the end, an order that such joins do not promise.
 *
 * Memory: one row, a byte an inner row, and work_mem for the rows put aside.
 */
#include "batch.h"

#include "commands/explain.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/tuplestore.h"

#include "compat.h"

/* ---- Prepack Row Number ------------------------------------------------------------------ */

typedef struct NumberState
{
	CustomScanState css;
	int64 number; /* of the last row */
} NumberState;

static Node *create_number(CustomScan *cscan);
static Node *create_settle(CustomScan *cscan);

CustomScanMethods pp_number_scan_methods = {
    .CustomName = "Prepack Row Number",
    .CreateCustomScanState = create_number,
};

CustomScanMethods pp_settle_scan_methods = {
    .CustomName = "Prepack Outer Join",
    .CreateCustomScanState = create_settle,
};

/* Makes a node's execution state, zeroed. */
Node *
pp_batch_new_state(Size bytes, const CustomExecMethods *methods)
{
	CustomScanState *state = (CustomScanState *) newNode(bytes, T_CustomScanState);

	state->methods = methods;
	return (Node *) state;
}

/* Starts a node that has only an outer plan. */
void
pp_batch_begin_outer(CustomScanState *node, EState *estate, int eflags)
{
	outerPlanState(node) = ExecInitNode(outerPlan(node->ss.ps.plan), estate, eflags);
}

/* Copies the first n values of a row into the node's scan slot, which the caller completes. */
TupleTableSlot *
pp_batch_copy_values(CustomScanState *node, TupleTableSlot *row, int n)
{
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	slot_getallattrs(row);
	ExecClearTuple(slot);
	memcpy(slot->tts_values, row->tts_values, n * sizeof(Datum));
	memcpy(slot->tts_isnull, row->tts_isnull, n * sizeof(bool));
	return slot;
}

/* Returns the next row of next() that passes the node's filter, projected. */
TupleTableSlot *
pp_batch_filter(CustomScanState *node, bool (*next)(CustomScanState *node))
{
	ExprContext *econtext = node->ss.ps.ps_ExprContext;

	while (next(node))
	{
		ResetExprContext(econtext);
		econtext->ecxt_scantuple = node->ss.ss_ScanTupleSlot;
		if (!ExecQual(node->ss.ps.qual, econtext))
		{
			InstrCountFiltered1(node, 1);
			continue;
		}
		return node->ss.ps.ps_ProjInfo != NULL ? ExecProject(node->ss.ps.ps_ProjInfo)
		                                       : node->ss.ss_ScanTupleSlot;
	}
	return NULL;
}

/* Shows the part of a join that a node does above it. */
void
pp_batch_explain_join(CustomScanState *node, const char *type, int64 n_rejected, List *ancestors,
                      ExplainState *es)
{
	CustomScan *cscan = (CustomScan *) node->ss.ps.plan;
	List *names = set_deparse_context_plan(es->deparse_cxt, &cscan->scan.plan, ancestors);
	Node *condition = (Node *) make_ands_explicit(cscan->custom_exprs);

	ExplainPropertyText("Join Type", type, es);
	ExplainPropertyText("Join Filter", deparse_expression(condition, names, true, false), es);
	if (es->analyze)
		ExplainPropertyInteger("Rows Removed by Join Filter", NULL, n_rejected, es);
}

/* Returns the next row and its number. */
static TupleTableSlot *
exec_number(CustomScanState *node)
{
	NumberState *state = (NumberState *) node;
	TupleTableSlot *row = ExecProcNode(outerPlanState(node));
	TupleTableSlot *slot;
	int n;

	if (TupIsNull(row))
		return NULL;
	n = row->tts_tupleDescriptor->natts;
	slot = pp_batch_copy_values(node, row, n);
	slot->tts_values[n] = Int64GetDatum(++state->number);
	slot->tts_isnull[n] = false;
	return ExecStoreVirtualTuple(slot);
}

/* Ends it. */
void
pp_batch_end_outer(CustomScanState *node)
{
	ExecEndNode(outerPlanState(node));
}

/* Starts over. */
static void
rescan_number(CustomScanState *node)
{
	((NumberState *) node)->number = 0;
	if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

static const CustomExecMethods number_exec_methods = {
    .CustomName = "Prepack Row Number",
    .BeginCustomScan = pp_batch_begin_outer,
    .ExecCustomScan = exec_number,
    .EndCustomScan = pp_batch_end_outer,
    .ReScanCustomScan = rescan_number,
};

/* Makes the execution state. */
static Node *
create_number(CustomScan *cscan)
{
	return pp_batch_new_state(sizeof(NumberState), &number_exec_methods);
}

/* ---- Prepack Outer Join ------------------------------------------------------------------ */

/* What is known of an inner row. */
#define INNER_REJECTED 1 /* a candidate with it has been put aside */
#define INNER_MATCHED  2

typedef struct SettleState
{
	CustomScanState css;
	ExprState *condition;
	PpSide *sides; /* [n_columns] where the join's columns come from */
	int n_columns;
	bool keeps_outer; /* outer rows without a partner go on with NULLs */
	bool keeps_inner;

	TupleTableSlot *held; /* the outer plan's row, to be looked at next */
	int64 outer;          /* number of the outer row whose candidates are read; 0: none yet */
	bool outer_matched;
	bool outer_rejected;  /* kept holds the outer row's first candidate */
	TupleTableSlot *kept; /* of minimal tuples, also for reading rows put aside */

	uint8 *inner; /* INNER_… by number, from 1 */
	int64 n_inner;
	Tuplestorestate *aside;
	bool at_end;      /* the outer plan has ended */
	int64 n_rejected; /* candidates, for EXPLAIN ANALYZE */
} SettleState;

/* Starts the node. */
static void
begin_settle(CustomScanState *node, EState *estate, int eflags)
{
	SettleState *state = (SettleState *) node;
	CustomScan *cscan = (CustomScan *) node->ss.ps.plan;
	JoinType type = (JoinType) intVal(linitial(cscan->custom_private));
	List *sides = lsecond(cscan->custom_private);
	ListCell *lc;

	pp_batch_begin_outer(node, estate, eflags);
	state->condition = ExecInitQual(cscan->custom_exprs, &node->ss.ps);
	state->keeps_outer = type == JOIN_LEFT || type == JOIN_FULL;
	state->keeps_inner = type == JOIN_RIGHT || type == JOIN_FULL;
	state->sides = palloc_array(PpSide, list_length(sides));
	foreach (lc, sides)
		state->sides[state->n_columns++] = (PpSide) lfirst_int(lc);
	state->kept = ExecInitExtraTupleSlot(estate, ExecGetResultType(outerPlanState(node)),
	                                     &TTSOpsMinimalTuple);
}

/* Puts a row into the scan slot as it is. */
static void
store_row(SettleState *state, TupleTableSlot *row)
{
	ExecStoreVirtualTuple(pp_batch_copy_values(&state->css, row, row->tts_tupleDescriptor->natts));
}

/* Puts a row into the scan slot with NULLs for the columns of one side. */
static void
store_extended(SettleState *state, TupleTableSlot *row, PpSide missing)
{
	TupleTableSlot *slot = pp_batch_copy_values(&state->css, row, row->tts_tupleDescriptor->natts);

	for (int i = 0; i < state->n_columns; i++)
		if (state->sides[i] == missing)
			slot->tts_isnull[i] = true;
	ExecStoreVirtualTuple(slot);
}

/* What is known of an inner row, to be read or changed. */
static uint8 *
inner_of(SettleState *state, int64 number)
{
	if (number >= state->n_inner)
	{
		int64 grown = Max(number + 1, Max(state->n_inner * 2, 1024));

		if (state->inner == NULL)
			state->inner =
			    MemoryContextAllocHuge(state->css.ss.ps.state->es_query_cxt, (Size) grown);
		else
			state->inner = repalloc_huge(state->inner, (Size) grown);
		memset(state->inner + state->n_inner, 0, (Size) (grown - state->n_inner));
		state->n_inner = grown;
	}
	return &state->inner[number];
}

/* Puts the first rejected candidate of an inner row aside. */
static void
put_aside(SettleState *state, TupleTableSlot *row, int64 number)
{
	uint8 *inner = inner_of(state, number);
	MemoryContext old;

	if (*inner != 0)
		return;
	*inner = INNER_REJECTED;
	old = MemoryContextSwitchTo(state->css.ss.ps.state->es_query_cxt);
	if (state->aside == NULL)
		state->aside = tuplestore_begin_heap(false, false, work_mem);
	tuplestore_puttupleslot(state->aside, row);
	MemoryContextSwitchTo(old);
}

/* True when the join's condition holds for a candidate. */
static bool
is_match(SettleState *state, TupleTableSlot *row)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;

	ResetExprContext(econtext);
	econtext->ecxt_outertuple = row;
	return ExecQual(state->condition, econtext);
}

/* Judges one row of the join; true: there is a row in the scan slot. */
static bool
settle_row(SettleState *state, TupleTableSlot *row)
{
	bool no_outer;
	bool no_inner;
	Datum inner;

	(void) slot_getattr(row, PP_OUTER_NUMBER, &no_outer);
	inner = slot_getattr(row, PP_INNER_NUMBER, &no_inner);
	if (no_outer || no_inner)
	{
		store_row(state, row);
		return true;
	}
	if (is_match(state, row))
	{
		state->outer_matched = true;
		if (state->keeps_inner)
			*inner_of(state, DatumGetInt64(inner)) |= INNER_MATCHED;
		store_row(state, row);
		return true;
	}
	state->n_rejected++;
	if (state->keeps_outer && !state->outer_matched && !state->outer_rejected)
	{
		ExecCopySlot(state->kept, row);
		state->outer_rejected = true;
	}
	if (state->keeps_inner)
		put_aside(state, row, DatumGetInt64(inner));
	return false;
}

/* Ends an outer row; true: it had candidates but no partner, and is in the scan slot. */
static bool
end_outer_row(SettleState *state)
{
	bool unmatched = state->outer_rejected && !state->outer_matched;

	if (unmatched)
		store_extended(state, state->kept, PP_SIDE_INNER);
	state->outer_rejected = state->outer_matched = false;
	return unmatched;
}

/* True when a row belongs to another outer row than the one before it; that one becomes current. */
static bool
begins_outer_row(SettleState *state, TupleTableSlot *row)
{
	bool isnull;
	Datum number = slot_getattr(row, PP_OUTER_NUMBER, &isnull);

	if (isnull || DatumGetInt64(number) == state->outer)
		return false;
	state->outer = DatumGetInt64(number);
	return true;
}

/* Gets the next inner row that found candidates but no partner into the scan slot. */
static bool
next_unmatched_inner(SettleState *state)
{
	bool isnull;

	while (state->aside != NULL && tuplestore_gettupleslot(state->aside, true, false, state->kept))
	{
		int64 number = DatumGetInt64(slot_getattr(state->kept, PP_INNER_NUMBER, &isnull));

		if (*inner_of(state, number) & INNER_MATCHED)
			continue;
		store_extended(state, state->kept, PP_SIDE_OUTER);
		return true;
	}
	return false;
}

/* Gets the next row of the join into the scan slot; false at the end. */
static bool
next_row(CustomScanState *node)
{
	SettleState *state = (SettleState *) node;

	while (!state->at_end)
	{
		TupleTableSlot *row = state->held;

		CHECK_FOR_INTERRUPTS();
		state->held = NULL;
		if (row == NULL)
			row = ExecProcNode(outerPlanState(&state->css));
		if (TupIsNull(row))
		{
			state->at_end = true;
			if (end_outer_row(state))
				return true;
			break;
		}
		if (begins_outer_row(state, row) && end_outer_row(state))
		{
			state->held = row;
			return true;
		}
		if (settle_row(state, row))
			return true;
	}
	return next_unmatched_inner(state);
}

/* Returns the next row of the join that passes the node's filter, projected. */
static TupleTableSlot *
exec_settle(CustomScanState *node)
{
	return pp_batch_filter(node, next_row);
}

/* Forgets all rows. */
static void
forget_rows(SettleState *state)
{
	ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
	ExecClearTuple(state->kept);
	if (state->aside != NULL)
		tuplestore_end(state->aside);
	state->aside = NULL;
	if (state->inner != NULL)
		pfree(state->inner);
	state->inner = NULL;
	state->n_inner = 0;
	state->held = NULL;
	state->outer = 0;
	state->outer_matched = state->outer_rejected = state->at_end = false;
}

/* Ends the node. */
static void
end_settle(CustomScanState *node)
{
	forget_rows((SettleState *) node);
	pp_batch_end_outer(node);
}

/* Starts over. */
static void
rescan_settle(CustomScanState *node)
{
	forget_rows((SettleState *) node);
	if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

/* Shows the part of the join that the node does. */
static void
explain_settle(CustomScanState *node, List *ancestors, ExplainState *es)
{
	SettleState *state = (SettleState *) node;
	const char *type = state->keeps_outer ? (state->keeps_inner ? "Full" : "Left") : "Right";

	pp_batch_explain_join(node, type, state->n_rejected, ancestors, es);
}

static const CustomExecMethods settle_exec_methods = {
    .CustomName = "Prepack Outer Join",
    .BeginCustomScan = begin_settle,
    .ExecCustomScan = exec_settle,
    .EndCustomScan = end_settle,
    .ReScanCustomScan = rescan_settle,
    .ExplainCustomScan = explain_settle,
};

/* Makes the execution state. */
static Node *
create_settle(CustomScan *cscan)
{
	return pp_batch_new_state(sizeof(SettleState), &settle_exec_methods);
}
