#include "format.h"

#include <stdbool.h>
#include <string.h>

struct sink {
	char *out;
	size_t size, length;
};

static void put(struct sink *sink, const char *data, size_t length)
{
	if (sink->length < sink->size) {
		size_t room = sink->size - sink->length;

		memcpy(sink->out + sink->length, data, length < room ? length : room);
	}
	sink->length += length;
}

struct directive {
	char fill;
	size_t width;
	int precision; /* -1: none */
	int longs;     /* how many l's; z counts as one */
	char letter;
};

static int count_of(const char **at, va_list *arguments)
{
	int value = 0;

	if (**at == '*') {
		++*at;
		return va_arg(*arguments, int);
	}
	for (; **at >= '0' && **at <= '9'; ++*at)
		value = value * 10 + (**at - '0');
	return value;
}

static struct directive parse(const char **at, va_list *arguments)
{
	struct directive made = { .fill = ' ', .precision = -1 };

	if (**at == '0')
		made.fill = '0';
	made.width = (size_t)count_of(at, arguments);
	if (**at == '.') {
		++*at;
		made.precision = count_of(at, arguments);
	}
	for (; **at == 'l' || **at == 'z'; ++*at)
		made.longs++;
	made.letter = *(*at)++;
	return made;
}

static void put_number(struct sink *sink, const struct directive *directive, unsigned long long value, bool negative)
{
	unsigned base = directive->letter == 'x' ? 16 : directive->letter == 'o' ? 8 : 10;
	char digits[24];
	size_t start = sizeof digits, length;

	do
		digits[--start] = "0123456789abcdef"[value % base];
	while (value /= base);
	length = sizeof digits - start + negative;
	if (negative)
		put(sink, "-", 1); /* no number here is both negative and padded */
	for (; length < directive->width; length++)
		put(sink, &directive->fill, 1);
	put(sink, digits + start, sizeof digits - start);
}

static void put_argument(struct sink *sink, const struct directive *directive, va_list *arguments)
{
	unsigned long long value;
	long long number;
	const char *text;
	char letter;

	switch (directive->letter) {
	case 's':
		text = va_arg(*arguments, const char *);
		put(sink, text, directive->precision < 0 ? strlen(text) : strnlen(text, (size_t)directive->precision));
		break;
	case 'c':
		letter = (char)va_arg(*arguments, int);
		put(sink, &letter, 1);
		break;
	case 'd':
		number = directive->longs == 2 ? va_arg(*arguments, long long) :
			 directive->longs      ? va_arg(*arguments, long) :
						 va_arg(*arguments, int);
		value = number < 0 ? 0 - (unsigned long long)number : (unsigned long long)number;
		put_number(sink, directive, value, number < 0);
		break;
	case 'u':
	case 'x':
	case 'o':
		value = directive->longs == 2 ? va_arg(*arguments, unsigned long long) :
			directive->longs      ? va_arg(*arguments, unsigned long) :
						va_arg(*arguments, unsigned);
		put_number(sink, directive, value, false);
		break;
	default:
		put(sink, &directive->letter, 1);
	}
}

int format_arguments(char *out, size_t size, const char *format, va_list arguments)
{
	struct sink sink = { out, size, 0 };
	va_list rest;

	va_copy(rest, arguments);
	while (*format) {
		size_t plain = strcspn(format, "%");
		struct directive directive;

		put(&sink, format, plain);
		format += plain;
		if (!*format)
			break;
		format++;
		directive = parse(&format, &rest);
		put_argument(&sink, &directive, &rest);
	}
	va_end(rest);
	if (size)
		out[sink.length < size ? sink.length : size - 1] = '\0';
	return (int)sink.length;
}

int format_text(char *out, size_t size, const char *format, ...)
{
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = format_arguments(out, size, format, arguments);
	va_end(arguments);
	return length;
}
