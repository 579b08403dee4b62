/* Who the machine is: its name, and the files that say so and how others are found. */
#ifndef FIREKILN_IDENTITY_H
#define FIREKILN_IDENTITY_H

#include "document.h"

/* Set the host's name; write /etc/hostname, /etc/hosts, /etc/resolv.conf, and /etc/mtab where it is absent. Files and
 * symbolic links of the image are replaced, never written through. What fails is remarked upon. */
void identity_write(const struct machine *machine);

#endif
