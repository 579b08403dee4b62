#include "identity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "format.h"
#include "log.h"
#include "text.h"
#include "volumes.h"

/* The beginning of dockerd's /etc/hosts. */
static const char hosts_head[] = "127.0.0.1\tlocalhost\n"
				 "::1\tlocalhost ip6-localhost ip6-loopback\n"
				 "fe00::\tip6-localnet\n"
				 "ff00::\tip6-mcastprefix\n"
				 "ff02::1\tip6-allnodes\n"
				 "ff02::2\tip6-allrouters\n";

/* Room for any file that the document can ask for; what stays unused of it costs nothing. */
#define FILE_ROOM (DOCUMENT_LIMIT + 4096)

static struct text begin_file(void)
{
	char *room = malloc(FILE_ROOM);

	return room ? text_in(room, FILE_ROOM) : (struct text){ .full = true };
}

/* Put it in the file's place. */
static void publish(struct text *text, const char *path)
{
	if (!text->start || file_replace(path, text->start, text->length, 0644))
		log_line(LOG_LEVEL_WARNING, "%s: %s", path, strerror(errno));
	free(text->start);
}

static void write_words(struct text *text, const char *keyword, const struct json *list)
{
	if (!list || !list->first)
		return;
	text_printf(text, "%s", keyword);
	for (const struct json *item = list->first; item; item = item->next)
		if (item->type == JSON_STRING)
			text_printf(text, " %s", item->string);
	text_printf(text, "\n");
}

static void write_resolv_conf(const struct machine *machine)
{
	struct text text = begin_file();

	for (const struct json *item = machine->nameservers->first; text.start && item; item = item->next)
		if (item->type == JSON_STRING)
			text_printf(&text, "nameserver %s\n", item->string);
	if (text.start) {
		write_words(&text, "search", machine->search);
		write_words(&text, "options", machine->options);
	}
	publish(&text, "/etc/resolv.conf");
}

static void write_hosts(const struct machine *machine)
{
	struct text text = begin_file();

	if (text.start) {
		const struct json *hosts = machine->hosts;

		text_printf(&text, "%s", hosts_head);
		for (const struct json *item = hosts ? hosts->first : NULL; item; item = item->next)
			text_printf(&text, "%s\t%s\n", json_string(item, "address", ""),
				    json_string(item, "name", ""));
		if (machine->interface_count)
			text_printf(&text, "%s\t%s\n", machine->interfaces[0].address, machine->hostname);
	}
	publish(&text, "/etc/hosts");
}

void identity_write(const struct machine *machine)
{
	char line[256];
	int length = format_text(line, sizeof line, "%s\n", machine->hostname);

	if (sethostname(machine->hostname, strlen(machine->hostname)))
		log_line(LOG_LEVEL_WARNING, "hostname %s: %s", machine->hostname, strerror(errno));
	mkdir("/etc", 0755);
	if (!volumes_cover(machine, "/etc/hostname") &&
	    (length >= (int)sizeof line || file_replace("/etc/hostname", line, (size_t)length, 0644)))
		log_line(LOG_LEVEL_WARNING, "/etc/hostname: %s", strerror(errno));
	if (!volumes_cover(machine, "/etc/hosts"))
		write_hosts(machine);
	if (machine->nameservers && !volumes_cover(machine, "/etc/resolv.conf"))
		write_resolv_conf(machine);
	if (symlink("/proc/mounts", "/etc/mtab") && errno != EEXIST)
		log_line(LOG_LEVEL_WARNING, "/etc/mtab: %s", strerror(errno));
}
