/*
 * test_gguf.c: a corpus of bad GGUF files, each next to a good one that differs only in the fault.
 *
 * One good file holds a value of every type, arrays, and four tensors. A case overwrites fields of
 * it, found by name, once with a bad and once with a good value, so that a check that refuses too
 * much fails as surely as one that refuses too little (an inverted comparison once survived for
 * lack of the good file). The names of published holes stand at the cases that would have shown
 * them.
 */
#include "weights_files.h"

/* Where a field of the good file lies. */
typedef struct mark
{
	const char *name;
	size_t at;
} mark;

static file_bytes base;
static mark marks[256];
static int n_marks;

/* Notes that the field that comes next is so named. */
static void
note(const char *name)
{
	marks[n_marks++] = (mark){name, base.n};
}

/* Finds a field. */
static size_t
place(const char *name)
{
	for (int i = 0; i < n_marks; i++)
		if (strcmp(marks[i].name, name) == 0)
			return marks[i].at;
	printf("no field %s\n", name);
	exit(1);
}

/* Appends a string. */
static void
put_string(const char *s)
{
	put_uint(&base, strlen(s), 8);
	put(&base, s, strlen(s));
}

/* Appends a key and a scalar of a type. */
static void
put_scalar(const char *key, uint32_t type, uint64_t value, size_t n)
{
	put_string(key);
	put_uint(&base, type, 4);
	note(key);
	put_uint(&base, value, n);
}

/* Appends a key and the head of an array. */
static void
put_array(const char *key, uint32_t item_type, uint64_t n_items)
{
	put_string(key);
	put_uint(&base, 9, 4);
	note(key);
	put_uint(&base, item_type, 4);
	put_uint(&base, n_items, 8);
}

/* Appends a tensor's record; its fields are marked under its name and a letter. */
static void
put_tensor(const char *const names[5], const char *name, uint32_t n_dims, const uint64_t *ne,
           uint32_t type, uint64_t offset)
{
	note(names[0]);
	put_string(name);
	note(names[1]);
	put_uint(&base, n_dims, 4);
	note(names[2]);
	for (uint32_t i = 0; i < n_dims; i++)
		put_uint(&base, ne[i], 8);
	note(names[3]);
	put_uint(&base, type, 4);
	note(names[4]);
	put_uint(&base, offset, 8);
}

/* Appends the keys: every type, arrays of four of them. */
static void
put_keys(void)
{
	note("key0");
	put_string("general.architecture");
	note("key0.type");
	put_uint(&base, 8, 4);
	note("key0.value");
	put_string("llama");
	note("align.key");
	put_string("general.alignment");
	note("align.type");
	put_uint(&base, 4, 4);
	note("align");
	put_uint(&base, 32, 4);
	put_scalar("x.u8", 0, 200, 1);
	put_scalar("x.i8", 1, 0x9c, 1);
	put_scalar("x.u16", 2, 60000, 2);
	put_scalar("x.i16", 3, 0x8ad0, 2);
	put_scalar("x.i32", 5, 0x80000000, 4);
	put_scalar("x.f32", 6, 0x3f000000, 4);
	put_scalar("x.bool", 7, 1, 1);
	put_scalar("x.u64", 10, UINT64_MAX, 8);
	put_scalar("x.i64", 11, (uint64_t) 1 << 63, 8);
	put_scalar("x.f64", 12, 0x3fe0000000000000, 8);
	put_array("x.ints", 4, 3);
	for (int i = 0; i < 3; i++)
		put_uint(&base, 7, 4);
	put_array("x.bools", 7, 4);
	put_uint(&base, 0x00010001, 4);
	put_array("x.texts", 8, 3);
	put_string("ab");
	note("x.texts.1");
	put_string("");
	note("x.texts.2");
	put_string("cdef");
	note("last");
	put_array("x.none", 8, 0);
}

#define N_KEYS 16

/* Appends the tensors' records: F32, Q4_0, Q4_K, BF16, and after them the data. */
static void
put_tensors(void)
{
	static const char *const t[4][5] = {{"t0", "t0.n", "t0.ne", "t0.type", "t0.at"},
	                                    {"t1", "t1.n", "t1.ne", "t1.type", "t1.at"},
	                                    {"t2", "t2.n", "t2.ne", "t2.type", "t2.at"},
	                                    {"t3", "t3.n", "t3.ne", "t3.type", "t3.at"}};
	static const uint8_t data[544] = {0};

	put_tensor(t[0], "t0", 2, (uint64_t[]){8, 4}, PP_F32, 0);            /* 128 bytes */
	put_tensor(t[1], "t1", 2, (uint64_t[]){64, 2}, PP_Q4_0, 128);        /* 72 */
	put_tensor(t[2], "t2", 4, (uint64_t[]){256, 1, 1, 2}, PP_Q4_K, 224); /* 288 */
	put_tensor(t[3], "t3", 1, (uint64_t[]){3}, PP_BF16, 512);            /* 6 */
	while (base.n % 32 != 0)
		put_uint(&base, 0, 1);
	note("data");
	put(&base, data, 518);
	note("end");
	put(&base, data, 544 - 518);
}

/* Builds the good file. */
static void
build_base(void)
{
	base.n = 0;
	n_marks = 0;
	put(&base, "GGUF", 4);
	note("version");
	put_uint(&base, 3, 4);
	note("n_tensors");
	put_uint(&base, 4, 8);
	note("n_keys");
	put_uint(&base, N_KEYS, 8);
	put_keys();
	put_tensors();
}

/* A number written over a field. */
typedef struct patch
{
	const char *field;
	size_t plus; /* bytes behind the field's start */
	size_t bytes;
	uint64_t value;
} patch;

typedef struct patch_case
{
	const char *message; /* what the refusal must say */
	patch bad[3];
	patch good[3]; /* none: the good file itself */
} patch_case;

#define MAX64 UINT64_MAX
#define ONE   ((uint64_t) 1)

static const patch_case cases[] = {
    /* The file's head. A magic printed by %s once was not NUL-terminated (ggml 4af8f4a4). */
    {"begin with GGUF", {{"version", 0, 4, 0}, {"version", -4, 4, 0x46475547}}, {{0}}},
    {"begin with GGUF", {{"version", -4, 4, 0xffffffff}}, {{"version", -4, 4, 0x46554747}}},
    {"version 1", {{"version", 0, 4, 1}}, {{"version", 0, 4, 2}}},
    {"version 4", {{"version", 0, 4, 4}}, {{"version", 0, 4, 3}}},
    {"version 4294967295", {{"version", 0, 4, 0xffffffff}}, {{0}}},
    {"big-endian", {{"version", 0, 4, 0x03000000}}, {{0}}},
    {"big-endian", {{"version", 0, 4, 0}}, {{0}}},
    /* CVE-2024-21836, -23605: counts taken on trust. */
    {"more tensors", {{"n_tensors", 0, 8, MAX64}}, {{0}}},
    {"more tensors", {{"n_tensors", 0, 8, 65537}}, {{0}}},
    {"more tensors", {{"n_tensors", 0, 8, ONE << 63}}, {{0}}},
    {"more tensors", {{"n_tensors", 0, 8, (MAX64 / 88) + 1}}, {{0}}},
    {"more keys", {{"n_keys", 0, 8, MAX64}}, {{0}}},
    {"more keys", {{"n_keys", 0, 8, 65537}}, {{0}}},
    {"more keys", {{"n_keys", 0, 8, ONE << 63}}, {{0}}},
    {"", {{"n_tensors", 0, 8, 5}}, {{"n_tensors", 0, 8, 4}}},
    {"goes on after", {{"n_tensors", 0, 8, 3}}, {{0}}},
    {"", {{"n_keys", 0, 8, N_KEYS + 1}}, {{0}}},
    {"", {{"n_keys", 0, 8, N_KEYS - 1}}, {{0}}},
    /* CVE-2024-23496: a length of a string that wraps when 1 is added. */
    {"ends in a name", {{"key0", 0, 8, MAX64}}, {{0}}},
    {"ends in a name", {{"key0", 0, 8, MAX64 - 7}}, {{0}}},
    {"ends in a name", {{"key0", 0, 8, ONE << 32}}, {{0}}},
    {"ends in a name", {{"key0", 0, 8, ONE << 63}}, {{0}}},
    {"1 to 65535", {{"key0", 0, 8, 0}}, {{0}}},
    {"printable", {{"key0", 8, 1, 0}}, {{"key0", 8, 1, 'G'}}},
    {"printable", {{"key0", 9, 1, 0x7f}}, {{"key0", 9, 1, '~'}}},
    {"printable", {{"key0", 9, 1, 0x1f}}, {{"key0", 9, 1, ' '}}},
    {"printable", {{"key0", 9, 1, 0xc3}}, {{"key0", 9, 1, 'E'}}},
    {"past the end", {{"key0.value", 0, 8, MAX64}}, {{0}}},
    {"past the end", {{"key0.value", 0, 8, MAX64 - 7}}, {{0}}},
    {"past the end", {{"key0.value", 0, 8, 1 << 20}}, {{0}}},
    /* df9ac4ac, e6db6ac6: two keys of one name. */
    {"\"x.i8\" is there twice", {{"x.u8", -5, 1, '8'}, {"x.u8", -6, 1, 'i'}}, {{0}}},
    {"\"x.u16\" is there twice", {{"x.i16", -7, 1, 'u'}}, {{"x.i16", -7, 1, 'j'}}},
    /* 228be52c: a type that is negative or none. */
    {"unknown type", {{"key0.type", 0, 4, 13}}, {{0}}},
    {"unknown type", {{"key0.type", 0, 4, 0xffffffff}}, {{0}}},
    {"unknown type", {{"x.u8", -4, 4, 0x80000000}}, {{"x.u8", -4, 4, 1}}},
    {"unknown type", {{"x.u16", -4, 4, 256}}, {{"x.u16", -4, 4, 3}}},
    {"array of an unknown type", {{"x.ints", 0, 4, 13}}, {{"x.ints", 0, 4, 5}}},
    {"array of an unknown type", {{"x.ints", 0, 4, 0xffffffff}}, {{"x.ints", 0, 4, 6}}},
    {"array of arrays", {{"x.ints", 0, 4, 9}}, {{0}}},
    {"array of arrays", {{"last", 12 + 6, 4, 9}, {"x.none", 0, 4, 9}}, {{"x.none", 0, 4, 4}}},
    /* CVE-2024-21825, -21802; 475cbad5: sizes of arrays that wrap, and the inverted comparison. */
    {"room for", {{"x.ints", 4, 8, MAX64}}, {{0}}},
    {"room for", {{"x.ints", 4, 8, (ONE << 62) + 3}}, {{0}}},
    {"room for", {{"x.ints", 4, 8, ONE << 63}}, {{0}}},
    {"room for", {{"x.ints", 4, 8, 1 << 20}}, {{0}}},
    {"room for", {{"x.bools", 4, 8, MAX64}}, {{0}}},
    {"room for", {{"x.texts", 4, 8, MAX64}}, {{0}}},
    {"room for", {{"x.texts", 4, 8, (ONE << 61) + 3}}, {{0}}},
    {"room for", {{"x.texts", 4, 8, ONE << 32}}, {{0}}}, /* 8cc38282: a 32-bit index never ends */
    {"past the end", {{"x.texts.1", 0, 8, MAX64}}, {{"x.texts", 0, 4, 8}}},
    {"past the end", {{"x.texts.2", 0, 8, MAX64 - 7}}, {{0}}},
    {"past the end", {{"x.texts.2", 0, 8, 4096}}, {{0}}},
    {"neither 0 nor 1", {{"x.bool", 0, 1, 2}}, {{"x.bool", 0, 1, 0}}},
    {"neither 0 nor 1", {{"x.bools", 12, 1, 255}}, {{"x.bools", 12, 1, 0}}},
    {"neither 0 nor 1", {{"x.bools", 15, 1, 2}}, {{"x.bools", 15, 1, 1}}},
    /* Alignment; c2cdd2b2: of another type it was an assertion. */
    {"power of two", {{"align", 0, 4, 0}}, {{0}}},
    {"power of two", {{"align", 0, 4, 1}}, {{0}}},
    {"power of two", {{"align", 0, 4, 4}}, {{0}}},
    {"power of two", {{"align", 0, 4, 24}}, {{0}}},
    {"power of two", {{"align", 0, 4, 33}}, {{0}}},
    {"power of two", {{"align", 0, 4, 1 << 21}}, {{0}}},
    {"power of two", {{"align", 0, 4, 0x80000000}}, {{0}}},
    {"power of two", {{"align", 0, 4, 0xffffffff}}, {{0}}},
    {"not aligned", {{"align", 0, 4, 64}}, {{0}}},
    {"32-bit unsigned", {{"align.type", 0, 4, 5}}, {{0}}},
    {"32-bit unsigned", {{"align.type", 0, 4, 6}}, {{0}}},
    /* Tensors: names. */
    {"ends in a name", {{"t0", 0, 8, MAX64}}, {{0}}},
    {"1 to 128", {{"t0", 0, 8, 0}}, {{0}}},
    {"1 to 128", {{"t0", 0, 8, 129}}, {{0}}}, /* 3e6e367d: longer than its buffer */
    {"ends in a name", {{"t2", 0, 8, 1 << 16}}, {{0}}},
    {"printable", {{"t0", 9, 1, 0}}, {{"t0", 9, 1, '9'}}},
    {"printable", {{"t3", 8, 1, 0xff}}, {{"t3", 8, 1, '%'}}},
    {"\"t0\" is there twice", {{"t1", 9, 1, '0'}}, {{"t1", 9, 1, 'x'}}},
    {"\"t2\" is there twice", {{"t3", 9, 1, '2'}}, {{"t3", 9, 1, '4'}}},
    /* CVE-2024-21802: dimensions past the array's four. */
    {"1 to 4", {{"t0.n", 0, 4, 0}}, {{0}}},
    {"1 to 4", {{"t2.n", 0, 4, 5}}, {{0}}},
    {"1 to 4", {{"t0.n", 0, 4, 0xffffffff}}, {{0}}},
    {"1 to 4", {{"t0.n", 0, 4, 0x80000000}}, {{0}}},
    /* c2cdd2b2: a dimension of 0 divided by, products that wrap to what passes the test. */
    {"dimension of 0", {{"t0.ne", 0, 8, 0}}, {{"t0.ne", 0, 8, 32}, {"t0.ne", 8, 8, 1}}},
    {"dimension of 0", {{"t0.ne", 8, 8, 0}}, {{"t0.ne", 0, 8, 1}, {"t0.ne", 8, 8, 32}}},
    {"dimension of 0", {{"t2.ne", 24, 8, 0}}, {{"t2.ne", 24, 8, 1}, {"t2.ne", 8, 8, 2}}},
    {"too large", {{"t0.ne", 0, 8, ONE << 32}, {"t0.ne", 8, 8, ONE << 32}}, {{0}}},
    {"too large", {{"t0.ne", 0, 8, 3037000500}, {"t0.ne", 8, 8, 6074001000}}, {{0}}},
    {"too large", {{"t0.ne", 0, 8, ONE << 61}, {"t0.ne", 8, 8, 2}}, {{0}}},
    {"too large", {{"t0.ne", 0, 8, MAX64}}, {{0}}},
    {"too large", {{"t0.ne", 0, 8, ONE << 62}, {"t0.ne", 8, 8, 1}}, {{0}}},
    {"too large", {{"t2.ne", 0, 8, ONE << 62}, {"t2.ne", 8, 8, 4}}, {{0}}},
    {"too large", {{"t2.ne", 0, 8, MAX64 - 255}, {"t2.ne", 8, 8, 1}, {"t2.ne", 24, 8, 2}}, {{0}}},
    {"does not lie", {{"t0.ne", 0, 8, ONE << 59}, {"t0.ne", 8, 8, 1}}, {{0}}},
    {"does not lie", {{"t0.ne", 0, 8, ONE << 20}}, {{"t0.ne", 0, 8, 4}, {"t0.ne", 8, 8, 8}}},
    /* Rows of whole blocks. */
    {"whole number", {{"t1.ne", 0, 8, 63}}, {{"t1.ne", 0, 8, 32}, {"t1.ne", 8, 8, 4}}},
    {"whole number", {{"t1.ne", 0, 8, 16}, {"t1.ne", 8, 8, 8}}, {{0}}},
    {"whole number", {{"t1.ne", 0, 8, 1}, {"t1.ne", 8, 8, 128}}, {{0}}},
    {"whole number", {{"t2.ne", 0, 8, 128}, {"t2.ne", 24, 8, 4}}, {{0}}},
    {"whole number", {{"t2.ne", 0, 8, 255}}, {{"t2.ne", 0, 8, 512}, {"t2.ne", 24, 8, 1}}},
    /* CVE-2025-53630, CVE-2026-27940, CVE-2026-7482: offset and size against the file. */
    {"does not lie", {{"t0.at", 0, 8, MAX64 - 31}}, {{0}}},
    {"does not lie", {{"t3.at", 0, 8, ONE << 63}}, {{0}}},
    {"does not lie", {{"t3.at", 0, 8, 1 << 20}}, {{0}}},
    {"does not lie", {{"t3.at", 0, 8, 544}}, {{0}}},
    {"does not lie", {{"t3.at", 0, 8, MAX64 - 127}}, {{0}}},
    {"not aligned", {{"t0.at", 0, 8, 1}}, {{0}}},
    {"not aligned", {{"t3.at", 0, 8, 513}}, {{0}}},
    {"not aligned", {{"t3.at", 0, 8, 528}}, {{0}}},
    {"overlaps", {{"t1.at", 0, 8, 0}}, {{0}}},
    {"overlaps", {{"t1.at", 0, 8, 96}}, {{0}}},
    {"overlaps", {{"t3.at", 0, 8, 480}}, {{0}}},
    {"hole", {{"t0.at", 0, 8, 32}}, {{0}}},
    {"hole", {{"t0.at", 0, 8, 416}}, {{0}}},
    {"hole", {{"t0.ne", 0, 8, 2}}, {{"t0.ne", 0, 8, 16}, {"t0.ne", 8, 8, 2}}},
    {"goes on after", {{"t3.at", 0, 8, 512}, {"t2.ne", 0, 8, 256}, {"n_tensors", 0, 8, 3}}, {{0}}},
    /* The order of records need not be that of the data. */
    {"overlaps",
     {{"t0.at", 0, 8, 64}, {"t1.at", 0, 8, 0}},
     {{"t0.at", 0, 8, 96}, {"t1.at", 0, 8, 0}}},
};

#define N_CASES (sizeof(cases) / sizeof(cases[0]))

/* Copies the good file and writes patches over it. */
static void
apply(file_bytes *f, const patch patches[3])
{
	*f = base;
	for (int i = 0; i < 3 && patches[i].field != NULL; i++)
		memcpy(f->data + place(patches[i].field) + patches[i].plus, &patches[i].value,
		       patches[i].bytes);
}

/* Every case: the bad file is refused for its reason, its twin loads. */
static void
test_cases(void)
{
	static file_bytes f;

	for (size_t i = 0; i < N_CASES; i++)
	{
		char name[64];

		snprintf(name, sizeof(name), "case %zu (%s)", i, cases[i].message);
		apply(&f, cases[i].bad);
		check_bad(LLM_FORMAT_GGUF, &f, name, cases[i].message);
		apply(&f, cases[i].good);
		check_good(LLM_FORMAT_GGUF, &f, name);
	}
}

/* A file cut anywhere before the last tensor's end is refused; from there on it is whole. */
static void
test_truncation(void)
{
	file_bytes f = base;

	for (f.n = 0; f.n < base.n; f.n++)
		if (f.n < place("end"))
			check_bad(LLM_FORMAT_GGUF, &f, "cut", "");
		else
			check_good(LLM_FORMAT_GGUF, &f, "without padding");
	f = base;
	put_uint(&f, 0, 1);
	check_bad(LLM_FORMAT_GGUF, &f, "longer", "goes on after");
}

/* Starts a file of one key, or none, and one tensor. */
static void
start_small(file_bytes *f, uint64_t n_tensors, uint64_t n_keys)
{
	f->n = 0;
	put(f, "GGUF", 4);
	put_uint(f, 3, 4);
	put_uint(f, n_tensors, 8);
	put_uint(f, n_keys, 8);
}

/* Every number of a value type, scalar and in arrays of 0 to 3 items: 12 of them are types. */
static void
test_value_types(void)
{
	static const uint8_t zeros[64] = {0};
	static const uint8_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
	static file_bytes f;

	for (uint32_t type = 0; type < 20; type++)
		for (uint32_t n = 0; n < 5; n++) /* 4: a scalar */
		{
			start_small(&f, 0, 1);
			put_uint(&f, 1, 8);
			put(&f, "k", 1);
			if (n < 4)
			{
				put_uint(&f, 9, 4);
				put_uint(&f, type, 4);
				put_uint(&f, n, 8);
			}
			else
				put_uint(&f, type, 4);
			put(&f, zeros, type < 13 ? sizes[type] * (n < 4 ? n : 1) : 8);
			if (type < 13 && type != 9)
				check_good(LLM_FORMAT_GGUF, &f, "value type");
			else
				check_bad(LLM_FORMAT_GGUF, &f, "value type", "");
		}
}

/* Writes a file of one tensor of 256 weights of a type. */
static void
write_one_tensor(file_bytes *f, uint32_t type, uint64_t bytes)
{
	static const uint8_t zeros[1088] = {0};

	start_small(f, 1, 0);
	put_uint(f, 1, 8);
	put(f, "t", 1);
	put_uint(f, 1, 4);
	put_uint(f, 256, 8);
	put_uint(f, type, 4);
	put_uint(f, 0, 8);
	while (f->n % 32 != 0)
		put_uint(f, 0, 1);
	put(f, zeros, (size_t) bytes);
}

/* Every number of a tensor type: twelve are read, the rest named or unknown; a byte short fails. */
static void
test_tensor_types(void)
{
	static file_bytes f;
	int n_read = 0;

	for (uint32_t type = 0; type < 64; type++)
	{
		uint64_t bytes = 1024;
		bool known = llm_dtype_bytes((pp_dtype) type, 256, &bytes);

		write_one_tensor(&f, type, bytes);
		n_read += known;
		if (!known)
			check_bad(LLM_FORMAT_GGUF, &f, "type", "tensor \"t\" is of ");
		else
		{
			check_good(LLM_FORMAT_GGUF, &f, llm_dtype_name((pp_dtype) type));
			write_one_tensor(&f, type, bytes - 1);
			check_bad(LLM_FORMAT_GGUF, &f, "a byte short", "does not lie");
		}
	}
	CHECK(n_read == 12);
	write_one_tensor(&f, 10, 84);
	check_bad(LLM_FORMAT_GGUF, &f, "Q2_K", "Q2_K, which is not supported");
	write_one_tensor(&f, 0x80000000, 84);
	check_bad(LLM_FORMAT_GGUF, &f, "negative type", "unknown type");
}

/* Writes a file whose alignment is a value of a type, with one aligned tensor. */
static void
write_aligned(file_bytes *f, uint32_t type, size_t bytes, uint64_t align)
{
	start_small(f, 1, 1);
	put_uint(f, 17, 8);
	put(f, "general.alignment", 17);
	put_uint(f, type, 4);
	put_uint(f, align, bytes);
	put_uint(f, 1, 8);
	put(f, "t", 1);
	put_uint(f, 1, 4);
	put_uint(f, 1, 8);
	put_uint(f, PP_F32, 4);
	put_uint(f, 0, 8);
	while (f->n % (align > 0 && align <= 32768 ? align : 32) != 0)
		put_uint(f, 0, 1);
	put_uint(f, 0, 4);
}

/* Alignments: powers of two from 8 on, as a 32-bit number and nothing else. */
static void
test_alignments(void)
{
	static const uint8_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
	static file_bytes f;

	for (uint64_t align = 0; align <= 256; align++)
	{
		write_aligned(&f, 4, 4, align);
		if (align >= 8 && (align & (align - 1)) == 0)
			check_good(LLM_FORMAT_GGUF, &f, "alignment");
		else
			check_bad(LLM_FORMAT_GGUF, &f, "alignment", "power of two");
	}
	for (uint64_t align = 512; align <= 32768; align *= 2)
	{
		write_aligned(&f, 4, 4, align);
		check_good(LLM_FORMAT_GGUF, &f, "alignment");
	}
	for (uint32_t type = 0; type < 13; type++)
		if (type != 4 && sizes[type] > 1 && type != 8)
		{
			write_aligned(&f, type, sizes[type], 32);
			check_bad(LLM_FORMAT_GGUF, &f, "type of alignment", "32-bit unsigned");
		}
}

/* A file with keys and no tensors is a vocabulary, padded or not. */
static void
test_no_tensors(void)
{
	static file_bytes f;

	start_small(&f, 0, 0);
	check_good(LLM_FORMAT_GGUF, &f, "empty model");
	put_uint(&f, 0, 8);
	check_good(LLM_FORMAT_GGUF, &f, "padded");
	put_uint(&f, 0, 1);
	check_bad(LLM_FORMAT_GGUF, &f, "with something behind", "goes on after");
}

/* A part of a split model is refused by name; a model of one part is whole. */
static void
test_split(void)
{
	static file_bytes f;

	for (uint32_t n_parts = 1; n_parts <= 3; n_parts += 2)
	{
		start_small(&f, 0, 1);
		put_uint(&f, 11, 8);
		put(&f, "split.count", 11);
		put_uint(&f, 2, 4);
		put_uint(&f, n_parts, 2);
		if (n_parts == 1)
			check_good(LLM_FORMAT_GGUF, &f, "one part");
		else
			check_bad(LLM_FORMAT_GGUF, &f, "three parts", "split.count");
	}
}

/* One string may have 16 MiB and no more. */
static void
test_long_string(void)
{
	size_t limit = (size_t) 16 << 20;
	size_t n_head = 4 + 4 + 8 + 8 + 9 + 4;
	uint8_t *data = calloc(1, n_head + 8 + limit);
	file_bytes head;
	llm_weights *w;
	llm_error err;

	start_small(&head, 0, 1);
	put_uint(&head, 1, 8);
	put(&head, "k", 1);
	put_uint(&head, 8, 4);
	REQUIRE(data != NULL && head.n == n_head);
	memcpy(data, head.data, n_head);
	for (uint64_t n = limit - 8; n <= limit; n += 8) /* the length's 8 bytes count */
	{
		memcpy(data + n_head, &n, 8);
		CHECK((llm_weights_open_memory(LLM_FORMAT_GGUF, data, n_head + 8 + n, &w, &err) ==
		       LLM_OK) == (n < limit));
		llm_weights_close(w);
	}
	CHECK(strstr(err.message, "16 MiB") != NULL);
	free(data);
}

/* Every getter on every value: its own kind, and integers of either sign where they fit. */
static void
test_values(void)
{
	llm_weights *w;
	uint64_t u;
	int64_t i;
	double d;
	bool b;
	const char *s;
	uint64_t n;

	REQUIRE(llm_weights_open_memory(LLM_FORMAT_GGUF, base.data, base.n, &w, NULL) == LLM_OK);
#define META(key) llm_weights_meta(w, key)
	CHECK(llm_meta_uint(META("x.u8"), 0, &u) && u == 200);
	CHECK(llm_meta_int(META("x.u8"), 0, &i) && i == 200);
	CHECK(llm_meta_int(META("x.i8"), 0, &i) && i == -100);
	CHECK(!llm_meta_uint(META("x.i8"), 0, &u));
	CHECK(llm_meta_uint(META("x.u16"), 0, &u) && u == 60000);
	CHECK(llm_meta_int(META("x.i16"), 0, &i) && i == -30000);
	CHECK(llm_meta_int(META("x.i32"), 0, &i) && i == INT32_MIN);
	CHECK(llm_meta_uint(META("x.u64"), 0, &u) && u == UINT64_MAX);
	CHECK(!llm_meta_int(META("x.u64"), 0, &i));
	CHECK(llm_meta_int(META("x.i64"), 0, &i) && i == INT64_MIN);
	CHECK(llm_meta_float(META("x.f32"), 0, &d) && d == 0.5);
	CHECK(llm_meta_float(META("x.f64"), 0, &d) && d == 0.5);
	CHECK(!llm_meta_float(META("x.u8"), 0, &d) && !llm_meta_uint(META("x.f32"), 0, &u));
	CHECK(llm_meta_bool(META("x.bool"), 0, &b) && b);
	CHECK(llm_meta_bool(META("x.bools"), 1, &b) && !b);
	CHECK(llm_meta_uint(META("x.ints"), 2, &u) && u == 7 && !llm_meta_uint(META("x.ints"), 3, &u));
	CHECK(llm_meta_string(META("general.architecture"), 0, &s, &n) && n == 5 &&
	      !memcmp(s, "llama", 5));
	CHECK(llm_meta_string(META("x.texts"), 0, &s, &n) && n == 2 && !memcmp(s, "ab", 2));
	CHECK(llm_meta_string(META("x.texts"), 1, &s, &n) && n == 0);
	CHECK(llm_meta_string(META("x.texts"), 2, &s, &n) && n == 4 && !memcmp(s, "cdef", 4));
	CHECK(!llm_meta_string(META("x.texts"), 3, &s, &n) &&
	      !llm_meta_string(META("x.none"), 0, &s, &n));
	CHECK(!llm_meta_string(META("x.u8"), 0, &s, &n) && !llm_meta_bool(META("x.u8"), 0, &b));
	CHECK(META("absent") == NULL && !llm_meta_uint(NULL, 0, &u) && !llm_meta_int(NULL, 0, &i));
	CHECK(!llm_meta_uint(META("x.u8"), 1, &u));
	CHECK(META("x.ints")->kind == LLM_META_ARRAY && META("x.ints")->item_kind == LLM_META_UINT);
	CHECK(META("x.ints")->n_items == 3 && META("x.f32")->kind == LLM_META_FLOAT);
	CHECK(llm_weights_n_meta(w) == N_KEYS && llm_weights_meta_at(w, N_KEYS) == NULL);
	CHECK(strcmp(llm_weights_meta_at(w, 0)->key, "general.architecture") == 0);
#undef META
	llm_weights_close(w);
}

/* Tensors come with their dimensions outermost first, and point into the file. */
static void
test_tensors(void)
{
	llm_weights *w;
	const llm_tensor *t;

	REQUIRE(llm_weights_open_memory(LLM_FORMAT_GGUF, base.data, base.n, &w, NULL) == LLM_OK);
	CHECK(llm_weights_n_tensors(w) == 4 && llm_weights_tensor_at(w, 4) == NULL);
	t = llm_weights_find(w, "t2");
	REQUIRE(t != NULL);
	CHECK(t->n_dims == 4 && t->dims[0] == 2 && t->dims[1] == 1 && t->dims[3] == 256);
	CHECK(t->dtype == PP_Q4_K && t->bytes == 288 &&
	      (const uint8_t *) t->data == base.data + place("data") + 224);
	CHECK(llm_weights_tensor_at(w, 2) == t && llm_weights_find(w, "t") == NULL);
	llm_weights_close(w);
}

/* Random damage is refused or read, never more. */
static void
test_mutations(void)
{
	uint64_t state = 11;
	file_bytes f;
	int n_refused = 0;

	for (int round = 0; round < 30000; round++)
	{
		llm_error err = {LLM_OK, ""};
		llm_status status;

		f = base;
		for (int k = 0; k <= round % 3; k++)
			f.data[test_random(&state) % place("data")] = (uint8_t) test_random(&state);
		status = open_exact(LLM_FORMAT_GGUF, &f, &err);
		CHECK(status == err.code && (status == LLM_OK || err.message[0] != '\0'));
		n_refused += status != LLM_OK;
	}
	CHECK(n_refused > 3000 && n_refused < 30000);
}

/* Lets each allocation fail once while a file is opened. */
static void
check_no_memory(const file_bytes *f)
{
	uint64_t before = llm_alloc_count();
	uint64_t needed;

	REQUIRE(open_exact(LLM_FORMAT_GGUF, f, NULL) == LLM_OK);
	needed = llm_alloc_count() - before;
	CHECK(needed >= 7);
	for (uint64_t i = 1; i <= needed; i++)
	{
		llm_alloc_fail_after(i, false);
		CHECK_MSG(open_exact(LLM_FORMAT_GGUF, f, NULL) == LLM_E_NOMEM, "allocation %d", (int) i);
	}
	llm_alloc_fail_after(0, false);
}

/* No memory is a status, and nothing leaks: on the good file, and on one whose array of strings
 * needs an allocation of its own. */
static void
test_no_memory(void)
{
	static file_bytes f;

	check_no_memory(&base);
	start_small(&f, 0, 1);
	put_uint(&f, 1, 8);
	put(&f, "k", 1);
	put_uint(&f, 9, 4);
	put_uint(&f, 8, 4);
	put_uint(&f, 10000, 8);
	for (int i = 0; i < 10000; i++)
		put_uint(&f, 0, 8);
	check_no_memory(&f);
}

/* The corpus is as large as it is said to be; it runs last. */
static void
test_corpus_size(void)
{
	printf("bad GGUF files refused: %d, good ones loaded: %d\n", n_bad_refused, n_good_loaded);
	CHECK(n_bad_refused >= 200 && n_good_loaded >= 60);
}

int
main(void)
{
	static const char *const files[] = {"model.gguf", NULL};

	temp_folder_create();
	build_base();
	check_good(LLM_FORMAT_GGUF, &base, "base");
	RUN(cases);
	RUN(truncation);
	RUN(value_types);
	RUN(tensor_types);
	RUN(alignments);
	RUN(no_tensors);
	RUN(split);
	RUN(long_string);
	RUN(values);
	RUN(tensors);
	RUN(mutations);
	RUN(no_memory);
	RUN(corpus_size);
	temp_folder_remove(files);
	return test_summary("gguf");
}
