#include "channel.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct channel channel;
static int host;
static unsigned frames, last_type, last_process;
static size_t bytes;

static void count(void *context, const struct frame *frame)
{
	(void)context;
	frames++;
	bytes += frame->length;
	last_type = frame->type;
	last_process = frame->process;
}

static void connect_channel(void)
{
	static const struct channel_config vsock = { .name = NULL, .port = 1 };
	int ends[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends));
	host = ends[0];
	frames = 0;
	bytes = 0;
	channel_init(&channel, &vsock, ends[1]);
	CHECK(channel_pending(&channel)); /* the greeting */
	channel_attach(&channel);
	CHECK(channel.attached && channel_flush(&channel) && !channel_pending(&channel));
}

static void disconnect(void)
{
	close(host);
	if (channel.fd >= 0)
		close(channel.fd);
	channel.fd = -1;
}

static void serve(void)
{
	channel_serve(&channel, POLLIN, count, NULL);
}

static void the_greeting_comes_first(void)
{
	unsigned char data[256];
	ssize_t length;

	connect_channel();
	length = read(host, data, sizeof data);
	CHECK(length > HEADER_SIZE && data[0] == length - HEADER_SIZE && data[4] == FRAME_HELLO);
	disconnect();
}

static void frames_arrive_whole_however_they_are_cut(void)
{
	static const unsigned char stream[] = { 3, 0, 0, 0, FRAME_PING, 0, 0, 0, 'a', 'b', 'c',
						0, 0, 0, 0, 0x7F,	0, 2, 1 };

	connect_channel();
	for (size_t i = 0; i < sizeof stream; i++) {
		CHECK(write(host, stream + i, 1) == 1);
		serve();
		CHECK(frames == (i < 10 ? 0u : i < 18 ? 1u : 2u));
	}
	CHECK(last_type == 0x7F && last_process == 0x102 && bytes == 3);
	disconnect();
}

static void the_largest_frame_fits_and_a_larger_one_ends_the_connection(void)
{
	static unsigned char data[HEADER_SIZE + PAYLOAD_LIMIT] = { 0, 0, 1, 0, FRAME_STDIN };
	size_t sent = 0;

	connect_channel();
	while (sent < sizeof data) {
		ssize_t written = write(host, data + sent, sizeof data - sent);

		sent += written > 0 ? (size_t)written : 0;
		serve();
	}
	while (!frames)
		serve();
	CHECK(frames == 1 && bytes == PAYLOAD_LIMIT && channel.attached);
	CHECK(write(host, "\1\0\1\0\1\0\0\0", 8) == 8);
	serve();
	CHECK(channel.broken && !channel.attached);
	channel_attach(&channel);
	CHECK(!channel.attached);
	disconnect();
}

static void output_leaves_room_for_control_frames(void)
{
	size_t room, queued = 0;

	connect_channel();
	channel.attached = false; /* nobody takes anything */
	while ((room = channel_room(&channel))) {
		memset(channel_payload(&channel), 'x', room);
		channel_commit(&channel, FRAME_STDOUT, PROCESS_MAIN, room);
		queued += room;
	}
	CHECK(queued > CHANNEL_OUT / 2 && CHANNEL_OUT - channel.out_end >= CHANNEL_RESERVE);
	for (int i = 0; i < 100000; i++) /* and those are bounded, too */
		channel_printf(&channel, FRAME_LOG, PROCESS_NONE, "{\"message\":\"%d\"}", i);
	CHECK(channel.out_end <= CHANNEL_OUT);
	disconnect();
}

static void what_is_queued_arrives_in_order_through_a_slow_reader(void)
{
	static unsigned char data[1 << 16];
	unsigned char next_sent = 0, next_got = 0;
	size_t sent = 0, got = 0, skip = 0;
	ssize_t length;

	connect_channel();
	CHECK(read(host, data, sizeof data) > 0); /* the greeting */
	while (got < 2000000) {
		size_t room = channel_room(&channel);

		if (room && sent < 2000000) {
			unsigned char *payload = channel_payload(&channel);

			for (size_t i = 0; i < room; i++)
				payload[i] = next_sent++;
			channel_commit(&channel, FRAME_STDOUT, PROCESS_MAIN, room);
			sent += room;
		}
		channel_flush(&channel);
		/* headers and payloads are read apart, a little at a time */
		if (!skip) {
			if (recv(host, data, HEADER_SIZE, MSG_PEEK) < HEADER_SIZE)
				continue;
			CHECK(read(host, data, HEADER_SIZE) == HEADER_SIZE && data[4] == FRAME_STDOUT);
			skip = data[0] | (size_t)data[1] << 8 | (size_t)data[2] << 16;
		}
		length = read(host, data, skip < 7001 ? skip : 7001);
		for (ssize_t i = 0; i < length; i++)
			CHECK(data[i] == next_got++);
		skip -= length > 0 ? (size_t)length : 0;
		got += length > 0 ? (size_t)length : 0;
	}
	disconnect();
}

static void a_host_that_goes_is_no_obstacle(void)
{
	connect_channel();
	close(host);
	serve();
	CHECK(!channel.attached);
	channel_printf(&channel, FRAME_LOG, PROCESS_NONE, "{}");
	CHECK(!channel_flush(&channel));
	host = -1;
	disconnect();
}

static void arbitrary_bytes_do_no_harm(void)
{
	unsigned state = 1;

	for (int round = 0; round < 300; round++) {
		connect_channel();
		for (int i = 0; i < 40 && channel.attached; i++) {
			unsigned char data[97];

			for (size_t j = 0; j < sizeof data; j++) {
				state = state * 1664525u + 1013904223u;
				data[j] = j % 8 == 2 || j % 8 == 3 ? (unsigned char)(state >> 31) :
									 (unsigned char)(state >> 24);
			}
			CHECK(write(host, data, sizeof data) == sizeof data);
			serve();
		}
		disconnect();
	}
}

int main(void)
{
	the_greeting_comes_first();
	frames_arrive_whole_however_they_are_cut();
	the_largest_frame_fits_and_a_larger_one_ends_the_connection();
	output_leaves_room_for_control_frames();
	what_is_queued_arrives_in_order_through_a_slow_reader();
	a_host_that_goes_is_no_obstacle();
	arbitrary_bytes_do_no_harm();
	return 0;
}
