#include "steproot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "format.h"
#include "mounts.h"
#include "network.h"
#include "stepdrives.h"
#include "text.h"

#define SCRATCH "/scratch"
#define ROOT "/root"
#define STAGE "/stage" /* where something is mounted that then goes to its place in the root */
#define GROUP "/sys/fs/cgroup/step"
#define OPTIONS_SIZE 4096 /* mount(2)'s page */
#define PERIOD_US 100000
#define NETWORK_MS 5000
#define QUIET (MS_NOSUID | MS_NODEV | MS_NOEXEC)

/* linux/mount.h, which musl lacks, and glibc has in part */
#define TREE_CLONE 1
#define TREE_CLOEXEC O_CLOEXEC
#define TREE_RECURSIVE 0x8000 /* AT_RECURSIVE */
#define MOVE_FROM_DESCRIPTOR 0x04
#define MOVE_FOLLOW_TARGET 0x10
#define EMPTY_PATH 0x1000 /* AT_EMPTY_PATH */
#define MOUNT_READ_ONLY 1 /* MOUNT_ATTR_RDONLY */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

/* --- namespaces ---------------------------------------------------------------------------------------------------- */

/* netlink(7), rtnetlink(7): the constants of linux/rtnetlink.h and linux/if_link.h */
struct link_request {
	struct {
		uint32_t length;
		uint16_t type, flags;
		uint32_t sequence, port;
	} head;
	struct {
		uint8_t family, pad;
		uint16_t type;
		int32_t index;
		uint32_t flags, change;
	} info;
	struct {
		uint16_t length, type;
		char name[IFNAMSIZ];
	} name;
	struct {
		uint16_t length, type;
		int32_t fd;
	} namespace;
};

struct link_answer {
	unsigned char head[16];
	int32_t error;
	unsigned char rest[256];
};

#define RTM_SETLINK 19
#define NLM_F_REQUEST 1
#define NLM_F_ACK 4
#define IFLA_IFNAME 3
#define IFLA_NET_NS_FD 28

/* Have the interface of the namespace that `netlink` is of move to that of descriptor `space`. */
static int move_interface(int netlink, const char *name, int space)
{
	struct link_request request = {
		.head = { sizeof request, RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0 },
		.name = { sizeof request.name, IFLA_IFNAME, "" },
		.namespace = { sizeof request.namespace, IFLA_NET_NS_FD, space },
	};
	struct link_answer answer;

	format_text(request.name.name, sizeof request.name.name, "%s", name);
	if (send(netlink, &request, sizeof request, 0) < 0 || recv(netlink, &answer, sizeof answer, 0) < 20)
		return -1;
	errno = -answer.error;
	return answer.error ? -1 : 0;
}

/* The step before gave its interfaces back when its namespace ended, which the kernel does in its own time. */
static int take_interfaces(const struct machine *machine, int netlink, struct failure *failure)
{
	long long deadline = clock_ms() + NETWORK_MS;
	int space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), failed = 0;

	for (size_t i = 0; i < machine->interface_count && !failed; i++) {
		const char *name = machine->interfaces[i].name;

		while ((failed = move_interface(netlink, name, space)) && errno == ENODEV && clock_ms() < deadline)
			clock_sleep_ms(1);
		if (failed)
			fail(failure, "network", errno, "taking %s", name);
	}
	close(space);
	return failed;
}

static bool set_limit(const char *name, long long value, const char *more)
{
	char path[64], text[48];

	format_text(path, sizeof path, GROUP "/%s", name);
	format_text(text, sizeof text, "%lld%s", value, more);
	return file_set(path, text);
}

static int join_group(const struct json *step, struct failure *failure)
{
	long long memory = json_integer(step, "memory", 1, LLONG_MAX, 0);
	long long pids = json_integer(step, "pids", 1, INT_MAX, 0);
	long long cpu_us = json_integer(step, "cpu_us", 1, INT_MAX, 0);
	char period[16];

	format_text(period, sizeof period, " %d", PERIOD_US);
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		return memory || pids || cpu_us ? fail(failure, "process", errno, "a control group") : 0;
	if (memory && (!set_limit("memory.max", memory, "") || !set_limit("memory.swap.max", 0, "")))
		return fail(failure, "process", errno, "limiting memory");
	if (pids && !set_limit("pids.max", pids, ""))
		return fail(failure, "process", errno, "limiting processes");
	if (cpu_us && !set_limit("cpu.max", cpu_us, period))
		return fail(failure, "process", errno, "limiting processors");
	return file_set(GROUP "/cgroup.procs", "0") ? 0 : fail(failure, "process", errno, "joining a control group");
}

int step_enter(const struct machine *machine, struct failure *failure)
{
	int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0), failed;

	if (join_group(machine->step, failure)) {
		failed = -1;
	} else if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP)) {
		failed = fail(failure, "process", errno, "namespaces");
	} else {
		failed = take_interfaces(machine, netlink, failure) || network_configure(machine, failure);
	}
	if (!failed && sethostname(machine->hostname, strlen(machine->hostname)))
		failed = fail(failure, "process", errno, "hostname %s", machine->hostname);
	if (netlink >= 0)
		close(netlink);
	return failed;
}

/* --- upper sides --------------------------------------------------------------------------------------------------- */

static int copy_xattrs(const char *from, const char *to)
{
	static char names[65536], value[65536];
	ssize_t length = listxattr(from, names, sizeof names);

	for (char *name = names; length > 0 && name < names + length; name += strlen(name) + 1) {
		ssize_t size = getxattr(from, name, value, sizeof value);

		if (!text_find(name, ".overlay.") && (size < 0 || setxattr(to, name, value, (size_t)size, 0)))
			return -1;
	}
	return 0;
}

/* An overlay's root has the attributes of its upper side, so that must begin as the one below. */
static int make_sides(const char *folder, const char *like, struct failure *failure)
{
	char upper[64], work[64];
	struct stat status;

	format_text(upper, sizeof upper, "%s/upper", folder);
	format_text(work, sizeof work, "%s/work", folder);
	if (directory_make(upper) || mkdir(work, 0700) || stat(like, &status) ||
	    chown(upper, status.st_uid, status.st_gid) || chmod(upper, status.st_mode & 07777) ||
	    copy_xattrs(like, upper) || utimensat(AT_FDCWD, upper, (struct timespec[]){ status.st_atim, status.st_mtim }, 0))
		return fail(failure, "root", errno, "the scratch drive");
	return 0;
}

static int mount_overlay(const char *lower, const char *like, const char *folder, const char *place,
			 struct failure *failure)
{
	static char options[OPTIONS_SIZE];

	if (make_sides(folder, like, failure))
		return -1;
	/* `volatile`: what the scratch drive's own end writes is enough. */
	if (format_text(options, sizeof options,
			"lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile,redirect_dir=off,metacopy=off,index=off",
			lower, folder, folder) >= (int)sizeof options)
		return fail(failure, "root", 0, "too many layers");
	if ((mkdir(place, 0755) && errno != EEXIST) || mount("overlay", place, "overlay", 0, options))
		return fail(failure, "root", errno, "mounting the layers as overlay");
	return 0;
}

/* The document's list of numbers, lowest first, as overlay's, topmost first; `top` receives that one's path. */
static int list_layers(const struct json *layers, char *text, size_t size, char top[16])
{
	size_t used = size - 1;

	strcpy(top, "/empty");
	text[used] = '\0';
	for (const struct json *item = layers ? layers->first : NULL; item; item = item->next) {
		size_t length;

		step_drive_path((int)item->number, top);
		length = strlen(top);
		if (length + 1 > used)
			return -1;
		if (used < size - 1)
			text[--used] = ':';
		used -= length;
		memcpy(text + used, top, length);
	}
	memmove(text, text + used, size - used);
	if (!*text)
		strcpy(text, top);
	return 0;
}

static int mount_root(const struct json *step, struct failure *failure)
{
	static char lower[OPTIONS_SIZE / 2];
	struct drive drive = { .serial = json_string(step, "scratch", ""), .index = -1 };
	char device[16], top[16];

	if (mounts_find_drive(&drive, device, failure))
		return -1;
	if (mount(device, SCRATCH, "ext4", MS_NOATIME, NULL))
		return fail(failure, "root", errno, "mounting the scratch drive");
	if (list_layers(json_get(step, "layers"), lower, sizeof lower, top))
		return fail(failure, "root", 0, "too many layers");
	return mount_overlay(lower, top, SCRATCH, ROOT, failure);
}

/* --- mounts that are attached nowhere yet --------------------------------------------------------------------------- */

static int detached(const char *path)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, TREE_CLONE | TREE_CLOEXEC | TREE_RECURSIVE);
}

/* The mount alone, not the file system, becomes read-only. */
static int make_read_only(int fd)
{
	struct {
		uint64_t set, clear, propagation, users;
	} attributes = { .set = MOUNT_READ_ONLY };

	return (int)syscall(SYS_mount_setattr, fd, "", EMPTY_PATH, &attributes, sizeof attributes);
}

/* A new file system of that type. */
static int of_type(const char *type, unsigned long flags, const char *options)
{
	int fd;

	if (mount(type, STAGE, type, flags, options))
		return -1;
	fd = detached(STAGE);
	umount2(STAGE, MNT_DETACH);
	return fd;
}

static int of_tmpfs(const struct json *mount_)
{
	long long size = json_integer(mount_, "size", 0, LLONG_MAX, 0);
	char options[64];

	format_text(options, sizeof options, size ? "mode=1777,size=%lld" : "mode=1777", size);
	return of_type("tmpfs", MS_NOSUID | MS_NODEV, options);
}

/* A file on a tmpfs of its own: never on a drive. */
static int of_data(const struct json *mount_)
{
	size_t length = 0;
	const char *data = document_data(mount_, &length);
	bool read_only = json_true(mount_, "read_only");
	uid_t uid = (uid_t)json_integer(mount_, "uid", 0, UINT_MAX, 0);
	gid_t gid = (gid_t)json_integer(mount_, "gid", 0, UINT_MAX, 0);
	mode_t mode = (mode_t)json_integer(mount_, "mode", 0, 07777, 0644);
	int fd = -1;

	if (mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=700"))
		return -1;
	if (!file_replace(STAGE "/file", data ? data : "", length, mode) && !chown(STAGE "/file", uid, gid) &&
	    (!read_only || !mount(NULL, STAGE, NULL, MS_REMOUNT | MS_RDONLY, NULL)))
		fd = detached(STAGE "/file");
	umount2(STAGE, MNT_DETACH);
	return fd;
}

/* A part of what was attached for this step; one that is writable in an overlay, its upper side on the scratch drive. */
static int of_part(const struct json *mount_, struct failure *failure)
{
	const char *upper = json_string(mount_, "upper", NULL), *source = json_string(mount_, "source", "");
	char drive[16], part[PATH_MAX], folder[48], merged[64], made[64];
	int fd;

	step_drive_path((int)json_integer(mount_, "part", 0, STEP_DRIVES - 2, 0), drive);
	format_text(part, sizeof part, "%s/%s", drive, json_string(mount_, "name", ""));
	if (!upper)
		return detached(part);
	format_text(folder, sizeof folder, SCRATCH "/%s", upper);
	format_text(merged, sizeof merged, "%s/merged", folder);
	format_text(made, sizeof made, "%s/upper", folder);
	/* Several mounts may be of one: the first one makes it. */
	if (access(made, F_OK) && (directory_make(folder) || mount_overlay(part, part, folder, merged, failure)))
		return -1;
	if (format_text(part, sizeof part, "%s/%s", merged, source) >= (int)sizeof part) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = detached(part);
	if (fd >= 0 && json_true(mount_, "read_only") && make_read_only(fd))
		return -1;
	return fd;
}

/* --- places in the root --------------------------------------------------------------------------------------------- */

/* The directory that would hold the first name of `target` that is missing; false where none is. */
static bool first_holder(const char *target, char holder[PATH_MAX])
{
	size_t length = strlen(target), last = 0;
	struct stat status;

	if (length >= PATH_MAX)
		return false;
	for (size_t i = 1; i <= length; i++) {
		if (target[i] != '/' && target[i] != '\0')
			continue;
		format_text(holder, PATH_MAX, "%.*s", (int)i, target);
		if (stat(holder, &status)) {
			format_text(holder, PATH_MAX, "%.*s", last ? (int)last : 1, target);
			return true;
		}
		last = i;
	}
	return false;
}

static int make_place(const char *target, bool directory)
{
	int fd;

	if (directory)
		return directory_make(target);
	if (directory_make_parent(target))
		return -1;
	fd = open(target, O_RDONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == ENXIO ? 0 : fd < 0 ? -1 : 0; /* what is a socket is there */
}

/* Attach a mount; its place is made where it is missing, which the directory it is made in shall not show. */
static int put(int fd, const char *target, struct failure *failure)
{
	char holder[PATH_MAX];
	struct stat what, above;
	bool missing;
	int failed = 0;

	if (fd < 0 || fstat(fd, &what))
		return fail(failure, "mount", errno, "what is to be mounted at %s", target);
	missing = first_holder(target, holder);
	if (missing && stat(holder, &above))
		missing = false;
	if (make_place(target, S_ISDIR(what.st_mode)))
		failed = fail(failure, "mount", errno, "the place %s", target);
	if (missing && !failed)
		utimensat(AT_FDCWD, holder, (struct timespec[]){ above.st_atim, above.st_mtim }, 0);
	if (!failed && syscall(SYS_move_mount, fd, "", AT_FDCWD, target, MOVE_FROM_DESCRIPTOR | MOVE_FOLLOW_TARGET))
		failed = fail(failure, "mount", errno, "mounting at %s", target);
	close(fd);
	return failed;
}

/* --- the whole ------------------------------------------------------------------------------------------------------ */

static int made(const struct json *mount_, struct failure *failure)
{
	const char *type = json_string(mount_, "type", "");

	if (!strcmp(type, "tmpfs"))
		return of_tmpfs(mount_);
	if (!strcmp(type, "file"))
		return of_data(mount_);
	return of_part(mount_, failure);
}

static int put_kernel_mounts(int fds[6], struct failure *failure)
{
	static const char *const places[] = { "/proc", "/dev", "/sys", "/dev/pts", "/dev/shm", "/dev/mqueue" };

	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		if (put(fds[i], places[i], failure))
			return -1;
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2", QUIET, NULL); /* a kernel without has nothing to show */
	return 0;
}

static int enter_root(struct failure *failure)
{
	if (chdir(ROOT) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return fail(failure, "root", errno, "moving to the new root");
	return 0;
}

int step_root(const struct machine *machine, struct failure *failure)
{
	const struct json *step = machine->step, *mounts = json_get(step, "mounts");
	int fds[MAX_MOUNTS], kernel[6];
	char shm[48];
	size_t count = 0;

	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount_root(step, failure))
		return -1;
	format_text(shm, sizeof shm, "mode=1777,size=%lld", json_integer(step, "shm_size", 0, LLONG_MAX, 64 << 20));
	kernel[0] = of_type("proc", QUIET, NULL);
	kernel[1] = of_type("devtmpfs", MS_NOSUID, NULL);
	kernel[2] = of_type("sysfs", QUIET, NULL);
	kernel[3] = of_type("devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	kernel[4] = of_type("tmpfs", QUIET, shm);
	kernel[5] = of_type("mqueue", QUIET, NULL);
	failure->message[0] = '\0';
	for (const struct json *item = mounts ? mounts->first : NULL; item; item = item->next) {
		if (count == MAX_MOUNTS)
			return fail(failure, "mount", 0, "too many mounts");
		fds[count] = made(item, failure);
		if (fds[count++] < 0)
			return *failure->message ? -1 : fail(failure, "mount", errno, "what is to be mounted at %s",
							  json_string(item, "target", ""));
	}
	if (enter_root(failure) || put_kernel_mounts(kernel, failure))
		return -1;
	count = 0;
	for (const struct json *item = mounts ? mounts->first : NULL; item; item = item->next)
		if (put(fds[count++], json_string(item, "target", "/"), failure))
			return -1;
	return 0;
}
