/*
 * speql_ahead.c: see speql_ahead.h.
 *
 * The worker leaves two texts: the analysed query and its plan (nodeToString of both). The session
 * takes the plan when its own analysed query is equal to that query: layout, case and comments do
 * not matter, constants do. Analysis has then bound every name and checked every view and policy
 * itself, so that only what planning reads can have changed:
 *
 *	settings	a hash of those that EXPLAIN (SETTINGS) knows
 *	tables		no speculative table came since, which a new plan might prefer
 *	catalogs	the session counts in shared memory, by hash, what its caches are told to forget.
 *				The worker reads these counters before it plans; after taking its locks, the
 *				session compares those of the plan's relations, functions and types. A change that
 *				the worker did not see reaches the session later than the worker read, so its
 *				counter differs.
 *
 * Reading a plan costs time, too. The worker measures both and offers only what saves most of it.
 */
#include "speql_ahead.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "compat.h"
#include "prepack.h"
#include "speql_env.h"
#include "speql_plan.h"
#include "speql_plantree.h"
#include "speql_scan.h"
#include "speql_shared.h"

#define MIN_PLAN_MS 1.0          /* what is planned faster is not worth keeping */
#define MIN_GAIN    2.0          /* times as long as reading the plan that planning must take */
#define MAX_BYTES   (512 * 1024) /* of both texts */
#define EVERYTHING  0            /* the counter of what cannot be told apart */

static uint64 watched = 0; /* bit i: sessions[i] may be this backend's */

/* ---- what a plan rests on ---------------------------------------------------------------- */

/* The counter of a cache's entry; cache −1 is that of relations. */
static uint32
counter_of(int cache, uint32 value)
{
	uint32 hash = hash_combine(murmurhash32((uint32) cache), murmurhash32(value));

	return 1 + hash % (SPEQL_INVALIDATIONS - 1);
}

/* Counts something forgotten in all sessions of this backend. */
static void
bump(uint32 counter)
{
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if ((watched & UINT64CONST(1) << i) && s->feeder == MyProcPid)
			pg_atomic_fetch_add_u32(&s->invalidations[counter], 1);
	}
}

/* A relation changed; InvalidOid: any. */
static void
relation_changed(Datum arg, Oid relid)
{
	bump(OidIsValid(relid) ? counter_of(-1, relid) : EVERYTHING);
}

/* A function or type changed; 0: any. */
static void
object_changed(Datum arg, int cache, uint32 value)
{
	bump(value != 0 ? counter_of(cache, value) : EVERYTHING);
}

/* An operator or the like changed: too rare to tell which. */
static void
something_changed(Datum arg, int cache, uint32 value)
{
	bump(EVERYTHING);
}

/* Has this backend count for a session, from now on. */
void
speql_ahead_watch(int session)
{
	static bool registered = false;

	watched |= UINT64CONST(1) << session;
	if (registered)
		return;
	/* The caches that the server's own cache of plans watches. */
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, object_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, something_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, something_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AMOPOPID, something_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, something_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, something_changed, (Datum) 0);
	registered = true;
}

/* The counters of what a plan rests on, as an array; the tables it reads are checked elsewhere. */
static uint32 *
dependencies(const PlannedStmt *stmt, int *n)
{
	List *tables = speql_scan_tables(stmt);
	uint32 *counters = palloc(
	    sizeof(uint32) * (1 + list_length(stmt->relationOids) + list_length(stmt->invalItems)));
	ListCell *lc;

	*n = 0;
	counters[(*n)++] = EVERYTHING;
	foreach (lc, stmt->relationOids)
		if (!list_member_oid(tables, lfirst_oid(lc)))
			counters[(*n)++] = counter_of(-1, lfirst_oid(lc));
	foreach (lc, stmt->invalItems)
	{
		PlanInvalItem *item = lfirst_node(PlanInvalItem, lc);

		counters[(*n)++] = counter_of(item->cacheId, item->hashValue);
	}
	return counters;
}

/* A hash of the settings that plans depend on, as this process has them. */
static uint64
planner_settings(void)
{
	Size size;
	char *settings = speql_env_capture_planner(&size);

	return hash_combine64(speql_env_current(), speql_env_hash(settings, size));
}

/* A cheap look at a query, so that few others are compared with the one that was planned. */
static uint32
shape_of(const Query *query)
{
	uint32 hash = murmurhash32((uint32) list_length(query->targetList));
	ListCell *lc;

	foreach (lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		hash = hash_combine(hash, murmurhash32((uint32) rte->rtekind));
		hash = hash_combine(hash, murmurhash32(rte->relid));
	}
	return hash;
}

/* ---- the worker's side ------------------------------------------------------------------- */

/* True for what belongs to another extension, which may be unable to read it back. */
static bool
is_foreign(const Plan *plan, void *arg)
{
	return IsA(plan, ForeignScan) || (IsA(plan, CustomScan) && !speql_scan_is_ours(plan));
}

/* True when a session can read the plan back and run it. */
static bool
is_portable(const PlannedStmt *stmt)
{
	const PlannedStmt *over_tables = speql_scan_statement(stmt);

	return !stmt->transientPlan && !speql_visit_plans(stmt, is_foreign, NULL) &&
	       (over_tables == NULL || is_portable(over_tables));
}

/* Milliseconds since a time. */
static double
ms_since(instr_time start)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* What reading two texts back takes. */
static double
reading_ms(const char *query, const char *plan)
{
	instr_time start;

	INSTR_TIME_SET_CURRENT(start);
	(void) stringToNode(query);
	(void) stringToNode(plan);
	return ms_since(start);
}

/* Frees what an offer holds. lock is held. */
static void
withdraw(SpeqlAhead *a)
{
	speql_release(&a->query);
	speql_release(&a->plan);
	speql_release(&a->counters);
}

/* Leaves a plan with a session. */
static void
put_offer(SpeqlSession *s, const SpeqlAhead *facts, const char *query, const char *plan,
          const uint32 *counters)
{
	SpeqlAhead *a = &s->ahead;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	withdraw(a);
	*a = *facts;
	a->query = speql_store(query, strlen(query) + 1);
	a->plan = speql_store(plan, strlen(plan) + 1);
	a->counters = speql_store(counters, sizeof(uint32) * a->n_counters);
	if (!DsaPointerIsValid(a->query) || !DsaPointerIsValid(a->plan) ||
	    !DsaPointerIsValid(a->counters))
		withdraw(a);
	else
		pg_atomic_fetch_add_u64(&speql_shared->counters.n_plans, 1);
	LWLockRelease(speql_shared->lock);
}

/* Offers a plan, if taking it would save time. */
static void
offer_plan(SpeqlSession *s, SpeqlAhead *facts, const uint32 *seen, const char *query,
           const PlannedStmt *stmt)
{
	bool whatever_it_gains = strcmp(pp_test_fault, "ignore_cost") == 0;
	char *plan;
	uint32 *counters;

	if (!is_portable(stmt) || (facts->plan_ms < MIN_PLAN_MS && !whatever_it_gains))
		return;
	plan = nodeToString(stmt);
	if (strlen(query) + strlen(plan) > MAX_BYTES ||
	    (facts->plan_ms < MIN_GAIN * reading_ms(query, plan) && !whatever_it_gains))
		return;
	counters = dependencies(stmt, &facts->n_counters);
	for (int i = 0; i < facts->n_counters; i++)
		facts->sum += seen[counters[i]];
	put_offer(s, facts, query, plan, counters);
}

/* Plans, and offers the plan. */
PlannedStmt *
speql_ahead_plan(int session, Query *query, const char *sql, bool offer)
{
	SpeqlSession *s = &speql_shared->sessions[session];
	SpeqlAhead facts = {.generation = pg_atomic_read_u64(&speql_shared->generation),
	                    .shape = shape_of(query)};
	uint32 *seen = palloc(sizeof(uint32) * SPEQL_INVALIDATIONS);
	char *text = offer ? nodeToString(query) : NULL; /* the planner changes the query */
	PlannedStmt *stmt;
	instr_time start;

	for (int i = 0; i < SPEQL_INVALIDATIONS; i++)
		seen[i] = pg_atomic_read_u32(&s->invalidations[i]);
	pg_memory_barrier();
	/* What was changed before the counters were read must be seen by planning. */
	AcceptInvalidationMessages();
	facts.settings = planner_settings();
	INSTR_TIME_SET_CURRENT(start);
	stmt = planner(query, sql, CURSOR_OPT_PARALLEL_OK, NULL);
	facts.plan_ms = ms_since(start);
	if (offer)
		offer_plan(s, &facts, seen, text, stmt);
	return stmt;
}

/* ---- the session's side ------------------------------------------------------------------ */

/* A copy of an offer. */
typedef struct Offer
{
	SpeqlSession *session;
	SpeqlAhead facts;
	char *query;
	char *plan;
	uint32 *counters;
} Offer;

/* Copies the offer of this backend and role for a query of some shape; false when there is none. */
static bool
copy_offer(uint32 shape, Offer *o)
{
	bool found = false;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_SESSIONS_MAX && !found; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];
		SpeqlAhead *a = &s->ahead;

		if (!(watched & UINT64CONST(1) << i) || s->feeder != MyProcPid || s->dbid != MyDatabaseId ||
		    s->roleid != GetUserId() || !DsaPointerIsValid(a->plan) || a->shape != shape)
			continue;
		found = true;
		o->session = s;
		o->facts = *a;
		o->query = pstrdup(speql_text(a->query));
		o->plan = pstrdup(speql_text(a->plan));
		o->counters = palloc(sizeof(uint32) * a->n_counters);
		memcpy(o->counters, speql_text(a->counters), sizeof(uint32) * a->n_counters);
	}
	LWLockRelease(speql_shared->lock);
	return found;
}

/* Locks what a plan reads, as planning would have. */
static void
lock_relations(const PlannedStmt *stmt)
{
	ListCell *lc;

	foreach (lc, stmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (OidIsValid(rte->relid) &&
		    (rte->rtekind == RTE_RELATION || rte->rtekind == RTE_SUBQUERY))
			LockRelationOid(rte->relid, rte->rellockmode);
	}
	if (speql_scan_statement(stmt) != NULL)
		lock_relations(speql_scan_statement(stmt));
}

/* True when nothing that a plan rests on was forgotten since it was made. Its locks are held. */
static bool
still_valid(const Offer *o)
{
	uint64 sum = 0;

	for (int i = 0; i < o->facts.n_counters; i++)
		sum += pg_atomic_read_u32(&o->session->invalidations[o->counters[i]]);
	return sum == o->facts.sum;
}

/* True for the same statement, wherever it stands in its text. Changes `planned`. */
static bool
same_statement(Query *planned, const Query *parse)
{
	/* 15 compares the length. */
	planned->stmt_len = parse->stmt_len;
	return equal(planned, parse);
}

/* Takes the plan. */
PlannedStmt *
speql_ahead_take(const Query *parse, int cursor_options, ParamListInfo params)
{
	PlannedStmt *stmt;
	Offer offer;
	instr_time start;
	double saved_ms;

	if (watched == 0 || params != NULL || cursor_options != CURSOR_OPT_PARALLEL_OK ||
	    !speql_may_use())
		return NULL;
	INSTR_TIME_SET_CURRENT(start);
	if (!copy_offer(shape_of(parse), &offer) ||
	    offer.facts.generation != pg_atomic_read_u64(&speql_shared->generation) ||
	    offer.facts.settings != planner_settings() ||
	    !same_statement(stringToNode(offer.query), parse))
		return NULL;
	stmt = castNode(PlannedStmt, stringToNode(offer.plan));
	lock_relations(stmt);
	if (!still_valid(&offer))
		return NULL;
	stmt->queryId = parse->queryId;
	stmt->stmt_location = parse->stmt_location;
	stmt->stmt_len = parse->stmt_len;
	saved_ms = offer.facts.plan_ms - ms_since(start);
	pg_atomic_fetch_add_u64(&speql_shared->counters.n_plans_used, 1);
	if (saved_ms > 0)
		pg_atomic_fetch_add_u64(&speql_shared->counters.planning_saved_us,
		                        (uint64) (saved_ms * 1000));
	return stmt;
}
