/*
 * stats.c: the counters behind pg_stat_prepack.
 *
 * A hash table of fixed size in shared memory, keyed like pg_stat_statements (user, database,
 * queryid) plus function and model. Locks: table_lock shared to look an entry up, exclusive to make
 * or drop entries; an entry's spinlock for its counters, held for a few additions. When the table
 * is full the least used twentieth goes, as pg_stat_statements does; the info view counts these.
 */
#include "stats.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "compat.h"

#define PP_STATS_ENTRIES    4096
#define PP_STATS_DROP_SHARE 20 /* one in so many goes when the table is full */
#define PP_STATS_COLUMNS    17
#define PP_STATS_TRANCHE    "prepack_stats"

/* What identifies an entry. Zeroed before it is filled, since it is hashed as bytes. */
typedef struct StatsKey
{
	Oid userid;
	Oid dbid;
	uint64 queryid;
	char function[32];
	char model[NAMEDATALEN];
} StatsKey;

typedef struct StatsEntry
{
	StatsKey key;  /* hash key, first */
	slock_t mutex; /* protects what follows */
	int64 calls;
	int64 rows;
	int64 errors;
	int64 cancels;
	int64 prompt_tokens;
	int64 shared_prefix_tokens;
	int64 padding_avoided_tokens;
	int64 output_tokens;
	double queue_ms;
	double prefill_ms;
	double decode_ms;
	TimestampTz since;
} StatsEntry;

/* Written under table_lock exclusive. */
typedef struct StatsShared
{
	LWLock *table_lock;
	int64 n_dropped; /* times that entries were dropped for room */
	TimestampTz reset_at;
} StatsShared;

static StatsShared *shared = NULL;
static HTAB *table = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Asks for the memory. */
static void
stats_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(add_size(MAXALIGN(sizeof(StatsShared)),
	                                hash_estimate_size(PP_STATS_ENTRIES, sizeof(StatsEntry))));
	RequestNamedLWLockTranche(PP_STATS_TRANCHE, 1);
}

/* Creates or finds the table. */
static void
stats_startup(void)
{
	HASHCTL ctl = {.keysize = sizeof(StatsKey), .entrysize = sizeof(StatsEntry)};
	bool found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	shared = NULL;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("prepack stats", sizeof(StatsShared), &found);
	if (!found)
	{
		shared->table_lock = &GetNamedLWLockTranche(PP_STATS_TRANCHE)->lock;
		shared->n_dropped = 0;
		shared->reset_at = GetCurrentTimestamp();
	}
	table = ShmemInitHash("prepack stats table", PP_STATS_ENTRIES, PP_STATS_ENTRIES, &ctl,
	                      HASH_ELEM | HASH_BLOBS);
	LWLockRelease(AddinShmemInitLock);
}

/* Installs both hooks. */
void
pp_stats_install(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = stats_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = stats_startup;
}

/*
 * Drops the entries that were called least: those at or below the mean share. Under table_lock
 * exclusive.
 */
static void
make_room(void)
{
	HASH_SEQ_STATUS scan;
	StatsEntry *entry;
	int64 total = 0;
	int64 threshold;
	int n_wanted = PP_STATS_ENTRIES / PP_STATS_DROP_SHARE;

	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
		total += entry->calls;
	threshold = total / PP_STATS_ENTRIES + 1;
	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (n_wanted == 0)
		{
			hash_seq_term(&scan);
			break;
		}
		if (entry->calls > threshold)
			continue;
		hash_search(table, &entry->key, HASH_REMOVE, NULL);
		n_wanted--;
	}
	shared->n_dropped++;
}

/*
 * Finds an entry, or makes it; table_lock is held afterwards, shared or exclusive. NULL: no room.
 */
static StatsEntry *
find_entry(const StatsKey *key)
{
	StatsEntry *entry;
	bool found;

	LWLockAcquire(shared->table_lock, LW_SHARED);
	entry = hash_search(table, key, HASH_FIND, NULL);
	if (entry != NULL)
		return entry;
	LWLockRelease(shared->table_lock);
	LWLockAcquire(shared->table_lock, LW_EXCLUSIVE);
	if (hash_get_num_entries(table) >= PP_STATS_ENTRIES)
		make_room();
	entry = hash_search(table, key, HASH_ENTER_NULL, &found);
	if (entry != NULL && !found)
	{
		memset((char *) entry + sizeof(StatsKey), 0, sizeof(StatsEntry) - sizeof(StatsKey));
		SpinLockInit(&entry->mutex);
		entry->since = GetCurrentTimestamp();
	}
	return entry;
}

/* Adds one request. */
void
pp_stats_add(const char *function, const char *model, int n_rows, const PpJobStats *stats,
             PpStatsEnd end)
{
	StatsKey key;
	StatsEntry *entry;

	if (shared == NULL || table == NULL)
		return;
	memset(&key, 0, sizeof(key));
	key.userid = GetUserId();
	key.dbid = MyDatabaseId;
	key.queryid = (uint64) pgstat_get_my_query_id();
	strlcpy(key.function, function, sizeof(key.function));
	strlcpy(key.model, model, sizeof(key.model));
	entry = find_entry(&key);
	if (entry != NULL)
	{
		SpinLockAcquire(&entry->mutex);
		entry->calls++;
		entry->rows += n_rows;
		entry->errors += stats->n_errors + (end == PP_STATS_FAILED ? 1 : 0);
		entry->cancels += end == PP_STATS_CANCELLED ? 1 : 0;
		entry->prompt_tokens += stats->n_prompt_tokens;
		entry->shared_prefix_tokens += stats->n_shared_tokens;
		entry->padding_avoided_tokens += stats->n_padding_avoided;
		entry->output_tokens += stats->n_output_tokens;
		entry->queue_ms += stats->queue_ms;
		entry->prefill_ms += stats->prefill_ms;
		entry->decode_ms += stats->decode_ms;
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(shared->table_lock);
}

/* Raises 55000 where there are no counters. */
static void
require_stats(void)
{
	pp_require_preload();
	if (shared == NULL || table == NULL)
		elog(ERROR, "prepack statistics are not initialised");
}

/* One row of the view. The query of others is not shown, as in pg_stat_statements. */
static void
put_entry(Tuplestorestate *store, TupleDesc desc, const StatsEntry *e, bool may_see)
{
	Datum values[PP_STATS_COLUMNS];
	bool nulls[PP_STATS_COLUMNS] = {0};
	int i = 0;

	values[i++] = ObjectIdGetDatum(e->key.userid);
	values[i++] = ObjectIdGetDatum(e->key.dbid);
	nulls[i] = !may_see;
	values[i++] = Int64GetDatum((int64) e->key.queryid);
	values[i++] = CStringGetTextDatum(e->key.function);
	values[i++] = CStringGetTextDatum(e->key.model);
	values[i++] = Int64GetDatum(e->calls);
	values[i++] = Int64GetDatum(e->rows);
	values[i++] = Int64GetDatum(e->errors);
	values[i++] = Int64GetDatum(e->cancels);
	values[i++] = Int64GetDatum(e->prompt_tokens);
	values[i++] = Int64GetDatum(e->shared_prefix_tokens);
	values[i++] = Int64GetDatum(e->padding_avoided_tokens);
	values[i++] = Int64GetDatum(e->output_tokens);
	values[i++] = Float8GetDatum(e->queue_ms);
	values[i++] = Float8GetDatum(e->prefill_ms);
	values[i++] = Float8GetDatum(e->decode_ms);
	values[i++] = TimestampTzGetDatum(e->since);
	tuplestore_putvalues(store, desc, values, nulls);
}

PG_FUNCTION_INFO_V1(pp_stat_prepack);

/* The rows of pg_stat_prepack. */
Datum
pp_stat_prepack(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool all = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	HASH_SEQ_STATUS scan;
	StatsEntry *entry;
	StatsEntry copy;

	require_stats();
	InitMaterializedSRF(fcinfo, 0);
	LWLockAcquire(shared->table_lock, LW_SHARED);
	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		SpinLockAcquire(&entry->mutex);
		copy = *entry;
		SpinLockRelease(&entry->mutex);
		put_entry(rsinfo->setResult, rsinfo->setDesc, &copy, all || copy.key.userid == GetUserId());
	}
	LWLockRelease(shared->table_lock);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(pp_stat_prepack_info);

/* How often entries were dropped, and since when the counters run. */
Datum
pp_stat_prepack_info(PG_FUNCTION_ARGS)
{
	TupleDesc desc;
	Datum values[2];
	bool nulls[2] = {0};

	require_stats();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	LWLockAcquire(shared->table_lock, LW_SHARED);
	values[0] = Int64GetDatum(shared->n_dropped);
	values[1] = TimestampTzGetDatum(shared->reset_at);
	LWLockRelease(shared->table_lock);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

PG_FUNCTION_INFO_V1(pp_stat_prepack_reset);

/* Forgets all counters. */
Datum
pp_stat_prepack_reset(PG_FUNCTION_ARGS)
{
	HASH_SEQ_STATUS scan;
	StatsEntry *entry;

	require_stats();
	LWLockAcquire(shared->table_lock, LW_EXCLUSIVE);
	hash_seq_init(&scan, table);
	while ((entry = hash_seq_search(&scan)) != NULL)
		hash_search(table, &entry->key, HASH_REMOVE, NULL);
	shared->n_dropped = 0;
	shared->reset_at = GetCurrentTimestamp();
	LWLockRelease(shared->table_lock);
	PG_RETURN_VOID();
}
