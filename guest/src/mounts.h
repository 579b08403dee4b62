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

/* The device node of a drive that may still have to appear. */
int mounts_find_drive(const struct drive *drive, char path[16], struct failure *failure);

/* Move /dev, /proc and /sys to the mounted file system `root`, and make that the root. */
int mounts_switch(const char *root, struct failure *failure);

/* Delete PID 1's files of the initramfs. */
void mounts_empty_initramfs(void);

/* Where the root is read-only for good, lay a tmpfs over it: what is changed dies with the machine. A root that the
 * kernel mounted read-only without being asked to (`ro`) is made writable instead. */
int mounts_overlay(struct failure *failure);

/* The links that a container has in /dev. */
void mounts_links(void);

/* What a container has in /dev and /sys, once the root is there. What fails is remarked upon. */
void mounts_late(void);

/* Make the scratch drive's file system clean, after every process is gone. */
void mounts_finish(void);

#endif
