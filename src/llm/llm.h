/*
 * llm.h: the public header of the engine library. Read this one to use it.
 *
 *	llm_engine_params params = {.n_threads = 2};
 *	llm_engine *engine;
 *	llm_error	err;
 *
 *	llm_engine_create(&params, &engine, &err);
 *	llm_engine_load(engine, "smol", "models/smollm2-135m.gguf", NULL, &err);
 *	llm_job	job = {.kind = LLM_JOB_GENERATE, .model = "smol", .n_rows = 1, .max_tokens = 32,
 *				   .instruction = LLM_TEXT("Say hello."), .on_row = print_row};
 *	llm_engine_submit(engine, &job, &id, &err);
 *	while (llm_engine_step(engine))
 *		;
 *	llm_engine_destroy(engine);
 *
 * A job is one instruction over any number of rows, handed over at once, so that the engine sees
 * the whole of it: the instruction is prefilled once, rows are grouped by shared prefix and laid
 * end to end without padding, and labels are scored from one prefill each. A row's result never
 * depends on what runs beside it.
 *
 * Threads: one thread calls llm_engine_step and gets all callbacks there. Every other function may
 * be called from any thread, also from callbacks, except create, destroy and step themselves.
 * Nothing here prints, exits or aborts.
 *
 * Ownership: what a job points to is copied by submit. What a callback gets lives until it returns.
 */
#ifndef LLM_H
#define LLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm_arch.h"
#include "llm_kv.h"
#include "llm_sample.h"
#include "llm_sched.h"
#include "llm_status.h"

typedef struct llm_engine llm_engine;

typedef struct llm_text
{
	const char *bytes; /* UTF-8, may hold NUL bytes; NULL = absent */
	size_t n;
} llm_text;

#define LLM_TEXT(literal) ((llm_text){(literal), sizeof(literal) - 1})

typedef struct llm_engine_params
{
	const char *device;     /* "cpu", "cuda:0"; "cuda" = all cards; NULL or "auto" = the best one */
	uint32_t n_copies;      /* of each model, side by side; 0 = one on each card of the device */
	uint32_t n_threads;     /* 0 = all cores */
	uint64_t memory_limit;  /* bytes for weights + KV + scratch; 0 = 80 % of the device's or host's
	                           memory */
	pp_precision precision; /* PP_PREC_F32 is the oracle; PP_PREC_INT8 what serves */
	const char *quantisation; /* of weights on a CUDA device: NULL or "auto" as in the file, "bf16"
	                             expanded at load (same results), "fp8" (activations too) */
	bool any_bits; /* on a CUDA device a row's bits may depend on its batch, where that is faster */
	uint32_t n_ctx;         /* longest context of models loaded without options; 0 = their own */
	uint32_t max_queued;    /* sequences waiting or running, all callers; 0 = 65,536 */
	uint32_t budget_tokens; /* tokens a pass; 0 = calibrated at load */
	bool no_prefix_sharing; /* benchmark baseline: every row computes its whole prompt */
	uint32_t pad_group;     /* benchmark baseline: rows are padded to the longest of each group of
	                         * this many; 0 = off */
	bool pad_sorted;        /* with pad_group: rows are sorted by length first */
} llm_engine_params;

llm_status llm_engine_create(const llm_engine_params *params, llm_engine **out, llm_error *err);
void llm_engine_destroy(llm_engine *e); /* running jobs end with LLM_E_CANCELLED */

/* What a model may be told at load. All zero = defaults. */
typedef struct llm_load_options
{
	uint32_t n_ctx;     /* 0 = the model's own, at most what memory admits */
	uint64_t kv_bytes;  /* 0 = what memory_limit leaves, at most 64 full contexts */
	const char *digest; /* expected SHA-256 in hex, or NULL */
} llm_load_options;

/* Loads path under name. Blocks the calling thread; jobs of other models go on. */
llm_status llm_engine_load(llm_engine *e, const char *name, const char *path,
                           const llm_load_options *options, llm_error *err);
/* Jobs of the model that still run end with LLM_E_CANCELLED; the memory is free when it returns. */
llm_status llm_engine_unload(llm_engine *e, const char *name, llm_error *err);

#define LLM_NAME_MAX 1024 /* bytes of a model's name with its NUL; the server's names are paths */

typedef struct llm_model_info
{
	char name[LLM_NAME_MAX];
	char arch[32];
	char quantisation[16]; /* of most weights in the file: "Q4_1", "F32", … */
	char digest[65];
	char chat[16];
	llm_model_kind kind;
	uint64_t n_params;
	uint64_t bytes_weights;
	uint64_t bytes_kv; /* the pool */
	uint64_t bytes_kv_used;
	uint32_t n_ctx;
	uint32_t n_vocab;
	uint32_t d_model;
	uint32_t budget_tokens; /* as calibrated */
} llm_model_info;

/* How many are loaded. Never waits for a pass. */
uint32_t llm_engine_models(llm_engine *e, llm_model_info *out, uint32_t max);

typedef enum llm_job_kind
{
	LLM_JOB_GENERATE = 1, /* text; with schema: JSON that fits it; with allowed: one of them */
	LLM_JOB_CLASSIFY = 2, /* probabilities over labels, from one prefill a row */
	LLM_JOB_JUDGE =
	    3, /* probability that the instruction (a condition, a criterion) holds of the row */
	LLM_JOB_LOGLIK = 4, /* Σ ln p of rows2 (completion) after rows (prompt), raw text */
	LLM_JOB_EMBED = 5,  /* pooled vectors */
	LLM_JOB_RELEVANCE =
	    6,             /* of document rows to query rows2 (n_rows of each, or one query for all) */
	LLM_JOB_COUNT = 7, /* number of tokens of each row's text */
	LLM_JOB_PREWARM =
	    8 /* computes and pins the prefix of a generate or classify job without rows */
} llm_job_kind;

#define LLM_JOB_STREAM    1   /* on_piece as text is produced */
#define LLM_JOB_RAW       2   /* no chat template: prompt = instruction ‖ row */
#define LLM_JOB_CALIBRATE 4   /* classify, judge: divide by the answer's probability for no text */
#define LLM_JOB_TRUNCATE  8   /* cut rows that exceed the context instead of failing them */
#define LLM_JOB_KEEP      16  /* keep the whole prompt in the prefix tree (typing sessions) */
#define LLM_JOB_MULTI     32  /* classify: each label judged by itself, yes or no */
#define LLM_JOB_RULES     64  /* generate: schema holds rules (llm_grammar.h); local models only */
#define LLM_JOB_FLAGS     128 /* all flags are below */

typedef enum llm_finish
{
	LLM_FINISH_NONE = 0,   /* not a generation */
	LLM_FINISH_END = 1,    /* end token, or the grammar was complete */
	LLM_FINISH_LENGTH = 2, /* max_tokens or the context */
	LLM_FINISH_STOP = 3    /* a stop string */
} llm_finish;

typedef struct llm_row_result
{
	uint32_t row;
	llm_status status; /* a row fails alone; message says why */
	const char *message;
	llm_text text;       /* generate */
	const float *values; /* classify: [n_labels]; judge, relevance: [1]; embed: [d] */
	uint32_t n_values;
	double logprob;    /* loglik */
	uint32_t n_tokens; /* count; else tokens of the prompt */
	uint32_t n_shared; /* of these, not computed for this row */
	uint32_t n_output; /* tokens generated */
	llm_finish finish;
} llm_row_result;

typedef struct llm_job_stats
{
	uint32_t n_rows;
	uint32_t n_errors;
	uint64_t n_prompt_tokens;   /* as if every row had been computed by itself */
	uint64_t n_shared_tokens;   /* of these, saved by shared prefixes */
	uint64_t n_padding_avoided; /* tokens a padded batch of the same rows would have added */
	uint64_t n_output_tokens;
	uint64_t n_draft_tokens; /* proposed and accepted by prompt lookup */
	uint64_t n_accepted_tokens;
	double queue_ms;   /* submit → first pass */
	double prefill_ms; /* engine time of passes, split by this job's share of their tokens */
	double decode_ms;
} llm_job_stats;

typedef struct llm_job
{
	llm_job_kind kind;
	const char *model;
	llm_class class_;
	uint64_t caller; /* fairness key */
	llm_salt salt;   /* who may share prefixes with this job; given by the server side */
	uint32_t flags;  /* LLM_JOB_… */

	llm_text system;
	llm_text instruction;
	const llm_text *labels;       /* classify; 2 … 10,000 */
	const llm_text *descriptions; /* [n_labels] or NULL */
	uint32_t n_labels;

	uint32_t n_rows;
	const llm_text *rows;
	const llm_text *rows2;
	uint32_t n_rows2; /* n_rows, or 1 */

	uint32_t max_tokens;      /* generate; 0 = 256 */
	llm_sample_params sample; /* zero = greedy */
	const llm_text *stops;
	uint32_t n_stops; /* <= 16 */
	llm_text schema;  /* JSON schema text */
	const llm_text *allowed;
	uint32_t n_allowed;

	void *user;
	void (*on_row)(void *user,
	               const llm_row_result *result); /* rows come in any order, each once */
	void (*on_piece)(void *user, uint32_t row, llm_text piece); /* whole UTF-8 characters */
	void (*on_done)(void *user, llm_status status, const char *message, const llm_job_stats *stats);
} llm_job;

/*
 * Checks, tokenises (in the calling thread) and queues a job. A row that cannot run (too long, bad
 * UTF-8) fails alone; an argument that is wrong for all rows fails the call. on_done comes exactly
 * once for every accepted job, after its last row; with an error status (cancelled, device lost)
 * the missing rows never come.
 */
llm_status llm_engine_submit(llm_engine *e, const llm_job *job, uint64_t *id, llm_error *err);
/* Takes effect before the next pass. Unknown ids are ignored: the job may have ended. */
void llm_engine_cancel(llm_engine *e, uint64_t id);
/* Cancels every job of a caller (a closed connection) and drops its queue share. */
void llm_engine_cancel_caller(llm_engine *e, uint64_t caller);

/* Runs one forward pass and its callbacks. False when there was nothing to do. */
bool llm_engine_step(llm_engine *e);
/* Called (from any thread) when a submit or cancel makes step worth calling again. */
void llm_engine_set_wakeup(llm_engine *e, void (*wakeup)(void *arg), void *arg);

typedef struct llm_engine_stats
{
	uint32_t n_jobs;
	uint32_t n_waiting; /* sequences */
	uint32_t n_running;
	uint64_t n_passes;
	uint64_t n_tokens;
	uint64_t n_shared_tokens;
	uint64_t bytes_weights;
	uint64_t bytes_kv;
	uint64_t bytes_kv_used;
	uint64_t bytes_scratch;
	uint64_t memory_limit;
	double busy_ms;   /* time inside passes */
	llm_status state; /* LLM_OK, LLM_E_DEVICE */
	char device[32];
	char last_error[LLM_MESSAGE_MAX];
} llm_engine_stats;

void llm_engine_get_stats(llm_engine *e, llm_engine_stats *stats);
uint32_t llm_engine_prefixes(llm_engine *e, const char *model, llm_prefix_info *out, uint32_t max);

#endif /* LLM_H */
