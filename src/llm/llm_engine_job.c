/*
 * llm_engine_job.c: the life of a job: checks, what is compiled once (labels, grammar, stop
 * strings), start, cancelling and the end.
 *
 * llm_task_create runs in the submitting thread and touches only immutable parts of the slot. All
 * else runs in the stepping thread. A task owns its sequences; the scheduler refers to them by
 * their user pointer until they end.
 */
#include "llm_engine_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

#define ROWS_MAX           10000000u
#define LABELS_MAX         10000u
#define STOPS_MAX          16u
#define MAX_TOKENS_DEFAULT 256u

/* Frees a generation's parts. NULL is fine. */
void
llm_generation_free(llm_generation *g)
{
	if (g == NULL)
		return;
	llm_buffer_free(&g->text);
	llm_grammar_state_free(g->grammar);
	llm_stop_state_free(g->stop);
	llm_draft_free(g->draft);
	llm_free(g);
}

/* Frees a task and all it owns. */
void
llm_task_free(llm_task *task)
{
	if (task == NULL)
		return;
	for (uint32_t i = 0; i < task->n_seqs; i++)
	{
		llm_free(task->seqs[i].tokens);
		llm_free(task->seqs[i].types);
		llm_generation_free(task->seqs[i].gen);
	}
	if (task->held != NULL)
		for (uint32_t i = 0; i < task->job.n_rows; i++)
		{
			llm_free(task->held[i].logprob);
			llm_free(task->held[i].vector);
		}
	llm_free(task->seqs);
	llm_free(task->row_status);
	llm_free(task->row_message);
	llm_free(task->row_count);
	llm_free(task->held);
	llm_free(task->prior);
	llm_free(task->query);
	llm_free(task->query_ready);
	llm_label_set_free(task->labels);
	llm_grammar_free(task->grammar);
	llm_stop_free(task->stops);
	llm_arena_destroy(task->arena);
	llm_free(task);
}

/*
 * Compiles the labels of the job, or yes and no, into a trie. A judgement, a relevance and each
 * label of a multi-label job are questions that are answered so. With calibration the labels'
 * probabilities for a text without content (contextual calibration, arXiv 2102.09690) are
 * subtracted later: prior makes room for them.
 */
static llm_status
make_labels(const llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	bool listed = job->kind == LLM_JOB_CLASSIFY && !(job->flags & LLM_JOB_MULTI);
	uint32_t n = listed ? job->n_labels : 2;
	const char **strings = llm_malloc_array(n, sizeof(*strings));
	size_t *bytes = llm_malloc_array(n, sizeof(*bytes));
	llm_status status;

	if (strings == NULL || bytes == NULL)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory while reading the labels");
	else
	{
		for (uint32_t i = 0; i < n; i++)
		{
			strings[i] = listed ? job->labels[i].bytes : llm_prompt_yes_no[i];
			bytes[i] = listed ? job->labels[i].n : strlen(llm_prompt_yes_no[i]);
		}
		status =
		    llm_label_set_create(slot->model->tokenizer, strings, bytes, n,
		                         llm_tokenizer_eos(slot->model->tokenizer), &task->labels, err);
	}
	llm_free(strings);
	llm_free(bytes);
	if (status == LLM_OK && (job->flags & LLM_JOB_CALIBRATE) &&
	    (listed || job->kind == LLM_JOB_JUDGE) &&
	    (task->prior = llm_calloc(n, sizeof(double))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while reading the labels");
	return status;
}

/*
 * Compiles the constraint of a generation: a schema, rules or a list of allowed strings; none
 * leaves task->grammar NULL. The grammar keeps copies: neither the strings nor the document are
 * needed after it.
 */
static llm_status
make_grammar(llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	llm_json_doc *doc;
	llm_status status;

	if (job->n_allowed > 0)
	{
		const char **strings = llm_malloc_array(job->n_allowed, sizeof(*strings));
		size_t *bytes = llm_malloc_array(job->n_allowed, sizeof(*bytes));

		status = LLM_E_NOMEM;
		for (uint32_t i = 0; strings != NULL && bytes != NULL && i < job->n_allowed; i++)
		{
			strings[i] = job->allowed[i].bytes;
			bytes[i] = job->allowed[i].n;
		}
		if (strings == NULL || bytes == NULL)
			llm_fail(err, LLM_E_NOMEM, "out of memory while reading the allowed strings");
		else
			status = llm_grammar_from_strings(strings, bytes, job->n_allowed, &task->grammar, err);
		llm_free(strings);
		llm_free(bytes);
		return status;
	}
	if (job->schema.bytes == NULL)
		return LLM_OK;
	if (llm_json_parse(job->schema.bytes, job->schema.n, &doc, err) != LLM_OK)
		return err->code;
	status = job->flags & LLM_JOB_RULES
	             ? llm_grammar_from_rules(llm_json_root(doc), &task->grammar, err)
	             : llm_grammar_from_schema(llm_json_root(doc), &task->grammar, err);
	llm_json_free(doc);
	return status;
}

/* Compiles the stop strings. */
static llm_status
make_stops(llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	const char *strings[STOPS_MAX];
	size_t bytes[STOPS_MAX];

	if (job->n_stops == 0)
		return LLM_OK;
	for (uint32_t i = 0; i < job->n_stops; i++)
	{
		strings[i] = job->stops[i].bytes;
		bytes[i] = job->stops[i].n;
	}
	return llm_stop_create(strings, bytes, job->n_stops, &task->stops, err);
}

/* Checks what is the same for every model. */
llm_status
llm_job_check(const llm_job *job, llm_error *err)
{
	if (job->kind < LLM_JOB_GENERATE || job->kind > LLM_JOB_PREWARM)
		return llm_fail(err, LLM_E_RANGE, "unknown kind of job %d", (int) job->kind);
	if (job->n_rows > ROWS_MAX)
		return llm_fail(err, LLM_E_RANGE, "a job has at most %u rows", ROWS_MAX);
	if (job->kind == LLM_JOB_CLASSIFY && (job->n_labels < 2 || job->n_labels > LABELS_MAX) &&
	    !((job->flags & LLM_JOB_MULTI) && job->n_labels == 1))
		return llm_fail(err, LLM_E_RANGE, "classification takes 2 to %u labels, got %u", LABELS_MAX,
		                job->n_labels);
	if (job->n_stops > STOPS_MAX)
		return llm_fail(err, LLM_E_RANGE, "at most %u stop strings are allowed, got %u", STOPS_MAX,
		                job->n_stops);
	if (job->schema.bytes != NULL && job->n_allowed > 0)
		return llm_fail(err, LLM_E_RANGE,
		                "a schema and a list of allowed strings exclude each other");
	if ((job->kind == LLM_JOB_LOGLIK && job->n_rows2 != job->n_rows) ||
	    (job->kind == LLM_JOB_RELEVANCE && job->n_rows2 != job->n_rows && job->n_rows2 != 1))
		return llm_fail(err, LLM_E_RANGE, "%u rows do not go with %u", job->n_rows, job->n_rows2);
	return llm_sample_check(&job->sample, err);
}

/* Checks a job against its model. */
static llm_status
check_job(const llm_slot *slot, const llm_job *job, llm_error *err)
{
	const llm_arch *arch = &slot->model->arch;
	bool decoder_only = job->kind == LLM_JOB_GENERATE || job->kind == LLM_JOB_CLASSIFY ||
	                    job->kind == LLM_JOB_JUDGE || job->kind == LLM_JOB_LOGLIK ||
	                    job->kind == LLM_JOB_PREWARM;

	if (llm_job_check(job, err) != LLM_OK)
		return err->code;
	if (decoder_only && arch->kind != LLM_KIND_GENERATE)
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "model \"%s\" is an %s (%s): it cannot generate or classify", slot->name,
		                arch->decoder ? "embedder" : "encoder", arch->name);
	if (job->kind == LLM_JOB_EMBED && arch->kind != LLM_KIND_EMBED)
		return llm_fail(err, LLM_E_UNSUPPORTED, "model \"%s\" (%s) is not an embedding model",
		                slot->name, arch->name);
	return LLM_OK;
}

/*
 * The most sequences a job can need: one a row, or one a row and label; one more for the text
 * without content that calibrates; one for each query whose vector the rows are compared with.
 */
static uint64_t
count_sequences(const llm_job *job)
{
	uint64_t n = job->n_rows;

	if (job->kind == LLM_JOB_COUNT)
		return 0;
	if (job->kind == LLM_JOB_CLASSIFY && (job->flags & LLM_JOB_MULTI))
		n *= job->n_labels;
	return n + 1 + (job->kind == LLM_JOB_RELEVANCE ? job->n_rows2 : 0);
}

/* Allocates the arrays of a task. */
static llm_status
task_allocate(llm_engine *e, llm_task *task, llm_error *err)
{
	uint64_t n = count_sequences(&task->job);
	uint32_t n_rows = task->job.n_rows;

	if (n > (uint64_t) e->params.max_queued + 1 + task->job.n_rows2)
		return llm_fail(err, LLM_E_BUSY, "job has %llu sequences, the queue holds %u",
		                (unsigned long long) n, e->params.max_queued);
	task->arena = llm_arena_create();
	task->seqs = llm_calloc(n, sizeof(llm_seq));
	task->row_status = llm_calloc(n_rows, sizeof(llm_status));
	task->row_message = llm_calloc(n_rows, sizeof(char *));
	if (task->arena == NULL || task->seqs == NULL || task->row_status == NULL ||
	    task->row_message == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job of %u rows", n_rows);
	return LLM_OK;
}

/*
 * Allocates the results that wait for another part of the job: cosines for the query's vector,
 * multi-label rows for their other labels, calibrated ones for the prior. Other jobs hold nothing,
 * and give every row as it comes.
 */
static llm_status
task_hold(const llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	bool cosine = job->kind == LLM_JOB_RELEVANCE && slot->model->arch.kind == LLM_KIND_EMBED;
	bool multi = job->kind == LLM_JOB_CLASSIFY && (job->flags & LLM_JOB_MULTI);

	if (!cosine && !multi && task->prior == NULL)
		return LLM_OK;
	task->held = llm_calloc(job->n_rows, sizeof(*task->held));
	if (cosine)
	{
		task->query = llm_calloc((size_t) job->n_rows2 * slot->model->arch.d_model, sizeof(float));
		task->query_ready = llm_calloc(job->n_rows2, sizeof(bool));
	}
	if (task->held == NULL || (cosine && (task->query == NULL || task->query_ready == NULL)))
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job of %u rows", job->n_rows);
	for (uint32_t i = 0; i < job->n_rows; i++)
		task->held[i].n_missing = multi ? job->n_labels : 1;
	return LLM_OK;
}

/* Orders sequences by length, longest first, for the sorted baseline. */
static int
by_length(const void *a, const void *b)
{
	uint32_t x = ((const llm_seq *) a)->n_tokens;
	uint32_t y = ((const llm_seq *) b)->n_tokens;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* Gives every sequence of a group the length of the longest, by filler that is computed and
 * ignored. */
static llm_status
pad_groups(const llm_engine *e, llm_task *task, llm_error *err)
{
	uint32_t group = e->params.pad_group;

	if (e->params.pad_sorted)
		qsort(task->seqs, task->n_seqs, sizeof(llm_seq), by_length);
	for (uint32_t first = 0; first < task->n_seqs; first += group)
	{
		uint32_t end = task->n_seqs - first < group ? task->n_seqs : first + group;
		uint32_t longest = 0;

		for (uint32_t i = first; i < end; i++)
			longest = task->seqs[i].n_tokens > longest ? task->seqs[i].n_tokens : longest;
		for (uint32_t i = first; i < end; i++)
		{
			llm_seq *seq = &task->seqs[i];
			int32_t *grown = llm_realloc_array(seq->tokens, longest, sizeof(int32_t));

			if (grown == NULL)
				return llm_fail(err, LLM_E_NOMEM, "out of memory while padding");
			seq->tokens = grown;
			seq->n_pad = longest - seq->n_tokens;
			memset(seq->tokens + seq->n_tokens, 0, seq->n_pad * sizeof(int32_t));
			seq->n_tokens = longest;
		}
	}
	return LLM_OK;
}

/*
 * Sums up what the statistics say of the prompts. Padding avoided is what one rectangle as wide as
 * the longest prompt would have computed besides; before pad_groups, so that the baselines are
 * compared with the same figure.
 */
static void
count_prompts(llm_task *task)
{
	uint64_t longest = 0;

	task->stats.n_rows = task->job.n_rows;
	for (uint32_t i = 0; i < task->n_seqs; i++)
	{
		uint64_t n = task->seqs[i].n_tokens - task->seqs[i].n_pad;

		task->stats.n_prompt_tokens += n;
		longest = n > longest ? n : longest;
	}
	task->stats.n_padding_avoided = longest * task->n_seqs - task->stats.n_prompt_tokens;
}

/* Runs the steps of building a task in order; the caller frees it on failure. */
static llm_status
task_build(llm_engine *e, llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	bool generates = slot->model->arch.kind == LLM_KIND_GENERATE;
	llm_status status = task_allocate(e, task, err);

	if (status == LLM_OK && generates &&
	    (job->kind == LLM_JOB_CLASSIFY || job->kind == LLM_JOB_JUDGE ||
	     job->kind == LLM_JOB_RELEVANCE))
		status = make_labels(slot, task, err);
	if (status == LLM_OK && job->kind == LLM_JOB_GENERATE)
		status = make_grammar(task, err);
	if (status == LLM_OK && job->kind == LLM_JOB_GENERATE)
		status = make_stops(task, err);
	if (status == LLM_OK)
		status = task_hold(slot, task, err);
	if (status == LLM_OK)
		status = llm_task_add_rows(slot, task, err);
	if (status != LLM_OK)
		return status;
	count_prompts(task);
	if (e->params.pad_group > 0)
		return pad_groups(e, task, err);
	return LLM_OK;
}

/* Drops the caller's pointers from the copy of its job: nothing of them is needed any more. */
static void
forget_texts(llm_job *job)
{
	job->model = NULL;
	job->system = job->instruction = job->schema = (llm_text){0};
	job->labels = job->descriptions = job->rows = job->rows2 = job->stops = job->allowed = NULL;
}

/* Builds a task from a job; on failure nothing is left behind. */
llm_status
llm_task_create(llm_engine *e, const llm_job *job, llm_slot *slot, llm_task **out, llm_error *err)
{
	llm_error ignored;
	llm_task *task;
	llm_status status;

	if (err == NULL)
		err = &ignored;
	if ((status = check_job(slot, job, err)) != LLM_OK)
		return status;
	if ((task = llm_calloc(1, sizeof(*task))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a job");
	task->job = *job;
	if (task->job.max_tokens == 0)
		task->job.max_tokens = MAX_TOKENS_DEFAULT;
	task->slot = slot;
	status = task_build(e, slot, task, err);
	if (status != LLM_OK)
	{
		llm_task_free(task);
		return status;
	}
	forget_texts(&task->job);
	task->n_open = task->n_seqs;
	task->n_rows_open = job->kind == LLM_JOB_PREWARM ? 0 : job->n_rows;
	*out = task;
	return LLM_OK;
}

/* Gives a row's result to the job's owner. */
void
llm_task_row_done(llm_task *task, const llm_row_result *result)
{
	if (task->cancelled || task->n_rows_open == 0)
		return;
	task->n_rows_open--;
	if (result->status != LLM_OK)
		task->stats.n_errors++;
	if (task->job.on_row != NULL)
		task->job.on_row(task->job.user, result);
}

/*
 * Gives a row's error, once: the sequences of a row that is held may all fail. message NULL: none.
 * It need live no longer than the call.
 */
void
llm_task_row_failed(llm_task *task, uint32_t row, llm_status status, const char *message)
{
	llm_row_result result = {.row = row,
	                         .status = status,
	                         .message = message != NULL ? message : ""};

	if (task->held != NULL)
	{
		if (task->held[row].failed)
			return;
		task->held[row].failed = true;
	}
	llm_task_row_done(task, &result);
}

/*
 * Ends a sequence: it takes part in no later pass, and its place in the queue is free. A cancelled
 * task has given all places back already (n_open is 0).
 */
void
llm_seq_ended(llm_engine *e, llm_seq *seq)
{
	if (seq->task->n_open == 0)
		return;
	seq->sched_id = 0;
	seq->task->n_open--;
	llm_generation_free(seq->gen);
	seq->gen = NULL;
	pthread_mutex_lock(&e->inbox_mutex);
	e->n_queued--;
	pthread_mutex_unlock(&e->inbox_mutex);
}

/*
 * Describes a sequence to the scheduler. What must not be cut: the last token of a prompt with the
 * trie or filler behind it, as one pass must hold the prompt's end and its tail; the whole text of
 * an encoder, whose tokens see each other both ways. What is shared: the job's common prefix; all
 * of a prompt that is to be kept; nothing for encoders and the baselines. max_new is what the
 * context leaves, so that no sequence asks for more pages than it can use.
 */
static llm_sched_request
sched_request(const llm_engine *e, const llm_task *task, llm_seq *seq)
{
	bool decoder = task->slot->model->arch.decoder;
	uint32_t room = task->slot->n_ctx > seq->n_tokens ? task->slot->n_ctx - seq->n_tokens : 0;
	llm_sched_request r = {
	    .class_ = task->job.class_,
	    .caller = task->job.caller,
	    .job = task->id,
	    .salt = task->job.salt,
	    .tokens = seq->tokens,
	    .n_tokens = seq->n_tokens,
	    .n_shared = seq->n_shared,
	    .user = seq,
	};

	if (seq->n_nodes + seq->n_pad > 0)
		r.n_atomic = 1 + seq->n_nodes + seq->n_pad;
	if (!decoder)
		r.n_atomic = seq->n_tokens;
	if (task->job.flags & LLM_JOB_KEEP)
		r.n_shared = seq->n_prompt;
	if (seq->kind == LLM_SEQ_PREFIX)
		r.n_shared = seq->n_tokens;
	if (!decoder || e->params.no_prefix_sharing || e->params.pad_group > 0)
		r.n_shared = 0;
	if (seq->kind == LLM_SEQ_GENERATE)
		r.max_new = task->job.max_tokens < room ? task->job.max_tokens : room;
	return r;
}

/* Hands over one sequence that could not go with all; it fails alone. */
static void
submit_alone(llm_engine *e, llm_task *task, llm_seq *seq, const llm_sched_request *r)
{
	llm_error why;

	if (llm_sched_submit(seq->slot->sched, r, 1, &seq->sched_id, &why) == LLM_OK)
		return;
	if (seq->row != LLM_ROW_HIDDEN)
		llm_task_row_failed(task, seq->row, why.code, why.message);
	else
		llm_task_cancel(e, task, why.code, why.message);
	if (!task->cancelled)
		llm_seq_ended(e, seq);
}

/* Sequences that a copy has in hand. */
static uint32_t
load_of(const llm_slot *copy)
{
	llm_sched_stats stats;

	llm_sched_get_stats(copy->sched, &stats);
	return stats.n_waiting + stats.n_running;
}

/*
 * Gives each sequence its copy: runs of neighbours, which share most, of about as many tokens each.
 * A job of less than a pass's tokens stays together, for each copy more would compute what its
 * rows have in common once more. The copy that has least to do comes first.
 */
static void
choose_copies(llm_task *task)
{
	llm_slot *copies[LLM_COPIES_MAX];
	uint64_t n_tokens = 0, seen = 0, n_used;
	uint32_t n_copies = 0, first = 0;

	for (llm_slot *copy = task->slot; copy != NULL; copy = copy->next_copy)
		copies[n_copies++] = copy;
	for (uint32_t i = 1; i < n_copies; i++)
		first = load_of(copies[i]) < load_of(copies[first]) ? i : first;
	for (uint32_t i = 0; i < task->n_seqs; i++)
		n_tokens += task->seqs[i].n_tokens;
	n_used = n_tokens / (task->slot->budget_tokens + 1) + 1;
	n_used = n_used < n_copies ? n_used : n_copies;
	for (uint32_t i = 0; i < task->n_seqs; i++)
	{
		task->seqs[i].slot = copies[(first + seen * n_used / (n_tokens + 1)) % n_copies];
		seen += task->seqs[i].n_tokens;
	}
}

/*
 * Hands n sequences of one copy over at once, so that its scheduler sees them all and groups them
 * by prefix. Where one of them cannot go, or memory is short, each is tried by itself: only those
 * that are at fault fail.
 */
static void
submit_run(llm_engine *e, llm_task *task, llm_seq *seqs, uint32_t n)
{
	llm_sched_request *reqs = llm_malloc_array(n, sizeof(*reqs));
	uint64_t *ids = llm_malloc_array(n, sizeof(*ids));
	bool together = false;

	for (uint32_t i = 0; reqs != NULL && i < n; i++)
		reqs[i] = sched_request(e, task, &seqs[i]);
	if (reqs != NULL && ids != NULL)
		together = llm_sched_submit(seqs->slot->sched, reqs, n, ids, NULL) == LLM_OK;
	for (uint32_t i = 0; i < n && !task->cancelled; i++)
	{
		llm_sched_request one = sched_request(e, task, &seqs[i]);

		if (together)
			seqs[i].sched_id = ids[i];
		else
			submit_alone(e, task, &seqs[i], &one);
	}
	llm_free(reqs);
	llm_free(ids);
}

/*
 * Hands all sequences over, each to its copy. The scheduler has copied their tokens then: kinds
 * that do not read them again give them back.
 */
static void
submit_all(llm_engine *e, llm_task *task)
{
	choose_copies(task);
	for (uint32_t i = 0, j; i < task->n_seqs && !task->cancelled; i = j)
	{
		for (j = i + 1; j < task->n_seqs && task->seqs[j].slot == task->seqs[i].slot; j++)
			;
		submit_run(e, task, &task->seqs[i], j - i);
	}
	for (uint32_t i = 0; i < task->n_seqs; i++)
	{
		if (task->seqs[i].kind != LLM_SEQ_LABELS && task->seqs[i].kind != LLM_SEQ_ENCODE)
			continue;
		llm_free(task->seqs[i].tokens);
		task->seqs[i].tokens = NULL;
	}
}

/* Gives the rows that need no pass, and hands the others to the scheduler. */
void
llm_task_start(llm_engine *e, llm_task *task)
{
	for (uint32_t i = 0; i < task->job.n_rows && task->job.kind != LLM_JOB_PREWARM; i++)
	{
		llm_row_result count = {.row = i,
		                        .n_tokens = task->row_count != NULL ? task->row_count[i] : 0};

		if (task->row_status[i] != LLM_OK)
			llm_task_row_failed(task, i, task->row_status[i], task->row_message[i]);
		else if (task->row_count != NULL)
			llm_task_row_done(task, &count);
	}
	if (task->n_seqs > 0)
		submit_all(e, task);
}

/*
 * Takes a task's sequences off the scheduler; the task ends with status when it is reaped. The
 * first reason stays. Those in a pass are computed to its end and their results dropped.
 */
void
llm_task_cancel(llm_engine *e, llm_task *task, llm_status status, const char *message)
{
	if (task->cancelled)
		return;
	task->cancelled = true;
	task->end_status = status;
	snprintf(task->end_message, sizeof(task->end_message), "%s", message);
	for (uint32_t i = 0; i < task->n_seqs; i++)
	{
		if (task->seqs[i].sched_id != 0)
			llm_sched_cancel(task->seqs[i].slot->sched, task->seqs[i].sched_id);
		task->seqs[i].sched_id = 0;
	}
	pthread_mutex_lock(&e->inbox_mutex);
	e->n_queued -= task->n_open;
	pthread_mutex_unlock(&e->inbox_mutex);
	task->n_open = 0;
}

/* Tells the owner that the job is over, and frees it. */
void
llm_task_reap(llm_engine *e, llm_task *task)
{
	llm_status status = task->cancelled ? task->end_status : LLM_OK;

	pthread_mutex_lock(&e->inbox_mutex);
	e->stats.n_shared_tokens += task->stats.n_shared_tokens;
	pthread_mutex_unlock(&e->inbox_mutex);
	if (task->job.on_done != NULL)
		task->job.on_done(task->job.user, status, task->cancelled ? task->end_message : "",
		                  &task->stats);
	llm_task_free(task);
}
