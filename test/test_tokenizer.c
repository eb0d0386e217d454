/*
 * test_tokenizer.c: ids equal to the reference's (Hugging Face tokenizers, sentencepiece) on
 * hostile and random texts for every kind of tokenizer, linear time, bad files, no memory.
 *
 * The reference's ids stand in test/data/tokenizer/cases.json as hashes. Random texts are made here
 * and in scripts/make-tokenizer-fixtures.py by the same generator.
 */
#include "tokenizer_fixture.h"

#include <pthread.h>
#include <time.h>

static llm_json_doc *cases_doc;
static const llm_json *cases;

#define FNV_BASIS 0xcbf29ce484222325u
#define FNV_PRIME 0x100000001b3u

/* FNV-1a over whole ids. */
static uint64_t
hash_ids(uint64_t h, const int32_t *ids, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ (uint32_t) ids[i]) * FNV_PRIME;
	return h;
}

/* FNV-1a over bytes. */
static uint64_t
hash_bytes(const char *bytes, size_t n)
{
	uint64_t h = FNV_BASIS;

	for (size_t i = 0; i < n; i++)
		h = (h ^ (unsigned char) bytes[i]) * FNV_PRIME;
	return h;
}

/* True when a hash is the one that stands in the file, folded to eight digits. */
static bool
same_hash(uint64_t h, const llm_json *wanted)
{
	char text[9];

	snprintf(text, sizeof(text), "%08x", (uint32_t) (h ^ h >> 32));
	return llm_json_is(wanted, text);
}

/* A member of cases.json. */
static const llm_json *
member(const char *key)
{
	return llm_json_member(cases, key);
}

/* The i-th text. */
static const char *
text_at(uint64_t i, size_t *n)
{
	const char *text = "";

	*n = 0;
	if (!llm_json_string(llm_json_item(member("texts"), i), &text, n))
		printf("cases.json has no text %llu\n", (unsigned long long) i);
	return text;
}

/* ---- equality with the reference ---------------------------------------------------------- */

/* Compares the ids of the texts under some flags with a list of hashes. */
static uint64_t
compare_texts(const fixture *f, const char *name, const llm_json *tokenizer, const char *key,
              int flags)
{
	const llm_json *wanted = llm_json_member(tokenizer, key);
	llm_tokens ids = {0};
	llm_error err = {LLM_OK, ""};

	for (uint64_t i = 0; i < llm_json_size(wanted); i++)
	{
		size_t n;
		const char *text = text_at(i, &n);

		ids.n = 0;
		CHECK_MSG(llm_tokenize(f->t, text, n, flags, &ids, &err) == LLM_OK, "%s %s text %llu: %s",
		          name, key, (unsigned long long) i, err.message);
		CHECK_MSG(same_hash(hash_ids(FNV_BASIS, ids.ids, ids.n), llm_json_item(wanted, i)),
		          "%s %s text %llu: other ids", name, key, (unsigned long long) i);
	}
	llm_tokens_free(&ids);
	return llm_json_size(wanted);
}

/* Compares what the ids of the texts decode to. */
static uint64_t
compare_decoded(const fixture *f, const char *name, const llm_json *tokenizer)
{
	const llm_json *wanted = llm_json_member(tokenizer, "decoded");
	llm_tokens ids = {0};

	for (uint64_t i = 0; i < llm_json_size(wanted); i++)
	{
		char *decoded = NULL;
		size_t n;
		const char *text = text_at(i, &n);

		ids.n = 0;
		CHECK(llm_tokenize(f->t, text, n, 0, &ids, NULL) == LLM_OK);
		CHECK(llm_detokenize(f->t, ids.ids, ids.n, &decoded, &n, NULL) == LLM_OK);
		CHECK_MSG(same_hash(hash_bytes(decoded, n), llm_json_item(wanted, i)),
		          "%s text %llu decodes to \"%s\"", name, (unsigned long long) i, decoded);
		llm_free(decoded);
	}
	llm_tokens_free(&ids);
	return llm_json_size(wanted);
}

/* Compares the ids of a text repeated many times. */
static uint64_t
compare_runs(const fixture *f, const char *name, const llm_json *tokenizer)
{
	const llm_json *wanted = llm_json_member(tokenizer, "runs");
	llm_tokens ids = {0};
	llm_error err = {LLM_OK, ""};

	for (uint64_t i = 0; i < llm_json_size(wanted); i++)
	{
		const llm_json *run = llm_json_item(member("runs"), i);
		const char *unit = "";
		uint64_t times = 0;
		size_t n = 0;
		char *text;

		CHECK(llm_json_string(llm_json_item(run, 0), &unit, &n));
		CHECK(llm_json_u64(llm_json_item(run, 1), &times));
		if ((text = malloc(n * times + 1)) == NULL)
			return 0;
		for (uint64_t k = 0; k < times; k++)
			memcpy(text + k * n, unit, n);
		ids.n = 0;
		CHECK_MSG(llm_tokenize(f->t, text, n * times, 0, &ids, &err) == LLM_OK, "%s run %llu: %s",
		          name, (unsigned long long) i, err.message);
		CHECK_MSG(same_hash(hash_ids(FNV_BASIS, ids.ids, ids.n), llm_json_item(wanted, i)),
		          "%s run %llu: other ids", name, (unsigned long long) i);
		free(text);
	}
	llm_tokens_free(&ids);
	return llm_json_size(wanted);
}

/* Compares pairs cut longest-first: ids, then types. */
static uint64_t
compare_pairs(const fixture *f, const char *name, const llm_json *tokenizer)
{
	const llm_json *wanted = llm_json_member(tokenizer, "pairs");
	llm_tokens ids = {0};
	llm_tokens types = {0};
	llm_error err = {LLM_OK, ""};

	for (uint64_t i = 0; i < llm_json_size(wanted); i++)
	{
		const llm_json *pair = llm_json_item(member("pairs"), i);
		uint64_t number[3] = {0};
		const char *text[2];
		size_t n[2];
		uint64_t h;

		for (uint64_t k = 0; k < 3; k++)
			CHECK(llm_json_u64(llm_json_item(pair, k), &number[k]));
		for (int k = 0; k < 2; k++)
			text[k] = text_at(number[k], &n[k]);
		ids.n = types.n = 0;
		CHECK_MSG(llm_tokenize_pair(f->t, text[0], n[0], text[1], n[1], number[2], &ids, &types,
		                            &err) == LLM_OK,
		          "%s pair %llu: %s", name, (unsigned long long) i, err.message);
		CHECK(types.n == ids.n && ids.n <= number[2]);
		h = hash_ids(hash_ids(FNV_BASIS, ids.ids, ids.n), types.ids, types.n);
		CHECK_MSG(same_hash(h, llm_json_item(wanted, i)), "%s pair %llu: other ids", name,
		          (unsigned long long) i);
	}
	llm_tokens_free(&ids);
	llm_tokens_free(&types);
	return llm_json_size(wanted);
}

/* Appends a string of a list, chosen at random. */
static void
put_choice(tok_buffer *b, const llm_json *list, uint64_t n, uint64_t *state)
{
	const char *text = "";
	size_t bytes = 0;

	llm_json_string(llm_json_item(list, test_random(state) % n), &text, &bytes);
	tok_put(b, text, bytes, NULL);
}

/* Appends a few characters of a range, chosen at random. */
static void
put_characters(tok_buffer *b, const llm_json *ranges, uint64_t *state)
{
	const llm_json *range = llm_json_item(ranges, test_random(state) % llm_json_size(ranges));
	uint64_t first = 0;
	uint64_t last = 0;
	uint64_t n;

	llm_json_u64(llm_json_item(range, 0), &first);
	llm_json_u64(llm_json_item(range, 1), &last);
	n = 1 + test_random(state) % 4;
	for (uint64_t i = 0; i < n; i++)
	{
		char utf8[4];
		uint32_t cp = (uint32_t) (first + test_random(state) % (last - first + 1));

		tok_put(b, utf8, llm_utf8_encode(cp, utf8), NULL);
	}
}

/* Makes the random text of a seed, as random_text of the script does. */
static void
random_text(uint64_t seed, tok_buffer *b)
{
	uint64_t state = seed;
	uint64_t n_parts = 1 + test_random(&state) % 24;
	uint64_t n_hostile = 1;
	const char *marks = "";
	size_t n_marks = 1;

	llm_json_u64(member("n_hostile"), &n_hostile);
	llm_json_string(member("marks"), &marks, &n_marks);
	b->n = 0;
	for (uint64_t i = 0; i < n_parts; i++)
	{
		uint64_t kind = test_random(&state) % 100;

		if (kind < 35)
			put_choice(b, member("words"), llm_json_size(member("words")), &state);
		else if (kind < 55)
			tok_put(b, &marks[test_random(&state) % n_marks], 1, NULL);
		else if (kind < 62)
			put_choice(b, member("texts"), n_hostile, &state);
		else
			put_characters(b, member("ranges"), &state);
		if (test_random(&state) % 2)
			tok_put(b, " ", 1, NULL);
	}
}

/* Compares the ids of blocks of random texts. */
static uint64_t
compare_random(const fixture *f, const char *name, const llm_json *tokenizer)
{
	const llm_json *wanted = llm_json_member(tokenizer, "random");
	static const int32_t end = -1;
	uint64_t n_texts = 0;
	tok_buffer text = {0};
	llm_tokens ids = {0};

	llm_json_u64(member("n_block_texts"), &n_texts);
	for (uint64_t block = 0; block < llm_json_size(wanted); block++)
	{
		uint64_t h = FNV_BASIS;

		for (uint64_t i = 0; i < n_texts; i++)
		{
			random_text(block * n_texts + i, &text);
			ids.n = 0;
			CHECK(llm_tokenize(f->t, text.bytes, text.n, 0, &ids, NULL) == LLM_OK);
			h = hash_ids(hash_ids(h, ids.ids, ids.n), &end, 1);
		}
		CHECK_MSG(same_hash(h, llm_json_item(wanted, block)), "%s: other ids in block %llu", name,
		          (unsigned long long) block);
	}
	llm_free(text.bytes);
	llm_tokens_free(&ids);
	return llm_json_size(wanted) * n_texts;
}

/* Compares everything that the file has of a tokenizer. */
static void
compare_all(const char *folder, const char *name, const llm_json *tokenizer)
{
	char path[512];
	fixture f;
	llm_error err = {LLM_OK, ""};
	uint64_t n = 0;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	CHECK_MSG(fixture_open(path, &f, &err) == LLM_OK, "%s: %s", path, err.message);
	if (f.t == NULL)
		return;
	n += compare_texts(&f, name, tokenizer, "plain", 0);
	n += compare_texts(&f, name, tokenizer, "special", LLM_TOK_SPECIAL);
	n += compare_texts(&f, name, tokenizer, "template", LLM_TOK_ADD_BOS_EOS);
	n += compare_decoded(&f, name, tokenizer);
	n += compare_runs(&f, name, tokenizer);
	n += compare_pairs(&f, name, tokenizer);
	n += compare_random(&f, name, tokenizer);
	CHECK_MSG(n > 8000, "%s: only %llu comparisons", name, (unsigned long long) n);
	fixture_close(&f);
}

/* Every kind of tokenizer, trained small. */
static void
test_equal_to_reference(void)
{
	const llm_json *fixtures = member("fixtures");

	CHECK(llm_json_size(fixtures) >= 24);
	for (uint64_t i = 0; i < llm_json_size(fixtures); i++)
	{
		const char *name;
		size_t n;
		const llm_json *tokenizer = llm_json_member_at(fixtures, i, &name, &n);

		compare_all(FIXTURES, name, tokenizer);
	}
}

/* The vocabularies of the real models. */
static void
test_equal_to_reference_real(void)
{
	const char *folder = getenv("PREPACK_MODELS") != NULL ? getenv("PREPACK_MODELS") : "models";
	const llm_json *real = member("models");
	struct stat st;
	char path[512];

	for (uint64_t i = 0; i < llm_json_size(real); i++)
	{
		const char *name;
		size_t n;
		const llm_json *tokenizer = llm_json_member_at(real, i, &name, &n);

		snprintf(path, sizeof(path), "%s/%s", folder, name);
		if (stat(path, &st) != 0)
			SKIP("no real models (make models)");
		compare_all(folder, name, tokenizer);
	}
}

/* ---- laws --------------------------------------------------------------------------------- */

/* Runs fn over every fixture. */
static void
each_fixture(void (*fn)(const fixture *f, const char *name))
{
	const llm_json *fixtures = member("fixtures");

	for (uint64_t i = 0; i < llm_json_size(fixtures); i++)
	{
		const char *name;
		char path[512];
		size_t n;
		fixture f;
		llm_error err = {LLM_OK, ""};

		llm_json_member_at(fixtures, i, &name, &n);
		snprintf(path, sizeof(path), FIXTURES "/%s", name);
		CHECK_MSG(fixture_open(path, &f, &err) == LLM_OK, "%s: %s", path, err.message);
		if (f.t != NULL)
			fn(&f, name);
		fixture_close(&f);
	}
}

/* Plain text gives no special token but the unknown one, in any text. */
static void
check_plain(const fixture *f, const char *name)
{
	llm_tokens ids = {0};
	uint64_t n_special = 0;

	for (uint64_t i = 0; i < llm_json_size(member("texts")); i++)
	{
		size_t n;
		const char *text = text_at(i, &n);

		for (int flags = 0; flags <= LLM_TOK_SPECIAL; flags++)
		{
			ids.n = 0;
			CHECK(llm_tokenize(f->t, text, n, flags, &ids, NULL) == LLM_OK);
			for (size_t k = 0; k < ids.n; k++)
				if (llm_tokenizer_is_special(f->t, ids.ids[k]) && ids.ids[k] != f->t->unk)
				{
					CHECK_MSG(flags != 0, "%s text %llu: token %d", name, (unsigned long long) i,
					          ids.ids[k]);
					n_special++;
				}
		}
	}
	/* The same texts do hold special tokens of most vocabularies. */
	CHECK_MSG(n_special > 0 || strncmp(name, "bpe-", 4) == 0, "%s", name);
	llm_tokens_free(&ids);
}

static void
test_special_tokens_in_text_are_text(void)
{
	each_fixture(check_plain);
}

/* Every form of bytes that are not UTF-8 (RFC 3629) is refused, and nothing is appended. */
static void
check_invalid(const fixture *f, const char *name)
{
	static const char *const invalid[] = {"\x80",
	                                      "a\xbf",
	                                      "\xc3",
	                                      "\xc3(",
	                                      "\xc0\x80",
	                                      "\xc1\xbf",
	                                      "\xe0\x9f\xbf",
	                                      "\xe2\x82",
	                                      "\xed\xa0\x80",
	                                      "\xed\xbf\xbf",
	                                      "\xf0\x8f\xbf\xbf",
	                                      "\xf0\x9f\x98",
	                                      "\xf4\x90\x80\x80",
	                                      "\xf5\x80\x80\x80",
	                                      "\xff",
	                                      "01234567\xfe",
	                                      "0123456\xe2\x82"};

	for (size_t i = 0; i < sizeof(invalid) / sizeof(invalid[0]); i++)
	{
		llm_tokens ids = {0};
		llm_error err = {LLM_OK, ""};

		CHECK(llm_tokens_push(&ids, 7, NULL) == LLM_OK);
		CHECK_MSG(llm_tokenize(f->t, invalid[i], strlen(invalid[i]), LLM_TOK_ADD_BOS_EOS, &ids,
		                       &err) == LLM_E_FORMAT,
		          "%s takes invalid text %zu", name, i);
		CHECK(ids.n == 1 && ids.ids[0] == 7 && strstr(err.message, "UTF-8") != NULL);
		llm_tokens_free(&ids);
	}
}

static void
test_invalid_text(void)
{
	each_fixture(check_invalid);
}

/*
 * Byte-level tokens, and SentencePiece's with byte fallback, join to the text that they came from.
 */
static void
check_lossless(const fixture *f, const char *name)
{
	static const char *const lossless[] = {"gpt2.json", "smollm.json", "llama3.json", "tekken.json",
	                                       "gpt4o.json"};
	tok_buffer text = {0};
	llm_tokens ids = {0};
	bool good = false;

	for (size_t i = 0; i < sizeof(lossless) / sizeof(lossless[0]); i++)
		good = good || strcmp(name, lossless[i]) == 0;
	for (uint64_t seed = 1000000; good && seed < 1001000; seed++)
	{
		size_t at = 0;

		random_text(seed, &text);
		ids.n = 0;
		CHECK(llm_tokenize(f->t, text.bytes, text.n, 0, &ids, NULL) == LLM_OK);
		for (size_t i = 0; i < ids.n; i++)
		{
			size_t n;
			const char *bytes = llm_token_bytes(f->t, ids.ids[i], false, &n);

			good = good && n > 0 && n <= text.n - at && memcmp(text.bytes + at, bytes, n) == 0;
			at += good ? n : 0;
		}
		CHECK_MSG(good && at == text.n, "%s: seed %llu", name, (unsigned long long) seed);
	}
	llm_free(text.bytes);
	llm_tokens_free(&ids);
}

static void
test_byte_tokens_join_to_the_text(void)
{
	each_fixture(check_lossless);
}

/* A text cut at the begin of a GPT-2 word has the ids of its parts: splitters look one way only. */
static void
test_parts_have_the_ids_of_the_whole(void)
{
	static const char *const parts[] = {"The", " harbour", " town", ".", "\n", "12", " x", "'s"};
	llm_tokens whole = {0};
	llm_tokens sum = {0};
	tok_buffer text = {0};
	fixture f;

	REQUIRE(fixture_open(FIXTURES "/gpt2.json", &f, NULL) == LLM_OK);
	for (int i = 0; i < 200; i++)
	{
		const char *part = parts[i * 7 % 8];

		tok_put(&text, part, strlen(part), NULL);
		CHECK(llm_tokenize(f.t, part, strlen(part), 0, &sum, NULL) == LLM_OK);
	}
	CHECK(llm_tokenize(f.t, text.bytes, text.n, 0, &whole, NULL) == LLM_OK);
	CHECK(whole.n == sum.n && memcmp(whole.ids, sum.ids, sum.n * sizeof(int32_t)) == 0);
	llm_tokens_free(&whole);
	llm_tokens_free(&sum);
	llm_free(text.bytes);
	fixture_close(&f);
}

/* ---- time, stack, threads ----------------------------------------------------------------- */

#ifdef __SANITIZE_ADDRESS__
#define STACK_BYTES (256 * 1024)
#else
#define STACK_BYTES (64 * 1024)
#endif

/* A thread's work: hostile runs through one tokenizer. */
typedef struct load
{
	const fixture *f;
	uint64_t hash;
} load;

/* Hashes the ids of long runs of each kind of character. */
static void *
tokenize_runs(void *arg)
{
	static const char *const units[] = {"a",  " ", "\n", "1", "!", "\xcc\x81", "\xe6\x97\xa5",
	                                    "a ", "'s"};
	load *l = arg;
	llm_tokens ids = {0};
	char *text = malloc(3 * 100000 + 1);

	l->hash = FNV_BASIS;
	for (size_t i = 0; text != NULL && i < sizeof(units) / sizeof(units[0]); i++)
	{
		size_t n = strlen(units[i]);

		for (size_t k = 0; k < 100000; k++)
			memcpy(text + k * n, units[i], n);
		ids.n = 0;
		if (llm_tokenize(l->f->t, text, 100000 * n, 0, &ids, NULL) == LLM_OK)
			l->hash = hash_ids(l->hash, ids.ids, ids.n);
	}
	free(text);
	llm_tokens_free(&ids);
	return NULL;
}

/* Runs the work in threads of a small stack at once; all must come to the same ids. */
static void
check_small_stacks(const fixture *f, const char *name)
{
	enum
	{
		N_THREADS = 3
	};
	pthread_t threads[N_THREADS];
	load loads[N_THREADS];
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	CHECK(pthread_attr_setstacksize(&attr, STACK_BYTES) == 0);
	for (int i = 0; i < N_THREADS; i++)
	{
		loads[i] = (load){f, 0};
		CHECK(pthread_create(&threads[i], &attr, tokenize_runs, &loads[i]) == 0);
	}
	for (int i = 0; i < N_THREADS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < N_THREADS; i++)
		CHECK_MSG(loads[i].hash == loads[0].hash && loads[i].hash != FNV_BASIS, "%s", name);
	pthread_attr_destroy(&attr);
}

static void
test_small_stacks_and_threads(void)
{
	each_fixture(check_small_stacks);
}

/* Seconds of this thread. */
static double
cpu_seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double) ts.tv_sec + (double) ts.tv_nsec / 1e9;
}

/* The time of a text of one unit repeated. */
static double
time_of(const llm_tokenizer *t, const char *unit, size_t n_text)
{
	size_t n_unit = strlen(unit);
	size_t n = n_text / n_unit * n_unit;
	char *text = malloc(n);
	llm_tokens ids = {0};
	double start;

	if (text == NULL)
		return 0;
	for (size_t i = 0; i < n; i += n_unit)
		memcpy(text + i, unit, n_unit);
	start = cpu_seconds();
	CHECK(llm_tokenize(t, text, n, 0, &ids, NULL) == LLM_OK);
	start = cpu_seconds() - start;
	free(text);
	llm_tokens_free(&ids);
	return start;
}

/*
 * Twice the text takes about twice the time. Printed, as clocks are no proof; what is checked is
 * that eight times the text takes less than 24 times as long, where quadratic work takes 64.
 */
static void
check_linear(const fixture *f, const char *name)
{
	static const char *const units[] = {"a", "\xcc\xa3\xcc\x81", "The harbour town, 1999. "};
	double worst = 0;
	double speed = 0;

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
	{
		double small = 1e9;
		double large = 1e9;

		for (int k = 0; k < 3; k++)
		{
			double a = time_of(f->t, units[i], 64 << 10);
			double b = time_of(f->t, units[i], 512 << 10);

			small = a < small ? a : small;
			large = b < large ? b : large;
		}
		worst = large / small > worst ? large / small : worst;
		speed = (512 << 10) / 1e6 / large;
		CHECK_MSG(large < 24 * small || large < 0.01, "%s: %.4f s, then %.4f s", name, small,
		          large);
	}
	printf("%-20s t(8n)/t(n) <= %4.1f, %5.1f MB/s of prose\n", name, worst, speed);
}

static void
test_linear_time(void)
{
	each_fixture(check_linear);
}

/* Ids of SmolLM2 and MiniLM, written out: the readable end of the comparisons above. */
static void
test_known_ids(void)
{
	static const struct
	{
		const char *model, *text;
		int flags, n;
		int32_t ids[12];
	} known[] = {
	    {"smollm2-135m.gguf", "Hello world", 0, 2, {19556, 905}},
	    {"smollm2-135m.gguf", "<|im_start|>user\n", LLM_TOK_SPECIAL, 3, {1, 4093, 198}},
	    {"smollm2-135m.gguf", "The 42nd", 0, 4, {504, 216, 36, 34}},
	    {"minilm-l6", "Hello world", LLM_TOK_ADD_BOS_EOS, 4, {101, 7592, 2088, 102}},
	    {"minilm-l6", "unaffable", 0, 4, {14477, 20961, 3468, 0}},
	};
	const char *folder = getenv("PREPACK_MODELS") != NULL ? getenv("PREPACK_MODELS") : "models";

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
	{
		char path[512];
		struct stat st;
		fixture f;
		llm_tokens ids = {0};

		snprintf(path, sizeof(path), "%s/%s", folder, known[i].model);
		if (stat(path, &st) != 0)
			SKIP("no real models (make models)");
		REQUIRE(fixture_open(path, &f, NULL) == LLM_OK);
		CHECK(llm_tokenize(f.t, known[i].text, strlen(known[i].text), known[i].flags, &ids, NULL) ==
		      LLM_OK);
		for (int k = 0; k < known[i].n && known[i].ids[k] > 0; k++)
			CHECK_MSG((size_t) k < ids.n && ids.ids[k] == known[i].ids[k], "\"%s\"[%d] is %d",
			          known[i].text, k, (size_t) k < ids.n ? ids.ids[k] : -1);
		llm_tokens_free(&ids);
		fixture_close(&f);
	}
}

int
main(void)
{
	cases_doc = fixture_json(FIXTURES "/cases.json");
	cases = llm_json_root(cases_doc);
	RUN(equal_to_reference);
	RUN(equal_to_reference_real);
	RUN(known_ids);
	RUN(special_tokens_in_text_are_text);
	RUN(invalid_text);
	RUN(byte_tokens_join_to_the_text);
	RUN(parts_have_the_ids_of_the_whole);
	RUN(small_stacks_and_threads);
	RUN(linear_time);
	llm_json_free(cases_doc);
	return test_summary("tokenizer");
}
