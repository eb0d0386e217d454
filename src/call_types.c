/*
 * call_types.c: one entry a verb: how its arguments become a job and its row results Datums.
 *
 * All range checks of SQL arguments stand here, each with SQLSTATE 22023, before anything is sent.
 * Text arguments are pointed at, not copied: the caller's arguments outlive the call.
 */
#include "call.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/json.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#define PP_LABELS_MAX      10000
#define PP_STOPS_MAX       16
#define PP_TEMPERATURE_MAX 100.0f

/* ---- checks, one condition each ---------------------------------------------------------- */

/* The text of an optional argument. */
static PpText
optional_text(const NullableDatum *arg)
{
	return arg->isnull ? (PpText){NULL, 0} : pp_text_of(arg->value);
}

/* An integer argument within [min, max], or the default when it is NULL. */
static int64
check_int(const NullableDatum *arg, int64 value, const char *name, int64 min, int64 max, int64 def)
{
	if (arg->isnull)
		return def;
	if (value < min || value > max)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("%s must be between " INT64_FORMAT " and " INT64_FORMAT
		                       ", got " INT64_FORMAT,
		                       name, min, max, value)));
	return value;
}

/* A real argument within [min, max], never NaN, or the default when it is NULL. */
static float4
check_real(const NullableDatum *arg, const char *name, float4 min, float4 max, float4 def)
{
	float4 value;

	if (arg->isnull)
		return def;
	value = DatumGetFloat4(arg->value);
	if (isnan(value) || value < min || value > max)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("%s must be between %g and %g, got %g", name, min, max, value)));
	return value;
}

/* Reads on_error: the argument, else the setting. */
static int
check_on_error(const NullableDatum *arg)
{
	char *value;

	if (arg == NULL || arg->isnull)
		return pp_on_error;
	value = TextDatumGetCString(arg->value);
	if (strcmp(value, "error") == 0)
		return PP_ON_ERROR_ERROR;
	if (strcmp(value, "null") != 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("unknown value \"%s\" for on_error", value),
		                errhint("Use \"error\" or \"null\".")));
	return PP_ON_ERROR_NULL;
}

/* Takes a one-dimensional text array apart. */
static int
open_text_array(Datum d, const char *name, Datum **values, bool **nulls)
{
	ArrayType *array = DatumGetArrayTypeP(d);
	int n;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
		                errmsg("%s must be a one-dimensional array", name)));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, values, nulls, &n);
	return n;
}

/* Refuses two equal labels; sorting keeps 10,000 of them cheap. */
static int
compare_labels(const void *a, const void *b)
{
	const PpText *x = a;
	const PpText *y = b;
	int c = memcmp(x->bytes, y->bytes, Min(x->n, y->n));

	return c != 0 ? c : x->n < y->n ? -1 : x->n > y->n;
}

/* Raises an error when two labels are the same. */
static void
check_distinct(const PpText *labels, int n)
{
	PpText *sorted = palloc_array(PpText, n);

	memcpy(sorted, labels, n * sizeof(PpText));
	qsort(sorted, n, sizeof(PpText), compare_labels);
	for (int i = 1; i < n; i++)
		if (compare_labels(&sorted[i - 1], &sorted[i]) == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			                errmsg("label \"%s\" appears more than once",
			                       pnstrdup(sorted[i].bytes, Min(sorted[i].n, 64)))));
	pfree(sorted);
}

/* Reads the labels of a classification. */
static void
check_labels(PpCall *call, const NullableDatum *arg, int n_min)
{
	bool *nulls;
	PpText *labels;
	int n = open_text_array(arg->value, "labels", &call->labels, &nulls);

	if (n < n_min || n > PP_LABELS_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("labels must have between %d and %d elements, got %d", n_min,
		                       PP_LABELS_MAX, n)));
	labels = palloc_array(PpText, n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			                errmsg("labels must not contain NULL")));
		labels[i] = pp_text_of(call->labels[i]);
		if (labels[i].n == 0)
			ereport(ERROR,
			        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("labels must not be empty")));
	}
	check_distinct(labels, n);
	call->job.labels = labels;
	call->job.n_labels = n;
}

/* Reads the descriptions of labels; as many as there are labels, NULL for none. */
static void
check_descriptions(PpCall *call, const NullableDatum *arg)
{
	Datum *values;
	bool *nulls;
	PpText *descriptions;
	int n;

	if (arg->isnull)
		return;
	n = open_text_array(arg->value, "descriptions", &values, &nulls);
	if (n != call->job.n_labels)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("there are %d labels but %d descriptions", call->job.n_labels, n)));
	descriptions = palloc0_array(PpText, n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			descriptions[i] = pp_text_of(values[i]);
	call->job.descriptions = descriptions;
}

/* Reads the stop strings of a generation. */
static void
check_stops(PpCall *call, const NullableDatum *arg)
{
	Datum *values;
	bool *nulls;
	PpText *stops;
	int n;

	if (arg->isnull)
		return;
	n = open_text_array(arg->value, "stop", &values, &nulls);
	if (n > PP_STOPS_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("stop must have at most %d elements, got %d", PP_STOPS_MAX, n)));
	stops = palloc_array(PpText, Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i] || pp_text_of(values[i]).n == 0)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			                errmsg("stop strings must not be NULL or empty")));
		stops[i] = pp_text_of(values[i]);
	}
	call->job.stops = stops;
	call->job.n_stops = n;
}

/* ---- generation -------------------------------------------------------------------------- */

/* Reads system, max_tokens, temperature, top_p and seed, which stand side by side from args on. */
static void
prepare_sampling(PpCall *call, const NullableDatum *args)
{
	PpJob *job = &call->job;

	job->system = optional_text(&args[0]);
	job->max_tokens = (int) check_int(&args[1], args[1].isnull ? 0 : DatumGetInt32(args[1].value),
	                                  "max_tokens", 1, 1048576, pp_max_tokens);
	job->temperature = check_real(&args[2], "temperature", 0, PP_TEMPERATURE_MAX, 0);
	job->top_p = check_real(&args[3], "top_p", 1e-6f, 1, 1);
	if (!args[4].isnull)
		job->seed = (uint64) DatumGetInt64(args[4].value);
	else if (job->temperature > 0 && !pg_strong_random(&job->seed, sizeof(job->seed)))
		ereport(ERROR,
		        (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate a random seed")));
}

/*
 * generate: prompt 0, input 1, model 2, sampling 3…7, stop 8. Without an input the prompt is the
 * row, so that calls whose prompts differ by row still go together.
 */
static void
prepare_generate(PpCall *call, const NullableDatum *args)
{
	prepare_sampling(call, args + 3);
	check_stops(call, &args[8]);
	if (call->row_arg == 1)
		call->job.instruction = pp_text_of(args[0].value);
}

/* The JSON text of a jsonb argument. */
static PpText
json_text(Datum d)
{
	Jsonb *json = DatumGetJsonbP(d);
	char *text = JsonbToCString(NULL, &json->root, VARSIZE(json));

	return (PpText){text, strlen(text)};
}

/* generate_json: prompt 0, schema 1, input 2, model 3, sampling 4…8. */
static void
prepare_generate_json(PpCall *call, const NullableDatum *args)
{
	prepare_sampling(call, args + 4);
	call->job.schema = json_text(args[1].value);
	if (call->row_arg == 2)
		call->job.instruction = pp_text_of(args[0].value);
}

/* Adds one field to the schema and to the instruction of extract. */
static void
add_field(StringInfo schema, StringInfo instruction, const char *name, const char *description,
          bool first)
{
	static const char *const types[] = {"string", "number", "integer", "boolean"};
	const char *type = "string";

	for (int i = 0; i < (int) lengthof(types); i++)
		if (pg_strncasecmp(description, types[i], strlen(types[i])) == 0)
			type = types[i];
	if (!first)
		appendStringInfoChar(schema, ',');
	escape_json(schema, name);
	appendStringInfo(schema, ":{\"type\":[\"%s\",\"null\"]}", type);
	appendStringInfo(instruction, "\n- %s: %s", name, description);
}

/* extract: input 0, fields 1, model 2: an object schema with one nullable property a field. */
static void
prepare_extract(PpCall *call, const NullableDatum *args)
{
	Jsonb *fields = DatumGetJsonbP(args[1].value);
	JsonbIterator *it = JsonbIteratorInit(&fields->root);
	JsonbIteratorToken token;
	JsonbValue v;
	StringInfoData schema;
	StringInfoData instruction;
	StringInfoData required;
	char *name = NULL;
	bool first = true;

	if (!JB_ROOT_IS_OBJECT(fields) || JB_ROOT_COUNT(fields) == 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("fields must be a JSON object with at least one member"),
		                errhint("For example: '{\"price\": \"number, in euros\"}'.")));
	initStringInfo(&schema);
	initStringInfo(&instruction);
	initStringInfo(&required);
	appendStringInfoString(&schema, "{\"type\":\"object\",\"properties\":{");
	appendStringInfoString(&instruction,
	                       "Extract these fields from the text as JSON. Use null for what the text "
	                       "does not say.");
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(v.val.string.val, v.val.string.len);
			if (!first)
				appendStringInfoChar(&required, ',');
			escape_json(&required, name);
		}
		else if (token == WJB_VALUE)
		{
			if (v.type != jbvString)
				ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				                errmsg("field \"%s\" must be described by a string", name)));
			add_field(&schema, &instruction, name, pnstrdup(v.val.string.val, v.val.string.len),
			          first);
			first = false;
		}
	}
	appendStringInfo(&schema, "},\"required\":[%s]}", required.data);
	appendStringInfoString(&instruction, "\n\nText:");
	call->job.schema = (PpText){schema.data, schema.len};
	call->job.instruction = (PpText){instruction.data, instruction.len};
	call->job.max_tokens = pp_max_tokens;
	call->job.top_p = 1;
}

/* A generated text. */
static Datum
result_text(const PpCall *call, const PpRow *row, bool *isnull)
{
	return PointerGetDatum(cstring_to_text_with_len(row->text.bytes, row->text.n));
}

/* A generated JSON value; output that the token limit cut off is the row's error. */
static Datum
result_json(const PpCall *call, const PpRow *row, bool *isnull)
{
	char *text = pnstrdup(row->text.bytes, row->text.n);

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/* ---- decisions --------------------------------------------------------------------------- */

/* classify: input 0, labels 1, instruction 2, model 3, descriptions 4, min_prob 5. */
static void
prepare_classify(PpCall *call, const NullableDatum *args)
{
	check_labels(call, &args[1], 2);
	check_descriptions(call, &args[4]);
	call->job.instruction = optional_text(&args[2]);
	call->job.flags |= PP_JOB_CALIBRATE; /* small models favour some labels whatever the text */
	call->threshold = check_real(&args[5], "min_prob", 0, 1, 0);
}

/* classify_probs: as classify without min_prob. */
static void
prepare_classify_probs(PpCall *call, const NullableDatum *args)
{
	check_labels(call, &args[1], 2);
	check_descriptions(call, &args[4]);
	call->job.instruction = optional_text(&args[2]);
	call->job.flags |= PP_JOB_CALIBRATE; /* small models favour some labels whatever the text */
}

/* classify_multi: input 0, labels 1, threshold 2, instruction 3, model 4. */
static void
prepare_classify_multi(PpCall *call, const NullableDatum *args)
{
	check_labels(call, &args[1], 1);
	call->threshold = check_real(&args[2], "threshold", 0, 1, 0.5f);
	call->job.instruction = optional_text(&args[3]);
	call->job.flags |= PP_JOB_MULTI;
}

/* is_true: input 0, condition 1, model 2, threshold 3. */
static void
prepare_is_true(PpCall *call, const NullableDatum *args)
{
	call->job.instruction = pp_text_of(args[1].value);
	call->job.flags |= PP_JOB_CALIBRATE;
	call->threshold = check_real(&args[3], "threshold", 0, 1, 0.5f);
}

/* score: input 0, criterion 1. */
static void
prepare_score(PpCall *call, const NullableDatum *args)
{
	call->job.instruction = pp_text_of(args[1].value);
	call->job.flags |= PP_JOB_CALIBRATE;
}

/* The likeliest label; NULL when it is not likely enough. */
static Datum
result_label(const PpCall *call, const PpRow *row, bool *isnull)
{
	int best = 0;

	for (int i = 1; i < row->n_values; i++)
		if (row->values[i] > row->values[best])
			best = i;
	*isnull = row->values[best] < call->threshold;
	return *isnull ? (Datum) 0 : PointerGetDatum(DatumGetTextPCopy(call->labels[best]));
}

/* All values as real[]. */
static Datum
result_reals(const PpCall *call, const PpRow *row, bool *isnull)
{
	Datum *values = palloc_array(Datum, Max(row->n_values, 1));

	for (int i = 0; i < row->n_values; i++)
		values[i] = Float4GetDatum(row->values[i]);
	return PointerGetDatum(
	    construct_array(values, row->n_values, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
}

/* The labels whose own probability reaches the threshold. */
static Datum
result_labels(const PpCall *call, const PpRow *row, bool *isnull)
{
	Datum *values = palloc_array(Datum, Max(row->n_values, 1));
	int n = 0;

	for (int i = 0; i < row->n_values; i++)
		if (row->values[i] >= call->threshold)
			values[n++] = call->labels[i];
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Whether the probability of yes reaches the threshold. */
static Datum
result_bool(const PpCall *call, const PpRow *row, bool *isnull)
{
	return BoolGetDatum(row->values[0] >= call->threshold);
}

/* The one value. */
static Datum
result_real(const PpCall *call, const PpRow *row, bool *isnull)
{
	return Float4GetDatum(row->values[0]);
}

/* ---- vectors, tokens --------------------------------------------------------------------- */

/* embed, relevance, similarity, count_tokens, log_likelihood have nothing but their rows. */
static void
prepare_nothing(PpCall *call, const NullableDatum *args)
{
}

/* The number of tokens. */
static Datum
result_count(const PpCall *call, const PpRow *row, bool *isnull)
{
	return Int32GetDatum((int32) row->n_tokens);
}

/* The log-likelihood. */
static Datum
result_logprob(const PpCall *call, const PpRow *row, bool *isnull)
{
	return Float8GetDatum(row->logprob);
}

/* ---- the table --------------------------------------------------------------------------- */

static const PpCallType call_types[] = {
    {"pp_generate", "generate", PP_JOB_GENERATE, PP_USE_GENERATE, 10, 1, -1, 2, 9, false,
     prepare_generate, result_text},
    {"pp_generate_json", "generate_json", PP_JOB_GENERATE, PP_USE_GENERATE, 10, 2, -1, 3, 9, false,
     prepare_generate_json, result_json},
    {"pp_classify", "classify", PP_JOB_CLASSIFY, PP_USE_GENERATE, 7, 0, -1, 3, 6, true,
     prepare_classify, result_label},
    {"pp_classify_probs", "classify_probs", PP_JOB_CLASSIFY, PP_USE_GENERATE, 6, 0, -1, 3, 5, true,
     prepare_classify_probs, result_reals},
    {"pp_classify_multi", "classify_multi", PP_JOB_CLASSIFY, PP_USE_GENERATE, 6, 0, -1, 4, 5, true,
     prepare_classify_multi, result_labels},
    {"pp_is_true", "is_true", PP_JOB_JUDGE, PP_USE_GENERATE, 5, 0, -1, 2, 4, true, prepare_is_true,
     result_bool},
    {"pp_score", "score", PP_JOB_JUDGE, PP_USE_GENERATE, 4, 0, -1, 2, 3, true, prepare_score,
     result_real},
    {"pp_extract", "extract", PP_JOB_GENERATE, PP_USE_GENERATE, 4, 0, -1, 2, 3, true,
     prepare_extract, result_json},
    {"pp_relevance", "relevance", PP_JOB_RELEVANCE, PP_USE_RELEVANCE, 4, 1, 0, 2, 3, true,
     prepare_nothing, result_real},
    {"pp_embed", "embed", PP_JOB_EMBED, PP_USE_EMBED, 2, 0, -1, 1, -1, true, prepare_nothing,
     result_reals},
    {"pp_similarity", "similarity", PP_JOB_RELEVANCE, PP_USE_EMBED, 3, 1, 0, 2, -1, true,
     prepare_nothing, result_real},
    {"pp_count_tokens", "count_tokens", PP_JOB_COUNT, PP_USE_ANY, 2, 0, -1, 1, -1, true,
     prepare_nothing, result_count},
    {"pp_log_likelihood", "log_likelihood", PP_JOB_LOGLIK, PP_USE_GENERATE, 3, 0, 1, 2, -1, true,
     prepare_nothing, result_logprob},
};

/* Finds a type; the table is short. */
const PpCallType *
pp_call_type(const char *symbol)
{
	for (int i = 0; i < (int) lengthof(call_types); i++)
		if (strcmp(call_types[i].symbol, symbol) == 0)
			return &call_types[i];
	return NULL;
}

/* True when an argument that must not be NULL is: labels, condition, prompt, schema, fields. */
static bool
required_is_null(const PpCall *call, const NullableDatum *args)
{
	switch (call->type->kind)
	{
		case PP_JOB_CLASSIFY:
		case PP_JOB_JUDGE:
			return args[1].isnull;
		case PP_JOB_GENERATE:
			if (strcmp(call->type->name, "generate") != 0 && args[1].isnull)
				return true;
			return call->row_arg != 0 && args[0].isnull;
		default:
			return false;
	}
}

/* Prepares a call. */
PpCall *
pp_call_prepare(const PpCallType *type, const NullableDatum *args, const bool *absent)
{
	PpCall *call = palloc0_object(PpCall);
	const NullableDatum *model = &args[type->model_arg];
	char *name = model->isnull ? NULL : TextDatumGetCString(model->value);
	PpModel *found;

	call->type = type;
	call->row_arg = type->row_arg;
	call->row2_arg = type->row2_arg;

	/* generate and generate_json without an input: the prompt is what varies. */
	if (type->kind == PP_JOB_GENERATE && type->row_arg > 0 && absent[type->row_arg])
		call->row_arg = 0;
	if (required_is_null(call, args))
		return NULL;
	call->job.kind = type->kind;
	call->job.function = type->name;
	call->job.top_p = 1;
	call->on_error = check_on_error(type->on_error_arg >= 0 ? &args[type->on_error_arg] : NULL);
	type->prepare(call, args);
	found = pp_model_resolve(name, type->use);
	call->job.model = found->name;
	call->job.path = found->path;
	call->job.endpoint = found->options;
	return call;
}

/* Gives a row's value. */
Datum
pp_call_result(const PpCall *call, const PpRow *row, bool *isnull)
{
	*isnull = false;
	if (row->status != 0)
	{
		if (call->on_error == PP_ON_ERROR_ERROR)
			pp_row_check(&call->job, row);
		*isnull = true;
		return (Datum) 0;
	}
	return call->type->result(call, row, isnull);
}

/* Sampling differs from call to call, unless a seed says otherwise; the seed is in the job then. */
bool
pp_call_deterministic(const PpCall *call)
{
	return call->type->deterministic || call->job.temperature == 0;
}
