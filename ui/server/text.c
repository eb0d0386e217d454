/*
 * text.c: see text.h.
 *
 * Memory comes from the engine's allocator (llm_alloc.h), whose fault counter the tests use.
 */
#include "text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "llm_alloc.h"

/* Makes room for so many more bytes; false, and an empty failed text, when there is none. */
static bool
reserve(Text *text, size_t bytes)
{
	size_t room = text->room == 0 ? 256 : text->room;
	char *data;

	if (text->failed)
		return false;
	if (text->room - text->bytes >= bytes)
		return true;
	while (room - text->bytes < bytes)
		room *= 2;
	data = llm_realloc_array(text->data, room, 1);
	if (data == NULL)
	{
		text_clear(text);
		text->failed = true;
		return false;
	}
	text->data = data;
	text->room = room;
	return true;
}

/* Appends bytes as they are. */
void
text_add(Text *text, const char *data, size_t bytes)
{
	if (bytes == 0 || !reserve(text, bytes))
		return;
	memcpy(text->data + text->bytes, data, bytes);
	text->bytes += bytes;
}

/* Appends a string as it is. */
void
text_puts(Text *text, const char *string)
{
	text_add(text, string, strlen(string));
}

/* Appends a short formatted text. */
void
text_format(Text *text, const char *format, ...)
{
	char piece[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(piece, sizeof(piece), format, args);
	va_end(args);
	if (n > 0)
		text_add(text, piece, (size_t) n < sizeof(piece) ? (size_t) n : sizeof(piece) - 1);
}

/* The length of the UTF-8 sequence that stands at data, 0 when it is not valid. */
static size_t
utf8_length(const unsigned char *data, size_t bytes)
{
	static const struct
	{
		unsigned char mask, lead;
		uint32_t least;
	} forms[] = {{0x80, 0x00, 0}, {0xE0, 0xC0, 0x80}, {0xF0, 0xE0, 0x800}, {0xF8, 0xF0, 0x10000}};

	for (size_t n = 0; n < 4; n++)
	{
		uint32_t code = data[0] & ~(uint32_t) forms[n].mask;

		if ((data[0] & forms[n].mask) != forms[n].lead)
			continue;
		if (n + 1 > bytes)
			return 0;
		for (size_t i = 1; i <= n; i++)
		{
			if ((data[i] & 0xC0) != 0x80)
				return 0;
			code = code << 6 | (data[i] & 0x3F);
		}
		return code < forms[n].least || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)
		           ? 0
		           : n + 1;
	}
	return 0;
}

/* How a byte is written inside a JSON string; NULL: as it is. */
static const char *
escape(unsigned char c, char *numbered)
{
	switch (c)
	{
		case '"':
			return "\\\"";
		case '\\':
			return "\\\\";
		case '\n':
			return "\\n";
		case '\t':
			return "\\t";
		case '\r':
			return "\\r";
		default:
			if (c >= 0x20 && c != 0x7F)
				return NULL;
			(void) snprintf(numbered, 8, "\\u%04x", c);
			return numbered;
	}
}

/* Appends a JSON string; bytes that are not UTF-8 become U+FFFD. */
void
text_json(Text *text, const char *data, size_t bytes)
{
	const unsigned char *at = (const unsigned char *) data, *end = at + bytes, *plain = at;
	char numbered[8];

	text_add(text, "\"", 1);
	while (at < end)
	{
		size_t n = utf8_length(at, (size_t) (end - at));
		const char *instead = n == 0 ? "\xEF\xBF\xBD" : n == 1 ? escape(*at, numbered) : NULL;

		if (instead != NULL)
		{
			text_add(text, (const char *) plain, (size_t) (at - plain));
			text_puts(text, instead);
			plain = at + 1;
		}
		at += n == 0 ? 1 : n;
	}
	text_add(text, (const char *) plain, (size_t) (at - plain));
	text_add(text, "\"", 1);
}

/* Appends a string, or null. */
void
text_json_string(Text *text, const char *string)
{
	if (string == NULL)
		text_puts(text, "null");
	else
		text_json(text, string, strlen(string));
}

/* Frees the bytes; the text may be used again. */
void
text_clear(Text *text)
{
	llm_free(text->data);
	*text = (Text){NULL, 0, 0, false};
}

/* Zeroes memory in a way that the compiler keeps. */
void
text_wipe(char *data, size_t bytes)
{
	explicit_bzero(data, bytes);
}

/* At most so many bytes, less where that would cut a character. */
size_t
text_utf8_cut(const char *data, size_t bytes, size_t most)
{
	if (bytes <= most)
		return bytes;
	while (most > 0 && ((unsigned char) data[most] & 0xC0) == 0x80)
		most--;
	return most;
}
