#include "orders.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>

#include "clock.h"
#include "copy.h"
#include "entropy.h"
#include "json.h"
#include "log.h"
#include "service.h"
#include "snapshot.h"
#include "statistics.h"

#define DEFAULT_STOP_MS 10000

/* --- new tasks ----------------------------------------------------------------------------------------------------- */

static void begin_task(struct service *service, unsigned number, enum task_kind kind, const struct json *fields)
{
	struct task *task = service_free_place(service);
	struct process_config config;
	struct process process;
	struct failure failure;
	int failed;

	if (!task || service->over || number <= PROCESS_MAIN || service_task(service, number)) {
		fail(&failure, "process", task ? EEXIST : EAGAIN, "process number %u", number);
		if (number > PROCESS_MAIN)
			task_tell_failure(number, service->channel, &failure);
		return;
	}
	if (kind == TASK_PROGRAM) {
		failed = document_exec(fields, &service->machine->process, &config, &failure);
		if (!failed) {
			failed = process_start(&config, &process, &failure);
			free(config.argv);
			free(config.env);
		}
	} else {
		failed = copy_start(kind, fields, &process, &failure);
	}
	if (failed)
		task_tell_failure(number, service->channel, &failure);
	else
		task_begin(task, number, kind, &process);
}

/* --- control frames ------------------------------------------------------------------------------------------------ */

static void take_hello(struct service *service, const struct json *fields)
{
	long long time_ns = json_integer(fields, "time_ns", 1, LLONG_MAX, 0);
	const char *entropy = json_string(fields, "entropy", NULL);

	service->greeted = true;
	if (time_ns)
		clock_set(time_ns);
	if (entropy)
		entropy_credit(entropy);
}

static void take_signal(struct service *service, const struct frame *frame, const struct json *fields)
{
	struct task *task = service_task(service, frame->process);
	int number = (int)json_integer(fields, "signal", 1, 64, 0);
	bool stop = frame->type == FRAME_STOP;
	bool ends = stop || json_true(fields, "ends");

	if (!task || !number || frame->process == PROCESS_NONE)
		return; /* perhaps it has just ended */
	service_signal(service, task, number,
		       stop ? json_integer(fields, "timeout_ms", 0, INT_MAX, DEFAULT_STOP_MS) : -1);
	if (ends && frame->process == PROCESS_MAIN)
		service_forbid_restart(service);
}

static void resize(struct service *service, unsigned number, const struct json *fields)
{
	struct task *task = service_task(service, number);

	if (task && number != PROCESS_NONE)
		process_resize(&task->process, (int)json_integer(fields, "rows", 0, 65535, 0),
			       (int)json_integer(fields, "columns", 0, 65535, 0));
}

static void obey(struct service *service, const struct frame *frame, const struct json *fields)
{
	switch (frame->type) {
	case FRAME_HELLO:
		take_hello(service, fields);
		break;
	case FRAME_SHUTDOWN:
		service->acknowledged = true;
		service_kill_all(service);
		break;
	case FRAME_SIGNAL:
	case FRAME_STOP:
		take_signal(service, frame, fields);
		break;
	case FRAME_RESIZE:
		resize(service, frame->process, fields);
		break;
	case FRAME_EXEC:
		begin_task(service, frame->process, TASK_PROGRAM, fields);
		break;
	case FRAME_READ:
		begin_task(service, frame->process, TASK_READ, fields);
		break;
	case FRAME_WRITE:
		begin_task(service, frame->process, TASK_WRITE, fields);
		break;
	case FRAME_STAT:
		begin_task(service, frame->process, TASK_STAT, fields);
		break;
	case FRAME_STATS:
		statistics_send(service->channel);
		break;
	case FRAME_TOP:
		statistics_send_processes(service->channel);
		break;
	}
}

static void take_control(struct service *service, const struct frame *frame)
{
	size_t count = frame->length / 2 + 2;
	struct json *nodes = frame->length <= CONTROL_LIMIT ? malloc(count * sizeof *nodes) : NULL;
	const struct json *fields = NULL;

	if (nodes)
		fields = json_parse((char *)frame->payload, frame->length, nodes, count);
	if (fields)
		obey(service, frame, fields);
	else
		log_line(LOG_LEVEL_WARNING, "the host sent a control frame that is no JSON");
	free(nodes);
}

/* --- all frames ---------------------------------------------------------------------------------------------------- */

static void take_credit(struct service *service, const struct frame *frame)
{
	struct task *task = service_task(service, frame->process);
	const unsigned char *at = frame->payload;

	if (task && frame->length == 4)
		task_credit(task, at[0] | (size_t)at[1] << 8 | (size_t)at[2] << 16 | (size_t)at[3] << 24);
}

void orders_take(void *context, const struct frame *frame)
{
	struct service *service = context;
	struct task *task = frame->process == PROCESS_NONE ? NULL : service_task(service, frame->process);

	switch (frame->type) {
	case FRAME_PING:
		channel_send(service->channel, FRAME_PONG, PROCESS_NONE, frame->payload,
			     frame->length < CONTROL_LIMIT ? frame->length : CONTROL_LIMIT);
		break;
	case FRAME_STDIN:
		if (task)
			task_take_input(task, service->channel, frame->payload, frame->length);
		break;
	case FRAME_CREDIT:
		take_credit(service, frame);
		break;
	case FRAME_CLOSE:
		if (task && task->number != PROCESS_MAIN)
			task_hang_up(task, service->channel);
		break;
	case FRAME_FREEZE:
		snapshot_freeze(service);
		break;
	case FRAME_THAW:
		snapshot_thaw(service, frame);
		break;
	default:
		if (frame->type < FRAME_STDIN || frame->type >= FRAME_READ)
			take_control(service, frame);
	}
}
