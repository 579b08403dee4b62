#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format.h"
#include "tar.h"
#include "text.h"

struct copy {
	enum task_kind kind;
	const char *path;
	bool follow, keep_owner;
};

/* The last part of a path; "/" for the root. */
static void base_name(const char *path, char name[NAME_MAX + 1])
{
	size_t end = strlen(path), start;

	while (end > 1 && path[end - 1] == '/')
		end--;
	for (start = end; start > 0 && path[start - 1] != '/';)
		start--;
	format_text(name, NAME_MAX + 1, "%.*s", (int)(end - start), path + start);
	if (end == 1 && *path == '/')
		strcpy(name, "/");
}

static int tell_stat(const struct copy *copy, const char *name, int report, struct failure *failure)
{
	static char json[CONTROL_LIMIT];
	struct text text = text_in(json, sizeof json);
	char target[PATH_MAX];
	struct stat status;
	ssize_t length;

	if (copy->follow ? stat(copy->path, &status) : lstat(copy->path, &status))
		return fail(failure, "file", errno, "%s", copy->path);
	text_printf(&text, "{\"name\":");
	text_quote(&text, name, strlen(name));
	text_printf(&text, ",\"mode\":%u,\"size\":%lld,\"mtime_ns\":%lld,\"target\":", (unsigned)status.st_mode,
		    (long long)status.st_size, status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec);
	length = S_ISLNK(status.st_mode) ? readlink(copy->path, target, sizeof target) : -1;
	if (length >= 0)
		text_quote(&text, target, (size_t)length);
	else
		text_printf(&text, "null");
	text_printf(&text, "}");
	if (text.full)
		return fail(failure, "file", ENAMETOOLONG, "%s", copy->path);
	report_stat(report, json, text.length);
	return 0;
}

static int work(void *context, int report)
{
	const struct copy *copy = context;
	struct failure failure;
	char name[NAME_MAX + 1];
	int failed;

	base_name(copy->path, name);
	if (copy->kind == TASK_WRITE) {
		failed = tar_unpack(STDIN_FILENO, copy->path, copy->keep_owner, &failure);
	} else {
		failed = tell_stat(copy, name, report, &failure);
		if (!failed && copy->kind == TASK_READ)
			failed = tar_write(STDOUT_FILENO, copy->path, *name == '/' ? "." : name, copy->follow, &failure);
	}
	if (failed)
		report_failure(report, &failure);
	return failed ? 1 : 0;
}

int copy_start(enum task_kind kind, const struct json *fields, struct process *process, struct failure *failure)
{
	struct copy copy = {
		.kind = kind,
		.path = json_string(fields, "path", ""),
		.follow = json_true(fields, "follow"),
		.keep_owner = json_true(fields, "keep_owner"),
	};

	if (*copy.path != '/')
		return fail(failure, "file", EINVAL, "the path \"%s\"", copy.path);
	return process_fork(work, &copy, process, failure);
}
