/* The device of the root file system, as the kernel's command line names it. */
#ifndef FIREKILN_ROOTDEVICE_H
#define FIREKILN_ROOTDEVICE_H

#include <stdbool.h>
#include <stddef.h>

#include "failure.h"

/* Wait for the device of `root=/dev/NAME` or `root=UUID=…` (an ext4's), and put its path into `device`. */
int root_device(char *device, size_t size, struct failure *failure);

/* Whether the device at `path` holds an ext4 with this UUID, written as usual. */
bool root_has_uuid(const char *path, const char *uuid);

#endif
