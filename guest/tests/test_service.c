#include "check.h"
#include "protocol.h"
#include "service.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The whole service on the host, as an ordinary process: it starts real programs, and the test is its host. */

static int host;
static pid_t guest;
static unsigned char payload[PAYLOAD_LIMIT + 1];
static size_t length;
static unsigned process;

static void nothing(void)
{
}

static const char *document(const char *argv, const char *more)
{
	static char text[4096];

	snprintf(text, sizeof text,
		 "{\"version\":1,\"root\":{\"layers\":[]},\"channel\":{\"type\":\"vsock\"},\"process\":{\"argv\":%s,"
		 "\"env\":[\"PATH=/bin:/usr/bin\",\"A=1\"]}%s}",
		 argv, more);
	return text;
}

static void begin(const char *text)
{
	static struct machine machine;
	static struct channel channel;
	struct failure failure;
	int ends[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	guest = fork();
	if (guest == 0) {
		close(ends[0]);
		service_block_signals();
		CHECK(!document_parse(strdup(text), strlen(text), &machine, &failure));
		CHECK(!fcntl(ends[1], F_SETFL, O_NONBLOCK));
		channel_init(&channel, &machine.channel, ends[1]);
		service_run(&machine, &channel, NULL, nothing);
		_exit(0);
	}
	close(ends[1]);
	host = ends[0];
}

static void send_frame(enum frame_type type, unsigned number, const char *data, size_t count)
{
	unsigned char header[HEADER_SIZE] = { (unsigned char)count, (unsigned char)(count >> 8),
					      (unsigned char)(count >> 16), 0, (unsigned char)type, 0,
					      (unsigned char)number, (unsigned char)(number >> 8) };

	CHECK(write(host, header, sizeof header) == sizeof header && write(host, data, count) == (ssize_t)count);
}

static void order(enum frame_type type, unsigned number, const char *json)
{
	send_frame(type, number, json, strlen(json));
}

static void read_exactly(void *data, size_t count)
{
	for (size_t got = 0; got < count;) {
		struct pollfd readable = { .fd = host, .events = POLLIN };
		ssize_t part;

		CHECK(poll(&readable, 1, 20000) == 1);
		part = read(host, (char *)data + got, count - got);
		CHECK(part > 0);
		got += (size_t)part;
	}
}

/* The next frame's type; its payload, NUL-terminated, in `payload`. */
static enum frame_type next(void)
{
	unsigned char header[HEADER_SIZE];

	read_exactly(header, sizeof header);
	length = header[0] | (size_t)header[1] << 8 | (size_t)header[2] << 16;
	process = header[6] | (unsigned)header[7] << 8;
	read_exactly(payload, length);
	payload[length] = '\0';
	return header[4];
}

/* Read up to a frame of that type and process; output of that process on the way is added to `output`. */
static char output[1 << 16];

static void expect(enum frame_type wanted, unsigned number)
{
	enum frame_type type;

	do {
		type = next();
		if ((type == FRAME_STDOUT || type == FRAME_STDERR) && process == number &&
		    strlen(output) + length < sizeof output)
			strcat(output, (char *)payload);
	} while (type != wanted || process != number);
}

static void contains(const char *wanted)
{
	if (strstr((char *)payload, wanted))
		return;
	fprintf(stderr, "no %s in %s\n", wanted, (char *)payload);
	exit(1);
}

static void greet(void)
{
	*output = '\0';
	expect(FRAME_HELLO, 0);
	order(FRAME_HELLO, 0, "{\"protocol\":1}");
}

static void end(void)
{
	int status;

	order(FRAME_SHUTDOWN, 0, "{}");
	CHECK(waitpid(guest, &status, 0) == guest && status == 0);
	close(host);
}

static void the_process_is_told_of_from_its_start_to_its_end(void)
{
	begin(document("[\"sh\",\"-c\",\"echo out; echo $A; exit 7\"]", ""));
	greet();
	expect(FRAME_STARTED, 1);
	contains("\"uid\":");
	expect(FRAME_EXITED, 1);
	contains("{\"code\":7,\"oom\":false}");
	CHECK_TEXT(output, "out\n1\n");
	end();
}

static void what_cannot_start_is_a_failure(void)
{
	begin(document("[\"nosuch\"]", ",\"restart\":{\"policy\":\"always\"}"));
	greet();
	expect(FRAME_FAILED, 1);
	contains("\"status\":127");
	CHECK_TEXT(output, "");
	end();
}

static void it_starts_again_until_it_is_stopped(void)
{
	begin(document("[\"sh\",\"-c\",\"exit 3\"]", ",\"restart\":{\"policy\":\"always\"}"));
	greet();
	expect(FRAME_STARTED, 1);
	expect(FRAME_EXITED, 1);
	contains("\"again\":100");
	expect(FRAME_STARTED, 1);
	contains("\"restarts\":1");
	expect(FRAME_EXITED, 1);
	contains("\"again\":200");
	order(FRAME_STOP, 1, "{\"signal\":15,\"timeout_ms\":1000}");
	expect(FRAME_EXITED, 1);
	CHECK(!strstr((char *)payload, "again"));
	end();
}

static void others_run_beside_it(void)
{
	begin(document("[\"sleep\",\"60\"]", ""));
	greet();
	expect(FRAME_STARTED, 1);
	order(FRAME_EXEC, 2, "{\"argv\":[\"sh\",\"-c\",\"cat; echo $A$B\"],\"env\":[\"B=2\",\"A=x\"],\"stdin\":true}");
	send_frame(FRAME_STDIN, 2, "in\n", 3);
	send_frame(FRAME_STDIN, 2, "", 0);
	expect(FRAME_EXITED, 2);
	contains("\"code\":0");
	CHECK_TEXT(output, "in\nx2\n");
	*output = '\0';
	order(FRAME_EXEC, 2, "{\"argv\":[\"sh\",\"-c\",\"stty size; kill -9 $$\"],\"env\":[],\"tty\":{\"rows\":7,\"columns\":9}}");
	expect(FRAME_EXITED, 2);
	contains("{\"signal\":9,\"oom\":false}");
	CHECK_TEXT(output, "7 9\r\n");
	order(FRAME_EXEC, 3, "{\"argv\":[\"nosuch\"],\"env\":[]}");
	expect(FRAME_FAILED, 3);
	order(FRAME_EXEC, 3, "{\"argv\":[]}");
	expect(FRAME_FAILED, 3);
	order(FRAME_EXEC, 1, "{\"argv\":[\"true\"],\"env\":[]}");
	order(FRAME_SIGNAL, 1, "{\"signal\":15}");
	expect(FRAME_EXITED, 1);
	contains("{\"signal\":15");
	end();
}

static void a_client_that_does_not_read_stops_its_own_process_only(void)
{
	size_t got = 0;

	begin(document("[\"sleep\",\"60\"]", ""));
	greet();
	expect(FRAME_STARTED, 1);
	order(FRAME_EXEC, 2, "{\"argv\":[\"sh\",\"-c\",\"head -c 1000000 /dev/zero\"],\"env\":[]}");
	expect(FRAME_STARTED, 2);
	while (got < OUTPUT_WINDOW) {
		CHECK(next() == FRAME_STDOUT && process == 2);
		got += length;
	}
	CHECK(got == OUTPUT_WINDOW);
	order(FRAME_EXEC, 3, "{\"argv\":[\"echo\",\"x\"],\"env\":[]}");
	while (process != 3 || length == 0) { /* nothing more of 2 comes */
		next();
		CHECK(process == 3);
	}
	expect(FRAME_EXITED, 3);
	while (got < 1000000) {
		unsigned char credit[4] = { 0, 0, 1 };

		send_frame(FRAME_CREDIT, 2, (char *)credit, 4);
		for (size_t part = 0; part < 65536 && got < 1000000;) {
			CHECK(next() == FRAME_STDOUT && process == 2);
			part += length;
			got += length;
		}
	}
	expect(FRAME_EXITED, 2);
	order(FRAME_EXEC, 4, "{\"argv\":[\"cat\",\"/dev/zero\"],\"env\":[]}");
	expect(FRAME_STARTED, 4);
	order(FRAME_CLOSE, 4, "{}"); /* its pipe is closed, and it ends */
	expect(FRAME_EXITED, 4);
	contains("{\"signal\":13");
	order(FRAME_STOP, 1, "{\"signal\":15,\"timeout_ms\":1000}");
	expect(FRAME_EXITED, 1);
	end();
}

static void a_check_tells_of_health(void)
{
	begin(document("[\"sleep\",\"60\"]",
		       ",\"health\":{\"argv\":[\"sh\",\"-c\",\"echo no; echo bad >&2; exit 4\"],\"interval_ms\":20,"
		       "\"timeout_ms\":5000,\"retries\":2}"));
	greet();
	expect(FRAME_HEALTH, 1);
	contains("{\"status\":\"starting\",\"streak\":1,");
	contains("\"code\":4,\"output\":\"");
	contains("no\\u000a");
	contains("bad\\u000a");
	expect(FRAME_HEALTH, 1);
	contains("{\"status\":\"unhealthy\",\"streak\":2,");
	order(FRAME_STOP, 1, "{\"signal\":9,\"timeout_ms\":0}");
	expect(FRAME_EXITED, 1);
	end();
	begin(document("[\"sleep\",\"60\"]", ",\"health\":{\"argv\":[\"sh\",\"-c\",\"echo x; sleep 60 & wait\"],\"interval_ms\":1,"
					     "\"timeout_ms\":1500}"));
	greet();
	expect(FRAME_HEALTH, 1);
	contains("\"code\":-1,\"output\":\"x\\u000a\"");
	order(FRAME_STOP, 1, "{\"signal\":9,\"timeout_ms\":0}");
	expect(FRAME_EXITED, 1);
	end();
}

static void the_host_asks_for_figures_and_files(void)
{
	begin(document("[\"sleep\",\"60\"]", ""));
	greet();
	expect(FRAME_STARTED, 1);
	order(FRAME_STATS, 0, "{}");
	expect(FRAME_STATS, 0);
	contains("\"memory\":{\"total\":");
	contains("\"pids\":");
	order(FRAME_TOP, 0, "{}");
	for (bool found = false; !found || strstr((char *)payload, "\"more\":true");) {
		expect(FRAME_TOP, 0);
		found = found || strstr((char *)payload, "\"argv\":[\"sleep\",\"60\"]");
		CHECK(found || strstr((char *)payload, "\"more\":true"));
	}
	order(FRAME_STAT, 5, "{\"path\":\"/dev/null\",\"follow\":false}");
	expect(FRAME_STAT, 5);
	contains("{\"name\":\"null\",\"mode\":8630,");
	order(FRAME_STAT, 6, "{\"path\":\"/nosuch\"}");
	expect(FRAME_FAILED, 6);
	contains("\"stage\":\"file\",\"errno\":2");
	order(FRAME_READ, 7, "{\"path\":\"/etc/hostname\",\"follow\":true}");
	expect(FRAME_STAT, 7);
	expect(FRAME_STDOUT, 7);
	CHECK(!memcmp(payload, "hostname", 9) || !memcmp(payload, "PaxHeaders/x", 12));
	expect(FRAME_EXITED, 7);
	order(FRAME_STOP, 1, "{\"signal\":9,\"timeout_ms\":0}");
	expect(FRAME_EXITED, 1);
	end();
}

static void nonsense_is_no_obstacle(void)
{
	static char endless[CONTROL_LIMIT + 10];

	begin(document("[\"sleep\",\"60\"]", ",\"x\":1"));
	greet();
	memset(endless, '[', sizeof endless);
	for (unsigned type = 0; type < 256; type++) {
		if (type == FRAME_SHUTDOWN)
			continue;
		send_frame(type, 77, "", 0);
		send_frame(type, 77, "{}", 2);
		send_frame(type, 77, endless, sizeof endless);
	}
	order(FRAME_PING, 0, "still there");
	do
		expect(FRAME_PONG, 0); /* the nonsense held some, too */
	while (strcmp((char *)payload, "still there"));
	order(FRAME_SHUTDOWN, 0, "{}");
	expect(FRAME_EXITED, 1);
	end();
}

static void a_frozen_machine_is_silent_until_it_is_thawed(void)
{
	struct pollfd readable = { .events = POLLIN };

	begin(document("[\"false\"]", ",\"restart\":{\"policy\":\"always\"}"));
	greet();
	expect(FRAME_EXITED, 1); /* and will start again */
	order(FRAME_FREEZE, 0, "{}");
	expect(FRAME_FREEZE, 0);
	contains("\"frozen\":false,\"message\":\"the machine's process does not run\"");
	end();

	begin(document("[\"sh\",\"-c\",\"while :; do echo tick; done\"]", ""));
	greet();
	expect(FRAME_STARTED, 1);
	order(FRAME_FREEZE, 0, "{}");
	expect(FRAME_FREEZE, 0);
	contains("{\"frozen\":true}");
	readable.fd = host;
	CHECK(poll(&readable, 1, 200) == 0);
	order(FRAME_THAW, 0, "{\"clone\":{\"hostname\":\"other\"}}");
	expect(FRAME_THAW, 0);
	expect(FRAME_STDOUT, 1);
	end();
}

int main(void)
{
	if (getuid() != 0)
		return 0; /* setgroups is root's */
	the_process_is_told_of_from_its_start_to_its_end();
	what_cannot_start_is_a_failure();
	it_starts_again_until_it_is_stopped();
	others_run_beside_it();
	a_client_that_does_not_read_stops_its_own_process_only();
	a_check_tells_of_health();
	the_host_asks_for_figures_and_files();
	nonsense_is_no_obstacle();
	a_frozen_machine_is_silent_until_it_is_thawed();
	return 0;
}
