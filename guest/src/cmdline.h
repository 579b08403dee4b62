/* The kernel's command line, as far as PID 1 reads it: words between blanks, quotes around values, the last one counts. */
#ifndef FIREKILN_CMDLINE_H
#define FIREKILN_CMDLINE_H

#include <stdbool.h>
#include <stddef.h>

/* The value of `name=value`, without quotes and cut to `size`. False where there is none. */
bool cmdline_value(const char *name, char *value, size_t size);

/* Whether the word stands there by itself. */
bool cmdline_word(const char *word);

/* The same in a given text; `value` NULL asks for a word. */
bool cmdline_find(const char *line, const char *name, char *value, size_t size);

#endif
