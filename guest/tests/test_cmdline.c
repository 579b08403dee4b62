#include "check.h"
#include "cmdline.h"

static char value[16];

int main(void)
{
	CHECK(cmdline_find("root=/dev/vda rw", "root", value, sizeof value));
	CHECK_TEXT(value, "/dev/vda");
	CHECK(cmdline_find(" a=1\ta=2\n", "a", value, sizeof value));
	CHECK_TEXT(value, "2");
	CHECK(cmdline_find("a=\"b c\" d", "a", value, sizeof value));
	CHECK_TEXT(value, "b c");
	CHECK(cmdline_find("a=", "a", value, sizeof value));
	CHECK_TEXT(value, "");
	CHECK(cmdline_find("a=0123456789abcdefgh", "a", value, sizeof value));
	CHECK_TEXT(value, "0123456789abcde");
	CHECK(!cmdline_find("rootfstype=ext4 xroot=1 root", "root", value, sizeof value));
	CHECK(!cmdline_find("b -- a=1", "a", value, sizeof value));
	CHECK(!cmdline_find("", "a", value, sizeof value));

	CHECK(cmdline_find("quiet ro", "ro", NULL, 0));
	CHECK(cmdline_find("ro root=1", "ro", NULL, 0));
	CHECK(!cmdline_find("root=/dev/ro ro=1 row", "ro", NULL, 0));
	return 0;
}
