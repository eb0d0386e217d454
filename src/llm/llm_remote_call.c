/*
 * llm_remote_call.c: one HTTP request: how libcurl is set up, what is bounded, what its end means.
 *
 * What may be tried again: a connection that failed or broke, 408, 429 and 5xx. Not a timeout: the
 * server may still be computing, and asking again would only add to its load. A request with
 * features that not all servers have (logprobs, response_format) is asked for less before it fails.
 */
#include <arpa/inet.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "llm_remote_impl.h"

#define CONNECT_TIMEOUT_MS 10000L
#define WORD_MAX           64

/* libcurl's callback: takes a piece of the reply, as long as it stays within its bound. */
static size_t
take_reply(char *bytes, size_t size, size_t n, void *arg)
{
	remote_call *call = arg;

	(void) size; /* always 1 */
	if (remote_stream_begins(call))
		return remote_stream_take(call, bytes, n) ? n : 0;
	if (n > REMOTE_REPLY_MAX - call->reply.n)
	{
		call->too_big = true;
		return 0;
	}
	llm_buffer_put(&call->reply, bytes, n);
	return call->reply.failed ? 0 : n;
}

/* libcurl's callback: headers are counted, for a server that never ends them. */
static size_t
count_header(char *bytes, size_t size, size_t n, void *arg)
{
	remote_call *call = arg;

	(void) bytes;
	(void) size;
	call->n_headers += n;
	call->too_big = call->too_big || call->n_headers > REMOTE_HEADERS_MAX;
	return call->too_big ? 0 : n;
}

/* Link-local addresses: among them the metadata services of clouds, which give away credentials. */
static bool
is_link_local(const struct sockaddr *address)
{
	const struct in6_addr *six = &((const struct sockaddr_in6 *) address)->sin6_addr;
	uint32_t four;

	if (address->sa_family == AF_INET)
		four = ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr);
	else if (address->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(six))
	{
		memcpy(&four, six->s6_addr + 12, sizeof(four));
		four = ntohl(four);
	}
	else
		return address->sa_family != AF_INET6 || IN6_IS_ADDR_LINKLOCAL(six) ||
		       (six->s6_addr[0] == 0xfd && six->s6_addr[1] == 0 && six->s6_addr[2] == 0x0e &&
		        six->s6_addr[3] == 0xc2); /* fd00:ec2::/32 */
	return four >> 16 == 0xa9fe;          /* 169.254.0.0/16 */
}

/* libcurl's callback: opens a socket to what a name has turned out to mean. */
static curl_socket_t
open_checked(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	remote_call *call = arg;

	(void) purpose;
	if (is_link_local(&address->addr))
	{
		call->blocked = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* Adds a header; false: no memory. */
static bool
add_header(remote_call *call, const char *header)
{
	struct curl_slist *longer = curl_slist_append(call->headers, header);

	if (longer != NULL)
		call->headers = longer;
	return longer != NULL;
}

/* Builds the headers; the key goes nowhere else. */
static bool
make_headers(remote_call *call)
{
	const llm_endpoint *endpoint = call->job->endpoint;
	char key[LLM_ENDPOINT_KEY_MAX + 32];
	bool good;

	good =
	    add_header(call, "Content-Type: application/json") &&
	    add_header(call, remote_streams(call->job) ? "Accept: text/event-stream, application/json"
	                                               : "Accept: application/json") &&
	    add_header(call, "Expect:");
	if (!good || endpoint->key[0] == '\0')
		return good;
	snprintf(key, sizeof(key), "Authorization: Bearer %s", endpoint->key);
	good = add_header(call, key);
	explicit_bzero(key, sizeof(key));
	return good;
}

/* Sets what protects us from the server, and the server from us. */
static bool
set_limits(remote_call *call)
{
	CURL *easy = call->easy;

	return curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long) call->job->endpoint->timeout_ms) ==
	           CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_checked) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, call) == CURLE_OK;
}

/* Sets what is sent where, and who takes the reply. */
static bool
set_request(remote_call *call, const char *url)
{
	CURL *easy = call->easy;

	return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_USERAGENT, "prepack") == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body.bytes) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) call->body.n) ==
	           CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_reply) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_WRITEDATA, call) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, count_header) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_HEADERDATA, call) == CURLE_OK &&
	       curl_easy_setopt(easy, CURLOPT_PRIVATE, call) == CURLE_OK;
}

/* Sends a request. */
llm_status
remote_call_start(llm_remote *r, remote_call *call, llm_error *err)
{
	char url[LLM_ENDPOINT_URL_MAX + 32];
	const char *path;
	llm_status status = remote_write_body(call, &path, err);

	if (status != LLM_OK)
		return status;
	snprintf(url, sizeof(url), "%s%s", call->job->endpoint->url, path);
	call->easy = curl_easy_init();
	if (call->easy == NULL || !make_headers(call) || !set_limits(call) || !set_request(call, url) ||
	    curl_multi_add_handle(r->multi, call->easy) != CURLM_OK)
	{
		curl_easy_cleanup(call->easy);
		call->easy = NULL;
		remote_call_stop(r, call);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a request to an endpoint");
	}
	call->flying = true;
	call->job->lane->n_flying++;
	return LLM_OK;
}

/* Ends a request, and makes it ready for another try. */
void
remote_call_stop(llm_remote *r, remote_call *call)
{
	if (call->flying)
	{
		curl_multi_remove_handle(r->multi, call->easy);
		call->job->lane->n_flying--;
	}
	curl_easy_cleanup(call->easy);
	curl_slist_free_all(call->headers);
	llm_buffer_free(&call->body);
	llm_buffer_free(&call->reply);
	remote_stream_reset(call);
	call->easy = NULL;
	call->headers = NULL;
	call->n_headers = 0;
	call->flying = call->too_big = call->blocked = false;
}

/* A request that ended without a reply. */
static remote_verdict
judge_failure(const remote_call *call, CURLcode code, llm_error *err)
{
	const llm_endpoint *endpoint = call->job->endpoint;

	if (call->too_big)
	{
		llm_fail(err, LLM_E_PROTOCOL, "endpoint \"%s\" sent more than %zu MB", endpoint->name,
		         REMOTE_REPLY_MAX >> 20);
		return REMOTE_FAILED;
	}
	if (call->stream.error.code != LLM_OK)
	{
		*err = call->stream.error;
		return REMOTE_REFUSED;
	}
	if (call->blocked)
	{
		llm_fail(err, LLM_E_REMOTE,
		         "endpoint \"%s\" has a link-local address, which is not connected to",
		         endpoint->name);
		return REMOTE_FAILED;
	}
	if (code == CURLE_OPERATION_TIMEDOUT)
	{
		llm_fail(err, LLM_E_REMOTE, "endpoint \"%s\" did not answer within %g s", endpoint->name,
		         endpoint->timeout_ms / 1000.0);
		return REMOTE_FAILED;
	}
	if (code == CURLE_WEIRD_SERVER_REPLY || code == CURLE_UNSUPPORTED_PROTOCOL ||
	    code == CURLE_OUT_OF_MEMORY)
	{
		llm_fail(err, code == CURLE_OUT_OF_MEMORY ? LLM_E_NOMEM : LLM_E_PROTOCOL,
		         "endpoint \"%s\" does not speak HTTP: %s", endpoint->name,
		         curl_easy_strerror(code));
		return REMOTE_FAILED;
	}
	if (call->stream.given)
	{
		llm_fail(err, LLM_E_REMOTE, "endpoint \"%s\" broke off in the middle of an answer: %s",
		         endpoint->name, curl_easy_strerror(code));
		return REMOTE_REFUSED;
	}
	llm_fail(err, LLM_E_REMOTE, "could not reach endpoint \"%s\": %s", endpoint->name,
	         curl_easy_strerror(code));
	return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE
	           ? REMOTE_FAILED
	           : REMOTE_RETRY;
}

/* A reply that refuses the request as such: 4xx. */
static remote_verdict
judge_refusal(const remote_call *call, long http, llm_error *err)
{
	const char *name = call->job->endpoint->name;
	char word[WORD_MAX];

	remote_read_error(call, word, sizeof(word));
	if (http == 413 || strcmp(word, "context_length_exceeded") == 0)
		llm_fail(err, LLM_E_TOO_LONG, "prompt is too long for endpoint \"%s\"", name);
	else if (http == 401 || http == 403)
		llm_fail(err, LLM_E_REMOTE, "endpoint \"%s\" refused its key (HTTP %ld)", name, http);
	else if (http == 404)
		llm_fail(err, LLM_E_REMOTE,
		         "endpoint \"%s\" does not know the path or the model (HTTP 404)", name);
	else
	{
		llm_fail(err, LLM_E_REMOTE, "endpoint \"%s\" refused the request (HTTP %ld%s%s)", name,
		         http, word[0] != '\0' ? ", " : "", word);
		if (call->level < REMOTE_PLAIN && (http == 400 || http == 422))
			return REMOTE_SIMPLER;
	}
	if (http == 401 || http == 403 || http == 404)
		return REMOTE_FAILED;
	return call->n > 1 ? REMOTE_SPLIT : REMOTE_REFUSED;
}

/* Says what the end of a request means; err tells why, unless it was good. */
remote_verdict
remote_call_judge(const remote_call *call, CURLcode code, llm_error *err)
{
	const char *name = call->job->endpoint->name;
	long http = 0;

	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &http);
	/* How a connection ends after the answer does not matter. */
	if (code != CURLE_OK && !call->stream.ended)
		return judge_failure(call, code, err);
	if (http >= 200 && http < 300)
		return REMOTE_GOOD;
	if (http == 429 || http == 408 || http >= 500)
	{
		if (http == 429)
			llm_fail(err, LLM_E_BUSY, "endpoint \"%s\" has too many requests (HTTP 429)", name);
		else
			llm_fail(err, LLM_E_REMOTE, "endpoint \"%s\" failed (HTTP %ld)", name, http);
		/* A stream is no reason for these. */
		return call->level < REMOTE_PLAIN && !remote_streams(call->job) &&
		               (http == 500 || http == 501)
		           ? REMOTE_SIMPLER
		           : REMOTE_RETRY;
	}
	if (http >= 400)
		return judge_refusal(call, http, err);
	llm_fail(err, LLM_E_REMOTE, "endpoint \"%s\" redirects (HTTP %ld), which is not followed", name,
	         http);
	return REMOTE_FAILED;
}

/* The wait before the next try: what the server says, else it doubles, with some chance in it. */
double
remote_call_delay(const remote_call *call, bool *pause)
{
	curl_off_t seconds = 0;
	double ms = call->job->endpoint->backoff_ms * pow(2, call->attempt > 0 ? call->attempt - 1 : 0);
	uint32_t chance = (uint32_t) call->job->id * 7919 + call->first * 31 + call->attempt;

	curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &seconds);
	*pause = seconds > 0;
	if (*pause)
		return (double) seconds * 1000;
	ms = ms < REMOTE_BACKOFF_MAX ? ms : REMOTE_BACKOFF_MAX;
	return ms * (0.75 + 0.005 * (chance % 101));
}
