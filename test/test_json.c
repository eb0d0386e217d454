/*
 * test_json.c: the JSON reader: what RFC 8259 admits and what it does not, readers of values, big
 * objects, limits, and every allocation failing once.
 */
#include "test.h"

#include <locale.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_json.h"

/* A text with its length, so that NUL bytes can be in it. */
typedef struct text
{
	const char *bytes;
	size_t n;
} text;

#define TEXT(literal) \
	{ \
		(literal), sizeof(literal) - 1 \
	}

static const text good[] = {
    TEXT("null"),
    TEXT("true"),
    TEXT(" false\n"),
    TEXT("0"),
    TEXT("-0"),
    TEXT("-0.0e-0"),
    TEXT("1E+2"),
    TEXT("123456789012345678901234567890.5"),
    TEXT("\"\""),
    TEXT("[]"),
    TEXT("[ ]"),
    TEXT("{}"),
    TEXT("{ }"),
    TEXT("\t\r\n [1 , 2,\n3 ] "),
    TEXT("[[],[[]],{}]"),
    TEXT("{\"\":0}"),
    TEXT("{\"a\":{\"a\":{\"a\":[]}}}"),
    TEXT("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\ud83d\\ude00\""),
    TEXT("\"\\u0000\""),
    TEXT("\"\x7f\""),
    TEXT(
        "\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""),
    TEXT("{\"a\":1,\"b\":1,\"A\":1,\"\\u0061a\":1}"),
    TEXT("[\"a\\u0000b\",{\"a\\u0000\":1,\"a\":2}]"),
};

static const text bad[] = {
    TEXT(""),
    TEXT(" "),
    TEXT("nul"),
    TEXT("nulL"),
    TEXT("True"),
    TEXT("NaN"),
    TEXT("Infinity"),
    TEXT("-"),
    TEXT("-a"),
    TEXT("+1"),
    TEXT("01"),
    TEXT("-01"),
    TEXT("1."),
    TEXT(".5"),
    TEXT("1.e1"),
    TEXT("1e"),
    TEXT("1e+"),
    TEXT("0x10"),
    TEXT("1 2"),
    TEXT("["),
    TEXT("[1"),
    TEXT("[1,"),
    TEXT("[1,]"),
    TEXT("[,1]"),
    TEXT("[1 2]"),
    TEXT("[1}"),
    TEXT("]"),
    TEXT("[]]"),
    TEXT("{"),
    TEXT("{1:2}"),
    TEXT("{\"a\"}"),
    TEXT("{\"a\":}"),
    TEXT("{\"a\" 1}"),
    TEXT("{\"a\":1,}"),
    TEXT("{\"a\":1"),
    TEXT("{\"a\":1]"),
    TEXT("{\"a\":1 \"b\":2}"),
    TEXT("{a:1}"),
    TEXT("{'a':1}"),
    TEXT("{\"a\":1,\"a\":1}"),
    TEXT("{\"a\":1,\"\\u0061\":2}"),
    TEXT("{\"a\":{\"b\":1,\"b\":1}}"),
    TEXT("{\"a"),
    TEXT("{\"a\":1,\"b"),
    TEXT("\""),
    TEXT("\"abc"),
    TEXT("\"\\"),
    TEXT("\"\\x\""),
    TEXT("\"\\u"),
    TEXT("\"\\u12\""),
    TEXT("\"\\u12g4\""),
    TEXT("\"\\u/000\""),
    TEXT("\"\\u:000\""),
    TEXT("\"\\ud800\""),
    TEXT("\"\\ud800\\n\""),
    TEXT("\"\\ud800x\""),
    TEXT("\"\\ud800\\u0041\""),
    TEXT("\"\\ud800\\ue000\""),
    TEXT("\"\\ud800\\u00\""),
    TEXT("\"\\udc00\""),
    TEXT("\"\\udc00\\udc00\""),
    TEXT("\"\\ud800xxdc00\""),
    TEXT("\"\\ud800\\xdc00\""),
    TEXT("\"\\ud800\\"),
    TEXT("\"\\ud800\\u"),
    TEXT("\"\\\x00\""),
    TEXT("\"\n\""),
    TEXT("\"\x00\""),
    TEXT("\"\x1f\""),
    TEXT("\"\x80\""),
    TEXT("\"\xc1\xbf\""),
    TEXT("\"\xc2\""),
    TEXT("\"\xc2"),
    TEXT("\"\xe0\x9f\x80\""),
    TEXT("\"\xed\xa0\x80\""),
    TEXT("\"\xe2\x82\""),
    TEXT("\"\xe2\x82"),
    TEXT("\"\xf0\x8f\x80\x80\""),
    TEXT("\"\xf4\x90\x80\x80\""),
    TEXT("\"\xf5\x80\x80\x80\""),
    TEXT("\"\xff\""),
    TEXT("\xef\xbb\xbf[]"),
    TEXT("[]\x00"),
    TEXT("/* */ []"),
    TEXT("[1] // x"),
};

/* Parses from a buffer of the exact size, so that a sanitizer sees every read past the end. */
static llm_status
parse(const char *bytes, size_t n, llm_json_doc **doc, llm_error *err)
{
	char *exact = malloc(n > 0 ? n : 1);
	llm_status status;

	memcpy(exact, bytes, n);
	status = llm_json_parse(exact, n, doc, err);
	free(exact);
	return status;
}

/* Well-formed texts are read. */
static void
test_good(void)
{
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
	{
		llm_json_doc *doc;
		llm_error err = {LLM_OK, ""};

		CHECK_MSG(parse(good[i].bytes, good[i].n, &doc, &err) == LLM_OK, "%s: %s", good[i].bytes,
		          err.message);
		llm_json_free(doc);
	}
}

/* Ill-formed ones are refused with a message that names the place. */
static void
test_bad(void)
{
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		llm_json_doc *doc;
		llm_error err = {LLM_OK, ""};

		CHECK_MSG(parse(bad[i].bytes, bad[i].n, &doc, &err) == LLM_E_FORMAT, "%s", bad[i].bytes);
		CHECK(doc == NULL);
		CHECK(strncmp(err.message, "invalid JSON at byte ", 21) == 0);
		CHECK(parse(bad[i].bytes, bad[i].n, &doc, NULL) == LLM_E_FORMAT);
	}
}

/* Every text cut short is refused, unless what is left is a number. */
static void
test_truncation(void)
{
	static const char whole[] =
	    "{\"a\":[1.5e3,true,null,\"x\\u20ac\\ud83d\\ude00\xe2\x82\xac\"],\"b\":{}}";
	llm_json_doc *doc;

	for (size_t n = 0; n < sizeof(whole) - 1; n++)
	{
		CHECK_MSG(parse(whole, n, &doc, NULL) == LLM_E_FORMAT, "%zu bytes", n);
		llm_json_free(doc);
	}
	CHECK(parse(whole, sizeof(whole) - 1, &doc, NULL) == LLM_OK);
	llm_json_free(doc);
}

/* 64 levels are read, 65 are not, whatever they are made of. */
static void
test_depth(void)
{
	char deep[2 * LLM_JSON_DEPTH_MAX + 2];
	llm_json_doc *doc;
	llm_error err;

	for (size_t n = LLM_JSON_DEPTH_MAX; n <= LLM_JSON_DEPTH_MAX + 1; n++)
	{
		llm_status expected = n == LLM_JSON_DEPTH_MAX ? LLM_OK : LLM_E_FORMAT;

		memset(deep, '[', n);
		memset(deep + n, ']', n);
		CHECK(parse(deep, 2 * n, &doc, &err) == expected);
		llm_json_free(doc);
	}
	CHECK(strstr(err.message, "too deep") != NULL);
	CHECK(llm_json_parse("", LLM_JSON_BYTES_MAX + 1, &doc, &err) == LLM_E_LIMIT && doc == NULL);
}

/* Parts of characters pass where they are asked for, and nothing else that is wrong does. */
static void
test_any_bytes(void)
{
	static const char part[] = "{\"a\":\"x\xf0\x9f\",\"b\":\"\xff\x80\"}";
	static const char control[] = "\"\xc3\n\"";
	static const char open[] = "\"\xc3";
	llm_json_doc *doc;
	llm_error err;
	const char *bytes;
	size_t n;

	CHECK(llm_json_parse(part, sizeof(part) - 1, &doc, &err) == LLM_E_FORMAT);
	REQUIRE(llm_json_parse_bytes(part, sizeof(part) - 1, &doc, &err) == LLM_OK);
	CHECK(llm_json_string(llm_json_member(llm_json_root(doc), "a"), &bytes, &n));
	CHECK(n == 3 && memcmp(bytes, "x\xf0\x9f", 4) == 0);
	CHECK(llm_json_is(llm_json_member(llm_json_root(doc), "b"), "\xff\x80"));
	llm_json_free(doc);
	CHECK(llm_json_parse_bytes(control, sizeof(control) - 1, &doc, &err) == LLM_E_FORMAT);
	CHECK(llm_json_parse_bytes(open, sizeof(open) - 1, &doc, &err) == LLM_E_FORMAT);
}

/* Escapes at the borders of UTF-8's lengths and of the surrogates. */
static void
test_escaped_borders(void)
{
	static const char source[] = "[\"\\u0001\\u007f\\u0080\\u07ff\\u0800\\ud7ff\\ue000\\uffff\","
	                             "\"\\ud800\\udc00\\udbff\\udfff\"]";
	llm_json_doc *doc;

	REQUIRE(parse(source, sizeof(source) - 1, &doc, NULL) == LLM_OK);
	CHECK(llm_json_is(llm_json_item(llm_json_root(doc), 0),
	                  "\x01\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf"));
	CHECK(llm_json_is(llm_json_item(llm_json_root(doc), 1), "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"));
	llm_json_free(doc);
}

/* Strings come out unescaped, with their length and a NUL. */
static void
test_strings(void)
{
	static const char source[] =
	    "[\"\\\"\\\\\\/"
	    "\\b\\f\\n\\r\\t\",\"\\u0041\\u00e9\\u20AC\\ud83d\\uDE00\",\"a\\u0000b\",\"\"]";
	static const text expected[] = {TEXT("\"\\/\b\f\n\r\t"),
	                                TEXT("A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), TEXT("a\0b"),
	                                TEXT("")};
	llm_json_doc *doc;

	REQUIRE(parse(source, sizeof(source) - 1, &doc, NULL) == LLM_OK);
	CHECK(llm_json_size(llm_json_root(doc)) == 4);
	for (size_t i = 0; i < 4; i++)
	{
		const llm_json *node = llm_json_item(llm_json_root(doc), i);
		const char *bytes = NULL;
		size_t n = 0;

		CHECK(llm_json_string(node, &bytes, &n) && n == expected[i].n);
		CHECK(bytes != NULL && memcmp(bytes, expected[i].bytes, n + 1) == 0);
	}
	CHECK(llm_json_is(llm_json_item(llm_json_root(doc), 3), ""));
	CHECK(!llm_json_is(llm_json_item(llm_json_root(doc), 2), "a"));
	CHECK(!llm_json_is(llm_json_item(llm_json_root(doc), 2), "abc"));
	llm_json_free(doc);
}

static const struct
{
	const char *text;
	bool u_ok;
	uint64_t u;
	bool i_ok;
	int64_t i;
	bool d_ok;
	double d;
} numbers[] = {
    {"0", true, 0, true, 0, true, 0},
    {"-0", false, 0, true, 0, true, 0},
    {"7", true, 7, true, 7, true, 7},
    {"-7", false, 0, true, -7, true, -7},
    {"18446744073709551615", true, UINT64_MAX, false, 0, true, 18446744073709551615.0},
    {"18446744073709551616", false, 0, false, 0, true, 18446744073709551616.0},
    {"18446744073709551609", true, UINT64_MAX - 6, false, 0, true, 18446744073709551609.0},
    {"99999999999999999999", false, 0, false, 0, true, 1e20},
    {"9223372036854775807", true, INT64_MAX, true, INT64_MAX, true, 9223372036854775807.0},
    {"9223372036854775808", true, (uint64_t) 1 << 63, false, 0, true, 9223372036854775808.0},
    {"-9223372036854775808", false, 0, true, INT64_MIN, true, -9223372036854775808.0},
    {"-9223372036854775809", false, 0, false, 0, true, -9223372036854775809.0},
    {"1.0", false, 0, false, 0, true, 1},
    {"1e2", false, 0, false, 0, true, 100},
    {"0.1", false, 0, false, 0, true, 0.1},
    {"1e-5", false, 0, false, 0, true, 1e-5},
    {"1e-999", false, 0, false, 0, true, 0},
    {"1e999", false, 0, false, 0, false, 0},
    {"-1e999", false, 0, false, 0, false, 0},
};

/* Integers and doubles at their limits. */
static void
test_numbers(void)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
	{
		const char *source = numbers[i].text;
		llm_json_doc *doc;
		const llm_json *node;
		uint64_t u = 0;
		int64_t s = 0;
		double d = 0;
		const char *kept;
		size_t n;

		REQUIRE(parse(source, strlen(source), &doc, NULL) == LLM_OK);
		node = llm_json_root(doc);
		CHECK_MSG(llm_json_u64(node, &u) == numbers[i].u_ok && u == numbers[i].u, "%s", source);
		CHECK_MSG(llm_json_i64(node, &s) == numbers[i].i_ok && s == numbers[i].i, "%s", source);
		CHECK_MSG(llm_json_double(node, &d) == numbers[i].d_ok && d == numbers[i].d, "%s", source);
		CHECK(llm_json_number_text(node, &kept, &n) && strcmp(kept, source) == 0 &&
		      n == strlen(kept));
		llm_json_free(doc);
	}
}

/* A reader of another kind says no, and so does every reader of no node. */
static void
test_kinds(void)
{
	static const char source[] = "[null,true,1,\"s\",[7],{\"k\":8}]";
	llm_json_doc *doc;
	const char *t;
	size_t n;
	bool b;
	uint64_t u;
	int64_t s;
	double d;

	REQUIRE(parse(source, sizeof(source) - 1, &doc, NULL) == LLM_OK);
	for (uint64_t i = 0; i < 7; i++) /* item 6 does not exist */
	{
		const llm_json *node = llm_json_item(llm_json_root(doc), i);

		CHECK((node == NULL) == (i == 6));
		CHECK(llm_json_get_kind(node) == (i == 6 ? LLM_JSON_NULL : (llm_json_kind) i));
		CHECK(llm_json_bool(node, &b) == (i == 1));
		CHECK(llm_json_u64(node, &u) == (i == 2));
		CHECK(llm_json_i64(node, &s) == (i == 2));
		CHECK(llm_json_double(node, &d) == (i == 2));
		CHECK(llm_json_number_text(node, &t, &n) == (i == 2));
		CHECK(llm_json_string(node, &t, &n) == (i == 3));
		CHECK(llm_json_is(node, "s") == (i == 3));
		CHECK(llm_json_size(node) == (i == 4 || i == 5));
		CHECK((llm_json_item(node, 0) != NULL) == (i == 4));
		CHECK((llm_json_member(node, "k") != NULL) == (i == 5));
		CHECK((llm_json_member_at(node, 0, &t, &n) != NULL) == (i == 5));
		CHECK(llm_json_item(node, 1) == NULL && llm_json_member_at(node, 1, &t, &n) == NULL);
	}
	llm_json_free(doc);
	llm_json_free(NULL);
}

/* Writes an object of n members "k0" … whose member twice is named as the one before it. */
static size_t
write_object(char *out, size_t size, unsigned n, unsigned twice)
{
	size_t used = 1;

	out[0] = '{';
	for (unsigned i = 0; i < n; i++)
		used += (size_t) snprintf(out + used, size - used, "%s\"k%u\":%u", i > 0 ? "," : "",
		                          i > 0 && i == twice ? i - 1 : i, i);
	out[used++] = '}';
	return used;
}

/* Members of objects of every size about the border of the table are found, duplicates too. */
static void
test_members(void)
{
	static const unsigned sizes[] = {1, 2, 7, 8, 9, 10, 16, 17, 33, 1000, 20000};
	size_t size = 1 << 20;
	char *buffer = malloc(size);

	for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
	{
		unsigned n = sizes[k];
		llm_json_doc *doc;
		uint64_t u;
		const char *name;
		size_t bytes;

		REQUIRE(parse(buffer, write_object(buffer, size, n, 0), &doc, NULL) == LLM_OK);
		CHECK(llm_json_size(llm_json_root(doc)) == n);
		for (unsigned i = 0; i < n; i++)
		{
			char key[16];

			snprintf(key, sizeof(key), "k%u", i);
			CHECK(llm_json_u64(llm_json_member(llm_json_root(doc), key), &u) && u == i);
			CHECK(llm_json_member_at(llm_json_root(doc), i, &name, &bytes) != NULL);
			CHECK(strcmp(name, key) == 0 && bytes == strlen(key));
		}
		CHECK(llm_json_member(llm_json_root(doc), "k") == NULL);
		CHECK(llm_json_member(llm_json_root(doc), "absent") == NULL);
		llm_json_free(doc);
		if (n > 1)
			CHECK(parse(buffer, write_object(buffer, size, n, n - 1), &doc, NULL) == LLM_E_FORMAT);
	}
	free(buffer);
}

/* Doubles do not depend on the locale of the process. */
static void
test_locale(void)
{
	llm_json_doc *doc;
	double d;

	if (setlocale(LC_NUMERIC, "de_DE.UTF-8") == NULL && setlocale(LC_NUMERIC, "de_DE") == NULL)
		SKIP("no locale with a decimal comma is installed");
	REQUIRE(parse("1.5", 3, &doc, NULL) == LLM_OK);
	CHECK(llm_json_double(llm_json_root(doc), &d) && d == 1.5);
	setlocale(LC_NUMERIC, "C");
	llm_json_free(doc);
}

/* Each allocation that fails gives the status of no memory, and nothing leaks. */
static void
test_no_memory(void)
{
	size_t size = 1 << 20;
	char *buffer = malloc(size);
	size_t n = write_object(buffer, size, 4000, 0);
	uint64_t before = llm_alloc_count();
	uint64_t needed;
	llm_json_doc *doc;
	llm_error err;

	REQUIRE(parse(buffer, n, &doc, &err) == LLM_OK);
	needed = llm_alloc_count() - before;
	CHECK(needed > 5);
	llm_json_free(doc);
	for (uint64_t i = 1; i <= needed; i++)
	{
		llm_alloc_fail_after(i, false);
		CHECK_MSG(parse(buffer, n, &doc, &err) == LLM_E_NOMEM, "allocation %d", (int) i);
		CHECK(doc == NULL && strstr(err.message, "out of memory") != NULL);
	}
	llm_alloc_fail_after(0, false);
	free(buffer);
}

/* Texts with random bytes replaced are read or refused, never anything else. */
static void
test_mutations(void)
{
	static const char letters[] = "{}[]:,\"\\u0dD8tfn1eE+-. \xe2\x82\xf0\x9f";
	uint64_t state = 7;
	unsigned n_refused = 0;

	for (unsigned round = 0; round < 40000; round++)
	{
		const text *from = &good[test_random(&state) % (sizeof(good) / sizeof(good[0]))];
		char copy[128];
		llm_json_doc *doc;
		llm_status status;

		memcpy(copy, from->bytes, from->n);
		for (unsigned k = 0; k < 1 + round % 3; k++)
			copy[test_random(&state) % from->n] =
			    letters[test_random(&state) % (sizeof(letters) - 1)];
		status = parse(copy, from->n, &doc, NULL);
		CHECK((status == LLM_OK) == (doc != NULL));
		n_refused += status == LLM_E_FORMAT;
		llm_json_free(doc);
	}
	CHECK(n_refused > 1000 && n_refused < 40000);
}

int
main(void)
{
	RUN(good);
	RUN(bad);
	RUN(truncation);
	RUN(depth);
	RUN(any_bytes);
	RUN(escaped_borders);
	RUN(strings);
	RUN(numbers);
	RUN(kinds);
	RUN(members);
	RUN(locale);
	RUN(no_memory);
	RUN(mutations);
	return test_summary("json");
}
