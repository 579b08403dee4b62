#include "foreign.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "decimal.h"
#include "file.h"
#include "log.h"
#include "process.h"

#define FOLDER "/run/firekiln"
#define PROGRAM FOLDER "/firekiln"
#define PROGRAM_LIMIT (1 << 22)
#define NAME "@firekiln" /* systemd spares whose name begins so, as it does those of an initrd */
#define NEVER LLONG_MAX
#define DRAIN_MS 2000
#define PEACE_MS 1000 /* for what a client has to say */

enum { LISTEN_STDOUT, LISTEN_STDERR, LISTEN_AGENT };
static const char *const socket_paths[] = { FOLDER "/stdout", FOLDER "/stderr", FOLDER "/agent" };

static struct sockaddr_un address_of(int listener)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	strcpy(address.sun_path, socket_paths[listener]);
	return address;
}

/* --- before the init ----------------------------------------------------------------------------------------------- */

static int listen_at(int listener)
{
	struct sockaddr_un address = address_of(listener);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) ||
	    chmod(address.sun_path, listener == LISTEN_AGENT ? 0600 : 0666) || listen(fd, FOREIGN_STREAMS))
		return -1;
	return fd;
}

/* The init may mount something of its own on /run, or forbid programs there: ours is a mount of its own, on one that
 * inits take for theirs. */
static int mount_folder(void)
{
	struct stat run, root;

	if (mkdir("/run", 0755) && errno != EEXIST)
		return -1;
	if (!stat("/run", &run) && !stat("/", &root) && run.st_dev == root.st_dev &&
	    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"))
		return -1;
	return mkdir(FOLDER, 0755) || mount("tmpfs", FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m");
}

static int copy_program(void)
{
	size_t length;
	char *program = file_read("/proc/self/exe", PROGRAM_LIMIT, &length);
	int result = program ? file_replace(PROGRAM, program, length, 0755) : -1;

	free(program);
	return result;
}

int foreign_prepare(struct foreign *foreign, const struct machine *machine, struct failure *failure)
{
	*foreign = (struct foreign){ .config = &machine->init, .born = -1, .give_up_at = NEVER };
	for (int i = 0; i < FOREIGN_STREAMS; i++)
		foreign->streams[i] = -1;
	if (mount_folder() || copy_program())
		return fail(failure, "init", errno, FOLDER);
	for (int i = 0; i < FOREIGN_LISTENERS; i++) {
		foreign->listeners[i] = listen_at(i);
		if (foreign->listeners[i] < 0)
			return fail(failure, "init", errno, "%s", socket_paths[i]);
	}
	return 0;
}

/* PID 1 from here on. */
static _Noreturn void become_init(const struct init_config *config, int report)
{
	static char *const env[] = { "HOME=/", "TERM=linux",
				     "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	int console = open("/dev/console", O_RDWR | O_NOCTTY);
	struct failure failure;
	sigset_t none;

	for (int fd = 0; console >= 0 && fd < 3; fd++)
		dup2(console, fd);
	if (console > 2)
		close(console);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	reboot(RB_ENABLE_CAD);
	execve(config->argv[0], config->argv, env);
	fail(&failure, "init", errno, "%s", config->argv[0]);
	file_write_all(report, (const char *)&failure, sizeof failure);
	close(report);
	for (;;)
		pause(); /* the agent powers off; our end would be a panic */
}

/* The name that ps shows: over argv[0] and what follows it, as the kernel allows (proc(5), cmdline). */
static void take_name(char **argv)
{
	size_t room = argv[1] ? 0 : strlen(argv[0]);

	for (char **word = argv + 2; !argv[1] && *word && *word == argv[0] + room + 1; word++)
		room += strlen(*word) + 1; /* the environment lies behind it */
	if (room >= sizeof NAME)
		strcpy(argv[0], NAME);
	else
		*argv[0] = *NAME;
	prctl(PR_SET_NAME, "firekiln");
}

int foreign_begin(struct foreign *foreign, char **argv, struct failure *failure)
{
	int ends[2];
	pid_t agent;

	if (pipe2(ends, O_CLOEXEC))
		return fail(failure, "init", errno, "a pipe");
	agent = fork();
	if (agent < 0)
		return fail(failure, "init", errno, "fork");
	if (agent > 0)
		become_init(foreign->config, ends[1]);
	close(ends[1]);
	foreign->born = ends[0];
	setsid();
	take_name(argv);
	file_set("/proc/self/oom_score_adj", "-1000");
	return 0;
}

/* --- beside it ----------------------------------------------------------------------------------------------------- */

static void take_birth(struct foreign *foreign)
{
	foreign->failed = read(foreign->born, &foreign->failure, sizeof foreign->failure) ==
			  (ssize_t)sizeof foreign->failure;
	foreign->running = true;
	close(foreign->born);
	foreign->born = -1;
}

static void accept_stream(struct foreign *foreign, int listener)
{
	int fd = accept4(foreign->listeners[listener], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), place = 0;
	struct ucred peer;
	socklen_t length = sizeof peer;

	if (fd < 0)
		return;
	while (place < FOREIGN_STREAMS && foreign->streams[place] >= 0)
		place++;
	if (place == FOREIGN_STREAMS) {
		log_line(LOG_LEVEL_WARNING, "more than %d outputs of services at once", FOREIGN_STREAMS);
		close(fd);
		return;
	}
	foreign->streams[place] = fd;
	foreign->types[place] = listener == LISTEN_STDOUT ? FRAME_STDOUT : FRAME_STDERR;
	if (listener == LISTEN_STDOUT && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length)) {
		foreign->connected = true;
		foreign->service = peer.pid;
	}
}

int foreign_status(const char *word)
{
	static const char names[] = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD "
				    "CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS ";
	int number = 1;

	if (*word >= '0' && *word <= '9')
		return (int)(decimal_parse(word, NULL) & 0xFF) << 8;
	if (!strncmp(word, "SIG", 3))
		word += 3;
	for (const char *name = names; *name; name += strcspn(name, " ") + 1, number++)
		if (strcspn(name, " ") == strlen(word) && !strncmp(name, word, strlen(word)))
			return number;
	return 255 << 8; /* one that we have no name for */
}

/* A client of `agent` says one word and goes. */
static void take_word(struct foreign *foreign)
{
	int fd = accept4(foreign->listeners[LISTEN_AGENT], NULL, NULL, SOCK_CLOEXEC);
	struct pollfd readable = { .fd = fd, .events = POLLIN };
	char word[32] = "";

	if (fd < 0)
		return;
	if (poll(&readable, 1, PEACE_MS) == 1 && read(fd, word, sizeof word - 1) > 0) {
		foreign->status = foreign_status(word);
		foreign->exited = true;
		foreign->drain_until = clock_ms() + DRAIN_MS;
	}
	close(fd);
}

static void relay(struct foreign *foreign, int place, struct channel *channel)
{
	static unsigned char nowhere[4096];
	size_t room = channel_room(channel);
	bool lost = !room && !channel->attached;
	ssize_t count;

	if (!room && !lost)
		return;
	count = read(foreign->streams[place], lost ? nowhere : channel_payload(channel), lost ? sizeof nowhere : room);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (count <= 0) {
		close(foreign->streams[place]);
		foreign->streams[place] = -1;
	} else if (!lost) {
		channel_commit(channel, foreign->types[place], PROCESS_MAIN, (size_t)count);
	}
}

void foreign_poll(const struct foreign *foreign, bool room, struct pollfd fds[FOREIGN_FDS])
{
	for (int i = 0; i < FOREIGN_LISTENERS; i++)
		fds[i] = (struct pollfd){ .fd = foreign->listeners[i], .events = POLLIN };
	fds[FOREIGN_LISTENERS] = (struct pollfd){ .fd = foreign->born, .events = POLLIN };
	for (int i = 0; i < FOREIGN_STREAMS; i++)
		fds[FOREIGN_LISTENERS + 1 + i] =
			(struct pollfd){ .fd = room ? foreign->streams[i] : -1, .events = POLLIN };
}

void foreign_serve(struct foreign *foreign, const struct pollfd fds[FOREIGN_FDS], struct channel *channel)
{
	for (int i = 0; i < FOREIGN_STREAMS; i++)
		if (fds[FOREIGN_LISTENERS + 1 + i].revents)
			relay(foreign, i, channel);
	if (fds[LISTEN_STDOUT].revents)
		accept_stream(foreign, LISTEN_STDOUT);
	if (fds[LISTEN_STDERR].revents)
		accept_stream(foreign, LISTEN_STDERR);
	if (fds[LISTEN_AGENT].revents)
		take_word(foreign);
	if (fds[FOREIGN_LISTENERS].revents)
		take_birth(foreign);
}

bool foreign_drained(const struct foreign *foreign)
{
	for (int i = 0, waiting; i < FOREIGN_STREAMS; i++)
		if (foreign->streams[i] >= 0 && !ioctl(foreign->streams[i], FIONREAD, &waiting) && waiting)
			return clock_ms() >= foreign->drain_until;
	return true;
}

void foreign_stop(struct foreign *foreign, long long timeout_ms)
{
	struct process_config config = { .argv = foreign->config->stop, .env = (char *[]){ NULL }, .user = "", .cwd = "/" };
	struct process process;
	struct failure failure;

	if (foreign->give_up_at - clock_ms() > timeout_ms)
		foreign->give_up_at = clock_ms() + timeout_ms;
	if (foreign->asked)
		return;
	foreign->asked = true;
	if (!foreign->config->stop)
		kill(1, foreign->config->stop_signal);
	else if (process_start(&config, &process, &failure))
		log_line(LOG_LEVEL_WARNING, "%s", failure.message);
	else
		process_close(&process); /* whatever it says, we wait for the end */
}

/* --- for services -------------------------------------------------------------------------------------------------- */

static int connect_to(int listener)
{
	struct sockaddr_un address = address_of(listener);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) ? -1 : fd;
}

static int complain(const char *message)
{
	file_write_all(STDERR_FILENO, message, strlen(message));
	file_write_all(STDERR_FILENO, "\n", 1);
	return STATUS_MACHINE;
}

/* The parent's may be a shell, which has its background jobs ignore SIGINT and SIGQUIT, and shells heed that. */
static void default_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int command_connect(char **argv)
{
	int out = connect_to(LISTEN_STDOUT), error = connect_to(LISTEN_STDERR);
	struct failure failure;

	if (out < 0 || error < 0)
		return complain("firekiln: the agent doesn't answer");
	dup2(out, STDOUT_FILENO);
	dup2(error, STDERR_FILENO);
	default_signals();
	process_execute(argv, environ, &failure);
	complain(failure.message);
	return failure.status;
}

/* Inits that end all processes begin with a SIGTERM: this one has something to say first. */
static int command_exited(const char *word)
{
	sigset_t all;
	int fd;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	fd = connect_to(LISTEN_AGENT);

	if (fd < 0 || file_write_all(fd, word, strlen(word)))
		return complain("firekiln: the agent doesn't answer");
	return 0;
}

int foreign_command(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "connect"))
		return command_connect(argv + 2);
	if (argc == 3 && !strcmp(argv[1], "exited"))
		return command_exited(argv[2]);
	return complain("firekiln: the first process of a machine, nothing for people to start");
}
