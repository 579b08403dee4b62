/* Decimal numbers of texts; what strtoll would read, at a tenth of its size. */
#ifndef FIREKILN_DECIMAL_H
#define FIREKILN_DECIMAL_H

/* The number at `text`, perhaps with a sign, LLONG_MAX where it is larger; 0 where there is none. `rest` (or NULL)
 * receives what follows. */
long long decimal_parse(const char *text, const char **rest);

#endif
