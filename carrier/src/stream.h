/* Frames in a byte stream, as QEMU's `-netdev socket` has them: each behind its length, four bytes, big-endian. */
#ifndef STREAM_H
#define STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_ROOM (256 * 1024)
#define LONGEST_FRAME (68 * 1024) /* QEMU's NET_BUFSIZE */

struct stream {
	int fd; /* does not block; -1: none */
	size_t begin, end;
	size_t out_begin, out_end;
	uint8_t in[STREAM_ROOM], out[STREAM_ROOM];
};

/* Read what is there. False where the other end is gone, or sends what are no frames. */
bool stream_read(struct stream *stream);
/* The next whole frame, or NULL. */
const uint8_t *stream_peek(struct stream *stream, size_t *length);
void stream_drop(struct stream *stream, size_t length);

/* Whether a frame of any length can be put. */
bool stream_has_room(const struct stream *stream);
/* Append a frame to what goes out. The caller has seen that there is room. */
void stream_put(struct stream *stream, const uint8_t *frame, size_t length);
bool stream_is_pending(const struct stream *stream);
/* Write what can be. False where the other end is gone. */
bool stream_flush(struct stream *stream);

#endif
