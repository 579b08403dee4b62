/* An init of the image's own: it becomes PID 1, and we live on beside it as the agent.
 *
 *   PID 1 ──fork──▶ agent: the channel, /run/firekiln/{stdout,stderr,agent}
 *     └─exec─▶ the image's init ──▶ service ──▶ `firekiln connect COMMAND…`, `firekiln exited STATUS`
 */
#ifndef FIREKILN_FOREIGN_H
#define FIREKILN_FOREIGN_H

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

#include "channel.h"
#include "document.h"
#include "failure.h"

#define FOREIGN_STREAMS 32 /* connections of services' outputs at once */
#define FOREIGN_LISTENERS 3
#define FOREIGN_FDS (FOREIGN_LISTENERS + 1 + FOREIGN_STREAMS)

struct foreign {
	const struct init_config *config;
	int listeners[FOREIGN_LISTENERS]; /* stdout, stderr, agent */
	int born;			  /* its end: the init executes; a failure comes first where it doesn't */
	int streams[FOREIGN_STREAMS];	  /* -1: free */
	enum frame_type types[FOREIGN_STREAMS];
	pid_t service;	     /* who connected last; 0: nobody yet */
	bool running;	     /* the init executes, or never will */
	bool connected;	     /* since this was last looked at, */
	bool exited, failed; /* as these */
	long long drain_until; /* for output that came before */
	int status;	     /* of waitpid, made up of what `exited` said */
	bool asked;	     /* to power off */
	long long give_up_at;
	struct failure failure;
};

/* /run and /run/firekiln, with this program and its sockets. 0, or -1 and `failure`. */
int foreign_prepare(struct foreign *foreign, const struct machine *machine, struct failure *failure);

/* Fork: the caller goes on as the agent, its name in `argv`; PID 1 becomes the init. 0, or -1 and `failure`. */
int foreign_begin(struct foreign *foreign, char **argv, struct failure *failure);

/* `room`: output may be read. */
void foreign_poll(const struct foreign *foreign, bool room, struct pollfd fds[FOREIGN_FDS]);
void foreign_serve(struct foreign *foreign, const struct pollfd fds[FOREIGN_FDS], struct channel *channel);

/* Whether all output that was there when `exited` came is on its way, or has been waited for long enough. */
bool foreign_drained(const struct foreign *foreign);

/* Ask the init to power off. After `timeout_ms` `give_up_at` has come. */
void foreign_stop(struct foreign *foreign, long long timeout_ms);

/* What `firekiln connect` and `firekiln exited` do; returns the exit status. */
int foreign_command(int argc, char **argv);

/* The status of waitpid that `firekiln exited WORD` means; pure. */
int foreign_status(const char *word);

#endif
