#include "statistics.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "decimal.h"
#include "file.h"
#include "format.h"
#include "hex.h"
#include "protocol.h"
#include "text.h"
#include "users.h"

#define LIMIT (1 << 20)
#define ARGV_LIMIT 2048
#define PTS_MAJOR 136 /* linux/major.h: UNIX98_PTY_SLAVE_MAJOR */
#define KTHREAD 0x00200000 /* linux/sched.h: PF_KTHREAD */
#define SECTOR 512
#define TICKS 100 /* a second: USER_HZ, on every architecture that we know */

static char *read_proc(const char *path)
{
	size_t length;

	return file_read(path, LIMIT, &length);
}

/* The number behind `key` at the start of a line, 0 where it is absent. */
static long long value_of(const char *text, const char *key)
{
	size_t length = strlen(key);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, length))
			return decimal_parse(line + length + strspn(line + length, " "), NULL);
	}
	return 0;
}

/* The first `count` numbers of the line at `text`, words that are none as 0. Whether there were so many. */
static bool read_numbers(const char *text, long long *numbers, int count)
{
	for (int i = 0; i < count; i++) {
		text += strspn(text, " ");
		if (!*text || *text == '\n')
			return false;
		numbers[i] = decimal_parse(text, NULL);
		text += strcspn(text, " \n");
	}
	return true;
}

/* --- processes ----------------------------------------------------------------------------------------------------- */

struct process_state {
	int pid, ppid;
	int tty;
	unsigned flags;
	long long cpu_ms, start_ms, rss, threads;
};

/* proc_pid_stat(5). The name in parentheses may hold anything, so that the last of them counts. */
static bool read_state(int pid, struct process_state *state)
{
	enum { STATE, PPID, TTY = 4, FLAGS = 6, USER = 11, SYSTEM, THREADS = 17, START = 19, RSS = 21, FIELDS };
	long long field[FIELDS], ticks = TICKS;
	char path[64], *text, *at;
	bool whole;

	format_text(path, sizeof path, "/proc/%d/stat", pid);
	text = read_proc(path);
	at = text ? strrchr(text, ')') : NULL;
	whole = at && read_numbers(at + 1, field, FIELDS);
	free(text);
	if (!whole)
		return false;
	*state = (struct process_state){ .pid = pid,
					 .ppid = (int)field[PPID],
					 .tty = (int)field[TTY],
					 .flags = (unsigned)field[FLAGS],
					 .threads = field[THREADS],
					 .cpu_ms = (field[USER] + field[SYSTEM]) * 1000 / ticks,
					 .start_ms = field[START] * 1000 / ticks,
					 .rss = field[RSS] * (long long)getauxval(AT_PAGESZ) };
	return true;
}

/* Call `each` for every process that isn't ours or the kernel's. */
static void for_each_process(void (*each)(void *context, const struct process_state *state), void *context)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		int pid = (int)decimal_parse(entry->d_name, NULL);
		struct process_state state;

		if (pid > 0 && pid != getpid() && read_state(pid, &state) && !(state.flags & KTHREAD))
			each(context, &state);
	}
	if (folder)
		closedir(folder);
}

/* --- STATS --------------------------------------------------------------------------------------------------------- */

static void put_memory(struct text *text)
{
	char *info = read_proc("/proc/meminfo");

	text_printf(text, "{\"memory\":{\"total\":%lld,\"free\":%lld,\"available\":%lld,\"cached\":%lld}",
		    value_of(info, "MemTotal:") * 1024, value_of(info, "MemFree:") * 1024,
		    value_of(info, "MemAvailable:") * 1024, value_of(info, "Cached:") * 1024);
	free(info);
}

static void put_cpu(struct text *text)
{
	char *info = read_proc("/proc/stat");
	enum { USER = 1, NICE, SYSTEM, IDLE, IOWAIT, FIELDS }; /* behind the word "cpu" */
	long long field[FIELDS] = { 0 }, tick = 1000 / TICKS;

	if (info)
		read_numbers(info, field, FIELDS);
	text_printf(text, ",\"cpu\":{\"user\":%lld,\"system\":%lld,\"idle\":%lld,\"iowait\":%lld}",
		    (field[USER] + field[NICE]) * tick, field[SYSTEM] * tick, field[IDLE] * tick, field[IOWAIT] * tick);
	free(info);
}

static void put_network(struct text *text)
{
	char *info = read_proc("/proc/net/dev"), *rest = info, *line;
	bool first = true;

	text_printf(text, ",\"network\":[");
	while (rest && (line = strsep(&rest, "\n"))) {
		enum { RX_BYTES, RX_PACKETS, TX_BYTES = 8, TX_PACKETS, FIELDS };
		char *colon = strchr(line, ':');
		long long field[FIELDS];

		if (!colon || !read_numbers(colon + 1, field, FIELDS))
			continue;
		line += strspn(line, " ");
		text_printf(text, "%s{\"name\":", first ? "" : ",");
		text_quote(text, line, (size_t)(colon - line));
		text_printf(text, ",\"rx_bytes\":%lld,\"rx_packets\":%lld,\"tx_bytes\":%lld,\"tx_packets\":%lld}",
			    field[RX_BYTES], field[RX_PACKETS], field[TX_BYTES], field[TX_PACKETS]);
		first = false;
	}
	text_printf(text, "]");
	free(info);
}

static void put_block(struct text *text)
{
	enum { READ = 5, WRITTEN = 9, FIELDS };
	char *info = read_proc("/proc/diskstats"), *rest = info, *line;
	bool first = true;

	text_printf(text, ",\"block\":[");
	while (rest && (line = strsep(&rest, "\n"))) {
		char *name = text_find(line, " vd");
		long long field[FIELDS];

		if (!name || !read_numbers(line, field, FIELDS))
			continue;
		name++;
		text_printf(text, "%s{\"name\":\"%.*s\",\"read\":%lld,\"written\":%lld}", first ? "" : ",",
			    (int)strcspn(name, " "), name, field[READ] * SECTOR, field[WRITTEN] * SECTOR);
		first = false;
	}
	text_printf(text, "]");
	free(info);
}

#define PORTS 64

/* The ports of `path`, as of /proc/net/tcp, that somebody listens on, added to the `count` first of `ports`. */
static size_t add_listening(const char *path, unsigned ports[PORTS], size_t count)
{
	char *info = read_proc(path), *rest = info, *line;

	while (rest && (line = strsep(&rest, "\n"))) { /* "  0: 0100007F:1F90 00000000:0000 0A …" */
		char *word = strchr(line, ':'), *colon = word ? strchr(word + 1, ':') : NULL;
		char *state = colon ? strchr(colon + 1, ':') : NULL;
		unsigned port = 0;
		size_t known = 0;

		if (!state || strncmp(state + 5, " 0A ", 4))
			continue;
		for (int i = 1; i <= 4; i++)
			port = port << 4 | (unsigned)hex_digit(colon[i]);
		while (known < count && ports[known] != port)
			known++;
		if (known == count && count < PORTS)
			ports[count++] = port & 0xffff;
	}
	free(info);
	return count;
}

static void put_listening(struct text *text)
{
	unsigned ports[PORTS];
	size_t count = add_listening("/proc/net/tcp6", ports, add_listening("/proc/net/tcp", ports, 0));

	text_printf(text, ",\"listening\":[");
	for (size_t i = 0; i < count; i++)
		text_printf(text, "%s%u", i ? "," : "", ports[i]);
	text_printf(text, "]");
}

static void add_threads(void *context, const struct process_state *state)
{
	*(long long *)context += state->threads;
}

void statistics_send(struct channel *channel)
{
	static char json[CONTROL_LIMIT];
	struct text text = text_in(json, sizeof json);
	long long threads = 0;

	put_memory(&text);
	put_cpu(&text);
	put_network(&text);
	put_block(&text);
	put_listening(&text);
	for_each_process(add_threads, &threads);
	text_printf(&text, ",\"pids\":%lld}", threads);
	channel_send(channel, FRAME_STATS, PROCESS_NONE, json, text.length);
}

/* --- TOP ----------------------------------------------------------------------------------------------------------- */

struct listing {
	struct channel *channel;
	struct text text;
	char *passwd;
	char json[CONTROL_LIMIT];
};

static const char tail[] = "],\"more\":false}";

static void begin_listing(struct listing *listing)
{
	listing->text = text_in(listing->json, sizeof listing->json - sizeof tail);
	text_printf(&listing->text, "{\"processes\":[");
}

static void send_listing(struct listing *listing, bool more)
{
	listing->text.size += sizeof tail;
	text_printf(&listing->text, "],\"more\":%s}", more ? "true" : "false");
	channel_send(listing->channel, FRAME_TOP, PROCESS_NONE, listing->json, listing->text.length);
}

static void put_owner(struct listing *listing, int pid)
{
	char path[64], name[256];
	struct stat status = { .st_uid = 0 };

	format_text(path, sizeof path, "/proc/%d", pid);
	stat(path, &status);
	text_printf(&listing->text, ",\"uid\":%u,\"user\":", status.st_uid);
	if (user_name(listing->passwd, status.st_uid, name, sizeof name))
		text_quote(&listing->text, name, strlen(name));
	else
		text_printf(&listing->text, "null");
}

static void put_argv(struct listing *listing, int pid)
{
	char path[64], words[ARGV_LIMIT];
	size_t length = 0;

	format_text(path, sizeof path, "/proc/%d/cmdline", pid);
	length = file_read_some(path, words, sizeof words);
	text_printf(&listing->text, ",\"argv\":[");
	for (size_t at = 0; at < length;) {
		size_t word = strnlen(words + at, length - at);

		text_printf(&listing->text, "%s", at ? "," : "");
		text_quote(&listing->text, words + at, word);
		at += word + 1;
	}
	text_printf(&listing->text, "]}");
}

static void put_process(struct listing *listing, const struct process_state *state)
{
	struct text *text = &listing->text;

	if (text->start[text->length - 1] == '}')
		text_printf(text, ",");
	text_printf(text, "{\"pid\":%d,\"ppid\":%d", state->pid, state->ppid);
	put_owner(listing, state->pid);
	text_printf(text, ",\"start_ms\":%lld,\"cpu_ms\":%lld,\"rss\":%lld,\"tty\":", state->start_ms, state->cpu_ms,
		    state->rss);
	if (major((unsigned)state->tty) >= PTS_MAJOR && major((unsigned)state->tty) < PTS_MAJOR + 8)
		text_printf(text, "\"pts/%u\"",
			    minor((unsigned)state->tty) + ((major((unsigned)state->tty) - PTS_MAJOR) << 8));
	else
		text_printf(text, "null");
	put_argv(listing, state->pid);
}

/* Where a process finds no room any more, the frame is sent without it and the next begins with it. */
static void list_process(void *context, const struct process_state *state)
{
	struct listing *listing = context;
	size_t before = listing->text.length;

	put_process(listing, state);
	if (!listing->text.full)
		return;
	listing->text.length = before;
	listing->text.full = false;
	send_listing(listing, true);
	begin_listing(listing);
	put_process(listing, state);
}

void statistics_send_processes(struct channel *channel)
{
	static struct listing listing;

	listing.channel = channel;
	listing.passwd = read_proc("/etc/passwd");
	begin_listing(&listing);
	for_each_process(list_process, &listing);
	send_listing(&listing, false);
	free(listing.passwd);
}
