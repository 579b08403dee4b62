/* Whether and when the process starts again: the policy of `docker run --restart`, pure. */
#ifndef FIREKILN_RESTART_H
#define FIREKILN_RESTART_H

#include "document.h"

struct restart {
	unsigned long count; /* starts beyond the first */
	long long delay_ms;  /* what was waited for last; 0: nothing yet */
};

/* Earlier boots of the machine have restarted `count` times, which the policy allows so often all in all. */
void restart_go_on(struct restart_config *config, unsigned long count);

/* Milliseconds until it starts again after a run of `ran_ms`, which succeeded or not; -1: never. */
long long restart_after(struct restart *restart, const struct restart_config *config, bool success, long long ran_ms);

#endif
