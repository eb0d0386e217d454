/*
 * llm_pack.c: see llm_pack.h.
 *
 * Items are sorted by length, longest first (the first of equals first), so that results do not
 * depend on the sort. First fit asks for the first bin with enough room: a tournament tree over the
 * bins' room answers in O(log n). Worst fit asks for the emptiest bin: the top of a heap. A heap
 * works since an item that does not fit the emptiest bin fits none.
 */
#include "llm_pack.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include "llm_alloc.h"

typedef struct pack_item
{
	uint32_t length;
	uint32_t index;
} pack_item;

/* qsort order: longest first, then by index. */
static int
item_compare(const void *a, const void *b)
{
	const pack_item *x = a;
	const pack_item *y = b;

	if (x->length != y->length)
		return x->length > y->length ? -1 : 1;
	return (x->index > y->index) - (x->index < y->index);
}

/*
 * First fit. room[1 … 2 m) is the tree: leaf m + b is what bin b has left, an inner node the larger
 * of its children. Unopened bins have all their capacity, so that the search opens the next one by
 * itself.
 */
static uint32_t
pack_first_fit(const pack_item *items, uint32_t n, uint32_t capacity, uint32_t *room, size_t m,
               uint32_t *bin)
{
	uint32_t n_bins = 0;

	for (size_t i = 1; i < 2 * m; i++)
		room[i] = capacity;
	for (uint32_t k = 0; k < n; k++)
	{
		size_t i = 1;

		while (i < m)
			i = room[2 * i] >= items[k].length ? 2 * i : 2 * i + 1;
		bin[items[k].index] = (uint32_t) (i - m);
		if (i - m >= n_bins)
			n_bins = (uint32_t) (i - m) + 1;
		room[i] -= items[k].length;
		while ((i /= 2) >= 1)
			room[i] = room[2 * i] > room[2 * i + 1] ? room[2 * i] : room[2 * i + 1];
	}
	return n_bins;
}

/* Heap order: bin a is emptier than b; of equals the one opened first. */
static bool
emptier(const uint32_t *room, uint32_t a, uint32_t b)
{
	return room[a] != room[b] ? room[a] > room[b] : a < b;
}

/* Moves heap[i] down to where it belongs. */
static void
heap_sink(uint32_t *heap, uint32_t n, const uint32_t *room, uint32_t i)
{
	uint32_t moving = heap[i];

	for (uint32_t child; (child = 2 * i + 1) < n; i = child)
	{
		if (child + 1 < n && emptier(room, heap[child + 1], heap[child]))
			child++;
		if (!emptier(room, heap[child], moving))
			break;
		heap[i] = heap[child];
	}
	heap[i] = moving;
}

/* Moves heap[i] up to where it belongs. */
static void
heap_rise(uint32_t *heap, const uint32_t *room, uint32_t i)
{
	uint32_t moving = heap[i];

	for (; i > 0 && emptier(room, moving, heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = moving;
}

/* Worst fit. heap[n] are the open bins, room[n] what each has left. */
static uint32_t
pack_worst_fit(const pack_item *items, uint32_t n, uint32_t capacity, uint32_t *room,
               uint32_t *heap, uint32_t *bin)
{
	uint32_t n_bins = 0;

	for (uint32_t k = 0; k < n; k++)
	{
		bool opens = n_bins == 0 || room[heap[0]] < items[k].length;
		uint32_t b = opens ? n_bins : heap[0];

		bin[items[k].index] = b;
		if (opens)
		{
			room[b] = capacity - items[k].length;
			heap[n_bins] = b;
			heap_rise(heap, room, n_bins++);
		}
		else
		{
			room[b] -= items[k].length;
			heap_sink(heap, n_bins, room, 0);
		}
	}
	return n_bins;
}

/* Sorts, then runs the method on scratch that is freed on return. */
llm_status
llm_pack_bins(const uint32_t *lengths, uint32_t n, uint32_t capacity, llm_pack_method method,
              uint32_t *bin, uint32_t *n_bins, llm_error *err)
{
	size_t m = 1;
	pack_item *items;
	uint32_t *scratch;

	for (uint32_t i = 0; i < n; i++)
		if (lengths[i] > capacity)
			return llm_fail(err, LLM_E_RANGE, "item %u of %u tokens exceeds a bin of %u", i,
			                lengths[i], capacity);
	while (m < n)
		m *= 2;
	items = llm_malloc_array(n, sizeof(*items));
	scratch = llm_malloc_array(m, 2 * sizeof(*scratch));
	if (items == NULL || scratch == NULL)
	{
		llm_free(items);
		llm_free(scratch);
		return llm_fail(err, LLM_E_NOMEM, "out of memory for packing %u items", n);
	}
	for (uint32_t i = 0; i < n; i++)
		items[i] = (pack_item){.length = lengths[i], .index = i};
	qsort(items, n, sizeof(*items), item_compare);
	*n_bins = method == LLM_PACK_FIRST_FIT
	              ? pack_first_fit(items, n, capacity, scratch, m, bin)
	              : pack_worst_fit(items, n, capacity, scratch, scratch + m, bin);
	llm_free(items);
	llm_free(scratch);
	return LLM_OK;
}
