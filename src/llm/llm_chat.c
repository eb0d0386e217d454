/*
 * llm_chat.c: the chat families and prompts. See llm_chat.h.
 *
 * The strings are facts of the published templates. Recognition goes by the turn markers that only
 * one family has, most particular first.
 */
#include "llm_chat.h"

#include <string.h>

#include "llm_alloc.h"

static const llm_chat_family families[] = {
    {.name = "chatml-smollm",
     .bos = "",
     .system_open = "<|im_start|>system\n",
     .system_close = "<|im_end|>\n",
     .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
     .user_open = "<|im_start|>user\n",
     .user_close = "<|im_end|>\n",
     .assistant_open = "<|im_start|>assistant\n",
     .assistant_close = "<|im_end|>\n"},
    {.name = "chatml-qwen",
     .bos = "",
     .system_open = "<|im_start|>system\n",
     .system_close = "<|im_end|>\n",
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .user_open = "<|im_start|>user\n",
     .user_close = "<|im_end|>\n",
     .assistant_open = "<|im_start|>assistant\n",
     .assistant_close = "<|im_end|>\n"},
    {.name = "chatml",
     .bos = "",
     .system_open = "<|im_start|>system\n",
     .system_close = "<|im_end|>\n",
     .user_open = "<|im_start|>user\n",
     .user_close = "<|im_end|>\n",
     .assistant_open = "<|im_start|>assistant\n",
     .assistant_close = "<|im_end|>\n"},
    {.name = "llama3",
     .bos = "<|begin_of_text|>",
     .system_open = "<|start_header_id|>system<|end_header_id|>\n\n",
     .system_close = "<|eot_id|>",
     .user_open = "<|start_header_id|>user<|end_header_id|>\n\n",
     .user_close = "<|eot_id|>",
     .assistant_open = "<|start_header_id|>assistant<|end_header_id|>\n\n",
     .assistant_close = "<|eot_id|>"},
    {.name = "gemma",
     .bos = "<bos>",
     .user_open = "<start_of_turn>user\n",
     .user_close = "<end_of_turn>\n",
     .assistant_open = "<start_of_turn>model\n",
     .assistant_close = "<end_of_turn>\n"},
    {.name = "phi3",
     .bos = "",
     .system_open = "<|system|>\n",
     .system_close = "<|end|>\n",
     .user_open = "<|user|>\n",
     .user_close = "<|end|>\n",
     .assistant_open = "<|assistant|>\n",
     .assistant_close = "<|end|>\n"},
    {.name = "llama2",
     .bos = "<s>",
     .system_open = "[INST] <<SYS>>\n",
     .system_close = "\n<</SYS>>\n\n",
     .user_open = "[INST] ",
     .user_close = " [/INST]",
     .assistant_open = "",
     .assistant_close = "</s>"},
    {.name = "mistral",
     .bos = "<s>",
     .user_open = "[INST] ",
     .user_close = "[/INST]",
     .assistant_open = "",
     .assistant_close = "</s>"},
    {.name = "plain",
     .bos = "",
     .user_open = "",
     .user_close = "\n\n",
     .assistant_open = "",
     .assistant_close = "\n\n"},
};

/* True when text holds s. */
static bool
holds(const char *text, size_t n, const char *s)
{
	size_t length = strlen(s);

	for (size_t i = 0; i + length <= n; i++)
		if (memcmp(text + i, s, length) == 0)
			return true;
	return false;
}

/* Finds a family by name; the last one, plain, when there is none. */
static const llm_chat_family *
family_named(const char *name)
{
	size_t i = 0;

	while (i + 1 < sizeof(families) / sizeof(families[0]) && strcmp(families[i].name, name) != 0)
		i++;
	return &families[i];
}

/* Recognises the family of a template. A family whose markers the vocabulary lacks is not taken. */
const llm_chat_family *
llm_chat_detect(const char *template_text, size_t bytes, const llm_tokenizer *t)
{
	bool has_im = llm_tokenizer_find(t, "<|im_start|>", 12) >= 0;

	if (template_text == NULL || bytes == 0)
		return family_named("plain");
	if (holds(template_text, bytes, "<|im_start|>") && has_im)
	{
		if (holds(template_text, bytes, "named SmolLM"))
			return family_named("chatml-smollm");
		if (holds(template_text, bytes, "You are Qwen, created by Alibaba Cloud"))
			return family_named("chatml-qwen");
		return family_named("chatml");
	}
	if (holds(template_text, bytes, "<|start_header_id|>"))
		return family_named("llama3");
	if (holds(template_text, bytes, "<start_of_turn>"))
		return family_named("gemma");
	if (holds(template_text, bytes, "<|assistant|>") && holds(template_text, bytes, "<|end|>"))
		return family_named("phi3");
	if (holds(template_text, bytes, "<<SYS>>"))
		return family_named("llama2");
	if (holds(template_text, bytes, "[INST]"))
		return family_named("mistral");
	return family_named("plain");
}

/* A run of template text and user text, tokenised apart piece by piece. */
typedef struct prompt_writer
{
	const llm_tokenizer *t;
	llm_tokens *out;
	llm_status status;
	llm_error *err;
} prompt_writer;

/* Appends template text, whose markers are special tokens. */
static void
put_template(prompt_writer *p, const char *text)
{
	if (p->status == LLM_OK && text != NULL && text[0] != '\0')
		p->status = llm_tokenize(p->t, text, strlen(text), LLM_TOK_SPECIAL, p->out, p->err);
}

/* Appends user text, in which nothing is special. */
static void
put_text(prompt_writer *p, const char *text, size_t n)
{
	if (p->status == LLM_OK && text != NULL && n > 0)
		p->status = llm_tokenize(p->t, text, n, 0, p->out, p->err);
}

/* Opens the user turn, the system text before it or inside it. */
static void
put_opening(prompt_writer *p, const llm_chat_family *f, const char *system, size_t n_system)
{
	bool given = system != NULL && n_system > 0;

	put_template(p, f->bos);
	if (!given && f->default_system != NULL)
	{
		system = f->default_system;
		n_system = strlen(system);
		given = true;
	}
	if (given && f->system_open != NULL)
	{
		put_template(p, f->system_open);
		put_text(p, system, n_system);
		put_template(p, f->system_close);
		/* Llama-2's system text stands inside the user turn, which it has opened already. */
		if (strcmp(f->name, "llama2") != 0)
			put_template(p, f->user_open);
		return;
	}
	put_template(p, f->user_open);
	if (given)
	{
		put_text(p, system, n_system);
		put_text(p, "\n\n", 2);
	}
}

/* Appends a prompt. */
llm_status
llm_chat_prompt(const llm_chat_family *family, const llm_tokenizer *t, const char *system,
                size_t system_bytes, const char *prefix, size_t prefix_bytes, const char *input,
                size_t input_bytes, const char *suffix, size_t suffix_bytes, llm_tokens *out,
                size_t *n_shared, llm_error *err)
{
	prompt_writer p = {.t = t, .out = out, .err = err};
	size_t n_before = out->n;

	put_opening(&p, family, system, system_bytes);
	put_text(&p, prefix, prefix_bytes);
	if (n_shared != NULL)
		*n_shared = out->n - n_before;
	put_text(&p, input, input_bytes);
	put_text(&p, suffix, suffix_bytes);
	put_template(&p, family->user_close);
	put_template(&p, family->assistant_open);
	return p.status;
}
