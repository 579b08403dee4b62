#include "check.h"
#include "clock.h"
#include "file.h"
#include "process.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* These start programs of the host as whoever runs the test; becoming somebody else is for the machine's own tests. */

static void directories_are_made_with_their_parents(const char *folder)
{
	char path[256];

	snprintf(path, sizeof path, "%s/a/b//c/", folder);
	CHECK(!directory_make(path) && !directory_make(path) && !access(path, F_OK));
	snprintf(path, sizeof path, "%s/file", folder);
	CHECK(!file_replace(path, "x", 1, 0600));
	CHECK(directory_make(path) == -1 && errno == ENOTDIR);
	CHECK(!directory_make("/"));
}

static void a_replaced_file_is_never_written_through_a_link(const char *folder)
{
	char path[256], target[256], *text;
	size_t length;
	struct stat status;

	snprintf(path, sizeof path, "%s/link", folder);
	snprintf(target, sizeof target, "%s/target", folder);
	CHECK(!symlink(target, path));
	CHECK(!file_replace(path, "abc", 3, 0640));
	CHECK(access(target, F_OK) == -1);
	CHECK(!lstat(path, &status) && S_ISREG(status.st_mode) && (status.st_mode & 0777) == 0640);
	text = file_read(path, 3, &length);
	CHECK_TEXT(text, "abc");
	free(text);
	CHECK(file_read(path, 2, &length) == NULL && errno == EFBIG);
}

static struct failure failure;
static struct report report;

/* Start it and wait for what becomes of that. */
static int start(char **argv, char **env, struct process *process)
{
	struct process_config config = { .argv = argv, .env = env, .user = "", .cwd = "/" };
	struct pollfd waiting = { .events = POLLIN };
	int failed, got;

	if (process_start(&config, process, &failure))
		return -1;
	waiting.fd = process->report;
	for (failed = 0; (got = process_report(process, &report)) >= 0;) {
		if (got && report.kind == REPORT_FAILURE) {
			failure = report.failure;
			failed = -1;
		}
		if (!got)
			CHECK(poll(&waiting, 1, 10000) == 1);
	}
	if (failed) {
		CHECK(waitpid(process->pid, NULL, 0) == process->pid);
		process_close(process);
	}
	return failed;
}

static void a_program_gets_its_words_as_they_are(void)
{
	char *argv[] = { "sh", "-c", "printf '%s|' \"$@\"; printf '%s' \"$HOME$E\" >&2; exit 5", "x", "a b", "$X\n'", "", NULL };
	char *env[] = { "PATH=/nowhere:/bin:/usr/bin", "HOME=/h", "E=1 2", NULL };
	char out[64] = "", error[64] = "";
	struct process process;
	int status;

	CHECK(!start(argv, env, &process));
	CHECK(waitpid(process.pid, &status, 0) == process.pid && WEXITSTATUS(status) == 5);
	CHECK(read(process.output, out, sizeof out - 1) > 0 && read(process.error, error, sizeof error - 1) > 0);
	CHECK_TEXT(out, "a b|$X\n'||");
	CHECK_TEXT(error, "/h1 2");
	CHECK(process.input == -1);
	process_close(&process);
}

static void expect_failure(char *name, char *path, int status, const char *message)
{
	char *argv[] = { name, NULL }, *env[] = { path, NULL };
	struct process process;

	CHECK(start(argv, env, &process) == -1);
	CHECK_TEXT(failure.message, message);
	CHECK(failure.status == status && !strcmp(failure.stage, "exec"));
}

static void what_cannot_be_executed_is_told_in_dockers_words(const char *folder)
{
	char path[256], message[512], variable[300];

	snprintf(path, sizeof path, "%s/script", folder);
	snprintf(variable, sizeof variable, "PATH=%s", folder);
	CHECK(!file_replace(path, "echo\n", 5, 0755));
	snprintf(message, sizeof message, "exec: \"%s\": exec format error", path);
	expect_failure(path, "A=", STATUS_NOT_EXECUTABLE, message);
	expect_failure("script", variable, STATUS_NOT_EXECUTABLE, message);
	expect_failure("nosuch", variable, STATUS_NOT_FOUND, "exec: \"nosuch\": executable file not found in $PATH");
	expect_failure("sh", "PATH=", STATUS_NOT_FOUND, "exec: \"sh\": executable file not found in $PATH");
	expect_failure("", variable, STATUS_NOT_FOUND, "exec: \"\": executable file not found in $PATH");
	expect_failure("/no/such", variable, STATUS_NOT_FOUND, "exec: \"/no/such\": no such file or directory");
	expect_failure("/usr", variable, STATUS_NOT_EXECUTABLE, "exec: \"/usr\": is a directory");
	CHECK(!file_replace(path, "#!/no/interpreter\n", 18, 0755));
	snprintf(message, sizeof message, "exec: \"%s\": no such file or directory", path);
	expect_failure(path, "A=", STATUS_NOT_FOUND, message);
	CHECK(!chmod(path, 0644));
	snprintf(message, sizeof message, "exec: \"%s\": permission denied", path);
	expect_failure("script", variable, STATUS_NOT_EXECUTABLE, "exec: \"script\": permission denied");
	expect_failure(path, variable, STATUS_NOT_EXECUTABLE, message);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2);
	directories_are_made_with_their_parents(argv[1]);
	a_replaced_file_is_never_written_through_a_link(argv[1]);
	if (getuid() == 0) { /* setgroups is root's */
		a_program_gets_its_words_as_they_are();
		what_cannot_be_executed_is_told_in_dockers_words(argv[1]);
	}
	return 0;
}
