/*
 * llm_json.h: a small strict JSON reader (RFC 8259) for model files, schemas and requests.
 *
 * The whole text is parsed at once into an immutable tree of nodes that the document owns. No
 * recursion; depth and size are bounded; two members of one object with the same key are refused;
 * strings are unescaped and valid UTF-8 (a lone surrogate is refused). Numbers keep their text, so
 * that 64-bit integers lose nothing. A parsed document may be read by any number of threads.
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
#define LLM_JSON_BYTES_MAX ((size_t) 1 << 30) /* so that counts of nodes fit 32 bits */

/* The text may be freed once it is parsed. */
llm_status llm_json_parse(const char *text, size_t bytes, llm_json_doc **out, llm_error *err);
/* The same, but bytes past ASCII are not looked at: whoever reads a string checks its UTF-8. */
llm_status llm_json_parse_bytes(const char *text, size_t bytes, llm_json_doc **out, llm_error *err);
void llm_json_free(llm_json_doc *doc);
const llm_json *llm_json_root(const llm_json_doc *doc);

/* A NULL node is LLM_JSON_NULL, so lookups chain. */
llm_json_kind llm_json_get_kind(const llm_json *node);
/* Items of an array, members of an object, else 0. */
uint64_t llm_json_size(const llm_json *node);
/* NULL outside; O(1). */
const llm_json *llm_json_item(const llm_json *array, uint64_t i);
/* NULL when absent; O(1) in big objects. */
const llm_json *llm_json_member(const llm_json *object, const char *key);
/* The i-th member as it stands in the text; key is NUL-terminated too. */
const llm_json *llm_json_member_at(const llm_json *object, uint64_t i, const char **key,
                                   size_t *key_bytes);

/*
 * Typed readers: false when the node is of another kind or out of range; NULL nodes are of no kind.
 * Integers are numbers written without fraction and exponent. Strings are NUL-terminated as well,
 * and may hold NUL bytes.
 */
bool llm_json_bool(const llm_json *node, bool *out);
bool llm_json_u64(const llm_json *node, uint64_t *out);
bool llm_json_i64(const llm_json *node, int64_t *out);
bool llm_json_double(const llm_json *node, double *out);
bool llm_json_string(const llm_json *node, const char **text, size_t *bytes);
bool llm_json_is(const llm_json *node, const char *text); /* a string equal to text */
bool llm_json_number_text(const llm_json *node, const char **text, size_t *bytes);

#endif /* LLM_JSON_H */
