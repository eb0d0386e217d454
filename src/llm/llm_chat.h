/*
 * llm_chat.h: chat templates as data.
 *
 * A family's template is a row of fixed strings around {system} and {user}: no Jinja is
 * interpreted. The family is recognised from the template text that the model file carries; a model
 * with an unknown template answers in plain form (system, blank line, user, blank line), and
 * inspect says so. Only the template's own strings may give special tokens; user text never does.
 *
 *	llm_chat_frame frame;
 *
 *	llm_chat_frame_build(family, t, system, n_system, prefix, n_prefix, suffix, n_suffix, &frame,
 *	                     &err);
 *	for each input: frame.head.ids ‖ llm_chat_frame_input(&frame, input, n, &tokens, &err)
 *	                ‖ frame.tail.ids
 *	llm_chat_frame_free(&frame);
 */
#ifndef LLM_CHAT_H
#define LLM_CHAT_H

#include <stddef.h>

#include "llm_tokenizer.h"

/* What the template strips white space from, as Jinja's trim does. */
typedef enum llm_chat_trim
{
	LLM_CHAT_TRIM_NONE,
	LLM_CHAT_TRIM_USER, /* the system text and the user text, each by itself */
	LLM_CHAT_TRIM_TURN  /* the user turn with the system text that stands in it */
} llm_chat_trim;

typedef struct llm_chat_family
{
	const char *name;    /* "chatml", "llama3", "llama2", "gemma", "mistral", "phi3", "plain" */
	const char *variant; /* of the name: "smollm2", "qwen2.5"; "" */
	const char *bos;     /* a special token at the very start, left out when the model has none;
	                        NULL: the model's own begin token */
	const char *system_open;
	const char *system_close;
	const char *default_system; /* what the model's own template inserts when none is given; NULL:
	                               nothing */
	bool system_in_user;        /* the system text stands behind user_open */
	llm_chat_trim trim;
	const char *user_open;
	const char *user_close;
	const char *assistant_open;
	const char *assistant_close;
} llm_chat_family;

/* Recognises the family from template text (may be NULL) and vocabulary. Never NULL. */
const llm_chat_family *llm_chat_detect(const char *template_text, size_t bytes,
                                       const llm_tokenizer *t);

/*
 * A prompt up to the point where the assistant speaks, around an input that is not known yet. The
 * user turn is prefix, input, suffix. head and tail hold for every input: the three are tokenised
 * apart. Immutable once built; t must outlive it.
 */
typedef struct llm_chat_frame
{
	llm_tokens head;
	llm_tokens tail;
	const llm_tokenizer *t;
	int flags;       /* LLM_TOK_…: what stands before the input */
	bool space;      /* it ends in a space, which goes to the input's first token */
	bool trim_left;  /* the input begins the text that the template trims */
	bool trim_right; /* or ends it */
} llm_chat_frame;

/* family NULL: no template; the prompt is the model's begin token, prefix, input, suffix. */
llm_status llm_chat_frame_build(const llm_chat_family *family, const llm_tokenizer *t,
                                const char *system, size_t system_bytes, const char *prefix,
                                size_t prefix_bytes, const char *suffix, size_t suffix_bytes,
                                llm_chat_frame *out, llm_error *err);
void llm_chat_frame_free(llm_chat_frame *frame);
/* Appends the tokens of an input as they stand in the frame. */
llm_status llm_chat_frame_input(const llm_chat_frame *frame, const char *input, size_t input_bytes,
                                llm_tokens *out, llm_error *err);

/*
 * Appends head, input and tail. *n_shared, when not NULL, gets the number of leading tokens that
 * do not depend on input: those of the head.
 */
llm_status llm_chat_prompt(const llm_chat_family *family, const llm_tokenizer *t,
                           const char *system, size_t system_bytes, const char *prefix,
                           size_t prefix_bytes, const char *input, size_t input_bytes,
                           const char *suffix, size_t suffix_bytes, llm_tokens *out,
                           size_t *n_shared, llm_error *err);

#endif /* LLM_CHAT_H */
