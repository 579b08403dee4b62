#include "entropy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hex.h"
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

void entropy_credit(const char *hex)
{
	struct pool_info pool = { .size = 0 };
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	while (pool.size < MOST && hex_digit(hex[0]) >= 0 && hex_digit(hex[1]) >= 0) {
		pool.bytes[pool.size++] = (unsigned char)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
		hex += 2;
	}
	pool.entropy_count = 8 * pool.size;
	if (fd < 0 || (pool.size && ioctl(fd, ADD_ENTROPY, &pool)) || ioctl(fd, RESEED))
		log_line(LOG_LEVEL_WARNING, "the host's entropy could not be added: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}
