/*
 * speql_ddl.c: see speql_ddl.h.
 *
 * A build holds AccessShareLock on what it reads, for seconds perhaps; a command that needs more
 * must not wait for work that nobody asked for. So before such a command runs, builds in the same
 * database are cancelled (the next keystroke begins them anew), and before a command on a database
 * the workers connected to it are ended. Freshness does not depend on any of this.
 */
#include "speql_ddl.h"

#include "postgres.h"

#include <signal.h>

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "compat.h"
#include "speql_registry.h"
#include "speql_shared.h"
#include "speql_track.h"

static ProcessUtility_hook_type prev_utility_hook = NULL;

/* Sends a signal to the workers of a database; only to those that run something, if so wanted. */
static void
signal_workers(Oid dbid, int signal, bool running_only)
{
	LWLockAcquire(speql_shared->lock, LW_SHARED);
	for (int i = 0; i < SPEQL_SESSIONS_MAX; i++)
	{
		SpeqlSession *s = &speql_shared->sessions[i];

		if (s->state == SPEQL_SESSION_LIVE && s->dbid == dbid && s->worker != MyProcPid &&
		    (!running_only || DsaPointerIsValid(s->anchor)))
			kill(s->worker, signal);
	}
	LWLockRelease(speql_shared->lock);
}

/* The database that a command wants for itself, or NULL. */
static const char *
database_wanted(Node *command)
{
	ListCell *lc;

	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return castNode(DropdbStmt, command)->dbname;
		case T_RenameStmt:
			return castNode(RenameStmt, command)->renameType == OBJECT_DATABASE
			           ? castNode(RenameStmt, command)->subname
			           : NULL;
		case T_AlterDatabaseStmt:
			return castNode(AlterDatabaseStmt, command)->dbname;
		case T_CreatedbStmt:
			foreach (lc, castNode(CreatedbStmt, command)->options)
				if (strcmp(lfirst_node(DefElem, lc)->defname, "template") == 0 &&
				    lfirst_node(DefElem, lc)->arg != NULL)
					return strVal(lfirst_node(DefElem, lc)->arg);
			return NULL;
		default:
			return NULL;
	}
}

/* True for a command that may need a stronger lock on a relation than a reader leaves. */
static bool
wants_relations(Node *command)
{
	switch (nodeTag(command))
	{
		case T_AlterTableStmt:
		case T_DropStmt:
		case T_TruncateStmt:
		case T_LockStmt:
		case T_ClusterStmt:
		case T_VacuumStmt:
		case T_ReindexStmt:
		case T_RenameStmt:
		case T_AlterObjectSchemaStmt:
		case T_AlterOwnerStmt:
		case T_CreateTrigStmt:
		case T_RuleStmt:
		case T_CreatePolicyStmt:
		case T_AlterPolicyStmt:
		case T_RefreshMatViewStmt:
		case T_DropOwnedStmt:
		case T_CreateStmt:
			return true;
		default:
			return false;
	}
}

/* True for a command that may change what functions, operators or domains do. */
static bool
changes_functions(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CreateFunctionStmt:
		case T_AlterFunctionStmt:
		case T_DefineStmt:
		case T_AlterOperatorStmt:
		case T_CreateCastStmt:
		case T_AlterDomainStmt:
		case T_CreateExtensionStmt:
		case T_AlterExtensionStmt:
		case T_DropOwnedStmt:
			return true;
		case T_DropStmt:
			return castNode(DropStmt, command)->removeType != OBJECT_TABLE &&
			       castNode(DropStmt, command)->removeType != OBJECT_INDEX;
		case T_RenameStmt:
			return castNode(RenameStmt, command)->renameType != OBJECT_TABLE;
		case T_AlterObjectSchemaStmt:
			return castNode(AlterObjectSchemaStmt, command)->objectType != OBJECT_TABLE;
		default:
			return false;
	}
}

/* Clears the way, then lets the command run. */
static void
ddl_utility(PlannedStmt *stmt, const char *text, bool read_only_tree, ProcessUtilityContext context,
            ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest,
            QueryCompletion *completion)
{
	Node *command = stmt->utilityStmt;
	const char *database = database_wanted(command);

	if (changes_functions(command))
		speql_track_functions_changed();
	if (speql_shared != NULL && database != NULL)
		signal_workers(get_database_oid(database, true), SIGTERM, false);
	else if (speql_shared != NULL && wants_relations(command))
		signal_workers(MyDatabaseId, SIGINT, true);
	if (prev_utility_hook)
		prev_utility_hook(stmt, text, read_only_tree, context, params, environment, dest,
		                  completion);
	else
		standard_ProcessUtility(stmt, text, read_only_tree, context, params, environment, dest,
		                        completion);
	if (speql_shared != NULL && (IsA(command, DropStmt) || IsA(command, DropOwnedStmt)))
		speql_registry_drop_dangling();
}

/* Installs the hook. */
void
speql_ddl_install(void)
{
	prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = ddl_utility;
}
