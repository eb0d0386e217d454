/*
 * test_grammar_rules.c: random walks under rules are of their language, complete in their budget,
 * and masks are exact.
 *
 * Outputs are judged by a recursive descent that shares nothing with the automaton.
 */
#include "grammar_fixture.h"
#include "llm_alloc.h"
#include "llm_json.h"

/* A small language with recursion, empty parts and names that begin others; to be closed by }. */
#define LANGUAGE \
	"{\"rules\":[[[1,7]],[[\"(\",0,\")\"],[2],[3,\" \",4],[\"f(\",5,\")\"]]," \
	"{\"texts\":[\"ab\",\"a\",\"abc\"]},{\"texts\":[\"x\",\"nu\"]}," \
	"{\"chars\":\"0123456789\",\"min\":1,\"max\":3},[[],[0,6]],[[],[\",\",0,6]]," \
	"[[],[\" + \",0]]]"

static const char *language_expr(const char *p, const char *end);

/* Where a part of the language ends, by recursive descent; NULL: it is none. */
static const char *
language_term(const char *p, const char *end)
{
	static const char *const names[] = {"abc", "ab", "a"};
	int n = 0;

	for (int i = 0; i < 3; i++)
		if ((size_t) (end - p) >= strlen(names[i]) && memcmp(p, names[i], strlen(names[i])) == 0)
			return p + strlen(names[i]);
	if (p < end && *p == '(')
	{
		p = language_expr(p + 1, end);
		return p != NULL && p < end && *p == ')' ? p + 1 : NULL;
	}
	if (end - p >= 3 && memcmp(p, "f()", 3) == 0)
		return p + 3;
	if (end - p >= 2 && memcmp(p, "f(", 2) == 0)
	{
		for (p = language_expr(p + 2, end); p != NULL && p < end && *p == ',';)
			p = language_expr(p + 1, end);
		return p != NULL && p < end && *p == ')' ? p + 1 : NULL;
	}
	p += end - p >= 2 && memcmp(p, "nu", 2) == 0 ? 2 : p < end && *p == 'x' ? 1 : end - p;
	if (p >= end || *p != ' ')
		return NULL;
	for (p++; p < end && *p >= '0' && *p <= '9'; n++)
		p++;
	return n >= 1 && n <= 3 ? p : NULL;
}

/* The same of the whole. */
static const char *
language_expr(const char *p, const char *end)
{
	p = language_term(p, end);
	if (p != NULL && end - p >= 3 && memcmp(p, " + ", 3) == 0)
		return language_expr(p + 3, end);
	return p;
}

/* A grammar of rules; NULL when they are refused. */
static llm_grammar *
rules(const char *text)
{
	llm_json_doc *doc;
	llm_grammar *g = NULL;

	if (llm_json_parse(text, strlen(text), &doc, NULL) != LLM_OK)
		return NULL;
	(void) llm_grammar_from_rules(llm_json_root(doc), &g, NULL);
	llm_json_free(doc);
	return g;
}

/* Outputs under rules are of the language, whole within any budget, also behind what was typed. */
static void
test_walks(void)
{
	static const struct
	{
		const char *text, *typed, *lead;
		uint32_t least;
	} starts[] = {{LANGUAGE "}", "", "", 1},
	              {LANGUAGE ",\"typed\":\"(f(ab\"}", "(f(ab", "", 2},
	              {LANGUAGE ",\"typed\":\"((((((((((((a\"}", "((((((((((((a", "", 12},
	              {LANGUAGE ",\"typed\":\"nu\",\"lead\":\" 1\"}", "nu", " 1", 2},
	              {LANGUAGE ",\"lead\":\"f(abc\"}", "", "f(abc", 6}};
	static char whole[OUTPUT_MAX + 64];
	uint64_t seed = 7;

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
	{
		llm_grammar *g = rules(starts[i].text);
		size_t n_typed = strlen(starts[i].typed), n;

		REQUIRE(g != NULL);
		memcpy(whole, starts[i].typed, n_typed);
		for (uint32_t k = 0; k < 600; k++)
		{
			uint32_t budget = starts[i].least + k % 200;
			bool complete = random_walk(g, budget, &seed, whole + n_typed, &n);

			CHECK_MSG(complete && language_expr(whole, whole + n_typed + n) == whole + n_typed + n,
			          "start %zu: %.*s", i, (int) (n_typed + n), whole);
			CHECK(memcmp(whole + n_typed, starts[i].lead, strlen(starts[i].lead)) == 0);
		}
		llm_grammar_free(g);
	}
}

/* A mask under rules allows exactly the tokens that are accepted. */
static void
test_masks(void)
{
	llm_grammar *g = rules(LANGUAGE ",\"typed\":\"f(a\",\"lead\":\"b\"}");
	llm_grammar_state *s, *copy;
	uint32_t mask[WORDS];
	uint64_t seed = 11;

	REQUIRE(g != NULL && llm_grammar_start(g, &s, NULL) == LLM_OK);
	for (int step = 0; step < 40; step++)
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
		mask[END_TOKEN / 32] &= ~(UINT32_C(1) << (END_TOKEN % 32));
		if ((token = pick(mask, &seed)) < 0)
			break;
		CHECK(llm_grammar_accept(s, vocab, token, NULL) == LLM_OK);
	}
	llm_grammar_state_free(s);
	llm_grammar_free(g);
}

/* What was typed in vain allows nothing; what is forced is known. */
static void
test_start(void)
{
	llm_grammar *g = rules(LANGUAGE ",\"typed\":\"abcd\"}");
	llm_grammar_state *s;
	uint32_t mask[WORDS];
	uint64_t seed = 1;
	char out[8];

	REQUIRE(g != NULL && llm_grammar_start(g, &s, NULL) == LLM_OK);
	REQUIRE(llm_grammar_mask(s, vocab, 100, mask, NULL) == LLM_OK);
	CHECK(pick(mask, &seed) == -1 && !llm_grammar_complete(s));
	llm_grammar_state_free(s);
	llm_grammar_free(g);
	g = rules("{\"rules\":[[[\"select \",1],[\"select \",1,\"!\"]],[[\"abc\"]]],\"lead\":\"s\"}");
	REQUIRE(g != NULL && llm_grammar_start(g, &s, NULL) == LLM_OK);
	CHECK(llm_grammar_forced(s, out, sizeof(out)) == 8 && memcmp(out, "select a", 8) == 0);
	llm_grammar_state_free(s);
	llm_grammar_free(g);
}

/* Rules that would never end, or that are no rules. */
static void
test_refused(void)
{
	static const char *const bad[] = {"{}",
	                                  "[]",
	                                  "{\"rules\":[]}",
	                                  "{\"rules\":[1]}",
	                                  "{\"rules\":[[]]}",
	                                  "{\"rules\":[[1]]}",
	                                  "{\"rules\":[[[1]]]}",
	                                  "{\"rules\":[[[true]]]}",
	                                  "{\"rules\":[{}]}",
	                                  "{\"rules\":[{\"texts\":[]}]}",
	                                  "{\"rules\":[{\"texts\":[1]}]}",
	                                  "{\"rules\":[{\"chars\":\"\"}]}",
	                                  "{\"rules\":[{\"chars\":\"é\"}]}",
	                                  "{\"rules\":[{\"chars\":\"a\",\"min\":2,\"max\":1}]}",
	                                  "{\"rules\":[{\"chars\":\"a\",\"max\":99999}]}",
	                                  "{\"rules\":[[[\"a\"]]],\"typed\":1}",
	                                  "{\"rules\":[[[\"a\"]]],\"lead\":[]}",
	                                  "{\"rules\":[[[\"a\",0]]]}",
	                                  "{\"rules\":[[[0,\"a\"],[\"b\"]]]}",
	                                  "{\"rules\":[[[1,\"a\"],[]],[[2,0],[\"b\"]],[[]]]}",
	                                  "{\"rules\":[[[0],[]]]}"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
	{
		llm_grammar *g = rules(bad[i]);

		CHECK_MSG(g == NULL, "%s", bad[i]);
		llm_grammar_free(g);
	}
}

/* Every allocation may fail. */
static void
test_no_memory(void)
{
	static const char text[] = LANGUAGE ",\"typed\":\"f(a\",\"lead\":\"b\"}";
	llm_json_doc *doc;
	llm_status status = LLM_E_NOMEM;

	REQUIRE(llm_json_parse(text, strlen(text), &doc, NULL) == LLM_OK);
	for (uint64_t n = 1; status == LLM_E_NOMEM && n < 500; n++)
	{
		llm_grammar *g;
		llm_grammar_state *s = NULL;

		llm_alloc_fail_after(n, true);
		status = llm_grammar_from_rules(llm_json_root(doc), &g, NULL);
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
	RUN(start);
	RUN(refused);
	RUN(no_memory);
	llm_vocab_trie_free(vocab);
	return test_summary("grammar_rules");
}
