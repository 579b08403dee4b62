/* Steps of builds: a machine that has no process of its own, and runs one after the other as its host asks. */
#ifndef FIREKILN_STEPS_H
#define FIREKILN_STEPS_H

#include "channel.h"

/* Serve the host until it goes. Returns when the machine may power off. */
void steps_serve(struct channel *channel);

#endif
