/*
 * llm_server.c: the engine process: setting up, the I/O loop, the engine thread.
 *
 * Hardening: the socket is made under a umask of 0177 in a private folder and only processes of the
 * same user are served; no core dumps (they would hold other users' prompts); no new privileges;
 * first choice of the OOM killer, before the database. Nothing of a prompt is ever logged.
 */
#include "llm_server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "llm_server_internal.h"

#define EVENTS_MAX 64
#define TICK_MS    1000

/* Monotonic milliseconds. */
double
server_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double) ts.tv_sec * 1e3 + (double) ts.tv_nsec * 1e-6;
}

/* Wakes the I/O loop; many calls before it looks cost one write. */
void
server_wake(server *s)
{
	uint64_t one = 1;

	if (!atomic_exchange(&s->wake_pending, true))
		(void) !write(s->wake_fd, &one, sizeof(one));
}

/* ---- the engine thread --------------------------------------------------------------------- */

/* Engine callback: there is something to step. */
static void
wake_engine(void *arg)
{
	server *s = arg;

	pthread_mutex_lock(&s->engine_mutex);
	s->engine_woken = true;
	pthread_cond_signal(&s->engine_cond);
	pthread_mutex_unlock(&s->engine_mutex);
}

/* Steps the engine while there is work, sleeps while there is none. */
static void *
engine_main(void *arg)
{
	server *s = arg;
	bool stop = false;

	while (!stop)
	{
		bool worked;

		atomic_store(&s->pass_since_ms, server_now_ms());
		worked = llm_engine_step(s->engine);
		atomic_store(&s->pass_since_ms, 0);
		pthread_mutex_lock(&s->engine_mutex);
		while (!worked && !s->engine_woken && !s->engine_stop)
			pthread_cond_wait(&s->engine_cond, &s->engine_mutex);
		s->engine_woken = false;
		stop = s->engine_stop;
		pthread_mutex_unlock(&s->engine_mutex);
	}
	return NULL;
}

/* ---- setting up ---------------------------------------------------------------------------- */

/* Gives up what a process that reads untrusted files and texts need not have. */
static void
harden(const llm_server_params *params)
{
	struct rlimit none = {0, 0};
	int fd;

	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (params->control_fd >= 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	if ((fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC)) >= 0)
	{
		(void) !write(fd, "900", 3);
		close(fd);
	}
}

/* Removes a socket file that nobody listens on; a living one is an error. */
static llm_status
clear_stale(const struct sockaddr_un *address, llm_error *err)
{
	struct stat st;
	int fd;
	bool alive;

	if (lstat(address->sun_path, &st) != 0)
		return LLM_OK;
	if (!S_ISSOCK(st.st_mode))
		return llm_fail(err, LLM_E_IO, "\"%.100s\" exists and is not a socket", address->sun_path);
	if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
		return llm_fail(err, LLM_E_IO, "could not create a socket: %s", strerror(errno));
	alive = connect(fd, (const struct sockaddr *) address, sizeof(*address)) == 0;
	close(fd);
	if (alive)
		return llm_fail(err, LLM_E_IO, "another engine listens on \"%.100s\"", address->sun_path);
	unlink(address->sun_path);
	return LLM_OK;
}

/* Opens the listening socket. */
static llm_status
open_socket(server *s, llm_error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t old;
	bool bound;

	if (strlen(s->params.socket_path) >= sizeof(address.sun_path))
		return llm_fail(err, LLM_E_RANGE, "socket path is longer than %zu bytes",
		                sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, s->params.socket_path, strlen(s->params.socket_path) + 1);
	if (clear_stale(&address, err) != LLM_OK)
		return err->code;
	s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0)
		return llm_fail(err, LLM_E_IO, "could not create a socket: %s", strerror(errno));
	old = umask(0177);
	bound = bind(s->listen_fd, (struct sockaddr *) &address, sizeof(address)) == 0;
	umask(old);
	if (!bound || listen(s->listen_fd, 128) != 0)
		return llm_fail(err, LLM_E_IO, "could not listen on \"%.100s\": %s", address.sun_path,
		                strerror(errno));
	return LLM_OK;
}

/* Adds a descriptor to epoll; ptr says what it is. */
static bool
watch(server *s, int fd, void *ptr)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = ptr};

	return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* Opens everything that the loop waits for. */
static llm_status
open_events(server *s, llm_error *err)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->epoll_fd < 0 || s->wake_fd < 0 || s->signal_fd < 0 ||
	    !watch(s, s->listen_fd, &s->listen_fd) || !watch(s, s->wake_fd, &s->wake_fd) ||
	    !watch(s, s->signal_fd, &s->signal_fd) ||
	    (s->params.control_fd >= 0 && !watch(s, s->params.control_fd, &s->params.control_fd)))
		return llm_fail(err, LLM_E_IO, "could not set up event handling: %s", strerror(errno));
	return LLM_OK;
}

/* Resolves the model directory; a missing one is reported when the first model is loaded. */
static void
find_models(server *s)
{
	char resolved[PATH_MAX];

	if (s->params.model_directory == NULL ||
	    realpath(s->params.model_directory, resolved) == NULL ||
	    strlen(resolved) >= sizeof(s->model_root))
		snprintf(s->model_root, sizeof(s->model_root), "/nonexistent");
	else
		memcpy(s->model_root, resolved, strlen(resolved) + 1);
}

/* ---- the loop ------------------------------------------------------------------------------ */

/* Accepts what waits; processes of other users are turned away. */
static void
accept_clients(server *s)
{
	for (;;)
	{
		struct ucred peer;
		socklen_t length = sizeof(peer);
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		conn *c;

		if (fd < 0)
			return;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.uid != geteuid() ||
		    (c = conn_create(s, fd)) == NULL)
		{
			close(fd);
			continue;
		}
		pthread_mutex_lock(&s->mutex);
		c->next = s->conns;
		s->conns = c;
		pthread_mutex_unlock(&s->mutex);
		if (!watch(s, fd, c))
			conn_close(c);
	}
}

/* Sends output, frees ended jobs and closed connections, cuts off who stalls. */
static void
tend_connections(server *s)
{
	conn **link = &s->conns;
	double now = server_now_ms();

	while (*link != NULL)
	{
		conn *c = *link;

		server_jobs_sweep(c);
		conn_flush(c);
		if (!c->closed && c->frame_since_ms > 0 && now - c->frame_since_ms > SERVER_STALL_MS)
			conn_close(c);
		if (c->closed && c->jobs == NULL)
		{
			pthread_mutex_lock(&s->mutex);
			*link = c->next;
			pthread_mutex_unlock(&s->mutex);
			conn_free(c);
		}
		else
			link = &c->next;
	}
}

/* Handles one event. */
static void
handle_event(server *s, const struct epoll_event *event)
{
	void *what = event->data.ptr;
	uint64_t ignored;

	if (what == &s->listen_fd)
		accept_clients(s);
	else if (what == &s->wake_fd)
	{
		(void) !read(s->wake_fd, &ignored, sizeof(ignored));
		atomic_store(&s->wake_pending, false);
	}
	else if (what == &s->signal_fd || what == &s->params.control_fd)
		s->stop = true; /* a signal, or the supervisor's end of the pipe is closed */
	else if (!((conn *) what)->closed && (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		conn_readable(what);
}

/* Serves until told to stop. */
static llm_status
serve(server *s, llm_error *err)
{
	struct epoll_event events[EVENTS_MAX];
	llm_engine_stats stats;

	while (!s->stop)
	{
		int n = epoll_wait(s->epoll_fd, events, EVENTS_MAX, TICK_MS);

		for (int i = 0; i < n; i++)
			handle_event(s, &events[i]);
		tend_connections(s);
		llm_engine_get_stats(s->engine, &stats);
		if (stats.state == LLM_E_DEVICE)
			return llm_fail(err, LLM_E_DEVICE, "%s", stats.last_error);
	}
	return LLM_OK;
}

/* Ends the start thread after its job, then the engine thread after its pass. */
static void
stop_threads(server *s)
{
	pthread_mutex_lock(&s->start_mutex);
	s->start_stop = true;
	pthread_cond_signal(&s->start_cond);
	pthread_mutex_unlock(&s->start_mutex);
	pthread_join(s->start_thread, NULL);
	pthread_mutex_lock(&s->engine_mutex);
	s->engine_stop = true;
	pthread_cond_signal(&s->engine_cond);
	pthread_mutex_unlock(&s->engine_mutex);
	pthread_join(s->engine_thread, NULL);
}

/*
 * Closes what is open. Running loads keep the engine busy, so the process ends without freeing
 * models.
 */
static void
shut_down(server *s)
{
	bool loading;

	unlink(s->params.socket_path);
	stop_threads(s);
	s->start_first = s->start_last = NULL;
	pthread_mutex_lock(&s->mutex);
	loading = s->loads != NULL;
	pthread_mutex_unlock(&s->mutex);
	if (loading)
		return;
	for (conn *c = s->conns; c != NULL; c = c->next)
		conn_close(c);
	llm_engine_destroy(s->engine);
	while (s->conns != NULL)
	{
		conn *c = s->conns;

		s->conns = c->next;
		for (server_job *job = c->jobs; job != NULL; job = job->next)
			job->done = true;
		server_jobs_sweep(c);
		conn_free(c);
	}
}

/* Sets up the parts that need nothing from outside. */
void
server_init(server *s, const llm_server_params *params)
{
	s->params = *params;
	s->started_ms = server_now_ms();
	pthread_mutex_init(&s->mutex, NULL);
	pthread_mutex_init(&s->engine_mutex, NULL);
	pthread_mutex_init(&s->start_mutex, NULL);
	pthread_cond_init(&s->start_cond, NULL);
	pthread_cond_init(&s->engine_cond, NULL);
}

/* Runs the server. */
llm_status
llm_server_run(const llm_server_params *params, llm_error *err)
{
	static server the_server; /* one a process: it outlives detached loader threads */
	server *s = &the_server;
	llm_status status;

	server_init(s, params);
	harden(params);
	find_models(s);
	if (open_socket(s, err) != LLM_OK || open_events(s, err) != LLM_OK ||
	    llm_engine_create(&params->engine, &s->engine, err) != LLM_OK)
		return err->code;
	llm_engine_set_wakeup(s->engine, wake_engine, s);
	if (pthread_create(&s->engine_thread, NULL, engine_main, s) != 0 ||
	    pthread_create(&s->start_thread, NULL, server_start_main, s) != 0)
		return llm_fail(err, LLM_E_NOMEM, "could not start the server's threads");
	status = serve(s, err);
	shut_down(s);
	return status;
}
