/*
 * llm_label.c: see llm_label.h.
 *
 * The labels are sorted by their tokens, so that labels with a common beginning stand together: one
 * walk over neighbours finds equal labels, labels that begin others, and the trie, whose nodes come
 * out parents first and in an order that does not depend on the order of the labels. O(n log n)
 * comparisons.
 *
 * A set is immutable once made and belongs to its job.
 */
#include "llm_label.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"

/* One label's tokens and its number. */
typedef struct label
{
	const int32_t *tokens;
	uint32_t n;
	uint32_t index;
} label;

/* The labels in order, and what the walk over them has found. */
typedef struct sorted
{
	label *labels;      /* [n] */
	uint32_t *n_common; /* [n] leading tokens in common with the label before */
	uint32_t n;
	uint32_t n_tokens_max;
	bool has_end; /* every label's end is scored too */
} sorted;

/* The number of leading tokens two labels have in common. */
static uint32_t
common_tokens(const label *a, const label *b)
{
	uint32_t n = a->n < b->n ? a->n : b->n;
	uint32_t i = 0;

	while (i < n && a->tokens[i] == b->tokens[i])
		i++;
	return i;
}

/* qsort order: by tokens, a label before those that it begins. Equal ones by number. */
static int
label_compare(const void *x, const void *y)
{
	const label *a = x;
	const label *b = y;
	uint32_t i = common_tokens(a, b);

	if (i < a->n && i < b->n)
		return a->tokens[i] < b->tokens[i] ? -1 : 1;
	if (a->n != b->n)
		return a->n < b->n ? -1 : 1;
	return (a->index > b->index) - (a->index < b->index);
}

/* qsort order of columns. */
static int
column_compare(const void *x, const void *y)
{
	const uint32_t *a = x;
	const uint32_t *b = y;

	return (*a > *b) - (*a < *b);
}

/*
 * Sorts the labels and compares neighbours. Equal ones are refused; one that begins another makes
 * ends count.
 */
static llm_status
sort_labels(sorted *s, const int32_t *tokens, const uint32_t *first, llm_error *err)
{
	for (uint32_t i = 0; i < s->n; i++)
	{
		s->labels[i] =
		    (label){.tokens = tokens + first[i], .n = first[i + 1] - first[i], .index = i};
		if (s->labels[i].n == 0)
			return llm_fail(err, LLM_E_RANGE, "label %u is empty", i + 1);
		if (s->labels[i].n > s->n_tokens_max)
			s->n_tokens_max = s->labels[i].n;
	}
	qsort(s->labels, s->n, sizeof(*s->labels), label_compare);
	s->n_common[0] = 0;
	for (uint32_t i = 1; i < s->n; i++)
	{
		const label *a = &s->labels[i - 1];
		const label *b = &s->labels[i];

		s->n_common[i] = common_tokens(a, b);
		if (s->n_common[i] == a->n && a->n == b->n)
			return llm_fail(err, LLM_E_RANGE, "labels %u and %u are the same to the model",
			                a->index + 1, b->index + 1);
		s->has_end |= s->n_common[i] == a->n;
	}
	return LLM_OK;
}

/* Tokens of a label that other tokens follow: the depth of its deepest node. */
static uint32_t
label_depth(const sorted *s, const label *l)
{
	return s->has_end ? l->n : l->n - 1;
}

/* Allocates a set for these labels; its counts are those the arrays have room for. */
static llm_label_set *
set_alloc(const sorted *s)
{
	llm_label_set *set = llm_calloc(1, sizeof(*set));
	size_t n_terms = 0;

	if (set == NULL)
		return NULL;
	set->n_labels = s->n;
	for (uint32_t i = 0; i < s->n; i++)
	{
		n_terms += label_depth(s, &s->labels[i]) + 1;
		set->n_nodes += label_depth(s, &s->labels[i]) - s->n_common[i];
	}
	set->tokens = llm_malloc_array(set->n_nodes, sizeof(*set->tokens));
	set->parent = llm_malloc_array(set->n_nodes, sizeof(*set->parent));
	set->depth = llm_malloc_array(set->n_nodes, sizeof(*set->depth));
	set->cols = llm_malloc_array(n_terms, sizeof(*set->cols));
	set->n_terms = llm_malloc_array(s->n, sizeof(*set->n_terms));
	set->first_term = llm_malloc_array(s->n, sizeof(*set->first_term));
	set->term_node = llm_malloc_array(n_terms, sizeof(*set->term_node));
	set->term_col = llm_malloc_array(n_terms, sizeof(*set->term_col));
	if (set->tokens != NULL && set->parent != NULL && set->depth != NULL && set->cols != NULL &&
	    set->n_terms != NULL && set->first_term != NULL && set->term_node != NULL &&
	    set->term_col != NULL)
		return set;
	llm_label_set_free(set);
	return NULL;
}

/*
 * Builds nodes and terms. path[d] is the node of the current label's first d tokens (−1 for none:
 * the root); what the label shares with the one before is there already. term_col holds tokens
 * until the columns are known.
 */
static void
build_trie(llm_label_set *set, const sorted *s, int32_t end_token, int32_t *path)
{
	uint32_t n_terms = 0;
	int32_t n_nodes = 0;

	path[0] = -1;
	for (uint32_t i = 0; i < s->n; i++)
	{
		const label *l = &s->labels[i];
		uint32_t depth = label_depth(s, l);

		for (uint32_t d = s->n_common[i] + 1; d <= depth; d++)
		{
			set->tokens[n_nodes] = l->tokens[d - 1];
			set->parent[n_nodes] = path[d - 1];
			set->depth[n_nodes] = d;
			path[d] = n_nodes++;
		}
		set->first_term[l->index] = n_terms;
		set->n_terms[l->index] = depth + 1;
		for (uint32_t d = 0; d <= depth; d++)
		{
			set->term_node[n_terms] = path[d];
			set->term_col[n_terms++] = (uint32_t) (d < l->n ? l->tokens[d] : end_token);
		}
		set->needs_lse |= depth > 0;
	}
	set->n_cols = n_terms;
}

/* Replaces the tokens in term_col by indices into the distinct columns. */
static void
index_columns(llm_label_set *set)
{
	uint32_t n_terms = set->n_cols;
	uint32_t n = 0;

	memcpy(set->cols, set->term_col, n_terms * sizeof(*set->cols));
	qsort(set->cols, n_terms, sizeof(*set->cols), column_compare);
	for (uint32_t i = 0; i < n_terms; i++)
		if (i == 0 || set->cols[i] != set->cols[n - 1])
			set->cols[n++] = set->cols[i];
	set->n_cols = n;
	for (uint32_t i = 0; i < n_terms; i++)
	{
		const uint32_t *col =
		    bsearch(&set->term_col[i], set->cols, n, sizeof(*set->cols), column_compare);

		set->term_col[i] = (uint32_t) (col - set->cols);
	}
}

/* Sorts, allocates, builds. */
llm_status
llm_label_set_from_tokens(const int32_t *tokens, const uint32_t *first, uint32_t n,
                          int32_t end_token, llm_label_set **out, llm_error *err)
{
	sorted s = {.n = n};
	int32_t *path = NULL;
	llm_status status = LLM_OK;

	*out = NULL;
	if (n < 2)
		return llm_fail(err, LLM_E_RANGE, "at least two labels are needed");
	s.labels = llm_malloc_array(n, sizeof(*s.labels));
	s.n_common = llm_malloc_array(n, sizeof(*s.n_common));
	if (s.labels != NULL && s.n_common != NULL)
		status = sort_labels(&s, tokens, first, err);
	if (status == LLM_OK && s.has_end && end_token < 0)
		status = llm_fail(err, LLM_E_UNSUPPORTED,
		                  "a label begins another, and the model has no end token to tell them "
		                  "apart");
	if (status == LLM_OK && s.labels != NULL && s.n_common != NULL)
	{
		path = llm_malloc_array((size_t) s.n_tokens_max + 1, sizeof(*path));
		*out = path != NULL ? set_alloc(&s) : NULL;
	}
	if (*out != NULL)
	{
		build_trie(*out, &s, end_token, path);
		index_columns(*out);
	}
	else if (status == LLM_OK)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory for %u labels", n);
	llm_free(path);
	llm_free(s.labels);
	llm_free(s.n_common);
	return status;
}

/* Says whether line begins with all of start and goes on. */
static bool
starts_with(const llm_tokens *line, const llm_tokens *start)
{
	size_t i = 0;

	while (i < start->n && i < line->n && line->ids[i] == start->ids[i])
		i++;
	return i == start->n && i < line->n;
}

/*
 * Appends a label's tokens. It is tokenised behind a line break, whose own tokens (breaks) are then
 * taken off again: so no space is put before it. A label that merges with the break is tokenised by
 * itself.
 */
static llm_status
tokenize_label(const llm_tokenizer *t, const char *text, size_t bytes, const llm_tokens *breaks,
               llm_tokens *out, llm_error *err)
{
	llm_tokens line = {0};
	char *joined = llm_malloc_array(bytes + 1, 1);
	llm_status status;

	if (joined == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a label of %zu bytes", bytes);
	joined[0] = '\n';
	memcpy(joined + 1, text, bytes);
	status = llm_tokenize(t, joined, bytes + 1, 0, &line, err);
	llm_free(joined);
	if (status == LLM_OK && !starts_with(&line, breaks))
		status = llm_tokenize(t, text, bytes, 0, out, err);
	else
		for (size_t i = breaks->n; i < line.n && status == LLM_OK; i++)
			status = llm_tokens_push(out, line.ids[i], err);
	llm_tokens_free(&line);
	return status;
}

/* Tokenises all labels behind one another. */
llm_status
llm_label_set_create(const llm_tokenizer *t, const char *const *labels, const size_t *bytes,
                     uint32_t n, int32_t end_token, llm_label_set **out, llm_error *err)
{
	llm_tokens tokens = {0};
	llm_tokens breaks = {0};
	uint32_t *first = llm_malloc_array((size_t) n + 1, sizeof(*first));
	llm_status status;

	*out = NULL;
	if (first == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for %u labels", n);
	first[0] = 0;
	status = llm_tokenize(t, "\n", 1, 0, &breaks, err);
	for (uint32_t i = 0; i < n && status == LLM_OK; i++)
	{
		if (bytes[i] == 0)
			status = llm_fail(err, LLM_E_RANGE, "label %u is empty", i + 1);
		else
			status = tokenize_label(t, labels[i], bytes[i], &breaks, &tokens, err);
		if (status == LLM_OK && tokens.n > INT32_MAX)
			status = llm_fail(err, LLM_E_RANGE, "the labels have too many tokens");
		first[i + 1] = (uint32_t) tokens.n;
	}
	if (status == LLM_OK)
		status = llm_label_set_from_tokens(tokens.ids, first, n, end_token, out, err);
	llm_tokens_free(&tokens);
	llm_tokens_free(&breaks);
	llm_free(first);
	return status;
}

/* Frees a set, also one that is not complete. */
void
llm_label_set_free(llm_label_set *set)
{
	if (set == NULL)
		return;
	llm_free(set->tokens);
	llm_free(set->parent);
	llm_free(set->depth);
	llm_free(set->cols);
	llm_free(set->n_terms);
	llm_free(set->first_term);
	llm_free(set->term_node);
	llm_free(set->term_col);
	llm_free(set);
}

/* The probabilities of n scores less their bias; all alike where none is possible. */
void
llm_label_probs(const double *score, const double *bias, uint32_t n, float *prob)
{
	double max = -INFINITY;
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		max = fmax(max, score[i] - (bias != NULL ? bias[i] : 0));
	for (uint32_t i = 0; i < n; i++)
		sum += exp(score[i] - (bias != NULL ? bias[i] : 0) - max);
	for (uint32_t i = 0; i < n; i++)
		prob[i] = max > -INFINITY
		              ? (float) (exp(score[i] - (bias != NULL ? bias[i] : 0) - max) / sum)
		              : 1.0f / (float) n;
}

/* Sums each label's terms in order. */
void
llm_label_scores(const llm_label_set *set, const float *logits, const float *lse,
                 const double *bias, double *logprob, float *prob)
{
	for (uint32_t i = 0; i < set->n_labels; i++)
	{
		double score = 0;

		for (uint32_t k = set->first_term[i]; k < set->first_term[i] + set->n_terms[i]; k++)
		{
			size_t row = (size_t) (set->term_node[k] + 1);

			score += logits[row * set->n_cols + set->term_col[k]];
			score -= lse != NULL ? lse[row] : 0;
		}
		logprob[i] = score;
	}
	llm_label_probs(logprob, bias, set->n_labels, prob);
}
