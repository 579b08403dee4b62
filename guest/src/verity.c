#include "verity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "decimal.h"
#include "format.h"

#define BLOCK 4096
#define SECTOR 512
#define CONTROL "/dev/mapper/control"

/* --- Linux' <linux/dm-ioctl.h>, which musl's headers lack ---------------------------------------------------------- */

struct dm_ioctl {
	uint32_t version[3], data_size, data_start, target_count;
	int32_t open_count;
	uint32_t flags, event_nr, padding;
	uint64_t dev;
	char name[128], uuid[129], data[7];
};

struct dm_target_spec {
	uint64_t sector_start, length;
	int32_t status;
	uint32_t next;
	char target_type[16];
};

enum { DEV_CREATE = 3, DEV_SUSPEND = 6, TABLE_LOAD = 9 };

#define DM_READONLY 1u
#define DM_REQUEST(number) _IOWR(0xfd, number, struct dm_ioctl)

_Static_assert(sizeof(struct dm_ioctl) == 312 && sizeof(struct dm_target_spec) == 40, "the kernel's layout");

struct request {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char parameters[1024];
};

/* ------------------------------------------------------------------------------------------------------------------- */

/* Hexadecimal digits in pairs, which fill `to` at most; `text` then points behind them. */
static bool take_hex(const char **text, char *to, size_t size)
{
	size_t length = strspn(*text, "0123456789abcdef");

	if (!length || length % 2 || length >= size)
		return false;
	memcpy(to, *text, length);
	to[length] = '\0';
	*text += length;
	return true;
}

int verity_parse(const char *text, struct verity *verity, struct failure *failure)
{
	const char *rest = text;
	const char *end;

	verity->blocks = (unsigned long long)decimal_parse(rest, &end);
	rest = end + 1;
	if (*text < '1' || *text > '9' || *end != ':' || verity->blocks > INT64_MAX / BLOCK ||
	    !take_hex(&rest, verity->salt, sizeof verity->salt) || *rest++ != ':' ||
	    !take_hex(&rest, verity->root, sizeof verity->root) || *rest || strlen(verity->root) != 64)
		return fail(failure, "root", 0, "firekiln.verity=%s is not BLOCKS:SALT:ROOT", text);
	return 0;
}

static int command(int control, int number, struct request *request, unsigned flags)
{
	request->head.version[0] = 4;
	request->head.data_size = sizeof *request;
	request->head.data_start = sizeof request->head;
	request->head.flags = flags;
	strcpy(request->head.name, "root");
	return ioctl(control, DM_REQUEST(number), request);
}

static void fill(struct request *request, const struct verity *verity, const char *device)
{
	request->head.target_count = 1;
	request->target.length = verity->blocks * (BLOCK / SECTOR);
	strcpy(request->target.target_type, "verity");
	format_text(request->parameters, sizeof request->parameters, "1 %s %s %d %d %llu %llu sha256 %s %s", device, device,
		 BLOCK, BLOCK, verity->blocks, verity->blocks + 1, verity->root, verity->salt);
}

static int minor_of(uint64_t dev)
{
	return (int)((dev & 0xff) | (dev >> 12 & 0xfff00));
}

int verity_open(const struct verity *verity, const char *device, char *mapped, size_t size, struct failure *failure)
{
	struct request create = { 0 }, load = { 0 }, resume = { 0 };
	int control = open(CONTROL, O_RDWR | O_CLOEXEC), failed;

	if (control < 0)
		return fail(failure, "root", errno, "the kernel has no device-mapper, which firekiln.verity needs: " CONTROL);
	fill(&load, verity, device);
	failed = command(control, DEV_CREATE, &create, 0) || command(control, TABLE_LOAD, &load, DM_READONLY) ||
		 command(control, DEV_SUSPEND, &resume, 0);
	close(control);
	if (failed)
		return fail(failure, "root", errno, "dm-verity over %s", device);
	format_text(mapped, size, "/dev/dm-%d", minor_of(create.head.dev));
	return 0;
}
