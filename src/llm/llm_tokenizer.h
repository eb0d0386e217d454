/*
 * llm_tokenizer.h: text to token ids and back, with the ids of the reference library (Hugging Face
 * tokenizers).
 *
 * Four models (byte-level BPE, SentencePiece BPE with byte fallback, Unigram, WordPiece), read from
 * tokenizer.json or from GGUF metadata. Linear time in the text (n log n within one word), no
 * recursion, no regular expressions: the split patterns of the supported families are hand-written
 * scanners, and an unknown pattern is refused by name at load. Special tokens in user text are
 * plain text: only the template side of a prompt may produce them (LLM_TOK_SPECIAL).
 *
 * A tokenizer is immutable after load and may be used by any number of threads.
 */
#ifndef LLM_TOKENIZER_H
#define LLM_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm_status.h"
#include "llm_weights.h"

typedef struct llm_tokenizer llm_tokenizer;

/* Token ids, growing. Free with llm_tokens_free; {0} is an empty one. */
typedef struct llm_tokens
{
	int32_t *ids;
	size_t n;
	size_t capacity;
} llm_tokens;

llm_status llm_tokens_push(llm_tokens *t, int32_t id, llm_error *err);
void llm_tokens_free(llm_tokens *t);

#define LLM_TOK_SPECIAL     1 /* special tokens in the text are recognised (template text only) */
#define LLM_TOK_ADD_BOS_EOS 2 /* add what the model's post-processor adds ([CLS] … [SEP], <s>) */
#define LLM_TOK_AFTER_TOKEN 4 /* the text stands behind a special token: it does not begin a text */
#define LLM_TOK_AFTER_TEXT  8 /* it goes on from a text tokenised apart: nothing is put in front */

/* From w's tokenizer.json or metadata; w must stay open as long as the tokenizer lives. */
llm_status llm_tokenizer_load(llm_weights *w, llm_tokenizer **out, llm_error *err);
void llm_tokenizer_free(llm_tokenizer *t);

/* Appends the ids of text (UTF-8, NUL bytes allowed, invalid bytes: LLM_E_FORMAT) to *out. */
llm_status llm_tokenize(const llm_tokenizer *t, const char *text, size_t bytes, int flags,
                        llm_tokens *out, llm_error *err);
/*
 * A pair for a cross-encoder: [CLS] a [SEP] b [SEP] (or the family's form), cut longest-first to
 * max_tokens; type_ids[i] (same length as the appended ids, appended to *types) is 0 or 1.
 */
llm_status llm_tokenize_pair(const llm_tokenizer *t, const char *a, size_t a_bytes, const char *b,
                             size_t b_bytes, size_t max_tokens, llm_tokens *out, llm_tokens *types,
                             llm_error *err);

/*
 * The bytes a token stands for in running text (byte-level tokens decoded, ▁ as space); they may be
 * a part of a UTF-8 character. Special tokens give "" unless special is set. The pointer lives as
 * long as the tokenizer.
 */
const char *llm_token_bytes(const llm_tokenizer *t, int32_t id, bool special, size_t *bytes);
/*
 * Appends the text of ids to a malloc'd, NUL-terminated buffer; the caller frees it with llm_free.
 */
llm_status llm_detokenize(const llm_tokenizer *t, const int32_t *ids, size_t n, char **text,
                          size_t *bytes, llm_error *err);

uint32_t llm_tokenizer_n_vocab(const llm_tokenizer *t);
int32_t llm_tokenizer_find(const llm_tokenizer *t, const char *token,
                           size_t bytes); /* raw vocab entry; −1 */
/*
 * −1 where the model has none. eos may be several: is_end says whether a token ends a generation.
 */
int32_t llm_tokenizer_bos(const llm_tokenizer *t);
int32_t llm_tokenizer_eos(const llm_tokenizer *t);
int32_t llm_tokenizer_pad(const llm_tokenizer *t);
bool llm_tokenizer_is_end(const llm_tokenizer *t, int32_t id);
bool llm_tokenizer_is_special(const llm_tokenizer *t, int32_t id);

#endif /* LLM_TOKENIZER_H */
