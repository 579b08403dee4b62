/* Small programs that upstream's images get from packages, for stand-in bases: dumb-init, su-exec, setcap, setpriv and
 * chroot --userspec. Written for these tests; each does what its namesake does with the arguments that the texts use. */

#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int fail(const char *program, const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", program, what, strerror(errno));
	return 1;
}

static int run(const char *program, char **argv)
{
	execvp(argv[0], argv);
	fail(program, argv[0]);
	return errno == ENOENT ? 127 : 126;
}

/* The number of a group; -1 where there is none. A line without members and their colon will do, as with glibc: musl wants
 * it, and one of the texts' scripts writes none. */
static long find_group(const char *name)
{
	char line[512], found[64];
	FILE *file = fopen("/etc/group", "r");
	long number = -1, read;

	while (file && number < 0 && fgets(line, sizeof line, file))
		if (sscanf(line, "%63[^:]:%*[^:]:%ld", found, &read) == 2 && !strcmp(found, name))
			number = read;
	if (file)
		fclose(file);
	return number;
}

/* USER[:GROUP], by name or number, as chroot --userspec and su-exec read it: without GROUP the user's own groups. */
static int become(const char *program, const char *spec)
{
	char user[64], *group, *end;
	struct passwd *entry;
	uid_t uid;
	gid_t gid;

	snprintf(user, sizeof user, "%s", spec);
	group = strchr(user, ':');
	if (group)
		*group++ = '\0';
	uid = gid = strtoul(user, &end, 10);
	entry = *end ? getpwnam(user) : getpwuid(uid);
	if (*end && !entry)
		return fprintf(stderr, "%s: %s: no such user\n", program, user), 1;
	if (entry) {
		uid = entry->pw_uid;
		gid = entry->pw_gid;
	}
	if (group && *group) {
		gid = strtoul(group, &end, 10);
		if (*end) {
			long found = find_group(group);
			if (found < 0)
				return fprintf(stderr, "%s: %s: no such group\n", program, group), 1;
			gid = found;
		}
	}
	if (entry && !group ? initgroups(entry->pw_name, gid) : setgroups(1, &gid))
		return fail(program, "setgroups");
	if (setgid(gid) || setuid(uid))
		return fail(program, "setuid");
	if (entry)
		setenv("HOME", entry->pw_dir, 1);
	return 0;
}

static pid_t child;

static void pass_on(int number)
{
	kill(-child, number);
}

/* dumb-init PROGRAM …: the program runs in a session of its own, signals go to all of it, orphans are reaped. */
static int dumb_init(char **argv)
{
	static const int passed[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
	int status;
	pid_t ended;

	if (getpid() != 1)
		fprintf(stderr, "[dumb-init] runs as process %d\n", getpid());
	child = fork();
	if (child < 0)
		return fail("dumb-init", "fork");
	if (child == 0) {
		setsid();
		_exit(run("dumb-init", argv + 1));
	}
	for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
		signal(passed[i], pass_on);
	for (;;) {
		ended = waitpid(-1, &status, 0);
		if (ended == child)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		if (ended < 0 && errno != EINTR)
			return fail("dumb-init", "waitpid");
	}
}

static int su_exec(char **argv)
{
	int failed = become("su-exec", argv[1]);
	return failed ? failed : run("su-exec", argv + 2);
}

/* setcap cap_net_bind_service=+ep FILE: struct vfs_cap_data of linux/capability.h, revision 2. */
static int setcap(char **argv)
{
	static const uint32_t data[5] = {0x02000001, 1u << 10, 0, 0, 0};

	if (!argv[1] || !argv[2] || strcmp(argv[1], "cap_net_bind_service=+ep"))
		return fprintf(stderr, "fatal error: Invalid argument\n"), 1;
	if (setxattr(argv[2], "security.capability", data, sizeof data, 0)) {
		fprintf(stderr, "Failed to set capabilities on file '%s': %s\n", argv[2], strerror(errno));
		return 1;
	}
	return 0;
}

/* setpriv --reuid=USER --regid=GROUP --keep-groups PROGRAM …, of util-linux. */
static int set_privileges(char **argv)
{
	struct passwd *user = NULL;
	long group = -1;

	for (argv++; *argv && !strncmp(*argv, "--", 2); argv++) {
		if (!strncmp(*argv, "--reuid=", 8))
			user = getpwnam(*argv + 8);
		else if (!strncmp(*argv, "--regid=", 8))
			group = find_group(*argv + 8);
		else if (strcmp(*argv, "--keep-groups"))
			return fprintf(stderr, "setpriv: unrecognized option '%s'\n", *argv), 1;
	}
	if (!user || group < 0)
		return fprintf(stderr, "setpriv: no such user or group\n"), 1;
	if (setgid(group) || setuid(user->pw_uid))
		return fail("setpriv", "setresuid");
	return run("setpriv", argv);
}

/* chroot --userspec=USER[:GROUP] FOLDER PROGRAM …, of coreutils. */
static int change_root(char **argv)
{
	const char *spec = NULL;
	int failed;

	if (argv[1] && !strncmp(argv[1], "--userspec=", 11))
		spec = *++argv + 11;
	if (!argv[1] || !argv[2])
		return fprintf(stderr, "chroot: missing operand\n"), 125;
	if (chroot(argv[1]) || chdir("/"))
		return fail("chroot", argv[1]);
	failed = spec ? become("chroot", spec) : 0;
	return failed ? 125 : run("chroot", argv + 2);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*main)(char **argv);
	} programs[] = {
		{"dumb-init", dumb_init}, {"su-exec", su_exec},	   {"setcap", setcap},
		{"setpriv", set_privileges}, {"chroot", change_root},
	};
	const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];

	for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
		if (argc > 1 && !strcmp(programs[i].name, name))
			return programs[i].main(argv);
	fprintf(stderr, "%s: nothing to do\n", name);
	return 1;
}
