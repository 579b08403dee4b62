/* Mutations of good inputs, fed to everything that reads what others wrote. usage: fuzz TARGET SECONDS SEED FOLDER
 *
 * Compiled with the sanitizers, so that whatever is read or written where it must not be ends the program; what it was
 * fed then lies in FOLDER/input. No library is needed: this finds less than a coverage-guided fuzzer would, more often.
 */
#include "channel.h"
#include "check.h"
#include "cmdline.h"
#include "document.h"
#include "flat.h"
#include "foreign.h"
#include "json.h"
#include "orders.h"
#include "service.h"
#include "tar.h"
#include "users.h"
#include "verity.h"

#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define LIMIT (1 << 16)

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0"; /* a document is kept for ever */
}

static unsigned long long state;
static const char *folder;

static unsigned roll(unsigned sides)
{
	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return sides ? (unsigned)(state >> 33) % sides : 0;
}

/* --- what is fed --------------------------------------------------------------------------------------------------- */

static void feed_json(unsigned char *data, size_t length)
{
	static struct json nodes[2000];
	struct machine machine;
	struct failure failure;
	char *copy = malloc(length + 1), *text = malloc(length + 1);

	memcpy(copy, data, length);
	memcpy(text, data, length);
	copy[length] = text[length] = '\0';
	json_parse(copy, length, nodes, sizeof nodes / sizeof *nodes);
	document_parse(text, length, &machine, &failure);
	free(copy);
	free(text);
}

static void feed_users(unsigned char *data, size_t length)
{
	static struct user user;
	struct failure failure;
	char *text = malloc(length + 1), *names[] = { (char[]){ "wheel" }, (char[]){ "10" }, NULL }, name[32];
	size_t half = length / 2, word = length < 20 ? length : 20;
	char wanted[21];

	memcpy(text, data, length);
	text[length] = '\0';
	memcpy(wanted, data, word);
	wanted[word] = '\0';
	user_resolve(wanted, text, text + half, &user, &failure);
	user_resolve("bob:wheel", text, text + half, &user, &failure);
	user_add_groups(&user, names, text, &failure);
	user_name(text, 1000, name, sizeof name);
	foreign_status(wanted);
	free(text);
}

static void take_frame(void *context, const struct frame *frame)
{
	unsigned char *sum = context;

	for (size_t i = 0; i < frame->length; i++)
		*sum ^= frame->payload[i];
}

static void feed_frames(unsigned char *data, size_t length)
{
	static const struct channel_config vsock = { .port = 1 };
	static struct channel channel;
	unsigned char sum = 0;
	size_t sent = 0;
	int ends[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
	channel_init(&channel, &vsock, ends[1]);
	channel_attach(&channel);
	while (sent < length && channel.attached) {
		size_t part = 1 + roll(8000);
		ssize_t written = write(ends[0], data + sent, part < length - sent ? part : length - sent);

		sent += written > 0 ? (size_t)written : 0;
		channel_serve(&channel, POLLIN, take_frame, &sum);
	}
	close(ends[0]);
	if (channel.fd >= 0)
		close(channel.fd);
}

/* What a host orders. Nothing is started, since all is over; and the host's clock is not for us to set. */
static void feed_orders(unsigned char *data, size_t length)
{
	static const struct channel_config vsock = { .port = 1 };
	static struct service service;
	static struct channel channel;
	static struct machine machine;
	static unsigned char answers[1 << 16];
	int ends[2];

	if (geteuid() == 0)
		CHECK(!syscall(SYS_setgroups, 0, NULL) && !setgid(65534) && !setuid(65534));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
	channel_init(&channel, &vsock, ends[1]);
	channel_attach(&channel);
	service = (struct service){ .machine = &machine, .channel = &channel, .over = true, .signals = -1 };
	for (unsigned number = PROCESS_MAIN; number <= 3; number++) {
		struct process process = { .input = open("/dev/null", O_WRONLY), .output = -1, .error = -1, .report = -1 };

		task_begin(&service.tasks[number - 1], number, number == 3 ? TASK_WRITE : TASK_PROGRAM, &process);
		service.tasks[number - 1].running = number != 3; /* else it would be killed: pid 0 is our group */
	}
	for (size_t sent = 0; sent < length && channel.attached;) {
		ssize_t written = write(ends[0], data + sent, length - sent);

		sent += written > 0 ? (size_t)written : 0;
		channel_serve(&channel, POLLIN, orders_take, &service);
		while (read(ends[0], answers, sizeof answers) > 0)
			continue;
	}
	for (size_t i = 0; i < MAX_TASKS; i++)
		if (service.tasks[i].number != PROCESS_NONE)
			task_end(&service.tasks[i]);
	close(ends[0]);
	if (channel.fd >= 0)
		close(channel.fd);
}

static void feed_cmdline(unsigned char *data, size_t length)
{
	char *line = malloc(length + 1), *value = malloc(length + 1);
	struct machine machine = { 0 };
	struct failure failure;
	struct verity verity;

	memcpy(line, data, length);
	line[length] = '\0';
	cmdline_find(line, "rw", NULL, 0);
	cmdline_find(line, "root", value, length < 20 ? length + 1 : 20);
	if (cmdline_find(line, "firekiln.verity", value, length + 1))
		verity_parse(value, &verity, &failure);
	if (cmdline_find(line, "ip", value, length + 1))
		flat_network_parse(value, &machine, &failure);
	free(value);
	free(line);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
	(void)status;
	(void)type;
	(void)where;
	remove(path);
	return 0;
}

/* An archive's links may lead anywhere, and it is unpacked through them: here, no further than the folder. */
static void confine(void)
{
	if (chroot(folder) || chdir("/")) {
		fprintf(stderr, "the target tar is for root, who can be confined to FOLDER\n");
		exit(2);
	}
	folder = "";
}

static void feed_tar(unsigned char *data, size_t length)
{
	static const char tree[] = "/tree";
	static unsigned rounds;
	struct failure failure;
	int fd = memfd_create("archive", MFD_CLOEXEC);

	if (*folder)
		confine();
	if (rounds++ % 200 == 0)
		nftw(tree, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	mkdir(tree, 0700);
	CHECK(write(fd, data, length) == (ssize_t)length && !lseek(fd, 0, SEEK_SET));
	tar_unpack(fd, tree, false, &failure);
	close(fd);
}

/* --- good inputs --------------------------------------------------------------------------------------------------- */

static size_t seed_json(unsigned char *data)
{
	static const char text[] =
		"{\"version\":1,\"hostname\":\"h\\u00e9\\ud83d\\ude00\\udc80\",\"time_ns\":1,\"root\":{\"layers\":[{\"serial\":"
		"\"l\"}],\"scratch\":{\"index\":2},\"read_only\":true},\"network\":{\"interfaces\":[{\"name\":\"eth0\",\"address\":"
		"\"10.0.0.2\",\"netmask\":\"255.0.0.0\"}],\"nameservers\":[\"1.1.1.1\"],\"hosts\":[]},\"process\":{\"argv\":[\"a\","
		"\"b\"],\"env\":[\"A=1\"],\"rlimits\":[{\"name\":\"nofile\",\"soft\":5,\"hard\":null}],\"groups\":[\"g\"],\"tty\":"
		"{\"rows\":1}},\"mounts\":[{\"type\":\"file\",\"target\":\"/f\",\"base64\":\"Zm9v\"},{\"type\":\"drive\",\"target\":"
		"\"/d\",\"drive\":{\"serial\":\"v\"}}],\"restart\":{\"policy\":\"always\"},\"health\":{\"argv\":[\"x\"]},\"init\":"
		"{\"argv\":[\"/sbin/init\"],\"stop\":{\"signal\":38}},\"sysctls\":{\"a.b\":\"1\"},\"files\":[{\"path\":\"/x\","
		"\"data\":\"y\"}],\"n\":-1.5e+3,\"t\":[true,false,null,[],{}]}";

	memcpy(data, text, sizeof text - 1);
	return sizeof text - 1;
}

static size_t seed_users(unsigned char *data)
{
	static const char text[] = "root:x:0:0:root:/root:/bin/sh\n\nbob:x:1000:1000::/home/bob:/bin/sh\n# x\nodd\n"
				   "wheel:x:10:bob,alice\nroot:x:0:\n:::::::\nbob:x:-5:99999999999999999999\n";

	memcpy(data, text, sizeof text - 1);
	return sizeof text - 1;
}

static size_t seed_frames(unsigned char *data)
{
	size_t used = 0;

	for (unsigned type = 0; type < 60; type++) {
		size_t length = type % 7 * 11;

		memset(data + used, 0, HEADER_SIZE);
		data[used] = (unsigned char)length;
		data[used + 4] = (unsigned char)type;
		memset(data + used + HEADER_SIZE, '{', length);
		used += HEADER_SIZE + length;
	}
	return used;
}

static size_t seed_orders(unsigned char *data)
{
	static const struct {
		enum frame_type type;
		unsigned process;
		const char *payload;
	} orders[] = {
		{ FRAME_HELLO, 0, "{\"protocol\":1,\"time_ns\":5,\"entropy\":\"00ff1E\"}" },
		{ FRAME_PING, 0, "abc" },
		{ FRAME_SIGNAL, 1, "{\"signal\":15,\"ends\":true}" },
		{ FRAME_STOP, 2, "{\"signal\":9,\"timeout_ms\":100}" },
		{ FRAME_EXEC, 4, "{\"argv\":[\"a\"],\"env\":[\"A=1\"],\"user\":null,\"tty\":{\"rows\":1}}" },
		{ FRAME_RESIZE, 1, "{\"rows\":20,\"columns\":70}" },
		{ FRAME_STDIN, 2, "some input" },
		{ FRAME_STDIN, 2, "" },
		{ FRAME_CREDIT, 2, "\1\1\1\1" },
		{ FRAME_READ, 5, "{\"path\":\"/x\",\"follow\":true}" },
		{ FRAME_WRITE, 6, "{\"path\":\"/x\",\"keep_owner\":false}" },
		{ FRAME_STAT, 7, "{\"path\":\"/x\"}" },
		{ FRAME_FREEZE, 0, "{}" },
		{ FRAME_THAW, 0, "{\"clone\":{\"hostname\":\"h\",\"machine_id\":\"0\",\"network\":{\"interfaces\":[]}}}" },
		{ FRAME_CLOSE, 3, "{}" },
		{ FRAME_SHUTDOWN, 0, "{}" },
	};
	size_t used = 0;

	for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
		size_t length = strlen(orders[i].payload);

		memset(data + used, 0, HEADER_SIZE);
		data[used] = (unsigned char)length;
		data[used + 4] = (unsigned char)orders[i].type;
		data[used + 6] = (unsigned char)orders[i].process;
		memcpy(data + used + HEADER_SIZE, orders[i].payload, length);
		used += HEADER_SIZE + length;
	}
	return used;
}

static size_t seed_cmdline(unsigned char *data)
{
	static const char text[] =
		"console=ttyS0 root=\"UUID=1 2\" rootfstype=ext4,erofs rw ip=10.0.0.2::10.0.0.1:255.0.0.0:host:eth0:off:1.1.1.1 "
		"firekiln.verity=1024:00ff:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef -- root=no";

	memcpy(data, text, sizeof text - 1);
	return sizeof text - 1;
}

static size_t seed_tar(unsigned char *data)
{
	static char longest[256], target[1024];
	struct failure failure;
	char path[512], name[1024];
	int fd = memfd_create("seed", MFD_CLOEXEC), back = open(".", O_PATH);
	ssize_t length;

	memset(longest, 'n', 250);
	snprintf(path, sizeof path, "%s/seed", folder);
	CHECK(!mkdir(path, 0700));
	snprintf(name, sizeof name, "%s/%s", path, longest);
	CHECK(!symlink(name, strcat(strcpy(target, path), "/link")));
	CHECK(open(name, O_WRONLY | O_CREAT, 0600) >= 0 && !chdir(path) && !mkdir("d", 0755) && !mkfifo("d/p", 0600));
	CHECK(!tar_write(fd, path, "seed", false, &failure) && !lseek(fd, 0, SEEK_SET));
	length = read(fd, data, LIMIT / 2);
	CHECK(length > 0 && !fchdir(back));
	close(fd);
	return (size_t)length;
}

/* --- mutation ------------------------------------------------------------------------------------------------------ */

static size_t mutate(unsigned char *data, size_t length)
{
	static const unsigned char odd[] = { 0, 1, 0x7F, 0x80, 0xFF, '"', '\\', ':', '\n', '/', '.', '9', '-', '[', '{' };

	for (unsigned count = 1 + roll(6); count && length; count--) {
		size_t at = roll((unsigned)length), part = 1 + roll((unsigned)(length - at));

		switch (roll(6)) {
		case 0:
			data[at] ^= (unsigned char)(1u << roll(8));
			break;
		case 1:
			data[at] = odd[roll(sizeof odd)];
			break;
		case 2:
			data[at] = (unsigned char)roll(256);
			break;
		case 3: /* cut out */
			part = part > 600 ? 600 : part;
			memmove(data + at, data + at + part, length - at - part);
			length -= part;
			break;
		case 4: /* repeat */
			if (length + part > LIMIT)
				break;
			memmove(data + at + part, data + at, length - at);
			length += part;
			break;
		default:
			length = roll(20) ? length : at;
		}
	}
	return length;
}

/* A tar header's checksum, set right: else nothing behind it would ever be looked at. */
static void mend_tar(unsigned char *data, size_t length)
{
	for (size_t at = 0; at + 512 <= length; at += 512) {
		unsigned sum = 0;

		if (memcmp(data + at + 257, "ustar", 5))
			continue;
		memset(data + at + 148, ' ', 8);
		for (size_t i = 0; i < 512; i++)
			sum += data[at + i];
		snprintf((char *)data + at + 148, 8, "%06o", sum & 0777777);
	}
}

static const struct target {
	const char *name;
	size_t (*seed)(unsigned char *data);
	void (*feed)(unsigned char *data, size_t length);
} targets[] = {
	{ "json", seed_json, feed_json },
	{ "users", seed_users, feed_users },
	{ "frames", seed_frames, feed_frames },
	{ "orders", seed_orders, feed_orders },
	{ "cmdline", seed_cmdline, feed_cmdline },
	{ "tar", seed_tar, feed_tar },
};

static void run(const struct target *target, long seconds)
{
	static unsigned char seed[LIMIT], data[LIMIT + 1];
	size_t seed_length = target->seed(seed), length;
	time_t end = time(NULL) + seconds;
	unsigned long rounds = 0;
	char path[512];
	unsigned char *kept;
	int fd;

	snprintf(path, sizeof path, "%s/input", folder);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600); /* mapped: what was fed outlives us */
	CHECK(fd >= 0 && !ftruncate(fd, LIMIT + 1));
	kept = mmap(NULL, LIMIT + 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(kept != MAP_FAILED);
	for (; time(NULL) < end; rounds++) {
		memcpy(data, seed, seed_length);
		length = mutate(data, seed_length);
		if (target->feed == feed_tar && roll(4))
			mend_tar(data, length);
		memcpy(kept, data, length);
		target->feed(data, length);
	}
	printf("%s: %lu inputs\n", target->name, rounds);
}

int main(int argc, char **argv)
{
	CHECK(argc == 5);
	state = strtoull(argv[3], NULL, 10);
	folder = realpath(argv[4], NULL);
	CHECK(folder != NULL);
	for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
		if (!strcmp(argv[1], targets[i].name)) {
			run(&targets[i], atol(argv[2]));
			return 0;
		}
	fprintf(stderr, "no target %s\n", argv[1]);
	return 2;
}
