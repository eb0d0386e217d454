/*
 * llm_prompt.h: what the engine says to a model for each kind of job, as data with fixed places.
 *
 * A prompt is prefix ‖ row ‖ suffix inside the chat family's user turn. The prefix holds everything
 * that does not depend on the row (instruction, labels), so that it is prefilled once for a job;
 * the suffix is kept short, since it is computed for every row. User text is never scanned for
 * places or special tokens.
 */
#ifndef LLM_PROMPT_H
#define LLM_PROMPT_H

#include "llm.h"

typedef struct llm_prompt
{
	char *prefix; /* owned */
	size_t bytes_prefix;
	char *suffix; /* owned */
	size_t bytes_suffix;
} llm_prompt;

/*
 * Fills *out for a job (GENERATE, CLASSIFY, JUDGE, RELEVANCE, PREWARM). For LLM_JOB_MULTI, label
 * names the one label that the suffix asks about; for RELEVANCE, query is the query text. Free with
 * llm_prompt_free.
 */
llm_status llm_prompt_build(const llm_job *job, const llm_text *label, const llm_text *query,
                            llm_prompt *out, llm_error *err);
void llm_prompt_free(llm_prompt *p);

/* The two answers of yes/no questions, as labels: [0] = yes, [1] = no. */
extern const char *const llm_prompt_yes_no[2];

/* The text that stands for "no content" when label priors are measured (Zhao et al., arXiv
 * 2102.09690, §4). */
extern const llm_text llm_prompt_content_free;

#endif /* LLM_PROMPT_H */
