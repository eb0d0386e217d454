/*
 * client.h: a backend's side of the engine: jobs go out, results come in.
 *
 * One connection a backend, opened at the first job and kept; any number of requests may be in
 * flight on it. Every wait is on {latch, socket, postmaster death} and checks for interrupts, so
 * cancel, statement_timeout, terminate and a lost client act at once. Requests live in a memory
 * context: resetting or deleting it (also by an error) cancels what still runs. Errors of the
 * engine are raised here with the SQLSTATE of errors.c; a row's own error is raised by whoever
 * reads the row (pp_row_check), so that on_error => 'null' can turn it into NULL.
 *
 * When the engine is starting, or the model loading, a submit waits up to prepack.startup_wait.
 */
#ifndef PP_CLIENT_H
#define PP_CLIENT_H

#include "prepack.h"

typedef enum PpJobKind /* numbers as on the wire */
{
	PP_JOB_GENERATE = 1,
	PP_JOB_CLASSIFY = 2,
	PP_JOB_JUDGE = 3,
	PP_JOB_LOGLIK = 4,
	PP_JOB_EMBED = 5,
	PP_JOB_RELEVANCE = 6,
	PP_JOB_COUNT = 7,
	PP_JOB_PREWARM = 8
} PpJobKind;

/* Flags, as on the wire. */
#define PP_JOB_STREAM    1
#define PP_JOB_RAW       2
#define PP_JOB_CALIBRATE 4
#define PP_JOB_TRUNCATE  8
#define PP_JOB_KEEP      16
#define PP_JOB_MULTI     32
#define PP_JOB_RULES     64

/* Longest text of a row, and longest sum of everything else in a job. More could not be sent. */
#define PP_TEXT_MAX (32 * 1024 * 1024)

/* A byte string that need not end in NUL. bytes == NULL: absent. */
typedef struct PpText
{
	const char *bytes;
	Size n;
} PpText;

/*
 * Everything that a job says but its rows. Jobs that are equal in all of it can share one request.
 */
typedef struct PpJob
{
	PpJobKind kind;
	uint32 flags;
	const char *function; /* SQL name, for views and contexts: "classify" */
	const char *model;    /* registered name */
	const char *path;     /* relative to the model directory; "" = built in; or a URL */
	const char *endpoint; /* options of the endpoint at that URL; NULL: it is none */
	bool interactive;     /* single rows overtake batches */
	PpText system;
	PpText instruction;
	PpText schema;
	int n_labels;
	const PpText *labels;
	const PpText *descriptions; /* [n_labels] or NULL */
	int n_stops;
	const PpText *stops;
	int n_allowed;
	const PpText *allowed;
	int max_tokens;
	float4 temperature;
	float4 top_p; /* 1 = off */
	uint64 seed;
} PpJob;

/* One row's result. Pointers live in the request's context. */
typedef struct PpRow
{
	bool done;
	bool refused; /* failed before it was sent; the engine's result of its stand-in is dropped */
	int status;   /* llm_status number; 0 = good */
	const char *message;
	PpText text;
	const float4 *values;
	int n_values;
	float8 logprob;
	uint32 n_tokens;
	uint32 n_shared;
	uint32 n_output;
	int finish; /* llm_finish number */
} PpRow;

typedef struct PpJobStats /* of a request that is done; see llm_job_stats */
{
	uint64 n_errors;
	uint64 n_prompt_tokens;
	uint64 n_shared_tokens;
	uint64 n_padding_avoided;
	uint64 n_output_tokens;
	float8 queue_ms;
	float8 prefill_ms;
	float8 decode_ms;
} PpJobStats;

typedef struct PpRequest PpRequest;

/*
 * Sends a job of n_rows rows (rows2: n_rows2 of them, 0, 1 or n_rows) and returns at once. Nothing
 * of the arguments is needed afterwards. The request lives in the current memory context.
 */
extern PpRequest *pp_client_submit(const PpJob *job, int n_rows, const PpText *rows, int n_rows2,
                                   const PpText *rows2);
/* Waits until every row is done; raises the job's own error, if it has one. */
extern void pp_client_wait(PpRequest *req);
/* Waits until row i is done and returns it. */
extern const PpRow *pp_client_row(PpRequest *req, int i);
/* Takes in what has arrived, without waiting. True when the request is done. */
extern bool pp_client_poll(PpRequest *req);
/* The next streamed piece of row 0, or n = 0 with bytes = NULL at its end. Waits. */
extern PpText pp_client_piece(PpRequest *req);
extern const PpJobStats *pp_client_stats(const PpRequest *req);
extern int pp_client_n_rows(const PpRequest *req);
/* Cancels if it still runs, and frees it. */
extern void pp_client_free(PpRequest *req);

/* Raises a failed row's error. */
extern void pp_row_check(const PpJob *job, const PpRow *row);

/* What the engine says of itself, for the view status. */
typedef struct PpEngineInfo
{
	char device[32];
	int64 memory_used; /* weights, keys and values in use, scratch */
	int64 memory_limit;
	int queue_depth; /* sequences waiting or running */
	int stalled_ms;  /* how long the running pass has taken */
} PpEngineInfo;

/* Sends an administrative frame (llm_wire_type) and returns the reply's payload, in a context under
 * the current one. */
extern const char *pp_client_ask(int type, const void *payload, Size n, Size *n_reply);
extern int64 pp_client_load(const char *name, const char *path);
extern bool pp_client_unload(const char *path);
/* What a file is, without loading it: "generate", "embed" or "rerank". */
extern const char *pp_client_kind(const char *path);
extern void pp_client_salt(uint8 salt[16]);

/* What a look at the engine found. */
typedef enum PpProbe
{
	PP_PROBE_SILENT,  /* no answer within 2 s */
	PP_PROBE_FOREIGN, /* not the language of this library: why says what differs */
	PP_PROBE_ANSWERS
} PpProbe;

/* client_probe.c: for the supervisor and the view status; never raises. */
extern PpProbe pp_client_probe(PpEngineInfo *info, char *why, Size size);
#define PP_FOREIGN_HINT \
	"Restart the server, so that it loads the library that was installed with the engine."

/* errors.c: raises engine status as an error: SQLSTATE, message, DETAIL, HINT by its kind. */
extern _Noreturn void pp_raise(int status, const char *message);
/* Logs what a request asks, for prepack.track_prompts. */
extern void pp_log_job(const PpJob *job, int n_rows, const PpText *rows);

#endif /* PP_CLIENT_H */
