/*
 * speql_worker.c: the background worker of one typing session.
 *
 * For each text that it finds: repair its blocks; publish completions; preview the block under the
 * cursor; build tables, cheapest use first; preview again. It looks for a newer text between the
 * steps, and a build that a newer text makes useless is cancelled by whoever feeds that text. Each
 * step is a transaction of its own, and an error in it is only that step's end.
 *
 * The worker logs in as whoever logged in where the text was typed, sets the same role, and works
 * under the same settings. It ends after IDLE_MS without a text.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/async.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "prepack.h"
#include "speql.h"
#include "speql_ahead.h"
#include "speql_build.h"
#include "speql_env.h"
#include "speql_feed.h"
#include "speql_index.h"
#include "speql_model.h"
#include "speql_plan.h"
#include "speql_plantree.h"
#include "speql_predict.h"
#include "speql_preview.h"
#include "speql_registry.h"
#include "speql_scan.h"

#define IDLE_MS        60000
#define SWEEP_MS       5000 /* between looks at tables that are to go */
#define PAUSE_MS       250  /* of typing, before something costly is built */
#define WHOLE_PAUSE_MS 60   /* the same when the text runs as it is */
#define COSTLY_MS      20   /* what is worth waiting for a pause */
#define CHEAP_MS       2    /* what is not worth a table */
#define SAMPLE_OVER_MS 400  /* a preview that would take longer reads a sample */
#define SAMPLE_PERCENT 2.0
/* an existing table must be so much cheaper than none, else a better is built */
#define MIN_GAIN          4.0
#define PREFETCH_PAGES    8192  /* of what a block reads, where no table may be built */
#define MODEL_PAUSE_MS    40    /* of typing, before the model is asked */
#define MODEL_MS          2000  /* that it may take */
#define NO_MODEL_MS       30000 /* until it is asked again after it did not answer */
#define SLOW_MODEL_MS     1000  /* … or only took too long */
#define TABLE_FIRST_MS    1500  /* a build of a text that may be submitted any moment precedes it */
#define DOUBT             3.0   /* times the limit that a build may be expected to take */
#define SUPERSETS         4     /* that are tried for one text */
#define SUPERSET_ROWS     500000 /* most of one */
#define SUPERSET_COST     2.5    /* times what the block itself costs, at most */
#define ROW_COST          0.2    /* of a row that is written, in the planner's units */
#define FIRST_MS_PER_COST 0.004  /* until builds have shown what a unit of cost takes */

/* One block of the text at hand. */
typedef struct Work
{
	const SpeqlBlock *block;
	bool under_cursor;
	char *text;   /* with the WITH items that it reads */
	char *anchor; /* the part of the typed text that its repair kept */
	SpeqlRepair repair;
	SpeqlPreview preview;
	bool runs;       /* valid, joined, free of side effects */
	bool whole;      /* its repair kept all of it */
	bool grouped;    /* more conditions would change the rows that are left */
	bool model_last; /* its tables come before the model's completions */
} Work;

/* What the worker keeps while it handles a text. */
typedef struct Speculator
{
	int session;
	SpeqlRequest request;
	MemoryContext context; /* of the text; reset for the next one */
	SpeqlBlocks *blocks;
	Work *work;
	int n;
	double ms_per_cost; /* learnt from builds; outlives texts */
	bool cancelled;     /* the step at hand ended by a cancel */
	int n_built;        /* tables so far */
	int planned;        /* of them, when the statement was planned last */
	SpeqlCompletions completions;
	TimestampTz no_model_until; /* there is none, or it does not answer */
} Speculator;

typedef void (*Step)(Speculator *s, void *arg);

static Speculator speculator;

/* ---- steps ------------------------------------------------------------------------------- */

/* Between steps only an end of the process counts: a cancel came too late for what it meant. */
static void
check_for_end(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
}

/* Runs a step in a transaction of its own; false with the message in the context when it fails. */
static bool
run_step(Speculator *s, Step step, void *arg, int timeout_ms, char **message)
{
	volatile bool good = true;

	s->cancelled = false;
	check_for_end();
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		MemoryContextSwitchTo(s->context);
		enable_timeout_after(STATEMENT_TIMEOUT, timeout_ms);
		step(s, arg);
		disable_timeout(STATEMENT_TIMEOUT, false);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData *error;

		disable_timeout(STATEMENT_TIMEOUT, false);
		MemoryContextSwitchTo(s->context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		QueryCancelPending = false;
		s->cancelled = error->sqlerrcode == ERRCODE_QUERY_CANCELED;
		if (message != NULL)
			*message = error->message;
		good = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(s->context);
	return good;
}

/* Logs what took long, as prepack.speculation_log_min_duration asks for. */
static void
log_if_slow(const char *what, TimestampTz start, const char *sql)
{
	double ms = (GetCurrentTimestamp() - start) / 1000.0;

	if (pp_speculation_log_min_duration >= 0 && ms >= pp_speculation_log_min_duration)
		ereport(LOG, (errmsg("speculation: duration: %.3f ms  %s: %s", ms, what, sql),
		              errhidestmt(true)));
}

/* True when a newer text is there, or nobody waits for this one any more. */
static bool
superseded(const Speculator *s)
{
	return speql_feed_superseded(s->session, s->request.id) || speql_feed_abandoned(s->session);
}

/* Step: tells whoever listens. */
static void
step_notify(Speculator *s, void *arg)
{
	Async_Notify("prepack_speculation", psprintf("{\"id\": " UINT64_FORMAT ", \"event\": \"%s\"}",
	                                             s->request.id, (const char *) arg));
}

/* Sends an event. */
static void
notify(Speculator *s, const char *event)
{
	(void) run_step(s, step_notify, unconstify(char *, event), 1000, NULL);
}

/* Waits for a pause of typing; false when a newer text came. */
static bool
wait_for_pause(Speculator *s, int ms)
{
	TimestampTz end = GetCurrentTimestamp() + ms * INT64CONST(1000);

	while (!superseded(s))
	{
		long left = (long) ((end - GetCurrentTimestamp()) / 1000);

		if (left <= 0)
			return true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, left,
		                 PP_WAIT_EVENT_NEW("PrepackSpeculatorPause"));
		ResetLatch(MyLatch);
		check_for_end();
	}
	return false;
}

/* ---- repair ------------------------------------------------------------------------------ */

/* True when two tokens are spelt alike. */
static bool
same_token(const SpeqlTokens *a, int i, const SpeqlTokens *b, int k)
{
	int len = a->tok[i].end - a->tok[i].start;

	return len == b->tok[k].end - b->tok[k].start &&
	       strncmp(a->text + a->tok[i].start, b->text + b->tok[k].start, len) == 0;
}

/*
 * The tokens that a block's own text and its repaired text begin with: as long as a text has them,
 * what was made of the repaired text is of use. The WITH items before the block do not count.
 */
static char *
anchor_of(const SpeqlBlocks *b, Work *w)
{
	SpeqlTokens *typed = speql_lex(w->text, strlen(w->text));
	SpeqlTokens *repaired = w->repair.sql ? speql_lex(w->repair.sql, strlen(w->repair.sql)) : typed;
	int own = typed->n - (w->block->last - w->block->first), n = 0;

	while (n < typed->n && n < repaired->n && same_token(typed, n, repaired, n))
		n++;
	own = Max(own, 0);
	w->whole = n == typed->n;
	if (n <= own)
		return pstrdup("");
	return pnstrdup(w->text + typed->tok[own].start, typed->tok[n - 1].end - typed->tok[own].start);
}

/* Step: repairs every block. */
static void
step_repair(Speculator *s, void *arg)
{
	int64 budget = SPEQL_REPAIR_BUDGET;
	int start, len;
	char *text;

	speql_statement_at(s->request.text, s->request.cursor, &start, &len);
	text = pnstrdup(s->request.text + start, len);
	s->blocks = speql_blocks(speql_lex(text, len), s->request.cursor - start);
	s->n = Min(s->blocks->n, SPEQL_BLOCKS_MAX);
	s->work = palloc0(sizeof(Work) * Max(s->n, 1));
	for (int i = 0; i < s->n; i++)
	{
		Work *w = &s->work[i];

		w->block = &s->blocks->block[i];
		w->under_cursor = i == s->blocks->cursor;
		w->text = speql_block_text(s->blocks, i);
		speql_repair(w->text, w->block->kind, &budget, &w->repair);
		w->anchor = anchor_of(s->blocks, w);
		w->runs = w->repair.valid && !w->repair.cross;
		strlcpy(w->preview.block, w->block->name, NAMEDATALEN);
		strlcpy(w->preview.state,
		        w->repair.valid ? (w->repair.cross ? "skipped" : "running") : "invalid",
		        sizeof(w->preview.state));
		w->preview.under_cursor = w->under_cursor;
		w->preview.total_rows = -1;
	}
	pg_atomic_fetch_add_u64(&speql_shared->counters.n_repairs, 1);
}

/* ---- previews ---------------------------------------------------------------------------- */

/* Publishes what is there, in copies: the registry of sessions takes them over. */
static void
publish_previews(Speculator *s)
{
	SpeqlPreview *copies = palloc(sizeof(SpeqlPreview) * Max(s->n, 1));

	for (int i = 0; i < s->n; i++)
	{
		SpeqlPreview *p = &s->work[i].preview;
		const char *sql = s->work[i].repair.valid ? s->work[i].repair.sql : s->work[i].text;
		const char *columns = speql_text(p->columns), *rows = speql_text(p->rows);

		copies[i] = *p;
		copies[i].sql = speql_store(sql, strlen(sql) + 1);
		copies[i].columns = columns ? speql_store(columns, strlen(columns) + 1) : InvalidDsaPointer;
		copies[i].rows = rows ? speql_store(rows, strlen(rows) + 1) : InvalidDsaPointer;
	}
	speql_feed_put_previews(s->session, s->request.id, copies, s->n);
}

/* Frees the worker's own pieces. */
static void
drop_previews(Speculator *s)
{
	for (int i = 0; i < s->n; i++)
	{
		speql_release(&s->work[i].preview.columns);
		speql_release(&s->work[i].preview.rows);
	}
	s->n = 0;
}

typedef struct PreviewStep
{
	Work *work;
	double sample;
} PreviewStep;

/* Step: runs one preview. */
static void
step_preview(Speculator *s, void *arg)
{
	PreviewStep *step = arg;
	SpeqlPreview fresh = step->work->preview;

	fresh.columns = fresh.rows = InvalidDsaPointer;
	fresh.sampled = false;
	speql_preview_run(step->work->repair.sql, step->sample, &fresh);
	speql_release(&step->work->preview.columns);
	speql_release(&step->work->preview.rows);
	step->work->preview = fresh;
}

/* Previews a block; sampled when the whole would take too long. */
static void
preview(Speculator *s, Work *w, double expected_ms)
{
	PreviewStep step = {w, expected_ms > SAMPLE_OVER_MS ? SAMPLE_PERCENT : 100};
	TimestampTz start = GetCurrentTimestamp();
	bool good;

	if (speql_feed_anchor(s->session, w->anchor, w->whole && w->grouped))
	{
		good = run_step(s, step_preview, &step, pp_speculation_statement_timeout, NULL);
		log_if_slow(good ? "preview" : "failed preview", start, w->repair.sql);
		strlcpy(w->preview.state, good ? "ready" : "failed", sizeof(w->preview.state));
		if (good)
			pg_atomic_fetch_add_u64(&speql_shared->counters.n_previews, 1);
	}
	(void) speql_feed_anchor(s->session, NULL, false);
	if (superseded(s))
		return;
	publish_previews(s);
	notify(s, "preview");
}

/* ---- completions -------------------------------------------------------------------------- */

/* Publishes completions. */
static void
publish_completions(Speculator *s)
{
	StringInfoData data;

	initStringInfo(&data);
	speql_write_completions(&s->completions, &data);
	speql_feed_put_completions(s->session, s->request.id, data.data, data.len);
	pg_atomic_fetch_add_u64(&speql_shared->counters.n_completions, 1);
}

/* Step: makes completions. */
static void
step_predict(Speculator *s, void *arg)
{
	s->completions.n = 0;
	speql_predict(s->request.text, s->request.cursor, s->n ? s->work[0].repair.sql : NULL,
	              s->n && s->work[0].repair.valid, &s->completions);
	publish_completions(s);
}

/* Step: has the model rank them and add its own. */
static void
step_model(Speculator *s, void *arg)
{
	*(bool *) arg = speql_model_complete(s->request.text, &s->completions);
}

/* Asks the model, in a pause of typing; where there is none, not again for a while. */
static void
ask_model(Speculator *s)
{
	bool asked = false, good;
	TimestampTz start;

	if (GetCurrentTimestamp() < s->no_model_until ||
	    s->request.cursor < (int) strlen(s->request.text) || !wait_for_pause(s, MODEL_PAUSE_MS))
		return;
	start = GetCurrentTimestamp();
	good = run_step(s, step_model, &asked, MODEL_MS, NULL);
	log_if_slow("model", start, s->request.text);
	if (!good || !asked)
		s->no_model_until =
		    GetCurrentTimestamp() + (s->cancelled ? SLOW_MODEL_MS : NO_MODEL_MS) * INT64CONST(1000);
	if (!asked || superseded(s))
		return;
	publish_completions(s);
	notify(s, "completions");
}

/* ---- tables ------------------------------------------------------------------------------ */

/* What is known of a block before anything of it runs. */
typedef struct Outlook
{
	Work *work;
	bool may_run;
	double ms_plain; /* without tables */
	double ms_now;   /* with the tables that are there */
	double ms_first; /* until the rows of a preview */
	bool better;     /* it is finished, and a table of just its rows would still shorten it */
} Outlook;

/* Step: plans a block; leaves the plan of the whole statement with the session. */
static void
step_outlook(Speculator *s, void *arg)
{
	Outlook *o = arg;
	Query *query = speql_analyse(o->work->repair.sql);
	Query *copy = copyObject(query); /* the planner changes it */
	bool ahead = o->work->block->kind == SPEQL_MAIN && s->request.level >= PP_SPECULATION_PLAN;
	PlannedStmt *plan;
	Plan *top;

	o->may_run = speql_may_run(query);
	o->work->grouped = query->hasAggs || query->groupClause || query->distinctClause ||
	                   query->hasWindowFuncs || query->setOperations;
	if (!o->may_run)
		return;
	if (o->work->block->kind == SPEQL_MAIN)
		s->planned = s->n_built;
	plan = speql_ahead_plan(s->session, query, o->work->repair.sql, ahead);
	if (s->request.level == PP_SPECULATION_PLAN && o->work->under_cursor)
		speql_prefetch(plan, PREFETCH_PAGES);
	top = plan->planTree;
	o->ms_now = top->total_cost * s->ms_per_cost;
	o->ms_first = (top->startup_cost + (top->total_cost - top->startup_cost) *
	                                       Min(1, SPEQL_PREVIEW_ROWS / Max(top->plan_rows, 1))) *
	              s->ms_per_cost;
	o->ms_plain = speql_original_cost(plan) * s->ms_per_cost;
	o->better = o->work->repair.note.len == 0 && o->ms_now > COSTLY_MS && !speql_held_exactly(copy);
}

/* A table that may be built. */
typedef struct BuildStep
{
	Work *work;
	int superset; /* the how-manieth of speql_superset_conjuncts(); 0: the block itself */
	bool none;    /* there is no such superset, nor a later one */
	uint64 id;
	double ms;
} BuildStep;

/* True when a definition is worth its build: not too large, nor much dearer than the block. */
static bool
admitted(const Speculator *s, const SpeqlForm *form, const SpeqlEstimate *e, bool superset)
{
	SpeqlReason reason;
	Query *itself;

	if (e->bytes > pp_speculation_max_bytes * 1024.0 * 1024.0 / 2 ||
	    e->cost * s->ms_per_cost > DOUBT * pp_speculation_statement_timeout)
		return false;
	if (!superset)
		return true;
	itself = speql_define(form, NIL, &reason);
	return itself == NULL ||
	       (e->rows <= SUPERSET_ROWS && e->cost <= SUPERSET_COST * speql_estimate(itself).cost);
}

/* Learns what a unit of cost takes. */
static void
learn(Speculator *s, double cost, double ms)
{
	double seen = ms / Max(cost, 1);

	if (ms > CHEAP_MS)
		s->ms_per_cost = 0.7 * s->ms_per_cost + 0.3 * seen;
}

/* Step: builds one table, if what it would hold is worth it and fits. */
static void
step_build(Speculator *s, void *arg)
{
	BuildStep *step = arg;
	SpeqlReason reason;
	SpeqlForm *form = speql_named_form(speql_analyse(step->work->repair.sql), &reason);
	List *dropped = form ? speql_superset_conjuncts(form, step->superset) : NIL;
	Query *definition = form ? speql_define(form, dropped, &reason) : NULL;
	SpeqlEstimate e;
	const char *problem;
	TimestampTz start = GetCurrentTimestamp();

	step->none = form == NULL || (step->superset && dropped == NIL);
	if (definition == NULL || step->none)
		return;
	e = speql_estimate(definition);
	if (!admitted(s, form, &e, step->superset))
		return;
	(void) speql_registry_evict((int64) e.bytes);
	step->id = speql_build(definition, step->superset ? SPEQL_KIND_SUPERSET : SPEQL_KIND_EXACT,
	                       speql_compared_columns(dropped), s->request.env, &problem);
	step->ms = (GetCurrentTimestamp() - start) / 1000.0;
	learn(s, e.cost + ROW_COST * e.rows, step->ms);
}

/* Builds a table for a block. True when there is one now; *none: see BuildStep. */
static bool
build(Speculator *s, Work *w, int superset, bool *none)
{
	BuildStep step = {.work = w, .superset = superset};
	TimestampTz start = GetCurrentTimestamp();
	bool good;

	if (!speql_feed_anchor(s->session, w->anchor, w->whole && (w->grouped || superset > 0)))
		return false;
	good = run_step(s, step_build, &step, pp_speculation_statement_timeout, NULL);
	*none = step.none;
	(void) speql_feed_anchor(s->session, NULL, false);
	log_if_slow(step.id != 0 && good ? "table" : "no table", start, w->repair.sql);
	if (s->cancelled)
	{
		pg_atomic_fetch_add_u64(&speql_shared->counters.n_cancelled, 1);
		pg_atomic_fetch_add_u64(&speql_shared->counters.wasted_us,
		                        (uint64) (GetCurrentTimestamp() - start));
	}
	s->n_built += good && step.id != 0;
	if (good && step.id != 0 && !superseded(s))
		notify(s, "table");
	return good && step.id != 0;
}

/* True when a block's table is worth building. */
static bool
worth_a_table(const Speculator *s, const Outlook *o)
{
	return s->request.level >= PP_SPECULATION_MATERIALIZE && o->ms_plain >= CHEAP_MS &&
	       (o->ms_now * MIN_GAIN > o->ms_plain || o->better);
}

/* Plans the statement over the tables that have come since it was planned. */
static void
plan_again(Speculator *s)
{
	Outlook o = {.work = &s->work[0]};

	if (s->work[0].runs)
		(void) run_step(s, step_outlook, &o, 2000, NULL);
}

/*
 * Works on one block. What is costly runs once: into a table, which the preview then reads; until
 * then a sample is shown.
 */
static void
work_on(Speculator *s, Work *w)
{
	Outlook o = {.work = w};
	bool built = false, costly, none;

	if (!w->runs || !run_step(s, step_outlook, &o, 2000, NULL) || !o.may_run)
	{
		if (w->runs)
			strlcpy(w->preview.state, "skipped", sizeof(w->preview.state));
		if (w->under_cursor)
			ask_model(s);
		return;
	}
	costly = o.ms_first > COSTLY_MS;
	if (w->under_cursor && (!costly || o.ms_first > SAMPLE_OVER_MS) && !superseded(s))
		preview(s, w, o.ms_first);
	w->model_last = w->repair.note.len == 0 && o.ms_now <= TABLE_FIRST_MS;
	if (w->under_cursor && !w->model_last)
		ask_model(s);
	if (worth_a_table(s, &o))
	{
		if (costly && !wait_for_pause(s, w->repair.note.len == 0 ? WHOLE_PAUSE_MS : PAUSE_MS))
			return;
		built = build(s, w, 0, &none);
	}
	if (built && w->block->kind == SPEQL_MAIN && !superseded(s))
		plan_again(s);
	if (w->under_cursor && !superseded(s) &&
	    (w->preview.sampled ? built : strcmp(w->preview.state, "ready") != 0))
		preview(s, w, built ? 0 : o.ms_first);
}

/* Step: gives a table that the statement's plan sorts an index in this order. */
static void
step_order(Speculator *s, void *arg)
{
	Query *query = speql_analyse(s->work[0].repair.sql);

	*(bool *) arg =
	    speql_may_run(query) && speql_index_order(speql_ahead_plan(s->session, query, "", false));
}

/* Shortens what a statement that is complete still takes with the tables that are there. */
static void
work_on_order(Speculator *s, Work *w)
{
	Outlook o = {.work = w};
	TimestampTz start;
	bool indexed = false;

	if (!w->runs || w->repair.note.len > 0 || s->request.level < PP_SPECULATION_MATERIALIZE ||
	    !run_step(s, step_outlook, &o, 2000, NULL) || o.ms_now == o.ms_plain ||
	    o.ms_now < CHEAP_MS || !wait_for_pause(s, WHOLE_PAUSE_MS))
		return;
	start = GetCurrentTimestamp();
	if (run_step(s, step_order, &indexed, pp_speculation_statement_timeout, NULL) && indexed)
	{
		log_if_slow("index", start, w->repair.sql);
		plan_again(s);
	}
}

/*
 * Builds what answers edits of the constants that were typed, once nothing else is to be done: one
 * table without all of the conditions, or, where that has too many groups, one a column.
 */
static void
work_on_edits(Speculator *s, Work *w)
{
	Outlook o = {.work = w};

	if (!w->runs || s->request.level < PP_SPECULATION_MATERIALIZE ||
	    !wait_for_pause(s, 2 * PAUSE_MS) || !run_step(s, step_outlook, &o, 2000, NULL) ||
	    !o.may_run || o.ms_plain < COSTLY_MS)
		return;
	for (int i = 1; i <= SUPERSETS && !superseded(s); i++)
	{
		bool none;

		if (build(s, w, i, &none) && i == 1)
			return;
		if (none || !wait_for_pause(s, PAUSE_MS))
			return;
	}
}

/* ---- one text ---------------------------------------------------------------------------- */

/* The block under the cursor, or NULL. */
static Work *
cursor_block(Speculator *s)
{
	for (int i = 0; i < s->n; i++)
		if (s->work[i].under_cursor)
			return &s->work[i];
	return NULL;
}

/* Does all there is to do for a text, until a newer one comes. */
static void
work_on_text(Speculator *s)
{
	Work *at_cursor;

	if (!run_step(s, step_repair, NULL, 1000, NULL) || superseded(s))
		return;
	if (run_step(s, step_predict, NULL, 1000, NULL))
		notify(s, "completions");
	at_cursor = cursor_block(s);
	if (at_cursor != NULL && !superseded(s))
		work_on(s, at_cursor);
	/* WITH items and subqueries before what reads them: the statement's build then reads theirs. */
	for (int i = s->n - 1; i >= 0 && !superseded(s); i--)
		if (!s->work[i].under_cursor)
			work_on(s, &s->work[i]);
	if (s->n > 0 && !superseded(s))
		work_on_order(s, &s->work[0]);
	if (at_cursor != NULL && at_cursor->model_last && !superseded(s))
		ask_model(s);
	if (s->n > 0 && !superseded(s))
		work_on_edits(s, &s->work[0]);
	if (s->n > 0 && s->planned != s->n_built && !superseded(s))
		plan_again(s);
	if (superseded(s))
		return;
	publish_previews(s);
	speql_feed_done(s->session, s->request.id);
	notify(s, "done");
}

/* Step: drops tables that are of no use. */
static void
step_sweep(Speculator *s, void *arg)
{
	(void) speql_registry_evict(0);
	speql_registry_sweep();
}

/* ---- the process ------------------------------------------------------------------------- */

/* At every kind of exit. */
static void
on_exit_speculator(int code, Datum arg)
{
	speql_feed_leave(DatumGetInt32(arg));
}

/* Becomes the role that typed. */
static void
become(Oid login, Oid roleid)
{
	if (login == roleid)
		return;
	StartTransactionCommand();
	(void) set_config_option("role", GetUserNameFromId(roleid, false), PGC_USERSET, PGC_S_SESSION,
	                         GUC_ACTION_SET, true, ERROR, false);
	CommitTransactionCommand();
}

/* Step: takes over the settings of the typing session. */
static void
step_settings(Speculator *s, void *arg)
{
	if (!speql_env_apply(s->request.settings, s->request.bytes_settings))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
		                errmsg("the settings of the typing session could not be taken over")));
	speql_env_apply_planner(s->request.planner, s->request.bytes_planner);
}

/* Connects as the session says. */
static void
start(Speculator *s, int session)
{
	Oid dbid, login, roleid;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	before_shmem_exit(on_exit_speculator, Int32GetDatum(session));
	speql_feed_identity(session, &dbid, &login, &roleid);
	BackgroundWorkerInitializeConnectionByOid(dbid, login, 0);
	SetConfigOption("prepack.background", "on", PGC_SUSET, PGC_S_OVERRIDE);
	become(login, roleid);
	s->session = session;
	s->ms_per_cost = FIRST_MS_PER_COST;
	s->context =
	    AllocSetContextCreate(TopMemoryContext, "prepack speculator", ALLOCSET_DEFAULT_SIZES);
	speql_feed_enter(session);
}

/* Waits for a text; false after a long time without one. */
static bool
next_text(Speculator *s)
{
	uint64 last = s->request.id;
	int idle = 0;

	drop_previews(s);
	MemoryContextReset(s->context);
	MemoryContextSwitchTo(s->context);
	while (!speql_feed_take(s->session, last, &s->request))
	{
		int rc;

		if (speql_feed_abandoned(s->session))
			return false;
		rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, SWEEP_MS,
		               PP_WAIT_EVENT_NEW("PrepackSpeculator"));
		ResetLatch(MyLatch);
		check_for_end();
		if (!(rc & WL_TIMEOUT))
			continue;
		(void) run_step(s, step_sweep, NULL, 5000, NULL);
		idle += SWEEP_MS;
		if (idle >= IDLE_MS)
			return false;
	}
	return true;
}

/* The worker. */
void
pp_speculator_main(Datum main_arg)
{
	Speculator *s = &speculator;

	start(s, DatumGetInt32(main_arg));
	while (next_text(s))
	{
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		pgstat_report_activity(STATE_RUNNING, "speculating");
		if (run_step(s, step_settings, NULL, 1000, NULL))
			work_on_text(s);
		pgstat_report_activity(STATE_IDLE, NULL);
	}
	proc_exit(0);
}
