/*
 * llm_sched_queue.c: callers, groups and sequences: lookup, creation, end, and the way from waiting
 * to started and back.
 *
 * A sequence is one allocation: struct, tokens (prompt and max_new), page table. So a pass never
 * allocates, and append cannot fail for want of memory.
 */
#include <string.h>

#include "llm_alloc.h"
#include "llm_sched_internal.h"

/* One step of a 64-bit hash: multiply and fold. */
static uint64_t
hash_step(uint64_t hash, uint64_t word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
	return hash ^ (hash >> 29);
}

/* The hash of a caller. */
static uint64_t
caller_hash(llm_class class_, uint64_t key)
{
	return hash_step(hash_step(0, key), (uint64_t) class_ + 1);
}

/* The hash of a group's key; caller, job and salt first, then the shared tokens. */
static uint64_t
group_hash(const llm_sched_request *r)
{
	uint64_t hash = caller_hash(r->class_, r->caller);
	uint64_t words[2];

	memcpy(words, r->salt.bytes, sizeof(words));
	hash = hash_step(hash_step(hash, words[0]), words[1]);
	hash = hash_step(hash_step(hash, r->job), r->n_shared);
	for (uint32_t i = 0; i < r->n_shared; i++)
		hash = hash_step(hash, (uint32_t) r->tokens[i]);
	return hash;
}

/* Finds or makes the caller of a request, at the end of its class's ring. NULL without memory. */
static llm_sched_caller *
caller_get(llm_sched *s, const llm_sched_request *r)
{
	llm_sched_caller **bucket = &s->callers[caller_hash(r->class_, r->caller) & (s->n_buckets - 1)];
	llm_sched_caller *c = *bucket;

	while (c != NULL && (c->key != r->caller || c->class_ != r->class_))
		c = c->chain;
	if (c != NULL || (c = llm_calloc(1, sizeof(*c))) == NULL)
		return c;
	c->class_ = r->class_;
	c->key = r->caller;
	link_init(&c->decode);
	link_init(&c->prefill);
	link_init(&c->groups);
	c->chain = *bucket;
	*bucket = c;
	link_insert(&s->ring[c->class_], &c->ring);
	s->n_callers[c->class_]++;
	return c;
}

/* Frees a caller that has no sequence left. */
static void
caller_tidy(llm_sched *s, llm_sched_caller *c)
{
	llm_sched_caller **link = &s->callers[caller_hash(c->class_, c->key) & (s->n_buckets - 1)];

	if (c->n_seqs > 0)
		return;
	while (*link != c)
		link = &(*link)->chain;
	*link = c->chain;
	link_remove(&c->ring);
	s->n_callers[c->class_]--;
	llm_free(c);
}

/*
 * Says whether a request belongs to a group. Tokens are compared: a hash alone could be made to
 * collide.
 */
static bool
group_matches(const llm_sched_group *g, const llm_sched_caller *c, const llm_sched_request *r)
{
	return g->caller == c && g->job == r->job && g->n_shared == r->n_shared &&
	       memcmp(&g->salt, &r->salt, sizeof(g->salt)) == 0 &&
	       memcmp(g->tokens, r->tokens, r->n_shared * sizeof(*g->tokens)) == 0;
}

/* Finds or makes the group of a request. NULL without memory. */
static llm_sched_group *
group_get(llm_sched *s, llm_sched_caller *c, const llm_sched_request *r)
{
	uint64_t hash = group_hash(r);
	llm_sched_group **bucket = &s->groups[hash & (s->n_buckets - 1)];
	llm_sched_group *g = *bucket;

	while (g != NULL && (g->hash != hash || !group_matches(g, c, r)))
		g = g->chain;
	if (g != NULL ||
	    (g = llm_malloc(sizeof(*g) + (size_t) r->n_shared * sizeof(*g->tokens))) == NULL)
		return g;
	*g = (llm_sched_group){
	    .caller = c, .hash = hash, .job = r->job, .salt = r->salt, .n_shared = r->n_shared};
	memcpy(g->tokens, r->tokens, r->n_shared * sizeof(*g->tokens));
	link_init(&g->waiting);
	g->chain = *bucket;
	*bucket = g;
	return g;
}

/* Frees a group that has no members left. */
static void
group_tidy(llm_sched *s, llm_sched_group *g)
{
	llm_sched_group **link = &s->groups[g->hash & (s->n_buckets - 1)];

	if (g->n_members > 0)
		return;
	while (*link != g)
		link = &(*link)->chain;
	*link = g->chain;
	llm_free(g);
}

/*
 * Puts a sequence into its group's queue (front: before the others) and the group into its caller's
 * list.
 */
static void
queue_enter(llm_sched *s, llm_sched_seq *q, bool front)
{
	llm_sched_group *g = q->group;

	if (g->n_waiting++ == 0)
		link_insert(front ? g->caller->groups.next : &g->caller->groups, &g->link);
	link_insert(front ? g->waiting.next : &g->waiting, &q->link);
	q->state = SEQ_WAITING;
	s->stats.n_waiting++;
	s->stats.n_waiting_tokens += q->n_tokens;
}

/*
 * Takes a sequence out of its group's queue; the last one takes its group out of the caller's list.
 */
static void
queue_leave(llm_sched *s, llm_sched_seq *q)
{
	llm_sched_group *g = q->group;

	link_remove(&q->link);
	s->stats.n_waiting--;
	s->stats.n_waiting_tokens -= q->n_tokens;
	if (--g->n_waiting > 0)
		return;
	if (g->caller->cursor == &g->link)
		g->caller->cursor = g->link.next;
	link_remove(&g->link);
}

/* Makes room for one more slot. */
static bool
slots_grow(llm_sched *s)
{
	uint32_t n = s->n_slots < 64 ? 64 : s->n_slots * 2;
	llm_sched_seq_slot *slots;

	if (s->first_free != 0)
		return true;
	if (n <= s->n_slots || (slots = llm_realloc_array(s->slots, n, sizeof(*slots))) == NULL)
		return false;
	for (uint32_t i = n; i-- > s->n_slots;)
	{
		slots[i] = (llm_sched_seq_slot){.generation = 1, .next_free = s->first_free};
		s->first_free = i + 1;
	}
	s->slots = slots;
	s->n_slots = n;
	return true;
}

/* Gives a sequence its slot and id: the slot's number, and how often it has been used above. */
static void
slot_take(llm_sched *s, llm_sched_seq *q)
{
	uint32_t i = s->first_free - 1;

	s->first_free = s->slots[i].next_free;
	s->slots[i].seq = q;
	q->id = (uint64_t) s->slots[i].generation << 32 | i;
}

/* Frees the slot; its old id finds nothing any more. */
static void
slot_give(llm_sched *s, uint64_t id)
{
	uint32_t i = (uint32_t) id;

	s->slots[i].seq = NULL;
	if (++s->slots[i].generation == 0)
		s->slots[i].generation = 1;
	s->slots[i].next_free = s->first_free;
	s->first_free = i + 1;
}

/* The living sequence with this id, or NULL. */
llm_sched_seq *
llm_sched_seq_find(const llm_sched *s, uint64_t id)
{
	uint32_t i = (uint32_t) id;

	return i < s->n_slots && s->slots[i].generation == id >> 32 ? s->slots[i].seq : NULL;
}

/* Allocates a sequence with its tokens and the array of its page table. */
static llm_sched_seq *
seq_alloc(const llm_sched *s, const llm_sched_request *r)
{
	uint32_t capacity = r->n_tokens + r->max_new; /* checked: fits the pages there are */
	uint32_t page_tokens = llm_kv_page_tokens(s->kv);
	uint32_t n_pages = capacity / page_tokens + (capacity % page_tokens != 0);
	llm_sched_seq *q =
	    llm_malloc(sizeof(*q) + ((size_t) capacity + (size_t) n_pages) * sizeof(int32_t));

	if (q == NULL)
		return NULL;
	*q = (llm_sched_seq){.user = r->user,
	                     .n_tokens = r->n_tokens,
	                     .n_prompt = r->n_tokens,
	                     .n_atomic = r->n_atomic,
	                     .capacity = capacity};
	q->tokens = (int32_t *) (q + 1);
	memcpy(q->tokens, r->tokens, r->n_tokens * sizeof(*q->tokens));
	q->table.pages = (uint32_t *) (q->tokens + capacity);
	q->table.capacity = n_pages;
	return q;
}

/* Makes a waiting sequence; on failure nothing is left behind. */
llm_status
llm_sched_seq_create(llm_sched *s, const llm_sched_request *r, uint64_t *id, llm_error *err)
{
	llm_sched_seq *q = slots_grow(s) ? seq_alloc(s, r) : NULL;
	llm_sched_caller *c = q != NULL ? caller_get(s, r) : NULL;
	llm_sched_group *g = c != NULL ? group_get(s, c, r) : NULL;

	if (g == NULL)
	{
		if (c != NULL)
			caller_tidy(s, c);
		llm_free(q);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a sequence of %u tokens", r->n_tokens);
	}
	q->group = g;
	q->age = s->next_age++;
	g->n_members++;
	c->n_seqs++;
	s->n_live++;
	s->n_live_class[c->class_]++;
	slot_take(s, q);
	queue_enter(s, q, false);
	*id = q->id;
	return LLM_OK;
}

/* Takes a started sequence out of its list and gives its pages back. */
static void
seq_stop(llm_sched *s, llm_sched_seq *q)
{
	llm_class class_ = seq_class(q);

	link_remove(&q->link);
	link_remove(&q->started);
	s->n_started--;
	s->stats.n_running--;
	llm_kv_truncate(s->kv, &q->table, 0);
	if (s->urgent[class_] == q)
		s->urgent[class_] = NULL;
	if (q->group->leader == q)
		q->group->leader = NULL;
}

/* Ends a sequence, wherever it is, with its group and caller if it was their last. */
void
llm_sched_seq_free(llm_sched *s, llm_sched_seq *q)
{
	llm_sched_group *g = q->group;
	llm_sched_caller *c = g->caller;

	if (q->state == SEQ_WAITING)
		queue_leave(s, q);
	else
		seq_stop(s, q);
	if (s->hold == q)
		s->hold = NULL;
	slot_give(s, q->id);
	s->n_live--;
	s->n_live_class[c->class_]--;
	g->n_members--;
	c->n_seqs--;
	llm_free(q);
	group_tidy(s, g);
	caller_tidy(s, c);
}

/* Unverified drafts are dropped: what is recomputed is what is known. */
void
llm_sched_seq_put_back(llm_sched *s, llm_sched_seq *q)
{
	seq_stop(s, q);
	q->n_tokens -= q->n_draft;
	q->n_draft = 0;
	q->tried = s->turn;
	queue_enter(s, q, true);
}

/* The caller of this function puts the sequence into the pass. */
void
llm_sched_seq_start(llm_sched *s, llm_sched_seq *q)
{
	queue_leave(s, q);
	link_insert(&s->started[seq_class(q)], &q->started);
	s->n_started++;
	s->stats.n_running++;
	q->n_refused = 0;
	if (s->hold == q)
		s->hold = NULL;
}
