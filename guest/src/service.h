/* The main process from its start to its end, told to the host as it goes. */
#ifndef FIREKILN_SERVICE_H
#define FIREKILN_SERVICE_H

#include "channel.h"
#include "document.h"
#include "failure.h"

/* Greet the host, run the process, relay, reap, report. Returns when the machine may power off. */
void service_run(const struct machine *machine, struct channel *channel);

/* Tell the host, and the console, why there will be no process. Returns when the machine may power off. */
void service_fail(struct channel *channel, const struct failure *failure);

/* The signals that PID 1 reads from a descriptor; to be blocked before anything else happens. */
void service_block_signals(void);

#endif
