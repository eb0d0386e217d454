/*
 * speql_grammar.c: see speql_grammar.h.
 *
 * The rules are those of a query from the item that is being typed on (a column, a condition, a
 * table) to its end. What is typed of the item goes through them first, in one spelling: one blank
 * between words, none inside of brackets, small letters, numbers as 1, strings as 'x'. So nothing
 * here has to know how far an item is, and an item that these rules do not know (a window function,
 * a cast) simply has no continuation.
 *
 * The last word may go on, and a blank would be a token of its own for the model; both are left out
 * of its prompt and become the lead, which it writes again.
 *
 * Rule numbers are given in advance: those that all scopes share, then a block for each scope. A
 * list of names that is empty has no rule, and neither have the alternatives that need it.
 */
#include "speql_grammar.h"

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/json.h"

#include "speql.h"
#include "speql_rules.h"
#include "speql_scope.h"

/* Rules that all scopes share; START is where an output begins. */
enum
{
	START,
	GAP = SPEQL_RULE_GAP,
	CMP,
	DIGITS,
	NUM,
	FRACTION,
	DIGIT,
	CENTURY,
	MONTH,
	DAY_OF_MONTH,
	DAY,
	STRING,
	STRING_CHARS,
	OP,
	UNIT,
	INTERVAL,
	INTERVAL_REST,
	DATE_LITERAL,
	NUMS,
	NUMS_REST,
	STRINGS,
	STRINGS_REST,
	END,
	ALIAS,
	ALIAS_CHARS,
	IN,
	LIKE,
	NULLNESS,
	AND_OR,
	LIMIT,
	N_SHARED
};

/* Rules of one scope. */
enum
{
	COLUMNS, /* one list for each class */
	ANY = COLUMNS + SPEQL_N_CLASSES,
	OTHERS, /* all but numbers */
	N_EXPR,
	N_MORE,
	N_TERM,
	N_LEFT,
	D_EXPR,
	D_MORE,
	S_EXPR,
	N_TEST,
	D_TEST,
	S_TEST,
	TEST,
	COND,
	COND_MORE,
	AGGREGATE,
	COUNTED,
	SUMMED,
	A_EXPR,
	A_MORE,
	A_TERM,
	A_LEFT,
	A_TEST,
	ITEM,
	LIST,
	LIST_MORE,
	FROM,
	ON,
	JOINS,
	AFTER_FROM,
	AFTER_FROM_2,
	AFTER_WHERE,
	AFTER_WHERE_2,
	AFTER_GROUP,
	AFTER_GROUP_2,
	AFTER_ORDER,
	GROUPS,
	GROUPS_MORE,
	ORDERS,
	ORDERS_MORE,
	ORDER_NAMES,
	SCOPE_START,
	N_OF_SCOPE
};

typedef struct Writer
{
	SpeqlRules rules;
	const SpeqlPlace *place;
	const SpeqlScope *scope;
} Writer;

/* True when a scope's list of names has any. */
static bool
has(const Writer *w, SpeqlClass class)
{
	ListCell *lc;

	foreach (lc, w->scope->columns)
		if (((SpeqlColumn *) lfirst(lc))->class == class)
			return true;
	return false;
}

/* A rule of one alternative. */
#define ONE(r, number, ...) (speql_rule(r, number), speql_alt(r, __VA_ARGS__), speql_rule_end(r))

/* Texts from a first to a last number, with what stands around them. */
static List *
numbered(const char *format, int first, int last)
{
	List *list = NIL;

	for (int i = first; i <= last; i++)
		list = lappend(list, psprintf(format, i));
	return list;
}

/* ---- shared rules ------------------------------------------------------------------------ */

/* Numbers, strings, dates and intervals. */
static void
write_literals(Writer *w)
{
	SpeqlRules *r = &w->rules;

	speql_rule_chars(r, DIGITS, "0123456789", 1, 4); /* products fit an integer */
	ONE(r, NUM, "%g%g", DIGITS, FRACTION);
	speql_rule(r, FRACTION);
	speql_alt(r, "");
	speql_alt(r, ".%g", DIGITS);
	speql_rule_end(r);
	speql_rule_chars(r, DIGIT, "0123456789", 1, 1);
	speql_rule_texts(r, CENTURY, false, list_make2("'19", "'20"));
	speql_rule_texts(r, MONTH, false, numbered("-%02d", 1, 12));
	speql_rule_texts(r, DAY_OF_MONTH, false, numbered("-%02d'", 1, 28));
	ONE(r, DAY, "%g%g%g%g%g", CENTURY, DIGIT, DIGIT, MONTH, DAY_OF_MONTH);
	ONE(r, STRING, "'%g'", STRING_CHARS);
	speql_rule_chars(r, STRING_CHARS,
	                 "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 %_#-./:&+,@()",
	                 1, 200);
	speql_rule_texts(r, OP, false, list_make4("+", "-", "*", "/"));
	speql_rule_texts(r, UNIT, true, list_make3("day", "month", "year"));
	ONE(r, INTERVAL, "interval '%g%g", DIGITS, INTERVAL_REST);
	speql_rule(r, INTERVAL_REST);
	speql_alt(r, "' %g", UNIT);
	speql_alt(r, " %g'", UNIT);
	speql_rule_end(r);
	speql_rule(r, DATE_LITERAL);
	speql_alt(r, "date %g", DAY);
	speql_alt(r, "%g", DAY);
	speql_rule_end(r);
}

/* A list after a comma. */
static void
write_list(Writer *w, int list, int item)
{
	SpeqlRules *r = &w->rules;

	ONE(r, list, "%g%g", item, list + 1);
	speql_rule(r, list + 1);
	speql_alt(r, "");
	speql_alt(r, ", %g", list);
	speql_rule_end(r);
}

/* What all scopes share. START comes last: it needs the numbers of the scopes. */
static void
write_shared(Writer *w)
{
	SpeqlRules *r = &w->rules;

	speql_rule_texts(r, GAP, false, list_make1(" "));
	speql_rule_texts(r, CMP, false,
	                 list_concat(list_make3("=", "<>", "<"), list_make3("<=", ">", ">=")));
	write_literals(w);
	write_list(w, NUMS, NUM);
	write_list(w, STRINGS, STRING);
	speql_rule(r, END);
	speql_alt(r, "");
	speql_alt(r, ";");
	speql_rule_end(r);
	speql_rule(r, ALIAS);
	speql_alt(r, "");
	speql_alt(r, " as %g", ALIAS_CHARS);
	speql_rule_end(r);
	speql_rule_chars(r, ALIAS_CHARS, "abcdefghijklmnopqrstuvwxyz_", 2, 24);
	speql_rule(r, IN);
	speql_alt(r, "in");
	speql_alt(r, "not in");
	speql_rule_end(r);
	speql_rule(r, LIKE);
	speql_alt(r, "like");
	speql_alt(r, "not like");
	speql_rule_end(r);
	speql_rule(r, NULLNESS);
	speql_alt(r, "is null");
	speql_alt(r, "is not null");
	speql_rule_end(r);
	speql_rule_texts(r, AND_OR, true, list_make2("and", "or"));
	ONE(r, LIMIT, "limit %g%g", DIGITS, END);
}

/* ---- rules of a scope -------------------------------------------------------------------- */

/* The names of the columns of some classes. */
static List *
names_of(const Writer *w, bool (*wanted)(SpeqlClass class, int arg), int arg)
{
	List *names = NIL;
	ListCell *lc;

	foreach (lc, w->scope->columns)
	{
		const SpeqlColumn *column = lfirst(lc);

		if (wanted(column->class, arg))
			names = lappend(names, (char *) column->name);
	}
	return names;
}

/* One class. */
static bool
is_class(SpeqlClass class, int arg)
{
	return (int) class == arg;
}

/* Any class but one; of all there is none such as SPEQL_N_CLASSES. */
static bool
is_other(SpeqlClass class, int arg)
{
	return (int) class != arg;
}

/* Values: numbers with and without aggregates, dates, strings. */
static void
write_values(Writer *w)
{
	SpeqlRules *r = &w->rules;
	int b = r->base;

	ONE(r, b + N_EXPR, "%r%r", N_TERM, N_MORE);
	speql_rule(r, b + N_MORE);
	speql_alt(r, "");
	speql_alt(r, " %g %r", OP, N_EXPR);
	speql_rule_end(r);
	speql_rule(r, b + N_TERM);
	if (has(w, SPEQL_NUMBER))
		speql_alt(r, "%r", COLUMNS + SPEQL_NUMBER);
	if (has(w, SPEQL_DATE))
		speql_alt(r, "extract(%g from %r)", UNIT, D_EXPR);
	speql_alt(r, "%g", NUM);
	speql_alt(r, "(%r)", N_EXPR);
	speql_rule_end(r);
	speql_rule(r, b + N_LEFT);
	if (!has(w, SPEQL_NUMBER) && !has(w, SPEQL_DATE))
		speql_alt(r, "%g", NUM);
	if (has(w, SPEQL_NUMBER))
	{
		speql_alt(r, "%r%r", COLUMNS + SPEQL_NUMBER, N_MORE);
		speql_alt(r, "(%r)%r", N_LEFT, N_MORE);
	}
	if (has(w, SPEQL_DATE))
		speql_alt(r, "extract(%g from %r)%r", UNIT, D_EXPR, N_MORE);
	speql_rule_end(r);
	speql_rule(r, b + D_EXPR);
	if (has(w, SPEQL_DATE))
		speql_alt(r, "%r%r", COLUMNS + SPEQL_DATE, D_MORE);
	speql_alt(r, "%g%r", DATE_LITERAL, D_MORE);
	speql_rule_end(r);
	speql_rule(r, b + D_MORE);
	speql_alt(r, "");
	speql_alt(r, " + %g", INTERVAL);
	speql_alt(r, " - %g", INTERVAL);
	speql_rule_end(r);
	speql_rule(r, b + S_EXPR);
	if (has(w, SPEQL_STRING))
	{
		speql_alt(r, "%r", COLUMNS + SPEQL_STRING);
		speql_alt(r, "substring(%r from %g for %g)", COLUMNS + SPEQL_STRING, DIGIT, DIGIT);
	}
	speql_alt(r, "%g", STRING);
	speql_rule_end(r);
}

/* What may be asked of values, and conditions. */
static void
write_conditions(Writer *w)
{
	SpeqlRules *r = &w->rules;
	int b = r->base;

	speql_rule(r, b + N_TEST);
	speql_alt(r, "%g %r", CMP, N_EXPR);
	speql_alt(r, "between %r and %r", N_EXPR, N_EXPR);
	speql_alt(r, "in (%g)", NUMS);
	speql_alt(r, "%g", NULLNESS);
	speql_rule_end(r);
	speql_rule(r, b + D_TEST);
	speql_alt(r, "%g %r", CMP, D_EXPR);
	speql_alt(r, "between %r and %r", D_EXPR, D_EXPR);
	speql_alt(r, "%g", NULLNESS);
	speql_rule_end(r);
	speql_rule(r, b + S_TEST);
	speql_alt(r, "%g %r", CMP, S_EXPR);
	speql_alt(r, "%g %g", LIKE, STRING);
	speql_alt(r, "%g (%g)", IN, STRINGS);
	speql_alt(r, "%g", NULLNESS);
	speql_rule_end(r);
	speql_rule(r, b + TEST);
	if (has(w, SPEQL_NUMBER))
		speql_alt(r, "%r %r", N_LEFT, N_TEST);
	if (has(w, SPEQL_DATE))
		speql_alt(r, "%r%r %r", COLUMNS + SPEQL_DATE, D_MORE, D_TEST);
	if (has(w, SPEQL_STRING))
	{
		speql_alt(r, "%r %r", COLUMNS + SPEQL_STRING, S_TEST);
		speql_alt(r, "substring(%r from %g for %g) %r", COLUMNS + SPEQL_STRING, DIGIT, DIGIT,
		          S_TEST);
	}
	if (has(w, SPEQL_BOOL))
		speql_alt(r, "%r", COLUMNS + SPEQL_BOOL);
	if (has(w, SPEQL_OTHER))
		speql_alt(r, "%r %g", COLUMNS + SPEQL_OTHER, NULLNESS);
	speql_alt(r, "(%r)", COND);
	speql_alt(r, "not (%r)", COND);
	speql_rule_end(r);
	ONE(r, b + COND, "%r%r", TEST, COND_MORE);
	speql_rule(r, b + COND_MORE);
	speql_alt(r, "");
	speql_alt(r, " %g %r", AND_OR, COND);
	speql_rule_end(r);
}

/* Aggregates, and items of a select list. */
static void
write_items(Writer *w)
{
	SpeqlRules *r = &w->rules;
	int b = r->base;

	speql_rule(r, b + AGGREGATE);
	speql_alt(r, "sum(%r)", SUMMED);
	speql_alt(r, "avg(%r)", SUMMED);
	speql_alt(r, "min(%r)", SUMMED);
	speql_alt(r, "max(%r)", SUMMED);
	speql_alt(r, "count(%r)", COUNTED);
	speql_rule_end(r);
	speql_rule(r, b + COUNTED);
	speql_alt(r, "*");
	speql_alt(r, "%r", ANY);
	speql_alt(r, "distinct %r", ANY);
	speql_rule_end(r);
	speql_rule(r, b + SUMMED);
	speql_alt(r, "%r", N_LEFT);
	speql_alt(r, "%g %g %r", NUM, OP, N_EXPR);
	speql_alt(r, "case when %r then %r else %r end", COND, N_EXPR, N_EXPR);
	speql_rule_end(r);
	ONE(r, b + A_EXPR, "%r%r", A_TERM, A_MORE);
	speql_rule(r, b + A_MORE);
	speql_alt(r, "");
	speql_alt(r, " %g %r", OP, A_EXPR);
	speql_rule_end(r);
	speql_rule(r, b + A_TERM);
	speql_alt(r, "%r", N_TERM);
	speql_alt(r, "%r", AGGREGATE);
	speql_rule_end(r);
	speql_rule(r, b + A_LEFT);
	if (has(w, SPEQL_NUMBER))
		speql_alt(r, "%r", COLUMNS + SPEQL_NUMBER);
	if (has(w, SPEQL_DATE))
		speql_alt(r, "extract(%g from %r)", UNIT, D_EXPR);
	speql_alt(r, "(%r)", A_EXPR);
	speql_alt(r, "%r", AGGREGATE);
	speql_rule_end(r);
	ONE(r, b + A_TEST, "%r%r %g %r", A_LEFT, A_MORE, CMP, A_EXPR);
	speql_rule(r, b + ITEM);
	speql_alt(r, "%r%r%g", A_LEFT, A_MORE, ALIAS);
	speql_alt(r, "%g %g %r%g", NUM, OP, A_EXPR, ALIAS);
	if (names_of(w, is_other, SPEQL_NUMBER) != NIL)
		speql_alt(r, "%r%g", OTHERS, ALIAS);
	speql_rule_end(r);
	speql_rule(r, b + LIST);
	speql_alt(r, "%r%r", ITEM, LIST_MORE);
	speql_alt(r, "* from %r%r", FROM, AFTER_FROM);
	speql_rule_end(r);
	speql_rule(r, b + LIST_MORE);
	speql_alt(r, ", %r", LIST);
	speql_alt(r, " from %r%r", FROM, AFTER_FROM);
	speql_rule_end(r);
}

/* What may come behind a clause: GROUP BY, ORDER BY, LIMIT or the end, as far as they still may. */
static void
write_clauses(Writer *w)
{
	SpeqlRules *r = &w->rules;
	const SpeqlPlace *place = w->place;
	bool group = place->clause == KW_SELECT || place->clause == KW_GROUP ||
	             (place->grouped && place->plain != NIL);
	bool order = place->clause != KW_SELECT;
	int b = r->base;

	speql_rule(r, b + AFTER_FROM);
	speql_alt(r, "%g", END);
	speql_alt(r, " %r", AFTER_FROM_2);
	speql_rule_end(r);
	speql_rule(r, b + AFTER_FROM_2);
	if (w->scope->joins != NIL)
		speql_alt(r, "join %r%r", JOINS, AFTER_FROM);
	speql_alt(r, "where %r%r", COND, AFTER_WHERE);
	speql_alt(r, "%r", AFTER_WHERE_2);
	speql_rule_end(r);
	for (int rule = AFTER_WHERE; rule <= AFTER_GROUP; rule += AFTER_GROUP - AFTER_WHERE)
	{
		speql_rule(r, b + rule);
		speql_alt(r, "%g", END);
		speql_alt(r, " %r", rule + 1);
		speql_rule_end(r);
		speql_rule(r, b + rule + 1);
		if (rule == AFTER_WHERE && group)
			speql_alt(r, "group by %r%r", GROUPS, AFTER_GROUP);
		if (order)
			speql_alt(r, "order by %r", ORDERS);
		speql_alt(r, "%g", LIMIT);
		speql_rule_end(r);
	}
	speql_rule(r, b + AFTER_ORDER);
	speql_alt(r, "%g", END);
	speql_alt(r, " %g", LIMIT);
	speql_rule_end(r);
}

/* The columns that a query may be grouped and ordered by. */
static void
write_lists(Writer *w)
{
	SpeqlRules *r = &w->rules;
	const SpeqlPlace *place = w->place;
	bool named = place->grouped || place->distinct || place->clause == KW_GROUP;
	StringInfoData all;
	ListCell *lc;
	int b = r->base;

	initStringInfo(&all);
	speql_rule(r, b + GROUPS);
	foreach (lc, place->plain)
	{
		appendStringInfo(&all, "%s%s", all.len > 0 ? ", " : "", (char *) lfirst(lc));
		if (place->clause == KW_GROUP)
			speql_alt(r, "%s%r", speql_as_typed(r, lfirst(lc)), GROUPS_MORE);
	}
	if (place->plain == NIL)
		speql_alt(r, "%r%r", ANY, GROUPS_MORE);
	else if (place->clause != KW_GROUP)
		speql_alt(r, "%s", speql_as_typed(r, all.data));
	speql_rule_end(r);
	speql_rule(r, b + GROUPS_MORE);
	speql_alt(r, "");
	speql_alt(r, ", %r", GROUPS);
	speql_rule_end(r);
	ONE(r, b + ORDERS, "%r%r", ORDER_NAMES, ORDERS_MORE);
	speql_rule(r, b + ORDERS_MORE);
	speql_alt(r, "%r", AFTER_ORDER);
	speql_alt(r, " desc%r", AFTER_ORDER);
	speql_alt(r, ", %r", ORDERS);
	speql_alt(r, " desc, %r", ORDERS);
	speql_rule_end(r);
	speql_rule_texts(r, b + ORDER_NAMES, false,
	                 place->outputs != NIL && named ? place->outputs
	                 : named                        ? list_make1("1")
	                                                : names_of(w, is_other, SPEQL_N_CLASSES));
}

/* How the output goes on, in the scope. */
static void
write_start(Writer *w)
{
	SpeqlRules *r = &w->rules;
	const SpeqlPlace *place = w->place;

	speql_rule(r, w->rules.base + SCOPE_START);
	switch (place->clause)
	{
		case KW_SELECT:
			speql_alt(r, " %r", LIST);
			break;
		case KW_FROM:
			if (place->comma)
				speql_alt(r, " %r where %r%r%r", FROM, ON, COND_MORE, AFTER_WHERE);
			else
				speql_alt(r, " %r%r", FROM, AFTER_FROM);
			break;
		case KW_JOIN:
			speql_alt(r, " %r%r", FROM, AFTER_FROM);
			break;
		case KW_ON:
			if (w->scope->on != NIL)
				speql_alt(r, place->needs_on ? " on %r%r%r" : " %r%r%r", ON, COND_MORE, AFTER_FROM);
			speql_alt(r, place->needs_on ? " on %r%r" : " %r%r", COND, AFTER_FROM);
			break;
		case KW_WHERE:
			speql_alt(r, " %r%r", COND, AFTER_WHERE);
			break;
		case KW_GROUP:
			speql_alt(r, " %r%r", GROUPS, AFTER_GROUP);
			break;
		case KW_HAVING:
			speql_alt(r, " %r%r", A_TEST, AFTER_GROUP);
			break;
		case KW_ORDER:
			speql_alt(r, " %r", ORDERS);
			break;
		case KW_LIMIT:
			speql_alt(r, " %g%g", DIGITS, END);
			break;
		default:
			if (place->comma && w->scope->on != NIL)
				speql_alt(r, " where %r%r%r", ON, COND_MORE, AFTER_WHERE);
			else
				speql_alt(r, "%r", AFTER_FROM);
	}
	speql_rule_end(r);
}

/* All rules of a scope. */
static void
write_scope(Writer *w)
{
	SpeqlRules *r = &w->rules;
	int b = r->base;

	for (int class = 0; class < SPEQL_N_CLASSES; class ++)
		speql_rule_texts(r, b + COLUMNS + class, false, names_of(w, is_class, class));
	speql_rule_texts(r, b + ANY, false, names_of(w, is_other, SPEQL_N_CLASSES));
	speql_rule_texts(r, b + OTHERS, false, names_of(w, is_other, SPEQL_NUMBER));
	write_values(w);
	write_conditions(w);
	write_items(w);
	speql_rule_texts(r, b + FROM, false,
	                 w->scope->from != NULL ? list_make1((char *) w->scope->from) : NIL);
	speql_rule_texts(r, b + ON, false, w->scope->on);
	speql_rule_texts(r, b + JOINS, false, w->scope->joins);
	write_clauses(w);
	write_lists(w);
	write_start(w);
}

/* ---- what is typed ----------------------------------------------------------------------- */

/* True when no blank stands before a token in the one spelling. */
static bool
is_close(const SpeqlTokens *t, int k)
{
	const SpeqlToken *tok = &t->tok[k];

	if (tok->punct == ')' || tok->punct == ',' || tok->punct == '.' ||
	    (k > 0 && (tok[-1].punct == '(' || tok[-1].punct == '.')))
		return true;
	return tok->punct == '(' && k > 0 && tok[-1].kind == TOK_WORD && tok[-1].keyword == KW_NONE;
}

/* A literal that is whole, as the rules have it: its value does not matter. */
static const char *
literal(const char *text, int n)
{
	if (n == 12 && strspn(text + 1, "0123456789-") == 10)
		return "'2000-01-01'";
	if (n > 2 && strspn(text + 1, "0123456789") == (size_t) n - 2)
		return "'1'";
	for (int i = 1; i < n - 1 && text[1] >= '0' && text[1] <= '9'; i++)
		if (text[i] == ' ')
			return psprintf("'1%s", pnstrdup(text + i, n - i));
	return "'x'";
}

/* Appends tokens in the one spelling. */
static void
append_typed(const Writer *w, const SpeqlTokens *t, int from, int to, StringInfo out)
{
	for (int k = from; k < to; k++)
	{
		const SpeqlToken *tok = &t->tok[k];
		char *text = pnstrdup(t->text + tok->start, tok->end - tok->start);

		if (!is_close(t, k) || k == from)
			appendStringInfoChar(out, ' ');
		if (tok->kind == TOK_NUMBER)
			appendStringInfoString(out, strchr(text, '.') && !strchr(text, 'e') ? "1.1" : "1");
		else if (tok->kind == TOK_STRING && !tok->open && *text == '\'')
			appendStringInfoString(out, literal(text, tok->end - tok->start));
		else if (tok->kind != TOK_WORD)
			appendStringInfoString(out, text);
		else
			appendStringInfoString(out, speql_keywords(&w->rules, str_tolower(text, strlen(text),
			                                                                  C_COLLATION_OID)));
	}
}

/* Parts the end of the statement into what the model reads and what it writes again. */
static void
part(const SpeqlTokens *t, bool glued, int from, SpeqlGrammar *g)
{
	const SpeqlToken *last = &t->tok[t->n - 1];
	bool blank = last->end < t->len;
	const char *text = t->text;

	g->n_prompt = t->len;
	g->lead = "";
	if (glued)
	{
		bool close = t->n - 1 > from && is_close(t, t->n - 1);

		g->n_prompt = last->start - (!close && last->start > 0 && text[last->start - 1] == ' ');
		g->lead = psprintf("%s%s", close ? "" : " ", text + last->start);
	}
	else if (blank && last->punct != '(' && last->punct != '.')
	{
		g->n_prompt = t->len - (text[t->len - 1] == ' ');
		g->lead = " ";
	}
}

/* Makes the rules. */
bool
speql_grammar(const char *statement, SpeqlGrammar *grammar)
{
	SpeqlTokens *t = speql_lex(statement, strlen(statement));
	const SpeqlToken *last = t->n > 0 ? &t->tok[t->n - 1] : NULL;
	bool glued = last != NULL && last->end == t->len && last->kind == TOK_WORD;
	SpeqlPlace place;
	StringInfoData typed;
	Writer w = {.place = &place, .rules = {.partial = ""}};
	ListCell *lc;

	memset(grammar, 0, sizeof(*grammar));
	if (last == NULL || t->open_comment >= 0)
		return false;
	if (!speql_place(t, glued && last->keyword == KW_NONE, &place))
		return false;
	glued = glued && t->n > place.from;
	part(t, glued, place.from, grammar);
	w.rules.partial = glued ? statement + last->start : "";
	w.rules.upper = place.upper;
	initStringInfo(&w.rules.out);
	appendStringInfoString(&w.rules.out, "{\"rules\":[");
	speql_rule(&w.rules, START);
	for (int i = 0; i < list_length(place.scopes); i++)
		speql_alt(&w.rules, "%g", N_SHARED + i * N_OF_SCOPE + SCOPE_START);
	speql_rule_end(&w.rules);
	w.scope = linitial(place.scopes);
	write_shared(&w);
	foreach (lc, place.scopes)
	{
		w.scope = lfirst(lc);
		w.rules.base = w.rules.n;
		write_scope(&w);
	}
	initStringInfo(&typed);
	append_typed(&w, t, place.from, t->n - (glued ? 1 : 0), &typed);
	appendStringInfoString(&w.rules.out, "],\"typed\":");
	escape_json(&w.rules.out, typed.data);
	appendStringInfoString(&w.rules.out, ",\"lead\":");
	escape_json(&w.rules.out, grammar->lead);
	appendStringInfoChar(&w.rules.out, '}');
	grammar->rules = w.rules.out.data;
	return true;
}
