/*
 * test_grammar.c: random walks under a grammar are valid, complete in their budget, and masks are
 * exact.
 *
 * Outputs are judged by code that shares nothing with the automaton: the strict JSON reader and a
 * small recursive validator below. Masks are compared token by token with llm_grammar_accept.
 * Random schemas with values that fit or do not, as the package jsonschema has judged them, stand
 * in test/data/grammar.json (scripts/make-grammar-fixtures.py).
 */
#include "grammar_fixture.h"
#include "llm_alloc.h"
#include "llm_json.h"

#define DATA "test/data/grammar.json"

#define FILE_MAX (1u << 20)

/* Reads a whole file; ends the program when there is none. The caller frees. */
static char *
fixture_read(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	char *bytes = malloc(FILE_MAX);

	if (f == NULL || bytes == NULL)
	{
		perror(path);
		exit(1);
	}
	*n = fread(bytes, 1, FILE_MAX, f);
	fclose(f);
	return bytes;
}

/* Characters of UTF-8 text. */
static uint64_t
count_characters(const char *text, size_t n)
{
	uint64_t count = 0;

	for (size_t i = 0; i < n; i++)
		count += ((unsigned char) text[i] & 0xc0) != 0x80;
	return count;
}

/* True when two JSON values are equal (numbers by text, as enum copies it). */
static bool
equal_values(const llm_json *a, const llm_json *b)
{
	const char *x = "", *y = "";
	size_t n_x = 0, n_y = 0;
	bool p = false, q = false;

	if (llm_json_get_kind(a) != llm_json_get_kind(b) || llm_json_size(a) != llm_json_size(b))
		return false;
	llm_json_bool(a, &p);
	llm_json_bool(b, &q);
	if (llm_json_string(a, &x, &n_x) || llm_json_number_text(a, &x, &n_x))
		if (!llm_json_string(b, &y, &n_y))
			llm_json_number_text(b, &y, &n_y);
	if (p != q || n_x != n_y || memcmp(x, y, n_x) != 0)
		return false;
	for (uint64_t i = 0; i < llm_json_size(a); i++)
	{
		const char *key, *other;
		size_t n, n_other;
		const llm_json *item = llm_json_item(a, i), *twin = llm_json_item(b, i);

		if (llm_json_get_kind(a) == LLM_JSON_OBJECT)
		{
			item = llm_json_member_at(a, i, &key, &n);
			twin = llm_json_member_at(b, i, &other, &n_other);
			if (n != n_other || memcmp(key, other, n) != 0)
				return false;
		}
		if (!equal_values(item, twin))
			return false;
	}
	return true;
}

/* A bound of a schema, or what it is when absent. */
static uint64_t
bound(const llm_json *schema, const char *key, uint64_t absent)
{
	llm_json_u64(llm_json_member(schema, key), &absent);
	return absent;
}

static bool valid(const llm_json *schema, const llm_json *value);

/* True when a value is of one type of JSON schema and within its bounds. */
static bool
valid_type(const llm_json *schema, const char *type, const llm_json *value)
{
	llm_json_kind kind = llm_json_get_kind(value);
	const llm_json *properties = llm_json_member(schema, "properties");
	const llm_json *required = llm_json_member(schema, "required");
	const char *text;
	size_t n;

	if (strcmp(type, "string") == 0)
		return llm_json_string(value, &text, &n) &&
		       count_characters(text, n) >= bound(schema, "minLength", 0) &&
		       count_characters(text, n) <= bound(schema, "maxLength", UINT64_MAX);
	if (strcmp(type, "integer") == 0)
		return llm_json_number_text(value, &text, &n) && strpbrk(text, ".eE") == NULL;
	if (strcmp(type, "array") == 0)
	{
		if (kind != LLM_JSON_ARRAY || llm_json_size(value) < bound(schema, "minItems", 0) ||
		    llm_json_size(value) > bound(schema, "maxItems", UINT64_MAX))
			return false;
		for (uint64_t i = 0; i < llm_json_size(value); i++)
			if (!valid(llm_json_member(schema, "items"), llm_json_item(value, i)))
				return false;
		return true;
	}
	if (strcmp(type, "object") != 0)
		return strcmp(type, kind == LLM_JSON_NUMBER ? "number"
		                    : kind == LLM_JSON_BOOL ? "boolean"
		                    : kind == LLM_JSON_NULL ? "null"
		                                            : "") == 0;
	if (kind != LLM_JSON_OBJECT)
		return false;
	for (uint64_t i = 0; i < llm_json_size(required); i++)
		if (!llm_json_string(llm_json_item(required, i), &text, &n) ||
		    llm_json_member(value, text) == NULL)
			return false;
	for (uint64_t i = 0; i < llm_json_size(value); i++)
	{
		const llm_json *item = llm_json_member_at(value, i, &text, &n);
		const llm_json *child = llm_json_member(properties, text);

		if (child == NULL || !valid(child, item))
			return false;
	}
	return true;
}

/* True when a value validates; independent of the code under test. */
static bool
valid(const llm_json *schema, const llm_json *value)
{
	const llm_json *list = llm_json_member(schema, "anyOf");
	const llm_json *type = llm_json_member(schema, "type");
	const char *name;
	size_t n;
	uint64_t hits = 0;

	if (llm_json_member(schema, "const") != NULL)
		return equal_values(llm_json_member(schema, "const"), value);
	if (llm_json_member(schema, "enum") != NULL)
	{
		list = llm_json_member(schema, "enum");
		for (uint64_t i = 0; i < llm_json_size(list); i++)
			hits += equal_values(llm_json_item(list, i), value);
		return hits > 0;
	}
	if (list == NULL)
		list = llm_json_member(schema, "oneOf");
	for (uint64_t i = 0; i < llm_json_size(list); i++)
		hits += valid(llm_json_item(list, i), value);
	if (list != NULL)
		return llm_json_member(schema, "oneOf") != NULL ? hits == 1 : hits > 0;
	if (llm_json_string(type, &name, &n))
		return valid_type(schema, name, value);
	for (uint64_t i = 0; i < llm_json_size(type); i++)
		if (llm_json_string(llm_json_item(type, i), &name, &n))
			hits += valid_type(schema, name, value);
	return hits > 0;
}

static const struct
{
	const char *schema;
	uint32_t least; /* bytes of the shortest output */
} cases[] = {
    {"{\"type\":\"boolean\"}", 4},
    {"{\"type\":\"null\"}", 4},
    {"{\"type\":\"integer\"}", 1},
    {"{\"type\":\"number\"}", 1},
    {"{\"type\":\"string\"}", 2},
    {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":5}", 5},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":2,\"maxItems\":4}", 5},
    {"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":0},\"maxItems\":70}", 2},
    {"{\"enum\":[\"a\",\"ab\",\"a\\\"b\",1,12,-3.5e2,null,{\"x\":[1,\"é\"]},[],\"\\n\"]}", 1},
    {"{\"const\":{\"name\":\"\\u0001\"}}", 17},
    {"{\"type\":\"object\",\"properties\":{}}", 2},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"ab\":{\"type\":"
     "\"boolean\"},\"abc\":{\"type\":\"null\"}},\"required\":[\"ab\"],"
     "\"additionalProperties\":false}",
     11},
    {"{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":9},\"age\":"
     "{\"type\":[\"integer\",\"null\"]},\"tags\":{\"type\":\"array\",\"items\":{\"enum\":[\"x\","
     "\"y\"]},\"maxItems\":3}},\"required\":[\"name\",\"tags\"]}",
     22},
    {"{\"anyOf\":[{\"type\":\"string\"},{\"const\":\"name\"},{\"type\":\"array\",\"items\":{"
     "\"type\":\"number\"}},{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1}]}",
     2},
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"object\",\"properties\":{\"b\":{\"type\":"
     "\"number\"}}},{\"enum\":[\"x\",\"xy\"]},{\"const\":\"n\"}]}",
     1},
    {"{\"type\":\"array\",\"minItems\":1,\"items\":{\"anyOf\":[{\"type\":\"array\",\"items\":{"
     "\"anyOf\":[{\"type\":\"boolean\"},{\"type\":\"null\"}]}},{\"type\":\"array\",\"items\":{"
     "\"type\":[\"null\",\"string\"]}}]}}",
     4},
};
#define N_CASES (sizeof(cases) / sizeof(cases[0]))

/* Every walk with enough budget ends complete and validates, from the tightest budget on. */
static void
test_walks(void)
{
	static char out[OUTPUT_MAX];
	uint64_t seed = 1;

	for (size_t i = 0; i < N_CASES; i++)
	{
		llm_json_doc *schema, *doc;
		llm_grammar *g;
		llm_error err = {0};

		REQUIRE(llm_json_parse(cases[i].schema, strlen(cases[i].schema), &schema, NULL) == LLM_OK);
		CHECK_MSG(llm_grammar_from_schema(llm_json_root(schema), &g, &err) == LLM_OK, "%s",
		          err.message);
		REQUIRE(g != NULL);
		for (uint32_t walk = 0; walk < 150; walk++)
		{
			size_t n;
			uint32_t budget = cases[i].least + (walk < 40 ? walk / 4 : walk);
			bool fits = false;

			CHECK_MSG(random_walk(g, budget, &seed, out, &n), "%s: %.*s", cases[i].schema, (int) n,
			          out);
			if (llm_json_parse(out, n, &doc, &err) == LLM_OK)
			{
				fits = valid(llm_json_root(schema), llm_json_root(doc));
				llm_json_free(doc);
			}
			CHECK_MSG(fits, "%s: %.*s", cases[i].schema, (int) n, out);
		}
		llm_grammar_free(g);
		llm_json_free(schema);
	}
}

/* With an ample budget the mask is exactly the tokens that accept takes, kept masks included. */
static void
test_masks(void)
{
	uint64_t seed = 2;

	for (size_t i = 0; i < N_CASES; i++)
	{
		llm_json_doc *schema;
		llm_grammar *g;
		llm_grammar_state *s, *copy;
		uint32_t mask[WORDS];

		REQUIRE(llm_json_parse(cases[i].schema, strlen(cases[i].schema), &schema, NULL) == LLM_OK);
		REQUIRE(llm_grammar_from_schema(llm_json_root(schema), &g, NULL) == LLM_OK);
		REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
		for (int step = 0; step < 25; step++)
		{
			int32_t token;

			REQUIRE(llm_grammar_mask(s, vocab, 1000000, mask, NULL) == LLM_OK);
			for (int32_t t = 0; t < N_VOCAB; t++)
			{
				bool allowed = mask[t / 32] >> (t % 32) & 1;

				if (t == END_TOKEN)
				{
					CHECK(allowed == llm_grammar_complete(s));
					continue;
				}
				REQUIRE((copy = llm_grammar_copy(s)) != NULL);
				CHECK((llm_grammar_accept(copy, vocab, t, NULL) == LLM_OK) == allowed);
				llm_grammar_state_free(copy);
			}
			token = pick(mask, &seed);
			if (token < 0 || token == END_TOKEN)
				break;
			CHECK(llm_grammar_accept(s, vocab, token, NULL) == LLM_OK);
		}
		llm_grammar_state_free(s);
		llm_grammar_free(g);
		llm_json_free(schema);
	}
}

/* Checks the mask of a state under a budget: the tokens that leave a completion time enough. */
static void
check_tight(const llm_grammar *g, const llm_grammar_state *s, uint32_t budget, const char *name)
{
	uint32_t mask[WORDS];

	REQUIRE(llm_grammar_mask(s, vocab, budget, mask, NULL) == LLM_OK);
	for (int32_t t = 0; t < N_VOCAB; t++)
	{
		bool allowed = mask[t / 32] >> (t % 32) & 1;
		llm_grammar_state *copy;
		bool fits;

		if (t == END_TOKEN)
			continue;
		REQUIRE((copy = llm_grammar_copy(s)) != NULL);
		fits = llm_grammar_accept(copy, vocab, t, NULL) == LLM_OK &&
		       grammar_cost(g, &copy->set) < budget;
		CHECK_MSG(fits == allowed, "%s: token %d within %u", name, t, budget);
		llm_grammar_state_free(copy);
	}
}

/* The mask under a budget that only just suffices, whatever was kept before. */
static void
test_tight_masks(void)
{
	uint64_t seed = 4;

	for (size_t i = 0; i < N_CASES; i++)
	{
		llm_json_doc *schema;
		llm_grammar *g;
		llm_grammar_state *s;
		uint32_t mask[WORDS];
		int32_t token = 0;

		REQUIRE(llm_json_parse(cases[i].schema, strlen(cases[i].schema), &schema, NULL) == LLM_OK);
		REQUIRE(llm_grammar_from_schema(llm_json_root(schema), &g, NULL) == LLM_OK);
		REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
		for (int step = 0; step < 12 && token >= 0 && token != END_TOKEN; step++)
		{
			for (uint32_t more = 0; more < 4; more++)
				if (grammar_cost(g, &s->set) + more > 0)
					check_tight(g, s, grammar_cost(g, &s->set) + more, cases[i].schema);
			REQUIRE(llm_grammar_mask(s, vocab, 50, mask, NULL) == LLM_OK);
			token = pick(mask, &seed);
			if (token >= 0)
				CHECK(llm_grammar_accept(s, vocab, token, NULL) == LLM_OK);
		}
		llm_grammar_state_free(s);
		llm_grammar_free(g);
		llm_json_free(schema);
	}
}

/* Does a grammar take a text, byte by byte, as a whole output? */
static bool
takes(const llm_grammar *g, const char *text, size_t n)
{
	llm_grammar_state *s;
	bool taken = true;

	if (llm_grammar_start(g, &s, NULL) != LLM_OK)
		return false;
	for (size_t i = 0; taken && i < n; i++)
		taken = llm_grammar_accept(s, vocab, (unsigned char) text[i], NULL) == LLM_OK;
	taken = taken && llm_grammar_complete(s);
	llm_grammar_state_free(s);
	return taken;
}

/* Checks the values of one case; returns how many there are. */
static uint64_t
check_values(const llm_grammar *g, const llm_json *values, bool fit, uint64_t i_case)
{
	for (uint64_t k = 0; k < llm_json_size(values); k++)
	{
		const char *text = "";
		size_t n = 0;

		CHECK(llm_json_string(llm_json_item(values, k), &text, &n));
		CHECK_MSG(takes(g, text, n) == fit, "schema %llu: %s is %s", (unsigned long long) i_case,
		          text, fit ? "refused" : "taken");
	}
	return llm_json_size(values);
}

/* Random schemas: the grammar's verdict on values is the reference's, and what it writes fits. */
static void
test_reference(void)
{
	static char out[OUTPUT_MAX];
	size_t bytes;
	char *file = fixture_read(DATA, &bytes);
	llm_json_doc *doc = NULL, *written;
	uint64_t n_fit = 0, n_misfit = 0, seed = 6;

	REQUIRE(llm_json_parse(file, bytes, &doc, NULL) == LLM_OK);
	for (uint64_t i = 0; i < llm_json_size(llm_json_root(doc)); i++)
	{
		const llm_json *c = llm_json_item(llm_json_root(doc), i);
		const llm_json *schema = llm_json_member(c, "schema");
		llm_grammar *g;
		llm_error err = {LLM_OK, ""};

		CHECK_MSG(llm_grammar_from_schema(schema, &g, &err) == LLM_OK, "schema %llu: %s",
		          (unsigned long long) i, err.message);
		REQUIRE(g != NULL);
		n_fit += check_values(g, llm_json_member(c, "fits"), true, i);
		n_misfit += check_values(g, llm_json_member(c, "misfits"), false, i);
		for (uint32_t walk = 0; walk < 4; walk++)
		{
			size_t n;

			CHECK(random_walk(g, g->nodes[0].cost + walk * 9 + 1, &seed, out, &n));
			REQUIRE(llm_json_parse(out, n, &written, NULL) == LLM_OK);
			CHECK_MSG(valid(schema, llm_json_root(written)), "schema %llu: %.*s",
			          (unsigned long long) i, (int) n, out);
			llm_json_free(written);
		}
		llm_grammar_free(g);
	}
	CHECK(n_fit > 800 && n_misfit > 500);
	llm_json_free(doc);
	free(file);
}

/* A list gives its strings, each reachable, and nothing else. */
static void
test_strings(void)
{
	static const char *const list[] = {"name", "names", "", "age", "é", "a,b", "name"};
	size_t bytes[7], n, n_seen = 0;
	uint64_t seed = 3;
	bool seen[7] = {false};
	llm_grammar *g;
	char out[OUTPUT_MAX];

	for (int i = 0; i < 7; i++)
		bytes[i] = strlen(list[i]);
	REQUIRE(llm_grammar_from_strings(list, bytes, 7, &g, NULL) == LLM_OK);
	for (int walk = 0; walk < 400; walk++)
	{
		bool found = false;

		CHECK(random_walk(g, 8, &seed, out, &n));
		for (int i = 0; i < 6; i++)
			if (n == bytes[i] && memcmp(out, list[i], n) == 0)
			{
				found = true;
				n_seen += !seen[i];
				seen[i] = true;
			}
		CHECK_MSG(found, "%.*s", (int) n, out);
	}
	CHECK(n_seen == 6);
	llm_grammar_free(g);
	CHECK(llm_grammar_from_strings(list, bytes, 0, &g, NULL) == LLM_E_RANGE);
}

/* Forced bytes go as far as there is no choice. */
static void
test_forced(void)
{
	static const char *const list[] = {"prefix é", "prefix ê"};
	static const size_t bytes[] = {9, 9};
	llm_grammar *g;
	llm_grammar_state *s;
	char out[64];

	REQUIRE(llm_grammar_from_strings(list, bytes, 2, &g, NULL) == LLM_OK);
	REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
	CHECK(llm_grammar_forced(s, out, sizeof(out)) == 7 && memcmp(out, "prefix ", 7) == 0);
	CHECK(llm_grammar_forced(s, out, 3) == 3);
	llm_grammar_state_free(s);
	llm_grammar_free(g);
	/* characters of every length are forced whole or not at all */
	for (size_t cut = 0; cut <= 12; cut++)
	{
		static const char *const one[] = {"zé\u0800😀~"};
		static const size_t wholes[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
		static const size_t n_one[] = {11};

		REQUIRE(llm_grammar_from_strings(one, n_one, 1, &g, NULL) == LLM_OK);
		REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
		CHECK(llm_grammar_forced(s, out, cut) == wholes[cut]);
		llm_grammar_state_free(s);
		llm_grammar_free(g);
	}
}

/* What is not understood is refused, never passed over. */
static void
test_refused(void)
{
	static const struct
	{
		const char *schema;
		llm_status status;
	} bad[] = {
	    {"{}", LLM_E_UNSUPPORTED},
	    {"true", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"string\",\"pattern\":\"a\"}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"integer\",\"minimum\":1}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"text\"}", LLM_E_UNSUPPORTED},
	    {"{\"$ref\":\"#\"}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"array\"}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"object\",\"additionalProperties\":true}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"object\",\"required\":[\"x\"]}", LLM_E_RANGE},
	    {"{\"enum\":[]}", LLM_E_RANGE},
	    {"{\"enum\":[\"a\",\"a\\u0000b\"]}", LLM_E_UNSUPPORTED},
	    {"{\"const\":[{\"a\\u0000\":1}]}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"object\",\"properties\":{\"\\u0000\":{\"type\":\"null\"}}}",
	     LLM_E_UNSUPPORTED},
	    {"{\"enum\":[1],\"type\":\"string\"}", LLM_E_RANGE},
	    {"{\"enum\":[\"a\"],\"type\":\"string\",\"minLength\":4}", LLM_E_UNSUPPORTED},
	    {"{\"enum\":[\"a\"],\"minLength\":4,\"type\":\"string\"}", LLM_E_UNSUPPORTED},
	    {"{\"enum\":[1],\"const\":1}", LLM_E_UNSUPPORTED},
	    {"{\"anyOf\":[{\"type\":\"null\"}],\"type\":\"null\"}", LLM_E_UNSUPPORTED},
	    {"{\"oneOf\":[{\"type\":\"number\"},{\"type\":\"integer\"}]}", LLM_E_UNSUPPORTED},
	    {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", LLM_E_RANGE},
	    {"{\"type\":\"string\",\"maxLength\":-1}", LLM_E_RANGE},
	    {"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":4096},\"minItems\":"
	     "4096}",
	     LLM_OK},
	    {"{\"type\":\"array\",\"minItems\":4096,\"items\":{\"type\":\"array\",\"minItems\":4096,"
	     "\"items\":{\"type\":\"string\",\"minLength\":4096}}}",
	     LLM_E_RANGE},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		llm_json_doc *doc;
		llm_grammar *g;
		llm_error err = {0};
		llm_status status;

		REQUIRE(llm_json_parse(bad[i].schema, strlen(bad[i].schema), &doc, NULL) == LLM_OK);
		status = llm_grammar_from_schema(llm_json_root(doc), &g, &err);
		CHECK_MSG(status == bad[i].status && (g == NULL) == (status != LLM_OK), "%s: %s",
		          bad[i].schema, err.message);
		llm_grammar_free(g);
		llm_json_free(doc);
	}
}

/* Tokens that are none are told; one that is not allowed, or ends the text, moves nothing. */
static void
test_accept(void)
{
	static const char *const text[] = {"a", "b", "", "</s>"};
	static const size_t bytes[] = {1, 1, 0, 4};
	static const bool ends[] = {false, false, true, true};
	static const char *const list[] = {"ab"};
	static const size_t list_bytes[] = {2};
	llm_vocab_trie *v;
	llm_grammar *g;
	llm_grammar_state *s;
	llm_error err = {0};

	REQUIRE(llm_vocab_trie_from_arrays(text, bytes, ends, 4, &v, NULL) == LLM_OK);
	REQUIRE(llm_grammar_from_strings(list, list_bytes, 1, &g, NULL) == LLM_OK);
	REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
	CHECK(llm_grammar_accept(s, v, -1, &err) == LLM_E_INTERNAL);
	CHECK(llm_grammar_accept(s, v, 4, &err) == LLM_E_INTERNAL);
	CHECK(strcmp(err.message, "token 4 is not in the vocabulary") == 0);
	CHECK(llm_grammar_accept(s, v, 1, &err) != LLM_OK);
	CHECK(llm_grammar_accept(s, v, 3, &err) == LLM_OK &&
	      llm_grammar_accept(s, v, 2, &err) == LLM_OK);
	CHECK(llm_grammar_accept(s, v, 0, &err) == LLM_OK && !llm_grammar_complete(s));
	CHECK(llm_grammar_accept(s, v, 1, &err) == LLM_OK && llm_grammar_complete(s));
	llm_grammar_state_free(s);
	llm_grammar_free(g);
	llm_vocab_trie_free(v);
}

/* A vocabulary that cannot spell the output is refused. */
static void
test_poor_vocab(void)
{
	static const char *const text[] = {"a", "b"}, *const list[] = {"c"};
	static const size_t bytes[] = {1, 1};
	static const bool ends[] = {false, false};
	llm_vocab_trie *poor;
	llm_grammar *g;
	llm_grammar_state *s;
	uint32_t mask[1];

	REQUIRE(llm_vocab_trie_from_arrays(text, bytes, ends, 2, &poor, NULL) == LLM_OK);
	REQUIRE(llm_grammar_from_strings(list, bytes, 1, &g, NULL) == LLM_OK);
	REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
	CHECK(llm_grammar_mask(s, poor, 5, mask, NULL) == LLM_E_UNSUPPORTED);
	llm_grammar_state_free(s);
	llm_grammar_free(g);
	llm_vocab_trie_free(poor);
}

/* Every allocation may fail. */
static void
test_no_memory(void)
{
	llm_json_doc *doc;
	llm_status status = LLM_E_NOMEM;

	REQUIRE(llm_json_parse(cases[12].schema, strlen(cases[12].schema), &doc, NULL) == LLM_OK);
	for (uint64_t n = 1; status == LLM_E_NOMEM && n < 500; n++)
	{
		llm_grammar *g;
		llm_grammar_state *s = NULL;

		llm_alloc_fail_after(n, true);
		status = llm_grammar_from_schema(llm_json_root(doc), &g, NULL);
		if (status == LLM_OK)
			status = llm_grammar_start(g, &s, NULL);
		llm_alloc_fail_after(0, false);
		CHECK(status == LLM_OK || status == LLM_E_NOMEM);
		llm_grammar_state_free(s);
		llm_grammar_free(g);
	}
	CHECK(status == LLM_OK);
	llm_json_free(doc);
}

int
main(void)
{
	make_vocab();
	RUN(walks);
	RUN(masks);
	RUN(tight_masks);
	RUN(reference);
	RUN(strings);
	RUN(forced);
	RUN(refused);
	RUN(accept);
	RUN(poor_vocab);
	RUN(no_memory);
	llm_vocab_trie_free(vocab);
	return test_summary("grammar");
}
