/*
 * speql_index.h: indexes of speculative tables: on what edits compare, and in the order that is
 * asked.
 */
#ifndef SPEQL_INDEX_H
#define SPEQL_INDEX_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"

#include "speql_shared.h"

/*
 * Indexes the columns of a new table that edits will compare with constants (Vars of its
 * definition), where it is large enough to gain by it and the quota has room.
 */
extern void speql_index_compared(SpeqlTable *table, const char *name, const Query *definition,
                                 List *compared);

/*
 * Where a statement's plan sorts rows that it reads from a speculative table, gives that table an
 * index in this order: first rows come at once then, and a condition on the first key reads only
 * what it asks for. True when there is a new index once the current transaction commits.
 */
extern bool speql_index_order(const PlannedStmt *stmt);

#endif /* SPEQL_INDEX_H */
