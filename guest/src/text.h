/* Text that grows in a buffer of fixed size, mostly JSON. What finds no room is left out, and `full` tells of it. */
#ifndef FIREKILN_TEXT_H
#define FIREKILN_TEXT_H

#include <stdbool.h>
#include <stddef.h>

struct text {
	char *start;
	size_t length, size;
	bool full;
};

/* An empty text in `size` bytes at `start`, which is kept NUL-terminated. */
struct text text_in(char *start, size_t size);

__attribute__((format(printf, 2, 3))) void text_printf(struct text *text, const char *format, ...);

/* A JSON string of `length` bytes, with its quotes; whole or not at all. What is not UTF-8 becomes lone surrogates. */
void text_quote(struct text *text, const char *string, size_t length);

/* A JSON string, for people, of as many of the bytes as find room with `reserve` bytes left over. */
void text_quote_some(struct text *text, const char *string, size_t length, size_t reserve);

/* strstr, whose usual ways are twenty times as large. */
char *text_find(const char *text, const char *part);

#endif
