/*
 * fuzz_studio.c: fuzz target of prepack-studio's messages (ui/server/message.c) and of its JSON.
 *
 * A message that is read has what its kind promises. Every string of it, and the input itself, is
 * written as JSON; the engine's strict reader must take that back, and give the same bytes where
 * they were UTF-8.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../ui/server/message.h"
#include "../ui/server/text.h"
#include "llm_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Writes bytes as JSON and reads them back; exact: they are known to be UTF-8. */
static void
round_trip(const char *data, size_t bytes, bool exact)
{
	Text text = {0};
	llm_json_doc *doc;
	const char *back;
	size_t n;

	text_json(&text, data, bytes);
	if (llm_json_parse(text.data, text.bytes, &doc, NULL) != LLM_OK)
		abort();
	if (!llm_json_string(llm_json_root(doc), &back, &n))
		abort();
	if (exact && (n != bytes || memcmp(back, data, n) != 0))
		abort();
	llm_json_free(doc);
	text_clear(&text);
}

/* Reads one input as a message. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	StudioMessage message;
	const char *reason;

	round_trip((const char *) data, bytes, false);
	if (!message_read((const char *) data, bytes, &message, &reason))
	{
		if (reason == NULL || message.text != NULL || message.password != NULL)
			abort();
		return 0;
	}
	if ((message.kind == STUDIO_HELLO || message.kind == STUDIO_ASK ||
	     message.kind == STUDIO_RUN) != (message.text != NULL))
		abort();
	if (message.text != NULL)
		round_trip(message.text, strlen(message.text), true);
	for (int i = 0; i < message.n_args; i++)
		if (message.args[i] != NULL)
			round_trip(message.args[i], strlen(message.args[i]), true);
	message_free(&message);
	return 0;
}
