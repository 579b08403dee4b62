/* File systems, from the bare initramfs to the root that a process expects, and their end. */
#ifndef FIREKILN_MOUNTS_H
#define FIREKILN_MOUNTS_H

#include "document.h"
#include "failure.h"

/* /proc, /sys and /dev of the initramfs: what PID 1 itself needs. */
void mounts_early(void);

/* Wait for the drives, stack the layers under the scratch drive (or a tmpfs), and make that the root. The initramfs's
 * files are deleted. 0, or -1 and `failure`. */
int mounts_root(const struct machine *machine, struct failure *failure);

/* What a container has in /dev and /sys, once the root is there. What fails is remarked upon. */
void mounts_late(void);

/* Make the scratch drive's file system clean, after every process is gone. */
void mounts_finish(void);

#endif
