/*
 * test_sim.c: seeded simulation of scheduler, KV bookkeeping and prefix tree against a fake engine.
 *
 *	test_sim [n_seeds [first_seed]]
 *
 * The fake engine keeps a shadow of the KV pool: for every slot the salt it was written under and a
 * hash of all tokens up to it. Before a piece runs, every slot of its history must hold exactly the
 * hash of its own tokens and its own salt: a page that was shared wrongly, written twice, copied
 * too early, not cleared or given to two owners shows up there. Besides: budget, whole atomic
 * tails, progress at every pass, prompt service of interactive sequences, cancel, every request
 * ending exactly once, failing allocations, failing passes, and the self-checks of all structures.
 * A failure prints its seed; the same seed replays it.
 *
 * Each mutation breaks one duty of the engine (or of the scheduler, through a wrong salt): the
 * simulation must notice every one, which shows that its checks can fail.
 */
#include "test.h"

#include "../src/llm/llm_alloc.h"
#include "../src/llm/llm_kv_internal.h"
#include "../src/llm/llm_sched.h"

#define MAX_PAGES    32
#define MAX_PAGE     8
#define MAX_TOKENS   (MAX_PAGES * MAX_PAGE)
#define MAX_REQUESTS 64
#define MAX_SEGMENTS 16
#define MAX_PASSES   6000
#define N_SALTS      3
#define N_TEMPLATES  3

typedef enum mutation
{
	MUTATE_NOTHING,
	MUTATE_SKIP_COPY,    /* the engine forgets copies */
	MUTATE_SKIP_CLEAR,   /* the engine forgets to clear */
	MUTATE_REVERSE,      /* the engine runs the pieces in reverse order */
	MUTATE_LATE_FIXUPS,  /* the engine runs the fix-ups after the pass */
	MUTATE_LOSE_LAST,    /* the engine does not write the last token of a piece */
	MUTATE_ONE_SALT,     /* all callers get the same salt */
	MUTATE_KEEP_ABANDON, /* a failed pass is reported as done */
	N_MUTATIONS
} mutation;

typedef struct slot
{
	uint32_t salt; /* 0: cleared */
	uint64_t hash; /* of the tokens up to and including this one */
} slot;

typedef struct request
{
	bool live;
	bool cancelled; /* while in the pass */
	bool in_pass;
	uint64_t id;
	uint32_t salt;
	llm_class class_;
	uint32_t n_tokens;
	uint32_t n_prompt;
	uint32_t n_shared;
	uint32_t n_atomic;
	uint32_t n_draft;
	uint32_t max_new;
	uint32_t prompt_passes; /* passes in a row that had room for it although it did not run */
	int32_t tokens[MAX_TOKENS];
} request;

typedef struct sim
{
	uint64_t rng;
	mutation mutate;
	const char *wrong; /* the first check that failed */
	llm_kv *kv;
	llm_sched *sched;
	llm_sched_params params;
	uint32_t n_pages;
	uint32_t page_tokens;
	slot shadow[MAX_PAGES][MAX_PAGE];
	request requests[MAX_REQUESTS];
	uint32_t n_requests;
	uint32_t n_live;
	bool used_pins;
	int32_t templates[N_TEMPLATES][MAX_TOKENS];
	uint64_t n_passes;
} sim;

/* A number in [0, n). */
static uint32_t
pick(sim *m, uint32_t n)
{
	return (uint32_t) (test_random(&m->rng) % n);
}

/* Notes a broken rule; the first one counts. */
static void
fail(sim *m, const char *what)
{
	if (m->wrong == NULL)
		m->wrong = what;
}

/* The history hash of token i behind hash. */
static uint64_t
chain(uint64_t hash, int32_t token)
{
	hash = (hash ^ (uint32_t) token) * 0x9e3779b97f4a7c15u;
	return hash ^ (hash >> 31);
}

/* The salt a caller's requests run under. */
static llm_salt
salt_of(const sim *m, uint32_t salt)
{
	return (llm_salt){.bytes = {m->mutate == MUTATE_ONE_SALT ? 1 : (uint8_t) salt}};
}

/* Fills a request with a prompt that starts like one of the templates. */
static void
make_request(sim *m, request *r)
{
	uint32_t n_total = 1 + pick(m, m->n_pages * m->page_tokens);
	uint32_t which = pick(m, N_TEMPLATES);

	*r = (request){.salt = 1 + pick(m, N_SALTS), .class_ = (llm_class) (pick(m, 4) > 0)};
	if (pick(m, 3) > 0)
		n_total = 1 + pick(m, n_total);
	r->n_prompt = r->n_tokens = 1 + pick(m, n_total);
	r->max_new = n_total - r->n_prompt;
	r->n_shared = pick(m, 5) == 0 ? 0 : pick(m, r->n_tokens + 1);
	r->n_atomic = pick(m, 3) == 0 ? pick(m, r->n_tokens + 1) : 0;
	if (r->n_atomic > m->params.budget_tokens)
		r->n_atomic = m->params.budget_tokens;
	for (uint32_t i = 0; i < r->n_tokens; i++)
		r->tokens[i] = i < r->n_shared ? m->templates[which][i] : (int32_t) pick(m, 3);
}

/* Submits a job of up to 6 sequences, some with the very same prefix; memory may fail. */
static void
submit(sim *m)
{
	llm_sched_request reqs[6];
	uint64_t ids[6];
	uint32_t n = 1 + pick(m, 6);
	request *r = &m->requests[m->n_requests];
	uint64_t caller = pick(m, 3);
	uint32_t n_live = m->n_live;
	llm_status status;

	if (n > MAX_REQUESTS - m->n_requests)
		return;
	for (uint32_t i = 0; i < n; i++)
	{
		make_request(m, &r[i]);
		if (i > 0 && pick(m, 2) == 0)
			r[i] = r[0];
		reqs[i] = (llm_sched_request){.class_ = r[i].class_,
		                              .caller = caller,
		                              .job = m->n_requests,
		                              .salt = salt_of(m, r[i].salt),
		                              .tokens = r[i].tokens,
		                              .n_tokens = r[i].n_tokens,
		                              .n_shared = r[i].n_shared,
		                              .n_atomic = r[i].n_atomic,
		                              .max_new = r[i].max_new,
		                              .user = &r[i]};
	}
	if (pick(m, 8) == 0)
		llm_alloc_fail_after(1 + pick(m, 8), pick(m, 2));
	status = llm_sched_submit(m->sched, reqs, n, ids, NULL);
	llm_alloc_fail_after(0, false);
	if (status == LLM_E_NOMEM)
		return;
	if (status == LLM_E_BUSY && n_live + n > m->params.max_queued)
		return;
	if (status != LLM_OK || n_live + n > m->params.max_queued)
		fail(m, "submit refused what fits, or took what does not");
	for (uint32_t i = 0; i < n && status == LLM_OK; i++)
	{
		r[i].live = true;
		r[i].id = ids[i];
	}
	m->n_requests += status == LLM_OK ? n : 0;
	m->n_live += status == LLM_OK ? n : 0;
}

/* Ends a request in the model. */
static void
end_request(sim *m, request *r)
{
	if (!r->live)
		fail(m, "a request ended twice");
	r->live = false;
	m->n_live--;
}

/* Cancels a random request; one in the pass ends with the pass. */
static void
cancel(sim *m)
{
	request *r = &m->requests[m->n_requests > 0 ? pick(m, m->n_requests) : 0];

	if (m->n_requests == 0)
		return;
	llm_sched_cancel(m->sched, r->id); /* of an ended request: must do nothing */
	if (r->live && r->in_pass)
		r->cancelled = true;
	else if (r->live)
		end_request(m, r);
}

/* Pins or unpins what a random request shares. */
static void
pin(sim *m)
{
	const request *r = &m->requests[m->n_requests > 0 ? pick(m, m->n_requests) : 0];
	llm_salt salt = salt_of(m, r->salt);

	if (m->n_requests == 0)
		return;
	if (llm_kv_pin(m->kv, &salt, r->tokens, r->n_shared, pick(m, 2), NULL) == LLM_OK)
		m->used_pins = true;
}

/* Runs the fix-ups on the shadow. */
static void
run_fixups(sim *m, const llm_kv_fixup *fixups, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
	{
		const llm_kv_fixup *f = &fixups[i];

		if (f->kind == LLM_KV_COPY && m->mutate != MUTATE_SKIP_COPY)
			memcpy(m->shadow[f->dst_page], m->shadow[f->src_page], f->n_slots * sizeof(slot));
		else if (f->kind == LLM_KV_CLEAR && m->mutate != MUTATE_SKIP_CLEAR)
			memset(m->shadow[f->dst_page], 0, sizeof(m->shadow[0]));
	}
}

/* Checks what a piece is: the right tokens of a living request, the tail whole. */
static void
check_piece(sim *m, const llm_work *w)
{
	const request *r = w->user;
	uint32_t n_tail = r->n_tokens == r->n_prompt ? r->n_atomic : 0;
	uint32_t end = w->start + w->n_tokens;
	uint32_t n_known = r->n_tokens - r->n_draft + w->n_draft;

	if (!r->live || r->id != w->id || r->in_pass)
		fail(m, "a piece of an ended request, or two of one");
	if (w->n_tokens == 0 || w->n_draft > r->n_draft || end > n_known)
		fail(m, "a piece reaches beyond the tokens");
	if (w->completes != (end == n_known))
		fail(m, "a piece completes that does not, or the other way round");
	if (memcmp(w->tokens, r->tokens + w->start, w->n_tokens * sizeof(*w->tokens)) != 0)
		fail(m, "a piece has wrong tokens");
	if (n_tail > 1 && end > r->n_tokens - n_tail && (!w->completes || w->start > n_known - n_tail))
		fail(m, "an atomic tail was cut");
	if (w->n_draft > 0 && w->start + 1 + w->n_draft > n_known)
		fail(m, "drafts were cut from the token they follow");
}

/* Writes one slot, after checking that the page may be written. */
static void
write_slot(sim *m, const request *r, uint32_t page, uint32_t at, uint64_t hash)
{
	const llm_page *p = &m->kv->pool.pages[page];

	if (p->tree_refs > 0 || p->table_refs == 0)
		fail(m, "a page is written that the tree holds, or nobody");
	for (uint32_t i = 0; i < m->page_tokens; i++)
		if (m->shadow[page][i].salt != 0 && m->shadow[page][i].salt != r->salt)
			fail(m, "a page is written that still holds another salt's data");
	m->shadow[page][at] = (slot){.salt = r->salt, .hash = hash};
}

/* Runs one piece: every slot of its history must be its own. */
static void
run_piece(sim *m, const llm_work *w)
{
	const request *r = w->user;
	uint32_t end = w->start + w->n_tokens;
	uint64_t hash = 0;

	for (uint32_t i = 0; i < end && m->wrong == NULL; i++)
	{
		uint32_t page = w->pages[i / m->page_tokens];
		uint32_t at = i % m->page_tokens;

		hash = chain(hash, r->tokens[i]);
		if (page >= m->n_pages)
			fail(m, "a page outside the pool");
		else if (i >= w->start && !(m->mutate == MUTATE_LOSE_LAST && i == end - 1))
			write_slot(m, r, page, at, hash);
		else if (i < w->start &&
		         (m->shadow[page][at].salt != r->salt || m->shadow[page][at].hash != hash))
			fail(m, "a slot of the history is not the sequence's own");
	}
}

/* Checks the pass as a whole, and marks who is in it. */
static void
check_pass(sim *m, const llm_work *work, uint32_t n)
{
	uint32_t n_tokens = 0;
	uint32_t budget = m->params.budget_tokens;
	bool wide = false; /* an atomic tail longer than the interactive budget */
	bool interactive = false;
	bool seen_batch = false;

	for (uint32_t i = 0; i < m->n_requests; i++)
		interactive |= m->requests[i].live && m->requests[i].class_ == LLM_CLASS_INTERACTIVE;
	if (interactive)
		budget = m->params.budget_interactive;
	for (uint32_t i = 0; i < n && m->wrong == NULL; i++)
	{
		request *r = work[i].user;

		check_piece(m, &work[i]);
		r->in_pass = true;
		r->n_tokens -= r->n_draft - work[i].n_draft;
		r->n_draft = work[i].n_draft;
		n_tokens += work[i].n_tokens;
		wide |= work[i].n_tokens > budget;
		if (r->class_ == LLM_CLASS_INTERACTIVE && seen_batch)
			fail(m, "a batch sequence runs before an interactive one");
		seen_batch |= r->class_ == LLM_CLASS_BATCH;
	}
	if (n_tokens > (wide ? m->params.budget_tokens : budget) || n > m->params.max_segments)
		fail(m, "the pass exceeds its budget");
	if (n == 0 && m->n_live > 0)
		fail(m, "sequences wait and nothing runs");
}

/*
 * Where all living interactive sequences fit one pass and the pool together, each must run, at the
 * latest in the second such pass in a row (in the first another may hold it back).
 */
static void
check_latency(sim *m)
{
	uint32_t n_tokens = 0;
	uint32_t n_pages = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->n_requests; i++)
	{
		const request *r = &m->requests[i];

		if (!r->live || r->class_ != LLM_CLASS_INTERACTIVE)
			continue;
		n++;
		n_tokens += r->n_tokens;
		n_pages += (r->n_tokens - 1) / m->page_tokens + 2;
	}
	for (uint32_t i = 0; i < m->n_requests; i++)
	{
		request *r = &m->requests[i];

		if (!r->live || r->class_ != LLM_CLASS_INTERACTIVE)
			continue;
		if (r->in_pass || m->used_pins || n_tokens > m->params.budget_interactive ||
		    n_pages > m->n_pages || n > m->params.max_segments)
			r->prompt_passes = 0;
		else if (++r->prompt_passes >= 2)
			fail(m, "an interactive sequence waits although there is room");
	}
}

/*
 * What the engine does with a completed piece: append with drafts, finish, or nothing, which
 * finishes too.
 */
static void
complete_piece(sim *m, const llm_work *w)
{
	request *r = w->user;
	uint32_t accept = r->n_draft > 0 ? pick(m, r->n_draft + 1) : 0;
	uint32_t n_kept = r->n_tokens - r->n_draft + accept;
	uint32_t n_room = r->n_prompt + r->max_new - n_kept;
	int32_t tokens[MAX_TOKENS];
	uint32_t n = 1 + pick(m, 4);
	llm_status status;

	if (pick(m, 8) == 0 || n_room == 0)
	{
		if (n_room == 0 && llm_sched_append(m->sched, w->id, accept, tokens, 1, 0, NULL) == LLM_OK)
			fail(m, "more tokens were appended than max_new");
		if (pick(m, 2) == 0)
			llm_sched_finish(m->sched, w->id);
		end_request(m, r);
		return;
	}
	n = n < n_room ? n : n_room;
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t) pick(m, 3);
	status = llm_sched_append(m->sched, w->id, accept, tokens, n, n - 1, NULL);
	if (status != (r->cancelled ? LLM_E_CANCELLED : LLM_OK))
		fail(m, "append failed");
	memcpy(r->tokens + n_kept, tokens, n * sizeof(*tokens));
	r->n_tokens = n_kept + n;
	r->n_draft = n - 1;
}

/* The pass fails: what it wrote is garbage, and its drafts are forgotten. */
static void
abandon(sim *m, const llm_work *work, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
	{
		request *r = work[i].user;

		for (uint32_t k = work[i].start; k < work[i].start + work[i].n_tokens; k++)
			m->shadow[work[i].pages[k / m->page_tokens]][k % m->page_tokens].hash = ~0ull;
		r->n_tokens -= r->n_draft;
		r->n_draft = 0;
	}
	if (m->mutate == MUTATE_KEEP_ABANDON)
		llm_sched_done(m->sched);
	else
		llm_sched_abandon(m->sched);
}

/* Ends the pass one way or the other; requests cancelled in it end. */
static void
end_pass(sim *m, const llm_work *work, uint32_t n, bool may_fail)
{
	request *in_pass[MAX_SEGMENTS];
	bool fails = may_fail && pick(m, 40) == 0;

	for (uint32_t i = 0; i < n; i++)
		in_pass[i] = work[i].user;
	for (uint32_t i = 0; i < n && !fails; i++)
		if (work[i].completes)
			complete_piece(m, &work[i]);
	if (pick(m, 8) == 0)
		llm_alloc_fail_after(1 + pick(m, 3), pick(m, 2));
	if (fails)
		abandon(m, work, n);
	else
		llm_sched_done(m->sched);
	llm_alloc_fail_after(0, false);
	for (uint32_t i = 0; i < n; i++)
	{
		in_pass[i]->in_pass = false;
		if (in_pass[i]->cancelled && in_pass[i]->live)
			end_request(m, in_pass[i]);
	}
}

/* One pass of the fake engine. */
static void
pass(sim *m, bool draining)
{
	const llm_work *work;
	const llm_kv_fixup *fixups;
	uint32_t n_fixups;
	uint32_t n;

	if (pick(m, 8) == 0)
		llm_alloc_fail_after(1, true); /* a pass is formed without allocating */
	n = llm_sched_next(m->sched, &work, &fixups, &n_fixups);
	llm_alloc_fail_after(0, false);
	m->n_passes++;
	check_pass(m, work, n);
	check_latency(m);
	if (m->mutate != MUTATE_LATE_FIXUPS)
		run_fixups(m, fixups, n_fixups);
	for (uint32_t i = 0; i < n && m->wrong == NULL; i++)
		run_piece(m, &work[m->mutate == MUTATE_REVERSE ? n - 1 - i : i]);
	if (m->mutate == MUTATE_LATE_FIXUPS)
		run_fixups(m, fixups, n_fixups);
	if (m->wrong == NULL && pick(m, 8) == 0)
		fail(m, llm_sched_verify(m->sched));
	if (!draining && pick(m, 6) == 0)
		cancel(m);
	if (!draining && pick(m, 6) == 0)
		submit(m);
	if (m->wrong == NULL && n > 0)
		end_pass(m, work, n, !draining);
}

/*
 * Compares the scheduler's count of living sequences with the model's, and runs its self-check now
 * and then.
 */
static void
check_counts(sim *m)
{
	llm_sched_stats stats;

	llm_sched_get_stats(m->sched, &stats);
	if (stats.n_waiting + stats.n_running != m->n_live)
		fail(m, "the number of living sequences is wrong");
	if (m->wrong == NULL && pick(m, 4) == 0)
		fail(m, llm_sched_verify(m->sched));
}

/* Random sizes, an empty pool, templates that share some of their beginnings. */
static bool
sim_start(sim *m, uint64_t seed, mutation mutate)
{
	*m = (sim){.rng = seed, .mutate = mutate};
	m->n_pages = 2 + pick(m, MAX_PAGES - 1);
	m->page_tokens = 1 + pick(m, MAX_PAGE);
	m->params.budget_tokens = 1 + pick(m, 40);
	m->params.budget_interactive = 1 + pick(m, m->params.budget_tokens);
	m->params.max_segments = 1 + pick(m, MAX_SEGMENTS);
	m->params.max_queued = 1 + pick(m, 40);
	for (uint32_t t = 0; t < N_TEMPLATES; t++)
		for (uint32_t i = 0; i < MAX_TOKENS; i++)
			m->templates[t][i] = t > 0 && i < t * 7 ? m->templates[0][i] : (int32_t) pick(m, 3);
	return llm_kv_create(m->n_pages, m->page_tokens, &m->kv, NULL) == LLM_OK &&
	       llm_sched_create(m->kv, &m->params, &m->sched, NULL) == LLM_OK;
}

/* After all have ended nothing may be left but the cache, and nothing after that is dropped. */
static void
sim_end(sim *m)
{
	llm_kv_stats stats;

	if (m->wrong == NULL)
		fail(m, llm_sched_verify(m->sched));
	llm_sched_free(m->sched);
	llm_kv_drop_cache(m->kv, true);
	llm_kv_get_stats(m->kv, &stats);
	if (stats.n_free != m->n_pages)
		fail(m, "pages leaked");
	llm_kv_free(m->kv);
}

/*
 * One simulation in *m: random events, then all that is left runs to its end. NULL, or the broken
 * rule.
 */
static const char *
simulate(sim *m, uint64_t seed, mutation mutate)
{
	uint32_t n_events = 0;

	if (!sim_start(m, seed, mutate))
		return "out of memory";
	for (n_events = 20 + pick(m, 60); n_events > 0 && m->wrong == NULL; n_events--)
	{
		uint32_t what = pick(m, 12);

		if (what < 2)
			submit(m);
		else if (what == 2)
			cancel(m);
		else if (what == 3 && pick(m, 4) == 0)
			pin(m);
		else
			pass(m, false);
		check_counts(m);
	}
	for (n_events = 0; m->n_live > 0 && m->wrong == NULL; n_events++)
	{
		if (n_events == MAX_PASSES)
			fail(m, "a sequence starves");
		pass(m, true);
		check_counts(m);
	}
	sim_end(m);
	return m->wrong;
}

static uint64_t n_seeds = 100000;
static uint64_t first_seed = 1;
static sim world, again;

/* Nothing may go wrong under any seed. */
static void
test_simulation(void)
{
	for (uint64_t seed = first_seed; seed < first_seed + n_seeds; seed++)
	{
		const char *wrong = simulate(&world, seed, MUTATE_NOTHING);

		CHECK_MSG(wrong == NULL, "seed %llu: %s", (unsigned long long) seed, wrong);
		if (wrong != NULL)
			return;
	}
}

/* Each mutation must be noticed within a few hundred seeds. */
static void
test_mutations_are_noticed(void)
{
	for (int mutate = MUTATE_NOTHING + 1; mutate < N_MUTATIONS; mutate++)
	{
		uint64_t seed = 1;

		while (seed <= 500 && simulate(&world, seed, (mutation) mutate) == NULL)
			seed++;
		CHECK_MSG(seed <= 500, "mutation %d passes 500 seeds unnoticed", mutate);
	}
}

/* The same seed gives the same run to the last slot, also with all memory at other addresses. */
static void
test_seeds_replay(void)
{
	for (uint64_t seed = 1; seed <= 50; seed++)
	{
		void *shift;

		CHECK(simulate(&world, seed, MUTATE_NOTHING) == NULL);
		shift = llm_malloc(1000 * seed);
		CHECK(simulate(&again, seed, MUTATE_NOTHING) == NULL);
		llm_free(shift);
		CHECK(world.rng == again.rng && world.n_passes == again.n_passes);
		CHECK(memcmp(world.shadow, again.shadow, sizeof(world.shadow)) == 0);
	}
}

int
main(int argc, char **argv)
{
	if (argc > 1)
		n_seeds = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		first_seed = strtoull(argv[2], NULL, 10);
	RUN(mutations_are_noticed);
	RUN(seeds_replay);
	RUN(simulation);
	return test_summary("sim");
}
