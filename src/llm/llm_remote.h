/*
 * llm_remote.h: jobs that another server computes: any that speaks the OpenAI HTTP API.
 *
 * A second executor behind the same llm_job: the caller's callbacks, statuses and statistics are
 * those of the engine. It is one thread around libcurl's multi interface; any number of jobs share
 * it, each endpoint has a limit of requests in flight, and jobs of one endpoint take turns.
 *
 * What is asked: generate, classify, judge and a decoder's relevance go to <url>/chat/completions
 * (raw ones to <url>/completions), embed and an embedder's relevance to <url>/embeddings. Labels
 * are scored by the likeliest first tokens where the server tells them, else by what it answers.
 *
 * What is not trusted: the reply. It is bounded, parsed strictly, and every number in it checked.
 * Redirects are not followed, no scheme but http and https is spoken, no proxy is taken from the
 * environment, and link-local addresses (a cloud's metadata service) are not connected to.
 *
 * Ownership: a job, its texts and its endpoint are used, not copied, until on_done. Threads: all
 * functions but create and destroy may be called from any thread; callbacks come from the
 * executor's own.
 */
#ifndef LLM_REMOTE_H
#define LLM_REMOTE_H

#include "llm.h"

#define LLM_ENDPOINT_URL_MAX 1024
#define LLM_ENDPOINT_KEY_MAX 4096

typedef struct llm_remote llm_remote;

/* Where a job goes. */
typedef struct llm_endpoint
{
	char name[64];                  /* the registered model, for messages */
	char url[LLM_ENDPOINT_URL_MAX]; /* http(s)://host[:port][/path], without a slash at its end */
	char model[256];                /* what the server calls it */
	char key[LLM_ENDPOINT_KEY_MAX]; /* bearer token, "" = none; never shown nor logged */
	bool embeds;                    /* its relevance is the cosine of embeddings */
	uint32_t concurrency;           /* requests in flight, of all jobs */
	uint32_t retries;               /* of one request, after its first try */
	uint32_t timeout_ms;            /* of one try, connecting included */
	uint32_t backoff_ms;            /* before the first retry; doubles */
} llm_endpoint;

/*
 * Fills *out from the registered options, a JSON object: kind ("generate", "embed"), model,
 * concurrency, retries, timeout (seconds), key_file (a file's name in key_directory), key_env (a
 * variable whose name begins with PREPACK_). The key is read here, so that it can be changed at any
 * time. key_directory may be NULL: no key files then.
 */
llm_status llm_endpoint_read(const char *name, llm_text url, llm_text options,
                             const char *key_directory, llm_endpoint *out, llm_error *err);
void llm_endpoint_forget(llm_endpoint *endpoint); /* wipes the key */

llm_status llm_remote_create(llm_remote **out, llm_error *err);
void llm_remote_destroy(llm_remote *r); /* running jobs end with LLM_E_CANCELLED; NULL is fine */

/* Checks a job and starts it. After a failure no callback comes. */
llm_status llm_remote_submit(llm_remote *r, const llm_endpoint *endpoint, const llm_job *job,
                             uint64_t *id, llm_error *err);
/* Takes effect at once: its requests are dropped, and on_done follows. */
void llm_remote_cancel(llm_remote *r, uint64_t id);
void llm_remote_cancel_caller(llm_remote *r, uint64_t caller);

#endif /* LLM_REMOTE_H */
