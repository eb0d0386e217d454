/*
 * fuzz_wire.c: fuzz target of the server: a stream of frames into a real connection.
 *
 * The first byte says how the rest is fed: bit 0, after a good HELLO; bit 1, with every length that
 * does not fit cut to what is left, so that mutations of the rest still reach the handlers; bit 2,
 * in pieces of some bytes, as a slow client sends. Jobs run at once in this thread. What comes back
 * must be whole frames that a client can read, and nothing may be left behind.
 */
#include "conn_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Cuts lengths that do not fit to what is left, frame after frame. */
static void
repair_lengths(uint8_t *bytes, size_t n)
{
	size_t at = 0;

	while (n - at >= LLM_WIRE_HEADER)
	{
		uint32_t left = (uint32_t) (n - at - LLM_WIRE_HEADER);
		llm_wire_header h;

		if (!llm_wire_get_header(bytes + at, &h) || h.length > left)
		{
			for (int i = 0; i < 4; i++)
				bytes[at + (size_t) i] = (uint8_t) (left >> (8 * i));
			h.length = left;
		}
		at += LLM_WIRE_HEADER + h.length;
	}
}

/* Feeds one input. */
int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	server *s = the_server();
	uint8_t *copy;

	if (bytes < 1 || bytes > INPUT_MAX)
		return 0;
	copy = malloc(bytes);
	if (copy == NULL)
		return 0;
	memcpy(copy, data + 1, bytes - 1);
	if (data[0] & 2)
		repair_lengths(copy, bytes - 1);
	conn_feed(s, copy, bytes - 1, data[0], 0);
	free(copy);
	return 0;
}
