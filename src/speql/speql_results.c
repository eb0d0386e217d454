/*
 * speql_results.c: the SQL functions that read what a worker found: completions, previews,
 * sessions.
 *
 * Each waits, if asked to, until the worker has got so far with that very text; results of a newer
 * text are none of an older one's.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "prepack.h"
#include "speql_predict.h"
#include "speql_preview.h"
#include "speql_shared.h"

PG_FUNCTION_INFO_V1(pp_completions);
PG_FUNCTION_INFO_V1(pp_preview);
PG_FUNCTION_INFO_V1(pp_speculations);

/* The session of a text that the current role fed, or NULL. lock is held. */
static SpeqlSession *
session_of(uint64 id)
{
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if (s->state != SPEQL_SESSION_FREE && s->id == id && s->dbid == MyDatabaseId &&
		    s->roleid == GetUserId())
			return s;
	}
	return NULL;
}

typedef bool (*Ready)(const SpeqlSession *s, uint64 id);

/* Completions are there. */
static bool
completions_ready(const SpeqlSession *s, uint64 id)
{
	return s->completions_id == id || s->done_id == id;
}

/* The block under the cursor is shown in full, or nothing more will come. */
static bool
preview_ready(const SpeqlSession *s, uint64 id)
{
	if (s->done_id == id)
		return true;
	if (s->previews_id != id)
		return false;
	for (int i = 0; i < s->n_previews; i++)
		if (s->previews[i].under_cursor)
			return strcmp(s->previews[i].state, "running") != 0 && !s->previews[i].sampled;
	return false;
}

/* Waits until results of a text are ready, at most wait_ms. */
static void
wait_for(uint64 id, int wait_ms, Ready ready)
{
	TimestampTz end = GetCurrentTimestamp() + wait_ms * INT64CONST(1000);

	if (wait_ms <= 0)
		return;
	ConditionVariablePrepareToSleep(&speql_shared->changed);
	for (;;)
	{
		long left = (long) ((end - GetCurrentTimestamp()) / 1000);
		SpeqlSession *s;
		bool over;

		LWLockAcquire(speql_shared->lock, LW_SHARED);
		s = session_of(id);
		over = s == NULL || ready(s, id);
		LWLockRelease(speql_shared->lock);
		if (over || left <= 0 ||
		    ConditionVariableTimedSleep(&speql_shared->changed, left,
		                                PP_WAIT_EVENT_NEW("PrepackSpeculationResult")))
			break;
	}
	ConditionVariableCancelSleep();
}

/* ---- completions ------------------------------------------------------------------------- */

/* completions(id, wait_ms): what may come next, the most probable first. */
Datum
pp_completions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64 id = (uint64) PG_GETARG_INT64(0);
	SpeqlSession *s;
	SpeqlCompletion c;
	char *copy = NULL;
	const char *data;
	int bytes = 0;

	pp_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	wait_for(id, PG_GETARG_INT32(1), completions_ready);
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	s = session_of(id);
	if (s != NULL && s->completions_id == id && s->bytes_completions > 0)
	{
		bytes = s->bytes_completions;
		copy = palloc(bytes);
		memcpy(copy, speql_text(s->completions), bytes);
	}
	LWLockRelease(speql_shared->lock);
	data = copy;
	for (int i = 1; copy != NULL && speql_next_completion(&data, copy + bytes, &c); i++)
	{
		Datum values[5] = {Int32GetDatum(i), CStringGetTextDatum(c.insert),
		                   CStringGetTextDatum(c.full), Float8GetDatum(c.probability),
		                   CStringGetTextDatum(c.source)};
		bool nulls[5] = {false};

		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}

/* ---- previews ---------------------------------------------------------------------------- */

/* Copies of a session's previews, texts included. */
typedef struct PreviewCopy
{
	SpeqlPreview p;
	char *sql;
	char *columns;
	char *rows;
} PreviewCopy;

/* A copy of a text in the area, or NULL. */
static char *
copy_text(dsa_pointer piece)
{
	const char *text = speql_text(piece);

	return text ? pstrdup(text) : NULL;
}

/* Copies the previews of a text; returns how many. */
static int
copy_previews(uint64 id, PreviewCopy *copies)
{
	SpeqlSession *s;
	int n = 0;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	s = session_of(id);
	if (s != NULL && s->previews_id == id)
		for (n = 0; n < s->n_previews; n++)
			copies[n] =
			    (PreviewCopy){s->previews[n], copy_text(s->previews[n].sql),
			                  copy_text(s->previews[n].columns), copy_text(s->previews[n].rows)};
	LWLockRelease(speql_shared->lock);
	return n;
}

/* A JSON text as jsonb. */
static Datum
as_jsonb(const char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/* The first rows of a JSON array of rows. */
static Datum
first_rows(const char *json, int max_rows)
{
	Datum all = as_jsonb(json);
	Jsonb *array = DatumGetJsonbP(all);
	JsonbParseState *state = NULL;
	JsonbValue *result;

	if (max_rows >= SPEQL_PREVIEW_ROWS)
		return all;
	(void) pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < Min(max_rows, (int) JB_ROOT_COUNT(array)); i++)
		(void) pushJsonbValue(&state, WJB_ELEM, getIthJsonbValueFromContainer(&array->root, i));
	result = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(result));
}

/* Puts one block's row. */
static void
put_preview(ReturnSetInfo *rsi, const PreviewCopy *c, int max_rows)
{
	bool shown = c->columns != NULL && c->rows != NULL;
	Datum values[8];
	bool nulls[8] = {false};

	values[0] = CStringGetTextDatum(psprintf("%s%s", c->p.block, c->p.under_cursor ? " *" : ""));
	values[1] = CStringGetTextDatum(c->sql ? c->sql : "");
	nulls[1] = c->sql == NULL;
	values[2] = CStringGetTextDatum(c->p.state);
	values[3] = BoolGetDatum(c->p.sampled);
	values[4] = shown ? as_jsonb(c->columns) : (Datum) 0;
	values[5] = shown ? first_rows(c->rows, max_rows) : (Datum) 0;
	values[6] = Int64GetDatum(c->p.total_rows);
	values[7] = Float8GetDatum(c->p.elapsed_ms);
	nulls[4] = nulls[5] = nulls[7] = !shown;
	nulls[6] = c->p.total_rows < 0;
	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

/* preview(id, max_rows, wait_ms): the blocks of a text, with rows where there are some. */
Datum
pp_preview(PG_FUNCTION_ARGS)
{
	uint64 id = (uint64) PG_GETARG_INT64(0);
	int max_rows = PG_GETARG_INT32(1), n;
	PreviewCopy *copies;

	pp_require_preload();
	if (max_rows < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("max_rows must not be negative")));
	InitMaterializedSRF(fcinfo, 0);
	wait_for(id, PG_GETARG_INT32(2), preview_ready);
	copies = palloc(sizeof(PreviewCopy) * SPEQL_BLOCKS_MAX);
	n = copy_previews(id, copies);
	for (int i = 0; i < n; i++)
		put_preview((ReturnSetInfo *) fcinfo->resultinfo, &copies[i], max_rows);
	PG_RETURN_NULL();
}

/* ---- sessions ---------------------------------------------------------------------------- */

/* What a session does, in a word. */
static const char *
doing(const SpeqlSession *s)
{
	if (s->state == SPEQL_SESSION_STARTING)
		return "starting";
	if (s->done_id == s->id)
		return "idle";
	return DsaPointerIsValid(s->anchor) ? "running" : "thinking";
}

/* The function behind the view speculations. */
Datum
pp_speculations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	int n = 0;
	SpeqlSession *copies;

	pp_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	copies = palloc(sizeof(SpeqlSession) * SPEQL_SESSIONS_MAX);
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if (s->state != SPEQL_SESSION_FREE && s->dbid == MyDatabaseId &&
		    (has_privs_of_role(GetUserId(), s->roleid) ||
		     has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS)))
			copies[n++] = *s;
	}
	LWLockRelease(speql_shared->lock);
	for (int i = 0; i < n; i++)
	{
		SpeqlSession *s = &copies[i];
		Datum values[6] = {Int64GetDatum((int64) s->id),  ObjectIdGetDatum(s->roleid),
		                   CStringGetTextDatum(doing(s)), Int32GetDatum(s->feeder),
		                   Int32GetDatum(s->worker),      TimestampTzGetDatum(s->fed_at)};
		bool nulls[6] = {false};

		nulls[4] = s->worker == 0;
		tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}
