/* The machine document, /firekiln/machine.json: what src/firekiln/machine/contract.py writes. See PROTOCOL.md. */
#ifndef FIREKILN_DOCUMENT_H
#define FIREKILN_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "failure.h"
#include "json.h"

#define DOCUMENT_LIMIT (1 << 20)
#define MAX_LAYERS 32
#define MAX_INTERFACES 8
#define MAX_RLIMITS 16
#define MAX_MOUNTS 64

struct drive {
	const char *serial; /* NULL: by `index` */
	int index;
};

struct channel_config {
	const char *name;   /* of a virtio-serial port; NULL for vsock */
	unsigned port;	    /* of vsock */
	bool console;	    /* there is none: the process has the console */
};

struct interface {
	const char *name, *address, *netmask, *gateway; /* gateway may be NULL */
	const char *mac;				 /* NULL: the device's own */
	int mtu;					 /* 0: the device's own */
};

struct rlimit_config {
	int resource;
	unsigned long long soft, hard;
};

struct terminal_config {
	bool wanted;
	int rows, columns; /* 0: unknown */
};

struct process_config {
	char **argv, **env; /* NULL-terminated */
	char **groups;	    /* supplementary ones, beside the user's own; NULL: none */
	const char *user, *cwd;
	int stop_signal;
	long long stop_timeout_ms;
	bool open_stdin, console, make_cwd;
	int (*work)(void *context, int report); /* what runs in the process before it becomes the program; or NULL */
	struct terminal_config tty;
	struct rlimit_config rlimits[MAX_RLIMITS];
	size_t rlimit_count;
};

enum mount_type { MOUNT_DRIVE, MOUNT_TMPFS, MOUNT_VIRTIOFS, MOUNT_9P, MOUNT_FILE };

struct mount_config {
	enum mount_type type;
	const char *target;
	struct drive drive;
	const char *fstype, *subpath; /* of a drive; subpath may be NULL */
	const char *tag;
	bool read_only;
	long long size;		    /* of a tmpfs, 0: the kernel's own limit */
	int mode;		    /* of a tmpfs or file */
	const struct json *options; /* array, or NULL */
	const char *data;	    /* of a file */
	size_t length;
};

enum restart_policy { RESTART_NO, RESTART_ON_FAILURE, RESTART_ALWAYS };

struct restart_config {
	enum restart_policy policy;
	unsigned long retries; /* 0: without limit */
};

struct health_config {
	char **argv; /* NULL: there is no check */
	long long interval_ms, timeout_ms, start_period_ms, start_interval_ms;
	int retries;
};

struct init_config {
	char **argv; /* NULL: we are the init */
	char **stop; /* NULL: by signal */
	int stop_signal;
};

struct machine {
	const char *hostname;
	long long time_ns, handshake_ms;
	struct channel_config channel;
	struct drive layers[MAX_LAYERS];
	size_t layer_count;
	struct drive scratch;
	bool has_scratch, flat;
	struct interface interfaces[MAX_INTERFACES];
	size_t interface_count;
	const struct json *nameservers, *search, *options, *hosts; /* arrays, or NULL */
	struct process_config process;
	bool read_only_root;
	struct mount_config mounts[MAX_MOUNTS];
	size_t mount_count;
	const struct json *sysctls, *files; /* an object and an array, or NULL */
	const struct json *step;	    /* of a build, or NULL: what its root is put together from */
	bool steps;			    /* there is no process: the host has steps run */
	struct restart_config restart;
	struct health_config health;
	struct init_config init;
};

/* What is used to report that there is no usable document. */
extern const struct channel_config default_channel, console_channel;

/* Read `text` of `length` bytes (overwritten, kept for ever) into `machine`. 0, or -1 and `failure`. */
int document_parse(char *text, size_t length, struct machine *machine, struct failure *failure);

/* Read a document's `network` in place of what `machine` has. 0, or -1 and `failure`. */
int document_network(const struct json *network, struct machine *machine, struct failure *failure);

/* What a host's EXEC says, in `fields`, of a process beside the document's, `base`. The words belong to `fields`, the
 * arrays to the caller, who frees argv and env. 0, or -1 and `failure`. */
int document_exec(const struct json *fields, const struct process_config *base, struct process_config *process,
		  struct failure *failure);

/* The bytes of `value`'s `data` or `base64`, decoded in place; NULL where it has neither. */
const char *document_data(const struct json *value, size_t *length);

/* The file's document. */
int document_read(const char *path, struct machine *machine, struct failure *failure);

#endif
