/*
 * speql_scope.c: see speql_scope.h.
 *
 * The written FROM clause is analysed as "SELECT * FROM …" with the WITH items that it may read: so
 * subqueries, aliases, functions and views need no code here. Tables that are not written yet come
 * from the catalog, by SQL, and are kept for a minute, as the schema prompt is.
 */
#include "speql_scope.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "speql.h"

#define CATALOG_LIFE 60 /* seconds that what was read is kept */
#define MAX_TABLES   64
#define MAX_NAMES    2000 /* of a scope; the engine takes some thousand */

/* A table that the role may read. */
typedef struct Table
{
	Oid relid;
	const char *name;
	int n;
	const char **columns; /* as they are, not quoted */
	Oid *types;
} Table;

/* A foreign key between two of them. */
typedef struct Key
{
	Oid from, to;
	int n;
	const char **columns, **keys; /* quoted */
} Key;

/* What was read of the catalog. */
typedef struct Catalog
{
	int n_tables;
	Table tables[MAX_TABLES];
	List *keys;
} Catalog;

static Catalog *catalog = NULL;
static MemoryContext catalog_context = NULL;
static TimestampTz catalog_read = 0;

/* A table of a scope under the name that the query has for it. */
typedef struct Named
{
	Oid relid;
	const char *ref; /* quoted */
} Named;

/* ---- the catalog ------------------------------------------------------------------------- */

/* The texts of an array column of a result. */
static const char **
texts_of(HeapTuple tuple, TupleDesc desc, int column, int *n)
{
	bool null;
	Datum array = SPI_getbinval(tuple, desc, column, &null), *items;
	const char **texts;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &items, NULL, n);
	texts = palloc(*n * sizeof(char *));
	for (int i = 0; i < *n; i++)
		texts[i] = TextDatumGetCString(items[i]);
	return texts;
}

/* Reads the tables that the role may read. In an SPI connection; results stay in the context. */
static void
read_tables(Catalog *c)
{
	SPI_execute("SELECT c.oid, c.relname::pg_catalog.text,"
	            " pg_catalog.array_agg(a.attname::pg_catalog.text ORDER BY a.attnum),"
	            " pg_catalog.array_agg(a.atttypid::pg_catalog.text ORDER BY a.attnum)"
	            " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
	            " WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND a.attnum > 0"
	            " AND NOT a.attisdropped AND pg_catalog.pg_table_is_visible(c.oid)"
	            " AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace"
	            " AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')"
	            " GROUP BY c.oid, c.relname ORDER BY c.oid",
	            true, MAX_TABLES);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(catalog_context);
		Table *table = &c->tables[c->n_tables++];
		const char **types;
		bool null;

		table->relid = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &null));
		table->name = TextDatumGetCString(SPI_getbinval(tuple, desc, 2, &null));
		table->columns = texts_of(tuple, desc, 3, &table->n);
		types = texts_of(tuple, desc, 4, &table->n);
		table->types = palloc(table->n * sizeof(Oid));
		for (int k = 0; k < table->n; k++)
			table->types[k] = atooid(types[k]);
		MemoryContextSwitchTo(old);
	}
}

/* Reads the foreign keys. */
static void
read_keys(Catalog *c)
{
	SPI_execute("SELECT k.conrelid, k.confrelid,"
	            " pg_catalog.array_agg(pg_catalog.quote_ident(x.attname) ORDER BY i),"
	            " pg_catalog.array_agg(pg_catalog.quote_ident(y.attname) ORDER BY i)"
	            " FROM pg_catalog.pg_constraint k,"
	            " LATERAL pg_catalog.generate_subscripts(k.conkey, 1) i,"
	            " pg_catalog.pg_attribute x, pg_catalog.pg_attribute y"
	            " WHERE k.contype = 'f' AND x.attrelid = k.conrelid AND x.attnum = k.conkey[i]"
	            " AND y.attrelid = k.confrelid AND y.attnum = k.confkey[i]"
	            " GROUP BY k.oid, k.conrelid, k.confrelid ORDER BY k.oid",
	            true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple tuple = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(catalog_context);
		Key *key = palloc(sizeof(Key));
		bool null;

		key->from = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &null));
		key->to = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &null));
		key->columns = texts_of(tuple, desc, 3, &key->n);
		key->keys = texts_of(tuple, desc, 4, &key->n);
		c->keys = lappend(c->keys, key);
		MemoryContextSwitchTo(old);
	}
}

/* Makes sure that what is known of the catalog is not old. */
static void
read_catalog(void)
{
	TimestampTz now = GetCurrentTimestamp();
	Catalog *fresh;

	if (catalog != NULL && now - catalog_read < CATALOG_LIFE * USECS_PER_SEC)
		return;
	if (catalog_context == NULL)
		catalog_context =
		    AllocSetContextCreate(TopMemoryContext, "prepack names", ALLOCSET_DEFAULT_SIZES);
	catalog = NULL;
	MemoryContextReset(catalog_context);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	fresh = MemoryContextAllocZero(catalog_context, sizeof(Catalog));
	read_tables(fresh);
	read_keys(fresh);
	catalog = fresh;
	catalog_read = now;
	SPI_finish();
}

/* ---- names of a scope -------------------------------------------------------------------- */

/* What may be done with values of a type. */
static SpeqlClass
class_of(Oid type)
{
	switch (getBaseType(type))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			return SPEQL_NUMBER;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return SPEQL_STRING;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return SPEQL_DATE;
		case BOOLOID:
			return SPEQL_BOOL;
		default:
			return SPEQL_OTHER;
	}
}

/* Adds a name. */
static void
add_column(SpeqlScope *scope, const char *name, Oid type)
{
	SpeqlColumn *column;

	if (list_length(scope->columns) == MAX_NAMES)
		return;
	column = palloc(sizeof(SpeqlColumn));
	*column = (SpeqlColumn){pstrdup(name), class_of(type)};
	scope->columns = lappend(scope->columns, column);
}

/* True when a name stands in more than one place of a target list. */
static bool
ambiguous(const List *targets, const char *name)
{
	int n = 0;
	ListCell *lc;

	foreach (lc, targets)
		n += strcmp(((TargetEntry *) lfirst(lc))->resname, name) == 0;
	return n > 1;
}

/* True when the role may read a column of a relation, or it is none. */
static bool
may_read(const RangeTblEntry *rte, AttrNumber column)
{
	return rte->rtekind != RTE_RELATION ||
	       pg_class_aclcheck(rte->relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
	       pg_attribute_aclcheck(rte->relid, column, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/* The names that a query SELECT * FROM … gives to what is behind it. */
static void
add_columns_of(SpeqlScope *scope, const Query *query)
{
	ListCell *lc;

	foreach (lc, query->targetList)
	{
		const TargetEntry *target = lfirst(lc);
		const Var *var = (const Var *) target->expr;
		const RangeTblEntry *rte = IsA(var, Var) ? rt_fetch(var->varno, query->rtable) : NULL;
		Oid type = exprType((const Node *) target->expr);
		const char *name = quote_identifier(target->resname);

		if (rte != NULL && !may_read(rte, var->varattno))
			continue;
		if (!ambiguous(query->targetList, target->resname))
			add_column(scope, name, type);
		if (rte != NULL && rte->rtekind != RTE_JOIN)
			add_column(scope, psprintf("%s.%s", quote_identifier(rte->eref->aliasname), name),
			           type);
	}
}

/* The names of a table's columns, and those behind its own name. */
static void
add_columns_of_table(SpeqlScope *scope, const Table *table)
{
	for (int i = 0; i < table->n; i++)
	{
		const char *name = quote_identifier(table->columns[i]);

		add_column(scope, name, table->types[i]);
		add_column(scope, psprintf("%s.%s", quote_identifier(table->name), name), table->types[i]);
	}
}

/* ---- joins ------------------------------------------------------------------------------- */

/* The condition along a key between two tables, in the order in which they are given. */
static char *
condition(const Key *key, bool forth, const char *one, const char *other)
{
	StringInfoData on;

	initStringInfo(&on);
	for (int i = 0; i < key->n; i++)
		appendStringInfo(&on, "%s%s.%s = %s.%s", i ? " and " : "", one,
		                 forth ? key->columns[i] : key->keys[i], other,
		                 forth ? key->keys[i] : key->columns[i]);
	return on.data;
}

/* The conditions along all keys between a table and others. */
static List *
conditions(Named one, const List *others)
{
	List *found = NIL;
	ListCell *lk, *lo;

	foreach (lo, others)
		foreach (lk, catalog->keys)
		{
			const Named *other = lfirst(lo);
			const Key *key = lfirst(lk);

			if (key->from == one.relid && key->to == other->relid)
				found = lappend(found, condition(key, true, one.ref, other->ref));
			else if (key->to == one.relid && key->from == other->relid)
				found = lappend(found, condition(key, false, one.ref, other->ref));
		}
	return found;
}

/* The conditions that join each of some tables to those before it; NULL: a key is missing. */
static char *
chain(const List *named)
{
	List *before = NIL;
	StringInfoData all;
	ListCell *lc;

	initStringInfo(&all);
	foreach (lc, named)
	{
		List *on = conditions(*(Named *) lfirst(lc), before);

		if (on == NIL && before != NIL)
			return NULL;
		if (on != NIL)
			appendStringInfo(&all, "%s%s", all.len > 0 ? " and " : "", (char *) linitial(on));
		before = lappend(before, lfirst(lc));
	}
	return all.data;
}

/* True when a table is among others. */
static bool
is_among(Oid relid, const List *named)
{
	ListCell *lc;

	foreach (lc, named)
		if (((Named *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

/* The tables that a key links to some tables of a scope. */
static List *
neighbours(const List *named)
{
	List *tables = NIL;

	for (int i = 0; i < catalog->n_tables; i++)
	{
		const Table *table = &catalog->tables[i];
		Named one = {table->relid, quote_identifier(table->name)};

		if (!is_among(table->relid, named) && conditions(one, named) != NIL)
			tables = lappend(tables, (void *) table);
	}
	return tables;
}

/* What may be joined next, with its ON. */
static void
add_joins(SpeqlScope *scope, const List *named, const char *on_word)
{
	List *tables = neighbours(named);
	ListCell *lt, *lc;

	foreach (lt, tables)
	{
		const Table *table = lfirst(lt);
		Named one = {table->relid, quote_identifier(table->name)};

		foreach (lc, conditions(one, named))
			scope->joins =
			    lappend(scope->joins, psprintf("%s %s %s", one.ref, on_word, (char *) lfirst(lc)));
	}
}

/* ---- the written FROM clause ------------------------------------------------------------- */

/* The text that a query's FROM clause is read by: its WITH items and SELECT * FROM. */
static char *
probe_text(const SpeqlTokens *t, int select, int from, int to, const char *tail)
{
	SpeqlBlocks *b = speql_blocks(t, t->len);
	StringInfoData probe;

	initStringInfo(&probe);
	if (b->cursor >= 0 && b->block[b->cursor].first <= select)
	{
		const SpeqlBlock *block = &b->block[b->cursor];
		const char *whole = speql_block_text(b, b->cursor);
		int end = block->last < t->n ? t->tok[block->last].start : t->len;
		int own = end - t->tok[block->first].start, before = (int) strlen(whole) - own;

		/* What stands before the block's own text are WITH items. */
		if (before > 0 &&
		    strcmp(whole + before, pnstrdup(t->text + t->tok[block->first].start, own)) == 0)
			appendBinaryStringInfo(&probe, whole, before);
		appendBinaryStringInfo(&probe, t->text + t->tok[block->first].start,
		                       t->tok[select].start - t->tok[block->first].start);
	}
	appendStringInfoString(&probe, " SELECT * FROM ");
	appendBinaryStringInfo(&probe, t->text + t->tok[from].end,
	                       t->tok[to - 1].end - t->tok[from].end);
	appendStringInfo(&probe, " %s", tail);
	return probe.data;
}

/*
 * Analyses the FROM clause of tokens (from, to); its named tables go to a list. NULL: it is none.
 */
static SpeqlScope *
written_scope(const SpeqlTokens *t, int select, int from, int to, const char *tail, List **named)
{
	SpeqlScope *scope = palloc0(sizeof(SpeqlScope));
	SpeqlCheck check;
	ListCell *lc;

	if (to <= from + 1)
		return NULL;
	speql_check(probe_text(t, select, from, to, tail), &check);
	if (!check.analyses)
		return NULL;
	add_columns_of(scope, check.query);
	if (scope->columns == NIL)
		return NULL;
	foreach (lc, check.query->rtable)
	{
		const RangeTblEntry *rte = lfirst(lc);
		Named *one;

		if (rte->rtekind != RTE_RELATION || !rte->inFromCl)
			continue;
		one = palloc(sizeof(Named));
		*one = (Named){rte->relid, quote_identifier(rte->eref->aliasname)};
		*named = lappend(*named, one);
	}
	return scope;
}

/* ---- a FROM clause that is to come ------------------------------------------------------- */

/* True when some table has a column. */
static bool
has_column(const Table *table, const char *name)
{
	for (int i = 0; i < table->n; i++)
		if (strcmp(table->columns[i], name) == 0)
			return true;
	return false;
}

/* The columns that a query names so far: words that some table has as a column. */
static List *
columns_named(const SpeqlTokens *t, int first, int end)
{
	List *names = NIL;

	for (int k = first; k < end; k++)
	{
		const SpeqlToken *tok = &t->tok[k];
		char *name;
		bool known = false;

		if (tok->kind != TOK_WORD || tok->keyword != KW_NONE || t->tok[k - 1].keyword == KW_AS ||
		    (k + 1 < t->n && (tok[1].punct == '(' || tok[1].punct == '.')))
			continue;
		name = str_tolower(t->text + tok->start, tok->end - tok->start, C_COLLATION_OID);
		for (int i = 0; i < catalog->n_tables; i++)
			known = known || has_column(&catalog->tables[i], name);
		if (known)
			names = lappend(names, name);
	}
	return names;
}

/* True when a table, or one of two, has all of some columns. */
static bool
has_all(const Table *one, const Table *other, const List *names)
{
	ListCell *lc;

	foreach (lc, names)
		if (!has_column(one, lfirst(lc)) && (other == NULL || !has_column(other, lfirst(lc))))
			return false;
	return true;
}

/* Adds the scope of one table, or of two along a key. */
static void
add_scope(SpeqlPlace *place, const Table *one, const Table *other, const char *from)
{
	SpeqlScope *scope = palloc0(sizeof(SpeqlScope));
	Named first = {one->relid, quote_identifier(one->name)};

	if (list_length(place->scopes) >= SPEQL_MAX_SCOPES)
		return;
	scope->from = from;
	add_columns_of_table(scope, one);
	if (other != NULL)
		add_columns_of_table(scope, other);
	else
		add_joins(scope, list_make1(&first), place->upper ? "ON" : "on");
	place->scopes = lappend(place->scopes, scope);
}

/* The scopes of single tables that have some columns; if there are none, of two. */
static void
add_coming_scopes(SpeqlPlace *place, const List *names)
{
	const char *on = place->upper ? "ON" : "on", *join = place->upper ? "JOIN" : "join";

	for (int i = 0; i < catalog->n_tables; i++)
		if (has_all(&catalog->tables[i], NULL, names))
			add_scope(place, &catalog->tables[i], NULL, quote_identifier(catalog->tables[i].name));
	for (int i = 0; place->scopes == NIL && i < catalog->n_tables; i++)
		for (int k = 0; k < i; k++)
		{
			const Table *one = &catalog->tables[i], *other = &catalog->tables[k];
			Named first = {one->relid, quote_identifier(one->name)};
			Named second = {other->relid, quote_identifier(other->name)};
			List *along = conditions(second, list_make1(&first));

			if (along != NIL && has_all(one, other, names))
				add_scope(place, one, other,
				          psprintf("%s %s %s %s %s", first.ref, join, second.ref, on,
				                   (char *) linitial(along)));
		}
}

/* The scopes of a table that is to come after some that are written. */
static void
add_joined_scopes(SpeqlPlace *place, const SpeqlScope *written, const List *named)
{
	List *tables = neighbours(named);
	ListCell *lc, *lo;

	foreach (lc, tables)
	{
		const Table *table = lfirst(lc);
		Named one = {table->relid, quote_identifier(table->name)};
		List *on = conditions(one, named);
		char *all = chain(lappend(list_copy(named), &one));

		foreach (lo, on)
		{
			SpeqlScope *scope = palloc0(sizeof(SpeqlScope));

			if (list_length(place->scopes) >= SPEQL_MAX_SCOPES)
				return;
			scope->columns = list_copy(written->columns);
			scope->on = list_make1(place->comma && all != NULL ? all : lfirst(lo));
			scope->from = place->comma ? one.ref
			                           : psprintf("%s %s %s", one.ref, place->upper ? "ON" : "on",
			                                      (char *) lfirst(lo));
			place->scopes = lappend(place->scopes, scope);
		}
	}
}

/* ---- the place --------------------------------------------------------------------------- */

/* True for a keyword that a clause, or an item of one, begins with. */
static bool
begins_item(const SpeqlTokens *t, int k)
{
	switch (t->tok[k].keyword)
	{
		case KW_SELECT:
		case KW_JOIN:
		case KW_ON:
		case KW_WHERE:
		case KW_BY:
		case KW_HAVING:
		case KW_LIMIT:
		case KW_OR:
			return true;
		case KW_AND:
			return !t->tok[k].between;
		case KW_FROM:
			return k == 0 || t->tok[k - 1].keyword != KW_DISTINCT;
		default:
			return t->tok[k].punct == ',';
	}
}

/* Finds the clause at the end, and where its last item begins. False: no clause that is known. */
static bool
find_clause(const SpeqlTokens *t, int opener, int depth, SpeqlPlace *place, int *at)
{
	int item = -1;

	for (int k = t->n - 1; k > opener; k--)
	{
		SpeqlKeyword keyword = t->tok[k].keyword;

		if (t->tok[k].depth != depth)
			continue;
		if (keyword == KW_USING || keyword == KW_OFFSET || keyword == KW_FETCH ||
		    keyword == KW_FOR || keyword == KW_WINDOW || keyword == KW_UNION ||
		    keyword == KW_INTERSECT || keyword == KW_EXCEPT || keyword == KW_VALUES)
			return false;
		if (!begins_item(t, k))
			continue;
		item = item < 0 ? k : item;
		if (keyword == KW_NONE || keyword == KW_AND || keyword == KW_OR)
			continue;
		place->clause = keyword;
		if (keyword == KW_BY)
			place->clause = k > 0 ? t->tok[k - 1].keyword : KW_NONE;
		place->comma = keyword == KW_FROM && item > k;
		place->from = item + 1;
		place->to = t->n;
		*at = k;
		if (keyword == KW_SELECT && item == k && k + 1 < t->n &&
		    (t->tok[k + 1].keyword == KW_DISTINCT || t->tok[k + 1].keyword == KW_ALL))
			place->from++;
		return place->clause != KW_NONE && place->clause != KW_PARTITION;
	}
	return false;
}

/* The last token of a keyword at the depth of a query, before `at`; −1: there is none. */
static int
last_of(const SpeqlTokens *t, int opener, int depth, int at, SpeqlKeyword keyword)
{
	for (int k = at; k > opener; k--)
		if (t->tok[k].depth == depth && t->tok[k].keyword == keyword && begins_item(t, k))
			return k;
	return -1;
}

/* Notes one item of the select list: tokens [first, end). */
static void
note_item(const SpeqlTokens *t, int first, int end, SpeqlPlace *place)
{
	int last = end - 1, plain_end = end;
	char *name;

	if (last > first && t->tok[last].kind == TOK_WORD && t->tok[last].keyword == KW_NONE &&
	    (t->tok[last - 1].keyword == KW_AS || t->tok[last - 1].kind == TOK_WORD))
		plain_end = t->tok[last - 1].keyword == KW_AS ? last - 1 : last;
	for (int k = first; k + 1 < end; k++)
	{
		static const char *const aggregates[] = {"sum", "avg", "count", "min", "max"};
		const SpeqlToken *tok = &t->tok[k];

		for (int i = 0; tok[1].punct == '(' && i < lengthof(aggregates); i++)
			if (tok->end - tok->start == (int) strlen(aggregates[i]) &&
			    pg_strncasecmp(t->text + tok->start, aggregates[i], tok->end - tok->start) == 0)
				place->grouped = true;
	}
	if (t->tok[last].kind != TOK_WORD || t->tok[last].keyword != KW_NONE)
		return;
	name = str_tolower(t->text + t->tok[last].start, t->tok[last].end - t->tok[last].start,
	                   C_COLLATION_OID);
	if (plain_end < end || last == first || (last == first + 2 && t->tok[first + 1].punct == '.'))
		place->outputs = lappend(place->outputs, name);
	if (plain_end == first + 1 || (plain_end == first + 3 && t->tok[first + 1].punct == '.'))
		place->plain =
		    lappend(place->plain,
		            str_tolower(t->text + t->tok[first].start,
		                        t->tok[plain_end - 1].end - t->tok[first].start, C_COLLATION_OID));
}

/* Notes the items of a select list. */
static void
note_list(const SpeqlTokens *t, int select, int end, SpeqlPlace *place)
{
	int first = select + 1, depth = t->tok[select].depth;

	if (first < end && t->tok[first].keyword == KW_DISTINCT)
	{
		place->distinct = true;
		first++;
	}
	for (int k = first; k <= end; k++)
		if (k == end || (t->tok[k].depth == depth && t->tok[k].punct == ','))
		{
			if (k > first)
				note_item(t, first, k, place);
			first = k + 1;
		}
}

/* The token after the last one of the FROM items that stand before an unfinished item. */
static int
items_end(const SpeqlTokens *t, int at)
{
	while (at > 0 && (t->tok[at - 1].keyword == KW_INNER || t->tok[at - 1].keyword == KW_LEFT ||
	                  t->tok[at - 1].keyword == KW_RIGHT || t->tok[at - 1].keyword == KW_FULL ||
	                  t->tok[at - 1].keyword == KW_OUTER || t->tok[at - 1].keyword == KW_CROSS ||
	                  t->tok[at - 1].keyword == KW_NATURAL))
		at--;
	return at;
}

/* The first token behind a FROM clause. */
static int
clause_end(const SpeqlTokens *t, int from)
{
	for (int k = from + 1; k < t->n; k++)
	{
		SpeqlKeyword keyword = t->tok[k].keyword;

		if (t->tok[k].depth == t->tok[from].depth &&
		    (keyword == KW_WHERE || keyword == KW_GROUP || keyword == KW_HAVING ||
		     keyword == KW_ORDER || keyword == KW_LIMIT))
			return k;
	}
	return t->n;
}

/* Sets the scope of the written FROM items up to a token. */
static void
add_written_scope(const SpeqlTokens *t, int select, int from, int to, const char *tail,
                  SpeqlPlace *place)
{
	List *named = NIL;
	SpeqlScope *scope = written_scope(t, select, from, to, tail, &named);

	if (scope == NULL)
		return;
	if (place->clause == KW_ON && named != NIL)
		scope->on = conditions(*(Named *) llast(named),
		                       list_truncate(list_copy(named), list_length(named) - 1));
	else if (place->comma && chain(named) != NULL)
		scope->on = list_make1(chain(named));
	add_joins(scope, named, place->upper ? "ON" : "on");
	place->scopes = list_make1(scope);
}

/* Sets the scopes of a place within the FROM clause, where a table is to come or has come. */
static void
add_from_scopes(const SpeqlTokens *t, int select, int from, bool glued, SpeqlPlace *place)
{
	int n = place->to - place->from; /* tokens of the item */
	List *named = NIL;
	SpeqlScope *written;

	if (n > 1 || (n == 1 && !glued))
	{
		/* The table is there; a word that may go on is none of its. */
		int to = glued ? t->n - 1 : t->n;

		place->needs_on = place->clause == KW_JOIN;
		place->clause = place->needs_on ? KW_ON : KW_NONE;
		add_written_scope(t, select, from, to, place->needs_on ? "ON true" : "", place);
		place->from = to;
		return;
	}
	if (place->clause == KW_FROM && !place->comma)
	{
		add_coming_scopes(place, columns_named(t, select + 1, from));
		return;
	}
	written = written_scope(t, select, from, items_end(t, place->from - 1), "", &named);
	if (written != NULL)
		add_joined_scopes(place, written, named);
}

/* True when the first keyword of a text is typed in capitals. */
static bool
in_capitals(const SpeqlTokens *t, int k)
{
	return t->text[t->tok[k].start] >= 'A' && t->text[t->tok[k].start] <= 'Z';
}

/* Finds the place. */
bool
speql_place(const SpeqlTokens *t, bool glued, SpeqlPlace *place)
{
	int opener = speql_level(t, t->n), at, select, from;
	int depth = opener < 0 ? 0 : t->tok[opener].depth + 1;

	memset(place, 0, sizeof(*place));
	if (!find_clause(t, opener, depth, place, &at))
		return false;
	select = last_of(t, opener, depth, at, KW_SELECT);
	if (select < 0)
		return false;
	place->upper = in_capitals(t, select);
	from = last_of(t, opener, depth, at, KW_FROM);
	read_catalog();
	if (from < select)
		add_coming_scopes(place, columns_named(t, select + 1, glued ? t->n - 1 : t->n));
	else
	{
		note_list(t, select, from, place);
		if (place->clause == KW_FROM || place->clause == KW_JOIN)
			add_from_scopes(t, select, from, glued, place);
		else if (place->clause == KW_ON)
			add_written_scope(t, select, from, at, "ON true", place);
		else
			add_written_scope(t, select, from, clause_end(t, from), "", place);
	}
	return place->scopes != NIL;
}
