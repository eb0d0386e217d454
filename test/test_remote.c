/*
 * test_remote.c: the remote executor against a server that answers well, badly, slowly or not at
 * all.
 */
#include <sys/stat.h>

#include "remote_fixture.h"

/*
 * Starts a server, runs one generation of n rows, stops the server; returns how many requests came.
 */
static int
generate_at(http_answer answer, uint32_t n_rows, uint32_t timeout_ms, outcome *o)
{
	static http_fixture f;
	static const llm_text row = {"row", 3};
	llm_text rows[ROWS_MAX];
	llm_job job = {.kind = LLM_JOB_GENERATE, .n_rows = n_rows, .rows = rows};
	llm_endpoint endpoint;
	llm_error err;

	for (uint32_t i = 0; i < n_rows; i++)
		rows[i] = row;
	CHECK(http_start(&f, answer));
	endpoint = endpoint_at(&f);
	if (timeout_ms > 0)
		endpoint.timeout_ms = timeout_ms;
	CHECK(run(&endpoint, &job, o, &err) == LLM_OK);
	CHECK(o->status == LLM_OK && o->n_rows == (int) n_rows);
	http_stop(&f);
	return atomic_load(&f.n_requests);
}

#define GOOD \
	"{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"h\\u00e9llo\"}," \
	"\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}"

/* ---- generation ---------------------------------------------------------------------------- */

/* A good reply, at the right path. */
static void
answer_good(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) body, (void) nth;
	http_reply(fd, strcmp(path, "/v1/chat/completions") == 0 ? 200 : 404, "", GOOD);
}

static void
test_generate(void)
{
	static http_fixture f;
	static outcome o;
	llm_text row = LLM_TEXT("a \"quoted\"\nline \\ with \x01");
	llm_text stop = LLM_TEXT("END");
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .flags = LLM_JOB_STREAM,
	               .system = LLM_TEXT("be brief"),
	               .instruction = LLM_TEXT("Say."),
	               .n_rows = 1,
	               .rows = &row,
	               .max_tokens = 9,
	               .stops = &stop,
	               .n_stops = 1};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_good));
	endpoint = endpoint_at(&f);
	snprintf(endpoint.key, sizeof(endpoint.key), "sekrit");
	REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
	CHECK(o.status == LLM_OK && o.row_status[0] == LLM_OK);
	CHECK(strcmp(o.text[0], "h\xc3\xa9llo") == 0);
	CHECK(o.n_pieces == 1);
	CHECK(o.stats.n_prompt_tokens == 7 && o.stats.n_output_tokens == 3 && o.stats.n_rows == 1);
	CHECK(strstr(f.body, "a \\u0022quoted\\u0022\\u000aline \\u005c with \\u0001") != NULL);
	CHECK(strstr(f.body, "\"max_tokens\":9") != NULL);
	CHECK(strstr(f.body, "\"stop\":[\"END\"]") != NULL);
	CHECK(strstr(f.body, "{\"role\":\"system\",\"content\":\"be brief\"}") != NULL);
	CHECK(strstr(f.head, "Authorization: Bearer sekrit\r\n") != NULL);
	http_stop(&f);
}

/* Too busy the first time. */
static void
answer_busy_once(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body;
	if (nth == 0)
		http_reply(fd, 429, "Retry-After: 1\r\n", "{}");
	else
		http_reply(fd, 200, "", GOOD);
}

static void
test_retry_after(void)
{
	static outcome o;
	struct timespec a;
	struct timespec b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	CHECK(generate_at(answer_busy_once, 1, 0, &o) == 2);
	clock_gettime(CLOCK_MONOTONIC, &b);
	CHECK(o.row_status[0] == LLM_OK);
	CHECK((double) (b.tv_sec - a.tv_sec) + (double) (b.tv_nsec - a.tv_nsec) * 1e-9 >= 0.99);
}

/* Always too busy. */
static void
answer_busy(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 429, "", "{}");
}

/* Asks for an hour of patience. */
static void
answer_long_pause(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 503, "Retry-After: 3600\r\n", "{}");
}

/* Fails twice. */
static void
answer_third_time(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body;
	if (nth < 2)
		http_reply(fd, nth == 0 ? 503 : 500, "", "oops");
	else
		http_reply(fd, 200, "", GOOD);
}

static void
test_retries(void)
{
	static outcome o;

	CHECK(generate_at(answer_third_time, 1, 0, &o) == 3);
	CHECK(o.row_status[0] == LLM_OK);
	CHECK(generate_at(answer_busy, 1, 0, &o) == 3);
	CHECK(o.row_status[0] == LLM_E_BUSY);
	CHECK(generate_at(answer_long_pause, 1, 0, &o) == 1);
	CHECK(o.row_status[0] == LLM_E_REMOTE);
}

/* Always fails, with a page instead of JSON. */
static void
answer_failure(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 500, "", "<html>oops</html>");
}

/* An endpoint that is down costs a job a few requests, not one for every row. */
static void
test_down(void)
{
	static outcome o;
	int n = generate_at(answer_failure, ROWS_MAX, 0, &o);

	CHECK_MSG(n <= 24, "%d requests", n);
	for (int i = 0; i < ROWS_MAX; i++)
		CHECK(o.row_status[i] == LLM_E_REMOTE);
	CHECK(o.stats.n_errors == ROWS_MAX);
	CHECK(strcmp(o.message[ROWS_MAX - 1], "endpoint \"far\" failed (HTTP 500)") == 0);
}

static void
test_refused(void)
{
	static http_fixture f;
	static outcome o;
	llm_text rows[2] = {LLM_TEXT("a"), LLM_TEXT("b")};
	llm_job job = {.kind = LLM_JOB_GENERATE, .n_rows = 2, .rows = rows};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_good));
	endpoint = endpoint_at(&f);
	http_stop(&f);
	REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
	CHECK(o.row_status[0] == LLM_E_REMOTE && o.row_status[1] == LLM_E_REMOTE);
	CHECK(strstr(o.message[0], "could not reach endpoint \"far\"") == o.message[0]);
}

/* ---- replies that break rules -------------------------------------------------------------- */

/* Does not answer. */
static void
answer_never(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) path, (void) body, (void) nth;
	http_hang(f, fd);
}

/* Answers byte by byte, for ever. */
static void
answer_trickle(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char head[] = "HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n";

	(void) f, (void) path, (void) body, (void) nth;
	http_send(fd, head, sizeof(head) - 1);
	while (send(fd, " ", 1, MSG_NOSIGNAL) == 1)
		usleep(5000);
}

static void
test_timeouts(void)
{
	static outcome o;

	CHECK(generate_at(answer_never, 1, 1000, &o) == 1); /* not tried again */
	CHECK(o.row_status[0] == LLM_E_REMOTE);
	CHECK(strcmp(o.message[0], "endpoint \"far\" did not answer within 1 s") == 0);
	CHECK(generate_at(answer_trickle, 1, 1000, &o) == 1);
	CHECK(strcmp(o.message[0], "endpoint \"far\" did not answer within 1 s") == 0);
}

/* Announces more than it sends. */
static void
answer_short(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char reply[] = "HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n" GOOD;

	(void) f, (void) path, (void) body, (void) nth;
	http_send(fd, reply, sizeof(reply) - 1);
}

/* Announces less than it sends. */
static void
answer_long(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char reply[] = "HTTP/1.1 200 X\r\nContent-Length: 20\r\n\r\n" GOOD;

	(void) f, (void) path, (void) body, (void) nth;
	http_send(fd, reply, sizeof(reply) - 1);
}

/* Sends 64 MB, without a length. */
static void
answer_huge(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char head[] = "HTTP/1.1 200 X\r\n\r\n";
	static char block[65536];

	(void) f, (void) path, (void) body, (void) nth;
	http_send(fd, head, sizeof(head) - 1);
	memset(block, ' ', sizeof(block));
	for (int i = 0; i < 1024 && send(fd, block, sizeof(block), MSG_NOSIGNAL) > 0; i++)
		;
}

/* Never ends its headers. */
static void
answer_headers(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char head[] = "HTTP/1.1 200 X\r\n";
	static const char header[] =
	    "X-More: of the same, and the same, and the same, and the same\r\n";

	(void) f, (void) path, (void) body, (void) nth;
	http_send(fd, head, sizeof(head) - 1);
	while (send(fd, header, sizeof(header) - 1, MSG_NOSIGNAL) > 0)
		;
}

/* Speaks another protocol. */
static void
answer_no_http(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_send(fd, "220 mail.example ESMTP\r\n", 24);
}

static void
test_lying_lengths(void)
{
	static outcome o;

	CHECK(generate_at(answer_short, 1, 0, &o) == 3);
	CHECK(o.row_status[0] == LLM_E_REMOTE);
	CHECK(generate_at(answer_long, 1, 0, &o) == 1);
	CHECK(o.row_status[0] == LLM_E_PROTOCOL);
	CHECK(generate_at(answer_huge, 1, 0, &o) == 1);
	CHECK(o.row_status[0] == LLM_E_PROTOCOL);
	CHECK(strcmp(o.message[0], "endpoint \"far\" sent more than 16 MB") == 0);
	CHECK(generate_at(answer_headers, 1, 0, &o) == 1);
	CHECK(o.row_status[0] == LLM_E_PROTOCOL);
	CHECK(generate_at(answer_no_http, 1, 0, &o) == 1);
	CHECK(o.row_status[0] == LLM_E_PROTOCOL);
}

static void
test_malformed(void)
{
	static const char *const bad[] = {
	    "",
	    "not json",
	    "[]",
	    "{\"choices\":[]}",
	    "{\"choices\":[{\"message\":{\"content\":null}}]}",
	    "{\"choices\":[{\"message\":{\"content\":7}}]}",
	    "{\"choices\":[{\"message\":{\"content\":\"a\\u0000b\"}}]}",
	    "{\"choices\":[{\"message\":{\"content\":\"\\ud800\"}}]}",
	    "{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":-1}}",
	    "{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":1e9}}",
	    ("{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":{\"completion_tokens\":"
	     "99999999999999999999}}")};
	static outcome o;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		reply_body = bad[i];
		CHECK_MSG(generate_at(answer_body, 1, 0, &o) == 1, "%s", bad[i]);
		CHECK_MSG(o.row_status[0] == LLM_E_PROTOCOL, "%s", bad[i]);
		CHECK_MSG(strstr(o.message[0], "endpoint \"far\" sent a malformed reply: it") != NULL ||
		              strstr(o.message[0], "token counts") != NULL,
		          "%s", o.message[0]);
	}
}

/* Redirects to itself. */
static void
answer_redirect(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	char header[64];

	(void) path, (void) body, (void) nth;
	snprintf(header, sizeof(header), "Location: http://127.0.0.1:%d/v1/x\r\n", f->port);
	http_reply(fd, 307, header, "");
}

/* Refuses the key, and repeats it. */
static void
answer_unauthorised(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 401, "", "{\"error\":{\"message\":\"key sekrit\",\"code\":\"bad key sekrit\"}}");
}

/* Says that the prompt is too long. */
static void
answer_too_long(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	http_reply(fd, 400, "", "{\"error\":{\"code\":\"context_length_exceeded\"}}");
}

static void
test_refusals(void)
{
	static outcome o;

	CHECK(generate_at(answer_redirect, 1, 0, &o) == 1);
	CHECK(strcmp(o.message[0], "endpoint \"far\" redirects (HTTP 307), which is not followed") ==
	      0);
	CHECK(generate_at(answer_unauthorised, 1, 0, &o) == 1);
	CHECK(strcmp(o.message[0], "endpoint \"far\" refused its key (HTTP 401)") == 0);
	CHECK(generate_at(answer_too_long, 4, 0, &o) == 4);
	for (int i = 0; i < 4; i++)
		CHECK(o.row_status[i] == LLM_E_TOO_LONG);
}

/* A name that means the address of a metadata service is not connected to. */
static void
test_link_local(void)
{
	static const char *const urls[] = {"http://169.254.169.254", "http://[fe80::1]:80/v1",
	                                   "http://[::ffff:169.254.169.254]", "http://[fd00:ec2::254]"};
	static outcome o;
	llm_text row = LLM_TEXT("a");
	llm_job job = {.kind = LLM_JOB_GENERATE, .n_rows = 1, .rows = &row};
	http_fixture none = {.port = 1};
	llm_endpoint endpoint = endpoint_at(&none);
	llm_error err;

	for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++)
	{
		snprintf(endpoint.url, sizeof(endpoint.url), "%s", urls[i]);
		REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
		CHECK_MSG(strstr(o.message[0], "link-local") != NULL, "%s: %s", urls[i], o.message[0]);
	}
}

/* ---- many at a time, and the end ----------------------------------------------------------- */

/* Takes a while. */
static void
answer_slowly(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) body, (void) nth;
	usleep(3000);
	http_reply(fd, 200, "", GOOD);
}

static void
test_concurrency(void)
{
	static http_fixture f;
	static outcome o[2];
	llm_text rows[ROWS_MAX];
	llm_job job[2];
	llm_endpoint endpoint;
	uint64_t id;
	llm_error err;

	for (int i = 0; i < ROWS_MAX; i++)
		rows[i] = LLM_TEXT("a");
	REQUIRE(http_start(&f, answer_slowly));
	endpoint = endpoint_at(&f);
	for (int k = 0; k < 2; k++)
	{
		memset(&o[k], 0, sizeof(o[k]));
		pthread_mutex_init(&o[k].mutex, NULL);
		pthread_cond_init(&o[k].cond, NULL);
		job[k] = (llm_job){.kind = LLM_JOB_GENERATE,
		                   .n_rows = ROWS_MAX,
		                   .rows = rows,
		                   .user = &o[k],
		                   .on_row = on_row,
		                   .on_done = on_done};
		REQUIRE(llm_remote_submit(remote, &endpoint, &job[k], &id, &err) == LLM_OK);
	}
	wait_for(&o[0]);
	wait_for(&o[1]);
	CHECK(o[0].n_rows == ROWS_MAX && o[1].n_rows == ROWS_MAX);
	CHECK(o[0].stats.n_errors == 0 && o[1].stats.n_errors == 0);
	CHECK_MSG(atomic_load(&f.n_most) <= 5 && atomic_load(&f.n_most) >= 2, "%d", f.n_most);
	http_stop(&f);
}

/* A cancelled job's connections are closed at once, so that the server stops computing. */
static void
test_cancel(void)
{
	static http_fixture f;
	static outcome o;
	llm_text rows[ROWS_MAX];
	llm_job job = {.kind = LLM_JOB_GENERATE, .n_rows = ROWS_MAX, .rows = rows, .caller = 7};
	llm_endpoint endpoint;
	llm_error err;

	for (int i = 0; i < ROWS_MAX; i++)
		rows[i] = LLM_TEXT("a");
	for (int k = 0; k < 2; k++)
	{
		uint64_t id = 0;

		REQUIRE(http_start(&f, answer_never));
		endpoint = endpoint_at(&f);
		memset(&o, 0, sizeof(o));
		pthread_mutex_init(&o.mutex, NULL);
		pthread_cond_init(&o.cond, NULL);
		job.user = &o;
		job.on_row = on_row;
		job.on_done = on_done;
		REQUIRE(llm_remote_submit(remote, &endpoint, &job, &id, &err) == LLM_OK);
		while (atomic_load(&f.n_requests) < 4)
			usleep(1000);
		if (k == 0)
			llm_remote_cancel(remote, id);
		else
			llm_remote_cancel_caller(remote, 7);
		wait_for(&o);
		CHECK(o.status == LLM_E_CANCELLED && o.n_rows == 0);
		http_stop(&f); /* waits until the clients have gone */
		CHECK(atomic_load(&f.n_left) == 4);
	}
}

static void
test_destroy(void)
{
	static http_fixture f;
	static outcome o;
	llm_remote *other;
	llm_text row = LLM_TEXT("a");
	llm_job job = {.kind = LLM_JOB_GENERATE, .n_rows = 1, .rows = &row};
	llm_endpoint endpoint;
	llm_error err;
	uint64_t id;

	REQUIRE(http_start(&f, answer_never));
	endpoint = endpoint_at(&f);
	memset(&o, 0, sizeof(o));
	pthread_mutex_init(&o.mutex, NULL);
	pthread_cond_init(&o.cond, NULL);
	job.user = &o;
	job.on_done = on_done;
	REQUIRE(llm_remote_create(&other, &err) == LLM_OK);
	REQUIRE(llm_remote_submit(other, &endpoint, &job, &id, &err) == LLM_OK);
	while (atomic_load(&f.n_requests) < 1)
		usleep(1000);
	llm_remote_destroy(other);
	CHECK(o.done && o.status == LLM_E_CANCELLED);
	http_stop(&f);
}

/* ---- endpoints ----------------------------------------------------------------------------- */

/* Reads an endpoint from literals. */
static llm_status
read_endpoint(const char *url, const char *options, const char *keys, llm_endpoint *out,
              llm_error *err)
{
	return llm_endpoint_read("far", (llm_text){url, strlen(url)},
	                         (llm_text){options, strlen(options)}, keys, out, err);
}

static void
test_endpoint(void)
{
	static const char *const bad_urls[] = {"",
	                                       "example.com",
	                                       "ftp://example.com",
	                                       "file:///etc/passwd",
	                                       "http://user:pass@example.com",
	                                       "http://user@example.com",
	                                       "http://example.com/?a=b",
	                                       "http://example.com/#a",
	                                       "http://exa mple.com",
	                                       "http://example.com\r\nHost: x"};
	static const char *const bad_options[] = {"[]",
	                                          "{",
	                                          "{\"concurrency\":0}",
	                                          "{\"concurrency\":257}",
	                                          "{\"retries\":11}",
	                                          "{\"retries\":-1}",
	                                          "{\"timeout\":0}",
	                                          "{\"timeout\":3601}",
	                                          "{\"model\":\"\"}",
	                                          "{\"model\":\"a\\nb\"}",
	                                          "{\"key_file\":\"../key\"}",
	                                          "{\"key_file\":\"/etc/passwd\"}",
	                                          "{\"key_file\":\"a\\u0000b\"}",
	                                          "{\"key_file\":\"missing\"}",
	                                          "{\"key_env\":\"HOME\"}",
	                                          "{\"key_env\":\"PREPACK_NONE\"}"};
	llm_endpoint e;
	llm_error err;

	for (size_t i = 0; i < sizeof(bad_urls) / sizeof(bad_urls[0]); i++)
		CHECK_MSG(read_endpoint(bad_urls[i], "{}", NULL, &e, &err) == LLM_E_RANGE, "%s",
		          bad_urls[i]);
	for (size_t i = 0; i < sizeof(bad_options) / sizeof(bad_options[0]); i++)
		CHECK_MSG(read_endpoint("http://h", bad_options[i], "/tmp", &e, &err) != LLM_OK, "%s",
		          bad_options[i]);
	REQUIRE(read_endpoint("https://h:8000/v1//",
	                      "{\"kind\":\"embed\",\"model\":\"big\",\"concurrency\":3,"
	                      "\"retries\":0,\"timeout\":1.5}",
	                      NULL, &e, &err) == LLM_OK);
	CHECK(strcmp(e.url, "https://h:8000/v1") == 0 && strcmp(e.model, "big") == 0 && e.embeds);
	CHECK(e.concurrency == 3 && e.retries == 0 && e.timeout_ms == 1500 && e.key[0] == '\0');
	REQUIRE(read_endpoint("http://h", "{}", NULL, &e, &err) == LLM_OK);
	CHECK(strcmp(e.model, "far") == 0 && !e.embeds && e.concurrency == 8 && e.timeout_ms == 120000);
}

static void
test_keys(void)
{
	char folder[] = "/tmp/prepack-keys-XXXXXX";
	char path[64];
	llm_endpoint e;
	llm_error err;
	FILE *file;

	REQUIRE(mkdtemp(folder) != NULL);
	snprintf(path, sizeof(path), "%s/k", folder);
	REQUIRE((file = fopen(path, "w")) != NULL);
	fputs("from-a-file\n", file);
	fclose(file);
	CHECK(read_endpoint("http://h", "{\"key_file\":\"k\"}", folder, &e, &err) == LLM_OK);
	CHECK(strcmp(e.key, "from-a-file") == 0);
	llm_endpoint_forget(&e);
	CHECK(e.key[0] == '\0' && e.key[5] == '\0');
	CHECK(read_endpoint("http://h", "{\"key_file\":\"k\"}", NULL, &e, &err) == LLM_E_RANGE);
	REQUIRE((file = fopen(path, "w")) != NULL);
	fputs("two\nlines\n", file);
	fclose(file);
	CHECK(read_endpoint("http://h", "{\"key_file\":\"k\"}", folder, &e, &err) == LLM_E_RANGE);
	CHECK(strstr(err.message, "two") == NULL && strstr(err.message, "lines") == NULL);
	setenv("PREPACK_TEST_KEY", "from-the-environment", 1);
	CHECK(read_endpoint("http://h", "{\"key_env\":\"PREPACK_TEST_KEY\"}", NULL, &e, &err) ==
	      LLM_OK);
	CHECK(strcmp(e.key, "from-the-environment") == 0);
	unlink(path);
	rmdir(folder);
}

static void
test_unsupported(void)
{
	static const llm_job_kind kinds[] = {LLM_JOB_COUNT, LLM_JOB_LOGLIK, LLM_JOB_PREWARM,
	                                     LLM_JOB_EMBED};
	static outcome o;
	http_fixture none = {.port = 1};
	llm_endpoint endpoint = endpoint_at(&none);
	llm_text row = LLM_TEXT("a");
	llm_job job = {.n_rows = 1, .rows = &row, .n_rows2 = 1, .rows2 = &row};
	llm_error err;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
	{
		job.kind = kinds[i];
		CHECK(run(&endpoint, &job, &o, &err) == LLM_E_UNSUPPORTED);
	}
	endpoint.embeds = true;
	job.kind = LLM_JOB_GENERATE;
	CHECK(run(&endpoint, &job, &o, &err) == LLM_E_UNSUPPORTED);
	job = (llm_job){.kind = LLM_JOB_EMBED};
	CHECK(run(&endpoint, &job, &o, &err) == LLM_OK && o.n_rows == 0);
	row = LLM_TEXT("\xff");
	job = (llm_job){.kind = LLM_JOB_EMBED, .n_rows = 1, .rows = &row};
	CHECK(run(&endpoint, &job, &o, &err) == LLM_OK && o.row_status[0] == LLM_E_FORMAT);
}

int
main(void)
{
	llm_error err;

	if (llm_remote_create(&remote, &err) != LLM_OK)
		return 1;
	RUN(generate);
	RUN(retry_after);
	RUN(retries);
	RUN(down);
	RUN(refused);
	RUN(timeouts);
	RUN(lying_lengths);
	RUN(malformed);
	RUN(refusals);
	RUN(link_local);
	RUN(concurrency);
	RUN(cancel);
	RUN(destroy);
	RUN(endpoint);
	RUN(keys);
	RUN(unsupported);
	llm_remote_destroy(remote);
	return test_summary("remote");
}
