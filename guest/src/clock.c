#include "clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "file.h"
#include "log.h"

long long clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

long long clock_realtime_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void clock_sleep_ms(long milliseconds)
{
	struct timespec span = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	nanosleep(&span, NULL);
}

void clock_set(long long realtime_ns)
{
	struct timespec now = { realtime_ns / 1000000000, realtime_ns % 1000000000 };

	if (clock_settime(CLOCK_REALTIME, &now))
		log_line(LOG_LEVEL_WARNING, "the clock could not be set: %s", strerror(errno));
}

bool clock_has_timer(void)
{
	static const char device[] = "/sys/devices/system/clockevents/clockevent0/current_device";
	char name[64];

	return file_read_some(device, name, sizeof name) > 0 || access(device, R_OK);
}
