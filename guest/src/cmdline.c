#include "cmdline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "file.h"

#define LIMIT (1 << 16)
#define BLANKS " \t\n"

/* The length of the word at `line`; blanks between double quotes belong to it. */
static size_t word_length(const char *line)
{
	bool quoted = false;
	size_t length = 0;

	while (line[length] && (quoted || !strchr(BLANKS, line[length])))
		quoted ^= line[length++] == '"';
	return length;
}

static void copy_unquoted(const char *from, size_t length, char *to, size_t size)
{
	size_t used = 0;

	for (size_t i = 0; i < length && used + 1 < size; i++)
		if (from[i] != '"')
			to[used++] = from[i];
	to[used] = '\0';
}

bool cmdline_find(const char *line, const char *name, char *value, size_t size)
{
	size_t length = strlen(name);
	bool found = false;

	for (size_t word; *(line += strspn(line, BLANKS)); line += word) {
		word = word_length(line);
		if (word == 2 && !strncmp(line, "--", 2))
			break; /* what follows is init's */
		if (word < length || strncmp(line, name, length))
			continue;
		if (!value) {
			found = found || word == length;
		} else if (line[length] == '=') {
			copy_unquoted(line + length + 1, word - length - 1, value, size);
			found = true;
		}
	}
	return found;
}

static bool find(const char *name, char *value, size_t size)
{
	size_t length;
	char *line = file_read("/proc/cmdline", LIMIT, &length);
	bool found = line && cmdline_find(line, name, value, size);

	free(line);
	return found;
}

bool cmdline_value(const char *name, char *value, size_t size)
{
	return find(name, value, size);
}

bool cmdline_word(const char *word)
{
	return find(word, NULL, 0);
}
