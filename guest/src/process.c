#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "file.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PIPE_SIZE (1 << 18)

/* The value of a variable, NULL where it is absent; of several the last counts. */
static const char *variable(char **env, const char *name)
{
	size_t length = strlen(name);
	const char *value = NULL;

	for (; *env; env++)
		if (!strncmp(*env, name, length) && (*env)[length] == '=')
			value = *env + length + 1;
	return value;
}

/* The environment, HOME added from passwd where it is missing or empty, as runc does. NULL where memory is short. */
static char **complete(char **env, const char *home)
{
	static char line[PATH_MAX + 8];
	const char *given = variable(env, "HOME");
	size_t count = 0, used = 0;
	char **made;

	if (given && *given)
		return env;
	while (env[count])
		count++;
	made = calloc(count + 2, sizeof *made);
	for (size_t i = 0; made && i < count; i++)
		if (strncmp(env[i], "HOME=", 5))
			made[used++] = env[i];
	snprintf(line, sizeof line, "HOME=%s", home);
	if (made)
		made[used] = line;
	return made;
}

static int refuse_exec(struct failure *failure, int error, const char *name)
{
	fail(failure, "exec", error, "exec: \"%s\"", name);
	failure->status = error == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
	return -1;
}

/* Whether it is a file that the caller may execute; errno says why not. */
static bool executable(const char *path)
{
	struct stat status;

	if (stat(path, &status))
		return false;
	if (S_ISDIR(status.st_mode)) {
		errno = EISDIR;
		return false;
	}
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

/* Go's exec.LookPath: a name with a slash as it is, another in PATH's directories. */
static int find_program(const char *name, const char *path, char found[PATH_MAX], struct failure *failure)
{
	bool denied = false;

	if (!*path)
		path = NULL;
	if (strchr(name, '/')) {
		snprintf(found, PATH_MAX, "%s", name);
		return executable(name) ? 0 : refuse_exec(failure, errno, name);
	}
	for (const char *end; *name && path; path = end) { /* an empty element is the working directory */
		int length;

		end = strchrnul(path, ':');
		length = (int)(end - path);
		end = *end ? end + 1 : NULL;
		if (snprintf(found, PATH_MAX, "%.*s/%s", length ? length : 1, length ? path : ".", name) >= PATH_MAX)
			continue;
		if (executable(found))
			return 0;
		denied = denied || errno == EACCES;
	}
	if (denied)
		return refuse_exec(failure, EACCES, name);
	fail(failure, "exec", 0, "exec: \"%s\": executable file not found in $PATH", name);
	failure->error = ENOENT;
	failure->status = STATUS_NOT_FOUND;
	return -1;
}

static int set_limits(const struct process_config *config, struct failure *failure)
{
	for (size_t i = 0; i < config->rlimit_count; i++) {
		struct rlimit limit = { config->rlimits[i].soft, config->rlimits[i].hard };

		if (setrlimit(config->rlimits[i].resource, &limit))
			return fail(failure, "process", errno, "resource limit %d", config->rlimits[i].resource);
	}
	return 0;
}

/* In the child: become what the document says and execute. Returns on failure only. */
static int become(const struct process_config *config, const struct user *user, struct failure *failure)
{
	char program[PATH_MAX], **env = complete(config->env, user->home);
	const char *path = variable(config->env, "PATH");
	sigset_t none;

	setsid();
	if (config->console)
		ioctl(STDIN_FILENO, TIOCSCTTY, 0); /* so that Ctrl-C reaches it, and shells control their jobs */
	if (!env)
		return fail(failure, "process", ENOMEM, "the environment");
	if (set_limits(config, failure))
		return -1;
	if (directory_make(config->cwd) || chdir(config->cwd))
		return fail(failure, "cwd", errno, "chdir to cwd (\"%s\")", config->cwd);
	if (setgroups(user->group_count, user->groups) || setgid(user->gid) || setuid(user->uid))
		return fail(failure, "user", errno, "becoming uid %u, gid %u", user->uid, user->gid);
	if (find_program(config->argv[0], path ? path : DEFAULT_PATH, program, failure))
		return -1;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(program, config->argv, env);
	return refuse_exec(failure, errno, program);
}

/* The console for all three; /dev/null where there is none. */
static int open_console(int child[3], int own[3])
{
	for (int i = 0; i < 3; i++) {
		own[i] = -1;
		child[i] = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (child[i] < 0)
			child[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (child[i] < 0)
			return -1;
	}
	return 0;
}

/* The three descriptors of the child: `child` its ends, `own` ours. */
static int open_stdio(const struct process_config *config, int child[3], int own[3])
{
	int ends[2];

	if (config->console)
		return open_console(child, own);
	if (config->open_stdin) {
		if (pipe2(ends, O_CLOEXEC))
			return -1;
		child[0] = ends[0];
		own[0] = ends[1];
		fcntl(own[0], F_SETFL, O_NONBLOCK);
	} else {
		child[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
		own[0] = -1;
	}
	for (int i = 1; i < 3; i++) {
		if (pipe2(ends, O_CLOEXEC))
			return -1;
		own[i] = ends[0];
		child[i] = ends[1];
		fcntl(own[i], F_SETFL, O_NONBLOCK);
		fcntl(own[i], F_SETPIPE_SZ, PIPE_SIZE);
	}
	return child[0] < 0 ? -1 : 0;
}

/* Descriptor `from` as `to`, to stay open in the program. */
static void install(int from, int to)
{
	if (from == to)
		fcntl(to, F_SETFD, 0);
	else
		dup2(from, to);
}

static void run_child(const struct process_config *config, const struct user *user, const int stdio[3], int report)
{
	struct failure failure;

	for (int i = 0; i < 3; i++) {
		/* Its owner is the user, so that the service may open /dev/stdout anew, as nginx's logs do. */
		if (i > 0 || config->open_stdin || config->console)
			fchown(stdio[i], user->uid, (gid_t)-1);
		install(stdio[i], i);
	}
	become(config, user, &failure);
	if (write(report, &failure, sizeof failure) < 0)
		_exit(STATUS_MACHINE);
	_exit(failure.status);
}

/* What the child reports, or nothing: the pipe closes as the program begins. */
static int await_exec(pid_t pid, int report, struct failure *failure)
{
	struct failure told;
	ssize_t count;

	do
		count = read(report, &told, sizeof told);
	while (count < 0 && errno == EINTR);
	close(report);
	if (count != (ssize_t)sizeof told)
		return 0;
	waitpid(pid, NULL, 0);
	*failure = told;
	return -1;
}

int process_start(const struct process_config *config, struct process *process, struct failure *failure)
{
	static struct user user; /* 8 KiB */
	int child[3], own[3], report[2];

	if (user_lookup(config->user, &user, failure))
		return -1;
	if (open_stdio(config, child, own) || pipe2(report, O_CLOEXEC))
		return fail(failure, "process", errno, "standard input and output");
	process->pid = fork();
	if (process->pid < 0)
		return fail(failure, "process", errno, "fork");
	if (process->pid == 0)
		run_child(config, &user, child, report[1]);
	close(report[1]);
	for (int i = 0; i < 3; i++)
		close(child[i]);
	if (await_exec(process->pid, report[0], failure)) {
		for (int i = 0; i < 3; i++)
			close(own[i]);
		return -1;
	}
	process->uid = user.uid;
	process->input = own[0];
	process->output = own[1];
	process->error = own[2];
	return 0;
}
