#include "volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "mounts.h"

#define STAGING "/dev/.firekiln" /* where a drive is mounted of which only a part is wanted */
#define OPTIONS_SIZE 1024

static int mounted[MAX_MOUNTS]; /* drives, held open so that nobody can hide them from us */
static size_t mounted_count;

/* mount(8)'s words that are flags of mount(2). */
static const struct {
	const char *name;
	unsigned long set, clear;
} flag_words[] = {
	{ "ro", MS_RDONLY, 0 },
	{ "rw", 0, MS_RDONLY },
	{ "noexec", MS_NOEXEC, 0 },
	{ "exec", 0, MS_NOEXEC },
	{ "nosuid", MS_NOSUID, 0 },
	{ "suid", 0, MS_NOSUID },
	{ "nodev", MS_NODEV, 0 },
	{ "dev", 0, MS_NODEV },
	{ "sync", MS_SYNCHRONOUS, 0 },
	{ "async", 0, MS_SYNCHRONOUS },
	{ "noatime", MS_NOATIME, 0 },
	{ "atime", 0, MS_NOATIME },
	{ "nodiratime", MS_NODIRATIME, 0 },
	{ "diratime", 0, MS_NODIRATIME },
	{ "relatime", MS_RELATIME, 0 },
	{ "strictatime", MS_STRICTATIME, 0 },
};

/* Take the word's flag, or add it to `text`, which has `size` bytes. */
static void take_option(const char *word, unsigned long *flags, char *text, size_t size)
{
	size_t used = strlen(text);

	for (size_t i = 0; i < sizeof flag_words / sizeof *flag_words; i++)
		if (!strcmp(word, flag_words[i].name)) {
			*flags = (*flags | flag_words[i].set) & ~flag_words[i].clear;
			return;
		}
	format_text(text + used, size - used, "%s%s", used ? "," : "", word);
}

static int attach(const char *source, const char *target, const char *type, unsigned long flags, const char *options)
{
	if (!mount(source, target, type, flags, options))
		return 0;
	/* A journal can't be replayed on a drive that is read-only for us; what it holds is then left aside. */
	if (errno == EROFS && (flags & MS_RDONLY) && !strcmp(type, "ext4"))
		return mount(source, target, type, flags, "noload");
	return -1;
}

/* Make a place for a mount: a directory, or a file where that is what will lie on it. */
static int make_target(const char *target, bool file)
{
	int fd;

	if (!file)
		return directory_make(target);
	if (directory_make_parent(target))
		return -1;
	fd = open(target, O_RDONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0644);
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static void keep_open(const char *target)
{
	int fd = open(target, O_PATH | O_CLOEXEC);

	if (fd >= 0)
		mounted[mounted_count++] = fd;
}

/* A part of a drive: the whole is mounted out of sight, the part bound to the target, and the whole let go. */
static int mount_part(const struct mount_config *config, const char *device, unsigned long flags)
{
	char part[PATH_MAX];
	struct stat status;
	int error;

	if ((mkdir(STAGING, 0700) && errno != EEXIST) || attach(device, STAGING, config->fstype, flags, NULL))
		return -1;
	/* Links within the drive are the host's own work: it made the drive, or looked the path up in it. */
	if (format_text(part, sizeof part, STAGING "/%s", config->subpath) >= (int)sizeof part)
		errno = ENAMETOOLONG;
	else if (!stat(part, &status) && !make_target(config->target, !S_ISDIR(status.st_mode)) &&
		 !mount(part, config->target, NULL, MS_BIND, NULL))
		errno = 0;
	error = errno;
	umount2(STAGING, MNT_DETACH);
	rmdir(STAGING);
	errno = error;
	return error ? -1 : 0;
}

static int mount_drive(const struct mount_config *config, struct failure *failure)
{
	unsigned long flags = config->read_only ? MS_RDONLY : 0;
	char device[16];
	int failed;

	if (mounts_find_drive(&config->drive, device, failure))
		return -1;
	if (config->subpath && *config->subpath)
		failed = mount_part(config, device, flags);
	else
		failed = make_target(config->target, false) ||
			 attach(device, config->target, config->fstype, flags, NULL);
	if (failed)
		return fail(failure, "mount", errno, "mounting %s at %s", device, config->target);
	keep_open(config->target);
	return 0;
}

static int mount_tmpfs(const struct mount_config *config, struct failure *failure)
{
	unsigned long flags = config->read_only ? MS_RDONLY : 0;
	char options[OPTIONS_SIZE];
	int used = format_text(options, sizeof options, "mode=%o", (unsigned)config->mode);

	if (config->size)
		format_text(options + used, sizeof options - (size_t)used, ",size=%lld", config->size);
	for (const struct json *word = config->options ? config->options->first : NULL; word; word = word->next)
		if (word->type == JSON_STRING)
			take_option(word->string, &flags, options, sizeof options);
	if (directory_make(config->target) || mount("tmpfs", config->target, "tmpfs", flags, options))
		return fail(failure, "mount", errno, "mounting a tmpfs (%s) at %s", options, config->target);
	return 0;
}

static int mount_shared(const struct mount_config *config, struct failure *failure)
{
	bool plan9 = config->type == MOUNT_9P;
	unsigned long flags = config->read_only ? MS_RDONLY : 0;

	if (directory_make(config->target) || mount(config->tag, config->target, plan9 ? "9p" : "virtiofs", flags,
						    plan9 ? "trans=virtio,version=9p2000.L,msize=131072" : NULL))
		return fail(failure, "mount", errno, "mounting the host's %s at %s", config->tag, config->target);
	return 0;
}

static int mount_file(const struct mount_config *config, struct failure *failure)
{
	if (directory_make_parent(config->target) ||
	    file_overwrite(config->target, config->data, config->length, (mode_t)config->mode))
		return fail(failure, "mount", errno, "writing %s", config->target);
	return 0;
}

int volumes_mount(const struct machine *machine, struct failure *failure)
{
	static int (*const by_type[])(const struct mount_config *, struct failure *) = {
		[MOUNT_DRIVE] = mount_drive,	[MOUNT_TMPFS] = mount_tmpfs, [MOUNT_VIRTIOFS] = mount_shared,
		[MOUNT_9P] = mount_shared,	[MOUNT_FILE] = mount_file,
	};

	for (size_t i = 0; i < machine->mount_count; i++)
		if (by_type[machine->mounts[i].type](&machine->mounts[i], failure))
			return -1;
	return 0;
}

bool volumes_cover(const struct machine *machine, const char *target)
{
	for (size_t i = 0; i < machine->mount_count; i++)
		if (!strcmp(machine->mounts[i].target, target))
			return true;
	return false;
}

static int write_file(const struct json *file, const char *path)
{
	const char *link = json_string(file, "link", NULL);
	size_t length = 0;
	const char *data = document_data(file, &length);

	if (directory_make_parent(path))
		return -1;
	if (link)
		return (unlink(path) && errno != ENOENT) || symlink(link, path) ? -1 : 0;
	return file_replace(path, data ? data : "", length, (mode_t)json_integer(file, "mode", 0, 07777, 0644));
}

int volumes_write_files(const struct machine *machine, struct failure *failure)
{
	for (const struct json *file = machine->files ? machine->files->first : NULL; file; file = file->next) {
		const char *path = json_string(file, "path", "");

		if (*path != '/' || write_file(file, path))
			return fail(failure, "file", errno, "writing %s", path);
	}
	return 0;
}

/* sysctl(8)'s rule: the separator that comes first is one, and the other then part of a name. */
static void sysctl_path(const char *name, char path[PATH_MAX])
{
	char first = name[strcspn(name, "./")];
	size_t head = (size_t)format_text(path, PATH_MAX, "/proc/sys/");

	format_text(path + head, PATH_MAX - head, "%s", name);
	for (char *at = path + head; first == '.' && *at; at++)
		if (*at == '.' || *at == '/')
			*at = *at == '.' ? '/' : '.';
}

int volumes_set_sysctls(const struct machine *machine, struct failure *failure)
{
	const struct json *item = machine->sysctls ? machine->sysctls->first : NULL;
	char path[PATH_MAX];

	for (; item; item = item->next) {
		if (item->type != JSON_STRING)
			return fail(failure, "process", 0, "sysctl %s: its value is no string", item->key);
		sysctl_path(item->key, path);
		if (!file_set(path, item->string))
			return fail(failure, "process", errno, "sysctl %s=%s", item->key, item->string);
	}
	return 0;
}

int volumes_seal_root(const struct machine *machine, struct failure *failure)
{
	if (machine->read_only_root && mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL))
		return fail(failure, "mount", errno, "making the root read-only");
	return 0;
}

void volumes_finish(void)
{
	for (size_t i = 0; i < mounted_count; i++) {
		char path[32];

		format_text(path, sizeof path, "/proc/self/fd/%d", mounted[i]);
		mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL);
	}
}
