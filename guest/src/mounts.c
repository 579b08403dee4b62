#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "cmdline.h"
#include "file.h"
#include "format.h"
#include "log.h"
#include "volumes.h"

#define DRIVE_WAIT_MS 5000
#define NEW_ROOT "/root"
#define SCRATCH "/scratch"
#define OVERLAY "/.firekiln/overlay"
#define OPTIONS_SIZE 2048

static int scratch_fd = -1; /* the mounted scratch drive, out of the service's sight */

static void remark(const char *what)
{
	log_line(LOG_LEVEL_WARNING, "%s: %s", what, strerror(errno));
}

static void mount_at(const char *type, const char *target, unsigned long flags, const char *options)
{
	if (mkdir(target, 0755) && errno != EEXIST)
		remark(target);
	else if (mount(type, target, type, flags, options) && errno != EBUSY) /* devtmpfs may mount itself */
		remark(target);
}

void mounts_early(void)
{
	umask(022);
	mount_at("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	log_open();
	mount_at("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_at("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

/* Whether virtio disk number `index` is there and bears the serial. */
static bool bears(int index, const char *serial)
{
	char path[64], *text;
	size_t length;
	bool same;

	format_text(path, sizeof path, "/sys/block/vd%c/serial", 'a' + index);
	text = file_read(path, 4096, &length);
	same = text && !strcmp(text, serial);
	free(text);
	return same;
}

int mounts_find_drive(const struct drive *drive, char path[16], struct failure *failure)
{
	long long deadline = clock_ms() + DRIVE_WAIT_MS;

	do {
		for (int index = 0; index < 26; index++) {
			bool wanted = drive->serial ? bears(index, drive->serial) : index == drive->index;

			format_text(path, 16, "/dev/vd%c", 'a' + index);
			if (wanted && !access(path, F_OK))
				return 0;
		}
		clock_sleep_ms(1);
	} while (clock_ms() < deadline);
	if (drive->serial)
		return fail(failure, "drive", 0, "drive %s did not appear", drive->serial);
	return fail(failure, "drive", 0, "drive number %d did not appear", drive->index);
}

static int mount_drive(const struct drive *drive, const char *target, const char *type, unsigned long flags,
		       struct failure *failure)
{
	char device[16];

	if (mounts_find_drive(drive, device, failure))
		return -1;
	if (mkdir(target, 0755) && errno != EEXIST)
		return fail(failure, "root", errno, "%s", target);
	if (mount(device, target, type, flags, NULL))
		return fail(failure, "root", errno, "mounting %s (%s) as %s", device,
			    drive->serial ? drive->serial : "by number", type);
	return 0;
}

/* The directories that changes go to, in `scratch`; made like the topmost layer's root, whose place it takes. */
static int make_upper(const char *scratch, const char *like, struct failure *failure)
{
	char upper[64], work[64];
	struct stat status;

	format_text(upper, sizeof upper, "%s/upper", scratch);
	format_text(work, sizeof work, "%s/work", scratch);
	if (mkdir(work, 0700) && errno != EEXIST)
		return fail(failure, "root", errno, "the scratch drive");
	if (mkdir(upper, 0755)) {
		if (errno == EEXIST)
			return 0; /* the machine ran before */
		return fail(failure, "root", errno, "the scratch drive");
	}
	if (stat(like, &status) || chown(upper, status.st_uid, status.st_gid) ||
	    chmod(upper, status.st_mode & 07777))
		return fail(failure, "root", errno, "the root directory's owner and mode");
	return 0;
}

static int mount_scratch(const struct machine *machine, struct failure *failure)
{
	if (machine->has_scratch)
		return mount_drive(&machine->scratch, SCRATCH, "ext4", 0, failure);
	if (mkdir(SCRATCH, 0755) || mount("tmpfs", SCRATCH, "tmpfs", 0, "mode=0755,size=80%"))
		return fail(failure, "root", errno, "a tmpfs for changes");
	return 0;
}

/* Mount every layer and name them in overlay's order, the topmost first. `top` receives that one's path. */
static int mount_layers(const struct machine *machine, char *options, char *top, struct failure *failure)
{
	size_t used = (size_t)format_text(options, OPTIONS_SIZE, "lowerdir=");

	for (size_t i = machine->layer_count; i-- > 0;) {
		char target[32];

		format_text(target, sizeof target, "/layer%zu", i);
		if (mount_drive(&machine->layers[i], target, "erofs", MS_RDONLY, failure))
			return -1;
		if (i == machine->layer_count - 1)
			strcpy(top, target);
		used += (size_t)format_text(options + used, OPTIONS_SIZE - used, "%s%s", i == machine->layer_count - 1 ? "" : ":", target);
	}
	if (!machine->layer_count) {
		strcpy(top, "/empty");
		format_text(options + used, OPTIONS_SIZE - used, "%s", top);
		if (mkdir(top, 0755))
			return fail(failure, "root", errno, "an empty root");
	}
	return 0;
}

/* Move one of our mounts to the same name of the new root, where a directory must be. */
static int carry_mount(const char *root, const char *name, struct failure *failure)
{
	char target[64];
	struct stat status;

	format_text(target, sizeof target, "%s%s", root, name);
	if (mkdir(target, 0755) && errno != EEXIST)
		return fail(failure, "mount", errno, "%s of the image", name);
	if (lstat(target, &status) || !S_ISDIR(status.st_mode))
		return fail(failure, "mount", 0, "%s of the image is no directory", name);
	if (mount(name, target, NULL, MS_MOVE, NULL))
		return fail(failure, "mount", errno, "%s", name);
	return 0;
}

/* The initramfs stays in memory for ever, its files need not: among them the document with its environment. */
void mounts_empty_initramfs(void)
{
	size_t length;
	char *list = file_read("/firekiln/modules.list", 1 << 20, &length), *rest = list, *line;

	while (rest && (line = strsep(&rest, "\n"))) {
		char path[256];

		format_text(path, sizeof path, "/firekiln/modules/%s", strsep(&line, " "));
		unlink(path);
	}
	free(list);
	unlink("/firekiln/modules.list");
	unlink("/firekiln/machine.json");
	unlink("/init");
}

int mounts_switch(const char *root, struct failure *failure)
{
	if (carry_mount(root, "/dev", failure) || carry_mount(root, "/proc", failure) ||
	    carry_mount(root, "/sys", failure))
		return -1;
	if (chdir(root) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return fail(failure, "root", errno, "moving to the new root");
	return 0;
}

int mounts_root(const struct machine *machine, struct failure *failure)
{
	char options[OPTIONS_SIZE], top[32];

	if (mount_layers(machine, options, top, failure) || mount_scratch(machine, failure) ||
	    make_upper(SCRATCH, top, failure))
		return -1;
	strcat(options, ",upperdir=" SCRATCH "/upper,workdir=" SCRATCH
			"/work,redirect_dir=off,metacopy=off,index=off");
	if ((mkdir(NEW_ROOT, 0755) && errno != EEXIST) || mount("overlay", NEW_ROOT, "overlay", 0, options))
		return fail(failure, "root", errno, "mounting the layers as overlay");
	scratch_fd = open(SCRATCH, O_PATH | O_DIRECTORY | O_CLOEXEC);
	mounts_empty_initramfs();
	return mounts_switch(NEW_ROOT, failure);
}

static bool root_is_read_only(void)
{
	return access("/", W_OK) && errno == EROFS;
}

int mounts_overlay(struct failure *failure)
{
	if (root_is_read_only() && !cmdline_word("ro"))
		mount(NULL, "/", NULL, MS_REMOUNT, NULL);
	if (!root_is_read_only())
		return 0;
	if (mount("tmpfs", OVERLAY, "tmpfs", 0, "mode=0755,size=80%"))
		return fail(failure, "root", errno, "a tmpfs for changes");
	if (make_upper(OVERLAY, "/", failure))
		return -1;
	if (mkdir(OVERLAY "/root", 0755) ||
	    mount("overlay", OVERLAY "/root", "overlay", 0,
		  "lowerdir=/,upperdir=" OVERLAY "/upper,workdir=" OVERLAY "/work"))
		return fail(failure, "root", errno, "an overlay for changes");
	return mounts_switch(OVERLAY "/root", failure);
}

static void link_at(const char *target, const char *path)
{
	if (symlink(target, path) && errno != EEXIST)
		remark(path);
}

void mounts_links(void)
{
	link_at("/proc/self/fd", "/dev/fd");
	link_at("/proc/self/fd/0", "/dev/stdin");
	link_at("/proc/self/fd/1", "/dev/stdout");
	link_at("/proc/self/fd/2", "/dev/stderr");
}

void mounts_late(void)
{
	const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	mount_at("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
	mount_at("tmpfs", "/dev/shm", quiet, "mode=1777");
	mount_at("mqueue", "/dev/mqueue", quiet, NULL);
	mount_at("cgroup2", "/sys/fs/cgroup", quiet, NULL);
	mounts_links();
}

void mounts_finish(void)
{
	sync();
	volumes_finish();
	/* The overlay first: it holds the scratch drive's file system open for writing. Where a remount fails, the
	 * journal and the sync keep what was written. */
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	if (scratch_fd >= 0 && !fchdir(scratch_fd))
		mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL);
}
