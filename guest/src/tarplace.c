#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "tarread.h"

/* The entry's path below our directory, or an empty one for the directory itself. */
static int sanitize(struct tar_reader *reader, char *path)
{
	char *from = path, *to = path;

	while (*from) {
		size_t length;

		from += strspn(from, "/");
		length = strcspn(from, "/");
		if (length == 2 && !strncmp(from, "..", 2))
			return tar_corrupt(reader, "a name that leads outside");
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

static int set_xattrs(struct tar_reader *reader, const char *path)
{
	struct tar_entry *entry = &reader->entry;
	const size_t prefix = strlen(TAR_XATTR);
	char name[TAR_XATTR_NAME + 1], *end = entry->records + entry->records_length;
	struct tar_record record;

	for (char *at = entry->records; at && at < end;) {
		if (!tar_next_record(&at, end, &record))
			break; /* they were looked at before */
		if (strncmp(record.key, TAR_XATTR, prefix) || record.key_length - prefix > TAR_XATTR_NAME)
			continue;
		format_text(name, sizeof name, "%.*s", (int)(record.key_length - prefix), record.key + prefix);
		if (lsetxattr(path, name, record.value, record.value_length, 0) && errno != ENOTSUP)
			return fail(reader->failure, "file", errno, "%s of %s", name, entry->name);
	}
	return 0;
}

/* Owner first: changing it takes capabilities and setuid bits away. */
static int set_attributes(struct tar_reader *reader, const char *path)
{
	const struct tar_entry *entry = &reader->entry;
	struct timespec times[2] = { entry->mtime, entry->mtime };

	if (lchown(path, reader->keep_owner ? entry->uid : 0, reader->keep_owner ? entry->gid : 0))
		return tar_refuse(reader, errno);
	if (entry->type != '2' && chmod(path, entry->mode))
		return tar_refuse(reader, errno);
	if (set_xattrs(reader, path))
		return -1;
	return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) ? tar_refuse(reader, errno) : 0;
}

static int make_file(struct tar_reader *reader, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), result;

	if (fd < 0)
		return tar_refuse(reader, errno);
	result = tar_pass_data(reader, fd);
	if (close(fd) && !result)
		return tar_refuse(reader, errno);
	return result;
}

/* A hard link's target is named as entries are. */
static int make_link(struct tar_reader *reader, const char *path)
{
	if (sanitize(reader, reader->entry.link))
		return -1;
	return linkat(AT_FDCWD, reader->entry.link, AT_FDCWD, path, 0) ? tar_refuse(reader, errno) : 0;
}

static int make_node(struct tar_reader *reader, const char *path)
{
	const struct tar_entry *entry = &reader->entry;
	mode_t type = entry->type == '3' ? S_IFCHR : entry->type == '4' ? S_IFBLK : S_IFIFO;

	return mknod(path, type | 0600, entry->device) ? tar_refuse(reader, errno) : 0;
}

static int make(struct tar_reader *reader, const char *path, bool there)
{
	switch (reader->entry.type) {
	case '5':
		return !there && mkdir(path, 0700) ? tar_refuse(reader, errno) : 0;
	case '2':
		return symlink(reader->entry.link, path) ? tar_refuse(reader, errno) : 0;
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
static int clear(struct tar_reader *reader, const char *path, bool *there)
{
	struct stat status;
	bool directory = reader->entry.type == '5';

	*there = !lstat(path, &status);
	if (!*there)
		return errno == ENOENT ? 0 : tar_refuse(reader, errno);
	if (S_ISDIR(status.st_mode) != directory)
		return fail(reader->failure, "file", directory ? ENOTDIR : EISDIR, "cannot overwrite %s %s with %s",
			    directory ? "non-directory" : "directory", path, directory ? "directory" : "non-directory");
	return !directory && unlink(path) ? tar_refuse(reader, errno) : 0;
}

void tar_leave(struct tar_reader *reader, const char *path)
{
	while (reader->pending_count) {
		struct tar_pending *last = &reader->pending[reader->pending_count - 1];

		if (!strncmp(path, reader->path, last->length) && path[last->length] == '/')
			return;
		reader->path[last->length] = '\0';
		utimensat(AT_FDCWD, reader->path, last->times, 0);
		reader->pending_count--;
	}
}

static void enter(struct tar_reader *reader, const char *path)
{
	struct timespec mtime = reader->entry.mtime;

	if (reader->pending_count == TAR_DEPTH_LIMIT)
		return; /* so deep that its times don't matter */
	strcpy(reader->path, path);
	reader->pending[reader->pending_count++] = (struct tar_pending){ strlen(path), { mtime, mtime } };
}

int tar_place(struct tar_reader *reader)
{
	char *path = reader->entry.name;
	bool there;

	if (sanitize(reader, path))
		return -1;
	if (!*path)
		return tar_pass_data(reader, -1);
	tar_leave(reader, path);
	if (directory_make_parent(path))
		return tar_refuse(reader, errno);
	if (clear(reader, path, &there) || make(reader, path, there))
		return -1;
	if (reader->entry.type != '1' && set_attributes(reader, path))
		return -1;
	if (reader->entry.type == '5')
		enter(reader, path);
	return 0;
}
