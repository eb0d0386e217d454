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

/* A row of table 3-7 of Unicode 15: the bytes that a character of a length may begin with. */
typedef struct form
{
	unsigned char first_low, first_high;
	unsigned char second_low, second_high;
	size_t n;
} form;

/* What the table says of the bytes at p: the length of a character, or of what can be none. */
static size_t
by_table(const unsigned char *p, size_t n, bool *whole)
{
	static const form forms[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2},
	                             {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
	                             {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
	                             {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
	                             {0xf4, 0xf4, 0x80, 0x8f, 4}};
	const form *f = forms;
	const form *end = forms + sizeof(forms) / sizeof(forms[0]);
	size_t i = 1;

	while (f < end && !(p[0] >= f->first_low && p[0] <= f->first_high))
		f++;
	*whole = false;
	if (f == end)
		return 1;
	while (i < f->n && i < n && p[i] >= (i == 1 ? f->second_low : 0x80) &&
	       p[i] <= (i == 1 ? f->second_high : 0xbf))
		i++;
	*whole = i == f->n;
	return i;
}

/* Every text of four bytes from the borders of the table's ranges comes out as the table says. */
static void
test_every_border(void)
{
	static const unsigned char borders[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
	                                        0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed,
	                                        0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
	const size_t n_borders = sizeof(borders);
	uint32_t n_wrong = 0;

	for (size_t number = 0; number < n_borders * n_borders * n_borders * n_borders; number++)
	{
		unsigned char text[4];
		char expected[16];
		char out[16];
		size_t n_expected = 0;
		size_t n_out;
		uint64_t seed = number;
		bool whole;

		for (size_t i = 0, rest = number; i < 4; i++, rest /= n_borders)
			text[i] = borders[rest % n_borders];
		for (size_t i = 0, step; i < 4; i += step)
		{
			step = by_table(text + i, 4 - i, &whole);
			if (!whole && i + step == 4 && text[i] >= 0xc2 && text[i] <= 0xf4)
				break; /* cut by the end: left out */
			memcpy(expected + n_expected, whole ? (const char *) text + i : "\xef\xbf\xbd",
			       whole ? step : 3);
			n_expected += whole ? step : 3;
		}
		(void) stream(NULL, (const char *) text, 4, &seed, out, &n_out);
		n_wrong += n_out != n_expected || memcmp(out, expected, n_out) != 0;
	}
	CHECK_MSG(n_wrong == 0, "%u texts", n_wrong);
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
	/* what began a stop string within one piece and did not go on is free as well */
	CHECK(llm_stop_feed(s, "EaENb", 5, &safe, &n, &stopped, NULL) == LLM_OK && n == 6);
	CHECK(memcmp(safe, "\nEaENb", 6) == 0 && !stopped);
	CHECK(llm_stop_feed(s, "\n", 1, &safe, &n, &stopped, NULL) == LLM_OK && n == 0);
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
	RUN(every_border);
	RUN(holds_back);
	RUN(refused);
	return test_summary("stop");
}
