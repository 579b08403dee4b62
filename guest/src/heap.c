#include "heap.h"

#include <errno.h>
#include <stdalign.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK (1 << 18) /* what is asked of the kernel at once; pages that nobody touches cost nothing */
#define CLASSES 12
#define SMALLEST 32
#define LARGEST (SMALLEST << (CLASSES - 1)) /* beyond that each has a mapping of its own */

/* In front of what the caller gets, whose size is that of the class less this. */
struct block {
	alignas(max_align_t) size_t size; /* of all of it */
	struct block *next;		  /* of those that were given back */
};

static struct block *given_back[CLASSES];
static char *chunk;
static size_t chunk_left;

static void *map(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

static struct block *cut(size_t size)
{
	struct block *block;

	if (chunk_left < size) {
		chunk = map(CHUNK);
		chunk_left = chunk ? CHUNK : 0;
	}
	if (!chunk)
		return NULL;
	block = (struct block *)chunk;
	block->size = size;
	chunk += size;
	chunk_left -= size;
	return block;
}

static size_t class_of(size_t size)
{
	size_t class = 0;

	while ((size_t)SMALLEST << class < size)
		class++;
	return class;
}

/* `*fresh`: it comes from the kernel, and so is all zeros. */
static void *take(size_t size, int *fresh)
{
	struct block *block;
	size_t class;

	*fresh = 1;
	if (size > PTRDIFF_MAX - 2 * sizeof *block) {
		errno = ENOMEM;
		return NULL;
	}
	size += sizeof *block;
	if (size > LARGEST) {
		block = map(size);
		if (block)
			block->size = size;
		return block ? block + 1 : NULL;
	}
	class = class_of(size);
	block = given_back[class];
	if (block) {
		given_back[class] = block->next;
		*fresh = 0;
	} else {
		block = cut((size_t)SMALLEST << class);
	}
	return block ? block + 1 : NULL;
}

void *heap_take(size_t size)
{
	int fresh;

	return take(size, &fresh);
}

void *heap_take_zeroed(size_t count, size_t size)
{
	size_t whole;
	void *memory;
	int fresh;

	if (__builtin_mul_overflow(count, size, &whole)) {
		errno = ENOMEM;
		return NULL;
	}
	memory = take(whole, &fresh);
	if (memory && !fresh)
		memset(memory, 0, whole);
	return memory;
}

void heap_give(void *memory)
{
	struct block *block;
	int error = errno;
	size_t class;

	if (!memory)
		return;
	block = (struct block *)memory - 1;
	if (block->size > LARGEST) {
		munmap(block, block->size);
		errno = error; /* as free promises */
		return;
	}
	class = class_of(block->size);
	block->next = given_back[class];
	given_back[class] = block;
}
