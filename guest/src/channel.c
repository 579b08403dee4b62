#include "channel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "file.h"
#include "format.h"
#include "log.h"

#define PORTS "/sys/class/virtio-ports"
#define VSOCK_HOST 2 /* VMADDR_CID_HOST */
#define CONNECT_WAIT_MS 50

/* linux/vm_sockets.h, which a musl tool chain lacks. */
struct sockaddr_vm {
	sa_family_t svm_family;
	unsigned short svm_reserved1;
	unsigned svm_port;
	unsigned svm_cid;
	unsigned char svm_zero[sizeof(struct sockaddr) - sizeof(sa_family_t) - sizeof(unsigned short) -
			       2 * sizeof(unsigned)];
};

static void hello(struct channel *channel)
{
	channel_printf(channel, FRAME_HELLO, PROCESS_NONE, "{\"protocol\":%d,\"oldest\":%d,\"uptime_ms\":%lld}",
		       PROTOCOL_VERSION, PROTOCOL_OLDEST, clock_ms());
}

void channel_init(struct channel *channel, const struct channel_config *config, int fd)
{
	memset(channel, 0, offsetof(struct channel, out)); /* the buffers stay untouched, and so cost no memory */
	channel->config = config;
	channel->fd = fd;
	hello(channel);
}

static bool port_bears(const char *port, const char *name)
{
	char path[320], *text;
	size_t length;
	bool same;

	format_text(path, sizeof path, PORTS "/%s/name", port);
	text = file_read(path, 4096, &length);
	if (!text)
		return false;
	text[strcspn(text, "\n")] = '\0';
	same = !strcmp(text, name);
	free(text);
	return same;
}

/* Open the virtio-serial port of that name; -1 while it has not appeared. */
static int open_port(const char *name)
{
	DIR *ports = opendir(PORTS);
	struct dirent *entry;
	int fd = -1;

	while (fd < 0 && ports && (entry = readdir(ports))) {
		char path[320];

		if (entry->d_name[0] == '.' || !port_bears(entry->d_name, name))
			continue;
		format_text(path, sizeof path, "/dev/%s", entry->d_name);
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	}
	if (ports)
		closedir(ports);
	return fd;
}

static int open_vsock(unsigned port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VSOCK_HOST };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
	struct pollfd waiting = { .fd = fd, .events = POLLOUT };
	socklen_t length = sizeof error;

	if (fd < 0)
		return -1;
	if (!connect(fd, (struct sockaddr *)&address, sizeof address))
		return fd;
	if (errno == EINPROGRESS && poll(&waiting, 1, CONNECT_WAIT_MS) == 1 &&
	    !getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) && !error)
		return fd;
	close(fd);
	return -1;
}

void channel_attach(struct channel *channel)
{
	struct pollfd state;

	if (channel->attached || channel->broken || channel->config->console)
		return;
	if (channel->fd < 0)
		channel->fd = channel->config->name ? open_port(channel->config->name) :
						      open_vsock(channel->config->port);
	if (channel->fd < 0)
		return;
	state = (struct pollfd){ .fd = channel->fd, .events = POLLIN };
	if (poll(&state, 1, 0) < 0 || (state.revents & POLLHUP))
		return;
	channel->attached = true;
	if (channel->was_attached) {
		channel->out_start = channel->out_end = 0; /* perhaps a part of a frame, which nobody could read */
		hello(channel);
	}
	channel->was_attached = true;
}

static void detach(struct channel *channel)
{
	channel->attached = false;
	channel->in_length = 0;
	channel->out_start = channel->out_end = 0;
	if (!channel->config->name) { /* a port stays open: its host may come back */
		close(channel->fd);
		channel->fd = -1;
	}
}

static size_t space(struct channel *channel)
{
	if (channel->out_start == channel->out_end)
		channel->out_start = channel->out_end = 0;
	if (channel->out_start > CHANNEL_OUT / 2) {
		memmove(channel->out, channel->out + channel->out_start, channel->out_end - channel->out_start);
		channel->out_end -= channel->out_start;
		channel->out_start = 0;
	}
	return CHANNEL_OUT - channel->out_end;
}

size_t channel_room(struct channel *channel)
{
	size_t free_bytes = space(channel);

	if (free_bytes <= CHANNEL_RESERVE + HEADER_SIZE)
		return 0;
	free_bytes -= CHANNEL_RESERVE + HEADER_SIZE;
	return free_bytes < PAYLOAD_LIMIT / 2 ? free_bytes : PAYLOAD_LIMIT / 2;
}

unsigned char *channel_payload(struct channel *channel)
{
	return channel->out + channel->out_end + HEADER_SIZE;
}

void channel_commit(struct channel *channel, enum frame_type type, unsigned process, size_t length)
{
	unsigned char *header = channel->out + channel->out_end;

	for (int i = 0; i < 4; i++)
		header[i] = (unsigned char)(length >> 8 * i);
	header[4] = (unsigned char)type;
	header[5] = 0;
	header[6] = (unsigned char)process;
	header[7] = (unsigned char)(process >> 8);
	channel->out_end += HEADER_SIZE + length;
}

void channel_send(struct channel *channel, enum frame_type type, unsigned process, const void *payload, size_t length)
{
	if (space(channel) < HEADER_SIZE + length)
		return;
	memcpy(channel_payload(channel), payload, length);
	channel_commit(channel, type, process, length);
}

void channel_printf(struct channel *channel, enum frame_type type, unsigned process, const char *format, ...)
{
	char text[4096];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = format_arguments(text, sizeof text, format, arguments);
	va_end(arguments);
	if (length > 0 && length < (int)sizeof text)
		channel_send(channel, type, process, text, (size_t)length);
}

bool channel_pending(const struct channel *channel)
{
	return channel->out_end > channel->out_start;
}

short channel_events(const struct channel *channel)
{
	return (short)(POLLIN | (channel_pending(channel) ? POLLOUT : 0));
}

bool channel_flush(struct channel *channel)
{
	bool progress = false;

	while (channel->attached && channel_pending(channel)) {
		ssize_t count = write(channel->fd, channel->out + channel->out_start,
				      channel->out_end - channel->out_start);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && errno != EAGAIN)
			detach(channel);
		if (count <= 0)
			break;
		channel->out_start += (size_t)count;
		progress = true;
	}
	return progress;
}

static uint32_t length_of(const unsigned char *header)
{
	return header[0] | (uint32_t)header[1] << 8 | (uint32_t)header[2] << 16 | (uint32_t)header[3] << 24;
}

/* Hand out every whole frame that has been read. */
static void take_frames(struct channel *channel, void (*handle)(void *, const struct frame *), void *context)
{
	size_t position = 0;

	while (channel->in_length - position >= HEADER_SIZE) {
		unsigned char *header = channel->in + position;
		struct frame frame = { .type = header[4],
				       .process = header[6] | (unsigned)header[7] << 8,
				       .payload = header + HEADER_SIZE,
				       .length = length_of(header) };

		if (frame.length > PAYLOAD_LIMIT) {
			log_line(LOG_LEVEL_WARNING, "the host announced a frame of %zu bytes", frame.length);
			channel->broken = true;
			detach(channel);
			return;
		}
		if (channel->in_length - position < HEADER_SIZE + frame.length)
			break;
		position += HEADER_SIZE + frame.length;
		handle(context, &frame);
	}
	memmove(channel->in, channel->in + position, channel->in_length - position);
	channel->in_length -= position;
}

void channel_serve(struct channel *channel, short events, void (*handle)(void *context, const struct frame *frame),
		   void *context)
{
	if (events & POLLIN) {
		ssize_t count = read(channel->fd, channel->in + channel->in_length,
				     sizeof channel->in - channel->in_length);

		if (count > 0) {
			channel->in_length += (size_t)count;
			take_frames(channel, handle, context);
		} else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
			detach(channel);
		}
	} else if (events & (POLLHUP | POLLERR | POLLNVAL)) {
		detach(channel);
	}
	channel_flush(channel);
}
