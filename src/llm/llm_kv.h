/*
 * llm_kv.h: ownership of KV pages, and the prefix tree over them. Pure bookkeeping: no tensor is
 * touched here.
 *
 * A page holds page_tokens consecutive tokens of one sequence in every layer. Pages are reference
 * counted: a sequence holds one reference on each page of its table, the prefix tree holds one on
 * each page it keeps. A page with more than one reference is never written; a writer copies the
 * used slots first (copy on write).
 *
 * The prefix tree (a radix tree over token ids, token-granular) is keyed by salt: entries of one
 * salt are never visible under another. The salt comes from the server side (database and role),
 * never from a query. Unpinned leaves are evicted least recently used first when pages run out.
 * Before a page that held one salt's data goes to another salt it is reported dirty, so that the
 * engine clears it.
 */
#ifndef LLM_KV_H
#define LLM_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llm_status.h"

typedef struct llm_salt
{
	uint8_t bytes[16];
} llm_salt;

typedef struct llm_kv llm_kv;

/*
 * The pages of one sequence. {0} is empty. The array grows as needed (llm_alloc); a caller that
 * lends one of enough capacity never sees an allocation, and empties the table with
 * llm_kv_truncate(…, 0) instead of llm_kv_release.
 */
typedef struct llm_kv_table
{
	uint32_t *pages;
	uint32_t n_pages; /* those that n_slots fill, the last one perhaps in part */
	uint32_t capacity;
	uint32_t n_slots; /* tokens whose KV is (or is about to be) in the pages */
} llm_kv_table;

/* Asks of the bookkeeping that the engine must carry out on the device before the pass. */
typedef struct llm_kv_fixup
{
	enum
	{
		LLM_KV_COPY,
		LLM_KV_CLEAR
	} kind;
	uint32_t dst_page;
	uint32_t src_page;
	uint32_t n_slots;
} llm_kv_fixup;

typedef struct llm_kv_stats
{
	uint32_t n_pages;
	uint32_t n_free;
	uint32_t n_cached;     /* held by unpinned entries only: can be evicted, so as good as free */
	uint32_t n_pinned;     /* held by pinned entries */
	uint64_t n_hit_tokens; /* since start */
	uint64_t n_miss_tokens;
} llm_kv_stats;

typedef struct llm_prefix_info /* one entry of the tree, for the prefixes view */
{
	llm_salt salt;
	uint32_t n_tokens;
	uint64_t hits;
	uint64_t last_used; /* logical clock */
	bool pinned;
} llm_prefix_info;

llm_status llm_kv_create(uint32_t n_pages, uint32_t page_tokens, llm_kv **out, llm_error *err);
void llm_kv_free(llm_kv *kv);
void llm_kv_get_stats(const llm_kv *kv, llm_kv_stats *stats);
uint32_t llm_kv_page_tokens(const llm_kv *kv);

/*
 * Starts table (must be empty) with the longest cached prefix of tokens[0, n) under salt, at most
 * n_max tokens; returns the number of tokens found, token-granular: a partly used last page is
 * shared until it is written. Finds nothing when memory for the table is short.
 */
uint32_t llm_kv_attach(llm_kv *kv, llm_kv_table *table, const llm_salt *salt, const int32_t *tokens,
                       uint32_t n, uint32_t n_max);
/* How many tokens attach would find, without taking anything. */
uint32_t llm_kv_probe(const llm_kv *kv, const llm_salt *salt, const int32_t *tokens, uint32_t n);

/*
 * Makes room for n_new more tokens behind table->n_slots and raises n_slots: takes pages (evicting
 * cached ones if need be) and un-shares a partly filled last page. Appends, in the order they must
 * run, at most one copy and one clear per page taken to fixups[*n_fixups]: room for n_new /
 * page_tokens + 4 is enough. LLM_E_LIMIT when there are not enough pages, LLM_E_NOMEM when the
 * table cannot grow: table is unchanged then.
 */
llm_status llm_kv_extend(llm_kv *kv, llm_kv_table *table, const llm_salt *salt, uint32_t n_new,
                         llm_kv_fixup *fixups, uint32_t *n_fixups, llm_error *err);
/* Takes back the slots behind n_slots (rejected drafts, trie tails); gives whole pages back. */
void llm_kv_truncate(llm_kv *kv, llm_kv_table *table, uint32_t n_slots);
/*
 * Shares src's first n_slots with the empty table dst. Where src's slots are only written by the
 * coming pass, n_slots must be whole pages: a copy of a partly filled page would run before its
 * slots are written.
 */
llm_status llm_kv_fork(llm_kv *kv, const llm_kv_table *src, uint32_t n_slots, llm_kv_table *dst,
                       llm_error *err);
/* Gives all pages back; the table is {0} after. */
void llm_kv_release(llm_kv *kv, llm_kv_table *table);

/* Keeps the first n tokens of a sequence in the tree. Their KV must have been computed. */
llm_status llm_kv_insert(llm_kv *kv, const llm_kv_table *table, const llm_salt *salt,
                         const int32_t *tokens, uint32_t n, llm_error *err);
/* Pins or unpins the entry that ends exactly at tokens[0, n). LLM_E_NOT_FOUND if there is none. */
llm_status llm_kv_pin(llm_kv *kv, const llm_salt *salt, const int32_t *tokens, uint32_t n, bool pin,
                      llm_error *err);
/*
 * A pin is a wish, not a claim: where table could not grow by n_new tokens even with every page but
 * the pinned ones to itself, unpins all entries and returns true.
 */
bool llm_kv_unpin_for(llm_kv *kv, const llm_kv_table *table, uint32_t n_new);
/* Drops every unpinned entry (all, with pinned) and returns the number of pages freed. */
uint32_t llm_kv_drop_cache(llm_kv *kv, bool pinned);
/* Writes up to max entries; returns how many there are. */
uint32_t llm_kv_list(const llm_kv *kv, llm_prefix_info *out, uint32_t max);

/* Full self-check for tests: counts, ownership, tree order. NULL when sound, else what is wrong. */
const char *llm_kv_verify(const llm_kv *kv, const llm_kv_table *const *tables, uint32_t n_tables);

#endif /* LLM_KV_H */
