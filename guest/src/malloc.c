/* libc's memory is ours. For musl only, which finds all that it asks for here; tests have their sanitizer's. */
#include <stdlib.h>

#include "heap.h"

void *malloc(size_t size)
{
	return heap_take(size);
}

void *calloc(size_t count, size_t size)
{
	return heap_take_zeroed(count, size);
}

void free(void *memory)
{
	heap_give(memory);
}
