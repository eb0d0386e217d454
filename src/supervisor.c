/*
 * supervisor.c: the background worker that keeps one engine running.
 *
 * It starts the engine, notices its end at once (the alive pipe reads EOF), restarts it with
 * back-off, watches for a wedge, and publishes the state. After repeated quick failures it does not
 * storm: it stays alive in the degraded state and tries once a minute. It needs no database and
 * touches no table, so nothing of it can block DDL, DROP DATABASE or a standby.
 *
 * It never exits with 0 (that would unregister it) and never by anything but proc_exit: an unclean
 * end of a process that is attached to shared memory restarts the cluster.
 */
#include "prepack.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "client.h"
#include "compat.h"

#define RESTART_TIME_S    1 /* of this worker, by the postmaster */
#define BACKOFF_FIRST_MS  50
#define BACKOFF_MAX_MS    5000
#define DEGRADED_RETRY_MS 60000
#define QUICK_FAILURE_MS  60000 /* an engine that lived longer starts a new count */
#define FAILURES_DEGRADED 6     /* quick failures in a row */
#define STOP_GRACE_MS     2000
#define WATCH_MS          1000  /* between looks at a healthy engine */
#define START_POLL_MS     20    /* between looks at a starting engine */
#define START_LIMIT_MS    20000 /* an engine that does not listen by then is killed */
#define PROBES_MISSED_MAX 3     /* in a row, of an engine that has answered */
#define WEDGE_LIMIT_MS    15000 /* a pass that takes longer counts as wedged */

/* The worker's own state. */
typedef struct Supervisor
{
	PpEngineProc proc;
	PpEngineState state;
	TimestampTz started;    /* the running engine */
	TimestampTz next_start; /* when to start one, if none runs */
	int n_failures;         /* quick ones in a row */
	uint64 n_starts;
	bool told_degraded;
	bool is_foreign; /* the engine speaks another language */
	int n_missed;    /* probes without an answer, in a row */
} Supervisor;

static Supervisor sup;

/* Registers the worker; called while preloading. */
void
pp_supervisor_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_ConsistentState; /* a hot standby has an engine, too */
	worker.bgw_restart_time = RESTART_TIME_S;
	strlcpy(worker.bgw_library_name, "prepack", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "pp_supervisor_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "prepack supervisor", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "prepack supervisor", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

/* Publishes the state of the engine and wakes who waits for it. */
static void
publish(PpEngineState state, const char *error)
{
	sup.state = state;
	LWLockAcquire(pp_shared->lock, LW_EXCLUSIVE);
	pp_shared->state = state;
	pp_shared->engine_pid = sup.proc.pid;
	pp_shared->generation = sup.n_starts;
	pp_shared->started_at = sup.started;
	pp_shared->is_foreign = sup.is_foreign;
	if (error != NULL)
		strlcpy(pp_shared->last_error, error, sizeof(pp_shared->last_error));
	LWLockRelease(pp_shared->lock);
	ConditionVariableBroadcast(&pp_shared->state_changed);
}

/* Registers this process as the supervisor, or takes it off the list at exit. */
static void
announce(bool present)
{
	LWLockAcquire(pp_shared->lock, LW_EXCLUSIVE);
	pp_shared->supervisor_pid = present ? MyProcPid : 0;
	pp_shared->supervisor_latch = present ? MyLatch : NULL;
	if (!present)
	{
		pp_shared->state = PP_ENGINE_DOWN;
		pp_shared->engine_pid = 0;
	}
	LWLockRelease(pp_shared->lock);
	ConditionVariableBroadcast(&pp_shared->state_changed);
}

/* At every kind of exit: the engine goes with its supervisor. */
static void
on_exit_supervisor(int code, Datum arg)
{
	pp_engine_stop(&sup.proc, STOP_GRACE_MS);
	announce(false);
}

/* True when a backend asked for a restart; the request is taken. */
static bool
take_restart_request(void)
{
	bool requested;

	LWLockAcquire(pp_shared->lock, LW_EXCLUSIVE);
	requested = pp_shared->restart_requested;
	pp_shared->restart_requested = false;
	LWLockRelease(pp_shared->lock);
	return requested;
}

/* Describes how the engine ended, in the words that users see. */
static void
describe_exit(int status, char *text, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(text, size, "The engine was terminated by signal %d: %s.", WTERMSIG(status),
		         pg_strsignal(WTERMSIG(status)));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		snprintf(text, size, "The engine's program could not be executed.");
	else
		snprintf(text, size, "The engine exited with code %d.",
		         WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

/* Plans the next start: at once after a healthy life, later and later after quick failures. */
static void
plan_restart(const char *why, bool requested)
{
	int64 lived_ms = (GetCurrentTimestamp() - sup.started) / 1000;
	int64 delay_ms;

	if (requested || lived_ms > QUICK_FAILURE_MS)
		sup.n_failures = 0;
	if (requested)
		sup.told_degraded = false; /* whoever asks wants to know how it ends */
	if (!requested)
		sup.n_failures++;
	delay_ms = requested
	               ? 0
	               : Min((int64) BACKOFF_FIRST_MS << Min(sup.n_failures - 1, 10), BACKOFF_MAX_MS);
	if (sup.n_failures >= FAILURES_DEGRADED)
		delay_ms = DEGRADED_RETRY_MS;
	sup.next_start = GetCurrentTimestamp() + delay_ms * 1000;
	if (sup.n_failures >= FAILURES_DEGRADED)
	{
		if (!sup.told_degraded)
			ereport(LOG,
			        (errmsg("inference engine failed %d times in a row, retrying once a minute",
			                sup.n_failures),
			         errdetail_internal("%s", why)));
		sup.told_degraded = true;
		publish(PP_ENGINE_DEGRADED, why);
		return;
	}
	publish(PP_ENGINE_STARTING, why);
}

/* Handles the end of the engine, whatever ended it. */
static void
engine_ended(int status)
{
	char why[200];

	describe_exit(status, why, sizeof(why));
	if (!sup.told_degraded)
		ereport(LOG,
		        (errmsg("inference engine exited unexpectedly"), errdetail_internal("%s", why)));
	LWLockAcquire(pp_shared->lock, LW_EXCLUSIVE);
	pp_shared->last_exit = status;
	LWLockRelease(pp_shared->lock);
	plan_restart(why, false);
}

/* Starts the engine when its time has come. */
static void
start_engine(void)
{
	if (GetCurrentTimestamp() < sup.next_start)
		return;
	sup.started = GetCurrentTimestamp();
	if (!pp_engine_spawn(&sup.proc))
	{
		plan_restart("The engine's process could not be started.", false);
		return;
	}
	sup.n_starts++;
	sup.n_missed = 0;
	sup.is_foreign = false;
	LWLockAcquire(pp_shared->lock, LW_EXCLUSIVE);
	pp_shared->restarts = sup.n_starts - 1;
	LWLockRelease(pp_shared->lock);
	publish(PP_ENGINE_STARTING, NULL);
}

/* Ends an engine that does not do its work; the loop then sees it end and plans the restart. */
static void
kill_engine(const char *why)
{
	ereport(LOG, (errmsg("inference engine does not respond, terminating it"),
	              errdetail_internal("%s", why)));
	kill(sup.proc.pid, SIGKILL);
}

/*
 * Ends an engine that speaks another language than the library. It is of another version; the
 * program may be replaced once more, so it is tried again, as one that failed is.
 */
static void
refuse_engine(const char *why)
{
	if (!sup.told_degraded)
		ereport(LOG, (errmsg("inference engine is of another version than the library, retrying "
		                     "once a minute"),
		              errdetail_internal("%s", why), errhint(PP_FOREIGN_HINT)));
	sup.told_degraded = true;
	sup.is_foreign = true;
	pp_engine_stop(&sup.proc, STOP_GRACE_MS);
	sup.next_start = GetCurrentTimestamp() + DEGRADED_RETRY_MS * INT64CONST(1000);
	publish(PP_ENGINE_DEGRADED, why);
}

/* Looks at a running engine: does it answer, does it make progress? */
static void
look_at_engine(void)
{
	int64 age_ms = (GetCurrentTimestamp() - sup.started) / 1000;
	PpEngineInfo info = {0};
	char why[sizeof(pp_shared->last_error)];
	PpProbe found = pp_client_probe(&info, why, sizeof(why));
	bool answers = found == PP_PROBE_ANSWERS;

	if (found == PP_PROBE_FOREIGN)
	{
		refuse_engine(why);
		return;
	}
	if (answers)
		sup.n_missed = 0;
	if (sup.state != PP_ENGINE_READY)
	{
		if (answers)
			publish(PP_ENGINE_READY, NULL);
		else if (age_ms > START_LIMIT_MS)
			kill_engine("It did not start to listen.");
	}
	else if (!answers)
	{
		if (++sup.n_missed >= PROBES_MISSED_MAX)
			kill_engine("It does not answer on its socket.");
	}
	else if (info.stalled_ms > WEDGE_LIMIT_MS)
		kill_engine("A computation makes no progress.");
	if (sup.state == PP_ENGINE_READY && age_ms > QUICK_FAILURE_MS)
	{
		sup.n_failures = 0;
		sup.told_degraded = false;
	}
}

/* How long the loop may sleep. */
static long
sleep_ms(void)
{
	if (sup.proc.pid != 0)
		return sup.state == PP_ENGINE_READY ? WATCH_MS : START_POLL_MS;
	return Max(1L, TimestampDifferenceMilliseconds(GetCurrentTimestamp(), sup.next_start));
}

/* One turn of the loop. */
static void
supervise(void)
{
	int status;
	bool requested = take_restart_request();

	if (pp_engine_reap(&sup.proc, &status))
		engine_ended(status);
	if (requested)
	{
		pp_engine_stop(&sup.proc, STOP_GRACE_MS);
		plan_restart("A restart was requested.", true);
	}
	if (sup.proc.pid == 0)
		start_engine();
	else
		look_at_engine();
}

/* The worker. */
void
pp_supervisor_main(Datum main_arg)
{
	uint32 wait_event = PP_WAIT_EVENT_NEW("PrepackSupervisor");

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	before_shmem_exit(on_exit_supervisor, 0);
	announce(true);
	sup.next_start = GetCurrentTimestamp();
	while (!ShutdownRequestPending)
	{
		int events = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;

		ResetLatch(MyLatch);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		supervise();
		if (sup.proc.pid != 0)
			WaitLatchOrSocket(MyLatch, events | WL_SOCKET_READABLE, sup.proc.alive_fd, sleep_ms(),
			                  wait_event);
		else
			WaitLatch(MyLatch, events, sleep_ms(), wait_event);
	}
	/* Exit code 1: the postmaster starts the worker again, unless the whole server stops. */
	proc_exit(1);
}
