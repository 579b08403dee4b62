#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format.h"

#define MAX_LINKS 16 /* symbolic links to nowhere, one leading to another */

/* Read to the end of `fd`, growing as it goes: files of /sys and /proc don't tell their size. */
static char *read_all(int fd, size_t limit, size_t *length)
{
	size_t size = 4096;
	char *data = malloc(size + 1), *grown;

	*length = 0;
	while (data) {
		ssize_t count = read(fd, data + *length, size - *length);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			break;
		*length += (size_t)count;
		if (*length > limit) {
			errno = EFBIG;
			break;
		}
		if (count == 0) {
			data[*length] = '\0';
			return data;
		}
		if (*length < size)
			continue;
		grown = malloc(2 * size + 1);
		if (!grown)
			break;
		memcpy(grown, data, size);
		free(data);
		data = grown;
		size *= 2;
	}
	free(data);
	return NULL;
}

char *file_read(const char *path, size_t limit, size_t *length)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	char *data;

	if (fd < 0)
		return NULL;
	data = read_all(fd, limit, length);
	error = errno;
	close(fd);
	errno = error;
	return data;
}

size_t file_read_some(const char *path, char *data, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t count = fd < 0 ? -1 : read(fd, data, size);

	if (fd >= 0)
		close(fd);
	return count > 0 ? (size_t)count : 0;
}

int file_write_all(int fd, const char *data, size_t length)
{
	while (length) {
		ssize_t count = write(fd, data, length);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -1;
		data += count;
		length -= (size_t)count;
	}
	return 0;
}

bool file_set(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool written = fd >= 0 && file_write_all(fd, text, strlen(text)) == 0;

	if (fd >= 0)
		close(fd);
	return written;
}

int file_replace(const char *path, const char *data, size_t length, mode_t mode)
{
	int fd, result;

	if (unlink(path) && errno != ENOENT)
		return -1;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0)
		return -1;
	result = file_write_all(fd, data, length);
	if (fchmod(fd, mode)) /* whatever the umask says */
		result = -1;
	close(fd);
	return result;
}

int file_overwrite(const char *path, const char *data, size_t length, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOCTTY | O_CLOEXEC, mode), result, error;

	if (fd < 0)
		return -1;
	result = file_write_all(fd, data, length);
	if (!result)
		result = fchmod(fd, mode);
	error = errno;
	close(fd);
	errno = error;
	return result;
}

static int make_directory(const char *path, int links);

/* Make what the symbolic link at `path` promises, where that isn't there. */
static int make_linked(const char *path, int links)
{
	char target[PATH_MAX], joined[2 * PATH_MAX];
	ssize_t length = readlink(path, target, sizeof target - 1);
	const char *slash = strrchr(path, '/');

	if (length < 0)
		return errno == EINVAL ? 0 : -1; /* something else: whoever uses it will say what */
	target[length] = '\0';
	if (*target == '/' || !slash)
		format_text(joined, sizeof joined, "%s", target);
	else
		format_text(joined, sizeof joined, "%.*s/%s", (int)(slash - path), path, target);
	return make_directory(joined, links - 1);
}

static int make_directory(const char *path, int links)
{
	char part[2 * PATH_MAX];
	size_t length = strlen(path);
	struct stat status;

	if (length >= sizeof part || links == 0) {
		errno = links ? ENAMETOOLONG : ELOOP;
		return -1;
	}
	memcpy(part, path, length + 1);
	for (size_t i = 1; i <= length; i++) {
		if (part[i] != '/' && part[i] != '\0')
			continue;
		part[i] = '\0';
		if (mkdir(part, 0755) && errno != EEXIST && errno != EROFS)
			return -1;
		if (stat(part, &status) && errno == ENOENT && make_linked(part, links))
			return -1;
		part[i] = path[i];
	}
	if (stat(path, &status))
		return -1;
	if (!S_ISDIR(status.st_mode)) {
		errno = ENOTDIR;
		return -1;
	}
	return 0;
}

int directory_make(const char *path)
{
	return make_directory(path, MAX_LINKS);
}

int directory_make_parent(const char *path)
{
	char parent[PATH_MAX];
	const char *slash = strrchr(path, '/');

	if (!slash || slash == path)
		return 0;
	if (format_text(parent, sizeof parent, "%.*s", (int)(slash - path), path) >= (int)sizeof parent) {
		errno = ENAMETOOLONG;
		return -1;
	}
	return directory_make(parent);
}
