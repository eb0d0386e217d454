/*
 * test_unicode.c: UTF-8 by the table of RFC 3629, character classes, normalisation forms against
 * utf8proc's own (which is quadratic in hostile text, so not used), graphemes.
 */
#include "test.h"

#include <utf8proc.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_unicode.h"

/* Every code point encodes and decodes to itself, and only the valid ones do. */
static void
test_utf8_round_trip(void)
{
	for (uint32_t cp = 0; cp < 0x110000; cp++)
	{
		char bytes[4];
		uint32_t back = 0;
		size_t n;

		if (cp >= 0xd800 && cp < 0xe000)
			continue;
		n = llm_utf8_encode(cp, bytes);
		if (llm_utf8_decode(bytes, n, &back) != n || back != cp)
		{
			CHECK_MSG(false, "U+%04X comes back as U+%04X", cp, back);
			return;
		}
		if (n > 1 && llm_utf8_decode(bytes, n - 1, &back) != 0)
		{
			CHECK_MSG(false, "U+%04X is decoded cut off", cp);
			return;
		}
	}
}

/* All two-byte and a sample of longer strings: valid if and only if utf8proc thinks so. */
static void
test_utf8_validity(void)
{
	uint64_t state = 1;
	uint64_t n_valid = 0;

	for (uint32_t i = 0; i < 65536 + 2000000; i++)
	{
		/* Lead and continuation bytes are common among the random ones. */
		static const unsigned char leads[] = {0x41, 0xc3, 0xe0, 0xe2, 0xed, 0xf0, 0xf4, 0x80};
		unsigned char s[4];
		size_t n = i < 65536 ? 2 : 4;
		uint64_t r = test_random(&state);
		bool valid = true;

		for (size_t k = 0; k < 4; k++, r >>= 8)
			s[k] = (unsigned char) (i < 65536  ? i >> (8 * (k & 1))
			                        : r & 0x80 ? 0x80 | (r & 0x3f)
			                                   : leads[r & 7] | (r >> 3 & 0xf));
		for (size_t k = 0; valid && k < n;)
		{
			utf8proc_int32_t cp;
			utf8proc_ssize_t length = utf8proc_iterate(s + k, (utf8proc_ssize_t) (n - k), &cp);

			valid = length > 0;
			k += valid ? (size_t) length : 0;
		}
		n_valid += valid;
		if (llm_utf8_valid((const char *) s, n) != valid)
		{
			CHECK_MSG(false, "%02x %02x %02x %02x is %svalid", s[0], s[1], s[2], s[3],
			          valid ? "" : "not ");
			return;
		}
	}
	CHECK_MSG(n_valid > 30000, "%llu valid strings", (unsigned long long) n_valid);
}

/* Invalid bytes are found at every place of a long text, whatever stands around them. */
static void
test_utf8_validity_of_long_texts(void)
{
	char text[64];

	for (size_t at = 0; at < sizeof(text); at++)
	{
		memset(text, 'a', sizeof(text));
		CHECK(llm_utf8_valid(text, sizeof(text)));
		text[at] = (char) 0xc3;
		CHECK_MSG(!llm_utf8_valid(text, sizeof(text)), "%zu", at);
		if (at + 1 < sizeof(text))
		{
			text[at + 1] = (char) 0xa9;
			CHECK_MSG(llm_utf8_valid(text, sizeof(text)), "%zu", at);
			CHECK_MSG(!llm_utf8_valid(text, at + 1), "%zu", at);
		}
	}
}

/* A peek never reads past the end, and goes on behind bytes that are no character. */
static void
test_utf8_peek(void)
{
	uint32_t cp;

	CHECK(llm_utf8_peek("", 0, &cp) == 0 && cp == 0);
	CHECK(llm_utf8_peek("a", 1, &cp) == 1 && cp == 'a');
	CHECK(llm_utf8_peek("\xe2\x96\x81", 3, &cp) == 3 && cp == 0x2581);
	CHECK(llm_utf8_peek("\xe2\x96\x81", 2, &cp) == 1 && cp == 0xfffd);
	CHECK(llm_utf8_peek("\x96\x81", 2, &cp) == 1 && cp == 0xfffd);
	CHECK(llm_utf8_last("a\xe2\x96\x81", 4) == 1 && llm_utf8_last("ab", 2) == 1);
	CHECK(llm_utf8_last("\x81\x81", 2) == 0);
}

/* One character of each kind, and those on the edges of the classes. */
static void
test_classes(void)
{
	static const struct
	{
		uint32_t cp;
		const char *classes; /* L N M n(Mn) P s(pace) w c(ontrol) u(pper) l(ower) j(CJK) */
	} chars[] = {
	    {'a', "Lwl"},      {'Z', "Lwu"},      {'0', "Nw"},        {'_', "Pw"},
	    {' ', "s"},        {'\t', "sc"},      {'\n', "sc"},       {0x0b, "sc"},
	    {0x1f, "c"},       {0x7f, "c"},       {0, "c"},           {'-', "P"},
	    {'$', ""},         {'+', ""},         {0x85, "sc"},       {0xa0, "s"},
	    {0xad, "c"},       {0xaa, "Lwul"},    {0xb2, "N"},        {0xbd, "N"},
	    {0xdf, "Lwl"},     {0x1c5, "Lwu"},    {0x2b0, "Lwul"},    {0x301, "Mnwul"},
	    {0x903, "Mwul"},   {0x488, "Mwul"},   {0x660, "Nw"},      {0x2160, "Nw"},
	    {0x200b, "c"},     {0x200c, "wc"},    {0x200d, "wc"},     {0x2028, "s"},
	    {0x203f, "Pw"},    {0x24b6, "w"},     {0x24ff, "N"},      {0x2581, ""},
	    {0x3000, "s"},     {0x3042, "Lwul"},  {0x3400, "Lwulj"},  {0x4e00, "Lwulj"},
	    {0x9fff, "Lwulj"}, {0xa000, "Lwul"},  {0xac00, "Lwul"},   {0xe000, "c"},
	    {0xf900, "Lwulj"}, {0xfeff, "c"},     {0xfffd, ""},       {0xffff, ""},
	    {0x378, ""},       {0x1f130, "w"},    {0x1f600, ""},      {0x20000, "Lwulj"},
	    {0x2b81f, "j"},    {0x2b820, "Lwul"}, {0x2b920, "Lwulj"}, {0x10ffff, ""},
	};
	static const struct
	{
		char letter;
		bool (*in)(uint32_t cp);
	} classes[] = {{'L', llm_is_letter},     {'N', llm_is_number},      {'M', llm_is_mark},
	               {'n', llm_is_nonspacing}, {'P', llm_is_punctuation}, {'s', llm_is_space},
	               {'w', llm_is_word},       {'c', llm_is_control},     {'u', llm_is_upper_like},
	               {'l', llm_is_lower_like}, {'j', llm_is_cjk}};

	for (size_t i = 0; i < sizeof(chars) / sizeof(chars[0]); i++)
		for (size_t k = 0; k < sizeof(classes) / sizeof(classes[0]); k++)
			CHECK_MSG(classes[k].in(chars[i].cp) ==
			              (strchr(chars[i].classes, classes[k].letter) != NULL),
			          "U+%04X and class %c", chars[i].cp, classes[k].letter);
}

/* Lower case by the full mapping. */
static void
test_lower(void)
{
	static const uint32_t pairs[][2] = {{'A', 'a'},         {'z', 'z'},     {'[', '['},
	                                    {0xc9, 0xe9},       {0x3a3, 0x3c3}, {0x1e9e, 0xdf},
	                                    {0x10400, 0x10428}, {0x212a, 'k'},  {0x4e00, 0x4e00}};
	uint32_t out[2];

	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		CHECK_MSG(llm_lower(pairs[i][0], out) == 1 && out[0] == pairs[i][1], "U+%04X", pairs[i][0]);
	CHECK(llm_lower(0x130, out) == 2 && out[0] == 'i' && out[1] == 0x307);
}

/* Compares a form with utf8proc's own. */
static bool
same_as_library(const char *s, size_t n, llm_unicode_form form)
{
	static const int options[] = {0, UTF8PROC_STABLE | UTF8PROC_COMPOSE,
	                              UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
	                              UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
	                              UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT};
	utf8proc_uint8_t *wanted = NULL;
	utf8proc_ssize_t n_wanted = utf8proc_map((const utf8proc_uint8_t *) s, (utf8proc_ssize_t) n,
	                                         &wanted, (utf8proc_option_t) options[form]);
	char *out = NULL;
	size_t n_out = 0;
	bool same = llm_unicode_normalise(s, n, form, &out, &n_out, NULL) == LLM_OK &&
	            n_out == (size_t) n_wanted && memcmp(out, wanted, n_out) == 0;

	llm_free(out);
	free(wanted);
	return same;
}

/* Random texts: ASCII, letters with marks, marks in any order, Hangul, what decomposes far. */
static void
test_forms_equal_to_library(void)
{
	static const uint32_t ranges[][2] = {{0x20, 0x7e},     {0x20, 0x7e},      {0xc0, 0x17f},
	                                     {0x300, 0x345},   {0x316, 0x33c},    {0x1100, 0x11ff},
	                                     {0xac00, 0xac40}, {0x1e00, 0x1fff},  {0xfb00, 0xfdfa},
	                                     {0x3300, 0x33ff}, {0x5b0, 0x5c4},    {0x900, 0x97f},
	                                     {0xf900, 0xfa20}, {0x1d15e, 0x1d164}};
	uint64_t state = 7;
	char text[4096];

	for (int i = 0; i < 20000; i++)
	{
		size_t n = 0;
		uint64_t chars = 1 + test_random(&state) % 60;

		for (uint64_t k = 0; k < chars; k++)
		{
			const uint32_t *r = ranges[test_random(&state) % (sizeof(ranges) / sizeof(ranges[0]))];

			n += llm_utf8_encode(r[0] + (uint32_t) (test_random(&state) % (r[1] - r[0] + 1)),
			                     text + n);
		}
		for (int form = LLM_NFC; form <= LLM_NFKD; form++)
			if (!same_as_library(text, n, (llm_unicode_form) form))
			{
				CHECK_MSG(false, "text %d, form %d", i, form);
				return;
			}
	}
	CHECK(same_as_library("", 0, LLM_NFC) && same_as_library("a", 1, LLM_NFD));
}

/* The examples of UAX #15 and of the Hangul algorithm, written out. */
static void
test_forms_by_hand(void)
{
	static const struct
	{
		const char *from, *to[4]; /* NFC, NFD, NFKC, NFKD */
	} rows[] = {
	    {"\xc3\xa9", {"\xc3\xa9", "e\xcc\x81", "\xc3\xa9", "e\xcc\x81"}},
	    {"e\xcc\x81", {"\xc3\xa9", "e\xcc\x81", "\xc3\xa9", "e\xcc\x81"}},
	    {"q\xcc\x87\xcc\xa3", /* the dot below sorts first */
	     {"q\xcc\xa3\xcc\x87", "q\xcc\xa3\xcc\x87", "q\xcc\xa3\xcc\x87", "q\xcc\xa3\xcc\x87"}},
	    {"\xe1\xba\x9b\xcc\xa3", /* long s with dots: compatibility takes the long s away */
	     {"\xe1\xba\x9b\xcc\xa3", "\xc5\xbf\xcc\xa3\xcc\x87", "\xe1\xb9\xa9", "s\xcc\xa3\xcc\x87"}},
	    {"\xef\xac\x81", {"\xef\xac\x81", "\xef\xac\x81", "fi", "fi"}},
	    {"\xea\xb0\x81", /* U+AC01 */
	     {"\xea\xb0\x81", "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81",
	      "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8"}},
	    {"\xe2\x84\xab", {"\xc3\x85", "A\xcc\x8a", "\xc3\x85", "A\xcc\x8a"}}, /* Angstrom */
	    {"\xcc\x81 a", {"\xcc\x81 a", "\xcc\x81 a", "\xcc\x81 a", "\xcc\x81 a"}},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		for (int form = 0; form < 4; form++)
		{
			char *out = NULL;
			size_t n = 0;

			CHECK(llm_unicode_normalise(rows[i].from, strlen(rows[i].from),
			                            (llm_unicode_form) (LLM_NFC + form), &out, &n,
			                            NULL) == LLM_OK);
			CHECK_MSG(n == strlen(rows[i].to[form]) && memcmp(out, rows[i].to[form], n) == 0,
			          "row %zu, form %d", i, form);
			llm_free(out);
		}
}

/* A million marks in the worst order take no longer than a million of anything: seconds of a
 * quadratic sort would be hours. The result is sorted. */
static void
test_marks_sort_in_linear_time(void)
{
	const size_t n_marks = 1000000;
	char *text = malloc(2 * n_marks);
	char *out = NULL;
	size_t n = 0;
	size_t n_below = 0;

	REQUIRE(text != NULL);
	for (size_t i = 0; i < n_marks; i++)
		memcpy(text + 2 * i, i % 2 ? "\xcc\xa3" : "\xcc\x81", 2); /* below, class 220; above, 230 */
	REQUIRE(llm_unicode_normalise(text, 2 * n_marks, LLM_NFD, &out, &n, NULL) == LLM_OK);
	CHECK(n == 2 * n_marks);
	for (size_t i = 0; i < n; i += 2)
		n_below += memcmp(out + i, i < n / 2 ? "\xcc\xa3" : "\xcc\x81", 2) == 0;
	CHECK(n_below == n_marks);
	llm_free(out);
	free(text);
}

/* Clusters of UAX #29. */
static void
test_graphemes(void)
{
	static const struct
	{
		const char *text;
		size_t n;
	} rows[] = {
	    {"ab", 1},
	    {"e\xcc\x81\xcc\xa3x", 5},
	    {"\r\nx", 2},
	    {"\n\r", 1},
	    {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8x", 9},            /* Hangul L V T */
	    {"\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7z", 11},   /* emoji, joiner, emoji */
	    {"\xf0\x9f\x87\xa9\xf0\x9f\x87\xaa\xf0\x9f\x87\xab", 8}, /* two of three flags' letters */
	    {"\xef\xbd\xb6\xef\xbe\x9e", 6},                         /* halfwidth ga */
	    {"\x80z", 1},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		CHECK_MSG(llm_utf8_grapheme(rows[i].text, strlen(rows[i].text)) == rows[i].n,
		          "row %zu: %zu", i, llm_utf8_grapheme(rows[i].text, strlen(rows[i].text)));
	CHECK(llm_utf8_grapheme("", 0) == 0);
}

/* No memory: a failure, and nothing is lost. */
static void
test_no_memory(void)
{
	static const char text[] =
	    "plain, then \xc3\xa9\xcc\xa3\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3"
	    "\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3\xcc\x81\xcc\xa3\xcc\x81";
	bool good = false;
	uint64_t n = 1;

	for (; !good && n < 100; n++)
	{
		char *out = NULL;
		size_t n_out;
		llm_error err = {LLM_OK, ""};
		llm_status status;

		llm_alloc_fail_after(n, true);
		status = llm_unicode_normalise(text, strlen(text), LLM_NFKC, &out, &n_out, &err);
		llm_alloc_fail_after(0, false);
		good = status == LLM_OK;
		CHECK(good || (status == LLM_E_NOMEM && err.code == status));
		llm_free(good ? out : NULL);
	}
	CHECK(good && n > 3);
}

int
main(void)
{
	RUN(utf8_round_trip);
	RUN(utf8_validity);
	RUN(utf8_validity_of_long_texts);
	RUN(utf8_peek);
	RUN(classes);
	RUN(lower);
	RUN(forms_equal_to_library);
	RUN(forms_by_hand);
	RUN(marks_sort_in_linear_time);
	RUN(graphemes);
	RUN(no_memory);
	return test_summary("unicode");
}
