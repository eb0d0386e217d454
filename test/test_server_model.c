/*
 * test_server_model.c: the engine's process at work on a tiny model: cancelling, clients that
 * leave, fairness, loading, prefixes, texts that do not fit.
 */
#include "server_fixture.h"

#include <limits.h>
#include <poll.h>

/* Cancel of what is being received, of what runs, of what is not there. */
static void
test_cancel(void)
{
	llm_wire_writer w = fixture_writer();
	llm_text *rows = many_rows(3000);
	llm_job job = long_job(3000, rows);
	fixture f;
	outcome out;
	frame first;
	int fd = start_model(&f);

	REQUIRE(fd >= 0);
	fixture_put_job(&w, 2, &job);
	fixture_put_empty(&w, LLM_WIRE_CANCEL, 2);
	fixture_put_empty(&w, LLM_WIRE_CANCEL, 77);
	post(fd, &w);
	CHECK(next_error(fd, 2) == LLM_E_CANCELLED);
	post_job(fd, 3, &job);
	first = next(fd);
	CHECK(first.h.type == LLM_WIRE_RESULTS);
	free(first.payload);
	fixture_put_empty(&w, LLM_WIRE_CANCEL, 3);
	post(fd, &w);
	out = finish(fd, 3);
	CHECK_MSG(out.status == LLM_E_CANCELLED && out.n_rows < 3000, "status %d, %u rows", out.status,
	          out.n_rows);
	check_served(fd, 4);
	close(fd);
	stop(&f);
	free(rows);
}

/* Takes frames until n jobs have ended, the k-th with id first + k; each may end once only. */
static void
check_each_ends_once(int fd, uint64_t first, uint32_t n, uint8_t *n_ends)
{
	memset(n_ends, 0, n);
	for (uint32_t ended = 0; ended < n;)
	{
		frame f = next(fd);

		if (f.end)
		{
			CHECK_MSG(!f.end, "the connection ended after %u jobs", ended);
			return;
		}
		if (f.h.type == LLM_WIRE_DONE || f.h.type == LLM_WIRE_ERROR)
		{
			CHECK(f.h.id >= first && f.h.id < first + n && n_ends[f.h.id - first]++ == 0);
			ended++;
		}
		free(f.payload);
	}
}

/*
 * A storm of cancels: of jobs that wait for their start, that run, that are over, twice each, and
 * of none. Every job ends once, and then nothing of them is left.
 */
static void
test_cancel_storm(void)
{
	llm_wire_writer w = fixture_writer();
	llm_text *rows = many_rows(20);
	llm_job job = long_job(20, rows);
	llm_job quick = dummy_job(20, rows);
	uint8_t n_ends[300];
	uint32_t n_jobs = 1;
	uint32_t stalled;
	fixture f;
	int fd = start_model(&f);

	REQUIRE(fd >= 0);
	for (uint64_t round = 0; round < 3; round++)
	{
		for (uint64_t id = 1000; id < 1300; id++)
		{
			fixture_put_job(&w, id, id % 3 == 0 ? &quick : &job);
			fixture_put_empty(&w, LLM_WIRE_RUN, id);
			if (id % 4 == 0)
				fixture_put_empty(&w, LLM_WIRE_CANCEL, id);
		}
		for (uint64_t id = 1299; id >= 1000; id--)
			for (int twice = 0; twice < 2; twice++)
				fixture_put_empty(&w, LLM_WIRE_CANCEL, round == 0 ? id : 2299 - id);
		for (uint64_t id = 5000; id < 5100; id++)
			fixture_put_empty(&w, LLM_WIRE_CANCEL, id);
		post(fd, &w);
		check_each_ends_once(fd, 1000, 300, n_ends);
	}
	for (uint64_t i = 0; n_jobs > 0 && i < PATIENCE_S * 100; i++, usleep(10000))
		ask_stats(fd, 10000 + i, &n_jobs, &stalled);
	CHECK(n_jobs == 0);
	check_served(fd, 4);
	close(fd);
	stop(&f);
	free(rows);
}

/* A client that goes within a frame, and one that goes while its job runs: nothing stays. */
static void
test_disconnect(void)
{
	llm_wire_writer w = fixture_writer();
	llm_text *rows = many_rows(3000);
	llm_job job = long_job(3000, rows);
	uint32_t n_jobs = 1;
	uint32_t stalled;
	fixture f;
	frame queue;
	llm_wire_reader r;
	int fd = start_model(&f);
	int gone;

	REQUIRE(fd >= 0);
	gone = greet(&f);
	fixture_put_job(&w, 2, &job);
	w.n -= 10;
	post(gone, &w);
	close(gone);
	gone = greet(&f);
	post_job(gone, 2, &job);
	queue = next(gone);
	CHECK(queue.h.type == LLM_WIRE_RESULTS);
	free(queue.payload);
	close(gone);
	for (uint64_t i = 0; n_jobs > 0 && i < PATIENCE_S * 100; i++, usleep(10000))
		ask_stats(fd, 1000 + i, &n_jobs, &stalled);
	CHECK(n_jobs == 0);
	queue = ask(fd, LLM_WIRE_QUEUE, 5, NULL);
	r = reader(&queue);
	CHECK(llm_wire_get_u32(&r) == 0 && llm_wire_complete(&r));
	free(queue.payload);
	close(fd);
	stop(&f);
	free(rows);
}

/* True when a QUEUE reply has a job of so many rows. */
static bool
has_job_of(llm_wire_reader *r, uint32_t n_rows)
{
	bool found = false;

	for (uint32_t n = llm_wire_get_u32(r); n > 0 && !r->bad; n--)
	{
		(void) llm_wire_get_u64(r); /* process, user */
		(void) fixture_get_text(r);
		(void) fixture_get_text(r);
		(void) llm_wire_get_u8(r);
		found = llm_wire_get_u32(r) == n_rows || found;
		(void) llm_wire_get_u32(r);
		for (int i = 0; i < 3; i++)
			(void) llm_wire_get_u64(r);
	}
	return found && llm_wire_complete(r);
}

/* A short request of a class is not held up by another client's long one. */
static void
check_fairness(llm_class class_)
{
	llm_text *rows = many_rows(3000);
	llm_job job = long_job(3000, rows);
	llm_job brief = long_job(1, rows);
	fixture f;
	frame first;
	struct pollfd none;
	int crowd = start_model(&f);
	int fd;

	REQUIRE(crowd >= 0);
	fd = greet(&f);
	post_job(crowd, 2, &job);
	first = next(crowd);
	CHECK(first.h.type == LLM_WIRE_RESULTS);
	free(first.payload);
	brief.class_ = class_;
	post_job(fd, 2, &brief);
	CHECK(finish(fd, 2).n_rows == 1);
	{
		frame queue = ask(fd, LLM_WIRE_QUEUE, 3, NULL);
		llm_wire_reader r = reader(&queue);

		CHECK_MSG(has_job_of(&r, 3000), "the long job has ended before the short one");
		free(queue.payload);
	}
	none = (struct pollfd){.fd = fd, .events = POLLIN};
	CHECK(poll(&none, 1, 0) == 0);
	close(crowd);
	close(fd);
	stop(&f);
	free(rows);
}

/* Interactive ones go first; batch work of two clients takes turns. */
static void
test_fairness(void)
{
	check_fairness(LLM_CLASS_INTERACTIVE);
	check_fairness(LLM_CLASS_BATCH);
}

/* Models: a folder made after the start, long names, paths that lead outside, unknown ones. */
static void
test_models(void)
{
	char models[128];
	char target[PATH_MAX];
	char name[200] = "";
	fixture f = {0};
	frame reply;
	llm_wire_reader r;
	int fd;

	snprintf(models, sizeof(models), "/tmp/prepack-models-%d", (int) getpid());
	REQUIRE(realpath("test/data/models", target) != NULL);
	REQUIRE(start(&f, (llm_server_params){.model_directory = models}, 0));
	fd = greet(&f);
	CHECK(ask_error(fd, LLM_WIRE_LOAD, 2, MODEL) == LLM_E_NOT_FOUND);
	REQUIRE(symlink(target, models) == 0);
	for (int i = 0; i < 60; i++)
		strncat(name, "./", sizeof(name) - strlen(name) - 1);
	strncat(name, MODEL, sizeof(name) - strlen(name) - 1);
	CHECK(ask_error(fd, LLM_WIRE_LOAD, 3, "nobody") == LLM_E_NOT_FOUND);
	CHECK(ask_error(fd, LLM_WIRE_LOAD, 4, "../tokenizer") == LLM_E_RANGE);
	CHECK(ask_error(fd, LLM_WIRE_LOAD, 5, "/etc/passwd") == LLM_E_RANGE);
	CHECK(ask_error(fd, LLM_WIRE_UNLOAD, 6, name) == LLM_E_NOT_FOUND);
	CHECK(ask_type(fd, LLM_WIRE_INSPECT, 7, MODEL) == LLM_WIRE_OK);
	CHECK(ask_error(fd, LLM_WIRE_INSPECT, 8, "english.txt") != LLM_OK);
	CHECK(ask_type(fd, LLM_WIRE_LOAD, 9, name) == LLM_WIRE_OK);
	CHECK(ask_type(fd, LLM_WIRE_LOAD, 10, name) == LLM_WIRE_OK);
	reply = ask(fd, LLM_WIRE_MODELS, 11, NULL);
	r = reader(&reply);
	CHECK(llm_wire_get_u32(&r) == 1 && fixture_get_text(&r).n == strlen(name));
	free(reply.payload);
	CHECK(ask_type(fd, LLM_WIRE_UNLOAD, 12, name) == LLM_WIRE_OK);
	CHECK(ask_error(fd, LLM_WIRE_UNLOAD, 13, name) == LLM_E_NOT_FOUND);
	unlink(models);
	close(fd);
	stop(&f);
}

/* The prefixes of a salt, asked for in one frame. */
static uint32_t
count_prefixes(int fd, uint64_t id, const llm_salt *salt)
{
	llm_wire_writer w = fixture_writer();
	llm_wire_reader r;
	uint32_t n;
	frame f;

	llm_wire_begin(&w, LLM_WIRE_PREFIXES, id);
	llm_wire_put(&w, salt->bytes, sizeof(salt->bytes));
	llm_wire_end(&w);
	post(fd, &w);
	f = next(fd);
	CHECK(!f.end && f.h.type == LLM_WIRE_PREFIXES_REPLY && f.h.id == id);
	r = reader(&f);
	n = llm_wire_get_u32(&r);
	free(f.payload);
	return n;
}

/* Pieces of a stream, and the prefixes that a role sees: its own. */
static void
test_stream_and_prefixes(void)
{
	llm_salt other = {{0}};
	llm_job job = long_job(1, &one_row);
	fixture f;
	outcome out;
	int fd = start_model(&f);

	REQUIRE(fd >= 0);
	memset(job.salt.bytes, 7, sizeof(job.salt.bytes));
	job.flags |= LLM_JOB_STREAM | LLM_JOB_KEEP;
	job.instruction = LLM_TEXT("one two three four five six seven ");
	post_job(fd, 2, &job);
	out = finish(fd, 2);
	CHECK_MSG(out.status == LLM_OK && out.n_rows == 1 && out.n_pieces > 1, "status %d, %u pieces",
	          out.status, out.n_pieces);
	CHECK(count_prefixes(fd, 3, &job.salt) > 0);
	CHECK(count_prefixes(fd, 4, &other) == 0);
	close(fd);
	stop(&f);
}

/* A text that cannot fit is refused by its size, one that just does not fit by its tokens. */
static void
test_huge_text(void)
{
	static const uint32_t sizes[] = {500, 20u << 20};
	char *text = malloc(sizes[1]);
	fixture f;
	int fd = start_model(&f);

	REQUIRE(fd >= 0 && text != NULL);
	memset(text, 'x', sizes[1]);
	for (uint64_t i = 0; i < 2; i++)
	{
		llm_text row = {text, sizes[i]};
		llm_job job = long_job(1, &row);
		fixture_row got;
		llm_wire_reader r;
		frame reply;

		post_job(fd, 2 + i, &job);
		reply = next(fd);
		r = reader(&reply);
		CHECK(reply.h.type == LLM_WIRE_RESULTS && llm_wire_get_u32(&r) == 1);
		got = fixture_get_row(&r);
		CHECK(got.status == LLM_E_TOO_LONG && got.message.n > 0);
		CHECK((memmem(got.message.bytes, got.message.n, "at least", 8) != NULL) == (i == 1));
		free(reply.payload);
		CHECK(finish(fd, 2 + i).status == LLM_OK);
	}
	close(fd);
	stop(&f);
	free(text);
}

/* Engine callback: asks for the models in the middle of a pass. */
static void
ask_models(void *user, const llm_row_result *result)
{
	llm_engine *e = *(llm_engine **) user;
	llm_model_info info;

	(void) result;
	if (llm_engine_models(e, &info, 1) != 1 || strcmp(info.name, MODEL) != 0)
		_exit(1);
}

/* The list of models does not wait for the pass that runs: here that would be for ever. */
static void
test_models_during_pass(void)
{
	pid_t pid;

	fflush(stdout);
	if ((pid = fork()) == 0)
	{
		llm_engine_params params = {.n_threads = 1};
		llm_job job = long_job(1, &one_row);
		llm_engine *e;
		llm_error err;
		uint64_t id;

		job.user = &e;
		job.on_row = ask_models;
		if (llm_engine_create(&params, &e, &err) != LLM_OK ||
		    llm_engine_load(e, MODEL, "test/data/models/" MODEL, NULL, &err) != LLM_OK ||
		    llm_engine_submit(e, &job, &id, &err) != LLM_OK)
			_exit(2);
		while (llm_engine_step(e))
			;
		_exit(0);
	}
	CHECK(wait_exit(pid) == 0);
}

int
main(void)
{
	RUN(cancel);
	RUN(cancel_storm);
	RUN(disconnect);
	RUN(fairness);
	RUN(models);
	RUN(stream_and_prefixes);
	RUN(huge_text);
	RUN(models_during_pass);
	return test_summary("server_model");
}
