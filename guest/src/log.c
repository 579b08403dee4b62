#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "format.h"

static int log_fd = -1;
static void (*also)(const char *text);

void log_open(void)
{
	log_fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
}

void log_also(void (*listener)(const char *text))
{
	also = listener;
}

void log_line(enum log_level level, const char *format, ...)
{
	char line[900]; /* the kernel takes a little less than 1 KiB */
	va_list arguments;
	int head = format_text(line, sizeof line, "<%d>firekiln: ", level);

	va_start(arguments, format);
	format_arguments(line + head, sizeof line - (size_t)head, format, arguments);
	va_end(arguments);
	if (also && level >= LOG_LEVEL_WARNING) /* what is worse ends the machine, and has a frame of its own */
		also(line + head);
	if (log_fd >= 0 && write(log_fd, line, strlen(line)) < 0)
		return; /* nobody is left to be told */
}
