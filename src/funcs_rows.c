/*
 * funcs_rows.c: functions over text that return rows (rank, stream), and what the planner is told
 * of all.
 */
#include "call.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"

#define PP_RANK_COLUMNS 3

/* ---- rank -------------------------------------------------------------------------------- */

/* A document with its score. */
typedef struct Ranked
{
	int ord; /* position in the input, from 1 */
	float4 score;
	Datum document;
} Ranked;

/* Best first; of equals the earlier. */
static int
compare_ranked(const void *a, const void *b)
{
	const Ranked *x = a;
	const Ranked *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return x->ord - y->ord;
}

/* Scores the documents that are not NULL. Returns their number. */
static int
score_documents(FunctionCallInfo fcinfo, PpCall *call, Ranked **out)
{
	Datum *values;
	bool *nulls;
	int n;
	int n_rows = 0;
	PpText query = pp_text_of(PG_GETARG_DATUM(0));
	PpText *rows;
	Ranked *ranked;
	PpRequest *req;
	ArrayType *array = PG_GETARG_ARRAYTYPE_P(1);

	if (ARR_NDIM(array) > 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
		                errmsg("documents must be a one-dimensional array")));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	rows = palloc_array(PpText, Max(n, 1));
	ranked = palloc_array(Ranked, Max(n, 1));
	for (int i = 0; i < n; i++)
		if (!nulls[i])
		{
			ranked[n_rows] = (Ranked){.ord = i + 1, .document = values[i]};
			rows[n_rows++] = pp_text_of(values[i]);
		}
	*out = ranked;
	if (n_rows == 0)
		return 0;
	req = pp_client_submit(&call->job, n_rows, rows, 1, &query);
	for (int i = 0; i < n_rows; i++)
	{
		const PpRow *row = pp_client_row(req, i);

		pp_row_check(&call->job, row);
		ranked[i].score = row->values[0];
	}
	pp_client_free(req);
	qsort(ranked, n_rows, sizeof(Ranked), compare_ranked);
	return n_rows;
}

PG_FUNCTION_INFO_V1(pp_rank);

/* rank(query, documents, top_k, model). */
Datum
pp_rank(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	NullableDatum args[4] = {{0, PG_ARGISNULL(0)},
	                         {0, PG_ARGISNULL(1)},
	                         fcinfo->args[3],
	                         {0, true}};
	bool absent[4] = {false, false, PG_ARGISNULL(3), true};
	PpCall *call;
	Ranked *ranked;
	int n;

	InitMaterializedSRF(fcinfo, 0);
	if (!PG_ARGISNULL(2) && PG_GETARG_INT32(2) < 1)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("top_k must be at least 1, got %d", PG_GETARG_INT32(2))));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;
	call = pp_call_prepare(pp_call_type("pp_relevance"), args, absent);
	call->job.function = "rank";
	n = score_documents(fcinfo, call, &ranked);
	if (!PG_ARGISNULL(2))
		n = Min(n, PG_GETARG_INT32(2));
	for (int i = 0; i < n; i++)
	{
		Datum values[PP_RANK_COLUMNS] = {Int32GetDatum(ranked[i].ord),
		                                 Float4GetDatum(ranked[i].score), ranked[i].document};
		bool nulls[PP_RANK_COLUMNS] = {0};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* ---- stream ------------------------------------------------------------------------------ */

/* A streamed generation. */
typedef struct Stream
{
	PpCall *call;
	PpRequest *request; /* NULL: there is nothing to generate from */
} Stream;

/* Starts it; NULL prompts give no rows. */
static Stream *
start_stream(FunctionCallInfo fcinfo)
{
	Stream *stream = palloc0(sizeof(Stream));
	NullableDatum args[PP_CALL_ARGS_MAX];
	bool absent[PP_CALL_ARGS_MAX];
	PpCall *call;
	PpText row;

	for (int i = 0; i < 9; i++)
	{
		args[i] = fcinfo->args[i];
		absent[i] = args[i].isnull;
	}
	args[9] = (NullableDatum){0, true};
	absent[9] = true;
	call = pp_call_prepare(pp_call_type("pp_generate"), args, absent);
	if (call == NULL || args[call->row_arg].isnull)
		return stream;
	call->job.function = "stream";
	call->job.interactive = true;
	call->job.flags |= PP_JOB_STREAM;
	row = pp_text_of(args[call->row_arg].value);
	stream->call = call;
	stream->request = pp_client_submit(&call->job, 1, &row, 0, NULL);
	return stream;
}

/* At the end of the pieces: an answer that broke off is an error, unless errors are to be NULL. */
static void
check_end(const Stream *stream)
{
	const PpRow *row = pp_client_row(stream->request, 0);

	if (stream->call->on_error == PP_ON_ERROR_ERROR)
		pp_row_check(&stream->call->job, row);
}

PG_FUNCTION_INFO_V1(pp_stream);

/* stream(prompt, input, …): one row a piece, as the engine produces them. */
Datum
pp_stream(PG_FUNCTION_ARGS)
{
	FuncCallContext *funcctx;
	Stream *stream;
	PpText piece;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		funcctx->user_fctx = start_stream(fcinfo);
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	stream = funcctx->user_fctx;
	if (stream->request == NULL)
		SRF_RETURN_DONE(funcctx);
	piece = pp_client_piece(stream->request);
	if (piece.bytes == NULL)
	{
		check_end(stream);
		SRF_RETURN_DONE(funcctx);
	}
	SRF_RETURN_NEXT(funcctx, PointerGetDatum(cstring_to_text_with_len(piece.bytes, piece.n)));
}

/* ---- planner support --------------------------------------------------------------------- */

PG_FUNCTION_INFO_V1(pp_cost_support);

/*
 * Tells the planner what a call costs: the function's own COST is for one row by itself; a batched
 * row costs a fraction of it. What matters is the order: cheap quals first, calls last.
 */
Datum
pp_cost_support(PG_FUNCTION_ARGS)
{
	Node *request = (Node *) PG_GETARG_POINTER(0);

	if (IsA(request, SupportRequestCost))
	{
		SupportRequestCost *cost = (SupportRequestCost *) request;

		/* Generation takes about a hundred times the tokens of a decision. */
		cost->startup = 0;
		cost->per_tuple = PP_CALL_COST_ALONE * cpu_operator_cost;
		PG_RETURN_POINTER(cost);
	}
	PG_RETURN_POINTER(NULL);
}
