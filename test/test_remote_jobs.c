/*
 * test_remote_jobs.c: what endpoints are asked for each kind of job, and what is made of the reply.
 */
#include "llm_alloc.h"
#include "remote_fixture.h"

/* ---- labels -------------------------------------------------------------------------------- */

#define LOGPROBS(content, list) \
	"{\"choices\":[{\"message\":{\"content\":\"" content "\"},\"logprobs\":{\"content\":[" \
	"{\"token\":\"\\n\",\"top_logprobs\":[{\"token\":\"No\",\"logprob\":-0.1}]}," list "]}}]}"

/* Runs a classification; false: its row failed. */
static bool
classify_at(const llm_endpoint *endpoint, uint32_t n, const llm_text *labels, uint32_t flags,
            outcome *o)
{
	llm_text row = LLM_TEXT("The app crashes.");
	llm_job job = {.kind = LLM_JOB_CLASSIFY,
	               .flags = flags,
	               .n_rows = 1,
	               .rows = &row,
	               .labels = labels,
	               .n_labels = n};
	llm_error err;

	CHECK(run(endpoint, &job, o, &err) == LLM_OK);
	return o->row_status[0] == LLM_OK;
}

static void
test_classify(void)
{
	static http_fixture f;
	static outcome o;
	llm_text labels[3] = {LLM_TEXT("bug"), LLM_TEXT("feature request"), LLM_TEXT("feature praise")};
	llm_endpoint endpoint;

	REQUIRE(http_start(&f, answer_body));
	endpoint = endpoint_at(&f);
	/* ln 0.5, ln 0.3, ln 0.1: the last shared by both features, the second not, by the text. */
	reply_body = LOGPROBS("feature praise", "{\"token\":\" feature\",\"top_logprobs\":["
	                                        "{\"token\":\" feature\",\"logprob\":-0.693147},"
	                                        "{\"token\":\"Bug\",\"logprob\":-1.203973},"
	                                        "{\"token\":\"xyz\",\"logprob\":-3.0},"
	                                        "{\"token\":\"fe\",\"logprob\":-2.302585}]}");
	REQUIRE(classify_at(&endpoint, 3, labels, 0, &o));
	CHECK(o.n_values[0] == 3);
	CHECK(fabs(o.values[0][0] - 0.3 / 0.9) < 1e-5);
	CHECK(fabs(o.values[0][1] - 0.05 / 0.9) < 1e-5);
	CHECK(fabs(o.values[0][2] - 0.55 / 0.9) < 1e-5);
	CHECK(strstr(f.body, "\"logprobs\":true,\"top_logprobs\":20") != NULL);
	/* What is as good as impossible is no answer. */
	reply_body = LOGPROBS("xyz", "{\"token\":\"xyz\",\"top_logprobs\":["
	                             "{\"token\":\"bug\",\"logprob\":-263}]}");
	CHECK(!classify_at(&endpoint, 3, labels, 0, &o) && o.row_status[0] == LLM_E_PROTOCOL);
	/* Without logprobs the text decides: exactly, with something behind it, cut off. */
	reply_body = "{\"choices\":[{\"message\":{\"content\":\" Feature request.\"}}]}";
	CHECK(classify_at(&endpoint, 3, labels, 0, &o) && o.values[0][1] == 1);
	reply_body = "{\"choices\":[{\"message\":{\"content\":\"feature p\"}}]}";
	CHECK(classify_at(&endpoint, 3, labels, 0, &o) && o.values[0][2] == 1);
	reply_body = "{\"choices\":[{\"message\":{\"content\":\"feature\"}}]}";
	CHECK(!classify_at(&endpoint, 3, labels, 0, &o) && o.row_status[0] == LLM_E_PROTOCOL);
	CHECK(strcmp(o.message[0], "endpoint \"far\" answered none of the labels") == 0);
	http_stop(&f);
}

/* Knows neither logprobs nor response_format. */
static void
answer_plain_only(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) nth;
	if (strstr(body, "logprobs") != NULL || strstr(body, "response_format") != NULL)
		http_reply(fd, 400, "", "{\"error\":{\"type\":\"invalid_request_error\"}}");
	else
		http_reply(fd, 200, "", reply_body);
}

/* A server without logprobs is asked plainly, and not bothered again. */
static void
test_plain(void)
{
	static http_fixture f;
	static outcome o;
	llm_text labels[2] = {LLM_TEXT("bug"), LLM_TEXT("question")};
	llm_text row = LLM_TEXT("x");
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .n_rows = 1,
	               .rows = &row,
	               .schema = LLM_TEXT("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":"
	                                  "\"integer\"}},\"required\":[\"a\"]}")};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_plain_only));
	endpoint = endpoint_at(&f);
	reply_body = "{\"choices\":[{\"message\":{\"content\":\"question\"}}]}";
	CHECK(classify_at(&endpoint, 2, labels, 0, &o) && o.values[0][1] == 1);
	CHECK(atomic_load(&f.n_requests) == 2);
	CHECK(classify_at(&endpoint, 2, labels, 0, &o) && o.values[0][1] == 1);
	CHECK(atomic_load(&f.n_requests) == 3);
	reply_body = "{\"choices\":[{\"message\":{\"content\":\"```json\\n{\\\"a\\\": 3}\\n```\"}}]}";
	REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
	CHECK(o.row_status[0] == LLM_OK && strcmp(o.text[0], "{\"a\": 3}\n") == 0);
	CHECK(strstr(f.body, "fits this JSON schema: {\\u0022type\\u0022") != NULL);
	CHECK(atomic_load(&f.n_requests) == 6);
	http_stop(&f);
}

/* Yes to what is urgent, with probabilities; no to all else, without. */
static void
answer_multi(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	(void) f, (void) path, (void) nth;
	if (strstr(body, "label \\u0022urgent") != NULL)
		http_reply(fd, 200, "",
		           LOGPROBS("Yes", "{\"token\":\"Yes\",\"top_logprobs\":["
		                           "{\"token\":\"Yes\",\"logprob\":-0.223144},"
		                           "{\"token\":\"No\",\"logprob\":-1.609438}]}"));
	else
		http_reply(fd, 200, "", "{\"choices\":[{\"message\":{\"content\":\"No.\"}}]}");
}

static void
test_judge(void)
{
	static http_fixture f;
	static outcome o;
	llm_text labels[2] = {LLM_TEXT("urgent"), LLM_TEXT("spam")};
	llm_text rows[2] = {LLM_TEXT("a"), LLM_TEXT("b")};
	llm_text queries[2] = {LLM_TEXT("q"), LLM_TEXT("label \"urgent")};
	llm_job judge = {.kind = LLM_JOB_JUDGE,
	                 .instruction = LLM_TEXT("label \"urgent"),
	                 .n_rows = 2,
	                 .rows = rows};
	llm_job relevance = {
	    .kind = LLM_JOB_RELEVANCE, .n_rows = 2, .rows = rows, .n_rows2 = 2, .rows2 = queries};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_multi));
	endpoint = endpoint_at(&f);
	REQUIRE(run(&endpoint, &judge, &o, &err) == LLM_OK);
	CHECK(o.n_values[1] == 1 && fabs(o.values[0][0] - 0.8) < 1e-5);
	REQUIRE(run(&endpoint, &relevance, &o, &err) == LLM_OK);
	CHECK(o.values[0][0] == 0 && fabs(o.values[1][0] - 0.8) < 1e-5);
	REQUIRE(classify_at(&endpoint, 2, labels, LLM_JOB_MULTI, &o));
	CHECK(o.n_values[0] == 2 && fabs(o.values[0][0] - 0.8) < 1e-5 && o.values[0][1] == 0);
	http_stop(&f);
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static void
test_schema(void)
{
	static const struct
	{
		const char *answer;
		bool good;
	} cases[] = {{"{\\\"a\\\":1,\\\"b\\\":[\\\"x\\\"]}", true},
	             {"{\\\"a\\\":null}", true},
	             {" {\\\"a\\\":1}\\n", true},
	             {"{\\\"a\\\":1.5}", false},
	             {"{\\\"a\\\":1,\\\"c\\\":2}", false},
	             {"{\\\"b\\\":[]}", false},
	             {"{\\\"a\\\":1,\\\"b\\\":[\\\"z\\\"]}", false},
	             {"{\\\"a\\\":1,\\\"b\\\":[\\\"x\\\",\\\"y\\\",\\\"x\\\"]}", false},
	             {"{\\\"a\\\":", false},
	             {"7", false}};
	static http_fixture f;
	static outcome o;
	char reply[512];
	llm_text row = LLM_TEXT("x");
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .n_rows = 1,
	               .rows = &row,
	               .schema = LLM_TEXT(
	                   "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"integer\","
	                   "\"null\"]},\"b\":{\"type\":\"array\",\"maxItems\":2,\"items\":{\"enum\":"
	                   "[\"x\",\"y\"]}}},\"required\":[\"a\"]}")};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_body));
	endpoint = endpoint_at(&f);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		snprintf(reply, sizeof(reply), "{\"choices\":[{\"message\":{\"content\":\"%s\"}}]}",
		         cases[i].answer);
		reply_body = reply;
		REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
		CHECK_MSG(o.row_status[0] == (cases[i].good ? LLM_OK : LLM_E_PROTOCOL), "%s",
		          cases[i].answer);
		CHECK(i > 0 || strstr(f.body, "\"type\":\"json_schema\"") != NULL);
	}
	CHECK(atomic_load(&f.n_requests) == 3 + 7 * 3); /* bad ones are asked for in three ways */
	http_stop(&f);
	job.schema = LLM_TEXT("{");
	CHECK(run(&endpoint, &job, &o, &err) == LLM_E_FORMAT);
}

/* ---- vectors ------------------------------------------------------------------------------- */

/* Vectors by the texts' first letters, last text first; a text with "bad" in it is refused. */
static void
answer_vectors(http_fixture *f, int fd, const char *path, const char *body, int nth)
{
	const char *input = strstr(body, "\"input\":[") + 9;
	char reply[8192] = "{\"data\":[";
	char items[ROWS_MAX][96];
	int n = 0;

	(void) f, (void) nth;
	if (strcmp(path, "/v1/embeddings") != 0 || strstr(body, "bad") != NULL)
	{
		http_reply(fd, 400, "", "{}");
		return;
	}
	for (const char *at = input; *at == '"' || *at == ',';)
	{
		at += *at == ',' ? 2 : 1;
		snprintf(items[n], sizeof(items[0]), "{\"index\":%d,\"embedding\":[%d,%d.5,1]}", n,
		         *at - 'a', 'f' - *at);
		n++;
		at = strchr(at, '"') + 1;
	}
	for (int i = n - 1; i >= 0; i--)
	{
		strncat(reply, items[i], sizeof(reply) - strlen(reply) - 1);
		strncat(reply, i > 0 ? "," : "", sizeof(reply) - strlen(reply) - 1);
	}
	strncat(reply, "],\"usage\":{\"prompt_tokens\":10}}", sizeof(reply) - strlen(reply) - 1);
	http_reply(fd, 200, "", reply);
}

static void
test_embed(void)
{
	static http_fixture f;
	static outcome o;
	llm_text rows[5] = {LLM_TEXT("a"), LLM_TEXT("b"), LLM_TEXT("bad"), LLM_TEXT("d"),
	                    LLM_TEXT("e")};
	llm_job job = {.kind = LLM_JOB_EMBED, .n_rows = 5, .rows = rows};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_vectors));
	endpoint = endpoint_at(&f);
	endpoint.embeds = true;
	REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
	CHECK(atomic_load(&f.n_requests) == 6); /* all, refused; then each */
	for (int i = 0; i < 5; i++)
		if (i == 2)
			CHECK(o.row_status[i] == LLM_E_REMOTE);
		else
			CHECK(o.row_status[i] == LLM_OK && o.n_values[i] == 3 && o.values[i][0] == (float) i);
	job.n_rows = 2;
	REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
	CHECK(atomic_load(&f.n_requests) == 7 && o.values[1][0] == 1 && o.values[0][1] == 5.5f);
	CHECK(o.stats.n_prompt_tokens == 10);
	http_stop(&f);
}

static void
test_bad_vectors(void)
{
	static const char *const bad[] = {
	    "{\"data\":[]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":0,\"embedding\":[1]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":2,\"embedding\":[1]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1]},{\"index\":1,\"embedding\":[1,2]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[]},{\"index\":1,\"embedding\":[]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":[1e99]},{\"index\":1,\"embedding\":[1]}]}",
	    "{\"data\":[{\"index\":0,\"embedding\":\"AAAA\"},{\"index\":1,\"embedding\":[1]}]}"};
	static http_fixture f;
	static outcome o;
	llm_text rows[2] = {LLM_TEXT("a"), LLM_TEXT("b")};
	llm_job job = {.kind = LLM_JOB_EMBED, .n_rows = 2, .rows = rows};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_body));
	endpoint = endpoint_at(&f);
	endpoint.embeds = true;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		reply_body = bad[i];
		REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
		CHECK_MSG(o.row_status[1] == LLM_E_PROTOCOL || o.row_status[0] == LLM_E_PROTOCOL, "%s",
		          bad[i]);
		CHECK(o.n_rows == 2);
	}
	http_stop(&f);
}

static void
test_cosine(void)
{
	static http_fixture f;
	static outcome o;
	llm_text rows[3] = {LLM_TEXT("a"), LLM_TEXT("bad"), LLM_TEXT("c")};
	llm_text queries[3] = {LLM_TEXT("a"), LLM_TEXT("b"), LLM_TEXT("a")};
	double cosine = (0 * 2 + 5.5 * 3.5 + 1) / sqrt((5.5 * 5.5 + 1) * (4 + 3.5 * 3.5 + 1));
	llm_job job = {.kind = LLM_JOB_RELEVANCE, .n_rows = 3, .rows = rows, .rows2 = queries};
	llm_endpoint endpoint;
	llm_error err;

	REQUIRE(http_start(&f, answer_vectors));
	endpoint = endpoint_at(&f);
	endpoint.embeds = true;
	for (uint32_t n = 1; n <= 3; n += 2)
	{
		job.n_rows2 = n;
		REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
		CHECK(o.n_rows == 3);
		CHECK(fabs(o.values[0][0] - 1) < 1e-6);
		CHECK(o.row_status[1] == LLM_E_REMOTE);
		CHECK(fabs(o.values[2][0] - cosine) < 1e-6);
	}
	queries[0] = LLM_TEXT("bad");
	job.n_rows2 = 1;
	REQUIRE(run(&endpoint, &job, &o, &err) == LLM_OK);
	CHECK(o.n_rows == 3 && o.stats.n_errors == 3);
	http_stop(&f);
}

/* Whatever allocation fails, the job ends, with or without its rows. */
static void
test_no_memory(void)
{
	static http_fixture f;
	static outcome o;
	llm_text rows[2] = {LLM_TEXT("a"), LLM_TEXT("c")};
	llm_job job = {
	    .kind = LLM_JOB_RELEVANCE, .n_rows = 2, .rows = rows, .n_rows2 = 1, .rows2 = rows};
	llm_endpoint endpoint;
	llm_error err;
	int n_good = 0;

	REQUIRE(http_start(&f, answer_vectors));
	endpoint = endpoint_at(&f);
	endpoint.embeds = true;
	for (uint64_t n = 1; n < 60; n++)
	{
		llm_alloc_fail_after(n, false);
		if (run(&endpoint, &job, &o, &err) == LLM_OK)
			n_good += o.status == LLM_OK && o.stats.n_errors == 0;
		llm_alloc_fail_after(0, false);
	}
	CHECK(n_good > 0 && n_good < 59);
	http_stop(&f);
}

int
main(void)
{
	llm_error err;

	if (llm_remote_create(&remote, &err) != LLM_OK)
		return 1;
	RUN(classify);
	RUN(plain);
	RUN(judge);
	RUN(schema);
	RUN(embed);
	RUN(bad_vectors);
	RUN(cosine);
	RUN(no_memory);
	llm_remote_destroy(remote);
	return test_summary("remote_jobs");
}
