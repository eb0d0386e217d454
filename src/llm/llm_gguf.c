/*
 * llm_gguf.c: reads the header of a GGUF file (versions 2 and 3) from memory.
 *
 * Layout: magic, version, counts of tensors and of key-value pairs; the pairs; a record a tensor;
 * padding to the alignment; the data section. All little-endian.
 *
 * Rules, each the answer to a hole that another loader had:
 *	- a reader with one bound, the file's or 256 MiB; every length is compared with what remains;
 *	- a count is compared with the bytes its items need at least, before anything is allocated;
 *	- sums and products only through llm_check.h; a zero dimension is refused before any product;
 *	- the type of every value is checked before the value is used, the alignment's too;
 *	- arrays of arrays are refused: no recursion;
 *	- a tensor's bytes follow from type and dimensions and must lie in the file; the tensors fill
 *	  the data section in some order without overlap or hole;
 *	- keys and tensor names are printable ASCII and unique.
 *
 * Values stay in the mapping, which the getters read unaligned. Only names, metadata records and
 * the index of string arrays are allocated, from the object's arena.
 */
#include <string.h>

#include "llm_check.h"
#include "llm_weights_impl.h"

/* GGUF's value types. */
enum
{
	TYPE_U8 = 0,
	TYPE_I8 = 1,
	TYPE_U16 = 2,
	TYPE_I16 = 3,
	TYPE_U32 = 4,
	TYPE_I32 = 5,
	TYPE_F32 = 6,
	TYPE_BOOL = 7,
	TYPE_STRING = 8,
	TYPE_ARRAY = 9,
	TYPE_U64 = 10,
	TYPE_I64 = 11,
	TYPE_F64 = 12,
	N_TYPES
};

/* Bytes of a value of each type; of a string and an array those of the length before it. */
static const uint8_t type_bytes[N_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

static const uint8_t type_kinds[N_TYPES] = {LLM_META_UINT,  LLM_META_INT,  LLM_META_UINT,
                                            LLM_META_INT,   LLM_META_UINT, LLM_META_INT,
                                            LLM_META_FLOAT, LLM_META_BOOL, LLM_META_STRING,
                                            LLM_META_ARRAY, LLM_META_UINT, LLM_META_INT,
                                            LLM_META_FLOAT};

#define ALIGNMENT_DEFAULT 32
#define ALIGNMENT_MIN     8 /* the specification's; also that of the widest element */
#define ALIGNMENT_MAX     (1 << 20)

/* Bytes of the shortest pair and the shortest tensor record, to test counts against. */
#define PAIR_BYTES_MIN   14 /* key length, one letter, type, a byte */
#define TENSOR_BYTES_MIN 33 /* name length, one letter, count of dims, a dim, type, offset */

/* What is left of the header. */
typedef struct reader
{
	const uint8_t *start;
	const uint8_t *p;
	uint64_t left;   /* at first no more than a header may have */
	uint64_t beyond; /* the rest of the file, readable once the header has ended */
	llm_weights *w;
	llm_error *err;
} reader;

/* Refuses the file at the current byte. */
static llm_status
bad(reader *r, const char *what)
{
	return llm_fail(r->err, LLM_E_FORMAT, "invalid GGUF file at byte %llu: %s",
	                (unsigned long long) (r->p - r->start), what);
}

/* Refuses the value of a key. */
static llm_status
bad_value(reader *r, const char *key, const char *what)
{
	return llm_fail(r->err, LLM_E_FORMAT, "invalid GGUF file: key \"%.64s\" %s", key, what);
}

/* Refuses a tensor. */
static llm_status
bad_tensor(reader *r, const char *name, const char *what)
{
	return llm_fail(r->err, LLM_E_FORMAT, "invalid GGUF file: tensor \"%s\" %s", name, what);
}

/* Reports that memory is exhausted. */
static llm_status
no_memory(reader *r)
{
	return llm_fail(r->err, LLM_E_NOMEM, "out of memory while reading a GGUF header");
}

/* Passes over n bytes. */
static bool
skip(reader *r, uint64_t n)
{
	if (n > r->left)
		return false;
	r->p += n;
	r->left -= n;
	return true;
}

/* Copies n bytes out; nothing when there are fewer. */
static bool
read_bytes(reader *r, void *out, size_t n)
{
	const uint8_t *p = r->p;

	if (!skip(r, n))
		return false;
	memcpy(out, p, n);
	return true;
}

/* Reads a 32-bit number. */
static bool
read_u32(reader *r, uint32_t *out)
{
	return read_bytes(r, out, sizeof(*out));
}

/* Reads a 64-bit number. */
static bool
read_u64(reader *r, uint64_t *out)
{
	return read_bytes(r, out, sizeof(*out));
}

/* Passes over a string. */
static bool
skip_string(reader *r)
{
	uint64_t n;

	return read_u64(r, &n) && skip(r, n);
}

/* Reads a name of at most n_max bytes, copied into the arena; NULL when it is refused. */
static const char *
read_name(reader *r, const char *what, uint64_t n_max)
{
	uint64_t n;
	const uint8_t *p;

	if (!read_u64(r, &n) || (p = r->p, !skip(r, n)))
	{
		bad(r, "the file ends in a name");
		return NULL;
	}
	return llm_weights_copy_name(r->w, what, (const char *) p, n, n_max, r->err);
}

/* Passes over a string array and notes where each item begins. */
static llm_status
read_string_array(reader *r, llm_meta *m)
{
	const uint8_t **items;

	if (m->n_items > r->left / type_bytes[TYPE_STRING])
		return bad_value(r, m->key, "has more items than the file has room for");
	items = llm_arena_alloc(r->w->arena, (size_t) m->n_items, sizeof(*items));
	if (items == NULL)
		return no_memory(r);
	for (uint64_t i = 0; i < m->n_items; i++)
	{
		items[i] = r->p;
		if (!skip_string(r))
			return bad_value(r, m->key, "has a string that goes past the end");
	}
	m->priv = items;
	return LLM_OK;
}

/* Checks that truth values are 0 or 1. */
static bool
bools_ok(const uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		if (p[i] > 1)
			return false;
	return true;
}

/* Reads the n_items values of a metadata record, whose type is known and no array. */
static llm_status
read_items(reader *r, llm_meta *m)
{
	uint64_t bytes;

	if (m->file_type == TYPE_STRING && m->kind == LLM_META_ARRAY)
		return read_string_array(r, m);
	m->priv = r->p;
	if (m->file_type == TYPE_STRING)
	{
		if (!skip_string(r))
			return bad_value(r, m->key, "has a string that goes past the end");
		if ((uint64_t) (r->p - (const uint8_t *) m->priv) > LLM_META_STRING_BYTES)
			return bad_value(r, m->key, "has a string of more than 16 MiB");
		return LLM_OK;
	}
	if (!pp_mul_ok(m->n_items, type_bytes[m->file_type], &bytes) || !skip(r, bytes))
		return bad_value(r, m->key, "has more items than the file has room for");
	if (m->file_type == TYPE_BOOL && !bools_ok(m->priv, m->n_items))
		return bad_value(r, m->key, "has a truth value that is neither 0 nor 1");
	return LLM_OK;
}

/* Reads a key and its value. */
static llm_status
read_pair(reader *r, llm_meta *m)
{
	uint32_t type;

	if ((m->key = read_name(r, "key", LLM_META_KEY_MAX)) == NULL)
		return r->err->code;
	if (!read_u32(r, &type))
		return bad(r, "the file ends in a key");
	if (type >= N_TYPES)
		return bad_value(r, m->key, "is of an unknown type");
	m->kind = (llm_meta_kind) type_kinds[type];
	m->n_items = 1;
	if (type == TYPE_ARRAY)
	{
		if (!read_u32(r, &type) || !read_u64(r, &m->n_items))
			return bad(r, "the file ends in an array");
		if (type >= N_TYPES)
			return bad_value(r, m->key, "is an array of an unknown type");
		if (type == TYPE_ARRAY)
			return bad_value(r, m->key, "is an array of arrays");
	}
	m->file_type = type;
	m->item_kind = (llm_meta_kind) type_kinds[type];
	return read_items(r, m);
}

/* Reads all pairs. */
static llm_status
read_pairs(reader *r, uint64_t n)
{
	llm_weights *w = r->w;
	llm_status status = LLM_OK;

	w->metas = llm_arena_alloc(w->arena, (size_t) n, sizeof(*w->metas));
	if (w->metas == NULL)
		return no_memory(r);
	for (uint64_t i = 0; i < n && status == LLM_OK; i++)
		if ((status = read_pair(r, &w->metas[i])) == LLM_OK)
			w->n_metas++;
	return status;
}

/* Finds the alignment of the data section among the pairs; the index of keys does not exist yet. */
static llm_status
find_alignment(reader *r, uint64_t *align)
{
	*align = ALIGNMENT_DEFAULT;
	for (uint32_t i = 0; i < r->w->n_metas; i++)
	{
		const llm_meta *m = &r->w->metas[i];

		if (strcmp(m->key, "general.alignment") != 0)
			continue;
		if (m->kind != LLM_META_UINT || m->file_type != TYPE_U32)
			return bad_value(r, m->key, "is not a 32-bit unsigned number");
		(void) llm_meta_uint(m, 0, align);
		if (*align < ALIGNMENT_MIN || *align > ALIGNMENT_MAX || (*align & (*align - 1)) != 0)
			return bad_value(r, m->key, "is not a power of two between 8 and 1048576");
	}
	return LLM_OK;
}

/* Names the types of ggml that are not implemented; NULL for numbers that are no type at all. */
static const char *
foreign_type_name(uint32_t type)
{
	static const char *const names[] = {
	    [9] = "Q8_1",    [10] = "Q2_K",    [11] = "Q3_K",  [15] = "Q8_K",  [16] = "IQ2_XXS",
	    [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S", [21] = "IQ3_S", [22] = "IQ2_S",
	    [23] = "IQ4_XS", [24] = "I8",      [25] = "I16",   [26] = "I32",   [27] = "I64",
	    [28] = "F64",    [29] = "IQ1_M",   [34] = "TQ1_0", [35] = "TQ2_0", [39] = "MXFP4",
	    [40] = "NVFP4",  [41] = "Q1_0",    [42] = "Q2_0"};

	return type < sizeof(names) / sizeof(names[0]) ? names[type] : NULL;
}

/* Derives the bytes of a tensor, each row of which has whole blocks. */
static llm_status
size_tensor(reader *r, llm_tensor *t, uint32_t type)
{
	uint64_t n;
	uint64_t bytes;

	t->dtype = (pp_dtype) type;
	if (!llm_dtype_bytes(t->dtype, 0, &bytes))
	{
		const char *name = foreign_type_name(type);

		if (name == NULL)
			return bad_tensor(r, t->name, "is of an unknown type");
		return llm_fail(r->err, LLM_E_UNSUPPORTED,
		                "tensor \"%s\" is of type %s, which is not supported", t->name, name);
	}
	/* Every block size divides 256. */
	if (!llm_dtype_bytes(t->dtype, t->dims[t->n_dims - 1] % 256, &bytes))
		return bad_tensor(r, t->name, "has a row that is not a whole number of blocks");
	if (!llm_weights_n_elements(t->dims, t->n_dims, &n) || !llm_dtype_bytes(t->dtype, n, &t->bytes))
		return bad_tensor(r, t->name, "is too large");
	return LLM_OK;
}

/* Reads the dimensions, innermost first in the file. */
static llm_status
read_dims(reader *r, llm_tensor *t)
{
	if (!read_u32(r, &t->n_dims))
		return bad(r, "the file ends in a tensor");
	if (t->n_dims < 1 || t->n_dims > 4)
		return bad_tensor(r, t->name, "does not have 1 to 4 dimensions");
	for (uint32_t i = t->n_dims; i-- > 0;)
	{
		if (!read_u64(r, &t->dims[i]))
			return bad(r, "the file ends in a tensor");
		if (t->dims[i] < 1)
			return bad_tensor(r, t->name, "has a dimension of 0");
	}
	return LLM_OK;
}

/* Reads a tensor's record. Its place in the data section is checked when all are known. */
static llm_status
read_tensor(reader *r, uint64_t align, llm_extent *extent)
{
	llm_tensor t = {.name = read_name(r, "tensor name", LLM_TENSOR_NAME_MAX)};
	llm_status status;
	uint32_t type;

	if (t.name == NULL)
		return r->err->code;
	if ((status = read_dims(r, &t)) != LLM_OK)
		return status;
	if (!read_u32(r, &type) || !read_u64(r, &extent->begin))
		return bad(r, "the file ends in a tensor");
	if ((status = size_tensor(r, &t, type)) != LLM_OK)
		return status;
	if (extent->begin % align != 0)
		return bad_tensor(r, t.name, "is not aligned");
	extent->bytes = t.bytes;
	extent->name = t.name;
	return llm_weights_add_tensor(r->w, &t, r->err);
}

/* Checks the tensors' places against the data section and points them there. */
static llm_status
place_tensors(reader *r, llm_extent *extents, uint64_t align)
{
	llm_weights *w = r->w;
	uint64_t pad = (align - (uint64_t) (r->p - r->start) % align) % align;
	uint64_t end;
	llm_status status;

	r->left += r->beyond;
	if (!skip(r, pad))
	{
		/* A file without tensors, a vocabulary, may end before the padding. */
		return w->n_tensors == 0 ? LLM_OK : bad(r, "the file ends before its data");
	}
	for (uint32_t i = 0; i < w->n_tensors; i++)
	{
		if (!pp_range_ok(extents[i].begin, extents[i].bytes, r->left))
			return bad_tensor(r, extents[i].name, "does not lie in the file");
		w->tensors[i].data = r->p + extents[i].begin;
	}
	status = llm_weights_check_extents(extents, w->n_tensors, align, &end, r->err);
	if (status != LLM_OK)
		return status;
	/* Most writers pad the last tensor too. */
	if (r->left > (end + align - 1) / align * align)
		return bad(r, "the file goes on after its last tensor");
	return LLM_OK;
}

/* Reads the tensor records and finds the data of each. */
static llm_status
read_tensors(reader *r, uint64_t n)
{
	llm_extent *extents = llm_malloc_array((size_t) n, sizeof(*extents));
	llm_status status;
	uint64_t align;

	if (extents == NULL)
		return no_memory(r);
	status = find_alignment(r, &align);
	for (uint64_t i = 0; i < n && status == LLM_OK; i++)
		status = read_tensor(r, align, &extents[i]);
	if (status == LLM_OK)
		status = place_tensors(r, extents, align);
	llm_free(extents);
	return status;
}

/* Reads magic and version. */
static llm_status
read_version(reader *r)
{
	uint32_t magic;
	uint32_t version;

	if (!read_u32(r, &magic) || magic != 0x46554747) /* "GGUF" */
		return bad(r, "it does not begin with GGUF");
	if (!read_u32(r, &version))
		return bad(r, "the file ends in its version");
	/* A version of another byte order has its small number in the upper half. */
	if ((version & 0xffff) == 0)
		return llm_fail(r->err, LLM_E_UNSUPPORTED, "the GGUF file is in big-endian byte order");
	if (version != 2 && version != 3)
		return llm_fail(r->err, LLM_E_UNSUPPORTED, "version %u of GGUF is not supported", version);
	return LLM_OK;
}

/* Refuses a part of a model that was split into several files: the rest of it is not looked for. */
static llm_status
refuse_split(reader *r)
{
	uint64_t n = 1;

	for (uint32_t i = 0; i < r->w->n_metas; i++) /* the keys are not indexed yet */
		if (strcmp(r->w->metas[i].key, "split.count") == 0)
			(void) llm_meta_uint(&r->w->metas[i], 0, &n);
	if (n <= 1)
		return LLM_OK;
	return llm_fail(r->err, LLM_E_UNSUPPORTED,
	                "the GGUF file is one of %llu parts of a split model (split.count); merge them "
	                "with llama-gguf-split --merge",
	                (unsigned long long) n);
}

/* Parses a whole file. */
llm_status
llm_gguf_parse(llm_weights *w, const uint8_t *data, uint64_t bytes, llm_error *err)
{
	llm_error local; /* so that the code of a failure is at hand even if nobody wants the message */
	uint64_t limit = bytes < LLM_GGUF_HEADER_BYTES ? bytes : LLM_GGUF_HEADER_BYTES;
	reader r = {.start = data,
	            .p = data,
	            .left = limit,
	            .beyond = bytes - limit,
	            .w = w,
	            .err = err != NULL ? err : &local};
	uint64_t n_tensors;
	uint64_t n_pairs;
	llm_status status = read_version(&r);

	if (status != LLM_OK)
		return status;
	if (!read_u64(&r, &n_tensors) || !read_u64(&r, &n_pairs))
		return bad(&r, "the file ends in its counts");
	if (n_pairs > LLM_META_MAX || n_pairs > r.left / PAIR_BYTES_MIN)
		return bad(&r, "more keys than the file or the limit of 65536 has room for");
	if (n_tensors > LLM_TENSORS_MAX || n_tensors > r.left / TENSOR_BYTES_MIN)
		return bad(&r, "more tensors than the file or the limit of 65536 has room for");
	if ((status = read_pairs(&r, n_pairs)) != LLM_OK || (status = refuse_split(&r)) != LLM_OK)
		return status;
	return read_tensors(&r, n_tensors);
}

/* The bytes of item i of a value whose items are of one kind; NULL when it is not. */
static const uint8_t *
item_of_kind(const llm_meta *m, uint64_t i, llm_meta_kind kind)
{
	if (m == NULL || m->item_kind != kind || i >= m->n_items)
		return NULL;
	if (kind == LLM_META_STRING && m->kind == LLM_META_ARRAY)
		return ((const uint8_t *const *) m->priv)[i];
	return (const uint8_t *) m->priv + i * type_bytes[m->file_type];
}

/* Reads a number of 1, 2, 4 or 8 bytes. */
static uint64_t
load_uint(const uint8_t *p, uint32_t bytes)
{
	uint64_t value = 0;

	memcpy(&value, p, bytes);
	return value;
}

/* Reads a signed number of 1, 2, 4 or 8 bytes. */
static int64_t
load_int(const uint8_t *p, uint32_t bytes)
{
	uint64_t sign = (uint64_t) 1 << (8 * bytes - 1);

	return (int64_t) ((load_uint(p, bytes) ^ sign) - sign);
}

/* Reads an integer of 0 or more. */
bool
llm_meta_uint(const llm_meta *m, uint64_t i, uint64_t *out)
{
	const uint8_t *p;

	if ((p = item_of_kind(m, i, LLM_META_UINT)) != NULL)
		*out = load_uint(p, type_bytes[m->file_type]);
	else if ((p = item_of_kind(m, i, LLM_META_INT)) != NULL &&
	         load_int(p, type_bytes[m->file_type]) >= 0)
		*out = (uint64_t) load_int(p, type_bytes[m->file_type]);
	else
		return false;
	return true;
}

/* Reads an integer. */
bool
llm_meta_int(const llm_meta *m, uint64_t i, int64_t *out)
{
	const uint8_t *p;

	if ((p = item_of_kind(m, i, LLM_META_INT)) != NULL)
		*out = load_int(p, type_bytes[m->file_type]);
	else if ((p = item_of_kind(m, i, LLM_META_UINT)) != NULL &&
	         load_uint(p, type_bytes[m->file_type]) <= INT64_MAX)
		*out = (int64_t) load_uint(p, type_bytes[m->file_type]);
	else
		return false;
	return true;
}

/* Reads a float. Integers are no floats: a writer that confuses them is not to be trusted. */
bool
llm_meta_float(const llm_meta *m, uint64_t i, double *out)
{
	const uint8_t *p = item_of_kind(m, i, LLM_META_FLOAT);
	float narrow;

	if (p == NULL)
		return false;
	if (m->file_type == TYPE_F64)
		memcpy(out, p, sizeof(*out));
	else
	{
		memcpy(&narrow, p, sizeof(narrow));
		*out = (double) narrow;
	}
	return true;
}

/* Reads a truth value. */
bool
llm_meta_bool(const llm_meta *m, uint64_t i, bool *out)
{
	const uint8_t *p = item_of_kind(m, i, LLM_META_BOOL);

	if (p == NULL)
		return false;
	*out = *p != 0;
	return true;
}

/* Reads a string; its length was checked when the file was opened. */
bool
llm_meta_string(const llm_meta *m, uint64_t i, const char **bytes, uint64_t *n_bytes)
{
	const uint8_t *p = item_of_kind(m, i, LLM_META_STRING);

	if (p == NULL)
		return false;
	*n_bytes = load_uint(p, 8);
	*bytes = (const char *) p + 8;
	return true;
}
