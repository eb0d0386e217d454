/*
 * stats.h: what calls cost, by user, database, query, function and model: the view pg_stat_prepack.
 */
#ifndef PP_STATS_H
#define PP_STATS_H

#include "prepack.h"

#include "client.h"

/* Installs the shared memory hooks; while preloading only. */
extern void pp_stats_install(void);

/* How a request ended, for the counters. */
typedef enum PpStatsEnd
{
	PP_STATS_DONE,
	PP_STATS_FAILED,
	PP_STATS_CANCELLED
} PpStatsEnd;

/*
 * Adds one request to the counters of the current user, database and query. Never fails, takes no
 * memory: it is called from clean-up callbacks, too.
 */
extern void pp_stats_add(const char *function, const char *model, int n_rows,
                         const PpJobStats *stats, PpStatsEnd end);

#endif /* PP_STATS_H */
