#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
		size *= 2;
		grown = realloc(data, size + 1);
		if (!grown)
			break;
		data = grown;
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

static int write_all(int fd, const char *data, size_t length)
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
	bool written = fd >= 0 && write_all(fd, text, strlen(text)) == 0;

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
	result = write_all(fd, data, length);
	if (fchmod(fd, mode)) /* whatever the umask says */
		result = -1;
	close(fd);
	return result;
}

int directory_make(const char *path)
{
	char part[PATH_MAX];
	size_t length = strlen(path);
	struct stat status;

	if (length >= sizeof part) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(part, path, length + 1);
	for (size_t i = 1; i <= length; i++) {
		if (part[i] != '/' && part[i] != '\0')
			continue;
		part[i] = '\0';
		if (mkdir(part, 0755) && errno != EEXIST && errno != EROFS)
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
