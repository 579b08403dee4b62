#include "document.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base64.h"
#include "file.h"

#define VERSION 1
#define INIT_POWER_OFF 38 /* SIGRTMIN+4 of systemd(1), by glibc's and so everybody's SIGRTMIN, 34 */

const struct channel_config default_channel = { .name = "firekiln.agent" };
const struct channel_config console_channel = { .console = true };

static const struct {
	const char *name;
	int resource;
} rlimit_names[] = {
	{ "as", RLIMIT_AS },	       { "core", RLIMIT_CORE },		  { "cpu", RLIMIT_CPU },
	{ "data", RLIMIT_DATA },       { "fsize", RLIMIT_FSIZE },	  { "locks", RLIMIT_LOCKS },
	{ "memlock", RLIMIT_MEMLOCK }, { "msgqueue", RLIMIT_MSGQUEUE },	  { "nice", RLIMIT_NICE },
	{ "nofile", RLIMIT_NOFILE },   { "nproc", RLIMIT_NPROC },	  { "rss", RLIMIT_RSS },
	{ "rtprio", RLIMIT_RTPRIO },	{ "rttime", RLIMIT_RTTIME },   { "sigpending", RLIMIT_SIGPENDING }, { "stack", RLIMIT_STACK },
};

static const struct json *array(const struct json *value, const char *key)
{
	const struct json *member = json_get(value, key);

	return member && member->type == JSON_ARRAY ? member : NULL;
}

static int refuse(struct failure *failure, const char *what)
{
	return fail(failure, "document", 0, "the machine document is wrong: %s", what);
}

/* An array of strings as argv is; NULL where it is none or memory is short. */
static char **words(const struct json *list)
{
	size_t count = 0;
	char **result;

	if (!list)
		return NULL;
	for (const struct json *item = list->first; item; item = item->next, count++)
		if (item->type != JSON_STRING)
			return NULL;
	result = calloc(count + 1, sizeof *result);
	if (!result)
		return NULL;
	count = 0;
	for (const struct json *item = list->first; item; item = item->next)
		result[count++] = (char *)item->string;
	return result;
}

static bool read_drive(const struct json *value, struct drive *drive)
{
	drive->serial = json_string(value, "serial", NULL);
	drive->index = (int)json_integer(value, "index", 0, 25, -1);
	return drive->serial || drive->index >= 0;
}

static int read_root(const struct json *root, struct machine *machine, struct failure *failure)
{
	const struct json *layers = array(root, "layers"), *scratch = json_get(root, "scratch");

	machine->flat = json_true(root, "flat");
	if (machine->flat)
		return 0;
	if (!layers)
		return refuse(failure, "no root.layers");
	for (const struct json *item = layers->first; item; item = item->next) {
		if (machine->layer_count == MAX_LAYERS)
			return refuse(failure, "too many layers");
		if (!read_drive(item, &machine->layers[machine->layer_count++]))
			return refuse(failure, "a layer without serial or index");
	}
	machine->has_scratch = scratch && scratch->type != JSON_NULL;
	if (machine->has_scratch && !read_drive(scratch, &machine->scratch))
		return refuse(failure, "a scratch drive without serial or index");
	return 0;
}

static int read_channel(const struct json *channel, struct machine *machine, struct failure *failure)
{
	const char *type = json_string(channel, "type", "virtio-serial");

	machine->channel = default_channel;
	if (!strcmp(type, "virtio-serial")) {
		machine->channel.name = json_string(channel, "name", default_channel.name);
		return 0;
	}
	if (!strcmp(type, "vsock")) {
		machine->channel.name = NULL;
		machine->channel.port = (unsigned)json_integer(channel, "port", 1, INT_MAX, 1024);
		return 0;
	}
	if (!strcmp(type, "console")) {
		machine->channel = console_channel;
		machine->process.console = true;
		return 0;
	}
	return refuse(failure, "a channel of unknown type");
}

int document_network(const struct json *network, struct machine *machine, struct failure *failure)
{
	const struct json *interfaces = array(network, "interfaces");

	machine->interface_count = 0;
	for (const struct json *item = interfaces ? interfaces->first : NULL; item; item = item->next) {
		struct interface *interface = &machine->interfaces[machine->interface_count];

		if (machine->interface_count++ == MAX_INTERFACES)
			return refuse(failure, "too many interfaces");
		interface->name = json_string(item, "name", "eth0");
		interface->address = json_string(item, "address", NULL);
		interface->netmask = json_string(item, "netmask", NULL);
		interface->gateway = json_string(item, "gateway", NULL);
		interface->mac = json_string(item, "mac", NULL);
		interface->mtu = (int)json_integer(item, "mtu", 68, 65535, 0);
		if (!interface->address || !interface->netmask)
			return refuse(failure, "an interface without address and netmask");
	}
	machine->nameservers = array(network, "nameservers");
	machine->search = array(network, "search");
	machine->options = array(network, "options");
	machine->hosts = array(network, "hosts");
	return 0;
}

static int read_rlimits(const struct json *limits, struct process_config *process, struct failure *failure)
{
	for (const struct json *item = limits ? limits->first : NULL; item; item = item->next) {
		const char *name = json_string(item, "name", "");
		struct rlimit_config *limit = &process->rlimits[process->rlimit_count];
		size_t known = sizeof rlimit_names / sizeof *rlimit_names, i = 0;

		while (i < known && strcmp(name, rlimit_names[i].name))
			i++;
		if (i == known || process->rlimit_count++ == MAX_RLIMITS)
			return refuse(failure, "an unknown resource limit");
		limit->resource = rlimit_names[i].resource;
		limit->soft = (unsigned long long)json_integer(item, "soft", 0, LLONG_MAX, -1);
		limit->hard = (unsigned long long)json_integer(item, "hard", 0, LLONG_MAX, -1);
	}
	return 0;
}

static void read_terminal(const struct json *value, struct terminal_config *tty)
{
	tty->wanted = value && value->type == JSON_OBJECT;
	tty->rows = (int)json_integer(value, "rows", 0, 65535, 0);
	tty->columns = (int)json_integer(value, "columns", 0, 65535, 0);
}

static int read_process(const struct json *value, struct process_config *process, struct failure *failure)
{
	process->argv = words(array(value, "argv"));
	process->env = words(array(value, "env"));
	if (!process->argv || !process->argv[0] || !process->env)
		return refuse(failure, "process.argv or process.env");
	process->user = json_string(value, "user", "");
	process->cwd = json_string(value, "cwd", "/");
	process->make_cwd = true;
	process->stop_signal = (int)json_integer(value, "stop_signal", 1, 64, 15);
	process->stop_timeout_ms = json_integer(value, "stop_timeout_ms", 0, INT_MAX, 10000);
	process->open_stdin = json_true(value, "stdin");
	process->groups = words(array(value, "groups"));
	read_terminal(json_get(value, "tty"), &process->tty);
	return read_rlimits(array(value, "rlimits"), process, failure);
}

/* `env` with `more` added: of equal names the later counts. Strings are shared; NULL where memory is short. */
static char **add_variables(char **env, char **more)
{
	size_t count = 0, used = 0;
	char **made;

	for (char **word = env; *word; word++)
		count++;
	for (char **word = more; *word; word++)
		count++;
	made = calloc(count + 1, sizeof *made);
	for (char **word = env; made && *word; word++)
		made[used++] = *word;
	for (char **word = more; made && *word; word++) {
		size_t name = strcspn(*word, "=") + 1, i = 0;

		while (i < used && strncmp(made[i], *word, name))
			i++;
		made[i] = *word;
		used += i == used;
	}
	return made;
}

int document_exec(const struct json *fields, const struct process_config *base, struct process_config *process,
		  struct failure *failure)
{
	char **added = words(array(fields, "env"));

	*process = *base;
	process->argv = words(array(fields, "argv"));
	process->env = added ? add_variables(base->env, added) : NULL;
	free(added);
	if (!process->argv || !process->argv[0] || !process->env) {
		free(process->argv);
		free(process->env);
		return fail(failure, "process", EINVAL, "the host's EXEC");
	}
	process->user = json_string(fields, "user", base->user);
	process->cwd = json_string(fields, "cwd", base->cwd);
	process->open_stdin = json_true(fields, "stdin");
	process->console = process->make_cwd = false; /* as runc: a container's directory is made, an exec's must be there */
	process->tty = (struct terminal_config){ 0 };
	read_terminal(json_get(fields, "tty"), &process->tty);
	return 0;
}

/* --- what Docker's options add ------------------------------------------------------------------------------------ */

const char *document_data(const struct json *value, size_t *length)
{
	const char *text = json_string(value, "data", NULL);
	char *encoded = (char *)json_string(value, "base64", NULL);

	if (text)
		*length = strlen(text);
	else if (encoded)
		*length = base64_decode(encoded);
	return text ? text : encoded;
}

static int read_mount(const struct json *value, struct mount_config *mount, struct failure *failure)
{
	static const char *const types[] = { "drive", "tmpfs", "virtiofs", "9p", "file" };
	const char *type = json_string(value, "type", "");
	size_t known = sizeof types / sizeof *types, i = 0;

	while (i < known && strcmp(type, types[i]))
		i++;
	mount->target = json_string(value, "target", "");
	if (i == known || *mount->target != '/')
		return refuse(failure, "a mount of unknown type or without a target");
	mount->type = (enum mount_type)i;
	mount->read_only = json_true(value, "read_only");
	mount->fstype = json_string(value, "fstype", "ext4");
	mount->subpath = json_string(value, "subpath", NULL);
	mount->tag = json_string(value, "tag", NULL);
	mount->size = json_integer(value, "size", 0, LLONG_MAX, 0);
	mount->mode = (int)json_integer(value, "mode", 0, 07777, mount->type == MOUNT_FILE ? 0644 : 01777);
	mount->options = array(value, "options");
	mount->data = document_data(value, &mount->length);
	if (mount->type == MOUNT_DRIVE && !read_drive(json_get(value, "drive"), &mount->drive))
		return refuse(failure, "a mount without its drive");
	if ((mount->type == MOUNT_VIRTIOFS || mount->type == MOUNT_9P) && !mount->tag)
		return refuse(failure, "a mount without its tag");
	return mount->type == MOUNT_FILE && !mount->data ? refuse(failure, "a mount without its data") : 0;
}

static int read_mounts(const struct json *list, struct machine *machine, struct failure *failure)
{
	for (const struct json *item = list ? list->first : NULL; item; item = item->next) {
		if (machine->mount_count == MAX_MOUNTS)
			return refuse(failure, "too many mounts");
		if (read_mount(item, &machine->mounts[machine->mount_count++], failure))
			return -1;
	}
	return 0;
}

static int read_restart(const struct json *value, struct restart_config *restart, struct failure *failure)
{
	const char *policy = json_string(value, "policy", "no");

	restart->retries = (unsigned long)json_integer(value, "retries", 0, INT_MAX, 0);
	if (!strcmp(policy, "on-failure"))
		restart->policy = RESTART_ON_FAILURE;
	else if (!strcmp(policy, "always") || !strcmp(policy, "unless-stopped"))
		restart->policy = RESTART_ALWAYS;
	else if (strcmp(policy, "no"))
		return refuse(failure, "an unknown restart policy");
	return 0;
}

static int read_health(const struct json *value, struct health_config *health, struct failure *failure)
{
	if (!value || value->type == JSON_NULL)
		return 0;
	health->argv = words(array(value, "argv"));
	if (!health->argv || !health->argv[0])
		return refuse(failure, "health.argv");
	health->interval_ms = json_integer(value, "interval_ms", 1, INT_MAX, 30000);
	health->timeout_ms = json_integer(value, "timeout_ms", 1, INT_MAX, 30000);
	health->start_period_ms = json_integer(value, "start_period_ms", 0, INT_MAX, 0);
	health->start_interval_ms = json_integer(value, "start_interval_ms", 1, INT_MAX, 5000);
	health->retries = (int)json_integer(value, "retries", 1, INT_MAX, 3);
	return 0;
}

static int read_init(const struct json *value, struct init_config *init, struct failure *failure)
{
	const struct json *stop = json_get(value, "stop");

	if (!value || value->type == JSON_NULL)
		return 0;
	init->argv = words(array(value, "argv"));
	init->stop = words(array(stop, "argv"));
	init->stop_signal = (int)json_integer(stop, "signal", 1, 64, INIT_POWER_OFF);
	if (!init->argv || !init->argv[0] || (init->stop && !init->stop[0]))
		return refuse(failure, "init");
	return 0;
}

static int read_options(const struct json *document, struct machine *machine, struct failure *failure)
{
	const struct json *sysctls = json_get(document, "sysctls");

	machine->read_only_root = json_true(json_get(document, "root"), "read_only");
	machine->sysctls = sysctls && sysctls->type == JSON_OBJECT ? sysctls : NULL;
	machine->files = array(document, "files");
	if (read_mounts(array(document, "mounts"), machine, failure) ||
	    read_restart(json_get(document, "restart"), &machine->restart, failure) ||
	    read_health(json_get(document, "health"), &machine->health, failure))
		return -1;
	return read_init(json_get(document, "init"), &machine->init, failure);
}

int document_parse(char *text, size_t length, struct machine *machine, struct failure *failure)
{
	size_t count = length / 2 + 2; /* no value is shorter than a byte and its comma */
	struct json *nodes = malloc(count * sizeof *nodes);
	const struct json *document;

	memset(machine, 0, sizeof *machine);
	machine->channel = default_channel;
	if (!nodes)
		return fail(failure, "document", ENOMEM, "the machine document");
	document = json_parse(text, length, nodes, count);
	if (!document)
		return refuse(failure, "no JSON");
	if (json_integer(document, "version", 1, INT_MAX, 0) != VERSION)
		return refuse(failure, "another version than 1");
	machine->hostname = json_string(document, "hostname", "localhost");
	machine->time_ns = json_integer(document, "time_ns", 0, LLONG_MAX, 0);
	machine->handshake_ms = json_integer(document, "handshake_ms", 0, 60000, 100);
	machine->steps = json_true(document, "steps");
	machine->step = json_get(document, "step");
	if (read_channel(json_get(document, "channel"), machine, failure) ||
	    (!machine->steps && !machine->step && read_root(json_get(document, "root"), machine, failure)) ||
	    document_network(json_get(document, "network"), machine, failure) ||
	    read_options(document, machine, failure))
		return -1;
	return machine->steps ? 0 : read_process(json_get(document, "process"), &machine->process, failure);
}

int document_read(const char *path, struct machine *machine, struct failure *failure)
{
	size_t length;
	char *text = file_read(path, DOCUMENT_LIMIT, &length);

	machine->channel = default_channel;
	if (!text)
		return fail(failure, "document", errno, "%s", path);
	return document_parse(text, length, machine, failure);
}
