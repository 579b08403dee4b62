#include "check.h"
#include "heap.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#define PLACES 200
#define ROUNDS 50000

static unsigned long long state = 1;

static size_t roll(size_t sides)
{
	state = state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (size_t)(state >> 33) % sides;
}

static int filled(const unsigned char *memory, size_t size, unsigned char with)
{
	for (size_t i = 0; i < size; i++)
		if (memory[i] != with)
			return 0;
	return 1;
}

static void nobody_writes_into_what_another_holds(void)
{
	static struct {
		unsigned char *memory, with;
		size_t size;
	} held[PLACES];

	for (unsigned round = 0; round < ROUNDS; round++) {
		size_t place = roll(PLACES), size = roll(roll(50) ? 300 : 200000);
		int zeroed = roll(2) == 0;

		if (held[place].memory) {
			CHECK(filled(held[place].memory, held[place].size, held[place].with));
			heap_give(held[place].memory);
		}
		held[place].memory = zeroed ? heap_take_zeroed(size, 1) : heap_take(size);
		CHECK(held[place].memory && (uintptr_t)held[place].memory % 16 == 0);
		CHECK(!zeroed || filled(held[place].memory, size, 0));
		held[place].size = size;
		held[place].with = (unsigned char)round;
		memset(held[place].memory, held[place].with, size);
	}
	for (unsigned place = 0; place < PLACES; place++)
		heap_give(held[place].memory);
}

static void what_was_given_back_is_given_again(void)
{
	void *first = heap_take(100), *large;

	heap_give(first);
	CHECK(heap_take(90) == first);
	for (unsigned i = 0; i < 2000; i++) { /* 2 GB, were it kept */
		large = heap_take(1 << 20);
		CHECK(large);
		heap_give(large);
	}
	heap_give(NULL);
}

static void more_than_there_can_be_is_refused(void)
{
	errno = 0;
	CHECK(!heap_take(SIZE_MAX) && errno == ENOMEM);
	errno = 0;
	CHECK(!heap_take_zeroed(SIZE_MAX / 2, 3) && errno == ENOMEM);
	CHECK(!heap_take(SIZE_MAX / 4));
}

int main(void)
{
	nobody_writes_into_what_another_holds();
	what_was_given_back_is_given_again();
	more_than_there_can_be_is_refused();
	return 0;
}
