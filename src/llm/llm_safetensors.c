/*
 * llm_safetensors.c: reads the header of a safetensors file from memory.
 *
 * Layout: the header's length in 8 bytes, the header, which is a JSON object of name → {dtype,
 * shape, data_offsets}, and the data. The rules are those of the reference implementation: the
 * header has at most 100 MB; every range is exactly as long as shape and type say; the ranges fill
 * the data from its first to its last byte without overlap or hole. On top, a key that the format
 * does not know is refused, and so is a dimension of 0.
 *
 * Tensors of types that hold no weights (BERT's position_ids are I64) are checked as all others and
 * then left out. The header's JSON dies with the call; names are copied into the object's arena.
 */
#include <string.h>

#include "llm_check.h"
#include "llm_weights_impl.h"

typedef struct st_type
{
	const char *name;
	uint32_t n_bits;
	int dtype; /* pp_dtype, or -1 for types that are no weights of ours */
} st_type;

static const st_type st_types[] = {
    {"F32", 32, PP_F32}, {"F16", 16, PP_F16},    {"BF16", 16, PP_BF16},  {"BOOL", 8, -1},
    {"U8", 8, -1},       {"I8", 8, -1},          {"U16", 16, -1},        {"I16", 16, -1},
    {"U32", 32, -1},     {"I32", 32, -1},        {"U64", 64, -1},        {"I64", 64, -1},
    {"F64", 64, -1},     {"C64", 64, -1},        {"F8_E4M3", 8, -1},     {"F8_E5M2", 8, -1},
    {"F8_E8M0", 8, -1},  {"F8_E4M3FNUZ", 8, -1}, {"F8_E5M2FNUZ", 8, -1}, {"F6_E2M3", 6, -1},
    {"F6_E3M2", 6, -1},  {"F4", 4, -1}};

/* What the functions below hand around. */
typedef struct st_parser
{
	llm_weights *w;
	const uint8_t *data; /* the data section */
	uint64_t bytes_data;
	llm_shard *shard;
	llm_error *err;
} st_parser;

/* Refuses the file. */
static llm_status
bad(st_parser *s, const char *what)
{
	return llm_fail(s->err, LLM_E_FORMAT, "invalid safetensors file: %s", what);
}

/* Refuses a tensor. */
static llm_status
bad_tensor(st_parser *s, const char *name, const char *what)
{
	return llm_fail(s->err, LLM_E_FORMAT, "invalid safetensors file: tensor \"%s\" %s", name, what);
}

/* Finds the type of an entry; NULL when there is none of that name. */
static const st_type *
find_type(const llm_json *entry)
{
	const llm_json *name = llm_json_member(entry, "dtype");

	for (size_t i = 0; i < sizeof(st_types) / sizeof(st_types[0]); i++)
		if (llm_json_is(name, st_types[i].name))
			return &st_types[i];
	return NULL;
}

/* Reads the shape: up to four dimensions, each at least 1; none for a single number. */
static llm_status
read_shape(st_parser *s, const llm_json *entry, llm_tensor *t)
{
	const llm_json *shape = llm_json_member(entry, "shape");
	uint64_t n = llm_json_size(shape);

	if (llm_json_get_kind(shape) != LLM_JSON_ARRAY || n > 4)
		return bad_tensor(s, t->name, "does not have a shape of up to 4 dimensions");
	t->n_dims = (uint32_t) n;
	for (uint64_t i = 0; i < n; i++)
		if (!llm_json_u64(llm_json_item(shape, i), &t->dims[i]) || t->dims[i] < 1)
			return bad_tensor(s, t->name, "has a dimension that is no number of 1 or more");
	return LLM_OK;
}

/* Computes the bytes of n elements; false when they do not fit or end within a byte. */
static bool
type_bytes(const st_type *type, uint64_t n, uint64_t *bytes)
{
	uint64_t n_bits;

	if (!pp_mul_ok(n, type->n_bits, &n_bits) || n_bits % 8 != 0)
		return false;
	*bytes = n_bits / 8;
	return true;
}

/* Reads the place of a tensor, which must be as long as its shape and type say. */
static llm_status
read_range(st_parser *s, const llm_json *entry, const st_type *type, llm_tensor *t, uint64_t *begin)
{
	const llm_json *range = llm_json_member(entry, "data_offsets");
	uint64_t end;
	uint64_t n;

	if (llm_json_size(range) != 2 || !llm_json_u64(llm_json_item(range, 0), begin) ||
	    !llm_json_u64(llm_json_item(range, 1), &end))
		return bad_tensor(s, t->name, "does not have two data offsets");
	if (*begin > end || end > s->bytes_data)
		return bad_tensor(s, t->name, "does not lie in the file");
	if (!llm_weights_n_elements(t->dims, t->n_dims, &n) || !type_bytes(type, n, &t->bytes))
		return bad_tensor(s, t->name, "is too large");
	if (t->bytes != end - *begin)
		return bad_tensor(s, t->name, "has a shape that does not fit its data");
	t->data = s->data + *begin;
	return LLM_OK;
}

/* Reads one entry of the header. */
static llm_status
read_tensor(st_parser *s, const llm_json *entry, llm_tensor *t, llm_extent *extent)
{
	const st_type *type = find_type(entry);
	llm_status status;

	if (llm_json_size(entry) != 3)
		return bad_tensor(s, t->name, "does not have just dtype, shape and data_offsets");
	if (type == NULL)
		return bad_tensor(s, t->name, "is of an unknown type");
	if (s->shard->weight_map != NULL &&
	    !llm_json_is(llm_json_member(s->shard->weight_map, t->name), s->shard->file_name))
		return bad_tensor(s, t->name, "is not in the file where the index has it");
	if ((status = read_shape(s, entry, t)) != LLM_OK ||
	    (status = read_range(s, entry, type, t, &extent->begin)) != LLM_OK)
		return status;
	extent->bytes = t->bytes;
	extent->name = t->name;
	if (type->dtype < 0)
		return LLM_OK;
	t->dtype = (pp_dtype) type->dtype;
	return llm_weights_add_tensor(s->w, t, s->err);
}

/* Checks the free-form part of the header: texts only. */
static llm_status
check_metadata(st_parser *s, const llm_json *metadata)
{
	const char *key;
	size_t n;

	if (llm_json_get_kind(metadata) != LLM_JSON_OBJECT)
		return bad(s, "__metadata__ is no object");
	for (uint64_t i = 0; i < llm_json_size(metadata); i++)
		if (llm_json_get_kind(llm_json_member_at(metadata, i, &key, &n)) != LLM_JSON_STRING)
			return bad(s, "__metadata__ has a value that is no string");
	return LLM_OK;
}

/* Reads the entries into the object; extents get their places. */
static llm_status
read_entries(st_parser *s, const llm_json *header, llm_extent *extents)
{
	llm_status status = LLM_OK;

	for (uint64_t i = 0; i < llm_json_size(header) && status == LLM_OK; i++)
	{
		llm_tensor t = {.n_dims = 0};
		const llm_json *entry;
		const char *name;
		size_t n;

		entry = llm_json_member_at(header, i, &name, &n);
		if (n == strlen("__metadata__") && memcmp(name, "__metadata__", n) == 0)
		{
			status = check_metadata(s, entry);
			continue;
		}
		t.name = llm_weights_copy_name(s->w, "tensor name", name, n, LLM_TENSOR_NAME_MAX, s->err);
		status = t.name == NULL ? s->err->code
		                        : read_tensor(s, entry, &t, &extents[s->shard->n_entries++]);
	}
	return status;
}

/* Reads a parsed header. */
static llm_status
read_header(st_parser *s, const llm_json *header)
{
	uint64_t n = llm_json_size(header);
	llm_extent *extents;
	llm_status status;
	uint64_t end;

	if (n > LLM_TENSORS_MAX + 1)
		return bad(s, "more tensors than the limit of 65536");
	extents = llm_malloc_array((size_t) n, sizeof(*extents));
	if (extents == NULL)
		return llm_fail(s->err, LLM_E_NOMEM, "out of memory while reading a safetensors header");
	status = read_entries(s, header, extents);
	if (status == LLM_OK)
		status =
		    llm_weights_check_extents(extents, (uint32_t) s->shard->n_entries, 1, &end, s->err);
	if (status == LLM_OK && end != s->bytes_data)
		status = bad(s, "the file goes on after its last tensor");
	llm_free(extents);
	return status;
}

/* Parses a whole file. */
llm_status
llm_safetensors_parse(llm_weights *w, const uint8_t *data, uint64_t bytes, llm_shard *shard,
                      llm_error *err)
{
	llm_error local; /* so that the code of a failure is at hand even if nobody wants the message */
	st_parser s = {.w = w, .shard = shard, .err = err ? err : &local};
	llm_json_doc *doc;
	llm_status status;
	uint64_t n;

	if (bytes < sizeof(n))
		return bad(&s, "the file ends in the length of its header");
	memcpy(&n, data, sizeof(n));
	if (n > LLM_ST_HEADER_BYTES)
		return bad(&s, "a header of more than 100 MB");
	if (n > bytes - sizeof(n))
		return bad(&s, "a header longer than the file");
	/* White space may follow the header, not precede it; so no other file looks like one. */
	if (n == 0 || data[sizeof(n)] != '{')
		return bad(&s, "the header is no JSON object");
	s.data = data + sizeof(n) + n;
	s.bytes_data = bytes - sizeof(n) - n;
	shard->n_entries = 0;
	status = llm_json_parse((const char *) data + sizeof(n), (size_t) n, &doc, s.err);
	if (status != LLM_OK)
		return status;
	status = read_header(&s, llm_json_root(doc));
	llm_json_free(doc);
	return status;
}
