/*
 * llm_main.c: the prepack-engine program: finds the command and runs it.
 *
 * Each command lives in its own llm_cli_<command>.c. What was written to stdout is checked once, at
 * the end, so that a full disk is an error and not a short file.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "llm_cli.h"

#define VERSION "1.0"

/* What can be called, in the order of help. */
static const struct
{
	const char *name;
	const char *what;
	int (*run)(int argc, char **argv);
} commands[] = {
    {"generate", "write what a model answers to a prompt", llm_cli_generate},
    {"inspect", "show what a model file holds", llm_cli_inspect},
    {"selftest", "check that this machine computes rightly", llm_cli_selftest},
    {"bench", "measure how fast a model runs on this machine", llm_cli_bench},
    {"serve", "answer on a socket; the database's supervisor runs this", llm_cli_serve},
};

#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* Prints the list of commands. */
static void
print_commands(FILE *to)
{
	fprintf(to, "usage: prepack-engine COMMAND [arguments] [options]\n\n");
	for (size_t i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].what);
	fprintf(to, "\n\"prepack-engine COMMAND --help\" tells the options of a command.\n"
	            "MODEL is a .gguf file, a Hugging Face folder, or the name of one in the model "
	            "folder\n(PREPACK_MODELS, else ./models).\n");
}

/* Flushes stdout; a result that could not be written is a failure. */
static int
finish(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	fprintf(stderr, "prepack-engine: could not write the result: %s\n", strerror(errno));
	return status == LLM_CLI_OK ? LLM_CLI_FAILED : status;
}

/* Finds the command and runs it. */
int
main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--version") == 0)
	{
		printf("prepack-engine %s\n", VERSION);
		return finish(LLM_CLI_OK);
	}
	if (argc > 1 && strcmp(argv[1], "--help") == 0)
	{
		print_commands(stdout);
		return finish(LLM_CLI_OK);
	}
	for (size_t i = 0; argc > 1 && i < N_COMMANDS; i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return finish(commands[i].run(argc - 1, argv + 1));
	if (argc > 1)
		fprintf(stderr, "prepack-engine: there is no command \"%s\"\n", argv[1]);
	print_commands(stderr);
	return LLM_CLI_USAGE;
}
