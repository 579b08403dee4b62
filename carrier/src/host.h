/* What the host's kernel says of an address. */
#ifndef HOST_H
#define HOST_H

#include <stdbool.h>
#include <stdint.h>

/* A socket for `host_owns`; -1 and errno. */
int host_open(void);

/* Whether the host would deliver it to itself, or to all (broadcast): anything but a way to another host. Asked anew
 * each second: addresses come and go. `context` points at the socket. */
bool host_owns(void *context, uint32_t address);

#endif
