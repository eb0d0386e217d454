/*
 * llm_engine_pass.c: one forward pass of a slot.
 *
 * The scheduler names pieces of sequences; they are laid end to end into one ragged batch. A piece
 * becomes up to three segments: its chain of tokens, behind it the label trie (a tree segment whose
 * history is the chain, written in the same pass), and the filler of the padded baseline. After the
 * pass each piece's outcome goes to the file of its kind.
 *
 * The pass's arrays belong to the slot and have room for the largest pass from the start (see
 * llm_engine_model.c); only the two buffers of results grow. All of it runs on the engine's thread.
 * A pass that fails ends the jobs in it and nothing else, unless the device itself is lost.
 */
#include "llm_engine_impl.h"

#include <stdio.h>
#include <string.h>

#include "llm_alloc.h"

#define LOGITS_ROWS 32u  /* rows of whole-vocabulary logits fetched at a time */
#define TOP_ROWS    256u /* rows of highest logits fetched at a time */

/*
 * Grows the two result buffers: n_logits floats of whatever is fetched (logits, columns, vectors),
 * n_lse normalisers. What they held is kept no longer than until the next fetch.
 */
llm_status
llm_pass_reserve(llm_pass *pass, size_t n_logits, size_t n_lse, llm_error *err)
{
	if (n_logits > pass->n_logits)
	{
		float *grown = llm_realloc_array(pass->logits, n_logits, sizeof(float));

		if (grown == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for %zu logits", n_logits);
		pass->logits = grown;
		pass->n_logits = n_logits;
	}
	if (n_lse > pass->n_lse)
	{
		float *grown = llm_realloc_array(pass->lse, n_lse, sizeof(float));

		if (grown == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for %zu normalisers", n_lse);
		pass->lse = grown;
		pass->n_lse = n_lse;
	}
	return LLM_OK;
}

/*
 * Appends one segment over n sequence tokens (none: no segment). n_past slots of pages hold what
 * comes before. Positions are those in the sequence, whatever else is in the batch: they count up
 * from pos0, or in a tree by depth, whose roots have depth 1. parent, pages and work's tokens are
 * pointed to, not copied: they outlive the pass. types NULL: all 0.
 */
static void
add_segment(llm_pass *pass, const int32_t *tokens, const uint32_t *types, uint32_t n,
            uint32_t n_past, uint32_t pos0, const uint32_t *pages, const int32_t *parent,
            const uint32_t *depth)
{
	if (n == 0)
		return;
	pass->segs[pass->n_segs++] = (pp_segment){.first_token = pass->n_tokens,
	                                          .n_new = n,
	                                          .n_past = n_past,
	                                          .pages = pages,
	                                          .parent = parent};
	for (uint32_t i = 0; i < n; i++)
	{
		pass->tokens[pass->n_tokens + i] = tokens[i];
		pass->pos[pass->n_tokens + i] = pos0 + (depth != NULL ? depth[i] - 1 : i);
		pass->types[pass->n_tokens + i] = types != NULL ? types[i] : 0;
	}
	pass->n_tokens += n;
}

/* Asks for the rows of n tokens from flat index first on; they ascend, as the forward wants. */
static void
want_rows(llm_pass *pass, uint32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		pass->rows[pass->n_rows++] = first + i;
}

/*
 * Asks for the rows that a piece's kind reads; the head computes no other. flat is the flat index
 * of the piece's first token.
 *	- a generation: its last known token and every draft, to verify them all
 *	- labels: the prompt's last token, then every node of the trie, in the trie's order
 *	- a log-likelihood: of every scored token the one before it, as far as it is in this piece
 *	- a decoder's embedding: the prompt's last token
 */
static void
want_outputs(llm_pass *pass, const llm_seq *seq, const llm_work *work, uint32_t flat)
{
	uint32_t end = work->start + work->n_tokens;

	switch (seq->kind)
	{
		case LLM_SEQ_GENERATE:
			if (work->completes)
				want_rows(pass, flat + work->n_tokens - 1 - work->n_draft, 1 + work->n_draft);
			break;
		case LLM_SEQ_LABELS:
			if (work->completes)
				want_rows(pass, flat + seq->n_prompt - 1 - work->start, 1 + seq->n_nodes);
			break;
		case LLM_SEQ_LOGLIK:
		{
			uint32_t lo = seq->n_tokens - seq->n_scored - 1;
			uint32_t hi = seq->n_tokens - 1;

			lo = lo > work->start ? lo : work->start;
			hi = hi < end ? hi : end;
			if (lo < hi)
				want_rows(pass, flat + lo - work->start, hi - lo);
			break;
		}
		case LLM_SEQ_ENCODE:
			if (work->completes && seq->task->slot->model->arch.decoder)
				want_rows(pass, flat + seq->n_prompt - 1 - work->start, 1);
			break;
		default:
			break;
	}
}

/*
 * Lays one piece into the batch. The tail (trie, filler) is atomic for the scheduler, so it comes
 * whole, with the piece that ends the sequence. The trie's history is the prompt, part of which may
 * be written in this very pass: ops write K and V of all tokens before attention reads any. The
 * filler of the padded baseline counts from position 0 and is read by nobody.
 */
static void
add_piece(llm_slot *slot, const llm_work *work, llm_outcome *out)
{
	llm_pass *pass = &slot->pass;
	llm_seq *seq = work->user;
	bool decoder = slot->model->arch.decoder;
	uint32_t flat = pass->n_tokens;
	uint32_t n_tail = seq->kind == LLM_SEQ_GENERATE ? 0 : seq->n_nodes + seq->n_pad;
	uint32_t end = work->start + work->n_tokens;
	bool has_tail = n_tail > 0 && end == seq->n_tokens;
	uint32_t n_chain = work->n_tokens - (has_tail ? n_tail : 0);
	const int32_t *tokens = work->tokens;

	*out = (llm_outcome){.seq = seq,
	                     .first_row = pass->n_rows,
	                     .start = work->start,
	                     .n_draft = work->n_draft,
	                     .tokens = tokens,
	                     .n_tokens = work->n_tokens,
	                     .i_seg = pass->n_segs,
	                     .completes = work->completes};
	add_segment(pass, tokens, seq->types, n_chain, work->start, work->start, work->pages, NULL,
	            NULL);
	if (has_tail)
	{
		add_segment(pass, tokens + n_chain, NULL, seq->n_nodes, seq->n_prompt, seq->n_prompt,
		            work->pages, seq->n_nodes > 0 ? seq->task->labels->parent : NULL,
		            seq->n_nodes > 0 ? seq->task->labels->depth : NULL);
		add_segment(pass, tokens + n_chain + seq->n_nodes, NULL, seq->n_pad,
		            decoder ? seq->n_prompt + seq->n_nodes : 0, 0, work->pages, NULL, NULL);
	}
	want_outputs(pass, seq, work, flat);
	out->n_rows = pass->n_rows - out->first_row;
}

/*
 * Notes when a sequence runs for the first time, and how much of it was shared: where its first
 * piece starts. A sequence that was put back and starts anew is not counted again.
 */
static void
note_start(llm_seq *seq, const llm_work *work, double now_ms)
{
	llm_task *task = seq->task;

	if (seq->started)
		return;
	seq->started = true;
	seq->n_cached = work->start;
	task->stats.n_shared_tokens += work->start;
	if (!task->started)
		task->stats.queue_ms = now_ms - task->submitted_ms;
	task->started = true;
}

/*
 * Carries out the copies and clears that the page bookkeeping asks for, in its order and before the
 * pass: a page may be cleared of another role's data only to be copied to. Encoders have no pages.
 */
static llm_status
run_fixups(llm_slot *slot, const llm_kv_fixup *fixups, uint32_t n, llm_error *err)
{
	const pp_ops *ops = slot->be->ops;

	if (!slot->model->arch.decoder)
		return LLM_OK;
	for (uint32_t i = 0; i < n; i++)
	{
		pp_result r =
		    fixups[i].kind == LLM_KV_COPY
		        ? ops->kv_copy(slot->be, fixups[i].dst_page, fixups[i].src_page, fixups[i].n_slots)
		        : ops->kv_clear(slot->be, fixups[i].dst_page);

		if (r != PP_OK)
			return llm_fail(err, r == PP_E_DEVICE ? LLM_E_DEVICE : LLM_E_NOMEM, "%s",
			                slot->be->message);
	}
	return LLM_OK;
}

/*
 * Gives outcomes of one task their next tokens from the k highest logits of their n_rows rows,
 * which follow each other from outs[0].first_row on. 256 rows of 64 are 130 kB where whole rows
 * would be tens of MB.
 */
static llm_status
run_tops(llm_engine *e, llm_slot *slot, const llm_outcome *outs, uint32_t n, uint32_t n_rows,
         uint32_t k, float scale, llm_error *err)
{
	pp_top *top = llm_malloc_array((size_t) n_rows + 1, sizeof(*top)); /* a piece may want none */
	llm_status status = top != NULL ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "out of memory");

	if (status == LLM_OK)
		status = llm_forward_top(slot->ws, outs[0].first_row, n_rows, k, scale, top, err);
	for (uint32_t i = 0; status == LLM_OK && i < n; i++)
		status = llm_generate_next(e, slot, &outs[i], NULL,
		                           top + (outs[i].first_row - outs[0].first_row), err);
	llm_free(top);
	return status;
}

/*
 * Gives outcomes of one task their next tokens, a few rows of logits at a time. Tasks differ in
 * what they sample by, so a run never mixes them; an outcome's rows are never cut, even when it has
 * more than the limit.
 */
static llm_status
run_generations(llm_engine *e, llm_slot *slot, const llm_outcome *outs, uint32_t n, llm_error *err)
{
	const llm_task *task = outs[0].seq->task;
	size_t n_vocab = slot->model->arch.n_vocab;
	float scale = 0;
	/* a grammar's mask is not known to the device, and changes with the token before */
	uint32_t k = task->grammar == NULL ? llm_sample_wants(&task->job.sample, &scale) : 0;
	uint32_t limit = k > 0 ? TOP_ROWS : LOGITS_ROWS;
	uint32_t i = 0;

	while (i < n)
	{
		uint32_t j = i;
		uint32_t n_rows = 0;

		while (j < n && (n_rows == 0 || n_rows + outs[j].n_rows <= limit))
			n_rows += outs[j++].n_rows;
		if (k > 0)
		{
			if (run_tops(e, slot, outs + i, j - i, n_rows, k, scale, err) != LLM_OK)
				return err->code;
			i = j;
			continue;
		}
		if (llm_pass_reserve(&slot->pass, n_rows * n_vocab, 0, err) != LLM_OK ||
		    llm_forward_logits(slot->ws, outs[i].first_row, n_rows, slot->pass.logits, err) !=
		        LLM_OK)
			return err->code;
		for (uint32_t o = i; o < j; o++)
			if (llm_generate_next(e, slot, &outs[o],
			                      slot->pass.logits +
			                          (outs[o].first_row - outs[i].first_row) * n_vocab,
			                      NULL, err) != LLM_OK)
				return err->code;
		i = j;
	}
	return LLM_OK;
}

/* Gives a decoder's vector: the state of the sequence's last token. */
static llm_status
give_state(llm_engine *e, llm_slot *slot, const llm_outcome *out, llm_error *err)
{
	llm_status status = llm_pass_reserve(&slot->pass, slot->model->arch.d_model, 0, err);

	if (status == LLM_OK)
		status = llm_forward_states(slot->ws, &out->first_row, 1, slot->pass.logits, err);
	return status == LLM_OK ? llm_score_encoded(e, slot, out, slot->pass.logits, err) : status;
}

/*
 * Sends runs of like outcomes to the file of their kind: one task's labels share their columns, so
 * they are fetched together. The first failure ends the pass.
 */
static llm_status
give_results(llm_engine *e, llm_slot *slot, const llm_outcome *outs, uint32_t n, llm_error *err)
{
	llm_status status = LLM_OK;

	for (uint32_t i = 0, j; status == LLM_OK && i < n; i = j)
	{
		const llm_seq *seq = outs[i].seq;

		j = i + 1;
		if (seq->task->cancelled) /* another copy of the model failed meanwhile */
			continue;
		for (; j < n && outs[j].seq->kind == seq->kind && outs[j].seq->task == seq->task; j++)
			;
		if (seq->kind == LLM_SEQ_LABELS)
			status = llm_score_labels(e, slot, outs + i, j - i, err);
		else if (seq->kind == LLM_SEQ_GENERATE)
			status = run_generations(e, slot, outs + i, j - i, err);
		for (uint32_t k = i; status == LLM_OK && k < j; k++)
			if (seq->kind == LLM_SEQ_LOGLIK)
				status = llm_score_loglik(e, slot, &outs[k], err);
			else if (seq->kind == LLM_SEQ_ENCODE && outs[k].completes)
				status = give_state(e, slot, &outs[k], err);
			else if (seq->kind == LLM_SEQ_PREFIX && outs[k].completes)
				status = llm_prefix_computed(e, slot, &outs[k], err);
	}
	return status;
}

/*
 * Runs an encoder pass; every piece is a whole sequence, segment i_seg of the batch. width: floats
 * of a result, d_model of a vector or the classes of a reranker.
 */
static llm_status
run_encoder(llm_engine *e, llm_slot *slot, const llm_batch *batch, const llm_outcome *outs,
            uint32_t n, llm_error *err)
{
	const llm_arch *arch = &slot->model->arch;
	size_t width = arch->kind == LLM_KIND_RERANK ? arch->n_classes : arch->d_model;
	llm_status status = llm_pass_reserve(&slot->pass, batch->n_segs * width, 0, err);

	if (status == LLM_OK)
		status = llm_forward_encode(slot->ws, batch, slot->pass.logits, err);
	for (uint32_t i = 0; status == LLM_OK && i < n; i++)
		if (!outs[i].seq->task->cancelled)
			status = llm_score_encoded(e, slot, &outs[i], slot->pass.logits + outs[i].i_seg * width,
			                           err);
	return status;
}

/*
 * Splits the time of a pass (ms) over the tasks by their tokens. A piece that starts behind its
 * prompt decodes; all others are prefill, the last of it included, which gives the first token.
 */
static void
share_time(const llm_outcome *outs, uint32_t n, uint32_t n_tokens, double ms)
{
	for (uint32_t i = 0; i < n; i++)
	{
		const llm_seq *seq = outs[i].seq;
		double part = ms * outs[i].n_tokens / n_tokens;

		if (seq->kind == LLM_SEQ_GENERATE && outs[i].start >= seq->n_prompt)
			seq->task->stats.decode_ms += part;
		else
			seq->task->stats.prefill_ms += part;
	}
}

/*
 * After a failed pass: the tasks in it fail, and with a lost device all tasks of the slot. A
 * device's error is sticky (see kernels.h): the state tells the server to end the process, and its
 * supervisor starts another.
 */
static void
fail_pass(llm_engine *e, const llm_slot *slot, const llm_outcome *outs, uint32_t n,
          const llm_error *why)
{
	pthread_mutex_lock(&e->inbox_mutex);
	snprintf(e->stats.last_error, sizeof(e->stats.last_error), "%s", why->message);
	if (why->code == LLM_E_DEVICE)
		e->stats.state = LLM_E_DEVICE;
	pthread_mutex_unlock(&e->inbox_mutex);
	for (uint32_t i = 0; i < n; i++)
		llm_task_cancel(e, outs[i].seq->task, why->code, why->message);
	if (why->code != LLM_E_DEVICE)
		return;
	for (llm_task *task = e->tasks; task != NULL; task = task->next)
		if (task->slot == slot)
			llm_task_cancel(e, task, why->code, why->message);
}

/* Lays all pieces into the batch. */
static void
fill_batch(llm_slot *slot, const llm_work *work, uint32_t n, llm_outcome *outs, llm_batch *batch)
{
	llm_pass *pass = &slot->pass;
	double now = llm_now_ms();

	pass->n_tokens = pass->n_segs = pass->n_rows = 0;
	for (uint32_t i = 0; i < n; i++)
	{
		note_start(work[i].user, &work[i], now);
		add_piece(slot, &work[i], &outs[i]);
	}
	*batch = (llm_batch){.n_tokens = pass->n_tokens,
	                     .tokens = pass->tokens,
	                     .pos = pass->pos,
	                     .types = pass->types,
	                     .n_segs = pass->n_segs,
	                     .segs = pass->segs,
	                     .n_rows = pass->n_rows,
	                     .rows = pass->rows};
}

/* Sends off one pass of a copy; a device works on it when this returns. False: there is no work. */
bool
llm_slot_begin(llm_slot *copy)
{
	llm_running *run = &copy->running;
	const llm_work *work;
	const llm_kv_fixup *fixups;
	uint32_t n_fixups;

	*run = (llm_running){.start_ms = llm_now_ms()};
	run->n = llm_sched_next(copy->sched, &work, &fixups, &n_fixups);
	if (run->n == 0)
		return false;
	fill_batch(copy, work, run->n, copy->outs, &run->batch);
	run->status = run_fixups(copy, fixups, n_fixups, &run->err);
	if (run->status == LLM_OK && copy->model->arch.decoder)
		run->status = llm_forward_decode(copy->ws, &run->batch, &run->err);
	return true;
}

/* Waits for the pass of a copy of slot, if there is one, and gives its results. */
void
llm_slot_end(llm_engine *e, llm_slot *slot, llm_slot *copy)
{
	llm_running *run = &copy->running;

	if (run->n == 0)
		return;
	if (run->status == LLM_OK && copy->model->arch.decoder)
		run->status = give_results(e, copy, copy->outs, run->n, &run->err);
	else if (run->status == LLM_OK)
		run->status = run_encoder(e, copy, &run->batch, copy->outs, run->n, &run->err);
	share_time(copy->outs, run->n, run->batch.n_tokens, llm_now_ms() - run->start_ms);
	if (run->status == LLM_OK)
		llm_sched_done(copy->sched);
	else
	{
		fail_pass(e, slot, copy->outs, run->n, &run->err);
		llm_sched_abandon(copy->sched);
	}
	llm_pin_computed(copy);
	pthread_mutex_lock(&e->inbox_mutex);
	e->stats.n_tokens += run->batch.n_tokens;
	pthread_mutex_unlock(&e->inbox_mutex);
}
