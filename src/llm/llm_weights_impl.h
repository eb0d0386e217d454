/*
 * llm_weights_impl.h: what the two format parsers and llm_weights.c share. Not for others.
 *
 * The parsers read memory, not files, so that fuzz targets and tests reach them without a file
 * system. They append to the object; llm_weights.c builds the indexes and publishes it when all has
 * been checked, or destroys it.
 */
#ifndef LLM_WEIGHTS_IMPL_H
#define LLM_WEIGHTS_IMPL_H

#include <pthread.h>

#include "llm_alloc.h"
#include "llm_file.h"
#include "llm_hash.h"
#include "llm_weights.h"

#define LLM_TENSORS_MAX       65536
#define LLM_TENSOR_NAME_MAX   128
#define LLM_META_MAX          65536
#define LLM_META_KEY_MAX      65535                  /* the GGUF specification's */
#define LLM_META_STRING_BYTES ((uint64_t) 16 << 20)  /* of one string: chat templates, licences */
#define LLM_GGUF_HEADER_BYTES ((uint64_t) 256 << 20) /* vocabularies are most of it */
#define LLM_ST_HEADER_BYTES   ((uint64_t) 100000000) /* the reference implementation's */
#define LLM_SHARDS_MAX        1024

/* What is made on demand after opening; guarded by lock. */
typedef struct llm_weights_lazy
{
	pthread_mutex_t lock;
	char digest[65]; /* empty until asked for */
	struct llm_side_file *side_files;
} llm_weights_lazy;

struct llm_weights
{
	llm_weights_format format;
	char *path;
	llm_arena *arena; /* names, metadata records, string indexes */
	llm_file *files;  /* the weight files in order */
	uint32_t n_files;
	llm_tensor *tensors;
	uint32_t n_tensors;
	uint32_t n_tensors_max;
	llm_names tensor_names;
	llm_meta *metas;
	uint32_t n_metas;
	llm_names meta_names;
	llm_weights_lazy *lazy;
};

/* Where a piece of a safetensors file or a tensor of a GGUF file lies in the data section. */
typedef struct llm_extent
{
	uint64_t begin;
	uint64_t bytes;
	const char *name;
} llm_extent;

/* One file of a sharded model; weight_map is NULL when the model is one file. */
typedef struct llm_shard
{
	const char *file_name;
	const llm_json *weight_map; /* tensor name → file name */
	uint64_t n_entries;         /* out: tensors of the file, usable or not */
} llm_shard;

/* The parsers. Data must outlive w. */
llm_status llm_gguf_parse(llm_weights *w, const uint8_t *data, uint64_t bytes, llm_error *err);
llm_status llm_safetensors_parse(llm_weights *w, const uint8_t *data, uint64_t bytes,
                                 llm_shard *shard, llm_error *err);

/* Parses one buffer as if it were the model's only weight file; for fuzz targets and tests. */
llm_status llm_weights_open_memory(llm_weights_format format, const void *data, uint64_t bytes,
                                   llm_weights **out, llm_error *err);

/* Checks length and characters of a name and copies it; NULL with err when it is refused. */
const char *llm_weights_copy_name(llm_weights *w, const char *what, const char *bytes, uint64_t n,
                                  uint64_t n_max, llm_error *err);
llm_status llm_weights_add_tensor(llm_weights *w, const llm_tensor *tensor, llm_error *err);
/*
 * Sorts the extents and checks that they lie one after the other from 0 on, each starting at the
 * next multiple of align: no overlap, no hole to hide data in. *end is where the last one ends.
 */
llm_status llm_weights_check_extents(llm_extent *extents, uint32_t n, uint64_t align, uint64_t *end,
                                     llm_error *err);
/* Multiplies dims, each at least 1. */
bool llm_weights_n_elements(const uint64_t *dims, uint32_t n_dims, uint64_t *n);

#endif /* LLM_WEIGHTS_IMPL_H */
