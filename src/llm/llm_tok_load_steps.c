/*
 * llm_tok_load_steps.c: what stands around the model in tokenizer.json: normalizer, pre_tokenizer,
 * post_processor, decoder.
 *
 * Every step is read by the name of its type; a type, option or pattern that is not implemented is
 * refused by name, never skipped, since skipping it would give wrong ids silently.
 */
#include "llm_tok_internal.h"

#define CONTRACTIONS   "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define SPACES         "\\s+(?!\\S)|\\s+"
#define LETTERS_LLAMA3 "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SYMBOLS_LLAMA3 " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|" SPACES
#define LEAD_TEKKEN    "[^\\r\\n\\p{L}\\p{N}]?"
#define UPPER_TEKKEN   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER_TEKKEN   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define WORDS_TEKKEN(tail) \
	LEAD_TEKKEN UPPER_TEKKEN "*" LOWER_TEKKEN "+" tail "|" LEAD_TEKKEN UPPER_TEKKEN \
	                         "+" LOWER_TEKKEN "*" tail "|"
#define SYMBOLS_TEKKEN " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|" SPACES

/* The patterns of Split that llm_tok_scan.c has a scanner for. */
static const struct
{
	const char *regex;
	tok_split split;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" SPACES,
     {.kind = TOK_SPLIT_GPT2}},
    {CONTRACTIONS "|" LETTERS_LLAMA3 "|\\p{N}{1,3}|" SYMBOLS_LLAMA3,
     {.kind = TOK_SPLIT_LLAMA3, .digits = 3}},
    {CONTRACTIONS "|" LETTERS_LLAMA3 "|\\p{N}|" SYMBOLS_LLAMA3,
     {.kind = TOK_SPLIT_LLAMA3, .digits = 1}},
    {WORDS_TEKKEN("") "\\p{N}|" SYMBOLS_TEKKEN, {.kind = TOK_SPLIT_TEKKEN, .digits = 1}},
    {WORDS_TEKKEN(CONTRACTIONS "?") "\\p{N}{1,3}|" SYMBOLS_TEKKEN,
     {.kind = TOK_SPLIT_TEKKEN, .digits = 3, .contractions = true}},
};

/* Says by name what is not implemented. */
llm_status
tok_refuse(const char *what, const llm_json *name, llm_error *err)
{
	const char *text = "?";
	size_t n = 1;

	(void) llm_json_string(name, &text, &n);
	return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: %s \"%.*s\" is not supported", what,
	                (int) (n < 120 ? n : 120), text);
}

/* A flag, or its default. */
static bool
flag(const llm_json *object, const char *key, bool def)
{
	bool value;

	return llm_json_bool(llm_json_member(object, key), &value) ? value : def;
}

/* Adds a splitter. */
static llm_status
add_split(llm_tokenizer *t, tok_split split, llm_error *err)
{
	if (t->n_splits == TOK_STEPS_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: more than %d pre-tokenizers",
		                TOK_STEPS_MAX);
	t->splits[t->n_splits++] = split;
	return LLM_OK;
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
	llm_status status;

	norm->kind = TOK_NORM_CHARSMAP;
	if (!llm_json_string(llm_json_member(node, "precompiled_charsmap"), &text, &n))
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: no precompiled_charsmap");
	status = decode_base64(t, text, n, &norm->from, &norm->bytes_from, err);
	return status == LLM_OK ? tok_charsmap_check(norm->from, norm->bytes_from, err) : status;
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
	return tok_refuse("Replace pattern", llm_json_member(pattern, "Regex"), err);
}

/* Reads BertNormalizer. strip_accents is null in files that leave it to lowercase. */
static void
read_bert(const llm_json *node, tok_norm *norm)
{
	norm->kind = TOK_NORM_BERT;
	norm->clean = flag(node, "clean_text", true);
	norm->cjk = flag(node, "handle_chinese_chars", true);
	norm->lower = flag(node, "lowercase", true);
	norm->strip_accents = flag(node, "strip_accents", norm->lower);
}

/* Finds a Unicode normalisation form by its name; 0 for other names. */
static llm_unicode_form
form_named(const llm_json *type)
{
	static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD"};

	for (int i = 0; i < 4; i++)
		if (llm_json_is(type, names[i]))
			return (llm_unicode_form) (LLM_NFC + i);
	return 0;
}

/* Reads one normaliser. */
static llm_status
read_norm(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *type = llm_json_member(node, "type");
	tok_norm norm = {.form = form_named(type)};
	llm_status status = LLM_OK;

	if (t->n_norms == TOK_STEPS_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: more than %d normalizers",
		                TOK_STEPS_MAX);
	if (norm.form != 0)
		norm.kind = TOK_NORM_FORM;
	else if (llm_json_is(type, "Lowercase"))
		norm.kind = TOK_NORM_LOWER;
	else if (llm_json_is(type, "StripAccents"))
		norm.kind = TOK_NORM_STRIP_ACCENTS;
	else if (llm_json_is(type, "BertNormalizer"))
		read_bert(node, &norm);
	else if (llm_json_is(type, "Prepend"))
	{
		norm.kind = TOK_NORM_PREPEND;
		if (!llm_json_string(llm_json_member(node, "prepend"), &norm.to, &norm.bytes_to))
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: Prepend without text");
	}
	else if (llm_json_is(type, "Strip"))
	{
		norm.kind = TOK_NORM_STRIP;
		norm.left = flag(node, "strip_left", true);
		norm.right = flag(node, "strip_right", true);
	}
	else if (llm_json_is(type, "Replace"))
		status = read_replace(node, &norm, err);
	else if (llm_json_is(type, "Precompiled"))
		status = read_charsmap(t, node, &norm, err);
	else
		return tok_refuse("normalizer", type, err);
	t->norms[t->n_norms++] = norm;
	return status;
}

/* ---- pre-tokenizers ---------------------------------------------------------------------- */

/* Where Metaspace puts a ▁ in front; old files have a flag in place of the scheme. */
static llm_status
read_scheme(const llm_json *node, tok_prefix *prefix, llm_error *err)
{
	const llm_json *scheme = llm_json_member(node, "prepend_scheme");

	*prefix = flag(node, "add_prefix_space", true) ? TOK_PREFIX_ALWAYS : TOK_PREFIX_NEVER;
	if (scheme == NULL || llm_json_is(scheme, "always"))
		return LLM_OK;
	*prefix = llm_json_is(scheme, "first") ? TOK_PREFIX_FIRST : TOK_PREFIX_NEVER;
	if (*prefix == TOK_PREFIX_NEVER && !llm_json_is(scheme, "never"))
		return tok_refuse("Metaspace prepend_scheme", scheme, err);
	return LLM_OK;
}

/* Metaspace: ▁ for spaces, one in front by its scheme, and a cut before each. */
static llm_status
read_metaspace(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *replacement = llm_json_member(node, "replacement");
	tok_split split = {.metaspace = true};
	llm_status status = read_scheme(node, &split.prefix, err);

	if (status != LLM_OK)
		return status;
	if (replacement != NULL && !llm_json_is(replacement, TOK_METASPACE))
		return tok_refuse("Metaspace replacement", replacement, err);
	split.kind = flag(node, "split", true) ? TOK_SPLIT_METASPACE : TOK_SPLIT_NONE;
	return add_split(t, split, err);
}

/* Split by a known pattern; Gemma's plain space too. */
static llm_status
read_split(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *pattern = llm_json_member(node, "pattern");
	const llm_json *regex = llm_json_member(pattern, "Regex");
	const llm_json *behavior = llm_json_member(node, "behavior");
	bool invert = flag(node, "invert", false);

	if (llm_json_is(llm_json_member(pattern, "String"), " ") && !invert &&
	    llm_json_is(behavior, "MergedWithPrevious"))
		return add_split(t, (tok_split){.kind = TOK_SPLIT_BEHIND_SPACE}, err);
	/* The patterns leave no character out, so to remove what lies between matches is the same. */
	if (!llm_json_is(behavior, invert ? "Removed" : "Isolated"))
		return tok_refuse("Split behavior", behavior, err);
	for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++)
		if (llm_json_is(regex, patterns[i].regex))
			return add_split(t, patterns[i].split, err);
	return tok_refuse("Split pattern", regex != NULL ? regex : llm_json_member(pattern, "String"),
	                  err);
}

/* Reads one pre-tokenizer. */
static llm_status
read_pre(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	const llm_json *type = llm_json_member(node, "type");
	const llm_json *behavior = llm_json_member(node, "behavior");
	tok_split split = {.kind = TOK_SPLIT_NONE};

	if (t->byte_level)
		return llm_fail(err, LLM_E_UNSUPPORTED,
		                "tokenizer.json: a pre-tokenizer behind ByteLevel is not supported");
	if (llm_json_is(type, "Split"))
		return read_split(t, node, err);
	if (llm_json_is(type, "Metaspace"))
		return read_metaspace(t, node, err);
	if (llm_json_is(type, "ByteLevel"))
	{
		t->byte_level = true;
		split.kind = flag(node, "use_regex", true) ? TOK_SPLIT_GPT2 : TOK_SPLIT_NONE;
		split.prefix = flag(node, "add_prefix_space", true) ? TOK_PREFIX_ALWAYS : TOK_PREFIX_NEVER;
	}
	else if (llm_json_is(type, "BertPreTokenizer"))
		split.kind = TOK_SPLIT_BERT;
	else if (llm_json_is(type, "Whitespace"))
		split.kind = TOK_SPLIT_WORDS;
	else if (llm_json_is(type, "WhitespaceSplit"))
		split.kind = TOK_SPLIT_WHITESPACE;
	else if (llm_json_is(type, "Digits"))
	{
		split.kind = TOK_SPLIT_DIGITS;
		split.digits = flag(node, "individual_digits", false) ? 1 : UINT32_MAX;
	}
	else if (llm_json_is(type, "Punctuation") &&
	         (behavior == NULL || llm_json_is(behavior, "Isolated")))
		split.kind = TOK_SPLIT_PUNCTUATION;
	else
		return tok_refuse("pre_tokenizer", type, err);
	return add_split(t, split, err);
}

/* Runs fn over a node, or over the members of a Sequence. Sequences in a Sequence are refused. */
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

/* Adds an item to a template. */
static llm_status
add_item(tok_template *form, tok_item item, llm_error *err)
{
	if (form->n == TOK_TEMPLATE_MAX)
		return llm_fail(err, LLM_E_UNSUPPORTED, "tokenizer.json: a template of more than %d items",
		                TOK_TEMPLATE_MAX);
	form->items[form->n++] = item;
	return LLM_OK;
}

/* Adds a special token of a template, which may stand for several ids. */
static llm_status
add_special(const llm_tokenizer *t, const llm_json *name, uint32_t type_id,
            const llm_json *specials, tok_template *form, llm_error *err)
{
	const llm_json *ids = NULL;
	llm_status status = LLM_OK;
	const char *text;
	size_t n;
	uint64_t id;

	if (llm_json_string(name, &text, &n))
		ids = llm_json_member(llm_json_member(specials, text), "ids");
	if (llm_json_size(ids) == 0)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: a template names no known token");
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(ids); i++)
	{
		if (!llm_json_u64(llm_json_item(ids, i), &id) || id >= t->n_vocab)
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: a template's id is out of range");
		status = add_item(form, (tok_item){.id = (int32_t) id, .type_id = type_id}, err);
	}
	return status;
}

/* Reads a template: special tokens, and the sequences A and B. */
static llm_status
read_template(const llm_tokenizer *t, const llm_json *list, const llm_json *specials,
              tok_template *form, llm_error *err)
{
	llm_status status = LLM_OK;

	form->n = 0;
	for (uint64_t i = 0; status == LLM_OK && i < llm_json_size(list); i++)
	{
		const llm_json *special = llm_json_member(llm_json_item(list, i), "SpecialToken");
		const llm_json *sequence = llm_json_member(llm_json_item(list, i), "Sequence");
		const llm_json *item = special != NULL ? special : sequence;
		uint64_t type_id;

		if (!llm_json_u64(llm_json_member(item, "type_id"), &type_id) || type_id > 1)
			return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: malformed template");
		if (special != NULL)
			status = add_special(t, llm_json_member(item, "id"), (uint32_t) type_id, specials, form,
			                     err);
		else
			status = add_item(form,
			                  (tok_item){.id = -1,
			                             .second = llm_json_is(llm_json_member(item, "id"), "B"),
			                             .type_id = (uint32_t) type_id},
			                  err);
	}
	return status;
}

/* BertProcessing and RobertaProcessing: cls a sep, cls a sep (sep) b sep. */
static llm_status
read_pair_processing(llm_tokenizer *t, const llm_json *node, bool roberta, llm_error *err)
{
	uint32_t type = roberta ? 0 : 1;
	uint64_t cls;
	uint64_t sep;
	tok_template *pair = &t->pair;

	if (!llm_json_u64(llm_json_item(llm_json_member(node, "cls"), 1), &cls) || cls >= t->n_vocab ||
	    !llm_json_u64(llm_json_item(llm_json_member(node, "sep"), 1), &sep) || sep >= t->n_vocab)
		return llm_fail(err, LLM_E_FORMAT, "tokenizer.json: malformed post_processor");
	t->single =
	    (tok_template){.items = {{.id = (int32_t) cls}, {.id = -1}, {.id = (int32_t) sep}}, .n = 3};
	*pair = t->single;
	if (roberta)
		pair->items[pair->n++] = (tok_item){.id = (int32_t) sep};
	pair->items[pair->n++] = (tok_item){.id = -1, .second = true, .type_id = type};
	pair->items[pair->n++] = (tok_item){.id = (int32_t) sep, .type_id = type};
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
		return tok_refuse("post_processor", type, err);
	status = read_template(t, llm_json_member(node, "single"), specials, &t->single, err);
	if (status == LLM_OK)
		status = read_template(t, llm_json_member(node, "pair"), specials, &t->pair, err);
	return status;
}

/* ---- decoders ---------------------------------------------------------------------------- */

/* Reads one decoder: most follow from the model; what is left is what happens to spaces. */
static llm_status
read_decoder(llm_tokenizer *t, const llm_json *node, llm_error *err)
{
	static const char *const implied[] = {"ByteLevel", "ByteFallback", "Fuse", "Replace"};
	const llm_json *type = llm_json_member(node, "type");
	tok_prefix prefix = TOK_PREFIX_NEVER;
	llm_status status = LLM_OK;

	for (size_t i = 0; i < sizeof(implied) / sizeof(implied[0]); i++)
		if (llm_json_is(type, implied[i]))
			return LLM_OK;
	if (llm_json_is(type, "WordPiece"))
		t->cleanup = flag(node, "cleanup", true);
	else if (llm_json_is(type, "Metaspace"))
	{
		status = read_scheme(node, &prefix, err);
		t->strip_leading_space = prefix != TOK_PREFIX_NEVER;
	}
	else if (llm_json_is(type, "Strip") && llm_json_is(llm_json_member(node, "content"), " "))
		t->strip_leading_space = true;
	else
		return tok_refuse("decoder", type, err);
	return status;
}

/* Reads all steps. */
llm_status
tok_load_steps(llm_tokenizer *t, const llm_json *root, llm_error *err)
{
	llm_status status = each(t, llm_json_member(root, "normalizer"), "normalizers", read_norm, err);

	if (status == LLM_OK)
		status = each(t, llm_json_member(root, "pre_tokenizer"), "pretokenizers", read_pre, err);
	if (status == LLM_OK)
		status = each(t, llm_json_member(root, "post_processor"), "processors", read_post, err);
	if (status == LLM_OK)
		status = each(t, llm_json_member(root, "decoder"), "decoders", read_decoder, err);
	return status;
}
