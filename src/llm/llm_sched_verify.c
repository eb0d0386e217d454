/*
 * llm_sched_verify.c: the self-check of the scheduler, for tests: walks every list from its head,
 * counts again what is counted, and hands all page tables to the check of the KV bookkeeping.
 * Returns the first broken rule found.
 */
#include "llm_alloc.h"
#include "llm_sched_internal.h"

/* What the walk has met so far. */
typedef struct walk
{
	uint32_t n_waiting;
	uint32_t n_ready;
	uint32_t n_callers[N_CLASSES];
	uint64_t n_waiting_tokens;
} walk;

/* Checks one sequence that has started. */
static const char *
check_started(const llm_sched_seq *q)
{
	if (q->table.n_slots > q->n_tokens || q->n_tokens > q->capacity)
		return "a sequence has more slots than tokens, or more tokens than were allowed";
	if (q->state != SEQ_IN_PASS && (q->cancelled || q->finished))
		return "an ended sequence is still there";
	if (q->state != SEQ_IN_PASS && q->table.n_slots == q->n_tokens)
		return "a sequence waits for nothing";
	if (q->state == SEQ_DECODE && q->n_tokens - q->table.n_slots != 1 + q->n_draft)
		return "a sequence in decode has not exactly its new token and drafts to run";
	return NULL;
}

/* Walks one of a caller's lists of started sequences. */
static const char *
check_ready(const llm_sched_caller *c, const llm_link *list, llm_sched_seq_state state, walk *w)
{
	for (const llm_link *l = list->next; l != list; l = l->next)
	{
		const llm_sched_seq *q = LINK_OF(l, llm_sched_seq, link);

		if (q->state != state || q->group->caller != c)
			return "a sequence is in a list of another state or caller";
		w->n_ready++;
	}
	return NULL;
}

/* Walks the waiting sequences of a group. */
static const char *
check_group(const llm_sched_caller *c, const llm_sched_group *g, walk *w)
{
	uint32_t n = 0;

	if (g->caller != c || g->n_waiting == 0 || g->n_members < g->n_waiting)
		return "a group is in the wrong list";
	for (const llm_link *l = g->waiting.next; l != &g->waiting; l = l->next, n++)
	{
		const llm_sched_seq *q = LINK_OF(l, llm_sched_seq, link);

		if (q->state != SEQ_WAITING || q->group != g || q->table.n_pages != 0 || q->n_draft != 0)
			return "a waiting sequence holds pages or drafts, or is in the wrong group";
		w->n_waiting_tokens += q->n_tokens;
	}
	w->n_waiting += n;
	return n == g->n_waiting ? NULL : "the number of a group's waiting sequences is wrong";
}

/* Walks the callers of one class. */
static const char *
check_ring(const llm_sched *s, int class_, walk *w)
{
	const char *wrong = NULL;

	for (const llm_link *l = s->ring[class_].next; l != &s->ring[class_]; l = l->next)
	{
		const llm_sched_caller *c = LINK_OF(l, llm_sched_caller, ring);

		if ((int) c->class_ != class_ || c->n_seqs == 0)
			return "a caller is in the wrong ring, or has no sequence";
		w->n_callers[class_]++;
		if ((wrong = check_ready(c, &c->decode, SEQ_DECODE, w)) != NULL ||
		    (wrong = check_ready(c, &c->prefill, SEQ_PREFILL, w)) != NULL)
			return wrong;
		for (const llm_link *g = c->groups.next; g != &c->groups; g = g->next)
			if ((wrong = check_group(c, LINK_OF(g, llm_sched_group, link), w)) != NULL)
				return wrong;
	}
	return w->n_callers[class_] == s->n_callers[class_] ? NULL : "the number of callers is wrong";
}

/* Walks the pass. */
static const char *
check_pass(const llm_sched *s)
{
	uint32_t n = 0;
	uint32_t n_tokens = 0;

	for (const llm_link *l = s->pass.next; l != &s->pass; l = l->next, n++)
	{
		const llm_sched_seq *q = LINK_OF(l, llm_sched_seq, link);

		if (n == s->n_work || q->state != SEQ_IN_PASS || s->work[n].id != q->id)
			return "a piece and its sequence disagree";
		n_tokens += s->work[n].n_tokens;
	}
	if ((n > 0) != s->in_pass || (n > 0 && (n != s->n_work || n_tokens != s->n_pass_tokens)))
		return "the pass is not what was handed out";
	return NULL;
}

/* Compares the totals with the walk. */
static const char *
check_totals(const llm_sched *s, const walk *w)
{
	uint32_t n_pass = s->in_pass ? s->n_work : 0;

	if (w->n_waiting != s->stats.n_waiting || w->n_waiting_tokens != s->stats.n_waiting_tokens)
		return "the number of waiting sequences or tokens is wrong";
	if (w->n_ready + n_pass != s->n_started || s->n_started != s->stats.n_running)
		return "the number of started sequences is wrong";
	if (w->n_waiting + s->n_started != s->n_live ||
	    s->n_live_class[0] + s->n_live_class[1] != s->n_live)
		return "the number of sequences is wrong";
	return NULL;
}

/* Collects the tables of all started sequences; checks these on the way. */
static const char *
collect_tables(const llm_sched *s, const llm_kv_table **tables, uint32_t *n)
{
	for (int class_ = 0; class_ < N_CLASSES; class_++)
		for (const llm_link *l = s->started[class_].next; l != &s->started[class_]; l = l->next)
		{
			const llm_sched_seq *q = LINK_OF(l, llm_sched_seq, started);
			const char *wrong = check_started(q);

			if (wrong != NULL)
				return wrong;
			if (*n == s->n_started || (int) seq_class(q) != class_ ||
			    llm_sched_seq_find(s, q->id) != q)
				return "the list of started sequences is broken";
			tables[(*n)++] = &q->table;
		}
	return *n == s->n_started ? NULL : "the list of started sequences misses one";
}

/* Runs all checks, those of the KV bookkeeping last. The tables of s must be all there are. */
const char *
llm_sched_verify(const llm_sched *s)
{
	walk w = {0};
	const llm_kv_table **tables = llm_calloc(s->n_started, sizeof(const llm_kv_table *));
	uint32_t n_tables = 0;
	const char *wrong = tables == NULL ? "out of memory" : NULL;

	for (int class_ = 0; class_ < N_CLASSES && wrong == NULL; class_++)
		wrong = check_ring(s, class_, &w);
	if (wrong == NULL)
		wrong = check_pass(s);
	if (wrong == NULL)
		wrong = check_totals(s, &w);
	if (wrong == NULL)
		wrong = collect_tables(s, tables, &n_tables);
	if (wrong == NULL)
		wrong = llm_kv_verify(s->kv, tables, n_tables);
	llm_free(tables);
	return wrong;
}
