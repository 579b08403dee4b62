#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "hex.h"

static bool to_address(const char *text, struct sockaddr *address)
{
	struct sockaddr_in in = { .sin_family = AF_INET };

	if (inet_pton(AF_INET, text, &in.sin_addr) != 1)
		return false;
	memcpy(address, &in, sizeof in);
	return true;
}

static int set_up(int fd, struct ifreq *request)
{
	if (ioctl(fd, SIOCGIFFLAGS, request))
		return -1;
	request->ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, request);
}

/* Another address than the device's own, as one that runs gets it: who knows the old one must hear of it. */
static int set_mac(int fd, struct ifreq *request, const char *mac)
{
	char path[96];

	request->ifr_hwaddr.sa_family = ARPHRD_ETHER;
	for (int i = 0; i < 6; i++, mac += 3) {
		int high = hex_digit(mac[0]), low = high < 0 ? -1 : hex_digit(mac[1]);

		if (low < 0 || mac[2] != (i < 5 ? ':' : '\0')) {
			errno = EINVAL;
			return -1;
		}
		request->ifr_hwaddr.sa_data[i] = (char)(high << 4 | low);
	}
	format_text(path, sizeof path, "/proc/sys/net/ipv4/conf/%s/arp_notify", request->ifr_name);
	file_set(path, "1");
	return ioctl(fd, SIOCSIFHWADDR, request);
}

static int configure(int fd, const struct interface *interface, struct failure *failure)
{
	struct ifreq request = { 0 };
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };

	format_text(request.ifr_name, sizeof request.ifr_name, "%s", interface->name);
	if (interface->mac && set_mac(fd, &request, interface->mac))
		return fail(failure, "network", errno, "%s: address %s", interface->name, interface->mac);
	if (interface->mtu) {
		request.ifr_mtu = interface->mtu;
		if (ioctl(fd, SIOCSIFMTU, &request))
			return fail(failure, "network", errno, "%s: MTU %d", interface->name, interface->mtu);
	}
	if (!to_address(interface->address, &request.ifr_addr) || ioctl(fd, SIOCSIFADDR, &request))
		return fail(failure, "network", errno, "%s: address %s", interface->name, interface->address);
	if (!to_address(interface->netmask, &request.ifr_netmask) || ioctl(fd, SIOCSIFNETMASK, &request))
		return fail(failure, "network", errno, "%s: netmask %s", interface->name, interface->netmask);
	if (set_up(fd, &request))
		return fail(failure, "network", errno, "%s", interface->name);
	if (!interface->gateway)
		return 0;
	to_address("0.0.0.0", &route.rt_dst);
	to_address("0.0.0.0", &route.rt_genmask);
	if (!to_address(interface->gateway, &route.rt_gateway) || (ioctl(fd, SIOCADDRT, &route) && errno != EEXIST))
		return fail(failure, "network", errno, "%s: gateway %s", interface->name, interface->gateway);
	return 0;
}

int network_configure(const struct machine *machine, struct failure *failure)
{
	struct ifreq loopback = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), result = 0;

	if (fd < 0)
		return machine->interface_count ? fail(failure, "network", errno, "no network in this kernel") : 0;
	set_up(fd, &loopback);
	for (size_t i = 0; i < machine->interface_count && !result; i++)
		result = configure(fd, &machine->interfaces[i], failure);
	close(fd);
	/* As dockerd sets them: users other than root may listen on port 80 and ping. */
	file_set("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
	file_set("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
	return result;
}
