/*
 * test_remote_stream.c: answers of endpoints that come piece by piece.
 */
#include "remote_fixture.h"

static const llm_text one_row[1] = {{"Hi", 2}};

/* What the server sends, and how many bytes at a time. */
static const char *events;
static size_t chunk;

/* Answers with the events. */
static void
answer_events(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	size_t n = strlen(events);

	(void) f, (void) path, (void) body, (void) nth;
	http_begin(fd, "text/event-stream; charset=utf-8");
	for (size_t i = 0; i < n; i += chunk)
	{
		http_send(fd, events + i, chunk < n - i ? chunk : n - i);
		if (chunk < 64)
			usleep(100); /* so that they arrive one by one, more or less */
	}
}

/* Streams one row from a server. */
static void
stream_from(http_answer answer, http_fixture *f, outcome *o)
{
	llm_job job = {.kind = LLM_JOB_GENERATE, .flags = LLM_JOB_STREAM, .rows = one_row, .n_rows = 1};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(f, answer));
	endpoint = endpoint_at(f);
	REQUIRE(llm_remote_create(&remote, &err) == LLM_OK);
	REQUIRE(run(&endpoint, &job, o, &err) == LLM_OK);
	llm_remote_destroy(remote);
	http_stop(f);
}

/* Streams these events, some bytes at a time. */
static void
stream_events(const char *text, size_t at_a_time, http_fixture *f, outcome *o)
{
	events = text;
	chunk = at_a_time;
	stream_from(answer_events, f, o);
}

#define PIECE(text) "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define ROLE        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n"
#define USAGE \
	"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3," \
	"\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n"
#define DONE "data: [DONE]\n\n"

/* Pieces come as they were sent, however the bytes were cut. */
static void
test_pieces(void)
{
	static const char text[] = ROLE PIECE("Gr") PIECE("üß") PIECE(" \xf0\x9f\x98\x80!") USAGE DONE;
	static const size_t chunks[] = {1, 2, 3, 5, 7, 64, 4096};
	static outcome o;
	http_fixture f;

	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++)
	{
		stream_events(text, chunks[i], &f, &o);
		CHECK_MSG(o.row_status[0] == LLM_OK, "%zu bytes: %s", chunks[i], o.message[0]);
		CHECK_MSG(o.n_pieces == 3, "%zu bytes: %d pieces", chunks[i], o.n_pieces);
		CHECK(strcmp(o.pieces, "Grüß \xf0\x9f\x98\x80!") == 0);
		CHECK(strcmp(o.text[0], o.pieces) == 0);
		CHECK(o.stats.n_prompt_tokens == 7 && o.stats.n_output_tokens == 3);
		CHECK(o.stats.n_shared_tokens == 2 && o.stats.n_errors == 0);
		CHECK(strstr(f.body, "\"stream\":true") != NULL);
		CHECK(strstr(f.body, "\"include_usage\":true") != NULL);
		CHECK(strcasestr(f.head, "accept: text/event-stream") != NULL);
	}
}

/* Characters that are split over events are given whole, with the event that ends them. */
static void
test_split_characters(void)
{
	static const char text[] = PIECE("Gr\xc3") PIECE("\xbc\xc3") PIECE("\x9f") PIECE(" \xf0\x9f")
	    ROLE PIECE("\x98") PIECE("") PIECE("\x80!") PIECE("\xe2") PIECE("\x82\xac") DONE;
	static const size_t chunks[] = {1, 7, 4096};
	static outcome o;
	http_fixture f;

	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++)
	{
		stream_events(text, chunks[i], &f, &o);
		CHECK_MSG(o.row_status[0] == LLM_OK, "%zu bytes: %s", chunks[i], o.message[0]);
		CHECK_MSG(o.n_pieces == 6, "%zu bytes: %d pieces", chunks[i], o.n_pieces);
		CHECK(strcmp(o.pieces, "Grüß \xf0\x9f\x98\x80!€") == 0);
		CHECK(strcmp(o.text[0], o.pieces) == 0);
	}
}

/* The halves of a pair of escapes may come in two events; a half that stays alone is no text. */
static void
test_split_escapes(void)
{
	static const char good[] = PIECE("a\\ud83d") PIECE("") PIECE("\\ude00b") PIECE("\\uD834\\uDD1E")
	    PIECE("\\udbff") PIECE("\\udfff") DONE;
	static const char *const lone[] = {
	    PIECE("a\\ud83d") DONE,
	    PIECE("\\ud83d") PIECE("a") DONE,
	    PIECE("\\ude00") DONE,
	    PIECE("\\ude00") PIECE("\\ud83d") DONE,
	    PIECE("\\ud83d") PIECE("\\ud83d") PIECE("\\ude00") DONE,
	    PIECE("\\ud83dx\\ude00") DONE,
	};
	static outcome o;
	http_fixture f;

	for (size_t n = 1; n <= 4096; n *= 16)
	{
		stream_events(good, n, &f, &o);
		CHECK_MSG(o.row_status[0] == LLM_OK, "%zu bytes: %s", n, o.message[0]);
		CHECK(strcmp(o.text[0], "a\xf0\x9f\x98\x80"
		                        "b\xf0\x9d\x84\x9e\xf4\x8f\xbf\xbf") == 0);
		CHECK(strcmp(o.text[0], o.pieces) == 0);
	}
	for (size_t i = 0; i < sizeof(lone) / sizeof(lone[0]); i++)
	{
		stream_events(lone[i], 4096, &f, &o);
		CHECK_MSG(o.row_status[0] == LLM_E_PROTOCOL, "%zu: %d", i, (int) o.row_status[0]);
	}
}

/* What the standard allows: other line ends, comments, other fields, data of several lines. */
static void
test_grammar(void)
{
	static const char *const texts[] = {
	    "data:{\"choices\":[{\"delta\":{\"content\":\"ok\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n",
	    "data: {\"choices\":[{\"delta\":{\"content\":\"ok\"}}]}\r\rdata: [DONE]\r\r",
	    ": ping\n\nevent: message\nid: 4\ndata: {\"choices\":\ndata: [{\"delta\":\n"
	    "data: {\"content\":\"ok\"}}]}\nretry: 10\n\n: ping\n\n" DONE,
	    "data\n\ndata:\n\ndatabase: x\n\n" PIECE("ok") DONE,
	    PIECE("o") PIECE("") PIECE("k") DONE PIECE("after the end"),
	    PIECE("ok") "data: [DONE]",
	    ("\xef\xbb\xbf" PIECE("ok") DONE),
	    ("data: {\"choices\":[{\"text\":\"ok\"}]}\n\n" DONE),
	};
	static outcome o;
	http_fixture f;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		for (size_t n = 1; n <= 4096; n *= 16)
		{
			stream_events(texts[i], n, &f, &o);
			CHECK_MSG(o.row_status[0] == LLM_OK, "%zu: %s", i, o.message[0]);
			CHECK_MSG(strcmp(o.text[0], "ok") == 0, "%zu: \"%s\"", i, o.text[0]);
			CHECK(strcmp(o.pieces, "ok") == 0);
		}
}

/* What breaks the protocol fails the row, says so, and is not asked again. */
static void
test_malformed(void)
{
	static const char *const texts[] = {
	    "",
	    PIECE("a"),
	    PIECE("a") "data: {\"choices\":[{\"delta\":{\"conte",
	    PIECE("a") "data: nonsense\n\n" DONE,
	    PIECE("a") "data: [1,2]\n\n" DONE,
	    "data: {\"choices\":[{\"delta\":{\"content\":7}}]}\n\n" DONE,
	    PIECE("a\\u0000b") DONE,
	    PIECE("\\ud800") DONE,
	    PIECE("\xff\xfe") DONE,
	    PIECE("a\xc3") PIECE("b") DONE,
	    PIECE("a\xc3") DONE,
	    PIECE("a\xf0\x9f\x98") PIECE("\xc3\xbc") DONE,
	    PIECE("\xbc") DONE,
	    PIECE("\xed\xa0") PIECE("\x80") DONE,
	    PIECE("\xc0\x80") DONE,
	    PIECE("a") "data: {\"usage\":{\"prompt_tokens\":-1}}\n\n" DONE,
	};
	static outcome o;
	http_fixture f;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		stream_events(texts[i], 4096, &f, &o);
		CHECK_MSG(o.row_status[0] == LLM_E_PROTOCOL, "%zu: %d %s", i, o.row_status[0],
		          o.message[0]);
		CHECK_MSG(strstr(o.message[0], "endpoint \"far\" sent a malformed reply: ") != NULL, "%s",
		          o.message[0]);
		CHECK(atomic_load(&f.n_requests) == 1);
	}
	stream_events(PIECE("a") "data: {\"error\":{\"message\":\"secret\"}}\n\n", 4096, &f, &o);
	CHECK(o.row_status[0] == LLM_E_REMOTE && strstr(o.message[0], "in the middle") != NULL);
	CHECK(strstr(o.message[0], "secret") == NULL);
}

/* The end of an answer by the token limit is told. */
static void
test_cut(void)
{
	static outcome o;
	http_fixture f;

	stream_events(
	    PIECE("a") "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n" DONE,
	    4096, &f, &o);
	CHECK(o.row_status[0] == LLM_OK && o.finish[0] == LLM_FINISH_LENGTH);
	stream_events(
	    PIECE("a") "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n" DONE, 4096,
	    &f, &o);
	CHECK(o.row_status[0] == LLM_OK && o.finish[0] == LLM_FINISH_END);
}

/*
 * A chunked reply whose connection breaks: before the first piece it is tried again, after it not.
 */
static void
answer_breaking(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char head[] = "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n"
	                           "Transfer-Encoding: chunked\r\n\r\n";
	static const char piece[] = PIECE("a");
	char size[32];

	(void) f, (void) path, (void) body;
	http_send(fd, head, sizeof(head) - 1);
	if (nth == 0)
		return;
	snprintf(size, sizeof(size), "%zx\r\n", sizeof(piece) - 1);
	http_send(fd, size, strlen(size));
	http_send(fd, piece, sizeof(piece) - 1);
	http_send(fd, "\r\n", 2);
}

/* The same after the whole answer: the connection breaks, or stays open. */
static void
answer_breaking_late(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static const char text[] = PIECE("a") DONE;
	char head[128];

	(void) path, (void) body;
	snprintf(head, sizeof(head),
	         "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n"
	         "Transfer-Encoding: chunked\r\n\r\n%zx\r\n",
	         sizeof(text) - 1);
	http_send(fd, head, strlen(head));
	http_send(fd, text, sizeof(text) - 1);
	if (nth > 0)
		http_hang(f, fd);
}

/* What comes after the end is not waited for, nor needed. */
static void
test_ended(void)
{
	llm_job job = {.kind = LLM_JOB_GENERATE, .flags = LLM_JOB_STREAM, .rows = one_row, .n_rows = 1};
	static outcome o;
	llm_endpoint endpoint;
	http_fixture f;
	llm_error err;

	REQUIRE(http_start(&f, answer_breaking_late));
	endpoint = endpoint_at(&f);
	REQUIRE(llm_remote_create(&remote, &err) == LLM_OK);
	for (int i = 0; i < 2; i++)
	{
		REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
		CHECK_MSG(o.row_status[0] == LLM_OK, "%d: %s", i, o.message[0]);
		CHECK(strcmp(o.text[0], "a") == 0 && o.n_pieces == 1);
	}
	llm_remote_destroy(remote);
	http_stop(&f);
	CHECK(atomic_load(&f.n_requests) == 2);
}

/* No second try once something was given. */
static void
test_broken_off(void)
{
	static outcome o;
	http_fixture f;

	stream_from(answer_breaking, &f, &o);
	CHECK_MSG(atomic_load(&f.n_requests) == 2, "%d requests", atomic_load(&f.n_requests));
	CHECK(o.row_status[0] == LLM_E_REMOTE && o.n_pieces == 1);
	CHECK_MSG(strstr(o.message[0], "broke off in the middle of an answer") != NULL, "%s",
	          o.message[0]);
}

/* A server that sends one line without end. */
static void
answer_endless(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	static char filler[1 << 16];

	(void) f, (void) path, (void) body, (void) nth;
	memset(filler, 'x', sizeof(filler));
	http_begin(fd, "text/event-stream");
	http_send(fd, "data: ", 6);
	for (int i = 0; i < 17 * 16; i++)
		http_send(fd, filler, sizeof(filler));
}

/* What comes is bounded. */
static void
test_endless(void)
{
	static outcome o;
	http_fixture f;

	stream_from(answer_endless, &f, &o);
	CHECK(o.row_status[0] == LLM_E_PROTOCOL && strstr(o.message[0], "more than 16 MB") != NULL);
}

/* A server that refuses what it does not know: first the token counts, then the stream. */
static void
answer_old(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) nth;
	if (strstr(body, "\"stream\"") != NULL)
		http_reply(fd, 400, "", "{\"error\":{\"code\":\"unknown_field\"}}");
	else
		http_reply(fd, 200, "", "{\"choices\":[{\"message\":{\"content\":\"whole\"}}]}");
}

/* Streams without token counts only. */
static void
answer_without_counts(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	if (strstr(body, "include_usage") != NULL)
		http_reply(fd, 422, "", "{}");
	else
		answer_events(f, fd, path, body, nth);
}

/* Servers that know less are asked for less. */
static void
test_simpler(void)
{
	static outcome o;
	http_fixture f;

	stream_from(answer_old, &f, &o);
	CHECK(o.row_status[0] == LLM_OK && strcmp(o.text[0], "whole") == 0);
	CHECK(o.n_pieces == 1 && atomic_load(&f.n_requests) == 3);
	events = PIECE("x") PIECE("y") DONE;
	chunk = 4096;
	stream_from(answer_without_counts, &f, &o);
	CHECK(o.row_status[0] == LLM_OK && strcmp(o.text[0], "xy") == 0);
	CHECK(o.n_pieces == 2 && atomic_load(&f.n_requests) == 2);
	/* One that overlooks the wish answers as it always does. */
	reply_body = "{\"choices\":[{\"message\":{\"content\":\"all\"}}]}";
	stream_from(answer_body, &f, &o);
	CHECK(o.row_status[0] == LLM_OK && strcmp(o.text[0], "all") == 0 && o.n_pieces == 1);
}

/* Waits until the client goes, with one piece given. */
static void
answer_hanging(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) path, (void) body, (void) nth;
	http_begin(fd, "text/event-stream");
	http_send(fd, PIECE("a"), strlen(PIECE("a")));
	http_hang(f, fd);
}

/* A cancel ends a stream that has begun. */
static void
test_cancel(void)
{
	static outcome o;
	llm_job job = {.kind = LLM_JOB_GENERATE, .flags = LLM_JOB_STREAM, .rows = one_row, .n_rows = 1};
	llm_endpoint endpoint;
	http_fixture f;
	uint64_t id;
	llm_error err;

	REQUIRE(http_start(&f, answer_hanging));
	endpoint = endpoint_at(&f);
	REQUIRE(llm_remote_create(&remote, &err) == LLM_OK);
	prepare(&job, &o);
	REQUIRE(llm_remote_submit(remote, &endpoint, &job, &id, &err) == LLM_OK);
	for (int i = 0; i < 5000 && atomic_load(&o.n_pieces) == 0; i++)
		usleep(1000);
	CHECK(o.n_pieces == 1);
	llm_remote_cancel(remote, id);
	wait_for(&o);
	CHECK(o.status == LLM_E_CANCELLED);
	llm_remote_destroy(remote);
	http_stop(&f);
	CHECK(atomic_load(&f.n_left) == 1);
}

int
main(void)
{
	RUN(pieces);
	RUN(split_characters);
	RUN(split_escapes);
	RUN(grammar);
	RUN(malformed);
	RUN(cut);
	RUN(broken_off);
	RUN(ended);
	RUN(endless);
	RUN(simpler);
	RUN(cancel);
	return test_summary("remote_stream");
}
