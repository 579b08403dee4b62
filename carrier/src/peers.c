#include "peers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "packet.h"

/* By the descriptor of its folder: a socket's path may have 107 bytes only. */
static struct sockaddr_un name_of(int folder, uint32_t address)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	struct in_addr in = { .s_addr = htonl(address) };
	char text[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &in, text, sizeof text);
	if (folder == AT_FDCWD)
		strcpy(name.sun_path, text);
	else
		snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/%s", folder, text);
	return name;
}

static int open_socket(void)
{
	return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* A socket that is connected to it; -1 where nobody is there. */
static int connected(int folder, uint32_t address)
{
	struct sockaddr_un name = name_of(folder, address);
	int fd = open_socket();

	if (fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof name)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

bool peers_is_there(int folder, uint32_t address)
{
	int fd = connected(folder, address);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

bool peers_open(struct peers *peers, uint32_t own)
{
	struct sockaddr_un name = name_of(AT_FDCWD, own);

	peers->own = own;
	peers->folder = opendir("."); /* while we may list it */
	peers->inbox = open_socket();
	if (!peers->folder || peers->inbox < 0)
		return false;
	if (bind(peers->inbox, (struct sockaddr *)&name, sizeof name) == 0)
		return true;
	/* The address is this machine's alone, so that nobody else tidies up after an earlier run that was killed. */
	if (errno == EADDRINUSE && !peers_is_there(AT_FDCWD, own) && unlink(name.sun_path) == 0 &&
	    bind(peers->inbox, (struct sockaddr *)&name, sizeof name) == 0)
		return true;
	close(peers->inbox);
	peers->inbox = -1;
	return false;
}

static void forget(struct peer *peer)
{
	close(peer->fd);
	*peer = (struct peer){ 0 };
}

/* The peer at that address, connected to where it wasn't; NULL where nobody is there. */
static struct peer *peer_at(struct peers *peers, uint32_t address)
{
	struct peer *unused = NULL;
	int fd;

	for (size_t i = 0; i < MOST_PEERS; i++) {
		if (peers->peer[i].address == address)
			return &peers->peer[i];
		if (!unused && !peers->peer[i].address)
			unused = &peers->peer[i];
	}
	fd = connected(AT_FDCWD, address);
	if (fd < 0)
		return NULL;
	if (!unused) {
		unused = &peers->peer[address % MOST_PEERS];
		forget(unused);
	}
	*unused = (struct peer){ .address = address, .fd = fd };
	return unused;
}

static void learn(struct peers *peers, uint32_t address, const uint8_t *frame)
{
	struct peer *peer = peer_at(peers, address);

	if (!peer || frame[ETHERNET_SOURCE] & 1)
		return;
	memcpy(&peer->mac, frame + ETHERNET_SOURCE, MAC_SIZE);
	peer->has_mac = true;
}

const uint8_t *peers_receive(struct peers *peers, const struct mac *mac, size_t *length)
{
	for (;;) {
		ssize_t got = recv(peers->inbox, peers->buffer, sizeof peers->buffer, 0);
		const uint8_t *frame = peers->buffer + 4;

		if (got < 0)
			return NULL;
		if (got < 4 + ETHERNET_SIZE)
			continue;
		learn(peers, get32(peers->buffer), frame);
		*length = (size_t)got - 4;
		if (frame[0] & 1 || mac_equal(frame, mac))
			return frame;
	}
}

/* 0: sent, or nobody is there; EAGAIN: no room. */
static int send_to(struct peers *peers, struct peer *peer, const uint8_t *frame, size_t length)
{
	uint8_t own[4];
	struct iovec parts[] = { { own, sizeof own }, { (void *)(uintptr_t)frame, length } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	put32(own, peers->own);
	if (sendmsg(peer->fd, &message, MSG_NOSIGNAL) >= 0) {
		peer->is_slow = false;
		return 0;
	}
	if (errno == EAGAIN || errno == ENOBUFS)
		return EAGAIN;
	forget(peer); /* it is gone; who comes in its place binds anew */
	return 0;
}

struct peer *peers_send(struct peers *peers, const uint8_t *frame, size_t length)
{
	for (size_t i = 0; i < MOST_PEERS; i++) {
		struct peer *peer = &peers->peer[i];

		if (peer->address && peer->has_mac && mac_equal(&peer->mac, frame)) {
			bool was_slow = peer->is_slow;

			return send_to(peers, peer, frame, length) && !was_slow ? peer : NULL;
		}
	}
	peers_send_all(peers, frame, length);
	return NULL;
}

void peers_send_all(struct peers *peers, const uint8_t *frame, size_t length)
{
	const struct dirent *entry;

	rewinddir(peers->folder);
	while ((entry = readdir(peers->folder))) {
		uint32_t address;
		struct peer *peer;

		if (!address_parse(entry->d_name, &address) || address == peers->own)
			continue;
		peer = peer_at(peers, address);
		if (peer)
			send_to(peers, peer, frame, length);
	}
}
