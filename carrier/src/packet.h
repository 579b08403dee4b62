/* Frames as they are on the wire: offsets and constants of Ethernet II, ARP (RFC 826), IPv4, UDP and TCP. */
#ifndef PACKET_H
#define PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	ETHERNET_SIZE = 14,
	ETHERNET_SOURCE = 6,
	ETHERNET_TYPE = 12,
	TYPE_IP = 0x0800,
	TYPE_ARP = 0x0806,

	ARP_SIZE = 28,
	ARP_SENDER_MAC = 8,
	ARP_SENDER = 14,

	IP_SIZE = 20,
	IP_LENGTH = 2,
	IP_FRAGMENT = 6,
	IP_PROTOCOL = 9,
	IP_SUM = 10,
	IP_FROM = 12,
	IP_TO = 16,
	IP_MORE_FRAGMENTS = 0x2000,
	IP_FRAGMENT_OFFSET = 0x1fff,

	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,

	PORT_SOURCE = 0, /* TCP and UDP */
	PORT_DESTINATION = 2,
	UDP_SIZE = 8,
	UDP_LENGTH = 4,
	UDP_SUM = 6,
	TCP_SIZE = 20,
	TCP_FLAGS = 13,
	TCP_SYN = 0x02,
	TCP_ACK = 0x10,
	ICMP_SIZE = 8,
	ICMP_ECHO = 8,

	PORT_DNS = 53,
	PORT_DHCP_SERVER = 67,
	PORT_DHCP_CLIENT = 68,
};

/* An IPv4 packet within a frame. `payload` is what follows its header, as long as the packet says. */
struct packet {
	uint32_t source, destination;
	uint8_t protocol;
	bool is_fragment;
	const uint8_t *payload;
	size_t size;
};

/* False where the frame holds no IPv4 packet without options. */
bool packet_parse(const uint8_t *frame, size_t length, struct packet *packet);

#endif
