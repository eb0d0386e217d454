/*
 * compat.h: differences between the PostgreSQL majors that prepack supports (15 to 18).
 *
 * The only place that tests PG_VERSION_NUM. Each shim names the major that made it necessary, so
 * that it can go when that major becomes the oldest supported one.
 */
#ifndef PP_COMPAT_H
#define PP_COMPAT_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "prepack needs PostgreSQL 15 or newer"
#endif

/* 18: what extensions print into EXPLAIN is declared apart from EXPLAIN itself. */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
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

/*
 * 17: LockHeldByMe can ask for stronger modes, too; the predicates on process kinds were renamed.
 */
#if PG_VERSION_NUM >= 170000
#define PP_LOCK_HELD_BY_ME(tag, mode) LockHeldByMe(tag, mode, false)
#define PP_AM_AUTOVACUUM_WORKER()     AmAutoVacuumWorkerProcess()
#else
#define PP_LOCK_HELD_BY_ME(tag, mode) LockHeldByMe(tag, mode)
#define PP_AM_AUTOVACUUM_WORKER()     IsAutoVacuumWorkerProcess()
#endif

/* 16: one function checks privileges of all kinds of objects. */
#if PG_VERSION_NUM >= 160000
#define PP_FUNCTION_ACLCHECK(function, role) \
	object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE)
#else
#define PP_FUNCTION_ACLCHECK(function, role) pg_proc_aclcheck(function, role, ACL_EXECUTE)
#endif

/* 16: flatten_join_alias_vars takes the planner's state, NULL outside of it. */
#if PG_VERSION_NUM >= 160000
#define PP_FLATTEN_JOIN_ALIASES(query, node) flatten_join_alias_vars(NULL, query, node)
#else
#define PP_FLATTEN_JOIN_ALIASES(query, node) flatten_join_alias_vars(query, node)
#endif

/* 18: constraints may be declared and not enforced. */
#if PG_VERSION_NUM >= 180000
#define PP_CONSTRAINT_ENFORCED(constraint) ((constraint)->conenforced)
#else
#define PP_CONSTRAINT_ENFORCED(constraint) true
#endif

/* 18: grouping expressions are Vars of a range table entry of their own. */
#if PG_VERSION_NUM >= 180000
#define PP_HAS_GROUP_RTE(query)        ((query)->hasGroupRTE)
#define PP_FLATTEN_GROUPS(query, node) flatten_group_exprs(NULL, query, node)
#define PP_CLEAR_GROUP_RTE(query)      ((query)->hasGroupRTE = false)
#define PP_IS_GROUP_RTE(rte)           ((rte)->rtekind == RTE_GROUP)
#else
#define PP_HAS_GROUP_RTE(query)        false
#define PP_FLATTEN_GROUPS(query, node) (node)
#define PP_CLEAR_GROUP_RTE(query)      ((void) 0)
#define PP_IS_GROUP_RTE(rte)           false
#endif

/*
 * 16: permissions moved from range table entries to a list of their own, which every relation's
 * entry needs; Vars know the joins that may have made them null.
 */
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#define PP_CLEAR_PERMISSIONS(rte) ((void) 0)
#define PP_UNCHECKED(query, rte) \
	((rte)->perminfoindex = 0, (void) addRTEPermissionInfo(&(query)->rteperminfos, rte))
#define PP_COPY_PERMISSION_LIST(to, from) ((to)->rteperminfos = copyObject((from)->rteperminfos))
#define PP_LET_OWNER_READ(query, rte, owner) \
	do \
	{ \
		RTEPermissionInfo *info_ = addRTEPermissionInfo(&(query)->rteperminfos, rte); \
		info_->requiredPerms = ACL_SELECT; \
		info_->checkAsUser = (owner); \
	} while (0)
#define PP_VAR_NULLING_RELS(var) (&(var)->varnullingrels)
#else
#define PP_CLEAR_PERMISSIONS(rte) \
	((rte)->requiredPerms = 0, (rte)->checkAsUser = InvalidOid, (rte)->selectedCols = NULL, \
	 (rte)->insertedCols = NULL, (rte)->updatedCols = NULL, (rte)->extraUpdatedCols = NULL)
#define PP_UNCHECKED(query, rte)             PP_CLEAR_PERMISSIONS(rte)
#define PP_COPY_PERMISSION_LIST(to, from)    ((void) 0)
#define PP_LET_OWNER_READ(query, rte, owner) ((void) (owner))
#define PP_VAR_NULLING_RELS(var)             ((Bitmapset **) NULL)
#endif

/* 16: creating an index may be told how many partitions it has. No checks: it is our own table. */
#if PG_VERSION_NUM >= 160000
#define PP_DEFINE_INDEX(relid, stmt) \
	DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, -1, false, false, false, false, \
	            true)
#else
#define PP_DEFINE_INDEX(relid, stmt) \
	DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, false, false, false, false, true)
#endif

/* 18: an executor run is always the only one of its query. */
#if PG_VERSION_NUM >= 180000
#define PP_STANDARD_EXECUTOR_RUN(desc) standard_ExecutorRun(desc, ForwardScanDirection, 0)
#else
#define PP_STANDARD_EXECUTOR_RUN(desc) standard_ExecutorRun(desc, ForwardScanDirection, 0, true)
#endif

/* 18: the module magic block carries name and version. */
#if PG_VERSION_NUM >= 180000
#define PP_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC_EXT(.name = name_, .version = version_)
#else
#define PP_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC
#endif

#endif /* PP_COMPAT_H */
