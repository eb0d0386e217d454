/*
 * llm_server_internal.h: what the files of the server share.
 *
 *	llm_server.c		setting up, the I/O loop, the engine thread
 *	llm_server_conn.c	connections: frames in, bytes out
 *	llm_server_job.c	jobs: assembling, running, results
 *	llm_server_model.c	loads in threads of their own; errands: unload, inspect, prefixes
 *	llm_server_admin.c	statistics, models, queue
 *
 * Threads: the I/O thread owns sockets, connections and their input. The start thread gives jobs to
 * the engine, which tokenises them: a large text must not delay other clients. The engine thread
 * steps the engine and runs its callbacks, which append to a connection's output. Loader threads
 * load one model each; the errand thread does what must wait for a pass or a file. The I/O thread
 * waits for neither, so that a look at a wedged engine is answered.
 *
 * Locks: server.mutex guards the lists of jobs and of loads, and what callbacks write into jobs.
 * conn.mutex guards a connection's output. Order: server.mutex, then conn.mutex. Neither is held
 * while computing.
 *
 * A connection is freed by the I/O thread when it is closed and its last job has ended: callbacks
 * never meet a freed one.
 */
#ifndef LLM_SERVER_INTERNAL_H
#define LLM_SERVER_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "llm_remote.h"
#include "llm_server.h"
#include "llm_wire_job.h"

#define SERVER_OUTPUT_MAX    ((size_t) 64 << 20)  /* a reader slower than this is cut off */
#define SERVER_INPUT_MAX     ((uint64_t) 2 << 30) /* of jobs that wait, all connections */
#define SERVER_WAKE_BYTES    ((size_t) 256 << 10) /* results sent before the pass ends */
#define SERVER_STALL_MS      30000u /* an unfinished frame, or a missing HELLO, is waited for */
#define SERVER_JOBS_MAX      1024u  /* jobs of one connection */
#define SERVER_MODELS_LISTED 64

typedef struct server server;
typedef struct conn conn;

/* A job of a connection. */
typedef struct server_job
{
	struct server_job *next;
	conn *conn;
	uint64_t id;        /* the client's */
	uint64_t engine_id; /* 0 until it runs; the remote executor's, if it has an endpoint */
	llm_wire_job wire;
	llm_text url; /* of its endpoint, in the arena of wire; bytes == NULL: the engine computes it */
	llm_text options;
	llm_endpoint *endpoint; /* made by the start thread */
	uint64_t counted;       /* of wire.bytes, in the sums of the connection and the server */
	uint32_t n_rows_done;
	uint64_t n_tokens;
	double received_ms;
	double started_ms; /* RUN */
	bool running;
	bool cancelled; /* by the client, or with its connection; before it had an engine_id, too */
	bool done;      /* set by on_done or a failed start; the I/O thread frees it */
	struct server_job *next_start; /* start_mutex: waits to be started */
} server_job;

struct conn
{
	conn *next;
	server *server;
	int fd;
	uint64_t caller; /* fairness key of the engine */
	uint32_t pid;    /* of the client */
	double accepted_ms;
	bool excess; /* over the limit of connections: its HELLO is refused */
	bool greeted;
	bool closed; /* no more input; fd is -1 */
	uint8_t *in;
	size_t n_in;
	size_t cap_in;
	double frame_since_ms; /* when the unfinished frame began; 0 = none */
	server_job *jobs;      /* server.mutex */
	uint64_t input_bytes;  /* of its jobs */

	pthread_mutex_t mutex;
	llm_wire_writer out; /* mutex */
	size_t n_sent;       /* mutex: bytes of out that have gone */
	bool dead;           /* mutex: output is dropped */
	bool wants_write;    /* epoll waits for it */
};

/* A load in progress, and who waits for it. */
typedef struct server_load
{
	struct server_load *next;
	server *server;
	char path[LLM_NAME_MAX];
	struct
	{
		uint64_t caller;
		uint64_t id;
	} waiters[64];
	uint32_t n_waiters;
	double started_ms;
} server_load;

/* A request for the errand thread. */
typedef struct server_errand
{
	struct server_errand *next;
	uint64_t caller;
	uint64_t id;
	llm_wire_type type; /* LLM_WIRE_UNLOAD, INSPECT, PREFIXES */
	char path[LLM_NAME_MAX];
	llm_salt salt;
} server_errand;

struct server
{
	llm_server_params params;
	llm_engine *engine;
	llm_remote *remote; /* NULL: jobs for endpoints are refused */
	int listen_fd;
	int epoll_fd;
	int wake_fd; /* eventfd: output is there, or a job has ended */
	int signal_fd;
	conn *conns;
	uint32_t n_conns;
	uint32_t max_conns;
	double deaf_until_ms; /* no descriptors are left: the listening socket is not watched; 0 = is */
	uint64_t input_bytes; /* of all jobs */
	uint64_t next_caller;
	bool stop;
	double started_ms;

	pthread_mutex_t mutex;
	server_load *loads;
	server_errand *errands; /* mutex, and all of the errand thread */
	uint32_t n_errands;
	bool errand_stop;
	pthread_cond_t errand_cond;
	pthread_t errand_thread;

	pthread_t start_thread;
	pthread_mutex_t start_mutex;
	pthread_cond_t start_cond;
	server_job *start_first; /* start_mutex: jobs to start, oldest first */
	server_job *start_last;
	bool start_stop; /* start_mutex */

	pthread_t engine_thread;
	pthread_mutex_t engine_mutex;
	pthread_cond_t engine_cond;
	bool engine_woken;            /* engine_mutex */
	bool engine_stop;             /* engine_mutex */
	_Atomic double pass_since_ms; /* when the running step began; 0 = idle */
	_Atomic bool wake_pending;
	_Atomic bool output_waits; /* results were written that the I/O loop was not woken for */
	_Atomic bool hang;         /* a provoked fault: the engine thread stops in its next step */
};

/* Sets up all but descriptors, threads and the engine. */
void server_init(server *s, const llm_server_params *params);
double server_now_ms(void);
void server_wake(server *s); /* from any thread: lets the I/O loop look at outputs and jobs */
void server_hang(server *s);

/* llm_server_conn.c */
conn *conn_create(server *s, int fd);
void conn_readable(conn *c);
void conn_flush(conn *c);
void conn_close(conn *c);
void conn_free(conn *c);
/* Runs write with the output locked; drops the output of a dead connection. */
void conn_error(conn *c, uint64_t id, llm_status status, const char *message);
void conn_send(conn *c, const llm_wire_writer *frame); /* a frame written elsewhere */
llm_wire_writer *conn_lock_output(conn *c); /* NULL, and not locked: the connection is dead */
void conn_unlock_output(conn *c);
/* The same by a callback of a pass: the I/O loop is woken when the pass has ended, or at once when
 * much has come together. */
void conn_unlock_results(conn *c);

/* llm_server_job.c: called by the I/O thread; false: the connection must be closed. */
bool server_job_begin(conn *c, uint64_t id, llm_wire_reader *r);
bool server_job_rows(conn *c, uint64_t id, llm_wire_reader *r);
bool server_job_endpoint(conn *c, uint64_t id, llm_wire_reader *r);
bool server_job_run(conn *c, uint64_t id);
void server_job_cancel(conn *c, uint64_t id);
void server_jobs_sweep(conn *c);    /* frees the ended ones */
void *server_start_main(void *arg); /* the start thread, and one turn of it */
bool server_start_next(server *s);

/* llm_server_model.c */
bool server_load_model(conn *c, uint64_t id, llm_wire_reader *r);
bool server_send_errand(conn *c, const llm_wire_header *h, llm_wire_reader *r);
void *server_errand_main(void *arg); /* the errand thread, and one turn of it */
bool server_errand_next(server *s);
bool server_get_name(llm_wire_reader *r, char *out, size_t size); /* a frame that is one text */
/* True when a path is being loaded; *ms gets for how long. */
bool server_is_loading(server *s, const char *path, double *ms);

/* llm_server_admin.c */
void server_put_string(llm_wire_writer *w, const char *s);
void server_reply_stats(conn *c, uint64_t id);
void server_reply_models(conn *c, uint64_t id);
void server_reply_queue(conn *c, uint64_t id);
bool server_fault(conn *c, uint64_t id, llm_wire_reader *r);

#endif /* LLM_SERVER_INTERNAL_H */
