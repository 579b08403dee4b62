/* Start processes: programs as the document or the host's EXEC says, and PID 1's own work that may wait for a disk.
 * Nothing here waits: what becomes of the start is read from `report`. */
#ifndef FIREKILN_PROCESS_H
#define FIREKILN_PROCESS_H

#include <sys/types.h>

#include "document.h"
#include "failure.h"
#include "protocol.h"
#include "users.h"

struct process {
	pid_t pid;
	int input;  /* its standard input to be written, -1 where that is /dev/null */
	int output; /* reading ends, non-blocking; of a terminal only this one */
	int error;
	int report; /* whole messages; its end means that the program executes, or that the work's last word was said */
};

enum report_kind { REPORT_USER, REPORT_FAILURE, REPORT_STAT };

/* One message of a child before its program begins. */
struct report {
	enum report_kind kind;
	union {
		uid_t uid;
		struct failure failure;
		char stat[CONTROL_LIMIT]; /* JSON for a STAT frame */
	};
};

/* 0 or -1 and `failure`; that the program can't be executed is told by a report. */
int process_start(const struct process_config *config, struct process *process, struct failure *failure);

/* As the document says, become the user and execute the program, in our own place, and report. */
_Noreturn void process_become(const struct process_config *config, int report);

/* Execute a program in our own place. Returns, with `failure`, where that can't be. */
void process_execute(char **argv, char **env, struct failure *failure);

/* Run `work` in a child, whose standard input and output are pipes; its result is the exit status. It may report. */
int process_fork(int (*work)(void *context, int report), void *context, struct process *process,
		 struct failure *failure);

void report_failure(int report, const struct failure *failure);
void report_stat(int report, const char *json, size_t length);

/* The next message: 1, 0 where none is there yet, -1 at the end. */
int process_report(const struct process *process, struct report *report);

/* Tell the process's terminal its size. */
void process_resize(const struct process *process, int rows, int columns);

/* Close what is open of it. */
void process_close(struct process *process);

#endif
