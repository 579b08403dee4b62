/* The root of one step, put together by its first process in namespaces of its own. */
#ifndef FIREKILN_STEPROOT_H
#define FIREKILN_STEPROOT_H

#include "document.h"
#include "failure.h"

/* Leave for the step's own namespaces, but that of processes, where the caller is. 0, or -1 and `failure`. */
int step_enter(const struct machine *machine, struct failure *failure);

/* Make its root the caller's: its layers under the scratch drive, what a container has in /proc, /sys and /dev, its
 * mounts. 0, or -1 and `failure`. */
int step_root(const struct machine *machine, struct failure *failure);

#endif
