/*
 * server_fixture.h: a server in a process of its own, and clients of it, for test_server*.c.
 *
 * Each test forks its server into a folder of its own; the process ends when the control pipe
 * closes, and its exit status says whether it ended well (under ASan also: without a leak). Waits
 * are bounded by a generous PATIENCE_S.
 */
#ifndef SERVER_FIXTURE_H
#define SERVER_FIXTURE_H

#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../src/llm/llm_server.h"
#include "wire_fixture.h"

#define PATIENCE_S 60
#define MODEL      "qwen2"

typedef struct fixture
{
	char folder[64];
	char socket[96];
	pid_t pid;
	int control; /* the test's end of the control pipe */
} fixture;

/* A frame that has come. */
typedef struct frame
{
	llm_wire_header h;
	uint8_t *payload; /* free it */
	bool end;         /* there is none: the engine has closed the connection */
} frame;

/* ---- the server ---------------------------------------------------------------------------- */

/* Starts a server with these parameters; files > 0: with so few descriptors. */
static inline bool
start(fixture *f, llm_server_params params, rlim_t files)
{
	int fds[2];

	snprintf(f->folder, sizeof(f->folder), "/tmp/prepack-test-XXXXXX");
	if (mkdtemp(f->folder) == NULL || pipe(fds) != 0)
		return false;
	snprintf(f->socket, sizeof(f->socket), "%s/s", f->folder);
	fflush(stdout);
	f->pid = fork();
	if (f->pid == 0)
	{
		struct rlimit limit = {files, files};
		llm_error err;

		close(fds[1]);
		if (files > 0)
			setrlimit(RLIMIT_NOFILE, &limit);
		params.socket_path = f->socket;
		params.control_fd = fds[0];
		params.engine.n_threads = 1;
		exit(llm_server_run(&params, &err) == LLM_OK ? 0 : 1);
	}
	close(fds[0]);
	f->control = fds[1];
	return f->pid > 0;
}

/* Waits for a process; its exit status, or −1 when it does not end. */
static inline int
wait_exit(pid_t pid)
{
	int status;

	for (int i = 0; i < PATIENCE_S * 100; i++)
	{
		if (waitpid(pid, &status, WNOHANG) == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		usleep(10000);
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	return -1;
}

/* Removes a server's folder. */
static inline void
clean(const fixture *f)
{
	DIR *dir = opendir(f->folder);
	char path[512];

	for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
	{
		snprintf(path, sizeof(path), "%s/%.255s", f->folder, e->d_name);
		unlink(path);
	}
	if (dir != NULL)
		closedir(dir);
	rmdir(f->folder);
}

/* Ends a server by closing its control pipe; checks that it ends well and leaves nothing. */
static inline void
stop(fixture *f)
{
	close(f->control);
	CHECK(wait_exit(f->pid) == 0);
	CHECK(access(f->socket, F_OK) != 0);
	clean(f);
}

/* ---- clients ------------------------------------------------------------------------------- */

/* Connects, as soon as the server listens. */
static inline int
dial(const fixture *f)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {PATIENCE_S, 0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->socket);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (int i = 0; i < PATIENCE_S * 100; i++)
	{
		if (connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
			return fd;
		usleep(10000);
	}
	close(fd);
	return -1;
}

/* Sends what a writer holds and empties it; what the engine no longer takes is dropped. */
static inline void
post(int fd, llm_wire_writer *w)
{
	size_t at = 0;

	while (at < w->n)
	{
		ssize_t n = send(fd, w->bytes + at, w->n - at, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		at += (size_t) n;
	}
	llm_free(w->bytes);
	*w = fixture_writer();
}

/* Reads exactly n bytes. */
static inline bool
take(int fd, uint8_t *out, size_t n)
{
	for (size_t at = 0; at < n;)
	{
		ssize_t got = recv(fd, out + at, n - at, 0);

		if (got <= 0)
			return false;
		at += (size_t) got;
	}
	return true;
}

/* Reads the next frame. */
static inline frame
next(int fd)
{
	uint8_t header[LLM_WIRE_HEADER];
	frame f = {.end = true};

	if (!take(fd, header, sizeof(header)) || !llm_wire_get_header(header, &f.h))
		return f;
	f.payload = malloc(f.h.length + 1);
	f.end = !take(fd, f.payload, f.h.length);
	if (f.end)
	{
		free(f.payload);
		f.payload = NULL;
	}
	return f;
}

/* A reader of a frame. */
static inline llm_wire_reader
reader(const frame *f)
{
	return (llm_wire_reader){f->payload, f->h.length, false};
}

/* Reads a frame that must be an error; returns its status, −1 for anything else. */
static inline int
next_error(int fd, uint64_t id)
{
	frame f = next(fd);
	llm_wire_reader r = reader(&f);
	int status = -1;

	if (!f.end && f.h.type == LLM_WIRE_ERROR && f.h.id == id)
	{
		status = llm_wire_get_u8(&r);
		if (fixture_get_text(&r).n == 0 || !llm_wire_complete(&r))
			status = -1;
	}
	else if (!f.end)
		printf("frame of type %u for request %u\n", f.h.type, (unsigned) f.h.id);
	free(f.payload);
	return status;
}

/* True when the engine closes the connection and sends nothing more. */
static inline bool
ends(int fd)
{
	uint8_t byte;
	ssize_t n = recv(fd, &byte, 1, 0);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* Connects and shakes hands. */
static inline int
greet(const fixture *f)
{
	llm_wire_writer w = fixture_writer();
	int fd = dial(f);
	frame reply;

	fixture_put_hello(&w, 1, LLM_WIRE_MAGIC, LLM_WIRE_VERSION);
	post(fd, &w);
	reply = next(fd);
	CHECK(!reply.end && reply.h.type == LLM_WIRE_WELCOME && reply.h.id == 1);
	free(reply.payload);
	return fd;
}

/* A generation by the dummy over n rows of one text. */
static inline llm_job
dummy_job(uint32_t n, const llm_text *rows)
{
	return (llm_job){.kind = LLM_JOB_GENERATE,
	                 .model = "dummy",
	                 .instruction = LLM_TEXT("Say it."),
	                 .n_rows = n,
	                 .rows = rows,
	                 .sample.top_p = 1,
	                 .max_tokens = 8};
}

/* Sends a whole job. */
static inline void
post_job(int fd, uint64_t id, const llm_job *job)
{
	llm_wire_writer w = fixture_writer();

	fixture_put_job(&w, id, job);
	fixture_put_empty(&w, LLM_WIRE_RUN, id);
	post(fd, &w);
}

/* What came of a job. */
typedef struct outcome
{
	int status; /* of the job; −1: the connection ended */
	uint32_t n_rows;
	uint32_t n_failed; /* rows */
	uint32_t n_frames; /* RESULTS */
	uint32_t n_pieces;
	bool again; /* a row came twice */
} outcome;

/* Takes frames of a job until it ends. */
static inline outcome
finish(int fd, uint64_t id)
{
	outcome out = {.status = -1};
	static bool seen[100000];

	memset(seen, 0, sizeof(seen));
	while (out.status < 0)
	{
		frame f = next(fd);
		llm_wire_reader r = reader(&f);

		if (f.end)
			break;
		if (f.h.id == id && f.h.type == LLM_WIRE_RESULTS)
		{
			out.n_frames++;
			for (uint32_t n = llm_wire_get_u32(&r); n > 0 && !r.bad; n--, out.n_rows++)
			{
				fixture_row row = fixture_get_row(&r);

				out.n_failed += row.status != LLM_OK;
				out.again = out.again || row.row >= sizeof(seen) || seen[row.row];
				seen[row.row % sizeof(seen)] = true;
			}
			CHECK(llm_wire_complete(&r));
		}
		else if (f.h.id == id && f.h.type == LLM_WIRE_PIECE)
			out.n_pieces++;
		else if (f.h.id == id && (f.h.type == LLM_WIRE_DONE || f.h.type == LLM_WIRE_ERROR))
			out.status = llm_wire_get_u8(&r);
		free(f.payload);
	}
	CHECK(!out.again && out.n_failed == 0);
	return out;
}

static const llm_text one_row = {"river stone", 11};

/* Checks that a client is served as ever. */
static inline void
check_served(int fd, uint64_t id)
{
	llm_job job = dummy_job(1, &one_row);
	outcome out;

	post_job(fd, id, &job);
	out = finish(fd, id);
	CHECK_MSG(out.status == LLM_OK && out.n_rows == 1, "status %d, %u rows", out.status,
	          out.n_rows);
}

/* Sends a request of one text and returns the reply. */
static inline frame
ask(int fd, llm_wire_type type, uint64_t id, const char *text)
{
	llm_wire_writer w = fixture_writer();
	frame f;

	if (text != NULL)
		fixture_put_named(&w, type, id, text);
	else
		fixture_put_empty(&w, type, id);
	post(fd, &w);
	f = next(fd);
	CHECK(!f.end && f.h.id == id);
	return f;
}

/* The same; returns the type of the reply. */
static inline int
ask_type(int fd, llm_wire_type type, uint64_t id, const char *text)
{
	frame f = ask(fd, type, id, text);
	int got = f.end ? -1 : f.h.type;

	free(f.payload);
	return got;
}

/* The same for a reply that must be an error: its status. */
static inline int
ask_error(int fd, llm_wire_type type, uint64_t id, const char *text)
{
	llm_wire_writer w = fixture_writer();

	fixture_put_named(&w, type, id, text);
	post(fd, &w);
	return next_error(fd, id);
}

/* The engine's counters: jobs, and how long its step has stood still. */
static inline void
ask_stats(int fd, uint64_t id, uint32_t *n_jobs, uint32_t *stalled_ms)
{
	frame f = ask(fd, LLM_WIRE_STATS, id, NULL);
	llm_wire_reader r = reader(&f);

	CHECK(f.h.type == LLM_WIRE_STATS_REPLY);
	(void) llm_wire_get_u32(&r);
	(void) llm_wire_get_u8(&r);
	*n_jobs = llm_wire_get_u32(&r);
	for (int i = 0; i < 2; i++)
		(void) llm_wire_get_u32(&r);
	for (int i = 0; i < 9; i++)
		(void) llm_wire_get_u64(&r);
	*stalled_ms = llm_wire_get_u32(&r);
	(void) fixture_get_text(&r);
	(void) fixture_get_text(&r);
	CHECK(llm_wire_complete(&r));
	free(f.payload);
}

/* n rows of one text. */
static inline llm_text *
many_rows(uint32_t n)
{
	llm_text *rows = malloc(n * sizeof(*rows));

	for (uint32_t i = 0; i < n; i++)
		rows[i] = one_row;
	return rows;
}

/* Starts a server that has the tiny model loaded. */
static inline int
start_model(fixture *f)
{
	int fd;

	if (!start(f, (llm_server_params){.model_directory = "test/data/models"}, 0))
		return -1;
	fd = greet(f);
	CHECK(ask_type(fd, LLM_WIRE_LOAD, 100, MODEL) == LLM_WIRE_OK);
	return fd;
}

/* A long generation on the tiny model. */
static inline llm_job
long_job(uint32_t n, const llm_text *rows)
{
	llm_job job = dummy_job(n, rows);

	job.model = MODEL;
	job.flags = LLM_JOB_RAW;
	job.class_ = LLM_CLASS_BATCH;
	job.max_tokens = 100;
	return job;
}

#endif /* SERVER_FIXTURE_H */
