/* The two ways in which this program serves a machine. */
#ifndef CARRIER_H
#define CARRIER_H

#include "address.h"

struct options {
	struct place place;
	int vm;      /* stream of the guest's frames; -1: there is none, the host's kernel carries them */
	int outside; /* stream of the address translation's; -1: none */
	bool has_peers;
	bool is_internal;
};

/* Carry the machine's frames until it is gone; the exit status. */
int carry(const struct options *options);

/* Answer at the gateway's address, port 53, for the names of the network; ask the host's servers for others. */
int serve(const struct options *options);

/* Say why on standard error; 1. */
int complain(const char *what);

/* Tell who started us that all is ready. */
void ready(void);

#endif
