#include "health.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "text.h"

#define NEVER LLONG_MAX
#define TIMED_OUT -1 /* Docker's exit code of a check that took too long */

static void schedule(struct health *health)
{
	long long now = clock_ms();
	bool soon = health->status == HEALTH_STARTING && now - health->started_at < health->config->start_period_ms;

	health->next_at = now + (soon ? health->config->start_interval_ms : health->config->interval_ms);
}

void health_begin(struct health *health, const struct machine *machine)
{
	health->config = &machine->health;
	health->process = &machine->process;
	health->status = HEALTH_STARTING;
	health->streak = 0;
	health->running = false;
	health->started_at = clock_ms();
	health->kill_at = health->next_at = NEVER;
	health->check = (struct process){ .input = -1, .output = -1, .error = -1, .report = -1 };
	if (health->config->argv)
		schedule(health);
}

static void kill_check(const struct health *health)
{
	kill(-health->check.pid, SIGKILL); /* it leads a group of its own */
	kill(health->check.pid, SIGKILL); /* or has not come to that */
}

void health_end(struct health *health)
{
	if (!health->config)
		return;
	if (health->running)
		kill_check(health);
	process_close(&health->check);
	health->running = false;
	health->next_at = health->kill_at = NEVER;
}

long long health_deadline(const struct health *health)
{
	if (!health->config)
		return NEVER;
	return health->next_at < health->kill_at ? health->next_at : health->kill_at;
}

void health_count(struct health *health, bool success, long long age_ms)
{
	if (success) {
		health->streak = 0;
		health->status = HEALTH_HEALTHY;
		return;
	}
	if (health->status == HEALTH_STARTING && age_ms < health->config->start_period_ms)
		return;
	health->streak++;
	if (health->streak >= health->config->retries)
		health->status = HEALTH_UNHEALTHY;
}

/* The check is over, with its exit status or TIMED_OUT. */
static void conclude(struct health *health, int code, struct channel *channel)
{
	static const char *const names[] = { "starting", "healthy", "unhealthy" };
	static char json[CONTROL_LIMIT];
	struct text text = text_in(json, sizeof json);

	health_count(health, code == 0, health->check_started_at - health->started_at);
	text_printf(&text, "{\"status\":\"%s\",\"streak\":%d,\"start_ns\":%lld,\"end_ns\":%lld,\"code\":%d,\"output\":",
		    names[health->status], health->streak, health->check_start_ns, clock_realtime_ns(), code);
	text_quote_some(&text, health->output, health->length, 2);
	text_printf(&text, "}");
	channel_send(channel, FRAME_HEALTH, PROCESS_MAIN, json, text.length);
	process_close(&health->check);
	health->kill_at = NEVER;
	schedule(health);
}

static void put_message(struct health *health, const struct failure *failure)
{
	size_t length = strlen(failure->message);

	health->length = length < sizeof health->output ? length : sizeof health->output;
	memcpy(health->output, failure->message, health->length);
	health->exit_status = failure->status;
	health->failed_start = true;
}

static void start_check(struct health *health, struct channel *channel)
{
	struct process_config config = *health->process;
	struct failure failure;

	config.argv = health->config->argv;
	config.open_stdin = config.console = config.make_cwd = config.tty.wanted = false;
	health->check_started_at = clock_ms();
	health->check_start_ns = clock_realtime_ns();
	health->length = 0;
	health->failed_start = health->timed_out = false;
	health->next_at = NEVER;
	health->running = !process_start(&config, &health->check, &failure);
	health->kill_at = health->check_started_at + health->config->timeout_ms;
	if (health->running)
		return;
	put_message(health, &failure);
	conclude(health, failure.status, channel);
}

/* What doesn't fit is read all the same, so that the check isn't held up. */
static void take_output(struct health *health, int *fd)
{
	char rest[1024];
	size_t room = sizeof health->output - health->length;
	ssize_t count = read(*fd, room ? health->output + health->length : rest, room ? room : sizeof rest);

	if (count > 0 && room)
		health->length += (size_t)count;
	if (count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	close(*fd);
	*fd = -1;
}

static void take_report(struct health *health)
{
	static struct report report;
	int got;

	while ((got = process_report(&health->check, &report)) > 0)
		if (report.kind == REPORT_FAILURE)
			put_message(health, &report.failure);
	if (got == 0)
		return;
	close(health->check.report);
	health->check.report = -1;
}

bool health_reaped(struct health *health, pid_t pid, int status)
{
	if (!health->running || pid != health->check.pid)
		return false;
	health->running = false;
	if (!health->failed_start)
		health->exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return true;
}

void health_poll(const struct health *health, struct pollfd fds[HEALTH_FDS])
{
	bool open = health->config != NULL;

	fds[0] = (struct pollfd){ .fd = open ? health->check.report : -1, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = open ? health->check.output : -1, .events = POLLIN };
	fds[2] = (struct pollfd){ .fd = open ? health->check.error : -1, .events = POLLIN };
}

void health_step(struct health *health, const struct pollfd fds[HEALTH_FDS], struct channel *channel)
{
	bool reported;

	if (!health->config)
		return;
	if (fds[0].revents && health->check.report >= 0)
		take_report(health);
	if (fds[1].revents && health->check.output >= 0)
		take_output(health, &health->check.output);
	if (fds[2].revents && health->check.error >= 0)
		take_output(health, &health->check.error);
	if (clock_ms() >= health->kill_at) {
		health->kill_at = NEVER;
		health->timed_out = health->running;
		if (health->running)
			kill_check(health);
		else /* it has ended, but left somebody who holds its output */
			process_close(&health->check);
	}
	reported = health->check.report < 0 && health->check.output < 0 && health->check.error < 0;
	if (health->next_at == NEVER && !health->running && (reported || health->timed_out) && health->check.pid) {
		conclude(health, health->timed_out ? TIMED_OUT : health->exit_status, channel);
		health->check.pid = 0;
	}
	if (clock_ms() >= health->next_at)
		start_check(health, channel);
}
