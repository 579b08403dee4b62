#include "address.h"
#include "check.h"
#include "names.h"

static const char hosts[] = "10.1.0.2 web www web.front\n10.1.0.3 db\n10.1.0.4\twww\nnonsense web\n\n10.1.0.5 last";

static const uint8_t query[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WeB\x05" "front\x00\x00\x01\x00\x01";

static void names_are_found_whole_and_whatever_their_letters(void)
{
	uint32_t found[MOST_ADDRESSES];

	CHECK(names_find(hosts, "web", found) == 1 && found[0] == 0x0a010002);
	CHECK(names_find(hosts, "www", found) == 2 && found[1] == 0x0a010004);
	CHECK(names_find(hosts, "DB", found) == 1);
	CHECK(names_find(hosts, "last", found) == 1 && found[0] == 0x0a010005);
	CHECK(names_find(hosts, "we", found) == 0);
	CHECK(names_find(hosts, "10.1.0.2", found) == 0);
	CHECK(names_find("", "web", found) == 0);
}

static void a_question_is_answered_with_its_own_words(void)
{
	struct question question;
	uint8_t answer[LONGEST_ANSWER];
	uint32_t addresses[] = { 0x0a010002, 0x0a010004 };
	size_t size;

	CHECK(names_parse(query, sizeof query - 1, &question));
	CHECK_TEXT(question.name, "web.front");
	CHECK(question.type == TYPE_A && question.end == sizeof query - 1);
	size = names_answer(query, &question, addresses, 2, 0, answer);
	CHECK(size == question.end + 2 * 16);
	CHECK(!memcmp(answer, query, 2) && answer[2] & 0x80 && get16(answer + 6) == 2);
	CHECK(get32(answer + size - 4) == 0x0a010004);
	question.type = 28; /* AAAA */
	size = names_answer(query, &question, addresses, 2, 0, answer);
	CHECK(size == question.end && get16(answer + 6) == 0 && !(answer[3] & 15));
	size = names_answer(query, &question, addresses, 0, RCODE_NXDOMAIN, answer);
	CHECK((answer[3] & 15) == RCODE_NXDOMAIN);
}

/* Whatever the bytes, in a room that is no longer than they are. */
static void malformed_questions_do_no_harm(void)
{
	srand(7);
	for (int round = 0; round < 30000; round++) {
		struct question question;
		size_t length = (size_t)rand() % sizeof query;
		uint8_t answer[LONGEST_ANSWER], *message = malloc(length + 1);

		memcpy(message, query, length);
		for (int change = rand() % 4; change > 0 && length; change--)
			message[(size_t)rand() % length] = (uint8_t)rand();
		if (names_parse(message, length, &question)) {
			CHECK(question.end <= length && strlen(question.name) < LONGEST_NAME);
			names_answer(message, &question, NULL, 0, RCODE_NXDOMAIN, answer);
		}
		free(message);
	}
}

int main(void)
{
	names_are_found_whole_and_whatever_their_letters();
	a_question_is_answered_with_its_own_words();
	malformed_questions_do_no_harm();
	return 0;
}
