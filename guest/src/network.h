/* Addresses and routes by ioctl, without the kernel's IP_PNP. */
#ifndef FIREKILN_NETWORK_H
#define FIREKILN_NETWORK_H

#include "document.h"
#include "failure.h"

/* Loopback and the document's interfaces. 0, or -1 and `failure`. */
int network_configure(const struct machine *machine, struct failure *failure);

#endif
