#include "freezer.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "decimal.h"
#include "file.h"
#include "format.h"
#include "text.h"

#define ROOT "/sys/fs/cgroup"
#define OURS ROOT "/firekiln"
#define LIMIT (1 << 20)
#define FREEZE_MS 10000

/* Call `each` for every group below the root; whether it was true for all. */
static bool for_each_group(bool (*each)(const char *group, const char *value), const char *value)
{
	DIR *root = opendir(ROOT);
	struct dirent *entry;
	bool all = root != NULL;

	while (root && (entry = readdir(root)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			all = each(entry->d_name, value) && all;
	if (root)
		closedir(root);
	return all;
}

static bool set(const char *group, const char *value)
{
	char path[512];

	format_text(path, sizeof path, ROOT "/%s/cgroup.freeze", group);
	return file_set(path, value);
}

static bool stands_still(const char *group, const char *value)
{
	char path[512], events[256];

	(void)value;
	format_text(path, sizeof path, ROOT "/%s/cgroup.events", group);
	events[file_read_some(path, events, sizeof events - 1)] = '\0';
	return text_find(events, "frozen 1") != NULL;
}

/* The kernel's threads have no program; nor have those that are dead already. */
static bool runs_program(const char *pid)
{
	char path[64], target[8];

	format_text(path, sizeof path, "/proc/%s/exe", pid);
	return readlink(path, target, sizeof target) > 0;
}

/* Move all processes out of the root, which can't be frozen, into a group of ours. Whether there were any. */
static bool move_some(void)
{
	size_t length;
	char *list = file_read(ROOT "/cgroup.procs", LIMIT, &length), *rest = list, *pid;
	bool moved = false;

	while (rest && (pid = strsep(&rest, "\n")))
		if (*pid && decimal_parse(pid, NULL) != getpid() && runs_program(pid))
			moved = file_set(OURS "/cgroup.procs", pid) || moved;
	free(list);
	return moved;
}

static bool freeze(void)
{
	long long deadline = clock_ms() + FREEZE_MS;

	/* An init of the image's may have put us where it put itself. */
	if (!file_set(ROOT "/cgroup.procs", "0") || (mkdir(OURS, 0755) && errno != EEXIST))
		return false;
	while (move_some()) /* one that was about to fork has left a child behind */
		if (clock_ms() >= deadline)
			return false;
	for_each_group(set, "1");
	while (!for_each_group(stands_still, NULL)) {
		if (clock_ms() >= deadline) {
			errno = EBUSY;
			return false;
		}
		clock_sleep_ms(1);
	}
	return true;
}

int freezer_freeze(struct failure *failure)
{
	int error;

	if (freeze())
		return 0;
	error = errno;
	freezer_thaw();
	return fail(failure, "process", error, "the machine's processes could not be frozen");
}

void freezer_thaw(void)
{
	for_each_group(set, "0");
}
