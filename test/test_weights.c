/*
 * test_weights.c: models as users have them: files of other people's writers, the real weights,
 * paths that are no models, side files, digests.
 *
 * Fixtures come from scripts/make-weights-fixtures.py. real.tsv holds, for every tensor of the real
 * models, the digest of its values as an independent reader gives them.
 */
#include "weights_files.h"

#include <pthread.h>

#include "../src/llm/llm_sha256.h"

/* What gguf's writer wrote is read back, value by value. */
static void
test_gguf_writer(void)
{
	llm_weights *w;
	const llm_tensor *t;
	llm_error err = {LLM_OK, ""};
	float values[128];
	uint64_t u;
	int64_t i;
	double d;
	const char *s;
	uint64_t n;

	CHECK_MSG(llm_weights_open("test/data/weights/writer.gguf", &w, &err) == LLM_OK, "%s",
	          err.message);
	REQUIRE(w != NULL);
	CHECK(llm_weights_get_format(w) == LLM_FORMAT_GGUF && llm_weights_bytes(w) == 1536);
	CHECK(strcmp(llm_weights_path(w), "test/data/weights/writer.gguf") == 0);
	CHECK(llm_meta_uint(llm_weights_meta(w, "test.u64"), 0, &u) && u == UINT64_MAX);
	CHECK(llm_meta_int(llm_weights_meta(w, "test.i64"), 0, &i) && i == INT64_MIN);
	CHECK(llm_meta_int(llm_weights_meta(w, "test.i8"), 0, &i) && i == -100);
	CHECK(llm_meta_float(llm_weights_meta(w, "test.f32"), 0, &d) && d == (double) 0.1f);
	CHECK(llm_meta_float(llm_weights_meta(w, "test.f64"), 0, &d) && d == 0.1);
	CHECK(llm_meta_int(llm_weights_meta(w, "test.ints"), 1, &i) && i == -1);
	CHECK(llm_meta_uint(llm_weights_meta(w, "test.ints"), 0, &u) && u == 3);
	CHECK(llm_meta_string(llm_weights_meta(w, "test.strings"), 2, &s, &n) && n == 7 &&
	      memcmp(s, "<|end|>", 7) == 0);
	CHECK(llm_weights_n_tensors(w) == 3);
	t = llm_weights_find(w, "token_embd.weight");
	REQUIRE(t != NULL && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 64);
	CHECK(((const float *) t->data)[127] == 127 / 16.0f);
	t = llm_weights_find(w, "packed");
	REQUIRE(t != NULL && t->dtype == PP_Q8_0 && t->bytes == 4 * 34);
	CHECK(llm_dequantise(t->dtype, t->data, values, 128, &err) == LLM_OK);
	CHECK(values[127] > 7.9f && values[127] < 7.98f);
	llm_weights_close(w);
}

/* Copies a fixture into the folder as its weights. */
static bool
copy_fixture(const char *from, const char *to)
{
	static uint8_t data[4096];
	FILE *f = fopen(from, "rb");
	size_t n = f != NULL ? fread(data, 1, sizeof(data), f) : 0;

	if (f != NULL)
		fclose(f);
	temp_write(to, data, n);
	return n > 0;
}

/* What safetensors' writer wrote is read back; its integer tensor is left out. */
static void
test_safetensors_writer(void)
{
	llm_weights *w;
	const llm_tensor *t;
	llm_error err = {LLM_OK, ""};

	REQUIRE(copy_fixture("test/data/weights/writer.st", "model.safetensors"));
	temp_write("config.json", "{\"model_type\":\"bert\"}", 21);
	REQUIRE(llm_weights_open(temp_folder, &w, &err) == LLM_OK);
	CHECK(llm_weights_get_format(w) == LLM_FORMAT_HF && llm_weights_n_meta(w) == 0);
	CHECK(llm_weights_meta(w, "general.architecture") == NULL);
	CHECK(llm_weights_n_tensors(w) == 3 && llm_weights_find(w, "position_ids") == NULL);
	t = llm_weights_find(w, "a.weight");
	REQUIRE(t != NULL && t->n_dims == 2 && t->dims[0] == 3 && t->dims[1] == 4);
	CHECK(((const float *) t->data)[11] == 11 / 8.0f);
	t = llm_weights_find(w, "scalar");
	REQUIRE(t != NULL && t->n_dims == 0 && t->bytes == 4);
	CHECK(*(const float *) t->data == 7.5f);
	llm_weights_close(w);
}

/* Asks for the same side file as other threads do. */
static void *
ask_for_config(void *arg)
{
	const llm_json *json = NULL;

	llm_weights_json(arg, "config.json", &json, NULL);
	return (void *) (uintptr_t) json;
}

/* Side files are parsed once; one that is absent is no error, one that is broken is. */
static void
test_side_files(void)
{
	llm_weights *w;
	const llm_json *json;
	llm_error err;
	pthread_t threads[4];

	REQUIRE(llm_weights_open(temp_folder, &w, NULL) == LLM_OK);
	CHECK(llm_weights_json(w, "config.json", &json, &err) == LLM_OK);
	CHECK(llm_json_is(llm_json_member(json, "model_type"), "bert"));
	for (int i = 0; i < 4; i++)
		REQUIRE(pthread_create(&threads[i], NULL, ask_for_config, w) == 0);
	for (int i = 0; i < 4; i++)
	{
		void *got;

		pthread_join(threads[i], &got);
		CHECK(got == json);
	}
	CHECK(llm_weights_json(w, "tokenizer.json", &json, &err) == LLM_OK && json == NULL);
	temp_write("broken.json", "{\"a\":", 5);
	CHECK(llm_weights_json(w, "broken.json", &json, &err) == LLM_E_FORMAT && json == NULL);
	CHECK(strstr(err.message, "broken.json: invalid JSON at byte 5") != NULL);
	llm_weights_close(w);
	REQUIRE(llm_weights_open("test/data/weights/writer.gguf", &w, NULL) == LLM_OK);
	CHECK(llm_weights_json(w, "config.json", &json, &err) == LLM_OK && json == NULL);
	llm_weights_close(w);
	llm_weights_close(NULL);
}

/* Paths that are no models: each has its status and message, and a pipe does not block. */
static void
test_paths(void)
{
	llm_weights *w;
	llm_error err;

	CHECK(llm_weights_open("/nonexistent/model.gguf", &w, &err) == LLM_E_NOT_FOUND && w == NULL);
	CHECK(llm_weights_open("/dev/null", &w, &err) == LLM_E_IO);
	CHECK(strstr(err.message, "not a regular file") != NULL);
	REQUIRE(mkfifo(temp_file("pipe"), 0600) == 0);
	CHECK(llm_weights_open(temp_file("pipe"), &w, &err) == LLM_E_IO);
	temp_write("empty", "", 0);
	CHECK(llm_weights_open(temp_file("empty"), &w, &err) == LLM_E_FORMAT);
	CHECK(strstr(err.message, "is empty") != NULL);
	CHECK(llm_weights_open("test/test_weights.c", &w, &err) == LLM_E_FORMAT);
	CHECK(strstr(err.message, "begin with GGUF") != NULL);
	CHECK(llm_weights_open("test/data/weights", &w, &err) == LLM_E_NOT_FOUND);
	CHECK(strstr(err.message, "has no config.json") != NULL);
	temp_write("config.json", "[]", 2);
	CHECK(llm_weights_open(temp_folder, &w, &err) == LLM_E_FORMAT);
	temp_write("config.json", "{", 1);
	CHECK(llm_weights_open(temp_folder, &w, &err) == LLM_E_FORMAT);
	temp_write("config.json", "{}", 2);
	unlink(temp_file("model.safetensors"));
	CHECK(llm_weights_open(temp_folder, &w, &err) == LLM_E_NOT_FOUND);
	CHECK(strstr(err.message, "model.safetensors") != NULL);
	unlink(temp_file("config.json"));
	REQUIRE(mkdir(temp_file("config.json"), 0700) == 0);
	CHECK(llm_weights_open(temp_folder, &w, &err) == LLM_E_IO && w == NULL);
	rmdir(temp_file("config.json"));
}

/* The digest is that of the file, the same each time; memory has none. */
static void
test_digest(void)
{
	llm_weights *w;
	llm_error err;
	llm_sha256 h;
	const llm_json *json;
	char expected[65];
	char hex[65];
	static uint8_t data[1536];
	FILE *f = fopen("test/data/weights/writer.gguf", "rb");

	REQUIRE(f != NULL && fread(data, 1, sizeof(data), f) == sizeof(data));
	fclose(f);
	llm_sha256_init(&h);
	llm_sha256_update(&h, data, sizeof(data));
	llm_sha256_final_hex(&h, expected);
	REQUIRE(llm_weights_open("test/data/weights/writer.gguf", &w, NULL) == LLM_OK);
	for (int i = 0; i < 2; i++)
		CHECK(llm_weights_digest(w, hex, &err) == LLM_OK && strcmp(hex, expected) == 0);
	llm_weights_close(w);
	REQUIRE(llm_weights_open_memory(LLM_FORMAT_GGUF, data, sizeof(data), &w, NULL) == LLM_OK);
	CHECK(llm_weights_digest(w, hex, &err) == LLM_E_NOT_FOUND);
	llm_weights_close(w);
	REQUIRE(llm_weights_open_memory(LLM_FORMAT_HF, "\2\0\0\0\0\0\0\0{}", 10, &w, NULL) == LLM_OK);
	CHECK(llm_weights_json(w, "config.json", &json, NULL) == LLM_OK && json == NULL);
	llm_weights_close(w);
}

/* Digests a tensor's values as floats. */
static void
digest_values(const llm_tensor *t, char hex[65])
{
	uint64_t n = 1;
	float *values;
	llm_sha256 h;

	for (uint32_t i = 0; i < t->n_dims; i++)
		n *= t->dims[i];
	values = malloc(n * sizeof(float));
	CHECK(llm_dequantise(t->dtype, t->data, values, n, NULL) == LLM_OK);
	llm_sha256_init(&h);
	llm_sha256_update(&h, values, n * sizeof(float));
	llm_sha256_final_hex(&h, hex);
	free(values);
}

/* Compares one line of real.tsv (name, type, shape, digest). */
static void
check_real_tensor(const llm_weights *w, char *line)
{
	char *rest = line;
	const char *name = strsep(&rest, "\t");
	const char *type = strsep(&rest, "\t");
	const char *shape = strsep(&rest, "\t");
	const char *digest = strsep(&rest, "\n");
	const llm_tensor *t = llm_weights_find(w, name);
	char own_shape[96] = "";
	char hex[65];
	size_t used = 0;

	CHECK_MSG(t != NULL, "%s", name);
	if (t == NULL)
		return;
	for (uint32_t i = 0; i < t->n_dims; i++)
		used += (size_t) snprintf(own_shape + used, sizeof(own_shape) - used, "%s%llu",
		                          i > 0 ? "x" : "", (unsigned long long) t->dims[i]);
	CHECK_MSG(strcmp(llm_dtype_name(t->dtype), type) == 0, "%s", name);
	CHECK_MSG(strcmp(own_shape, shape) == 0, "%s: %s", name, own_shape);
	digest_values(t, hex);
	CHECK_MSG(strcmp(hex, digest) == 0, "%s", name);
}

/* Opens a real model and compares all its tensors, bit for bit; false when it is not there. */
static bool
check_real(const char *model, int n_expected)
{
	const char *models = getenv("PREPACK_MODELS");
	FILE *f = fopen("test/data/weights/real.tsv", "r");
	size_t n_model = strlen(model);
	llm_weights *w;
	llm_error err;
	char path[512];
	char line[512];
	int n = 0;

	snprintf(path, sizeof(path), "%s/%s", models != NULL ? models : "models", model);
	if (f == NULL || access(path, R_OK) != 0)
	{
		CHECK(f != NULL);
		if (f != NULL)
			fclose(f);
		return false;
	}
	CHECK_MSG(llm_weights_open(path, &w, &err) == LLM_OK, "%s", err.message);
	while (w != NULL && fgets(line, sizeof(line), f) != NULL)
		if (strncmp(line, model, n_model) == 0 && line[n_model] == '\t')
		{
			check_real_tensor(w, line + n_model + 1);
			n++;
		}
	CHECK(n == n_expected && w != NULL && llm_weights_n_tensors(w) == (uint32_t) n);
	llm_weights_close(w);
	fclose(f);
	return true;
}

/* SmolLM2-135M: Q4_1, Q8_0 and F32 tensors, and its vocabulary. */
static void
test_smollm2(void)
{
	if (!check_real("smollm2-135m.gguf", 272))
		SKIP("models/smollm2-135m.gguf is absent (scripts/fetch-model smollm2-135m)");
}

/* MiniLM: a Hugging Face folder. */
static void
test_minilm(void)
{
	if (!check_real("minilm-l6", 103))
		SKIP("models/minilm-l6 is absent (scripts/fetch-model minilm-l6)");
}

int
main(void)
{
	static const char *const files[] = {"broken.json", "empty", "pipe", NULL};

	temp_folder_create();
	RUN(gguf_writer);
	RUN(safetensors_writer);
	RUN(side_files);
	RUN(paths);
	RUN(digest);
	RUN(smollm2);
	RUN(minilm);
	temp_folder_remove(files);
	return test_summary("weights");
}
