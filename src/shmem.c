/*
 * shmem.c: the shared state of the supervisor. See PpShared in prepack.h for who may touch what.
 *
 * After a crash-restart of the cluster the hooks run again in the new life: the local pointer is
 * reset first, and found = true is normal only under EXEC_BACKEND.
 */
#include "prepack.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "compat.h"

#define PP_TRANCHE "prepack"

PpShared *pp_shared = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Asks for the memory. */
static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(PpShared)));
	RequestNamedLWLockTranche(PP_TRANCHE, 1);
}

/* Creates or finds the shared state. */
static void
shmem_startup(void)
{
	bool found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	pp_shared = NULL;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	pp_shared = ShmemInitStruct("prepack", sizeof(PpShared), &found);
	if (!found)
	{
		memset(pp_shared, 0, sizeof(*pp_shared));
		pp_shared->lock = &GetNamedLWLockTranche(PP_TRANCHE)->lock;
		pp_shared->state = PP_ENGINE_DOWN;
		ConditionVariableInit(&pp_shared->state_changed);
		pg_atomic_init_u64(&pp_shared->n_unloads, 0);
		if (!pg_strong_random(pp_shared->salt_key, sizeof(pp_shared->salt_key)))
			ereport(FATAL, (errcode(ERRCODE_INTERNAL_ERROR),
			                errmsg("could not generate the prefix cache key")));
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Installs both hooks. */
void
pp_shmem_install(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}
