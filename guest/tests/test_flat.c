#include "check.h"
#include "flat.h"

static struct machine machine;
static struct failure failure;

static int parse(const char *text)
{
	static char copy[256]; /* the machine points into it */

	memset(&machine, 0, sizeof machine);
	machine.hostname = "from-the-document";
	snprintf(copy, sizeof copy, "%s", text);
	return flat_network_parse(copy, &machine, &failure);
}

int main(void)
{
	CHECK(!parse("172.16.0.2::172.16.0.1:255.255.255.252::eth1:off"));
	CHECK(machine.interface_count == 1 && !machine.nameservers);
	CHECK_TEXT(machine.interfaces[0].name, "eth1");
	CHECK_TEXT(machine.interfaces[0].address, "172.16.0.2");
	CHECK_TEXT(machine.interfaces[0].gateway, "172.16.0.1");
	CHECK_TEXT(machine.interfaces[0].netmask, "255.255.255.252");
	CHECK_TEXT(machine.hostname, "from-the-document");

	CHECK(!parse("10.0.0.2:::255.0.0.0:box"));
	CHECK_TEXT(machine.interfaces[0].name, "eth0");
	CHECK(!machine.interfaces[0].gateway);
	CHECK_TEXT(machine.hostname, "box");

	CHECK(!parse("10.0.0.2:::255.0.0.0:::off:1.1.1.1:9.9.9.9:ntp"));
	CHECK_TEXT(machine.nameservers->first->string, "1.1.1.1");
	CHECK_TEXT(machine.nameservers->first->next->string, "9.9.9.9");
	CHECK(!parse("10.0.0.2:::255.0.0.0:::off::9.9.9.9"));
	CHECK_TEXT(machine.nameservers->first->string, "9.9.9.9");
	CHECK(!machine.nameservers->first->next);

	CHECK(!parse("off") && !machine.interface_count);
	CHECK(parse("dhcp") && parse("") && parse(":::::eth0:dhcp") && parse("10.0.0.2"));
	CHECK_TEXT(failure.stage, "network");
	return 0;
}
