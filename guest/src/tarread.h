/* An archive while it is unpacked: between the reading of its entries (tarread.c) and the making of them (tarplace.c). */
#ifndef FIREKILN_TARREAD_H
#define FIREKILN_TARREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "failure.h"
#include "tarentry.h"

#define TAR_CHUNK (1 << 16)
#define TAR_DEPTH_LIMIT 500

/* A directory whose times wait until everything in it is there. */
struct tar_pending {
	size_t length; /* of its path, a prefix of the entry's before */
	struct timespec times[2];
};

struct tar_reader {
	int fd;
	bool keep_owner;
	struct failure *failure;
	struct tar_entry entry;
	char path[TAR_NAME_LIMIT]; /* of the last directory, for `pending` */
	struct tar_pending pending[TAR_DEPTH_LIMIT];
	size_t pending_count;
	char data[TAR_CHUNK];
};

/* Say why the entry can't be; what is wrong with the archive. Both -1. */
int tar_refuse(struct tar_reader *reader, int error);
int tar_corrupt(struct tar_reader *reader, const char *what);

/* Hand the entry's data to `fd`, or nobody (-1), with the padding behind it. 0, or -1 and the failure. */
int tar_pass_data(struct tar_reader *reader, int fd);

/* Make what the entry says below the working directory, its data included. 0, or -1 and the failure. */
int tar_place(struct tar_reader *reader);

/* Set the times of directories that `path` doesn't lie in. */
void tar_leave(struct tar_reader *reader, const char *path);

#endif
