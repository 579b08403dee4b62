#include "base64.h"
#include "check.h"
#include "decimal.h"
#include "format.h"
#include "json.h"
#include "text.h"

#include <limits.h>

static char out[64];

/* What libc's snprintf would give. */
#define SAME(...)                                                                         \
	do {                                                                              \
		char libcs_[64];                                                         \
		CHECK(snprintf(libcs_, sizeof libcs_, __VA_ARGS__) == format_text(out, sizeof out, __VA_ARGS__)); \
		CHECK_TEXT(out, libcs_);                                                  \
	} while (0)

static void formats_are_libcs(void)
{
	SAME("%s", "");
	SAME("a%%b%cc%s", 'x', "yz");
	SAME("%d %d %d %d", 0, -1, INT_MAX, INT_MIN);
	SAME("%u %lu %zu", UINT_MAX, ULONG_MAX, (size_t)7);
	SAME("%lld %lld", LLONG_MAX, LLONG_MIN);
	SAME("%llu", ULLONG_MAX);
	SAME("%04x|%02x|%x|%o", 0xab, 0xc, 0xdeadbeef, 01777);
	SAME("%09ld|%5d|", 42L, 7);
	SAME("%.*s|%.2s|%.9s", 3, "abcdef", "xyz", "short");
	CHECK(format_text(out, 4, "%s", "abcdef") == 6);
	CHECK_TEXT(out, "abc");
	CHECK(format_text(NULL, 0, "%d", 12345) == 5);
}

static void a_text_keeps_what_fits_and_tells_of_the_rest(void)
{
	char room[24];
	struct text text = text_in(room, sizeof room);

	text_printf(&text, "%d,", 1);
	text_quote(&text, "a\"b\0c", 5);
	CHECK_TEXT(room, "1,\"a\\\"b\\u0000c\"");
	CHECK(!text.full);
	text_quote(&text, "too long for what is left", 25);
	CHECK(text.full);
	CHECK_TEXT(room, "1,\"a\\\"b\\u0000c\"");
	text = text_in(room, sizeof room);
	text_quote_some(&text, "0123456789012345678901234567890", 31, 2);
	text_printf(&text, "}");
	CHECK(!text.full && room[0] == '"' && room[text.length - 2] == '"' && text.length < sizeof room);
}

static void bytes_that_are_no_text_survive_where_programs_read_them(void)
{
	char room[64], json[64];
	struct text text = text_in(room, sizeof room);
	struct json nodes[2];
	const struct json *value;

	text_quote(&text, "\xff\xc3\xa9\xc3", 4);
	CHECK_TEXT(room, "\"\\udcff\xc3\xa9\\udcc3\"");
	memcpy(json, room, sizeof json);
	value = json_parse(json, text.length, nodes, 2);
	CHECK(value && value->type == JSON_STRING);
	CHECK_TEXT(value->string, "\xff\xc3\xa9\xc3");
	text = text_in(room, sizeof room);
	text_quote_some(&text, "\xff", 1, 0);
	CHECK_TEXT(room, "\"\\ufffd\"");
}

static void decode(const char *encoded, const char *wanted, size_t length)
{
	char text[64];

	strcpy(text, encoded);
	CHECK(base64_decode(text) == length && !memcmp(text, wanted, length));
}

static void base64_is_rfc_4648s(void)
{
	decode("", "", 0);
	decode("Zg==", "f", 1);
	decode("Zm8=", "fo", 2);
	decode("Zm9vYmFy", "foobar", 6);
	decode("AP+/", "\0\xff\xbf", 3);
	decode("Zm9v\nYmFy", "foo", 3);
}

static void numbers_saturate(void)
{
	const char *rest;

	CHECK(decimal_parse("12x", &rest) == 12 && *rest == 'x');
	CHECK(decimal_parse("-7", NULL) == -7 && decimal_parse("", NULL) == 0);
	CHECK(decimal_parse("99999999999999999999999", NULL) == LLONG_MAX);
}

int main(void)
{
	formats_are_libcs();
	a_text_keeps_what_fits_and_tells_of_the_rest();
	bytes_that_are_no_text_survive_where_programs_read_them();
	base64_is_rfc_4648s();
	numbers_saturate();
	return 0;
}
