/*
 * speql_model.c: see speql_model.h.
 *
 * A model may be asked only when it runs here: what someone types does not leave the machine
 * because an endpoint was made the default. The model dummy knows no SQL.
 */
#include "speql_model.h"

#include <math.h>

#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "client.h"
#include "models.h"
#include "speql.h"
#include "speql_grammar.h"

#define MAX_TOKENS   18         /* that the model may add */
#define MAX_SCHEMA   (6 * 1024) /* bytes of the schema prompt */
#define MAX_CHECKS   10         /* analyses of what it wrote */
#define WEIGHT_MODEL 0.8f       /* of its continuation, times the mean probability of a token */
#define SCHEMA_LIFE  60         /* seconds that the prompt is kept */

static char *schema = NULL; /* in TopMemoryContext */
static TimestampTz schema_made = 0;

/* The tables that the role may read, one a line with columns and types. In an SPI connection. */
static char *
describe_schema(void)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, "-- PostgreSQL tables:\n");
	if (SPI_execute(
	        "SELECT pg_catalog.format('-- %I(%s)', c.relname, pg_catalog.string_agg("
	        "pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, NULL)),"
	        " ', ' ORDER BY a.attnum)) FROM pg_catalog.pg_class c"
	        " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
	        " WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND a.attnum > 0"
	        " AND NOT a.attisdropped AND pg_catalog.pg_table_is_visible(c.oid)"
	        " AND c.relnamespace <> 'pg_catalog'::pg_catalog.regnamespace"
	        " AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')"
	        " GROUP BY c.oid, c.relname ORDER BY c.oid",
	        true, 0) != SPI_OK_SELECT)
		return out.data;
	for (uint64 i = 0; i < SPI_processed && out.len < MAX_SCHEMA; i++)
		appendStringInfo(&out, "%s\n",
		                 SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
	appendStringInfoString(&out, "-- A query:\n");
	return out.data;
}

/* The schema prompt, made anew when it is old. */
static const char *
schema_prompt(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (schema != NULL && now - schema_made < SCHEMA_LIFE * USECS_PER_SEC)
		return schema;
	if (SPI_connect() != SPI_OK_CONNECT)
		return "";
	if (schema != NULL)
		pfree(schema);
	schema = MemoryContextStrdup(TopMemoryContext, describe_schema());
	schema_made = now;
	SPI_finish();
	return schema;
}

/* What all jobs say. */
static PpJob
job_for(const PpModel *model, PpJobKind kind)
{
	PpJob job = {.kind = kind,
	             .flags = PP_JOB_RAW,
	             .function = "speculate",
	             .model = model->name,
	             .path = model->path,
	             .interactive = true,
	             .top_p = 1};
	const char *prompt = schema_prompt();

	job.instruction = (PpText){prompt, strlen(prompt)};
	return job;
}

/* Multiplies each completion's weight by the model's mean probability of its tokens. */
static void
rank(const PpModel *model, const char *text, SpeqlCompletions *c)
{
	PpJob job = job_for(model, PP_JOB_LOGLIK);
	PpText prompts[SPEQL_MAX_COMPLETIONS], ends[SPEQL_MAX_COMPLETIONS];
	const char *whole = psprintf("%s%s", job.instruction.bytes, text);
	PpRequest *request;

	if (c->n < 2)
		return;
	job.instruction = (PpText){NULL, 0};
	for (int i = 0; i < c->n; i++)
	{
		prompts[i] = (PpText){whole, strlen(whole)};
		ends[i] = (PpText){c->item[i].insert, strlen(c->item[i].insert)};
	}
	request = pp_client_submit(&job, c->n, prompts, c->n, ends);
	pp_client_wait(request);
	for (int i = 0; i < c->n; i++)
	{
		const PpRow *row = pp_client_row(request, i);

		pp_row_check(&job, row);
		/* A long completion is not less probable for its length: the mean of its tokens counts. */
		c->item[i].probability *=
		    0.2f + 0.8f * (float4) exp(row->logprob / Max(ends[i].n / 4.0, 1.0));
	}
	pp_client_free(request);
}

/*
 * The longest beginning of a continuation that analyses together with the statement, with what the
 * repair adds to its end: closing brackets, GROUP BY. Under rules that is the whole of it, but for
 * what only the analysis knows. NULL: none does.
 */
static char *
checked(const char *statement, const char *continuation)
{
	SpeqlTokens *t = speql_lex(continuation, strlen(continuation));
	int64 budget = SPEQL_REPAIR_BUDGET;
	SpeqlRepair typed;

	/* Tables that the person has listed and not joined yet are no fault of the continuation. */
	speql_repair(statement, SPEQL_MAIN, &budget, &typed);
	for (int n = t->n, i = 0; n > 0 && i < MAX_CHECKS; n--, i++)
	{
		char *whole = psprintf("%s%s", statement, pnstrdup(continuation, t->tok[n - 1].end));
		SpeqlRepair r;

		speql_repair(whole, SPEQL_MAIN, &budget, &r);
		if (r.valid && (!r.cross || typed.cross) && strncmp(r.sql, whole, strlen(whole)) == 0)
			return r.sql + strlen(statement);
	}
	return NULL;
}

/* Adds what the model writes behind a statement under the rules of its place. */
static void
continue_text(const PpModel *model, const char *text, const char *statement, SpeqlCompletions *c)
{
	PpJob job = job_for(model, PP_JOB_GENERATE);
	PpText row = {statement, 0}, stop = {";", 1};
	SpeqlGrammar grammar;
	PpRequest *request;
	const PpRow *answer;
	const char *continuation;

	if (!speql_grammar(statement, &grammar))
		return;
	row.n = grammar.n_prompt;
	job.flags |= PP_JOB_RULES;
	job.schema = (PpText){grammar.rules, strlen(grammar.rules)};
	job.max_tokens = MAX_TOKENS + (int) strlen(grammar.lead) / 2;
	job.stops = &stop;
	job.n_stops = 1;
	request = pp_client_submit(&job, 1, &row, 0, NULL);
	pp_client_wait(request);
	answer = pp_client_row(request, 0);
	pp_row_check(&job, answer);
	if (answer->text.n > strlen(grammar.lead))
	{
		continuation =
		    checked(statement, pnstrdup(answer->text.bytes, answer->text.n) + strlen(grammar.lead));
		if (continuation != NULL)
			speql_add_completion(c, text, "model", continuation, WEIGHT_MODEL);
	}
	pp_client_free(request);
}

/* Ranks and adds. */
bool
speql_model_complete(const char *text, SpeqlCompletions *completions)
{
	PpModel *model = pp_model_resolve(NULL, PP_USE_GENERATE);
	int start, len;

	if (model->options != NULL || strcmp(model->kind, "dummy") == 0)
		return false;
	speql_statement_at(text, strlen(text), &start, &len);
	continue_text(model, text, pnstrdup(text + start, len), completions);
	rank(model, text, completions);
	return true;
}
