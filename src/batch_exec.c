/*
 * batch_exec.c: the Prepack Batch executor node.
 *
 * The node reads its outer plan ahead: rows are buffered in batches, a batch's calls go to the
 * engine as soon as it is full, and up to PP_BATCHES batches are in flight while rows are handed on
 * from the oldest, in order. The first batch is small and they double up to prepack.batch_rows, so
 * that a LIMIT above reads little more than it needs, and one batch is in flight only until the
 * first row of it has been asked for.
 *
 * Memory: each batch has a context with its rows, arguments and results; it is reset when the
 * batch's last row has been handed on. So memory is bounded by PP_BATCHES * batch_rows rows,
 * whatever the plan's size.
 *
 * Calls of a batch that agree in everything but their rows go as one job (usually all do). Equal
 * rows are sent once within a batch, and remembered over the statement (batch_memo.c).
 */
#include "batch.h"

#include "commands/explain.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "compat.h"

#define PP_BATCHES    3
#define PP_FIRST_ROWS 16

/* A call of the node. */
typedef struct CallState
{
	const PpCallType *type;
	FuncExpr *func;
	List *args;       /* ExprStates */
	ExprState *guard; /* NULL: always made */
	bool absent[PP_CALL_ARGS_MAX];
	int16 typlen;
	bool typbyval;
	int16 arg_typlen[PP_CALL_ARGS_MAX];
	bool arg_typbyval[PP_CALL_ARGS_MAX];
} CallState;

/* Rows of a batch that share a job. */
typedef struct JobGroup
{
	struct JobGroup *next;
	int i_call;
	char *key; /* bytes of the arguments that do not vary by row */
	Size key_bytes;
	PpCall *call; /* NULL: a required argument is NULL */
	uint32 memo;  /* the memo's number of the constants; 0: results may not be remembered */
	PpRequest *request;
	PpText *rows;
	PpText *rows2;
	int n_rows;
	int capacity;
} JobGroup;

/* One call of one row. */
typedef struct Cell
{
	JobGroup *group;   /* NULL: the value is known */
	int row;           /* of the group's request */
	struct Cell *same; /* an earlier cell of the batch with equal input: take its value */
	bool in_flight;    /* an earlier batch computes the same: the memo will have it */
	PpText text;       /* of the row, for the case that the memo had no room */
	PpText text2;
	uint32 hash; /* of key */
	char *key;   /* memo key, NULL when not remembered */
	Size key_bytes;
	Datum value;
	bool isnull;
	bool known;
} Cell;

/* One batch. */
typedef struct Batch
{
	MemoryContext context;
	MinimalTuple *tuples; /* [n_rows] */
	Cell *cells;          /* [n_rows * n_calls] */
	JobGroup *groups;
	int n_rows;
	int next; /* row to hand on */
} Batch;

typedef struct BatchState
{
	CustomScanState css;
	int n_outer;
	int n_calls;
	CallState *calls;
	ExprContext *args_context;  /* arguments and guards are evaluated in it */
	TupleTableSlot *outer_slot; /* minimal tuples of buffered rows */
	PpMemo *memo;
	Batch ring[PP_BATCHES];
	int i_head; /* oldest batch in flight */
	int n_batches;
	int batch_rows; /* size of the next batch */
	bool outer_done;
	int64 n_done; /* rows handed on, for error contexts */

	/* for EXPLAIN ANALYZE */
	int64 n_sent; /* rows computed by the engine */
	int64 n_rows;
	int64 n_jobs;
	PpJobStats stats;
	float8 engine_ms;
} BatchState;

/* ---- begin ------------------------------------------------------------------------------- */

/* Prepares one call: its argument expressions, and which arguments were left out. */
static void
begin_call(BatchState *state, CallState *call, FuncExpr *func, Node *guard)
{
	ListCell *lc;
	int i = 0;

	call->func = func;
	call->type = pp_batch_call_type(func);
	if (call->type == NULL)
		elog(ERROR, "function %u is no longer a prepack function", func->funcid);
	foreach (lc, func->args)
	{
		Node *arg = lfirst(lc);

		call->args = lappend(call->args, ExecInitExpr((Expr *) arg, &state->css.ss.ps));
		call->absent[i] = IsA(arg, Const) && ((Const *) arg)->constisnull;
		get_typlenbyval(exprType(arg), &call->arg_typlen[i], &call->arg_typbyval[i]);
		i++;
	}
	call->guard = guard != NULL ? ExecInitExpr((Expr *) guard, &state->css.ss.ps) : NULL;
	get_typlenbyval(func->funcresulttype, &call->typlen, &call->typbyval);
}

/* Starts the node. */
static void
batch_begin(CustomScanState *node, EState *estate, int eflags)
{
	BatchState *state = (BatchState *) node;
	CustomScan *cscan = (CustomScan *) node->ss.ps.plan;
	List *guards = lsecond(cscan->custom_private);
	ListCell *lc;
	ListCell *lg;

	outerPlanState(node) = ExecInitNode(outerPlan(cscan), estate, eflags);
	state->n_outer = intVal(linitial(cscan->custom_private));
	state->n_calls = list_length(cscan->custom_exprs);
	state->calls = palloc0_array(CallState, Max(state->n_calls, 1));
	state->args_context = CreateExprContext(estate);
	state->outer_slot = ExecInitExtraTupleSlot(estate, ExecGetResultType(outerPlanState(node)),
	                                           &TTSOpsMinimalTuple);
	state->memo = pp_memo_of(estate);
	state->batch_rows = Min(PP_FIRST_ROWS, pp_batch_rows);
	state->n_calls = 0;
	forboth(lc, cscan->custom_exprs, lg, guards)
	    begin_call(state, &state->calls[state->n_calls++], lfirst(lc), lfirst(lg));
	for (int i = 0; i < PP_BATCHES; i++)
		state->ring[i].context =
		    AllocSetContextCreate(estate->es_query_cxt, "prepack batch", ALLOCSET_DEFAULT_SIZES);
}

/* ---- filling a batch --------------------------------------------------------------------- */

/* Appends a value's bytes to a key, length first, so that no two value lists read alike. */
static void
append_value(StringInfo key, const NullableDatum *arg, int16 typlen, bool typbyval)
{
	uint32 n;

	if (arg->isnull)
	{
		n = PG_UINT32_MAX;
		appendBinaryStringInfo(key, (char *) &n, sizeof(n));
		return;
	}
	if (typbyval)
	{
		n = sizeof(Datum);
		appendBinaryStringInfo(key, (char *) &n, sizeof(n));
		appendBinaryStringInfo(key, (char *) &arg->value, sizeof(Datum));
		return;
	}
	if (typlen == -1)
	{
		struct varlena *v = PG_DETOAST_DATUM_PACKED(arg->value);

		n = VARSIZE_ANY_EXHDR(v);
		appendBinaryStringInfo(key, (char *) &n, sizeof(n));
		appendBinaryStringInfo(key, VARDATA_ANY(v), n);
		return;
	}
	n = datumGetSize(arg->value, typbyval, typlen);
	appendBinaryStringInfo(key, (char *) &n, sizeof(n));
	appendBinaryStringInfo(key, DatumGetPointer(arg->value), n);
}

/*
 * Evaluates guard and arguments of a call for the row in the expression context; false: not
 * reached.
 */
static bool
evaluate_args(BatchState *state, CallState *call, NullableDatum *args)
{
	ExprContext *econtext = state->args_context;
	ListCell *lc;
	bool isnull;
	int i = 0;

	if (call->guard != NULL &&
	    (!DatumGetBool(ExecEvalExpr(call->guard, econtext, &isnull)) || isnull))
		return false;
	foreach (lc, call->args)
	{
		args[i].value = ExecEvalExpr(lfirst(lc), econtext, &args[i].isnull);
		i++;
	}
	return true;
}

/* The arguments that vary by row; generate without an input varies by its prompt. */
static void
row_args(const CallState *call, int *row_arg, int *row2_arg)
{
	*row_arg = call->type->row_arg;
	*row2_arg = call->type->row2_arg;
	if (call->type->kind == PP_JOB_GENERATE && *row_arg > 0 && call->absent[*row_arg])
		*row_arg = 0;
}

/* The number that the memo gives to a group's type and constants. */
static uint32
number_constants(BatchState *state, const JobGroup *group)
{
	const uint32 none = PP_MEMO_CONSTANTS;
	StringInfoData key;

	initStringInfo(&key);
	appendBinaryStringInfo(&key, (const char *) &none, sizeof(none));
	appendStringInfoString(&key, state->calls[group->i_call].type->symbol);
	appendStringInfoChar(&key, '\0');
	appendBinaryStringInfo(&key, group->key, group->key_bytes);
	return pp_memo_constants(state->memo, key.data, key.len);
}

/* Finds the group of a call with these constant arguments in the batch, or starts one. */
static JobGroup *
find_group(BatchState *state, Batch *batch, int i_call, const NullableDatum *args, int row_arg,
           int row2_arg)
{
	CallState *call = &state->calls[i_call];
	StringInfoData key;
	JobGroup *group;
	NullableDatum copies[PP_CALL_ARGS_MAX];

	initStringInfo(&key);
	for (int i = 0; i < call->type->n_args; i++)
		if (i != row_arg && i != row2_arg)
			append_value(&key, &args[i], call->arg_typlen[i], call->arg_typbyval[i]);
	for (group = batch->groups; group != NULL; group = group->next)
		if (group->i_call == i_call && group->key_bytes == (Size) key.len &&
		    memcmp(group->key, key.data, key.len) == 0)
			return group;
	group = palloc0_object(JobGroup);
	group->i_call = i_call;
	group->key = key.data;
	group->key_bytes = key.len;

	/* The job points into its arguments: they must live as long as the batch. */
	for (int i = 0; i < call->type->n_args; i++)
	{
		copies[i] = args[i];
		if (!args[i].isnull)
			copies[i].value = datumCopy(args[i].value, call->arg_typbyval[i], call->arg_typlen[i]);
	}
	group->call = pp_call_prepare(call->type, copies, call->absent);
	if (group->call != NULL && pp_call_deterministic(group->call))
		group->memo = number_constants(state, group);
	group->next = batch->groups;
	batch->groups = group;
	return group;
}

/* Adds a cell's row to its group's job. */
static void
group_add(JobGroup *group, Cell *cell)
{
	if (group->n_rows == group->capacity)
	{
		int grown = Max(group->capacity * 2, 16);
		Size text_bytes = mul_size(grown, sizeof(PpText));

		group->rows = group->rows ? repalloc(group->rows, text_bytes) : palloc(text_bytes);
		group->rows2 = group->rows2 ? repalloc(group->rows2, text_bytes) : palloc(text_bytes);
		group->capacity = grown;
	}
	group->rows[group->n_rows] = cell->text;
	group->rows2[group->n_rows] = cell->text2;
	cell->row = group->n_rows++;
}

/* Looks through a batch's first n cells for one with the same memo key. */
static Cell *
find_same(Batch *batch, int n, const Cell *cell)
{
	for (int i = 0; i < n; i++)
	{
		Cell *c = &batch->cells[i];

		if (c->key != NULL && c->same == NULL && c->hash == cell->hash &&
		    c->key_bytes == cell->key_bytes && memcmp(c->key, cell->key, c->key_bytes) == 0)
			return c;
	}
	return NULL;
}

/* True when a batch that is in flight already computes the same. */
static bool
is_in_flight(BatchState *state, const Cell *cell)
{
	for (int i = 0; i < state->n_batches; i++)
	{
		Batch *batch = &state->ring[(state->i_head + i) % PP_BATCHES];

		if (find_same(batch, batch->n_rows * state->n_calls, cell) != NULL)
			return true;
	}
	return false;
}

/* Gives a cell its value, or its place in a job. */
static void
fill_cell(BatchState *state, Batch *batch, int i_row, int i_call)
{
	CallState *call = &state->calls[i_call];
	Cell *cell = &batch->cells[i_row * state->n_calls + i_call];
	NullableDatum args[PP_CALL_ARGS_MAX];
	StringInfoData key;
	JobGroup *group;
	int row_arg;
	int row2_arg;

	*cell = (Cell){.isnull = true, .known = true};
	if (!evaluate_args(state, call, args))
		return;
	row_args(call, &row_arg, &row2_arg);
	group = find_group(state, batch, i_call, args, row_arg, row2_arg);
	if (group->call == NULL || args[row_arg].isnull || (row2_arg >= 0 && args[row2_arg].isnull))
		return;
	if (group->memo != 0)
	{
		initStringInfo(&key);
		appendBinaryStringInfo(&key, (const char *) &group->memo, sizeof(group->memo));
		append_value(&key, &args[row_arg], call->arg_typlen[row_arg], call->arg_typbyval[row_arg]);
		if (row2_arg >= 0)
			append_value(&key, &args[row2_arg], call->arg_typlen[row2_arg],
			             call->arg_typbyval[row2_arg]);
		if (pp_memo_find(state->memo, key.data, key.len, &cell->value, &cell->isnull))
			return;
		cell->key = key.data;
		cell->key_bytes = key.len;
		cell->hash = hash_bytes((const unsigned char *) key.data, key.len);
		cell->same = find_same(batch, i_row * state->n_calls + i_call, cell);
		cell->in_flight = cell->same == NULL && is_in_flight(state, cell);
	}
	cell->known = false;
	if (cell->same != NULL)
		return;
	cell->text = pp_text_of(datumCopy(args[row_arg].value, false, -1));
	if (row2_arg >= 0)
		cell->text2 = pp_text_of(datumCopy(args[row2_arg].value, false, -1));
	cell->group = group;
	if (!cell->in_flight)
		group_add(group, cell);
}

/* Reads rows into a batch and makes their calls' arguments. False: there was no row. */
static bool
fill_batch(BatchState *state, Batch *batch)
{
	int limit = state->batch_rows;
	MemoryContext old;

	MemoryContextReset(batch->context);
	batch->groups = NULL;
	batch->n_rows = batch->next = 0;
	batch->tuples = MemoryContextAlloc(batch->context, mul_size(limit, sizeof(MinimalTuple)));
	batch->cells = MemoryContextAllocHuge(batch->context, mul_size(mul_size(limit, sizeof(Cell)),
	                                                               Max(state->n_calls, 1)));
	while (batch->n_rows < limit)
	{
		TupleTableSlot *slot = ExecProcNode(outerPlanState(&state->css));

		if (TupIsNull(slot))
		{
			state->outer_done = true;
			break;
		}
		old = MemoryContextSwitchTo(batch->context);
		batch->tuples[batch->n_rows] = ExecCopySlotMinimalTuple(slot);
		ResetExprContext(state->args_context);
		state->args_context->ecxt_outertuple = slot;
		state->args_context->ecxt_scantuple = slot;
		for (int i = 0; i < state->n_calls; i++)
			fill_cell(state, batch, batch->n_rows, i);
		batch->n_rows++;
		MemoryContextSwitchTo(old);
	}
	return batch->n_rows > 0;
}

/* Sends a batch's jobs. */
static void
send_batch(BatchState *state, Batch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	for (JobGroup *group = batch->groups; group != NULL; group = group->next)
	{
		bool pairs = group->call != NULL && group->call->row2_arg >= 0;

		if (group->n_rows == 0)
			continue;
		group->request = pp_client_submit(&group->call->job, group->n_rows, group->rows,
		                                  pairs ? group->n_rows : 0, group->rows2);
		state->n_sent += group->n_rows;
		state->n_jobs++;
	}
	MemoryContextSwitchTo(old);
}

/* Keeps batches in flight: one until rows have been asked for, then as many as the ring holds. */
static void
fill_ring(BatchState *state)
{
	int wanted = state->n_done > 0 ? PP_BATCHES : 1;

	while (state->n_batches < wanted && !state->outer_done)
	{
		Batch *batch = &state->ring[(state->i_head + state->n_batches) % PP_BATCHES];

		if (!fill_batch(state, batch))
			return;
		send_batch(state, batch);
		state->n_batches++;
		state->batch_rows = Min(state->batch_rows * 2, pp_batch_rows);
	}
}

/* ---- handing rows on --------------------------------------------------------------------- */

/*
 * Tells where a statement was when it failed or was cancelled. The total is known once the input is
 * at its end; an error before the first row came is not the calls' affair.
 */
static void
error_context(void *arg)
{
	const BatchState *state = arg;
	int64 n_read = state->n_done;

	for (int i = 0; i < state->n_batches; i++)
	{
		const Batch *b = &state->ring[(state->i_head + i) % PP_BATCHES];

		n_read += b->n_rows - b->next;
	}
	if (state->n_calls == 0 || n_read == 0)
		return;
	if (state->outer_done)
		errcontext("prepack %s, " INT64_FORMAT " of " INT64_FORMAT " rows done",
		           state->calls[0].type->name, state->n_done, n_read);
	else
		errcontext("prepack %s, " INT64_FORMAT " rows done, " INT64_FORMAT " in flight",
		           state->calls[0].type->name, state->n_done, n_read - state->n_done);
}

/* The value of a cell; waits for the engine. */
static void
resolve_cell(BatchState *state, Batch *batch, int i_call, Cell *cell)
{
	CallState *call = &state->calls[i_call];
	MemoryContext old;

	if (cell->known)
		return;
	if (cell->same != NULL)
	{
		resolve_cell(state, batch, i_call, cell->same);
		cell->value = cell->same->value;
		cell->isnull = cell->same->isnull;
		cell->known = true;
		return;
	}
	if (cell->in_flight &&
	    pp_memo_find(state->memo, cell->key, cell->key_bytes, &cell->value, &cell->isnull))
	{
		cell->known = true;
		return;
	}
	old = MemoryContextSwitchTo(batch->context);
	if (cell->in_flight)
	{
		PpRequest *alone = pp_client_submit(&cell->group->call->job, 1, &cell->text,
		                                    cell->text2.bytes != NULL ? 1 : 0, &cell->text2);

		cell->value = pp_call_result(cell->group->call, pp_client_row(alone, 0), &cell->isnull);
		pp_client_free(alone);
	}
	else
		cell->value = pp_call_result(cell->group->call,
		                             pp_client_row(cell->group->request, cell->row), &cell->isnull);
	cell->known = true;
	MemoryContextSwitchTo(old);
	if (cell->key != NULL)
		pp_memo_add(state->memo, cell->key, cell->key_bytes, cell->value, cell->isnull,
		            call->typlen, call->typbyval);
}

/* Puts the next row, with the results of its calls, into the scan slot. */
static void
store_row(BatchState *state, Batch *batch)
{
	TupleTableSlot *slot = state->css.ss.ss_ScanTupleSlot;
	int i_row = batch->next;

	ExecClearTuple(slot);
	ExecStoreMinimalTuple(batch->tuples[i_row], state->outer_slot, false);
	slot_getallattrs(state->outer_slot);
	memcpy(slot->tts_values, state->outer_slot->tts_values, state->n_outer * sizeof(Datum));
	memcpy(slot->tts_isnull, state->outer_slot->tts_isnull, state->n_outer * sizeof(bool));
	for (int i = 0; i < state->n_calls; i++)
	{
		Cell *cell = &batch->cells[i_row * state->n_calls + i];

		resolve_cell(state, batch, i, cell);
		slot->tts_values[state->n_outer + i] = cell->value;
		slot->tts_isnull[state->n_outer + i] = cell->isnull;
	}
	ExecStoreVirtualTuple(slot);
	batch->next++;
	state->n_done++;
}

/* Adds what a batch's requests used to the node's counters. */
static void
count_batch(BatchState *state, Batch *batch)
{
	state->n_rows += batch->n_rows;
	for (JobGroup *group = batch->groups; group != NULL; group = group->next)
	{
		const PpJobStats *s;

		if (group->request == NULL)
			continue;
		pp_client_wait(group->request);
		s = pp_client_stats(group->request);
		state->stats.n_prompt_tokens += s->n_prompt_tokens;
		state->stats.n_shared_tokens += s->n_shared_tokens;
		state->stats.n_padding_avoided += s->n_padding_avoided;
		state->stats.n_output_tokens += s->n_output_tokens;
		state->engine_ms += s->prefill_ms + s->decode_ms;
	}
}

/* Lets go of the oldest batch. The scan slot's values pointed into it. */
static void
drop_head(BatchState *state)
{
	Batch *batch = &state->ring[state->i_head];

	count_batch(state, batch);
	ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
	ExecClearTuple(state->outer_slot);
	for (JobGroup *group = batch->groups; group != NULL; group = group->next)
		if (group->request != NULL)
			pp_client_free(group->request);
	MemoryContextReset(batch->context);
	batch->groups = NULL;
	batch->n_rows = batch->next = 0;
	state->i_head = (state->i_head + 1) % PP_BATCHES;
	state->n_batches--;
}

/* Gets the next row into the scan slot; false at the end. */
static bool
next_row(CustomScanState *node)
{
	BatchState *state = (BatchState *) node;

	for (;;)
	{
		Batch *batch = &state->ring[state->i_head];

		CHECK_FOR_INTERRUPTS();
		if (state->n_batches > 0 && batch->next >= batch->n_rows)
		{
			drop_head(state);
			continue;
		}
		fill_ring(state);
		if (state->n_batches == 0)
			return false;
		store_row(state, &state->ring[state->i_head]);
		return true;
	}
}

/* Returns the next row that passes the node's qual, projected. */
static TupleTableSlot *
batch_exec(CustomScanState *node)
{
	ErrorContextCallback context = {.previous = error_context_stack,
	                                .callback = error_context,
	                                .arg = node};
	TupleTableSlot *result;

	error_context_stack = &context;
	result = pp_batch_filter(node, next_row);
	error_context_stack = context.previous;
	return result;
}

/* ---- end, rescan, explain ---------------------------------------------------------------- */

/* Drops everything in flight; requests cancel themselves. */
static void
drop_all(BatchState *state)
{
	if (state->css.ss.ss_ScanTupleSlot != NULL)
		ExecClearTuple(state->css.ss.ss_ScanTupleSlot);
	ExecClearTuple(state->outer_slot);
	for (int i = 0; i < PP_BATCHES; i++)
	{
		for (JobGroup *group = state->ring[i].groups; group != NULL; group = group->next)
			if (group->request != NULL)
				pp_client_free(group->request);
		state->ring[i].groups = NULL;
		state->ring[i].n_rows = state->ring[i].next = 0;
		MemoryContextReset(state->ring[i].context);
	}
	state->i_head = state->n_batches = 0;
	state->outer_done = false;
}

/* Ends the node. */
static void
batch_end(CustomScanState *node)
{
	drop_all((BatchState *) node);
	ExecEndNode(outerPlanState(node));
}

/* Starts over; results of equal inputs are still in the memo. */
static void
batch_rescan(CustomScanState *node)
{
	BatchState *state = (BatchState *) node;

	drop_all(state);
	state->n_done = 0;
	if (outerPlanState(node)->chgParam == NULL)
		ExecReScan(outerPlanState(node));
}

/* Shows the calls, and what they cost. */
static void
batch_explain(CustomScanState *node, List *ancestors, ExplainState *es)
{
	BatchState *state = (BatchState *) node;
	List *names = NIL;

	for (int i = 0; i < state->n_calls; i++)
		names = lappend(names, (char *) state->calls[i].type->name);
	if (names != NIL)
		ExplainPropertyList("Calls", names, es);
	if (!es->analyze || state->n_calls == 0)
		return;
	/* A node that was stopped early still holds batches; what they used is counted, too. */
	for (int i = 0; i < state->n_batches; i++)
		count_batch(state, &state->ring[(state->i_head + i) % PP_BATCHES]);
	ExplainPropertyInteger("Rows Read", NULL, state->n_rows, es);
	ExplainPropertyInteger("Rows Computed", NULL, state->n_sent, es);
	ExplainPropertyInteger("Batches", NULL, state->n_jobs, es);
	ExplainPropertyInteger("Prompt Tokens", NULL, state->stats.n_prompt_tokens, es);
	ExplainPropertyInteger("Shared Prefix Tokens", NULL, state->stats.n_shared_tokens, es);
	ExplainPropertyInteger("Padding Avoided", "tokens", state->stats.n_padding_avoided, es);
	ExplainPropertyInteger("Output Tokens", NULL, state->stats.n_output_tokens, es);
	if (es->timing)
		ExplainPropertyFloat("Engine Time", "ms", state->engine_ms, 3, es);
}

static const CustomExecMethods batch_exec_methods = {
    .CustomName = "Prepack Batch",
    .BeginCustomScan = batch_begin,
    .ExecCustomScan = batch_exec,
    .EndCustomScan = batch_end,
    .ReScanCustomScan = batch_rescan,
    .ExplainCustomScan = batch_explain,
};

/* Makes the execution state; called when the plan is started. */
Node *
pp_batch_create_state(CustomScan *cscan)
{
	return pp_batch_new_state(sizeof(BatchState), &batch_exec_methods);
}
