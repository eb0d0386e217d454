/*
 * engine_proc.c: the engine as a child process of the supervisor.
 *
 * fork and exec, never fork alone: a child that kept the shared memory mapped would block the
 * restart of a killed server, and a CUDA library must not see a forked context. The child gets
 * nothing but three descriptors: standard error (the server log), the control pipe, whose closing
 * ends it, and the alive pipe, whose write end it holds open for as long as it lives. It also asks
 * for SIGKILL on its parent's death, for the case that the supervisor itself is killed.
 *
 * Between fork and exec only async-signal-safe calls are made.
 */
#define _GNU_SOURCE 1 /* pipe2 */
#include "prepack.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#define PP_CONTROL_FD      3
#define PP_ALIVE_FD        4
#define PP_ENGINE_ARGS     22
#define PP_ENGINE_KEYS_MAX 64
#define PP_STOP_POLL_US    10000L

/* The command line, built before the fork. */
typedef struct EngineCommand
{
	char path[MAXPGPATH];
	char threads[16];
	char memory[32];
	char context[16];
	char *argv[PP_ENGINE_ARGS];
	char *environment[PP_ENGINE_KEYS_MAX + 2];
} EngineCommand;

/* The engine's environment: of the server's, nothing but what may be keys of endpoints. */
static void
build_environment(EngineCommand *cmd)
{
	int n = 0;

	cmd->environment[n++] = "LC_ALL=C";
	for (char **entry = environ; *entry != NULL && n <= PP_ENGINE_KEYS_MAX; entry++)
		if (strncmp(*entry, "PREPACK_", 8) == 0)
			cmd->environment[n++] = *entry;
	cmd->environment[n] = NULL;
}

/* Fills in path, arguments and environment. */
static void
build_command(EngineCommand *cmd)
{
	int n = 0;

	snprintf(cmd->path, sizeof(cmd->path), "%s/prepack-engine", pkglib_path);
	snprintf(cmd->threads, sizeof(cmd->threads), "%d", pp_cpu_threads);
	snprintf(cmd->memory, sizeof(cmd->memory), INT64_FORMAT, (int64) pp_memory_limit * 1024 * 1024);
	snprintf(cmd->context, sizeof(cmd->context), "%d", pp_max_context);
	cmd->argv[n++] = "prepack-engine";
	cmd->argv[n++] = "serve";
	cmd->argv[n++] = "--socket";
	cmd->argv[n++] = PP_ENGINE_SOCKET;
	cmd->argv[n++] = "--models";
	cmd->argv[n++] = pp_model_directory;
	cmd->argv[n++] = "--keys";
	cmd->argv[n++] = PP_ENGINE_KEYS;
	cmd->argv[n++] = "--device";
	cmd->argv[n++] = pp_device;
	cmd->argv[n++] = "--quantisation";
	cmd->argv[n++] = pp_quantisation_name();
	cmd->argv[n++] = "--threads";
	cmd->argv[n++] = cmd->threads;
	cmd->argv[n++] = "--memory-limit";
	cmd->argv[n++] = cmd->memory;
	cmd->argv[n++] = "--context";
	cmd->argv[n++] = cmd->context;
	cmd->argv[n++] = "--control-fd";
	cmd->argv[n++] = "3";
	if (!pp_batch_invariance)
		cmd->argv[n++] = "--any-bits";
	if (pp_test_fault != NULL && strcmp(pp_test_fault, "allow") == 0)
		cmd->argv[n++] = "--allow-faults";
	cmd->argv[n] = NULL;
	build_environment(cmd);
	Assert(n < PP_ENGINE_ARGS);
}

/* In the child: keeps the descriptors that it needs, restores signals, becomes the engine. */
static void
become_engine(const EngineCommand *cmd, int control_read, int alive_write, pid_t parent)
{
	sigset_t none;

	/* The pipes may stand on each other's target numbers: move both out of the way first. */
	control_read = fcntl(control_read, F_DUPFD, 16);
	alive_write = fcntl(alive_write, F_DUPFD, 16);
	if (control_read < 0 || alive_write < 0 || dup2(control_read, PP_CONTROL_FD) < 0 ||
	    dup2(alive_write, PP_ALIVE_FD) < 0)
		_exit(126);
	for (int fd = PP_ALIVE_FD + 1; fd < 65536; fd++)
	{
#ifdef SYS_close_range
		if (syscall(SYS_close_range, (unsigned int) fd, ~0U, 0) == 0)
			break;
#endif
		close(fd);
	}
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(125); /* the supervisor died between fork and here */
	execve(cmd->path, cmd->argv, cmd->environment);
	_exit(127);
}

/* Makes the folder of the socket, private to the server's user. */
static bool
make_engine_dir(void)
{
	if (MakePGDirectory(PP_ENGINE_DIR) == 0 || errno == EEXIST)
		return true;
	ereport(LOG, (errcode_for_file_access(),
	              errmsg("could not create directory \"%s\": %m", PP_ENGINE_DIR)));
	return false;
}

/* Opens both pipes, close-on-exec at our ends. */
static bool
open_pipes(int control[2], int alive[2])
{
	if (pipe2(control, O_CLOEXEC) != 0)
		return false;
	if (pipe2(alive, O_CLOEXEC) != 0)
	{
		close(control[0]);
		close(control[1]);
		return false;
	}
	return true;
}

/* Starts the engine. */
bool
pp_engine_spawn(PpEngineProc *proc)
{
	EngineCommand cmd;
	int control[2];
	int alive[2];
	pid_t parent = getpid();
	pid_t pid;

	build_command(&cmd);
	if (!make_engine_dir())
		return false;
	if (!open_pipes(control, alive))
	{
		ereport(LOG, (errcode_for_file_access(),
		              errmsg("could not create pipes for the inference engine: %m")));
		return false;
	}
	pid = fork();
	if (pid == 0)
		become_engine(&cmd, control[0], alive[1], parent);
	close(control[0]);
	close(alive[1]);
	if (pid < 0)
	{
		ereport(LOG, (errmsg("could not fork the inference engine: %m")));
		close(control[1]);
		close(alive[0]);
		return false;
	}
	*proc = (PpEngineProc){.pid = pid, .control_fd = control[1], .alive_fd = alive[0]};
	return true;
}

/* Forgets an ended engine. */
static void
forget(PpEngineProc *proc)
{
	close(proc->control_fd);
	close(proc->alive_fd);
	*proc = (PpEngineProc){0};
}

/* Collects the engine if it has ended. */
bool
pp_engine_reap(PpEngineProc *proc, int *wait_status)
{
	pid_t pid;

	if (proc->pid == 0)
		return false;
	do
		pid = waitpid(proc->pid, wait_status, WNOHANG);
	while (pid < 0 && errno == EINTR);
	if (pid == 0)
		return false;
	if (pid < 0)
		*wait_status = 0; /* somebody else collected it: all we know is that it is gone */
	forget(proc);
	return true;
}

/* Ends the engine: by its pipe, and by force when it does not go within the grace time. */
void
pp_engine_stop(PpEngineProc *proc, int grace_ms)
{
	int status;
	int64 waited_us = 0;

	if (proc->pid == 0)
		return;
	close(proc->control_fd);
	proc->control_fd = -1;
	while (waitpid(proc->pid, &status, WNOHANG) == 0)
	{
		if (waited_us >= (int64) grace_ms * 1000)
		{
			kill(proc->pid, SIGKILL);
			waitpid(proc->pid, &status, 0);
			break;
		}
		pg_usleep(PP_STOP_POLL_US);
		waited_us += PP_STOP_POLL_US;
	}
	close(proc->alive_fd);
	*proc = (PpEngineProc){0};
}
