/*
 * client_probe.c: a look at the engine from outside, for the supervisor and the view status.
 *
 * It has a connection of its own, which no job can hold up, waits a bounded time and never raises.
 * It also tells an engine that is silent, and may come to itself, from one that speaks otherwise:
 * the program was installed over one of another version, and the server still runs the library of
 * the old one. Waiting does not help there.
 */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "miscadmin.h"

#include "client_wire.h"
#include "llm/llm_status.h"

#define PP_PROBE_MS 2000

/* Reads exactly n bytes within the probe's time. */
static bool
read_exactly(int fd, uint8 *out, Size n)
{
	while (n > 0)
	{
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t got;

		if (poll(&p, 1, PP_PROBE_MS) <= 0)
			return false;
		got = recv(fd, out, n, 0);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			return false; /* at its end, recv leaves errno as it was */
		if (got > 0)
		{
			out += got;
			n -= got;
		}
	}
	return true;
}

/* Reads one frame; false: nothing that can be read came in time. */
static bool
read_frame(int fd, llm_wire_header *h, uint8 *payload, Size size)
{
	uint8 header[LLM_WIRE_HEADER];

	return read_exactly(fd, header, sizeof(header)) && llm_wire_get_header(header, h) &&
	       h->length <= size && read_exactly(fd, payload, h->length);
}

/* Asks for the statistics; false: the socket is gone. */
static bool
send_questions(int fd)
{
	uint8 bytes[256];
	llm_wire_writer w = {.bytes = bytes, .capacity = sizeof(bytes), .grow = pp_wire_refuse};

	llm_wire_begin(&w, LLM_WIRE_HELLO, 1);
	llm_wire_put_u32(&w, LLM_WIRE_MAGIC);
	llm_wire_put_u32(&w, LLM_WIRE_VERSION);
	llm_wire_put_u32(&w, (uint32) MyProcPid);
	llm_wire_end(&w);
	llm_wire_begin(&w, LLM_WIRE_STATS, 2);
	llm_wire_end(&w);
	return send(fd, bytes, w.n, MSG_NOSIGNAL) == (ssize_t) w.n;
}

/* Reads what the engine says to HELLO. */
static PpProbe
judge_welcome(const llm_wire_header *h, const uint8 *payload, char *why, Size size)
{
	llm_wire_reader r = {payload, h->length, false};
	uint32 magic;
	uint32 version;

	if (h->type == LLM_WIRE_ERROR)
	{
		int status = llm_wire_get_u8(&r);
		size_t n;
		const char *message = llm_wire_get_text(&r, &n);

		if (status != LLM_E_UNSUPPORTED || message == NULL)
			return PP_PROBE_SILENT; /* too many connections, no memory: it may pass */
		snprintf(why, size, "The engine says: %.*s.", (int) Min(n, 150), message);
		return PP_PROBE_FOREIGN;
	}
	magic = llm_wire_get_u32(&r);
	version = llm_wire_get_u32(&r);
	if (h->type != LLM_WIRE_WELCOME || magic != LLM_WIRE_MAGIC)
		snprintf(why, size, "What the engine answers is not understood.");
	else if (version != LLM_WIRE_VERSION)
		snprintf(why, size, "The engine speaks protocol version %u, the library %u.", version,
		         LLM_WIRE_VERSION);
	else
		return PP_PROBE_ANSWERS;
	return PP_PROBE_FOREIGN;
}

/* Greets and asks on a connection. */
static PpProbe
converse(int fd, PpEngineInfo *info, char *why, Size size)
{
	uint8 payload[2048];
	llm_wire_header h;
	PpProbe greeting;

	if (!send_questions(fd) || !read_frame(fd, &h, payload, sizeof(payload)))
		return PP_PROBE_SILENT;
	greeting = judge_welcome(&h, payload, why, size);
	if (greeting != PP_PROBE_ANSWERS)
		return greeting;
	if (!read_frame(fd, &h, payload, sizeof(payload)))
		return PP_PROBE_SILENT;
	if (h.type == LLM_WIRE_STATS_REPLY && pp_wire_get_stats(payload, h.length, info))
		return PP_PROBE_ANSWERS;
	snprintf(why, size, "What the engine says of its state is not understood.");
	return PP_PROBE_FOREIGN;
}

/* Asks for the statistics. */
PpProbe
pp_client_probe(PpEngineInfo *info, char *why, Size size)
{
	int fd = pp_client_socket();
	PpProbe result;

	if (fd == PGINVALID_SOCKET)
		return PP_PROBE_SILENT;
	result = converse(fd, info, why, size);
	close(fd);
	return result;
}
