#include "packet.h"

#include "address.h"

bool packet_parse(const uint8_t *frame, size_t length, struct packet *packet)
{
	const uint8_t *ip = frame + ETHERNET_SIZE;
	size_t total;

	/* Options could say another way than the destination's: nothing of today needs them. */
	if (length < ETHERNET_SIZE + IP_SIZE || get16(frame + ETHERNET_TYPE) != TYPE_IP || ip[0] != 0x45)
		return false;
	total = get16(ip + IP_LENGTH);
	if (total < IP_SIZE || total > length - ETHERNET_SIZE)
		return false;
	*packet = (struct packet){
		.source = get32(ip + IP_FROM),
		.destination = get32(ip + IP_TO),
		.protocol = ip[IP_PROTOCOL],
		.is_fragment = get16(ip + IP_FRAGMENT) & (IP_MORE_FRAGMENTS | IP_FRAGMENT_OFFSET),
		.payload = ip + IP_SIZE,
		.size = total - IP_SIZE,
	};
	return true;
}
