/*
 * speql_shared.h: what speculation keeps in shared memory.
 *
 *	tracked		relations that some speculative table was built from, each with a ring of the
 *				transactions that wrote it (speql_track.c)
 *	tables		the registry of speculative tables (speql_registry.c)
 *	sessions	the texts that people are typing, one worker each (speql_feed.c)
 *
 * Everything is bounded and of fixed size but for texts, definitions and results, which lie in one
 * DSA area of limited size. A restart of the server empties all of it; the tables that it leaves on
 * disk are dropped by the first worker of each database.
 *
 * Locks: `lock` protects registry and sessions, `track_lock` the list of tracked relations, the
 * spinlock of a tracked relation its ring. Order: lock → track_lock → spinlock. Nothing that can
 * wait or fail for lack of memory is done under track_lock or a spinlock.
 */
#ifndef SPEQL_SHARED_H
#define SPEQL_SHARED_H

#include "postgres.h"

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/itemptr.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"
#include "utils/dsa.h"

#define SPEQL_TRACKED_MAX   128  /* relations */
#define SPEQL_RING          1024 /* writers kept of each; more since a build make its table stale */
#define SPEQL_TABLES_MAX    256
#define SPEQL_DEPS_MAX      48 /* relations that one table may be built from, partitions included */
#define SPEQL_FUNCS_MAX     8  /* functions of users that one table's definition may call */
#define SPEQL_HISTORY_MAX   512 /* statements of all roles */
#define SPEQL_SESSIONS_MAX  64
#define SPEQL_BLOCKS_MAX    16   /* blocks of a text that get a preview */
#define SPEQL_INVALIDATIONS 1024 /* counters of a session, see speql_ahead.c */

/* A relation whose writers are noted. */
typedef struct SpeqlTracked
{
	Oid dbid; /* InvalidOid: free */
	Oid relid;
	int n_users;         /* tables that depend on it */
	uint64 registration; /* tells one use of this slot from the next */
	slock_t mutex;       /* protects what follows */
	uint64 n_writers;    /* appended to the ring so far */
	FullTransactionId ring[SPEQL_RING];
} SpeqlTracked;

/* A relation that a table was built from. */
typedef struct SpeqlDep
{
	Oid relid;
	int slot; /* of tracked[] */
	uint64 registration;
	uint64 since; /* n_writers when the build began */
} SpeqlDep;

/* A function of a user that a definition calls: the very version of it. */
typedef struct SpeqlFuncDep
{
	Oid oid;
	TransactionId xmin;
	ItemPointerData tid;
} SpeqlFuncDep;

typedef enum SpeqlTableState
{
	SPEQL_TABLE_FREE,
	SPEQL_TABLE_BUILDING,
	SPEQL_TABLE_READY,
	SPEQL_TABLE_DEAD /* never used again; to be dropped from disk */
} SpeqlTableState;

/* What a table holds, with respect to the block that it was built for. */
typedef enum SpeqlTableKind
{
	SPEQL_KIND_EXACT,   /* the block's rows */
	SPEQL_KIND_SUPERSET /* without a condition, or in finer groups */
} SpeqlTableKind;

typedef struct SpeqlTable
{
	uint64 id; /* never used twice */
	SpeqlTableState state;
	SpeqlTableKind kind;
	Oid dbid;
	Oid roleid;  /* who typed; nobody else may use it */
	uint64 env;  /* hash of the settings that results depend on */
	Oid relid;   /* the table itself */
	int builder; /* pid while building */
	int n_deps;
	SpeqlDep deps[SPEQL_DEPS_MAX];
	int n_funcs;
	SpeqlFuncDep funcs[SPEQL_FUNCS_MAX];
	dsa_pointer definition;     /* nodeToString of the Query */
	dsa_pointer sql;            /* the same for people */
	dsa_pointer snapshot;       /* serialised: what the build saw */
	FullTransactionId next_xid; /* when it was built */
	TimestampTz built_at;
	TimestampTz used_at;
	double build_ms;
	double cost; /* of the definition's own plan, in planner units */
	double rows;
	bool keys_hold; /* the foreign keys that it joins along had no orphan in its snapshot */
	int64 bytes;
	int64 n_hits;
	double saved_ms; /* estimated from costs */
} SpeqlTable;

typedef enum SpeqlSessionState
{
	SPEQL_SESSION_FREE,
	SPEQL_SESSION_STARTING,
	SPEQL_SESSION_LIVE
} SpeqlSessionState;

/* The preview of one block. */
typedef struct SpeqlPreview
{
	char block[NAMEDATALEN];
	char state[16]; /* ready, running, invalid, skipped, failed */
	bool sampled;
	bool under_cursor;
	dsa_pointer sql;
	dsa_pointer columns; /* jsonb text */
	dsa_pointer rows;    /* jsonb text */
	int64 n_rows;
	int64 total_rows; /* −1: unknown */
	double elapsed_ms;
} SpeqlPreview;

/* The plan of a session's statement, made before it is submitted (speql_ahead.c). */
typedef struct SpeqlAhead
{
	dsa_pointer query;    /* nodeToString of the analysed statement; invalid: there is no plan */
	dsa_pointer plan;     /* nodeToString of its PlannedStmt */
	dsa_pointer counters; /* which of invalidations[] it rests on: uint32 n_counters */
	int n_counters;
	uint64 sum;        /* of them, when planning began */
	uint64 settings;   /* hash of the planner's settings */
	uint64 generation; /* of the tables that were there */
	uint32 shape;      /* hash of what is cheap to see of the statement */
	double plan_ms;    /* that planning took */
} SpeqlAhead;

/* A text that someone types. */
typedef struct SpeqlSession
{
	SpeqlSessionState state;
	Oid dbid;
	Oid login;             /* who logged in: the worker connects as that role */
	Oid roleid;            /* who types: the worker works as that role */
	int feeder;            /* pid of the backend that feeds it */
	int worker;            /* pid, 0 until it runs */
	Latch *latch;          /* of the worker; NULL until it runs */
	uint64 id;             /* of the newest text */
	uint64 completions_id; /* of the text that the completions are of */
	uint64 previews_id;    /* of the text that the previews are of */
	uint64 done_id;        /* all work for it is finished */
	int level;             /* PpSpeculation of the feeder */
	dsa_pointer text;
	int cursor;           /* byte offset */
	dsa_pointer settings; /* see speql_env.h */
	int bytes_settings;
	dsa_pointer planner; /* settings of the planner, see speql_env.h */
	int bytes_planner;
	uint64 env;
	TimestampTz fed_at;
	dsa_pointer anchor;      /* what a newer text must contain for the running build to go on */
	bool anchor_ends;        /* and after it only what leaves the rows as they are */
	uint64 stopped_id;       /* of a text that its session has submitted: nothing more is done */
	dsa_pointer completions; /* see speql_predict.h */
	int bytes_completions;
	int n_previews;
	SpeqlPreview previews[SPEQL_BLOCKS_MAX];
	SpeqlAhead ahead;
	/* What the feeder's caches were told to forget; written by the feeder alone. */
	pg_atomic_uint32 invalidations[SPEQL_INVALIDATIONS];
} SpeqlSession;

/* Why a table was not used, or that it was: the counters' index. Texts in speql_registry.c. */
typedef enum SpeqlReason
{
	SPEQL_OK_EXACT,
	SPEQL_OK_RANGE,
	SPEQL_OK_ROLLUP,
	SPEQL_R_TABLES,     /* reads a table that the query does not */
	SPEQL_R_OUTER_JOIN, /* outer joins differ */
	SPEQL_R_SUBQUERY,   /* a subquery in FROM differs */
	SPEQL_R_EQUALITY,   /* a join condition of the table is not in the query */
	SPEQL_R_RANGE,      /* a condition of the table is not implied by the query */
	SPEQL_R_COLUMN,     /* a column is needed that the table does not have */
	SPEQL_R_GROUPING,   /* grouped more coarsely than the query */
	SPEQL_R_AGGREGATE,  /* an aggregate cannot be derived */
	SPEQL_R_HAVING,
	SPEQL_R_DISTINCT,
	SPEQL_R_WINDOW,
	SPEQL_R_SET_OPERATION,
	SPEQL_R_VOLATILE,
	SPEQL_R_ROW_SECURITY,
	SPEQL_R_NOT_READ_ONLY,
	SPEQL_R_COST,        /* the plan without it is cheaper */
	SPEQL_R_ENVIRONMENT, /* role or settings differ */
	SPEQL_R_FUNCTION,    /* a function was redefined */
	SPEQL_R_STALE,       /* a relation was written since */
	SPEQL_R_OWN_CHANGES, /* by this very transaction */
	SPEQL_R_SNAPSHOT,    /* the query's snapshot is older than the table */
	SPEQL_R_OVERFLOW,    /* more writers than are kept */
	SPEQL_R_ISOLATION,   /* serializable */
	SPEQL_R_GONE,        /* dropped meanwhile */
	SPEQL_N_REASONS
} SpeqlReason;

/* A statement that a role ran. */
typedef struct SpeqlHistory
{
	Oid dbid;
	Oid roleid;
	uint64 hash; /* of the text */
	dsa_pointer text;
	int n_runs;
	uint64 last; /* larger: later */
} SpeqlHistory;

/* Counters of speculation, of the whole server. */
typedef struct SpeqlCounters
{
	pg_atomic_uint64 n_feeds;
	pg_atomic_uint64 n_repairs;
	pg_atomic_uint64 n_completions;
	pg_atomic_uint64 n_previews;
	pg_atomic_uint64 n_builds;
	pg_atomic_uint64 n_cancelled;
	pg_atomic_uint64 n_plans;      /* left for sessions */
	pg_atomic_uint64 n_plans_used; /* by them */
	pg_atomic_uint64 planning_saved_us;
	pg_atomic_uint64 built_us;
	pg_atomic_uint64 wasted_us; /* of tables that went without a hit, of cancelled builds */
	pg_atomic_uint64 saved_us;
	pg_atomic_uint64 reasons[SPEQL_N_REASONS];
} SpeqlCounters;

typedef struct SpeqlShared
{
	LWLock *lock;
	LWLock *track_lock;
	pg_atomic_uint32 n_tracked;  /* read without a lock: 0 means nothing to do at commit */
	pg_atomic_uint32 n_sessions; /* read without a lock: 0 means that nobody types */
	pg_atomic_uint32 n_ready;    /* read without a lock: 0 means nothing to match */
	pg_atomic_uint64 generation; /* grows with each table that becomes ready */
	uint64 next_table;
	uint64 next_feed;
	uint64 next_registration;
	ConditionVariable changed; /* of a session's results; broadcast without `lock` */
	uint64 epoch;              /* of this life of the server; names of tables carry it */
	int64 bytes;               /* of all tables, building ones included */
	SpeqlCounters counters;
	SpeqlTracked tracked[SPEQL_TRACKED_MAX];
	SpeqlTable tables[SPEQL_TABLES_MAX];
	SpeqlSession sessions[SPEQL_SESSIONS_MAX];
	uint64 next_history;
	SpeqlHistory history[SPEQL_HISTORY_MAX];
} SpeqlShared;

extern SpeqlShared *speql_shared; /* NULL: not preloaded */

/* Hooks for the shared memory; called while preloading. */
extern void speql_shared_install(void);

/* The area for what has no fixed size. Attached on first use and for good. */
extern dsa_area *speql_area(void);

/* A copy of bytes in the area; InvalidDsaPointer when there is no room. Freed by dsa_free. */
extern dsa_pointer speql_store(const void *data, Size size);

/* Frees a piece and forgets it. */
extern void speql_release(dsa_pointer *piece);

/* The text at a piece, or NULL. Valid as long as the caller holds `lock`. */
extern const char *speql_text(dsa_pointer piece);

#endif /* SPEQL_SHARED_H */
