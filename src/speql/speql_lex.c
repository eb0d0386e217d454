/*
 * speql_lex.c: the tolerant lexer. The rules are those of the server's scan.l (identifiers with
 * bytes ≥ 0x80, nested comments, operators that end before -- and slash-star, doubled quotes,
 * backslashes in E strings), with an end of text allowed anywhere.
 *
 * Two passes, each linear: split, then match brackets with a stack.
 */
#include "speql_lex.h"

#include "storage/shmem.h"
#include "utils/memutils.h"

static const char *const keyword_names[] = {
#define SPEQL_KW_NAME(word) #word,
    SPEQL_KEYWORDS(SPEQL_KW_NAME)
#undef SPEQL_KW_NAME
};

/* A keyword's word. */
const char *
speql_keyword_name(SpeqlKeyword keyword)
{
	return keyword_names[keyword - 1];
}

/* State of one run over a text. */
typedef struct Lexer
{
	SpeqlTokens *out;
	int pos;
	int capacity;
} Lexer;

/* The byte at an offset from the position; 0 after the end. */
static unsigned char
peek(const Lexer *lx, int ahead)
{
	int64 at = (int64) lx->pos + ahead;

	return at < lx->out->len ? (unsigned char) lx->out->text[at] : 0;
}

/* True for a byte that can begin an identifier. */
static bool
ident_start(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80;
}

/* True for a byte that can continue an identifier. */
static bool
ident_part(unsigned char c)
{
	return ident_start(c) || (c >= '0' && c <= '9') || c == '$';
}

/* True for a decimal digit. */
static bool
digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

/* True for a byte that can stand in an operator. */
static bool
op_part(unsigned char c)
{
	return c != 0 && strchr("+-*/<>=~!@#%^&|`?", c) != NULL;
}

/* The keyword that a word is, in any case of letters. */
static SpeqlKeyword
keyword_of(const char *word, int len)
{
	int low = 0, high = KW_N - 2;

	while (low <= high)
	{
		int mid = (low + high) / 2;
		int order = pg_strncasecmp(word, keyword_names[mid], len);

		if (order == 0 && keyword_names[mid][len] != '\0')
			order = -1;
		if (order == 0)
			return (SpeqlKeyword) (mid + 1);
		if (order < 0)
			high = mid - 1;
		else
			low = mid + 1;
	}
	return KW_NONE;
}

/* Adds a token that ends at the position. */
static SpeqlToken *
add_token(Lexer *lx, SpeqlTokenKind kind, int start)
{
	SpeqlTokens *t = lx->out;
	SpeqlToken *tok;

	if (t->n == lx->capacity)
	{
		lx->capacity *= 2;
		t->tok = repalloc_huge(t->tok, mul_size(lx->capacity, sizeof(SpeqlToken)));
	}
	tok = &t->tok[t->n++];
	memset(tok, 0, sizeof(*tok));
	tok->start = start;
	tok->end = lx->pos;
	tok->kind = kind;
	tok->match = -1;
	return tok;
}

/* Skips a comment or blanks; false when something else stands here. */
static bool
skip_blank(Lexer *lx)
{
	int start = lx->pos, depth = 0;

	if (strchr(" \t\n\r\f\v", peek(lx, 0)) != NULL && lx->pos < lx->out->len)
	{
		lx->pos++;
		return true;
	}
	if (peek(lx, 0) == '-' && peek(lx, 1) == '-')
	{
		while (lx->pos < lx->out->len && peek(lx, 0) != '\n' && peek(lx, 0) != '\r')
			lx->pos++;
		return true;
	}
	if (peek(lx, 0) != '/' || peek(lx, 1) != '*')
		return false;
	for (; lx->pos < lx->out->len; lx->pos++)
	{
		int step = peek(lx, 0) == '/' && peek(lx, 1) == '*'   ? 1
		           : peek(lx, 0) == '*' && peek(lx, 1) == '/' ? -1
		                                                      : 0;

		depth += step;
		lx->pos += step != 0;
		if (step < 0 && depth == 0)
		{
			lx->pos++;
			return true;
		}
	}
	lx->pos = lx->out->len;
	lx->out->open_comment = start;
	return true;
}

/* A quoted token whose opening quote stands `prefix` bytes further. */
static void
lex_quoted(Lexer *lx, int prefix, bool escapes)
{
	int start = lx->pos;
	unsigned char quote = peek(lx, prefix);
	SpeqlTokenKind kind = quote == '"' ? TOK_QUOTED : TOK_STRING;

	for (lx->pos += prefix + 1; lx->pos < lx->out->len; lx->pos++)
	{
		if (escapes && peek(lx, 0) == '\\')
			lx->pos++;
		else if (peek(lx, 0) == quote && peek(lx, 1) == quote)
			lx->pos++;
		else if (peek(lx, 0) == quote)
		{
			lx->pos++;
			add_token(lx, kind, start);
			return;
		}
	}
	lx->pos = lx->out->len;
	add_token(lx, kind, start)->open = true;
}

/* $1, $tag$…$tag$, or a lone $. */
static void
lex_dollar(Lexer *lx)
{
	int start = lx->pos, tag = 1;

	if (digit(peek(lx, 1)))
	{
		for (lx->pos++; digit(peek(lx, 0));)
			lx->pos++;
		add_token(lx, TOK_PARAM, start);
		return;
	}
	while (ident_part(peek(lx, tag)) && peek(lx, tag) != '$')
		tag++;
	if (peek(lx, tag++) != '$')
	{
		lx->pos++;
		add_token(lx, TOK_PUNCT, start)->punct = '$';
		return;
	}
	for (lx->pos += tag; lx->pos + tag <= lx->out->len; lx->pos++)
	{
		/* The tag holds no $ inside, so that comparing at each $ stays linear. */
		if (peek(lx, 0) == '$' && memcmp(lx->out->text + lx->pos, lx->out->text + start, tag) == 0)
		{
			lx->pos += tag;
			add_token(lx, TOK_STRING, start);
			return;
		}
	}
	lx->pos = lx->out->len;
	add_token(lx, TOK_STRING, start)->open = true;
}

/* A word, or a string with a letter before its quote. */
static void
lex_word(Lexer *lx)
{
	int start = lx->pos;
	unsigned char c = pg_tolower(peek(lx, 0));

	if (c == 'u' && peek(lx, 1) == '&' && (peek(lx, 2) == '\'' || peek(lx, 2) == '"'))
	{
		lex_quoted(lx, 2, false);
		return;
	}
	if (peek(lx, 1) == '\'' && strchr("ebxn", c) != NULL)
	{
		lex_quoted(lx, 1, c == 'e');
		return;
	}
	while (ident_part(peek(lx, 0)))
		lx->pos++;
	add_token(lx, TOK_WORD, start)->keyword = keyword_of(lx->out->text + start, lx->pos - start);
}

/*
 * Digits, a fraction, an exponent. Letters that follow belong to it, as junk that the parser names.
 */
static void
lex_number(Lexer *lx)
{
	int start = lx->pos;

	while (digit(peek(lx, 0)))
		lx->pos++;
	if (peek(lx, 0) == '.' && peek(lx, 1) != '.')
		for (lx->pos++; digit(peek(lx, 0));)
			lx->pos++;
	if ((peek(lx, 0) == 'e' || peek(lx, 0) == 'E') &&
	    (digit(peek(lx, 1)) || ((peek(lx, 1) == '-' || peek(lx, 1) == '+') && digit(peek(lx, 2)))))
		for (lx->pos += 2; digit(peek(lx, 0));)
			lx->pos++;
	while (ident_part(peek(lx, 0)))
		lx->pos++;
	add_token(lx, TOK_NUMBER, start);
}

/* An operator, which ends where a comment begins. */
static void
lex_operator(Lexer *lx)
{
	int start = lx->pos, special, end;

	do
		lx->pos++;
	while (op_part(peek(lx, 0)) && !(peek(lx, 0) == '-' && peek(lx, 1) == '-') &&
	       !(peek(lx, 0) == '/' && peek(lx, 1) == '*'));
	/* As in scan.l: + and - end an operator only if one of these stands before them. */
	for (special = start; special < lx->pos; special++)
		if (strchr("~!@#^&|`?%", lx->out->text[special]) != NULL)
			break;
	end = lx->pos;
	while (lx->pos - start > 1 && special >= lx->pos - 1 &&
	       strchr("+-", lx->out->text[lx->pos - 1]) != NULL)
		lx->pos--;
	add_token(lx, TOK_OP, start);
	/* What is left of the run are signs, each an operator of its own; not scanned again. */
	while (lx->pos < end)
	{
		lx->pos++;
		add_token(lx, TOK_OP, lx->pos - 1);
	}
}

/* One token at the position. */
static void
lex_one(Lexer *lx)
{
	unsigned char c = peek(lx, 0), next = peek(lx, 1);
	int start = lx->pos;

	if (ident_start(c))
		lex_word(lx);
	else if (c == '\'' || c == '"')
		lex_quoted(lx, 0, false);
	else if (digit(c) || (c == '.' && digit(next)))
		lex_number(lx);
	else if (c == '$')
		lex_dollar(lx);
	else if ((c == ':' && (next == ':' || next == '=')) || (c == '=' && next == '>'))
	{
		lx->pos += 2;
		add_token(lx, TOK_OP, start);
	}
	else if (op_part(c))
		lex_operator(lx);
	else
	{
		lx->pos++;
		add_token(lx, TOK_PUNCT, start)->punct = (char) c;
	}
}

/* What a token opens. */
bool
speql_opens(const SpeqlToken *tok)
{
	return tok->punct == '(' || tok->punct == '[' || tok->keyword == KW_CASE;
}

/* True when b closes what a opens. */
static bool
closes(const SpeqlToken *a, const SpeqlToken *b)
{
	return (a->punct == '(' && b->punct == ')') || (a->punct == '[' && b->punct == ']') ||
	       (a->keyword == KW_CASE && b->keyword == KW_END);
}

/* Matches brackets and tells the AND of BETWEEN. A closer that closes nothing is left alone. */
static void
match_brackets(SpeqlTokens *t)
{
	int *stack = palloc_extended(mul_size(t->n + 1, sizeof(int)), MCXT_ALLOC_HUGE);
	/* Conditions wait for their AND at each depth; counted at the opener of that depth. */
	int *between = palloc_extended(mul_size(t->n + 1, sizeof(int)), MCXT_ALLOC_HUGE);
	int depth = 0;

	between[0] = 0;
	for (int i = 0; i < t->n; i++)
	{
		SpeqlToken *tok = &t->tok[i];

		if (depth > 0 && closes(&t->tok[stack[depth - 1]], tok))
		{
			depth--;
			tok->match = stack[depth];
			t->tok[stack[depth]].match = i;
		}
		tok->depth = depth;
		if (tok->keyword == KW_BETWEEN)
			between[depth]++;
		else if (tok->keyword == KW_AND && between[depth] > 0)
		{
			tok->between = true;
			between[depth]--;
		}
		if (speql_opens(tok))
		{
			stack[depth++] = i;
			between[depth] = 0;
		}
	}
	pfree(stack);
	pfree(between);
}

/* Cuts any text into tokens; never fails. */
SpeqlTokens *
speql_lex(const char *text, int len)
{
	SpeqlTokens *t = palloc0(sizeof(SpeqlTokens));
	Lexer lx = {.out = t, .pos = 0, .capacity = 64};

	t->text = text;
	t->len = len;
	t->open_comment = -1;
	t->tok = palloc(lx.capacity * sizeof(SpeqlToken));
	while (lx.pos < len)
	{
		if (!skip_blank(&lx))
			lex_one(&lx);
	}
	match_brackets(t);
	return t;
}

/* Finds the token at a byte position. */
int
speql_token_at(const SpeqlTokens *t, int offset)
{
	int low = 0, high = t->n;

	while (low < high)
	{
		int mid = (low + high) / 2;

		if (t->tok[mid].end > offset)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/* What would close an unterminated token. */
char *
speql_closing_quote(const SpeqlTokens *t, const SpeqlToken *tok)
{
	const char *s = t->text + tok->start;
	const char *end;
	int n_backslashes = 0;

	if (*s == '$')
	{
		end = memchr(s + 1, '$', tok->end - tok->start - 1);
		return pnstrdup(s, end - s + 1);
	}
	if (tok->kind == TOK_QUOTED)
		return pstrdup(tok->end - tok->start > 1 ? "\"" : "_\"");
	/* A lone backslash at the end of E'…' would swallow the quote: double it. */
	for (int i = tok->end - 1; i > tok->start && pg_tolower((unsigned char) *s) == 'e'; i--)
	{
		if (t->text[i] != '\\')
			break;
		n_backslashes++;
	}
	return pstrdup(n_backslashes % 2 ? "\\'" : "'");
}
