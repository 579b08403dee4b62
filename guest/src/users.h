/* USER's word against passwd and group, by the rules of runc (github.com/moby/sys/user, GetExecUser). No NSS. */
#ifndef FIREKILN_USERS_H
#define FIREKILN_USERS_H

#include <limits.h>
#include <stdbool.h>
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

/* Add further groups, each a name or number, NULL-terminated (--group-add). 0, or -1 and `failure`. */
int user_add_groups(struct user *user, char **names, const char *group, struct failure *failure);

/* Both with /etc/passwd and /etc/group; `groups` may be NULL. */
int user_lookup(const char *word, char **groups, struct user *user, struct failure *failure);

/* The name that passwd's text (or NULL) has for the number. False where it has none. */
bool user_name(const char *passwd, uid_t uid, char *name, size_t size);

#endif
