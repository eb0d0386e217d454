/*
 * llm_file.h: a regular file mapped read-only.
 *
 * The mapping is private, so that no write of ours could reach the file, and the descriptor is
 * closed before the call returns. A file that somebody truncates while it is mapped ends the engine
 * process by SIGBUS; the database server has its own process and goes on.
 */
#ifndef LLM_FILE_H
#define LLM_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "llm_status.h"

typedef struct llm_file
{
	const uint8_t *data; /* NULL when nothing is mapped */
	uint64_t bytes;
} llm_file;

/* LLM_E_NOT_FOUND when there is no such file; a folder, a device, a pipe, an empty file are
 * refused. */
llm_status llm_file_map(const char *path, llm_file *out, llm_error *err);
void llm_file_unmap(llm_file *file);
/* Gives the pages back to the page cache; they are read again when touched. */
void llm_file_advise_cold(const llm_file *file);
/* Tells whether path is a folder; a missing path is an error. */
llm_status llm_file_is_folder(const char *path, bool *out, llm_error *err);

#endif /* LLM_FILE_H */
