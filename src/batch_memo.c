/*
 * batch_memo.c: equal inputs of a statement are computed once.
 *
 * One hash table per EState, from the bytes of a call (the number of its type and constant
 * arguments, its row's arguments) to the result. The constants, an instruction of hundreds of bytes
 * perhaps, stand in the table once, under a key of their own, and get their number there. Bounded
 * as the executor's own hash tables are: once full it still answers but takes no more. Lives in the
 * statement's memory, so it goes with the statement, also after an error. Nodes of one statement
 * share it: a call that stands in WHERE and in ORDER BY is made once.
 */
#include "batch.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/memutils.h"

/* One result. key == NULL: a free slot. */
typedef struct MemoEntry
{
	char *key;
	Size key_bytes;
	uint32 hash;
	bool isnull;
	Datum value;
} MemoEntry;

/* True when an entry has this key. */
static inline bool
same_key(const MemoEntry *e, const char *key, Size key_bytes)
{
	return e->key_bytes == key_bytes && memcmp(e->key, key, key_bytes) == 0;
}

struct PpMemo
{
	struct PpMemo *next; /* of the backend's live statements */
	EState *estate;
	MemoryContext context;
	MemoryContextCallback forget;
	struct MemoEntry *table; /* open addressing, power of two */
	uint32 capacity;
	uint32 n;
	uint32 n_constants; /* numbers given */
	Size bytes_max;     /* of the context */
};

static PpMemo *memos = NULL;

/* Takes a memo off the list when its statement's memory goes. */
static void
forget_memo(void *arg)
{
	PpMemo **link = &memos;

	while (*link != NULL && *link != arg)
		link = &(*link)->next;
	if (*link != NULL)
		*link = (*link)->next;
}

/* Finds or makes the memo of a statement. */
PpMemo *
pp_memo_of(EState *estate)
{
	PpMemo *memo;

	for (memo = memos; memo != NULL; memo = memo->next)
		if (memo->estate == estate)
			return memo;
	memo = MemoryContextAllocZero(estate->es_query_cxt, sizeof(PpMemo));
	memo->estate = estate;
	memo->bytes_max = get_hash_memory_limit();
	memo->context =
	    AllocSetContextCreate(estate->es_query_cxt, "prepack memo", ALLOCSET_DEFAULT_SIZES);
	memo->forget.func = forget_memo;
	memo->forget.arg = memo;
	MemoryContextRegisterResetCallback(estate->es_query_cxt, &memo->forget);
	memo->next = memos;
	memos = memo;
	return memo;
}

/* The slot of a key: where it is, or where it would go. */
static MemoEntry *
find_slot(MemoEntry *table, uint32 capacity, uint32 hash, const char *key, Size key_bytes)
{
	uint32 i = hash & (capacity - 1);

	while (table[i].key != NULL && !(table[i].hash == hash && same_key(&table[i], key, key_bytes)))
		i = (i + 1) & (capacity - 1);
	return &table[i];
}

/* Looks a result up. */
bool
pp_memo_find(PpMemo *memo, const char *key, Size key_bytes, Datum *value, bool *isnull)
{
	MemoEntry *e;

	if (memo->n == 0)
		return false;
	e = find_slot(memo->table, memo->capacity, hash_bytes((const unsigned char *) key, key_bytes),
	              key, key_bytes);
	if (e->key == NULL)
		return false;
	*value = e->value;
	*isnull = e->isnull;
	return true;
}

/* Doubles the table; false when one allocation may not hold that. */
static bool
grow(PpMemo *memo)
{
	uint32 capacity = memo->capacity > 0 ? memo->capacity * 2 : 256;
	MemoEntry *table;

	if (capacity > MaxAllocSize / sizeof(MemoEntry))
		return false;
	table = MemoryContextAllocZero(memo->context, capacity * sizeof(MemoEntry));
	for (uint32 i = 0; i < memo->capacity; i++)
		if (memo->table[i].key != NULL)
			*find_slot(table, capacity, memo->table[i].hash, memo->table[i].key,
			           memo->table[i].key_bytes) = memo->table[i];
	if (memo->table != NULL)
		pfree(memo->table);
	memo->table = table;
	memo->capacity = capacity;
	return true;
}

/* Remembers a result. */
void
pp_memo_add(PpMemo *memo, const char *key, Size key_bytes, Datum value, bool isnull, int16 typlen,
            bool typbyval)
{
	MemoryContext old;
	MemoEntry *e;
	uint32 hash = hash_bytes((const unsigned char *) key, key_bytes);

	if (MemoryContextMemAllocated(memo->context, false) >= memo->bytes_max)
		return;
	if (memo->n * 2 >= memo->capacity && !grow(memo))
		return;
	e = find_slot(memo->table, memo->capacity, hash, key, key_bytes);
	if (e->key != NULL)
		return;
	old = MemoryContextSwitchTo(memo->context);
	e->key = palloc(Max(key_bytes, 1));
	memcpy(e->key, key, key_bytes);
	e->key_bytes = key_bytes;
	e->hash = hash;
	e->isnull = isnull;
	e->value = isnull ? (Datum) 0 : datumCopy(value, typbyval, typlen);
	MemoryContextSwitchTo(old);
	memo->n++;
}

/* The number of a call's constants; without room to keep it they get another the next time. */
uint32
pp_memo_constants(PpMemo *memo, const char *key, Size key_bytes)
{
	Datum number;
	bool isnull;

	if (pp_memo_find(memo, key, key_bytes, &number, &isnull))
		return DatumGetUInt32(number);
	number = UInt32GetDatum(++memo->n_constants);
	pp_memo_add(memo, key, key_bytes, number, false, sizeof(uint32), true);
	return memo->n_constants;
}
