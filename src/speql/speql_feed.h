/*
 * speql_feed.h: the texts that people are typing, between the backends that feed them and the
 * workers that work on them.
 */
#ifndef SPEQL_FEED_H
#define SPEQL_FEED_H

#include "postgres.h"

#include "speql_shared.h"

/* What a worker works on: a copy of the newest text. Allocated in the current context. */
typedef struct SpeqlRequest
{
	uint64 id;
	char *text;
	int cursor; /* byte offset */
	int level;  /* PpSpeculation */
	uint64 env;
	char *settings;
	int bytes_settings;
	char *planner; /* settings of the planner */
	int bytes_planner;
} SpeqlRequest;

/* Takes the newest text of a session; false when it is the one with number `last`. */
extern bool speql_feed_take(int session, uint64 last, SpeqlRequest *request);

/* True when there is a newer text than a request's, or the request's was submitted. */
extern bool speql_feed_superseded(int session, uint64 id);

/* True when nobody feeds the session any more. */
extern bool speql_feed_abandoned(int session);

/*
 * Says what the next build needs: it is cancelled as soon as a text comes that does not contain the
 * tokens of `anchor`; if `ends`, also of one that goes on after them with more than an order or a
 * limit. NULL: no build runs. False when a newer text is already there that has no use for it.
 */
extern bool speql_feed_anchor(int session, const char *anchor, bool ends);

/* Publishes completions (see speql_predict.h). */
extern void speql_feed_put_completions(int session, uint64 id, const char *data, int bytes);

/* Publishes previews; takes their pieces over. */
extern void speql_feed_put_previews(int session, uint64 id, const SpeqlPreview *previews, int n);

/* Says that all work for a text is finished. */
extern void speql_feed_done(int session, uint64 id);

/* The worker's entry, registered as a dynamic background worker. */
extern PGDLLEXPORT void pp_speculator_main(Datum main_arg);

/* The session at hand submits a statement of its own: no work on its text may compete with it. */
extern void speql_feed_submitted(void);

/* The worker says that it runs, and at its end that it does not. */
extern void speql_feed_enter(int session);
extern void speql_feed_leave(int session);

/* Whom a session's worker is to be. */
extern void speql_feed_identity(int session, Oid *dbid, Oid *login, Oid *roleid);

#endif /* SPEQL_FEED_H */
