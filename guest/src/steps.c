#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "document.h"
#include "entropy.h"
#include "file.h"
#include "log.h"
#include "mounts.h"
#include "process.h"
#include "protocol.h"
#include "service.h"
#include "stepdrives.h"
#include "steproot.h"

#define GROUPS "/sys/fs/cgroup"
#define ATTACH_EVERY_MS 250

static struct {
	struct channel *channel;
	char *document; /* of the next step, as far as it has come */
	size_t length;
	char *order; /* the STEP that has come */
	size_t order_length;
	int processes; /* the namespace of process ids that we are in */
} steps;

/* --- in the step's own process ------------------------------------------------------------------------------------- */

/* A process's life: it reads the document, so that nothing of that stays when it has ended. */
static int run(void *context, int report)
{
	static struct machine machine;
	struct failure failure;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)context;
	memset(&failure, 0, sizeof failure);
	fcntl(report, F_SETFD, FD_CLOEXEC);
	dup2(null, STDIN_FILENO);
	if (!document_parse(steps.document, steps.length, &machine, &failure)) {
		if (machine.time_ns)
			clock_set(machine.time_ns);
		if (!step_enter(&machine, &failure) && !step_root(&machine, &failure))
			process_become(&machine.process, report);
	}
	report_failure(report, &failure);
	return failure.status;
}

/* --- between steps -------------------------------------------------------------------------------------------------- */

static void nothing(void)
{
}

/* Run the step whose document is there, to its end. Its processes have ids of their own, the first of them 1: they
 * end with that one. */
static void run_step(const struct json *order)
{
	static struct machine machine;
	struct failure failure;

	machine = (struct machine){ .channel = *steps.channel->config, .process = { .work = run } };
	if (step_drives_attach(json_get(order, "attach"), &failure)) {
		service_fail(steps.channel, &failure, nothing);
		return;
	}
	if (unshare(CLONE_NEWPID)) {
		fail(&failure, "process", errno, "a namespace for processes");
		service_fail(steps.channel, &failure, nothing);
		return;
	}
	service_run(&machine, steps.channel, NULL, nothing);
	setns(steps.processes, CLONE_NEWPID);
	rmdir(GROUPS "/step");
}

static void obey_step(void)
{
	size_t count = steps.order_length / 2 + 2;
	struct json *nodes = malloc(count * sizeof *nodes);
	const struct json *order = nodes ? json_parse(steps.order, steps.order_length, nodes, count) : NULL;
	const char *scratch = json_string(order, "scratch", "");
	bool released = true;

	if (order && steps.document)
		run_step(order);
	if (*scratch)
		released = step_drive_released(scratch);
	if (!released)
		sync(); /* something of the step's in the kernel holds it: what is written counts */
	step_drives_detach();
	channel_printf(steps.channel, FRAME_READY, PROCESS_NONE, "{\"released\":%s}", released ? "true" : "false");
	free(nodes);
	free(steps.document);
	free(steps.order);
	steps.document = steps.order = NULL;
	steps.length = 0;
}

/* Not obeyed at once: it lies in the buffer that the step's own frames come into. */
static void take_step(const struct frame *frame)
{
	if (steps.order || !(steps.order = malloc(frame->length + 1)))
		return;
	memcpy(steps.order, frame->payload, frame->length);
	steps.order_length = frame->length;
}

static void take_document(const struct frame *frame)
{
	if (!steps.document)
		steps.document = malloc(DOCUMENT_LIMIT + 1);
	if (!steps.document || frame->length > DOCUMENT_LIMIT - steps.length) {
		log_line(LOG_LEVEL_WARNING, "the document of a step is too long");
		return;
	}
	memcpy(steps.document + steps.length, frame->payload, frame->length);
	steps.length += frame->length;
	steps.document[steps.length] = '\0';
}

static void take_hello(const struct frame *frame)
{
	struct json nodes[32];
	const struct json *fields = json_parse((char *)frame->payload, frame->length, nodes, 32);
	const char *entropy = json_string(fields, "entropy", NULL);
	long long time_ns = json_integer(fields, "time_ns", 1, LLONG_MAX, 0);

	if (time_ns)
		clock_set(time_ns);
	if (entropy)
		entropy_credit(entropy);
}

static void take(void *context, const struct frame *frame)
{
	(void)context;
	switch (frame->type) {
	case FRAME_HELLO:
		take_hello(frame);
		break;
	case FRAME_DOCUMENT:
		take_document(frame);
		break;
	case FRAME_STEP:
		take_step(frame);
		break;
	}
}

static void prepare(void)
{
	static const char *const folders[] = { "/l", "/empty", "/scratch", "/root", "/stage" };

	for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
		mkdir(folders[i], 0755);
	steps.processes = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (!mount("cgroup2", GROUPS, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) {
		file_set(GROUPS "/cgroup.subtree_control", "+memory");
		file_set(GROUPS "/cgroup.subtree_control", "+pids");
		file_set(GROUPS "/cgroup.subtree_control", "+cpu");
	}
	mounts_empty_initramfs();
	mounts_links();
}

void steps_serve(struct channel *channel)
{
	bool had_host = false;

	steps.channel = channel;
	prepare();
	channel_printf(channel, FRAME_READY, PROCESS_NONE, "{\"released\":true}");
	while (channel->attached || !had_host) {
		struct pollfd fd = { .fd = channel->attached ? channel->fd : -1, .events = channel_events(channel) };

		had_host = had_host || channel->attached;
		if (poll(&fd, 1, channel->attached ? -1 : ATTACH_EVERY_MS) > 0)
			channel_serve(channel, fd.revents, take, NULL);
		if (steps.order)
			obey_step();
		channel_attach(channel);
		channel_flush(channel);
	}
}
