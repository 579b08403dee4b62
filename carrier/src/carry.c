#include "carrier.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>

#include "filter.h"
#include "host.h"
#include "packet.h"
#include "peers.h"
#include "reply.h"
#include "stream.h"

/* Milliseconds that a frame waits for a machine that has no room for it: long enough for one that runs. */
#define PATIENCE 50
/* Frames of one source at a time, so that others have their turn. */
#define TURN 256

struct carrier {
	struct filter filter;
	struct stream vm, outside;
	struct peers peers;
	int host;
	struct peer *awaited; /* has no room for the guest's next frame */
	time_t now;
};

enum { VM, OUTSIDE, INBOX, AWAITED, SOURCES };

static bool answer(struct carrier *carrier, const uint8_t *frame, size_t length, bool is_final)
{
	uint8_t reply[LONGEST_REPLY];
	size_t size = reply_to(frame, length, is_final, reply);

	if (size && stream_has_room(&carrier->vm))
		stream_put(&carrier->vm, reply, size);
	return size > 0;
}

/* False where it has to wait: nothing of it has been sent then. */
static bool send_frame(struct carrier *carrier, const uint8_t *frame, size_t length)
{
	struct judgement judgement = filter_judge(&carrier->filter, frame, length, carrier->now);
	bool has_outside = carrier->outside.fd >= 0;

	if (judgement.verdict == FILTER_QUESTION) {
		if (answer(carrier, frame, length, carrier->filter.is_internal))
			return true;
		judgement.verdict = judgement.next;
	}
	if (has_outside && (judgement.verdict == FILTER_OUTSIDE || judgement.verdict == FILTER_ALL)) {
		if (!stream_has_room(&carrier->outside))
			return false;
		stream_put(&carrier->outside, frame, length);
	}
	if (carrier->filter.has_peers && judgement.verdict == FILTER_ALL)
		peers_send_all(&carrier->peers, frame, length);
	if (carrier->filter.has_peers && judgement.verdict == FILTER_PEER)
		carrier->awaited = peers_send(&carrier->peers, frame, length);
	return !carrier->awaited;
}

static void from_guest(struct carrier *carrier)
{
	const uint8_t *frame;
	size_t length;

	for (int i = 0; i < TURN && !carrier->awaited && (frame = stream_peek(&carrier->vm, &length)); i++) {
		if (!send_frame(carrier, frame, length))
			return;
		stream_drop(&carrier->vm, length);
	}
}

static void from_outside(struct carrier *carrier)
{
	const uint8_t *frame;
	size_t length;

	while (stream_has_room(&carrier->vm) && (frame = stream_peek(&carrier->outside, &length))) {
		filter_note(&carrier->filter, frame, length, carrier->now);
		stream_put(&carrier->vm, frame, length);
		stream_drop(&carrier->outside, length);
	}
}

static void from_peers(struct carrier *carrier)
{
	const uint8_t *frame;
	size_t length;

	for (int i = 0; i < TURN && stream_has_room(&carrier->vm); i++) {
		frame = peers_receive(&carrier->peers, &carrier->filter.place.mac, &length);
		if (!frame)
			return;
		stream_put(&carrier->vm, frame, length);
	}
}

static short wanted(const struct stream *stream, bool is_reading)
{
	return (short)((is_reading ? POLLIN : 0) | (stream_is_pending(stream) ? POLLOUT : 0));
}

/* Whether whole frames wait in memory that could go on now. */
static bool is_busy(struct carrier *carrier)
{
	size_t length;
	bool from_vm = !carrier->awaited && stream_peek(&carrier->vm, &length) &&
		       (carrier->outside.fd < 0 || stream_has_room(&carrier->outside));

	return from_vm || (stream_has_room(&carrier->vm) && stream_peek(&carrier->outside, &length));
}

static bool wait_for(struct carrier *carrier, struct pollfd *sources)
{
	size_t length;
	bool may_fill = stream_has_room(&carrier->vm);
	int timeout = is_busy(carrier) ? 0 : carrier->awaited ? PATIENCE : -1;
	int count;

	sources[VM] = (struct pollfd){ carrier->vm.fd,
				       wanted(&carrier->vm, !stream_peek(&carrier->vm, &length)), 0 };
	sources[OUTSIDE] = (struct pollfd){ carrier->outside.fd,
					    wanted(&carrier->outside, !stream_peek(&carrier->outside, &length)), 0 };
	sources[INBOX] = (struct pollfd){ may_fill ? carrier->peers.inbox : -1, POLLIN, 0 };
	sources[AWAITED] = (struct pollfd){ carrier->awaited ? carrier->awaited->fd : -1, POLLOUT, 0 };
	count = poll(sources, SOURCES, timeout);
	if (carrier->awaited && (count == 0 || sources[AWAITED].revents)) {
		if (count == 0) /* it is told apart from a machine that is only busy, and what comes is lost */
			carrier->awaited->is_slow = true;
		carrier->awaited = NULL;
	}
	return count >= 0 || errno == EINTR;
}

static bool turn(struct carrier *carrier)
{
	struct pollfd sources[SOURCES];
	struct timespec now;

	if (!wait_for(carrier, sources))
		return false;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	carrier->now = now.tv_sec;
	if (sources[VM].revents & ~POLLOUT && !stream_read(&carrier->vm))
		return false;
	if (sources[OUTSIDE].revents & ~POLLOUT && !stream_read(&carrier->outside))
		return false;
	from_guest(carrier);
	from_outside(carrier);
	if (sources[INBOX].revents)
		from_peers(carrier);
	return stream_flush(&carrier->vm) && (carrier->outside.fd < 0 || stream_flush(&carrier->outside));
}

int carry(const struct options *options)
{
	struct carrier *carrier = calloc(1, sizeof *carrier);

	if (!carrier)
		return complain("memory");
	carrier->host = host_open();
	if (carrier->host < 0)
		return complain("the kernel's routes");
	carrier->vm.fd = options->vm;
	carrier->outside.fd = options->outside;
	carrier->peers.inbox = -1;
	carrier->filter = (struct filter){
		.place = options->place,
		.has_outside = options->outside >= 0,
		.has_peers = options->has_peers,
		.is_internal = options->is_internal,
		.is_own = host_owns,
		.context = &carrier->host,
	};
	if (options->has_peers && !peers_open(&carrier->peers, options->place.address))
		return complain("the machine's socket in its network");
	ready();
	while (turn(carrier))
		;
	return 0;
}
