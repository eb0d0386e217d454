/*
 * llm_cli_generate.c: prepack-engine generate: one prompt, its answer on stdout as it is produced.
 *
 * The prompt is the row of a job with no instruction, so that it enters the chat template as it
 * is; with --raw there is no template and the prompt is the instruction, which is tokenised with
 * what the model puts at the start of a text.
 */
#include <stdio.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_cli.h"

/* What the command line asks for. */
typedef struct settings
{
	const char *system;
	const char *schema;
	llm_cli_list stops;
	uint32_t max_tokens;
	uint32_t n_threads;
	uint32_t n_ctx;
	const char *device;
	const char *quantisation;
	llm_sample_params sample;
	bool f32;
	bool raw;
	bool stats;
} settings;

/* What has been written so far. */
typedef struct output
{
	bool ends_line; /* the last byte was a line end */
	llm_finish finish;
	uint32_t n_prompt;
	uint32_t n_output;
} output;

/* Reads the command line. */
static int
parse(int argc, char **argv, settings *s, const char *args[2])
{
	const llm_cli_option options[] = {
	    {"--system", "TEXT", LLM_CLI_TEXT, &s->system, "system prompt"},
	    {"--max-tokens", "N", LLM_CLI_COUNT, &s->max_tokens, "longest answer (256)"},
	    {"--temperature", "F", LLM_CLI_REAL, &s->sample.temperature, "0 = greedy (0)"},
	    {"--top-k", "N", LLM_CLI_COUNT, &s->sample.top_k, "choose among the N likeliest tokens"},
	    {"--top-p", "F", LLM_CLI_REAL, &s->sample.top_p, "... among the likeliest that sum to F"},
	    {"--min-p", "F", LLM_CLI_REAL, &s->sample.min_p,
	     "... among those at least F times as likely as the likeliest"},
	    {"--seed", "N", LLM_CLI_SEED, &s->sample.seed, "the same seed gives the same text (0)"},
	    {"--stop", "TEXT", LLM_CLI_TEXTS, &s->stops, "end before this text; up to 16 times"},
	    {"--schema", "FILE", LLM_CLI_TEXT, &s->schema, "answer in JSON that fits this schema"},
	    {"--context", "N", LLM_CLI_COUNT, &s->n_ctx, "longest context (the model's own)"},
	    {"--threads", "N", LLM_CLI_COUNT, &s->n_threads, "threads (all cores)"},
	    {"--device", "DEVICE", LLM_CLI_TEXT, &s->device, "auto, cpu or cuda:N (auto)"},
	    {"--quantisation", "FORM", LLM_CLI_TEXT, &s->quantisation,
	     "weights on a card: auto, bf16 or fp8 (auto)"},
	    {"--f32", NULL, LLM_CLI_FLAG, &s->f32, "compute in float instead of int8"},
	    {"--raw", NULL, LLM_CLI_FLAG, &s->raw, "continue PROMPT, without a chat template"},
	    {"--stats", NULL, LLM_CLI_FLAG, &s->stats, "tell tokens and times on stderr"},
	};
	const llm_cli_command command = {
	    .name = "generate",
	    .arguments = "MODEL [PROMPT]",
	    .what = "Writes what MODEL answers to PROMPT; without PROMPT, or with \"-\", it is read\n"
	            "from the standard input. Ctrl-C ends the answer.",
	    .n_args_min = 1,
	    .n_args_max = 2,
	    .options = options,
	    .n_options = sizeof(options) / sizeof(options[0])};

	return llm_cli_parse(&command, argc, argv, args);
}

/* Writes a piece at once. */
static void
on_piece(void *user, uint32_t row, llm_text piece)
{
	output *o = user;

	(void) row;
	fwrite(piece.bytes, 1, piece.n, stdout);
	fflush(stdout);
	if (piece.n > 0)
		o->ends_line = piece.bytes[piece.n - 1] == '\n';
}

/* Notes how the answer ended. */
static void
on_row(void *user, const llm_row_result *result)
{
	output *o = user;

	o->finish = result->finish;
	o->n_prompt = result->n_tokens;
	o->n_output = result->n_output;
}

/* Tokens a second, 0 when no time passed. */
static double
rate(uint32_t n, double ms)
{
	return ms > 0 ? n * 1e3 / ms : 0;
}

/* Tells tokens and times. */
static void
print_stats(const output *o, const llm_job_stats *stats)
{
	static const char *const finish[] = {"none", "end of the answer", "longest answer or context",
	                                     "stop text"};

	fprintf(stderr, "prompt:  %u tokens in %.1f ms, %.0f tok/s\n", o->n_prompt, stats->prefill_ms,
	        rate(o->n_prompt, stats->prefill_ms));
	fprintf(stderr, "answer:  %u tokens in %.1f ms, %.0f tok/s\n", o->n_output, stats->decode_ms,
	        rate(o->n_output, stats->decode_ms));
	fprintf(stderr, "drafts:  %llu of %llu proposed tokens accepted\n",
	        (unsigned long long) stats->n_accepted_tokens,
	        (unsigned long long) stats->n_draft_tokens);
	fprintf(stderr, "ended by: %s\n", finish[o->finish]);
}

/* Builds the job, runs it, ends the last line. */
static llm_status
answer(llm_engine *e, const settings *s, llm_text prompt, llm_text schema, llm_error *err)
{
	output o = {.ends_line = true};
	llm_text stops[LLM_CLI_LIST_MAX];
	llm_cli_result result = {0};
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .model = LLM_CLI_MODEL,
	               .flags = LLM_JOB_STREAM | (s->raw ? LLM_JOB_RAW : 0),
	               .n_rows = 1,
	               .max_tokens = s->max_tokens,
	               .sample = s->sample,
	               .stops = stops,
	               .n_stops = s->stops.n,
	               .schema = schema,
	               .user = &o,
	               .on_row = on_row,
	               .on_piece = on_piece};
	llm_status status;

	if (s->system != NULL)
		job.system = (llm_text){s->system, strlen(s->system)};
	if (s->raw)
		job.instruction = prompt;
	else
		job.rows = &prompt;
	for (uint32_t i = 0; i < s->stops.n; i++)
		stops[i] = (llm_text){s->stops.items[i], strlen(s->stops.items[i])};
	status = llm_cli_run(e, &job, &result, err);
	if (!o.ends_line)
		putchar('\n');
	if (s->stats)
		print_stats(&o, &result.stats);
	return status;
}

/* Reads what comes from files, then loads and answers. */
static llm_status
generate(const settings *s, const char *model, const char *prompt, llm_error *err)
{
	llm_engine_params params = {.device = s->f32 ? "cpu" : s->device,
	                            .quantisation = s->quantisation,
	                            .n_threads = s->n_threads,
	                            .n_ctx = s->n_ctx,
	                            .precision = s->f32 ? PP_PREC_F32 : PP_PREC_INT8};
	char *input = NULL;
	char *schema = NULL;
	llm_text prompt_text = {prompt, prompt != NULL ? strlen(prompt) : 0};
	llm_text schema_text = {0};
	llm_engine *e = NULL;
	llm_status status = LLM_OK;

	if (prompt == NULL || strcmp(prompt, "-") == 0)
	{
		status = llm_cli_read("-", &input, &prompt_text.n, err);
		prompt_text.bytes = input;
	}
	if (status == LLM_OK && s->schema != NULL)
	{
		status = llm_cli_read(s->schema, &schema, &schema_text.n, err);
		schema_text.bytes = schema;
	}
	if (status == LLM_OK)
		status = llm_cli_open(model, &params, &e, NULL, err);
	if (status == LLM_OK)
		status = answer(e, s, prompt_text, schema_text, err);
	llm_engine_destroy(e);
	llm_free(input);
	llm_free(schema);
	return status;
}

/* prepack-engine generate */
int
llm_cli_generate(int argc, char **argv)
{
	settings s = {.max_tokens = 256};
	const char *args[2];
	llm_error err = {0};
	int status = parse(argc, argv, &s, args);

	if (status != LLM_CLI_RUN)
		return status;
	return generate(&s, args[0], args[1], &err) == LLM_OK ? LLM_CLI_OK : llm_cli_fail(&err);
}
