/*
 * test_grammar_limits.c: what schemas and rules may be at most, and the very texts that values
 * have.
 *
 * Every limit that llm_grammar.h promises is met exactly by one grammar and passed by one by the
 * next; the message says which limit it was. Values are compared as bytes: the only output that a
 * grammar allows is what llm_grammar_forced gives.
 */
#include "grammar_fixture.h"
#include "llm_alloc.h"
#include "llm_buffer.h"
#include "llm_json.h"

typedef llm_status (*compile_fn)(const llm_json *json, llm_grammar **out, llm_error *err);

/* Appends n items; # in an item stands for its number, @ for the next one. */
static void
put_items(llm_buffer *b, const char *item, const char *between, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
	{
		llm_buffer_put_str(b, i > 0 ? between : "");
		for (const char *p = item; *p != '\0'; p++)
		{
			char number[16];

			snprintf(number, sizeof(number), "%u", *p == '@' ? i + 1 : i);
			if (*p == '#' || *p == '@')
				llm_buffer_put_str(b, number);
			else
				llm_buffer_put(b, p, 1);
		}
	}
}

/* Compiles a text; what it allows is *out. */
static llm_status
compile_text(compile_fn compile, const char *text, size_t n, llm_grammar **out, llm_error *err)
{
	llm_json_doc *doc;
	llm_status status = llm_json_parse(text, n, &doc, err);

	*out = NULL;
	if (status != LLM_OK)
		return status;
	status = compile(llm_json_root(doc), out, err);
	llm_json_free(doc);
	return status;
}

/* A grammar that grows with a number: head, n times item, middle, n times close, tail. */
typedef struct growing
{
	const char *head, *item, *between, *middle, *close, *tail;
	uint32_t limit;
	const char *message; /* of one beyond the limit */
} growing;

/* Compiles it at a size. */
static llm_status
compile_growing(compile_fn compile, const growing *g, uint32_t n, llm_error *err)
{
	llm_buffer text = {0};
	llm_grammar *grammar = NULL;
	llm_status status;

	llm_buffer_put_str(&text, g->head);
	put_items(&text, g->item, g->between, n);
	llm_buffer_put_str(&text, g->middle);
	put_items(&text, g->close, "", n);
	llm_buffer_put_str(&text, g->tail);
	status = compile_text(compile, text.bytes, text.n, &grammar, err);
	CHECK((status == LLM_OK) == (grammar != NULL));
	llm_grammar_free(grammar);
	llm_buffer_free(&text);
	return status;
}

/* Exactly the limit is accepted; one beyond it is refused, and the message names it. */
static void
check_growing(compile_fn compile, const growing *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
	{
		llm_error err = {0};

		CHECK_MSG(compile_growing(compile, &list[i], list[i].limit, &err) == LLM_OK, "%zu: %s", i,
		          err.message);
		CHECK_MSG(compile_growing(compile, &list[i], list[i].limit + 1, &err) == LLM_E_RANGE &&
		              strcmp(err.message, list[i].message) == 0,
		          "%zu: %s", i, err.message);
	}
}

/* How much a schema may hold. */
static void
test_schema_sizes(void)
{
	static const growing list[] = {
	    {"{\"enum\":[", "#", ",", "]}", "", "", 4096,
	     "schema key \"enum\" must be a list of up to 4096 values"},
	    {"{\"anyOf\":[", "{\"const\":#}", ",", "]}", "", "", 32,
	     "schema needs a list of 1 to 32 alternatives"},
	    {"{\"anyOf\":[{\"anyOf\":[", "{\"const\":#}", ",", "]},{\"type\":\"null\"}]}", "", "", 31,
	     "schema has more than 32 alternatives in one place"},
	    {"{\"type\":[", "\"null\"", ",", "]}", "", "", 32, "schema needs a list of 1 to 32 types"},
	    {"{\"properties\":{", "\"p#\":{\"type\":\"null\"}", ",", "}}", "", "", 256,
	     "schema key \"properties\" must be an object of up to 256 members"},
	    {"", "{\"type\":\"array\",\"items\":", "", "{\"type\":\"null\"}", "}", "", 31,
	     "schema is nested deeper than 32 levels"},
	    {"{\"type\":\"array\",\"items\":", "{\"properties\":{\"a\":{\"type\":\"array\",\"items\":",
	     "", "{\"type\":\"null\"}", "}}}", "}", 15, "schema is nested deeper than 32 levels"},
	    {"{\"type\":\"array\",\"items\":", "{\"anyOf\":[{\"type\":\"array\",\"items\":", "",
	     "{\"type\":\"null\"}", "}]}", "}", 15, "schema is nested deeper than 32 levels"},
	    {"{\"const\":\"", "x", "", "\"}", "", "", 65534,
	     "schema has a constant longer than 65536 bytes"},
	    {"{\"const\":\"\\n", "\\\\", "", "\"}", "", "", 32764,
	     "schema has a constant longer than 65536 bytes"},
	    {"{\"properties\":{\"", "k", "", "\":{\"type\":\"null\"}}}", "", "", 65534,
	     "schema has a constant longer than 65536 bytes"},
	};

	check_growing(llm_grammar_from_schema, list, sizeof(list) / sizeof(list[0]));
}

/* Bounds that are numbers, and where they may stand. */
static void
test_schema_bounds(void)
{
	static const struct
	{
		const char *schema;
		const char *message; /* NULL: it is accepted */
	} list[] = {
	    {"{\"type\":\"string\",\"maxLength\":4096}", NULL},
	    {"{\"type\":\"string\",\"maxLength\":4097}",
	     "schema key \"maxLength\" must be a whole number up to 4096"},
	    {"{\"type\":\"string\",\"minLength\":4096}", NULL},
	    {"{\"type\":\"string\",\"minLength\":1.5}",
	     "schema key \"minLength\" must be a whole number up to 4096"},
	    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":2}", NULL},
	    {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}",
	     "schema key \"minLength\" is above \"maxLength\""},
	    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"maxItems\":4096}", NULL},
	    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"maxItems\":4097}",
	     "schema key \"maxItems\" must be a whole number up to 4096"},
	    {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":1,\"maxItems\":0}",
	     "schema key \"minItems\" is above \"maxItems\""},
	    {"{\"type\":\"array\"}", "schema has an array without \"items\""},
	    {"{\"type\":\"nil\"}", "schema type \"nil\" is not known"},
	    {"{\"type\":[]}", "schema needs a list of 1 to 32 types"},
	    {"{\"type\":[\"null\",1]}", "schema has a type that is no string"},
	    {"{\"anyOf\":{}}", "schema needs a list of 1 to 32 alternatives"},
	    {"{\"anyOf\":[1]}", "a schema must be an object"},
	    {"{\"enum\":{\"a\":1}}", "schema key \"enum\" must be a list of up to 4096 values"},
	    {"{\"enum\":[1,2.5],\"type\":\"boolean\"}", "schema has an enum that no value fits"},
	    {"{\"enum\":[1],\"type\":[2]}", "schema has an enum that no value fits"},
	    {"{\"const\":1,\"type\":\"string\"}", "schema has an enum that no value fits"},
	    {"{\"properties\":[]}", "schema key \"properties\" must be an object of up to 256 members"},
	    {"{\"properties\":{},\"required\":{}}", "schema key \"required\" must be a list"},
	    {"{\"properties\":{},\"required\":[1]}", "schema key \"required\" must list strings"},
	    {"{\"properties\":{\"ab\":{\"type\":\"null\"}},\"required\":[\"a\"]}",
	     "schema requires \"a\", which is no property"},
	    {"{\"properties\":{\"ab\":{\"type\":\"null\"}},\"required\":[\"ab\",\"ab\"]}", NULL},
	    {"{\"properties\":{},\"additionalProperties\":{}}",
	     "schema key \"additionalProperties\" other than false is not supported"},
	    {"{\"type\":\"null\",\"format\":\"x\"}", "schema key \"format\" is not supported"},
	    {"{\"type\\u0000\":\"null\"}", "schema key \"type\" is not supported"},
	    {"{\"enum\":[1],\"items\":{}}", "schema key \"items\" beside \"enum\" is not supported"},
	    {"{\"anyOf\":[{\"type\":\"null\"}],\"type\":\"null\"}",
	     "schema key \"type\" beside \"anyOf\" is not supported"},
	    {"{\"title\":1,\"$id\":2,\"examples\":[],\"$comment\":\"\",\"type\":\"null\"}", NULL},
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
	{
		const char *message = list[i].message;
		llm_grammar *g;
		llm_error err = {0};
		llm_status status =
		    compile_text(llm_grammar_from_schema, list[i].schema, strlen(list[i].schema), &g, &err);

		CHECK_MSG((status == LLM_OK) == (message == NULL), "%s: %s", list[i].schema, err.message);
		CHECK_MSG(message == NULL || strcmp(message, err.message) == 0, "%s: %s", list[i].schema,
		          err.message);
		llm_grammar_free(g);
	}
}

/* The one output that a schema with a single value has. */
static void
check_value(const char *schema, size_t n_schema, const char *text, size_t n_text)
{
	static char out[70000];
	llm_grammar *g;
	llm_grammar_state *s;
	llm_error err = {0};
	size_t n;

	REQUIRE(compile_text(llm_grammar_from_schema, schema, n_schema, &g, &err) == LLM_OK);
	REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
	n = llm_grammar_forced(s, out, sizeof(out));
	CHECK_MSG(n == n_text && memcmp(out, text, n) == 0, "%.60s: %zu bytes, %.*s", schema, n,
	          (int) (n < 60 ? n : 60), out);
	llm_grammar_state_free(s);
	llm_grammar_free(g);
}

/* Constants are written compactly, in the order given, numbers as they were written. */
static void
test_values(void)
{
	static const struct
	{
		const char *schema, *text;
	} list[] = {
	    {"{\"const\":null}", "null"},
	    {"{\"const\":-1.50e+2}", "-1.50e+2"},
	    {"{\"const\":\"\"}", "\"\""},
	    {"{\"const\":\"a\\\"b\\\\c\\/d\"}", "\"a\\\"b\\\\c/d\""},
	    {"{\"const\":\"\\n\\u0001\\u001f\\u0010\\u007f\"}", "\"\\u000a\\u0001\\u001f\\u0010\x7f\""},
	    {"{\"const\":\"\\u00e9\\ud83d\\ude00\"}", "\"\xc3\xa9\xf0\x9f\x98\x80\""},
	    {"{\"const\":[]}", "[]"},
	    {"{\"const\":{}}", "{}"},
	    {"{\"const\":[[],{},[1,[2]],{\"b\":[],\"a\":{}}]}", "[[],{},[1,[2]],{\"b\":[],\"a\":{}}]"},
	    {"{\"const\": [ true , false ]}", "[true,false]"},
	    {"{\"enum\":[1.0,7,\"7\"],\"type\":\"integer\"}", "7"},
	    {"{\"enum\":[\"x\",2e1,null],\"type\":\"number\"}", "2e1"},
	    {"{\"enum\":[\"x\",{\"a\":1},[1]],\"type\":[\"boolean\",\"object\"]}", "{\"a\":1}"},
	    {"{\"enum\":[\"x\",{\"a\":1},[1]],\"type\":[\"array\",\"boolean\"]}", "[1]"},
	    {"{\"enum\":[true,1],\"type\":[3,\"boolean\"]}", "true"},
	    {"{\"const\":5,\"type\":\"integer\"}", "5"},
	};
	llm_buffer schema = {0}, text = {0};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		check_value(list[i].schema, strlen(list[i].schema), list[i].text, strlen(list[i].text));
	/* As deep as a document may be. */
	llm_buffer_put_str(&schema, "{\"const\":");
	put_items(&text, "[", "", LLM_JSON_DEPTH_MAX - 1);
	put_items(&text, "]", "", LLM_JSON_DEPTH_MAX - 1);
	llm_buffer_put(&schema, text.bytes, text.n);
	llm_buffer_put_str(&schema, "}");
	check_value(schema.bytes, schema.n, text.bytes, text.n);
	llm_buffer_free(&schema);
	llm_buffer_free(&text);
}

/* How much rules may hold. A rule of a thousand others costs nothing but room. */
static void
test_rule_sizes(void)
{
	static const growing list[] = {
	    {"{\"rules\":[", "{\"texts\":[\"a\"]}", ",", "]}", "", "", 4096,
	     "a grammar must have 1 to 4096 rules"},
	    {"{\"rules\":[{\"texts\":[", "\"a#\"", ",", "]}]}", "", "", 4096,
	     "a rule must have 1 to 4096 texts"},
	    {"{\"rules\":[[[", "\"a\"", ",", "]]]}", "", "", 4095, "rules have more than 4096 parts"},
	    {"{\"rules\":[[", "[\"#\"]", ",", "]]}", "", "", 32,
	     "a rule must have 1 to 32 alternatives"},
	    {"{\"rules\":[[[", "1", ",", "]],{\"texts\":[\"a\"]}]}", "", "", 65535,
	     "rules have more than 65536 symbols"},
	    {"{\"rules\":[[[", "1", ",", "]],{\"texts\":[\"a\"]},[[1,1],[]]]}", "", "", 65531,
	     "rules have more than 65536 symbols"},
	    {"{\"rules\":[", "[[@,\"x\"]]", ",", ",{\"texts\":[\"a\"]}]}", "", "", 31,
	     "rule 0 has no end within 32 open rules"},
	    {"{\"rules\":[", "[[@,@]]", ",", ",{\"texts\":[\"a\"]}]}", "", "", 24,
	     "rule 0 has no end within 32 open rules"},
	};
	static const growing texts[] = {
	    {"{\"rules\":[[[\"", "x", "", "\"]]]}", "", "", 65536, ""},
	    {"{\"rules\":[{\"texts\":\"", "x", "", "\"}]}", "", "", 65536, ""},
	    {"{\"rules\":[{\"texts\":[\"a\"]}],\"lead\":\"", "x", "", "\"}", "", "", 65536, ""},
	    {"{\"rules\":[{\"texts\":[\"a\"]}],\"typed\":\"", "x", "", "\"}", "", "", 65536, ""},
	    {"{\"rules\":[{\"chars\":\"", "x", "", "\"}]}", "", "", 65536, ""},
	};
	llm_error err;

	check_growing(llm_grammar_from_rules, list, sizeof(list) / sizeof(list[0]));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
	{
		CHECK(compile_growing(llm_grammar_from_rules, &texts[i], texts[i].limit, &err) == LLM_OK);
		CHECK(compile_growing(llm_grammar_from_rules, &texts[i], texts[i].limit + 1, &err) ==
		      LLM_E_UNSUPPORTED);
		CHECK(strcmp(err.message, "a text of a rule must be a string of up to 65536 bytes") == 0);
	}
}

/* However deep the typed text has gone: where it may go on at all, it also comes to an end. */
static void
test_rules_end_at_any_depth(void)
{
	static const struct
	{
		const char *rules;
		uint32_t limit; /* the deepest that may still go on */
	} list[] = {
	    {"{\"rules\":[[[\"(\",0,\")\"],[\"a\"]],[[]]],\"typed\":\"", 31},
	    {"{\"rules\":[[[\"(\",0,\")\"],[1]],[[2]],{\"texts\":[\"a\",\"ab\"]}],\"typed\":\"", 30},
	    {"{\"rules\":[[[\"(\",0,1,\")\"],[\"a\"]],[[],[2]],[[\"b\"]]],\"typed\":\"", 31},
	};
	static char out[OUTPUT_MAX];
	uint64_t seed = 3;
	size_t n;

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		for (uint32_t depth = 0; depth <= GRAMMAR_DEPTH_MAX + 2; depth++)
		{
			llm_buffer text = {0};
			llm_grammar *g;
			llm_grammar_state *s;
			uint32_t mask[WORDS];

			llm_buffer_put_str(&text, list[i].rules);
			put_items(&text, "(", "", depth);
			llm_buffer_put_str(&text, "\"}");
			REQUIRE(compile_text(llm_grammar_from_rules, text.bytes, text.n, &g, NULL) == LLM_OK);
			REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
			REQUIRE(llm_grammar_mask(s, vocab, 500, mask, NULL) == LLM_OK);
			CHECK_MSG((pick(mask, &seed) >= 0) == (depth <= list[i].limit), "rules %zu, depth %u",
			          i, depth);
			if (depth <= list[i].limit)
				CHECK_MSG(random_walk(g, 500, &seed, out, &n), "rules %zu, depth %u", i, depth);
			llm_grammar_state_free(s);
			llm_grammar_free(g);
			llm_buffer_free(&text);
		}
}

/* Takes one byte; the vocabulary's first tokens are the bytes. */
static bool
take_byte(llm_grammar_state *s, char byte)
{
	return llm_grammar_accept(s, vocab, (unsigned char) byte, NULL) == LLM_OK;
}

/*
 * Masks are kept for states that differ in a counter only, while no token can bring it to a bound:
 * at every count, with masks kept of all before, the mask is that of a grammar that keeps none.
 */
static void
test_masks_near_bounds(void)
{
	static const struct
	{
		compile_fn compile;
		const char *text, *begin, *item;
	} list[] = {
	    {llm_grammar_from_schema, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":90}", "\"",
	     "a"},
	    {llm_grammar_from_schema, "{\"type\":\"string\",\"minLength\":80}", "\"", "\xc3\xa9"},
	    {llm_grammar_from_schema,
	     "{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":2,\"maxItems\":80}",
	     "[null", ",null"},
	    {llm_grammar_from_rules,
	     "{\"rules\":[[[1,\"]\"]],{\"chars\":\"abx1\",\"min\":5,\"max\":95}]}", "", "a"},
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
	{
		llm_grammar *g, *fresh;
		llm_grammar_state *s, *other;
		uint32_t mask[WORDS], exact[WORDS], n = 0;
		bool more = true;

		REQUIRE(compile_text(list[i].compile, list[i].text, strlen(list[i].text), &g, NULL) ==
		        LLM_OK);
		REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
		for (const char *p = list[i].begin; *p != '\0'; p++)
			CHECK(take_byte(s, *p));
		for (; more && n < 100; n++)
		{
			REQUIRE(compile_text(list[i].compile, list[i].text, strlen(list[i].text), &fresh,
			                     NULL) == LLM_OK);
			REQUIRE(llm_grammar_start(fresh, &other, NULL) == LLM_OK);
			for (const char *p = list[i].begin; *p != '\0'; p++)
				CHECK(take_byte(other, *p));
			for (uint32_t k = 0; k < n; k++)
				for (const char *p = list[i].item; *p != '\0'; p++)
					CHECK(take_byte(other, *p));
			for (uint32_t budget = 1000; budget > 303; budget -= 303)
			{
				CHECK(llm_grammar_mask(s, vocab, budget, mask, NULL) == LLM_OK);
				CHECK(llm_grammar_mask(other, vocab, budget, exact, NULL) == LLM_OK);
				CHECK_MSG(memcmp(mask, exact, sizeof(mask)) == 0,
				          "grammar %zu, %u items, budget %u", i, n, budget);
			}
			llm_grammar_state_free(other);
			llm_grammar_free(fresh);
			for (const char *p = list[i].item; more && *p != '\0'; p++)
				more = take_byte(s, *p);
		}
		CHECK_MSG(n >= 80, "grammar %zu ends after %u", i, n);
		llm_grammar_state_free(s);
		llm_grammar_free(g);
	}
}

/* A vocabulary that cannot spell what every output has is refused, wherever that stands. */
static void
test_rules_need_their_bytes(void)
{
	static const char *const token[] = {"a", "b"};
	static const size_t bytes[] = {1, 1};
	static const bool ends[] = {false, false};
	static const struct
	{
		const char *rules;
		llm_status status;
	} list[] = {
	    {"{\"rules\":[[[\"ab\"]]]}", LLM_OK},
	    {"{\"rules\":[[[\"abc\"]]]}", LLM_E_UNSUPPORTED},
	    {"{\"rules\":[{\"texts\":[\"a\",\"c\"]}]}", LLM_E_UNSUPPORTED},
	    {"{\"rules\":[{\"chars\":\"ab\",\"min\":1}]}", LLM_OK},
	    {"{\"rules\":[{\"chars\":\"cd\",\"min\":1}]}", LLM_E_UNSUPPORTED},
	    {"{\"rules\":[{\"texts\":[\"a\"]}],\"lead\":\"c\"}", LLM_E_UNSUPPORTED},
	};
	llm_vocab_trie *poor;

	REQUIRE(llm_vocab_trie_from_arrays(token, bytes, ends, 2, &poor, NULL) == LLM_OK);
	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
	{
		llm_grammar *g;
		llm_grammar_state *s;
		uint32_t mask[1];

		REQUIRE(compile_text(llm_grammar_from_rules, list[i].rules, strlen(list[i].rules), &g,
		                     NULL) == LLM_OK);
		REQUIRE(llm_grammar_start(g, &s, NULL) == LLM_OK);
		CHECK_MSG(llm_grammar_mask(s, poor, 5, mask, NULL) == list[i].status, "%s", list[i].rules);
		llm_grammar_state_free(s);
		llm_grammar_free(g);
	}
	llm_vocab_trie_free(poor);
}

int
main(void)
{
	make_vocab();
	RUN(schema_sizes);
	RUN(schema_bounds);
	RUN(values);
	RUN(rule_sizes);
	RUN(rules_end_at_any_depth);
	RUN(masks_near_bounds);
	RUN(rules_need_their_bytes);
	llm_vocab_trie_free(vocab);
	return test_summary("grammar_limits");
}
