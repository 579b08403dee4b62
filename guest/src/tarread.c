#include "tarread.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "tar.h"

int tar_refuse(struct tar_reader *reader, int error)
{
	return fail(reader->failure, "file", error, "%s", reader->entry.name);
}

int tar_corrupt(struct tar_reader *reader, const char *what)
{
	return fail(reader->failure, "file", 0, "the archive is damaged: %s", what);
}

/* Exactly so many bytes. 1, 0 where the archive ends right here, -1 and the failure. */
static int take(struct tar_reader *reader, char *data, size_t length)
{
	size_t got = 0;

	while (got < length) {
		ssize_t count = read(reader->fd, data + got, length - got);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return fail(reader->failure, "file", errno, "reading the archive");
		if (count == 0)
			return got ? tar_corrupt(reader, "it ends too soon") : 0;
		got += (size_t)count;
	}
	return 1;
}

int tar_pass_data(struct tar_reader *reader, int fd)
{
	unsigned long long left = reader->entry.size, padding = (TAR_BLOCK - left % TAR_BLOCK) % TAR_BLOCK;

	while (left) {
		size_t part = left < TAR_CHUNK ? (size_t)left : TAR_CHUNK;
		int got = take(reader, reader->data, part);

		if (got <= 0)
			return got ? got : tar_corrupt(reader, "it ends too soon");
		if (fd >= 0 && file_write_all(fd, reader->data, part))
			return tar_refuse(reader, errno);
		left -= part;
	}
	return padding && take(reader, reader->data, (size_t)padding) <= 0 ? tar_corrupt(reader, "it ends too soon") : 0;
}

/* --- entries ------------------------------------------------------------------------------------------------------- */

static int take_long(struct tar_reader *reader, char *name, bool *known)
{
	unsigned long long size = reader->entry.size;
	int got;

	if (size >= TAR_NAME_LIMIT)
		return tar_corrupt(reader, "a name is too long");
	got = take(reader, reader->data, (size_t)(size + (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK));
	if (got < 0 || (got == 0 && size))
		return got ? got : tar_corrupt(reader, "it ends too soon");
	memcpy(name, reader->data, (size_t)size);
	name[size] = '\0';
	*known = true;
	return 0;
}

static int take_records(struct tar_reader *reader)
{
	struct tar_entry *entry = &reader->entry;
	size_t size = (size_t)entry->size, padded = size + (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK;
	int got;

	if (entry->size > TAR_RECORDS_LIMIT)
		return tar_corrupt(reader, "too long a header");
	free(entry->records);
	entry->records = malloc(padded + 1);
	entry->records_length = size;
	if (!entry->records)
		return tar_refuse(reader, ENOMEM);
	got = padded ? take(reader, entry->records, padded) : 1;
	if (got <= 0)
		return got ? got : tar_corrupt(reader, "it ends too soon");
	entry->records[padded] = '\0';
	return tar_take_records(entry) ? 0 : tar_corrupt(reader, "an extended header");
}

static int take_entry(struct tar_reader *reader)
{
	struct tar_entry *entry = &reader->entry;
	int result;

	switch (entry->type) {
	case 'L':
		return take_long(reader, entry->name, &entry->has_name);
	case 'K':
		return take_long(reader, entry->link, &entry->has_link);
	case 'x':
		return take_records(reader);
	case 'g':
		return tar_pass_data(reader, -1);
	case '\0':
	case '0':
	case '7':
		/* before POSIX, a directory was a file whose name ends with a slash */
		if (!entry->size && *entry->name && entry->name[strlen(entry->name) - 1] == '/')
			entry->type = '5';
		result = tar_place(reader);
		break;
	default:
		result = strchr("123456", entry->type) ? tar_place(reader) : tar_pass_data(reader, -1);
	}
	tar_forget(entry);
	return result;
}

static bool is_zero(const struct tar_header *header)
{
	const char *bytes = (const char *)header;

	return !*bytes && !memcmp(bytes, bytes + 1, TAR_BLOCK - 1);
}

int tar_unpack(int fd, const char *path, bool keep_owner, struct failure *failure)
{
	static struct tar_reader reader;
	struct tar_header header;
	const char *wrong;
	int got;

	reader = (struct tar_reader){ .fd = fd, .keep_owner = keep_owner, .failure = failure };
	if (chdir(path))
		return fail(failure, "file", errno, "%s", path);
	while ((got = take(&reader, (char *)&header, sizeof header)) > 0) {
		if (is_zero(&header))
			continue; /* the end, or archives behind one another */
		wrong = tar_take_header(&reader.entry, &header);
		if (wrong ? tar_corrupt(&reader, wrong) : take_entry(&reader)) {
			got = -1;
			break;
		}
	}
	tar_leave(&reader, "");
	tar_forget(&reader.entry);
	return got;
}
