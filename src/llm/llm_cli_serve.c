/*
 * llm_cli_serve.c: the command serve, which the supervisor runs.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_cli.h"
#include "llm_server.h"

/* Reads a number within [0, max]; false when it is none. */
static bool
number(const char *text, unsigned long long max, unsigned long long *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && text[0] != '-' && *out <= max;
}

/* Takes one option with its value; false: unknown, or a bad value. */
static bool
take_option(const char *name, const char *value, llm_server_params *p)
{
	unsigned long long n;

	if (strcmp(name, "--socket") == 0)
		p->socket_path = value;
	else if (strcmp(name, "--models") == 0)
		p->model_directory = value;
	else if (strcmp(name, "--keys") == 0)
		p->key_directory = value;
	else if (strcmp(name, "--device") == 0)
		p->engine.device = value;
	else if (strcmp(name, "--quantisation") == 0)
		p->engine.quantisation = value;
	else if (strcmp(name, "--threads") == 0 && number(value, 1024, &n))
		p->engine.n_threads = (uint32_t) n;
	else if (strcmp(name, "--context") == 0 && number(value, 1 << 24, &n))
		p->engine.n_ctx = (uint32_t) n;
	else if (strcmp(name, "--memory-limit") == 0 && number(value, UINT64_MAX, &n))
		p->engine.memory_limit = n;
	else if (strcmp(name, "--control-fd") == 0 && number(value, 1 << 20, &n))
		p->control_fd = (int) n;
	else
		return false;
	return true;
}

/* Writes a line to the server's log. */
static void
log_line(const char *message)
{
	fprintf(stderr, "prepack-engine: %s\n", message);
}

/* Runs the server until it is told to stop. */
int
llm_cli_serve(int argc, char **argv)
{
	llm_server_params params = {.control_fd = -1,
	                            .engine.precision = PP_PREC_INT8,
	                            .log = log_line};
	llm_error err = {0};

	for (int i = 1; i < argc; i++)
	{
		if (strcmp(argv[i], "--allow-faults") == 0)
			params.allow_faults = true;
		else if (strcmp(argv[i], "--any-bits") == 0)
			params.engine.any_bits = true;
		else if (i + 1 >= argc || !take_option(argv[i], argv[i + 1], &params))
		{
			fprintf(stderr, "prepack-engine serve: bad option \"%s\"\n", argv[i]);
			return LLM_CLI_USAGE;
		}
		else
			i++;
	}
	if (params.socket_path == NULL)
	{
		fprintf(stderr, "prepack-engine serve: --socket PATH is needed\n");
		return LLM_CLI_USAGE;
	}
	if (llm_server_run(&params, &err) == LLM_OK)
		return 0;
	fprintf(stderr, "prepack-engine: %s\n", err.message);
	return 1;
}
