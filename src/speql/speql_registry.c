/*
 * speql_registry.c: see speql_registry.h.
 *
 * Definitions are texts in shared memory; each backend keeps the forms that it has made of them, by
 * the table's id, which is never used twice.
 */
#include "speql_registry.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "prepack.h"
#include "speql_calls.h"
#include "speql_track.h"

#define FORMS_MAX   64 /* definitions that a backend keeps analysed */
#define NAME_PREFIX "speculation_"
#define MAX_XID_AGE (UINT64CONST(1) << 30)

static const char *const reason_names[SPEQL_N_REASONS] = {
    [SPEQL_OK_EXACT] = "exact",
    [SPEQL_OK_RANGE] = "range",
    [SPEQL_OK_ROLLUP] = "rollup",
    [SPEQL_R_TABLES] = "other tables",
    [SPEQL_R_OUTER_JOIN] = "outer join differs",
    [SPEQL_R_SUBQUERY] = "subquery differs",
    [SPEQL_R_EQUALITY] = "join condition not in query",
    [SPEQL_R_RANGE] = "condition not implied",
    [SPEQL_R_COLUMN] = "column missing",
    [SPEQL_R_GROUPING] = "grouping too coarse",
    [SPEQL_R_AGGREGATE] = "aggregate not derivable",
    [SPEQL_R_HAVING] = "having differs",
    [SPEQL_R_DISTINCT] = "distinct differs",
    [SPEQL_R_WINDOW] = "window differs",
    [SPEQL_R_SET_OPERATION] = "set operation differs",
    [SPEQL_R_VOLATILE] = "volatile",
    [SPEQL_R_ROW_SECURITY] = "row security",
    [SPEQL_R_NOT_READ_ONLY] = "not read-only",
    [SPEQL_R_COST] = "costs more",
    [SPEQL_R_ENVIRONMENT] = "other role or settings",
    [SPEQL_R_FUNCTION] = "function redefined",
    [SPEQL_R_STALE] = "stale",
    [SPEQL_R_OWN_CHANGES] = "changed by this transaction",
    [SPEQL_R_SNAPSHOT] = "snapshot too old",
    [SPEQL_R_OVERFLOW] = "too many writers",
    [SPEQL_R_ISOLATION] = "serializable",
    [SPEQL_R_GONE] = "dropped",
};

/* A definition that this backend has analysed. */
typedef struct CachedForm
{
	uint64 id; /* hash key, first */
	MemoryContext context;
	SpeqlForm *form;
	List *relids;
} CachedForm;

static HTAB *forms = NULL;
static List *to_publish = NIL; /* of SpeqlTable, in TopTransactionContext */

/* ---- names and counters ------------------------------------------------------------------ */

/* The word for a reason. */
const char *
speql_reason_name(SpeqlReason reason)
{
	return reason_names[reason];
}

/* Counts a verdict. */
void
speql_count(SpeqlReason reason)
{
	pg_atomic_fetch_add_u64(&speql_shared->counters.reasons[reason], 1);
}

/* The name of a table. The server's start is part of it: ids begin again then. */
char *
speql_table_name(uint64 id)
{
	return psprintf(NAME_PREFIX UINT64_FORMAT "_" UINT64_FORMAT, id, speql_shared->epoch);
}

/* ---- rows -------------------------------------------------------------------------------- */

/* Makes a row free; its table is no longer on disk. lock is held exclusively. */
static void
free_row(SpeqlTable *t)
{
	if (t->n_deps > 0)
		speql_track_end(t->deps, t->n_deps);
	speql_release(&t->definition);
	speql_release(&t->sql);
	speql_release(&t->snapshot);
	speql_shared->bytes -= t->bytes;
	memset(t, 0, sizeof(*t));
}

/* Reserves a row. */
SpeqlTable *
speql_registry_reserve(SpeqlTableKind kind, uint64 env)
{
	SpeqlTable *found = NULL;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SPEQL_TABLES_MAX && found == NULL; i++)
		if (speql_shared->tables[i].state == SPEQL_TABLE_FREE)
			found = &speql_shared->tables[i];
	if (found != NULL)
	{
		found->id = speql_shared->next_table++;
		found->state = SPEQL_TABLE_BUILDING;
		found->kind = kind;
		found->dbid = MyDatabaseId;
		found->roleid = GetUserId();
		found->env = env;
		found->builder = MyProcPid;
	}
	LWLockRelease(speql_shared->lock);
	return found;
}

/* Publishes or forgets what this transaction built. */
static void
end_of_transaction(XactEvent event, void *arg)
{
	ListCell *lc;

	if (to_publish != NIL && event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		                errmsg("cannot prepare a transaction that has built speculative tables")));
	if (to_publish == NIL || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT))
		return;
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	foreach (lc, to_publish)
	{
		SpeqlTable *t = lfirst(lc);

		/* What this transaction wrote itself, it may have written after the build. */
		if (event == XACT_EVENT_COMMIT && t->state == SPEQL_TABLE_BUILDING &&
		    DsaPointerIsValid(t->definition) && !speql_track_wrote(t->deps, t->n_deps))
		{
			t->state = SPEQL_TABLE_READY;
			t->builder = 0;
			pg_atomic_fetch_add_u32(&speql_shared->n_ready, 1);
			pg_atomic_fetch_add_u64(&speql_shared->generation, 1);
		}
		else
			free_row(t);
	}
	LWLockRelease(speql_shared->lock);
	to_publish = NIL;
}

/* Ties a row to the current transaction. */
void
speql_registry_publish_at_commit(SpeqlTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	to_publish = lappend(to_publish, table);
	MemoryContextSwitchTo(old);
}

/* Registers the callback. */
void
speql_registry_install(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
}

/* Adds to the sum of bytes, if the limit allows. */
bool
speql_registry_charge(SpeqlTable *table, int64 bytes)
{
	int64 limit = (int64) pp_speculation_max_bytes * 1024 * 1024;
	bool fits;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	fits = bytes <= 0 || speql_shared->bytes + bytes <= limit;
	if (fits)
	{
		speql_shared->bytes += bytes;
		table->bytes += bytes;
	}
	LWLockRelease(speql_shared->lock);
	return fits;
}

/* ---- definitions, analysed --------------------------------------------------------------- */

/* Forgets all forms when there are too many; nothing may hold one. */
static void
trim_forms(void)
{
	HASH_SEQ_STATUS scan;
	CachedForm *entry;

	if (forms == NULL || hash_get_num_entries(forms) < FORMS_MAX)
		return;
	hash_seq_init(&scan, forms);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		MemoryContextDelete(entry->context);
		hash_search(forms, &entry->id, HASH_REMOVE, NULL);
	}
}

/* Makes the form of a definition's text; NULL when its relations are no longer what they were. */
static SpeqlForm *
analyse_definition(char *text, List **relids)
{
	Query *query = castNode(Query, stringToNode(text));
	SpeqlReason reason;
	SpeqlForm *form = speql_form(query, NIL, NULL, &reason);

	*relids = speql_relations(query, &reason);
	return form;
}

/* The form of a table, from this backend's memory or made from a copy of the text. */
static CachedForm *
form_of_table(uint64 id, char *text)
{
	HASHCTL ctl = {.keysize = sizeof(uint64), .entrysize = sizeof(CachedForm)};
	CachedForm *entry;
	MemoryContext context, old;
	SpeqlForm *form;
	List *relids;
	bool found;

	if (forms == NULL)
		forms = hash_create("prepack speculative tables", FORMS_MAX, &ctl, HASH_ELEM | HASH_BLOBS);
	entry = hash_search(forms, &id, HASH_FIND, NULL);
	if (entry != NULL || text == NULL)
		return entry;
	context = AllocSetContextCreate(CurrentMemoryContext, "prepack speculative table",
	                                ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	form = analyse_definition(text, &relids);
	MemoryContextSwitchTo(old);
	if (form == NULL)
		return NULL;
	MemoryContextSetParent(context, CacheMemoryContext);
	entry = hash_search(forms, &id, HASH_ENTER, &found);
	entry->context = context;
	entry->form = form;
	entry->relids = relids;
	return entry;
}

/* ---- candidates -------------------------------------------------------------------------- */

/* A candidate still without its form, and what is needed to make it. */
typedef struct Raw
{
	SpeqlTable table;
	char *text; /* NULL when this backend has the form */
} Raw;

/* Copies what the registry has for this role. */
static List *
copy_candidates(uint64 env)
{
	List *raws = NIL;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];
		Raw *raw;

		if (t->state != SPEQL_TABLE_READY || t->dbid != MyDatabaseId || t->roleid != GetUserId() ||
		    t->env != env)
			continue;
		raw = palloc(sizeof(Raw));
		raw->table = *t;
		raw->text = forms && hash_search(forms, &t->id, HASH_FIND, NULL)
		                ? NULL
		                : pstrdup(speql_text(t->definition));
		raws = lappend(raws, raw);
	}
	LWLockRelease(speql_shared->lock);
	return raws;
}

/* Fewer rows first: less to read. */
static int
by_rows(const ListCell *a, const ListCell *b)
{
	double x = ((SpeqlCandidate *) lfirst(a))->rows, y = ((SpeqlCandidate *) lfirst(b))->rows;

	return x < y ? -1 : x > y;
}

/* The tables to try. */
List *
speql_registry_candidates(uint64 env)
{
	List *candidates = NIL;
	ListCell *lc;

	trim_forms();
	foreach (lc, copy_candidates(env))
	{
		Raw *raw = lfirst(lc);
		CachedForm *cached = form_of_table(raw->table.id, raw->text);
		SpeqlCandidate *c;

		if (cached == NULL || !speql_calls_unchanged(&raw->table) ||
		    speql_equality_changed(cached->form->source))
		{
			speql_count(SPEQL_R_FUNCTION);
			speql_registry_kill(raw->table.id);
			continue;
		}
		c = palloc(sizeof(*c));
		c->id = raw->table.id;
		c->relid = raw->table.relid;
		c->rows = raw->table.rows;
		c->keys_hold = raw->table.keys_hold;
		c->form = cached->form;
		c->relids = cached->relids;
		candidates = lappend(candidates, c);
	}
	list_sort(candidates, by_rows);
	return candidates;
}

/* ---- the executor's side ----------------------------------------------------------------- */

/* The row of an id, whatever its state, or NULL. lock is held. */
static SpeqlTable *
row_of(uint64 id)
{
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
		if (speql_shared->tables[i].id == id && speql_shared->tables[i].state != SPEQL_TABLE_FREE)
			return &speql_shared->tables[i];
	return NULL;
}

/* Copies what a verdict needs. */
bool
speql_registry_ticket(uint64 id, SpeqlTicket *ticket)
{
	SpeqlTable *t;
	bool ready;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	t = row_of(id);
	ticket->relid = t ? t->relid : InvalidOid;
	LWLockRelease(speql_shared->lock);
	/* DROP EXTENSION takes the tables along. */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(ticket->relid)))
		return false;
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	t = row_of(id);
	ready = t != NULL && t->state == SPEQL_TABLE_READY &&
	        U64FromFullTransactionId(ReadNextFullTransactionId()) -
	                U64FromFullTransactionId(t->next_xid) <
	            MAX_XID_AGE;
	if (ready)
	{
		ticket->id = id;
		ticket->relid = t->relid;
		ticket->roleid = t->roleid;
		ticket->env = t->env;
		ticket->n_deps = t->n_deps;
		memcpy(ticket->deps, t->deps, sizeof(t->deps));
		ticket->snapshot = RestoreSnapshot(dsa_get_address(speql_area(), t->snapshot));
		ticket->built_at = t->built_at;
		ticket->build_ms = t->build_ms;
		ticket->cost = t->cost;
	}
	LWLockRelease(speql_shared->lock);
	return ready;
}

/* The row of a table that is locked. */
SpeqlTable *
speql_registry_locked(Oid relid)
{
	SpeqlTable *found = NULL;

	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return NULL;
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TABLES_MAX && found == NULL; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];

		if (t->state == SPEQL_TABLE_READY && t->dbid == MyDatabaseId && t->relid == relid)
			found = t;
	}
	LWLockRelease(speql_shared->lock);
	return found;
}

/* Counts a hit. */
void
speql_registry_hit(uint64 id, double saved_ms)
{
	SpeqlTable *t;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	t = row_of(id);
	if (t != NULL)
	{
		t->n_hits++;
		t->used_at = GetCurrentTimestamp();
		t->saved_ms += saved_ms;
	}
	LWLockRelease(speql_shared->lock);
	pg_atomic_fetch_add_u64(&speql_shared->counters.saved_us, (uint64) (Max(saved_ms, 0) * 1000));
}

/* Makes a ready row dead. lock is held exclusively. */
static void
kill_row(SpeqlTable *t)
{
	if (t->state != SPEQL_TABLE_READY)
		return;
	t->state = SPEQL_TABLE_DEAD;
	pg_atomic_fetch_sub_u32(&speql_shared->n_ready, 1);
	if (t->n_hits == 0)
		pg_atomic_fetch_add_u64(&speql_shared->counters.wasted_us, (uint64) (t->build_ms * 1000));
}

/* Makes a table dead. */
void
speql_registry_kill(uint64 id)
{
	SpeqlTable *t;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	t = row_of(id);
	if (t != NULL)
		kill_row(t);
	LWLockRelease(speql_shared->lock);
}

/* ---- eviction and dropping --------------------------------------------------------------- */

/* What a table is worth keeping for: time that it saves an hour of its space. Less goes first. */
static double
benefit(const SpeqlTable *t, TimestampTz now)
{
	double idle_s = Max((now - t->used_at) / 1e6, 1.0);

	return (t->build_ms + 1) * (1 + t->n_hits) / idle_s / (t->bytes + 8192.0);
}

/* Makes tables dead. */
int
speql_registry_evict(int64 wanted)
{
	int64 limit = (int64) pp_speculation_max_bytes * 1024 * 1024, kept;
	TimestampTz now = GetCurrentTimestamp();
	int n = 0, n_free = 0;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	kept = speql_shared->bytes;
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];

		n_free += t->state == SPEQL_TABLE_FREE;
		if (t->state == SPEQL_TABLE_READY && now - t->used_at > pp_speculation_ttl * USECS_PER_SEC)
		{
			kill_row(t);
			n++;
		}
		if (t->state == SPEQL_TABLE_DEAD)
			kept -= t->bytes;
	}
	while (kept + wanted > limit || n_free + n < SPEQL_TABLES_MAX / 16)
	{
		SpeqlTable *worst = NULL;

		for (int i = 0; i < SPEQL_TABLES_MAX; i++)
		{
			SpeqlTable *t = &speql_shared->tables[i];

			if (t->state == SPEQL_TABLE_READY &&
			    (worst == NULL || benefit(t, now) < benefit(worst, now)))
				worst = t;
		}
		if (worst == NULL)
			break;
		kill_row(worst);
		kept -= worst->bytes;
		n++;
	}
	LWLockRelease(speql_shared->lock);
	return n;
}

/* Drops one table from disk if nobody reads it. */
static bool
drop_table(Oid relid)
{
	ObjectAddress object = {.classId = RelationRelationId, .objectId = relid};

	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return false;
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
	{
		UnlockRelationOid(relid, AccessExclusiveLock);
		return true;
	}
	performDeletion(&object, DROP_CASCADE,
	                PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY |
	                    PERFORM_DELETION_SKIP_EXTENSIONS);
	return true;
}

/* True when a column's type is gone. */
static bool
is_dangling(Oid relid)
{
	bool dangling = false;
	HeapTuple tuple;

	for (AttrNumber i = 1; !dangling; i++)
	{
		Oid type;

		tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(i));
		if (!HeapTupleIsValid(tuple))
			break;
		type = ((Form_pg_attribute) GETSTRUCT(tuple))->atttypid;
		ReleaseSysCache(tuple);
		dangling = OidIsValid(type) && !SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type));
	}
	return dangling;
}

/* Kills the tables whose columns have types that this transaction drops, then drops them. */
void
speql_registry_drop_dangling(void)
{
	uint64 ids[SPEQL_TABLES_MAX];
	Oid relids[SPEQL_TABLES_MAX];
	int n = 0;
	bool any = false;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];

		if (t->state == SPEQL_TABLE_READY && t->dbid == MyDatabaseId)
		{
			ids[n] = t->id;
			relids[n++] = t->relid;
		}
	}
	LWLockRelease(speql_shared->lock);
	if (n == 0)
		return;
	CommandCounterIncrement();
	for (int i = 0; i < n; i++)
		if (is_dangling(relids[i]))
		{
			speql_registry_kill(ids[i]);
			any = true;
		}
	if (any)
		speql_registry_sweep();
}

/* True for a name that this life of the server gave to a table of the registry. */
static bool
is_known(Oid relid)
{
	bool known = false;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TABLES_MAX && !known; i++)
		known = speql_shared->tables[i].state != SPEQL_TABLE_FREE &&
		        speql_shared->tables[i].dbid == MyDatabaseId &&
		        speql_shared->tables[i].relid == relid;
	LWLockRelease(speql_shared->lock);
	return known;
}

/* Tables in our schema, by name, that the registry does not know: of an earlier life. */
static List *
leftover_tables(void)
{
	Relation pg_class = table_open(RelationRelationId, AccessShareLock);
	Oid namespace = get_namespace_oid("prepack", true);
	List *left = NIL;
	char *own = psprintf("_" UINT64_FORMAT, speql_shared->epoch);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_class_relnamespace, BTEqualStrategyNumber, F_OIDEQ,
	            ObjectIdGetDatum(namespace));
	scan = systable_beginscan(pg_class, InvalidOid, false, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);
		const char *name = NameStr(class->relname);

		if (class->relkind == RELKIND_RELATION &&
		    strncmp(name, NAME_PREFIX, strlen(NAME_PREFIX)) == 0 &&
		    strspn(name + strlen(NAME_PREFIX), "0123456789_") ==
		        strlen(name) - strlen(NAME_PREFIX) &&
		    strstr(name, own) == NULL && !is_known(class->oid))
			left = lappend_oid(left, class->oid);
	}
	systable_endscan(scan);
	table_close(pg_class, AccessShareLock);
	return left;
}

/*
 * Drops what is dead. Rows are freed at once: if the drop is rolled back, the table is a leftover.
 */
void
speql_registry_sweep(void)
{
	static bool swept_leftovers = false;
	uint64 ids[SPEQL_TABLES_MAX];
	Oid relids[SPEQL_TABLES_MAX];
	int n = 0;
	ListCell *lc;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];

		if (t->state == SPEQL_TABLE_DEAD && t->dbid == MyDatabaseId)
		{
			ids[n] = t->id;
			relids[n++] = t->relid;
		}
	}
	LWLockRelease(speql_shared->lock);
	for (int i = 0; i < n; i++)
	{
		SpeqlTable *t;

		if (!drop_table(relids[i]))
			continue;
		LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
		t = row_of(ids[i]);
		if (t != NULL)
			free_row(t);
		LWLockRelease(speql_shared->lock);
	}
	if (swept_leftovers)
		return;
	swept_leftovers = true;
	foreach (lc, leftover_tables())
		(void) drop_table(lfirst_oid(lc));
}

/* Makes a role's tables dead. */
int
speql_registry_reset(Oid roleid)
{
	int n = 0;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SPEQL_TABLES_MAX; i++)
	{
		SpeqlTable *t = &speql_shared->tables[i];

		if (t->state == SPEQL_TABLE_READY && t->dbid == MyDatabaseId &&
		    (!OidIsValid(roleid) || t->roleid == roleid))
		{
			kill_row(t);
			n++;
		}
	}
	LWLockRelease(speql_shared->lock);
	return n;
}
