/*
 * models.h: which model a call means.
 *
 * Resolution: the argument; else prepack.model or prepack.embed_model; else the registry's default
 * of that kind; else the only registered model of that kind; else 42704 with a HINT that lists what
 * is registered. prepack.allowed_models and prepack.allowed_endpoints are enforced here and nowhere
 * else. Rows leave the machine only when an endpoint is named or was made the default.
 */
#ifndef PP_MODELS_H
#define PP_MODELS_H

#include "prepack.h"

/* What a call needs its model for. */
typedef enum PpModelUse
{
	PP_USE_GENERATE,  /* a decoder */
	PP_USE_EMBED,     /* an encoder that embeds */
	PP_USE_RELEVANCE, /* a cross-encoder, else an embedder, else a decoder */
	PP_USE_ANY        /* count_tokens */
} PpModelUse;

typedef struct PpModel
{
	char name[NAMEDATALEN];
	char kind[16];        /* generate, embed, rerank, dummy */
	char path[MAXPGPATH]; /* relative to prepack.model_directory, or an endpoint's URL */
	char *options;        /* of an endpoint, as JSON; NULL: it is none */
} PpModel;

/* name may be NULL. The result is palloc'd in the current context. Never returns NULL. */
extern PpModel *pp_model_resolve(const char *name, PpModelUse use);

/* Whether the current role may see the names of endpoints' keys. */
extern bool pp_may_see_keys(void);

#endif /* PP_MODELS_H */
