#include "beside.h"

#include "clock.h"
#include "ending.h"

static void tell_init_started(struct service *service)
{
	struct task *task = service_main_task(service);

	if (service->foreign->failed) {
		task_tell_failure(PROCESS_MAIN, service->channel, &service->foreign->failure);
		service->over = true;
		return;
	}
	task->process.pid = 1;
	task_tell_start(task, service->channel, 0);
}

/* The service connects: it runs, perhaps anew. */
static void service_connected(struct service *service)
{
	struct task *task = service_main_task(service);

	service->started_at = clock_ms();
	if (service->waiting) {
		service->waiting = false;
		task->started = false;
		task->running = true;
		task_tell_start(task, service->channel, service->restart.count);
	}
	health_end(&service->health);
	health_begin(&service->health, service->machine);
}

static void service_exited(struct service *service)
{
	struct task *task = service_main_task(service);

	if (service->over || service->waiting)
		return;
	health_end(&service->health);
	task->running = false;
	task->status = service->foreign->status;
	ending_conclude(service);
	service->restart_at = NEVER; /* by its init, when that finds it right */
}

void beside_watch(struct service *service)
{
	struct foreign *foreign = service->foreign;

	if (foreign->running && !service_main_task(service)->started && !service->over && !service->waiting)
		tell_init_started(service);
	if (foreign->connected)
		service_connected(service);
	foreign->connected = false;
	if (foreign->exited && foreign_drained(foreign)) {
		foreign->exited = false;
		service_exited(service);
	}
	if (clock_ms() >= foreign->give_up_at)
		service->over = true;
}
