/* PID 1 of a firekiln machine. PROTOCOL.md tells what it reads and what it says.
 *
 *   initramfs ──▶ modules ──▶ drives ──▶ overlay ──▶ new root ──▶ network, identity ──▶ the process ──▶ power off
 *
 * It is started in three ways, told apart by where the document lies:
 *
 *   /firekiln/machine.json    the machine's own initramfs: layers and a scratch drive become the root; where the
 *                             document says `steps`, a build's steps are run instead, each on a root of its own
 *   /.firekiln/machine.json   from a flat image, as /sbin/init or by init=: the root is there already
 *   neither                   from a flat image's initramfs of modules: `root=` is mounted, and then as above
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "channel.h"
#include "clock.h"
#include "cmdline.h"
#include "document.h"
#include "file.h"
#include "flat.h"
#include "foreign.h"
#include "identity.h"
#include "json.h"
#include "log.h"
#include "modules.h"
#include "mounts.h"
#include "network.h"
#include "service.h"
#include "steps.h"
#include "text.h"
#include "volumes.h"

#define FOLDER "/firekiln"
#define DOCUMENT FOLDER "/machine.json"

static struct machine machine;
static struct channel channel;
static struct foreign foreign;

/* Whether the kernel's command line says how to restart: then there is no other way to end the VMM. Linux turns a
 * power-off that it has no means for into a halt that never ends, and nothing else tells; so in doubt, restart.
 * Asked at the end, since under TCG the first use of any part of the kernel costs milliseconds of translation. */
static bool restart_is_the_end(void)
{
	size_t length;
	char *line = file_read("/proc/cmdline", 1 << 16, &length);

	return !line || !strncmp(line, "reboot=", 7) || text_find(line, " reboot=");
}

static _Noreturn void power_off(void)
{
	if (!restart_is_the_end())
		reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* The kernel gives no descriptors 0 to 2 where it finds no console. */
static void open_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 3);
	if (fd >= 3)
		close(fd);
}

static void tell_host(const char *text)
{
	char quoted[2048];

	json_quote(text, quoted, sizeof quoted);
	channel_printf(&channel, FRAME_LOG, PROCESS_NONE, "{\"message\":%s}", quoted);
}

/* Only those who must know look at the command line: see above. */
static void go_on_restarting(void)
{
	char count[16];

	if (machine.restart.policy == RESTART_ON_FAILURE && cmdline_value("firekiln.restarts", count, sizeof count))
		restart_go_on(&machine.restart, strtoul(count, NULL, 10));
}

/* The root, and the document that lies in it or beside it. */
static int begin_flat(struct failure *failure)
{
	if (!access(FLAT_DOCUMENT, F_OK)) {
		modules_load(FLAT_FOLDER);
	} else {
		modules_load(FOLDER);
		if (flat_mount(failure) || flat_hand_over(failure))
			return -1;
	}
	if (mounts_overlay(failure) || document_read(FLAT_DOCUMENT, &machine, failure))
		return -1;
	return flat_network(&machine, failure);
}

static int begin_layered(struct failure *failure)
{
	int refused = document_read(DOCUMENT, &machine, failure);

	channel_init(&channel, &machine.channel, -1);
	log_also(tell_host);
	modules_load(FOLDER);
	if (!refused)
		go_on_restarting();
	if (!refused && machine.time_ns)
		clock_set(machine.time_ns);
	channel_attach(&channel);
	channel_flush(&channel);
	if (machine.steps)
		return 0;
	if (!refused && !clock_has_timer())
		return fail(failure, "timer", 0, "the kernel found no timer: it got too little of the host's processor "
						 "as it started");
	if (refused || mounts_root(&machine, failure))
		return -1;
	channel_attach(&channel); /* the host answers while we go on */
	channel_flush(&channel);
	return 0;
}

static int begin(struct failure *failure)
{
	int failed;

	if (!access(DOCUMENT, F_OK) && access(FLAT_DOCUMENT, F_OK))
		return begin_layered(failure);
	failed = begin_flat(failure);
	if (failed)
		machine.channel = console_channel;
	channel_init(&channel, &machine.channel, -1);
	return failed;
}

/* Where the image has an init of its own, it is its agent that returns. `arguments` are main's. */
static int finish_preparing(char **arguments, struct failure *failure)
{
	mounts_late();
	if (volumes_mount(&machine, failure) || network_configure(&machine, failure))
		return -1;
	identity_write(&machine);
	if (machine.init.argv && foreign_prepare(&foreign, &machine, failure))
		return -1;
	if (volumes_write_files(&machine, failure) || volumes_set_sysctls(&machine, failure))
		return -1;
	if (volumes_seal_root(&machine, failure))
		return -1;
	return machine.init.argv ? foreign_begin(&foreign, arguments, failure) : 0;
}

int main(int argc, char **argv)
{
	struct failure failure;

	if (getpid() != 1)
		return foreign_command(argc, argv);
	service_block_signals();
	reboot(RB_DISABLE_CAD);
	mounts_early();
	open_standard_descriptors();
	if (begin(&failure) || (!machine.steps && finish_preparing(argv, &failure)))
		service_fail(&channel, &failure, mounts_finish);
	else if (machine.steps)
		steps_serve(&channel);
	else
		service_run(&machine, &channel, machine.init.argv ? &foreign : NULL, mounts_finish);
	power_off();
}
