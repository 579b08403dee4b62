#include "host.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* musl-gcc has no <linux/rtnetlink.h>: what is needed of rtnetlink(7). */
#define NETLINK_ROUTE_FAMILY 0
#define RTM_NEWROUTE 24
#define RTM_GETROUTE 26
#define RTA_DST 1
#define RTN_UNICAST 1
#define NLM_F_REQUEST 1
#define NLMSG_ERROR 2
#define CACHE 64

struct sockaddr_netlink {
	unsigned short family, pad;
	uint32_t pid, groups;
};

struct header {
	uint32_t length;
	uint16_t type, flags;
	uint32_t sequence, pid;
};

struct route {
	uint8_t family, destination_length, source_length, tos, table, protocol, scope, type;
	uint32_t flags;
};

struct question {
	struct header header;
	struct route route;
	uint16_t attribute_length, attribute;
	uint32_t destination;
};

struct answer {
	struct header header;
	struct route route;
	uint8_t rest[1024];
};

int host_open(void)
{
	struct sockaddr_netlink kernel = { .family = AF_NETLINK };
	struct timeval second = { .tv_sec = 1 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE_FAMILY);

	if (fd >= 0 && (connect(fd, (struct sockaddr *)&kernel, sizeof kernel) ||
			setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Who doesn't answer is taken to say that it is the host's. No way there at all is the address translation's to tell. */
static bool ask(int fd, uint32_t address)
{
	static uint32_t sequence;
	struct question question = {
		.header = { .length = sizeof question, .type = RTM_GETROUTE, .flags = NLM_F_REQUEST },
		.route = { .family = AF_INET, .destination_length = 32 },
		.attribute_length = 8,
		.attribute = RTA_DST,
		.destination = htonl(address),
	};
	struct answer answer;
	ssize_t got;

	question.header.sequence = ++sequence;
	if (send(fd, &question, sizeof question, 0) != sizeof question)
		return true;
	do
		got = recv(fd, &answer, sizeof answer, 0);
	while (got >= (ssize_t)sizeof answer.header && answer.header.sequence != sequence);
	if (got < (ssize_t)(sizeof answer.header + sizeof answer.route))
		return true;
	return answer.header.type == RTM_NEWROUTE && answer.route.type != RTN_UNICAST;
}

bool host_owns(void *context, uint32_t address)
{
	static struct {
		uint32_t address;
		time_t second;
		bool owned;
	} cache[CACHE], *known;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	known = &cache[address % CACHE];
	if (known->address != address || known->second != now.tv_sec) {
		known->owned = ask(*(const int *)context, address);
		known->address = address;
		known->second = now.tv_sec;
	}
	return known->owned;
}
