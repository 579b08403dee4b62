/* dm-verity: a read-only device whose every block is checked against a root hash that the kernel's command line gives. */
#ifndef FIREKILN_VERITY_H
#define FIREKILN_VERITY_H

#include <stddef.h>

#include "failure.h"

/* What `firekiln.verity=BLOCKS:SALT:ROOT` says: the data's blocks of 4 KiB, behind which lie a superblock and the tree
 * (format of veritysetup, SHA-256); salt and root hash in hexadecimal. */
struct verity {
	unsigned long long blocks;
	char salt[513], root[65];
};

/* Read `text`. 0, or -1 and `failure`. */
int verity_parse(const char *text, struct verity *verity, struct failure *failure);

/* Make a device-mapper device over `device`, and put its path into `mapped` (at least 32 bytes). */
int verity_open(const struct verity *verity, const char *device, char *mapped, size_t size, struct failure *failure);

#endif
