/* USER's word against passwd and group, by the rules of runc (github.com/moby/sys/user, GetExecUser). No NSS. */
#ifndef FIREKILN_USERS_H
#define FIREKILN_USERS_H

#include <limits.h>
#include <stddef.h>
#include <sys/types.h>

#include "failure.h"

#define MAX_GROUPS 1024

struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[MAX_GROUPS]; /* supplementary, the group itself first */
	size_t group_count;
	char home[PATH_MAX];
};

/* Resolve `name`, `number`, `user:group` or "" (root). `passwd` and `group` are the files' texts, NULL where they are
 * absent. 0, or -1 and `failure` in runc's words. */
int user_resolve(const char *word, const char *passwd, const char *group, struct user *user, struct failure *failure);

/* The same with /etc/passwd and /etc/group. */
int user_lookup(const char *word, struct user *user, struct failure *failure);

#endif
