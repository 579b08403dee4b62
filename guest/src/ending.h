/* How the machine ends: what is said last, to the host and to people, and until when it is waited for. */
#ifndef FIREKILN_ENDING_H
#define FIREKILN_ENDING_H

#include "service.h"

/* The process has ended and all of its output is on its way: the machine's end, or a wait for the next start. */
void ending_conclude(struct service *service);

/* Everything is over. `sync` makes the disks clean. Returns when the machine may power off. */
void ending_finish(struct service *service, void (*sync)(void));

#endif
