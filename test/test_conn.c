/*
 * test_conn.c: a connection of the server without memory: each allocation of a stream of frames
 * fails in turn. Whatever fails, the client reads whole frames, the connection can be closed, and
 * nothing leaks; conn_fixture.h checks all of it.
 */
#include "test.h"

#include "conn_fixture.h"

/* So many that the output grows several times, within frames. */
static const llm_text rows[300] = {{"red river", 9}};
static const llm_text labels[] = {{"spam", 4}, {"ham", 3}};

/* A stream: jobs of several kinds, every administrative request, a cancel. */
static llm_wire_writer
stream(void)
{
	llm_wire_writer w = fixture_writer();
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .model = "dummy",
	               .flags = LLM_JOB_STREAM,
	               .instruction = LLM_TEXT("Say it."),
	               .schema = LLM_TEXT("{\"type\": \"integer\"}"),
	               .n_rows = 300,
	               .rows = rows};

	fixture_put_job(&w, 2, &job);
	fixture_put_empty(&w, LLM_WIRE_RUN, 2);
	job.kind = LLM_JOB_CLASSIFY;
	job.schema = (llm_text){0};
	job.labels = labels;
	job.n_labels = 2;
	fixture_put_job(&w, 3, &job);
	fixture_put_empty(&w, LLM_WIRE_QUEUE, 4);
	fixture_put_empty(&w, LLM_WIRE_RUN, 3);
	fixture_put_job(&w, 5, &job);
	fixture_put_empty(&w, LLM_WIRE_CANCEL, 5);
	job.model = "nobody";
	fixture_put_job(&w, 6, &job);
	fixture_put_empty(&w, LLM_WIRE_RUN, 6);
	fixture_put_empty(&w, LLM_WIRE_STATS, 7);
	fixture_put_empty(&w, LLM_WIRE_MODELS, 8);
	fixture_put_named(&w, LLM_WIRE_UNLOAD, 9, "nobody");
	fixture_put_named(&w, LLM_WIRE_INSPECT, 10, "nobody");
	fixture_put_named(&w, LLM_WIRE_LOAD, 11, "nobody");
	llm_wire_begin(&w, LLM_WIRE_PREFIXES, 12);
	llm_wire_put(&w, job.salt.bytes, sizeof(job.salt.bytes));
	llm_wire_end(&w);
	return w;
}

/* How many allocations the stream takes, and then each of them failing. */
static void
test_no_memory(void)
{
	llm_wire_writer w = stream();
	uint64_t before = llm_alloc_count();
	uint64_t n;

	conn_feed(the_server(), w.bytes, w.n, FEED_GREETED, 0);
	n = llm_alloc_count() - before;
	CHECK_MSG(n > 20 && n < 5000, "%u allocations", (unsigned) n);
	for (uint64_t i = 1; i <= n; i++)
		conn_feed(the_server(), w.bytes, w.n, FEED_GREETED, i);
	llm_free(w.bytes);
}

/* The same stream in pieces, as a slow client sends it. */
static void
test_no_memory_slowly(void)
{
	llm_wire_writer w = stream();

	for (uint64_t i = 0; i < 100; i++)
		conn_feed(the_server(), w.bytes, w.n, FEED_GREETED | FEED_SLOWLY, i);
	llm_free(w.bytes);
}

int
main(void)
{
	RUN(no_memory);
	RUN(no_memory_slowly);
	return test_summary("conn");
}
