/*
 * llm_chat.h: chat templates as data.
 *
 * A family's template is a row of fixed strings around {system} and {user}: no Jinja is
 * interpreted. The family is recognised from the template text that the model file carries; a model
 * with an unknown template answers in plain form (system, blank line, user, blank line), and
 * inspect says so. Only the template's own strings may give special tokens; user text never does.
 */
#ifndef LLM_CHAT_H
#define LLM_CHAT_H

#include <stddef.h>

#include "llm_tokenizer.h"

typedef struct llm_chat_family
{
	const char *name;        /* "chatml", "llama3", "llama2", "gemma", "mistral", "phi3", "plain" */
	const char *bos;         /* at the very start, as text with special tokens; may be "" */
	const char *system_open; /* NULL: the family has no system turn; the system text goes before the
	                            user text */
	const char *system_close;
	const char *default_system; /* what the model's own template inserts when none is given; NULL:
	                               nothing */
	const char *user_open;
	const char *user_close;
	const char *assistant_open;
	const char *assistant_close;
} llm_chat_family;

/* Recognises the family from template text (may be NULL) and vocabulary. Never NULL. */
const llm_chat_family *llm_chat_detect(const char *template_text, size_t bytes,
                                       const llm_tokenizer *t);

/*
 * Appends the tokens of a prompt up to the point where the assistant speaks. The user turn is
 * prefix then input then suffix. *n_shared, when not NULL, gets the number of leading tokens that
 * do not depend on input: all tokens before the first one that input's text took part in. So that
 * this holds for every input, the text before input and input itself are tokenised apart.
 */
llm_status llm_chat_prompt(const llm_chat_family *family, const llm_tokenizer *t,
                           const char *system, size_t system_bytes, const char *prefix,
                           size_t prefix_bytes, const char *input, size_t input_bytes,
                           const char *suffix, size_t suffix_bytes, llm_tokens *out,
                           size_t *n_shared, llm_error *err);

#endif /* LLM_CHAT_H */
