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
	int mtu;					 /* 0: the device's own */
};

struct rlimit_config {
	int resource;
	unsigned long long soft, hard;
};

struct process_config {
	char **argv, **env; /* NULL-terminated */
	const char *user, *cwd;
	int stop_signal;
	long long stop_timeout_ms;
	bool open_stdin, console;
	struct rlimit_config rlimits[MAX_RLIMITS];
	size_t rlimit_count;
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
};

/* What is used to report that there is no usable document. */
extern const struct channel_config default_channel, console_channel;

/* Read `text` of `length` bytes (overwritten, kept for ever) into `machine`. 0, or -1 and `failure`. */
int document_parse(char *text, size_t length, struct machine *machine, struct failure *failure);

/* The file's document. */
int document_read(const char *path, struct machine *machine, struct failure *failure);

#endif
