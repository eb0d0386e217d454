/*
 * test_dummy.c: the built-in model: the same answer for the same question, on every machine; JSON
 * that fits its schema; the refusals that every model makes.
 */
#include "test.h"

#include <math.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_dummy.h"
#include "../src/llm/llm_json.h"

/* What a job gave; the texts of up to 8 rows. */
typedef struct answers
{
	uint32_t n_rows;
	uint32_t n_done;
	uint32_t n_pieces;
	llm_status status;
	char message[LLM_MESSAGE_MAX];
	llm_job_stats stats;
	llm_status row_status[8];
	char *text[8];
	size_t n_text[8];
	llm_finish finish[8];
	float values[8][LLM_DUMMY_DIM];
	uint32_t n_values[8];
	double logprob[8];
	uint32_t n_tokens[8];
} answers;

/* Keeps a row. */
static void
on_row(void *user, const llm_row_result *r)
{
	answers *a = user;
	uint32_t i = r->row % 8;

	a->n_rows++;
	a->row_status[i] = r->status;
	CHECK((r->status == LLM_OK) == (r->message == NULL));
	free(a->text[i]);
	a->text[i] = calloc(1, r->text.n + 1);
	if (r->text.n > 0)
		memcpy(a->text[i], r->text.bytes, r->text.n);
	a->n_text[i] = r->text.n;
	a->finish[i] = r->finish;
	a->n_values[i] = r->n_values;
	for (uint32_t k = 0; k < r->n_values && k < LLM_DUMMY_DIM; k++)
		a->values[i][k] = r->values[k];
	a->logprob[i] = r->logprob;
	a->n_tokens[i] = r->n_tokens;
}

/* Counts pieces. */
static void
on_piece(void *user, uint32_t row, llm_text piece)
{
	answers *a = user;

	(void) row;
	a->n_pieces += piece.n > 0;
}

/* Keeps the end. */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	answers *a = user;

	a->n_done++;
	a->status = status;
	snprintf(a->message, sizeof(a->message), "%s", message);
	a->stats = *stats;
}

/* Runs a job. */
static answers
ask(llm_job job)
{
	answers a = {0};

	job.user = &a;
	job.on_row = on_row;
	job.on_piece = on_piece;
	job.on_done = on_done;
	llm_dummy_run(&job);
	CHECK(a.n_done == 1 && (a.status == LLM_OK) == (a.message[0] == '\0'));
	return a;
}

/* Frees what ask kept. */
static void
drop(answers *a)
{
	for (int i = 0; i < 8; i++)
		free(a->text[i]);
}

static const llm_text rows[] = {{"red river", 9}, {"", 0}, {"gr\xc3\xbcn", 5}, {"red river", 9}};

/* A job of a kind over the four rows. */
static llm_job
job_of(llm_job_kind kind)
{
	return (llm_job){.kind = kind,
	                 .model = LLM_DUMMY_NAME,
	                 .instruction = LLM_TEXT("Say it."),
	                 .n_rows = 4,
	                 .rows = rows,
	                 .sample.top_p = 1};
}

/* Answers depend on the question alone; pinned, since users' regression files hold them. */
static void
test_generate(void)
{
	answers a = ask(job_of(LLM_JOB_GENERATE));
	llm_job job = job_of(LLM_JOB_GENERATE);
	answers b;

	CHECK(a.status == LLM_OK && a.n_rows == 4 && a.stats.n_rows == 4 && a.stats.n_errors == 0);
	CHECK(a.stats.n_prompt_tokens == 5 && a.stats.n_output_tokens > 0);
	CHECK(strcmp(a.text[0], a.text[3]) == 0 && strcmp(a.text[0], a.text[1]) != 0);
	CHECK_MSG(strcmp(a.text[0], "river stone light paper glass seven") == 0, "\"%s\"", a.text[0]);
	job.sample.seed = 5;
	b = ask(job);
	CHECK(strcmp(a.text[0], b.text[0]) == 0);
	drop(&b);
	job.sample.temperature = 1;
	b = ask(job);
	CHECK(strcmp(a.text[0], b.text[0]) != 0);
	drop(&b);
	job = job_of(LLM_JOB_GENERATE);
	job.max_tokens = 2;
	job.flags = LLM_JOB_STREAM;
	b = ask(job);
	CHECK(b.n_text[0] < a.n_text[0] && strncmp(a.text[0], b.text[0], b.n_text[0]) == 0);
	CHECK(b.n_pieces == 4);
	drop(&b);
	drop(&a);
}

/* The first of the stop strings ends a text; they need no NUL behind them. */
static void
test_stops(void)
{
	answers a = ask(job_of(LLM_JOB_GENERATE));
	llm_job job = job_of(LLM_JOB_GENERATE);
	llm_text stops[3] = {{"nowhere", 7}, {NULL, 2}, {NULL, 3}};
	answers b;

	REQUIRE(a.n_text[0] > 8);
	stops[1].bytes = a.text[0] + 5;
	stops[2].bytes = a.text[0] + 4;
	job.stops = stops;
	job.n_stops = 3;
	b = ask(job);
	CHECK(b.finish[0] == LLM_FINISH_STOP && b.n_text[0] <= 4);
	CHECK(strncmp(a.text[0], b.text[0], b.n_text[0]) == 0);
	drop(&b);
	drop(&a);
}

/* An allowed string comes whole, however long. */
static void
test_allowed(void)
{
	static char large[20000];
	const llm_text allowed[] = {{large, sizeof(large)}, {large, sizeof(large)}};
	llm_job job = job_of(LLM_JOB_GENERATE);
	answers a;

	memset(large, 'x', sizeof(large));
	job.allowed = allowed;
	job.n_allowed = 2;
	a = ask(job);
	CHECK(a.n_rows == 4 && a.n_text[0] == sizeof(large));
	CHECK(memcmp(a.text[0], large, sizeof(large)) == 0);
	drop(&a);
}

/* Probabilities: a distribution over the labels, or each by itself. */
static void
test_classify(void)
{
	static const llm_text labels[] = {{"spam", 4}, {"ham", 3}, {"eggs", 4}};
	llm_job job = job_of(LLM_JOB_CLASSIFY);
	double sum = 0;
	answers a;
	answers b;

	job.labels = labels;
	job.n_labels = 3;
	a = ask(job);
	REQUIRE(a.status == LLM_OK && a.n_values[0] == 3);
	for (int k = 0; k < 3; k++)
		sum += a.values[0][k];
	CHECK(fabs(sum - 1) < 1e-6);
	job.flags = LLM_JOB_MULTI;
	b = ask(job);
	for (int k = 0; k < 3; k++)
		CHECK(b.values[0][k] > 0 && b.values[0][k] < 1);
	CHECK(b.values[0][0] != a.values[0][0]);
	drop(&a);
	drop(&b);
}

/* The other kinds. */
static void
test_kinds(void)
{
	llm_job job = job_of(LLM_JOB_EMBED);
	double norm = 0;
	answers a = ask(job);

	REQUIRE(a.n_values[0] == LLM_DUMMY_DIM && a.n_values[1] == LLM_DUMMY_DIM);
	for (int k = 0; k < LLM_DUMMY_DIM; k++)
		norm += (double) a.values[0][k] * a.values[0][k];
	CHECK(fabs(norm - 1) < 1e-5);
	drop(&a);
	job = job_of(LLM_JOB_RELEVANCE);
	job.rows2 = rows;
	job.n_rows2 = 1;
	a = ask(job);
	CHECK(a.n_values[0] == 1 && fabsf(a.values[0][0] - 1) < 1e-5f && a.values[2][0] < 0.999f);
	drop(&a);
	a = ask(job_of(LLM_JOB_JUDGE));
	CHECK(a.n_values[0] == 1 && a.values[0][0] > 0 && a.values[0][0] < 1);
	drop(&a);
	job = job_of(LLM_JOB_LOGLIK);
	job.rows2 = rows;
	job.n_rows2 = 4;
	a = ask(job);
	CHECK(a.n_rows == 4 && a.logprob[0] < 0 && isfinite(a.logprob[1]));
	drop(&a);
	a = ask(job_of(LLM_JOB_COUNT));
	CHECK(a.n_tokens[0] == 2 && a.n_tokens[1] == 0 && a.n_tokens[2] == 1);
	drop(&a);
	a = ask(job_of(LLM_JOB_PREWARM));
	CHECK(a.status == LLM_OK && a.n_rows == 0);
	drop(&a);
}

/* Generates by a schema and parses the first row's answer; the caller frees it. */
static llm_json_doc *
by_schema(const char *schema)
{
	llm_job job = job_of(LLM_JOB_GENERATE);
	llm_json_doc *doc = NULL;
	llm_error err = {0};
	answers a;

	job.schema = (llm_text){schema, strlen(schema)};
	a = ask(job);
	CHECK_MSG(a.status == LLM_OK && a.row_status[0] == LLM_OK, "%s: %s", schema, a.message);
	if (a.text[0] != NULL && llm_json_parse(a.text[0], a.n_text[0], &doc, &err) != LLM_OK)
		CHECK_MSG(false, "%s: %s: %s", schema, a.text[0], err.message);
	drop(&a);
	return doc;
}

/* Keys that must be escaped, values of every type, nested. */
static void
test_schema(void)
{
	static const char schema[] =
	    "{\"type\": \"object\", \"properties\": {"
	    "\"a\\\"b\\\\c\\n\\u0001\": {\"type\": \"integer\"},"
	    "\"list\": {\"type\": \"array\", \"items\": {\"type\": \"boolean\"}, \"minItems\": 3},"
	    "\"inner\": {\"type\": \"object\", \"properties\": {\"deep\": {\"type\": \"null\"}}},"
	    "\"one\": {\"enum\": [\"x\\\"y\", \"x\\\"y\"]},"
	    "\"fixed\": {\"const\": -1.5},"
	    "\"either\": {\"anyOf\": [{\"type\": \"null\"}, {\"type\": \"null\"}]},"
	    "\"short\": {\"type\": \"string\", \"maxLength\": 2},"
	    "\"long\": {\"type\": \"string\", \"minLength\": 40},"
	    "\"two\": {\"type\": [\"number\", \"null\"]}}}";
	llm_json_doc *doc = by_schema(schema);
	const llm_json *root = doc != NULL ? llm_json_root(doc) : NULL;
	const llm_json *list = llm_json_member(root, "list");
	const char *text;
	int64_t number;
	double real;
	size_t n;
	bool b;

	REQUIRE(doc != NULL && llm_json_size(root) == 9);
	CHECK(llm_json_i64(llm_json_member(root, "a\"b\\c\n\x01"), &number));
	CHECK(llm_json_size(list) == 3 && llm_json_bool(llm_json_item(list, 2), &b));
	CHECK(llm_json_get_kind(llm_json_member(llm_json_member(root, "inner"), "deep")) ==
	      LLM_JSON_NULL);
	CHECK(llm_json_is(llm_json_member(root, "one"), "x\"y"));
	CHECK(llm_json_double(llm_json_member(root, "fixed"), &real) && real == -1.5);
	CHECK(llm_json_get_kind(llm_json_member(root, "either")) == LLM_JSON_NULL);
	CHECK(llm_json_string(llm_json_member(root, "short"), &text, &n) && n == 2);
	CHECK(llm_json_string(llm_json_member(root, "long"), &text, &n) && n == 40);
	CHECK(llm_json_double(llm_json_member(root, "two"), &real));
	llm_json_free(doc);
}

/* Schemas whose root is no object. */
static void
test_schema_roots(void)
{
	static const char *const schemas[] = {"{\"type\": \"integer\"}", "{\"enum\": [3]}",
	                                      "{\"type\": \"array\", \"items\": {\"type\": \"null\"}}",
	                                      "{\"type\": \"string\"}", "{\"type\": \"boolean\"}"};
	static const llm_json_kind kinds[] = {LLM_JSON_NUMBER, LLM_JSON_NUMBER, LLM_JSON_ARRAY,
	                                      LLM_JSON_STRING, LLM_JSON_BOOL};

	for (int i = 0; i < 5; i++)
	{
		llm_json_doc *doc = by_schema(schemas[i]);

		CHECK(doc != NULL && llm_json_get_kind(llm_json_root(doc)) == kinds[i]);
		llm_json_free(doc);
	}
}

/* Arrays of arrays whose shortest answer is huge fail their rows, quickly. */
static void
test_schema_explodes(void)
{
	static const char schema[] =
	    "{\"type\": \"array\", \"minItems\": 4000, \"items\": {\"type\": \"array\","
	    " \"minItems\": 4000, \"items\": {\"type\": \"string\"}}}";
	llm_job job = job_of(LLM_JOB_GENERATE);
	answers a;

	job.schema = LLM_TEXT(schema);
	job.schema.n = strlen(schema);
	a = ask(job);
	CHECK(a.status != LLM_OK || (a.n_rows == 4 && a.row_status[0] == LLM_E_LIMIT &&
	                             a.row_status[3] == LLM_E_LIMIT && a.stats.n_errors == 4));
	drop(&a);
}

/* What every model refuses: a status, a message, no rows. */
static void
test_refused(void)
{
	static const llm_text labels[] = {{"spam", 4}};
	llm_job jobs[7];

	for (int i = 0; i < 7; i++)
		jobs[i] = job_of(i < 2 ? LLM_JOB_CLASSIFY : LLM_JOB_GENERATE);
	jobs[1].labels = labels;
	jobs[1].n_labels = 1;
	jobs[2].sample.temperature = NAN;
	jobs[3].sample.top_p = 2;
	jobs[4].schema = LLM_TEXT("{\"type\": \"integer\"}");
	jobs[4].allowed = labels;
	jobs[4].n_allowed = 1;
	jobs[5].kind = LLM_JOB_LOGLIK;
	jobs[6].schema = LLM_TEXT("{\"type\": ");
	for (int i = 0; i < 7; i++)
	{
		answers a = ask(jobs[i]);

		CHECK_MSG(a.status != LLM_OK && a.n_rows == 0, "job %d: status %d", i, a.status);
		drop(&a);
	}
}

/* Rows that are wrong by themselves fail alone. */
static void
test_bad_rows(void)
{
	const size_t n = 100001 * 2;
	char *words = malloc(n);
	llm_text bad[3] = {{"\xff\xfe", 2}, {words, n}, {"good", 4}};
	llm_job job = job_of(LLM_JOB_COUNT);
	answers a;

	REQUIRE(words != NULL);
	for (size_t i = 0; i < n; i++)
		words[i] = i % 2 == 0 ? 'w' : ' ';
	job.rows = bad;
	job.n_rows = 3;
	a = ask(job);
	CHECK(a.status == LLM_OK && a.stats.n_errors == 2);
	CHECK(a.row_status[0] == LLM_E_FORMAT && a.row_status[1] == LLM_E_TOO_LONG);
	CHECK(a.row_status[2] == LLM_OK && a.n_tokens[2] == 1);
	drop(&a);
	free(words);
}

/* Each allocation in turn fails: the job ends once, with a status, or its rows do. */
static void
test_no_memory(void)
{
	llm_job job = job_of(LLM_JOB_GENERATE);
	bool passed = false;

	job.schema = LLM_TEXT("{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"null\"}}}");
	for (uint64_t i = 1; !passed && i < 1000; i++)
	{
		answers a;

		llm_alloc_fail_after(i, false);
		a = ask(job);
		llm_alloc_fail_after(0, false);
		passed = a.status == LLM_OK && a.stats.n_errors == 0;
		CHECK(passed ? i > 1 : a.status == LLM_E_NOMEM || a.stats.n_errors > 0);
		drop(&a);
	}
	CHECK(passed);
}

int
main(void)
{
	RUN(generate);
	RUN(stops);
	RUN(allowed);
	RUN(classify);
	RUN(kinds);
	RUN(schema);
	RUN(schema_roots);
	RUN(schema_explodes);
	RUN(refused);
	RUN(bad_rows);
	RUN(no_memory);
	return test_summary("dummy");
}
