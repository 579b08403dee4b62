/* What the host has given a number: the machine's process, an `exec`, a copy. Its streams, from its start to its end. */
#ifndef FIREKILN_TASK_H
#define FIREKILN_TASK_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>

#include "channel.h"
#include "failure.h"
#include "process.h"

#define OUTPUT_WINDOW (1 << 18) /* bytes under way of another process than the first */
#define TASK_FDS 4

enum task_kind { TASK_PROGRAM, TASK_READ, TASK_WRITE, TASK_STAT };

struct task {
	unsigned number; /* 0: the place is free */
	enum task_kind kind;
	struct process process;
	uid_t uid;
	bool starting; /* its reports have not ended */
	bool running;  /* it has not been reaped */
	bool started;  /* the host was told that it executes */
	bool closed;   /* its client is gone */
	bool ordered;  /* it is the host that had it killed */
	bool failed;
	struct failure *failure; /* where it failed and memory was there for it */
	int status;		 /* of waitpid */
	long long kill_at, drain_until;
	bool input_ended;
	size_t input_start, input_length;
	unsigned char *input;
	size_t window; /* of output, as far as the host grants it */
};

/* Take the place for process `number`, whose pipes are there. False where memory is short. */
void task_begin(struct task *task, unsigned number, enum task_kind kind, const struct process *process);

/* Give the place back. */
void task_end(struct task *task);

/* Bytes of its standard input came; none: the end of it. */
void task_take_input(struct task *task, struct channel *channel, const unsigned char *data, size_t length);

/* The host has taken so much of its output. */
void task_credit(struct task *task, size_t count);

/* Its client is gone: nothing of it is to be read or written any more. */
void task_hang_up(struct task *task, struct channel *channel);

/* Fill `fds` with what it waits for; `task_serve` deals with what came. */
void task_poll(const struct task *task, bool room, struct pollfd fds[TASK_FDS]);
void task_serve(struct task *task, struct channel *channel, const struct pollfd fds[TASK_FDS]);

/* Say STARTED, once, as soon as that is true. */
void task_tell_start(struct task *task, struct channel *channel, unsigned long restarts);

/* It was reaped. */
void task_reaped(struct task *task, int status);

/* Whether it has ended and all of its output is queued, or is not to be waited for any longer. */
bool task_over(const struct task *task, const struct channel *channel);

/* Say EXITED or FAILED. `again` is when process 1 starts anew, in ms, -1 for never. */
void task_tell_end(const struct task *task, struct channel *channel, long long again);
void task_tell_failure(unsigned number, struct channel *channel, const struct failure *failure);

#endif
