/*
 * call.c: scalar functions and their array twins, all from the table of call types.
 *
 * A scalar call is a job of one row in the interactive class; an array is one job over all its
 * elements. NULL elements are not sent and come back as NULL in their place. Results of arrays come
 * in input order.
 */
#include "call.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* What an error context tells of a running array call. */
typedef struct Progress
{
	const char *name;
	int n_done;
	int n_rows;
} Progress;

/* Adds "prepack classify, 1312 of 4000 rows done" to an error. */
static void
progress_context(void *arg)
{
	const Progress *p = arg;

	errcontext("prepack %s, %d of %d rows done", p->name, p->n_done, p->n_rows);
}

/* Points at the bytes of a text value. */
PpText
pp_text_of(Datum d)
{
	text *t = DatumGetTextPP(d);

	return (PpText){VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t)};
}

/* Collects the arguments of a call, and which of them were left out rather than NULL by data. */
static void
collect_args(FunctionCallInfo fcinfo, int n_args, NullableDatum *args, bool *absent)
{
	Node *expr = fcinfo->flinfo->fn_expr;
	List *exprs = expr != NULL && IsA(expr, FuncExpr) ? ((FuncExpr *) expr)->args : NIL;

	for (int i = 0; i < n_args; i++)
	{
		args[i] = fcinfo->args[i];
		absent[i] = args[i].isnull && (i >= list_length(exprs) || IsA(list_nth(exprs, i), Const));
	}
}

/* Runs one scalar call. */
static Datum
call_scalar(FunctionCallInfo fcinfo, const char *symbol)
{
	const PpCallType *type = pp_call_type(symbol);
	NullableDatum args[PP_CALL_ARGS_MAX];
	bool absent[PP_CALL_ARGS_MAX];
	PpCall *call;
	PpRequest *req;
	PpText row;
	PpText row2 = {NULL, 0};
	Datum result;
	bool isnull;

	collect_args(fcinfo, type->n_args, args, absent);
	call = pp_call_prepare(type, args, absent);
	if (call == NULL || args[call->row_arg].isnull ||
	    (call->row2_arg >= 0 && args[call->row2_arg].isnull))
		PG_RETURN_NULL();
	call->job.interactive = true;
	row = pp_text_of(args[call->row_arg].value);
	if (call->row2_arg >= 0)
		row2 = pp_text_of(args[call->row2_arg].value);
	req = pp_client_submit(&call->job, 1, &row, call->row2_arg >= 0 ? 1 : 0, &row2);
	result = pp_call_result(call, pp_client_row(req, 0), &isnull);
	pp_client_free(req);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}

/* The elements of a one-dimensional text array. */
typedef struct TextArray
{
	int n;
	Datum *values;
	bool *nulls;
} TextArray;

/* Takes an input array apart; more than one dimension is refused. */
static TextArray
open_array(Datum d)
{
	ArrayType *array = DatumGetArrayTypeP(d);
	TextArray a;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
		                errmsg("inputs must be a one-dimensional array")));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &a.values, &a.nulls, &a.n);
	return a;
}

/* A job over an array: which request row an element became, −1 for NULL elements. */
typedef struct ArrayRun
{
	PpCall *call; /* NULL: all results are NULL */
	PpRequest *req;
	int n;
	int *row_of;
	int next; /* element to give next */
} ArrayRun;

/* Collects the rows that are not NULL and sends them as one job. */
static void
submit_rows(ArrayRun *run, const TextArray *in, const TextArray *in2, const NullableDatum *args)
{
	PpText *rows = palloc_array(PpText, Max(run->n, 1));
	PpText *rows2 = palloc_array(PpText, Max(run->n, 1));
	int n_rows = 0;
	int n_rows2 = 0;

	if (run->call->row2_arg >= 0 && in2 == NULL)
		rows2[n_rows2++] = pp_text_of(args[run->call->row2_arg].value);
	for (int i = 0; i < run->n; i++)
	{
		run->row_of[i] = -1;
		if (in->nulls[i] || (in2 != NULL && in2->nulls[i]))
			continue;
		if (in2 != NULL)
			rows2[n_rows2++] = pp_text_of(in2->values[i]);
		run->row_of[i] = n_rows;
		rows[n_rows++] = pp_text_of(in->values[i]);
	}
	run->req = pp_client_submit(&run->call->job, n_rows, rows, n_rows2, rows2);
}

/* Starts the array twin of a call. */
static ArrayRun *
start_array(FunctionCallInfo fcinfo, const char *symbol)
{
	const PpCallType *type = pp_call_type(symbol);
	NullableDatum args[PP_CALL_ARGS_MAX];
	bool absent[PP_CALL_ARGS_MAX];
	ArrayRun *run = palloc0_object(ArrayRun);
	TextArray in;
	TextArray in2;
	bool pairs = type->kind == PP_JOB_LOGLIK;

	collect_args(fcinfo, type->n_args, args, absent);
	if (args[type->row_arg].isnull)
		return NULL;
	/* The row argument is an array here: prepare must not take it for an absent one. */
	run->call = pp_call_prepare(type, args, absent);
	in = open_array(args[type->row_arg].value);
	run->n = in.n;
	run->row_of = palloc_array(int, Max(in.n, 1));
	if (run->call == NULL || (type->row2_arg >= 0 && args[type->row2_arg].isnull))
	{
		run->call = NULL;
		return run;
	}
	if (pairs)
		in2 = open_array(args[type->row2_arg].value);
	if (pairs && in2.n != in.n)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
		                errmsg("%s needs arrays of equal length, got %d and %d", type->name, in.n,
		                       in2.n)));
	if (in.n > 0)
		submit_rows(run, &in, pairs ? &in2 : NULL, args);
	return run;
}

/* The value of element i; waits for it. */
static Datum
array_element(ArrayRun *run, int i, bool *isnull)
{
	*isnull = run->call == NULL || run->row_of[i] < 0;
	if (*isnull)
		return (Datum) 0;
	return pp_call_result(run->call, pp_client_row(run->req, run->row_of[i]), isnull);
}

/* Runs the array twin of a call whose results are elements of an array. */
static Datum
call_array(FunctionCallInfo fcinfo, const char *symbol)
{
	ArrayRun *run = start_array(fcinfo, symbol);
	Oid array_type = get_func_rettype(fcinfo->flinfo->fn_oid);
	Oid elem_type = get_element_type(array_type);
	Progress progress = {.name = pp_call_type(symbol)->name};
	ErrorContextCallback context = {.previous = error_context_stack,
	                                .callback = progress_context,
	                                .arg = &progress};
	Datum *values;
	bool *nulls;
	int16 len;
	bool byval;
	char align;
	int lower = 1;

	if (run == NULL)
		PG_RETURN_NULL();
	if (run->n == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(elem_type));
	values = palloc_array(Datum, run->n);
	nulls = palloc_array(bool, run->n);
	progress.n_rows = run->n;
	error_context_stack = &context;
	for (int i = 0; i < run->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		values[i] = array_element(run, i, &nulls[i]);
		progress.n_done++;
	}
	error_context_stack = context.previous;
	if (run->req != NULL)
		pp_client_free(run->req);
	get_typlenbyvalalign(elem_type, &len, &byval, &align);
	PG_RETURN_ARRAYTYPE_P(
	    construct_md_array(values, nulls, 1, &run->n, &lower, elem_type, len, byval, align));
}

/*
 * Runs the array twin of a call whose results are arrays themselves: one row each, in input order.
 */
static Datum
call_array_set(FunctionCallInfo fcinfo, const char *symbol)
{
	FuncCallContext *funcctx;
	ArrayRun *run;
	Datum value;
	bool isnull;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		funcctx->user_fctx = start_array(fcinfo, symbol);
		MemoryContextSwitchTo(old);
	}
	funcctx = SRF_PERCALL_SETUP();
	run = funcctx->user_fctx;
	if (run == NULL || run->next >= run->n)
		SRF_RETURN_DONE(funcctx);
	value = array_element(run, run->next++, &isnull);
	if (isnull)
		SRF_RETURN_NEXT_NULL(funcctx);
	SRF_RETURN_NEXT(funcctx, value);
}

/* Defines a scalar function and its array twin. */
#define PP_SCALAR(symbol) \
	PG_FUNCTION_INFO_V1(symbol); \
	Datum symbol(PG_FUNCTION_ARGS) \
	{ \
		return call_scalar(fcinfo, #symbol); \
	}
#define PP_ARRAY(symbol, run) \
	PG_FUNCTION_INFO_V1(symbol##_array); \
	Datum symbol##_array(PG_FUNCTION_ARGS) \
	{ \
		return run(fcinfo, #symbol); \
	}

PP_SCALAR(pp_generate)
PP_ARRAY(pp_generate, call_array)
PP_SCALAR(pp_generate_json)
PP_ARRAY(pp_generate_json, call_array)
PP_SCALAR(pp_classify)
PP_ARRAY(pp_classify, call_array)
PP_SCALAR(pp_classify_probs)
PP_ARRAY(pp_classify_probs, call_array_set)
PP_SCALAR(pp_classify_multi)
PP_ARRAY(pp_classify_multi, call_array_set)
PP_SCALAR(pp_is_true)
PP_ARRAY(pp_is_true, call_array)
PP_SCALAR(pp_score)
PP_ARRAY(pp_score, call_array)
PP_SCALAR(pp_extract)
PP_ARRAY(pp_extract, call_array)
PP_SCALAR(pp_relevance)
PP_ARRAY(pp_relevance, call_array)
PP_SCALAR(pp_embed)
PP_ARRAY(pp_embed, call_array_set)
PP_SCALAR(pp_similarity)
PP_ARRAY(pp_similarity, call_array)
PP_SCALAR(pp_count_tokens)
PP_ARRAY(pp_count_tokens, call_array)
PP_SCALAR(pp_log_likelihood)
PP_ARRAY(pp_log_likelihood, call_array)
