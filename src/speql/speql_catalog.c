/*
 * speql_catalog.c: names that an unfinished text does not have right yet, looked up in the catalog.
 *
 * A column that no table of the query has brings in the one visible table that does; the table is
 * joined along a foreign key, or begins the FROM clause if there is none. An alias that nothing
 * bears yet stands for the one table that has all the columns which the text takes from it. Where
 * two tables could be meant, or no key leads there, nothing is added: no join is ever guessed. The
 * last word of a text may also be the beginning of a name, and is completed when only one name
 * fits; another word is corrected when only one name is so near.
 *
 * Only relations on the search_path that the current role may select from are looked at; those of
 * the system when no other has the column. Cost: a scan of pg_class or two, and a lookup by name
 * for each relation that is visible.
 */
#include "speql.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/scansup.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

/* A table of a FROM clause. */
typedef struct ScopeEntry
{
	Oid relid;
	char *ref; /* how the query names it: its alias, else its name, quoted as needed */
	int end;   /* the token after the last one of the item */
} ScopeEntry;

/* What a name that a text holds may be of the name that is looked for. */
typedef enum NameMatch
{
	NAME_EXACT,
	NAME_PREFIX, /* its beginning */
	NAME_NEAR    /* misspelt */
} NameMatch;

/* A name that a text holds, and what it may become. */
typedef struct NameSearch
{
	const char *name;
	NameMatch match;
	List *columns; /* if not NIL: the relation must have all of them instead */
	int worst;     /* finds that are worse than the best so far do not count */
	Oid relid;     /* the one relation found */
	char *found;
	int n_found;
} NameSearch;

/* The identifier that a token spells, folded as the server folds it. */
static char *
identifier(const SpeqlTokens *t, int k)
{
	const SpeqlToken *tok = &t->tok[k];
	char *name, *out;

	if (tok->kind == TOK_WORD)
		return downcase_truncate_identifier(t->text + tok->start, tok->end - tok->start, false);
	name = pnstrdup(t->text + tok->start + 1, Max(tok->end - tok->start - 2, 0));
	out = name;
	for (const char *c = name; *c; c++)
	{
		*out++ = *c;
		if (*c == '"' && c[1] == '"')
			c++;
	}
	*out = '\0';
	return name;
}

/* True if a token can be a name. */
static bool
is_name(const SpeqlTokens *t, int k)
{
	return k >= 0 && k < t->n &&
	       (t->tok[k].kind == TOK_QUOTED ||
	        (t->tok[k].kind == TOK_WORD && t->tok[k].keyword == KW_NONE));
}

/* True if only closing brackets follow a token: it is the word that is being typed. */
static bool
is_last(const SpeqlTokens *t, int k)
{
	for (int i = k + 1; i < t->n; i++)
		if (t->tok[i].punct != ')' && t->tok[i].punct != ']' && t->tok[i].keyword != KW_END)
			return false;
	return true;
}

/* The tables of the FROM clause that begins at a token. */
static List *
scope_of(const SpeqlTokens *t, int from)
{
	List *scope = NIL;
	int depth = from < 0 ? 0 : t->tok[from].depth;

	for (int k = from; k >= 0 && k < t->n && t->tok[k].depth >= depth; k++)
	{
		SpeqlKeyword keyword = t->tok[k].keyword;
		ScopeEntry *entry;
		RangeVar *name;

		if (t->tok[k].depth > depth)
			continue;
		if (keyword == KW_WHERE || keyword == KW_GROUP || keyword == KW_ORDER ||
		    t->tok[k].punct == ')')
			break;
		if ((keyword != KW_FROM && keyword != KW_JOIN && t->tok[k].punct != ',') ||
		    !is_name(t, k + 1))
			continue;
		entry = palloc(sizeof(ScopeEntry));
		name = makeRangeVar(NULL, identifier(t, ++k), -1);
		if (k + 2 < t->n && t->tok[k + 1].punct == '.' && is_name(t, k + 2))
		{
			name->schemaname = name->relname;
			name->relname = identifier(t, k += 2);
		}
		entry->relid = RangeVarGetRelid(name, NoLock, true);
		if (k + 1 < t->n && t->tok[k + 1].keyword == KW_AS)
			k++;
		if (is_name(t, k + 1))
			k++;
		entry->ref = t->tok[k].keyword == KW_AS ? name->relname : identifier(t, k);
		entry->end = k + 1;
		if (OidIsValid(entry->relid))
			scope = lappend(scope, entry);
	}
	return scope;
}

/* A search for a name. */
static NameSearch
search_for(const char *name, NameMatch match)
{
	return (NameSearch){.name = name, .match = match, .worst = INT_MAX};
}

/* Notes a find; another one that is as good makes it ambiguous, a better one makes it forgotten. */
static void
found(NameSearch *s, Oid relid, const char *name, int badness)
{
	if (badness > s->worst)
		return;
	if (badness < s->worst)
		s->n_found = 0;
	s->worst = badness;
	if (s->n_found && s->relid == relid && strcmp(s->found, name) == 0)
		return;
	s->n_found++;
	s->relid = relid;
	s->found = pstrdup(name);
}

/* Compares a name with the one that is looked for. */
static void
compare_name(NameSearch *s, Oid relid, const char *name)
{
	int len = (int) strlen(s->name), slips;

	if (s->match == NAME_NEAR)
	{
		slips = speql_distance(s->name, name);
		if (slips <= speql_slips(len))
			found(s, relid, name, slips);
	}
	else if (strncmp(name, s->name, len) == 0 && (s->match == NAME_PREFIX || name[len] == '\0'))
		found(s, relid, name, 0);
}

/* True when a relation has all columns of a list of names. */
static bool
has_columns(Oid relid, List *columns)
{
	ListCell *lc;

	foreach (lc, columns)
		if (get_attnum(relid, lfirst(lc)) <= 0)
			return false;
	return true;
}

/* Looks for the column, or columns, in one relation. badness: of the relation. */
static void
search_columns(NameSearch *s, Oid relid, int badness)
{
	char *name;

	if (s->columns != NIL ? has_columns(relid, s->columns)
	                      : s->match == NAME_EXACT && get_attnum(relid, s->name) > 0)
		found(s, relid, s->name, badness);
	if (s->columns != NIL || s->match == NAME_EXACT)
		return;
	for (AttrNumber i = 1; (name = get_attname(relid, i, true)) != NULL; i++)
		compare_name(s, relid, name);
}

/*
 * Looks through the visible relations, for a column or for the relation's own name. Of the system's
 * relations tables are likelier meant than views, which show the same columns again.
 */
static void
scan_relations(NameSearch *s, bool columns, bool system)
{
	Relation rel = table_open(RelationRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple;

	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if ((form->oid < FirstNormalObjectId) != system ||
		    form->relpersistence == RELPERSISTENCE_TEMP || strchr("rpvmf", form->relkind) == NULL ||
		    !RelationIsVisible(form->oid) ||
		    pg_class_aclcheck(form->oid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			continue;
		if (columns)
			search_columns(s, form->oid, system && form->relkind != RELKIND_RELATION);
		else
			compare_name(s, form->oid, NameStr(form->relname));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* The same; whole names of columns are looked for in the system's relations, too. */
static void
search_relations(NameSearch *s, bool columns)
{
	scan_relations(s, columns, false);
	if (s->n_found == 0 && columns && s->match == NAME_EXACT)
		scan_relations(s, columns, true);
}

/* The join condition of a foreign key from one relation to another, or NULL. */
static char *
key_condition(Oid from, const char *from_ref, Oid to, const char *to_ref)
{
	Relation rel = table_open(from, AccessShareLock);
	StringInfoData on;
	ListCell *lc;

	initStringInfo(&on);
	foreach (lc, RelationGetFKeyList(rel))
	{
		ForeignKeyCacheInfo *key = lfirst(lc);

		if (key->confrelid != to)
			continue;
		for (int i = 0; i < key->nkeys; i++)
			appendStringInfo(&on, "%s%s.%s = %s.%s", i ? " AND " : "", quote_identifier(from_ref),
			                 quote_identifier(get_attname(from, key->conkey[i], false)),
			                 quote_identifier(to_ref),
			                 quote_identifier(get_attname(to, key->confkey[i], false)));
		break;
	}
	table_close(rel, AccessShareLock);
	return on.len ? on.data : NULL;
}

/* A relation as a FROM item, under the name that the text calls it by. */
static char *
from_item_of(Oid relid, const char *ref)
{
	char *name = get_rel_name(relid);

	return strcmp(name, ref) == 0
	           ? pstrdup(quote_identifier(name))
	           : psprintf("%s AS %s", quote_identifier(name), quote_identifier(ref));
}

/* The text with a relation joined to one that a foreign key links it to, either way. */
static char *
join_relation(const SpeqlTokens *t, List *scope, Oid relid, const char *ref)
{
	ListCell *lc;

	foreach (lc, scope)
	{
		ScopeEntry *entry = lfirst(lc);
		char *on = key_condition(entry->relid, entry->ref, relid, ref);

		if (on == NULL)
			on = key_condition(relid, ref, entry->relid, entry->ref);
		if (on)
			return speql_splice(t, t->tok[entry->end - 1].end, 0,
			                    psprintf(" JOIN %s ON (%s)", from_item_of(relid, ref), on));
	}
	return NULL;
}

/* The text with a relation in the FROM clause of the level of a token. */
static char *
add_relation(const SpeqlTokens *t, int k, int from, List *scope, Oid relid, const char *ref,
             char **change)
{
	static const SpeqlKeyword after[] = {KW_WHERE, KW_GROUP, KW_HAVING, KW_WINDOW,
	                                     KW_ORDER, KW_LIMIT, KW_OFFSET};
	int opener = speql_level(t, k), at;

	*change = psprintf("table %s added", get_rel_name(relid));
	if (from >= 0)
		return scope ? join_relation(t, scope, relid, ref) : NULL;
	at = speql_level_end(t, opener, k);
	for (int i = 0; i < lengthof(after); i++)
	{
		int clause = speql_clause(t, opener, after[i], k);

		if (clause >= 0 && clause < at)
			at = clause;
	}
	return speql_splice(t, at < t->n ? t->tok[at].start : t->len, 0,
	                    psprintf(" FROM %s ", from_item_of(relid, ref)));
}

/* The text with the name at a token replaced. */
static char *
complete_name(const SpeqlTokens *t, int k, const char *name, char **change)
{
	*change = psprintf("%s %s", is_last(t, k) ? "completed" : "corrected to", name);
	return speql_splice(t, t->tok[k].start, t->tok[k].end - t->tok[k].start,
	                    quote_identifier(name));
}

/* The only find of a search, in place of the name at a token; NULL when there is none. */
static char *
take_find(const SpeqlTokens *t, int k, const NameSearch *s, char **change)
{
	if (s->n_found != 1 || strcmp(s->found, s->name) == 0)
		return NULL;
	return complete_name(t, k, s->found, change);
}

/* The column at a token completed, if it is the last word, or corrected, from some tables. */
static char *
mend_column(const SpeqlTokens *t, int k, List *scope, char **change)
{
	NameSearch s = search_for(identifier(t, k), is_last(t, k) ? NAME_PREFIX : NAME_NEAR);
	ListCell *lc;

	foreach (lc, scope)
		search_columns(&s, ((ScopeEntry *) lfirst(lc))->relid, 0);
	return take_find(t, k, &s, change);
}

/* Completes, corrects or brings in the owner of the column at a token. */
static char *
resolve_column(const SpeqlTokens *t, int k, int from, List *scope, bool add_tables, char **change)
{
	NameSearch s = search_for(identifier(t, k), NAME_EXACT);
	char *mended = is_last(t, k) ? mend_column(t, k, scope, change) : NULL;

	if (mended != NULL)
		return mended;
	if (add_tables)
		search_relations(&s, true);
	if (s.n_found == 1)
		return add_relation(t, k, from, scope, s.relid, get_rel_name(s.relid), change);
	/* A block that may read its surroundings may mean one of their columns. */
	if (s.n_found > 1 || !add_tables)
		return NULL;
	if (!is_last(t, k))
		return mend_column(t, k, scope, change);
	s = search_for(s.name, NAME_PREFIX);
	search_relations(&s, true);
	return take_find(t, k, &s, change);
}

/* The whole names of columns that the text takes from an alias. */
static List *
columns_taken(const SpeqlTokens *t, const char *alias)
{
	List *columns = NIL;

	for (int k = 0; k + 2 < t->n; k++)
		if (is_name(t, k) && t->tok[k + 1].punct == '.' && is_name(t, k + 2) &&
		    !is_last(t, k + 2) && strcmp(identifier(t, k), alias) == 0)
			columns = lappend(columns, identifier(t, k + 2));
	return columns;
}

/* Corrects the alias at a token, or brings in the table that it must stand for. */
static char *
resolve_alias(const SpeqlTokens *t, int k, int from, List *scope, bool add_tables, char **change)
{
	NameSearch s = search_for(identifier(t, k), NAME_NEAR);
	Oid relid = RangeVarGetRelid(makeRangeVar(NULL, identifier(t, k), -1), NoLock, true);
	ListCell *lc;

	if (add_tables && OidIsValid(relid))
		return add_relation(t, k, from, scope, relid, s.name, change);
	if (!add_tables)
		return NULL;
	foreach (lc, scope)
		compare_name(&s, ((ScopeEntry *) lfirst(lc))->relid, ((ScopeEntry *) lfirst(lc))->ref);
	if (s.n_found > 0)
		return take_find(t, k, &s, change);
	s = search_for(s.name, NAME_EXACT);
	s.columns = columns_taken(t, s.name);
	if (s.columns != NIL)
		search_relations(&s, true);
	return s.n_found == 1 ? add_relation(t, k, from, scope, s.relid, s.name, change) : NULL;
}

/* The column after an alias completed or corrected. */
static char *
resolve_qualified(const SpeqlTokens *t, int k, List *scope, char **change)
{
	ListCell *lc;

	foreach (lc, scope)
	{
		ScopeEntry *entry = lfirst(lc);

		if (is_name(t, k + 2) && strcmp(entry->ref, identifier(t, k)) == 0)
			return mend_column(t, k + 2, list_make1(entry), change);
	}
	return NULL;
}

/* True for the name of a WITH item of the text; where it is not known it is no slip either. */
static bool
is_with_item(const SpeqlTokens *t, const char *name)
{
	for (int k = 1; k + 1 < t->n; k++)
		if (is_name(t, k) && strcmp(identifier(t, k), name) == 0 &&
		    (t->tok[k + 1].keyword == KW_AS || t->tok[k + 1].punct == '(') &&
		    (t->tok[k - 1].keyword == KW_WITH || t->tok[k - 1].keyword == KW_RECURSIVE ||
		     t->tok[k - 1].punct == ','))
			return true;
	return false;
}

/* Looks names up in the catalog, as far as the current role may see them. */
char *
speql_resolve(const SpeqlTokens *t, int k, int sqlstate, SpeqlBlockKind kind, char **change)
{
	int from = speql_clause(t, speql_level(t, k), KW_FROM, k);
	bool from_item = k > 0 && from >= 0 && k > from && sqlstate == ERRCODE_UNDEFINED_TABLE &&
	                 (t->tok[k - 1].keyword == KW_FROM || t->tok[k - 1].keyword == KW_JOIN ||
	                  t->tok[k - 1].punct == ',');
	bool add_tables = kind != SPEQL_SUBQUERY;
	bool qualified = k + 2 < t->n && t->tok[k + 1].punct == '.';
	List *scope;

	if (!is_name(t, k))
		return NULL;
	if (from_item)
	{
		NameSearch s = search_for(identifier(t, k), is_last(t, k) ? NAME_PREFIX : NAME_NEAR);

		/* An arm of a recursive WITH item does not see the item's name in its own text. */
		if (qualified || (s.match == NAME_NEAR && (kind != SPEQL_MAIN || is_with_item(t, s.name))))
			return NULL;
		search_relations(&s, false);
		return take_find(t, k, &s, change);
	}
	scope = scope_of(t, from);
	if (!qualified)
		return resolve_column(t, k, from, scope, add_tables, change);
	if (sqlstate == ERRCODE_UNDEFINED_TABLE)
		return resolve_alias(t, k, from, scope, add_tables, change);
	return resolve_qualified(t, k, scope, change);
}
