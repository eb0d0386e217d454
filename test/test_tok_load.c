/*
 * test_tok_load.c: loading tokenizers: what files say is what they get, bad files are refused with
 * a message that names what is wrong, no allocation failure crashes or leaks.
 *
 * Bad files are made from good ones by replacing one string, so that each has its good twin.
 */
#include "tokenizer_fixture.h"

#include "weights_files.h"

#include "../src/llm/llm_chat.h"

/* Replaces the first occurrence of a string; the caller frees. */
static char *
replaced(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);
	size_t n = strlen(text) + strlen(to) + 1;
	char *out = malloc(n);

	if (at == NULL || out == NULL)
	{
		printf("\"%s\" does not stand in the good file\n", from);
		exit(1);
	}
	snprintf(out, n, "%.*s%s%s", (int) (at - text), text, to, at + strlen(from));
	return out;
}

/* Loads a tokenizer.json from memory; *doc holds its texts. */
static llm_status
load_text(const char *text, llm_json_doc **doc, llm_tokenizer **t, llm_error *err)
{
	llm_status status = llm_json_parse(text, strlen(text), doc, err);

	*t = NULL;
	return status == LLM_OK ? fixture_from_json(llm_json_root(*doc), t, err) : status;
}

/* Tokenises a text and writes its ids into a string. */
static const char *
ids_of(const llm_tokenizer *t, const char *text, int flags)
{
	static char out[1024];
	llm_tokens ids = {0};
	llm_error err = {LLM_OK, ""};
	size_t n = 0;

	out[0] = '\0';
	if (llm_tokenize(t, text, strlen(text), flags, &ids, &err) != LLM_OK)
		snprintf(out, sizeof(out), "%s", err.message);
	for (size_t i = 0; i < ids.n && n < sizeof(out) - 16; i++)
		n += (size_t) snprintf(out + n, sizeof(out) - n, i > 0 ? " %d" : "%d", ids.ids[i]);
	llm_tokens_free(&ids);
	return out;
}

#define CHECK_IDS(t, text, flags, wanted) \
	do \
	{ \
		const char *got_ = ids_of(t, text, flags); \
		CHECK_MSG(strcmp(got_, wanted) == 0, "\"%s\" gives %s, not %s", text, got_, wanted); \
	} while (0)

/* ---- good files ----------------------------------------------------------------------------- */

static const char bpe[] =
    "{\"added_tokens\":["
    "{\"id\":7,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
    "{\"id\":8,\"content\":\"<x>\",\"special\":false,\"normalized\":false,\"lstrip\":true,"
    "\"rstrip\":true,\"single_word\":false}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"z\"},\"content\":\"a\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
    "{\"type\":\"Digits\",\"individual_digits\":true},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\","
    "\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
    "\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
    "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[7],\"tokens\":[\"<s>\"]}}},"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":null,\"ignore_merges\":false,"
    "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"abab\":3,\"\\u0120\":4,\"\\u0120a\":5,\"1\":6},"
    "\"merges\":[\"a b\",[\"ab\",\"ab\"],\"\\u0120 a\"]}}";

static const char unigram[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"normalized\":false}],"
    "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAAAAAAAA\"},"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\","
    "\"prepend_scheme\":\"always\",\"split\":true},"
    "\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"b\",3],\"cls\":[\"a\",2]},"
    "\"decoder\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"always\"},"
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":false,\"vocab\":["
    "[\"<unk>\",0],[\"\\u2581\",-2.5],[\"a\",-3],[\"b\",-4],[\"ab\",-5.5],[\"\\u2581ab\",-9]]}}";

static const char wordpiece[] =
    "{\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":true,"
    "\"handle_chinese_chars\":true,\"strip_accents\":null,\"lowercase\":true},"
    "\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
    "\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"b\",3],\"cls\":[\"a\",1]},"
    "\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"max_input_chars_per_word\":4,"
    "\"continuing_subword_prefix\":\"##\","
    "\"vocab\":{\"[UNK]\":0,\"a\":1,\"##b\":2,\"b\":3,\"##bb\":4,\".\":5}}}";

static void
test_bpe_file(void)
{
	llm_json_doc *doc;
	llm_tokenizer *t;
	llm_error err = {LLM_OK, ""};
	size_t n;

	REQUIRE(load_text(bpe, &doc, &t, &err) == LLM_OK);
	CHECK_IDS(t, "abab", 0, "3");
	CHECK_IDS(t, "ababab", 0, "3 2");
	CHECK_IDS(t, "zbazb", 0, "2 0 2"); /* z is a: "abaab" */
	CHECK_IDS(t, "a a", 0, "0 5");
	CHECK_IDS(t, "ab1ab", 0, "2 6 2");
	CHECK_IDS(t, "axb", 0, "2"); /* x has no token and is dropped: a and b meet */
	CHECK_IDS(t, "<s>", 0, "");
	CHECK_IDS(t, "<s>", LLM_TOK_SPECIAL, "7");
	CHECK_IDS(t, "a  <x>\n b", 0, "0 8 1"); /* takes the white space at its sides */
	CHECK_IDS(t, "a", LLM_TOK_ADD_BOS_EOS, "7 0");
	CHECK(llm_tokenizer_n_vocab(t) == 9);
	CHECK(llm_tokenizer_find(t, "abab", 4) == 3 && llm_tokenizer_find(t, "q", 1) == -1);
	CHECK(strcmp(llm_token_bytes(t, 5, false, &n), " a") == 0 && n == 2);
	CHECK(*llm_token_bytes(t, 7, false, &n) == '\0' && n == 0);
	CHECK(strcmp(llm_token_bytes(t, 7, true, &n), "<s>") == 0 && n == 3);
	CHECK(*llm_token_bytes(t, -1, true, &n) == '\0' && *llm_token_bytes(t, 99, true, &n) == '\0');
	CHECK(llm_tokenizer_is_special(t, 7) && !llm_tokenizer_is_special(t, 8));
	CHECK(!llm_tokenizer_is_special(t, -1) && !llm_tokenizer_is_special(t, 9));
	llm_tokenizer_free(t);
	llm_json_free(doc);
}

static void
test_unigram_file(void)
{
	llm_json_doc *doc;
	llm_tokenizer *t;
	llm_error err = {LLM_OK, ""};

	REQUIRE(load_text(unigram, &doc, &t, &err) == LLM_OK);
	CHECK_IDS(t, "ab", 0, "1 4"); /* −2.5 − 5.5 beats −9 and −2.5 − 3 − 4 */
	CHECK_IDS(t, "a xy b", 0, "1 2 1 0 1 3");
	CHECK_IDS(t, "<unk>", 0, "1 0"); /* plain text: unknown characters, fused */
	CHECK_IDS(t, "a", LLM_TOK_ADD_BOS_EOS, "2 1 2 3");
	CHECK_IDS(t, "a", LLM_TOK_AFTER_TEXT, "2");
	CHECK_IDS(t, "a", LLM_TOK_AFTER_TOKEN, "1 2");
	llm_tokenizer_free(t);
	llm_json_free(doc);
}

static void
test_wordpiece_file(void)
{
	llm_json_doc *doc;
	llm_tokenizer *t;
	llm_error err = {LLM_OK, ""};
	llm_tokens ids = {0};
	llm_tokens types = {0};
	static const int32_t joined[] = {1, 4, 5};
	char *text;
	size_t n;

	REQUIRE(load_text(wordpiece, &doc, &t, &err) == LLM_OK);
	CHECK_IDS(t,
	          "ABB \xc3\x81"
	          "b.",
	          0, "1 4 1 2 5");
	CHECK_IDS(t, "abbb", 0, "1 4 2");
	CHECK_IDS(t, "abbbb", 0, "0"); /* five characters are too many */
	CHECK_IDS(t, "ba", 0, "0");    /* no ##a */
	CHECK_IDS(t, "b a", LLM_TOK_ADD_BOS_EOS, "1 3 1 3");
	CHECK(llm_tokenize_pair(t, "a b", 3, "b", 1, 5, &ids, &types, &err) == LLM_OK);
	CHECK(ids.n == 5 && ids.ids[1] == 1 && ids.ids[2] == 3 && ids.ids[3] == 3);
	CHECK(types.n == 5 && types.ids[2] == 0 && types.ids[3] == 1 && types.ids[4] == 1);
	CHECK(llm_tokenize_pair(t, "a", 1, "b", 1, 3, &ids, &types, &err) == LLM_E_RANGE);
	CHECK(llm_tokenize_pair(t, "a", 1, "\xff", 1, 9, &ids, &types, &err) == LLM_E_FORMAT);
	CHECK(ids.n == 5 && types.n == 5);
	REQUIRE(llm_detokenize(t, joined, 3, &text, &n, &err) == LLM_OK);
	CHECK_MSG(strcmp(text, "abb.") == 0 && n == 4, "\"%s\"", text);
	llm_free(text);
	llm_tokens_free(&ids);
	llm_tokens_free(&types);
	llm_tokenizer_free(t);
	llm_json_free(doc);
}

/* ---- bad files ------------------------------------------------------------------------------ */

/* A good file with one string replaced, and what its refusal says. */
typedef struct bad_file
{
	const char *good;
	const char *from;
	const char *to;
	llm_status status;
	const char *message;
} bad_file;

#define NO  LLM_E_UNSUPPORTED
#define BAD LLM_E_FORMAT

static const bad_file bad_files[] = {
    {bpe, "\"NFC\"", "\"Nmt\"", NO, "normalizer \"Nmt\""},
    {bpe, "\"NFC\"", "17", NO, "normalizer"},
    {bpe, "{\"String\":\"z\"}", "{\"Regex\":\"a+\"}", NO, "Replace pattern \"a+\""},
    {bpe, "{\"String\":\"z\"}", "{\"String\":\"\"}", NO, "Replace pattern"},
    {bpe, "\"content\":\"a\"}]", "\"x\":0}]", BAD, "Replace"},
    {bpe, "\"Digits\"", "\"UnicodeScripts\"", NO, "pre_tokenizer \"UnicodeScripts\""},
    {bpe, "{\"type\":\"Digits\",\"individual_digits\":true}",
     "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\d\"},\"behavior\":\"Isolated\"}", NO,
     "Split pattern \"\\d\""},
    {bpe, "{\"type\":\"Digits\",\"individual_digits\":true}",
     "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Contiguous\"}", NO,
     "Split behavior \"Contiguous\""},
    {bpe, "{\"type\":\"Digits\",\"individual_digits\":true}",
     "{\"type\":\"Sequence\",\"pretokenizers\":[]}", NO, "pre_tokenizer \"Sequence\""},
    {bpe, "{\"type\":\"Digits\",\"individual_digits\":true}",
     "{\"type\":\"ByteLevel\",\"use_regex\":false}", NO, "behind ByteLevel"},
    {bpe, "\"TemplateProcessing\"", "\"Fancy\"", NO, "post_processor \"Fancy\""},
    {bpe, "\"ids\":[7]", "\"ids\":[]", BAD, "no known token"},
    {bpe, "\"ids\":[7]", "\"ids\":[9]", BAD, "out of range"},
    {bpe, "\"ids\":[7]", "\"ids\":[-7]", BAD, "out of range"},
    {bpe, "{\"id\":\"<s>\",\"type_id\":0}", "{\"id\":\"<t>\",\"type_id\":0}", BAD,
     "no known token"},
    {bpe, "{\"id\":\"<s>\",\"type_id\":0}", "{\"id\":\"<s>\",\"type_id\":2}", BAD, "template"},
    {bpe, "{\"type\":\"ByteLevel\"}", "{\"type\":\"CTC\"}", NO, "decoder \"CTC\""},
    {bpe, "\"type\":\"BPE\"", "\"type\":\"WordLevel\"", NO, "model \"WordLevel\""},
    {bpe, "\"type\":\"BPE\"", "\"type\":\"Unigram\"", BAD, "does not fit"},
    {bpe, "\"unk_token\":null", "\"continuing_subword_prefix\":\"##\"", NO, "prefix of BPE"},
    {bpe, "\"unk_token\":null", "\"end_of_word_suffix\":\"</w>\"", NO, "suffix of BPE \"</w>\""},
    {bpe, "\"a b\"", "\"ab\"", BAD, "merge 0 is malformed"},
    {bpe, "\"a b\"", "\"a \"", BAD, "merge 0 is malformed"},
    {bpe, "\"a b\"", "\"\"", BAD, "merge 0 is malformed"},
    {bpe, "\"a b\"", "7", BAD, "merge 0 is malformed"},
    {bpe, "\"a b\"", "\"b a\"", BAD, "merge 0 names a token"},
    {bpe, "[\"ab\",\"ab\"]", "[\"ab\"]", BAD, "merge 1 is malformed"},
    {bpe, "\"b\":1,", "\"b\":-1,", BAD, "token 1 is malformed"},
    {bpe, "\"b\":1,", "\"b\":\"1\",", BAD, "token 1 is malformed"},
    {bpe, "\"b\":1,", "\"b\":4194304,", BAD, "token 1 is malformed"},
    {bpe, "\"b\":1,", "\"b\":4194303,", BAD, "far apart"},
    {bpe, "\"id\":8", "\"id\":1e3", BAD, "added token 1"},
    {bpe, "\"content\":\"<x>\"", "\"content\":null", BAD, "added token 1"},
    {unigram, "\"Unigram\"", "\"BPE\"", BAD, "does not fit"},
    {unigram, "[\"a\",-3]", "[\"a\"]", BAD, "token 2 has no score"},
    {unigram, "[\"a\",-3]", "\"a\"", BAD, "token 2 is malformed"},
    {unigram, "\"always\",\"split\"", "\"sometimes\",\"split\"", NO, "prepend_scheme"},
    {unigram, "\\u2581\",\"prepend", "_\",\"prepend", NO, "replacement \"_\""},
    {unigram, "BAAAAAAAAAAA", "BAAAA*AAAAAA", BAD, "base64"},
    {unigram, "BAAAAAAAAAAA", "BAAA", BAD, "charsmap"},
    {unigram, "BAAAAAAAAAAA", "BQAAAAAAAAAA", BAD, "charsmap"},
    {unigram, "BAAAAAAAAAAA", "/////AAAAAAA", BAD, "charsmap"},
    {unigram, "BAAAAAAAAAAA", "BAAAAAAAAAAB", BAD, "charsmap"},
    {unigram, "\"cls\":[\"a\",2]", "\"cls\":[\"a\",6]", BAD, "post_processor"},
    {unigram, "\"sep\":[\"b\",3]", "\"sep\":[\"b\"]", BAD, "post_processor"},
    {wordpiece, "\"vocab\":{", "\"x\":{", BAD, "has 0 tokens"},
    {wordpiece, "\"BertPreTokenizer\"", "\"Bert\"", NO, "pre_tokenizer \"Bert\""},
};

static void
test_bad_files(void)
{
	for (size_t i = 0; i < sizeof(bad_files) / sizeof(bad_files[0]); i++)
	{
		const bad_file *b = &bad_files[i];
		char *text = replaced(b->good, b->from, b->to);
		llm_json_doc *doc;
		llm_tokenizer *t;
		llm_error err = {LLM_OK, ""};
		llm_status status = load_text(text, &doc, &t, &err);

		CHECK_MSG(status == b->status && err.code == status && t == NULL, "%s for %s: %s", b->to,
		          b->from, status == LLM_OK ? "loaded" : err.message);
		CHECK_MSG(strstr(err.message, b->message) != NULL, "%s for %s: \"%s\"", b->to, b->from,
		          err.message);
		llm_json_free(doc);
		free(text);
	}
}

/* Other spellings of the same things load, and mean the same. */
static void
test_same_files(void)
{
	static const bad_file same[] = {
	    {bpe, "\"type\":\"BPE\",", "", LLM_OK, "abab a1"},
	    {bpe, "\"unk_token\":null", "\"unk_token\":\"\",\"end_of_word_suffix\":\"\"", LLM_OK,
	     "abz"},
	    {unigram, "\"type\":\"Unigram\",", "", LLM_OK, "ab a b"},
	    {unigram, "\"prepend_scheme\":\"always\",\"split\":true", "\"add_prefix_space\":true",
	     LLM_OK, "ab  b"},
	    {wordpiece, "\"type\":\"WordPiece\",\"unk", "\"unk", LLM_OK, "abb b."},
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
	{
		char *text = replaced(same[i].good, same[i].from, same[i].to);
		llm_json_doc *docs[2];
		llm_tokenizer *t[2];
		llm_error err = {LLM_OK, ""};
		char wanted[256];

		CHECK(load_text(same[i].good, &docs[0], &t[0], &err) == LLM_OK);
		CHECK_MSG(load_text(text, &docs[1], &t[1], &err) == LLM_OK, "%s", err.message);
		if (t[1] != NULL)
		{
			snprintf(wanted, sizeof(wanted), "%s", ids_of(t[0], same[i].message, 0));
			CHECK_IDS(t[1], same[i].message, 0, wanted);
		}
		for (int k = 0; k < 2; k++)
		{
			llm_tokenizer_free(t[k]);
			llm_json_free(docs[k]);
		}
		free(text);
	}
}

/* ---- GGUF ----------------------------------------------------------------------------------- */

/* Appends a string with its length. */
static void
put_text(file_bytes *f, const char *s)
{
	put_uint(f, strlen(s), 8);
	put(f, s, strlen(s));
}

/* Begins a GGUF file of so many pairs and no tensor. */
static void
begin_gguf(file_bytes *f, uint64_t n_pairs)
{
	f->n = 0;
	put(f, "GGUF", 4);
	put_uint(f, 3, 4);
	put_uint(f, 0, 8);
	put_uint(f, n_pairs, 8);
}

/* Appends the head of an array of strings (8) or numbers of some type. */
static void
put_array(file_bytes *f, const char *key, uint32_t type, uint64_t n)
{
	put_text(f, key);
	put_uint(f, 9, 4);
	put_uint(f, type, 4);
	put_uint(f, n, 8);
}

/* Appends a string value. */
static void
put_string_pair(file_bytes *f, const char *key, const char *value)
{
	put_text(f, key);
	put_uint(f, 8, 4);
	put_text(f, value);
}

/* Writes the byte-level fixture of a name as GGUF with a pattern's name. */
static void
gguf_of_json(file_bytes *f, const char *name, const char *pre)
{
	char path[256];
	fixture source;
	llm_error err;
	const llm_json *merges;

	snprintf(path, sizeof(path), FIXTURES "/%s.json", name);
	if (fixture_open(path, &source, &err) != LLM_OK)
		exit(1);
	begin_gguf(f, 5);
	put_string_pair(f, "tokenizer.ggml.model", "gpt2");
	put_string_pair(f, "tokenizer.ggml.pre", pre);
	put_array(f, "tokenizer.ggml.tokens", 8, source.t->n_vocab);
	for (uint32_t i = 0; i < source.t->n_vocab; i++)
		put_text(f, source.t->entries[i].text);
	put_array(f, "tokenizer.ggml.token_type", 5, source.t->n_vocab);
	for (uint32_t i = 0; i < source.t->n_vocab; i++)
		put_uint(f,
		         source.t->entries[i].flags & TOK_SPECIAL ? 3
		         : source.t->entries[i].flags & TOK_ADDED ? 4
		                                                  : 1,
		         4);
	merges = llm_json_member(llm_json_member(llm_json_root(source.doc), "model"), "merges");
	put_array(f, "tokenizer.ggml.merges", 8, llm_json_size(merges));
	for (uint64_t i = 0; i < llm_json_size(merges); i++)
	{
		const char *a = "";
		const char *b = "";
		char text[256];
		size_t n;

		llm_json_string(llm_json_item(llm_json_item(merges, i), 0), &a, &n);
		llm_json_string(llm_json_item(llm_json_item(merges, i), 1), &b, &n);
		snprintf(text, sizeof(text), "%s %s", a, b);
		put_text(f, text);
	}
	fixture_close(&source);
}

/* Opens a GGUF file in memory and its tokenizer. */
static llm_status
open_gguf(const file_bytes *f, llm_weights **w, llm_tokenizer **t, llm_error *err)
{
	llm_status status = llm_weights_open_memory(LLM_FORMAT_GGUF, f->data, f->n, w, err);

	*t = NULL;
	return status == LLM_OK ? llm_tokenizer_load(*w, t, err) : status;
}

/* A pattern's name in GGUF gives what the pattern in tokenizer.json gives. */
static void
test_gguf_patterns(void)
{
	static const char *const patterns[][2] = {{"gpt2", "gpt-2"},       {"gpt2", "default"},
	                                          {"smollm", "smollm"},    {"smollm", "starcoder"},
	                                          {"llama3", "llama-bpe"}, {"qwen2", "qwen2"},
	                                          {"tekken", "tekken"},    {"gpt4o", "gpt-4o"}};
	static file_bytes f;
	llm_json_doc *cases = fixture_json(FIXTURES "/cases.json");
	const llm_json *texts = llm_json_member(llm_json_root(cases), "texts");

	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
	{
		char path[256];
		fixture source;
		llm_weights *w;
		llm_tokenizer *t;
		llm_error err = {LLM_OK, ""};

		snprintf(path, sizeof(path), FIXTURES "/%s.json", patterns[i][0]);
		REQUIRE(fixture_open(path, &source, &err) == LLM_OK);
		gguf_of_json(&f, patterns[i][0], patterns[i][1]);
		CHECK_MSG(open_gguf(&f, &w, &t, &err) == LLM_OK, "%s: %s", patterns[i][1], err.message);
		for (uint64_t k = 0; t != NULL && k < llm_json_size(texts); k++)
		{
			llm_tokens a = {0};
			llm_tokens b = {0};
			const char *text = "";
			size_t n = 0;

			llm_json_string(llm_json_item(texts, k), &text, &n);
			CHECK(llm_tokenize(source.t, text, n, LLM_TOK_SPECIAL, &a, &err) == LLM_OK);
			CHECK(llm_tokenize(t, text, n, LLM_TOK_SPECIAL, &b, &err) == LLM_OK);
			CHECK_MSG(a.n == b.n && (a.n == 0 || memcmp(a.ids, b.ids, a.n * sizeof(int32_t)) == 0),
			          "%s: other ids for text %llu", patterns[i][1], (unsigned long long) k);
			llm_tokens_free(&a);
			llm_tokens_free(&b);
		}
		llm_tokenizer_free(t);
		llm_weights_close(w);
		fixture_close(&source);
	}
	llm_json_free(cases);
}

/* Writes a small GGUF vocabulary of a kind, with one more string pair. */
static void
small_gguf(file_bytes *f, const char *model, const char *key, const char *value)
{
	begin_gguf(f, 4);
	put_string_pair(f, "tokenizer.ggml.model", model);
	put_string_pair(f, key, value);
	put_array(f, "tokenizer.ggml.tokens", 8, 3);
	put_text(f, "a");
	put_text(f, "b");
	put_text(f, "ab");
	put_array(f, "tokenizer.ggml.merges", 8, 1);
	put_text(f, "a b");
}

static void
test_gguf_refusals(void)
{
	static const struct
	{
		const char *model, *key, *value, *message;
	} files[] = {
	    {"gpt2", "tokenizer.ggml.pre", "unheard-of", "pre \"unheard-of\" is not supported"},
	    {"rwkv", "x", "", "model \"rwkv\" is not supported"},
	    {"gpt2", "x", "", NULL},
	    {"llama", "x", "", NULL},
	    {"bert", "x", "", NULL},
	    {"t5", "x", "", NULL},
	};
	static file_bytes f;

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
	{
		llm_weights *w;
		llm_tokenizer *t;
		llm_error err = {LLM_OK, ""};
		bool good = files[i].message == NULL;
		llm_status status;

		small_gguf(&f, files[i].model, files[i].key, files[i].value);
		status = open_gguf(&f, &w, &t, &err);
		CHECK_MSG((status == LLM_OK) == good && (t != NULL) == good, "%s: %s", files[i].model,
		          err.message);
		CHECK_MSG(good || strstr(err.message, files[i].message) != NULL, "\"%s\"", err.message);
		llm_tokenizer_free(t);
		llm_weights_close(w);
	}
	/* Without a model, without tokens, with merges that are no strings. */
	begin_gguf(&f, 0);
	for (int i = 0; i < 3; i++)
	{
		llm_weights *w;
		llm_tokenizer *t;
		llm_error err = {LLM_OK, ""};

		if (i > 0)
		{
			begin_gguf(&f, i == 1 ? 1 : 3);
			put_string_pair(&f, "tokenizer.ggml.model", "gpt2");
		}
		if (i == 2)
		{
			put_array(&f, "tokenizer.ggml.tokens", 8, 1);
			put_text(&f, "a");
			put_array(&f, "tokenizer.ggml.merges", 4, 1);
			put_uint(&f, 7, 4);
		}
		CHECK(open_gguf(&f, &w, &t, &err) == LLM_E_FORMAT && t == NULL);
		CHECK_MSG(err.message[0] != '\0', "no message");
		llm_weights_close(w);
	}
}

/* ---- folders -------------------------------------------------------------------------------- */

static void
test_folder(void)
{
	static const char *const names[] = {"config.json",       "tokenizer_config.json",
	                                    "model.safetensors", "generation_config.json",
	                                    "tokenizer.json",    NULL};
	static const char config[] = "{\"eos_token_id\": 3, \"pad_token_id\": 1}";
	static const char tokens[] = "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": \"ab\"}";
	static const char generation[] = "{\"eos_token_id\": [4, 5, 99]}";
	static const uint8_t empty[10] = {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
	llm_weights *w;
	llm_tokenizer *t;
	llm_error err = {LLM_OK, ""};

	temp_folder_create();
	temp_write("config.json", config, strlen(config));
	temp_write("tokenizer_config.json", tokens, strlen(tokens));
	temp_write("generation_config.json", generation, strlen(generation));
	temp_write("model.safetensors", empty, sizeof(empty));
	REQUIRE(llm_weights_open(temp_folder, &w, &err) == LLM_OK);
	CHECK(llm_tokenizer_load(w, &t, &err) == LLM_E_NOT_FOUND && t == NULL);
	CHECK(strstr(err.message, "tokenizer.json") != NULL);
	llm_weights_close(w);
	temp_write("tokenizer.json", bpe, strlen(bpe));
	REQUIRE(llm_weights_open(temp_folder, &w, &err) == LLM_OK);
	REQUIRE(llm_tokenizer_load(w, &t, &err) == LLM_OK);
	CHECK(llm_tokenizer_bos(t) == 7 && llm_tokenizer_eos(t) == 2 && llm_tokenizer_pad(t) == 1);
	for (int32_t i = -1; i < 10; i++)
		CHECK_MSG(llm_tokenizer_is_end(t, i) == (i >= 2 && i <= 5), "%d", i);
	llm_tokenizer_free(t);
	llm_weights_close(w);
	temp_folder_remove(names);
}

/* Tokens that end a turn in some family end one here, if they are special. */
static void
test_turn_ends(void)
{
	static const struct
	{
		const char *name, *token;
	} ends[] = {{"smollm", "<|im_end|>"},   {"smollm", "<|endoftext|>"},
	            {"llama3", "<|eot_id|>"},   {"llama3", "<|end_of_text|>"},
	            {"gemma", "<end_of_turn>"}, {"llama2", "<|end|>"},
	            {"llama2", "</s>"}};

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
	{
		char path[256];
		fixture f;
		llm_error err;
		int32_t id;

		snprintf(path, sizeof(path), FIXTURES "/%s.json", ends[i].name);
		REQUIRE(fixture_open(path, &f, &err) == LLM_OK);
		id = llm_tokenizer_find(f.t, ends[i].token, strlen(ends[i].token));
		CHECK_MSG(id >= 0 && llm_tokenizer_is_end(f.t, id), "%s", ends[i].token);
		CHECK(!llm_tokenizer_is_end(f.t, llm_tokenizer_find(f.t, "a", 1)));
		fixture_close(&f);
	}
}

/* ---- no memory ------------------------------------------------------------------------------ */

/* Everything that a caller does with a tokenizer; false when an allocation failed. */
static bool
use(const llm_json *root, const llm_chat_family *family)
{
	static const char text[] =
	    "The quick 12 \xc3\xa9\xcc\x81 <s> na\xc3\xafve \xe4\xb8\xad\xe2\x96\x81!";
	llm_tokenizer *t;
	llm_tokens ids = {0};
	llm_tokens types = {0};
	llm_chat_frame frame;
	llm_error err = {LLM_OK, ""};
	char *decoded = NULL;
	size_t n;
	llm_status status = fixture_from_json(root, &t, &err);

	if (status != LLM_OK)
	{
		CHECK_MSG(status == LLM_E_NOMEM && t == NULL, "%s", err.message);
		return false;
	}
	status = llm_tokenize(t, text, strlen(text), LLM_TOK_SPECIAL, &ids, &err);
	CHECK(status == LLM_OK || ids.n == 0);
	if (status == LLM_OK)
		status = llm_detokenize(t, ids.ids, ids.n, &decoded, &n, &err);
	if (status == LLM_OK && t->pair.n > 0)
		status = llm_tokenize_pair(t, text, 9, text, 5, 20, &ids, &types, &err);
	if (status == LLM_OK)
		status = llm_chat_frame_build(family, t, "x", 1, "y ", 2, "z", 1, &frame, &err);
	if (status == LLM_OK)
	{
		status = llm_chat_frame_input(&frame, "in", 2, &ids, &err);
		llm_chat_frame_free(&frame);
	}
	CHECK_MSG(status == LLM_OK || status == LLM_E_NOMEM, "%s", err.message);
	llm_free(decoded);
	llm_tokens_free(&ids);
	llm_tokens_free(&types);
	llm_tokenizer_free(t);
	return status == LLM_OK;
}

static void
test_no_memory(void)
{
	static const char *const names[] = {"qwen2", "llama2",   "xlmr",
	                                    "steps", "bpe-fuse", "modernbert"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		char path[256];
		llm_json_doc *doc;
		const llm_chat_family *family = llm_chat_detect(NULL, 0, NULL);
		uint64_t n = 1;
		bool good = false;

		snprintf(path, sizeof(path), FIXTURES "/%s.json", names[i]);
		doc = fixture_json(path);
		for (; !good && n < 100000; n++)
		{
			llm_alloc_fail_after(n, (n & 1) != 0);
			good = use(llm_json_root(doc), family);
			llm_alloc_fail_after(0, false);
			/* Texts of the vocabulary are many small allocations of one kind. */
			if (!good && n > 200 && n < 1000000)
				n += n / 50;
		}
		CHECK_MSG(good && n > 30, "%s: %llu", names[i], (unsigned long long) n);
		llm_json_free(doc);
	}
}

int
main(void)
{
	RUN(bpe_file);
	RUN(unigram_file);
	RUN(wordpiece_file);
	RUN(bad_files);
	RUN(same_files);
	RUN(gguf_patterns);
	RUN(gguf_refusals);
	RUN(folder);
	RUN(turn_ends);
	RUN(no_memory);
	return test_summary("tok_load");
}
