/*
 * funcs_views.c: what the engine says of models, queue and prefixes; loading, unloading,
 * prewarming.
 *
 * Replies are read with the same checked reader as everything on the wire.
 */
#include "call.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "llm/llm_wire.h"
#include "models.h"

/* True when there is an engine to ask: views show nothing, rather than fail, while it starts. */
static bool
engine_ready(void)
{
	PpEngineState state;

	pp_require_preload();
	LWLockAcquire(pp_shared->lock, LW_SHARED);
	state = pp_shared->state;
	LWLockRelease(pp_shared->lock);
	return state == PP_ENGINE_READY;
}

/* Asks, and opens a reader on the reply. */
static llm_wire_reader
ask(llm_wire_type type, const void *payload, Size n)
{
	Size n_reply;
	const char *reply = pp_client_ask(type, payload, n, &n_reply);

	return (llm_wire_reader){(const uint8 *) reply, n_reply, false};
}

/* A text of the reply as a Datum; empty ones are NULL. */
static Datum
text_datum(llm_wire_reader *r, bool *isnull)
{
	size_t n;
	const char *bytes = llm_wire_get_text(r, &n);

	*isnull = bytes == NULL || n == 0;
	return *isnull ? (Datum) 0 : PointerGetDatum(cstring_to_text_with_len(bytes, n));
}

/* Raises an error when a reply was not read exactly. */
static void
check_reply(const llm_wire_reader *r)
{
	if (!llm_wire_complete(r))
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
		                errmsg("malformed reply of the inference engine")));
}

PG_FUNCTION_INFO_V1(pp_engine_models);

/*
 * The rows of engine_models(): path, architecture, parameters, quantisation, context, bytes,
 * kv_bytes, digest.
 */
Datum
pp_engine_models(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	llm_wire_reader r;
	uint32 n;

	InitMaterializedSRF(fcinfo, 0);
	if (!engine_ready())
		return (Datum) 0;
	r = ask(LLM_WIRE_MODELS, NULL, 0);
	n = llm_wire_get_u32(&r);
	for (uint32 i = 0; i < n && !r.bad; i++)
	{
		Datum values[8];
		bool nulls[8] = {0};
		bool ignored;

		values[0] = text_datum(&r, &nulls[0]);
		values[1] = text_datum(&r, &nulls[1]);
		values[3] = text_datum(&r, &nulls[3]);
		values[7] = text_datum(&r, &nulls[7]);
		(void) text_datum(&r, &ignored); /* chat family */
		(void) llm_wire_get_u8(&r);      /* kind: the registry's counts */
		values[2] = Int64GetDatum((int64) llm_wire_get_u64(&r));
		values[5] = Int64GetDatum((int64) llm_wire_get_u64(&r));
		values[6] = Int64GetDatum((int64) llm_wire_get_u64(&r));
		(void) llm_wire_get_u64(&r);
		values[4] = Int32GetDatum((int32) llm_wire_get_u32(&r));
		for (int k = 0; k < 3; k++)
			(void) llm_wire_get_u32(&r);
		if (!r.bad)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	check_reply(&r);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(pp_engine_queue);

/* The rows of engine_queue(). Other users' requests are for monitors. */
Datum
pp_engine_queue(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	llm_wire_reader r;
	uint32 n;

	InitMaterializedSRF(fcinfo, 0);
	if (!engine_ready())
		return (Datum) 0;
	r = ask(LLM_WIRE_QUEUE, NULL, 0);
	n = llm_wire_get_u32(&r);
	for (uint32 i = 0; i < n && !r.bad; i++)
	{
		Datum values[10];
		bool nulls[10] = {0};
		Oid userid;

		values[0] = Int32GetDatum((int32) llm_wire_get_u32(&r));
		userid = (Oid) llm_wire_get_u32(&r);
		values[1] = ObjectIdGetDatum(userid);
		values[2] = text_datum(&r, &nulls[2]);
		values[3] = text_datum(&r, &nulls[3]);
		values[4] = CStringGetTextDatum(llm_wire_get_u8(&r) != 0 ? "running" : "receiving");
		values[5] = Int64GetDatum((int64) llm_wire_get_u32(&r));
		values[6] = Int64GetDatum((int64) llm_wire_get_u32(&r));
		values[7] = Int64GetDatum((int64) llm_wire_get_u64(&r));
		values[8] = Float8GetDatum(llm_wire_get_f64(&r));
		values[9] = Float8GetDatum(llm_wire_get_f64(&r));
		if (!r.bad && (all || userid == GetUserId()))
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	check_reply(&r);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(pp_engine_prefixes);

/* The rows of engine_prefixes(): those of the current role. */
Datum
pp_engine_prefixes(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	llm_wire_reader r;
	uint8 salt[16];
	uint32 n;

	InitMaterializedSRF(fcinfo, 0);
	if (!engine_ready())
		return (Datum) 0;
	pp_client_salt(salt);
	r = ask(LLM_WIRE_PREFIXES, salt, sizeof(salt));
	n = llm_wire_get_u32(&r);
	for (uint32 i = 0; i < n && !r.bad; i++)
	{
		Datum values[5];
		bool nulls[5] = {0};

		values[0] = text_datum(&r, &nulls[0]);
		values[1] = Int32GetDatum((int32) llm_wire_get_u32(&r));
		values[2] = Int64GetDatum((int64) llm_wire_get_u64(&r));
		values[4] = Int64GetDatum((int64) llm_wire_get_u64(&r));
		values[3] = BoolGetDatum(llm_wire_get_u8(&r) != 0);
		if (!r.bad)
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	check_reply(&r);
	return (Datum) 0;
}

/* A required model name, resolved to a model that the engine itself can load. */
static PpModel *
named_model(FunctionCallInfo fcinfo)
{
	PpModel *model;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("name must not be NULL")));
	model = pp_model_resolve(text_to_cstring(PG_GETARG_TEXT_PP(0)), PP_USE_ANY);
	if (model->options != NULL)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
		                errmsg("model \"%s\" is a remote endpoint, which is not loaded here",
		                       model->name)));
	return model;
}

PG_FUNCTION_INFO_V1(pp_load_model);

/* load_model(name). */
Datum
pp_load_model(PG_FUNCTION_ARGS)
{
	PpModel *model = named_model(fcinfo);
	TupleDesc desc;
	Datum values[3];
	bool nulls[3] = {0};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = CStringGetTextDatum(model->name);
	values[2] = Int64GetDatum(pp_client_load(model->name, model->path));
	values[1] = BoolGetDatum(true);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

PG_FUNCTION_INFO_V1(pp_unload_model);

/* unload_model(name): the memory is free when it returns. False: it was not loaded. */
Datum
pp_unload_model(PG_FUNCTION_ARGS)
{
	PpModel *model = named_model(fcinfo);

	if (model->path[0] == '\0')
		PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(pp_client_unload(model->path));
}

PG_FUNCTION_INFO_V1(pp_prewarm);

/* prewarm(instruction, model): the prefix that generate(instruction, input) shares. */
Datum
pp_prewarm(PG_FUNCTION_ARGS)
{
	PpModel *model;
	PpJob job = {.kind = PP_JOB_PREWARM,
	             .function = "prewarm",
	             .interactive = true,
	             .top_p = 1,
	             .max_tokens = 1};
	PpRequest *req;
	int64 n_tokens;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	model = pp_model_resolve(PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
	                         PP_USE_GENERATE);
	job.model = model->name;
	job.path = model->path;
	job.endpoint = model->options;
	job.instruction = pp_text_of(PG_GETARG_DATUM(0));
	req = pp_client_submit(&job, 0, NULL, 0, NULL);
	pp_client_wait(req);
	n_tokens = (int64) pp_client_stats(req)->n_prompt_tokens;
	pp_client_free(req);
	PG_RETURN_INT64(n_tokens);
}
