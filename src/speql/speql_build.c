/*
 * speql_build.c: creates, fills and analyses one speculative table.
 *
 * The table belongs to the extension's owner and is a member of the extension: it is in no dump,
 * and DROP EXTENSION takes it along. Its rows are read as the typing role, under restricted
 * operation, so that nothing the role may not see or do happens here.
 *
 * The order is that of the freshness protocol (speql_track.h): track, wait for unseen writers, take
 * one snapshot, read everything under it.
 */
#include "speql_build.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "catalog/pg_type.h"
#include "catalog/toasting.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/tablecmds.h"
#include "commands/vacuum.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "parser/parse_node.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "speql_calls.h"
#include "speql_index.h"
#include "speql_registry.h"
#include "speql_track.h"

#define CHARGE_STEP (128 * 1024) /* bytes that are charged to the quota at once */
#define ROW_BYTES   (SizeofHeapTupleHeader + sizeof(ItemIdData) + 8)

/* ---- what it depends on ------------------------------------------------------------------ */

/* The relations that a definition reads, with all partitions and children. */
static List *
all_relations(const Query *definition)
{
	SpeqlReason reason;
	List *all = NIL;
	ListCell *lc;

	foreach (lc, speql_relations(definition, &reason))
		all =
		    list_concat_unique_oid(all, find_all_inheritors(lfirst_oid(lc), AccessShareLock, NULL));
	return all;
}

/*
 * True when every relation of a list is an ordinary heap whose writers can be tracked. A temporary
 * child of a permanent table has rows for one session only.
 */
static bool
all_tracked_kind(List *relids)
{
	ListCell *lc;

	foreach (lc, relids)
		if (!speql_relation_allowed(lfirst_oid(lc)))
			return false;
	return true;
}

/* Tracks what the definition reads, and functions if it calls any that can change. */
static bool
track(SpeqlTable *table, List *relids, bool calls)
{
	Oid oids[SPEQL_DEPS_MAX];
	ListCell *lc;
	int n = 0;

	if (list_length(relids) + calls > SPEQL_DEPS_MAX || relids == NIL)
		return false;
	if (calls)
		oids[n++] = SPEQL_FUNCTIONS;
	foreach (lc, relids)
		oids[n++] = lfirst_oid(lc);
	if (!speql_track_begin(oids, n, table->deps))
		return false;
	table->n_deps = n;
	speql_track_wait(table->deps, n);
	return true;
}

/*
 * True when no partition or child came or went while this waited for writers: those of a new one
 * would not be noted. From the snapshot on, whoever attaches one is noted himself.
 */
static bool
same_relations(const Query *definition, List *relids)
{
	List *now = all_relations(definition);

	return list_difference_oid(now, relids) == NIL && list_difference_oid(relids, now) == NIL;
}

/* ---- the table --------------------------------------------------------------------------- */

/* The extension and its owner. */
Oid
speql_extension_owner(Oid *extension)
{
	Relation rel = table_open(ExtensionRelationId, AccessShareLock);
	Oid owner = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	*extension = get_extension_oid("prepack", false);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
	            ObjectIdGetDatum(*extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

/* The CREATE UNLOGGED TABLE of a definition. */
static CreateStmt *
create_statement(const Query *definition, const char *name)
{
	CreateStmt *create = makeNode(CreateStmt);
	ListCell *lc;

	create->relation = makeRangeVar("prepack", pstrdup(name), -1);
	create->relation->relpersistence = RELPERSISTENCE_UNLOGGED;
	create->oncommit = ONCOMMIT_NOOP;
	create->options =
	    list_make1(makeDefElem("autovacuum_enabled", (Node *) makeString("false"), -1));
	foreach (lc, definition->targetList)
	{
		Node *expr = (Node *) lfirst_node(TargetEntry, lc)->expr;
		char *column = psprintf("c%d", foreach_current_index(lc) + 1);

		create->tableElts =
		    lappend(create->tableElts,
		            makeColumnDef(column, exprType(expr), exprTypmod(expr), exprCollation(expr)));
	}
	return create;
}

/* Creates the table, as the extension's owner. */
static Oid
create_table(const Query *definition, const char *name)
{
	Oid extension, owner = speql_extension_owner(&extension), user;
	ObjectAddress address, member = {.classId = ExtensionRelationId};
	int sec_context;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	address =
	    DefineRelation(create_statement(definition, name), RELKIND_RELATION, owner, NULL, NULL);
	CommandCounterIncrement();
	NewRelationCreateToastTable(address.objectId, (Datum) 0);
	member.objectId = extension;
	recordDependencyOn(&address, &member, DEPENDENCY_EXTENSION);
	/* Nobody should be told that a type is in use by a table that he did not make. */
	(void) deleteDependencyRecordsForClass(RelationRelationId, address.objectId, TypeRelationId,
	                                       DEPENDENCY_NORMAL);
	(void) deleteDependencyRecordsForClass(RelationRelationId, address.objectId,
	                                       CollationRelationId, DEPENDENCY_NORMAL);
	SetUserIdAndSecContext(user, sec_context);
	CommandCounterIncrement();
	return address.objectId;
}

/* ---- its rows ---------------------------------------------------------------------------- */

/* A receiver that writes rows into the table and counts bytes. */
typedef struct Filler
{
	DestReceiver receiver; /* first */
	SpeqlTable *table;
	Relation rel;
	CommandId cid;
	BulkInsertState bulk;
	double rows;
	int64 uncharged;
	bool over_quota;
} Filler;

/* Nothing to do: the relation is open. */
static void
filler_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

/* Takes a row; false ends the run when the quota is used up. */
static bool
filler_receive(TupleTableSlot *slot, DestReceiver *self)
{
	Filler *f = (Filler *) self;

	slot_getallattrs(slot);
	f->uncharged += ROW_BYTES + heap_compute_data_size(slot->tts_tupleDescriptor, slot->tts_values,
	                                                   slot->tts_isnull);
	if (f->uncharged >= CHARGE_STEP || f->rows == 0)
	{
		if (!speql_registry_charge(f->table, f->uncharged))
		{
			f->over_quota = true;
			return false;
		}
		f->uncharged = 0;
	}
	table_tuple_insert(f->rel, slot, f->cid, TABLE_INSERT_SKIP_FSM, f->bulk);
	f->rows++;
	return true;
}

/* Ends the inserts. */
static void
filler_shutdown(DestReceiver *self)
{
	Filler *f = (Filler *) self;

	FreeBulkInsertState(f->bulk);
	table_finish_bulk_insert(f->rel, TABLE_INSERT_SKIP_FSM);
}

/* Runs a plan into a receiver, as the current role, read-only and under restricted operation. */
void
speql_run(PlannedStmt *plan, const char *sql, Snapshot snapshot, DestReceiver *receiver)
{
	QueryDesc *desc;
	Oid user;
	int sec_context;
	bool read_only = XactReadOnly;

	/* An error leaves both to the transaction's abort. */
	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(user, sec_context | SECURITY_RESTRICTED_OPERATION);
	XactReadOnly = true;
	desc = CreateQueryDesc(plan, sql, snapshot, InvalidSnapshot, receiver, NULL, NULL, 0);
	/* Not the hooks: no statistics of what nobody asked for. */
	standard_ExecutorStart(desc, 0);
	PP_STANDARD_EXECUTOR_RUN(desc);
	standard_ExecutorFinish(desc);
	standard_ExecutorEnd(desc);
	FreeQueryDesc(desc);
	XactReadOnly = read_only;
	SetUserIdAndSecContext(user, sec_context);
}

/* Brings the charge to what the table takes on disk. */
static bool
charge_real_size(SpeqlTable *table, Relation rel)
{
	Oid toast = rel->rd_rel->reltoastrelid;
	int64 bytes = (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;

	if (OidIsValid(toast))
	{
		Relation toast_rel = table_open(toast, AccessShareLock);

		bytes += (int64) RelationGetNumberOfBlocks(toast_rel) * BLCKSZ;
		table_close(toast_rel, AccessShareLock);
	}
	return speql_registry_charge(table, bytes - table->bytes);
}

/* Gathers statistics, as the owner: without the hooks on commands, nobody gave this one. */
static void
analyse_table(const char *name)
{
	Oid extension, owner = speql_extension_owner(&extension), user;
	VacuumStmt *command = makeNode(VacuumStmt);
	int sec_context;

	GetUserIdAndSecContext(&user, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	command->rels =
	    list_make1(makeVacuumRelation(makeRangeVar("prepack", pstrdup(name), -1), InvalidOid, NIL));
	ExecVacuum(make_parsestate(NULL), command, false);
	SetUserIdAndSecContext(user, sec_context);
}

/* ---- all together ------------------------------------------------------------------------ */

/* Stores what the registry keeps of the definition; false when there is no room. */
static bool
describe(SpeqlTable *table, Query *definition, Snapshot snapshot)
{
	char *text = nodeToString(definition);
	Size size = EstimateSnapshotSpace(snapshot);
	char *serialised = palloc(size);

	SerializeSnapshot(snapshot, serialised);
	table->definition = speql_store(text, strlen(text) + 1);
	table->snapshot = speql_store(serialised, size);
	return DsaPointerIsValid(table->definition) && DsaPointerIsValid(table->snapshot);
}

/* Tells the views what is being built; false when there is no room. */
static bool
announce(SpeqlTable *table, Query *definition)
{
	char *sql = pg_get_querydef(copyObject(definition), false);
	dsa_pointer stored = speql_store(sql, strlen(sql) + 1);

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	table->sql = stored;
	LWLockRelease(speql_shared->lock);
	return DsaPointerIsValid(stored);
}

/* Makes the position of an error one in the text that was given, not in the caller's statement. */
static void
analysis_context(void *sql)
{
	int position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(sql);
}

/* Analyses and rewrites a SELECT. */
Query *
speql_analyse(const char *sql)
{
	ErrorContextCallback context = {.previous = error_context_stack,
	                                .callback = analysis_context,
	                                .arg = unconstify(char *, sql)};
	List *raw, *queries;
	ParseState *pstate;

	error_context_stack = &context;
	raw = pg_parse_query(sql);
	if (list_length(raw) != 1 || !IsA(linitial_node(RawStmt, raw)->stmt, SelectStmt))
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("not a single SELECT")));
	/* Not pg_analyze_and_rewrite_*: other extensions' hooks would count a statement. */
	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = sql;
	queries = QueryRewrite(transformTopLevelStmt(pstate, linitial_node(RawStmt, raw)));
	free_parsestate(pstate);
	error_context_stack = context.previous;
	if (list_length(queries) != 1 || linitial_node(Query, queries)->commandType != CMD_SELECT)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR), errmsg("not a single SELECT")));
	return linitial_node(Query, queries);
}

/* Plans a definition for its estimates. */
SpeqlEstimate
speql_estimate(Query *definition)
{
	PlannedStmt *plan = standard_planner(copyObject(definition), "", CURSOR_OPT_PARALLEL_OK, NULL);
	SpeqlEstimate e = {.rows = plan->planTree->plan_rows, .cost = plan->planTree->total_cost};

	e.bytes = e.rows * (plan->planTree->plan_width + ROW_BYTES);
	return e;
}

/* A receiver that ends the run at the first row. */
typedef struct Probe
{
	DestReceiver receiver; /* first */
	bool found;
} Probe;

/* Takes the row. */
static bool
probe_receive(TupleTableSlot *slot, DestReceiver *self)
{
	((Probe *) self)->found = true;
	return false;
}

/* Nothing to do. */
static void
probe_shutdown(DestReceiver *self)
{
}

/*
 * True when the foreign keys that a definition joins along hold in its snapshot. To see that may
 * cost twice as much as the definition; beyond that, they count as broken.
 */
static bool
keys_hold(Query *definition, Snapshot snapshot)
{
	SpeqlReason reason;
	SpeqlForm *form = speql_form(definition, NIL, NULL, &reason);
	double budget = 2 * speql_estimate(definition).cost;
	ListCell *lc;

	foreach (lc, form ? speql_keys_orphans(form) : NIL)
	{
		Probe probe = {.receiver = {.receiveSlot = probe_receive,
		                            .rStartup = filler_startup,
		                            .rShutdown = probe_shutdown,
		                            .rDestroy = probe_shutdown,
		                            .mydest = DestTuplestore}};
		PlannedStmt *plan = standard_planner(lfirst_node(Query, lc), "", 0, NULL);

		budget -= plan->planTree->total_cost;
		if (budget < 0)
			return false;
		speql_run(plan, "", snapshot, &probe.receiver);
		if (probe.found)
			return false;
	}
	return true;
}

/* Runs the definition into a new table. */
static bool
build_rows(SpeqlTable *table, Query *definition, List *relids, List *compared, const char **problem)
{
	char *name = speql_table_name(table->id);
	TimestampTz start = GetCurrentTimestamp();
	Filler f = {.receiver = {.receiveSlot = filler_receive,
	                         .rStartup = filler_startup,
	                         .rShutdown = filler_shutdown,
	                         .rDestroy = filler_shutdown,
	                         .mydest = DestIntoRel},
	            .table = table};
	PlannedStmt *plan;
	Snapshot snapshot;
	bool fits, same;

	table->relid = create_table(definition, name);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(snapshot);
	plan = standard_planner(copyObject(definition), "", CURSOR_OPT_PARALLEL_OK, NULL);
	table->cost = plan->planTree->total_cost;
	f.rel = table_open(table->relid, RowExclusiveLock);
	f.cid = GetCurrentCommandId(true);
	f.bulk = GetBulkInsertState();
	same = same_relations(definition, relids);
	if (same)
		speql_run(plan, "", snapshot, &f.receiver);
	else
		FreeBulkInsertState(f.bulk);
	table->keys_hold = same && keys_hold(definition, snapshot);
	CommandCounterIncrement();
	fits = same && !f.over_quota && charge_real_size(table, f.rel) &&
	       describe(table, definition, snapshot);
	table_close(f.rel, NoLock);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
	if (!fits)
	{
		*problem = !same ? "partitions changed" : f.over_quota ? "quota" : "no shared memory";
		return false;
	}
	table->rows = f.rows;
	table->next_xid = ReadNextFullTransactionId();
	table->built_at = table->used_at = GetCurrentTimestamp();
	table->build_ms = (table->built_at - start) / 1000.0;
	speql_index_compared(table, name, definition, compared);
	analyse_table(name);
	return true;
}

/* Builds a table. */
uint64
speql_build(Query *definition, SpeqlTableKind kind, List *compared, uint64 env,
            const char **problem)
{
	List *relids = all_relations(definition);
	SpeqlTable *table;
	bool calls;

	Assert(GetCurrentTransactionNestLevel() == 1);
	*problem = "registry is full";
	table = speql_registry_reserve(kind, env);
	if (table == NULL)
		return 0;
	speql_registry_publish_at_commit(table);
	*problem = "no shared memory";
	if (!announce(table, definition))
		return 0;
	*problem = "tables cannot be tracked";
	if (!all_tracked_kind(relids) || !speql_calls_note(table, definition, &calls) ||
	    !track(table, relids, calls))
		return 0;
	if (!build_rows(table, definition, relids, compared, problem))
	{
		ObjectAddress object = {.classId = RelationRelationId, .objectId = table->relid};

		/* Without a definition the commit forgets the row. */
		LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
		speql_release(&table->definition);
		LWLockRelease(speql_shared->lock);
		performDeletion(&object, DROP_CASCADE,
		                PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY |
		                    PERFORM_DELETION_SKIP_EXTENSIONS);
		return 0;
	}
	pg_atomic_fetch_add_u64(&speql_shared->counters.n_builds, 1);
	pg_atomic_fetch_add_u64(&speql_shared->counters.built_us, (uint64) (table->build_ms * 1000));
	return table->id;
}
