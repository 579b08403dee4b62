/* Hexadecimal digits. */
#ifndef FIREKILN_HEX_H
#define FIREKILN_HEX_H

/* The value of a digit, of either case; -1 for another character. */
int hex_digit(char c);

#endif
