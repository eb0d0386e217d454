/*
 * llm_cli_bench.c: prepack-engine bench: how fast a model runs on this machine.
 *
 * Without --work it prints a table for people: prefill of a prompt, decoding of one stream, many
 * streams at once, memory. With --work it runs one work of bench/bench-llm and prints lines
 * "work<TAB>figure<TAB>unit". Each figure is the median of several runs after one that is thrown
 * away, on the wall clock, from submit to the last result, tokenising included. Every run has a
 * prefix salt of its own, so that none finds what an earlier one left in the prefix tree.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "llm_alloc.h"
#include "llm_cli.h"

#define REPEATS_MAX     32
#define REPEAT_MS       30000.0 /* after this long a job is not run again */
#define ROWS_WARM       64u     /* rows of a big job that warm up */
#define BATCH_PROMPT    16u     /* tokens of the prompts of the table's batch */
#define PAD_GROUP       32u /* batch size of the padded baselines, sentence-transformers' default */
#define PAD_BUDGET      2048u /* a padded row runs in one pass */
#define PROMPT_ATTEMPTS 4
#define SEED            1

/* What the command line asks for. */
typedef struct settings
{
	const char *work;
	const char *mode;
	const char *texts;
	const char *instruction;
	const char *labels;
	uint32_t n_prompt;
	uint32_t n_gen;
	uint32_t n_batch;
	uint32_t n_threads;
	const char *device;
	const char *quantisation;
	uint32_t n_repeats;
	bool f32;
	bool any_bits;
} settings;

/* A benchmark under way. */
typedef struct bench
{
	const settings *s;
	llm_engine *e;
	llm_model_info info;
	uint64_t n_runs;
	uint64_t bytes_kv_used; /* the most of all runs */
	llm_error *err;
} bench;

/* The median run of several. */
typedef struct figure
{
	double ms;
	llm_job_stats stats; /* of the last run; all runs do the same */
} figure;

/* Words that are one token in nearly every vocabulary. */
static const char *const words[] = {"the",  "of",   "and", "to",   "in", "is",  "that",
                                    "for",  "it",   "was", "on",   "be", "by",  "at",
                                    "this", "from", "or",  "have", "an", "they"};

#define N_WORDS (sizeof(words) / sizeof(words[0]))

/* A text of n words that differs with variant, for llm_free. */
static llm_status
make_text(uint32_t n, uint32_t variant, llm_text *out, llm_error *err)
{
	size_t size = (size_t) n * 6 + 1;
	char *text = llm_malloc(size);
	size_t used = 0;

	if (text == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a prompt of %u words", n);
	text[0] = '\0';
	for (uint32_t i = 0; i < n; i++)
	{
		uint32_t mixed = (variant * 65599u + i) * 2654435761u; /* Knuth's multiplicative hash */

		used += (size_t) snprintf(text + used, size - used, " %s", words[(mixed >> 16) % N_WORDS]);
	}
	*out = (llm_text){text, used};
	return LLM_OK;
}

/* Runs a job once under a salt that no other run has. */
static llm_status
run_once(bench *b, llm_job *job, llm_cli_result *result)
{
	llm_status status;

	b->n_runs++;
	job->model = LLM_CLI_MODEL;
	memcpy(job->salt.bytes, &b->n_runs, sizeof(b->n_runs));
	status = llm_cli_run(b->e, job, result, b->err);
	if (result->bytes_kv_used > b->bytes_kv_used)
		b->bytes_kv_used = result->bytes_kv_used;
	return status;
}

/* Orders times. */
static int
by_time(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return (x > y) - (x < y);
}

/* Runs a job once to warm up, on a few of its rows, then several times; long ones fewer times. */
static llm_status
measure(bench *b, llm_job *job, figure *f)
{
	uint32_t n_rows = job->n_rows;
	double ms[REPEATS_MAX];
	double total = 0;
	uint32_t n = 0;
	llm_cli_result result = {0};
	llm_status status;

	job->n_rows = n_rows < ROWS_WARM ? n_rows : ROWS_WARM;
	status = run_once(b, job, &result);
	job->n_rows = n_rows;
	while (status == LLM_OK && n < b->s->n_repeats && total < REPEAT_MS)
	{
		status = run_once(b, job, &result);
		ms[n++] = result.ms;
		total += result.ms;
	}
	if (status != LLM_OK)
		return status;
	qsort(ms, n, sizeof(ms[0]), by_time);
	f->ms = ms[n / 2];
	f->stats = result.stats;
	return LLM_OK;
}

/*
 * Finds how many words make exactly n tokens as a raw prompt, whatever the model puts in front.
 * Words of two tokens may make that impossible: then it comes close, and rates are computed from
 * what the engine says it had.
 */
static llm_status
find_n_words(bench *b, uint32_t n, uint32_t *n_words)
{
	*n_words = n;
	for (int i = 0; i < PROMPT_ATTEMPTS; i++)
	{
		llm_text text;
		llm_job job = {.kind = LLM_JOB_GENERATE,
		               .flags = LLM_JOB_RAW,
		               .n_rows = 1,
		               .rows = &text,
		               .max_tokens = 1};
		llm_cli_result result = {0};
		uint64_t got;
		llm_status status;

		if (make_text(*n_words, 0, &text, b->err) != LLM_OK)
			return b->err->code;
		status = run_once(b, &job, &result);
		llm_free((char *) text.bytes);
		got = result.stats.n_prompt_tokens;
		if (status != LLM_OK || got == n || got >= (uint64_t) n + *n_words)
			return status;
		*n_words = (uint32_t) (*n_words + n - got);
	}
	return LLM_OK;
}

/* Measures n_rows generations of n_gen tokens from different prompts of n_prompt tokens each. */
static llm_status
measure_generate(bench *b, uint32_t n_prompt, uint32_t n_gen, uint32_t n_rows, figure *f)
{
	llm_text *rows = llm_calloc(n_rows, sizeof(*rows));
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .flags = LLM_JOB_RAW,
	               .n_rows = n_rows,
	               .rows = rows,
	               .max_tokens = n_gen};
	uint32_t n_words;
	llm_status status;

	if (rows == NULL)
		return llm_fail(b->err, LLM_E_NOMEM, "out of memory for %u prompts", n_rows);
	status = find_n_words(b, n_prompt, &n_words);
	for (uint32_t i = 0; status == LLM_OK && i < n_rows; i++)
		status = make_text(n_words, i, &rows[i], b->err);
	if (status == LLM_OK)
		status = measure(b, &job, f);
	for (uint32_t i = 0; i < n_rows; i++)
		llm_free((char *) rows[i].bytes);
	llm_free(rows);
	return status;
}

/* Events a second. */
static double
rate(double n, double ms)
{
	return ms > 0 ? n * 1e3 / ms : 0;
}

/* Prints one figure for the driver. */
static void
print_figure(const char *work, double value, const char *unit)
{
	printf("%s\t%.10g\t%s\n", work, value, unit);
}

/* Prefill: a prompt from an empty cache up to its first token. */
static llm_status
work_prefill(bench *b)
{
	figure f;

	if (measure_generate(b, b->s->n_prompt, 1, 1, &f) != LLM_OK)
		return b->err->code;
	print_figure("prefill", rate((double) f.stats.n_prompt_tokens, f.ms), "tok/s");
	print_figure("prefill/tokens", (double) f.stats.n_prompt_tokens, "tokens");
	return LLM_OK;
}

/* Measures an answer of at most n_gen tokens to a question in the model's chat form. */
static llm_status
measure_answer(bench *b, uint32_t n_gen, bool greedy, figure *f)
{
	const llm_text question = LLM_TEXT("Explain in detail how a steam engine works.");
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .rows = &question,
	               .n_rows = 1,
	               .max_tokens = n_gen,
	               .sample = {.temperature = greedy ? 0.0f : 1.0f, .seed = SEED}};

	return measure(b, &job, f);
}

/*
 * Measures what n_gen further tokens take beyond the first one; *n gets how many there were. At
 * temperature 1 prompt lookup hardly ever guesses right, so each token takes a pass.
 */
static llm_status
measure_decode(bench *b, bool greedy, double *ms, double *n, figure *whole)
{
	figure first;

	if (measure_answer(b, 1, greedy, &first) != LLM_OK ||
	    measure_answer(b, b->s->n_gen + 1, greedy, whole) != LLM_OK)
		return b->err->code;
	*ms = whole->ms - first.ms;
	*n = (double) whole->stats.n_output_tokens - 1;
	return LLM_OK;
}

/*
 * Decoding of one greedy stream. Drafts that were right make it faster, so their number is told,
 * and so is the rate without their help.
 */
static llm_status
work_decode(bench *b)
{
	double ms;
	double n;
	figure f;

	if (measure_decode(b, true, &ms, &n, &f) != LLM_OK)
		return b->err->code;
	print_figure("decode", rate(n, ms), "tok/s");
	print_figure("decode/tokens", n, "tokens");
	print_figure("decode/accepted", (double) f.stats.n_accepted_tokens, "tokens");
	if (measure_decode(b, false, &ms, &n, &f) != LLM_OK)
		return b->err->code;
	print_figure("decode/sampled", rate(n, ms), "tok/s");
	print_figure("decode/sampled/tokens", n, "tokens");
	return LLM_OK;
}

/* Cuts "a,b,c" in place into at most max texts. */
static uint32_t
split(char *list, llm_text *out, uint32_t max)
{
	uint32_t n = 0;

	for (char *at = list; n < max;)
	{
		size_t length = strcspn(at, ",");

		out[n++] = (llm_text){at, length};
		if (at[length] == '\0')
			break;
		at += length + 1;
	}
	return n;
}

/* Prints what a job over the lines of a file came to. */
static void
print_rows(const char *work, const figure *f)
{
	char name[32];

	print_figure(work, rate(f->stats.n_rows, f->ms), "texts/s");
	snprintf(name, sizeof(name), "%s/tokens", work);
	print_figure(name, (double) f->stats.n_prompt_tokens, "tokens");
	snprintf(name, sizeof(name), "%s/shared", work);
	print_figure(name, (double) f->stats.n_shared_tokens, "tokens");
}

/* Classifies the lines of a file. */
static llm_status
work_classify(bench *b, const llm_text *rows, uint32_t n_rows)
{
	llm_text labels[64];
	char *list = llm_strdup(b->s->labels);
	char *instruction = NULL;
	size_t n_instruction = 0;
	llm_job job = {.kind = LLM_JOB_CLASSIFY, .labels = labels, .rows = rows, .n_rows = n_rows};
	llm_status status =
	    list != NULL ? LLM_OK : llm_fail(b->err, LLM_E_NOMEM, "out of memory for the labels");
	figure f;

	if (status == LLM_OK && b->s->instruction != NULL)
		status = llm_cli_read(b->s->instruction, &instruction, &n_instruction, b->err);
	if (status == LLM_OK)
	{
		while (n_instruction > 0 && instruction[n_instruction - 1] == '\n')
			n_instruction--;
		job.n_labels = split(list, labels, sizeof(labels) / sizeof(labels[0]));
		job.instruction = (llm_text){instruction, n_instruction};
		status = measure(b, &job, &f);
	}
	if (status == LLM_OK)
		print_rows("classify", &f);
	llm_free(instruction);
	llm_free(list);
	return status;
}

/* Embeds the lines of a file, cut at the model's own limit. */
static llm_status
work_embed(bench *b, const llm_text *rows, uint32_t n_rows)
{
	llm_job job = {.kind = LLM_JOB_EMBED,
	               .flags = LLM_JOB_TRUNCATE,
	               .rows = rows,
	               .n_rows = n_rows};
	figure f;

	if (measure(b, &job, &f) != LLM_OK)
		return b->err->code;
	print_rows("embed", &f);
	return LLM_OK;
}

/* Reads the texts and runs a work over them. */
static llm_status
work_texts(bench *b, llm_status (*work)(bench *b, const llm_text *rows, uint32_t n_rows))
{
	char *bytes;
	llm_text *rows;
	uint32_t n_rows;
	llm_status status = llm_cli_read_lines(b->s->texts, &bytes, &rows, &n_rows, b->err);

	if (status != LLM_OK)
		return status;
	if (n_rows == 0)
		status = llm_fail(b->err, LLM_E_RANGE, "\"%.180s\" holds no texts", b->s->texts);
	else
		status = work(b, rows, n_rows);
	llm_free(rows);
	llm_free(bytes);
	return status;
}

/* Runs the work of --work, then tells weights and KV in use for the driver's memory goal. */
static llm_status
run_work(bench *b)
{
	llm_status status;

	if (strcmp(b->s->work, "prefill") == 0)
		status = work_prefill(b);
	else if (strcmp(b->s->work, "decode") == 0)
		status = work_decode(b);
	else
		status = work_texts(b, strcmp(b->s->work, "embed") == 0 ? work_embed : work_classify);
	if (status == LLM_OK)
		print_figure("budget", b->info.budget_tokens, "tokens a pass");
	if (status == LLM_OK)
		print_figure("memory/accounted", (double) (b->info.bytes_weights + b->bytes_kv_used), "B");
	return status;
}

/* Peak resident memory of this process, in bytes. */
static double
peak_memory(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) == 0 ? (double) usage.ru_maxrss * 1024 : 0;
}

/* The lines of the table that only a decoder has. */
static llm_status
table_decoder(bench *b)
{
	const settings *s = b->s;
	figure f;
	double ms;
	double n;

	if (measure_generate(b, s->n_prompt, 1, 1, &f) != LLM_OK)
		return b->err->code;
	printf("prefill    %8.0f tok/s   a prompt of %llu tokens in %.1f ms\n",
	       rate((double) f.stats.n_prompt_tokens, f.ms),
	       (unsigned long long) f.stats.n_prompt_tokens, f.ms);
	if (measure_decode(b, true, &ms, &n, &f) != LLM_OK)
		return b->err->code;
	printf("decode     %8.0f tok/s   %.0f tokens in %.1f ms, %llu of %llu drafts accepted\n",
	       rate(n, ms), n, ms, (unsigned long long) f.stats.n_accepted_tokens,
	       (unsigned long long) f.stats.n_draft_tokens);
	if (measure_generate(b, BATCH_PROMPT, s->n_gen, s->n_batch, &f) != LLM_OK)
		return b->err->code;
	printf("batch      %8.0f tok/s   %u prompts at once, %llu tokens in %.1f ms\n",
	       rate((double) f.stats.n_output_tokens, f.ms), s->n_batch,
	       (unsigned long long) f.stats.n_output_tokens, f.ms);
	return LLM_OK;
}

/* The line of an encoder: n_batch texts of n_prompt words, cut at the model's limit. */
static llm_status
table_encoder(bench *b)
{
	const settings *s = b->s;
	llm_text *rows = llm_calloc(s->n_batch, sizeof(*rows));
	llm_text query = LLM_TEXT("which of them");
	llm_job job = {.kind = b->info.kind == LLM_KIND_EMBED ? LLM_JOB_EMBED : LLM_JOB_RELEVANCE,
	               .flags = LLM_JOB_TRUNCATE,
	               .rows = rows,
	               .n_rows = s->n_batch,
	               .rows2 = &query,
	               .n_rows2 = 1};
	llm_status status = LLM_OK;
	figure f;

	if (rows == NULL)
		return llm_fail(b->err, LLM_E_NOMEM, "out of memory for %u texts", s->n_batch);
	for (uint32_t i = 0; status == LLM_OK && i < s->n_batch; i++)
		status = make_text(s->n_prompt, i, &rows[i], b->err);
	if (status == LLM_OK)
		status = measure(b, &job, &f);
	if (status == LLM_OK)
		printf("%-10s %8.0f tok/s   %u texts, %llu tokens in %.1f ms, %.0f texts/s\n",
		       b->info.kind == LLM_KIND_EMBED ? "embed" : "rank",
		       rate((double) f.stats.n_prompt_tokens, f.ms), s->n_batch,
		       (unsigned long long) f.stats.n_prompt_tokens, f.ms, rate(s->n_batch, f.ms));
	for (uint32_t i = 0; i < s->n_batch; i++)
		llm_free((char *) rows[i].bytes);
	llm_free(rows);
	return status;
}

/* Prints the table for people. */
static llm_status
run_table(bench *b)
{
	const llm_model_info *m = &b->info;
	llm_engine_stats stats;
	llm_status status;
	bool on_cpu;

	llm_engine_get_stats(b->e, &stats);
	on_cpu = strcmp(stats.device, "cpu") == 0;
	printf("model      %s, %.1f million parameters, %s computed in %s\n", m->arch,
	       (double) m->n_params / 1e6, m->quantisation,
	       !on_cpu     ? "bf16"
	       : b->s->f32 ? "float"
	                   : "int8");
	printf("device     %s, %s, %u tokens a pass\n", stats.device, on_cpu ? llm_cli_isa() : "CUDA",
	       m->budget_tokens);
	status = m->kind == LLM_KIND_GENERATE ? table_decoder(b) : table_encoder(b);
	if (status == LLM_OK)
		printf("memory     %8.0f MB      at most, for %.0f MB of weights and %.0f MB of keys and "
		       "values\n",
		       peak_memory() / 1e6, (double) m->bytes_weights / 1e6,
		       (double) b->bytes_kv_used / 1e6);
	return status;
}

/* Reads the command line. */
static int
parse(const llm_cli_command *command, int argc, char **argv, settings *s, const char **args)
{
	static const char *const works[] = {"prefill", "decode", "classify", "embed", "pack"};
	static const char *const modes[] = {"packed", "padded", "sorted", "unshared"};
	int status = llm_cli_parse(command, argc, argv, args);
	bool work = s->work == NULL;
	bool mode = false;

	if (status != LLM_CLI_RUN)
		return status;
	for (int i = 0; i < 5; i++)
		work = work || strcmp(s->work, works[i]) == 0;
	for (int i = 0; i < 4; i++)
		mode = mode || strcmp(s->mode, modes[i]) == 0;
	if (!work)
		return llm_cli_usage(command, "there is no work \"%s\"", s->work);
	if (!mode)
		return llm_cli_usage(command, "there is no mode \"%s\"", s->mode);
	if (s->work != NULL && s->texts == NULL && strchr("cep", s->work[0]) != NULL &&
	    strcmp(s->work, "prefill") != 0)
		return llm_cli_usage(command, "--work %s needs --texts", s->work);
	if (s->n_prompt == 0 || s->n_gen == 0 || s->n_batch == 0)
		return llm_cli_usage(command, "--prompt, --gen and --batch take 1 or more");
	if (s->n_repeats == 0 || s->n_repeats > REPEATS_MAX)
		return llm_cli_usage(command, "--repeats takes 1 to %d", REPEATS_MAX);
	return LLM_CLI_RUN;
}

/* Loads the model as the mode asks and runs the table or the work. */
static llm_status
run(const settings *s, const char *model, llm_error *err)
{
	bool padded = strcmp(s->mode, "padded") == 0;
	bool sorted = strcmp(s->mode, "sorted") == 0;
	llm_engine_params params = {.device = s->f32 ? "cpu" : s->device,
	                            .quantisation = s->quantisation,
	                            .any_bits = s->any_bits,
	                            .n_threads = s->n_threads,
	                            .precision = s->f32 ? PP_PREC_F32 : PP_PREC_INT8,
	                            .no_prefix_sharing = strcmp(s->mode, "unshared") == 0,
	                            .budget_tokens = padded || sorted ? PAD_BUDGET : 0,
	                            .pad_group = padded || sorted ? PAD_GROUP : 0,
	                            .pad_sorted = sorted};
	bench b = {.s = s, .err = err};
	llm_status status;

	if (s->work != NULL && strcmp(s->work, "pack") == 0)
		return llm_cli_pack(model, s->texts, err);
	status = llm_cli_open(model, &params, &b.e, &b.info, err);
	if (status == LLM_OK)
		status = s->work != NULL ? run_work(&b) : run_table(&b);
	llm_engine_destroy(b.e);
	return status;
}

/* prepack-engine bench */
int
llm_cli_bench(int argc, char **argv)
{
	settings s = {.mode = "packed",
	              .labels = "yes,no",
	              .n_prompt = 512,
	              .n_gen = 128,
	              .n_batch = 32,
	              .n_repeats = 5};
	const llm_cli_option options[] = {
	    {"--prompt", "N", LLM_CLI_COUNT, &s.n_prompt, "tokens of the prompt (512)"},
	    {"--gen", "N", LLM_CLI_COUNT, &s.n_gen, "tokens to generate (128)"},
	    {"--batch", "N", LLM_CLI_COUNT, &s.n_batch, "prompts or texts at once (32)"},
	    {"--threads", "N", LLM_CLI_COUNT, &s.n_threads, "threads (all cores)"},
	    {"--device", "DEVICE", LLM_CLI_TEXT, &s.device, "auto, cpu or cuda:N (auto)"},
	    {"--quantisation", "FORM", LLM_CLI_TEXT, &s.quantisation,
	     "weights on a card: auto, bf16 or fp8 (auto)"},
	    {"--repeats", "N", LLM_CLI_COUNT, &s.n_repeats,
	     "runs of which the median counts, at most (5)"},
	    {"--any-bits", NULL, LLM_CLI_FLAG, &s.any_bits,
	     "on a card, bits may depend on the batch where that is faster"},
	    {"--f32", NULL, LLM_CLI_FLAG, &s.f32, "compute in float instead of int8"},
	    {"--work", "WORK", LLM_CLI_TEXT, &s.work, "only prefill, decode, classify, embed or pack"},
	    {"--mode", "MODE", LLM_CLI_TEXT, &s.mode, "packed; baselines: padded, sorted, unshared"},
	    {"--texts", "FILE", LLM_CLI_TEXT, &s.texts, "what to classify or embed, a text a line"},
	    {"--instruction", "FILE", LLM_CLI_TEXT, &s.instruction, "what to classify by"},
	    {"--labels", "A,B,...", LLM_CLI_TEXT, &s.labels, "what to choose from (yes,no)"},
	};
	const llm_cli_command command = {
	    .name = "bench",
	    .arguments = "MODEL",
	    .what = "Measures MODEL on this machine. With --work, prints lines of work, figure and "
	            "unit\nwith tabs between, as bench/bench-llm reads them.",
	    .n_args_min = 1,
	    .n_args_max = 1,
	    .options = options,
	    .n_options = sizeof(options) / sizeof(options[0])};
	const char *args[1];
	llm_error err = {0};
	int status = parse(&command, argc, argv, &s, args);

	if (status != LLM_CLI_RUN)
		return status;
	return run(&s, args[0], &err) == LLM_OK ? LLM_CLI_OK : llm_cli_fail(&err);
}
