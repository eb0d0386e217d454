/*
 * llm_tok_load_hf.c: the tokenizer in a Hugging Face folder: the model in tokenizer.json.
 *
 * llm_tok_load_steps.c reads the steps around it. The tokens that begin and end texts stand in
 * tokenizer_config.json, generation_config.json and config.json. Texts point into the parsed JSON,
 * which the weights own.
 */
#include "llm_tok_internal.h"

/* A flag that is false when absent. */
static bool
flag(const llm_json *object, const char *key)
{
	bool value;

	return llm_json_bool(llm_json_member(object, key), &value) && value;
}

/* A string that is not empty; false when absent or null. */
static bool
text_of(const llm_json *object, const char *key, const char **text, size_t *n)
{
	return llm_json_string(llm_json_member(object, key), text, n) && *n > 0;
}

/* The id and text of the i-th token: of an object text → id, or of Unigram's [text, score] list. */
static bool
vocab_item(const llm_json *vocab, uint64_t i, uint64_t *id, const char **text, size_t *bytes)
{
	*id = i;
	if (llm_json_get_kind(vocab) == LLM_JSON_OBJECT)
		return llm_json_u64(llm_json_member_at(vocab, i, text, bytes), id) && *id < TOK_VOCAB_MAX;
	return llm_json_string(llm_json_item(llm_json_item(vocab, i), 0), text, bytes);
}

/* The id and text of the i-th added token. */
static bool
added_item(const llm_json *added, uint64_t i, uint64_t *id, const char **text, size_t *bytes)
{
	const llm_json *token = llm_json_item(added, i);

	return llm_json_u64(llm_json_member(token, "id"), id) && *id < TOK_VOCAB_MAX &&
	       llm_json_string(llm_json_member(token, "content"), text, bytes);
}

/* The highest id, plus one. Ids that are far apart would make a small file take much memory. */
static llm_status
count_ids(const llm_json *vocab, const llm_json *added, uint64_t *n, llm_error *err)
{
	uint64_t n_vocab = llm_json_size(vocab);
	uint64_t n_added = llm_json_size(added);
	const char *text;
	size_t bytes;
	uint64_t id;

	*n = 0;
	for (uint64_t i = 0; i < n_vocab + n_added; i++)
	{
		if (!(i < n_vocab ? vocab_item(vocab, i, &id, &text, &bytes)
		                  : added_item(added, i - n_vocab, &id, &text, &bytes)) ||
		    bytes > TOK_BYTES_MAX)
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: %s %llu is malformed",
			                i < n_vocab ? "token" : "added token",
			                (unsigned long long) (i < n_vocab ? i : i - n_vocab));
		*n = id + 1 > *n ? id + 1 : *n;
	}
	if (*n > 4 * (n_vocab + n_added) + 65536)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: token ids are far apart");
	return LLM_OK;
}

/* Reads the scores of Unigram's list. */
static llm_status
read_scores(llm_tokenizer *t, const llm_json *vocab, llm_error *err)
{
	if ((t->scores = llm_calloc(t->n_vocab, sizeof(double))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	for (uint64_t i = 0; i < llm_json_size(vocab); i++)
		if (!llm_json_double(llm_json_item(llm_json_item(vocab, i), 1), &t->scores[i]))
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: token %llu has no score",
			                (unsigned long long) i);
	return LLM_OK;
}

/* Reads the vocabulary and the added tokens, which stand over the entries of their ids. */
static llm_status
read_vocab(llm_tokenizer *t, const llm_json *vocab, const llm_json *added, llm_error *err)
{
	const char *text;
	size_t bytes;
	uint64_t id;
	llm_status status = count_ids(vocab, added, &id, err);

	if (status != LLM_OK || (status = tok_vocab_create(t, id, err)) != LLM_OK)
		return status;
	for (uint64_t i = 0; i < llm_json_size(vocab); i++)
	{
		(void) vocab_item(vocab, i, &id, &text, &bytes);
		t->entries[id] = (tok_entry){.text = text, .bytes = (uint32_t) bytes};
	}
	for (uint64_t i = 0; i < llm_json_size(added); i++)
	{
		const llm_json *token = llm_json_item(added, i);
		unsigned flags = TOK_ADDED | (flag(token, "special") ? TOK_SPECIAL : 0) |
		                 (flag(token, "lstrip") ? TOK_LSTRIP : 0) |
		                 (flag(token, "rstrip") ? TOK_RSTRIP : 0) |
		                 (flag(token, "single_word") ? TOK_WORD : 0) |
		                 (flag(token, "normalized") ? TOK_NORMALISED : 0);

		(void) added_item(added, i, &id, &text, &bytes);
		t->entries[id] =
		    (tok_entry){.text = text, .bytes = (uint32_t) bytes, .flags = (uint16_t) flags};
	}
	return tok_vocab_index(t, err);
}

/* Reads one merge: "a b" or ["a", "b"]. */
static llm_status
read_merge(llm_tokenizer *t, const llm_json *merge, uint32_t rank, llm_error *err)
{
	const char *left;
	const char *right;
	size_t n_left;
	size_t n_right;

	if (llm_json_string(merge, &left, &n_left))
		return tok_merge_add_text(t, left, n_left, rank, err);
	if (!llm_json_string(llm_json_item(merge, 0), &left, &n_left) ||
	    !llm_json_string(llm_json_item(merge, 1), &right, &n_right))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: merge %u is malformed", rank);
	return tok_merge_add(t, left, n_left, right, n_right, rank, err);
}

/* Reads a BPE model. Dropout is for training. */
static llm_status
read_bpe(llm_tokenizer *t, const llm_json *model, llm_error *err)
{
	const llm_json *merges = llm_json_member(model, "merges");
	llm_status status = tok_merges_create(t, llm_json_size(merges), err);
	const char *affix;
	size_t n;

	t->model = TOK_BPE;
	t->byte_fallback = flag(model, "byte_fallback");
	t->ignore_merges = flag(model, "ignore_merges");
	t->fuse_unk = flag(model, "fuse_unk");
	if (text_of(model, "continuing_subword_prefix", &affix, &n))
		return tok_refuse("prefix of BPE", llm_json_member(model, "continuing_subword_prefix"),
		                  err);
	if (text_of(model, "end_of_word_suffix", &affix, &n))
		return tok_refuse("suffix of BPE", llm_json_member(model, "end_of_word_suffix"), err);
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(merges); i++)
		status = read_merge(t, llm_json_item(merges, i), (uint32_t) i, err);
	return status;
}

/* Reads a Unigram model. */
static llm_status
read_unigram(llm_tokenizer *t, const llm_json *model, llm_error *err)
{
	uint64_t unk;

	t->model = TOK_UNIGRAM;
	t->byte_fallback = flag(model, "byte_fallback");
	if (llm_json_u64(llm_json_member(model, "unk_id"), &unk) && unk < t->n_vocab &&
	    t->entries[unk].text != NULL)
	{
		t->unk = (int32_t) unk;
		t->entries[unk].flags |= TOK_SPECIAL;
	}
	return read_scores(t, llm_json_member(model, "vocab"), err);
}

/* Reads a WordPiece model. */
static llm_status
read_wordpiece(llm_tokenizer *t, const llm_json *model)
{
	uint64_t chars;

	t->model = TOK_WORDPIECE;
	(void) llm_json_string(llm_json_member(model, "continuing_subword_prefix"), &t->prefix,
	                       &t->bytes_prefix);
	if (llm_json_u64(llm_json_member(model, "max_input_chars_per_word"), &chars))
		t->word_chars_max = chars < UINT32_MAX ? (uint32_t) chars : UINT32_MAX;
	return LLM_OK;
}

/* Reads the model. Old files do not name its type: it follows from the members. */
static llm_status
read_model(llm_tokenizer *t, const llm_json *root, llm_error *err)
{
	const llm_json *model = llm_json_member(root, "model");
	const llm_json *type = llm_json_member(model, "type");
	const llm_json *vocab = llm_json_member(model, "vocab");
	bool list = llm_json_get_kind(vocab) == LLM_JSON_ARRAY;
	const char *unk;
	size_t n;
	llm_status status = read_vocab(t, vocab, llm_json_member(root, "added_tokens"), err);

	if (status != LLM_OK)
		return status;
	if (text_of(model, "unk_token", &unk, &n))
		t->unk = tok_find(t, unk, n);
	if (list != (llm_json_is(type, "Unigram") || (type == NULL && list)))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: the vocabulary does not fit the model");
	if (list)
		return read_unigram(t, model, err);
	if (llm_json_is(type, "BPE") || (type == NULL && llm_json_member(model, "merges") != NULL))
		return read_bpe(t, model, err);
	if (llm_json_is(type, "WordPiece") || type == NULL)
		return read_wordpiece(t, model);
	return tok_refuse("model", type, err);
}

/* Reads tokenizer.json. */
llm_status
tok_load_json(llm_tokenizer *t, const llm_json *root, llm_error *err)
{
	llm_status status = read_model(t, root, err);

	return status == LLM_OK ? tok_load_steps(t, root, err) : status;
}

/* A token named in tokenizer_config.json: a string, or an object with content; −1. */
static int32_t
named_token(const llm_tokenizer *t, const llm_json *config, const char *key)
{
	const llm_json *node = llm_json_member(config, key);
	const char *text;
	size_t n;

	if (llm_json_get_kind(node) == LLM_JSON_OBJECT)
		node = llm_json_member(node, "content");
	return llm_json_string(node, &text, &n) ? tok_find(t, text, n) : -1;
}

/* An id in a configuration; −1 when it is absent or names no token. */
static int32_t
id_of(const llm_tokenizer *t, const llm_json *node)
{
	uint64_t id;

	return llm_json_u64(node, &id) && id < t->n_vocab && t->entries[id].text != NULL ? (int32_t) id
	                                                                                 : -1;
}

/* Adds the end tokens of a configuration: one id, or a list. */
static void
add_ends(llm_tokenizer *t, const llm_json *config)
{
	const llm_json *node = llm_json_member(config, "eos_token_id");

	tok_end_add(t, id_of(t, node));
	for (uint64_t i = 0; i < llm_json_size(node); i++)
		tok_end_add(t, id_of(t, llm_json_item(node, i)));
}

/* Finds the tokens that begin, end and pad, in the files that may name them. */
static llm_status
read_ends(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_json *tokens;
	const llm_json *generation;
	const llm_json *config;
	llm_status status = llm_weights_json(w, "tokenizer_config.json", &tokens, err);

	if (status == LLM_OK)
		status = llm_weights_json(w, "generation_config.json", &generation, err);
	if (status == LLM_OK)
		status = llm_weights_json(w, "config.json", &config, err);
	if (status != LLM_OK)
		return status;
	t->bos = named_token(t, tokens, "bos_token");
	t->pad = named_token(t, tokens, "pad_token");
	tok_end_add(t, named_token(t, tokens, "eos_token"));
	add_ends(t, generation);
	add_ends(t, config);
	if (t->bos < 0)
		t->bos = id_of(t, llm_json_member(config, "bos_token_id"));
	if (t->pad < 0)
		t->pad = id_of(t, llm_json_member(config, "pad_token_id"));
	return LLM_OK;
}

/* Reads everything. */
llm_status
tok_load_hf(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_json *root;
	llm_status status = llm_weights_json(w, "tokenizer.json", &root, err);

	if (status != LLM_OK)
		return status;
	if (root == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "the model folder has no tokenizer.json");
	status = tok_load_json(t, root, err);
	return status == LLM_OK ? read_ends(t, w, err) : status;
}
