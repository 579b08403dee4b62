#include "identity.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "log.h"
#include "volumes.h"

/* The beginning of dockerd's /etc/hosts. */
static const char hosts_head[] = "127.0.0.1\tlocalhost\n"
				 "::1\tlocalhost ip6-localhost ip6-loopback\n"
				 "fe00::\tip6-localnet\n"
				 "ff00::\tip6-mcastprefix\n"
				 "ff02::1\tip6-allnodes\n"
				 "ff02::2\tip6-allrouters\n";

/* Close the stream that filled `text` and put it in the file's place. */
static void publish(FILE *stream, char **text, size_t *length, const char *path)
{
	if (!stream || fclose(stream) || file_replace(path, *text, *length, 0644))
		log_line(LOG_LEVEL_WARNING, "%s: %s", path, strerror(errno));
	free(*text);
	*text = NULL;
}

static void write_words(FILE *stream, const char *keyword, const struct json *list)
{
	if (!list || !list->first)
		return;
	fputs(keyword, stream);
	for (const struct json *item = list->first; item; item = item->next)
		if (item->type == JSON_STRING)
			fprintf(stream, " %s", item->string);
	fputc('\n', stream);
}

static void write_resolv_conf(const struct machine *machine)
{
	char *text = NULL;
	size_t length;
	FILE *stream = open_memstream(&text, &length);

	for (const struct json *item = machine->nameservers->first; stream && item; item = item->next)
		if (item->type == JSON_STRING)
			fprintf(stream, "nameserver %s\n", item->string);
	if (stream) {
		write_words(stream, "search", machine->search);
		write_words(stream, "options", machine->options);
	}
	publish(stream, &text, &length, "/etc/resolv.conf");
}

static void write_hosts(const struct machine *machine)
{
	char *text = NULL;
	size_t length;
	FILE *stream = open_memstream(&text, &length);

	if (stream) {
		const struct json *hosts = machine->hosts;

		fputs(hosts_head, stream);
		for (const struct json *item = hosts ? hosts->first : NULL; item; item = item->next)
			fprintf(stream, "%s\t%s\n", json_string(item, "address", ""), json_string(item, "name", ""));
		if (machine->interface_count)
			fprintf(stream, "%s\t%s\n", machine->interfaces[0].address, machine->hostname);
	}
	publish(stream, &text, &length, "/etc/hosts");
}

void identity_write(const struct machine *machine)
{
	char line[256];
	int length = snprintf(line, sizeof line, "%s\n", machine->hostname);

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
