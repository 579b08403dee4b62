/* Random numbers from the host: a restored snapshot has those of its siblings. */
#ifndef FIREKILN_ENTROPY_H
#define FIREKILN_ENTROPY_H

/* Credit the bytes of `hex` (at most 512 of them) to the kernel's pool, and have it used at once. */
void entropy_credit(const char *hex);

#endif
