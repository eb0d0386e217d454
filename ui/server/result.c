/*
 * result.c: results and errors of PostgreSQL as JSON.
 */
#include <stdlib.h>
#include <string.h>

#include "studio.h"

/* Adds a member with a field of an error, if it has that. */
static void
add_field(Text *out, const char *name, const PGresult *result, int code)
{
	const char *value = result == NULL ? NULL : PQresultErrorField(result, code);

	if (value == NULL)
		return;
	text_format(out, ",\"%s\":", name);
	text_json_string(out, value);
}

/* Writes an error or a notice as an object. */
void
result_error_json(Text *out, const PGresult *result, const PGconn *conn)
{
	const char *message =
	    result == NULL ? NULL : PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);

	text_puts(out, "{\"message\":");
	text_json_string(out, message != NULL ? message : conn != NULL ? PQerrorMessage(conn) : "");
	add_field(out, "severity", result, PG_DIAG_SEVERITY_NONLOCALIZED);
	add_field(out, "code", result, PG_DIAG_SQLSTATE);
	add_field(out, "detail", result, PG_DIAG_MESSAGE_DETAIL);
	add_field(out, "hint", result, PG_DIAG_MESSAGE_HINT);
	add_field(out, "position", result, PG_DIAG_STATEMENT_POSITION);
	add_field(out, "context", result, PG_DIAG_CONTEXT);
	text_puts(out, "}");
}

/*
 * Writes a row as an array of strings and nulls; what is cut of a cell becomes {"cut": text,
 * "bytes": n}.
 */
void
result_row_json(Text *out, const PGresult *result, int row)
{
	int n = PQnfields(result);

	text_puts(out, "[");
	for (int i = 0; i < n; i++)
	{
		const char *value = PQgetvalue(result, row, i);
		size_t bytes = (size_t) PQgetlength(result, row, i);

		if (i > 0)
			text_puts(out, ",");
		if (PQgetisnull(result, row, i))
			text_puts(out, "null");
		else if (bytes <= STUDIO_CELL_MAX)
			text_json(out, value, bytes);
		else
		{
			text_puts(out, "{\"cut\":");
			text_json(out, value, text_utf8_cut(value, bytes, STUDIO_CELL_MAX));
			text_format(out, ",\"bytes\":%zu}", bytes);
		}
	}
	text_puts(out, "]");
}
