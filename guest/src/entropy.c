#include "entropy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "log.h"

#define MOST 512

/* linux/random.h, which a musl tool chain lacks. */
struct pool_info {
	int entropy_count; /* bits */
	int size;	   /* bytes */
	unsigned char bytes[MOST];
};
#define ADD_ENTROPY _IOW('R', 0x03, int[2])
#define RESEED _IO('R', 0x07)

static int digit(char c)
{
	const char *digits = "0123456789abcdef", *found = c ? strchr(digits, c | 0x20) : NULL;

	return found ? (int)(found - digits) : -1;
}

void entropy_credit(const char *hex)
{
	struct pool_info pool = { .size = 0 };
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	while (pool.size < MOST && digit(hex[0]) >= 0 && digit(hex[1]) >= 0) {
		pool.bytes[pool.size++] = (unsigned char)(digit(hex[0]) << 4 | digit(hex[1]));
		hex += 2;
	}
	pool.entropy_count = 8 * pool.size;
	if (fd < 0 || (pool.size && ioctl(fd, ADD_ENTROPY, &pool)) || ioctl(fd, RESEED))
		log_line(LOG_LEVEL_WARNING, "the host's entropy could not be added: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}
