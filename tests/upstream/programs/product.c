/* What stands in for a product that upstream's texts download or compile: a static program that is `consul`, `minio` or
 * `kafka-proxy` by its name, takes the arguments that upstream's entrypoint scripts give, listens where the product does,
 * and answers every HTTP request with who it is: user, groups, capabilities, arguments, environment.
 *
 * Its version is what follows "\nversion:" at the end of its own file, as a linker's -X would put it there. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

enum { MAXIMUM = 32, ROOM = 16384 };

extern char **environ;

struct listener {
	int fd, type, port;
	const char *target; /* HOST:PORT that connections are passed on to; NULL: answered with HTTP */
};

static struct listener listeners[MAXIMUM];
static int count;
static char **arguments;
static const char *product;
static char version[64] = "unknown";

static void read_version(void)
{
	static char tail[256];
	FILE *file = fopen("/proc/self/exe", "r");
	char *found = NULL;
	size_t size = 0;

	if (!file)
		return;
	if (!fseek(file, -(long)(sizeof tail - 1), SEEK_END))
		size = fread(tail, 1, sizeof tail - 1, file);
	fclose(file);
	for (size_t i = 0; i + 9 < size; i++)
		if (!memcmp(tail + i, "\nversion:", 9))
			found = tail + i + 9;
	if (found)
		snprintf(version, sizeof version, "%.*s", (int)strcspn(found, "\n"), found);
}

/* The value of an option written -name=VALUE, -name VALUE, or the same with two dashes; NULL where it is not given. */
static const char *option(const char *name)
{
	size_t length = strlen(name);

	for (char **word = arguments; *word; word++) {
		const char *text = *word;
		if (*text != '-')
			continue;
		text += text[1] == '-' ? 2 : 1;
		if (strncmp(text, name, length))
			continue;
		if (text[length] == '=')
			return text + length + 1;
		if (!text[length])
			return word[1];
	}
	return NULL;
}

static void listen_at(const char *address, int port, int type, const char *target)
{
	struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), yes = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (inet_pton(AF_INET, address, &place.sin_addr) != 1 || bind(fd, (struct sockaddr *)&place, sizeof place) ||
	    (type == SOCK_STREAM && listen(fd, 64))) {
		fprintf(stderr, "%s: listen %s:%d: %s\n", product, address, port, strerror(errno));
		exit(1);
	}
	listeners[count++] = (struct listener){.fd = fd, .type = type, .port = port, .target = target};
}

static size_t add_status(char *text, size_t used, const char *field)
{
	char line[512];
	FILE *file = fopen("/proc/self/status", "r");

	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, field, strlen(field)))
			used += snprintf(text + used, ROOM - used, "%s", line);
	if (file)
		fclose(file);
	return used;
}

static size_t describe(char *text, int port)
{
	size_t used = snprintf(text, ROOM, "product: %s %s\nport: %d\nuser: %d:%d\nprocess: %d\nparent: %d\narguments:", product,
			       version, port, geteuid(), getegid(), getpid(), getppid());

	for (char **word = arguments; *word; word++)
		used += snprintf(text + used, ROOM - used, " [%s]", *word);
	used += snprintf(text + used, ROOM - used, "\n");
	used = add_status(text, used, "Groups:");
	used = add_status(text, used, "CapEff:");
	for (char **entry = environ; *entry && used < ROOM - 1024; entry++)
		used += snprintf(text + used, ROOM - used, "env: %s\n", *entry);
	return used;
}

static void answer_http(int client, int port)
{
	static char text[ROOM], request[4096];
	struct timeval patience = {.tv_sec = 5};
	size_t size = describe(text, port);

	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (recv(client, request, sizeof request, 0) > 0)
		dprintf(client, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n"
				"Connection: close\r\n\r\n%s", size, text);
}

static int dial(const char *target)
{
	struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
	char host[256];
	const char *colon = strrchr(target, ':');
	int fd = -1;

	snprintf(host, sizeof host, "%.*s", (int)(colon - target), target);
	if (getaddrinfo(host, colon + 1, &hints, &found))
		return -1;
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, found->ai_addr, found->ai_addrlen)) {
		close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd;
}

/* Copy both ways until either side has said its last. */
static void relay(int client, const char *target)
{
	static char data[ROOM];
	int server = dial(target), open = 2;
	struct pollfd ends[2] = {{.fd = client, .events = POLLIN}, {.fd = server, .events = POLLIN}};

	if (server < 0)
		fprintf(stderr, "%s: couldn't connect to %s\n", product, target);
	while (server >= 0 && open > 0 && poll(ends, 2, -1) >= 0)
		for (int side = 0; side < 2; side++) {
			int other = side ? client : server;
			ssize_t got;
			if (!ends[side].revents)
				continue;
			got = read(side ? server : client, data, sizeof data);
			if (got > 0 && send(other, data, got, MSG_NOSIGNAL) == got)
				continue;
			shutdown(other, SHUT_WR);
			ends[side].fd = -1;
			open--;
		}
}

static void serve_one(struct listener *from)
{
	int client = accept(from->fd, NULL, NULL);

	if (client < 0)
		return;
	if (fork() == 0) {
		if (from->target)
			relay(client, from->target);
		else
			answer_http(client, from->port);
		_exit(0);
	}
	close(client);
}

static void answer_datagram(struct listener *from)
{
	struct sockaddr_in sender;
	socklen_t length = sizeof sender;
	char data[512], text[128];
	int size;

	if (recvfrom(from->fd, data, sizeof data, 0, (struct sockaddr *)&sender, &length) < 0)
		return;
	size = snprintf(text, sizeof text, "%s %d/udp user %d\n", product, from->port, geteuid());
	sendto(from->fd, text, size, 0, (struct sockaddr *)&sender, length);
}

static void stop(int number)
{
	dprintf(1, "%s: signal %d: shutting down\n", product, number);
	_exit(0);
}

static int serve(void)
{
	struct pollfd waits[MAXIMUM];

	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	signal(SIGCHLD, SIG_IGN);
	printf("%s %s: serving as %d:%d\n", product, version, geteuid(), getegid());
	fflush(stdout);
	while (count > 0) {
		for (int i = 0; i < count; i++)
			waits[i] = (struct pollfd){.fd = listeners[i].fd, .events = POLLIN};
		if (poll(waits, count, -1) < 0)
			continue;
		for (int i = 0; i < count; i++)
			if (waits[i].revents && listeners[i].type == SOCK_STREAM)
				serve_one(&listeners[i]);
			else if (waits[i].revents)
				answer_datagram(&listeners[i]);
	}
	return 1;
}

/* Leave a file in the folder of the product's state, which must be the user's own. */
static void keep_state(const char *folder, const char *name)
{
	char path[512];
	FILE *file;

	mkdir(folder, 0755);
	snprintf(path, sizeof path, "%s/%s", folder, name);
	file = fopen(path, "w");
	if (!file) {
		fprintf(stderr, "%s: %s: %s\n", product, path, strerror(errno));
		exit(1);
	}
	fprintf(file, "%s %s\n", product, version);
	fclose(file);
}

static int consul(void)
{
	const char *command = arguments[1] ? arguments[1] : "--help";
	const char *client = option("client"), *dns = option("dns-port"), *data = option("data-dir");

	if (!strcmp(command, "version"))
		return printf("Consul v%s\n", version), 0;
	if (strcmp(command, "agent")) {
		if (arguments[1] && arguments[2] && !strcmp(arguments[2], "agent"))
			return puts("Usage: consul agent [options]"), 0;
		return puts("Usage: consul [--version] [--help] <command> [<args>]\n    agent\n    version"), 127;
	}
	if (data)
		keep_state(data, "node-id");
	for (int port = 8300; port <= 8302; port++)
		listen_at("0.0.0.0", port, SOCK_STREAM, NULL);
	listen_at("0.0.0.0", 8301, SOCK_DGRAM, NULL);
	listen_at("0.0.0.0", 8302, SOCK_DGRAM, NULL);
	client = client ? client : "127.0.0.1";
	listen_at(client, 8500, SOCK_STREAM, NULL);
	listen_at(client, dns ? atoi(dns) : 8600, SOCK_STREAM, NULL);
	listen_at(client, dns ? atoi(dns) : 8600, SOCK_DGRAM, NULL);
	return serve();
}

static int minio(void)
{
	if (!arguments[1])
		return puts("NAME:\n  minio - High Performance Object Storage\nUSAGE:\n  minio COMMAND [ARGS...]"), 0;
	if (!strcmp(arguments[1], "--version"))
		return printf("minio version %s\n", version), 0;
	if (strcmp(arguments[1], "server") || !arguments[2])
		return fprintf(stderr, "minio: '%s' is not a minio sub-command\n", arguments[1]), 1;
	keep_state(arguments[2], "format.json");
	listen_at("0.0.0.0", 9000, SOCK_STREAM, NULL);
	return serve();
}

/* server --bootstrap-server-mapping HOST:PORT,ADDRESS:PORT */
static int kafka_proxy(void)
{
	const char *mapping = option("bootstrap-server-mapping");
	static char target[256], place[256];
	char *colon;

	if (!arguments[1] || !strcmp(arguments[1], "--help"))
		return puts("Usage:\n  kafka-proxy [command]\n\nAvailable Commands:\n  help\n  server      Run the kafka-proxy server"), 0;
	if (strcmp(arguments[1], "server"))
		return fprintf(stderr, "Error: unknown command \"%s\" for \"kafka-proxy\"\n", arguments[1]), 1;
	if (!mapping || sscanf(mapping, "%255[^,],%255s", target, place) != 2 || !(colon = strrchr(place, ':')))
		return fprintf(stderr, "Error: list of bootstrap-server-mapping must not be empty\n"), 1;
	*colon = '\0';
	listen_at(place, atoi(colon + 1), SOCK_STREAM, target);
	listen_at("0.0.0.0", 9080, SOCK_STREAM, NULL);
	return serve();
}

int main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');

	(void)argc;
	arguments = argv;
	product = slash ? slash + 1 : argv[0];
	read_version();
	if (!strcmp(product, "consul"))
		return consul();
	if (!strcmp(product, "minio"))
		return minio();
	if (!strcmp(product, "kafka-proxy"))
		return kafka_proxy();
	printf("%s %s\n", product, version);
	return 0;
}
