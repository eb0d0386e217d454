/*
 * weights_files.h: model files made in memory, put on disk and opened, for corpora of bad files.
 *
 * Every bad file must be refused with a status and a message that says what is wrong; every good
 * twin must load. Both go through the file system, as users' files do, and through memory from a
 * buffer of the exact size, so that a sanitizer sees a read past the end. The program counts both
 * and prints the counts.
 */
#ifndef WEIGHTS_FILES_H
#define WEIGHTS_FILES_H

#include "test.h"

#include <sys/stat.h>
#include <unistd.h>

#include "../src/llm/llm_weights_impl.h"

#define FILE_BYTES_MAX 131072

/* A file under construction. */
typedef struct file_bytes
{
	uint8_t data[FILE_BYTES_MAX];
	size_t n;
} file_bytes;

static char temp_folder[] = "/tmp/prepack-weights-XXXXXX";
static char temp_path[128];
static int n_bad_refused;
static int n_good_loaded;

/* Appends bytes. */
static inline void
put(file_bytes *f, const void *bytes, size_t n)
{
	if (n > FILE_BYTES_MAX - f->n)
	{
		printf("file under test is too large\n");
		exit(1);
	}
	memcpy(f->data + f->n, bytes, n);
	f->n += n;
}

/* Appends a number of so many bytes, little-endian. */
static inline void
put_uint(file_bytes *f, uint64_t value, size_t n)
{
	put(f, &value, n);
}

/* Makes the folder that all files of the program go to. */
static inline void
temp_folder_create(void)
{
	if (mkdtemp(temp_folder) == NULL)
	{
		perror(temp_folder);
		exit(1);
	}
}

/* The path of a file of the folder; valid until the next call. */
static inline const char *
temp_file(const char *name)
{
	snprintf(temp_path, sizeof(temp_path), "%s/%s", temp_folder, name);
	return temp_path;
}

/* Writes a file of the folder. */
static inline void
temp_write(const char *name, const void *data, size_t n)
{
	FILE *f = fopen(temp_file(name), "wb");

	if (f == NULL || fwrite(data, 1, n, f) != n || fclose(f) != 0)
	{
		perror(temp_path);
		exit(1);
	}
}

/* Removes the named files and the folder. */
static inline void
temp_folder_remove(const char *const *names)
{
	for (; *names != NULL; names++)
		unlink(temp_file(*names));
	if (rmdir(temp_folder) != 0)
		perror(temp_folder);
}

/* Opens the bytes from a buffer of their exact size. The object must be closed before the next. */
static inline llm_status
open_exact(llm_weights_format format, const file_bytes *f, llm_error *err)
{
	uint8_t *exact = malloc(f->n > 0 ? f->n : 1);
	llm_weights *w;
	llm_status status;

	memcpy(exact, f->data, f->n);
	status = llm_weights_open_memory(format, exact, f->n, &w, err);
	if (status == LLM_OK)
		llm_weights_close(w);
	else if (w != NULL)
		printf("an object in spite of a failure\n"), exit(1);
	free(exact);
	return status;
}

/* Puts the bytes where a model of the format is opened from and opens it. */
static inline llm_status
open_on_disk(llm_weights_format format, const file_bytes *f, llm_weights **w, llm_error *err)
{
	if (format == LLM_FORMAT_GGUF)
	{
		temp_write("model.gguf", f->data, f->n);
		return llm_weights_open(temp_file("model.gguf"), w, err);
	}
	temp_write("config.json", "{}", 2);
	temp_write("model.safetensors", f->data, f->n);
	return llm_weights_open(temp_folder, w, err);
}

/* The file must be refused, with a message that contains text. */
static inline void
check_bad(llm_weights_format format, const file_bytes *f, const char *name, const char *text)
{
	llm_error err = {LLM_OK, ""};
	llm_weights *w;
	llm_status status = open_on_disk(format, f, &w, &err);

	CHECK_MSG(status != LLM_OK && w == NULL, "%s is loaded", name);
	if (status == LLM_OK)
		llm_weights_close(w);
	CHECK_MSG(err.code == status && strstr(err.message, text) != NULL, "%s: \"%s\"", name,
	          err.message);
	CHECK_MSG(f->n == 0 || open_exact(format, f, NULL) == status, "%s in memory", name);
	n_bad_refused += status != LLM_OK && err.message[0] != '\0';
}

/* The file must load. */
static inline void
check_good(llm_weights_format format, const file_bytes *f, const char *name)
{
	llm_error err = {LLM_OK, ""};
	llm_weights *w;
	llm_status status = open_on_disk(format, f, &w, &err);

	CHECK_MSG(status == LLM_OK, "%s: %s", name, err.message);
	if (status == LLM_OK)
		llm_weights_close(w);
	CHECK_MSG(open_exact(format, f, NULL) == LLM_OK, "%s in memory", name);
	n_good_loaded += status == LLM_OK;
}

#endif /* WEIGHTS_FILES_H */
