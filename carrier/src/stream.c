#include "stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "address.h"

#define HEADER 4

bool stream_read(struct stream *stream)
{
	ssize_t got;

	if (stream->begin == stream->end)
		stream->begin = stream->end = 0;
	if (stream->end == STREAM_ROOM && stream->begin) {
		memmove(stream->in, stream->in + stream->begin, stream->end - stream->begin);
		stream->end -= stream->begin;
		stream->begin = 0;
	}
	if (stream->end == STREAM_ROOM)
		return true; /* what is there has to go on first */
	got = read(stream->fd, stream->in + stream->end, STREAM_ROOM - stream->end);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	stream->end += (size_t)got;
	return got > 0 &&
	       (stream->end - stream->begin < HEADER || get32(stream->in + stream->begin) <= LONGEST_FRAME);
}

const uint8_t *stream_peek(struct stream *stream, size_t *length)
{
	size_t held = stream->end - stream->begin;

	if (held < HEADER)
		return NULL;
	*length = get32(stream->in + stream->begin);
	if (*length > LONGEST_FRAME || held - HEADER < *length)
		return NULL;
	return stream->in + stream->begin + HEADER;
}

void stream_drop(struct stream *stream, size_t length)
{
	stream->begin += HEADER + length;
}

bool stream_has_room(const struct stream *stream)
{
	return STREAM_ROOM - (stream->out_end - stream->out_begin) >= HEADER + LONGEST_FRAME;
}

void stream_put(struct stream *stream, const uint8_t *frame, size_t length)
{
	if (stream->out_begin && STREAM_ROOM - stream->out_end < HEADER + length) {
		memmove(stream->out, stream->out + stream->out_begin, stream->out_end - stream->out_begin);
		stream->out_end -= stream->out_begin;
		stream->out_begin = 0;
	}
	put32(stream->out + stream->out_end, (uint32_t)length);
	memcpy(stream->out + stream->out_end + HEADER, frame, length);
	stream->out_end += HEADER + length;
}

bool stream_is_pending(const struct stream *stream)
{
	return stream->out_begin < stream->out_end;
}

bool stream_flush(struct stream *stream)
{
	while (stream_is_pending(stream)) {
		ssize_t put = send(stream->fd, stream->out + stream->out_begin, stream->out_end - stream->out_begin,
				   MSG_NOSIGNAL);

		if (put < 0)
			return errno == EAGAIN || errno == EINTR;
		stream->out_begin += (size_t)put;
	}
	stream->out_begin = stream->out_end = 0;
	return true;
}
