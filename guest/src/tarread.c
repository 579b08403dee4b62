#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "decimal.h"
#include "file.h"
#include "format.h"
#include "tar.h"
#include "tarformat.h"

#define NAME_LIMIT 8192
#define RECORDS_LIMIT (1 << 20)
#define CHUNK (1 << 16)
#define DEPTH_LIMIT 500

/* A directory whose times wait until everything in it is there. */
struct pending {
	size_t length; /* of its path, a prefix of the entry's before */
	struct timespec times[2];
};

struct entry {
	char name[NAME_LIMIT], link[NAME_LIMIT];
	bool has_name, has_link, has_size, has_mtime; /* by records in front of the header */
	bool has_uid, has_gid;
	char type;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	dev_t device;
	unsigned long long size, uid_number, gid_number;
	struct timespec mtime;
	char *records; /* pax, RECORDS_LIMIT at most */
	size_t records_length;
};

struct reader {
	int fd;
	bool keep_owner;
	struct failure *failure;
	struct entry entry;
	char path[NAME_LIMIT]; /* of the last directory, for `pending` */
	struct pending pending[DEPTH_LIMIT];
	size_t pending_count;
	char data[CHUNK];
};

static int refuse(struct reader *reader, int error)
{
	return fail(reader->failure, "file", error, "%s", reader->entry.name);
}

static int corrupt(struct reader *reader, const char *what)
{
	return fail(reader->failure, "file", 0, "the archive is damaged: %s", what);
}

/* Exactly so many bytes. 1, 0 where the archive ends right here, -1 and the failure. */
static int take(struct reader *reader, char *data, size_t length)
{
	size_t got = 0;

	while (got < length) {
		ssize_t count = read(reader->fd, data + got, length - got);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return fail(reader->failure, "file", errno, "reading the archive");
		if (count == 0)
			return got ? corrupt(reader, "it ends too soon") : 0;
		got += (size_t)count;
	}
	return 1;
}

/* Hand the entry's data to `fd`, or nobody (-1), with the padding behind it. */
static int pass_data(struct reader *reader, int fd)
{
	unsigned long long left = reader->entry.size, padding = (TAR_BLOCK - left % TAR_BLOCK) % TAR_BLOCK;

	while (left) {
		size_t part = left < CHUNK ? (size_t)left : CHUNK;
		int got = take(reader, reader->data, part);

		if (got <= 0)
			return got ? got : corrupt(reader, "it ends too soon");
		if (fd >= 0 && file_write_all(fd, reader->data, part))
			return refuse(reader, errno);
		left -= part;
	}
	return padding && take(reader, reader->data, (size_t)padding) <= 0 ? corrupt(reader, "it ends too soon") : 0;
}

/* --- names and records in front of a header ------------------------------------------------------------------------ */

static int take_long(struct reader *reader, char *name, bool *known)
{
	unsigned long long size = reader->entry.size;
	int got;

	if (size >= NAME_LIMIT)
		return corrupt(reader, "a name is too long");
	got = take(reader, reader->data, (size_t)(size + (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK));
	if (got < 0 || (got == 0 && size))
		return got ? got : corrupt(reader, "it ends too soon");
	memcpy(name, reader->data, (size_t)size);
	name[size] = '\0';
	*known = true;
	return 0;
}

static bool copy_name(char *name, const char *value, size_t length)
{
	if (length >= NAME_LIMIT)
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

static bool is(const char *key, const char *name)
{
	size_t length = strlen(name);

	return !strncmp(key, name, length) && key[length] == '=';
}

/* What one record means; `value` of `length` bytes is followed by a newline. */
static bool take_record(struct entry *entry, const char *key, const char *value, size_t length)
{
	if (is(key, "path"))
		return entry->has_name = copy_name(entry->name, value, length);
	if (is(key, "linkpath"))
		return entry->has_link = copy_name(entry->link, value, length);
	if (is(key, "size"))
		entry->size = (unsigned long long)decimal_parse(value, NULL), entry->has_size = true;
	else if (is(key, "mtime"))
		entry->mtime = parse_time(value), entry->has_mtime = true;
	else if (is(key, "uid"))
		entry->uid_number = (unsigned long long)decimal_parse(value, NULL), entry->has_uid = true;
	else if (is(key, "gid"))
		entry->gid_number = (unsigned long long)decimal_parse(value, NULL), entry->has_gid = true;
	return !entry->has_size || entry->size <= LLONG_MAX;
}

/* The record at `at`, "LENGTH KEY=VALUE\n". False where there is none. */
static bool cut_record(char *at, char *end, char **key, char **value, size_t *length, char **next)
{
	unsigned long long total = 0;
	char *start = at;

	while (at < end && *at >= '0' && *at <= '9' && total <= RECORDS_LIMIT)
		total = total * 10 + (unsigned long long)(*at++ - '0');
	if (at == end || *at != ' ' || total > (size_t)(end - start) || total < (size_t)(at - start) + 4 ||
	    start[total - 1] != '\n')
		return false;
	*key = at + 1;
	*next = start + total;
	*value = memchr(*key, '=', (size_t)(*next - *key));
	if (!*value)
		return false;
	++*value;
	*length = (size_t)(*next - 1 - *value);
	return true;
}

static int take_records(struct reader *reader)
{
	struct entry *entry = &reader->entry;
	size_t size = (size_t)entry->size, padded = size + (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK, length;
	char *key, *value, *end;
	int got;

	if (entry->size > RECORDS_LIMIT)
		return corrupt(reader, "too long a header");
	free(entry->records);
	entry->records = malloc(padded + 1);
	entry->records_length = size;
	if (!entry->records)
		return refuse(reader, ENOMEM);
	got = padded ? take(reader, entry->records, padded) : 1;
	if (got <= 0)
		return got ? got : corrupt(reader, "it ends too soon");
	entry->records[padded] = '\0';
	end = entry->records + size;
	for (char *at = entry->records; at < end;)
		if (!cut_record(at, end, &key, &value, &length, &at) || !take_record(entry, key, value, length))
			return corrupt(reader, "an extended header");
	return 0;
}

/* --- making what an entry says ------------------------------------------------------------------------------------- */

/* The entry's path below our directory, or an empty one for the directory itself. */
static int sanitize(struct reader *reader, char *path)
{
	char *from = path, *to = path;

	while (*from) {
		size_t length;

		from += strspn(from, "/");
		length = strcspn(from, "/");
		if (length == 2 && !strncmp(from, "..", 2))
			return corrupt(reader, "a name that leads outside");
		if (length && !(length == 1 && *from == '.')) {
			if (to != path)
				*to++ = '/';
			memmove(to, from, length);
			to += length;
		}
		from += length;
	}
	*to = '\0';
	return 0;
}

static int set_xattrs(struct reader *reader, const char *path)
{
	struct entry *entry = &reader->entry;
	char name[TAR_XATTR_NAME + 1], *key, *value, *end = entry->records + entry->records_length;
	size_t length;

	for (char *at = entry->records; at && at < end;) {
		size_t prefix = strlen(TAR_XATTR);

		if (!cut_record(at, end, &key, &value, &length, &at))
			break; /* they were looked at before */
		if (strncmp(key, TAR_XATTR, prefix) || (size_t)(value - 1 - key) - prefix > TAR_XATTR_NAME)
			continue;
		format_text(name, sizeof name, "%.*s", (int)(value - 1 - key - (ptrdiff_t)prefix), key + prefix);
		if (lsetxattr(path, name, value, length, 0) && errno != ENOTSUP)
			return fail(reader->failure, "file", errno, "%s of %s", name, entry->name);
	}
	return 0;
}

/* Owner first: changing it takes capabilities and setuid bits away. */
static int set_attributes(struct reader *reader, const char *path)
{
	const struct entry *entry = &reader->entry;
	struct timespec times[2] = { entry->mtime, entry->mtime };

	if (lchown(path, reader->keep_owner ? entry->uid : 0, reader->keep_owner ? entry->gid : 0))
		return refuse(reader, errno);
	if (entry->type != '2' && chmod(path, entry->mode))
		return refuse(reader, errno);
	if (set_xattrs(reader, path))
		return -1;
	return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) ? refuse(reader, errno) : 0;
}

static int make_file(struct reader *reader, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), result;

	if (fd < 0)
		return refuse(reader, errno);
	result = pass_data(reader, fd);
	if (close(fd) && !result)
		return refuse(reader, errno);
	return result;
}

/* A hard link's target is named as entries are. */
static int make_link(struct reader *reader, const char *path)
{
	if (sanitize(reader, reader->entry.link))
		return -1;
	return linkat(AT_FDCWD, reader->entry.link, AT_FDCWD, path, 0) ? refuse(reader, errno) : 0;
}

static int make_node(struct reader *reader, const char *path)
{
	const struct entry *entry = &reader->entry;
	mode_t type = entry->type == '3' ? S_IFCHR : entry->type == '4' ? S_IFBLK : S_IFIFO;

	return mknod(path, type | 0600, entry->device) ? refuse(reader, errno) : 0;
}

static int make(struct reader *reader, const char *path, bool there)
{
	switch (reader->entry.type) {
	case '5':
		return !there && mkdir(path, 0700) ? refuse(reader, errno) : 0;
	case '2':
		return symlink(reader->entry.link, path) ? refuse(reader, errno) : 0;
	case '1':
		return make_link(reader, path);
	case '3':
	case '4':
	case '6':
		return make_node(reader, path);
	default:
		return make_file(reader, path);
	}
}

/* What bears the name goes; but a directory and something else never take each other's place. */
static int clear(struct reader *reader, const char *path, bool *there)
{
	struct stat status;
	bool directory = reader->entry.type == '5';

	*there = !lstat(path, &status);
	if (!*there)
		return errno == ENOENT ? 0 : refuse(reader, errno);
	if (S_ISDIR(status.st_mode) != directory)
		return fail(reader->failure, "file", directory ? ENOTDIR : EISDIR, "cannot overwrite %s %s with %s",
			    directory ? "non-directory" : "directory", path, directory ? "directory" : "non-directory");
	return !directory && unlink(path) ? refuse(reader, errno) : 0;
}

/* Set the times of directories that `path` doesn't lie in. */
static void leave(struct reader *reader, const char *path)
{
	while (reader->pending_count) {
		struct pending *last = &reader->pending[reader->pending_count - 1];

		if (!strncmp(path, reader->path, last->length) && path[last->length] == '/')
			return;
		reader->path[last->length] = '\0';
		utimensat(AT_FDCWD, reader->path, last->times, 0);
		reader->pending_count--;
	}
}

static void enter(struct reader *reader, const char *path)
{
	struct timespec mtime = reader->entry.mtime;

	if (reader->pending_count == DEPTH_LIMIT)
		return; /* so deep that its times don't matter */
	strcpy(reader->path, path);
	reader->pending[reader->pending_count++] = (struct pending){ strlen(path), { mtime, mtime } };
}

static int unpack(struct reader *reader)
{
	char *path = reader->entry.name;
	bool there;

	if (sanitize(reader, path))
		return -1;
	if (!*path)
		return pass_data(reader, -1);
	leave(reader, path);
	if (directory_make_parent(path))
		return refuse(reader, errno);
	if (clear(reader, path, &there) || make(reader, path, there))
		return -1;
	if (reader->entry.type != '1' && set_attributes(reader, path))
		return -1;
	if (reader->entry.type == '5')
		enter(reader, path);
	return 0;
}

/* --- entries ------------------------------------------------------------------------------------------------------- */

/* A field that ends with its size or a NUL. */
static void copy_field(char *to, const char *field, size_t size)
{
	size_t length = strnlen(field, size);

	memcpy(to, field, length);
	to[length] = '\0';
}

static void read_names(struct entry *entry, const struct tar_header *header)
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

static int read_header(struct reader *reader, const struct tar_header *header)
{
	struct entry *entry = &reader->entry;
	long long size = tar_number(header->size, sizeof header->size);
	long long mode = tar_number(header->mode, sizeof header->mode);
	long long uid = tar_number(header->uid, sizeof header->uid), gid = tar_number(header->gid, sizeof header->gid);
	long long major_number = tar_number(header->major, sizeof header->major);
	long long minor_number = tar_number(header->minor, sizeof header->minor);

	if (tar_number(header->checksum, sizeof header->checksum) != tar_checksum(header))
		return corrupt(reader, "a header's checksum");
	entry->type = header->type;
	if (strchr("xgLK", header->type) && header->type) {
		entry->size = (unsigned long long)size;
		entry->has_size = false;
		return size < 0 ? corrupt(reader, "a header's size") : 0;
	}
	if (!entry->has_size)
		entry->size = (unsigned long long)size;
	if ((size < 0 && !entry->has_size) || mode < 0 || uid < 0 || gid < 0)
		return corrupt(reader, "a header");
	entry->mode = (mode_t)mode & 07777;
	entry->uid = (uid_t)(entry->has_uid ? entry->uid_number : (unsigned long long)uid);
	entry->gid = (gid_t)(entry->has_gid ? entry->gid_number : (unsigned long long)gid);
	entry->device = makedev(major_number < 0 ? 0 : (unsigned)major_number, minor_number < 0 ? 0 : (unsigned)minor_number);
	if (!entry->has_mtime)
		entry->mtime = (struct timespec){ tar_number(header->mtime, sizeof header->mtime), 0 };
	if (strchr("123456", header->type) && header->type)
		entry->size = 0;
	read_names(entry, header);
	return 0;
}

static void forget(struct entry *entry)
{
	entry->has_name = entry->has_link = entry->has_size = entry->has_mtime = entry->has_uid = entry->has_gid = false;
	free(entry->records);
	entry->records = NULL;
	entry->records_length = 0;
}

static int take_entry(struct reader *reader)
{
	struct entry *entry = &reader->entry;
	int result;

	switch (entry->type) {
	case 'L':
		return take_long(reader, entry->name, &entry->has_name);
	case 'K':
		return take_long(reader, entry->link, &entry->has_link);
	case 'x':
		return take_records(reader);
	case 'g':
		return pass_data(reader, -1);
	case '\0':
	case '0':
	case '7':
		/* before POSIX, a directory was a file whose name ends with a slash */
		if (!entry->size && *entry->name && entry->name[strlen(entry->name) - 1] == '/')
			entry->type = '5';
		result = unpack(reader);
		break;
	default:
		result = strchr("123456", entry->type) ? unpack(reader) : pass_data(reader, -1);
	}
	forget(entry);
	return result;
}

static bool is_zero(const struct tar_header *header)
{
	const char *bytes = (const char *)header;

	return !*bytes && !memcmp(bytes, bytes + 1, TAR_BLOCK - 1);
}

int tar_unpack(int fd, const char *path, bool keep_owner, struct failure *failure)
{
	static struct reader reader;
	struct tar_header header;
	int got;

	reader = (struct reader){ .fd = fd, .keep_owner = keep_owner, .failure = failure };
	if (chdir(path))
		return fail(failure, "file", errno, "%s", path);
	while ((got = take(&reader, (char *)&header, sizeof header)) > 0) {
		if (is_zero(&header))
			continue; /* the end, or archives behind one another */
		if (read_header(&reader, &header) || take_entry(&reader)) {
			got = -1;
			break;
		}
	}
	leave(&reader, "");
	forget(&reader.entry);
	return got;
}
