/*
 * llm_chat.c: the chat families and prompts. See llm_chat.h.
 *
 * The strings are facts of the published templates. To get the reference's tokens, all text between
 * two special tokens, of the template and of the caller, is tokenised in one piece; only the input
 * is tokenised apart, and a space in front of it goes with it, since tokens begin with spaces.
 * Special tokens are cut out of the template's strings only.
 */
#include "llm_chat.h"

#include "llm_tok_internal.h"

#define CHATML_TURNS(answer) \
	.name = "chatml", .system_open = "<|im_start|>system\n", .system_close = "<|im_end|>\n", \
	.user_open = "<|im_start|>user\n", .user_close = "<|im_end|>\n", \
	.assistant_open = "<|im_start|>assistant\n" answer, .assistant_close = "<|im_end|>\n"

#define CHATML(answer) CHATML_TURNS(answer), .bos = ""

#define LLAMA3 \
	.name = "llama3", .bos = "<|begin_of_text|>", .trim = LLM_CHAT_TRIM_USER, \
	.system_close = "<|eot_id|>", .user_open = "<|start_header_id|>user<|end_header_id|>\n\n", \
	.user_close = "<|eot_id|>", \
	.assistant_open = "<|start_header_id|>assistant<|end_header_id|>\n\n", \
	.assistant_close = "<|eot_id|>"

#define PHI(newline) \
	.system_open = "<|system|>" newline, .system_close = "<|end|>" newline, \
	.user_open = "<|user|>" newline, .user_close = "<|end|>" newline, \
	.assistant_open = "<|assistant|>" newline, .assistant_close = "<|end|>" newline

/* In Mistral's own templates the system text stands before the last user text. */
#define MISTRAL(open, close) \
	.name = "mistral", .bos = "<s>", .system_in_user = true, .system_open = "", \
	.system_close = "\n\n", .user_open = open, .user_close = close, .assistant_open = "", \
	.assistant_close = "</s>"

/* Later ones give it tokens of its own. */
#define MISTRAL7(space) \
	.name = "mistral", .bos = "<s>", .system_open = "[SYSTEM_PROMPT]" space, \
	.system_close = "[/SYSTEM_PROMPT]", .user_open = "[INST]" space, .user_close = "[/INST]", \
	.assistant_open = "", .assistant_close = "</s>"

/*
 * The families, most particular first. A template is of the first family all of whose strings it
 * holds and whose marker, where there is one, is a special token of the vocabulary.
 */
static const struct
{
	const char *holds[3];
	const char *marker;
	llm_chat_family family;
} families[] = {
    /* Phi-4's turns are ChatML's with a token of their own for the line end. */
    {{"<|im_start|>", "<|im_sep|>"},
     "<|im_sep|>",
     {.name = "chatml",
      .variant = "phi4",
      .bos = "",
      .system_open = "<|im_start|>system<|im_sep|>",
      .system_close = "<|im_end|>",
      .user_open = "<|im_start|>user<|im_sep|>",
      .user_close = "<|im_end|>",
      .assistant_open = "<|im_start|>assistant<|im_sep|>",
      .assistant_close = "<|im_end|>"}},
    {{"<|im_start|>", "named SmolLM"},
     "<|im_start|>",
     {CHATML(""), .variant = "smollm2",
      .default_system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"}},
    {{"<|im_start|>", "You are Qwen, created by Alibaba Cloud"},
     "<|im_start|>",
     {CHATML(""), .variant = "qwen2.5",
      .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}},
    /* Rendered with enable_thinking = false: a query wants answers, not thoughts. */
    {{"<|im_start|>", "enable_thinking"},
     "<|im_start|>",
     {CHATML("<think>\n\n</think>\n\n"), .variant = "qwen3"}},
    {{"<|im_start|>", "You are a helpful assistant."},
     "<|im_start|>",
     {CHATML(""), .variant = "qwen2", .default_system = "You are a helpful assistant."}},
    {{"<|im_start|>", "bos_token"},
     "<|im_start|>",
     {CHATML_TURNS(""), .variant = "bos", .bos = NULL}},
    {{"<|im_start|>"}, "<|im_start|>", {CHATML(""), .variant = ""}},
    /* The template's own date, not today's: the same query gives the same answer tomorrow. */
    {{"<|start_header_id|>", "Cutting Knowledge Date"},
     "<|start_header_id|>",
     {LLAMA3, .variant = "llama3.1", .default_system = "",
      .system_open = "<|start_header_id|>system<|end_header_id|>\n\n"
                     "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"}},
    {{"<|start_header_id|>"},
     "<|start_header_id|>",
     {LLAMA3, .variant = "", .system_open = "<|start_header_id|>system<|end_header_id|>\n\n"}},
    {{"<start_of_turn>"},
     "<start_of_turn>",
     {.name = "gemma",
      .variant = "",
      .bos = "<bos>",
      .trim = LLM_CHAT_TRIM_USER,
      .system_in_user = true,
      .system_open = "",
      .system_close = "\n\n",
      .user_open = "<start_of_turn>user\n",
      .user_close = "<end_of_turn>\n",
      .assistant_open = "<start_of_turn>model\n",
      .assistant_close = "<end_of_turn>\n"}},
    {{"<|end|>", "<|tool|>"},
     "<|end|>",
     {PHI(""), .name = "phi3", .variant = "phi4-mini", .bos = ""}},
    {{"<|end|>", "<|assistant|>", "'|>' + message['content'] + '<|end|>'"},
     "<|end|>",
     {PHI(""), .name = "phi3", .variant = "phi4-mini", .bos = ""}},
    {{"<|end|>", "<|assistant|>", "bos_token"},
     "<|end|>",
     {PHI("\n"), .name = "phi3", .variant = "bos", .bos = "<s>"}},
    {{"<|end|>", "<|assistant|>"},
     "<|end|>",
     {PHI("\n"), .name = "phi3", .variant = "", .bos = ""}},
    {{"<<SYS>>"},
     NULL,
     {.name = "llama2",
      .variant = "",
      .bos = "<s>",
      .trim = LLM_CHAT_TRIM_TURN,
      .system_in_user = true,
      .system_open = "<<SYS>>\n",
      .system_close = "\n<</SYS>>\n\n",
      .user_open = "[INST] ",
      .user_close = " [/INST]",
      .assistant_open = "",
      .assistant_close = "</s>"}},
    {{"[INST] ", "[SYSTEM_PROMPT] "}, "[INST]", {MISTRAL7(" "), .variant = "v7-spaced"}},
    {{"[INST]", "[SYSTEM_PROMPT]"}, "[INST]", {MISTRAL7(""), .variant = "v7"}},
    {{"\" [INST] \""}, NULL, {MISTRAL(" [INST] ", " [/INST]"), .variant = "v1"}},
    {{"' [INST] '"}, NULL, {MISTRAL(" [INST] ", " [/INST]"), .variant = "v1"}},
    {{"'[INST] '", "' [/INST]'"}, NULL, {MISTRAL("[INST] ", " [/INST]"), .variant = "v0"}},
    {{"\"[INST]\""}, "[INST]", {MISTRAL("[INST]", "[/INST]"), .variant = "v3-tekken"}},
    {{"[INST]"}, NULL, {MISTRAL("[INST] ", "[/INST]"), .variant = "v3"}},
};

static const llm_chat_family plain = {.name = "plain",
                                      .variant = "",
                                      .bos = "",
                                      .system_open = "",
                                      .system_close = "\n\n",
                                      .user_open = "",
                                      .user_close = "\n\n",
                                      .assistant_open = "",
                                      .assistant_close = "\n\n"};

/* Recognises the family of a template. */
const llm_chat_family *
llm_chat_detect(const char *template_text, size_t bytes, const llm_tokenizer *t)
{
	for (size_t i = 0; template_text != NULL && i < sizeof(families) / sizeof(families[0]); i++)
	{
		const char *marker = families[i].marker;
		bool good = marker == NULL ||
		            llm_tokenizer_is_special(t, llm_tokenizer_find(t, marker, strlen(marker)));

		for (int k = 0; good && k < 3 && families[i].holds[k] != NULL; k++)
			good = memmem(template_text, bytes, families[i].holds[k],
			              strlen(families[i].holds[k])) != NULL;
		if (good)
			return &families[i].family;
	}
	return &plain;
}

/* A text; bytes may be NULL when n is 0. */
typedef struct span
{
	const char *bytes;
	size_t n;
} span;

/* White space as Python's str.strip and Jinja's trim have it. */
static bool
is_stripped(uint32_t cp)
{
	return llm_is_space(cp) || (cp >= 0x1c && cp <= 0x1f);
}

/* A text without the white space at its ends. */
static span
trimmed(span s, bool left, bool right)
{
	uint32_t cp;
	size_t length;

	while (left && (length = llm_utf8_peek(s.bytes, s.n, &cp)) > 0 && is_stripped(cp))
		s = (span){s.bytes + length, s.n - length};
	while (right && s.n > 0)
	{
		size_t last = llm_utf8_last(s.bytes, s.n);

		(void) llm_utf8_peek(s.bytes + last, s.n - last, &cp);
		if (!is_stripped(cp))
			break;
		s.n = last;
	}
	return s;
}

/* A prompt on the way: text waits until a special token, or the input, ends it. */
typedef struct writer
{
	const llm_tokenizer *t;
	llm_tokens *out;
	tok_buffer text;
	int flags;  /* LLM_TOK_…: what stands before the text */
	bool strip; /* a special token that takes the white space behind it */
	llm_status status;
	llm_error *err;
} writer;

/* Tokenises the text that waits. */
static void
flush(writer *w)
{
	if (w->status != LLM_OK || w->text.n == 0)
		return;
	w->status = llm_tokenize(w->t, w->text.bytes, w->text.n, w->flags, w->out, w->err);
	w->text.n = 0;
	w->flags = LLM_TOK_AFTER_TEXT;
}

/* Appends text in which nothing is special. */
static void
put_text(writer *w, span s)
{
	s = trimmed(s, w->strip, false);
	w->strip = w->strip && s.n == 0;
	if (w->status == LLM_OK)
		w->status = tok_put(&w->text, s.bytes, s.n, w->err);
}

/* Appends a special token. */
static void
put_token(writer *w, int32_t id)
{
	flush(w);
	if (w->status == LLM_OK)
		w->status = llm_tokens_push(w->out, id, w->err);
	w->flags = LLM_TOK_AFTER_TOKEN;
	w->strip = (w->t->entries[id].flags & TOK_RSTRIP) != 0;
}

/* Appends template text, whose markers are special tokens where the vocabulary has them. */
static void
put_template(writer *w, const char *s)
{
	size_t n = strlen(s);
	size_t begin = 0;
	size_t at = 0;
	tok_cut cut;

	while (tok_added_next(w->t, false, true, s, n, &at, &cut))
	{
		put_text(w, (span){s + begin, cut.begin - begin});
		put_token(w, cut.id);
		begin = cut.end;
	}
	put_text(w, (span){s + begin, n - begin});
}

/* Begins the prompt: the family's token, or what the model puts before a bare text. */
static void
put_begin(writer *w, const llm_chat_family *f)
{
	int32_t bos = w->t->bos;

	if (f == NULL)
	{
		const tok_template *single = &w->t->single;

		for (uint32_t i = 0; i < single->n && single->items[i].id >= 0; i++)
			put_token(w, single->items[i].id);
		w->flags = 0; /* these are no part of a text */
		return;
	}
	if (f->bos != NULL)
		bos = f->bos[0] != '\0' ? llm_tokenizer_find(w->t, f->bos, strlen(f->bos)) : -1;
	if (llm_tokenizer_is_special(w->t, bos))
		put_token(w, bos);
}

/* Opens the user turn, the system text before it or inside it. */
static void
put_opening(writer *w, const llm_chat_family *f, span system)
{
	bool given = system.n > 0 || f->default_system != NULL;
	bool trim = f->trim == LLM_CHAT_TRIM_USER && !f->system_in_user;

	if (system.n == 0 && given)
		system = (span){f->default_system, strlen(f->default_system)};
	if (f->system_in_user)
		put_template(w, f->user_open);
	if (given)
	{
		put_template(w, f->system_open);
		put_text(w, trimmed(system, trim, trim));
		put_template(w, f->system_close);
	}
	if (!f->system_in_user)
		put_template(w, f->user_open);
}

/* Holds back a space before the input, and tokenises the rest of the head. */
static void
end_head(writer *w, llm_chat_frame *frame)
{
	frame->trim_left = frame->trim_left || w->strip;
	w->strip = false;
	frame->space = w->text.n > 0 && w->text.bytes[w->text.n - 1] == ' ';
	w->text.n -= frame->space;
	flush(w);
	frame->flags = w->flags;
}

/* Builds both sides. */
llm_status
llm_chat_frame_build(const llm_chat_family *family, const llm_tokenizer *t, const char *system,
                     size_t system_bytes, const char *prefix, size_t prefix_bytes,
                     const char *suffix, size_t suffix_bytes, llm_chat_frame *out, llm_error *err)
{
	llm_chat_trim trim = family != NULL ? family->trim : LLM_CHAT_TRIM_NONE;
	bool left = trim == LLM_CHAT_TRIM_USER || (trim == LLM_CHAT_TRIM_TURN && system_bytes == 0);
	bool right = trim != LLM_CHAT_TRIM_NONE;
	span before = trimmed((span){prefix, prefix_bytes}, left, false);
	span behind = trimmed((span){suffix, suffix_bytes}, false, right);
	llm_error own;
	writer w = {.t = t, .err = err != NULL ? err : &own};

	*out = (llm_chat_frame){.t = t,
	                        .trim_left = left && before.n == 0,
	                        .trim_right = right && behind.n == 0};
	w.out = &out->head;
	put_begin(&w, family);
	if (family != NULL)
		put_opening(&w, family, (span){system, system_bytes});
	put_text(&w, before);
	end_head(&w, out);
	w.out = &out->tail;
	w.flags = LLM_TOK_AFTER_TEXT;
	put_text(&w, behind);
	if (family != NULL)
	{
		put_template(&w, family->user_close);
		put_template(&w, family->assistant_open);
	}
	flush(&w);
	llm_free(w.text.bytes);
	if (w.status != LLM_OK)
		llm_chat_frame_free(out);
	return w.status;
}

/* Frees both sides; the frame is empty after. */
void
llm_chat_frame_free(llm_chat_frame *frame)
{
	llm_tokens_free(&frame->head);
	llm_tokens_free(&frame->tail);
	*frame = (llm_chat_frame){0};
}

/* Tokenises an input, with the space that was held back. */
llm_status
llm_chat_frame_input(const llm_chat_frame *frame, const char *input, size_t input_bytes,
                     llm_tokens *out, llm_error *err)
{
	span s = trimmed((span){input, input_bytes}, frame->trim_left, frame->trim_right);
	tok_buffer b = {0};
	llm_status status;

	if (!frame->space)
		return llm_tokenize(frame->t, s.bytes, s.n, frame->flags, out, err);
	status = tok_put(&b, " ", 1, err);
	if (status == LLM_OK)
		status = tok_put(&b, s.bytes, s.n, err);
	if (status == LLM_OK)
		status = llm_tokenize(frame->t, b.bytes, b.n, frame->flags, out, err);
	llm_free(b.bytes);
	return status;
}

/* Appends all of a list to another. */
static llm_status
append(llm_tokens *out, const llm_tokens *tokens, llm_error *err)
{
	llm_status status = LLM_OK;

	for (size_t i = 0; status == LLM_OK && i < tokens->n; i++)
		status = llm_tokens_push(out, tokens->ids[i], err);
	return status;
}

/* Appends a prompt; a failure leaves *out as it was. */
llm_status
llm_chat_prompt(const llm_chat_family *family, const llm_tokenizer *t, const char *system,
                size_t system_bytes, const char *prefix, size_t prefix_bytes, const char *input,
                size_t input_bytes, const char *suffix, size_t suffix_bytes, llm_tokens *out,
                size_t *n_shared, llm_error *err)
{
	llm_chat_frame frame;
	size_t n_before = out->n;
	llm_status status = llm_chat_frame_build(family, t, system, system_bytes, prefix, prefix_bytes,
	                                         suffix, suffix_bytes, &frame, err);

	if (status != LLM_OK)
		return status;
	if (n_shared != NULL)
		*n_shared = frame.head.n;
	status = append(out, &frame.head, err);
	if (status == LLM_OK)
		status = llm_chat_frame_input(&frame, input, input_bytes, out, err);
	if (status == LLM_OK)
		status = append(out, &frame.tail, err);
	if (status != LLM_OK)
		out->n = n_before;
	llm_chat_frame_free(&frame);
	return status;
}
