/*
 * prepack.h: what the files of the PostgreSQL glue share.
 *
 * The glue never computes: it talks to the engine process through client.h. It links neither model
 * code nor BLAS nor CUDA. Everything works without preload except what needs the engine: that
 * raises 55000 with a HINT.
 *
 * Lock order: pp_shared->lock is a leaf. Nothing else is taken, waited for, allocated or reported
 * while it is held.
 */
#ifndef PREPACK_H
#define PREPACK_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#define PP_VERSION "1.0"

/* GUC variables (guc.c). Units in the comments. */
extern bool pp_enabled;
extern char *pp_model;
extern char *pp_embed_model;
extern int pp_max_tokens;   /* tokens */
extern int pp_on_error;     /* PpOnError */
extern int pp_batch_rows;   /* rows */
extern int pp_startup_wait; /* ms */
extern int pp_speculation;  /* PpSpeculation */
extern bool pp_use_speculation;
extern char *pp_allowed_endpoints;   /* comma list of scheme://host[:port]; "" = none */
extern char *pp_allowed_models;      /* comma list; "" = all */
extern int pp_statement_token_limit; /* tokens; 0 = none */
extern bool pp_track_prompts;
extern int pp_speculation_log_min_duration;  /* ms; −1: nothing is logged */
extern int pp_speculation_max_bytes;         /* MB */
extern int pp_speculation_ttl;               /* s */
extern int pp_speculation_statement_timeout; /* ms */
extern char *pp_device;
extern char *pp_quantisation_name(void); /* "auto", "bf16", "fp8" */
extern bool pp_batch_invariance;         /* on a card a row's bits never depend on its batch */
extern int pp_memory_limit;              /* MB; 0 = 80 % */
extern int pp_cpu_threads;               /* 0 = all cores */
extern int pp_max_context;               /* tokens; 0 = each model's own */
extern char *pp_model_directory;
extern int pp_max_speculators;
extern char *pp_test_fault;

typedef enum PpOnError
{
	PP_ON_ERROR_ERROR,
	PP_ON_ERROR_NULL
} PpOnError;

typedef enum PpSpeculation
{
	PP_SPECULATION_OFF,
	PP_SPECULATION_SUGGEST,
	PP_SPECULATION_PLAN,
	PP_SPECULATION_MATERIALIZE
} PpSpeculation;

/* What the engine is doing, as the status view shows it. */
typedef enum PpEngineState
{
	PP_ENGINE_DOWN,     /* no supervisor, or it has just started */
	PP_ENGINE_STARTING, /* process started, socket not answering yet */
	PP_ENGINE_READY,
	PP_ENGINE_DEGRADED /* failed repeatedly, or is_foreign; retried once a minute */
} PpEngineState;

/*
 * State that the supervisor publishes. Written by the supervisor only (but for restart_requested),
 * read by every backend, all under lock; state_changed is broadcast after each change. Holds no
 * pointer of any process but MyProc numbers checked at use.
 */
typedef struct PpShared
{
	LWLock *lock;                    /* set once at creation */
	ConditionVariable state_changed; /* its own lock */
	PpEngineState state;
	pid_t supervisor_pid;    /* 0 = none */
	Latch *supervisor_latch; /* in shared memory; valid while supervisor_pid != 0 */
	pid_t engine_pid;        /* 0 = none */
	uint64 generation;       /* number of engine starts: a client notices that its engine is gone */
	uint64 restarts;         /* starts after the first */
	TimestampTz started_at;  /* of the running engine */
	int last_exit;           /* wait status of the engine that ended last */
	bool is_foreign;         /* the engine speaks another language than the library */
	bool restart_requested;  /* set by restart_engine(), cleared by the supervisor */
	pg_atomic_uint64 n_unloads; /* models taken out of the engine; needs no lock */
	char last_error[256];
	uint8 salt_key[32]; /* random per postmaster start: keys the prefix salts */
} PpShared;

extern PpShared *pp_shared; /* NULL: not preloaded */

/* prepack.c */
extern void pp_require_preload(void); /* 55000 unless preloaded */

/* guc.c */
extern void pp_define_gucs(bool preloading);

/* shmem.c */
extern void pp_shmem_install(void);

/* supervisor.c */
extern void pp_supervisor_register(void);
extern PGDLLEXPORT void pp_supervisor_main(Datum main_arg);

/* engine_proc.c: the child process, seen from the supervisor */
typedef struct PpEngineProc
{
	pid_t pid;      /* 0 = not running */
	int control_fd; /* closing it ends the engine */
	int alive_fd;   /* reads EOF when the engine has ended */
} PpEngineProc;

extern bool pp_engine_spawn(PpEngineProc *proc);                  /* false: could not; logged */
extern bool pp_engine_reap(PpEngineProc *proc, int *wait_status); /* true: it has ended */
extern void pp_engine_stop(PpEngineProc *proc, int grace_ms); /* closes the pipe, then SIGKILL */

#define PP_ENGINE_DIR \
	"prepack" /* in the data directory, which is every server process's working directory */
#define PP_ENGINE_SOCKET PP_ENGINE_DIR "/engine.sock"
#define PP_ENGINE_KEYS   PP_ENGINE_DIR "/keys" /* files with keys of endpoints */

#endif /* PREPACK_H */
