/*
 * endpoints.h: models that another server computes: which URLs and options, and which are allowed.
 *
 * An endpoint is a row of the registry whose path is a URL. Who may register models may register
 * endpoints, but rows only go where a superuser has said so: prepack.allowed_endpoints is compared
 * at every use, since registered rows may come from a dump or an UPDATE.
 */
#ifndef PP_ENDPOINTS_H
#define PP_ENDPOINTS_H

#include "prepack.h"

#include "utils/guc.h"
#include "utils/jsonb.h"

#define PP_ENDPOINT_URL_MAX 1000

/* True when a registered path is a URL rather than a file's name. */
extern bool pp_is_url(const char *path);
/* Refuses URLs that are more than scheme://host[:port][/path]. */
extern void pp_endpoint_check_url(const char *url);
/* Refuses options that no endpoint has, and values out of range. */
extern void pp_endpoint_check_options(Jsonb *options);
/* Enforces prepack.allowed_endpoints for a model of this name. */
extern void pp_endpoint_check_allowed(const char *name, const char *url);
/* The check hook of that setting. */
extern bool pp_endpoint_check_list(char **list, void **extra, GucSource source);

#endif /* PP_ENDPOINTS_H */
