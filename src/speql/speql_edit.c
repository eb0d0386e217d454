/*
 * speql_edit.c: changes of a text, each found from its tokens and the place of an error.
 *
 * A text is never changed in place: every edit returns a new one, or NULL where it does not apply.
 * "Level" is the query that a token stands in: the statement, or a SELECT in brackets; items and
 * clauses are those of one level, and what stands in deeper brackets belongs to its item.
 */
#include "speql.h"

/* Replaces a stretch of text by another. */
char *
speql_splice(const SpeqlTokens *t, int at, int n, const char *piece)
{
	StringInfoData s;

	initStringInfo(&s);
	appendBinaryStringInfo(&s, t->text, at);
	appendStringInfoString(&s, piece);
	appendBinaryStringInfo(&s, t->text + at + n, t->len - at - n);
	return s.data;
}

/* The text without tokens [from, to), a blank in their place; their comments go with them. */
static char *
cut(const SpeqlTokens *t, int from, int to, const char *instead)
{
	int start = t->tok[from].start;
	int end = to < t->n ? t->tok[to].start : t->len;

	return speql_splice(t, start, end - start, psprintf("%s ", instead));
}

/* The keyword of a token, KW_NONE beyond the ends. */
static SpeqlKeyword
kw(const SpeqlTokens *t, int k)
{
	return k >= 0 && k < t->n ? t->tok[k].keyword : KW_NONE;
}

/* The punctuation of a token, 0 beyond the ends. */
static char
punct(const SpeqlTokens *t, int k)
{
	return k >= 0 && k < t->n ? t->tok[k].punct : 0;
}

/* True if a query begins at a token. */
static bool
begins_query(const SpeqlTokens *t, int k)
{
	return kw(t, k) == KW_SELECT || kw(t, k) == KW_WITH || kw(t, k) == KW_VALUES ||
	       kw(t, k) == KW_TABLE;
}

/* True for an opener that begins a subquery in a FROM list. */
static bool
opens_from_item(const SpeqlTokens *t, int k)
{
	int opener, from;

	if (punct(t, k) != '(' || !begins_query(t, k + 1))
		return false;
	if (kw(t, k - 1) == KW_FROM || kw(t, k - 1) == KW_JOIN || kw(t, k - 1) == KW_LATERAL)
		return true;
	if (punct(t, k - 1) != ',')
		return false;
	opener = speql_level(t, k);
	from = speql_clause(t, opener, KW_FROM, k);
	if (from < 0 || from > k)
		return false;
	for (int i = from; i < k; i++)
		if (t->tok[i].depth == t->tok[from].depth &&
		    (kw(t, i) == KW_WHERE || kw(t, i) == KW_GROUP || kw(t, i) == KW_ORDER ||
		     kw(t, i) == KW_HAVING))
			return false;
	return t->tok[k].depth == t->tok[from].depth;
}

/* The nesting level of a token. */
int
speql_level(const SpeqlTokens *t, int k)
{
	int depth = k < t->n ? t->tok[k].depth : PG_INT32_MAX;

	for (int i = Min(k, t->n) - 1; i >= 0; i--)
	{
		const SpeqlToken *tok = &t->tok[i];

		/* An opener not closed before k encloses it. */
		if (!speql_opens(tok) || tok->depth >= depth || (tok->match >= 0 && tok->match < k))
			continue;
		depth = tok->depth;
		if (tok->punct == '(' && begins_query(t, i + 1))
			return i;
	}
	return -1;
}

/* The depth of the tokens right inside a level. */
static int
depth_in(const SpeqlTokens *t, int opener)
{
	return opener < 0 ? 0 : t->tok[opener].depth + 1;
}

/* The token after the last one of a level. */
static int
level_close(const SpeqlTokens *t, int opener)
{
	return opener < 0 || t->tok[opener].match < 0 ? t->n : t->tok[opener].match;
}

/* True for the keywords between operands of set operations. */
static bool
is_set_operation(SpeqlKeyword keyword)
{
	return keyword == KW_UNION || keyword == KW_EXCEPT || keyword == KW_INTERSECT;
}

/* The token that ends the level that a token is on. */
int
speql_level_end(const SpeqlTokens *t, int opener, int from)
{
	int depth = depth_in(t, opener), end = level_close(t, opener);

	for (int i = Max(from, 0); i < end; i++)
		if (t->tok[i].depth == depth && (is_set_operation(kw(t, i)) || punct(t, i) == ';'))
			return i;
	return end;
}

/* Finds the clause that a token belongs to. */
int
speql_clause(const SpeqlTokens *t, int opener, SpeqlKeyword keyword, int near)
{
	int depth = depth_in(t, opener), start = opener + 1;
	int end = speql_level_end(t, opener, near);

	/* The operand of the set operation around `near`. */
	for (int i = opener + 1; i < near && i < t->n; i++)
		if (t->tok[i].depth == depth && is_set_operation(kw(t, i)))
			start = i + 1;
	for (int i = start; i < end; i++)
		if (t->tok[i].depth == depth && kw(t, i) == keyword &&
		    !(keyword == KW_FROM && kw(t, i - 1) == KW_DISTINCT && kw(t, i - 2) != KW_SELECT))
			return i;
	return -1;
}

/* True when the text ends in a token that something must follow. */
bool
speql_dangles(const SpeqlTokens *t, int k)
{
	const SpeqlToken *tok = &t->tok[k];

	if (tok->kind == TOK_OP)
		/* A star ends "SELECT *", "count(*" and "t.*". */
		return !(t->text[tok->start] == '*' && tok->end == tok->start + 1 &&
		         (k == 0 || punct(t, k - 1) == ',' || punct(t, k - 1) == '.' ||
		          punct(t, k - 1) == '(' || kw(t, k - 1) == KW_SELECT ||
		          kw(t, k - 1) == KW_DISTINCT || kw(t, k - 1) == KW_ALL));
	if (tok->kind == TOK_PUNCT)
		return tok->punct != ')' && tok->punct != ']';
	if (tok->kind != TOK_WORD || tok->keyword == KW_NONE)
		return false;
	switch (tok->keyword)
	{
		case KW_END:
		case KW_ASC:
		case KW_DESC:
		case KW_ALL:
		case KW_ONLY:
		case KW_MATERIALIZED:
		case KW_VALUES:
			return false;
		default:
			return true;
	}
}

/* Closes one bracket. */
static void
close_bracket(const SpeqlTokens *t, int k, StringInfo out)
{
	if (t->tok[k].keyword == KW_CASE)
		appendStringInfoString(out, " END");
	else
		appendStringInfoString(out, t->tok[k].punct == '[' ? "]" : ")");
	if (opens_from_item(t, k))
		appendStringInfo(out, " AS q%d", k);
}

/* The name of the last WITH item of a statement that has no main SELECT yet, or NULL. */
static char *
last_cte(const SpeqlTokens *t)
{
	int name = -1;

	if (kw(t, 0) != KW_WITH)
		return NULL;
	for (int i = 1; i < t->n; i++)
	{
		if (t->tok[i].depth > 0)
			continue;
		if (kw(t, i) == KW_SELECT || kw(t, i) == KW_VALUES || kw(t, i) == KW_TABLE)
			return NULL;
		if (t->tok[i].kind <= TOK_QUOTED &&
		    (i == 1 || punct(t, i - 1) == ',' || kw(t, i - 1) == KW_RECURSIVE) &&
		    kw(t, i) != KW_RECURSIVE)
			name = i;
	}
	if (name < 0)
		return NULL;
	return pnstrdup(t->text + t->tok[name].start, t->tok[name].end - t->tok[name].start);
}

/* What closes the brackets and quotes that are open. */
char *
speql_closers(const SpeqlTokens *t, bool end_with)
{
	StringInfoData out;
	char *cte = end_with ? last_cte(t) : NULL;
	int depth = t->n ? PG_INT32_MAX : 0;

	initStringInfo(&out);
	for (int i = t->n - 1; i >= 0; i--)
	{
		if (!speql_opens(&t->tok[i]) || t->tok[i].match >= 0 || t->tok[i].depth >= depth)
			continue;
		depth = t->tok[i].depth;
		close_bracket(t, i, &out);
	}
	if (cte)
		appendStringInfo(&out, " SELECT * FROM %s", cte);
	return out.data;
}

/* Drops tokens from the end. */
char *
speql_drop_tail(const SpeqlTokens *t, int n_tokens)
{
	int n = t->n - n_tokens;

	while (n > 0 && speql_dangles(t, n - 1))
		n--;
	return n > 0 ? pnstrdup(t->text, t->tok[n - 1].end) : NULL;
}

/* Drops tokens before a position. */
char *
speql_drop_before(const SpeqlTokens *t, int k)
{
	int from = k;

	while (from > 1 && speql_dangles(t, from - 1) && kw(t, from - 1) != KW_SELECT &&
	       !speql_opens(&t->tok[from - 1]))
		from--;
	if (from < k)
		return cut(t, from, k, "");
	if (kw(t, k - 1) == KW_SELECT && kw(t, k) == KW_FROM)
		return speql_splice(t, t->tok[k].start, 0, "* ");
	return cut(t, k, k + 1, "");
}

/* True for a keyword that begins a join inside a FROM clause. */
static bool
begins_join(SpeqlKeyword keyword)
{
	switch (keyword)
	{
		case KW_JOIN:
		case KW_LEFT:
		case KW_RIGHT:
		case KW_FULL:
		case KW_INNER:
		case KW_CROSS:
		case KW_NATURAL:
		case KW_OUTER:
			return true;
		default:
			return false;
	}
}

/* True for a keyword that begins a clause, and so ends an item. */
static bool
begins_clause(SpeqlKeyword keyword)
{
	switch (keyword)
	{
		case KW_SELECT:
		case KW_FROM:
		case KW_WHERE:
		case KW_GROUP:
		case KW_HAVING:
		case KW_WINDOW:
		case KW_ORDER:
		case KW_LIMIT:
		case KW_OFFSET:
		case KW_FETCH:
		case KW_FOR:
		case KW_VALUES:
		case KW_WITH:
			return true;
		default:
			return is_set_operation(keyword);
	}
}

/* True if a token separates items of its level. */
static bool
separates(const SpeqlTokens *t, int k)
{
	SpeqlKeyword keyword = kw(t, k);

	if (keyword == KW_FROM && kw(t, k - 1) == KW_DISTINCT && kw(t, k - 2) != KW_SELECT)
		return false; /* IS DISTINCT FROM */
	if (begins_join(keyword) && punct(t, k + 1) == '(')
		return false; /* left(…), right(…) */
	return punct(t, k) == ',' || punct(t, k) == ';' || keyword == KW_BY || keyword == KW_ON ||
	       keyword == KW_DISTINCT || keyword == KW_OR ||
	       (keyword == KW_AND && !t->tok[k].between) || begins_join(keyword) ||
	       begins_clause(keyword);
}

/* Deletes the join whose table or condition stands between two separators. */
static char *
delete_join(const SpeqlTokens *t, int left, int depth, int end)
{
	int from = left, to = left + 1;

	while (from > 0 && !begins_join(kw(t, from)))
		from--;
	while (begins_join(kw(t, from - 1)))
		from--;
	for (to = Max(to, from + 1); to < end; to++)
	{
		SpeqlKeyword keyword = kw(t, to);

		if (t->tok[to].depth != depth || begins_join(kw(t, to - 1)))
			continue;
		if (begins_clause(keyword) || begins_join(keyword) || punct(t, to) == ',')
			break;
	}
	return cut(t, from, to, "");
}

/* Deletes the only item of a clause, and so the clause. */
static char *
delete_clause(const SpeqlTokens *t, int opener, int left, int right)
{
	switch (kw(t, left))
	{
		case KW_BY:
			return cut(t, Max(left - 1, 0), right, "");
		case KW_DISTINCT:
		case KW_SELECT:
			if (kw(t, right) == KW_FROM &&
			    !(right == left + 2 && t->text[t->tok[left + 1].start] == '*'))
				return cut(t, left + 1, right, "*");
			break;
		case KW_FROM:
		case KW_WHERE:
		case KW_HAVING:
		case KW_WINDOW:
		case KW_ORDER:
		case KW_LIMIT:
		case KW_OFFSET:
		case KW_FETCH:
		case KW_FOR:
			return cut(t, left, right, "");
		default:
			if (is_set_operation(kw(t, left)))
				return cut(t, left, right, "");
	}
	/* Nothing is left of the query: the item outside that holds it goes. */
	return opener < 0 ? NULL : speql_delete_item(t, opener);
}

/* Deletes one item of a list, with its comma. */
char *
speql_delete_item(const SpeqlTokens *t, int k)
{
	int opener, depth, end, left, right;

	if (k >= t->n)
		return NULL;
	opener = speql_level(t, k);
	depth = depth_in(t, opener);
	end = level_close(t, opener);
	if (t->tok[k].depth == depth && separates(t, k))
		k = Min(k + 1, t->n - 1);
	for (left = k - 1; left > opener; left--)
		if (t->tok[left].depth == depth && separates(t, left))
			break;
	for (right = k + 1; right < end; right++)
		if (t->tok[right].depth == depth && separates(t, right))
			break;
	if (left <= opener)
		return opener < 0 ? NULL : speql_delete_item(t, opener);
	if (kw(t, left) == KW_ON || begins_join(kw(t, left)))
		return kw(t, right) == KW_AND && right < end ? cut(t, left + 1, right + 1, "")
		                                             : delete_join(t, left, depth, end);
	if (punct(t, left) == ',' || kw(t, left) == KW_AND || kw(t, left) == KW_OR)
		return cut(t, left, right, "");
	if (right < end && (punct(t, right) == ',' || kw(t, right) == KW_AND || kw(t, right) == KW_OR))
		return cut(t, left + 1, right + 1, "");
	if (kw(t, left) == KW_FROM && right < end && begins_join(kw(t, right)))
		return cut(t, left, speql_level_end(t, opener, right), "");
	return delete_clause(t, opener, left, right);
}

/* Completes GROUP BY by the columns that need it. */
char *
speql_group_by(const SpeqlTokens *t, int k)
{
	static const SpeqlKeyword after[] = {KW_HAVING, KW_WINDOW, KW_ORDER, KW_LIMIT,
	                                     KW_OFFSET, KW_FETCH,  KW_FOR};
	int opener = speql_level(t, k), last = k, group, at;
	char *column;

	if (k >= t->n || t->tok[k].kind > TOK_QUOTED)
		return NULL;
	while (punct(t, last + 1) == '.' && last + 2 < t->n)
		last += 2;
	if (t->tok[last].kind > TOK_QUOTED)
		return NULL;
	column = pnstrdup(t->text + t->tok[k].start, t->tok[last].end - t->tok[k].start);
	group = speql_clause(t, opener, KW_GROUP, k);
	if (group >= 0 && kw(t, group + 1) == KW_BY)
		return speql_splice(t, t->tok[group + 1].end, 0, psprintf(" %s,", column));
	at = speql_level_end(t, opener, k);
	for (int i = 0; i < lengthof(after); i++)
	{
		int clause = speql_clause(t, opener, after[i], k);

		if (clause > k && clause < at)
			at = clause;
	}
	return speql_splice(t, at < t->n ? t->tok[at].start : t->len, 0,
	                    psprintf(" GROUP BY %s ", column));
}

/* Gives an item of FROM the alias that is used. */
char *
speql_add_alias(const SpeqlTokens *t, int k)
{
	if (k >= t->n || !opens_from_item(t, k) || t->tok[k].match < 0)
		return NULL;
	return speql_splice(t, t->tok[t->tok[k].match].end, 0, psprintf(" AS q%d ", k));
}
