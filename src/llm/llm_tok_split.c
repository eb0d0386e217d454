/*
 * llm_tok_split.c: runs the pre-tokenizers, one within the other.
 *
 * Each splitter cuts every word of the one before it. There is one cursor a level in place of
 * recursion. A splitter that changes its text (ByteLevel's and Metaspace's space in front, ▁ for
 * spaces) writes it to its level's buffer and cuts that.
 */
#include "llm_tok_internal.h"

/* What a level has left to cut. */
typedef struct level
{
	const char *text;
	size_t n;
	bool first;     /* it begins where the whole text begins */
	bool continues; /* something precedes it that was tokenised apart: nothing goes in front */
} level;

/* True when a splitter's space goes in front of a text. */
static bool
wants_prefix(const tok_split *split, const level *l)
{
	const char *mark = split->metaspace ? TOK_METASPACE : " ";
	size_t n = strlen(mark);

	if (split->prefix == TOK_PREFIX_NEVER || l->continues ||
	    (split->prefix == TOK_PREFIX_FIRST && !l->first))
		return false;
	if (split->metaspace && l->text[0] == ' ')
		return false; /* will be a ▁ */
	return l->n < n || memcmp(l->text, mark, n) != 0;
}

/* Changes a level's text as its splitter wants it before it cuts. */
static llm_status
prepare(const tok_split *split, level *l, tok_buffer *b, llm_error *err)
{
	bool prefix = wants_prefix(split, l);
	const char *mark = split->metaspace ? TOK_METASPACE : " ";
	llm_status status = LLM_OK;
	size_t begin = 0;

	if (!prefix && (!split->metaspace || memchr(l->text, ' ', l->n) == NULL))
		return LLM_OK;
	b->n = 0;
	if (prefix)
		status = tok_put(b, mark, strlen(mark), err);
	for (size_t i = 0; split->metaspace && status == LLM_OK && i < l->n; i++)
		if (l->text[i] == ' ')
		{
			if ((status = tok_put(b, l->text + begin, i - begin, err)) == LLM_OK)
				status = tok_put(b, TOK_METASPACE, strlen(TOK_METASPACE), err);
			begin = i + 1;
		}
	if (status == LLM_OK)
		status = tok_put(b, l->text + begin, l->n - begin, err);
	l->text = b->bytes;
	l->n = b->n;
	return status;
}

/* Goes through the levels: a word goes one down, an empty level one up. */
llm_status
tok_split_words(const llm_tokenizer *t, const char *text, size_t n, bool first, bool continues,
                tok_scratch *scratch, tok_word_fn fn, void *arg, llm_error *err)
{
	level levels[TOK_STEPS_MAX];
	uint32_t depth = 0;
	llm_status status = LLM_OK;

	if (n == 0 || t->n_splits == 0)
		return n == 0 ? LLM_OK : fn(arg, text, n, err);
	levels[0] = (level){text, n, first, continues};
	status = prepare(&t->splits[0], &levels[0], &scratch->level[0], err);
	while (status == LLM_OK)
	{
		level *l = &levels[depth];
		level word = *l;
		bool drop;

		if (l->n == 0)
		{
			if (depth-- == 0)
				break;
			continue;
		}
		word.n = tok_scan_word(&t->splits[depth], l->text, l->n, &drop);
		*l = (level){l->text + word.n, l->n - word.n, false, false};
		if (drop)
			continue;
		if (depth + 1 == t->n_splits)
		{
			status = fn(arg, word.text, word.n, err);
			continue;
		}
		depth++;
		levels[depth] = word;
		status = prepare(&t->splits[depth], &levels[depth], &scratch->level[depth], err);
	}
	return status;
}
