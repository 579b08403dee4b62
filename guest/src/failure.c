#include "failure.h"

#include <ctype.h>
#include <stdarg.h>
#include <string.h>

#include "format.h"

int fail(struct failure *failure, const char *stage, int error, const char *format, ...)
{
	va_list arguments;
	size_t length;

	memset(failure, 0, sizeof *failure);
	failure->error = error;
	failure->status = STATUS_MACHINE;
	format_text(failure->stage, sizeof failure->stage, "%s", stage);
	va_start(arguments, format);
	format_arguments(failure->message, sizeof failure->message, format, arguments);
	va_end(arguments);
	length = strlen(failure->message);
	if (error) {
		format_text(failure->message + length, sizeof failure->message - length, ": %s", strerror(error));
		if (length + 3 < sizeof failure->message && islower((unsigned char)failure->message[length + 3]))
			failure->message[length + 2] |= 0x20; /* as Go, and so Docker, writes errors */
	}
	return -1;
}
