/*
 * llm_sched_pass.c: forms a pass.
 *
 * Each class is served in two phases, decode and prompts, by deficit round robin over its callers
 * (Shreedhar and Varghese 1995) in the surplus form: a caller is served while its deficit is
 * positive and may overdraw it with its last piece, so that no piece need be cut to a quantum. A
 * sequence is tried at most once a turn, and a caller that had nothing to give in a phase is not
 * asked again: forming a pass costs O(pieces + callers + blocked groups).
 */
#include "llm_sched_internal.h"

#define HOLD_AFTER 8 /* refusals for want of pages before nothing else is admitted */

enum
{
	PHASE_DECODE,
	PHASE_PROMPT,
	N_PHASES
};

/* Tokens the pass still has room for. */
static uint32_t
room_tokens(const llm_sched *s)
{
	return s->n_pass_tokens < s->budget ? s->budget - s->n_pass_tokens : 0;
}

/* How many of the last tokens must not be separated; at least 1. */
static uint32_t
seq_tail(const llm_sched_seq *q)
{
	if (q->n_draft > 0)
		return 1 + q->n_draft;
	return q->n_tokens == q->n_prompt && q->n_atomic > 1 ? q->n_atomic : 1;
}

/* Says whether an uncut tail of n tokens may run in what is left of the pass (rule 4). */
static bool
tail_fits(const llm_sched *s, uint32_t n)
{
	if (n <= room_tokens(s) || s->n_pass_tokens == 0)
		return true;
	return n > s->budget && n <= s->params.max_pass_tokens &&
	       s->n_pass_tokens <= s->params.max_pass_tokens - n;
}

/*
 * The size of q's next piece: an equal share of the passes it needs, as far as there is room; 0 =
 * none fits.
 */
static uint32_t
piece_size(const llm_sched *s, const llm_sched_seq *q)
{
	uint32_t n_left = q->n_tokens - q->table.n_slots;
	uint32_t n_tail = seq_tail(q);
	uint32_t n_passes = (n_left - 1) / s->budget + 1;
	uint32_t n = (n_left - 1) / n_passes + 1;

	if (n > room_tokens(s))
		n = room_tokens(s);
	if (n <= n_left - n_tail)
		return n;
	if (n_left <= room_tokens(s))
		return n_left;
	if (n_left > n_tail)
		return n_left - n_tail < room_tokens(s) ? n_left - n_tail : room_tokens(s);
	return tail_fits(s, n_tail) ? n_tail : 0;
}

/*
 * The most pages q may take to grow by n tokens: those behind its table, and one for a shared tail.
 */
static uint32_t
pages_needed(const llm_sched *s, const llm_sched_seq *q, uint32_t n)
{
	uint32_t page_tokens = llm_kv_page_tokens(s->kv);

	return (q->table.n_slots + n - 1) / page_tokens + 1 - q->table.n_pages +
	       (q->table.n_slots % page_tokens != 0);
}

/* Pages that are free or can be evicted. */
static uint32_t
pages_available(const llm_sched *s)
{
	llm_kv_stats stats;

	llm_kv_get_stats(s->kv, &stats);
	return stats.n_free + stats.n_cached;
}

/* Says whether q may put v back: rule 6. A sequence that is in the pass stays. */
static bool
may_put_back(const llm_sched_seq *q, const llm_sched_seq *v)
{
	if (v == q || v->state == SEQ_IN_PASS)
		return false;
	if (seq_class(q) != seq_class(v))
		return seq_class(q) < seq_class(v);
	return q->state != SEQ_WAITING && q->age < v->age;
}

/*
 * The youngest sequence of the least class that q may put back, or NULL; *n_pages: what all of them
 * hold.
 */
static llm_sched_seq *
find_victim(llm_sched *s, const llm_sched_seq *q, uint64_t *n_pages)
{
	llm_sched_seq *victim = NULL;

	*n_pages = 0;
	for (int class_ = 0; class_ < N_CLASSES; class_++)
		for (llm_link *l = s->started[class_].next; l != &s->started[class_]; l = l->next)
		{
			llm_sched_seq *v = LINK_OF(l, llm_sched_seq, started);

			if (!may_put_back(q, v))
				continue;
			*n_pages += v->table.n_pages;
			if (victim == NULL || seq_class(v) > seq_class(victim) || v->age > victim->age)
				victim = v;
		}
	return victim;
}

/*
 * Puts one sequence back for q's next n tokens, unless even all of them could not make enough room.
 */
static bool
put_back_for(llm_sched *s, const llm_sched_seq *q, uint32_t n)
{
	uint64_t n_pages;
	llm_sched_seq *victim = find_victim(s, q, &n_pages);

	/* q's shared tail need not be copied when its other holders go: so one page less may do. */
	if (victim == NULL || n_pages + pages_available(s) + 1 < pages_needed(s, q, n))
		return false;
	llm_sched_seq_put_back(s, victim);
	s->stats.n_preempted++;
	return true;
}

/*
 * Notes a sequence that went without pages, so that it comes first next time, or holds back new
 * ones.
 */
static void
note_refusal(llm_sched *s, llm_sched_seq *q)
{
	llm_class class_ = seq_class(q);
	llm_sched_seq **urgent = &s->urgent[class_];

	if (q->state != SEQ_WAITING)
	{
		if (*urgent == NULL || q->age < (*urgent)->age)
			*urgent = q;
	}
	else if (++q->n_refused >= HOLD_AFTER && (s->hold == NULL || class_ < seq_class(s->hold)))
		s->hold = q;
}

/* Drops all of q's drafts but the first n. */
static void
trim_draft(llm_sched_seq *q, uint32_t n)
{
	if (q->n_draft <= n)
		return;
	q->n_tokens -= q->n_draft - n;
	q->n_draft = n;
}

/* Gets pages for q's next piece, at whatever cost rule 6 allows; 0 when there are none. */
static uint32_t
take_pages(llm_sched *s, llm_sched_seq *q)
{
	uint32_t n;

	while ((n = piece_size(s, q)) > 0)
	{
		llm_status status =
		    llm_kv_extend(s->kv, &q->table, &q->group->salt, n, s->fixups, &s->n_fixups, NULL);

		if (status == LLM_OK)
			return n;
		if (status == LLM_E_LIMIT && q->n_draft > 0)
			trim_draft(q, 0);
		else if (status != LLM_E_LIMIT ||
		         (!llm_kv_unpin_for(s->kv, &q->table, n) && !put_back_for(s, q, n)))
		{
			note_refusal(s, q);
			break;
		}
	}
	return 0;
}

/* Puts q's next n tokens, whose slots it has, into the pass. */
static void
add_piece(llm_sched *s, llm_sched_seq *q, uint32_t n)
{
	q->start = q->table.n_slots - n;
	q->state = SEQ_IN_PASS;
	q->appended = false;
	link_insert(&s->pass, &q->link);
	s->work[s->n_work++] = (llm_work){.id = q->id,
	                                  .user = q->user,
	                                  .start = q->start,
	                                  .n_tokens = n,
	                                  .tokens = q->tokens + q->start,
	                                  .pages = q->table.pages,
	                                  .completes = q->table.n_slots == q->n_tokens,
	                                  .n_draft = q->n_draft};
	s->n_pass_tokens += n;
	s->stats.n_tokens += n;
}

/*
 * Runs the next piece of a sequence that has started, in a pass that has room; returns its tokens.
 * 0 when it must wait for the next turn: then it goes behind those of its list that have not been
 * tried.
 */
static uint32_t
run_started(llm_sched *s, llm_sched_seq *q)
{
	llm_sched_caller *c = q->group->caller;
	uint32_t n;

	trim_draft(q, room_tokens(s) - 1);
	n = take_pages(s, q);
	link_remove(&q->link);
	if (n > 0)
		add_piece(s, q, n);
	else
	{
		q->tried = s->turn;
		link_insert(q->state == SEQ_DECODE ? &c->decode : &c->prefill, &q->link);
	}
	return n;
}

/* Tries the sequences of a caller's list until one runs. */
static uint32_t
run_list(llm_sched *s, llm_link *list)
{
	uint32_t n = 0;

	while (n == 0 && !link_empty(list))
	{
		llm_sched_seq *q = LINK_OF(list->next, llm_sched_seq, link);

		if (q->tried == s->turn)
			break;
		n = run_started(s, q);
	}
	return n;
}

/*
 * Gives q the shared prefix: what the tree has, or the whole pages of what the leader computes in
 * this pass. False when the leader needs more passes: then q waits.
 */
static bool
take_shared(llm_sched *s, llm_sched_group *g, llm_sched_seq *q)
{
	uint32_t page_tokens = llm_kv_page_tokens(s->kv);
	uint32_t n_max = q->n_tokens - seq_tail(q);
	uint32_t n_whole = (g->n_shared < n_max ? g->n_shared : n_max) / page_tokens * page_tokens;
	uint32_t n_found;

	if (g->n_shared == 0)
		return true;
	n_found = llm_kv_attach(s->kv, &q->table, &g->salt, q->tokens, q->n_tokens, n_max);
	if (g->leader == NULL || n_found >= g->n_shared || n_found == n_max)
		return true;
	if (g->leader->table.n_slots < g->n_shared)
	{
		llm_kv_truncate(s->kv, &q->table, 0);
		return false;
	}
	if (n_whole <= n_found)
		return true;
	llm_kv_truncate(s->kv, &q->table, 0);
	return llm_kv_fork(s->kv, &g->leader->table, n_whole, &q->table, NULL) == LLM_OK;
}

/*
 * Says whether q may be admitted beside those that run: a batch sequence leaves them pages to grow.
 */
static bool
leaves_pages(const llm_sched *s, const llm_sched_seq *q)
{
	uint32_t n = piece_size(s, q);
	uint32_t page_tokens = llm_kv_page_tokens(s->kv);
	uint32_t n_kept = s->n_started / page_tokens + (s->n_started % page_tokens != 0);

	if (n == 0 || s->n_started == 0 || seq_class(q) == LLM_CLASS_INTERACTIVE)
		return true;
	return pages_needed(s, q, n) + n_kept <= pages_available(s);
}

/*
 * Starts the group's first waiting sequence (or the one that holds back all others). 0 when it must
 * wait.
 */
static uint32_t
admit(llm_sched *s, llm_sched_group *g)
{
	llm_sched_seq *q = LINK_OF(g->waiting.next, llm_sched_seq, link);
	uint32_t n_found;
	uint32_t n = 0;

	if (s->hold != NULL && s->hold->group == g)
		q = s->hold;
	else if (s->hold != NULL && seq_class(s->hold) <= seq_class(q))
		return 0;
	if (q->tried == s->turn || !take_shared(s, g, q))
		return 0;
	n_found = q->table.n_slots;
	if (!leaves_pages(s, q))
		note_refusal(s, q);
	else
		n = take_pages(s, q);
	if (n == 0)
	{
		llm_kv_truncate(s->kv, &q->table, 0);
		q->tried = s->turn;
		return 0;
	}
	llm_sched_seq_start(s, q);
	if (g->leader == NULL && n_found < g->n_shared)
		g->leader = q;
	if (!q->was_admitted)
		q->n_found = n_found;
	q->was_admitted = true;
	s->stats.n_shared_tokens += n_found;
	add_piece(s, q, n);
	return n;
}

/*
 * Admits from the caller's groups, oldest first; one that cannot is passed over for the rest of the
 * turn.
 */
static uint32_t
run_groups(llm_sched *s, llm_sched_caller *c)
{
	if (c->cursor_turn != s->turn)
	{
		c->cursor_turn = s->turn;
		c->cursor = c->groups.next;
	}
	while (c->cursor != &c->groups)
	{
		uint32_t n = admit(s, LINK_OF(c->cursor, llm_sched_group, link));

		if (n > 0)
			return n;
		c->cursor = c->cursor->next;
	}
	return 0;
}

/* The next piece of a caller in a phase; 0 when it has none to give. */
static uint32_t
run_caller(llm_sched *s, llm_sched_caller *c, int phase)
{
	uint32_t n;

	if (phase == PHASE_DECODE)
		return run_list(s, &c->decode);
	n = run_list(s, &c->prefill);
	return n > 0 ? n : run_groups(s, c);
}

/* Says whether a caller has anything to try in a phase. */
static bool
has_work(const llm_sched_caller *c, int phase)
{
	if (phase == PHASE_DECODE)
		return !link_empty(&c->decode);
	return !link_empty(&c->prefill) || !link_empty(&c->groups);
}

/* Says whether another piece may be added. */
static bool
pass_has_room(const llm_sched *s)
{
	return room_tokens(s) > 0 && s->n_work < s->params.max_segments;
}

/*
 * One phase of one class: callers in turn, until the pass is full or nobody has anything to give.
 */
static void
fill_phase(llm_sched *s, int class_, int phase)
{
	llm_link *ring = &s->ring[class_];
	uint64_t stamp = s->turn * N_PHASES + (uint64_t) phase;
	uint32_t n_active = s->n_callers[class_];
	int64_t quantum = s->params.budget_tokens / 8 + 1;

	while (n_active > 0 && pass_has_room(s))
	{
		llm_sched_caller *c = LINK_OF(ring->next, llm_sched_caller, ring);

		/* A debt is worked off by waiting for turns, so those without work get no turn. */
		if (c->idle != stamp && (c->deficit > 0 || !has_work(c, phase)))
		{
			uint32_t n = run_caller(s, c, phase);

			c->deficit -= n;
			if (n > 0 && c->deficit > 0)
				continue;
			if (n == 0)
			{
				c->idle = stamp;
				n_active--;
			}
		}
		if (c->idle != stamp)
			c->deficit += quantum;
		link_remove(&c->ring);
		link_insert(ring, &c->ring);
	}
}

/* Serves one class: first the sequence that went without pages last time, then both phases. */
static void
fill_class(llm_sched *s, int class_)
{
	llm_sched_seq *q = s->urgent[class_];

	s->urgent[class_] = NULL;
	if (q != NULL && pass_has_room(s))
		q->group->caller->deficit -= run_started(s, q);
	for (int phase = 0; phase < N_PHASES; phase++)
		fill_phase(s, class_, phase);
}

/* The pass's budget, and both classes in order. */
static void
fill_pass(llm_sched *s)
{
	s->turn++;
	s->budget = s->params.budget_tokens;
	if (s->n_live_class[LLM_CLASS_INTERACTIVE] > 0 && s->params.budget_interactive < s->budget)
		s->budget = s->params.budget_interactive;
	for (int class_ = 0; class_ < N_CLASSES; class_++)
		fill_class(s, class_);
}

/* What waits always gets on: the oldest sequence can have every page if need be. */
uint32_t
llm_sched_next(llm_sched *s, const llm_work **work, const llm_kv_fixup **fixups, uint32_t *n_fixups)
{
	*work = s->work;
	*fixups = s->fixups;
	*n_fixups = 0;
	if (s->in_pass)
		return 0;
	s->n_work = s->n_fixups = s->n_pass_tokens = 0;
	fill_pass(s);
	s->in_pass = s->n_work > 0;
	s->stats.n_passes += s->in_pass;
	*n_fixups = s->n_fixups;
	return s->n_work;
}
