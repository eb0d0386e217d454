/*
 * llm_engine_model.c: slots: loading a model with all that runs it, and letting go of it.
 *
 * Memory is planned at load and not taken later: weights, the workspace of a pass, then the KV pool
 * out of what memory_limit leaves. The token budget of a pass is measured, not a constant
 * (DeepSpeed-FastGen's 768 was tuned for 7B models on an A100): the smallest pass that reaches 97 %
 * of the best rate seen.
 *
 * A slot is built by the loading thread alone and published under both locks at the end.
 */
#include "llm_engine_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_check.h"

#define BUDGET_MIN          64u
#define SEGMENT_CALIBRATE   128u
#define CALIBRATE_MS        125.0 /* of measured passes: then no further size is tried */
#define CALIBRATE_GAIN      0.97
#define INTERACTIVE_MS      50.0  /* a pass that an interactive request may have to wait for */
#define MAX_SEQUENCES       1024u /* a pass */
#define ENCODER_PAGE_TOKENS 64u
#define KV_CONTEXTS_DEFAULT 4u
#define KV_TOKENS_DEFAULT   65536u

/* Finds a slot by name. */
llm_slot *
llm_slot_find(llm_engine *e, const char *name)
{
	for (uint32_t i = 0; i < e->n_slots; i++)
		if (strcmp(e->slots[i]->name, name) == 0)
			return e->slots[i];
	return NULL;
}

/* Frees the arrays of a pass. */
static void
pass_free(llm_pass *pass)
{
	llm_free(pass->tokens);
	llm_free(pass->pos);
	llm_free(pass->types);
	llm_free(pass->rows);
	llm_free(pass->row_index);
	llm_free(pass->segs);
	llm_free(pass->logits);
	llm_free(pass->lse);
	*pass = (llm_pass){0};
}

/* Sizes the arrays of a pass. */
static llm_status
pass_create(llm_pass *pass, uint32_t max_tokens, uint32_t max_segs, llm_error *err)
{
	pass->max_tokens = max_tokens;
	pass->max_segs = max_segs;
	pass->tokens = llm_calloc(max_tokens, sizeof(*pass->tokens));
	pass->pos = llm_calloc(max_tokens, sizeof(*pass->pos));
	pass->types = llm_calloc(max_tokens, sizeof(*pass->types));
	pass->rows = llm_calloc(max_tokens, sizeof(*pass->rows));
	pass->row_index = llm_calloc(max_tokens, sizeof(*pass->row_index));
	pass->segs = llm_calloc(max_segs, sizeof(*pass->segs));
	if (pass->tokens && pass->pos && pass->types && pass->rows && pass->row_index && pass->segs)
		return LLM_OK;
	pass_free(pass);
	return llm_fail(err, LLM_E_NOMEM, "out of memory while sizing a pass of %u tokens", max_tokens);
}

/* Frees one copy and everything in it; half-built ones too. */
static void
copy_free(llm_slot *slot)
{
	llm_sched_free(slot->sched);
	llm_kv_free(slot->kv);
	llm_workspace_free(slot->ws);
	llm_sampler_free(slot->sampler);
	llm_vocab_trie_free(slot->vocab_trie);
	pass_free(&slot->pass);
	llm_free(slot->outs);
	llm_free(slot->mask);
	if (slot->be != NULL && slot->bytes_kv > 0)
		slot->be->ops->kv_destroy(slot->be);
	llm_model_free(slot->model);
	if (slot->be != NULL)
		slot->be->ops->destroy(slot->be);
	llm_free(slot);
}

/* Frees a slot with all its copies. NULL is fine. */
void
llm_slot_free(llm_slot *slot)
{
	while (slot != NULL)
	{
		llm_slot *next = slot->next_copy;

		copy_free(slot);
		slot = next;
	}
}

/*
 * Runs one synthetic pass of n tokens in segments and reads a row of it: a card has only been asked
 * for a pass until then. KV pages are used from the first on, since nobody owns any yet.
 */
static llm_status
run_synthetic(llm_slot *slot, const uint32_t *pages, uint32_t n, llm_error *err)
{
	llm_pass *pass = &slot->pass;
	uint32_t page_tokens = slot->model->arch.decoder ? slot->be->ops->kv_page_tokens(slot->be) : 1;
	uint32_t length = slot->n_ctx < SEGMENT_CALIBRATE ? slot->n_ctx : SEGMENT_CALIBRATE;
	uint32_t i_page = 0;
	uint32_t n_segs = 0;
	uint32_t last = n - 1;
	uint32_t row = 0;
	llm_batch batch = {.n_tokens = n,
	                   .tokens = pass->tokens,
	                   .pos = pass->pos,
	                   .segs = pass->segs,
	                   .n_rows = 1,
	                   .rows = &last};

	for (uint32_t t = 0; t < n; t += length, n_segs++)
	{
		uint32_t n_new = n - t < length ? n - t : length;

		pass->segs[n_segs] =
		    (pp_segment){.first_token = t, .n_new = n_new, .pages = pages + i_page};
		for (uint32_t i = 0; i < n_new; i++)
		{
			pass->tokens[t + i] =
			    (int32_t) (((uint64_t) (t + i) * 7919u) % slot->model->arch.n_vocab);
			pass->pos[t + i] = i;
		}
		i_page += (n_new + page_tokens - 1) / page_tokens;
	}
	batch.n_segs = n_segs;
	if (llm_pass_reserve(pass,
	                     (size_t) n_segs *
	                         (slot->model->arch.d_model + slot->model->arch.n_classes),
	                     0, err) != LLM_OK)
		return LLM_E_NOMEM;
	if (!slot->model->arch.decoder)
		return llm_forward_encode(slot->ws, &batch, pass->logits, err);
	if (llm_forward_decode(slot->ws, &batch, err) != LLM_OK)
		return err->code;
	return llm_forward_states(slot->ws, &row, 1, pass->logits, err);
}

/*
 * Measures passes of growing size and chooses both budgets. When two sizes in a row are no faster
 * than the ones before, larger ones are not tried: their scratch would stay in memory for nothing.
 * What a size costs at its first pass does not count: a card loads kernels and records graphs then,
 * which takes longer than all the passes that are measured, and would leave it a tiny budget.
 */
static llm_status
calibrate(llm_slot *slot, uint32_t max_tokens, llm_sched_params *params, llm_error *err)
{
	double rate[16];
	uint32_t size[16];
	uint32_t n = 0;
	double best = 0;
	uint32_t n_slower = 0;
	double spent = 0;
	uint32_t *pages = llm_malloc_array(max_tokens, sizeof(*pages));
	llm_status status =
	    pages != NULL ? LLM_OK : llm_fail(err, LLM_E_NOMEM, "out of memory while calibrating");

	for (uint32_t i = 0; status == LLM_OK && i < max_tokens; i++)
		pages[i] = i;
	if (status == LLM_OK)
		status = run_synthetic(slot, pages, max_tokens < BUDGET_MIN ? max_tokens : BUDGET_MIN, err);
	params->budget_interactive = BUDGET_MIN;
	for (uint32_t t = BUDGET_MIN; status == LLM_OK && t <= max_tokens && n < 16; t *= 2)
	{
		double start = llm_now_ms();
		double ms;

		/* The better of two: a busy machine only ever makes a pass slower. */
		status = run_synthetic(slot, pages, t, err);
		ms = llm_now_ms() - start;
		start += ms;
		if (status == LLM_OK)
			status = run_synthetic(slot, pages, t, err);
		ms = llm_now_ms() - start < ms ? llm_now_ms() - start : ms;
		size[n] = t;
		rate[n] = t / (ms > 1e-3 ? ms : 1e-3);
		spent += ms;
		n_slower = rate[n] * CALIBRATE_GAIN > best ? 0 : n_slower + 1;
		best = rate[n] > best ? rate[n] : best;
		if (ms <= INTERACTIVE_MS)
			params->budget_interactive = t;
		n++;
		if (n_slower == 2 || spent > CALIBRATE_MS)
			break;
	}
	llm_free(pages);
	params->budget_tokens = max_tokens < BUDGET_MIN ? max_tokens : BUDGET_MIN;
	for (uint32_t i = 0; i < n; i++)
		if (rate[i] >= CALIBRATE_GAIN * best)
		{
			params->budget_tokens = size[i];
			break;
		}
	return status;
}

/* Bytes that loaded models already hold against the memory limit. Under step_mutex or models_lock.
 */
static uint64_t
bytes_taken(const llm_engine *e)
{
	uint64_t bytes = 0;
	pp_memory_info memory;

	for (uint32_t i = 0; i < e->n_slots; i++)
	{
		e->slots[i]->be->ops->memory_info(e->slots[i]->be, &memory);
		bytes += memory.bytes_weights + e->slots[i]->bytes_kv + memory.bytes_scratch;
	}
	return bytes;
}

/* Sizes and creates the KV pool of a decoder out of the bytes that are left. */
static llm_status
create_kv_pool(llm_slot *slot, uint64_t bytes_left, const llm_load_options *options,
               uint32_t *n_pages, llm_error *err)
{
	const llm_arch *arch = &slot->model->arch;
	const pp_ops *ops = slot->be->ops;
	uint32_t page_tokens = ops->kv_page_tokens(slot->be);
	uint64_t page_bytes =
	    ops->kv_page_bytes(slot->be, arch->attn, arch->n_layers, slot->model->precision);
	uint64_t tokens = (uint64_t) KV_CONTEXTS_DEFAULT * slot->n_ctx;
	uint64_t pages;

	if (tokens < KV_TOKENS_DEFAULT)
		tokens = KV_TOKENS_DEFAULT;
	pages = options->kv_bytes > 0 ? options->kv_bytes / page_bytes
	                              : (tokens + page_tokens - 1) / page_tokens;
	if (pages > bytes_left / page_bytes)
		pages = bytes_left / page_bytes;
	if (pages > UINT32_MAX / page_tokens)
		pages = UINT32_MAX / page_tokens;
	if (pages < (BUDGET_MIN + page_tokens - 1) / page_tokens + 1)
		return llm_fail(err, LLM_E_LIMIT,
		                "memory limit leaves %llu bytes for keys and values, one page takes %llu",
		                (unsigned long long) bytes_left, (unsigned long long) page_bytes);
	if ((uint64_t) slot->n_ctx > pages * page_tokens)
		slot->n_ctx = (uint32_t) (pages * page_tokens);
	if (ops->kv_create(slot->be, arch->attn, arch->n_layers, (uint32_t) pages,
	                   slot->model->precision) != PP_OK)
		return llm_fail(err, LLM_E_NOMEM, "could not allocate the KV pool: %s", slot->be->message);
	slot->bytes_kv = pages * page_bytes;
	*n_pages = (uint32_t) pages;
	return LLM_OK;
}

/* The largest pass this model may be asked for. Encoder sequences are never cut, so they must fit
 * whole. */
static uint32_t
max_pass_tokens(const llm_engine *e, const llm_slot *slot)
{
	uint32_t max =
	    e->params.budget_tokens > 0 ? e->params.budget_tokens : slot->be->pass_tokens_max;

	if (!slot->model->arch.decoder && max < slot->n_ctx)
		max = slot->n_ctx;
	return max;
}

/* Builds everything around a loaded model: workspace, KV, calibration, scheduler. */
static llm_status
slot_equip(llm_engine *e, llm_slot *slot, const llm_load_options *options, uint64_t bytes_other,
           llm_error *err)
{
	const llm_arch *arch = &slot->model->arch;
	llm_sched_params params = {.max_segments = MAX_SEQUENCES, .max_queued = UINT32_MAX};
	uint32_t max_tokens;
	uint32_t n_pages;
	uint64_t bytes_ws;
	uint64_t used;

	slot->n_ctx = options->n_ctx > 0 && options->n_ctx < arch->n_ctx ? options->n_ctx : arch->n_ctx;
	max_tokens = max_pass_tokens(e, slot);
	/* The backend's own scratch (quantised rows, sums) is smaller than half of the activations. */
	bytes_ws = llm_workspace_bytes(slot->model, max_tokens, max_tokens);
	bytes_ws += bytes_ws / 2;
	if (!pp_add_ok(bytes_other, slot->model->bytes, &used) || !pp_add_ok(used, bytes_ws, &used) ||
	    used > e->memory_limit)
		return llm_fail(err, LLM_E_LIMIT, "model needs %llu bytes, the memory limit is %llu",
		                (unsigned long long) used, (unsigned long long) e->memory_limit);
	if (llm_workspace_create(slot->model, max_tokens, max_tokens, &slot->ws, err) != LLM_OK)
		return err->code;
	/* Each sequence may add a trie segment and a filler segment to its own. */
	if (pass_create(&slot->pass, max_tokens, 3 * MAX_SEQUENCES, err) != LLM_OK)
		return err->code;
	if ((slot->outs = llm_calloc(MAX_SEQUENCES, sizeof(*slot->outs))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while sizing a pass");
	n_pages = max_tokens / ENCODER_PAGE_TOKENS + MAX_SEQUENCES + 1;
	if (arch->decoder &&
	    create_kv_pool(slot, e->memory_limit - used, options, &n_pages, err) != LLM_OK)
		return err->code;
	if (arch->kind == LLM_KIND_GENERATE &&
	    llm_sampler_create(arch->n_vocab, &slot->sampler, err) != LLM_OK)
		return err->code;
	if (llm_kv_create(n_pages,
	                  arch->decoder ? slot->be->ops->kv_page_tokens(slot->be) : ENCODER_PAGE_TOKENS,
	                  &slot->kv, err) != LLM_OK)
		return err->code;
	if (e->params.budget_tokens > 0)
		params.budget_tokens = params.budget_interactive = max_tokens;
	else if (calibrate(slot, max_tokens, &params, err) != LLM_OK)
		return err->code;
	if (!arch->decoder)
	{
		params.budget_tokens =
		    params.budget_tokens < slot->n_ctx ? slot->n_ctx : params.budget_tokens;
		params.budget_interactive = params.budget_tokens;
	}
	params.max_pass_tokens = max_tokens; /* a trie of many labels runs whole */
	slot->budget_tokens = params.budget_tokens;
	return llm_sched_create(slot->kv, &params, &slot->sched, err);
}

/* Names the block type that holds most of the weights. */
static void
describe_quantisation(llm_slot *slot)
{
	uint64_t bytes[64] = {0};
	uint32_t best = 0;
	llm_weights *w = slot->model->weights;

	for (uint32_t i = 0; i < llm_weights_n_tensors(w); i++)
	{
		const llm_tensor *t = llm_weights_tensor_at(w, i);

		bytes[t->dtype % 64] += t->bytes;
	}
	for (uint32_t i = 1; i < 64; i++)
		if (bytes[i] > bytes[best])
			best = i;
	snprintf(slot->quantisation, sizeof(slot->quantisation), "%s", llm_dtype_name((pp_dtype) best));
}

/* Computes the digest when one was expected, and compares. */
static llm_status
check_digest(llm_slot *slot, const char *expected, llm_error *err)
{
	if (expected == NULL)
		return LLM_OK;
	if (llm_weights_digest(slot->model->weights, slot->digest, err) != LLM_OK)
		return err->code;
	if (strcmp(slot->digest, expected) != 0)
		return llm_fail(err, LLM_E_FORMAT, "model file has digest %s, expected %.64s", slot->digest,
		                expected);
	return LLM_OK;
}

/*
 * Where a copy runs: cards are numbered on from the first; those that share a model are all taken.
 */
static void
device_of_copy(const llm_engine *e, uint32_t i, char name[LLM_DEVICE_NAME])
{
	snprintf(name, LLM_DEVICE_NAME, "%s", e->device);
	if (strncmp(e->device, "cuda:", 5) == 0 && strchr(e->device, '+') == NULL)
		snprintf(name, LLM_DEVICE_NAME, "cuda:%lu", strtoul(e->device + 5, NULL, 10) + i);
}

/* Loads copy number i into an unpublished slot. */
static llm_status
copy_load(llm_engine *e, llm_slot *slot, uint32_t i, const char *path,
          const llm_load_options *options, llm_error *err)
{
	char device[LLM_DEVICE_NAME];
	uint64_t bytes_other;

	device_of_copy(e, i, device);
	if (llm_device_open(device, e->params.n_threads, &slot->be, err) != LLM_OK)
		return err->code;
	slot->be->any_bits = e->params.any_bits;
	if (llm_model_load(path, slot->be, e->params.precision, options->n_ctx, &slot->model, err) !=
	    LLM_OK)
		return err->code;
	if (check_digest(slot, options->digest, err) != LLM_OK)
		return err->code;
	describe_quantisation(slot);
	llm_engine_lock_step(e);
	bytes_other = bytes_taken(e);
	pthread_mutex_unlock(&e->step_mutex);
	return slot_equip(e, slot, options, bytes_other, err);
}

/* Loads every copy. A job must fit all of them, so the shortest context is that of the model. */
static llm_status
slot_load(llm_engine *e, llm_slot *slot, const char *path, const llm_load_options *options,
          llm_error *err)
{
	llm_status status = copy_load(e, slot, 0, path, options, err);
	llm_slot *last = slot;

	for (uint32_t i = 1; status == LLM_OK && i < e->n_copies; i++)
	{
		if ((last->next_copy = llm_calloc(1, sizeof(*last))) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory while loading model \"%s\"",
			                slot->name);
		last = last->next_copy;
		snprintf(last->name, sizeof(last->name), "%s", slot->name);
		status = copy_load(e, last, i, path, options, err);
		slot->n_ctx = last->n_ctx < slot->n_ctx ? last->n_ctx : slot->n_ctx;
	}
	return status;
}

/* Puts a finished slot where jobs find it. */
static llm_status
slot_publish(llm_engine *e, llm_slot *slot, llm_error *err)
{
	llm_status status = LLM_OK;

	llm_engine_lock_step(e);
	pthread_rwlock_wrlock(&e->models_lock);
	if (llm_slot_find(e, slot->name) != NULL)
		status = llm_fail(err, LLM_E_RANGE, "model \"%s\" is already loaded", slot->name);
	else if (e->n_slots == LLM_MODELS_MAX)
		status =
		    llm_fail(err, LLM_E_LIMIT, "%u models are loaded, which is the limit", LLM_MODELS_MAX);
	else
		e->slots[e->n_slots++] = slot;
	pthread_rwlock_unlock(&e->models_lock);
	pthread_mutex_unlock(&e->step_mutex);
	return status;
}

/* Loads a model in the calling thread and publishes it when it is ready to run. */
llm_status
llm_engine_load(llm_engine *e, const char *name, const char *path, const llm_load_options *options,
                llm_error *err)
{
	const llm_load_options defaults = {.n_ctx = e->params.n_ctx};
	llm_error ignored;
	llm_slot *slot;
	llm_status status;

	if (err == NULL)
		err = &ignored;
	if (name == NULL || name[0] == '\0' || strlen(name) >= sizeof(slot->name))
		return llm_fail(err, LLM_E_RANGE, "a model name has 1 to %zu bytes",
		                sizeof(slot->name) - 1);
	if ((slot = llm_calloc(1, sizeof(*slot))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while loading model \"%s\"", name);
	snprintf(slot->name, sizeof(slot->name), "%s", name);
	status = slot_load(e, slot, path, options != NULL ? options : &defaults, err);
	if (status == LLM_OK)
		status = slot_publish(e, slot, err);
	if (status != LLM_OK)
		llm_slot_free(slot);
	return status;
}

/* Cancels the model's jobs, takes it off the list, and frees it. */
llm_status
llm_engine_unload(llm_engine *e, const char *name, llm_error *err)
{
	llm_slot *slot;

	llm_engine_lock_step(e);
	pthread_rwlock_wrlock(&e->models_lock);
	if ((slot = llm_slot_find(e, name)) != NULL)
	{
		llm_engine_take_inbox(e);
		for (llm_task *task = e->tasks; task != NULL; task = task->next)
			if (task->slot == slot)
				llm_task_cancel(e, task, LLM_E_CANCELLED, "the model was unloaded");
		llm_engine_reap(e);
		for (uint32_t i = 0, n = 0; i < e->n_slots; i++)
			if (e->slots[i] != slot)
				e->slots[n++] = e->slots[i];
		e->n_slots--;
		e->i_slot = 0;
	}
	pthread_rwlock_unlock(&e->models_lock);
	pthread_mutex_unlock(&e->step_mutex);
	if (slot == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "model \"%.150s\" is not loaded", name);
	llm_slot_free(slot);
	return LLM_OK;
}

/* Describes one slot. */
static void
describe(const llm_slot *slot, llm_model_info *info)
{
	const llm_arch *arch = &slot->model->arch;

	*info = (llm_model_info){
	    .kind = arch->kind,
	    .n_params = slot->model->n_params,
	    .n_ctx = slot->n_ctx,
	    .n_vocab = arch->n_vocab,
	    .d_model = arch->d_model,
	    .budget_tokens = slot->budget_tokens,
	};
	for (const llm_slot *copy = slot; copy != NULL; copy = copy->next_copy)
	{
		info->bytes_weights += copy->model->bytes;
		info->bytes_kv += copy->bytes_kv;
		info->bytes_kv_used += atomic_load(&copy->bytes_kv_used);
	}
	snprintf(info->name, sizeof(info->name), "%s", slot->name);
	snprintf(info->arch, sizeof(info->arch), "%s", arch->name);
	snprintf(info->quantisation, sizeof(info->quantisation), "%s", slot->quantisation);
	snprintf(info->digest, sizeof(info->digest), "%s", slot->digest);
	snprintf(info->chat, sizeof(info->chat), "%s",
	         slot->model->chat != NULL ? slot->model->chat->name : "");
}

/* Describes up to max loaded models. */
uint32_t
llm_engine_models(llm_engine *e, llm_model_info *out, uint32_t max)
{
	uint32_t n;

	pthread_rwlock_rdlock(&e->models_lock);
	n = e->n_slots;
	for (uint32_t i = 0; i < n && i < max; i++)
		describe(e->slots[i], &out[i]);
	pthread_rwlock_unlock(&e->models_lock);
	return n;
}
