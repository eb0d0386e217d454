/*
 * llm_cli_model.c: from what the user calls a model to an engine that has it loaded, and from a job
 * to its result.
 *
 * A model is a path or, as a convenience, a name in the model folder; a path wins, so that nothing
 * in the folder can hide a file that the user names. Errors list the names that would have worked.
 *
 * Ctrl-C sets a flag that the step loop looks at between passes: the engine ends the job as it ends
 * any cancelled one, and frees what it holds.
 */
#include "llm_cli.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "llm_alloc.h"
#include "llm_cpu.h"

static volatile sig_atomic_t interrupted;

/* The folder that names are looked up in. */
static const char *
model_folder(void)
{
	const char *folder = getenv("PREPACK_MODELS");

	return folder != NULL && folder[0] != '\0' ? folder : "models";
}

/* Is there something that may be a model: a .gguf file or a folder with a config.json? */
static bool
is_model(const char *path)
{
	char config[4096];
	size_t n = strlen(path);
	struct stat st;

	if (stat(path, &st) != 0)
		return false;
	if (S_ISREG(st.st_mode))
		return n > 5 && strcmp(path + n - 5, ".gguf") == 0;
	return S_ISDIR(st.st_mode) &&
	       snprintf(config, sizeof(config), "%s/config.json", path) < (int) sizeof(config) &&
	       access(config, F_OK) == 0;
}

/* Orders paths by name. */
static int
by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Appends a copy of path to the list. */
static llm_status
list_add(char ***paths, uint32_t *n, const char *path, llm_error *err)
{
	char **grown = llm_realloc_array(*paths, (size_t) *n + 1, sizeof(**paths));

	if (grown != NULL)
		*paths = grown;
	if (grown == NULL || (grown[*n] = llm_strdup(path)) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory while listing models");
	(*n)++;
	return LLM_OK;
}

/* A folder that is not there holds no models. */
llm_status
llm_cli_model_list(char ***paths, uint32_t *n, llm_error *err)
{
	DIR *folder = opendir(model_folder());
	const struct dirent *entry;
	char path[4096];
	llm_status status = LLM_OK;

	*paths = NULL;
	*n = 0;
	while (folder != NULL && status == LLM_OK && (entry = readdir(folder)) != NULL)
	{
		int length = snprintf(path, sizeof(path), "%s/%s", model_folder(), entry->d_name);

		if (entry->d_name[0] != '.' && length < (int) sizeof(path) && is_model(path))
			status = list_add(paths, n, path, err);
	}
	if (folder != NULL)
		closedir(folder);
	if (status != LLM_OK)
		llm_cli_model_list_free(*paths, *n);
	else if (*n > 1)
		qsort(*paths, *n, sizeof(**paths), by_name);
	return status;
}

/* Frees a list of paths. */
void
llm_cli_model_list_free(char **paths, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		llm_free(paths[i]);
	llm_free(paths);
}

/* Fails with the names that there are. */
static llm_status
fail_unknown(const char *model, llm_error *err)
{
	char names[160] = "";
	size_t used = 0;
	char **paths;
	uint32_t n;

	if (llm_cli_model_list(&paths, &n, err) != LLM_OK)
		return err->code;
	for (uint32_t i = 0; i < n; i++)
	{
		const char *name = strrchr(paths[i], '/') + 1;
		int written =
		    snprintf(names + used, sizeof(names) - used, "%s%s", used > 0 ? ", " : "", name);

		if (written < 0 || (size_t) written >= sizeof(names) - used)
			break;
		used += (size_t) written;
	}
	llm_cli_model_list_free(paths, n);
	return llm_fail(err, LLM_E_NOT_FOUND, "there is no model \"%.64s\"; in %.64s: %s", model,
	                model_folder(), used > 0 ? names : "none");
}

/* Tries the path, then the name in the model folder, then with its ending. */
llm_status
llm_cli_model_path(const char *model, char *path, size_t bytes, llm_error *err)
{
	static const char *const endings[] = {"", ".gguf"};

	if (snprintf(path, bytes, "%s", model) >= (int) bytes)
		return llm_fail(err, LLM_E_RANGE, "the path of the model is too long");
	if (access(path, F_OK) == 0)
		return LLM_OK;
	for (size_t i = 0; i < 2 && strchr(model, '/') == NULL && model[0] != '\0'; i++)
		if (snprintf(path, bytes, "%s/%s%s", model_folder(), model, endings[i]) < (int) bytes &&
		    is_model(path))
			return LLM_OK;
	return fail_unknown(model, err);
}

/* Resolves, creates, loads. */
llm_status
llm_cli_open(const char *model, const llm_engine_params *params, llm_engine **out,
             llm_model_info *info, llm_error *err)
{
	char path[4096];
	llm_engine *e;

	if (llm_cli_model_path(model, path, sizeof(path), err) != LLM_OK ||
	    llm_engine_create(params, &e, err) != LLM_OK)
		return err->code;
	if (llm_engine_load(e, LLM_CLI_MODEL, path, NULL, err) != LLM_OK)
	{
		llm_engine_destroy(e);
		return err->code;
	}
	if (info != NULL)
		llm_engine_models(e, info, 1);
	*out = e;
	return LLM_OK;
}

/* Names the instruction set. */
const char *
llm_cli_isa(void)
{
	static const char *const names[] = {"base instructions", "AVX2", "AVX-512", "AVX-512 with VNNI",
	                                    "AMX"};

	return names[llm_cpu_detect()];
}

/* Reads the clock that no change of date moves. */
double
llm_cli_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec * 1e3 + (double) ts.tv_nsec * 1e-6;
}

/* A job while llm_cli_run drives it. */
typedef struct run
{
	const llm_job *job;
	llm_cli_result result;
	llm_error error; /* of the first row that failed, or of the job */
	bool done;
} run;

/* Keeps the first row's error and passes the row on. */
static void
run_row(void *user, const llm_row_result *result)
{
	run *r = user;

	if (result->status != LLM_OK && r->error.code == LLM_OK)
		llm_fail(&r->error, result->status, "%s", result->message);
	if (r->job->on_row != NULL)
		r->job->on_row(r->job->user, result);
}

/* Passes a piece of text on. */
static void
run_piece(void *user, uint32_t row, llm_text piece)
{
	run *r = user;

	r->job->on_piece(r->job->user, row, piece);
}

/* Keeps how the job ended. */
static void
run_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	run *r = user;

	if (status != LLM_OK && r->error.code != LLM_E_INTERNAL)
		llm_fail(&r->error, status, "%s", message);
	r->result.stats = *stats;
	r->done = true;
}

/* The handler of Ctrl-C. */
static void
interrupt(int signal)
{
	(void) signal;
	interrupted = 1;
}

/* Steps until the job has ended; cancels it when asked to, or when the engine stands still. */
static void
step_until_done(llm_engine *e, run *r, uint64_t id)
{
	llm_engine_stats stats;
	bool cancelled = false;

	while (!r->done)
	{
		bool idle = !llm_engine_step(e) && !r->done;

		if (idle)
			llm_fail(&r->error, LLM_E_INTERNAL, "the job stopped before its end");
		if ((idle || interrupted) && !cancelled)
		{
			llm_engine_cancel(e, id);
			cancelled = true;
		}
		llm_engine_get_stats(e, &stats);
		if (stats.bytes_kv_used > r->result.bytes_kv_used)
			r->result.bytes_kv_used = stats.bytes_kv_used;
	}
}

/* The default action is back after the first signal, so the second one kills. */
llm_status
llm_cli_run(llm_engine *e, const llm_job *job, llm_cli_result *result, llm_error *err)
{
	struct sigaction catch = {.sa_handler = interrupt, .sa_flags = (int) SA_RESETHAND};
	struct sigaction before;
	llm_job copy = *job;
	run r = {.job = job};
	double start;
	uint64_t id;

	copy.user = &r;
	copy.on_row = run_row;
	copy.on_piece = job->on_piece != NULL ? run_piece : NULL;
	copy.on_done = run_done;
	start = llm_cli_now_ms();
	if (llm_engine_submit(e, &copy, &id, err) != LLM_OK)
		return err->code;
	interrupted = 0;
	sigaction(SIGINT, &catch, &before);
	step_until_done(e, &r, id);
	sigaction(SIGINT, &before, NULL);
	r.result.ms = llm_cli_now_ms() - start;
	if (result != NULL)
		*result = r.result;
	if (r.error.code != LLM_OK)
		*err = r.error;
	return r.error.code;
}
