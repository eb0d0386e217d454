/*
 * llm_weights.h: one view of the two model file formats.
 *
 * A model is a GGUF file (v2, v3) or a Hugging Face folder (config.json, tokenizer.json,
 * safetensors, sharded too). llm_weights_open maps the files read-only, checks every number in them
 * before use (see the rules in llm_gguf.c and llm_safetensors.c) and publishes named tensors and,
 * for GGUF, typed metadata. Tensor data stays in the mapping: nothing is copied. The object owns
 * the mapping; it is immutable once opened, so any number of threads may read it.
 */
#ifndef LLM_WEIGHTS_H
#define LLM_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../kernels/kernels.h"
#include "llm_json.h"
#include "llm_status.h"

typedef struct llm_weights llm_weights;

typedef enum llm_weights_format
{
	LLM_FORMAT_GGUF,
	LLM_FORMAT_HF
} llm_weights_format;

/* A tensor in row-major order: dims[0] is the outermost. GGUF's reversed order is undone here. */
typedef struct llm_tensor
{
	const char *name; /* as in the file, NUL-terminated printable ASCII */
	pp_dtype dtype;
	uint32_t n_dims;  /* 0 … 4 */
	uint64_t dims[4]; /* each >= 1 */
	const void *data; /* bytes long; may be unaligned for its type only in safetensors files */
	uint64_t bytes;
} llm_tensor;

/* One metadata value of a GGUF file. Numbers of all widths are widened. */
typedef enum llm_meta_kind
{
	LLM_META_UINT,
	LLM_META_INT,
	LLM_META_FLOAT,
	LLM_META_BOOL,
	LLM_META_STRING,
	LLM_META_ARRAY
} llm_meta_kind;

typedef struct llm_meta
{
	const char *key;    /* NUL-terminated printable ASCII */
	llm_meta_kind kind; /* LLM_META_ARRAY: item_kind and n_items say what is inside */
	llm_meta_kind item_kind;
	uint64_t n_items;   /* of an array; 1 otherwise */
	const void *priv;   /* where the items lie */
	uint32_t file_type; /* GGUF's value type of the item */
} llm_meta;

/*
 * Opens path: a .gguf file or a folder. path must be a regular file or a folder of regular files
 * (symbolic links to them are followed). A folder must hold config.json, and model.safetensors or
 * model.safetensors.index.json with the files that it lists.
 */
llm_status llm_weights_open(const char *path, llm_weights **out, llm_error *err);
void llm_weights_close(llm_weights *w);
llm_weights_format llm_weights_get_format(const llm_weights *w);
const char *llm_weights_path(const llm_weights *w);
uint64_t llm_weights_bytes(const llm_weights *w); /* of all mapped weight files */
/* The SHA-256 of the weight files, several in the order of their names, one after the other.
 * Computed on first demand. */
llm_status llm_weights_digest(const llm_weights *w, char hex[65], llm_error *err);

/* Tells the kernel that the mapped pages are not needed for now (after conversion to another
 * format). */
void llm_weights_advise_cold(const llm_weights *w);

/* Tensors in the order of the files. Those of a safetensors file whose type holds no weights
 * (integers, truth values, doubles, FP8) are left out. */
uint32_t llm_weights_n_tensors(const llm_weights *w);
const llm_tensor *llm_weights_tensor_at(const llm_weights *w, uint32_t i); /* NULL outside */
const llm_tensor *llm_weights_find(const llm_weights *w,
                                   const char *name); /* NULL: no such tensor */

/* GGUF metadata. The getters return false when the key is absent (m is NULL) or of another kind or
 * range, or when there is no item i. A scalar has the one item 0. */
const llm_meta *llm_weights_meta(const llm_weights *w, const char *key);
uint32_t llm_weights_n_meta(const llm_weights *w);
const llm_meta *llm_weights_meta_at(const llm_weights *w, uint32_t i); /* NULL outside */
bool llm_meta_uint(const llm_meta *m, uint64_t i, uint64_t *out);
bool llm_meta_int(const llm_meta *m, uint64_t i, int64_t *out);
bool llm_meta_float(const llm_meta *m, uint64_t i, double *out); /* of floats, not of integers */
bool llm_meta_bool(const llm_meta *m, uint64_t i, bool *out);
/* Any bytes, not NUL-terminated. Items of string arrays are found in O(1). */
bool llm_meta_string(const llm_meta *m, uint64_t i, const char **bytes, uint64_t *n_bytes);

/*
 * A side file of a Hugging Face folder, parsed; NULL in *out when the file is absent (LLM_OK), and
 * for GGUF. file_name is relative to the folder and comes from the code, never from a file. Owned
 * by w, parsed once. Thread-safe.
 */
llm_status llm_weights_json(llm_weights *w, const char *file_name, const llm_json **out,
                            llm_error *err);

/* Dequantises n elements (a whole number of blocks) from src, which may be unaligned, into dst,
 * bit-exact against ggml's reference. */
llm_status llm_dequantise(pp_dtype dtype, const void *src, float *dst, uint64_t n, llm_error *err);
/* Bytes of n elements of a type; false for an unknown type or when n is not a whole number of
 * blocks. */
bool llm_dtype_bytes(pp_dtype dtype, uint64_t n, uint64_t *bytes);
const char *llm_dtype_name(pp_dtype dtype); /* "Q4_K"; "unknown" */

#endif /* LLM_WEIGHTS_H */
