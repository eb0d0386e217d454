/*
 * speql_registry.h: the speculative tables: reserve, publish, look up, drop.
 *
 *	reserved → BUILDING → (commit of the building transaction) READY → DEAD → dropped from disk
 *
 * A row of the registry belongs to its builder until the commit, then to nobody: it changes under
 * speql_shared->lock only.
 */
#ifndef SPEQL_REGISTRY_H
#define SPEQL_REGISTRY_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "speql_match.h"
#include "speql_shared.h"

/* Registers the transaction callback that publishes; called while preloading. */
extern void speql_registry_install(void);

/* ---- for builders ------------------------------------------------------------------------ */

/* A row for a new table of the current role, or NULL when all are in use. */
extern SpeqlTable *speql_registry_reserve(SpeqlTableKind kind, uint64 env);

/* Publishes it when the current transaction commits, forgets it when it aborts. */
extern void speql_registry_publish_at_commit(SpeqlTable *table);

/* Adds to what the tables take; false when that would be over the limit (nothing is added). */
extern bool speql_registry_charge(SpeqlTable *table, int64 bytes);

/* ---- for the planner --------------------------------------------------------------------- */

/* The ready tables that the current role may use, the best first: List of SpeqlCandidate. */
extern List *speql_registry_candidates(uint64 env);

/* ---- for the executor -------------------------------------------------------------------- */

/* What decides whether a table may be read now; allocated in the current context. */
typedef struct SpeqlTicket
{
	uint64 id;
	Oid relid;
	Oid roleid;
	uint64 env;
	int n_deps;
	SpeqlDep deps[SPEQL_DEPS_MAX];
	Snapshot snapshot;
	TimestampTz built_at;
	double build_ms;
	double cost;
} SpeqlTicket;

/* False when the table is not ready or not there (any more). The caller holds a lock on relid. */
extern bool speql_registry_ticket(uint64 id, SpeqlTicket *ticket);

/* Counts that a table answered, and the time that it is thought to have saved. */
extern void speql_registry_hit(uint64 id, double saved_ms);

/*
 * The row of a ready table that the caller has locked; NULL when it is not ready or not there (any
 * more). The lock keeps it from being freed.
 */
extern SpeqlTable *speql_registry_locked(Oid relid);

/* Makes a table dead, so that the next sweep drops it. */
extern void speql_registry_kill(uint64 id);

/* ---- for workers ------------------------------------------------------------------------- */

/* Makes tables dead that are old, stale or in the way of `wanted` more bytes. Returns how many. */
extern int speql_registry_evict(int64 wanted);

/* Drops dead tables of this database, and those that an earlier life of the server left. In a
 * transaction. */
extern void speql_registry_sweep(void);

/*
 * Drops the tables whose columns have a type that this transaction has dropped. (They do not keep a
 * type from being dropped, but ANALYZE of the database would stumble over them.)
 */
extern void speql_registry_drop_dangling(void);

/* Makes all tables of a role in this database dead (InvalidOid: of all roles). Returns how many. */
extern int speql_registry_reset(Oid roleid);

/* The word for a reason, as counters and EXPLAIN show it. */
extern const char *speql_reason_name(SpeqlReason reason);

/* Counts a verdict. */
extern void speql_count(SpeqlReason reason);

/* The name that a table has in schema prepack. */
extern char *speql_table_name(uint64 id);

#endif /* SPEQL_REGISTRY_H */
