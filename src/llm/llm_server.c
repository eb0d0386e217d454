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
#include <signal.h>
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

#include "llm_alloc.h"
#include "llm_server_internal.h"

#define EVENTS_MAX 64
#define TICK_MS    1000
#define DEAF_MS    100 /* without descriptors no connection is accepted for this long */
#define FILES_MIN  256 /* descriptors, when the system does not tell */
#define FILES_MAX  65536
#define EXCESS_MAX 32 /* connections that wait for their refusal */
#define GRACE_S    1  /* threads that do not end by then are left to the end of the process */

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
		while (atomic_load(&s->hang))
			pause();
		worked = llm_engine_step(s->engine);
		atomic_store(&s->pass_since_ms, 0);
		if (atomic_exchange(&s->output_waits, false))
			server_wake(s);
		pthread_mutex_lock(&s->engine_mutex);
		while (!worked && !s->engine_woken && !s->engine_stop)
			pthread_cond_wait(&s->engine_cond, &s->engine_mutex);
		s->engine_woken = false;
		stop = s->engine_stop;
		pthread_mutex_unlock(&s->engine_mutex);
	}
	return NULL;
}

/* Provokes a wedge: the next step of the engine does not end. */
void
server_hang(server *s)
{
	atomic_store(&s->hang, true);
	wake_engine(s);
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

/*
 * Raises the soft limit of descriptors, and leaves some of them to all but connections: a client
 * over the limit is told so, while accept still works.
 */
static void
plan_connections(server *s)
{
	struct rlimit files = {FILES_MIN, FILES_MIN};

	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max)
	{
		files.rlim_cur = files.rlim_max < FILES_MAX ? files.rlim_max : FILES_MAX;
		setrlimit(RLIMIT_NOFILE, &files);
		getrlimit(RLIMIT_NOFILE, &files);
	}
	s->max_conns = s->params.max_connections;
	if (s->max_conns == 0)
		s->max_conns = (uint32_t) (files.rlim_cur < FILES_MAX ? files.rlim_cur : FILES_MAX) / 4 * 3;
}

/* ---- the loop ------------------------------------------------------------------------------ */

/*
 * Makes a connection of a new socket. Processes of other users are turned away. Who comes over the
 * limit is told so after its HELLO; the parent's looks at the engine do not count.
 */
static void
add_client(server *s, int fd)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0;
	bool excess = s->n_conns >= s->max_conns && known && peer.pid != getppid();
	conn *c = NULL;

	if (known && peer.uid == geteuid() && (!excess || s->n_conns < s->max_conns + EXCESS_MAX))
		c = conn_create(s, fd);
	if (c == NULL)
	{
		close(fd);
		return;
	}
	c->excess = excess;
	s->n_conns++;
	pthread_mutex_lock(&s->mutex);
	c->next = s->conns;
	s->conns = c;
	pthread_mutex_unlock(&s->mutex);
	if (!watch(s, fd, c))
		conn_close(c);
}

/*
 * Accepts what waits. When there are no descriptors, the socket stays readable: it is not watched
 * for a moment, else the loop would spin.
 */
static void
accept_clients(server *s)
{
	for (;;)
	{
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
			add_client(s, fd);
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		else if (errno != EINTR && errno != ECONNABORTED)
		{
			epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, s->listen_fd, NULL);
			s->deaf_until_ms = server_now_ms() + DEAF_MS;
			return;
		}
	}
}

/* Watches the listening socket again when its pause is over. */
static void
listen_again(server *s)
{
	if (s->deaf_until_ms > 0 && server_now_ms() >= s->deaf_until_ms &&
	    watch(s, s->listen_fd, &s->listen_fd))
		s->deaf_until_ms = 0;
}

/* True when a client has left a frame unfinished, or HELLO unsaid, for too long. */
static bool
is_stalled(const conn *c, double now)
{
	double since = c->greeted ? c->frame_since_ms : c->accepted_ms;

	return since > 0 && now - since > c->server->params.stall_ms;
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
		if (!c->closed && is_stalled(c, now))
			conn_close(c);
		if (c->closed && c->jobs == NULL)
		{
			pthread_mutex_lock(&s->mutex);
			*link = c->next;
			pthread_mutex_unlock(&s->mutex);
			conn_free(c);
			s->n_conns--;
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
		int n =
		    epoll_wait(s->epoll_fd, events, EVENTS_MAX, s->deaf_until_ms > 0 ? DEAF_MS : TICK_MS);

		for (int i = 0; i < n; i++)
			handle_event(s, &events[i]);
		tend_connections(s);
		listen_again(s);
		llm_engine_get_stats(s->engine, &stats);
		if (stats.state == LLM_E_DEVICE)
			return llm_fail(err, LLM_E_DEVICE, "%s", stats.last_error);
	}
	return LLM_OK;
}

/* Waits for a thread's end until a point in time. */
static bool
join(pthread_t thread, const struct timespec *until)
{
	return pthread_timedjoin_np(thread, NULL, until) == 0;
}

/*
 * Ends the threads after the job, errand and pass in hand. False: one does not end; a wedged engine
 * must not keep the process alive.
 */
static bool
stop_threads(server *s)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += GRACE_S;
	pthread_mutex_lock(&s->start_mutex);
	s->start_stop = true;
	pthread_cond_signal(&s->start_cond);
	pthread_mutex_unlock(&s->start_mutex);
	pthread_mutex_lock(&s->mutex);
	s->errand_stop = true;
	pthread_cond_signal(&s->errand_cond);
	pthread_mutex_unlock(&s->mutex);
	if (!join(s->start_thread, &until) || !join(s->errand_thread, &until))
		return false;
	pthread_mutex_lock(&s->engine_mutex);
	s->engine_stop = true;
	pthread_cond_signal(&s->engine_cond);
	pthread_mutex_unlock(&s->engine_mutex);
	return join(s->engine_thread, &until);
}

/*
 * Closes what is open. Running loads, or a thread that does not end, keep the engine busy: then the
 * process ends without freeing models.
 */
static void
shut_down(server *s)
{
	bool busy;

	unlink(s->params.socket_path);
	if (!stop_threads(s))
		return;
	s->start_first = s->start_last = NULL;
	pthread_mutex_lock(&s->mutex);
	busy = s->loads != NULL;
	while (s->errands != NULL)
	{
		server_errand *errand = s->errands;

		s->errands = errand->next;
		llm_free(errand);
	}
	pthread_mutex_unlock(&s->mutex);
	if (busy)
		return;
	for (conn *c = s->conns; c != NULL; c = c->next)
		conn_close(c);
	llm_engine_destroy(s->engine);
	llm_remote_destroy(s->remote);
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
	if (s->params.stall_ms == 0)
		s->params.stall_ms = SERVER_STALL_MS;
	if (s->params.input_limit == 0)
		s->params.input_limit = SERVER_INPUT_MAX;
	s->started_ms = server_now_ms();
	pthread_mutex_init(&s->mutex, NULL);
	pthread_mutex_init(&s->engine_mutex, NULL);
	pthread_mutex_init(&s->start_mutex, NULL);
	pthread_cond_init(&s->start_cond, NULL);
	pthread_cond_init(&s->errand_cond, NULL);
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
	plan_connections(s);
	if (open_socket(s, err) != LLM_OK || open_events(s, err) != LLM_OK ||
	    llm_engine_create(&params->engine, &s->engine, err) != LLM_OK ||
	    llm_remote_create(&s->remote, err) != LLM_OK)
		return err->code;
	llm_engine_set_wakeup(s->engine, wake_engine, s);
	if (pthread_create(&s->engine_thread, NULL, engine_main, s) != 0 ||
	    pthread_create(&s->start_thread, NULL, server_start_main, s) != 0 ||
	    pthread_create(&s->errand_thread, NULL, server_errand_main, s) != 0)
		return llm_fail(err, LLM_E_NOMEM, "could not start the server's threads");
	status = serve(s, err);
	shut_down(s);
	return status;
}
