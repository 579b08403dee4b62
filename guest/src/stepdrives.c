#include "stepdrives.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "document.h"
#include "format.h"
#include "log.h"
#include "mounts.h"

#define RELEASE_MS 5000
#define LOOPS 256

/* linux/blkpg.h and linux/loop.h, which musl's headers lack */
#define BLKPG _IO(0x12, 105)
#define LOOP_CLR_FD 0x4c01
enum { ADD_PARTITION = 1, DEL_PARTITION = 2 };

struct partition {
	long long start, length;
	int number;
	char name[64], volume[64];
};

struct blkpg {
	int operation, flags, length;
	void *data;
};

static struct {
	bool attached, once;
	char part_of[16]; /* the drive that it is a part of; empty: it is a drive of its own */
} drives[STEP_DRIVES];

void step_drive_path(int number, char path[16])
{
	format_text(path, 16, "/l/%d", number);
}

/* A part of a drive has a number of its own there, from 1; a table of partitions there is none. */
static int change_part(const char *drive, int operation, int number, long long start, long long length)
{
	struct partition partition = { .start = start, .length = length, .number = number + 1 };
	struct blkpg request = { .operation = operation, .length = sizeof partition, .data = &partition };
	int fd = open(drive, O_RDONLY | O_CLOEXEC), result, error;

	if (fd < 0)
		return -1;
	result = ioctl(fd, BLKPG, &request);
	error = errno;
	close(fd);
	errno = error;
	return result;
}

static int attach(const struct json *item, int number, struct failure *failure)
{
	struct drive drive = { .serial = json_string(item, "serial", ""), .index = -1 };
	long long offset = json_integer(item, "offset", 0, 1LL << 62, -1);
	long long size = json_integer(item, "size", 1, 1LL << 62, 0);
	char device[16], path[32], place[16];

	if (mounts_find_drive(&drive, device, failure))
		return -1;
	drives[number].part_of[0] = '\0';
	format_text(path, sizeof path, "%s", device);
	if (offset >= 0) {
		if (change_part(device, ADD_PARTITION, number, offset, size))
			return fail(failure, "drive", errno, "a part of drive %s", drive.serial);
		strcpy(drives[number].part_of, device);
		format_text(path, sizeof path, "%s%d", device, number + 1);
	}
	step_drive_path(number, place);
	if ((mkdir(place, 0755) && errno != EEXIST) || mount(path, place, "erofs", MS_RDONLY, NULL))
		return fail(failure, "drive", errno, "mounting %s (%s)", path, drive.serial);
	drives[number].attached = true;
	drives[number].once = json_true(item, "once");
	return 0;
}

int step_drives_attach(const struct json *list, struct failure *failure)
{
	for (const struct json *item = list ? list->first : NULL; item; item = item->next) {
		int number = (int)json_integer(item, "number", 0, STEP_DRIVES - 2, -1);

		if (number < 0 || drives[number].attached)
			return fail(failure, "drive", EINVAL, "the number of a drive");
		if (attach(item, number, failure))
			return -1;
	}
	return 0;
}

void step_drives_detach(void)
{
	for (int number = 0; number < STEP_DRIVES; number++) {
		char place[16];

		if (!drives[number].attached || !drives[number].once)
			continue;
		step_drive_path(number, place);
		if (umount2(place, 0) ||
		    (*drives[number].part_of && change_part(drives[number].part_of, DEL_PARTITION, number, 0, 0)))
			log_line(LOG_LEVEL_WARNING, "%s: %s", place, strerror(errno));
		drives[number].attached = false;
	}
}

static void give_up_loops(void)
{
	char path[32];

	for (int number = 0; number < LOOPS; number++) {
		int fd;

		format_text(path, sizeof path, "/dev/loop%d", number);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		ioctl(fd, LOOP_CLR_FD, 0);
		close(fd);
	}
}

bool step_drive_released(const char *serial)
{
	struct drive drive = { .serial = serial, .index = -1 };
	long long deadline = clock_ms() + RELEASE_MS;
	struct failure failure;
	char device[16];

	if (mounts_find_drive(&drive, device, &failure))
		return false;
	for (;;) {
		int fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC); /* of a block device: nobody has it mounted */

		if (fd >= 0) {
			close(fd);
			return true;
		}
		if (clock_ms() >= deadline)
			return false;
		give_up_loops();
		clock_sleep_ms(1);
	}
}
