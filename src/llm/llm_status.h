/*
 * llm_status.h: the status codes and the error record of the engine.
 *
 * Every engine function that can fail returns an llm_status and, where the caller passes one, fills
 * an llm_error with a one-line message in the PostgreSQL style (lower case, no full stop), which is
 * valid UTF-8 whatever it quotes. The engine never prints, exits or aborts. src/errors.c maps the
 * codes to SQLSTATEs; their numbers travel on the wire, so they are never renumbered.
 */
#ifndef LLM_STATUS_H
#define LLM_STATUS_H

typedef enum llm_status
{
	LLM_OK = 0,
	LLM_E_NOMEM = 1,       /* the host or the device has no memory left */
	LLM_E_IO = 2,          /* a file or a socket could not be read or written */
	LLM_E_FORMAT = 3,      /* a file or a frame breaks its format */
	LLM_E_UNSUPPORTED = 4, /* well formed, but asks for what is not implemented */
	LLM_E_NOT_FOUND = 5,   /* no such model, tensor, file or request */
	LLM_E_RANGE = 6,       /* an argument is outside its range */
	LLM_E_TOO_LONG = 7,    /* a prompt is longer than the model's context */
	LLM_E_BUSY = 8,        /* the queue is full */
	LLM_E_CANCELLED = 9,   /* the caller cancelled the request */
	LLM_E_LIMIT = 10,      /* a token or memory limit set by the administrator is reached */
	LLM_E_LOADING = 11,    /* the model is still loading */
	LLM_E_DEVICE = 12,     /* the device failed; the engine must be restarted */
	LLM_E_REMOTE = 13,     /* a remote endpoint failed or refused */
	LLM_E_INTERNAL = 14,   /* a broken invariant: a bug */
	LLM_E_PROTOCOL = 15    /* a remote endpoint sent what cannot be a reply */
} llm_status;

#define LLM_MESSAGE_MAX 256

typedef struct llm_error
{
	llm_status code;
	char message[LLM_MESSAGE_MAX];
} llm_error;

/* Fills *err (which may be NULL) and returns code, so that callers write return llm_fail(err,
 * LLM_E_…, …). */
llm_status llm_fail(llm_error *err, llm_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A short fixed name of a code ("out of memory"), for logs. Never NULL. */
const char *llm_status_name(llm_status code);

#endif /* LLM_STATUS_H */
