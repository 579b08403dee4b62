/* Names of the machines of a network, as DNS (RFC 1035) asks for them. */
#ifndef NAMES_H
#define NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LONGEST_NAME 254
#define MOST_ADDRESSES 16
#define LONGEST_ANSWER 1232

struct question {
	char name[LONGEST_NAME]; /* in small letters, without the last dot */
	uint16_t type;           /* 1: A */
	size_t end;              /* of the question, from the message's beginning */
};

enum { TYPE_A = 1, TYPE_ANY = 255, CLASS_IN = 1, RCODE_NXDOMAIN = 3, RCODE_SERVFAIL = 2 };

/* False where the message is no plain question for one name of the internet. */
bool names_parse(const uint8_t *message, size_t length, struct question *question);

/* Addresses of `name` in a text like /etc/hosts; how many. At most MOST_ADDRESSES. */
size_t names_find(const char *hosts, const char *name, uint32_t *addresses);

/* Write the answer to a message that was parsed into `answer` (LONGEST_ANSWER bytes); its length. */
size_t names_answer(const uint8_t *message, const struct question *question, const uint32_t *addresses, size_t count,
		    unsigned int rcode, uint8_t *answer);

#endif
