/*
 * llm_status.c: formatting of engine errors. See llm_status.h.
 */
#include "llm_status.h"

#include <stdarg.h>
#include <stdio.h>

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
