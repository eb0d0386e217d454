/*
 * llm_weights.c: opens a model, owns what the parsers found, answers look-ups. See llm_weights.h.
 *
 * An object under construction is never seen from outside: open builds it, checks all, indexes the
 * names and only then hands it over; on any failure close frees what there is. After that only the
 * lazy part (digest, side files) changes, under its lock.
 */
#include "llm_weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_check.h"
#include "llm_sha256.h"
#include "llm_weights_impl.h"

/* A parsed side file; doc is NULL when there is no such file. */
typedef struct llm_side_file
{
	struct llm_side_file *next;
	char *name;
	llm_json_doc *doc;
} llm_side_file;

/* Reports that memory is exhausted. */
static llm_status
no_memory(llm_error *err)
{
	return llm_fail(err, LLM_E_NOMEM, "out of memory while opening a model");
}

/* Starts an object without tensors. */
static llm_status
create(llm_weights_format format, const char *path, llm_weights **out, llm_error *err)
{
	llm_weights *w = llm_calloc(1, sizeof(*w));

	*out = NULL;
	if (w == NULL)
		return no_memory(err);
	w->format = format;
	w->path = llm_strdup(path);
	w->arena = llm_arena_create();
	w->lazy = llm_calloc(1, sizeof(*w->lazy));
	if (w->lazy != NULL)
		pthread_mutex_init(&w->lazy->lock, NULL);
	if (w->path == NULL || w->arena == NULL || w->lazy == NULL)
	{
		llm_weights_close(w);
		return no_memory(err);
	}
	*out = w;
	return LLM_OK;
}

/* Frees the side files and the lock. */
static void
destroy_lazy(llm_weights_lazy *lazy)
{
	llm_side_file *side;

	if (lazy == NULL)
		return;
	while ((side = lazy->side_files) != NULL)
	{
		lazy->side_files = side->next;
		llm_json_free(side->doc);
		llm_free(side->name);
		llm_free(side);
	}
	pthread_mutex_destroy(&lazy->lock);
	llm_free(lazy);
}

/* Frees an object, also a half-built one, and unmaps its files. */
void
llm_weights_close(llm_weights *w)
{
	if (w == NULL)
		return;
	destroy_lazy(w->lazy);
	for (uint32_t i = 0; i < w->n_files; i++)
		llm_file_unmap(&w->files[i]);
	llm_free(w->files);
	llm_free(w->tensors);
	llm_free(w->tensor_names.slots);
	llm_free(w->meta_names.slots);
	llm_arena_destroy(w->arena);
	llm_free(w->path);
	llm_free(w);
}

/* Copies a name once it is known to be printable ASCII, fit for messages and for C strings. */
const char *
llm_weights_copy_name(llm_weights *w, const char *what, const char *bytes, uint64_t n,
                      uint64_t n_max, llm_error *err)
{
	char *copy;

	if (n < 1 || n > n_max)
	{
		llm_fail(err, LLM_E_FORMAT, "a %s does not have 1 to %llu bytes", what,
		         (unsigned long long) n_max);
		return NULL;
	}
	for (uint64_t i = 0; i < n; i++)
		if (bytes[i] < 0x20 || bytes[i] > 0x7e)
		{
			llm_fail(err, LLM_E_FORMAT, "a %s has a byte that is not printable ASCII", what);
			return NULL;
		}
	if ((copy = llm_arena_strndup(w->arena, bytes, (size_t) n)) == NULL)
		no_memory(err);
	return copy;
}

/* Appends a tensor. */
llm_status
llm_weights_add_tensor(llm_weights *w, const llm_tensor *tensor, llm_error *err)
{
	if (w->n_tensors == LLM_TENSORS_MAX)
		return llm_fail(err, LLM_E_LIMIT, "more tensors than the limit of %d", LLM_TENSORS_MAX);
	if (w->n_tensors == w->n_tensors_max)
	{
		uint32_t n = w->n_tensors_max > 0 ? 2 * w->n_tensors_max : 256;
		llm_tensor *grown = llm_realloc_array(w->tensors, n, sizeof(*grown));

		if (grown == NULL)
			return no_memory(err);
		w->tensors = grown;
		w->n_tensors_max = n;
	}
	w->tensors[w->n_tensors++] = *tensor;
	return LLM_OK;
}

/* Multiplies dimensions. */
bool
llm_weights_n_elements(const uint64_t *dims, uint32_t n_dims, uint64_t *n)
{
	uint64_t product = 1;

	for (uint32_t i = 0; i < n_dims; i++)
		if (!pp_mul_ok(product, dims[i], &product))
			return false;
	*n = product;
	return true;
}

/* Orders extents by where they begin. */
static int
compare_extents(const void *a, const void *b)
{
	uint64_t left = ((const llm_extent *) a)->begin;
	uint64_t right = ((const llm_extent *) b)->begin;

	return (left > right) - (left < right);
}

/* Checks that extents, each known to lie in the file, follow each other. */
llm_status
llm_weights_check_extents(llm_extent *extents, uint32_t n, uint64_t align, uint64_t *end,
                          llm_error *err)
{
	uint64_t at = 0;

	qsort(extents, n, sizeof(*extents), compare_extents);
	for (uint32_t i = 0; i < n; i++)
	{
		/* Neither sum can wrap: both are at most a file's length and an alignment. */
		uint64_t expected = (at + align - 1) / align * align;

		if (extents[i].begin != expected)
			return llm_fail(err, LLM_E_FORMAT, "tensor \"%s\" %s", extents[i].name,
			                extents[i].begin < expected ? "overlaps another one"
			                                            : "leaves a hole before it");
		at = extents[i].begin + extents[i].bytes;
	}
	*end = at;
	return LLM_OK;
}

/* Indexes n items by name and refuses two of the same one. */
static llm_status
index_names(llm_names *names, const void *items, size_t stride, uint32_t n, const char *what,
            llm_error *err)
{
	uint32_t n_slots = 16;

	while (n_slots < 2 * n)
		n_slots *= 2;
	*names = (llm_names){.items = items, .stride = stride, .n_slots = n_slots};
	if ((names->slots = llm_calloc(n_slots, sizeof(*names->slots))) == NULL)
		return no_memory(err);
	for (uint32_t i = 0; i < n; i++)
		if (llm_names_add(names, i) != i)
			return llm_fail(err, LLM_E_FORMAT, "%s \"%.128s\" is there twice", what,
			                *(const char *const *) ((const char *) items + i * stride));
	return LLM_OK;
}

/* Hands a parsed object over, indexed, or closes it when status is a failure. */
static llm_status
publish(llm_weights *w, llm_status status, llm_weights **out, llm_error *err)
{
	if (status == LLM_OK)
		status = index_names(&w->tensor_names, w->tensors, sizeof(*w->tensors), w->n_tensors,
		                     "tensor", err);
	if (status == LLM_OK)
		status = index_names(&w->meta_names, w->metas, sizeof(*w->metas), w->n_metas, "key", err);
	if (status == LLM_OK)
		*out = w;
	else
		llm_weights_close(w);
	return status;
}

/* Parses a buffer. */
llm_status
llm_weights_open_memory(llm_weights_format format, const void *data, uint64_t bytes,
                        llm_weights **out, llm_error *err)
{
	llm_shard shard = {.file_name = "memory"};
	llm_weights *w;
	llm_status status;

	*out = NULL;
	if ((status = create(format, "", &w, err)) != LLM_OK)
		return status;
	if (format == LLM_FORMAT_GGUF)
		status = llm_gguf_parse(w, data, bytes, err);
	else
		status = llm_safetensors_parse(w, data, bytes, &shard, err);
	return publish(w, status, out, err);
}

/* Maps one more weight file of the object; files has room for it. */
static llm_status
map_next(llm_weights *w, const char *path, llm_error *err)
{
	llm_status status = llm_file_map(path, &w->files[w->n_files], err);

	if (status == LLM_OK)
		w->n_files++;
	return status;
}

/* Makes room for n weight files. */
static llm_status
reserve_files(llm_weights *w, uint32_t n, llm_error *err)
{
	w->files = llm_calloc(n, sizeof(*w->files));
	return w->files == NULL ? no_memory(err) : LLM_OK;
}

/* Reads a GGUF file into the object. */
static llm_status
open_gguf(llm_weights *w, llm_error *err)
{
	llm_status status = reserve_files(w, 1, err);

	if (status == LLM_OK)
		status = map_next(w, w->path, err);
	return status == LLM_OK ? llm_gguf_parse(w, w->files[0].data, w->files[0].bytes, err) : status;
}

/* Joins the folder and a name; NULL with err when there is no memory. */
static char *
path_in_folder(const llm_weights *w, const char *name, llm_error *err)
{
	size_t bytes = strlen(w->path) + strlen(name) + 2;
	char *path = llm_malloc(bytes);

	if (path == NULL)
		no_memory(err);
	else
		snprintf(path, bytes, "%s/%s", w->path, name);
	return path;
}

/* Maps and reads one safetensors file of the folder. */
static llm_status
open_shard(llm_weights *w, llm_shard *shard, llm_error *err)
{
	char *path = path_in_folder(w, shard->file_name, err);
	const llm_file *file = &w->files[w->n_files];
	llm_status status;

	if (path == NULL)
		return LLM_E_NOMEM;
	status = map_next(w, path, err);
	llm_free(path);
	return status == LLM_OK ? llm_safetensors_parse(w, file->data, file->bytes, shard, err)
	                        : status;
}

/* Tells whether a file name out of an index is plain: it cannot lead out of the folder. */
static bool
is_plain_name(const char *name, size_t n)
{
	static const char ending[] = ".safetensors";
	size_t n_ending = sizeof(ending) - 1;

	if (n <= n_ending || n > 255 || name[0] == '.' || memcmp(name + n - n_ending, ending, n_ending))
		return false;
	for (size_t i = 0; i < n; i++)
		if (name[i] < 0x20 || name[i] > 0x7e || name[i] == '/')
			return false;
	return true;
}

/* Orders file names. */
static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Collects the different file names of a weight map, sorted. names has room for all its members. */
static llm_status
collect_shards(const llm_json *map, const char **names, uint32_t *n_names, llm_error *err)
{
	uint64_t n = llm_json_size(map);
	uint32_t n_unique = 0;

	for (uint64_t i = 0; i < n; i++)
	{
		const char *key;
		size_t bytes;

		if (!llm_json_string(llm_json_member_at(map, i, &key, &bytes), &names[i], &bytes) ||
		    !is_plain_name(names[i], bytes))
			return llm_fail(err, LLM_E_FORMAT,
			                "the index has a value that is no plain name of a safetensors file");
	}
	qsort(names, n, sizeof(*names), compare_names);
	for (uint64_t i = 0; i < n; i++)
		if (i == 0 || strcmp(names[n_unique - 1], names[i]) != 0)
			names[n_unique++] = names[i];
	if (n_unique > LLM_SHARDS_MAX)
		return llm_fail(err, LLM_E_LIMIT, "the index names more than %d files", LLM_SHARDS_MAX);
	*n_names = n_unique;
	return LLM_OK;
}

/* Reads the listed files, which together must hold the tensors of the map and no others. */
static llm_status
open_listed(llm_weights *w, const llm_json *map, const char *const *names, uint32_t n,
            llm_error *err)
{
	uint64_t n_entries = 0;
	llm_status status = reserve_files(w, n, err);

	for (uint32_t i = 0; i < n && status == LLM_OK; i++)
	{
		llm_shard shard = {.file_name = names[i], .weight_map = map};

		status = open_shard(w, &shard, err);
		n_entries += shard.n_entries;
	}
	if (status == LLM_OK && n_entries != llm_json_size(map))
		status = llm_fail(err, LLM_E_FORMAT, "the index has %llu tensors, its files have %llu",
		                  (unsigned long long) llm_json_size(map), (unsigned long long) n_entries);
	return status;
}

/* Reads a sharded model. */
static llm_status
open_index(llm_weights *w, const llm_json *index, llm_error *err)
{
	const llm_json *map = llm_json_member(index, "weight_map");
	uint64_t n_max = llm_json_size(map);
	const char **names;
	llm_status status;
	uint32_t n = 0;

	if (llm_json_get_kind(map) != LLM_JSON_OBJECT || n_max == 0 || n_max > LLM_TENSORS_MAX)
		return llm_fail(err, LLM_E_FORMAT, "the index has no weight_map of 1 to %d tensors",
		                LLM_TENSORS_MAX);
	if ((names = llm_malloc_array((size_t) n_max, sizeof(*names))) == NULL)
		return no_memory(err);
	status = collect_shards(map, names, &n, err);
	if (status == LLM_OK)
		status = open_listed(w, map, names, n, err);
	llm_free(names);
	return status;
}

/* Reads the weights of a folder from one file or from several. */
static llm_status
open_folder_weights(llm_weights *w, llm_error *err)
{
	llm_shard shard = {.file_name = "model.safetensors"};
	const llm_json *index;
	llm_status status = llm_weights_json(w, "model.safetensors.index.json", &index, err);

	if (status != LLM_OK)
		return status;
	if (index != NULL)
		return open_index(w, index, err);
	status = reserve_files(w, 1, err);
	return status == LLM_OK ? open_shard(w, &shard, err) : status;
}

/* Reads a Hugging Face folder into the object. */
static llm_status
open_folder(llm_weights *w, llm_error *err)
{
	const llm_json *config;
	llm_status status = llm_weights_json(w, "config.json", &config, err);

	if (status != LLM_OK)
		return status;
	if (config == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "the folder \"%s\" has no config.json", w->path);
	if (llm_json_get_kind(config) != LLM_JSON_OBJECT)
		return llm_fail(err, LLM_E_FORMAT, "config.json is no JSON object");
	return open_folder_weights(w, err);
}

/* Opens a model. */
llm_status
llm_weights_open(const char *path, llm_weights **out, llm_error *err)
{
	bool folder;
	llm_weights *w;
	llm_status status = llm_file_is_folder(path, &folder, err);

	*out = NULL;
	if (status != LLM_OK)
		return status;
	status = create(folder ? LLM_FORMAT_HF : LLM_FORMAT_GGUF, path, &w, err);
	if (status != LLM_OK)
		return status;
	return publish(w, folder ? open_folder(w, err) : open_gguf(w, err), out, err);
}

/* Tells which of the two formats it is. */
llm_weights_format
llm_weights_get_format(const llm_weights *w)
{
	return w->format;
}

/* The path it was opened by. */
const char *
llm_weights_path(const llm_weights *w)
{
	return w->path;
}

/* Adds up the weight files. */
uint64_t
llm_weights_bytes(const llm_weights *w)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < w->n_files; i++)
		bytes += w->files[i].bytes;
	return bytes;
}

/* Hashes the weight files, once. */
llm_status
llm_weights_digest(const llm_weights *w, char hex[65], llm_error *err)
{
	llm_weights_lazy *lazy = w->lazy;

	if (w->n_files == 0)
		return llm_fail(err, LLM_E_NOT_FOUND, "a model in memory has no files to digest");
	pthread_mutex_lock(&lazy->lock);
	if (lazy->digest[0] == '\0')
	{
		llm_sha256 hash;

		llm_sha256_init(&hash);
		for (uint32_t i = 0; i < w->n_files; i++)
			llm_sha256_update(&hash, w->files[i].data, (size_t) w->files[i].bytes);
		llm_sha256_final_hex(&hash, lazy->digest);
	}
	memcpy(hex, lazy->digest, sizeof(lazy->digest));
	pthread_mutex_unlock(&lazy->lock);
	return LLM_OK;
}

/* Lets the kernel drop the mapped pages. */
void
llm_weights_advise_cold(const llm_weights *w)
{
	for (uint32_t i = 0; i < w->n_files; i++)
		llm_file_advise_cold(&w->files[i]);
}

/* Counts the tensors. */
uint32_t
llm_weights_n_tensors(const llm_weights *w)
{
	return w->n_tensors;
}

/* The i-th tensor. */
const llm_tensor *
llm_weights_tensor_at(const llm_weights *w, uint32_t i)
{
	return i < w->n_tensors ? &w->tensors[i] : NULL;
}

/* Looks a tensor up. */
const llm_tensor *
llm_weights_find(const llm_weights *w, const char *name)
{
	return llm_weights_tensor_at(w, llm_names_find(&w->tensor_names, name));
}

/* Looks a key up. */
const llm_meta *
llm_weights_meta(const llm_weights *w, const char *key)
{
	return llm_weights_meta_at(w, llm_names_find(&w->meta_names, key));
}

/* Counts the keys. */
uint32_t
llm_weights_n_meta(const llm_weights *w)
{
	return w->n_metas;
}

/* The i-th key. */
const llm_meta *
llm_weights_meta_at(const llm_weights *w, uint32_t i)
{
	return i < w->n_metas ? &w->metas[i] : NULL;
}

/* Maps and parses a side file; a missing one leaves *doc NULL. */
static llm_status
parse_side_file(const llm_weights *w, const char *name, llm_json_doc **doc, llm_error *err)
{
	llm_file file;
	llm_status status;
	llm_error local;
	char *path = path_in_folder(w, name, err);

	*doc = NULL;
	if (path == NULL)
		return LLM_E_NOMEM;
	status = llm_file_map(path, &file, err);
	llm_free(path);
	if (status != LLM_OK)
		return status == LLM_E_NOT_FOUND ? LLM_OK : status;
	status = llm_json_parse((const char *) file.data, (size_t) file.bytes, doc, &local);
	llm_file_unmap(&file);
	if (status != LLM_OK)
		return llm_fail(err, status, "%s: %s", name, local.message);
	return LLM_OK;
}

/* Parses a side file and remembers it, or that it is absent. The lock is held. */
static llm_status
add_side_file(llm_weights *w, const char *name, llm_side_file **out, llm_error *err)
{
	llm_side_file *side = llm_calloc(1, sizeof(*side));
	llm_status status;

	if (side == NULL)
		return no_memory(err);
	if ((side->name = llm_strdup(name)) == NULL)
		status = no_memory(err);
	else
		status = parse_side_file(w, name, &side->doc, err);
	if (status != LLM_OK)
	{
		llm_free(side->name);
		llm_free(side);
		return status;
	}
	side->next = w->lazy->side_files;
	w->lazy->side_files = side;
	*out = side;
	return LLM_OK;
}

/* Finds a side file among those already parsed, or parses it. */
llm_status
llm_weights_json(llm_weights *w, const char *file_name, const llm_json **out, llm_error *err)
{
	llm_side_file *side;
	llm_status status = LLM_OK;

	*out = NULL;
	if (w->format != LLM_FORMAT_HF || w->path[0] == '\0') /* an object in memory has no folder */
		return LLM_OK;
	pthread_mutex_lock(&w->lazy->lock);
	side = w->lazy->side_files;
	while (side != NULL && strcmp(side->name, file_name) != 0)
		side = side->next;
	if (side == NULL)
		status = add_side_file(w, file_name, &side, err);
	if (status == LLM_OK && side->doc != NULL)
		*out = llm_json_root(side->doc);
	pthread_mutex_unlock(&w->lazy->lock);
	return status;
}
