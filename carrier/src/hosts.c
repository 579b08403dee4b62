#include "hosts.h"

#include <fcntl.h>
#include <unistd.h>

#include "names.h"
#include "peers.h"

#define FILE_NAME "hosts"
#define FILE_ROOM (256 * 1024)

#define MOST_FOLDERS 16

static int folders[MOST_FOLDERS] = { AT_FDCWD };
static size_t folder_count = 1;

bool hosts_add(const char *folder)
{
	int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || folder_count == MOST_FOLDERS)
		return false;
	folders[folder_count++] = fd;
	return true;
}

static const char *read_file(int folder)
{
	static char text[FILE_ROOM];
	size_t length = 0;
	ssize_t got = 0;
	int fd = openat(folder, FILE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	while (fd >= 0 && (got = read(fd, text + length, sizeof text - 1 - length)) > 0)
		length += (size_t)got;
	if (fd >= 0)
		close(fd);
	text[length] = '\0';
	return text;
}

size_t hosts_find(const char *name, uint32_t *addresses, bool *is_known)
{
	uint32_t found[MOST_ADDRESSES];
	size_t there = 0;

	*is_known = false;
	for (size_t n = 0; n < folder_count; n++) {
		size_t count = names_find(read_file(folders[n]), name, found);

		*is_known |= count > 0;
		for (size_t i = 0; i < count && there < MOST_ADDRESSES; i++)
			if (peers_is_there(folders[n], found[i]))
				addresses[there++] = found[i];
	}
	return there;
}
