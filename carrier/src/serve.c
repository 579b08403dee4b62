#include "carrier.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hosts.h"
#include "names.h"
#include "packet.h"
#include "peers.h"

#define MOST_ASKED 64
#define MOST_SERVERS 3
#define PATIENCE 5 /* seconds that a server of the host's has */
#define LONGEST_MESSAGE 4096

/* A question that a server of the host's was asked, by a socket of its own: its port can't be guessed. */
struct asked {
	int fd; /* -1: none */
	struct sockaddr_in client;
	uint8_t id[2];
	time_t until;
};

struct server {
	int listener;
	bool is_internal;
	struct asked asked[MOST_ASKED];
	unsigned int failures; /* of servers, each of which makes the next one's turn */
	uint8_t message[LONGEST_MESSAGE];
};

static time_t seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec;
}

/* A server of the host's, as /etc/resolv.conf says now. */
static bool choose_server(unsigned int number, struct sockaddr_in *server)
{
	uint32_t found[MOST_SERVERS];
	unsigned int count = 0;
	char line[256], word[64];
	FILE *file = fopen("/etc/resolv.conf", "re");

	while (file && count < MOST_SERVERS && fgets(line, sizeof line, file))
		if (sscanf(line, "nameserver %63s", word) == 1 && address_parse(word, &found[count]))
			count++;
	if (file)
		fclose(file);
	if (!count)
		return false;
	*server = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(PORT_DNS) };
	server->sin_addr.s_addr = htonl(found[number % count]);
	return true;
}

static void forget(struct asked *asked)
{
	close(asked->fd);
	asked->fd = -1;
}

/* False where nobody could be asked. */
static bool pass_on(struct server *server, const struct sockaddr_in *client, size_t length)
{
	struct sockaddr_in to;
	struct asked *asked = server->asked;
	int fd;

	while (asked < server->asked + MOST_ASKED && asked->fd >= 0)
		asked++;
	if (asked == server->asked + MOST_ASKED || !choose_server(server->failures, &to))
		return false;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	if (connect(fd, (struct sockaddr *)&to, sizeof to) || send(fd, server->message, length, 0) < 0) {
		close(fd);
		server->failures++;
		return false;
	}
	*asked = (struct asked){ .fd = fd, .client = *client, .until = seconds() + PATIENCE };
	memcpy(asked->id, server->message, sizeof asked->id);
	return true;
}

static void answer(struct server *server, const struct sockaddr_in *client, const struct question *question,
		   const uint32_t *addresses, size_t count, unsigned int rcode)
{
	uint8_t made[LONGEST_ANSWER];
	size_t size = names_answer(server->message, question, addresses, count, rcode, made);

	sendto(server->listener, made, size, 0, (const struct sockaddr *)client, sizeof *client);
}

static void on_question(struct server *server)
{
	struct sockaddr_in client;
	socklen_t size = sizeof client;
	struct question question;
	uint32_t addresses[MOST_ADDRESSES];
	bool is_known;
	size_t count;
	ssize_t got = recvfrom(server->listener, server->message, sizeof server->message, 0,
			       (struct sockaddr *)&client, &size);

	if (got < 0 || !names_parse(server->message, (size_t)got, &question))
		return;
	count = hosts_find(question.name, addresses, &is_known);
	if (is_known)
		answer(server, &client, &question, addresses, count, count ? 0 : RCODE_NXDOMAIN);
	else if (server->is_internal)
		answer(server, &client, &question, NULL, 0, RCODE_NXDOMAIN);
	else if (!pass_on(server, &client, (size_t)got))
		answer(server, &client, &question, NULL, 0, RCODE_SERVFAIL);
}

static void on_answer(struct server *server, struct asked *asked)
{
	ssize_t got = recv(asked->fd, server->message, sizeof server->message, 0);

	if (got < 0) {
		server->failures += errno != EAGAIN;
	} else if (got >= 2 && !memcmp(server->message, asked->id, sizeof asked->id)) {
		sendto(server->listener, server->message, (size_t)got, 0, (struct sockaddr *)&asked->client,
		       sizeof asked->client);
		forget(asked);
	}
}

static void turn(struct server *server)
{
	struct pollfd sources[MOST_ASKED + 1];
	time_t now = seconds();
	bool is_waiting = false;

	for (size_t i = 0; i < MOST_ASKED; i++) {
		if (server->asked[i].fd >= 0 && server->asked[i].until < now) {
			forget(&server->asked[i]);
			server->failures++;
		}
		is_waiting |= server->asked[i].fd >= 0;
		sources[i] = (struct pollfd){ server->asked[i].fd, POLLIN, 0 };
	}
	sources[MOST_ASKED] = (struct pollfd){ server->listener, POLLIN, 0 };
	if (poll(sources, MOST_ASKED + 1, is_waiting ? 1000 : -1) <= 0)
		return;
	for (size_t i = 0; i < MOST_ASKED; i++)
		if (sources[i].revents)
			on_answer(server, &server->asked[i]);
	if (sources[MOST_ASKED].revents)
		on_question(server);
}

/* Each machine of the network has such a server, at one address: the kernel gives every question to one of those there. */
static int listen_at(uint32_t address)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(PORT_DNS) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), yes = 1;

	name.sin_addr.s_addr = htonl(address);
	if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes) ||
			bind(fd, (struct sockaddr *)&name, sizeof name))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

int serve(const struct options *options)
{
	struct server *server = calloc(1, sizeof *server);
	struct peers *peers = calloc(1, sizeof *peers);

	if (!server || !peers)
		return complain("memory");
	for (size_t i = 0; i < MOST_ASKED; i++)
		server->asked[i].fd = -1;
	if (!peers_open(peers, options->place.address))
		return complain("the machine's socket in its network");
	server->is_internal = options->is_internal;
	server->listener = listen_at(options->place.gateway);
	if (server->listener < 0)
		return complain("port 53 of the gateway");
	ready();
	for (;;)
		turn(server);
}
