/* A question for a name within a frame, and the frame with its answer. */
#ifndef REPLY_H
#define REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "names.h"

#define LONGEST_REPLY (14 + 20 + 8 + LONGEST_ANSWER)

/* Answer the question that `frame` holds, where the network knows the name or `is_final`: nobody else is asked. The
 * answer's length; 0: it is for others to answer. */
size_t reply_to(const uint8_t *frame, size_t length, bool is_final, uint8_t *answer);

#endif
