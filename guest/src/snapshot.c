#include "snapshot.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "entropy.h"
#include "file.h"
#include "format.h"
#include "freezer.h"
#include "identity.h"
#include "json.h"
#include "log.h"
#include "network.h"

#define MACHINE_ID_LENGTH 32

/* Not on a host that runs tests: its processes would stand still, its name be another. */
static bool is_machine(const struct service *service)
{
	return getpid() == 1 || service->foreign;
}

void snapshot_freeze(struct service *service)
{
	struct failure failure;
	char quoted[1200];
	int failed = 0;

	if (service->over || service->waiting || !service->tasks[0].started)
		failed = fail(&failure, "process", 0, "the machine's process does not run");
	else if (!service->frozen && is_machine(service))
		failed = freezer_freeze(&failure);
	if (!failed) {
		service->frozen = true;
		channel_printf(service->channel, FRAME_FREEZE, PROCESS_NONE, "{\"frozen\":true}");
		return;
	}
	json_quote(failure.message, quoted, sizeof quoted);
	channel_printf(service->channel, FRAME_FREEZE, PROCESS_NONE, "{\"frozen\":false,\"message\":%s}", quoted);
}

/* --- clones -------------------------------------------------------------------------------------------------------- */

static void write_machine_id(const char *id)
{
	char line[MACHINE_ID_LENGTH + 2];

	format_text(line, sizeof line, "%s\n", id);
	if (file_replace("/etc/machine-id", line, strlen(line), 0444))
		log_line(LOG_LEVEL_WARNING, "/etc/machine-id: %s", strerror(errno));
}

/* Time and random numbers first: whatever comes then may need them. */
static void become(struct service *service, const struct json *clone)
{
	static struct machine machine; /* as before but for what is said; it and its words are kept for ever */
	const char *entropy = json_string(clone, "entropy", NULL), *id = json_string(clone, "machine_id", "");
	const struct json *network = json_get(clone, "network");
	long long time_ns = json_integer(clone, "time_ns", 1, LLONG_MAX, 0);
	struct failure failure;

	if (time_ns)
		clock_set(time_ns);
	if (entropy)
		entropy_credit(entropy);
	machine = *service->machine;
	machine.hostname = json_string(clone, "hostname", machine.hostname);
	if (network && (document_network(network, &machine, &failure) || network_configure(&machine, &failure)))
		log_line(LOG_LEVEL_WARNING, "%s", failure.message);
	identity_write(&machine);
	if (strlen(id) == MACHINE_ID_LENGTH)
		write_machine_id(id);
	service->machine = &machine;
}

/* The frame's object, for ever. NULL where it is none. */
static const struct json *keep(const struct frame *frame)
{
	size_t count = frame->length / 2 + 2;
	char *text = frame->length <= CONTROL_LIMIT ? malloc(frame->length + 1) : NULL;
	struct json *nodes = text ? malloc(count * sizeof *nodes) : NULL;

	if (!nodes)
		return NULL;
	memcpy(text, frame->payload, frame->length);
	return json_parse(text, frame->length, nodes, count);
}

void snapshot_thaw(struct service *service, const struct frame *frame)
{
	const struct json *fields = keep(frame), *clone = json_get(fields, "clone");

	if (!fields)
		log_line(LOG_LEVEL_WARNING, "the host sent a THAW that is no JSON");
	if (clone)
		service_forget_host(service);
	if (clone && is_machine(service))
		become(service, clone);
	if (service->frozen && is_machine(service))
		freezer_thaw();
	service->frozen = false;
	channel_printf(service->channel, FRAME_THAW, PROCESS_NONE, "{}");
}
