/*
 * llm_prompt.c: the task templates. See llm_prompt.h.
 *
 * A template is a list of pieces: literal strings and places. Each kind of job has one row in the
 * table below; changing a word here changes answers, so the wording is part of the model-facing
 * contract and is covered by test_prompt.c.
 */
#include "llm_prompt.h"

#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

const char *const llm_prompt_yes_no[2] = {"Yes", "No"};
const llm_text llm_prompt_content_free = {"N/A", 3};

/* A growing byte string. failed sticks, so that callers check once at the end. */
typedef struct text_buffer
{
	char *bytes;
	size_t n;
	size_t capacity;
	bool failed;
} text_buffer;

/* Appends n bytes. */
static void
put(text_buffer *b, const char *bytes, size_t n)
{
	uint64_t need;
	char *grown;

	if (b->failed || n == 0)
		return;
	if (!pp_add_ok(b->n, n, &need) || need > SIZE_MAX / 2)
	{
		b->failed = true;
		return;
	}
	if (need > b->capacity)
	{
		size_t capacity = (size_t) need * 2;

		if ((grown = llm_realloc_array(b->bytes, capacity, 1)) == NULL)
		{
			b->failed = true;
			return;
		}
		b->bytes = grown;
		b->capacity = capacity;
	}
	memcpy(b->bytes + b->n, bytes, n);
	b->n = (size_t) need;
}

/* Appends a literal. */
static void
put_str(text_buffer *b, const char *s)
{
	put(b, s, strlen(s));
}

/* Appends a text, or the literal when the text is absent or empty. */
static void
put_or(text_buffer *b, const llm_text *text, const char *otherwise)
{
	if (text != NULL && text->bytes != NULL && text->n > 0)
		put(b, text->bytes, text->n);
	else
		put_str(b, otherwise);
}

/* Appends the list of labels with their descriptions. */
static void
put_labels(text_buffer *b, const llm_job *job)
{
	put_str(b, "\n\nCategories:\n");
	for (uint32_t i = 0; i < job->n_labels; i++)
	{
		put_str(b, "- ");
		put(b, job->labels[i].bytes, job->labels[i].n);
		if (job->descriptions != NULL && job->descriptions[i].n > 0)
		{
			put_str(b, ": ");
			put(b, job->descriptions[i].bytes, job->descriptions[i].n);
		}
		put_str(b, "\n");
	}
}

/* Writes the classify templates: one choice of a list, or a question about one label. */
static void
build_classify(const llm_job *job, const llm_text *label, text_buffer *prefix, text_buffer *suffix)
{
	if (job->flags & LLM_JOB_MULTI)
	{
		put_or(prefix, &job->instruction, "Read the text and answer the question about it.");
		put_str(prefix, "\n\nText: ");
		put_str(suffix, "\n\nDoes the label \"");
		if (label != NULL)
			put(suffix, label->bytes, label->n);
		put_str(suffix, "\" apply to the text? Answer Yes or No.");
		return;
	}
	put_or(prefix, &job->instruction, "Choose the category that fits the text best.");
	put_labels(prefix, job);
	put_str(prefix, "\nText: ");
	put_str(suffix, "\n\nCategory:");
}

/* Writes the template of a kind of job. */
static void
build_kind(const llm_job *job, const llm_text *label, const llm_text *query, text_buffer *prefix,
           text_buffer *suffix)
{
	switch (job->kind)
	{
		case LLM_JOB_CLASSIFY:
			build_classify(job, label, prefix, suffix);
			break;
		case LLM_JOB_JUDGE:
			put_str(prefix, "Does the text meet this condition? Answer Yes or No.\n\nCondition: ");
			put_or(prefix, &job->instruction, "");
			put_str(prefix, "\n\nText: ");
			put_str(suffix, "\n\nAnswer:");
			break;
		case LLM_JOB_RELEVANCE:
			put_str(prefix, "Does the document answer the query? Answer Yes or No.\n\nQuery: ");
			put_or(prefix, query, "");
			put_str(prefix, "\n\nDocument: ");
			put_str(suffix, "\n\nAnswer:");
			break;
		default:
			put_or(prefix, &job->instruction, "");
			if (job->rows != NULL && job->instruction.n > 0 && !(job->flags & LLM_JOB_RAW))
				put_str(prefix, "\n\n");
			break;
	}
}

/* Builds both sides; the buffers' memory passes to *out. */
llm_status
llm_prompt_build(const llm_job *job, const llm_text *label, const llm_text *query, llm_prompt *out,
                 llm_error *err)
{
	text_buffer prefix = {0};
	text_buffer suffix = {0};

	build_kind(job, label, query, &prefix, &suffix);
	if (prefix.failed || suffix.failed)
	{
		llm_free(prefix.bytes);
		llm_free(suffix.bytes);
		return llm_fail(err, LLM_E_NOMEM, "out of memory while building a prompt");
	}
	out->prefix = prefix.bytes;
	out->bytes_prefix = prefix.n;
	out->suffix = suffix.bytes;
	out->bytes_suffix = suffix.n;
	return LLM_OK;
}

/* Frees both sides. */
void
llm_prompt_free(llm_prompt *p)
{
	llm_free(p->prefix);
	llm_free(p->suffix);
	*p = (llm_prompt){0};
}
