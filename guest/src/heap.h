/* Memory for a program of one thread that asks for little: a tenth of the code of libc's malloc. `malloc.c` puts it in
 * that one's place. */
#ifndef FIREKILN_HEAP_H
#define FIREKILN_HEAP_H

#include <stddef.h>

/* As malloc, calloc and free. */
void *heap_take(size_t size);
void *heap_take_zeroed(size_t count, size_t size);
void heap_give(void *memory);

#endif
