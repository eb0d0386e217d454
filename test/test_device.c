/*
 * test_device.c: how the engine finds a device, works through its table, and loses it.
 *
 * No card is needed: fake_device.c stands in for the driver and for prepack_cuda.so. The engine
 * looks for the object beside its program, so the test runs itself from a copy beside the fake (and
 * from one with nothing beside it), once a case, with the environment that the case asks for. A
 * driver is looked for in LD_LIBRARY_PATH, which only counts when a program starts.
 */
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "llm.h"
#include "llm_device.h"
#include "model_fixture.h"

#define MODELS "test/data/models/"

/* The table's way out of a name that must fail, with a word of the reason. */
static void
check_refused(const char *device, const char *word)
{
	char name[LLM_DEVICE_NAME];
	llm_error err = {0};

	CHECK(llm_device_find(device, name, &err) == LLM_E_UNSUPPORTED);
	CHECK_MSG(strstr(err.message, word) != NULL, "%s: %s", device, err.message);
}

/* A setting and what it must resolve to. */
static void
check_found(const char *device, const char *expected)
{
	char name[LLM_DEVICE_NAME] = "";
	llm_error err = {0};

	CHECK_MSG(llm_device_find(device, name, &err) == LLM_OK, "%s", err.message);
	CHECK_MSG(strcmp(name, expected) == 0, "%s is not %s", name, expected);
}

/* No driver, or one without devices. */
static void
case_no_device(void)
{
	check_found(NULL, "cpu");
	check_found("auto", "cpu");
	check_found("cpu", "cpu");
	check_refused("cuda", "0 CUDA devices");
	check_refused("cuda:0", "0 CUDA devices");
	check_refused("tpu", "none of");
	check_refused("", "none of");
	check_refused("cuda:", "none of");
	check_refused("cuda:x", "none of");
	check_refused("cuda:-1", "none of");
	check_refused("cuda:1x", "none of");
	check_refused("cuda:99999999999999999999", "none of");
}

/* Devices, but nothing beside the program. */
static void
case_no_object(void)
{
	check_found("auto", "cpu");
	check_refused("cuda", "make cuda");
}

/* An object of another version. */
static void
case_other_version(void)
{
	check_found("auto", "cpu");
	check_refused("cuda", "another version");
}

/* Two devices. */
static void
case_two_devices(void)
{
	llm_error err = {0};
	pp_backend *be = NULL;

	check_found(NULL, "cuda:0");
	check_found("auto", "cuda:0");
	check_found("cuda", "cuda:0");
	check_found("cuda:1", "cuda:1");
	check_found("cpu", "cpu");
	check_refused("cuda:2", "2 CUDA devices");
	CHECK(llm_device_open("cuda:1", 1, &be, &err) == LLM_OK);
	REQUIRE(be != NULL);
	CHECK(be->act_bytes > 0 && be->ops->sync(be) == PP_OK);
	be->ops->destroy(be);
}

/* Devices that share a model; a setting that names no such thing. */
static void
case_list(void)
{
	check_found("cuda:0+1", "cuda:0+1");
	check_found("cuda:1+0", "cuda:1+0");
	check_found("cuda:0+0+0", "cuda:0+0+0");
	check_refused("cuda:0+2", "2 CUDA devices");
	check_refused("cuda:0+0+1", "names a card twice");
	check_refused("cuda:0+", "none of");
	check_refused("cuda:+1", "none of");
	check_refused("cuda:0++1", "none of");
	check_refused("cuda:0+1x", "none of");
	check_refused("cuda:0+1+2+3+4+5+6+7+8", "up to 8 cards");
	check_refused("cuda:0+100", "none of");
}

/* Devices that nothing links: an error that names what is missing. */
static void
case_no_link(void)
{
	llm_engine_params params = {.device = "cuda:0+1"};
	llm_engine *e = NULL;
	llm_error err = {0};

	CHECK(llm_engine_create(&params, &e, &err) == LLM_E_UNSUPPORTED);
	CHECK_MSG(strstr(err.message, "needs NCCL") != NULL, "%s", err.message);
}

/* A device that does not start: an error where it was named, the CPU where it was not. */
static void
case_no_start(void)
{
	llm_engine_params params = {.device = "cuda"};
	llm_engine_stats stats;
	llm_engine *e = NULL;
	llm_error err = {0};

	CHECK(llm_engine_create(&params, &e, &err) == LLM_E_DEVICE);
	CHECK_MSG(strstr(err.message, "no CUDA-capable device") != NULL, "%s", err.message);
	params.device = "auto";
	REQUIRE(llm_engine_create(&params, &e, &err) == LLM_OK);
	llm_engine_get_stats(e, &stats);
	CHECK(strcmp(stats.device, "cpu") == 0);
	llm_engine_destroy(e);
}

/* A device that others have filled: the caller may say that memory is what is missing. */
static void
case_full(void)
{
	llm_engine_params params = {.device = "cuda:0"};
	llm_engine *e = NULL;
	llm_error err = {0};

	CHECK(llm_engine_create(&params, &e, &err) == LLM_E_NOMEM);
	CHECK_MSG(strstr(err.message, "no memory left") != NULL, "%s", err.message);
}

/* The logits or the vector of a text, on a device, or on the CPU where device is NULL. */
static bool
compute(const char *model, const char *device, uint32_t n_times, float *out, size_t *n)
{
	const int32_t tokens[] = {5, 17, 3, 40, 8, 21, 9};
	const uint32_t n_tokens = sizeof(tokens) / sizeof(tokens[0]);
	llm_error err = {0};
	llm_status status = LLM_OK;
	fixture f;

	if (device != NULL)
		setenv("PREPACK_TEST_DEVICE", device, 1);
	else
		unsetenv("PREPACK_TEST_DEVICE");
	if (!fixture_open(&f, model, PP_PREC_F32, 1, 64, 64, &err))
	{
		CHECK_MSG(false, "%s: %s", model, err.message);
		fixture_close(&f);
		return false;
	}
	for (uint32_t i = 0; i < n_times && status == LLM_OK; i++)
		status = f.m->arch.decoder ? fixture_decode(&f, 0, 0, tokens, n_tokens, out, &err)
		                           : fixture_encode(&f, tokens, NULL, n_tokens, out, &err);
	*n = f.m->arch.decoder         ? (size_t) n_tokens * f.m->arch.n_vocab
	     : f.m->arch.n_classes > 0 ? f.m->arch.n_classes
	                               : f.m->arch.d_model;
	CHECK_MSG(status == LLM_OK, "%s: %s", model, err.message);
	fixture_close(&f);
	return status == LLM_OK;
}

/* Through the device's table every family gives the bits of the CPU, and keeps the rules of passes,
 * which the fake checks. */
static void
case_same_bits(void)
{
	static const char *const models[] = {"llama", "qwen3",       "gemma2",    "gemma3",
	                                     "phi3",  "bert-rerank", "modernbert"};
	float *want = malloc(1u << 20);
	float *got = malloc(1u << 20);
	size_t n = 0;
	size_t n_got = 0;

	for (size_t i = 0; want != NULL && got != NULL && i < sizeof(models) / sizeof(models[0]); i++)
	{
		char path[128];

		snprintf(path, sizeof(path), MODELS "%s", models[i]);
		if (compute(path, NULL, 1, want, &n) && compute(path, "cuda:0", 1, got, &n_got))
			CHECK_MSG(n == n_got && memcmp(want, got, n * sizeof(*want)) == 0, "%s", models[i]);
	}
	free(want);
	free(got);
}

/* A pass that the device answers from a recording runs none of its ops, and gives the same rows. */
static void
case_replay(void)
{
	float *want = malloc(1u << 20);
	float *got = malloc(1u << 20);
	size_t n = 0;
	size_t n_got = 0;

	REQUIRE(want != NULL && got != NULL);
	if (compute(MODELS "llama", NULL, 1, want, &n) &&
	    compute(MODELS "llama", "cuda:0", 3, got, &n_got))
		CHECK(n == n_got && memcmp(want, got, n * sizeof(*want)) == 0);
	free(want);
	free(got);
}

/* What a job told. */
typedef struct outcome
{
	uint32_t n_done;
	llm_status status;
} outcome;

/* Notes the end. */
static void
on_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	outcome *o = user;

	(void) message;
	(void) stats;
	o->n_done++;
	o->status = status;
}

/* Loads and generates with devices that fail at their nth op, or whose link fails at its nth
 * exchange; true when it was not reached. */
static bool
survive(const char *device, const char *setting, uint32_t n, const char *word)
{
	llm_engine_params params = {.device = device, .budget_tokens = 64};
	llm_load_options options = {.kv_bytes = (uint64_t) 64 << 20};
	outcome o = {0};
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .model = "m",
	               .flags = LLM_JOB_RAW,
	               .instruction = LLM_TEXT("a b c"),
	               .n_rows = 1,
	               .max_tokens = 4,
	               .user = &o,
	               .on_done = on_done};
	llm_engine_stats stats;
	llm_engine *e = NULL;
	llm_error err = {0};
	llm_status status;
	char value[16];
	uint64_t id;

	snprintf(value, sizeof(value), "%u", n);
	setenv(setting, value, 1);
	if (llm_engine_create(&params, &e, &err) != LLM_OK)
	{
		CHECK_MSG(false, "%s", err.message);
		return true;
	}
	status = llm_engine_load(e, "m", MODELS "llama", &options, &err);
	CHECK_MSG(status == LLM_OK || strstr(err.message, word) != NULL, "op %u: %s", n, err.message);
	if (status == LLM_OK)
	{
		CHECK_MSG(llm_engine_submit(e, &job, &id, &err) == LLM_OK, "%s", err.message);
		while (llm_engine_step(e))
			;
		status = o.status;
		CHECK_MSG(o.n_done == 1, "op %u: the job ended %u times", n, o.n_done);
		llm_engine_get_stats(e, &stats);
		CHECK_MSG(status == LLM_OK || (status == LLM_E_DEVICE && stats.state == LLM_E_DEVICE &&
		                               strstr(stats.last_error, word) != NULL),
		          "op %u: status %d, %s", n, (int) status, stats.last_error);
	}
	llm_engine_destroy(e);
	return status == LLM_OK;
}

/* A device lost at any op of load, prefill or decode: everything ends with an error, nothing hangs,
 * leaks or asks the device again (which the fake would report instead). */
static void
case_lost(void)
{
	uint32_t n = 1;

	while (n < 100000 && !survive("cuda", "FAKE_FAIL", n, "illegal memory access"))
		n++;
	/* the weights of two layers, a prefill and some steps */
	CHECK_MSG(n > 60 && n < 100000, "%u ops", n);
}

/* The same of devices that share a model, and of what links them. */
static void
case_lost_rank(void)
{
	uint32_t n = 1;

	while (n < 100000 && !survive("cuda:0+1", "FAKE_FAIL", n, "illegal memory access"))
		n += 3;
	CHECK_MSG(n > 60 && n < 100000, "%u ops", n);
	unsetenv("FAKE_FAIL");
	n = 2; /* 1 would be no link at all */
	while (n < 100000 && !survive("cuda:0+1", "FAKE_LINK", n, "unhandled system error"))
		n++;
	CHECK_MSG(n > 16 && n < 100000, "%u exchanges", n); /* four a pass */
}

/* What the rows of a job gave, end to end, and the bytes of the model's weights. */
typedef struct rows_given
{
	char text[40][64];
	outcome end;
	uint64_t bytes_weights;
} rows_given;

/* Keeps a row. */
static void
on_row(void *user, const llm_row_result *row)
{
	rows_given *g = user;

	if (row->row < 40 && row->status == LLM_OK)
		snprintf(g->text[row->row], sizeof(g->text[0]), "%.*s", (int) row->text.n, row->text.bytes);
}

/* Notes the end of it. */
static void
on_rows_done(void *user, llm_status status, const char *message, const llm_job_stats *stats)
{
	on_done(&((rows_given *) user)->end, status, message, stats);
}

/* Generates forty rows on a device. */
static void
generate_rows(const char *device, rows_given *g)
{
	llm_engine_params params = {.device = device, .budget_tokens = 64};
	llm_load_options options = {.kv_bytes = (uint64_t) 64 << 20};
	llm_text rows[40];
	llm_job job = {.kind = LLM_JOB_GENERATE,
	               .model = "m",
	               .flags = LLM_JOB_RAW,
	               .instruction = LLM_TEXT("a b c"),
	               .rows = rows,
	               .n_rows = 40,
	               .max_tokens = 6,
	               .user = g,
	               .on_row = on_row,
	               .on_done = on_rows_done};
	llm_model_info info = {0};
	llm_engine *e = NULL;
	llm_error err = {0};
	uint64_t id;

	*g = (rows_given){0};
	for (uint32_t i = 0; i < 40; i++)
		rows[i] = (llm_text){&"a c b b a c a b c b"[i % 9], 4 + i % 5};
	CHECK_MSG(llm_engine_create(&params, &e, &err) == LLM_OK &&
	              llm_engine_load(e, "m", MODELS "llama", &options, &err) == LLM_OK &&
	              llm_engine_submit(e, &job, &id, &err) == LLM_OK,
	          "%s: %s", device, err.message);
	while (e != NULL && llm_engine_step(e))
		;
	CHECK(g->end.n_done == 1 && g->end.status == LLM_OK);
	if (e != NULL && llm_engine_models(e, &info, 1) == 1)
		g->bytes_weights = info.bytes_weights;
	llm_engine_destroy(e);
}

/* "cuda" takes both cards, a copy of the model on each; the rows are those of one card. */
static void
case_both(void)
{
	static rows_given one, both;

	generate_rows("cuda:1", &one);
	generate_rows("cuda", &both);
	CHECK(memcmp(one.text, both.text, sizeof(one.text)) == 0);
	CHECK(one.bytes_weights > 0 && both.bytes_weights == 2 * one.bytes_weights);
}

/* Two devices that share a model give the values of one, up to the order of sums, and hold about
 * half of its weights each. */
static void
case_shared(void)
{
	static const char *const models[] = {"llama", "qwen3", "gemma2", "phi3", "bert-rerank"};
	static const char *const devices[] = {"cuda:0+1", "cuda:0+0"};
	static rows_given one, shared;
	float *want = malloc(1u << 20);
	float *got = malloc(1u << 20);
	size_t n = 0;
	size_t n_got = 0;

	REQUIRE(want != NULL && got != NULL);
	for (size_t i = 0; i < 2 * sizeof(models) / sizeof(models[0]); i++)
	{
		char path[128];

		snprintf(path, sizeof(path), MODELS "%s", models[i / 2]);
		if (compute(path, NULL, 1, want, &n) && compute(path, devices[i % 2], 2, got, &n_got))
			CHECK_MSG(n == n_got && fixture_nmse(got, want, n) < 1e-8, "%s on %s: %g",
			          models[i / 2], devices[i % 2], fixture_nmse(got, want, n));
	}
	free(want);
	free(got);
	generate_rows("cuda:0", &one);
	generate_rows("cuda:0+1", &shared);
	CHECK(memcmp(one.text, shared.text, sizeof(one.text)) == 0);
	CHECK_MSG(shared.bytes_weights > 0 && 10 * shared.bytes_weights < 9 * one.bytes_weights,
	          "%llu of %llu bytes", (unsigned long long) shared.bytes_weights,
	          (unsigned long long) one.bytes_weights);
}

/* What a size costs once must not keep the engine from sizes at which passes are much faster. */
static void
case_slow_start(void)
{
	llm_engine_params params = {.device = "cuda"};
	llm_load_options options = {.kv_bytes = (uint64_t) 64 << 20};
	llm_model_info info = {0};
	llm_engine *e = NULL;
	llm_error err = {0};

	CHECK_MSG(llm_engine_create(&params, &e, &err) == LLM_OK &&
	              llm_engine_load(e, "m", MODELS "llama", &options, &err) == LLM_OK,
	          "%s", err.message);
	CHECK(e != NULL && llm_engine_models(e, &info, 1) == 1);
	CHECK_MSG(info.budget_tokens >= 512, "%u tokens a pass", info.budget_tokens);
	llm_engine_destroy(e);
}

/* A case, and what it needs. */
static const struct
{
	const char *name;
	void (*run)(void);
	const char *folder;      /* of the copy of this program */
	const char *settings[3]; /* NAME=VALUE */
} cases[] = {
    {"no_device", case_no_device, "fake", {"FAKE_DEVICES=0"}},
    {"no_object", case_no_object, "fake/bare", {"FAKE_DEVICES=1"}},
    {"other_version", case_other_version, "fake", {"FAKE_DEVICES=1", "FAKE_ABI=1"}},
    {"two_devices", case_two_devices, "fake", {"FAKE_DEVICES=2"}},
    {"list", case_list, "fake", {"FAKE_DEVICES=2"}},
    {"no_link", case_no_link, "fake", {"FAKE_DEVICES=2", "FAKE_LINK=1"}},
    {"shared", case_shared, "fake", {"FAKE_DEVICES=2"}},
    {"lost_rank", case_lost_rank, "fake", {"FAKE_DEVICES=2"}},
    {"no_start", case_no_start, "fake", {"FAKE_DEVICES=1", "FAKE_CREATE=1"}},
    {"full", case_full, "fake", {"FAKE_DEVICES=1", "FAKE_CREATE=2"}},
    {"same_bits", case_same_bits, "fake", {"FAKE_DEVICES=1"}},
    {"replay", case_replay, "fake", {"FAKE_DEVICES=1", "FAKE_REPLAY=1"}},
    {"lost", case_lost, "fake", {"FAKE_DEVICES=1"}},
    {"both", case_both, "fake", {"FAKE_DEVICES=2"}},
    {"slow_start", case_slow_start, "fake", {"FAKE_DEVICES=1", "FAKE_SLOW=10"}},
    {"lost_both", case_lost, "fake", {"FAKE_DEVICES=2"}},
};

#define N_CASES (sizeof(cases) / sizeof(cases[0]))

/* Copies a program. */
static bool
copy_program(const char *from, const char *to)
{
	size_t n = 0;
	char *bytes = fixture_read_file(from, &n);
	FILE *file = bytes != NULL ? fopen(to, "wb") : NULL;
	bool ok = file != NULL && fwrite(bytes, 1, n, file) == n;

	if (file != NULL)
		ok = fclose(file) == 0 && ok;
	free(bytes);
	return ok && chmod(to, 0755) == 0;
}

/* Runs one case in a process of its own; true when it passed. */
static bool
run_case(size_t i, const char *folder)
{
	char program[512];
	char libraries[512];
	int status = -1;
	pid_t pid;

	snprintf(program, sizeof(program), "%s/%s/test_device", folder, cases[i].folder);
	snprintf(libraries, sizeof(libraries), "%s/fake", folder);
	fflush(stdout);
	if ((pid = fork()) == 0)
	{
		setenv("LD_LIBRARY_PATH", libraries, 1);
		unsetenv("PREPACK_TEST_DEVICE");
		for (int s = 0; s < 3 && cases[i].settings[s] != NULL; s++)
			putenv((char *) (uintptr_t) cases[i].settings[s]);
		execl(program, program, cases[i].name, (char *) NULL);
		_exit(127);
	}
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

/* With a case's name: runs it. Without: makes the copies and runs them all. */
int
main(int argc, char **argv)
{
	char program[512];
	char folder[400];
	char copy[512];
	ssize_t n;

	for (size_t i = 0; argc > 1 && i < N_CASES; i++)
		if (strcmp(argv[1], cases[i].name) == 0)
		{
			cases[i].run();
			return test_this_failed;
		}
	n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	program[n > 0 ? n : 0] = '\0';
	snprintf(folder, sizeof(folder), "%.*s", (int) (strrchr(program, '/') - program), program);
	snprintf(copy, sizeof(copy), "%s/fake/bare", folder);
	mkdir(copy, 0755);
	for (int bare = 0; bare < 2; bare++)
	{
		snprintf(copy, sizeof(copy), "%s/fake/%stest_device", folder, bare ? "bare/" : "");
		if (!copy_program(program, copy))
		{
			printf("could not write %s\n", copy);
			test_n_failed++;
		}
	}
	for (size_t i = 0; i < N_CASES; i++)
		if (run_case(i, folder))
			test_n_passed++;
		else
		{
			printf("not ok %s\n", cases[i].name);
			test_n_failed++;
		}
	return test_summary("device");
}
