/* The other machines of a network of user networks: each has a socket in the network's folder, our working folder, named by
 * its address. A datagram there is the sender's address, four bytes, and a frame. There is nobody in the middle: who is
 * there is who has bound a socket. */
#ifndef PEERS_H
#define PEERS_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "address.h"

#define MOST_PEERS 256

struct peer {
	uint32_t address; /* 0: none */
	int fd;
	struct mac mac;
	bool has_mac;
	bool is_slow; /* did not take a frame in time: what comes for it is lost, until it takes one at once */
};

struct peers {
	uint32_t own;
	DIR *folder;
	int inbox; /* -1: none */
	struct peer peer[MOST_PEERS];
	uint8_t buffer[4 + 68 * 1024];
};

/* Bind our own socket. False with errno; EADDRINUSE: another process lives there. */
bool peers_open(struct peers *peers, uint32_t own);

/* Whether somebody has that address in the network of that folder (AT_FDCWD: the working one). */
bool peers_is_there(int folder, uint32_t address);

/* The next frame for `mac`, or NULL; it stays until the next call. */
const uint8_t *peers_receive(struct peers *peers, const struct mac *mac, size_t *length);

/* Send a frame to whom it is for; where that isn't known, to all. The peer that has no room for it, else NULL. */
struct peer *peers_send(struct peers *peers, const uint8_t *frame, size_t length);
/* Send to every machine of the network; who has no room loses it. */
void peers_send_all(struct peers *peers, const uint8_t *frame, size_t length);

#endif
