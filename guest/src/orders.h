/* Frames of the host, and what they make the service do. */
#ifndef FIREKILN_ORDERS_H
#define FIREKILN_ORDERS_H

#include "channel.h"

/* For `channel_serve`; `context` is the struct service. */
void orders_take(void *context, const struct frame *frame);

#endif
