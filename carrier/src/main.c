/* What carries the frames of one machine on one network of a host.
 *
 *   carrier --vm FD [--outside FD] [--peers] [--internal] --mac M --address A/P --gateway A --nameserver A
 *   carrier --serve [--internal] --address A/P --gateway A
 *
 * FD are stream sockets of QEMU's. With --peers, and with --serve, the working folder is the network's; each `--names DIR`
 * is that of a network whose names are known too. It says `ready` on its standard output, and ends with the machine, or
 * with who started it.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "carrier.h"
#include "hosts.h"

#define NOBODY 65534

static pid_t parent;

int complain(const char *what)
{
	fprintf(stderr, "carrier: %s: %s\n", what, strerror(errno));
	return 1;
}

static bool read_fd(const char *text, int *fd)
{
	char *end;
	long number = strtol(text, &end, 10);

	*fd = (int)number;
	return *text && !*end && number > 2 && fcntl(*fd, F_SETFL, fcntl(*fd, F_GETFL) | O_NONBLOCK) == 0;
}

static bool read_option(const char *name, const char *value, struct options *options)
{
	struct place *place = &options->place;

	if (!strcmp(name, "--vm"))
		return read_fd(value, &options->vm);
	if (!strcmp(name, "--outside"))
		return read_fd(value, &options->outside);
	if (!strcmp(name, "--names"))
		return hosts_add(value);
	if (!strcmp(name, "--mac"))
		return mac_parse(value, &place->mac);
	if (!strcmp(name, "--address"))
		return address_parse_prefix(value, &place->address, &place->netmask);
	if (!strcmp(name, "--gateway"))
		return address_parse(value, &place->gateway);
	if (!strcmp(name, "--nameserver"))
		return address_parse(value, &place->nameserver);
	return false;
}

static bool read_options(int argc, char **argv, struct options *options, bool *is_serving)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--peers"))
			options->has_peers = true;
		else if (!strcmp(argv[i], "--internal"))
			options->is_internal = true;
		else if (!strcmp(argv[i], "--serve"))
			*is_serving = true;
		else if (i + 1 == argc || !read_option(argv[i], argv[i + 1], options))
			return false;
		else
			i++;
	}
	return options->place.address && *is_serving == (options->vm < 0);
}

void ready(void)
{
	/* What root had to open is open. What guests send is nothing for root to read. */
	if (geteuid() == 0 && (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY)))
		exit(complain("cannot give up root's rights"));
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	/* Another user's process would have lost it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (getppid() != parent)
		exit(1);
	if (write(STDOUT_FILENO, "ready\n", 6) != 6)
		exit(1);
	close(STDOUT_FILENO);
}

int main(int argc, char **argv)
{
	struct options options = { .vm = -1, .outside = -1 };
	bool is_serving = false;

	parent = getppid();
	umask(0); /* who may reach our socket is for its folder to say */
	signal(SIGPIPE, SIG_IGN);
	if (!read_options(argc, argv, &options, &is_serving)) {
		fprintf(stderr, "carrier: it is firekiln that starts this program\n");
		return 2;
	}
	return is_serving ? serve(&options) : carry(&options);
}
