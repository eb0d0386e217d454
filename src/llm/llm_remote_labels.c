/*
 * llm_remote_labels.c: probabilities of labels from what a server tells.
 *
 * With logprobs: the first token of the answer that is not white space has the likeliest tokens
 * listed; each gives its probability to the labels that it begins. Where several labels begin
 * alike, the answer's text decides for the token that was taken, and the others share. The sum over
 * the labels is made 1. Without logprobs the label that the text names gets 1.
 */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "llm_remote_impl.h"

#define NO_LABEL UINT32_MAX
#define SUM_MIN  1e-6 /* labels less likely than this together were not answered */

/* Cuts white space and quotes off both ends. */
static llm_text
trim(llm_text t)
{
	static const char blank[] = " \t\r\n\"'*`.";

	while (t.n > 0 && memchr(blank, t.bytes[0], sizeof(blank) - 1) != NULL)
		t = (llm_text){t.bytes + 1, t.n - 1};
	while (t.n > 0 && memchr(blank, t.bytes[t.n - 1], sizeof(blank) - 1) != NULL)
		t.n--;
	return t;
}

/* Whether a text begins with another, whatever the case of ASCII letters. */
static bool
begins(llm_text text, llm_text with)
{
	return with.n > 0 && with.n <= text.n && strncasecmp(text.bytes, with.bytes, with.n) == 0;
}

/* Whether a token could begin a label: a part of it, or all of it and more. */
static bool
token_begins(llm_text token, llm_text label)
{
	return begins(label, token) || begins(token, label);
}

/* The label that an answer names: the longest it begins with, else the only one that it begins. */
static uint32_t
named_label(llm_text answer, const llm_text *labels, uint32_t n)
{
	uint32_t found = NO_LABEL;
	uint32_t n_found = 0;

	answer = trim(answer);
	for (uint32_t i = 0; i < n; i++)
		if (begins(answer, trim(labels[i])) && (found == NO_LABEL || labels[i].n > labels[found].n))
			found = i;
	if (found != NO_LABEL)
		return found;
	for (uint32_t i = 0; i < n; i++)
		if (begins(trim(labels[i]), answer))
		{
			found = i;
			n_found++;
		}
	return n_found == 1 ? found : NO_LABEL;
}

/* Shares the probability of one token among the labels that it begins. */
static void
share(llm_text token, bool taken, uint32_t named, double p, const llm_text *labels, uint32_t n,
      double *sum, float *values)
{
	uint32_t n_begun = 0;

	if (taken && named != NO_LABEL && token_begins(token, trim(labels[named])))
	{
		values[named] += (float) p;
		*sum += p;
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		n_begun += token_begins(token, trim(labels[i]));
	for (uint32_t i = 0; n_begun > 0 && i < n; i++)
		if (token_begins(token, trim(labels[i])))
			values[i] += (float) (p / n_begun);
	*sum += n_begun > 0 ? p : 0;
}

/* The first position of an answer whose token says something. */
static const llm_json *
first_position(const llm_json *choice, llm_text *token)
{
	const llm_json *content = llm_json_member(llm_json_member(choice, "logprobs"), "content");

	for (uint64_t i = 0; i < llm_json_size(content); i++)
	{
		const llm_json *position = llm_json_item(content, i);

		if (llm_json_string(llm_json_member(position, "token"), &token->bytes, &token->n) &&
		    (*token = trim(*token)).n > 0)
			return position;
	}
	return NULL;
}

/* Adds up what the listed tokens give to the labels. Returns the sum. */
static double
sum_tokens(const llm_json *choice, uint32_t named, const llm_text *labels, uint32_t n,
           float *values)
{
	llm_text taken = {0};
	const llm_json *position = first_position(choice, &taken);
	const llm_json *top = llm_json_member(position, "top_logprobs");
	double sum = 0;

	for (uint64_t i = 0; i < llm_json_size(top) && i < REMOTE_TOP_LOGPROBS; i++)
	{
		const llm_json *entry = llm_json_item(top, i);
		llm_text token;
		double logprob;

		if (!llm_json_string(llm_json_member(entry, "token"), &token.bytes, &token.n) ||
		    !llm_json_double(llm_json_member(entry, "logprob"), &logprob) || !(logprob <= 0.01))
			continue;
		token = trim(token);
		if (token.n > 0)
			share(token, token.n == taken.n && memcmp(token.bytes, taken.bytes, token.n) == 0,
			      named, exp(logprob), labels, n, &sum, values);
	}
	return sum;
}

/* Scores the labels. */
bool
remote_score_labels(const llm_json *choice, const llm_text *labels, uint32_t n, float *values)
{
	llm_text answer = {"", 0};
	uint32_t named;
	double sum;

	(void) llm_json_string(llm_json_member(llm_json_member(choice, "message"), "content"),
	                       &answer.bytes, &answer.n);
	named = named_label(answer, labels, n);
	memset(values, 0, n * sizeof(float));
	sum = sum_tokens(choice, named, labels, n, values);
	if (sum >= SUM_MIN)
	{
		for (uint32_t i = 0; i < n; i++)
			values[i] = (float) (values[i] / sum);
		return true;
	}
	if (named == NO_LABEL)
		return false;
	memset(values, 0, n * sizeof(float));
	values[named] = 1;
	return true;
}
