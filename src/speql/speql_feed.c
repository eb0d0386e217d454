/*
 * speql_feed.c: see speql_feed.h. One keystroke costs a look at the session, a copy of the text and
 * a latch: nothing is parsed, planned or waited for.
 *
 * A session belongs to the backend that feeds it and to the role that it had; a change of role
 * begins another. The newest text wins: its number is the session's, and results carry the number
 * of the text that they are of. A build that runs says what it needs to find in a newer text (its
 * anchor); if a text comes without it, the worker gets the signal that cancels queries.
 */
#include "speql_feed.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "prepack.h"
#include "speql.h"
#include "speql_ahead.h"
#include "speql_env.h"

#define MAX_TEXT (64 * 1024) /* bytes of one text */

PG_FUNCTION_INFO_V1(pp_speculate);
PG_FUNCTION_INFO_V1(pp_cancel_speculation);

static bool feeds = false; /* this backend has fed a text */

/* ---- anchors ----------------------------------------------------------------------------- */

/* A text as its tokens with one space between them, so that layout does not matter. */
static char *
tokens_only(const char *text)
{
	SpeqlTokens *t = speql_lex(text, strlen(text));
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < t->n; i++)
	{
		appendStringInfoChar(&out, ' ');
		appendBinaryStringInfo(&out, t->text + t->tok[i].start, t->tok[i].end - t->tok[i].start);
	}
	appendStringInfoChar(&out, ' ');
	return out.data;
}

/* True when what follows a block in a text leaves the block's rows as they are. */
static bool
leaves_rows(const char *rest)
{
	static const char *const words[] = {"ORDER ", "LIMIT ",     "OFFSET ", "FETCH ", ") ",
	                                    "; ",     "INTERSECT ", "UNION ",  "EXCEPT "};

	for (int i = 0; i < lengthof(words); i++)
		if (pg_strncasecmp(rest, words[i], strlen(words[i])) == 0)
			return true;
	return *rest == '\0';
}

/* True when what runs for a session is of no use for a text. lock is held. */
static bool
contradicts(const SpeqlSession *s, const char *tokens)
{
	const char *anchor = speql_text(s->anchor);

	if (anchor == NULL)
		return false;
	for (const char *at = strstr(tokens, anchor); at != NULL; at = strstr(at + 1, anchor))
		if (!s->anchor_ends || leaves_rows(at + strlen(anchor)))
			return false;
	return true;
}

/* ---- the backend's side ------------------------------------------------------------------ */

/* The session of this backend and role, or −1. lock is held. */
static int
own_session(void)
{
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if (s->state != SPEQL_SESSION_FREE && s->feeder == MyProcPid && s->dbid == MyDatabaseId &&
		    s->roleid == GetUserId())
			return i;
	}
	return -1;
}

/*
 * A new session for this backend and role; −1 when all that are allowed are in use. lock is held.
 */
static int
new_session(void)
{
	int n_live = 0, free = -1;

	for (int i = SPEQL_SESSIONS_MAX - 1; i >= 0; i--)
	{
		if (speql_shared->sessions[i].state == SPEQL_SESSION_FREE)
			free = i;
		else
			n_live++;
	}
	if (free < 0 || n_live >= pp_max_speculators)
		return -1;
	memset(&speql_shared->sessions[free], 0, sizeof(SpeqlSession));
	pg_atomic_fetch_add_u32(&speql_shared->n_sessions, 1);
	speql_shared->sessions[free].state = SPEQL_SESSION_STARTING;
	speql_shared->sessions[free].dbid = MyDatabaseId;
	speql_shared->sessions[free].login = GetSessionUserId();
	speql_shared->sessions[free].roleid = GetUserId();
	speql_shared->sessions[free].feeder = MyProcPid;
	return free;
}

/* Frees what a session holds in the area, and the session. lock is held. */
static void
free_session(SpeqlSession *s)
{
	if (s->state == SPEQL_SESSION_FREE)
		return;
	pg_atomic_fetch_sub_u32(&speql_shared->n_sessions, 1);
	speql_release(&s->text);
	speql_release(&s->settings);
	speql_release(&s->planner);
	speql_release(&s->anchor);
	speql_release(&s->completions);
	speql_release(&s->ahead.query);
	speql_release(&s->ahead.plan);
	speql_release(&s->ahead.counters);
	for (int i = 0; i < s->n_previews; i++)
	{
		speql_release(&s->previews[i].sql);
		speql_release(&s->previews[i].columns);
		speql_release(&s->previews[i].rows);
	}
	memset(s, 0, sizeof(*s));
}

/* Puts a text into a session. Returns its number, 0 when there is no memory. lock is held. */
static uint64
put_text(SpeqlSession *s, const char *text, int cursor)
{
	Size size, planner_size;
	char *settings = speql_env_capture(&size);
	char *planner = speql_env_capture_planner(&planner_size);

	speql_release(&s->text);
	speql_release(&s->settings);
	speql_release(&s->planner);
	s->text = speql_store(text, strlen(text) + 1);
	s->settings = speql_store(settings, size);
	s->planner = speql_store(planner, planner_size);
	if (!DsaPointerIsValid(s->text) || !DsaPointerIsValid(s->settings) ||
	    !DsaPointerIsValid(s->planner))
		return 0;
	s->bytes_settings = (int) size;
	s->bytes_planner = (int) planner_size;
	s->env = speql_env_hash(settings, size);
	s->cursor = cursor;
	s->level = pp_speculation;
	s->fed_at = GetCurrentTimestamp();
	s->id = speql_shared->next_feed++;
	return s->id;
}

/* Asks the postmaster for a worker. */
static bool
start_worker(int session)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "prepack", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "pp_speculator_main", sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, sizeof(worker.bgw_name), "prepack speculator %d", session);
	strlcpy(worker.bgw_type, "prepack speculator", sizeof(worker.bgw_type));
	worker.bgw_main_arg = Int32GetDatum(session);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Gives a text to a session. Returns its number; 0: no session, no memory or no worker. */
static uint64
feed(const char *text, int cursor)
{
	char *tokens = tokens_only(text);
	uint64 id = 0;
	bool fresh = false, cancel = false;
	int i, pid = 0;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	i = own_session();
	if (i < 0)
	{
		i = new_session();
		fresh = i >= 0;
	}
	if (i >= 0)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		cancel = contradicts(s, tokens);
		pid = s->worker;
		id = put_text(s, text, cursor);
		if (s->latch)
			SetLatch(s->latch);
		if (id == 0 && fresh)
			free_session(s);
	}
	LWLockRelease(speql_shared->lock);
	if (cancel && pid != 0)
		kill(pid, SIGINT);
	if (fresh)
		speql_ahead_watch(i);
	if (id != 0 && fresh && !start_worker(i))
	{
		speql_feed_leave(i);
		return 0;
	}
	return id;
}

/* At the end of a backend that fed: its sessions have no more to do. */
static void
leave_sessions(int code, Datum arg)
{
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if (s->state == SPEQL_SESSION_FREE || s->feeder != MyProcPid)
			continue;
		s->feeder = 0;
		if (s->latch)
			SetLatch(s->latch);
		if (DsaPointerIsValid(s->anchor))
			kill(s->worker, SIGINT);
	}
	LWLockRelease(speql_shared->lock);
}

/* speculate(partial_sql, cursor_pos): takes a text; NULL when speculation is off. */
Datum
pp_speculate(PG_FUNCTION_ARGS)
{
	char *typed;
	int cursor;
	uint64 id;

	pp_require_preload();
	if (PG_ARGISNULL(0) || pp_speculation == PP_SPECULATION_OFF || !pp_enabled ||
	    RecoveryInProgress())
		PG_RETURN_NULL();
	typed = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strlen(typed) > MAX_TEXT)
		ereport(ERROR,
		        (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		         errmsg("the text has %zu bytes, speculation takes %d", strlen(typed), MAX_TEXT)));
	cursor = strlen(typed);
	if (!PG_ARGISNULL(1))
		cursor = pg_mbcharcliplen(typed, cursor, Max(PG_GETARG_INT32(1), 0));
	pg_atomic_fetch_add_u64(&speql_shared->counters.n_feeds, 1);
	if (!feeds)
		before_shmem_exit(leave_sessions, (Datum) 0);
	feeds = true;
	id = feed(typed, cursor);
	if (id == 0)
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
		                errmsg("no speculation worker is free"),
		                errhint("See prepack.max_speculators (%d) and max_worker_processes.",
		                        pp_max_speculators)));
	PG_RETURN_INT64((int64) id);
}

/* cancel_speculation(id): stops the work on a text; true when there was any. */
Datum
pp_cancel_speculation(PG_FUNCTION_ARGS)
{
	uint64 id = (uint64) PG_GETARG_INT64(0);
	int pid = 0;

	pp_require_preload();
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if (s->state == SPEQL_SESSION_FREE || s->id != id || s->roleid != GetUserId() ||
		    s->done_id == id)
			continue;
		pid = s->worker;
		/* An empty text supersedes it, without a number that anyone waits for. */
		s->done_id = id;
		s->id = speql_shared->next_feed++;
		speql_release(&s->text);
		if (s->latch)
			SetLatch(s->latch);
		break;
	}
	LWLockRelease(speql_shared->lock);
	if (pid != 0)
		kill(pid, SIGINT);
	PG_RETURN_BOOL(pid != 0);
}

/* Ends the work on this backend's text. */
void
speql_feed_submitted(void)
{
	int i, pid = 0;

	if (!feeds)
		return;
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	i = own_session();
	if (i >= 0)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		s->stopped_id = s->done_id = s->id;
		if (DsaPointerIsValid(s->anchor))
			pid = s->worker;
	}
	LWLockRelease(speql_shared->lock);
	if (pid != 0)
		kill(pid, SIGINT);
}

/* ---- the worker's side ------------------------------------------------------------------- */

/* Takes the newest text. */
bool
speql_feed_take(int session, uint64 last, SpeqlRequest *r)
{
	SpeqlSession *s = &speql_shared->sessions[session];
	bool newer;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	newer = s->id > last && DsaPointerIsValid(s->text);
	if (newer)
	{
		r->id = s->id;
		r->text = pstrdup(speql_text(s->text));
		r->cursor = s->cursor;
		r->level = s->level;
		r->env = s->env;
		r->bytes_settings = s->bytes_settings;
		r->settings = palloc(s->bytes_settings);
		memcpy(r->settings, speql_text(s->settings), s->bytes_settings);
		r->bytes_planner = s->bytes_planner;
		r->planner = palloc(s->bytes_planner);
		memcpy(r->planner, speql_text(s->planner), s->bytes_planner);
	}
	LWLockRelease(speql_shared->lock);
	return newer;
}

/* True when a newer text is there, or this one was submitted. Reads aligned words: no lock. */
bool
speql_feed_superseded(int session, uint64 id)
{
	volatile SpeqlSession *s = &speql_shared->sessions[session];

	return s->id != id || s->stopped_id == id;
}

/* True when the backend that fed the session has gone. */
bool
speql_feed_abandoned(int session)
{
	return *(volatile int *) &speql_shared->sessions[session].feeder == 0;
}

/* Sets or clears the anchor. */
bool
speql_feed_anchor(int session, const char *anchor, bool ends)
{
	SpeqlSession *s = &speql_shared->sessions[session];
	char *tokens = anchor ? tokens_only(anchor) : NULL, *now;
	bool useful = true;

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	speql_release(&s->anchor);
	if (tokens != NULL)
	{
		now = DsaPointerIsValid(s->text) ? tokens_only(speql_text(s->text)) : "";
		s->anchor = speql_store(tokens, strlen(tokens) + 1);
		s->anchor_ends = ends;
		useful = !contradicts(s, now);
	}
	LWLockRelease(speql_shared->lock);
	return useful;
}

/* Publishes completions. */
void
speql_feed_put_completions(int session, uint64 id, const char *data, int bytes)
{
	SpeqlSession *s = &speql_shared->sessions[session];

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	speql_release(&s->completions);
	s->completions = speql_store(data, bytes);
	s->bytes_completions = DsaPointerIsValid(s->completions) ? bytes : 0;
	s->completions_id = id;
	LWLockRelease(speql_shared->lock);
	ConditionVariableBroadcast(&speql_shared->changed);
}

/* Publishes previews. */
void
speql_feed_put_previews(int session, uint64 id, const SpeqlPreview *previews, int n)
{
	SpeqlSession *s = &speql_shared->sessions[session];

	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < s->n_previews; i++)
	{
		speql_release(&s->previews[i].sql);
		speql_release(&s->previews[i].columns);
		speql_release(&s->previews[i].rows);
	}
	memcpy(s->previews, previews, sizeof(SpeqlPreview) * n);
	s->n_previews = n;
	s->previews_id = id;
	LWLockRelease(speql_shared->lock);
	ConditionVariableBroadcast(&speql_shared->changed);
}

/* All work for a text is finished. */
void
speql_feed_done(int session, uint64 id)
{
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	speql_shared->sessions[session].done_id = id;
	LWLockRelease(speql_shared->lock);
	ConditionVariableBroadcast(&speql_shared->changed);
}

/* The worker runs. */
void
speql_feed_enter(int session)
{
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	speql_shared->sessions[session].worker = MyProcPid;
	speql_shared->sessions[session].latch = MyLatch;
	speql_shared->sessions[session].state = SPEQL_SESSION_LIVE;
	LWLockRelease(speql_shared->lock);
}

/* The worker ends, or did not start. */
void
speql_feed_leave(int session)
{
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	free_session(&speql_shared->sessions[session]);
	LWLockRelease(speql_shared->lock);
	ConditionVariableBroadcast(&speql_shared->changed);
}

/* Whom to be. */
void
speql_feed_identity(int session, Oid *dbid, Oid *login, Oid *roleid)
{
	SpeqlSession *s = &speql_shared->sessions[session];

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	*dbid = s->dbid;
	*login = s->login;
	*roleid = s->roleid;
	LWLockRelease(speql_shared->lock);
}
