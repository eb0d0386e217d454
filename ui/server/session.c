/*
 * session.c: the database session of a tab: a main connection for statements, one beside it.
 *
 * The side connection answers the page's questions (completions, previews, views) and listens, so
 * that typing goes on while a statement runs. Both log in as the same role. When either is lost,
 * both end, and after a success are opened anew, with growing pauses. The password is handed to
 * libpq and wiped; a server that asks for one makes the page ask the person again.
 */
#include <string.h>

#include "llm_alloc.h"
#include "studio.h"

#define RETRY_FIRST_MS 250
#define RETRY_LAST_MS  8000

/* Sends a message of one kind with one text. */
static void
send_text(Tab *tab, const char *kind, const char *message, int retry_ms)
{
	Text out = {0};

	text_format(&out, "{\"t\":\"%s\",\"retry_ms\":%d,\"message\":", kind, retry_ms);
	text_json_string(&out, message);
	text_puts(&out, "}");
	tab_send(tab, &out);
}

/* Ends both connections and what ran on them. */
static void
end_links(Tab *tab)
{
	link_finish(&tab->main);
	link_finish(&tab->side);
	run_forget(tab);
	ask_forget(tab);
}

/* Starts both connections. */
static void
start_links(Tab *tab, const char *password)
{
	if (!link_start(&tab->main, password))
		session_link_lost(&tab->main);
	else if (!link_start(&tab->side, password))
		session_link_lost(&tab->side);
}

/* Tries again. */
static void
retry(lws_sorted_usec_list_t *timer)
{
	Tab *tab = lws_container_of(timer, Tab, timer);

	if (tab->wants)
		start_links(tab, NULL);
}

/* Takes over a member of a message. */
static void
take(char **to, char **from)
{
	llm_free(*to);
	*to = *from != NULL && **from != '\0' ? *from : NULL;
	if (*to != NULL)
		*from = NULL;
}

/* Logs in; ends the session that was there. */
void
session_open(Tab *tab, StudioMessage *message)
{
	lws_sul_cancel(&tab->timer);
	end_links(tab);
	take(&tab->user, &message->user);
	take(&tab->database, &message->database);
	tab->wants = true;
	tab->entered = false;
	tab->attempts = 0;
	start_links(tab, message->password);
}

/* Ends the session. */
void
session_close(Tab *tab)
{
	tab->wants = false;
	link_cancel(&tab->main);
	link_cancel(&tab->side);
	end_links(tab);
	llm_free(tab->user);
	llm_free(tab->database);
	tab->user = tab->database = NULL;
}

/* A link has logged in; with the second the session is there. */
void
session_link_ready(Link *link)
{
	Tab *tab = link->tab;
	Text out = {0};

	if (!tab->main.ready || !tab->side.ready)
		return;
	tab->entered = true;
	tab->attempts = 0;
	text_format(&out, "{\"t\":\"ready\",\"pid\":%d,\"side_pid\":%d,\"version\":%d,\"user\":",
	            PQbackendPID(tab->main.conn), PQbackendPID(tab->side.conn),
	            PQserverVersion(tab->main.conn));
	text_json_string(&out, PQuser(tab->main.conn));
	text_puts(&out, ",\"database\":");
	text_json_string(&out, PQdb(tab->main.conn));
	text_puts(&out, "}");
	tab_send(tab, &out);
}

/* How long to wait before the next attempt. */
static int
pause_ms(const Tab *tab)
{
	int ms = RETRY_FIRST_MS;

	for (int i = 0; i < tab->attempts && ms < RETRY_LAST_MS; i++)
		ms *= 2;
	return ms;
}

/*
 * A link failed or was lost: tells the page, and tries again unless a person must do something,
 * which is when a server refuses who has not been in.
 */
void
session_link_lost(Link *link)
{
	Tab *tab = link->tab;
	bool needs_password = link->conn != NULL && PQconnectionNeedsPassword(link->conn);
	Text why = {0};
	int ms = pause_ms(tab);

	if (!tab->wants)
		return;
	text_puts(&why, link->conn == NULL ? "out of memory" : PQerrorMessage(link->conn));
	text_add(&why, "", 1);
	end_links(tab);
	if (needs_password || (!tab->entered && link->reached))
	{
		tab->wants = false;
		send_text(tab, "login", why.failed ? "" : why.data, 0);
	}
	else
	{
		tab->attempts++;
		send_text(tab, "lost", why.failed ? "" : why.data, ms);
		lws_sul_schedule(studio.context, 0, &tab->timer, retry, ms * (lws_usec_t) LWS_US_PER_MS);
	}
	text_clear(&why);
}

/* Hands on the notifications that a link has received. */
void
session_notify(Link *link)
{
	PGnotify *event;

	while ((event = PQnotifies(link->conn)) != NULL)
	{
		Text out = {0};

		text_puts(&out, "{\"t\":\"notify\",\"channel\":");
		text_json_string(&out, event->relname);
		text_puts(&out, ",\"payload\":");
		text_json_string(&out, event->extra);
		text_puts(&out, "}");
		PQfreemem(event);
		if (link->tab->queued < STUDIO_ANSWER_MAX)
			tab_send(link->tab, &out);
		else
			text_clear(&out);
	}
}
