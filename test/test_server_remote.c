/*
 * test_server_remote.c: jobs for endpoints over the engine's socket.
 */
#include "http_fixture.h"
#include "server_fixture.h"

static const llm_text rows[3] = {{"a", 1}, {"b", 1}, {"c", 1}};

/* Answers every request. */
static void
answer_good(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 200, "", "{\"choices\":[{\"message\":{\"content\":\"yes\"}}]}");
}

/* Answers none. */
static void
answer_never(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) path, (void) body, (void) nth;
	http_hang(f, fd);
}

/* Writes an ENDPOINT frame. */
static void
put_endpoint(llm_wire_writer *w, uint64_t id, int port, const char *options)
{
	char url[64];

	snprintf(url, sizeof(url), "http://127.0.0.1:%d/v1", port);
	llm_wire_begin(w, LLM_WIRE_ENDPOINT, id);
	llm_wire_put_text(w, url, strlen(url));
	llm_wire_put_text(w, options, strlen(options));
	llm_wire_end(w);
}

/* Sends a job of three rows for an endpoint, all but its RUN. */
static void
post_endpoint(int fd, uint64_t id, int port, const char *options)
{
	llm_wire_writer w = fixture_writer();
	llm_job job = dummy_job(3, rows);

	job.model = "far";
	fixture_put_job(&w, id, &job);
	put_endpoint(&w, id, port, options);
	post(fd, &w);
}

/* Sends a frame without a payload. */
static void
post_empty(int fd, llm_wire_type type, uint64_t id)
{
	llm_wire_writer w = fixture_writer();

	fixture_put_empty(&w, type, id);
	post(fd, &w);
}

/* Waits until an endpoint has been asked n times. */
static void
wait_asked(http_fixture *f, int n)
{
	for (int i = 0; i < PATIENCE_S * 1000 && atomic_load(&f->n_requests) < n; i++)
		usleep(1000);
	CHECK(atomic_load(&f->n_requests) == n);
}

static void
test_job(void)
{
	http_fixture http;
	fixture f;
	outcome out;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	REQUIRE(http_start(&http, answer_good));
	fd = greet(&f);
	post_endpoint(fd, 2, http.port, "{}");
	post_empty(fd, LLM_WIRE_RUN, 2);
	out = finish(fd, 2);
	CHECK(out.status == LLM_OK && out.n_rows == 3 && atomic_load(&http.n_requests) == 3);
	check_served(fd, 3);
	close(fd);
	http_stop(&http);
	stop(&f);
}

/* What is wrong with an endpoint is told to its job alone; a frame that breaks rules to all. */
static void
test_bad_endpoints(void)
{
	static const char *const options[] = {"{", "[]", "{\"timeout\":0}", "{\"key_file\":\"x\"}",
	                                      "{\"key_env\":\"HOME\"}"};
	llm_wire_writer w = fixture_writer();
	fixture f;
	int fd;

	REQUIRE(start(&f, (llm_server_params){0}, 0));
	fd = greet(&f);
	for (uint64_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
	{
		post_endpoint(fd, 10 + i, 1, options[i]);
		post_empty(fd, LLM_WIRE_RUN, 10 + i);
		CHECK(next_error(fd, 10 + i) > 0);
	}
	check_served(fd, 3);
	post_empty(fd, LLM_WIRE_ENDPOINT, 4);
	CHECK(next_error(fd, 0) == LLM_E_FORMAT && ends(fd));
	close(fd);
	fd = greet(&f);
	post_endpoint(fd, 5, 1, "{}");
	put_endpoint(&w, 5, 1, "{}"); /* once too often */
	post(fd, &w);
	CHECK(next_error(fd, 0) == LLM_E_FORMAT && ends(fd));
	close(fd);
	stop(&f);
}

/* However a job ends before its answers, the endpoint's connections are closed. */
static void
test_cancel(void)
{
	for (int way = 0; way < 3; way++)
	{
		http_fixture http;
		fixture f;
		int fd;

		REQUIRE(start(&f, (llm_server_params){0}, 0));
		REQUIRE(http_start(&http, answer_never));
		fd = greet(&f);
		post_endpoint(fd, 2, http.port, "{}");
		post_empty(fd, LLM_WIRE_RUN, 2);
		wait_asked(&http, 3);
		if (way == 0)
		{
			post_empty(fd, LLM_WIRE_CANCEL, 2);
			CHECK(finish(fd, 2).status == LLM_E_CANCELLED);
			check_served(fd, 3);
		}
		if (way < 2)
			close(fd); /* way 1: in the middle of it */
		if (way < 2)
			http_stop(&http); /* waits until the clients have gone */
		stop(&f);             /* way 2: the server itself ends */
		if (way == 2)
			http_stop(&http);
		CHECK(atomic_load(&http.n_left) == 3);
		if (way == 2)
			close(fd);
	}
}

int
main(void)
{
	RUN(job);
	RUN(bad_endpoints);
	RUN(cancel);
	return test_summary("server_remote");
}
