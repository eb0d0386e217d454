/*
 * link.c: one connection to PostgreSQL, driven by libwebsockets' loop.
 *
 * The loop watches a duplicate of libpq's socket: it closes what it watches, and libpq may change
 * its socket while connecting. Reading stops (flow control) while a link is paused.
 */
#include <pthread.h>
#include <unistd.h>

#include "studio.h"

/* Lets the loop forget a socket. */
static void
unwatch(Link *link)
{
	if (link->wsi != NULL)
	{
		lws_set_opaque_user_data(link->wsi, NULL);
		lws_set_timeout(link->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
	}
	link->wsi = NULL;
	link->socket = -1;
}

/* Lets the loop watch the connection's socket. */
static bool
watch(Link *link)
{
	lws_adopt_desc_t how = {.vh = studio.vhost,
	                        .type = LWS_ADOPT_RAW_FILE_DESC,
	                        .vh_prot_name = "libpq",
	                        .opaque = link};
	int fd = PQsocket(link->conn);

	if (link->wsi != NULL && link->socket == fd)
		return true;
	unwatch(link);
	link->socket = fd;
	how.fd.filefd = fd < 0 ? -1 : dup(fd);
	if (how.fd.filefd < 0)
		return false;
	link->wsi = lws_adopt_descriptor_vhost_via_info(&how);
	return link->wsi != NULL;
}

/* Goes on with connecting. */
static void
connecting(Link *link)
{
	PostgresPollingStatusType next = PQconnectPoll(link->conn);

	if (PQstatus(link->conn) == CONNECTION_AWAITING_RESPONSE)
		link->reached = true;
	if (next == PGRES_POLLING_FAILED || !watch(link))
	{
		session_link_lost(link);
		return;
	}
	(void) lws_rx_flow_control(link->wsi, next != PGRES_POLLING_WRITING);
	if (next == PGRES_POLLING_WRITING)
		lws_callback_on_writable(link->wsi);
	else if (next == PGRES_POLLING_OK && PQsetnonblocking(link->conn, 1) == 0)
	{
		link->ready = true;
		session_link_ready(link);
	}
}

/* Starts to connect, as the tab asked for. False when that failed at once. */
bool
link_start(Link *link, const char *password)
{
	const Tab *tab = link->tab;
	const char *names[] = {
	    "dbname", "client_encoding", "fallback_application_name", NULL, NULL, NULL, NULL};
	const char *values[] = {studio.conninfo, "UTF8", "prepack-studio", NULL, NULL, NULL, NULL};
	int n = 3;

	if (tab->user != NULL)
	{
		names[n] = "user";
		values[n++] = tab->user;
		names[n] = "password"; /* empty: none, so that the one of another role is not sent */
		values[n++] = password == NULL ? "" : password;
	}
	if (tab->database != NULL)
	{
		names[n] = "dbname";
		values[n++] = tab->database;
	}
	link->socket = -1;
	link->reached = false;
	link->conn = PQconnectStartParams(names, values, 1);
	if (link->conn == NULL || PQstatus(link->conn) == CONNECTION_BAD || !watch(link))
		return false;
	(void) lws_rx_flow_control(link->wsi, 0);
	lws_callback_on_writable(link->wsi);
	return true;
}

/* Ends a connection. */
void
link_finish(Link *link)
{
	unwatch(link);
	if (link->conn != NULL)
		PQfinish(link->conn);
	link->conn = NULL;
	link->ready = link->busy = link->paused = false;
}

/* Sends what libpq holds; asks for another turn when the socket takes no more. */
void
link_flush(Link *link)
{
	if (link->wsi != NULL && PQflush(link->conn) > 0)
		lws_callback_on_writable(link->wsi);
}

/* Takes what has arrived; tells when the connection is gone. */
static void
readable(Link *link)
{
	bool alive = PQconsumeInput(link->conn) == 1;

	link_flush(link);
	if (link->busy)
		link->pump(link);
	if (link->conn != NULL && link->ready && !link->busy)
		session_notify(link);
	if (link->conn != NULL && !link->paused && (!alive || PQstatus(link->conn) == CONNECTION_BAD))
		session_link_lost(link);
}

/* Reads on after a pause. */
void
link_resume(Link *link)
{
	if (!link->paused || link->conn == NULL)
		return;
	link->paused = false;
	if (link->busy)
		link->pump(link);
	if (link->paused || link->conn == NULL)
		return;
	if (link->wsi == NULL)
		session_link_lost(link);
	else
		(void) lws_rx_flow_control(link->wsi, 1);
}

/* Sends a request to cancel; on a thread, since it opens a connection and waits for its end. */
static void *
cancel_thread(void *arg)
{
	char message[256];

	(void) PQcancel(arg, message, sizeof(message));
	PQfreeCancel(arg);
	return NULL;
}

/* Cancels what runs. */
void
link_cancel(Link *link)
{
	PGcancel *cancel = link->busy ? PQgetCancel(link->conn) : NULL;
	pthread_t thread;

	if (cancel == NULL)
		return;
	if (pthread_create(&thread, NULL, cancel_thread, cancel) == 0)
		(void) pthread_detach(thread);
	else
		PQfreeCancel(cancel);
}

/* The loop's events of a connection's socket. */
int
link_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	Link *link = lws_get_opaque_user_data(wsi);

	(void) user;
	(void) in;
	(void) len;
	if (link == NULL || link->wsi != wsi)
		return reason == LWS_CALLBACK_RAW_RX_FILE || reason == LWS_CALLBACK_RAW_WRITEABLE_FILE ? -1
		                                                                                       : 0;
	switch (reason)
	{
		case LWS_CALLBACK_RAW_RX_FILE:
		case LWS_CALLBACK_RAW_WRITEABLE_FILE:
			if (!link->ready)
				connecting(link);
			else if (reason == LWS_CALLBACK_RAW_WRITEABLE_FILE)
				link_flush(link);
			else if (!link->paused)
				readable(link);
			return 0;
		case LWS_CALLBACK_RAW_CLOSE_FILE:
			link->wsi = NULL;
			if (link->ready && !link->paused)
				readable(link);
			if (link->conn != NULL && link->wsi == NULL && !link->paused)
				session_link_lost(link);
			return 0;
		default:
			return 0;
	}
}
