/*
 * llm_tok_load_gguf.c: the tokenizer in GGUF metadata (tokenizer.ggml.*).
 *
 * Four kinds: gpt2 (byte-level BPE with merges), llama (SentencePiece BPE by score), bert
 * (WordPiece, rewritten with ▁ before word starts), t5 (Unigram). The file says less than
 * tokenizer.json: tokenizer.ggml.pre names the split pattern, and the rest follows from the kind.
 * An unknown name is refused, since a wrong pattern gives wrong ids silently.
 */
#include "llm_tok_internal.h"

#define KEY(name) "tokenizer.ggml." name

/* Token types in the file. 1 is an ordinary token. */
enum
{
	GGUF_UNKNOWN = 2,
	GGUF_CONTROL = 3,
	GGUF_USER = 4,
	GGUF_UNUSED = 5
};

/* A name of tokenizer.ggml.pre, and what it stands for. */
typedef struct pre
{
	const char *name;
	tok_split split;
	bool digits;        /* each digit by itself first */
	bool nfc;           /* the reference normalises */
	bool ignore_merges; /* as in the reference's file */
} pre;

#define GPT2      .split = {.kind = TOK_SPLIT_GPT2}
#define LLAMA3(n) .split = {.kind = TOK_SPLIT_LLAMA3, .digits = (n)}

static const pre pres[] = {
    {.name = "default", GPT2},
    {.name = "gpt-2", GPT2},
    {.name = "phi-2", GPT2},
    {.name = "mpt", GPT2},
    {.name = "olmo", GPT2},
    {.name = "jina-v1-en", GPT2},
    {.name = "jina-v2-es", GPT2},
    {.name = "jina-v2-de", GPT2},
    {.name = "roberta-bpe", GPT2},
    {.name = "modern-bert", GPT2, .nfc = true},
    {.name = "smollm", GPT2, .digits = true},
    {.name = "starcoder", GPT2, .digits = true},
    {.name = "refact", GPT2, .digits = true},
    {.name = "command-r", GPT2, .digits = true},
    {.name = "codeshell", GPT2, .digits = true},
    {.name = "llama-bpe", LLAMA3(3), .ignore_merges = true},
    {.name = "llama3", LLAMA3(3), .ignore_merges = true},
    {.name = "llama-v3", LLAMA3(3), .ignore_merges = true},
    {.name = "qwen2", LLAMA3(1), .nfc = true},
    {.name = "deepseek-r1-qwen", LLAMA3(1), .nfc = true},
    {.name = "tekken", .split = {.kind = TOK_SPLIT_TEKKEN, .digits = 1}, .ignore_merges = true},
    {.name = "gpt-4o", .split = {.kind = TOK_SPLIT_TEKKEN, .digits = 3, .contractions = true}},
};

/* True when a string value is the given one. */
static bool
is(const char *text, uint64_t n, const char *wanted)
{
	return strlen(wanted) == n && memcmp(text, wanted, n) == 0;
}

/* A token id, checked against the vocabulary; −1 when the key is absent. */
static int32_t
meta_id(const llm_tokenizer *t, llm_weights *w, const char *key)
{
	uint64_t id;

	return llm_meta_uint(llm_weights_meta(w, key), 0, &id) && id < t->n_vocab ? (int32_t) id : -1;
}

/* A flag, or its default. */
static bool
meta_flag(llm_weights *w, const char *key, bool def)
{
	bool value;

	return llm_meta_bool(llm_weights_meta(w, key), 0, &value) ? value : def;
}

/* The flags of a token type. */
static uint16_t
flags_of_type(int64_t type)
{
	switch (type)
	{
		case GGUF_UNKNOWN:
		case GGUF_CONTROL:
			return TOK_ADDED | TOK_SPECIAL;
		case GGUF_USER:
			return TOK_ADDED;
		default:
			return type == GGUF_UNUSED ? TOK_UNUSED : 0;
	}
}

/* Reads tokens, scores and types. */
static llm_status
read_entries(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_meta *tokens = llm_weights_meta(w, KEY("tokens"));
	const llm_meta *scores = llm_weights_meta(w, KEY("scores"));
	const llm_meta *types = llm_weights_meta(w, KEY("token_type"));
	llm_status status;

	if (tokens == NULL || tokens->kind != LLM_META_ARRAY)
		return llm_fail(err, LLM_E_FORMAT, "the file has no array %s", KEY("tokens"));
	if ((status = tok_vocab_create(t, tokens->n_items, err)) != LLM_OK)
		return status;
	if ((t->scores = llm_calloc(t->n_vocab, sizeof(double))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		tok_entry *e = &t->entries[i];
		int64_t type;
		uint64_t n;

		if (!llm_meta_string(tokens, i, &e->text, &n) || n > TOK_BYTES_MAX)
			return llm_fail(err, LLM_E_FORMAT, "token %u is malformed", i);
		e->bytes = (uint32_t) n;
		(void) llm_meta_float(scores, i, &t->scores[i]);
		if (llm_meta_int(types, i, &type))
			e->flags = flags_of_type(type);
	}
	return LLM_OK;
}

/* Chooses the steps of byte-level BPE by the name of the pattern. */
static llm_status
choose_pre(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const char *name = "default";
	uint64_t n = strlen(name);

	(void) llm_meta_string(llm_weights_meta(w, KEY("pre")), 0, &name, &n);
	for (size_t i = 0; i < sizeof(pres) / sizeof(pres[0]); i++)
		if (is(name, n, pres[i].name))
		{
			if (pres[i].nfc)
				t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_FORM, .form = LLM_NFC};
			if (pres[i].digits)
				t->splits[t->n_splits++] = (tok_split){.kind = TOK_SPLIT_DIGITS, .digits = 1};
			t->splits[t->n_splits++] = pres[i].split;
			t->ignore_merges = pres[i].ignore_merges;
			return LLM_OK;
		}
	return llm_fail(err, LLM_E_UNSUPPORTED, "%s \"%.*s\" is not supported", KEY("pre"),
	                (int) (n < 64 ? n : 64), name);
}

/* Byte-level BPE: the pattern, and the merges. */
static llm_status
setup_bpe(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_meta *merges = llm_weights_meta(w, KEY("merges"));
	llm_status status = choose_pre(t, w, err);

	t->model = TOK_BPE;
	t->byte_level = true;
	if (status != LLM_OK)
		return status;
	if (merges == NULL || merges->kind != LLM_META_ARRAY)
		return llm_fail(err, LLM_E_FORMAT, "the file has no array %s", KEY("merges"));
	status = tok_merges_create(t, merges->n_items, err);
	for (uint64_t i = 0; status == LLM_OK && i < merges->n_items; i++)
	{
		const char *text;
		uint64_t n;

		if (!llm_meta_string(merges, i, &text, &n))
			return llm_fail(err, LLM_E_FORMAT, "merge %llu is not a string",
			                (unsigned long long) i);
		status = tok_merge_add_text(t, text, n, (uint32_t) i, err);
	}
	return status;
}

/* Spaces are ▁, and one goes in front of the text unless the file says no. */
static void
add_marks(llm_tokenizer *t, llm_weights *w)
{
	tok_norm mark = {.to = TOK_METASPACE, .bytes_to = strlen(TOK_METASPACE)};

	if (meta_flag(w, KEY("add_space_prefix"), true))
	{
		mark.kind = TOK_NORM_PREPEND;
		t->norms[t->n_norms++] = mark;
		t->strip_leading_space = true;
	}
	mark.kind = TOK_NORM_REPLACE;
	mark.from = " ";
	mark.bytes_from = 1;
	t->norms[t->n_norms++] = mark;
}

/* SentencePiece BPE. */
static llm_status
setup_spm(llm_tokenizer *t, llm_weights *w)
{
	t->model = TOK_SPM;
	t->byte_fallback = true;
	t->unk = meta_id(t, w, KEY("unknown_token_id"));
	add_marks(t, w);
	return LLM_OK;
}

/* Copies SentencePiece's map, if the file has one. */
static llm_status
read_charsmap(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_meta *map = llm_weights_meta(w, KEY("precompiled_charsmap"));
	char *bytes;
	int64_t byte;

	if (map == NULL || map->n_items == 0)
		return LLM_OK;
	if ((bytes = llm_arena_alloc(t->arena, map->n_items, 1)) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the tokenizer");
	for (uint64_t i = 0; i < map->n_items; i++)
	{
		if (!llm_meta_int(map, i, &byte))
			return llm_fail(err, LLM_E_FORMAT, "%s is not an array of bytes",
			                KEY("precompiled_charsmap"));
		bytes[i] = (char) byte;
	}
	t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_CHARSMAP,
	                                    .longest = true,
	                                    .from = bytes,
	                                    .bytes_from = map->n_items};
	return tok_charsmap_check(bytes, map->n_items, err);
}

/*
 * Unigram as SentencePiece runs it, over the whole text: the map, then no spaces at the ends nor
 * two in a row. At the end, marks that stood in the text go, too.
 */
static llm_status
setup_unigram(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	bool trim = meta_flag(w, KEY("remove_extra_whitespaces"), false);
	llm_status status = read_charsmap(t, w, err);

	t->model = TOK_UNIGRAM;
	t->single_sums = true;
	t->unk = meta_id(t, w, KEY("unknown_token_id"));
	if (trim)
	{
		t->norms[t->n_norms++] =
		    (tok_norm){.kind = TOK_NORM_STRIP, .left = true, .from = " ", .bytes_from = 1};
		t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_SQUEEZE, .to = " ", .bytes_to = 1};
	}
	add_marks(t, w);
	if (trim)
		t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_STRIP,
		                                    .right = true,
		                                    .from = TOK_METASPACE,
		                                    .bytes_from = strlen(TOK_METASPACE)};
	return status;
}

/*
 * Undoes the rewriting of a WordPiece entry: "▁x" was "x", "x" was "##x", and texts in brackets
 * were left alone.
 */
static llm_status
restore_wordpiece(llm_tokenizer *t, tok_entry *e, llm_error *err)
{
	size_t n_mark = strlen(TOK_METASPACE);
	char *text;

	if ((e->flags & TOK_SPECIAL) ||
	    (e->bytes >= 2 && e->text[0] == '[' && e->text[e->bytes - 1] == ']'))
		return LLM_OK;
	/* A mark alone was "##▁": no word is empty. */
	if (e->bytes > n_mark && memcmp(e->text, TOK_METASPACE, n_mark) == 0)
	{
		e->text += n_mark;
		e->bytes -= (uint32_t) n_mark;
		return LLM_OK;
	}
	if ((text = llm_arena_alloc(t->arena, (size_t) e->bytes + 2, 1)) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
	memcpy(text, "##", 2);
	memcpy(text + 2, e->text, e->bytes);
	e->text = text;
	e->bytes += 2;
	return LLM_OK;
}

/* True when the i-th text begins a word with a capital letter: the model knows case. */
static bool
is_cased(const tok_entry *e)
{
	size_t n_mark = strlen(TOK_METASPACE);

	return e->bytes > n_mark && memcmp(e->text, TOK_METASPACE, n_mark) == 0 &&
	       e->text[n_mark] >= 'A' && e->text[n_mark] <= 'Z';
}

/* WordPiece with BERT's normaliser. The file does not tell whether case counts; its tokens do. */
static llm_status
setup_wordpiece(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	bool cased = false;
	llm_status status = LLM_OK;

	t->model = TOK_WORDPIECE;
	t->cleanup = true;
	t->unk = meta_id(t, w, KEY("unknown_token_id"));
	for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
	{
		cased = cased || is_cased(&t->entries[i]);
		status = restore_wordpiece(t, &t->entries[i], err);
	}
	t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_BERT,
	                                    .clean = true,
	                                    .cjk = true,
	                                    .strip_accents = !cased,
	                                    .lower = !cased};
	t->splits[t->n_splits++] = (tok_split){.kind = TOK_SPLIT_BERT};
	return status;
}

/* Marks the tokens that the file names as special ones, whatever their type says. */
static void
mark_special(llm_tokenizer *t, llm_weights *w)
{
	static const char *const keys[] = {KEY("bos_token_id"),       KEY("eos_token_id"),
	                                   KEY("eot_token_id"),       KEY("eom_token_id"),
	                                   KEY("padding_token_id"),   KEY("unknown_token_id"),
	                                   KEY("seperator_token_id"), KEY("cls_token_id"),
	                                   KEY("mask_token_id")};

	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (meta_id(t, w, keys[i]) >= 0)
			t->entries[meta_id(t, w, keys[i])].flags |= TOK_ADDED | TOK_SPECIAL;
}

/* Builds what goes around a text and around two. XLM-R doubles the token between them. */
static void
set_templates(llm_tokenizer *t, llm_weights *w)
{
	bool bert = t->model == TOK_WORDPIECE;
	bool unigram = t->model == TOK_UNIGRAM;
	int32_t cls = meta_id(t, w, KEY("cls_token_id"));
	int32_t sep = meta_id(t, w, KEY("seperator_token_id"));
	int32_t front = bert && cls >= 0 ? cls : t->bos;
	int32_t back = bert && sep >= 0 ? sep : t->eos;
	tok_template *single = &t->single;
	tok_template *pair = &t->pair;

	/* Byte-level vocabularies that ignore merges, Llama-3's and Tekken's, begin texts, too. */
	bool begins = bert || t->model == TOK_SPM || t->ignore_merges;

	if (front >= 0 && meta_flag(w, KEY("add_bos_token"), begins))
		single->items[single->n++] = (tok_item){.id = front};
	single->items[single->n++] = (tok_item){.id = -1};
	if (back >= 0 && meta_flag(w, KEY("add_eos_token"), bert || unigram))
		single->items[single->n++] = (tok_item){.id = back};
	if ((!bert && !unigram) || front < 0 || back < 0)
		return;
	*pair = (tok_template){.items = {{.id = front}, {.id = -1}, {.id = back}}, .n = 3};
	if (unigram)
		pair->items[pair->n++] = (tok_item){.id = back};
	pair->items[pair->n++] = (tok_item){.id = -1, .second = true, .type_id = bert};
	pair->items[pair->n++] = (tok_item){.id = back, .type_id = bert};
}

/* Reads everything. */
llm_status
tok_load_gguf(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const char *model;
	uint64_t n;
	llm_status status;

	if (!llm_meta_string(llm_weights_meta(w, KEY("model")), 0, &model, &n))
		return llm_fail(err, LLM_E_FORMAT, "the file has no %s", KEY("model"));
	if ((status = read_entries(t, w, err)) != LLM_OK)
		return status;
	mark_special(t, w);
	if (is(model, n, "bert")) /* rewrites texts, so before they are indexed */
		status = setup_wordpiece(t, w, err);
	if (status == LLM_OK)
		status = tok_vocab_index(t, err);
	if (status != LLM_OK)
		return status;
	if (is(model, n, "gpt2"))
		status = setup_bpe(t, w, err);
	else if (is(model, n, "llama"))
		status = setup_spm(t, w);
	else if (is(model, n, "t5"))
		status = setup_unigram(t, w, err);
	else if (!is(model, n, "bert"))
		return llm_fail(err, LLM_E_UNSUPPORTED, "%s \"%.*s\" is not supported", KEY("model"),
		                (int) (n < 64 ? n : 64), model);
	if (status != LLM_OK)
		return status;
	t->bos = meta_id(t, w, KEY("bos_token_id"));
	t->pad = meta_id(t, w, KEY("padding_token_id"));
	tok_end_add(t, meta_id(t, w, KEY("eos_token_id")));
	tok_end_add(t, meta_id(t, w, KEY("eot_token_id")));
	tok_end_add(t, meta_id(t, w, KEY("eom_token_id")));
	set_templates(t, w);
	return LLM_OK;
}
