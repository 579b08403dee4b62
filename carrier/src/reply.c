#include "reply.h"

#include <string.h>

#include "address.h"
#include "hosts.h"
#include "packet.h"

static uint16_t checksum(const uint8_t *header)
{
	uint32_t sum = 0;

	for (int i = 0; i < IP_SIZE; i += 2)
		sum += get16(header + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Headers of the way back. UDP's checksum is left out, as IPv4 allows: nothing lies between the guest and us. */
static void turn_round(const uint8_t *frame, size_t size, uint8_t *answer)
{
	const uint8_t *ip = frame + ETHERNET_SIZE, *udp = ip + IP_SIZE;
	uint8_t *to_ip = answer + ETHERNET_SIZE, *to_udp = to_ip + IP_SIZE;

	memcpy(answer, frame + ETHERNET_SOURCE, MAC_SIZE);
	memcpy(answer + ETHERNET_SOURCE, frame, MAC_SIZE);
	put16(answer + ETHERNET_TYPE, TYPE_IP);
	memset(to_ip, 0, IP_SIZE);
	to_ip[0] = 0x45;
	put16(to_ip + IP_LENGTH, (unsigned int)(IP_SIZE + UDP_SIZE + size));
	to_ip[8] = 64; /* hops */
	to_ip[IP_PROTOCOL] = PROTOCOL_UDP;
	memcpy(to_ip + IP_FROM, ip + IP_TO, 4);
	memcpy(to_ip + IP_TO, ip + IP_FROM, 4);
	put16(to_ip + IP_SUM, checksum(to_ip));
	memcpy(to_udp + PORT_SOURCE, udp + PORT_DESTINATION, 2);
	memcpy(to_udp + PORT_DESTINATION, udp + PORT_SOURCE, 2);
	put16(to_udp + UDP_LENGTH, (unsigned int)(UDP_SIZE + size));
	put16(to_udp + UDP_SUM, 0);
}

size_t reply_to(const uint8_t *frame, size_t length, bool is_final, uint8_t *answer)
{
	struct packet packet;
	struct question question;
	uint32_t addresses[MOST_ADDRESSES];
	bool is_known;
	size_t count, size;

	if (!packet_parse(frame, length, &packet) || packet.size < UDP_SIZE ||
	    !names_parse(packet.payload + UDP_SIZE, packet.size - UDP_SIZE, &question))
		return 0;
	count = hosts_find(question.name, addresses, &is_known);
	if (!is_known && !is_final)
		return 0;
	size = names_answer(packet.payload + UDP_SIZE, &question, addresses, count, count ? 0 : RCODE_NXDOMAIN,
			    answer + ETHERNET_SIZE + IP_SIZE + UDP_SIZE);
	turn_round(frame, size, answer);
	return ETHERNET_SIZE + IP_SIZE + UDP_SIZE + size;
}
