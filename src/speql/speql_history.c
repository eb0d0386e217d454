/*
 * speql_history.c: see speql_history.h.
 */
#include "speql_history.h"

#include "common/hashfn.h"
#include "miscadmin.h"

#include "speql.h"
#include "speql_shared.h"

#define MAX_BYTES 8192 /* of a statement that is kept */

/* The entry of a text, or the one to put it into. lock is held. */
static SpeqlHistory *
entry_for(uint64 hash)
{
	SpeqlHistory *oldest = &speql_shared->history[0];

	for (int i = 0; i < SPEQL_HISTORY_MAX; i++)
	{
		SpeqlHistory *h = &speql_shared->history[i];

		if (h->hash == hash && h->dbid == MyDatabaseId && h->roleid == GetUserId())
			return h;
		if (h->last < oldest->last)
			oldest = h;
	}
	return oldest;
}

/* True when the current role types somewhere in this database: others' statements are not kept. */
static bool
role_types(void)
{
	bool types = false;

	if (pg_atomic_read_u32(&speql_shared->n_sessions) == 0)
		return false;
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_SESSIONS_MAX && !types; i++)
	{
		const SpeqlSession *s = &speql_shared->sessions[i];

		types =
		    s->state != SPEQL_SESSION_FREE && s->dbid == MyDatabaseId && s->roleid == GetUserId();
	}
	LWLockRelease(speql_shared->lock);
	return types;
}

/* Keeps a statement. */
void
speql_history_add(const char *text, int len)
{
	uint64 hash;
	SpeqlHistory *h;

	while (len > 0 && strchr(" \t\r\n;", text[len - 1]) != NULL)
		len--;
	if (len == 0 || len > MAX_BYTES || !role_types())
		return;
	hash = hash_bytes_extended((const unsigned char *) text, len, 1);
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	h = entry_for(hash);
	if (h->hash != hash || h->dbid != MyDatabaseId || h->roleid != GetUserId())
	{
		speql_release(&h->text);
		h->text = speql_store(pnstrdup(text, len), len + 1);
		h->hash = hash;
		h->dbid = MyDatabaseId;
		h->roleid = GetUserId();
		h->n_runs = 0;
	}
	h->n_runs++;
	h->last = speql_shared->next_history++;
	LWLockRelease(speql_shared->lock);
}

/* True for a constant. */
static bool
is_constant(const SpeqlToken *tok)
{
	return (tok->kind == TOK_STRING || tok->kind == TOK_NUMBER) && !tok->open;
}

/* True when tokens are the same word, or both constants (which is counted). */
static bool
alike(const SpeqlTokens *a, const SpeqlTokens *b, int i, int *n_changed)
{
	const SpeqlToken *x = &a->tok[i], *y = &b->tok[i];
	int len = x->end - x->start;

	if (len == y->end - y->start &&
	    pg_strncasecmp(a->text + x->start, b->text + y->start, len) == 0)
		return true;
	if (!is_constant(x) || !is_constant(y))
		return false;
	(*n_changed)++;
	return true;
}

/* Fills in where a past statement goes on after a typed text; false when it begins otherwise. */
static bool
goes_on(const SpeqlTokens *typed, const SpeqlTokens *past, SpeqlPast *p)
{
	const SpeqlToken *x, *y;
	int n = typed->n, len;

	p->n_changed = 0;
	if (n == 0 || n > past->n)
		return false;
	for (int i = 0; i < n - 1; i++)
		if (!alike(typed, past, i, &p->n_changed))
			return false;
	x = &typed->tok[n - 1];
	y = &past->tok[n - 1];
	len = x->end - x->start;
	/* A blank behind the last word ends it; else it may be the beginning of a longer one. */
	if (x->end < typed->len)
	{
		if (!alike(typed, past, n - 1, &p->n_changed))
			return false;
		p->at = n < past->n ? past->tok[n].start : past->len;
		return n < past->n;
	}
	if (len > y->end - y->start ||
	    pg_strncasecmp(typed->text + x->start, past->text + y->start, len) != 0)
		return false;
	p->at = y->start + len;
	return p->at < past->len;
}

/* Copies of the role's statements. */
static List *
copy_history(void)
{
	List *all = NIL;

	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_HISTORY_MAX; i++)
	{
		SpeqlHistory *h = &speql_shared->history[i];
		SpeqlPast *p;

		if (!DsaPointerIsValid(h->text) || h->dbid != MyDatabaseId || h->roleid != GetUserId())
			continue;
		p = palloc0(sizeof(*p));
		p->text = pstrdup(speql_text(h->text));
		p->n_runs = h->n_runs;
		p->last = h->last;
		all = lappend(all, p);
	}
	LWLockRelease(speql_shared->lock);
	return all;
}

/* Finds statements that begin as a text does. */
List *
speql_history_find(const char *text)
{
	SpeqlTokens *typed = speql_lex(text, strlen(text));
	List *found = NIL;
	ListCell *lc;

	foreach (lc, copy_history())
	{
		SpeqlPast *p = lfirst(lc);

		if (goes_on(typed, speql_lex(p->text, strlen(p->text)), p))
			found = lappend(found, p);
	}
	return found;
}

/* Forgets. */
void
speql_history_clear(void)
{
	LWLockAcquire(speql_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SPEQL_HISTORY_MAX; i++)
	{
		SpeqlHistory *h = &speql_shared->history[i];

		if (h->dbid != MyDatabaseId || h->roleid != GetUserId())
			continue;
		speql_release(&h->text);
		memset(h, 0, sizeof(*h));
	}
	LWLockRelease(speql_shared->lock);
}
