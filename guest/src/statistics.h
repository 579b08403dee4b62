/* What the machine uses, and who runs in it. */
#ifndef FIREKILN_STATISTICS_H
#define FIREKILN_STATISTICS_H

#include "channel.h"

/* Answer STATS, and TOP, the latter with as many frames as it takes. */
void statistics_send(struct channel *channel);
void statistics_send_processes(struct channel *channel);

#endif
