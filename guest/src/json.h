/* A small strict JSON parser (RFC 8259). It decodes strings in place, allocates nothing, and bounds depth and nodes.
 *
 * Beyond the standard: a lone low surrogate U+DC80..U+DCFF means the byte 0x80..0xFF, as Python writes bytes that are
 * not UTF-8; other lone surrogates and U+0000 are refused, since neither can be part of a C string.
 */
#ifndef FIREKILN_JSON_H
#define FIREKILN_JSON_H

#include <stdbool.h>
#include <stddef.h>

#define JSON_DEPTH 32

enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
	enum json_type type;
	bool integral;	    /* a number that fits `number` */
	long long number;
	const char *key;    /* a member's name, NULL elsewhere */
	const char *string; /* NUL-terminated */
	struct json *first; /* of an array or object */
	struct json *next;  /* sibling */
};

/* Parse `length` bytes at `text`, which is overwritten and must outlive the nodes. `nodes` has room for `count`.
 * NULL where it is no JSON, too deep, or has too many values. */
const struct json *json_parse(char *text, size_t length, struct json *nodes, size_t count);

/* The member of that name; NULL where `value` is NULL or no object, or has none. */
const struct json *json_get(const struct json *value, const char *key);

/* The member's value where it has that type and range, else `otherwise`. */
const char *json_string(const struct json *value, const char *key, const char *otherwise);
long long json_integer(const struct json *value, const char *key, long long low, long long high, long long otherwise);
bool json_true(const struct json *value, const char *key);

/* The room that an escape, the closing quote and the NUL take: what `json_quote` needs at least. */
#define JSON_QUOTE_LEAST 8

/* Write `text` as a JSON string with quotes into `out` of `size` bytes, cut where it is too long. Bytes that are not
 * UTF-8 become U+FFFD. Returns its length. */
size_t json_quote(const char *text, char *out, size_t size);

/* The same for `length` bytes, which may hold NULs; `length` receives how many of them found room. `exact`: bytes that
 * are not UTF-8 become lone surrogates, as the parser takes them. */
size_t json_quote_bytes(const char *text, size_t *length, bool exact, char *out, size_t size);

#endif
