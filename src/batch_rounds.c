/*
 * batch_rounds.c: the executor's part of semi and anti joins with calls in their conditions.
 *
 * EXISTS and its like stop at the first match, so asking about all candidates at once may ask about
 * a thousand where one decides. Asking one after the other is what the join itself would do. Two
 * nodes (batch_join.c tells how they stand in a plan) do both: they go through the candidates of
 * many outer rows side by side.
 *
 *	Prepack Rounds		buffers a window of outer rows with their candidates, and returns, round by
 *						round, the next candidates of the rows that are still undecided
 *	Prepack Semi Join	judges them, drives the rounds, returns the window's rows in their order
 *
 * Between the two, Batch nodes make the calls of a round, in as few batches as it takes. A round
 * gives each row one candidate where that fills a batch; else more, but never more than the row has
 * had before, so that the calls are at most twice those of the join. The end of a round is an end
 * of input, and the next begins with a rescan: nodes between need to know nothing of it.
 *
 * Memory: a window holds work_mem of candidates, of three batches of outer rows at most. An outer
 * row with more candidates goes on in the next window.
 */
#include "batch.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"

#define PP_FIRST_WINDOW   16 /* outer rows; doubles, since a LIMIT above may want few */
#define PP_WINDOW_BATCHES 3

static Node *create_rounds(CustomScan *cscan);
static Node *create_semi(CustomScan *cscan);

CustomScanMethods pp_rounds_scan_methods = {
    .CustomName = "Prepack Rounds",
    .CreateCustomScanState = create_rounds,
};

CustomScanMethods pp_semi_scan_methods = {
    .CustomName = "Prepack Semi Join",
    .CreateCustomScanState = create_semi,
};

/* ---- Prepack Rounds ---------------------------------------------------------------------- */

/* An outer row of the window. Its candidates are tuples[first + 0 … n - 1]. */
typedef struct OuterRow
{
	int64 number;
	int first;
	int n;
	int next;    /* candidate to return next */
	int until;   /* this round ends before it */
	int judged;  /* candidates that came back */
	int64 asked; /* candidates returned in earlier windows */
	bool matched;
	int match; /* the partner's tuple; without one, the first */
} OuterRow;

/* What the next rescan means. */
typedef enum RoundsNext
{
	ROUNDS_START = 0, /* what it says: start over */
	ROUNDS_ROUND,
	ROUNDS_WINDOW
} RoundsNext;

typedef struct RoundsState
{
	CustomScanState css;
	RoundsNext next;
	MemoryContext window; /* rows and tuples */
	OuterRow *rows;       /* [n_rows of max_rows] */
	int n_rows;
	int max_rows;
	MinimalTuple *tuples;
	int n_tuples;
	int tuples_capacity;
	Size bytes; /* of the tuples */
	int i_row;  /* whose candidates are being returned */
	bool is_loaded;
	bool at_end;          /* the join has no more rows */
	TupleTableSlot *row;  /* a tuple of the window */
	TupleTableSlot *held; /* the row after the window; empty: none */
	int64 settled;        /* outer row that was matched in an earlier window: skip what is left */
	int64 carried;        /* outer row that goes on from the window before … */
	int64 carried_asked;  /* … with so many candidates returned */
} RoundsState;

/* The number of a candidate's outer row. */
static int64
outer_number(TupleTableSlot *row)
{
	bool isnull;

	return DatumGetInt64(slot_getattr(row, PP_OUTER_NUMBER, &isnull));
}

/* A tuple of the window in its slot. */
static TupleTableSlot *
window_tuple(RoundsState *state, int i)
{
	return ExecStoreMinimalTuple(state->tuples[i], state->row, false);
}

/* Forgets the window, and what was read beyond it. */
static void
forget_window(RoundsState *state)
{
	MemoryContextReset(state->window);
	state->rows = NULL;
	state->tuples = NULL;
	state->n_rows = state->n_tuples = state->tuples_capacity = state->i_row = 0;
	state->bytes = 0;
	state->is_loaded = false;
}

/* Starts the node. */
static void
begin_rounds(CustomScanState *node, EState *estate, int eflags)
{
	RoundsState *state = (RoundsState *) node;
	TupleDesc columns;

	pp_batch_begin_outer(node, estate, eflags);
	columns = ExecGetResultType(outerPlanState(node));
	state->row = ExecInitExtraTupleSlot(estate, columns, &TTSOpsMinimalTuple);
	state->held = ExecInitExtraTupleSlot(estate, columns, &TTSOpsMinimalTuple);
	state->window =
	    AllocSetContextCreate(estate->es_query_cxt, "prepack window", ALLOCSET_DEFAULT_SIZES);
	state->max_rows = PP_FIRST_WINDOW;
}

/* Adds a candidate to the window; false: there is no room for it. */
static bool
add_candidate(RoundsState *state, TupleTableSlot *row)
{
	int64 number = outer_number(row);
	bool is_new = state->n_rows == 0 || state->rows[state->n_rows - 1].number != number;
	MemoryContext old;

	if ((is_new && state->n_rows == state->max_rows) ||
	    (state->n_tuples > 0 && state->bytes >= (Size) work_mem * 1024))
		return false;
	old = MemoryContextSwitchTo(state->window);
	if (state->n_tuples == state->tuples_capacity)
	{
		Size n = Max((Size) state->tuples_capacity * 2, 64);

		state->tuples = state->tuples == NULL
		                    ? palloc_array(MinimalTuple, n)
		                    : repalloc_huge(state->tuples, mul_size(n, sizeof(MinimalTuple)));
		state->tuples_capacity = (int) n;
	}
	if (is_new)
		state->rows[state->n_rows++] =
		    (OuterRow){.number = number,
		               .first = state->n_tuples,
		               .match = state->n_tuples,
		               .asked = number == state->carried ? state->carried_asked : 0};
	state->tuples[state->n_tuples] = ExecCopySlotMinimalTuple(row);
	state->bytes += state->tuples[state->n_tuples++]->t_len;
	state->rows[state->n_rows - 1].n++;
	MemoryContextSwitchTo(old);
	return true;
}

/* Reads the next window. */
static void
load_window(RoundsState *state)
{
	forget_window(state);
	state->is_loaded = true;
	state->rows = MemoryContextAlloc(state->window, mul_size(state->max_rows, sizeof(OuterRow)));
	for (;;)
	{
		TupleTableSlot *row =
		    TupIsNull(state->held) ? ExecProcNode(outerPlanState(&state->css)) : state->held;

		CHECK_FOR_INTERRUPTS();
		if (TupIsNull(row))
		{
			state->at_end = true;
			break;
		}
		if (outer_number(row) != state->settled && !add_candidate(state, row))
		{
			if (row != state->held)
				ExecCopySlot(state->held, row);
			break;
		}
		ExecClearTuple(state->held);
	}
	state->max_rows = Min(state->max_rows * 2, Max(pp_batch_rows, 1) * PP_WINDOW_BATCHES);
}

/* True while a row has candidates that may decide it. */
static bool
is_waiting(const OuterRow *row)
{
	return !row->matched && row->next < row->n;
}

/* How many rows of the window are undecided, with candidates left. */
static int
count_waiting(const RoundsState *state)
{
	int n = 0;

	for (int i = 0; i < state->n_rows; i++)
		n += is_waiting(&state->rows[i]);
	return n;
}

/* Gives each undecided row its share of the next round. */
static void
begin_round(RoundsState *state)
{
	int64 share = pp_batch_rows / Max(count_waiting(state), 1);

	state->i_row = 0;
	for (int i = 0; i < state->n_rows; i++)
	{
		OuterRow *row = &state->rows[i];
		int64 quota = Max(Min(share, row->asked + row->next), 1);

		row->until = is_waiting(row) ? row->next + (int) Min(quota, row->n - row->next) : row->next;
	}
}

/* Returns the next candidate of the round. */
static TupleTableSlot *
exec_rounds(CustomScanState *node)
{
	RoundsState *state = (RoundsState *) node;

	if (!state->is_loaded)
	{
		load_window(state);
		begin_round(state);
	}
	for (; state->i_row < state->n_rows; state->i_row++)
	{
		OuterRow *row = &state->rows[state->i_row];

		if (!row->matched && row->next < row->until)
		{
			TupleTableSlot *tuple = window_tuple(state, row->first + row->next++);

			return ExecStoreVirtualTuple(
			    pp_batch_copy_values(node, tuple, tuple->tts_tupleDescriptor->natts));
		}
	}
	return NULL;
}

/* True when the last row of the window has more candidates beyond it. */
static bool
last_is_open(const RoundsState *state)
{
	return state->n_rows > 0 && !TupIsNull(state->held) &&
	       outer_number(state->held) == state->rows[state->n_rows - 1].number;
}

/* Notes, before the next window is read, what of its first row is known. */
static void
carry_last(RoundsState *state)
{
	const OuterRow *last = &state->rows[state->n_rows - 1];

	if (!last_is_open(state))
		return;
	if (last->matched)
		state->settled = last->number;
	state->carried = last->number;
	state->carried_asked = last->asked + last->next;
}

/* Begins the next round or window, if Prepack Semi Join asked for the rescan; else starts over. */
static void
rescan_rounds(CustomScanState *node)
{
	RoundsState *state = (RoundsState *) node;
	RoundsNext next = state->next;

	state->next = ROUNDS_START;
	if (next == ROUNDS_ROUND)
	{
		begin_round(state);
		return;
	}
	if (next == ROUNDS_WINDOW)
	{
		carry_last(state);
		forget_window(state);
		return;
	}
	forget_window(state);
	ExecClearTuple(state->held);
	state->at_end = false;
	state->settled = state->carried = state->carried_asked = 0;
	if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

static const CustomExecMethods rounds_exec_methods = {
    .CustomName = "Prepack Rounds",
    .BeginCustomScan = begin_rounds,
    .ExecCustomScan = exec_rounds,
    .EndCustomScan = pp_batch_end_outer,
    .ReScanCustomScan = rescan_rounds,
};

/* Makes the execution state. */
static Node *
create_rounds(CustomScan *cscan)
{
	return pp_batch_new_state(sizeof(RoundsState), &rounds_exec_methods);
}

/* ---- Prepack Semi Join ------------------------------------------------------------------- */

typedef struct SemiState
{
	CustomScanState css;
	bool is_anti;
	ExprState *condition;
	const List *sides;   /* where the join's columns come from */
	RoundsState *rounds; /* some nodes below */
	bool is_judged;      /* the window's rows are being returned, i_row next */
	int i_row;
	int64 n_rejected; /* candidates, for EXPLAIN ANALYZE */
	int64 n_rounds;
} SemiState;

/* The Rounds node, below the Batch nodes that make the calls of a round. */
static RoundsState *
find_rounds(PlanState *plan)
{
	while (((CustomScanState *) plan)->methods != &rounds_exec_methods)
		plan = outerPlanState(castNode(CustomScanState, plan));
	return (RoundsState *) plan;
}

/* Starts the node. */
static void
begin_semi(CustomScanState *node, EState *estate, int eflags)
{
	SemiState *state = (SemiState *) node;
	CustomScan *cscan = (CustomScan *) node->ss.ps.plan;

	pp_batch_begin_outer(node, estate, eflags);
	state->is_anti = intVal(linitial(cscan->custom_private)) == JOIN_ANTI;
	state->sides = lsecond(cscan->custom_private);
	state->condition = ExecInitQual(cscan->custom_exprs, &node->ss.ps);
	state->rounds = find_rounds(outerPlanState(node));
}

/* Judges the candidates of one round. */
static void
judge_round(SemiState *state)
{
	ExprContext *econtext = state->css.ss.ps.ps_ExprContext;
	RoundsState *rounds = state->rounds;
	int i_row = 0;

	for (;;)
	{
		TupleTableSlot *row = ExecProcNode(outerPlanState(&state->css));
		OuterRow *outer;
		int i_tuple;
		bool no_inner;

		CHECK_FOR_INTERRUPTS();
		if (TupIsNull(row))
			break;
		/* Candidates come in the order of the window's rows. */
		while (rounds->rows[i_row].number != outer_number(row))
			i_row++;
		outer = &rounds->rows[i_row];
		i_tuple = outer->first + outer->judged++;
		(void) slot_getattr(row, PP_INNER_NUMBER, &no_inner);
		if (no_inner || outer->matched)
			continue;
		ResetExprContext(econtext);
		econtext->ecxt_outertuple = row;
		if (ExecQual(state->condition, econtext))
		{
			outer->matched = true;
			outer->match = i_tuple;
		}
		else
			state->n_rejected++;
	}
	state->n_rounds++;
}

/* Goes on with the next round or window. */
static void
go_on(SemiState *state, RoundsNext next)
{
	state->rounds->next = next;
	ExecReScan(outerPlanState(&state->css));
}

/*
 * Puts an outer row of the window into the scan slot, with its partner: a semi join may return the
 * partner's columns for the outer row's, which they equal. An anti join's partners are NULLs.
 */
static void
store_outer(SemiState *state, const OuterRow *row)
{
	int n = list_length(state->sides);
	TupleTableSlot *slot =
	    pp_batch_copy_values(&state->css, window_tuple(state->rounds, row->match), n);

	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
		if (i >= n || (state->is_anti && list_nth_int(state->sides, i) == PP_SIDE_INNER))
			slot->tts_isnull[i] = true;
	ExecStoreVirtualTuple(slot);
}

/* Gets the next row of the judged window into the scan slot. */
static bool
next_judged(SemiState *state)
{
	RoundsState *rounds = state->rounds;

	while (state->i_row < rounds->n_rows)
	{
		OuterRow *row = &rounds->rows[state->i_row++];

		if (row->matched == state->is_anti)
			continue;
		if (state->is_anti && state->i_row == rounds->n_rows && last_is_open(rounds))
			continue; /* its partner may be in the next window */
		store_outer(state, row);
		return true;
	}
	return false;
}

/* Gets the next row of the join into the scan slot; false at the end. */
static bool
next_row(CustomScanState *node)
{
	SemiState *state = (SemiState *) node;

	for (;;)
	{
		if (state->is_judged)
		{
			if (next_judged(state))
				return true;
			if (state->rounds->at_end)
				return false;
			state->is_judged = false;
			go_on(state, ROUNDS_WINDOW);
		}
		judge_round(state);
		if (count_waiting(state->rounds) > 0)
			go_on(state, ROUNDS_ROUND);
		else
		{
			state->is_judged = true;
			state->i_row = 0;
		}
	}
}

/* Returns the next row of the join that passes the node's filter, projected. */
static TupleTableSlot *
exec_semi(CustomScanState *node)
{
	return pp_batch_filter(node, next_row);
}

/* Starts over. */
static void
rescan_semi(CustomScanState *node)
{
	SemiState *state = (SemiState *) node;

	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	state->is_judged = false;
	state->rounds->next = ROUNDS_START;
	if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

/* Shows the part of the join that the node does. */
static void
explain_semi(CustomScanState *node, List *ancestors, ExplainState *es)
{
	SemiState *state = (SemiState *) node;

	pp_batch_explain_join(node, state->is_anti ? "Anti" : "Semi", state->n_rejected, ancestors, es);
	if (es->analyze)
		ExplainPropertyInteger("Rounds", NULL, state->n_rounds, es);
}

static const CustomExecMethods semi_exec_methods = {
    .CustomName = "Prepack Semi Join",
    .BeginCustomScan = begin_semi,
    .ExecCustomScan = exec_semi,
    .EndCustomScan = pp_batch_end_outer,
    .ReScanCustomScan = rescan_semi,
    .ExplainCustomScan = explain_semi,
};

/* Makes the execution state. */
static Node *
create_semi(CustomScan *cscan)
{
	return pp_batch_new_state(sizeof(SemiState), &semi_exec_methods);
}
