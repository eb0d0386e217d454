/*
 * llm_engine_impl.h: what the files of the engine share. Not for users; those read llm.h.
 *
 *	llm_engine.c			create, destroy, step, statistics; who may touch what
 *	llm_engine_model.c		loading, memory plan, calibration of the token budget, unloading
 *	llm_engine_job.c		jobs: checks, what is compiled once, cancelling and ending
 *	llm_engine_rows.c		rows → prompts → sequences of tokens
 *	llm_engine_pass.c		one forward pass: pieces of sequences → ragged batch → results
 *	llm_engine_score.c		results of classify, judge, relevance, loglik, embed
 *	llm_engine_generate.c	sampling, grammar, drafts, stop strings
 *
 * Locks, in the order they may be taken:
 *
 * step_mutex: held by step for one pass, and by load (to publish), unload and destroy. Whoever
 * holds it owns slots, sequences, schedulers, KV and backends.
 *
 * models_lock (rwlock): the array of slots. Readers are submits, which use a slot's immutable model
 * to tokenise; the writers are load and unload.
 *
 * inbox_mutex: the inbox of new jobs, the lists of cancels, the counters that statistics show. Held
 * briefly, never while computing.
 */
#ifndef LLM_ENGINE_IMPL_H
#define LLM_ENGINE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "llm.h"
#include "llm_buffer.h"
#include "llm_draft.h"
#include "llm_device.h"
#include "llm_forward.h"
#include "llm_grammar.h"
#include "llm_label.h"
#include "llm_model.h"
#include "llm_prompt.h"
#include "llm_stop.h"

#define LLM_MODELS_MAX 64

typedef struct llm_slot llm_slot;
typedef struct llm_task llm_task;
typedef struct llm_seq llm_seq;

/* Arrays of one pass, sized at load: [max_tokens] and [max_segs]. */
typedef struct llm_pass
{
	uint32_t max_tokens;
	uint32_t max_segs;
	int32_t *tokens;
	uint32_t *pos;
	uint32_t *types;
	uint32_t *rows; /* flat indices whose logits are wanted */
	pp_segment *segs;
	uint32_t n_tokens;
	uint32_t n_segs;
	uint32_t n_rows;
	float *logits; /* [bytes_logits / 4], grown on demand */
	float *lse;
	size_t n_logits;
	size_t n_lse;
	uint32_t *row_index; /* [max_tokens] scratch */
} llm_pass;

/* A prefix to pin once the scheduler has put it into the tree. */
typedef struct llm_pin
{
	struct llm_pin *next;
	llm_salt salt;
	uint32_t n_tokens;
	int32_t tokens[];
} llm_pin;

/* The pass that a slot has under way between llm_slot_begin and llm_slot_end. */
typedef struct llm_running
{
	uint32_t n; /* pieces */
	llm_batch batch;
	llm_status status;
	llm_error err;
	double start_ms;
} llm_running;

/*
 * A loaded model with all that runs it. Owned by the holder of step_mutex, but for model, which is
 * immutable. On several devices it is a chain of copies, the first of which stands in the list:
 * each has its backend, weights, pages and scheduler. A sequence runs on one copy from beginning to
 * end; the copies' passes run side by side (llm_engine_step).
 */
struct llm_slot
{
	llm_slot *next_copy;
	llm_running running;
	char name[LLM_NAME_MAX];
	char digest[65];
	char quantisation[16];
	llm_model *model;
	pp_backend *be;
	llm_workspace *ws;
	llm_kv *kv;
	llm_sched *sched;
	llm_sampler *sampler;       /* decoders */
	llm_vocab_trie *vocab_trie; /* built when the first grammar needs it */
	uint32_t n_ctx;
	uint32_t budget_tokens;
	uint64_t bytes_kv;
	_Atomic uint64_t bytes_kv_used; /* as of the last pass, for who does not hold step_mutex */
	llm_pass pass;
	struct llm_outcome *outs; /* [n_pieces_max] of the running pass */
	llm_pin *pins;
	uint32_t *mask; /* [n_vocab / 32 + 1] of the grammar in hand */
};

#define LLM_COPIES_MAX 64u /* of a model */

typedef enum llm_seq_kind
{
	LLM_SEQ_GENERATE,
	LLM_SEQ_LABELS, /* prompt + label trie */
	LLM_SEQ_LOGLIK,
	LLM_SEQ_ENCODE, /* pooled vector or classifier logit */
	LLM_SEQ_PREFIX  /* prewarm: computed and kept, no result */
} llm_seq_kind;

/* The growing output of one generation. */
typedef struct llm_generation
{
	llm_buffer text;   /* emitted bytes */
	uint32_t n_tokens; /* sampled so far */
	llm_grammar_state *grammar;
	llm_stop_state *stop;
	llm_draft *draft;
	llm_finish finish;
} llm_generation;

/* One sequence of a task: a row, or a part of one (a label of multi, the query of a relevance). */
struct llm_seq
{
	llm_task *task;
	uint64_t sched_id; /* 0 until the scheduler has it, and again once it has ended */
	uint32_t row;      /* of the job; LLM_ROW_HIDDEN = none */
	uint32_t part;     /* label index of multi; 1 = the query side of a relevance */
	llm_seq_kind kind;
	llm_slot *slot;  /* the copy that has it; NULL until it is handed over */
	int32_t *tokens; /* prompt (+ trie nodes + padding); freed once the scheduler has its copy,
	                  * but kept for generate, loglik and prewarm */
	uint32_t *types; /* cross-encoder pairs: token types; kept until the pass */
	uint32_t n_tokens;
	uint32_t n_prompt; /* tokens before the trie nodes */
	uint32_t n_nodes;  /* trie nodes behind the prompt */
	uint32_t n_pad;    /* filler of the padded baseline, behind everything */
	uint32_t n_shared; /* leading tokens that the job has in common */
	uint32_t n_scored; /* loglik: tokens of the completion */
	uint32_t n_cached; /* reported: tokens not computed for this sequence */
	double logprob;    /* loglik: running sum */
	llm_generation *gen;
	bool started;
};

#define LLM_ROW_HIDDEN UINT32_MAX

/* Results of rows that wait for something of their job (a prior, a query vector, other labels). */
typedef struct llm_held_row
{
	double *logprob; /* [n_labels] classify: waits for the priors */
	float *vector;   /* [d_model] relevance: waits for the query; [n_labels] multi: probabilities */
	uint32_t n_missing; /* multi: labels still to come */
	uint32_t n_tokens;
	uint32_t n_shared;
	bool ready;
	bool failed;
} llm_held_row;

/* A job while it lives. */
struct llm_task
{
	llm_task *next;
	uint64_t id;
	llm_slot *slot; /* NULL: nothing to compute (count) */
	llm_job job;    /* scalars and callbacks; its text pointers point into arena */
	llm_arena *arena;
	char model[64];

	llm_seq *seqs; /* [n_seqs] */
	uint32_t n_seqs;
	uint32_t n_open;        /* sequences not yet ended */
	uint32_t n_rows_open;   /* rows whose result has not been given */
	llm_status *row_status; /* [n_rows] rows that failed at submit, else LLM_OK */
	char **row_message;     /* [n_rows] their messages, in the arena */
	uint32_t *row_count;    /* count: tokens of each row */

	llm_label_set *labels;
	llm_grammar *grammar;
	llm_stop *stops;
	llm_held_row *held; /* [n_rows] when rows wait; else NULL */
	double *prior;      /* [n_labels] ln p of each label for the content-free text */
	bool prior_ready;
	float *query;      /* [n_rows2, d] query vectors */
	bool *query_ready; /* [n_rows2] */

	llm_job_stats stats;
	double submitted_ms;
	bool started;
	bool cancelled;
	llm_status end_status; /* of a cancelled task */
	char end_message[LLM_MESSAGE_MAX];
};

struct llm_engine
{
	llm_engine_params params;
	char device[LLM_DEVICE_NAME]; /* where all models run; the first copy of several */
	uint32_t n_copies;
	uint64_t memory_limit;

	pthread_mutex_t step_mutex;
	_Atomic uint32_t n_step_waiters; /* who wants step_mutex: step lets them go first */
	pthread_mutex_t inbox_mutex;
	pthread_rwlock_t models_lock;

	llm_slot *slots[LLM_MODELS_MAX]; /* written under models_lock and step_mutex */
	uint32_t n_slots;
	uint32_t i_slot; /* step: whose turn it is */

	llm_task *tasks;   /* step_mutex: running */
	llm_task *inbox;   /* inbox_mutex: new ones, newest first */
	uint64_t *cancels; /* inbox_mutex: ids; a caller's as pairs in cancel_callers */
	uint32_t n_cancels;
	uint32_t cap_cancels;
	uint64_t *cancel_callers;
	uint32_t n_cancel_callers;
	uint32_t cap_cancel_callers;
	uint64_t next_id;       /* inbox_mutex */
	uint32_t n_queued;      /* inbox_mutex: sequences accepted and not ended */
	llm_engine_stats stats; /* inbox_mutex */

	void (*wakeup)(void *arg);
	void *wakeup_arg;
};

double llm_now_ms(void);

/* Takes step_mutex between two passes; plain locking could wait behind many of them. */
void llm_engine_lock_step(llm_engine *e);

/* llm_engine.c, under step_mutex: moves new jobs to the task list; ends the tasks that are done. */
void llm_engine_take_inbox(llm_engine *e);
uint32_t llm_engine_reap(llm_engine *e);

/* llm_engine_model.c */
llm_slot *llm_slot_find(llm_engine *e, const char *name); /* under models_lock or step_mutex */
void llm_slot_free(llm_slot *slot);

/* llm_engine_job.c: what is wrong with a job for every model; from any thread */
llm_status llm_job_check(const llm_job *job, llm_error *err);

/* llm_engine_job.c: all under step_mutex */
void llm_task_start(llm_engine *e, llm_task *task); /* hands the sequences to the scheduler */
void llm_task_cancel(llm_engine *e, llm_task *task, llm_status status, const char *message);
void llm_task_row_done(llm_task *task, const llm_row_result *result);
void llm_task_row_failed(llm_task *task, uint32_t row, llm_status status, const char *message);
void llm_seq_ended(llm_engine *e, llm_seq *seq);
void llm_task_reap(llm_engine *e, llm_task *task); /* gives on_done and frees it when all is done */
void llm_task_free(llm_task *task);
void llm_generation_free(llm_generation *g);
llm_status llm_task_create(llm_engine *e, const llm_job *job, llm_slot *slot, llm_task **out,
                           llm_error *err);

/* llm_engine_rows.c: adds a task's sequences; rows that cannot run get their errors. */
llm_status llm_task_add_rows(const llm_slot *slot, llm_task *task, llm_error *err);

/* llm_engine_pass.c: sends off one pass of a copy, false when there is nothing to do; takes its
 * results, if it has one under way. slot is the first of the copies. */
bool llm_slot_begin(llm_slot *copy);
void llm_slot_end(llm_engine *e, llm_slot *slot, llm_slot *copy);

/* What a piece asked for, for the two result files: rows [first_row, first_row + n_rows) of the
 * pass. */
typedef struct llm_outcome
{
	llm_seq *seq;
	uint32_t first_row;
	uint32_t n_rows;
	uint32_t start; /* sequence index of the piece's first token */
	uint32_t n_draft;
	const int32_t *tokens; /* of the piece */
	uint32_t n_tokens;
	uint32_t i_seg;
	bool completes;
} llm_outcome;

/* Makes room in the pass's result buffers. */
llm_status llm_pass_reserve(llm_pass *pass, size_t n_logits, size_t n_lse, llm_error *err);

/* llm_engine_score.c */
llm_status llm_score_labels(llm_engine *e, llm_slot *slot, const llm_outcome *outs, uint32_t n,
                            llm_error *err);
llm_status llm_score_loglik(llm_engine *e, llm_slot *slot, const llm_outcome *out, llm_error *err);
llm_status llm_score_encoded(llm_engine *e, llm_slot *slot, const llm_outcome *out,
                             const float *values, llm_error *err);

llm_status llm_prefix_computed(llm_engine *e, llm_slot *slot, const llm_outcome *out,
                               llm_error *err);
void llm_pin_computed(llm_slot *slot);

/* llm_engine_generate.c */
llm_status llm_generation_start(llm_slot *slot, llm_seq *seq, llm_error *err);
llm_status llm_generate_next(llm_engine *e, llm_slot *slot, const llm_outcome *out,
                             const float *logits, const pp_top *top, llm_error *err);

#endif /* LLM_ENGINE_IMPL_H */
