/*
 * speql_catalog.c: names that an unfinished text does not have right yet, looked up in the catalog.
 *
 * A column that no table of the query has brings in the one visible table that does; the table is
 * joined along a foreign key, or begins the FROM clause if there is none. Where two tables could be
 * meant, or no key leads there, nothing is added: no join is ever guessed. The last word of a text
 * may also be the beginning of a name, and is completed when only one name fits.
 *
 * Only relations on the search_path that the current role may select from are looked at. Cost: one
 * scan of pg_class, and a lookup by name for each relation that is visible.
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

/* A name that a text holds, and what it may become. */
typedef struct NameSearch
{
	const char *name;
	bool prefix; /* it may be the beginning of the name */
	Oid relid;   /* the one relation found */
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

/* Notes a match of a search; another relation makes it ambiguous. */
static void
found(NameSearch *s, Oid relid, const char *name)
{
	if (s->n_found && s->relid == relid && strcmp(s->found, name) == 0)
		return;
	s->n_found++;
	s->relid = relid;
	s->found = pstrdup(name);
}

/* Looks for the column in one relation. */
static void
search_columns(NameSearch *s, Oid relid)
{
	char *name;

	if (!s->prefix)
	{
		AttrNumber attnum = get_attnum(relid, s->name);

		if (attnum > 0)
			found(s, relid, s->name);
		return;
	}
	for (AttrNumber i = 1; (name = get_attname(relid, i, true)) != NULL; i++)
		if (strncmp(name, s->name, strlen(s->name)) == 0)
			found(s, relid, name);
}

/* Looks through the visible relations, for a column or for the relation's own name. */
static void
search_relations(NameSearch *s, bool columns)
{
	Relation rel = table_open(RelationRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple;

	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		if (form->oid < FirstNormalObjectId || form->relpersistence == RELPERSISTENCE_TEMP ||
		    strchr("rpvmf", form->relkind) == NULL || !RelationIsVisible(form->oid) ||
		    pg_class_aclcheck(form->oid, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
			continue;
		if (columns)
			search_columns(s, form->oid);
		else if (strncmp(NameStr(form->relname), s->name, strlen(s->name)) == 0)
			found(s, form->oid, NameStr(form->relname));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
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

/* The text with a relation joined to one that a foreign key links it to, either way. */
static char *
join_relation(const SpeqlTokens *t, List *scope, Oid relid)
{
	char *name = get_rel_name(relid);
	ListCell *lc;

	foreach (lc, scope)
	{
		ScopeEntry *entry = lfirst(lc);
		char *on = key_condition(entry->relid, entry->ref, relid, name);

		if (on == NULL)
			on = key_condition(relid, name, entry->relid, entry->ref);
		if (on)
			return speql_splice(t, t->tok[entry->end - 1].end, 0,
			                    psprintf(" JOIN %s ON (%s)", quote_identifier(name), on));
	}
	return NULL;
}

/* The text with a relation in the FROM clause of the level of a token. */
static char *
add_relation(const SpeqlTokens *t, int k, int from, List *scope, Oid relid, char **change)
{
	static const SpeqlKeyword after[] = {KW_WHERE, KW_GROUP, KW_HAVING, KW_WINDOW,
	                                     KW_ORDER, KW_LIMIT, KW_OFFSET};
	int opener = speql_level(t, k), at;

	*change = psprintf("table %s added", get_rel_name(relid));
	if (from >= 0)
		return scope ? join_relation(t, scope, relid) : NULL;
	at = speql_level_end(t, opener, k);
	for (int i = 0; i < lengthof(after); i++)
	{
		int clause = speql_clause(t, opener, after[i], k);

		if (clause >= 0 && clause < at)
			at = clause;
	}
	return speql_splice(t, at < t->n ? t->tok[at].start : t->len, 0,
	                    psprintf(" FROM %s ", quote_identifier(get_rel_name(relid))));
}

/* The text with the name at a token replaced. */
static char *
complete_name(const SpeqlTokens *t, int k, const char *name, char **change)
{
	*change = psprintf("completed %s", name);
	return speql_splice(t, t->tok[k].start, t->tok[k].end - t->tok[k].start,
	                    quote_identifier(name));
}

/* Completes or brings in the owner of the column at a token. */
static char *
resolve_column(const SpeqlTokens *t, int k, int from, List *scope, bool add_tables, char **change)
{
	NameSearch s = {.name = identifier(t, k)};
	ListCell *lc;

	/* The last word may be the beginning of a column of the tables at hand. */
	s.prefix = is_last(t, k);
	if (s.prefix)
		foreach (lc, scope)
			search_columns(&s, ((ScopeEntry *) lfirst(lc))->relid);
	if (s.n_found == 1 && strcmp(s.found, s.name) != 0)
		return complete_name(t, k, s.found, change);
	if (!add_tables || s.n_found > 0)
		return NULL;
	s.prefix = false;
	search_relations(&s, true);
	if (s.n_found == 1)
		return add_relation(t, k, from, scope, s.relid, change);
	if (s.n_found > 1 || !is_last(t, k))
		return NULL;
	s.prefix = true;
	search_relations(&s, true);
	return s.n_found == 1 ? complete_name(t, k, s.found, change) : NULL;
}

/* Looks names up in the catalog, as far as the current role may see them. */
char *
speql_resolve(const SpeqlTokens *t, int k, int sqlstate, bool add_tables, char **change)
{
	int from = speql_clause(t, speql_level(t, k), KW_FROM, k);
	bool from_item = k > 0 && from >= 0 && k > from && sqlstate == ERRCODE_UNDEFINED_TABLE &&
	                 (t->tok[k - 1].keyword == KW_FROM || t->tok[k - 1].keyword == KW_JOIN ||
	                  t->tok[k - 1].punct == ',');
	bool qualified = k + 2 < t->n && t->tok[k + 1].punct == '.';
	List *scope;
	Oid relid;

	if (!is_name(t, k))
		return NULL;
	if (from_item && is_last(t, k))
	{
		NameSearch s = {.name = identifier(t, k), .prefix = true};

		search_relations(&s, false);
		return s.n_found == 1 ? complete_name(t, k, s.found, change) : NULL;
	}
	scope = scope_of(t, from);
	if (!qualified)
		return from_item ? NULL : resolve_column(t, k, from, scope, add_tables, change);
	relid = RangeVarGetRelid(makeRangeVar(NULL, identifier(t, k), -1), NoLock, true);
	if (sqlstate != ERRCODE_UNDEFINED_TABLE || !add_tables || !OidIsValid(relid) || from_item)
		return NULL;
	return add_relation(t, k, from, scope, relid, change);
}
