/*
 * speql_tables.c: the SQL functions about speculative tables: build one, look at them, forget them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "prepack.h"
#include "speql_build.h"
#include "speql_calls.h"
#include "speql_env.h"
#include "speql_history.h"
#include "speql_plan.h"
#include "speql_registry.h"
#include "speql_track.h"

PG_FUNCTION_INFO_V1(pp_materialize);
PG_FUNCTION_INFO_V1(pp_explain_match);
PG_FUNCTION_INFO_V1(pp_reset_speculation);
PG_FUNCTION_INFO_V1(pp_speculation_tables);
PG_FUNCTION_INFO_V1(pp_stat_speculation);

/* ---- building on demand ------------------------------------------------------------------ */

/* Builds one definition; raises an error when it does not come about. */
static uint64
build_or_fail(const SpeqlForm *form, List *dropped, SpeqlTableKind kind)
{
	SpeqlReason reason = SPEQL_OK_EXACT;
	Query *definition = speql_define(form, dropped, &reason);
	const char *problem = NULL;
	uint64 id = 0;

	if (definition == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		                errmsg("the query cannot be kept in a speculative table"),
		                errdetail("Reason: %s.", speql_reason_name(reason))));
	speql_registry_evict(0);
	id = speql_build(definition, kind, speql_compared_columns(dropped), speql_env_current(),
	                 &problem);
	if (id == 0)
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
		                errmsg("the speculative table could not be built"),
		                errdetail("Reason: %s.", problem),
		                errhint("See prepack.speculation_max_bytes, and the view "
		                        "prepack.speculation_tables.")));
	return id;
}

/* materialize(query, superset): builds a table for a finished query now. */
Datum
pp_materialize(PG_FUNCTION_ARGS)
{
	SpeqlReason reason = SPEQL_OK_EXACT;
	Query *query;
	SpeqlForm *form;
	bool superset = PG_GETARG_BOOL(1);

	pp_require_preload();
	if (GetCurrentTransactionNestLevel() > 1)
		ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
		                errmsg("cannot build a speculative table in a subtransaction")));
	PreventCommandIfReadOnly("prepack.materialize()");
	PreventCommandDuringRecovery("prepack.materialize()");
	query = speql_analyse(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	form = speql_named_form(query, &reason);
	if (form != NULL && speql_calls_volatile((Node *) query))
	{
		form = NULL;
		reason = SPEQL_R_VOLATILE;
	}
	if (form == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		                errmsg("the query cannot be kept in a speculative table"),
		                errdetail("Reason: %s.", speql_reason_name(reason))));
	if (superset)
		PG_RETURN_INT64(
		    build_or_fail(form, speql_superset_conjuncts(form, 1), SPEQL_KIND_SUPERSET));
	PG_RETURN_INT64(build_or_fail(form, NIL, SPEQL_KIND_EXACT));
}

/* ---- explain_match ----------------------------------------------------------------------- */

/* Puts one row of explain_match. */
static void
report_row(const SpeqlCandidate *c, const SpeqlMatch *m, void *arg)
{
	ReturnSetInfo *rsi = arg;
	bool usable = m->query != NULL && m->reason <= SPEQL_OK_ROLLUP;
	Datum values[4];
	bool nulls[4] = {false};

	values[0] = Int64GetDatum((int64) c->id);
	values[1] = BoolGetDatum(usable);
	values[2] = CStringGetTextDatum(speql_reason_name(m->reason));
	nulls[3] = !usable;
	if (usable)
		values[3] = CStringGetTextDatum(pg_get_querydef(copyObject(m->query), false));
	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

/* explain_match(query): what each table of the role could do for a query. */
Datum
pp_explain_match(PG_FUNCTION_ARGS)
{
	Query *query;

	pp_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	query = speql_analyse(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	speql_explain_match(query, report_row, fcinfo->resultinfo);
	PG_RETURN_NULL();
}

/* ---- forgetting -------------------------------------------------------------------------- */

/* reset_speculation(): forgets the role's tables in this database. */
Datum
pp_reset_speculation(PG_FUNCTION_ARGS)
{
	int n;

	pp_require_preload();
	n = speql_registry_reset(GetUserId());
	speql_history_clear();
	if (!RecoveryInProgress() && !XactReadOnly)
		speql_registry_sweep();
	PG_RETURN_INT32(n);
}

/* ---- views ------------------------------------------------------------------------------- */

static const char *const state_names[] = {"free", "building", "ready", "dead"};
static const char *const kind_names[] = {"exact", "superset"};

/* True when the current role may see what a role's tables hold. */
static bool
may_see(Oid roleid)
{
	return has_privs_of_role(GetUserId(), roleid) ||
	       has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/* Whether a ready table would still answer a query of now. */
static const char *
freshness(const SpeqlTable *t)
{
	SpeqlTicket *ticket = palloc(sizeof(*ticket));

	if (t->state != SPEQL_TABLE_READY || !speql_registry_ticket(t->id, ticket))
		return NULL;
	return speql_reason_name(
	    speql_track_verdict(ticket->deps, ticket->n_deps, ticket->snapshot, GetActiveSnapshot()));
}

/* Puts one row of speculation_tables. */
static void
put_table(ReturnSetInfo *rsi, const SpeqlTable *t, const char *sql)
{
	const char *verdict = freshness(t);
	bool ready = t->state == SPEQL_TABLE_READY || t->state == SPEQL_TABLE_DEAD;
	Datum values[12];
	bool nulls[12] = {false};

	values[0] = Int64GetDatum((int64) t->id);
	values[1] = ObjectIdGetDatum(t->roleid);
	values[2] = CStringGetTextDatum(state_names[t->state]);
	values[3] = CStringGetTextDatum(kind_names[t->kind]);
	values[4] = sql ? CStringGetTextDatum(sql) : (Datum) 0;
	nulls[4] = sql == NULL;
	values[5] = Int64GetDatum((int64) t->rows);
	values[6] = Int64GetDatum(t->bytes);
	values[7] = Float8GetDatum(t->build_ms);
	values[8] = TimestampTzGetDatum(t->built_at);
	nulls[5] = nulls[7] = nulls[8] = !ready;
	values[9] = Int64GetDatum(t->n_hits);
	if (verdict && strcmp(verdict, "exact") == 0)
		verdict = "fresh";
	values[10] = Float8GetDatum(t->saved_ms);
	values[11] = verdict ? CStringGetTextDatum(verdict) : (Datum) 0;
	nulls[11] = verdict == NULL;
	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

/* The function behind speculation_tables: this database's. */
Datum
pp_speculation_tables(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	SpeqlTable *tables;
	char **sqls;
	int n = 0;

	pp_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	tables = palloc(sizeof(SpeqlTable) * SPEQL_TABLES_MAX);
	sqls = palloc0(sizeof(char *) * SPEQL_TABLES_MAX);
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];

		if (t->state == SPEQL_TABLE_FREE || t->dbid != MyDatabaseId || !may_see(t->roleid))
			continue;
		if (DsaPointerIsValid(t->sql))
			sqls[n] = pstrdup(speql_text(t->sql));
		tables[n++] = *t;
	}
	LWLockRelease(speql_shared->lock);
	for (int i = 0; i < n; i++)
		put_table(rsi, &tables[i], sqls[i]);
	PG_RETURN_NULL();
}

/* Puts one counter. */
static void
put_counter(ReturnSetInfo *rsi, const char *name, double value)
{
	Datum values[2] = {CStringGetTextDatum(name), Float8GetDatum(value)};
	bool nulls[2] = {false};

	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

/* The function behind pg_stat_prepack_speculation: name and value pairs. */
Datum
pp_stat_speculation(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	SpeqlCounters *c;

	pp_require_preload();
	InitMaterializedSRF(fcinfo, 0);
	c = &speql_shared->counters;
	put_counter(rsi, "feeds", pg_atomic_read_u64(&c->n_feeds));
	put_counter(rsi, "repairs", pg_atomic_read_u64(&c->n_repairs));
	put_counter(rsi, "completions", pg_atomic_read_u64(&c->n_completions));
	put_counter(rsi, "previews", pg_atomic_read_u64(&c->n_previews));
	put_counter(rsi, "tables built", pg_atomic_read_u64(&c->n_builds));
	put_counter(rsi, "cancelled", pg_atomic_read_u64(&c->n_cancelled));
	put_counter(rsi, "plans made ahead", pg_atomic_read_u64(&c->n_plans));
	put_counter(rsi, "plans used", pg_atomic_read_u64(&c->n_plans_used));
	put_counter(rsi, "planning_saved_ms", pg_atomic_read_u64(&c->planning_saved_us) / 1000.0);
	put_counter(rsi, "built_ms", pg_atomic_read_u64(&c->built_us) / 1000.0);
	put_counter(rsi, "wasted_ms", pg_atomic_read_u64(&c->wasted_us) / 1000.0);
	put_counter(rsi, "saved_ms", pg_atomic_read_u64(&c->saved_us) / 1000.0);
	for (int i = 0; i < SPEQL_N_REASONS; i++)
		put_counter(rsi,
		            psprintf("%s: %s", i <= SPEQL_OK_ROLLUP ? "hit" : "miss", speql_reason_name(i)),
		            pg_atomic_read_u64(&c->reasons[i]));
	PG_RETURN_NULL();
}
