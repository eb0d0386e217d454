/*
 * test_wire.c: the protocol of the engine as bytes: every field there and back, every truncation,
 * lengths that lie, the limits, and no memory.
 *
 * Frames are read from buffers of their exact size, so that ASan sees a read past their end.
 */
#include "test.h"

#include <float.h>
#include <math.h>

#include "wire_fixture.h"

static const llm_text labels[] = {{"spam", 4}, {"h\0am", 4}, {"sp", 2}};
static const llm_text descriptions[] = {{"unwanted", 8}, {NULL, 0}, {"", 0}};
static const llm_text stops[] = {{"\n\n", 2}, {"END", 3}};
static const llm_text allowed[] = {{"yes", 3}, {"no", 2}};
static const llm_text rows[] = {{"first", 5}, {"", 0}, {"th\0ird", 6}};

/* A job that uses every field. */
static llm_job
full_job(void)
{
	llm_job job = {
	    .kind = LLM_JOB_CLASSIFY,
	    .model = "folder/model.gguf",
	    .class_ = LLM_CLASS_BATCH,
	    .flags = LLM_JOB_STREAM | LLM_JOB_MULTI,
	    .system = LLM_TEXT("Be brief."),
	    .instruction = LLM_TEXT("Which?"),
	    .schema = LLM_TEXT("{\"type\": \"object\"}"),
	    .labels = labels,
	    .descriptions = descriptions,
	    .n_labels = 3,
	    .n_rows = 3,
	    .n_rows2 = 1,
	    .rows = rows,
	    .rows2 = rows,
	    .max_tokens = 0xfedcba98u,
	    .sample = {.temperature = 0.7f,
	               .top_k = 40,
	               .top_p = 0.9f,
	               .min_p = 0.05f,
	               .seed = 0x0123456789abcdefu},
	    .stops = stops,
	    .n_stops = 2,
	    .allowed = allowed,
	    .n_allowed = 2,
	};

	for (size_t i = 0; i < sizeof(job.salt.bytes); i++)
		job.salt.bytes[i] = (uint8_t) (i * 17);
	return job;
}

/* The payload of a job's frame in a buffer of its exact size; the caller frees it. */
static uint8_t *
job_payload(const llm_job *job, const char *function, size_t *n)
{
	llm_wire_writer w = fixture_writer();
	uint8_t *exact;

	fixture_put_job_fields(&w, job, function);
	*n = w.n;
	exact = malloc(w.n);
	memcpy(exact, w.bytes, w.n);
	llm_free(w.bytes);
	return exact;
}

/* Reads n bytes, copied to a buffer of that size, as a JOB frame. */
static llm_status
begin(const uint8_t *bytes, size_t n, llm_wire_job *out, llm_error *err)
{
	uint8_t *exact = malloc(n > 0 ? n : 1);
	llm_wire_reader r = {exact, n, false};
	llm_status status;

	memcpy(exact, bytes, n);
	err->message[0] = '\0';
	status = llm_wire_job_begin(&r, out, err);
	free(exact);
	return status;
}

/* What a job that was changed on purpose is answered. */
static llm_status
begin_status(const llm_job *job, const char *function)
{
	llm_wire_job out;
	llm_error err;
	size_t n;
	uint8_t *payload = job_payload(job, function, &n);
	llm_status status = begin(payload, n, &out, &err);

	CHECK((status == LLM_OK) == (err.message[0] == '\0'));
	llm_wire_job_free(&out);
	free(payload);
	return status;
}

/* Compares texts, absent ones too. */
static bool
same(llm_text a, llm_text b)
{
	return (a.bytes == NULL) == (b.bytes == NULL) && a.n == b.n &&
	       (a.n == 0 || memcmp(a.bytes, b.bytes, a.n) == 0);
}

/* Numbers of every width, by their bits. */
static void
test_numbers(void)
{
	static const uint64_t values[] = {0, 1, 0x80, 0xff00ff00ff00ff00u, UINT64_MAX};
	static const double doubles[] = {0, -0.0, 1.5, -DBL_MIN, DBL_MAX, INFINITY, NAN};

	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
	{
		llm_wire_writer w = fixture_writer();
		llm_wire_reader r;

		llm_wire_put_u8(&w, (uint8_t) values[i]);
		llm_wire_put_u32(&w, (uint32_t) values[i]);
		llm_wire_put_u64(&w, values[i]);
		CHECK(w.n == 13 && w.bytes[1] == (uint8_t) values[i]);
		r = (llm_wire_reader){w.bytes, w.n, false};
		CHECK(llm_wire_get_u8(&r) == (uint8_t) values[i]);
		CHECK(llm_wire_get_u32(&r) == (uint32_t) values[i]);
		CHECK(llm_wire_get_u64(&r) == values[i] && llm_wire_complete(&r));
		llm_free(w.bytes);
	}
	for (size_t i = 0; i < sizeof(doubles) / sizeof(doubles[0]); i++)
	{
		llm_wire_writer w = fixture_writer();
		llm_wire_reader r;
		float narrow = (float) doubles[i];
		float f;
		double d;

		llm_wire_put_f32(&w, narrow);
		llm_wire_put_f64(&w, doubles[i]);
		r = (llm_wire_reader){w.bytes, w.n, false};
		f = llm_wire_get_f32(&r);
		d = llm_wire_get_f64(&r);
		CHECK(memcmp(&f, &narrow, sizeof(f)) == 0 && memcmp(&d, &doubles[i], sizeof(d)) == 0);
		llm_free(w.bytes);
	}
}

/* A reader that has run past its end stays bad and gives zeros. */
static void
test_reader_past_end(void)
{
	static const uint8_t bytes[] = {1, 2, 3, 4, 5};
	llm_wire_reader r = {bytes, sizeof(bytes), false};
	size_t n = 7;

	CHECK(llm_wire_get_u32(&r) == 0x04030201u);
	CHECK(llm_wire_get_u32(&r) == 0 && r.bad);
	CHECK(llm_wire_get_u8(&r) == 0 && llm_wire_get_u64(&r) == 0 && llm_wire_get_f64(&r) == 0);
	CHECK(llm_wire_get_text(&r, &n) == NULL && n == 0);
	CHECK(llm_wire_get_count(&r, 10, 1) == 0 && !llm_wire_complete(&r));
}

/* Texts and counts that claim more than is left. */
static void
test_lying_text(void)
{
	static const uint32_t lies[] = {5, 0x7fffffffu, 0x80000000u, 0xfffffffeu};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++)
	{
		llm_wire_writer w = fixture_writer();
		llm_wire_reader r;
		size_t n = 1;

		llm_wire_put_u32(&w, lies[i]);
		llm_wire_put(&w, "four", 4);
		r = (llm_wire_reader){w.bytes, w.n, false};
		CHECK(llm_wire_get_text(&r, &n) == NULL && n == 0 && r.bad);
		r = (llm_wire_reader){w.bytes, w.n, false};
		CHECK(llm_wire_get_count(&r, UINT32_MAX, 1) == 0 && r.bad);
		llm_free(w.bytes);
	}
}

/* Frames: the length is filled in, limits hold on both sides. */
static void
test_frames(void)
{
	llm_wire_writer w = fixture_writer();
	llm_wire_header h;
	uint8_t bytes[LLM_WIRE_HEADER] = {0};

	fixture_put_empty(&w, LLM_WIRE_RUN, 0x1122334455667788u);
	fixture_put_named(&w, LLM_WIRE_LOAD, 9, "abc");
	REQUIRE(w.n == 2 * LLM_WIRE_HEADER + 7);
	CHECK(llm_wire_get_header(w.bytes, &h));
	CHECK(h.length == 0 && h.type == LLM_WIRE_RUN && h.id == 0x1122334455667788u);
	CHECK(llm_wire_get_header(w.bytes + LLM_WIRE_HEADER, &h));
	CHECK(h.length == 7 && h.type == LLM_WIRE_LOAD && h.id == 9);
	llm_free(w.bytes);

	bytes[3] = LLM_WIRE_PAYLOAD_MAX >> 24;
	CHECK(llm_wire_get_header(bytes, &h) && h.length == LLM_WIRE_PAYLOAD_MAX);
	bytes[0] = 1;
	CHECK(!llm_wire_get_header(bytes, &h));
	memset(bytes, 0, sizeof(bytes));
	bytes[6] = 1;
	CHECK(!llm_wire_get_header(bytes, &h));
}

/* Refuses to grow. */
static bool
refuse(llm_wire_writer *w, size_t need)
{
	(void) w;
	(void) need;
	return false;
}

/* A writer that cannot grow, or is given too much, fails and stays within its buffer. */
static void
test_writer_fails(void)
{
	uint8_t small[2 * LLM_WIRE_HEADER] = {0};
	llm_wire_writer w = {.bytes = small, .capacity = LLM_WIRE_HEADER + 4, .grow = refuse};
	char *large = calloc(1, LLM_WIRE_PAYLOAD_MAX);

	llm_wire_begin(&w, LLM_WIRE_LOAD, 1);
	llm_wire_put_text(&w, "", 0);
	CHECK(!w.failed && w.n == w.capacity);
	llm_wire_put_u8(&w, 1);
	CHECK(w.failed && w.n == w.capacity && small[w.n] == 0);
	llm_wire_end(&w);
	CHECK(w.failed && small[0] == 0);

	REQUIRE(large != NULL);
	w = fixture_writer();
	llm_wire_put_text(&w, large, LLM_WIRE_PAYLOAD_MAX);
	CHECK(w.failed);
	llm_free(w.bytes);
	w = fixture_writer();
	llm_wire_begin(&w, LLM_WIRE_PIECE, 1);
	llm_wire_put(&w, large, LLM_WIRE_PAYLOAD_MAX);
	llm_wire_end(&w);
	CHECK(!w.failed);
	w.n = 0;
	llm_wire_begin(&w, LLM_WIRE_PIECE, 1);
	llm_wire_put(&w, large, LLM_WIRE_PAYLOAD_MAX);
	llm_wire_put_u8(&w, 0);
	llm_wire_end(&w);
	CHECK(w.failed);
	llm_free(w.bytes);
	free(large);
}

/* Every field of a job arrives as it was sent. */
static void
test_job(void)
{
	llm_job job = full_job();
	llm_wire_job out;
	llm_error err;
	size_t n;
	uint8_t *payload = job_payload(&job, "prepack.classify", &n);
	const llm_job *got = &out.job;

	REQUIRE(begin(payload, n, &out, &err) == LLM_OK);
	free(payload);
	CHECK(got->kind == job.kind && got->class_ == job.class_ && got->flags == job.flags);
	CHECK(memcmp(got->salt.bytes, job.salt.bytes, sizeof(job.salt.bytes)) == 0);
	CHECK(out.user == 10 && strcmp(out.function, "prepack.classify") == 0);
	CHECK(strcmp(out.model, job.model) == 0 && strcmp(got->model, job.model) == 0);
	CHECK(same(got->system, job.system) && same(got->instruction, job.instruction));
	CHECK(same(got->schema, job.schema));
	REQUIRE(got->n_labels == 3 && got->n_stops == 2 && got->n_allowed == 2);
	for (int i = 0; i < 3; i++)
		CHECK(same(got->labels[i], labels[i]) && same(got->descriptions[i], descriptions[i]));
	for (int i = 0; i < 2; i++)
		CHECK(same(got->stops[i], stops[i]) && same(got->allowed[i], allowed[i]));
	CHECK(got->max_tokens == job.max_tokens && got->sample.top_k == job.sample.top_k);
	CHECK(got->sample.temperature == job.sample.temperature &&
	      got->sample.top_p == job.sample.top_p && got->sample.min_p == job.sample.min_p);
	CHECK(got->sample.seed == job.sample.seed);
	CHECK(got->n_rows == 3 && got->n_rows2 == 1 && !llm_wire_job_ready(&out));
	llm_wire_job_free(&out);
}

/* Every truncation of a job is refused with a message, and so is a byte too much. */
static void
test_job_truncated(void)
{
	llm_job job = full_job();
	size_t n;
	uint8_t *payload = job_payload(&job, "f", &n);
	uint8_t *longer = calloc(1, n + 1);

	for (size_t cut = 0; cut < n; cut++)
	{
		llm_wire_job out;
		llm_error err;

		CHECK_MSG(begin(payload, cut, &out, &err) == LLM_E_FORMAT && err.message[0] != '\0',
		          "cut at %zu of %zu", cut, n);
		llm_wire_job_free(&out);
	}
	memcpy(longer, payload, n);
	{
		llm_wire_job out;
		llm_error err;

		CHECK(begin(longer, n + 1, &out, &err) == LLM_E_FORMAT);
		llm_wire_job_free(&out);
	}
	free(longer);
	free(payload);
}

/* Any four bytes replaced by a huge number: a verdict, no harm, no large allocation. */
static void
test_job_lies(void)
{
	static const uint32_t lies[] = {0x00ffffffu, 0x7fffffffu, 0xfffffffeu, 0xffffffffu};
	llm_job job = full_job();
	size_t n;
	uint8_t *payload = job_payload(&job, "f", &n);
	int n_refused = 0;

	for (size_t at = 0; at + 4 <= n; at++)
		for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++)
		{
			uint8_t saved[4];
			llm_wire_job out;
			llm_error err;
			llm_status status;

			memcpy(saved, payload + at, 4);
			memcpy(payload + at, &lies[i], 4);
			status = begin(payload, n, &out, &err);
			CHECK((status == LLM_OK) == (err.message[0] == '\0'));
			n_refused += status != LLM_OK;
			llm_wire_job_free(&out);
			memcpy(payload + at, saved, 4);
		}
	CHECK(n_refused > (int) n);
	free(payload);
}

/* Numbers outside their range, one at a time. */
static void
test_job_ranges(void)
{
	llm_job good = full_job();
	llm_job job;
	llm_text none[] = {{"a", 1}, {"", 0}, {"b", 1}};

	CHECK(begin_status(&good, "f") == LLM_OK);
	CHECK(begin_status(&good, NULL) == LLM_E_FORMAT);
#define REFUSED(change, status) \
	do \
	{ \
		job = good; \
		job.change; \
		CHECK(begin_status(&job, "f") == (status)); \
	} while (0)
	REFUSED(model = NULL, LLM_E_FORMAT);
	REFUSED(kind = (llm_job_kind) 0, LLM_E_RANGE);
	REFUSED(kind = (llm_job_kind) (LLM_JOB_PREWARM + 1), LLM_E_RANGE);
	REFUSED(class_ = (llm_class) (LLM_CLASS_BATCH + 1), LLM_E_RANGE);
	REFUSED(flags = 128, LLM_E_RANGE);
	REFUSED(n_rows = LLM_WIRE_ROWS_MAX + 1, LLM_E_RANGE);
	REFUSED(n_rows2 = 2, LLM_E_RANGE);
	REFUSED(labels = none, LLM_E_RANGE);
#undef REFUSED
}

/* Descriptions go with labels one by one, or there are none. */
static void
test_job_descriptions(void)
{
	llm_job job = full_job();
	llm_wire_writer w = fixture_writer();
	llm_wire_job out;
	llm_error err;
	size_t at = 0;
	size_t n;
	uint8_t *with = job_payload(&job, "f", &n);
	uint8_t *without;

	job.descriptions = NULL;
	without = job_payload(&job, "f", &n);
	while (with[at] == without[at])
		at++;
	/* where the count of descriptions is 0, one takes its place */
	llm_wire_put(&w, without, at);
	llm_wire_put_u32(&w, 1);
	llm_wire_put_text(&w, "x", 1);
	llm_wire_put(&w, without + at + 4, n - at - 4);
	CHECK(begin(w.bytes, w.n, &out, &err) == LLM_E_RANGE);
	CHECK(strcmp(err.message, "3 labels do not go with 1 descriptions") == 0);
	llm_wire_job_free(&out);
	llm_free(w.bytes);
	free(with);
	free(without);
}

/* What a job keeps in memory is counted byte by byte, and place by place: the server bounds it. */
static void
test_job_is_counted(void)
{
	static char text[1001];
	llm_job job = full_job();
	llm_wire_job out;
	llm_error err;
	uint64_t bytes[3];

	memset(text, 'x', sizeof(text));
	for (int i = 0; i < 3; i++)
	{
		size_t n;
		uint8_t *payload;

		job.instruction = (llm_text){text, i == 0 ? 1 : sizeof(text)};
		job.n_rows = i == 2 ? 503 : 3;
		payload = job_payload(&job, "f", &n);
		CHECK(begin(payload, n, &out, &err) == LLM_OK);
		bytes[i] = out.bytes;
		llm_wire_job_free(&out);
		free(payload);
	}
	CHECK(bytes[0] > 0 && bytes[1] - bytes[0] == 1000);
	CHECK(bytes[2] - bytes[1] == 500 * sizeof(llm_text));
}

/* Lists at their limits and one over. */
static void
test_job_list_limits(void)
{
	llm_text *many = calloc(LLM_WIRE_LABELS_MAX + 1, sizeof(*many));
	llm_job job = full_job();

	REQUIRE(many != NULL);
	for (uint32_t i = 0; i <= LLM_WIRE_LABELS_MAX; i++)
		many[i] = (llm_text){"x", 1};
	job.labels = many;
	job.descriptions = NULL;
	job.n_labels = LLM_WIRE_LABELS_MAX;
	CHECK(begin_status(&job, "f") == LLM_OK);
	job.n_labels++;
	CHECK(begin_status(&job, "f") == LLM_E_FORMAT);
	job = full_job();
	job.stops = many;
	job.n_stops = LLM_WIRE_STOPS_MAX;
	CHECK(begin_status(&job, "f") == LLM_OK);
	job.n_stops++;
	CHECK(begin_status(&job, "f") == LLM_E_FORMAT);
	job = full_job();
	job.allowed = many;
	job.n_allowed = LLM_WIRE_LABELS_MAX + 1;
	CHECK(begin_status(&job, "f") == LLM_E_FORMAT);
	free(many);
}

/* Gives a ROWS frame of n texts to a job. */
static llm_status
give(llm_wire_job *job, bool second, uint32_t first, uint32_t n, const llm_text *texts)
{
	llm_wire_writer w = fixture_writer();
	llm_wire_reader r;
	llm_error err;
	llm_status status;

	fixture_put_rows_fields(&w, second, first, n, texts);
	r = (llm_wire_reader){w.bytes, w.n, false};
	status = llm_wire_job_rows(&r, job, &err);
	llm_free(w.bytes);
	return status;
}

/* A job of three rows and one of the second list, without its rows. */
static bool
open_job(llm_wire_job *out)
{
	llm_job job = full_job();
	llm_error err;
	size_t n;
	uint8_t *payload = job_payload(&job, "f", &n);
	bool good = begin(payload, n, out, &err) == LLM_OK;

	free(payload);
	return good;
}

/* Rows in any order and any frames; an absent one is an empty one. */
static void
test_rows(void)
{
	static const llm_text absent = {NULL, 0};
	llm_wire_job job;

	REQUIRE(open_job(&job));
	CHECK(give(&job, false, 1, 2, rows + 1) == LLM_OK && !llm_wire_job_ready(&job));
	CHECK(give(&job, true, 0, 1, &absent) == LLM_OK && !llm_wire_job_ready(&job));
	CHECK(give(&job, false, 3, 0, NULL) == LLM_OK && !llm_wire_job_ready(&job));
	CHECK(give(&job, false, 0, 1, rows) == LLM_OK && llm_wire_job_ready(&job));
	for (int i = 0; i < 3; i++)
		CHECK(same(job.job.rows[i], rows[i]));
	CHECK(job.job.rows2[0].bytes != NULL && job.job.rows2[0].n == 0);
	llm_wire_job_free(&job);
}

/* Rows outside the job, or twice, or cut short. */
static void
test_rows_refused(void)
{
	llm_wire_writer w = fixture_writer();
	llm_wire_job job;
	llm_error err;

	REQUIRE(open_job(&job));
	CHECK(give(&job, false, 3, 1, rows) == LLM_E_FORMAT);
	CHECK(give(&job, false, UINT32_MAX, 1, rows) == LLM_E_FORMAT);
	CHECK(give(&job, false, 1, 3, rows) == LLM_E_FORMAT);
	CHECK(give(&job, true, 0, 2, rows) == LLM_E_FORMAT);
	CHECK(give(&job, false, 0, 1, rows) == LLM_OK);
	CHECK(give(&job, false, 0, 1, rows) == LLM_E_FORMAT);
	CHECK(!llm_wire_job_ready(&job));
	llm_wire_job_free(&job);
	fixture_put_rows_fields(&w, false, 0, 3, rows);
	for (size_t cut = 0; cut <= w.n; cut++)
	{
		uint8_t *exact = malloc(cut > 0 ? cut : 1);
		llm_wire_reader r = {exact, cut, false};

		memcpy(exact, w.bytes, cut);
		REQUIRE(open_job(&job));
		CHECK_MSG((llm_wire_job_rows(&r, &job, &err) == LLM_OK) == (cut == w.n), "cut at %zu", cut);
		CHECK(llm_wire_job_ready(&job) == false);
		llm_wire_job_free(&job);
		free(exact);
	}
	llm_free(w.bytes);
}

/* Each allocation in turn fails: a status, no leak. */
static void
test_no_memory(void)
{
	llm_job job = full_job();
	size_t n;
	uint8_t *payload = job_payload(&job, "f", &n);
	llm_status status = LLM_E_NOMEM;

	for (uint64_t i = 1; status != LLM_OK && i < 100; i++)
	{
		llm_wire_job out;
		llm_error err;

		llm_alloc_fail_after(i, false);
		status = begin(payload, n, &out, &err);
		llm_alloc_fail_after(0, false);
		CHECK(status == LLM_OK ? i > 1 : status == LLM_E_NOMEM && err.message[0] != '\0');
		llm_wire_job_free(&out);
	}
	CHECK(status == LLM_OK);
	free(payload);
}

/* A row too large for the arena's blocks, when there is no memory for it. */
static void
test_rows_no_memory(void)
{
	static char large[100000];
	const llm_text text = {large, sizeof(large)};
	llm_wire_writer w = fixture_writer();
	llm_wire_reader r;
	llm_wire_job job;
	llm_error err;

	memset(large, 'x', sizeof(large));
	fixture_put_rows_fields(&w, false, 0, 1, &text);
	REQUIRE(open_job(&job));
	r = (llm_wire_reader){w.bytes, w.n, false};
	llm_alloc_fail_after(1, true);
	CHECK(llm_wire_job_rows(&r, &job, &err) == LLM_E_NOMEM);
	llm_alloc_fail_after(0, false);
	llm_wire_job_free(&job);
	llm_free(w.bytes);
}

/* Checks that every truncation of the open writer's only frame is noticed by its reader. */
static void
check_truncations(const llm_wire_writer *w, void (*read)(llm_wire_reader *r))
{
	for (size_t cut = LLM_WIRE_HEADER; cut <= w->n; cut++)
	{
		size_t n = cut - LLM_WIRE_HEADER;
		uint8_t *exact = malloc(n > 0 ? n : 1);
		llm_wire_reader r = {exact, n, false};

		memcpy(exact, w->bytes + LLM_WIRE_HEADER, n);
		read(&r);
		CHECK_MSG(llm_wire_complete(&r) == (cut == w->n), "cut at %zu of %zu", cut, w->n);
		free(exact);
	}
}

/* Reads RESULTS. */
static void
read_results(llm_wire_reader *r)
{
	for (uint32_t n = llm_wire_get_u32(r); n > 0 && !r->bad; n--)
		(void) fixture_get_row(r);
}

/* Reads DONE. */
static void
read_done(llm_wire_reader *r)
{
	(void) llm_wire_get_u8(r);
	(void) fixture_get_text(r);
	(void) fixture_get_stats(r);
}

/* Rows of results, good and failed. */
static void
test_results(void)
{
	static const float values[] = {0.25f, -0.0f, NAN};
	llm_wire_writer w = fixture_writer();
	llm_wire_reader r;
	fixture_row got;
	llm_row_result row = {.row = 77,
	                      .text = LLM_TEXT("a\0b"),
	                      .values = values,
	                      .n_values = 3,
	                      .logprob = -12.5,
	                      .n_tokens = 5,
	                      .n_shared = 4,
	                      .n_output = 3,
	                      .finish = LLM_FINISH_STOP,
	                      .message = "not sent"};
	llm_row_result failed = {.row = 78, .status = LLM_E_TOO_LONG, .message = "too long"};

	llm_wire_put_result(&w, 0, 5, &row);
	check_truncations(&w, read_results);
	r = (llm_wire_reader){w.bytes + LLM_WIRE_HEADER, w.n - LLM_WIRE_HEADER, false};
	CHECK(llm_wire_get_u32(&r) == 1);
	got = fixture_get_row(&r);
	CHECK(llm_wire_complete(&r) && got.row == 77 && got.status == LLM_OK);
	CHECK(got.finish == LLM_FINISH_STOP && got.message.bytes == NULL && same(got.text, row.text));
	REQUIRE(got.n_values == 3);
	CHECK(fixture_row_value(&got, 0) == 0.25f && isnan(fixture_row_value(&got, 2)));
	CHECK(got.logprob == -12.5 && got.n_tokens == 5 && got.n_shared == 4 && got.n_output == 3);
	w.n = 0;
	llm_wire_put_result(&w, 0, 5, &failed);
	r = (llm_wire_reader){w.bytes + LLM_WIRE_HEADER, w.n - LLM_WIRE_HEADER, false};
	CHECK(llm_wire_get_u32(&r) == 1);
	got = fixture_get_row(&r);
	CHECK(got.status == LLM_E_TOO_LONG && same(got.message, LLM_TEXT("too long")));
	CHECK(got.text.bytes == NULL && got.n_values == 0 && llm_wire_complete(&r));
	llm_free(w.bytes);
}

/* The other frames of the engine. */
static void
test_replies(void)
{
	llm_job_stats stats = {1, 2, 3, 4, 5, 6, 7, 8, 9.5, 10.5, 11.5};
	llm_job_stats got;
	llm_wire_writer w = fixture_writer();
	llm_wire_header h;
	llm_wire_reader r;

	llm_wire_put_done(&w, 6, LLM_E_CANCELLED, "why", &stats);
	check_truncations(&w, read_done);
	CHECK(llm_wire_get_header(w.bytes, &h) && h.type == LLM_WIRE_DONE && h.id == 6);
	r = (llm_wire_reader){w.bytes + LLM_WIRE_HEADER, h.length, false};
	CHECK(llm_wire_get_u8(&r) == LLM_E_CANCELLED && same(fixture_get_text(&r), LLM_TEXT("why")));
	got = fixture_get_stats(&r);
	CHECK(llm_wire_complete(&r) && got.n_rows == 1 && got.n_errors == 2);
	CHECK(got.n_prompt_tokens == 3 && got.n_shared_tokens == 4 && got.n_padding_avoided == 5);
	CHECK(got.n_output_tokens == 6 && got.n_draft_tokens == 7 && got.n_accepted_tokens == 8);
	CHECK(got.queue_ms == 9.5 && got.prefill_ms == 10.5 && got.decode_ms == 11.5);
	w.n = 0;
	llm_wire_put_piece(&w, 7, 3, LLM_TEXT("piece"));
	r = (llm_wire_reader){w.bytes + LLM_WIRE_HEADER, w.n - LLM_WIRE_HEADER, false};
	CHECK(llm_wire_get_u32(&r) == 3 && same(fixture_get_text(&r), LLM_TEXT("piece")));
	CHECK(llm_wire_complete(&r));
	w.n = 0;
	llm_wire_put_error(&w, 8, LLM_E_BUSY, "full");
	CHECK(llm_wire_get_header(w.bytes, &h) && h.type == LLM_WIRE_ERROR && h.id == 8);
	r = (llm_wire_reader){w.bytes + LLM_WIRE_HEADER, h.length, false};
	CHECK(llm_wire_get_u8(&r) == LLM_E_BUSY && same(fixture_get_text(&r), LLM_TEXT("full")));
	CHECK(llm_wire_complete(&r));
	llm_free(w.bytes);
}

int
main(void)
{
	RUN(numbers);
	RUN(reader_past_end);
	RUN(lying_text);
	RUN(frames);
	RUN(writer_fails);
	RUN(job);
	RUN(job_truncated);
	RUN(job_lies);
	RUN(job_ranges);
	RUN(job_descriptions);
	RUN(job_is_counted);
	RUN(job_list_limits);
	RUN(rows);
	RUN(rows_refused);
	RUN(no_memory);
	RUN(rows_no_memory);
	RUN(results);
	RUN(replies);
	return test_summary("wire");
}
