/* What a guest may send, and to whom. Pure but for `is_own`, by which it asks whether an address is the host's. */
#ifndef FILTER_H
#define FILTER_H

#include <stddef.h>
#include <time.h>

#include "address.h"

#define FLOWS 1024

enum verdict {
	FILTER_DROP,
	FILTER_OUTSIDE,  /* to the address translation */
	FILTER_PEER,     /* to the machine that has the frame's destination */
	FILTER_ALL,      /* to all machines of the network, and to the address translation */
	FILTER_QUESTION, /* a question for a name: answered where the name is known, else judged as `next` */
};

/* Datagrams that came from outside, which the guest may answer. */
struct flow {
	uint32_t address;
	uint16_t port, guest_port;
	time_t until;
};

struct filter {
	struct place place;
	bool has_outside;
	bool has_peers;
	bool is_internal; /* nothing leaves the network but questions for its own addresses (ARP) */
	/* Whether the host itself would take what is sent to that address. */
	bool (*is_own)(void *context, uint32_t address);
	void *context;
	struct flow flows[FLOWS];
};

struct judgement {
	enum verdict verdict;
	enum verdict next; /* of FILTER_QUESTION */
};

/* Judge a frame of the guest's. */
struct judgement filter_judge(const struct filter *filter, const uint8_t *frame, size_t length, time_t now);

/* Note a frame that goes to the guest from outside. */
void filter_note(struct filter *filter, const uint8_t *frame, size_t length, time_t now);

#endif
