/*
 * conn_fixture.h: a connection of the server inside one thread, for the fuzz target and for tests:
 * jobs and errands run at once, and what comes back must be whole frames that a client can read. A
 * broken promise aborts, as a fuzz target must.
 */
#ifndef CONN_FIXTURE_H
#define CONN_FIXTURE_H

#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../src/llm/llm_server_internal.h"
#include "wire_fixture.h"

#define INPUT_MAX    65536u
#define REPLY_MAX    (4u << 20)
#define FEED_GREETED 1 /* after a good HELLO */
#define FEED_SLOWLY  4 /* in pieces */

/* The server that all inputs meet, without models, sockets and threads of its own. */
static inline server *
the_server(void)
{
	static server s;
	static const llm_server_params params = {.control_fd = -1,
	                                         .input_limit = INPUT_MAX,
	                                         .engine.n_threads = 1};
	llm_error err;

	if (s.engine != NULL)
		return &s;
	server_init(&s, &params);
	s.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s.epoll_fd < 0 || s.wake_fd < 0 ||
	    llm_engine_create(&params.engine, &s.engine, &err) != LLM_OK)
		abort();
	return &s;
}

/* Reads one frame that the engine sent; one that a client could not read is a fault. */
static inline void
check_frame(const llm_wire_header *h, llm_wire_reader r)
{
	switch (h->type)
	{
		case LLM_WIRE_RESULTS:
			for (uint32_t n = llm_wire_get_u32(&r); n > 0 && !r.bad; n--)
				if (fixture_get_row(&r).status > LLM_E_PROTOCOL)
					abort();
			break;
		case LLM_WIRE_PIECE:
			(void) llm_wire_get_u32(&r);
			(void) fixture_get_text(&r);
			break;
		case LLM_WIRE_DONE:
			(void) llm_wire_get_u8(&r);
			(void) fixture_get_text(&r);
			(void) fixture_get_stats(&r);
			break;
		case LLM_WIRE_ERROR:
			if (llm_wire_get_u8(&r) == LLM_OK || fixture_get_text(&r).n == 0)
				abort();
			break;
		case LLM_WIRE_WELCOME:
			r.at += r.left < 12 ? r.left : 12;
			r.left -= r.left < 12 ? r.left : 12;
			break;
		default:
			if (h->type < LLM_WIRE_OK || h->type > LLM_WIRE_PREFIXES_REPLY)
				abort();
			return;
	}
	if (!llm_wire_complete(&r))
		abort();
}

/* Checks the whole frames of the reply and keeps the rest. */
static inline void
check_reply(uint8_t *reply, size_t *n)
{
	llm_wire_header h;
	size_t at = 0;

	while (*n - at >= LLM_WIRE_HEADER)
	{
		if (!llm_wire_get_header(reply + at, &h))
			abort();
		if (h.length > *n - at - LLM_WIRE_HEADER)
			break;
		check_frame(&h, (llm_wire_reader){reply + at + LLM_WIRE_HEADER, h.length, false});
		at += LLM_WIRE_HEADER + h.length;
	}
	memmove(reply, reply + at, *n - at);
	*n -= at;
}

/* Lets the server do all that it can do, and takes its reply. */
static inline void
settle(server *s, conn *c, int fd, uint8_t *reply, size_t *n)
{
	bool loading = true;

	conn_readable(c);
	while (server_start_next(s) || server_errand_next(s) || llm_engine_step(s->engine))
		;
	while (loading)
	{
		pthread_mutex_lock(&s->mutex);
		loading = s->loads != NULL;
		pthread_mutex_unlock(&s->mutex);
		sched_yield();
	}
	server_jobs_sweep(c);
	for (bool more = true; more;)
	{
		ssize_t got;

		conn_flush(c);
		got = recv(fd, reply + *n, REPLY_MAX - *n, MSG_DONTWAIT);
		more = got > 0;
		*n += more ? (size_t) got : 0;
		check_reply(reply, n);
	}
}

/*
 * Feeds the bytes to a connection of their own and closes it; fail_at > 0: this allocation fails.
 */
static inline void
conn_feed(server *s, const uint8_t *bytes, size_t n, int mode, uint64_t fail_at)
{
	size_t piece = mode & FEED_SLOWLY ? 1 + n / 7 : 16384;
	llm_wire_writer hello = fixture_writer();
	uint8_t *reply = malloc(REPLY_MAX);
	size_t n_reply = 0;
	int fds[2];
	conn *c;

	if (reply == NULL ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0 ||
	    (c = conn_create(s, fds[0])) == NULL)
		abort();
	s->conns = c;
	fixture_put_hello(&hello, 1, LLM_WIRE_MAGIC, LLM_WIRE_VERSION);
	if ((mode & FEED_GREETED) && send(fds[1], hello.bytes, hello.n, 0) != (ssize_t) hello.n)
		abort();
	llm_alloc_fail_after(fail_at, false);
	for (size_t at = 0; at < n && !c->closed; at += piece)
	{
		size_t left = n - at < piece ? n - at : piece;

		if (send(fds[1], bytes + at, left, MSG_NOSIGNAL) != (ssize_t) left)
			abort();
		settle(s, c, fds[1], reply, &n_reply);
	}
	settle(s, c, fds[1], reply, &n_reply);
	llm_alloc_fail_after(0, false);
	if (n_reply != 0)
		abort();
	close(fds[1]);
	conn_readable(c);
	server_jobs_sweep(c);
	if (!c->closed || c->jobs != NULL)
		abort();
	s->conns = NULL;
	conn_free(c);
	llm_free(hello.bytes);
	free(reply);
}

#endif /* CONN_FIXTURE_H */
