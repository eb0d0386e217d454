/*
 * speql_repair.c: makes a runnable text of an unfinished one, without a model.
 *
 * A loop: close what is open, let the server check it, change one thing at the place of its error,
 * again. An error at the end of the text drops the last token (the parser has accepted every token
 * before it, being LALR); one inside is what the error's code says: a column goes to GROUP BY, a
 * name is completed or its table joined along a foreign key, or the list item, condition or join
 * around the error goes. Deletions shrink the text and additions are counted, so that it ends.
 *
 * No table is added to a block that may read its surroundings (a subquery): a name that it does not
 * know is rather a correlation.
 */
#include "speql.h"

#include "miscadmin.h"

#define MAX_CHECKS    80
#define MAX_ADDITIONS 16
#define MAX_BYTES     65536 /* of a text that is looked at */
#define MAX_DEPTH     100   /* of its brackets */
#define MAX_INNER     8     /* syntax errors mended inside the text before its rest is dropped */

/* Counts of one repair. */
typedef struct Progress
{
	int added;
	int inner;
} Progress;

/* Adds a remark to what was changed, once. */
static void
note(SpeqlRepair *r, const char *change)
{
	if (strstr(r->note.data, change) != NULL)
		return;
	if (r->note.len)
		appendStringInfoString(&r->note, "; ");
	appendStringInfoString(&r->note, change);
}

/* The text without comments and semicolons at its end, an open quote closed. */
static char *
strip(const char *text, SpeqlRepair *r)
{
	SpeqlTokens *t = speql_lex(text, strlen(text));
	char *body;

	while (t->n > 0 && t->tok[t->n - 1].punct == ';')
		t->n--;
	if (t->n == 0)
		return NULL;
	body = pnstrdup(text, t->tok[t->n - 1].end);
	if (!t->tok[t->n - 1].open)
		return body;
	note(r, "closed");
	return psprintf("%s%s", body, speql_closing_quote(t, &t->tok[t->n - 1]));
}

/*
 * The text with a keyword spelt right, at the error or just before it (what should be a keyword is
 * taken for an alias first); only if the grammar then gets further.
 */
static char *
fix_keyword(const SpeqlTokens *t, int k, const SpeqlCheck *check, int64 *budget, SpeqlRepair *r)
{
	for (int i = k; i >= 0 && i >= k - 1; i--)
		for (SpeqlKeyword near = speql_near_keyword(t, i, KW_NONE); near != KW_NONE;
		     near = speql_near_keyword(t, i, near))
		{
			const char *word = speql_keyword_name(near);
			char *next = speql_splice(t, t->tok[i].start, t->tok[i].end - t->tok[i].start, word);
			SpeqlCheck after;

			r->n_checks++;
			*budget -= strlen(next);
			speql_check(next, &after);
			if (after.parses || after.position < 0 || after.position > check->position + 1)
			{
				note(r, psprintf("corrected to %s", word));
				return next;
			}
		}
	return NULL;
}

/* Mends a syntax error at token k (t->n: at the end). */
static char *
fix_syntax(const SpeqlTokens *t, int k, const SpeqlCheck *check, int64 *budget, Progress *p,
           SpeqlRepair *r)
{
	char *next;

	if (k >= t->n)
	{
		note(r, "trimmed");
		return speql_drop_tail(t, 1);
	}
	next = fix_keyword(t, k, check, budget, r);
	if (next)
		return next;
	next = p->added < MAX_ADDITIONS ? speql_add_alias(t, k) : NULL;
	if (next)
	{
		p->added++;
		note(r, "subquery alias added");
		return next;
	}
	if (k == 0)
		return NULL;
	if (p->inner++ < MAX_INNER)
	{
		note(r, "unfinished part left out");
		return speql_drop_before(t, k);
	}
	note(r, "trimmed");
	return speql_drop_tail(t, t->n - k);
}

/* Drops a locking clause; what else is not a plain read cannot be mended. */
static char *
fix_read_only(const SpeqlTokens *t, SpeqlRepair *r)
{
	for (int i = 1; i < t->n; i++)
	{
		if (t->tok[i].keyword != KW_FOR || t->tok[i].depth != 0)
			continue;
		note(r, "row locks left out");
		return pnstrdup(t->text, t->tok[i - 1].end);
	}
	return NULL;
}

/*
 * The text with the call of a function at token k reduced to its arguments, when its bracket is
 * still open where the typed text ends: with these arguments there is no such function yet.
 */
static char *
unwrap_call(const SpeqlTokens *t, int k, int typed)
{
	int open = k + 1, match;

	if (t->tok[k].kind != TOK_WORD && t->tok[k].kind != TOK_QUOTED)
		return NULL; /* an operator */

	while (open + 1 < t->n && t->tok[open].punct == '.')
		open += 2;
	if (open >= t->n || t->tok[open].punct != '(')
		return NULL;
	match = t->tok[open].match;
	if (match < 0 || t->tok[match].start < typed || match == open + 1)
		return NULL;
	return speql_splice(t, t->tok[k].start, t->tok[open].start - t->tok[k].start, "");
}

/*
 * Mends an error of the analysis. It changes the text with its brackets closed, so that a clause
 * can be put behind them; NULL: nothing to change at the place of the error.
 */
static char *
fix_analysis(const SpeqlCheck *check, int typed, SpeqlBlockKind kind, Progress *p, SpeqlRepair *r)
{
	SpeqlTokens *t = speql_lex(r->sql, strlen(r->sql));
	int k = check->position < 0 ? -1 : speql_token_at(t, check->position);
	int sqlstate = check->sqlstate;
	char *next = NULL, *change = NULL;

	if (sqlstate == ERRCODE_NO_DATA)
	{
		int from = speql_clause(t, -1, KW_FROM, t->n);

		note(r, "select list filled");
		return from < 0 ? NULL : speql_splice(t, t->tok[from].start, 0, " * ");
	}
	if (k >= 0 && k < t->n && p->added < MAX_ADDITIONS)
	{
		if (sqlstate == ERRCODE_GROUPING_ERROR)
		{
			next = speql_group_by(t, k);
			change = "GROUP BY completed";
		}
		else if (sqlstate == ERRCODE_UNDEFINED_FUNCTION)
		{
			next = speql_correct_call(t, k, typed, &change);
			if (next == NULL)
			{
				next = unwrap_call(t, k, typed);
				change = "unfinished call reduced to its arguments";
			}
		}
		else if (sqlstate == ERRCODE_UNDEFINED_COLUMN || sqlstate == ERRCODE_UNDEFINED_TABLE)
			next = speql_resolve(t, k, sqlstate, kind, &change);
		if (next)
		{
			p->added++;
			note(r, change);
			return next;
		}
	}
	next = k >= 0 ? speql_delete_item(t, k) : NULL;
	if (next)
		note(r, "unfinished part left out");
	return next;
}

/* The change that an error asks for, or NULL. */
static char *
fix(const SpeqlTokens *t, const SpeqlCheck *check, SpeqlBlockKind kind, int64 *budget, Progress *p,
    SpeqlRepair *r)
{
	int k = check->position < 0 ? t->n : speql_token_at(t, check->position);
	char *next;

	if (check->sqlstate == ERRCODE_READ_ONLY_SQL_TRANSACTION)
		return fix_read_only(t, r);
	if (!check->parses)
		return fix_syntax(t, k, check, budget, p, r);
	next = fix_analysis(check, t->len, kind, p, r);
	return next ? next : fix_syntax(t, t->n, check, budget, p, r);
}

/*
 * True for a text that no one types. Beyond such bounds the server's own scanner and grammar are
 * quadratic and do not check for interrupts (a long run of + is enough).
 */
static bool
out_of_bounds(const SpeqlTokens *t)
{
	int run = 0; /* bytes of operators side by side */

	if (t->len > MAX_BYTES)
		return true;
	for (int i = 0; i < t->n; i++)
	{
		const SpeqlToken *tok = &t->tok[i];
		bool beside = i > 0 && tok[-1].end == tok->start;

		run = tok->kind != TOK_OP ? 0 : (beside ? run : 0) + tok->end - tok->start;
		if (run >= NAMEDATALEN || tok->depth > MAX_DEPTH)
			return true;
	}
	return false;
}

/* Repairs a text block by block. */
void
speql_repair(const char *text, SpeqlBlockKind kind, int64 *budget, SpeqlRepair *r)
{
	Progress p = {0, 0};
	SpeqlCheck check;
	char *body;

	memset(r, 0, sizeof(*r));
	initStringInfo(&r->note);
	if (out_of_bounds(speql_lex(text, strlen(text))))
	{
		note(r, "too large");
		return;
	}
	body = strip(text, r);
	while (body && *body && r->n_checks<MAX_CHECKS && * budget> 0)
	{
		SpeqlTokens *t = speql_lex(body, strlen(body));
		char *closers = speql_closers(t, kind == SPEQL_MAIN);

		CHECK_FOR_INTERRUPTS();
		r->sql = psprintf("%s%s", body, closers);
		r->n_checks++;
		*budget -= strlen(r->sql);
		speql_check(r->sql, &check);
		if (check.analyses)
		{
			if (*closers)
				note(r, "closed");
			r->valid = true;
			r->cross = check.cross;
			return;
		}
		body = fix(t, &check, kind, budget, &p, r);
	}
}
