/*
 * funcs_admin.c: models in the registry, the engine as a whole, the version.
 *
 * The functions that write are not granted to PUBLIC; prepack.grant_usage(role, admin => true)
 * grants them together with the table privileges that their SQL needs, since nothing here runs with
 * more rights than its caller's.
 */
#include "client.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "endpoints.h"
#include "models.h"

#define PP_NAME_MAX       (NAMEDATALEN - 1)
#define PP_STATUS_COLUMNS 9
#define PP_WAIT_MAX_S     1e9 /* of wait_until_ready: 31 years */

/* ---- the registry ------------------------------------------------------------------------ */

/* A required text argument as a C string. */
static char *
required_text(FunctionCallInfo fcinfo, int i, const char *name)
{
	if (PG_ARGISNULL(i))
		ereport(ERROR,
		        (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be NULL", name)));
	return text_to_cstring(PG_GETARG_TEXT_PP(i));
}

/* Refuses names that the view or the wire could not carry. */
static void
check_model_name(const char *name)
{
	if (name[0] == '\0' || strlen(name) > PP_NAME_MAX)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("a model name has between 1 and %d bytes", PP_NAME_MAX)));
}

/* Refuses paths that leave prepack.model_directory. */
static void
check_model_path(const char *path)
{
	if (path[0] == '\0' || strlen(path) >= MAXPGPATH / 2)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("invalid model path")));
	if (pp_is_url(path))
		ereport(ERROR,
		        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("a model's path cannot be a URL"),
		         errhint("Use prepack.register_endpoint().")));
	if (is_absolute_path(path) || path_contains_parent_reference(path))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
		                errmsg("path \"%s\" is outside the model directory", path),
		                errhint("Name a file or folder relative to \"prepack.model_directory\".")));
}

/*
 * Runs one statement on the registry with the caller's rights; returns the number of rows it
 * touched.
 */
static uint64
run_registry(const char *sql, int n, Oid *types, Datum *values, const char *nulls)
{
	uint64 n_rows;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute_with_args(sql, n, types, values, nulls, false, 0) < 0)
		elog(ERROR, "could not change the model registry");
	n_rows = SPI_processed;
	SPI_finish();
	return n_rows;
}

/* The kind of a model that its options name, or NULL. */
static char *
kind_from_options(Jsonb *options)
{
	static const char *const kinds[] = {"generate", "embed", "rerank"};
	JsonbValue *v = options != NULL && JB_ROOT_IS_OBJECT(options)
	                    ? getKeyJsonValueFromContainer(&options->root, "kind", 4, NULL)
	                    : NULL;
	char *kind;

	if (v == NULL)
		return NULL;
	kind = v->type == jbvString ? pnstrdup(v->val.string.val, v->val.string.len) : pstrdup("");
	for (int i = 0; i < (int) lengthof(kinds); i++)
		if (strcmp(kind, kinds[i]) == 0)
			return kind;
	ereport(ERROR,
	        (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown model kind \"%s\"", kind),
	         errhint("Use generate, embed or rerank.")));
}

/* Puts a model into the registry. */
static void
insert_model(const char *name, const char *path, const char *kind, Jsonb *options)
{
	Oid types[] = {TEXTOID, TEXTOID, TEXTOID, JSONBOID};
	Datum values[] = {CStringGetTextDatum(name), CStringGetTextDatum(path),
	                  CStringGetTextDatum(kind),
	                  options != NULL ? JsonbPGetDatum(options) : (Datum) 0};

	run_registry("INSERT INTO prepack.model_registry (name, path, kind, options)"
	             " VALUES ($1, $2, $3, coalesce($4, '{}'))",
	             4, types, values, options != NULL ? NULL : "   n");
}

PG_FUNCTION_INFO_V1(pp_register_model);

/*
 * register_model(name, path, options): the engine tells from the file what kind it is. With a kind
 * in the options the file is not looked at: it may come later, or serve as another kind.
 */
Datum
pp_register_model(PG_FUNCTION_ARGS)
{
	char *name = required_text(fcinfo, 0, "name");
	char *path = required_text(fcinfo, 1, "path");
	Jsonb *options = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	const char *kind;

	check_model_name(name);
	check_model_path(path);
	kind = kind_from_options(options);
	insert_model(name, path, kind != NULL ? kind : pp_client_kind(path), options);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(pp_register_endpoint);

/*
 * register_endpoint(name, url, options): nothing is asked of the server. It must be allowed
 * already, so that a slip in the URL is told now rather than at the first call.
 */
Datum
pp_register_endpoint(PG_FUNCTION_ARGS)
{
	char *name = required_text(fcinfo, 0, "name");
	char *url = required_text(fcinfo, 1, "url");
	Jsonb *options = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	const char *kind;

	check_model_name(name);
	if (options != NULL)
		pp_endpoint_check_options(options);
	pp_endpoint_check_allowed(name, url);
	kind = kind_from_options(options);
	insert_model(name, url, kind != NULL ? kind : "generate", options);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(pp_drop_model);

/*
 * drop_model(name): takes it off the registry; a loaded copy stays until unload_model or a restart.
 */
Datum
pp_drop_model(PG_FUNCTION_ARGS)
{
	char *name = required_text(fcinfo, 0, "name");
	Oid types[] = {TEXTOID};
	Datum values[] = {CStringGetTextDatum(name)};

	if (run_registry("DELETE FROM prepack.model_registry WHERE name OPERATOR(pg_catalog.=) $1 AND "
	                 "NOT builtin",
	                 1, types, values, NULL) == 0)
		ereport(ERROR,
		        (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("model \"%s\" does not exist", name)));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(pp_set_default_model);

/* set_default_model(name, kind): what calls of this kind use when nothing else is said. */
Datum
pp_set_default_model(PG_FUNCTION_ARGS)
{
	char *name = required_text(fcinfo, 0, "name");
	char *kind = required_text(fcinfo, 1, "kind");
	Oid types[] = {TEXTOID, TEXTOID};
	Datum values[] = {CStringGetTextDatum(name), CStringGetTextDatum(kind)};

	run_registry("UPDATE prepack.model_registry SET is_default = false"
	             " WHERE kind OPERATOR(pg_catalog.=) $2 AND name OPERATOR(pg_catalog.<>) $1",
	             2, types, values, NULL);
	if (run_registry("UPDATE prepack.model_registry SET is_default = true"
	                 " WHERE kind OPERATOR(pg_catalog.=) $2 AND name OPERATOR(pg_catalog.=) $1",
	                 2, types, values, NULL) == 0)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
		                errmsg("there is no model \"%s\" of kind \"%s\"", name, kind)));
	PG_RETURN_VOID();
}

/* ---- the engine -------------------------------------------------------------------------- */

PG_FUNCTION_INFO_V1(pp_wait_until_ready);

/* wait_until_ready(timeout): true as soon as the engine answers, false when the time is over. */
Datum
pp_wait_until_ready(PG_FUNCTION_ARGS)
{
	Interval *timeout = PG_ARGISNULL(0) ? NULL : PG_GETARG_INTERVAL_P(0);
	/* In seconds as double, an endless or absurd interval cannot overflow. */
	double seconds = timeout == NULL ? 60.0
	                                 : (double) timeout->time / USECS_PER_SEC +
	                                       (double) timeout->day * SECS_PER_DAY +
	                                       (double) timeout->month * DAYS_PER_MONTH * SECS_PER_DAY;
	int64 us = (int64) (Min(Max(seconds, 0.0), PP_WAIT_MAX_S) * USECS_PER_SEC);
	TimestampTz deadline = GetCurrentTimestamp() + us;
	bool ready = false;

	pp_require_preload();
	ConditionVariablePrepareToSleep(&pp_shared->state_changed);
	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		LWLockAcquire(pp_shared->lock, LW_SHARED);
		ready = pp_shared->state == PP_ENGINE_READY;
		LWLockRelease(pp_shared->lock);
		if (ready || left <= 0)
			break;
		ConditionVariableTimedSleep(&pp_shared->state_changed, left,
		                            PP_WAIT_EVENT_NEW("PrepackEngineStart"));
	}
	ConditionVariableCancelSleep();
	PG_RETURN_BOOL(ready);
}

PG_FUNCTION_INFO_V1(pp_restart_engine);

/*
 * restart_engine(): asks the supervisor; running calls of all sessions fail. False: there is no
 * supervisor.
 */
Datum
pp_restart_engine(PG_FUNCTION_ARGS)
{
	bool asked;

	pp_require_preload();
	LWLockAcquire(pp_shared->lock, LW_EXCLUSIVE);
	asked = pp_shared->supervisor_pid != 0;
	pp_shared->restart_requested = asked;
	if (asked)
		pp_shared->state = PP_ENGINE_STARTING; /* so that a wait_until_ready after this waits */
	if (asked && pp_shared->supervisor_latch != NULL)
		SetLatch(pp_shared->supervisor_latch);
	LWLockRelease(pp_shared->lock);
	PG_RETURN_BOOL(asked);
}

/* The word for a state. */
static const char *
state_name(PpEngineState state)
{
	static const char *const names[] = {"down", "starting", "ready", "degraded"};

	return (unsigned) state < lengthof(names) ? names[state] : "unknown";
}

PG_FUNCTION_INFO_V1(pp_status);

/* The row of the view status, from what the supervisor publishes and, if it answers, the engine. */
Datum
pp_status(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[PP_STATUS_COLUMNS] = {0};
	bool nulls[PP_STATUS_COLUMNS] = {0};
	PpShared copy;
	PpEngineInfo info = {0};
	char why[sizeof(copy.last_error)];
	bool known;
	int i = 0;

	pp_require_preload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	LWLockAcquire(pp_shared->lock, LW_SHARED);
	memcpy(&copy, pp_shared, sizeof(copy));
	LWLockRelease(pp_shared->lock);
	known = copy.state == PP_ENGINE_READY &&
	        pp_client_probe(&info, why, sizeof(why)) == PP_PROBE_ANSWERS;
	values[i++] = CStringGetTextDatum(state_name(copy.state));
	nulls[i] = copy.engine_pid == 0;
	values[i++] = Int32GetDatum(copy.engine_pid);
	nulls[i] = !known;
	values[i++] = CStringGetTextDatum(info.device);
	nulls[i] = !known;
	values[i++] = Int64GetDatum(info.memory_used);
	nulls[i] = !known;
	values[i++] = Int64GetDatum(info.memory_limit);
	nulls[i] = !known;
	values[i++] = Int32GetDatum(info.queue_depth);
	nulls[i] = copy.generation == 0;
	values[i++] = TimestampTzGetDatum(copy.started_at);
	values[i++] = Int64GetDatum(copy.restarts);
	/* The last error may name files; what it says is for monitors. */
	nulls[i] =
	    copy.last_error[0] == '\0' || !has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	values[i++] = CStringGetTextDatum(copy.last_error);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

PG_FUNCTION_INFO_V1(pp_version);

/* version(): of the library; the script's is in pg_extension. */
Datum
pp_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(PP_VERSION));
}
