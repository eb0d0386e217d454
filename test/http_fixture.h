/*
 * http_fixture.h: a small HTTP server in the test's own process, one thread a connection.
 *
 * A test gives it a function that answers one request after another: well, badly, or not at all.
 * Every connection serves one request. The counters may be read at any time.
 */
#ifndef HTTP_FIXTURE_H
#define HTTP_FIXTURE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "test.h"

#define HTTP_REQUEST_MAX (1 << 20)

typedef struct http_fixture http_fixture;

/* Answers request number nth (from 0) on fd. body is NUL-terminated. */
typedef void (*http_answer)(http_fixture *f, int fd, const char *path, const char *body, int nth);

struct http_fixture
{
	int fd;
	int port;
	pthread_t thread;
	http_answer answer;
	_Atomic int n_requests;
	_Atomic int n_now; /* being answered */
	_Atomic int n_most;
	_Atomic int n_left; /* clients that went before they were answered */
	pthread_mutex_t mutex;
	char head[8192]; /* mutex: of the last request */
	char body[65536];
};

typedef struct http_connection
{
	http_fixture *f;
	int fd;
} http_connection;

/* Sends all of it; a client that has gone is no failure. */
static inline void
http_send(int fd, const char *bytes, size_t n)
{
	while (n > 0)
	{
		ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return;
		bytes += sent;
		n -= (size_t) sent;
	}
}

/* A whole reply; headers are further lines, each with its end, or "". */
static inline void
http_reply(int fd, int code, const char *headers, const char *body)
{
	char head[1024];
	int n = snprintf(head, sizeof(head),
	                 "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
	                 "Connection: close\r\n%s\r\n",
	                 code, strlen(body), headers);

	http_send(fd, head, (size_t) n);
	http_send(fd, body, strlen(body));
}

/* The head of a reply that ends with its connection. */
static inline void
http_begin(int fd, const char *type)
{
	char head[256];
	int n = snprintf(head, sizeof(head),
	                 "HTTP/1.1 200 X\r\nContent-Type: %s\r\nConnection: close\r\n\r\n", type);

	http_send(fd, head, (size_t) n);
}

/* Says nothing until the client goes. */
static inline void
http_hang(http_fixture *f, int fd)
{
	char c;

	while (recv(fd, &c, 1, 0) > 0)
		;
	atomic_fetch_add(&f->n_left, 1);
}

/* Reads a request; returns where its body is, or NULL. */
static inline char *
http_read(int fd, char *request)
{
	size_t n = 0;
	char *body = NULL;
	size_t length = 0;

	while (n + 1 < HTTP_REQUEST_MAX)
	{
		ssize_t got = recv(fd, request + n, HTTP_REQUEST_MAX - 1 - n, 0);

		if (got <= 0)
			return NULL;
		n += (size_t) got;
		request[n] = '\0';
		if (body == NULL && (body = strstr(request, "\r\n\r\n")) != NULL)
		{
			char *header = strcasestr(request, "content-length:");

			length = header != NULL ? strtoul(header + 15, NULL, 10) : 0;
			body += 4;
		}
		if (body != NULL && n - (size_t) (body - request) >= length)
			return body;
	}
	return NULL;
}

/* The thread of one connection. */
static inline void *
http_serve_one(void *arg)
{
	http_connection *c = arg;
	http_fixture *f = c->f;
	char *request = malloc(HTTP_REQUEST_MAX);
	char *body = http_read(c->fd, request);
	int now = atomic_fetch_add(&f->n_now, 1) + 1;
	int most = atomic_load(&f->n_most);
	char path[256] = "";

	if (body != NULL)
	{
		int nth = atomic_fetch_add(&f->n_requests, 1);

		while (now > most && !atomic_compare_exchange_weak(&f->n_most, &most, now))
			;
		sscanf(request, "POST %255s", path);
		pthread_mutex_lock(&f->mutex);
		snprintf(f->head, sizeof(f->head), "%.*s", (int) (body - request), request);
		snprintf(f->body, sizeof(f->body), "%s", body);
		pthread_mutex_unlock(&f->mutex);
		f->answer(f, c->fd, path, body, nth);
	}
	atomic_fetch_sub(&f->n_now, 1);
	close(c->fd);
	free(request);
	free(c);
	return NULL;
}

/* The accepting thread: ends when the listening socket is shut down. */
static inline void *
http_serve(void *arg)
{
	http_fixture *f = arg;
	int fd;

	while ((fd = accept(f->fd, NULL, NULL)) >= 0)
	{
		http_connection *c = malloc(sizeof(*c));
		pthread_t thread;

		*c = (http_connection){f, fd};
		if (pthread_create(&thread, NULL, http_serve_one, c) == 0)
			pthread_detach(thread);
	}
	return NULL;
}

/* Starts a server on a free port of the loopback. */
static inline bool
http_start(http_fixture *f, http_answer answer)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(address);

	memset(f, 0, sizeof(*f));
	f->answer = answer;
	pthread_mutex_init(&f->mutex, NULL);
	f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (f->fd < 0 || bind(f->fd, (struct sockaddr *) &address, sizeof(address)) != 0 ||
	    listen(f->fd, 128) != 0 || getsockname(f->fd, (struct sockaddr *) &address, &n) != 0)
		return false;
	f->port = ntohs(address.sin_port);
	return pthread_create(&f->thread, NULL, http_serve, f) == 0;
}

/* Stops it and waits for its connections. */
static inline void
http_stop(http_fixture *f)
{
	shutdown(f->fd, SHUT_RDWR);
	pthread_join(f->thread, NULL);
	close(f->fd);
	while (atomic_load(&f->n_now) > 0)
		usleep(1000);
	pthread_mutex_destroy(&f->mutex);
}

#endif /* HTTP_FIXTURE_H */
