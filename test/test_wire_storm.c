/*
 * test_wire_storm.c: frames that were changed at random, through the readers of both sides.
 *
 *	PREPACK_WIRE_RUNS=N   how many frames; 200,000 unless set. Promise 24 asks for 10^9.
 *
 * A frame lies at the end of a page behind which nothing may be touched, so that a reader that
 * looks beyond it dies in any build. Requests go through the engine's own readers; replies through
 * the fixture's, which are made of the same parts as the extension's (llm_wire.h). What harm frames
 * do to a whole server, and to sessions, fuzz_wire and t/006_security.pl see.
 */
#include "test.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "wire_fixture.h"

#define ROOM    4096u /* bytes of a frame at most: a page */
#define CHANGES 6u    /* of a frame at most */
#define N_RUNS  200000

/* What is read. */
typedef enum kind
{
	JOB,
	ROWS,
	RESULTS,
	DONE,
	N_KINDS
} kind;

/* A good payload, and what became of its changed copies. */
typedef struct sample
{
	uint8_t bytes[ROOM];
	size_t n;
	uint64_t n_taken;
	uint64_t n_refused;
} sample;

static sample samples[N_KINDS];
static llm_wire_job open_job; /* waits for rows */
static uint8_t *page;         /* its end is the end of what may be read */
static uint64_t state = 24;

/* Keeps a writer's payload as a sample. */
static void
keep(kind k, llm_wire_writer *w, size_t header)
{
	samples[k].n = w->n - header;
	memcpy(samples[k].bytes, w->bytes + header, samples[k].n);
	llm_free(w->bytes);
}

/* Fills the samples. */
static void
make_samples(void)
{
	static const llm_text texts[] = {{"spam", 4}, {"h\0am", 4}, {"", 0}};
	static const float values[] = {0.25f, 0.5f, 0.25f};
	const llm_job job = {.kind = LLM_JOB_CLASSIFY,
	                     .model = "m",
	                     .instruction = LLM_TEXT("Which?"),
	                     .labels = texts,
	                     .n_labels = 2,
	                     .stops = texts,
	                     .n_stops = 1,
	                     .n_rows = 3,
	                     .n_rows2 = 1};
	const llm_row_result row = {
	    .row = 2, .text = LLM_TEXT("spam"), .values = values, .n_values = 3, .n_tokens = 5};
	const llm_job_stats stats = {.n_rows = 3, .queue_ms = 1.5};
	llm_wire_writer w = fixture_writer();

	fixture_put_job_fields(&w, &job, "prepack.classify");
	keep(JOB, &w, 0);
	w = fixture_writer();
	fixture_put_rows_fields(&w, false, 0, 3, texts);
	keep(ROWS, &w, 0);
	w = fixture_writer();
	llm_wire_put_result(&w, 0, 1, &row);
	llm_wire_put_result(&w, 0, 1, &row);
	keep(RESULTS, &w, LLM_WIRE_HEADER);
	w = fixture_writer();
	llm_wire_put_done(&w, 1, LLM_OK, "why", &stats);
	keep(DONE, &w, LLM_WIRE_HEADER);
}

/* A number that lengths and counts are wrong by. */
static uint32_t
odd_number(void)
{
	static const uint32_t odd[] = {0,          1,          2,          0x7f,
	                               0xff,       0xffff,     0x10000,    0xffffff,
	                               0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
	uint64_t r = test_random(&state);

	return r % 4 == 0 ? (uint32_t) (r >> 32) % 64 : odd[(r >> 32) % (sizeof(odd) / sizeof(odd[0]))];
}

/* One change: a bit, a byte, a number, a cut, a part that comes twice. Returns the new length. */
static size_t
change(uint8_t *bytes, size_t n)
{
	uint64_t r = test_random(&state);
	size_t at = n > 0 ? (r >> 8) % n : 0;
	uint32_t number = odd_number();
	size_t part = (r >> 40) % 64;

	if (n == 0)
		return n;
	switch (r % 8)
	{
		case 0:
			return at;
		case 1:
			part = part < n - at ? part : n - at;
			part = part < ROOM - n ? part : ROOM - n;
			memmove(bytes + at + part, bytes + at, n - at);
			return n + part;
		case 2:
			bytes[at] ^= (uint8_t) (1u << (r >> 60) % 8);
			return n;
		case 3:
			bytes[at] = (uint8_t) (r >> 48);
			return n;
		default:
			for (size_t i = 0; i < 4 && at + i < n; i++)
				bytes[at + i] = (uint8_t) (number >> 8 * i);
			return n;
	}
}

/* Reads a job; one that is taken must be as its limits say. */
static bool
read_job(llm_wire_reader *r)
{
	llm_wire_job out;
	llm_error err = {0};
	llm_status status = llm_wire_job_begin(r, &out, &err);

	CHECK((status == LLM_OK) == (err.message[0] == '\0'));
	if (status == LLM_OK)
		CHECK(out.model != NULL && out.function != NULL && out.job.flags < LLM_JOB_FLAGS &&
		      out.job.n_labels <= LLM_WIRE_LABELS_MAX && out.job.n_stops <= LLM_WIRE_STOPS_MAX &&
		      out.job.n_rows <= LLM_WIRE_ROWS_MAX &&
		      !llm_wire_job_ready(&out) == (out.job.n_rows + out.job.n_rows2 > 0));
	llm_wire_job_free(&out);
	return status == LLM_OK;
}

/* Reads rows of a job that has three and one; each may come once. */
static bool
read_rows(llm_wire_reader *r)
{
	llm_error err = {0};
	llm_status status;

	if (open_job.arena == NULL)
	{
		llm_wire_reader good = {samples[JOB].bytes, samples[JOB].n, false};

		CHECK(llm_wire_job_begin(&good, &open_job, &err) == LLM_OK);
	}
	status = llm_wire_job_rows(r, &open_job, &err);
	CHECK((status == LLM_OK) == (err.message[0] == '\0') && open_job.n_got <= 4);
	llm_wire_job_free(&open_job);
	return status == LLM_OK;
}

/* Reads results. */
static bool
read_results(llm_wire_reader *r)
{
	for (uint32_t n = llm_wire_get_u32(r); n > 0 && !r->bad; n--)
	{
		fixture_row row = fixture_get_row(r);

		/* to the last byte, which a length that lies would put behind the page */
		for (uint32_t i = 0; i < row.n_values && !r->bad; i++)
			(void) fixture_row_value(&row, i);
		CHECK(row.text.n <= ROOM && row.message.n <= ROOM);
	}
	return llm_wire_complete(r);
}

/* Reads a frame of a kind from the end of the page. */
static bool
read_frame(kind k, llm_wire_reader *r)
{
	switch (k)
	{
		case JOB:
			return read_job(r);
		case ROWS:
			return read_rows(r);
		case RESULTS:
			return read_results(r);
		default:
			(void) llm_wire_get_u8(r);
			(void) fixture_get_text(r);
			(void) fixture_get_stats(r);
			return llm_wire_complete(r);
	}
}

static void
test_storm(void)
{
	const char *setting = getenv("PREPACK_WIRE_RUNS");
	const uint64_t n_runs = setting != NULL ? strtoull(setting, NULL, 10) : N_RUNS;
	uint8_t bytes[ROOM];

	page = mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(page != MAP_FAILED && mprotect(page + ROOM, ROOM, PROT_NONE) == 0);
	make_samples();
	for (uint64_t i = 0; i < n_runs && !test_this_failed; i++)
	{
		sample *s = &samples[i % N_KINDS];
		size_t n = s->n;
		llm_wire_reader r;

		memcpy(bytes, s->bytes, n);
		for (uint64_t c = test_random(&state) % CHANGES + 1; c > 0; c--)
			n = change(bytes, n);
		memcpy(page + ROOM - n, bytes, n);
		r = (llm_wire_reader){page + ROOM - n, n, false};
		if (read_frame((kind) (i % N_KINDS), &r))
			s->n_taken++;
		else
			s->n_refused++;
	}
	for (int k = 0; k < N_KINDS; k++)
	{
		CHECK_MSG(samples[k].n_taken > 0 && samples[k].n_refused > samples[k].n_taken / 100,
		          "kind %d: %llu taken, %llu refused", k, (unsigned long long) samples[k].n_taken,
		          (unsigned long long) samples[k].n_refused);
		printf("# kind %d: %llu frames taken, %llu refused\n", k,
		       (unsigned long long) samples[k].n_taken, (unsigned long long) samples[k].n_refused);
	}
	munmap(page, 2 * ROOM);
}

int
main(void)
{
	RUN(storm);
	return test_summary("wire_storm");
}
