/*
 * speql_callee.c: the function that a misspelt call means.
 *
 * A call of a name that no function on the search_path has is corrected to the only name that is so
 * near and has a function of so many arguments; whether it takes their types, the next check tells.
 * Cost: a scan of pg_proc, in which only names of about the same length are compared.
 */
#include "speql.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "parser/scansup.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* A call, and the function that it may mean. */
typedef struct Callee
{
	const char *name;
	int n_args;
	bool open; /* more arguments may follow */
	int slips; /* of the nearest name so far */
	bool ambiguous;
	char found[NAMEDATALEN];
} Callee;

/* The arguments of a call whose brackets are these tokens. */
static int
count_arguments(const SpeqlTokens *t, int open, int close)
{
	int n = 1;

	if (open + 1 >= close ||
	    (open + 2 == close && t->tok[open + 1].end - t->tok[open + 1].start == 1 &&
	     t->text[t->tok[open + 1].start] == '*'))
		return 0;
	for (int i = open + 1; i < close; i++)
		n += t->tok[i].punct == ',' && t->tok[i].depth == t->tok[open + 1].depth;
	return n;
}

/* True for a function that a query can call, with so many arguments. */
static bool
takes(const Callee *c, const FormData_pg_proc *proc)
{
	if (proc->prokind == PROKIND_PROCEDURE || proc->prorettype == TRIGGEROID ||
	    proc->prorettype == INTERNALOID)
		return false;
	for (int i = 0; i < proc->pronargs; i++)
		if (proc->proargtypes.values[i] == INTERNALOID)
			return false;
	return (c->n_args <= proc->pronargs || OidIsValid(proc->provariadic)) &&
	       (c->open || c->n_args >= proc->pronargs - proc->pronargdefaults);
}

/* Compares one function with what is called. */
static void
consider(Callee *c, const FormData_pg_proc *proc)
{
	const char *name = NameStr(proc->proname);
	int len = (int) strlen(c->name), slips;

	if (abs((int) strlen(name) - len) > c->slips)
		return;
	slips = speql_distance(c->name, name);
	if (slips > c->slips || !takes(c, proc) || !FunctionIsVisible(proc->oid))
		return;
	if (slips == c->slips && c->found[0] != '\0')
	{
		c->ambiguous = c->ambiguous || strcmp(c->found, name) != 0;
		return;
	}
	c->slips = slips;
	c->ambiguous = false;
	strlcpy(c->found, name, NAMEDATALEN);
}

/* True when a function has the very name: its arguments are wrong then. */
static bool
exists(const char *name)
{
	CatCList *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	bool found = false;

	for (int i = 0; i < list->n_members && !found; i++)
		found = FunctionIsVisible(((Form_pg_proc) GETSTRUCT(&list->members[i]->tuple))->oid);
	ReleaseSysCacheList(list);
	return found;
}

/* Looks at all functions for the nearest name; false when there is none, or more than one. */
static bool
search(Callee *c)
{
	Relation rel = table_open(ProcedureRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		consider(c, (const FormData_pg_proc *) GETSTRUCT(tuple));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return c->found[0] != '\0' && !c->ambiguous;
}

/* Corrects the name of a call. */
char *
speql_correct_call(const SpeqlTokens *t, int k, int typed, char **change)
{
	const SpeqlToken *tok = &t->tok[k];
	Callee c = {0};
	int close;

	if (tok->kind != TOK_WORD || k + 1 >= t->n || t->tok[k + 1].punct != '(' ||
	    t->tok[k + 1].match < 0)
		return NULL;
	close = t->tok[k + 1].match;
	c.name = downcase_truncate_identifier(t->text + tok->start, tok->end - tok->start, false);
	c.n_args = count_arguments(t, k + 1, close);
	c.open = t->tok[close].start >= typed;
	c.slips = speql_slips((int) strlen(c.name));
	if (c.slips == 0 || exists(c.name) || !search(&c))
		return NULL;
	*change = psprintf("corrected to %s", c.found);
	return speql_splice(t, tok->start, tok->end - tok->start, quote_identifier(c.found));
}
