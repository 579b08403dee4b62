#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "file.h"
#include "format.h"

#ifndef TIOCGPTPEER /* linux/tty.h, since 4.13; musl has no name for it */
#define TIOCGPTPEER _IO('T', 0x41)
#endif

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PIPE_SIZE (1 << 20)
#define REPORT_FD 3

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
	format_text(line, sizeof line, "HOME=%s", home);
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
	return syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

/* Go's exec.LookPath: a name with a slash as it is, another in PATH's directories. */
static int find_program(const char *name, const char *path, char found[PATH_MAX], struct failure *failure)
{
	bool denied = false;

	if (!*path)
		path = NULL;
	if (strchr(name, '/')) {
		format_text(found, PATH_MAX, "%s", name);
		return executable(name) ? 0 : refuse_exec(failure, errno, name);
	}
	for (const char *end; *name && path; path = end) { /* an empty element is the working directory */
		int length;

		end = strchrnul(path, ':');
		length = (int)(end - path);
		end = *end ? end + 1 : NULL;
		if (format_text(found, PATH_MAX, "%.*s/%s", length ? length : 1, length ? path : ".", name) >= PATH_MAX)
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

		if (prlimit(0, config->rlimits[i].resource, &limit, NULL))
			return fail(failure, "process", errno, "resource limit %d", config->rlimits[i].resource);
	}
	return 0;
}

void process_execute(char **argv, char **env, struct failure *failure)
{
	const char *path = variable(env, "PATH");
	char program[PATH_MAX];

	if (find_program(argv[0], path ? path : DEFAULT_PATH, program, failure))
		return;
	execve(program, argv, env);
	refuse_exec(failure, errno, program);
}

/* As system calls, since libc would have every thread do it, of which we have one. */
static int become_user(const struct user *user)
{
	return syscall(SYS_setgroups, user->group_count, user->groups) || syscall(SYS_setgid, user->gid) ||
	       syscall(SYS_setuid, user->uid);
}

/* In the child: become what the document says and execute. Returns on failure only. */
static int become(const struct process_config *config, const struct user *user, struct failure *failure)
{
	char **env = complete(config->env, user->home);
	sigset_t none;

	setsid();
	if (config->console || config->tty.wanted)
		ioctl(STDIN_FILENO, TIOCSCTTY, 0); /* so that Ctrl-C reaches it, and shells control their jobs */
	if (!env)
		return fail(failure, "process", ENOMEM, "the environment");
	if (set_limits(config, failure))
		return -1;
	if ((config->make_cwd && directory_make(config->cwd)) || chdir(config->cwd))
		return fail(failure, "cwd", errno, "chdir to cwd (\"%s\")", config->cwd);
	if (become_user(user))
		return fail(failure, "user", errno, "becoming uid %u, gid %u", user->uid, user->gid);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	process_execute(config->argv, env, failure);
	return -1;
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

/* A new terminal, its other end ours. */
static int open_terminal(const struct terminal_config *tty, int child[3], int own[3])
{
	struct process master = { .output = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK) };
	int unlocked = 0;

	own[1] = master.output;
	if (own[1] < 0 || ioctl(own[1], TIOCSPTLCK, &unlocked))
		return -1;
	process_resize(&master, tty->rows, tty->columns);
	own[0] = fcntl(own[1], F_DUPFD_CLOEXEC, 0);
	for (int i = 0; i < 3; i++)
		child[i] = ioctl(own[1], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return own[0] < 0 || child[0] < 0 || child[1] < 0 || child[2] < 0 ? -1 : 0;
}

/* Descriptor `i` of the child as a pipe. */
static int open_pipe(int i, int child[3], int own[3])
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	child[i] = ends[i > 0];
	own[i] = ends[i == 0];
	fcntl(own[i], F_SETFL, O_NONBLOCK);
	if (i)
		fcntl(own[i], F_SETPIPE_SZ, PIPE_SIZE);
	return 0;
}

/* The three descriptors of the child: `child` its ends, `own` ours. */
static int open_stdio(const struct process_config *config, int child[3], int own[3])
{
	if (config->console)
		return open_console(child, own);
	if (config->tty.wanted)
		return open_terminal(&config->tty, child, own);
	if (!config->open_stdin)
		child[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	else if (open_pipe(0, child, own))
		return -1;
	return child[0] < 0 || open_pipe(1, child, own) || open_pipe(2, child, own) ? -1 : 0;
}

/* Descriptor `from` as `to`, to stay open in the program. */
static void install(int from, int to)
{
	if (from == to)
		fcntl(to, F_SETFD, 0);
	else
		dup2(from, to);
}

/* --- reports ------------------------------------------------------------------------------------------------------- */

static void report_send(int report, const struct report *message, size_t length)
{
	send(report, message, offsetof(struct report, uid) + length, MSG_NOSIGNAL);
}

void report_failure(int report, const struct failure *failure)
{
	struct report message; /* 16 KiB that nobody needs to have cleared */

	message.kind = REPORT_FAILURE;
	message.failure = *failure;
	report_send(report, &message, sizeof message.failure);
}

void report_stat(int report, const char *json, size_t length)
{
	static struct report message;

	if (length >= sizeof message.stat)
		return;
	message.kind = REPORT_STAT;
	memcpy(message.stat, json, length);
	report_send(report, &message, length + 1);
}

int process_report(const struct process *process, struct report *report)
{
	ssize_t count = recv(process->report, report, sizeof *report, MSG_DONTWAIT);

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (count > (ssize_t)offsetof(struct report, uid) && report->kind == REPORT_STAT)
		((char *)report)[count - 1] = '\0';
	return count > 0 ? 1 : -1;
}

/* --- children ------------------------------------------------------------------------------------------------------ */

_Noreturn void process_become(const struct process_config *config, int report)
{
	static struct user user; /* 8 KiB */
	struct report message;
	struct failure failure;

	if (!user_lookup(config->user, config->groups, &user, &failure)) {
		/* Its owner is the user, so that the service may open /dev/stdout anew, as nginx's logs do. */
		for (int i = 0; i < 3; i++)
			if (i > 0 || config->open_stdin || config->console || config->tty.wanted)
				fchown(i, user.uid, (gid_t)-1);
		message.kind = REPORT_USER;
		message.uid = user.uid;
		report_send(report, &message, sizeof message.uid);
		become(config, &user, &failure);
	}
	report_failure(report, &failure);
	_exit(failure.status);
}

struct child {
	const struct process_config *config; /* or */
	int (*work)(void *context, int report);
	void *context;
};

static _Noreturn void run_child(const struct child *child, const int stdio[3], int report)
{
	for (int i = 0; i < 3; i++)
		install(stdio[i], i);
	if (child->config)
		process_become(child->config, report);
	/* No program takes its place that would close what is ours, among it the other ends of its pipes. */
	dup2(report, REPORT_FD);
	syscall(SYS_close_range, REPORT_FD + 1, ~0U, 0);
	_exit(child->work(child->context, REPORT_FD));
}

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int start(const struct child *child, const struct process_config *config, struct process *process,
		 struct failure *failure)
{
	int theirs[4] = { -1, -1, -1, -1 }, own[4] = { -1, -1, -1, -1 }, ends[2];
	pid_t pid = -1;

	if (!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) {
		own[3] = ends[0];
		theirs[3] = ends[1];
		if (!open_stdio(config, theirs, own))
			pid = fork();
	}
	if (pid < 0) {
		fail(failure, "process", errno, "starting a process");
		close_all(own, 4);
		close_all(theirs, 4);
		return -1;
	}
	if (pid == 0)
		run_child(child, theirs, theirs[3]);
	close_all(theirs, 4);
	*process = (struct process){ .pid = pid, .input = own[0], .output = own[1], .error = own[2], .report = own[3] };
	return 0;
}

int process_start(const struct process_config *config, struct process *process, struct failure *failure)
{
	if (config->work)
		return process_fork(config->work, NULL, process, failure);
	return start(&(struct child){ .config = config }, config, process, failure);
}

int process_fork(int (*work)(void *context, int report), void *context, struct process *process,
		 struct failure *failure)
{
	const struct process_config pipes = { .open_stdin = true };

	return start(&(struct child){ .work = work, .context = context }, &pipes, process, failure);
}

void process_resize(const struct process *process, int rows, int columns)
{
	struct winsize size = { .ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns };

	if (process->output >= 0 && rows > 0 && columns > 0)
		ioctl(process->output, TIOCSWINSZ, &size);
}

void process_close(struct process *process)
{
	int fds[] = { process->input, process->output, process->error, process->report };

	close_all(fds, 4);
	process->input = process->output = process->error = process->report = -1;
}
