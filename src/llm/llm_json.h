/*
 * llm_json.h: a small strict JSON reader (RFC 8259) for model files, schemas and requests.
 *
 * The whole text is parsed at once into an immutable tree of nodes that lives in one arena. No recursion; depth,
 * size and duplicates are bounded and checked; strings are unescaped and valid UTF-8. Numbers keep their text, so
 * that 64-bit integers lose nothing.
 */
#ifndef LLM_JSON_H
#define LLM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm_status.h"

typedef enum llm_json_kind
{
	LLM_JSON_NULL,
	LLM_JSON_BOOL,
	LLM_JSON_NUMBER,
	LLM_JSON_STRING,
	LLM_JSON_ARRAY,
	LLM_JSON_OBJECT
} llm_json_kind;

typedef struct llm_json llm_json;         /* a node */
typedef struct llm_json_doc llm_json_doc; /* owner of all nodes of a text */

#define LLM_JSON_DEPTH_MAX 64

llm_status llm_json_parse(const char *text, size_t bytes, llm_json_doc **out, llm_error *err);
void llm_json_free(llm_json_doc *doc);
const llm_json *llm_json_root(const llm_json_doc *doc);

llm_json_kind
llm_json_get_kind(const llm_json *node);      /* NULL node: LLM_JSON_NULL, so lookups chain */
uint64_t llm_json_size(const llm_json *node); /* items of an array, members of an object, else 0 */
const llm_json *llm_json_item(const llm_json *array, uint64_t i); /* NULL outside; O(1) */
const llm_json *llm_json_member(const llm_json *object,
                                const char *key); /* NULL when absent; O(1) in big objects */
const llm_json *llm_json_member_at(const llm_json *object, uint64_t i, const char **key,
                                   size_t *key_bytes);

/* Typed readers: false when the node is of another kind or out of range; NULL nodes are of no kind. */
bool llm_json_bool(const llm_json *node, bool *out);
bool llm_json_u64(const llm_json *node, uint64_t *out);
bool llm_json_i64(const llm_json *node, int64_t *out);
bool llm_json_double(const llm_json *node, double *out);
bool llm_json_string(const llm_json *node, const char **text,
                     size_t *bytes);                      /* NUL-terminated as well */
bool llm_json_is(const llm_json *node, const char *text); /* a string equal to text */
bool llm_json_number_text(const llm_json *node, const char **text, size_t *bytes);

#endif /* LLM_JSON_H */
