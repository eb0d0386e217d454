/*
 * speql_funcs.c: the SQL functions of speculation.
 */
#include "speql.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(pp_repair_sql);

/* Puts a row with the repair of one block. */
static void
put_block(ReturnSetInfo *rsi, const SpeqlBlocks *b, int i, int64 *budget)
{
	const SpeqlBlock *block = &b->block[i];
	SpeqlRepair r;
	Datum values[5];
	bool nulls[5] = {false};
	char *text = speql_block_text(b, i);

	speql_repair(text, block->kind, budget, &r);
	if (r.cross)
		appendStringInfo(&r.note, "%scross join", r.note.len ? "; " : "");
	values[0] = CStringGetTextDatum(psprintf("%s%s", block->name, i == b->cursor ? " *" : ""));
	values[1] = CStringGetTextDatum(r.valid ? r.sql : text);
	values[2] = BoolGetDatum(r.valid);
	values[3] = CStringGetTextDatum(r.note.data);
	nulls[3] = r.note.len == 0;
	tuplestore_putvalues(rsi->setResult, rsi->setDesc, values, nulls);
}

/* repair_sql(partial_sql, cursor_pos): one row for each block of the statement under the cursor. */
Datum
pp_repair_sql(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsi = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext context, old;
	char *sql;
	int cursor, start, len;
	SpeqlBlocks *b;
	int64 budget = SPEQL_REPAIR_BUDGET;

	InitMaterializedSRF(fcinfo, 0);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	sql = text_to_cstring(PG_GETARG_TEXT_PP(0));
	cursor = strlen(sql);
	/* Positions count characters, as everywhere in SQL; beyond the ends is the end. */
	if (!PG_ARGISNULL(1))
		cursor = pg_mbcharcliplen(sql, cursor, Max(PG_GETARG_INT32(1), 0));
	speql_statement_at(sql, cursor, &start, &len);
	sql = pnstrdup(sql + start, len);
	b = speql_blocks(speql_lex(sql, len), cursor - start);
	context = AllocSetContextCreate(CurrentMemoryContext, "prepack repair", ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < b->n; i++)
	{
		old = MemoryContextSwitchTo(context);
		put_block(rsi, b, i, &budget);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
	PG_RETURN_NULL();
}
