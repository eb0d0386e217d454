/*
 * test_server.c: the engine's process as its clients meet it: over its socket, with clients that
 * stall, lie, leave and crowd. No test asks for speed.
 */
#include "server_fixture.h"

#include <sys/stat.h>

/* A good HELLO, and the socket's mode. */
static void
test_handshake(void)
{
	llm_wire_writer w = fixture_writer();
	struct stat st;
	fixture f;
	frame reply;
	llm_wire_reader r;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = dial(&f);
	CHECK(stat(f.socket, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 0777) == 0600);
	fixture_put_hello(&w, 42, LLM_WIRE_MAGIC, LLM_WIRE_VERSION);
	post(fd, &w);
	reply = next(fd);
	r = reader(&reply);
	CHECK(!reply.end && reply.h.type == LLM_WIRE_WELCOME && reply.h.id == 42);
	CHECK(llm_wire_get_u32(&r) == LLM_WIRE_MAGIC && llm_wire_get_u32(&r) == LLM_WIRE_VERSION);
	CHECK(llm_wire_get_u32(&r) == (uint32_t) f.pid && llm_wire_complete(&r));
	free(reply.payload);
	check_served(fd, 2);
	close(fd);
	stop(&f);
}

/* What is not a client of this version is told so and cut off. */
static void
test_handshake_refused(void)
{
	llm_wire_writer w = fixture_writer();
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = dial(&f);
	fixture_put_hello(&w, 3, LLM_WIRE_MAGIC, LLM_WIRE_VERSION + 1);
	post(fd, &w);
	CHECK(next_error(fd, 3) == LLM_E_UNSUPPORTED && ends(fd));
	close(fd);
	fd = dial(&f);
	fixture_put_hello(&w, 3, LLM_WIRE_MAGIC + 1, LLM_WIRE_VERSION);
	post(fd, &w);
	CHECK(next_error(fd, 3) == LLM_E_FORMAT && ends(fd));
	close(fd);
	fd = dial(&f);
	fixture_put_empty(&w, LLM_WIRE_STATS, 3);
	post(fd, &w);
	CHECK(next_error(fd, 0) == LLM_E_FORMAT && ends(fd));
	close(fd);
	fd = greet(&f);
	fixture_put_hello(&w, 3, LLM_WIRE_MAGIC, LLM_WIRE_VERSION);
	post(fd, &w);
	CHECK(ends(fd));
	close(fd);
	stop(&f);
}

/* Frames that break a rule end their connection, and no other. */
static void
test_bad_frames(void)
{
	static const uint8_t too_long[LLM_WIRE_HEADER] = {1, 0, 0, LLM_WIRE_PAYLOAD_MAX >> 24,
	                                                  LLM_WIRE_JOB};
	llm_wire_writer w = fixture_writer();
	llm_job job = dummy_job(1, &one_row);
	fixture f;
	int other;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	other = greet(&f);
	fd = greet(&f);
	llm_wire_put(&w, too_long, sizeof(too_long));
	post(fd, &w);
	CHECK(next_error(fd, 0) == LLM_E_FORMAT && ends(fd));
	close(fd);
	fd = greet(&f);
	fixture_put_empty(&w, (llm_wire_type) 60, 5);
	post(fd, &w);
	CHECK(next_error(fd, 0) == LLM_E_FORMAT && ends(fd));
	close(fd);
	fd = greet(&f);
	fixture_put_named(&w, LLM_WIRE_JOB, 5, "no job");
	post(fd, &w);
	CHECK(next_error(fd, 5) == LLM_E_FORMAT && ends(fd));
	close(fd);
	fd = greet(&f);
	llm_wire_begin(&w, LLM_WIRE_JOB, 6);
	fixture_put_job_fields(&w, &job, "f");
	llm_wire_end(&w);
	fixture_put_empty(&w, LLM_WIRE_RUN, 6);
	post(fd, &w);
	CHECK(next_error(fd, 6) == LLM_E_FORMAT && ends(fd));
	close(fd);
	check_served(other, 7);
	close(other);
	stop(&f);
}

/* A job that is wrong in its numbers fails alone; its connection goes on. */
static void
test_bad_jobs(void)
{
	llm_job nan = dummy_job(1, &one_row);
	llm_job unknown = dummy_job(1, &one_row);
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	nan.sample.temperature = 0.0f / 0.0f;
	post_job(fd, 2, &nan);
	CHECK(next_error(fd, 2) == LLM_E_RANGE);
	unknown.model = "nobody";
	post_job(fd, 3, &unknown);
	CHECK(next_error(fd, 3) == LLM_E_NOT_FOUND);
	check_served(fd, 4);
	close(fd);
	stop(&f);
}

/* Who stalls within a frame, or says nothing at all, is cut off; an idle client is not. */
static void
test_stalled(void)
{
	llm_wire_writer w = fixture_writer();
	llm_job job = dummy_job(1, &one_row);
	fixture f;
	int idle;
	int mute;
	int half;

	REQUIRE(start(&f, (llm_server_params){.stall_ms = 300}, 0));
	idle = greet(&f);
	mute = dial(&f);
	half = greet(&f);
	fixture_put_job(&w, 2, &job);
	w.n -= 5;
	post(half, &w);
	check_served(idle, 2);
	CHECK(ends(half) && ends(mute));
	check_served(idle, 3);
	close(half);
	close(mute);
	close(idle);
	stop(&f);
}

/* Bytes that trickle in do not stretch the time that a frame may take. */
static void
test_dripping(void)
{
	static char text[100000];
	llm_text row = {text, sizeof(text)};
	llm_wire_writer w = fixture_writer();
	llm_job job = dummy_job(1, &row);
	fixture f;
	size_t at = 0;
	int other;
	int fd;

	memset(text, 'x', sizeof(text));
	REQUIRE(start(&f, (llm_server_params){.stall_ms = 200}, 0));
	other = greet(&f);
	fd = greet(&f);
	fixture_put_job(&w, 2, &job);
	while (at < w.n && send(fd, w.bytes + at, 1, MSG_NOSIGNAL) == 1)
	{
		at++;
		usleep(20000);
	}
	CHECK_MSG(at > 0 && at < PATIENCE_S * 50, "%zu bytes were taken", at);
	CHECK(ends(fd));
	check_served(other, 2);
	llm_free(w.bytes);
	close(fd);
	close(other);
	stop(&f);
}

/*
 * A client that takes nothing is cut off when 64 MB wait for it; what it then reads ends within its
 * job. Others do not notice.
 */
static void
test_deaf_client(void)
{
	static char answer[60000];
	llm_text allowed = {answer, sizeof(answer)};
	llm_text *rows = many_rows(3000);
	llm_job job = dummy_job(3000, rows);
	fixture f;
	outcome out;
	int other;
	int fd;

	memset(answer, 'x', sizeof(answer));
	job.allowed = &allowed;
	job.n_allowed = 1;
	REQUIRE(start(&f, (llm_server_params){0}, 0));
	other = greet(&f);
	fd = greet(&f);
	post_job(fd, 2, &job);
	for (uint64_t i = 2; i < 30; i++)
		check_served(other, i);
	out = finish(fd, 2);
	CHECK_MSG(out.status == -1 && out.n_rows < 1500, "status %d after %u rows", out.status,
	          out.n_rows);
	check_served(other, 30);
	close(fd);
	close(other);
	stop(&f);
	free(rows);
}

/* A client that lets 42 MB wait, asks for more while it takes them, and gets all of it whole. */
static void
test_late_reader(void)
{
	static char answer[60000];
	llm_text allowed = {answer, sizeof(answer)};
	llm_text *rows = many_rows(700);
	llm_job job = dummy_job(700, rows);
	fixture f;
	outcome out;
	int other;
	int fd;

	memset(answer, 'x', sizeof(answer));
	job.allowed = &allowed;
	job.n_allowed = 1;
	REQUIRE(start(&f, (llm_server_params){0}, 0));
	other = greet(&f);
	fd = greet(&f);
	post_job(fd, 2, &job);
	for (uint64_t i = 2; i < 30; i++)
		check_served(other, i);
	job.n_rows = 100;
	for (uint64_t id = 2; id < 8; id++)
	{
		post_job(fd, id + 1, &job);
		out = finish(fd, id);
		CHECK_MSG(out.status == LLM_OK && out.n_rows == (id == 2 ? 700u : 100u),
		          "job %u: status %d, %u rows", (unsigned) id, out.status, out.n_rows);
	}
	CHECK(finish(fd, 8).n_rows == 100);
	close(fd);
	close(other);
	stop(&f);
	free(rows);
}

/*
 * A connection has so many jobs at once; one more is refused, and those that are there still run.
 */
static void
test_too_many_jobs(void)
{
	llm_wire_writer w = fixture_writer();
	llm_job job = dummy_job(1, &one_row);
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	for (uint64_t id = 1; id <= 1025; id++)
		fixture_put_job(&w, id + 1, &job);
	post(fd, &w);
	CHECK(next_error(fd, 1026) == LLM_E_BUSY);
	for (uint64_t id = 1; id <= 1024; id++)
		fixture_put_empty(&w, LLM_WIRE_RUN, id + 1);
	post(fd, &w);
	for (uint64_t id = 1; id <= 1024; id++)
		CHECK(finish(fd, id + 1).n_rows == 1);
	check_served(fd, 2000);
	close(fd);
	stop(&f);
}

/* The id of a job that has ended is free, from the moment that its end was read. */
static void
test_ids_again(void)
{
	llm_job unknown = dummy_job(1, &one_row);
	fixture f;
	int fd;

	unknown.model = "nobody";
	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	for (int i = 0; i < 1000; i++)
	{
		check_served(fd, 2);
		post_job(fd, 2, &unknown);
		REQUIRE(next_error(fd, 2) == LLM_E_NOT_FOUND);
	}
	close(fd);
	stop(&f);
}

/* A job byte by byte. */
static void
test_trickle(void)
{
	llm_wire_writer w = fixture_writer();
	llm_job job = dummy_job(1, &one_row);
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	fixture_put_job(&w, 2, &job);
	fixture_put_empty(&w, LLM_WIRE_RUN, 2);
	for (size_t i = 0; i < w.n; i++)
		REQUIRE(send(fd, w.bytes + i, 1, MSG_NOSIGNAL) == 1);
	llm_free(w.bytes);
	CHECK(finish(fd, 2).n_rows == 1);
	close(fd);
	stop(&f);
}

/* Rows that end together travel together, each once. */
static void
test_results_together(void)
{
	llm_text *rows = many_rows(20000);
	llm_job job = dummy_job(20000, rows);
	fixture f;
	outcome out;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	post_job(fd, 2, &job);
	out = finish(fd, 2);
	CHECK(out.status == LLM_OK && out.n_rows == 20000);
	CHECK_MSG(out.n_frames < 2000, "%u frames", out.n_frames);
	close(fd);
	stop(&f);
	free(rows);
}

/* Signals end the server like its control pipe does. */
static void
test_sigterm(void)
{
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	kill(f.pid, SIGTERM);
	CHECK(wait_exit(f.pid) == 0 && access(f.socket, F_OK) != 0 && ends(fd));
	close(fd);
	close(f.control);
	clean(&f);
}

/* Runs a second server on the socket of a first; returns its verdict. */
static llm_status
second_server(const char *path)
{
	llm_status status;
	pid_t pid;

	fflush(stdout);
	if ((pid = fork()) == 0)
	{
		llm_server_params params = {.socket_path = path, .control_fd = -1};
		llm_error err;

		status = llm_server_run(&params, &err);
		_exit((int) status);
	}
	return (llm_status) wait_exit(pid);
}

/* A living server's socket is not taken, nor a file that is none; a dead one's is. */
static void
test_socket_taken(void)
{
	fixture f;
	char path[128];
	FILE *file;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	CHECK(second_server(f.socket) == LLM_E_IO);
	snprintf(path, sizeof(path), "%s/file", f.folder);
	REQUIRE((file = fopen(path, "w")) != NULL);
	fclose(file);
	CHECK(second_server(path) == LLM_E_IO && access(path, F_OK) == 0);
	CHECK(second_server("/nonexistent/folder/socket") == LLM_E_IO);
	snprintf(path, sizeof(path), "/%0120d", 1);
	CHECK(second_server(path) == LLM_E_RANGE);
	check_served(fd, 2);
	close(fd);
	kill(f.pid, SIGKILL);
	CHECK(wait_exit(f.pid) == 128 + SIGKILL && access(f.socket, F_OK) == 0);
	close(f.control);
	snprintf(path, sizeof(path), "%s", f.socket);
	{
		fixture again;

		REQUIRE(start(&again, (llm_server_params){0}, 0));
		close(again.control);
		CHECK(wait_exit(again.pid) == 0);
		clean(&again);
	}
	clean(&f);
}

/* In a process that is not the server's parent: more clients than the server takes. */
static int
crowd(const fixture *f)
{
	llm_wire_writer w = fixture_writer();
	int fds[3];

	for (int i = 0; i < 2; i++)
		fds[i] = greet(f);
	fds[2] = dial(f);
	fixture_put_hello(&w, 9, LLM_WIRE_MAGIC, LLM_WIRE_VERSION);
	post(fds[2], &w);
	CHECK(next_error(fds[2], 9) == LLM_E_BUSY && ends(fds[2]));
	check_served(fds[0], 2);
	close(fds[1]);
	close(fds[2]);
	/* A place is free when the server has noticed that a client has gone. */
	for (int i = 0, status = LLM_E_BUSY; status == LLM_E_BUSY && i < PATIENCE_S * 100; i++)
	{
		frame reply;

		fds[1] = dial(f);
		fixture_put_hello(&w, 9, LLM_WIRE_MAGIC, LLM_WIRE_VERSION);
		post(fds[1], &w);
		reply = next(fds[1]);
		status = reply.h.type == LLM_WIRE_WELCOME ? LLM_OK : LLM_E_BUSY;
		free(reply.payload);
		if (status == LLM_OK)
			check_served(fds[1], 3);
		close(fds[1]);
		usleep(10000);
	}
	return test_this_failed;
}

/* The limit of connections holds for all but the supervisor, which is the server's parent. */
static void
test_too_many_clients(void)
{
	fixture f;
	pid_t pid;
	int fd;

	REQUIRE(start(&f, (llm_server_params){.max_connections = 2}, 0));
	fflush(stdout);
	if ((pid = fork()) == 0)
		_exit(crowd(&f));
	CHECK(wait_exit(pid) == 0);
	{
		int own[3];

		for (int i = 0; i < 3; i++)
			own[i] = greet(&f);
		fd = greet(&f);
		check_served(fd, 2);
		for (int i = 0; i < 3; i++)
			close(own[i]);
		close(fd);
	}
	stop(&f);
}

/* CPU time that a process has used, in ticks. */
static long
ticks_of(pid_t pid)
{
	char path[64];
	char line[1024] = "";
	long user = -1;
	long system = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
	if ((file = fopen(path, "r")) == NULL)
		return -1;
	if (fgets(line, sizeof(line), file) != NULL && strrchr(line, ')') != NULL)
		(void) sscanf(strrchr(line, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld",
		              &user, &system);
	fclose(file);
	return user + system;
}

/* Without descriptors the server neither spins nor forgets to listen. */
static void
test_no_descriptors(void)
{
	fixture f;
	int fds[40];
	int fd;
	long before;
	long used;

	REQUIRE(start(&f, (llm_server_params){.max_connections = 1000}, 24));
	fd = greet(&f);
	for (int i = 0; i < 40; i++)
		fds[i] = dial(&f);
	check_served(fd, 2);
	before = ticks_of(f.pid);
	usleep(1000000);
	used = ticks_of(f.pid) - before;
	CHECK_MSG(before >= 0 && used < sysconf(_SC_CLK_TCK) / 2, "%ld ticks in a second", used);
	check_served(fd, 3);
	for (int i = 0; i < 40; i++)
		close(fds[i]);
	close(fd);
	fd = greet(&f);
	check_served(fd, 2);
	close(fd);
	stop(&f);
}

/* Jobs that are sent and never run are bounded in bytes. */
static void
test_input_limit(void)
{
	static char text[300000];
	llm_text row = {text, sizeof(text)};
	llm_job job = dummy_job(1, &row);
	llm_wire_writer w = fixture_writer();
	fixture f;
	int other;
	int fd;

	memset(text, 'x', sizeof(text));
	REQUIRE(start(&f, (llm_server_params){.input_limit = 1 << 20}, 0));
	fd = greet(&f);
	other = greet(&f);
	fixture_put_job(&w, 2, &job);
	fixture_put_job(&w, 3, &job);
	post(fd, &w);
	CHECK(next_error(fd, 3) == LLM_E_BUSY);
	post_job(other, 2, &job);
	CHECK(finish(other, 2).status == LLM_OK);
	fixture_put_empty(&w, LLM_WIRE_CANCEL, 2);
	post(fd, &w);
	CHECK(next_error(fd, 2) == LLM_E_CANCELLED);
	post_job(fd, 4, &job);
	CHECK(finish(fd, 4).status == LLM_OK);
	close(fd);
	close(other);
	stop(&f);
}

/* A wedged engine is seen in the statistics, while everything else is answered, and it can end. */
static void
test_hang(void)
{
	llm_wire_writer w = fixture_writer();
	uint32_t n_jobs;
	uint32_t stalled = 0;
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){.allow_faults = true}, 0));
	fd = greet(&f);
	CHECK(ask_error(fd, LLM_WIRE_FAULT, 2, "nonsense") == LLM_E_RANGE);
	ask_stats(fd, 3, &n_jobs, &stalled);
	CHECK(stalled < 10000);
	fixture_put_named(&w, LLM_WIRE_FAULT, 4, "hang");
	post(fd, &w);
	for (uint64_t i = 0; stalled < 500 && i < PATIENCE_S * 100; i++, usleep(10000))
		ask_stats(fd, 1000 + i, &n_jobs, &stalled);
	CHECK(stalled >= 500);
	CHECK(ask_type(fd, LLM_WIRE_MODELS, 5, NULL) == LLM_WIRE_MODELS_REPLY);
	CHECK(ask_type(fd, LLM_WIRE_QUEUE, 6, NULL) == LLM_WIRE_QUEUE_REPLY);
	check_served(fd, 7);
	close(fd);
	stop(&f);
}

/* Faults are for tests: elsewhere they are refused. */
static void
test_faults_refused(void)
{
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	CHECK(ask_error(fd, LLM_WIRE_FAULT, 2, "crash") == LLM_E_UNSUPPORTED);
	check_served(fd, 3);
	close(fd);
	stop(&f);
}

/* A provoked crash ends the process by its signal, at once. */
static void
test_crash(void)
{
	llm_wire_writer w = fixture_writer();
	fixture f;
	int fd;
	int status;

	REQUIRE(start(&f, (llm_server_params){.allow_faults = true}, 0));
	fd = greet(&f);
	fixture_put_named(&w, LLM_WIRE_FAULT, 2, "crash");
	post(fd, &w);
	CHECK(ends(fd));
	status = wait_exit(f.pid);
	CHECK_MSG(status == 128 + SIGSEGV, "status %d", status);
	close(fd);
	close(f.control);
	clean(&f);
}

int
main(void)
{
	RUN(handshake);
	RUN(handshake_refused);
	RUN(bad_frames);
	RUN(bad_jobs);
	RUN(stalled);
	RUN(dripping);
	RUN(deaf_client);
	RUN(late_reader);
	RUN(too_many_jobs);
	RUN(ids_again);
	RUN(trickle);
	RUN(results_together);
	RUN(sigterm);
	RUN(socket_taken);
	RUN(too_many_clients);
	RUN(no_descriptors);
	RUN(input_limit);
	RUN(hang);
	RUN(faults_refused);
	RUN(crash);
	return test_summary("server");
}
