/* HEALTHCHECK: the check's process, its time, and what it means, by Moby's daemon/health.go. */
#ifndef FIREKILN_HEALTH_H
#define FIREKILN_HEALTH_H

#include <poll.h>
#include <stdbool.h>

#include "channel.h"
#include "document.h"
#include "process.h"

#define HEALTH_FDS 3
#define HEALTH_OUTPUT 4096

enum health_status { HEALTH_STARTING, HEALTH_HEALTHY, HEALTH_UNHEALTHY };

struct health {
	const struct health_config *config;
	const struct process_config *process; /* whose user, environment and directory it has */
	enum health_status status;
	int streak;
	long long started_at; /* the service; all of clock_ms */
	long long next_at, kill_at;
	bool running, failed_start, timed_out;
	struct process check;
	int exit_status;
	long long check_started_at, check_start_ns;
	size_t length;
	char output[HEALTH_OUTPUT];
};

/* The process was started now: from here on checks are due. */
void health_begin(struct health *health, const struct machine *machine);

/* It has ended: no more of them; one that runs is killed, and its result never told. */
void health_end(struct health *health);

/* When `health_step` is to be called at the latest. */
long long health_deadline(const struct health *health);
void health_poll(const struct health *health, struct pollfd fds[HEALTH_FDS]);
void health_step(struct health *health, const struct pollfd fds[HEALTH_FDS], struct channel *channel);

/* A child was reaped. Whether it was the check. */
bool health_reaped(struct health *health, pid_t pid, int status);

/* Count a result, of a check that began `age_ms` after the service; pure. */
void health_count(struct health *health, bool success, long long age_ms);

#endif
