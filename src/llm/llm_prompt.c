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
#include "llm_buffer.h"

const char *const llm_prompt_yes_no[2] = {"Yes", "No"};
const llm_text llm_prompt_content_free = {"N/A", 3};

/* Appends a text, or the literal when the text is absent or empty. */
static void
put_or(llm_buffer *b, const llm_text *text, const char *otherwise)
{
	if (text != NULL && text->bytes != NULL && text->n > 0)
		llm_buffer_put(b, text->bytes, text->n);
	else
		llm_buffer_put_str(b, otherwise);
}

/* Appends the list of labels with their descriptions. */
static void
put_labels(llm_buffer *b, const llm_job *job)
{
	llm_buffer_put_str(b, "\n\nCategories:\n");
	for (uint32_t i = 0; i < job->n_labels; i++)
	{
		llm_buffer_put_str(b, "- ");
		llm_buffer_put(b, job->labels[i].bytes, job->labels[i].n);
		if (job->descriptions != NULL && job->descriptions[i].n > 0)
		{
			llm_buffer_put_str(b, ": ");
			llm_buffer_put(b, job->descriptions[i].bytes, job->descriptions[i].n);
		}
		llm_buffer_put_str(b, "\n");
	}
}

/* Writes the classify templates: one choice of a list, or a question about one label. */
static void
build_classify(const llm_job *job, const llm_text *label, llm_buffer *prefix, llm_buffer *suffix)
{
	if (job->flags & LLM_JOB_MULTI)
	{
		put_or(prefix, &job->instruction, "Read the text and answer the question about it.");
		llm_buffer_put_str(prefix, "\n\nText: ");
		llm_buffer_put_str(suffix, "\n\nDoes the label \"");
		if (label != NULL)
			llm_buffer_put(suffix, label->bytes, label->n);
		llm_buffer_put_str(suffix, "\" apply to the text? Answer Yes or No.");
		return;
	}
	put_or(prefix, &job->instruction, "Choose the category that fits the text best.");
	put_labels(prefix, job);
	llm_buffer_put_str(prefix, "\nText: ");
	llm_buffer_put_str(suffix, "\n\nCategory:");
}

/* Writes the template of a kind of job. */
static void
build_kind(const llm_job *job, const llm_text *label, const llm_text *query, llm_buffer *prefix,
           llm_buffer *suffix)
{
	switch (job->kind)
	{
		case LLM_JOB_CLASSIFY:
			build_classify(job, label, prefix, suffix);
			break;
		case LLM_JOB_JUDGE:
			llm_buffer_put_str(
			    prefix, "Does the text meet this condition? Answer Yes or No.\n\nCondition: ");
			put_or(prefix, &job->instruction, "");
			llm_buffer_put_str(prefix, "\n\nText: ");
			llm_buffer_put_str(suffix, "\n\nAnswer:");
			break;
		case LLM_JOB_RELEVANCE:
			llm_buffer_put_str(prefix,
			                   "Does the document answer the query? Answer Yes or No.\n\nQuery: ");
			put_or(prefix, query, "");
			llm_buffer_put_str(prefix, "\n\nDocument: ");
			llm_buffer_put_str(suffix, "\n\nAnswer:");
			break;
		default:
			put_or(prefix, &job->instruction, "");
			if (job->rows != NULL && job->instruction.n > 0 && !(job->flags & LLM_JOB_RAW))
				llm_buffer_put_str(prefix, "\n\n");
			break;
	}
}

/* Builds both sides; the buffers' memory passes to *out. */
llm_status
llm_prompt_build(const llm_job *job, const llm_text *label, const llm_text *query, llm_prompt *out,
                 llm_error *err)
{
	llm_buffer prefix = {0};
	llm_buffer suffix = {0};

	build_kind(job, label, query, &prefix, &suffix);
	if (prefix.failed || suffix.failed)
	{
		llm_buffer_free(&prefix);
		llm_buffer_free(&suffix);
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
