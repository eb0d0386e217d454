/*
 * test_safetensors.c: a corpus of bad safetensors files and sharded folders, with good twins.
 *
 * A case is a header and a number of data bytes, once bad and once good. What reference and other
 * readers have let through stands as cases: overlapping ranges (the reference's attacks/README),
 * offsets that wrap to before the mapping (voxtral.c), products that wrap, no checks at all
 * (flux2.c).
 */
#include "weights_files.h"

typedef struct st_case
{
	const char *message; /* what the refusal must say */
	const char *bad;
	size_t bytes_bad;
	const char *good; /* NULL: the case before has the twin */
	size_t bytes_good;
} st_case;

/* A tensor of two floats in the first 8 bytes. */
#define A8 "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
/* The same with other fields. */
#define ENTRY(dtype, shape, range) \
	"{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" range "}}"

static const st_case cases[] = {
    /* The text itself. */
    {"no JSON object", "", 0, "{}", 0},
    {"no JSON object", " {}", 0, "{}  ", 0},
    {"no JSON object", "[]", 0, NULL, 0},
    {"invalid JSON", "{", 0, "{" A8 "}", 8},
    {"invalid JSON", "{" A8 "}x", 8, "{" A8 "}\n", 8},
    {"invalid JSON", "{" A8 ",}", 8, NULL, 0},
    {"invalid JSON", "{" A8 "," A8 "}", 8, NULL, 0},
    {"invalid JSON", "{\"\xff\":1}", 0, NULL, 0},
    {"invalid JSON", "{\"\\ud800\":1}", 0, NULL, 0},
    {"goes on after", "{}", 8, NULL, 0},
    {"goes on after", "{" A8 "}", 9, NULL, 0},
    {"does not lie", "{" A8 "}", 7, NULL, 0},
    {"does not lie", "{" A8 "}", 0, NULL, 0},
    /* Metadata: texts only. */
    {"no object", "{\"__metadata__\":1," A8 "}", 8, "{\"__metadata__\":{}," A8 "}", 8},
    {"no object", "{\"__metadata__\":[\"x\"]}", 0, "{\"__metadata__\":{\"x\":\"y\"}}", 0},
    {"no object", "{\"__metadata__\":null}", 0, NULL, 0},
    {"no string", "{\"__metadata__\":{\"x\":1}}", 0, "{\"__metadata__\":{\"x\":\"1\"}," A8 "}", 8},
    {"no string", "{\"__metadata__\":{\"x\":\"y\",\"z\":{}}}", 0, NULL, 0},
    /* Names. */
    {"1 to 128", "{\"\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "{\" \":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
    {"printable", "{\"a\\u0000\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "{\"a\\u0041\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
    {"printable", "{\"a\\n\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL,
     0},
    {"printable", "{\"\\u00e9\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL,
     0},
    /* The entry: three keys, no others. */
    {"just dtype", "{\"a\":1}", 0, NULL, 0},
    {"just dtype", "{\"a\":null}", 0, NULL, 0},
    {"just dtype", "{\"a\":[1,2,3,4]}", 0, NULL, 0},
    {"just dtype", "{\"a\":{}}", 0, NULL, 0},
    {"just dtype", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, NULL, 0},
    {"just dtype", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8,
     "{\"a\":{\"data_offsets\":[0,8],\"shape\":[2],\"dtype\":\"F32\"}}", 8},
    {"unknown type", "{\"a\":[1,2,3]}", 0, NULL, 0},
    {"unknown type", "{\"a\":{\"dtyp\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL, 0},
    {"have a shape", "{\"a\":{\"dtype\":\"F32\",\"shap\":[2],\"data_offsets\":[0,8]}}", 8, NULL, 0},
    {"two data", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offset\":[0,8]}}", 8, NULL, 0},
    /* Types. */
    {"unknown type", ENTRY("F33", "[2]", "[0,8]"), 8, ENTRY("F32", "[2]", "[0,8]"), 8},
    {"unknown type", ENTRY("f32", "[2]", "[0,8]"), 8, ENTRY("F16", "[4]", "[0,8]"), 8},
    {"unknown type", ENTRY("F3", "[2]", "[0,8]"), 8, ENTRY("BF16", "[4]", "[0,8]"), 8},
    {"unknown type", ENTRY("F32\\u0000", "[2]", "[0,8]"), 8, NULL, 0},
    {"unknown type", "{\"a\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL, 0},
    {"does not fit", ENTRY("F16", "[2]", "[0,8]"), 8, ENTRY("I64", "[1]", "[0,8]"), 8},
    {"does not fit", ENTRY("F64", "[2]", "[0,8]"), 8, ENTRY("F64", "[1]", "[0,8]"), 8},
    {"does not fit", ENTRY("I64", "[2]", "[0,8]"), 8, ENTRY("BOOL", "[8]", "[0,8]"), 8},
    {"does not fit", ENTRY("F4", "[8]", "[0,8]"), 8, ENTRY("F4", "[16]", "[0,8]"), 8},
    {"too large", ENTRY("F4", "[3]", "[0,1]"), 1, ENTRY("F4", "[2]", "[0,1]"), 1},
    {"too large", ENTRY("F6_E2M3", "[2]", "[0,1]"), 1, ENTRY("F6_E2M3", "[4]", "[0,3]"), 3},
    /* Shapes. */
    {"have a shape", ENTRY("F32", "2", "[0,8]"), 8, NULL, 0},
    {"have a shape", ENTRY("F32", "{}", "[0,4]"), 4, ENTRY("F32", "[]", "[0,4]"), 4},
    {"have a shape", ENTRY("F32", "null", "[0,4]"), 4, NULL, 0},
    {"have a shape", ENTRY("F32", "\"2\"", "[0,8]"), 8, NULL, 0},
    {"have a shape", ENTRY("F32", "[1,1,1,1,2]", "[0,8]"), 8, ENTRY("F32", "[1,1,1,2]", "[0,8]"),
     8},
    {"dimension", ENTRY("F32", "[0]", "[0,0]"), 0, NULL, 0},
    {"dimension", ENTRY("F32", "[2,0]", "[0,8]"), 8, ENTRY("F32", "[2,1]", "[0,8]"), 8},
    {"dimension", ENTRY("F32", "[0,18446744073709551615]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[-2]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[2.0]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[2e0]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[\"2\"]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[[2]]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[null]", "[0,8]"), 8, NULL, 0},
    {"dimension", ENTRY("F32", "[18446744073709551618]", "[0,8]"), 8, NULL, 0},
    {"does not fit", ENTRY("F32", "[3]", "[0,8]"), 8, ENTRY("F32", "[3]", "[0,12]"), 12},
    {"does not fit", ENTRY("F32", "[1]", "[0,8]"), 8, ENTRY("F32", "[1,2]", "[0,8]"), 8},
    {"does not fit", ENTRY("F32", "[]", "[0,8]"), 8, NULL, 0},
    {"too large", ENTRY("F32", "[4294967296,4294967296]", "[0,8]"), 8, NULL, 0},
    {"too large", ENTRY("F32", "[9223372036854775809,2]", "[0,8]"), 8, NULL, 0},
    {"too large", ENTRY("F32", "[4611686018427387906]", "[0,8]"), 8, NULL, 0},
    {"too large", ENTRY("F32", "[2147483648,2147483648,2,2]", "[0,8]"), 8, NULL, 0},
    {"too large", ENTRY("F32", "[576460752303423490]", "[0,8]"), 8, NULL, 0},
    {"does not fit", ENTRY("F32", "[288230376151711744]", "[0,8]"), 8, NULL, 0},
    /* Ranges. */
    {"two data", ENTRY("F32", "[2]", "8"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[8]"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[0,4,8]"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "{\"0\":0,\"1\":8}"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[-8,0]"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[-1048700,-8]"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[0,8.0]"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[0,\"8\"]"), 8, NULL, 0},
    {"two data", ENTRY("F32", "[2]", "[18446744073709551616,18446744073709551624]"), 8, NULL, 0},
    {"does not lie", ENTRY("F32", "[2]", "[8,0]"), 8, NULL, 0},
    {"does not lie", ENTRY("F32", "[2]", "[8,16]"), 8, NULL, 0},
    {"does not lie", ENTRY("F32", "[2]", "[18446744073709551608,0]"), 8, NULL, 0},
    {"does not lie", ENTRY("F32", "[2]", "[18446744073709551600,18446744073709551608]"), 8, NULL,
     0},
    {"hole", ENTRY("F32", "[2]", "[1,9]"), 9, NULL, 0},
    {"hole", ENTRY("F32", "[2]", "[8,16]"), 16, NULL, 0},
    /* Two tensors. */
    {"overlaps", "{" A8 ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "{" A8 ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16},
    {"overlaps", "{" A8 ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
     "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}," A8 "}", 16},
    {"hole", "{" A8 ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}", 16,
     "{" A8 ",\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]}}", 12},
    {"overlaps", "{" A8 ",\"p\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
     "{" A8 ",\"p\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}}", 16},
    {"does not lie", "{" A8 ",\"p\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[8,24]}}", 16,
     "{" A8 ",\"p\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[8,24]}}", 24},
    {"does not fit", "{" A8 ",\"p\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[8,9]}}", 9,
     "{" A8 ",\"p\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}", 9},
    {"goes on after", "{" A8 ",\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[8,10]}}",
     11, "{" A8 ",\"b\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[8,10]}}", 10},
};

#define N_CASES (sizeof(cases) / sizeof(cases[0]))

/* Writes a file of a header and so many data bytes. */
static void
write_st(file_bytes *f, const char *header, size_t n, size_t bytes_data)
{
	f->n = 0;
	put_uint(f, n, 8);
	put(f, header, n);
	for (size_t i = 0; i < bytes_data; i++)
		put_uint(f, i, 1);
}

/* Every case: the bad file is refused for its reason, its twin loads. */
static void
test_cases(void)
{
	static file_bytes f;

	for (size_t i = 0; i < N_CASES; i++)
	{
		write_st(&f, cases[i].bad, strlen(cases[i].bad), cases[i].bytes_bad);
		check_bad(LLM_FORMAT_HF, &f, cases[i].bad, cases[i].message);
		if (cases[i].good == NULL)
			continue;
		write_st(&f, cases[i].good, strlen(cases[i].good), cases[i].bytes_good);
		check_good(LLM_FORMAT_HF, &f, cases[i].good);
	}
}

static const struct
{
	const char *name;
	size_t n_bits;
	bool usable;
} dtypes[] = {{"F32", 32, true},         {"F16", 16, true},     {"BF16", 16, true},
              {"BOOL", 8, false},        {"U8", 8, false},      {"I8", 8, false},
              {"U16", 16, false},        {"I16", 16, false},    {"U32", 32, false},
              {"I32", 32, false},        {"U64", 64, false},    {"I64", 64, false},
              {"F64", 64, false},        {"C64", 64, false},    {"F8_E4M3", 8, false},
              {"F8_E5M2", 8, false},     {"F8_E8M0", 8, false}, {"F8_E4M3FNUZ", 8, false},
              {"F8_E5M2FNUZ", 8, false}, {"F6_E2M3", 6, false}, {"F6_E3M2", 6, false},
              {"F4", 4, false}};

/* All types of the format: of the right size loaded, or left out; a byte more or less refused. */
static void
test_types(void)
{
	static file_bytes f;

	for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
		for (int delta = -1; delta <= 1; delta++)
		{
			size_t bytes = dtypes[i].n_bits + (size_t) delta; /* 8 elements */
			char header[128];
			llm_weights *w;

			snprintf(header, sizeof(header),
			         "{\"a\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,%zu]}}",
			         dtypes[i].name, bytes);
			write_st(&f, header, strlen(header), bytes);
			if (delta != 0)
			{
				check_bad(LLM_FORMAT_HF, &f, header, "does not fit");
				continue;
			}
			check_good(LLM_FORMAT_HF, &f, header);
			REQUIRE(llm_weights_open_memory(LLM_FORMAT_HF, f.data, f.n, &w, NULL) == LLM_OK);
			CHECK((llm_weights_find(w, "a") != NULL) == dtypes[i].usable);
			CHECK(llm_weights_n_tensors(w) == dtypes[i].usable);
			llm_weights_close(w);
		}
}

/* Lengths of the header that lie, wrap or exceed the limit. */
static void
test_header_length(void)
{
	static const uint64_t lengths[] = {0,
	                                   1,
	                                   54,
	                                   56,
	                                   64,
	                                   100000000,
	                                   100000001,
	                                   UINT32_MAX,
	                                   1ULL << 32,
	                                   1ULL << 63,
	                                   UINT64_MAX,
	                                   UINT64_MAX - 7,
	                                   UINT64_MAX - 8};
	static file_bytes f;
	const char header[] = "{" A8 "}";
	size_t n = sizeof(header) - 1;

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
	{
		if (lengths[i] == n)
			continue;
		write_st(&f, header, n, 8);
		memcpy(f.data, &lengths[i], 8);
		check_bad(LLM_FORMAT_HF, &f, "length of the header", "");
	}
	write_st(&f, header, n, 8);
	check_good(LLM_FORMAT_HF, &f, "the same with the right length");
}

/* A file cut anywhere is refused. */
static void
test_truncation(void)
{
	static file_bytes f;
	const char header[] = "{\"__metadata__\":{\"format\":\"pt\"}," A8
	                      ",\"b\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[8,14]}}";

	write_st(&f, header, sizeof(header) - 1, 14);
	check_good(LLM_FORMAT_HF, &f, "whole");
	while (f.n-- > 0)
		check_bad(LLM_FORMAT_HF, &f, "cut", "");
}

/* A name of 128 bytes is the longest. */
static void
test_long_name(void)
{
	static file_bytes f;
	char header[256];

	for (int n = 127; n <= 129; n++)
	{
		snprintf(header, sizeof(header),
		         "{\"%0*d\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", n, 0);
		write_st(&f, header, strlen(header), 4);
		if (n <= 128)
			check_good(LLM_FORMAT_HF, &f, "name");
		else
			check_bad(LLM_FORMAT_HF, &f, "name", "1 to 128");
	}
}

/* 65,536 tensors are read, 65,537 are not. */
static void
test_many_tensors(void)
{
	size_t size = (size_t) 8 << 20;
	char *file = malloc(size);

	for (unsigned n = 65536; n <= 65538; n++)
	{
		size_t used = 9;
		llm_weights *w = NULL;
		llm_error err = {LLM_OK, ""};
		uint64_t length;

		file[8] = '{';
		for (unsigned i = 0; i < n; i++)
			used += (size_t)
			    snprintf(file + used, size - used,
			             "%s\"%u\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[%u,%u]}",
			             i > 0 ? "," : "", i, 2 * i, 2 * i + 2);
		file[used++] = '}';
		length = used - 8;
		memcpy(file, &length, 8);
		memset(file + used, 0, 2 * n);
		CHECK((llm_weights_open_memory(LLM_FORMAT_HF, file, used + 2 * n, &w, &err) == LLM_OK) ==
		      (n == 65536));
		CHECK(n == 65536 || strstr(err.message, "more tensors") != NULL);
		CHECK(n != 65536 ||
		      (llm_weights_n_tensors(w) == n && llm_weights_find(w, "65535") != NULL));
		llm_weights_close(w);
	}
	free(file);
}

/* Two files for the sharded cases: a in the first, b and an integer tensor in the second. */
#define SHARD_1 "{" A8 "}"
#define SHARD_2 \
	"{\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[0,8]}," \
	"\"p\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}}"
#define MAP(members) "{\"metadata\":{},\"weight_map\":{" members "}}"

static const struct
{
	const char *message; /* NULL: the folder is good */
	const char *index;
} indexes[] = {
    {NULL, MAP("\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\",\"p\":\"s2.safetensors\"")},
    {NULL, "{\"weight_map\":{\"p\":\"s2.safetensors\",\"b\":\"s2.safetensors\","
           "\"a\":\"s1.safetensors\"}}"},
    {NULL, MAP("\"a\":\"s1.safetensors\"")},
    {NULL, MAP("\"b\":\"s2.safetensors\",\"p\":\"s2.safetensors\"")},
    {"invalid JSON", ""},
    {"invalid JSON", "{"},
    {"no weight_map", "{}"},
    {"no weight_map", "[]"},
    {"no weight_map", "{\"weight_map\":[]}"},
    {"no weight_map", "{\"weight_map\":null}"},
    {"no weight_map", "{\"weight_map\":{}}"},
    {"plain name", MAP("\"a\":1")},
    {"plain name", MAP("\"a\":null")},
    {"plain name", MAP("\"a\":\"\"")},
    {"plain name", MAP("\"a\":\".safetensors\"")},
    {"plain name", MAP("\"a\":\"..safetensors\"")},
    {"plain name", MAP("\"a\":\"s1.bin\"")},
    {"plain name", MAP("\"a\":\"s1.safetensors.py\"")},
    {"plain name", MAP("\"a\":\"../s1.safetensors\"")},
    {"plain name", MAP("\"a\":\"/tmp/s1.safetensors\"")},
    {"plain name", MAP("\"a\":\"x/s1.safetensors\"")},
    {"plain name", MAP("\"a\":\"x\\u0000/s1.safetensors\"")},
    {"plain name", MAP("\"a\":\"x\\n.safetensors\"")},
    {"plain name", MAP("\"a\":\"\\u00e9.safetensors\"")},
    {"plain name", MAP("\"a\":\"s1.safetensors\",\"b\":\"./s2.safetensors\"")},
    {"could not open", MAP("\"a\":\"s3.safetensors\"")},
    {"could not open", MAP("\"a\":\"s1.safetensors\",\"b\":\"s3.safetensors\"")},
    {"not a regular file", MAP("\"a\":\"s1.safetensors\",\"b\":\"t.safetensors\"")},
    {"where the index has it", MAP("\"a\":\"s2.safetensors\"")},
    {"where the index has it", MAP("\"x\":\"s1.safetensors\"")},
    {"where the index has it", MAP("\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"")},
    {"where the index has it",
     MAP("\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\",\"p\":\"s2.safetensors\"")},
    {"the index has 2 tensors, its files have 1",
     MAP("\"a\":\"s1.safetensors\",\"x\":\"s1.safetensors\"")},
    {"the index has 4 tensors, its files have 3",
     MAP("\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\",\"p\":\"s2.safetensors\","
         "\"x\":\"s1.safetensors\"")},
};

/* Every index over the two files. */
static void
test_indexes(void)
{
	static file_bytes f;

	write_st(&f, SHARD_1, strlen(SHARD_1), 8);
	temp_write("s1.safetensors", f.data, f.n);
	write_st(&f, SHARD_2, strlen(SHARD_2), 16);
	temp_write("s2.safetensors", f.data, f.n);
	REQUIRE(mkdir(temp_file("t.safetensors"), 0700) == 0);
	temp_write("config.json", "{}", 2);
	for (size_t i = 0; i < sizeof(indexes) / sizeof(indexes[0]); i++)
	{
		const char *text = indexes[i].index;
		llm_error err = {LLM_OK, ""};
		llm_weights *w;
		llm_status status;

		temp_write("model.safetensors.index.json", text, strlen(text));
		status = llm_weights_open(temp_folder, &w, &err);
		CHECK_MSG((status == LLM_OK) == (indexes[i].message == NULL), "%s: %s", text, err.message);
		CHECK_MSG(indexes[i].message == NULL || text[0] == '\0' ||
		              strstr(err.message, indexes[i].message) != NULL,
		          "%s: %s", text, err.message);
		CHECK((w != NULL) == (status == LLM_OK));
		n_good_loaded += status == LLM_OK;
		n_bad_refused += status != LLM_OK && err.message[0] != '\0';
		llm_weights_close(w);
	}
	unlink(temp_file("model.safetensors.index.json"));
	rmdir(temp_file("t.safetensors"));
}

/* The tensors of all shards are one model; its digest goes over the files by name. */
static void
test_sharded(void)
{
	llm_weights *w;
	char hex[65];
	const char *index = indexes[1].index;

	temp_write("model.safetensors.index.json", index, strlen(index));
	REQUIRE(llm_weights_open(temp_folder, &w, NULL) == LLM_OK);
	CHECK(llm_weights_n_tensors(w) == 2 && llm_weights_find(w, "p") == NULL);
	CHECK(llm_weights_find(w, "a") != NULL && llm_weights_find(w, "b")->dtype == PP_F16);
	CHECK(llm_weights_bytes(w) == strlen(SHARD_1) + strlen(SHARD_2) + 16 + 24);
	CHECK(llm_weights_digest(w, hex, NULL) == LLM_OK && strlen(hex) == 64);
	llm_weights_advise_cold(w);
	CHECK(((const uint8_t *) llm_weights_find(w, "b")->data)[7] == 7);
	llm_weights_close(w);
	unlink(temp_file("model.safetensors.index.json"));
}

/* An index of more files than the limit is refused before any is opened. */
static void
test_many_shards(void)
{
	size_t size = 1 << 18;
	char *text = malloc(size);
	size_t n = (size_t) snprintf(text, size, "{\"weight_map\":{");
	llm_weights *w;
	llm_error err;

	for (int i = 0; i < 1025; i++)
		n += (size_t) snprintf(text + n, size - n, "%s\"%d\":\"%d.safetensors\"", i > 0 ? "," : "",
		                       i, i);
	n += (size_t) snprintf(text + n, size - n, "}}");
	temp_write("model.safetensors.index.json", text, n);
	CHECK(llm_weights_open(temp_folder, &w, &err) == LLM_E_LIMIT && w == NULL);
	CHECK(strstr(err.message, "more than 1024 files") != NULL);
	unlink(temp_file("model.safetensors.index.json"));
	free(text);
}

/* Random damage is refused or read, never more. */
static void
test_mutations(void)
{
	static const char letters[] = "{}[]:,\"0123456789-aFIB\\u";
	static file_bytes whole, f;
	uint64_t state = 5;
	int n_refused = 0;

	write_st(&whole, SHARD_2, strlen(SHARD_2), 16);
	for (int round = 0; round < 30000; round++)
	{
		llm_error err = {LLM_OK, ""};
		llm_status status;

		f = whole;
		for (int k = 0; k <= round % 3; k++)
			f.data[8 + test_random(&state) % strlen(SHARD_2)] =
			    (uint8_t) letters[test_random(&state) % (sizeof(letters) - 1)];
		status = open_exact(LLM_FORMAT_HF, &f, &err);
		CHECK(status == err.code && (status == LLM_OK || err.message[0] != '\0'));
		n_refused += status != LLM_OK;
	}
	CHECK(n_refused > 10000 && n_refused < 30000);
}

/* Lets each allocation fail once while the folder is opened. */
static void
check_no_memory(void)
{
	uint64_t before = llm_alloc_count();
	uint64_t needed;
	llm_weights *w;

	REQUIRE(llm_weights_open(temp_folder, &w, NULL) == LLM_OK);
	llm_weights_close(w);
	needed = llm_alloc_count() - before;
	CHECK(needed >= 15);
	for (uint64_t i = 1; i <= needed; i++)
	{
		llm_alloc_fail_after(i, false);
		CHECK_MSG(llm_weights_open(temp_folder, &w, NULL) == LLM_E_NOMEM, "allocation %d", (int) i);
		CHECK(w == NULL);
	}
	llm_alloc_fail_after(0, false);
}

/* No memory is a status, and nothing leaks: with one file and with several. */
static void
test_no_memory(void)
{
	static file_bytes f;

	write_st(&f, SHARD_1, strlen(SHARD_1), 8);
	temp_write("model.safetensors", f.data, f.n);
	check_no_memory();
	temp_write("model.safetensors.index.json", indexes[0].index, strlen(indexes[0].index));
	check_no_memory();
}

/* The corpus is as large as it is said to be; it runs last. */
static void
test_corpus_size(void)
{
	printf("bad safetensors models refused: %d, good ones loaded: %d\n", n_bad_refused,
	       n_good_loaded);
	CHECK(n_bad_refused >= 150 && n_good_loaded >= 45);
}

int
main(void)
{
	static const char *const files[] = {"config.json",
	                                    "model.safetensors",
	                                    "s1.safetensors",
	                                    "s2.safetensors",
	                                    "model.safetensors.index.json",
	                                    NULL};

	temp_folder_create();
	RUN(cases);
	RUN(types);
	RUN(header_length);
	RUN(truncation);
	RUN(long_name);
	RUN(many_tensors);
	RUN(mutations);
	RUN(indexes);
	RUN(sharded);
	RUN(many_shards);
	RUN(no_memory);
	RUN(corpus_size);
	temp_folder_remove(files);
	return test_summary("safetensors");
}
