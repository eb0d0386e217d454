/*
 * test_stop.c: stop strings are found however the bytes are cut; only whole characters come out.
 */
#include "llm_alloc.h"
#include "llm_stop.h"
#include "test.h"

/* Feeds text in pieces of random size; what comes out, after flushing, is put into out. */
static bool
stream(const llm_stop *stop, const char *text, size_t n, uint64_t *seed, char *out, size_t *n_out)
{
	llm_stop_state *s;
	const char *safe;
	size_t n_safe, step;
	bool stopped = false;

	*n_out = 0;
	if (llm_stop_state_create(stop, &s, NULL) != LLM_OK)
		return false;
	for (size_t i = 0; i < n && !stopped; i += step)
	{
		step = 1 + test_random(seed) % 4;
		step = step < n - i ? step : n - i;
		CHECK(llm_stop_feed(s, text + i, step, &safe, &n_safe, &stopped, NULL) == LLM_OK);
		memcpy(out + *n_out, safe, n_safe);
		*n_out += n_safe;
		/* A piece never ends inside a character. */
		CHECK(n_safe == 0 || ((unsigned char) safe[0] & 0xc0) != 0x80);
	}
	llm_stop_flush(s, &safe, &n_safe);
	memcpy(out + *n_out, safe, n_safe);
	*n_out += n_safe;
	llm_stop_state_free(s);
	return stopped;
}

/* Compares with a search by definition: earliest end, then longest. */
static void
test_against_search(void)
{
	uint64_t seed = 1;

	for (int round = 0; round < 5000; round++)
	{
		char text[40], strings[3][6], out[128];
		const char *pointers[3] = {strings[0], strings[1], strings[2]};
		size_t bytes[3], n = test_random(&seed) % 40, n_out, expected = n;
		uint32_t n_strings = (uint32_t) (test_random(&seed) % 4);
		bool found = false;
		llm_stop *stop;

		for (size_t i = 0; i < n; i++)
			text[i] = (char) ('a' + test_random(&seed) % 2);
		for (uint32_t k = 0; k < n_strings; k++)
		{
			bytes[k] = 1 + test_random(&seed) % 6;
			for (size_t i = 0; i < bytes[k]; i++)
				strings[k][i] = (char) ('a' + test_random(&seed) % 2);
		}
		for (size_t end = 1; end <= n && !found; end++)
			for (uint32_t k = 0; k < n_strings; k++)
				if (bytes[k] <= end && memcmp(text + end - bytes[k], strings[k], bytes[k]) == 0)
				{
					expected = !found || end - bytes[k] < expected ? end - bytes[k] : expected;
					found = true;
				}
		REQUIRE(llm_stop_create(pointers, bytes, n_strings, &stop, NULL) == LLM_OK);
		CHECK(stream(stop, text, n, &seed, out, &n_out) == found);
		CHECK(n_out == expected && memcmp(out, text, n_out) == 0);
		llm_stop_free(stop);
	}
}

/* Characters come whole, ill-formed bytes as U+FFFD, a cut end not at all. */
static void
test_characters(void)
{
	static const struct
	{
		const char *in, *out;
	} cases[] = {{"aé€😀z", "aé€😀z"},
	             {"\xff"
	              "a",
	              "\xef\xbf\xbd"
	              "a"},
	             {"\xe2\x82"
	              "a",
	              "\xef\xbf\xbd"
	              "a"},
	             {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
	             {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
	             {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
	             {"\xf0\x90\x80"
	              "é",
	              "\xef\xbf\xbdé"},
	             {"x\xf0\x9f\x98", "x"},
	             {"é\xc3", "é"}};
	uint64_t seed = 2;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (int round = 0; round < 20; round++)
		{
			char out[64];
			size_t n;

			CHECK(!stream(NULL, cases[i].in, strlen(cases[i].in), &seed, out, &n));
			CHECK_MSG(n == strlen(cases[i].out) && memcmp(out, cases[i].out, n) == 0, "case %zu",
			          i);
		}
}

/* Bytes are held back no longer than they may belong to a stop string. */
static void
test_holds_back(void)
{
	static const char *const strings[] = {"\n\n", "END"};
	static const size_t bytes[] = {2, 3};
	llm_stop *stop;
	llm_stop_state *s;
	const char *safe;
	size_t n;
	bool stopped;

	REQUIRE(llm_stop_create(strings, bytes, 2, &stop, NULL) == LLM_OK);
	REQUIRE(llm_stop_state_create(stop, &s, NULL) == LLM_OK);
	CHECK(llm_stop_feed(s, "abE", 3, &safe, &n, &stopped, NULL) == LLM_OK && n == 2);
	CHECK(llm_stop_feed(s, "N", 1, &safe, &n, &stopped, NULL) == LLM_OK && n == 0);
	CHECK(llm_stop_feed(s, "x\n", 2, &safe, &n, &stopped, NULL) == LLM_OK && n == 3 && !stopped);
	CHECK(memcmp(safe, "ENx", 3) == 0);
	CHECK(llm_stop_feed(s, "\nmore", 5, &safe, &n, &stopped, NULL) == LLM_OK && n == 0 && stopped);
	CHECK(llm_stop_feed(s, "more", 4, &safe, &n, &stopped, NULL) == LLM_OK && n == 0 && stopped);
	llm_stop_flush(s, &safe, &n);
	CHECK(n == 0);
	llm_stop_state_free(s);
	llm_stop_free(stop);
}

/* Bad lists and failing allocations. */
static void
test_refused(void)
{
	static const char *const strings[] = {"ab", "cd"};
	size_t bytes[] = {2, 0};
	llm_stop *stop;
	llm_stop_state *s;
	llm_status status = LLM_E_NOMEM;

	CHECK(llm_stop_create(strings, bytes, 2, &stop, NULL) == LLM_E_RANGE && stop == NULL);
	CHECK(llm_stop_create(strings, bytes, LLM_STOP_STRINGS_MAX + 1, &stop, NULL) == LLM_E_RANGE);
	bytes[1] = 2;
	for (uint64_t n = 1; status == LLM_E_NOMEM && n < 50; n++)
	{
		const char *safe;
		size_t n_safe;
		bool stopped;

		llm_alloc_fail_after(n, true);
		s = NULL;
		status = llm_stop_create(strings, bytes, 2, &stop, NULL);
		if (status == LLM_OK)
			status = llm_stop_state_create(stop, &s, NULL);
		if (status == LLM_OK)
			status = llm_stop_feed(s, "xyz", 3, &safe, &n_safe, &stopped, NULL);
		llm_alloc_fail_after(0, false);
		llm_stop_state_free(s);
		llm_stop_free(stop);
	}
	CHECK(status == LLM_OK);
}

int
main(void)
{
	RUN(against_search);
	RUN(characters);
	RUN(holds_back);
	RUN(refused);
	return test_summary("stop");
}
