#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool address_parse(const char *text, uint32_t *address)
{
	struct in_addr in;

	if (inet_pton(AF_INET, text, &in) != 1)
		return false;
	*address = ntohl(in.s_addr);
	return true;
}

bool address_parse_prefix(const char *text, uint32_t *address, uint32_t *netmask)
{
	char copy[32];
	char *slash;
	int length;

	if (strlen(text) >= sizeof copy)
		return false;
	strcpy(copy, text);
	slash = strchr(copy, '/');
	if (!slash)
		return false;
	*slash = '\0';
	length = atoi(slash + 1);
	if (length < 1 || length > 32)
		return false;
	*netmask = ~(uint32_t)0 << (32 - length);
	return address_parse(copy, address);
}

bool mac_parse(const char *text, struct mac *mac)
{
	unsigned int byte[MAC_SIZE];
	int end = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &byte[0], &byte[1], &byte[2], &byte[3], &byte[4], &byte[5],
		   &end) != MAC_SIZE ||
	    text[end])
		return false;
	for (int i = 0; i < MAC_SIZE; i++)
		mac->byte[i] = (uint8_t)byte[i];
	return true;
}

bool mac_equal(const void *left, const void *right)
{
	return memcmp(left, right, MAC_SIZE) == 0;
}

bool address_is_special(uint32_t address)
{
	uint32_t first = address >> 24;

	return first == 0 || first == 127 || address >> 16 == (169u << 8 | 254) || first >= 224;
}
