#include "decimal.h"

#include <limits.h>
#include <stdbool.h>

long long decimal_parse(const char *text, const char **rest)
{
	bool negative = *text == '-';
	long long value = 0;

	for (text += negative; *text >= '0' && *text <= '9'; text++)
		value = value > (LLONG_MAX - 9) / 10 ? LLONG_MAX : value * 10 + (*text - '0');
	if (rest)
		*rest = text;
	return negative ? -value : value;
}
