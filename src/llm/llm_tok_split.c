/*
 * llm_tok_split.c: pre-tokenizers: hand-written scanners in place of the published regular
 * expressions.
 *
 * Each scanner returns the length of the word at the front of a text, always at least one
 * character, looking ahead by at most what the word covers plus one character: linear, without
 * backtracking or recursion (the regular expressions of other engines overflow on long runs).
 * Several splitters apply one within the other.
 *
 * GPT-2:  's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Llama-3 and Qwen2 (digits 1–3, or 1):
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 *   ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+| \s+(?!\S)|\s+
 */
#include "llm_tok_internal.h"

#include <string.h>

/* A character at the front of a text; length 0 at its end. */
typedef struct peek
{
	uint32_t cp;
	size_t length;
} peek;

/* Looks at the character at s. Texts are valid UTF-8 here; a stray byte counts as one character. */
static peek
look(const char *s, size_t n)
{
	peek p = {0, 0};

	if (n > 0 && (p.length = llm_utf8_decode(s, n, &p.cp)) == 0)
		p = (peek){0xfffd, 1};
	return p;
}

typedef bool (*class_fn)(uint32_t cp);

/* The length of the run of a class at s, at most max characters. */
static size_t
run_of(const char *s, size_t n, class_fn in, size_t max)
{
	size_t at = 0;

	for (peek p = look(s, n); p.length > 0 && max > 0 && in(p.cp); p = look(s + at, n - at), max--)
		at += p.length;
	return at;
}

/* Neither white space, letter nor number. */
static bool
is_other(uint32_t cp)
{
	return !llm_is_space(cp) && !llm_is_letter(cp) && !llm_is_number(cp);
}

/* Carriage return or line feed. */
static bool
is_newline(uint32_t cp)
{
	return cp == '\r' || cp == '\n';
}

/* The length of an English contraction's tail at s, 0 if there is none. */
static size_t
contraction(const char *s, size_t n, bool any_case)
{
	static const char *const tails[] = {"s", "t", "re", "ve", "m", "ll", "d"};

	if (n < 2 || s[0] != '\'')
		return 0;
	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++)
	{
		size_t length = strlen(tails[i]);
		bool same = n > length;

		for (size_t k = 0; same && k < length; k++)
		{
			char c = s[1 + k];

			/* U+017F folds to s, too: (?i:'s) matches it. */
			if (any_case && c >= 'A' && c <= 'Z')
				c = (char) (c + 32);
			same = c == tails[i][k];
		}
		if (same)
			return 1 + length;
	}
	if (any_case && n >= 3 && memcmp(s + 1, "\xc5\xbf", 2) == 0)
		return 3;
	return 0;
}

/*
 * The length of a run of white space that leaves its last character to what follows: \s+(?!\S)|\s+.
 */
static size_t
spaces(const char *s, size_t n)
{
	size_t at = 0;
	size_t last = 0;

	for (peek p = look(s, n); p.length > 0 && llm_is_space(p.cp); p = look(s + at, n - at))
	{
		last = at;
		at += p.length;
	}
	return at < n && last > 0 ? last : at;
}

/* One word by GPT-2's rule. */
static size_t
word_gpt2(const char *s, size_t n)
{
	size_t length = contraction(s, n, false);
	size_t space = s[0] == ' ' ? 1 : 0;
	peek p = look(s + space, n - space);

	if (length > 0)
		return length;
	if (p.length > 0 && llm_is_letter(p.cp))
		return space + run_of(s + space, n - space, llm_is_letter, SIZE_MAX);
	if (p.length > 0 && llm_is_number(p.cp))
		return space + run_of(s + space, n - space, llm_is_number, SIZE_MAX);
	if (p.length > 0 && is_other(p.cp))
		return space + run_of(s + space, n - space, is_other, SIZE_MAX);
	return spaces(s, n);
}

/* White space by Llama-3's rule: up to the last line break of the run if there is one. */
static size_t
spaces_llama3(const char *s, size_t n)
{
	size_t at = 0;
	size_t newline = 0;

	for (peek p = look(s, n); p.length > 0 && llm_is_space(p.cp); p = look(s + at, n - at))
	{
		at += p.length;
		if (is_newline(p.cp))
			newline = at;
	}
	return newline > 0 ? newline : spaces(s, n);
}

/* One word by the rule of Llama-3 (digits: 3) and Qwen2 (digits: 1). */
static size_t
word_llama3(const char *s, size_t n, size_t digits)
{
	size_t length = contraction(s, n, true);
	peek first = look(s, n);
	peek second = look(s + first.length, n - first.length);
	size_t space = s[0] == ' ' ? 1 : 0;
	peek p = look(s + space, n - space);

	if (length > 0)
		return length;
	if (llm_is_letter(first.cp))
		return run_of(s, n, llm_is_letter, SIZE_MAX);
	if (!is_newline(first.cp) && !llm_is_number(first.cp) && second.length > 0 &&
	    llm_is_letter(second.cp))
		return first.length + run_of(s + first.length, n - first.length, llm_is_letter, SIZE_MAX);
	if (llm_is_number(first.cp))
		return run_of(s, n, llm_is_number, digits);
	if (p.length > 0 && is_other(p.cp))
	{
		length = space + run_of(s + space, n - space, is_other, SIZE_MAX);
		return length + run_of(s + length, n - length, is_newline, SIZE_MAX);
	}
	return spaces_llama3(s, n);
}

/* Up to the next digit, or that digit alone. */
static size_t
word_digits(const char *s, size_t n)
{
	peek p = look(s, n);
	size_t at = p.length;

	if (llm_is_number(p.cp))
		return at;
	for (p = look(s + at, n - at); p.length > 0 && !llm_is_number(p.cp); p = look(s + at, n - at))
		at += p.length;
	return at;
}

/* ASCII symbols count as punctuation for BERT, beside category P. */
static bool
is_bert_punctuation(uint32_t cp)
{
	if (cp < 0x80)
		return (cp >= 33 && cp <= 47) || (cp >= 58 && cp <= 64) || (cp >= 91 && cp <= 96) ||
		       (cp >= 123 && cp <= 126);
	return llm_is_punctuation(cp);
}

/* Up to the next character that stop() wants alone, or that character. */
static size_t
word_until(const char *s, size_t n, class_fn stop)
{
	peek p = look(s, n);
	size_t at = p.length;

	if (stop(p.cp))
		return at;
	for (p = look(s + at, n - at); p.length > 0 && !stop(p.cp); p = look(s + at, n - at))
		at += p.length;
	return at;
}

/* White space or punctuation. */
static bool
is_bert_boundary(uint32_t cp)
{
	return llm_is_space(cp) || is_bert_punctuation(cp);
}

/* A ▁ and what follows it up to the next. */
static size_t
word_metaspace(const char *s, size_t n)
{
	peek p = look(s, n);
	size_t at = p.length;

	for (p = look(s + at, n - at); p.length > 0 && p.cp != 0x2581; p = look(s + at, n - at))
		at += p.length;
	return at;
}

/* The length of the word at the front of s, and whether it is dropped. */
static size_t
next_word(const tok_split *split, const char *s, size_t n, bool *drop)
{
	*drop = false;
	switch (split->kind)
	{
		case TOK_SPLIT_GPT2:
			return word_gpt2(s, n);
		case TOK_SPLIT_LLAMA3:
			return word_llama3(s, n, (size_t) split->arg);
		case TOK_SPLIT_DIGITS:
			return word_digits(s, n);
		case TOK_SPLIT_BERT:
			*drop = llm_is_space(look(s, n).cp);
			return word_until(s, n, is_bert_boundary);
		case TOK_SPLIT_WHITESPACE:
			*drop = llm_is_space(look(s, n).cp);
			return word_until(s, n, llm_is_space);
		case TOK_SPLIT_PUNCTUATION:
			return word_until(s, n, is_bert_punctuation);
		default:
			return word_metaspace(s, n);
	}
}

/* What an outer splitter passes to the one within. */
typedef struct level
{
	const llm_tokenizer *t;
	const char *text[TOK_STEPS_MAX + 1]; /* what is left on each level */
	size_t n[TOK_STEPS_MAX + 1];
} level;

/* Splits a text through all splitters, without recursion: one cursor a level. */
llm_status
tok_split_words(const llm_tokenizer *t, const char *text, size_t n, tok_word_fn fn, void *arg,
                llm_error *err)
{
	level l = {.t = t};
	uint32_t depth = 0;

	l.text[0] = text;
	l.n[0] = n;
	if (n == 0)
		return LLM_OK;
	if (t->n_splits == 0)
		return fn(arg, text, n, err);
	for (;;)
	{
		size_t length;
		bool drop;
		const char *word = l.text[depth];

		if (l.n[depth] == 0)
		{
			if (depth == 0)
				return LLM_OK;
			depth--;
			continue;
		}
		length = next_word(&t->splits[depth], word, l.n[depth], &drop);
		l.text[depth] += length;
		l.n[depth] -= length;
		if (drop)
			continue;
		if (depth + 1 < t->n_splits)
		{
			depth++;
			l.text[depth] = word;
			l.n[depth] = length;
		}
		else if (fn(arg, word, length, err) != LLM_OK)
			return err != NULL ? err->code : LLM_E_NOMEM;
	}
}
