/* Who was killed because memory was short. */
#ifndef FIREKILN_OOM_H
#define FIREKILN_OOM_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether that is why the process ended with `status` of waitpid: the kernel's log names it; or a shell says of its
 * child by 128 + SIGKILL that it was killed, and the kernel has killed one since this was last asked. */
bool oom_killed(pid_t pid, int status);

#endif
