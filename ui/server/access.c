/*
 * access.c: who may talk to the bridge.
 *
 * Another page in the same browser can reach a loopback port; another user of the machine can, too.
 * So a WebSocket must come from our own origin (cross-site pages cannot forge that), name our own
 * host (DNS rebinding cannot), and show a token of 256 random bits that only the terminal knew. The
 * token works once; the tab gets a key for it, which it keeps for a reload and for reconnecting.
 */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "studio.h"

#define N_TOKENS 8  /* unused one-time tokens; the oldest goes */
#define N_KEYS   64 /* tabs that may reconnect; the oldest goes */

typedef struct Secrets
{
	char text[N_KEYS][STUDIO_TOKEN_CHARS + 1];
	unsigned n, next;
} Secrets;

static Secrets tokens, keys;

/* Puts a new secret into a ring; NULL when the system gives no random bytes. */
static const char *
issue(Secrets *ring, unsigned n)
{
	unsigned char bytes[STUDIO_TOKEN_CHARS / 2];
	char *text = ring->text[ring->next];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t) sizeof(bytes))
		return NULL;
	for (size_t i = 0; i < sizeof(bytes); i++)
		(void) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	ring->next = (ring->next + 1) % n;
	ring->n = ring->n < n ? ring->n + 1 : n;
	return text;
}

/* Finds a secret, in a time that does not depend on what is in it. */
static char *
find(Secrets *ring, const char *text, size_t bytes)
{
	char *found = NULL;

	if (bytes != STUDIO_TOKEN_CHARS)
		return NULL;
	for (unsigned i = 0; i < ring->n; i++)
	{
		unsigned char differs = ring->text[i][0] == '\0'; /* used up: nothing is like it */

		for (size_t c = 0; c < STUDIO_TOKEN_CHARS; c++)
			differs |= (unsigned char) (ring->text[i][c] ^ text[c]);
		if (differs == 0)
			found = ring->text[i];
	}
	return found;
}

/* Makes a token that works once. */
const char *
access_issue(void)
{
	return issue(&tokens, N_TOKENS);
}

/* Takes a token, or a key from an earlier one; returns the tab's key, NULL when it is neither. */
const char *
access_redeem(const char *text, size_t n)
{
	char *found = find(&keys, text, n);

	if (found != NULL)
		return found;
	found = find(&tokens, text, n);
	if (found == NULL)
		return NULL;
	text_wipe(found, STUDIO_TOKEN_CHARS);
	return issue(&keys, N_KEYS);
}

/*
 * Prints where a tab can be opened; the token stands behind #, where no server and no log sees it.
 */
void
access_print_url(void)
{
	const char *token = access_issue();

	if (token != NULL)
		printf("http://127.0.0.1:%d/#%s\n", studio.port, token);
	(void) fflush(stdout);
}

/* True when a header of a request is one of our own addresses, with something before it. */
static bool
header_is_ours(struct lws *wsi, enum lws_token_indexes header, const char *before)
{
	static const char *const names[] = {"127.0.0.1", "localhost"};
	char value[128], ours[128];

	if (lws_hdr_copy(wsi, value, sizeof(value), header) <= 0)
		return false;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		(void) snprintf(ours, sizeof(ours), "%s%s:%d", before, names[i], studio.port);
		if (strcmp(value, ours) == 0)
			return true;
	}
	return false;
}

/* True when a request names us as its host, not a name that was made to lead here. */
bool
access_host_is_ours(struct lws *wsi)
{
	return header_is_ours(wsi, WSI_TOKEN_HOST, "");
}

/* True when a page of ours opens the WebSocket. */
bool
access_origin_is_ours(struct lws *wsi)
{
	return header_is_ours(wsi, WSI_TOKEN_ORIGIN, "http://");
}
