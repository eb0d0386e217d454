/*
 * llm_tok_vocab.c: the vocabulary, the merges, and tries of bytes.
 *
 * Three open-addressing tables, filled once at load and read by any number of threads: text → id
 * (SipHash, since the texts come from a file), pair of ids → merge, and (trie node, byte) → node.
 * None is more than half full.
 */
#include "llm_tok_internal.h"

#include <string.h>

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

/*
 * Mixes a 64-bit key (splitmix64's finaliser); keys are small numbers that a file chose within
 * bounds.
 */
static uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Indexes the entries by text. The first of two equal texts counts. */
llm_status
tok_vocab_index(llm_tokenizer *t, llm_error *err)
{
	t->n_by_text = table_size(t->n_vocab);
	if ((t->by_text = llm_calloc(t->n_by_text, sizeof(uint32_t))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a vocabulary of %u", t->n_vocab);
	for (uint32_t i = 0; i < t->n_vocab; i++)
	{
		const tok_entry *e = &t->entries[i];
		uint32_t slot = (uint32_t) llm_hash(e->text, e->bytes) & (t->n_by_text - 1);

		if (e->text == NULL)
			continue;
		t->bytes_token_max = e->bytes > t->bytes_token_max ? e->bytes : t->bytes_token_max;
		while (t->by_text[slot] != 0)
			slot = (slot + 1) & (t->n_by_text - 1);
		t->by_text[slot] = i + 1;
	}
	return LLM_OK;
}

/* Finds the id of a text, −1. */
int32_t
tok_find(const llm_tokenizer *t, const char *text, size_t bytes)
{
	uint32_t slot;

	if (bytes > t->bytes_token_max || t->by_text == NULL)
		return -1;
	slot = (uint32_t) llm_hash(text, bytes) & (t->n_by_text - 1);
	for (; t->by_text[slot] != 0; slot = (slot + 1) & (t->n_by_text - 1))
	{
		const tok_entry *e = &t->entries[t->by_text[slot] - 1];

		if (e->bytes == bytes && memcmp(e->text, text, bytes) == 0)
			return (int32_t) (t->by_text[slot] - 1);
	}
	return -1;
}

/* Makes room for n merges. */
llm_status
tok_pairs_create(llm_tokenizer *t, uint64_t n, llm_error *err)
{
	if (n > TOK_VOCAB_MAX)
		return llm_fail(err, LLM_E_RANGE, "tokenizer has %llu merges", (unsigned long long) n);
	t->n_pair_slots = table_size(n);
	t->pair_key = llm_calloc(t->n_pair_slots, sizeof(uint64_t));
	t->pair_value = llm_calloc(t->n_pair_slots, sizeof(uint64_t));
	if (t->pair_key == NULL || t->pair_value == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for %llu merges", (unsigned long long) n);
	return LLM_OK;
}

/* Adds a merge; of two for one pair the first, with the lower rank, counts. */
void
tok_pairs_add(llm_tokenizer *t, int32_t left, int32_t right, uint32_t rank, int32_t merged)
{
	uint64_t key = ((uint64_t) (uint32_t) left << 32 | (uint32_t) right) + 1;
	uint32_t slot = (uint32_t) mix(key) & (t->n_pair_slots - 1);

	while (t->pair_key[slot] != 0 && t->pair_key[slot] != key)
		slot = (slot + 1) & (t->n_pair_slots - 1);
	if (t->pair_key[slot] == key)
		return;
	t->pair_key[slot] = key;
	t->pair_value[slot] = (uint64_t) rank << 32 | (uint32_t) merged;
}

/* Finds the merge of a pair. */
bool
tok_pairs_find(const llm_tokenizer *t, int32_t left, int32_t right, uint32_t *rank, int32_t *merged)
{
	uint64_t key = ((uint64_t) (uint32_t) left << 32 | (uint32_t) right) + 1;
	uint32_t slot = (uint32_t) mix(key) & (t->n_pair_slots - 1);

	for (; t->pair_key[slot] != 0; slot = (slot + 1) & (t->n_pair_slots - 1))
		if (t->pair_key[slot] == key)
		{
			*rank = (uint32_t) (t->pair_value[slot] >> 32);
			*merged = (int32_t) (uint32_t) t->pair_value[slot];
			return true;
		}
	return false;
}

/* Makes an empty trie with room for texts of n_bytes together. */
llm_status
tok_trie_create(tok_trie *trie, uint64_t n_bytes, llm_error *err)
{
	if (n_bytes > (1u << 28))
		return llm_fail(err, LLM_E_RANGE, "vocabulary of %llu bytes", (unsigned long long) n_bytes);
	trie->n_slots = table_size(n_bytes);
	trie->cap_nodes = (uint32_t) n_bytes + 1;
	trie->keys = llm_calloc(trie->n_slots, sizeof(uint64_t));
	trie->next = llm_calloc(trie->n_slots, sizeof(uint32_t));
	trie->id = llm_malloc_array(trie->cap_nodes, sizeof(int32_t));
	if (trie->keys == NULL || trie->next == NULL || trie->id == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a trie of tokens");
	trie->id[0] = -1;
	trie->n_nodes = 1;
	return LLM_OK;
}

/* Frees the tables. */
void
tok_trie_free(tok_trie *trie)
{
	llm_free(trie->keys);
	llm_free(trie->next);
	llm_free(trie->id);
	*trie = (tok_trie){0};
}

/* The slot of an edge: where it is, or where it would go. */
static uint32_t
edge_slot(const tok_trie *trie, uint32_t node, unsigned char byte)
{
	uint64_t key = ((uint64_t) node << 8 | byte) + 1;
	uint32_t slot = (uint32_t) mix(key) & (trie->n_slots - 1);

	while (trie->keys[slot] != 0 && trie->keys[slot] != key)
		slot = (slot + 1) & (trie->n_slots - 1);
	return slot;
}

/* Adds a text; the first id of a text counts. */
llm_status
tok_trie_add(tok_trie *trie, const char *text, size_t n, int32_t id, llm_error *err)
{
	uint32_t node = 0;

	for (size_t i = 0; i < n; i++)
	{
		uint32_t slot = edge_slot(trie, node, (unsigned char) text[i]);

		if (trie->keys[slot] == 0)
		{
			if (trie->n_nodes == trie->cap_nodes)
				return llm_fail(err, LLM_E_INTERNAL, "a trie of tokens is full");
			trie->keys[slot] = ((uint64_t) node << 8 | (unsigned char) text[i]) + 1;
			trie->next[slot] = trie->n_nodes;
			trie->id[trie->n_nodes++] = -1;
		}
		node = trie->next[slot];
	}
	if (trie->id[node] < 0)
		trie->id[node] = id;
	return LLM_OK;
}

/* Follows one byte from *node; false, and *node unchanged, when there is no such child. */
bool
tok_trie_step(const tok_trie *trie, uint32_t *node, unsigned char byte)
{
	uint32_t slot = edge_slot(trie, *node, byte);

	if (trie->keys[slot] == 0)
		return false;
	*node = trie->next[slot];
	return true;
}

/*
 * GPT-2's byte alphabet: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and
 * up, in order (bytes_to_unicode of the GPT-2 code).
 */
uint32_t
tok_char_of(unsigned char byte)
{
	if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173))
		return byte;
	if (byte <= 32)
		return 256u + byte;
	if (byte <= 160)
		return 256u + 33 + (byte - 127u);
	return 256u + 67;
}

/* The inverse of tok_char_of. */
int
tok_byte_of(uint32_t cp)
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
		if (length == 0 || tok_byte_of(cp) < 0)
			return LLM_OK;
		plain[n++] = (char) tok_byte_of(cp);
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

/* A word start gets the space that splitting took; a continuation loses its prefix. */
static llm_status
decode_wordpiece(llm_tokenizer *t, tok_entry *e, llm_error *err)
{
	char *plain;

	if (e->bytes > t->bytes_prefix && memcmp(e->text, t->prefix, t->bytes_prefix) == 0)
	{
		e->plain = e->text + t->bytes_prefix;
		e->bytes_plain = e->bytes - (uint32_t) t->bytes_prefix;
		return LLM_OK;
	}
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

	e->plain = e->text;
	e->bytes_plain = e->bytes;
	if (e->text == NULL || (e->flags & (TOK_SPECIAL | TOK_ADDED)))
		return LLM_OK;
	if (t->byte_level)
		return decode_byte_level(t, e, err);
	if (t->model == TOK_WORDPIECE)
		return decode_wordpiece(t, e, err);
	if (t->byte_fallback && (byte = byte_token(e)) >= 0)
	{
		char *plain = llm_arena_alloc(t->arena, 1, 1);

		if (plain == NULL)
			return llm_fail(err, LLM_E_NOMEM, "out of memory for the vocabulary");
		*plain = (char) byte;
		e->plain = plain;
		e->bytes_plain = 1;
		e->flags |= TOK_BYTE;
		t->byte_id[byte] = (int32_t) i;
		return LLM_OK;
	}
	return decode_metaspace(t, e, err);
}

/* Finds the token of every byte in the byte alphabet. */
static void
find_byte_tokens(llm_tokenizer *t)
{
	char utf8[4];

	for (int byte = 0; byte < 256; byte++)
	{
		size_t n = llm_utf8_encode(tok_char_of((unsigned char) byte), utf8);

		t->byte_id[byte] = tok_find(t, utf8, n);
	}
}

/* Builds the trie of added tokens. */
static llm_status
index_added(llm_tokenizer *t, llm_error *err)
{
	uint64_t n_bytes = 0;
	llm_status status;

	for (uint32_t i = 0; i < t->n_vocab; i++)
		if ((t->entries[i].flags & TOK_ADDED) && t->entries[i].bytes > 0)
			n_bytes += t->entries[i].bytes;
	if ((status = tok_trie_create(&t->added, n_bytes, err)) != LLM_OK)
		return status;
	for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
		if ((t->entries[i].flags & TOK_ADDED) && t->entries[i].bytes > 0)
		{
			status =
			    tok_trie_add(&t->added, t->entries[i].text, t->entries[i].bytes, (int32_t) i, err);
			t->added_first[(unsigned char) t->entries[i].text[0]] = true;
		}
	return status;
}

/* Completes a tokenizer whose entries, flags and options are set. */
llm_status
tok_finish(llm_tokenizer *t, llm_error *err)
{
	llm_status status = t->by_text == NULL ? tok_vocab_index(t, err) : LLM_OK;

	for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
		status = decode_entry(t, i, err);
	if (status == LLM_OK && t->byte_level)
		find_byte_tokens(t);
	return status == LLM_OK ? index_added(t, err) : status;
}
