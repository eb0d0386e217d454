/*
 * llm_remote_endpoint.c: an endpoint from its registered options.
 *
 * The options come from a table that a delegated administrator may write to, so nothing in them is
 * taken on trust: key files are plain names in one folder, environment variables begin with
 * PREPACK_, and a key is one line of visible ASCII, which cannot break out of its header.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "llm_remote_impl.h"

#define CONCURRENCY_DEFAULT 8u
#define CONCURRENCY_MAX     256u
#define RETRIES_DEFAULT     4u
#define RETRIES_MAX         10u
#define TIMEOUT_DEFAULT     120.0
#define TIMEOUT_MAX         3600.0
#define BACKOFF_MS          500u
#define KEY_ENV_PREFIX      "PREPACK_"

/* Copies a text into a field; false when it does not fit or holds what no such field may. */
static bool
copy_field(const char *bytes, size_t n, char *out, size_t size)
{
	if (bytes == NULL || n == 0 || n >= size)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char) bytes[i] < 0x20 || bytes[i] == 0x7f)
			return false;
	memcpy(out, bytes, n);
	out[n] = '\0';
	return true;
}

/* Whether a URL is one that is spoken to: a scheme, a host, no credentials, no query. */
static bool
url_is_good(const char *url)
{
	CURLU *u = curl_url();
	char *scheme = NULL;
	char *part = NULL;
	bool good = u != NULL && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
	            curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
	            (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0);

	good = good && curl_url_get(u, CURLUPART_USER, &part, 0) == CURLUE_NO_USER &&
	       curl_url_get(u, CURLUPART_PASSWORD, &part, 0) == CURLUE_NO_PASSWORD &&
	       curl_url_get(u, CURLUPART_QUERY, &part, 0) == CURLUE_NO_QUERY &&
	       curl_url_get(u, CURLUPART_FRAGMENT, &part, 0) == CURLUE_NO_FRAGMENT;
	curl_free(scheme);
	curl_free(part);
	curl_url_cleanup(u);
	return good;
}

/* Takes the URL, without slashes at its end. */
static llm_status
read_url(llm_text url, llm_endpoint *out, llm_error *err)
{
	size_t n;

	if (!copy_field(url.bytes, url.n, out->url, sizeof(out->url)) || !url_is_good(out->url))
		return llm_fail(err, LLM_E_RANGE, "endpoint \"%s\" has an invalid URL", out->name);
	for (n = strlen(out->url); n > 0 && out->url[n - 1] == '/'; n--)
		out->url[n - 1] = '\0';
	return LLM_OK;
}

/* Takes a key: one line of visible ASCII. What is wrong with it is said without showing it. */
static llm_status
take_key(const char *bytes, size_t n, llm_endpoint *out, llm_error *err)
{
	while (n > 0 && (bytes[n - 1] == '\n' || bytes[n - 1] == '\r' || bytes[n - 1] == ' '))
		n--;
	for (size_t i = 0; i < n; i++)
		if (bytes[i] <= 0x20 || bytes[i] >= 0x7f)
			n = 0;
	if (n == 0 || n >= sizeof(out->key))
		return llm_fail(err, LLM_E_RANGE,
		                "the key of endpoint \"%s\" is not one line of visible characters",
		                out->name);
	memcpy(out->key, bytes, n);
	out->key[n] = '\0';
	return LLM_OK;
}

/* Reads a key from a file in the key folder. */
static llm_status
read_key_file(const char *name, const char *directory, llm_endpoint *out, llm_error *err)
{
	char path[4096];
	char bytes[LLM_ENDPOINT_KEY_MAX + 2];
	llm_status status;
	struct stat st;
	ssize_t n;
	int fd;

	if (strchr(name, '/') != NULL || name[0] == '.' || directory == NULL ||
	    snprintf(path, sizeof(path), "%s/%s", directory, name) >= (int) sizeof(path))
		return llm_fail(err, LLM_E_RANGE, "endpoint \"%s\" has an invalid key_file", out->name);
	if ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0)
		return llm_fail(err, LLM_E_IO, "could not open the key file \"%.100s\": %s", path,
		                strerror(errno));
	n = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? read(fd, bytes, sizeof(bytes)) : -1;
	close(fd);
	if (n < 0)
		return llm_fail(err, LLM_E_IO, "could not read the key file \"%.100s\"", path);
	status = take_key(bytes, (size_t) n, out, err);
	explicit_bzero(bytes, sizeof(bytes));
	return status;
}

/* Reads the key, if the options name one. */
static llm_status
read_key(const llm_json *options, const char *directory, llm_endpoint *out, llm_error *err)
{
	const char *file;
	const char *variable;
	const char *value;
	size_t n;

	if (llm_json_string(llm_json_member(options, "key_file"), &file, &n))
		return strlen(file) == n ? read_key_file(file, directory, out, err)
		                         : llm_fail(err, LLM_E_RANGE,
		                                    "endpoint \"%s\" has an invalid key_file", out->name);
	if (!llm_json_string(llm_json_member(options, "key_env"), &variable, &n))
		return LLM_OK;
	if (strncmp(variable, KEY_ENV_PREFIX, strlen(KEY_ENV_PREFIX)) != 0)
		return llm_fail(err, LLM_E_RANGE,
		                "key_env of endpoint \"%s\" does not begin with " KEY_ENV_PREFIX,
		                out->name);
	if ((value = getenv(variable)) == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "the engine has no environment variable \"%.100s\"",
		                variable);
	return take_key(value, strlen(value), out, err);
}

/* Reads an integer option within [min, max]. */
static llm_status
read_count(const llm_json *options, const char *key, uint32_t min, uint32_t max, uint32_t *out,
           llm_error *err)
{
	const llm_json *node = llm_json_member(options, key);
	uint64_t v;

	if (node == NULL)
		return LLM_OK;
	if (!llm_json_u64(node, &v) || v < min || v > max)
		return llm_fail(err, LLM_E_RANGE, "%s of an endpoint must be between %u and %u", key, min,
		                max);
	*out = (uint32_t) v;
	return LLM_OK;
}

/* Reads what the options say, the key last. */
static llm_status
read_options(const llm_json *options, const char *key_directory, llm_endpoint *out, llm_error *err)
{
	const llm_json *timeout = llm_json_member(options, "timeout");
	const char *model;
	size_t n;
	double seconds = TIMEOUT_DEFAULT;

	if (llm_json_get_kind(options) != LLM_JSON_OBJECT)
		return llm_fail(err, LLM_E_FORMAT, "endpoint \"%s\" has malformed options", out->name);
	if (llm_json_string(llm_json_member(options, "model"), &model, &n) &&
	    !copy_field(model, n, out->model, sizeof(out->model)))
		return llm_fail(err, LLM_E_RANGE, "endpoint \"%s\" has an invalid model", out->name);
	if (timeout != NULL &&
	    (!llm_json_double(timeout, &seconds) || seconds < 0.001 || seconds > TIMEOUT_MAX))
		return llm_fail(err, LLM_E_RANGE, "timeout of an endpoint must be between 0.001 and %g s",
		                TIMEOUT_MAX);
	out->timeout_ms = (uint32_t) (seconds * 1000);
	out->embeds = llm_json_is(llm_json_member(options, "kind"), "embed");
	if (read_count(options, "concurrency", 1, CONCURRENCY_MAX, &out->concurrency, err) != LLM_OK ||
	    read_count(options, "retries", 0, RETRIES_MAX, &out->retries, err) != LLM_OK)
		return err->code;
	return read_key(options, key_directory, out, err);
}

/* Reads an endpoint. */
llm_status
llm_endpoint_read(const char *name, llm_text url, llm_text options, const char *key_directory,
                  llm_endpoint *out, llm_error *err)
{
	llm_json_doc *doc = NULL;
	llm_status status;

	*out = (llm_endpoint){.concurrency = CONCURRENCY_DEFAULT,
	                      .retries = RETRIES_DEFAULT,
	                      .backoff_ms = BACKOFF_MS};
	if (!copy_field(name, strlen(name), out->name, sizeof(out->name)))
		return llm_fail(err, LLM_E_RANGE, "an endpoint has an invalid name");
	memcpy(out->model, out->name, sizeof(out->name));
	if (read_url(url, out, err) != LLM_OK)
		return err->code;
	status = llm_json_parse(options.bytes != NULL ? options.bytes : "{}",
	                        options.bytes != NULL ? options.n : 2, &doc, err);
	if (status == LLM_OK)
		status = read_options(llm_json_root(doc), key_directory, out, err);
	llm_json_free(doc);
	return status;
}

/* Wipes the key, so that it does not stay in freed memory. */
void
llm_endpoint_forget(llm_endpoint *endpoint)
{
	explicit_bzero(endpoint->key, sizeof(endpoint->key));
}
