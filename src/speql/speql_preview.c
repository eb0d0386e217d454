/*
 * speql_preview.c: see speql_preview.h.
 *
 * The query goes through the planner like any other, so that it reads speculative tables where they
 * help. It is planned for its first rows, and only these are fetched.
 */
#include "speql_preview.h"

#include "access/htup_details.h"
#include "access/tsmapi.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "speql_build.h"
#include "speql_calls.h"

#define MAX_ROWS_BYTES (256 * 1024) /* of the rows of one preview */
#define MAX_CELL_BYTES 2048         /* of one value; longer ones are cut and end in "…" */

/* ---- what may run ------------------------------------------------------------------------ */

/* True for a function in a language whose functions can do anything, whatever they are declared. */
static bool
untrusted_function(Oid function, void *context)
{
	HeapTuple proc, language;
	bool untrusted = true;

	if (function < FirstNormalObjectId)
		return false;
	proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(proc))
		return true;
	language =
	    SearchSysCache1(LANGOID, ObjectIdGetDatum(((Form_pg_proc) GETSTRUCT(proc))->prolang));
	if (HeapTupleIsValid(language))
	{
		Form_pg_language l = (Form_pg_language) GETSTRUCT(language);

		/* C and internal functions are declared by whoever made their extension. */
		untrusted = !l->lanpltrusted && l->oid != ClanguageId && l->oid != INTERNALlanguageId;
		ReleaseSysCache(language);
	}
	ReleaseSysCache(proc);
	return untrusted;
}

/* Walker over queries and expressions. */
static bool
untrusted_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (check_functions_in_node(node, untrusted_function, context))
		return true;
	if (IsA(node, Query))
		return query_tree_walker(castNode(Query, node), untrusted_walker, context, 0);
	return expression_tree_walker(node, untrusted_walker, context);
}

/* Stops at a query that writes or locks rows: a view may do that, too. */
static bool
writes_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, writes_walker, context);
	return castNode(Query, node)->commandType != CMD_SELECT ||
	       castNode(Query, node)->rowMarks != NIL ||
	       query_tree_walker(castNode(Query, node), writes_walker, context, 0);
}

/* True when a query only reads. */
bool
speql_may_run(const Query *query)
{
	Node *node = (Node *) unconstify(Query *, query);

	return !writes_walker(node, NULL) && !speql_calls_volatile(node) &&
	       !untrusted_walker(node, NULL);
}

/* ---- sampling ---------------------------------------------------------------------------- */

/* The pages of a relation, as of its last ANALYZE. */
static int
pages_of(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	int pages = 0;

	if (HeapTupleIsValid(tuple))
	{
		pages = ((Form_pg_class) GETSTRUCT(tuple))->relpages;
		ReleaseSysCache(tuple);
	}
	return pages;
}

/* The largest plain table that a query reads in FROM, at any level, or NULL. */
static bool
largest_walker(Node *node, void *arg)
{
	RangeTblEntry **largest = arg;
	ListCell *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, largest_walker, arg);
	foreach (lc, castNode(Query, node)->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && rte->tablesample == NULL &&
		    (rte->relkind == RELKIND_RELATION || rte->relkind == RELKIND_MATVIEW) &&
		    (*largest == NULL || pages_of(rte->relid) > pages_of((*largest)->relid)))
			*largest = rte;
	}
	return query_tree_walker(castNode(Query, node), largest_walker, arg, 0);
}

/* Makes a query read only some percent of its largest table's pages. */
static bool
sample_largest(Query *query, double percent)
{
	RangeTblEntry *largest = NULL;
	TableSampleClause *clause = makeNode(TableSampleClause);

	(void) largest_walker((Node *) query, &largest);
	if (largest == NULL)
		return false;
	clause->tsmhandler = F_SYSTEM;
	clause->args = list_make1(makeConst(FLOAT4OID, -1, InvalidOid, sizeof(float4),
	                                    Float4GetDatum((float4) percent), false, true));
	clause->repeatable = (Expr *) makeConst(FLOAT8OID, -1, InvalidOid, sizeof(float8),
	                                        Float8GetDatum(0), false, FLOAT8PASSBYVAL);
	largest->tablesample = clause;
	return true;
}

/* ---- rows as JSON ------------------------------------------------------------------------ */

/* A receiver that writes rows as JSON. */
typedef struct JsonReceiver
{
	DestReceiver receiver; /* first */
	StringInfoData columns;
	StringInfoData rows;
	FmgrInfo *output;
	int64 n_rows;
	bool more; /* there are more rows than were taken */
} JsonReceiver;

/* Writes names and types of the columns. */
static void
json_startup(DestReceiver *self, int operation, TupleDesc desc)
{
	JsonReceiver *j = (JsonReceiver *) self;

	j->output = palloc(sizeof(FmgrInfo) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Oid function;
		bool varlena;

		getTypeOutputInfo(att->atttypid, &function, &varlena);
		fmgr_info(function, &j->output[i]);
		appendStringInfoString(&j->columns, i ? ", {\"name\": " : "{\"name\": ");
		escape_json(&j->columns, NameStr(att->attname));
		appendStringInfoString(&j->columns, ", \"type\": ");
		escape_json(&j->columns, format_type_with_typemod(att->atttypid, att->atttypmod));
		appendStringInfoChar(&j->columns, '}');
	}
}

/* Writes one value. */
static void
put_cell(JsonReceiver *j, FmgrInfo *output, Datum value)
{
	char *text = OutputFunctionCall(output, value);
	int len = strlen(text);

	if (len > MAX_CELL_BYTES)
		text = psprintf("%.*s…", pg_mbcliplen(text, len, MAX_CELL_BYTES), text);
	escape_json(&j->rows, text);
}

/* Writes one row; false when enough have been seen. */
static bool
json_receive(TupleTableSlot *slot, DestReceiver *self)
{
	JsonReceiver *j = (JsonReceiver *) self;

	if (j->n_rows >= SPEQL_PREVIEW_ROWS || j->rows.len > MAX_ROWS_BYTES)
	{
		j->more = true;
		return false;
	}
	slot_getallattrs(slot);
	appendStringInfoString(&j->rows, j->n_rows ? ", [" : "[");
	for (int i = 0; i < slot->tts_tupleDescriptor->natts; i++)
	{
		if (i)
			appendStringInfoString(&j->rows, ", ");
		if (slot->tts_isnull[i])
			appendStringInfoString(&j->rows, "null");
		else
			put_cell(j, &j->output[i], slot->tts_values[i]);
	}
	appendStringInfoChar(&j->rows, ']');
	j->n_rows++;
	return true;
}

/* Nothing to do. */
static void
json_shutdown(DestReceiver *self)
{
}

/* ---- running ----------------------------------------------------------------------------- */

/* Runs a SELECT for its first rows. */
void
speql_preview_run(const char *sql, double sample, SpeqlPreview *preview)
{
	JsonReceiver j = {.receiver = {.receiveSlot = json_receive,
	                               .rStartup = json_startup,
	                               .rShutdown = json_shutdown,
	                               .rDestroy = json_shutdown,
	                               .mydest = DestNone}};
	Query *query = speql_analyse(sql);
	instr_time start, end;

	if (!speql_may_run(query))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		                errmsg("a query with volatile functions is not run ahead")));
	if (sample < 100)
		preview->sampled = sample_largest(query, sample);
	initStringInfo(&j.columns);
	initStringInfo(&j.rows);
	INSTR_TIME_SET_CURRENT(start);
	speql_run(planner(query, sql, CURSOR_OPT_FAST_PLAN | CURSOR_OPT_PARALLEL_OK, NULL), sql,
	          GetActiveSnapshot(), &j.receiver);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	preview->elapsed_ms = INSTR_TIME_GET_MILLISEC(end);
	preview->n_rows = j.n_rows;
	preview->total_rows = j.more || preview->sampled ? -1 : j.n_rows;
	preview->columns = speql_store(psprintf("[%s]", j.columns.data), j.columns.len + 3);
	preview->rows = speql_store(psprintf("[%s]", j.rows.data), j.rows.len + 3);
}
