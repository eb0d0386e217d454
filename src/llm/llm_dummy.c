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
#include "llm_buffer.h"
#include "llm_engine_impl.h"
#include "llm_grammar.h"
#include "llm_hash.h"
#include "llm_unicode.h"

#define DUMMY_WORDS   12
#define DUMMY_CONTEXT 100000u
#define ANSWER_MAX    ((size_t) 1 << 20) /* bytes of JSON: nested arrays multiply */

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
	return llm_mix64(h + (i + 1) * 0x9e3779b97f4a7c15u);
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
apply_stops(const llm_job *job, llm_text *text)
{
	size_t first = text->n;
	bool found = false;

	for (uint32_t i = 0; i < job->n_stops; i++)
	{
		const llm_text *stop = &job->stops[i];
		const char *at = stop->n > 0 ? memmem(text->bytes, text->n, stop->bytes, stop->n) : NULL;

		if (at == NULL || (found && (size_t) (at - text->bytes) >= first))
			continue;
		first = (size_t) (at - text->bytes);
		found = true;
	}
	text->n = first;
	return found ? LLM_FINISH_STOP : LLM_FINISH_END;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Appends bytes to an answer; over ANSWER_MAX it fails and stays as it is. */
static void
put(llm_buffer *out, const char *bytes, size_t n)
{
	out->failed = out->failed || n > ANSWER_MAX - out->n;
	llm_buffer_put(out, bytes, n);
}

/* Appends a C string. */
static void
put_word(llm_buffer *out, const char *s)
{
	put(out, s, strlen(s));
}

/* Appends a JSON string. */
static void
put_string(llm_buffer *out, const char *s, size_t n)
{
	put(out, "\"", 1);
	for (size_t i = 0; i < n; i++)
	{
		char escape[8];

		if (s[i] == '"' || s[i] == '\\')
			snprintf(escape, sizeof(escape), "\\%c", s[i]);
		else if ((unsigned char) s[i] < 0x20)
			snprintf(escape, sizeof(escape), "\\u%04x", (unsigned) s[i]);
		else
			snprintf(escape, sizeof(escape), "%c", s[i]);
		put_word(out, escape);
	}
	put(out, "\"", 1);
}

/* Appends a value as it stands in the schema; llm_json bounds the depth. */
static void
put_json(llm_buffer *out, const llm_json *value)
{
	llm_json_kind kind = llm_json_get_kind(value);
	bool object = kind == LLM_JSON_OBJECT;
	const char *text;
	size_t n;
	bool b;

	if (llm_json_string(value, &text, &n))
		put_string(out, text, n);
	else if (llm_json_number_text(value, &text, &n))
		put(out, text, n);
	else if (llm_json_bool(value, &b))
		put_word(out, b ? "true" : "false");
	else if (kind != LLM_JSON_ARRAY && !object)
		put_word(out, "null");
	else
	{
		put_word(out, object ? "{" : "[");
		for (uint64_t i = 0; i < llm_json_size(value); i++)
		{
			const llm_json *child =
			    object ? llm_json_member_at(value, i, &text, &n) : llm_json_item(value, i);

			put_word(out, i > 0 ? ", " : "");
			if (object)
			{
				put_string(out, text, n);
				put_word(out, ": ");
			}
			put_json(out, child);
		}
		put_word(out, object ? "}" : "]");
	}
}

/* A bound of a schema, or what holds without it. */
static uint64_t
bound(const llm_json *schema, const char *key, uint64_t otherwise)
{
	uint64_t n;

	return llm_json_u64(llm_json_member(schema, key), &n) ? n : otherwise;
}

/* Appends a string of words within the schema's bounds. */
static void
put_words(llm_buffer *out, const llm_json *schema, uint64_t h)
{
	uint64_t min = bound(schema, "minLength", 0);
	uint64_t max = bound(schema, "maxLength", UINT64_MAX);
	char words[128];
	size_t n;

	write_words(h, 2, words, sizeof(words));
	n = strlen(words);
	put_word(out, "\"");
	put(out, words, n < max ? n : (size_t) max);
	for (uint64_t i = n; i < min; i++)
		put(out, words + i % n, 1);
	put_word(out, "\"");
}

static void put_value(llm_buffer *out, const llm_json *schema, uint64_t h);

/* Appends an object with all its properties. */
static void
put_object(llm_buffer *out, const llm_json *schema, uint64_t h)
{
	const llm_json *properties = llm_json_member(schema, "properties");

	put_word(out, "{");
	for (uint64_t i = 0; i < llm_json_size(properties); i++)
	{
		const char *key;
		size_t n_key;
		const llm_json *property = llm_json_member_at(properties, i, &key, &n_key);

		put_word(out, i > 0 ? ", " : "");
		put_string(out, key, n_key);
		put_word(out, ": ");
		put_value(out, property, draw(h, i));
	}
	put_word(out, "}");
}

/* Appends an array of as few items as may be. */
static void
put_array(llm_buffer *out, const llm_json *schema, uint64_t h)
{
	uint64_t n = bound(schema, "minItems", 0);

	put_word(out, "[");
	for (uint64_t i = 0; i < n && !out->failed; i++)
	{
		put_word(out, i > 0 ? ", " : "");
		put_value(out, llm_json_member(schema, "items"), draw(h, i));
	}
	put_word(out, "]");
}

/* Appends a value of a type. */
static void
put_typed(llm_buffer *out, const llm_json *schema, const llm_json *type, uint64_t h)
{
	char number[16];

	snprintf(number, sizeof(number), "%u", (unsigned) (h % 100));
	if (llm_json_is(type, "integer") || llm_json_is(type, "number"))
		put_word(out, number);
	else if (llm_json_is(type, "boolean"))
		put_word(out, h % 2 ? "true" : "false");
	else if (llm_json_is(type, "null"))
		put_word(out, "null");
	else if (llm_json_is(type, "array"))
		put_array(out, schema, h);
	else if (llm_json_is(type, "object") || llm_json_member(schema, "properties") != NULL)
		put_object(out, schema, h);
	else
		put_words(out, schema, h);
}

/*
 * Appends a value that fits a schema. It was compiled to a grammar before, so that every key is one
 * that is known, and the depth is bounded.
 */
static void
put_value(llm_buffer *out, const llm_json *schema, uint64_t h)
{
	const llm_json *values = llm_json_member(schema, "enum");
	const llm_json *constant = llm_json_member(schema, "const");
	const llm_json *choices = llm_json_member(schema, "anyOf");
	const llm_json *type = llm_json_member(schema, "type");

	if (choices == NULL)
		choices = llm_json_member(schema, "oneOf");
	if (llm_json_get_kind(type) == LLM_JSON_ARRAY)
		type = llm_json_item(type, 0);
	if (constant != NULL)
		put_json(out, constant);
	else if (llm_json_size(values) > 0)
		put_json(out, llm_json_item(values, h % llm_json_size(values)));
	else if (llm_json_size(choices) > 0)
		put_value(out, llm_json_item(choices, h % llm_json_size(choices)), h);
	else
		put_typed(out, schema, type, h);
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Generates one row; out and words hold its text. */
static void
generate(const llm_job *job, const llm_json *schema, uint32_t i, llm_row_result *result,
         llm_buffer *out, char *words, size_t size)
{
	uint64_t h = row_hash(job, i);
	uint32_t max = job->max_tokens > 0 ? job->max_tokens : 256;

	result->finish = LLM_FINISH_END;
	result->n_output = 1;
	out->n = 0;
	out->failed = false;
	if (schema != NULL)
	{
		put_value(out, schema, h);
		result->text = (llm_text){out->bytes, out->n};
	}
	else if (job->n_allowed > 0)
		result->text = job->allowed[draw(h, 0) % job->n_allowed];
	else
	{
		result->n_output = write_words(h, max, words, size);
		result->text = (llm_text){words, strlen(words)};
		result->finish = apply_stops(job, &result->text);
	}
	if (out->failed)
		*result =
		    (llm_row_result){.row = i,
		                     .status = LLM_E_LIMIT,
		                     .message = "the shortest answer that fits the schema is too long"};
	else if ((job->flags & LLM_JOB_STREAM) && job->on_piece != NULL)
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
run_row(const llm_job *job, const llm_json *schema, uint32_t i, float *values, llm_buffer *out,
        llm_job_stats *stats)
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
		generate(job, schema, i, &result, out, text, sizeof(text));
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
	stats->n_prompt_tokens += result.n_tokens;
	stats->n_output_tokens += result.n_output;
	stats->n_errors += result.status != LLM_OK;
	if (job->on_row != NULL)
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
	llm_buffer out = {0};
	llm_error err = {0};
	llm_status status =
	    values != NULL ? LLM_OK : llm_fail(&err, LLM_E_NOMEM, "out of memory for a job");

	if (status == LLM_OK)
		status = llm_job_check(job, &err);
	if (status == LLM_OK)
		status = read_schema(job, &doc, &err);
	for (uint32_t i = 0; status == LLM_OK && i < job->n_rows && job->kind != LLM_JOB_PREWARM; i++)
		run_row(job, doc != NULL ? llm_json_root(doc) : NULL, i, values, &out, &stats);
	llm_buffer_free(&out);
	llm_json_free(doc);
	llm_free(values);
	job->on_done(job->user, status, err.message, &stats);
}
