#include "flat.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmdline.h"
#include "log.h"
#include "mounts.h"
#include "rootdevice.h"
#include "verity.h"

#define ROOT "/root"
#define VALUE_SIZE 1024
#define MAX_NAMESERVERS 2

/* --- the root file system ------------------------------------------------------------------------------------------ */

/* The device to mount: the root's own, or one of dm-verity over it. */
static int find_device(char *device, size_t size, bool *verified, struct failure *failure)
{
	char words[VALUE_SIZE], below[VALUE_SIZE];
	struct verity verity;

	*verified = cmdline_value("firekiln.verity", words, sizeof words);
	if (!*verified)
		return root_device(device, size, failure);
	if (verity_parse(words, &verity, failure) || root_device(below, sizeof below, failure))
		return -1;
	return verity_open(&verity, below, device, size, failure);
}

int flat_mount(struct failure *failure)
{
	char device[VALUE_SIZE], types[VALUE_SIZE], options[VALUE_SIZE] = "", *rest = types, *type;
	unsigned long flags = cmdline_word("rw") ? 0 : MS_RDONLY;
	bool verified;

	if (!cmdline_value("rootfstype", types, sizeof types))
		strcpy(types, "ext4,erofs,squashfs");
	cmdline_value("rootflags", options, sizeof options);
	if (find_device(device, sizeof device, &verified, failure))
		return -1;
	if (verified)
		flags |= MS_RDONLY;
	if (mkdir(ROOT, 0755) && errno != EEXIST)
		return fail(failure, "root", errno, "%s", ROOT);
	while ((type = strsep(&rest, ",")))
		if (!mount(device, ROOT, type, flags, options)) {
			mounts_empty_initramfs();
			return mounts_switch(ROOT, failure);
		}
	return fail(failure, "root", errno, "mounting %s", device);
}

/* --- another init -------------------------------------------------------------------------------------------------- */

static bool is_ours(const char *path)
{
	struct stat given, ours;

	return !stat(path, &given) && !stat(FLAT_INIT, &ours) && given.st_dev == ours.st_dev &&
	       given.st_ino == ours.st_ino;
}

static void become(const char *path)
{
	char *argv[] = { (char *)path, NULL };
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	reboot(RB_ENABLE_CAD);
	execv(path, argv);
}

int flat_hand_over(struct failure *failure)
{
	static const char *const usual[] = { "/sbin/init", "/etc/init", "/bin/init", "/bin/sh" };
	char wanted[PATH_MAX];

	if (cmdline_value("init", wanted, sizeof wanted)) {
		if (is_ours(wanted))
			return 0;
		become(wanted);
		return fail(failure, "exec", errno, "init=%s", wanted);
	}
	if (!access(FLAT_DOCUMENT, F_OK))
		return 0;
	for (size_t i = 0; i < sizeof usual / sizeof *usual; i++)
		become(usual[i]);
	return fail(failure, "exec", 0, "the root file system has neither a machine document nor an init");
}

/* --- ip= ----------------------------------------------------------------------------------------------------------- */

/* The nameservers as the document would list them. */
static const struct json *list_nameservers(char *const words[MAX_NAMESERVERS])
{
	static struct json list, items[MAX_NAMESERVERS];
	size_t count = 0;

	for (size_t i = 0; i < MAX_NAMESERVERS; i++)
		if (words[i] && *words[i])
			items[count++] = (struct json){ .type = JSON_STRING, .string = words[i] };
	for (size_t i = 0; i + 1 < count; i++)
		items[i].next = &items[i + 1];
	list = (struct json){ .type = JSON_ARRAY, .first = items };
	return count ? &list : NULL;
}

int flat_network_parse(char *value, struct machine *machine, struct failure *failure)
{
	enum { CLIENT, SERVER, GATEWAY, NETMASK, HOSTNAME, DEVICE, AUTOCONF, DNS0, DNS1, FIELDS };
	char *field[FIELDS] = { NULL };
	const struct json *nameservers;

	for (int i = 0; i < FIELDS && value; i++)
		field[i] = strsep(&value, ":");
	if (!field[NETMASK] && (!strcmp(field[CLIENT], "off") || !strcmp(field[CLIENT], "none")))
		return 0;
	if (!*field[CLIENT] || !field[NETMASK] || !*field[NETMASK])
		return fail(failure, "network", 0,
			    "ip=: only addresses are understood, as in ip=172.16.0.2::172.16.0.1:255.255.255.0::eth0:off");
	machine->interface_count = 1;
	machine->interfaces[0] = (struct interface){
		.name = field[DEVICE] && *field[DEVICE] ? field[DEVICE] : "eth0",
		.address = field[CLIENT],
		.netmask = field[NETMASK],
		.gateway = field[GATEWAY] && *field[GATEWAY] ? field[GATEWAY] : NULL,
	};
	if (field[HOSTNAME] && *field[HOSTNAME])
		machine->hostname = field[HOSTNAME];
	nameservers = list_nameservers(&field[DNS0]);
	if (nameservers)
		machine->nameservers = nameservers;
	return 0;
}

int flat_network(struct machine *machine, struct failure *failure)
{
	static char value[VALUE_SIZE];

	return cmdline_value("ip", value, sizeof value) ? flat_network_parse(value, machine, failure) : 0;
}
