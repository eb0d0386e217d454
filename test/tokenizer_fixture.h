/*
 * tokenizer_fixture.h: opens the tokenizers of test/data/tokenizer, and reads its JSON files.
 *
 * A fixture is a tokenizer.json by itself, which goes in through the reader of the JSON, or a GGUF
 * file. The files are made by scripts/make-tokenizer-fixtures.py.
 */
#ifndef TOKENIZER_FIXTURE_H
#define TOKENIZER_FIXTURE_H

#include "test.h"

#include <sys/stat.h>

#include "../src/llm/llm_tok_internal.h"

#define FIXTURES "test/data/tokenizer"

/* A tokenizer and what it points into. */
typedef struct fixture
{
	llm_tokenizer *t;
	llm_weights *w;
	llm_json_doc *doc;
} fixture;

/* Reads a whole file; ends the program when there is none. The caller frees. */
static inline char *
fixture_read(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	char *bytes;

	if (f == NULL || fstat(fileno(f), &st) != 0 ||
	    (bytes = malloc((size_t) st.st_size + 1)) == NULL)
	{
		perror(path);
		exit(1);
	}
	*n = fread(bytes, 1, (size_t) st.st_size, f);
	bytes[*n] = '\0';
	fclose(f);
	return bytes;
}

/* Parses a JSON file. */
static inline llm_json_doc *
fixture_json(const char *path)
{
	llm_json_doc *doc;
	llm_error err = {LLM_OK, ""};
	size_t n;
	char *bytes = fixture_read(path, &n);

	if (llm_json_parse(bytes, n, &doc, &err) != LLM_OK)
	{
		printf("%s: %s\n", path, err.message);
		exit(1);
	}
	free(bytes);
	return doc;
}

/* Frees a fixture. */
static inline void
fixture_close(fixture *f)
{
	llm_tokenizer_free(f->t);
	if (f->w != NULL)
		llm_weights_close(f->w);
	llm_json_free(f->doc);
	*f = (fixture){0};
}

/* Makes a tokenizer of a parsed tokenizer.json. */
static inline llm_status
fixture_from_json(const llm_json *root, llm_tokenizer **out, llm_error *err)
{
	llm_tokenizer *t;
	llm_status status = tok_create(&t, err);

	*out = NULL;
	if (status != LLM_OK)
		return status;
	if ((status = tok_load_json(t, root, err)) == LLM_OK)
		status = tok_finish(t, err);
	if (status == LLM_OK)
		*out = t;
	else
		llm_tokenizer_free(t);
	return status;
}

/* Opens a file or folder: NAME.json, NAME.gguf, or a model. */
static inline llm_status
fixture_open(const char *path, fixture *f, llm_error *err)
{
	const char *dot = strrchr(path, '.');
	llm_status status;

	*f = (fixture){0};
	if (dot != NULL && strcmp(dot, ".json") == 0)
	{
		f->doc = fixture_json(path);
		status = fixture_from_json(llm_json_root(f->doc), &f->t, err);
	}
	else if ((status = llm_weights_open(path, &f->w, err)) == LLM_OK)
		status = llm_tokenizer_load(f->w, &f->t, err);
	if (status != LLM_OK)
		fixture_close(f);
	return status;
}

/* The ids of a list of integers. */
static inline llm_tokens
fixture_ids(const llm_json *list)
{
	llm_tokens out = {0};
	int64_t id;

	for (uint64_t i = 0; i < llm_json_size(list); i++)
		if (llm_json_i64(llm_json_item(list, i), &id))
			llm_tokens_push(&out, (int32_t) id, NULL);
	return out;
}

#endif /* TOKENIZER_FIXTURE_H */
