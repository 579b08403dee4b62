/* Every process but ours stands still, by cgroup2's freezer. See "Snapshots" in PROTOCOL.md. */
#ifndef FIREKILN_FREEZER_H
#define FIREKILN_FREEZER_H

#include "failure.h"

/* Have them stand still, or go on as before: 0, or -1 and `failure`. Waits for them, ten seconds at most. */
int freezer_freeze(struct failure *failure);

/* Let them go on. */
void freezer_thaw(void);

#endif
