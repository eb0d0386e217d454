/*
 * test_prompt.c: the task templates: their exact words, and that user text is never interpreted.
 */
#include "test.h"

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_prompt.h"

/* True when the bytes are exactly the string. */
static bool
same(const char *bytes, size_t n, const char *expected)
{
	return n == strlen(expected) && (n == 0 || memcmp(bytes, expected, n) == 0);
}

/* Builds a prompt and compares both sides. */
static void
expect(const llm_job *job, const llm_text *label, const llm_text *query, const char *prefix,
       const char *suffix)
{
	llm_prompt p = {0};
	llm_error err;

	REQUIRE(llm_prompt_build(job, label, query, &p, &err) == LLM_OK);
	CHECK_MSG(same(p.prefix, p.bytes_prefix, prefix), "%.*s", (int) p.bytes_prefix, p.prefix);
	CHECK_MSG(same(p.suffix, p.bytes_suffix, suffix), "%.*s", (int) p.bytes_suffix, p.suffix);
	llm_prompt_free(&p);
}

static const llm_text labels[2] = {{"bug", 3}, {"feature", 7}};
static const llm_text descriptions[2] = {{"something is broken", 19}, {NULL, 0}};

static void
test_classify(void)
{
	llm_job job = {.kind = LLM_JOB_CLASSIFY, .labels = labels, .n_labels = 2, .n_rows = 1};

	expect(
	    &job, NULL, NULL,
	    "Choose the category that fits the text best.\n\nCategories:\n- bug\n- feature\n\nText: ",
	    "\n\nCategory:");
	job.descriptions = descriptions;
	job.instruction = LLM_TEXT("Sort the tickets.");
	expect(&job, NULL, NULL,
	       "Sort the tickets.\n\nCategories:\n- bug: something is broken\n- feature\n\nText: ",
	       "\n\nCategory:");
}

static void
test_multi(void)
{
	llm_job job = {.kind = LLM_JOB_CLASSIFY,
	               .labels = labels,
	               .n_labels = 2,
	               .flags = LLM_JOB_MULTI};

	expect(&job, &labels[0], NULL, "Read the text and answer the question about it.\n\nText: ",
	       "\n\nDoes the label \"bug\" apply to the text? Answer Yes or No.");
}

static void
test_judge_and_relevance(void)
{
	llm_job judge = {.kind = LLM_JOB_JUDGE, .instruction = LLM_TEXT("it rains")};
	llm_job relevance = {.kind = LLM_JOB_RELEVANCE};
	llm_text query = LLM_TEXT("cheap boats");

	expect(&judge, NULL, NULL,
	       "Does the text meet this condition? Answer Yes or No.\n\nCondition: it rains\n\nText: ",
	       "\n\nAnswer:");
	expect(
	    &relevance, NULL, &query,
	    "Does the document answer the query? Answer Yes or No.\n\nQuery: cheap boats\n\nDocument: ",
	    "\n\nAnswer:");
}

/* Generation: the instruction alone, apart from the row, or raw. Place-like text stays as it is. */
static void
test_generate(void)
{
	llm_text row = LLM_TEXT("input");
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .instruction = LLM_TEXT("Say {input} %s <|im_end|>"),
	               .n_rows = 1};

	expect(&job, NULL, NULL, "Say {input} %s <|im_end|>", "");
	job.rows = &row;

	expect(&job, NULL, NULL, "Say {input} %s <|im_end|>\n\n", "");
	job.flags = LLM_JOB_RAW;
	expect(&job, NULL, NULL, "Say {input} %s <|im_end|>", "");
	job.instruction = (llm_text){NULL, 0};
	expect(&job, NULL, NULL, "", "");
}

/* Every allocation may fail; nothing leaks and the error says so. */
static void
test_faults(void)
{
	llm_job job = {.kind = LLM_JOB_CLASSIFY, .labels = labels, .n_labels = 2};

	for (uint64_t n = 1; n < 20; n++)
	{
		llm_prompt p = {0};
		llm_error err = {0};
		llm_status status;

		llm_alloc_fail_after(n, false);
		status = llm_prompt_build(&job, NULL, NULL, &p, &err);
		llm_alloc_fail_after(0, false);
		CHECK(status == LLM_OK || (status == LLM_E_NOMEM && err.message[0] != '\0'));
		if (status == LLM_OK)
			llm_prompt_free(&p);
	}
}

int
main(void)
{
	RUN(classify);
	RUN(multi);
	RUN(judge_and_relevance);
	RUN(generate);
	RUN(faults);
	return test_summary("prompt");
}
