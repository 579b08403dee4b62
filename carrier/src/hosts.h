/* The network's file of names, `hosts` in its folder: an address and its names on each line. */
#ifndef HOSTS_H
#define HOSTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names of that folder's network are known too. False where it is none, or one too many. */
bool hosts_add(const char *folder);

/* Addresses of the machines of that name which are there now. `is_known`: whether the network has the name at all. */
size_t hosts_find(const char *name, uint32_t *addresses, bool *is_known);

#endif
