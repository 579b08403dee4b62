#include "check.h"
#include "file.h"
#include "tar.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static struct failure failure;
static char folder[256];

static const char *in(const char *name)
{
	static char paths[4][512];
	static int next;

	next = (next + 1) % 4;
	snprintf(paths[next], sizeof paths[next], "%s/%s", folder, name);
	return paths[next];
}

/* Copy `from` into the directory `to` by way of a pipe, as a READ and a WRITE would. */
static int copy(const char *from, const char *name, const char *to, bool follow)
{
	int ends[2], status;
	pid_t pid;

	CHECK(!pipe(ends));
	pid = fork();
	if (pid == 0) {
		close(ends[1]);
		_exit(tar_unpack(ends[0], to, getuid() == 0, &failure) ? 1 : 0);
	}
	close(ends[0]);
	CHECK(!tar_write(ends[1], from, name, follow, &failure));
	close(ends[1]);
	CHECK(waitpid(pid, &status, 0) == pid);
	return WEXITSTATUS(status);
}

static int unpack(const char *data, size_t length, const char *to)
{
	int fd = open(in("archive"), O_RDWR | O_CREAT | O_TRUNC, 0600), here = open(".", O_PATH), result;

	CHECK(write(fd, data, length) == (ssize_t)length && !lseek(fd, 0, SEEK_SET));
	result = tar_unpack(fd, to, getuid() == 0, &failure);
	CHECK(!fchdir(here));
	close(here);
	close(fd);
	return result;
}

static void put(const char *name, const char *text, mode_t mode)
{
	CHECK(!directory_make_parent(in(name)) && !file_replace(in(name), text, strlen(text), mode));
}

static void a_tree_comes_out_as_it_went_in(void)
{
	static const struct timespec times[2] = { { 5, 6 }, { 1234567890, 123456789 } }, old[2] = { { 0, 0 }, { -2, 5 } };
	static char longest[256], big[300000];
	struct stat status;
	size_t length;
	char *text, value[16], target[64], path[600];
	bool xattrs;

	memset(longest, 'n', 255);
	memset(big, 'b', sizeof big);
	put("from/a", "alpha", 0640);
	put("from/d/e/empty", "", 04711);
	snprintf(path, sizeof path, "from/d/%s", longest);
	put(path, "long", 0600);
	CHECK(!file_replace(in("from/big"), big, sizeof big, 0644));
	CHECK(!symlink("../nowhere", in("from/link")) && !mkfifo(in("from/fifo"), 0600));
	xattrs = !setxattr(in("from/a"), "user.k", "v\0w", 3, 0);
	CHECK(!utimensat(AT_FDCWD, in("from/a"), times, 0) && !utimensat(AT_FDCWD, in("from/d/e"), old, 0));
	CHECK(!mkdir(in("to"), 0755) && copy(in("from"), "name", in("to"), false) == 0);
	text = file_read(in("to/name/a"), 100, &length);
	CHECK_TEXT(text, "alpha");
	free(text);
	CHECK(!stat(in("to/name/a"), &status) && (status.st_mode & 07777) == 0640);
	CHECK(status.st_mtim.tv_sec == 1234567890 && status.st_mtim.tv_nsec == 123456789);
	if (xattrs)
		CHECK(getxattr(in("to/name/a"), "user.k", value, sizeof value) == 3 && !memcmp(value, "v\0w", 3));
	CHECK(!stat(in("to/name/d/e/empty"), &status) && (status.st_mode & 07777) == 04711 && status.st_size == 0);
	CHECK(!stat(in("to/name/d/e"), &status) && status.st_mtim.tv_sec == -2 && status.st_mtim.tv_nsec == 5);
	snprintf(path, sizeof path, "to/name/d/%s", longest);
	CHECK(!stat(in(path), &status) && status.st_size == 4);
	CHECK(!stat(in("to/name/big"), &status) && status.st_size == sizeof big);
	CHECK(readlink(in("to/name/link"), target, sizeof target) == 10 && !memcmp(target, "../nowhere", 10));
	CHECK(!lstat(in("to/name/fifo"), &status) && S_ISFIFO(status.st_mode));
}

static void what_is_there_is_replaced_but_no_directory_by_a_file(void)
{
	size_t length;
	char *text;

	put("two/a", "new", 0600);
	put("over/two/a", "old", 0600);
	put("over/two/stays", "s", 0600);
	CHECK(copy(in("two"), "two", in("over"), false) == 0 && !access(in("over/two/stays"), F_OK));
	text = file_read(in("over/two/a"), 100, &length);
	CHECK_TEXT(text, "new");
	free(text);
	CHECK(!mkdir(in("dir"), 0755) && !mkdir(in("dir/a"), 0755));
	CHECK(copy(in("two/a"), "a", in("dir"), false) == 1); /* a directory stays one, */
	CHECK(!symlink("two", in("dirlink")) && copy(in("two"), "dirlink", folder, false) == 1); /* a link, too */
}

static void a_link_is_followed_where_that_is_wanted(void)
{
	struct stat status;

	put("real", "r", 0600);
	CHECK(!symlink("real", in("alias")) && !mkdir(in("f"), 0755));
	CHECK(copy(in("alias"), "x", in("f"), true) == 0 && !lstat(in("f/x"), &status) && S_ISREG(status.st_mode));
	CHECK(copy(in("alias"), "y", in("f"), false) == 0 && !lstat(in("f/y"), &status) && S_ISLNK(status.st_mode));
}

static void what_is_no_archive_is_refused_and_an_empty_one_is_none(void)
{
	static char data[2048];

	CHECK(unpack("", 0, folder) == 0 && unpack(data, sizeof data, folder) == 0);
	CHECK(unpack(data, 100, folder) == -1);
	memset(data, 'x', sizeof data);
	CHECK(unpack(data, sizeof data, folder) == -1);
	CHECK_TEXT(failure.message, "the archive is damaged: a header's checksum");
	CHECK(unpack("", 0, in("nosuch")) == -1 && failure.error == ENOENT);
}

static void names_never_lead_outside(void)
{
	static char data[4096];
	int fd;
	ssize_t length;

	CHECK(!mkdir(in("jail"), 0755) && !mkdir(in("jail/in"), 0755));
	fd = open(in("made"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(!tar_write(fd, in("real"), "../escape", false, &failure) && !lseek(fd, 0, SEEK_SET));
	length = read(fd, data, sizeof data);
	close(fd);
	CHECK(unpack(data, (size_t)length, in("jail/in")) == -1 && access(in("jail/escape"), F_OK));
	fd = open(in("made"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(!tar_write(fd, in("real"), "/./a//b/./c", false, &failure) && !lseek(fd, 0, SEEK_SET));
	length = read(fd, data, sizeof data);
	close(fd);
	CHECK(unpack(data, (size_t)length, in("jail/in")) == 0 && !access(in("jail/in/a/b/c"), F_OK));
}

int main(int argc, char **argv)
{
	CHECK(argc == 2 && realpath(argv[1], folder));
	if (getuid() != 0)
		return 0; /* an archive's files are root's, or their owners' */
	a_tree_comes_out_as_it_went_in();
	what_is_there_is_replaced_but_no_directory_by_a_file();
	a_link_is_followed_where_that_is_wanted();
	what_is_no_archive_is_refused_and_an_empty_one_is_none();
	names_never_lead_outside();
	return 0;
}
