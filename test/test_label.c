/*
 * test_label.c: label tries and their scores, against exact tries and against a toy model that is
 * asked for every label by itself.
 *
 * The tokenizer here is a stand-in: one token a byte, with the two habits that matter for labels
 * switched on by tests: a space token before every text, and a line break that merges with what
 * follows.
 */
#include "test.h"

#include <math.h>

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_label.h"

#define END       999
#define SPACE     500
#define MERGED    600
#define N_VOCAB   1000
#define MAX_NODES 600

static bool puts_space;
static bool merges_break;

/* As in the library. */
llm_status
llm_tokens_push(llm_tokens *t, int32_t id, llm_error *err)
{
	int32_t *ids = llm_realloc_array(t->ids, t->n + 1, sizeof(*ids));

	if (ids == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory");
	t->ids = ids;
	t->ids[t->n++] = id;
	return LLM_OK;
}

/* As in the library. */
void
llm_tokens_free(llm_tokens *t)
{
	llm_free(t->ids);
	*t = (llm_tokens){0};
}

/* The stand-in. Byte 255 stands for text that breaks its encoding. */
llm_status
llm_tokenize(const llm_tokenizer *t, const char *text, size_t bytes, int flags, llm_tokens *out,
             llm_error *err)
{
	llm_status status = LLM_OK;

	(void) t;
	if (flags != 0)
		return llm_fail(err, LLM_E_INTERNAL, "labels are plain text");
	if (puts_space)
		status = llm_tokens_push(out, SPACE, err);
	for (size_t i = 0; i < bytes && status == LLM_OK; i++)
	{
		if ((unsigned char) text[i] == 255)
			return llm_fail(err, LLM_E_FORMAT, "invalid UTF-8");
		if (merges_break && text[i] == '\n' && i + 1 < bytes)
			status = llm_tokens_push(out, MERGED + (unsigned char) text[++i], err);
		else
			status = llm_tokens_push(out, (unsigned char) text[i], err);
	}
	return status;
}

/* Makes a set of NUL-terminated labels. */
static llm_status
create(const char *const *labels, uint32_t n, int32_t end, llm_label_set **set, llm_error *err)
{
	size_t bytes[16];

	for (uint32_t i = 0; i < n; i++)
		bytes[i] = strlen(labels[i]);
	return llm_label_set_create(NULL, labels, bytes, n, end, set, err);
}

/* Checks one term of a label. */
static void
check_term(const llm_label_set *set, uint32_t label, uint32_t k, int32_t node, int32_t token)
{
	uint32_t at = set->first_term[label] + k;

	REQUIRE(k < set->n_terms[label]);
	CHECK_MSG(set->term_node[at] == node, "label %u term %u: node %d, not %d", label, k,
	          set->term_node[at], node);
	CHECK(set->cols[set->term_col[at]] == (uint32_t) token);
}

/* One token each: no nodes, two columns, and the normaliser cancels. */
static void
test_single_tokens(void)
{
	const char *const labels[] = {"y", "n"};
	const float logits[] = {1.0f, 3.0f}; /* of n, y: columns ascend */
	const double bias[] = {2.0, 0.0};
	llm_label_set *set;
	double logprob[2];
	float prob[2];

	REQUIRE(create(labels, 2, END, &set, NULL) == LLM_OK);
	CHECK(set->n_labels == 2 && set->n_nodes == 0 && set->n_cols == 2 && !set->needs_lse);
	CHECK(set->cols[0] == 'n' && set->cols[1] == 'y');
	check_term(set, 0, 0, -1, 'y');
	check_term(set, 1, 0, -1, 'n');
	llm_label_scores(set, logits, NULL, NULL, logprob, prob);
	CHECK(logprob[0] == 3 && logprob[1] == 1);
	CHECK(fabs(prob[0] - 1 / (1 + exp(-2))) < 1e-7 && fabs(prob[0] + prob[1] - 1) < 1e-7);
	llm_label_scores(set, logits, NULL, bias, logprob, prob);
	CHECK(fabs(prob[0] - 0.5) < 1e-7 && logprob[0] == 3);
	llm_label_set_free(set);
}

/* abc abd ae f: nodes a and ab run, parents first; siblings have the same depth. */
static void
test_trie(void)
{
	const char *const labels[] = {"f", "abd", "ae", "abc"};
	llm_label_set *set;

	REQUIRE(create(labels, 4, -1, &set, NULL) == LLM_OK);
	CHECK(set->n_nodes == 2 && set->n_cols == 6 && set->needs_lse);
	CHECK(set->tokens[0] == 'a' && set->parent[0] == -1 && set->depth[0] == 1);
	CHECK(set->tokens[1] == 'b' && set->parent[1] == 0 && set->depth[1] == 2);
	CHECK(set->n_terms[0] == 1 && set->n_terms[1] == 3 && set->n_terms[2] == 2);
	check_term(set, 0, 0, -1, 'f');
	check_term(set, 1, 0, -1, 'a');
	check_term(set, 1, 1, 0, 'b');
	check_term(set, 1, 2, 1, 'd');
	check_term(set, 2, 1, 0, 'e');
	check_term(set, 3, 2, 1, 'c');
	llm_label_set_free(set);
}

/* a begins ab: every label is followed by the end token, b too, so that scores compare. */
static void
test_label_that_begins_another(void)
{
	const char *const labels[] = {"ab", "a", "c"};
	llm_label_set *set;
	llm_error err;

	REQUIRE(create(labels, 3, END, &set, NULL) == LLM_OK);
	CHECK(set->n_nodes == 3 && set->needs_lse && set->cols[set->n_cols - 1] == END);
	CHECK(set->n_terms[0] == 3 && set->n_terms[1] == 2 && set->n_terms[2] == 2);
	check_term(set, 1, 0, -1, 'a');
	check_term(set, 1, 1, 0, END);
	check_term(set, 0, 1, 0, 'b');
	check_term(set, 0, 2, 1, END);
	check_term(set, 2, 1, 2, END);
	CHECK(set->parent[2] == -1 && set->depth[2] == 1);
	llm_label_set_free(set);
	CHECK(create(labels, 3, -1, &set, &err) == LLM_E_UNSUPPORTED && set == NULL);
}

/* What cannot be told apart, or is not there, is refused by number. */
static void
test_refusals(void)
{
	const char *const same[] = {"x", "ab", "ab"};
	const char *const empty[] = {"x", ""};
	const char *const bad[] = {"x", "a\xff"};
	const int32_t tokens[] = {1, 2};
	const uint32_t first[] = {0, 0, 2};
	llm_label_set *set;
	llm_error err;

	CHECK(create(same, 3, END, &set, &err) == LLM_E_RANGE && set == NULL);
	CHECK(strcmp(err.message, "labels 2 and 3 are the same to the model") == 0);
	CHECK(create(empty, 2, END, &set, &err) == LLM_E_RANGE);
	CHECK(strcmp(err.message, "label 2 is empty") == 0);
	CHECK(create(same, 1, END, &set, &err) == LLM_E_RANGE && create(same, 0, END, &set, &err) != 0);
	CHECK(strcmp(err.message, "at least two labels are needed") == 0);
	CHECK(create(bad, 2, END, &set, &err) == LLM_E_FORMAT);
	CHECK(llm_label_set_from_tokens(tokens, first, 2, END, &set, &err) == LLM_E_RANGE);
	llm_label_set_free(NULL);
}

/*
 * Labels follow the prompt: no space token of the tokenizer's own; a merging line break does no
 * harm.
 */
static void
test_labels_follow_the_prompt(void)
{
	const char *const labels[] = {"y", "n"};
	llm_label_set *set;

	puts_space = true;
	REQUIRE(create(labels, 2, END, &set, NULL) == LLM_OK);
	CHECK(set->n_nodes == 0 && set->cols[0] == 'n' && set->cols[1] == 'y');
	llm_label_set_free(set);
	puts_space = false;
	merges_break = true;
	REQUIRE(create(labels, 2, END, &set, NULL) == LLM_OK);
	CHECK(set->n_nodes == 0 && set->cols[0] == 'n' && set->cols[1] == 'y');
	llm_label_set_free(set);
	merges_break = false;
}

/* A toy model: the logit of a token after a history, from a hash of both. */
static float
toy_logit(uint64_t history, uint32_t token)
{
	uint64_t state = history * 31 + token;

	return (float) (test_random(&state) % 1000) / 100;
}

/* The history behind one more token. */
static uint64_t
toy_history(uint64_t history, int32_t token)
{
	return history * 1000003 + (uint32_t) token + 1;
}

/* ln Σ exp over the toy vocabulary. */
static double
toy_lse(uint64_t history)
{
	double sum = 0;

	for (uint32_t v = 0; v < N_VOCAB; v++)
		sum += exp(toy_logit(history, v));
	return log(sum);
}

/* ln p of a label's tokens, one after the other, as a plain decoder would score them. */
static double
toy_logprob(const int32_t *tokens, uint32_t n, bool with_end)
{
	uint64_t history = 7;
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
	{
		sum += toy_logit(history, (uint32_t) tokens[i]) - toy_lse(history);
		history = toy_history(history, tokens[i]);
	}
	return with_end ? sum + toy_logit(history, END) - toy_lse(history) : sum;
}

/* Fills what the engine would: logits at the columns and lse, of the root and of every node. */
static void
toy_forward(const llm_label_set *set, float *logits, float *lse)
{
	uint64_t history[MAX_NODES + 1] = {7};

	for (uint32_t r = 0; r <= set->n_nodes; r++)
	{
		if (r > 0)
			history[r] = toy_history(history[set->parent[r - 1] + 1], set->tokens[r - 1]);
		for (uint32_t c = 0; c < set->n_cols; c++)
			logits[r * set->n_cols + c] = toy_logit(history[r], set->cols[c]);
		lse[r] = (float) toy_lse(history[r]);
	}
}

/* Checks that no two nodes stand for the same tokens, and that parents and depths agree. */
static void
check_nodes(const llm_label_set *set)
{
	for (uint32_t i = 0; i < set->n_nodes; i++)
	{
		int32_t parent = set->parent[i];

		CHECK(parent < (int32_t) i);
		CHECK(set->depth[i] == (parent < 0 ? 1 : set->depth[parent] + 1));
		for (uint32_t k = 0; k < i; k++)
			CHECK(set->parent[k] != parent || set->tokens[k] != set->tokens[i]);
	}
	for (uint32_t c = 1; c < set->n_cols; c++)
		CHECK(set->cols[c - 1] < set->cols[c]);
}

/* Scores one random set of labels both ways. False when two of the labels were equal. */
static bool
compare_scores(uint64_t *rng, uint32_t n)
{
	int32_t tokens[16 * 6] = {0};
	uint32_t first[17] = {0};
	static float logits[(MAX_NODES + 1) * 200];
	static float lse[MAX_NODES + 1];
	double logprob[16];
	float prob[16];
	double sum = 0;
	bool begins = false;
	llm_label_set *set;

	for (uint32_t i = 0; i < n; i++)
	{
		first[i + 1] = first[i] + 1 + (uint32_t) (test_random(rng) % 6);
		for (uint32_t k = first[i]; k < first[i + 1]; k++)
			tokens[k] = (int32_t) (test_random(rng) % 4);
	}
	if (llm_label_set_from_tokens(tokens, first, n, END, &set, NULL) != LLM_OK)
		return false;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < n; k++)
		{
			uint32_t length = first[i + 1] - first[i];

			begins |= i != k && length <= first[k + 1] - first[k] &&
			          memcmp(tokens + first[i], tokens + first[k], length * sizeof(*tokens)) == 0;
		}
	check_nodes(set);
	toy_forward(set, logits, lse);
	llm_label_scores(set, logits, set->needs_lse ? lse : NULL, NULL, logprob, prob);
	for (uint32_t i = 0; i < n; i++)
	{
		double want = toy_logprob(tokens + first[i], first[i + 1] - first[i], begins);

		want += set->needs_lse ? 0 : toy_lse(7);
		CHECK_MSG(fabs(logprob[i] - want) < 1e-4, "label %u: %f, not %f", i, logprob[i], want);
		sum += prob[i];
	}
	CHECK(fabs(sum - 1) < 1e-5);
	llm_label_set_free(set);
	return true;
}

/*
 * Random labels over four tokens, so that they share beginnings: the trie gives each its own score.
 */
static void
test_scores_equal_one_by_one(void)
{
	uint64_t rng = 11;
	uint32_t n_compared = 0;

	for (uint32_t round = 0; round < 400; round++)
		n_compared += compare_scores(&rng, 2 + (uint32_t) (test_random(&rng) % 10));
	CHECK(n_compared > 100);
}

/* Impossible labels share what there is; among possible ones they get nothing. */
static void
test_impossible_labels(void)
{
	const char *const labels[] = {"a", "b"};
	const float none[] = {-INFINITY, -INFINITY};
	const float one[] = {-INFINITY, 1};
	llm_label_set *set;
	double logprob[2];
	float prob[2];

	REQUIRE(create(labels, 2, END, &set, NULL) == LLM_OK);
	llm_label_scores(set, none, NULL, NULL, logprob, prob);
	CHECK(prob[0] == 0.5f && prob[1] == 0.5f);
	llm_label_scores(set, one, NULL, NULL, logprob, prob);
	CHECK(prob[0] == 0 && prob[1] == 1);
	llm_label_set_free(set);
}

/* 10,000 labels of 8 tokens that share their first two. */
static void
test_many_labels(void)
{
	uint32_t n = 10000;
	int32_t *tokens = llm_malloc_array(n, 8 * sizeof(*tokens));
	uint32_t *first = llm_malloc_array(n + 1, sizeof(*first));
	llm_label_set *set = NULL;

	REQUIRE(tokens != NULL && first != NULL);
	for (uint32_t i = 0; i <= n; i++)
		first[i] = 8 * i;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 0; k < 8; k++)
			tokens[8 * i + k] = (int32_t) (k < 2 ? k : (i * 7919 + k) % 100 + (k == 4 ? i : 0));
	CHECK(llm_label_set_from_tokens(tokens, first, n, END, &set, NULL) == LLM_OK);
	CHECK(set != NULL && set->n_labels == n && set->n_nodes < 7 * n && set->n_terms[5] == 8);
	llm_label_set_free(set);
	llm_free(tokens);
	llm_free(first);
}

/* Each allocation may fail once, or from there on; nothing leaks. */
static void
test_allocation_failures(void)
{
	const char *const labels[] = {"abc", "abd", "a"};
	llm_status status = LLM_E_NOMEM;
	uint32_t nth = 1;

	for (; nth < 200 && status == LLM_E_NOMEM; nth++)
	{
		llm_label_set *set;

		llm_alloc_fail_after(nth, nth % 2);
		status = create(labels, 3, END, &set, NULL);
		llm_alloc_fail_after(0, false);
		CHECK((status == LLM_OK) == (set != NULL));
		llm_label_set_free(set);
	}
	CHECK(status == LLM_OK && nth > 20);
}

int
main(void)
{
	RUN(single_tokens);
	RUN(trie);
	RUN(label_that_begins_another);
	RUN(refusals);
	RUN(labels_follow_the_prompt);
	RUN(scores_equal_one_by_one);
	RUN(impossible_labels);
	RUN(many_labels);
	RUN(allocation_failures);
	return test_summary("label");
}
