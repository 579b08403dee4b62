#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "log.h"

#define LIST_LIMIT (1 << 20)

static void load(const char *folder, const char *name, const char *parameters)
{
	char path[256];
	int fd;

	format_text(path, sizeof path, "%s/modules/%s", folder, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	/* ENODEV: a driver whose bus this machine has not */
	if (fd < 0 || (syscall(SYS_finit_module, fd, parameters, 0) && errno != EEXIST && errno != ENODEV))
		log_line(LOG_LEVEL_WARNING, "module %s: %s", name, strerror(errno));
	if (fd >= 0)
		close(fd);
}

void modules_load(const char *folder)
{
	char path[256], *list, *rest, *line;
	size_t length;

	format_text(path, sizeof path, "%s/modules.list", folder);
	list = rest = file_read(path, LIST_LIMIT, &length);

	while (rest && (line = strsep(&rest, "\n"))) {
		char *name = strsep(&line, " ");

		if (*name)
			load(folder, name, line ? line : "");
	}
	free(list);
}
