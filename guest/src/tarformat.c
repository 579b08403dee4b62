#include "tarformat.h"

#include <limits.h>

_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is one block");

unsigned tar_checksum(const struct tar_header *header)
{
	const unsigned char *bytes = (const unsigned char *)header;
	unsigned sum = 0;

	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= offsetof(struct tar_header, checksum) && i < offsetof(struct tar_header, type) ? ' ' : bytes[i];
	return sum;
}

long long tar_number(const char *field, size_t size)
{
	long long value = 0;
	size_t i = 0;

	if ((unsigned char)field[0] == 0x80) {
		for (i = 1; i < size; i++) {
			if (value > LLONG_MAX >> 8)
				return -1;
			value = value << 8 | (unsigned char)field[i];
		}
		return value;
	}
	while (i < size && field[i] == ' ')
		i++;
	for (; i < size && field[i] >= '0' && field[i] <= '7'; i++)
		value = value << 3 | (field[i] - '0'); /* 11 digits at most */
	return i == size || field[i] == ' ' || field[i] == '\0' ? value : -1;
}
