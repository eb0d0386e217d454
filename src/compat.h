/*
 * compat.h: differences between the PostgreSQL majors that prepack supports (15 to 18).
 *
 * The only place that tests PG_VERSION_NUM. Each shim names the major that made it necessary, so
 * that it can go when that major becomes the oldest supported one.
 */
#ifndef PP_COMPAT_H
#define PP_COMPAT_H

#include "postgres.h"

#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "prepack needs PostgreSQL 15 or newer"
#endif

/* 17: extensions name their own wait events; before, all extensions share one. */
#if PG_VERSION_NUM >= 170000
#define PP_WAIT_EVENT_NEW(name) WaitEventExtensionNew(name)
#else
#define PP_WAIT_EVENT_NEW(name) PG_WAIT_EXTENSION
#endif

/* 17: MyProcNumber replaced MyBackendId; search_path can be restricted in one call. */
#if PG_VERSION_NUM >= 170000
#define PP_RESTRICT_SEARCH_PATH() RestrictSearchPath()
#else
#define PP_RESTRICT_SEARCH_PATH() \
	set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, \
	                  GUC_ACTION_SAVE, true, 0, false)
#endif

/* 18: the module magic block carries name and version. */
#if PG_VERSION_NUM >= 180000
#define PP_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC_EXT(.name = name_, .version = version_)
#else
#define PP_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC
#endif

#endif /* PP_COMPAT_H */
