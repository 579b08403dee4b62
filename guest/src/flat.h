/* Flat images: the root file system is a drive of its own, or the initramfs, and carries PID 1 and its document. */
#ifndef FIREKILN_FLAT_H
#define FIREKILN_FLAT_H

#include "document.h"
#include "failure.h"

#define FLAT_FOLDER "/.firekiln"
#define FLAT_INIT FLAT_FOLDER "/init"
#define FLAT_DOCUMENT FLAT_FOLDER "/machine.json"

/* From an initramfs of modules: mount what `root=` says as the kernel would have, and make it the root. */
int flat_mount(struct failure *failure);

/* Become the init that `init=` asks for, or that an image without document has. Returns where that is us, or fails. */
int flat_hand_over(struct failure *failure);

/* What the kernel's command line says about the network (`ip=`) takes the place of what the document says. */
int flat_network(struct machine *machine, struct failure *failure);

/* `ip=`'s value (overwritten, kept for ever), as Linux' nfsroot.rst has it, but for static IPv4 addresses only. */
int flat_network_parse(char *value, struct machine *machine, struct failure *failure);

#endif
