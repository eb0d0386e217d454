/*
 * llm_sched.h: which tokens run in the next forward pass (Dynamic SplitFuse, arXiv 2401.08671).
 *
 * The scheduler is pure logic over token counts and KV pages: no tensor, no clock, no thread, so
 * that it runs in a seeded simulation. One caller at a time. Memory is allocated by create,
 * set_params and submit only.
 *
 * Rules, in this order
 *	1. Interactive before batch, at every pass. Within a class callers take turns (deficit round
 *	   robin over tokens).
 *	2. Decode first: a running sequence contributes its next tokens (1, or 1 + draft). Drafts are
 *	   dropped from their end where tokens or pages are short.
 *	3. Prompts fill what is left of the budget. A prompt that does not fit is cut; cuts are
 *	   equalised: P tokens left over F = ⌈P / budget⌉ passes run as ⌈P / F⌉ each. Pages are checked
 *	   for the chunk only, so a long prompt never blocks a short one behind it; one that was passed
 *	   over 8 times for want of pages holds back new ones.
 *	4. Atomic tails (n_atomic last tokens, a label trie with its root) are not cut. A tail longer
 *	   than budget_interactive may use budget_tokens; one longer than that (set_params came later)
 *	   runs first in a pass.
 *	5. The sequences of one submitted job are grouped by their first n_shared tokens: these are
 *	   computed once, by a leader. Followers may run in the very pass that completes the leader's
 *	   prefix, behind it in the order of pieces. There they share the whole pages of the prefix and
 *	   compute its last tokens (fewer than a page) themselves, since no copy of a page can run
 *	   before its slots are written: cheaper than a pass that waits. While the prefix is longer than
 *	   a pass they wait. From the next pass on the prefix tree gives them all of it.
 *	6. Out of pages: evict cached prefixes; else put back the youngest sequence that has started,
 *	   batch first (its pages are freed; it is recomputed later, generated tokens included); else
 *	   wait. A batch sequence puts back only younger ones and only once it has started itself, so
 *	   the oldest always gets on; one that went without pages is first in its class at the next
 *	   pass. Pins give way where a sequence could not have its pages even alone. A sequence that
 *	   cannot fit even alone fails at submit.
 *	7. A cancelled sequence is gone from the next pass.
 */
#ifndef LLM_SCHED_H
#define LLM_SCHED_H

#include "llm_kv.h"

typedef enum llm_class
{
	LLM_CLASS_INTERACTIVE = 0,
	LLM_CLASS_BATCH = 1
} llm_class;

typedef struct llm_sched llm_sched;

typedef struct llm_sched_params
{
	uint32_t budget_tokens; /* most tokens a pass; calibrated per model and device */
	/*
	 * Most tokens a pass while an interactive sequence waits or runs (latency). 0 = budget_tokens.
	 */
	uint32_t budget_interactive;
	/* Most tokens of a pass that an atomic tail makes longer. 0 = budget_tokens. */
	uint32_t max_pass_tokens;
	uint32_t max_segments; /* most sequences a pass */
	uint32_t max_queued;   /* most sequences waiting or running; more: LLM_E_BUSY */
} llm_sched_params;

/* A sequence handed over. tokens are copied. */
typedef struct llm_sched_request
{
	llm_class class_;
	uint64_t caller; /* fairness key (a connection) */
	uint64_t job;    /* sequences of one job are grouped by shared prefix */
	llm_salt salt;
	const int32_t *tokens;
	uint32_t n_tokens; /* >= 1 */
	uint32_t
	    n_shared; /* leading tokens worth sharing and keeping; 0 = the tree is not even asked */
	uint32_t n_atomic; /* trailing tokens that must run in one pass (0 or 1 = free) */
	uint32_t max_new;  /* tokens that may be appended, drafts included; 0 = prefill only */
	void *user;
} llm_sched_request;

/* A piece of one sequence in the pass. */
typedef struct llm_work
{
	uint64_t id;
	void *user;
	uint32_t start; /* index of the first token of the piece; = KV slots before it */
	uint32_t n_tokens;
	/*
	 * From start on; valid until the pass is done, but append overwrites the sequence's rejected
	 * drafts.
	 */
	const int32_t *tokens;
	const uint32_t *pages; /* table covering start + n_tokens slots; valid until the pass is done */
	bool completes;        /* reaches the last token known so far: its logits are wanted */
	uint32_t n_draft;      /* how many of the last tokens are unverified drafts: may be fewer than
	                        * were appended */
} llm_work;

llm_status llm_sched_create(llm_kv *kv, const llm_sched_params *params, llm_sched **out,
                            llm_error *err);
/* Frees the scheduler and every sequence; their pages go back to kv. */
void llm_sched_free(llm_sched *s);
/* Between passes. Values of 0 count as 1; max_segments keeps its old value when memory is short. */
void llm_sched_set_params(llm_sched *s, const llm_sched_params *params);

/*
 * Queues n sequences at once (all or none): a whole job. ids[n] gets their ids, never 0.
 * LLM_E_BUSY: the queue is full; LLM_E_LIMIT: a sequence needs more pages than there are, or its
 * atomic tail more than a pass; LLM_E_RANGE.
 */
llm_status llm_sched_submit(llm_sched *s, const llm_sched_request *reqs, uint32_t n, uint64_t *ids,
                            llm_error *err);
/*
 * Cancels; the sequence takes part in no later pass, and its pages are free. During a pass it takes
 * effect at done.
 */
void llm_sched_cancel(llm_sched *s, uint64_t id);

/*
 * Forms the next pass: returns the number of pieces (0 = nothing to do) in *work (owned by the
 * scheduler, valid until llm_sched_done), and the fix-ups to run on the device before it, in order.
 */
uint32_t llm_sched_next(llm_sched *s, const llm_work **work, const llm_kv_fixup **fixups,
                        uint32_t *n_fixups);

/*
 * After the pass, for each completed piece, before llm_sched_done: what comes next. accept: how
 * many of the piece's drafts were right (their slots stay); then append the tokens that follow (the
 * sampled one, then new drafts; n_draft of the n tokens are drafts). Or finish: the sequence is
 * done and forgotten, as is one that completes and gets neither. LLM_E_RANGE: more than max_new
 * tokens; LLM_E_NOT_FOUND; LLM_E_CANCELLED.
 */
llm_status llm_sched_append(llm_sched *s, uint64_t id, uint32_t accept, const int32_t *tokens,
                            uint32_t n, uint32_t n_draft, llm_error *err);
void llm_sched_finish(llm_sched *s, uint64_t id);
/* Ends the pass: inserts finished prefixes into the tree, frees what was finished or cancelled. */
void llm_sched_done(llm_sched *s);
/*
 * In place of done, when the pass failed after its fix-ups: nothing it would have written counts,
 * its sequences start again.
 */
void llm_sched_abandon(llm_sched *s);

typedef struct llm_sched_stats
{
	uint32_t n_waiting; /* not yet started */
	uint32_t n_running;
	uint64_t n_waiting_tokens;
	uint64_t n_passes;
	uint64_t n_tokens;        /* computed since start */
	uint64_t n_shared_tokens; /* not computed because a prefix was shared */
	uint64_t n_preempted;
} llm_sched_stats;

void llm_sched_get_stats(const llm_sched *s, llm_sched_stats *stats);
/*
 * Tokens that this sequence found in the prefix tree, or had from its leader, when it first
 * started.
 */
uint32_t llm_sched_shared_tokens(const llm_sched *s, uint64_t id);
const char *llm_sched_verify(const llm_sched *s); /* NULL when sound: for tests */

#endif /* LLM_SCHED_H */
