#include "users.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "format.h"

#define FILE_LIMIT (16 << 20)
#define FIELDS 7
#define MAX_ID 2147483647LL

/* A part of a text, not terminated. */
struct span {
	const char *start;
	size_t length;
};


/* The part of `text` up to `separator` or its end; `text` becomes what follows, its start NULL at the end. */
static struct span cut(struct span *text, char separator)
{
	const char *found = memchr(text->start, separator, text->length);
	struct span part = { text->start, found ? (size_t)(found - text->start) : text->length };

	text->length -= part.length + (found ? 1 : 0);
	text->start = found ? found + 1 : NULL;
	return part;
}

static struct span trim(struct span span)
{
	while (span.length && strchr(" \t\r\v\f", span.start[0]) && span.start[0]) {
		span.start++;
		span.length--;
	}
	while (span.length && strchr(" \t\r\v\f", span.start[span.length - 1]) && span.start[span.length - 1])
		span.length--;
	return span;
}

/* As Go's strconv.Atoi reads a decimal number of 64 bits. */
static bool number(struct span text, long long *value)
{
	unsigned long long sum = 0;
	bool negative = text.length && text.start[0] == '-';
	size_t i = negative || (text.length && text.start[0] == '+');

	if (i == text.length)
		return false;
	for (; i < text.length; i++) {
		unsigned next = (unsigned)(text.start[i] - '0');

		if (text.start[i] < '0' || text.start[i] > '9' || sum > ((unsigned long long)LLONG_MAX - next) / 10)
			return false;
		sum = sum * 10 + next;
	}
	*value = negative ? -(long long)sum : (long long)sum;
	return true;
}

/* The next line that is not blank, cut at colons. Fields that it lacks are empty. False at the end of the text. */
static bool next_entry(struct span *text, struct span fields[FIELDS])
{
	while (text->start) {
		struct span line = trim(cut(text, '\n'));

		if (!line.length)
			continue;
		for (size_t i = 0; i < FIELDS; i++)
			fields[i] = line.start ? cut(&line, ':') : (struct span){ "", 0 };
		return true;
	}
	return false;
}

/* A number in a file; what is none counts as 0, as runc has it. */
static long long lenient(struct span field)
{
	long long value = 0;

	return number(field, &value) ? value : 0;
}

struct wanted {
	struct span user, group;
	long long uid, gid;
	bool user_is_number, group_is_number;
};

/* Look the user up. `name` receives the entry's name, of length 0 where there is none. */
static int find_user(const struct wanted *wanted, const char *passwd, struct user *user, struct span *name,
		     struct failure *failure)
{
	struct span text = { passwd, passwd ? strlen(passwd) : 0 }, fields[FIELDS];

	*name = (struct span){ "", 0 };
	while (next_entry(&text, fields)) {
		bool match = wanted->user.length == 0 ? lenient(fields[2]) == 0 :
			     wanted->user_is_number && lenient(fields[2]) == wanted->uid;

		if (wanted->user.length && fields[0].length == wanted->user.length &&
		    !memcmp(fields[0].start, wanted->user.start, wanted->user.length))
			match = true;
		if (!match)
			continue;
		*name = fields[0];
		user->uid = (uid_t)lenient(fields[2]);
		user->gid = (gid_t)lenient(fields[3]);
		if (fields[5].length)
			format_text(user->home, sizeof user->home, "%.*s", (int)fields[5].length, fields[5].start);
		return 0;
	}
	if (!wanted->user.length)
		return 0;
	if (!wanted->user_is_number)
		return fail(failure, "user", 0, "unable to find user %.*s: no matching entries in passwd file",
			    (int)wanted->user.length, wanted->user.start);
	if (wanted->uid < 0 || wanted->uid > MAX_ID)
		return fail(failure, "user", 0, "uids and gids must be in range 0-2147483647");
	user->uid = (uid_t)wanted->uid;
	return 0;
}

static int find_group(const struct wanted *wanted, const char *group, struct user *user, struct failure *failure)
{
	struct span text = { group, group ? strlen(group) : 0 }, fields[FIELDS];

	while (next_entry(&text, fields)) {
		bool same = fields[0].length == wanted->group.length &&
			    !memcmp(fields[0].start, wanted->group.start, wanted->group.length);

		if (same || (wanted->group_is_number && lenient(fields[2]) == wanted->gid)) {
			user->gid = (gid_t)lenient(fields[2]);
			return 0;
		}
	}
	if (!wanted->group_is_number)
		return fail(failure, "user", 0, "unable to find group %.*s: no matching entries in group file",
			    (int)wanted->group.length, wanted->group.start);
	if (wanted->gid < 0 || wanted->gid > MAX_ID)
		return fail(failure, "user", 0, "uids and gids must be in range 0-2147483647");
	user->gid = (gid_t)wanted->gid;
	return 0;
}

static void add_group(struct user *user, gid_t gid)
{
	for (size_t i = 0; i < user->group_count; i++)
		if (user->groups[i] == gid)
			return;
	if (user->group_count < MAX_GROUPS)
		user->groups[user->group_count++] = gid;
}

/* Every group that lists the user's name. */
static void find_memberships(struct span name, const char *group, struct user *user)
{
	struct span text = { group, group ? strlen(group) : 0 }, fields[FIELDS];

	while (next_entry(&text, fields)) {
		while (fields[3].start && fields[3].length) {
			struct span member = cut(&fields[3], ',');

			if (member.length == name.length && !memcmp(member.start, name.start, name.length))
				add_group(user, (gid_t)lenient(fields[2]));
		}
	}
}

int user_resolve(const char *word, const char *passwd, const char *group, struct user *user, struct failure *failure)
{
	struct span text = { word, strlen(word) }, name;
	struct wanted wanted = { .user = cut(&text, ':') };

	wanted.group = text.start ? cut(&text, ':') : (struct span){ "", 0 };
	wanted.user_is_number = number(wanted.user, &wanted.uid);
	wanted.group_is_number = number(wanted.group, &wanted.gid);
	memset(user, 0, sizeof *user);
	strcpy(user->home, "/");
	if (find_user(&wanted, passwd, user, &name, failure))
		return -1;
	if (wanted.group.length && find_group(&wanted, group, user, failure))
		return -1;
	add_group(user, user->gid);
	if (!wanted.group.length && name.length)
		find_memberships(name, group, user);
	return 0;
}

int user_add_groups(struct user *user, char **names, const char *group, struct failure *failure)
{
	for (; *names; names++) {
		struct wanted wanted = { .group = { *names, strlen(*names) } };
		gid_t own = user->gid;

		wanted.group_is_number = number(wanted.group, &wanted.gid);
		if (find_group(&wanted, group, user, failure))
			return -1;
		add_group(user, user->gid);
		user->gid = own;
	}
	return 0;
}

int user_lookup(const char *word, char **groups, struct user *user, struct failure *failure)
{
	size_t length;
	char *passwd = file_read("/etc/passwd", FILE_LIMIT, &length);
	char *group = file_read("/etc/group", FILE_LIMIT, &length);
	int result = user_resolve(word, passwd, group, user, failure);

	if (!result && groups)
		result = user_add_groups(user, groups, group, failure);
	free(passwd);
	free(group);
	return result;
}

bool user_name(const char *passwd, uid_t uid, char *name, size_t size)
{
	struct span text = { passwd, passwd ? strlen(passwd) : 0 }, fields[FIELDS];
	long long value;

	while (next_entry(&text, fields)) {

		if (!number(fields[2], &value) || value != (long long)uid || !fields[0].length)
			continue;
		format_text(name, size, "%.*s", (int)fields[0].length, fields[0].start);
		return true;
	}
	return false;
}
