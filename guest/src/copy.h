/* READ, WRITE and STAT: in a child, since disks may be slow and hosts' directories gone. */
#ifndef FIREKILN_COPY_H
#define FIREKILN_COPY_H

#include "json.h"
#include "process.h"
#include "task.h"

/* Start what the frame's `fields` ask for. 0, or -1 and `failure`. */
int copy_start(enum task_kind kind, const struct json *fields, struct process *process, struct failure *failure);

#endif
