/*
 * speql_ahead.h: the plan of the statement that is being typed, made by the worker before it is
 * submitted, and used by the session that typed it.
 */
#ifndef SPEQL_AHEAD_H
#define SPEQL_AHEAD_H

#include "postgres.h"

#include "nodes/params.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"

/*
 * Worker: plans a SELECT as the session at hand would, with everything that the planner's hooks
 * know, and returns the plan. If `offer`, leaves it with the session, provided that taking it is
 * faster than making it again. Raises the query's errors.
 */
extern PlannedStmt *speql_ahead_plan(int session, Query *query, const char *sql, bool offer);

/*
 * Session: the plan that was left for exactly this analysed statement, with its locks taken; NULL
 * when there is none, or when anything that it rests on may have changed since. parse is not
 * changed.
 */
extern PlannedStmt *speql_ahead_take(const Query *parse, int cursor_options, ParamListInfo params);

/* Session: has what its caches forget counted in one of its own sessions. */
extern void speql_ahead_watch(int session);

#endif /* SPEQL_AHEAD_H */
