/* What the headers and records of an archive say of one entry. Pure. */
#ifndef FIREKILN_TARENTRY_H
#define FIREKILN_TARENTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

#include "tarformat.h"

#define TAR_NAME_LIMIT 8192
#define TAR_RECORDS_LIMIT (1 << 20)

struct tar_entry {
	char name[TAR_NAME_LIMIT], link[TAR_NAME_LIMIT];
	bool has_name, has_link, has_size, has_mtime; /* by records in front of the header */
	bool has_uid, has_gid;
	char type;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	dev_t device;
	unsigned long long size, uid_number, gid_number;
	struct timespec mtime;
	char *records; /* pax, TAR_RECORDS_LIMIT at most */
	size_t records_length;
};

/* One of pax's records, "LENGTH KEY=VALUE\n": `key` ends before the `=`, `value` before the line's end. */
struct tar_record {
	const char *key, *value;
	size_t key_length, value_length;
};

/* The record at `*at`, which then is behind it. False where there is none before `end`. */
bool tar_next_record(char **at, char *end, struct tar_record *record);

/* Take from the entry's `records` what they say of the header that follows. False where they are damaged. */
bool tar_take_records(struct tar_entry *entry);

/* Take what a header says. NULL, or what is wrong with it. */
const char *tar_take_header(struct tar_entry *entry, const struct tar_header *header);

/* Whether records and long names come, which belong to the header behind them. */
bool tar_is_prelude(char type);

/* Let go what belonged to this entry alone. */
void tar_forget(struct tar_entry *entry);

#endif
