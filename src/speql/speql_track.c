/*
 * speql_track.c: see speql_track.h.
 *
 * Why locks tell: every way to change a relation's rows (INSERT to MERGE, COPY, TRUNCATE, routing
 * into partitions, foreign key actions, triggers, logical replication's apply, REFRESH, rewriting
 * DDL) holds RowExclusiveLock or more on that very relation until the end of its transaction, while
 * executor and utility hooks miss several of them. Attaching a partition or a child takes
 * ShareUpdateExclusiveLock on the parent, as ANALYZE does; only autovacuum is told apart, so that
 * an ANALYZE by hand makes tables stale without need.
 *
 * Callbacks run in reverse order of registration: with prepack first in shared_preload_libraries,
 * what other extensions write in theirs is seen as well.
 */
#include "speql_track.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/autovacuum.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "prepack.h"

#define FAULT_DELAY_US 2000 /* between noting and becoming visible, for tests */

/* The modes that a change of a relation's rows takes. */
static const LOCKMODE write_modes[] = {RowExclusiveLock, ShareRowExclusiveLock, ExclusiveLock,
                                       AccessExclusiveLock};

static bool functions_changed = false; /* by this transaction */

/* True when this transaction holds a lock under which it may have changed a relation. */
static bool
holds_write_lock(Oid dbid, Oid relid)
{
	LOCKTAG tag;

	SET_LOCKTAG_RELATION(tag, dbid, relid);
	for (int i = 0; i < lengthof(write_modes); i++)
		if (PP_LOCK_HELD_BY_ME(&tag, write_modes[i]))
			return true;
	return PP_LOCK_HELD_BY_ME(&tag, ShareUpdateExclusiveLock) && !PP_AM_AUTOVACUUM_WORKER();
}

/* True when this transaction may have changed what is tracked under a number. */
static bool
may_have_written(Oid dbid, Oid relid)
{
	return relid == SPEQL_FUNCTIONS ? functions_changed : holds_write_lock(dbid, relid);
}

/* Notes that this transaction changes functions. */
void
speql_track_functions_changed(void)
{
	functions_changed = true;
}

/* Looks at each of them. */
bool
speql_track_wrote(const SpeqlDep *deps, int n)
{
	for (int i = 0; i < n; i++)
		if (may_have_written(MyDatabaseId, deps[i].relid))
			return true;
	return false;
}

/* Appends a writer to a ring. */
static void
append_writer(SpeqlTracked *t, FullTransactionId xid)
{
	SpinLockAcquire(&t->mutex);
	if (t->n_writers == 0 ||
	    !FullTransactionIdEquals(t->ring[(t->n_writers - 1) % SPEQL_RING], xid))
	{
		t->ring[t->n_writers % SPEQL_RING] = xid;
		t->n_writers++;
	}
	SpinLockRelease(&t->mutex);
}

/* True when a fault is to be provoked. */
static bool
has_fault(const char *fault)
{
	return pp_test_fault != NULL && strcmp(pp_test_fault, fault) == 0;
}

/*
 * True when a transaction's writes are to be noted now. The fault note_late is the protocol that
 * must not be: noting what others can see already; bench/speql/race must catch it.
 */
static bool
is_time_to_note(XactEvent event)
{
	if (has_fault("note_late"))
		return event == XACT_EVENT_COMMIT;
	return event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE;
}

/* Notes what this transaction wrote, before it can be seen. */
static void
note_now(void)
{
	FullTransactionId xid;

	if (speql_shared == NULL || pg_atomic_read_u32(&speql_shared->n_tracked) == 0)
		return;
	xid = GetTopFullTransactionIdIfAny();
	if (!FullTransactionIdIsValid(xid))
		return;
	if (has_fault("note_late"))
		pg_usleep(FAULT_DELAY_US);
	LWLockAcquire(speql_shared->track_lock, LW_SHARED);
	for (int i = 0; i < SPEQL_TRACKED_MAX; i++)
	{
		SpeqlTracked *t = &speql_shared->tracked[i];

		if (t->dbid == MyDatabaseId && may_have_written(t->dbid, t->relid))
			append_writer(t, xid);
	}
	LWLockRelease(speql_shared->track_lock);
	if (has_fault("slow_commit"))
		pg_usleep(FAULT_DELAY_US);
}

/* The end of a transaction. */
static void
note_writes(XactEvent event, void *arg)
{
	if (is_time_to_note(event))
		note_now();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		functions_changed = false;
}

/* Registers the callback. */
void
speql_track_install(void)
{
	RegisterXactCallback(note_writes, NULL);
}

/* The slot of a relation, or a free one, or −1. track_lock is held. */
static int
find_slot(Oid relid)
{
	int free = -1;

	for (int i = SPEQL_TRACKED_MAX - 1; i >= 0; i--)
	{
		if (!OidIsValid(speql_shared->tracked[i].dbid))
			free = i;
		else if (speql_shared->tracked[i].dbid == MyDatabaseId &&
		         speql_shared->tracked[i].relid == relid)
			return i;
	}
	return free;
}

/* Makes a relation tracked, or shares it. track_lock is held exclusively. */
static bool
track_one(Oid relid, SpeqlDep *dep)
{
	int slot = find_slot(relid);
	SpeqlTracked *t;

	if (slot < 0)
		return false;
	t = &speql_shared->tracked[slot];
	if (t->n_users++ == 0)
	{
		t->dbid = MyDatabaseId;
		t->relid = relid;
		t->registration = speql_shared->next_registration++;
		t->n_writers = 0;
		pg_atomic_fetch_add_u32(&speql_shared->n_tracked, 1);
	}
	dep->relid = relid;
	dep->slot = slot;
	dep->registration = t->registration;
	SpinLockAcquire(&t->mutex);
	dep->since = t->n_writers;
	SpinLockRelease(&t->mutex);
	return true;
}

/* Drops one use of a slot. track_lock is held exclusively. */
static void
untrack_one(const SpeqlDep *dep)
{
	SpeqlTracked *t = &speql_shared->tracked[dep->slot];

	if (t->registration != dep->registration || --t->n_users > 0)
		return;
	t->dbid = t->relid = InvalidOid;
	pg_atomic_fetch_sub_u32(&speql_shared->n_tracked, 1);
}

/*
 * Waits until nobody who took a write lock before the relation was tracked still holds it: such a
 * transaction may have passed its PRE_COMMIT unseen. Taking ShareLock for a moment proves it.
 */
static void
wait_for_writers(Oid relid)
{
	LOCKTAG tag;

	if (ConditionalLockRelationOid(relid, ShareLock))
	{
		UnlockRelationOid(relid, ShareLock);
		return;
	}
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	WaitForLockers(tag, ShareLock, false);
}

/* Starts to track relations: all or none. */
bool
speql_track_begin(const Oid *relids, int n, SpeqlDep *deps)
{
	int i;

	LWLockAcquire(speql_shared->track_lock, LW_EXCLUSIVE);
	for (i = 0; i < n; i++)
		if (!track_one(relids[i], &deps[i]))
			break;
	if (i < n)
		for (int k = 0; k < i; k++)
			untrack_one(&deps[k]);
	LWLockRelease(speql_shared->track_lock);
	return i == n;
}

/* Waits for each relation. */
void
speql_track_wait(const SpeqlDep *deps, int n)
{
	for (int i = 0; i < n; i++)
		if (deps[i].relid != SPEQL_FUNCTIONS)
			wait_for_writers(deps[i].relid);
}

/* Ends tracking. */
void
speql_track_end(const SpeqlDep *deps, int n)
{
	LWLockAcquire(speql_shared->track_lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
		untrack_one(&deps[i]);
	LWLockRelease(speql_shared->track_lock);
}

/*
 * True when a top-level transaction was in progress for a snapshot. Not XidInMVCCSnapshot: on
 * overflow that reads pg_subtrans, which may be truncated that far back; top-level ids are
 * complete.
 */
static bool
in_progress(TransactionId xid, Snapshot snapshot)
{
	if (TransactionIdPrecedes(xid, snapshot->xmin))
		return false;
	if (TransactionIdFollowsOrEquals(xid, snapshot->xmax))
		return true;
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		if (TransactionIdEquals(xid, snapshot->xip[i]))
			return true;
	return false;
}

/*
 * True when `now` may have been taken before `built`: then writers that finished in between, before
 * the relation was tracked, are in no ring. A snapshot taken later has an xmax at least as high,
 * and whatever it sees in progress was in progress for the earlier one, too.
 */
static bool
may_be_older(Snapshot now, Snapshot built)
{
	if (TransactionIdPrecedes(now->xmax, built->xmax) || now->takenDuringRecovery)
		return true;
	for (uint32 i = 0; i < now->xcnt; i++)
		if (!in_progress(now->xip[i], built))
			return true;
	return false;
}

/*
 * True when a writer's doing is there for one of two snapshots only. Catalogs are read as of now.
 */
static bool
differs(const SpeqlDep *dep, TransactionId writer, Snapshot built, Snapshot now)
{
	if (dep->relid == SPEQL_FUNCTIONS)
		return in_progress(writer, built);
	return in_progress(writer, built) != in_progress(writer, now);
}

/* The verdict on one relation. */
static SpeqlReason
verdict_of(const SpeqlDep *dep, Snapshot built, Snapshot now)
{
	SpeqlTracked *t = &speql_shared->tracked[dep->slot];
	uint64 end;
	FullTransactionId xid;

	if (t->registration != dep->registration)
		return SPEQL_R_GONE;
	if (may_have_written(MyDatabaseId, dep->relid))
		return SPEQL_R_OWN_CHANGES;
	SpinLockAcquire(&t->mutex);
	end = t->n_writers;
	SpinLockRelease(&t->mutex);
	for (uint64 i = dep->since; i < end; i++)
	{
		TransactionId w;

		SpinLockAcquire(&t->mutex);
		xid = t->ring[i % SPEQL_RING];
		end = t->n_writers;
		SpinLockRelease(&t->mutex);
		if (end - dep->since > SPEQL_RING)
			return SPEQL_R_OVERFLOW;
		w = XidFromFullTransactionId(xid);
		if (differs(dep, w, built, now) && !TransactionIdDidAbort(w))
			return SPEQL_R_STALE;
	}
	return SPEQL_OK_EXACT;
}

/* The verdict on all. */
SpeqlReason
speql_track_verdict(const SpeqlDep *deps, int n, Snapshot built, Snapshot now)
{
	SpeqlReason reason = SPEQL_OK_EXACT;

	if (IsolationIsSerializable())
		return SPEQL_R_ISOLATION; /* predicate locks on the base relations would be missed */
	if (now->snapshot_type != SNAPSHOT_MVCC || may_be_older(now, built))
		return SPEQL_R_SNAPSHOT;
	LWLockAcquire(speql_shared->track_lock, LW_SHARED);
	for (int i = 0; i < n && reason == SPEQL_OK_EXACT; i++)
		reason = verdict_of(&deps[i], built, now);
	LWLockRelease(speql_shared->track_lock);
	return reason;
}
