#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static int log_fd = -1;

void log_open(void)
{
	log_fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
}

void log_line(enum log_level level, const char *format, ...)
{
	char line[900]; /* the kernel takes a little less than 1 KiB */
	va_list arguments;
	int length = snprintf(line, sizeof line, "<%d>firekiln: ", level);

	if (log_fd < 0)
		return;
	va_start(arguments, format);
	length += vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
	va_end(arguments);
	if (length >= (int)sizeof line)
		length = (int)sizeof line - 1;
	if (write(log_fd, line, (size_t)length) < 0)
		return; /* nobody is left to be told */
}
