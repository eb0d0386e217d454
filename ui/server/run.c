/*
 * run.c: the statements that the person runs, on the main connection.
 *
 * Rows are read one by one (single-row mode) and go out in messages of about STUDIO_ROWS_MESSAGE
 * bytes. When the page is behind, the link pauses; TCP then holds back the server.
 */
#include "studio.h"

/* Starts a message about the run. */
static Text
start(const Tab *tab, const char *kind)
{
	Text out = {0};

	text_format(&out, "{\"t\":\"%s\",\"id\":%lld", kind, (long long) tab->run_id);
	return out;
}

/* Milliseconds since the run began. */
static double
since(const Tab *tab, int64_t now)
{
	return (double) (now - tab->run_started) / LWS_US_PER_MS;
}

/* Sends the rows that have gathered. */
static void
send_rows(Tab *tab)
{
	if (tab->n_rows_queued == 0)
		return;
	text_format(&tab->rows, "],\"n\":%zu}", tab->n_rows_queued);
	tab_send(tab, &tab->rows);
	tab->n_rows_queued = 0;
}

/* Sends the names and types of the columns, once for a result. */
static void
describe(Tab *tab, const PGresult *result)
{
	Text out = start(tab, "columns");

	if (tab->first_row == 0)
		tab->first_row = lws_now_usecs();
	text_puts(&out, ",\"columns\":[");
	for (int i = 0; i < PQnfields(result); i++)
	{
		text_puts(&out, i == 0 ? "{\"name\":" : ",{\"name\":");
		text_json_string(&out, PQfname(result, i));
		text_format(&out, ",\"type\":%u,\"mod\":%d}", PQftype(result, i), PQfmod(result, i));
	}
	text_puts(&out, "]}");
	tab_send(tab, &out);
	tab->described = true;
	tab->n_rows = 0;
}

/* Adds the rows of a piece of a result. */
static void
add_rows(Tab *tab, const PGresult *result)
{
	if (!tab->described)
		describe(tab, result);
	for (int i = 0; i < PQntuples(result); i++)
	{
		if (tab->n_rows_queued++ == 0)
			tab->rows = start(tab, "rows");
		text_puts(&tab->rows, tab->n_rows_queued == 1 ? ",\"rows\":[" : ",");
		result_row_json(&tab->rows, result, i);
		tab->n_rows++;
		if (tab->rows.bytes >= STUDIO_ROWS_MESSAGE)
			send_rows(tab);
	}
}

/* Sends what ends one statement: its tag, or its error. */
static void
end_statement(Tab *tab, PGresult *result, const char *error)
{
	Text out;

	send_rows(tab);
	tab->described = false;
	if (error == NULL && PQresultStatus(result) != PGRES_FATAL_ERROR)
	{
		out = start(tab, "end");
		text_puts(&out, ",\"tag\":");
		text_json_string(&out, PQcmdStatus(result));
		text_format(&out, ",\"rows\":%llu}", (unsigned long long) tab->n_rows);
	}
	else
	{
		out = start(tab, "error");
		text_puts(&out, ",\"error\":");
		if (error == NULL)
			result_error_json(&out, result, tab->main.conn);
		else
		{
			text_puts(&out, "{\"message\":");
			text_json_string(&out, error);
			text_puts(&out, "}");
		}
		text_puts(&out, "}");
	}
	tab_send(tab, &out);
	tab->n_rows = 0;
}

/* Gets out of COPY, whose data a page has no use for. False: more of it has yet to arrive. */
static bool
refuse_copy(Tab *tab, PGresult *result)
{
	char *data;
	int n;

	if (PQresultStatus(result) != PGRES_COPY_OUT)
	{
		(void) PQputCopyEnd(tab->main.conn, "COPY FROM STDIN works in psql, not here");
		link_flush(&tab->main);
		return true;
	}
	if (!tab->described)
	{
		end_statement(tab, NULL, "COPY TO STDOUT works in psql, not here: the rows were left out");
		tab->described = true;
		link_cancel(&tab->main);
	}
	while ((n = PQgetCopyData(tab->main.conn, &data, 1)) > 0)
		PQfreemem(data);
	return n < 0;
}

/* Tells the page that the run is over. */
static void
finish(Tab *tab)
{
	static const char *const states[] = {"idle", "active", "open", "failed", "unknown"};
	int64_t now = lws_now_usecs();
	Text out = start(tab, "done");

	send_rows(tab);
	text_format(&out, ",\"ms\":%.3f,\"first_ms\":%.3f,\"transaction\":\"%s\"}", since(tab, now),
	            tab->first_row == 0 ? since(tab, now) : since(tab, tab->first_row),
	            states[PQtransactionStatus(tab->main.conn)]);
	tab_send(tab, &out);
	tab->main.busy = false;
}

/* Handles one result; false when the caller has to come again for more. */
static bool
take(Tab *tab, PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_SINGLE_TUPLE:
			add_rows(tab, result);
			return true;
		case PGRES_TUPLES_OK:
			add_rows(tab, result);
			end_statement(tab, result, NULL);
			return true;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			return refuse_copy(tab, result);
		default:
			end_statement(tab, result, NULL);
			return true;
	}
}

/* Takes what has arrived, as far as the page keeps up. */
static void
pump(Link *link)
{
	Tab *tab = link->tab;

	while (link->busy && !tab->closing && !PQisBusy(link->conn))
	{
		PGresult *result = PQgetResult(link->conn);
		bool more = true;

		if (result == NULL)
			finish(tab);
		else
			more = take(tab, result);
		PQclear(result);
		if (!more)
			break;
		if (tab->queued > STUDIO_QUEUE_MAX && link->busy)
		{
			link->paused = true;
			if (link->wsi != NULL)
				(void) lws_rx_flow_control(link->wsi, 0);
			return;
		}
	}
	send_rows(tab); /* what is here should be seen now */
}

/* Hands a notice of the server to the page. */
static void
notice(void *arg, const PGresult *result)
{
	Tab *tab = arg;
	Text out = start(tab, "notice");

	text_puts(&out, ",\"notice\":");
	result_error_json(&out, result, NULL);
	text_puts(&out, "}");
	if (tab->queued < STUDIO_ANSWER_MAX)
		tab_send(tab, &out);
	else
		text_clear(&out);
}

/* Runs what the person wrote, one statement or more. */
void
run_start(Tab *tab, const StudioMessage *message)
{
	Link *link = &tab->main;

	if (!link->ready || link->busy)
	{
		tab_send_error(tab, link->ready ? "busy" : "offline",
		               link->ready ? "a statement is running" : "there is no connection");
		return;
	}
	(void) PQsetNoticeReceiver(link->conn, notice, tab);
	tab->run_id = message->id;
	tab->run_started = lws_now_usecs();
	tab->first_row = 0;
	tab->n_rows = 0;
	tab->described = false;
	if (!PQsendQuery(link->conn, message->text))
	{
		session_link_lost(link);
		return;
	}
	(void) PQsetSingleRowMode(link->conn);
	link->pump = pump;
	link->busy = true;
	link_flush(link);
}

/* Forgets the run when its connection ends. */
void
run_forget(Tab *tab)
{
	text_clear(&tab->rows);
	tab->n_rows_queued = 0;
}
