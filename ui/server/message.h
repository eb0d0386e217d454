/*
 * message.h: what the page sends, as ui/PROTOCOL.md describes it.
 */
#ifndef STUDIO_MESSAGE_H
#define STUDIO_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STUDIO_ARGS_MAX 8

typedef enum StudioKind
{
	STUDIO_HELLO, /* text: the token */
	STUDIO_OPEN,  /* user, password, database; each may be NULL */
	STUDIO_ASK,   /* id, text: SQL, args */
	STUDIO_RUN,   /* id, text: SQL */
	STUDIO_CANCEL,
	STUDIO_TICKET /* asks for a one-time token for another tab */
} StudioKind;

/* Strings are its own, NUL-terminated and without NUL bytes inside. */
typedef struct StudioMessage
{
	StudioKind kind;
	int64_t id;
	char *text;
	char *user, *password, *database;
	int n_args;
	char *args[STUDIO_ARGS_MAX]; /* NULL: SQL's NULL */
} StudioMessage;

/* False with a reason, and nothing to free, when the bytes are no message. */
bool message_read(const char *data, size_t bytes, StudioMessage *out, const char **reason);
void message_free(StudioMessage *message); /* wipes the password */

#endif /* STUDIO_MESSAGE_H */
