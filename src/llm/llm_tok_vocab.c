/*
 * llm_tok_vocab.c: the vocabulary, the merges, and what tokens stand for.
 *
 * Open-addressing tables, filled at load: text → id, piece → id (what the model may make of plain
 * text: no special tokens, so that user text cannot name them), pair of ids → merge. The first two
 * hash with SipHash, since the texts come from a file. None is more than half full.
 */
#include "llm_tok_internal.h"

#include "llm_check.h"
#include "llm_hash.h"

/* A power of two that is more than twice n. */
static uint32_t
table_size(uint64_t n)
{
	uint32_t size = 16;

	while (size < 2 * n + 1 && size < (1u << 30))
		size *= 2;
	return size;
}

/* Makes room for n entries without texts. */
llm_status
tok_vocab_create(llm_tokenizer *t, uint64_t n, llm_error *err)
{
	if (n == 0 || n > TOK_VOCAB_MAX)
		return llm_fail(err, LLM_E_FORMAT, "the tokenizer has %llu tokens", (unsigned long long) n);
	t->n_vocab = (uint32_t) n;
	t->n_by_text = table_size(n);
	t->entries = llm_calloc(t->n_vocab, sizeof(tok_entry));
	t->by_text = llm_calloc(t->n_by_text, sizeof(uint32_t));
	t->by_piece = llm_calloc(t->n_by_text, sizeof(uint32_t));
	if (t->entries == NULL || t->by_text == NULL || t->by_piece == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	return LLM_OK;
}

/* The bytes by which an entry stands in one of the two tables; NULL: it does not. */
static const char *
key_of(const llm_tokenizer *t, uint32_t id, bool piece, size_t *n)
{
	const tok_entry *e = &t->entries[id];
	unsigned barred = TOK_SPECIAL | TOK_UNUSED | (t->byte_level ? TOK_ADDED : 0);

	*n = e->bytes;
	if (!piece || e->text == NULL)
		return e->text;
	if ((e->flags & barred) != 0 || (e->flags & TOK_BYTE && t->model != TOK_UNIGRAM))
		return NULL;
	*n = t->byte_level ? e->bytes_plain : e->bytes;
	return t->byte_level ? e->plain : e->text;
}

/* The slot of a text: where it is, or where it would go. */
static uint32_t
slot_of(const llm_tokenizer *t, const uint32_t *table, bool piece, const char *text, size_t n)
{
	uint32_t slot = (uint32_t) llm_hash(text, n) & (t->n_by_text - 1);

	for (; table[slot] != 0; slot = (slot + 1) & (t->n_by_text - 1))
	{
		size_t n_key;
		const char *key = key_of(t, table[slot] - 1, piece, &n_key);

		if (n_key == n && memcmp(key, text, n) == 0)
			break;
	}
	return slot;
}

/* Fills a table. The first of two equal texts counts. */
static void
fill_table(llm_tokenizer *t, uint32_t *table, bool piece)
{
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		size_t n;
		const char *key = key_of(t, i, piece, &n);
		uint32_t slot;

		if (key == NULL)
			continue;
		slot = slot_of(t, table, piece, key, n);
		if (table[slot] == 0)
			table[slot] = i + 1;
	}
}

/* Indexes the entries by text. */
llm_status
tok_vocab_index(llm_tokenizer *t, llm_error *err)
{
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		if (t->entries[i].bytes > TOK_BYTES_MAX)
			return llm_fail(err, LLM_E_FORMAT, "token %u has %u bytes", i, t->entries[i].bytes);
		if (t->entries[i].bytes > t->bytes_token_max)
			t->bytes_token_max = t->entries[i].bytes;
	}
	fill_table(t, t->by_text, false);
	return LLM_OK;
}

/* Finds any token by its text, −1. */
int32_t
tok_find(const llm_tokenizer *t, const char *text, size_t bytes)
{
	if (bytes > t->bytes_token_max)
		return -1;
	return (int32_t) t->by_text[slot_of(t, t->by_text, false, text, bytes)] - 1;
}

/* Finds a token that may come out of plain text, −1. */
int32_t
tok_find_piece(const llm_tokenizer *t, const char *piece, size_t bytes)
{
	if (bytes > t->bytes_token_max)
		return -1;
	return (int32_t) t->by_piece[slot_of(t, t->by_piece, true, piece, bytes)] - 1;
}

/* The key of a pair, never 0. */
static uint64_t
pair_key(int32_t left, int32_t right)
{
	return ((uint64_t) (uint32_t) left << 32 | (uint32_t) right) + 1;
}

/* The slot of a pair: where it is, or where it would go. */
static uint32_t
pair_slot(const llm_tokenizer *t, uint64_t key)
{
	uint32_t slot = (uint32_t) llm_mix64(key) & (t->n_pair_slots - 1);

	while (t->pair_key[slot] != 0 && t->pair_key[slot] != key)
		slot = (slot + 1) & (t->n_pair_slots - 1);
	return slot;
}

/* Makes room for n merges. */
llm_status
tok_merges_create(llm_tokenizer *t, uint64_t n, llm_error *err)
{
	if (n > TOK_VOCAB_MAX)
		return llm_fail(err, LLM_E_FORMAT, "the tokenizer has %llu merges", (unsigned long long) n);
	t->n_pair_slots = table_size(n);
	t->pair_key = llm_calloc(t->n_pair_slots, sizeof(uint64_t));
	t->pair_value = llm_calloc(t->n_pair_slots, sizeof(uint64_t));
	if (t->pair_key == NULL || t->pair_value == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for %llu merges", (unsigned long long) n);
	return LLM_OK;
}

/* Adds a merge of two texts; of two merges of one pair the later counts. */
llm_status
tok_merge_add(llm_tokenizer *t, const char *left, size_t n_left, const char *right, size_t n_right,
              uint32_t rank, llm_error *err)
{
	int32_t a = tok_find(t, left, n_left);
	int32_t b = tok_find(t, right, n_right);
	int32_t merged = -1;
	char *joined;
	uint32_t slot;

	if (a >= 0 && b >= 0)
	{
		if ((joined = llm_malloc(n_left + n_right + 1)) == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for merges");
		memcpy(joined, left, n_left);
		memcpy(joined + n_left, right, n_right);
		merged = tok_find(t, joined, n_left + n_right);
		llm_free(joined);
	}
	if (merged < 0)
		return llm_fail(err, LLM_E_FORMAT, "merge %u names a token that does not exist", rank);
	slot = pair_slot(t, pair_key(a, b));
	t->pair_key[slot] = pair_key(a, b);
	t->pair_value[slot] = (uint64_t) rank << 32 | (uint32_t) merged;
	return LLM_OK;
}

/* Cuts "left right" at its space. */
llm_status
tok_merge_add_text(llm_tokenizer *t, const char *text, size_t n, uint32_t rank, llm_error *err)
{
	const char *space = n > 0 ? memchr(text, ' ', n) : NULL;
	size_t n_left = space != NULL ? (size_t) (space - text) : 0;

	if (space == NULL || n_left == 0 || n_left + 1 == n)
		return llm_fail(err, LLM_E_FORMAT, "merge %u is malformed", rank);
	return tok_merge_add(t, text, n_left, space + 1, n - n_left - 1, rank, err);
}

/* Finds the merge of a pair. */
bool
tok_merge_find(const llm_tokenizer *t, int32_t left, int32_t right, uint32_t *rank, int32_t *merged)
{
	uint32_t slot = pair_slot(t, pair_key(left, right));

	if (t->pair_key[slot] == 0)
		return false;
	*rank = (uint32_t) (t->pair_value[slot] >> 32);
	*merged = (int32_t) (uint32_t) t->pair_value[slot];
	return true;
}

/*
 * The byte that a character of GPT-2's byte alphabet stands for, −1 for others: printable Latin-1
 * characters stand for themselves, U+0100 and up for the other 68 bytes in order
 * (bytes_to_unicode of the GPT-2 code).
 */
static int
byte_of(uint32_t cp)
{
	if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 255 && cp != 173))
		return (int) cp;
	if (cp < 256 || cp > 256 + 67)
		return -1;
	if (cp <= 256 + 32)
		return (int) (cp - 256);
	return cp == 256 + 67 ? 173 : (int) (cp - 256 - 33 + 127);
}

/* Reads "<0xNN>"; −1 for other texts. */
static int
byte_token(const tok_entry *e)
{
	static const char digits[] = "0123456789ABCDEF";
	const char *high;
	const char *low;

	if (e->bytes != 6 || memcmp(e->text, "<0x", 3) != 0 || e->text[5] != '>')
		return -1;
	high = e->text[3] != '\0' ? strchr(digits, e->text[3]) : NULL;
	low = e->text[4] != '\0' ? strchr(digits, e->text[4]) : NULL;
	return high != NULL && low != NULL ? (int) ((high - digits) * 16 + (low - digits)) : -1;
}

/* Decodes a byte-level text; texts with other characters stand for themselves (added tokens). */
static llm_status
decode_byte_level(llm_tokenizer *t, tok_entry *e, llm_error *err)
{
	char *plain = llm_arena_alloc(t->arena, e->bytes + 1, 1);
	uint32_t n = 0;
	uint32_t cp;
	size_t length;

	if (plain == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
	for (size_t i = 0; i < e->bytes; i += length)
	{
		length = llm_utf8_decode(e->text + i, e->bytes - i, &cp);
		if (length == 0 || byte_of(cp) < 0)
			return LLM_OK;
		plain[n++] = (char) byte_of(cp);
	}
	e->plain = plain;
	e->bytes_plain = n;
	return LLM_OK;
}

/* Replaces each ▁ by a space. */
static llm_status
decode_metaspace(llm_tokenizer *t, tok_entry *e, llm_error *err)
{
	char *plain = llm_arena_alloc(t->arena, e->bytes + 1, 1);
	uint32_t n = 0;

	if (plain == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
	for (uint32_t i = 0; i < e->bytes; i++)
		if (e->bytes - i >= 3 && memcmp(e->text + i, "\xe2\x96\x81", 3) == 0)
		{
			plain[n++] = ' ';
			i += 2;
		}
		else
			plain[n++] = e->text[i];
	e->plain = plain;
	e->bytes_plain = n;
	return LLM_OK;
}

/* True when a text begins with one of WordPiece's decoder's clean-ups. */
static bool
joins_left(const char *text, size_t n)
{
	static const char *const starts[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};

	for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++)
		if (strlen(starts[i]) <= n && memcmp(starts[i], text, strlen(starts[i])) == 0)
			return true;
	return false;
}

/* A word start gets the space that splitting took; a continuation loses its prefix. */
static llm_status
decode_wordpiece(llm_tokenizer *t, tok_entry *e, llm_error *err)
{
	char *plain;

	e->plain = e->text;
	e->bytes_plain = e->bytes;
	if (t->bytes_prefix > 0 && e->bytes > t->bytes_prefix &&
	    memcmp(e->text, t->prefix, t->bytes_prefix) == 0)
	{
		e->plain = e->text + t->bytes_prefix;
		e->bytes_plain = e->bytes - (uint32_t) t->bytes_prefix;
		return LLM_OK;
	}
	if (t->cleanup && joins_left(e->text, e->bytes))
		return LLM_OK;
	if ((plain = llm_arena_alloc(t->arena, (size_t) e->bytes + 2, 1)) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
	plain[0] = ' ';
	memcpy(plain + 1, e->text, e->bytes);
	e->plain = plain;
	e->bytes_plain = e->bytes + 1;
	return LLM_OK;
}

/* Fills in what an entry stands for in running text. */
static llm_status
decode_entry(llm_tokenizer *t, uint32_t i, llm_error *err)
{
	tok_entry *e = &t->entries[i];
	int byte;

	if (e->text == NULL)
		return LLM_OK;
	e->plain = e->text;
	e->bytes_plain = e->bytes;
	if (t->model == TOK_WORDPIECE)
		return decode_wordpiece(t, e, err);
	if (e->flags & (TOK_ADDED | TOK_SPECIAL))
		return LLM_OK;
	if (t->byte_level)
		return decode_byte_level(t, e, err);
	if (!t->byte_fallback || (byte = byte_token(e)) < 0)
		return decode_metaspace(t, e, err);
	if ((e->plain = llm_arena_strndup(t->arena, &(char){(char) byte}, 1)) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
	e->bytes_plain = 1;
	e->flags |= TOK_BYTE;
	t->byte_id[byte] = (int32_t) i;
	return LLM_OK;
}

/* Finds the token of every byte in the byte alphabet. */
static void
find_byte_tokens(llm_tokenizer *t)
{
	char byte;

	for (int i = 0; i < 256; i++)
	{
		byte = (char) i;
		t->byte_id[i] = tok_find_piece(t, &byte, 1);
	}
}

/* Builds the trie of pieces; WordPiece's words go on where the prefix ends. */
static llm_status
index_pieces(llm_tokenizer *t, llm_error *err)
{
	tok_key *keys = llm_malloc_array((size_t) t->n_vocab + 1, sizeof(tok_key));
	size_t n = 0;
	llm_status status;

	if (keys == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		size_t bytes;
		const char *text = key_of(t, i, true, &bytes);

		if (text != NULL)
			keys[n++] = (tok_key){text, (uint32_t) bytes, (int32_t) i};
	}
	status = tok_trie_build(&t->pieces, keys, n, err);
	llm_free(keys);
	t->inside = 0;
	for (size_t i = 0; status == LLM_OK && i < t->bytes_prefix && t->inside != UINT32_MAX; i++)
		if (!tok_trie_step(&t->pieces, &t->inside, (unsigned char) t->prefix[i]))
			t->inside = UINT32_MAX;
	return status;
}

/* The score of an unknown character: the lowest of all less 10, as SentencePiece has it. */
static void
find_unk_score(llm_tokenizer *t)
{
	double min = 0;

	for (uint32_t i = 0; i < t->n_vocab; i++)
		if (t->entries[i].text != NULL && !(t->entries[i].flags & TOK_UNUSED) && t->scores[i] < min)
			min = t->scores[i];
	t->unk_score = t->single_sums ? (float) (min - 10) : min - 10;
}

/* Tokens that end a turn in some family, if the vocabulary has them as special tokens. */
static void
find_ends(llm_tokenizer *t)
{
	static const char *const names[] = {"<|im_end|>",    "<|eot_id|>", "<|eom_id|>",
	                                    "<end_of_turn>", "<|end|>",    "<|end_of_text|>",
	                                    "<|endoftext|>", "</s>",       "<eos>"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		int32_t id = tok_find(t, names[i], strlen(names[i]));

		if (id >= 0 && (t->entries[id].flags & TOK_SPECIAL))
			tok_end_add(t, id);
	}
}

/* Adds an end token; the first one is the end token of the model when it has none yet. */
void
tok_end_add(llm_tokenizer *t, int32_t id)
{
	if (id < 0 || (uint32_t) id >= t->n_vocab || t->entries[id].text == NULL ||
	    llm_tokenizer_is_end(t, id) || t->n_ends == TOK_ENDS_MAX)
		return;
	if (t->eos < 0)
		t->eos = id;
	t->ends[t->n_ends++] = id;
}

/* Completes a tokenizer whose entries, flags and steps are set. */
llm_status
tok_finish(llm_tokenizer *t, llm_error *err)
{
	llm_status status = LLM_OK;

	for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
		status = decode_entry(t, i, err);
	if (status != LLM_OK)
		return status;
	fill_table(t, t->by_piece, true);
	if (t->byte_level)
		find_byte_tokens(t);
	find_ends(t);
	if (t->model == TOK_BPE || t->model == TOK_SPM)
		status = tok_bpe_index(t, err);
	else
		status = index_pieces(t, err);
	if (t->model == TOK_UNIGRAM)
		find_unk_score(t);
	if (t->model == TOK_WORDPIECE)
		t->strip_leading_space = true;
	return status == LLM_OK ? tok_added_index(t, err) : status;
}
