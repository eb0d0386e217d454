/*
 * test_arch.c: reading architectures: what is understood, and that everything else is refused by
 * name.
 *
 * Each case takes a fixture's config.json, changes one thing in the text and opens the folder anew,
 * with the weights linked from the fixture. GGUF cases patch bytes of the twin. The last tests let
 * every allocation of a load fail in turn and look for crashes and leaks (the build with ASan sees
 * those).
 */
#include <sys/stat.h>
#include <unistd.h>

#include "../src/llm/llm_arch.h"
#include "../src/llm/llm_model_internal.h"
#include "model_fixture.h"

#define MODELS "test/data/models/"

static char dir[64];

/* Writes a file of the scratch folder. */
static bool
put(const char *name, const char *bytes, size_t n)
{
	char path[128];
	FILE *file;
	bool ok;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
	if ((file = fopen(path, "wb")) == NULL)
		return false;
	ok = fwrite(bytes, 1, n, file) == n;
	return fclose(file) == 0 && ok;
}

/* Copies a file of a fixture into the scratch folder. */
static bool
copy(const char *model, const char *name)
{
	char path[256];
	size_t n;
	char *bytes;
	bool ok;

	snprintf(path, sizeof(path), MODELS "%s/%s", model, name);
	if ((bytes = fixture_read_file(path, &n)) == NULL)
		return false;
	ok = put(name, bytes, n);
	free(bytes);
	return ok;
}

/* Replaces the first occurrence of old; what is left is for free. NULL when there is none. */
static char *
replace(const char *text, const char *old, const char *new)
{
	const char *hit = strstr(text, old);
	size_t n = strlen(text) + strlen(new) + 1;
	char *out;

	if (hit == NULL || (out = malloc(n)) == NULL)
		return NULL;
	snprintf(out, n, "%.*s%s%s", (int) (hit - text), text, new, hit + strlen(old));
	return out;
}

/* Reads the arch of a fixture whose config.json has old replaced by new (both NULL: as it is). */
static llm_status
read_changed(const char *model, const char *old, const char *new, llm_arch *arch, llm_error *err)
{
	char path[256];
	size_t n;
	char *text;
	char *changed;
	llm_weights *w = NULL;
	llm_status status;

	memset(err, 0, sizeof(*err));
	memset(arch, 0, sizeof(*arch));
	snprintf(path, sizeof(path), MODELS "%s/config.json", model);
	if ((text = fixture_read_file(path, &n)) == NULL)
		return llm_fail(err, LLM_E_INTERNAL, "no %s", path);
	changed = old != NULL ? replace(text, old, new) : strdup(text);
	free(text);
	if (changed == NULL || !put("config.json", changed, strlen(changed)) ||
	    !copy(model, "model.safetensors"))
		status = llm_fail(err, LLM_E_INTERNAL, "\"%s\" is not in %s", old, path);
	else if ((status = llm_weights_open(dir, &w, err)) == LLM_OK)
		status = llm_arch_read(w, 0, arch, err);
	llm_weights_close(w);
	free(changed);
	return status;
}

/* A change that must be refused, with a message that names why. */
static void
refused(const char *model, const char *old, const char *new, llm_status code, const char *names)
{
	llm_arch arch;
	llm_error err;
	llm_status status = read_changed(model, old, new, &arch, &err);

	CHECK_MSG(status == code, "%s, %s: status %d: %s", model, new, status, err.message);
	CHECK_MSG(strstr(err.message, names) != NULL, "\"%s\" does not name %s", err.message, names);
	CHECK(arch.arena == NULL);
	llm_arch_free(&arch);
}

/* A change that must be accepted. */
static void
accepted(const char *model, const char *old, const char *new)
{
	llm_arch arch;
	llm_error err;

	CHECK_MSG(read_changed(model, old, new, &arch, &err) == LLM_OK, "%s, %s: %s", model, new,
	          err.message);
	llm_arch_free(&arch);
}

#define OPEN "{"

static void
test_unknown_keys(void)
{
	refused("llama", OPEN, "{\"residual_multiplier\": 0.22,", LLM_E_UNSUPPORTED,
	        "residual_multiplier");
	refused("llama", OPEN, "{\"quantization_config\": {\"bits\": 4},", LLM_E_UNSUPPORTED,
	        "quantization_config");
	refused("mistral", OPEN, "{\"num_local_experts\": 8,", LLM_E_UNSUPPORTED, "num_local_experts");
	refused("llama", OPEN, "{\"sliding_window\": 128,", LLM_E_UNSUPPORTED, "sliding_window");
	refused("bert", "\"is_decoder\": false", "\"is_decoder\": true", LLM_E_UNSUPPORTED,
	        "is_decoder");
	refused("gemma3", "\"use_bidirectional_attention\": false",
	        "\"use_bidirectional_attention\": true", LLM_E_UNSUPPORTED,
	        "use_bidirectional_attention");
	refused("qwen2", OPEN, "{\"is_causal\": false,", LLM_E_UNSUPPORTED, "is_causal");
	accepted("qwen2", OPEN, "{\"is_causal\": true,");
	accepted("llama", OPEN, "{\"quantization_config\": null, \"residual_multiplier\": false,");
	accepted("llama", OPEN, "{\"temperature\": 0.6, \"_name_or_path\": \"x\",");
	accepted("bert", OPEN, "{\"pruned_heads\": {}, \"position_embedding_type\": \"absolute\",");
}

static void
test_values(void)
{
	refused("llama", "\"silu\"", "\"mish\"", LLM_E_UNSUPPORTED, "mish");
	refused("bert", OPEN, "{\"position_embedding_type\": \"relative_key\",", LLM_E_UNSUPPORTED,
	        "position_embedding_type");
	refused("llama", "\"llama\"", "\"mamba\"", LLM_E_UNSUPPORTED, "mamba");
	refused("llama", "LlamaForCausalLM", "LlamaForTokenClassification", LLM_E_UNSUPPORTED,
	        "LlamaForTokenClassification");
	refused("bert", "BertModel", "BertForQuestionAnswering", LLM_E_UNSUPPORTED,
	        "BertForQuestionAnswering");
	refused("llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 0", LLM_E_FORMAT,
	        "num_hidden_layers");
	refused("llama", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4000000000", LLM_E_FORMAT,
	        "num_hidden_layers");
	refused("llama", "\"num_hidden_layers\"", "\"num_layers\"", LLM_E_UNSUPPORTED, "num_layers");
	refused("llama", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", LLM_E_FORMAT,
	        "heads");
	refused("llama", "\"hidden_size\": 32", "\"hidden_size\": \"32\"", LLM_E_FORMAT, "hidden_size");
	refused("llama", "\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 0", LLM_E_FORMAT, "epsilon");
	refused("modernbert-rerank", "\"mean\"", "\"max\"", LLM_E_UNSUPPORTED, "classifier_pooling");
	refused("gemma3", "\"sliding_attention\",", "\"chunked_attention\",", LLM_E_UNSUPPORTED,
	        "layer type");
}

static void
test_rope(void)
{
	refused("llama", "\"llama3\"", "\"dynamic\"", LLM_E_UNSUPPORTED, "dynamic");
	refused("llama", "\"low_freq_factor\"", "\"lowest_freq_factor\"", LLM_E_UNSUPPORTED,
	        "lowest_freq_factor");
	refused("llama", "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 1.0", LLM_E_FORMAT,
	        "rotary");
	refused("llama", "\"rope_theta\": 10000.0", "\"rope_theta\": -1.0", LLM_E_FORMAT, "rotary");
	refused("phi3", "1.1,", "", LLM_E_FORMAT, "short_factor");
	refused("phi3", "0.75", "7.5", LLM_E_FORMAT, "partial_rotary_factor");
}

/* The description itself, where the forward would not show a mistake. */
static void
test_description(void)
{
	llm_arch arch;
	llm_error err;

	REQUIRE(read_changed("phi3", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.decoder && arch.kind == LLM_KIND_GENERATE && arch.n_ctx == 32);
	CHECK(arch.rope[0].n_dims == 6 && arch.rope[0].mscale > 1.0f);
	llm_arch_free(&arch);
	REQUIRE(read_changed("gemma3", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.attn[4].window == 5 && arch.attn[5].window == 0);
	CHECK(arch.rope[5].inv_freq[0] == 0.125f && arch.rope[4].inv_freq[0] == 1.0f);
	llm_arch_free(&arch);
	REQUIRE(read_changed("xlmr-rerank", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.kind == LLM_KIND_RERANK && arch.classifier == LLM_CLS_ROBERTA);
	CHECK(arch.n_classes == 3 && !arch.score_sigmoid && arch.pos_offset == 2 && arch.n_ctx == 62);
	llm_arch_free(&arch);
	REQUIRE(read_changed("bert-rerank", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.n_classes == 1 && arch.score_sigmoid);
	llm_arch_free(&arch);
	REQUIRE(read_changed("bert-rerank", OPEN,
	                     "{\"sbert_ce_default_activation_function\": "
	                     "\"torch.nn.modules.linear.Identity\",",
	                     &arch, &err) == LLM_OK);
	CHECK(!arch.score_sigmoid);
	llm_arch_free(&arch);
	refused(
	    "bert-rerank", OPEN,
	    "{\"sentence_transformers\": {\"activation_fn\": \"torch.nn.modules.activation.ReLU\"},",
	    LLM_E_UNSUPPORTED, "ReLU");
}

static void
test_pooling(void)
{
	static const char sum[] =
	    "{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": true}";
	static const char max[] = "{\"pooling_mode_max_tokens\": true}";
	static const char last[] = "{\"pooling_mode\": \"lasttoken\"}";
	static const char mean[] = "{\"pooling_mode\": \"mean\"}";
	static const char modules[] = "[{\"path\": \"\", \"type\": \"x.Transformer\"}, {\"path\": "
	                              "\"p\", \"type\": \"x.Pooling\"}]";
	static const char dense[] = "[{\"path\": \"2_Dense\", \"type\": \"x.models.Dense\"}]";
	llm_arch arch;
	llm_error err;
	char path[96];

	REQUIRE(read_changed("bert", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.pooling == PP_POOL_MEAN && !arch.l2_normalise); /* no modules.json here */
	llm_arch_free(&arch);
	snprintf(path, sizeof(path), "%s/p", dir);
	mkdir(path, 0700);
	REQUIRE(put("modules.json", modules, sizeof(modules) - 1));
	REQUIRE(put("p/config.json", last, sizeof(last) - 1));
	REQUIRE(put("sentence_bert_config.json", "{\"max_seq_length\": 40}", 22));
	REQUIRE(read_changed("bert", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.pooling == PP_POOL_LAST && arch.n_ctx == 40);
	llm_arch_free(&arch);
	REQUIRE(put("p/config.json", sum, sizeof(sum) - 1));
	refused("bert", OPEN, "{", LLM_E_UNSUPPORTED, "pooling");
	REQUIRE(put("p/config.json", max, sizeof(max) - 1));
	refused("bert", OPEN, "{", LLM_E_UNSUPPORTED, "pooling");
	REQUIRE(put("modules.json", dense, sizeof(dense) - 1));
	refused("bert", OPEN, "{", LLM_E_UNSUPPORTED, "Dense");
	REQUIRE(put("modules.json", modules, sizeof(modules) - 1));
	REQUIRE(put("p/config.json", last, sizeof(last) - 1));
	REQUIRE(read_changed("qwen3", NULL, NULL, &arch, &err) == LLM_OK);
	CHECK(arch.kind == LLM_KIND_EMBED && arch.pooling == PP_POOL_LAST && arch.n_ctx == 40);
	llm_arch_free(&arch);
	REQUIRE(put("p/config.json", mean, sizeof(mean) - 1));
	refused("qwen3", OPEN, "{", LLM_E_UNSUPPORTED, "lasttoken");
	snprintf(path, sizeof(path), "%s/modules.json", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/sentence_bert_config.json", dir);
	unlink(path);
}

/* Reads the arch of a GGUF twin in which the bytes of old (as long as new) are replaced everywhere.
 */
static llm_status
read_patched(const char *model, const char *old, const char *new, llm_error *err)
{
	char path[256];
	size_t n;
	size_t len = strlen(old);
	char *bytes;
	llm_weights *w = NULL;
	llm_arch arch = {0};
	llm_status status;
	uint32_t n_hits = 0;

	snprintf(path, sizeof(path), MODELS "%s/model.gguf", model);
	if ((bytes = fixture_read_file(path, &n)) == NULL)
		return llm_fail(err, LLM_E_INTERNAL, "no %s", path);
	for (size_t i = 0; i + len <= n; i++)
		if (memcmp(bytes + i, old, len) == 0)
		{
			memcpy(bytes + i, new, len);
			n_hits++;
		}
	CHECK(n_hits > 0 && put("model.gguf", bytes, n));
	free(bytes);
	snprintf(path, sizeof(path), "%s/model.gguf", dir);
	status = llm_weights_open(path, &w, err);
	if (status == LLM_OK)
		status = llm_arch_read(w, 0, &arch, err);
	llm_arch_free(&arch);
	llm_weights_close(w);
	return status;
}

static void
test_gguf(void)
{
	llm_error err;

	CHECK(read_patched("llama", "llama.block_count", "llama.block_count", &err) == LLM_OK);
	CHECK(read_patched("llama", "llama.attention.key_length", "llama.attention.key_lengtH", &err) ==
	      LLM_E_UNSUPPORTED);
	CHECK(strstr(err.message, "key_lengtH") != NULL);
	CHECK(read_patched("llama", "llama.block_count", "xlama.block_count", &err) == LLM_E_FORMAT);
	CHECK(strstr(err.message, "block_count") != NULL);
	CHECK(read_patched("qwen2-yarn", "yarn", "yurn", &err) == LLM_E_UNSUPPORTED);
	CHECK(read_patched("qwen3", "qwen3", "qwenX", &err) == LLM_E_UNSUPPORTED);
	CHECK(strstr(err.message, "qwenX") != NULL);
}

/* A load from files in which one tensor is not what the architecture implies. */
static void
test_tensors(void)
{
	static const struct
	{
		const char *old, *new, *names;
	} cases[] = {
	    {"\"hidden_size\": 32", "\"hidden_size\": 64", "embed_tokens"},
	    {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "layers.2."},
	    {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "layers.1."},
	    {"\"intermediate_size\": 40", "\"intermediate_size\": 41", "gate_proj"},
	    {"\"vocab_size\": 112", "\"vocab_size\": 113", "embed_tokens"},
	    {"\"attention_bias\": true", "\"attention_bias\": false", "bias"},
	    {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", NULL},
	};
	pp_backend *be = pp_cpu_create(1);
	pp_memory_info before, after;
	llm_error err;
	llm_arch arch;
	llm_model *m;

	REQUIRE(be != NULL && copy("llama-bias", "tokenizer.json"));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		llm_status status;

		be->ops->memory_info(be, &before);
		read_changed("llama-bias", cases[i].old, cases[i].new, &arch, &err);
		llm_arch_free(&arch);
		status = llm_model_load(dir, be, PP_PREC_F32, 0, &m, &err);
		CHECK_MSG((status == LLM_OK) == (cases[i].names == NULL), "%s: %s", cases[i].new,
		          err.message);
		if (cases[i].names != NULL)
			CHECK_MSG(strstr(err.message, cases[i].names) != NULL, "%s", err.message);
		llm_model_free(m);
		be->ops->memory_info(be, &after);
		CHECK(after.bytes_weights == before.bytes_weights);
	}
	pp_cpu_destroy(be);
}

/* The chat template of the scratch folder must be text (NULL: none). */
static void
check_template(const char *text)
{
	llm_weights *w = NULL;
	llm_error err = {0};
	char *got = NULL;
	size_t bytes = 0;

	REQUIRE(llm_weights_open(dir, &w, &err) == LLM_OK);
	CHECK_MSG(model_chat_template(w, &got, &bytes, &err) == LLM_OK, "%s", err.message);
	if (text == NULL)
		CHECK(got == NULL && bytes == 0);
	else
		CHECK(got != NULL && bytes == strlen(text) && strcmp(got, text) == 0);
	llm_free(got);
	llm_weights_close(w);
}

static void
test_chat_template(void)
{
	static const char plain[] = "{\"chat_template\": \"A{{x}}\"}";
	static const char named[] = "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"T\"}, "
	                            "{\"name\": \"default\", \"template\": \"D\"}]}";
	llm_arch arch;
	llm_error err;
	char path[96];

	REQUIRE(read_changed("llama", NULL, NULL, &arch, &err) == LLM_OK);
	llm_arch_free(&arch);
	REQUIRE(put("tokenizer_config.json", "{}", 2));
	check_template(NULL);
	REQUIRE(put("tokenizer_config.json", plain, sizeof(plain) - 1));
	check_template("A{{x}}");
	REQUIRE(put("tokenizer_config.json", named, sizeof(named) - 1));
	check_template("D");
	REQUIRE(put("chat_template.jinja", "J\n", 2)); /* newer, so it counts before the other */
	check_template("J\n");
	snprintf(path, sizeof(path), "%s/chat_template.jinja", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
	unlink(path);
}

/* The frequencies of each scaling, against values worked out by hand. */
static void
test_frequencies(void)
{
	llm_arch arch;
	llm_error err;
	const float *f;

	/* llama3, 8 dims: waves of 6, 63, 628, 6283 tokens; kept below 32/4, divided by 8 above 32/1 */
	REQUIRE(read_changed("llama", NULL, NULL, &arch, &err) == LLM_OK);
	f = arch.rope[0].inv_freq;
	CHECK(f[0] == 1.0f && fabsf(f[1] - 0.1f / 8) < 1e-8f && fabsf(f[3] - 0.001f / 8) < 1e-9f);
	CHECK(arch.rope[0].mscale == 1.0f);
	llm_arch_free(&arch);
	/* linear by 2, base 5000, 16 dims */
	REQUIRE(read_changed("llama-bias", NULL, NULL, &arch, &err) == LLM_OK);
	f = arch.rope[0].inv_freq;
	CHECK(f[0] == 0.5f && fabsf(f[4] - 0.5f / sqrtf(5000.0f)) < 1e-8f);
	llm_arch_free(&arch);
	/* yarn by 4: the temperature is 0.1 ln 4 + 1; the fastest dimension is kept, the slowest
	 * divided */
	REQUIRE(read_changed("qwen2-yarn", NULL, NULL, &arch, &err) == LLM_OK);
	f = arch.rope[0].inv_freq;
	CHECK(fabsf(arch.rope[0].mscale - 1.1386294f) < 1e-6f);
	CHECK(f[0] == 1.0f && fabsf(f[3] - 0.001f / 4) < 1e-9f);
	llm_arch_free(&arch);
	/* longrope, 6 dims: short factors, √(1 + ln 2 / ln 32) */
	REQUIRE(read_changed("phi3", NULL, NULL, &arch, &err) == LLM_OK);
	f = arch.rope[0].inv_freq;
	CHECK(f[0] == 1.0f && fabsf(f[1] - 0.0464159f / 1.1f) < 1e-7f);
	CHECK(fabsf(arch.rope[0].mscale - 1.0954451f) < 1e-6f);
	llm_arch_free(&arch);
}

/* Loads and runs with every allocation failing in turn: a status, no crash, nothing kept. */
static void
check_out_of_memory(const char *path)
{
	int32_t tokens[3] = {5, 6, 7};
	float out[3 * 112];
	llm_status status = LLM_E_NOMEM;
	llm_error err;
	uint64_t n;

	for (n = 1; status != LLM_OK && n < 100000; n++)
	{
		fixture f;

		llm_alloc_fail_after(n, false);
		status = LLM_E_NOMEM;
		if (fixture_open(&f, path, PP_PREC_F32, 1, 32, 8, &err))
			status = f.m->arch.decoder ? fixture_decode(&f, 0, 0, tokens, 3, out, &err)
			                           : fixture_encode(&f, tokens, NULL, 3, out, &err);
		llm_alloc_fail_after(0, false);
		CHECK_MSG(status == LLM_OK || status == LLM_E_NOMEM, "allocation %u: %d: %s", (unsigned) n,
		          status, err.message);
		fixture_close(&f);
	}
	CHECK(status == LLM_OK && n > 20);
}

static void
test_out_of_memory(void)
{
	check_out_of_memory(MODELS "llama");
	check_out_of_memory(MODELS "phi3/model.gguf");
	check_out_of_memory(MODELS "bert-rerank");
	check_out_of_memory(MODELS "bert");
}

/* What a batch must obey. */
static void
test_batches(void)
{
	int32_t tokens[3] = {5, 112, 7};
	uint32_t pos[3] = {0, 1, 2};
	uint32_t rows[2] = {2, 1};
	pp_segment segs[2] = {{.n_new = 2}, {.first_token = 2, .n_new = 1}};
	llm_batch batch = {.n_tokens = 3, .tokens = tokens, .pos = pos, .n_segs = 2, .segs = segs};
	float out[112];
	llm_error err = {0};
	fixture f;

	REQUIRE(fixture_open(&f, MODELS "llama", PP_PREC_F32, 2, 32, 8, &err));
	segs[0].pages = f.pages;
	segs[1].pages = f.pages + f.pages_per_seq;
	CHECK(llm_forward_decode(f.ws, &batch, &err) == LLM_E_RANGE);
	tokens[1] = 6;
	pos[2] = 64;
	CHECK(llm_forward_decode(f.ws, &batch, &err) == LLM_E_TOO_LONG);
	pos[2] = 0;
	segs[1].first_token = 1;
	CHECK(llm_forward_decode(f.ws, &batch, &err) == LLM_E_RANGE);
	segs[1].first_token = 2;
	batch.n_rows = 2;
	batch.rows = rows;
	CHECK(llm_forward_decode(f.ws, &batch, &err) == LLM_E_RANGE);
	rows[0] = 1;
	rows[1] = 2;
	CHECK(llm_forward_decode(f.ws, &batch, &err) == LLM_OK);
	CHECK(llm_forward_logits(f.ws, 1, 2, out, &err) == LLM_E_RANGE);
	CHECK(llm_forward_logits(f.ws, 1, 1, out, &err) == LLM_OK);
	CHECK(llm_forward_columns(f.ws, rows, 2, rows, 1, out, NULL, &err) == LLM_E_RANGE);
	CHECK(llm_forward_encode(f.ws, &batch, out, &err) == LLM_E_UNSUPPORTED);
	batch.n_tokens = 9;
	CHECK(llm_forward_decode(f.ws, &batch, &err) == LLM_E_RANGE);
	fixture_close(&f);
}

/* Removes what put() left. */
static void
clean(void)
{
	static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json",
	                                    "model.gguf",  "p/config.json",     "p"};
	char path[128];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		remove(path);
	}
	rmdir(dir);
}

int
main(void)
{
	snprintf(dir, sizeof(dir), "/tmp/prepack-test-arch-XXXXXX");
	if (mkdtemp(dir) == NULL)
		return 1;
	RUN(unknown_keys);
	RUN(values);
	RUN(rope);
	RUN(description);
	RUN(pooling);
	RUN(gguf);
	RUN(tensors);
	RUN(chat_template);
	RUN(frequencies);
	RUN(out_of_memory);
	RUN(batches);
	clean();
	return test_summary("arch");
}
