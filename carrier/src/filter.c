#include "filter.h"

#include "packet.h"

#define FLOW_SECONDS 180
#define BROADCAST 0xffffffffu

static const uint8_t everyone[MAC_SIZE] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

/* QEMU's user network has the address 52:55 and its IPv4 address, as gateway and as name server. */
static bool is_outside(const struct filter *filter, const uint8_t *mac)
{
	uint32_t address = get32(mac + 2);

	return filter->has_outside && mac[0] == 0x52 && mac[1] == 0x55 &&
	       (address == filter->place.gateway || address == filter->place.nameserver);
}

static size_t slot(uint32_t address, unsigned int port, unsigned int guest_port)
{
	uint32_t mixed = (address ^ port << 16 ^ guest_port) * 2654435761u;

	return mixed >> 16 & (FLOWS - 1);
}

void filter_note(struct filter *filter, const uint8_t *frame, size_t length, time_t now)
{
	struct packet packet;
	struct flow flow;

	if (!packet_parse(frame, length, &packet) || packet.protocol != PROTOCOL_UDP || packet.is_fragment ||
	    packet.size < UDP_SIZE)
		return;
	flow = (struct flow){
		.address = packet.source,
		.port = get16(packet.payload + PORT_SOURCE),
		.guest_port = get16(packet.payload + PORT_DESTINATION),
		.until = now + FLOW_SECONDS,
	};
	filter->flows[slot(flow.address, flow.port, flow.guest_port)] = flow;
}

/* Whether it can only continue what somebody outside has begun: a port that is published. */
static bool is_answer(const struct filter *filter, const struct packet *packet, time_t now)
{
	const uint8_t *data = packet->payload;
	unsigned int from, to;
	const struct flow *flow;

	if (packet->is_fragment)
		return false;
	if (packet->protocol == PROTOCOL_TCP)
		return packet->size >= TCP_SIZE && (data[TCP_FLAGS] & (TCP_SYN | TCP_ACK)) != TCP_SYN;
	if (packet->protocol != PROTOCOL_UDP || packet->size < UDP_SIZE)
		return false;
	from = get16(data + PORT_SOURCE);
	to = get16(data + PORT_DESTINATION);
	flow = &filter->flows[slot(packet->destination, to, from)];
	return flow->address == packet->destination && flow->port == to && flow->guest_port == from &&
	       flow->until >= now;
}

static bool goes_to(const struct packet *packet, uint8_t protocol, size_t size, unsigned int port)
{
	return packet->protocol == protocol && !packet->is_fragment && packet->size >= size &&
	       get16(packet->payload + PORT_DESTINATION) == port;
}

static bool is_dhcp(const struct packet *packet)
{
	return goes_to(packet, PROTOCOL_UDP, UDP_SIZE, PORT_DHCP_SERVER) &&
	       get16(packet->payload + PORT_SOURCE) == PORT_DHCP_CLIENT;
}

static bool is_ping(const struct packet *packet)
{
	return packet->protocol == PROTOCOL_ICMP && !packet->is_fragment && packet->size >= ICMP_SIZE &&
	       packet->payload[0] == ICMP_ECHO;
}

/* QEMU's user network takes its own name server's address for the host's resolver, whatever the port, and every other
 * address of its network for the host's loopback. */
static bool may_leave(const struct filter *filter, const struct packet *packet, time_t now)
{
	const struct place *place = &filter->place;
	uint32_t to = packet->destination;

	if (to == place->nameserver)
		return goes_to(packet, PROTOCOL_UDP, UDP_SIZE, PORT_DNS) ||
		       goes_to(packet, PROTOCOL_TCP, TCP_SIZE, PORT_DNS) || is_ping(packet);
	if (to == place->gateway && (is_ping(packet) || is_dhcp(packet)))
		return true;
	if (address_is_special(to))
		return to == BROADCAST && is_dhcp(packet);
	if (to == place->gateway)
		return is_answer(filter, packet, now);
	if ((to & place->netmask) == (place->address & place->netmask))
		return false;
	/* What continues a connection needs no look at the host's addresses: most packets do. */
	if (packet->protocol == PROTOCOL_TCP && is_answer(filter, packet, now))
		return true;
	return !filter->is_own(filter->context, to) || is_answer(filter, packet, now);
}

static enum verdict judge_packet(const struct filter *filter, const uint8_t *frame, const struct packet *packet,
				 time_t now)
{
	bool is_asking = packet->source == 0 && is_dhcp(packet);

	if (packet->source != filter->place.address && !is_asking)
		return FILTER_DROP;
	if (is_outside(filter, frame) || (packet->destination == BROADCAST && is_dhcp(packet)))
		return filter->has_outside && !filter->is_internal && may_leave(filter, packet, now) ? FILTER_OUTSIDE
												     : FILTER_DROP;
	if (!filter->has_peers || is_asking)
		return FILTER_DROP;
	return frame[0] & 1 ? FILTER_ALL : FILTER_PEER;
}

static enum verdict judge_arp(const struct filter *filter, const uint8_t *frame, size_t length)
{
	const uint8_t *arp = frame + ETHERNET_SIZE;
	uint32_t sender;

	if (length < ETHERNET_SIZE + ARP_SIZE || get32(arp) != (1u << 16 | TYPE_IP) || get16(arp + 4) != 0x0604)
		return FILTER_DROP;
	sender = get32(arp + ARP_SENDER);
	if (!mac_equal(arp + ARP_SENDER_MAC, &filter->place.mac) || (sender && sender != filter->place.address))
		return FILTER_DROP;
	if (mac_equal(frame, everyone))
		return FILTER_ALL;
	return is_outside(filter, frame) ? FILTER_OUTSIDE : FILTER_PEER;
}

struct judgement filter_judge(const struct filter *filter, const uint8_t *frame, size_t length, time_t now)
{
	struct packet packet;
	enum verdict verdict;

	if (length < ETHERNET_SIZE || !mac_equal(frame + ETHERNET_SOURCE, &filter->place.mac))
		return (struct judgement){ .verdict = FILTER_DROP };
	if (get16(frame + ETHERNET_TYPE) == TYPE_ARP)
		return (struct judgement){ .verdict = judge_arp(filter, frame, length) };
	if (!packet_parse(frame, length, &packet))
		return (struct judgement){ .verdict = FILTER_DROP };
	verdict = judge_packet(filter, frame, &packet, now);
	if (filter->has_peers && packet.source == filter->place.address && !(frame[0] & 1) &&
	    goes_to(&packet, PROTOCOL_UDP, UDP_SIZE, PORT_DNS))
		return (struct judgement){ .verdict = FILTER_QUESTION, .next = verdict };
	return (struct judgement){ .verdict = verdict };
}
