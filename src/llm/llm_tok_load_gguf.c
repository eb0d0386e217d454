/*
 * llm_tok_load_gguf.c: the tokenizer in GGUF metadata (tokenizer.ggml.*).
 *
 * Four kinds: gpt2 (byte-level BPE with merges), llama (SentencePiece BPE by score), bert
 * (WordPiece, rewritten with ▁ before word starts), t5 (Unigram). tokenizer.ggml.pre names the
 * split pattern; an unknown one is refused by name, since a wrong pattern gives wrong ids silently.
 */
#include "llm_tok_internal.h"

#include <string.h>

#include "llm_check.h"

#define KEY(name) "tokenizer.ggml." name

/* Token types in the file. */
enum
{
	GGUF_NORMAL = 1,
	GGUF_UNKNOWN = 2,
	GGUF_CONTROL = 3,
	GGUF_USER = 4,
	GGUF_UNUSED = 5,
	GGUF_BYTE = 6
};

/* A string value, or an empty one. */
static bool
meta_string(llm_weights *w, const char *key, const char **text, uint64_t *n)
{
	const llm_meta *m = llm_weights_meta(w, key);

	return m != NULL && llm_meta_string(m, 0, text, n);
}

/* True when a string value is one of a NULL-terminated list. */
static bool
is_one_of(const char *text, uint64_t n, const char *const *list)
{
	for (; *list != NULL; list++)
		if (strlen(*list) == n && memcmp(*list, text, n) == 0)
			return true;
	return false;
}

/* A token id, checked against the vocabulary; −1 when the key is absent. */
static int32_t
meta_id(const llm_tokenizer *t, llm_weights *w, const char *key)
{
	uint64_t id;
	const llm_meta *m = llm_weights_meta(w, key);

	return m != NULL && llm_meta_uint(m, 0, &id) && id < t->n_vocab ? (int32_t) id : -1;
}

/* A flag, or its default. */
static bool
meta_flag(llm_weights *w, const char *key, bool def)
{
	const llm_meta *m = llm_weights_meta(w, key);
	bool value;

	return m != NULL && llm_meta_bool(m, 0, &value) ? value : def;
}

/* Reads tokens, scores and types. */
static llm_status
read_entries(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_meta *tokens = llm_weights_meta(w, KEY("tokens"));
	const llm_meta *scores = llm_weights_meta(w, KEY("scores"));
	const llm_meta *types = llm_weights_meta(w, KEY("token_type"));

	if (tokens == NULL || tokens->kind != LLM_META_ARRAY || tokens->n_items == 0 ||
	    tokens->n_items > TOK_VOCAB_MAX)
		return llm_fail(err, LLM_E_FORMAT, "the file has no usable tokenizer.ggml.tokens");
	t->n_vocab = (uint32_t) tokens->n_items;
	if ((t->entries = llm_calloc(t->n_vocab, sizeof(tok_entry))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		tok_entry *e = &t->entries[i];
		uint64_t n;
		int64_t type = GGUF_NORMAL;
		double score = 0;

		if (!llm_meta_string(tokens, i, &e->text, &n) || n > (1u << 20))
			return llm_fail(err, LLM_E_FORMAT, "token %u is not a string", i);
		e->bytes = (uint32_t) n;
		if (scores != NULL && llm_meta_float(scores, i, &score))
			e->score = (float) score;
		if (types != NULL)
			llm_meta_int(types, i, &type);
		if (type == GGUF_CONTROL || type == GGUF_UNKNOWN)
			e->flags |= TOK_SPECIAL | (type == GGUF_CONTROL ? TOK_ADDED : 0);
		if (type == GGUF_USER)
			e->flags |= TOK_ADDED;
		if (type == GGUF_UNUSED)
			e->flags |= TOK_UNUSED;
	}
	return LLM_OK;
}

/* Adds one merge "a b". Merges of tokens that do not exist are refused. */
static llm_status
read_merge(llm_tokenizer *t, const char *text, uint64_t n, uint32_t rank, llm_error *err)
{
	char joined[1024];
	const char *space = n > 1 ? memchr(text + 1, ' ', n - 1) : NULL;
	size_t n_left = space != NULL ? (size_t) (space - text) : 0;
	size_t n_right = space != NULL ? (size_t) n - n_left - 1 : 0;
	int32_t left;
	int32_t right;
	int32_t merged;

	if (n_left == 0 || n_right == 0 || n_left + n_right > sizeof(joined))
		return llm_fail(err, LLM_E_FORMAT, "merge %u is malformed", rank);
	memcpy(joined, text, n_left);
	memcpy(joined + n_left, space + 1, n_right);
	left = tok_find(t, text, n_left);
	right = tok_find(t, space + 1, n_right);
	merged = tok_find(t, joined, n_left + n_right);
	if (left < 0 || right < 0 || merged < 0)
		return llm_fail(err, LLM_E_FORMAT, "merge %u names a token that does not exist", rank);
	tok_pairs_add(t, left, right, rank, merged);
	return LLM_OK;
}

/* Reads the merges of byte-level BPE. */
static llm_status
read_merges(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_meta *merges = llm_weights_meta(w, KEY("merges"));
	llm_status status;

	if (merges == NULL || merges->kind != LLM_META_ARRAY)
		return llm_fail(err, LLM_E_FORMAT, "the file has no usable tokenizer.ggml.merges");
	if ((status = tok_vocab_index(t, err)) != LLM_OK ||
	    (status = tok_pairs_create(t, merges->n_items, err)) != LLM_OK)
		return status;
	for (uint64_t i = 0; status == LLM_OK && i < merges->n_items; i++)
	{
		const char *text;
		uint64_t n;

		if (!llm_meta_string(merges, i, &text, &n))
			return llm_fail(err, LLM_E_FORMAT, "merge %llu is not a string",
			                (unsigned long long) i);
		status = read_merge(t, text, n, (uint32_t) i, err);
	}
	return status;
}

/* Chooses the splitters by the name of the pattern. */
static llm_status
choose_split(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	static const char *const gpt2[] = {"default", "gpt-2",   "gpt2",    "phi-2",       "mpt",
	                                   "olmo",    "jina-es", "jina-de", "roberta-bpe", NULL};
	static const char *const smollm[] = {"smollm",    "starcoder", "refact",
	                                     "command-r", "codeshell", NULL};
	static const char *const llama3[] = {"llama-bpe", "llama3", "llama-v3", "llama-bpe-v3", NULL};
	static const char *const qwen2[] = {"qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", NULL};
	const char *pre = "default";
	uint64_t n = strlen(pre);

	(void) meta_string(w, KEY("pre"), &pre, &n);
	t->byte_level = true;
	if (is_one_of(pre, n, smollm))
	{
		t->splits[t->n_splits++] = (tok_split){TOK_SPLIT_DIGITS, 0};
		t->splits[t->n_splits++] = (tok_split){TOK_SPLIT_GPT2, 0};
	}
	else if (is_one_of(pre, n, gpt2))
		t->splits[t->n_splits++] = (tok_split){TOK_SPLIT_GPT2, 0};
	else if (is_one_of(pre, n, llama3))
	{
		t->splits[t->n_splits++] = (tok_split){TOK_SPLIT_LLAMA3, 3};
		t->ignore_merges = true;
	}
	else if (is_one_of(pre, n, qwen2))
	{
		t->splits[t->n_splits++] = (tok_split){TOK_SPLIT_LLAMA3, 1};
		t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_FORM, .arg = LLM_UNI_NFC};
	}
	else
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.ggml.pre \"%.*s\" is not supported",
		                (int) (n < 64 ? n : 64), pre);
	return LLM_OK;
}

/* SentencePiece BPE: spaces are ▁, one in front unless the file says no. */
static void
setup_spm(llm_tokenizer *t, llm_weights *w)
{
	t->model = TOK_SPM;
	t->byte_fallback = true;
	t->fuse_unk = true;
	if (meta_flag(w, KEY("add_space_prefix"), true))
	{
		t->norms[t->n_norms++] =
		    (tok_norm){.kind = TOK_NORM_PREPEND, .to = "\xe2\x96\x81", .bytes_to = 3};
		t->strip_leading_space = true;
	}
	t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_REPLACE,
	                                    .from = " ",
	                                    .bytes_from = 1,
	                                    .to = "\xe2\x96\x81",
	                                    .bytes_to = 3};
}

/* Unigram: the precompiled map, then as SentencePiece does. */
static llm_status
setup_unigram(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_meta *map = llm_weights_meta(w, KEY("precompiled_charsmap"));

	t->model = TOK_UNIGRAM;
	if (map != NULL && map->kind == LLM_META_ARRAY && map->n_items > 4)
	{
		char *bytes = llm_arena_alloc(t->arena, map->n_items + 1, 1);
		uint32_t n_trie;

		if (bytes == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for the tokenizer");
		for (uint64_t i = 0; i < map->n_items; i++)
		{
			int64_t byte;

			if (!llm_meta_int(map, i, &byte))
				return llm_fail(err, LLM_E_FORMAT, "precompiled_charsmap is not an array of bytes");
			bytes[i] = (char) byte;
		}
		memcpy(&n_trie, bytes, 4);
		if (n_trie > map->n_items - 4)
			return llm_fail(err, LLM_E_FORMAT, "precompiled_charsmap is cut off");
		t->norms[t->n_norms++] =
		    (tok_norm){.kind = TOK_NORM_CHARSMAP, .from = bytes, .bytes_from = map->n_items};
	}
	t->norms[t->n_norms++] =
	    (tok_norm){.kind = TOK_NORM_PREPEND, .to = "\xe2\x96\x81", .bytes_to = 3};
	t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_REPLACE,
	                                    .from = " ",
	                                    .bytes_from = 1,
	                                    .to = "\xe2\x96\x81",
	                                    .bytes_to = 3};
	return LLM_OK;
}

/* WordPiece: the rewritten vocabulary is turned back into the usual one. */
static llm_status
setup_wordpiece(llm_tokenizer *t, llm_error *err)
{
	t->model = TOK_WORDPIECE;
	t->norms[t->n_norms++] = (tok_norm){
	    .kind = TOK_NORM_BERT, .clean = true, .cjk = true, .strip_accents = true, .lower = true};
	t->splits[t->n_splits++] = (tok_split){TOK_SPLIT_BERT, 0};
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		tok_entry *e = &t->entries[i];
		char *text;

		if (e->bytes >= 2 && e->text[0] == '[' && e->text[e->bytes - 1] == ']')
			e->flags |= TOK_SPECIAL | TOK_ADDED;
		if (e->flags & TOK_SPECIAL)
			continue;
		if (e->bytes > 3 && memcmp(e->text, "\xe2\x96\x81", 3) == 0)
		{
			e->text += 3;
			e->bytes -= 3;
			continue;
		}
		if ((text = llm_arena_alloc(t->arena, (size_t) e->bytes + 3, 1)) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
		memcpy(text, "##", 2);
		memcpy(text + 2, e->text, e->bytes);
		e->text = text;
		e->bytes += 2;
	}
	return LLM_OK;
}

/* Unigram's trie of pieces, and the score of an unknown character. */
static llm_status
index_pieces(llm_tokenizer *t, llm_error *err)
{
	uint64_t n_bytes = 0;
	float min = 0;
	llm_status status;

	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		n_bytes += t->entries[i].bytes;
		if (!(t->entries[i].flags & TOK_SPECIAL) && t->entries[i].score < min)
			min = t->entries[i].score;
	}
	t->unk_score = min - 10;
	if ((status = tok_trie_create(&t->pieces, n_bytes, err)) != LLM_OK)
		return status;
	for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
		if (t->entries[i].bytes > 0 && !(t->entries[i].flags & (TOK_SPECIAL | TOK_UNUSED)))
			status =
			    tok_trie_add(&t->pieces, t->entries[i].text, t->entries[i].bytes, (int32_t) i, err);
	return status;
}

/* What goes around a text: <s> … </s>, [CLS] … [SEP]. */
static void
set_templates(llm_tokenizer *t, llm_weights *w, int32_t cls, int32_t sep)
{
	bool wordpiece = t->model == TOK_WORDPIECE;
	int32_t front = wordpiece && cls >= 0 ? cls : t->bos;
	int32_t back = wordpiece && sep >= 0 ? sep : t->eos;
	bool add_front = meta_flag(w, KEY("add_bos_token"), wordpiece || t->model == TOK_SPM);
	bool add_back = meta_flag(w, KEY("add_eos_token"), wordpiece || t->model == TOK_UNIGRAM);

	if (add_front && front >= 0)
		t->single.items[t->single.n++] = (tok_item){.id = front};
	t->single.items[t->single.n++] = (tok_item){.id = -1};
	if (add_back && back >= 0)
		t->single.items[t->single.n++] = (tok_item){.id = back};
	if (!wordpiece || front < 0 || back < 0)
		return;
	t->pair.items[0] = (tok_item){.id = front};
	t->pair.items[1] = (tok_item){.id = -1};
	t->pair.items[2] = (tok_item){.id = back};
	t->pair.items[3] = (tok_item){.id = -1, .second = true, .type_id = 1};
	t->pair.items[4] = (tok_item){.id = back, .type_id = 1};
	t->pair.n = 5;
}

/* Tokens that end a turn, beside the file's own end token. */
static void
find_ends(llm_tokenizer *t, llm_weights *w)
{
	static const char *const names[] = {"<|im_end|>",    "<|eot_id|>",    "<|end_of_text|>",
	                                    "<|endoftext|>", "<end_of_turn>", "<|end|>",
	                                    "</s>",          "<eos>"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		int32_t id = tok_find(t, names[i], strlen(names[i]));

		if (id >= 0 && (t->entries[id].flags & TOK_SPECIAL))
			t->ends[t->n_ends++] = id;
	}
	if (meta_id(t, w, KEY("eot_token_id")) >= 0)
		t->ends[t->n_ends++] = meta_id(t, w, KEY("eot_token_id"));
}

/* Reads everything. */
llm_status
tok_load_gguf(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const char *model;
	uint64_t n;
	llm_status status;

	if (!meta_string(w, KEY("model"), &model, &n))
		return llm_fail(err, LLM_E_FORMAT, "the file has no tokenizer.ggml.model");
	if ((status = read_entries(t, w, err)) != LLM_OK)
		return status;
	if (n == 4 && memcmp(model, "gpt2", 4) == 0)
	{
		if ((status = choose_split(t, w, err)) == LLM_OK)
			status = read_merges(t, w, err);
	}
	else if (n == 5 && memcmp(model, "llama", 5) == 0)
		setup_spm(t, w);
	else if (n == 4 && memcmp(model, "bert", 4) == 0)
		status = setup_wordpiece(t, err);
	else if (n == 2 && memcmp(model, "t5", 2) == 0)
	{
		if ((status = setup_unigram(t, w, err)) == LLM_OK)
			status = index_pieces(t, err);
	}
	else
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.ggml.model \"%.*s\" is not supported",
		                (int) (n < 64 ? n : 64), model);
	if (status == LLM_OK && t->by_text == NULL)
		status = tok_vocab_index(t, err);
	if (status != LLM_OK)
		return status;
	t->bos = meta_id(t, w, KEY("bos_token_id"));
	t->eos = meta_id(t, w, KEY("eos_token_id"));
	t->pad = meta_id(t, w, KEY("padding_token_id"));
	t->unk = meta_id(t, w, KEY("unknown_token_id"));
	if (t->byte_level)
		t->unk = -1; /* the reference drops bytes that have no token */
	if (t->model == TOK_WORDPIECE && t->unk < 0)
		t->unk = tok_find(t, "[UNK]", 5);
	set_templates(t, w, meta_id(t, w, KEY("cls_token_id")),
	              meta_id(t, w, KEY("seperator_token_id")));
	find_ends(t, w);
	return LLM_OK;
}
