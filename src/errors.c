/*
 * errors.c: what is said: engine status codes → SQLSTATE, message, DETAIL, HINT; and, where the
 * administrator asks for it, a line of the log for every request. The words are the contract of the
 * manual.
 */
#include "client.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "llm/llm_status.h"

#define PP_LOGGED_BYTES 1000 /* of an instruction or an input */

/* The SQLSTATE of a status. */
static int
sqlstate_of(int status)
{
	switch (status)
	{
		case LLM_E_NOMEM:
			return ERRCODE_OUT_OF_MEMORY;
		case LLM_E_IO:
			return ERRCODE_IO_ERROR;
		case LLM_E_FORMAT:
			return ERRCODE_DATA_EXCEPTION;
		case LLM_E_UNSUPPORTED:
			return ERRCODE_FEATURE_NOT_SUPPORTED;
		case LLM_E_NOT_FOUND:
			return ERRCODE_UNDEFINED_OBJECT;
		case LLM_E_RANGE:
			return ERRCODE_INVALID_PARAMETER_VALUE;
		case LLM_E_TOO_LONG:
			return ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		case LLM_E_BUSY:
			return ERRCODE_INSUFFICIENT_RESOURCES;
		case LLM_E_CANCELLED:
			return ERRCODE_QUERY_CANCELED;
		case LLM_E_LIMIT:
			return ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
		case LLM_E_LOADING:
			return ERRCODE_CANNOT_CONNECT_NOW;
		case LLM_E_DEVICE:
			return ERRCODE_SYSTEM_ERROR;
		case LLM_E_REMOTE:
			return ERRCODE_CONNECTION_FAILURE;
		case LLM_E_PROTOCOL:
			return ERRCODE_PROTOCOL_VIOLATION;
		default:
			return ERRCODE_INTERNAL_ERROR;
	}
}

/* What the user can do about a status, or NULL. */
static const char *
hint_of(int status)
{
	switch (status)
	{
		case LLM_E_BUSY:
			return "Retry when fewer calls are running.";
		case LLM_E_LIMIT:
			return "The administrator can raise \"prepack.memory_limit\".";
		case LLM_E_LOADING:
			return "Call prepack.wait_until_ready() or retry.";
		case LLM_E_TOO_LONG:
			return "Shorten the input, or use a model with a longer context.";
		case LLM_E_DEVICE:
			return "The engine is being restarted; other sessions are not affected.";
		case LLM_E_REMOTE:
			return "Look at the endpoint's own log, its URL and its key; other models are not "
			       "affected.";
		case LLM_E_PROTOCOL:
			return "The endpoint must speak the OpenAI HTTP API; another model there may answer "
			       "better.";
		default:
			return NULL;
	}
}

/*
 * Raises a status. The message comes from the engine, or from a remote endpoint: it is data, not a
 * format.
 */
void
pp_raise(int status, const char *message)
{
	const char *hint = hint_of(status);

	ereport(ERROR, (errcode(sqlstate_of(status)), errmsg_internal("%s", message),
	                hint != NULL ? errhint("%s", hint) : 0));
}

/* Raises a failed row's error. */
void
pp_row_check(const PpJob *job, const PpRow *row)
{
	if (row->status != LLM_OK)
		pp_raise(row->status, row->message != NULL ? row->message : "row failed");
}

/* The beginning of a text, for the log. */
static char *
beginning(PpText text)
{
	return pnstrdup(text.n > 0 ? text.bytes : "",
	                pg_mbcliplen(text.bytes, (int) Min(text.n, PP_LOGGED_BYTES), PP_LOGGED_BYTES));
}

/* Logs a request, for prepack.track_prompts. */
void
pp_log_job(const PpJob *job, int n_rows, const PpText *rows)
{
	PpText first = n_rows > 0 ? rows[0] : (PpText){"", 0};

	ereport(LOG, (errmsg_internal("prepack %s, model \"%s\", rows: %d", job->function, job->model,
	                              n_rows),
	              errdetail("Instruction: %s\nFirst input: %s", beginning(job->instruction),
	                        beginning(first)),
	              errhidecontext(true)));
}
