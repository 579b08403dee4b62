#include "oom.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "decimal.h"
#include "file.h"
#include "format.h"
#include "text.h"

#define RECORD_SIZE 8192 /* of the kernel's log: CONSOLE_EXT_LOG_MAX */

/* Processes that the kernel has killed for want of memory since it started. */
static long long count_kills(void)
{
	size_t length;
	char *text = file_read("/proc/vmstat", 1 << 20, &length);
	char *line = text ? text_find(text, "\noom_kill ") : NULL;
	long long count = line ? decimal_parse(line + strlen("\noom_kill "), NULL) : 0;

	free(text);
	return count;
}

/* Whether the kernel's log says that it killed process `pid`; -1 where it can't be read. */
static int log_names(pid_t pid)
{
	char record[RECORD_SIZE + 1], words[48];
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC), found = 0;
	ssize_t count;

	if (fd < 0)
		return -1;
	format_text(words, sizeof words, "Killed process %d (", (int)pid);
	while (found == 0 && ((count = read(fd, record, RECORD_SIZE)) > 0 || errno == EPIPE)) {
		if (count <= 0)
			continue; /* overwritten while we read: the next is the oldest that is left */
		record[count] = '\0';
		found = text_find(record, "ut of memory") && text_find(record, words);
	}
	close(fd);
	return found;
}

bool oom_killed(pid_t pid, int status)
{
	static long long seen;
	bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
	bool told = WIFEXITED(status) && WEXITSTATUS(status) == 128 + SIGKILL;
	long long count, before = seen;

	if (!killed && !told)
		return false;
	count = seen = count_kills();
	if (told)
		return count > before;
	return count > 0 && log_names(pid) != 0;
}
