/*
 * llm_engine_rows.c: from a job's rows to sequences of tokens.
 *
 * Runs in the submitting thread and touches only immutable parts of the slot (model, tokenizer,
 * n_ctx). What does not depend on a row, the runs of tokens before and behind its text, is
 * tokenised once (a frame). A row that cannot run gets its error here and no sequence.
 */
#include "llm_engine_impl.h"

#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

#define TOKEN_BYTES_USUAL 16u /* shorter texts are tokenised without more ado */
#define SHRINK_MAX        3u  /* composed characters take at least this part of their bytes */

/* Records that a row fails, before the task runs. */
static void
row_refuse(llm_task *task, uint32_t row, const llm_error *why)
{
	task->row_status[row] = why->code;
	task->row_message[row] = llm_arena_strndup(task->arena, why->message, strlen(why->message));
}

/* Takes the next unused sequence of the task. */
static llm_seq *
seq_add(llm_task *task, llm_seq_kind kind, uint32_t row, uint32_t part)
{
	llm_seq *seq = &task->seqs[task->n_seqs++];

	seq->task = task;
	seq->kind = kind;
	seq->row = row;
	seq->part = part;
	return seq;
}

/* Gives back the sequence that seq_add took last. */
static void
seq_drop(llm_task *task, llm_seq *seq)
{
	llm_free(seq->tokens);
	llm_free(seq->types);
	*seq = (llm_seq){0};
	task->n_seqs--;
}

/* The text of a row; absent ones are empty. */
static llm_text
row_text(const llm_text *rows, uint32_t i)
{
	return rows != NULL && rows[i].bytes != NULL ? rows[i] : (llm_text){"", 0};
}

/* Builds the frame of a job's prompts from the chat family, or the bare instruction when raw. */
static llm_status
frame_build(const llm_slot *slot, const llm_job *job, const llm_text *label, const llm_text *query,
            llm_chat_frame *f, llm_error *err)
{
	const llm_model *m = slot->model;
	const llm_chat_family *family = job->flags & LLM_JOB_RAW ? NULL : m->chat;
	llm_prompt p = {0};
	llm_status status = llm_prompt_build(job, label, query, &p, err);

	if (status != LLM_OK)
		return status;
	status = llm_chat_frame_build(family, m->tokenizer, job->system.bytes, job->system.n, p.prefix,
	                              p.bytes_prefix, p.suffix, p.bytes_suffix, f, err);
	llm_prompt_free(&p);
	return status;
}

/* Says in the contract's words that a prompt is too long. */
static llm_status
too_long(const llm_slot *slot, uint64_t n_tokens, llm_error *err)
{
	return llm_fail(err, LLM_E_TOO_LONG, "prompt has %llu tokens, the limit of model \"%s\" is %u",
	                (unsigned long long) n_tokens, slot->name, slot->n_ctx);
}

/* The bytes of the longest token that text can give. */
static size_t
longest_token(const llm_tokenizer *t)
{
	size_t longest = 1;

	for (uint32_t i = 0; i < llm_tokenizer_n_vocab(t); i++)
	{
		size_t n = 0;

		(void) llm_token_bytes(t, (int32_t) i, false, &n);
		longest = n > longest ? n : longest;
	}
	return longest;
}

/*
 * A text that cannot fit even if all its tokens were the longest there is, is refused before it is
 * tokenised: a huge one must not cost what it cannot give. Composing characters may shorten a text,
 * to a third at most.
 */
static llm_status
check_size(const llm_slot *slot, const llm_job *job, llm_text text, llm_error *err)
{
	size_t n_min;

	if ((job->flags & LLM_JOB_TRUNCATE) || text.n / TOKEN_BYTES_USUAL <= slot->n_ctx)
		return LLM_OK;
	n_min = text.n / SHRINK_MAX / longest_token(slot->model->tokenizer);
	if (n_min <= slot->n_ctx)
		return LLM_OK;
	return llm_fail(err, LLM_E_TOO_LONG,
	                "prompt has at least %zu tokens, the limit of model \"%s\" is %u", n_min,
	                slot->name, slot->n_ctx);
}

/* Appends a run of ids; a run may be empty. */
static int32_t *
append_ids(int32_t *at, const int32_t *ids, size_t n)
{
	if (n > 0)
		memcpy(at, ids, n * sizeof(int32_t));
	return at + n;
}

/*
 * Gives a sequence the tokens head ‖ text ‖ tail, followed by the task's trie nodes when it scores
 * labels. Cuts the text when the job allows it.
 */
static llm_status
seq_fill(const llm_slot *slot, llm_seq *seq, const llm_chat_frame *f, llm_text text, llm_error *err)
{
	const llm_task *task = seq->task;
	const llm_label_set *labels = seq->kind == LLM_SEQ_LABELS ? task->labels : NULL;
	uint32_t n_nodes = labels != NULL ? labels->n_nodes : 0;
	uint32_t reserve = n_nodes + (seq->kind == LLM_SEQ_GENERATE ? 1 : 0);
	llm_tokens middle = {0};
	uint64_t n_fixed = (uint64_t) f->head.n + f->tail.n + reserve;
	llm_status status = check_size(slot, &task->job, text, err);

	if (status == LLM_OK)
		status = llm_chat_frame_input(f, text.bytes, text.n, &middle, err);
	if (status == LLM_OK && n_fixed + middle.n > slot->n_ctx)
	{
		if (!(task->job.flags & LLM_JOB_TRUNCATE) || n_fixed >= slot->n_ctx)
			status = too_long(slot, n_fixed + middle.n, err);
		else
			middle.n = slot->n_ctx - (size_t) n_fixed;
	}
	if (status == LLM_OK && f->head.n + middle.n + f->tail.n == 0)
		status = llm_fail(err, LLM_E_RANGE, "prompt is empty");
	if (status == LLM_OK)
	{
		seq->n_prompt = (uint32_t) (f->head.n + middle.n + f->tail.n);
		seq->n_nodes = n_nodes;
		seq->n_tokens = seq->n_prompt + n_nodes;
		seq->n_shared = (uint32_t) f->head.n;
		if ((seq->tokens = llm_malloc_array(seq->n_tokens, sizeof(int32_t))) == NULL)
			status = llm_fail(err, LLM_E_NOMEM, "out of memory while building a prompt");
	}
	if (status == LLM_OK)
	{
		int32_t *at = append_ids(seq->tokens, f->head.ids, f->head.n);

		at = append_ids(at, middle.ids, middle.n);
		at = append_ids(at, f->tail.ids, f->tail.n);
		(void) append_ids(at, labels != NULL ? labels->tokens : NULL, n_nodes);
	}
	llm_tokens_free(&middle);
	return status;
}

/* Adds one sequence per row (per label of multi), all in the frame of the job's prompt. */
static llm_status
add_prompt_rows(const llm_slot *slot, llm_task *task, llm_seq_kind kind, const llm_text *label,
                uint32_t part, llm_error *err)
{
	const llm_job *job = &task->job;
	llm_chat_frame f = {0};
	llm_status status = frame_build(slot, job, label, NULL, &f, err);
	llm_error why;

	for (uint32_t i = 0; status == LLM_OK && i < job->n_rows; i++)
	{
		llm_seq *seq;

		if (task->row_status[i] != LLM_OK)
			continue;
		seq = seq_add(task, kind, i, part);
		if (seq_fill(slot, seq, &f, row_text(job->rows, i), &why) != LLM_OK)
		{
			seq_drop(task, seq);
			row_refuse(task, i, &why);
		}
	}
	if (status == LLM_OK && (job->flags & LLM_JOB_CALIBRATE) && part == 0 &&
	    kind == LLM_SEQ_LABELS && !(job->flags & LLM_JOB_MULTI))
		status = seq_fill(slot, seq_add(task, kind, LLM_ROW_HIDDEN, 0), &f, llm_prompt_content_free,
		                  err);
	llm_chat_frame_free(&f);
	return status;
}

/* Adds the sequences of a decoder's relevance: the query stands in the shared part. */
static llm_status
add_relevance_decoder(const llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	llm_chat_frame f = {0};
	llm_status status = LLM_OK;
	llm_error why;

	for (uint32_t i = 0; status == LLM_OK && i < job->n_rows; i++)
	{
		if (i == 0 || job->n_rows2 > 1)
		{
			llm_text query = row_text(job->rows2, i);

			llm_chat_frame_free(&f);
			status = frame_build(slot, job, NULL, &query, &f, err);
		}
		if (status == LLM_OK)
		{
			llm_seq *seq = seq_add(task, LLM_SEQ_LABELS, i, 0);

			if (seq_fill(slot, seq, &f, row_text(job->rows, i), &why) != LLM_OK)
			{
				seq_drop(task, seq);
				row_refuse(task, i, &why);
			}
		}
	}
	llm_chat_frame_free(&f);
	return status;
}

/* Moves token lists into a sequence. */
static llm_status
seq_take(llm_seq *seq, llm_tokens *tokens, llm_tokens *types, llm_error *err)
{
	seq->n_tokens = seq->n_prompt = (uint32_t) tokens->n;
	seq->tokens = tokens->ids;
	*tokens = (llm_tokens){0};
	if (types != NULL)
	{
		if ((seq->types = llm_calloc(types->n, sizeof(uint32_t))) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory while building a prompt");
		for (size_t i = 0; i < types->n; i++)
			seq->types[i] = (uint32_t) types->ids[i];
	}
	return LLM_OK;
}

/* Cuts an encoder's tokens to the context, keeping the closing special token. */
static llm_status
fit_encoder(const llm_slot *slot, const llm_job *job, llm_tokens *tokens, llm_error *err)
{
	if (tokens->n <= slot->n_ctx)
		return LLM_OK;
	if (!(job->flags & LLM_JOB_TRUNCATE))
		return too_long(slot, tokens->n, err);
	if (llm_tokenizer_is_special(slot->model->tokenizer, tokens->ids[tokens->n - 1]))
		tokens->ids[slot->n_ctx - 1] = tokens->ids[tokens->n - 1];
	tokens->n = slot->n_ctx;
	return LLM_OK;
}

/* Fills one encoder sequence with a text, or with a pair when query is given. */
static llm_status
seq_fill_encoder(const llm_slot *slot, llm_seq *seq, llm_text text, const llm_text *query,
                 llm_error *err)
{
	const llm_job *job = &seq->task->job;
	const llm_tokenizer *t = slot->model->tokenizer;
	llm_tokens tokens = {0};
	llm_tokens types = {0};
	llm_status status;

	if (query != NULL)
		status = llm_tokenize_pair(t, query->bytes, query->n, text.bytes, text.n, slot->n_ctx,
		                           &tokens, &types, err);
	else
		status = llm_tokenize(t, text.bytes, text.n, LLM_TOK_ADD_BOS_EOS, &tokens, err);
	if (status == LLM_OK)
		status = fit_encoder(slot, job, &tokens, err);
	if (status == LLM_OK && tokens.n == 0)
		status = llm_fail(err, LLM_E_RANGE, "text is empty");
	if (status == LLM_OK)
		status = seq_take(seq, &tokens, query != NULL ? &types : NULL, err);
	llm_tokens_free(&tokens);
	llm_tokens_free(&types);
	return status;
}

/* Joins the job's instruction (an embedder's prefix such as "query: ") and a text, in the task's
 * arena. */
static llm_text
with_instruction(llm_task *task, llm_text text)
{
	llm_text head = task->job.instruction;
	char *joined;

	if (head.bytes == NULL || head.n == 0 || head.n > SIZE_MAX - text.n)
		return text;
	if ((joined = llm_arena_alloc(task->arena, head.n + text.n + 1, 1)) == NULL)
		return text;
	memcpy(joined, head.bytes, head.n);
	memcpy(joined + head.n, text.bytes, text.n);
	return (llm_text){joined, head.n + text.n};
}

/* Adds the sequences of embed, and of relevance by an embedder or a cross-encoder. */
static llm_status
add_encoder_rows(const llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	bool pairs = job->kind == LLM_JOB_RELEVANCE && slot->model->arch.kind == LLM_KIND_RERANK;
	llm_error why;

	if (job->kind == LLM_JOB_RELEVANCE && !pairs)
		for (uint32_t i = 0; i < job->n_rows2; i++)
			if (seq_fill_encoder(slot, seq_add(task, LLM_SEQ_ENCODE, i, 1), row_text(job->rows2, i),
			                     NULL, err) != LLM_OK)
				return err->code;
	for (uint32_t i = 0; i < job->n_rows; i++)
	{
		llm_text query = pairs ? row_text(job->rows2, job->n_rows2 > 1 ? i : 0) : (llm_text){0};
		llm_seq *seq = seq_add(task, LLM_SEQ_ENCODE, i, 0);
		llm_text text = row_text(job->rows, i);

		if (job->kind == LLM_JOB_EMBED)
			text = with_instruction(task, text);
		if (seq_fill_encoder(slot, seq, text, pairs ? &query : NULL, &why) != LLM_OK)
		{
			seq_drop(task, seq);
			row_refuse(task, i, &why);
		}
	}
	return LLM_OK;
}

/* Adds the sequences of loglik: prompt and completion tokenised apart, every completion token
 * scored. */
static llm_status
add_loglik_rows(const llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_tokenizer *t = slot->model->tokenizer;
	int32_t start = llm_tokenizer_bos(t) >= 0 ? llm_tokenizer_bos(t) : llm_tokenizer_eos(t);

	(void) err;
	for (uint32_t i = 0; i < task->job.n_rows; i++)
	{
		llm_seq *seq = seq_add(task, LLM_SEQ_LOGLIK, i, 0);
		llm_text prompt = row_text(task->job.rows, i);
		llm_text completion = row_text(task->job.rows2, i);
		llm_tokens tokens = {0};
		llm_error why = {0};
		size_t n_prompt;
		llm_status status =
		    llm_tokenize(t, prompt.bytes, prompt.n, LLM_TOK_ADD_BOS_EOS, &tokens, &why);

		if (status == LLM_OK && tokens.n == 0)
			status = start >= 0 ? llm_tokens_push(&tokens, start, &why)
			                    : llm_fail(&why, LLM_E_RANGE, "prompt is empty");
		n_prompt = tokens.n;
		if (status == LLM_OK)
			status = llm_tokenize(t, completion.bytes, completion.n, 0, &tokens, &why);
		if (status == LLM_OK && tokens.n > slot->n_ctx)
			status = too_long(slot, tokens.n, &why);
		if (status == LLM_OK)
		{
			seq->n_scored = (uint32_t) (tokens.n - n_prompt);
			status = seq_take(seq, &tokens, NULL, &why);
		}
		if (status != LLM_OK)
		{
			seq_drop(task, seq);
			row_refuse(task, i, &why);
		}
		llm_tokens_free(&tokens);
	}
	return LLM_OK;
}

/* Counts tokens at once; no sequence is needed. */
static llm_status
count_rows(const llm_slot *slot, llm_task *task, llm_error *err)
{
	llm_error why;

	if ((task->row_count = llm_calloc(task->job.n_rows, sizeof(uint32_t))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while counting tokens");
	for (uint32_t i = 0; i < task->job.n_rows; i++)
	{
		llm_text text = row_text(task->job.rows, i);
		llm_tokens tokens = {0};

		if (llm_tokenize(slot->model->tokenizer, text.bytes, text.n, 0, &tokens, &why) != LLM_OK)
			row_refuse(task, i, &why);
		task->row_count[i] = (uint32_t) tokens.n;
		llm_tokens_free(&tokens);
	}
	return LLM_OK;
}

/* Adds the one sequence of a prewarm: the shared part of the job's prompt. */
static llm_status
add_prefix(const llm_slot *slot, llm_task *task, llm_error *err)
{
	llm_seq *seq = seq_add(task, LLM_SEQ_PREFIX, LLM_ROW_HIDDEN, 0);
	llm_chat_frame f = {0};
	llm_status status = frame_build(slot, &task->job, NULL, NULL, &f, err);

	f.tail.n = 0;
	f.space = false; /* it goes with the input, which is not known */
	if (status == LLM_OK)
		status = seq_fill(slot, seq, &f, (llm_text){"", 0}, err);
	llm_chat_frame_free(&f);
	return status;
}

/* Adds the sequences of the job by its kind. */
llm_status
llm_task_add_rows(const llm_slot *slot, llm_task *task, llm_error *err)
{
	const llm_job *job = &task->job;
	bool multi = job->kind == LLM_JOB_CLASSIFY && (job->flags & LLM_JOB_MULTI);
	llm_status status = LLM_OK;

	switch (job->kind)
	{
		case LLM_JOB_COUNT:
			return count_rows(slot, task, err);
		case LLM_JOB_PREWARM:
			return add_prefix(slot, task, err);
		case LLM_JOB_LOGLIK:
			return add_loglik_rows(slot, task, err);
		case LLM_JOB_GENERATE:
			return add_prompt_rows(slot, task, LLM_SEQ_GENERATE, NULL, 0, err);
		case LLM_JOB_EMBED:
			return add_encoder_rows(slot, task, err);
		case LLM_JOB_RELEVANCE:
			return slot->model->arch.kind == LLM_KIND_GENERATE
			           ? add_relevance_decoder(slot, task, err)
			           : add_encoder_rows(slot, task, err);
		default:
			break;
	}
	for (uint32_t i = 0; status == LLM_OK && i < (multi ? job->n_labels : 1); i++)
		status =
		    add_prompt_rows(slot, task, LLM_SEQ_LABELS, multi ? &job->labels[i] : NULL, i, err);
	return status;
}
