/*
 * speql_preview.h: the first rows of a query block, as JSON.
 */
#ifndef SPEQL_PREVIEW_H
#define SPEQL_PREVIEW_H

#include "speql_match.h"

#define SPEQL_PREVIEW_ROWS 100 /* at most */

/* True when running a query as often as someone types does nothing but read. */
extern bool speql_may_run(const Query *query);

/*
 * Runs a SELECT read-only in the current transaction and fills in columns, rows and counts. sample:
 * reads only so many percent of the largest table (100: all of it). Raises the query's errors.
 */
extern void speql_preview_run(const char *sql, double sample, SpeqlPreview *preview);

#endif /* SPEQL_PREVIEW_H */
