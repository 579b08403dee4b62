#include "task.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "format.h"
#include "log.h"
#include "oom.h"
#include "text.h"

#define NEVER LLONG_MAX
#define DRAIN_MS 2000	   /* for output after the process's end: a device may hold its pipe */
#define EXEC_DRAIN_MS 500 /* and for that of others, whose clients wait */
#define READS 8		   /* in one round, so that one process can't starve others */

void task_begin(struct task *task, unsigned number, enum task_kind kind, const struct process *process)
{
	*task = (struct task){ .number = number,
			       .kind = kind,
			       .process = *process,
			       .starting = true,
			       .running = true,
			       .kill_at = NEVER,
			       .window = number == PROCESS_MAIN ? SIZE_MAX : OUTPUT_WINDOW };
}

void task_end(struct task *task)
{
	process_close(&task->process);
	free(task->input);
	free(task->failure);
	*task = (struct task){ .number = PROCESS_NONE };
}

/* --- standard input ------------------------------------------------------------------------------------------------ */

static void grant(const struct task *task, struct channel *channel, size_t count)
{
	unsigned char number[4];

	for (int i = 0; i < 4; i++)
		number[i] = (unsigned char)(count >> 8 * i);
	if (count)
		channel_send(channel, FRAME_CREDIT, task->number, number, sizeof number);
}

static void close_input(struct task *task, struct channel *channel)
{
	if (task->process.input >= 0)
		close(task->process.input);
	task->process.input = -1;
	grant(task, channel, task->input_length);
	task->input_length = 0;
}

static void feed_input(struct task *task, struct channel *channel)
{
	ssize_t count;

	if (task->process.input >= 0 && task->input_length) {
		count = write(task->process.input, task->input + task->input_start, task->input_length);
		if (count < 0 && errno != EAGAIN && errno != EINTR)
			close_input(task, channel); /* nobody reads any more */
		if (count > 0) {
			task->input_start += (size_t)count;
			task->input_length -= (size_t)count;
			grant(task, channel, (size_t)count);
		}
	}
	if (task->input_ended && !task->input_length)
		close_input(task, channel);
}

void task_take_input(struct task *task, struct channel *channel, const unsigned char *data, size_t length)
{
	if (length && !task->input)
		task->input = malloc(STDIN_WINDOW);
	if (!length) {
		task->input_ended = true;
	} else if (task->process.input < 0 || task->input_ended || !task->input) {
		grant(task, channel, length); /* to nobody */
	} else if (length <= STDIN_WINDOW - task->input_length) {
		memmove(task->input, task->input + task->input_start, task->input_length);
		task->input_start = 0;
		memcpy(task->input + task->input_length, data, length);
		task->input_length += length;
	} else {
		log_line(LOG_LEVEL_WARNING, "the host sent more standard input than it was granted");
	}
	feed_input(task, channel);
}

/* --- output -------------------------------------------------------------------------------------------------------- */

void task_credit(struct task *task, size_t count)
{
	if (task->number != PROCESS_MAIN && count <= OUTPUT_WINDOW - task->window)
		task->window += count;
}

static void end_output(const struct task *task, struct channel *channel, int *fd, enum frame_type type)
{
	close(*fd);
	*fd = -1;
	if (!task->closed)
		channel_send(channel, type, task->number, "", 0);
}

/* Pass on what is there of one descriptor; its end is an empty frame. Whether there may be more. */
static bool relay(struct task *task, struct channel *channel, int *fd, enum frame_type type)
{
	static unsigned char nowhere[4096];
	size_t room = channel_room(channel);
	bool lost = task->closed || (!room && !channel->attached);
	ssize_t count;

	if (room > task->window)
		room = task->window;
	if (!room && !lost)
		return false;
	count = read(*fd, lost ? nowhere : channel_payload(channel), lost ? sizeof nowhere : room);
	if (count < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (count <= 0) { /* a terminal that nobody has open any more says EIO */
		end_output(task, channel, fd, type);
		return false;
	}
	if (!lost)
		channel_commit(channel, type, task->number, (size_t)count);
	if (!lost && task->number != PROCESS_MAIN)
		task->window -= (size_t)count;
	return true;
}

void task_hang_up(struct task *task, struct channel *channel)
{
	task->closed = true;
	task->input_length = 0;
	task->input_ended = true;
	close_input(task, channel);
	if (task->process.output >= 0)
		end_output(task, channel, &task->process.output, FRAME_STDOUT);
	if (task->process.error >= 0)
		end_output(task, channel, &task->process.error, FRAME_STDERR);
	if (task->kind != TASK_PROGRAM && task->running)
		kill(task->process.pid, SIGKILL);
}

/* --- its start ----------------------------------------------------------------------------------------------------- */

static void take_failure(struct task *task, const struct failure *failure)
{
	task->failed = true;
	if (!task->failure)
		task->failure = malloc(sizeof *task->failure);
	if (task->failure)
		*task->failure = *failure;
}

static void take_reports(struct task *task, struct channel *channel)
{
	static struct report report; /* 16 KiB */
	int got;

	while ((got = process_report(&task->process, &report)) > 0) {
		if (report.kind == REPORT_USER)
			task->uid = report.uid;
		else if (report.kind == REPORT_FAILURE)
			take_failure(task, &report.failure);
		else if (!task->closed)
			channel_send(channel, FRAME_STAT, task->number, report.stat, strlen(report.stat));
		if (report.kind == REPORT_STAT)
			task->starting = false;
	}
	if (got == 0)
		return;
	task->starting = false;
	close(task->process.report);
	task->process.report = -1;
	if (task->failed && task->kind == TASK_PROGRAM)
		process_close(&task->process);
}

/* --- rounds -------------------------------------------------------------------------------------------------------- */

void task_poll(const struct task *task, bool room, struct pollfd fds[TASK_FDS])
{
	/* A start that failed has no output, and a READ's comes behind its STAT. */
	bool relaying = !task->starting && (task->closed || (room && task->window));

	fds[0] = (struct pollfd){ .fd = task->process.report, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = relaying ? task->process.output : -1, .events = POLLIN };
	fds[2] = (struct pollfd){ .fd = relaying ? task->process.error : -1, .events = POLLIN };
	fds[3] = (struct pollfd){ .fd = task->input_length ? task->process.input : -1, .events = POLLOUT };
}

void task_serve(struct task *task, struct channel *channel, const struct pollfd fds[TASK_FDS])
{
	if (fds[0].revents && task->process.report >= 0)
		take_reports(task, channel);
	for (int i = 0; fds[1].revents && task->process.output >= 0 && i < READS; i++)
		if (!relay(task, channel, &task->process.output, FRAME_STDOUT))
			break;
	for (int i = 0; fds[2].revents && task->process.error >= 0 && i < READS; i++)
		if (!relay(task, channel, &task->process.error, FRAME_STDERR))
			break;
	if (fds[3].revents)
		feed_input(task, channel);
}

void task_reaped(struct task *task, int status)
{
	task->running = false;
	task->status = status;
	task->kill_at = NEVER;
	task->drain_until = clock_ms() + (task->number == PROCESS_MAIN ? DRAIN_MS : EXEC_DRAIN_MS);
}

bool task_over(const struct task *task, const struct channel *channel)
{
	bool blocked = channel->attached && !task->closed && !task->window;

	if (task->running || task->process.report >= 0)
		return false;
	if (task->process.output < 0 && task->process.error < 0)
		return true;
	return !blocked && clock_ms() >= task->drain_until;
}

void task_tell_start(struct task *task, struct channel *channel, unsigned long restarts)
{
	char tail[48] = "";

	if (task->starting || task->started || task->failed || task->kind != TASK_PROGRAM)
		return;
	task->started = true;
	if (restarts)
		format_text(tail, sizeof tail, ",\"restarts\":%lu", restarts);
	channel_printf(channel, FRAME_STARTED, task->number, "{\"pid\":%d,\"uid\":%u,\"uptime_ms\":%lld%s}",
		       task->process.pid, task->uid, clock_ms(), tail);
}

/* --- its end ------------------------------------------------------------------------------------------------------- */

void task_tell_failure(unsigned number, struct channel *channel, const struct failure *failure)
{
	char json[6144 + 256];
	struct text text = text_in(json, sizeof json);

	text_printf(&text, "{\"stage\":\"%s\",\"errno\":%d,\"status\":%d,\"message\":", failure->stage, failure->error,
		    failure->status);
	text_quote_some(&text, failure->message, strlen(failure->message), 2);
	text_printf(&text, "}");
	channel_send(channel, FRAME_FAILED, number, json, text.length);
}

void task_tell_end(const struct task *task, struct channel *channel, long long again)
{
	struct failure unknown;
	bool signaled = WIFSIGNALED(task->status);
	char tail[48] = "";
	bool oom;

	if (task->failed) {
		fail(&unknown, "process", ENOMEM, "starting it");
		task_tell_failure(task->number, channel, task->failure ? task->failure : &unknown);
		return;
	}
	oom = !task->ordered && oom_killed(task->process.pid, task->status);
	if (again >= 0)
		format_text(tail, sizeof tail, ",\"again\":%lld", again);
	channel_printf(channel, FRAME_EXITED, task->number, "{\"%s\":%d,\"oom\":%s%s}", signaled ? "signal" : "code",
		       signaled ? WTERMSIG(task->status) : WEXITSTATUS(task->status), oom ? "true" : "false", tail);
}
