/*
 * llm_remote_impl.h: what the files of the remote executor share.
 *
 *	llm_remote.c			the thread: jobs, whose turn it is, retries, the end
 *	llm_remote_call.c		one HTTP request: options of libcurl, bounds, what its end means
 *	llm_remote_endpoint.c	options and keys
 *	llm_remote_write.c		jobs → request bodies
 *	llm_remote_read.c		reply bodies → results
 *	llm_remote_stream.c		replies that come piece by piece → pieces and results
 *	llm_remote_labels.c		token probabilities, or an answer's text → probabilities of labels
 *	llm_remote_schema.c		whether a JSON value fits a schema
 *
 * A job is a number of units, each of which is asked by one request: a row; a row and a label
 * (multi); or a text to embed, of which one request takes many. Requests are made one by one as
 * there is room, so that a job of a million rows holds as many bodies as may be in flight.
 *
 * Threads: the executor's thread owns everything but the inbox, the jobs' cancelled flags and the
 * stop flag, which are under the mutex. The list of jobs changes under it, too, so that others can
 * look for what to cancel.
 */
#ifndef LLM_REMOTE_IMPL_H
#define LLM_REMOTE_IMPL_H

#include <pthread.h>

#include <curl/curl.h>

#include "llm_buffer.h"
#include "llm_json.h"
#include "llm_remote.h"

#define REMOTE_REPLY_MAX    ((size_t) 16 << 20) /* bytes of one reply; more is cut off */
#define REMOTE_HEADERS_MAX  ((size_t) 64 << 10)
#define REMOTE_EMBED_TEXTS  64u /* texts of one request */
#define REMOTE_EMBED_BYTES  ((size_t) 256 << 10)
#define REMOTE_VALUES_MAX   65536u /* dimensions of a vector */
#define REMOTE_TOP_LOGPROBS 20
#define REMOTE_BACKOFF_MAX  10000.0 /* ms */
#define REMOTE_PAUSE_MAX    60000.0 /* ms: the longest Retry-After that is waited for */
#define REMOTE_DOWN_AFTER   3u /* requests in a row that failed for good: the endpoint is down */

typedef struct remote_job remote_job;

/* How much a server is asked for; it starts with the first and goes on while it is refused. */
typedef enum remote_level
{
	REMOTE_FULL,  /* logprobs; a schema as OpenAI's json_schema; a stream with token counts */
	REMOTE_OTHER, /* a schema in json_object, as llama-cpp-python and others have it; a stream */
	REMOTE_PLAIN  /* nothing that not all servers know: the schema is told in words */
} remote_level;

/* An endpoint as the executor knows it: all jobs with the same URL share one. */
typedef struct remote_lane
{
	struct remote_lane *next;
	char url[LLM_ENDPOINT_URL_MAX];
	uint32_t n_jobs;
	uint32_t n_flying;
	double not_before_ms; /* the server asked for a pause until then */
	remote_level labels;  /* the most it understands, as far as known */
	remote_level schema;
	remote_level stream;
} remote_lane;

/* A reply that comes as server-sent events. */
typedef struct remote_stream
{
	bool on;
	bool began;    /* a line has come */
	bool ended;    /* "[DONE]" has come: the answer is whole */
	bool given;    /* a piece has been given: no second try */
	bool cut;      /* the token limit ended the answer */
	bool after_cr; /* the last byte was a CR */
	size_t n_bytes;
	llm_buffer line; /* begun */
	llm_buffer data; /* of the event that has begun */
	llm_buffer text; /* of the answer so far */
	size_t n_given;  /* of text: the rest is the beginning of a character */
	llm_row_result used;
	llm_error error; /* code != LLM_OK: why bytes were refused */
} remote_stream;

/* One request, alive until its units are answered or have failed. */
typedef struct remote_call
{
	struct remote_call *next;
	remote_job *job;
	uint32_t first; /* units [first, first + n) */
	uint32_t n;
	uint32_t attempt; /* tries that have failed */
	remote_level level;
	bool fell_back; /* the server did not understand more */
	bool flying;
	double not_before_ms;
	CURL *easy;
	struct curl_slist *headers;
	llm_buffer body;
	llm_buffer reply;
	remote_stream stream;
	size_t n_headers;
	bool too_big;
	bool blocked; /* its address may not be connected to */
	char curl_error[CURL_ERROR_SIZE];
} remote_call;

/* What is known of a row whose answer has several parts (multi; cosines). */
typedef struct remote_held
{
	float *values; /* [n_labels] of multi, or the text's vector */
	uint32_t n_values;
	uint32_t n_missing; /* multi: labels still to come */
	uint32_t n_tokens;
	uint32_t n_output;
	bool failed;
} remote_held;

struct remote_job
{
	remote_job *next;
	uint64_t id;
	bool cancelled; /* mutex */
	const llm_endpoint *endpoint;
	const llm_job *job;
	remote_lane *lane;
	uint32_t n_units;
	uint32_t cursor; /* units before it have been asked */
	remote_call *calls;
	uint32_t n_open;    /* calls */
	uint32_t n_down;    /* calls in a row that failed for good */
	llm_error given_up; /* code != LLM_OK: all other units fail with this */
	remote_held *held;  /* [n_units] texts of cosines; [n_rows] multi; else NULL */
	bool *done;         /* [n_rows] its result has been given */
	llm_json_doc *schema;
	uint32_t n_values; /* embed: dimensions, once known */
	float *values;     /* scratch: [n_labels] */
	llm_job_stats stats;
	double submitted_ms;
	double started_ms; /* first request; 0 = none yet */
};

struct llm_remote
{
	CURLM *multi;
	pthread_t thread;
	pthread_mutex_t mutex;
	remote_job *inbox; /* mutex: submitted, newest first */
	remote_job *jobs;  /* running; changed by the thread under the mutex */
	uint64_t next_id;  /* mutex */
	bool stop;         /* mutex */
	remote_lane *lanes;
};

/* What a finished request means. */
typedef enum remote_verdict
{
	REMOTE_GOOD,    /* a reply to read */
	REMOTE_RETRY,   /* later, perhaps */
	REMOTE_SIMPLER, /* again, on the next level */
	REMOTE_SPLIT,   /* text by text: one of them is bad */
	REMOTE_REFUSED, /* what was asked is bad; other rows may fare better */
	REMOTE_FAILED   /* the endpoint is bad */
} remote_verdict;

/* llm_remote.c */
double remote_now_ms(void);
/* Gives a row's result, once; rows that come again are ignored. */
void remote_row_done(remote_job *job, const llm_row_result *result);
void remote_row_failed(remote_job *job, uint32_t row, const llm_error *why);

/* llm_remote_call.c */
llm_status remote_call_start(llm_remote *r, remote_call *call, llm_error *err);
void remote_call_stop(llm_remote *r, remote_call *call); /* takes it off the wire */
remote_verdict remote_call_judge(const remote_call *call, CURLcode code, llm_error *err);
/* How long to wait before the next try. *pause: the server asked for it, of everybody. */
double remote_call_delay(const remote_call *call, bool *pause);

/* llm_remote_write.c */
bool remote_is_texts(const remote_job *job); /* units are texts to embed */
bool remote_is_labels(const remote_job *job);
bool remote_is_cosine(const remote_job *job);
bool remote_is_multi(const remote_job *job); /* units are a row and a label each */
llm_text remote_unit_text(const remote_job *job, uint32_t unit);
/* Writes the body of a request; *path gets what follows the URL. */
llm_status remote_write_body(remote_call *call, const char **path, llm_error *err);

/* llm_remote_read.c: gives the results of a call's rows; on failure some may have been given. */
llm_status remote_read_reply(remote_call *call, llm_error *err);
/* The reply's own word for an error ("context_length_exceeded"), or "". */
void remote_read_error(const remote_call *call, char *word, size_t size);
void remote_units_failed(remote_call *call, const llm_error *why);
/* What the request used; servers may leave it out. */
llm_status remote_read_usage(const remote_call *call, const llm_json *root, llm_row_result *used,
                             llm_error *err);

/* llm_remote_stream.c */
bool remote_streams(const remote_job *job);   /* its answers are asked for piece by piece */
bool remote_stream_begins(remote_call *call); /* what arrives belongs to a stream */
/* Takes bytes; false: no more of them, with call->stream.ended, stream.error or call->too_big. */
bool remote_stream_take(remote_call *call, const char *bytes, size_t n);
llm_status remote_stream_finish(remote_call *call, llm_error *err);
void remote_stream_reset(remote_call *call);

/* llm_remote_labels.c: values[n] sums to 1; false: the answer names no label. */
bool remote_score_labels(const llm_json *choice, const llm_text *labels, uint32_t n, float *values);

/* llm_remote_schema.c */
bool remote_fits_schema(const llm_json *schema, const llm_json *value);

#endif /* LLM_REMOTE_IMPL_H */
