/*
 * ask.c: the page's own questions, on the side connection, one after the other.
 *
 * A question is one statement with text parameters; its answer is one message, cut at
 * STUDIO_ANSWER_MAX. Questions wait in a queue of bounded length.
 */
#include <string.h>

#include "llm_alloc.h"
#include "studio.h"

/* Takes the first question out of the queue. */
static void
drop_first(Tab *tab)
{
	Ask *ask = tab->asks;

	tab->asks = ask->next;
	if (tab->asks == NULL)
		tab->asks_last = NULL;
	tab->ask_bytes -= ask->bytes;
	tab->n_asks--;
	message_free(&ask->message);
	llm_free(ask);
}

/* Starts an answer. */
static Text
start(int64_t id, const char *member)
{
	Text out = {0};

	text_format(&out, "{\"t\":\"answer\",\"id\":%lld,\"%s\":", (long long) id, member);
	return out;
}

/* Answers with an error of our own. */
static void
fail(Tab *tab, int64_t id, const char *message)
{
	Text out = start(id, "error");

	text_puts(&out, "{\"message\":");
	text_json_string(&out, message);
	text_puts(&out, "}}");
	tab_send(tab, &out);
}

/* Adds a row to the answer, unless that is full. */
static void
add_row(Tab *tab, const PGresult *result, int row)
{
	if (tab->answer_cut || tab->answer.bytes > STUDIO_ANSWER_MAX)
	{
		if (!tab->answer_cut)
			link_cancel(&tab->side);
		tab->answer_cut = true;
		return;
	}
	if (tab->n_answer_rows++ > 0)
		text_puts(&tab->answer, ",");
	result_row_json(&tab->answer, result, row);
}

/* Sends the answer and goes on with the next question. */
static void
finish(Tab *tab)
{
	if (!tab->answer_failed)
	{
		text_puts(&tab->answer, tab->answer_cut ? "],\"cut\":true}" : "]}");
		tab_send(tab, &tab->answer);
	}
	tab->side.busy = false;
	drop_first(tab);
	ask_next(tab);
}

/* Handles one piece of an answer. */
static void
take(Tab *tab, const PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status == PGRES_FATAL_ERROR && !tab->answer_cut)
	{
		Text out = start(tab->asks->message.id, "error");

		result_error_json(&out, result, tab->side.conn);
		text_puts(&out, "}");
		tab_send(tab, &out);
		text_clear(&tab->answer);
		tab->answer_failed = true;
	}
	for (int i = 0; i < PQntuples(result); i++)
		add_row(tab, result, i);
}

/* Takes what has arrived. */
static void
pump(Link *link)
{
	Tab *tab = link->tab;

	while (link->busy && !PQisBusy(link->conn))
	{
		PGresult *result = PQgetResult(link->conn);
		ExecStatusType status = PQresultStatus(result);

		if (result == NULL)
			finish(tab);
		else
			take(tab, result);
		PQclear(result);
		if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
		{
			session_link_lost(link); /* no question of the page copies */
			return;
		}
	}
}

/* Sends the next question, if the connection is free. */
void
ask_next(Tab *tab)
{
	Link *link = &tab->side;
	const StudioMessage *m;

	if (tab->asks == NULL || link->busy || !link->ready)
		return;
	m = &tab->asks->message;
	tab->answer = start(m->id, "rows");
	text_puts(&tab->answer, "[");
	tab->n_answer_rows = 0;
	tab->answer_cut = tab->answer_failed = false;
	if (!PQsendQueryParams(link->conn, m->text, m->n_args, NULL, (const char *const *) m->args,
	                       NULL, NULL, 0))
	{
		session_link_lost(link);
		return;
	}
	(void) PQsetSingleRowMode(link->conn);
	link->pump = pump;
	link->busy = true;
	link_flush(link);
}

/* Lets a question wait for its turn. */
void
ask_add(Tab *tab, StudioMessage *message)
{
	size_t bytes = strlen(message->text) + sizeof(Ask);
	Ask *ask;

	for (int i = 0; i < message->n_args; i++)
		bytes += message->args[i] == NULL ? 0 : strlen(message->args[i]);
	if (!tab->side.ready)
		fail(tab, message->id, "there is no connection");
	else if (tab->n_asks >= STUDIO_ASKS_MAX || tab->ask_bytes + bytes > STUDIO_ASK_BYTES_MAX ||
	         tab->queued > 2 * STUDIO_ANSWER_MAX || (ask = llm_malloc(sizeof(*ask))) == NULL)
		fail(tab, message->id, "too many questions wait");
	else
	{
		*ask = (Ask){NULL, *message, bytes};
		*message = (StudioMessage){0};
		if (tab->asks_last != NULL)
			tab->asks_last->next = ask;
		else
			tab->asks = ask;
		tab->asks_last = ask;
		tab->n_asks++;
		tab->ask_bytes += bytes;
		ask_next(tab);
	}
}

/* Fails all questions when the connection ends. */
void
ask_forget(Tab *tab)
{
	text_clear(&tab->answer);
	while (tab->asks != NULL)
	{
		if (!tab->closing)
			fail(tab, tab->asks->message.id, "the connection was lost");
		drop_first(tab);
	}
}
