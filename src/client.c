/*
 * client.c: a backend's connection to the engine, and the requests on it. See client.h for the
 * contract.
 *
 * The socket never blocks. pump() is the only place that waits: it sends what is queued, takes what
 * has arrived, and then sleeps on {latch, socket, postmaster death}. Interrupts are checked there
 * and between the frames of a submit, so the state of the connection is whole whenever an error
 * leaves.
 *
 * Memory: the connection's buffers are malloc'd and live as long as the backend; they must survive
 * any error. A request lives in a context of its own under its caller's. When that goes, by
 * pp_client_free or by an abort, a callback takes the request off the list and cancels it at the
 * engine; it takes no memory and cannot fail.
 */
#include "client.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "access/xact.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client_wire.h"
#include "compat.h"
#include "llm/llm_status.h"
#include "stats.h"

#define PP_READ_BYTES (256 * 1024)

typedef struct Connection
{
	pgsocket fd;         /* PGINVALID_SOCKET = none */
	llm_wire_writer out; /* malloc'd */
	Size n_sent;         /* of out */
	uint8 *in;           /* malloc'd */
	Size n_in;
	Size cap_in;
	uint64 next_id;
	PpRequest *requests; /* alive; each in its own context */
	bool greeted;
	List *loaded;     /* paths known to be loaded in this engine; TopMemoryContext */
	uint64 n_unloads; /* pp_shared's when that was known */
} Connection;

static Connection conn = {.fd = PGINVALID_SOCKET, .out.grow = pp_wire_grow};

/* Tokens of the running statement, for prepack.statement_token_limit. */
static TimestampTz statement_start = 0;
static int64 statement_tokens = 0;

/* ---- the connection ---------------------------------------------------------------------- */

/* Drops the connection; requests on it can never be answered. */
static void
disconnect(void)
{
	if (conn.fd != PGINVALID_SOCKET)
		close(conn.fd);
	conn.fd = PGINVALID_SOCKET;
	conn.out.n = conn.n_sent = conn.n_in = 0;
	conn.out.failed = conn.greeted = false;
	list_free_deep(conn.loaded);
	conn.loaded = NIL;
	for (PpRequest *req = conn.requests; req != NULL; req = req->next)
		if (!req->done)
		{
			req->done = true;
			req->lost = true;
		}
}

/* Raises what callers see when the engine dies under them. */
static void
raise_lost(void)
{
	char detail[sizeof(pp_shared->last_error)] = "";

	LWLockAcquire(pp_shared->lock, LW_SHARED);
	strlcpy(detail, pp_shared->last_error, sizeof(detail));
	LWLockRelease(pp_shared->lock);
	ereport(ERROR, (errcode(ERRCODE_SYSTEM_ERROR), errmsg("inference engine exited unexpectedly"),
	                detail[0] != '\0' ? errdetail_internal("%s", detail) : 0,
	                errhint("The engine is being restarted; other sessions are not affected.")));
}

/* Sends queued bytes; false: the connection is gone. */
static bool
send_queued(void)
{
	while (conn.n_sent < conn.out.n)
	{
		ssize_t n =
		    send(conn.fd, conn.out.bytes + conn.n_sent, conn.out.n - conn.n_sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		conn.n_sent += n;
	}
	conn.out.n = conn.n_sent = 0;
	return true;
}

/* Finds the request a frame is for. */
static PpRequest *
find_request(uint64 id)
{
	for (PpRequest *req = conn.requests; req != NULL; req = req->next)
		if (req->id == id && !req->done)
			return req;
	return NULL;
}

/* Adds to the statement's tokens. */
static void
count_tokens(const PpRow *row)
{
	TimestampTz start = GetCurrentStatementStartTimestamp();

	if (start != statement_start)
	{
		statement_start = start;
		statement_tokens = 0;
	}
	statement_tokens += row->n_tokens + row->n_output;
}

/*
 * Gives the frames that have arrived to their requests; late ones of cancelled requests are
 * dropped.
 */
static bool
take_frames(void)
{
	Size at = 0;

	while (conn.n_in - at >= LLM_WIRE_HEADER)
	{
		llm_wire_header h;
		PpRequest *req;

		if (!llm_wire_get_header(conn.in + at, &h))
			return false;
		if (h.length > conn.n_in - at - LLM_WIRE_HEADER)
			break;
		req = find_request(h.id);
		if (h.id == 0 && h.type == LLM_WIRE_ERROR)
			return false; /* the engine calls the connection broken */
		if (req != NULL && !pp_wire_take(req, &h, conn.in + at + LLM_WIRE_HEADER, count_tokens))
			return false;
		at += LLM_WIRE_HEADER + h.length;
	}
	memmove(conn.in, conn.in + at, conn.n_in - at);
	conn.n_in -= at;
	return true;
}

/* Takes what the socket has; *got says whether anything came. False: the connection is gone. */
static bool
receive(bool *got)
{
	for (;;)
	{
		ssize_t n;

		if (conn.cap_in - conn.n_in < PP_READ_BYTES)
		{
			Size capacity = conn.cap_in * 2 + PP_READ_BYTES;
			uint8 *grown = realloc(conn.in, capacity);

			if (grown == NULL)
				return false;
			conn.in = grown;
			conn.cap_in = capacity;
		}
		n = recv(conn.fd, conn.in + conn.n_in, conn.cap_in - conn.n_in, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		if (n == 0)
			return false;
		conn.n_in += n;
		*got = true;
		if (!take_frames())
			return false;
	}
}

/*
 * Moves bytes both ways; when nothing came and wait is set, sleeps until something happens,
 * timeout_ms has passed (−1: never), or an interrupt leaves by an error.
 */
static void
pump(bool wait, long timeout_ms)
{
	static uint32 wait_event = 0;
	bool got = false;
	int events = WL_LATCH_SET | WL_SOCKET_READABLE | WL_EXIT_ON_PM_DEATH;

	if (conn.fd == PGINVALID_SOCKET)
		return;
	if (!send_queued() || !receive(&got))
	{
		disconnect();
		return;
	}
	if (got || !wait)
		return;
	if (wait_event == 0)
		wait_event = PP_WAIT_EVENT_NEW("PrepackWaitReply");
	if (conn.n_sent < conn.out.n)
		events |= WL_SOCKET_WRITEABLE;
	if (timeout_ms >= 0)
		events |= WL_TIMEOUT;
	(void) WaitLatchOrSocket(MyLatch, events, conn.fd, timeout_ms, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Opens the engine's socket. The path is relative: every server process works in the data
 * directory.
 */
pgsocket
pp_client_socket(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	pgsocket fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd == PGINVALID_SOCKET)
		return fd;
	strlcpy(address.sun_path, PP_ENGINE_SOCKET, sizeof(address.sun_path));
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return PGINVALID_SOCKET;
}

/* ---- requests ---------------------------------------------------------------------------- */

/* Callback: a request's memory goes. What still runs is cancelled. */
static void
release_request(void *arg)
{
	PpRequest *req = arg;
	PpRequest **link = &conn.requests;

	while (*link != NULL && *link != req)
		link = &(*link)->next;
	if (*link != NULL)
		*link = req->next;
	if (!req->done && conn.fd != PGINVALID_SOCKET)
	{
		llm_wire_begin(&conn.out, LLM_WIRE_CANCEL, req->id);
		llm_wire_end(&conn.out);
		(void) send_queued();
	}
	if (req->function != NULL && !req->counted)
		pp_stats_add(req->function, req->model, req->n_rows, &req->stats,
		             !req->done                      ? PP_STATS_CANCELLED
		             : req->status != 0 || req->lost ? PP_STATS_FAILED
		                                             : PP_STATS_DONE);
	req->counted = true;
}

/* Makes a request in a context of its own. */
static PpRequest *
make_request(int n_rows)
{
	MemoryContext context =
	    AllocSetContextCreate(CurrentMemoryContext, "prepack request", ALLOCSET_SMALL_SIZES);
	PpRequest *req = MemoryContextAllocZero(context, sizeof(PpRequest));

	req->context = context;
	req->id = ++conn.next_id;
	req->n_rows = n_rows;
	if (n_rows > 0)
		req->rows = MemoryContextAllocExtended(context, mul_size(n_rows, sizeof(PpRow)),
		                                       MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	req->release.func = release_request;
	req->release.arg = req;
	MemoryContextRegisterResetCallback(context, &req->release);
	req->next = conn.requests;
	conn.requests = req;
	return req;
}

/* Frees a request; cancels what still runs. */
void
pp_client_free(PpRequest *req)
{
	MemoryContextDelete(req->context);
}

/* Raises a request's own error. */
static void
check_request(PpRequest *req)
{
	if (req->lost)
		raise_lost();
	if (req->status != 0)
		pp_raise(req->status, req->message);
	if (pp_statement_token_limit > 0 && statement_tokens > pp_statement_token_limit)
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
		                errmsg("statement token limit (%d) exceeded", pp_statement_token_limit)));
}

/* Sends a request without rows and waits for its reply, at most until deadline (0: for ever). */
static PpRequest *
ask(llm_wire_type type, const void *payload, Size n, TimestampTz deadline)
{
	PpRequest *req = make_request(0);

	llm_wire_begin(&conn.out, type, req->id);
	llm_wire_put(&conn.out, payload, n);
	llm_wire_end(&conn.out);
	while (!req->done)
	{
		long left = -1;

		if (deadline != 0)
		{
			left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
			if (left <= 0)
				break;
		}
		pump(true, left);
	}
	if (req->lost)
		raise_lost();
	return req;
}

/* Waits until the supervisor calls the engine ready. */
static void
wait_for_engine(TimestampTz deadline)
{
	PpEngineState state;
	bool is_foreign;
	char why[sizeof(pp_shared->last_error)];

	ConditionVariablePrepareToSleep(&pp_shared->state_changed);
	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

		LWLockAcquire(pp_shared->lock, LW_SHARED);
		state = pp_shared->state;
		is_foreign = pp_shared->is_foreign;
		strlcpy(why, pp_shared->last_error, sizeof(why));
		LWLockRelease(pp_shared->lock);
		if (state == PP_ENGINE_READY || state == PP_ENGINE_DEGRADED || left <= 0)
			break;
		ConditionVariableTimedSleep(&pp_shared->state_changed, left,
		                            PP_WAIT_EVENT_NEW("PrepackEngineStart"));
	}
	ConditionVariableCancelSleep();
	if (state == PP_ENGINE_DEGRADED && is_foreign)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("inference engine is of another version than the library"),
		                errdetail_internal("%s", why), errhint(PP_FOREIGN_HINT)));
	if (state == PP_ENGINE_DEGRADED)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		                errmsg("inference engine is not running"),
		                errdetail("It failed repeatedly and is retried once a minute."),
		                errhint("See the server log and the view prepack.status.")));
	if (state != PP_ENGINE_READY)
		ereport(ERROR,
		        (errcode(ERRCODE_CANNOT_CONNECT_NOW), errmsg("inference engine is still starting"),
		         errhint("Call prepack.wait_until_ready() or retry.")));
}

/* Connects and shakes hands, if there is no connection. */
static void
connect_engine(TimestampTz deadline)
{
	uint8 hello[12];
	llm_wire_writer w = {.bytes = hello, .capacity = sizeof(hello), .grow = pp_wire_refuse};
	PpRequest *req;

	if (conn.fd != PGINVALID_SOCKET)
		pump(false, 0); /* notices an engine that has gone meanwhile */
	while (conn.fd == PGINVALID_SOCKET)
	{
		wait_for_engine(deadline);
		conn.fd = pp_client_socket();
		if (conn.fd != PGINVALID_SOCKET)
			break;
		/* The engine has just died, and the supervisor has not noticed yet. */
		if (GetCurrentTimestamp() > deadline)
			ereport(ERROR, (errcode(ERRCODE_CANNOT_CONNECT_NOW),
			                errmsg("could not connect to the inference engine: %m")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 20,
		                 PP_WAIT_EVENT_NEW("PrepackEngineStart"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	if (conn.greeted)
		return;
	llm_wire_put_u32(&w, LLM_WIRE_MAGIC);
	llm_wire_put_u32(&w, LLM_WIRE_VERSION);
	llm_wire_put_u32(&w, (uint32) MyProcPid);
	req = ask(LLM_WIRE_HELLO, hello, sizeof(hello), deadline);
	if (!req->done)
	{
		disconnect();
		ereport(ERROR,
		        (errcode(ERRCODE_CANNOT_CONNECT_NOW), errmsg("inference engine does not answer")));
	}
	check_request(req);
	conn.greeted = true;
	pp_client_free(req);
}

/* Forgets what is known to be loaded when any session has unloaded something since. */
static void
heed_unloads(void)
{
	uint64 n_unloads = pg_atomic_read_u64(&pp_shared->n_unloads);

	if (n_unloads == conn.n_unloads)
		return;
	conn.n_unloads = n_unloads;
	list_free_deep(conn.loaded);
	conn.loaded = NIL;
}

/* Has the engine load a model, unless it is known to have it. */
static void
load_model(const char *name, const char *path, TimestampTz deadline)
{
	uint8 payload[4 + MAXPGPATH];
	llm_wire_writer w = {.bytes = payload, .capacity = sizeof(payload), .grow = pp_wire_refuse};
	MemoryContext old;
	PpRequest *req;
	ListCell *lc;

	if (path[0] == '\0')
		return; /* built in */
	heed_unloads();
	foreach (lc, conn.loaded)
		if (strcmp(lfirst(lc), path) == 0)
			return;
	llm_wire_put_text(&w, path, strlen(path));
	req = ask(LLM_WIRE_LOAD, payload, w.n, deadline);
	if (!req->done)
	{
		pp_client_free(req);
		ereport(ERROR,
		        (errcode(ERRCODE_CANNOT_CONNECT_NOW), errmsg("model \"%s\" is still loading", name),
		         errhint("Call prepack.load_model() or retry.")));
	}
	check_request(req);
	pp_client_free(req);
	old = MemoryContextSwitchTo(TopMemoryContext);
	conn.loaded = lappend(conn.loaded, pstrdup(path));
	MemoryContextSwitchTo(old);
}

/* When a wait that starts now gives up. */
static TimestampTz
startup_deadline(void)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) pp_startup_wait);
}

/*
 * The salt under which this role's prefixes are kept: never visible under another role or database.
 */
static void
make_salt(uint8 salt[16])
{
	uint8 digest[PG_SHA256_DIGEST_LENGTH];
	Oid who[2] = {MyDatabaseId, GetUserId()};
	pg_hmac_ctx *hmac = pg_hmac_create(PG_SHA256);

	if (hmac == NULL || pg_hmac_init(hmac, pp_shared->salt_key, sizeof(pp_shared->salt_key)) < 0 ||
	    pg_hmac_update(hmac, (uint8 *) who, sizeof(who)) < 0 ||
	    pg_hmac_final(hmac, digest, sizeof(digest)) < 0)
		ereport(ERROR,
		        (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not compute the prefix salt")));
	pg_hmac_free(hmac);
	memcpy(salt, digest, 16);
}

/* Refuses what no frame could carry, before anything of it is sent. */
static void
check_job_size(const PpJob *job)
{
	if (pp_wire_job_bytes(job) > PP_TEXT_MAX)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		                errmsg("instruction, labels and schema have %zu bytes, the limit is %d",
		                       pp_wire_job_bytes(job), PP_TEXT_MAX)));
}

/* Fails the rows whose text no frame could carry, by an error of their own. */
static void
refuse_long_rows(PpRequest *req, int n_rows, const PpText *rows, int n_rows2, const PpText *rows2)
{
	for (int i = 0; i < n_rows; i++)
	{
		Size n = rows[i].n;

		if (n_rows2 > 0)
			n = Max(n, rows2[n_rows2 == 1 ? 0 : i].n);
		if (n <= PP_TEXT_MAX)
			continue;
		req->rows[i].done = req->rows[i].refused = true;
		req->rows[i].status = LLM_E_TOO_LONG;
		req->rows[i].message =
		    MemoryContextStrdup(req->context,
		                        psprintf("text has %zu bytes, the limit is %d", n, PP_TEXT_MAX));
	}
}

/* Sends a job. */
PpRequest *
pp_client_submit(const PpJob *job, int n_rows, const PpText *rows, int n_rows2, const PpText *rows2)
{
	TimestampTz deadline = startup_deadline();
	PpRequest *req;
	uint8 salt[16];

	pp_require_preload();
	if (statement_start != GetCurrentStatementStartTimestamp())
		statement_tokens = 0;
	statement_start = GetCurrentStatementStartTimestamp();
	connect_engine(deadline);
	if (job->endpoint == NULL)
		load_model(job->model, job->path, deadline);
	make_salt(salt);
	check_job_size(job);
	if (pp_track_prompts)
		pp_log_job(job, n_rows, rows);
	req = make_request(n_rows);
	refuse_long_rows(req, n_rows, rows, n_rows2, rows2);
	req->function = MemoryContextStrdup(req->context, job->function);
	req->model = MemoryContextStrdup(req->context, job->model);
	pp_wire_put_job(&conn.out, req->id, job, salt, n_rows, n_rows2);
	for (int i = 0; i < n_rows;)
	{
		i = pp_wire_put_rows(&conn.out, req->id, false, rows, i, n_rows);
		pump(false, 0); /* large inputs go out while they are written */
		CHECK_FOR_INTERRUPTS();
	}
	for (int i = 0; i < n_rows2;)
	{
		i = pp_wire_put_rows(&conn.out, req->id, true, rows2, i, n_rows2);
		pump(false, 0);
		CHECK_FOR_INTERRUPTS();
	}
	llm_wire_begin(&conn.out, LLM_WIRE_RUN, req->id);
	llm_wire_end(&conn.out);
	if (conn.out.failed)
	{
		disconnect();
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		                errmsg("input is too large for one request")));
	}
	pump(false, 0);
	return req;
}

/* Waits for a row. */
const PpRow *
pp_client_row(PpRequest *req, int i)
{
	while (!req->rows[i].done)
	{
		if (req->done)
		{
			check_request(req);
			elog(ERROR, "engine left out row %d of %d", i, req->n_rows);
		}
		check_request(req);
		pump(true, -1);
	}
	check_request(req);
	return &req->rows[i];
}

/* Waits for the end. */
void
pp_client_wait(PpRequest *req)
{
	while (!req->done)
		pump(true, -1);
	check_request(req);
}

/* Takes in what has come. */
bool
pp_client_poll(PpRequest *req)
{
	if (!req->done)
		pump(false, 0);
	return req->done;
}

/* Waits for a streamed piece. */
PpText
pp_client_piece(PpRequest *req)
{
	while (req->next_piece >= req->n_pieces && !req->done)
		pump(true, -1);
	check_request(req);
	if (req->next_piece >= req->n_pieces)
		return (PpText){NULL, 0};
	return req->pieces[req->next_piece++];
}

/* What a finished request used. */
const PpJobStats *
pp_client_stats(const PpRequest *req)
{
	return &req->stats;
}

/* How many rows a request has. */
int
pp_client_n_rows(const PpRequest *req)
{
	return req->n_rows;
}

/* ---- administration ---------------------------------------------------------------------- */

/* Asks the engine for a reply frame; NULL: there is no engine, or it does not answer in time. */
const char *
pp_client_ask(int type, const void *payload, Size n, Size *n_reply)
{
	PpRequest *req;
	TimestampTz deadline = startup_deadline();

	pp_require_preload();
	connect_engine(deadline);
	req = ask(type, payload, n, deadline);
	if (!req->done)
		ereport(ERROR,
		        (errcode(ERRCODE_CANNOT_CONNECT_NOW), errmsg("inference engine does not answer")));
	if (req->status != 0)
		pp_raise(req->status, req->message);
	*n_reply = req->n_reply;
	return req->reply;
}

/* Loads a model; returns its bytes. */
int64
pp_client_load(const char *name, const char *path)
{
	llm_wire_reader r;
	uint8 payload[4 + MAXPGPATH];
	llm_wire_writer w = {.bytes = payload, .capacity = sizeof(payload), .grow = pp_wire_refuse};
	Size n;
	const char *reply;

	if (path[0] == '\0')
		return 0;
	llm_wire_put_text(&w, path, strlen(path));
	reply = pp_client_ask(LLM_WIRE_LOAD, payload, w.n, &n);
	r = (llm_wire_reader){(const uint8 *) reply, n, false};
	return (int64) llm_wire_get_u64(&r);
}

/* Unloads a model; false: it was not loaded. All sessions are told, before and after. */
bool
pp_client_unload(const char *path)
{
	uint8 payload[4 + MAXPGPATH];
	llm_wire_writer w = {.bytes = payload, .capacity = sizeof(payload), .grow = pp_wire_refuse};
	TimestampTz deadline = startup_deadline();
	PpRequest *req;

	pp_require_preload();
	llm_wire_put_text(&w, path, strlen(path));
	connect_engine(deadline);
	pg_atomic_fetch_add_u64(&pp_shared->n_unloads, 1);
	req = ask(LLM_WIRE_UNLOAD, payload, w.n, deadline);
	pg_atomic_fetch_add_u64(&pp_shared->n_unloads, 1);
	if (req->done && req->status == LLM_E_NOT_FOUND)
		return false;
	if (!req->done)
		ereport(ERROR,
		        (errcode(ERRCODE_CANNOT_CONNECT_NOW), errmsg("inference engine does not answer")));
	check_request(req);
	return true;
}

/* Asks the engine what a file is. */
const char *
pp_client_kind(const char *path)
{
	static const char *const kinds[] = {"generate", "embed", "rerank"}; /* as llm_model_kind */
	uint8 payload[4 + MAXPGPATH];
	llm_wire_writer w = {.bytes = payload, .capacity = sizeof(payload), .grow = pp_wire_refuse};
	llm_wire_reader r;
	Size n;
	const char *reply;
	uint64 kind;

	llm_wire_put_text(&w, path, strlen(path));
	reply = pp_client_ask(LLM_WIRE_INSPECT, payload, w.n, &n);
	r = (llm_wire_reader){(const uint8 *) reply, n, false};
	kind = llm_wire_get_u64(&r);
	if (!llm_wire_complete(&r) || kind >= lengthof(kinds))
		elog(ERROR, "engine gave a kind of model that is not known here");
	return kinds[kind];
}

/* The salt of the current role, for the view of prefixes. */
void
pp_client_salt(uint8 salt[16])
{
	pp_require_preload();
	make_salt(salt);
}
