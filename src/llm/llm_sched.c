/*
 * llm_sched.c: see llm_sched.h: the public face: parameters, submit, cancel, what happens after a
 * pass.
 *
 * A pass is formed in llm_sched_pass.c; sequences, groups and callers live in llm_sched_queue.c.
 */
#include "llm_sched.h"

#include "llm_alloc.h"
#include "llm_sched_internal.h"

#define BUCKETS_MIN 64
#define BUCKETS_MAX (1u << 16)

/* The parameters with every limit at least 1, and budget_interactive at most budget_tokens. */
static llm_sched_params
params_clamp(const llm_sched_params *params)
{
	llm_sched_params p = *params;

	p.budget_tokens = p.budget_tokens > 0 ? p.budget_tokens : 1;
	p.max_segments = p.max_segments > 0 ? p.max_segments : 1;
	p.max_queued = p.max_queued > 0 ? p.max_queued : 1;
	if (p.budget_interactive == 0 || p.budget_interactive > p.budget_tokens)
		p.budget_interactive = p.budget_tokens;
	if (p.max_pass_tokens < p.budget_tokens)
		p.max_pass_tokens = p.budget_tokens;
	return p;
}

/* Makes room for the pieces and fix-ups of passes of n segments. */
static bool
pass_reserve(llm_sched *s, uint32_t n)
{
	llm_kv_stats stats;
	llm_work *work;
	llm_kv_fixup *fixups;

	if (n <= s->segments_capacity)
		return true;
	llm_kv_get_stats(s->kv, &stats);
	if ((work = llm_realloc_array(s->work, n, sizeof(*work))) == NULL)
		return false;
	s->work = work;
	fixups = llm_realloc_array(s->fixups, (size_t) n + stats.n_pages, sizeof(*fixups));
	if (fixups == NULL)
		return false;
	s->fixups = fixups;
	s->segments_capacity = n;
	return true;
}

/* The number of hash buckets for max_queued sequences: a power of two. */
static uint32_t
bucket_count(uint32_t max_queued)
{
	uint32_t n = BUCKETS_MIN;

	while (n < max_queued && n < BUCKETS_MAX)
		n *= 2;
	return n;
}

/* Makes an empty scheduler over kv, which must outlive it. */
llm_status
llm_sched_create(llm_kv *kv, const llm_sched_params *params, llm_sched **out, llm_error *err)
{
	llm_sched *s = llm_calloc(1, sizeof(*s));

	*out = NULL;
	if (s == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the scheduler");
	s->kv = kv;
	s->params = params_clamp(params);
	s->n_buckets = bucket_count(s->params.max_queued);
	s->groups = llm_calloc(s->n_buckets, sizeof(*s->groups));
	s->callers = llm_calloc(s->n_buckets, sizeof(*s->callers));
	link_init(&s->pass);
	for (int i = 0; i < N_CLASSES; i++)
	{
		link_init(&s->ring[i]);
		link_init(&s->started[i]);
	}
	if (s->groups == NULL || s->callers == NULL || !pass_reserve(s, s->params.max_segments))
	{
		llm_sched_free(s);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the scheduler");
	}
	*out = s;
	return LLM_OK;
}

/* Ends all sequences first, which frees groups and callers. */
void
llm_sched_free(llm_sched *s)
{
	if (s == NULL)
		return;
	for (uint32_t i = 0; i < s->n_slots; i++)
		if (s->slots[i].seq != NULL)
			llm_sched_seq_free(s, s->slots[i].seq);
	llm_free(s->slots);
	llm_free(s->groups);
	llm_free(s->callers);
	llm_free(s->work);
	llm_free(s->fixups);
	llm_free(s);
}

/* Takes effect at the next pass. */
void
llm_sched_set_params(llm_sched *s, const llm_sched_params *params)
{
	llm_sched_params p = params_clamp(params);

	if (!pass_reserve(s, p.max_segments))
		p.max_segments = s->params.max_segments;
	s->params = p;
}

/* Checks one request against ranges and against what could ever run. */
static llm_status
check_request(const llm_sched *s, const llm_sched_request *r, llm_error *err)
{
	uint64_t n_total = (uint64_t) r->n_tokens + r->max_new;
	llm_kv_stats stats;

	if ((int) r->class_ < 0 || r->class_ >= N_CLASSES)
		return llm_fail(err, LLM_E_RANGE, "unknown scheduling class %d", (int) r->class_);
	if (r->n_tokens == 0 || r->n_shared > r->n_tokens || r->n_atomic > r->n_tokens)
		return llm_fail(err, LLM_E_RANGE,
		                "a sequence of %u tokens cannot share %u and keep %u together", r->n_tokens,
		                r->n_shared, r->n_atomic);
	llm_kv_get_stats(s->kv, &stats);
	if (n_total > (uint64_t) stats.n_pages * llm_kv_page_tokens(s->kv) || n_total > UINT32_MAX)
		return llm_fail(err, LLM_E_LIMIT,
		                "a sequence of %llu tokens does not fit the KV cache of %u pages of %u",
		                (unsigned long long) n_total, stats.n_pages, llm_kv_page_tokens(s->kv));
	if (r->n_atomic > s->params.max_pass_tokens)
		return llm_fail(err, LLM_E_LIMIT, "%u tokens that must run together exceed a pass of %u",
		                r->n_atomic, s->params.max_pass_tokens);
	return LLM_OK;
}

/* Checks all before making any; a failure on the way takes the made ones back. */
llm_status
llm_sched_submit(llm_sched *s, const llm_sched_request *reqs, uint32_t n, uint64_t *ids,
                 llm_error *err)
{
	llm_status status = LLM_OK;
	uint32_t i;

	if (s->n_live > s->params.max_queued || n > s->params.max_queued - s->n_live)
		return llm_fail(err, LLM_E_BUSY, "the queue is full: %u of %u sequences, %u more",
		                s->n_live, s->params.max_queued, n);
	for (i = 0; i < n && status == LLM_OK; i++)
		status = check_request(s, &reqs[i], err);
	if (status != LLM_OK)
		return status;
	for (i = 0; i < n && status == LLM_OK; i++)
		status = llm_sched_seq_create(s, &reqs[i], &ids[i], err);
	if (status == LLM_OK)
		return LLM_OK;
	for (i--; i-- > 0;)
		llm_sched_seq_free(s, llm_sched_seq_find(s, ids[i]));
	return status;
}

/* In the pass it is only marked: the pass still writes its pages. */
void
llm_sched_cancel(llm_sched *s, uint64_t id)
{
	llm_sched_seq *q = llm_sched_seq_find(s, id);

	if (q == NULL)
		return;
	if (q->state == SEQ_IN_PASS)
		q->cancelled = true;
	else
		llm_sched_seq_free(s, q);
}

/* The same as cancel, but for those who read append's status. */
void
llm_sched_finish(llm_sched *s, uint64_t id)
{
	llm_sched_seq *q = llm_sched_seq_find(s, id);

	if (q == NULL)
		return;
	if (q->state == SEQ_IN_PASS)
		q->finished = true;
	else
		llm_sched_seq_free(s, q);
}

/* Cuts the rejected drafts off, with their slots, and writes the new tokens behind. */
llm_status
llm_sched_append(llm_sched *s, uint64_t id, uint32_t accept, const int32_t *tokens, uint32_t n,
                 uint32_t n_draft, llm_error *err)
{
	llm_sched_seq *q = llm_sched_seq_find(s, id);
	uint32_t n_kept;

	if (q == NULL || q->finished || q->state != SEQ_IN_PASS || q->appended ||
	    q->table.n_slots < q->n_tokens)
		return llm_fail(err, LLM_E_NOT_FOUND, "no sequence of this id completes in this pass");
	if (q->cancelled)
		return llm_fail(err, LLM_E_CANCELLED, "the sequence was cancelled");
	if (accept > q->n_draft || n == 0 || n_draft >= n)
		return llm_fail(err, LLM_E_RANGE, "%u of %u drafts accepted, %u tokens with %u drafts",
		                accept, q->n_draft, n, n_draft);
	n_kept = q->n_tokens - q->n_draft + accept;
	if (n > q->capacity - n_kept)
		return llm_fail(err, LLM_E_RANGE, "more than %u tokens appended",
		                q->capacity - q->n_prompt);
	llm_kv_truncate(s->kv, &q->table, n_kept);
	for (uint32_t i = 0; i < n; i++)
		q->tokens[n_kept + i] = tokens[i];
	q->n_tokens = n_kept + n;
	q->n_draft = n_draft;
	q->appended = true;
	return LLM_OK;
}

/* Puts a sequence that goes on into the list it belongs to. */
static void
seq_ready(llm_sched_seq *q)
{
	llm_sched_caller *c = q->group->caller;

	link_remove(&q->link);
	q->state = q->appended ? SEQ_DECODE : SEQ_PREFILL;
	link_insert(q->appended ? &c->decode : &c->prefill, &q->link);
}

/*
 * Keeps the shared prefix that the leader has computed. Without memory the next one computes it
 * again.
 */
static void
keep_prefix(llm_sched *s, llm_sched_seq *q)
{
	llm_sched_group *g = q->group;

	if (g->leader != q || q->table.n_slots < g->n_shared)
		return;
	(void) llm_kv_insert(s->kv, &q->table, &g->salt, g->tokens, g->n_shared, NULL);
	g->leader = NULL;
}

/* Prefixes first: a cancelled leader's pages hold what its followers want. */
void
llm_sched_done(llm_sched *s)
{
	while (!link_empty(&s->pass))
	{
		llm_sched_seq *q = LINK_OF(s->pass.next, llm_sched_seq, link);
		bool completes = q->table.n_slots >= q->n_tokens && !q->appended;

		keep_prefix(s, q);
		if (q->cancelled || q->finished || completes)
			llm_sched_seq_free(s, q);
		else
			seq_ready(q);
	}
	s->in_pass = false;
}

/* All go back to waiting, the last piece first, so that the order of their groups stays. */
void
llm_sched_abandon(llm_sched *s)
{
	while (!link_empty(&s->pass))
	{
		llm_sched_seq *q = LINK_OF(s->pass.prev, llm_sched_seq, link);

		if (q->cancelled || q->finished)
			llm_sched_seq_free(s, q);
		else
			llm_sched_seq_put_back(s, q);
	}
	s->in_pass = false;
}

/* Reads the counters. */
void
llm_sched_get_stats(const llm_sched *s, llm_sched_stats *stats)
{
	*stats = s->stats;
}

/* 0 for unknown ids and for sequences that have not started. */
uint32_t
llm_sched_shared_tokens(const llm_sched *s, uint64_t id)
{
	const llm_sched_seq *q = llm_sched_seq_find(s, id);

	return q != NULL ? q->n_found : 0;
}
