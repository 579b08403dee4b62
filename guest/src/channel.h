/* The byte stream to the host, and frames on it. Nothing here ever waits; `channel_fd` and `channel_events` are for
 * poll. The host may be absent, come late, and go: then frames are kept as far as there is room, and no further. */
#ifndef FIREKILN_CHANNEL_H
#define FIREKILN_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>

#include "document.h"
#include "protocol.h"

#define CHANNEL_OUT (1 << 18)
#define CHANNEL_RESERVE (1 << 15) /* of that, kept free of data frames, so that control frames find room */

struct channel {
	const struct channel_config *config;
	int fd;
	bool attached; /* the host's end is there */
	bool was_attached;
	bool broken;   /* the host spoke nonsense: it is not listened to any more */
	size_t out_start, out_end, in_length;
	unsigned char out[CHANNEL_OUT];
	unsigned char in[HEADER_SIZE + PAYLOAD_LIMIT];
};

struct frame {
	unsigned type, process;
	unsigned char *payload;
	size_t length;
};

/* Prepare, with a HELLO as the first frame to be sent. `fd` is an open stream for tests, -1 to open what `config` says. */
void channel_init(struct channel *channel, const struct channel_config *config, int fd);

/* Look whether the host is there now. Cheap; to be called at times while `attached` is false. */
void channel_attach(struct channel *channel);

/* The largest data payload that may be sent now, 0 to PAYLOAD_LIMIT / 2. */
size_t channel_room(struct channel *channel);

/* Where `channel_room` bytes of payload may be put, for `channel_commit` to make a frame of the first `length`. */
unsigned char *channel_payload(struct channel *channel);
void channel_commit(struct channel *channel, enum frame_type type, unsigned process, size_t length);

/* Queue a control frame; dropped where there is no room left for it (the host has not read for long). */
void channel_send(struct channel *channel, enum frame_type type, unsigned process, const void *payload, size_t length);
__attribute__((format(printf, 4, 5))) void channel_printf(struct channel *channel, enum frame_type type,
							  unsigned process, const char *format, ...);

bool channel_pending(const struct channel *channel);

/* Events to poll for, and what to do with those that came. */
short channel_events(const struct channel *channel);
void channel_serve(struct channel *channel, short events, void (*handle)(void *context, const struct frame *frame),
		   void *context);

/* Write what the stream takes now. Whether anything was written. */
bool channel_flush(struct channel *channel);

#endif
