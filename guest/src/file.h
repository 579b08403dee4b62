/* Whole files and folders by path. */
#ifndef FIREKILN_FILE_H
#define FIREKILN_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The file's bytes with a NUL behind them, to be freed; NULL and errno (EFBIG beyond `limit`). */
char *file_read(const char *path, size_t limit, size_t *length);

/* Write `text` into an existing file, as sysctls are. Whether it was taken. */
bool file_set(const char *path, const char *text);

/* Put a new file in place of whatever bears the name, a symbolic link included, but no directory. 0 or -1 and errno. */
int file_replace(const char *path, const char *data, size_t length, mode_t mode);

/* Make a directory and its parents, each 0755. 0 where it is there at the end, else -1 and errno. */
int directory_make(const char *path);

#endif
