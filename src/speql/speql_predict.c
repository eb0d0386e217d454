/*
 * speql_predict.c: completions from what the repair closed, what the role ran before, and what the
 * catalog knows; see speql_predict.h.
 *
 * Only the end of a text is completed: with a cursor elsewhere there is text behind it that the
 * completion would have to agree with. Probabilities are relative weights of the sources'
 * experience (a statement run before is likelier than a column name), scaled to sum to at most 1.
 *
 * The catalog is asked by SQL, as the typing role: it sees what the role may see.
 */
#include "speql_predict.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/formatting.h"

#include "speql.h"
#include "speql_history.h"

#define MAX_OF_CATALOG 6

/* Weights: of the first of each source; the others of it get less by rank. */
#define WEIGHT_HISTORY 1.0f
#define WEIGHT_CATALOG 0.5f
#define WEIGHT_REPAIR  0.6f

typedef struct Predictor
{
	const char *text;
	SpeqlTokens *tokens; /* of the statement's text up to the cursor */
	const char *partial; /* the word that is being typed, "" if none */
	int last;            /* the token before it, or −1 */
	bool glued; /* nothing separates that token from what comes: a new word needs a blank */
	SpeqlCompletions *found;
	MemoryContext context; /* of what is found; SPI has one of its own */
} Predictor;

/* Adds a completion in the order of weights. */
void
speql_add_completion(SpeqlCompletions *c, const char *text, const char *source, const char *insert,
                     float4 weight)
{
	int i, len = strlen(insert);

	while (len > 0 && strchr(" \t\r\n", insert[len - 1]) != NULL)
		len--;
	if (len == 0)
		return;
	insert = pnstrdup(insert, len);
	if (*text != '\0' && strchr(" \t\r\n", text[strlen(text) - 1]) != NULL)
		insert += strspn(insert, " \t\r\n");
	for (i = 0; i < c->n; i++)
		if (strcmp(c->item[i].insert, insert) == 0)
			return;
	if (c->n == SPEQL_MAX_COMPLETIONS && c->item[c->n - 1].probability >= weight)
		return;
	for (i = Min(c->n, SPEQL_MAX_COMPLETIONS - 1); i > 0 && c->item[i - 1].probability < weight;
	     i--)
		c->item[i] = c->item[i - 1];
	c->item[i] = (SpeqlCompletion){weight, source, insert, psprintf("%s%s", text, insert)};
	c->n = Min(c->n + 1, SPEQL_MAX_COMPLETIONS);
}

/* The same, with the blank that a new word needs. */
static void
add(Predictor *p, const char *source, const char *insert, float4 weight)
{
	MemoryContext old = MemoryContextSwitchTo(p->context);

	if (p->glued && strchr(" \t\r\n,;()", *insert) == NULL)
		insert = psprintf(" %s", insert);
	speql_add_completion(p->found, p->text, source, insert, weight);
	MemoryContextSwitchTo(old);
}

/* ---- what ran before --------------------------------------------------------------------- */

/* Adds the ends of statements that began like this one: often run and lately run ones first. */
static void
add_history(Predictor *p, const char *statement)
{
	List *past = speql_history_find(statement);
	uint64 latest = 0;
	ListCell *lc;

	foreach (lc, past)
		latest = Max(latest, ((SpeqlPast *) lfirst(lc))->last);
	foreach (lc, past)
	{
		SpeqlPast *one = lfirst(lc);
		float4 age = 1.0f / (1.0f + (latest - one->last) / 16.0f);
		float4 often = one->n_runs / (one->n_runs + 1.0f);

		add(p, "history", one->text + one->at,
		    WEIGHT_HISTORY * age * (0.5f + 0.5f * often) / (1 + one->n_changed));
	}
}

/* ---- what the repair closed -------------------------------------------------------------- */

/* Adds what makes the statement whole, if the repair only added to its end. */
static void
add_repair(Predictor *p, const char *repaired)
{
	const SpeqlTokens *typed = p->tokens, *whole = speql_lex(repaired, strlen(repaired));
	int n = typed->n;

	if (n == 0 || n > whole->n)
		return;
	for (int i = 0; i < n; i++)
	{
		const SpeqlToken *a = &typed->tok[i], *b = &whole->tok[i];
		int len = a->end - a->start;

		if (len != b->end - b->start ||
		    pg_strncasecmp(typed->text + a->start, whole->text + b->start, len) != 0)
			return;
	}
	add(p, "repair", repaired + whole->tok[n - 1].end, WEIGHT_REPAIR);
}

/* ---- what the catalog knows -------------------------------------------------------------- */

/* Runs a query with up to three text parameters; adds its first column, minus what is typed. */
static void
add_from_catalog(Predictor *p, const char *sql, int n_args, const char **args, int skip)
{
	Oid types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum values[3];

	for (int i = 0; i < n_args; i++)
		values[i] = CStringGetTextDatum(args[i]);
	if (SPI_execute_with_args(sql, n_args, types, values, NULL, true, MAX_OF_CATALOG) !=
	    SPI_OK_SELECT)
		return;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char *found = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		if (found != NULL && (int) strlen(found) >= skip)
			add(p, "catalog", found + skip, WEIGHT_CATALOG / (1 + i));
	}
}

/* The names of the tables that a statement's text mentions, as an array literal. */
static char *
tables_mentioned(const Predictor *p)
{
	StringInfoData names;
	const SpeqlTokens *t = p->tokens;

	initStringInfo(&names);
	appendStringInfoChar(&names, '{');
	for (int i = 0; i < t->n; i++)
	{
		const SpeqlToken *tok = &t->tok[i];
		bool after = i > 0 && (tok[-1].keyword == KW_FROM || tok[-1].keyword == KW_JOIN ||
		                       tok[-1].punct == ',');

		if (!after || tok->kind != TOK_WORD || tok->keyword != KW_NONE)
			continue;
		appendStringInfo(&names, "%s\"%s\"", names.len > 1 ? "," : "",
		                 str_tolower(t->text + tok->start, tok->end - tok->start, C_COLLATION_OID));
	}
	appendStringInfoChar(&names, '}');
	return names.data;
}

/* The keyword of the clause that the end of the text stands in. */
static SpeqlKeyword
clause_at_end(const Predictor *p)
{
	const SpeqlTokens *t = p->tokens;
	int depth = p->last >= 0 ? t->tok[p->last].depth : 0;

	for (int i = p->last; i >= 0; i--)
	{
		SpeqlKeyword k = t->tok[i].keyword;

		if (t->tok[i].depth <= depth &&
		    (k == KW_SELECT || k == KW_FROM || k == KW_WHERE || k == KW_ON || k == KW_BY ||
		     k == KW_HAVING || k == KW_LIMIT || k == KW_JOIN || k == KW_USING))
			return k;
	}
	return KW_NONE;
}

/*
 * Adds tables whose names begin as typed, those that share a foreign key with one in the text
 * first.
 */
static void
add_tables(Predictor *p)
{
	const char *args[] = {p->partial, tables_mentioned(p)};

	add_from_catalog(
	    p,
	    "SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c"
	    " WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND pg_catalog.pg_table_is_visible(c.oid)"
	    " AND pg_catalog.starts_with(c.relname, pg_catalog.lower($1))"
	    " AND pg_catalog.has_table_privilege(c.oid, 'SELECT')"
	    " AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace"
	    " AND c.relname <> ALL ($2::pg_catalog.text[])"
	    " ORDER BY EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k"
	    "   JOIN pg_catalog.pg_class o ON o.oid IN (k.conrelid, k.confrelid) AND o.oid <> c.oid"
	    "   WHERE k.contype = 'f' AND c.oid IN (k.conrelid, k.confrelid)"
	    "   AND o.relname = ANY ($2::pg_catalog.text[])) DESC, c.reltuples DESC, c.relname",
	    2, args, strlen(p->partial));
}

/* Adds columns of the tables in the text whose names begin as typed; before FROM, of all tables. */
static void
add_columns(Predictor *p)
{
	const char *args[] = {p->partial, tables_mentioned(p)};

	add_from_catalog(
	    p,
	    "SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a"
	    " JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
	    " WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v', 'm', 'p', 'f')"
	    " AND pg_catalog.pg_table_is_visible(c.oid)"
	    " AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace"
	    " AND (c.relname = ANY ($2::pg_catalog.text[]) OR $2 = '{}')"
	    " AND pg_catalog.starts_with(a.attname, pg_catalog.lower($1))"
	    " AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')"
	    " GROUP BY a.attname ORDER BY pg_catalog.min(a.attnum), a.attname",
	    2, args, strlen(p->partial));
}

/* Adds the condition along a foreign key between the table just joined and one before it. */
static void
add_join_condition(Predictor *p)
{
	const char *args[] = {tables_mentioned(p)};

	add_from_catalog(
	    p,
	    "SELECT pg_catalog.format('%I.%I = %I.%I', a.relname, x.attname, b.relname, y.attname)"
	    " FROM pg_catalog.pg_constraint k"
	    " JOIN pg_catalog.pg_class a ON a.oid = k.conrelid JOIN pg_catalog.pg_class b ON b.oid = "
	    "k.confrelid"
	    " JOIN pg_catalog.pg_attribute x ON x.attrelid = a.oid AND x.attnum = k.conkey[1]"
	    " JOIN pg_catalog.pg_attribute y ON y.attrelid = b.oid AND y.attnum = k.confkey[1]"
	    " WHERE k.contype = 'f' AND pg_catalog.cardinality(k.conkey) = 1"
	    " AND a.relname = ANY ($1::pg_catalog.text[]) AND b.relname = ANY ($1::pg_catalog.text[])"
	    " ORDER BY pg_catalog.array_position($1::pg_catalog.text[], a.relname::pg_catalog.text)"
	    "   + pg_catalog.array_position($1::pg_catalog.text[], b.relname::pg_catalog.text) DESC",
	    1, args, 0);
}

/*
 * Adds the most common values of the column before a comparison, which pg_stats shows to its
 * readers.
 */
static void
add_values(Predictor *p)
{
	const SpeqlTokens *t = p->tokens;
	const SpeqlToken *column = &t->tok[p->last - 1];
	const char *args[] = {str_tolower(t->text + column->start, column->end - column->start,
	                                  C_COLLATION_OID),
	                      tables_mentioned(p)};

	add_from_catalog(
	    p,
	    "SELECT v FROM (SELECT CASE WHEN a.atttypid IN (21, 23, 20, 700, 701, 1700) THEN m.v"
	    "  ELSE pg_catalog.quote_literal(m.v) END AS v, m.i FROM pg_catalog.pg_stats s"
	    " JOIN pg_catalog.pg_class c ON c.relname = s.tablename"
	    "  AND c.relnamespace = s.schemaname::pg_catalog.regnamespace"
	    " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname,"
	    " LATERAL pg_catalog.unnest(s.most_common_vals::pg_catalog.text::pg_catalog.text[])"
	    "  WITH ORDINALITY m(v, i)"
	    " WHERE s.attname = $1 AND s.tablename = ANY ($2::pg_catalog.text[])"
	    " AND pg_catalog.pg_table_is_visible(c.oid)) x WHERE pg_catalog.length(v) < 60 ORDER BY i",
	    2, args, 0);
}

/* Adds what fits the place at the end of the text. */
static void
add_catalog(Predictor *p)
{
	const SpeqlToken *last = p->last >= 0 ? &p->tokens->tok[p->last] : NULL;
	SpeqlKeyword clause = clause_at_end(p);
	bool expects_name = last == NULL || last->keyword != KW_NONE || last->punct == ',' ||
	                    last->punct == '(' || last->kind == TOK_OP;

	if (last == NULL || (!expects_name && *p->partial == '\0'))
		return;
	if (last->keyword == KW_FROM || last->keyword == KW_JOIN ||
	    (clause == KW_FROM && last->punct == ','))
		add_tables(p);
	else if (last->keyword == KW_ON && *p->partial == '\0')
		add_join_condition(p);
	else if (last->kind == TOK_OP && p->last > 0 && last[-1].kind == TOK_WORD &&
	         *p->partial == '\0' && (clause == KW_WHERE || clause == KW_ON || clause == KW_HAVING))
		add_values(p);
	else if (clause != KW_FROM && clause != KW_LIMIT && clause != KW_NONE)
		add_columns(p);
}

/* ---- together ---------------------------------------------------------------------------- */

/* The heavier first. */
static int
by_weight(const void *a, const void *b)
{
	float4 x = ((const SpeqlCompletion *) a)->probability,
	       y = ((const SpeqlCompletion *) b)->probability;

	return x > y ? -1 : x < y;
}

/* Writes what was found. */
void
speql_write_completions(SpeqlCompletions *c, StringInfo out)
{
	float4 sum = 0;

	qsort(c->item, c->n, sizeof(SpeqlCompletion), by_weight);
	for (int i = 0; i < c->n; i++)
		sum += c->item[i].probability;
	for (int i = 0; i < c->n; i++)
	{
		const SpeqlCompletion *one = &c->item[i];
		float4 probability = one->probability / Max(sum, 1);

		appendBinaryStringInfo(out, (char *) &probability, sizeof(probability));
		appendBinaryStringInfo(out, one->source, strlen(one->source) + 1);
		appendBinaryStringInfo(out, one->insert, strlen(one->insert) + 1);
		appendBinaryStringInfo(out, one->full, strlen(one->full) + 1);
	}
}

/* Finds completions. */
void
speql_predict(const char *text, int cursor, const char *repaired, bool valid,
              SpeqlCompletions *found)
{
	Predictor p = {
	    .text = text, .last = -1, .partial = "", .found = found, .context = CurrentMemoryContext};
	int start, len;
	char *statement;

	if (cursor < (int) strlen(text))
		return;
	speql_statement_at(text, cursor, &start, &len);
	statement = pnstrdup(text + start, len);
	p.tokens = speql_lex(statement, len);
	p.last = p.tokens->n - 1;
	if (p.last >= 0)
	{
		const SpeqlToken *tok = &p.tokens->tok[p.last];

		if (tok->open)
			return; /* inside a quote anything may come */
		if (tok->end == len && tok->kind == TOK_WORD && tok->keyword == KW_NONE)
		{
			p.partial = pnstrdup(statement + tok->start, tok->end - tok->start);
			p.last--;
		}
		else
			p.glued = tok->end == len && tok->kind != TOK_PUNCT && tok->kind != TOK_OP;
	}
	add_history(&p, statement);
	if (valid && repaired != NULL)
		add_repair(&p, repaired);
	if (SPI_connect() == SPI_OK_CONNECT)
	{
		add_catalog(&p);
		SPI_finish();
	}
}

/* Reads one back. */
bool
speql_next_completion(const char **data, const char *end, SpeqlCompletion *c)
{
	if (*data >= end)
		return false;
	memcpy(&c->probability, *data, sizeof(float4));
	*data += sizeof(float4);
	c->source = *data;
	*data += strlen(c->source) + 1;
	c->insert = *data;
	*data += strlen(c->insert) + 1;
	c->full = *data;
	*data += strlen(c->full) + 1;
	return true;
}
