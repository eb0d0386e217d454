/*
 * llm_kv.c: see llm_kv.h. Tables of sequences over the page pool (llm_kv_page.c) and the prefix
 * tree (llm_prefix.c).
 *
 * What can fail is decided before anything changes: a call that returns an error has at most
 * evicted cached prefixes, and evicts none when even all of them would not be enough.
 */
#include "llm_kv.h"

#include <string.h>

#include "llm_alloc.h"
#include "llm_kv_internal.h"

/* Makes a pool of n_pages free pages with an empty tree. */
llm_status
llm_kv_create(uint32_t n_pages, uint32_t page_tokens, llm_kv **out, llm_error *err)
{
	llm_kv *kv;
	llm_status status;

	*out = NULL;
	if (n_pages == 0 || page_tokens == 0)
		return llm_fail(err, LLM_E_RANGE, "a KV pool needs at least one page of one token");
	if ((kv = llm_calloc(1, sizeof(*kv))) == NULL)
		return llm_fail(err, LLM_E_NOMEM, "out of memory for the KV bookkeeping");
	status = llm_page_pool_init(&kv->pool, n_pages, page_tokens, err);
	if (status == LLM_OK)
		status = llm_prefix_init(&kv->tree, &kv->pool, err);
	if (status != LLM_OK)
	{
		llm_kv_free(kv);
		return status;
	}
	*out = kv;
	return LLM_OK;
}

/* Frees the bookkeeping; tables that still hold pages must not be used with it any more. */
void
llm_kv_free(llm_kv *kv)
{
	if (kv == NULL)
		return;
	llm_prefix_deinit(&kv->tree);
	llm_page_pool_deinit(&kv->pool);
	llm_free(kv);
}

/* Reads the counters. */
void
llm_kv_get_stats(const llm_kv *kv, llm_kv_stats *stats)
{
	*stats = (llm_kv_stats){
	    .n_pages = kv->pool.n_pages,
	    .n_free = kv->pool.n_free,
	    .n_cached = kv->pool.n_evictable,
	    .n_pinned = kv->pool.n_pinned,
	    .n_hit_tokens = kv->n_hit_tokens,
	    .n_miss_tokens = kv->n_miss_tokens,
	};
}

/* The number of tokens of a page. */
uint32_t
llm_kv_page_tokens(const llm_kv *kv)
{
	return kv->pool.page_tokens;
}

/* Makes room for n_pages in a table's array, growing by half at least. */
static bool
table_reserve(llm_kv_table *table, uint32_t n_pages)
{
	uint32_t capacity = table->capacity + table->capacity / 2;
	uint32_t *pages;

	if (n_pages <= table->capacity)
		return true;
	if (capacity < n_pages)
		capacity = n_pages;
	if ((pages = llm_realloc_array(table->pages, capacity, sizeof(*pages))) == NULL)
		return false;
	table->pages = pages;
	table->capacity = capacity;
	return true;
}

/* Finds, takes one reference on each page, counts hit and miss. */
uint32_t
llm_kv_attach(llm_kv *kv, llm_kv_table *table, const llm_salt *salt, const int32_t *tokens,
              uint32_t n, uint32_t n_max)
{
	uint32_t n_wanted = n < n_max ? n : n_max;
	llm_prefix_match m = llm_prefix_find(&kv->tree, salt, tokens, n_wanted);
	uint32_t n_pages = llm_page_count(&kv->pool, m.n);

	if (!table_reserve(table, n_pages))
		m.n = n_pages = 0;
	kv->n_hit_tokens += m.n;
	kv->n_miss_tokens += n - m.n;
	if (m.n == 0)
		return 0;
	llm_prefix_touch(&kv->tree, m.node, true);
	llm_prefix_pages(&kv->tree, m, table->pages);
	for (uint32_t i = 0; i < n_pages; i++)
		llm_page_shift(&kv->pool, table->pages[i], 1, 0, 0);
	table->n_pages = n_pages;
	table->n_slots = m.n;
	return m.n;
}

/* Walks the tree only. */
uint32_t
llm_kv_probe(const llm_kv *kv, const llm_salt *salt, const int32_t *tokens, uint32_t n)
{
	return llm_prefix_find(&kv->tree, salt, tokens, n).n;
}

/*
 * Says whether the table's last page is partly filled and has another holder, so that it must not
 * be written.
 */
static bool
tail_is_shared(const llm_kv *kv, const llm_kv_table *table)
{
	const llm_page *page;

	if (table->n_slots % kv->pool.page_tokens == 0)
		return false;
	page = &kv->pool.pages[table->pages[table->n_pages - 1]];
	return page->table_refs + page->tree_refs > 1;
}

/* Evicts until n pages are free, if that is possible at all. */
static bool
make_room(llm_kv *kv, uint32_t n)
{
	if (n > kv->pool.n_free && n - kv->pool.n_free > kv->pool.n_evictable)
		return false;
	llm_prefix_evict(&kv->tree, n);
	return true;
}

/*
 * Makes room for n_grow pages behind the table and for un-sharing its tail. When that one page more
 * is not to be had and only the tree shares the tail, the tree gives it up: so a sequence that fits
 * alone always runs.
 */
static bool
make_room_for(llm_kv *kv, const llm_kv_table *table, uint32_t n_grow)
{
	const llm_page *tail;

	if (!tail_is_shared(kv, table))
		return make_room(kv, n_grow);
	if (make_room(kv, n_grow + 1))
		return true;
	tail = &kv->pool.pages[table->pages[table->n_pages - 1]];
	if (tail->table_refs > 1 || tail->locked_refs > 0 || !make_room(kv, n_grow))
		return false;
	llm_prefix_evict_page(&kv->tree, table->pages[table->n_pages - 1]);
	return true;
}

/* Takes a page for salt, asking for it to be cleared if it held another salt's data. */
static uint32_t
take_page(llm_kv *kv, const llm_salt *salt, llm_kv_fixup *fixups, uint32_t *n_fixups)
{
	bool dirty;
	uint32_t page = llm_page_take(&kv->pool, salt, &dirty);

	if (dirty)
		fixups[(*n_fixups)++] = (llm_kv_fixup){.kind = LLM_KV_CLEAR, .dst_page = page};
	return page;
}

/* Replaces the table's shared tail with a page of its own. */
static void
unshare_tail(llm_kv *kv, llm_kv_table *table, const llm_salt *salt, llm_kv_fixup *fixups,
             uint32_t *n_fixups)
{
	uint32_t *tail = &table->pages[table->n_pages - 1];
	uint32_t page = take_page(kv, salt, fixups, n_fixups);

	fixups[(*n_fixups)++] = (llm_kv_fixup){.kind = LLM_KV_COPY,
	                                       .dst_page = page,
	                                       .src_page = *tail,
	                                       .n_slots = table->n_slots % kv->pool.page_tokens};
	llm_page_shift(&kv->pool, *tail, -1, 0, 0);
	*tail = page;
}

/* Checks and evicts first; from there on nothing fails. */
llm_status
llm_kv_extend(llm_kv *kv, llm_kv_table *table, const llm_salt *salt, uint32_t n_new,
              llm_kv_fixup *fixups, uint32_t *n_fixups, llm_error *err)
{
	uint32_t n_pages;

	if (n_new == 0)
		return LLM_OK;
	if (n_new > UINT32_MAX - table->n_slots)
		return llm_fail(err, LLM_E_LIMIT, "a sequence cannot have more than %u tokens", UINT32_MAX);
	n_pages = llm_page_count(&kv->pool, table->n_slots + n_new);
	if (n_pages > kv->pool.n_pages || !make_room_for(kv, table, n_pages - table->n_pages))
		return llm_fail(err, LLM_E_LIMIT, "no KV pages are free");
	if (!table_reserve(table, n_pages))
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a page table");
	if (tail_is_shared(kv, table))
		unshare_tail(kv, table, salt, fixups, n_fixups);
	while (table->n_pages < n_pages)
		table->pages[table->n_pages++] = take_page(kv, salt, fixups, n_fixups);
	table->n_slots += n_new;
	return LLM_OK;
}

/* Gives back the pages that no remaining slot lies in. */
void
llm_kv_truncate(llm_kv *kv, llm_kv_table *table, uint32_t n_slots)
{
	uint32_t n_pages;

	if (n_slots >= table->n_slots)
		return;
	n_pages = llm_page_count(&kv->pool, n_slots);
	while (table->n_pages > n_pages)
		llm_page_shift(&kv->pool, table->pages[--table->n_pages], -1, 0, 0);
	table->n_slots = n_slots;
}

/* Copies the page list and takes one reference on each page. */
llm_status
llm_kv_fork(llm_kv *kv, const llm_kv_table *src, uint32_t n_slots, llm_kv_table *dst,
            llm_error *err)
{
	uint32_t n_pages = llm_page_count(&kv->pool, n_slots);

	if (n_slots > src->n_slots || dst->n_pages != 0)
		return llm_fail(err, LLM_E_RANGE, "cannot share %u of %u slots", n_slots, src->n_slots);
	if (!table_reserve(dst, n_pages))
		return llm_fail(err, LLM_E_NOMEM, "out of memory for a page table");
	for (uint32_t i = 0; i < n_pages; i++)
	{
		dst->pages[i] = src->pages[i];
		llm_page_shift(&kv->pool, dst->pages[i], 1, 0, 0);
	}
	dst->n_pages = n_pages;
	dst->n_slots = n_slots;
	return LLM_OK;
}

/* Truncates to nothing and frees the array. */
void
llm_kv_release(llm_kv *kv, llm_kv_table *table)
{
	llm_kv_truncate(kv, table, 0);
	llm_free(table->pages);
	*table = (llm_kv_table){0};
}

/* Hands the pages of the first n slots to the tree as well. */
llm_status
llm_kv_insert(llm_kv *kv, const llm_kv_table *table, const llm_salt *salt, const int32_t *tokens,
              uint32_t n, llm_error *err)
{
	if (n > table->n_slots)
		return llm_fail(err, LLM_E_RANGE, "cannot keep %u of %u slots", n, table->n_slots);
	return llm_prefix_insert(&kv->tree, table->pages, salt, tokens, n, err);
}

/* Only an entry that was inserted with exactly these tokens counts, not a mere fork in the tree. */
llm_status
llm_kv_pin(llm_kv *kv, const llm_salt *salt, const int32_t *tokens, uint32_t n, bool pin,
           llm_error *err)
{
	llm_prefix_match m = llm_prefix_find(&kv->tree, salt, tokens, n);

	if (n == 0 || m.n < n || m.node->end != n || !m.node->entry)
		return llm_fail(err, LLM_E_NOT_FOUND, "no cached prefix of exactly these %u tokens", n);
	llm_prefix_pin(&kv->tree, m.node, pin);
	return LLM_OK;
}

/*
 * Counts the table's own pinned pages once, and one page more where a shared tail must be copied.
 */
bool
llm_kv_unpin_for(llm_kv *kv, const llm_kv_table *table, uint32_t n_new)
{
	uint64_t n_pages = (uint64_t) llm_page_count(&kv->pool, table->n_slots + n_new) +
	                   tail_is_shared(kv, table) + kv->pool.n_pinned;

	for (uint32_t i = 0; i < table->n_pages; i++)
		n_pages -= kv->pool.pages[table->pages[i]].locked_refs > 0;
	if (kv->pool.n_pinned == 0 || n_pages <= kv->pool.n_pages)
		return false;
	llm_prefix_unpin_all(&kv->tree);
	return true;
}

/* Pages that sequences still use become free when these end. */
uint32_t
llm_kv_drop_cache(llm_kv *kv, bool pinned)
{
	uint32_t n_free = kv->pool.n_free;

	llm_prefix_drop(&kv->tree, pinned);
	return kv->pool.n_free - n_free;
}

/* Lists the ends of inserts, in no particular order. */
uint32_t
llm_kv_list(const llm_kv *kv, llm_prefix_info *out, uint32_t max)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < kv->tree.n_buckets; i++)
		for (const llm_prefix_node *node = kv->tree.buckets[i]; node != NULL; node = node->chain)
		{
			if (!node->entry)
				continue;
			if (n < max)
				out[n] = (llm_prefix_info){.salt = node->salt,
				                           .n_tokens = node->end,
				                           .hits = node->hits,
				                           .last_used = node->last_used,
				                           .pinned = node->pinned};
			n++;
		}
	return n;
}
