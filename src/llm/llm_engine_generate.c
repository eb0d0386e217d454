/*
 * llm_engine_generate.c: generation: sampling, constraint, drafts, stop strings, streaming.
 *
 * A generating sequence comes back from each pass with the logits of its last token and of its
 * drafts. Tokens are sampled one after the other; a draft that the sampler confirms costs nothing
 * more, and the first that it does not ends the round (lossless: llm_sample_verify). Then come new
 * drafts: what the grammar forces, else what prompt lookup proposes. Draw number i of a row depends
 * on the row's seed and i only, never on the drafts.
 */
#include "llm_engine_impl.h"

#include <string.h>

#include "llm_alloc.h"

#define FORCED_BYTES_MAX 64

/* Appends bytes that are certain to the row's text, and streams them. */
static llm_status
emit(llm_seq *seq, const char *bytes, size_t n, llm_error *err)
{
	llm_generation *gen = seq->gen;

	if (n == 0)
		return LLM_OK;
	llm_buffer_put(&gen->text, bytes, n);
	if (gen->text.failed)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for generated text");
	if ((seq->task->job.flags & LLM_JOB_STREAM) && seq->task->job.on_piece != NULL)
		seq->task->job.on_piece(seq->task->job.user, seq->row, (llm_text){bytes, n});
	return LLM_OK;
}

/* Passes a token's bytes through the stop matcher; sets finish when a stop string is complete. */
static llm_status
push_text(llm_slot *slot, llm_seq *seq, int32_t token, llm_error *err)
{
	llm_generation *gen = seq->gen;
	size_t n;
	const char *bytes = llm_token_bytes(slot->model->tokenizer, token, false, &n);
	const char *safe;
	size_t n_safe;
	bool stopped;
	llm_status status = llm_stop_feed(gen->stop, bytes, n, &safe, &n_safe, &stopped, err);

	if (status == LLM_OK)
		status = emit(seq, safe, n_safe, err);
	if (stopped)
		gen->finish = LLM_FINISH_STOP;
	return status;
}

/* Sets up what a sequence needs from its first sampled token on. */
llm_status
llm_generation_start(llm_slot *slot, llm_seq *seq, llm_error *err)
{
	llm_task *task = seq->task;
	llm_generation *gen = llm_calloc(1, sizeof(*gen));

	if ((seq->gen = gen) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a generation");
	if (llm_stop_state_create(task->stops, &gen->stop, err) != LLM_OK)
		return err->code;
	if (task->grammar == NULL)
		return llm_draft_create(seq->tokens, seq->n_prompt, &gen->draft, err);
	if (slot->vocab_trie == NULL &&
	    llm_vocab_trie_create(slot->model->tokenizer, &slot->vocab_trie, err) != LLM_OK)
		return err->code;
	if (slot->mask == NULL &&
	    (slot->mask = llm_calloc(slot->model->arch.n_vocab / 32 + 1, sizeof(uint32_t))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a token mask");
	return llm_grammar_start(task->grammar, &gen->grammar, err);
}

/* Samples one token from the highest logits of a row of the pass, or from the whole row where they
 * do not decide. */
static llm_status
draw_top(llm_slot *slot, const llm_seq *seq, const pp_top *top, uint32_t row, int32_t *token,
         llm_error *err)
{
	llm_sample_params params = seq->task->job.sample;
	llm_pass *pass = &slot->pass;
	bool sure;

	params.seed += seq->row;
	*token = llm_sample_top(slot->sampler, top, &params, seq->gen->n_tokens, &sure);
	if (sure)
		return LLM_OK;
	if (llm_pass_reserve(pass, slot->model->arch.n_vocab, 0, err) != LLM_OK ||
	    llm_forward_logits(slot->ws, row, 1, pass->logits, err) != LLM_OK)
		return err->code;
	*token = llm_sample(slot->sampler, pass->logits, NULL, &params, seq->gen->n_tokens, NULL);
	return LLM_OK;
}

/* Samples one token; −1 when the grammar admits none. */
static llm_status
draw(llm_slot *slot, llm_seq *seq, const float *logits, int32_t draft, int32_t *token,
     llm_error *err)
{
	const llm_task *task = seq->task;
	llm_generation *gen = seq->gen;
	const uint32_t *mask = NULL;
	llm_sample_params params = task->job.sample;
	bool accepted;

	params.seed += seq->row; /* rows of a job draw independently */
	if (gen->grammar != NULL)
	{
		uint32_t budget = task->job.max_tokens - gen->n_tokens;
		uint32_t room = slot->n_ctx - seq->n_prompt - gen->n_tokens;

		budget = budget < room ? budget : room; /* whichever ends the output first */
		if (llm_grammar_mask(gen->grammar, slot->vocab_trie, budget, slot->mask, err) != LLM_OK)
			return err->code;
		mask = slot->mask;
	}
	if (draft >= 0)
		*token = llm_sample_verify(slot->sampler, logits, mask, &params, gen->n_tokens, draft,
		                           &accepted);
	else
		*token = llm_sample(slot->sampler, logits, mask, &params, gen->n_tokens, NULL);
	return LLM_OK;
}

/* Takes a sampled token into the row: text, grammar, drafts, and whether the row ends with it. */
static llm_status
take(llm_slot *slot, llm_seq *seq, int32_t token, llm_error *err)
{
	llm_task *task = seq->task;
	llm_generation *gen = seq->gen;
	llm_status status = LLM_OK;

	if (token < 0 || llm_tokenizer_is_end(slot->model->tokenizer, token))
	{
		gen->finish = token < 0 && gen->grammar != NULL && !llm_grammar_complete(gen->grammar)
		                  ? LLM_FINISH_LENGTH
		                  : LLM_FINISH_END;
		return LLM_OK;
	}
	gen->n_tokens++;
	task->stats.n_output_tokens++;
	if (gen->grammar != NULL)
		status = llm_grammar_accept(gen->grammar, slot->vocab_trie, token, err);
	if (status == LLM_OK && gen->draft != NULL)
		status = llm_draft_append(gen->draft, token, err);
	if (status == LLM_OK)
		status = push_text(slot, seq, token, err);
	if (gen->finish == LLM_FINISH_NONE &&
	    (gen->n_tokens >= task->job.max_tokens || seq->n_prompt + gen->n_tokens >= slot->n_ctx))
		gen->finish = LLM_FINISH_LENGTH;
	return status;
}

/* Gives the finished row. Bytes held back for a stop string that did not come are text after all.
 */
static llm_status
finish(llm_engine *e, llm_slot *slot, llm_seq *seq, llm_error *err)
{
	llm_generation *gen = seq->gen;
	llm_row_result result = {.row = seq->row,
	                         .n_tokens = seq->n_prompt,
	                         .n_shared = seq->n_cached,
	                         .n_output = gen->n_tokens,
	                         .finish = gen->finish};
	const char *rest;
	size_t n_rest;

	if (gen->finish != LLM_FINISH_STOP)
	{
		llm_stop_flush(gen->stop, &rest, &n_rest);
		if (emit(seq, rest, n_rest, err) != LLM_OK)
			return err->code;
	}
	result.text = (llm_text){gen->text.bytes != NULL ? gen->text.bytes : "", gen->text.n};
	llm_task_row_done(seq->task, &result);
	if (seq->sched_id != 0)
		llm_sched_finish(slot->sched, seq->sched_id);
	llm_seq_ended(e, seq);
	return LLM_OK;
}

/* Proposes drafts: the tokens of what the grammar forces, else the continuation that prompt lookup
 * finds. */
static uint32_t
propose(llm_slot *slot, llm_seq *seq, int32_t *drafts, uint32_t max)
{
	llm_generation *gen = seq->gen;
	llm_tokens forced = {0};
	char bytes[FORCED_BYTES_MAX];
	size_t n_bytes;
	uint32_t n;

	if (gen->draft != NULL)
		return llm_draft_propose(gen->draft, drafts, max);
	n_bytes = llm_grammar_forced(gen->grammar, bytes, sizeof(bytes));
	if (n_bytes == 0 ||
	    llm_tokenize(slot->model->tokenizer, bytes, n_bytes, 0, &forced, NULL) != LLM_OK)
		forced.n = 0;
	n = forced.n < max ? (uint32_t) forced.n : max;
	if (n > 0)
		memcpy(drafts, forced.ids, n * sizeof(int32_t));
	llm_tokens_free(&forced);
	return n;
}

/* Hands the new token and its drafts to the scheduler. */
static llm_status
go_on(llm_slot *slot, llm_seq *seq, int32_t token, uint32_t n_accepted, llm_error *err)
{
	int32_t next[1 + LLM_DRAFT_MAX] = {token};
	uint32_t left = seq->task->job.max_tokens - seq->gen->n_tokens;
	uint32_t room = slot->n_ctx - seq->n_prompt - seq->gen->n_tokens;
	uint32_t max = left < room ? left : room;
	uint32_t n = 0;

	/* The last token of a row is never followed by a draft: nothing would be left to confirm it
	 * for. */
	if (max > 1)
		n = propose(slot, seq, next + 1, max - 1 < LLM_DRAFT_MAX ? max - 1 : LLM_DRAFT_MAX);
	seq->task->stats.n_draft_tokens += n;
	return llm_sched_append(slot->sched, seq->sched_id, n_accepted, next, 1 + n, n, err);
}

/* Continues one generation with the logits of its piece, [1 + n_draft, n_vocab], or with the
 * highest of each row. */
llm_status
llm_generate_next(llm_engine *e, llm_slot *slot, const llm_outcome *out, const float *logits,
                  const pp_top *top, llm_error *err)
{
	llm_seq *seq = out->seq;
	size_t n_vocab = slot->model->arch.n_vocab;
	uint32_t n_accepted = 0;
	int32_t token = -1;

	if (!out->completes)
		return LLM_OK;
	if (seq->gen == NULL && llm_generation_start(slot, seq, err) != LLM_OK)
		return err->code;
	for (uint32_t r = 0; r <= out->n_draft; r++)
	{
		int32_t draft = r < out->n_draft ? out->tokens[out->n_tokens - out->n_draft + r] : -1;

		if ((top != NULL ? draw_top(slot, seq, &top[r], out->first_row + r, &token, err)
		                 : draw(slot, seq, logits + r * n_vocab, draft, &token, err)) != LLM_OK ||
		    take(slot, seq, token, err) != LLM_OK)
			return err->code;
		if (seq->gen->finish != LLM_FINISH_NONE)
			return finish(e, slot, seq, err);
		if (token != draft)
			break;
		n_accepted++;
	}
	seq->task->stats.n_accepted_tokens += n_accepted;
	if (seq->gen->draft != NULL && out->n_draft > 0)
		llm_draft_feedback(seq->gen->draft, out->n_draft, n_accepted);
	return go_on(slot, seq, token, n_accepted, err);
}
