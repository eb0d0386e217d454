/*
 * llm_tok_load_hf.c: the tokenizer in a Hugging Face folder (tokenizer.json).
 *
 * Every stage is read by the name of its type; a type, option or pattern that is not implemented is
 * refused by name, never skipped. The set of end tokens comes from generation_config.json and
 * config.json.
 */
#include "llm_tok_internal.h"

#include <string.h>

#include "llm_check.h"

#define PATTERN_GPT2 \
	"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define PATTERN_LLAMA3 \
	"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| " \
	"?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define PATTERN_QWEN2 \
	"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| " \
	"?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Says by name what is not implemented. */
static llm_status
refuse(const char *what, const llm_json *node, llm_error *err)
{
	const char *text = "?";
	size_t n = 1;

	(void) llm_json_string(node, &text, &n);
	return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: %s \"%.*s\" is not supported", what,
	                (int) (n < 100 ? n : 100), text);
}

/* A flag, or its default. */
static bool
flag(const llm_json *object, const char *key, bool def)
{
	bool value;

	return llm_json_bool(llm_json_member(object, key), &value) ? value : def;
}

/* ---- vocabulary -------------------------------------------------------------------------- */

/* Makes room for n entries. */
static llm_status
make_entries(llm_tokenizer *t, uint64_t n, llm_error *err)
{
	if (n == 0 || n > TOK_VOCAB_MAX)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json has %llu tokens",
		                (unsigned long long) n);
	t->n_vocab = (uint32_t) n;
	if ((t->entries = llm_calloc(t->n_vocab, sizeof(tok_entry))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	return LLM_OK;
}

/* The highest id in vocab and added tokens, plus one. */
static llm_status
count_ids(const llm_json *vocab, const llm_json *added, uint64_t *n, llm_error *err)
{
	const char *text;
	size_t bytes;
	uint64_t id;

	*n = llm_json_get_kind(vocab) == LLM_JSON_ARRAY ? llm_json_size(vocab) : 0;
	for (uint64_t i = 0; llm_json_get_kind(vocab) == LLM_JSON_OBJECT && i < llm_json_size(vocab);
	     i++)
	{
		if (!llm_json_u64(llm_json_member_at(vocab, i, &text, &bytes), &id) || id >= TOK_VOCAB_MAX)
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: token %llu has no usable id",
			                (unsigned long long) i);
		*n = id + 1 > *n ? id + 1 : *n;
	}
	for (uint64_t i = 0; i < llm_json_size(added); i++)
	{
		if (!llm_json_u64(llm_json_member(llm_json_item(added, i), "id"), &id) ||
		    id >= TOK_VOCAB_MAX)
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: an added token has no usable id");
		*n = id + 1 > *n ? id + 1 : *n;
	}
	return LLM_OK;
}

/* Puts an added token over its entry. */
static llm_status
add_token(llm_tokenizer *t, const llm_json *token, llm_error *err)
{
	const char *text;
	size_t n;
	uint64_t id;
	tok_entry *e;

	if (!llm_json_u64(llm_json_member(token, "id"), &id) ||
	    !llm_json_string(llm_json_member(token, "content"), &text, &n))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: malformed added token");
	e = &t->entries[id];
	e->text = text;
	e->bytes = (uint32_t) n;
	e->flags = (uint8_t) (TOK_ADDED | (flag(token, "special", false) ? TOK_SPECIAL : 0) |
	                      (flag(token, "lstrip", false) ? TOK_LSTRIP : 0) |
	                      (flag(token, "rstrip", false) ? TOK_RSTRIP : 0) |
	                      (flag(token, "single_word", false) ? TOK_WORD : 0));
	return LLM_OK;
}

/* Reads the vocabulary: an object text → id, or Unigram's list of [text, score]. */
static llm_status
read_vocab(llm_tokenizer *t, const llm_json *vocab, const llm_json *added, llm_error *err)
{
	uint64_t n;
	llm_status status = count_ids(vocab, added, &n, err);

	if (status == LLM_OK)
		status = make_entries(t, n, err);
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(vocab); i++)
	{
		const char *text;
		size_t bytes;
		uint64_t id = i;
		double score = 0;
		bool good;

		if (llm_json_get_kind(vocab) == LLM_JSON_OBJECT)
			good = llm_json_u64(llm_json_member_at(vocab, i, &text, &bytes), &id);
		else
			good = llm_json_string(llm_json_item(llm_json_item(vocab, i), 0), &text, &bytes) &&
			       llm_json_double(llm_json_item(llm_json_item(vocab, i), 1), &score);
		if (!good || bytes > (1u << 20))
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: token %llu is malformed",
			                (unsigned long long) i);
		t->entries[id].text = text;
		t->entries[id].bytes = (uint32_t) bytes;
		t->entries[id].score = (float) score;
	}
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(added); i++)
		status = add_token(t, llm_json_item(added, i), err);
	return status == LLM_OK ? tok_vocab_index(t, err) : status;
}

/* Reads one merge: "a b" or ["a", "b"]. */
static llm_status
read_merge(llm_tokenizer *t, const llm_json *merge, uint32_t rank, llm_error *err)
{
	char joined[1024];
	const char *left;
	const char *right;
	size_t n_left;
	size_t n_right;
	int32_t ids[3];

	if (llm_json_string(merge, &left, &n_left))
	{
		const char *space = n_left > 1 ? memchr(left + 1, ' ', n_left - 1) : NULL;

		if (space == NULL)
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: merge %u is malformed", rank);
		right = space + 1;
		n_right = n_left - (size_t) (right - left);
		n_left = (size_t) (space - left);
	}
	else if (!llm_json_string(llm_json_item(merge, 0), &left, &n_left) ||
	         !llm_json_string(llm_json_item(merge, 1), &right, &n_right))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: merge %u is malformed", rank);
	if (n_left + n_right > sizeof(joined))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: merge %u is too long", rank);
	memcpy(joined, left, n_left);
	memcpy(joined + n_left, right, n_right);
	ids[0] = tok_find(t, left, n_left);
	ids[1] = tok_find(t, right, n_right);
	ids[2] = tok_find(t, joined, n_left + n_right);
	if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0)
		return llm_fail(err, LLM_E_FORMAT,
		                "tokenizer.json: merge %u names a token that does not exist", rank);
	tok_pairs_add(t, ids[0], ids[1], rank, ids[2]);
	return LLM_OK;
}

/* Reads a BPE model. */
static llm_status
read_bpe(llm_tokenizer *t, const llm_json *model, llm_error *err)
{
	const llm_json *merges = llm_json_member(model, "merges");
	const char *unk;
	size_t n;
	llm_status status = tok_pairs_create(t, llm_json_size(merges), err);

	t->model = TOK_BPE;
	t->byte_fallback = flag(model, "byte_fallback", false);
	t->ignore_merges = flag(model, "ignore_merges", false);
	t->fuse_unk = flag(model, "fuse_unk", false);
	if (llm_json_string(llm_json_member(model, "unk_token"), &unk, &n))
		t->unk = tok_find(t, unk, n);
	if ((llm_json_string(llm_json_member(model, "continuing_subword_prefix"), &unk, &n) && n > 0) ||
	    (llm_json_string(llm_json_member(model, "end_of_word_suffix"), &unk, &n) && n > 0))
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "tokenizer.json: BPE affix \"%.*s\" is not supported", (int) n, unk);
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(merges); i++)
		status = read_merge(t, llm_json_item(merges, i), (uint32_t) i, err);
	return status;
}

/* Reads a Unigram model. */
static llm_status
read_unigram(llm_tokenizer *t, const llm_json *model, llm_error *err)
{
	uint64_t unk;
	uint64_t n_bytes = 0;
	float min = 0;
	llm_status status;

	t->model = TOK_UNIGRAM;
	t->byte_fallback = flag(model, "byte_fallback", false);
	if (llm_json_u64(llm_json_member(model, "unk_id"), &unk) && unk < t->n_vocab)
		t->unk = (int32_t) unk;
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		n_bytes += t->entries[i].bytes;
		min = t->entries[i].score < min ? t->entries[i].score : min;
	}
	t->unk_score = min - 10;
	if ((status = tok_trie_create(&t->pieces, n_bytes, err)) != LLM_OK)
		return status;
	for (uint32_t i = 0; status == LLM_OK && i < llm_json_size(llm_json_member(model, "vocab"));
	     i++)
		if (t->entries[i].bytes > 0 && (int32_t) i != t->unk)
			status =
			    tok_trie_add(&t->pieces, t->entries[i].text, t->entries[i].bytes, (int32_t) i, err);
	return status;
}

/* Reads a WordPiece model. */
static llm_status
read_wordpiece(llm_tokenizer *t, const llm_json *model, llm_error *err)
{
	const char *unk;
	size_t n;
	uint64_t chars;

	t->model = TOK_WORDPIECE;
	(void) llm_json_string(llm_json_member(model, "continuing_subword_prefix"), &t->prefix,
	                       &t->bytes_prefix);
	if (t->bytes_prefix > 64)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: WordPiece prefix is too long");
	if (llm_json_string(llm_json_member(model, "unk_token"), &unk, &n))
		t->unk = tok_find(t, unk, n);
	if (llm_json_u64(llm_json_member(model, "max_input_chars_per_word"), &chars) && chars <= 100000)
		t->word_chars_max = (uint32_t) chars;
	return LLM_OK;
}

/* Reads the model. Old files do not name its type: it follows from the members. */
static llm_status
read_model(llm_tokenizer *t, const llm_json *root, llm_error *err)
{
	const llm_json *model = llm_json_member(root, "model");
	const llm_json *type = llm_json_member(model, "type");
	llm_status status =
	    read_vocab(t, llm_json_member(model, "vocab"), llm_json_member(root, "added_tokens"), err);

	if (status != LLM_OK)
		return status;
	if (llm_json_is(type, "BPE") || (type == NULL && llm_json_member(model, "merges") != NULL))
		return read_bpe(t, model, err);
	if (llm_json_is(type, "Unigram") || (type == NULL && llm_json_member(model, "unk_id") != NULL))
		return read_unigram(t, model, err);
	if (llm_json_is(type, "WordPiece") || type == NULL)
		return read_wordpiece(t, model, err);
	return refuse("model", type, err);
}

/* ---- normalisers ------------------------------------------------------------------------- */

/* Decodes base64 into the arena. */
static llm_status
decode_base64(llm_tokenizer *t, const char *text, size_t n, const char **out, size_t *n_out,
              llm_error *err)
{
	char *bytes = llm_arena_alloc(t->arena, n + 4, 1);
	uint32_t bits = 0;
	int n_bits = 0;
	size_t at = 0;

	if (bytes == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the tokenizer");
	for (size_t i = 0; i < n && text[i] != '='; i++)
	{
		static const char alphabet[] =
		    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
		const char *digit = text[i] != '\0' ? strchr(alphabet, text[i]) : NULL;

		if (digit == NULL)
			return llm_fail(err, LLM_E_FORMAT,
			                "tokenizer.json: precompiled_charsmap is not base64");
		bits = bits << 6 | (uint32_t) (digit - alphabet);
		if ((n_bits += 6) >= 8)
			bytes[at++] = (char) (bits >> (n_bits -= 8));
	}
	*out = bytes;
	*n_out = at;
	return LLM_OK;
}

/* Reads a Precompiled normaliser. */
static llm_status
read_charsmap(llm_tokenizer *t, const llm_json *node, tok_norm *norm, llm_error *err)
{
	const char *text;
	size_t n;
	uint32_t n_trie;
	llm_status status;

	if (!llm_json_string(llm_json_member(node, "precompiled_charsmap"), &text, &n) || n == 0)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: no precompiled_charsmap");
	if ((status = decode_base64(t, text, n, &norm->from, &norm->bytes_from, err)) != LLM_OK)
		return status;
	if (norm->bytes_from < 5)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: precompiled_charsmap is cut off");
	memcpy(&n_trie, norm->from, 4);
	if (n_trie > norm->bytes_from - 4)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: precompiled_charsmap is cut off");
	norm->kind = TOK_NORM_CHARSMAP;
	return LLM_OK;
}

/*
 * Reads a Replace normaliser: a string, or one of the two patterns that SentencePiece conversions
 * use.
 */
static llm_status
read_replace(const llm_json *node, tok_norm *norm, llm_error *err)
{
	const llm_json *pattern = llm_json_member(node, "pattern");
	const char *regex;
	size_t n;

	if (!llm_json_string(llm_json_member(node, "content"), &norm->to, &norm->bytes_to))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: Replace without content");
	norm->kind = TOK_NORM_REPLACE;
	if (llm_json_string(llm_json_member(pattern, "String"), &norm->from, &norm->bytes_from) &&
	    norm->bytes_from > 0)
		return LLM_OK;
	if (llm_json_string(llm_json_member(pattern, "Regex"), &regex, &n) && n == 5 &&
	    memcmp(regex, " {2,}", 5) == 0)
	{
		norm->kind = TOK_NORM_SQUEEZE;
		return LLM_OK;
	}
	return refuse("Replace pattern", llm_json_member(pattern, "Regex"), err);
}

/* Reads one normaliser. */
static llm_status
read_norm(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	static const char *const forms[] = {"", "NFC", "NFD", "NFKC", "NFKD"};
	const llm_json *type = llm_json_member(node, "type");
	tok_norm *norm = &t->norms[t->n_norms];
	llm_status status = LLM_OK;

	if (t->n_norms == TOK_STEPS_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: more than %d normalizers",
		                TOK_STEPS_MAX);
	*norm = (tok_norm){0};
	t->n_norms++;
	for (int form = LLM_UNI_NFC; form <= LLM_UNI_NFKD; form++)
		if (llm_json_is(type, forms[form]))
		{
			norm->kind = TOK_NORM_FORM;
			norm->arg = form;
			return LLM_OK;
		}
	if (llm_json_is(type, "Lowercase"))
		norm->kind = TOK_NORM_LOWER;
	else if (llm_json_is(type, "StripAccents"))
		norm->kind = TOK_NORM_STRIP_ACCENTS;
	else if (llm_json_is(type, "BertNormalizer"))
	{
		norm->kind = TOK_NORM_BERT;
		norm->clean = flag(node, "clean_text", true);
		norm->cjk = flag(node, "handle_chinese_chars", true);
		norm->lower = flag(node, "lowercase", true);
		norm->strip_accents = flag(node, "strip_accents", norm->lower);
	}
	else if (llm_json_is(type, "Prepend"))
	{
		norm->kind = TOK_NORM_PREPEND;
		if (!llm_json_string(llm_json_member(node, "prepend"), &norm->to, &norm->bytes_to))
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: Prepend without text");
		t->strip_leading_space = true;
	}
	else if (llm_json_is(type, "Strip"))
	{
		norm->kind = TOK_NORM_STRIP;
		norm->arg =
		    (flag(node, "strip_left", true) ? 1 : 0) | (flag(node, "strip_right", true) ? 2 : 0);
	}
	else if (llm_json_is(type, "Replace"))
		status = read_replace(node, norm, err);
	else if (llm_json_is(type, "Precompiled"))
		status = read_charsmap(t, node, norm, err);
	else
		return refuse("normalizer", type, err);
	return status;
}

/* ---- pre-tokenizers ---------------------------------------------------------------------- */

/* Adds a splitter. */
static llm_status
add_split(llm_tokenizer *t, tok_split_kind kind, int arg, llm_error *err)
{
	if (t->n_splits == TOK_STEPS_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: more than %d pre-tokenizers",
		                TOK_STEPS_MAX);
	t->splits[t->n_splits++] = (tok_split){kind, arg};
	return LLM_OK;
}

/* Metaspace: ▁ for spaces, one in front by its scheme, and a split before each. */
static llm_status
read_metaspace(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *scheme = llm_json_member(node, "prepend_scheme");
	bool prepend =
	    scheme != NULL ? !llm_json_is(scheme, "never") : flag(node, "add_prefix_space", true);
	const llm_json *replacement = llm_json_member(node, "replacement");

	if (replacement != NULL && !llm_json_is(replacement, "\xe2\x96\x81"))
		return refuse("Metaspace replacement", replacement, err);
	if (t->n_norms + 2 > TOK_STEPS_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: more than %d normalizers",
		                TOK_STEPS_MAX);
	t->norms[t->n_norms++] = (tok_norm){.kind = TOK_NORM_REPLACE,
	                                    .from = " ",
	                                    .bytes_from = 1,
	                                    .to = "\xe2\x96\x81",
	                                    .bytes_to = 3};
	if (prepend)
	{
		t->norms[t->n_norms++] =
		    (tok_norm){.kind = TOK_NORM_PREPEND, .arg = 1, .to = "\xe2\x96\x81", .bytes_to = 3};
		t->strip_leading_space = true;
	}
	return flag(node, "split", true) ? add_split(t, TOK_SPLIT_METASPACE, 0, err) : LLM_OK;
}

/* Split by a known pattern. */
static llm_status
read_split(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *pattern = llm_json_member(llm_json_member(node, "pattern"), "Regex");

	if (!llm_json_is(llm_json_member(node, "behavior"), "Isolated") || flag(node, "invert", false))
		return refuse("Split behavior", llm_json_member(node, "behavior"), err);
	if (llm_json_is(pattern, PATTERN_GPT2))
		return add_split(t, TOK_SPLIT_GPT2, 0, err);
	if (llm_json_is(pattern, PATTERN_LLAMA3))
		return add_split(t, TOK_SPLIT_LLAMA3, 3, err);
	if (llm_json_is(pattern, PATTERN_QWEN2))
		return add_split(t, TOK_SPLIT_LLAMA3, 1, err);
	return refuse("Split pattern", pattern, err);
}

/* Reads one pre-tokenizer. */
static llm_status
read_pre(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *type = llm_json_member(node, "type");

	if (llm_json_is(type, "ByteLevel"))
	{
		t->byte_level = true;
		t->add_prefix_space = flag(node, "add_prefix_space", true);
		return flag(node, "use_regex", true) ? add_split(t, TOK_SPLIT_GPT2, 0, err) : LLM_OK;
	}
	if (llm_json_is(type, "Split"))
		return read_split(t, node, err);
	if (llm_json_is(type, "Metaspace"))
		return read_metaspace(t, node, err);
	if (llm_json_is(type, "BertPreTokenizer"))
		return add_split(t, TOK_SPLIT_BERT, 0, err);
	if (llm_json_is(type, "WhitespaceSplit"))
		return add_split(t, TOK_SPLIT_WHITESPACE, 0, err);
	if (llm_json_is(type, "Digits") && flag(node, "individual_digits", false))
		return add_split(t, TOK_SPLIT_DIGITS, 0, err);
	if (llm_json_is(type, "Punctuation") &&
	    llm_json_is(llm_json_member(node, "behavior"), "Isolated"))
		return add_split(t, TOK_SPLIT_PUNCTUATION, 0, err);
	return refuse("pre_tokenizer", type, err);
}

/* Runs fn over a node, or over the members of a Sequence. Sequences do not nest here. */
static llm_status
each(llm_tokenizer *t, const llm_json *node, const char *list,
     llm_status (*fn)(llm_tokenizer *, const llm_json *, llm_error *), llm_error *err)
{
	llm_status status = LLM_OK;
	const llm_json *items = llm_json_member(node, list);

	if (llm_json_get_kind(node) == LLM_JSON_NULL)
		return LLM_OK;
	if (!llm_json_is(llm_json_member(node, "type"), "Sequence"))
		return fn(t, node, err);
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(items); i++)
		status = fn(t, llm_json_item(items, i), err);
	return status;
}

/* ---- post-processing --------------------------------------------------------------------- */

/* Reads a template: special tokens by their first id, and the sequences A and B. */
static llm_status
read_template(const llm_json *list, const llm_json *specials, uint32_t n_vocab, tok_template *out,
              llm_error *err)
{
	if (llm_json_size(list) > TOK_TEMPLATE_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: template of more than %d items",
		                TOK_TEMPLATE_MAX);
	for (uint64_t i = 0; i < llm_json_size(list); i++)
	{
		const llm_json *special = llm_json_member(llm_json_item(list, i), "SpecialToken");
		const llm_json *sequence = llm_json_member(llm_json_item(list, i), "Sequence");
		tok_item item = {.id = -1};
		const char *name;
		size_t n;
		uint64_t value;

		if (llm_json_u64(llm_json_member(special != NULL ? special : sequence, "type_id"), &value))
			item.type_id = (uint32_t) (value > 0);
		item.second = llm_json_is(llm_json_member(sequence, "id"), "B");
		if (special != NULL)
		{
			if (!llm_json_string(llm_json_member(special, "id"), &name, &n) ||
			    !llm_json_u64(llm_json_item(llm_json_member(llm_json_member(specials, name), "ids"),
			                                0),
			                  &value) ||
			    value >= n_vocab)
				return llm_fail(err, LLM_E_FORMAT,
				                "tokenizer.json: template names an unknown special token");
			item.id = (int32_t) value;
		}
		out->items[out->n++] = item;
	}
	return LLM_OK;
}

/* BertProcessing and RobertaProcessing: cls a sep, cls a sep (sep) b sep. */
static llm_status
read_pair_processing(llm_tokenizer *t, const llm_json *node, bool roberta, llm_error *err)
{
	uint64_t cls;
	uint64_t sep;
	uint32_t type = roberta ? 0 : 1;

	if (!llm_json_u64(llm_json_item(llm_json_member(node, "cls"), 1), &cls) || cls >= t->n_vocab ||
	    !llm_json_u64(llm_json_item(llm_json_member(node, "sep"), 1), &sep) || sep >= t->n_vocab)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: malformed post_processor");
	t->single.items[t->single.n++] = (tok_item){.id = (int32_t) cls};
	t->single.items[t->single.n++] = (tok_item){.id = -1};
	t->single.items[t->single.n++] = (tok_item){.id = (int32_t) sep};
	t->pair = t->single;
	if (roberta)
		t->pair.items[t->pair.n++] = (tok_item){.id = (int32_t) sep};
	t->pair.items[t->pair.n++] = (tok_item){.id = -1, .second = true, .type_id = type};
	t->pair.items[t->pair.n++] = (tok_item){.id = (int32_t) sep, .type_id = type};
	return LLM_OK;
}

/* Reads one post-processor. */
static llm_status
read_post(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *type = llm_json_member(node, "type");
	const llm_json *specials = llm_json_member(node, "special_tokens");
	llm_status status;

	if (llm_json_is(type, "ByteLevel"))
		return LLM_OK; /* changes offsets only */
	if (llm_json_is(type, "BertProcessing") || llm_json_is(type, "RobertaProcessing"))
		return read_pair_processing(t, node, llm_json_is(type, "RobertaProcessing"), err);
	if (!llm_json_is(type, "TemplateProcessing"))
		return refuse("post_processor", type, err);
	t->single.n = t->pair.n = 0;
	status = read_template(llm_json_member(node, "single"), specials, t->n_vocab, &t->single, err);
	if (status == LLM_OK)
		status = read_template(llm_json_member(node, "pair"), specials, t->n_vocab, &t->pair, err);
	return status;
}

/* ---- begin and end tokens ---------------------------------------------------------------- */

/* Adds an end token, or each of a list. */
static void
add_ends(llm_tokenizer *t, const llm_json *node)
{
	uint64_t id;
	uint64_t n = llm_json_get_kind(node) == LLM_JSON_ARRAY ? llm_json_size(node) : 1;

	for (uint64_t i = 0; i < n && t->n_ends < TOK_ENDS_MAX; i++)
		if (llm_json_u64(llm_json_get_kind(node) == LLM_JSON_ARRAY ? llm_json_item(node, i) : node,
		                 &id) &&
		    id < t->n_vocab)
		{
			if (t->eos < 0)
				t->eos = (int32_t) id;
			t->ends[t->n_ends++] = (int32_t) id;
		}
}

/* A special token of tokenizer_config.json: a string, or an object with content. */
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

/* Finds the tokens that begin, end and pad, in the files that may name them. */
static llm_status
read_ends(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_json *generation;
	const llm_json *tokens;
	const llm_json *config;
	uint64_t id;

	if (llm_weights_json(w, "generation_config.json", &generation, err) != LLM_OK ||
	    llm_weights_json(w, "tokenizer_config.json", &tokens, err) != LLM_OK ||
	    llm_weights_json(w, "config.json", &config, err) != LLM_OK)
		return err->code;
	t->eos = named_token(t, tokens, "eos_token");
	t->bos = named_token(t, tokens, "bos_token");
	t->pad = named_token(t, tokens, "pad_token");
	add_ends(t, llm_json_member(generation, "eos_token_id"));
	add_ends(t, llm_json_member(config, "eos_token_id"));
	if (t->bos < 0 && llm_json_u64(llm_json_member(config, "bos_token_id"), &id) && id < t->n_vocab)
		t->bos = (int32_t) id;
	if (t->pad < 0 && llm_json_u64(llm_json_member(config, "pad_token_id"), &id) && id < t->n_vocab)
		t->pad = (int32_t) id;
	return LLM_OK;
}

/* Reads everything. */
llm_status
tok_load_hf(llm_tokenizer *t, llm_weights *w, llm_error *err)
{
	const llm_json *root;
	llm_error own;
	llm_status status;

	if (err == NULL)
		err = &own;
	if ((status = llm_weights_json(w, "tokenizer.json", &root, err)) != LLM_OK)
		return status;
	if (root == NULL)
		return llm_fail(err, LLM_E_NOT_FOUND, "the model folder has no tokenizer.json");
	status = read_model(t, root, err);
	if (status == LLM_OK)
		status = each(t, llm_json_member(root, "normalizer"), "normalizers", read_norm, err);
	if (status == LLM_OK)
		status = each(t, llm_json_member(root, "pre_tokenizer"), "pretokenizers", read_pre, err);
	if (status == LLM_OK)
		status = each(t, llm_json_member(root, "post_processor"), "processors", read_post, err);
	return status == LLM_OK ? read_ends(t, w, err) : status;
}
