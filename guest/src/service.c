#include "service.h"

#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "beside.h"
#include "clock.h"
#include "ending.h"
#include "log.h"
#include "orders.h"

#define ATTACH_EVERY_MS 250
#define OTHERS_MS 1000	/* for processes beside the first, which end with it */
#define FIRST_FDS (2 + HEALTH_FDS + FOREIGN_FDS)
#define MAX_FDS (FIRST_FDS + MAX_TASKS * TASK_FDS)

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

struct task *service_main_task(struct service *service)
{
	return &service->tasks[0];
}

struct task *service_task(struct service *service, unsigned number)
{
	for (size_t i = 0; i < MAX_TASKS; i++)
		if (service->tasks[i].number == number)
			return &service->tasks[i];
	return NULL;
}

struct task *service_free_place(struct service *service)
{
	for (size_t i = 1; i < MAX_TASKS; i++)
		if (service->tasks[i].number == PROCESS_NONE)
			return &service->tasks[i];
	return NULL;
}

/* --- orders -------------------------------------------------------------------------------------------------------- */

void service_signal(struct service *service, struct task *task, int number, long long timeout_ms)
{
	pid_t pid = service->foreign && task == service_main_task(service) ? service->foreign->service : task->process.pid;

	if (!task->running)
		return;
	if (service->foreign && task == service_main_task(service) && timeout_ms >= 0) {
		foreign_stop(service->foreign, timeout_ms);
		return;
	}
	task->ordered = task->ordered || number == SIGKILL;
	if (pid > 0)
		kill(pid, number);
	if (timeout_ms >= 0 && timeout_ms < task->kill_at - clock_ms())
		task->kill_at = clock_ms() + timeout_ms;
}

void service_forbid_restart(struct service *service)
{
	service->stopping = true;
	if (!service->waiting)
		return;
	service->waiting = false;
	service->over = true;
	task_tell_end(service_main_task(service), service->channel, -1);
}

static void kill_everyone(void)
{
	if (getpid() == 1) /* anywhere else it would be the wrong machine */
		kill(-1, SIGKILL);
}

void service_kill_all(struct service *service)
{
	if (service->over)
		return;
	if (service->foreign) { /* without EXITED: there is nobody to be asked */
		service->over = service->stopping = true;
		return;
	}
	for (size_t i = 0; i < MAX_TASKS; i++)
		if (service->tasks[i].number != PROCESS_NONE)
			service_signal(service, &service->tasks[i], SIGKILL, -1);
	kill_everyone();
	service_forbid_restart(service);
}

/* --- the process --------------------------------------------------------------------------------------------------- */

static int start(struct service *service, struct failure *failure)
{
	struct process process;

	if (process_start(&service->machine->process, &process, failure))
		return -1;
	task_end(service_main_task(service));
	task_begin(service_main_task(service), PROCESS_MAIN, TASK_PROGRAM, &process);
	service->waiting = false;
	service->restart_at = NEVER;
	service->started_at = clock_ms();
	return 0;
}

static void start_again(struct service *service)
{
	struct task *task = service_main_task(service);
	struct failure failure;

	if (!start(service, &failure))
		return;
	task_tell_failure(task->number, service->channel, &failure);
	service->waiting = false;
	service->over = true;
}

/* --- rounds -------------------------------------------------------------------------------------------------------- */

static void reap(struct service *service)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (health_reaped(&service->health, pid, status))
			continue;
		for (size_t i = 0; i < MAX_TASKS; i++) {
			struct task *task = &service->tasks[i];

			if (task->number == PROCESS_NONE || !task->running || task->process.pid != pid)
				continue;
			task_reaped(task, status);
			if (i > 0)
				break;
			health_end(&service->health);
			kill_everyone(); /* as a container ends with its first process */
			break;
		}
	}
}

static void take_signals(struct service *service)
{
	struct signalfd_siginfo info;

	while (read(service->signals, &info, sizeof info) == (ssize_t)sizeof info) {
		if ((info.ssi_signo != SIGINT && info.ssi_signo != SIGTERM) || service->foreign)
			continue;
		service_signal(service, service_main_task(service), service->machine->process.stop_signal,
			       service->machine->process.stop_timeout_ms);
		service_forbid_restart(service);
	}
	reap(service);
}

static bool others_remain(const struct service *service)
{
	for (size_t i = 1; i < MAX_TASKS; i++)
		if (service->tasks[i].number != PROCESS_NONE && service->tasks[i].number != PROCESS_ORPHAN)
			return true;
	return false;
}

/* A host that has gone takes its clients along. */
void service_forget_host(struct service *service)
{
	for (size_t i = 1; i < MAX_TASKS; i++) {
		struct task *task = &service->tasks[i];

		if (task->number == PROCESS_NONE || task->number == PROCESS_ORPHAN)
			continue;
		task_hang_up(task, service->channel);
		task->number = PROCESS_ORPHAN;
	}
}

/* Say what is to be said, and let go what has ended. */
static void settle(struct service *service)
{
	struct task *task = service_main_task(service);
	long long now = clock_ms();

	if (service->had_host && !service->channel->attached)
		service_forget_host(service);
	service->had_host = service->channel->attached;
	for (size_t i = 0; i < MAX_TASKS; i++) {
		struct task *other = &service->tasks[i];

		if (other->number == PROCESS_NONE)
			continue;
		if (now >= other->kill_at) {
			other->kill_at = NEVER;
			service_signal(service, other, SIGKILL, -1);
		}
		if (i == 0 || !task_over(other, service->channel))
			continue;
		if (other->number != PROCESS_ORPHAN && (other->kind != TASK_STAT || other->failed))
			task_tell_end(other, service->channel, -1);
		task_end(other);
	}
	if (service->foreign)
		beside_watch(service);
	if (service->waiting && now >= service->restart_at)
		start_again(service);
	else if (!service->foreign && task->number == PROCESS_MAIN && !service->waiting && !service->over &&
		 task_over(task, service->channel) && (!others_remain(service) || getpid() != 1 || now >= task->drain_until))
		ending_conclude(service);
}

static long long next_deadline(const struct service *service, long long deadline)
{
	long long health = health_deadline(&service->health), now = clock_ms();

	if (service->frozen && service->channel->attached)
		return NEVER;
	if (service->foreign && deadline > service->foreign->give_up_at)
		deadline = service->foreign->give_up_at;
	if (service->foreign && service->foreign->exited && deadline > service->foreign->drain_until)
		deadline = service->foreign->drain_until;

	if (!service->channel->attached && !service->channel->config->console && deadline > now + ATTACH_EVERY_MS)
		deadline = now + ATTACH_EVERY_MS;
	if (service->waiting && deadline > service->restart_at)
		deadline = service->restart_at;
	for (size_t i = 0; i < MAX_TASKS; i++) {
		const struct task *task = &service->tasks[i];

		if (task->number == PROCESS_NONE || service->over)
			continue;
		if (deadline > task->kill_at)
			deadline = task->kill_at;
		if (!task->running && task->drain_until > now && deadline > task->drain_until)
			deadline = task->drain_until;
	}
	return deadline < health ? deadline : health;
}

/* What the tasks wait for, one after the other. Returns how many descriptors that are. */
static size_t gather(struct service *service, struct pollfd *fds)
{
	/* While a host that is there doesn't read, neither do we: processes wait, as they would for a slow terminal. */
	bool room = !service->channel->attached || channel_room(service->channel) > 0;
	size_t used = FIRST_FDS;

	fds[0] = (struct pollfd){ .fd = service->signals, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = service->channel->attached ? service->channel->fd : -1,
				  .events = channel_events(service->channel) };
	if (service->frozen)
		return 2;
	health_poll(&service->health, fds + 2);
	for (size_t i = 2 + HEALTH_FDS; !service->foreign && i < FIRST_FDS; i++)
		fds[i].fd = -1;
	if (service->foreign)
		foreign_poll(service->foreign, room, fds + 2 + HEALTH_FDS);
	for (size_t i = 0; i < MAX_TASKS; i++) {
		if (service->tasks[i].number == PROCESS_NONE)
			continue;
		task_poll(&service->tasks[i], room, fds + used);
		used += TASK_FDS;
	}
	return used;
}

static void tell_main_started(struct service *service)
{
	struct task *task = service_main_task(service);
	bool before = task->started;

	task_tell_start(task, service->channel, service->restart.count);
	if (task->started && !before)
		health_begin(&service->health, service->machine);
}

/* What came from others than the host and the kernel. */
static void serve(struct service *service, const struct pollfd *fds)
{
	size_t used = FIRST_FDS;

	for (size_t i = 0; i < MAX_TASKS; i++) {
		if (service->tasks[i].number == PROCESS_NONE)
			continue;
		task_serve(&service->tasks[i], service->channel, fds + used);
		if (i > 0)
			task_tell_start(&service->tasks[i], service->channel, 0);
		else if (!service->foreign)
			tell_main_started(service);
		used += TASK_FDS;
	}
	if (service->foreign)
		foreign_serve(service->foreign, fds + 2 + HEALTH_FDS, service->channel);
}

void service_step(struct service *service, long long deadline)
{
	static struct pollfd fds[MAX_FDS];
	struct channel *channel = service->channel;
	size_t count = gather(service, fds);
	bool frozen = service->frozen;
	long long wait;

	deadline = next_deadline(service, deadline);
	wait = deadline == NEVER ? -1 : deadline - clock_ms();
	if (poll(fds, count, deadline == NEVER ? -1 : wait < 0 ? 0 : wait > INT_MAX ? INT_MAX : (int)wait) < 0)
		return;
	if (!frozen)
		serve(service, fds);
	if (fds[0].revents)
		take_signals(service);
	if (!frozen)
		health_step(&service->health, fds + 2, channel); /* behind the reaping of its check */
	if (fds[1].revents)
		channel_serve(channel, fds[1].revents, orders_take, service);
	channel_attach(channel);
	if (!service->frozen)
		settle(service);
	channel_flush(channel);
}

/* --- the story ----------------------------------------------------------------------------------------------------- */

static void begin(struct service *service, const struct machine *machine, struct channel *channel)
{
	sigset_t set = handled_signals();

	memset(service, 0, sizeof *service);
	service->machine = machine;
	service->channel = channel;
	service->restart_at = NEVER;
	service->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

void service_fail(struct channel *channel, const struct failure *failure, void (*sync)(void))
{
	static struct service service;

	log_line(LOG_LEVEL_CRITICAL, "%s", failure->message);
	begin(&service, NULL, channel);
	channel_attach(channel);
	task_tell_failure(PROCESS_MAIN, channel, failure);
	ending_finish(&service, sync);
	close(service.signals);
}

void service_run(const struct machine *machine, struct channel *channel, struct foreign *foreign, void (*sync)(void))
{
	static struct service service;
	struct failure failure;
	long long deadline = clock_ms() + machine->handshake_ms;

	begin(&service, machine, channel);
	channel_attach(channel);
	while (!service.greeted && clock_ms() < deadline)
		service_step(&service, channel->attached ? deadline : clock_ms() + 2);
	if (service.stopping) {
		ending_finish(&service, sync);
		close(service.signals);
		return;
	}
	if (foreign) {
		struct process none = { .input = -1, .output = -1, .error = -1, .report = -1 };

		service.foreign = foreign;
		task_begin(service_main_task(&service), PROCESS_MAIN, TASK_PROGRAM, &none);
		service_main_task(&service)->starting = false;
	} else if (start(&service, &failure)) {
		close(service.signals);
		service_fail(channel, &failure, sync);
		return;
	}
	while (!service.over)
		service_step(&service, NEVER);
	ending_finish(&service, sync);
	close(service.signals);
}
