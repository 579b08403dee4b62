/* A machine that stands still to be copied, and what becomes of it and its clones. See "Snapshots" in PROTOCOL.md. */
#ifndef FIREKILN_SNAPSHOT_H
#define FIREKILN_SNAPSHOT_H

#include "channel.h"
#include "service.h"

/* FREEZE: have all processes stand still, and say so. */
void snapshot_freeze(struct service *service);

/* THAW: be who the frame says, if it does, and let the processes go on. */
void snapshot_thaw(struct service *service, const struct frame *frame);

#endif
