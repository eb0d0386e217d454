/*
 * speql_track.h: who wrote a relation since a table was built from it.
 *
 * The protocol (shared/specs; stress-tested against counters, which fail): every transaction that
 * is about to commit or to be prepared appends its id to the ring of each tracked relation on which
 * it holds a write lock, before it becomes visible to anyone. A table built under snapshot S_T
 * answers a query under snapshot S_Q if each writer in the rings is visible to both or to neither.
 *
 *	builder:	speql_track_begin() → speql_track_wait() → take the snapshot → build → keep the deps
 *	reader:		speql_track_verdict(), after S_Q was taken
 *	drop:		speql_track_end()
 */
#ifndef SPEQL_TRACK_H
#define SPEQL_TRACK_H

#include "postgres.h"

#include "catalog/pg_proc.h"
#include "utils/snapshot.h"

#include "speql_shared.h"

/*
 * Stands for the definitions of all functions, operators and domains, among relations. It can be
 * tracked as those are; whoever may have changed one says so by speql_track_functions_changed().
 */
#define SPEQL_FUNCTIONS ProcedureRelationId

/* Registers the commit callback; called while preloading. */
extern void speql_track_install(void);

/*
 * Starts to track relations (no duplicates). False when there is no free slot; nothing is tracked
 * then. The caller owns the deps from here on: speql_track_end() whatever happens.
 */
extern bool speql_track_begin(const Oid *relids, int n, SpeqlDep *deps);

/*
 * Waits until every transaction that wrote one of the relations unseen is over. May be cancelled,
 * may wait as long as such a transaction lasts.
 */
extern void speql_track_wait(const SpeqlDep *deps, int n);

/* Notes that this transaction changes functions. */
extern void speql_track_functions_changed(void);

/* True when this transaction may have written one of them. */
extern bool speql_track_wrote(const SpeqlDep *deps, int n);

/* Ends the tracking that a begin started. */
extern void speql_track_end(const SpeqlDep *deps, int n);

/* SPEQL_OK_EXACT when what was read under `built` is what `now` would read, else the reason. */
extern SpeqlReason speql_track_verdict(const SpeqlDep *deps, int n, Snapshot built, Snapshot now);

#endif /* SPEQL_TRACK_H */
