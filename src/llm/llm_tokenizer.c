/*
 * llm_tokenizer.c: the pipeline of a text, pairs, and the way back. See llm_tok_internal.h for the
 * parts.
 *
 * Scratch lives for one call, so a tokenizer can be used by any number of threads.
 */
#include "llm_tok_internal.h"

#include "llm_check.h"

/* Appends an id. */
llm_status
llm_tokens_push(llm_tokens *t, int32_t id, llm_error *err)
{
	if (t->n == t->capacity)
	{
		size_t capacity = t->capacity > 0 ? t->capacity * 2 : 64;
		int32_t *grown = llm_realloc_array(t->ids, capacity, sizeof(int32_t));

		if (grown == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for %zu tokens", capacity);
		t->ids = grown;
		t->capacity = capacity;
	}
	t->ids[t->n++] = id;
	return LLM_OK;
}

/* Frees the ids; the list is empty after. */
void
llm_tokens_free(llm_tokens *t)
{
	llm_free(t->ids);
	*t = (llm_tokens){0};
}

/* Frees a tokenizer. */
void
llm_tokenizer_free(llm_tokenizer *t)
{
	if (t == NULL)
		return;
	llm_free(t->entries);
	llm_free(t->scores);
	llm_free(t->by_text);
	llm_free(t->by_piece);
	llm_free(t->pair_key);
	llm_free(t->pair_value);
	llm_free(t->rank);
	tok_trie_free(&t->added[0]);
	tok_trie_free(&t->added[1]);
	tok_trie_free(&t->pieces);
	llm_arena_destroy(t->arena);
	llm_free(t);
}

/* Makes an empty tokenizer. */
llm_status
tok_create(llm_tokenizer **out, llm_error *err)
{
	llm_tokenizer *t = llm_calloc(1, sizeof(*t));

	if (t == NULL || (t->arena = llm_arena_create()) == NULL)
	{
		llm_free(t);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a tokenizer");
	}
	t->unk = t->bos = t->eos = t->pad = -1;
	t->word_chars_max = 100;
	t->prefix = "##";
	t->bytes_prefix = 2;
	for (int i = 0; i < 256; i++)
		t->byte_id[i] = -1;
	*out = t;
	return LLM_OK;
}

/* Reads the tokenizer of a model. */
llm_status
llm_tokenizer_load(llm_weights *w, llm_tokenizer **out, llm_error *err)
{
	llm_tokenizer *t;
	llm_error own;
	llm_status status;

	*out = NULL;
	err = err != NULL ? err : &own;
	if ((status = tok_create(&t, err)) != LLM_OK)
		return status;
	status = llm_weights_get_format(w) == LLM_FORMAT_GGUF ? tok_load_gguf(t, w, err)
	                                                      : tok_load_hf(t, w, err);
	if (status == LLM_OK)
		status = tok_finish(t, err);
	if (status == LLM_OK)
		*out = t;
	else
		llm_tokenizer_free(t);
	return status;
}

/* One call's state. */
typedef struct run
{
	const llm_tokenizer *t;
	tok_scratch scratch;
	llm_tokens *out;
	bool special;   /* special tokens are recognised */
	bool first;     /* the text begins the whole text */
	bool continues; /* the text goes on from one that was tokenised apart */
	const char *text;
} run;

/* Gives one word to the model. */
static llm_status
encode_word(void *arg, const char *word, size_t n, llm_error *err)
{
	run *r = arg;

	switch (r->t->model)
	{
		case TOK_UNIGRAM:
			return tok_unigram(r->t, word, n, &r->scratch, r->out, err);
		case TOK_WORDPIECE:
			return tok_wordpiece(r->t, word, n, r->out, err);
		default:
			return tok_bpe(r->t, word, n, &r->scratch, r->out, err);
	}
}

/* Encodes a stretch between added tokens: normalises, cuts out those of normalised text, splits. */
static llm_status
encode_stretch(run *r, const char *text, size_t n, llm_error *err)
{
	bool first = text == r->text && r->first;
	bool continues = text == r->text && r->continues;
	size_t begin = 0;
	size_t at = 0;
	tok_cut cut;
	llm_status status;

	if (n == 0)
		return LLM_OK;
	status = tok_normalise(r->t, text, n, continues, &r->scratch, &text, &n, err);
	while (status == LLM_OK && tok_added_next(r->t, true, r->special, text, n, &at, &cut))
	{
		status = tok_split_words(r->t, text + begin, cut.begin - begin, first && begin == 0,
		                         continues && begin == 0, &r->scratch, encode_word, r, err);
		if (status == LLM_OK)
			status = llm_tokens_push(r->out, cut.id, err);
		begin = cut.end;
	}
	if (status != LLM_OK)
		return status;
	return tok_split_words(r->t, text + begin, n - begin, first && begin == 0,
	                       continues && begin == 0, &r->scratch, encode_word, r, err);
}

/* Cuts added tokens out of a text and encodes what lies between them. */
static llm_status
encode_text(const llm_tokenizer *t, const char *text, size_t n, int flags, llm_tokens *out,
            llm_error *err)
{
	run r = {.t = t,
	         .out = out,
	         .special = (flags & LLM_TOK_SPECIAL) != 0,
	         .first = (flags & (LLM_TOK_AFTER_TOKEN | LLM_TOK_AFTER_TEXT)) == 0,
	         .continues = (flags & LLM_TOK_AFTER_TEXT) != 0,
	         .text = text};
	size_t begin = 0;
	size_t at = 0;
	tok_cut cut;
	llm_status status = LLM_OK;

	if (n == 0)
		return LLM_OK;
	if (!llm_utf8_valid(text, n))
		return llm_fail(err, LLM_E_FORMAT, "text is not valid UTF-8");
	while (status == LLM_OK && tok_added_next(t, false, r.special, text, n, &at, &cut))
	{
		status = encode_stretch(&r, text + begin, cut.begin - begin, err);
		if (status == LLM_OK)
			status = llm_tokens_push(out, cut.id, err);
		begin = cut.end;
	}
	if (status == LLM_OK)
		status = encode_stretch(&r, text + begin, n - begin, err);
	tok_scratch_free(&r.scratch);
	return status;
}

/* Tokenises a text; a failure leaves *out as it was. */
llm_status
llm_tokenize(const llm_tokenizer *t, const char *text, size_t bytes, int flags, llm_tokens *out,
             llm_error *err)
{
	static const tok_template bare = {.items = {{.id = -1}}, .n = 1};
	bool around = (flags & LLM_TOK_ADD_BOS_EOS) != 0 && t->single.n > 0;
	const tok_template *form = around ? &t->single : &bare;
	size_t n_before = out->n;
	llm_status status = LLM_OK;
	llm_error own;

	err = err != NULL ? err : &own;
	for (uint32_t i = 0; status == LLM_OK && i < form->n; i++)
		if (form->items[i].id >= 0)
			status = llm_tokens_push(out, form->items[i].id, err);
		else
			status = encode_text(t, text, bytes, flags, out, err);
	if (status != LLM_OK)
		out->n = n_before;
	return status;
}

/*
 * Cuts two lists to max tokens together, the longer one first, as the reference's longest_first
 * does.
 */
static void
truncate_pair(llm_tokens *a, llm_tokens *b, size_t max)
{
	llm_tokens *small = a->n <= b->n ? a : b;
	llm_tokens *large = a->n <= b->n ? b : a;
	size_t n_small = small->n;
	size_t n_large;

	if (a->n + b->n <= max)
		return;
	n_large = n_small > max ? n_small : (n_small > max - n_small ? n_small : max - n_small);
	if (n_small + n_large > max)
	{
		n_small = max / 2;
		n_large = n_small + max % 2;
	}
	small->n = n_small;
	large->n = large->n < n_large ? large->n : n_large;
}

/* Appends a pair by the template. */
static llm_status
put_pair(const tok_template *pair, const llm_tokens *a, const llm_tokens *b, llm_tokens *out,
         llm_tokens *types, llm_error *err)
{
	llm_status status = LLM_OK;

	for (uint32_t i = 0; i < pair->n; i++)
	{
		const tok_item *item = &pair->items[i];
		const llm_tokens *part = item->second ? b : a;
		size_t n = item->id >= 0 ? 1 : part->n;

		for (size_t k = 0; status == LLM_OK && k < n; k++)
		{
			status = llm_tokens_push(out, item->id >= 0 ? item->id : part->ids[k], err);
			if (status == LLM_OK)
				status = llm_tokens_push(types, (int32_t) item->type_id, err);
		}
	}
	return status;
}

/* Tokenises a pair. */
llm_status
llm_tokenize_pair(const llm_tokenizer *t, const char *a, size_t a_bytes, const char *b,
                  size_t b_bytes, size_t max_tokens, llm_tokens *out, llm_tokens *types,
                  llm_error *err)
{
	llm_tokens left = {0};
	llm_tokens right = {0};
	size_t n_out = out->n;
	size_t n_types = types->n;
	size_t n_special = 0;
	llm_error own;
	llm_status status;

	err = err != NULL ? err : &own;
	if (t->pair.n == 0)
		return llm_fail(err, LLM_E_UNSUPPORTED, "the model's tokenizer has no form for pairs");
	for (uint32_t i = 0; i < t->pair.n; i++)
		n_special += t->pair.items[i].id >= 0;
	if (max_tokens <= n_special)
		return llm_fail(err, LLM_E_RANGE, "a pair needs more than %zu tokens", max_tokens);
	status = encode_text(t, a, a_bytes, 0, &left, err);
	if (status == LLM_OK)
		status = encode_text(t, b, b_bytes, 0, &right, err);
	if (status == LLM_OK)
	{
		truncate_pair(&left, &right, max_tokens - n_special);
		status = put_pair(&t->pair, &left, &right, out, types, err);
	}
	if (status != LLM_OK)
	{
		out->n = n_out;
		types->n = n_types;
	}
	llm_tokens_free(&left);
	llm_tokens_free(&right);
	return status;
}

/* What a token stands for. */
const char *
llm_token_bytes(const llm_tokenizer *t, int32_t id, bool special, size_t *bytes)
{
	const tok_entry *e;

	*bytes = 0;
	if (id < 0 || (uint32_t) id >= t->n_vocab)
		return "";
	e = &t->entries[id];
	if (e->plain == NULL || ((e->flags & TOK_SPECIAL) && !special))
		return "";
	*bytes = e->bytes_plain;
	return e->plain;
}

/* Joins what tokens stand for. */
llm_status
llm_detokenize(const llm_tokenizer *t, const int32_t *ids, size_t n, char **text, size_t *bytes,
               llm_error *err)
{
	tok_buffer out = {0};
	llm_status status = LLM_OK;
	size_t skip;

	for (size_t i = 0; status == LLM_OK && i < n; i++)
	{
		size_t n_piece;
		const char *piece = llm_token_bytes(t, ids[i], false, &n_piece);

		status = tok_put(&out, piece, n_piece, err);
	}
	skip = t->strip_leading_space && out.n > 0 && out.bytes[0] == ' ' ? 1 : 0;
	if (status == LLM_OK &&
	    (*text = llm_strndup(out.bytes != NULL ? out.bytes + skip : "", out.n - skip)) == NULL)
		status = llm_fail(err, LLM_E_NOMEM, "out of memory for text");
	*bytes = out.n - skip;
	llm_free(out.bytes);
	return status;
}

/* The size of the vocabulary. */
uint32_t
llm_tokenizer_n_vocab(const llm_tokenizer *t)
{
	return t->n_vocab;
}

/* Finds a raw entry. */
int32_t
llm_tokenizer_find(const llm_tokenizer *t, const char *token, size_t bytes)
{
	return tok_find(t, token, bytes);
}

/* The token that begins a text. */
int32_t
llm_tokenizer_bos(const llm_tokenizer *t)
{
	return t->bos;
}

/* The token that ends a turn or a text. */
int32_t
llm_tokenizer_eos(const llm_tokenizer *t)
{
	return t->eos;
}

/* The padding token, which this engine never computes. */
int32_t
llm_tokenizer_pad(const llm_tokenizer *t)
{
	return t->pad;
}

/* Whether a generation ends with this token. */
bool
llm_tokenizer_is_end(const llm_tokenizer *t, int32_t id)
{
	for (uint32_t i = 0; i < t->n_ends; i++)
		if (t->ends[i] == id)
			return true;
	return id >= 0 && id == t->eos;
}

/* Whether a token never comes out of plain text. */
bool
llm_tokenizer_is_special(const llm_tokenizer *t, int32_t id)
{
	return id >= 0 && (uint32_t) id < t->n_vocab && (t->entries[id].flags & TOK_SPECIAL);
}
