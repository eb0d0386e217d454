/*
 * fuzz_tokenizer.c: fuzz target of the tokenizers.
 *
 * The first byte chooses: a tokenizer of test/data/tokenizer, which gets the rest as a text; or the
 * rest is a tokenizer.json, or a GGUF file, which gets a fixed text. What must hold: texts are
 * refused if and only if they are not UTF-8; every id is in the vocabulary; plain text gives no
 * special token; byte-level tokens without a normaliser join to the text.
 */
#include "tokenizer_fixture.h"

#include "../src/llm/llm_weights_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char *const names[] = {"gpt2",          "smollm", "llama3",   "qwen2",
                                    "tekken",        "gpt4o",  "llama2",   "mistral",
                                    "gemma",         "xlmr",   "xlmr-old", "bert",
                                    "unigram-bytes", "steps",  "bpe-fuse", "modernbert"};

#define N_FIXTURES (sizeof(names) / sizeof(names[0]))
#define N_LOSSLESS 3 /* the first ones join to the text */
#define SAMPLE     "The <s> na\xc3\xafve \xf0\x9f\x98\x80 12\r\n a\xcc\x81 \xe2\x96\x81[CLS]\0x"

/* Opens the fixtures on first use; the program keeps them. */
static const fixture *
fixture_at(size_t i)
{
	static fixture fixtures[N_FIXTURES];
	llm_error err = {LLM_OK, ""};
	char path[256];

	if (fixtures[i].t != NULL)
		return &fixtures[i];
	snprintf(path, sizeof(path), FIXTURES "/%s.json", names[i]);
	if (fixture_open(path, &fixtures[i], &err) != LLM_OK)
	{
		fprintf(stderr, "%s: %s\n", path, err.message);
		abort();
	}
	return &fixtures[i];
}

/* Checks the ids of a text. */
static void
check_ids(const llm_tokenizer *t, const llm_tokens *ids, bool special)
{
	for (size_t i = 0; i < ids->n; i++)
	{
		if (ids->ids[i] < 0 || (uint32_t) ids->ids[i] >= llm_tokenizer_n_vocab(t))
			abort();
		/* The unknown token, and what a template puts around a text, are not of the text. */
		if (!special && llm_tokenizer_is_special(t, ids->ids[i]) && ids->ids[i] != t->unk)
			abort();
	}
}

/* Tokenises a text in all ways. */
static void
tokenise(const llm_tokenizer *t, const char *text, size_t n, bool lossless)
{
	llm_tokens ids = {0};
	llm_tokens types = {0};
	llm_error err = {LLM_OK, ""};
	bool valid = llm_utf8_valid(text, n);
	size_t n_joined;
	char *joined;

	for (int flags = 0; flags < 16; flags++)
	{
		ids.n = 0;
		if ((llm_tokenize(t, text, n, flags, &ids, &err) == LLM_OK) != valid)
			abort();
		check_ids(t, &ids, flags & (LLM_TOK_SPECIAL | LLM_TOK_ADD_BOS_EOS));
		if (!valid && ids.n != 0)
			abort();
		if (flags != 0)
			continue;
		if (llm_detokenize(t, ids.ids, ids.n, &joined, &n_joined, &err) != LLM_OK)
			abort();
		if (lossless && valid && (n_joined != n || memcmp(joined, text, n) != 0))
			abort();
		llm_free(joined);
	}
	if (valid && t->pair.n > 0)
	{
		ids.n = 0;
		if (llm_tokenize_pair(t, text, n, text, n, 32, &ids, &types, &err) != LLM_OK ||
		    ids.n > 32 || ids.n != types.n)
			abort();
	}
	llm_tokens_free(&ids);
	llm_tokens_free(&types);
}

/* Loads a tokenizer.json, and uses it when it is good. */
static void
load_json(const char *text, size_t n)
{
	llm_json_doc *doc;
	llm_tokenizer *t = NULL;
	llm_error err = {LLM_OK, ""};
	llm_status status = llm_json_parse(text, n, &doc, &err);

	if (status == LLM_OK)
		status = fixture_from_json(llm_json_root(doc), &t, &err);
	if ((status == LLM_OK) != (t != NULL) || (status != LLM_OK && err.message[0] == '\0'))
		abort();
	if (t != NULL)
		tokenise(t, SAMPLE, sizeof(SAMPLE) - 1, false);
	llm_tokenizer_free(t);
	llm_json_free(doc);
}

/* Loads the vocabulary of a GGUF file, and uses it when it is good. */
static void
load_gguf(const char *bytes, size_t n)
{
	llm_weights *w;
	llm_tokenizer *t;
	llm_error err = {LLM_OK, ""};
	llm_status status;

	if (llm_weights_open_memory(LLM_FORMAT_GGUF, bytes, n, &w, &err) != LLM_OK)
		return;
	status = llm_tokenizer_load(w, &t, &err);
	if ((status == LLM_OK) != (t != NULL) || (status != LLM_OK && err.message[0] == '\0'))
		abort();
	if (t != NULL)
		tokenise(t, SAMPLE, sizeof(SAMPLE) - 1, false);
	llm_tokenizer_free(t);
	llm_weights_close(w);
}

/* Runs one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	const char *rest = (const char *) data + 1;
	size_t i = bytes > 0 ? data[0] % (N_FIXTURES + 2) : 0;

	if (bytes == 0)
		return 0;
	if (i == N_FIXTURES)
		load_json(rest, bytes - 1);
	else if (i == N_FIXTURES + 1)
		load_gguf(rest, bytes - 1);
	else
		tokenise(fixture_at(i)->t, rest, bytes - 1, i < N_LOSSLESS);
	return 0;
}
