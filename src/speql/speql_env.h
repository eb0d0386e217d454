/*
 * speql_env.h: the settings that results depend on, and those that plans depend on.
 *
 * A table built under one set of the former answers queries under the same set only; a worker works
 * under all those of the session that it works for.
 */
#ifndef SPEQL_ENV_H
#define SPEQL_ENV_H

#include "postgres.h"

/* The settings of this session as one piece of memory: values, each ended by a zero byte. */
extern char *speql_env_capture(Size *size);

/* Their hash. */
extern uint64 speql_env_hash(const char *settings, Size size);

/* The hash of this session's. */
extern uint64 speql_env_current(void);

/* Makes captured settings those of this process; false when one is not accepted. */
extern bool speql_env_apply(const char *settings, Size size);

/* The settings that plans depend on and that are not the defaults: names and values in turn. */
extern char *speql_env_capture_planner(Size *size);

/* Makes them those of this process, instead of those applied before; what is refused is left. */
extern void speql_env_apply_planner(const char *settings, Size size);

#endif /* SPEQL_ENV_H */
