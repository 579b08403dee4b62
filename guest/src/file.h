/* Whole files and folders by path. */
#ifndef FIREKILN_FILE_H
#define FIREKILN_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* The file's bytes with a NUL behind them, to be freed; NULL and errno (EFBIG beyond `limit`). */
char *file_read(const char *path, size_t limit, size_t *length);

/* The file's first bytes, at most `size`; how many. */
size_t file_read_some(const char *path, char *data, size_t size);

/* Write all of it to a descriptor that may take less at once. 0 or -1 and errno. */
int file_write_all(int fd, const char *data, size_t length);

/* Write `text` into an existing file, as sysctls are. Whether it was taken. */
bool file_set(const char *path, const char *text);

/* Put a new file in place of whatever bears the name, a symbolic link included, but no directory. 0 or -1 and errno. */
int file_replace(const char *path, const char *data, size_t length, mode_t mode);

/* Write the file, or the one that symbolic links lead to, anew. 0 or -1 and errno. */
int file_overwrite(const char *path, const char *data, size_t length, mode_t mode);

/* Make a directory and its parents, each 0755, symbolic links to nowhere included, as runc does. 0 where it is there at
 * the end, else -1 and errno. */
int directory_make(const char *path);

/* The same for the directory that `path` lies in. */
int directory_make_parent(const char *path);

#endif
