/*
 * prepack.c: what happens when the library is loaded: settings, shared memory, hooks, the
 * supervisor. Nothing else.
 *
 * Loaded by shared_preload_libraries, everything is set up. Loaded later (CREATE EXTENSION without
 * preload, dump and restore), only the settings a session may use are defined, and functions that
 * need the engine say so.
 */
#include "prepack.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "batch.h"
#include "compat.h"
#include "speql/speql_ddl.h"
#include "speql/speql_plan.h"
#include "speql/speql_registry.h"
#include "speql/speql_scan.h"
#include "speql/speql_shared.h"
#include "speql/speql_track.h"
#include "stats.h"

PP_MODULE_MAGIC("prepack", PP_VERSION);

PGDLLEXPORT void _PG_init(void);

/* Sets the library up, as far as the moment of loading allows. */
void
_PG_init(void)
{
	bool preloading = process_shared_preload_libraries_in_progress;

	pp_define_gucs(preloading);
	pp_batch_install();
	speql_scan_install();
	speql_plan_install();
	if (!preloading)
		return;
	pp_shmem_install();
	pp_stats_install();
	speql_shared_install();
	speql_track_install();
	speql_registry_install();
	speql_ddl_install();

	/* pg_upgrade starts the server to copy catalogs: no engine is wanted then. */
	if (!IsBinaryUpgrade)
		pp_supervisor_register();
}

/* Refuses to go on where there can be no engine. */
void
pp_require_preload(void)
{
	if (pp_shared == NULL)
		ereport(ERROR,
		        (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("prepack is not loaded"),
		         errhint("Add \"prepack\" to shared_preload_libraries and restart the server.")));
}
