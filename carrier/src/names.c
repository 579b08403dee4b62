#include "names.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "address.h"

#define HEADER 12
#define RECORD 16
#define LIFETIME 5 /* seconds: machines come and go */

static char small(uint8_t letter)
{
	return (char)(letter >= 'A' && letter <= 'Z' ? letter + 'a' - 'A' : letter);
}

bool names_parse(const uint8_t *message, size_t length, struct question *question)
{
	size_t at = HEADER, end = 0;

	/* A query (QR 0, opcode 0) of one question. */
	if (length < HEADER || message[2] & 0xf8 || get16(message + 4) != 1 || get16(message + 6))
		return false;
	while (at < length && message[at]) {
		size_t label = message[at++];

		if (label > 63 || label > length - at || end + label + 2 > LONGEST_NAME)
			return false;
		if (end)
			question->name[end++] = '.';
		while (label--)
			question->name[end++] = small(message[at++]);
	}
	question->name[end] = '\0';
	if (memchr(question->name, '\0', end) || length < at + 5 || get16(message + at + 3) != CLASS_IN)
		return false;
	question->type = get16(message + at + 1);
	question->end = at + 5;
	return end > 0;
}

size_t names_find(const char *hosts, const char *name, uint32_t *addresses)
{
	size_t count = 0, wanted = strlen(name);

	while (*hosts && count < MOST_ADDRESSES) {
		size_t line = strcspn(hosts, "\n"), word = strcspn(hosts, " \t\n");
		const char *at = hosts + word, *end = hosts + line;
		char text[16];
		bool found = false;

		while (at < end && !found) {
			at += strspn(at, " \t");
			word = strcspn(at, " \t\n");
			found = word == wanted && !strncasecmp(at, name, wanted);
			at += word;
		}
		word = strcspn(hosts, " \t\n");
		if (found && word < sizeof text) {
			memcpy(text, hosts, word);
			text[word] = '\0';
			count += address_parse(text, &addresses[count]);
		}
		hosts = *end ? end + 1 : end;
	}
	return count;
}

size_t names_answer(const uint8_t *message, const struct question *question, const uint32_t *addresses, size_t count,
		    unsigned int rcode, uint8_t *answer)
{
	size_t end = question->end;
	bool is_wanted = question->type == TYPE_A || question->type == TYPE_ANY;

	memcpy(answer, message, end);
	answer[2] = 0x80 | (message[2] & 0x01); /* an answer; recursion as was desired */
	answer[3] = (uint8_t)(0x80 | rcode);    /* recursion is available */
	if (!is_wanted)
		count = 0; /* the name is there, and has no such record: AAAA */
	memset(answer + 6, 0, 6);
	put16(answer + 6, (unsigned int)count);
	for (size_t i = 0; i < count; i++, end += RECORD) {
		put16(answer + end, 0xc000 | HEADER);
		put16(answer + end + 2, TYPE_A);
		put16(answer + end + 4, CLASS_IN);
		put32(answer + end + 6, LIFETIME);
		put16(answer + end + 10, 4);
		put32(answer + end + 12, addresses[i]);
	}
	return end;
}
