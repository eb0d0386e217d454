/*
 * studio.h: what the parts of prepack-studio share.
 *
 * prepack-studio carries messages between a browser and PostgreSQL: WebSocket text frames on one
 * side, libpq on the other. It knows no table and no function of prepack; the page asks for those
 * in SQL, as any editor could. Everything runs in one thread around libwebsockets' loop, and
 * nothing in it blocks but the look-up of a host's name (libpq) while connecting; a request to
 * cancel goes out on a thread of its own.
 *
 * Ownership: a Tab belongs to its WebSocket and owns two Links (connections); a Link owns its
 * PGconn and the loop's handle of it. Memory of a tab is bounded by the *_MAX below and by one row.
 */
#ifndef STUDIO_H
#define STUDIO_H

#include <libpq-fe.h>
#include <libwebsockets.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "message.h"
#include "text.h"

#define STUDIO_TABS_MAX     16
#define STUDIO_MESSAGE_MAX  ((size_t) 1 << 20)  /* a message of the page */
#define STUDIO_CELL_MAX     ((size_t) 64 << 10) /* more of a cell is cut, and marked */
#define STUDIO_ROWS_MESSAGE ((size_t) 64 << 10) /* rows go out in messages of about this size */
#define STUDIO_QUEUE_MAX \
	((size_t) 512 << 10) /* unsent bytes at which a result is read no further */
#define STUDIO_ANSWER_MAX    ((size_t) 4 << 20) /* an answer of the side connection */
#define STUDIO_ASKS_MAX      32                 /* questions that wait */
#define STUDIO_ASK_BYTES_MAX ((size_t) 4 << 20) /* all of them together */
#define STUDIO_TOKEN_CHARS   64                 /* 256 bits in hexadecimal */

typedef struct Tab Tab;
typedef struct Link Link;

/* One connection to PostgreSQL, driven by the loop. */
struct Link
{
	Tab *tab;
	PGconn *conn;
	struct lws *wsi;          /* the loop's handle of a duplicate of the socket */
	int socket;               /* of conn, when wsi was made */
	bool reached;             /* a server is there */
	bool ready;               /* connected and logged in */
	bool busy;                /* a statement runs */
	bool paused;              /* not read further until the page has taken what is queued */
	void (*pump)(Link *link); /* takes what has arrived while a statement runs */
};

/* A message on its way to the page; LWS_PRE bytes of room stand before the text. */
typedef struct Outgoing
{
	struct Outgoing *next;
	size_t bytes;
	unsigned char room[];
} Outgoing;

/* A question that waits for the side connection. */
typedef struct Ask
{
	struct Ask *next;
	StudioMessage message;
	size_t bytes;
} Ask;

struct Tab
{
	struct lws *wsi;
	bool welcome; /* showed a token */
	bool closing;
	Text incoming; /* fragments of a message */
	Outgoing *first, *last;
	size_t queued; /* bytes */

	Link main, side;
	char *user, *database; /* as asked for, or NULL; outlive a lost connection */
	bool wants;            /* a database session */
	bool entered;          /* it was there once */
	int attempts;          /* failed ones since the last success */
	lws_sorted_usec_list_t timer;

	/* what runs on the main connection */
	int64_t run_id;
	bool described;
	Text rows;
	size_t n_rows_queued;
	uint64_t n_rows;
	int64_t run_started, first_row;

	/* what runs on the side connection */
	Ask *asks, *asks_last;
	size_t ask_bytes;
	unsigned n_asks;
	Text answer;
	size_t n_answer_rows;
	bool answer_cut, answer_failed;
};

/* Of the whole process. */
typedef struct Studio
{
	const char *conninfo;
	int port;
	bool quiet;
	struct lws_context *context;
	struct lws_vhost *vhost;
	unsigned n_tabs;
} Studio;

extern Studio studio;

/* access.c: who may talk to us. */
void access_print_url(void);
const char *access_issue(void); /* a one-time token */
const char *access_redeem(const char *text,
                          size_t n); /* a tab's key for a token or a key, or NULL */
bool access_host_is_ours(struct lws *wsi);
bool access_origin_is_ours(struct lws *wsi);

/* files.c: the page. */
bool files_load(const char *folder);
int files_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                   size_t len);

/* tab.c: the WebSocket of one tab of the browser. */
int tab_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                 size_t len);
void tab_send(Tab *tab, Text *message); /* takes the text's bytes */
void tab_send_error(Tab *tab, const char *code, const char *message);

/* link.c: a connection. */
bool link_start(Link *link, const char *password);
void link_finish(Link *link);
void link_flush(Link *link);
void link_resume(Link *link);
void link_cancel(Link *link);
int link_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                  size_t len);

/* session.c: the database session of a tab. */
void session_open(Tab *tab, StudioMessage *message); /* takes user and database */
void session_close(Tab *tab);
void session_link_ready(Link *link);
void session_link_lost(Link *link);
void session_notify(Link *link);

/* run.c and ask.c: statements of the person, questions of the page. */
void run_start(Tab *tab, const StudioMessage *message);
void run_forget(Tab *tab);
void ask_add(Tab *tab, StudioMessage *message); /* takes the message */
void ask_next(Tab *tab);
void ask_forget(Tab *tab);
void result_error_json(Text *out, const PGresult *result, const PGconn *conn);
void result_row_json(Text *out, const PGresult *result, int row);

#endif /* STUDIO_H */
