#include "check.h"
#include "users.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
			     "# a comment\n"
			     "\n"
			     "bob:x:7:8::/home/bob:/bin/sh\n"
			     "nohome:x:70:80\n"
			     "12:x:34:56::/twelve:\n"
			     "odd";
static const char group[] = "root:x:0:\nbob:x:8:\ngrp:x:9:bob\nsup:x:10:alice,bob\nbad:x:11:bobby,abob\n";

static struct user user;
static struct failure failure;

static void expect(const char *word, unsigned uid, unsigned gid, const char *home, const char *groups)
{
	char listed[256] = "";

	if (user_resolve(word, passwd, group, &user, &failure)) {
		fprintf(stderr, "%s: %s\n", word, failure.message);
		exit(1);
	}
	for (size_t i = 0; i < user.group_count; i++)
		sprintf(listed + strlen(listed), "%s%u", i ? "," : "", user.groups[i]);
	if (user.uid != uid || user.gid != gid || strcmp(user.home, home) || strcmp(listed, groups)) {
		fprintf(stderr, "%s: %u:%u %s %s\n", word, user.uid, user.gid, user.home, listed);
		exit(1);
	}
}

static void refuse(const char *word, const char *message)
{
	CHECK(user_resolve(word, passwd, group, &user, &failure) == -1);
	CHECK_TEXT(failure.message, message);
	CHECK_TEXT(failure.stage, "user");
	CHECK(failure.status == STATUS_MACHINE);
}

int main(void)
{
	expect("", 0, 0, "/root", "0");
	expect("root", 0, 0, "/root", "0");
	expect("bob", 7, 8, "/home/bob", "8,9,10");
	expect("7", 7, 8, "/home/bob", "8,9,10");
	expect("bob:", 7, 8, "/home/bob", "8,9,10");
	expect("bob:root", 7, 0, "/home/bob", "0"); /* an explicit group is the only one */
	expect("bob:10", 7, 10, "/home/bob", "10");
	expect("99", 99, 0, "/", "0");
	expect("99:98", 99, 98, "/", "98");
	expect(":grp", 0, 9, "/root", "9");
	expect("nohome", 70, 80, "/", "80");
	expect("12", 34, 56, "/twelve", "56"); /* a name that looks like a number */
	expect("2147483647", 2147483647, 0, "/", "0");
	refuse("nosuch", "unable to find user nosuch: no matching entries in passwd file");
	refuse("bob:nosuch", "unable to find group nosuch: no matching entries in group file");
	refuse("2147483648", "uids and gids must be in range 0-2147483647");
	refuse("-1", "uids and gids must be in range 0-2147483647");
	refuse("0:-5", "uids and gids must be in range 0-2147483647");
	refuse("99999999999999999999", "unable to find user 99999999999999999999: no matching entries in passwd file");

	CHECK(!user_resolve("5:6", NULL, NULL, &user, &failure) && user.uid == 5 && user.gid == 6);
	CHECK(!user_resolve("", NULL, NULL, &user, &failure) && user.uid == 0 && !strcmp(user.home, "/"));
	CHECK(user_resolve("bob", NULL, NULL, &user, &failure));
	CHECK(!user_resolve("bob", "bob:x:1:2::/b", "g:x:3:bob\r\n", &user, &failure) && user.group_count == 2);
	return 0;
}
