/*
 * llm_sched_internal.h: internal to llm_sched*.c: sequences, groups, callers, and the lists they
 * stand in.
 *
 * A sequence is in exactly one place: waiting in its group, ready in its caller's prefill or decode
 * list, or in the pass. A group is in its caller's list while a member waits; a caller is in the
 * ring of its class while it has a sequence. All links are intrusive, so that moving never
 * allocates.
 *
 * Ownership: the slot table owns the sequences; a group lives while it has members, a caller while
 * it has sequences.
 */
#ifndef LLM_SCHED_INTERNAL_H
#define LLM_SCHED_INTERNAL_H

#include <stddef.h>

#include "llm_sched.h"

#define N_CLASSES 2

/* A circular doubly linked list; a head is a link that is in no object. */
typedef struct llm_link
{
	struct llm_link *prev;
	struct llm_link *next;
} llm_link;

#define LINK_OF(link, type, member) ((type *) (void *) ((char *) (link) -offsetof(type, member)))

typedef struct llm_sched_caller
{
	llm_link ring; /* in the class's ring */
	struct llm_sched_caller *chain;
	llm_class class_;
	uint64_t key;
	int64_t deficit;  /* tokens it may still take in its turn; served while positive */
	uint64_t idle;    /* the phase (turn and kind of work) in which it had nothing more to give */
	uint32_t n_seqs;  /* all its sequences */
	llm_link decode;  /* sequences ready for their next token */
	llm_link prefill; /* sequences that have started and have prompt left */
	llm_link groups;  /* groups with waiting members, oldest first */
	llm_link *cursor; /* the next group to try in this turn */
	uint64_t cursor_turn;
} llm_sched_caller;

typedef struct llm_sched_seq llm_sched_seq;

typedef struct llm_sched_group
{
	llm_link link; /* in the caller's groups while a member waits */
	struct llm_sched_group *chain;
	llm_sched_caller *caller;
	uint64_t hash;
	uint64_t job;
	llm_salt salt;
	llm_sched_seq *leader; /* computes the shared prefix; NULL when nobody does */
	llm_link waiting;
	uint32_t n_members;
	uint32_t n_waiting;
	uint32_t n_shared;
	int32_t tokens[]; /* [n_shared] */
} llm_sched_group;

typedef enum llm_sched_seq_state
{
	SEQ_WAITING,
	SEQ_PREFILL,
	SEQ_DECODE,
	SEQ_IN_PASS
} llm_sched_seq_state;

struct llm_sched_seq
{
	llm_link link;    /* in the list of its state */
	llm_link started; /* in the class's list of sequences that hold pages */
	llm_sched_group *group;
	uint64_t id;
	uint64_t age;   /* position in the order of submission */
	uint64_t tried; /* the turn in which it could not run */
	void *user;
	llm_kv_table table; /* its array is lent: part of this allocation */
	llm_sched_seq_state state;
	uint32_t n_tokens;
	uint32_t n_prompt;
	uint32_t n_atomic;
	uint32_t n_draft;   /* of the last tokens */
	uint32_t capacity;  /* of tokens */
	uint32_t start;     /* of the piece in the pass */
	uint32_t n_found;   /* shared tokens when it first started */
	uint32_t n_refused; /* times it was not admitted for want of pages */
	bool was_admitted;  /* n_found is known */
	bool cancelled;     /* in the pass: goes at its end */
	bool finished;      /* the same */
	bool appended;      /* in the pass: has got what comes next */
	int32_t *tokens;    /* [capacity], part of this allocation */
};

typedef struct llm_sched_seq_slot
{
	llm_sched_seq *seq;  /* NULL: free */
	uint32_t generation; /* the upper half of the id; never 0 */
	uint32_t next_free;
} llm_sched_seq_slot;

struct llm_sched
{
	llm_kv *kv; /* borrowed */
	llm_sched_params params;
	uint32_t segments_capacity;
	llm_sched_seq_slot *slots; /* [n_slots] */
	uint32_t n_slots;
	uint32_t first_free; /* index + 1; 0 = none */
	uint32_t n_live;
	uint32_t n_live_class[N_CLASSES];
	uint64_t next_age;

	llm_sched_group **groups;   /* [n_buckets] hash table */
	llm_sched_caller **callers; /* [n_buckets] hash table */
	uint32_t n_buckets;
	llm_link ring[N_CLASSES]; /* callers, the next to be served first */
	uint32_t n_callers[N_CLASSES];
	llm_link started[N_CLASSES]; /* sequences that hold pages */
	uint32_t n_started;
	llm_sched_seq *urgent[N_CLASSES]; /* the oldest started one that went without pages */
	llm_sched_seq *hold; /* waited too long for pages: nothing else of its class is admitted */

	uint64_t turn; /* counts calls of next */
	bool in_pass;
	uint32_t budget; /* of this pass */
	uint32_t n_pass_tokens;
	llm_link pass;  /* its sequences, in the order of pieces */
	llm_work *work; /* [segments_capacity] */
	uint32_t n_work;
	llm_kv_fixup *fixups; /* [n_pages + segments_capacity]: a pass takes each page at most once */
	uint32_t n_fixups;
	llm_sched_stats stats;
};

/* Makes an empty list. */
static inline void
link_init(llm_link *head)
{
	head->prev = head->next = head;
}

/* Says whether a list is empty. */
static inline bool
link_empty(const llm_link *head)
{
	return head->next == head;
}

/* Puts a link before another; before the head: at the end of the list. */
static inline void
link_insert(llm_link *at, llm_link *link)
{
	link->prev = at->prev;
	link->next = at;
	at->prev->next = link;
	at->prev = link;
}

/* Takes a link out of its list. */
static inline void
link_remove(llm_link *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
}

/* The class of a sequence. */
static inline llm_class
seq_class(const llm_sched_seq *q)
{
	return q->group->caller->class_;
}

/* llm_sched_queue.c: what lives how long, and the moves between states. */
llm_status llm_sched_seq_create(llm_sched *s, const llm_sched_request *r, uint64_t *id,
                                llm_error *err);
void llm_sched_seq_free(llm_sched *s, llm_sched_seq *q);
llm_sched_seq *llm_sched_seq_find(const llm_sched *s, uint64_t id);
/*
 * Gives the pages of a sequence that has started back and lets it wait, before its group's others.
 */
void llm_sched_seq_put_back(llm_sched *s, llm_sched_seq *q);
/* Takes a waiting sequence out of its group's queue and into the list of the started. */
void llm_sched_seq_start(llm_sched *s, llm_sched_seq *q);

#endif /* LLM_SCHED_INTERNAL_H */
