/* What Docker's -v, --mount, --tmpfs, --read-only and --sysctl ask for. Paths are the new root's: symbolic links of the
 * image lead nowhere else. */
#ifndef FIREKILN_VOLUMES_H
#define FIREKILN_VOLUMES_H

#include "document.h"
#include "failure.h"

/* The document's mounts, in its order. 0, or -1 and `failure`; so all of these. */
int volumes_mount(const struct machine *machine, struct failure *failure);

/* Whether one of them has just that target. */
bool volumes_cover(const struct machine *machine, const char *target);

/* The document's `files`, `sysctls`, and last: the root read-only. */
int volumes_write_files(const struct machine *machine, struct failure *failure);
int volumes_set_sysctls(const struct machine *machine, struct failure *failure);
int volumes_seal_root(const struct machine *machine, struct failure *failure);

/* At the machine's end: make their file systems clean. */
void volumes_finish(void);

#endif
