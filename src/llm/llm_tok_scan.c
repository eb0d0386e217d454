/*
 * llm_tok_scan.c: the scanners of the pre-tokenizers, in place of the published regular
 * expressions.
 *
 * Each returns the length of the word at the front of a text, at least one character, looking ahead
 * by at most one character beyond the word: linear, without backtracking or recursion (regular
 * expression engines overflow their stacks on long runs). What the expressions' alternatives would
 * backtrack to is worked out in the comments.
 *
 * GPT-2:   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Llama-3 (Qwen2: \p{N}):
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *   |\s*[\r\n]+|\s+(?!\S)|\s+
 * Tekken, with U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and L = [\p{Ll}\p{Lm}\p{Lo}\p{M}]
 * (GPT-4o: \p{N}{1,3}, and a contraction behind the letters):
 *   [^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*
 *   |\s*[\r\n]+|\s+(?!\S)|\s+
 */
#include "llm_tok_internal.h"

typedef bool (*class_fn)(uint32_t cp);

/* The length of the run of a class at the front of s, at most max characters. */
static size_t
run_of(const char *s, size_t n, class_fn in, size_t max)
{
	size_t at = 0;
	size_t length;
	uint32_t cp;

	for (; max > 0 && (length = llm_utf8_peek(s + at, n - at, &cp)) > 0 && in(cp); max--)
		at += length;
	return at;
}

/* True when the character at the front of s is in a class. */
static bool
starts_with(const char *s, size_t n, class_fn in)
{
	uint32_t cp;

	return llm_utf8_peek(s, n, &cp) > 0 && in(cp);
}

/* Up to the next character that stop() wants alone, or that character. */
static size_t
until(const char *s, size_t n, class_fn stop)
{
	uint32_t cp;
	size_t at = llm_utf8_peek(s, n, &cp);
	size_t length;

	if (stop(cp))
		return at;
	while ((length = llm_utf8_peek(s + at, n - at, &cp)) > 0 && !stop(cp))
		at += length;
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

/* A line break, or the slash that Tekken keeps with it. */
static bool
is_newline_or_slash(uint32_t cp)
{
	return is_newline(cp) || cp == '/';
}

/* Neither line break, letter nor number: what may stand before the letters of a word. */
static bool
is_lead(uint32_t cp)
{
	return !is_newline(cp) && !llm_is_letter(cp) && !llm_is_number(cp);
}

/* ASCII symbols count as punctuation for BERT, beside category P. */
static bool
is_bert_punctuation(uint32_t cp)
{
	if (cp < 0x80)
		return cp > ' ' && cp < 0x7f && !llm_is_letter(cp) && !llm_is_number(cp);
	return llm_is_punctuation(cp);
}

/* White space or punctuation. */
static bool
is_bert_boundary(uint32_t cp)
{
	return llm_is_space(cp) || is_bert_punctuation(cp);
}

/* Neither white space nor of a word. */
static bool
is_between_words(uint32_t cp)
{
	return !llm_is_space(cp) && !llm_is_word(cp);
}

/* U+2581, ▁. */
static bool
is_metaspace(uint32_t cp)
{
	return cp == 0x2581;
}

/* Any other character. */
static bool
is_not_metaspace(uint32_t cp)
{
	return cp != 0x2581;
}

/* U+0020. */
static bool
is_blank(uint32_t cp)
{
	return cp == ' ';
}

/* The length of an English contraction at the front of s, 0 if there is none. */
static size_t
contraction(const char *s, size_t n, bool any_case)
{
	char lower = any_case ? 0x20 : 0; /* sets the bit that makes an ASCII letter a small one */
	char a;
	char b;

	if (n < 2 || s[0] != '\'')
		return 0;
	a = (char) (s[1] | lower);
	b = n > 2 ? (char) (s[2] | lower) : '\0';
	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return 2;
	if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
		return 3;
	/* U+017F, the long s, folds to s: (?i:'s) matches it. */
	return any_case && n > 2 && memcmp(s + 1, "\xc5\xbf", 2) == 0 ? 3 : 0;
}

/*
 * \s+(?!\S)|\s+: a run of white space, but for its last character when something follows; that one
 * belongs to what follows, unless it is all there is.
 */
static size_t
spaces(const char *s, size_t n)
{
	size_t at = run_of(s, n, llm_is_space, SIZE_MAX);
	size_t last = at > 0 ? llm_utf8_last(s, at) : 0;

	return at < n && last > 0 ? last : at;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+: up to the last line break of the run if there is one. */
static size_t
spaces_or_newlines(const char *s, size_t n)
{
	size_t at = run_of(s, n, llm_is_space, SIZE_MAX);

	while (at > 0 && !is_newline((unsigned char) s[at - 1]))
		at--;
	return at > 0 ? at : spaces(s, n);
}

/* One word by GPT-2's rule. */
static size_t
word_gpt2(const char *s, size_t n)
{
	size_t length = contraction(s, n, false);
	size_t space = s[0] == ' ' ? 1 : 0;

	if (length > 0)
		return length;
	if ((length = run_of(s + space, n - space, llm_is_letter, SIZE_MAX)) > 0 ||
	    (length = run_of(s + space, n - space, llm_is_number, SIZE_MAX)) > 0 ||
	    (length = run_of(s + space, n - space, is_other, SIZE_MAX)) > 0)
		return space + length;
	return spaces(s, n);
}

/* What Llama-3's rule and its kin share, behind the letters: numbers, symbols, white space. */
static size_t
word_rest(const char *s, size_t n, size_t digits, class_fn tail)
{
	size_t space = s[0] == ' ' ? 1 : 0;
	size_t length = run_of(s, n, llm_is_number, digits);

	if (length > 0)
		return length;
	if ((length = run_of(s + space, n - space, is_other, SIZE_MAX)) == 0)
		return spaces_or_newlines(s, n);
	length += space;
	return length + run_of(s + length, n - length, tail, SIZE_MAX);
}

/* One word by the rule of Llama-3 (3 digits) and Qwen2 (1). */
static size_t
word_llama3(const char *s, size_t n, size_t digits)
{
	size_t length = contraction(s, n, true);
	uint32_t cp;
	size_t first = llm_utf8_peek(s, n, &cp);
	size_t lead = is_lead(cp) ? first : 0;

	if (length > 0)
		return length;
	if ((length = run_of(s + lead, n - lead, llm_is_letter, SIZE_MAX)) > 0)
		return lead + length;
	return word_rest(s, n, digits, is_newline);
}

/*
 * U*L+: where a small letter follows the run of U, that and its run. Else U* gives back characters
 * until one of them is in L: the last such one of the run, alone, since no L follows it.
 */
static size_t
upper_then_lower(const char *s, size_t n)
{
	size_t upper = 0;
	size_t last = 0; /* end of the last character of the run that is in L, too */
	size_t lower;
	size_t length;
	uint32_t cp;

	while ((length = llm_utf8_peek(s + upper, n - upper, &cp)) > 0 && llm_is_upper_like(cp))
	{
		upper += length;
		last = llm_is_lower_like(cp) ? upper : last;
	}
	lower = run_of(s + upper, n - upper, llm_is_lower_like, SIZE_MAX);
	return lower > 0 ? upper + lower : last;
}

/* U+L*: comes to a turn where U*L+ fails, so nothing of L follows. */
static size_t
upper_run(const char *s, size_t n)
{
	return run_of(s, n, llm_is_upper_like, SIZE_MAX);
}

/* One word by the rule of Tekken and GPT-4o. */
static size_t
word_tekken(const char *s, size_t n, size_t digits, bool contractions)
{
	uint32_t cp;
	size_t first = llm_utf8_peek(s, n, &cp);
	size_t lead = is_lead(cp) ? first : 0;
	size_t length = 0;

	if ((length = upper_then_lower(s + lead, n - lead)) > 0)
		length += lead;
	else if (lead > 0 && (length = upper_then_lower(s, n)) > 0)
		; /* the lead is a mark, and a word of its own */
	else if ((length = upper_run(s + lead, n - lead)) > 0)
		length += lead;
	else
		return word_rest(s, n, digits, is_newline_or_slash);
	return length + (contractions ? contraction(s + length, n - length, true) : 0);
}

/* A ▁ or any other character, and what follows up to the next ▁. */
static size_t
word_metaspace(const char *s, size_t n)
{
	uint32_t cp;
	size_t at = llm_utf8_peek(s, n, &cp);

	return at + run_of(s + at, n - at, is_not_metaspace, SIZE_MAX);
}

/* A run of ▁ and what follows up to the next run. */
static size_t
word_before_run(const char *s, size_t n)
{
	size_t at = run_of(s, n, is_metaspace, SIZE_MAX);

	return at + run_of(s + at, n - at, is_not_metaspace, SIZE_MAX);
}

/* A word and the space behind it. */
static size_t
word_behind_space(const char *s, size_t n)
{
	size_t at = until(s, n, is_blank);

	return s[0] != ' ' && at < n ? at + 1 : at;
}

/* The word at the front of s by a splitter's rule. */
size_t
tok_scan_word(const tok_split *split, const char *s, size_t n, bool *drop)
{
	*drop = false;
	switch (split->kind)
	{
		case TOK_SPLIT_GPT2:
			return word_gpt2(s, n);
		case TOK_SPLIT_LLAMA3:
			return word_llama3(s, n, split->digits);
		case TOK_SPLIT_TEKKEN:
			return word_tekken(s, n, split->digits, split->contractions);
		case TOK_SPLIT_DIGITS:
			return starts_with(s, n, llm_is_number) ? run_of(s, n, llm_is_number, split->digits)
			                                        : until(s, n, llm_is_number);
		case TOK_SPLIT_BERT:
			*drop = starts_with(s, n, llm_is_space);
			return until(s, n, is_bert_boundary);
		case TOK_SPLIT_WHITESPACE:
			*drop = starts_with(s, n, llm_is_space);
			return until(s, n, llm_is_space);
		case TOK_SPLIT_WORDS:
			*drop = starts_with(s, n, llm_is_space);
			if (*drop)
				return until(s, n, llm_is_space);
			return starts_with(s, n, llm_is_word) ? run_of(s, n, llm_is_word, SIZE_MAX)
			                                      : run_of(s, n, is_between_words, SIZE_MAX);
		case TOK_SPLIT_PUNCTUATION:
			return until(s, n, is_bert_punctuation);
		case TOK_SPLIT_BEHIND_SPACE:
			return word_behind_space(s, n);
		case TOK_SPLIT_METASPACE:
			return word_metaspace(s, n);
		case TOK_SPLIT_BEFORE_RUN:
			return word_before_run(s, n);
		default:
			return n;
	}
}
