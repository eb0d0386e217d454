/*
 * tab.c: the WebSocket of one tab of the browser.
 *
 * Messages to the page wait in a queue and go out one a time, when the socket takes them. While
 * more than STUDIO_QUEUE_MAX waits, the result that fills it is not read, so a slow reader slows
 * the server's backend, not this program's memory.
 */
#include <string.h>

#include "llm_alloc.h"
#include "studio.h"

#define HELLO_SECONDS 10

/* Puts a message into the queue, and empties the text; a text that failed ends the tab. */
void
tab_send(Tab *tab, Text *message)
{
	Outgoing *out = NULL;

	if (!message->failed)
		out = llm_malloc(sizeof(*out) + LWS_PRE + message->bytes);
	if (out == NULL)
		tab->closing = true;
	else
	{
		memcpy(out->room + LWS_PRE, message->data, message->bytes);
		out->next = NULL;
		out->bytes = message->bytes;
		if (tab->last != NULL)
			tab->last->next = out;
		else
			tab->first = out;
		tab->last = out;
		tab->queued += out->bytes;
	}
	text_clear(message);
	lws_callback_on_writable(tab->wsi);
}

/* Tells the page what is wrong with a message of its own. */
void
tab_send_error(Tab *tab, const char *code, const char *message)
{
	Text out = {0};

	text_puts(&out, "{\"t\":\"refused\",\"code\":");
	text_json_string(&out, code);
	text_puts(&out, ",\"message\":");
	text_json_string(&out, message);
	text_puts(&out, "}");
	tab_send(tab, &out);
}

/* Takes a token and lets the tab in, or ends it. */
static void
hello(Tab *tab, const StudioMessage *message)
{
	const char *key = access_redeem(message->text, strlen(message->text));
	Text out = {0};

	if (key == NULL)
	{
		tab_send_error(tab, "token", "this link was used before, or is not of this program");
		tab->closing = true;
		return;
	}
	tab->welcome = true;
	lws_sul_cancel(&tab->timer);
	text_puts(&out, "{\"t\":\"welcome\",\"key\":");
	text_json_string(&out, key);
	text_puts(&out, "}");
	tab_send(tab, &out);
	if (!studio.quiet)
		access_print_url();
}

/* Gives the page a token for another tab. */
static void
ticket(Tab *tab)
{
	const char *token = access_issue();
	Text out = {0};

	text_puts(&out, "{\"t\":\"ticket\",\"token\":");
	text_json_string(&out, token);
	text_puts(&out, "}");
	tab_send(tab, &out);
}

/* Does what a message asks for; frees it. */
static void
dispatch(Tab *tab, StudioMessage *message)
{
	if (message->kind == STUDIO_HELLO)
		hello(tab, message);
	else if (!tab->welcome)
	{
		tab_send_error(tab, "token", "the first message must be hello");
		tab->closing = true;
	}
	else if (message->kind == STUDIO_OPEN)
		session_open(tab, message);
	else if (message->kind == STUDIO_RUN)
		run_start(tab, message);
	else if (message->kind == STUDIO_CANCEL)
		link_cancel(&tab->main);
	else if (message->kind == STUDIO_TICKET)
		ticket(tab);
	else
		ask_add(tab, message);
	message_free(message);
}

/* Takes a fragment; at the end of a message, reads it. */
static int
receive(Tab *tab, const char *data, size_t bytes)
{
	StudioMessage message;
	const char *reason;

	if (lws_frame_is_binary(tab->wsi) || bytes > STUDIO_MESSAGE_MAX - tab->incoming.bytes)
	{
		lws_close_reason(tab->wsi, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE, NULL, 0);
		return -1;
	}
	text_add(&tab->incoming, data, bytes);
	if (tab->incoming.failed)
		return -1;
	if (!lws_is_final_fragment(tab->wsi))
		return 0;
	if (message_read(tab->incoming.data, tab->incoming.bytes, &message, &reason))
		dispatch(tab, &message);
	else
	{
		tab_send_error(tab, "message", reason);
		tab->closing = tab->closing || !tab->welcome;
	}
	if (tab->incoming.data != NULL)
		text_wipe(tab->incoming.data, tab->incoming.bytes);
	text_clear(&tab->incoming);
	return 0;
}

/* Sends one message of the queue. */
static int
send_next(Tab *tab)
{
	Outgoing *out = tab->first;

	if (out == NULL)
		return tab->closing ? -1 : 0;
	tab->first = out->next;
	if (tab->first == NULL)
		tab->last = NULL;
	tab->queued -= out->bytes;
	if (lws_write(tab->wsi, out->room + LWS_PRE, out->bytes, LWS_WRITE_TEXT) < 0)
	{
		llm_free(out);
		return -1;
	}
	llm_free(out);
	if (tab->queued < STUDIO_QUEUE_MAX / 2)
		link_resume(&tab->main);
	lws_callback_on_writable(tab->wsi);
	return 0;
}

/* Ends a tab that showed no token in time. */
static void
hello_timeout(lws_sorted_usec_list_t *timer)
{
	Tab *tab = lws_container_of(timer, Tab, timer);

	tab->closing = true;
	lws_callback_on_writable(tab->wsi);
}

/* Sets up a new tab. */
static int
established(Tab *tab, struct lws *wsi)
{
	*tab = (Tab){.wsi = wsi};
	tab->main.tab = tab->side.tab = tab;
	if (++studio.n_tabs > STUDIO_TABS_MAX)
	{
		tab_send_error(tab, "tabs", "too many tabs are open");
		tab->closing = true;
		return 0;
	}
	lws_sul_schedule(studio.context, 0, &tab->timer, hello_timeout, HELLO_SECONDS * LWS_US_PER_SEC);
	return 0;
}

/* Frees what a tab holds; a socket that was refused never was one. */
static void
closed(Tab *tab)
{
	if (tab == NULL || tab->wsi == NULL)
		return;
	studio.n_tabs--;
	lws_sul_cancel(&tab->timer);
	tab->closing = true;
	session_close(tab);
	while (tab->first != NULL)
	{
		Outgoing *out = tab->first;

		tab->first = out->next;
		llm_free(out);
	}
	text_clear(&tab->incoming);
	tab->wsi = NULL;
}

/* The protocol of the page. */
int
tab_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Tab *tab = user;

	switch (reason)
	{
		case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
			return access_host_is_ours(wsi) && access_origin_is_ours(wsi) ? 0 : -1;
		case LWS_CALLBACK_ESTABLISHED:
			return established(tab, wsi);
		case LWS_CALLBACK_RECEIVE:
			return tab->closing ? 0 : receive(tab, in, len);
		case LWS_CALLBACK_SERVER_WRITEABLE:
			return send_next(tab);
		case LWS_CALLBACK_CLOSED:
			closed(tab);
			return 0;
		default:
			return 0;
	}
}
