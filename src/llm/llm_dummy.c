/*
 * llm_dummy.c: see llm_dummy.h.
 *
 * The hash is FNV-1a over the length-prefixed parts that the answer depends on, finished by
 * splitmix64, so that every answer can be recomputed by hand. The lexicon is short words, so that
 * texts are easy on the eye.
 */
#include "llm_dummy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_grammar.h"
#include "llm_unicode.h"

#define DUMMY_WORDS   12
#define DUMMY_CONTEXT 100000u

/* Folds bytes into a hash. */
static uint64_t
fold(uint64_t h, const void *bytes, size_t n)
{
	const unsigned char *p = bytes;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 1099511628211u;
	return h;
}

/* Folds a text and its length into a hash. */
static uint64_t
fold_text(uint64_t h, llm_text text)
{
	uint64_t n = text.bytes != NULL ? text.n : 0;

	return fold(fold(h, &n, sizeof(n)), text.bytes, (size_t) n);
}

/* Draw number i of a hash. */
static uint64_t
draw(uint64_t h, uint64_t i)
{
	uint64_t z = h + (i + 1) * 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* A number in (0, 1). */
static double
unit(uint64_t h, uint64_t i)
{
	return ((double) (draw(h, i) >> 11) + 0.5) / 9007199254740992.0;
}

/* The hash of what a row's answer depends on. */
static uint64_t
row_hash(const llm_job *job, uint32_t i)
{
	uint64_t h = 14695981039346656037u;
	llm_text row = job->rows != NULL && i < job->n_rows ? job->rows[i] : (llm_text){NULL, 0};
	uint32_t kind = (uint32_t) job->kind;

	h = fold(h, &kind, sizeof(kind));
	h = fold_text(fold_text(h, job->system), job->instruction);
	if (job->sample.temperature > 0)
		h = fold(h, &job->sample.seed, sizeof(job->sample.seed));
	return fold_text(h, row);
}

/* Counts words: runs of what is not white space. */
static uint32_t
count_words(llm_text text)
{
	uint32_t n = 0;
	bool inside = false;
	uint32_t cp;
	size_t length;

	for (size_t i = 0; text.bytes != NULL && i < text.n; i += length)
	{
		if ((length = llm_utf8_decode(text.bytes + i, text.n - i, &cp)) == 0)
			return n;
		n += !llm_is_space(cp) && !inside;
		inside = !llm_is_space(cp);
	}
	return n;
}

/* Writes some words. Returns their number. */
static uint32_t
write_words(uint64_t h, uint32_t max, char *out, size_t size)
{
	static const char *const lexicon[] = {"sun",   "river", "stone", "green", "quiet", "seven",
	                                      "paper", "north", "apple", "cloud", "early", "glass",
	                                      "house", "light", "music", "water"};
	uint32_t n = 3 + (uint32_t) (draw(h, 0) % (DUMMY_WORDS - 3));
	size_t at = 0;

	n = n < max ? n : max;
	out[0] = '\0';
	for (uint32_t i = 0; i < n && at < size; i++)
		at += (size_t) snprintf(out + at, size - at, "%s%s", i > 0 ? " " : "",
		                        lexicon[draw(h, i + 1) % 16]);
	return n;
}

/* Cuts a text at the first stop string in it. */
static llm_finish
apply_stops(const llm_job *job, char *text)
{
	char *first = NULL;

	for (uint32_t i = 0; i < job->n_stops; i++)
	{
		char *at = job->stops[i].n > 0 ? strstr(text, job->stops[i].bytes) : NULL;

		if (at != NULL && (first == NULL || at < first))
			first = at;
	}
	if (first == NULL)
		return LLM_FINISH_END;
	*first = '\0';
	return LLM_FINISH_STOP;
}

/* A value that fits one property of an object schema, as far as its type goes. */
static void
write_value(const llm_json *schema, uint64_t h, uint64_t i, char *out, size_t size)
{
	const llm_json *type = llm_json_member(schema, "type");
	char words[128];

	if (llm_json_get_kind(type) == LLM_JSON_ARRAY)
		type = llm_json_item(type, 0);
	write_words(draw(h, i), 2, words, sizeof(words));
	if (llm_json_is(type, "integer") || llm_json_is(type, "number"))
		snprintf(out, size, "%u", (unsigned) (draw(h, i) % 100));
	else if (llm_json_is(type, "boolean"))
		snprintf(out, size, "%s", draw(h, i) % 2 ? "true" : "false");
	else if (llm_json_is(type, "array"))
		snprintf(out, size, "[]");
	else if (llm_json_is(type, "object"))
		snprintf(out, size, "{}");
	else
		snprintf(out, size, "\"%s\"", words);
}

/* An object with a value for each property of a schema. */
static void
write_json(const llm_json *schema, uint64_t h, char *out, size_t size)
{
	const llm_json *properties = llm_json_member(schema, "properties");
	size_t at = (size_t) snprintf(out, size, "{");

	for (uint64_t i = 0; i < llm_json_size(properties) && at + 512 < size; i++)
	{
		char value[256];
		const char *key;
		size_t n_key;
		const llm_json *property = llm_json_member_at(properties, i, &key, &n_key);

		write_value(property, h, i, value, sizeof(value));
		at += (size_t) snprintf(out + at, size - at, "%s\"%.*s\": %s", i > 0 ? ", " : "",
		                        (int) (n_key < 128 ? n_key : 128), key, value);
	}
	snprintf(out + at, size - at, "}");
}

/* Generates one row. */
static void
generate(const llm_job *job, const llm_json *schema, uint32_t i, llm_row_result *result, char *text,
         size_t size)
{
	uint64_t h = row_hash(job, i);
	uint32_t max = job->max_tokens > 0 ? job->max_tokens : 256;

	result->finish = LLM_FINISH_END;
	result->n_output = 1;
	if (schema != NULL)
		write_json(schema, h, text, size);
	else if (job->n_allowed > 0)
		snprintf(text, size, "%s", job->allowed[draw(h, 0) % job->n_allowed].bytes);
	else
	{
		result->n_output = write_words(h, max, text, size);
		result->finish = apply_stops(job, text);
	}
	result->text = (llm_text){text, strlen(text)};
	if ((job->flags & LLM_JOB_STREAM) && job->on_piece != NULL)
		job->on_piece(job->user, i, result->text);
}

/* Probabilities over the labels: softmax of draws. */
static void
classify(const llm_job *job, uint64_t h, float *values)
{
	double sum = 0;

	for (uint32_t k = 0; k < job->n_labels; k++)
		sum += unit(fold_text(h, job->labels[k]), 0);
	for (uint32_t k = 0; k < job->n_labels; k++)
	{
		double p = unit(fold_text(h, job->labels[k]), 0);

		values[k] = (float) (job->flags & LLM_JOB_MULTI ? p : p / sum);
	}
}

/* A unit vector that depends on the words of a text, so that texts with common words are near. */
static void
embed(llm_text text, float *values)
{
	double norm = 0;
	double v[LLM_DUMMY_DIM] = {0};

	for (size_t i = 0; i < text.n;)
	{
		size_t j = i;

		while (j < text.n && text.bytes[j] != ' ')
			j++;
		if (j > i)
		{
			uint64_t h = fold(14695981039346656037u, text.bytes + i, j - i);

			for (int k = 0; k < LLM_DUMMY_DIM; k++)
				v[k] += unit(h, (uint64_t) k) - 0.5;
		}
		i = j + 1;
	}
	for (int k = 0; k < LLM_DUMMY_DIM; k++)
		norm += v[k] * v[k];
	for (int k = 0; k < LLM_DUMMY_DIM; k++)
		values[k] = norm > 0 ? (float) (v[k] / sqrt(norm)) : (float) (k == 0);
}

/* The cosine of two texts' vectors. */
static float
similarity(llm_text a, llm_text b)
{
	float x[LLM_DUMMY_DIM];
	float y[LLM_DUMMY_DIM];
	double dot = 0;

	embed(a, x);
	embed(b, y);
	for (int k = 0; k < LLM_DUMMY_DIM; k++)
		dot += (double) x[k] * y[k];
	return (float) dot;
}

/* Answers one row. */
static void
run_row(const llm_job *job, const llm_json *schema, uint32_t i, float *values)
{
	char text[4096] = "";
	llm_text row =
	    job->rows != NULL && job->rows[i].bytes != NULL ? job->rows[i] : (llm_text){"", 0};
	llm_text row2 = job->n_rows2 > 0 ? job->rows2[job->n_rows2 > 1 ? i : 0] : (llm_text){"", 0};
	llm_row_result result = {.row = i, .values = values, .n_tokens = count_words(row)};

	if (!llm_utf8_valid(row.bytes, row.n))
		result = (llm_row_result){.row = i,
		                          .status = LLM_E_FORMAT,
		                          .message = "text is not valid UTF-8"};
	else if (result.n_tokens > DUMMY_CONTEXT)
	{
		snprintf(text, sizeof(text), "prompt has %u tokens, the limit of model \"dummy\" is %u",
		         result.n_tokens, DUMMY_CONTEXT);
		result = (llm_row_result){.row = i, .status = LLM_E_TOO_LONG, .message = text};
	}
	else if (job->kind == LLM_JOB_GENERATE)
		generate(job, schema, i, &result, text, sizeof(text));
	else if (job->kind == LLM_JOB_CLASSIFY)
	{
		classify(job, row_hash(job, i), values);
		result.n_values = job->n_labels;
	}
	else if (job->kind == LLM_JOB_EMBED)
	{
		embed(row, values);
		result.n_values = LLM_DUMMY_DIM;
	}
	else if (job->kind == LLM_JOB_LOGLIK)
		result.logprob = log(unit(fold_text(row_hash(job, i), row2), 0));
	else if (job->kind != LLM_JOB_COUNT)
	{
		values[0] = job->kind == LLM_JOB_RELEVANCE ? similarity(row, row2)
		                                           : (float) unit(row_hash(job, i), 0);
		result.n_values = 1;
	}
	job->on_row(job->user, &result);
}

/* Reads a job's schema; what no other model could keep to is refused here, too. */
static llm_status
read_schema(const llm_job *job, llm_json_doc **doc, llm_error *err)
{
	llm_grammar *grammar = NULL;
	llm_status status;

	if (job->schema.bytes == NULL)
		return LLM_OK;
	status = llm_json_parse(job->schema.bytes, job->schema.n, doc, err);
	if (status == LLM_OK)
		status = llm_grammar_from_schema(llm_json_root(*doc), &grammar, err);
	llm_grammar_free(grammar);
	return status;
}

/* Runs all rows. */
void
llm_dummy_run(const llm_job *job)
{
	uint32_t n_values = job->n_labels > LLM_DUMMY_DIM ? job->n_labels : LLM_DUMMY_DIM;
	float *values = llm_malloc_array(n_values, sizeof(float));
	llm_json_doc *doc = NULL;
	llm_job_stats stats = {.n_rows = job->n_rows};
	llm_error err = {0};
	llm_status status =
	    values != NULL ? LLM_OK : llm_fail(&err, LLM_E_NOMEM, "out of memory for a job");

	if (status == LLM_OK)
		status = read_schema(job, &doc, &err);
	for (uint32_t i = 0; status == LLM_OK && i < job->n_rows && job->kind != LLM_JOB_PREWARM; i++)
	{
		stats.n_prompt_tokens += count_words(job->rows[i]);
		run_row(job, doc != NULL ? llm_json_root(doc) : NULL, i, values);
	}
	llm_json_free(doc);
	llm_free(values);
	job->on_done(job->user, status, err.message, &stats);
}
