/*
 * llm_tok_internal.h: what the files of the tokenizer share.
 *
 *	llm_tokenizer.c			the pipeline of a text, pairs, and the way back
 *	llm_tok_vocab.c			vocabulary and merges; what tokens stand for
 *	llm_tok_trie.c			tries of bytes
 *	llm_tok_added.c			finds added tokens in a text
 *	llm_tok_normalise.c		normalisers (llm_tok_charsmap.c: SentencePiece's map)
 *	llm_tok_split.c			pre-tokenizers: runs the scanners of llm_tok_scan.c within each other
 *	llm_tok_bpe.c			BPE by merge rank, and by score (SentencePiece)
 *	llm_tok_unigram.c		Unigram (Viterbi)
 *	llm_tok_wordpiece.c		WordPiece
 *	llm_tok_load_hf.c		tokenizer.json: the model (llm_tok_load_steps.c: the steps around it)
 *	llm_tok_load_gguf.c		GGUF metadata
 *
 * A text goes through: added tokens cut out → normalisers → added tokens of normalised text cut out
 * → pre-tokenizers → model. Every stage is linear. Entries, tables and tries are immutable once
 * tok_finish has run; everything that a call writes lies in its own tok_scratch.
 */
#ifndef LLM_TOK_INTERNAL_H
#define LLM_TOK_INTERNAL_H

#include <string.h>

#include "llm_alloc.h"
#include "llm_tokenizer.h"
#include "llm_unicode.h"

#define TOK_VOCAB_MAX (1u << 22)
#define TOK_BYTES_MAX 65536u /* of a token's text */
/* of an added token's: each place of a text may be compared with it */
#define TOK_ADDED_MAX    1024u
#define TOK_STEPS_MAX    16
#define TOK_TEMPLATE_MAX 32
#define TOK_ENDS_MAX     32

#define TOK_METASPACE "\xe2\x96\x81" /* ▁, U+2581 */

typedef enum tok_model
{
	TOK_BPE, /* pairs merge by rank */
	TOK_SPM, /* pairs merge by the score of what they make */
	TOK_UNIGRAM,
	TOK_WORDPIECE
} tok_model;

/* A vocabulary entry. text is NULL for an id that no token has. */
typedef struct tok_entry
{
	const char *text; /* as in the file */
	const char *plain;
	uint32_t bytes;
	uint32_t bytes_plain; /* what it stands for in running text */
	uint16_t flags;       /* TOK_… */
} tok_entry;

#define TOK_SPECIAL    1   /* never comes out of plain text */
#define TOK_ADDED      2   /* cut out of the text before the model sees it */
#define TOK_BYTE       4   /* <0xNN>: stands for a byte that has no other token */
#define TOK_UNUSED     8   /* holds a place only */
#define TOK_LSTRIP     16  /* takes the white space before it */
#define TOK_RSTRIP     32  /* takes the white space behind it */
#define TOK_WORD       64  /* only where no character of a word touches it */
#define TOK_NORMALISED 128 /* looked for in the normalised text */
#define TOK_WHOLE      256 /* BPE makes exactly this token of this text */

typedef enum tok_norm_kind
{
	TOK_NORM_FORM, /* a Unicode normalisation form */
	TOK_NORM_LOWER,
	TOK_NORM_STRIP_ACCENTS,
	TOK_NORM_BERT,
	TOK_NORM_REPLACE, /* from → to */
	TOK_NORM_PREPEND, /* to, before a text that is not empty */
	TOK_NORM_STRIP,
	TOK_NORM_SQUEEZE, /* runs of two or more spaces → to */
	TOK_NORM_CHARSMAP /* SentencePiece's precompiled map: from */
} tok_norm_kind;

typedef struct tok_norm
{
	tok_norm_kind kind;
	llm_unicode_form form;
	bool clean, cjk, strip_accents, lower; /* TOK_NORM_BERT */
	bool left, right;                      /* TOK_NORM_STRIP: white space, or from */
	bool longest;                          /* TOK_NORM_CHARSMAP: the longest key counts */
	const char *from;
	size_t bytes_from;
	const char *to;
	size_t bytes_to;
} tok_norm;

typedef enum tok_split_kind
{
	TOK_SPLIT_NONE, /* changes the text only */
	TOK_SPLIT_GPT2,
	TOK_SPLIT_LLAMA3,
	TOK_SPLIT_TEKKEN, /* also GPT-4o's, with contractions */
	TOK_SPLIT_DIGITS,
	TOK_SPLIT_BERT,
	TOK_SPLIT_WHITESPACE,
	TOK_SPLIT_WORDS, /* \w+|[^\w\s]+ */
	TOK_SPLIT_PUNCTUATION,
	TOK_SPLIT_BEHIND_SPACE, /* " " MergedWithPrevious */
	TOK_SPLIT_METASPACE,    /* before each ▁ */
	TOK_SPLIT_BEFORE_RUN    /* before each run of ▁ */
} tok_split_kind;

typedef enum tok_prefix
{
	TOK_PREFIX_NEVER,
	TOK_PREFIX_FIRST, /* where the text begins */
	TOK_PREFIX_ALWAYS /* where each piece between added tokens begins */
} tok_prefix;

typedef struct tok_split
{
	tok_split_kind kind;
	uint32_t digits;   /* the longest run of digits in one word */
	bool contractions; /* TOK_SPLIT_TEKKEN: 's and its like belong to the word before */
	bool metaspace;    /* spaces become ▁ first */
	tok_prefix prefix; /* a space (▁) goes in front unless there is one */
} tok_split;

/* One item of a post-processing template: a special token, or the text a or b. */
typedef struct tok_item
{
	int32_t id;  /* −1: a text */
	bool second; /* the text b */
	uint32_t type_id;
} tok_item;

typedef struct tok_template
{
	tok_item items[TOK_TEMPLATE_MAX];
	uint32_t n;
} tok_template;

/* A node of a trie; its children stand in a row, in the order of their bytes. */
typedef struct tok_node
{
	uint32_t first; /* the first child */
	uint16_t n;     /* children */
	uint8_t byte;   /* leads here from the parent */
	int32_t id;     /* of the text that ends here, −1 */
} tok_node;

/* A trie of byte strings; {0} holds none. Node 0 is the root. */
typedef struct tok_trie
{
	tok_node *nodes;
	uint32_t n_nodes;
	uint32_t root[256]; /* the root's children by byte; 0 = none */
} tok_trie;

/* A text on the way into a trie. */
typedef struct tok_key
{
	const char *text;
	uint32_t bytes;
	int32_t id;
} tok_key;

struct llm_tokenizer
{
	tok_model model;
	llm_arena *arena;   /* what does not point into the file */
	tok_entry *entries; /* [n_vocab] */
	double *scores;     /* [n_vocab] SentencePiece's; NULL otherwise */
	uint32_t n_vocab;
	uint32_t *by_text;  /* id + 1, open addressing: any token by its text */
	uint32_t *by_piece; /* what the model may make of plain text, by the bytes it sees */
	uint32_t n_by_text; /* slots of both, a power of two */
	uint32_t bytes_token_max;

	uint64_t *pair_key;   /* TOK_BPE: (left id << 32 | right id) + 1 */
	uint64_t *pair_value; /* rank << 32 | merged id */
	uint32_t n_pair_slots;
	uint32_t *rank; /* TOK_SPM: [n_vocab] place of the score, equal scores alike */

	tok_trie added[2]; /* in the text as given; in the normalised text */
	tok_trie pieces;   /* Unigram, WordPiece */
	uint32_t inside;   /* WordPiece: the node of the prefix, where words go on; UINT32_MAX: none */

	bool byte_level;          /* texts of tokens are in GPT-2's byte alphabet */
	bool byte_fallback;       /* unknown characters become <0xNN> */
	bool ignore_merges;       /* a word that is a token is that token, whatever merging gives */
	bool fuse_unk;            /* BPE: a row of unknown characters is one unknown token */
	bool strip_leading_space; /* detokenising drops the one that tokenising put in */
	bool cleanup;             /* WordPiece: no space before . ? ! , and contractions */
	int32_t byte_id[256];     /* the token of a byte; −1 */
	int32_t unk;
	double unk_score;   /* Unigram: of an unknown character */
	bool single_sums;   /* Unigram: SentencePiece keeps sums in single precision */
	const char *prefix; /* WordPiece: "##" */
	size_t bytes_prefix;
	uint32_t word_chars_max; /* WordPiece: longer words are unknown */

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

/* A growing byte buffer; free bytes with llm_free. */
typedef struct tok_buffer
{
	char *bytes;
	size_t n;
	size_t capacity;
} tok_buffer;

llm_status tok_grow(tok_buffer *b, size_t n, llm_error *err);

/* Appends bytes. */
static inline llm_status
tok_put(tok_buffer *b, const char *bytes, size_t n, llm_error *err)
{
	llm_status status;

	if (n > b->capacity - b->n && (status = tok_grow(b, n, err)) != LLM_OK)
		return status;
	if (n > 0)
		memcpy(b->bytes + b->n, bytes, n);
	b->n += n;
	return LLM_OK;
}

/* What one call writes. {0} to begin with; arrays grow and are kept between words. */
typedef struct tok_scratch
{
	void *symbols; /* BPE */
	size_t n_symbols;
	void *heap;
	size_t n_heap;
	void *lattice; /* Unigram */
	size_t n_lattice;
	tok_buffer normal[2];            /* normalisers write the two in turn */
	tok_buffer step[2];              /* within one normaliser */
	tok_buffer level[TOK_STEPS_MAX]; /* texts that pre-tokenizers have changed */
} tok_scratch;

void tok_scratch_free(tok_scratch *scratch);
/* An array of at least n items in the scratch; its content goes. NULL: no memory. */
void *tok_scratch_array(void **array, size_t *n_have, size_t n, size_t size);

/* llm_tok_vocab.c */
llm_status tok_vocab_create(llm_tokenizer *t, uint64_t n, llm_error *err);
llm_status tok_vocab_index(llm_tokenizer *t, llm_error *err); /* once texts are set */
int32_t tok_find(const llm_tokenizer *t, const char *text, size_t bytes);
int32_t tok_find_piece(const llm_tokenizer *t, const char *piece, size_t bytes);
llm_status tok_merges_create(llm_tokenizer *t, uint64_t n, llm_error *err);
llm_status tok_merge_add(llm_tokenizer *t, const char *left, size_t n_left, const char *right,
                         size_t n_right, uint32_t rank, llm_error *err);
/* The same from "left right". */
llm_status tok_merge_add_text(llm_tokenizer *t, const char *text, size_t n, uint32_t rank,
                              llm_error *err);
bool tok_merge_find(const llm_tokenizer *t, int32_t left, int32_t right, uint32_t *rank,
                    int32_t *merged);
void tok_end_add(llm_tokenizer *t, int32_t id); /* −1: nothing */
/* Builds all tables once entries, flags and steps are set. */
llm_status tok_finish(llm_tokenizer *t, llm_error *err);

/* llm_tok_trie.c */
/* Sorts the keys. The first id of equal texts counts; empty texts are left out. */
llm_status tok_trie_build(tok_trie *trie, tok_key *keys, size_t n, llm_error *err);
void tok_trie_free(tok_trie *trie);
/* Follows one byte from *node; false, and *node unchanged, when there is no such child. */
bool tok_trie_step(const tok_trie *trie, uint32_t *node, unsigned char byte);

/* llm_tok_added.c */
typedef struct tok_cut
{
	size_t begin; /* of what the token takes, white space included */
	size_t end;
	int32_t id;
} tok_cut;

llm_status tok_added_index(llm_tokenizer *t, llm_error *err);
/* The next added token at or behind *at, which moves behind it. */
bool tok_added_next(const llm_tokenizer *t, bool normalised, bool special, const char *text,
                    size_t n, size_t *at, tok_cut *cut);

/* llm_tok_normalise.c: *out points at the result, in the scratch or at text itself. */
llm_status tok_normalise(const llm_tokenizer *t, const char *text, size_t n, bool continues,
                         tok_scratch *scratch, const char **out, size_t *n_out, llm_error *err);
/* llm_tok_charsmap.c */
llm_status tok_charsmap_check(const char *map, size_t n, llm_error *err);
llm_status tok_charsmap_apply(const tok_norm *norm, const char *s, size_t n, tok_buffer *out,
                              llm_error *err);

/* llm_tok_scan.c: the length of the word at the front of s, n > 0; *drop: it is no word. */
size_t tok_scan_word(const tok_split *split, const char *s, size_t n, bool *drop);

/* llm_tok_split.c: gives each word to fn, in order. */
typedef llm_status (*tok_word_fn)(void *arg, const char *word, size_t n, llm_error *err);
llm_status tok_split_words(const llm_tokenizer *t, const char *text, size_t n, bool first,
                           bool continues, tok_scratch *scratch, tok_word_fn fn, void *arg,
                           llm_error *err);

/* The models: append the ids of one word. */
llm_status tok_bpe(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
                   llm_tokens *out, llm_error *err);
llm_status tok_bpe_index(llm_tokenizer *t, llm_error *err); /* ranks, TOK_WHOLE, safe splits */
llm_status tok_unigram(const llm_tokenizer *t, const char *word, size_t n, tok_scratch *scratch,
                       llm_tokens *out, llm_error *err);
llm_status tok_wordpiece(const llm_tokenizer *t, const char *word, size_t n, llm_tokens *out,
                         llm_error *err);

/* The loaders fill in everything but the tables. Texts stay where the file's reader has them. */
llm_status tok_load_gguf(llm_tokenizer *t, llm_weights *w, llm_error *err);
llm_status tok_load_hf(llm_tokenizer *t, llm_weights *w, llm_error *err);
llm_status tok_load_json(llm_tokenizer *t, const llm_json *root, llm_error *err);
llm_status tok_load_steps(llm_tokenizer *t, const llm_json *root, llm_error *err);
llm_status tok_refuse(const char *what, const llm_json *name, llm_error *err);

/* A tokenizer with defaults, and its end: the two halves of llm_tokenizer_load, for tests. */
llm_status tok_create(llm_tokenizer **out, llm_error *err);

#endif /* LLM_TOK_INTERNAL_H */
