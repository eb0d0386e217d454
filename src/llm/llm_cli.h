/*
 * llm_cli.h: what the commands of prepack-engine share. Not part of the library.
 *
 * A command is a table of options and a function; parsing, --help and the words of usage errors
 * follow from the table. Exit statuses: 0, 1 when the work failed, 2 when the call is wrong, 130
 * after Ctrl-C. Results go to stdout, everything else to stderr.
 *
 * Threads: commands run on the main thread; the engine brings its own.
 */
#ifndef LLM_CLI_H
#define LLM_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm.h"

#define LLM_CLI_OK          0
#define LLM_CLI_FAILED      1
#define LLM_CLI_USAGE       2
#define LLM_CLI_INTERRUPTED 130  /* 128 + SIGINT, as shells do */
#define LLM_CLI_RUN         (-1) /* llm_cli_parse: go on */

#define LLM_CLI_MODEL    "model" /* the name under which llm_cli_open loads */
#define LLM_CLI_LIST_MAX 16

/* Values of an option that may be given several times. */
typedef struct llm_cli_list
{
	const char *items[LLM_CLI_LIST_MAX];
	uint32_t n;
} llm_cli_list;

/* What *out of an option is, and so how its value is read. */
typedef enum llm_cli_kind
{
	LLM_CLI_FLAG,  /* bool; takes no value */
	LLM_CLI_COUNT, /* uint32_t */
	LLM_CLI_SEED,  /* uint64_t */
	LLM_CLI_REAL,  /* float */
	LLM_CLI_TEXT,  /* const char * */
	LLM_CLI_TEXTS  /* llm_cli_list */
} llm_cli_kind;

typedef struct llm_cli_option
{
	const char *name;  /* "--max-tokens" */
	const char *value; /* what help calls its value; NULL for a flag */
	llm_cli_kind kind;
	void *out;
	const char *what; /* for help */
} llm_cli_option;

typedef struct llm_cli_command
{
	const char *name;      /* "generate" */
	const char *arguments; /* "MODEL [PROMPT]" */
	const char *what;      /* for help; may have several lines */
	uint32_t n_args_min;
	uint32_t n_args_max;
	const llm_cli_option *options;
	uint32_t n_options;
} llm_cli_command;

/*
 * Reads argv[1 … argc − 1] into the options' variables and args[n_args_max], whose rest is NULL.
 * LLM_CLI_RUN when the command shall run, else the exit status: --help or a wrong call, both
 * answered.
 */
int llm_cli_parse(const llm_cli_command *command, int argc, char **argv, const char **args);
/* Writes "prepack-engine NAME: …" and where help is; returns LLM_CLI_USAGE. */
int llm_cli_usage(const llm_cli_command *command, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Writes "prepack-engine: message"; returns the exit status that goes with the error. */
int llm_cli_fail(const llm_error *err);

/* A whole file, "-" being stdin. *bytes is for llm_free, NUL-terminated, *n without that NUL. */
llm_status llm_cli_read(const char *path, char **bytes, size_t *n, llm_error *err);
/* The same cut into its lines, in place; *lines[*n_lines] is for llm_free and points into *bytes.
 */
llm_status llm_cli_read_lines(const char *path, char **bytes, llm_text **lines, uint32_t *n_lines,
                              llm_error *err);

/*
 * llm_cli_model.c: the path of a model given as a path, or as a name in the model folder
 * ($PREPACK_MODELS, else ./models), with or without .gguf.
 */
llm_status llm_cli_model_path(const char *model, char *path, size_t bytes, llm_error *err);
/* The paths of all models in the model folder, by name. */
llm_status llm_cli_model_list(char ***paths, uint32_t *n, llm_error *err);
void llm_cli_model_list_free(char **paths, uint32_t n);
/* An engine with this model loaded as LLM_CLI_MODEL; info may be NULL. */
llm_status llm_cli_open(const char *model, const llm_engine_params *params, llm_engine **out,
                        llm_model_info *info, llm_error *err);
/* What llm_cli_run tells of a job besides its rows. */
typedef struct llm_cli_result
{
	llm_job_stats stats;
	double ms;              /* from submit to the end */
	uint64_t bytes_kv_used; /* the most that was seen in use between passes */
} llm_cli_result;

/*
 * Runs one job to its end on this thread. Fails with the first row that failed; the others got
 * their on_row. Ctrl-C cancels the job (LLM_E_CANCELLED), a second one ends the process. result may
 * be NULL.
 */
llm_status llm_cli_run(llm_engine *e, const llm_job *job, llm_cli_result *result, llm_error *err);
/* What the CPU backend runs on: "AVX-512 with VNNI". */
const char *llm_cli_isa(void);
/* Monotonic milliseconds. */
double llm_cli_now_ms(void);

/* llm_cli_pack.c: prints how full fixed shapes would be of the lines of a file. */
llm_status llm_cli_pack(const char *model, const char *file, llm_error *err);

/* The commands: argv[0] is the command's name; they return the exit status. */
int llm_cli_generate(int argc, char **argv);
int llm_cli_inspect(int argc, char **argv);
int llm_cli_selftest(int argc, char **argv);
int llm_cli_bench(int argc, char **argv);
int llm_cli_serve(int argc, char **argv);

#endif /* LLM_CLI_H */
