#include "json.h"

#include <limits.h>
#include <string.h>

#include "format.h"

struct parser {
	char *at, *end;
	struct json *nodes;
	size_t used, count;
};

static struct json *parse_value(struct parser *parser, int depth);

static void skip_space(struct parser *parser)
{
	while (parser->at < parser->end && strchr(" \t\r\n", *parser->at) && *parser->at)
		parser->at++;
}

static bool accept(struct parser *parser, char wanted)
{
	skip_space(parser);
	if (parser->at >= parser->end || *parser->at != wanted)
		return false;
	parser->at++;
	return true;
}

static bool accept_word(struct parser *parser, const char *word)
{
	size_t length = strlen(word);

	if ((size_t)(parser->end - parser->at) < length || memcmp(parser->at, word, length))
		return false;
	parser->at += length;
	return true;
}

static bool digit(const struct parser *parser)
{
	return parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9';
}

static bool skip_digits(struct parser *parser)
{
	if (!digit(parser))
		return false;
	while (digit(parser))
		parser->at++;
	return true;
}

static bool parse_number(struct parser *parser, struct json *node)
{
	bool negative = accept_word(parser, "-");
	unsigned long long value = 0;
	bool fits = true;

	if (!digit(parser) || (*parser->at == '0' && parser->at + 1 < parser->end && parser->at[1] >= '0' &&
			       parser->at[1] <= '9'))
		return false;
	for (; digit(parser); parser->at++) {
		unsigned next = (unsigned)(*parser->at - '0');

		fits = fits && value <= ((unsigned long long)LLONG_MAX - next) / 10;
		value = fits ? value * 10 + next : 0;
	}
	if (accept_word(parser, ".")) {
		fits = false;
		if (!skip_digits(parser))
			return false;
	}
	if (accept_word(parser, "e") || accept_word(parser, "E")) {
		fits = false;
		if (!accept_word(parser, "-"))
			accept_word(parser, "+");
		if (!skip_digits(parser))
			return false;
	}
	node->type = JSON_NUMBER;
	node->integral = fits;
	node->number = negative ? -(long long)value : (long long)value;
	return true;
}

static long parse_hex(struct parser *parser)
{
	long value = 0;

	if (parser->end - parser->at < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = *parser->at++;

		value <<= 4;
		if (c >= '0' && c <= '9')
			value |= c - '0';
		else if (c >= 'a' && c <= 'f')
			value |= c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value |= c - 'A' + 10;
		else
			return -1;
	}
	return value;
}

static char *put_utf8(char *out, long code)
{
	if (code < 0x80) {
		*out++ = (char)code;
	} else if (code < 0x800) {
		*out++ = (char)(0xC0 | code >> 6);
		*out++ = (char)(0x80 | (code & 0x3F));
	} else if (code < 0x10000) {
		*out++ = (char)(0xE0 | code >> 12);
		*out++ = (char)(0x80 | (code >> 6 & 0x3F));
		*out++ = (char)(0x80 | (code & 0x3F));
	} else {
		*out++ = (char)(0xF0 | code >> 18);
		*out++ = (char)(0x80 | (code >> 12 & 0x3F));
		*out++ = (char)(0x80 | (code >> 6 & 0x3F));
		*out++ = (char)(0x80 | (code & 0x3F));
	}
	return out;
}

/* What follows `\u`. NULL where it can't be part of a C string. */
static char *parse_escaped_code(struct parser *parser, char *out)
{
	long code = parse_hex(parser), low;

	if (code <= 0)
		return NULL;
	if (code >= 0xDC80 && code <= 0xDCFF) {
		*out++ = (char)(code - 0xDC00);
		return out;
	}
	if (code >= 0xD800 && code <= 0xDBFF) {
		if (!accept_word(parser, "\\u") || (low = parse_hex(parser)) < 0xDC00 || low > 0xDFFF)
			return NULL;
		code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
	} else if (code >= 0xDC00 && code <= 0xDFFF) {
		return NULL;
	}
	return put_utf8(out, code);
}

static char *parse_escape(struct parser *parser, char *out)
{
	static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
	const char *found;
	char c;

	if (parser->at >= parser->end)
		return NULL;
	c = *parser->at++;
	if (c == 'u')
		return parse_escaped_code(parser, out);
	found = c ? strchr(letters, c) : NULL;
	if (!found)
		return NULL;
	*out++ = meanings[found - letters];
	return out;
}

/* The string whose opening quote was read, decoded in place: what is written never overtakes what is read. */
static const char *parse_string(struct parser *parser)
{
	char *start = parser->at, *out = start;

	while (parser->at < parser->end) {
		char c = *parser->at++;

		if (c == '"') {
			*out = '\0';
			return start;
		}
		if ((unsigned char)c < 0x20)
			return NULL;
		if (c != '\\')
			*out++ = c;
		else if (!(out = parse_escape(parser, out)))
			return NULL;
	}
	return NULL;
}

static bool parse_members(struct parser *parser, struct json *node, char close, int depth)
{
	struct json **tail = &node->first;

	if (accept(parser, close))
		return true;
	do {
		const char *key = NULL;

		if (node->type == JSON_OBJECT &&
		    (!accept(parser, '"') || !(key = parse_string(parser)) || !accept(parser, ':')))
			return false;
		*tail = parse_value(parser, depth - 1);
		if (!*tail)
			return false;
		(*tail)->key = key;
		tail = &(*tail)->next;
	} while (accept(parser, ','));
	return accept(parser, close);
}

static bool parse_into(struct parser *parser, struct json *node, int depth)
{
	if (accept(parser, '{')) {
		node->type = JSON_OBJECT;
		return parse_members(parser, node, '}', depth);
	}
	if (accept(parser, '[')) {
		node->type = JSON_ARRAY;
		return parse_members(parser, node, ']', depth);
	}
	if (accept(parser, '"')) {
		node->type = JSON_STRING;
		node->string = parse_string(parser);
		return node->string != NULL;
	}
	if (accept_word(parser, "null")) {
		node->type = JSON_NULL;
		return true;
	}
	if (accept_word(parser, "true")) {
		node->type = JSON_TRUE;
		return true;
	}
	if (accept_word(parser, "false")) {
		node->type = JSON_FALSE;
		return true;
	}
	return parse_number(parser, node);
}

static struct json *parse_value(struct parser *parser, int depth)
{
	struct json *node;

	if (!depth || parser->used == parser->count)
		return NULL;
	node = &parser->nodes[parser->used++];
	memset(node, 0, sizeof *node);
	return parse_into(parser, node, depth) ? node : NULL;
}

const struct json *json_parse(char *text, size_t length, struct json *nodes, size_t count)
{
	struct parser parser = { .at = text, .end = text + length, .nodes = nodes, .count = count };
	const struct json *value = parse_value(&parser, JSON_DEPTH);

	skip_space(&parser);
	return parser.at == parser.end ? value : NULL;
}

const struct json *json_get(const struct json *value, const char *key)
{
	if (!value || value->type != JSON_OBJECT)
		return NULL;
	for (const struct json *member = value->first; member; member = member->next)
		if (!strcmp(member->key, key))
			return member;
	return NULL;
}

const char *json_string(const struct json *value, const char *key, const char *otherwise)
{
	const struct json *member = json_get(value, key);

	return member && member->type == JSON_STRING ? member->string : otherwise;
}

long long json_integer(const struct json *value, const char *key, long long low, long long high, long long otherwise)
{
	const struct json *member = json_get(value, key);
	bool fits = member && member->type == JSON_NUMBER && member->integral && member->number >= low &&
		    member->number <= high;

	return fits ? member->number : otherwise;
}

bool json_true(const struct json *value, const char *key)
{
	const struct json *member = json_get(value, key);

	return member && member->type == JSON_TRUE;
}

/* Bytes of the valid UTF-8 sequence at `text` of `left` bytes (RFC 3629), 0 where there is none. */
static size_t utf8_length(const unsigned char *text, size_t left)
{
	size_t length = text[0] >= 0xF0 ? 4 : text[0] >= 0xE0 ? 3 : 2;
	unsigned char low = 0x80, high = 0xBF;

	if (text[0] < 0x80)
		return 1;
	if (text[0] < 0xC2 || text[0] > 0xF4 || length > left)
		return 0;
	if (text[0] == 0xE0)
		low = 0xA0;
	else if (text[0] == 0xED)
		high = 0x9F;
	else if (text[0] == 0xF0)
		low = 0x90;
	else if (text[0] == 0xF4)
		high = 0x8F;
	if (text[1] < low || text[1] > high)
		return 0;
	for (size_t i = 2; i < length; i++)
		if (text[i] < 0x80 || text[i] > 0xBF)
			return 0;
	return length;
}

size_t json_quote_bytes(const char *text, size_t *length, bool exact, char *out, size_t size)
{
	const unsigned char *at = (const unsigned char *)text, *end = at + *length;
	size_t used = 0;

	out[used++] = '"';
	while (at < end && used + JSON_QUOTE_LEAST <= size) {
		size_t whole = utf8_length(at, (size_t)(end - at));

		if (*at == '"' || *at == '\\') {
			out[used++] = '\\';
			out[used++] = (char)*at;
		} else if (*at < 0x20 || *at == 0x7F || !whole) {
			used += (size_t)format_text(out + used, size - used, "\\u%04x",
						whole ? *at : exact ? 0xDC00 + *at : 0xFFFD);
		} else {
			memcpy(out + used, at, whole);
			used += whole;
			at += whole - 1;
		}
		at++;
	}
	*length = (size_t)((const char *)at - text);
	out[used++] = '"';
	out[used] = '\0';
	return used;
}

size_t json_quote(const char *text, char *out, size_t size)
{
	size_t length = strlen(text);

	return json_quote_bytes(text, &length, false, out, size);
}
