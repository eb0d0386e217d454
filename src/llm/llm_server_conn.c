/*
 * llm_server_conn.c: one client: frames in, bytes out.
 *
 * Input is taken as it comes and handled frame by frame; an unfinished frame costs its bytes and
 * nothing else, and is waited for half a minute at most. Output is bounded: a client that does not
 * read is cut off when SERVER_OUTPUT_MAX bytes wait for it, so that it can hurt nobody but itself.
 *
 * The I/O thread owns all of a connection but its output, which engine, start and errand threads
 * append to under conn.mutex: whole frames only, so that frames of several threads never mix. Only
 * the I/O thread closes. Others mark a connection dead, and it is closed at the next look.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "llm_alloc.h"
#include "llm_server_internal.h"

#define READ_BYTES 65536
/* what a connection without traffic may keep, each way */
#define IDLE_BYTES ((size_t) 4 * READ_BYTES)

/* Makes a connection of an accepted socket, which is its own only when this succeeds. */
conn *
conn_create(server *s, int fd)
{
	conn *c = llm_calloc(1, sizeof(*c));

	if (c == NULL)
		return NULL;
	c->server = s;
	c->fd = fd;
	c->caller = ++s->next_caller;
	c->accepted_ms = server_now_ms();
	c->out.grow = llm_wire_grow;
	pthread_mutex_init(&c->mutex, NULL);
	return c;
}

/* Frees a closed connection without jobs. */
void
conn_free(conn *c)
{
	pthread_mutex_destroy(&c->mutex);
	llm_free(c->in);
	llm_free(c->out.bytes);
	llm_free(c);
}

/*
 * Stops reading and writing; running jobs are cancelled and end by themselves. The connection
 * itself stays until they have: their callbacks point to it. Those that never ran are over at once.
 */
void
conn_close(conn *c)
{
	if (c->closed)
		return;
	c->closed = true;
	pthread_mutex_lock(&c->mutex);
	c->dead = true;
	pthread_mutex_unlock(&c->mutex);
	epoll_ctl(c->server->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
	close(c->fd);
	c->fd = -1;
	llm_engine_cancel_caller(c->server->engine, c->caller);
	if (c->server->remote != NULL)
		llm_remote_cancel_caller(c->server->remote, c->caller);
	pthread_mutex_lock(&c->server->mutex);
	for (server_job *job = c->jobs; job != NULL; job = job->next)
	{
		job->cancelled = true;
		if (!job->running)
			job->done = true;
	}
	pthread_mutex_unlock(&c->server->mutex);
}

/* Locks the output for a writer of frames. */
llm_wire_writer *
conn_lock_output(conn *c)
{
	pthread_mutex_lock(&c->mutex);
	if (!c->dead)
		return &c->out;
	pthread_mutex_unlock(&c->mutex);
	return NULL;
}

/* Unlocks; output that cannot be kept makes the connection dead, and the I/O thread closes it. */
void
conn_unlock_output(conn *c)
{
	if (c->out.failed || c->out.n - c->n_sent > SERVER_OUTPUT_MAX)
		c->dead = true;
	pthread_mutex_unlock(&c->mutex);
	server_wake(c->server);
}

/*
 * Unlocks after results. Waking the I/O thread for each row of a pass would cost more than the
 * rows: it looks when the pass ends, or when SERVER_WAKE_BYTES have come together.
 */
void
conn_unlock_results(conn *c)
{
	if (c->out.failed || c->out.n - c->n_sent > SERVER_WAKE_BYTES)
	{
		conn_unlock_output(c);
		return;
	}
	pthread_mutex_unlock(&c->mutex);
	atomic_store(&c->server->output_waits, true);
}

/* Appends a whole frame; one that there was no memory for makes the connection dead. */
void
conn_send(conn *c, const llm_wire_writer *frame)
{
	llm_wire_writer *w = conn_lock_output(c);

	if (w == NULL)
		return;
	llm_wire_put(w, frame->bytes, frame->n);
	w->failed = w->failed || frame->failed;
	conn_unlock_output(c);
}

/* Sends an error. */
void
conn_error(conn *c, uint64_t id, llm_status status, const char *message)
{
	llm_wire_writer *w = conn_lock_output(c);

	if (w == NULL)
		return;
	llm_wire_put_error(w, id, status, message);
	conn_unlock_output(c);
}

/* Asks epoll for write readiness, or no longer: an idle socket is always writable. */
static void
want_write(conn *c, bool want)
{
	struct epoll_event event = {.events = EPOLLIN | (want ? EPOLLOUT : 0), .data.ptr = c};

	if (c->wants_write == want)
		return;
	c->wants_write = want;
	epoll_ctl(c->server->epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

/*
 * Gives back the room of what has gone; idle connections keep little. Under conn.mutex. What waits
 * is moved down only after 16 MB, so each byte is moved a few times at most. The frame that rows
 * may join moves with it, or is forgotten when it has begun to go.
 */
static void
drop_sent(conn *c)
{
	if (c->n_sent == c->out.n)
	{
		c->n_sent = c->out.n = 0;
		if (c->out.capacity <= IDLE_BYTES)
			return;
		llm_free(c->out.bytes);
		c->out.bytes = NULL;
		c->out.capacity = 0;
	}
	else if (c->n_sent > SERVER_OUTPUT_MAX / 4)
	{
		memmove(c->out.bytes, c->out.bytes + c->n_sent, c->out.n - c->n_sent);
		c->out.n -= c->n_sent;
		c->out.frame = c->out.frame >= c->n_sent ? c->out.frame - c->n_sent : SIZE_MAX;
		c->n_sent = 0;
	}
}

/* Sends what waits, as far as the socket takes it; never blocks. Closes a dead connection. */
void
conn_flush(conn *c)
{
	bool failed = false;
	bool rest;

	if (c->closed)
		return;
	pthread_mutex_lock(&c->mutex);
	/* A dead output may end within a frame. */
	while (c->n_sent < c->out.n && !c->dead)
	{
		ssize_t n = send(c->fd, c->out.bytes + c->n_sent, c->out.n - c->n_sent,
		                 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
		{
			failed = errno != EAGAIN && errno != EWOULDBLOCK;
			break;
		}
		c->n_sent += (size_t) n;
	}
	rest = c->n_sent < c->out.n;
	drop_sent(c);
	failed = failed || c->dead;
	pthread_mutex_unlock(&c->mutex);
	if (failed)
		conn_close(c);
	else
		want_write(c, rest);
}

/* Answers HELLO. */
static bool
greet(conn *c, uint64_t id, llm_wire_reader *r)
{
	uint32_t magic = llm_wire_get_u32(r);
	uint32_t version = llm_wire_get_u32(r);
	llm_wire_writer *w;
	char text[80];

	c->pid = llm_wire_get_u32(r);
	if (!llm_wire_complete(r) || magic != LLM_WIRE_MAGIC)
	{
		conn_error(c, id, LLM_E_FORMAT, "not a prepack client");
		return false;
	}
	if (version != LLM_WIRE_VERSION)
	{
		snprintf(text, sizeof(text), "protocol version %u is not supported; the engine speaks %u",
		         version, LLM_WIRE_VERSION);
		conn_error(c, id, LLM_E_UNSUPPORTED, text);
		return false;
	}
	if (c->excess)
	{
		conn_error(c, id, LLM_E_BUSY, "too many connections to the inference engine");
		return false;
	}
	c->greeted = true;
	if ((w = conn_lock_output(c)) == NULL)
		return false;
	llm_wire_begin(w, LLM_WIRE_WELCOME, id);
	llm_wire_put_u32(w, LLM_WIRE_MAGIC);
	llm_wire_put_u32(w, LLM_WIRE_VERSION);
	llm_wire_put_u32(w, (uint32_t) getpid());
	llm_wire_end(w);
	conn_unlock_output(c);
	return true;
}

/* Handles one whole frame; false: the connection must be closed. */
static bool
handle(conn *c, const llm_wire_header *h, llm_wire_reader *r)
{
	if (h->type == LLM_WIRE_HELLO)
		return !c->greeted && greet(c, h->id, r);
	if (!c->greeted)
	{
		conn_error(c, 0, LLM_E_FORMAT, "the first frame must be HELLO");
		return false;
	}
	switch (h->type)
	{
		case LLM_WIRE_JOB:
			return server_job_begin(c, h->id, r);
		case LLM_WIRE_ROWS:
			return server_job_rows(c, h->id, r);
		case LLM_WIRE_ENDPOINT:
			return server_job_endpoint(c, h->id, r);
		case LLM_WIRE_RUN:
			return server_job_run(c, h->id);
		case LLM_WIRE_CANCEL:
			server_job_cancel(c, h->id);
			return true;
		case LLM_WIRE_LOAD:
			return server_load_model(c, h->id, r);
		case LLM_WIRE_UNLOAD:
		case LLM_WIRE_INSPECT:
		case LLM_WIRE_PREFIXES:
			return server_send_errand(c, h, r);
		case LLM_WIRE_STATS:
			server_reply_stats(c, h->id);
			return true;
		case LLM_WIRE_MODELS:
			server_reply_models(c, h->id);
			return true;
		case LLM_WIRE_QUEUE:
			server_reply_queue(c, h->id);
			return true;
		case LLM_WIRE_FAULT:
			return server_fault(c, h->id, r);
		default:
			conn_error(c, 0, LLM_E_FORMAT, "unknown type of frame");
			return false;
	}
}

/*
 * Handles all whole frames of the input. Returns false when the connection must be closed. The
 * clock of an unfinished frame starts with its first byte and not again: who drips stalls all the
 * same.
 */
static bool
handle_input(conn *c)
{
	size_t at = 0;
	bool good = true;

	while (good && c->n_in - at >= LLM_WIRE_HEADER)
	{
		llm_wire_header h;
		llm_wire_reader r;

		if (!llm_wire_get_header(c->in + at, &h))
		{
			conn_error(c, 0, LLM_E_FORMAT, "malformed frame header");
			return false;
		}
		if (h.length > c->n_in - at - LLM_WIRE_HEADER)
			break;
		r = (llm_wire_reader){c->in + at + LLM_WIRE_HEADER, h.length, false};
		good = handle(c, &h, &r);
		at += LLM_WIRE_HEADER + h.length;
	}
	memmove(c->in, c->in + at, c->n_in - at);
	c->n_in -= at;
	if (c->n_in == 0)
		c->frame_since_ms = 0;
	else if (at > 0 || c->frame_since_ms == 0)
		c->frame_since_ms = server_now_ms();
	return good;
}

/*
 * Makes room for one more read. The header's length was checked when it came, so a buffer as large
 * as the largest frame is never too small for an honest client.
 */
static bool
make_room(conn *c)
{
	uint8_t *grown;

	if (c->cap_in - c->n_in >= READ_BYTES)
		return true;
	if (c->cap_in > (size_t) LLM_WIRE_PAYLOAD_MAX + LLM_WIRE_HEADER + READ_BYTES)
		return false;
	if ((grown = llm_realloc_array(c->in, c->cap_in * 2 + READ_BYTES, 1)) == NULL)
		return false;
	c->in = grown;
	c->cap_in = c->cap_in * 2 + READ_BYTES;
	return true;
}

/* Takes what the socket has. */
void
conn_readable(conn *c)
{
	while (!c->closed)
	{
		ssize_t n;

		if (!make_room(c))
		{
			conn_close(c);
			return;
		}
		n = recv(c->fd, c->in + c->n_in, c->cap_in - c->n_in, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n <= 0)
		{
			conn_close(c);
			return;
		}
		c->n_in += (size_t) n;
		if (!handle_input(c))
		{
			conn_flush(c);
			conn_close(c);
			return;
		}
		/* Idle connections do not keep the room of a large frame. */
		if (c->n_in == 0 && c->cap_in > IDLE_BYTES)
		{
			llm_free(c->in);
			c->in = NULL;
			c->cap_in = 0;
		}
	}
}
