/*
 * speql_rules.c: see speql_rules.h.
 */
#include "speql_rules.h"

#include "catalog/pg_collation.h"
#include "utils/formatting.h"
#include "utils/json.h"

/* A word as it is to be written: it begins as it was typed. */
const char *
speql_as_typed(const SpeqlRules *w, const char *word)
{
	int n = (int) strlen(w->partial);

	return n > 0 && pg_strncasecmp(word, w->partial, n) == 0
	           ? psprintf("%s%s", w->partial, word + n)
	           : word;
}

/* A word as the person writes keywords, if it is one; functions and types stay small. */
const char *
speql_keywords(const SpeqlRules *w, const char *word)
{
	static const char *const all[] = {"and",  "as",       "between", "by",   "case",
	                                  "desc", "distinct", "else",    "end",  "for",
	                                  "from", "group",    "in",      "is",   "join",
	                                  "like", "limit",    "not",     "null", "on",
	                                  "or",   "order",    "then",    "when", "where"};

	for (int i = 0; w->upper && i < lengthof(all); i++)
		if (strcmp(word, all[i]) == 0)
			return speql_as_typed(w, str_toupper(word, strlen(word), C_COLLATION_OID));
	return speql_as_typed(w, word);
}

/* Begins a rule. */
void
speql_rule(SpeqlRules *w, int rule)
{
	Assert(rule == w->n);
	if (w->n++ > 0)
		appendStringInfoChar(&w->out, ',');
	appendStringInfoChar(&w->out, '[');
	w->first = true;
}

/* Ends a rule. One without alternatives, which nothing refers to, gets some text. */
void
speql_rule_end(SpeqlRules *w)
{
	if (w->first)
		appendStringInfoString(&w->out, "[\"-\"]");
	appendStringInfoChar(&w->out, ']');
}

/* Appends a symbol that is a text. */
static void
put_text(SpeqlRules *w, const char *text)
{
	escape_json(&w->out, text);
}

/*
 * Writes an alternative. Symbols: a word in small letters is keywords or names of functions, with
 * what stands around them; %s is a text as it is, %g a shared rule, %r a rule of the scope, a blank
 * between symbols a gap.
 */
void
speql_alt(SpeqlRules *w, const char *format, ...)
{
	va_list args;
	bool first = true;

	appendStringInfoString(&w->out, w->first ? "[" : ",[");
	w->first = false;
	va_start(args, format);
	for (const char *f = format; *f != '\0'; first = false)
	{
		const char *stop = strpbrk(f, " %");

		if (!first)
			appendStringInfoChar(&w->out, ',');
		if (*f == ' ')
		{
			appendStringInfo(&w->out, "%d", SPEQL_RULE_GAP);
			f++;
		}
		else if (*f == '%')
		{
			if (f[1] == 's')
				put_text(w, va_arg(args, const char *));
			else
				appendStringInfo(&w->out, "%d", va_arg(args, int) + (f[1] == 'r' ? w->base : 0));
			f += 2;
		}
		else
		{
			int n = stop != NULL ? (int) (stop - f) : (int) strlen(f);

			put_text(w, speql_keywords(w, pnstrdup(f, n)));
			f += n;
		}
	}
	va_end(args);
	appendStringInfoChar(&w->out, ']');
}

/* Writes a rule of one alternative list of texts. */
void
speql_rule_texts(SpeqlRules *w, int rule, bool as_keywords, List *list)
{
	ListCell *lc;
	bool first = true;

	speql_rule(w, rule);
	/* Not alternatives: a list of texts is looked up at once, however long. */
	w->out.data[--w->out.len] = '\0';
	appendStringInfoString(&w->out, "{\"texts\":[");
	foreach (lc, list)
	{
		const char *text = lfirst(lc);

		if (!first)
			appendStringInfoChar(&w->out, ',');
		first = false;
		put_text(w, as_keywords ? speql_keywords(w, text) : speql_as_typed(w, text));
	}
	appendStringInfoString(&w->out, first ? "\"-\"]}" : "]}");
}

/* Writes a rule that is a run of characters. */
void
speql_rule_chars(SpeqlRules *w, int rule, const char *chars, int min, int max)
{
	speql_rule(w, rule);
	w->out.data[--w->out.len] = '\0';
	appendStringInfoString(&w->out, "{\"chars\":");
	put_text(w, chars);
	appendStringInfo(&w->out, ",\"min\":%d,\"max\":%d}", min, max);
}
