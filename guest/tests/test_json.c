#include "check.h"
#include "json.h"

static struct json nodes[64];

/* Parse a copy of exactly `length` bytes, so that the sanitizer sees every step beyond. */
static const struct json *parse_bytes(const char *text, size_t length)
{
	static char *copy;

	free(copy);
	copy = malloc(length + !length);
	memcpy(copy, text, length);
	return json_parse(copy, length, nodes, 64);
}

static const struct json *parse(const char *text)
{
	return parse_bytes(text, strlen(text));
}

static void values_of_every_type_are_read(void)
{
	const struct json *value = parse(" {\"a\": [1, -2, true, false, null], \"b\": {\"c\": \"d\"}, \"e\": 1.5e3} ");

	CHECK(value && value->type == JSON_OBJECT);
	CHECK(json_get(value, "a")->first->number == 1);
	CHECK(json_get(value, "a")->first->next->number == -2);
	CHECK(json_get(value, "a")->first->next->next->type == JSON_TRUE);
	CHECK_TEXT(json_string(json_get(value, "b"), "c", NULL), "d");
	CHECK(json_integer(value, "e", 0, 10000, 7) == 7); /* a fraction is no integer */
	CHECK(json_get(value, "x") == NULL && json_get(NULL, "x") == NULL);
	CHECK(json_integer(parse("{\"n\":9223372036854775807}"), "n", 0, 9223372036854775807LL, 0) ==
	      9223372036854775807LL);
	CHECK(json_integer(parse("{\"n\":9223372036854775808}"), "n", 0, 9223372036854775807LL, 5) == 5);
}

static void strings_keep_every_byte(void)
{
	CHECK_TEXT(parse("\"a\\\"\\\\\\/\\b\\f\\n\\r\\tz\"")->string, "a\"\\/\b\f\n\r\tz");
	CHECK_TEXT(parse("\"\\u00e9\\u20ac\\ud83d\\ude00\"")->string, "é€😀");
	CHECK_TEXT(parse("\"\\udcff\\udc80\"")->string, "\xff\x80"); /* bytes that are no UTF-8 */
	CHECK_TEXT(parse("\"é\xff\"")->string, "é\xff");
}

static void what_is_no_json_is_refused(void)
{
	static const char *const wrong[] = {
		"",	   "{",		"[1,]",	     "{\"a\"}",	  "{\"a\":}",  "{a:1}",	  "01",	      "-",
		"1.",	   "1e",	"+1",	     "tru",	  "\"a",       "\"\\x\"", "\"\\u00\"", "\"\\u0000\"",
		"[1 2]",   "1 2",	"\"\n\"",    "\"\\ud83d\"", "\"\\udc00\"", "{} x",	"\"\\",	      "\"\\ud83d\\u0041\"",
		"{\"a\":1,}", "[",	"]",	     "nul",	  "{\"a\" 1}", "\"\\u12",
	};

	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
		if (parse(wrong[i])) {
			fprintf(stderr, "accepted: %s\n", wrong[i]);
			exit(1);
		}
	CHECK(!parse_bytes("\0", 1) && !parse_bytes("[1,\0", 4) && !parse_bytes("\"\\\0\"", 4));
}

static void depth_and_number_of_values_are_bounded(void)
{
	char deep[2 * JSON_DEPTH + 2], many[200] = "[0";

	memset(deep, '[', JSON_DEPTH);
	memset(deep + JSON_DEPTH, ']', JSON_DEPTH);
	CHECK(parse_bytes(deep, 2 * JSON_DEPTH));
	memset(deep, '[', JSON_DEPTH + 1);
	memset(deep + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
	CHECK(!parse_bytes(deep, 2 * JSON_DEPTH + 2));
	for (int i = 0; i < 63; i++)
		strcat(many, ",0");
	strcat(many, "]");
	CHECK(!parse(many)); /* 65 values */
}

static void arbitrary_bytes_do_no_harm(void)
{
	static const char alphabet[] = "{}[]\",:\\u0dc89aef-+.1etrunls \n\xff";
	unsigned state = 1;

	for (int round = 0; round < 200000; round++) {
		char text[24];
		size_t length = (state >> 7) % sizeof text;

		for (size_t i = 0; i < length; i++) {
			state = state * 1664525u + 1013904223u;
			text[i] = alphabet[(state >> 16) % (sizeof alphabet - 1)];
		}
		state = state * 1664525u + 1013904223u;
		parse_bytes(text, length);
	}
}

static void quoting_gives_json_of_any_bytes(void)
{
	char out[64];

	json_quote("a\"b\\\n\xffé\xc3", out, sizeof out);
	CHECK_TEXT(out, "\"a\\\"b\\\\\\u000a\\ufffdé\\ufffd\"");
	CHECK(json_quote("aaaaaaaaaaaaaaaaaaaaaaaa", out, 12) < 12);
}

int main(void)
{
	values_of_every_type_are_read();
	strings_keep_every_byte();
	what_is_no_json_is_refused();
	depth_and_number_of_values_are_bounded();
	arbitrary_bytes_do_no_harm();
	quoting_gives_json_of_any_bytes();
	return 0;
}
