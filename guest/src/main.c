/* PID 1 of a firekiln machine. PROTOCOL.md tells what it reads and what it says.
 *
 *   initramfs ──▶ modules ──▶ drives ──▶ overlay ──▶ new root ──▶ network, identity ──▶ the process ──▶ power off
 *
 * A flat image, which carries its root file system itself, would start it as /sbin/init: `mounts_root` is then to be
 * left out, and the document lies in the image. Nothing below depends on the initramfs after `mounts_root`.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "channel.h"
#include "clock.h"
#include "document.h"
#include "file.h"
#include "identity.h"
#include "json.h"
#include "log.h"
#include "modules.h"
#include "mounts.h"
#include "network.h"
#include "service.h"

#define DOCUMENT "/firekiln/machine.json"

static struct machine machine;
static struct channel channel;

/* Whether the kernel's command line says how to restart: then there is no other way to end the VMM. Linux turns a
 * power-off that it has no means for into a halt that never ends, and nothing else tells; so in doubt, restart.
 * Asked at the end, since under TCG the first use of any part of the kernel costs milliseconds of translation. */
static bool restart_is_the_end(void)
{
	size_t length;
	char *line = file_read("/proc/cmdline", 1 << 16, &length);

	return !line || !strncmp(line, "reboot=", 7) || strstr(line, " reboot=");
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

static int prepare(struct failure *failure)
{
	if (mounts_root(&machine, failure))
		return -1;
	channel_attach(&channel); /* the host answers while we go on */
	channel_flush(&channel);
	mounts_late();
	if (network_configure(&machine, failure))
		return -1;
	identity_write(&machine);
	return 0;
}

int main(void)
{
	struct failure failure;
	int refused;

	service_block_signals();
	reboot(RB_DISABLE_CAD);
	mounts_early();
	open_standard_descriptors();
	refused = document_read(DOCUMENT, &machine, &failure);
	channel_init(&channel, &machine.channel, -1);
	log_also(tell_host);
	modules_load();
	if (!refused && machine.time_ns)
		clock_set(machine.time_ns);
	channel_attach(&channel);
	channel_flush(&channel);
	if (refused || prepare(&failure))
		service_fail(&channel, &failure);
	else
		service_run(&machine, &channel);
	power_off();
}
