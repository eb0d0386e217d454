/*
 * llm_file.c: mapping of files. See llm_file.h.
 *
 * What is tested is what is mapped: the checks go through fstat on the open descriptor, never by
 * name. O_NONBLOCK keeps a pipe in place of a model from blocking the open.
 */
#include "llm_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reports errno for path. */
static llm_status
fail_errno(llm_error *err, const char *what, const char *path)
{
	char reason[80];

	return llm_fail(err, errno == ENOENT || errno == ENOTDIR ? LLM_E_NOT_FOUND : LLM_E_IO,
	                "could not %s \"%s\": %s", what, path,
	                strerror_r(errno, reason, sizeof(reason)));
}

/* Checks and maps an open file. */
static llm_status
map_descriptor(int fd, const char *path, llm_file *out, llm_error *err)
{
	struct stat st;
	void *data;

	if (fstat(fd, &st) != 0)
		return fail_errno(err, "stat", path);
	if (!S_ISREG(st.st_mode))
		return llm_fail(err, LLM_E_IO, "\"%s\" is not a regular file", path);
	if (st.st_size == 0)
		return llm_fail(err, LLM_E_FORMAT, "\"%s\" is empty", path);
	data = mmap(NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		return fail_errno(err, "map", path);
	out->data = data;
	out->bytes = (uint64_t) st.st_size;
	return LLM_OK;
}

/* Maps a file. */
llm_status
llm_file_map(const char *path, llm_file *out, llm_error *err)
{
	llm_status status;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	*out = (llm_file){NULL, 0};
	if (fd < 0)
		return fail_errno(err, "open", path);
	status = map_descriptor(fd, path, out, err);
	close(fd);
	return status;
}

/* Unmaps a file. */
void
llm_file_unmap(llm_file *file)
{
	if (file->data != NULL)
		munmap((void *) (uintptr_t) file->data, (size_t) file->bytes);
	*file = (llm_file){NULL, 0};
}

/* Drops the resident pages. Advice may be ignored, so its result does not matter. */
void
llm_file_advise_cold(const llm_file *file)
{
	if (file->data != NULL)
		(void) madvise((void *) (uintptr_t) file->data, (size_t) file->bytes, MADV_DONTNEED);
}

/* Looks whether path names a folder. */
llm_status
llm_file_is_folder(const char *path, bool *out, llm_error *err)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return fail_errno(err, "open", path);
	*out = S_ISDIR(st.st_mode);
	return LLM_OK;
}
