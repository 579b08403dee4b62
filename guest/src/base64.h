/* RFC 4648's base64. */
#ifndef FIREKILN_BASE64_H
#define FIREKILN_BASE64_H

#include <stddef.h>

/* Decode the text in place, up to its end or the first character that doesn't belong there. Returns how many bytes. */
size_t base64_decode(char *text);

#endif
