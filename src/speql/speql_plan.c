/*
 * speql_plan.c: the planner hook: looks for speculative tables that answer a statement's blocks.
 *
 * A statement is planned as it is, first of all. If tables match, it is planned again over them;
 * the cheaper plan wins, and the original stays below it for the case that a table turns out stale
 * when the query runs. A server without a ready table pays one atomic read a statement.
 */
#include "speql_plan.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "prepack.h"
#include "speql_ahead.h"
#include "speql_calls.h"
#include "speql_env.h"
#include "speql_feed.h"
#include "speql_history.h"
#include "speql_match.h"
#include "speql_registry.h"
#include "speql_scan.h"
#include "speql_track.h"

#define MAX_TABLES_A_BLOCK 4
#define COMPETES_COST      1000 /* of a statement beside which nothing is built */

static planner_hook_type prev_planner_hook = NULL;

/* One statement's search for tables. */
typedef struct Finder
{
	List *candidates;
	ParamListInfo params;
	List *uses; /* of SpeqlUse */
} Finder;

/* ---- one block --------------------------------------------------------------------------- */

/* True when a match is better than the best so far: it replaces more, or the table is smaller. */
static bool
better(const SpeqlMatch *m, const SpeqlCandidate *c, const SpeqlMatch *best,
       const SpeqlCandidate *of_best)
{
	if (of_best == NULL || m->n_items != best->n_items)
		return of_best == NULL || m->n_items > best->n_items;
	return c->rows < of_best->rows;
}

/* True when the table is there and fresh as far as one can tell before the query runs. */
static bool
usable_now(const SpeqlCandidate *c)
{
	SpeqlTicket *ticket = palloc(sizeof(*ticket));
	SpeqlReason reason = SPEQL_R_GONE;

	if (!ConditionalLockRelationOid(c->relid, AccessShareLock))
		return false;
	if (speql_registry_ticket(c->id, ticket))
		reason = speql_track_verdict(ticket->deps, ticket->n_deps, ticket->snapshot,
		                             ActiveSnapshotSet() ? GetActiveSnapshot()
		                                                 : GetTransactionSnapshot());
	if (reason == SPEQL_OK_EXACT)
		return true;
	UnlockRelationOid(c->relid, AccessShareLock);
	speql_count(reason);
	/* What a later snapshot sees as changed will never be as it was. */
	if ((reason == SPEQL_R_STALE || reason == SPEQL_R_OVERFLOW) && !IsolationUsesXactSnapshot())
		speql_registry_kill(c->id);
	return false;
}

/* True when a table and a block read some relation in common. */
static bool
share_relation(const SpeqlCandidate *c, List *relids)
{
	ListCell *lc;

	foreach (lc, c->relids)
		if (list_member_oid(relids, lfirst_oid(lc)))
			return true;
	return false;
}

/* The best table for a block, with the block over it, or NULL. */
static SpeqlCandidate *
best_candidate(Finder *f, const SpeqlForm *form, SpeqlMatch *best)
{
	SpeqlCandidate *chosen = NULL;
	SpeqlReason reason;
	List *relids = speql_relations(form->query, &reason);
	ListCell *lc;

	foreach (lc, f->candidates)
	{
		SpeqlCandidate *c = lfirst(lc);
		SpeqlMatch m;

		if (!share_relation(c, relids))
			continue;
		speql_match(form, c, &m);
		if (m.query == NULL)
			speql_count(m.reason);
		else if (better(&m, c, best, chosen))
		{
			chosen = c;
			*best = m;
		}
	}
	return chosen;
}

/* Puts as many tables as help into a block; returns the new block, or the same. */
static Query *
replace_block(Finder *f, Query *block, List *ancestors)
{
	for (int i = 0; i < MAX_TABLES_A_BLOCK; i++)
	{
		SpeqlReason reason;
		SpeqlForm *form = speql_form(block, ancestors, f->params, &reason);
		SpeqlMatch m;
		SpeqlCandidate *c = form ? best_candidate(f, form, &m) : NULL;
		SpeqlUse *use;

		if (c == NULL)
			break;
		if (!usable_now(c))
		{
			f->candidates = list_delete_ptr(f->candidates, c);
			continue;
		}
		use = palloc(sizeof(*use));
		use->id = c->id;
		use->relid = c->relid;
		use->kind = m.reason;
		f->uses = lappend(f->uses, use);
		block = m.query;
	}
	return block;
}

/* ---- all blocks -------------------------------------------------------------------------- */

typedef struct Walk
{
	Finder *finder;
	List *ancestors; /* innermost first */
} Walk;

static Query *replace_all(Finder *f, Query *block, List *ancestors);

/* One WITH item and its readers. */
typedef struct Readers
{
	const CommonTableExpr *cte;
	int depth; /* of queries below the one with the WITH */
	int n;
} Readers;

/* Counts what reads a WITH item, itself aside. */
static bool
readers_walker(Node *node, void *arg)
{
	Readers *r = arg;
	ListCell *lc;
	bool result;

	if (node == NULL || node == (Node *) r->cte)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, readers_walker, arg);
	foreach (lc, castNode(Query, node)->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		r->n += rte->rtekind == RTE_CTE && (int) rte->ctelevelsup == r->depth &&
		        strcmp(rte->ctename, r->cte->ctename) == 0;
	}
	r->depth++;
	result = query_tree_walker(castNode(Query, node), readers_walker, arg, 0);
	r->depth--;
	return result;
}

/* Takes off the WITH items that nothing reads any more, the last first: they read those before. */
static void
drop_unread(Query *block)
{
	for (int i = list_length(block->cteList) - 1; i >= 0; i--)
	{
		CommonTableExpr *cte = list_nth_node(CommonTableExpr, block->cteList, i);
		Readers r = {.cte = cte};

		(void) readers_walker((Node *) block, &r);
		if (r.n == 0)
			block->cteList = list_delete_nth_cell(block->cteList, i);
		else if (!cte->cterecursive)
			cte->cterefcount = r.n;
	}
}

/* Replaces the queries in subquery expressions. */
static bool
sublink_walker(Node *node, void *arg)
{
	Walk *walk = arg;

	if (node == NULL || IsA(node, Query))
		return false;
	if (IsA(node, SubLink) && IsA(castNode(SubLink, node)->subselect, Query))
		castNode(SubLink, node)->subselect =
		    (Node *) replace_all(walk->finder, castNode(Query, castNode(SubLink, node)->subselect),
		                         walk->ancestors);
	return expression_tree_walker(node, sublink_walker, arg);
}

/* Replaces a block, then what is below it. Changes the query in place. */
static Query *
replace_all(Finder *f, Query *block, List *ancestors)
{
	Walk walk = {.finder = f};
	ListCell *lc;

	check_stack_depth();
	if (block->commandType != CMD_SELECT)
		return block;
	block = replace_block(f, block, ancestors);
	walk.ancestors = lcons(block, list_copy(ancestors));
	foreach (lc, block->cteList)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, lc);

		if (IsA(cte->ctequery, Query) && !cte->cterecursive)
			cte->ctequery = (Node *) replace_all(f, castNode(Query, cte->ctequery), walk.ancestors);
	}
	foreach (lc, block->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_SUBQUERY && !rte->security_barrier)
			rte->subquery = replace_all(f, rte->subquery, walk.ancestors);
	}
	(void) query_tree_walker(block, sublink_walker, &walk,
	                         QTW_IGNORE_RANGE_TABLE | QTW_IGNORE_CTE_SUBQUERIES);
	drop_unread(block);
	return block;
}

/* ---- the hook ---------------------------------------------------------------------------- */

/* True where tables and plans may be used. */
bool
speql_may_use(void)
{
	Oid user;
	int sec_context;

	if (!pp_enabled || !pp_use_speculation)
		return false;
	GetUserIdAndSecContext(&user, &sec_context);
	return sec_context == 0 && user == GetOuterUserId() && !IsolationIsSerializable() &&
	       !RecoveryInProgress() && !IsInParallelMode();
}

/* True for a statement that tables may answer at all. */
static bool
eligible(const Query *parse, int cursor_options)
{
	return speql_shared != NULL && pg_atomic_read_u32(&speql_shared->n_ready) > 0 &&
	       parse->commandType == CMD_SELECT && !parse->hasModifyingCTE && parse->rowMarks == NIL &&
	       parse->rtable != NIL && !(cursor_options & CURSOR_OPT_SCROLL) && speql_may_use();
}

/* The statement over tables, or NULL. */
static Query *
over_tables(const Query *parse, ParamListInfo params, List **uses)
{
	Finder f = {.params = params};
	Query *query;

	f.candidates = speql_registry_candidates(speql_env_current());
	if (f.candidates == NIL)
		return NULL;
	query = copyObject(unconstify(Query *, parse));
	if (query->hasRowSecurity || speql_calls_volatile((Node *) query) ||
	    !speql_calls_allowed(query))
		return NULL;
	query = replace_all(&f, query, NIL);
	*uses = f.uses;
	return f.uses ? query : NULL;
}

/* Plans with the hooks below this one. */
static PlannedStmt *
plan_below(Query *query, const char *text, int cursor_options, ParamListInfo params)
{
	if (prev_planner_hook)
		return prev_planner_hook(query, text, cursor_options, params);
	return standard_planner(query, text, cursor_options, params);
}

/* Keeps a SELECT as it was submitted. */
static void
remember(const Query *parse, const char *text)
{
	int start = Max(parse->stmt_location, 0);

	if (pp_speculation == PP_SPECULATION_OFF)
		return;
	speql_history_add(text + start,
	                  parse->stmt_len > 0 ? parse->stmt_len : (int) strlen(text + start));
}

/* True for a statement that a client submitted itself, other than to speculation. */
static bool
is_submitted(const Query *parse, const char *text)
{
	return speql_shared != NULL && parse->commandType == CMD_SELECT && parse->jointree->fromlist &&
	       text != NULL && text == debug_query_string;
}

/*
 * True for a cursor that its user may move backwards, or whose current row he may update, just
 * because it is a simple scan.
 */
static bool
is_movable(int cursor_options, const PlannedStmt *stmt)
{
	return (cursor_options & CURSOR_OPT_FAST_PLAN) && !(cursor_options & CURSOR_OPT_PARALLEL_OK) &&
	       ExecSupportsBackwardScan(stmt->planTree);
}

/* True when another plan opens no relation that this one does not lock, its tables aside. */
static bool
locks_cover(const PlannedStmt *stmt, const PlannedStmt *other, List *uses)
{
	ListCell *lc, *use;

	foreach (lc, other->relationOids)
	{
		bool found = list_member_oid(stmt->relationOids, lfirst_oid(lc));

		foreach (use, uses)
			found = found || ((SpeqlUse *) lfirst(use))->relid == lfirst_oid(lc);
		if (!found)
			return false;
	}
	return true;
}

/* Plans a statement, over tables if that is cheaper. */
static PlannedStmt *
plan_now(Query *parse, const char *text, int cursor_options, ParamListInfo params)
{
	Query *rewritten = NULL;
	List *uses = NIL;
	PlannedStmt *stmt, *other;

	if (eligible(parse, cursor_options))
		rewritten = over_tables(parse, params, &uses);
	stmt = plan_below(parse, text, cursor_options, params);
	if (rewritten == NULL || is_movable(cursor_options, stmt))
		return stmt;
	/* Other extensions count one planning. */
	rewritten->queryId = 0;
	/* It runs in an executor of its own, which does not enter parallel mode. */
	other = plan_below(rewritten, text, cursor_options & ~CURSOR_OPT_PARALLEL_OK, params);
	if (other->planTree->total_cost >= stmt->planTree->total_cost &&
	    strcmp(pp_test_fault, "ignore_cost") != 0)
		speql_count(SPEQL_R_COST);
	else if (locks_cover(stmt, other, uses))
		speql_scan_wrap(stmt, other, uses);
	return stmt;
}

/* True for a statement that EXPLAIN only shows. */
static bool
is_only_shown(const char *text)
{
	text += strspn(text, " \t\r\n");
	return pg_strncasecmp(text, "explain", 7) == 0;
}

/* The hook: takes the plan that was made ahead, or plans. */
static PlannedStmt *
speql_planner(Query *parse, const char *text, int cursor_options, ParamListInfo params)
{
	PlannedStmt *stmt = NULL;
	bool submitted = is_submitted(parse, text);

	if (submitted)
	{
		remember(parse, text);
		stmt = speql_ahead_take(parse, cursor_options, params);
	}
	if (stmt == NULL)
		stmt = plan_now(parse, text, cursor_options, params);
	if (submitted && !speql_scan_is_ours(stmt->planTree) &&
	    stmt->planTree->total_cost > COMPETES_COST && !is_only_shown(text))
		speql_feed_submitted();
	return stmt;
}

/* Installs the hook. */
void
speql_plan_install(void)
{
	prev_planner_hook = planner_hook;
	planner_hook = speql_planner;
}

/* ---- explain_match ----------------------------------------------------------------------- */

/* Reports on every table the role has, for every block of a query. */
void
speql_explain_match(Query *query, SpeqlMatchReport report, void *arg)
{
	List *candidates = speql_registry_candidates(speql_env_current());
	SpeqlReason reason;
	SpeqlForm *form = speql_form(query, NIL, NULL, &reason);
	ListCell *lc;

	foreach (lc, candidates)
	{
		SpeqlCandidate *c = lfirst(lc);
		SpeqlMatch m = {.reason = reason};
		SpeqlTicket *ticket = palloc(sizeof(*ticket));

		if (speql_calls_volatile((Node *) query))
			m.reason = SPEQL_R_VOLATILE;
		else if (form != NULL)
			speql_match(form, c, &m);
		if (m.query != NULL)
		{
			reason = SPEQL_R_GONE;
			if (speql_registry_ticket(c->id, ticket))
				reason = speql_track_verdict(ticket->deps, ticket->n_deps, ticket->snapshot,
				                             GetActiveSnapshot());
			if (reason != SPEQL_OK_EXACT)
				m.reason = reason;
		}
		report(c, &m, arg);
	}
}

/* True when some table holds just the rows of a query. */
bool
speql_held_exactly(Query *query)
{
	SpeqlReason reason;
	SpeqlForm *form = speql_form(query, NIL, NULL, &reason);
	bool found = false;
	ListCell *lc;

	if (form == NULL)
		return false;
	foreach (lc, speql_registry_candidates(speql_env_current()))
	{
		SpeqlMatch m;

		speql_match(form, lfirst(lc), &m);
		/* The rows of its FROM and WHERE may be there exactly, and still have to be grouped. */
		found = found || (m.query != NULL && m.reason == SPEQL_OK_EXACT && !m.query->hasAggs &&
		                  m.query->groupClause == NIL);
	}
	return found;
}
