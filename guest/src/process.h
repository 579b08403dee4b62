/* Start one process as the document says. */
#ifndef FIREKILN_PROCESS_H
#define FIREKILN_PROCESS_H

#include <sys/types.h>

#include "document.h"
#include "failure.h"
#include "users.h"

struct process {
	pid_t pid;
	uid_t uid;
	int input;  /* writing end of its standard input, -1 where that is /dev/null */
	int output; /* reading ends, non-blocking */
	int error;
};

/* 0 once the program is executing, else -1 and `failure`, whose status is Docker's (125, 126, 127). */
int process_start(const struct process_config *config, struct process *process, struct failure *failure);

#endif
