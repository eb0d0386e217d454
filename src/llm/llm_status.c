/*
 * llm_status.c: formatting of engine errors. See llm_status.h.
 *
 * A message quotes what it complains of: a schema's key, a path, a tensor's name, each from outside
 * and each cut to a length in bytes. It ends as a text in a database and as a line in a log, so
 * what neither may hold is replaced here, in the one place that every message passes.
 */
#include "llm_status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "llm_unicode.h"

/* Makes one line of valid UTF-8 of a message: a space for a control character, a question mark for
 * every byte of what is no character, the rest of a cut one among them. */
static void
make_line(char *message)
{
	size_t n = strlen(message), length;
	uint32_t cp;

	for (size_t i = 0; i < n; i += length)
	{
		length = llm_utf8_decode(message + i, n - i, &cp);
		if (length == 0)
		{
			message[i] = '?';
			length = 1;
		}
		else if (cp < 0x20 || cp == 0x7f)
			message[i] = ' ';
	}
}

/* Records the failure and returns its code. A message longer than the buffer is cut, never overrun.
 */
llm_status
llm_fail(llm_error *err, llm_status code, const char *fmt, ...)
{
	va_list args;

	if (err == NULL)
		return code;
	err->code = code;
	va_start(args, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
	va_end(args);
	make_line(err->message);
	return code;
}

/* Names a code. */
const char *
llm_status_name(llm_status code)
{
	static const char *const names[] = {"ok",
	                                    "out of memory",
	                                    "input/output error",
	                                    "bad format",
	                                    "not supported",
	                                    "not found",
	                                    "out of range",
	                                    "too long",
	                                    "busy",
	                                    "cancelled",
	                                    "limit reached",
	                                    "loading",
	                                    "device failure",
	                                    "remote failure",
	                                    "internal error",
	                                    "remote protocol error"};

	if ((unsigned) code >= sizeof(names) / sizeof(names[0]))
		return "unknown";
	return names[code];
}
