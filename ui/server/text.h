/*
 * text.h: a growing text, and JSON written into it.
 *
 * A failed allocation marks the text as failed and frees it; whoever sends it looks at that once,
 * at the end. JSON that is written is valid UTF-8, whatever comes in.
 */
#ifndef STUDIO_TEXT_H
#define STUDIO_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Text
{
	char *data;
	size_t bytes, room;
	bool failed;
} Text;

void text_add(Text *text, const char *data, size_t bytes);
void text_puts(Text *text, const char *string);
void text_format(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_json(Text *text, const char *data, size_t bytes); /* as a JSON string */
void text_json_string(Text *text, const char *string);      /* NULL as null */
void text_clear(Text *text);                                /* keeps nothing */
void text_wipe(char *data, size_t bytes); /* zeroes what must not stay in memory */
size_t text_utf8_cut(const char *data, size_t bytes, size_t most);

#endif /* STUDIO_TEXT_H */
