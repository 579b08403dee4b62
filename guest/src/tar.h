/* Streams of tar, as POSIX.1-2001's pax has them: written from a tree, unpacked into a directory. Both wait for their
 * descriptors, and so run in a child; both need little memory however much they copy. */
#ifndef FIREKILN_TAR_H
#define FIREKILN_TAR_H

#include <stdbool.h>

#include "failure.h"

/* Write the file or tree at `path` to `fd`, its entries named `name` and below. `follow`: what a link at `path` leads
 * to. 0, or -1 and `failure`. */
int tar_write(int fd, const char *path, const char *name, bool follow, struct failure *failure);

/* Unpack what comes from `fd` into the directory `path`. 0, or -1 and `failure`. */
int tar_unpack(int fd, const char *path, bool keep_owner, struct failure *failure);

#endif
