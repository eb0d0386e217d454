/*
 * llm_cli.c: options, help, messages and files of the command line.
 *
 * One parser for all commands: "--name value" and "--name=value", "--" ends options, and options
 * may stand before, between and after arguments. Numbers must be whole and in range: "--top-k 5x"
 * is refused rather than read as 5.
 */
#include "llm_cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"

#define READ_STEP   ((size_t) 1 << 16)
#define READ_MAX    ((size_t) 1 << 30)
#define HELP_COLUMN 24

/* Prints what the command does and its options. */
static int
print_help(const llm_cli_command *c)
{
	printf("usage: prepack-engine %s %s%s\n\n%s\n", c->name, c->arguments,
	       c->n_options > 0 ? " [options]" : "", c->what);
	if (c->n_options > 0)
		printf("\noptions:\n");
	for (uint32_t i = 0; i < c->n_options; i++)
	{
		const llm_cli_option *o = &c->options[i];
		int n = printf("  %s %s", o->name, o->value != NULL ? o->value : "");

		printf("%*s%s\n", n < HELP_COLUMN ? HELP_COLUMN - n : 1, "", o->what);
	}
	return LLM_CLI_OK;
}

/* Says what is wrong with the call and where help is. */
int
llm_cli_usage(const llm_cli_command *command, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "prepack-engine %s: ", command->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nTry \"prepack-engine %s --help\".\n", command->name);
	return LLM_CLI_USAGE;
}

/* Says why the work failed. */
int
llm_cli_fail(const llm_error *err)
{
	fprintf(stderr, "prepack-engine: %s\n", err->message);
	return err->code == LLM_E_CANCELLED ? LLM_CLI_INTERRUPTED : LLM_CLI_FAILED;
}

/* Reads a whole number without sign, at most max. */
static bool
read_integer(const char *text, uint64_t max, uint64_t *out)
{
	unsigned long long value;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	*out = value;
	return errno == 0 && *end == '\0' && value <= max;
}

/* Reads a finite number. */
static bool
read_real(const char *text, float *out)
{
	char *end;
	double value = strtod(text, &end);

	*out = (float) value;
	return end != text && *end == '\0' && isfinite(*out);
}

/* Stores the value of an option; false when it is not what the option takes. */
static bool
store(const llm_cli_option *o, const char *value)
{
	uint64_t integer;
	llm_cli_list *list = o->out;

	switch (o->kind)
	{
		case LLM_CLI_FLAG:
			*(bool *) o->out = true;
			return true;
		case LLM_CLI_COUNT:
			if (!read_integer(value, UINT32_MAX, &integer))
				return false;
			*(uint32_t *) o->out = (uint32_t) integer;
			return true;
		case LLM_CLI_SEED:
			return read_integer(value, UINT64_MAX, o->out);
		case LLM_CLI_REAL:
			return read_real(value, o->out);
		case LLM_CLI_TEXT:
			*(const char **) o->out = value;
			return true;
		case LLM_CLI_TEXTS:
			if (list->n == LLM_CLI_LIST_MAX)
				return false;
			list->items[list->n++] = value;
			return true;
	}
	return false;
}

/* Finds the option that an argument names; *value gets what follows its "=", else NULL. */
static const llm_cli_option *
find_option(const llm_cli_command *c, const char *arg, const char **value)
{
	size_t n = strcspn(arg, "=");

	*value = arg[n] == '=' ? arg + n + 1 : NULL;
	for (uint32_t i = 0; i < c->n_options; i++)
		if (strlen(c->options[i].name) == n && memcmp(c->options[i].name, arg, n) == 0)
			return &c->options[i];
	return NULL;
}

/* Reads the option at argv[*i] with its value; moves *i to the last argument used. */
static int
parse_option(const llm_cli_command *c, int argc, char **argv, int *i)
{
	const char *value;
	const llm_cli_option *o = find_option(c, argv[*i], &value);

	if (o == NULL)
		return llm_cli_usage(c, "there is no option \"%s\"", argv[*i]);
	if (o->kind == LLM_CLI_FLAG && value != NULL)
		return llm_cli_usage(c, "%s takes no value", o->name);
	if (o->kind != LLM_CLI_FLAG && value == NULL)
	{
		if (*i + 1 == argc)
			return llm_cli_usage(c, "%s needs a value: %s", o->name, o->value);
		value = argv[++*i];
	}
	if (store(o, value))
		return LLM_CLI_RUN;
	if (o->kind == LLM_CLI_TEXTS)
		return llm_cli_usage(c, "%s may be given %d times", o->name, LLM_CLI_LIST_MAX);
	return llm_cli_usage(c, "%s takes a %s, not \"%s\"", o->name,
	                     o->kind == LLM_CLI_REAL ? "number" : "whole number", value);
}

/* Options may stand anywhere; what is none is an argument. */
int
llm_cli_parse(const llm_cli_command *command, int argc, char **argv, const char **args)
{
	uint32_t n = 0;
	bool options = true;

	for (uint32_t i = 0; i < command->n_args_max; i++)
		args[i] = NULL;
	for (int i = 1; i < argc; i++)
	{
		int status = LLM_CLI_RUN;

		if (options && strcmp(argv[i], "--help") == 0)
			return print_help(command);
		if (options && strcmp(argv[i], "--") == 0)
			options = false;
		else if (options && argv[i][0] == '-' && argv[i][1] != '\0')
			status = parse_option(command, argc, argv, &i);
		else if (n == command->n_args_max)
			status = llm_cli_usage(command, "\"%s\" is one argument too many", argv[i]);
		else
			args[n++] = argv[i];
		if (status != LLM_CLI_RUN)
			return status;
	}
	if (n < command->n_args_min)
		return llm_cli_usage(command, "usage: prepack-engine %s %s", command->name,
		                     command->arguments);
	return LLM_CLI_RUN;
}

/* Reads a stream to its end into a growing buffer. */
static llm_status
read_stream(FILE *file, const char *path, char **bytes, size_t *n, llm_error *err)
{
	char *buffer = NULL;
	size_t used = 0;
	size_t got = 1;

	while (got > 0 && used < READ_MAX)
	{
		char *grown = llm_realloc_array(buffer, used + READ_STEP + 1, 1);

		if (grown == NULL)
		{
			llm_free(buffer);
			return llm_fail(err, LLM_E_NOMEM, "out of memory while reading \"%s\"", path);
		}
		buffer = grown;
		got = fread(buffer + used, 1, READ_STEP, file);
		used += got;
	}
	if (ferror(file) || got > 0)
	{
		llm_free(buffer);
		return llm_fail(err, LLM_E_IO, "could not read \"%s\": %s", path,
		                got > 0 ? "it is too large" : strerror(errno));
	}
	buffer[used] = '\0';
	*bytes = buffer;
	*n = used;
	return LLM_OK;
}

/* Opens, reads and closes. */
llm_status
llm_cli_read(const char *path, char **bytes, size_t *n, llm_error *err)
{
	bool standard = strcmp(path, "-") == 0;
	FILE *file = standard ? stdin : fopen(path, "rb");
	llm_status status;

	if (file == NULL)
		return llm_fail(err, LLM_E_IO, "could not open \"%s\": %s", path, strerror(errno));
	status = read_stream(file, path, bytes, n, err);
	if (!standard)
		fclose(file);
	return status;
}

/* A last line without its line end counts too. */
llm_status
llm_cli_read_lines(const char *path, char **bytes, llm_text **lines, uint32_t *n_lines,
                   llm_error *err)
{
	size_t n;
	uint32_t count = 1;
	char *at;

	if (llm_cli_read(path, bytes, &n, err) != LLM_OK)
		return err->code;
	for (size_t i = 0; i < n && count < UINT32_MAX; i++)
		count += (*bytes)[i] == '\n';
	if ((*lines = llm_malloc_array(count, sizeof(**lines))) == NULL)
	{
		llm_free(*bytes);
		return llm_fail(err, LLM_E_NOMEM, "out of memory while reading \"%s\"", path);
	}
	at = *bytes;
	*n_lines = 0;
	while (at < *bytes + n && *n_lines < count)
	{
		char *end = memchr(at, '\n', (size_t) (*bytes + n - at));

		if (end == NULL)
			end = *bytes + n;
		(*lines)[(*n_lines)++] = (llm_text){at, (size_t) (end - at)};
		at = end + 1;
	}
	return LLM_OK;
}
