#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "tar.h"
#include "tarformat.h"

#define NAME_LIMIT 8192
#define DEPTH_LIMIT 500 /* each level holds a directory open */
#define CHUNK (1 << 16)
#define XATTR_LIMIT (1 << 16) /* the kernel's, of a list and of a value */
#define OCTAL_7 07777777LL
#define OCTAL_11 077777777777LL

struct writer {
	int fd;
	struct failure *failure;
	char name[NAME_LIMIT]; /* of the entry */
	char *pax;	       /* its extended records */
	size_t pax_length;
	char data[CHUNK];
};

static int refuse(struct writer *writer, int error)
{
	return fail(writer->failure, "file", error, "%s", writer->name);
}

static int put(struct writer *writer, const void *data, size_t length)
{
	if (file_write_all(writer->fd, data, length))
		return fail(writer->failure, "file", errno, "writing the archive");
	return 0;
}

static int pad(struct writer *writer, unsigned long long length)
{
	static char zeros[TAR_BLOCK]; /* not const, and so no part of the file */

	return put(writer, zeros, (TAR_BLOCK - length % TAR_BLOCK) % TAR_BLOCK);
}

/* --- headers ------------------------------------------------------------------------------------------------------- */

static void octal(char *field, size_t size, unsigned long long value)
{
	for (field[--size] = '\0'; size-- > 0; value >>= 3)
		field[size] = (char)('0' + (value & 7));
}

/* Add a record, "LENGTH KEY=VALUE\n", whose length counts itself. */
static int add_record(struct writer *writer, const char *key, const char *value, size_t length)
{
	size_t rest = strlen(key) + length + 3, total = rest + 1;
	char digits[24], *grown;

	while ((size_t)format_text(digits, sizeof digits, "%zu", total) + rest != total)
		total = rest + strlen(digits);
	grown = malloc(writer->pax_length + total + 1);
	if (!grown)
		return refuse(writer, ENOMEM);
	if (writer->pax_length)
		memcpy(grown, writer->pax, writer->pax_length);
	free(writer->pax);
	writer->pax = grown;
	grown += writer->pax_length;
	grown += format_text(grown, total, "%zu %s=", total, key);
	memcpy(grown, value, length);
	grown[length] = '\n';
	writer->pax_length += total;
	return 0;
}

static int add_number(struct writer *writer, const char *key, unsigned long long value)
{
	char text[24];

	return add_record(writer, key, text, (size_t)format_text(text, sizeof text, "%llu", value));
}

static int add_mtime(struct writer *writer, const struct timespec *time)
{
	long long seconds = time->tv_sec;
	long nanoseconds = time->tv_nsec;
	char text[40];

	if (seconds < 0 && nanoseconds) { /* -1.3 s is -2 s and 0.7 s */
		seconds++;
		nanoseconds = 1000000000 - nanoseconds;
	}
	return add_record(writer, "mtime", text,
			  (size_t)format_text(text, sizeof text, "%s%lld.%09ld", time->tv_sec < 0 && !seconds ? "-" : "", seconds,
					  nanoseconds));
}

static int add_xattrs(struct writer *writer, const char *path, bool follow)
{
	static char names[XATTR_LIMIT], value[XATTR_LIMIT], key[TAR_XATTR_NAME + sizeof TAR_XATTR];
	ssize_t length = follow ? listxattr(path, names, sizeof names) : llistxattr(path, names, sizeof names);

	for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
		const char *name = names + at;
		ssize_t got = follow ? getxattr(path, name, value, sizeof value) :
				       lgetxattr(path, name, value, sizeof value);

		format_text(key, sizeof key, TAR_XATTR "%s", name);
		if (got >= 0 && add_record(writer, key, value, (size_t)got))
			return -1;
	}
	return 0;
}

static int put_header(struct writer *writer, const char *name, char type, const struct stat *status,
		      unsigned long long size, const char *link)
{
	struct tar_header header = { .type = type, .magic = "ustar", .version = { '0', '0' } };
	size_t length = strlen(name);

	memcpy(header.name, name, length < sizeof header.name ? length : sizeof header.name);
	length = strlen(link);
	memcpy(header.link, link, length < sizeof header.link ? length : sizeof header.link);
	octal(header.mode, sizeof header.mode, status->st_mode & 07777);
	octal(header.uid, sizeof header.uid, status->st_uid & OCTAL_7);
	octal(header.gid, sizeof header.gid, status->st_gid & OCTAL_7);
	octal(header.size, sizeof header.size, size & OCTAL_11);
	octal(header.mtime, sizeof header.mtime, status->st_mtim.tv_sec < 0 ? 0 : status->st_mtim.tv_sec & OCTAL_11);
	octal(header.major, sizeof header.major, type == '3' || type == '4' ? major(status->st_rdev) : 0);
	octal(header.minor, sizeof header.minor, type == '3' || type == '4' ? minor(status->st_rdev) : 0);
	octal(header.checksum, 7, tar_checksum(&header));
	header.checksum[7] = ' ';
	return put(writer, &header, sizeof header);
}

/* The records that the header's own fields are too small for. */
static int add_records(struct writer *writer, const struct stat *status, unsigned long long size, const char *link)
{
	writer->pax_length = 0;
	if (strlen(writer->name) > 100 && add_record(writer, "path", writer->name, strlen(writer->name)))
		return -1;
	if (strlen(link) > 100 && add_record(writer, "linkpath", link, strlen(link)))
		return -1;
	if (size > OCTAL_11 && add_number(writer, "size", size))
		return -1;
	if (status->st_uid > OCTAL_7 && add_number(writer, "uid", status->st_uid))
		return -1;
	if (status->st_gid > OCTAL_7 && add_number(writer, "gid", status->st_gid))
		return -1;
	if (status->st_mtim.tv_nsec || status->st_mtim.tv_sec < 0 || status->st_mtim.tv_sec > OCTAL_11)
		return add_mtime(writer, &status->st_mtim);
	return 0;
}

static int put_entry(struct writer *writer, const char *path, bool follow, char type, const struct stat *status,
		     unsigned long long size, const char *link)
{
	static const struct stat plain = { .st_mode = 0644 };

	if (add_records(writer, status, size, link) || add_xattrs(writer, path, follow))
		return -1;
	if (writer->pax_length && (put_header(writer, "PaxHeaders/x", 'x', &plain, writer->pax_length, "") ||
				   put(writer, writer->pax, writer->pax_length) || pad(writer, writer->pax_length)))
		return -1;
	return put_header(writer, writer->name, type, status, size, link);
}

/* --- a tree -------------------------------------------------------------------------------------------------------- */

/* As many bytes as the header says, whatever becomes of the file meanwhile. */
static int put_data(struct writer *writer, int fd, unsigned long long size)
{
	for (unsigned long long left = size; left;) {
		ssize_t count = read(fd, writer->data, left < CHUNK ? (size_t)left : CHUNK);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return refuse(writer, count ? errno : ESTALE); /* it has shrunk */
		if (put(writer, writer->data, (size_t)count))
			return -1;
		left -= (unsigned long long)count;
	}
	return pad(writer, size);
}

static int put_file(struct writer *writer, const char *path, bool follow)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | (follow ? 0 : O_NOFOLLOW)), result;
	struct stat status;

	if (fd < 0)
		return refuse(writer, errno);
	if (fstat(fd, &status) || !S_ISREG(status.st_mode))
		result = refuse(writer, ESTALE);
	else
		result = put_entry(writer, path, follow, '0', &status, (unsigned long long)status.st_size, "") ||
			 put_data(writer, fd, (unsigned long long)status.st_size);
	close(fd);
	return result ? -1 : 0;
}

static int put_link(struct writer *writer, const char *path, const struct stat *status)
{
	char target[PATH_MAX];
	ssize_t length = readlink(path, target, sizeof target - 1);

	if (length < 0)
		return refuse(writer, errno);
	target[length] = '\0';
	return put_entry(writer, path, false, '2', status, 0, target);
}

static int put_any(struct writer *writer, const char *path, bool follow, int depth);

/* Everything in the directory, which is our working directory while we are at it. */
static int put_children(struct writer *writer, int depth)
{
	DIR *folder = opendir(".");
	size_t length = strlen(writer->name);
	struct dirent *entry;
	int result = 0;

	if (!folder)
		return refuse(writer, errno);
	while (!result && (entry = readdir(folder))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (format_text(writer->name + length, sizeof writer->name - length, "%s", entry->d_name) >=
		    (int)(sizeof writer->name - length))
			result = refuse(writer, ENAMETOOLONG);
		else
			result = put_any(writer, entry->d_name, false, depth - 1);
		writer->name[length] = '\0';
	}
	closedir(folder);
	return result;
}

static int put_directory(struct writer *writer, const char *path, bool follow, const struct stat *status, int depth)
{
	int back, result;

	if (!depth || strlen(writer->name) + 2 > sizeof writer->name)
		return refuse(writer, ENAMETOOLONG);
	strcat(writer->name, "/");
	if (put_entry(writer, path, follow, '5', status, 0, ""))
		return -1;
	back = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (back < 0 || chdir(path))
		return refuse(writer, errno);
	result = put_children(writer, depth);
	if (fchdir(back))
		result = refuse(writer, errno);
	close(back);
	return result;
}

static int put_any(struct writer *writer, const char *path, bool follow, int depth)
{
	struct stat status;

	if (follow ? stat(path, &status) : lstat(path, &status))
		return refuse(writer, errno);
	switch (status.st_mode & S_IFMT) {
	case S_IFREG:
		return put_file(writer, path, follow);
	case S_IFDIR:
		return put_directory(writer, path, follow, &status, depth);
	case S_IFLNK:
		return put_link(writer, path, &status);
	case S_IFCHR:
		return put_entry(writer, path, follow, '3', &status, 0, "");
	case S_IFBLK:
		return put_entry(writer, path, follow, '4', &status, 0, "");
	case S_IFIFO:
		return put_entry(writer, path, follow, '6', &status, 0, "");
	default: /* a socket, which is nothing to be copied */
		return 0;
	}
}

int tar_write(int fd, const char *path, const char *name, bool follow, struct failure *failure)
{
	static char end[2 * TAR_BLOCK];
	static struct writer writer;

	writer.fd = fd;
	writer.failure = failure;
	if (format_text(writer.name, sizeof writer.name, "%s", name) >= (int)sizeof writer.name)
		return refuse(&writer, ENAMETOOLONG);
	return put_any(&writer, path, follow, DEPTH_LIMIT) || put(&writer, end, sizeof end) ? -1 : 0;
}
