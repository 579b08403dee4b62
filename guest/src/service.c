#include "service.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "json.h"
#include "log.h"
#include "mounts.h"
#include "process.h"

#define NEVER LLONG_MAX
#define ATTACH_EVERY_MS 250
#define DRAIN_MS 2000	     /* for output after the process's end: a device may hold its pipe */
#define ABSENT_MS 1000	     /* how long the end waits for a host that isn't there, */
#define STALLED_MS 5000	     /* and for one that doesn't read */
#define CONTROL_NODES 256

struct service {
	const struct machine *machine;
	struct channel *channel;
	struct process process;
	int signals;
	bool running;
	bool greeted;	   /* the host's HELLO came */
	bool acknowledged; /* its SHUTDOWN came after our last word */
	bool ordered;	   /* it is the host that had the process killed */
	int status;	   /* of waitpid */
	long long kill_at;
	bool input_ended;
	size_t input_start, input_length;
	unsigned char input[STDIN_WINDOW];
};

static sigset_t handled_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);  /* control-alt-delete, Firecracker's way to ask for an end */
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGPIPE); /* a process that closed its standard input: write says EPIPE */
	return set;
}

void service_block_signals(void)
{
	sigset_t set = handled_signals();

	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void stop(struct service *service, int number, long long timeout_ms)
{
	if (!service->running)
		return;
	service->ordered = service->ordered || number == SIGKILL;
	kill(service->process.pid, number);
	if (timeout_ms < service->kill_at - clock_ms())
		service->kill_at = clock_ms() + timeout_ms;
}

static void kill_all(void)
{
	if (getpid() == 1) /* anywhere else it would be the wrong machine */
		kill(-1, SIGKILL);
}

/* --- standard input ------------------------------------------------------------------------------------------------ */

static void grant(struct service *service, size_t count)
{
	unsigned char number[4];

	for (int i = 0; i < 4; i++)
		number[i] = (unsigned char)(count >> 8 * i);
	if (count)
		channel_send(service->channel, FRAME_CREDIT, PROCESS_MAIN, number, sizeof number);
}

static void close_input(struct service *service)
{
	if (service->process.input >= 0)
		close(service->process.input);
	service->process.input = -1;
	grant(service, service->input_length);
	service->input_length = 0;
}

static void feed_input(struct service *service)
{
	ssize_t count;

	if (service->process.input >= 0 && service->input_length) {
		count = write(service->process.input, service->input + service->input_start, service->input_length);
		if (count < 0 && errno != EAGAIN && errno != EINTR)
			close_input(service); /* nobody reads any more */
		if (count > 0) {
			service->input_start += (size_t)count;
			service->input_length -= (size_t)count;
			grant(service, (size_t)count);
		}
	}
	if (service->input_ended && !service->input_length)
		close_input(service);
}

static void take_input(struct service *service, const struct frame *frame)
{
	if (!frame->length) {
		service->input_ended = true;
	} else if (service->process.input < 0 || service->input_ended) {
		grant(service, frame->length); /* to nobody */
	} else if (frame->length <= STDIN_WINDOW - service->input_length) {
		memmove(service->input, service->input + service->input_start, service->input_length);
		service->input_start = 0;
		memcpy(service->input + service->input_length, frame->payload, frame->length);
		service->input_length += frame->length;
	} else {
		log_line(LOG_LEVEL_WARNING, "the host sent more standard input than it was granted");
	}
	feed_input(service);
}

/* --- from the host ------------------------------------------------------------------------------------------------- */

static void take_control(struct service *service, const struct frame *frame)
{
	struct json nodes[CONTROL_NODES];
	const struct json *fields = NULL;
	int number;

	if (frame->length <= CONTROL_LIMIT)
		fields = json_parse((char *)frame->payload, frame->length, nodes, CONTROL_NODES);
	if (!fields) {
		log_line(LOG_LEVEL_WARNING, "the host sent a control frame that is no JSON");
		return;
	}
	number = (int)json_integer(fields, "signal", 1, 64, 0);
	if (frame->type == FRAME_HELLO) {
		long long time_ns = json_integer(fields, "time_ns", 1, LLONG_MAX, 0);

		service->greeted = true;
		if (time_ns)
			clock_set(time_ns);
	} else if (frame->type == FRAME_SHUTDOWN) {
		service->acknowledged = true;
		service->ordered = true;
		if (service->running)
			kill_all();
	} else if (frame->process != PROCESS_MAIN || !number) {
		log_line(LOG_LEVEL_WARNING, "the host sent a signal for no process");
	} else if (frame->type == FRAME_SIGNAL && service->running) {
		service->ordered = service->ordered || number == SIGKILL;
		kill(service->process.pid, number);
	} else if (frame->type == FRAME_STOP) {
		stop(service, number, json_integer(fields, "timeout_ms", 0, INT_MAX, 10000));
	}
}

static void take_frame(void *context, const struct frame *frame)
{
	struct service *service = context;

	switch (frame->type) {
	case FRAME_PING:
		channel_send(service->channel, FRAME_PONG, PROCESS_NONE, frame->payload,
			     frame->length < CONTROL_LIMIT ? frame->length : CONTROL_LIMIT);
		break;
	case FRAME_STDIN:
		take_input(service, frame);
		break;
	case FRAME_HELLO:
	case FRAME_SHUTDOWN:
	case FRAME_SIGNAL:
	case FRAME_STOP:
		take_control(service, frame);
		break;
	default: /* a later version's */
		break;
	}
}

/* --- from the process ---------------------------------------------------------------------------------------------- */

/* Pass on what is there of one descriptor; its end is an empty frame. */
static void relay(struct service *service, int *fd, enum frame_type type)
{
	static unsigned char nowhere[4096];
	size_t room = channel_room(service->channel);
	bool lost = !room && !service->channel->attached;
	ssize_t count;

	if (!room && !lost)
		return;
	count = read(*fd, lost ? nowhere : channel_payload(service->channel), lost ? sizeof nowhere : room);

	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (count > 0) {
		if (!lost)
			channel_commit(service->channel, type, PROCESS_MAIN, (size_t)count);
		return;
	}
	channel_send(service->channel, type, PROCESS_MAIN, "", 0);
	close(*fd);
	*fd = -1;
}

static void reap(struct service *service)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (!service->running || pid != service->process.pid)
			continue;
		service->running = false;
		service->status = status;
		service->kill_at = NEVER;
		kill_all(); /* as a container ends with its first process */
	}
}

static void take_signals(struct service *service)
{
	struct signalfd_siginfo info;

	while (read(service->signals, &info, sizeof info) == (ssize_t)sizeof info)
		if (info.ssi_signo == SIGINT || info.ssi_signo == SIGTERM)
			stop(service, service->machine->process.stop_signal,
			     service->machine->process.stop_timeout_ms);
	reap(service);
}

/* One round: wait for something to happen, at most until `deadline`, and deal with it. */
static void step(struct service *service, long long deadline)
{
	struct channel *channel = service->channel;
	struct process *process = &service->process;
	/* While a host that is there doesn't read, neither do we: the process waits, as it would for a slow terminal. */
	bool relaying = !channel->attached || channel_room(channel) > 0;
	struct pollfd fds[] = {
		{ .fd = service->signals, .events = POLLIN },
		{ .fd = channel->attached ? channel->fd : -1, .events = channel_events(channel) },
		{ .fd = relaying ? process->output : -1, .events = POLLIN },
		{ .fd = relaying ? process->error : -1, .events = POLLIN },
		{ .fd = service->input_length ? process->input : -1, .events = POLLOUT },
	};
	long long now = clock_ms(), wait;

	if (!channel->attached && !channel->config->console && deadline > now + ATTACH_EVERY_MS)
		deadline = now + ATTACH_EVERY_MS;
	if (deadline > service->kill_at)
		deadline = service->kill_at;
	wait = deadline == NEVER ? -1 : deadline > now ? deadline - now : 0;
	if (poll(fds, sizeof fds / sizeof *fds, wait > INT_MAX ? INT_MAX : (int)wait) < 0)
		return;
	if (fds[0].revents)
		take_signals(service);
	if (fds[2].revents)
		relay(service, &process->output, FRAME_STDOUT);
	if (fds[3].revents)
		relay(service, &process->error, FRAME_STDERR);
	if (fds[1].revents)
		channel_serve(channel, fds[1].revents, take_frame, service);
	if (fds[4].revents)
		feed_input(service);
	channel_attach(channel);
	channel_flush(channel);
	if (clock_ms() >= service->kill_at) {
		service->kill_at = NEVER;
		service->ordered = true;
		kill(process->pid, SIGKILL);
	}
}

/* --- the story ----------------------------------------------------------------------------------------------------- */

static void begin(struct service *service, const struct machine *machine, struct channel *channel)
{
	sigset_t set = handled_signals();

	memset(service, 0, offsetof(struct service, input));
	service->machine = machine;
	service->channel = channel;
	service->process = (struct process){ .input = -1, .output = -1, .error = -1 };
	service->kill_at = NEVER;
	service->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

/* Our last word must find room, also where the host asked for much and read little. */
static void await_room(struct service *service)
{
	long long deadline = clock_ms() + STALLED_MS;

	while (service->channel->attached && !channel_room(service->channel) && clock_ms() < deadline)
		step(service, deadline);
}

/* Wait for the host to have read everything, while it makes progress, and to say so. */
static void finish(struct service *service)
{
	long long deadline = clock_ms() + STALLED_MS;
	size_t left = SIZE_MAX;

	if (service->channel->config->console) {
		mounts_finish();
		return;
	}
	service->acknowledged = false;
	channel_flush(service->channel); /* the news travel while the disk is being written */
	mounts_finish();
	while (!service->acknowledged && clock_ms() < deadline) {
		size_t queued = service->channel->out_end - service->channel->out_start;

		if (!service->channel->attached && deadline > clock_ms() + ABSENT_MS)
			deadline = clock_ms() + ABSENT_MS;
		else if (queued < left)
			deadline = clock_ms() + STALLED_MS;
		left = queued;
		step(service, deadline);
	}
}

/* Processes that the kernel has killed since it started because memory was short. */
static long long oom_kills(void)
{
	size_t length;
	char *text = file_read("/proc/vmstat", 1 << 20, &length);
	char *line = text ? strstr(text, "\noom_kill ") : NULL;
	long long count = line ? atoll(line + strlen("\noom_kill ")) : 0;

	free(text);
	return count;
}

/* For people, who have nothing but the console to look at. A reset would cut off what the line still holds. */
static void tell_console(int status)
{
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (WIFSIGNALED(status))
		dprintf(fd, "firekiln: the process was ended by signal %d\n", WTERMSIG(status));
	else
		dprintf(fd, "firekiln: the process ended with status %d\n", WEXITSTATUS(status));
	tcdrain(fd);
	close(fd);
}

static void tell_end(struct service *service)
{
	bool killed = WIFSIGNALED(service->status) && WTERMSIG(service->status) == SIGKILL && !service->ordered;
	bool oom = killed && oom_kills() > 0;

	if (service->channel->config->console) {
		tell_console(service->status);
		return;
	}
	await_room(service);
	if (WIFSIGNALED(service->status))
		channel_printf(service->channel, FRAME_EXITED, PROCESS_MAIN, "{\"signal\":%d,\"oom\":%s}",
			       WTERMSIG(service->status), oom ? "true" : "false");
	else
		channel_printf(service->channel, FRAME_EXITED, PROCESS_MAIN, "{\"code\":%d,\"oom\":%s}",
			       WEXITSTATUS(service->status), oom ? "true" : "false");
}

static void tell_failure(struct service *service, const struct failure *failure)
{
	char message[2048], stage[64];

	json_quote(failure->message, message, sizeof message);
	json_quote(failure->stage, stage, sizeof stage);
	channel_printf(service->channel, FRAME_FAILED, PROCESS_MAIN,
		       "{\"stage\":%s,\"errno\":%d,\"status\":%d,\"message\":%s}", stage, failure->error,
		       failure->status, message);
	finish(service);
}

void service_fail(struct channel *channel, const struct failure *failure)
{
	static struct service service;

	log_line(LOG_LEVEL_CRITICAL, "%s", failure->message);
	begin(&service, NULL, channel);
	channel_attach(channel);
	tell_failure(&service, failure);
}

void service_run(const struct machine *machine, struct channel *channel)
{
	static struct service service;
	struct failure failure;
	long long deadline = clock_ms() + machine->handshake_ms;

	begin(&service, machine, channel);
	channel_attach(channel);
	while (!service.greeted && clock_ms() < deadline)
		step(&service, channel->attached ? deadline : clock_ms() + 2);
	if (process_start(&machine->process, &service.process, &failure)) {
		tell_failure(&service, &failure);
		return;
	}
	service.running = true;
	channel_printf(channel, FRAME_STARTED, PROCESS_MAIN, "{\"pid\":%d,\"uid\":%u,\"uptime_ms\":%lld}",
		       service.process.pid, service.process.uid, clock_ms());
	channel_flush(channel);
	while (service.running)
		step(&service, NEVER);
	deadline = clock_ms() + DRAIN_MS;
	while ((service.process.output >= 0 || service.process.error >= 0) &&
	       (clock_ms() < deadline || (channel->attached && !channel_room(channel))))
		step(&service, deadline);
	tell_end(&service);
	finish(&service);
}
