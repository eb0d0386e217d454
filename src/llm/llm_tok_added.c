/*
 * llm_tok_added.c: finds added tokens in a text.
 *
 * As in the reference (tokenizers, added_vocabulary.rs): of the tokens that begin first the longest
 * is a match, and matches do not overlap. A match that may not be taken (a special token in user
 * text, a word with letters at its side) is passed over as a whole and stays text.
 */
#include "llm_tok_internal.h"

/* Builds the two tries: of texts as given and, for "normalized" tokens, of normalised texts. */
llm_status
tok_added_index(llm_tokenizer *t, llm_error *err)
{
	tok_key *keys = llm_malloc_array((size_t) t->n_vocab + 1, sizeof(tok_key));
	tok_scratch scratch = {0};
	llm_status status = LLM_OK;

	if (keys == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for added tokens");
	for (int normalised = 0; status == LLM_OK && normalised < 2; normalised++)
	{
		size_t n = 0;

		for (uint32_t i = 0; status == LLM_OK && i < t->n_vocab; i++)
		{
			const tok_entry *e = &t->entries[i];
			const char *text = e->text;
			size_t bytes = e->bytes;

			if (!(e->flags & TOK_ADDED) || bytes == 0 ||
			    ((e->flags & TOK_NORMALISED) != 0) != (normalised != 0))
				continue;
			if (bytes > TOK_ADDED_MAX)
				status = llm_fail(err, LLM_E_UNSUPPORTED, "added token %u has %zu bytes", i, bytes);
			if (normalised && status == LLM_OK)
			{
				status = tok_normalise(t, e->text, e->bytes, false, &scratch, &text, &bytes, err);
				if (status == LLM_OK && (text = llm_arena_strndup(t->arena, text, bytes)) == NULL)
					status = llm_fail(err, LLM_E_NOMEM, "out of memory for added tokens");
			}
			keys[n++] = (tok_key){text, (uint32_t) bytes, (int32_t) i};
		}
		if (status == LLM_OK && n > 0)
			status = tok_trie_build(&t->added[normalised], keys, n, err);
	}
	llm_free(keys);
	tok_scratch_free(&scratch);
	return status;
}

/* The longest token at the front of s; −1. */
static int32_t
longest_at(const tok_trie *trie, const char *s, size_t n, size_t *length)
{
	uint32_t node = 0;
	int32_t id = -1;

	for (size_t i = 0; i < n && tok_trie_step(trie, &node, (unsigned char) s[i]); i++)
		if (trie->nodes[node].id >= 0)
		{
			id = trie->nodes[node].id;
			*length = i + 1;
		}
	return id;
}

/* True when a character of a word ends at or begins at a place. */
static bool
touches_word(const char *text, size_t n, size_t begin, size_t end)
{
	uint32_t cp;
	size_t last = begin > 0 ? llm_utf8_last(text, begin) : 0;

	if (begin > 0 && llm_utf8_peek(text + last, begin - last, &cp) > 0 && llm_is_word(cp))
		return true;
	return llm_utf8_peek(text + end, n - end, &cp) > 0 && llm_is_word(cp);
}

/* Moves a match's ends over the white space that the token takes, not before from. */
static void
take_space(const tok_entry *e, const char *text, size_t n, size_t from, tok_cut *cut)
{
	uint32_t cp;
	size_t length;

	while ((e->flags & TOK_LSTRIP) && cut->begin > from)
	{
		size_t last = llm_utf8_last(text, cut->begin);

		if (llm_utf8_peek(text + last, cut->begin - last, &cp) == 0 || !llm_is_space(cp))
			break;
		cut->begin = last;
	}
	while ((e->flags & TOK_RSTRIP) &&
	       (length = llm_utf8_peek(text + cut->end, n - cut->end, &cp)) > 0 && llm_is_space(cp))
		cut->end += length;
}

/* Goes through the text from *at. */
bool
tok_added_next(const llm_tokenizer *t, bool normalised, bool special, const char *text, size_t n,
               size_t *at, tok_cut *cut)
{
	const tok_trie *trie = &t->added[normalised];
	size_t from = *at;

	if (trie->n_nodes == 0)
		return false;
	for (size_t i = *at; i < n;)
	{
		size_t length = 1;
		const tok_entry *e;

		if (trie->root[(unsigned char) text[i]] == 0 ||
		    (cut->id = longest_at(trie, text + i, n - i, &length)) < 0)
		{
			i++;
			continue;
		}
		e = &t->entries[cut->id];
		cut->begin = i;
		cut->end = i += length;
		if ((e->flags & TOK_SPECIAL) && !special)
			continue;
		if ((e->flags & TOK_WORD) && touches_word(text, n, cut->begin, cut->end))
			continue;
		take_space(e, text, n, from, cut);
		*at = cut->end;
		return true;
	}
	return false;
}
