/* The least that a unit test needs. */
#ifndef FIREKILN_CHECK_H
#define FIREKILN_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                          \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

#define CHECK_TEXT(got, wanted)                                                                          \
	do {                                                                                             \
		const char *got_ = (got), *wanted_ = (wanted);                                           \
		if (!got_ || strcmp(got_, wanted_)) {                                                    \
			fprintf(stderr, "%s:%d: \"%s\", not \"%s\"\n", __FILE__, __LINE__, got_, wanted_); \
			exit(1);                                                                         \
		}                                                                                        \
	} while (0)

#endif
