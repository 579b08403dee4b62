/* snprintf, without what nobody here writes (floating point above all): libc's is a fifth of PID 1. */
#ifndef FIREKILN_FORMAT_H
#define FIREKILN_FORMAT_H

#include <stdarg.h>
#include <stddef.h>

/* Knows %s, %c, %d, %u, %o, %x, %%, the lengths l, ll and z, a width with leading blanks or zeros, and the precision of
 * a string. Returns what snprintf would: the length of the whole, of which at most `size` - 1 bytes and a NUL are put. */
__attribute__((format(printf, 3, 4))) int format_text(char *out, size_t size, const char *format, ...);
__attribute__((format(printf, 3, 0))) int format_arguments(char *out, size_t size, const char *format, va_list arguments);

#endif
