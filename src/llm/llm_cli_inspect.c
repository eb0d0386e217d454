/*
 * llm_cli_inspect.c: prepack-engine inspect: what a model's files hold, without loading the model.
 *
 * Everything comes from the loaders that serving uses, so a file that inspect accepts has passed
 * the checks of its format, its architecture and its tokenizer. What is known is printed before the
 * first failure, since that is what one wants to see of a file that does not load.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llm_alloc.h"
#include "llm_cli.h"
#include "llm_model_internal.h"

#define N_DTYPES 64 /* ids of types in files are smaller */

/* Tensors of one type. */
typedef struct share
{
	pp_dtype dtype;
	uint32_t n;
	uint64_t n_values;
	uint64_t bytes;
} share;

/* Prints a number of bytes with a fitting unit. */
static void
print_bytes(uint64_t bytes)
{
	static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
	double value = (double) bytes;
	int i = 0;

	while (value >= 1000 && i < 4)
	{
		value /= 1000;
		i++;
	}
	printf("%.*f %s", i == 0 ? 0 : 1, value, units[i]);
}

/* Prints a count in thousands, millions or milliards. */
static void
print_count(uint64_t n)
{
	if (n >= 1000000000)
		printf("%.2f billion", (double) n / 1e9);
	else if (n >= 1000000)
		printf("%.1f million", (double) n / 1e6);
	else
		printf("%" PRIu64, n);
}

/* The elements of a tensor. The loader has checked that the product fits. */
static uint64_t
tensor_values(const llm_tensor *t)
{
	uint64_t n = 1;

	for (uint32_t i = 0; i < t->n_dims; i++)
		n *= t->dims[i];
	return n;
}

/* Orders shares, the most bytes first. */
static int
by_bytes(const void *a, const void *b)
{
	const share *x = a;
	const share *y = b;

	return (x->bytes < y->bytes) - (x->bytes > y->bytes);
}

/* Prints how many tensors there are, of which types, and what they sum to. */
static void
print_mix(const llm_weights *w)
{
	share shares[N_DTYPES] = {0};
	uint64_t n_values = 0;

	for (uint32_t i = 0; i < llm_weights_n_tensors(w); i++)
	{
		const llm_tensor *t = llm_weights_tensor_at(w, i);
		share *s = &shares[(uint32_t) t->dtype % N_DTYPES];

		s->dtype = t->dtype;
		s->n++;
		s->n_values += tensor_values(t);
		s->bytes += t->bytes;
		n_values += tensor_values(t);
	}
	qsort(shares, N_DTYPES, sizeof(shares[0]), by_bytes);
	printf("parameters    ");
	print_count(n_values);
	printf("\ntensors       %u", llm_weights_n_tensors(w));
	for (uint32_t i = 0; i < N_DTYPES && shares[i].n > 0; i++)
	{
		printf("%s%u in %s (", i == 0 ? ": " : ", ", shares[i].n, llm_dtype_name(shares[i].dtype));
		print_bytes(shares[i].bytes);
		printf(")");
	}
	printf("\n");
}

/* Prints every tensor on a line. */
static void
print_tensors(const llm_weights *w)
{
	printf("\n");
	for (uint32_t i = 0; i < llm_weights_n_tensors(w); i++)
	{
		const llm_tensor *t = llm_weights_tensor_at(w, i);

		printf("%-48s %-6s ", t->name, llm_dtype_name(t->dtype));
		for (uint32_t d = 0; d < t->n_dims; d++)
			printf("%s%" PRIu64, d > 0 ? " x " : "", t->dims[d]);
		printf("\n");
	}
}

/* Prints what the forward pass will look like. */
static void
print_arch(const llm_arch *arch)
{
	static const char *const kinds[] = {"generates text", "embeds text", "ranks pairs of texts"};
	static const char *const pooling[] = {"first token", "mean", "last token"};
	const pp_attn *attn = &arch->attn[0];
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < arch->n_layers; i++)
		bytes += (uint64_t) 2 * arch->attn[i].n_kv_heads * arch->attn[i].d_head * sizeof(uint16_t);
	printf("architecture  %s, %s\n", arch->name, kinds[arch->kind]);
	printf("layers        %u of width %u, inner width %u\n", arch->n_layers, arch->d_model,
	       arch->d_ff);
	printf("attention     %u heads of width %u, %u of keys and values", attn->n_heads, attn->d_head,
	       attn->n_kv_heads);
	if (attn->window > 0)
		printf(", window %u", attn->window);
	printf("\ncontext       %u tokens", arch->n_ctx);
	if (arch->decoder)
	{
		printf(", ");
		print_bytes(bytes);
		printf(" of keys and values each");
	}
	printf("\n");
	if (arch->kind == LLM_KIND_EMBED && arch->pooling >= 0 && arch->pooling <= PP_POOL_LAST)
		printf("vectors       %u numbers, %s%s\n", arch->d_model, pooling[arch->pooling],
		       arch->l2_normalise ? ", length 1" : "");
}

/* What a file's word for the tokenizer's model means; the word itself when it is an unknown one. */
static const char *
kind_of_word(const char *word)
{
	static const char *const kinds[][2] = {{"gpt2", "byte-level BPE"},
	                                       {"llama", "SentencePiece"},
	                                       {"bert", "WordPiece"},
	                                       {"t5", "Unigram"}};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(word, kinds[i][0]) == 0)
			return kinds[i][1];
	return word;
}

/* Copies what the files call the tokenizer's model. */
static void
tokenizer_word(llm_weights *w, char *out, size_t bytes)
{
	const char *text = "unknown";
	uint64_t n = strlen(text);
	size_t n_json;
	const llm_json *root;
	llm_error ignored;

	if (llm_weights_json(w, "tokenizer.json", &root, &ignored) != LLM_OK)
		root = NULL;
	if (llm_json_string(llm_json_member(llm_json_member(root, "model"), "type"), &text, &n_json))
		n = n_json;
	else
		llm_meta_string(llm_weights_meta(w, "tokenizer.ggml.model"), 0, &text, &n);
	snprintf(out, bytes, "%.*s", (int) (n < bytes ? n : bytes - 1), text);
}

/* Loads the tokenizer and prints what kind it is and which chat template goes with it. */
static llm_status
print_tokenizer(llm_weights *w, const llm_arch *arch, llm_error *err)
{
	llm_tokenizer *t;
	char word[64];
	char *template = NULL;
	size_t bytes = 0;
	llm_status status = llm_tokenizer_load(w, &t, err);

	if (status != LLM_OK)
		return status;
	tokenizer_word(w, word, sizeof(word));
	printf("tokenizer     %s, %u tokens\n", kind_of_word(word), llm_tokenizer_n_vocab(t));
	if (arch->kind == LLM_KIND_GENERATE)
		status = model_chat_template(w, &template, &bytes, err);
	if (arch->kind == LLM_KIND_GENERATE && status == LLM_OK)
	{
		const char *family = llm_chat_detect(template, bytes, t)->name;
		bool unknown = template != NULL && strcmp(family, "plain") == 0;

		printf("chat          %s%s\n", family,
		       unknown ? " (the file's template is of no known family)" : "");
	}
	llm_free(template);
	llm_tokenizer_free(t);
	return status;
}

/* Prints the parts in order; the first failure is returned after what does not depend on it. */
static llm_status
inspect(llm_weights *w, bool digest, bool tensors, llm_error *err)
{
	llm_arch arch = {0};
	char hex[65];
	llm_status status;

	printf("files         %s, %s, ", llm_weights_path(w),
	       llm_weights_get_format(w) == LLM_FORMAT_GGUF ? "GGUF" : "safetensors");
	print_bytes(llm_weights_bytes(w));
	printf("\n");
	print_mix(w);
	if ((status = llm_arch_read(w, 0, &arch, err)) == LLM_OK)
	{
		print_arch(&arch);
		status = print_tokenizer(w, &arch, err);
		llm_arch_free(&arch);
	}
	if (digest && status == LLM_OK && (status = llm_weights_digest(w, hex, err)) == LLM_OK)
		printf("digest        %s\n", hex);
	if (tensors)
		print_tensors(w);
	return status;
}

/* prepack-engine inspect */
int
llm_cli_inspect(int argc, char **argv)
{
	bool digest = false;
	bool tensors = false;
	const llm_cli_option options[] = {
	    {"--digest", NULL, LLM_CLI_FLAG, &digest, "the SHA-256 of the weight files"},
	    {"--tensors", NULL, LLM_CLI_FLAG, &tensors, "every tensor: name, type, shape"},
	};
	const llm_cli_command command = {.name = "inspect",
	                                 .arguments = "MODEL",
	                                 .what = "Shows what MODEL's files hold.",
	                                 .n_args_min = 1,
	                                 .n_args_max = 1,
	                                 .options = options,
	                                 .n_options = sizeof(options) / sizeof(options[0])};
	const char *args[1];
	char path[4096];
	llm_error err = {0};
	llm_weights *w = NULL;
	int exit_status = llm_cli_parse(&command, argc, argv, args);
	llm_status status;

	if (exit_status != LLM_CLI_RUN)
		return exit_status;
	status = llm_cli_model_path(args[0], path, sizeof(path), &err);
	if (status == LLM_OK)
		status = llm_weights_open(path, &w, &err);
	if (status == LLM_OK)
		status = inspect(w, digest, tensors, &err);
	llm_weights_close(w);
	return status == LLM_OK ? LLM_CLI_OK : llm_cli_fail(&err);
}
