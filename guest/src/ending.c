#include "ending.h"

#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "format.h"

#define ABSENT_MS 1000	/* how long the end waits for a host that isn't there, */
#define STALLED_MS 5000 /* and for one that doesn't read */
#define POWER_OFF_MS 10000 /* for an init of the image's */

/* Our last word must find room, also where the host asked for much and read little. */
static void await_room(struct service *service)
{
	long long deadline = clock_ms() + STALLED_MS;

	while (service->channel->attached && !channel_room(service->channel) && clock_ms() < deadline) {
		struct pollfd writable = { .fd = service->channel->fd, .events = POLLOUT };

		poll(&writable, 1, (int)(deadline - clock_ms()));
		channel_flush(service->channel);
	}
}

/* Wait for the host to have read everything, while it makes progress, and to say so. */
static void await_host(struct service *service)
{
	long long deadline = clock_ms() + STALLED_MS;
	size_t left = SIZE_MAX;

	while (!service->acknowledged && clock_ms() < deadline) {
		size_t queued = service->channel->out_end - service->channel->out_start;

		if (!service->channel->attached && deadline > clock_ms() + ABSENT_MS)
			deadline = clock_ms() + ABSENT_MS;
		else if (queued < left)
			deadline = clock_ms() + STALLED_MS;
		left = queued;
		service_step(service, deadline);
	}
}

/* For people, who have nothing but the console to look at. A reset would cut off what the line still holds. */
static void tell_console(const struct task *task)
{
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	char line[sizeof task->failure->message + 32];
	int length;

	if (fd < 0)
		return;
	if (task->failed)
		length = format_text(line, sizeof line, "firekiln: %s\n",
				     task->failure ? task->failure->message : "out of memory");
	else if (WIFSIGNALED(task->status))
		length = format_text(line, sizeof line, "firekiln: the process was ended by signal %d\n",
				     WTERMSIG(task->status));
	else
		length = format_text(line, sizeof line, "firekiln: the process ended with status %d\n",
				     WEXITSTATUS(task->status));
	file_write_all(fd, line, (size_t)length);
	tcdrain(fd);
	close(fd);
}

void ending_conclude(struct service *service)
{
	struct task *task = service_main_task(service);
	bool success = !task->failed && WIFEXITED(task->status) && WEXITSTATUS(task->status) == 0;
	long long again = -1;

	if (!service->stopping && !task->failed)
		again = restart_after(&service->restart, &service->machine->restart, success,
				      clock_ms() - service->started_at);
	if (service->channel->config->console) {
		tell_console(task);
	} else {
		await_room(service);
		task_tell_end(task, service->channel, again);
	}
	service->waiting = again >= 0;
	service->over = again < 0;
	if (service->waiting)
		service->restart_at = clock_ms() + again;
}

/* The service has ended, or the init has been given up: the former is its matter first. */
static void finish_foreign(struct service *service)
{
	struct foreign *foreign = service->foreign;

	if (service_main_task(service)->running)
		return;
	await_host(service);
	foreign_stop(foreign, POWER_OFF_MS);
	while (clock_ms() < foreign->give_up_at)
		service_step(service, foreign->give_up_at);
}

void ending_finish(struct service *service, void (*sync)(void))
{
	bool beside = service->foreign && !service->foreign->failed;

	service->over = true;
	service->acknowledged = false;
	channel_flush(service->channel); /* the news travel while the disk is being written */
	if (beside)
		finish_foreign(service);
	sync();
	if (!beside && !service->channel->config->console)
		await_host(service);
}
