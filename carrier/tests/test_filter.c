#include "check.h"
#include "filter.h"
#include "packet.h"

#define GUEST 0x0a00020f
#define GATEWAY 0x0a000202
#define NAMESERVER 0x0a000203
#define HOST 0xcb007101 /* 203.0.113.1, the host's own */
#define WORLD 0xcb007109
#define METADATA 0xa9fea9fe
#define LATER 1000

static const struct mac own = { { 0x52, 0x54, 0, 1, 2, 3 } };
static const struct mac peer = { { 0x52, 0x54, 0, 9, 9, 9 } };
static const struct mac gateway = { { 0x52, 0x55, 10, 0, 2, 2 } };
static const struct mac nameserver = { { 0x52, 0x55, 10, 0, 2, 3 } };
static const struct mac everyone = { { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff } };

static uint8_t frame[128];

static bool is_own(void *context, uint32_t address)
{
	(void)context;
	return address == HOST;
}

static struct filter filter_of(bool has_peers)
{
	return (struct filter){
		.place = { own, GUEST, 0xffffff00, GATEWAY, NAMESERVER },
		.has_outside = true,
		.has_peers = has_peers,
		.is_own = is_own,
	};
}

/* A packet of the guest's in `frame`; its length. */
static size_t packet(const struct mac *to, uint32_t destination, uint8_t protocol, unsigned int port)
{
	uint8_t *ip = frame + ETHERNET_SIZE, *data = ip + IP_SIZE;

	memset(frame, 0, sizeof frame);
	memcpy(frame, to, MAC_SIZE);
	memcpy(frame + ETHERNET_SOURCE, &own, MAC_SIZE);
	put16(frame + ETHERNET_TYPE, TYPE_IP);
	ip[0] = 0x45;
	put16(ip + IP_LENGTH, IP_SIZE + TCP_SIZE);
	ip[IP_PROTOCOL] = protocol;
	put32(ip + IP_FROM, GUEST);
	put32(ip + IP_TO, destination);
	put16(data + PORT_SOURCE, 40000);
	put16(data + PORT_DESTINATION, port);
	if (protocol == PROTOCOL_TCP)
		data[TCP_FLAGS] = TCP_SYN;
	if (protocol == PROTOCOL_ICMP)
		data[0] = ICMP_ECHO;
	return ETHERNET_SIZE + IP_SIZE + TCP_SIZE;
}

static enum verdict judged(const struct filter *filter, size_t length)
{
	return filter_judge(filter, frame, length, LATER).verdict;
}

static enum verdict sent(const struct mac *to, uint32_t destination, uint8_t protocol, unsigned int port)
{
	struct filter filter = filter_of(false);

	return judged(&filter, packet(to, destination, protocol, port));
}

static void a_guest_reaches_others_and_no_port_of_its_host(void)
{
	static const uint32_t closed[] = { HOST, METADATA, GATEWAY, 0x0a000204, 0x0a0002ff, 0x7f000001, 0,
					   0xffffffff, 0xe0000001 };

	CHECK(sent(&gateway, WORLD, PROTOCOL_TCP, 80) == FILTER_OUTSIDE);
	CHECK(sent(&gateway, WORLD, PROTOCOL_UDP, 53) == FILTER_OUTSIDE);
	CHECK(sent(&gateway, WORLD, PROTOCOL_ICMP, 0) == FILTER_OUTSIDE);
	for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
		CHECK(sent(&gateway, closed[i], PROTOCOL_TCP, 80) == FILTER_DROP);
		CHECK(sent(&gateway, closed[i], PROTOCOL_UDP, 80) == FILTER_DROP);
		CHECK(sent(&nameserver, closed[i], PROTOCOL_TCP, 80) == FILTER_DROP);
		if (closed[i] != GATEWAY)
			CHECK(sent(&gateway, closed[i], PROTOCOL_ICMP, 0) == FILTER_DROP);
	}
	CHECK(sent(&gateway, GATEWAY, PROTOCOL_ICMP, 0) == FILTER_OUTSIDE);
}

static void of_the_name_server_only_the_port_of_names_answers(void)
{
	CHECK(sent(&nameserver, NAMESERVER, PROTOCOL_UDP, 53) == FILTER_OUTSIDE);
	CHECK(sent(&nameserver, NAMESERVER, PROTOCOL_TCP, 53) == FILTER_OUTSIDE);
	CHECK(sent(&nameserver, NAMESERVER, PROTOCOL_TCP, 8080) == FILTER_DROP);
	CHECK(sent(&gateway, NAMESERVER, PROTOCOL_UDP, 8080) == FILTER_DROP);
}

static void what_others_began_is_answered(void)
{
	struct filter filter = filter_of(false);
	size_t length = packet(&gateway, HOST, PROTOCOL_TCP, 50000);
	uint8_t *ip = frame + ETHERNET_SIZE, *data = ip + IP_SIZE;

	data[TCP_FLAGS] = TCP_SYN | TCP_ACK;
	CHECK(judged(&filter, length) == FILTER_OUTSIDE);
	put16(ip + IP_FRAGMENT, IP_MORE_FRAGMENTS);
	CHECK(judged(&filter, length) == FILTER_DROP);

	length = packet(&gateway, GATEWAY, PROTOCOL_UDP, 50000);
	CHECK(judged(&filter, length) == FILTER_DROP);
	/* The same, the other way round: from the gateway's port 50000 to the guest's 40000. */
	put32(ip + IP_FROM, GATEWAY);
	put32(ip + IP_TO, GUEST);
	put16(data + PORT_SOURCE, 50000);
	put16(data + PORT_DESTINATION, 40000);
	filter_note(&filter, frame, length, LATER);
	length = packet(&gateway, GATEWAY, PROTOCOL_UDP, 50000);
	CHECK(judged(&filter, length) == FILTER_OUTSIDE);
	length = packet(&gateway, GATEWAY, PROTOCOL_UDP, 50001);
	CHECK(judged(&filter, length) == FILTER_DROP);
	length = packet(&gateway, GATEWAY, PROTOCOL_UDP, 50000);
	CHECK(filter_judge(&filter, frame, length, LATER + 3600).verdict == FILTER_DROP);
}

static void nobody_says_that_he_is_another(void)
{
	struct filter filter = filter_of(true);
	size_t length = packet(&gateway, WORLD, PROTOCOL_TCP, 80);

	frame[ETHERNET_SOURCE + 5]++;
	CHECK(judged(&filter, length) == FILTER_DROP);
	length = packet(&peer, 0x0a000210, PROTOCOL_TCP, 80);
	CHECK(judged(&filter, length) == FILTER_PEER);
	put32(frame + ETHERNET_SIZE + IP_FROM, 0x0a000211);
	CHECK(judged(&filter, length) == FILTER_DROP);
	length = packet(&gateway, WORLD, PROTOCOL_TCP, 80);
	frame[ETHERNET_SIZE] = 0x46; /* options */
	CHECK(judged(&filter, length) == FILTER_DROP);
	put16(frame + ETHERNET_TYPE, 0x86dd); /* IPv6 */
	CHECK(judged(&filter, length) == FILTER_DROP);
}

static size_t arp(uint32_t sender)
{
	uint8_t *body = frame + ETHERNET_SIZE;

	memset(frame, 0, sizeof frame);
	memcpy(frame, &everyone, MAC_SIZE);
	memcpy(frame + ETHERNET_SOURCE, &own, MAC_SIZE);
	put16(frame + ETHERNET_TYPE, TYPE_ARP);
	put32(body, 1u << 16 | TYPE_IP);
	put32(body + 4, 0x06040001);
	memcpy(body + ARP_SENDER_MAC, &own, MAC_SIZE);
	put32(body + ARP_SENDER, sender);
	return ETHERNET_SIZE + ARP_SIZE;
}

static void questions_for_addresses_go_to_all_and_claim_no_other(void)
{
	struct filter filter = filter_of(true);

	CHECK(judged(&filter, arp(GUEST)) == FILTER_ALL);
	CHECK(judged(&filter, arp(0)) == FILTER_ALL);
	CHECK(judged(&filter, arp(GATEWAY)) == FILTER_DROP);
	CHECK(judged(&filter, arp(GUEST) - 1) == FILTER_DROP);
}

static void names_are_asked_for_on_networks_that_have_any(void)
{
	struct filter filter = filter_of(true);
	struct judgement judgement =
		filter_judge(&filter, frame, packet(&gateway, HOST, PROTOCOL_UDP, 53), LATER);

	CHECK(judgement.verdict == FILTER_QUESTION && judgement.next == FILTER_DROP);
}

static void an_internal_network_has_no_outside(void)
{
	struct filter filter = filter_of(true);

	filter.is_internal = true;
	CHECK(judged(&filter, packet(&gateway, WORLD, PROTOCOL_TCP, 80)) == FILTER_DROP);
	CHECK(judged(&filter, packet(&gateway, GATEWAY, PROTOCOL_ICMP, 0)) == FILTER_DROP);
	CHECK(judged(&filter, packet(&peer, 0x0a000210, PROTOCOL_TCP, 80)) == FILTER_PEER);
	CHECK(judged(&filter, arp(GUEST)) == FILTER_ALL);
}

/* Whatever the bytes: nothing is read beyond them, and nothing new begins with the host. */
static void no_frame_at_all_begins_something_with_the_host(void)
{
	struct filter filter = filter_of(true);

	srand(7);
	for (int round = 0; round < 30000; round++) {
		static const uint32_t to[] = { HOST, METADATA, GATEWAY, 0x7f000001 };
		size_t length = packet(&gateway, to[rand() % 4], rand() % 2 ? PROTOCOL_TCP : PROTOCOL_UDP, 80);
		uint8_t *copy, *data = frame + ETHERNET_SIZE + IP_SIZE;
		struct judgement judgement;

		for (int change = rand() % 4; change > 0; change--)
			frame[rand() % (int)length] = (uint8_t)rand();
		length = (size_t)rand() % 4 ? length : (size_t)rand() % (length + 1);
		copy = malloc(length + 1);
		memcpy(copy, frame, length);
		judgement = filter_judge(&filter, copy, length, LATER);
		free(copy);
		if (judgement.verdict == FILTER_OUTSIDE && get16(frame + ETHERNET_TYPE) == TYPE_IP &&
		    frame[ETHERNET_SIZE + IP_PROTOCOL] == PROTOCOL_TCP &&
		    (data[TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			CHECK(get32(frame + ETHERNET_SIZE + IP_TO) != HOST &&
			      get32(frame + ETHERNET_SIZE + IP_TO) != METADATA &&
			      get32(frame + ETHERNET_SIZE + IP_TO) != GATEWAY);
	}
}

int main(void)
{
	a_guest_reaches_others_and_no_port_of_its_host();
	of_the_name_server_only_the_port_of_names_answers();
	what_others_began_is_answered();
	nobody_says_that_he_is_another();
	questions_for_addresses_go_to_all_and_claim_no_other();
	names_are_asked_for_on_networks_that_have_any();
	an_internal_network_has_no_outside();
	no_frame_at_all_begins_something_with_the_host();
	return 0;
}
