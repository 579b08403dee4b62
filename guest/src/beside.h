/* The machine's process where it is a service of the image's own init: what `foreign` sees of it, told as of a process. */
#ifndef FIREKILN_BESIDE_H
#define FIREKILN_BESIDE_H

#include "service.h"

/* Look what has become of the init and its service since the last round. */
void beside_watch(struct service *service);

#endif
