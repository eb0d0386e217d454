/*
 * test_fault.c: what the engine does when the device fails, on a real one.
 *
 *	test_fault [N]     every case; faults are provoked N times (50)
 *
 * A context that saw a fault is lost for its process, so that each case runs in a process of its
 * own, which is this program with the case's name; the next one shows that the card is well again.
 * fault_kernels.cu brings the kernels that write nowhere, fail assertions, and never end.
 *
 * A card that falls off the bus cannot be had on demand. Every call fails then, as every call fails
 * after an illegal address; what the engine does is what the cases of faults see.
 */
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "llm.h"
#include "llm_device.h"
#include "test.h"

#define MODEL         "test/data/models/llama"
#define N_FAULTS      50
#define MAX_BLOCKS    4096
#define SLACK_BYTES   ((long long) 16 << 20)
#define WEDGE_SECONDS 60 /* what is not killed ends at last */

/* fault_kernels.cu */
int fault_provoke(const char *kind);
int fault_spin(int seconds);

/* An engine with a model, and what its last job told. */
typedef struct fault_engine
{
	llm_engine *e;
	uint32_t n_done;
	llm_status status;
	char text[256];
} fault_engine;

/* Notes the end. */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	fault_engine *f = user;

	(void) message;
	(void) stats;
	f->n_done++;
	f->status = status;
}

/* Keeps the text. */
static void
on_row(void *user, const llm_row_result *row)
{
	fault_engine *f = user;

	snprintf(f->text, sizeof(f->text), "%.*s", (int) row->text.n, row->text.bytes);
}

/* Opens an engine on the device. */
static bool
open_engine(fault_engine *f, const char *device, uint64_t kv_bytes)
{
	llm_engine_params params = {.device = device, .budget_tokens = 256};
	llm_load_options options = {.kv_bytes = kv_bytes};
	llm_error err = {0};

	*f = (fault_engine){0};
	if (llm_engine_create(&params, &f->e, &err) != LLM_OK ||
	    llm_engine_load(f->e, "m", MODEL, &options, &err) != LLM_OK)
	{
		CHECK_MSG(false, "%s", err.message);
		return false;
	}
	return true;
}

/* Submits a generation. */
static llm_status
submit(fault_engine *f)
{
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .model = "m",
	               .flags = LLM_JOB_RAW,
	               .instruction = LLM_TEXT("a b c d e f"),
	               .n_rows = 1,
	               .max_tokens = 24,
	               .user = f,
	               .on_row = on_row,
	               .on_done = on_done};
	llm_error err = {0};
	uint64_t id;

	f->n_done = 0;
	f->status = LLM_OK;
	return llm_engine_submit(f->e, &job, &id, &err);
}

/* Runs what was submitted. */
static void
run(fault_engine *f)
{
	while (llm_engine_step(f->e))
		;
}

/* A generation from beginning to end, by a process of its own: the card is well. */
static int
case_well(const char *unused)
{
	fault_engine f;

	(void) unused;
	if (!open_engine(&f, "cuda:0", (uint64_t) 64 << 20))
		return 1;
	CHECK(submit(&f) == LLM_OK);
	run(&f);
	CHECK_MSG(f.n_done == 1 && f.status == LLM_OK, "status %d", (int) f.status);
	llm_engine_destroy(f.e);
	return test_this_failed;
}

/* A fault while a job runs: the job ends, once, with the error; so does the next; nothing hangs. */
static int
case_fault(const char *kind)
{
	fault_engine f;
	llm_engine_stats stats;
	int code;

	if (!open_engine(&f, "cuda:0", (uint64_t) 64 << 20))
		return 1;
	CHECK(submit(&f) == LLM_OK);
	for (int i = 0; i < 4; i++)
		(void) llm_engine_step(f.e);
	CHECK_MSG(f.n_done == 0, "the job was over before the fault");
	code = fault_provoke(kind);
	/* illegal address 700, assertion 710, trap 719 */
	CHECK_MSG(code == (kind[0] == 'i'   ? 700
	                   : kind[0] == 'a' ? 710
	                                    : 719),
	          "%s gave %d", kind, code);
	run(&f);
	CHECK_MSG(f.n_done == 1 && f.status == LLM_E_DEVICE, "%u ends, status %d", f.n_done,
	          (int) f.status);
	llm_engine_get_stats(f.e, &stats);
	CHECK(stats.state == LLM_E_DEVICE && stats.last_error[0] != '\0');
	if (submit(&f) == LLM_OK)
	{
		run(&f);
		CHECK_MSG(f.n_done == 1 && f.status == LLM_E_DEVICE, "the next: %u ends, status %d",
		          f.n_done, (int) f.status);
	}
	llm_engine_destroy(f.e);
	return test_this_failed;
}

/* The same for the table alone: the first message stays, and every op fails. */
static int
case_sticky(const char *kind)
{
	pp_backend *be = NULL;
	llm_error err = {0};
	char first[256];
	float x = 1.0f;
	void *dev;

	CHECK(llm_device_open("cuda:0", 1, &be, &err) == LLM_OK);
	if (be == NULL || (dev = be->ops->alloc(be, sizeof(x))) == NULL)
		return 1;
	CHECK(be->ops->upload(be, dev, &x, sizeof(x)) == PP_OK && be->ops->sync(be) == PP_OK);
	(void) fault_provoke(kind);
	CHECK(be->ops->sync(be) == PP_E_DEVICE);
	snprintf(first, sizeof(first), "%s", be->message);
	CHECK(first[0] != '\0' && be->ops->upload(be, dev, &x, sizeof(x)) == PP_E_DEVICE);
	CHECK(be->ops->download(be, &x, dev, sizeof(x)) == PP_E_DEVICE);
	CHECK(be->ops->softcap(be, dev, 1, 2.0f) == PP_E_DEVICE && be->ops->alloc(be, 64) == NULL);
	CHECK_MSG(strcmp(first, be->message) == 0, "\"%s\" became \"%s\"", first, be->message);
	be->ops->release(be, dev);
	be->ops->destroy(be);
	return test_this_failed;
}

/* What does not fit is refused, and nothing is broken by it. */
static int
case_too_large(const char *unused)
{
	pp_backend *be = NULL;
	llm_error err = {0};
	float x = 1.0f;
	void *dev;

	(void) unused;
	CHECK(llm_device_open("cuda:0", 1, &be, &err) == LLM_OK);
	if (be == NULL)
		return 1;
	CHECK(be->ops->alloc(be, (size_t) 1 << 50) == NULL);
	CHECK_MSG(strstr(be->message, "no memory left") != NULL, "%s", be->message);
	dev = be->ops->alloc(be, sizeof(x));
	CHECK(dev != NULL && be->ops->upload(be, dev, &x, sizeof(x)) == PP_OK);
	CHECK(be->ops->softcap(be, dev, 1, 2.0f) == PP_OK);
	CHECK(be->ops->download(be, &x, dev, sizeof(x)) == PP_OK && x > 0.9f && x < 0.95f);
	be->ops->release(be, dev);
	be->ops->destroy(be);
	return test_this_failed;
}

/* A full card: a model that runs goes on, for it takes nothing; one more is refused. */
static int
case_full(const char *unused)
{
	static void *blocks[MAX_BLOCKS];
	llm_load_options options = {.kv_bytes = (uint64_t) 1 << 30};
	llm_error err = {0};
	pp_backend *be = NULL;
	fault_engine f;
	char before[sizeof(f.text)];
	uint32_t n = 0;

	(void) unused;
	if (!open_engine(&f, "cuda:0", (uint64_t) 64 << 20) ||
	    llm_device_open("cuda:0", 1, &be, &err) != LLM_OK)
		return 1;
	/* passes are recorded when they come for the second time */
	for (int i = 0; i < 3; i++)
	{
		CHECK(submit(&f) == LLM_OK);
		run(&f);
		CHECK(f.n_done == 1 && f.status == LLM_OK);
	}
	snprintf(before, sizeof(before), "%s", f.text);
	for (size_t bytes = (size_t) 1 << 30; bytes >= (size_t) 1 << 20; bytes /= 4)
		while (n < MAX_BLOCKS && (blocks[n] = be->ops->alloc(be, bytes)) != NULL)
			n++;
	CHECK(submit(&f) == LLM_OK);
	run(&f);
	CHECK_MSG(f.n_done == 1 && f.status == LLM_OK && strcmp(f.text, before) == 0,
	          "on a full card: status %d, \"%s\" for \"%s\"", (int) f.status, f.text, before);
	CHECK_MSG(llm_engine_load(f.e, "second", MODEL, &options, &err) == LLM_E_NOMEM, "%s",
	          err.message);
	while (n > 0)
		be->ops->release(be, blocks[--n]);
	CHECK_MSG(llm_engine_load(f.e, "second", MODEL, &options, &err) == LLM_OK, "%s", err.message);
	be->ops->destroy(be);
	llm_engine_destroy(f.e);
	return test_this_failed;
}

/* No card, no driver: a clear error where the device was named, else the CPU. */
static int
case_none(const char *unused)
{
	char name[LLM_DEVICE_NAME];
	llm_error err = {0};
	fault_engine f;

	(void) unused;
	CHECK(llm_device_find("cuda", name, &err) == LLM_E_UNSUPPORTED);
	CHECK_MSG(strstr(err.message, "0 CUDA devices") != NULL, "%s", err.message);
	if (!open_engine(&f, "auto", (uint64_t) 16 << 20))
		return 1;
	CHECK(submit(&f) == LLM_OK);
	run(&f);
	CHECK(f.n_done == 1 && f.status == LLM_OK);
	llm_engine_destroy(f.e);
	return test_this_failed;
}

/* A driver that counts a card and can do nothing else: the device does not start. */
static int
case_wrong_driver(const char *unused)
{
	llm_engine_params params = {.device = "cuda"};
	llm_engine *e = NULL;
	llm_error err = {0};
	llm_engine_stats stats;

	(void) unused;
	CHECK(llm_engine_create(&params, &e, &err) == LLM_E_DEVICE && err.message[0] != '\0');
	params.device = "auto";
	CHECK_MSG(llm_engine_create(&params, &e, &err) == LLM_OK, "%s", err.message);
	if (e == NULL)
		return 1;
	llm_engine_get_stats(e, &stats);
	CHECK(strcmp(stats.device, "cpu") == 0);
	llm_engine_destroy(e);
	return test_this_failed;
}

/* A kernel that does not end holds the card; the engine waits for it until it is killed. */
static int
case_wedged(const char *unused)
{
	fault_engine f;

	(void) unused;
	if (!open_engine(&f, "cuda:0", (uint64_t) 64 << 20) || submit(&f) != LLM_OK)
		return 1;
	(void) llm_engine_step(f.e);
	if (!fault_spin(WEDGE_SECONDS))
		return 1;
	(void) !write(STDOUT_FILENO, "w", 1);
	run(&f);
	return 2; /* it was not wedged, or nobody killed it */
}

/* Prints how many bytes of the card are free. */
static int
case_free(const char *unused)
{
	pp_memory_info info = {0};
	pp_backend *be = NULL;
	llm_error err = {0};

	(void) unused;
	if (llm_device_open("cuda:0", 1, &be, &err) != LLM_OK)
		return 1;
	be->ops->memory_info(be, &info);
	printf("%llu\n", (unsigned long long) info.bytes_free);
	be->ops->destroy(be);
	return 0;
}

/* A case, and what the environment must be. */
static const struct
{
	const char *name;
	int (*run)(const char *arg);
	const char *arg;
	const char *settings[2]; /* NAME=VALUE */
	const char *driver;      /* folder beside the program with a libcuda.so.1, or NULL */
} cases[] = {
    {"well", case_well, "", {NULL}, NULL},
    {"illegal", case_fault, "illegal", {NULL}, NULL},
    {"assert", case_fault, "assert", {NULL}, NULL},
    {"trap", case_fault, "trap", {NULL}, NULL},
    {"sticky", case_sticky, "illegal", {NULL}, NULL},
    {"too_large", case_too_large, "", {NULL}, NULL},
    {"full", case_full, "", {NULL}, NULL},
    {"no_card", case_none, "", {"CUDA_VISIBLE_DEVICES="}, NULL},
    {"no_driver", case_none, "", {"FAKE_DEVICES=0"}, "fake"},
    {"wrong_driver", case_wrong_driver, "", {"FAKE_DEVICES=1"}, "fake"},
    {"wedged", case_wedged, "", {NULL}, NULL},
    {"free", case_free, "", {NULL}, NULL},
};

#define N_CASES (sizeof(cases) / sizeof(cases[0]))

static char program[512];

/* Starts a case in a process of its own; *out reads what it prints, unless NULL. */
static pid_t
start(const char *name, int *out)
{
	const char *paths = getenv("LD_LIBRARY_PATH");
	char libraries[4096];
	int ends[2];
	pid_t pid;
	size_t i = 0;

	while (i + 1 < N_CASES && strcmp(cases[i].name, name) != 0)
		i++;
	fflush(stdout);
	if (out != NULL && pipe(ends) != 0)
		return -1;
	if ((pid = fork()) == 0)
	{
		if (out != NULL)
			dup2(ends[1], STDOUT_FILENO);
		for (int s = 0; s < 2 && cases[i].settings[s] != NULL; s++)
			putenv((char *) (uintptr_t) cases[i].settings[s]);
		snprintf(libraries, sizeof(libraries), "%.*s/%s:%s",
		         (int) (strrchr(program, '/') - program), program,
		         cases[i].driver != NULL ? cases[i].driver : "",
		         paths != NULL ? paths : "/usr/lib");
		if (cases[i].driver != NULL)
			setenv("LD_LIBRARY_PATH", libraries, 1);
		execl(program, program, name, (char *) NULL);
		_exit(127);
	}
	if (out != NULL)
	{
		close(ends[1]);
		*out = ends[0];
	}
	return pid;
}

/* Runs a case to its end; true: it passed. */
static bool
passes(const char *name)
{
	int status = -1;
	pid_t pid = start(name, NULL);

	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

/* Free bytes of the card, as a new process sees them. */
static long long
free_bytes(void)
{
	char text[64] = "";
	int out = -1;
	int status;
	pid_t pid = start("free", &out);
	ssize_t n = read(out, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	close(out);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? strtoll(text, NULL, 10) : -1;
}

/* Seconds since some point. */
static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static int n_faults = N_FAULTS;

static void
test_faults(void)
{
	static const char *const kinds[] = {"illegal", "assert", "trap"};

	for (int i = 0; i < n_faults && !test_this_failed; i++)
	{
		CHECK_MSG(passes(kinds[i % 3]), "fault %d: %s", i, kinds[i % 3]);
		if (i < 3 || i + 1 == n_faults)
			CHECK_MSG(passes("well"), "behind fault %d", i);
	}
}

static void
test_sticky(void)
{
	CHECK(passes("sticky"));
}

static void
test_memory(void)
{
	CHECK(passes("too_large"));
	CHECK(passes("full"));
}

static void
test_no_device(void)
{
	CHECK(passes("no_card"));
	CHECK(passes("no_driver"));
	CHECK(passes("wrong_driver"));
}

/* SIGKILL ends a wedged engine, gives its memory back, and the next one works. */
static void
test_wedge(void)
{
	long long before = free_bytes();
	int out = -1;
	int status = 0;
	char c = 0;
	pid_t pid = start("wedged", &out);
	double killed;

	REQUIRE(pid > 0 && read(out, &c, 1) == 1 && c == 'w');
	sleep(3);
	CHECK_MSG(waitpid(pid, &status, WNOHANG) == 0, "the card was not held: status %d", status);
	killed = now();
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
	CHECK_MSG(now() - killed <= 10, "the end took %.1f s", now() - killed);
	CHECK(passes("well"));
	CHECK_MSG(before > 0 && free_bytes() >= before - SLACK_BYTES, "%lld bytes were free, now %lld",
	          before, free_bytes());
	close(out);
}

/* With a case's name: runs it. Else all tests. */
int
main(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);

	program[n > 0 ? n : 0] = '\0';
	for (size_t i = 0; argc > 1 && i < N_CASES; i++)
		if (strcmp(argv[1], cases[i].name) == 0)
			return cases[i].run(cases[i].arg);
	if (argc > 1)
		n_faults = (int) strtol(argv[1], NULL, 10);
	if (getenv("PREPACK_TEST_DEVICE") == NULL)
	{
		printf("SKIP: PREPACK_TEST_DEVICE names no device\nfault: 0 passed, 0 failed, 1 skipped\n");
		return 0;
	}
	RUN(no_device);
	RUN(sticky);
	RUN(memory);
	RUN(faults);
	RUN(wedge);
	return test_summary("fault");
}
