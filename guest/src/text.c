#include "text.h"

#include <stdarg.h>
#include <string.h>

#include "format.h"
#include "json.h"

struct text text_in(char *start, size_t size)
{
	*start = '\0';
	return (struct text){ .start = start, .size = size };
}

void text_printf(struct text *text, const char *format, ...)
{
	size_t room = text->size - text->length;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = format_arguments(text->start + text->length, room, format, arguments);
	va_end(arguments);
	if (length < 0 || (size_t)length >= room) {
		text->start[text->length] = '\0';
		text->full = true;
		return;
	}
	text->length += (size_t)length;
}

void text_quote_some(struct text *text, const char *string, size_t length, size_t reserve)
{
	size_t room = text->size - text->length;

	if (room < reserve + JSON_QUOTE_LEAST) {
		text->full = true;
		return;
	}
	text->length += json_quote_bytes(string, &length, false, text->start + text->length, room - reserve);
}

void text_quote(struct text *text, const char *string, size_t length)
{
	size_t before = text->length, taken = length;

	if (text->size - before < JSON_QUOTE_LEAST) {
		text->full = true;
		return;
	}
	text->length += json_quote_bytes(string, &taken, true, text->start + before, text->size - before);
	if (taken == length)
		return;
	text->length = before;
	text->start[before] = '\0';
	text->full = true;
}

char *text_find(const char *text, const char *part)
{
	size_t length = strlen(part);

	for (; (text = strchr(text, *part)); text++)
		if (!strncmp(text, part, length))
			return (char *)text;
	return NULL;
}
