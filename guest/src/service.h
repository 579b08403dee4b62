/* The machine's process from its start to its end, and what else the host asks for meanwhile. */
#ifndef FIREKILN_SERVICE_H
#define FIREKILN_SERVICE_H

#include <limits.h>

#include "channel.h"
#include "document.h"
#include "failure.h"
#include "foreign.h"
#include "health.h"
#include "restart.h"
#include "task.h"

#define NEVER LLONG_MAX
#define MAX_TASKS 65 /* the process and 64 others */
#define PROCESS_ORPHAN 0x10000 /* the number of those whose host has gone */

struct service {
	const struct machine *machine;
	struct channel *channel;
	int signals;
	bool greeted;	   /* the host's HELLO came */
	bool frozen;	   /* until THAW */
	bool acknowledged; /* its SHUTDOWN came after our last word */
	bool had_host;
	bool stopping;	   /* it is not to start again */
	bool waiting;	   /* for its next start */
	bool over;
	struct restart restart;
	long long started_at, restart_at;
	struct health health;
	struct foreign *foreign; /* the image's own init, NULL where it is us */
	struct task tasks[MAX_TASKS]; /* the first is the machine's process */
};

/* Greet the host, run the process (or see what `foreign` does with it), relay, reap, report. `sync` makes the disks
 * clean once every process is gone. Returns when the machine may power off. */
void service_run(const struct machine *machine, struct channel *channel, struct foreign *foreign, void (*sync)(void));

/* Tell the host, and the console, why there will be no process. Returns when the machine may power off. */
void service_fail(struct channel *channel, const struct failure *failure, void (*sync)(void));

/* The signals that PID 1 reads from a descriptor; to be blocked before anything else happens. */
void service_block_signals(void);

/* --- for beside.c and ending.c ------------------------------------------------------------------------------------- */

struct task *service_main_task(struct service *service);

/* One round: wait for something to happen, at most until `deadline`, and deal with it. */
void service_step(struct service *service, long long deadline);

/* --- for orders.c: what the host may order ------------------------------------------------------------------------ */

/* The task of that number; NULL. */
struct task *service_task(struct service *service, unsigned number);

/* A place for a new one; NULL where there is none. */
struct task *service_free_place(struct service *service);

/* Deliver a signal to a task, and SIGKILL after `timeout_ms` unless that is negative. */
void service_signal(struct service *service, struct task *task, int number, long long timeout_ms);

/* The process isn't to start again. */
void service_forbid_restart(struct service *service);

/* Whoever had other processes started than the first is gone. */
void service_forget_host(struct service *service);

/* End everything. */
void service_kill_all(struct service *service);

#endif
