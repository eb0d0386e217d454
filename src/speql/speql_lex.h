/*
 * speql_lex.h: tokens of unfinished SQL.
 *
 * The server's scanner raises an error at an open quote or comment. A text that someone is typing
 * is full of them, so that this one never fails: whatever the bytes are, the tokens tile the text
 * (comments and blanks lie between them), the cost is linear, and what is left open is marked.
 *
 *		SpeqlTokens *t = speql_lex(text, strlen(text));
 *		for (int i = 0; i < t->n; i++) ... t->tok[i].start, .end, .kind
 *
 * Memory: one array in the current context. The text is not copied and must stay.
 */
#ifndef SPEQL_LEX_H
#define SPEQL_LEX_H

#include "postgres.h"

/* The keywords that shape a query; all others are words. In alphabetic order: found by bsearch. */
/* clang-format off */
#define SPEQL_KEYWORDS(X) \
	X(ALL) X(AND) X(ANY) X(AS) X(ASC) X(BETWEEN) X(BY) X(CASE) X(CROSS) X(DESC) X(DISTINCT) \
	X(ELSE) X(END) X(ESCAPE) X(EXCEPT) X(EXISTS) X(FETCH) X(FILTER) X(FOR) X(FROM) X(FULL) \
	X(GROUP) X(HAVING) X(ILIKE) X(IN) X(INNER) X(INTERSECT) X(INTO) X(IS) X(JOIN) X(LATERAL) \
	X(LEFT) X(LIKE) X(LIMIT) X(MATERIALIZED) X(NATURAL) X(NOT) X(OFFSET) X(ON) X(ONLY) X(OR) \
	X(ORDER) X(OUTER) X(OVER) X(PARTITION) X(RECURSIVE) X(RIGHT) X(SELECT) X(SIMILAR) \
	X(TABLE) X(THEN) X(UNION) X(USING) X(VALUES) X(WHEN) X(WHERE) X(WINDOW) X(WITH)
/* clang-format on */

typedef enum SpeqlKeyword
{
	KW_NONE,
#define SPEQL_KW_ENUM(word) KW_##word,
	SPEQL_KEYWORDS(SPEQL_KW_ENUM)
#undef SPEQL_KW_ENUM
	KW_N
} SpeqlKeyword;

typedef enum SpeqlTokenKind
{
	TOK_WORD,   /* identifier or keyword */
	TOK_QUOTED, /* "identifier" */
	TOK_STRING, /* '…', E'…', B'…', X'…', N'…', U&'…', $tag$…$tag$ */
	TOK_NUMBER,
	TOK_PARAM, /* $1 */
	TOK_OP,    /* operator, also :: := => */
	TOK_PUNCT  /* ( ) [ ] , ; . : and any byte that fits nowhere */
} SpeqlTokenKind;

typedef struct SpeqlToken
{
	int start; /* byte offset */
	int end;   /* offset after the last byte */
	int depth; /* brackets open around it; an opener and its closer have the same */
	int match; /* the other bracket, or −1. CASE and END count as brackets */
	SpeqlTokenKind kind;
	SpeqlKeyword keyword; /* KW_NONE unless kind is TOK_WORD */
	char punct;           /* the byte when kind is TOK_PUNCT, else 0 */
	bool open;            /* a quote that the text does not close; only the last token can be */
	bool between;         /* AND that belongs to a BETWEEN */
} SpeqlToken;

typedef struct SpeqlTokens
{
	const char *text;
	int len;
	int n;
	SpeqlToken *tok;  /* [n] */
	int open_comment; /* offset where a comment starts that the text does not close, or −1 */
} SpeqlTokens;

/* The word of a keyword (not KW_NONE), in capitals. */
extern const char *speql_keyword_name(SpeqlKeyword keyword);

extern SpeqlTokens *speql_lex(const char *text, int len);

/* The first token that ends after an offset; n if there is none. */
extern int speql_token_at(const SpeqlTokens *t, int offset);

/* True for the opener of a bracket: ( [ CASE. */
extern bool speql_opens(const SpeqlToken *tok);

/* What must follow an open token to end it: ' or " or $tag$. */
extern char *speql_closing_quote(const SpeqlTokens *t, const SpeqlToken *tok);

#endif /* SPEQL_LEX_H */
