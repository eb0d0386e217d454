/*
 * llm_engine_score.c: results of sequences that generate nothing: label scores, log-likelihoods,
 * vectors.
 *
 * Some rows must wait for another part of their job: a calibrated row for the label priors, a
 * cosine for its query's vector, a row of multi for all its labels. They are held in the task
 * (llm_held_row) and given when complete.
 */
#include "llm_engine_impl.h"
#include "llm_cosine.h"

#include <math.h>
#include <string.h>

#include "llm_alloc.h"

#define LOGLIK_ROWS 64u /* rows of a completion scored at a time */

/* Starts a row's result with what every kind reports. */
static llm_row_result
row_result(const llm_seq *seq, const float *values, uint32_t n_values)
{
	return (llm_row_result){.row = seq->row,
	                        .values = values,
	                        .n_values = n_values,
	                        .n_tokens = seq->n_prompt,
	                        .n_shared = seq->n_cached};
}

/* Ends a sequence whose result has been taken. */
static void
finish(llm_engine *e, llm_slot *slot, llm_seq *seq)
{
	if (seq->sched_id != 0)
		llm_sched_finish(slot->sched, seq->sched_id);
	llm_seq_ended(e, seq);
}

/* Gives every row that waited for the priors. */
static void
release_calibrated(llm_task *task, float *prob)
{
	uint32_t n = task->labels->n_labels;

	for (uint32_t i = 0; i < task->job.n_rows; i++)
	{
		llm_held_row *held = &task->held[i];
		llm_row_result result = {.row = i,
		                         .values = prob,
		                         .n_values = task->job.kind == LLM_JOB_CLASSIFY ? n : 1,
		                         .n_tokens = held->n_tokens,
		                         .n_shared = held->n_shared};

		if (!held->ready)
			continue;
		llm_label_probs(held->logprob, task->prior, n, prob);
		held->ready = false;
		llm_task_row_done(task, &result);
	}
}

/* Keeps a row's log-probabilities until the priors are known. */
static llm_status
hold_row(llm_seq *seq, const double *logprob, uint32_t n, llm_error *err)
{
	llm_held_row *held = &seq->task->held[seq->row];

	if ((held->logprob = llm_malloc_array(n, sizeof(double))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while scoring labels");
	memcpy(held->logprob, logprob, n * sizeof(double));
	held->n_tokens = seq->n_prompt;
	held->n_shared = seq->n_cached;
	held->ready = true;
	return LLM_OK;
}

/* Stores the yes-probability of one label of a multi row; gives the row when all labels are there.
 */
static llm_status
add_multi_part(llm_seq *seq, float yes, llm_error *err)
{
	llm_task *task = seq->task;
	llm_held_row *held = &task->held[seq->row];
	uint32_t n = task->job.n_labels;
	llm_row_result result;

	if (held->failed)
		return LLM_OK;
	if (held->vector == NULL && (held->vector = llm_calloc(n, sizeof(float))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while scoring labels");
	held->vector[seq->part] = yes;
	held->n_shared += seq->n_cached;
	if (--held->n_missing > 0)
		return LLM_OK;
	result = row_result(seq, held->vector, n);
	result.n_shared = held->n_shared;
	llm_task_row_done(task, &result);
	return LLM_OK;
}

/* Turns one sequence's label scores into what its job asked for. */
static llm_status
give_label_row(llm_seq *seq, const double *logprob, float *prob, llm_error *err)
{
	llm_task *task = seq->task;
	uint32_t n = task->labels->n_labels;
	llm_row_result result = row_result(seq, prob, n);
	float value;

	if (seq->row == LLM_ROW_HIDDEN)
	{
		memcpy(task->prior, logprob, n * sizeof(double));
		task->prior_ready = true;
		release_calibrated(task, prob);
		return LLM_OK;
	}
	if (task->job.kind == LLM_JOB_CLASSIFY && (task->job.flags & LLM_JOB_MULTI))
		return add_multi_part(seq, prob[0], err);
	if (task->prior != NULL && !task->prior_ready)
		return hold_row(seq, logprob, n, err);
	if (task->prior != NULL)
		llm_label_probs(logprob, task->prior, n, prob);
	if (task->job.kind != LLM_JOB_CLASSIFY)
	{
		value = task->job.kind == LLM_JOB_JUDGE ? prob[0] : (float) (logprob[0] - logprob[1]);
		result.values = &value;
		result.n_values = 1;
	}
	llm_task_row_done(task, &result);
	return LLM_OK;
}

/* Scores the labels of pieces of one task: one product of all their rows with the label columns. */
llm_status
llm_score_labels(llm_engine *e, llm_slot *slot, const llm_outcome *outs, uint32_t n, llm_error *err)
{
	const llm_label_set *set = outs[0].seq->task->labels;
	llm_pass *pass = &slot->pass;
	uint32_t n_rows = 0;
	uint32_t at = 0;
	double *logprob = llm_malloc_array(set->n_labels, sizeof(double));
	float *prob = llm_malloc_array(set->n_labels, sizeof(float));
	llm_status status = LLM_OK;

	for (uint32_t i = 0; i < n; i++)
		for (uint32_t r = 0; r < outs[i].n_rows; r++)
			pass->row_index[n_rows++] = outs[i].first_row + r;
	if (logprob == NULL || prob == NULL)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory while scoring labels");
	if (status == LLM_OK)
		status = llm_pass_reserve(pass, (size_t) n_rows * set->n_cols, n_rows, err);
	if (status == LLM_OK && n_rows > 0)
		status = llm_forward_columns(slot->ws, pass->row_index, n_rows, set->cols, set->n_cols,
		                             pass->logits, set->needs_lse ? pass->lse : NULL, err);
	for (uint32_t i = 0; status == LLM_OK && i < n; i++)
	{
		if (!outs[i].completes)
			continue;
		llm_label_scores(set, pass->logits + (size_t) at * set->n_cols,
		                 set->needs_lse ? pass->lse + at : NULL, NULL, logprob, prob);
		at += outs[i].n_rows;
		status = give_label_row(outs[i].seq, logprob, prob, err);
		finish(e, slot, outs[i].seq);
	}
	llm_free(logprob);
	llm_free(prob);
	return status;
}

/* Adds ln p of up to LOGLIK_ROWS completion tokens to the sequence's sum. */
static llm_status
loglik_rows(llm_slot *slot, const llm_outcome *out, uint32_t first, uint32_t n, llm_error *err)
{
	llm_pass *pass = &slot->pass;
	llm_seq *seq = out->seq;
	uint32_t cols[LOGLIK_ROWS];
	uint32_t lo = seq->n_tokens - seq->n_scored - 1;
	uint32_t begin =
	    (lo > out->start ? lo : out->start) + first; /* sequence index of the first row */
	llm_status status = llm_pass_reserve(pass, (size_t) n * n, n, err);

	for (uint32_t r = 0; r < n; r++)
	{
		pass->row_index[r] = out->first_row + first + r;
		cols[r] = (uint32_t) seq->tokens[begin + r + 1];
	}
	if (status == LLM_OK)
		status = llm_forward_columns(slot->ws, pass->row_index, n, cols, n, pass->logits, pass->lse,
		                             err);
	for (uint32_t r = 0; status == LLM_OK && r < n; r++)
		seq->logprob += (double) pass->logits[(size_t) r * n + r] - (double) pass->lse[r];
	return status;
}

/* Scores the part of a completion that a piece computed. */
llm_status
llm_score_loglik(llm_engine *e, llm_slot *slot, const llm_outcome *out, llm_error *err)
{
	llm_seq *seq = out->seq;
	llm_row_result result;

	for (uint32_t r = 0; r < out->n_rows; r += LOGLIK_ROWS)
	{
		uint32_t n = out->n_rows - r < LOGLIK_ROWS ? out->n_rows - r : LOGLIK_ROWS;

		if (loglik_rows(slot, out, r, n, err) != LLM_OK)
			return err->code;
	}
	if (!out->completes)
		return LLM_OK;
	result = row_result(seq, NULL, 0);
	result.logprob = seq->logprob;
	llm_task_row_done(seq->task, &result);
	finish(e, slot, seq);
	return LLM_OK;
}

/* Gives the relevance of one document whose query vector is there. */
static void
give_cosine(llm_task *task, uint32_t row, const float *vector, uint32_t n_tokens)
{
	uint32_t d = task->slot->model->arch.d_model;
	uint32_t i_query = task->job.n_rows2 > 1 ? row : 0;
	float value = llm_cosine(vector, task->query + (size_t) i_query * d, d);
	llm_row_result result = {.row = row, .values = &value, .n_values = 1, .n_tokens = n_tokens};

	llm_task_row_done(task, &result);
}

/* Takes a query's vector, and gives the documents that waited for it. */
static void
take_query(llm_task *task, uint32_t i_query, const float *vector)
{
	uint32_t d = task->slot->model->arch.d_model;

	memcpy(task->query + (size_t) i_query * d, vector, d * sizeof(float));
	task->query_ready[i_query] = true;
	for (uint32_t i = 0; i < task->job.n_rows; i++)
		if (task->held[i].ready && (task->job.n_rows2 == 1 || i == i_query))
		{
			task->held[i].ready = false;
			give_cosine(task, i, task->held[i].vector, task->held[i].n_tokens);
		}
}

/* Handles an encoder's output for a relevance by cosine. */
static llm_status
relevance_vector(llm_seq *seq, const float *vector, llm_error *err)
{
	llm_task *task = seq->task;
	llm_held_row *held;
	uint32_t d = task->slot->model->arch.d_model;

	if (seq->part == 1)
	{
		take_query(task, seq->row, vector);
		return LLM_OK;
	}
	if (task->query_ready[task->job.n_rows2 > 1 ? seq->row : 0])
	{
		give_cosine(task, seq->row, vector, seq->n_prompt);
		return LLM_OK;
	}
	held = &task->held[seq->row];
	if ((held->vector = llm_malloc_array(d, sizeof(float))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while ranking");
	memcpy(held->vector, vector, d * sizeof(float));
	held->n_tokens = seq->n_prompt;
	held->ready = true;
	return LLM_OK;
}

/* Gives what an encoder computed for one sequence: a vector, a cosine or a cross-encoder's score.
 */
llm_status
llm_score_encoded(llm_engine *e, llm_slot *slot, const llm_outcome *out, const float *values,
                  llm_error *err)
{
	const llm_arch *arch = &slot->model->arch;
	llm_seq *seq = out->seq;
	llm_row_result result = row_result(seq, values, arch->d_model);
	llm_status status = LLM_OK;
	float score;

	if (arch->kind == LLM_KIND_RERANK)
	{
		/* One class: its logit. Several: the log-odds of the last against the first, as in
		 * NLI-style rerankers. */
		score = arch->n_classes == 1 ? values[0] : values[arch->n_classes - 1] - values[0];
		if (arch->score_sigmoid)
			score = 1.0f / (1.0f + expf(-score));
		result.values = &score;
		result.n_values = 1;
		llm_task_row_done(seq->task, &result);
	}
	else if (seq->task->job.kind == LLM_JOB_RELEVANCE)
		status = relevance_vector(seq, values, err);
	else
		llm_task_row_done(seq->task, &result);
	finish(e, slot, seq);
	return status;
}

/* A prewarmed prefix is computed: the scheduler keeps it when the pass is done; it is pinned then.
 */
llm_status
llm_prefix_computed(llm_engine *e, llm_slot *slot, const llm_outcome *out, llm_error *err)
{
	llm_seq *seq = out->seq;
	llm_pin *pin = llm_malloc(sizeof(*pin) + seq->n_tokens * sizeof(int32_t));

	if (pin == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while pinning a prefix");
	memcpy(pin->tokens, seq->tokens, seq->n_tokens * sizeof(int32_t));
	pin->n_tokens = seq->n_tokens;
	pin->salt = seq->task->job.salt;
	pin->next = slot->pins;
	slot->pins = pin;
	finish(e, slot, seq);
	return LLM_OK;
}

/* Pins what llm_prefix_computed left, now that it is in the tree. */
void
llm_pin_computed(llm_slot *slot)
{
	while (slot->pins != NULL)
	{
		llm_pin *pin = slot->pins;

		slot->pins = pin->next;
		llm_kv_pin(slot->kv, &pin->salt, pin->tokens, pin->n_tokens, true, NULL);
		llm_free(pin);
	}
}
