/* Kernel modules of the initramfs. */
#ifndef FIREKILN_MODULES_H
#define FIREKILN_MODULES_H

/* Load what /firekiln/modules.list names, in its order. A module that fails is remarked upon: what needed it tells. */
void modules_load(const char *folder);

#endif
