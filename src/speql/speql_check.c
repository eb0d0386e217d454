/*
 * speql_check.c: does a text parse and analyse?
 *
 * The parser and the analysis report by ereport(ERROR) and nothing else, so that this file holds
 * the one PG_TRY of speculation. The grammar holds no resources: its errors are just cleared. The
 * analysis opens relations, so that it runs in an internal subtransaction, which is rolled back in
 * either case: no lock stays, no transaction id is taken, and the caller's transaction goes on.
 *
 * transformTopLevelStmt is called instead of parse_analyze_*: these run post_parse_analyze_hook,
 * and pg_stat_statements would keep every unfinished text.
 */
#include "speql.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/analyze.h"
#include "parser/parse_node.h"
#include "parser/parse_param.h"
#include "parser/parser.h"
#include "parser/parsetree.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

typedef void (*Step)(const char *text, void *arg);

/* The grammar's half. */
static void
step_parse(const char *text, void *arg)
{
	*(List **) arg = raw_parser(text, RAW_PARSE_DEFAULT);
}

typedef struct Analysis
{
	RawStmt *stmt;
	Query *query;
} Analysis;

/* The analysis, with parameters of any type. */
static void
step_analyse(const char *text, void *arg)
{
	Analysis *a = arg;
	ParseState *pstate = make_parsestate(NULL);
	Oid *types = NULL;
	int n_types = 0;

	pstate->p_sourcetext = text;
	setup_parse_variable_parameters(pstate, &types, &n_types);
	a->query = transformTopLevelStmt(pstate, a->stmt);
	check_variable_parameters(pstate, a->query);
	free_parsestate(pstate);
}

/* Fills in where and why a step failed. Cancels and lack of memory are not the text's fault. */
static void
note_error(const char *text, ErrorData *error, SpeqlCheck *check)
{
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION ||
	    error->sqlerrcode == ERRCODE_OUT_OF_MEMORY)
		ReThrowError(error);
	check->sqlstate = error->sqlerrcode;
	/* Error positions count characters from 1. */
	if (error->cursorpos > 0)
		check->position = pg_mbcharcliplen(text, strlen(text), error->cursorpos - 1);
	FreeErrorData(error);
}

/* Runs a step; false when it raised an error. */
static bool
run_step(Step step, const char *text, void *arg, bool subtransaction, SpeqlCheck *check)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	int client_level = client_min_messages, log_level = log_min_messages;

	if (subtransaction)
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
	}
	PG_TRY();
	{
		/* A caller's callback (SPI's) would take the position for its own; restored at the end. */
		error_context_stack = NULL;
		/* Nobody asked for notices about what is still being typed; nor may the log keep it. */
		client_min_messages = log_min_messages = ERROR;
		step(text, arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	client_min_messages = client_level;
	log_min_messages = log_level;
	if (subtransaction)
	{
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = owner;
	}
	MemoryContextSwitchTo(context);
	if (error)
		note_error(text, error, check);
	return error == NULL;
}

/* True for anything that is not a plain read: INTO, row locks, data-modifying WITH. */
static bool
not_read_only(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SelectStmt) &&
	    (castNode(SelectStmt, node)->intoClause || castNode(SelectStmt, node)->lockingClause))
		return true;
	if (IsA(node, InsertStmt) || IsA(node, UpdateStmt) || IsA(node, DeleteStmt) ||
	    IsA(node, MergeStmt))
		return true;
	return raw_expression_tree_walker(node, not_read_only, context);
}

/* Joins the sets that one condition links; returns the sets that are left. */
static List *
link_sets(List *sets, const Bitmapset *linked)
{
	List *left = NIL;
	Bitmapset *merged = NULL;
	ListCell *lc;

	foreach (lc, sets)
	{
		Bitmapset *set = lfirst(lc);

		if (bms_overlap(set, linked))
			merged = bms_add_members(merged, set);
		else
			left = lappend(left, set);
	}
	return merged ? lappend(left, merged) : left;
}

/* True for what a FROM list can hold without multiplying rows: calls, one-row subqueries. */
static bool
harmless(const RangeTblEntry *rte)
{
	if (rte->lateral)
		return true;
	if (rte->rtekind == RTE_SUBQUERY)
		return rte->subquery->hasAggs && rte->subquery->groupClause == NIL &&
		       rte->subquery->groupingSets == NIL;
	return rte->rtekind != RTE_RELATION && rte->rtekind != RTE_CTE;
}

/* The tables of a FROM tree, linked by its conditions, as sets of range table indexes. */
static List *
from_sets(const Query *query, Node *node, List *sets)
{
	List *children, *quals;
	ListCell *lc;

	if (IsA(node, RangeTblRef))
	{
		int rtindex = castNode(RangeTblRef, node)->rtindex;

		if (harmless(rt_fetch(rtindex, query->rtable)))
			return sets;
		return lappend(sets, bms_make_singleton(rtindex));
	}
	if (IsA(node, JoinExpr))
	{
		children = list_make2(castNode(JoinExpr, node)->larg, castNode(JoinExpr, node)->rarg);
		quals = make_ands_implicit((Expr *) castNode(JoinExpr, node)->quals);
	}
	else
	{
		children = castNode(FromExpr, node)->fromlist;
		quals = make_ands_implicit((Expr *) castNode(FromExpr, node)->quals);
	}
	foreach (lc, children)
		sets = from_sets(query, lfirst(lc), sets);
	foreach (lc, quals)
		sets = link_sets(sets, pull_varnos(NULL, lfirst(lc)));
	return sets;
}

/* True if some query in the tree has tables that no condition joins. */
static bool
has_cross_join(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query *query = castNode(Query, node);

		if (list_length(from_sets(query, (Node *) query->jointree, NIL)) > 1)
			return true;
		return query_tree_walker(query, has_cross_join, context, 0);
	}
	return expression_tree_walker(node, has_cross_join, context);
}

/* Asks the server whether a text parses and analyses, without disturbing the transaction. */
void
speql_check(const char *text, SpeqlCheck *check)
{
	List *raw = NIL;
	Analysis a = {NULL, NULL};

	memset(check, 0, sizeof(*check));
	check->position = -1;
	if (!run_step(step_parse, text, &raw, false, check))
		return;
	check->parses = true;
	if (list_length(raw) != 1)
	{
		check->sqlstate = ERRCODE_SYNTAX_ERROR;
		return;
	}
	a.stmt = linitial_node(RawStmt, raw);
	if (!IsA(a.stmt->stmt, SelectStmt) || not_read_only(a.stmt->stmt, NULL))
	{
		check->sqlstate = ERRCODE_READ_ONLY_SQL_TRANSACTION;
		return;
	}
	if (!run_step(step_analyse, text, &a, true, check))
		return;
	if (a.query->targetList == NIL)
	{
		check->sqlstate = ERRCODE_NO_DATA;
		return;
	}
	check->analyses = true;
	check->query = a.query;
	check->cross = has_cross_join((Node *) a.query, NULL);
}
