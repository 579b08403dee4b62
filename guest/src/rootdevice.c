#include "rootdevice.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "cmdline.h"
#include "format.h"

#define WAIT_MS 5000
#define POLL_MS 1
#define SEARCH_POLL_MS 20 /* each search opens every device */

/* ext4's superblock: Linux' fs/ext4/ext4.h */
#define SUPERBLOCK 1024
#define MAGIC_OFFSET 56
#define UUID_OFFSET 104
#define UUID_SIZE 16

static void uuid_text(const unsigned char uuid[UUID_SIZE], char text[37])
{
	for (int i = 0; i < UUID_SIZE; i++)
		text += format_text(text, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid[i]);
}

bool root_has_uuid(const char *path, const char *uuid)
{
	unsigned char superblock[UUID_OFFSET + UUID_SIZE];
	char text[37];
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	bool whole;

	if (fd < 0)
		return false;
	whole = pread(fd, superblock, sizeof superblock, SUPERBLOCK) == sizeof superblock;
	close(fd);
	if (!whole || superblock[MAGIC_OFFSET] != 0x53 || superblock[MAGIC_OFFSET + 1] != 0xef)
		return false;
	uuid_text(superblock + UUID_OFFSET, text);
	return !strcasecmp(text, uuid);
}

static bool search(const char *uuid, char *device, size_t size)
{
	DIR *folder = opendir("/sys/class/block");
	struct dirent *entry;
	bool found = false;

	while (folder && !found && (entry = readdir(folder))) {
		if (*entry->d_name == '.')
			continue;
		format_text(device, size, "/dev/%s", entry->d_name);
		found = root_has_uuid(device, uuid);
	}
	if (folder)
		closedir(folder);
	return found;
}

int root_device(char *device, size_t size, struct failure *failure)
{
	long long deadline = clock_ms() + WAIT_MS;
	char wanted[1024];
	bool by_uuid;

	if (!cmdline_value("root", wanted, sizeof wanted))
		return fail(failure, "root", 0, "the kernel's command line has no root=");
	by_uuid = !strncmp(wanted, "UUID=", 5);
	if (!by_uuid && strncmp(wanted, "/dev/", 5))
		return fail(failure, "root", 0, "root=%s: it is a drive's name, as in root=/dev/vda, or UUID=", wanted);
	if (!by_uuid)
		format_text(device, size, "%s", wanted);
	while (by_uuid ? !search(wanted + 5, device, size) : access(device, F_OK)) {
		if (clock_ms() >= deadline && !cmdline_word("rootwait"))
			return fail(failure, "root", 0, "the root file system's drive %s did not appear", wanted);
		clock_sleep_ms(by_uuid ? SEARCH_POLL_MS : POLL_MS);
	}
	return 0;
}
