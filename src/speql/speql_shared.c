/*
 * speql_shared.c: creates and attaches the shared memory of speculation.
 *
 * The DSA area lives in the main shared memory segment, as that of the cumulative statistics does;
 * what does not fit there goes to dynamic segments, up to SPEQL_AREA_LIMIT.
 */
#include "speql_shared.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define SPEQL_TRANCHE    "prepack_speculation"
#define SPEQL_AREA_SIZE  (512 * 1024)
#define SPEQL_AREA_LIMIT (64 * 1024 * 1024)

SpeqlShared *speql_shared = NULL;

static void *area_place = NULL;
static dsa_area *area = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Asks for the memory. */
static void
shared_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(add_size(MAXALIGN(sizeof(SpeqlShared)), SPEQL_AREA_SIZE));
	RequestNamedLWLockTranche(SPEQL_TRANCHE, 2);
}

/* First contents of the state. */
static void
shared_init(void)
{
	LWLockPadded *locks = GetNamedLWLockTranche(SPEQL_TRANCHE);
	SpeqlCounters *c = &speql_shared->counters;

	memset(speql_shared, 0, sizeof(*speql_shared));
	speql_shared->lock = &locks[0].lock;
	speql_shared->track_lock = &locks[1].lock;
	speql_shared->next_table = speql_shared->next_feed = speql_shared->next_registration = 1;
	speql_shared->next_history = 1;
	speql_shared->epoch = (uint64) GetCurrentTimestamp();
	ConditionVariableInit(&speql_shared->changed);
	pg_atomic_init_u32(&speql_shared->n_tracked, 0);
	pg_atomic_init_u32(&speql_shared->n_ready, 0);
	pg_atomic_init_u32(&speql_shared->n_sessions, 0);
	pg_atomic_init_u64(&speql_shared->generation, 0);
	for (int i = 0; i < SPEQL_TRACKED_MAX; i++)
		SpinLockInit(&speql_shared->tracked[i].mutex);
	for (pg_atomic_uint64 *n = &c->n_feeds; n < &c->reasons[SPEQL_N_REASONS]; n++)
		pg_atomic_init_u64(n, 0);
}

/* Creates the area; the postmaster only, which must not stay attached. */
static void
area_init(void)
{
	dsa_area *created =
	    dsa_create_in_place(area_place, SPEQL_AREA_SIZE, speql_shared->lock->tranche, NULL);

	dsa_pin(created);
	dsa_set_size_limit(created, SPEQL_AREA_LIMIT);
	dsa_detach(created);
}

/* Creates or finds everything. */
static void
shared_startup(void)
{
	bool found, found_area;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	speql_shared = NULL;
	area = NULL;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	speql_shared = ShmemInitStruct(SPEQL_TRANCHE, sizeof(SpeqlShared), &found);
	area_place = ShmemInitStruct(SPEQL_TRANCHE "_area", SPEQL_AREA_SIZE, &found_area);
	if (!found)
	{
		shared_init();
		area_init();
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Installs the hooks. */
void
speql_shared_install(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup;
}

/* Attaches to the area on first use. */
dsa_area *
speql_area(void)
{
	MemoryContext old;

	if (area != NULL)
		return area;
	old = MemoryContextSwitchTo(TopMemoryContext);
	area = dsa_attach_in_place(area_place, NULL);
	dsa_pin_mapping(area);
	MemoryContextSwitchTo(old);
	return area;
}

/* Copies bytes into the area. */
dsa_pointer
speql_store(const void *data, Size size)
{
	dsa_pointer piece =
	    dsa_allocate_extended(speql_area(), Max(size, 1), DSA_ALLOC_NO_OOM | DSA_ALLOC_HUGE);

	if (DsaPointerIsValid(piece))
		memcpy(dsa_get_address(area, piece), data, size);
	return piece;
}

/* Frees a piece. */
void
speql_release(dsa_pointer *piece)
{
	if (DsaPointerIsValid(*piece))
		dsa_free(speql_area(), *piece);
	*piece = InvalidDsaPointer;
}

/* Reads a text. */
const char *
speql_text(dsa_pointer piece)
{
	return DsaPointerIsValid(piece) ? dsa_get_address(speql_area(), piece) : NULL;
}
