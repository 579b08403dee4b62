#include "tarentry.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "decimal.h"

/* --- records ------------------------------------------------------------------------------------------------------- */

bool tar_next_record(char **at, char *end, struct tar_record *record)
{
	unsigned long long total = 0;
	char *start = *at, *digit = start, *equals;

	while (digit < end && *digit >= '0' && *digit <= '9' && total <= TAR_RECORDS_LIMIT)
		total = total * 10 + (unsigned long long)(*digit++ - '0');
	if (digit == end || *digit != ' ' || total > (size_t)(end - start) || total < (size_t)(digit - start) + 4 ||
	    start[total - 1] != '\n')
		return false;
	*at = start + total;
	record->key = digit + 1;
	equals = memchr(digit + 1, '=', (size_t)(*at - digit - 1));
	if (!equals)
		return false;
	record->key_length = (size_t)(equals - record->key);
	record->value = equals + 1;
	record->value_length = (size_t)(*at - 1 - record->value);
	return true;
}

static bool copy_name(char *name, const char *value, size_t length)
{
	if (length >= TAR_NAME_LIMIT)
		return false;
	memcpy(name, value, length);
	name[length] = '\0';
	return true;
}

/* "SECONDS.FRACTION", perhaps negative. `value` is followed by a newline. */
static struct timespec parse_time(const char *value)
{
	const char *rest;
	long long seconds = decimal_parse(value, &rest);
	long nanoseconds = 0, digit = 100000000;

	if (*rest == '.')
		for (rest++; *rest >= '0' && *rest <= '9' && digit; rest++, digit /= 10)
			nanoseconds += (*rest - '0') * digit;
	if (*value == '-' && nanoseconds)
		return (struct timespec){ seconds - 1, 1000000000 - nanoseconds };
	return (struct timespec){ seconds, nanoseconds };
}

static bool is(const struct tar_record *record, const char *name)
{
	return record->key_length == strlen(name) && !memcmp(record->key, name, record->key_length);
}

static unsigned long long number(const struct tar_record *record)
{
	return (unsigned long long)decimal_parse(record->value, NULL);
}

static bool take_record(struct tar_entry *entry, const struct tar_record *record)
{
	if (is(record, "path"))
		return entry->has_name = copy_name(entry->name, record->value, record->value_length);
	if (is(record, "linkpath"))
		return entry->has_link = copy_name(entry->link, record->value, record->value_length);
	if (is(record, "size"))
		entry->size = number(record), entry->has_size = true;
	else if (is(record, "mtime"))
		entry->mtime = parse_time(record->value), entry->has_mtime = true;
	else if (is(record, "uid"))
		entry->uid_number = number(record), entry->has_uid = true;
	else if (is(record, "gid"))
		entry->gid_number = number(record), entry->has_gid = true;
	return !entry->has_size || entry->size <= LLONG_MAX;
}

bool tar_take_records(struct tar_entry *entry)
{
	char *end = entry->records + entry->records_length;
	struct tar_record record;

	for (char *at = entry->records; at < end;)
		if (!tar_next_record(&at, end, &record) || !take_record(entry, &record))
			return false;
	return true;
}

/* --- headers ------------------------------------------------------------------------------------------------------- */

/* A field that ends with its size or a NUL. */
static void copy_field(char *to, const char *field, size_t size)
{
	size_t length = strnlen(field, size);

	memcpy(to, field, length);
	to[length] = '\0';
}

static void read_names(struct tar_entry *entry, const struct tar_header *header)
{
	size_t used = 0;

	if (!entry->has_link)
		copy_field(entry->link, header->link, sizeof header->link);
	if (entry->has_name)
		return;
	if (!memcmp(header->magic, "ustar", 6) && *header->prefix) { /* GNU's magic has a blank, and no prefix */
		copy_field(entry->name, header->prefix, sizeof header->prefix);
		used = strlen(entry->name);
		entry->name[used++] = '/';
	}
	copy_field(entry->name + used, header->name, sizeof header->name);
}

bool tar_is_prelude(char type)
{
	return type && strchr("xgLK", type);
}

const char *tar_take_header(struct tar_entry *entry, const struct tar_header *header)
{
	long long size = tar_number(header->size, sizeof header->size);
	long long mode = tar_number(header->mode, sizeof header->mode);
	long long uid = tar_number(header->uid, sizeof header->uid), gid = tar_number(header->gid, sizeof header->gid);
	long long major_number = tar_number(header->major, sizeof header->major);
	long long minor_number = tar_number(header->minor, sizeof header->minor);

	if (tar_number(header->checksum, sizeof header->checksum) != tar_checksum(header))
		return "a header's checksum";
	entry->type = header->type;
	if (tar_is_prelude(header->type)) {
		entry->size = (unsigned long long)size;
		entry->has_size = false;
		return size < 0 ? "a header's size" : NULL;
	}
	if (!entry->has_size)
		entry->size = (unsigned long long)size;
	if ((size < 0 && !entry->has_size) || mode < 0 || uid < 0 || gid < 0)
		return "a header";
	entry->mode = (mode_t)mode & 07777;
	entry->uid = (uid_t)(entry->has_uid ? entry->uid_number : (unsigned long long)uid);
	entry->gid = (gid_t)(entry->has_gid ? entry->gid_number : (unsigned long long)gid);
	entry->device = makedev(major_number < 0 ? 0 : (unsigned)major_number, minor_number < 0 ? 0 : (unsigned)minor_number);
	if (!entry->has_mtime)
		entry->mtime = (struct timespec){ tar_number(header->mtime, sizeof header->mtime), 0 };
	if (strchr("123456", header->type) && header->type)
		entry->size = 0;
	read_names(entry, header);
	return NULL;
}

void tar_forget(struct tar_entry *entry)
{
	entry->has_name = entry->has_link = entry->has_size = entry->has_mtime = entry->has_uid = entry->has_gid = false;
	free(entry->records);
	entry->records = NULL;
	entry->records_length = 0;
}
