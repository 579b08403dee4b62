#include "base64.h"

static int value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t base64_decode(char *text)
{
	unsigned long bits = 0;
	size_t used = 0;
	int held = 0, next;

	for (const char *at = text; (next = value(*at)) >= 0; at++) {
		bits = (bits << 6 | (unsigned long)next) & 0xFFFF;
		held += 6;
		if (held < 8)
			continue;
		held -= 8;
		text[used++] = (char)(bits >> held);
	}
	return used;
}
