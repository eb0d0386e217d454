/*
 * llm_tok_internal.h: what the files of the tokenizer share.
 *
 *	llm_tokenizer.c			the pipeline: specials, normalise, split, model, post-processing; detokenising
 *	llm_tok_vocab.c			vocabulary, merges, trie of added tokens
 *	llm_tok_normalise.c		normalisers
 *	llm_tok_split.c			pre-tokenizers: hand-written scanners
 *	llm_tok_bpe.c			BPE by merge rank, and by score (SentencePiece)
 *	llm_tok_unigram.c		Unigram (Viterbi)
 *	llm_tok_wordpiece.c		WordPiece
 *	llm_tok_load_hf.c		tokenizer.json
 *	llm_tok_load_gguf.c		GGUF metadata
 *
 * A text goes through: added tokens cut out (special ones only when asked for) → normalisers →
 * splitters → model. Every stage is linear and works on bytes in one of two scratch buffers.
 */
#ifndef LLM_TOK_INTERNAL_H
#define LLM_TOK_INTERNAL_H

#include "llm_alloc.h"
#include "llm_tokenizer.h"
#include "llm_unicode.h"

#define TOK_VOCAB_MAX    (1u << 22)
#define TOK_STEPS_MAX    16
#define TOK_TEMPLATE_MAX 16
#define TOK_ENDS_MAX     16

typedef enum tok_model
{
	TOK_BPE, /* pairs merge by rank */
	TOK_SPM, /* pairs merge by the score of what they make */
	TOK_UNIGRAM,
	TOK_WORDPIECE
} tok_model;

/* A vocabulary entry. */
typedef struct tok_entry
{
	const char *text; /* as in the file */
	uint32_t bytes;
	uint32_t bytes_plain; /* what it stands for in running text */
	const char *plain;
	float score;
	uint8_t flags; /* TOK_… */
} tok_entry;

#define TOK_SPECIAL 1 /* never comes out of plain text */
#define TOK_ADDED   2 /* cut out of the text before the model sees it */
#define TOK_BYTE    4 /* <0xNN> */
#define TOK_UNUSED  8
#define TOK_LSTRIP  16 /* takes the white space before it */
#define TOK_RSTRIP  32
#define TOK_WORD    64 /* only where no letter or number touches it */

/* Normalisers. */
typedef enum tok_norm_kind
{
	TOK_NORM_FORM, /* NFC, NFD, NFKC, NFKD: arg */
	TOK_NORM_LOWER,
	TOK_NORM_STRIP_ACCENTS,
	TOK_NORM_BERT,
	TOK_NORM_REPLACE, /* from → to */
	TOK_NORM_PREPEND, /* to, before a text that is not empty; arg 1: and lacks it */
	TOK_NORM_STRIP,   /* arg: 1 left, 2 right */
	TOK_NORM_SQUEEZE, /* runs of two or more spaces become one */
	TOK_NORM_CHARSMAP /* SentencePiece's precompiled map: from */
} tok_norm_kind;

typedef struct tok_norm
{
	tok_norm_kind kind;
	int arg;
	bool clean, cjk, strip_accents, lower; /* TOK_NORM_BERT */
	const char *from;
	size_t bytes_from;
	const char *to;
	size_t bytes_to;
} tok_norm;

/* Splitters. */
typedef enum tok_split_kind
{
	TOK_SPLIT_GPT2,       /* also ByteLevel with use_regex */
	TOK_SPLIT_LLAMA3,     /* arg: longest run of digits, 3; Qwen2: 1 */
	TOK_SPLIT_DIGITS,     /* every digit by itself */
	TOK_SPLIT_BERT,       /* white space removed, punctuation by itself */
	TOK_SPLIT_WHITESPACE, /* white space removed */
	TOK_SPLIT_PUNCTUATION,
	TOK_SPLIT_METASPACE /* before each ▁ */
} tok_split_kind;

typedef struct tok_split
{
	tok_split_kind kind;
	int arg;
} tok_split;

/* One item of a post-processing template: a special token, or the text a or b. */
typedef struct tok_item
{
	int32_t id;  /* −1: the text */
	bool second; /* the text b */
	uint32_t type_id;
} tok_item;

typedef struct tok_template
{
	tok_item items[TOK_TEMPLATE_MAX];
	uint32_t n;
} tok_template;

/* A node of a byte trie: its children are found by (node, byte) in one table. */
typedef struct tok_trie
{
	uint64_t *keys; /* (node << 8 | byte) + 1; 0 = free */
	uint32_t *next;
	int32_t *id;      /* [n_nodes] the token that ends here, −1 */
	uint32_t n_slots; /* a power of two */
	uint32_t n_nodes;
	uint32_t cap_nodes;
	uint32_t n_edges;
} tok_trie;

struct llm_tokenizer
{
	tok_model model;
	llm_arena *arena;   /* strings and arrays of what does not point into the file */
	tok_entry *entries; /* [n_vocab] */
	uint32_t n_vocab;
	uint32_t *by_text;  /* id + 1, open addressing */
	uint32_t n_by_text; /* a power of two */
	uint32_t bytes_token_max;

	uint64_t *pair_key;   /* BPE: left id << 32 | right id, + 1 */
	uint64_t *pair_value; /* rank << 32 | merged id */
	uint32_t n_pair_slots;

	tok_trie added;        /* over the texts of added tokens */
	bool added_first[256]; /* bytes that an added token may begin with */
	tok_trie pieces;       /* Unigram: over the vocabulary */

	bool byte_level; /* texts are in GPT-2's byte alphabet */
	bool byte_fallback;
	bool ignore_merges; /* a word that is in the vocabulary is not merged up */
	bool fuse_unk;
	bool strip_leading_space; /* detokenising drops the one that tokenising put in */
	bool add_prefix_space;    /* ByteLevel */
	int32_t byte_id[256];     /* byte level: the token of a byte; else of <0xNN>; −1 */
	int32_t unk;
	float unk_score;
	const char *prefix; /* WordPiece: "##" */
	size_t bytes_prefix;
	uint32_t word_chars_max;

	tok_norm norms[TOK_STEPS_MAX];
	uint32_t n_norms;
	tok_split splits[TOK_STEPS_MAX];
	uint32_t n_splits;
	tok_template single;
	tok_template pair;
	int32_t bos, eos, pad;
	int32_t ends[TOK_ENDS_MAX];
	uint32_t n_ends;
};

/* A growing byte buffer. */
typedef struct tok_buffer
{
	char *bytes;
	size_t n;
	size_t capacity;
} tok_buffer;

llm_status tok_put(tok_buffer *b, const char *bytes, size_t n, llm_error *err);

/* llm_tok_vocab.c */
llm_status tok_vocab_index(llm_tokenizer *t, llm_error *err); /* after entries are filled */
int32_t tok_find(const llm_tokenizer *t, const char *text, size_t bytes);
llm_status tok_pairs_create(llm_tokenizer *t, uint64_t n, llm_error *err);
void tok_pairs_add(llm_tokenizer *t, int32_t left, int32_t right, uint32_t rank, int32_t merged);
bool tok_pairs_find(const llm_tokenizer *t, int32_t left, int32_t right, uint32_t *rank,
                    int32_t *merged);
llm_status tok_trie_create(tok_trie *trie, uint64_t n_bytes, llm_error *err);
llm_status tok_trie_add(tok_trie *trie, const char *text, size_t n, int32_t id, llm_error *err);
bool tok_trie_step(const tok_trie *trie, uint32_t *node, unsigned char byte);
void tok_trie_free(tok_trie *trie);
/* Decodes entries into what they stand for, indexes them, builds the trie of added tokens. */
llm_status tok_finish(llm_tokenizer *t, llm_error *err);
/* The byte that a character of GPT-2's byte alphabet stands for, −1 for others; and back. */
int tok_byte_of(uint32_t cp);
uint32_t tok_char_of(unsigned char byte);

/* llm_tok_normalise.c: text → *out (cleared first). */
llm_status tok_normalise(const llm_tokenizer *t, const char *text, size_t n, tok_buffer *out,
                         llm_error *err);

/* llm_tok_split.c: calls fn with each word, in order. */
typedef llm_status (*tok_word_fn)(void *arg, const char *word, size_t n, llm_error *err);
llm_status tok_split_words(const llm_tokenizer *t, const char *text, size_t n, tok_word_fn fn,
                           void *arg, llm_error *err);

/* The models: append the ids of one word. */
typedef struct tok_scratch
{
	void *symbols;
	size_t n_symbols;
	void *heap;
	size_t n_heap;
	void *lattice;
	size_t n_lattice;
} tok_scratch;

llm_status tok_bpe(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
                   llm_tokens *out, llm_error *err);
llm_status tok_unigram(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
                       llm_tokens *out, llm_error *err);
llm_status tok_wordpiece(const llm_tokenizer *t, const char *word, size_t n, llm_tokens *out,
                         llm_error *err);
void tok_scratch_free(tok_scratch *scratch);

/* The loaders. */
llm_status tok_load_hf(llm_tokenizer *t, llm_weights *w, llm_error *err);
llm_status tok_load_gguf(llm_tokenizer *t, llm_weights *w, llm_error *err);

#endif /* LLM_TOK_INTERNAL_H */
