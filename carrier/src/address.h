/* What addresses mean to a guest's frames: IPv4 in the host's byte order, Ethernet as six bytes. */
#ifndef ADDRESS_H
#define ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#define MAC_SIZE 6

struct mac {
	uint8_t byte[MAC_SIZE];
};

/* The machine's own place in its network. */
struct place {
	struct mac mac;
	uint32_t address, netmask, gateway, nameserver;
};

/* 127.0.0.1 and 52:54:00:…; false where the text is none. */
bool address_parse(const char *text, uint32_t *address);
/* 10.0.2.15/24 */
bool address_parse_prefix(const char *text, uint32_t *address, uint32_t *netmask);
bool mac_parse(const char *text, struct mac *mac);
bool mac_equal(const void *left, const void *right);

/* Ranges that are nobody's beyond this host, or that clouds answer with a machine's credentials (169.254.0.0/16). */
bool address_is_special(uint32_t address);

static inline uint16_t get16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t get32(const uint8_t *from)
{
	return (uint32_t)get16(from) << 16 | get16(from + 2);
}

static inline void put16(uint8_t *to, unsigned int value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

static inline void put32(uint8_t *to, uint32_t value)
{
	put16(to, value >> 16);
	put16(to + 2, value & 0xffff);
}

#endif
