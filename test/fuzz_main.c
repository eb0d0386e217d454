/*
 * fuzz_main.c: runs a fuzz target over files, without a fuzzer.
 *
 * Linked with one fuzz_<topic>.c in place of libFuzzer, so that every committed corpus is replayed
 * by any compiler in each make check. Arguments are files and folders (read one level deep, in name
 * order). Each input goes in twice, whole and cut in half, from a buffer of its exact size, so that
 * ASan sees every read past its end. A crash ends the program; what it was reading stands on the
 * last line of standard error.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int n_inputs;
static int n_unreadable;

/* Reads a whole file into a malloc'ed buffer of exactly its size; NULL when it cannot be read. */
static uint8_t *
read_file(const char *path, size_t *bytes)
{
	FILE *f = fopen(path, "rb");
	uint8_t *data = NULL;
	long end;

	if (f == NULL)
		return NULL;
	if (fseek(f, 0, SEEK_END) == 0 && (end = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0)
	{
		*bytes = (size_t) end;
		data = malloc(*bytes > 0 ? *bytes : 1);
		if (data != NULL && fread(data, 1, *bytes, f) != *bytes)
		{
			free(data);
			data = NULL;
		}
	}
	fclose(f);
	return data;
}

/* Feeds a copy of exactly the given size: a read past the end is a read past the allocation. */
static void
feed(const uint8_t *data, size_t bytes)
{
	uint8_t *copy = malloc(bytes > 0 ? bytes : 1);

	if (copy == NULL)
		return;
	memcpy(copy, data, bytes);
	LLVMFuzzerTestOneInput(copy, bytes);
	free(copy);
}

/* Replays one file. */
static void
replay_file(const char *path)
{
	size_t bytes = 0;
	uint8_t *data = read_file(path, &bytes);

	if (data == NULL)
	{
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		n_unreadable++;
		return;
	}
	fprintf(stderr, "%s\n", path);
	feed(data, bytes);
	feed(data, bytes / 2);
	free(data);
	n_inputs++;
}

/* Tells whether a folder's entry is an input: hidden files are not. */
static int
is_input(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* Replays the files of a folder in name order, so that two runs do the same. */
static void
replay_folder(const char *path)
{
	struct dirent **entries;
	int n = scandir(path, &entries, is_input, alphasort);
	char name[4096];

	if (n < 0)
	{
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		n_unreadable++;
		return;
	}
	for (int i = 0; i < n; i++)
	{
		snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
		replay_file(name);
		free(entries[i]);
	}
	free(entries);
}

int
main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');

	for (int i = 1; i < argc; i++)
	{
		struct stat st;

		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode))
			replay_folder(argv[i]);
		else
			replay_file(argv[i]);
	}
	/* An empty corpus means a wrong path, not success. */
	printf("%s: %d passed, %d failed\n", slash ? slash + 1 : argv[0], n_inputs,
	       n_unreadable + (n_inputs == 0));
	return n_unreadable > 0 || n_inputs == 0;
}
