/* The blocks of a tar archive: POSIX.1-1988 (ustar). */
#ifndef FIREKILN_TARFORMAT_H
#define FIREKILN_TARFORMAT_H

#include <stddef.h>

#define TAR_BLOCK 512
#define TAR_XATTR "SCHILY.xattr." /* star's keyword, which everybody has taken over */
#define TAR_XATTR_NAME 255 /* linux/limits.h: XATTR_NAME_MAX */

struct tar_header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8];
	char type;
	char link[100], magic[6], version[2], uname[32], gname[32], major[8], minor[8], prefix[155], padding[12];
};

/* What the checksum field has to say. */
unsigned tar_checksum(const struct tar_header *header);

/* A numeric field: octal, or GNU's base 256. -1 where it is neither. */
long long tar_number(const char *field, size_t size);

#endif
